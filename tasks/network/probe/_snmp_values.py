"""What SNMP agents say, as plain values: object identifiers, text or bytes, addresses, MACs, times. No MIB is needed for it."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Oid = tuple[int, ...]

LARGEST_ARC = 0xFFFFFFFF
LONGEST_OID = 128
"""Most arcs of an object identifier in SNMP (RFC 3416 section 4.1)."""


class ValueType(StrEnum):
    """Types of RFC 2578, and what stands for a missing value (RFC 3416 section 3)."""

    INTEGER = "integer"
    TEXT = "text"  # an OCTET STRING that is printable text
    HEX = "hex"  # an OCTET STRING that is not
    OID = "oid"
    ADDRESS = "ip_address"
    COUNTER32 = "counter32"
    COUNTER64 = "counter64"
    GAUGE32 = "gauge32"
    TIMETICKS = "timeticks"
    OPAQUE = "opaque"
    FLOAT = "float"
    NULL = "null"
    NO_SUCH_OBJECT = "no_such_object"  # the agent does not know the object at all, or does not show it to us
    NO_SUCH_INSTANCE = "no_such_instance"  # it knows the object, but not this instance of it
    END_OF_MIB = "end_of_mib"  # nothing comes after it


MISSING = frozenset({ValueType.NO_SUCH_OBJECT, ValueType.NO_SUCH_INSTANCE, ValueType.END_OF_MIB})


@dataclass(frozen=True, slots=True)
class Value:
    """One value as it came.

    Attributes:
        type: `HEX` for every OCTET STRING here; `text_of` says which are text.
        raw: An int, bytes, an Oid, or None.
    """

    type: ValueType
    raw: Any = None

    @property
    def missing(self) -> bool:
        """Whether the agent has no such value."""
        return self.type in MISSING

    @property
    def number(self) -> int | None:
        """The value as a number, if it is one."""
        return self.raw if isinstance(self.raw, int) else None

    @property
    def octets(self) -> bytes:
        """The value as bytes; none when it is no OCTET STRING."""
        return self.raw if isinstance(self.raw, bytes) else b""

    @property
    def text(self) -> str | None:
        """The value as a person reads it, without blanks around it; None when it is missing or empty."""
        if isinstance(self.raw, bytes):
            if self.type is ValueType.ADDRESS:
                return address_of(self.raw)
            return text_of(self.raw) or (hex_of(self.raw) if self.raw.strip(b"\0 ") else None)
        if isinstance(self.raw, tuple):
            return format_oid(self.raw)
        return None if self.raw is None else str(self.raw)


NOTHING = Value(ValueType.NO_SUCH_OBJECT)


def parse_oid(text: Any) -> str:
    """Return a numeric object identifier in its canonical spelling.

    >>> parse_oid(".1.3.6.1.2.1.1.5.0")
    '1.3.6.1.2.1.1.5.0'

    Raises:
        ValueError: It is none; says what would be right.
    """
    if not isinstance(text, str) or not re.fullmatch(r"\.?\d{1,10}(\.\d{1,10})+\.?", text.strip(), re.ASCII):
        raise ValueError(f"{text!r} is not a numeric object identifier; right would be 1.3.6.1.2.1.1.5.0 (sysName)")
    arcs = oid_of(text.strip().strip("."))
    if len(arcs) > LONGEST_OID:
        raise ValueError(f"has {len(arcs)} arcs; SNMP knows {LONGEST_OID} at most")
    if max(arcs) > LARGEST_ARC:
        raise ValueError(f"{text!r} has an arc above {LARGEST_ARC}")
    if arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39):
        raise ValueError(f"{text!r} lies outside the tree: the first arc is 0, 1 or 2, and below 0 and 1 at most 39")
    return format_oid(arcs)


def oid_of(text: str) -> Oid:
    """Return the arcs of a numeric object identifier.

    >>> oid_of("1.3.6.1")
    (1, 3, 6, 1)
    """
    return tuple(map(int, text.split(".")))


def format_oid(oid: Sequence[int]) -> str:
    """Write an object identifier.

    >>> format_oid((1, 3, 6, 1))
    '1.3.6.1'
    """
    return ".".join(map(str, oid))


def text_of(octets: bytes) -> str | None:
    r"""Return an OCTET STRING as text, if it is: UTF-8 without control characters; closing NULs are C's and fall away.

    >>> text_of(b"Switch 7\0"), text_of(b"\x00\x40\x8c\x12\x34\x56"), text_of(b"a\r\nb")
    ('Switch 7', None, 'a\nb')
    """
    try:
        text = octets.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip() if all(character.isprintable() or character in "\n\t" for character in text) else None


def hex_of(octets: bytes) -> str:
    """Write bytes as hexadecimal digits.

    >>> hex_of(bytes([0, 64, 140]))
    '00:40:8c'
    """
    return octets.hex(":")


def mac_of(octets: bytes) -> str | None:
    """Return a MAC address; None unless it is six bytes that are not all zero.

    >>> mac_of(bytes([0, 64, 140, 1, 2, 3])), mac_of(bytes(6)), mac_of(b"")
    ('00:40:8c:01:02:03', None, None)
    """
    return octets.hex(":") if len(octets) == 6 and any(octets) else None


def address_of(octets: bytes) -> str | None:
    """Return an IPv4 or IPv6 address of its bytes; an IPv6 zone (InetAddressIPv6z, RFC 4001) is left out.

    >>> address_of(bytes([10, 0, 0, 1])), address_of(b"abc")
    ('10.0.0.1', None)
    """
    if len(octets) in (8, 20):  # with four bytes of zone index behind it
        octets = octets[:-4]
    return str(ipaddress.ip_address(octets)) if len(octets) in (4, 16) else None


def indexed_address(arcs: Sequence[int]) -> str | None:
    """Return the address in an index `InetAddressType, length, bytes...` (RFC 4001).

    >>> indexed_address((1, 4, 10, 0, 0, 1)), indexed_address((1, 9, 1))
    ('10.0.0.1', None)
    """
    if len(arcs) < 2 or len(arcs) != arcs[1] + 2 or any(arc > 255 for arc in arcs[2:]):
        return None
    return address_of(bytes(arcs[2:]))


def prefix_length(mask: bytes) -> int | None:
    """Return the prefix length of an IPv4 mask; None for one with holes.

    >>> prefix_length(bytes([255, 255, 255, 0])), prefix_length(bytes([255, 0, 255, 0]))
    (24, None)
    """
    bits = int.from_bytes(mask, "big")
    inverted = bits ^ 0xFFFFFFFF
    return bits.bit_count() if len(mask) == 4 and not inverted & (inverted + 1) else None


def ticks_text(ticks: int) -> str:
    """Write TimeTicks (hundredths of a second) as people say it.

    >>> ticks_text(123456789)
    '14 days, 6:56:07.89'
    """
    seconds, hundredths = divmod(ticks, 100)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}.{hundredths:02}"
    return f"{days} day{'s' if days != 1 else ''}, {clock}" if days else clock


def opaque_float(octets: bytes) -> float | None:
    """Return the number in an Opaque that wraps a float or a double, as net-snmp writes it (NET-SNMP-TC, `Float`).

    >>> opaque_float(bytes.fromhex("9f78043f800000"))
    1.0
    """
    for tag, form in ((b"\x9f\x78\x04", ">f"), (b"\x9f\x79\x08", ">d")):
        if octets.startswith(tag) and len(octets) == 3 + struct.calcsize(form):
            return float(struct.unpack(form, octets[3:])[0])
    return None
