"""Reads what `ptz.cgi` and `ptzqueue.cgi` say: texts that a device writes, so nothing in them is believed without a look."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

AXES: Final = ("pan", "tilt", "zoom", "focus", "iris", "brightness")
SWITCHES: Final = ("autofocus", "autoiris")
MOST_CHARACTERS: Final = 64 << 10
MOST_PRESETS: Final = 512
MOST_NAME: Final = 128
_PRESET = re.compile(r"presetposno(\d{1,5})\s*\Z", re.IGNORECASE)
_ANCHOR = re.compile(r"""<a\s+name\s*=\s*["']?\s*(-?\d{1,9})\s*["']?\s*/?>""", re.IGNORECASE)
_DEEPEST = 8


class Preset(NamedTuple):
    """A preset as the device lists it."""

    number: int
    name: str


class QueueState(NamedTuple):
    """Where we stand in the queue of those who want to move the camera."""

    position: int
    """1 is in control; 0 or less is nowhere."""
    seconds_left: int
    poll_seconds: int


class ZoomStep(NamedTuple):
    """A position of the zoom whose magnification the device says."""

    step: int
    magnification: float


def clean(text: str, longest: int = MOST_NAME) -> str:
    """A name or a sentence of the device's, without control characters and no longer than it may be."""
    kept = "".join(character if character.isprintable() else " " for character in text[: 4 * longest])
    return " ".join(kept.split())[:longest]


def lines(text: str) -> dict[str, str]:
    r"""The `name=value` lines of an answer; names in lower case, the first of a name counts.

    >>> lines("pan=12.5000\r\ntilt=-3.2500\n")
    {'pan': '12.5000', 'tilt': '-3.2500'}
    """
    found: dict[str, str] = {}
    for line in text[:MOST_CHARACTERS].splitlines():
        name, equals, value = line.partition("=")
        name = name.strip().lower()
        if equals and name and len(name) <= MOST_NAME:
            found.setdefault(name, value.strip())
    return found


def number(text: str | None) -> float | None:
    """A finite number, or None where there is none."""
    try:
        value = float((text or "").strip()[:40])
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e9 else None


def position(text: str) -> tuple[dict[str, float], dict[str, bool]]:
    """The axes and the automatic functions in an answer to `query=position`; those it does not name are absent."""
    said = lines(text)
    axes = {axis: value for axis in AXES if (value := number(said.get(axis))) is not None}
    switches = {name: said[name].lower() == "on" for name in SWITCHES if said.get(name, "").lower() in {"on", "off"}}
    return axes, switches


def limits(text: str) -> dict[str, tuple[float | None, float | None]]:
    """Lowest and highest value of each axis in an answer to `query=limits`; None where the device says none."""
    said = lines(text)
    found = {}
    for axis in AXES:
        low, high = number(said.get(f"min{axis}")), number(said.get(f"max{axis}"))
        if low is not None and high is not None and low > high:
            continue  # a device that contradicts itself has said nothing
        if low is not None or high is not None:
            found[axis] = (low, high)
    return found


def presets(text: str) -> list[Preset]:
    r"""The presets in an answer to `query=presetposcam`, by number.

    >>> presets("Preset Positions for camera 1\npresetposno1=Home\npresetposno2=Gate\n")
    [Preset(number=1, name='Home'), Preset(number=2, name='Gate')]
    """
    found: dict[int, str] = {}
    for line in text[:MOST_CHARACTERS].splitlines():
        name, equals, value = line.partition("=")
        match = _PRESET.match(name.strip())
        if equals and match and int(match[1]) > 0:
            found.setdefault(int(match[1]), clean(value))
        if len(found) >= MOST_PRESETS:
            break
    return [Preset(number, name) for number, name in sorted(found.items())]


def place(text: str, preset: int) -> dict[str, float]:
    r"""Pan and tilt of a preset in an answer to `query=presetposcamdata`. No name holds a colon; the zoom's unit there is not written down.

    >>> place("Preset Positions for camera 1\npresetposno2=Gate:pan=45.0:tilt=-10.0:zoom=2000.0\n", 2)
    {'pan': 45.0, 'tilt': -10.0}
    """
    fields = lines(text).get(f"presetposno{preset}", "").split(":")[1:]
    said = dict(field.partition("=")[::2] for field in fields)
    return {axis: value for axis in ("pan", "tilt") if (value := number(said.get(axis))) is not None}


def queue(text: str) -> QueueState | None:
    """The three anchors of `ptzqueue.cgi`: position, seconds left, seconds between two questions."""
    anchors = [int(value) for value in _ANCHOR.findall(text[:MOST_CHARACTERS])]
    return QueueState(anchors[0], anchors[1], anchors[2]) if len(anchors) >= 3 else None


def zoom_steps(text: str) -> list[ZoomStep]:
    """The zoom positions with their magnification in an answer to `query=attributes&format=json`.

    Axis documents entries whose `value` is the position and whose `zoom` is the magnification. Others were described too, so any object
    counts that has a magnification and beside it one number that can only be the position (its name speaks of zoom, step, position, unit or
    value). What is ambiguous is left out.

    >>> zoom_steps('{"Camera 1": {"zoomSteps": [{"value": "1", "zoom": "1"}, {"value": "9999", "zoom": "3.58"}]}}')
    [ZoomStep(step=1, magnification=1.0), ZoomStep(step=9999, magnification=3.58)]
    """
    try:
        document = json.loads(text[:MOST_CHARACTERS])
    except (ValueError, RecursionError):
        return []
    found: dict[int, float] = {}
    for entry in _objects(document, 0):
        named = {str(name).lower(): value for name, value in entry.items()}
        if named.keys() - {"visible"} == {"value", "zoom"}:
            named = {"value": named["value"], "magnification": named["zoom"]}
        factors = [_plain(value) for name, value in named.items() if "magnif" in name]
        others = {name: value for name, value in named.items() if "magnif" not in name}
        steps = [
            _plain(value)
            for name, value in others.items()
            if any(word in name for word in ("zoom", "step", "position", "unit", "value"))
        ]
        if len(factors) == 1 and len(steps) == 1 and factors[0] and steps[0] is not None and factors[0] > 0:
            step = int(steps[0])
            if 1 <= step <= 19_999 and step == steps[0]:
                found.setdefault(step, factors[0])
    rows = [ZoomStep(step, found[step]) for step in sorted(found)]
    rising = all(one.magnification < other.magnification for one, other in itertools.pairwise(rows))
    return rows if rising else []


def auxiliaries(text: str) -> list[str]:
    """The names of the auxiliary functions in an answer to `query=auxiliary`, which lists them in lines, with or without `=`."""
    found = []
    for line in text[:MOST_CHARACTERS].splitlines()[1:65]:  # the first is a heading
        name, equals, value = line.partition("=")
        word = clean(value if equals else name, 64)
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.:-]*", word):
            found.append(word)
    return list(dict.fromkeys(found))


def _plain(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) and abs(value) < 1e9 else None
    if isinstance(value, str):
        return number(value.strip().lower().removesuffix("x"))
    return None


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _objects(child, depth + 1)
