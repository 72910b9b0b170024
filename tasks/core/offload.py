"""CPU-bound work in a child process that can be killed.

A thread cannot be stopped inside C code (a regular expression, a parser), and while it runs the event loop's
deadlines wait for the interpreter lock. `offload` gives such work a process of its own under the supervisor of
`tasks.core.process`: it ends at its deadline, on a cancel, and with the process that called. Costs about 70 ms plus
the import of the function's module: keep such functions in a module that does not import Prefect.
"""

from __future__ import annotations

import marshal
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import CommandFailed, ToolTimeout
from tasks.core.process import Limits, describe_exit, last_words, run_command

T = TypeVar("T")

CHILD = Path(__file__).with_name("_offload_child.py")
MAX_RESULT_BYTES = 256 << 20
"""Largest pickled result; more belongs into a file."""


async def offload(function: Callable[..., T], *args: Any, timeout: float, memory_bytes: int | None = None) -> T:
    """Call `function(*args)` in a child process of its own.

    Args:
        function: A function of an importable module; it, its arguments and its result are pickled.
        args: Its arguments.
        timeout: Seconds until the child is killed.
        memory_bytes: Address space the child may use, the interpreter's own 100 MB or so included.

    Raises:
        ToolTimeout: The deadline passed.
        CommandFailed: The child died (a crash in C code), needed more memory than allowed, or its result is too big.
        TypeError: The function cannot be imported by another process.
        Exception: What the function raised, as it raised it, the child's traceback in a note.
    """
    name = getattr(function, "__qualname__", repr(function))
    if getattr(function, "__module__", None) == "__main__" or "<" in name:
        raise TypeError(f"{name} is not a function of an importable module, so no other process can find it")
    path = marshal.dumps([str(entry) for entry in sys.path])
    order = len(path).to_bytes(4, "big") + path + pickle.dumps((function, args), protocol=pickle.HIGHEST_PROTOCOL)
    try:
        completed = await run_command(
            # Isolated: no environment variable and no file in the working folder decides what is imported.
            [sys.executable, "-I", CHILD],
            timeout=timeout,
            stdin=order,
            max_output_bytes=MAX_RESULT_BYTES,
            limits=Limits(memory_bytes=memory_bytes),
            grace=0.0,  # a calculation has nothing to tidy up
        )
    except ToolTimeout:
        raise ToolTimeout(f"{name} did not finish within {timeout:g} s.") from None
    except CommandFailed as error:
        if error.completed is None or error.completed.returncode == 0:
            raise
        words = last_words(error.completed.stderr)
        ending = describe_exit(error.completed.returncode)
        if "MemoryError" in words:
            raise _too_much(name, memory_bytes) from None
        raise CommandFailed(f"{name} {ending}{': ' + words if words else '.'}") from None
    if completed.truncated and len(completed.stdout) >= MAX_RESULT_BYTES:
        raise CommandFailed(f"The result of {name} is larger than {MAX_RESULT_BYTES >> 20} MB.")
    if not completed.stdout:
        raise CommandFailed(f"{name} ended its process before it had a result.")
    fine, value, trace = pickle.loads(completed.stdout)  # noqa: S301 - from our own child
    if fine:
        result: T = value
        return result
    if isinstance(value, MemoryError):
        raise _too_much(name, memory_bytes) from None
    if not isinstance(value, Exception):  # SystemExit, KeyboardInterrupt: the child's end is not ours
        raise CommandFailed(f"{name} ended its process: {type(value).__name__}.")
    value.add_note(f"In the child process:\n{trace}")
    raise value


def _too_much(name: str, memory_bytes: int | None) -> CommandFailed:
    allowed = f"the {memory_bytes >> 20} MB it may use" if memory_bytes else "there is"
    return CommandFailed(f"{name} needs more memory than {allowed}.", hint="Give it less at once.")
