from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import dpkt as library
import pytest
from lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    as_vlan,
    cut,
    ethernet,
    ip,
    merged,
    needs_tshark,
    tcp_talk,
    tshark,
    tshark_fields,
    udp,
    write_pcap,
)

from blocks.captures import CaptureStore
from tasks.core.models import ToolResult
from tasks.network.analyze import _records
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.capture._dpkt_summary import MOST_POINTS, SIZES, CaptureFacts, summarize
from tasks.network.capture.dpkt import CaptureSummary, dpkt

Perform = Callable[..., Awaitable[ToolResult]]
SECOND = 1_000_000_000
ARP = ethernet(bytes.fromhex("0001080006040001020000000002") + bytes(14), 0x0806)


def mixed(count: int = 40) -> list[Packet]:
    chance = random.Random(count)
    talks = [
        tcp_talk(
            [(True, bytes(chance.randrange(1, 3000))), (False, bytes(chance.randrange(1, 9000)))],
            client=f"10.0.0.{n % 5 + 1}",
            client_port=4000 + n,
            start_ns=NOON_NS + n * SECOND // 3,
        )
        for n in range(count)
    ]
    datagrams = [
        Packet(NOON_NS + n * SECOND, udp("2001:db8::1", 5000 + n % 3, "2001:db8::2", 53, bytes(n)))
        for n in range(count)
    ]
    pings = [
        Packet(NOON_NS + n * SECOND + 5, ethernet(ip("10.0.0.1", "10.0.0.9", 1, b"\x08" + bytes(63))))
        for n in range(count)
    ]
    return merged(*talks, datagrams, pings, [Packet(NOON_NS + 9, ARP)])


def read(packets: list[Packet], path: Path, top: int = 20) -> CaptureFacts:
    return summarize(str(write_pcap(Capture(packets), path)), ALL, top)


def named(facts: CaptureFacts) -> dict[str, int]:
    return {row["name"]: row["packets"] for row in facts.protocols}


def test_it_agrees_with_the_library_packet_by_packet(tmp_path: Path) -> None:
    packets = mixed()
    facts = read(packets, tmp_path / "a.pcap", top=200)
    protocols: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    sizes = 0
    for _, frame in library.pcap.Reader(io.BytesIO((tmp_path / "a.pcap").read_bytes())):
        sizes += len(frame)
        network = library.ethernet.Ethernet(frame).data
        if isinstance(network, (library.ip.IP, library.ip6.IP6)):
            protocols[library.ip.get_ip_proto_name(network.p)] += 1
            protocols[f"IPv{network.v}"] += 1
            sent[library.utils.inet_to_str(network.src)] += len(frame)
    assert facts.coverage["packets"] == len(packets) and facts.coverage["bytes"] == sizes
    assert named(facts) == {**protocols, "ARP": 1}
    assert {row["address"]: row["bytes_sent"] for row in facts.talkers if row["bytes_sent"]} == sent
    assert facts.addresses == len(facts.talkers) == 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_summary_does_not_depend_on_the_link_layer_or_the_file_format(variant: str, tmp_path: Path) -> None:
    packets = [packet for packet in mixed(8) if packet.data != ARP]
    plain, facts = (
        read(packets, tmp_path / "plain.pcap"),
        summarize(str(VARIANTS[variant](Capture(packets), tmp_path / variant)), ALL, 20),
    )
    assert facts.coverage["notes"] == []
    assert facts.conversation_counts == plain.conversation_counts and facts.flags == plain.flags
    mine, theirs = (
        {(row["client"], row["client_port"], row["stream"], row["packets"]) for row in each.conversations}
        for each in (facts, plain)
    )
    assert mine == theirs
    assert sum(packets for _, packets, _ in facts.rate) == len(packets)


@needs_tshark
def test_it_agrees_with_tshark(tmp_path: Path) -> None:
    facts = read(mixed(60), tmp_path / "a.pcap", top=200)
    rows = tshark_fields(tmp_path / "a.pcap", "", "frame.len", "tcp.flags", "tcp.stream", "udp.stream")
    assert facts.coverage["packets"] == len(rows) and facts.coverage["bytes"] == sum(int(row[0]) for row in rows)
    assert facts.conversation_counts["tcp"] == len({row[2] for row in rows if row[2]})
    assert facts.conversation_counts["udp"] == len({row[3] for row in rows if row[3]})
    flags = [int(row[1], 16) for row in rows if row[1]]
    assert facts.flags["syn"] == sum(flag & 2 != 0 for flag in flags) and facts.flags["fin"] == sum(
        flag & 1 for flag in flags
    )
    assert facts.flags["syn_ack"] == sum(flag & 18 == 18 for flag in flags)
    tree = tshark("-q", "-r", str(tmp_path / "a.pcap"), "-z", "plen,tree").splitlines()
    theirs = {
        int(line.split()[0].split("-")[0]): int(line.split()[1 if "-" in line.split()[0] else 3])
        for line in tree
        if line.strip()[:1].isdigit()
    }
    assert {row["from"]: row["packets"] for row in facts.sizes} == theirs and len(theirs) == len(SIZES)


