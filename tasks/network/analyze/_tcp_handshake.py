"""Who opened each TCP conversation, how long the handshake took, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import ACK, FIN, PSH, RST, SYN, Frames
from tasks.network.analyze._records import Ints, Mask

_URG = 32


class Ending(IntEnum):
    """What became of a conversation."""

    OPEN = 0  # going on when the capture ended, or its end is not in it
    CLOSED = 1  # both sides said FIN
    RESET = 2  # established, then RST
    REFUSED = 3  # a SYN answered with RST
    UNANSWERED = 4  # a SYN and nothing
    HALF_OPEN = 5  # a SYN, its answer, and no more
    STRAY = 6  # flags no TCP sends first: a scan (FIN, NULL, Xmas)


@dataclass
class Handshakes:
    """Times and flags of each conversation, in the conversations' table."""

    conversations: Conversations

    def __post_init__(self) -> None:
        table = self.conversations.table
        for name in ("syn_ns", "syn_ack_ns", "first_ack_ns"):
            table.column(name, fill=-1)
        table.column("first_rtt")
        table.column("flags", "i2", width=2)
        table.column("first_flags", "i2", fill=-1)

    def add(self, frames: Frames, assigned: Assigned) -> None:
        """Look at the packets of a piece."""
        rows, starts, ids = assigned.rows, assigned.starts, assigned.segments
        if not len(rows):
            return
        table, side, flags = self.conversations.table, assigned.side, frames.flags[rows]
        place, never = np.arange(len(rows)), len(rows)
        new = table["first_flags"][ids] < 0
        table["first_flags"][ids[new]] = flags[starts[new]]
        for here in (0, 1):
            table["flags"][ids, here] |= np.bitwise_or.reduceat(np.where(side == here, flags, 0), starts)

        def earliest(mask: Mask) -> Ints:
            found: Ints = np.minimum.reduceat(np.where(mask, place, never), starts)
            return found

        time_ns = frames.time_ns[rows]
        opening = flags & (SYN | ACK) == SYN
        asked = earliest(opening)
        first_time = (asked < never) & (table["syn_ns"][ids] < 0)
        table["syn_ns"][ids[first_time]] = time_ns[asked[first_time]]
        answer = earliest(flags & (SYN | ACK) == SYN | ACK)
        fresh = (answer < never) & (table["syn_ack_ns"][ids] < 0) & (table["syn_ns"][ids] >= 0)
        table["syn_ack_ns"][ids[fresh]] = time_ns[answer[fresh]]
        # The client's first acknowledgement after its SYN, whatever it carries: the bare one, or the server's answer, may be lost.
        lengths = np.diff(np.append(starts, never))
        client = np.where(table["syn"][ids, 0] != 0, 0, 1)
        theirs = side == np.repeat(client, lengths)
        later = place > np.repeat(np.where(first_time, asked, -1), lengths)
        final = earliest(theirs & later & (flags & (SYN | ACK | RST) == ACK))
        done = (final < never) & (table["first_ack_ns"][ids] < 0) & (table["syn_ns"][ids] >= 0)
        table["first_ack_ns"][ids[done]] = time_ns[final[done]]
        table["first_rtt"][ids[done]] = np.maximum(time_ns[final[done]] - table["syn_ns"][ids[done]], 0)

    def endings(self) -> Ints:
        """What became of each conversation."""
        return self.conversations.table.each(self._endings)

    def _endings(self, rows: slice) -> Ints:
        table = self.conversations.table
        flags = table["flags"][rows].astype(np.int64)
        both, either = flags[:, 0] & flags[:, 1], flags[:, 0] | flags[:, 1]
        opened, answered = table["syn"][rows].any(axis=1), table["syn_ack"][rows].any(axis=1)
        ending = np.full(len(flags), Ending.OPEN, np.int64)
        ending[both & FIN != 0] = Ending.CLOSED
        ending[either & RST != 0] = Ending.RESET
        acked = table["first_ack_ns"][rows] >= 0
        client = np.where(table["syn"][rows, 0] != 0, 0, 1)
        who = np.arange(len(flags))
        said = flags[who, client] | flags[who, 1 - client]
        ending[opened & answered & ~acked & (said & (PSH | FIN) == 0)] = Ending.HALF_OPEN
        ending[opened & ~answered & (flags[who, 1 - client] & RST != 0)] = Ending.REFUSED
        ending[opened & ~answered & (flags[who, 1 - client] == 0)] = Ending.UNANSWERED
        first = table["first_flags"][rows]
        ending[~opened & ~answered & ((first == 0) | (first == FIN) | (first == FIN | PSH | _URG))] = Ending.STRAY
        return ending
