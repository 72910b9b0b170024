from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.captures import (
    NOON_NS,
    SYN,
    VARIANTS,
    Capture,
    Packet,
    cut,
    merged,
    tcp,
    tcp_talk,
    udp,
    write_pcap,
)
from pydantic import ValidationError

from tasks.core.errors import NotFound
from tasks.network.analyze import _engine, _records, _streams
from tasks.network.analyze._engine import (
    ALL,
    Counts,
    Signature,
    StreamInfo,
    read_datagrams,
    read_streams,
)
from tasks.network.analyze._params import AnalyzerParams, _addresses
from tasks.network.analyze._selection import Selection

HELLO = [
    (False, b"220 ready\r\n"),
    (True, b"EHLO a\r\n"),
    (False, b"250 " + bytes(range(256)) * 30),
    (True, b"QUIT\r\n"),
]
ANY = Signature(test=lambda first: True)


@dataclass
class Listener:
    """Keeps all it is given."""

    info: StreamInfo
    said: dict[bool, bytes] = field(default_factory=lambda: {True: b"", False: b""})
    missing: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    places: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    frames: list[int] = field(default_factory=list)
    ended: str = ""

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        assert data and not self.ended
        self.said[from_client] += data
        self.frames.append(frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        assert missing > 0 and not self.ended
        self.said[from_client] += b"?" * missing if missing < 100_000 else b""
        self.missing[from_client] += missing

    def end(self, how: str, time_ns: int, frame: int) -> None:
        assert not self.ended
        self.ended = how


def listen(
    packets: Sequence[Packet], path: Path, signature: Signature = ANY, selection: Selection = ALL
) -> list[Listener]:
    heard: list[Listener] = []

    def make(info: StreamInfo) -> Listener:
        heard.append(Listener(info))
        return heard[-1]

    read_streams(write_pcap(Capture(packets), path), selection, signature, make, Counts())
    assert all(listener.ended for listener in heard)
    return heard


def everything(talk: Sequence[tuple[bool, bytes]]) -> dict[bool, bytes]:
    return {side: b"".join(message for who, message in talk if who is side) for side in (True, False)}


# --- streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_byte_comes_once_and_in_order_from_every_kind_of_capture(variant: str, tmp_path: Path) -> None:
    talks = merged(tcp_talk(HELLO), tcp_talk(HELLO, client="2001:db8::1", server="2001:db8::2"))
    heard: list[Listener] = []
    read_streams(
        VARIANTS[variant](Capture(talks), tmp_path / "c"),
        ALL,
        ANY,
        lambda info: heard.append(Listener(info)) or heard[-1],
        Counts(),
    )
    assert [listener.said for listener in heard] == [everything(HELLO)] * 2
    assert {
        (listener.info.client_port, listener.info.server_port, listener.info.handshake, listener.ended)
        for listener in heard
    } == {(50_000, 80, True, "fin")}


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reordered_repeated_and_overlapping_segments_give_the_same_bytes(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    talk = [(chance.random() < 0.5, chance.randbytes(chance.randrange(1, 3000))) for _ in range(6)]
    packets = tcp_talk(talk, segment_size=chance.choice([29, 100, 1400]), client_seq=2**32 - 500)
    last = packets[-3:]
    shaken: list[Packet] = packets[:3]
    for packet in packets[3:-3]:
        late = chance.choice([0, 0, 0, 2_500_000, 6_000_000])
        shaken.append(Packet(packet.time_ns + late, packet.data))
        if chance.random() < 0.2:
            shaken.append(Packet(packet.time_ns + chance.randrange(9_000_000), packet.data))
    if packets[3:-3] and chance.random() < 0.5:  # all of a side's first bytes once more, in one segment
        whole = everything(talk)[True][:1400]
        if whole:
            shaken.append(
                Packet(
                    packets[-4].time_ns + 1, tcp("10.0.0.1", 50_000, "10.0.0.2", 80, whole, seq=2**32 - 499, ack=5001)
                )
            )
    shaken = merged(shaken) + [Packet(packet.time_ns + 20_000_000, packet.data) for packet in last]
    (listener,) = listen(shaken, tmp_path / "shaken.pcap")
    # Acknowledged before it came, a segment counts as missing in the capture; what was given is right where it was given.
    for side, right in everything(talk).items():
        said = listener.said[side]
        assert len(said) == len(right)
        assert all(mine == ours or mine == ord("?") for mine, ours in zip(said, right, strict=True))
        assert listener.missing[side] or said == right


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_segments_that_overlap_give_each_byte_once(order: Sequence[int], tmp_path: Path) -> None:
    whole = random.Random(5).randbytes(300)
    pieces = [whole[:100], whole[50:200], whole[150:]]
    packets = tcp_talk([], farewell="none")
    for place, which in enumerate(order):
        seq = 1001 + (0, 50, 150)[which]
        frame = tcp("10.0.0.1", 50_000, "10.0.0.2", 80, pieces[which], seq=seq, ack=5001)
        packets.append(Packet(NOON_NS + (place + 9) * 1_000_000, frame))
    (listener,) = listen(packets, tmp_path / "overlap.pcap")
    assert listener.said[True] == whole and not any(listener.missing.values())


def test_a_lost_segment_is_a_gap_of_its_length(tmp_path: Path) -> None:
    packets = tcp_talk(HELLO)
    place = max(range(len(packets)), key=lambda n: len(packets[n].data))
    lost = packets[place]
    (listener,) = listen(packets[:place] + packets[place + 1 :], tmp_path / "lost.pcap")
    assert listener.missing == {True: 0, False: len(lost.data) - 54} and listener.ended == "fin"
    assert len(listener.said[False]) == len(everything(HELLO)[False])


def test_a_snap_length_makes_gaps_and_keeps_the_beginning_of_segments(tmp_path: Path) -> None:
    packets = cut(Capture(tcp_talk(HELLO)), 60).packets
    (listener,) = listen(packets, tmp_path / "cut.pcap")
    assert listener.said[True] == b"EHLO a??QUIT\r\n" and listener.missing[True] == 2
    assert listener.said[False].startswith(b"220 re?????250 ")


def test_a_conversation_without_its_beginning_is_read_from_where_it_is_seen(tmp_path: Path) -> None:
    (listener,) = listen(tcp_talk(HELLO, handshake=False, client_port=99, server_port=4000), tmp_path / "late.pcap")
    assert listener.said == {not side: said for side, said in everything(HELLO).items()} and not listener.info.handshake
    assert (listener.info.client_port, listener.info.server_port) == (4000, 99), "the lower port is the server's"


@pytest.mark.parametrize(("farewell", "how"), [("fin", "fin"), ("rst", "rst"), ("none", "capture")])
def test_ends_are_told_apart(farewell: str, how: str, tmp_path: Path) -> None:
    (listener,) = listen(tcp_talk(HELLO, farewell=farewell), tmp_path / "end.pcap")
    assert listener.ended == how and listener.said == everything(HELLO)


def test_ports_used_again_make_another_stream(tmp_path: Path) -> None:
    talks = [
        tcp_talk(HELLO, client_seq=999 * n, start_ns=NOON_NS + n * 10**9, farewell=end)
        for n, end in ((1, "fin"), (2, "none"), (3, "rst"))
    ]
    heard = listen(merged(*talks), tmp_path / "again.pcap")
    assert [(listener.info.index, listener.ended) for listener in heard] == [(0, "fin"), (1, "capture"), (2, "rst")]
    assert all(listener.said == everything(HELLO) for listener in heard)


def test_what_is_wanted_is_found_by_port_or_by_how_it_begins(tmp_path: Path) -> None:
    greeting = Signature(prefixes=(b"220 ",), test=lambda first: b"ready" in first)
    web = [(True, b"GET / HTTP/1.0\r\n\r\n"), (False, b"220 is not how this begins")]
    packets = merged(
        tcp_talk(HELLO, server_port=2525),
        tcp_talk(web, client_port=51_000),
        tcp_talk(web, server_port=25, client_port=52_000),
    )
    assert [listener.info.server_port for listener in listen(packets, tmp_path / "a", greeting)] == [2525]
    assert [listener.info.server_port for listener in listen(packets, tmp_path / "b", Signature(frozenset({25})))] == [
        25
    ]
    both = Signature(frozenset({25}), (b"220 ",))
    assert sorted(listener.info.server_port for listener in listen(packets, tmp_path / "c", both)) == [25, 80, 2525]
    assert listen(packets, tmp_path / "d", Signature(prefixes=(b"EHLO x",))) == []


def test_bytes_before_the_one_that_decides_are_not_lost_between_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [(True, b"a question"), (False, b"ANSWER " + bytes(900)), (True, b"another")]
    monkeypatch.setattr(_records, "LEAST_PIECE", 400)
    monkeypatch.setattr(_records, "MOST_PIECE", 1300)
    (listener,) = listen(tcp_talk(talk), tmp_path / "a.pcap", Signature(prefixes=(b"ANSWER",)))
    assert listener.said == everything(talk) and not any(listener.missing.values())


def test_a_parser_may_refuse_a_conversation(tmp_path: Path) -> None:
    asked: list[int] = []
    path = write_pcap(Capture(merged(tcp_talk(HELLO), tcp_talk(HELLO, client_port=51_000))), tmp_path / "a.pcap")
    read_streams(path, ALL, ANY, lambda info: asked.append(info.index), Counts())
    assert asked == [0, 1]


def test_a_conversation_without_payload_gets_no_parser(tmp_path: Path) -> None:
    assert (
        listen(
            merged(tcp_talk([]), [Packet(NOON_NS, tcp("10.0.0.1", 1, "10.0.0.2", 2, flags=SYN))]), tmp_path / "a.pcap"
        )
        == []
    )


def test_waiting_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streams, "MOST_WAITING_BYTES", 5000)
    packets = tcp_talk([(False, bytes(100_000))])
    (listener,) = listen([packet for n, packet in enumerate(packets) if n != 3], tmp_path / "a.pcap")
    assert listener.missing[False] == 1400 and len(listener.said[False]) == 100_000
    assert listener.frames[:2] == [4, 5], "what waited is given out in order, with its own frame"


def test_streams_are_bounded_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_engine, "MOST_STREAMS", 3)
    packets = merged(*(tcp_talk(HELLO, client_port=4000 + n, farewell="none") for n in range(10)))
    counts = Counts()
    heard: list[Listener] = []
    path = write_pcap(Capture(packets), tmp_path / "a.pcap")
    read_streams(path, ALL, ANY, lambda info: heard.append(Listener(info)) or heard[-1], counts)
    assert len(heard) == 10 and all(listener.ended == "capture" for listener in heard)
    assert counts.notes == ["7 conversations were not read to their end: more than 3 at once."]


