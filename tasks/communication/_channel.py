"""One rate budget per channel, kept by all processes of a machine: a webhook that is flooded is switched off by its owner.

The budget lives in a small file per channel below `SIGNALBOX_HOME`, changed under its lock within microseconds. A Prefect limit would
cost 70 ms a message and a server that answers; a budget per process would be none, because every flow run is a process.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from tasks.core.errors import Busy, InvalidParameters
from tasks.core.log import run_logger
from tasks.core.settings import settings

LONGEST_WAIT = 15.0
"""Seconds a message waits for its turn inside the tool; later turns are left to the tool's retries."""
LONGEST_PAUSE = 3600.0
"""Seconds a receiver may close its channel for; also how far ahead a turn may lie before we take it for a clock that jumped."""

_memory: dict[str, float] = {}  # where the file cannot be written: a budget per process is better than none


class Channel:
    """The turns of one channel. `async with` waits for the turn, and passes on what the receiver says about its pace.

    Args:
        name: What people call it: `slack/ops`.
        address: What it really is; two blocks with the same address share the budget. May be secret: only its hash is written.
        per_second: Messages per second in the long run.
        burst: Messages that may go at once after a quiet time.
    """

    def __init__(self, name: str, address: str, *, per_second: float, burst: int = 1) -> None:
        self.name = name
        self._interval, self._burst = 1 / per_second, burst
        self._key = hashlib.sha256(f"{name.partition('/')[0]}\0{address}".encode()).hexdigest()[:32]

    async def __aenter__(self) -> Self:
        """Wait for the turn.

        Raises:
            Busy: It is more than `LONGEST_WAIT` away; none was taken.
        """
        wait = self._take()
        if wait > LONGEST_WAIT:
            raise Busy(f"{self.name} takes its next message in {wait:.0f} s.", retry_after=wait)
        await asyncio.sleep(wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Busy) and error.retry_after:
            self._close(min(error.retry_after, LONGEST_PAUSE))

    def _take(self) -> float:
        """Reserve the next turn and return the seconds until then. GCRA: the file holds when the budget is whole again."""
        wait = 0.0

        def reserve(whole_at: float, now: float) -> float:
            nonlocal wait
            wait = max(0.0, whole_at - (self._burst - 1) * self._interval - now)
            return whole_at if wait > LONGEST_WAIT else max(whole_at, now) + self._interval

        self._change(reserve)
        return wait

    def _close(self, seconds: float) -> None:
        """Let nobody send for a while."""
        self._change(lambda whole_at, now: max(whole_at, now + seconds + (self._burst - 1) * self._interval))

    def _change(self, change: Callable[[float, float], float]) -> None:
        folder = settings().home / "channels"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder / self._key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                stored = file.read(32)
                now = time.time()
                file.seek(0)
                file.write(f"{change(_sane(stored, now), now):<20.6f}")
        except OSError as problem:
            if not _memory:
                run_logger().warning("Channel budgets are kept per process only: %s", problem.strerror)
            now = time.time()
            _memory[self._key] = change(_sane(str(_memory.get(self._key, 0.0)), now), now)


def _sane(stored: str, now: float) -> float:
    try:
        whole_at = float(stored)
    except ValueError:
        return now
    return whole_at if whole_at - now <= 2 * LONGEST_PAUSE else now


class _Trusting(Protocol):
    def tls(self) -> ssl.SSLContext: ...


def trusted_by(block: _Trusting, name: str) -> ssl.SSLContext:
    """Whom the block's connections trust.

    Raises:
        InvalidParameters: The file its field `ca` names cannot be read on this machine.
    """
    try:
        return block.tls()
    except ValueError as error:
        raise InvalidParameters(
            f"Block {name}: {error}.", hint="Put the certificates themselves into its field ca."
        ) from None
