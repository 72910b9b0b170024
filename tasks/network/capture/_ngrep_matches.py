"""Finds the packets ngrep matched in the capture again, and shows what matched with its surroundings, secrets masked.

Runs in a child process: imports nothing of Prefect.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from blocks._pcap import FILE_HEADER, RECORD_HEADER, byte_order
from tasks.network.analyze._frames import TCP, UDP, Counts, Frames, read_frames
from tasks.network.capture._mask import mask_pieces, printable

MOST_MATCH_BYTES: Final = 256
"""Bytes shown of what matched itself."""
BEFORE_BYTES: Final = 16 << 10
"""Bytes of the same side of a conversation looked at before a match: a secret may have begun in an earlier packet."""
AFTER_BYTES: Final = 4 << 10
MOST_KEPT: Final = 8 << 20
"""Bytes of payload remembered of all conversations with matches together."""

_PROTOCOLS: Final = {TCP: "tcp", UDP: "udp", 1: "icmp", 58: "icmp6", 2: "igmp", 132: "sctp"}

Side = tuple[int, int, int, int, int, int, int]
"""One direction of a conversation: version, source, destination (upper and lower halves), ports in one number."""


@dataclass(frozen=True)
class Search:
    """What is looked for, as it travels to the child."""

    pattern: str
    ignore_case: bool
    word: bool
    invert: bool
    hexadecimal: bool
    context: int
    most: int
    text_bytes: int
    reveal: bool

    def compiled(self) -> re.Pattern[bytes]:
        """The pattern for Python, which finds where in a packet the match is; that it matches is ngrep's word."""
        if self.hexadecimal:
            return re.compile(re.escape(bytes.fromhex(self.pattern)), re.DOTALL)
        pattern = self.pattern.encode()
        if self.word:
            pattern = rb"(?<!\w)(?:" + pattern + rb")(?!\w)"
        return re.compile(pattern, re.DOTALL | (re.IGNORECASE if self.ignore_case else 0))


@dataclass
class Shown:
    """One matching packet."""

    frame: int
    time_ns: int
    protocol: str
    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    payload_bytes: int
    before: str
    match: str
    after: str


