"""Sealed batches in files: nothing leaves the ledger that is not proved elsewhere, and whoever changes anything is noticed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import psycopg2.errors
import pytest

from tasks.core import audit
from tasks.core.audit import Archive, Damaged, export, prune, read, verify, verify_files
from tasks.core.db import ledger as sql
from tasks.core.db.engine import Database
from tasks.core.errors import DatabaseGone
from tasks.core.ledger import Ledger, RunEvent

ROOT = Path(__file__).parents[2]
MONTH = timedelta(days=30)
Admin = Callable[..., list[Any]]


@pytest.fixture
def db(postgres: Any, database_name: str) -> Iterator[Database]:
    """The database as the role `app` sees it: what works here works in production."""
    database = Database(postgres.url("app", database_name))
    yield database
    database.close()


@pytest.fixture
def book(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(sql, "SEAL_BATCH", 3)
    return Ledger(lambda: db, tmp_path / "journal")


@pytest.fixture
def archive(own_home: Path) -> Archive:
    return Archive()


@pytest.fixture
def admin(postgres: Any, database_name: str) -> Admin:
    """Run a statement as somebody who can do everything, and has switched the guards off."""

    def run(statement: str, *values: Any) -> list[Any]:
        connection = psycopg2.connect(postgres.url("postgres", database_name))
        with connection, connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(statement, values)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    return run


def event(kind: str = "finished", **what: Any) -> RunEvent:
    if kind == "finished":
        what.setdefault("outcome", "completed")
    base = {"tool_run_id": uuid4(), "site": "default", "tool": "ping", "service": "network", "safety": "probe"}
    return RunEvent.model_validate({**base, "kind": kind, **what})


async def note(book: Ledger, *events: RunEvent) -> None:
    for one in events:
        await book.record(one, ahead=True)


async def batches(book: Ledger, number: int, **what: Any) -> None:
    """Note so many batches of three finished runs, and seal them."""
    await note(book, *(event(result={"n": n, "text": "ä\u2028\n"}, duration_s=0.1, **what) for n in range(3 * number)))
    await book.seal()


def age(admin: Admin, seals: int = 99) -> None:
    """Make the oldest seals half a year older."""
    admin(
        "UPDATE tool_run_seal SET sealed_at = sealed_at - interval '180 days'"
        " WHERE id IN (SELECT id FROM tool_run_seal ORDER BY id LIMIT %s)",
        seals,
    )


def left(admin: Admin) -> int:
    return int(admin("SELECT count(*) FROM tool_run_event")[0][0])


async def test_an_export_is_proved_by_a_shell_alone(book: Ledger, archive: Archive) -> None:
    await batches(book, 2)
    done = await export(book, archive)
    assert (done.batches, done.events, done.problems) == (2, 6, [])
    first, second = archive.files()
    lines = gzip.decompress(second.read_bytes()).decode().split("\n")
    seal, events = json.loads(lines[0]), [json.loads(line) for line in lines[1:-1]]
    assert seal["events"] == len(events) == 3 and [one["result"]["n"] for one in events] == [3, 4, 5]
    assert seal["previous_hash"] == read(first).hash and read(first).previous_hash == sql.GENESIS
    proof = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", f"(echo {seal['previous_hash']}; zcat {second} | tail -n +2) | head -c -1 | sha256sum"],
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    assert proof.stdout.split()[0] == seal["hash"]
    assert stat.S_IMODE(first.stat().st_mode) == 0o600 and stat.S_IMODE(first.parent.stat().st_mode) == 0o700


async def test_an_export_writes_each_batch_once_and_what_was_removed_again(book: Ledger, archive: Archive) -> None:
    await batches(book, 2)
    await export(book, archive)
    assert (await export(book, archive)).batches == 0
    archive.files()[0].unlink()
    assert (await export(book, archive)).batches == 1 and len(archive.files()) == 2
    await note(book, event())
    assert (await export(book, archive)).batches == 0  # not sealed yet
    await book.seal()
    assert (await export(book, archive)).batches == 1


async def test_sites_have_chains_of_their_own_and_no_name_leaves_the_folder(
    book: Ledger, archive: Archive, own_home: Path
) -> None:
    for site in ("a", "..", "../b", "c/d"):
        await batches(book, 1, site=site)
    assert (await export(book, archive, sites=["a"])).batches == 1
    assert (await export(book, archive)).batches == 3
    assert {file.relative_to(own_home / "audit").parts[0] for file in archive.files()} == {
        "a", "%2E.", "%2E.%2Fb", "c%2Fd",
    }  # fmt: skip
    found = await verify(book, archive)
    assert [(one.site, one.batches, one.files, one.problems) for one in found] == [
        (site, 1, 1, []) for site in ("..", "../b", "a", "c/d")
    ]


async def test_what_was_changed_before_its_export_is_not_exported_and_told(
    book: Ledger, archive: Archive, admin: Admin
) -> None:
    await batches(book, 2)
    admin("UPDATE tool_run_event SET who = 'mallory' WHERE seq = 2")
    done = await export(book, archive)
    assert done.batches == 1 and len(done.problems) == 1 and "not what was sealed" in done.problems[0]
    assert [read(file).from_seq for file in archive.files()] == [4]
    assert list(archive.folder.rglob(".*")) == []


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        ("UPDATE tool_run_event SET result = '{\"n\": 7}' WHERE seq = 2", "an event differs"),
        ("DELETE FROM tool_run_event WHERE seq = 2", "2 events where 3 were sealed"),
        ("UPDATE tool_run_seal SET previous_hash = 'x' WHERE from_seq = 4", "does not follow"),
        # Somebody who can compute hashes as well: the files remember.
        (("DELETE FROM tool_run_event WHERE seq > 6; DELETE FROM tool_run_export WHERE seal_id = 3;"
          " DELETE FROM tool_run_seal WHERE from_seq > 6"), "the database has no such batch"),
        ("UPDATE tool_run_seal SET hash = repeat('0', 64) WHERE from_seq = 7", "its seal is not the one in the database"),
    ],
)  # fmt: skip
async def test_tampering_with_the_database_is_noticed(
    book: Ledger, archive: Archive, admin: Admin, tamper: str, told: str
) -> None:
    await batches(book, 3)
    await export(book, archive)
    [found] = await verify(book, archive)
    assert found.problems == [] and (found.batches, found.events, found.files) == (3, 9, 3)
    admin(tamper)
    [found] = await verify(book, archive)
    assert any(told in problem for problem in found.problems), found.problems


def _edit(path: Path) -> None:
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace('"ping"', '"pong"').encode()))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _drop_a_line(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (_edit, "are not those its seal was made of"),
        (_cut, "cut off"),
        (_drop_a_line, "are not those its seal was made of"),
        (Path.unlink, "does not follow"),
        (lambda path: path.write_bytes(b"not gzip"), "no gzip file"),
        (lambda path: path.write_bytes(gzip.compress(b"[]\n")), "no seal"),
        (lambda path: path.rename(path.with_name("000000000099-000000000099.jsonl.gz")), "not where the batch it holds belongs"),
    ],
)  # fmt: skip
async def test_tampering_with_a_file_is_noticed_without_the_database(
    book: Ledger, archive: Archive, tamper: Callable[[Path], Any], told: str
) -> None:
    await batches(book, 3)
    await export(book, archive)
    assert [found.problems for found in verify_files(archive)] == [[]]
    tamper(archive.files()[1])
    [found] = verify_files(archive)
    assert any(told in problem for problem in found.problems), found.problems


async def test_old_files_that_were_moved_away_are_no_tampering(book: Ledger, archive: Archive) -> None:
    await batches(book, 3)
    await export(book, archive)
    archive.files()[0].unlink()
    assert [(found.batches, found.problems) for found in verify_files(archive)] == [(2, [])]


async def test_pruning_leaves_counters_seals_and_what_is_younger(book: Ledger, archive: Archive, admin: Admin) -> None:
    await batches(book, 3)
    await export(book, archive)
    age(admin, 2)
    counted = await book.counters()
    looked = await prune(book, archive, MONTH, dry_run=True)
    assert (looked.batches, looked.events, left(admin)) == (2, 6, 9)
    done = await prune(book, archive, MONTH)
    assert (done.batches, done.events, done.problems) == (2, 6, [])
    assert left(admin) == 3 == len(await book.list_runs()) and await book.counters() == counted
    [found] = await verify(book, archive)
    assert (found.batches, found.events, found.pruned, found.problems) == (3, 9, 2, [])
    assert (await prune(book, archive, MONTH)).batches == 0
    await batches(book, 1)  # the chain goes on
    assert (await export(book, archive)).batches == 1
    assert [one.problems for one in await verify(book, archive)] == [[]]


async def test_a_run_is_shown_whole_or_not_at_all(book: Ledger, archive: Archive, admin: Admin) -> None:
    run, long_ago = uuid4(), datetime.now(UTC) - timedelta(days=200)
    await note(book, event("queued", tool_run_id=run, params={"a": 1}, at=long_ago))
    await batches(book, 1)  # with the first of its events, and one of another run's moves on as well
    await note(book, event("started", tool_run_id=run, allowed_by="rule"))
    await batches(book, 1)
    await note(book, event(tool_run_id=run, result={"b": 2}))
    await book.seal()
    await export(book, archive)
    whole = await book.get_run(run)
    age(admin, 1)
    await prune(book, archive, MONTH)
    assert await book.get_run(run) == whole and whole.queued_at == long_ago and whole.params == {"a": 1}
    [found] = await verify(book, archive)
    assert found.problems == [] and found.pruned == 1
    admin("UPDATE tool_run_event SET params = '{}' WHERE tool_run_id = %s AND kind = 'queued'", str(run))
    [found] = await verify(book, archive)
    assert len(found.problems) == 1 and "not pruned differs from its file" in found.problems[0]
    age(admin)
    await prune(book, archive, MONTH)
    assert left(admin) == 0 and await book.list_runs() == []


async def test_what_has_no_proved_file_stays_and_gets_one(book: Ledger, archive: Archive, admin: Admin) -> None:
    await batches(book, 2)
    await export(book, archive)
    age(admin)
    first, second = archive.files()
    first.unlink()
    _cut(second)
    done = await prune(book, archive, MONTH)
    assert (done.events, done.problems) == (6, [])
    assert [read(file).events for file in archive.files()] == [3, 3]
    [found] = await verify(book, archive)
    assert found.problems == []
    first.unlink()
    [found] = await verify(book, archive)
    assert any("pruned" in problem and "missing" in problem for problem in found.problems)


async def test_a_changed_batch_goes_only_while_its_file_is_good_and_is_told(
    book: Ledger, archive: Archive, admin: Admin
) -> None:
    await batches(book, 3)
    await export(book, archive)
    age(admin)
    admin("UPDATE tool_run_event SET who = 'mallory' WHERE seq IN (1, 4)")
    archive.files()[1].unlink()
    done = await prune(book, archive, MONTH)
    assert (done.batches, done.events, left(admin)) == (1, 3, 6)
    assert len(done.problems) == 2 and all("not what was sealed" in problem for problem in done.problems)
    assert b"mallory" not in gzip.decompress(archive.files()[0].read_bytes())


@pytest.mark.parametrize("role", ["app", "owner"])
async def test_the_database_itself_keeps_what_is_young_not_exported_or_out_of_order(
    book: Ledger, archive: Archive, admin: Admin, postgres: Any, database_name: str, role: str
) -> None:
    def refused(statement: str) -> bool:
        connection = psycopg2.connect(postgres.url(role, database_name))
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement)
            return False
        except psycopg2.errors.InsufficientPrivilege:
            return True
        finally:
            connection.close()

    await batches(book, 3)
    assert refused("SELECT prune_tool_run_seal(1)")  # not exported
    await export(book, archive)
    assert refused("SELECT prune_tool_run_seal(1)")  # too young
    age(admin)
    assert refused("SELECT prune_tool_run_seal(2)")  # 1 first
    assert refused("SELECT prune_tool_run_seal(77)") and refused("DELETE FROM tool_run_event")
    assert refused("UPDATE tool_run_event SET who = 'x'") and refused("DELETE FROM tool_run_export")
    assert not refused("SELECT prune_tool_run_seal(1)") and left(admin) == 6
    assert refused("DELETE FROM tool_run_prune") and refused("DELETE FROM tool_run_seal")


async def test_another_machines_file_is_no_reason_to_have_none_here(
    book: Ledger, archive: Archive, admin: Admin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await batches(book, 2)
    monkeypatch.setattr(audit, "gethostname", lambda: "elsewhere")
    await export(book, archive)
    shutil.move(archive.folder, tmp_path / "elsewhere")
    monkeypatch.undo()
    age(admin, 1)
    monkeypatch.setattr(audit, "_is_own", lambda given: given.folder == archive.folder)
    assert (await prune(book, archive, MONTH)).events == 3
    assert [read(file).from_seq for file in archive.files()] == [1]
    archive.files()[0].unlink()
    [found] = await verify(book, archive)
    assert found.problems == [] and "elsewhere" in found.notes[0]


async def test_an_export_to_another_folder_has_what_was_pruned_as_well_and_counts_for_nothing(
    book: Ledger, archive: Archive, admin: Admin, tmp_path: Path
) -> None:
    other = Archive(tmp_path / "stick")
    await batches(book, 2)
    assert (await export(book, other)).batches == 2 and admin("SELECT * FROM tool_run_export") == []
    shutil.rmtree(other.folder)
    await export(book, archive)
    age(admin)
    await prune(book, archive, MONTH)
    assert (await export(book, other)).batches == 2
    assert [file.read_bytes() for file in other.files()] == [file.read_bytes() for file in archive.files()]


KILLED = """
import asyncio, os, signal, sys
from datetime import timedelta
from pathlib import Path
from tasks.core import audit
from tasks.core.db import ledger as sql
from tasks.core.db.engine import Database
from tasks.core.ledger import Ledger

