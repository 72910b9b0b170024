"""When a discovery pauses for the sake of the network: decided from fabricated echoes, and seen on the wire of a lab."""

from __future__ import annotations

import asyncio

import pytest

from flows import _sentinel
from flows._sentinel import CALM_SECONDS, GONE_SECONDS, LONGEST_PAUSE, MOST_PAUSES, Sentinel, Watch

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
