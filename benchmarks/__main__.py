"""Measure signalbox beside the bare things it is made of.

Brings its own stack and its own network (root), prints one table, and with `--save` writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, as_text
from benchmarks.stack import INSIDE, stack, why_not, with_own_resolver

ALL = {
    "discover": (
        "benchmarks.discovery:against_bare",
        "a /24 with 60 live hosts against the same nmap commands run bare",
    ),
    "all-alive": ("benchmarks.discovery:all_alive", "a /20 where every address answers"),
    "tool": ("benchmarks.overhead:tool_against_task", "a tool run against a bare Prefect task"),
    "command": ("benchmarks.overhead:command_against_subprocess", "run_command against a bare subprocess"),
    "gate": ("benchmarks.overhead:gate", "the gate's decision on 4,096 targets"),
    "reconcile": ("benchmarks.overhead:reconcile", "reconcile of 10,000 hosts"),
}
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(arguments: list[str]) -> int:
    """Run the chosen benchmarks; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="; ".join(f"{name}: {text}" for name, (_, text) in ALL.items())
    )
    parser.add_argument("--save", action="store_true", help="write the figures to docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(ALL):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    if reason := why_not():
        print(f"The benchmarks cannot run here: {reason}.", file=sys.stderr)
        return 2
    if INSIDE not in os.environ:
        return with_own_resolver(arguments)
    names = chosen.names or list(ALL)
    figures: list[Figure] = []
    with ExitStack() as exits:
        home = exits.enter_context(stack())
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            module, _, function = ALL[name][0].partition(":")
            figures += getattr(importlib.import_module(module), function)(home)
    print(as_text(figures))
    if chosen.save:
        PAGE.write_text(page(figures))
        print(f"Written to {PAGE.relative_to(PAGE.parents[1])}.", file=sys.stderr)
    return 1 if any(figure.good is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
