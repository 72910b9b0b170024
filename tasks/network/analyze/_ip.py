"""Reads IPv4 and IPv6 headers of many packets at once, and what IP is wrapped in once more.

That is GRE with what it carries (ERSPAN and MPLS as well), IP in IP, VXLAN, Geneve and GTP-U.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.network.analyze._layers import (
    ETHERNET_AGAIN,
    IPV4,
    IPV6,
    LINKS,
    MPLS,
    PPP,
    PPPOE,
    TEB,
    UNKNOWN,
    VLANS,
    Cursor,
    Layer,
    Problem,
    look_through,
)
from tasks.network.analyze._reassembly import Fragments, Key
from tasks.network.analyze._records import Ints, Mask, Records

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
GRE, _IP_IN_IP, _IPV6_IN_IP, _FRAGMENT, _AUTHENTICATION = 47, 4, 41, 44, 51
_ERSPAN, _ERSPAN_3 = 0x88BE, 0x22EB
"""Frames of a mirrored port in GRE (draft-foschiano-erspan): types I and II, and III."""
_VXLAN, _GENEVE, _GTP = 4789, 6081, 2152
"""UDP ports (IANA), the destination's."""
_EXTENSIONS: Final = np.zeros(256, np.bool_)
_EXTENSIONS[[0, 43, 44, 51, 60, 135, 139, 140]] = True
"""IPv6 extension headers (IANA's list); 50, encryption, hides what follows."""
MOST_TUNNELS: Final = 6
MOST_EXTENSIONS: Final = 10


def walk(records: Records, fragments: Fragments) -> Cursor:
    """Walk every packet down to its transport header; rows that got there are `ready`."""
    cursor = Cursor.of(records)
    for link in np.unique(records.link):
        rows = np.flatnonzero(records.link == link)
        begin = LINKS.get(int(link))
        if begin is None:
            cursor.problem[rows] = Problem.LINK
        else:
            begin(cursor, rows)
    rows = np.flatnonzero(cursor.problem == Problem.NONE)
    for _ in range(MOST_TUNNELS):
        look_through(cursor, rows)
        kind = cursor.kind[rows]
        inside = _tunnels(
            cursor,
            np.concatenate(
                [_ipv4(cursor, rows[kind == IPV4], fragments), _ipv6(cursor, rows[kind == IPV6], fragments)]
            ),
        )
        rows = np.sort(inside)
        if not len(rows):
            return cursor
    cursor.give_up(rows, Problem.DEEP)
    return cursor


def _ipv4(cursor: Cursor, rows: Ints, fragments: Fragments) -> Ints:
    """Read IPv4 headers; returns the rows whose payload can be read."""
    rows = cursor.enough(rows, 20)
    if not len(rows):
        return rows
    at = cursor.at[rows]
    first = cursor.data[at].astype(np.int64)
    header = (first & 15) * 4
    total = cursor.number(at + 2, ">u2")
    # Segmentation in the network card leaves 0: then the rest of the frame belongs to it.
    total = np.where(total == 0, cursor.claimed[rows] - at, total)
    good = (first >> 4 == 4) & (header >= 20) & (total >= header)
    if not good.all():
        cursor.give_up(rows[~good], Problem.MALFORMED)
        rows, at, header, total = rows[good], at[good], header[good], total[good]
    cursor.version[rows] = 4
    cursor.source_high[rows] = cursor.destination_high[rows] = 0
    cursor.source_low[rows] = cursor.number(at + 12, ">u4")
    cursor.destination_low[rows] = cursor.number(at + 16, ">u4")
    cursor.protocol[rows] = cursor.data[at + 9]
    cursor.claimed[rows] = at + total
    cursor.end[rows] = np.minimum(cursor.end[rows], at + total)
    part, name = cursor.number(at + 6, ">u2"), cursor.number(at + 4, ">u2")
    cursor.at[rows] = at + header
    whole = cursor.enough(rows, 0)
    if len(whole) < len(rows):
        kept = cursor.problem[rows] == Problem.NONE
        rows, part, name = rows[kept], part[kept], name[kept]
    parts = part & 0x3FFF != 0
    if not parts.any():
        return rows
    done = _assemble(cursor, rows[parts], (part[parts] & 0x1FFF) * 8, part[parts] & 0x2000 != 0, name[parts], fragments)
    ready: Ints = np.concatenate([rows[~parts], done])
    return ready


