"""Counts what conversations of FTP say, and keeps only what the report needs."""

from __future__ import annotations

import ipaddress
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tasks.network.analyze import _ftp_findings as say
from tasks.network.analyze._ftp_stream import CONTROL_PORT, IMPLICIT_PORT
from tasks.network.analyze._ftp_wire import CHANGES, LISTINGS, UPLOADS
from tasks.network.analyze._guessing import Guesses, spraying
from tasks.network.analyze._lines import at, may_repeat, shown
from tasks.network.analyze._percentiles import Durations
from tasks.network.analyze._tally import Findings, Tally

if TYPE_CHECKING:
    from tasks.network.analyze._ftp_data import Channel
    from tasks.network.analyze._ftp_stream import Command, FtpStream, Setup, Transfer
    from tasks.network.analyze._lines import Reply

MOST_TRANSFERS: Final = 20_000
MOST_SESSIONS: Final = 2_000
_MOST_OF_EACH: Final = 8
_DANGEROUS: Final = ("EXEC", "CPFR", "CPTO")


@dataclass(slots=True)
class Session:
    """A row of the table of conversations."""

    frame: int
    client: str
    server: str
    start_ns: int
    seconds: float
    user: str
    login: str
    commands: int
    transfers: int
    tls: str
    end: str


@dataclass(slots=True)
class ServerRow:
    sessions: int = 0
    encrypted: int = 0
    accepted: int = 0
    refused: int = 0
    anonymous: int = 0
    transfers: int = 0
    tls_offered: bool = False
    banners: set[str] = field(default_factory=set)


@dataclass(slots=True)
class ClientRow:
    sessions: int = 0
    accepted: int = 0
    refused: int = 0
    transfers: int = 0
    servers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class UserRow:
    accepted: int = 0
    refused: int = 0
    plain: int = 0
    clients: set[str] = field(default_factory=set)


@dataclass(slots=True)
class FailureRow:
    count: int = 0
    text: str = ""


def _remember(some: set[str], item: str, most: int = _MOST_OF_EACH) -> None:
    if item and len(some) < most:
        some.add(item)


