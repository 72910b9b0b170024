from __future__ import annotations

import asyncio
import random
import time

import pytest

from tasks.core.rate import BudgetStatus, Pacer, hold, limit_name


class Clock:
    """A clock that moves only when somebody sleeps, and then a little too far, as real ones do."""

    def __init__(self, overshoot: float = 0.0) -> None:
        self.now = 1000.0
        self.overshoot = overshoot
        self.random = random.Random(1)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.random.random() * self.overshoot


def paced(rate: float, clock: Clock) -> Pacer:
    return Pacer(rate, clock=clock, sleep=clock.sleep)


def most_in(seconds: float, sent: list[float]) -> int:
    """The most packets in any window of that length."""
    most, first = 0, 0
    for last, at in enumerate(sent):
        while sent[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("rate", [1, 10, 50, 333, 1000, 20_000])
@pytest.mark.parametrize("overshoot", [0.0, 0.002, 0.015])
async def test_no_five_seconds_see_more_than_five_times_the_rate(rate: int, overshoot: float) -> None:
    clock = Clock(overshoot)
    pacer = paced(rate, clock)
    sent = []
    while clock.now < 1012:
        await pacer.wait()
        sent.append(clock.now)
    assert most_in(5, sent) <= rate * 5 + 1
    assert most_in(0.1, sent) <= rate * 0.12 + 1, "a burst"


@pytest.mark.parametrize("rate", [10, 1000, 20_000])
async def test_the_rate_is_reached_although_sleeping_is_coarse(rate: int) -> None:
    clock = Clock(overshoot=0.01)
    pacer = paced(rate, clock)
    count = 0
    while clock.now < 1010:
        await pacer.wait()
        count += 1
    assert count >= rate * 10 * 0.97


async def test_a_sender_that_was_held_up_does_not_catch_up() -> None:
    clock = Clock()
    pacer = paced(100, clock)
    sent = []
    for number in range(600):
        await pacer.wait()
        sent.append(clock.now)
        if number in (100, 250):
            clock.now += 30
    assert most_in(1, sent) <= 100 * 1.02 + 1
    assert most_in(5, sent) <= 501


async def test_many_waiters_that_were_held_up_do_not_wake_at_once() -> None:
    pacer = Pacer(100)
    sent: list[float] = []

    async def send() -> None:
        await pacer.wait()
        sent.append(time.monotonic())

    waiters = [asyncio.create_task(send()) for _ in range(60)]
    await asyncio.sleep(0.1)
    time.sleep(0.4)  # the whole process stands still  # noqa: ASYNC251
    await asyncio.gather(*waiters)
    assert most_in(0.1, sent) <= 100 * 0.12 + 2


async def test_a_cancelled_waiter_lets_the_next_one_through() -> None:
    pacer = Pacer(20)
    await pacer.wait()
    cancelled = asyncio.create_task(pacer.wait())
    await asyncio.sleep(0.01)
    cancelled.cancel()
    async with asyncio.timeout(1):
        await pacer.wait()


async def test_several_packets_at_once_are_paid_for() -> None:
    clock = Clock()
    pacer = paced(100, clock)
    for _ in range(10):
        await pacer.wait(10)
    assert clock.now - 1000 >= 0.9 - Pacer.GRAIN_SECONDS


async def test_a_burst_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        await Pacer(100).wait(101)
    with pytest.raises(ValueError, match="more than 0"):
        Pacer(0)
    await Pacer(0.5).wait(1)


async def test_who_wants_nothing_holds_nothing_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    async with hold("default", 0, 0, wait=0) as share:
        assert share is None


def test_what_is_free_is_never_negative() -> None:
    assert BudgetStatus("default", 100, 30).free == 70
    assert BudgetStatus("default", 100, 300).free == 0
    assert limit_name("plant-2") == "signalbox-packets-plant-2"
