"""The packet budget on a real Prefect server."""
# Helper processes start while the loop stands still, a server's state is polled, and what a block raises needs the block:
# ruff: noqa: PT012

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.core import rate
from tasks.core.errors import Busy, NotFound, Refused, Unreachable
from tasks.core.rate import budget_status, ensure_budget, hold, limit_name

ROOT = Path(__file__).parents[2]

# Holds shares again and again until a file is there; prints (from, until, packets per second) of each, by the clock all processes share.
HOLDER = """
import asyncio, json, os, random, sys, time
from tasks.core.rate import hold
async def main():
    site, stop = sys.argv[1], sys.argv[2]
    async def one():
        while not os.path.exists(stop):
            async with hold(site, 60, 20, wait=60) as share:
                began = time.monotonic()
                await asyncio.sleep(random.uniform(0.05, 0.3))
                print(json.dumps([began, time.monotonic(), share.packets_per_second]), flush=True)
    await asyncio.gather(one(), one())
asyncio.run(main())
"""

KEEPER = """
import asyncio, sys
from tasks.core.rate import hold
async def main():
    async with hold(sys.argv[1], 60, 60, wait=60) as share:
        print("holding", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
async def site(prefect_server: str) -> AsyncIterator[str]:
    """A site with a budget of 100 packets a second."""
    name = f"site-{uuid4().hex[:8]}"
    await ensure_budget(name, 100)
    yield name
    async with get_client() as client:
        with contextlib.suppress(Exception):
            await client.delete_global_concurrency_limit_by_name(limit_name(name))


async def test_a_share_is_held_for_the_block_and_given_back(site: str) -> None:
    async with hold(site, 60, 10, wait=5) as share:
        assert share is not None
        assert (share.packets_per_second, share.slots) == (60, 6)
        status = await budget_status(site)
        assert (status.packets_per_second, status.held, status.free) == (100, 60, 40)
    assert (await budget_status(site)).held == 0


async def test_a_share_comes_back_after_an_error_and_after_a_cancel(site: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with hold(site, 60, 10, wait=5):
            1 / 0  # noqa: B018
    assert (await budget_status(site)).held == 0

    async def sit() -> None:
        async with hold(site, 60, 10, wait=5):
            await asyncio.sleep(60)

    task = asyncio.create_task(sit())
    while (await budget_status(site)).held != 60:
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await budget_status(site)).held == 0


async def test_a_sender_makes_do_with_what_is_free(site: str) -> None:
    async with hold(site, 70, 10, wait=5), hold(site, 70, 10, wait=5) as second:
        assert second is not None
        assert second.packets_per_second == 30


async def test_who_was_beaten_to_a_part_gets_the_rest_at_once(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look = rate._read
    looks = 0

    async def look_too_early(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        found = await look(*arguments)
        # What is free was read before the other one took its part.
        return found.model_copy(update={"active_slots": 0}) if looks == 1 else found

    async with hold(site, 10, 10, wait=5):
        monkeypatch.setattr(rate, "_read", look_too_early)
        longest: list[float] = []

        def uniform(low: float, high: float) -> float:
            longest.append(high)
            return low

        monkeypatch.setattr(rate.random, "uniform", uniform)
        async with hold(site, 100, 10, wait=5) as rest:
            assert rest is not None
            assert rest.packets_per_second == 90
        assert looks == 2
        assert longest[0] < 0.1


async def test_odd_wishes_never_get_more_than_they_asked_for(site: str) -> None:
    for want, given in ((1, 1), (9, 9), (10, 10), (15, 10), (99, 90), (1000, 100)):
        async with hold(site, want, 10, wait=5) as share:
            assert share is not None
            assert share.packets_per_second == given


async def test_who_needs_more_than_is_free_waits_until_it_is(site: str) -> None:
    async def sit() -> None:
        async with hold(site, 80, 80, wait=5):
            await asyncio.sleep(2)

    task = asyncio.create_task(sit())
    while (await budget_status(site)).held != 80:
        await asyncio.sleep(0.05)
    started = time.monotonic()
    async with hold(site, 50, 50, wait=30) as share:
        assert share is not None
        assert share.packets_per_second == 50
    assert 1 < time.monotonic() - started < 10
    await task


async def test_a_wait_that_is_too_long_ends_as_busy(site: str) -> None:
    started = time.monotonic()
    async with hold(site, 80, 80, wait=5):
        with pytest.raises(Busy, match=r"20 of 100 packets/s are free, this needs 50; waited 1 s") as caught:
            async with hold(site, 50, 50, wait=1):
                pass
    assert caught.value.retryable
    assert time.monotonic() - started < 5


async def test_a_budget_that_is_too_small_is_refused_at_once(site: str) -> None:
    with pytest.raises(Refused, match=r"is 100 packets/s; this needs at least 200\. Raise packets_per_second"):
        async with hold(site, 500, 200, wait=60):
            pass


async def test_a_site_without_budget_says_how_to_make_one(prefect_server: str) -> None:
    with pytest.raises(NotFound, match=r"no packet budget.*signalbox up"):
        async with hold("nowhere", 50, 10, wait=60):
            pass
    with pytest.raises(NotFound, match="no packet budget"):
        await budget_status("nowhere")


async def test_a_budget_that_is_switched_off_grants_nothing(site: str) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    async with get_client() as client:
        await client.update_global_concurrency_limit(limit_name(site), GlobalConcurrencyLimitUpdate(active=False))
    with pytest.raises(Refused, match="switched off"):
        async with hold(site, 50, 10, wait=60):
            pass
    await ensure_budget(site, 100)
    async with hold(site, 50, 10, wait=5):
        pass


async def test_a_budget_can_be_changed_while_it_is_held(site: str) -> None:
    async with hold(site, 100, 10, wait=5):
        await ensure_budget(site, 50)
        status = await budget_status(site)
        assert (status.packets_per_second, status.held, status.free) == (50, 100, 0)
        with pytest.raises(Busy):
            async with hold(site, 10, 10, wait=0):
                pass
    await ensure_budget(site, 1000)
    await ensure_budget(site, 1000)
    assert (await budget_status(site)).free == 1000
    with pytest.raises(ValueError, match="at least 10"):
        await ensure_budget(site, 9)


async def test_a_server_that_does_not_answer_says_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{silent.getsockname()[1]}/api"}),
    ):
        started = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer"):
            async with hold("default", 50, 10, wait=60):
                pass
        assert time.monotonic() - started < rate.REQUEST_SECONDS + 3


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_lease_stops_the_sender(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "RENEW_SECONDS", 0.5)
    leases: list[object] = []
    real = rate._take

    async def take(*arguments: object) -> object:
        leases.append(await real(*arguments))  # type: ignore[arg-type]
        return leases[-1]

    monkeypatch.setattr(rate, "_take", take)
    share = None
    started = time.monotonic()
    with pytest.raises(Busy, match="was lost, so sending was stopped"):
        async with hold(site, 50, 10, wait=5) as share:
            async with get_client() as client:
                await client.release_concurrency_slots_with_lease(leases[0].id)  # type: ignore[attr-defined]
            await asyncio.sleep(30)
    assert share is not None
    assert share.lost.is_set()
    assert time.monotonic() - started < 10


async def test_a_sender_stops_before_its_lease_ends_when_the_server_is_gone(
    site: str, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lease is 60 s; stopping 56 s before its end makes the test short.
    monkeypatch.setattr(rate, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(rate, "STOP_SECONDS", 56.0)
    share = None
    async with forwarder(httpx.URL(prefect_server).port or 0) as (port, cut):
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            began = time.monotonic()
            with pytest.raises(Busy, match="was lost"):
                async with hold(site, 50, 10, wait=5) as share:
                    await asyncio.sleep(6)
                    assert not share.lost.is_set(), "it was renewed until here"
                    cut()
                    gone = time.monotonic()
                    await asyncio.sleep(30)
            assert share is not None
            assert share.lost.is_set()
            assert time.monotonic() - gone < 4 + rate.REQUEST_SECONDS + 3
            assert time.monotonic() - began < 25


async def test_a_brief_absence_of_the_server_is_no_loss(
    site: str, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "RENEW_SECONDS", 1.0)
    monkeypatch.setattr(rate, "STOP_SECONDS", 50.0)
    async with forwarder(httpx.URL(prefect_server).port or 0) as (port, cut):
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            async with hold(site, 50, 10, wait=5) as share:
                assert share is not None
                cut()
                await asyncio.sleep(1.5)
                async with forwarder(httpx.URL(prefect_server).port or 0, port):
                    await asyncio.sleep(12)
                    assert not share.lost.is_set()


@contextlib.asynccontextmanager
async def forwarder(to: int, port: int = 0) -> AsyncIterator[tuple[int, object]]:
    """A TCP forwarder on loopback; calling the second value cuts every connection and takes no new one."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to)
        writers.extend((writer, far_writer))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port)

    def cut() -> None:
        server.close()
        for writer in writers:
            writer.transport.abort()

    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        cut()


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
async def test_two_processes_never_hold_more_than_the_budget(site: str, prefect_server: str, tmp_path: Path) -> None:
    stop, outputs = tmp_path / "stop", [tmp_path / "one", tmp_path / "other"]

    def shares_of(output: Path) -> list[list[float]]:
        return [json.loads(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]

    holders = []
    for output in outputs:
        with output.open("w") as file:
            command = [sys.executable, "-c", HOLDER, site, str(stop)]
            holders.append(
                subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PREFECT_API_URL": prefect_server}, stdout=file)
            )
    try:
        worst = 0
        until = time.monotonic() + 120
        # A busy machine gives turns seldom: what counts is that both have had several.
        while min(len(shares_of(output)) for output in outputs) < 4 and time.monotonic() < until:
            worst = max(worst, (await budget_status(site)).held)
            await asyncio.sleep(0.1)
        stop.touch()
        for holder in holders:
            await asyncio.to_thread(holder.wait, 60)
    finally:
        for holder in holders:
            holder.kill()
    assert all(len(shares_of(output)) >= 4 for output in outputs), "one of them got no turns"
    assert 0 < worst <= 100
    shares = [share for output in outputs for share in shares_of(output)]
    for began, _, _ in shares:
        assert sum(packets for start, end, packets in shares if start <= began < end) <= 100
    assert (await budget_status(site)).held == 0


class FullServer:
    """A whole Prefect server, with the service that frees the slots of expired leases, and leases on disk as `signalbox up` has them."""

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
            "DO_NOT_TRACK": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*argv, "--no-ui"], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 90
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2, trust_env=False).is_success:
                    return
            assert time.monotonic() < until and self.process.poll() is None, "the Prefect server did not start"
            time.sleep(0.5)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def full_server(tmp_path: Path) -> Iterator[FullServer]:
    server = FullServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_share_survives_a_restart_of_the_server_and_is_given_back(full_server: FullServer) -> None:
    with temporary_settings({PREFECT_API_URL: full_server.url}):
        await ensure_budget("default", 100)
        async with hold("default", 60, 60, wait=5) as share:
            assert share is not None
            await asyncio.to_thread(full_server.stop)
            await asyncio.to_thread(full_server.start)
            await asyncio.sleep(rate.RENEW_SECONDS + 3)
            assert not share.lost.is_set()
            assert (await budget_status("default")).held == 60
        assert (await budget_status("default")).held == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_holder_frees_its_slots_within_a_minute_and_a_half(full_server: FullServer) -> None:
    with temporary_settings({PREFECT_API_URL: full_server.url}):
        await ensure_budget("default", 100)
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, "default"],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": full_server.url},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert keeper.stdout is not None
            assert await asyncio.to_thread(keeper.stdout.readline) == "holding\n"
            await asyncio.sleep(20)  # renewed once
            assert (await budget_status("default")).held == 60
        finally:
            keeper.kill()
            keeper.wait()
        killed = time.monotonic()
        waited = None
        while waited is None:
            # A server on a busy machine may leave a question unanswered for once; whether the slots come free is another.
            with contextlib.suppress(Unreachable):
                async with hold("default", 100, 100, wait=120):
                    waited = time.monotonic() - killed
    # 60 s of lease from the last renewal, and the service looks every 15 s; a busy machine adds what its server takes.
    assert 30 < waited < 110
