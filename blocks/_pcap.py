"""Just enough of the capture formats for a store of them: what a file is, and where its last whole packet ends."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

FILE_HEADER = 24
RECORD_HEADER = 16
LARGEST_RECORD = 1 << 24
"""More than any packet has (snap lengths end at 262,144): a larger length means that the file is not what it says."""

_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<",  # microseconds
    b"\xa1\xb2\xc3\xd4": ">",
    b"\x4d\x3c\xb2\xa1": "<",  # nanoseconds
    b"\xa1\xb2\x3c\x4d": ">",
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_CHUNK = 1 << 20

LINK_TYPES = {
    0: "NULL",
    1: "EN10MB",
    12: "RAW",
    101: "RAW",
    105: "IEEE802_11",
    108: "LOOP",
    113: "LINUX_SLL",
    127: "IEEE802_11_RADIO",
    276: "LINUX_SLL2",
}
"""Names tcpdump gives to what `tcpdump.org/linktypes.html` numbers; those that a Linux interface may have."""


class Whole(NamedTuple):
    """The part of a pcap file that can be read."""

    packets: int
    size_bytes: int


def byte_order(beginning: bytes) -> str | None:
    """`<` or `>` for the first bytes of a pcap file; None when it is none."""
    return _ORDERS.get(beginning[:4])


def is_capture(path: Path) -> bool:
    """Whether a file begins as pcap or pcapng files do."""
    with path.open("rb") as file:
        beginning = file.read(4)
    return beginning in _ORDERS or beginning == _PCAPNG


def link_type(header: bytes) -> str:
    """Name of the link layer in a pcap file's header (24 bytes)."""
    order = byte_order(header) or "<"
    number = struct.unpack_from(f"{order}I", header, 20)[0] & 0x0FFFFFFF  # the upper bits tell of frame check sequences
    return LINK_TYPES.get(number, f"DLT {number}")


def measure(path: Path) -> Whole | None:
    """Count the whole packets of a pcap file and their bytes, the file's header included; None when it is no pcap."""
    with path.open("rb") as file:
        header = file.read(FILE_HEADER)
        order = byte_order(header)
        if order is None or len(header) < FILE_HEADER:
            return None
        unpack = struct.Struct(f"{order}8xI4x").unpack_from
        packets, whole, data, start = 0, FILE_HEADER, b"", 0
        while True:
            end = len(data)
            while start + RECORD_HEADER <= end:
                length = unpack(data, start)[0]
                if length > LARGEST_RECORD:
                    return Whole(packets, whole)
                if start + RECORD_HEADER + length > end:
                    break
                start += RECORD_HEADER + length
                whole += RECORD_HEADER + length
                packets += 1
            more = file.read(_CHUNK)
            if not more:
                return Whole(packets, whole)
            data, start = data[start:] + more, 0


def trim(path: Path) -> Whole | None:
    """Cut a half-written last packet off a pcap file, so that every program reads it without complaint; None: no pcap."""
    found = measure(path)
    if found is not None and path.stat().st_size > found.size_bytes:
        os.truncate(path, found.size_bytes)
    return found
