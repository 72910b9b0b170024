"""One scan per network at a time: overlapping networks of a site are never scanned twice at once, whichever worker runs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from tasks.core.db import scan_leases
from tasks.core.db.engine import database
from tasks.core.errors import Busy, DatabaseGone
from tasks.core.log import run_logger

LEASE_SECONDS = 120.0
"""A crashed run's networks are free again after this long."""
RENEW_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 6 * 3600.0
POLL_SECONDS = 2.0


class Overlapping(Busy):
    """Another run scans one of these networks."""


@asynccontextmanager
async def scan_lease(site: str, networks: Sequence[str], run_id: str, *, wait: bool) -> AsyncIterator[None]:
    """Hold the right to scan networks for the length of the block.

    Args:
        site: The site.
        networks: Prefixes.
        run_id: Who scans; a run's own leases do not stand in its way.
        wait: Wait for a run that scans an overlapping network (at most six hours); otherwise give up at once.

    Raises:
        Overlapping: Another run scans there, and `wait` is false or took too long.
        Busy: The lease was lost and the block was stopped.
        DatabaseGone: The database does not answer.
    """
    await _acquire(site, networks, run_id, wait)
    owner = asyncio.current_task()
    lost = False

    async def keep() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            # While the database is away nobody else can take a lease either.
            with suppress(DatabaseGone):
                if await database().run(lambda connection: scan_leases.renew(connection, run_id, LEASE_SECONDS)) == 0:
                    lost = True
                    if owner is not None:
                        owner.cancel()
                    return

    keeper = asyncio.create_task(keep())
    try:
        yield
    except asyncio.CancelledError:
        if lost:
            raise Busy(
                "The lease on the scanned networks was lost: the database was away too long.",
                hint="Run the discovery again.",
            ) from None
        raise
    finally:
        keeper.cancel()
        with suppress(DatabaseGone):
            await database().run(lambda connection: scan_leases.release(connection, run_id))


async def _acquire(site: str, networks: Sequence[str], run_id: str, wait: bool) -> None:
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    told = False
    while True:
        holder = await database().run(
            lambda connection: scan_leases.acquire(connection, site, networks, run_id, LEASE_SECONDS)
        )
        if holder is None:
            return
        if not wait or time.monotonic() > end:
            raise Overlapping(
                f"{holder.cidr} is being scanned by run {holder.run_id}.", hint="Wait for it, or ask with overlap=wait."
            )
        if not told:
            run_logger().info("Waiting: run %s scans %s", holder.run_id, holder.cidr)
            told = True
        await asyncio.sleep(POLL_SECONDS)
