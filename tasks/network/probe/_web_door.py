"""Where the requests of a run may go: the gate's grant, and for redirects the gate again. No name is resolved twice for connecting."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable

import httpx

from tasks.core import gate
from tasks.core.errors import ToolError
from tasks.core.models import Scope
from tasks.core.resolve import resolve_host
from tasks.core.run import ToolRun
from tasks.network.probe._connection import Patience
from tasks.network.probe._web_address import host_of, port_of


class Door:
    """The gate, as a check of URLs sees it.

    Args:
        run: The run whose grant and policy hold.
    """

    def __init__(self, run: ToolRun) -> None:
        assert run.grant is not None
        self._policy = run.policy
        self._pinned = {target.asked: target.addresses for target in run.grant.targets}
        self._timed: set[str] = set()

    def addresses(self, url: httpx.URL) -> tuple[str, ...]:
        """Pinned addresses of a URL that was asked for."""
        return self._pinned[host_of(url)]

    async def time_name(self, url: httpx.URL, patience: Patience) -> tuple[float | None, str | None]:
        """Ask the resolver once more, for the time it takes; what it says changes nothing about where we connect.

        Returns:
            Seconds, and a note when it says something else than before. Neither for an address, nor when it was asked already.

        Raises:
            TimeoutError: It did not answer in time.
        """
        host = host_of(url)
        if host in self._timed or _is_address(host):
            return None, None
        self._timed.add(host)
        began = time.perf_counter()
        try:
            async with patience.waiting():
                found = await resolve_host(host)
        except ToolError:
            return None, f"{host} does not resolve any more"
        seconds = time.perf_counter() - began
        pinned = self._pinned[host]
        if set(found) & set(pinned):
            return seconds, None
        return (
            seconds,
            f"{host} resolves to {', '.join(found[:4])} now; asked was {pinned[0]}, which policy had allowed",
        )

    async def follow(self, url: httpx.URL, patience: Patience) -> tuple[tuple[str, ...], float | None]:
        """Ask the gate whether a redirect may be followed.

        Returns:
            Pinned addresses, and the seconds the resolver took when it was asked.

        Raises:
            Refused: It may not; nothing was sent there.
            NotFound: Its name does not resolve.
            Unreachable: The resolver did not answer.
            TimeoutError: It did not in time.
        """
        host = host_of(url)
        known = self._pinned.get(host)
        taken: list[float] = []

        async def resolve(name: str) -> Iterable[str]:
            if known is not None:
                return known  # the port is new, the addresses stay
            began = time.perf_counter()
            found = await resolve_host(name)
            taken.append(time.perf_counter() - began)
            return found

        async with patience.waiting():
            grant = await gate.admit(Scope(targets=(host,), ports=(port_of(url),)), self._policy, resolve=resolve)
        self._timed.add(host)
        addresses = self._pinned.setdefault(host, grant.pinned(host).addresses)
        return addresses, taken[0] if taken else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
