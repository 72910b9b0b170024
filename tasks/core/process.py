"""The only place that starts a program, and it leaves none behind.

`run_command` starts a small supervisor (`_supervisor.py`) which starts the program. Whatever ends the call (the
program, its deadline, a cancel, kill -9 of this process), the supervisor ends every descendant of the program, those
in sessions of their own included, and nothing sends packets afterwards. Measured: about 35 ms on top of the program's
own time.

Who can be signalled: programs with file capabilities (setcap) and ordinary setuid programs always, because their real
user stays ours. Not, when we are not root: a program that gives up our real user altogether (sudo, su).
`Limits(new_privileges=False)` keeps a program from changing accounts; survivors are named in the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import marshal
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from tasks.core.errors import Busy, CommandFailed, InvalidParameters, MissingProgram, ToolTimeout

SUPERVISOR = Path(__file__).with_name("_supervisor.py")
ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where network programs live on Debian; an ordinary account's PATH lacks them."""
STDERR_TAIL_BYTES = 64 * 1024
"""How much of the error output is kept: its end, which says why."""
PATIENCE = 6.0
"""Seconds beyond the grace after which an unresponsive supervisor is given up (it needs 3 to kill)."""

_PACKAGES = {"ip": "iproute2", "ping": "iputils-ping", "getcap": "libcap2-bin", "setcap": "libcap2-bin"}


@dataclass(frozen=True)
class Limits:
    """What a program may use. None means: as much as this process may.

    Attributes:
        cpu_seconds: CPU time of each process of the program (RLIMIT_CPU).
        memory_bytes: Address space of each process (RLIMIT_AS).
        file_size_bytes: Largest file it may write, `stdout_path` included (RLIMIT_FSIZE).
        processes: Processes alive at once, the first included. RLIMIT_NPROC, and for root, whom that does not bind, a
            count ten times a
            second: one too many ends the program.
        open_files: Descriptors of each process (RLIMIT_NOFILE).
        new_privileges: Whether setuid and setcap programs get their privileges (PR_SET_NO_NEW_PRIVS when not).
    """

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    file_size_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    new_privileges: bool = True


@dataclass(frozen=True)
class Completed:
    """What a program did.

    Attributes:
        argv: What was started, as given.
        returncode: Exit status; negative: the signal that ended it.
        stdout: Its output, the first `max_output_bytes`; empty when it went to a file.
        stderr: The end of its error output.
        truncated: Whether some output is missing here.
        duration: Seconds from start to the end of its last descendant.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    duration: float


def search_path() -> str:
    """PATH of programs we start: this process's own, and the administrator's folders."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, *ADMIN_FOLDERS]))


