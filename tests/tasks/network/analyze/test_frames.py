from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.captures import (
    NOON_NS,
    RAW,
    VARIANTS,
    Capture,
    Packet,
    as_cooked_2,
    as_fragments,
    as_geneve,
    as_geneve_ip,
    as_gre,
    as_gtp,
    as_ip_in_ip,
    as_qinq,
    as_raw_ip,
    as_vlan,
    as_vxlan,
    cut,
    ethernet,
    ip,
    merged,
    needs_tshark,
    tcp_talk,
    tshark_fields,
    udp,
    write_pcap,
    write_pcapng,
)

from tasks.core.errors import InvalidParameters, Unsupported
from tasks.network.analyze import _records
from tasks.network.analyze._frames import Counts, Frames, read_frames
from tasks.network.analyze._reassembly import MOST_DATAGRAMS, Fragments
from tasks.network.analyze._selection import ALL

TALK = tcp_talk([(True, b"hello"), (False, bytes(range(256)) * 10)])
TALK_6 = tcp_talk(
    [(True, b"hello"), (False, bytes(range(256)) * 10)],
    client="2001:db8::1",
    server="2001:db8::2",
    start_ns=NOON_NS + 500_000,
)


def in_gre(flags: int, kind: int, head: bytes, *, begin: int = 0) -> Callable[[Capture, Path], Path]:
    """Writes what is in GRE of this kind behind a header; `begin` leaves out as much of each frame."""
    options = bytes(4 * (flags & 0x3000).bit_count())

    def write(capture: Capture, path: Path) -> Path:
        packets = capture.mapped(
            lambda frame: ethernet(
                ip("192.0.2.1", "192.0.2.2", 47, struct.pack(">HH", flags, kind) + options + head + frame[begin:])
            )
        )
        return write_pcap(packets, path)

    return write


MIRRORED = {
    "erspan-1": in_gre(0, 0x88BE, b""),
    "erspan-1-key": in_gre(0x2000, 0x88BE, b""),
    "erspan-2": in_gre(0x1000, 0x88BE, struct.pack(">II", 1 << 28 | 5 << 16 | 3, 7)),
    "erspan-3": in_gre(0x1000, 0x22EB, struct.pack(">IIHH", 2 << 28 | 5 << 16 | 3, 7, 0, 0)),
    "erspan-3-platform": in_gre(0x1000, 0x22EB, struct.pack(">IIHHQ", 2 << 28 | 5 << 16 | 3, 7, 0, 1, 3 << 58)),
    "gre-mpls": in_gre(0, 0x8847, struct.pack(">II", 100 << 12 | 64, 200 << 12 | 0x100 | 64), begin=14),
    "gre-mpls-upstream": in_gre(0x2000, 0x8848, struct.pack(">I", 100 << 12 | 0x100 | 64), begin=14),
}
EVERYWHERE = VARIANTS | MIRRORED


def read(path: Path) -> tuple[list[Frames], Counts]:
    counts = Counts()
    return list(read_frames(path, ALL, counts)), counts


def rows_of(path: Path) -> list[tuple[object, ...]]:
    """Number, time, lengths, addresses, ports, TCP's numbers and the payload of every frame with TCP or UDP."""
    found: list[tuple[object, ...]] = []
    for frames in read(path)[0]:
        for row in np.flatnonzero(frames.source_port >= 0).tolist():
            numbers = (
                frames.number,
                frames.time_ns,
                frames.source_port,
                frames.destination_port,
                frames.flags,
                frames.seq,
                frames.ack,
            )
            found.append(
                (
                    *(int(column[row]) for column in numbers),
                    frames.source(row),
                    frames.destination(row),
                    frames.payload_of(row),
                )
            )
    return found


