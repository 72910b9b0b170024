"""The store of evidence: nothing outside its folder, nothing overwritten, nothing over the quota."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from blocks import _reservation
from blocks.captures import CaptureStore


@pytest.fixture
def store(tmp_path):
    return CaptureStore(folder=tmp_path / "evidence", quota_bytes=1 << 20)


def test_a_committed_file_has_its_name_size_and_digest(store):
    path = store.new("nmap/run-1/sweep.xml")
    path.write_bytes(b"<nmaprun/>")
    assert store.files() == []
    stored = store.commit(path)
    assert stored == ("nmap/run-1/sweep.xml", 10, hashlib.sha256(b"<nmaprun/>").hexdigest())
    assert store.path(stored.name).read_bytes() == b"<nmaprun/>"
    assert store.describe(stored.name) == stored
    assert [entry.name for entry in store.files()] == [stored.name]
    assert list((store.folder / ".incoming").iterdir()) == []


def test_only_the_owner_can_read_it(store):
    store.write("a/b", b"x")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((store.folder / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path("a/b").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        ".hidden",
        "a/.b",
        "a/",
        "a\nb",
        "a\0b",
        "ä",
        ".incoming/x",
        "x" * 401,
    ],
)
def test_a_name_cannot_leave_the_folder(store, name):
    for method in (store.path, store.new, store.describe):
        with pytest.raises(ValueError, match="not a name in the store"):
            method(name)


def test_a_symbolic_link_cannot_lead_out_of_the_folder(store, tmp_path):
    store.write("a/first", b"x")
    (tmp_path / "outside").mkdir()
    (store.folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="symbolic link"):
        store.new("link/x")
    (store.folder / "file").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="symbolic link"):
        store.describe("file")


def test_a_link_left_by_a_program_is_not_committed(store):
    path = store.new("a")
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic") as caught:
        store.commit(path)
    assert caught.value.errno == errno.ELOOP


def test_a_folder_that_is_itself_reached_by_a_link_works(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "disk")
    store = CaptureStore(folder=tmp_path / "here" / "evidence")
    assert store.describe(store.write("a", b"1").name).size_bytes == 1


def test_evidence_is_never_overwritten(store):
    late = store.new("same")
    late.write_bytes(b"second")
    store.write("same", b"first")
    with pytest.raises(FileExistsError):
        store.commit(late)
    with pytest.raises(FileExistsError):
        store.new("same")
    assert store.path("same").read_bytes() == b"first"
    assert late.read_bytes() == b"second"


def test_the_quota_is_checked_before_writing_and_again_before_keeping(store):
    store.write("a", bytes(700_000))
    with pytest.raises(OSError, match="full") as caught:
        store.new("b", expected_bytes=400_000)
    assert caught.value.errno == errno.EDQUOT
    path = store.new("b")
    path.write_bytes(bytes(400_000))
    with pytest.raises(OSError, match="full"):
        store.commit(path)
    assert [entry.name for entry in store.files()] == ["a"]


def test_a_write_that_fails_leaves_nothing(store):
    with pytest.raises(OSError, match="full"):
        store.write("big", bytes(2 << 20))
    assert store.usage() == 0


def test_prune_removes_what_is_older_than_the_retention(store):
    store.write("old/one", b"1")
    store.write("new/two", b"22")
    now = store.path("new/two").stat().st_mtime
    os.utime(store.path("old/one"), (now - 8 * 86_400,) * 2)
    abandoned = store.new("abandoned")
    abandoned.write_bytes(b"333")
    os.utime(abandoned, (now - 2 * 86_400,) * 2)
    assert [entry.name for entry in store.prune(now=now)] == ["old/one"]
    assert [entry.name for entry in store.files()] == ["new/two"]
    assert not (store.folder / "old").exists() and not abandoned.exists()
    assert store.usage() == 2


def test_only_paths_of_the_store_are_committed_or_discarded(store, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    for method in (store.commit, store.discard):
        for path in (tmp_path / "x", store.folder / ".incoming" / ("0" * 16) / ".." / ".." / ".." / "x"):
            with pytest.raises(ValueError, match=r"new\(\)"):
                method(path)
    assert (tmp_path / "x").exists()


def test_the_folder_is_absolute():
    with pytest.raises(ValidationError, match="absolute"):
        CaptureStore(folder="evidence")


# --- several at once -------------------------------------------------------------------------------------------------


def test_room_that_was_promised_to_one_writer_is_not_given_to_another(store):
    first = store.new("first", expected_bytes=700_000)
    first.write_bytes(bytes(1000))
    with pytest.raises(OSError, match="promised") as caught:
        store.new("second", expected_bytes=400_000)
    assert caught.value.errno == errno.EDQUOT
    assert store.usage() == 1000  # a promise is not a file
    store.commit(first)
    store.discard(store.new("second", expected_bytes=400_000))
    store.discard(store.new("third", expected_bytes=1_000_000))
    store.write("fourth", bytes(1_000_000))


def test_a_file_within_its_promise_is_taken_even_when_others_filled_the_rest(store):
    mine = store.new("mine", expected_bytes=500_000)
    store.write("other", bytes(500_000))
    mine.write_bytes(bytes(500_000))
    assert store.commit(mine).size_bytes == 500_000
    assert store.usage() <= store.quota_bytes


def test_a_file_beyond_its_promise_is_refused_when_it_does_not_fit(store):
    mine = store.new("mine", expected_bytes=1000)
    store.write("other", bytes(1_000_000))
    mine.write_bytes(bytes(100_000))
    with pytest.raises(OSError, match="full"):
        store.commit(mine)


HOLDER = """
import sys, time
from blocks.captures import CaptureStore
store = CaptureStore(folder=sys.argv[1], quota_bytes=1 << 20)
path = store.new(sys.argv[2], expected_bytes=700_000, keep=sys.argv[3] == "keep")
path.write_bytes(bytes.fromhex(sys.argv[4]))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(store):
    """Starts another process that writes a file and waits; ends it."""
    started = []

    def start(name, how, data=b""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(store.folder), name, how, data.hex()],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_promise_holds_between_processes_and_ends_a_little_after_its_writer(store, holder, monkeypatch):
    other = holder("other", "drop")
    with pytest.raises(OSError, match="promised"):
        store.new("mine", expected_bytes=400_000)
    other.kill()
    other.wait()
    with pytest.raises(OSError, match="promised"):  # what it had started may write on
        store.new("mine", expected_bytes=400_000)
    monkeypatch.setattr(_reservation, "LINGER", 0.0)
    store.discard(store.new("mine", expected_bytes=400_000))
    store.prune(now=time.time() + 2 * 86_400)
    assert list((store.folder / ".incoming").iterdir()) == []


HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
PACKET = struct.pack("<IIII", 1, 2, 40, 60) + bytes(40)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (HEADER + PACKET * 3, HEADER + PACKET * 3),
        (HEADER + PACKET * 3 + PACKET[:50], HEADER + PACKET * 3),
        (HEADER + PACKET + b"\x01", HEADER + PACKET),
        (HEADER + PACKET + struct.pack("<IIII", 1, 2, 1 << 30, 1 << 30) + bytes(500), HEADER + PACKET),
        (HEADER + PACKET[:20], None),
        (HEADER, None),
        (b"", None),
        (b"no capture, but wanted", b"no capture, but wanted"),
    ],
)
def test_what_a_killed_writer_left_is_kept_up_to_its_last_whole_packet(store, holder, left, kept):
    other = holder("run/one.pcap", "keep", left)
    assert store.recover() == []
    other.kill()
    other.wait()
    recovered = store.recover()
    assert [stored.name for stored in recovered] == (["run/one.pcap"] if kept else [])
    if kept:
        assert store.path("run/one.pcap").read_bytes() == kept
    assert list((store.folder / ".incoming").iterdir()) == []


def test_what_a_killed_writer_left_is_not_kept_unless_it_said_so(store, holder, monkeypatch):
    other = holder("run/one.xml", "drop", b"<half")
    other.kill()
    other.wait()
    monkeypatch.setattr(_reservation, "LINGER", 0.0)
    assert store.recover() == [] and store.files() == []
    store.prune(now=time.time() + 2 * 86_400)
    assert store.usage() == 0


@pytest.mark.parametrize("taken", ["run.pcap/one.pcap", "run.pcap"])
def test_what_a_killed_writer_left_is_kept_when_its_name_was_given_away(store, holder, taken):
    other = holder("run.pcap/one.pcap", "keep", HEADER + PACKET)
    other.kill()
    other.wait()
    store.write(taken, b"another's")
    (recovered,) = store.recover()
    assert recovered.name != "run.pcap/one.pcap" and recovered.name.startswith("run")
    assert store.describe(recovered.name) == recovered
    assert store.path(recovered.name).read_bytes() == HEADER + PACKET
    assert store.path(taken).read_bytes() == b"another's"
    assert list((store.folder / ".incoming").iterdir()) == [] and store.recover() == []


def test_what_cannot_be_written_again_takes_another_name_rather_than_none(store):
    name = f"{'long' * 48}.pcap"
    late = store.new(name)
    late.write_bytes(b"second")
    store.write(name, b"first")
    stored = store.commit(late, rename=True)
    assert stored.name != name and stored.name.startswith("longlong") and stored.name.endswith(".pcap")
    assert store.path(stored.name).read_bytes() == b"second" and store.path(name).read_bytes() == b"first"


# --- reading and pruning ---------------------------------------------------------------------------------------------


def age(store, name, days, now):
    os.utime(store.path(name), (now - days * 86_400,) * 2)


def test_a_file_that_is_read_is_not_pruned(store):
    now = time.time()
    store.write("a/read", b"1")
    store.write("a/unread", b"2")
    for name in ("a/read", "a/unread"):
        age(store, name, 30, now)
    with store.reading("a/read") as path, store.reading("a/read"):
        assert [entry.name for entry in store.prune(now=now)] == ["a/unread"]
        assert path.read_bytes() == b"1"
    assert [entry.name for entry in store.prune(now=now)] == ["a/read"]
    assert not (store.folder / "a").exists()


def test_what_is_gone_cannot_be_read(store):
    with pytest.raises(FileNotFoundError), store.reading("nothing"):
        pass
    with pytest.raises(ValueError, match="not a name"), store.reading("../x"):
        pass


def test_a_store_too_full_loses_its_oldest_files_but_none_of_the_last_hour(store):
    now = time.time()
    for day in range(6):
        store.write(f"day-{day}", bytes(160_000))
        age(store, f"day-{day}", day, now)
    assert store.usage() > store.quota_bytes * store.full_share
    assert [entry.name for entry in store.prune(now=now, dry_run=True)] == ["day-5"]
    assert len(store.files()) == 6
    assert [entry.name for entry in store.prune(now=now)] == ["day-5"]
    assert store.prune(now=now) == []
    tight = store.model_copy(update={"full_share": 0.1})
    assert [entry.name for entry in tight.prune(now=now)] == ["day-4", "day-3", "day-2", "day-1"]
    assert [entry.name for entry in tight.files()] == ["day-0"]


def test_the_file_in_use_is_passed_over_when_room_is_needed(store):
    now = time.time()
    for day in range(6):
        store.write(f"day-{day}", bytes(160_000))
        age(store, f"day-{day}", day, now)
    with store.reading("day-5"):
        assert [entry.name for entry in store.prune(now=now)] == ["day-4"]
