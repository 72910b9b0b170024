"""Looks for signs of an open relay. None is proof: which domains a server is meant to take mail for is not in a capture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tasks.network.analyze._smtp_wire import domain_of, from_outside, organisation
from tasks.network.analyze._tally import Tally

REFUSES: Final = re.compile(r"(?i)relay|not permitted|authentication required|not local|rcpthosts")
"""What servers say that take no mail for strangers to strangers."""
_MOST_DOMAINS: Final = 100
_MOST_TAKEN: Final = 10_000


@dataclass(slots=True)
class _Taken:
    """What a server accepted from outside without a login."""

    domains: dict[str, int] = field(default_factory=dict)
    """With the first frame."""
    names: set[str] = field(default_factory=set)
    denied: bool = False


class Relays:
    """Recipients that servers accepted from clients outside their network that had not logged in."""

    def __init__(self) -> None:
        self._servers: Tally[str, _Taken] = Tally(_Taken, 5_000)
        self._taken: dict[tuple[str, str], tuple[str, str]] = {}

    def passed_on(self, client: str, path: str) -> tuple[str, str] | None:
        """Where a client, itself a server, got the same recipient from outside: that server's name, and from whom."""
        return self._taken.get((client, path))

    def decided(
        self, client: str, address: str, server: str, path: str, frame: int, names: list[str], *, code: int, text: str
    ) -> None:
        """A server decided about a recipient of a client that had not logged in.

        Args:
            client: The client's address.
            address: The server's.
            server: The server's, with its port.
            path: The recipient.
            frame: Of the command.
            names: What the server calls itself.
            code: Its reply's code.
            text: Its reply's text.
        """
        domain = domain_of(path)
        taken = self._servers.entry(server) if domain and from_outside(client, address) else None
        if taken is None:
            return
        for name in names[:8]:
            if len(taken.names) < _MOST_DOMAINS:
                taken.names.add(organisation(name))
        if code >= 400:
            taken.denied |= code >= 500 and REFUSES.search(text) is not None
            return
        if len(taken.domains) < _MOST_DOMAINS:
            taken.domains.setdefault(organisation(domain), frame)
        if len(self._taken) < _MOST_TAKEN:
            self._taken.setdefault((address, path), (server, client))

    def foreign(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Servers and the domains they took that their names do not show, with a frame; not where one refused to relay."""
        for server, taken in self._servers:
            found = {domain: frame for domain, frame in taken.domains.items() if domain not in taken.names}
            if found and taken.names and not taken.denied:
                yield server, found