def _ipv6(cursor: Cursor, rows: Ints, fragments: Fragments) -> Ints:
    """Read IPv6 headers and their extensions; returns the rows whose payload can be read."""
    rows = cursor.enough(rows, 40)
    if not len(rows):
        return rows
    at = cursor.at[rows]
    good = cursor.data[at] >> 4 == 6
    if not good.all():
        cursor.give_up(rows[~good], Problem.MALFORMED)
        rows, at = rows[good], at[good]
    cursor.version[rows] = 6
    cursor.source_high[rows], cursor.source_low[rows] = cursor.word(at + 8), cursor.word(at + 16)
    cursor.destination_high[rows], cursor.destination_low[rows] = cursor.word(at + 24), cursor.word(at + 32)
    size = cursor.number(at + 4, ">u2")
    # A jumbogram, or segmentation in the network card, says 0: then the rest of the frame belongs to it.
    size = np.where((size == 0) & (cursor.data[at + 6] != 59), cursor.claimed[rows] - at - 40, size)
    cursor.protocol[rows] = cursor.data[at + 6]
    cursor.claimed[rows] = at + 40 + size
    cursor.end[rows] = np.minimum(cursor.end[rows], at + 40 + size)
    cursor.at[rows] = at + 40
    ready = [rows[:0]]
    for _ in range(MOST_EXTENSIONS):
        more = _EXTENSIONS[cursor.protocol[rows]]
        ready.append(rows[~more])
        rows = _extension(cursor, rows[more], fragments)
        if not len(rows):
            break
    cursor.give_up(rows, Problem.DEEP)
    return np.concatenate(ready)


def _extension(cursor: Cursor, rows: Ints, fragments: Fragments) -> Ints:
    """Step over one extension header of each row."""
    rows = cursor.enough(rows, 8)
    if not len(rows):
        return rows
    at, protocol = cursor.at[rows], cursor.protocol[rows]
    length = cursor.data[at + 1].astype(np.int64)
    size = np.where(protocol == _AUTHENTICATION, (length + 2) * 4, (length + 1) * 8)
    size[protocol == _FRAGMENT] = 8
    field, name = cursor.number(at + 2, ">u2"), cursor.number(at + 4, ">u4")
    cursor.protocol[rows] = cursor.data[at]
    cursor.at[rows] += size
    cursor.enough(rows, 0)
    kept = cursor.problem[rows] == Problem.NONE
    # An offset of 0 and nothing to follow is a whole datagram with a needless header (RFC 6946).
    parts = kept & (protocol == _FRAGMENT) & (field & 0xFFF9 != 0)
    if not parts.any():
        whole: Ints = rows[kept]
        return whole
    done = _assemble(cursor, rows[parts], field[parts] & 0xFFF8, field[parts] & 1 != 0, name[parts], fragments)
    return np.concatenate([rows[kept & ~parts], done])


def _assemble(cursor: Cursor, rows: Ints, offset: Ints, more: Mask, name: Ints, fragments: Fragments) -> Ints:
    """Take fragments; returns the rows that can be read on, with what they completed in place of their own payload.

    A fragment of which the capture holds less than there was is never part of a datagram; the first one is read as far
    as it goes, and so has ports.
    """
    cursor.layers[rows] |= Layer.FRAGMENT
    whole: dict[int, bytes] = {}
    readable: list[int] = []
    for index in np.argsort(rows, kind="stable"):
        row = int(rows[index])
        if cursor.end[row] < cursor.claimed[row]:
            if offset[index] == 0:
                readable.append(row)
            continue
        key: Key = (
            int(cursor.version[row]),
            int(cursor.source_high[row]),
            int(cursor.source_low[row]),
            int(cursor.destination_high[row]),
            int(cursor.destination_low[row]),
            int(name[index]),
            # IPv6 fragments are told apart without it (RFC 8200, 4.5).
            int(cursor.protocol[row]) if cursor.version[row] == 4 else 0,
        )
        data = cursor.data[cursor.at[row] : cursor.end[row]].tobytes()
        datagram = fragments.add(key, int(offset[index]), bool(more[index]), data)
        if datagram is not None:
            whole[row] = datagram
    if whole:
        cursor.append(whole)
        done = np.fromiter(whole, np.int64, len(whole))
        cursor.layers[done] |= Layer.ASSEMBLED
        return np.concatenate([done, np.array(readable, np.int64)])
    return np.array(readable, np.int64)


