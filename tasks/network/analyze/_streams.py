"""Puts the payload of a TCP conversation into order: every byte once, and every hole named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

MOST_WAITING_BYTES: Final = 4 << 20
"""Of one direction: segments that came early and wait for the missing ones. More than any window in common use."""
MOST_WAITING: Final = 4096
"""Segments that wait, of one direction."""


class StreamParser(Protocol):
    """What an analyzer makes of a conversation."""

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """Bytes of one direction, in order, each once. Time and frame are those of the packet that brought them."""

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """So many bytes of one direction are not in the capture: lost, or cut by the snap length."""

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over: `fin`, `rst`, or `capture` when the capture ends first."""


@dataclass(slots=True)
class StreamInfo:
    """A TCP conversation.

    Attributes:
        index: Its number, as Wireshark's `tcp.stream` when nothing of the capture is left out.
        client: Address of who opened it; where that is not in the capture, of the one with the higher port.
        client_port: Its port.
        server: Address of the other one.
        server_port: Its port.
        start_ns: Time of its first packet.
        handshake: Whether the capture has its beginning.
    """

    index: int
    client: str
    client_port: int
    server: str
    server_port: int
    start_ns: int
    handshake: bool


@dataclass(slots=True)
class _Waiting:
    seq: int
    data: bytes
    missing: int
    time_ns: int
    frame: int


@dataclass(slots=True)
class _Half:
    """One direction. `next` is the sequence number of the next byte; None before the first one."""

    next: int | None = None
    waiting: list[_Waiting] = field(default_factory=list)
    waiting_bytes: int = 0
    fin: int | None = None

    @property
    def finished(self) -> bool:
        return self.fin is not None and self.next is not None and _ahead(self.fin, self.next) <= 0


def _ahead(seq: int, other: int) -> int:
    """How far a sequence number is ahead of another (RFC 793's arithmetic, modulo 2**32)."""
    return ((seq - other + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class Stream:
    """Both directions of a conversation, and the parser that reads them."""

    __slots__ = ("client", "halves", "last_frame", "last_ns", "over", "parser")

    def __init__(self, parser: StreamParser, client: int, first: tuple[int | None, int | None]) -> None:
        """Begin.

        Args:
            parser: Gets the bytes.
            client: The side (0 or 1) of the client.
            first: For each side the sequence number of its first byte, where the handshake told it.
        """
        self.parser = parser
        self.client = client
        self.halves = (_Half(first[0]), _Half(first[1]))
        self.over = False
        self.last_ns = self.last_frame = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for missing ones."""
        return self.halves[0].waiting_bytes + self.halves[1].waiting_bytes

    def segment(
        self, side: int, seq: int, ack: int | None, data: bytes, wire: int, time_ns: int, frame: int, *, fin: bool
    ) -> None:
        """Take a segment.

        Args:
            side: Who sent it.
            seq: Sequence number of its first byte of payload.
            ack: What it acknowledges.
            data: Its payload in the capture.
            wire: Bytes of payload it had on the wire.
            time_ns: When.
            frame: Its number.
            fin: Whether it is the last one of its side.
        """
        if self.over:
            return
        self.last_ns, self.last_frame = time_ns, frame
        half = self.halves[side]
        if ack is not None:
            other = self.halves[1 - side]
            # Acknowledged is received: what is missing before is missing in the capture alone.
            while other.waiting and other.next is not None and _ahead(ack, other.next) > 0:
                if _ahead(other.waiting[0].seq, ack) > 0:
                    break
                self._skip(1 - side)
        if wire:
            if half.next is None:
                half.next = seq
            if _ahead(seq, half.next) > 0:
                self._wait(side, _Waiting(seq, data, wire - len(data), time_ns, frame))
            else:
                self._take(side, seq, data, wire - len(data), time_ns, frame)
                if half.waiting:
                    self._drain(side)
        elif half.next is None and fin:
            half.next = seq
        if fin:
            half.fin = (seq + wire) & 0xFFFFFFFF
        if (half.fin is not None or self.halves[1 - side].fin is not None) and all(h.finished for h in self.halves):
            self.end("fin")

    def end(self, how: str) -> None:
        """End the conversation: what waits is given out, with the holes named."""
        if self.over:
            return
        for side in (0, 1):
            while self.halves[side].waiting:
                self._skip(side)
        self.over = True
        if how == "capture" and any(half.fin is not None for half in self.halves):
            how = "fin"
        self.parser.end(how, self.last_ns, self.last_frame)

    def give_up_waiting(self) -> None:
        """Wait no longer for missing bytes."""
        for side in (0, 1):
            while self.halves[side].waiting:
                self._skip(side)

    def _take(self, side: int, seq: int, data: bytes, missing: int, time_ns: int, frame: int) -> None:
        """Give out what of a segment is new; it does not begin after the next byte."""
        half = self.halves[side]
        assert half.next is not None
        old = -_ahead(seq, half.next)
        if old >= len(data) + missing:
            return
        from_client = side == self.client
        if old:
            missing = min(missing, len(data) + missing - old)
            data = data[old:]
        if data:
            half.next = (half.next + len(data)) & 0xFFFFFFFF
            self.parser.data(from_client, data, time_ns, frame)
        if missing:
            half.next = (half.next + missing) & 0xFFFFFFFF
            self.parser.gap(from_client, missing, time_ns, frame)

    def _wait(self, side: int, segment: _Waiting) -> None:
        half = self.halves[side]
        assert half.next is not None
        place = len(half.waiting)
        while place and _ahead(half.waiting[place - 1].seq, segment.seq) > 0:
            place -= 1
        if (
            place
            and half.waiting[place - 1].seq == segment.seq
            and len(half.waiting[place - 1].data) >= len(segment.data)
        ):
            return
        half.waiting.insert(place, segment)
        half.waiting_bytes += len(segment.data)
        while half.waiting_bytes > MOST_WAITING_BYTES or len(half.waiting) > MOST_WAITING:
            self._skip(side)

    def _drain(self, side: int) -> None:
        """Give out what waited for exactly these bytes."""
        half = self.halves[side]
        assert half.next is not None
        done = 0
        for segment in half.waiting:
            if _ahead(segment.seq, half.next) > 0:
                break
            done += 1
            half.waiting_bytes -= len(segment.data)
            self._take(side, segment.seq, segment.data, segment.missing, segment.time_ns, segment.frame)
        del half.waiting[:done]

    def _skip(self, side: int) -> None:
        """Call the hole before the first waiting segment a gap, and go on behind it."""
        half = self.halves[side]
        assert half.next is not None
        first = half.waiting[0]
        missing = _ahead(first.seq, half.next)
        if missing > 0:
            half.next = first.seq
            self.parser.gap(side == self.client, missing, first.time_ns, first.frame)
        self._drain(side)
