"""ICMP messages that say why a datagram did not arrive, and which one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tasks.network.analyze._frames import Frames, address
from tasks.network.analyze._ip import ICMP, ICMPV6

_V4: Final = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable", 4: "too big",
    5: "source route failed", 6: "network unknown", 7: "host unknown", 9: "network prohibited", 10: "host prohibited",
    11: "network unreachable", 12: "host unreachable", 13: "prohibited", 14: "prohibited", 15: "prohibited",
}  # fmt: skip
"""Codes of "destination unreachable" (RFC 792, 1122, 1812)."""
_V6: Final = {
    0: "no route",
    1: "prohibited",
    2: "beyond scope",
    3: "host unreachable",
    4: "port unreachable",
    5: "prohibited",
    6: "no route",
}
"""RFC 4443."""


@dataclass(slots=True)
class IcmpError:
    """An error, and the packet it is about. Ports are -1 where the error does not have them."""

    frame: int
    reporter: str
    reason: str
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int


def icmp_errors(frames: Frames) -> Iterator[IcmpError]:
    """The errors of a piece, in order."""
    rows = np.flatnonzero(((frames.protocol == ICMP) | (frames.protocol == ICMPV6)) & (frames.transport >= 0))
    view = frames.data.data
    end = frames.start + frames.captured_length
    for row in rows.tolist():
        at = int(frames.transport[row])
        data = bytes(view[at : min(at + 80, max(int(end[row]), at))])
        if len(data) < 8:
            continue
        kind, code, inner = data[0], data[1], data[8:]
        if frames.version[row] == 4:
            reason = _V4.get(code, "unreachable") if kind == 3 else "time exceeded" if kind == 11 else ""
        else:
            reason = {1: _V6.get(code, "unreachable"), 2: "too big", 3: "time exceeded"}.get(kind, "")
        if reason and (about := _about(inner)):
            yield IcmpError(int(frames.number[row]), frames.source(row), reason, *about)


def _about(inner: bytes) -> tuple[int, str, int, str, int] | None:
    """Protocol, source, port, destination and port of the packet an error quotes."""
    if len(inner) >= 20 and inner[0] >> 4 == 4:
        protocol, version, size = inner[9], 4, (inner[0] & 15) * 4
        ends = int.from_bytes(inner[12:16], "big"), int.from_bytes(inner[16:20], "big")
        first = not int.from_bytes(inner[6:8], "big") & 0x1FFF
    elif len(inner) >= 40 and inner[0] >> 4 == 6:
        protocol, version, size = inner[6], 6, 40
        ends = int.from_bytes(inner[8:24], "big"), int.from_bytes(inner[24:40], "big")
        first = True
    else:
        return None
    source, destination = (address(version, end >> 64, end & (1 << 64) - 1) for end in ends)
    ports = (-1, -1)
    if protocol in (6, 17) and first and len(inner) >= size + 4:
        ports = int.from_bytes(inner[size : size + 2], "big"), int.from_bytes(inner[size + 2 : size + 4], "big")
    return protocol, source, ports[0], destination, ports[1]
