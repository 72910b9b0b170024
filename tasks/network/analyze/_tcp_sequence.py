"""Follows sequence and acknowledgement numbers of TCP conversations, and names what is out of the ordinary.

The words and the rules are those of Wireshark's user's guide (chapter "TCP Analysis"), so that its display filters (`tcp.analysis...`)
find the same packets. Conversations in which nothing happened in a piece, nearly all of them, are recognised for all their packets at
once; only the others are followed packet by packet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import ACK, FIN, RST, SYN, Frames
from tasks.network.analyze._records import Ints, Mask

FAST_NS: Final = 20_000_000
"""A retransmission that soon after the acknowledgement that asked for it is a fast one."""
USUAL_RTT_NS: Final = 3_000_000
"""How soon a segment must follow to count as out of order, where no handshake told the round-trip time."""
MOST_EVIDENCE: Final = 20
MOST_WITNESSED: Final = 2_000
"""Conversations whose frames are kept as evidence."""
_OPENING_OR_ENDING = SYN | FIN | RST


class Event(IntEnum):
    """What can be seen in a segment. The names are Wireshark's, of `tcp.analysis....`."""

    RETRANSMISSION = 0
    FAST_RETRANSMISSION = 1
    SPURIOUS_RETRANSMISSION = 2
    OUT_OF_ORDER = 3
    LOST_SEGMENT = 4
    ACK_LOST_SEGMENT = 5
    DUPLICATE_ACK = 6
    ZERO_WINDOW = 7
    ZERO_WINDOW_PROBE = 8
    KEEP_ALIVE = 9


_STATE: Final = ("next", "next_ns", "last_ack", "ack_ns", "last_window", "repeats", "was_probe", "contiguous")
_KEEP_ALIVE, _PROBE = 1, 2


@dataclass
class Sequences:
    """What was seen in each conversation: `events` has a column for each side and kind of event.

    `Handshakes` of the same conversations come first: they know the round-trip time.
    """

    conversations: Conversations
    totals: Ints = field(default_factory=lambda: np.zeros(len(Event), np.int64))
    resent_bytes: int = 0
    evidence: dict[int, dict[Event, list[int]]] = field(default_factory=dict)
    followed: int = 0
    """Packets that were looked at one by one."""

    def __post_init__(self) -> None:
        table = self.conversations.table
        for name in _STATE:
            table.column(name, fill=0 if name in ("repeats", "was_probe") else -1, width=2)
        table.column("events", "i4", width=2 * len(Event))

    def add(self, frames: Frames, assigned: Assigned) -> None:
        """Look at the packets of a piece."""
        if not len(assigned.rows):
            return
        piece = _Piece(frames, assigned, self.conversations)
        odd = piece.odd()
        ends = np.append(assigned.starts, len(assigned.rows))
        where = np.flatnonzero(odd)
        for segment in where.tolist():
            self._follow(frames, assigned, int(assigned.segments[segment]), int(ends[segment]), int(ends[segment + 1]))
        piece.keep(~odd)

    def of(self, identity: int, event: Event) -> tuple[int, int]:
        """How often an event was seen in segments of side 0, and of side 1."""
        row = self.conversations.table["events"][identity]
        return int(row[event]), int(row[len(Event) + event])

    def _witness(self, identity: int, event: Event, frame: int) -> None:
        kept = self.evidence.get(identity)
        if kept is None:
            if len(self.evidence) >= MOST_WITNESSED:
                return
            kept = self.evidence[identity] = {}
        frames = kept.setdefault(event, [])
        if len(frames) < MOST_EVIDENCE:
            frames.append(frame)

    def _follow(self, frames: Frames, assigned: Assigned, identity: int, begin: int, end: int) -> None:
        """Follow the packets of one conversation."""
        table = self.conversations.table
        sides = tuple(_Side.of([int(table[name][identity, side]) for name in _STATE]) for side in (0, 1))
        rows = assigned.rows[begin:end]
        self.followed += len(rows)
        rtt = int(table["first_rtt"][identity]) or USUAL_RTT_NS
        counts = table["events"][identity]
        columns = (
            assigned.side[begin:end], frames.time_ns[rows], frames.number[rows], frames.seq[rows], frames.ack[rows],
            frames.window[rows], frames.flags[rows], frames.payload_wire[rows], frames.payload[rows] - frames.transport[rows],
            frames.transport[rows],
        )  # fmt: skip
        for side, time_ns, number, seq, ack, window, flags, size, header, at in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            sender, other = sides[side], sides[1 - side]
            sack = _sack(frames, at, header) if header > 28 and flags & ACK else ()
            for event in _judge(sender, other, time_ns, seq, ack, window, flags, size, rtt, sack):
                counts[side * len(Event) + event] += 1
                self.totals[event] += 1
                if event <= Event.SPURIOUS_RETRANSMISSION:
                    self.resent_bytes += size
                self._witness(identity, event, number)
        for side, state in enumerate(sides):
            for name, value in zip(_STATE, state.values(), strict=True):
                table[name][identity, side] = value


