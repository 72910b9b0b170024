"""What every analyzer says: findings with their evidence, and how much of the capture they rest on."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.models import FileRef, ToolResult
from tasks.core.words import count

MOST_FRAMES = 20
"""Frame numbers a finding carries as evidence: enough to look it up in Wireshark."""
MOST_FINDINGS = 200
"""Findings a report carries, the gravest first: the ledger keeps 64 KiB of a result."""


class Severity(StrEnum):
    """How much a finding matters; `rank` compares."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


class Row(BaseModel):
    """A line of a report's table: frozen, and nothing in it that its table does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(Row):
    """Something in the traffic that a person should know."""

    severity: Severity = Field(description="How much it matters.")
    code: str = Field(description="Stable name of the kind of finding, such as `tls.expired-certificate`.")
    what: str = Field(description="What was seen, in one sentence, with names and numbers; never a secret.")
    why: str = Field(description="Why it matters.")
    action: str = Field(description="What to do about it.")
    count: int = Field(1, ge=1, description="How often it was seen.")
    frames: list[int] = Field(
        default_factory=list, description=f"Frame numbers, as Wireshark counts, at most {MOST_FRAMES}."
    )


class Coverage(Row):
    """How much of a capture an analysis rests on, and what could not be read."""

    packets: int = Field(ge=0, description="Packets in the capture, or in the part that was asked for.")
    bytes: int = Field(ge=0, description="Their bytes on the wire.")
    seconds: float = Field(ge=0, description="Time from the first packet to the last.")
    analyzed: int = Field(ge=0, description="Packets of the analyzed protocol.")
    truncated: int = Field(0, ge=0, description="Packets of which the capture holds the beginning only (snap length).")
    unreadable: int = Field(0, ge=0, description="Packets that no known layer explains.")
    notes: list[str] = Field(
        default_factory=list, description="What could not be read, and what was left out, in plain words."
    )


class Times(Row):
    """How long something took; percentiles are what so many percent did not exceed."""

    count: int = Field(ge=0, description="How many were measured.")
    p50_ms: float | None = Field(description="Median, milliseconds.")
    p90_ms: float | None = Field(description="90th percentile, milliseconds.")
    p99_ms: float | None = Field(description="99th percentile, milliseconds.")
    longest_ms: float | None = Field(description="The longest, milliseconds.")


class CommandCount(Row):
    """A command of FTP or SMTP."""

    command: str = Field(description="Its name.")
    count: int = Field(ge=0, description="How often it was given.")
    failed: int = Field(ge=0, description="How often it was answered with 4xx or 5xx.")


class ReplyCount(Row):
    """A kind of reply of FTP or SMTP."""

    code: int = Field(description="Its three digits.")
    count: int = Field(ge=0, description="How often it came.")


class AnalyzerResult(ToolResult):
    """Base of an analyzer's report."""

    capture: FileRef = Field(description="The capture that was analyzed.")
    coverage: Coverage = Field(description="How much of it the report rests on.")
    findings: list[Finding] = Field(description="What a person should know, the gravest first.")

    def worst(self) -> Severity | None:
        """The gravest severity found; None when nothing was."""
        return max((finding.severity for finding in self.findings), key=lambda severity: severity.rank, default=None)

    def verdict(self) -> str:
        """The end of a headline: how many findings, and the gravest.

        An analyzer's headline is what it counted, then this.
        """
        worst = self.worst()
        if worst is None:
            return "nothing to report"
        gravest = next(finding for finding in self.findings if finding.severity is worst)
        return f"{count(len(self.findings), 'finding')}, {worst}: {gravest.what}"


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, then by how often they were seen; what is over the limit is left out."""
    ordered = sorted(findings, key=lambda finding: (-finding.severity.rank, -finding.count, finding.code, finding.what))
    return ordered[:MOST_FINDINGS]


def plain_finding(
    protocol: str,
    severity: str,
    code: str,
    what: str,
    why: str,
    action: str,
    count: int = 1,
    frames: Iterable[int] | None = None,
) -> dict[str, Any]:
    """Make a finding as plain data, in the child that reads a capture, to be carried to the process that asked."""
    return {
        "severity": severity,
        "code": f"{protocol}.{code}",
        "what": what,
        "why": why,
        "action": action,
        "count": max(1, count),
        "frames": sorted(set(frames or ()))[:MOST_FRAMES],
    }