def find_program(name: str, package: str | None = None) -> str:
    """Return the path of a program.

    Args:
        name: Its name, or a path to it.
        package: The distribution's package that has it, where its name differs.

    Raises:
        MissingProgram: It is not installed, or may not be executed; the hint says how to get it.
    """
    found = shutil.which(name, path=search_path())
    if found:
        return found
    if "/" in name:
        reason = "may not be executed" if Path(name).exists() else "does not exist"
        raise MissingProgram(f"The program {name} {reason}.")
    package = package or _PACKAGES.get(name, name)
    raise MissingProgram(f"The program {name} is not installed.", hint=f"Install it: sudo apt-get install {package}")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment programs get: nothing of ours, where passwords and API keys may be, but PATH and HOME."""
    home = os.environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # an account without a name, as in containers
            home = "/"
    # Programs print times in TZ; all of ours are UTC.
    return {"PATH": search_path(), "HOME": home, "LANG": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def describe_exit(returncode: int) -> str:
    """Say how a program ended.

    >>> describe_exit(3)
    'ended with status 3'
    >>> describe_exit(-9)
    'was ended by SIGKILL'
    """
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was ended by {name}"


def last_words(stderr: bytes, most: int = 400) -> str:
    """The last lines of error output, printable, in one line of at most `most` characters."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", stderr.decode(errors="replace"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    words = "; ".join([line for line in lines if line][-3:])
    words = "".join(character if character.isprintable() else "?" for character in words)
    return words if len(words) <= most else "..." + words[-most:]


async def run_command(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    scratch: Path | str | None = None,
    stdout_path: Path | None = None,
    max_output_bytes: int = 1 << 20,
    limits: Limits | None = None,
    ok: Collection[int] = (0,),
    grace: float = 2.0,
    on_stdout: Callable[[bytes], None] | None = None,
    enough: asyncio.Event | None = None,
) -> Completed:
    """Run a program to its end, and end everything it started with it.

    Args:
        argv: Program (a name or path) and arguments. No shell looks at them.
        timeout: Seconds until it is ended.
        stdin: What it may read; without, nothing (/dev/null). The terminal is never its to read.
        env: Variables added to the clean environment.
        cwd: Working folder; default: this process's.
        scratch: A folder that is only for this run. Its owner removes it; the supervisor does when this process was killed meanwhile.
        stdout_path: File (made 0600, or truncated) that gets the output instead of memory; not with `on_stdout`.
        max_output_bytes: How much output is kept in memory; what is beyond is read and dropped, and `truncated` set.
        limits: What it may use.
        ok: Exit statuses that are no failure.
        grace: Seconds between SIGTERM and SIGKILL when it is ended (at most 1 once this process is gone).
        on_stdout: Called with each piece of output as it arrives, all of it; an exception it raises ends the program.
        enough: Ends the program when set, and that is no failure: what it gave is returned, whatever its exit status. For programs
            that go on until they are stopped and say something at their end.

    Raises:
        ToolTimeout: The deadline passed; `partial` has what came until then.
        CommandFailed: It ended with another status or by a signal; `completed` has what came.
        MissingProgram: It is not installed or cannot be executed.
        Busy: The machine cannot start processes now.
        asyncio.CancelledError: The caller was cancelled; the program and its descendants are gone.
    """
    if stdout_path is not None and on_stdout is not None:
        raise ValueError("output goes to a file or to a function, not both")
    words = tuple(str(word) for word in argv)
    if any("\0" in word for word in words):
        raise InvalidParameters(f"An argument of {words[0]!r} contains a NUL character.")
    program = find_program(words[0])
    order = {
        "parent": os.getpid(),
        "program": program,
        "argv": list(words),
        "env": clean_environment(env),
        "cwd": None if cwd is None else str(Path(cwd).absolute()),  # noqa: ASYNC240 - touches no disk
        "scratch": None if scratch is None else str(Path(scratch).absolute()),  # noqa: ASYNC240 - the same
        "limits": asdict(limits or Limits()),
        "grace": grace,
        # The supervisor's own clock: holds when this process is stopped or its loop hangs.
        "deadline": timeout + 1.0,
    }
    job = _Job(order, stdin, stdout_path, max_output_bytes, on_stdout)
    alarm = asyncio.get_running_loop().call_later(timeout, job.stop, "deadline")
    watch = None if enough is None else asyncio.ensure_future(enough.wait())
    if watch is not None:
        watch.add_done_callback(lambda watched: None if watched.cancelled() else job.stop("enough"))
    try:
        # asyncio.wait does not cancel what it waits for: the job itself ends only when the supervisor says so.
        await asyncio.wait([job.done])
    except asyncio.CancelledError:
        job.stop("cancelled")
        await _outlast(job.done)
        raise
    finally:
        alarm.cancel()
        if watch is not None:
            watch.cancel()
        job.close()
    if job.error is not None:
        raise job.error
    return _judge(job, words, ok, timeout)


async def _outlast(done: asyncio.Future[None]) -> None:
    """Wait for the end of a job whatever cancels us meanwhile; the job bounds the time itself."""
    # anyio (and so Prefect's time-outs) cancels again at every await unless shielded; asyncio cancels once per call.
    with anyio.CancelScope(shield=True):
        while not done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])


