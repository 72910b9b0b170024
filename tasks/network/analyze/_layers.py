"""Walks down the layers of many packets at once: link, tags and tunnels, IP, to the transport header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
import numpy.typing as npt

from tasks.network.analyze._records import PADDING, Bytes, Ints, Mask, Records

Words = npt.NDArray[np.uint64]

IPV4, IPV6, ARP, TEB = 0x0800, 0x86DD, 0x0806, 0x6558
VLANS: Final = (0x8100, 0x88A8, 0x9100)
PPPOE, MPLS, PPP, LLC = 0x8864, (0x8847, 0x8848), 0x880B, 0x0004
ETHERNET_AGAIN: Final = -2
"""Not an Ethernet type: an Ethernet header comes next (inside GRE, VXLAN, Geneve)."""
UNKNOWN: Final = -1
MOST_SHIMS: Final = 8


class Layer(IntFlag):
    """What a packet's headers were wrapped in."""

    VLAN = 1
    PPPOE = 2
    MPLS = 4
    GRE = 8
    TUNNEL = 16  # IP in IP
    FRAGMENT = 32  # a part of a datagram
    ASSEMBLED = 64  # the part that completed it: the row has the whole datagram's headers
    LLC = 128
    VXLAN = 256
    GENEVE = 512
    GTP = 1024


class Problem(IntEnum):
    """Why a packet's headers were not read to the end."""

    NONE = 0
    CUT = 1  # the capture holds less than the headers
    MALFORMED = 2  # lengths that contradict each other
    LINK = 3  # a link type nobody taught us
    DEEP = 4  # more layers than anybody has reason to use


@dataclass(slots=True)
class Cursor:
    """Where in each packet the walk is, and what it found so far. One row for each packet."""

    data: Bytes
    at: Ints
    end: Ints  # of what was captured of the current layer
    claimed: Ints  # of what the headers say there was on the wire
    kind: Ints  # Ethernet type of what is at `at`
    version: Ints
    protocol: Ints
    source_high: Words
    source_low: Words
    destination_high: Words
    destination_low: Words
    layers: Ints
    problem: Ints
    ready: Mask  # `at` is a transport header
    views: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Records) -> Cursor:
        """Start at the link layer."""
        count = len(records.start)

        def zeros() -> Ints:
            return np.zeros(count, np.int64)

        def words() -> Words:
            return np.zeros(count, np.uint64)

        end = records.start + records.captured
        claimed = records.start + np.maximum(records.wire, records.captured)
        return cls(
            records.data, records.start.copy(), end, claimed, np.full(count, UNKNOWN, np.int64), zeros(),
            np.full(count, -1, np.int64), words(), words(), words(), words(), zeros(), zeros(), np.zeros(count, np.bool_),
        )  # fmt: skip

    def number(self, at: Ints, kind: str) -> Ints:
        """Read a number (`>u2`, `<u4`, ...) at each offset; offsets beyond the data read zeros of the padding."""
        view = self.views.get(kind)
        if view is None:
            dtype = np.dtype(kind)
            view = np.ndarray((len(self.data) - dtype.itemsize + 1,), dtype, self.data, strides=(1,))
            self.views[kind] = view
        return view[np.minimum(at, len(view) - 1)].astype(np.int64)

    def word(self, at: Ints) -> Words:
        """Read 64 bits, most significant first, at each offset."""
        view = np.ndarray((len(self.data) - 7,), np.dtype(">u8"), self.data, strides=(1,))
        return view[np.minimum(at, len(view) - 1)].astype(np.uint64)

    def give_up(self, rows: Ints, why: Problem) -> None:
        """Stop at these rows."""
        self.problem[rows] = why
        self.kind[rows] = UNKNOWN

    def enough(self, rows: Ints, size: int | Ints) -> Ints:
        """Rows with so many bytes left; the others are cut."""
        fits = self.at[rows] + size <= self.end[rows]
        if fits.all():
            return rows
        short = rows[~fits]
        self.give_up(short, Problem.CUT)
        # What was there on the wire and is not in the file was cut; the rest never was whole.
        whole = self.end[short] >= self.claimed[short]
        self.problem[short[whole]] = Problem.MALFORMED
        return rows[fits]

    def append(self, datagrams: dict[int, bytes]) -> None:
        """Put reassembled datagrams behind the data, and the cursor of their rows there."""
        base = len(self.data)
        blob = b"".join(datagrams.values())
        self.data = np.concatenate([self.data, np.frombuffer(blob, np.uint8), np.zeros(PADDING, np.uint8)])
        self.views.clear()
        for row, datagram in datagrams.items():
            self.at[row] = base
            base += len(datagram)
            self.end[row] = self.claimed[row] = base


# --- link layers -----------------------------------------------------------------------------------------------------


def _ethernet(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 14)
    cursor.kind[rows] = cursor.number(cursor.at[rows] + 12, ">u2")
    cursor.at[rows] += 14


def _null(cursor: Cursor, rows: Ints) -> None:
    """BSD loopback: an address family in the byte order of the machine that wrote it."""
    rows = cursor.enough(rows, 4)
    family = cursor.number(cursor.at[rows], ">u4")
    family = np.where(family > 0xFFFF, cursor.number(cursor.at[rows], "<u4"), family)
    kind = np.full(len(rows), UNKNOWN, np.int64)
    kind[family == 2] = IPV4
    kind[np.isin(family, (10, 24, 28, 30))] = IPV6
    cursor.kind[rows] = kind
    cursor.at[rows] += 4


