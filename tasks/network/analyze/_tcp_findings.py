"""What of a capture's TCP a person should know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tasks.core.words import count
from tasks.network.analyze._report import MOST_FRAMES, Finding, Severity
from tasks.network.analyze._tcp import TcpFacts

LOSSY: Final = (0.02, 0.05)
"""Share of packets sent again from which a conversation suffers, and from which it suffers much."""
LEAST_RESENT: Final = 10
LEAST_UNWELL: Final = 3
"""Conversations that failed at one port before it is worth a word."""
SLOW_HANDSHAKE_MS: Final = 1000.0
"""What a user notices; no path on earth is that long."""
_AGAIN: Final = ("retransmission", "fast_retransmission", "spurious_retransmission")


def findings(facts: TcpFacts) -> Iterator[Finding]:
    """Everything worth telling, in no order."""
    yield from _scans(facts)
    yield from _servers(facts)
    for row in facts.troubled:
        yield from _conversation(row)
    yield from _whole(facts)


def _frames(row: dict[str, Any], *events: str) -> list[int]:
    return sorted({frame for event in events for frame in row["frames"].get(event, [])})[:MOST_FRAMES]


def _sum(row: dict[str, Any], *events: str) -> int:
    return sum(sum(row["events"].get(event, {}).values()) for event in events)


def _name(row: dict[str, Any]) -> str:
    return f"{_end(row['client'], row['client_port'])} to {_end(row['server'], row['server_port'])}"


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _scans(facts: TcpFacts) -> Iterator[Finding]:
    for scan in facts.scans:
        some = ", ".join(str(value) for value in scan["sample"][:8])
        if scan["kind"] == "hosts":
            what = f"{scan['client']} tried {scan['target']} of {count(scan['count'], 'host')} and got into none of them, such as {some}."
            code = "tcp.host-sweep"
        elif scan["kind"] == "ports":
            what = f"{scan['client']} tried {count(scan['count'], 'port')} of {scan['target']} without using them, such as {some}."
            code = "tcp.port-scan"
        else:
            what = (
                f"{scan['client']} sent {scan['target']} segments that begin nothing (no flags, or FIN) "
                f"to {count(scan['count'], 'port')}."
            )
            code = "tcp.stealth-scan"
        yield Finding(
            severity=Severity.HIGH,
            code=code,
            what=what,
            why="That is how services are looked for before an attack, and what worms do.",
            action=f"Find out whether {scan['client']} is a scanner of yours; if not, take it off the network and look into it.",
            count=scan["count"],
            frames=scan["frames"][:MOST_FRAMES],
        )
    for flood in facts.floods:
        yield Finding(
            severity=Severity.HIGH,
            code="tcp.syn-flood",
            what=f"{_end(flood['server'], flood['port'])} was left with {count(flood['count'], 'unfinished handshake')} "
            f"from {count(flood['sources'], 'address', 'addresses')}.",
            why="Unfinished handshakes fill the server's queue until nobody gets in.",
            action="Check that SYN cookies are on, and filter the sources at the edge.",
            count=flood["count"],
            frames=flood["frames"][:MOST_FRAMES],
        )


def _servers(facts: TcpFacts) -> Iterator[Finding]:
    texts = {
        "refused": (
            "tcp.refused",
            Severity.MEDIUM,
            "refused",
            "No service listens there, or it is full.",
            "Start the service, or correct the client's address and port.",
        ),
        "unanswered": (
            "tcp.unanswered",
            Severity.MEDIUM,
            "did not answer",
            "The host is down, or a filter drops what it gets.",
            "Check the host, the way to it, and firewalls between.",
        ),
        "half_open": (
            "tcp.half-open",
            Severity.MEDIUM,
            "answered and was left with",
            "The client never finished: its answer was lost, or nobody is behind that address.",
            "Check for asymmetric routes, lost packets and spoofed addresses.",
        ),
        "reset": (
            "tcp.reset",
            Severity.LOW,
            "saw reset",
            "Somebody gave up in the middle: an application's error, a time-out, or a device between.",
            "Look at the last packets before the reset, and into the application's log.",
        ),
    }
    for server in facts.servers:
        for kind, (code, severity, verb, why, action) in texts.items():
            if server[kind] < LEAST_UNWELL:
                continue
            yield Finding(
                severity=severity,
                code=code,
                what=f"{_end(server['server'], server['port'])} {verb} {count(server[kind], 'conversation')}.",
                why=why,
                action=action,
                count=server[kind],
                frames=server["frames"][:MOST_FRAMES],
            )


def _conversation(row: dict[str, Any]) -> Iterator[Finding]:
    again, out_of_order = _sum(row, *_AGAIN), _sum(row, "out_of_order")
    share = again / max(row["packets"], 1)
    if again >= LEAST_RESENT and share >= LOSSY[0]:
        yield Finding(
            severity=Severity.HIGH if share >= LOSSY[1] else Severity.MEDIUM,
            code="tcp.retransmissions",
            what=f"{_name(row)}: {again} of {count(row['packets'], 'packet')} ({share:.1%}) were sent again.",
            why="Packets get lost on the way: throughput falls with the square root of the loss.",
            action="Look for errors and drops on the links between, a duplex mismatch, or a queue that is too short.",
            count=again,
            frames=_frames(row, *_AGAIN),
        )
    if out_of_order >= LEAST_RESENT and out_of_order / max(row["packets"], 1) >= LOSSY[0]:
        yield Finding(
            severity=Severity.LOW,
            code="tcp.out-of-order",
            what=f"{_name(row)}: {out_of_order} of {count(row['packets'], 'packet')} came out of order.",
            why="Receivers take reordering for loss, and senders slow down.",
            action="Check whether one conversation is spread over several paths.",
            count=out_of_order,
            frames=_frames(row, "out_of_order"),
        )
    closed = row["events"].get("zero_window")
    if closed:
        slow = row["client"] if closed["client"] >= closed["server"] else row["server"]
        yield Finding(
            severity=Severity.MEDIUM,
            code="tcp.zero-window",
            what=f"{_name(row)}: {slow} said {count(sum(closed.values()), 'time')} that it can take no more.",
            why="The application there does not read fast enough; the network is not the bottleneck.",
            action=f"Look at the load and the application of {slow}.",
            count=sum(closed.values()),
            frames=_frames(row, "zero_window"),
        )
    if row["handshake_ns"] is not None and row["handshake_ns"] / 1e6 >= SLOW_HANDSHAKE_MS:
        yield Finding(
            severity=Severity.LOW,
            code="tcp.slow-handshake",
            what=f"{_name(row)}: the handshake took {row['handshake_ns'] / 1e9:.1f} s.",
            why="A second is what a lost SYN costs before it is sent again.",
            action="Look for loss and for a server whose queue of new conversations is full.",
            frames=[row["first_frame"]],
        )


def _whole(facts: TcpFacts) -> Iterator[Finding]:
    missing = facts.events["ack_lost_segment"]
    if missing:
        yield Finding(
            severity=Severity.INFO,
            code="tcp.incomplete-capture",
            what=f"{count(missing, 'time')} data was acknowledged that is not in the capture.",
            why="The capture itself lost packets, so what looks lost may have arrived.",
            action="Capture with a filter, a smaller snap length or a faster disk.",
            count=missing,
        )


__all__ = ["findings"]
