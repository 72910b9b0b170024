from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    as_fragments,
    checksum,
    ethernet,
    ip,
    needs_tshark,
    recording,
    tshark_conversations,
    tshark_fields,
    udp,
    write_pcap,
)
from lab.network import needs_lab

from blocks.captures import CaptureStore
from tasks.core.errors import InvalidParameters
from tasks.core.models import ToolResult
from tasks.network.analyze._report import Severity
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._udp import UdpFacts, dissect
from tasks.network.analyze._udp_findings import findings
from tasks.network.analyze.udp_analyzer import UdpReport, udp_analyzer

Perform = Callable[..., Awaitable[ToolResult]]
MOST_CONVERSATIONS = 10_000
CLIENT, SERVER, ROUTER = "10.0.0.9", "10.0.0.53", "10.0.0.1"


def at(milliseconds: int, frame: bytes) -> Packet:
    return Packet(NOON_NS + milliseconds * 1_000_000, frame)


def exchange(
    start: int,
    port: int,
    *,
    client: str = CLIENT,
    server: str = SERVER,
    service: int = 53,
    asked: int = 30,
    answered: int = 90,
) -> list[Packet]:
    packets = [at(start, udp(client, port, server, service, bytes(asked)))]
    return packets + ([at(start + 1, udp(server, service, client, port, bytes(answered)))] if answered else [])


def unreachable(packet: Packet, reporter: str = SERVER, *, kind: int = 3, code: int = 3) -> Packet:
    quoted = packet.data[14:][:28]
    body = struct.pack(">BBHI", kind, code, 0, 0) + quoted
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    source = socket.inet_ntoa(packet.data[26:30])
    return Packet(packet.time_ns + 1000, ethernet(ip(reporter, source, 1, body)))


def read(packets: Sequence[Packet], path: Path, top: int = 20) -> UdpFacts:
    return dissect(str(write_pcap(Capture(packets), path)), ALL, top)


def agree(path: Path) -> None:
    """Packets, bytes and conversations are those of tshark; what ICMP errors quote counts there as a datagram of the conversation."""
    facts = dissect(str(path), ALL, MOST_CONVERSATIONS)
    rows = tshark_fields(path, "udp && !icmp && !icmpv6", "frame.len", "udp.length", "udp.stream")
    assert facts.packets == len(rows) and facts.bytes == sum(int(row[0]) for row in rows)
    # In a tunnel over UDP what counts is the datagram inside; there both do.
    assert facts.payload_bytes == sum(int(row[1].rpartition(",")[2]) - 8 for row in rows)
    if any("," in row[1] for row in rows) or tshark_fields(path, "udp && (icmp || icmpv6)", "frame.number"):
        return
    assert facts.conversations == len({row[2] for row in rows})
    ends = [(f"{row['client']}:{row['client_port']}", f"{row['server']}:{row['server_port']}") for row in facts.rows]
    mine = sorted((*sorted(pair), row["packets"]) for pair, row in zip(ends, facts.rows, strict=True))
    assert mine == sorted((*sorted([a, b]), to + back) for a, b, to, back in tshark_conversations(path, "udp"))


def codes(facts: UdpFacts) -> set[str]:
    return {finding.code for finding in findings(facts)}


def test_conversations_and_who_asks_in_them(tmp_path: Path) -> None:
    facts = read([*exchange(0, 5000), *exchange(10, 5001), *exchange(20, 5000)], tmp_path / "a.pcap")
    assert (facts.packets, facts.conversations, facts.answered, facts.unanswered) == (6, 2, 2, 0)
    assert facts.payload_bytes == 3 * 120 and not codes(facts)
    first = facts.rows[0]
    assert (first["client"], first["client_port"], first["server"], first["server_port"]) == (CLIENT, 5000, SERVER, 53)
    assert (first["sent"], first["received"], first["packets"], first["seconds"]) == (60, 180, 4, 0.021)
    assert facts.ports == [{"port": 53, "conversations": 2, "answered": 2, "packets": 6, "bytes": facts.bytes}]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_report_does_not_depend_on_the_link_layer_or_the_file_format(variant: str, tmp_path: Path) -> None:
    packets = [
        *exchange(0, 5000),
        *exchange(10, 5001, client="2001:db8::9", server="2001:db8::53"),
        *exchange(20, 5002, answered=0),
    ]
    facts = dissect(str(VARIANTS[variant](Capture(packets), tmp_path / variant)), ALL, 20)
    assert facts.coverage["notes"] == []
    assert (facts.packets, facts.conversations, facts.answered, facts.unanswered) == (5, 3, 2, 1)


