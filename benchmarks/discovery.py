"""`discover` of a /24 against the same nmap commands run bare, and of a /20 where every address answers."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, median
from benchmarks.stack import allow, office

GOAL_RATIO, GOAL_SECONDS = 1.15, 2.0
TURNS = 3


@dataclass
class Command:
    """One program that the tools ran."""

    argv: list[str]
    stdin: bytes | None
    seconds: float = 0.0


@dataclass
class Run:
    """One discovery: how long it took and what it ran."""

    seconds: float
    result: Any
    commands: list[Command] = field(default_factory=list)


@contextmanager
def recording() -> Iterator[list[Command]]:
    """Write down every nmap that the tool starts, with what it reads from stdin."""
    from tasks.core.process import run_command as original

    commands: list[Command] = []

    async def run_command(argv: list[str], **options: Any) -> Any:
        command = Command(list(argv), options.get("stdin"))
        if "-iL" in argv:
            commands.append(command)
        began = time.perf_counter()
        try:
            return await original(argv, **options)
        finally:
            command.seconds = time.perf_counter() - began

    modules: list[Any] = [module for name, module in sys.modules.items() if name.startswith("tasks.network.scan.")]
    users = [module for module in modules if getattr(module, "run_command", None) is original]
    for module in users:
        module.run_command = run_command
    try:
        yield commands
    finally:
        for module in users:
            module.run_command = original


async def discover(targets: list[str], profile: str) -> Run:
    """Run the flow in this process, as the command does."""
    from flows.discover import DiscoverResult
    from flows.discover import discover as flow

    with recording() as commands:
        began = time.perf_counter()
        state: Any = await flow(targets=targets, profile=profile, return_state=True)  # type: ignore[call-overload]
        seconds = time.perf_counter() - began
    result = getattr(state.data, "result", state.data)
    if not isinstance(result, DiscoverResult) or state.name != "Completed":
        raise RuntimeError(f"the discovery ended {state.name}: {state.message}")
    return Run(seconds, result, commands)


def bare(commands: list[Command]) -> float:
    """Run the same commands one after the other; return the seconds."""
    if not commands:
        raise RuntimeError("the discovery ran no nmap that was seen")
    began = time.perf_counter()
    for command in commands:
        subprocess.run(
            command.argv, input=command.stdin, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return time.perf_counter() - began


def against_bare(home: Path) -> list[Figure]:
    """Measure a /24 with 60 live hosts, turn by turn with the bare commands."""
    return asyncio.run(_against_bare())


async def _against_bare() -> list[Figure]:
    figures = []
    async with office() as lab:
        await allow(f"10.{lab.slot}.0.0/16")
        for profile in ("quick", "standard"):
            ours, plain = [], []
            for _ in range(TURNS):
                run = await discover([lab.first.cidr], profile)
                ours.append(run.seconds)
                # In a thread: the lab's servers run in one of ours, but what keeps the loop alive must go on too.
                plain.append(await asyncio.to_thread(bare, run.commands))
                if run.result.answered != 60:
                    raise RuntimeError(f"{run.result.answered} hosts answered, not 60")
                explain(run, plain[-1])
            figures.append(
                _compare(f"discover a /24, 60 live hosts, {profile}", median(ours), median(plain), len(run.commands))
            )
        began = time.perf_counter()
        done = await asyncio.to_thread(
            subprocess.run,
            [str(Path(sys.executable).with_name("signalbox")), "discover", lab.first.cidr, "--json"],
            check=False,
            capture_output=True,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"signalbox discover ended with status {done.returncode}: {done.stderr.decode()[-500:]}")
        flow = json.loads(done.stdout)["duration"]
        what = "the same as a command: signalbox discover"
        figures.append(Figure(what, f"{seconds:.1f} s", f"{flow:.1f} s (its flow)", f"{seconds / flow:.2f}"))
    return figures


def explain(run: Run, plain: float) -> None:
    """Say on stderr where the time went."""
    inside = sum(command.seconds for command in run.commands)
    print(
        f"  discover {run.seconds:.2f} s, of which nmap {inside:.2f} s in {len(run.commands)} commands; bare {plain:.2f} s",
        file=sys.stderr,
    )


def _compare(what: str, ours: float, plain: float, commands: int) -> Figure:
    most = GOAL_RATIO * plain + GOAL_SECONDS
    return Figure(
        what,
        f"{ours:.1f} s",
        f"{plain:.1f} s ({commands} nmap)",
        f"{ours / plain:.2f}",
        f"at most {GOAL_RATIO} times + {GOAL_SECONDS:g} s = {most:.1f} s",
        ours <= most,
    )


def all_alive(home: Path) -> list[Figure]:
    """Measure a /20 where each of 4,096 addresses answers."""
    return asyncio.run(_all_alive())


async def _all_alive() -> list[Figure]:
    figures = []
    async with office() as lab:
        await allow(f"10.{lab.slot}.0.0/16")
        for profile in ("quick", "standard"):
            with peak_memory() as peak:
                run = await discover([lab.prefix(20)], profile)
            plain = await asyncio.to_thread(bare, run.commands)
            explain(run, plain)
            if run.result.answered != 4096:
                raise RuntimeError(f"{run.result.answered} hosts answered, not 4,096")
            figures.append(
                Figure(
                    f"discover a /20, all 4,096 alive, {profile}",
                    f"{run.seconds:.1f} s: {4096 / run.seconds:.0f} hosts/s, {peak.megabytes:.0f} MB (+{peak.grown:.0f})",
                    f"{plain:.1f} s ({len(run.commands)} nmap, one after the other)",
                    f"{run.seconds / plain:.2f}",
                )
            )
    return figures


@dataclass
class Peak:
    """Memory of this process while something ran."""

    megabytes: float = 0.0
    grown: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch the resident memory of this process, ten times a second."""
    peak, page, over = Peak(), resource.getpagesize(), threading.Event()

    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6

    def watch() -> None:
        while not over.wait(0.1):
            peak.megabytes = max(peak.megabytes, now())

    before = peak.megabytes = now()
    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak.grown = peak.megabytes - before
