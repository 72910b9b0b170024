"""Stream profiles as text: which arguments one may hold, which profiles are ours, and what a camera says it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MARK = "[signalbox]"
"""Ends the description of each profile made here: that is how we know our own ones again, on every camera and from every worker."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_DESCRIPTION = 128
MAX_PARAMETERS = 1000
MAX_PROFILES = 26
_SHOWN_NAME, _SHOWN_PARAMETERS = 128, 1000
_MOST_LISTED = 256
"""More entries than ten times what a camera may hold are not a list of profiles."""

_SWITCH = ("0", "1")
_WORD = re.compile(r"[a-z0-9_]{1,24}")
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_RESOLUTION = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}")
CODECS = ("h264", "h265", "av1", "mpeg4", "jpeg")

# Argument of media.amp -> its values: words to choose from, (least, most, whole numbers only), or what they look like.
# Zipstream's and the bit rate priority's words differ between firmware generations: the camera decides those.
_ARGUMENTS: Mapping[str, tuple[str, ...] | tuple[float, float, bool] | re.Pattern[str]] = {
    "videocodec": CODECS,
    "resolution": _RESOLUTION,
    "fps": (0, 1000, False),
    "compression": (0, 100, True),
    "camera": re.compile(r"[1-9][0-9]{0,2}|quad"),
    "video": _SWITCH,
    "audio": _SWITCH,
    "videokeyframeinterval": (1, 32767, True),
    "videobitratemode": ("vbr", "mbr", "abr"),
    "videomaxbitrate": (0, 1_000_000, True),
    "videobitratepriority": _WORD,
    "videoabrtargetbitrate": (0, 1_000_000, True),
    "videoabrretentiontime": (0, 10_000, True),
    "h264profile": ("baseline", "main", "high"),
    "videozstrength": _WORD,
    "videozgopmode": _WORD,
    "videozmaxgoplength": (1, 32767, True),
    "videozfpsmode": _WORD,
    "videozminfps": (0, 1000, False),
    "videozprofile": _WORD,
    "rotation": ("0", "90", "180", "270"),
    "color": _SWITCH,
    "colorlevel": (0, 100, True),
    "overlays": ("all", "text", "image", "application", "off"),
    "squarepixel": _SWITCH,
    "palette": _WORD,
}
_ELSEWHERE = {
    "streamprofile": "a profile cannot name another one",
    "recordingid": "playing a recording is not a matter of a profile",
    "pull": "playing a recording is not a matter of a profile",
    "event": "metadata are asked for by the client, not by a profile",
    "eventtopic": "metadata are asked for by the client, not by a profile",
    "eventcontent": "metadata are asked for by the client, not by a profile",
    "ptz": "metadata are asked for by the client, not by a profile",
    "analytics": "metadata are asked for by the client, not by a profile",
    **dict.fromkeys(
        ("text", "textstring", "clock", "date", "textcolor", "textbackgroundcolor", "textposition"),
        "overlay text in stream arguments has no effect since AXIS OS 10.6; see vapix_overlay",
    ),
}
_CREDENTIAL = re.compile(r"(?i)\b((?:user|usr|login|account|pass|pwd|password|passwd|token|auth)[a-z_]*=)[^&\s]*")
_USERINFO = re.compile(r"(?i)(//)[^/@\s]*@")


