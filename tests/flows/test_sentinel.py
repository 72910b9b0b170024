"""When a discovery pauses for the sake of the network: decided from fabricated echoes, and seen on the wire of a lab."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from lab.network import AXIS, DELL, HostSpec, Lab, http, needs_lab

from blocks.policy import ProbePolicy
from flows import _sentinel
from flows import discover as discovery
from flows._scan import Names
from flows._sentinel import CALM_SECONDS, GONE_SECONDS, GRACE_SECONDS, LONGEST_PAUSE, MOST_PAUSES, Sentinel, Watch
from flows._sentinel_echo import watching
from tasks.core.process import find_program, run_command
from tasks.core.rate import budget_status, ensure_budget
from tasks.core.settings import settings

GOOD = 2.0


class Network:
    """Sentinels that answer as told, one echo a second."""

    def __init__(self, *names: str) -> None:
        self.watch = Watch()
        self.now = 1000.0
        self.watch.sentinels = {name: Sentinel(name) for name in names}

    def echoes(self, seconds: float, **rtts: float | None) -> float:
        """Let time pass; those not named answer well. Returns after how many seconds it paused or went on, else `seconds`."""
        before = self.watch.paused.is_set()
        changed = seconds
        for second in range(1, int(seconds) + 1):
            self.now += 1
            for name, sentinel in self.watch.sentinels.items():
                sentinel.take(rtts.get(name, GOOD), self.now)
            self.watch.judge(self.now)
            if self.watch.paused.is_set() != before and changed == seconds:
                changed = second
        return changed

    @property
    def paused(self) -> bool:
        return self.watch.paused.is_set()


def test_three_of_five_lost_echoes_pause_and_two_do_not() -> None:
    network = Network("gateway")
    network.echoes(8)
    network.echoes(2, gateway=None)
    assert not network.paused
    network.echoes(5)
    assert network.echoes(20, gateway=None) == 3
    assert network.paused


def test_much_longer_round_trips_pause_and_little_longer_ones_do_not() -> None:
    network = Network("gateway")
    network.echoes(5)
    network.echoes(20, gateway=100.0)  # 50 times as long, and still no harm to anybody
    assert not network.paused
    network.echoes(20, gateway=110.0)
    assert network.paused
    network.echoes(60)
    assert network.watch.notes[0].startswith("Paused 30 s: gateway answered in 110 ms instead of 2.0 ms")
    far = Network("satellite")
    far.echoes(5, satellite=600.0)
    far.echoes(20, satellite=900.0)  # 300 ms more, but not even twice as long
    assert not far.paused


def test_it_goes_on_when_all_have_been_well_for_ten_seconds_and_then_half_as_fast() -> None:
    network = Network("gateway", "nas")
    network.echoes(5)
    network.echoes(6, gateway=None)
    assert network.paused and network.watch.slowdown == 1
    # Three good echoes end the trouble; the calm begins there.
    assert network.echoes(60) == 3 + CALM_SECONDS
    assert network.watch.notes == ["Paused 16 s: gateway lost 3 of 5 echoes; then went on at 1/2 of the rate"]
    assert network.watch.slowdown == 2


def test_a_relapse_begins_the_calm_anew() -> None:
    network = Network("gateway")
    network.echoes(5)
    network.echoes(5, gateway=None)
    network.echoes(10)
    network.echoes(4, gateway=None)
    assert network.paused
    assert network.echoes(60) == 3 + CALM_SECONDS


def test_a_sentinel_that_never_answered_is_none() -> None:
    network = Network("gateway", "mute")
    network.echoes(30, mute=None)
    assert not network.paused
    assert list(network.watch.sentinels) == ["gateway"]
    silent = Network("mute")
    silent.echoes(30, mute=None)
    assert not silent.paused and silent.watch.sentinels == {}


def test_a_host_that_left_while_the_others_are_well_holds_nobody_up_for_long() -> None:
    network = Network("gateway", "laptop")
    network.echoes(10)
    network.echoes(10, laptop=None)
    assert network.paused
    network.echoes(GONE_SECONDS + CALM_SECONDS, laptop=None)
    assert not network.paused
    assert list(network.watch.sentinels) == ["gateway"]
    network.echoes(60)
    assert len(network.watch.notes) == 1


def test_a_network_that_stays_bad_is_waited_for_five_minutes_and_no_longer() -> None:
    network = Network("gateway", "nas")
    network.echoes(10)
    network.echoes(3, gateway=None, nas=None)
    assert network.paused
    assert network.echoes(1000, gateway=None, nas=None) == LONGEST_PAUSE
    assert not network.paused and network.watch.over
    assert "it did not get better" in network.watch.notes[0]


def test_no_more_than_three_pauses() -> None:
    network = Network("gateway")
    network.echoes(10)
    for _ in range(MOST_PAUSES + 2):
        network.echoes(4, gateway=None)
        network.echoes(20)
    assert len(network.watch.notes) == MOST_PAUSES
    assert network.watch.slowdown == 8


async def test_what_is_under_way_ends_with_the_pause_and_begins_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sentinel, "GRACE_SECONDS", 0.1)
    network = Network("gateway")
    network.echoes(5)
    began, ended = [], []

    async def work() -> str:
        began.append(network.watch.slowdown)
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            ended.append(network.now)
            raise
        return "done"

    running = asyncio.create_task(network.watch.steady(work))
    await asyncio.sleep(0.1)
    network.echoes(3, gateway=None)
    await asyncio.sleep(0.8)
    assert (began, len(ended), running.done()) == ([1], 1, False)
    network.echoes(20)
    assert await running == "done"
    assert began == [1, 2]


async def test_what_ends_within_the_grace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("gateway")
    network.echoes(5)
    monkeypatch.setattr(_sentinel, "GRACE_SECONDS", 2.0)
    running = asyncio.create_task(network.watch.steady(lambda: asyncio.sleep(0.3, "kept")))
    await asyncio.sleep(0.1)
    network.echoes(3, gateway=None)
    assert await asyncio.wait_for(running, 1) == "kept"
    assert network.paused


async def test_a_failure_and_a_cancel_reach_who_waits() -> None:
    watch = Watch()
    ended = asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError

    async def last() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(ZeroDivisionError):
        await watch.steady(fail)
    running = asyncio.create_task(watch.steady(last))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


# --- in a network ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def site(prefect_server: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A site of a signalbox without deployments: a Prefect server, an inventory, and soon a policy."""
    from tasks.core.db.engine import database

    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", database_url)
    settings.cache_clear()
    database.cache_clear()
    yield f"site-{uuid4().hex[:8]}"
    database().close()
    database.cache_clear()


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """The watches of discoveries that run in this process."""
    found: list[Watch] = []

    @asynccontextmanager
    async def noted(*arguments: Any) -> AsyncIterator[Watch]:
        async with watching(*arguments) as watch:
            found.append(watch)
            yield watch

    async def nameless(self: Names, addresses: Any) -> dict[str, tuple[str, ...]]:
        return {}

    monkeypatch.setattr(discovery, "watching", noted)
    monkeypatch.setattr(Names, "of", nameless)  # no question of a test reaches this machine's resolver
    return found


