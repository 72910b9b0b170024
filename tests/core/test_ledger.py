"""The ledger: nothing that ran goes missing, nothing is noted twice, nothing noted is changed."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy import text

from tasks.core import ledger as ledger_module
from tasks.core.db.engine import Database
from tasks.core.errors import DatabaseGone, NotFound
from tasks.core.ledger import Ledger, RunEvent, RunFilter
from tasks.core.log import run_logger
from tasks.core.redact import bounded, json_size, redact

ROOT = Path(__file__).parents[2]
GONE = "postgresql+psycopg2://app:hunter2@/signalbox?host=/nowhere"


@pytest.fixture
def db(postgres, database_name: str) -> Iterator[Database]:  # type: ignore[no-untyped-def]
    """The database as the role `app` sees it: what works here works in production."""
    database = Database(postgres.url("app", database_name))
    yield database
    database.close()


class Switch:
    """A database that can be taken away."""

    def __init__(self, database: Database) -> None:
        self.there = True
        self._database, self._gone = database, Database(GONE)
        self.asked = 0

    def __call__(self) -> Database:
        self.asked += 1
        return self._database if self.there else self._gone


@pytest.fixture
def switch(db: Database) -> Switch:
    return Switch(db)


@pytest.fixture
def book(switch: Switch, tmp_path: Path) -> Ledger:
    return Ledger(switch, tmp_path / "journal")


def event(kind: str = "started", **what: Any) -> RunEvent:
    if kind in ("finished", "refused"):
        what.setdefault("outcome", "completed" if kind == "finished" else "refused")
    base = {"tool_run_id": uuid4(), "site": "default", "tool": "ping", "service": "network", "safety": "probe"}
    return RunEvent.model_validate({**base, "kind": kind, **what})


async def count(db: Database) -> int:
    return int(await db.run(lambda c: c.scalar(text("SELECT count(*) FROM tool_run_event"))) or 0)


def waiting(book: Ledger) -> list[Path]:
    return book._journal.files()


async def test_a_run_is_its_latest_event_and_keeps_what_earlier_ones_said(book: Ledger) -> None:
    run, flow = uuid4(), uuid4()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    said = {"tool_run_id": run, "target": "10.0.0.1", "who": "ann", "request_id": "r1", "flow_run_id": flow}
    await book.record(event("queued", at=at, params={"targets": ["10.0.0.1"]}, **said), ahead=False)
    assert (await book.get_run(run)).state == "queued"
    await book.record(
        event("started", at=at + timedelta(seconds=1), allowed_by="allow 10.0.0.0/8", **said), ahead=False
    )
    assert (await book.get_run(str(run))).state == "running"
    done = event("finished", at=at + timedelta(seconds=3), duration_s=2.0, result={"alive": 1}, **said)
    await book.record(done, ahead=False)
    found = await book.get_run(run)
    assert found.state == found.outcome == "completed"
    assert (found.params, found.allowed_by, found.result) == (
        {"targets": ["10.0.0.1"]},
        "allow 10.0.0.0/8",
        {"alive": 1},
    )
    assert [found.queued_at, found.started_at, found.finished_at] == [at + timedelta(seconds=s) for s in (0, 1, 3)]
    assert (found.who, found.request_id, found.flow_run_id, found.duration_s) == ("ann", "r1", flow, 2.0)


@pytest.mark.parametrize("outcome", ["completed", "failed", "timed_out", "cancelled"])
async def test_every_outcome_shows(book: Ledger, outcome: str) -> None:
    run = uuid4()
    await book.record(event("started", tool_run_id=run), ahead=False)
    await book.record(event("finished", tool_run_id=run, outcome=outcome, error_class="X"), ahead=False)
    assert (await book.get_run(run)).state == outcome


async def test_a_refused_run_shows_and_a_second_attempt_replaces_the_first(book: Ledger) -> None:
    refused = event("refused", error_class="Refused", error_message="never")
    await book.record(refused, ahead=False)
    assert (await book.get_run(refused.tool_run_id)).state == "refused"
    run = uuid4()
    await book.record(event("finished", tool_run_id=run, outcome="failed"), ahead=False)
    await book.record(event("started", tool_run_id=run, attempt=2), ahead=False)
    assert (await book.get_run(run)).state == "running"
    await book.record(event("finished", tool_run_id=run, attempt=2), ahead=False)
    assert ((await book.get_run(run)).state, (await book.get_run(run)).attempt) == ("completed", 2)


async def test_clocks_that_run_backwards_do_not_bring_a_run_back_to_life(book: Ledger) -> None:
    run, now = uuid4(), datetime.now(UTC)
    await book.record(event("finished", tool_run_id=run, at=now - timedelta(seconds=9)), ahead=False)
    await book.record(event("started", tool_run_id=run, at=now), ahead=False)
    assert (await book.get_run(run)).state == "completed"


async def test_a_run_nobody_knows_is_not_found(book: Ledger) -> None:
    for name in (uuid4(), "'; DROP TABLE site; --"):
        with pytest.raises(NotFound):
            await book.get_run(name)


async def test_runs_are_listed_newest_first_and_filtered_with_wildcards_as_data(book: Ledger) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number, (tool, target, site) in enumerate(
        [("ping", "10.0.0.1", "a"), ("nmap", "100%_sure", "a"), ("ping", "Printer", "b"), ("ping", "x", "b")]
    ):
        await book.record(event(tool=tool, target=target, site=site, at=start + timedelta(minutes=number)), ahead=False)

    async def targets(limit: int = 50, **filters: Any) -> list[str]:
        return [run.target for run in await book.list_runs(RunFilter(**filters), limit)]

    assert await targets() == ["x", "Printer", "100%_sure", "10.0.0.1"]
    assert await targets(limit=1) == ["x"]
    assert await targets(tool="ping", site="b") == ["x", "Printer"]
    assert await targets(target="print") == ["Printer"]
    assert await targets(target="%") == ["100%_sure"] == await targets(target="%_S")
    assert await targets(state="completed") == []
    assert await targets(since=start + timedelta(minutes=2), until=start + timedelta(minutes=3)) == ["Printer"]


async def test_the_same_event_twice_is_one_event_and_counts_once(book: Ledger, db: Database) -> None:
    done = event("finished", duration_s=1.5)
    for _ in range(3):
        await book.record(done, ahead=True)
    assert await count(db) == 1
    [counted] = await book.counters()
    assert (counted.tool, counted.outcome, counted.count, counted.duration_sum_s) == ("ping", "completed", 1, 1.5)


async def test_counters_add_up_by_hour_and_day_and_survive_the_deletion_of_events(
    book: Ledger, db: Database, postgres, database_name: str
) -> None:  # type: ignore[no-untyped-def]
    day = datetime(2026, 3, 1, tzinfo=UTC)
    for hours, outcome in ((0.5, "completed"), (0.9, "completed"), (5, "failed"), (30, "completed")):
        await book.record(
            event("finished", at=day + timedelta(hours=hours), outcome=outcome, duration_s=2), ahead=False
        )
    await book.record(event("refused", at=day), ahead=False)
    await book.record(event("started", at=day), ahead=False)

    def told(counts: list[ledger_module.Count]) -> list[tuple[Any, ...]]:
        return [(c.outcome, (c.bucket - day) / timedelta(hours=1) if c.bucket else None, c.count) for c in counts]

    total = [("completed", None, 3), ("failed", None, 1), ("refused", None, 1)]
    assert told(await book.counters()) == total
    assert told(await book.counters(by="hour", tool="ping")) == [
        ("completed", 0, 2), ("completed", 30, 1), ("failed", 5, 1), ("refused", 0, 1),
    ]  # fmt: skip
    assert told(await book.counters(by="day", since=day + timedelta(hours=24))) == [("completed", 24, 1)]
    admin = psycopg2.connect(postgres.url("postgres", database_name))
    with admin, admin.cursor() as cursor:
        cursor.execute("ALTER TABLE tool_run_event DISABLE TRIGGER ALL; DELETE FROM tool_run_event")
    admin.close()
    assert await count(db) == 0 and told(await book.counters()) == total


@pytest.mark.parametrize("role", ["app", "owner", "postgres"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tool_run_event SET who = 'somebody else'",
        "DELETE FROM tool_run_event",
        "TRUNCATE tool_run_event",
        "UPDATE tool_run_seal SET hash = 'x'",
        "DELETE FROM tool_run_seal",
    ],
)
async def test_nobody_changes_or_removes_what_was_noted(
    book: Ledger, postgres, database_name: str, role: str, statement: str
) -> None:  # type: ignore[no-untyped-def]
    await book.record(event("finished"), ahead=True)
    await book.seal()
    connection = psycopg2.connect(postgres.url(role, database_name))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection, connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


async def test_the_role_app_can_neither_set_counters_nor_switch_the_guard_off(postgres, database_name: str) -> None:  # type: ignore[no-untyped-def]
    for statement in (
        "UPDATE tool_run_counter SET count = 0",
        "INSERT INTO tool_run_counter VALUES ('a', 'b', 'completed', now(), 1, 1)",
        "ALTER TABLE tool_run_event DISABLE TRIGGER ALL",
        "DROP VIEW tool_run",
    ):
        connection = psycopg2.connect(postgres.url("app", database_name))
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection, connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()


async def test_what_reads_waits_in_the_journal_while_the_database_is_away_and_is_entered_later(
    book: Ledger, switch: Switch, db: Database
) -> None:
    switch.there = False
    events = [event("started"), event("finished", result={"loss": 0.5, "note": "naïve ☃"}, duration_s=0.25)]
    run_logger()  # imports Prefect, which takes seconds on a busy machine
    started = time.monotonic()
    for one in events:
        await book.record(one, ahead=False)
    assert time.monotonic() - started < 10
    files = waiting(book)
    assert len(files) == 2
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    switch.there = True
    book._gone_until = 0.0
    await book.record(event("started"), ahead=False)  # the next write that succeeds brings them along
    assert waiting(book) == [] and await count(db) == 3
    kept = await book.get_run(events[1].tool_run_id)
    assert (kept.result, kept.duration_s, kept.finished_at) == (events[1].result, 0.25, events[1].at)


async def test_what_changes_something_does_not_run_when_it_cannot_be_noted_first(book: Ledger, switch: Switch) -> None:
    switch.there = False
    with pytest.raises(DatabaseGone, match="was not run") as caught:
        await book.record(event(tool="asset_delete", safety="destroy"), ahead=True)
    assert waiting(book) == [] and "hunter2" not in str(caught.value)
    switch.there = True
    await book.record(event(tool="asset_delete", safety="destroy"), ahead=True)  # tried again at once, no breaker


async def test_a_silent_database_is_waited_for_once_not_for_every_event(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        url = f"postgresql+psycopg2://app:hunter2@127.0.0.1:{server.getsockname()[1]}/signalbox"
        book = Ledger(lambda: silent, tmp_path / "journal")
        silent = Database(url)
        started = time.monotonic()
        for _ in range(20):
            await book.record(event(), ahead=False)
        assert 1.9 < time.monotonic() - started < 20
        assert len(waiting(book)) == 20


def test_a_process_that_notes_while_the_database_is_silent_ends_promptly(tmp_path: Path) -> None:
    import socket

    program = """
