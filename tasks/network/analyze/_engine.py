"""What the protocol analyzers read captures with: datagrams and streams of the conversations they want, and nothing else.

Headers are read for all packets at once with numpy; Python touches the packets of wanted conversations only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np

from tasks.core.words import count
from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import ACK, FIN, RST, SYN, TCP, UDP, Counts, Frames, read_frames
from tasks.network.analyze._records import Ints
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._streams import Stream, StreamInfo, StreamParser
from tasks.network.analyze._wanted import Signature, Verdicts

MOST_STREAMS: Final = 20_000
"""Conversations read at once; when there are more, those that began first are ended."""
MOST_NAMES: Final = 5_000
"""Conversations whose addresses are kept as text."""
MOST_WAITING_BYTES: Final = 64 << 20
"""Bytes that wait for missing ones, in all conversations together."""
MOST_HELD: Final = 4
"""Payloads kept of a conversation whose other side has not spoken yet: what it says decides."""
MOST_HELD_BYTES: Final = 4 << 20
"""Of all those payloads together; what was said longest ago gives way, since answers come soon."""
_HELD_OVERHEAD: Final = 400
"""Bytes of a held payload's objects beside its own."""

T = TypeVar("T")


@dataclass(slots=True)
class Datagram:
    """A UDP datagram, put together when it was fragmented.

    Attributes:
        number: Frame number, as Wireshark counts.
        time_ns: Nanoseconds since the epoch.
        source: Address it came from.
        source_port: Its port.
        destination: Address it went to.
        destination_port: Its port.
        payload: What of its payload is in the capture.
        wire_length: Bytes of its frame on the wire.
        truncated: Whether the capture lacks the end of the payload.
    """

    number: int
    time_ns: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes
    wire_length: int
    truncated: bool


def read_datagrams(path: str | Path, selection: Selection, signature: Signature, counts: Counts) -> Iterator[Datagram]:
    """Read the UDP datagrams of the conversations a signature names, in the order of the capture.

    Args:
        path: A pcap or pcapng file.
        selection: Packets wanted; `ALL` for all.
        signature: How the protocol's conversations are recognised.
        counts: Counts packets; `analyzed` counts the datagrams given out.

    Raises:
        InvalidParameters: The file is not a capture.
        Unsupported: It is compressed, or of a format nobody reads any more.
    """
    conversations = Conversations(UDP)
    verdicts = Verdicts(conversations, signature)
    held: _Held[Datagram] = _Held(lambda datagram: len(datagram.payload))
    names = _Names(conversations)
    for frames in read_frames(path, selection, counts):
        assigned = conversations.assign(frames)
        if not len(assigned.rows):
            continue
        wanted, undecided = verdicts.decide(frames, assigned)
        early: list[Datagram] = []
        if held:
            for identity in assigned.segments[conversations.table["verdict"][assigned.segments] != 0].tolist():
                kept = held.take(identity)
                if conversations.table["verdict"][identity] == 1:
                    early += kept
        early.sort(key=lambda datagram: datagram.number)
        counts.analyzed += len(early) + len(wanted)
        yield from early
        yield from names.datagrams(frames, assigned, wanted)
        made = names.datagrams(frames, assigned, undecided, in_order=False)
        for identity, datagram in zip(assigned.ids[undecided].tolist(), made, strict=True):
            held.keep(identity, datagram)
    _note_left_out(conversations, counts)


class _Held(Generic[T]):
    """What was said in conversations that are not decided on.

    Args:
        size: Bytes of one payload.
    """

    def __init__(self, size: Callable[[T], int]) -> None:
        self._size = size
        self._kept: dict[int, list[T]] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self, identity: int, item: T) -> None:
        """Keep one payload of a conversation, unless that has enough."""
        kept = self._kept.setdefault(identity, [])
        if len(kept) >= MOST_HELD:
            return
        kept.append(item)
        self._bytes += self._size(item) + _HELD_OVERHEAD
        while self._bytes > MOST_HELD_BYTES:
            self.take(next(iter(self._kept)))

    def take(self, identity: int) -> list[T]:
        """What is kept of a conversation, and no longer is."""
        kept = self._kept.pop(identity, [])
        self._bytes -= sum(self._size(item) + _HELD_OVERHEAD for item in kept)
        return kept


