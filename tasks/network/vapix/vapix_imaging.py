"""`vapix_imaging`: how cameras make their picture, and changing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.core.errors import Rejected, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CamerasResult, Seen, each_camera, entry, fitting, only_one
from tasks.network.vapix._imaging_change import (
    Change,
    Wanted,
    Written,
    change_parameters,
    check_all,
    summary,
    switch_literal,
    together,
    undefined,
    verdict,
)
from tasks.network.vapix._imaging_settings import PLACES, found, groups, names
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._wire import Definition, Nonsense, said

CAMERA_SECONDS = 60.0
TIMEOUT_SECONDS = fleet_timeout(CAMERA_SECONDS)
MOST_CHOICES = 40
MOST_OTHERS = 60
API = "param.cgi"

Choice = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
"""One of the camera's own words. Which there are differs by model; the camera is asked before anything is written."""
Percent = Annotated[int, Field(ge=0, le=100)]


class VapixImaging(CameraParams):
    """Parameters of `vapix_imaging`."""

    action: Literal["read", "set"] = Field(
        "read", description="read: the settings with what each takes. set: change those given."
    )
    source: int = Field(0, ge=0, le=31, description="Image source, 0 to 31: 0 is the first, and the only one of most.")
    brightness: Percent | None = Field(None, description="Brightness, 0 to 100; 50 is usual.")
    contrast: Percent | None = Field(None, description="Contrast, 0 to 100; 50 is usual.")
    color_level: Percent | None = Field(None, description="Saturation of colours, 0 (grey) to 100; 50 is usual.")
    sharpness: Percent | None = Field(None, description="Sharpness, 0 to 100; 50 is usual.")
    local_contrast: Percent | None = Field(None, description="Contrast of small areas, 0 to 100.")
    tone_mapping: Percent | None = Field(None, description="Brightening of dark areas, 0 to 100.")
    white_balance: Choice | None = Field(
        None, description="auto, auto_indoor, auto_outdoor, hold, manual, fixed_outdoor1 or what else the camera has."
    )
    red_balance: Percent | None = Field(None, description="Red, 0 to 100, with white balance manual.")
    blue_balance: Percent | None = Field(None, description="Blue, 0 to 100, with white balance manual.")
    exposure: Choice | None = Field(
        None,
        description="auto, hold, flickerfree50, flickerfree60, flickerreduced50, flickerreduced60, as the camera has.",
    )
    exposure_value: Percent | None = Field(None, description="Exposure level, 0 to 100.")
    exposure_priority: Percent | None = Field(
        None, description="0 to 100: 0 avoids blur from motion, 100 avoids noise; most cameras take 0, 50 and 100."
    )
    exposure_window: Choice | None = Field(
        None, description="Part that is measured: auto, center, upper, lower, left, right, spot or custom."
    )
    min_exposure_time: int | None = Field(
        None, ge=-100, le=2_000_000, description="Shortest exposure, in the camera's units (microseconds on most)."
    )
    max_exposure_time: int | None = Field(
        None, ge=-100, le=2_000_000, description="Longest exposure, in the camera's units (microseconds on most)."
    )
    min_gain: Percent | None = Field(None, description="Lowest gain, 0 to 100.")
    max_gain: Percent | None = Field(None, description="Highest gain, 0 to 100: more is brighter and noisier.")
    wdr: bool | None = Field(None, description="Wide dynamic range: dark and bright areas both show detail.")
    wdr_level: Percent | None = Field(None, description="Strength of the wide dynamic range, 0 to 100.")
    backlight_compensation: bool | None = Field(None, description="Brighten what stands before a bright background.")
    defog: Literal["off", "on", "auto"] | None = Field(None, description="off, on or auto.")
    defog_effect: Percent | None = Field(None, description="Strength of defogging, 0 to 100.")
    stabilizer: bool | None = Field(None, description="Electronic image stabilisation.")
    spatial_noise_filter: Percent | None = Field(None, description="Noise filter within each picture, 0 to 100.")
    temporal_noise_filter: Percent | None = Field(None, description="Noise filter over several pictures, 0 to 100.")
    scene_profile: Choice | None = Field(
        None, description="forensic, vivid, traffic_overview, indoor, outdoor, license_plate, as the camera has."
    )
    compression: Percent | None = Field(None, description="Compression, 0 (large files) to 100; 30 is usual.")
    mirror: bool | None = Field(
        None, description="Mirror the picture. Masks and analytics were drawn for the other one: needs approval."
    )
    rotation: int | None = Field(
        None,
        ge=0,
        le=270,
        multiple_of=90,
        description="Turn the picture: 0, 90, 180 or 270 degrees. Masks and analytics were drawn for the other one: needs approval.",
    )
    sensor_protector: Literal["open", "close"] | None = Field(
        None, description="close takes the picture away until it is opened again, so it needs approval."
    )

    @property
    def wanted(self) -> dict[str, str | int | bool]:
        """The settings that were given."""
        return {setting: value for setting in PLACES if (value := getattr(self, setting)) is not None}

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if self.action == "set" and not self.wanted:
            raise ValueError("action set changes settings: give at least one, such as brightness=55")
        if self.action == "read" and self.wanted:
            raise ValueError(f"{next(iter(self.wanted))} is for action set; action read changes nothing")
        if self.min_gain is not None and self.max_gain is not None and self.min_gain > self.max_gain:
            raise ValueError("min_gain must not be more than max_gain")
        if self.sensor_protector == "close" and len(self.wanted) > 1:
            raise ValueError("sensor_protector=close goes alone: it takes the picture away")
        if self.approval():
            only_one(self, "mirror, rotation or sensor_protector=close")
        return self

    @property
    def _closes(self) -> bool:
        return self.sensor_protector == "close"

    def safety(self) -> Safety | None:
        if self._closes:
            return Safety.DESTROY
        return Safety.CHANGE if self.action == "set" else None

    def approval(self) -> bool:
        return self._closes or self.mirror is not None or self.rotation is not None

    def thing(self) -> str | None:
        return "sensor_protector" if self._closes else None


