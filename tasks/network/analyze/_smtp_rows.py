"""What `smtp_analyzer` follows, commands and mails, and the rows it counts them in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Session:
    """A row of the table of conversations."""

    frame: int
    client: str
    server: str
    start_ns: int
    seconds: float
    hello: str
    tls: str
    login: str
    user: str
    mails: int
    commands: int
    end: str


@dataclass(slots=True)
class ServerRow:
    sessions: int = 0
    encrypted: int = 0
    mails: int = 0
    plain_mails: int = 0
    rejected: int = 0
    deferred: int = 0
    offered: int = 0
    not_offered: int = 0
    names: set[str] = field(default_factory=set)
    banners: set[str] = field(default_factory=set)
    extensions: set[str] = field(default_factory=set)
    mechanisms: set[str] = field(default_factory=set)
    hello_frames: list[int] = field(default_factory=list)
    mail_frames: list[int] = field(default_factory=list)


@dataclass(slots=True)
class ClientRow:
    sessions: int = 0
    encrypted: int = 0
    mails: int = 0
    rejected: int = 0
    refused_logins: int = 0
    names: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class AddressRow:
    count: int = 0
    accepted: int = 0
    refused: int = 0
    put_off: int = 0


@dataclass(slots=True)
class RejectionRow:
    count: int = 0
    text: str = ""
    addresses: set[str] = field(default_factory=set)
    frames: list[int] = field(default_factory=list)


@dataclass(slots=True)
class LoginRow:
    attempts: int = 0
    accepted: int = 0
    refused: int = 0


@dataclass(slots=True)
class Mail:
    """A mail on its way."""

    client: tuple[str, int]
    server: tuple[str, int]
    sender: str
    frame: int
    time_ns: int
    declared: int | None = None
    recipients: list[str] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    bytes: int = 0
    chunks: int = 0
    authenticated: bool = False
    outcome: str = "unknown"
    code: int = 0


@dataclass(slots=True)
class Command:
    """A command that waits for its reply."""

    verb: str
    argument: bytes
    time_ns: int
    frame: int
    answered: bool = False
    path: str = ""
    mechanism: str = ""
    step: int = 0
    """Of AUTH: the client's next response."""
    prompt: bytes = b""
    """Of AUTH: what the server asked for last."""
    broken: bool = False
    """Of AUTH: bytes are missing, so it is not known which response is which."""
    last: bool = True
    """Of BDAT: whether it is the mail's last chunk."""
    replies: int = 1
    """Final replies that are to come: LMTP has one for each recipient."""
