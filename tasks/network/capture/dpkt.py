"""`dpkt`: what is in a capture, in numbers: the first look at one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from tasks.core.models import Example, FileRef, Safety, Service, ToolResult
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, AnalyzerParams, analyze
from tasks.network.analyze._report import Coverage, Row


class Dpkt(AnalyzerParams):
    """Parameters of `dpkt`. Headers are all it reads."""


class ProtocolCount(Row):
    """How much of the capture is of a protocol."""

    group: str = Field(
        description="ip (version), transport (what IP carries), layer (what it is wrapped in) or ethernet type."
    )
    name: str = Field(description="The protocol.")
    packets: int = Field(description="Packets.")
    bytes: int = Field(description="Bytes on the wire.")


class Talker(Row):
    """An address, and what it sent and received."""

    address: str = Field(description="The address.")
    packets_sent: int = Field(description="Packets it sent.")
    packets_received: int = Field(description="Packets it received.")
    bytes_sent: int = Field(description="Bytes it sent, on the wire.")
    bytes_received: int = Field(description="Bytes it received, on the wire.")


class Conversation(Row):
    """Everything between two addresses and ports."""

    protocol: str = Field(description="tcp or udp.")
    stream: int = Field(description="Its number, as Wireshark's tcp.stream and udp.stream.")
    client: str = Field(description="Who opened it, where the capture tells; else who has the higher port.")
    client_port: int = Field(description="The client's port.")
    server: str = Field(description="The other one.")
    server_port: int = Field(description="The server's port.")
    packets: int = Field(description="Packets, both directions.")
    bytes_sent: int = Field(description="Bytes of the client, on the wire.")
    bytes_received: int = Field(description="Bytes of the server, on the wire.")
    started_at: datetime = Field(description="Time of its first packet.")
    seconds: float = Field(description="Time to its last packet.")


class SizeClass(Row):
    """Packets of similar length."""

    at_least: int = Field(description="Bytes on the wire of the shortest packet that would count here.")
    packets: int = Field(description="Packets.")
    bytes: int = Field(description="Bytes on the wire.")


class RatePoint(Row):
    """What passed in a stretch of time."""

    at: datetime = Field(description="Its beginning.")
    packets: int = Field(description="Packets.")
    bytes: int = Field(description="Bytes on the wire.")


class TcpFlags(Row):
    """TCP segments by flag; a segment with several counts in each."""

    syn: int = Field(description="Opens a conversation, or agrees to it.")
    syn_ack: int = Field(description="Agrees to it.")
    ack: int = Field(description="Acknowledges.")
    psh: int = Field(description="Is to be given to the application at once.")
    fin: int = Field(description="Ends its side.")
    rst: int = Field(description="Breaks off, or refuses.")
    urg: int = Field(description="Has urgent data.")
    ece: int = Field(description="Reports congestion (ECN).")
    cwr: int = Field(description="Slows down because of it (ECN).")
    none: int = Field(description="No flag at all: nobody sends that in earnest.")


class CaptureSummary(ToolResult):
    """A capture in numbers."""

    capture: FileRef = Field(description="The capture.")
    coverage: Coverage = Field(description="How much of it could be read.")
    first_at: datetime | None = Field(description="Time of the earliest packet.")
    last_at: datetime | None = Field(description="Time of the latest packet.")
    packets_per_second: float | None = Field(description="Packets by time.")
    bits_per_second: float | None = Field(description="Bits on the wire by time.")
    mean_bytes: float | None = Field(description="Bytes on the wire of a packet, on average.")
    smallest_bytes: int | None = Field(description="Those of the shortest packet.")
    greatest_bytes: int | None = Field(description="Those of the longest packet.")
    protocols: list[ProtocolCount] = Field(description="What the packets are; of tunnels, what is innermost.")
    talkers: list[Talker] = Field(description="Addresses with the most bytes.")
    addresses: int = Field(description="Addresses in all.")
    conversations: list[Conversation] = Field(description="TCP and UDP conversations with the most bytes.")
    ip_pairs: int = Field(description="Pairs of addresses that talked, in all.")
    tcp_conversations: int = Field(description="TCP conversations in all; ports used again count again.")
    udp_conversations: int = Field(description="UDP conversations in all.")
    tcp_flags: TcpFlags = Field(description="TCP segments by flag.")
    sizes: list[SizeClass] = Field(description="Packets by length.")
    interval_seconds: float = Field(description="Length of the stretches of time in `rate`.")
    rate: list[RatePoint] = Field(description="What passed when: for a plot.")

    def headline(self) -> str:
        coverage = self.coverage
        loudest = f"; {self.talkers[0].address} has most of them" if self.talkers else ""
        return (
            f"{count(coverage.packets, 'packet')}, {count(coverage.bytes, 'byte')} in {coverage.seconds:.1f} s, "
            f"{self.tcp_conversations:,} TCP and {count(self.udp_conversations, 'UDP conversation')}{loudest}"
        )


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    aliases=("capture_summary",),
    examples=[
        Example("What is in this capture?", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("What one host did until eleven", {"capture": "office.pcap", "host": "192.168.1.7", "end": "2024-05-01T11:00:00Z"}),
        Example("What passes here now", {"interface": "eth0", "filter": "ip or ip6", "duration": 30}),
    ],
)  # fmt: skip
async def dpkt(params: Dpkt) -> CaptureSummary:
    """Summarize a capture: protocols, talkers, conversations, sizes, rate.

    Reads headers only, millions of packets in seconds, in a process of its own with bounded memory.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture.
    """
    from tasks.network.capture._dpkt_summary import summarize

    opened, facts = await analyze(params, summarize, timeout=WORKING_SECONDS - 5)
    coverage = Coverage(**facts.coverage)
    seconds, packets = coverage.seconds, coverage.packets
    return CaptureSummary(
        capture=opened.ref,
        coverage=coverage,
        first_at=_moment(facts.first_ns),
        last_at=_moment(facts.last_ns),
        packets_per_second=round(packets / seconds, 3) if seconds else None,
        bits_per_second=round(8 * coverage.bytes / seconds, 1) if seconds else None,
        mean_bytes=round(coverage.bytes / packets, 1) if packets else None,
        smallest_bytes=facts.smallest,
        greatest_bytes=facts.greatest,
        protocols=[ProtocolCount(**row) for row in facts.protocols],
        talkers=[Talker(**row) for row in facts.talkers],
        addresses=facts.addresses,
        conversations=[_conversation(row) for row in facts.conversations],
        ip_pairs=facts.conversation_counts["ip"],
        tcp_conversations=facts.conversation_counts["tcp"],
        udp_conversations=facts.conversation_counts["udp"],
        tcp_flags=TcpFlags(**facts.flags),
        sizes=[SizeClass(at_least=row["from"], packets=row["packets"], bytes=row["bytes"]) for row in facts.sizes],
        interval_seconds=facts.interval_ns / 1e9,
        rate=[RatePoint(at=_certain(at), packets=many, bytes=size) for at, many, size in facts.rate],
    )


def _moment(time_ns: int | None) -> datetime | None:
    return None if time_ns is None else _certain(time_ns)


def _certain(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)


def _conversation(row: dict[str, Any]) -> Conversation:
    same = {name: value for name, value in row.items() if name in Conversation.model_fields}
    return Conversation(**{**same, "seconds": round(row["seconds"], 6)}, started_at=_certain(row["start_ns"]))