async def wall(lab: Lab, *rules: str) -> None:
    """Change what the lab's router takes for itself; what it forwards stays."""
    argv = [find_program("ip", "iproute2"), "netns", "exec", lab._namespace("router"), find_program("nft", "nftables")]
    await run_command([*argv, *rules], timeout=10)


async def eventually(condition: Any, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.1)


@pytest.mark.lab
@needs_lab
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_scan_stops_sending_while_the_gateway_suffers_and_then_ends_well(
    site: str, watches: list[Watch]
) -> None:
    async with Lab() as lab:
        cameras = lab.subnets["cameras"]
        await lab.add("nas", 10, f"{DELL}:00:00:10")
        await lab.add_all(
            [HostSpec(f"cam{n}", n, f"{AXIS}:00:00:{n}", "cameras", services=(http(),)) for n in (11, 12, 13)]
        )
        # So slow that the sweep alone takes longer than the first echoes and the pause's beginning.
        policy = ProbePolicy(allow=[f"10.{lab.slot}.0.0/16"], packets_per_second=100, host_packets_per_second=0)
        await policy.save(site)  # type: ignore[misc]
        await ensure_budget(site, 100)
        sentinels = " or ".join(f"dst host {cameras.network[n]}" for n in (1, 11, 12, 13))
        async with lab.counting(f"dst net {cameras.cidr} and not (icmp and ({sentinels}))") as sent:
            started = time.time()
            run = asyncio.create_task(
                discovery.discover(targets=[f"{cameras.network[0]}/26"], site=site, profile="quick", return_state=True)  # type: ignore[call-overload]
            )
            await eventually(lambda: watches and any(one.fit for one in watches[0].sentinels.values()), 30)
            (watch,) = watches
            assert next(iter(watch.sentinels)) == lab.first.gateway
            await wall(
                lab, "add table inet wall; add chain inet wall i { type filter hook input priority 0; policy drop; }"
            )
            await eventually(watch.paused.is_set, 15)
            await asyncio.sleep(GRACE_SECONDS + 3)
            quiet_from = time.time()
            await asyncio.sleep(4)
            free = (await budget_status(site)).free
            quiet_until = time.time()
            await wall(lab, "delete table inet wall")
            state = await run
    result = getattr(state.data, "result", state.data)
    assert not [at for at in sent.times if quiet_from < at < quiet_until]
    assert [at for at in sent.times if started < at < quiet_from], "it had begun to scan before"
    assert [at for at in sent.times if at > quiet_until], "it went on"
    assert free == 0, "nobody else at the site gets anything of the budget meanwhile"
    assert (await budget_status(site)).held == 0
    assert result.outcome == "Completed"
    assert {host["address"] for host in result.hosts} >= {str(cameras.network[n]) for n in (11, 12, 13)}
    (note,) = [note for note in result.notes if note.startswith("Paused")]
    assert f"the gateway {lab.first.gateway} lost 3 of 5 echoes; then went on at 1/2 of the rate" in note
