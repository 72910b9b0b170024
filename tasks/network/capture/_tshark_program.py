"""How tshark is started: on a capture, without a user's profile, names, privileges or network, and within limits.

Dissectors read what strangers sent, and every year some are found that can be made to do more than read. So tshark gets the capture on
its standard input and, where we are root, runs as nobody without capabilities: it needs neither files nor rights.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.core.errors import CommandFailed, InvalidParameters, ToolTimeout
from tasks.core.process import Completed, Limits, find_program, last_words, run_command

if TYPE_CHECKING:
    import asyncio

CHECK_SECONDS = 30.0
MEMORY_BYTES = 2 << 30
"""tshark keeps what it saw of every conversation: a capture of the largest size allowed (100 MiB) needs less than 1 GB of it."""
NOBODY = 65534
CUT_SHORT = "The capture ends in the middle of a packet; what is before it was read."

_ETHERNET = 1
_EMPTY_CAPTURE = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, _ETHERNET)
# No folder of that name exists: no preferences, no filters or colours, no Lua scripts and no plugins of a user, no files to tidy up.
_ENVIRONMENT = dict.fromkeys(("HOME", "WIRESHARK_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), "/nonexistent")
_SETGID, _SETUID, _SETPCAP = 6, 7, 8  # <linux/capability.h>
_OPTIONS = ("-n", "-o", "nameres.use_external_name_resolver:FALSE")


def find_tshark() -> str:
    """Return the path of tshark.

    Raises:
        MissingProgram: It is not installed.
    """
    return find_program("tshark")


async def read_capture(
    path: Path,
    arguments: Sequence[str],
    *,
    timeout: float,
    max_output_bytes: int = 1 << 20,
    on_stdout: Callable[[bytes], None] | None = None,
    enough: asyncio.Event | None = None,
) -> Completed:
    """Run tshark over a capture.

    Args:
        path: The capture.
        arguments: What it shall do, without the file.
        timeout: Seconds until it is ended.
        max_output_bytes: How much of its output is kept.
        on_stdout: Called with each piece of output.
        enough: Ends it early when set.

    Raises:
        InvalidParameters: The file is no capture that tshark reads.
        CommandFailed: It failed, or needed more memory than it may use.
        ToolTimeout: The deadline passed.
        MissingProgram: It is not installed.
    """
    # /bin/sh opens the file, which tshark's own account may not.
    argv = [
        "/bin/sh",
        "-c",
        'exec "$@" <"$0"',
        str(path),
        *_tshark(),
        "-r",
        "-",
        *_OPTIONS,
        *arguments,
    ]
    try:
        return await run_command(
            argv,
            timeout=timeout,
            env=_ENVIRONMENT,
            limits=_limits(timeout),
            max_output_bytes=max_output_bytes,
            on_stdout=on_stdout,
            enough=enough,
        )
    except ToolTimeout as error:
        late = ToolTimeout(
            f"tshark did not finish within {timeout:g} s.", hint="Give it a smaller capture, or a shorter one."
        )
        late.partial = error.partial
        raise late from None
    except CommandFailed as error:
        if error.completed is None:
            raise
        if is_cut_short(error.completed):
            return error.completed
        raise _explained(error, error.completed) from None


async def check_arguments(arguments: Sequence[str]) -> None:
    """Let tshark look at filters, fields and options by giving it an empty capture: nothing is read or sent.

    Raises:
        InvalidParameters: One is wrong; says tshark's reason.
        MissingProgram: It is not installed.
    """
    argv = [*_tshark(), "-r", "-", *_OPTIONS, *arguments]
    try:
        await run_command(
            argv, timeout=CHECK_SECONDS, env=_ENVIRONMENT, limits=_limits(CHECK_SECONDS), stdin=_EMPTY_CAPTURE
        )
    except CommandFailed as error:
        if error.completed is None or error.completed.returncode < 0:
            raise
        raise InvalidParameters(f"tshark: {reason(error.completed.stderr)}.") from None


async def list_known(what: Literal["fields", "protocols"]) -> bytes:
    """Return tshark's own list (`tshark -G`): of fields tens of megabytes, of protocols a hundred kilobytes.

    Raises:
        MissingProgram: It is not installed.
    """
    done = await run_command(
        [*_tshark(), "-G", what],
        timeout=CHECK_SECONDS,
        env=_ENVIRONMENT,
        limits=_limits(CHECK_SECONDS),
        max_output_bytes=128 << 20,
    )
    return done.stdout


def is_cut_short(completed: Completed) -> bool:
    """Whether a capture ended in the middle of a packet: tshark says so after all packets before it."""
    return completed.returncode > 0 and b"cut short in the middle of a packet" in completed.stderr


def reason(stderr: bytes) -> str:
    """What tshark says is wrong: its first complaint, with the marks under a filter left out."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    lines = [
        line for line in lines if line and not line.startswith("Running as user") and not re.fullmatch(r"[\^~ ]+", line)
    ]
    first = next((at for at, line in enumerate(lines) if line.startswith("tshark:")), 0)
    said = last_words("\n".join(lines[first : first + 1]).encode()).removeprefix("tshark: ").rstrip(".:")
    if said.endswith("aren't valid"):
        said += f": {', '.join(lines[first + 1 : first + 9])}"
    return said or "it does not say why"


def _explained(error: CommandFailed, completed: Completed) -> CommandFailed | InvalidParameters:
    said = completed.stderr
    if b"isn't a capture file" in said:
        return InvalidParameters("tshark does not know the format of this capture.")
    if b"memory" in said or b"GLib-ERROR" in said:
        return CommandFailed(
            f"tshark needs more memory than the {MEMORY_BYTES >> 30} GB it may use.",
            hint="Give it a smaller capture: record less, or with a narrower filter.",
        )
    if completed.returncode > 0 and said:
        return CommandFailed(f"tshark: {reason(said)}.")
    return error


def _limits(timeout: float) -> Limits:
    return Limits(
        cpu_seconds=int(timeout) + 5,
        memory_bytes=MEMORY_BYTES,
        file_size_bytes=1 << 20,  # it writes none
        open_files=64,
        new_privileges=False,
    )


def _tshark() -> list[str]:
    program = find_tshark()
    return [*_unprivileged(), program]


def _unprivileged() -> list[str]:
    """What to put before a command so that it runs as nobody; nothing where we are not root, or may not change accounts."""
    if os.geteuid() != 0:
        return []
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    if not (effective >> _SETUID & 1 and effective >> _SETGID & 1):
        return []
    argv = [find_program("setpriv", "util-linux"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*argv, "--inh-caps=-all", *(["--bounding-set=-all"] if effective >> _SETPCAP & 1 else [])]
