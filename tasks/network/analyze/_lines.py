"""Dialogues in lines, as FTP and SMTP hold them: lines of one direction, and the server's replies with their three digits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tasks.network.capture._mask import mask_text, printable

LONGEST_LINE: Final = 8_192
"""Bytes kept of a line: RFC 5321 allows 512 (1000 in a mail), FTP's paths 4096. Of a longer one the rest is passed over."""
MOST_REPLY_LINES: Final = 64
"""Lines kept of a reply."""
LONGEST_TEXT: Final = 200
"""Characters kept of what somebody said."""


class Lines:
    r"""Bytes of one direction, given out as lines, or passed over where they are none (a mail's body).

    >>> lines = Lines()
    >>> lines.push(b"NOOP\r\nQU")
    >>> lines.line(), lines.line()
    (b'NOOP', None)
    """

    __slots__ = ("_at", "_held", "_overlong", "_seen", "doubtful")

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0
        self._seen = 0  # up to here there is no end of a line
        self._overlong = False
        self.doubtful = False
        """Whether bytes before the next line are missing: it may be the rest of one."""

    def push(self, data: bytes) -> None:
        """Add bytes."""
        if self._at:
            del self._held[: self._at]
            self._seen -= self._at
            self._at = 0
        self._held += data

    def line(self) -> bytes | None:
        """The next whole line without its end; None when there is none yet."""
        end = self._held.find(b"\n", max(self._at, self._seen))
        if end < 0:
            self._seen = len(self._held)
            if self._seen - self._at > LONGEST_LINE:
                del self._held[self._at + LONGEST_LINE :]
                self._seen = len(self._held)
                self._overlong = True
            return None
        line = bytes(self._held[self._at : min(end, self._at + LONGEST_LINE)])
        self._at = self._seen = end + 1
        return line[:-1] if line.endswith(b"\r") else line

    def rest(self) -> bytes:
        """Everything that was not given out yet; it is gone from here."""
        data = bytes(self._held[self._at :])
        self._held.clear()
        self._at = self._seen = 0
        return data

    def unread(self, data: bytes) -> None:
        """Give back the end of what `rest` gave."""
        self._held[:0] = data

    def lost(self) -> bytes:
        """Bytes are missing here: the beginning of the line that they end; what comes next is doubtful."""
        self.doubtful = True
        return self.rest()[:LONGEST_LINE]


@dataclass(slots=True)
class Reply:
    """A server's reply. Frame and time are those of its first line.

    Attributes:
        code: Its three digits.
        frame: Frame number.
        time_ns: When.
        lines: Its text, without the digits.
        cut: Whether the capture lacks the end of it.
    """

    code: int
    frame: int
    time_ns: int
    lines: list[bytes] = field(default_factory=list)
    cut: bool = False

    @property
    def text(self) -> str:
        """Its text in one line."""
        return clean(b" ".join(line.strip() for line in self.lines))


class Replies:
    """Puts a server's lines together to replies (RFC 959 section 4.2, RFC 5321 section 4.2.1)."""

    __slots__ = ("_cut_code", "_open", "spoiled")

    def __init__(self) -> None:
        self._open: Reply | None = None
        self._cut_code = 0
        self.spoiled = 0
        """Lines that belong to no reply."""

    def line(self, line: bytes, time_ns: int, frame: int, *, doubtful: bool = False) -> Reply | None:
        """Take a line; the reply that it completes."""
        code = reply_code(line)
        last = line[3:4] != b"-"
        reply = self._open
        if reply is None and self._cut_code:
            # The rest of a reply that was cut and counted: its lines go on with its code, to one with a space.
            if code == self._cut_code:
                if last:
                    self._cut_code = 0
                return None
            if code is None:
                return None
            self._cut_code = 0
        if reply is None:
            if code is None:
                self.spoiled += not doubtful
                return None
            reply = Reply(code, frame, time_ns, [line[4:]])
            if last:
                return reply
            self._open = reply
            return None
        ours = code == reply.code
        if len(reply.lines) < MOST_REPLY_LINES:
            reply.lines.append(line[4:] if ours else line)
        if ours and last:
            self._open = None
            return reply
        return None

    def lost(self, partial: bytes, time_ns: int, frame: int) -> Reply | None:
        """Bytes are missing after a partial line; the reply that they cut, for its code is known."""
        reply, self._open = self._open, None
        if reply is None and (code := reply_code(partial)) is not None:
            reply = Reply(code, frame, time_ns, [partial[4:]])
            self._cut_code = code if partial[3:4] == b"-" else 0
        elif reply is not None:
            self._cut_code = reply.code
        if reply is not None:
            reply.cut = True
        return reply


def may_repeat(reply: Reply, *, sure: bool) -> bool:
    """Whether a reply's text may repeat what the client said, which may be a secret: that of a syntax error does.

    Args:
        reply: The reply.
        sure: Whether it is known which command it answers: nothing of the conversation is missing.
    """
    return reply.code == 500 or (500 < reply.code <= 504 and not sure)


def reply_code(line: bytes) -> int | None:
    """The code of a line that has one: three digits, then a space, a hyphen or nothing.

    >>> reply_code(b"250-mail.test"), reply_code(b"2500"), reply_code(b"999 no")
    (250, None, None)
    """
    digits = line[:3]
    if len(digits) < 3 or not digits.isdigit() or not b"1" <= digits[:1] <= b"6" or line[3:4] not in (b" ", b"-", b""):
        return None
    return int(digits)


def clean(data: bytes, most: int = LONGEST_TEXT) -> str:
    r"""Text for people: one line, nothing that moves a cursor, not too long.

    >>> clean(b" \xc3\xa9t\xc3\xa9\t\x1b[2J ")
    'été \\x1b[2J'
    """
    text = printable(data[: 4 * most]).replace("\n", " ").replace("\t", " ").strip()
    return text if len(text) <= most else text[: most - 1] + "…"


def shown(text: str) -> str:
    """What somebody said, without what looks like a secret."""
    return mask_text(text)


def at(address: str, port: int) -> str:
    """Address and port for people.

    >>> at("2001:db8::1", 21)
    '[2001:db8::1]:21'
    """
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
