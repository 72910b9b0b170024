"""What the worked examples printed, kept beside the pages: one text file for each tool, a line `$ signalbox ...` before each output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.cli._options import parse
from deployments.docs._situations import Situation, of_tool, situations
from tasks.core.errors import ToolError
from tasks.core.registry import load_tools
from tasks.core.tool import validate

PROMPT = "$ "
COMMAND = "signalbox tool run"
MOST_BYTES = 12_000
"""A tool's transcript is read by people; what is longer needs a narrower example."""
HEAD_LINES = 16
"""Lines of the first part, what a result says outside its tables, that are always shown."""
_PRIVATE = re.compile(r"/(?:root|home|tmp|work)\b|BEGIN [A-Z ]*PRIVATE KEY|hooks\.slack\.com/services/\w")


@dataclass(frozen=True)
class Recorded:
    """A command line and what it printed."""

    command: str
    output: str


def command_of(situation: Situation) -> str:
    """The whole line a person types.

    >>> command_of(Situation("ping", "Is it there", "--target 10.64.1.10"))
    'signalbox tool run ping --target 10.64.1.10'
    """
    return f"{COMMAND} {situation.tool} {situation.options}".strip()


def dump(recorded: Sequence[Recorded]) -> str:
    r"""Write a tool's transcript.

    >>> dump([Recorded("signalbox tool run ping", "1 of 1 hosts answered")])
    '$ signalbox tool run ping\n1 of 1 hosts answered\n'
    """
    return "\n".join(f"{PROMPT}{one.command}\n{one.output}\n" for one in recorded)


def load(text: str) -> list[Recorded]:
    r"""Read a tool's transcript.

    >>> load("$ signalbox tool run ping\na\n\nb\n\n$ signalbox tool run dns\nc\n")[0].output
    'a\n\nb'
    """
    found = []
    for part in re.split(rf"^{re.escape(PROMPT)}(?={COMMAND} )", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        found.append(Recorded(command, output.strip("\n")))
    return found


def shorten(output: str, lines: int) -> str:
    r"""Cut what is long: of each table the first `lines` lines stay, and it says how many went.

    >>> shorten("4 answered\n\nhosts\n1\n2\n3\n4", 3)
    '4 answered\n\nhosts\n1\n2\n... 2 more lines'
    """
    parts: list[str] = []
    for part in output.strip("\n").split("\n\n"):
        kept = part.split("\n")
        most = lines if parts else max(lines, HEAD_LINES)
        if len(kept) > most + 1:
            kept = [*kept[:most], f"... {len(kept) - most} more lines"]
        parts.append("\n".join(kept))
    return "\n\n".join(parts)


def problems(folder: Path) -> list[str]:
    """Say what is wrong with the recorded examples: a tool has none, or a command line is not the one wanted or not valid any more."""
    found = []
    tools = load_tools()
    found += [
        f"{name}: there are examples of it, but no such tool"
        for name in {one.tool for one in situations()} - set(tools)
    ]
    for name, spec in tools.items():
        wanted = of_tool(name)
        for situation in wanted:
            try:
                asked = parse(spec, shlex.split(situation.options))
                if asked is not None:
                    validate(spec, asked[0])
            except ToolError as error:
                found.append(f"{name}: the example `{command_of(situation)}` is not valid: {error.message}")
        file = folder / f"{name}.txt"
        text = file.read_text() if file.exists() else ""
        recorded = load(text)
        if [one.command for one in recorded] != [command_of(situation) for situation in wanted]:
            found.append(
                f"{name}: its examples are not recorded as they are wanted; run as root: python -m deployments.docs --examples {name}"
            )
        found += [f"{name}: `{one.command}` was recorded without output" for one in recorded if not one.output]
        if len(text) > MOST_BYTES:
            found.append(
                f"{name}: {len(text):,} characters of examples are more than anybody reads (at most {MOST_BYTES:,})"
            )
        if match := _PRIVATE.search(text):
            found.append(f"{name}: {match[0]!r} in its examples is of the machine they were recorded on")
    known = {f"{name}.txt" for name in tools}
    found += [f"examples/{file.name} belongs to no tool" for file in sorted(folder.glob("*")) if file.name not in known]
    return found