def test_the_rate_has_every_stretch_of_time_and_not_too_many(tmp_path: Path) -> None:
    facts = read([Packet(NOON_NS + n * SECOND // 2, ARP) for n in (0, 1, 2, 6)], tmp_path / "short.pcap")
    assert facts.interval_ns == SECOND // 10
    assert len(facts.rate) == 31 and [(at - NOON_NS) * 10 // SECOND for at, many, _ in facts.rate if many] == [
        0,
        5,
        10,
        30,
    ]
    for step in (7 * SECOND, 3600 * SECOND, 40 * 86_400 * SECOND):
        facts = read(
            [Packet(n * step, ARP) for n in range(1, 1000) if n * step < 2**32 * SECOND], tmp_path / "long.pcap"
        )
        assert 1 <= len(facts.rate) <= 2 * MOST_POINTS
        assert sum(many for _, many, _ in facts.rate) == facts.coverage["packets"]


def test_a_capture_that_goes_on_makes_the_stretches_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_records, "LEAST_PIECE", 600)
    monkeypatch.setattr(_records, "MOST_PIECE", 600)
    packets = [Packet(NOON_NS + n * SECOND, ARP) for n in range(1000)]
    facts = read(packets, tmp_path / "long.pcap")
    assert facts.interval_ns == 5 * SECOND and {many for _, many, _ in facts.rate} == {5}
    assert facts.rate[0][0] == NOON_NS and len(facts.rate) == 200


def test_wrapped_and_unknown_traffic_is_named(tmp_path: Path) -> None:
    packets = [
        *mixed(2)[:6],
        Packet(NOON_NS + SECOND, ethernet(bytes(50), 0x88CC)),
        Packet(NOON_NS + SECOND, ethernet(bytes(40), 0x9999)),
    ]
    facts = summarize(str(write_pcap(as_vlan(Capture(packets)), tmp_path / "a.pcap")), ALL, 20)
    assert named(facts)["VLAN"] == 8 and named(facts)["LLDP"] == 1 and named(facts)["type 0x9999"] == 1


def test_a_cut_capture_says_so(tmp_path: Path) -> None:
    capture = cut(Capture(mixed(5)), 40)
    facts = summarize(str(write_pcap(capture, tmp_path / "a.pcap")), ALL, 20)
    assert facts.coverage["truncated"] == sum(len(packet.data) == 40 for packet in capture.packets if packet.wire != 40)
    assert any("the snap length was too small" in note for note in facts.coverage["notes"])
    assert facts.coverage["bytes"] == sum(len(packet.data) for packet in mixed(5))


def test_an_empty_capture_is_no_error(tmp_path: Path) -> None:
    facts = read([], tmp_path / "a.pcap")
    assert facts.coverage["packets"] == 0 and facts.rate == [] and facts.talkers == [] and facts.smallest is None


def test_only_what_was_asked_for_is_read(tmp_path: Path) -> None:
    path = str(write_pcap(Capture(mixed()), tmp_path / "a.pcap"))
    facts = summarize(path, Selection(addresses=("2001:db8::1",)), 20)
    assert facts.conversation_counts == {"ip": 1, "tcp": 0, "udp": 3} and facts.coverage["packets"] == 40


async def test_it_reads_a_capture_of_the_store(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("a.pcap", write_pcap(Capture(mixed()), tmp_path / "a").read_bytes())
    summary = await perform(dpkt, {"capture": "a.pcap", "top": 3}, store=store)
    assert isinstance(summary, CaptureSummary)
    assert (
        len(summary.talkers) == len(summary.conversations) == 3
        and summary.tcp_conversations == 40
        and summary.udp_conversations == 3
    )
    assert (
        summary.headline().endswith("10.0.0.2 has most of them")
        and "40 TCP and 3 UDP conversations" in summary.headline()
    )
    assert summary.first_at is not None and summary.first_at.isoformat() == "2024-05-01T12:00:00+00:00"
    assert summary.mean_bytes == round(summary.coverage.bytes / summary.coverage.packets, 1)
    assert len(summary.model_dump_json()) < 65_536
    nothing = await perform(dpkt, {"capture": "a.pcap", "port": 9}, store=store)
    assert isinstance(nothing, CaptureSummary) and nothing.coverage.packets == 0 and nothing.mean_bytes is None