def _judge(job: _Job, argv: tuple[str, ...], ok: Collection[int], timeout: float) -> Completed:
    """Turn a finished job into what it completed, or the error it means."""
    name = Path(argv[0]).name
    report = job.report
    status = report.get("status")
    completed = Completed(
        argv=argv,
        returncode=-signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status),
        stdout=bytes(job.stdout),
        stderr=bytes(job.stderr),
        truncated=job.truncated,
        duration=time.monotonic() - job.started,
    )
    remaining = ", ".join(f"{pid} ({called})" for pid, called in report.get("survivors", ()))
    hint = f"Could not be ended and still run: {remaining}; end them by hand." if remaining else None
    if report.get("complaint"):
        raise _not_started(name, report["complaint"], str(job.order["cwd"]))
    reason = job.reason or report.get("reason")
    if reason == "deadline":
        timed_out = ToolTimeout(f"{name} did not finish within {timeout:g} s.", hint=hint)
        timed_out.partial = completed
        raise timed_out
    fine = reason == "enough" or (reason == "exit" and completed.returncode in ok)
    if fine and not remaining:
        return completed
    if reason == "processes":
        message = f"{name} was ended: it ran more than {job.order['limits']['processes']} processes at once."
    elif fine:
        message = f"{name} finished, but not all it started could be ended."
    elif reason == "exit":
        message = f"{name} {describe_exit(completed.returncode)}{_cause(completed.returncode, job.order['limits'], report['cpu_seconds'])}"
        words = last_words(completed.stderr)
        message += f": {words}" if words else "."
    elif reason == "stopped":
        message = f"{name} was ended: its supervisor was told to stop by someone else."
    else:
        message = f"{name} was lost: its supervisor was killed."
        hint = "Processes it started may still run."
    failed = CommandFailed(message, hint=hint)
    failed.completed = completed
    raise failed


def _cause(returncode: int, limits: Mapping[str, Any], cpu_seconds: float) -> str:
    """Name the limit behind a signal, where one explains it."""
    allowed = limits["cpu_seconds"]
    # A program deaf to SIGXCPU gets SIGKILL a second later.
    if returncode == -signal.SIGXCPU or (returncode == -signal.SIGKILL and allowed and cpu_seconds >= allowed):
        return f" (allowed: {allowed} s of CPU time)"
    if returncode == -signal.SIGXFSZ:
        return f" (allowed: files of {limits['file_size_bytes']} bytes)"
    if returncode == -signal.SIGKILL:
        return " (perhaps the machine ran out of memory)"
    return ""


def _not_started(name: str, complaint: str, cwd: str) -> MissingProgram | CommandFailed | InvalidParameters:
    """The error behind `STEP ERRNO`, which the supervisor's child left when it could not become the program."""
    step, _, number = complaint.partition(" ")
    code = int(number or 0)
    if step == "cwd":
        return InvalidParameters(f"{name} cannot start in the folder {cwd}: {os.strerror(code)}.")
    if step == "exec" and code == errno.ENOENT:
        return MissingProgram(
            f"{name} cannot start: the interpreter named in its first line, or its loader, is missing."
        )
    if step == "exec" and code in {errno.EACCES, errno.EPERM}:
        return MissingProgram(
            f"{name} may not be executed: {os.strerror(code)}.",
            hint="A program with capabilities needs them in this container or account too: signalbox doctor",
        )
    return CommandFailed(f"{name} cannot start ({step}): {os.strerror(code)}.")


