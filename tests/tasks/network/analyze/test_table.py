from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.captures import NOON_NS, Capture, Packet, udp, write_pcap

from tasks.network.analyze import _records
from tasks.network.analyze._conversations import Conversations
from tasks.network.analyze._frames import UDP, Counts, read_frames
from tasks.network.analyze._selection import ALL
from tasks.network.analyze._table import Index, Table, _nameless_file

ROOT = Path(__file__).parents[4]


@given(
    st.integers(0, 3),
    st.lists(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 10_000)), max_size=40), max_size=12),
)
def test_an_index_finds_what_a_dictionary_finds_however_keys_collide(
    spread: int, rounds: list[list[tuple[int, int]]]
) -> None:
    index, known = Index(256), dict[int, int]()
    keys_of_rows = np.full(10_001, -1, np.int64)
    for given_now in rounds:
        wanted = dict(given_now)  # keys of one call differ
        keys = np.array(list(wanted), np.int64)
        hashes = (keys % (1 << 3 * spread)).astype(np.uint64) if spread < 3 else keys.astype(np.uint64)

        def same(rows: Any, which: Any, keys: Any = keys) -> Any:
            return keys_of_rows[rows] == keys[which]

        rows, slots = index.find(hashes, same)
        # A row says the key it was put for: those that another key took over are not found by the old one.
        assert rows.tolist() == [known.get(key, -1) for key in wanted]
        free = [row for row in wanted.values() if keys_of_rows[row] < 0]
        chosen = [place for place, row in enumerate(wanted.values()) if row in free and free.count(row) == 1]
        for place in chosen:
            key, row = int(keys[place]), list(wanted.values())[place]
            known[key] = row
            keys_of_rows[row] = key
        index.put(slots[chosen], np.array([list(wanted.values())[place] for place in chosen], np.int64))


@pytest.mark.parametrize("on_disk", [True, False])
def test_values_stay_when_memory_is_given_back(on_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_disk:
        monkeypatch.setattr(tempfile, "TemporaryFile", _refuse)
    table = Table(10_000)
    table.column("count")
    table.column("first", fill=-1, width=2)
    table.grow(3)
    table["count"][:3] = 7
    table.grow(9_999)
    table["first"][9_998, 1] = 5
    table.column("late", "i1", fill=3)
    table.release()
    assert table["count"][:4].tolist() == [7, 7, 7, 0] and table["late"][[0, 9_998]].tolist() == [3, 3]
    assert table["first"][[0, 9_998]].tolist() == [[-1, -1], [-1, 5]]
    assert table.each(lambda rows: table["count"][rows] + 1).tolist() == [8, 8, 8] + [1] * 9_996
    assert table.size == 9_999 and (table._file is not None) is on_disk


def _refuse(*_: object, **__: object) -> NoReturn:
    raise OSError("read-only file system")


def test_a_table_of_no_rows_makes_nothing() -> None:
    table = Table(10)
    table.column("count")
    assert len(table.each(lambda rows: table["count"][rows])) == 0


def test_the_file_of_a_table_has_no_name() -> None:
    file, folder = _nameless_file()
    assert file is not None and folder == "/var/tmp"
    with file:
        assert Path(f"/proc/self/fd/{file.fileno()}").readlink().name.endswith("(deleted)")


def test_a_full_disk_is_an_error_and_no_crash() -> None:
    # What a file may grow to stands for what the disk has: both are found out when room is claimed.
    program = """
import resource, sys
from tasks.core.errors import CommandFailed
from tasks.network.analyze._table import Table

table = Table(200_000)
table.column("count")
table._file.truncate(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
try:
    for size in range(1000, 200_001, 1000):
        table.grow(size)
        table["count"][size - 1] = 1
except CommandFailed as error:
    print(size, error, error.hint)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "no room for the table of conversations" in ended.stdout and "Make 1 MB of room" in ended.stdout
    assert 0 < int(ended.stdout.split()[0]) <= 600_000 // 8 + 1000


def test_a_conversation_is_one_whatever_is_in_the_piece_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "LEAST_PIECE", 400)
    monkeypatch.setattr(_records, "MOST_PIECE", 400)
    talk = [udp("10.0.0.1", 1000, "10.0.0.2", 53, b"a" * 40)] * 9
    six = [udp("2001:db8::1", 1000, "2001:db8::2", 53, b"b" * 40)] * 9
    for mixed in ([*talk, *six, *talk], [frame for both in zip(talk, six, strict=True) for frame in both]):
        packets = [Packet(NOON_NS + n, frame) for n, frame in enumerate(mixed)]
        path = write_pcap(Capture(packets), tmp_path / "mixed.pcap")
        conversations = Conversations(UDP)
        pieces = [conversations.assign(frames) for frames in read_frames(path, ALL, Counts())]
        assert len(pieces) > 3 and len(conversations) == 2
