"""Turns a capture into columns of header fields, for all packets of a piece at once.

A packet's innermost IP header is the one that counts: VLAN tags, PPPoE, MPLS, GRE, ERSPAN, IP in IP, VXLAN, Geneve and GTP-U are looked
through.
Fragments of a datagram are put together, and the frame that completes it stands for it, as in Wireshark; the others have neither ports nor
payload.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.core.words import count
from tasks.network.analyze._ip import GRE, TCP, UDP, walk
from tasks.network.analyze._layers import IPV4, IPV6, Cursor, Layer, Problem, Words
from tasks.network.analyze._reassembly import Fragments
from tasks.network.analyze._records import Bytes, Ints, Mask, RecordReader, Records
from tasks.network.analyze._selection import ALL, Selection

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128

_LINK_NAMES: Final = {
    105: "IEEE 802.11", 127: "IEEE 802.11 with radiotap", 119: "IEEE 802.11 (Prism)", 163: "IEEE 802.11 (AVS)", 117: "OpenBSD's pflog",
    109: "OpenBSD's enc", 189: "USB", 220: "USB", 249: "USB", 201: "Bluetooth", 187: "Bluetooth", 253: "netlink", 6: "token ring",
    10: "FDDI", 122: "IP over Fibre Channel", 195: "IEEE 802.15.4", 230: "IEEE 802.15.4", 227: "CAN", 107: "Frame Relay",
}  # fmt: skip


@dataclass(slots=True)
class Frames:
    """Packets of a piece of a capture, one row each.

    Attributes:
        data: The piece's bytes; offsets below point into it.
        number: Frame number, from 1, as Wireshark counts.
        time_ns: Nanoseconds since the epoch.
        wire_length: Bytes on the wire.
        captured_length: Bytes in the capture.
        start: Where the frame begins.
        kind: Ethernet type of the innermost layer below IP's own, such as 0x0806 for ARP; -1 when it is not known.
        version: 4 or 6; 0 when it is not IP.
        protocol: IP protocol of what the innermost IP header carries; -1 when it is not IP.
        source_high: Upper 64 bits of the source address (0 for IPv4), and so on.
        source_port: Of TCP and UDP, -1 otherwise.
        transport: Where the transport header begins; -1 when it was not reached.
        payload: Where the payload of TCP or UDP begins.
        payload_length: Its bytes in the capture.
        payload_wire: Its bytes on the wire, as the headers say.
        flags: TCP's flags, `FIN` and so on.
        seq: TCP's sequence number, `ack` and `window` as they stand in the header.
        layers: What it was wrapped in, bits of `Layer`.
        problem: Why its headers were not read to the end, `Problem`.
    """

    data: Bytes
    number: Ints
    time_ns: Ints
    wire_length: Ints
    captured_length: Ints
    start: Ints
    kind: Ints
    version: Ints
    protocol: Ints
    source_high: Words
    source_low: Words
    destination_high: Words
    destination_low: Words
    source_port: Ints
    destination_port: Ints
    transport: Ints
    payload: Ints
    payload_length: Ints
    payload_wire: Ints
    flags: Ints
    seq: Ints
    ack: Ints
    window: Ints
    layers: Ints
    problem: Ints

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: Ints | Mask) -> Frames:
        """These rows only."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return Frames(self.data, **columns)

    def payload_of(self, row: int) -> bytes:
        """The payload of a row, as far as it was captured."""
        at = self.payload[row]
        return self.data[at : at + self.payload_length[row]].tobytes()

    def source(self, row: int) -> str:
        """The source address as text."""
        return address(int(self.version[row]), int(self.source_high[row]), int(self.source_low[row]))

    def destination(self, row: int) -> str:
        """The destination address as text."""
        return address(int(self.version[row]), int(self.destination_high[row]), int(self.destination_low[row]))

    @property
    def is_tcp(self) -> Mask:
        """Rows with a whole TCP header."""
        mask: Mask = (self.protocol == TCP) & (self.source_port >= 0)
        return mask

    @property
    def is_udp(self) -> Mask:
        """Rows with a whole UDP header."""
        mask: Mask = (self.protocol == UDP) & (self.source_port >= 0)
        return mask


_COLUMNS: Final = tuple(column.name for column in fields(Frames) if column.name != "data")


def address(version: int, high: int, low: int) -> str:
    """Write an address as people do.

    >>> address(4, 0, 0x0A000001)
    '10.0.0.1'
    """
    return str(ipaddress.IPv4Address(low & 0xFFFFFFFF) if version == 4 else ipaddress.IPv6Address(high << 64 | low))


