"""Follows one control channel of FTP: commands, the replies to each, logins, and what is moved over which data channel."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tasks.network.analyze._ftp_wire import (
    ANONYMOUS,
    TRANSFERS,
    Endpoint,
    parse_eprt,
    parse_epsv,
    parse_six,
    split_command,
)
from tasks.network.analyze._lines import Lines, Replies, Reply, clean, may_repeat

if TYPE_CHECKING:
    from tasks.network.analyze._engine import StreamInfo
    from tasks.network.analyze._ftp_book import FtpBook

CONTROL_PORT: Final = 21
IMPLICIT_PORT: Final = 990
_MOST_PENDING: Final = 64
"""Commands that wait for their reply: FTP has one at a time, some clients two."""
_MOST_SPOILED: Final = 20
"""Lines of a server that are no replies, after which it is not FTP."""
_OURS: Final = frozenset({
    "USER", "PASS", "AUTH", "FEAT", "SYST", "PASV", "EPSV", "PORT", "EPRT", "OPTS", "PBSZ", "TYPE", "PWD", "XPWD", "CWD", "HOST",
    "CLNT", "LIST", "ACCT",
})  # fmt: skip
"""Commands that no protocol has whose server begins with 220, but FTP."""
_ANSWERS: Final = {227: "PASV", 229: "EPSV", 331: "USER", 221: "QUIT", 234: "AUTH"}
"""Replies that no other command has."""
_MAIL: Final = (b"HELO", b"EHLO", b"LHLO", b"MAIL", b"RCPT", b"DATA")


@dataclass(slots=True)
class Setup:
    """A data channel that was agreed upon."""

    mode: str
    endpoint: Endpoint | None
    """Where the one who waits for the connection listens; None where the capture lacks it."""
    time_ns: int
    frame: int


@dataclass(slots=True)
class Command:
    """A command that waits for its reply."""

    verb: str
    argument: bytes
    time_ns: int
    frame: int
    setup: Setup | None = None
    transfer: Transfer | None = None
    answered: bool = False
    cut: bool = False
    """Whether the capture lacks the end of it."""


@dataclass(slots=True)
class Transfer:
    """A transfer. What its data channel carried is added when all control channels are known."""

    verb: str
    path: str
    user: str
    client: tuple[str, int]
    server: tuple[str, int]
    setup: Setup
    frame: int
    time_ns: int
    offset: int = 0
    code: int = 0
    text: str = ""
    started: bool = False
    bytes: int | None = None
    data_ns: int = 0
    data_frame: int = 0


class FtpStream:
    """A StreamParser of one conversation.

    Args:
        info: The conversation.
        book: Who counts, as soon as it is known that this is FTP.
    """

    __slots__ = (
        "_client", "_held", "_offset", "_pending", "_replies", "_server", "_setup", "book", "commands", "end_ns", "ended",
        "first_frame", "gaps", "greeting", "implicit", "info", "is_ftp", "logged_in", "over", "refused", "sealed", "spoke",
        "tls_offered", "transfers", "user",
    )  # fmt: skip

    def __init__(self, info: StreamInfo, book: FtpBook) -> None:
        self.info, self.book = info, book
        self._client, self._server, self._replies = Lines(), Lines(), Replies()
        self._pending: deque[Command] = deque()
        self._held: list[tuple[Reply, bool]] = []
        self._setup: Setup | None = None
        self._offset = 0
        self.is_ftp: bool | None = None
        self.over = False
        self.spoke = self.gaps = self.sealed = self.implicit = self.tls_offered = False
        self.greeting: Reply | None = None
        self.user = ""
        self.logged_in: str | None = None
        self.refused = self.commands = self.transfers = 0
        self.first_frame, self.end_ns, self.ended = 0, info.start_ns, ""

    @property
    def anonymous(self) -> bool:
        """Whether who is logged in has no name of his own."""
        return self.logged_in is not None and self.logged_in.lower() in ANONYMOUS

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """The next bytes of one side."""
        self.end_ns = time_ns
        if not self.first_frame:
            self.first_frame = frame
            if IMPLICIT_PORT in (self.info.server_port, self.info.client_port) and data[:2] == b"\x16\x03":
                self.is_ftp = self.sealed = self.implicit = self.over = True
        if not self.over:
            lines = self._client if from_client else self._server
            lines.push(data)
            self._read(lines, from_client, time_ns, frame)

    def _read(self, lines: Lines, from_client: bool, time_ns: int, frame: int) -> None:
        while not self.over and (line := lines.line()) is not None:
            doubtful, lines.doubtful = lines.doubtful, False
            if from_client:
                self._command(line, time_ns, frame)
            elif reply := self._replies.line(line, time_ns, frame, doubtful=doubtful):
                self._reply(reply, first=not self.spoke)
            else:
                self._doubt()

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Bytes that are not in the capture."""
        if self.over:
            return
        self.gaps = True
        if from_client:
            # The command is known by its first word; a password behind it is not kept anyway.
            if partial := self._client.lost():
                self._command(partial, time_ns, frame, cut=True)
            return
        reply = self._replies.lost(self._server.lost(), time_ns, frame)
        if reply is not None:
            self._reply(reply, first=not self.spoke)
        else:
            self._give_up()  # whose replies are missing cannot be told

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over."""
        self.ended = how
        if self.is_ftp is None and CONTROL_PORT in (self.info.server_port, self.info.client_port):
            self._decided()
        self._give_up()
        self.book.conversation(self)

    def _give_up(self) -> None:
        """Wait for no reply any more."""
        while self._pending:
            self._lost(self._pending.popleft())

    def _lost(self, command: Command) -> None:
        if command.transfer is not None:
            self.book.transferred(self, command.transfer)

    # --- is it FTP at all? --------------------------------------------------------------------------------------------

    def _doubt(self) -> None:
        """Stop where the server says what FTP does not: a protocol of another kind that has USER as well (POP3, IRC)."""
        if self._replies.spoiled > (_MOST_SPOILED if self.is_ftp or self._held else 0):
            self._stop()

    def _stop(self) -> None:
        self.over = True
        self._pending.clear()
        if self.is_ftp is None:
            self.is_ftp = False

    def _decided(self) -> None:
        if self.is_ftp is None:
            self.is_ftp = True
            for command in self._pending:
                self._said(command)
            held, self._held = self._held, []
            for reply, first in held:
                self._reply(reply, first=first)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _command(self, line: bytes, time_ns: int, frame: int, *, cut: bool = False) -> None:
        verb, argument = split_command(line)
        if self.is_ftp is None:
            if line[:4].upper() in _MAIL:
                self._stop()
                return
            if verb in _OURS and (self._held or CONTROL_PORT in (self.info.server_port, self.info.client_port)):
                self._decided()
        self.spoke = True
        command = Command(verb, b"" if verb in {"PASS", "ACCT", "ADAT"} else argument[:4096], time_ns, frame, cut=cut)
        if self.is_ftp:
            self._said(command)
        if len(self._pending) >= _MOST_PENDING:
            self._lost(self._pending.popleft())
        self._pending.append(command)

    def _said(self, command: Command) -> None:
        verb, argument = command.verb, command.argument
        self.commands += 1
        self.book.command(self, command)
        if verb == "USER":
            self.user = clean(argument, 64)
        elif verb == "PASS":
            if self.user.lower() not in ANONYMOUS:
                self.book.password(self, command)
        elif verb in {"PORT", "EPRT"}:
            endpoint = parse_six(argument) if verb == "PORT" else parse_eprt(argument)
            # Of what is cut the port may be half a one.
            command.setup = Setup(verb, None if command.cut else endpoint, command.time_ns, command.frame)
        elif verb in TRANSFERS:
            setup = self._setup or Setup(
                "default", (self.info.client, self.info.client_port), command.time_ns, command.frame
            )
            command.transfer = Transfer(
                verb, clean(argument) + "…" * command.cut, self.logged_in or self.user, (self.info.client, self.info.client_port),
                (self.info.server, self.info.server_port), setup, command.frame, command.time_ns, self._offset,
            )  # fmt: skip
            self._offset = 0
            self.transfers += 1

    # --- replies ------------------------------------------------------------------------------------------------------

    def _reply(self, reply: Reply, *, first: bool) -> None:
        if self.is_ftp is None:
            said = b" ".join(reply.lines[:4]).upper()
            if not self._held and (b"SMTP" in said or b"LMTP" in said):
                self._stop()
                return
            self._held.append((reply, first))
            if b"FTP" in said or (self._pending and self._pending[0].verb in _OURS) or len(self._held) > 8:
                self._decided()
            return
        self.book.reply(self, reply)
        if self.greeting is None and first and reply.code in {120, 220, 421, 426, 500, 530, 550}:
            if reply.code != 120:
                self.greeting = reply
                self.book.greeted(self, reply)
            return
        verb = _ANSWERS.get(reply.code)
        if verb is not None and self._pending and self._pending[0].verb != verb:
            # Replies were lost: what came before the command that this one can only belong to has none any more.
            for _ in range(next((at for at, command in enumerate(self._pending) if command.verb == verb), 0)):
                self._lost(self._pending.popleft())
        command = self._pending[0] if self._pending else None
        if command is None:
            return
        if not command.answered:
            command.answered = True
            if not reply.cut:
                self.book.times.add(reply.time_ns - command.time_ns)
        if reply.code < 200:
            if command.transfer:
                command.transfer.started = True
            return
        self._pending.popleft()
        self._answered(command, reply)

    def _answered(self, command: Command, reply: Reply) -> None:
        verb, good = command.verb, reply.code < 400
        if not good:
            self.book.failed(self, command, reply)
        if verb in {"USER", "PASS", "ACCT"}:
            self._login(command, reply)
        elif verb == "AUTH":
            self.book.tls_asked(self, command, reply)
            if reply.code == 234:
                self.tls_offered = self.sealed = self.over = True
        elif verb == "FEAT":
            self.tls_offered |= any(line.strip().upper().startswith(b"AUTH") for line in reply.lines)
        elif verb in {"PORT", "EPRT"}:
            if command.setup:
                self.book.active(self, command.setup, good)
                self._setup = command.setup if good else self._setup
        elif verb in {"PASV", "EPSV", "SPSV"} and good:
            self._passive(command, reply)
        elif verb == "REST" and reply.code == 350 and command.argument.isdigit():
            self._offset = int(command.argument[:18])
        elif command.transfer is not None:
            transfer = command.transfer
            transfer.code = reply.code
            transfer.text = "" if good or may_repeat(reply, sure=not self.gaps) else reply.text
            self._setup = None if self._setup is transfer.setup else self._setup
            self.book.transferred(self, transfer)
        elif good:
            self.book.done(self, command)
        if verb == "REIN" and good:
            self.logged_in, self.user, self._setup = None, "", None

    def _login(self, command: Command, reply: Reply) -> None:
        if reply.code in {230, 232}:
            self.logged_in = self.user
            self.book.logged_in(self, command)
        elif reply.code >= 400:
            self.refused += 1
            self.book.refused(self, command)

    def _passive(self, command: Command, reply: Reply) -> None:
        text = b" ".join(reply.lines)
        if reply.code == 227:
            # Of what is cut the port may be half a one, unless something comes after it.
            endpoint = None if reply.cut and text[-1:].isdigit() else parse_six(text)
            self._setup = Setup("PASV", endpoint, reply.time_ns, reply.frame)
            self.book.passive(self, self._setup)
        elif reply.code == 229:
            port = parse_epsv(text)
            self._setup = Setup("EPSV", (self.info.server, port) if port else None, reply.time_ns, reply.frame)