class _Job:
    """One supervisor, its streams, and a future that is done when all of it is over.

    Callbacks only, no task: asyncio.run cancels every task when it ends, and a cancelled task would stop reading.
    """

    def __init__(
        self,
        order: dict[str, Any],
        stdin: bytes | None,
        stdout_path: Path | None,
        max_output_bytes: int,
        on_stdout: Callable[[bytes], None] | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.order = order
        self.started = time.monotonic()
        self.reason: str | None = None
        self.error: BaseException | None = None
        self.report: dict[str, Any] = {}
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.truncated = False
        self._most = max_output_bytes
        self._on_stdout = on_stdout
        self._heard = bytearray()
        self._reading: dict[int, Callable[[int], None]] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._control_open = True
        self._start(stdin, stdout_path)

    def _start(self, stdin: bytes | None, stdout_path: Path | None) -> None:
        # Every descriptor is close-on-exec (PEP 446), so no other program of ours ever holds one.
        with contextlib.ExitStack() as theirs:
            ours, other = socket.socketpair()
            theirs.callback(other.close)
            try:
                source = theirs.enter_context(_source(stdin))
                sink: int
                if stdout_path is not None:
                    sink = os.open(stdout_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                else:
                    read_out, sink = os.pipe()
                    self._reading[read_out] = self._on_output
                theirs.callback(os.close, sink)
                read_err, errors = os.pipe()
                self._reading[read_err] = self._on_errors
                theirs.callback(os.close, errors)
                self._popen = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        str(SUPERVISOR),
                        str(other.fileno()),
                        Path(self.order["program"]).name,
                    ],
                    stdin=source,
                    stdout=sink,
                    stderr=errors,
                    pass_fds=(other.fileno(),),
                    start_new_session=True,
                    # Its own environment is as clean as the program's; some Pythons need the library path to start at
                    # all.
                    env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                )
            except OSError as error:
                ours.close()
                for descriptor in self._reading:
                    os.close(descriptor)
                if error.errno in {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}:
                    raise Busy(f"No program can be started now: {error.strerror}.", retry_after=5) from None
                raise
        self._control = ours
        message = marshal.dumps(self.order)
        ours.settimeout(5)
        with contextlib.suppress(
            OSError
        ):  # a supervisor that died at once or hangs: its end of file or the deadline says so
            ours.sendall(len(message).to_bytes(4, "big") + message)
        ours.setblocking(False)
        self.loop.add_reader(ours.fileno(), self._on_control)
        for descriptor, callback in self._reading.items():
            os.set_blocking(descriptor, False)
            self.loop.add_reader(descriptor, callback, descriptor)

    # --- streams

    def _on_output(self, descriptor: int) -> None:
        data = self._read(descriptor)
        room = self._most - len(self.stdout)
        self.stdout += data[: max(0, room)]
        self.truncated = self.truncated or len(data) > room
        if data and self._on_stdout is not None and self.error is None:
            try:
                self._on_stdout(data)
            except Exception as error:  # noqa: BLE001 - the caller's own; raised from run_command once the program is gone
                self.error = error
                self.stop("callback")

    def _on_errors(self, descriptor: int) -> None:
        self.stderr += self._read(descriptor)
        if len(self.stderr) > STDERR_TAIL_BYTES:
            del self.stderr[:-STDERR_TAIL_BYTES]
            self.truncated = True

    def _read(self, descriptor: int) -> bytes:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._forget(descriptor)
            self._settle()
        return data

    def _forget(self, descriptor: int) -> None:
        self.loop.remove_reader(descriptor)
        del self._reading[descriptor]
        os.close(descriptor)

    def _on_control(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._heard += data
            return
        self.loop.remove_reader(self._control.fileno())
        self._control_open = False
        if self._heard:
            self.report = marshal.loads(bytes(self._heard))  # noqa: S302 - from our own child
        # A descriptor passed to a process outside the family could keep a stream open: a second of reading on, then
        # enough.
        self._be_patient(1.0)
        self._settle()

    # --- the end

    def stop(self, reason: str) -> None:
        """Have the supervisor end the program; the first reason counts."""
        if self.reason is None and self._control_open:
            self.reason = reason
            # Works also when a fork without exec elsewhere in this process holds a copy of the socket.
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            self._be_patient(self.order["grace"] + PATIENCE)

    def _be_patient(self, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self._finish)

    def _settle(self, pause: float = 0.001) -> None:
        """Finish once the report, the end of both streams and the supervisor's own exit are there."""
        if self._control_open or self._reading or self.done.done():
            return
        if self._popen.poll() is None and not self.report.get("survivors"):
            self.loop.call_later(pause, self._settle, min(pause * 2, 0.1))
        else:
            self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Let go of everything; a supervisor still there sees the end of its socket and ends the program."""
        if self._patience is not None:
            self._patience.cancel()
        if self._control_open:
            self.loop.remove_reader(self._control.fileno())
            self._control_open = False
        self._control.close()
        for descriptor in list(self._reading):
            self._forget(descriptor)


@contextlib.contextmanager
def _source(stdin: bytes | None) -> Iterator[int]:
    """A descriptor to read `stdin` from: a file in memory, so nobody has to feed a pipe; /dev/null without."""
    if stdin is None:
        with open(os.devnull, "rb") as nothing:
            yield nothing.fileno()
    else:
        with open(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as file:
            file.write(stdin)
            file.seek(0)
            yield file.fileno()