url, journal, where = sys.argv[1:4]
die_at = int(sys.argv[4])
seen = 0

def step(*_):
    global seen
    seen += 1
    if seen == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

for name in ("fsync", "replace", "rename", "open"):
    def wrap(original):
        def called(*args, **options):
            step()
            return original(*args, **options)
        return called
    setattr(os, name, wrap(getattr(os, name)))
real = sql.prune
def dies(connection, seal):
    step()
    removed = real(connection, seal)
    step()
    return removed
sql.prune = dies

async def main():
    book, archive = Ledger(lambda: database, Path(journal)), audit.Archive()
    await audit.export(book, archive)
    await audit.prune(book, archive, timedelta(days=30))

database = Database(url)
asyncio.run(main())
print("done", flush=True)
os._exit(0)
"""


async def test_killed_anywhere_in_the_middle_nothing_is_lost(
    book: Ledger, archive: Archive, admin: Admin, postgres: Any, database_name: str, tmp_path: Path, own_home: Path
) -> None:
    await batches(book, 2)
    age(admin)
    events = {row[0] for row in admin("SELECT id::text FROM tool_run_event")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SIGNALBOX_HOME": str(own_home)}
    killed = 0
    for die_at in range(1, 60, 2):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, postgres.url("app", database_name), str(tmp_path / "journal"), ".", str(die_at),
            env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(child.communicate(), 60)
        kept = {row[0] for row in admin("SELECT id::text FROM tool_run_event")}
        for file in archive.files():
            read(file)  # whole, whenever it was killed
            kept |= {json.loads(line)["id"] for line in gzip.decompress(file.read_bytes()).splitlines()[1:]}
        assert kept == events, die_at
        assert [found.problems for found in await verify(book, archive)] == [[]]
        if said:
            break
        assert child.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 3 and left(admin) == 0
    drafts = list(archive.folder.glob("*/.*"))
    for draft in drafts:
        os.utime(draft, (0, 0))
    await export(book, archive)
    assert drafts and list(archive.folder.glob("*/.*")) == []
    assert [found.pruned for found in await verify(book, archive)] == [2]


async def test_two_at_once_do_each_batch_once(book: Ledger, archive: Archive, admin: Admin) -> None:
    await batches(book, 5)
    await asyncio.gather(*(export(book, archive) for _ in range(3)))
    age(admin)
    done = await asyncio.gather(*(prune(book, archive, MONTH) for _ in range(3)))
    assert sum(one.events for one in done) == 15 and left(admin) == 0 and [one.problems for one in done] == [[], [], []]
    assert [found.problems for found in await verify(book, archive)] == [[]]


async def test_what_is_pruned_while_it_is_verified_does_not_look_changed(
    book: Ledger, archive: Archive, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batches(book, 3)
    await export(book, archive)
    age(admin)
    real = sql.seals

    def then_pruned(connection: Any, site: str) -> list[Any]:
        found = real(connection, site)
        for record in found:
            admin("INSERT INTO tool_run_prune (seal_id) VALUES (%s)", record.id)
            admin("DELETE FROM tool_run_event WHERE seq <= %s", record.seal.to_seq)
        monkeypatch.setattr(sql, "seals", real)
        return found

    monkeypatch.setattr(sql, "seals", then_pruned)
    assert await book.verify("default") == [] and left(admin) == 0
    assert (await prune(book, archive, MONTH)).problems == []


async def test_a_full_disk_prunes_nothing(
    book: Ledger, archive: Archive, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await batches(book, 1)
    age(admin)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await export(book, archive)
    with pytest.raises(OSError, match="No space"):
        await prune(book, archive, MONTH)
    assert left(admin) == 3 and archive.files() == [] and list(archive.folder.rglob(".*")) == []


async def test_a_batch_of_large_results_is_exported_in_bounded_memory(
    book: Ledger, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "PAGE", 2)
    monkeypatch.setattr(sql, "SEAL_BATCH", 100)
    await note(book, *(event(result={"text": os.urandom(9000).hex()}) for _ in range(9)))
    [seal] = await book.seal()
    assert seal.events == 9 and await book.verify("default") == []
    assert (await export(book, archive)).events == 9 and archive.holds(seal)


def test_a_file_without_an_end_is_told_soon(tmp_path: Path) -> None:
    bomb = tmp_path / "000000000001-000000000002.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"x" * (64 << 20)))
    began = time.monotonic()
    with pytest.raises(Damaged):
        read(bomb)
    assert time.monotonic() - began < 2


async def test_a_database_that_is_away_is_said(archive: Archive, tmp_path: Path) -> None:
    away = Database("postgresql+psycopg2://app:hunter2@/signalbox?host=/nowhere")
    with pytest.raises(DatabaseGone):
        await export(Ledger(lambda: away, tmp_path / "journal"), archive)
