"""`udp_analyzer`: what was sent over UDP, and what came back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, AnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Coverage, Row, gravest_first


class UdpAnalyzer(AnalyzerParams):
    """Parameters of `udp_analyzer`. Headers are all it reads."""


class UdpConversation(Row):
    """A conversation: everything between two addresses and ports."""

    stream: int = Field(description="Its number, in the order in which they begin.")
    client: str = Field(description="Who asks.")
    client_port: int = Field(description="The client's port.")
    server: str = Field(description="Who is asked: a well-known port's side, else who did not speak first.")
    server_port: int = Field(description="The server's port.")
    started_at: datetime = Field(description="Time of its first packet.")
    first_frame: int = Field(description="Frame number of its first packet.")
    seconds: float = Field(description="Time to its last packet.")
    packets: int = Field(description="Packets, both directions.")
    bytes: int = Field(description="Bytes on the wire, both directions.")
    sent_bytes: int = Field(description="Payload of the client.")
    received_bytes: int = Field(description="Payload of the server.")
    answered: bool = Field(description="Whether both sides spoke.")


class UdpPort(Row):
    """A service's port, over all hosts."""

    port: int = Field(description="The port.")
    conversations: int = Field(description="Conversations with it.")
    answered: int = Field(description="Those in which both sides spoke.")
    packets: int = Field(description="Packets, both directions.")
    bytes: int = Field(description="Bytes on the wire, both directions.")


class UdpSilent(Row):
    """A service that left conversations unanswered."""

    server: str = Field(description="Its address.")
    port: int = Field(description="The port.")
    count: int = Field(description="Conversations without an answer.")
    packets: int = Field(description="Packets sent in vain.")
    refused: int = Field(description="Conversations refused by ICMP.")


class UdpError(Row):
    """What ICMP said about datagrams."""

    reason: str = Field(description="Such as port unreachable, prohibited, too big or time exceeded.")
    target: str = Field(description="Where the datagrams were going.")
    port: int = Field(description="To which port; -1 where the error does not say.")
    reporter: str = Field(description="Who said it.")
    count: int = Field(description="How often.")
    clients: int = Field(description="To how many senders, at most 1,000.")


class UdpAmplifier(Row):
    """A service that answers with far more than it was asked, or answers that nobody asked for."""

    address: str = Field(description="The service; of answers that nobody asked for, who got them.")
    port: int = Field(description="The service's port.")
    service: str = Field(description="What speaks on that port.")
    asked: int = Field(description="Bytes of questions.")
    answered: int = Field(description="Bytes of answers.")
    ratio: float | None = Field(description="Bytes of answers for each byte of questions.")
    others: int = Field(description="Addresses on the other side, at most 1,000.")


class UdpReport(AnalyzerResult):
    """What a capture's UDP says."""

    packets: int = Field(description="UDP datagrams; those quoted in ICMP errors do not count.")
    bytes: int = Field(description="Their bytes on the wire.")
    payload_bytes: int = Field(description="Their payload.")
    conversations: int = Field(description="Conversations.")
    answered: int = Field(description="Those in which both sides spoke.")
    unanswered: int = Field(description="Those in which one side did not.")
    one_way: int = Field(description="Those that need no answer: to groups, traps, syslog, flow records.")
    fragments: int = Field(description="Packets that are fragments of datagrams.")
    assembled: int = Field(description="Datagrams put together from fragments.")
    top: list[UdpConversation] = Field(description="Conversations with the most bytes.")
    ports: list[UdpPort] = Field(description="Services' ports with the most bytes.")
    silent: list[UdpSilent] = Field(description="Services that left the most conversations unanswered.")
    errors: list[UdpError] = Field(description="What ICMP said most often.")
    amplifiers: list[UdpAmplifier] = Field(description="Services that answered with far more than they were asked.")
    unasked: list[UdpAmplifier] = Field(description="Answers of such services that nobody asked for.")

    def headline(self) -> str:
        return (
            f"{count(self.conversations, 'conversation')}, {count(self.packets, 'packet')}, {self.unanswered:,} unanswered; "
            f"{self.verdict()}"
        )


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    aliases=("analyze_udp",),
    examples=[
        Example("The UDP of a capture", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("One host's SNMP", {"capture": "office.pcap", "host": "192.168.1.7", "port": 161}),
        Example("Listen for a minute", {"interface": "eth0", "filter": "udp or icmp or icmp6"}),
    ],
)
async def udp_analyzer(params: UdpAnalyzer) -> UdpReport:
    """Analyze UDP: what stays unanswered, ICMP errors, fragments, amplification.

    ICMP and ICMPv6 errors are read to tell a closed port from a lost packet: let a filter keep them (`udp or icmp or icmp6`).

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture.
    """
    from tasks.network.analyze._udp import dissect
    from tasks.network.analyze._udp_findings import findings

    opened, facts = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return UdpReport(
        capture=opened.ref,
        coverage=Coverage(**facts.coverage),
        findings=gravest_first(findings(facts)),
        packets=facts.packets,
        bytes=facts.bytes,
        payload_bytes=facts.payload_bytes,
        conversations=facts.conversations,
        answered=facts.answered,
        unanswered=facts.unanswered,
        one_way=facts.one_way,
        fragments=facts.fragments,
        assembled=facts.assembled,
        top=[_conversation(row) for row in facts.rows],
        ports=[UdpPort(**row) for row in facts.ports],
        silent=[UdpSilent(**_without_frames(row)) for row in facts.silent],
        errors=[UdpError(**_without_frames(row)) for row in facts.errors],
        amplifiers=[UdpAmplifier(**_without_frames(row)) for row in facts.amplifiers],
        unasked=[UdpAmplifier(**_without_frames(row)) for row in facts.unasked],
    )


def _without_frames(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "frames"}


def _conversation(row: dict[str, Any]) -> UdpConversation:
    same = {name: value for name, value in row.items() if name in UdpConversation.model_fields and name != "seconds"}
    return UdpConversation(
        **same,
        started_at=datetime.fromtimestamp(row["start_ns"] / 1e9, UTC),
        seconds=round(row["seconds"], 6),
        sent_bytes=row["sent"],
        received_bytes=row["received"],
    )