@pytest.mark.parametrize("variant", EVERYWHERE)
def test_headers_are_the_same_in_every_kind_of_capture(variant: str, tmp_path: Path) -> None:
    packets = merged(TALK, TALK_6, [Packet(NOON_NS + 10**9, udp("10.0.0.1", 9, "10.0.0.2", 53, b"question"))])
    plain, wrapped = (
        [(row[0], int(str(row[1])) // 1000, *row[2:]) for row in rows_of(path)]  # microseconds are what pcap keeps
        for path in (
            write_pcap(Capture(packets), tmp_path / "plain"),
            EVERYWHERE[variant](Capture(packets), tmp_path / variant),
        )
    )
    assert plain == wrapped


@needs_tshark
@pytest.mark.parametrize("variant", EVERYWHERE)
def test_headers_are_those_tshark_reads(variant: str, tmp_path: Path) -> None:
    path = EVERYWHERE[variant](Capture(merged(TALK, TALK_6)), tmp_path / variant)
    names = (
        "frame.number",
        "frame.time_epoch",
        "tcp.srcport",
        "tcp.dstport",
        "tcp.flags",
        "tcp.seq_raw",
        "tcp.ack_raw",
    )
    theirs = [
        (int(number), int(time.replace(".", "")), int(source), int(target), int(flags, 16), int(seq), int(ack))
        for number, time, source, target, flags, seq, ack in tshark_fields(path, "tcp", *names)
    ]
    assert [row[:7] for row in rows_of(path)] == theirs


@pytest.mark.parametrize("wrap", [as_vlan, as_gre, as_ip_in_ip, as_raw_ip, as_cooked_2])
@pytest.mark.parametrize("reverse", [False, True])
def test_fragments_are_put_together_whatever_carries_them(wrap: object, reverse: bool, tmp_path: Path) -> None:
    datagrams = [
        Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, bytes(range(250)) * 8)),
        Packet(NOON_NS + 10**6, udp("2001:db8::1", 9, "2001:db8::2", 53, bytes(range(250)) * 8)),
    ]
    capture = wrap(as_fragments(Capture(datagrams), 512, reverse=reverse))  # type: ignore[operator]
    rows = rows_of(write_pcap(capture, tmp_path / "f.pcap"))
    assert [row[-1] for row in rows] == [bytes(range(250)) * 8] * 2
    assert [row[0] for row in rows] == [4, 8], "the frame that completes a datagram stands for it"


def test_tunnelled_fragments_of_fragments_are_put_together(tmp_path: Path) -> None:
    inner = as_fragments(Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, bytes(4000)))]), 1480)
    outer = as_fragments(as_gre(inner), 512)
    (row,) = rows_of(write_pcap(as_qinq(outer), tmp_path / "f.pcap"))
    assert row[-1] == bytes(4000)


def test_a_missing_fragment_is_noted_and_memory_stays_bounded(tmp_path: Path) -> None:
    capture = as_fragments(Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, bytes(2000)))]), 512)
    path = write_pcap(Capture(capture.packets[:-1]), tmp_path / "f.pcap")
    assert rows_of(path) == [] and read(path)[1].notes == ["1 fragmented datagram is not whole in the capture."]
    fragments = Fragments()
    for number in range(MOST_DATAGRAMS + 500):
        assert fragments.add((number,), 0, True, bytes(1400)) is None
    assert len(fragments.pending) <= MOST_DATAGRAMS and fragments.given_up == 500
    assert fragments.size == sum(entry.size for entry in fragments.pending.values())


def test_fragments_that_overlap_do_not_hide_a_hole() -> None:
    fragments = Fragments()
    assert fragments.add((1,), 0, True, bytes(16)) is None
    assert fragments.add((1,), 8, True, bytes(24)) is None
    assert fragments.add((1,), 40, False, bytes(8)) is None
    assert fragments.add((1,), 8, True, bytes(32)) == bytes(48)
    assert not fragments.pending and fragments.size == 0


