"""The database connection: whatever the server does, a call ends by its deadline and a process can end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2.errors
import pytest
from sqlalchemy import Connection, text

from blocks.database import AssetDatabase
from tasks.core.db.engine import Database
from tasks.core.db.migrate import head_revision, migrate
from tasks.core.errors import Busy, Conflict, DatabaseGone, NotFound, ToolError, Unauthorized

ROOT = Path(__file__).parents[2]


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@contextmanager
def silent_server() -> Iterator[int]:
    """A TCP server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for line in taken:
            line.close()


class Relay:
    """A TCP line to PostgreSQL's Unix socket that can fall silent in both directions, without closing anything."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.speaking = threading.Event()
        self.speaking.set()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.path)
            self._lines += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self.speaking.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.speaking.set()
        self._server.close()
        for line in self._lines:
            line.close()


@pytest.fixture
def relay(postgres, database_name: str) -> Iterator[tuple[Relay, str]]:  # type: ignore[no-untyped-def]
    """A relay to the test's database, and the owner's URL through it."""
    from sqlalchemy import make_url

    url = make_url(postgres.url("owner", database_name))
    line = Relay(f"{url.query['host']}/.s.PGSQL.5432")
    through = url.set(host="127.0.0.1", port=line.port, query={"sslmode": "disable"})
    yield line, through.render_as_string(hide_password=False)
    line.close()


async def wait_until(condition, seconds: float = 5.0) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


async def ended_on_the_server(db: Database, statement: str) -> bool:
    running = text("SELECT count(*) FROM pg_stat_activity WHERE query = :statement AND state = 'active'")
    for _ in range(60):
        if await db.run(lambda c: c.scalar(running, {"statement": statement})) == 0:
            return True
        await asyncio.sleep(0.05)
    return False


def one(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT 1")) or 0)


async def test_what_is_run_is_committed_and_an_error_rolls_it_back(db: Database) -> None:
    await db.run(lambda c: c.execute(text("INSERT INTO site (name) VALUES ('kept')")))

    def fail(connection: Connection) -> None:
        connection.execute(text("INSERT INTO site (name) VALUES ('lost')"))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await db.run(fail)
    assert await db.run(lambda c: c.scalars(text("SELECT name FROM site ORDER BY name")).all()) == ["kept"]


async def test_a_silent_server_costs_the_deadline_and_no_more() -> None:
    with silent_server() as port:
        database = Database(f"postgresql+psycopg2://app:hunter2@127.0.0.1:{port}/signalbox")
        started = time.monotonic()
        results = await asyncio.gather(*(database.run(one, timeout=1.0) for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - started < 4
        assert all(isinstance(result, DatabaseGone) for result in results)


async def test_a_server_that_falls_silent_in_the_middle_is_left_and_its_thread_comes_back(
    relay: tuple[Relay, str],
) -> None:
    line, url = relay
    database = Database(url, workers=1)
    assert await database.run(one) == 1
    line.speaking.clear()
    started = time.monotonic()
    with pytest.raises(DatabaseGone):
        await database.run(one, timeout=0.5)
    assert time.monotonic() - started < 10
    # The only thread hangs in a read that will never end by itself: it is free again once the socket was cut.
    assert await wait_until(lambda: database._workers._idle == 1, 3.0)
    line.speaking.set()
    assert await database.run(one) == 1
    database.close()


@pytest.mark.parametrize("silence", ["on connecting", "in a statement"])
def test_a_process_ends_promptly_while_the_server_is_silent(silence: str, relay: tuple[Relay, str]) -> None:
    line, url = relay
    program = """