class Setting(BaseModel):
    """One setting of a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name, as this tool's parameters call it.")
    parameter: str = Field(description="What the camera calls it.")
    value: str = Field(description="Value now, in the camera's words.")
    choices: list[str] = Field(default_factory=list, description="The words it takes.")
    minimum: float | None = Field(None, description="Lowest number it takes.")
    maximum: float | None = Field(None, description="Highest number it takes.")
    readonly: bool = Field(False, description="Whether the camera lets nobody change it.")


class Imaging(CameraEntry):
    """The picture's settings of one camera, or what was changed of them."""

    api: str | None = Field(None, description="What the camera was asked by.")
    settings: list[Setting] = Field(default_factory=list, description="Action read: the settings it has.")
    others: dict[str, str] = Field(
        default_factory=dict, description="Action read: the sensor's other parameters, which this tool does not change."
    )
    changes: list[Change] = Field(default_factory=list, description="Action set: each setting before and after.")
    notes: list[str] = Field(default_factory=list, description="What one should know besides.")


class VapixImagingResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[Imaging] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: Any) -> str:
        if camera.changes:
            return f"{camera.target}: {summary(camera.changes)}{'; ' + camera.detail if camera.detail else ''}"
        if camera.settings:
            return f"{camera.target}: {', '.join(f'{one.name} {one.value}' for one in camera.settings[:8])}"
        return super().one_line(camera)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    aliases=("axis_vapix_imaging",),
    examples=[
        Example("What a camera's picture is set to", {"targets": ["10.0.0.50"], "credentials": "axis/yard"}),
        Example(
            "Brighter and with less contrast, on two cameras",
            {
                "targets": ["10.0.0.50", "10.0.0.51"],
                "credentials": "axis/yard",
                "action": "set",
                "brightness": 55,
                "contrast": 45,
            },
        ),
        Example(
            "Turn the picture of a camera that hangs upside down",
            {
                "targets": ["10.0.0.50"],
                "credentials": "axis/yard",
                "action": "set",
                "rotation": 180,
                "confirm": "10.0.0.50",
            },
        ),
    ],
)
async def vapix_imaging(params: VapixImaging) -> VapixImagingResult:
    """Read or change how cameras make their picture.

    Brightness, contrast, white balance, exposure, wide dynamic range, scene profile and the like. Which of them a camera has, and what each
    takes, differs by model: the camera is asked first, and a value that it does not take is refused before anything is sent. A change
    is read back; `changes` has the value before, which undoes it. Some cameras accept a value and ignore it: the outcome is then rejected.

    Raises:
        Unsupported: The camera has no such setting (of several cameras: its outcome says so; this holds for all errors here).
        Rejected: The camera does not take this value.
        Forbidden: The account's level does not reach: a change needs operator.
    """

    async def one(camera: Camera) -> _Found:
        return await _work(camera, params)

    seen = await each_camera(params, one, seconds=CAMERA_SECONDS)
    return await fitting(
        VapixImagingResult(cameras=[_entry(one) for one in seen]), ("others", "settings", "notes", "changes")
    )


