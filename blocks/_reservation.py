"""Room promised to files that are being written: what keeps several writers together below one quota.

A writer that says how large its file may get has a file `.reserved` beside it, in a folder of its own below the incoming ones, and
holds it locked (flock) for as long as it lives. Whoever asks for room counts what was promised. The lock goes with the writer's
process, however that ends; what it had started may write on for a moment, so its promise counts a little longer (`LINGER`). Where
what is left is to be kept, nobody but the writer itself writes, so it is over at once.

All functions but `locked` are called while `locked` is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LINGER = 10.0
"""Seconds the promise to a dead writer still counts; a supervisor ends what the writer had started within about five."""
RESERVED, ORPHAN = ".reserved", ".orphan"

_held: dict[str, int] = {}
"""Descriptors of this process's reservations by folder: the lock is theirs."""


class Reservation(NamedTuple):
    """Room promised to the files of one incoming folder.

    Attributes:
        size_bytes: How much.
        keep: Whether what the writer leaves when it is killed is worth keeping.
        abandoned: Whether the writer is gone, for long enough that nothing of it writes any more.
    """

    size_bytes: int
    keep: bool
    abandoned: bool


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one, of all processes, who changes what the store has."""
    # Nobody holds it longer than it takes to list the folder and link a file.
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def reserve(folder: Path, size_bytes: int, *, keep: bool) -> None:
    """Promise room to what is written below `folder`, for as long as this process lives or until `release`."""
    descriptor = os.open(folder / RESERVED, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(descriptor, f"{size_bytes} {int(keep)}\n".encode())
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held[str(folder)] = descriptor


def release(folder: Path) -> None:
    """End the promise."""
    for name in (RESERVED, ORPHAN):
        (folder / name).unlink(missing_ok=True)
    descriptor = _held.pop(str(folder), None)
    if descriptor is not None:
        os.close(descriptor)


def look(folder: Path) -> Reservation | None:
    """The promise made to an incoming folder; None when there is none."""
    with contextlib.suppress(FileNotFoundError):
        if _writer_lives(folder / RESERVED):
            return _read(folder / RESERVED, abandoned=False)
        # From now on nobody can mistake it for a living one, and the clock of its end runs.
        os.utime(folder / RESERVED)
        (folder / RESERVED).rename(folder / ORPHAN)
    with contextlib.suppress(FileNotFoundError):
        dead_for = time.time() - (folder / ORPHAN).stat().st_mtime
        left = _read(folder / ORPHAN, abandoned=dead_for > LINGER)
        return left._replace(abandoned=True) if left.keep else left
    return None


def _writer_lives(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path, *, abandoned: bool) -> Reservation:
    try:
        size, keep = path.read_text().split()
        return Reservation(int(size), keep == "1", abandoned)
    except ValueError:  # its writer died in the middle of it, before it had written anything else
        return Reservation(0, keep=False, abandoned=abandoned)
