"""`signalbox audit`: exports that prove themselves, and an exit status that says whether the ledger is what was sealed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from deployments.cli import main
from tasks.core.db.engine import Database
from tasks.core.ledger import Ledger, RunEvent
from tasks.core.run import FixedWiring, wired

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(plain_environment: None, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No stack runs here; the command points the environment at one, which is undone."""
    monkeypatch.setenv("SIGNALBOX_HOME", str(own_home))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def book(postgres: Any, database_name: str, tmp_path: Path) -> Iterator[Ledger]:
    database = Database(postgres.url("app", database_name))
    book = Ledger(lambda: database, tmp_path / "journal")

    async def note() -> None:
        for site in ("default", "berlin"):
            await book.record(
                RunEvent(
                    tool_run_id=uuid4(), site=site, kind="finished", outcome="completed", tool="ping",
                    service="network", safety="probe",
                ),
                ahead=True,
            )  # fmt: skip

    asyncio.run(note())
    with wired(FixedWiring(book=book)):
        yield book
    database.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(["audit", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_what_was_noted_is_exported_and_proved(book: Ledger, run: Run, own_home: Path, tmp_path: Path) -> None:
    assert run("verify")[:2] == (0, "Nothing is sealed yet.\n")
    status, out, _ = run("export")
    assert status == 0 and out == f"2 batches with 2 events written to {own_home / 'audit'}.\n"
    status, out, _ = run("verify")
    assert status == 0 and "berlin" in out and "All of it is what was sealed." in out
    status, out, _ = run("export", "--folder", str(tmp_path / "stick"), "--site", "berlin", "--json")
    assert status == 0 and json.loads(out) == {
        "folder": str(tmp_path / "stick"), "batches": 1, "events": 1, "problems": [],
    }  # fmt: skip
    status, out, _ = run("verify", "--files-only", "--folder", str(tmp_path / "stick"), "--json")
    [found] = json.loads(out)
    assert status == 0 and (found["site"], found["files"], found["problems"]) == ("berlin", 1, [])


def test_tampering_is_exit_status_1_and_told(
    book: Ledger, run: Run, postgres: Any, database_name: str, own_home: Path
) -> None:
    run("export")
    connection = psycopg2.connect(postgres.url("postgres", database_name))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SET LOCAL session_replication_role = replica; UPDATE tool_run_event SET who = 'x' WHERE seq = 1"
        )
    connection.close()
    status, out, err = run("verify")
    assert status == 1 and "an event differs from what was sealed" in out and "1 problem." in err
    assert run("verify", "--files-only")[0] == 0  # what was exported before is still good
    [file] = (own_home / "audit" / "default").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    status, out, _ = run("verify", "--files-only", "--json")
    assert status == 1 and "cut off" in str([one["problems"] for one in json.loads(out)])


def test_a_folder_that_is_not_there_is_said(run: Run) -> None:
    assert run("verify", "--files-only", "--folder", "/nowhere/at/all")[0] == 4
