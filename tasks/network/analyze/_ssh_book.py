"""Counts what conversations of SSH say, and keeps only what the report needs."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tasks.network.analyze import _ssh_findings as say
from tasks.network.analyze._ssh_stream import SshStream
from tasks.network.analyze._ssh_weakness import old_software, weak_chosen, weak_in
from tasks.network.analyze._ssh_wire import (
    HostKey,
    KexInit,
    hassh,
    hassh_server,
    is_strict,
    offers_terrapin,
    terrapin_modes,
)
from tasks.network.analyze._tally import Findings, Tally

MOST_SESSIONS = 2_000
BRUTE_FORCE_SESSIONS = 5
"""Connections of one client that were refused within the window, from which on it looks like guessing."""
BRUTE_FORCE_ATTEMPTS = 10
"""Refused attempts within the window, over fewer connections."""
BRUTE_FORCE_NS = 300 * 1_000_000_000
SPRAYED_SERVERS = 5
PROBES = 10
"""Connections of one client that ended before any key exchange, from which on it looks like a scan."""
_MOST_CACHED = 2_000
_MOST_OF_EACH = 8
_STANDARD_PORT = 22


@dataclass(slots=True)
class Session:
    """A row of the table of conversations."""

    frame: int
    client: str
    server: str
    start_ns: int
    seconds: float
    client_bytes: int
    server_bytes: int
    client_banner: str
    server_banner: str
    hassh: str
    hassh_server: str
    chosen: dict[str, str | None]
    strict: bool
    login: str
    refused: int
    end: str


@dataclass(slots=True)
class ServerRow:
    sessions: int = 0
    accepted: int = 0
    refused: int = 0
    attempts: int = 0
    banners: set[str] = field(default_factory=set)
    hasshes: set[str] = field(default_factory=set)
    keys: dict[str, HostKey] = field(default_factory=dict)
    offer: KexInit | None = None


@dataclass(slots=True)
class ClientRow:
    sessions: int = 0
    accepted: int = 0
    refused: int = 0
    attempts: int = 0
    without_exchange: int = 0
    banners: set[str] = field(default_factory=set)
    hasshes: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class PrintRow:
    sessions: int = 0
    software: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Guessing:
    """Refused connections of one client to one server, those of the last minutes."""

    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=64))
    sessions: int = 0
    attempts: int = 0
    first_ns: int = 0
    last_ns: int = 0
    frames: list[int] = field(default_factory=list)
    alarmed: bool = False


def at(address: str, port: int) -> str:
    """Address and port for people."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _remember(some: set[str], item: str) -> None:
    if item and len(some) < _MOST_OF_EACH:
        some.add(item)


