"""Draws what a simulated camera sees: a scene that moves with pan, tilt and zoom, and the texts laid over it.

Drawing is shared: a fleet that looks at the same scene in the same second pays once for each picture that differs.
"""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont


class Look(NamedTuple):
    """Everything a picture depends on.

    Attributes:
        width, height: Pixels, before it is rotated.
        compression: 0 to 100; higher is smaller.
        rotation: Degrees: 0, 90, 180 or 270.
        pan, tilt: Degrees; zoom: device steps. Rounded, so that a trembling head draws nothing new.
        lines: Texts at the top, first line first.
        black: The lens is covered.
        grey: Night: no colours.
    """

    width: int
    height: int
    compression: int = 30
    rotation: int = 0
    pan: float = 0.0
    tilt: float = 0.0
    zoom: float = 1.0
    lines: tuple[str, ...] = ()
    black: bool = False
    grey: bool = False


@functools.lru_cache(maxsize=256)
def draw(look: Look) -> bytes:
    """The picture as JPEG."""
    scene = _scene(
        look.width, look.height, round(look.pan), round(look.tilt), round(look.zoom / 200), look.black
    ).copy()
    if look.lines and not look.black:
        canvas = ImageDraw.Draw(scene)
        size = max(9, look.height // 24)
        font = _font(size)
        for number, line in enumerate(look.lines[:12]):
            canvas.text((size // 2, size // 3 + number * (size * 5 // 4)), line[:120], font=font, fill=(255, 255, 255))
    image: Image.Image = scene
    if look.grey:
        image = image.convert("L")
    if look.rotation:
        image = image.rotate(-look.rotation, expand=True)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=min(95, max(5, 100 - look.compression)))
    return file.getvalue()


@functools.lru_cache(maxsize=64)
def _scene(width: int, height: int, pan: int, tilt: int, zoom: int, black: bool) -> Image.Image:
    """A yard under a sky: posts stand every 30 degrees, the horizon follows the tilt, both grow with the zoom."""
    if black:
        return Image.new("RGB", (width, height), (3, 3, 4))
    image = Image.new("RGB", (width, height), (126, 160, 196))
    canvas = ImageDraw.Draw(image)
    per_degree = width / max(4.0, 60.0 - min(55, zoom))
    horizon = height * 0.45 + tilt * per_degree
    canvas.rectangle((0, max(0.0, min(float(height), horizon)), width, height), fill=(92, 104, 84))
    for post in range(-180, 180, 30):
        x = width / 2 + ((post - pan + 180) % 360 - 180) * per_degree
        thick = max(2.0, per_degree * 1.5)
        if -thick < x < width + thick:
            shade = 40 + (post + 180) // 3
            canvas.rectangle(
                (x - thick, horizon - 8 * per_degree, x + thick, horizon + 6 * per_degree),
                fill=(shade, 60, 180 - shade),
            )
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
