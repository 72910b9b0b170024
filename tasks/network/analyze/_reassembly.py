"""Puts fragments of IP datagrams together, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MOST_DATAGRAMS: Final = 4096
"""Unfinished datagrams kept; the oldest goes first."""
MOST_BYTES: Final = 32 << 20
LONGEST: Final = 65_535
"""Bytes of the longest datagram; what claims more is an attack (the ping of death) or damage."""
MOST_PARTS: Final = 8192
"""Fragments of one datagram: 8 bytes each."""

Key = tuple[int, ...]


@dataclass(slots=True)
class _Pending:
    parts: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    total: int | None = None


@dataclass(slots=True)
class Fragments:
    """Unfinished datagrams by version, addresses, identification and protocol."""

    pending: dict[Key, _Pending] = field(default_factory=dict)
    size: int = 0
    given_up: int = 0

    def add(self, key: Key, offset: int, more: bool, data: bytes) -> bytes | None:
        """Take a fragment; return the whole datagram's payload when it was the missing one."""
        if offset + len(data) > LONGEST:
            return None
        datagram = self.pending.get(key)
        if datagram is None:
            datagram = self.pending[key] = _Pending()
        if not more:
            datagram.total = offset + len(data)
        kept = datagram.parts.get(offset)
        if (kept is None or len(kept) < len(data)) and len(datagram.parts) < MOST_PARTS:
            grown = len(data) - len(kept or b"")
            datagram.parts[offset] = data
            datagram.size += grown
            self.size += grown
        if datagram.total is not None and datagram.size >= datagram.total:
            whole = _join(datagram)
            if whole is not None:
                self._drop(key)
                return whole
        while len(self.pending) > MOST_DATAGRAMS or self.size > MOST_BYTES:
            self._drop(next(iter(self.pending)))
            self.given_up += 1
        return None

    def _drop(self, key: Key) -> None:
        self.size -= self.pending.pop(key).size


def _join(datagram: _Pending) -> bytes | None:
    whole = bytearray()
    for offset in sorted(datagram.parts):
        if offset > len(whole):
            return None
        whole[offset:] = datagram.parts[offset] + whole[offset + len(datagram.parts[offset]) :]
    return bytes(whole[: datagram.total])
