"""Privacy masks as cameras tell of them: JSON, the old text, or `MaskWindows` parameters; one shape either way."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.network.vapix._wire import Nonsense

NAME_LENGTH = 128
"""Most characters of a mask's name, by the camera's documentation."""
MOST_MASKS = 256
MOST_CORNERS = 64
_WINDOW = re.compile(r"(Image\.I(\d{1,2})\.Overlay\.MaskWindows\.(M\d{1,3}))\.([A-Za-z]+)\Z")
_NUMBERED = re.compile(r"\s*(?:[A-Za-z]*\d+\s*[=:]|\d+\s)\s*(.+?)\s*\Z")
_NUMBER = re.compile(r"-?\d{1,9}\Z")


class Corner(BaseModel):
    """A corner of a mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x: int = Field(description="Pixels from the left edge, at the sensor's largest resolution and rotation 0.")
    y: int = Field(description="Pixels from the upper edge, likewise.")


class Window(BaseModel):
    """A mask as the `MaskWindows` parameters of older cameras give it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str = Field(description="Parameter group, such as Image.I0.Overlay.MaskWindows.M0.")
    x: int | None = Field(None, description="Left edge, in the camera's own unit.")
    y: int | None = Field(None, description="Upper edge, likewise.")
    width: int | None = Field(None, description="Width, likewise.")
    height: int | None = Field(None, description="Height, likewise.")


class Mask(BaseModel):
    """A privacy mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Its name, by which it is changed and removed.")
    mask_id: int | None = Field(None, description="The camera's number for it, where it says one.")
    enabled: bool | None = Field(None, description="Whether it covers its area now; None when the camera does not say.")
    zoom_low_limit: int | None = Field(
        None, description="Least zoom at which it is shown, 0 to 19999 of a PTZ camera's zoom steps."
    )
    corners: list[Corner] = Field(default_factory=list, description="Its corners; empty when the camera does not say.")
    window: Window | None = Field(None, description="Its MaskWindows parameters, where the camera keeps masks there.")


