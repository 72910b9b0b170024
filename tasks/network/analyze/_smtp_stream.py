"""Follows one conversation of SMTP, submission or LMTP: commands, the reply to each, and mails of which the text is passed over."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tasks.network.analyze._lines import Lines, Replies, Reply, clean
from tasks.network.analyze._smtp_rows import Command, Mail
from tasks.network.analyze._smtp_wire import (
    HELLOS,
    Body,
    enhanced,
    mechanism,
    parse_chunk,
    parse_path,
    parse_size,
    sasl_user,
    split_command,
)

if TYPE_CHECKING:
    from tasks.network.analyze._engine import StreamInfo
    from tasks.network.analyze._smtp_book import SmtpBook

IMPLICIT_PORT: Final = 465
PORTS: Final = frozenset({24, 25, IMPLICIT_PORT, 587, 2525})
_MOST_PENDING: Final = 2_000
"""Commands that wait for their reply: with pipelining a RCPT for every recipient."""
_MOST_RECIPIENTS: Final = 20
"""Recipients kept of a mail; all are counted."""
_MOST_SPOILED: Final = 20
_OURS: Final = HELLOS | {"MAIL", "RCPT", "DATA", "STARTTLS", "AUTH", "VRFY", "EXPN", "XCLIENT"}
_ANSWERS: Final = {354: "DATA", 334: "AUTH", 235: "AUTH", 535: "AUTH", 221: "QUIT", 252: "VRFY"}
"""Replies that no other command has."""
_THEIRS: Final = (b"USER", b"PASS", b"FEAT", b"SYST", b"PASV", b"EPSV", b"OPTS")


class SmtpStream:
    """A StreamParser of one conversation.

    Args:
        info: The conversation.
        book: Who counts, as soon as it is known that this is SMTP.
    """

    __slots__ = (
        "_body", "_chunk", "_client", "_held", "_pending", "_replies", "_server", "auth_offered", "auth_user", "authenticated", "book",
        "commands", "end_ns", "ended", "extensions", "first_frame", "gaps", "greeting", "hello", "implicit", "info", "is_smtp", "lmtp",
        "mail", "mails", "over", "pipelined", "refused", "sealed", "server_names", "spoke", "tls_offered", "tls_refused",
    )  # fmt: skip

    def __init__(self, info: StreamInfo, book: SmtpBook) -> None:
        self.info, self.book = info, book
        self._client, self._server, self._replies = Lines(), Lines(), Replies()
        self._pending: deque[Command] = deque()
        self._held: list[tuple[Reply, bool]] = []
        self._body: Body | None = None
        self._chunk = 0  # bytes of a BDAT that are still to come
        self.is_smtp: bool | None = None
        self.over = self.spoke = self.gaps = self.sealed = self.implicit = self.lmtp = False
        self.greeting: Reply | None = None
        self.hello, self.auth_user = "", ""
        self.server_names: list[str] = []
        self.extensions: set[str] = set()
        self.auth_offered: tuple[str, ...] = ()
        self.tls_offered = self.tls_refused = self.authenticated = False
        self.mail: Mail | None = None
        self.commands = self.mails = self.refused = self.pipelined = 0
        self.first_frame, self.end_ns, self.ended = 0, info.start_ns, ""

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """The next bytes of one side."""
        self.end_ns = time_ns
        if not self.first_frame:
            self.first_frame = frame
            if IMPLICIT_PORT in (self.info.server_port, self.info.client_port) and data[:2] == b"\x16\x03":
                self.is_smtp = self.sealed = self.implicit = self.over = True
        if self.over:
            return
        if from_client:
            self._client.push(data)
            self._read_client(time_ns, frame)
        else:
            self._server.push(data)
            self._read_server(time_ns, frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Bytes that are not in the capture."""
        if self.over:
            return
        if from_client and self._chunk >= missing:
            self._chunk -= missing  # a chunk's text is not looked at anyway
            return
        if from_client and self._body is not None:
            self._body.lost(missing)  # the server's reply tells that it is over
            return
        self.gaps = True
        for command in self._pending:
            command.broken = True
        if from_client:
            self._chunk = 0
            if partial := self._client.lost():
                self._line(partial, time_ns, frame, cut=True)
            return
        reply = self._replies.lost(self._server.lost(), time_ns, frame)
        if reply is not None:
            self._reply(reply, first=not self.spoke)
        else:
            self._pending.clear()  # whose replies are missing cannot be told

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over."""
        self.ended = how
        if self.is_smtp is None and PORTS & {self.info.server_port, self.info.client_port}:
            self._decided()
        if self._body is not None and self.mail is not None:
            self.mail.bytes = self._body.bytes
        self._finish_mail()
        self.book.conversation(self)

    # --- is it SMTP at all? -------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self.over = True
        self._pending.clear()
        if self.is_smtp is None:
            self.is_smtp = False

    def _decided(self) -> None:
        if self.is_smtp is None:
            self.is_smtp = True
            for command in self._pending:
                self._said(command)
            held, self._held = self._held, []
            for reply, first in held:
                self._reply(reply, first=first)

    # --- the client ---------------------------------------------------------------------------------------------------

    def _read_client(self, time_ns: int, frame: int) -> None:
        lines = self._client
        while not self.over:
            if self._chunk:
                rest = lines.rest()
                taken = min(self._chunk, len(rest))
                self._chunk -= taken
                if self._chunk:
                    return
                lines.unread(rest[taken:])
            elif self._body is not None:
                rest = lines.rest()
                if not rest:
                    return
                end = self._body.feed(rest)
                if end is None:
                    return
                lines.unread(rest[end:])
                self._end_of_body(time_ns)
            else:
                line = lines.line()
                if line is None:
                    return
                lines.doubtful = False
                self._line(line, time_ns, frame)

    def _line(self, line: bytes, time_ns: int, frame: int, *, cut: bool = False) -> None:
        head = self._pending[0] if self._pending else None
        if head is not None and head.verb == "AUTH" and self.is_smtp:
            # All that follows AUTH until the server has decided belongs to it, and is secret.
            if not self.auth_user and not cut and not head.broken:
                self.auth_user = sasl_user(head.mechanism, line.strip(), head.prompt)
            head.step += 1
            head.time_ns = time_ns
            return
        verb, argument = split_command(line)
        if self.is_smtp is None:
            if line[:4].upper() in _THEIRS:
                self._stop()
                return
            if verb in _OURS and (self._held or PORTS & {self.info.server_port, self.info.client_port}):
                self._decided()
        if not verb and not self.spoke and self.greeting is None and not self._held:
            return  # the capture began within a mail, or within AUTH
        self.spoke = True
        command = Command(verb, b"" if verb == "AUTH" else argument[:4096], time_ns, frame)
        if verb == "AUTH":
            command.mechanism = mechanism(argument)
        if self.is_smtp:
            self._said(command)
            if verb == "AUTH":
                _, _, initial = argument.partition(b" ")
                self.auth_user = ""
                if initial.strip() not in {b"", b"="}:
                    self.auth_user = "" if cut else sasl_user(command.mechanism, initial.strip(), None)
                    command.step = 1
        if len(self._pending) >= _MOST_PENDING:
            self._pending.popleft()
        self._pending.append(command)

    def _said(self, command: Command) -> None:
        verb, argument = command.verb, command.argument
        self.commands += 1
        waiting = self._pending[0].verb if self._pending and self._pending[0] is not command else ""
        if waiting == "STARTTLS" and verb:
            self.book.injected(self, command)
        if waiting and verb:
            self.pipelined += 1
        self.book.command(self, command)
        if verb in HELLOS:
            self.hello = clean(argument, 100)
            self.lmtp |= verb == "LHLO"
        elif verb == "MAIL":
            self._finish_mail()
            self.mail = Mail(
                (self.info.client, self.info.client_port), (self.info.server, self.info.server_port), parse_path(argument) or "",
                command.frame, command.time_ns, parse_size(argument), authenticated=self.authenticated,
            )  # fmt: skip
        elif verb == "RCPT":
            command.path = parse_path(argument) or ""
        elif verb == "DATA":
            self._body = Body()
            if self.lmtp and self.mail is not None:
                command.replies = max(1, self.mail.accepted)
        elif verb == "BDAT":
            chunk = parse_chunk(argument)
            self._chunk, command.last = chunk or (0, True)
            if self.mail is not None and chunk is not None:
                self.mail.bytes += chunk[0]
                self.mail.chunks += 1
            if command.last and self.lmtp and self.mail is not None:
                command.replies = max(1, self.mail.accepted)

    def _end_of_body(self, time_ns: int) -> None:
        body, self._body = self._body, None
        if body is None:
            return
        head = next((command for command in self._pending if command.verb == "DATA"), None)
        if head is not None:
            head.time_ns, head.answered = time_ns, False
        if self.mail is not None:
            self.mail.bytes = body.bytes
        if body.odd_end:
            self.book.odd_end(self, head.frame if head else self.first_frame)

    # --- the server ---------------------------------------------------------------------------------------------------

    def _read_server(self, time_ns: int, frame: int) -> None:
        while not self.over and (line := self._server.line()) is not None:
            doubtful, self._server.doubtful = self._server.doubtful, False
            reply = self._replies.line(line, time_ns, frame, doubtful=doubtful)
            if reply is not None:
                self._reply(reply, first=not self.spoke)
            elif self._replies.spoiled > (_MOST_SPOILED if self.is_smtp or self._held else 0):
                self._stop()

    def _reply(self, reply: Reply, *, first: bool) -> None:
        if self.is_smtp is None:
            said = b" ".join(reply.lines[:4]).upper()
            mail = b"SMTP" in said or b"LMTP" in said
            if not self._held and b"FTP" in said and not mail:
                self._stop()
                return
            self._held.append((reply, first))
            if mail or (self._pending and self._pending[0].verb in _OURS) or len(self._held) > 8:
                self._decided()
            return
        self.book.reply(self, reply)
        if self.greeting is None and first and (self.info.handshake or reply.code == 220) and reply.code != 250:
            self.greeting = reply
            self._named(reply)
            self.book.greeted(self, reply)
            return
        command = self._asked(reply)
        if command is None:
            self._end_of_body(reply.time_ns)  # its end is not in the capture, nor is the reply to DATA
            return
        if not command.answered:
            command.answered = True
            if not reply.cut:
                self.book.times.add(reply.time_ns - command.time_ns)
        if 300 <= reply.code < 400 and command.verb in {"DATA", "AUTH"}:
            command.prompt = reply.lines[0] if reply.lines and not reply.cut else b""
            return
        if command.verb == "DATA" and self._body is not None:
            if reply.code >= 400 and not self._body.bytes:
                self._body, command.replies = None, 1  # refused before it began
            else:
                self._end_of_body(reply.time_ns)
                command.answered = True
        command.replies -= 1
        if command.replies <= 0:
            self._pending.popleft()
        self._answered(command, reply)

    def _asked(self, reply: Reply) -> Command | None:
        """The command that a reply answers: the first that waits, or, where some were lost, the one it can only belong to."""
        verb = _ANSWERS.get(reply.code)
        if verb is not None and self._pending and self._pending[0].verb != verb:
            place = next((at for at, command in enumerate(self._pending) if command.verb == verb), 0)
            for _ in range(place):
                self._pending.popleft()
        if reply.code == 354 and self._body is None and not any(command.verb == "DATA" for command in self._pending):
            # The command is not in the capture, but what the client says now is a mail.
            self._body = Body()
            self._pending.clear()
            self._pending.append(Command("DATA", b"", reply.time_ns, reply.frame, answered=True))
        return self._pending[0] if self._pending else None

    def _named(self, reply: Reply) -> None:
        name = clean(reply.lines[0].partition(b" ")[0], 100).lower() if reply.lines else ""
        if "." in name and name not in self.server_names:
            self.server_names.append(name)

    def _answered(self, command: Command, reply: Reply) -> None:
        verb, good = command.verb, reply.code < 400
        code = enhanced(reply.lines[0]) if reply.lines else ""
        if not good:
            self.book.failed(self, command, reply, code)
        if verb in HELLOS and good:
            self._hello(command, reply)
        elif verb == "STARTTLS":
            if reply.code == 220:
                self.sealed = self.over = self.tls_offered = True
            self.tls_refused |= not good
            self.book.tls_asked(self, command, reply)
        elif verb == "AUTH":
            self.authenticated |= reply.code == 235
            self.refused += not good
            self.book.login(self, command, good=reply.code == 235, refused=not good)
        elif verb == "MAIL" and not good:
            self._close(reply)
        elif verb == "RCPT":
            self._recipient(command, reply)
        elif verb in {"DATA", "BDAT"}:
            if not good or command.last:
                self._close(reply)
        elif verb == "RSET" and good:
            self._finish_mail()
        elif good:
            self.book.done(self, command)

    def _hello(self, command: Command, reply: Reply) -> None:
        self._named(reply)
        self._finish_mail()
        if command.verb == "HELO":
            return
        words = [line.strip().upper().split() for line in reply.lines[1:]]
        self.extensions |= {word[0].decode("latin-1")[:20] for word in words if word}
        self.tls_offered |= "STARTTLS" in self.extensions
        for word in words:
            # AUTH=LOGIN is how old servers of Microsoft wrote it.
            if word and (word[0] == b"AUTH" or word[0].startswith(b"AUTH=")):
                names = [*word[0].split(b"=")[1:], *word[1:]]
                self.auth_offered = tuple(dict.fromkeys((*self.auth_offered, *map(mechanism, names))))[:20]
        self.book.offered(self, command)

    def _recipient(self, command: Command, reply: Reply) -> None:
        mail = self.mail
        if mail is not None:
            mail.accepted += reply.code < 400
            mail.refused += reply.code >= 400
            if len(mail.recipients) < _MOST_RECIPIENTS and command.path:
                mail.recipients.append(command.path)
            for waiting in self._pending:
                if waiting.verb == "DATA" and self.lmtp:
                    waiting.replies = max(1, mail.accepted)
        self.book.recipient(self, command, reply)

    def _close(self, reply: Reply) -> None:
        """The server decided about the mail."""
        if self.mail is None:
            return
        outcome = "accepted" if reply.code < 400 else "deferred" if reply.code < 500 else "rejected"
        # With LMTP one recipient's yes is enough.
        if self.mail.outcome != "accepted":
            self.mail.outcome, self.mail.code = outcome, reply.code
        if not (self.lmtp and self._pending and self._pending[0].verb in {"DATA", "BDAT"}):
            self._finish_mail()

    def _finish_mail(self) -> None:
        mail, self.mail = self.mail, None
        if mail is None:
            return
        if mail.outcome == "unknown" and mail.refused and not mail.accepted:
            mail.outcome = "rejected"
        self.mails += 1
        self.book.mailed(self, mail)
