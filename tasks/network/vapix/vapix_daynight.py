"""`vapix_daynight`: when cameras see by day (colour) and by night (infrared), and changing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._daynight_state import CONFIGURATION, Sight, State
from tasks.network.vapix._fleet import CameraEntry, CamerasResult, Seen, each_camera, entry, fitting
from tasks.network.vapix._imaging_change import Change, Written, summary, verdict
from tasks.network.vapix._params import CameraParams, fleet_timeout

CAMERA_SECONDS = 60.0
TIMEOUT_SECONDS = fleet_timeout(CAMERA_SECONDS)

Percent = Annotated[int, Field(ge=0, le=100)]
Dwell = Annotated[float, Field(ge=1, le=600)]


class VapixDaynight(CameraParams):
    """Parameters of `vapix_daynight`."""

    action: Literal["read", "set"] = Field("read", description="read: how it is. set: change what is given.")
    channel: int = Field(0, ge=0, le=31, description="Image source, 0 to 31: 0 is the first, and the only one of most.")
    ir_cut_filter: Literal["day", "night", "auto"] | None = Field(
        None,
        description="day: the filter is in place (colour). night: it is removed (black and white, sees infrared). auto: by the light.",
    )
    day_night_shift_level: Percent | None = Field(
        None, description="Light at which auto goes over to night, 0 to 100; the only shift level of most cameras."
    )
    night_day_shift_level: Percent | None = Field(
        None, description="Light at which auto goes back to day, 0 to 100; few cameras have it."
    )
    day_night_dwell_time: Dwell | None = Field(
        None, description="Seconds of darkness before auto goes over to night, 1 to 600; few cameras have it."
    )
    night_day_dwell_time: Dwell | None = Field(
        None, description="Seconds of brightness before auto goes back to day, 1 to 600; few cameras have it."
    )
    night_filter: Literal["clear", "irpass"] | None = Field(
        None, description="Filter by night: clear, or irpass (infrared only); few cameras have it."
    )
    autotune: bool | None = Field(None, description="The camera finds the shift levels itself; few cameras can.")

    @property
    def configuration(self) -> dict[str, Any]:
        """What is asked of the camera's day/night configuration, by our names."""
        return {name: value for name in CONFIGURATION if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        given = ["ir_cut_filter"] if self.ir_cut_filter is not None else []
        given += self.configuration
        if self.action == "set" and not given:
            raise ValueError(
                "action set changes something: give ir_cut_filter, a shift level, a dwell time or night_filter"
            )
        if self.action == "read" and given:
            raise ValueError(f"{given[0]} is for action set; action read changes nothing")
        if self.autotune and (self.day_night_shift_level is not None or self.night_day_shift_level is not None):
            raise ValueError("autotune=true means that the camera finds the shift levels: leave them out")
        return self

    def safety(self) -> Safety | None:
        return Safety.CHANGE if self.action == "set" else None


class DayNight(CameraEntry):
    """How one camera changes between day and night, or what was changed of it."""

    api: str | None = Field(
        None, description="Where its settings come from: param.cgi, or param.cgi and daynight.cgi, or ptz.cgi."
    )
    ir_cut_filter: Literal["day", "night", "auto"] | None = Field(
        None, description="day: in place (colour). night: removed. auto: by the light. None: it does not say."
    )
    parameter: str | None = Field(None, description="What the camera calls its IR-cut filter.")
    day_night_shift_level: float | None = Field(None, description="Light at which auto goes over to night.")
    night_day_shift_level: float | None = Field(None, description="Light at which auto goes back to day.")
    day_night_dwell_time: float | None = Field(None, description="Seconds before auto goes over to night.")
    night_day_dwell_time: float | None = Field(None, description="Seconds before auto goes back to day.")
    night_filter: str | None = Field(None, description="Filter by night.")
    autotune: bool | None = Field(None, description="Whether the camera finds the shift levels itself.")
    settable: list[str] = Field(default_factory=list, description="What this tool can set on this camera.")
    changes: list[Change] = Field(default_factory=list, description="Action set: each setting before and after.")
    notes: list[str] = Field(default_factory=list, description="What one should know besides.")


class VapixDaynightResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[DayNight] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: Any) -> str:
        if camera.changes:
            return f"{camera.target}: {summary(camera.changes)}{'; ' + camera.detail if camera.detail else ''}"
        if camera.api is not None:
            return f"{camera.target}: IR-cut filter {camera.ir_cut_filter or 'unknown'}"
        return super().one_line(camera)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    aliases=("axis_vapix_daynight",),
    examples=[
        Example("Day, night or automatic?", {"targets": ["10.0.0.50", "10.0.0.51"], "credentials": "axis/yard"}),
        Example(
            "Let the camera choose by the light",
            {"targets": ["10.0.0.50"], "credentials": "axis/yard", "action": "set", "ir_cut_filter": "auto"},
        ),
        Example(
            "Go over to night later",
            {"targets": ["10.0.0.50"], "credentials": "axis/yard", "action": "set", "day_night_shift_level": 40},
        ),
    ],
)
async def vapix_daynight(params: VapixDaynight) -> VapixDaynightResult:
    """Read or change when cameras see by day (colour) and by night (infrared).

    The IR-cut filter keeps infrared light out by day. Fixed cameras, PTZ domes and those with a day/night API keep it in different
    places and words; the answer is the same. What a camera cannot is refused before anything is sent. A change is read back; `changes`
    has the value before, which undoes it.

    Raises:
        Unsupported: The camera has no IR-cut filter, or not that setting (of several cameras: its outcome says so; this holds for all
            errors here).
        Rejected: The camera does not take this value.
        Forbidden: The account's level does not reach: a change needs operator.
    """

    async def one(camera: Camera) -> _Outcome:
        sight = Sight(camera, params.channel)
        state = await sight.look()
        if params.action == "read":
            return _Outcome(state)
        written = await sight.change(state, params.ir_cut_filter, params.configuration)
        return _Outcome(await sight.look(), written)

    seen = await each_camera(params, one, seconds=CAMERA_SECONDS)
    return await fitting(VapixDaynightResult(cameras=[_entry(one) for one in seen]), ("settable", "notes", "changes"))


@dataclass(frozen=True)
class _Outcome:
    state: State
    written: Written | None = None


def _entry(seen: Seen[_Outcome]) -> DayNight:
    if seen.value is None:
        return entry(DayNight, seen)
    state, written = seen.value.state, seen.value.written
    fields: dict[str, Any] = {
        "api": state.api,
        "parameter": state.filter,
        "settable": state.settable,
        **state.shown,
    }
    if state.hidden is not None:
        fields["notes"] = [f"daynight.cgi could not be read: {state.hidden.message}"]
    if written is not None:
        fields |= verdict(written, seen.detail)
    return entry(DayNight, seen, **fields)
