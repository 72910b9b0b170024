"""`tcp_analyzer`: how the TCP conversations of a capture fared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, AnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Coverage, Row, Times, gravest_first


class TcpAnalyzer(AnalyzerParams):
    """Parameters of `tcp_analyzer`. Headers are all it reads."""


class TcpEvents(Row):
    """What segments showed, counted as Wireshark's `tcp.analysis...` does."""

    retransmission: int = Field(0, description="Sent again, for none of the reasons below.")
    fast_retransmission: int = Field(0, description="Sent again because duplicate acknowledgements asked for it.")
    spurious_retransmission: int = Field(0, description="Sent again although it had been acknowledged.")
    out_of_order: int = Field(0, description="Overtaken on the way.")
    lost_segment: int = Field(0, description="Segments before which something is missing.")
    ack_lost_segment: int = Field(0, description="Acknowledgements of what is not in the capture.")
    duplicate_ack: int = Field(0, description="The same acknowledgement once more.")
    zero_window: int = Field(0, description="The receiver can take no more.")
    zero_window_probe: int = Field(0, description="The sender asks whether it can again.")
    keep_alive: int = Field(0, description="The sender asks whether the other side is still there.")


class TcpHandshakes(Row):
    """Round-trip times that handshakes tell."""

    server: Times = Field(description="From the SYN to its answer: between the capture and the server.")
    client: Times = Field(description="From there to the client's acknowledgement: between the capture and the client.")
    whole: Times = Field(description="From the SYN to the client's acknowledgement.")


class TcpEndings(Row):
    """What became of conversations."""

    closed: int = Field(0, description="Both sides said goodbye (FIN).")
    reset: int = Field(0, description="Broken off (RST).")
    open: int = Field(0, description="Going on when the capture ended.")
    refused: int = Field(0, description="A SYN answered with RST.")
    unanswered: int = Field(0, description="A SYN and nothing.")
    half_open: int = Field(0, description="A SYN and its answer, and no more.")
    stray: int = Field(0, description="Begun with flags that begin nothing.")


class TcpConversation(Row):
    """A conversation."""

    stream: int = Field(description="Its number, as Wireshark's tcp.stream.")
    client: str = Field(description="Who opened it; where that is not in the capture, who has the higher port.")
    client_port: int = Field(description="The client's port.")
    server: str = Field(description="The other one.")
    server_port: int = Field(description="The server's port.")
    started_at: datetime = Field(description="Time of its first packet.")
    first_frame: int = Field(description="Frame number of its first packet.")
    seconds: float = Field(description="Time to its last packet.")
    packets: int = Field(description="Packets, both directions.")
    bytes: int = Field(description="Bytes on the wire, both directions.")
    sent_bytes: int = Field(description="Payload of the client, repetitions included.")
    received_bytes: int = Field(description="Payload of the server, repetitions included.")
    sent_bits_per_second: float | None = Field(description="The client's payload by time.")
    received_bits_per_second: float | None = Field(description="The server's payload by time.")
    handshake_ms: float | None = Field(description="From the SYN to the client's acknowledgement.")
    ending: str = Field(description="closed, reset, open, refused, unanswered, half_open or stray.")
    events: TcpEvents = Field(description="What its segments showed, both directions.")


class TcpServer(Row):
    """A port whose conversations failed."""

    server: str = Field(description="Its address.")
    port: int = Field(description="The port.")
    refused: int = Field(description="Conversations it refused.")
    unanswered: int = Field(description="Conversations it did not answer.")
    half_open: int = Field(description="Conversations that were answered and not finished.")
    reset: int = Field(description="Conversations broken off.")


class TcpReport(AnalyzerResult):
    """What a capture's TCP says."""

    packets: int = Field(description="TCP segments.")
    bytes: int = Field(description="Their bytes on the wire.")
    payload_bytes: int = Field(description="Their payload, repetitions included.")
    resent_bytes: int = Field(description="Payload that was sent again.")
    conversations: int = Field(description="Conversations; ports used again count again.")
    endings: TcpEndings = Field(description="What became of them.")
    events: TcpEvents = Field(description="What segments showed.")
    handshakes: TcpHandshakes = Field(description="Round-trip times that handshakes tell.")
    top: list[TcpConversation] = Field(description="Conversations with the most bytes.")
    troubled: list[TcpConversation] = Field(description="Conversations with the most trouble.")
    failing: list[TcpServer] = Field(description="Ports whose conversations failed most; scans are left out.")

    def headline(self) -> str:
        again = self.events.retransmission + self.events.fast_retransmission + self.events.spurious_retransmission
        return f"{count(self.conversations, 'conversation')}, {count(self.packets, 'packet')}, {again:,} sent again; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    aliases=("analyze_tcp",),
    examples=[
        Example("The TCP of a capture", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("One server's, until eleven o'clock", {"capture": "office.pcap", "host": "192.168.1.7", "end": "2024-05-01T11:00:00Z"}),
        Example("Listen for a minute", {"interface": "eth0", "filter": "tcp", "host": "192.168.1.7"}),
    ],
)  # fmt: skip
async def tcp_analyzer(params: TcpAnalyzer) -> TcpReport:
    """Analyze TCP: loss, delays, closed windows, resets, half-open ones, scans.

    Counts what Wireshark's `tcp.analysis` counts, by its user's guide. Headers are all it needs: a live capture keeps 256 bytes
    of each packet.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture.
    """
    from tasks.network.analyze._tcp import dissect
    from tasks.network.analyze._tcp_findings import findings

    opened, facts = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return TcpReport(
        capture=opened.ref,
        coverage=Coverage(**facts.coverage),
        findings=gravest_first(findings(facts)),
        packets=facts.packets,
        bytes=facts.bytes,
        payload_bytes=facts.payload_bytes,
        resent_bytes=facts.resent_bytes,
        conversations=facts.conversations,
        endings=TcpEndings(**facts.endings),
        events=TcpEvents(**facts.events),
        handshakes=TcpHandshakes(**{name: Times(**times) for name, times in facts.handshakes.items()}),
        top=[_conversation(row) for row in facts.rows],
        troubled=[_conversation(row) for row in facts.troubled],
        failing=[TcpServer(**{name: row[name] for name in TcpServer.model_fields}) for row in facts.servers],
    )


_AS_THEY_ARE = ("stream", "client", "client_port", "server", "server_port", "first_frame", "packets", "bytes", "ending")


def _conversation(row: dict[str, Any]) -> TcpConversation:
    handshake = row["handshake_ns"]
    return TcpConversation(
        **{name: row[name] for name in _AS_THEY_ARE},
        started_at=datetime.fromtimestamp(row["start_ns"] / 1e9, UTC),
        seconds=round(row["seconds"], 6),
        sent_bytes=row["sent"],
        received_bytes=row["received"],
        sent_bits_per_second=_rounded(row["sent_bps"]),
        received_bits_per_second=_rounded(row["received_bps"]),
        handshake_ms=None if handshake is None else round(handshake / 1e6, 3),
        events=TcpEvents(**{name: sum(by_side.values()) for name, by_side in row["events"].items()}),
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