@dataclass
class Matches:
    """What the child gives back."""

    packets: int = 0
    conversations: int = 0
    shown: list[Shown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Hit:
    frame: int
    time_ns: int
    protocol: int
    ends: tuple[str, int, str, int]
    side: Side
    seq: int
    payload: bytes


def find(capture: str, matched: list[str], search: Search) -> Matches:
    """Show the matching packets.

    Args:
        capture: The capture that was searched.
        matched: Files that ngrep wrote: the packets that match.
        search: What was looked for, and how much is shown of it.
    """
    wanted = _read_matched(matched)
    found = Matches()
    counts = Counts()
    hits: list[_Hit] = []
    sides: set[Side] = set()
    for frames in read_frames(capture, counts=counts):
        found.packets += _collect(frames, wanted, hits, sides, search.most)
    found.notes = list(counts.notes)
    found.conversations = len(sides)
    streams = _streams(capture, {hit.side for hit in hits if hit.protocol == TCP}) if not search.reveal else {}
    compiled, room = search.compiled(), search.text_bytes
    for hit in hits:
        shown = _show(hit, compiled, search, streams.get(hit.side, []))
        room -= len((shown.before + shown.match + shown.after).encode()) + 250
        if room < 0:
            break
        found.shown.append(shown)
    return found


def _read_matched(paths: list[str]) -> dict[int, list[bytes]]:
    """Packets by their time in microseconds, which is what libpcap writes."""
    packets: dict[int, list[bytes]] = defaultdict(list)
    for path in map(Path, paths):
        data = path.read_bytes() if path.exists() else b""
        order = byte_order(data)
        if order is None:
            continue
        unpack, at = struct.Struct(f"{order}III4x").unpack_from, FILE_HEADER
        while at + RECORD_HEADER <= len(data):
            seconds, micros, length = unpack(data, at)
            packets[seconds * 1_000_000 + micros].append(data[at + RECORD_HEADER : at + RECORD_HEADER + length])
            at += RECORD_HEADER + length
    return packets


def _collect(frames: Frames, wanted: dict[int, list[bytes]], hits: list[_Hit], sides: set[Side], most: int) -> int:
    """Find the wanted packets among these; returns how many there are."""
    count = 0
    if not wanted or not len(frames):
        return count
    micros = frames.time_ns // 1000
    for row in np.flatnonzero(np.isin(micros, np.fromiter(wanted, np.int64, len(wanted)))).tolist():
        start = int(frames.start[row])
        packet = frames.data[start : start + int(frames.captured_length[row])].tobytes()
        same = wanted.get(int(micros[row]))
        if not same or packet not in same:
            continue
        same.remove(packet)
        if not same:
            del wanted[int(micros[row])]
        count += 1
        side = _side(frames, row)
        sides.add(min(side, _other(side)))
        if len(hits) < most:
            hits.append(_hit(frames, row, side, packet))
    return count


def _hit(frames: Frames, row: int, side: Side, packet: bytes) -> _Hit:
    protocol, start = int(frames.protocol[row]), int(frames.start[row])
    payload = frames.payload_of(row)
    if not payload:
        # Neither TCP nor UDP, or a fragment: what follows the last header that was read.
        transport = int(frames.transport[row])
        payload = packet[transport - start :] if transport >= start else packet
    known = frames.version[row] > 0
    return _Hit(
        frame=int(frames.number[row]),
        time_ns=int(frames.time_ns[row]),
        protocol=protocol,
        ends=(
            frames.source(row) if known else "",
            int(frames.source_port[row]),
            frames.destination(row) if known else "",
            int(frames.destination_port[row]),
        ),
        side=side,
        seq=int(frames.seq[row]),
        payload=payload,
    )


def _side(frames: Frames, row: int) -> Side:
    return (
        int(frames.version[row]) << 8 | int(frames.protocol[row]) & 0xFF,
        int(frames.source_high[row]),
        int(frames.source_low[row]),
        int(frames.destination_high[row]),
        int(frames.destination_low[row]),
        int(frames.source_port[row]),
        int(frames.destination_port[row]),
    )


def _other(side: Side) -> Side:
    kind, source_high, source_low, destination_high, destination_low, source, destination = side
    return (kind, destination_high, destination_low, source_high, source_low, destination, source)


def _streams(capture: str, sides: set[Side]) -> dict[Side, list[tuple[int, bytes]]]:
    """What each of some sides of TCP conversations said: sequence number and payload, in the order of the capture."""
    found: dict[Side, list[tuple[int, bytes]]] = defaultdict(list)
    if not sides:
        return found
    room = MOST_KEPT
    # Ports first, for whole columns at once; the rest only of the few rows that have them.
    ports = np.array(sorted({side[5] << 16 | side[6] for side in sides}), np.int64)
    for frames in read_frames(capture):
        either = frames.source_port << 16 | frames.destination_port
        for row in np.flatnonzero(frames.is_tcp & (frames.payload_length > 0) & np.isin(either, ports)).tolist():
            side = _side(frames, row)
            if side in sides and room > 0:
                payload = frames.payload_of(row)
                room -= len(payload)
                found[side].append((int(frames.seq[row]), payload))
    return found


def _around(hit: _Hit, stream: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    """What the same side said right before and after a packet, by sequence numbers: retransmissions and disorder do not matter."""
    placed: dict[int, bytes] = {}
    for seq, payload in stream:
        offset = (seq - hit.seq + (1 << 31)) % (1 << 32) - (1 << 31)
        if -BEFORE_BYTES <= offset <= len(hit.payload) + AFTER_BYTES and len(payload) > len(placed.get(offset, b"")):
            placed[offset] = payload
    before, after = bytearray(), bytearray()
    reach = -(1 << 31)
    for offset in sorted(placed):
        payload, end = placed[offset], offset + len(placed[offset])
        if end <= reach:
            continue
        fresh = max(offset, reach)
        if fresh < 0:
            before += payload[fresh - offset : max(0, -offset)]
        if end > len(hit.payload):
            after += payload[max(fresh, len(hit.payload)) - offset :]
        reach = end
    return bytes(before[-BEFORE_BYTES:]), bytes(after[:AFTER_BYTES])


def _show(hit: _Hit, compiled: re.Pattern[bytes], search: Search, stream: list[tuple[int, bytes]]) -> Shown:
    payload = hit.payload
    # Inverted searches match where nothing is found; then the beginning is shown. Looking for it again would take the longest there is:
    # every way to match is tried in vain.
    found = None if search.invert else compiled.search(payload)
    first, last = found.span() if found else (0, 0)
    last = min(last, first + MOST_MATCH_BYTES)
    left, right = max(0, first - search.context), min(len(payload), max(last, first) + search.context)
    earlier, later = _around(hit, stream) if stream else (b"", b"")
    pieces = [
        earlier,
        payload[:left],
        payload[left:first],
        payload[first:last],
        payload[last:right],
        payload[right:],
        later,
    ]
    ports = tuple(port for port in (hit.ends[1], hit.ends[3]) if port >= 0)
    if not search.reveal:
        pieces = mask_pieces(pieces, ports)
    source, source_port, destination, destination_port = hit.ends
    return Shown(
        frame=hit.frame,
        time_ns=hit.time_ns,
        protocol=_PROTOCOLS.get(hit.protocol, f"ip {hit.protocol}" if hit.protocol >= 0 else "other"),
        source=source,
        source_port=source_port if source_port >= 0 else None,
        destination=destination,
        destination_port=destination_port if destination_port >= 0 else None,
        payload_bytes=len(payload),
        before=printable(pieces[2]),
        match=printable(pieces[3]),
        after=printable(pieces[4]),
    )
