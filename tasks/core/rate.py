"""The packet budget of a site: one reservation, shared by all runs, processes and machines.

It is a Prefect global concurrency limit without decay, `signalbox-packets-SITE`, where one slot means ten packets a
second. A sender holds k slots for as long as it sends and runs at 10 k packets a second: by a program's own
`--max-rate`, or by a `Pacer`. The sum of what all senders may send is thus never more than the limit. Slots are leased:
a holder that dies frees them within about a minute and a quarter, and a holder that cannot renew its lease stops before
the server could give its slots to somebody else.

Prefect's own `concurrency()` is not used: it renews at three quarters of the lease with requests that may take a
minute, so a holder could go on sending on slots that are no longer its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio

from tasks.core.errors import Busy, NotFound, Refused, Unauthorized, Unreachable
from tasks.core.log import run_logger

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

PACKETS_PER_SLOT = 10
"""Packets per second that one slot stands for."""
LEASE_SECONDS = 60.0
"""Length of a lease: the shortest the server takes."""
RENEW_SECONDS = 15.0
"""Time between renewals; three in a row may fail before the lease is lost."""
REQUEST_SECONDS = 5.0
"""Longest one request to the Prefect API may take."""
MOST_RACES = 5
"""How often a waiter looks again at once after somebody else was faster; then it waits as others do."""
STOP_SECONDS = 10.0
"""How long before the end of its lease a holder stops when it cannot renew: what a program needs to end."""

# Statuses of Prefect's API with a meaning here: all slots in use; more asked than there are; no such lease (any more).
_LOCKED, _TOO_MANY, _GONE = 423, 422, 410


@dataclass
class Share:
    """A held part of a site's packet budget.

    Attributes:
        packets_per_second: What the holder may send.
        slots: The slots behind it.
        lost: Set when the lease is gone; the block that holds the share is being cancelled then.
    """

    packets_per_second: int
    slots: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class BudgetStatus:
    """The packet budget of a site right now, in packets per second.

    Attributes:
        site: The site.
        packets_per_second: The whole budget.
        held: What senders hold of it.
    """

    site: str
    packets_per_second: int
    held: int

    @property
    def free(self) -> int:
        """What nobody holds. Never negative, also after the budget was lowered under what is held."""
        return max(0, self.packets_per_second - self.held)


def limit_name(site: str) -> str:
    """Name of the Prefect limit that holds the budget of a site."""
    return f"signalbox-packets-{site}"


async def ensure_budget(site: str, packets_per_second: int) -> None:
    """Create the budget of a site, or change it to this size. What is held stays held.

    Args:
        site: The site.
        packets_per_second: The whole budget; at least 10, and counted in tens.

    Raises:
        Unreachable: The Prefect API does not answer.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectAlreadyExists

    if packets_per_second < PACKETS_PER_SLOT:
        raise ValueError(f"a budget is at least {PACKETS_PER_SLOT} packets a second, not {packets_per_second}")
    name, slots = limit_name(site), packets_per_second // PACKETS_PER_SLOT
    async with _client() as client:
        found = await _read(client, site)
        if found is None:
            create = GlobalConcurrencyLimitCreate(name=name, limit=slots, active=True, slot_decay_per_second=0.0)
            # Somebody else may create it between our look and now: then it is changed like any other.
            with contextlib.suppress(ObjectAlreadyExists):
                await _ask(client.create_global_concurrency_limit(create))
                return
        if found is None or (found.limit, found.active, found.slot_decay_per_second) != (slots, True, 0.0):
            update = GlobalConcurrencyLimitUpdate(limit=slots, active=True, slot_decay_per_second=0.0)
            await _ask(client.update_global_concurrency_limit(name, update))


async def budget_status(site: str) -> BudgetStatus:
    """Say how much of a site's budget is held.

    Raises:
        NotFound: The site has no budget.
        Unreachable: The Prefect API does not answer.
    """
    async with _client() as client:
        found = await _read(client, site)
    if found is None:
        raise _no_budget(site)
    return BudgetStatus(site, found.limit * PACKETS_PER_SLOT, found.active_slots * PACKETS_PER_SLOT)


