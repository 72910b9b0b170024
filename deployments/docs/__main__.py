"""`python -m deployments.docs`: write the generated documentation, check it, or record its worked examples."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from deployments.docs._pages import group_page, groups, index_page, page_name, readme, schemas
from deployments.docs._situations import SETUP, situations
from deployments.docs._transcripts import Recorded, dump, problems
from tasks.core.errors import ToolError
from tasks.core.registry import find_tool

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tools"
EXAMPLES = PAGES / "examples"


def wanted() -> dict[Path, str]:
    """Every generated file and what must be in it."""
    files = {
        ROOT / "README.md": readme((ROOT / "README.md").read_text()),
        ROOT / "docs" / "tools.schema.json": schemas(),
        PAGES / "README.md": index_page("\n".join(SETUP)),
    }
    for group, specs in groups().items():
        files[PAGES / page_name(group)] = group_page(group, specs, EXAMPLES)
    return files


def check(files: dict[Path, str]) -> int:
    """Say what is not what the code says."""
    said = problems(EXAMPLES)
    said += [
        f"{path.relative_to(ROOT)} is not what the code says; run: make docs"
        for path, text in files.items()
        if not path.exists() or path.read_text() != text
    ]
    said += [
        f"docs/tools/{path.name} is a page of no group; remove it"
        for path in sorted(PAGES.glob("*.md"))
        if path not in files
    ]
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


def write(files: dict[Path, str]) -> None:
    """Write what is out of date."""
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


def record(tools: list[str]) -> int:
    """Run the worked examples of these tools (of all, when none is named) in a lab and keep what they print.

    The office they run in stands with the servers of the tests, which are not part of the program: it is loaded by name.
    """
    names = [find_tool(name).name for name in tools]
    office = importlib.import_module("tests.lab.example_office")
    chosen = [one for one in situations() if not names or one.tool in names]
    by_tool: dict[str, list[Recorded]] = {one.tool: [] for one in chosen}
    failed = 0
    for situation, recorded, status in office.play([one for one in situations() if one in chosen or one.needed]):
        if status != situation.status:
            print(
                f"{recorded.command}: exit status {status}, not {situation.status}\n{recorded.output}", file=sys.stderr
            )
            failed += 1
        if situation in chosen:
            by_tool[situation.tool].append(recorded)
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    for tool, done in by_tool.items():
        (EXAMPLES / f"{tool}.txt").write_text(dump(done))
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Do what the command line asks for; return the exit status."""
    try:
        if "--check" in arguments:
            return check(wanted())
        status = record([word for word in arguments if not word.startswith("-")]) if "--examples" in arguments else 0
        write(wanted())
    except ToolError as error:
        print(f"{error.message} {error.hint or ''}".strip(), file=sys.stderr)
        return error.exit_status
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
