"""Overlays: what a camera says lies on its picture, and how what we ask for is spelled for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 512
MAX_OVERLAYS = 300
_MOST_LISTED = 1000
_SHOWN_TEXT, _SHOWN_PATH = 600, 300
ASKED_POSITIONS = ("top", "topRight", "bottomRight", "bottom", "bottomLeft", "topLeft")
_POINT = re.compile(r"\s*(-?[01](?:\.\d{1,6})?)\s*,\s*(-?[01](?:\.\d{1,6})?)\s*")
_SAME_PLACE = 0.02
"""Cameras move an overlay to their own grid: what is nearer than this (of 2.0, the picture's width) counts as the same place."""


class Colour(StrEnum):
    """Colours of overlay text."""

    BLACK = "black"
    WHITE = "white"
    RED = "red"
    TRANSPARENT = "transparent"
    SEMI_TRANSPARENT = "semiTransparent"


class Overlay(BaseModel):
    """One overlay of a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text", "image"] = Field(description="text or image.")
    identity: int = Field(description="Its number on the camera, from 0; may change when the camera starts again.")
    camera: int = Field(description="The view it lies on, from 1.")
    text: str | None = Field(None, description="A text's content, modifiers such as %F and #D included.")
    path: str | None = Field(None, description="An image's file on the camera.")
    position: str | None = Field(None, description="Where: a word such as topLeft, or x,y from -1.0 to 1.0.")
    font_size: int | None = Field(None, description="Size of the font, pixels.")
    text_colour: str | None = Field(None, description="Colour of the letters.")
    background_colour: str | None = Field(None, description="Colour behind the letters.")
    outline_colour: str | None = Field(None, description="Colour around the letters.")
    visible: bool | None = Field(None, description="Whether it is shown.")

    def content(self) -> str:
        """What `expect` must repeat: a text's content, an image's file."""
        return (self.text if self.kind == "text" else self.path) or ""


class OverlayCapabilities(BaseModel):
    """What a camera's overlays can do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slots_free: int | None = Field(None, description="Overlays that still fit.")
    slots_per_text: int | None = Field(None, description="Slots a text takes.")
    max_text: int | None = Field(None, description="Most characters of a text.")
    min_font_size: int | None = Field(None, description="Smallest font, pixels.")
    max_font_size: int | None = Field(None, description="Largest font, pixels.")


def check_text(text: str) -> str:
    r"""Return an overlay's text: at most 512 characters, lines parted by a line break or by \n.

    Raises:
        ValueError: It is too long or holds control characters.
    """
    if not text or len(text) > MAX_TEXT:
        raise ValueError(f"must be 1 to {MAX_TEXT} characters")
    if not all(one.isprintable() or one == "\n" for one in text):
        raise ValueError("must not hold control characters other than line breaks")
    return text


def check_position(text: str) -> str:
    """Return a position in the spelling of cameras: `topLeft`, or `-0.50,0.25`.

    >>> check_position("topleft"), check_position(" 0.5, -1 ")
    ('topLeft', '0.5,-1')

    Raises:
        ValueError: It is none.
    """
    word = next((one for one in ASKED_POSITIONS if one.lower() == text.strip().lower()), None)
    if word is not None:
        return word
    match = _POINT.fullmatch(text)
    if not match or not all(-1 <= float(part) <= 1 for part in match.groups()):
        raise ValueError(f"is one of {', '.join(ASKED_POSITIONS)}, or x,y with both from -1.0 to 1.0 such as -0.9,0.8")
    return f"{match[1]},{match[2]}"


def position_for_json(position: str) -> str | list[float]:
    """Spell a checked position for dynamicoverlay.cgi."""
    return position if "," not in position else [float(part) for part in position.split(",")]


def clean(value: Any, limit: int) -> str:
    """Return what a device said as text of bounded length, without control characters other than line breaks."""
    text = value if isinstance(value, str) else ""
    text = "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text[: 2 * limit]
    )
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def same_text(one: str | None, other: str | None) -> bool:
    r"""Whether two texts are the same to a camera, which writes a line break as such or as \n, and may drop blanks at the ends."""
    return _plain(one) == _plain(other)


def _plain(text: str | None) -> str:
    return (text or "").replace("\\n", "\n").replace("\r", "").strip()


def same_place(one: str | None, other: str | None) -> bool:
    """Whether two positions are the same, but for the camera's rounding."""
    if one is None or other is None or "," not in one or "," not in other:
        return (one or "").lower() == (other or "").lower()
    pairs = zip(one.split(","), other.split(","), strict=False)
    return all(abs(float(a) - float(b)) <= _SAME_PLACE for a, b in pairs)


# --- dynamicoverlay.cgi ----------------------------------------------------------------------------------------------


