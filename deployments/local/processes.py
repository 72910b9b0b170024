"""Processes of the stack: started, recognised and stopped by pid *and* start time, never by name.

A pid alone is not an identity: after a crash or a reboot it belongs to somebody else. `/proc/PID/stat` carries the start time in
clock ticks since boot; together with the boot's id that names a process for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """One process, told from every other that has or will have its pid."""

    pid: int
    started: int
    boot: str


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """Return who has this pid now; None when nobody lives there (a zombie does not)."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Identity(pid, int(fields[19]), boot_id())


def is_alive(process: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def _stat(pid: int) -> list[str] | None:
    # The fields after the command's name, which may itself contain spaces and brackets: proc_pid_stat(5) from (3) on.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def all_processes() -> dict[int, int]:
    """Every pid and its parent's."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            parents[int(entry.name)] = int(fields[1])
    return parents


def descendants(roots: Iterable[int]) -> list[Identity]:
    """All living descendants of the processes named, without themselves, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in all_processes().items():
        children.setdefault(parent, []).append(pid)
    found: list[Identity] = []
    waiting = list(roots)
    while waiting:
        for pid in children.pop(waiting.pop(0), []):
            waiting.append(pid)
            if (process := identify(pid)) is not None:
                found.append(process)
    return found


def marked(name: str, value: str) -> list[Identity]:
    """All living processes started with `name=value` in their environment, as far as this user may look.

    This finds what a crashed supervisor left behind: a child that outlived its parent is no longer anyone's descendant, but
    inherited the stack's random mark.
    """
    needle = f"{name}={value}".encode()
    found = []
    for pid in all_processes():
        with suppress(OSError):
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and (process := identify(pid)):
                found.append(process)
    return found


def command_of(process: Identity) -> str:
    """The process's command line, for people."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def send(process: Identity, number: signal.Signals) -> bool:
    """Send a signal to this very process; False when it is gone.

    A pidfd holds the process while its identity is compared, so a pid that is given away in between is never hit.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(processes: Iterable[Identity], timeout: float) -> list[Identity]:
    """Wait until none of the processes lives, at most `timeout` seconds; return those that still do."""
    end = time.monotonic() + timeout
    left = [process for process in processes if is_alive(process)]
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left = [process for process in left if is_alive(process)]
    return left


def end(processes: Sequence[Identity], grace: float, first: signal.Signals = signal.SIGTERM) -> list[Identity]:
    """Ask the processes to end, kill after `grace` seconds what remains; return those that were alive at the start."""
    living = [process for process in processes if send(process, first)]
    for process in wait_gone(living, grace):
        send(process, signal.SIGKILL)
    wait_gone(living, 5)
    return living


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
    user_namespace: bool = False,
    dies_with_parent: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a service in a session of its own, its output appended to `log`.

    Args:
        argv: Program and arguments.
        env: Its whole environment.
        log: File for stdout and stderr, opened for appending so that it may be truncated under the process.
        cwd: Its folder; `/` by default, so that no file system stays busy.
        user_namespace: Start it in a user namespace where root is user 65534, see `as_nobody`.
        dies_with_parent: The kernel sends TERM when the starting thread ends. A second line only: a crash of the supervisor is
            cleaned up by the next `up`.
    """
    command = list(argv)
    if dies_with_parent:
        # Inside the namespace: entering one changes the credentials, which clears the death signal (prctl(2)).
        command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
    if user_namespace:
        command = as_nobody(command)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as stream:
        return subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=cwd or "/",
            start_new_session=True,
        )


def as_nobody(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a user namespace where this root is the unprivileged user 65534.

    PostgreSQL refuses to run as root. In the namespace it is nobody for itself and still root's own for the files, so no system
    user is made and no folder is opened to others.
    """
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--", *argv]


def run(argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a short program to its end, its output captured as text."""
    return subprocess.run(
        list(argv),
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd="/",
    )