class StreamProfile(BaseModel):
    """A stream profile of a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Its name, for streamprofile= in stream addresses.")
    description: str = Field("", description="What its maker wrote about it.")
    parameters: str = Field("", description="Its stream arguments, such as videocodec=h264&resolution=640x360&fps=5.")
    own: bool = Field(False, description=f"Whether it was made here: its description ends with {MARK}.")


def check_name(name: str) -> str:
    """Return the name of a profile as cameras take it.

    Raises:
        ValueError: It is none.
    """
    if not NAME.fullmatch(name):
        raise ValueError("a profile's name has 1 to 64 letters, digits, - and _; right would be yard_low")
    return name


def check_parameters(text: str) -> str:
    """Return the arguments of a profile, checked one by one.

    >>> check_parameters("videocodec=h264&resolution=640x360&fps=5")
    'videocodec=h264&resolution=640x360&fps=5'

    Raises:
        ValueError: Says which argument is wrong, and what is right.
    """
    text = text.strip().removeprefix("?")
    if not text or len(text) > MAX_PARAMETERS:
        raise ValueError(
            f"must be 1 to {MAX_PARAMETERS} characters; right would be videocodec=h264&resolution=640x360&fps=5"
        )
    found: dict[str, str] = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[a-z0-9]{1,40}", name):
            # What stands there may be a password someone pasted: it is not repeated.
            raise ValueError("must be name=value pairs joined by &, names in small letters, nothing percent-encoded")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = _check_argument(name, value)
    return "&".join(f"{name}={value}" for name, value in found.items())


def _check_argument(name: str, value: str) -> str:
    if name in _ELSEWHERE:
        raise ValueError(f"{name} does not belong in a profile: {_ELSEWHERE[name]}")
    rule = _ARGUMENTS.get(name)
    if rule is None:
        raise ValueError(f"{name} is no stream argument known here; there are {', '.join(_ARGUMENTS)}")
    if name == "videocodec" and value == "mjpeg":
        raise ValueError("videocodec mjpeg is called jpeg by cameras")
    if isinstance(rule, re.Pattern):
        if not rule.fullmatch(value):
            raise ValueError(f"{name} must look like {_looks(name, rule)}")
        return value
    if isinstance(rule[0], str):
        if value not in rule:
            raise ValueError(f"{name} is one of {', '.join(str(word) for word in rule)}")
        return value
    least, most, whole = rule
    if not (_WHOLE if whole else _NUMBER).fullmatch(value) or not float(least) <= float(value) <= float(most):
        raise ValueError(f"{name} is a {'whole ' if whole else ''}number from {least:g} to {float(most):g}")
    return value


def _looks(name: str, rule: re.Pattern[str]) -> str:
    if rule is _RESOLUTION:
        return "1920x1080"
    return "1, 2 ... or quad" if name == "camera" else "a word of small letters and digits"


def marked(description: str | None) -> str:
    """Return the description of a profile of ours."""
    return f"{description} {MARK}" if description else MARK


def same_arguments(one: str, other: str) -> bool:
    """Whether two texts hold the same arguments, in whatever order."""
    return sorted(filter(None, one.split("&"))) == sorted(filter(None, other.removeprefix("?").split("&")))


def clean(value: Any, limit: int) -> str:
    """Return what a device said as one line of bounded length without control characters."""
    text = value if isinstance(value, str) else ""
    text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[: 2 * limit])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _mask(text: str) -> str:
    return _USERINFO.sub(r"\1***@", _CREDENTIAL.sub(r"\1***", text))


@dataclass(frozen=True)
class Held:
    """A profile word for word, as it is written to a camera and read from one: not for showing."""

    name: str
    description: str = ""
    parameters: str = ""

    @property
    def own(self) -> bool:
        """Whether it was made here."""
        return self.description.rstrip().endswith(MARK)

    def shown(self) -> StreamProfile:
        """Return it in a form to show: bounded, without control characters, with credentials somebody put into it masked."""
        return StreamProfile(
            name=clean(self.name, _SHOWN_NAME),
            description=_mask(clean(self.description, MAX_DESCRIPTION + 64)),
            parameters=_mask(clean(self.parameters, _SHOWN_PARAMETERS)),
            own=self.own,
        )

    def same_as(self, other: Held) -> bool:
        """Whether both say the same, in whatever order the arguments stand."""
        return (
            self.name == other.name
            and self.description.strip() == other.description.strip()
            and same_arguments(self.parameters, other.parameters)
        )


def of_json(data: Any) -> list[Held]:
    """Read the answer of streamprofile.cgi's `list`; the key is absent where there is no profile.

    Raises:
        ValueError: It is no list of profiles.
    """
    if not isinstance(data, dict):
        raise ValueError("its list of stream profiles is no object")
    if "streamProfile" not in data and "maxProfiles" not in data:
        raise ValueError("its answer holds neither profiles nor how many there may be")
    entries = data.get("streamProfile", [])
    if not isinstance(entries, list) or len(entries) > _MOST_LISTED:
        raise ValueError("its list of stream profiles is none")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError("one of its stream profiles has no name")
        description, parameters = entry.get("description") or "", entry.get("parameters") or ""
        if not isinstance(description, str) or not isinstance(parameters, str):
            raise ValueError("the description or arguments of one of its stream profiles are no text")
        found.append(Held(entry["name"], description, parameters))
    # Cameras list in random order.
    return sorted(found, key=lambda one: one.name)


def most_of_json(data: Any) -> int:
    """How many profiles the camera says it can hold."""
    most = data.get("maxProfiles") if isinstance(data, dict) else None
    return most if isinstance(most, int) and not isinstance(most, bool) and 0 < most < 10_000 else MAX_PROFILES


def of_parameters(values: Mapping[str, str]) -> dict[str, Held]:
    """Read `StreamProfile.S#.*` parameters: each profile by its group, such as `StreamProfile.S3`."""
    groups: dict[str, dict[str, str]] = {}
    for key, value in values.items():
        match = re.fullmatch(r"(StreamProfile\.S[0-9]{1,4})\.(Name|Description|Parameters)", key)
        if match and len(groups) <= _MOST_LISTED:
            groups.setdefault(match[1], {})[match[2]] = value
    found = {
        group: Held(said["Name"], said.get("Description", ""), said.get("Parameters", ""))
        for group, said in groups.items()
        if said.get("Name")
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].name, item[0])))


def most_of_parameters(values: Mapping[str, str]) -> int:
    """How many profiles the camera says it can hold."""
    said = values.get("StreamProfile.MaxGroups", "")
    return int(said) if re.fullmatch(r"[1-9][0-9]{0,3}", said) else MAX_PROFILES


def find(profiles: Iterable[Held], name: str) -> Held | None:
    """Return the profile of exactly this name."""
    return next((one for one in profiles if one.name == name), None)
