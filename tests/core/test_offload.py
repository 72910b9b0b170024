from __future__ import annotations

import asyncio
import ctypes
import math
import operator
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core import offload as offload_module
from tasks.core.errors import CommandFailed, InvalidParameters, ToolTimeout
from tasks.core.models import parse_mac
from tasks.core.offload import offload

ROOT = Path(__file__).parents[2]
# Exponential in C code: holds the interpreter lock for centuries, and no signal handler of Python's ever runs.
CATASTROPHE = (r"(a+)+$", "a" * 64 + "b")


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def raise_tool_error(_: object) -> None:
    raise InvalidParameters("This is wrong.", hint="This would be right.")


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def raise_unpicklable() -> None:
    raise Unpicklable("says", "why")


def print_and_return() -> int:
    print("noise")
    sys.stdout.flush()
    os.write(1, b"more noise")
    return 7


async def test_a_result_comes_back() -> None:
    assert await offload(math.factorial, 20, timeout=20) == math.factorial(20)


async def test_what_the_function_prints_does_not_spoil_its_result() -> None:
    assert await offload(print_and_return, timeout=20) == 7


async def test_a_big_argument_and_a_big_result_travel() -> None:
    big = os.urandom(5_000_000)
    assert await offload(bytes.fromhex("").join, [big, big], timeout=20) == big + big


async def test_a_loop_in_c_dies_at_its_deadline() -> None:
    before = children()
    started = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"^match did not finish within 1 s"):
        await offload(re.match, *CATASTROPHE, timeout=1)
    assert time.monotonic() - started < 20
    assert children() <= before


async def test_the_event_loop_stays_free_meanwhile() -> None:
    task = asyncio.create_task(offload(re.match, *CATASTROPHE, timeout=1))
    worst = 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - before)
    assert worst < 0.5
    with pytest.raises(ToolTimeout):
        await task


async def test_a_cancel_kills_it() -> None:
    before = children()
    task = asyncio.create_task(offload(re.match, *CATASTROPHE, timeout=60))
    await asyncio.sleep(0.5)
    assert children() - before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() <= before


def test_it_dies_with_the_process_that_called() -> None:
    script = (
        "import asyncio, re\nfrom tasks.core.offload import offload\n"
        f"asyncio.run(offload(re.match, {CATASTROPHE[0]!r}, {CATASTROPHE[1]!r}, timeout=60))"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    family: list[str] = []
    try:
        until = time.monotonic() + 20
        while len(family) < 2 and time.monotonic() < until:
            time.sleep(0.1)
            family = grown_up(caller.pid)
        assert len(family) == 2, "supervisor and child"
        time.sleep(0.3)
    finally:
        caller.kill()
        caller.wait()
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < until, "still there after 5 s"
        time.sleep(0.05)


def grown_up(pid: int | str) -> list[str]:
    """Descendants of a process."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [*found, *(grandchild for child in found for grandchild in grown_up(child))]


async def test_an_error_comes_back_as_it_was_raised() -> None:
    with pytest.raises(ValueError, match="is not a MAC address") as caught:
        await offload(parse_mac, "nonsense", timeout=20)
    assert any("parse_mac" in note for note in caught.value.__notes__), "the child's traceback is missing"


async def test_a_tool_error_keeps_its_hint() -> None:
    with pytest.raises(InvalidParameters) as caught:
        await offload(raise_tool_error, None, timeout=20)
    assert (caught.value.message, caught.value.hint) == ("This is wrong.", "This would be right.")


async def test_an_error_that_does_not_pickle_keeps_its_words() -> None:
    with pytest.raises(RuntimeError, match="Unpicklable: says why"):
        await offload(raise_unpicklable, timeout=20)


async def test_a_crash_in_c_says_so() -> None:
    with pytest.raises(CommandFailed, match="string_at was ended by SIGSEGV"):
        await offload(ctypes.string_at, 0, timeout=20)


async def test_a_child_that_leaves_says_so() -> None:
    with pytest.raises(CommandFailed, match="before it had a result"):
        await offload(os._exit, 0, timeout=20)
    with pytest.raises(CommandFailed, match="SystemExit"):
        await offload(sys.exit, 3, timeout=20)


async def test_memory_is_limited() -> None:
    with pytest.raises(CommandFailed, match=r"mul needs more memory than the 512 MB it may use. Give it less"):
        await offload(operator.mul, b"x", 1 << 30, timeout=20, memory_bytes=512 << 20)


async def test_a_result_that_is_too_big_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload_module, "MAX_RESULT_BYTES", 1 << 20)
    with pytest.raises(CommandFailed, match="larger than 1 MB"):
        await offload(operator.mul, b"x", 3 << 20, timeout=20)


async def test_a_function_nobody_can_import_is_a_mistake_at_once() -> None:
    with pytest.raises(TypeError, match="importable"):
        await offload(lambda: 1, timeout=20)
