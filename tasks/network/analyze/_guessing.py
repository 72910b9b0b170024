"""Tells guessing of passwords from typing errors: by how many logins are refused in how short a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks.core.words import count
from tasks.network.analyze._report import Severity
from tasks.network.analyze._tally import Tally

REFUSALS: Final = 6
"""Refused logins of one client at one server within the window, from which on it looks like guessing."""
WINDOW_NS: Final = 300 * 1_000_000_000
SPRAYED_SERVERS: Final = 5
"""Servers that refused a client, from which on it looks like trying one password at many."""
_MOST_FRAMES: Final = 20


@dataclass(slots=True)
class Guessing:
    """Refused logins of one client at one server."""

    recent: deque[int] = field(default_factory=lambda: deque(maxlen=REFUSALS))
    attempts: int = 0
    sessions: set[int] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    first_ns: int = 0
    last_ns: int = 0
    frames: list[int] = field(default_factory=list)
    alarmed: bool = False

    @property
    def seconds(self) -> float:
        """From the first refusal to the last."""
        return (self.last_ns - self.first_ns) / 1e9


class Guesses:
    """Refused logins of all clients, in bounded memory."""

    def __init__(self) -> None:
        self._pairs: Tally[tuple[str, str], Guessing] = Tally(Guessing, 5_000)
        self._servers: Tally[str, set[str]] = Tally(set, 5_000)

    def refused(self, client: str, server: str, user: str, session: int, time_ns: int, frame: int) -> None:
        """Note a refused login."""
        servers = self._servers.entry(client)
        if servers is not None and len(servers) < 100:
            servers.add(server)
        guessing = self._pairs.entry((client, server))
        if guessing is None:
            return
        guessing.attempts += 1
        guessing.first_ns = guessing.first_ns or time_ns
        guessing.last_ns = time_ns
        guessing.recent.append(time_ns)
        if len(guessing.recent) == REFUSALS and time_ns - guessing.recent[0] < WINDOW_NS:
            guessing.alarmed = True
        if len(guessing.sessions) < 10_000:
            guessing.sessions.add(session)
        if user and len(guessing.users) < 1_000:
            guessing.users.add(user)
        if len(guessing.frames) < _MOST_FRAMES:
            guessing.frames.append(frame)

    def hit(self, client: str, server: str, time_ns: int) -> int:
        """A login was accepted: the refused ones that came shortly before, where they looked like guessing."""
        guessing = self._pairs.entry((client, server))
        if guessing is None or not guessing.alarmed or time_ns - guessing.last_ns >= WINDOW_NS:
            return 0
        return guessing.attempts

    def __iter__(self) -> Iterator[tuple[str, str, Guessing]]:
        for (client, server), guessing in self._pairs:
            if guessing.attempts:
                yield client, server, guessing

    def sprays(self) -> list[tuple[str, int]]:
        """Clients that many servers refused, with how many."""
        return [(client, len(servers)) for client, servers in self._servers if len(servers) >= SPRAYED_SERVERS]


def guesses(client: str, server: str, refused: int, users: int, sessions: int, seconds: float) -> str:
    """Say how somebody tried passwords.

    >>> guesses("10.0.0.9", "10.0.0.2:21", 40, 1, 3, 12.3)
    '10.0.0.9 guesses its way into 10.0.0.2:21: 40 refused logins with 1 name, 3 connections, 12 s.'
    """
    tried = f"{count(refused, 'refused login')} with {count(users, 'name')}, {count(sessions, 'connection')}"
    return f"{client} guesses its way into {server}: {tried}, {seconds:.0f} s."


def spraying(client: str, servers: int) -> tuple[Severity, str, str, str]:
    """What is said of somebody whom several servers refuse: severity, what, why, what to do."""
    return (
        Severity.HIGH,
        f"{client} is refused by {count(servers, 'server')}.",
        "It tries names and passwords from server to server.",
        "Block the client; look for servers that let it in.",
    )