class SshBook:
    """Everything that was seen, in bounded memory."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.conversations = 0
        self.unseen = 0
        self.sealed = 0
        self.malformed = 0
        self.gaps = 0
        self.logins: Counter[str] = Counter()
        self.attempts = 0
        self.protocols: Counter[str] = Counter()
        self.software: Tally[tuple[str, str], list[int]] = Tally(lambda: [0])
        self.algorithms: dict[str, Tally[str, list[int]]] = {
            name: Tally(lambda: [0, 0], 1_000) for name in KexInit.__dataclass_fields__
        }
        self.servers: Tally[str, ServerRow] = Tally(ServerRow, 5_000)
        self.clients: Tally[str, ClientRow] = Tally(ClientRow, 5_000)
        self.prints: Tally[tuple[str, str], PrintRow] = Tally(PrintRow, 5_000)
        self.recent: deque[Session] = deque(maxlen=MOST_SESSIONS)
        self._guessing: Tally[tuple[str, str], _Guessing] = Tally(_Guessing, 5_000)
        self._offers: dict[KexInit, KexInit] = {}

    def intern(self, offer: KexInit) -> KexInit:
        """The one object for equal offers: thousands of connections make the same one."""
        known = self._offers.get(offer)
        if known is None:
            if len(self._offers) >= _MOST_CACHED:
                self._offers.clear()
            known = self._offers[offer] = offer
        return known

    def conversation(self, stream: SshStream) -> None:
        """A conversation that is over."""
        if stream.client.banner is None and stream.server.banner is None:
            self.unseen += 1
            return
        self.conversations += 1
        self.malformed += stream.malformed
        self.gaps += stream.gaps
        self.sealed += stream.sealed
        client, server = stream.client_at[0], at(*stream.server_at)
        login, attempts = stream.login, stream.attempts
        self.logins[login] += 1
        self.attempts += attempts
        self._banners(stream, server)
        prints = self._offered(stream, client, server)
        if stream.chosen is not None:
            self._agreed(stream, server)
        server_row, client_row = self.servers.entry(server), self.clients.entry(client)
        for row in (server_row, client_row):
            if row is not None:
                row.sessions += 1
                row.accepted += login == "accepted"
                row.refused += login == "refused"
                row.attempts += attempts
        if server_row is not None:
            _remember(server_row.banners, stream.server.banner.line if stream.server.banner else "")
            _remember(server_row.hasshes, prints[1])
            server_row.offer = stream.server.offer or server_row.offer
            self._host_key(stream, server, server_row)
        if client_row is not None:
            _remember(client_row.banners, stream.client.banner.line if stream.client.banner else "")
            _remember(client_row.hasshes, prints[0])
            _remember(client_row.servers, server)
            if not stream.sealed and stream.how in {"fin", "rst"} and not stream.gaps:
                client_row.without_exchange += 1
                if client_row.without_exchange >= PROBES:
                    self.findings.add("ssh.scan", client, stream.first_frame, lambda: say.scan(client))
        self._guesses(stream, client, server, client_row)
        self.recent.append(
            Session(
                frame=stream.first_frame, client=at(*stream.client_at), server=server, start_ns=stream.start_ns,
                seconds=max(0, stream.end_ns - stream.start_ns) / 1e9, client_bytes=stream.client.bytes,
                server_bytes=stream.server.bytes,
                client_banner=stream.client.banner.line if stream.client.banner else "",
                server_banner=stream.server.banner.line if stream.server.banner else "",
                hassh=prints[0], hassh_server=prints[1],
                chosen={name: getattr(stream.chosen, name) for name in KexInit.__dataclass_fields__}
                if stream.chosen
                else {},
                strict=stream.client.offer is not None
                and stream.server.offer is not None
                and is_strict(stream.client.offer, stream.server.offer),
                login=login, refused=attempts, end=stream.how,
            )
        )  # fmt: skip

    # --- parts of it --------------------------------------------------------------------------------------------------

    def _banners(self, stream: SshStream, server: str) -> None:
        add = self.findings.add
        for role, banner in (("client", stream.client.banner), ("server", stream.server.banner)):
            if banner is None:
                continue
            self.protocols[banner.protocol[:16]] += 1
            count = self.software.entry((role, banner.software))
            if count:
                count[0] += 1
            host = server if role == "server" else stream.client_at[0]
            frame = stream.server.frame if role == "server" else stream.client.frame
            if banner.protocol.startswith("1."):
                add("ssh.version-1", (host, banner.protocol), frame, lambda: say.version_1(host, banner))  # noqa: B023
            old = old_software(banner)
            if old and (role == "server" or "regreSSHion" not in old.why):
                add(
                    "ssh.old-software", (host, banner.software), frame,
                    lambda: say.old(host, banner, old),  # noqa: B023
                )  # fmt: skip
        if stream.server.banner is not None and stream.server_at[1] != _STANDARD_PORT:
            port = stream.server_at[1]
            add("ssh.other-port", server, stream.first_frame, lambda: say.other_port(server, port))

    def _offered(self, stream: SshStream, client: str, server: str) -> tuple[str, str]:
        prints = ["", ""]
        for role, offer, banner in (
            (0, stream.client.offer, stream.client.banner),
            (1, stream.server.offer, stream.server.banner),
        ):
            if offer is None:
                continue
            prints[role] = hassh_server(offer) if role else hassh(offer)
            row = self.prints.entry(("server" if role else "client", prints[role]))
            if row:
                row.sessions += 1
                _remember(row.software, banner.software if banner else "")
                _remember(row.hosts, server if role else client)
            if role:
                for name, tally in self.algorithms.items():
                    for algorithm in getattr(offer, name):
                        counts = tally.entry(algorithm)
                        if counts:
                            counts[0] += 1
        offer = stream.server.offer
        if offer is not None:
            weak = weak_in(offer)
            if weak:
                self.findings.add(
                    "ssh.weak-offer", (server, tuple(name for _, name, _ in weak)), stream.server.frame,
                    lambda: say.weak_offer(server, weak),
                )  # fmt: skip
            if "kex-strict-s-v00@openssh.com" not in offer.kex and offers_terrapin(offer):
                self.findings.add("ssh.terrapin-offer", server, stream.server.frame, lambda: say.terrapin_offer(server))
        return prints[0], prints[1]

    def _agreed(self, stream: SshStream, server: str) -> None:
        chosen, add, frame = stream.chosen, self.findings.add, stream.server.frame
        assert chosen is not None and stream.client.offer is not None and stream.server.offer is not None
        for name, tally in self.algorithms.items():
            algorithm = getattr(chosen, name)
            counts = tally.entry(algorithm) if algorithm else None
            if counts:
                counts[1] += 1
        if not chosen.complete:
            missing = [name.replace("_", " ") for name in self.algorithms if getattr(chosen, name) is None]
            add("ssh.no-agreement", (server, tuple(missing)), frame, lambda: say.no_agreement(server, missing))
        for kind, name, reason in weak_chosen(chosen):
            add("ssh.weak-algorithm", (server, kind, name), frame, lambda k=kind, n=name, r=reason: say.weak(server, k, n, r))  # type: ignore[misc]  # fmt: skip
        if not is_strict(stream.client.offer, stream.server.offer) and (modes := terrapin_modes(chosen)):
            sides = [
                who
                for who, offer, mark in (
                    ("the client", stream.client.offer, "kex-strict-c-v00@openssh.com"),
                    ("the server", stream.server.offer, "kex-strict-s-v00@openssh.com"),
                )
                if mark not in offer.kex
            ]
            add("ssh.terrapin", (server, tuple(modes), tuple(sides)), frame, lambda: say.terrapin(server, modes, sides))
        if 0 < stream.group_bits < 2048:
            bits = stream.group_bits
            add("ssh.weak-group", (server, bits), frame, lambda: say.weak_group(server, bits))

    def _host_key(self, stream: SshStream, server: str, row: ServerRow) -> None:
        key = stream.host_key
        if key is None:
            return
        known = row.keys.get(key.kind)
        if known is None:
            if len(row.keys) < _MOST_OF_EACH:
                row.keys[key.kind] = key
        elif known != key:
            self.findings.add(
                "ssh.host-key-changed",
                (server, key.kind),
                stream.server.frame,
                lambda: say.key_changed(server, known, key),
            )
        if key.kind == "ssh-rsa" and 0 < key.bits < 2048:
            self.findings.add(
                "ssh.weak-host-key", (server, key.bits), stream.server.frame, lambda: say.weak_key(server, key)
            )

    def _guesses(self, stream: SshStream, client: str, server: str, client_row: ClientRow | None) -> None:
        login = stream.login
        if login == "unknown":
            return
        guessing = self._guessing.entry((client, server))
        if guessing is None:
            return
        if login == "accepted":
            if guessing.alarmed and stream.end_ns - guessing.last_ns < BRUTE_FORCE_NS:
                refused = guessing.attempts
                self.findings.add(
                    "ssh.brute-force-succeeded", (client, server), stream.first_frame,
                    lambda: say.broken_in(client, server, refused),
                )  # fmt: skip
            return
        attempts = stream.attempts
        guessing.sessions += 1
        guessing.attempts += attempts
        guessing.first_ns = guessing.first_ns or stream.start_ns
        guessing.last_ns = stream.end_ns
        guessing.recent.append((stream.end_ns, attempts, stream.first_frame))
        while guessing.recent[0][0] < stream.end_ns - BRUTE_FORCE_NS:
            guessing.recent.popleft()
        if (
            len(guessing.recent) >= BRUTE_FORCE_SESSIONS
            or sum(count for _, count, _ in guessing.recent) >= BRUTE_FORCE_ATTEMPTS
        ):
            guessing.alarmed = True
        if len(guessing.frames) < 20:
            guessing.frames.append(stream.first_frame)
        if (
            client_row is not None
            and len(client_row.servers) >= SPRAYED_SERVERS
            and client_row.refused >= SPRAYED_SERVERS
        ):
            self.findings.add("ssh.spraying", client, stream.first_frame, lambda: say.spraying(client))

    def finish(self) -> None:
        """Say what only the whole capture tells: who guessed, and how often."""
        for (client, server), guessing in self._guessing:
            if not guessing.sessions:
                continue
            if guessing.alarmed:
                seconds = (guessing.last_ns - guessing.first_ns) / 1e9
                said = say.brute_force(client, server, guessing.sessions, guessing.attempts, seconds)
                code, subject = "ssh.brute-force", (client, server)
            else:
                said, code, subject = say.refused(server), "ssh.refused-login", ("", server)
            for frame in guessing.frames:
                self.findings.add(code, subject, frame, lambda said=said: said)  # type: ignore[misc]
