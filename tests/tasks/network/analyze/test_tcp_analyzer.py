from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.captures import (
    ACK,
    FIN,
    NOON_NS,
    PSH,
    RST,
    SYN,
    VARIANTS,
    Capture,
    Packet,
    as_fragments,
    merged,
    needs_tshark,
    recording,
    tcp,
    tcp_talk,
    tshark_conversations,
    tshark_fields,
    write_pcap,
    write_pcapng,
)
from lab.network import needs_lab

from blocks.captures import CaptureStore
from tasks.core.errors import InvalidParameters, NotFound
from tasks.core.models import ToolResult
from tasks.network.analyze import _records, _tcp_sequence
from tasks.network.analyze._conversations import Conversations
from tasks.network.analyze._frames import TCP, read_frames
from tasks.network.analyze._report import Severity
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._tcp import TcpFacts, dissect
from tasks.network.analyze._tcp_findings import findings
from tasks.network.analyze._tcp_handshake import Handshakes
from tasks.network.analyze._tcp_sequence import Event, Sequences
from tasks.network.analyze.tcp_analyzer import TcpReport, tcp_analyzer

Perform = Callable[..., Awaitable[ToolResult]]
WEB = [(True, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000))]
MOST_CONVERSATIONS = 10_000
NO_CHECKSUMS = ["tcp.check_checksum:FALSE"]