def test_a_service_that_does_not_answer_is_named(tmp_path: Path) -> None:
    facts = read([packet for n in range(5) for packet in exchange(n * 10, 5000 + n, answered=0)], tmp_path / "a.pcap")
    (finding,) = findings(facts)
    assert finding.code == "udp.unanswered" and finding.count == 5 and finding.frames == [1, 2, 3, 4, 5]
    assert f"{SERVER}:53 left 5 conversations unanswered" in finding.what


def test_what_needs_no_answer_is_no_fault(tmp_path: Path) -> None:
    ways = [
        ("239.255.255.250", 1900),
        ("255.255.255.255", 67),
        ("10.0.0.255", 138),
        (SERVER, 514),
        (SERVER, 162),
        (SERVER, 6343),
    ]
    packets = [
        packet
        for target, port in ways
        for n in range(4)
        for packet in exchange(n, 5000 + n, server=target, service=port, answered=0)
    ]
    packets += [
        packet
        for n in range(4)
        for packet in exchange(n, 5353 + n, client="fe80::1", server="ff02::fb", service=5353, answered=0)
    ]
    facts = read(packets, tmp_path / "a.pcap")
    assert facts.unanswered == 0 and facts.one_way == facts.conversations == 28 and not codes(facts)


def test_icmp_says_who_is_not_there(tmp_path: Path) -> None:
    asked = [exchange(n * 10, 5000 + n, answered=0)[0] for n in range(3)]
    facts = read([packet for one in asked for packet in (one, unreachable(one))], tmp_path / "a.pcap")
    assert facts.packets == 3, "what an error quotes is no datagram"
    (error,) = facts.errors
    assert (error["reason"], error["target"], error["port"], error["count"]) == ("port unreachable", SERVER, 53, 3)
    assert facts.silent[0]["refused"] == 3 and codes(facts) == {"udp.unanswered", "udp.unreachable"}


@pytest.mark.parametrize(
    ("kind", "code", "name"), [(3, 4, "udp.too-big"), (11, 0, "udp.time-exceeded"), (3, 13, "udp.unreachable")]
)
def test_kinds_of_icmp_errors_are_told_apart(kind: int, code: int, name: str, tmp_path: Path) -> None:
    asked, _ = exchange(0, 5000)
    assert codes(read([asked, unreachable(asked, ROUTER, kind=kind, code=code)], tmp_path / "a.pcap")) == {name}


def test_an_icmpv6_error_is_read_as_well(tmp_path: Path) -> None:
    asked = exchange(0, 5000, client="2001:db8::9", server="2001:db8::53", answered=0)[0]
    body = struct.pack(">BBHI", 1, 4, 0, 0) + asked.data[14:]
    facts = read([asked, at(1, ethernet(ip("2001:db8::53", "2001:db8::9", 58, body)))], tmp_path / "a.pcap")
    (error,) = facts.errors
    assert (error["reason"], error["target"], error["port"], error["reporter"]) == (
        "port unreachable",
        "2001:db8::53",
        53,
        "2001:db8::53",
    )


def test_a_port_scan_is_one_finding(tmp_path: Path) -> None:
    asked = [exchange(n, 40_000, service=n, answered=0)[0] for n in range(1, 61)]
    facts = read([packet for one in asked for packet in (one, unreachable(one))], tmp_path / "scan.pcap")
    (finding,) = findings(facts)
    assert finding.code == "udp.port-scan" and finding.severity is Severity.HIGH and finding.count == 60


def test_traceroute_is_no_port_scan(tmp_path: Path) -> None:
    facts = read([exchange(n, 40_000, service=33434 + n, answered=0)[0] for n in range(60)], tmp_path / "trace.pcap")
    assert not codes(facts)


def test_a_service_worth_abusing_is_named(tmp_path: Path) -> None:
    facts = read(
        [packet for n in range(20) for packet in exchange(n * 9, 5000 + n, service=123, asked=8, answered=440)],
        tmp_path / "b.pcap",
    )
    (entry,) = facts.amplifiers
    assert (entry["address"], entry["service"], entry["ratio"]) == (SERVER, "NTP", 55.0)
    assert codes(facts) == {"udp.amplification"}


def test_the_victim_of_a_reflection_is_named(tmp_path: Path) -> None:
    packets = [at(n, udp(f"10.1.0.{n + 1}", 11211, CLIENT, 80, bytes(1400))) for n in range(30)]
    facts = read(packets, tmp_path / "a.pcap")
    (finding,) = [finding for finding in findings(facts) if finding.code == "udp.reflection"]
    assert (
        finding.severity is Severity.HIGH
        and f"{CLIENT} got 42000 bytes of memcached" in finding.what
        and finding.count == 30
    )