@dataclass
class Counts:
    """What was read of a capture: the ground of every report."""

    packets: int = 0
    bytes: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    analyzed: int = 0
    truncated: int = 0
    unreadable: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time from the first packet to the last."""
        return (self.last_ns - self.first_ns) / 1e9 if self.first_ns is not None and self.last_ns is not None else 0.0

    def coverage(self) -> dict[str, Any]:
        """The fields of `Coverage`."""
        return {
            "packets": self.packets, "bytes": self.bytes, "seconds": round(self.seconds, 6), "analyzed": self.analyzed,
            "truncated": self.truncated, "unreadable": self.unreadable, "notes": self.notes,
        }  # fmt: skip

    def add(self, frames: Frames) -> None:
        """Count the packets of a piece."""
        if not len(frames):
            return
        self.packets += len(frames)
        self.bytes += int(frames.wire_length.sum())
        self.truncated += int((frames.captured_length < frames.wire_length).sum())
        self.unreadable += int((frames.problem > Problem.CUT).sum())
        timed = frames.time_ns[frames.time_ns != 0]
        if len(timed):
            first, last = int(timed.min()), int(timed.max())
            self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
            self.last_ns = last if self.last_ns is None else max(last, self.last_ns)


def read_frames(path: str | Path, selection: Selection = ALL, counts: Counts | None = None) -> Iterator[Frames]:
    """Read a capture piece by piece; memory does not grow with it.

    Args:
        path: A pcap or pcapng file.
        selection: Packets wanted; the others are left out.
        counts: Counts them, and says in its notes what could not be read.

    Raises:
        InvalidParameters: The file is not a capture.
        Unsupported: It is compressed, or of a format nobody reads any more.
    """
    counts = Counts() if counts is None else counts
    reader, fragments, tally = RecordReader(Path(path)), Fragments(), _Tally()
    try:
        for records in reader:
            frames = decode(records, fragments)
            tally.add(frames, records)
            if not selection.everything:
                frames = frames.take(_wanted(frames, selection))
            counts.add(frames)
            yield frames
    finally:
        counts.notes += [*reader.notes, *tally.notes(fragments)]


def decode(records: Records, fragments: Fragments) -> Frames:
    """Read the headers of all packets of a piece."""
    cursor = walk(records, fragments)
    rows_in_all = len(records.start)

    def column(value: int) -> Ints:
        return np.full(rows_in_all, value, np.int64)

    frames = Frames(
        cursor.data, records.number, records.time_ns, records.wire, records.captured, records.start, cursor.kind,
        cursor.version, cursor.protocol, cursor.source_high, cursor.source_low, cursor.destination_high, cursor.destination_low,
        column(-1), column(-1), column(-1), column(0), column(0), column(0), column(0), column(0), column(0), column(0),
        cursor.layers, cursor.problem,
    )  # fmt: skip
    rows = np.flatnonzero(cursor.ready)
    frames.transport[rows] = cursor.at[rows]
    protocol = cursor.protocol[rows]
    _tcp(frames, cursor, rows[protocol == TCP])
    _udp(frames, cursor, rows[protocol == UDP])
    frames.data = cursor.data
    return frames


def _ports(frames: Frames, cursor: Cursor, rows: Ints) -> None:
    ports = cursor.number(cursor.at[rows], ">u4")
    frames.source_port[rows], frames.destination_port[rows] = ports >> 16, ports & 0xFFFF


def _tcp(frames: Frames, cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 20)
    at = cursor.at[rows]
    word = cursor.number(at + 12, ">u2")
    header = (word >> 12) * 4
    good = (header >= 20) & (at + header <= cursor.claimed[rows])
    if not good.all():
        cursor.give_up(rows[~good], Problem.MALFORMED)
        rows, at, word, header = rows[good], at[good], word[good], header[good]
    _ports(frames, cursor, rows)
    frames.flags[rows] = word & 0xFF
    frames.seq[rows], frames.ack[rows] = cursor.number(at + 4, ">u4"), cursor.number(at + 8, ">u4")
    frames.window[rows] = cursor.number(at + 14, ">u2")
    _payload(frames, cursor, rows, at + header, cursor.claimed[rows])


def _udp(frames: Frames, cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 8)
    at = cursor.at[rows]
    length = cursor.number(at + 4, ">u2")
    length = np.where(length == 0, cursor.claimed[rows] - at, length)  # a jumbogram (RFC 2675)
    good = length >= 8
    if not good.all():
        cursor.give_up(rows[~good], Problem.MALFORMED)
        rows, at, length = rows[good], at[good], length[good]
    _ports(frames, cursor, rows)
    _payload(frames, cursor, rows, at + 8, np.minimum(at + length, cursor.claimed[rows]))


def _payload(frames: Frames, cursor: Cursor, rows: Ints, at: Ints, claimed: Ints) -> None:
    end = np.minimum(cursor.end[rows], claimed)
    frames.payload[rows] = np.minimum(at, end)
    frames.payload_length[rows] = np.maximum(end - at, 0)
    frames.payload_wire[rows] = np.maximum(claimed - at, 0)


def _wanted(frames: Frames, selection: Selection) -> Mask:
    mask = np.ones(len(frames), np.bool_)
    if selection.start_ns is not None:
        mask &= frames.time_ns >= selection.start_ns
    if selection.end_ns is not None:
        mask &= frames.time_ns < selection.end_ns
    if selection.port is not None:
        mask &= (frames.source_port == selection.port) | (frames.destination_port == selection.port)
    if selection.addresses:
        either = np.zeros(len(frames), np.bool_)
        for version, high, low in selection.pairs():
            upper, lower = np.uint64(high), np.uint64(low)
            either |= (frames.version == version) & (
                ((frames.source_high == upper) & (frames.source_low == lower))
                | ((frames.destination_high == upper) & (frames.destination_low == lower))
            )
        mask &= either
    return mask


_L2TP_3: Final = 115
"""IP protocol of L2TPv3 (RFC 3931)."""


def _l2tp(words: Ints) -> Mask:
    """Which datagrams that begin so are L2TP's data, version 2 or 3 (RFC 2661, RFC 3931); its control carries nothing."""
    mask: Mask = np.isin(words & 0xB4FF, (2, 3))
    return mask


