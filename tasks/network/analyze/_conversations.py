"""Gives every packet the number of its conversation: of all packets of a piece at once, over all pieces.

Numbers count from 0 in the order in which conversations begin, as Wireshark's `tcp.stream` and `udp.stream` do. A TCP conversation ends
where its ports are used again: at a SYN with another sequence number.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tasks.network.analyze._frames import ACK, SYN, TCP, Frames, address
from tasks.network.analyze._records import Ints, Mask
from tasks.network.analyze._table import Index, Table

MOST_CONVERSATIONS: Final = 200_000
"""Conversations told apart; packets of further ones are counted. Three tables of them fit into 512 MB of address space."""

_Words = npt.NDArray[np.uint64]


@dataclass(slots=True)
class Assigned:
    """Packets of a piece sorted by conversation, in their order within each.

    Attributes:
        rows: Rows of the frames.
        ids: Each one's conversation.
        side: 0 where the conversation's endpoint 0 sent it, 1 where its endpoint 1 did.
        starts: Where in `rows` each conversation begins.
        segments: The conversation that begins there. None is there twice.
    """

    rows: Ints
    ids: Ints
    side: Ints
    starts: Ints
    segments: Ints


@dataclass
class Conversations:
    """Conversations of one protocol (`TCP` or `UDP`), or of pairs of addresses (-1: any IP packet)."""

    protocol: int
    most: int = MOST_CONVERSATIONS
    table: Table = field(init=False)
    left_out: int = 0
    """Packets whose conversation is one too many."""
    _index: Index = field(init=False)
    _seed: int = field(default_factory=lambda: secrets.randbits(64))

    def __post_init__(self) -> None:
        self.table, self._index = Table(self.most), Index(self.most)
        self.table.column("version", "i1")
        self.table.column("high", "u8", width=2)
        self.table.column("low", "u8", width=2)
        self.table.column("port", "i4", width=2)
        self.table.column("first_ns")
        self.table.column("first_frame")
        if self.protocol == TCP:
            self.table.column("base", fill=-1, width=2)
            self.table.column("syn", "?", width=2)
            self.table.column("syn_ack", "?", width=2)

    def __len__(self) -> int:
        return self.table.size

    def assign(self, frames: Frames) -> Assigned:
        """Find the conversation of each packet of the protocol."""
        self.table.release()  # of the piece before
        if self.protocol < 0:
            rows = np.flatnonzero(frames.version)
            ports = np.zeros((2, len(rows)), np.int64)
        else:
            rows = np.flatnonzero(frames.is_tcp if self.protocol == TCP else frames.is_udp)
            ports = np.stack([frames.source_port[rows], frames.destination_port[rows]])
        if not len(rows):
            empty = np.zeros(0, np.int64)
            return Assigned(empty, empty, empty, empty, empty)
        high = np.stack([frames.source_high[rows], frames.destination_high[rows]])
        low = np.stack([frames.source_low[rows], frames.destination_low[rows]])
        swapped = (high[0] > high[1]) | (
            (high[0] == high[1]) & ((low[0] > low[1]) | ((low[0] == low[1]) & (ports[0] > ports[1])))
        )
        for pair in (high, low, ports):
            pair[:, swapped] = pair[::-1, swapped]
        version = frames.version[rows]
        hashes, order, changes = self._group(version, high, low, ports)
        rows, side = rows[order], swapped[order].astype(np.int64)
        starts = np.flatnonzero(np.concatenate([[True], changes]))
        firsts = order[starts]
        table = self.table

        def same(identity: Ints, which: Ints) -> Mask:
            first = firsts[which]
            equal: Mask = table["version"][identity] == version[first]
            for name, pair in (("port", ports), ("low", low), ("high", high)):
                equal &= (table[name][identity] == pair[:, first].T).all(axis=1)
            return equal

        known, slots = self._index.find(hashes[firsts], same)
        cuts, group, fresh = starts, np.arange(len(starts)), known < 0
        if self.protocol == TCP and (extra := self._reused(frames, rows, side, starts, known)):
            cuts = np.concatenate([starts, np.array(extra, np.int64)])
            place = np.argsort(cuts, kind="stable")
            cuts = cuts[place]
            group = np.searchsorted(starts, cuts, "right") - 1
            fresh = np.concatenate([fresh, np.ones(len(extra), np.bool_)])[place]
        segments = self._number(rows, cuts, group, fresh, known, slots)
        new = np.flatnonzero(fresh & (segments >= 0))
        self._describe(frames, segments[new], rows[cuts[new]], firsts[group[new]], version, high, low, ports)
        lengths = np.diff(np.append(cuts, len(rows)))
        ids = np.repeat(segments, lengths)
        if (segments < 0).any():
            kept = ids >= 0
            self.left_out += int((~kept).sum())
            rows, ids, side = rows[kept], ids[kept], side[kept]
            segments, lengths = segments[segments >= 0], lengths[segments >= 0]
            cuts = np.cumsum(lengths) - lengths
        assigned = Assigned(rows, ids, side, cuts, segments)
        if self.protocol == TCP and len(rows):
            self._remember(frames, assigned)
        return assigned

    def _group(self, version: Ints, high: _Words, low: _Words, ports: Ints) -> tuple[_Words, Ints, Mask]:
        """Sort packets by conversation: a hash of each packet's, the order, and where in it another one begins."""
        tail = (ports[0] << 24 | ports[1] << 8 | version).astype(np.uint64)
        mixed = _mix(low[0] + np.uint64(self._seed)) + low[1]
        mixed = _mix(mixed) + tail
        columns = [low[0], low[1], tail]
        if high.any():
            # The hash of a key must not depend on what else is in the piece.
            mixed = np.where(high[0] | high[1] != 0, _mix(_mix(mixed) + high[0]) + high[1], mixed)
            columns += [high[0], high[1]]
        hashes = _mix(mixed)
        order = np.argsort(hashes, kind="stable")
        mixed = hashes[order]
        changes = mixed[1:] != mixed[:-1]
        differ = np.zeros(len(changes), np.bool_)
        for values in columns:
            values = values[order]  # noqa: PLW2901 - the same column, sorted
            differ |= values[1:] != values[:-1]
        if (differ & ~changes).any():  # two conversations with one hash: sort by what it stands for
            order = np.lexsort(columns)
            changes = np.zeros(len(changes), np.bool_)
            for values in columns:
                values = values[order]  # noqa: PLW2901
                changes |= values[1:] != values[:-1]
        return hashes, order, changes

    def _number(self, rows: Ints, cuts: Ints, group: Ints, fresh: Mask, known: Ints, slots: Ints) -> Ints:
        """Number the new conversations in the order they begin; -1 where there is no room for them."""
        segments = known[group]
        new = np.flatnonzero(fresh)
        new = new[np.argsort(rows[cuts[new]], kind="stable")]
        room = max(self.most - self.table.size, 0)
        first = self.table.size
        segments[new[:room]] = np.arange(first, first + len(new[:room]))
        segments[new[room:]] = -1
        self.table.grow(first + len(new[:room]))
        # Cuts of one group follow each other: the last one that has a number is what the key means from now on.
        numbered = np.sort(new[:room])
        last = numbered[np.append(group[numbered][1:] != group[numbered][:-1], True)] if len(numbered) else numbered
        self._index.put(slots[group[last]], segments[last])
        return segments

    def _describe(
        self, frames: Frames, ids: Ints, rows: Ints, firsts: Ints, version: Ints, high: _Words, low: _Words, ports: Ints
    ) -> None:
        table = self.table
        table["version"][ids] = version[firsts]
        table["high"][ids], table["low"][ids] = high[:, firsts].T, low[:, firsts].T
        table["port"][ids] = ports[:, firsts].T
        table["first_ns"][ids], table["first_frame"][ids] = frames.time_ns[rows], frames.number[rows]

    def _reused(self, frames: Frames, rows: Ints, side: Ints, starts: Ints, known: Ints) -> list[int]:
        """Positions of packets that begin a new conversation between endpoints that had one."""
        flags = frames.flags[rows]
        opening = (flags & (SYN | ACK)) == SYN
        opening[starts] &= known >= 0  # the first packet of a new conversation begins it anyway
        late = np.flatnonzero(opening)
        if not len(late):
            return []
        found: list[int] = []
        ends = np.append(starts, len(rows))
        for index in np.unique(np.searchsorted(starts, late, "right") - 1).tolist():
            identity = int(known[index])
            base = [-1, -1] if identity < 0 else self.table["base"][identity].tolist()
            for position in range(int(ends[index]), int(ends[index + 1])):
                row, here = rows[position], int(side[position])
                flag, seq = int(flags[position]), int(frames.seq[row])
                if flag & (SYN | ACK) == SYN and base[here] >= 0 and seq != base[here]:
                    found.append(position)
                    base = [-1, -1]
                if base[here] < 0:
                    base[here] = seq if flag & SYN else (seq - 1) & 0xFFFFFFFF
                if base[1 - here] < 0 and flag & ACK:
                    base[1 - here] = (int(frames.ack[row]) - 1) & 0xFFFFFFFF
        return found

    def _remember(self, frames: Frames, assigned: Assigned) -> None:
        """Keep what tells whether ports are used again, and who opened the conversation."""
        rows, side, starts, ids = assigned.rows, assigned.side, assigned.starts, assigned.segments
        flags, table = frames.flags[rows], self.table
        place = np.arange(len(rows))
        never = len(rows)
        for here in (0, 1):
            mine = side == here
            table["syn"][ids, here] |= np.logical_or.reduceat(mine & (flags & (SYN | ACK) == SYN), starts)
            table["syn_ack"][ids, here] |= np.logical_or.reduceat(mine & (flags & (SYN | ACK) == SYN | ACK), starts)
            sent = np.minimum.reduceat(np.where(mine, place, never), starts)
            acked = np.minimum.reduceat(np.where(~mine & (flags & ACK != 0), place, never), starts)
            unset = np.flatnonzero((table["base"][ids, here] < 0) & (np.minimum(sent, acked) < never))
            if len(unset):
                by_ack = acked[unset] < sent[unset]
                at = np.where(by_ack, acked[unset], sent[unset])
                value = np.where(
                    by_ack, frames.ack[rows[at]] - 1, frames.seq[rows[at]] - (flags[at] & SYN == 0).astype(np.int64)
                )
                table["base"][ids[unset], here] = value & 0xFFFFFFFF

    def client(self, identity: int) -> int:
        """The side that opened the conversation; where that was not seen, the one with the higher port."""
        table = self.table
        if self.protocol == TCP:
            if table["syn"][identity].any():
                return int(not table["syn"][identity, 0])
            if table["syn_ack"][identity].any():
                return int(table["syn_ack"][identity, 0])
        first, second = table["port"][identity].tolist()
        return 0 if first > second else 1

    def clients(self) -> Ints:
        """`client` of all conversations at once."""
        return self.table.each(self._clients)

    def _clients(self, rows: slice) -> Ints:
        table = self.table
        side = (table["port"][rows, 0] <= table["port"][rows, 1]).astype(np.int64)
        if self.protocol == TCP:
            answered = table["syn_ack"][rows].any(axis=1)
            side = np.where(answered, table["syn_ack"][rows, 0].astype(np.int64), side)
            opened = table["syn"][rows].any(axis=1)
            side = np.where(opened, 1 - table["syn"][rows, 0].astype(np.int64), side)
        return side

    def endpoint(self, identity: int, side: int) -> tuple[str, int]:
        """Address and port of a side."""
        table = self.table
        high, low = int(table["high"][identity, side]), int(table["low"][identity, side])
        return address(int(table["version"][identity]), high, low), int(table["port"][identity, side])


def _mix(value: _Words) -> _Words:
    """Spread every bit over all others (splitmix64's finish): equal sums must not make equal hashes."""
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)
