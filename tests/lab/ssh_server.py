"""A real OpenSSH server on loopback or in a namespace, with keys of its own.

with SshServer(kinds=("ed25519", "rsa")) as server:
    ...  # server.port, server.fingerprints["rsa"]
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tasks.core.errors import MissingProgram
from tasks.core.process import find_program

START_SECONDS = 20.0


def _why_not() -> str | None:
    try:
        find_program("sshd")
    except MissingProgram:
        return "needs the program sshd: apt install openssh-server"
    return "needs ssh-keygen: apt install openssh-client" if shutil.which("ssh-keygen") is None else None


needs_sshd = pytest.mark.skipif(_why_not() is not None, reason=_why_not() or "")


class SshServer:
    """An sshd that answers while the block runs; nothing of the system's own is read or written.

    Args:
        kinds: Kinds of its host keys, as ssh-keygen calls them.
        address: Where it listens.
        port: 0 for a free one.
        namespace: Network namespace it lives in.
        lines: Further lines of its configuration.
        keys: Folder of another server whose keys it has too, as clones of one image do.
    """

    def __init__(
        self,
        *,
        kinds: Sequence[str] = ("ed25519", "ecdsa", "rsa"),
        address: str = "127.0.0.1",
        port: int = 0,
        namespace: str | None = None,
        lines: Sequence[str] = (),
        keys: Path | None = None,
    ) -> None:
        self.address, self.port = address, port
        self._kinds, self._namespace, self._lines, self._keys = kinds, namespace, lines, keys
        self.fingerprints: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sbx-sshd-")
        self.folder = Path(self._folder.name)
        for kind in self._kinds:
            key = self.folder / kind
            if self._keys is not None:
                for suffix in ("", ".pub"):
                    shutil.copy2(self._keys / f"{kind}{suffix}", self.folder / f"{kind}{suffix}")
            else:
                subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True, timeout=60)
            said = subprocess.run(
                ["ssh-keygen", "-lf", f"{key}.pub"], check=True, timeout=60, capture_output=True, text=True
            )
            self.fingerprints[kind] = said.stdout.split()[1]
        for _ in range(5):  # somebody else may take the free port first
            port = self.port or _free_port(self.address)
            if self._start(port):
                self.port = port
                return self
        self._folder.cleanup()
        raise OSError("sshd does not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _start(self, port: int) -> bool:
        lines = [
            f"Port {port}",
            f"ListenAddress {self.address}",
            "PidFile none",
            "UsePAM no",
            "LogLevel QUIET",
            *self._lines,
        ]
        lines += [f"HostKey {self.folder / kind}" for kind in self._kinds]
        file = self.folder / "sshd_config"
        file.write_text("\n".join(lines) + "\n")
        with contextlib.suppress(OSError):
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the folder sshd's children are locked into
        argv = [find_program("sshd"), "-D", "-f", str(file)]
        if self._namespace:
            argv = [find_program("ip", "iproute2"), "netns", "exec", self._namespace, *argv]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and process.poll() is None:
            if _listens(process.pid, port):
                self._process = process
                return True
            time.sleep(0.02)
        process.kill()
        process.wait()
        return False


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            rows = [row.split() for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
            if any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows):
                return True
    return False