def _tunnels(cursor: Cursor, rows: Ints) -> Ints:
    """Open GRE, IP in IP, and the tunnels in UDP; returns those rows. The others are at their transport header."""
    protocol = cursor.protocol[rows]
    again = (protocol == GRE) | (protocol == _IP_IN_IP) | (protocol == _IPV6_IN_IP)
    cursor.ready[rows] = True
    in_udp = _udp_tunnels(cursor, rows[protocol == UDP])
    if not again.any():
        return in_udp
    rows, protocol = rows[again], protocol[again]
    cursor.ready[rows] = False
    direct = protocol != GRE
    cursor.layers[rows[direct]] |= Layer.TUNNEL
    cursor.kind[rows[direct]] = np.where(protocol[direct] == _IP_IN_IP, IPV4, IPV6)
    inside = _gre(cursor, rows[~direct])
    return np.concatenate([rows[direct], inside, in_udp])


def _udp_tunnels(cursor: Cursor, rows: Ints) -> Ints:
    """Open VXLAN, Geneve and GTP-U, told by their ports; returns the rows that have IP inside. The others stay what they are: UDP.

    Costs a look at the port of each datagram, and no more where there is no tunnel.
    """
    port = cursor.number(cursor.at[rows] + 2, ">u2")
    maybe = (port == _VXLAN) | (port == _GENEVE) | (port == _GTP)
    if not maybe.any():
        return rows[:0]
    rows, port = rows[maybe], port[maybe]
    # A part of a datagram is no tunnel's packet, and neither is what has no room for both headers.
    kept = cursor.at[rows] + 16 < cursor.end[rows]
    kept &= cursor.layers[rows] & (Layer.FRAGMENT | Layer.ASSEMBLED) != Layer.FRAGMENT
    rows, port = rows[kept], port[kept]
    inside = []
    for number, layer, look in (
        (_VXLAN, Layer.VXLAN, _vxlan),
        (_GENEVE, Layer.GENEVE, _geneve),
        (_GTP, Layer.GTP, _gtp),
    ):
        some = rows[port == number]
        if not len(some):
            continue
        at, kind = look(cursor, cursor.at[some] + 8, cursor.end[some])
        opened = _carries_ip(cursor, at, kind, cursor.end[some])
        some, at, kind = some[opened], at[opened], kind[opened]
        length = cursor.number(cursor.at[some] + 4, ">u2")
        claimed = np.where(
            length >= 16, np.minimum(cursor.at[some] + length, cursor.claimed[some]), cursor.claimed[some]
        )
        cursor.claimed[some], cursor.end[some] = claimed, np.minimum(cursor.end[some], claimed)
        cursor.at[some] = at
        cursor.kind[some] = np.where(kind == TEB, ETHERNET_AGAIN, kind)
        cursor.layers[some] |= layer
        cursor.ready[some] = False
        inside.append(some)
    return np.concatenate(inside) if inside else rows[:0]


def _carries_ip(cursor: Cursor, at: Ints, kind: Ints, end: Ints) -> Mask:
    """Which tunnels have IP inside, in an Ethernet frame or not. ARP and the like say nothing about conversations."""
    framed = kind == TEB
    inner = np.where(framed & (at + 14 <= end), cursor.number(at + 12, ">u2"), kind)
    mask: Mask = np.isin(inner, (IPV4, IPV6, PPPOE, *VLANS, *MPLS)) & (at < end)
    return mask


def _vxlan(cursor: Cursor, at: Ints, end: Ints) -> tuple[Ints, Ints]:
    """VXLAN (RFC 7348): eight bytes, then an Ethernet frame. Returns where that begins, and its kind; -1 where it is none."""
    named = cursor.data[at] & 0x08 != 0
    return at + 8, np.where(named, TEB, UNKNOWN)