# --- datagrams ----------------------------------------------------------------------------------------------------------


def datagrams(
    packets: Sequence[Packet], path: Path, signature: Signature, selection: Selection = ALL
) -> list[tuple[str, int, bytes]]:
    found = read_datagrams(write_pcap(Capture(packets), path), selection, signature, Counts())
    return [(datagram.source, datagram.source_port, datagram.payload) for datagram in found]


def test_datagrams_of_wanted_conversations_come_in_order(tmp_path: Path) -> None:
    packets = [
        Packet(NOON_NS + n, udp("10.0.0.1", 5000 + n % 3, "10.0.0.2", 53 if n % 2 else 9000, b"%d" % n))
        for n in range(20)
    ]
    found = datagrams(packets, tmp_path / "a.pcap", Signature(frozenset({53})))
    assert [payload for _, _, payload in found] == [b"%d" % n for n in range(20) if n % 2]
    assert datagrams(packets, tmp_path / "b.pcap", Signature(prefixes=(b"4",))) == [
        ("10.0.0.1", 5001, b"%d" % n) for n in (4, 10, 16)
    ]


def test_what_the_other_side_says_decides_for_earlier_datagrams_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "LEAST_PIECE", 300)
    monkeypatch.setattr(_records, "MOST_PIECE", 300)
    packets = [
        Packet(NOON_NS, udp("10.0.0.1", 5000, "10.0.0.2", 9000, b"question" + bytes(100))),
        Packet(NOON_NS + 1, udp("10.0.0.3", 5000, "10.0.0.2", 9000, b"question" + bytes(100))),
        Packet(NOON_NS + 2, udp("10.0.0.2", 9000, "10.0.0.1", 5000, b"ANSWER")),
    ]
    found = datagrams(packets, tmp_path / "a.pcap", Signature(prefixes=(b"ANSWER",)))
    assert [(source, payload[:6]) for source, _, payload in found] == [("10.0.0.1", b"questi"), ("10.0.0.2", b"ANSWER")]


