"""The prune flow: what is too old goes, what is in use or not proved elsewhere stays, and what a killed run left comes back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg2
import pytest
import yaml

from blocks import _reservation
from blocks.captures import CaptureStore
from flows.prune import prune
from tasks.core.db.engine import Database
from tasks.core.errors import Conflict, DatabaseGone
from tasks.core.ledger import Ledger, RunEvent
from tasks.core.run import FixedWiring, wired

if TYPE_CHECKING:
    from lab.stack import Stack


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    store = CaptureStore(folder=tmp_path / "store")
    month_ago = time.time() - 30 * 86_400
    for name in ("old/a.pcap", "old/b.pcap", "new.pcap"):
        store.write(name, b"x" * 1000)
    for name in ("old/a.pcap", "old/b.pcap"):
        os.utime(store.path(name), (month_ago, month_ago))
    return store


async def test_what_is_too_old_goes_and_what_is_in_use_stays(prefect_server: str, store: CaptureStore) -> None:
    with wired(FixedWiring(captures=store)):
        looked = await prune(dry_run=True)
        assert (looked.removed, looked.files, looked.dry_run) == (2, 3, True)
        with store.reading("old/a.pcap"):
            done = await prune()
        assert (done.removed, done.removed_bytes, done.files, done.used_bytes) == (1, 1000, 2, 2000)
        assert [entry.name for entry in store.files()] == ["old/a.pcap", "new.pcap"]
        assert (await prune()).removed == 1


async def test_what_a_killed_run_left_comes_back(prefect_server: str, store: CaptureStore) -> None:
    path = store.new("tcpdump/lost.txt", expected_bytes=1000, keep=True)
    path.write_bytes(b"what it had")
    os.close(_reservation._held.pop(str(path.parents[1])))  # what the kernel does when its process dies
    with wired(FixedWiring(captures=store)):
        done = await prune()
    assert done.recovered == ["tcpdump/lost.txt"] and "1 capture of killed runs recovered" in done.headline()
    assert store.path("tcpdump/lost.txt").read_bytes() == b"what it had"


def test_it_is_scheduled_and_can_be_started_by_hand() -> None:
    declared = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    ours = {entry["name"]: entry for entry in declared if entry["entrypoint"] == "flows.prune.prune"}
    assert set(ours) == {"hourly", "on-demand"}
    assert ours["hourly"]["schedules"] and "schedules" not in ours["on-demand"]


def test_a_runs_page_names_the_files_of_its_result_once() -> None:
    from flows._report import files
    from tasks.core.models import FileRef
    from tasks.network.capture.ngrep import NgrepResult

    ref = FileRef(site="default", name="ngrep/one.pcap", size_bytes=24, sha256="0" * 64)
    result = NgrepResult(capture=ref, matches=(), found=0, conversations=0, complete=True, revealed=False)
    assert files(result) == [ref] and files([result, ref, "x", None]) == [ref]


@pytest.fixture
def book(postgres: Any, database_name: str, tmp_path: Path) -> Iterator[Ledger]:
    database = Database(postgres.url("app", database_name))
    yield Ledger(lambda: database, tmp_path / "journal")
    database.close()


def as_admin(postgres: Any, database_name: str, statement: str) -> None:
    connection = psycopg2.connect(postgres.url("postgres", database_name))
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)
    connection.close()


async def test_the_ledger_is_exported_and_what_is_too_old_goes(
    prefect_server: str, store: CaptureStore, book: Ledger, postgres: Any, database_name: str, own_home: Path
) -> None:
    what = {"site": "default", "kind": "finished", "outcome": "completed", "tool": "ping", "service": "network"}
    for _ in range(3):
        await book.record(RunEvent.model_validate({**what, "safety": "probe", "tool_run_id": uuid4()}), ahead=True)
    await book.seal()
    with wired(FixedWiring(captures=store, book=book)):
        done = await prune()
        assert (done.exported, done.pruned, done.ledger_problems) == (3, 0, [])
        assert "3 events of the ledger exported, 0 events removed" in done.headline()
        assert len(list((own_home / "audit" / "default").iterdir())) == 1
        as_admin(postgres, database_name, "UPDATE tool_run_seal SET sealed_at = sealed_at - interval '40 days'")
        assert (await prune()).pruned == 0  # 400 days are kept
        assert (await prune(ledger_days=30, dry_run=True)).pruned == 3
        assert (await prune(ledger_days=30)).pruned == 3
    assert await book.list_runs() == [] and sum(one.count for one in await book.counters()) == 3
    assert await book.verify("default") == []


async def test_a_ledger_that_was_changed_fails_the_run_after_the_store_was_pruned(
    prefect_server: str, store: CaptureStore, book: Ledger, postgres: Any, database_name: str
) -> None:
    what = {"site": "default", "kind": "finished", "outcome": "completed", "tool": "ping", "service": "network"}
    await book.record(RunEvent.model_validate({**what, "safety": "probe", "tool_run_id": uuid4()}), ahead=True)
    await book.seal()
    as_admin(postgres, database_name, "UPDATE tool_run_event SET who = 'mallory'")
    with wired(FixedWiring(captures=store, book=book)), pytest.raises(Conflict, match="not what was sealed"):
        await prune()
    assert [entry.name for entry in store.files()] == ["new.pcap"]


async def test_a_database_that_is_away_does_not_keep_the_store_full(
    prefect_server: str, store: CaptureStore, tmp_path: Path
) -> None:
    away = Database("postgresql+psycopg2://app:hunter2@/signalbox?host=/nowhere")
    lost = Ledger(lambda: away, tmp_path / "journal")
    with wired(FixedWiring(captures=store, book=lost)), pytest.raises(DatabaseGone):
        await prune()
    assert [entry.name for entry in store.files()] == ["new.pcap"]


@pytest.mark.slow
@pytest.mark.xdist_group("product")
def test_a_whole_stack_exports_its_ledger_and_the_command_proves_it(stack: Stack) -> None:
    stack.cli("tool", "run", "tcp_port_check", "--target", "127.0.0.1", "--ports", "9")
    assert stack.run_to_end("maintain/hourly")["state_name"] == "Completed"
    done = stack.run_to_end("prune/on-demand")
    assert done["state_name"] == "Completed", stack.run_logs(done["id"])
    [found] = stack.cli_json("audit", "verify", "--site", "default")
    assert found["problems"] == [] and found["batches"] == found["files"] >= 1 and found["events"] >= 2
    dry = stack.run_to_end("prune/on-demand", {"dry_run": True, "ledger_days": 30})
    assert dry["state_name"] == "Completed", stack.run_logs(dry["id"])
    prune_now = stack.deployment("prune/on-demand")["id"]
    refused = stack.request("POST", f"/deployments/{prune_now}/create_flow_run", {"parameters": {"ledger_days": 1}})
    assert refused.status_code == 409 and "less than the minimum of 7" in refused.text
