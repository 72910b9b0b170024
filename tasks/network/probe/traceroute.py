"""`traceroute`: which way packets go, where they stop, and what has changed since the last time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from tasks.core.errors import DatabaseGone, ToolError, Unreachable
from tasks.core.models import Example, Host, ProbeParams, Safety, Scope, Service, ToolResult
from tasks.core.process import find_program
from tasks.core.run import ToolRun, current_run, wiring
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.probe._traceroute_path import REAL, find_names
from tasks.network.probe._traceroute_program import Job, Mode, Trace, longest, trace
from tasks.network.probe._traceroute_report import (
    Earlier,
    HopAnswer,
    HopChange,
    PathComparison,
    TracedTarget,
    TraceOutcome,
    TracerouteHop,
    best_of,
    compare_with,
    describe,
    find_target,
)

__all__ = [
    "HopAnswer",
    "HopChange",
    "PathComparison",
    "TraceOutcome",
    "TracedTarget",
    "Traceroute",
    "TracerouteHop",
    "TracerouteResult",
    "traceroute",
]

TIMEOUT_SECONDS = 1800.0
REPORTING_SECONDS = 12.0
"""Kept of the deadline for names, the comparison and the result: what was measured until then is never lost."""
NAMES_SECONDS = 3.0
LEDGER_SECONDS = 4.0
LOOK_BACK = timedelta(days=30)
MOST_TARGETS = 16
AT_ONCE = 8
LEAST_RATE, WISHED_RATE = 10, 50
FIRST_UDP_PORT = 33434
"""Where traceroute begins; each probe takes the next port (traceroute(8))."""
FIRST_TCP_PORT = 80
RESULT_BYTES = 56_000
"""Above this the single times are left out: the ledger keeps 64 KiB, and the next run compares with it."""


def _distinct(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


_Targets = Annotated[list[Host], Field(min_length=1, max_length=MOST_TARGETS), AfterValidator(_distinct)]


class Traceroute(ProbeParams):
    """Parameters of `traceroute`."""

    targets: _Targets = Field(description="Host names or addresses, 1 to 16.")
    mode: Mode = Field(
        "udp",
        description="What is sent: udp (datagrams to unlikely ports; needs no privilege), icmp (echo requests), tcp (SYN to one port).",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="tcp: the port, 80 unless given. udp: the first port, 33434 unless given; each probe takes the next. icmp: none.",
    )
    first_hop: int = Field(1, ge=1, le=64, description="Distance to begin at, hops, 1 to 64.")
    max_hops: int = Field(30, ge=1, le=64, description="Distance to end at, hops, 1 to 64.")
    probes: int = Field(3, ge=1, le=10, description="Probes for each hop, 1 to 10.")
    timeout: float = Field(2.0, ge=0.1, le=10, description="Seconds to wait for the answer to each probe, 0.1 to 10.")
    names: bool = Field(True, description="Whether to ask the system's resolver for the names of the hops.")
    compare: bool = Field(
        True,
        description="Whether to compare with the last run to the same target in the same mode; of a name, to the same address.",
    )
    max_rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=1000,
        description="Packets a second wished for, 10 to 1000; the site's budget may give less.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Traceroute:
        if self.first_hop > self.max_hops:
            raise ValueError(f"first_hop {self.first_hop} is beyond max_hops {self.max_hops}")
        if self.mode == "icmp" and self.port is not None:
            raise ValueError("mode icmp has no ports; leave port out, or choose udp or tcp")
        if self.mode == "udp" and self._ports()[-1] > 65535:
            raise ValueError(f"port {self.port} leaves too few ports above it for {self._count()} probes")
        if (needed := self._seconds()) > TIMEOUT_SECONDS - REPORTING_SECONDS:
            raise ValueError(
                f"{len(self.targets)} targets of {self.max_hops} hops with {self.probes} probes may need {needed:.0f} s, more than the "
                f"{TIMEOUT_SECONDS:.0f} s a traceroute may take; lower max_hops, probes or timeout, or name fewer targets"
            )
        return self

    def scope(self) -> Scope:
        return Scope(
            targets=tuple(self.targets),
            ports=self._ports(),
            packets_per_second=self.max_rate,
            least_packets_per_second=LEAST_RATE,
        )

    def deadline(self) -> float:
        return min(TIMEOUT_SECONDS, 1.5 * self._seconds() + REPORTING_SECONDS)

    def cost(self) -> int:
        """Packets of ours for each probe at most: the SYN, and the reset of what an open port answers."""
        return 2 if self.mode == "tcp" else 1

    def _count(self) -> int:
        return (self.max_hops - self.first_hop + 1) * self.probes

    def _ports(self) -> tuple[int, ...]:
        """The target's ports that may be touched."""
        if self.mode == "tcp":
            return (self.port or FIRST_TCP_PORT,)
        first = self.port or FIRST_UDP_PORT
        return tuple(range(first, first + self._count())) if self.mode == "udp" else ()

    def _seconds(self) -> float:
        # With the smallest share of the budget it has to work with, one target after the other.
        hops = self.max_hops - self.first_hop + 1
        return len(self.targets) * longest(hops, self.probes, self.timeout, self.cost() / LEAST_RATE)


