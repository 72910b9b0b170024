"""Columns of numbers in a file of their own, and an index of their rows: memory holds what is being worked on.

A capture's conversations are many, but of a piece of it only some are touched. Their table lies in a temporary file without a name that
is mapped into memory: `release` gives the memory back between pieces, the kernel keeps and fetches pages as it has room.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np
import numpy.typing as npt

from tasks.core.errors import CommandFailed
from tasks.network.analyze._records import Ints, Mask

_FOLDER: Final = "/var/tmp"  # noqa: S108 - on a disk by the Filesystem Hierarchy Standard; /tmp may be memory
_ROWS_AT_ONCE: Final = 4096
"""Rows for which the disk's room is claimed, and which are looked at, together."""

T = TypeVar("T", bound=np.generic)


@dataclass(slots=True)
class _Column:
    """Values, the memory they are mapped into, where they are in the file, and what a new row has."""

    values: npt.NDArray[Any]
    memory: mmap.mmap
    place: int
    fill: int


class Table:
    """Columns that grow together, up to a fixed number of rows.

    Args:
        most: Rows there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0
        self._claimed = 0
        self._columns: dict[str, _Column] = {}
        self._end = 0
        self._file, self._folder = _nameless_file()

    def column(self, name: str, kind: str = "i8", fill: int = 0, width: int = 1) -> None:
        """Add a column; with a width above 1 it has that many values a row."""
        shape = (self.most, width) if width > 1 else (self.most,)
        pages = -(-self.most * width * np.dtype(kind).itemsize // mmap.ALLOCATIONGRANULARITY)
        size = pages * mmap.ALLOCATIONGRANULARITY
        if self._file is None:
            memory = mmap.mmap(-1, size)
        else:
            self._file.truncate(self._end + size)
            memory = mmap.mmap(self._file.fileno(), size, offset=self._end)
        memory.madvise(mmap.MADV_RANDOM)  # reading ahead, by megabytes on some disks, is dear and finds nothing here
        column = self._columns[name] = _Column(np.ndarray(shape, kind, memory), memory, self._end, fill)
        self._end += size
        self._claim(column, 0, self._claimed)
        column.values[: self.size] = fill

    def __getitem__(self, name: str) -> npt.NDArray[np.int64]:
        return self._columns[name].values

    def grow(self, size: int) -> None:
        """Have so many rows.

        Raises:
            CommandFailed: The disk has no room for them.
        """
        if size <= self.size:
            return
        if size > self._claimed:
            claimed = min(-(-size // _ROWS_AT_ONCE) * _ROWS_AT_ONCE, self.most)
            for column in self._columns.values():
                self._claim(column, self._claimed, claimed)
            self._claimed = claimed
        for column in self._columns.values():
            if column.fill:
                column.values[self.size : size] = column.fill
        self.size = size

    def each(self, function: Callable[[slice], npt.NDArray[T]]) -> npt.NDArray[T]:
        """What a function makes of all rows, called with so few of them at a time that memory does not notice."""
        made = []
        for first in range(0, max(self.size, 1), _ROWS_AT_ONCE):
            made.append(function(slice(first, min(first + _ROWS_AT_ONCE, self.size))))
            self.release()
        return np.concatenate(made)

    def release(self) -> None:
        """Let go of the memory; values stay where they are, in the file."""
        if self._file is not None:  # without one, it would let go of the values
            for column in self._columns.values():
                column.memory.madvise(mmap.MADV_DONTNEED)

    def _claim(self, column: _Column, first: int, last: int) -> None:
        """Have the disk's blocks before they are written to: a full disk must be an error, not a signal that kills."""
        if self._file is None or first >= last:
            return
        row = column.values.strides[0]
        try:
            os.posix_fallocate(self._file.fileno(), column.place + first * row, (last - first) * row)
        except OSError as error:
            raise CommandFailed(
                f"There is no room for the table of conversations: {os.strerror(error.errno or 0)} ({self._folder}).",
                hint=f"Make {self._end >> 20} MB of room there, or read less at once: a host, a port, a time.",
            ) from None


def _nameless_file() -> tuple[BinaryIO | None, str]:
    """A file that nobody else sees and that goes with its process, and its folder; None where no file can be written."""
    for folder in (_FOLDER, None):
        try:
            file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as the table
        except OSError:
            continue
        return file, folder or tempfile.gettempdir()
    return None, ""


class Index:
    """Finds rows by the hash of their key, for many keys at once: open addressing with linear probing (Knuth, vol. 3, 6.4, L).

    Hashes must be spread evenly over their lower bits, and not be foreseen by whoever chooses the keys.

    Args:
        most: Keys there may be.
    """

    def __init__(self, most: int) -> None:
        size = 1 << (2 * most).bit_length()
        self._slots = np.zeros(size, np.int32)  # a row's number plus one; 0 is a free slot
        self._mask = np.uint64(size - 1)

    def find(self, hashes: npt.NDArray[np.uint64], same: Callable[[Ints, Ints], Mask]) -> tuple[Ints, Ints]:
        """Look keys up.

        Args:
            hashes: Of each key.
            same: Called with rows and with places in `hashes`: whether each row has that key.

        Returns:
            For each key its row, -1 where it has none; and its slot for `put`.
        """
        rows = np.full(len(hashes), -1, np.int64)
        slots = (hashes & self._mask).astype(np.int64)
        left = np.arange(len(hashes))
        while len(left):
            row = self._slots[slots[left]].astype(np.int64) - 1
            left, row = left[row >= 0], row[row >= 0]
            hit = same(row, left)
            rows[left[hit]] = row[hit]
            left = left[~hit]
            slots[left] = (slots[left] + 1) & int(self._mask)
        return rows, slots

    def put(self, slots: Ints, rows: Ints) -> None:
        """Have different keys, looked up just before, mean these rows from now on."""
        left, slots = np.arange(len(slots)), slots.copy()
        fresh = self._slots[slots] == 0
        self._slots[slots[~fresh]] = rows[~fresh] + 1
        left = left[fresh]
        while len(left):
            at, value = slots[left], rows[left] + 1
            free = self._slots[at] == 0
            self._slots[at[free]] = value[free]
            # Of several that found the same slot free, the last one has it.
            left = left[self._slots[at] != value]
            slots[left] = (slots[left] + 1) & int(self._mask)