@contextlib.asynccontextmanager
async def hold(site: str, want: int, least: int, *, wait: float) -> AsyncIterator[Share | None]:
    """Hold a part of the site's packet budget while the block runs.

    Takes `want` packets a second when they are free, what is free when that is at least `least`, and waits otherwise. When the lease cannot
    be renewed, the block is cancelled in time, `share.lost` is set, and `Busy` is raised.

    Args:
        site: The site.
        want: Packets per second wished for; 0 holds nothing and yields None.
        least: The smallest part that is of use.
        wait: Seconds to wait for that at most.

    Raises:
        Busy: Not enough became free in time, or the lease was lost.
        NotFound: The site has no budget.
        Refused: The whole budget is smaller than `least`.
        Unreachable: The Prefect API does not answer.
    """
    if want <= 0:
        yield None
        return
    most = max(1, want // PACKETS_PER_SLOT)
    fewest = min(most, max(1, -(-least // PACKETS_PER_SLOT)))
    async with _client() as client:
        lease = await _acquire(client, site, most, fewest, wait)
        share = Share(packets_per_second=min(want, lease.slots * PACKETS_PER_SLOT), slots=lease.slots)
        loop = asyncio.get_running_loop()
        try:
            # Without a deadline of its own: losing the lease sets it to now, which cancels the block and nothing else.
            async with asyncio.timeout(None) as block:

                def lost() -> None:
                    share.lost.set()
                    block.reschedule(loop.time())

                renewal = loop.create_task(_keep(client, lease, lost), name=f"renew {limit_name(site)}")
                try:
                    yield share
                finally:
                    renewal.cancel()
        except TimeoutError:
            if not block.expired():
                raise
            raise Busy(
                f"The share of the packet budget of site {site!r} was lost, so sending was stopped.",
                hint="The Prefect server was away or restarted; see: signalbox status",
                retry_after=RENEW_SECONDS,
            ) from None
        finally:
            await _release(client, lease)


@dataclass
class _Lease:
    id: UUID
    slots: int
    until: float  # time.monotonic() at which the server may have given the slots away, never too late


async def _acquire(client: PrefectClient, site: str, most: int, fewest: int, wait: float) -> _Lease:
    until = time.monotonic() + wait
    races = seen = 0
    while True:
        found = await _read(client, site)
        if found is None:
            raise _no_budget(site)
        if not found.active:
            # Prefect grants a limit that is switched off without counting.
            raise Refused(
                f"The packet budget of site {site!r} is switched off.", hint="Switch it on again: signalbox up"
            )
        if found.limit < fewest:
            raise Refused(
                f"The packet budget of site {site!r} is {found.limit * PACKETS_PER_SLOT} packets/s; "
                f"this needs at least {fewest * PACKETS_PER_SLOT}.",
                hint="Raise packets_per_second in the site's policy: signalbox policy show",
            )
        slots = min(most, found.limit - found.active_slots)
        if slots >= fewest:
            lease = await _take(client, site, slots)
            if lease is not None:
                return lease
            races += 1
        left = until - time.monotonic()
        if left <= 0:
            free = max(0, found.limit - found.active_slots) * PACKETS_PER_SLOT
            raise Busy(
                f"The packet budget of site {site!r} is in use: {free} of {found.limit * PACKETS_PER_SLOT} packets/s are free, "
                f"this needs {fewest * PACKETS_PER_SLOT}; waited {wait:.0f} s.",
                hint="Try again when other runs are done, or raise packets_per_second in the site's policy.",
                retry_after=LEASE_SECONDS,
            )
        # Waiters that come apart do not ask together for ever. Who was only beaten to it looks again at once: much may be left.
        raced, seen = races > seen and races <= MOST_RACES, races
        await asyncio.sleep(min(left, random.uniform(0.01, 0.05) if raced else random.uniform(0.5, 1.5)))


async def _take(client: PrefectClient, site: str, slots: int) -> _Lease | None:
    """Ask for slots; None when somebody else was faster."""
    asked = time.monotonic()
    asking = asyncio.ensure_future(
        _ask(client.increment_concurrency_slots_with_lease([limit_name(site)], slots, "concurrency", LEASE_SECONDS))
    )
    try:
        response = await asyncio.shield(asking)
    except _Declined:
        return None
    except asyncio.CancelledError:
        # What is granted after we are gone would stay taken for a minute.
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            granted = (await asking).json()
            if granted["limits"]:
                await _release(client, _Lease(UUID(granted["lease_id"]), slots, 0.0))
        raise
    answer = response.json()
    if not answer["limits"]:  # deleted between our look and the request
        raise _no_budget(site)
    return _Lease(UUID(answer["lease_id"]), slots, asked + LEASE_SECONDS)


async def _keep(client: PrefectClient, lease: _Lease, lost: Callable[[], None]) -> None:
    """Renew a lease until cancelled; call `lost` when it is gone or can no longer be renewed in time."""
    pause = RENEW_SECONDS
    while True:
        await asyncio.sleep(min(pause, max(0.0, lease.until - STOP_SECONDS - time.monotonic())))
        asked = time.monotonic()
        if asked >= lease.until - STOP_SECONDS:
            run_logger().warning("The lease on the packet budget could not be renewed in time; sending stops")
            return lost()
        try:
            async with asyncio.timeout(lease.until - STOP_SECONDS - asked):
                await _ask(client.renew_concurrency_lease(lease.id, LEASE_SECONDS))
        except _Declined:
            run_logger().warning("The lease on the packet budget was revoked; sending stops")
            return lost()
        except (Unreachable, Unauthorized, TimeoutError):
            pause = 2.0
        else:
            lease.until, pause = asked + LEASE_SECONDS, RENEW_SECONDS


async def _release(client: PrefectClient, lease: _Lease) -> None:
    """Give slots back, also while being cancelled. When that fails they free themselves with the lease."""
    with anyio.CancelScope(shield=True):
        try:
            await _ask(client.release_concurrency_slots_with_lease(lease.id))
        except (Unreachable, Unauthorized) as error:
            run_logger().warning("Packet budget not given back, it frees itself within a minute: %s", error)


async def _read(client: PrefectClient, site: str) -> Any:
    """The limit behind a site's budget; None when there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await _ask(client.read_global_concurrency_limit_by_name(limit_name(site)))
    except ObjectNotFound:
        return None


@contextlib.asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        yield client


class _Declined(Exception):
    """The API understood and said no: slots in use, or a lease that is gone."""


async def _ask(request: Awaitable[Any]) -> Any:
    """Wait for an answer of the Prefect API.

    Raises:
        _Declined: It said no, in one of the ways that have a meaning here.
        Unauthorized: It does not accept our login.
        Unreachable: It does not answer, or answers with an error of its own.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await request
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in {_LOCKED, _TOO_MANY, _GONE}:
            raise _Declined from None
        if status in {401, 403}:
            raise Unauthorized(
                "The Prefect API does not accept our login.", hint="Check PREFECT_API_AUTH_STRING."
            ) from None
        raise Unreachable(f"The Prefect API answered with status {status}.", hint="See: signalbox status") from None
    except (httpx.HTTPError, TimeoutError, OSError):
        # The text of these carries addresses, and with them possibly passwords.
        raise Unreachable("The Prefect API does not answer.", hint="Is signalbox up? signalbox status") from None


def _no_budget(site: str) -> NotFound:
    return NotFound(f"Site {site!r} has no packet budget, so nothing may be sent there.", hint="Make it: signalbox up")


class Pacer:
    """Spreads what one sender sends evenly: in any five seconds no more than five times its rate, and a few.

    A sender that was held up does not catch up: unused time is gone, but for a fiftieth of a second that evens out the clock's grain.

    Args:
        packets_per_second: The rate, more than 0.
        clock: Seconds that never run backwards.
        sleep: How to wait.
    """

    GRAIN_SECONDS = 0.02

    def __init__(
        self,
        packets_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        if packets_per_second <= 0:
            raise ValueError("a rate is more than 0 packets a second")
        self.packets_per_second = packets_per_second
        # What the grain lets through in five seconds is taken off the rate, so that the sum stays within it.
        self._interval = (1 + self.GRAIN_SECONDS / 5) / packets_per_second
        self._next = float("-inf")
        self._clock = clock
        self._sleep = sleep
        # One waiter sleeps, the others queue behind it: after a stall they do not all wake at once.
        self._turn = asyncio.Lock()

    async def wait(self, n: int = 1) -> None:
        """Wait until `n` packets may be sent at once.

        More than one at once comes on top of the five-second rule, once: keep `n` small.

        Raises:
            ValueError: `n` is more than a second's worth: that would be a burst.
        """
        if n < 1 or n > max(1.0, self.packets_per_second):
            raise ValueError(f"{n} packets at once do not fit a rate of {self.packets_per_second:g} a second")
        async with self._turn:
            while True:
                now = self._clock()
                at = max(self._next, now - self.GRAIN_SECONDS)
                if at <= now:
                    self._next = at + n * self._interval
                    return
                await self._sleep(at - now)
