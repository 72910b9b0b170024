"""What a fleet sees, on one picture: small snapshots side by side, each with its camera's name, what is wrong on a red ground."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from flows._text import harmless

COLUMNS = 8
WIDTH, HEIGHT = 160, 90
"""Pixels of one snapshot."""
CAPTION, GAP = 30, 6
MOST_ON_A_SHEET = 96
"""Cameras on one sheet: about 300 kB of JPEG, which a run page still shows at once."""
GROUND, PLAIN, WRONG, INK = "#f4f6f8", "#dfe4ea", "#f3c1c1", "#1d2733"
MOST_PIXELS = 40_000_000
"""A picture that unpacks to more is not opened: no camera makes one."""


@dataclass(frozen=True)
class Frame:
    """One camera on the sheet.

    Attributes:
        label: Its name.
        said: One line below: the gravest finding, or why there is no picture.
        wrong: Whether it stands on a red ground.
        picture: The snapshot as the camera gave it; None when there is none.
    """

    label: str
    said: str = ""
    wrong: bool = False
    picture: bytes | None = None


def sheets(frames: Sequence[Frame]) -> Iterator[bytes]:
    """Draw the sheets, `MOST_ON_A_SHEET` cameras each, as JPEG. Computes: call it in a thread."""
    for start in range(0, len(frames), MOST_ON_A_SHEET):
        yield _sheet(frames[start : start + MOST_ON_A_SHEET])


def data_url(jpeg: bytes) -> str:
    """Wrap a sheet for an image tag."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _sheet(frames: Sequence[Frame]) -> bytes:
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    cell_width, cell_height = WIDTH + GAP, HEIGHT + CAPTION + GAP
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, frame in enumerate(frames):
        left = GAP + (number % columns) * cell_width
        top = GAP + (number // columns) * cell_height
        ground = WRONG if frame.wrong else PLAIN
        draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT + CAPTION - 1), fill=ground)
        picture = _thumbnail(frame.picture) if frame.picture else None
        if picture is not None:
            sheet.paste(picture, (left + (WIDTH - picture.width) // 2, top + (HEIGHT - picture.height) // 2))
        else:
            draw.text((left + 8, top + HEIGHT // 2 - 6), "no picture", fill=INK, font=font)
        for line, text in enumerate((frame.label, frame.said)):
            draw.text((left + 4, top + HEIGHT + 2 + 13 * line), _fitting(draw, font, text), fill=INK, font=font)
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=72, optimize=True)
    return out.getvalue()


def _thumbnail(jpeg: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture.draft("RGB", (2 * WIDTH, 2 * HEIGHT))  # the decoder skips what would be thrown away
            small = picture.convert("RGB")
            small.thumbnail((WIDTH, HEIGHT))
            return small
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # no picture, or half of one: Pillow raises SyntaxError for some broken JPEGs


def _fitting(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> str:
    text = harmless(text)
    if draw.textlength(text, font=font) <= WIDTH - 8:
        return text
    while text and draw.textlength(text + "...", font=font) > WIDTH - 8:
        text = text[:-1]
    return text + "..."