@dataclass(frozen=True)
class _Found:
    """What was found at one camera, or what was changed there."""

    settings: list[Setting] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    written: Written | None = None
    notes: list[str] = field(default_factory=list)


def _entry(seen: Seen[_Found]) -> Imaging:
    found = seen.value
    if found is None:
        return entry(Imaging, seen)
    fields: dict[str, Any] = {"api": API, "settings": found.settings, "others": found.others, "notes": found.notes}
    if found.written is not None:
        fields |= verdict(found.written, seen.detail)
    return entry(Imaging, seen, **fields)


async def _work(camera: Camera, params: VapixImaging) -> _Found:
    places = groups(params.source)
    values = await camera.parameters(*places)
    known = names(params.source, values)
    if not known:
        raise Unsupported(
            f"{camera.asked} has no image source {params.source}, or shows this account nothing of it.",
            hint="Image sources begin with 0. Old cameras show them to operators only.",
        )
    if params.action == "read":
        definitions, notes = await _definitions_if_any(camera, places)
        others = {name: said(value, 80) for name, value in values.items() if name not in known and ".Sensor." in name}
        return _Found(
            [_setting(setting, name, values[name], definitions.get(name)) for name, setting in known.items()],
            dict(list(others.items())[:MOST_OTHERS]),
            notes=notes,
        )
    return _Found(written=await _set(camera, params, values, await camera.definitions(*places)))


async def _definitions_if_any(camera: Camera, places: list[str]) -> tuple[Mapping[str, Definition], list[str]]:
    """What the settings take; for reading it is no harm when the camera cannot say it."""
    try:
        return await camera.definitions(*places), []
    except (Nonsense, Rejected) as error:
        return {}, [f"The camera does not say what its settings take: {error.message}"]


def _setting(setting: str, name: str, value: str, definition: Definition | None) -> Setting:
    if definition is None:
        return Setting(name=setting, parameter=name, value=said(value, 80))
    return Setting(
        name=setting,
        parameter=name,
        value=said(value, 80),
        choices=[said(choice, 40) for choice in definition.choices[:MOST_CHOICES]],
        minimum=definition.minimum,
        maximum=definition.maximum,
        readonly=definition.readonly,
    )


async def _set(
    camera: Camera, params: VapixImaging, values: dict[str, str], definitions: Mapping[str, Definition]
) -> Written:
    """Check all, then write: the scene profile first, since some cameras have a set of values for each."""
    known = names(params.source, values)
    missing = [setting for setting in params.wanted if setting not in known.values()]
    if missing:
        raise await _lacking(camera, missing[0], known.values())
    wanted = [_wanted(setting, value, params.source, values, definitions) for setting, value in params.wanted.items()]
    check_all(wanted, definitions)
    scene = [one for one in wanted if one.setting == "scene_profile"]
    rest = [one for one in wanted if one.setting != "scene_profile"]
    parts: list[Written] = []
    for part in (scene, rest):
        if not part or any(done.refused for done in parts):
            continue
        before = await camera.parameters(*groups(params.source)) if parts else values
        parts.append(
            await change_parameters(camera, part, before, definitions, groups=groups(params.source), names=known)
        )
    return together(parts, unsent=[one.setting for one in rest] if scene and parts[0].refused else [])


async def _lacking(camera: Camera, setting: str, has: Iterable[str]) -> Unsupported:
    level = await camera.level()
    low = (
        ""
        if level.at_least("operator")
        else f" The account is {level.name}: old cameras show settings to operators only."
    )
    return Unsupported(f"{camera.asked} has no {setting}; it has: {', '.join(has)}.", hint=f"Nothing was changed.{low}")


def _wanted(
    setting: str,
    value: str | int | bool,
    source: int,
    values: Mapping[str, str],
    definitions: Mapping[str, Definition],
) -> Wanted:
    parameter = found(setting, source, values)
    assert parameter is not None
    if isinstance(value, bool):
        if parameter not in definitions:
            raise undefined(setting)
        return Wanted(setting, parameter, switch_literal(setting, definitions[parameter], value))
    return Wanted(setting, parameter, str(value))
