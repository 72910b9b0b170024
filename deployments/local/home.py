"""The folder of all state: what lies where in `SIGNALBOX_HOME`, and how secrets get into it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from deployments.local.errors import StackError

LONGEST_SOCKET_PATH = 107
"""Bytes a Unix socket's path may have: `sun_path` holds 108 with the closing NUL (unix(7))."""
SOCKET_NAME = ".s.PGSQL.5432"
LEAST_FREE_BYTES = 64 << 20
"""With less free space PostgreSQL's first WAL segments (16 MiB each) and checkpoints fail half-way."""


class Home:
    """Paths below `SIGNALBOX_HOME`.

    Args:
        folder: The home itself; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.secrets = self.folder / "secrets"
        self.run = self.folder / "run"
        self.logs = self.folder / "logs"
        self.postgres = self.folder / "postgres"
        self.prefect = self.folder / "prefect"
        self.temporary = self.folder / "tmp"
        self.lock = self.run / "lock"
        self.state = self.run / "state.json"
        self.endpoint = self.run / "endpoint.json"
        self.downloads = self.run / "downloads.json"

    def prepare(self) -> None:
        """Make the folders, each for this user alone.

        Raises:
            StackError: The home cannot be made or written, or its disk is full.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.secrets, self.run, self.logs, self.prefect, self.temporary):
                folder.mkdir(mode=0o700, exist_ok=True)
                # mkdir obeys the umask and an older folder may be open: passwords and sockets are for this user alone.
                folder.chmod(0o700)
            probe = self.run / f".writable-{os.getpid()}"
            probe.write_bytes(b"signalbox")
            probe.unlink()
        except OSError as error:
            raise explain_os_error(error, self.folder) from None
        free = shutil.disk_usage(self.folder).free
        if free < LEAST_FREE_BYTES:
            raise StackError(
                f"The disk of {self.folder} is full: {free >> 20} MiB are free, {LEAST_FREE_BYTES >> 20} MiB are needed.",
                "Make room there, or move the state: set SIGNALBOX_HOME to a folder on another disk.",
            )

    def clear_temporary(self) -> None:
        """Remove what killed runs left; only right while nothing of this home runs."""
        for entry in self.temporary.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def check_socket_path(self) -> None:
        """Refuse a home whose path is too long for the database's Unix socket.

        Raises:
            StackError: Names the length and how to choose a shorter home.
        """
        length = len(os.fsencode(self.run / SOCKET_NAME))
        if length > LONGEST_SOCKET_PATH:
            raise StackError(
                f"The path of SIGNALBOX_HOME is too long: the database's socket {self.run / SOCKET_NAME} would have"
                f" {length} bytes, the kernel allows {LONGEST_SOCKET_PATH}.",
                f"Choose a home at least {length - LONGEST_SOCKET_PATH} bytes shorter: set SIGNALBOX_HOME.",
            )

    def secret(self, name: str, size: int = 24) -> str:
        """Return the secret kept in `secrets/NAME`, made at random on first use (`size` random bytes, URL-safe)."""
        file = self.secrets / name
        with suppress(FileNotFoundError):
            value = file.read_text().strip()
            if value:
                return value
        value = secrets.token_urlsafe(size)
        self.write_private(file, value)
        return value

    def write_private(self, file: Path, text: str) -> None:
        """Replace `file` by `text` in one step, readable by this user alone.

        Raises:
            StackError: The file cannot be written.
        """
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with suppress(FileNotFoundError):
                draft.unlink()
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        except OSError as error:
            raise explain_os_error(error, file) from None


def explain_os_error(error: OSError, path: Path) -> StackError:
    """Say what a failed file operation means for the person who runs the stack."""
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
    elsewhere = "Set SIGNALBOX_HOME to a folder you can write."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StackError(
            f"No space left on the disk of {place}.",
            "Make room there, or set SIGNALBOX_HOME to a folder on another disk.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StackError(f"No permission to write {place}.", elsewhere)
    if error.errno == errno.EROFS:
        return StackError(f"The file system of {place} is read-only.", elsewhere)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StackError(f"{place} is a file, or lies below one, where a folder is needed.", elsewhere)
    return StackError(f"{place} cannot be used: {error.strerror}.", elsewhere)