def _raw(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 1)
    version = cursor.data[cursor.at[rows]] >> 4
    cursor.kind[rows] = np.where(version == 4, IPV4, np.where(version == 6, IPV6, UNKNOWN))


def _cooked(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 16)
    cursor.kind[rows] = cursor.number(cursor.at[rows] + 14, ">u2")
    cursor.at[rows] += 16


def _cooked_2(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 20)
    cursor.kind[rows] = cursor.number(cursor.at[rows], ">u2")
    cursor.at[rows] += 20


def _ppp(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 2)
    framed = cursor.number(cursor.at[rows], ">u2") == 0xFF03
    cursor.at[rows[framed]] += 2
    rows = cursor.enough(rows, 1)
    short = cursor.data[cursor.at[rows]] & 1 == 1  # one byte when its lowest bit is set (RFC 1661)
    protocol = np.where(short, cursor.data[cursor.at[rows]], cursor.number(cursor.at[rows], ">u2"))
    cursor.at[rows] += np.where(short, 1, 2)
    kind = np.full(len(rows), UNKNOWN, np.int64)
    kind[protocol == 0x21], kind[protocol == 0x57], kind[protocol == 0x281] = IPV4, IPV6, MPLS[0]
    cursor.kind[rows] = kind


def _hdlc(cursor: Cursor, rows: Ints) -> None:
    rows = cursor.enough(rows, 4)
    cursor.kind[rows] = cursor.number(cursor.at[rows] + 2, ">u2")
    cursor.at[rows] += 4


def _fixed(kind: int) -> Callable[[Cursor, Ints], None]:
    def set_kind(cursor: Cursor, rows: Ints) -> None:
        cursor.kind[rows] = kind

    return set_kind


LINKS: Final[dict[int, Callable[[Cursor, Ints], None]]] = {
    0: _null, 1: _ethernet, 9: _ppp, 12: _raw, 14: _raw, 50: _ppp, 51: _fixed(PPPOE), 101: _raw, 104: _hdlc, 108: _null,
    113: _cooked, 228: _fixed(IPV4), 229: _fixed(IPV6), 276: _cooked_2,
}  # fmt: skip
"""How each link type (LINKTYPE_..., tcpdump.org/linktypes.html) begins."""

# --- what lies between link and IP -----------------------------------------------------------------------------------


def look_through(cursor: Cursor, rows: Ints) -> None:
    """Look through VLAN tags, PPPoE, MPLS and LLC, however they are stacked."""
    for _ in range(MOST_SHIMS):
        kind = cursor.kind[rows]
        rows = rows[(kind != IPV4) & (kind != IPV6) & (kind != UNKNOWN) & (kind != ARP)]
        if not len(rows):
            return
        kind = cursor.kind[rows]
        left = [rows[:0]]
        for name, mask in (
            ("vlan", np.isin(kind, VLANS)),
            ("pppoe", kind == PPPOE),
            ("ppp", kind == PPP),
            ("mpls", np.isin(kind, MPLS)),
            ("llc", (kind >= 0) & (kind <= 1500)),
            ("ethernet", (kind == ETHERNET_AGAIN) | (kind == TEB)),
        ):
            if mask.any():
                left.append(_SHIMS[name](cursor, rows[mask]))
        rows = np.concatenate(left)
    if len(rows):
        cursor.give_up(rows, Problem.DEEP)


def _vlan(cursor: Cursor, rows: Ints) -> Ints:
    rows = cursor.enough(rows, 4)
    cursor.kind[rows] = cursor.number(cursor.at[rows] + 2, ">u2")
    cursor.at[rows] += 4
    cursor.layers[rows] |= Layer.VLAN
    return rows


def _pppoe(cursor: Cursor, rows: Ints) -> Ints:
    rows = cursor.enough(rows, 8)
    cursor.layers[rows] |= Layer.PPPOE
    cursor.at[rows] += 6
    _ppp(cursor, rows)
    return rows


def _ppp_in_gre(cursor: Cursor, rows: Ints) -> Ints:
    _ppp(cursor, rows)
    return rows


def _mpls(cursor: Cursor, rows: Ints) -> Ints:
    rows = cursor.enough(rows, 5)
    cursor.layers[rows] |= Layer.MPLS
    bottom = cursor.data[cursor.at[rows] + 2] & 1 == 1
    cursor.at[rows] += 4
    ends = rows[bottom]
    version = cursor.data[cursor.at[ends]] >> 4  # nothing says what follows the labels; IP's version tells itself
    cursor.kind[ends] = np.where(version == 4, IPV4, np.where(version == 6, IPV6, UNKNOWN))
    return rows


def _llc(cursor: Cursor, rows: Ints) -> Ints:
    """IEEE 802.3 with LLC; SNAP carries an Ethernet type (RFC 1042)."""
    rows = cursor.enough(rows, 3)
    at = cursor.at[rows]
    snap = (
        (cursor.number(at, ">u2") == 0xAAAA)
        & (at + 8 <= cursor.end[rows])
        & (cursor.number(at + 2, ">u4") >> 8 == 0x30000)
    )
    cursor.layers[rows] |= Layer.LLC
    cursor.kind[rows] = np.where(snap, cursor.number(at + 6, ">u2"), UNKNOWN)
    cursor.at[rows[snap]] += 8
    return rows


def _ethernet_again(cursor: Cursor, rows: Ints) -> Ints:
    _ethernet(cursor, rows)
    return rows


_SHIMS: Final = {
    "vlan": _vlan, "pppoe": _pppoe, "ppp": _ppp_in_gre, "mpls": _mpls, "llc": _llc, "ethernet": _ethernet_again,
}  # fmt: skip