class _Names:
    """Addresses of conversations as text, made once for each."""

    def __init__(self, conversations: Conversations) -> None:
        self.conversations = conversations
        self.known: dict[int, tuple[tuple[str, int], tuple[str, int]]] = {}

    def of(self, identity: int) -> tuple[tuple[str, int], tuple[str, int]]:
        """Address and port of both sides."""
        names = self.known.get(identity)
        if names is None:
            if len(self.known) > MOST_NAMES:
                self.known.clear()
            endpoint = self.conversations.endpoint
            names = self.known[identity] = endpoint(identity, 0), endpoint(identity, 1)
        return names

    def datagrams(
        self, frames: Frames, assigned: Assigned, positions: Ints, *, in_order: bool = True
    ) -> Iterator[Datagram]:
        """Make datagrams of these positions, in the order of the capture or as they stand."""
        if in_order:
            positions = positions[np.argsort(assigned.rows[positions], kind="stable")]
        rows = assigned.rows[positions]
        at, length = frames.payload[rows], frames.payload_length[rows]
        view = frames.data.data
        for number, time_ns, identity, side, begin, end, wire, cut in zip(
            frames.number[rows].tolist(),
            frames.time_ns[rows].tolist(),
            assigned.ids[positions].tolist(),
            assigned.side[positions].tolist(),
            at.tolist(),
            (at + length).tolist(),
            frames.wire_length[rows].tolist(),
            (length < frames.payload_wire[rows]).tolist(),
            strict=True,
        ):
            ends = self.of(identity)
            (source, source_port), (destination, destination_port) = ends[side], ends[1 - side]
            yield Datagram(
                number, time_ns, source, source_port, destination, destination_port, bytes(view[begin:end]), wire, cut
            )


def read_streams(
    path: str | Path,
    selection: Selection,
    signature: Signature,
    make: Callable[[StreamInfo], StreamParser | None],
    counts: Counts,
) -> None:
    """Read the TCP conversations a signature names and give their bytes, in order, to parsers.

    Parsers get bytes in the order of the capture across conversations. A conversation without payload gets no parser.

    Args:
        path: A pcap or pcapng file.
        selection: Packets wanted; `ALL` for all.
        signature: How the protocol's conversations are recognised.
        make: Makes the parser of a conversation when its first payload comes; None when it is not wanted after all.
        counts: Counts packets; `analyzed` counts those with payload that parsers were given.

    Raises:
        InvalidParameters: The file is not a capture.
        Unsupported: It is compressed, or of a format nobody reads any more.
    """
    _StreamReader(signature, make, counts).read(path, selection)


_Row = tuple[int, int, int, int, int, int, int, bytes, int]
"""Frame, time, conversation, side, sequence number, acknowledgement, flags, payload in the capture, payload on the wire."""


