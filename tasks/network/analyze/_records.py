"""Reads capture files (pcap and pcapng) into columns of records, a bounded piece at a time.

Files come from anywhere, so nothing in them is believed: a length that cannot be ends the reading with a note that says where, and
what was read until there counts. Limits are those of Wireshark, so that both number the same packets alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tasks.core.errors import InvalidParameters
from tasks.core.words import count
from tasks.network.capture._stored import not_a_capture

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

LARGEST_PACKET: Final = 262_144
"""Most bytes of one packet in a file; a record that claims more is damage (Wireshark's WTAP_MAX_PACKET_SIZE_STANDARD)."""
LARGEST_BLOCK: Final = 16 << 20
"""Most bytes of one pcapng block (Wireshark's limit)."""
LEAST_PIECE: Final = 1 << 20
MOST_PIECE: Final = 16 << 20
RECORDS_PER_PIECE: Final = 50_000
"""Aimed at: enough that numpy's cost for each call does not matter, few enough that a piece takes some tens of megabytes."""
PADDING: Final = 128
"""Zero bytes after a piece, so that a header may be looked at before its length is checked."""
MOST_INTERFACES: Final = 65_536
MOST_SECTIONS: Final = 10_000

_PCAP: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION: Final = 0x0A0D0D0A
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _JOURNAL, _PACKET = 1, 2, 3, 9, 6


@dataclass(slots=True)
class Records:
    """A piece of a capture: its bytes, and for each record where it is and what its header says.

    Attributes:
        data: The piece's bytes, and `PADDING` zero bytes after them.
        number: Frame numbers, from 1, as Wireshark counts.
        time_ns: Nanoseconds since the epoch; 0 where the record has no time.
        start: Offset in `data` of the packet.
        captured: Bytes of the packet in the capture.
        wire: Bytes it had on the wire.
        link: Link type (LINKTYPE_...) of the interface it came from.
    """

    data: Bytes
    number: Ints
    time_ns: Ints
    start: Ints
    captured: Ints
    wire: Ints
    link: Ints


@dataclass(slots=True)
class RecordReader:
    """Reads one capture file; `notes` says afterwards what could not be read."""

    path: Path
    notes: list[str] = field(default_factory=list)
    kind: str = ""
    interfaces: int = 0

    def __iter__(self) -> Iterator[Records]:
        with self.path.open("rb") as file:
            magic = file.read(4)
            if magic in _PCAP:
                self.kind = "pcap"
                yield from _Pcap(self, file, magic).pieces()
            elif magic == b"\x0a\x0d\x0d\x0a":
                self.kind = "pcapng"
                yield from _PcapNg(self, file).pieces()
            else:
                raise not_a_capture(magic, "The file")


def _read(file: BinaryIO, at: int, size: int) -> tuple[Bytes, memoryview, int]:
    """Read `size` bytes from `at`; the array has zero padding, the view and the count only what was there."""
    data = np.empty(size + PADDING, np.uint8)
    view = data.data
    file.seek(at)
    got = 0
    while got < size and (more := file.readinto(view[got:size])):  # type: ignore[attr-defined]
        got += more
    data[got : got + PADDING] = 0
    return data[: got + PADDING], view[:got], got


def field32(data: Bytes, order: str) -> npt.NDArray[np.uint32]:
    """View every offset of `data` as a 32-bit number: index it with the offsets wanted."""
    return np.ndarray((max(len(data) - 3, 0),), np.dtype(f"{order}u4"), data, strides=(1,))


def _aim(size: int, records: int) -> int:
    """Bytes of the next piece, from the mean size of this one's records."""
    return min(MOST_PIECE, max(LEAST_PIECE, size // max(records, 1) * RECORDS_PER_PIECE))


class _Pcap:
    """A classic pcap file."""

    def __init__(self, reader: RecordReader, file: BinaryIO, magic: bytes) -> None:
        self.reader, self.file = reader, file
        self.order, self.scale = _PCAP[magic]
        header = magic + file.read(20)
        if len(header) < 24:
            raise InvalidParameters("The capture ends within its header.", hint="It was cut off while being written.")
        (network,) = struct.unpack_from(f"{self.order}I", header, 20)
        self.link = network & 0xFFFF  # the upper bits say something about frame check sequences
        reader.interfaces = 1

    def pieces(self) -> Iterator[Records]:
        at, number, aim = 24, 1, LEAST_PIECE
        while True:
            data, view, size = _read(self.file, at, aim)
            starts, end, damage = self._index(view, size)
            if starts:
                yield self._columns(data, starts, number)
                number += len(starts)
            if damage:
                self.reader.notes.append(f"The file is damaged after packet {number - 1} (byte {at + end}): {damage}.")
                return
            if size < aim:  # the end of the file
                if end < size:
                    self.reader.notes.append(
                        f"The file ends within packet {number}, which was left out: it was cut off while being written."
                    )
                return
            at += end
            aim = _aim(end, len(starts))

    def _index(self, view: memoryview, size: int) -> tuple[list[int], int, str]:
        unpack = struct.Struct(f"{self.order}I").unpack_from
        starts: list[int] = []
        append = starts.append
        at = 0
        last = size - 16
        while at <= last:
            (captured,) = unpack(view, at + 8)
            if captured > LARGEST_PACKET:
                return starts, at, f"the next one claims {captured} bytes"
            after = at + 16 + captured
            if after > size:
                break
            append(at)
            at = after
        return starts, at, ""

    def _columns(self, data: Bytes, starts: list[int], number: int) -> Records:
        at = np.array(starts, np.int64)
        word = field32(data, self.order)
        seconds, fraction = word[at].astype(np.int64), word[at + 4].astype(np.int64)
        return Records(
            data=data,
            number=np.arange(number, number + len(at), dtype=np.int64),
            time_ns=seconds * 1_000_000_000 + fraction * self.scale,
            start=at + 16,
            captured=word[at + 8].astype(np.int64),
            wire=word[at + 12].astype(np.int64),
            link=np.full(len(at), self.link, np.int64),
        )


@dataclass(slots=True)
class _Interface:
    link: int
    snap_length: int
    resolution: int = 6
    """Units of a second: decimal places, or with 0x80 binary ones."""
    offset_seconds: int = 0


class _PcapNg:
    """A pcapng file: sections of either byte order, each with its interfaces."""

    def __init__(self, reader: RecordReader, file: BinaryIO) -> None:
        self.reader, self.file = reader, file
        self.order = "<"
        self.interfaces: list[_Interface] = []
        self.number = 1
        self.strangers = 0
        self.sections = 0

    def pieces(self) -> Iterator[Records]:
        at, aim = 0, LEAST_PIECE
        while True:
            data, view, size = _read(self.file, at, aim)
            end, found = 0, 0
            damage, whole = "", False
            while not whole and not damage:
                # One run of blocks between changes of section: the byte order is the same within.
                packets, end, whole, damage = self._run(view, end, size)
                if packets:
                    found += len(packets)
                    if (records := self._columns(data, view, packets)) is not None:
                        yield records
            if damage:
                self._note(f"The file is damaged after packet {self.number - 1} (byte {at + end}): {damage}.")
                return
            if size < aim:
                if end < size:
                    self._note(
                        f"The file ends within a block after packet {self.number - 1}, which was left out: "
                        "it was cut off while being written."
                    )
                else:
                    self._note("")
                return
            at += end
            # A block larger than the piece: read as much as it needs.
            aim = _aim(end, found) if end else min(aim * 4, LARGEST_BLOCK + LEAST_PIECE)

    def _note(self, text: str) -> None:
        if text:
            self.reader.notes.append(text)
        if self.strangers:
            self.reader.notes.append(
                f"{count(self.strangers, 'packet names', 'packets name')} an interface that the file does not describe."
            )
        self.reader.interfaces = max(self.reader.interfaces, len(self.interfaces))

    def _run(self, view: memoryview, at: int, size: int) -> tuple[list[int], int, bool, str]:
        """Index blocks from `at`: offsets of packet blocks, where it stopped, whether the piece is used up, what is wrong."""
        packets: list[int] = []
        append = packets.append
        unpack = struct.Struct(f"{self.order}II").unpack_from
        last = size - 12
        while at <= last:
            kind, length = unpack(view, at)
            if kind == _SECTION:
                if packets:  # what came before has its own byte order and interfaces
                    return packets, at, False, ""
                if size - at < 28:
                    break
                damage = self._section(view, at)
                if damage:
                    return packets, at, False, damage
                unpack = struct.Struct(f"{self.order}II").unpack_from
                kind, length = unpack(view, at)
            if length < 12 or length > LARGEST_BLOCK:
                return packets, at, False, f"the next block claims {length} bytes"
            length = (length + 3) & ~3
            after = at + length
            if after > size:
                break
            if kind == _PACKET or kind in (_SIMPLE_PACKET, _OLD_PACKET):
                append(at)
            elif kind == _INTERFACE:
                damage = self._interface(view, at, length)
                if damage:
                    return packets, at, False, damage
            elif kind == _JOURNAL:
                append(at)  # Wireshark gives it a frame number; it is no packet
            at = after
        return packets, at, True, ""

    def _section(self, view: memoryview, at: int) -> str:
        order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(bytes(view[at + 8 : at + 12]))
        if order is None:
            return "a section without a byte order"
        major = struct.unpack_from(f"{order}H", view, at + 12)[0]
        if major != 1:
            return f"a section of format version {major}"
        self.sections += 1
        if self.sections > MOST_SECTIONS:
            return f"more than {MOST_SECTIONS} sections"
        self.order = order
        self.reader.interfaces = max(self.reader.interfaces, len(self.interfaces))
        self.interfaces = []
        return ""

    def _interface(self, view: memoryview, at: int, length: int) -> str:
        if length < 20:
            return "an interface without a link type"
        if len(self.interfaces) >= MOST_INTERFACES:
            return f"more than {MOST_INTERFACES} interfaces"
        link, _, snap = struct.unpack_from(f"{self.order}HHI", view, at + 8)
        interface = _Interface(link, snap)
        option, end = at + 16, at + length - 4
        while option + 4 <= end:
            code, size = struct.unpack_from(f"{self.order}HH", view, option)
            value = bytes(view[option + 4 : min(option + 4 + size, end)])
            if code == 0:
                break
            if code == 9 and len(value) == 1:
                interface.resolution = value[0]
            elif code == 14 and len(value) == 8:
                interface.offset_seconds = struct.unpack(f"{self.order}q", value)[0]
            option += 4 + ((size + 3) & ~3)
        self.interfaces.append(interface)
        return ""

    def _columns(self, data: Bytes, view: memoryview, packets: list[int]) -> Records | None:
        at = np.array(packets, np.int64)
        word = field32(data, self.order)
        half = np.ndarray((len(data) - 1,), np.dtype(f"{self.order}u2"), data, strides=(1,))
        kind, length = word[at].astype(np.int64), word[at + 4].astype(np.int64)
        number = np.arange(self.number, self.number + len(at), dtype=np.int64)
        self.number += len(at)
        old, simple = kind == _OLD_PACKET, kind == _SIMPLE_PACKET
        interface = np.where(old, half[at + 8].astype(np.int64), word[at + 8].astype(np.int64))
        interface[simple] = 0
        start = at + np.where(simple, 12, 28)
        wire = np.where(simple, word[at + 8], word[at + 24]).astype(np.int64)
        captured = np.where(simple, np.minimum(wire, length - 16), word[at + 20]).astype(np.int64)
        if simple.any() and self.interfaces and self.interfaces[0].snap_length:
            captured[simple] = np.minimum(captured[simple], self.interfaces[0].snap_length)
        # The block's own length bounds the packet in it, whatever the packet's length says.
        good = (kind != _JOURNAL) & (captured <= LARGEST_PACKET) & (start + captured <= at + length - 4)
        known = interface < len(self.interfaces)
        self.strangers += int((good & ~known).sum())
        stamp = (word[at + 12].astype(np.uint64) << np.uint64(32)) | word[at + 16].astype(np.uint64)
        time_ns, link = np.zeros(len(at), np.int64), np.full(len(at), -1, np.int64)
        for index in np.unique(interface[known]):
            rows = np.flatnonzero(interface == index)
            described = self.interfaces[int(index)]
            time_ns[rows] = _nanoseconds(stamp[rows], described)
            link[rows] = described.link
        time_ns[simple] = 0
        keep = np.flatnonzero(good & known)
        if not len(keep):
            return None
        return Records(data, number[keep], time_ns[keep], start[keep], captured[keep], wire[keep], link[keep])


def _nanoseconds(stamp: npt.NDArray[np.uint64], interface: _Interface) -> Ints:
    places = interface.resolution & 0x7F
    billion = np.uint64(1_000_000_000)
    if interface.resolution & 0x80:
        if places > 63:
            return np.zeros(len(stamp), np.int64)
        whole, rest = stamp >> np.uint64(places), stamp & np.uint64((1 << places) - 1)
        if places > 30:  # keep the product below within 64 bits
            rest, places = rest >> np.uint64(places - 30), 30
        time = whole * billion + (rest * billion >> np.uint64(places))
    elif places <= 9:
        time = stamp * np.uint64(10 ** (9 - places))
    else:
        time = stamp // np.uint64(10 ** min(places - 9, 19))
    return time.astype(np.int64) + np.int64(max(-(2**33), min(interface.offset_seconds, 2**33)) * 1_000_000_000)