@given(data=st.binary(min_size=1, max_size=400), cuts=st.lists(st.integers(1, 50), max_size=6), seed=st.integers(0, 99))
def test_fragments_in_any_order_and_overlapping_make_the_datagram(data: bytes, cuts: list[int], seed: int) -> None:
    edges = sorted({0, len(data), *(8 * edge for edge in cuts if 8 * edge < len(data))})
    # Each reaches 8 bytes into the next one.
    parts = [(a, data[a : b + 8], b + 8 < len(data)) for a, b in itertools.pairwise(edges)]
    random.Random(seed).shuffle(parts)
    fragments, whole = Fragments(), []
    for offset, part, more in parts:
        if (done := fragments.add((1,), offset, more, part)) is not None:
            whole.append(done)
    assert data in whole


def test_a_cut_file_is_read_to_where_it_was_cut(tmp_path: Path) -> None:
    data = write_pcap(Capture(TALK), tmp_path / "a.pcap").read_bytes()
    for length in range(24, len(data), 37):
        (tmp_path / "b.pcap").write_bytes(data[:length])
        frames, counts = read(tmp_path / "b.pcap")
        whole = sum(len(piece) for piece in frames)
        assert counts.packets == whole <= len(TALK)
        assert not counts.notes or counts.notes == [
            f"The file ends within packet {whole + 1}, which was left out: it was cut off while being written."
        ]


def test_a_damaged_length_ends_the_reading_and_says_where(tmp_path: Path) -> None:
    data = bytearray(write_pcap(Capture(TALK), tmp_path / "a.pcap").read_bytes())
    second = 24 + 16 + len(TALK[0].data)
    data[second + 8 : second + 12] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.pcap").write_bytes(data)
    _, counts = read(tmp_path / "a.pcap")
    assert counts.packets == 1
    assert counts.notes == [
        f"The file is damaged after packet 1 (byte {second}): the next one claims {0x7FFFFFFF} bytes."
    ]


def test_a_damaged_block_ends_the_reading_and_says_where(tmp_path: Path) -> None:
    data = bytearray(write_pcapng([Capture(TALK)], tmp_path / "a.pcapng").read_bytes())
    data[28 + 4 : 28 + 8] = b"\x05\0\0\0"
    (tmp_path / "a.pcapng").write_bytes(data)
    assert read(tmp_path / "a.pcapng")[1].notes == [
        "The file is damaged after packet 0 (byte 28): the next block claims 5 bytes."
    ]


