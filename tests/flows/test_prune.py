"""The prune flow: what is too old goes, what is in use stays, and what a killed run left comes back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from blocks import _reservation
from blocks.captures import CaptureStore
from flows.prune import prune
from tasks.core.run import FixedWiring, wired


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