import asyncio, sys
from pathlib import Path
from tasks.core.db.engine import Database
from tasks.core.ledger import Ledger, RunEvent
book = Ledger(lambda: Database(sys.argv[1]), Path(sys.argv[2]))
note = RunEvent(tool_run_id="00000000-0000-0000-0000-000000000001", site="s", kind="started", tool="t", service="network", safety="probe")
asyncio.run(book.record(note, ahead=False))
"""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        url = f"postgresql+psycopg2://app:hunter2@127.0.0.1:{server.getsockname()[1]}/signalbox"
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, url, str(tmp_path)],
            cwd=ROOT,
            timeout=20,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 15.0  # 2 s of it waiting for the answer, most of the rest importing
    assert "hunter2" not in done.stdout + done.stderr and len(list(tmp_path.glob("*.json"))) == 1


async def test_a_slow_database_is_left_after_two_seconds_and_the_event_is_noted_once(
    book: Ledger, db: Database, postgres, database_name: str
) -> None:  # type: ignore[no-untyped-def]
    admin = psycopg2.connect(postgres.url("owner", database_name))
    admin.cursor().execute("LOCK TABLE tool_run_event IN ACCESS EXCLUSIVE MODE")
    started = time.monotonic()
    await book.record(event(), ahead=False)
    assert time.monotonic() - started < 20 and len(waiting(book)) == 1
    admin.rollback()
    admin.close()
    assert await book.replay() == 1 and await book.replay() == 0
    assert await count(db) == 1 and waiting(book) == []


async def test_a_note_that_is_cancelled_half_way_is_in_the_journal(
    book: Ledger, db: Database, postgres, database_name: str
) -> None:  # type: ignore[no-untyped-def]
    admin = psycopg2.connect(postgres.url("owner", database_name))
    admin.cursor().execute("LOCK TABLE tool_run_event IN ACCESS EXCLUSIVE MODE")
    noting = asyncio.create_task(book.record(event(), ahead=False))
    await asyncio.sleep(0.2)
    noting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await noting
    admin.rollback()
    admin.close()
    await book.replay()
    assert await count(db) == 1


async def test_two_replays_at_once_enter_each_event_once(
    book: Ledger, switch: Switch, db: Database, tmp_path: Path
) -> None:
    switch.there = False
    await asyncio.gather(
        *(book.record(event("finished", tool=f"tool{n % 7}", site=f"s{n % 3}"), ahead=False) for n in range(450))
    )
    switch.there = True
    others = [Ledger(switch, tmp_path / "journal") for _ in range(4)]
    new = await asyncio.gather(*(other.replay() for other in others))
    assert sum(new) == 450 == await count(db)
    assert sum(c.count for c in await book.counters()) == 450 and waiting(book) == []


async def test_a_replay_killed_in_the_middle_loses_nothing(book: Ledger, switch: Switch, db: Database) -> None:
    switch.there = False
    for _ in range(3):
        await book.record(event(), ahead=False)
    switch.there = True
    # Entered, but killed before the files were removed: the next replay finds them entered.
    copies = {file: file.read_bytes() for file in waiting(book)}
    assert await book.replay() == 3
    for file, content in copies.items():
        file.write_bytes(content)
    assert await book.replay() == 0
    assert await count(db) == 3 and waiting(book) == []


async def test_a_damaged_and_an_impossible_event_are_set_aside_and_hold_up_nobody(
    book: Ledger, switch: Switch, db: Database
) -> None:
    switch.there = False
    await book.record(event(), ahead=False)
    await book.record(event("started", outcome="completed"), ahead=False)  # the database's check says no
    (book._journal.folder / "20200101T000000.000000-x.json").write_text('{"half": ')
    switch.there = True
    assert await book.replay() == 1
    assert await count(db) == 1 and waiting(book) == []
    assert len(list(book._journal.folder.glob("*.rejected"))) == 2


async def test_a_full_disk_and_no_database_is_said(switch: Switch, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    book = Ledger(switch, tmp_path / "journal")
    switch.there = False
    with pytest.raises(DatabaseGone, match="journal"):
        await book.record(event(), ahead=False)


async def test_a_ledger_before_the_first_start_keeps_a_journal(own_home: Path) -> None:
    ledger_module.database.cache_clear()
    book = Ledger()
    await book.record(event(), ahead=False)
    assert len(list((own_home / "journal").glob("*.json"))) == 1
    with pytest.raises(DatabaseGone, match="signalbox up"):
        await book.record(event(), ahead=True)


async def test_a_run_that_never_ended_becomes_unknown_once_and_its_late_end_still_counts(book: Ledger) -> None:
    old = datetime.now(UTC) - timedelta(hours=2)
    lost, ended, young, retried = (uuid4() for _ in range(4))
    await book.record(event(tool_run_id=lost, at=old, who="ann"), ahead=False)
    await book.record(event(tool_run_id=ended, at=old), ahead=False)
    await book.record(event("finished", tool_run_id=ended, at=old), ahead=False)
    await book.record(event(tool_run_id=young), ahead=False)
    await book.record(event(tool_run_id=retried, at=old), ahead=False)
    await book.record(event(tool_run_id=retried, attempt=2), ahead=False)
    marked = await asyncio.gather(*(book.mark_unknown(timedelta(hours=1)) for _ in range(3)))
    assert [run for runs in marked for run in runs] == [lost]
    assert ((await book.get_run(lost)).state, (await book.get_run(lost)).who) == ("unknown", "ann")
    assert (await book.get_run(young)).state == "running"
    await book.record(event("finished", tool_run_id=lost, at=old + timedelta(minutes=1)), ahead=False)
    assert (await book.get_run(lost)).state == "completed"


async def test_a_result_over_64_kib_is_replaced_by_its_counts_scalars_and_files(book: Ledger) -> None:
    ref = {"site": "default", "name": "scan.xml", "size_bytes": 9, "sha256": "0" * 64}
    result = {
        "hosts": [{"ip": f"10.0.{n // 256}.{n % 256}"} for n in range(9000)],
        "alive": 9000,
        "raw": ref,
        "note": "x" * 5000,
    }
    done = event("finished", result=result)
    await book.record(done, ahead=False)
    kept = (await book.get_run(done.tool_run_id)).result
    assert kept is not None
    assert (kept["truncated"], kept["size_bytes"], kept["counts"]) == (True, json_size(result), {"hosts": 9000})
    assert (kept["alive"], kept["raw"]) == (9000, ref) and len(kept["note"]) < 1100
    exact = {"text": "é" * ((64 * 1024 - json_size({"text": ""})) // 2)}
    assert bounded(exact) is exact
    wide = {f"name{n}": "x" * 999 for n in range(5000)}
    assert json_size(bounded(wide)) <= 64 * 1024


async def test_nothing_secret_reaches_database_or_journal(book: Ledger, switch: Switch, db: Database) -> None:
    planted = "hunter2-Zq9"
    leaky: dict[str, Any] = {
        "url": f"https://joe:{planted}@example.com/x",
        "headers": {"Authorization": f"Bearer {planted}", "X": f"Cookie: a={planted}"},
        "password": planted,
        "nested": [{"api_key": planted, "clientSecret": planted}, f"curl -H 'Authorization: Basic {planted}' h"],
        "text": f"login password={planted}&next=1; token: {planted}",
        "hook": f"https://hooks.slack.com/services/T0/B0/{planted}",
        "teams": f"https://prod.westeurope.logic.azure.com/workflows/1?sp=a&sig={planted}",
        "key": f"-----BEGIN RSA PRIVATE KEY-----\n{planted}\n-----END RSA PRIVATE KEY-----",
    }

    def one() -> RunEvent:
        message = f"postgresql://app:{planted}@db/x failed, sig={planted}"
        return event(
            "finished", outcome="failed", result=leaky, params=leaky, error_message=message, target=leaky["url"]
        )

    await book.record(one(), ahead=False)
    rows = await db.run(lambda c: c.execute(text("SELECT to_jsonb(e)::text FROM tool_run_event e")).scalars().all())
    assert len(rows) == 1 and planted not in rows[0]
    switch.there = False
    await book.record(one(), ahead=False)
    [file] = waiting(book)
    assert planted not in file.read_text()


def test_what_is_no_secret_stays_as_it_was() -> None:
    plain: dict[str, Any] = {
        "url": "https://example.com/a?b=c", "mail": "mail to joe@example.com", "tokens_per_second": 5, "author": "x", "count": 3,
        "secret": None, "verify_password": True, "note": "the password is wrong", "when": "at 10:30", "auth_method": "basic",
    }  # fmt: skip
    assert redact(plain) == plain


async def test_what_postgresql_cannot_store_is_stored_all_the_same(book: Ledger) -> None:
    odd = {"nul": "a\x00b", "half": "\ud800", "nan": float("nan"), "id": UUID(int=1), "bytes": b"x", 5: "five"}
    done = event("finished", result=redact(odd), target="t\x00", error_message="\udfff")
    await book.record(done, ahead=False)
    kept = await book.get_run(done.tool_run_id)
    assert (
        kept.result is not None and kept.result["nul"] == "a\N{REPLACEMENT CHARACTER}b" and kept.result["nan"] == "nan"
    )
    assert json.loads(json.dumps(kept.result)) == kept.result and waiting(book) == []


async def test_seals_chain_per_site_and_any_change_breaks_them(
    book: Ledger, db: Database, postgres, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    from tasks.core.db import ledger as sql

    monkeypatch.setattr(sql, "SEAL_BATCH", 2)
    for n in range(5):
        await book.record(event("finished", site="a", result={"n": n, "f": 0.1}, duration_s=0.3), ahead=False)
    await book.record(event("finished", site="b"), ahead=False)
    seals = await book.seal()
    assert sorted((s.site, s.events) for s in seals) == [("a", 1), ("a", 2), ("a", 2), ("b", 1)]
    chain = [s for s in seals if s.site == "a"]
    assert [s.previous_hash for s in chain] == [sql.GENESIS, chain[0].hash, chain[1].hash]
    assert await book.seal() == [] and await book.verify("a") == [] == await book.verify("b")
    await book.record(event("finished", site="a"), ahead=False)
    [more] = await book.seal()
    assert more.previous_hash == chain[-1].hash and await book.verify("a") == []

    admin = psycopg2.connect(postgres.url("postgres", database_name))
    with admin, admin.cursor() as cursor:
        cursor.execute("ALTER TABLE tool_run_event DISABLE TRIGGER ALL")
        cursor.execute("UPDATE tool_run_event SET who = 'mallory' WHERE seq = (SELECT min(seq) FROM tool_run_event)")
        cursor.execute("DELETE FROM tool_run_event WHERE seq = %s", (more.to_seq,))
    admin.close()
    problems = await book.verify("a")
    assert len(problems) == 2 and "differs" in problems[0] and "0 events where 1 were sealed" in problems[1]


async def test_the_sealer_waits_for_an_insert_in_flight_so_that_no_event_slips_under_a_seal(
    book: Ledger, postgres, database_name: str
) -> None:  # type: ignore[no-untyped-def]
    slow = psycopg2.connect(postgres.url("app", database_name))
    slow.cursor().execute(
        "INSERT INTO tool_run_event (id, tool_run_id, site, kind, at, tool, service, safety)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), 'a', 'started', now(), 't', 'network', 'probe')"
    )
    later = event(site="a")
    await book.record(later, ahead=False)  # a larger seq, committed first; inserts do not wait for each other
    sealing = asyncio.create_task(book.seal())
    await asyncio.sleep(0.3)
    assert not sealing.done()
    slow.commit()
    slow.close()
    [sealed] = await sealing
    assert sealed.events == 2 and await book.verify("a") == []
