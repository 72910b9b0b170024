"""What the kit adds to one tool run, one program and one decision."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, median
from benchmarks.stack import allow

RUNS = 30
GATE_TARGETS = 4096
GATE_EXCLUSIONS = 50


def tool_against_task(home: Path) -> list[Figure]:
    """Measure a tool run beside a Prefect task that does the same and nothing else, in one flow each, by turns."""
    return asyncio.run(_tool_against_task())


async def _tool_against_task() -> list[Figure]:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE

    from tasks.network.probe.tcp_port_check import TcpPortCheck, tcp_port_check

    await allow("10.0.0.0/8")
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    params = TcpPortCheck(targets=["127.0.0.1"], ports=str(port))

    @task(cache_policy=NO_CACHE, persist_result=False)
    async def connect() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()

    async def timed(what: Callable[[], Awaitable[Any]]) -> float:
        began = time.perf_counter()
        await what()
        return (time.perf_counter() - began) * 1000

    @flow(persist_result=False)
    async def by_turns() -> tuple[list[float], list[float]]:
        await connect()
        await tcp_port_check(params)  # the first one imports, connects and loads the policy
        pairs = [(await timed(connect), await timed(lambda: tcp_port_check(params))) for _ in range(RUNS)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    async with server:
        bare, ours = await by_turns()
    plain, full = median(bare), median(ours)
    return [
        Figure(
            f"one tool run (tcp_port_check: gate, ledger, packet budget), middle of {RUNS}",
            f"{full:.0f} ms",
            f"{plain:.0f} ms (Prefect task)",
            f"+{full - plain:.0f} ms",
        )
    ]


def command_against_subprocess(home: Path) -> list[Figure]:
    """Measure a program under the supervisor beside the same program started barely."""
    return asyncio.run(_command_against_subprocess())


async def _command_against_subprocess() -> list[Figure]:
    from tasks.core.process import find_program, run_command

    program = find_program("true")
    bare, ours = [], []
    await run_command([program], timeout=10)
    for _ in range(RUNS):
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(program)
        await process.wait()
        bare.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        await run_command([program], timeout=10)
        ours.append((time.perf_counter() - began) * 1000)
    plain, full = median(bare), median(ours)
    return [
        Figure(
            f"one program that nothing outlives (run_command), middle of {RUNS}",
            f"{full:.0f} ms",
            f"{plain:.1f} ms (subprocess)",
            f"+{full - plain:.0f} ms",
        )
    ]


def gate(home: Path) -> list[Figure]:
    """Measure the gate's decision on 4,096 single addresses under a policy with 50 exclusions, and on one /20."""
    return asyncio.run(_gate())


async def _gate() -> list[Figure]:
    import ipaddress

    from blocks.policy import Exclusion, ProbePolicy
    from tasks.core.gate import admit
    from tasks.core.models import Scope

    first = int(ipaddress.ip_address("10.1.0.0"))
    policy = ProbePolicy(
        allow=[f"10.{number}.0.0/16" for number in range(1, 33)],
        exclude=[
            Exclusion(target=f"10.{number}.7.0/24", reason="not ours") for number in range(40, 40 + GATE_EXCLUSIONS)
        ],
        max_addresses=2 * GATE_TARGETS,
    )
    hosts = tuple(str(ipaddress.ip_address(first + number)) for number in range(GATE_TARGETS))
    seconds = {}
    for name, targets in (("hosts", hosts), ("prefix", ("10.1.0.0/20",))):
        turns = []
        for _ in range(5):
            began = time.perf_counter()
            await admit(Scope(targets=targets, ports=(22, 80, 443), packets_per_second=0), policy)
            turns.append(time.perf_counter() - began)
        seconds[name] = median(turns)
    return [
        Figure(
            f"the gate on {GATE_TARGETS:,} addresses (32 allowed networks, {GATE_EXCLUSIONS} exclusions)",
            f"{seconds['hosts'] * 1000:.0f} ms",
            f"{seconds['prefix'] * 1000:.2f} ms (as one /20)",
            f"{seconds['hosts'] / GATE_TARGETS * 1e6:.0f} µs each",
        )
    ]


def reconcile(home: Path) -> list[Figure]:
    """Measure the reconcile of 10,000 hosts and of the same with 1 % changed, in a PostgreSQL and processes of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reconcile.py"))], check=False, capture_output=True, text=True
    )
    print(f"  {done.stdout.strip()}", file=sys.stderr)
    found = re.search(
        r"second scan: ([\d.]+) s of ([\d.]+) s, (\d+) MB of (\d+) MB, ([\d.]+) times the first", done.stdout
    )
    if found is None:
        raise RuntimeError(f"reconcile did not end well: {done.stderr[-500:]}")
    again, most_seconds, megabytes, most_megabytes, ratio = found.groups()
    return [
        Figure(
            "reconcile 10,000 known hosts of which 1 % changed",
            f"{again} s, {megabytes} MB",
            f"{float(again) / float(ratio):.1f} s (all new)" if float(ratio) else "",
            ratio,
            f"at most {most_seconds} s and {most_megabytes} MB",
            done.returncode == 0,
        )
    ]
