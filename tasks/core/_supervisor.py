"""Keep one program, and everything it starts, on a lead. Run as `python -I -S _supervisor.py FD NAME`; never imported.

`tasks.core.process` starts it in a session of its own and holds the other end of the socket FD. It reads one order
from there (a marshalled dict behind four bytes of length), starts the program, and from then on needs nobody: when
the other end closes, says stop, or its process is gone, when the program ends or the deadline passes, every
descendant gets SIGTERM, a grace period, and SIGKILL until the kernel says that no child is left. Then it reports and
exits.

Why not something simpler:

* PR_SET_PDEATHSIG misses grandchildren, fires when the starting *thread* ends, and the kernel clears it for setuid
  and setcap programs.
* A process group or session misses whatever calls setsid(2).
* A subreaper (PR_SET_CHILD_SUBREAPER) misses nothing: each orphaned descendant becomes its child, so "no child left"
  means "none left".

One thread, standard library only, no site-packages: it starts in about 30 ms and has nothing that could hang.
"""

# pathlib would double the time to start; becoming the program is the purpose:
# ruff: noqa: PTH110, PTH116, PTH208, S606

from __future__ import annotations

import contextlib
import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False  # typing itself is not imported: it would cost a fifth of the start
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

TICK = 0.5
"""Seconds between looks at the parent: a fork without exec elsewhere in the flow's process may hold the socket open
after its death."""
CENSUS = 0.1
"""Seconds between counts of descendants where their number is limited (RLIMIT_NPROC does not bind root)."""
ORPHAN_GRACE = 1.0
"""Longest grace once nobody waits for the output any more."""
KILLING = 3.0
"""Seconds of killing after which survivors are reported (they stay on the lead: killing goes on)."""

_LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set a property of this process.

    Raises:
        OSError: The kernel said no.
    """
    if _LIBC.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- the family ------------------------------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    """Direct children of a process; empty when it is gone or may not be looked at."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def status_of(pid: int) -> tuple[str, int, str]:
    """State letter, parent and name of a process; ("X", 0, "") when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return ("X", 0, "")
    # The name is in parentheses and may itself hold any character: the last parenthesis counts.
    after = text[text.rindex(")") + 2 :].split()
    return (after[0], int(after[1]), text[text.index("(") + 1 : text.rindex(")")])


def descendants() -> list[int]:
    """Every living descendant of this process, parents before children."""
    me = os.getpid()
    if os.path.exists(f"/proc/{me}/task/{me}/children"):
        find = children_of
    else:  # a kernel without CONFIG_PROC_CHILDREN
        family: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                family.setdefault(status_of(int(name))[1], []).append(int(name))

        def find(pid: int) -> list[int]:
            return family.get(pid, [])

    found: list[int] = []
    waiting = [me]
    while waiting:
        for child in find(waiting.pop(0)):
            if child not in found:
                found.append(child)
                waiting.append(child)
    return [pid for pid in found if status_of(pid)[0] not in "ZX"]


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone, or another account's."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def freeze_and_kill() -> None:
    """SIGKILL every descendant, stopping all first so that none forks away between being seen and being killed."""
    seen: dict[int, None] = {}
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        new = [pid for pid in descendants() if pid not in seen]
        if not new:
            break
        for pid in new:
            send(pid, signal.SIGSTOP)
            seen[pid] = None
    for pid in seen:
        send(pid, signal.SIGKILL)


def tasks_of_account() -> int:
    """Processes and threads of our own account now: what RLIMIT_NPROC counts."""
    count, uid = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


# --- the program -----------------------------------------------------------------------------------------------------


def limit(kind: int, value: int, hard: int | None = None) -> None:
    """Set a resource limit, never above the one in force."""
    ceiling = resource.getrlimit(kind)[1]
    wanted = value if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        value, wanted = min(value, ceiling), min(wanted, ceiling)
    resource.setrlimit(kind, (value, wanted))


def become(order: dict[str, Any], complaints: int, supervisor: int) -> None:
    """Turn this fresh child into the program; returns only by exiting, with the reason written to `complaints`."""
    step = "start"
    try:
        # A group of its own: a program that signals its group must not hit the supervisor.
        os.setpgid(0, 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue  # the C library keeps two real-time signals to itself
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        # A second line only (see above): it holds when someone kills the supervisor itself with SIGKILL.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(127)
        step = "limits"
        limits = order["limits"]
        limit(resource.RLIMIT_CORE, 0)  # a core file holds what was in memory, secrets included
        if limits.get("cpu_seconds"):
            limit(resource.RLIMIT_CPU, limits["cpu_seconds"], limits["cpu_seconds"] + 1)
        if limits.get("memory_bytes"):
            limit(resource.RLIMIT_AS, limits["memory_bytes"])
        if limits.get("file_size_bytes") is not None:
            limit(resource.RLIMIT_FSIZE, limits["file_size_bytes"])
        if limits.get("open_files"):
            limit(resource.RLIMIT_NOFILE, limits["open_files"])
        if limits.get("processes"):
            limit(resource.RLIMIT_NPROC, tasks_of_account() + limits["processes"])
        if not limits.get("new_privileges", True):
            prctl(PR_SET_NO_NEW_PRIVS, 1)
        step = "cwd"
        if order["cwd"] is not None:
            os.chdir(order["cwd"])
        step = "exec"
        os.execve(order["program"], order["argv"], order["env"])
    except (OSError, ValueError) as error:
        os.write(complaints, f"{step} {getattr(error, 'errno', 0) or 0}".encode())
    finally:
        os._exit(127)


class Lead:
    """The loop around one program."""

    def __init__(self, control: int, order: dict[str, Any]) -> None:
        self.control = control
        self.order = order
        self.parent: int = order["parent"]
        self.status: int | None = None
        self.childless = False
        self.told_to_stop = False
        self.connected = True
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        # A signal becomes a readable byte: SIGCHLD wakes the loop, SIGTERM ends it in order.
        self.bell, ringer = os.pipe()
        for end in (self.bell, ringer):
            os.set_blocking(end, False)
        self.poll.register(self.bell, select.POLLIN)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        complaints, writer = os.pipe()
        self.complaints = complaints
        me = os.getpid()
        self.program = os.fork()
        if self.program == 0:
            become(order, writer, me)
        os.close(writer)
        # Only the program's family holds its streams from here on: their end of file means that the family has closed
        # them.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def orphaned(self) -> bool:
        """Whether the process that gave the order is gone."""
        return os.getppid() != self.parent

    def wait(self, seconds: float) -> None:
        """Sleep until something happens, at most `seconds`."""
        for descriptor, _ in self.poll.poll(max(0, int(seconds * 1000) + 1)):
            if descriptor == self.bell:
                with contextlib.suppress(OSError):
                    os.read(self.bell, 4096)
            else:
                # Whatever comes on the socket after the order, a message or its end, means stop.
                self.told_to_stop, self.connected = True, False
                self.poll.unregister(self.control)

    def reap(self) -> None:
        """Collect every dead child; note the program's status, and when there is no child left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            if pid == self.program:
                self.status = status

    def watch(self) -> str:
        """Wait for the program's end or a reason to end it; returns the reason, `exit` for the former."""
        deadline = time.monotonic() + self.order["deadline"]
        most = self.order["limits"].get("processes")
        while True:
            self.reap()
            if self.status is not None:
                return "exit"
            if self.told_to_stop or self.orphaned():
                return "stopped"
            left = deadline - time.monotonic()
            if left <= 0:
                return "deadline"
            if most and len(descendants()) > most:
                return "processes"
            self.wait(min(left, CENSUS if most else TICK))

    def end(self) -> list[tuple[int, str]]:
        """End every descendant: SIGTERM, grace, SIGKILL. Returns those that could not be ended in time (pid, name)."""
        self.reap()
        for pid in [] if self.childless else descendants():
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)  # a stopped process sees SIGTERM only when continued
        until = time.monotonic() + self.order["grace"]
        while not self.childless and time.monotonic() < until:
            if self.orphaned():
                until = min(until, time.monotonic() + ORPHAN_GRACE)
            self.wait(min(0.1, until - time.monotonic()))
            self.reap()
        until = time.monotonic() + KILLING
        pause = 0.005
        while not self.childless and time.monotonic() < until:
            freeze_and_kill()
            self.wait(pause)
            pause = min(pause * 2, 0.2)
            self.reap()
        return [] if self.childless else [(pid, status_of(pid)[2]) for pid in descendants()]

    def run(self) -> None:
        """Watch, end, report; then stay with survivors (another account's, or stuck in the kernel) until they go."""
        reason = self.watch()
        survivors = self.end()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = {
            "status": self.status,
            "reason": reason,
            "complaint": os.read(self.complaints, 64).decode() if self.status is not None else "",
            "survivors": survivors,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
        try:
            os.write(self.control, marshal.dumps(report))
        except OSError:
            abandoned = True  # whoever gave the order closes the socket only after the report
        else:
            abandoned = self.orphaned()
        os.close(self.control)
        if self.connected:
            self.poll.unregister(self.control)
        while not self.childless:
            freeze_and_kill()
            self.wait(1.0)
            self.reap()
        if abandoned and self.order.get("scratch"):
            import shutil  # here only: it would cost every start

            shutil.rmtree(self.order["scratch"], ignore_errors=True)


def read_order(control: int) -> dict[str, Any] | None:
    """The order: four bytes of length (big-endian), then a marshalled dict. None when the other end closed first."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        part = os.read(control, 1 << 16)
        if not part:
            return None
        data += part
    order: dict[str, Any] = marshal.loads(data[4:])
    return order


def main() -> None:
    """Read the order and carry it out."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    order = read_order(control)
    if order is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        Lead(control, order).run()
    os._exit(0)


if __name__ == "__main__":
    main()
