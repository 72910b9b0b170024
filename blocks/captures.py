"""Where captures and raw scan output (evidence) are kept: a folder with a quota and a retention."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

from prefect.blocks.core import Block
from pydantic import Field, field_validator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_INCOMING = ".incoming"
_ABANDONED_AFTER = 86_400.0  # seconds; no tool writes longer than its deadline, 1,800 s at most
_CHUNK = 1 << 20


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
    was never committed is not in the store and goes with the next `prune()`. All methods read and write files: call them from a thread
    (`asyncio.to_thread`) when the files may be large.

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

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        folder = folder.expanduser()
        if not folder.is_absolute():
            raise ValueError(f"{str(folder)!r} is not an absolute path; right would be /var/lib/signalbox/evidence")
        return folder

    def new(self, name: str, *, expected_bytes: int = 0) -> Path:
        """Return a path to write the file `name` to; it appears in the store with `commit(path)`.

        Args:
            name: Letters, digits, `.`, `_`, `-` and `/` between parts; no part starts with a dot.
            expected_bytes: How large it may get; refused now rather than when the disk is full.

        Raises:
            ValueError: `name` is not a name inside the store.
            FileExistsError: There is such a file; evidence is never overwritten.
            OSError: With errno EDQUOT when the quota, with ENOSPC when the disk has no room.
        """
        final = self.path(name)
        if final.exists():
            raise FileExistsError(errno.EEXIST, f"The store has a file {name} already; files are never overwritten")
        self._check_room(expected_bytes)
        path = self.folder / _INCOMING / secrets.token_hex(8) / name
        _make_folders(self.folder, path.parent)
        return path

    def commit(self, path: Path) -> StoredFile:
        """Move a file written to a path from `new()` to its name in the store: whole, on disk, or not at all.

        Raises:
            ValueError: `path` did not come from `new()`.
            FileNotFoundError: Nothing was written there.
            FileExistsError: Another run committed a file of this name meanwhile; `path` is kept.
            OSError: With errno EDQUOT when the store is over its quota; `path` is kept.
        """
        name = self._name_of(path)
        final = self.path(name)
        # O_NOFOLLOW: what a tool left there must be a file, not a link to one outside the store.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            self._check_room(0)  # the file itself is counted in the usage already
            os.fchmod(file.fileno(), 0o600)
            digest, size = _digest(file.fileno())
            os.fsync(file.fileno())
        _make_folders(self.folder, final.parent)
        try:
            os.link(path, final, follow_symlinks=False)  # unlike rename, a link never replaces a file
        except FileExistsError:
            raise FileExistsError(
                errno.EEXIST, f"The store has a file {name} already; files are never overwritten"
            ) from None
        self.discard(path)
        _sync_folder(final.parent)
        return StoredFile(name, size, digest)

    def discard(self, path: Path) -> None:
        """Give up a path from `new()`; nothing remains of it."""
        self._name_of(path)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder.name == _INCOMING and folder.parent == self.folder:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def write(self, name: str, data: bytes) -> StoredFile:
        """Store `data` under `name`; raises as `new()` and `commit()` do."""
        path = self.new(name, expected_bytes=len(data))
        path.write_bytes(data)
        try:
            return self.commit(path)
        except OSError:
            self.discard(path)
            raise

    def path(self, name: str) -> Path:
        """Return where the file `name` is, whether it exists or not.

        Raises:
            ValueError: The name is malformed or leads, by `..` or a symbolic link, out of the folder.
        """
        if len(name) > 400 or not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is not a name in the store; right would be nmap/2024-05-01/sweep.xml")
        path = self.folder / name
        if path.resolve() != self.folder.resolve() / name:
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
            if not name.startswith(f"{_INCOMING}/"):
                found.append(StoredEntry(name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.modified_at, entry.name))

    def usage(self) -> int:
        """Bytes that all files take, those being written included."""
        return sum(status.st_size for _, status in _walk(self.folder))

    def prune(self, *, now: float | None = None) -> list[StoredEntry]:
        """Remove files older than the retention and abandoned writes; return the files removed.

        Args:
            now: Seconds since the epoch to count from; default: the clock.
        """
        now = time.time() if now is None else now
        removed = [entry for entry in self.files() if entry.modified_at < now - self.retention_days * 86_400]
        for entry in removed:
            path = self.folder / entry.name
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, below=self.folder)
        for path, status in _walk(self.folder / _INCOMING):
            if status.st_mtime < now - _ABANDONED_AFTER:
                self.discard(path)
        return removed

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
        usage = self.usage()
        if usage + expected_bytes > self.quota_bytes:
            raise OSError(
                errno.EDQUOT,
                f"The capture store is full: {usage + expected_bytes:,} of {self.quota_bytes:,} bytes; "
                "prune it or raise quota_bytes of its block",
            )
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if expected_bytes > free:
            raise OSError(
                errno.ENOSPC, f"The disk of the capture store has {free:,} bytes left, {expected_bytes:,} may be needed"
            )


def _digest(descriptor: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _walk(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Regular files below `folder`, without following symbolic links; files that vanish meanwhile are left out."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
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