@pytest.fixture(scope="module", autouse=True)
def every_frame_is_kept() -> Iterator[None]:
    """All frames of an event, not only the first twenty: they are compared with tshark's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tcp_sequence, "MOST_EVIDENCE", 100_000)
        yield


def agree(path: Path) -> None:
    """Packets, bytes and conversations are those of tshark."""
    facts = dissect(str(path), ALL, MOST_CONVERSATIONS)
    rows = tshark_fields(path, "tcp && !icmp && !icmpv6", "frame.len", "tcp.len", "tcp.stream")
    assert facts.packets == len(rows) and facts.bytes == sum(int(row[0]) for row in rows)
    assert facts.payload_bytes == sum(int(row[1]) for row in rows)
    assert facts.conversations == len({row[2] for row in rows})
    ends = [(f"{row['client']}:{row['client_port']}", f"{row['server']}:{row['server_port']}") for row in facts.rows]
    mine = sorted((*sorted(pair), row["packets"]) for pair, row in zip(ends, facts.rows, strict=True))
    assert mine == sorted((*sorted([a, b]), to + back) for a, b, to, back in tshark_conversations(path, "tcp"))


def codes(facts: TcpFacts) -> set[str]:
    return {finding.code for finding in findings(facts)}


def read(packets: Sequence[Packet], path: Path, top: int = 20) -> TcpFacts:
    return dissect(str(write_pcap(Capture(packets), path)), ALL, top)


def altered(packet: Packet, *, at: int, value: bytes, later_ns: int = 0) -> Packet:
    data = bytearray(packet.data)
    data[at : at + len(value)] = value
    return Packet(packet.time_ns + later_ns, bytes(data))


# --- what it counts ---------------------------------------------------------------------------------------------------


def test_a_clean_conversation_has_nothing_to_report(tmp_path: Path) -> None:
    facts = read(tcp_talk(WEB), tmp_path / "clean.pcap")
    assert facts.conversations == 1 and not any(facts.events.values()) and not codes(facts)
    assert facts.endings["closed"] == 1 and facts.packets == facts.coverage["analyzed"] == len(tcp_talk(WEB))
    (row,) = facts.rows
    assert (row["client"], row["client_port"], row["server"], row["server_port"]) == (
        "10.0.0.1",
        50_000,
        "10.0.0.2",
        80,
    )
    assert (row["sent"], row["received"]) == (len(WEB[0][1]), len(WEB[1][1]))
    assert row["handshake_ns"] == 2_000_000 and row["network_rtt_ns"] == 1_000_000
    assert row["received_bps"] == pytest.approx(8 * row["received"] / row["seconds"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_report_does_not_depend_on_the_link_layer_or_the_file_format(variant: str, tmp_path: Path) -> None:
    talk = merged(tcp_talk(WEB), tcp_talk(WEB, client="2001:db8::1", server="2001:db8::2", start_ns=NOON_NS + 500))
    talk.append(altered(talk[-1], at=0, value=b"", later_ns=1_000_000))
    plain = read(talk, tmp_path / "plain.pcap")
    facts = dissect(str(VARIANTS[variant](Capture(talk), tmp_path / "wrapped")), ALL, 20)
    assert facts.coverage["notes"] == [] and facts.coverage["unreadable"] == 0
    for name in ("packets", "payload_bytes", "conversations", "events", "endings"):
        assert getattr(facts, name) == getattr(plain, name), name
    # Times within a microsecond: that is what pcap keeps.
    assert facts.handshakes == plain.handshakes


def test_fragmented_segments_count_once_put_together(tmp_path: Path) -> None:
    capture = as_fragments(Capture(tcp_talk(WEB)), 512)
    facts = dissect(str(write_pcap(capture, tmp_path / "f.pcap")), ALL, 20)
    assert len(capture.packets) > len(tcp_talk(WEB))
    assert facts.packets == len(tcp_talk(WEB)) and facts.payload_bytes == len(WEB[0][1]) + len(WEB[1][1])
    assert not any(facts.events.values())


def test_loss_is_seen_and_the_conversation_named(tmp_path: Path) -> None:
    talk = tcp_talk([(False, bytes(200_000))])
    data = [packet for packet in talk if len(packet.data) > 1000]
    again = [altered(packet, at=0, value=b"", later_ns=300_000_000) for packet in data[::12]]
    facts = read(merged(talk, again), tmp_path / "loss.pcap")
    assert facts.events["spurious_retransmission"] + facts.events["retransmission"] == len(again)
    (finding,) = [finding for finding in findings(facts) if finding.code == "tcp.retransmissions"]
    assert finding.severity is Severity.HIGH and finding.count == len(again) and finding.frames
    assert "10.0.0.1:50000 to 10.0.0.2:80" in finding.what


def test_a_closed_window_is_blamed_on_who_closed_it(tmp_path: Path) -> None:
    talk = tcp_talk([(False, bytes(9000))])
    acknowledgement = talk[-4]
    assert len(acknowledgement.data) == 54
    facts = read(merged(talk, [altered(acknowledgement, at=48, value=b"\0\0", later_ns=1000)]), tmp_path / "w.pcap")
    (finding,) = [finding for finding in findings(facts) if finding.code == "tcp.zero-window"]
    assert facts.events["zero_window"] == 1 and "10.0.0.1 said 1 time that" in finding.what and len(finding.frames) == 1


def syn(source: str, port: int, target: str, target_port: int, at: int, flags: int = SYN) -> Packet:
    return Packet(NOON_NS + at * 1_000_000, tcp(source, port, target, target_port, flags=flags, seq=at))


def refusal(source: str, port: int, target: str, target_port: int, at: int) -> Packet:
    return Packet(NOON_NS + at * 1_000_000 + 1000, tcp(target, target_port, source, port, flags=RST | ACK, ack=at + 1))


def test_a_port_scan_is_seen_and_not_held_against_the_server(tmp_path: Path) -> None:
    knocks = [
        (syn("10.9.9.9", 40_000 + n, "10.0.0.2", n, n), refusal("10.9.9.9", 40_000 + n, "10.0.0.2", n, n))
        for n in range(1, 41)
    ]
    facts = read(list(chain(*knocks)), tmp_path / "scan.pcap")
    (scan,) = facts.scans
    assert (scan["kind"], scan["client"], scan["target"], scan["count"]) == ("ports", "10.9.9.9", "10.0.0.2", 40)
    assert scan["frames"][:3] == [1, 3, 5] and facts.endings["refused"] == 40
    assert codes(facts) == {"tcp.port-scan"}


def test_a_sweep_over_hosts_is_seen(tmp_path: Path) -> None:
    facts = read([syn("10.9.9.9", 40_000, f"10.0.0.{n}", 445, n) for n in range(1, 31)], tmp_path / "sweep.pcap")
    assert facts.endings["unanswered"] == 30 and [scan["kind"] for scan in facts.scans] == ["hosts"]
    assert codes(facts) == {"tcp.host-sweep"}


@pytest.mark.parametrize("flags", [0, FIN, FIN | PSH | 32])
def test_scans_without_a_syn_are_seen(flags: int, tmp_path: Path) -> None:
    facts = read([syn("10.9.9.9", 40_000, "10.0.0.2", n, n, flags) for n in range(1, 31)], tmp_path / "stealth.pcap")
    assert facts.endings["stray"] == 30 and codes(facts) == {"tcp.stealth-scan"}


def test_a_syn_flood_is_seen(tmp_path: Path) -> None:
    facts = read(
        [syn(f"10.1.{n // 200}.{n % 200 + 1}", 1000 + n, "10.0.0.2", 80, n) for n in range(400)],
        tmp_path / "flood.pcap",
    )
    (flood,) = facts.floods
    assert (flood["server"], flood["port"], flood["count"], flood["sources"]) == ("10.0.0.2", 80, 400, 400)
    assert "tcp.syn-flood" in codes(facts)


def test_ends_are_told_apart(tmp_path: Path) -> None:
    opened = tcp_talk([], farewell="none", client_port=1003)
    packets = merged(
        tcp_talk(WEB, client_port=1000),
        tcp_talk(WEB, client_port=1001, farewell="rst"),
        tcp_talk(WEB, client_port=1002, farewell="none"),
        opened[:2],
        tcp_talk([], farewell="none", client_port=1004)[:1],
        [syn("10.0.0.1", 1005, "10.0.0.2", 81, 3), refusal("10.0.0.1", 1005, "10.0.0.2", 81, 3)],
    )
    assert read(packets, tmp_path / "ends.pcap").endings == {
        "open": 1, "closed": 1, "reset": 1, "refused": 1, "unanswered": 1, "half_open": 1, "stray": 0,
    }  # fmt: skip


def test_ports_used_again_make_another_conversation(tmp_path: Path) -> None:
    talks = [tcp_talk(WEB, client_seq=1000 * n, start_ns=NOON_NS + n * 10**9) for n in range(1, 4)]
    facts = read(merged(*talks), tmp_path / "again.pcap")
    assert facts.conversations == 3 and facts.endings["closed"] == 3 and not any(facts.events.values())


def test_only_what_was_asked_for_is_read(tmp_path: Path) -> None:
    talks = merged(tcp_talk(WEB), tcp_talk(WEB, client="10.0.0.7", server_port=8080, start_ns=NOON_NS + 10**9))
    path = str(write_pcap(Capture(talks), tmp_path / "two.pcap"))
    half = len(talks) // 2
    assert dissect(path, Selection(addresses=("10.0.0.7",)), 5).packets == half
    assert dissect(path, Selection(port=8080), 5).rows[0]["client"] == "10.0.0.7"
    assert dissect(path, Selection(start_ns=NOON_NS + 10**9), 5).coverage["packets"] == half
    assert dissect(path, Selection(end_ns=NOON_NS + 10**9), 5).rows[0]["client"] == "10.0.0.1"
    assert dissect(path, Selection(addresses=("10.0.0.8",)), 5).conversations == 0


# --- agreement with tshark ----------------------------------------------------------------------------------------------

FIELDS = {event: f"tcp.analysis.{event.name.lower()}" for event in Event}


def ours(path: Path) -> tuple[dict[int, int], dict[Event, list[int]]]:
    """Each frame's conversation, and the frames of each event."""
    conversations = Conversations(TCP)
    handshakes, sequences = Handshakes(conversations), Sequences(conversations)
    streams: dict[int, int] = {}
    for frames in read_frames(path):
        assigned = conversations.assign(frames)
        streams.update(zip(frames.number[assigned.rows].tolist(), assigned.ids.tolist(), strict=True))
        handshakes.add(frames, assigned)
        sequences.add(frames, assigned)
    found: dict[Event, list[int]] = {event: [] for event in Event}
    for evidence in sequences.evidence.values():
        for event, numbers in evidence.items():
            found[event] += numbers
    # tshark calls the fast and the spurious ones retransmissions as well.
    found[Event.RETRANSMISSION] += found[Event.FAST_RETRANSMISSION] + found[Event.SPURIOUS_RETRANSMISSION]
    return streams, {event: sorted(numbers) for event, numbers in found.items()}