def masks_from_json(text: str) -> list[Mask]:
    """Read the answer to `query=listpxjson`.

    >>> masks_from_json('{"listpx":[{"id":0,"name":"Door","enabled":true,"position":[{"x":1,"y":2}]}]}')[0].corners
    [Corner(x=1, y=2)]

    Raises:
        Nonsense: It is none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise Nonsense("The camera's list of masks is no JSON.") from None
    rows = document.get("listpx") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise Nonsense("The camera's answer has no list of masks.")
    _check_number(len(rows))
    masks = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise Nonsense("The camera's list has a mask without a name.")
        position = row.get("position")
        enabled = row.get("enabled")
        masks.append(
            Mask(
                name=clean_name(row["name"]),
                mask_id=_whole(row.get("id")),
                enabled=enabled if isinstance(enabled, bool) else None,
                zoom_low_limit=_whole(row.get("zoomlowlimit")),
                corners=_corners(position) if isinstance(position, list) else [],
            )
        )
    return masks


def masks_from_text(text: str) -> list[Mask]:
    r"""Read the answer to the old `query=list`: a name a line, perhaps after a number; nothing else is known of them.

    >>> [mask.name for mask in masks_from_text("0 Door\n1 Back yard\n")]
    ['Door', 'Back yard']

    Raises:
        Nonsense: It is something else. Any words could be names; a login page taken for a mask would hide that there is none.
    """
    begin = text.lstrip()[:1]
    if begin in ("<", "{"):
        what = "a web page or XML" if begin == "<" else "JSON"
        raise Nonsense(f"The camera answers with {what} in place of its list of masks.")
    masks = []
    for line in re.split(r"\r\n|\r|\n", text):
        if any(unicodedata.category(character) == "Cc" and character != "\t" for character in line):
            raise Nonsense("The camera's list of masks holds control characters.")
        if line.strip() and not line.rstrip().endswith(":"):
            match = _NUMBERED.match(line)
            name = match[1] if match else line.strip()
            if len(name) > NAME_LENGTH:
                raise Nonsense("The camera's list of masks has a line that is longer than a name can be.")
            if name := clean_name(name):
                masks.append(Mask(name=name))
    _check_number(len(masks))
    return masks


def _check_number(named: int) -> None:
    if named > MOST_MASKS:
        raise Nonsense(f"The camera names {named} masks, more than any has.")


def masks_from_parameters(values: Mapping[str, str]) -> list[Mask]:
    """Read the `Image.I#.Overlay.MaskWindows.M#` parameters; groups without any of them are no masks."""
    groups: dict[tuple[int, int, str], dict[str, str]] = {}
    for key, value in values.items():
        match = _WINDOW.match(key)
        if match:
            place = (int(match[2]), int(match[3][1:]), match[1])
            groups.setdefault(place, {})[match[4]] = value
    masks = []
    for (_, number, group), found in sorted(groups.items())[:MOST_MASKS]:
        enabled = found.get("Enabled")
        masks.append(
            Mask(
                name=clean_name(found.get("Name", "")) or group.rsplit(".", 1)[1],
                mask_id=number,
                enabled=enabled == "yes" if enabled in ("yes", "no") else None,
                zoom_low_limit=_whole(found.get("ZoomLowLimit")),
                window=Window(
                    group=group,
                    x=_whole(found.get("XPos")),
                    y=_whole(found.get("YPos")),
                    width=_whole(found.get("Width")),
                    height=_whole(found.get("Height")),
                ),
            )
        )
    return masks


def with_windows(masks: Sequence[Mask], windows: Iterable[Mask]) -> list[Mask]:
    """Add to masks the parameter groups of the same name, where a camera shows its masks in both ways."""
    by_name: dict[str, list[Mask]] = {}
    for window in windows:
        by_name.setdefault(window.name, []).append(window)
    return [
        mask.model_copy(update={"window": same[0].window}) if len(same := by_name.get(mask.name, [])) == 1 else mask
        for mask in masks
    ]


def named(masks: Iterable[Mask], name: str) -> Mask | None:
    """The mask of that name, compared exactly."""
    return next((mask for mask in masks if mask.name == name), None)


def others_changed(
    before: Sequence[Mask], after: Sequence[Mask], *, besides: str, with_positions: bool = True
) -> list[str]:
    """Say what happened to masks that nobody asked to change; empty when nothing did.

    Args:
        before: The masks before the change.
        after: The masks after it.
        besides: Name of the mask that was changed.
        with_positions: Compare the corners as well; a PTZ camera's are where it looks at the moment.
    """
    found = []
    was = {mask.name: mask for mask in before if mask.name != besides}
    now = {mask.name: mask for mask in after if mask.name != besides}
    found += [f"mask {name!r} is gone" for name in was if name not in now]
    found += [f"mask {name!r} is new" for name in now if name not in was]
    for name in was.keys() & now.keys():
        old, new = was[name], now[name]
        if old.enabled is not new.enabled:
            found.append(f"mask {name!r} is {'on' if new.enabled else 'off'} now")
        if with_positions and (old.corners, old.window) != (new.corners, new.window):
            found.append(f"mask {name!r} moved")
        if old.zoom_low_limit != new.zoom_low_limit:
            found.append(f"mask {name!r} has another zoom limit")
    return sorted(found)


def clean_name(text: str) -> str:
    r"""A name as the camera gives it, without control characters and not longer than a name may be.

    >>> clean_name("Do\x07or")
    'Door'
    """
    return "".join(c for c in text[: 4 * NAME_LENGTH] if c.isprintable())[:NAME_LENGTH]


def _corners(position: list[Any]) -> list[Corner]:
    corners = []
    for point in position[:MOST_CORNERS]:
        x, y = (_whole(point.get("x")), _whole(point.get("y"))) if isinstance(point, dict) else (None, None)
        if x is None or y is None:
            raise Nonsense("A corner of a mask has no numbers.")
        corners.append(Corner(x=x, y=y))
    return corners


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and abs(value) < 1e9:
        return round(value)
    if isinstance(value, int) and abs(value) < 10**9:
        return value
    if isinstance(value, str) and _NUMBER.match(value.strip()):
        return int(value)
    return None