def test_of_too_much_that_is_undecided_the_oldest_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_records, "LEAST_PIECE", 300)
    monkeypatch.setattr(_records, "MOST_PIECE", 300)
    monkeypatch.setattr(_engine, "MOST_HELD_BYTES", 5 * 550)
    asked = [
        Packet(NOON_NS + n, udp(f"10.0.1.{n}", 5000, "10.0.0.2", 9000, b"question" + bytes(100))) for n in range(20)
    ]
    answered = [
        Packet(NOON_NS + 100 + n, udp("10.0.0.2", 9000, f"10.0.1.{n}", 5000, b"ANSWER")) for n in reversed(range(20))
    ]
    found = datagrams([*asked, *answered], tmp_path / "a.pcap", Signature(prefixes=(b"ANSWER",)))
    questions = {int(source.rsplit(".")[-1]) for source, _, payload in found if payload.startswith(b"question")}
    # The last question may be in a piece with its answer, and is decided on at once.
    assert len(found) == 20 + len(questions) and questions in ({*range(15, 20)}, {*range(14, 20)})


def test_a_cut_datagram_says_so(tmp_path: Path) -> None:
    path = write_pcap(
        cut(Capture([Packet(NOON_NS, udp("10.0.0.1", 1, "10.0.0.2", 53, b"0123456789"))]), 46), tmp_path / "a.pcap"
    )
    counts = Counts()
    (datagram,) = read_datagrams(path, ALL, Signature(frozenset({53})), counts)
    assert (datagram.payload, datagram.truncated, datagram.wire_length) == (b"0123", True, 52)
    assert counts.analyzed == counts.truncated == 1