def test_packets_of_an_unknown_interface_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_pcapng([Capture(TALK)], tmp_path / "a.pcapng")
    data = path.read_bytes()
    body = struct.pack("<IIIII", 7, 0, 0, 20, 20) + bytes(20)
    path.write_bytes(data + struct.pack("<II", 6, 52) + body + struct.pack("<I", 52))
    _, counts = read(path)
    assert counts.packets == len(TALK) and counts.notes == [
        "1 packet names an interface that the file does not describe."
    ]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", InvalidParameters, "empty"),
        (b"\xd4\xc3\xb2\xa1\x02", InvalidParameters, "ends within its header"),
        (b"%PDF-1.7 something", InvalidParameters, "not a capture"),
        (b"\x1f\x8b\x08\x00rest", Unsupported, "gzip"),
        (b"\x34\xcd\xb2\xa1" + bytes(20), Unsupported, "modified pcap"),
    ],
)
def test_what_cannot_be_read_is_said(content: bytes, error: type[Exception], words: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(error, match=words):
        read(tmp_path / "x")


def test_link_types_that_are_not_read_are_named(tmp_path: Path) -> None:
    _, counts = read(write_pcap(Capture(TALK, 105), tmp_path / "a.pcap"))
    assert counts.unreadable == counts.packets == len(TALK)
    assert counts.notes == [f"{len(TALK)} packets are of link type 105 (IEEE 802.11), whose headers are not read here."]


def test_what_is_hidden_or_not_opened_is_noted(tmp_path: Path) -> None:
    packets = [
        Packet(NOON_NS, udp("10.0.0.1", 5000, "10.0.0.2", 4789, bytes(60))),
        Packet(NOON_NS, ethernet(ip("10.0.0.1", "10.0.0.2", 50, bytes(60)))),
        Packet(NOON_NS, ethernet(b"\x45\x00\x00\x05" + bytes(30), 0x0800)),
    ]
    assert read(write_pcap(Capture(packets), tmp_path / "a.pcap"))[1].notes == [
        "1 packet has headers that contradict themselves.",
        "1 packet is encrypted by IPsec; what is inside is not known.",
        "1 packet to the port of VXLAN tunnels could not be opened: what is inside is no IP.",
    ]


def test_endless_wrapping_ends(tmp_path: Path) -> None:
    capture = Capture([Packet(NOON_NS, ethernet(ip("10.0.0.1", "10.0.0.2", 17, bytes(30))))])
    tags, tunnels = capture, as_raw_ip(capture)
    for _ in range(30):
        tags = as_vlan(tags)
        tunnels = tunnels.mapped(lambda packet: ip("10.0.0.1", "10.0.0.2", 4, packet), RAW)
    for deep in (tags, tunnels):
        _, counts = read(write_pcap(deep, tmp_path / "a.pcap"))
        assert counts.notes == ["1 packet has more layers than are read here."] and counts.unreadable == 1


def test_a_snap_length_leaves_the_lengths_as_they_were_on_the_wire(tmp_path: Path) -> None:
    frames, counts = read(write_pcap(cut(Capture(TALK), 60), tmp_path / "a.pcap"))
    (piece,) = frames
    longest = int(piece.payload_wire.max())
    row = int(np.argmax(piece.payload_wire))
    assert (
        longest == 1400 and piece.payload_length[row] == 6 and counts.bytes == sum(len(packet.data) for packet in TALK)
    )
    assert counts.truncated == sum(len(packet.data) > 60 for packet in TALK)


def test_pieces_of_any_size_give_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packets = merged(TALK, TALK_6)
    pcap, pcapng = (
        write_pcap(Capture(packets), tmp_path / "a.pcap"),
        write_pcapng([Capture(packets)], tmp_path / "a.pcapng", sections=4),
    )
    whole = rows_of(pcap)
    for size in (2000, 4096, 10_001):
        monkeypatch.setattr(_records, "LEAST_PIECE", size)
        monkeypatch.setattr(_records, "MOST_PIECE", size)
        assert rows_of(pcap) == whole == rows_of(pcapng)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_captures_are_read_without_a_crash(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path = tmp_path / "f"
    capture = (
        as_fragments(Capture(merged(TALK, TALK_6)), 512) if chance.random() < 0.5 else Capture(merged(TALK, TALK_6))
    )
    raw = bytearray(VARIANTS[chance.choice(list(VARIANTS))](capture, path).read_bytes())
    for _ in range(chance.randrange(1, 40)):
        at = chance.randrange(len(raw))
        raw[at] = chance.choice([0, 255, raw[at] ^ 1 << chance.randrange(8)])
    path.write_bytes(bytes(raw))
    try:
        frames, counts = read(path)
    except (InvalidParameters, Unsupported):
        return
    for piece in frames:
        assert (
            (piece.payload >= 0).all()
            and (piece.payload_length >= 0).all()
            and (piece.payload_length <= piece.payload_wire).all()
        )
        assert (piece.payload + piece.payload_length <= len(piece.data)).all()
    assert counts.packets <= len(capture.packets) * 2


@pytest.mark.parametrize("wrap", [as_vxlan, as_geneve, as_gtp])
def test_tunnels_in_udp_are_opened_whole_or_stay_udp(wrap: Callable[[Capture], Capture], tmp_path: Path) -> None:
    inner = Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, b"question"))])
    (whole,) = wrap(inner).packets
    port = {as_vxlan: 4789, as_geneve: 6081, as_gtp: 2152}[wrap]
    for size in range(42, len(whole.data)):
        frames, counts = read(
            write_pcap(Capture([Packet(NOON_NS, whole.data[:size], len(whole.data))]), tmp_path / "a.pcap")
        )
        (piece,) = frames
        assert int(piece.destination_port[0]) in (-1, 53, port) and counts.packets == 1


