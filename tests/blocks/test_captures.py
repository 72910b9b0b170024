"""The store of evidence: nothing outside its folder, nothing overwritten, nothing over the quota."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

import pytest
from pydantic import ValidationError

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