import asyncio, sys
from sqlalchemy import text
from tasks.core.db.engine import Database
from tasks.core.errors import DatabaseGone
async def main():
    database = Database(sys.argv[1])
    if sys.argv[2] == "in a statement":
        await database.run(lambda c: c.execute(text("SELECT 1")), timeout=5)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        await database.run(lambda c: c.execute(text("SELECT 1")), timeout=0.5)
    except DatabaseGone:
        print("gone", flush=True)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, url, silence],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        line.speaking.clear()
        started = time.monotonic()
        try:
            out, err = process.communicate("go\n", timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - started < 20
    assert (out, err, process.returncode) == ("gone\n", "", 0)


async def test_a_slow_statement_ends_by_the_deadline_on_the_server_too(db: Database) -> None:
    started = time.monotonic()
    with pytest.raises(DatabaseGone):
        await db.run(lambda c: c.execute(text("SELECT pg_sleep(30)")), timeout=0.6)
    assert time.monotonic() - started < 10
    assert await ended_on_the_server(db, "SELECT pg_sleep(30)")


async def test_a_cancelled_call_is_cancelled_on_the_server_and_rolled_back(db: Database) -> None:
    began = threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(text("INSERT INTO site (name) VALUES ('lost')"))
        began.set()
        connection.execute(text("SELECT pg_sleep(30)"))

    call = asyncio.create_task(db.run(slow, timeout=60))
    assert await wait_until(began.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await ended_on_the_server(db, "SELECT pg_sleep(30)")
    assert await db.run(lambda c: c.scalar(text("SELECT count(*) FROM site"))) == 0


async def test_an_abandoned_call_does_not_commit_what_it_did(db: Database) -> None:
    go_on = threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(text("INSERT INTO site (name) VALUES ('late')"))
        go_on.wait(5)

    with pytest.raises(DatabaseGone):
        await db.run(slow, timeout=0.3)
    go_on.set()
    await asyncio.sleep(0.3)
    assert await db.run(lambda c: c.scalar(text("SELECT count(*) FROM site"))) == 0


async def test_connections_the_server_closed_are_replaced_without_an_error(db: Database) -> None:
    await asyncio.gather(*(db.run(lambda c: c.execute(text("SELECT pg_sleep(0.05)"))) for _ in range(4)))
    await db.run(
        lambda c: c.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    )
    await asyncio.sleep(0.1)
    assert await asyncio.gather(*(db.run(one) for _ in range(4))) == [1] * 4


async def test_a_server_that_is_gone_is_said_to_be_gone_and_its_password_is_not_said(postgres) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    wrong = postgres.url("app").replace("//app:", "//app:wrong-")
    for url, kind in (
        (f"postgresql+psycopg2://app:hunter2@127.0.0.1:{port}/signalbox", DatabaseGone),
        ("postgresql+psycopg2://app:hunter2@/signalbox?host=/nowhere", DatabaseGone),
        (wrong, Unauthorized),
        (postgres.url("postgres", "no_such_database"), NotFound),
    ):
        database = Database(url)
        with pytest.raises(kind) as caught:
            await database.run(one)
        error: BaseException | None = caught.value
        assert "hunter2" not in repr(database) and "wrong-" not in repr(database)
        while error is not None:
            assert "hunter2" not in str(error) and "wrong-" not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_a_lock_held_too_long_is_busy_and_a_lost_race_is_tried_again(db: Database) -> None:
    await db.run(lambda c: c.execute(text("INSERT INTO site (name) VALUES ('a'), ('b')")))
    held, let_go = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.execute(text("SELECT * FROM site WHERE name = 'a' FOR UPDATE"))
        held.set()
        let_go.wait(10)

    holder = asyncio.create_task(db.run(hold, timeout=10))
    assert await wait_until(held.is_set)
    with pytest.raises(Busy):
        await db.run(lambda c: c.execute(text("UPDATE site SET description = 'x' WHERE name = 'a'")), timeout=1.0)
    let_go.set()
    await holder

    both = threading.Barrier(2)
    tries: list[str] = []

    def crossing(first: str, second: str):  # type: ignore[no-untyped-def]
        def work(connection: Connection) -> None:
            tries.append(first)
            connection.execute(text("UPDATE site SET description = description || :n WHERE name = :n"), {"n": first})
            if tries.count(first) == 1:
                both.wait(5)
            connection.execute(
                text("UPDATE site SET description = description || :n WHERE name = :o"), {"n": first, "o": second}
            )

        return work

    await asyncio.gather(db.run(crossing("a", "b"), timeout=10), db.run(crossing("b", "a"), timeout=10))
    assert len(tries) == 3  # one of them lost the deadlock, and was run once more
    assert sorted(await db.run(lambda c: c.scalars(text("SELECT length(description)::text FROM site")).all())) == [
        "2",
        "2",
    ]


async def test_a_race_lost_again_and_again_is_a_conflict_and_a_mistake_of_ours_stays_one(db: Database) -> None:
    tries = 0

    def lose(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'serialization_failure'; END $$"))

    with pytest.raises(Conflict):
        await db.run(lose)
    assert tries == 4
    with pytest.raises(Exception, match="syntax error") as caught:
        await db.run(lambda c: c.execute(text("SELEC 1")))
    assert not isinstance(caught.value, ToolError)


async def test_many_loops_and_many_calls_share_one_database(db: Database) -> None:
    def own_loop(found: list[int]) -> None:
        async def both() -> list[int]:
            return await asyncio.gather(*(db.run(one) for _ in range(20)))

        found.extend(asyncio.run(both()))

    found: list[int] = []
    threads = [threading.Thread(target=own_loop, args=(found,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found == [1] * 80
    assert (
        await db.run(
            lambda c: c.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"))
        )
        <= 8
    )


async def test_two_migrations_at_once_both_end_at_the_newest_revision(postgres) -> None:  # type: ignore[no-untyped-def]
    admin = psycopg2.connect(postgres.url("postgres"))
    admin.autocommit = True
    admin.cursor().execute("CREATE DATABASE twice TEMPLATE signalbox OWNER owner")
    try:
        url = postgres.url("owner", "twice")
        assert await asyncio.gather(*(migrate(url) for _ in range(3))) == [head_revision()] * 3
        assert await migrate(url) == head_revision()
    finally:
        admin.cursor().execute("DROP DATABASE twice WITH (FORCE)")
        admin.close()


async def test_a_database_of_a_newer_version_is_refused_and_an_empty_one_says_what_to_do(
    db: Database, postgres, database_url: str
) -> None:  # type: ignore[no-untyped-def]
    await db.run(lambda c: c.execute(text("UPDATE signalbox_revision SET version_num = '9999'")))
    with pytest.raises(Conflict, match="9999"):
        await migrate(database_url)
    empty = Database(postgres.url("owner", "signalbox"))
    with pytest.raises(NotFound, match="signalbox up"):
        await empty.run(lambda c: c.execute(text("SELECT * FROM tool_run")))
    empty.close()


def test_the_engine_loads_without_prefect() -> None:
    program = "import sys, tasks.core.db.engine, tasks.core.db.migrate; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, timeout=60).returncode == 0


def test_the_block_opens_a_session_hides_its_password_and_survives_a_round_trip(database_url: str) -> None:
    block = AssetDatabase.from_url(database_url, lock_timeout=3)
    assert block.connection.password is not None
    secret = block.connection.password.get_secret_value()
    assert secret not in repr(block) and secret not in str(block.url()) and secret not in block.model_dump_json()
    assert "connection.password" in AssetDatabase.model_json_schema()["secret_fields"]
    with block.session() as session:
        assert session.scalar(text("SHOW lock_timeout")) == "3s"
        assert session.scalar(text("SHOW timezone")) == "UTC"
        session.get_bind().dispose()  # type: ignore[union-attr]
    with block.connector() as connector:
        assert connector.fetch_one("SELECT 1") == (1,)