def of_json(data: Any) -> tuple[list[Overlay], list[str]]:
    """Read the answer of `list`: the overlays, and the image files on the camera.

    Raises:
        ValueError: It is no list of overlays.
    """
    if not isinstance(data, dict):
        raise ValueError("its list of overlays is no object")
    if not {"textOverlays", "imageOverlays", "imageFiles"} & set(data):
        raise ValueError("its answer holds neither overlays nor images")
    found = [_overlay("text", entry) for entry in _entries(data, "textOverlays")]
    found += [_overlay("image", entry) for entry in _entries(data, "imageOverlays")]
    if len({one.identity for one in found}) != len(found):
        raise ValueError("two of its overlays have the same identity")
    files = data.get("imageFiles") or []
    if not isinstance(files, list) or len(files) > _MOST_LISTED:
        raise ValueError("its list of overlay images is none")
    named = [entry.get("path", entry.get("name")) if isinstance(entry, dict) else entry for entry in files]
    images = sorted(clean(name, _SHOWN_PATH) for name in named if isinstance(name, str) and name)
    return sorted(found, key=lambda one: one.identity), images


def _entries(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = data.get(key) or []
    if not isinstance(entries, list) or len(entries) > _MOST_LISTED:
        raise ValueError(f"its {key} are no list")
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"one of its {key} is no object")
    return entries


def _overlay(kind: Literal["text", "image"], entry: Mapping[str, Any]) -> Overlay:
    identity, camera = _whole(entry.get("identity")), _whole(entry.get("camera"))
    if identity is None or identity < 0:
        raise ValueError("one of its overlays has no identity")
    visible = entry.get("visible")
    return Overlay(
        kind=kind,
        identity=identity,
        camera=1 if camera is None else camera,
        text=clean(entry.get("text"), _SHOWN_TEXT) if kind == "text" else None,
        path=clean(entry.get("overlayPath"), _SHOWN_PATH) if kind == "image" else None,
        position=_position(entry.get("position")),
        font_size=_whole(entry.get("fontSize")),
        text_colour=_word(entry.get("textColor")),
        background_colour=_word(entry.get("textBGColor")),
        outline_colour=_word(entry.get("textOLColor")),
        visible=visible if isinstance(visible, bool) else None,
    )


def _position(value: Any) -> str | None:
    if isinstance(value, str) and value:
        return clean(value, 40)
    if isinstance(value, list) and len(value) == 2 and all(_is_number(part) for part in value):
        return ",".join(f"{part:.4g}" for part in value)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e6


def _whole(value: Any) -> int | None:
    return int(value) if _is_number(value) and value == int(value) else None


def _word(value: Any) -> str | None:
    return clean(value, 40) if isinstance(value, str) and value else None


def capabilities_of(data: Any) -> OverlayCapabilities:
    """Read the answer of `getOverlayCapabilities`, whose keys are spelled differently by different firmware."""
    known: dict[str, int] = {}
    _collect(data, known, 0)

    def number(*parts: str) -> int | None:
        return next((value for key, value in known.items() if all(part in key for part in parts)), None)

    return OverlayCapabilities(
        slots_free=number("available", "slot"),
        slots_per_text=number("slots", "pertext"),
        max_text=number("maxtext"),
        min_font_size=number("minfont"),
        max_font_size=number("maxfont"),
    )


def _collect(value: Any, known: dict[str, int], depth: int) -> None:
    if not isinstance(value, dict) or depth > 3:
        return
    for key, inner in list(value.items())[:200]:
        whole = _whole(inner)
        if whole is not None and whole >= 0:
            known.setdefault(str(key).lower(), whole)
        else:
            _collect(inner, known, depth + 1)


# --- the text of cameras without dynamic overlays: parameters Image.I#.Text.* -----------------------------------------

LEGACY_COLOURS: Mapping[str, Sequence[Colour]] = {
    "Color": (Colour.BLACK, Colour.WHITE),
    "BGColor": (Colour.BLACK, Colour.WHITE, Colour.TRANSPARENT, Colour.SEMI_TRANSPARENT),
}


def of_legacy(values: Mapping[str, str]) -> list[Overlay]:
    """Read `Image.I#.Text.*` parameters: one text for each view that shows one, its view's number as identity."""
    groups: dict[int, dict[str, str]] = {}
    for key, value in values.items():
        match = re.fullmatch(r"Image\.I(\d{1,2})\.Text\.(\w{1,40})", key)
        if match:
            groups.setdefault(int(match[1]), {})[match[2]] = value
    found = []
    for index, said in sorted(groups.items()):
        if "String" not in said and "TextEnabled" not in said:
            continue
        shown = said.get("TextEnabled", "").lower() == "yes"
        if not shown and not said.get("String"):
            continue
        found.append(
            Overlay(
                kind="text",
                identity=index,
                camera=index + 1,
                text=clean(said.get("String", ""), _SHOWN_TEXT),
                position=_word(said.get("Position")),
                text_colour=_word(said.get("Color")),
                background_colour=_word(said.get("BGColor")),
                visible=shown,
            )
        )
    return found
