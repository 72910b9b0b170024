"""What a trace means: the way to a target, hop by hop, beside the way of the last time."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tasks.network.probe._traceroute_path import REAL, compare
from tasks.network.probe._traceroute_program import Hop, Trace, meaning, port_state


class TraceOutcome(StrEnum):
    """What was found out about the way to a target."""

    REACHED = "reached"
    UNREACHABLE = "unreachable"  # a router, or this machine, says that packets do not get there
    NO_ANSWER = "no_answer"  # the target did not answer: off, filtered, or further away
    UNRESOLVED = "unresolved"  # its name has no address
    NOT_TRIED = "not_tried"  # the deadline came first


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HopAnswer(_Frozen):
    """Who answered at a hop."""

    address: str = Field(description="Address that answered.")
    name: str | None = Field(None, description="Its name, by the system's resolver.")
    times_ms: tuple[float, ...] = Field((), description="Round trips, milliseconds, in the order of the probes.")
    code: str | None = Field(None, description="How it refused, as traceroute writes it: !H, !N, !X and others.")
    meaning: str | None = Field(None, description="The same in words.")


class TracerouteHop(_Frozen):
    """One distance on the way."""

    hop: int = Field(description="Distance, hops.")
    answers: tuple[HopAnswer, ...] = Field((), description="Who answered; several where routers share the load.")
    lost: int = Field(0, description="Probes nobody answered.")


class HopChange(_Frozen):
    """A hop that is not what it was."""

    hop: int = Field(description="Distance, hops.")
    kind: Literal["changed", "added", "removed", "fell_silent", "answers_again"] = Field(
        description="changed: other addresses. added, removed: the way is longer or shorter. fell_silent, answers_again: nobody, or "
        "somebody, answers there now; the way may be the same."
    )
    before: tuple[str, ...] = Field((), description="Addresses that answered last time.")
    now: tuple[str, ...] = Field((), description="Addresses that answer now.")


class PathComparison(_Frozen):
    """This path beside the last one."""

    with_run: str = Field(description="Tool run it is compared with.")
    at: AwareDatetime = Field(description="When that run ended.")
    changed: bool = Field(
        description="Whether the way itself changed: hops that fell silent or answer again are not enough."
    )
    changes: tuple[HopChange, ...] = Field((), description="Hops that differ.")
    address_before: str | None = Field(
        None,
        description="The address the name led to last time, when that was another: the ways are not compared then. "
        "None when it is the same.",
    )


class TracedTarget(_Frozen):
    """The way to one target."""

    target: str = Field(description="The target as asked.")
    address: str | None = Field(None, description="The address that was traced.")
    outcome: TraceOutcome = Field(description="reached, unreachable, no_answer, unresolved or not_tried.")
    detail: str | None = Field(None, description="Who says why it is not reached, or who answered last.")
    distance: int | None = Field(None, description="Hops to the target, when it answered.")
    best_ms: float | None = Field(None, description="The target's shortest round trip, milliseconds.")
    port_state: str | None = Field(None, description="tcp: what the target says about the port: open or closed.")
    hops: tuple[TracerouteHop, ...] = Field((), description="The way, hop by hop, to the last that answered.")
    silent_after: int = Field(0, description="Hops asked beyond the last that answered.")
    complete: bool = Field(True, description="Whether the trace went to its end.")
    comparison: PathComparison | None = Field(None, description="What changed since the last run; None without one.")


# --- what the traces say ---------------------------------------------------------------------------------------------


def describe(asked: str, address: str, found: Trace | None, names: Mapping[str, str]) -> TracedTarget:
    """Say what a trace means."""
    if found is None:
        return TracedTarget(target=asked, address=address, outcome=TraceOutcome.NOT_TRIED, complete=False)
    last = max((at for at, hop in enumerate(found.hops, 1) if hop.answers), default=0)
    hops = found.hops[:last]
    canonical = str(ipaddress.ip_address(address))
    arrived = next(((hop, answer) for hop in hops for answer in hop.answers if answer.address == canonical), None)
    refusal = next((answer for hop in hops for answer in hop.answers if answer.code), None)
    outcome, detail = TraceOutcome.NO_ANSWER, "nobody on the way answered"
    if arrived is not None:
        outcome = TraceOutcome.REACHED
        detail = f"it answers, and says: {meaning(arrived[1].code)}" if arrived[1].code else ""
    elif refusal is not None:
        outcome, detail = TraceOutcome.UNREACHABLE, f"{refusal.address} says: {meaning(refusal.code or '')}"
    elif found.error:
        outcome, detail = TraceOutcome.UNREACHABLE, f"this machine: {found.error}"
    elif hops:
        detail = f"the last answer is from {hops[-1].addresses[0]}, hop {hops[-1].number}"
    if not found.ended:
        reason = f"cut off after hop {found.hops[-1].number}" if found.hops else "cut off before any answer"
        detail = f"{detail}; {reason}" if detail else reason
    return TracedTarget(
        target=asked,
        address=address,
        outcome=outcome,
        detail=detail or None,
        distance=arrived[0].number if arrived else None,
        best_ms=min(arrived[1].times_ms) if arrived else None,
        port_state=port_state(arrived[1].flags) if arrived else None,
        hops=tuple(_hop(hop, names) for hop in hops),
        silent_after=len(found.hops) - last,
        complete=found.ended,
    )


def _hop(hop: Hop, names: Mapping[str, str]) -> TracerouteHop:
    return TracerouteHop(
        hop=hop.number,
        answers=tuple(
            HopAnswer(
                address=answer.address,
                name=names.get(answer.address),
                times_ms=tuple(answer.times_ms),
                code=answer.code,
                meaning=meaning(answer.code) if answer.code else None,
            )
            for answer in hop.answers
        ),
        lost=hop.lost,
    )


@dataclass(frozen=True)
class Earlier:
    """What an earlier run says about a target."""

    run: str
    at: datetime
    target: Mapping[str, Any]


def find_target(result: Mapping[str, Any] | None, asked: str, mode: str) -> Mapping[str, Any] | None:
    """What a result of the ledger says about a target; None when it was in another mode, is not whole, or says nothing of the way."""
    if not result or result.get("mode") != mode or not isinstance(result.get("targets"), list):
        return None
    for entry in result["targets"]:
        if isinstance(entry, dict) and entry.get("target") == asked and entry.get("hops") and entry.get("complete"):
            return entry
    return None


def best_of(runs: Sequence[Earlier], address: str) -> Earlier | None:
    """Choose what to compare with, of runs with the newest first: a name may lead to several addresses in turn."""
    same = (run for run in runs if run.target.get("address") == address)
    return next(same, runs[0] if runs else None)


def compare_with(earlier: Earlier | None, target: TracedTarget) -> PathComparison | None:
    """Say hop by hop what is not as it was; of the way to another address only that it is another."""
    if earlier is None or not target.hops:
        return None
    address = earlier.target.get("address")
    if isinstance(address, str) and address != target.address:
        return PathComparison(with_run=earlier.run, at=earlier.at, changed=False, address_before=address)
    before: dict[int, tuple[str, ...]] = {}
    distance = earlier.target.get("distance")
    with contextlib.suppress(KeyError, TypeError, ValueError):  # written by another version
        for hop in earlier.target["hops"]:
            before[int(hop["hop"])] = tuple(str(answer["address"]) for answer in hop["answers"])
    now = {hop.hop: tuple(answer.address for answer in hop.answers) for hop in target.hops}
    if not before:
        return None
    # Hops that only one of the two asked about say nothing.
    first = max(min(before), min(now))
    silent_now = range(max(now) + 1, max(now) + 1 + target.silent_after)
    silent_before = range(max(before) + 1, max(before) + 1 + int(earlier.target.get("silent_after") or 0))
    differences = compare(
        {hop: was for hop, was in {**dict.fromkeys(silent_before, ()), **before}.items() if hop >= first},
        {hop: is_now for hop, is_now in {**dict.fromkeys(silent_now, ()), **now}.items() if hop >= first},
        ends=(distance, target.distance),
    )
    return PathComparison(
        with_run=earlier.run,
        at=earlier.at,
        changed=any(difference.kind in REAL for difference in differences),
        changes=tuple(
            HopChange(hop=each.hop, kind=each.kind, before=each.before, now=each.now) for each in differences
        ),
    )
