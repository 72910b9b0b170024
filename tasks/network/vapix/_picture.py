"""What a JPEG shows without anybody looking at it: its size, and how bright and how even it is."""

from __future__ import annotations

import io
import threading
import warnings
from typing import Final, NamedTuple

MOST_PIXELS: Final = 40_000_000
"""Larger than any camera's picture; a header that says more is made to hurt: a progressive JPEG takes six bytes of memory for each."""
_LOOK: Final = (240, 135)
"""Brightness is measured on about this many pixels: the decoder leaves the others out, which makes it ten times cheaper."""
_one_at_a_time = threading.Lock()
"""So that pictures made to hurt take their memory once, however many cameras send them."""
_MAGIC = b"\xff\xd8\xff"
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOFn markers, ITU T.81 table B.1


class Light(NamedTuple):
    """How light a picture is, 0 to 255, and how much that differs from place to place (a standard deviation)."""

    mean: float
    deviation: float


def is_jpeg(data: bytes) -> bool:
    """Whether it begins as a JPEG does."""
    return data.startswith(_MAGIC)


def is_whole(data: bytes) -> bool:
    """Whether it begins and ends as a JPEG does; some cameras fill up with zeros."""
    return is_jpeg(data) and data[-64:].rstrip(b"\x00\r\n").endswith(b"\xff\xd9")


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, from the JPEG's frame header; None when there is none."""
    at = 2
    while is_jpeg(data) and at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return (width, height) if width and height else None
        if marker == 0xD9 or marker == 0xDA:  # the picture itself begins, or ends, before a frame header
            return None
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD8  # markers without a length
        at += 2 if alone else 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def light_of(data: bytes) -> Light | None:
    """Measure a picture's brightness; None when it cannot be decoded. Takes milliseconds of a thread."""
    from PIL import Image, ImageStat

    size = dimensions(data)
    if size is None or size[0] * size[1] > MOST_PIXELS:
        return None
    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["JPEG"])
            image.draft("L", _LOOK)
            grey = image.convert("L")
            seen = ImageStat.Stat(grey)
        return Light(round(seen.mean[0], 2), round(seen.stddev[0], 2))
    except (OSError, ValueError, SyntaxError, ArithmeticError, Image.DecompressionBombError):
        return None