class TracerouteResult(ToolResult):
    """The way to each target, in the order asked."""

    mode: Mode = Field(description="What was sent.")
    targets: tuple[TracedTarget, ...] = Field(description="One entry for each target.")
    packets_per_second: int = Field(description="The share of the site's budget that was held.")
    duration: float = Field(description="Duration, seconds.")
    notes: tuple[str, ...] = Field((), description="What a reader must know.")

    def headline(self) -> str:
        if len(self.targets) == 1:
            return _one_line(self.targets[0])
        counts = Counter(target.outcome for target in self.targets)
        said = ", ".join(f"{counts[kind]} {kind.replace('_', ' ')}" for kind in TraceOutcome if kind in counts)
        compared = [target.comparison for target in self.targets if target.comparison]
        if changed := sum(comparison.changed for comparison in compared):
            said += f"; {changed} by another way than last time"
        if moved := sum(comparison.address_before is not None for comparison in compared):
            said += f"; {count(moved, 'name leads', 'names lead')} to another address than last time"
        return f"{count(len(self.targets), 'target')}: {said}"

    def reached(self) -> bool:
        return any(target.outcome is TraceOutcome.REACHED for target in self.targets)


def _one_line(target: TracedTarget) -> str:
    where = target.target if target.address in (None, target.target) else f"{target.target} ({target.address})"
    if target.outcome is TraceOutcome.REACHED:
        hops = "?" if target.distance is None else count(target.distance, "hop")
        said = f"{where} reached in {hops}, {target.best_ms:.3g} ms"
        said += f", port {target.port_state}" if target.port_state else ""
    else:
        said = f"{where} {target.outcome.replace('_', ' ')}" + (f": {target.detail}" if target.detail else "")
    if target.comparison and target.comparison.changed:
        where = ", ".join(str(change.hop) for change in target.comparison.changes if change.kind in REAL)
        said += f"; another way than last time (hop {where})"
    if target.comparison and target.comparison.address_before:
        said += (
            f"; the name leads to another address now ({target.address}, last time {target.comparison.address_before})"
        )
    return said if target.complete else f"{said}; INCOMPLETE"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    programs=("traceroute",),
    examples=[
        Example("Which way to a host", {"targets": ["192.168.1.7"]}),
        Example("Past a filter, to a web server", {"targets": ["192.168.1.7"], "mode": "tcp", "port": 443}),
        Example("Two hosts, quickly", {"targets": ["10.0.0.11", "10.0.0.12"], "mode": "icmp", "probes": 1}),
    ],
)
async def traceroute(params: Traceroute) -> TracerouteResult:
    """Trace the way to hosts, hop by hop, and say what changed since last time.

    The gate covers the targets; routers on the way only answer. A target that is not reached is a measurement, not an error: its outcome
    says so. Of a name with several addresses, the one the resolver prefers is traced. The last run to the same target in the same mode,
    within 30 days, is what the way is compared with.

    Raises:
        NotFound: No target's name resolves (of several, those that do not are `unresolved`).
        Unreachable: This machine has no route to any of the targets, so nothing could be sent.
        MissingProgram: traceroute is not installed, or the mode needs CAP_NET_RAW.
        CommandFailed: traceroute failed.
    """
    run = current_run()
    assert run.grant is not None
    find_program("traceroute")
    started = time.monotonic()
    ends = started + params.deadline() - REPORTING_SECONDS
    share = min(run.packets_per_second, params.max_rate)
    traces = await _trace_all(params, run, share, ends)
    if all(found is not None and found.error and not found.hops for found in traces.values()):
        address, first = next(iter(traces.items()))
        raise Unreachable(
            f"Nothing could be sent to {address}: {first.error if first else ''}."
            + (f" The same for {len(traces) - 1} more." if len(traces) > 1 else ""),
            hint=f"Look at this machine's addresses and routes: ip route get {address}",
        )
    notes: list[str] = []
    names = await _names(params, traces.values(), notes)
    earlier = await _earlier(params, run, notes)
    targets = []
    for asked in params.targets:
        granted = next((target for target in run.grant.targets if target.asked == asked), None)
        if granted is None:
            error = next(missing.error for missing in run.grant.unresolved if missing.asked == asked)
            targets.append(TracedTarget(target=asked, outcome=TraceOutcome.UNRESOLVED, detail=error.message))
        else:
            address = granted.addresses[0]
            target = describe(asked, address, traces.get(address), names)
            targets.append(target.model_copy(update={"comparison": compare_with(earlier.get(asked), target)}))
    return _bounded(
        TracerouteResult(
            mode=params.mode,
            targets=tuple(targets),
            packets_per_second=share,
            duration=round(time.monotonic() - started, 3),
            notes=tuple(notes),
        )
    )


