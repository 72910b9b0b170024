"""One conversation with a device at a time: cameras and SNMP agents have little to spare, and some mix up what comes at once.

Two locks: one inside this process, and where there is an inventory database an advisory lock in it, which every worker of the site sees.
All advisory locks of a process are held by one connection of its own: a lock lives as long as its session, and a pooled connection each
would be far too many. When the database is away the conversation goes on with the first lock alone: a probe must not need the inventory,
and two conversations with one agent for a moment do less harm than none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from functools import lru_cache

from sqlalchemy import Connection, text

from tasks.core.db.engine import Database
from tasks.core.errors import Busy, NotFound, ToolError
from tasks.core.log import run_logger
from tasks.core.settings import settings

LOOK_SECONDS = (0.01, 0.5)
"""Shortest and longest pause between looks whether a device is free."""
AWAY_SECONDS = 30.0
"""How long the database is left alone after it did not answer: else each conversation would wait for it again."""


@contextlib.asynccontextmanager
async def conversation(site: str, address: str, *, wait: float) -> AsyncIterator[None]:
    """Be the only one that talks with a device while the block runs.

    Args:
        site: The site.
        address: The device's address there.
        wait: Seconds to wait for others at most.

    Raises:
        Busy: Another conversation with it went on for longer than that.
    """
    key = f"signalbox device {site} {address}"
    until = time.monotonic() + wait
    pause = LOOK_SECONDS[0]
    while not _here.take(key):
        pause = await _look_again(address, pause, until)
    try:
        session = _session()
        taken = False
        try:
            while session is not None and not (taken := await session.take(key)) and session.answers:
                pause = await _look_again(address, pause, until)
            yield
        finally:
            if session is not None and taken:
                await session.give(key)
    finally:
        _here.give(key)


async def _look_again(address: str, pause: float, until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise Busy(
            f"Another run talks with {address}, and a device is asked one thing at a time.", hint="Try again later."
        )
    await asyncio.sleep(min(pause, left))
    return min(2 * pause, LOOK_SECONDS[1])


class _Here:
    """Devices this process talks with, from whatever event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[str] = set()

    def take(self, key: str) -> bool:
        with self._lock:
            free = key not in self._held
            self._held.add(key)
            return free

    def give(self, key: str) -> None:
        with self._lock:
            self._held.discard(key)


class _Session:
    """The database session that holds this process's advisory locks."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, workers=1, recycle=-1)
        self._away_until = 0.0

    @property
    def answers(self) -> bool:
        """Whether the database is worth asking."""
        return time.monotonic() >= self._away_until

    async def take(self, key: str) -> bool:
        """Try to take a lock; False when another session has it, or the database does not answer."""
        if not self.answers:
            return False

        def attempt(connection: Connection) -> bool:
            return bool(connection.scalar(text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), {"key": key}))

        # Cancelling a call cuts its connection, and with it the session and everybody's locks: it is left to end by itself.
        asking = asyncio.ensure_future(self._database.run(attempt))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: self._give_back(done, key))
            raise
        except ToolError as problem:
            self._note(problem)
            return False

    async def give(self, key: str) -> None:
        """Give a lock back. Where that fails the session is gone, and the lock with it."""

        def attempt(connection: Connection) -> None:
            connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:key, 0))"), {"key": key})

        giving = asyncio.ensure_future(self._database.run(attempt))
        giving.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        try:
            await asyncio.shield(giving)
        except ToolError as problem:
            self._note(problem)

    def _give_back(self, done: asyncio.Future[bool], key: str) -> None:
        if not done.cancelled() and done.exception() is None and done.result():
            self._late = asyncio.ensure_future(self.give(key))

    def _note(self, problem: ToolError) -> None:
        if self.answers:
            run_logger().warning("Devices are kept to one conversation in this process only: %s", problem.message)
        self._away_until = time.monotonic() + AWAY_SECONDS


def _session() -> _Session | None:
    """The session of this process; None where there is no inventory database."""
    try:
        return _session_of(settings().resolve_database_url("app"))
    except NotFound:
        return None


@lru_cache(maxsize=1)
def _session_of(url: str) -> _Session:
    return _Session(url)


_here = _Here()
# A forked child must not use its parent's connection.
os.register_at_fork(after_in_child=_session_of.cache_clear)
