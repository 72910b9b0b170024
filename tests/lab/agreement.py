"""What it takes to compare an analyzer with tshark on a capture it has not seen before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRROPT
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_datagrams, read_streams
from tasks.network.analyze._selection import ALL
from tests.lab.captures import NOON_NS


def streams(path: Path, signature: Signature) -> list[StreamInfo]:
    """The TCP conversations that an analyzer's heuristics choose."""
    found: list[StreamInfo] = []
    read_streams(path, ALL, signature, found.append, Counts())
    return found


def decode_as(path: Path, protocol: str, signature: Signature, known: Iterable[int]) -> list[str]:
    """Tell tshark what the heuristics found on ports that are not the protocol's `known` ones."""
    ports = {info.server_port for info in streams(path, signature)} - set(known)
    return [f"tcp.port=={port},{protocol}" for port in sorted(ports)]


def decode_datagrams_as(path: Path, protocol: str, signature: Signature, known: Iterable[int]) -> list[str]:
    """The same for datagrams, of which the lower port is taken for the server's."""
    ends = [{packet.source_port, packet.destination_port} for packet in read_datagrams(path, ALL, signature, Counts())]
    return [f"udp.port=={port},{protocol}" for port in sorted({min(pair) for pair in ends if not pair & set(known)})]


def ports_of(report: dict[str, Any], known: Iterable[int]) -> list[int]:
    """Ports of the servers that a report's sessions name, but the protocol's `known` ones."""
    return sorted({int(row["server"].rpartition(":")[2]) for row in report["sessions"]} - set(known))


# --- conversations that hypothesis makes up and scapy writes -----------------------------------------------------------

Talk = list[tuple[bool, bytes]]
ENDS = [("10.0.0.1", "10.0.0.2"), ("10.0.0.7", "10.0.0.2"), ("10.0.0.1", "10.0.9.9"), ("2001:db8::1", "2001:db8::2")]


def generated(examples: int = 15) -> settings:
    """As every comparison of generated captures is set: the same ones each time, each a run of tshark."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def _between(source: str, destination: str) -> Packet:
    network = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network


def _conversation(
    talk: Talk, client: str, server: str, ports: tuple[int, int], again: set[int], end: str
) -> list[Packet]:
    following = {True: 1000, False: 5000}

    def segment(from_client: bool, flags: str, data: bytes = b"") -> Packet:
        ends, numbers = ((client, server), ports) if from_client else ((server, client), ports[::-1])
        head = TCP(
            sport=numbers[0], dport=numbers[1], flags=flags, seq=following[from_client], ack=following[not from_client]
        )
        following[from_client] += len(data) + ("S" in flags or "F" in flags)
        return _between(*ends) / head / Raw(data) if data else _between(*ends) / head

    packets = [segment(True, "S"), segment(False, "SA"), segment(True, "A")]
    for number, (from_client, data) in enumerate(talk):
        sent = [segment(from_client, "PA", data[at : at + 1400]) for at in range(0, len(data), 1400)]
        packets += [*sent, *(sent[-1:] if number in again else ()), segment(not from_client, "A")]
    return packets + ([segment(True, "FA"), segment(False, "FA"), segment(True, "A")] if end == "fin" else [])


@st.composite
def talked(draw: st.DrawFn, talks: st.SearchStrategy[Talk], ports: Sequence[int]) -> list[Packet]:
    """TCP conversations of several clients at once, on ports known and unknown, some segments sent twice."""
    packets: list[Packet] = []
    for number, talk in enumerate(draw(st.lists(talks, min_size=1, max_size=4))):
        client, server = draw(st.sampled_from(ENDS))
        again = draw(st.sets(st.integers(0, max(0, len(talk) - 1)), max_size=2))
        both = 50_000 + number, draw(st.sampled_from(ports))
        made = _conversation(talk, client, server, both, again, draw(st.sampled_from(["fin", "none"])))
        begin, gap = draw(st.integers(0, 40)), draw(st.integers(1, 30))
        for place, packet in enumerate(made):
            copy = packet.copy()
            copy.time = NOON_NS / 1e9 + begin / 1000 + place * gap / 1000 + number / 1e5
            packets.append(copy)
    return sorted(packets, key=lambda packet: packet.time)


@st.composite
def asked(draw: st.DrawFn, ports: Sequence[int]) -> list[Packet]:
    """DNS over UDP: queries with one question or two, some again, some unanswered, answers of every code."""
    label = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=12)
    packets: list[Packet] = []
    for number in range(draw(st.integers(1, 8))):
        client, server = draw(st.sampled_from(ENDS))
        port = draw(st.sampled_from(ports))
        kinds = st.sampled_from(["A", "AAAA", "TXT", "MX", "PTR", "SRV"])
        names = draw(st.lists(st.lists(label, min_size=1, max_size=3), min_size=1, max_size=2 if port == 53 else 1))
        questions = [DNSQR(qname=".".join([*name, "example"]), qtype=draw(kinds)) for name in names]
        query = DNS(id=number, rd=1, qd=questions, ar=[DNSRROPT(rclass=1232)] if draw(st.booleans()) else [])
        answer = DNS(
            id=number, qr=1, ra=1, tc=draw(st.integers(0, 1)), rcode=draw(st.integers(0, 15 if port == 53 else 5)), qd=questions,
            an=[DNSRR(rrname=questions[0].qname, type="A", rdata="192.0.2.7")] * draw(st.integers(0, 3)),
        )  # fmt: skip
        there, back = UDP(sport=50_000 + number, dport=port), UDP(sport=port, dport=50_000 + number)
        packets += [_between(client, server) / there / query] * draw(st.integers(1, 2))
        packets += [_between(server, client) / back / answer] * draw(st.integers(0, 1))
    packets = [packet.copy() for packet in packets]
    for place, packet in enumerate(packets):
        packet.time = NOON_NS / 1e9 + place / 50
    return packets


def saved(packets: list[Packet], path: Path) -> Path:
    """Write them as scapy does."""
    wrpcap(str(path), packets, linktype=1)
    return path