async def _trace_all(params: Traceroute, run: ToolRun, share: int, ends: float) -> dict[str, Trace | None]:
    """Trace every address once, so many at once as the share carries; None where the deadline came first."""
    assert run.grant is not None
    addresses = list(dict.fromkeys(target.addresses[0] for target in run.grant.targets))
    at_once = max(1, min(len(addresses), AT_ONCE, share // LEAST_RATE))
    rate = share / at_once
    if run.policy.host_packets_per_second:
        rate = min(rate, run.policy.host_packets_per_second)
    # A little slower than the share: neighbours are asked for their MACs by ARP as well.
    pause = 1.05 * params.cost() / rate
    slots = asyncio.Semaphore(at_once)
    traces: dict[str, Trace | None] = dict.fromkeys(addresses)

    async def one(address: str) -> None:
        async with slots:
            limit = ends - time.monotonic()
            if limit < 0.5:
                return
            job = Job(
                address=address,
                mode=params.mode,
                port=params.port,
                first_hop=params.first_hop,
                max_hops=params.max_hops,
                probes=params.probes,
                wait=params.timeout,
                pause=pause,
            )
            traces[address] = await trace(job, timeout=min(limit, 2 * job.seconds() + 5))

    try:
        async with asyncio.TaskGroup() as group:
            for address in addresses:
                group.create_task(one(address))
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return traces


async def _names(params: Traceroute, traces: Iterable[Trace | None], notes: list[str]) -> dict[str, str]:
    if not params.names:
        return {}
    addresses = {address for found in traces if found for hop in found.hops for address in hop.addresses}
    began = time.monotonic()
    names = await find_names(sorted(addresses), NAMES_SECONDS)
    if time.monotonic() - began >= NAMES_SECONDS:
        notes.append(f"The resolver did not give all names within {NAMES_SECONDS:.0f} s.")
    return names


def _bounded(result: TracerouteResult) -> TracerouteResult:
    """Leave out the single times where the ledger would not keep the whole: the way itself is worth more."""
    if len(result.model_dump_json()) <= RESULT_BYTES:
        return result
    targets = tuple(
        target.model_copy(
            update={
                "hops": tuple(
                    hop.model_copy(
                        update={
                            "answers": tuple(
                                answer.model_copy(update={"times_ms": answer.times_ms and (min(answer.times_ms),)})
                                for answer in hop.answers
                            )
                        }
                    )
                    for hop in target.hops
                )
            }
        )
        for target in result.targets
    )
    note = "Of the times only the shortest of each hop is kept: the result would be too large."
    return result.model_copy(update={"targets": targets, "notes": (*result.notes, note)})


# --- the last time ---------------------------------------------------------------------------------------------------


async def _earlier(params: Traceroute, run: ToolRun, notes: list[str]) -> dict[str, Earlier]:
    """The last path to each target in the ledger, to its address of today if it was traced lately."""
    assert run.grant is not None
    if not params.compare:
        return {}
    book = wiring().ledger()
    found: dict[str, Earlier] = {}
    if book is None:
        notes.append("Not compared with the last run: there is no ledger here.")
        return found
    try:
        async with asyncio.timeout(LEDGER_SECONDS):
            for target in run.grant.targets:
                since = datetime.now(UTC) - LOOK_BACK
                records = await book.last_results(run.site, "traceroute", target=target.asked, since=since)
                runs = [
                    Earlier(str(record.tool_run_id), record.at, entry)
                    for record in records
                    if (entry := find_target(record.result, target.asked, params.mode)) is not None
                ]
                if (best := best_of(runs, target.addresses[0])) is not None:
                    found[target.asked] = best
    except (ToolError, TimeoutError) as error:
        why = "the database does not answer" if isinstance(error, (DatabaseGone, TimeoutError)) else str(error)
        notes.append(f"Not compared with the last run: {why}.")
    return found
