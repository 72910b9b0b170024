"""Echoes to the sentinels of a discovery, and the site's budget held while it is paused."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

from flows._sentinel import MOST_CANDIDATES, MOST_SENTINELS, Sentinel, Watch
from tasks.core import gate
from tasks.core.db.assets import longest_known
from tasks.core.db.engine import database
from tasks.core.errors import Refused, ToolError
from tasks.core.log import run_logger
from tasks.core.models import Network, Scope
from tasks.core.process import find_program, run_command
from tasks.core.run import wiring
from tasks.network.probe._icmp import TOKEN_BYTES, Pinger, open_socket

ECHO_SECONDS = 1.0
"""Time between two echoes to a sentinel, and how long each is awaited."""
ECHO_BUDGET, LEAST_BUDGET = 10, 50
"""Packets a second held for the echoes (the smallest share), and the smallest budget of a site that leaves room for them."""


@asynccontextmanager
async def watching(site: str, networks: Sequence[str], own: Collection[str]) -> AsyncIterator[Watch]:
    """Watch sentinels while the block runs. Without any that policy allows nothing is sent and nothing pauses.

    Args:
        site: The site.
        networks: What is being scanned.
        own: This machine's addresses: they tell nothing about the network.
    """
    watch = Watch()
    observer = asyncio.create_task(_observe(watch, site, networks, frozenset(own)), name="sentinels")
    try:
        yield watch
    finally:
        observer.cancel()
        await asyncio.wait((observer,))


async def _observe(watch: Watch, site: str, networks: Sequence[str], own: frozenset[str]) -> None:
    loop = asyncio.get_running_loop()
    try:
        if (await wiring().policy(site)).packets_per_second < LEAST_BUDGET:
            return
        watch.suggest(await _gateways(networks), "the gateway")
        watch.suggest(
            await database().run(lambda connection: longest_known(connection, site, networks, MOST_CANDIDATES))
        )
        while not await _choose(watch, site, own):
            watch.suggested.clear()
            await watch.suggested.wait()
        async with wiring().hold(site, ECHO_BUDGET, ECHO_BUDGET):
            await _ping(watch, site, own)
    except (ToolError, OSError) as problem:
        run_logger().warning("No sentinel is watched: %s", problem)
    finally:
        watch.end_pause(loop.time())


async def _choose(watch: Watch, site: str, own: frozenset[str]) -> bool:
    """Make sentinels of candidates that the gate lets through, and return whether there is any."""
    while watch.candidates and len(watch.sentinels) < MOST_SENTINELS:
        address, name = watch.candidates.popleft()
        if address not in own and not ipaddress.ip_address(address).is_loopback:
            with suppress(Refused):
                await gate.admit(Scope(targets=(address,), packets_per_second=0), await wiring().policy(site))
                watch.sentinels[address] = Sentinel(name)
    return bool(watch.sentinels)


async def _ping(watch: Watch, site: str, own: frozenset[str]) -> None:
    """Send each sentinel an echo a second, judge what came back, and hold the site's budget while paused."""
    loop = asyncio.get_running_loop()
    pingers: dict[int, Pinger] = {}
    reserving: asyncio.Task[None] | None = None
    with ExitStack() as stack:

        async def echo(address: str, sentinel: Sentinel) -> None:
            version = ipaddress.ip_address(address).version
            if version not in pingers:
                pingers[version] = stack.enter_context(Pinger(open_socket(version), version, TOKEN_BYTES))
            answer = await pingers[version].echo(address, ECHO_SECONDS)
            sentinel.take(answer.rtt_ms, loop.time())

        try:
            due = loop.time()
            while not (watch.over and not watch.paused.is_set()):
                await asyncio.gather(*(echo(*item) for item in watch.sentinels.items()))
                watch.judge(loop.time())
                if watch.paused.is_set() and reserving is None:
                    reserving = asyncio.create_task(_reserve(site), name="reserve the budget")
                elif reserving is not None and not watch.paused.is_set():
                    reserving.cancel()
                    reserving = None
                await _choose(watch, site, own)
                due = max(loop.time(), due + ECHO_SECONDS)
                await asyncio.sleep(due - loop.time())
        finally:
            if reserving is not None:
                reserving.cancel()
                await asyncio.wait((reserving,))


async def _reserve(site: str) -> None:
    """Hold what is free of the site's packet budget, and what becomes free, until cancelled."""
    try:
        whole = (await wiring().policy(site)).packets_per_second
        async with AsyncExitStack() as held:
            while await held.enter_async_context(wiring().hold(site, whole, ECHO_BUDGET)) is not None:
                pass
            await asyncio.Event().wait()  # nothing is counted here
    except ToolError as problem:
        run_logger().warning("While paused, other runs of site %s may send: %s", site, problem)


async def _gateways(networks: Sequence[str]) -> list[str]:
    """Gateways on the way to these networks, those of their own routes first."""
    wanted = [ipaddress.ip_network(text) for text in networks]
    found: list[tuple[bool, str]] = []
    for version in sorted({network.version for network in wanted}):
        argv = [find_program("ip", "iproute2"), f"-{version}", "-json", "route", "show"]
        for route in json.loads((await run_command(argv, timeout=10)).stdout or b"[]"):
            default = route["dst"] == "default"
            if "gateway" in route and (default or any(_overlap(route["dst"], network) for network in wanted)):
                found.append((default, route["gateway"]))
    return [gateway for _, gateway in sorted(found, key=lambda item: item[0])]


def _overlap(prefix: str, network: Network) -> bool:
    other = ipaddress.ip_network(prefix)
    return other.version == network.version and other.overlaps(network)