def theirs(path: Path) -> tuple[dict[int, int], dict[Event, list[int]]]:
    rows = tshark_fields(path, "tcp", "frame.number", "tcp.stream", *FIELDS.values(), options=NO_CHECKSUMS)
    streams = {int(row[0]): int(row[1]) for row in rows}
    return streams, {event: [int(row[0]) for row in rows if row[2 + event]] for event in Event}


def troubled_talk(chance: random.Random, port: int) -> list[Packet]:
    """A conversation as networks treat them: packets lost, doubled, sent again late, overtaken; windows that close."""
    gap = chance.choice([100_000, 1_000_000, 5_000_000, 40_000_000])
    talk = tcp_talk(
        [(chance.random() < 0.4, bytes(chance.randrange(1, 4000))) for _ in range(chance.randrange(1, 8))],
        gap_ns=gap,
        farewell=chance.choice(["fin", "rst", "none"]),
        handshake=chance.random() < 0.8,
        client_port=port,
        client_seq=chance.choice([1000, 2**32 - 700]),
        segment_size=chance.choice([3, 500, 1400]),
        start_ns=NOON_NS + chance.randrange(10**6) * 1000,
    )[:60]
    opening = sum(packet.data[47] & SYN for packet in talk)
    packets: list[Packet] = []
    for place, packet in enumerate(talk):
        dice = chance.random()
        if place <= 2 * opening // SYN:  # a handshake sent again later is where tshark begins anew
            packets.append(packet)
        elif dice < 0.06:
            continue
        elif dice < 0.14:
            packets += [packet, Packet(packet.time_ns + chance.choice([1000, 10_000_000, 200_000_000]), packet.data)]
        elif dice < 0.20:
            packets.append(Packet(packet.time_ns + chance.choice([gap * 5 // 2, 4_000_000]), packet.data))
        elif dice < 0.24:
            packets += [Packet(packet.time_ns + 1000 * again, packet.data) for again in range(4)]
        elif dice < 0.28:
            packets += [packet, altered(packet, at=48, value=b"\0\0", later_ns=5000)]
        else:
            packets.append(packet)
    return sorted(packets, key=lambda packet: packet.time_ns)


@needs_tshark
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_events_are_those_of_tshark(seed: int, tmp_path: Path) -> None:
    """Frame by frame, but for two oddities of Wireshark 4.0.

    An acknowledgement beyond what was captured is an event to us each time it is a new one; there it depends on a counter of
    duplicate acknowledgements, which it sets to -1, whereupon later retransmissions count as fast ones.
    """
    chance = random.Random(seed)
    path = write_pcap(Capture(merged(*(troubled_talk(chance, 5000 + n) for n in range(4)))), tmp_path / "events.pcap")
    (our_streams, our_events), (their_streams, their_events) = ours(path), theirs(path)
    assert our_streams == their_streams
    lost = {their_streams[frame] for frame in our_events[Event.ACK_LOST_SEGMENT] + their_events[Event.ACK_LOST_SEGMENT]}
    for event in Event:
        if event is Event.ACK_LOST_SEGMENT:
            continue
        mine, other = (
            [frame for frame in events[event] if their_streams[frame] not in lost]
            for events in (our_events, their_events)
        )
        assert mine == other, event.name


@needs_tshark
def test_conversations_packets_and_bytes_are_those_of_tshark(tmp_path: Path) -> None:
    chance = random.Random(7)
    packets = merged(
        *(troubled_talk(chance, 6000 + n) for n in range(10)),
        tcp_talk(WEB, client="2001:db8::1", server="2001:db8::2"),
        *(tcp_talk(WEB, client_seq=n * 77, start_ns=NOON_NS + n * 10**8) for n in range(1, 4)),
    )
    for name in ("plain", "gre", "qinq", "pcapng-interfaces"):
        path = VARIANTS[name](Capture(packets), tmp_path / name)
        agree(path)


@needs_tshark
def test_handshake_times_are_those_of_tshark(tmp_path: Path) -> None:
    talks = [tcp_talk(WEB, client_port=1000 + n, gap_ns=n * 700_000) for n in range(1, 20)]
    path = write_pcap(Capture(merged(*talks)), tmp_path / "rtt.pcap", nanosecond=True)
    rows = tshark_fields(path, "tcp.analysis.initial_rtt", "tcp.stream", "tcp.analysis.initial_rtt")
    times = {int(stream): round(float(time) * 1e9) for stream, time in rows}
    assert {row["stream"]: row["handshake_ns"] for row in dissect(str(path), ALL, 100).rows} == times


def test_pieces_do_not_change_what_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(11)
    packets = merged(*(troubled_talk(chance, 5000 + n) for n in range(30)))
    path = write_pcap(Capture(packets), tmp_path / "pieces.pcap")
    whole = ours(path)
    for size in (3000, 20_000):
        monkeypatch.setattr(_records, "LEAST_PIECE", size)
        monkeypatch.setattr(_records, "MOST_PIECE", size)
        assert ours(path) == whole
    monkeypatch.setattr(_tcp_sequence._Piece, "odd", lambda piece: piece.assigned.segments >= 0)
    assert ours(path) == whole, "following every packet says the same as recognising the quiet ones at once"


@pytest.mark.unlike_tshark("more conversations than are kept")
def test_memory_of_conversations_is_bounded_and_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conversations, "__init__", _few(Conversations.__init__))
    facts = read(merged(*(tcp_talk(WEB, client_port=2000 + n) for n in range(10))), tmp_path / "many.pcap")
    each = len(tcp_talk(WEB))
    assert facts.conversations == 4
    assert facts.coverage["notes"] == [f"{6 * each} packets belong to conversations beyond the first 4."]


def _few(init: Any) -> Any:
    def replacement(self: Any, protocol: int, **others: Any) -> None:
        init(self, protocol, **{**others, "most": 4})

    return replacement


# --- the tool ----------------------------------------------------------------------------------------------------------


async def test_it_reads_a_capture_of_the_store(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("a.pcap", write_pcap(Capture(tcp_talk(WEB)), tmp_path / "a").read_bytes())
    report = await perform(tcp_analyzer, {"capture": "a.pcap"}, store=store)
    assert isinstance(report, TcpReport) and report.capture.name == "a.pcap"
    assert report.headline() == "1 conversation, 13 packets, 0 sent again; nothing to report"
    assert report.top[0].ending == "closed" and report.top[0].started_at.isoformat() == "2024-05-01T12:00:00+00:00"
    assert report.handshakes.server.p50_ms == 1.0
    none = await perform(tcp_analyzer, {"capture": "a.pcap", "host": "10.0.0.99"}, store=store)
    assert isinstance(none, TcpReport) and none.conversations == 0 and none.coverage.packets == 0


async def test_what_is_no_capture_is_refused(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("notes.txt", b"not a capture at all, but long enough to be one")
    with pytest.raises(InvalidParameters, match="not a capture"):
        await perform(tcp_analyzer, {"capture": "notes.txt"}, store=store)
    with pytest.raises(NotFound):
        await perform(tcp_analyzer, {"capture": "nothing.pcap"}, store=store)
    with pytest.raises(InvalidParameters, match="start must be before end"):
        await perform(
            tcp_analyzer, {"capture": "a", "start": "2024-05-01T12:00:00Z", "end": "2024-05-01T11:00:00Z"}, store=store
        )


@pytest.mark.lab
@needs_lab
@needs_tshark
async def test_real_traffic_is_counted_as_tshark_counts_it(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline() + bytes(200_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = tmp_path / "real.pcap"
    async with recording(path, f"tcp port {port} or tcp port 1"):
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            await reader.read()
            writer.close()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", 1)
    server.close()
    facts = dissect(str(path), ALL, 20)
    assert facts.conversations == 8 and facts.endings["refused"] == 3
    assert codes(facts) >= {"tcp.refused"}
    (our_streams, our_events), (their_streams, their_events) = ours(path), theirs(path)
    assert our_streams == their_streams and our_events == their_events
    assert facts.packets == len(tshark_fields(path, "tcp", "frame.number"))


@given(
    data=st.binary(max_size=400), kind=st.sampled_from(["junk", "frames", "mutated"]), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.unlike_tshark("noise")
def test_nothing_in_a_file_makes_it_crash(data: bytes, kind: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "fuzz.pcap"
    if kind == "junk":
        path.write_bytes(chance.choice([b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a"]) + data)
    elif kind == "frames":
        link = chance.choice([0, 1, 9, 51, 101, 113, 276, 105, 147])
        write_pcap(Capture([Packet(NOON_NS, data[at : at + 90]) for at in range(0, len(data), 90)], link), path)
    else:
        capture = Capture(troubled_talk(chance, 5000)[:20])
        variant = chance.choice(list(VARIANTS))
        raw = bytearray(VARIANTS[variant](capture, path).read_bytes())
        for _ in range(chance.randrange(1, 12)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(bytes(raw[: chance.randrange(len(raw))]))
    try:
        facts = dissect(str(path), ALL, 5)
    except InvalidParameters:
        return
    assert facts.packets <= facts.coverage["packets"]
    list(findings(facts))


def test_several_interfaces_with_their_own_clocks_make_one_conversation(tmp_path: Path) -> None:
    talk = tcp_talk(WEB)
    path = write_pcapng(
        [Capture(talk[::2]), Capture(talk[1::2])], tmp_path / "i.pcapng", resolutions=(9, 0x80 | 30), big_endian=True
    )
    facts = dissect(str(path), ALL, 5)
    assert facts.conversations == 1 and not any(facts.events.values())
    assert struct.calcsize("q") == 8 and facts.rows[0]["start_ns"] == NOON_NS
