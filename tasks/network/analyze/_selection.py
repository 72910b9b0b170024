"""What part of a capture an analysis is asked for: travels to the child process, so it imports nothing of the kit."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """Packets of a host, a port, a stretch of time; empty means all.

    Attributes:
        addresses: Addresses of the host; either end of a packet may be one of them.
        port: TCP or UDP port of either end.
        start_ns: First nanosecond since the epoch that counts.
        end_ns: First one that counts no more.
    """

    addresses: tuple[str, ...] = ()
    port: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.addresses and self.port is None and self.start_ns is None and self.end_ns is None

    def pairs(self) -> list[tuple[int, int, int]]:
        """The addresses as columns hold them: version, upper and lower 64 bits."""
        found: list[tuple[int, int, int]] = []
        for text in self.addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            number = int(address)
            found.append((address.version, number >> 64, number & (1 << 64) - 1))
        return found


ALL = Selection()