class _StreamReader:
    def __init__(self, signature: Signature, make: Callable[[StreamInfo], StreamParser | None], counts: Counts) -> None:
        self.conversations = Conversations(TCP)
        self.verdicts = Verdicts(self.conversations, signature)
        self.make, self.counts = make, counts
        self.live: dict[int, Stream] = {}
        self.held: _Held[_Row] = _Held(lambda row: len(row[7]))
        self.ended_early = 0

    def read(self, path: str | Path, selection: Selection) -> None:
        for frames in read_frames(path, selection, self.counts):
            assigned = self.conversations.assign(frames)
            if len(assigned.rows):
                self._piece(frames, assigned)
        for stream in self.live.values():
            stream.end("capture")
        _note_left_out(self.conversations, self.counts)
        if self.ended_early:
            self.counts.notes.append(
                f"{self.ended_early} conversations were not read to their end: more than {MOST_STREAMS} at once."
            )

    def _piece(self, frames: Frames, assigned: Assigned) -> None:
        wanted, undecided = self.verdicts.decide(frames, assigned)
        verdict = self.conversations.table["verdict"]
        if self.held:
            early: list[_Row] = []
            for identity in assigned.segments[verdict[assigned.segments] != 0].tolist():
                kept = self.held.take(identity)
                if verdict[identity] == 1:
                    early += kept
            for row in sorted(early):
                self._feed(row)
        rows = assigned.rows[wanted]
        useful = wanted[(frames.payload_wire[rows] > 0) | (frames.flags[rows] & (FIN | RST) != 0)]
        for row in _rows(frames, assigned, useful[np.argsort(assigned.rows[useful], kind="stable")]):
            self._feed(row)
        for row in _rows(frames, assigned, undecided):
            self.held.keep(row[2], row)
        if len(self.live) > 64 and sum(stream.waiting_bytes for stream in self.live.values()) > MOST_WAITING_BYTES:
            for stream in self.live.values():
                stream.give_up_waiting()

    def _feed(self, row: _Row) -> None:
        frame, time_ns, identity, side, seq, ack, flags, data, wire = row
        stream = self.live.get(identity)
        if stream is None:
            if not wire or self.conversations.table["verdict"][identity] != 1 or flags & RST:
                return
            stream = self._begin(identity)
            if stream is None:
                self.verdicts.refuse(identity)
                return
        if wire:
            self.counts.analyzed += 1
        if flags & RST:
            stream.last_ns, stream.last_frame = time_ns, frame
            stream.end("rst")
        else:
            if flags & SYN:
                seq = (seq + 1) & 0xFFFFFFFF
            stream.segment(side, seq, ack if flags & ACK else None, data, wire, time_ns, frame, fin=bool(flags & FIN))
        if stream.over:
            del self.live[identity]
            self.verdicts.refuse(identity)

    def _begin(self, identity: int) -> Stream | None:
        table, client = self.conversations.table, self.conversations.client(identity)
        (client_name, client_port), (server_name, server_port) = (
            self.conversations.endpoint(identity, client),
            self.conversations.endpoint(identity, 1 - client),
        )
        opened = table["syn"][identity] | table["syn_ack"][identity]
        parser = self.make(
            StreamInfo(
                identity,
                client_name,
                client_port,
                server_name,
                server_port,
                int(table["first_ns"][identity]),
                bool(opened.any()),
            )
        )
        if parser is None:
            return None
        if len(self.live) >= MOST_STREAMS:
            oldest = next(iter(self.live))
            self.live.pop(oldest).end("capture")
            self.verdicts.refuse(oldest)
            self.ended_early += 1
        base = table["base"][identity].tolist()
        first = tuple((base[side] + 1) & 0xFFFFFFFF if opened[side] else None for side in (0, 1))
        stream = self.live[identity] = Stream(parser, client, (first[0], first[1]))
        return stream


def _rows(frames: Frames, assigned: Assigned, positions: Ints) -> Iterator[_Row]:
    rows = assigned.rows[positions]
    at = frames.payload[rows]
    view = frames.data.data
    for number, time_ns, identity, side, seq, ack, flags, begin, end, wire in zip(
        frames.number[rows].tolist(),
        frames.time_ns[rows].tolist(),
        assigned.ids[positions].tolist(),
        assigned.side[positions].tolist(),
        frames.seq[rows].tolist(),
        frames.ack[rows].tolist(),
        frames.flags[rows].tolist(),
        at.tolist(),
        (at + frames.payload_length[rows]).tolist(),
        frames.payload_wire[rows].tolist(),
        strict=True,
    ):
        yield number, time_ns, identity, side, seq, ack, flags, bytes(view[begin:end]), wire


def _note_left_out(conversations: Conversations, counts: Counts) -> None:
    if conversations.left_out:
        counts.notes.append(
            f"{count(conversations.left_out, 'packet')} of conversations beyond the first {conversations.most:,} were left out."
        )


__all__ = [
    "ALL", "Counts", "Datagram", "Selection", "Signature", "StreamInfo", "StreamParser", "read_datagrams", "read_streams",
]  # fmt: skip
