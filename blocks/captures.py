"""Where captures and raw scan output (evidence) are kept: a folder with a quota and a retention."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from blocks import _pcap
from blocks._reservation import ORPHAN, RESERVED, locked, look, release, reserve

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_INCOMING = ".incoming"
_ABANDONED_AFTER = 86_400.0  # seconds; no tool writes longer than its deadline, 1,800 s at most
_CHUNK = 1 << 20
_LONGEST_PART = 200
"""Longest name of a file or folder: file systems take 255, and what is written beside a file has its name with a little more."""
YOUNG = 3600.0
"""Seconds in which a file is not removed for want of room: whoever made it is likely about to read it."""


class StoredFile(NamedTuple):
    """A file in the store."""

    name: str
    size_bytes: int
    sha256: str


class StoredEntry(NamedTuple):
    """A line of the store's listing."""

    name: str
    size_bytes: int
    modified_at: float


class CaptureStore(Block):
    """A folder of captures and raw scan output, written once, kept for a while, never over its quota.

    A tool asks for a place with `new(name)`, writes there, and makes the file appear under its name with `commit(path)`. A file that
    was never committed is not in the store and goes with a later `prune()`. Who says how large a file may get has that much room
    promised: several writers at once, of any process, stay below the quota together. Who reads a file does so inside `reading(name)`,
    and no `prune()` removes it meanwhile.

    A writer may say that what it wrote is worth keeping even if it is killed (`keep`): `recover()` then puts it under its name, a
    half-written last packet cut off.

    All methods read and write files: call them from a thread (`asyncio.to_thread`) when the files may be large.

    Example:
        ```python
        store = CaptureStore(folder="/var/lib/signalbox/evidence")
        path = store.new("nmap/2024-05-01/sweep.xml")
        path.write_text("<nmaprun/>")
        stored = store.commit(path)  # StoredFile(name, size_bytes, sha256)
        ```
    """

    _block_type_name: ClassVar[str] = "Capture Store"
    _block_type_slug: ClassVar[str] = "capture-store"
    _description: ClassVar[str] = "Folder, quota and retention of captures and raw scan output."
    short: ClassVar[str] = "captures"

    folder: Path = Field(description="Absolute path of the folder; made with mode 0700 when first used.")
    quota_bytes: int = Field(2 << 30, ge=1 << 20, description="Most bytes all files may take together.")
    retention_days: int = Field(7, ge=1, le=3650, description="Days a file is kept.")
    full_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the quota above which `prune` removes the oldest files, whatever their age above an hour.",
    )

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        folder = folder.expanduser()
        if not folder.is_absolute():
            raise ValueError(f"{str(folder)!r} is not an absolute path; right would be /var/lib/signalbox/evidence")
        return folder

    def new(self, name: str, *, expected_bytes: int = 0, keep: bool = False) -> Path:
        """Return a path to write the file `name` to; it appears in the store with `commit(path)`.

        More files may be written beside it, within the same promise of room, and committed one by one.

        Args:
            name: Letters, digits, `.`, `_`, `-` and `/` between parts; no part starts with a dot.
            expected_bytes: How large it may get, with what is written beside it. Refused now rather than when the disk is full, and
                nobody else gets this room until `commit` or `discard`, or until this process ends.
            keep: What is there when this process is killed is worth keeping. Needs `expected_bytes`, and that this process writes the
                file itself: nobody waits for a program it had started.

        Raises:
            ValueError: `name` is not a name inside the store.
            FileExistsError: There is such a file; evidence is never overwritten.
            OSError: With errno EDQUOT when the quota, with ENOSPC when the disk has no room.
        """
        if taken := self._taken(self.path(name)):
            raise self._is_taken(taken)
        path = self.folder / _INCOMING / secrets.token_hex(8) / name
        with self._alone():
            self._check_room(expected_bytes)
            _make_folders(self.folder, path.parent)
            if expected_bytes:
                reserve(self._place_of(path), expected_bytes, keep=keep)
        return path

    def commit(self, path: Path, *, rename: bool = False) -> StoredFile:
        """Move a file written to a path from `new()` to its name in the store: whole, on disk, or not at all.

        Args:
            path: What `new()` gave.
            rename: Add a few characters to its name when another file has that by now. For what cannot be written again.

        Raises:
            ValueError: `path` did not come from `new()`.
            FileNotFoundError: Nothing was written there.
            FileExistsError: Another run committed a file of this name meanwhile; `path` is kept.
            OSError: With errno EDQUOT when the store is over its quota; `path` is kept.
        """
        final = self.path(self._name_of(path))
        # O_NOFOLLOW: what a tool left there must be a file, not a link to one outside the store.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            os.fchmod(file.fileno(), 0o600)
            digest, size = _digest(file.fileno())
            os.fsync(file.fileno())
        with self._alone():
            # The file itself is counted in the usage already; what was promised to it nobody else has.
            promised = look(self._place_of(path))
            if promised is None or size > promised.size_bytes:
                self._check_room(0)
            if taken := self._taken(final):
                if not rename:
                    raise self._is_taken(taken)
                final = _another(taken) / final.relative_to(taken)
            _make_folders(self.folder, final.parent)
            os.link(path, final, follow_symlinks=False)  # unlike rename, a link never replaces a file
            self._drop(path)
        _sync_folder(final.parent)
        return StoredFile(final.relative_to(self.folder).as_posix(), size, digest)

    def discard(self, path: Path) -> None:
        """Give up a path from `new()`; nothing remains of it."""
        self._name_of(path)
        with self._alone():
            self._drop(path)

    def write(self, name: str, data: bytes) -> StoredFile:
        """Store `data` under `name`; raises as `new()` and `commit()` do."""
        path = self.new(name, expected_bytes=len(data))
        try:
            path.write_bytes(data)
            return self.commit(path)
        except BaseException:
            self.discard(path)
            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give the path of the file `name` to read from; no `prune()`, of any process, removes it meanwhile.

        Raises:
            ValueError: `name` is not a name inside the store.
            FileNotFoundError: There is no such file.
        """
        path = self.path(name)
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # waits at most for a prune that is just removing it
            if not os.fstat(file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, f"The store has no file {name} any more")
            yield path

    def path(self, name: str) -> Path:
        """Return where the file `name` is, whether it exists or not.

        Raises:
            ValueError: The name is malformed or leads, by `..` or a symbolic link, out of the folder.
        """
        if len(name) > 400 or not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not a name in the store; right would be nmap/2024-05-01/sweep.xml")
        if len(max(name.split("/"), key=len)) > _LONGEST_PART:
            raise ValueError(
                f"{name[:80]!r}... is too long: between slashes a name has at most {_LONGEST_PART} characters"
            )
        path = self.folder / name
        try:
            inside = path.resolve() == self.folder.resolve() / name
        except (OSError, RuntimeError):  # a link that leads to itself: one or the other, by Python's version
            inside = False
        if not inside:
            raise ValueError(f"{name!r} leads out of the store by a symbolic link")
        return path

    def describe(self, name: str) -> StoredFile:
        """Return name, size and SHA-256 of a file as it is now.

        Raises:
            FileNotFoundError: There is no such file.
        """
        path = self.path(name)
        with path.open("rb") as file:
            digest, size = _digest(file.fileno())
        return StoredFile(name, size, digest)

    def files(self) -> list[StoredEntry]:
        """List the committed files, oldest first."""
        found = []
        for path, status in _walk(self.folder):
            name = path.relative_to(self.folder).as_posix()
            if not name.startswith("."):
                found.append(StoredEntry(name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.modified_at, entry.name))

    def usage(self) -> int:
        """Bytes that all files take, those being written included."""
        # A file being committed has two names for a moment.
        return sum({(status.st_dev, status.st_ino): status.st_size for _, status in _walk(self.folder)}.values())

    def prune(self, *, now: float | None = None, dry_run: bool = False) -> list[StoredEntry]:
        """Remove what is older than the retention, then the oldest while the store is too full, and abandoned writes.

        Too full is above `full_share` of the quota; for that no file of the last hour is removed. A file somebody reads
        (`reading()`) stays.

        Args:
            now: Seconds since the epoch to count from; default: the clock.
            dry_run: Remove nothing, only say what would be.

        Returns:
            The files removed.
        """
        now = time.time() if now is None else now
        used, most = self.usage(), int(self.quota_bytes * self.full_share)
        removed = []
        for entry in self.files():
            too_old = entry.modified_at < now - self.retention_days * 86_400
            in_the_way = used > most and entry.modified_at < now - YOUNG
            if (too_old or in_the_way) and self._remove(entry.name, dry_run=dry_run):
                removed.append(entry)
                used -= entry.size_bytes
        if not dry_run:
            self._remove_abandoned(now)
        return removed

    def recover(self) -> list[StoredFile]:
        """Put under their names the files that killed writers left and that are worth keeping (`new(keep=True)`).

        Of a pcap file the half-written last packet is cut off; one without a packet is removed. One whose name was given away
        meanwhile gets a few characters more. Those of writers that live are left alone.
        """
        with self._alone():
            left = [
                place for place in self._places() if (promise := look(place)) and promise.keep and promise.abandoned
            ]
        recovered = []
        for path in [path for place in left for path, _ in _walk(place)]:
            with contextlib.suppress(FileNotFoundError):  # somebody else recovers it at this moment
                whole = _pcap.trim(path)
                if path.stat().st_size and (whole is None or whole.packets):
                    recovered.append(self.commit(path, rename=True))
                else:
                    self.discard(path)
        return recovered

    def _taken(self, final: Path) -> Path | None:
        """What is where a file would have to be, or a file where a folder above it would."""
        for place in (final, *(above for above in final.parents if self.folder in above.parents)):
            if place.exists() and (place == final or not place.is_dir()):
                return place
        return None

    def _is_taken(self, place: Path) -> FileExistsError:
        there = place.relative_to(self.folder)
        return FileExistsError(errno.EEXIST, f"The store has a file {there} already; files are never overwritten")

    def _remove(self, name: str, *, dry_run: bool) -> bool:
        """Remove a file unless somebody reads it; says whether it did."""
        path = self.folder / name
        with self._alone():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not dry_run:
                    path.unlink(missing_ok=True)
                    _remove_empty(path.parent, below=self.folder)
            except BlockingIOError:
                return False
            finally:
                os.close(descriptor)
        return True

    def _remove_abandoned(self, now: float) -> None:
        with self._alone():
            for place in self._places():
                promise = look(place)
                if promise is None or promise.abandoned:
                    written = [status.st_mtime for _, status in _walk(place)] or [place.stat().st_mtime]
                    if max(written) < now - _ABANDONED_AFTER:
                        release(place)
                        shutil.rmtree(place)

    def _drop(self, path: Path) -> None:
        """Remove a file being written, and with the last of its place the place and its promise of room."""
        place = self._place_of(path)
        path.unlink(missing_ok=True)
        _remove_empty(path.parent, below=place)
        with contextlib.suppress(FileNotFoundError):
            if not {entry.name for entry in place.iterdir()} - {RESERVED, ORPHAN}:
                release(place)
                place.rmdir()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        _make_folders(self.folder, self.folder)
        with locked(self.folder):
            yield

    def _places(self) -> list[Path]:
        """The folders of files being written: one for each `new()`."""
        incoming = self.folder / _INCOMING
        return sorted(incoming.iterdir()) if incoming.is_dir() else []

    def _place_of(self, path: Path) -> Path:
        return self.folder / _INCOMING / path.relative_to(self.folder / _INCOMING).parts[0]

    def _name_of(self, path: Path) -> str:
        """The name that a path from `new()` was given for."""
        try:
            token, *parts = path.relative_to(self.folder / _INCOMING).parts
        except ValueError:
            token, parts = "", []
        name = "/".join(parts)
        if not re.fullmatch(r"[0-9a-f]{16}", token) or not _NAME.fullmatch(name):
            raise ValueError("this is not a path that new() gave")
        return name

    def _check_room(self, expected_bytes: int) -> None:
        """Raise unless there is room for `expected_bytes` more, with all that was promised to others."""
        promised = self._promised()
        usage = self.usage() + promised
        if usage + expected_bytes > self.quota_bytes:
            raise OSError(
                errno.EDQUOT,
                f"The capture store is full: {usage + expected_bytes:,} of {self.quota_bytes:,} bytes"
                f"{f', {promised:,} of them promised to what is being written' if promised else ''}; "
                "prune it or raise quota_bytes of its block",
            )
        free = shutil.disk_usage(self.folder).free - promised
        if expected_bytes > free:
            raise OSError(
                errno.ENOSPC, f"The disk of the capture store has {free:,} bytes left, {expected_bytes:,} may be needed"
            )

    def _promised(self) -> int:
        """Bytes promised to files being written that are not written yet."""
        total = 0
        for place in self._places():
            promise = look(place)
            if promise is not None and not promise.abandoned:
                total += max(0, promise.size_bytes - sum(status.st_size for _, status in _walk(place)))
        return total


def _another(path: Path) -> Path:
    """A name like this one that nobody has."""
    return path.with_name(f"{path.stem[:100]}-{secrets.token_hex(4)}{path.suffix}")


def _digest(descriptor: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _walk(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Regular files below `folder`, without following symbolic links; files that vanish meanwhile are left out.

    So are files whose names begin with a dot: the store's own bookkeeping.
    """
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith("."):
                continue
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((path, status))
    return found


def _make_folders(top: Path, folder: Path) -> None:
    """Make `folder` and what is missing above it; those from `top` downwards for the owner alone."""
    top.parent.mkdir(parents=True, exist_ok=True)
    for path in reversed([folder, *folder.parents]):
        if path == top or top in path.parents:
            path.mkdir(mode=0o700, exist_ok=True)


def _remove_empty(folder: Path, *, below: Path) -> None:
    while folder != below and below in folder.parents:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
