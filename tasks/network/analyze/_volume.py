"""Adds up packets and bytes of conversations, for each side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import Frames
from tasks.network.analyze._records import Ints


@dataclass
class Volume:
    """Columns `packets`, `bytes` and `payload` for each side, and `last_ns`, in the conversations' table."""

    conversations: Conversations

    def __post_init__(self) -> None:
        table = self.conversations.table
        for name in ("packets", "bytes", "payload"):
            table.column(name, width=2)
        table.column("last_ns", fill=-(2**62))

    def add(self, frames: Frames, assigned: Assigned) -> None:
        """Count the packets of a piece."""
        rows, starts, ids = assigned.rows, assigned.starts, assigned.segments
        if not len(rows):
            return
        table = self.conversations.table
        wire, payload = frames.wire_length[rows], frames.payload_wire[rows]
        second = assigned.side
        for name, values in (("packets", np.ones(len(rows), np.int64)), ("bytes", wire), ("payload", payload)):
            both, of_second = np.add.reduceat(values, starts), np.add.reduceat(values * second, starts)
            table[name][ids, 0] += both - of_second
            table[name][ids, 1] += of_second
        table["last_ns"][ids] = np.maximum(table["last_ns"][ids], np.maximum.reduceat(frames.time_ns[rows], starts))

    def largest(self, top: int) -> list[int]:
        """The conversations with the most bytes."""
        table = self.conversations.table
        return largest(table.each(lambda rows: table["bytes"][rows].sum(axis=1)), top)

    def duration_ns(self, identity: int) -> int:
        """Time from a conversation's first packet to its last."""
        table = self.conversations.table
        return max(int(table["last_ns"][identity] - table["first_ns"][identity]), 0)


def largest(values: Ints, top: int) -> list[int]:
    """Where the `top` largest values are, the largest first; of equal ones the earlier."""
    if top < len(values):
        least = np.partition(values, len(values) - top)[len(values) - top]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    found: list[int] = places[np.lexsort((places, -values[places]))][:top].tolist()
    return found
