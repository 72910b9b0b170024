"""Run a local program."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Annotated

import anyio
from pydantic import Field, field_validator

from blocks.policy import ProbePolicy
from tasks.core.errors import MissingProgram, Refused, ToolTimeout
from tasks.core.log import run_logger
from tasks.core.models import Example, FileRef, Safety, Service, SiteParams, ToolResult
from tasks.core.process import Limits, find_program, run_command
from tasks.core.registry import load_tools
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool

SHOWN_BYTES = 16 << 10
"""How much of each output the result carries; a result is at most 64 KiB in the ledger."""
MAX_ARGUMENT_BYTES = 64 << 10
GRACE = 2.0

_SHELLS = frozenset({"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "zsh"})
# Listing one of these would list every program there is, and the first four run it as an account we cannot signal.
_STARTERS = frozenset(
    {
        "sudo",
        "su",
        "doas",
        "pkexec",
        "chroot",
        "env",
        "ionice",
        "nice",
        "nohup",
        "nsenter",
        "script",
        "setpriv",
        "setsid",
        "stdbuf",
    }
) | {"systemd-run", "time", "timeout", "unshare", "watch", "xargs"}
_SECRET_OPTION = re.compile(
    r"-{1,2}(?:[a-z0-9]+[-_])*(?:password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key)(?:=.*)?",
    re.IGNORECASE | re.DOTALL,
)
_SECRET_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


class ShellCommand(SiteParams):
    """A program of this machine and its arguments."""

    program: str = Field(
        min_length=1,
        max_length=255,
        pattern=r"^((/[A-Za-z0-9_.+-]+)+|[A-Za-z0-9_][A-Za-z0-9_.+-]*)$",
        description="Name of the program, or its absolute path. The site's policy must list it.",
    )
    arguments: Annotated[list[Annotated[str, Field(max_length=32_768)]], Field(max_length=256)] = Field(
        default_factory=list,
        description="Arguments, at most 256, each passed as it is: no shell looks at them. No credentials: parameters are stored.",
        json_schema_extra={"secret": True},  # an error about one does not repeat it: it may be a credential after all
    )
    stdin: str | None = Field(
        None, max_length=65_536, description="Text the program may read, at most 65,536 characters. Default: nothing."
    )
    timeout: float = Field(30.0, ge=1, le=600, description="Seconds until the program is ended, 1 to 600.")
    expect: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1, max_length=20)] = Field(
        default_factory=lambda: [0], description="Exit statuses that count as success, 0 to 255."
    )
    max_output_bytes: int = Field(
        1 << 20,
        ge=1,
        le=16 << 20,
        description="Bytes of output that are kept, 1 to 16,777,216; what is beyond is dropped.",
    )
    memory_bytes: int = Field(
        1 << 30,
        ge=16 << 20,
        le=16 << 30,
        description="Address space of each of its processes, bytes, 16 MiB to 16 GiB.",
    )

    @field_validator("arguments")
    @classmethod
    def _passable(cls, arguments: list[str]) -> list[str]:
        for number, argument in enumerate(arguments, 1):
            if "\0" in argument:
                raise ValueError(f"argument {number} contains a NUL character, which no program can receive")
            if _SECRET_OPTION.fullmatch(argument) or _SECRET_URL.search(argument):
                # The message must not repeat it.
                raise ValueError(
                    f"argument {number} looks like a credential, and parameters are stored and shown: "
                    "put it into a file that only the worker's account can read, and name the file"
                )
        if sum(len(argument.encode()) + 1 for argument in arguments) > MAX_ARGUMENT_BYTES:
            raise ValueError(f"are longer than {MAX_ARGUMENT_BYTES:,} bytes together; long input goes into stdin")
        return arguments

    def about(self) -> str:
        text = shlex.join([self.program, *self.arguments])
        return text if len(text) <= 500 else f"{text[:497]}..."

    def deadline(self) -> float | None:
        return self.timeout + GRACE + 15


class ShellCommandResult(ToolResult):
    """What the program did."""

    program: str = Field(description="Path of the program that ran.")
    returncode: int = Field(description="Its exit status.")
    stdout: str = Field(description="First 16 KiB of its output, unprintable characters replaced.")
    stderr: str = Field(description="Last 16 KiB of its error output, unprintable characters replaced.")
    output: FileRef | None = Field(description="The whole output, where stdout does not show all of it.")
    truncated: bool = Field(description="Whether output beyond max_output_bytes was dropped.")
    duration: float = Field(description="Seconds it ran.")

    def headline(self) -> str:
        first = next((line for line in self.stdout.splitlines() if line.strip()), "no output").strip()
        return f"{Path(self.program).name} ended with status {self.returncode} in {self.duration:.1f} s: {first[:120]}"


@tool(
    service=Service.AUTOMATION,
    safety=Safety.CHANGE,
    timeout=620,
    aliases=("shell", "local_command"),
    examples=[
        Example("How long the machine has been up", {"program": "uptime"}),
        Example("Free space, human-readable", {"program": "df", "arguments": ["-h", "/"]}),
        Example(
            "A search without a match is no failure",
            {"program": "grep", "arguments": ["-c", "x", "-"], "stdin": "abc", "expect": [0, 1]},
        ),
    ],
)
async def shell_command(params: ShellCommand) -> ShellCommandResult:
    """Run a program of this machine that the site's policy lists.

    The program gets its arguments as they are; there is no shell, also none that a policy lists. It runs as the worker's
    account in an empty folder of its own that is removed afterwards, with a clean environment, without setuid
    privileges, with limits on CPU time, memory, file size (64 MiB), processes (64) and open files (256). Everything it
    starts ends with it. Programs that probe networks have tools of their own, which ask the gate.
    """
    run = current_run()
    path = allowed_program(params.program, run.policy)
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="signalbox-")
    try:
        completed = await run_command(
            [path, *params.arguments],
            timeout=params.timeout,
            stdin=None if params.stdin is None else params.stdin.encode(),
            # A home of its own: what lies in the account's (keys, settings) is nobody's business here.
            env={"HOME": folder, "TMPDIR": folder},
            cwd=folder,
            scratch=folder,
            max_output_bytes=params.max_output_bytes,
            limits=Limits(
                cpu_seconds=int(params.timeout) + 1,
                memory_bytes=params.memory_bytes,
                file_size_bytes=64 << 20,
                processes=64,
                open_files=256,
                new_privileges=False,
            ),
            ok=params.expect,
            grace=GRACE,
        )
    except ToolTimeout as error:
        if error.partial is not None and error.partial.stdout:
            kept = await _keep(run, path, error.partial.stdout)
            if kept is not None:
                error.hint = f"Its output until then: signalbox capture show {kept.name}"
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    stdout, whole = readable(completed.stdout[:SHOWN_BYTES])
    return ShellCommandResult(
        program=path,
        returncode=completed.returncode,
        stdout=stdout,
        stderr=readable(completed.stderr[-SHOWN_BYTES:])[0],
        output=None if whole and len(completed.stdout) <= SHOWN_BYTES else await _keep(run, path, completed.stdout),
        truncated=completed.truncated,
        duration=round(completed.duration, 3),
    )


def allowed_program(program: str, policy: ProbePolicy) -> str:
    """Return the path of a program the policy lists.

    Raises:
        Refused: It is not listed, or never runs here; names the rule and what to do instead.
        MissingProgram: It is listed and not installed.
    """
    name = Path(program).name
    path = _listed_path(program, policy)
    if path is None:
        at = "" if policy.site == "default" else f" --site {policy.site}"
        listed = ", ".join(policy.programs) or "none"
        raise Refused(
            f"{program} is not among the programs that the policy of site {policy.site} allows ({listed}).",
            hint=f"Allow it: signalbox policy allow-program {program}{at}",
        )
    # By what it is in the end, too: sh is often a link to dash.
    names = {name, Path(path).name, Path(path).resolve().name}
    if names & _SHELLS:
        raise Refused(
            f"{program} is a shell, and none is ever run, whatever policy lists.", hint="List the program itself."
        )
    if names & _STARTERS:
        raise Refused(
            f"{program} starts any other program, so listing it lists them all.", hint="List the program itself."
        )
    for spec in load_tools().values():
        if spec.service is Service.NETWORK and names & set(spec.programs):
            raise Refused(
                f"{program} sends packets and has a tool of its own, which asks the gate first.",
                hint=f"Use: signalbox tool run {spec.name}",
            )
    if Path(path).stat().st_mode & stat.S_IWOTH:
        raise Refused(
            f"{path} may be changed by every account of this machine.", hint=f"Correct that: chmod o-w {path}"
        )
    return path


def _listed_path(program: str, policy: ProbePolicy) -> str | None:
    if program in policy.programs:
        return find_program(program)
    try:
        path = find_program(program)
    except MissingProgram:
        return None
    for entry in policy.programs:
        # The path by which each is found, never what links lead to: many names may be one multi-call program.
        try:
            if find_program(entry) == path:
                return path
        except MissingProgram:
            continue
    return None


def readable(data: bytes) -> tuple[str, bool]:
    """Return output as text for people and JSON, and whether that is all of it (no byte had to be replaced)."""
    text = data.decode(errors="replace")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n")
    # PostgreSQL's JSONB takes no NUL, and no reader wants the other control characters.
    clean = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean, "\N{REPLACEMENT CHARACTER}" not in clean


async def _keep(run: ToolRun, path: str, data: bytes) -> FileRef | None:
    """Store the whole output; None when the store has no room, which must not hide what the program did."""
    store = await run.store()
    try:
        stored = await asyncio.to_thread(store.write, f"shell_command/{run.id}/{Path(path).name}.out", data)
    except OSError as error:
        run_logger().warning("The output could not be kept: %s", error.strerror)
        return None
    return run.file_ref(stored)
