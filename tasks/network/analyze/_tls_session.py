"""What is kept of a handshake, and the rows of what is counted over all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tasks.network.analyze._tls_chain import Certificate


@dataclass(slots=True)
class Offer:
    """What is kept of a ClientHello; equal ones are one object."""

    names: tuple[str, ...]
    versions: tuple[int, ...]
    suites: tuple[int, ...]
    protocols: tuple[str, ...]
    ja3: str | None
    ja4: str | None
    old: bool
    early: bool
    weak: tuple[str, ...]
    secure_renegotiation: bool
    fallback: bool
    psk: bool
    ticket: bool


@dataclass(slots=True)
class Session:
    """One handshake: who, what was asked for, what was chosen, how it came out."""

    client: str
    client_port: int
    server: str
    server_port: int
    transport: str = "tcp"
    via: str = ""
    hello: Offer | None = None
    hello_frame: int = 0
    hello_ns: int = 0
    session_id: bytes = b""
    version: int = 0
    suite: int = 0
    ja3s: str = ""
    protocol: str = ""
    group: int | None = None
    answer_frame: int | None = None
    established_ns: int = 0
    retried: bool = False
    resumed: str = ""
    client_sealed: bool = False
    server_sealed: bool = False
    outcome: str = ""
    alert: str = ""
    gaps: bool = False
    records: int = 0
    leaf: Certificate | None = None

    @property
    def name(self) -> str:
        """The server, by name where the client gave one."""
        return self.hello.names[0] if self.hello and self.hello.names else ""

    @property
    def at(self) -> str:
        """The server's address and port."""
        return f"[{self.server}]:{self.server_port}" if ":" in self.server else f"{self.server}:{self.server_port}"


@dataclass(slots=True)
class NameRow:
    hellos: int = 0
    quic: int = 0
    servers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class FingerprintRow:
    hellos: int = 0
    clients: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


@dataclass(slots=True)
class ServerRow:
    handshakes: int = 0
    established: int = 0
    failed: int = 0
    resumed: int = 0
    versions: Counter[int] = field(default_factory=Counter)
    suites: Counter[int] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    ja3s: set[str] = field(default_factory=set)


@dataclass(slots=True)
class CertificateRow:
    certificate: Certificate | None = None
    role: str = "server"
    leaf: bool = False
    seen: int = 0
    first_ns: int = 0
    servers: set[str] = field(default_factory=set)
    frames: list[int] = field(default_factory=list)


@dataclass(slots=True)
class AlertRow:
    count: int = 0
    frames: list[int] = field(default_factory=list)
