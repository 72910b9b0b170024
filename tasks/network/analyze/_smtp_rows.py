"""Rows of what `smtp_analyzer` counts."""

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