def _teredo(words: Ints) -> Mask:
    """Which datagrams that begin so are Teredo's: IPv6, or what may stand before it (RFC 4380, 5.1.1)."""
    mask: Mask = (words >> 12 == 6) | (words <= 1)
    return mask


class _Tally:
    """Counts what could not be read, over the whole file, for the notes."""

    def __init__(self) -> None:
        self.links: Counter[int] = Counter()
        self.cut = self.malformed = self.deep = self.hidden = 0
        self.tunnels: Counter[str] = Counter()
        self.gre = 0
        self.closed: Counter[str] = Counter()

    def add(self, frames: Frames, records: Records) -> None:
        for link, many in zip(
            *np.unique(records.link[frames.problem == Problem.LINK], return_counts=True), strict=True
        ):
            self.links[int(link)] += int(many)
        self.cut += int((frames.problem == Problem.CUT).sum())
        self.malformed += int((frames.problem == Problem.MALFORMED).sum())
        self.deep += int((frames.problem == Problem.DEEP).sum())
        self.hidden += int((frames.protocol == 50).sum())
        udp = frames.protocol == UDP
        for name, port in (("VXLAN", 4789), ("GTP", 2152), ("Geneve", 6081)):
            self.tunnels[name] += int((udp & (frames.destination_port == port)).sum())
        gre = (frames.protocol == GRE) & (frames.problem == Problem.NONE)
        self.gre += int((gre & (frames.kind != IPV4) & (frames.kind != IPV6)).sum())
        self.closed["L2TP"] += int((frames.protocol == _L2TP_3).sum())
        for name, port, begins in (("L2TP", 1701, _l2tp), ("Teredo", 3544, _teredo)):
            some = (frames.source_port == port) | (frames.destination_port == port)
            some &= udp & (frames.payload_length >= 2)
            at = frames.payload[some]
            self.closed[name] += int(begins(frames.data[at].astype(np.int64) << 8 | frames.data[at + 1]).sum())

    def notes(self, fragments: Fragments) -> Iterator[str]:
        """What to tell."""
        for link, many in sorted(self.links.items()):
            name = _LINK_NAMES.get(link)
            packets = count(many, "packet is", "packets are")
            yield f"{packets} of link type {link}{f' ({name})' if name else ''}, whose headers are not read here."
        if self.cut:
            packets = count(self.cut, "packet holds less than its headers", "packets hold less than their headers")
            yield f"{packets}: the snap length was too small."
        if self.malformed:
            yield f"{count(self.malformed, 'packet has', 'packets have')} headers that contradict themselves."
        if self.deep:
            yield f"{count(self.deep, 'packet has', 'packets have')} more layers than are read here."
        if self.hidden:
            yield f"{count(self.hidden, 'packet is', 'packets are')} encrypted by IPsec; what is inside is not known."
        for name, many in self.tunnels.items():
            if many:
                yield f"{count(many, 'packet')} to the port of {name} tunnels could not be opened: what is inside is no IP."
        if self.gre:
            packets = count(self.gre, "packet")
            yield f"{packets} of GRE tunnels could not be opened: what is inside is no IP, or of a kind that is not read here."
        for name, many in self.closed.items():
            if many:
                packets = count(many, "packet of", "packets of")
                was = "was" if many == 1 else "were"
                yield f"{packets} {name} tunnels {was} not opened: what is inside is not read here."
        if left := len(fragments.pending) + fragments.given_up:
            yield f"{count(left, 'fragmented datagram is', 'fragmented datagrams are')} not whole in the capture."


__all__ = [
    "ACK", "ALL", "FIN", "PSH", "RST", "SYN", "TCP", "UDP", "Counts", "Frames", "Layer", "Problem", "Selection", "address",
    "decode", "read_frames",
]  # fmt: skip
