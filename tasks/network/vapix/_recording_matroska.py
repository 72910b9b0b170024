"""How far a Matroska file reaches: what was downloaded before a connection broke is evidence, and says where to go on.

Only the elements' heads are read (RFC 8794 for EBML, RFC 9559 for Matroska), never the frames, so a file of gigabytes costs a few reads
for each cluster. Nothing in the file is trusted: sizes that lead outside it or backwards end the reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

EBML_MAGIC = bytes.fromhex("1a45dfa3")
_SEGMENT, _INFO, _SCALE = 0x18538067, 0x1549A966, 0x2AD7B1
_CLUSTER, _TIMESTAMP, _SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0x1F43B675, 0xE7, 0xA3, 0xA0, 0xA1
_OPENED = {_SEGMENT, _INFO, _CLUSTER, _BLOCK_GROUP}
"""Elements whose content is read; all others are stepped over. Nesting needs no bookkeeping: what follows says by its id what it is."""
_MOST_ELEMENTS = 50_000_000
"""A day of 30 frames a second with sound has 7 million; a file that is not read to its end is taken for one that ends too early."""
_DEFAULT_SCALE_NS = 1_000_000


@dataclass(frozen=True)
class Reach:
    """What a Matroska file holds, whole or cut.

    Attributes:
        clusters: Clusters (pieces of a second or so of the recording) that begin in it.
        first_seconds: When its first cluster begins, seconds on the file's own clock.
        last_seconds: When its last cluster begins: everything before that is there, of that one perhaps not all.
        until_seconds: When its last frame is shown.
        whole: Whether no element is cut by the end of the file.
    """

    clusters: int
    first_seconds: float
    last_seconds: float
    until_seconds: float
    whole: bool


def reach(file: BinaryIO) -> Reach | None:
    """Say how far a Matroska file reaches; None when it is none or holds no cluster.

    Args:
        file: Open for reading bytes, seekable.
    """
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    if file.read(4) != EBML_MAGIC:
        return None
    scale, clusters, whole = _DEFAULT_SCALE_NS, 0, True
    first = last = until = 0
    place = 0
    for _ in range(_MOST_ELEMENTS):
        if place >= end:
            break
        head = _head(file, place)
        if head is None:
            whole = False
            break
        element, size, begin = head
        if element in _OPENED:
            clusters += element == _CLUSTER
            if element == _CLUSTER and size is not None and begin + size > end:
                whole = False
            place = begin
            continue
        if size is None or begin + size > end:
            whole = False
            break
        if element == _SCALE:
            scale = _number(file, begin, size) or _DEFAULT_SCALE_NS
        elif element == _TIMESTAMP and clusters:
            last = _number(file, begin, size)
            first = last if clusters == 1 else first
            until = max(until, last)
        elif element in (_SIMPLE_BLOCK, _BLOCK) and clusters:
            until = max(until, last + _offset(file, begin, size))
        place = begin + size
    if not clusters:
        return None
    seconds = scale / 1e9
    return Reach(clusters, first * seconds, last * seconds, until * seconds, whole)


def _head(file: BinaryIO, place: int) -> tuple[int, int | None, int] | None:
    """Read an element's id and size; the size is None when the writer did not know it. None when the head is cut or malformed."""
    file.seek(place)
    raw = file.read(12)
    if not raw or not raw[0]:
        return None
    width = 9 - raw[0].bit_length()
    if width > 4 or len(raw) <= width or not raw[width]:
        return None
    size_width = 9 - raw[width].bit_length()
    if len(raw) < width + size_width:
        return None
    bits = 7 * size_width
    size = int.from_bytes(raw[width : width + size_width], "big") & ((1 << bits) - 1)
    return int.from_bytes(raw[:width], "big"), None if size == (1 << bits) - 1 else size, place + width + size_width


def _number(file: BinaryIO, place: int, size: int) -> int:
    file.seek(place)
    return int.from_bytes(file.read(min(size, 8)), "big")


def _offset(file: BinaryIO, place: int, size: int) -> int:
    """A block's time within its cluster: after the track number comes a signed 16-bit number."""
    file.seek(place)
    raw = file.read(min(size, 11))
    width = 9 - raw[0].bit_length() if raw and raw[0] else 9
    return int.from_bytes(raw[width : width + 2], "big", signed=True) if len(raw) >= width + 2 else 0
