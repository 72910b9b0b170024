"""Takes pictures out of a `multipart/x-mixed-replace` stream (RFC 2046 section 5.1), however a camera breaks the rules.

Cameras leave `Content-Length` out, say a wrong one, quote the boundary or put its dashes into the header, and stop in the middle of a
picture. A length is believed only where the boundary follows; else the boundary itself is looked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tasks.network.vapix._picture import is_whole

MOST_HEADER_BYTES: Final = 8 << 10
_TOKEN = re.compile(r"""boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,10})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_HEAD = re.compile(rb"\A\r?\n|\r?\n\r?\n")  # a part may have no header at all


@dataclass(frozen=True)
class Frame:
    """One part of the stream.

    Attributes:
        data: The picture.
        whole: Whether it begins and ends as a JPEG does.
        length: `as_said`, `missing` or `wrong`: what became of its Content-Length.
    """

    data: bytes
    whole: bool
    length: str


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that the header names, without the dashes that go before it; None when it names none.

    >>> boundary_of('multipart/x-mixed-replace; boundary="--myboundary"')
    b'myboundary'
    """
    if not content_type.strip().lower().startswith("multipart/"):
        return None
    match = _TOKEN.search(content_type)
    if match is None:
        return None
    try:
        token = (match[1] or match[2]).strip().encode("latin-1")
    except UnicodeEncodeError:
        return None
    return token.removeprefix(b"--") or None


class MultipartReader:
    """Feed it what comes; it gives the pictures that are complete, in any cutting of the bytes the same ones.

    Args:
        boundary: What `boundary_of` found.
        most_bytes: Largest picture; a larger part is passed over.

    Attributes:
        too_large: Parts that were passed over.
        ended: Whether the closing boundary came.
    """

    def __init__(self, boundary: bytes, most_bytes: int) -> None:
        # One pair of dashes before the token, or two where the header brought its own.
        line = rb"(?:--)?--" + re.escape(boundary) + rb"(--)?[ \t]{0,4}\r?\n"
        self._mark = re.compile(rb"(?:\A|\r?\n)" + line)
        self._mark_after_length = re.compile(rb"(?:\r?\n){0,2}" + line)  # some send no line end, or two
        self._longest_mark = len(boundary) + 20
        self._most = most_bytes
        self._buffer = bytearray()
        self._inside = self._over = False
        self._scanned = 0
        self.too_large = 0
        self.ended = False

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes of the body; returns the pictures they completed."""
        if self.ended:
            return []
        self._buffer += data
        found: list[Frame] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> list[Frame]:
        """The stream is over: what there is of the last picture."""
        found: list[Frame] = []
        if not self.ended:
            self._over = True
            found = self.feed(b"\r\n")  # the line end that the last boundary may lack
        head = _HEAD.search(self._buffer) if self._inside else None
        if head is not None:
            length = _said(bytes(self._buffer[: head.end()]))
            data = bytes(self._buffer[head.end() : head.end() + self._most]).removesuffix(b"\r\n")
            if data:
                kind = "missing" if length is None else "as_said" if length == len(data) else "wrong"
                found.append(Frame(data, is_whole(data), kind))
        self._inside, self.ended = False, True
        self._buffer.clear()
        return found

    def _step(self, found: list[Frame]) -> bool:
        if self.ended:
            return False
        return self._part(found) if self._inside else self._seek()

    def _seek(self) -> bool:
        """Pass over everything before the next boundary."""
        mark = self._mark.search(self._buffer)
        if mark is None:
            # A boundary may be cut: its beginning stays, behind a byte that keeps it from being the first of all (`\\A`).
            surplus = len(self._buffer) - self._longest_mark
            if surplus > 0:
                del self._buffer[:surplus]
                if self._buffer[0] not in b"\r\n":
                    self._buffer[:1] = b" "
            return False
        self._enter(mark)
        return True

    def _enter(self, mark: re.Match[bytes]) -> None:
        self.ended = mark[1] is not None
        self._inside = not self.ended
        self._scanned = 0
        del self._buffer[: mark.end()]

    def _part(self, found: list[Frame]) -> bool:
        head = _HEAD.search(self._buffer, 0, MOST_HEADER_BYTES)
        if head is None:
            if len(self._buffer) >= MOST_HEADER_BYTES:
                self._inside = False
                return True
            return False
        start, length = head.end(), _said(bytes(self._buffer[: head.end()]))
        if length is not None and length <= self._most:
            end = start + length
            if len(self._buffer) < end + self._longest_mark and not self._over and not self._after(end):
                return False
            mark = self._after(end)
            if mark is not None:
                self._take(found, start, end, mark, "as_said")
                return True
        mark = self._mark.search(self._buffer, max(start, self._scanned))
        if mark is None:
            self._scanned = max(start, len(self._buffer) - self._longest_mark)
            if len(self._buffer) - start > self._most + self._longest_mark:
                self.too_large += 1
                self._inside = False
                return True
            return False
        if mark.start() - start > self._most:
            self.too_large += 1
            self._enter(mark)
        else:
            self._take(found, start, mark.start(), mark, "missing" if length is None else "wrong")
        return True

    def _after(self, end: int) -> re.Match[bytes] | None:
        """The boundary at that place. A length that takes a line end with it is a wrong one: no JPEG ends so."""
        if end > len(self._buffer) or self._buffer[end - 1] in b"\r\n":
            return None
        return self._mark_after_length.match(self._buffer, end)

    def _take(self, found: list[Frame], start: int, end: int, mark: re.Match[bytes], length: str) -> None:
        data = bytes(self._buffer[start:end])
        self._enter(mark)
        if data:
            found.append(Frame(data, is_whole(data), length))


def _said(head: bytes) -> int | None:
    match = _LENGTH.search(head)
    return int(match[1]) if match else None
