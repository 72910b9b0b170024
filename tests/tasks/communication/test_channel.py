"""The rate budget of a channel, over tasks and processes."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.communication import _channel
from tasks.communication._channel import Channel
from tasks.core.errors import Busy


async def test_messages_of_one_channel_keep_their_distance_and_other_channels_do_not_wait() -> None:
    times: list[float] = []

    async def say(channel: Channel) -> None:
        async with channel:
            times.append(time.monotonic())

    started = time.monotonic()
    await asyncio.gather(*(say(Channel("slack/ops", "https://a", per_second=10)) for _ in range(4)))
    assert 0.28 < times[-1] - started < 5
    assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(times))
    started = time.monotonic()
    await say(Channel("slack/other", "https://b", per_second=0.1))
    assert time.monotonic() - started < 3


async def test_a_burst_goes_at_once_after_a_quiet_time() -> None:
    started = time.monotonic()
    for _ in range(3):
        async with Channel("mail/noc", "a:25", per_second=1, burst=3):
            pass
    assert time.monotonic() - started < 1.5


async def test_two_blocks_with_one_address_share_the_budget() -> None:
    started = time.monotonic()
    for name in ("slack/ops", "slack/noc"):
        async with Channel(name, "https://same", per_second=4):
            pass
    assert time.monotonic() - started > 0.2


async def test_a_turn_too_far_away_is_busy_and_takes_no_turn() -> None:
    async with Channel("slack/ops", "x", per_second=1 / 60):
        pass
    for _ in range(2):
        with pytest.raises(Busy) as caught:
            async with Channel("slack/ops", "x", per_second=1 / 60):
                pytest.fail("it was not its turn")
        assert caught.value.retry_after is not None and 58 < caught.value.retry_after <= 60


async def test_a_pause_the_receiver_asks_for_holds_for_everybody() -> None:
    with pytest.raises(Busy, match="wait"):
        async with Channel("slack/ops", "y", per_second=100, burst=5):
            raise Busy("wait", retry_after=100)
    with pytest.raises(Busy) as caught:
        async with Channel("slack/noc", "y", per_second=100, burst=5):
            pytest.fail("the channel was closed")
    assert caught.value.retry_after is not None and 98 < caught.value.retry_after <= 101


def test_processes_share_the_budget(own_home: Path) -> None:
    code = (
        "import asyncio, time\n"
        "from tasks.communication._channel import Channel\n"
        "async def main():\n"
        "    for _ in range(3):\n"
        "        async with Channel('slack/ops', 'z', per_second=5): print(time.time())\n"
        "asyncio.run(main())\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(float(line) for run in runs for line in run.communicate(timeout=60)[0].split())
    assert len(times) == 6
    assert all(later - earlier > 0.15 for earlier, later in itertools.pairwise(times))


async def test_a_home_that_cannot_be_written_leaves_a_budget_per_process(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_channel, "_memory", {})
    (own_home / "channels").write_text("a file where the folder should be")
    started = time.monotonic()
    for _ in range(2):
        async with Channel("slack/ops", "w", per_second=4):
            pass
    assert time.monotonic() - started > 0.2
    assert caplog.text.count("per process only") == 1


@pytest.mark.parametrize("stored", ["garbage", "", "99999999999.0", "nan"])
async def test_a_spoilt_or_far_future_budget_file_closes_no_channel(own_home: Path, stored: str) -> None:
    async with Channel("slack/ops", "v", per_second=100):
        pass
    next((own_home / "channels").iterdir()).write_text(stored)
    started = time.monotonic()
    async with Channel("slack/ops", "v", per_second=100):
        pass
    assert time.monotonic() - started < 5


async def test_the_file_shows_neither_name_nor_address(own_home: Path) -> None:
    async with Channel("slack/ops", "https://hooks.example.com/secret", per_second=100):
        pass
    (file,) = (own_home / "channels").iterdir()
    assert "secret" not in file.name + file.read_text() and file.stat().st_mode & 0o077 == 0