def test_a_tunnels_packet_without_ip_inside_is_the_tunnels_own(tmp_path: Path) -> None:
    arp = ethernet(bytes(28), 0x0806)
    for port, head in (
        (4789, b"\x08\0\0\0\0\0\x07\0"),
        (6081, b"\0\0\x65\x58\0\0\x07\0"),
        (2152, b"\x32\x02\0\x2a\0\0\0\0"),
    ):
        (row,) = rows_of(
            write_pcap(Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", port, head + arp))]), tmp_path / "b")
        )
        assert row[2:4] == (9, port) and row[-1] == head + arp


@pytest.mark.parametrize("variant", MIRRORED)
def test_what_gre_carries_may_end_anywhere(variant: str, tmp_path: Path) -> None:
    inner = Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, b"question"))])
    whole = MIRRORED[variant](inner, tmp_path / "whole.pcap").read_bytes()[40:]
    said = whole[:14], whole[14:]
    for size in range(35, len(whole)):
        for data, wire in ((whole[:size], len(whole)), (_shortened(*said, size - 14), size)):
            frames, counts = read(write_pcap(Capture([Packet(NOON_NS, data, wire)]), tmp_path / "a.pcap"))
            (piece,) = frames
            assert int(piece.destination_port[0]) in (-1, 53) and counts.packets == 1


def _shortened(link: bytes, datagram: bytes, size: int) -> bytes:
    """A whole frame whose IP packet has so many bytes."""
    return link + datagram[:2] + struct.pack(">H", size) + datagram[4:size]


def test_what_is_in_tunnels_and_not_opened_is_counted(tmp_path: Path) -> None:
    def gre(flags: int, kind: int, inside: bytes) -> bytes:
        return ethernet(ip("192.0.2.1", "192.0.2.2", 47, struct.pack(">HH", flags, kind) + inside))

    inside = udp("10.0.0.1", 9, "10.0.0.2", 53, b"question")[14:]
    frames = [
        gre(0, 0x2000, b"discovered"),  # a kind nobody opens
        gre(0, 0x6558, ethernet(bytes(28), 0x0806)),  # ARP
        gre(0, 0x8847, struct.pack(">I", 7 << 12 | 0x100) + bytes(20)),  # a pseudowire
        gre(0x1000, 0x88BE, bytes(4) + struct.pack(">II", 9 << 28, 0) + bytes(40)),  # no ERSPAN there is
        gre(
            0x1000, 0x22EB, bytes(4) + struct.pack(">IIHH", 2 << 28, 0, 2 << 10, 0) + inside
        ),  # mirrored without Ethernet
        gre(0, 0x0800, ip("192.0.2.2", "192.0.2.1", 47, bytes(4))),  # keep-alive
        gre(0, 0, b""),
        udp("192.0.2.1", 1701, "192.0.2.2", 1701, b"\0\2\0\4\0\3\xff\3\0\x21" + inside),
        udp("192.0.2.1", 1701, "192.0.2.2", 50_000, b"\x40\2\0\x30\0\4\0\3\xff\3\0\x21" + inside),
        udp("192.0.2.1", 1701, "192.0.2.2", 1701, b"\xc8\2\0\x0c\0\4\0\0\0\0\0\0"),  # its control: nothing is inside
        udp("192.0.2.1", 1701, "192.0.2.2", 53, b"\x12\x34\1\0"),  # somebody else on this port
        ethernet(ip("192.0.2.1", "192.0.2.2", 115, b"\0\0\0\7" + inside)),
        udp("192.0.2.1", 3544, "192.0.2.2", 50_000, b"\x60" + bytes(39)),
        udp("192.0.2.1", 50_000, "192.0.2.2", 3544, b"\0\1" + bytes(11) + b"\x60" + bytes(39)),
        udp("192.0.2.1", 3544, "192.0.2.2", 53, b"\x12\x34\1\0"),
        udp("192.0.2.1", 3544, "192.0.2.2", 3544, b""),
    ]
    _, counts = read(
        write_pcap(Capture([Packet(NOON_NS + n, frame) for n, frame in enumerate(frames)]), tmp_path / "a.pcap")
    )
    assert counts.unreadable == 0
    assert counts.notes == [
        "5 packets of GRE tunnels could not be opened: what is inside is no IP, or of a kind that is not read here.",
        "3 packets of L2TP tunnels were not opened: what is inside is not read here.",
        "2 packets of Teredo tunnels were not opened: what is inside is not read here.",
    ]


