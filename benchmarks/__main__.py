"""Measure signalbox beside the bare things it is made of.

Brings its own stack and its own network (root), prints one table, and with `--save` writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import Figure, as_markdown, as_text
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
    "cameras": ("benchmarks.cameras:audit", "the audit of 200 cameras, and of as many of which some hang"),
    "analyze": ("benchmarks.analyze:against_tshark", "the analyzers against tshark, on a million packets"),
}
ABOUT = """## What is measured

- **discover a /24**: the flow as `signalbox discover` runs it, from the call to its final state: scope, sweep, ports and services, names,
  reconcile, artifacts. Bare are the same nmap commands with the same options and targets, one after the other, without the pauses in
  which discover waits for room in its packet budget. Of the 60 hosts 27 have services of their own; the policy is a laboratory's: 20,000
  packets a second, no cap for one host.
- **as a command**: the same with the start of the program, beside what the flow itself took.
- **discover a /20, all alive**: 4,096 addresses in 16 shards, two at a time. The memory is the peak of the process that runs the flow;
  it serves the lab's name server and web servers too, which is part of both. The bare commands make no inventory:
  the names, the observations and the events of 4,096 hosts are what is on top.
- **one tool run**: gate, ledger (two events), a share of the packet budget from the Prefect server and back, beside an empty Prefect task
  with the same connect. It is paid once a batch of up to 256 targets.
- **one program**: `run_command` starts a supervisor that ends every descendant when its caller goes, also by kill -9.
- **the gate**: one decision on 4,096 single addresses, every one checked against every rule.
- **reconcile**: see `benchmarks/reconcile.py`; in processes and a database of its own.
- **audit 200 cameras**: the flow as `signalbox cameras audit` runs it, with all it looks at: five tools and a picture of each camera, the
  contact sheets, the inventory. The cameras are simulated, of five generations, in a process of their own that shares the cores; over
  TLS with a pinned certificate. The time of computing is that of the flow's process alone; on a busy machine it says more. A camera
  never has two requests at once, or the benchmark fails.
- **analyzers**: one generated capture of a million packets: bulk transfers, HTTP, TLS, DNS, SSH, SMTP, FTP, NTP, syslog. Each analyzer
  in a process of its own with 512 MB of address space, from its start to its end, beside the tshark command that yields the same
  fields (`-Y PROTOCOL -T fields`) or conversations (`-q -z conv,...`). With ten times the packets come ten times the hosts and the
  conversations (in a million packets 40,000 DNS clients and 22,000 TCP conversations). The memory is the peak of the resident set, beside
  that for a tenth; `python benchmarks/analyze.py --packets 10000000` shows it for ten times as much (6.6 GB), in half an hour.
"""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def page(figures: list[Figure]) -> str:
    """Make the page of figures. It names the kind of machine, never the machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kind = f"{os.cpu_count()} cores, {memory:.0f} GB, Linux {platform.release().split('-')[0]}, {platform.machine()}"
    versions = f"Python {platform.python_version()}, Prefect {version('prefect')}, {_nmap_version()}"
    return f"""# Benchmarks

`make bench` measures signalbox beside the bare things it is made of: `sudo make bench`, or one of them with
`make bench ARGS="{next(iter(ALL))}"`. It brings up a stack of its own in a temporary folder and a network in namespaces, sends
nothing anywhere else, and removes both. `ARGS=--save` writes this page. Every ratio is of two things measured in the same run; times
alone say more about the machine. The last run: {kind}; {versions}. Load average at its end: {os.getloadavg()[1]:.1f}; above the number
of cores the bare programs, which mostly wait, suffer less than what computes: measure goals on a quiet machine.

{as_markdown(figures)}

{ABOUT}"""


def _nmap_version() -> str:
    said = subprocess.run(["nmap", "--version"], check=True, capture_output=True, text=True).stdout
    return " ".join(said.split()[:3]).replace("version ", "")


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
