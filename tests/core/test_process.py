# The tests start callers and look into /proc while the loop stands still; that is fine here:
# ruff: noqa: ASYNC221, ASYNC240
from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, ToolTimeout
from tasks.core.process import Limits, describe_exit, find_program, last_words, run_command

ROOT = Path(__file__).parents[2]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# A family that does not want to go: a child, a grandchild, and a double-forked one in a session of its own, all deaf to SIGTERM, all
# sending a packet ten times a second. argv: port, marker.
STUBBORN = """
import os, signal, socket, sys, time
def deaf():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
def talk():
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        sender.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
        time.sleep(0.1)
deaf()
if os.fork() == 0:
    if os.fork() == 0:
        talk()
    talk()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        talk()
    os._exit(0)
if len(sys.argv) > 3:
    time.sleep(0.5)
    sys.exit(0)
talk()
"""

# Calls run_command in a process of its own, as a flow's process does. argv: the command.
CALLER = """
import asyncio, sys
from tasks.core.process import run_command
asyncio.run(run_command(sys.argv[1:], timeout=60))
"""


def alive(marker: str) -> list[int]:
    """Processes, dead but unreaped ones included, that have the marker in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


async def until(condition: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            pytest.fail(f"not within {seconds} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - started


def zombies() -> list[int]:
    """Children of this process that have ended and were not collected."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                found.append(int(folder.name))
    return found


