"""Whether an MP4 file is whole, and how long it is by its own index (ISO 14496-12); nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_MOST_BOXES = 100_000


def whole_mp4(file: BinaryIO) -> bool:
    """Whether the boxes of an MP4 file (section 4.2) end where the file ends, its index and its media among them."""
    end = file.seek(0, 2)
    place, missing = 0, {b"moov", b"mdat"}
    for kind, _, after in _boxes(file, 0, end):
        missing.discard(kind)
        place = after
    return not missing and place == end


def mp4_seconds(file: BinaryIO) -> float | None:
    """How long a whole MP4 file says it is (`mvhd`, section 8.2.2); None when it does not, as those written in fragments."""
    for kind, begin, after in _boxes(file, 0, file.seek(0, 2)):
        if kind != b"moov":
            continue
        for inner, at, _ in _boxes(file, begin, after):
            if inner == b"mvhd":
                file.seek(at)
                return _duration(file.read(32))
    return None


def _duration(head: bytes) -> float | None:
    # Version and flags, two times, units a second, duration: the times and the duration are twice as long from version 1 on.
    width = 8 if head[:1] == b"\x01" else 4
    at = 4 + 2 * width
    units, duration = head[at : at + 4], head[at + 4 : at + 4 + width]
    if len(duration) < width or not any(units) or not any(duration) or duration == b"\xff" * width:
        return None
    return int.from_bytes(duration, "big") / int.from_bytes(units, "big")


def _boxes(file: BinaryIO, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, where its content begins and where it ends; the last may end where nothing is any more."""
    for _ in range(_MOST_BOXES):
        if place >= end:
            break
        file.seek(place)
        head = file.read(16)
        size, kind, content = int.from_bytes(head[:4], "big"), head[4:8], place + 8
        if size == 1:
            size, content = int.from_bytes(head[8:16], "big"), place + 16
        elif size == 0:  # to the end of the file
            size = end - place
        if len(head) < 8 or size < 8:
            break
        yield kind, content, place + size
        place += size