@pytest.mark.parametrize("outer", [as_vxlan, as_gtp])
def test_a_tunnel_in_a_tunnel_and_one_in_fragments_are_opened(
    outer: Callable[[Capture], Capture], tmp_path: Path
) -> None:
    inner = Capture([Packet(NOON_NS, udp("10.0.0.1", 9, "10.0.0.2", 53, bytes(3000)))])
    (row,) = rows_of(write_pcap(as_fragments(outer(as_geneve_ip(inner)), 512), tmp_path / "a.pcap"))
    assert row[2:4] == (9, 53) and row[-1] == bytes(3000)


def _tunnelled(frame: bytes, kind: str, more: list[bytes], tagged: bool) -> bytes:
    """A frame in a tunnel whose header has options or extension headers, in any number."""
    if tagged:
        frame = as_vlan(Capture([Packet(0, frame)])).packets[0].data
    if kind == "vxlan":
        return udp("192.0.2.1", 40_000, "192.0.2.2", 4789, b"\x08\0\0\0\0\0\x07\0" + frame)
    if kind == "geneve":
        options = b"".join(struct.pack(">HBB", 0x0102, 3, len(one) // 4) + one[: len(one) // 4 * 4] for one in more)
        return udp(
            "192.0.2.1",
            40_000,
            "192.0.2.2",
            6081,
            struct.pack(">BBHI", len(options) // 4, 0, 0x6558, 7 << 8) + options + frame,
        )
    bodies = [one[: len(one) // 4 * 4 + 2].ljust(len(one) // 4 * 4 + 2, b"\0") for one in more]
    headers = b"".join(
        bytes([(len(one) + 2) // 4]) + one + (b"\x85" if number < len(bodies) - 1 else b"\0")
        for number, one in enumerate(bodies)
    )
    rest = b"\0\x01\0" + (b"\x85" if bodies else b"\0") + headers + frame[14:]
    return udp(
        "192.0.2.1", 2152, "192.0.2.2", 2152, struct.pack(">BBHI", 0x36 if bodies else 0x32, 0xFF, len(rest), 9) + rest
    )


@needs_tshark
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(1024, 2000),
            st.sampled_from(["vxlan", "geneve", "gtp"]),
            st.lists(st.binary(max_size=20), max_size=3),
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_what_generated_tunnels_hold_is_what_tshark_finds(
    tmp_path: Path, wanted: list[tuple[int, str, list[bytes], bool]]
) -> None:
    packets = [
        Packet(
            NOON_NS + number,
            _tunnelled(udp("10.0.0.1", 9, "10.0.0.2", port, b"question"), kind, more, tagged and kind != "gtp"),
        )
        for number, (port, kind, more, tagged) in enumerate(wanted)
    ]
    path = write_pcap(Capture(packets), tmp_path / "a.pcap")
    theirs = tshark_fields(path, "udp", "frame.number", "udp.dstport", "ip.dst")
    ours = [[str(row[0]), str(row[3]), row[8]] for row in rows_of(path)]
    assert ours == [[number, ports.split(",")[-1], hosts.split(",")[-1]] for number, ports, hosts in theirs]
    assert [int(port) for _, port, _ in ours] == [port for port, *_ in wanted]
