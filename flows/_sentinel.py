"""Sentinel hosts: while a discovery scans, a few hosts are pinged once a second, and when they begin to suffer the scan pauses.

Sentinels are the gateway of the scanned networks and up to two hosts more, as far as policy allows them: the longest known assets in scope,
else hosts that answered. The first echoes say what is normal. When most of the last five are lost, or come back much later than normal,
the site's budget pauses: no shard begins, shards under way are ended after a few seconds (and begin again afterwards, at half the rate:
a running nmap can be stopped but not slowed, and a stopped one that goes on catches up in a burst), and what is free of the site's packet
budget is held, so that other runs of the site do not begin to send either. It goes on when all sentinels have been well for some seconds.

Here is what is decided; what is sent is in `_sentinel_echo`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tasks.core.log import run_logger

T = TypeVar("T")

MOST_SENTINELS, MOST_CANDIDATES = 3, 8
WINDOW, TOO_MANY_LOST = 5, 3
"""Echoes that are looked at together, and how many of them may not be lost."""
SLOWER_TIMES, SLOWER_MS = 4.0, 100.0
"""A sentinel suffers when its median round trip is longer than normal by this factor and by this much."""
GRACE_SECONDS = 3.0
"""What a shard under way is given to end by itself in: its work is not thrown away for a moment's."""
CALM_SECONDS = 10.0
"""How long all sentinels must have been well before it goes on."""
GONE_SECONDS = 30.0
"""A sentinel that suffers for so long while others are well has gone (a laptop was shut); it does not count any more."""
LONGEST_PAUSE, MOST_PAUSES = 300.0, 3
"""Seconds of all pauses together and their number: after that a discovery goes on unwatched rather than never ending."""


@dataclass
class Sentinel:
    """One host's echoes, and what they say. Pure: no packet is sent here.

    Attributes:
        name: What a person calls it.
        normal_ms: Median round trip of its first echoes; None until there are enough.
        fit: Whether it answered well enough in the beginning to be listened to; None until that is known.
    """

    name: str
    normal_ms: float | None = None
    fit: bool | None = None
    suffering_since: float | None = None
    _last: deque[float | None] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def take(self, rtt_ms: float | None, now: float) -> None:
        """Add an echo's round trip in milliseconds, None for a lost one."""
        self._last.append(rtt_ms)
        if self.fit is None and len(self._last) == WINDOW:
            self.fit = self._lost() < TOO_MANY_LOST
            self.normal_ms = self._median() if self.fit else None
        if not self.trouble():
            self.suffering_since = None
        elif self.suffering_since is None:
            self.suffering_since = now

    def trouble(self) -> str:
        """Say what it suffers from; empty when it is well or nothing is known."""
        if self.normal_ms is None:
            return ""
        if (lost := self._lost()) >= TOO_MANY_LOST:
            return f"{self.name} lost {lost} of {WINDOW} echoes"
        if (median := self._median()) > max(SLOWER_TIMES * self.normal_ms, SLOWER_MS + self.normal_ms):
            return f"{self.name} answered in {median:.0f} ms instead of {self.normal_ms:.1f} ms"
        return ""

    def _lost(self) -> int:
        return sum(rtt is None for rtt in self._last)

    def _median(self) -> float:
        return statistics.median(rtt for rtt in self._last if rtt is not None)


class Watch:
    """Decides when to pause and when to go on, and makes what runs under it do so.

    Attributes:
        notes: One line for each pause, for people.
        sentinels: By address.
        candidates: Addresses that may become sentinels, best first, each with what a person calls it.
        suggested: Set when there is a new candidate.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.sentinels: dict[str, Sentinel] = {}
        self.candidates: deque[tuple[str, str]] = deque()
        self.suggested = asyncio.Event()
        self._suggested: set[str] = set()
        self.paused, self._going = asyncio.Event(), asyncio.Event()
        self._going.set()
        self._reason, self._began, self._spent = "", 0.0, 0.0
        self._well_since: float | None = None

    @property
    def slowdown(self) -> int:
        """By how much to scan slower than allowed: after every pause half as fast."""
        return 1 << len(self.notes)

    @property
    def over(self) -> bool:
        """Whether nothing is paused any more, because it was often or long enough."""
        return len(self.notes) >= MOST_PAUSES or self._spent >= LONGEST_PAUSE

    def suggest(self, addresses: Iterable[str], kind: str = "") -> None:
        """Name hosts that may become sentinels, while there is need of them."""
        for address in addresses:
            if address not in self._suggested and len(self._suggested) < MOST_CANDIDATES:
                self._suggested.add(address)
                self.candidates.append((address, f"{kind} {address}".strip()))
                self.suggested.set()

    def judge(self, now: float) -> None:
        """Look at all sentinels, and pause or go on; `now` is seconds that never run backwards."""
        well = any(sentinel.fit and not sentinel.trouble() for sentinel in self.sentinels.values())
        for address, sentinel in list(self.sentinels.items()):
            since = sentinel.suffering_since
            if sentinel.fit is False or (well and since is not None and now - since >= GONE_SECONDS):
                del self.sentinels[address]
        troubles = [trouble for sentinel in self.sentinels.values() if (trouble := sentinel.trouble())]
        if not self.paused.is_set():
            if troubles and not self.over:
                self._reason, self._began, self._well_since = troubles[0], now, None
                self._going.clear()
                self.paused.set()
                run_logger().warning("Paused: %s", self._reason)
            return
        if troubles:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        if self._well_since is not None and now - self._well_since >= CALM_SECONDS:
            self.end_pause(now, f"; then went on at 1/{2 * self.slowdown} of the rate")
        elif self._spent + now - self._began >= LONGEST_PAUSE:
            self.end_pause(now, f"; it did not get better, went on at 1/{2 * self.slowdown} of the rate")

    def end_pause(self, now: float, remark: str = "") -> None:
        """Let everything go on, if it is paused."""
        if self.paused.is_set():
            self._spent += now - self._began
            self.notes.append(f"Paused {now - self._began:.0f} s: {self._reason}{remark}")
            run_logger().warning("%s%s", self.notes[-1], "; pauses no more" if self.over else "")
            self.paused.clear()
            self._going.set()

    async def steady(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do some work while nothing is paused; what a pause ends begins again after it."""
        while True:
            await self._going.wait()
            doing, pause = asyncio.ensure_future(work()), asyncio.ensure_future(self.paused.wait())
            try:
                await asyncio.wait((doing, pause), return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait((doing,), timeout=GRACE_SECONDS)
            finally:
                pause.cancel()
                doing.cancel()
                await asyncio.wait((doing,))
            if not doing.cancelled():
                return doing.result()