@dataclass(slots=True)
class _Side:
    """What is remembered of one side; -1 means: nothing yet."""

    next: int
    next_ns: int
    last_ack: int
    ack_ns: int
    last_window: int
    repeats: int
    was_probe: int
    contiguous: int
    sack: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: list[int]) -> _Side:
        """Make it of what the columns hold."""
        following, next_ns, last_ack, ack_ns, last_window, repeats, was_probe, contiguous = values
        return cls(following, next_ns, last_ack, ack_ns, last_window, repeats, was_probe, contiguous)

    def values(self) -> tuple[int, ...]:
        """In the order of the columns."""
        return (
            self.next, self.next_ns, self.last_ack, self.ack_ns, self.last_window, self.repeats, self.was_probe, self.contiguous,
        )  # fmt: skip


def _ahead(seq: int, other: int) -> int:
    return ((seq - other + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def _judge(
    sender: _Side, other: _Side, time_ns: int, seq: int, ack: int, window: int, flags: int, size: int, rtt: int,
    sack: tuple[tuple[int, int], ...],
) -> list[Event]:  # fmt: skip
    """Name what a segment shows, and remember it."""
    events: list[Event] = []
    plain = not flags & _OPENING_OR_ENDING
    expected = sender.next >= 0 and seq == sender.next
    probe = 0
    repeat = False
    if size == 1 and expected and other.last_window == 0:
        events.append(Event.ZERO_WINDOW_PROBE)
        probe = _PROBE
    else:
        if window == 0 and plain:
            events.append(Event.ZERO_WINDOW)
        if sender.next >= 0 and _ahead(seq, sender.next) > 0 and not flags & RST:
            events.append(Event.LOST_SEGMENT)
        if size <= 1 and plain and sender.next >= 0 and seq == (sender.next - 1) & 0xFFFFFFFF:
            events.append(Event.KEEP_ALIVE)
            probe = _KEEP_ALIVE
        same = size == 0 and plain and expected and ack == sender.last_ack and window == sender.last_window
        # An answer to a keep-alive or a probe repeats an acknowledgement because it was asked to.
        repeat = same and window != 0 and other.was_probe != _KEEP_ALIVE
    if repeat:
        sender.repeats += 1
        events.append(Event.DUPLICATE_ACK)
    acked_before = sender.last_ack
    if ack != acked_before:
        sender.repeats = 0
    if other.contiguous >= 0 and flags & ACK and ack != acked_before and _ahead(ack, other.contiguous) > 0:
        events.append(Event.ACK_LOST_SEGMENT)
        other.contiguous = other.next
    after = (seq + size + bool(flags & (SYN | FIN))) & 0xFFFFFFFF
    if size and not probe and other.last_ack >= 0 and _ahead(seq + size, other.last_ack) <= 0:
        events.append(Event.SPURIOUS_RETRANSMISSION)
    elif (size or flags & (SYN | FIN)) and not probe and sender.next >= 0 and _ahead(seq, sender.next) < 0:
        probed = (
            size > 1 and seq == (sender.next - 1) & 0xFFFFFFFF
        )  # it follows a probe of a closed window, which it repeats
        if not probed:
            events.append(_sent_again(sender, other, time_ns, seq, after, rtt))
    if sender.next < 0 or _ahead(after, sender.next) > 0:
        if probe != _PROBE:
            if sender.contiguous < 0 or seq == sender.contiguous:
                sender.contiguous = after
            sender.next, sender.next_ns = after, time_ns
    elif seq == sender.contiguous and probe != _PROBE:
        sender.contiguous = sender.next
    sender.last_window, sender.last_ack, sender.ack_ns, sender.was_probe = window, ack, time_ns, probe
    sender.sack = sack
    return events


def _sent_again(sender: _Side, other: _Side, time_ns: int, seq: int, after: int, rtt: int) -> Event:
    """Name a segment that begins before the highest number seen."""
    since_ack = time_ns - other.ack_ns
    if other.repeats >= 2 and other.last_ack == seq and since_ack < FAST_NS:
        return Event.FAST_RETRANSMISSION
    if (
        since_ack < FAST_NS
        and other.sack
        and not any(_ahead(seq, left) >= 0 and _ahead(after, right) <= 0 for left, right in other.sack)
    ):
        return Event.FAST_RETRANSMISSION
    if time_ns - sender.next_ns < rtt and after != sender.next:
        return Event.OUT_OF_ORDER
    return Event.RETRANSMISSION


def _sack(frames: Frames, at: int, header: int) -> tuple[tuple[int, int], ...]:
    """Ranges that a selective acknowledgement names (RFC 2018)."""
    options = frames.data[at + 20 : at + header].tobytes()
    place = 0
    while place + 1 < len(options):
        kind = options[place]
        if kind == 0:
            break
        if kind == 1:
            place += 1
            continue
        size = options[place + 1]
        if size < 2:
            break
        if kind == 5:
            body = options[place + 2 : place + size]
            return tuple(
                (int.from_bytes(body[i : i + 4], "big"), int.from_bytes(body[i + 4 : i + 8], "big"))
                for i in range(0, len(body) - 7, 8)
            )
        place += size
    return ()


class _Piece:
    """All conversations of a piece at once: which are odd, and what is remembered of the others."""

    def __init__(self, frames: Frames, assigned: Assigned, conversations: Conversations) -> None:
        self.assigned, self.table = assigned, conversations.table
        rows = assigned.rows
        self.time_ns = frames.time_ns[rows]
        self.seq, self.ack, self.window = frames.seq[rows], frames.ack[rows], frames.window[rows]
        self.flags, self.size = frames.flags[rows], frames.payload_wire[rows]
        self.after = (self.seq + self.size + (self.flags & (SYN | FIN) != 0)) & 0xFFFFFFFF
        count = len(rows)
        self.first = np.repeat(assigned.starts, np.diff(np.append(assigned.starts, count)))
        place = np.arange(count)
        # The last packet of each side up to, but without, each packet; before the conversation's first here: none.
        self.previous = []
        for side in (0, 1):
            here = np.where(assigned.side == side, place, -1)
            latest = np.maximum.accumulate(here)
            before = np.concatenate([[-1], latest[:-1]])
            self.previous.append(np.where(before >= self.first, before, -1))

    def _was(self, name: str, column: Ints, same_side: bool) -> Ints:
        """The value of a column in the last packet of the same side, or of the other one; else what is remembered."""
        side = self.assigned.side if same_side else 1 - self.assigned.side
        before = np.where(side == 0, self.previous[0], self.previous[1])
        return np.where(before >= 0, column[before], self.table[name][self.assigned.ids, side])

    def odd(self) -> Mask:
        """Conversations in which anything but progress happened, one for each segment of the piece."""
        flags, size = self.flags, self.size
        expected = self._was("next", self.after, True)
        odd = (expected >= 0) & (self.seq != expected)
        odd |= (self.window == 0) & (flags & RST == 0)
        repeated = (size == 0) & (flags & _OPENING_OR_ENDING == 0) & (self.ack == self._was("last_ack", self.ack, True))
        odd |= repeated & (self.window == self._was("last_window", self.window, True))
        reached = self._was("contiguous", self.after, False)
        ahead = ((self.ack - reached + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        odd |= (flags & ACK != 0) & (reached >= 0) & (ahead > 0)
        acked = self._was("last_ack", self.ack, False)
        behind = ((self.seq + size - acked + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        odd |= (size > 0) & (acked >= 0) & (behind <= 0)
        ends = np.append(self.assigned.starts[1:], len(flags)) - 1
        last = np.zeros(len(flags), np.bool_)
        last[ends] = True
        odd |= (flags & RST != 0) & ~last
        found: Mask = np.logical_or.reduceat(odd, self.assigned.starts)
        table, ids = self.table, self.assigned.segments
        # What is remembered of an odd conversation may not be as simple as what the others leave behind.
        found |= (table["last_window"][ids] == 0).any(axis=1) | (table["was_probe"][ids] != 0).any(axis=1)
        found |= (table["contiguous"][ids] != table["next"][ids]).any(axis=1)
        return found

    def keep(self, plain: Mask) -> None:
        """Remember what the last packets of these conversations said."""
        ids, table = self.assigned.segments[plain], self.table
        for side in (0, 1):
            place = np.where(self.assigned.side == side, np.arange(len(self.seq)), -1)
            last = np.maximum.reduceat(place, self.assigned.starts)[plain]
            there = last >= 0
            rows, who = last[there], ids[there]
            changed = np.where(
                self.assigned.side == side,
                self.ack != self._was("last_ack", self.ack, True),
                np.zeros(len(self.ack), np.bool_),
            )
            changed = np.logical_or.reduceat(changed, self.assigned.starts)[plain][there]
            table["repeats"][who[changed], side] = 0
            # A bare acknowledgement does not move on; the first packet of all does.
            moved = np.where((self.after != self.seq) | (self._was("next", self.after, True) < 0), place, -1)
            moved = np.maximum.reduceat(moved, self.assigned.starts)[plain]
            table["next_ns"][ids[moved >= 0], side] = self.time_ns[moved[moved >= 0]]
            table["next"][who, side] = table["contiguous"][who, side] = self.after[rows]
            table["ack_ns"][who, side] = self.time_ns[rows]
            table["last_ack"][who, side], table["last_window"][who, side] = self.ack[rows], self.window[rows]
