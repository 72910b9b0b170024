"""A capture's HTTP as plain data: what `http_analyzer` runs in a process of its own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tasks.core.words import count
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_streams
from tasks.network.analyze._http_findings import find
from tasks.network.analyze._http_message import STARTS, address_of
from tasks.network.analyze._http_stream import HttpStream
from tasks.network.analyze._http_traffic import Host, Traffic

if TYPE_CHECKING:
    from tasks.network.analyze._selection import Selection

PORTS: Final = frozenset({80, 8080, 3128})
"""Ports whose conversations are looked into even when the capture lacks their beginning."""
STREAMS = Signature(ports=PORTS, prefixes=STARTS)


def dissect(path: str, selection: Selection, top: int) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own."""
    traffic, counts = Traffic(), Counts()

    def open_stream(info: StreamInfo) -> HttpStream:
        return HttpStream(
            traffic, info.client, info.client_port, info.server, info.server_port, whole=info.handshake
        )  # fmt: skip

    read_streams(path, selection, STREAMS, open_stream, counts)
    coverage = counts.coverage()
    notes = list(coverage["notes"])
    if traffic.gaps:
        notes.append(
            f"{count(traffic.gaps, 'stretch', 'stretches')} of HTTP conversations missing in the capture; "
            f"{count(traffic.answers_lost, 'answer')} lost in them."
        )
    if traffic.undecoded:
        notes.append(f"{traffic.undecoded} HTTP/2 header blocks could not be decoded; their requests are counted.")
    return {**report(traffic, top), "coverage": {**coverage, "notes": notes}}


def report(traffic: Traffic, top: int) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    return {
        "connections": traffic.connections,
        "reused_connections": traffic.reused,
        "most_requests_per_connection": traffic.most_requests,
        "pipelined": traffic.pipelined,
        "http2_connections": traffic.http2_connections,
        "requests": traffic.requests,
        "responses": traffic.responses,
        "unanswered": traffic.unanswered,
        "open_at_end": traffic.open_at_end,
        "answers_lost": traffic.answers_lost,
        "unasked": traffic.unasked,
        "malformed": traffic.malformed,
        "bytes_up": traffic.bytes_up,
        "bytes_down": traffic.bytes_down,
        "times": traffic.durations.summary(),
        "methods": _table(traffic.methods, top),
        "statuses": _table(Counter({str(status) if status else "unknown": n for status, n in traffic.statuses.items()}), top),
        "versions": _table(traffic.versions, top),
        "hosts": _hosts(traffic, top),
        "servers": _table(Counter({_endpoint(*address): n for address, n in traffic.servers.items()}), top),
        "clients": [
            {"address": address, "requests": client.requests, "failed": client.failed, "bytes_up": client.up}
            for address, client in sorted(traffic.clients.items(), key=lambda item: (-item[1].requests, item[0]))[:top]
        ],
        "agents": _table(traffic.agents, top),
        "content_types": _table(traffic.content_types, top),
        "redirects": [
            {"address": address, "location": location, "count": count}
            for (address, location), count in sorted(traffic.redirects.items(), key=lambda item: (-item[1], item[0]))[:top]
        ],
        "slowest": [
            {"method": method, "address": address, "client": client, "status": status, "time_ms": round(duration / 1e6, 3), "frame": frame}
            for duration, frame, status, method, address, client in sorted(traffic.slowest, key=lambda e: (-e[0], e[1]))[:top]
        ],
        "credentials": [
            {"kind": kind, "name": name, "host": host, "users": sorted(secret.users)[:10], "count": secret.count}
            for (kind, name, host), secret in sorted(traffic.secrets.items(), key=lambda item: (-item[1].count, item[0]))[:top]
        ],
        "upgrades": _table(traffic.upgrades, top),
        "tunnels": _table(traffic.tunnels, top),
        "findings": find(traffic),
    }  # fmt: skip


def _table(counter: Counter[str], top: int) -> list[dict[str, Any]]:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"name": name, "count": count} for name, count in ordered]


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _hosts(traffic: Traffic, top: int) -> list[dict[str, Any]]:
    ordered: list[tuple[str, Host]] = sorted(traffic.hosts.items(), key=lambda item: (-item[1].requests, item[0]))[:top]
    return [
        {
            "host": name,
            "is_address": address_of(name) is not None,
            "requests": host.requests,
            "answered": host.answered,
            "client_errors": host.client_errors,
            "server_errors": host.server_errors,
            "unanswered": host.unanswered,
            "bytes_up": host.up,
            "bytes_down": host.down,
            "times": host.durations.summary(),
        }
        for name, host in ordered
    ]
