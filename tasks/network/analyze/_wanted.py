"""Decides which conversations an analyzer looks into: by their ports, or by how their payload begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import Frames
from tasks.network.analyze._records import Ints, Mask

FIRST_BYTES: Final = 64
"""How much of a first payload a signature's test sees."""
_UNDECIDED, _YES, _NO = 0, 1, 2


@dataclass(frozen=True)
class Signature:
    """How a protocol's conversations are recognised.

    A conversation is wanted when one of its ports is in `ports`, or when its first payload (of either direction) begins with one of
    `prefixes` and, where there is a `test`, that agrees. A test without prefixes sees every first payload.

    Attributes:
        ports: Ports that speak the protocol.
        prefixes: How its first payload begins.
        test: Sees at most the first 64 bytes of it.
    """

    ports: frozenset[int] = frozenset()
    prefixes: tuple[bytes, ...] = ()
    test: Callable[[bytes], bool] | None = None

    @property
    def looks(self) -> bool:
        """Whether payload says anything."""
        return bool(self.prefixes) or self.test is not None

    def matches(self, first: bytes) -> bool:
        """Whether a first payload is the protocol's."""
        if self.prefixes and not first.startswith(self.prefixes):
            return False
        return self.test is None or self.test(first)


@dataclass
class Verdicts:
    """What was decided about each conversation so far."""

    conversations: Conversations
    signature: Signature
    _ports: Mask = field(init=False)

    def __post_init__(self) -> None:
        self._ports = np.zeros(65_536, np.bool_)
        self._ports[list(self.signature.ports)] = True
        self.conversations.table.column("verdict", "i1")
        self.conversations.table.column("looked", "?", width=2)

    def refuse(self, identity: int) -> None:
        """Look into this one no more."""
        self.conversations.table["verdict"][identity] = _NO

    def decide(self, frames: Frames, assigned: Assigned) -> tuple[Ints, Ints]:
        """Decide about the conversations of a piece.

        Returns:
            Positions in `assigned.rows` of packets of wanted conversations, and of payload that may turn out to be wanted, the
            latter in the order of the capture.
        """
        table, verdict = self.conversations.table, self.conversations.table["verdict"]
        fresh = assigned.segments[verdict[assigned.segments] == _UNDECIDED]
        by_port = self._ports[table["port"][fresh]].any(axis=1)
        verdict[fresh[by_port]] = _YES
        if not self.signature.looks:
            verdict[fresh[~by_port]] = _NO
        else:
            self._look(frames, assigned)
        decided = verdict[assigned.ids]
        yes = np.flatnonzero(decided == _YES)
        open_still = np.flatnonzero((decided == _UNDECIDED) & (frames.payload_length[assigned.rows] > 0))
        return yes, open_still[np.argsort(assigned.rows[open_still], kind="stable")]

    def _look(self, frames: Frames, assigned: Assigned) -> None:
        table = self.conversations.table
        verdict, looked = table["verdict"], table["looked"]
        ids, side, rows = assigned.ids, assigned.side, assigned.rows
        candidates = np.flatnonzero(
            (verdict[ids] == _UNDECIDED) & (frames.payload_length[rows] > 0) & (looked[ids, side] == 0)
        )
        if not len(candidates):
            return
        # Sorted by conversation, not by side: the first of each (conversation, side) is what np.unique points at.
        _, first = np.unique(ids[candidates] * 2 + side[candidates], return_index=True)
        chosen = candidates[first]
        at = frames.payload[rows[chosen]]
        end = at + np.minimum(frames.payload_length[rows[chosen]], FIRST_BYTES)
        view, matches = frames.data.data, self.signature.matches
        hits = [matches(bytes(view[a:b])) for a, b in zip(at.tolist(), end.tolist(), strict=True)]
        looked[ids[chosen], side[chosen]] = True
        verdict[ids[chosen][np.array(hits, np.bool_)]] = _YES
        done = assigned.segments[looked[assigned.segments].all(axis=1)]
        verdict[done[verdict[done] == _UNDECIDED]] = _NO
