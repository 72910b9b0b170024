"""A database that is silent, gone or slow: every command still ends in time, its process exits, and nothing is lost or done unnoted."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest
from lab.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults"), pytest.mark.timeout(400)]

SLACK_SECONDS = 20.0
"""Starting the command, asking the Prefect API, ending: on a busy machine."""
PASSWORD = "databaseSecret99"


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts and never says a word."""
    held = []
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"postgresql://app:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/signalbox"
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


@contextmanager
def gone_server() -> Iterator[str]:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take it meanwhile
        yield f"postgresql://app:{PASSWORD}@127.0.0.1:{probe.getsockname()[1]}/signalbox"


@contextmanager
def slow_server(stack: Stack, delay: float) -> Iterator[str]:
    """The stack's own database, each of whose answers takes `delay` seconds."""
    real = urlsplit((stack.home / "secrets" / "database-url-app").read_text().strip().replace("+psycopg2", ""))
    options = parse_qs(real.query)
    folder = options["host"][0]
    path = str(next(Path(folder).glob(".s.PGSQL.[0-9]*[0-9]")))
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(wait)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, far_writer, 0.0), pump(far_reader, writer, delay))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    user, _, _ = real.netloc.rpartition("@")
    port = server.sockets[0].getsockname()[1]
    try:
        yield urlunsplit(("postgresql", f"{user}@127.0.0.1:{port}", real.path, "", ""))
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def timed(stack: Stack, url: str, *words: str, timeout: float) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command with that database; it must exit by itself within its deadline."""
    began = time.monotonic()
    done = stack.cli(*words, env={"SIGNALBOX_DATABASE_URL": url}, timeout=timeout + SLACK_SECONDS)
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done, time.monotonic() - began


PING = ("tool", "run", "ping", "--target", "127.0.0.1", "--count", "1", "--json")
MAIL = ("tool", "run", "sendmail", "--server", "mail/nowhere", "--to", "a@example.com", "--subject", "s", "--text", "t")
# asset_list: three attempts of 5 s, and the pauses between them; sendmail: as many; deadlines are in `signalbox tool show`.
COMMANDS: dict[str, tuple[tuple[str, ...], float, str]] = {
    "asset_list": (("tool", "run", "asset_list"), 45, "database"),
    "events": (("events",), 15, "database"),
    "sendmail": (MAIL, 60, "The ledger cannot be written, so sendmail was not run"),
    "discover": (("discover", "127.0.0.1", "--profile", "quick"), 60, "database"),
}


@pytest.mark.parametrize("state", ["silent", "gone"])
def test_a_probe_works_without_the_database_and_is_in_the_ledger_when_it_is_back(stack: Stack, state: str) -> None:
    journal = stack.home / "journal"
    before = set(journal.glob("*.json"))
    with {"silent": silent_server, "gone": gone_server}[state]() as url:
        done, seconds = timed(stack, url, *PING, timeout=20)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["hosts"][0]["outcome"] == "answered"
        assert seconds < 20 + SLACK_SECONDS
    waiting = [json.loads(file.read_text()) for file in set(journal.glob("*.json")) - before]
    (run_id,) = {event["tool_run_id"] for event in waiting if event["tool"] == "ping"}
    assert {event["kind"] for event in waiting} >= {"started", "finished"}
    assert not stack.sql("SELECT 1 FROM tool_run WHERE id = %s", (run_id,))

    run = stack.run_to_end("maintain/hourly")
    assert run["state_type"] == "COMPLETED", stack.run_logs(run["id"])
    ((tool, outcome, target),) = stack.sql("SELECT tool, outcome, target FROM tool_run WHERE id = %s", (run_id,))
    assert (tool, outcome, target) == ("ping", "completed", "127.0.0.1")
    assert not list(journal.glob("*.json"))


@pytest.mark.parametrize("state", ["silent", "gone"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_needs_the_database_says_so_by_its_deadline_and_exits(stack: Stack, state: str, name: str) -> None:
    words, deadline, says = COMMANDS[name]
    with {"silent": silent_server, "gone": gone_server}[state]() as url:
        done, seconds = timed(stack, url, *words, timeout=deadline)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert says in done.stderr
    assert seconds < deadline + SLACK_SECONDS


def test_a_slow_database_slows_tools_and_stops_none(stack: Stack) -> None:
    with slow_server(stack, 0.3) as url:
        done, _ = timed(stack, url, *PING, timeout=60)
        assert done.returncode == 0, done.stderr
        done, _ = timed(stack, url, "tool", "run", "asset_list", "--json", timeout=60)
        assert done.returncode == 0, done.stderr
        assert "assets" in json.loads(done.stdout)


def test_a_database_that_is_too_slow_ends_a_discovery_by_a_clear_word(stack: Stack) -> None:
    with slow_server(stack, 4.0) as url:
        done, _ = timed(stack, url, "discover", "127.0.0.1", "--profile", "quick", timeout=120)
    assert done.returncode in {0, 1}
    if done.returncode == 1:
        assert "database" in done.stderr + done.stdout