def _geneve(cursor: Cursor, at: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Geneve (RFC 8926): eight bytes and options, then what an Ethernet type says."""
    first = cursor.data[at].astype(np.int64)
    kind = cursor.number(at + 2, ">u2")
    known = (first >> 6 == 0) & ((kind == TEB) | (kind == IPV4) | (kind == IPV6))
    return at + 8 + (first & 63) * 4, np.where(known, kind, UNKNOWN)


def _gtp(cursor: Cursor, at: Ints, end: Ints) -> tuple[Ints, Ints]:
    """GTP-U version 1 (TS 29.281): a G-PDU's header, its extension headers, then an IP packet."""
    flags = cursor.data[at].astype(np.int64)
    good = (flags >> 4 == 0b0011) & (cursor.data[at + 1] == 0xFF)
    longer = flags & 7 != 0  # any of sequence number, N-PDU number and extension header makes room for all three
    after = at + np.where(longer, 12, 8)
    following = np.where(longer & (flags & 4 != 0) & (at + 12 <= end), cursor.number(at + 11, "u1"), 0)
    for _ in range(MOST_EXTENSIONS):
        more = good & (following != 0)
        if not more.any():
            break
        units = cursor.number(after, "u1")
        good &= ~more | ((units > 0) & (after + units * 4 <= end))
        more &= good
        after = np.where(more, after + units * 4, after)
        following = np.where(more, cursor.number(after - 1, "u1"), following)
    good &= following * good == 0
    version = np.where(after < end, cursor.number(after, "u1") >> 4, 0)
    return after, np.where(good & (version == 4), IPV4, np.where(good & (version == 6), IPV6, UNKNOWN))


def _gre(cursor: Cursor, rows: Ints) -> Ints:
    """Step over GRE (RFC 2784, 2890) and PPTP's version of it (RFC 2637)."""
    cursor.layers[rows] |= Layer.GRE
    rows = cursor.enough(rows, 4)
    if not len(rows):
        return rows
    at = cursor.at[rows]
    flags, kind = cursor.number(at, ">u2"), cursor.number(at + 2, ">u2")
    checksum_or_routing = flags & 0xC000 != 0
    size = 4 + 4 * checksum_or_routing + 4 * (flags & 0x2000 != 0) + 4 * (flags & 0x1000 != 0)
    size += 4 * ((flags & 7 == 1) & (flags & 0x80 != 0))
    cursor.at[rows] += size
    mirrored = np.isin(kind, (_ERSPAN, _ERSPAN_3))
    known = np.isin(kind, (IPV4, IPV6, PPP, TEB, *MPLS))
    known[mirrored] = _erspan(cursor, rows[mirrored], kind[mirrored], flags[mirrored])
    known &= flags & 0x4000 == 0  # source routes: nobody uses them
    whole = cursor.problem[rows] == Problem.NONE
    filled = cursor.at[rows] < cursor.end[rows]
    # What GRE carries without payload (a keep-alive) or in another protocol ends here, as GRE.
    cursor.ready[rows[whole & ~(known & filled)]] = True
    cursor.kind[rows[whole & ~known & filled]] = UNKNOWN
    known &= whole & filled
    cursor.kind[rows[known]] = np.where((kind == TEB) | mirrored, ETHERNET_AGAIN, kind)[known]
    inside: Ints = rows[known]
    return inside


def _erspan(cursor: Cursor, rows: Ints, kind: Ints, flags: Ints) -> Mask:
    """Step over the header of a mirrored frame; returns which rows have an Ethernet frame behind it.

    Type I, which GRE does not number, has none; type II has eight bytes, type III twelve or twenty.
    """
    third = kind == _ERSPAN_3
    size = np.where(third, 12, np.where(flags & 0x1000 != 0, 8, 0))
    cursor.enough(rows, size)
    at = cursor.at[rows]
    version, last = cursor.number(at, ">u2") >> 12, cursor.number(at + 10, ">u2")
    good = (size == 0) | (version == np.where(third, 2, 1))
    good &= ~third | (last & 0x7C00 == 0)  # its frame type: 0 is Ethernet
    good &= cursor.problem[rows] == Problem.NONE
    size += 8 * (third & (last & 1 == 1))
    cursor.at[rows] += np.where(good, size, 0)
    mask: Mask = good
    return mask


__all__ = ["GRE", "ICMP", "ICMPV6", "TCP", "UDP", "UNKNOWN", "walk"]