def test_fragments_are_counted_and_put_together(tmp_path: Path) -> None:
    capture = as_fragments(
        Capture([packet for n in range(4) for packet in exchange(n * 10, 5000 + n, service=4000, answered=4000)]), 1480
    )
    facts = dissect(str(write_pcap(capture, tmp_path / "f.pcap")), ALL, 20)
    assert (facts.fragments, facts.assembled, facts.packets) == (12, 4, 8)
    assert facts.payload_bytes == 4 * 4030 and codes(facts) == {"udp.fragments"}
    lost = Capture([packet for place, packet in enumerate(capture.packets) if place != 3])
    facts = dissect(str(write_pcap(lost, tmp_path / "l.pcap")), ALL, 20)
    assert (facts.fragments, facts.assembled, facts.packets) == (11, 3, 7)
    assert facts.coverage["notes"] == ["1 fragmented datagram is not whole in the capture."]


def test_only_what_was_asked_for_is_read(tmp_path: Path) -> None:
    path = str(
        write_pcap(
            Capture([*exchange(0, 5000), *exchange(10, 5001, server="10.0.0.54", service=123)]), tmp_path / "a.pcap"
        )
    )
    assert dissect(path, Selection(addresses=("10.0.0.54",)), 5).packets == 2
    assert dissect(path, Selection(port=53), 5).ports[0]["port"] == 53


@needs_tshark
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packets_bytes_and_conversations_are_those_of_tshark(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    packets: list[Packet] = []
    for n in range(chance.randrange(1, 60)):
        client, server = chance.choice([(CLIENT, SERVER), (CLIENT, "10.0.0.54"), ("2001:db8::9", "2001:db8::53")])
        packets += exchange(
            n,
            chance.choice([5000, 5001, 53]),
            client=client,
            server=server,
            service=chance.choice([53, 161, 5000]),
            asked=chance.randrange(100),
            answered=chance.choice([0, 0, 50, 3000]),
        )
    variant = chance.choice(["plain", "qinq", "cooked", "pcapng"])
    path = VARIANTS[variant](as_fragments(Capture(packets), 1480), tmp_path / "t.pcap")
    agree(path)


@pytest.mark.lab
@needs_lab
@needs_tshark
async def test_real_datagrams_and_a_closed_port(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        async with recording(tmp_path / "real.pcap", f"udp port {port} or udp port 9 or icmp"):
            for size in (10, 1000, 30_000):
                client.sendto(bytes(size), ("127.0.0.1", port))
                _, back = server.recvfrom(65535)
                server.sendto(bytes(size), back)
                client.recv(65535)
            client.sendto(b"anybody?", ("127.0.0.1", 9))
    facts = dissect(str(tmp_path / "real.pcap"), ALL, 20)
    assert (facts.packets, facts.conversations, facts.answered) == (7, 2, 1)
    assert facts.payload_bytes == 2 * (10 + 1000 + 30_000) + 8
    # Others may use loopback meanwhile, and hear of closed ports too.
    assert ("port unreachable", 9) in [(error["reason"], error["port"]) for error in facts.errors]
    assert facts.packets == len(tshark_fields(tmp_path / "real.pcap", "udp && !icmp", "frame.number"))


async def test_it_reads_a_capture_of_the_store(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    packets = [packet for n in range(4) for packet in exchange(n, 5000 + n, answered=0)]
    asked = exchange(90, 6000, service=9, answered=0)[0]
    store.write(
        "a.pcap",
        write_pcap(Capture([*packets, *exchange(50, 5000), asked, unreachable(asked)]), tmp_path / "a").read_bytes(),
    )
    report = await perform(udp_analyzer, {"capture": "a.pcap"}, store=store)
    assert isinstance(report, UdpReport)
    assert report.headline() == (
        "5 conversations, 7 packets, 4 unanswered; 2 findings, medium: 10.0.0.53:53 left 3 conversations unanswered (3 packets); "
        "refused by ICMP: 0."
    )
    assert report.errors[0].reason == "port unreachable" and report.silent[1].refused == 1
    assert report.top[0].answered and report.top[0].server_port == 53


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.unlike_tshark("noise")
def test_nothing_in_a_file_makes_it_crash(data: bytes, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    asked, answer = exchange(0, 5000, answered=2000)
    capture = as_fragments(
        Capture([asked, unreachable(asked), answer, at(5, ethernet(ip(ROUTER, CLIENT, 1, b"\3\3\0\0" + data)))]), 512
    )
    raw = bytearray(VARIANTS[chance.choice(list(VARIANTS))](capture, tmp_path / "f").read_bytes())
    for _ in range(chance.randrange(12)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    path = tmp_path / "f"
    path.write_bytes(bytes(raw[: chance.randrange(len(raw)) if chance.random() < 0.3 else len(raw)]))
    with contextlib.suppress(InvalidParameters):
        list(findings(dissect(str(path), ALL, 5)))