# --- parameters -----------------------------------------------------------------------------------------------------------


def test_host_and_port_narrow_what_is_recorded() -> None:
    live = {"interface": "eth0"}
    assert AnalyzerParams(**live, host="10.0.0.1").bpf() == "host 10.0.0.1"
    assert (
        AnalyzerParams(**live, filter="tcp or udp", host="10.0.0.1", port=53).bpf()
        == "host 10.0.0.1 and port 53 and (tcp or udp)"
    )
    assert AnalyzerParams(**live, filter="tcp").bpf() == "tcp"
    with pytest.raises(ValidationError, match="needs a filter"):
        AnalyzerParams(**live)


def test_times_become_nanoseconds_and_must_be_in_order() -> None:
    noon = datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    params = AnalyzerParams(capture="a.pcap", host="::ffff:10.0.0.1", port=53, start=noon)
    assert params.selection() == Selection(("10.0.0.1",), 53, NOON_NS + 250_000_000, None)
    with pytest.raises(ValidationError, match="timezone"):
        AnalyzerParams(capture="a.pcap", start=datetime(2024, 5, 1))  # noqa: DTZ001
    with pytest.raises(ValidationError, match="start must be before end"):
        AnalyzerParams(capture="a.pcap", start=noon, end=noon)
    with pytest.raises(ValidationError, match="stored capture"):
        AnalyzerParams(interface="eth0", filter="tcp", start=noon)


async def test_a_hosts_name_is_looked_up() -> None:
    assert await _addresses("10.0.0.1") == ("10.0.0.1",) and await _addresses(None) == ()
    assert "127.0.0.1" in await _addresses("localhost")
    with pytest.raises(NotFound):
        await _addresses("nobody.invalid")
