"""A device is asked one thing at a time: by this process, by others, and also while the database is away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from tasks.core.db.devices import conversation
from tasks.core.errors import Busy
from tasks.core.settings import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def with_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", database_url)
    settings.cache_clear()
    return database_url


async def _together(count: int, address: str) -> int:
    """How many conversations with one address were going on at once, at most."""
    now = most = 0

    async def one() -> None:
        nonlocal now, most
        async with conversation("default", address, wait=20):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    await asyncio.gather(*(one() for _ in range(count)))
    return most


async def test_without_a_database_a_process_talks_with_a_device_once_at_a_time() -> None:
    assert await _together(8, "10.0.0.1") == 1


async def test_different_devices_and_sites_do_not_wait_for_each_other() -> None:
    async with (
        conversation("default", "10.0.0.1", wait=0),
        conversation("default", "10.0.0.2", wait=0),
        conversation("other", "10.0.0.1", wait=0),
    ):
        pass


async def test_who_waits_too_long_is_told_that_another_talks_with_the_device() -> None:
    async with conversation("default", "10.0.0.1", wait=0):
        with pytest.raises(Busy, match=r"10\.0\.0\.1"):
            async with conversation("default", "10.0.0.1", wait=0.1):
                pass
    async with conversation("default", "10.0.0.1", wait=0):
        pass


async def test_another_process_at_the_same_database_waits_too(with_database: str) -> None:
    code = (
        "import asyncio\n"
        "from tasks.core.db.devices import conversation\n"
        "async def hold():\n"
        "    async with conversation('default', '10.0.0.9', wait=0):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.get_running_loop().run_in_executor(None, input)\n"
        "asyncio.run(hold())\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(Busy):
            async with conversation("default", "10.0.0.9", wait=0.2):
                pass
        async with conversation("default", "10.0.0.10", wait=0):
            pass
        other.stdin.write("\n")
        other.stdin.flush()
        async with conversation("default", "10.0.0.9", wait=10):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()


async def test_a_process_that_dies_leaves_no_device_locked(with_database: str) -> None:
    rival = psycopg2.connect(with_database.replace("+psycopg2", ""), connect_timeout=5)
    rival.autocommit = True
    cursor = rival.cursor()
    cursor.execute("SELECT pg_advisory_lock(hashtextextended('signalbox device default 10.0.0.3', 0))")
    with pytest.raises(Busy):
        async with conversation("default", "10.0.0.3", wait=0.1):
            pass
    rival.close()
    async with conversation("default", "10.0.0.3", wait=10):
        pass


async def test_a_conversation_that_is_cancelled_while_it_waits_or_talks_frees_the_device(with_database: str) -> None:
    async def talk() -> None:
        async with conversation("default", "10.0.0.4", wait=10):
            await asyncio.sleep(30)

    for delay in (0.0, 0.001, 0.1):
        talking = asyncio.create_task(talk())
        await asyncio.sleep(delay)
        talking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talking
    async with conversation("default", "10.0.0.4", wait=10):
        pass
    with psycopg2.connect(with_database.replace("+psycopg2", ""), connect_timeout=5) as rival:
        cursor = rival.cursor()
        for _ in range(100):
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            row = cursor.fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.05)
        assert row == (0,)
    rival.close()


async def test_a_database_that_is_away_keeps_nobody_from_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    settings.cache_clear()
    began = time.monotonic()
    for _ in range(20):
        async with conversation("default", "10.0.0.5", wait=1):
            pass
    assert time.monotonic() - began < 10
    assert await _together(4, "10.0.0.6") == 1
