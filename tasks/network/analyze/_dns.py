"""A capture's DNS as plain data: what `dns_analyzer` runs in a process of its own."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tasks.network.analyze._dns_findings import find
from tasks.network.analyze._dns_local import PROTOCOLS, LocalNames
from tasks.network.analyze._dns_message import (
    EXTENDED_ERRORS,
    OPCODES,
    RCODES,
    looks_like_dns,
    looks_like_dns_over_tcp,
    type_name,
)
from tasks.network.analyze._dns_stream import DnsStream
from tasks.network.analyze._dns_traffic import DNS_PORT, Pair, Traffic
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_datagrams, read_streams

if TYPE_CHECKING:
    from tasks.network.analyze._frames import Selection

DATAGRAMS = Signature(ports=frozenset({DNS_PORT, *PROTOCOLS}), test=looks_like_dns)
STREAMS = Signature(ports=frozenset({DNS_PORT}), test=looks_like_dns_over_tcp)


def dissect(path: str, selection: Selection, top: int) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own."""
    traffic = Traffic()
    local = {name: LocalNames(name) for name in PROTOCOLS.values()}
    counts = Counts()
    message = traffic.message
    for packet in read_datagrams(path, selection, DATAGRAMS, counts):
        protocol = PROTOCOLS.get(packet.destination_port) or PROTOCOLS.get(packet.source_port)
        if protocol is not None and DNS_PORT not in (packet.source_port, packet.destination_port):
            local[protocol].message(packet.payload, packet.number, packet.source, cut=packet.truncated)
            continue
        message(
            packet.payload, packet.time_ns, packet.number, packet.source, packet.source_port, packet.destination,
            packet.destination_port, False, packet.truncated,
        )  # fmt: skip

    def open_stream(info: StreamInfo) -> DnsStream:
        return DnsStream(
            traffic, (info.client, info.client_port), (info.server, info.server_port), whole=info.handshake
        )

    over_tcp = Counts()
    read_streams(path, selection, STREAMS, open_stream, over_tcp)
    counts.analyzed += over_tcp.analyzed
    counts.notes += [note for note in over_tcp.notes if note not in counts.notes]
    traffic.finish(counts.last_ns or 0)
    names = [local[name] for name in PROTOCOLS.values() if local[name].queries or local[name].answers]
    return {**report(traffic, names, top), "coverage": counts.coverage()}


def report(traffic: Traffic, local: list[LocalNames], top: int) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    return {
        "messages": traffic.messages,
        "queries": traffic.queries,
        "answers": traffic.answers,
        "over_tcp": traffic.tcp_messages,
        "malformed": sum(traffic.malformed.values()),
        "cut": traffic.cut,
        "unanswered": traffic.unanswered,
        "open_at_end": traffic.open_at_end,
        "unasked": traffic.unasked,
        "repeated": traffic.repeated,
        "truncated": traffic.truncated,
        "retried_over_tcp": traffic.retried,
        "names_seen": len(traffic.names.names),
        "names_left_out": traffic.names.left_out,
        "times": traffic.durations.summary(),
        "rcodes": _table(traffic.rcodes, lambda code: RCODES.get(code, f"RCODE{code}"), top),
        "types": _table(traffic.names.types, type_name, top),
        "opcodes": _table(traffic.opcodes, lambda code: OPCODES.get(code, f"OPCODE{code}"), top),
        "names": traffic.names.top(top),
        "domains": _domains(traffic, top),
        "clients": _clients(traffic, top),
        "servers": _servers(traffic, top),
        "slowest": [
            {
                "name": name[:255],
                "type": type_name(kind),
                "server": server,
                "time_ms": round(duration / 1e6, 3),
                "frame": frame,
            }
            for duration, frame, name, server, kind in sorted(traffic.slowest, key=lambda entry: (-entry[0], entry[1]))[
                :top
            ]
        ],
        "dnssec": {
            "do_queries": traffic.dnssec["do"],
            "cd_queries": traffic.dnssec["cd"],
            "ad_queries": traffic.dnssec["ad_asked"],
            "authenticated_answers": traffic.dnssec["ad"],
            "signed_answers": traffic.dnssec["signed"],
        },
        "edns_sizes": _table(traffic.edns_sizes, str, top),
        "extended_errors": _table(traffic.extended_errors, lambda code: EXTENDED_ERRORS.get(code, f"error {code}"), top),
        "local": [names.summary(top) for names in local],
        "findings": find(traffic, local),
    }  # fmt: skip


def _table(counter: Counter[int], name: Any, top: int) -> list[dict[str, Any]]:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"name": name(key), "count": count} for key, count in ordered]


def _domains(traffic: Traffic, top: int) -> list[dict[str, Any]]:
    ordered = sorted(traffic.names.domains.items(), key=lambda item: (-item[1].queries, item[0]))[:top]
    return [
        {
            "domain": name[:255],
            "queries": domain.queries,
            "names": domain.lookups,
            "mean_length": round(domain.mean_length, 1),
            "entropy_bits": round(domain.mean_entropy, 2),
            "answer_bytes": domain.answer_bytes,
        }
        for name, domain in ordered
        if domain.queries
    ]


def _clients(traffic: Traffic, top: int) -> list[dict[str, Any]]:
    fields = ("queries", "answers", "nxdomain", "failed", "unanswered", "repeated")
    return _busiest(traffic, lambda pair: pair.client, top, fields, "servers")


def _servers(traffic: Traffic, top: int) -> list[dict[str, Any]]:
    fields = (
        "queries", "answers", "nxdomain", "failed", "unanswered", "unasked", "query_bytes", "answer_bytes",
    )  # fmt: skip
    rows = _busiest(traffic, lambda pair: pair.server.address, top, fields, "clients")
    for row in rows:
        server = traffic.servers[row["address"]]
        row["truncated"] = server.truncated
        row["ratio"] = round(row["answer_bytes"] / row["query_bytes"], 1) if row["query_bytes"] else None
        row["times"] = server.durations.summary()
    return rows


def _busiest(
    traffic: Traffic, who: Callable[[Pair], str], top: int, fields: tuple[str, ...], partners: str
) -> list[dict[str, Any]]:
    """Rows of those with the most queries. Hosts may be many, so that only theirs are added up."""
    said: Counter[str] = Counter()
    for pair in traffic.pairs():
        said[who(pair)] += (pair.queries << 40) + pair.answers
    chosen = heapq.nsmallest(top, said.items(), key=lambda item: (-item[1], item[0]))
    rows: dict[str, dict[str, Any]] = {
        address: {"address": address, **dict.fromkeys((*fields, partners), 0)} for address, _ in chosen
    }
    for pair in traffic.pairs():
        row = rows.get(who(pair))
        if row is not None:
            for name in fields:
                row[name] += pair.trouble.unasked if name == "unasked" else getattr(pair, name)
            row[partners] += 1
    return list(rows.values())
