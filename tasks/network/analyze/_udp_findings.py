"""What of a capture's UDP a person should know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tasks.core.words import count
from tasks.network.analyze._report import MOST_FRAMES, Finding, Severity
from tasks.network.analyze._udp import UdpFacts

LEAST_SILENT: Final = 3
"""Conversations one service left unanswered before it is worth a word."""
LEAST_FRAGMENTS: Final = 10


def findings(facts: UdpFacts) -> Iterator[Finding]:
    """Everything worth telling, in no order."""
    for scan in facts.scans:
        some = ", ".join(str(port) for port in scan["sample"][:8])
        yield Finding(
            severity=Severity.HIGH,
            code="udp.port-scan",
            what=f"{scan['client']} tried {count(scan['count'], 'port')} of {scan['target']} that did not answer, such as {some}.",
            why="That is how services are looked for before an attack.",
            action=f"Find out whether {scan['client']} is a scanner of yours; if not, take it off the network and look into it.",
            count=scan["count"],
            frames=scan["frames"][:MOST_FRAMES],
        )
    scanned = {scan["target"] for scan in facts.scans}
    yield from _amplification(facts)
    yield from _silence(facts, scanned)
    yield from _errors(facts, scanned)
    if facts.fragments >= LEAST_FRAGMENTS:
        missing = " Some were never whole." if facts.unfinished else ""
        yield Finding(
            severity=Severity.LOW,
            code="udp.fragments",
            what=(
                f"{count(facts.fragments, 'packet is a fragment', 'packets are fragments')}; "
                f"{count(facts.assembled, 'datagram')} could be put together from them.{missing}"
            ),
            why="A datagram is lost with any of its fragments, and filters often drop all but the first.",
            action="Let the application send less at once (for DNS: EDNS of 1232 bytes), or raise the path's MTU.",
            count=facts.fragments,
            frames=facts.fragment_frames[:MOST_FRAMES],
        )


def _end(address: str, port: int) -> str:
    if port < 0:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _amplification(facts: UdpFacts) -> Iterator[Finding]:
    for entry in facts.amplifiers:
        yield Finding(
            severity=Severity.MEDIUM,
            code="udp.amplification",
            what=f"{_end(entry['address'], entry['port'])} ({entry['service']}) answered {entry['asked']} bytes with "
            f"{entry['answered']}, {entry['ratio']} times as many, to {count(entry['others'], 'address', 'addresses')}.",
            why="Whoever forges the sender's address has this service flood a victim.",
            action="Let it answer your own networks only, or limit the rate of its answers.",
            count=entry["others"],
            frames=entry["frames"][:MOST_FRAMES],
        )
    for entry in facts.unasked:
        yield Finding(
            severity=Severity.HIGH,
            code="udp.reflection",
            what=f"{entry['address']} got {entry['answered']} bytes of {entry['service']} answers that nobody in the capture asked "
            f"for, from {count(entry['others'], 'server')}.",
            why="That is what the victim of a reflection attack sees.",
            action="Have answers from this port filtered at the provider's edge, and check that the capture saw both directions.",
            count=entry["others"],
            frames=entry["frames"][:MOST_FRAMES],
        )


def _silence(facts: UdpFacts, scanned: set[str]) -> Iterator[Finding]:
    for server in facts.silent:
        if server["count"] < LEAST_SILENT or server["server"] in scanned:
            continue
        yield Finding(
            severity=Severity.MEDIUM,
            code="udp.unanswered",
            what=f"{_end(server['server'], server['port'])} left {count(server['count'], 'conversation')} unanswered "
            f"({count(server['packets'], 'packet')}); refused by ICMP: {server['refused']}.",
            why="The service is not there, is filtered, or its answers take another way.",
            action="Check the service, and firewalls and routes between; a service that never answers by design is no fault.",
            count=server["count"],
            frames=server["frames"][:MOST_FRAMES],
        )


def _errors(facts: UdpFacts, scanned: set[str]) -> Iterator[Finding]:
    for error in facts.errors:
        if error["target"] in scanned and error["reason"] == "port unreachable":
            continue
        target = _end(error["target"], error["port"])
        if error["reason"] == "too big":
            severity, code, why, action = (
                Severity.MEDIUM,
                "udp.too-big",
                "The path takes smaller packets only; who ignores that loses what it sends.",
                "Lower the MTU of the sender, and let ICMP through to it.",
            )
        elif error["reason"] == "time exceeded":
            severity, code, why, action = (
                Severity.LOW,
                "udp.time-exceeded",
                "Packets went round in a loop, or traceroute was at work.",
                "If it was not traceroute: compare the routes of the routers that report it.",
            )
        else:
            severity, code, why, action = (
                Severity.LOW,
                "udp.unreachable",
                "What was sent there arrived at nobody.",
                "Correct the address and port, start the service, or stop the sender.",
            )
        yield Finding(
            severity=severity,
            code=code,
            what=f"{error['reporter']} said {count(error['count'], 'time')} that {target} is not to be had: {error['reason']}; "
            f"{count(error['clients'], 'sender')}.",
            why=why,
            action=action,
            count=error["count"],
            frames=error["frames"][:MOST_FRAMES],
        )