@pytest.fixture
def marker() -> Iterator[str]:
    """A word for command lines; whatever still carries it at the end of the test is killed, so that a failure stays one failure."""
    word = f"marker-{uuid4().hex}"
    yield word
    for pid in alive(word):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def packets() -> Iterator[socket.socket]:
    """Where the stubborn family sends to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        yield receiver


@pytest.fixture
def stubborn(tmp_path: Path, packets: socket.socket, marker: str) -> list[str]:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    return [sys.executable, "-I", "-S", str(script), str(packets.getsockname()[1]), marker]


def drain(packets: socket.socket) -> int:
    count = 0
    while True:
        try:
            packets.recv(10)
        except BlockingIOError:
            return count
        count += 1


async def assert_gone(marker: str, packets: socket.socket | None = None) -> None:
    """Nothing alive and nothing sent from now on (called when 5 s are over or earlier)."""
    assert alive(marker) == []
    if packets is not None:
        drain(packets)
        await asyncio.sleep(0.5)
        assert drain(packets) == 0


# --- the end of a family ----------------------------------------------------------------------------------------------


async def test_no_descendant_survives_the_deadline(stubborn: list[str], marker: str, packets: socket.socket) -> None:
    started = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"did not finish within 1 s"):
        await run_command(stubborn, timeout=1, grace=1)
    assert drain(packets) > 10, "the family never talked: this test shows nothing"
    assert time.monotonic() - started < 20
    await assert_gone(marker, packets)


async def test_no_descendant_survives_a_cancel(stubborn: list[str], marker: str, packets: socket.socket) -> None:
    task = asyncio.create_task(run_command(stubborn, timeout=60))
    await until(lambda: len(alive(marker)) >= 4, 10)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 20
    assert drain(packets) > 0
    await assert_gone(marker, packets)


async def test_no_descendant_survives_a_cancel_scope_that_cancels_again_and_again(
    stubborn: list[str], marker: str, packets: socket.socket
) -> None:
    cpu = time.process_time()
    with anyio.move_on_after(1) as scope:
        await run_command(stubborn, timeout=60)
    assert scope.cancelled_caught
    assert time.process_time() - cpu < 1, "the cancelled wait spins"
    await assert_gone(marker, packets)


async def test_two_cancels_in_a_row_do_not_leave_anything(stubborn: list[str], marker: str) -> None:
    task = asyncio.create_task(run_command(stubborn, timeout=60))
    await until(lambda: len(alive(marker)) >= 4, 10)
    task.cancel()
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_gone(marker)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_descendant_survives_the_process_that_called(
    stubborn: list[str], marker: str, packets: socket.socket, number: signal.Signals
) -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER, *stubborn], cwd=ROOT, start_new_session=True)
    await until(lambda: len(alive(marker)) >= 5, 20)
    # What Prefect's cancel does: a signal to the whole group of the flow's process.
    os.killpg(caller.pid, number)
    caller.wait()
    assert drain(packets) > 0
    assert await until(lambda: not alive(marker), 5) < 5
    await assert_gone(marker, packets)


async def test_no_descendant_survives_although_a_fork_of_the_caller_does(
    stubborn: list[str], marker: str, tmp_path: Path
) -> None:
    # A fork without exec (multiprocessing's) inherits every descriptor, the supervisor's socket included.
    script = textwrap.dedent("""
        import asyncio, os, sys, time
        from tasks.core.process import run_command
        async def main():
            task = asyncio.create_task(run_command(sys.argv[2:], timeout=60))
            await asyncio.sleep(1)
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            open(sys.argv[1], "w").write(str(pid))
            await task
        asyncio.run(main())
    """)
    note = tmp_path / "pid"
    caller = subprocess.Popen([sys.executable, "-c", script, str(note), *stubborn], cwd=ROOT)
    try:
        await until(lambda: note.exists() and note.read_text() != "", 20)
        caller.kill()
        caller.wait()
        # The fork itself carries the marker; nobody else may.
        await until(lambda: alive(marker) == [int(note.read_text())], 5)
    finally:
        caller.kill()
        os.kill(int(note.read_text()), signal.SIGKILL)


async def test_no_descendant_survives_the_programs_own_end(
    stubborn: list[str], marker: str, packets: socket.socket
) -> None:
    completed = await run_command([*stubborn, "leave"], timeout=30, grace=0.5)
    assert completed.returncode == 0
    assert drain(packets) > 0
    await assert_gone(marker, packets)


async def test_the_deadline_holds_when_the_callers_process_is_stopped(stubborn: list[str], marker: str) -> None:
    script = CALLER.replace("timeout=60", "timeout=1")
    caller = subprocess.Popen([sys.executable, "-c", script, *stubborn], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: len(alive(marker)) >= 5, 20)
        caller.send_signal(signal.SIGSTOP)
        await until(lambda: alive(marker) == [caller.pid], 1 + 1 + 5)
    finally:
        caller.kill()
        caller.wait()


async def test_a_program_may_use_its_grace_to_finish_its_output() -> None:
    script = "trap 'echo last words; exit 0' TERM; echo first; while :; do sleep 0.1; done"
    with pytest.raises(ToolTimeout) as caught:
        await run_command(["sh", "-c", script], timeout=1)
    assert caught.value.partial is not None
    assert caught.value.partial.stdout == b"first\nlast words\n"


async def test_a_program_that_signals_its_own_group_does_not_hit_its_supervisor() -> None:
    with pytest.raises(CommandFailed, match="was ended by SIGKILL"):
        await run_command(["sh", "-c", "kill -KILL 0"], timeout=10)


async def test_a_family_that_forks_on_and_on_is_ended(tmp_path: Path, marker: str) -> None:
    # Each process lives a tenth of a second and leaves a successor in a new session: a moving target, never more than a few at once.
    script = tmp_path / "relay.py"
    script.write_text(
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n    time.sleep(0.02)\n    if os.fork():\n        os._exit(0)\n    os.setsid()\n"
    )
    with pytest.raises(ToolTimeout):
        await run_command(["sh", "-c", f"{sys.executable} -I -S {script} {marker}; sleep 60"], timeout=1, grace=0.5)
    await assert_gone(marker)


@root_only
@pytest.mark.skipif(not shutil.which("tcpdump"), reason="tcpdump is not installed")
@pytest.mark.parametrize("how", ["deadline", "cancel", "kill"])
async def test_tcpdump_which_drops_privileges_does_not_survive(how: str, packets: socket.socket) -> None:
    marker = f"udp port {packets.getsockname()[1]}"
    argv = ["tcpdump", "-n", "-i", "lo", "-w", "-", "-U", marker]

    def capturing() -> bool:
        return any(b"tcpdump" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in alive(marker))

    if how == "deadline":
        with pytest.raises(ToolTimeout):
            await run_command(argv, timeout=1)
    elif how == "cancel":
        task = asyncio.create_task(run_command(argv, timeout=60))
        await until(capturing, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        caller = subprocess.Popen([sys.executable, "-c", CALLER, *argv], cwd=ROOT)
        await until(capturing, 20)
        await asyncio.sleep(0.5)  # until it has dropped its privileges
        caller.kill()
        caller.wait()
        await until(lambda: not alive(marker), 5)
    await assert_gone(marker)


@root_only
@pytest.mark.skipif(not shutil.which("setcap"), reason="setcap (libcap2-bin) is not installed")
@pytest.mark.parametrize("how", ["deadline", "kill"])
async def test_a_setcap_program_of_another_account_does_not_survive(how: str, marker: str) -> None:
    # The kernel clears PR_SET_PDEATHSIG for it, and its supervisor is no root: it must still go. In /tmp itself: other accounts
    # cannot enter pytest's folders.
    shell = Path(f"/tmp/{marker}")
    shutil.copy(shutil.which("bash") or "/bin/bash", shell)
    shell.chmod(0o755)
    try:
        subprocess.run(["setcap", "cap_net_raw+ep", str(shell)], check=True)
        deaf = "trap '' TERM; while :; do sleep 1; done"
        argv = [str(shell), "-c", f'(setsid {shell} -c "{deaf}") & {deaf}']
        # dac_read_search only lets the account reach this Python where it lives in somebody's home; it allows no signal.
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
        prefix += ["--ambient-caps=+dac_read_search", sys.executable, "-c"]
        script = CALLER if how == "kill" else CALLER.replace("timeout=60", "timeout=1")
        caller = subprocess.Popen([*prefix, script, *argv], cwd=ROOT, stderr=subprocess.PIPE)
        await until(lambda: len(alive(marker)) >= 3, 20)
        capable = [
            pid
            for pid in alive(marker)
            if pid != caller.pid and "CapEff:\t0000000000002000" in Path(f"/proc/{pid}/status").read_text()
        ]
        assert len(capable) >= 2, "no process got its capability: this test shows nothing"
        if how == "kill":
            caller.kill()
        await until(lambda: not [pid for pid in alive(marker) if pid != caller.pid], 1 + 2 + 5)
        _, errors = caller.communicate(timeout=10)
        assert how == "kill" or b"ToolTimeout" in errors
    finally:
        shell.unlink()
    await assert_gone(marker)


@root_only
async def test_what_gave_up_our_account_is_named_and_stays_on_the_lead_until_it_goes(marker: str) -> None:
    # As sudo does: real, effective and saved user become root's, whom an ordinary account cannot signal.
    python = Path(f"/tmp/{marker}")
    shutil.copy(Path(sys.executable).resolve(), python)
    python.chmod(0o4755)
    try:
        change = "import os, time; os.setgid(0); os.setuid(0); time.sleep(9)"
        script = (
            "import asyncio, sys\nfrom tasks.core.process import run_command\n"
            "asyncio.run(run_command(sys.argv[2:], timeout=1, grace=0.5, env={'PYTHONHOME': sys.argv[1]}))"
        )
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
        prefix += ["--ambient-caps=+dac_read_search", sys.executable, "-c", script, sys.base_prefix]
        caller = subprocess.Popen(
            [*prefix, str(python), "-I", "-S", "-c", change], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        _, errors = await asyncio.to_thread(caller.communicate, timeout=20)
        left = alive(marker)
        (survivor,) = [pid for pid in left if parent_of(pid) in left]
        assert f"Could not be ended and still run: {survivor} (marker-" in errors
        assert len(left) == 2, "the survivor and its supervisor"
        await until(lambda: not alive(marker), 10)
    finally:
        python.unlink()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- output -----------------------------------------------------------------------------------------------------------


async def test_output_and_errors_come_back_apart() -> None:
    completed = await run_command(["sh", "-c", "echo out; echo err >&2"], timeout=10)
    assert (completed.stdout, completed.stderr, completed.returncode) == (b"out\n", b"err\n", 0)
    assert not completed.truncated
    assert 0 < completed.duration < 10


async def test_output_beyond_the_cap_is_dropped_and_said() -> None:
    completed = await run_command(["head", "-c", "5000000", "/dev/zero"], timeout=10, max_output_bytes=1000)
    assert len(completed.stdout) == 1000
    assert completed.truncated


async def test_the_end_of_the_error_output_is_what_is_kept() -> None:
    completed = await run_command(["sh", "-c", "seq 100000 >&2; echo why >&2"], timeout=10)
    assert completed.stderr.endswith(b"100000\nwhy\n")
    assert len(completed.stderr) < 100_000
    assert completed.truncated


async def test_output_can_go_to_a_file_that_only_we_may_read(tmp_path: Path) -> None:
    path = tmp_path / "out"
    completed = await run_command(["seq", "100000"], timeout=10, stdout_path=path)
    assert path.read_bytes().endswith(b"\n100000\n")
    assert completed.stdout == b""
    assert path.stat().st_mode & 0o777 == 0o600


async def test_output_is_heard_as_it_comes() -> None:
    heard: list[tuple[float, bytes]] = []
    started = time.monotonic()
    await run_command(
        ["sh", "-c", "echo one; sleep 1; echo two"],
        timeout=10,
        on_stdout=lambda data: heard.append((time.monotonic() - started, data)),
    )
    assert [data for _, data in heard] == [b"one\n", b"two\n"]
    assert heard[0][0] < 0.9 < heard[1][0]


async def test_a_listener_that_fails_ends_the_program(marker: str) -> None:
    def listen(_: bytes) -> None:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await run_command(["sh", "-c", f"echo one; sleep 60; : {marker}"], timeout=30, on_stdout=listen)
    await assert_gone(marker)


async def test_a_program_that_has_given_enough_is_ended_and_its_last_words_come_back(marker: str) -> None:
    enough = asyncio.Event()
    script = f"trap 'echo three packets >&2; exit 7' TERM; echo one; sleep 60 & wait; : {marker}"
    completed = await run_command(["sh", "-c", script], timeout=30, on_stdout=lambda _: enough.set(), enough=enough)
    assert (completed.returncode, completed.stdout, completed.stderr) == (7, b"one\n", b"three packets\n")
    await assert_gone(marker)
    with pytest.raises(CommandFailed, match="status 7"):  # its own end is judged as ever
        await run_command(["sh", "-c", "exit 7"], timeout=30, enough=asyncio.Event())


async def test_a_program_reads_what_it_is_given_and_nothing_else() -> None:
    given = os.urandom(3_000_000)
    completed = await run_command(["cat"], timeout=10, stdin=given, max_output_bytes=len(given))
    assert completed.stdout == given
    assert (await run_command(["cat"], timeout=10)).stdout == b""


async def test_a_program_has_no_terminal() -> None:
    with pytest.raises(CommandFailed):
        await run_command(["sh", "-c", "exec 2>&1; : < /dev/tty"], timeout=10)


async def test_a_program_gets_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    completed = await run_command(["env"], timeout=10, env={"EXTRA": "1"})
    names = {line.split("=")[0] for line in completed.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "LANG", "TZ", "EXTRA"}


async def test_a_program_inherits_no_descriptor_and_no_ignored_signal() -> None:
    with socket.socket() as _open:
        listing = await run_command(["ls", "/proc/self/fd"], timeout=10)
    assert listing.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading that folder
    ignored = await run_command(["sh", "-c", "grep -E '^Sig(Ign|Blk)' /proc/self/status"], timeout=10)
    # Signals 32 and 33 are the C library's own: it lets nobody set them, so what our parent ignored stays so.
    assert [int(mask, 16) & ~(0b11 << 31) for mask in ignored.stdout.split()[1::2]] == [0, 0]


async def test_the_working_folder_is_the_one_named(tmp_path: Path) -> None:
    assert (await run_command(["pwd"], timeout=10, cwd=tmp_path)).stdout.decode().strip() == str(tmp_path)
    with pytest.raises(InvalidParameters, match="nowhere"):
        await run_command(["pwd"], timeout=10, cwd=tmp_path / "nowhere")


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_failed_program_says_why() -> None:
    with pytest.raises(CommandFailed, match=r"^sh ended with status 3: first; no such thing$") as caught:
        await run_command(
            ["sh", "-c", "echo out; echo first >&2; echo >&2; echo no  such thing >&2; exit 3"], timeout=10
        )
    assert caught.value.completed is not None
    assert caught.value.completed.stdout == b"out\n"


async def test_a_status_that_is_allowed_is_no_failure() -> None:
    assert (await run_command(["sh", "-c", "exit 3"], timeout=10, ok=(0, 3))).returncode == 3


async def test_a_program_ended_by_a_signal_says_which() -> None:
    with pytest.raises(CommandFailed, match="was ended by SIGSEGV"):
        await run_command(["sh", "-c", "kill -SEGV $$"], timeout=10)
    assert describe_exit(-63) == "was ended by signal 63"


async def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(MissingProgram, match="sudo apt-get install some-package"):
        find_program("no-such-program", "some-package")
    with pytest.raises(MissingProgram, match="no-such-program is not installed"):
        await run_command(["no-such-program"], timeout=1)


async def test_a_file_that_may_not_be_executed_says_so(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    with pytest.raises(MissingProgram, match="may not be executed"):
        await run_command([plain], timeout=1)


async def test_a_script_without_its_interpreter_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(MissingProgram, match="interpreter"):
        await run_command([script], timeout=10)


async def test_an_argument_with_nul_is_refused() -> None:
    with pytest.raises(InvalidParameters, match="NUL"):
        await run_command(["echo", "a\0b"], timeout=1)


async def test_a_killed_supervisor_takes_its_program_along_and_is_reported(marker: str) -> None:
    task = asyncio.create_task(run_command(["sh", "-c", f"while :; do sleep 1; done; : {marker}"], timeout=60))
    await until(lambda: len(alive(marker)) == 1, 10)
    (program,) = alive(marker)
    os.kill(parent_of(program), signal.SIGKILL)
    with pytest.raises(CommandFailed, match="supervisor was killed"):
        await task
    await until(lambda: not alive(marker), 2)


def test_the_last_words_are_one_printable_line() -> None:
    assert last_words(b"a\nb\n\n\x1b[31mc\x07\x1b[0m\nd\xff\n") == "b; c?; d\N{REPLACEMENT CHARACTER}"
    assert len(last_words(b"x" * 10_000)) < 500


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_cpu_time_is_limited() -> None:
    with pytest.raises(CommandFailed, match=r"SIGXCPU \(allowed: 1 s of CPU time\)"):
        await run_command(["sh", "-c", "while :; do :; done"], timeout=20, limits=Limits(cpu_seconds=1))


async def test_a_kill_is_blamed_on_the_limit_only_when_the_time_was_used() -> None:
    deaf = ["sh", "-c", "trap '' XCPU; while :; do :; done"]
    with pytest.raises(CommandFailed, match=r"SIGKILL \(allowed: 1 s of CPU time\)"):
        await run_command(deaf, timeout=20, limits=Limits(cpu_seconds=1))
    with pytest.raises(CommandFailed, match=r"SIGKILL \(perhaps the machine ran out of memory\)"):
        await run_command(["sh", "-c", "kill -KILL $$"], timeout=20, limits=Limits(cpu_seconds=1))


async def test_memory_is_limited() -> None:
    script = "x = bytearray(1 << 30)"
    with pytest.raises(CommandFailed, match="MemoryError"):
        await run_command([sys.executable, "-I", "-S", "-c", script], timeout=20, limits=Limits(memory_bytes=256 << 20))


async def test_the_size_of_files_is_limited(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"SIGXFSZ \(allowed: files of 1000 bytes\)"):
        await run_command(
            ["head", "-c", "5000", "/dev/zero"],
            timeout=10,
            stdout_path=tmp_path / "out",
            limits=Limits(file_size_bytes=1000),
        )
    assert (tmp_path / "out").stat().st_size == 1000


async def test_the_number_of_processes_is_limited(marker: str) -> None:
    script = f"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; wait; : {marker}"
    with pytest.raises(CommandFailed, match=r"more than 8 processes|ended with status"):
        await run_command(["sh", "-c", script], timeout=20, limits=Limits(processes=8))
    await assert_gone(marker)


async def test_open_files_and_core_dumps_are_limited() -> None:
    completed = await run_command(["sh", "-c", "ulimit -n; ulimit -c"], timeout=10, limits=Limits(open_files=32))
    assert completed.stdout.split() == [b"32", b"0"]


async def test_a_limit_above_the_one_in_force_is_that_one() -> None:
    ceiling = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    completed = await run_command(["sh", "-c", "ulimit -Hn"], timeout=10, limits=Limits(open_files=ceiling + 1))
    assert int(completed.stdout) == ceiling


async def test_privileges_can_be_withheld() -> None:
    for allowed, value in ((True, b"0"), (False, b"1")):
        completed = await run_command(
            ["grep", "NoNewPrivs", "/proc/self/status"], timeout=10, limits=Limits(new_privileges=allowed)
        )
        assert completed.stdout.split()[-1] == value


# --- nothing left of ours ---------------------------------------------------------------------------------------------


async def test_many_at_once_do_not_hold_each_other_up() -> None:
    started = time.monotonic()
    results = await asyncio.gather(*(run_command(["sh", "-c", f"sleep 1; echo {i}"], timeout=20) for i in range(20)))
    assert [int(result.stdout) for result in results] == list(range(20))
    assert time.monotonic() - started < 10
    assert zombies() == []


async def test_no_descriptor_and_no_zombie_is_left() -> None:
    await run_command(["true"], timeout=10)
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        await run_command(["true"], timeout=10, stdin=b"x")
        with pytest.raises(CommandFailed):
            await run_command(["false"], timeout=10)
        with pytest.raises(ToolTimeout):
            await run_command(["sleep", "5"], timeout=0.1)
        with pytest.raises(MissingProgram):
            await run_command(["/no/such"], timeout=1)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert zombies() == []


def test_the_end_of_the_event_loop_ends_the_program(marker: str) -> None:
    async def leave() -> None:
        task = asyncio.create_task(run_command(["sh", "-c", f"sleep 60; : {marker}"], timeout=60))
        await until(lambda: len(alive(marker)) == 1, 10)
        del task

    asyncio.run(leave())  # cancels what still runs and waits for it
    assert alive(marker) == []


SCRATCHED = """
import asyncio, sys, tempfile
from pathlib import Path
from tasks.core.process import run_command
async def main():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "note").write_text("x")
        print(folder, flush=True)
        await run_command(["sh", "-c", "mkdir deep && touch deep/er && exec sleep 60", sys.argv[1]], timeout=60, cwd=folder, scratch=folder)
asyncio.run(main())
"""


async def test_a_killed_process_leaves_no_scratch_folder_behind(marker: str) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", SCRATCHED, marker], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )  # fmt: skip
    assert caller.stdout is not None
    folder = Path(caller.stdout.readline().decode().strip())
    await until((folder / "deep" / "er").exists, 10)
    caller.kill()
    caller.wait()
    await until(lambda: not folder.exists(), 10)
    assert await until(lambda: not alive(marker), 10) < 10


async def test_whoever_lives_removes_its_scratch_folder_itself(tmp_path: Path) -> None:
    words = ["sh", "-c", "echo 1 > found; exec sleep 60"]
    with pytest.raises(ToolTimeout):
        await run_command(words, timeout=1.0, cwd=tmp_path, scratch=tmp_path)
    await asyncio.sleep(0.5)
    assert (tmp_path / "found").read_text() == "1\n"