class FtpBook:
    """Everything that was seen, in bounded memory."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.conversations = self.sealed = self.implicit = self.tls_refused = self.unseen = self.gaps = 0
        self.others = 0
        self.accepted = self.refusals = self.anonymous = self.plain_passwords = 0
        self.unknown_commands = 0
        self.commands: dict[str, list[int]] = {}
        self.replies: Counter[int] = Counter()
        self.failures: Tally[tuple[str, int], FailureRow] = Tally(FailureRow, 2_000)
        self.users: Tally[tuple[str, str], UserRow] = Tally(UserRow, 5_000)
        self.servers: Tally[str, ServerRow] = Tally(ServerRow, 5_000)
        self.clients: Tally[str, ClientRow] = Tally(ClientRow, 5_000)
        self.modes: Counter[str] = Counter()
        self.transfers: list[Transfer] = []
        self.transfers_seen = self.completed = self.failed_transfers = 0
        self.times, self.banner_times = Durations(), Durations()
        self.recent: deque[Session] = deque(maxlen=MOST_SESSIONS)
        self._guesses = Guesses()
        self._plain: Tally[tuple[str, str], list[int]] = Tally(list, 2_000)

    # --- as it goes on ------------------------------------------------------------------------------------------------

    def greeted(self, stream: FtpStream, reply: Reply) -> None:
        """The server's first words."""
        server = at(stream.info.server, stream.info.server_port)
        if stream.info.handshake:
            self.banner_times.add(reply.time_ns - stream.info.start_ns)
        row = self.servers.entry(server)
        if row and reply.code == 220:
            banner = shown(reply.text)
            if banner not in row.banners:
                _remember(row.banners, banner)
                if said := say.old(server, banner):
                    self.findings.add("ftp.old-software", (server, banner), reply.frame, lambda: said)
        elif reply.code != 220:
            text = shown(reply.text)
            self.findings.add(
                "ftp.no-service", (server, reply.code), reply.frame, lambda: say.server_busy(server, reply.code, text)
            )

    def command(self, stream: FtpStream, command: Command) -> None:
        """A command was given."""
        if not command.verb:
            self.unknown_commands += 1
            return
        self.commands.setdefault(command.verb, [0, 0])[0] += 1
        if command.verb == "USER" and command.argument.endswith(b":)"):
            server, client = at(stream.info.server, stream.info.server_port), stream.info.client
            self.findings.add("ftp.backdoor", (client, server), command.frame, lambda: say.backdoor(server, client))

    def reply(self, stream: FtpStream, reply: Reply) -> None:
        """The server answered."""
        self.replies[reply.code] += 1

    def failed(self, stream: FtpStream, command: Command, reply: Reply) -> None:
        """A command was refused."""
        if command.verb in self.commands:
            self.commands[command.verb][1] += 1
        row = self.failures.entry((command.verb or "unknown", reply.code))
        if row is None:
            return
        row.count += 1
        # A reply to what is no command, or to a password, may repeat it.
        told = command.verb not in {"", "PASS", "ACCT", "ADAT"} and not may_repeat(reply, sure=not stream.gaps)
        if told and not row.text:
            row.text = shown(reply.text)

    def done(self, stream: FtpStream, command: Command) -> None:
        """A command that moves nothing went through."""
        server = at(stream.info.server, stream.info.server_port)
        if command.verb in CHANGES and stream.anonymous:
            self.findings.add(
                "ftp.writable-anonymous", server, command.frame, lambda: say.writable(server, command.verb)
            )
        if command.verb == "SITE" and (word := command.argument[:4].upper().decode("latin-1")) in _DANGEROUS:
            self.findings.add(
                "ftp.dangerous-command", (server, word), command.frame, lambda: say.dangerous(server, f"SITE {word}")
            )

    def tls_asked(self, stream: FtpStream, command: Command, reply: Reply) -> None:
        """A client asked for TLS."""
        if reply.code >= 400 and command.argument.upper().startswith((b"TLS", b"SSL")):
            self.tls_refused += 1
            server = at(stream.info.server, stream.info.server_port)
            self.findings.add("ftp.tls-refused", server, command.frame, lambda: say.tls_refused(server, reply.code))

    def active(self, stream: FtpStream, setup: Setup, accepted: bool) -> None:
        """The client said where it listens."""
        if setup.endpoint is None:
            return
        info, (address, port) = stream.info, setup.endpoint
        server, endpoint = at(info.server, info.server_port), at(address, port)
        if _plain(address) != _plain(info.client):
            self.findings.add(
                "ftp.bounce", (info.client, server, address, accepted), setup.frame,
                lambda: say.bounce(server, info.client, endpoint, accepted=accepted),
            )  # fmt: skip
        if port < 1024 and accepted:
            self.findings.add(
                "ftp.low-port",
                (info.client, server, port),
                setup.frame,
                lambda: say.low_port(server, info.client, port),
            )

    def passive(self, stream: FtpStream, setup: Setup) -> None:
        """The server said where it listens."""
        if setup.endpoint is None:
            return
        offered, info = setup.endpoint[0], stream.info
        if offered not in {_plain(info.server), "0.0.0.0"}:  # noqa: S104 - what a server may say
            server = at(info.server, info.server_port)
            self.findings.add(
                "ftp.passive-address", (server, offered), setup.frame, lambda: say.passive_address(server, offered)
            )

    def logged_in(self, stream: FtpStream, command: Command) -> None:
        """A login was accepted."""
        self.accepted += 1
        info, user = stream.info, stream.user
        server = at(info.server, info.server_port)
        row = self.users.entry((user, server))
        if row:
            row.accepted += 1
            _remember(row.clients, info.client)
        if stream.anonymous:
            self.anonymous += 1
            self.findings.add("ftp.anonymous", server, command.frame, lambda: say.anonymous(server))
        attempts = self._guesses.hit(info.client, server, command.time_ns)
        if attempts and not stream.anonymous:
            self.findings.add(
                "ftp.brute-force-succeeded", (info.client, server, user), command.frame,
                lambda: say.broken_in(info.client, server, shown(user), attempts),
            )  # fmt: skip

    def refused(self, stream: FtpStream, command: Command) -> None:
        """A login was refused."""
        self.refusals += 1
        info, user = stream.info, stream.user
        server = at(info.server, info.server_port)
        row = self.users.entry((user, server))
        if row:
            row.refused += 1
            _remember(row.clients, info.client)
        self._guesses.refused(info.client, server, user, info.index, command.time_ns, command.frame)

    def transferred(self, stream: FtpStream, transfer: Transfer) -> None:
        """A transfer came to its end, or the capture did."""
        self.transfers_seen += 1
        server = at(stream.info.server, stream.info.server_port)
        self.modes[transfer.setup.mode] += 1
        if 200 <= transfer.code < 400:
            self.completed += 1
        elif transfer.code:
            self.failed_transfers += 1
            code, text = transfer.code, shown(transfer.text)
            self.findings.add(
                "ftp.failed-transfers", (server, transfer.verb, code), transfer.frame,
                lambda: say.failing(server, transfer.verb, code, text),
            )  # fmt: skip
        if transfer.code < 400 and (transfer.started or transfer.code):
            if transfer.verb in UPLOADS and stream.anonymous:
                self.findings.add(
                    "ftp.writable-anonymous", server, transfer.frame, lambda: say.writable(server, transfer.verb)
                )
            if transfer.verb not in LISTINGS and not stream.anonymous:
                self.findings.add("ftp.plain-transfers", server, transfer.frame, lambda: say.plain_files(server))
        if len(self.transfers) < MOST_TRANSFERS:
            self.transfers.append(transfer)

    def stranger(self, transfer: Transfer, channel: Channel) -> None:
        """Somebody else connected where a data channel was expected."""
        server, endpoint = at(*transfer.server), at(*(transfer.setup.endpoint or ("", 0)))
        self.findings.add(
            "ftp.data-stranger",
            (server, channel.peer),
            channel.frame,
            lambda: say.stranger(server, channel.peer, endpoint),
        )

    # --- at the end ---------------------------------------------------------------------------------------------------

    def conversation(self, stream: FtpStream) -> None:
        """A conversation that is over."""
        info = stream.info
        if not stream.is_ftp:
            self.others += 1
            return
        if not (stream.implicit or stream.greeting or stream.commands):
            self.unseen += 1
            return
        self.conversations += 1
        self.gaps += stream.gaps
        self.sealed += stream.sealed
        self.implicit += stream.implicit
        server, user = at(info.server, info.server_port), stream.user
        login = "accepted" if stream.logged_in is not None else "refused" if stream.refused else "unknown"
        row = self.servers.entry(server)
        if row:
            row.sessions += 1
            row.encrypted += stream.sealed
            row.accepted += stream.logged_in is not None
            row.refused += stream.refused
            row.anonymous += stream.anonymous
            row.transfers += stream.transfers
            row.tls_offered |= stream.tls_offered or stream.sealed
        client = self.clients.entry(info.client)
        if client:
            client.sessions += 1
            client.accepted += stream.logged_in is not None
            client.refused += stream.refused
            client.transfers += stream.transfers
            _remember(client.servers, server)
        if info.server_port not in {CONTROL_PORT, IMPLICIT_PORT}:
            self.findings.add(
                "ftp.other-port", server, stream.first_frame, lambda: say.other_port(server, info.server_port)
            )
        self.recent.append(
            Session(
                stream.first_frame, at(info.client, info.client_port), server, info.start_ns,
                max(0, stream.end_ns - info.start_ns) / 1e9, user, login, stream.commands, stream.transfers,
                "implicit" if stream.implicit else "used" if stream.sealed else "offered" if stream.tls_offered else "no",
                stream.ended,
            )
        )  # fmt: skip

    def password(self, stream: FtpStream, command: Command) -> None:
        """A password went by in clear text; anonymous ones are none."""
        server, user = at(stream.info.server, stream.info.server_port), stream.user
        self.plain_passwords += 1
        row = self.users.entry((user, server))
        if row:
            row.plain += 1
        frames = self._plain.entry((server, user))
        if frames is not None:
            frames.append(command.frame)

    def finish(self) -> None:
        """Say what only the whole capture tells: who guessed, and where a password in clear text need not have been."""
        for (server, user), frames in self._plain:
            known = self.servers.entry(server)
            said = say.plain_login(server, shown(user), tls=known is not None and known.tls_offered)
            for frame in frames:
                self.findings.add("ftp.plain-login", (server, user), frame, lambda said=said: said)  # type: ignore[misc]
        for client, server, guessing in self._guesses:
            if guessing.alarmed:
                counts = guessing.attempts, len(guessing.sessions), len(guessing.users)
                said = say.brute_force(client, server, *counts, guessing.seconds)
                code, subject = "ftp.brute-force", (client, server)
            else:
                said, code, subject = say.refused(server), "ftp.refused-login", ("", server)
            for frame in guessing.frames:
                self.findings.add(code, subject, frame, lambda said=said: said)  # type: ignore[misc]
        for client, servers in self._guesses.sprays():
            frame = next(guessing.frames[0] for name, _, guessing in self._guesses if name == client)
            self.findings.add("ftp.spraying", client, frame, lambda: spraying(client, servers))  # noqa: B023


def _plain(address: str) -> str:
    """An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`), as itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
