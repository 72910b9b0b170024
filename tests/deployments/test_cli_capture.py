"""`signalbox capture`: what is in the store, and how it gets in and out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocks import _reservation
from blocks.captures import CaptureStore
from deployments.cli import main
from tasks.core.run import FixedWiring, wired

PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1) + 2 * (struct.pack("<IIII", 1, 2, 3, 3) + b"abc")


@pytest.fixture(autouse=True)
def home(plain_environment: None, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No stack runs here; the command points the environment at one, which is undone."""
    monkeypatch.setenv("SIGNALBOX_HOME", str(own_home))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CaptureStore]:
    store = CaptureStore(folder=tmp_path / "store", quota_bytes=1 << 20)
    store.write("tcpdump/one.pcap", PCAP)
    store.write("nmap/sweep.xml", b"<nmaprun/>")
    with wired(FixedWiring(captures=store)):
        yield store


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(["capture", *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_list_names_files_and_how_full_the_store_is(store: CaptureStore, run: Callable[..., tuple]) -> None:
    status, out, err = run("list")
    assert status == 0 and "tcpdump/one.pcap" in out and "nmap/sweep.xml" in out
    assert "2 files" in out + err and "of 1,048,576 bytes" in out + err
    assert [row["name"] for row in json.loads(run("list", "tcpdump/", "--json")[1])] == ["tcpdump/one.pcap"]


def test_the_list_has_what_a_killed_run_left(store: CaptureStore, run: Callable[..., tuple]) -> None:
    path = store.new("tcpdump/lost.pcap", expected_bytes=1000, keep=True)
    path.write_bytes(PCAP + b"half a packet")
    os.close(_reservation._held.pop(str(path.parents[1])))  # what the kernel does when its process dies
    status, out, err = run("list")
    assert status == 0 and "Recovered from runs that were killed: tcpdump/lost.pcap" in out + err
    assert store.path("tcpdump/lost.pcap").read_bytes() == PCAP


def test_a_file_is_shown_with_its_digest_and_its_packets(store: CaptureStore, run: Callable[..., tuple]) -> None:
    facts = json.loads(run("show", "tcpdump/one.pcap", "--json")[1])
    assert facts == {
        "name": "tcpdump/one.pcap",
        "size_bytes": len(PCAP),
        "sha256": hashlib.sha256(PCAP).hexdigest(),
        "path": str(store.folder / "tcpdump" / "one.pcap"),
        "packets": 2,
    }


@pytest.mark.parametrize("command", ["show", "save"])
@pytest.mark.parametrize(("name", "status"), [("nosuch", 4), ("../etc/passwd", 2), ("tcpdump", 2)])
def test_a_file_that_is_not_there_says_where_names_are(
    store: CaptureStore, run: Callable[..., tuple], command: str, name: str, status: int
) -> None:
    ended, _, err = run(command, name)
    assert ended == status and "signalbox capture list" in err


def test_a_file_is_saved_whole_for_its_owner_alone_and_replaces_nothing(
    store: CaptureStore, run: Callable[..., tuple], tmp_path: Path
) -> None:
    target = tmp_path / "mine.pcap"
    assert run("save", "tcpdump/one.pcap", str(target))[0] == 0
    assert target.read_bytes() == PCAP and target.stat().st_mode & 0o777 == 0o600
    status, _, err = run("save", "tcpdump/one.pcap", str(target))
    assert status == 1 and "--force" in err
    target.write_bytes(b"")
    assert run("save", "tcpdump/one.pcap", str(target), "--force")[0] == 0 and target.read_bytes() == PCAP
    assert run("save", "tcpdump/one.pcap", str(tmp_path))[0] == 0 and (tmp_path / "one.pcap").read_bytes() == PCAP
    assert run("save", "tcpdump/one.pcap", str(tmp_path / "no" / "such"))[0] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"mine.pcap", "one.pcap", "store"}


def test_a_file_goes_to_standard_output_and_nothing_else_does(
    store: CaptureStore, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["capture", "save", "tcpdump/one.pcap", "-"]) == 0
    assert capfdbinary.readouterr().out == PCAP


def test_a_capture_of_ones_own_is_added_once_and_only_captures_are(
    store: CaptureStore, run: Callable[..., tuple], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.pcap"
    mine.write_bytes(PCAP)
    assert run("add", str(mine), "--name", "added/mine.pcap")[0] == 0
    assert store.describe("added/mine.pcap").sha256 == hashlib.sha256(PCAP).hexdigest()
    assert run("add", str(mine), "--name", "added/mine.pcap")[0] == 1
    assert run("add", str(mine))[0] == 0 and run("add", str(tmp_path / "nosuch"))[0] == 2
    mine.write_bytes(b"no capture")
    status, _, err = run("add", str(mine), "--name", "x")
    assert status == 2 and "is not a capture" in err
    mine.write_bytes(gzip.compress(PCAP))
    status, _, err = run("add", str(mine), "--name", "x")
    assert status == 1 and "mine.pcap is compressed with gzip." in err and "Decompress it first." in err
    mine.write_bytes(PCAP + bytes(2 << 20))
    status, _, err = run("add", str(mine), "--name", "x")
    assert status == 1 and "capture prune" in err
    assert list((store.folder / ".incoming").iterdir()) == []


def test_pruning_says_what_it_removes_before_and_after(store: CaptureStore, run: Callable[..., tuple]) -> None:
    os.utime(store.path("nmap/sweep.xml"), (time.time() - 30 * 86_400,) * 2)
    status, out, err = run("prune", "--dry-run")
    assert status == 0 and "Would remove 1 file, 10 bytes." in out + err and "nmap/sweep.xml" in out
    assert json.loads(run("prune", "--json")[1]) == ["nmap/sweep.xml"]
    assert [entry.name for entry in store.files()] == ["tcpdump/one.pcap"]
