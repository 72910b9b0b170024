"""`vapix_light_control`: the lights of cameras, seen and set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.core.errors import Rejected, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CamerasResult, Seen, each_camera, entry, fitting, only_one
from tasks.network.vapix._imaging_change import Change, Written, judged, summary, verdict
from tasks.network.vapix._light_api import Light, Lights, Span, first_number
from tasks.network.vapix._params import CameraParams, fleet_timeout

CAMERA_SECONDS = 90.0
TIMEOUT_SECONDS = fleet_timeout(CAMERA_SECONDS)
API = "lightcontrol.cgi"

_SWITCHING = {
    "activate": "activateLight",
    "deactivate": "deactivateLight",
    "enable": "enableLight",
    "disable": "disableLight",
}


class VapixLightControl(CameraParams):
    """Parameters of `vapix_light_control`."""

    action: Literal[
        "list", "activate", "deactivate", "enable", "disable", "synchronize", "intensity", "angle", "wavelength"
    ] = Field(
        "list",
        description="list: the lights with their ranges. activate, deactivate: light it or put it out. enable, disable: whether it may be "
        "lit at all. synchronize: whether it follows day and night. intensity, angle, wavelength: how it lights. What switches it needs "
        "approval.",
    )
    light: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] | None = Field(
        None, description="The light, such as led0; action list says which there are. Needed for all but list."
    )
    intensity: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Action intensity: in the light's own units; action list shows the range. The camera then no longer chooses it itself.",
    )
    led: int | None = Field(
        None, ge=0, le=255, description="Action intensity: one LED of the light only, from 0, where the light lets one."
    )
    angle: int | None = Field(
        None,
        ge=0,
        le=360,
        description="Action angle: angle of illumination, degrees. The camera then no longer chooses it itself.",
    )
    automatic: bool | None = Field(
        None, description="Actions intensity and angle: true lets the camera choose, false keeps what is set by hand."
    )
    synchronized: bool | None = Field(
        None, description="Action synchronize: true lets the light follow day and night, false leaves it to us."
    )
    wavelength: int | None = Field(
        None, ge=300, le=2000, description="Action wavelength: infrared wavelength, nanometres, such as 850 or 940."
    )

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        rules: dict[str, tuple[str, ...]] = {
            "synchronize": ("synchronized",),
            "intensity": ("intensity", "led", "automatic"),
            "angle": ("angle", "automatic"),
            "wavelength": ("wavelength",),
        }
        names = ("intensity", "led", "angle", "automatic", "synchronized", "wavelength")
        given = [name for name in names if getattr(self, name) is not None]
        allowed = rules.get(self.action, ())
        for name in given:
            if name not in allowed:
                raise ValueError(f"{name} is not for action {self.action}")
        if self.action == "list" and self.light is not None:
            raise ValueError("light is not for action list, which shows all lights")
        if self.action != "list" and self.light is None:
            raise ValueError(f"action {self.action} needs light; action list says which there are")
        if self.action in ("synchronize", "wavelength") and not given:
            raise ValueError(f"action {self.action} needs {allowed[0]}")
        if self.action in ("intensity", "angle") and not {self.action, "automatic"} & set(given):
            raise ValueError(f"action {self.action} needs {self.action} or automatic")
        if self.automatic and getattr(self, self.action, None) is not None:
            raise ValueError(f"automatic=true means that the camera chooses: leave {self.action} out")
        if self.led is not None and self.intensity is None:
            raise ValueError("led needs intensity")
        if self.approval():
            only_one(self, f"action {self.action}")
        return self

    def safety(self) -> Safety | None:
        return None if self.action == "list" else Safety.CHANGE

    def approval(self) -> bool:
        # What lights a light or puts it out acts on the place it stands in; how strongly it shines does not.
        return self.action in _SWITCHING or self.action == "synchronize"


class LightControl(CameraEntry):
    """The lights of one camera, or what was changed of one of them."""

    api: str | None = Field(None, description="What the camera was asked by.")
    lights: list[Light] = Field(default_factory=list, description="Its lights as they are now, or the one acted on.")
    changes: list[Change] = Field(default_factory=list, description="What was changed: before and after.")
    notes: list[str] = Field(default_factory=list, description="What one should know besides.")


class VapixLightControlResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[LightControl] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: Any) -> str:
        if camera.changes:
            return f"{camera.target}: {summary(camera.changes)}{'; ' + camera.detail if camera.detail else ''}"
        if camera.lights:
            return f"{camera.target}: {', '.join(_told(light) for light in camera.lights)}"
        return super().one_line(camera)


def _told(light: Light) -> str:
    state = "disabled" if light.enabled is False else "on" if light.lit else "off"
    return f"{light.light} ({light.type or 'light'}) {state}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    aliases=("axis_vapix_light_control",),
    examples=[
        Example("Which lights are there, and are they on?", {"targets": ["10.0.0.50"], "credentials": "axis/yard"}),
        Example(
            "Light the infrared light",
            {
                "targets": ["10.0.0.50"],
                "credentials": "axis/yard",
                "action": "activate",
                "light": "led0",
                "confirm": "10.0.0.50",
            },
        ),
        Example(
            "Half as strong, on two cameras",
            {
                "targets": ["10.0.0.50", "10.0.0.51"],
                "credentials": "axis/yard",
                "action": "intensity",
                "light": "led0",
                "intensity": 500,
            },
        ),
    ],
)
async def vapix_light_control(params: VapixLightControl) -> VapixLightControlResult:
    """Read or set the lights of cameras: infrared and white.

    Ranges are read first: a value that a light does not take is refused before it is sent. A change is read back; `changes` has the values
    before. Switching a light names one camera and needs approval. A light that follows day and night may not stay as it was told. The
    account needs the level operator, for reading too.

    Raises:
        Unsupported: The camera has no lights, or the light cannot do that (of several cameras: its outcome says so; this holds for all
            errors here).
        NotFound: It has no such light.
        Rejected: The value is out of range, the light is disabled, or its hardware refuses.
        Forbidden: The account's level is below operator.
    """

    async def one(camera: Camera) -> _Outcome:
        if not (await camera.capabilities()).has("light-control"):
            raise Unsupported(f"{camera.asked} has no lights that it lets anybody control.")
        lights = Lights(camera)
        if params.action == "list":
            return _Outcome([await lights.whole(light) for light in await lights.every()])
        return await _act(lights, await lights.one(params.light or ""), params)

    seen = await each_camera(params, one, seconds=CAMERA_SECONDS)
    return await fitting(VapixLightControlResult(cameras=[_entry(one) for one in seen]), ("notes", "lights", "changes"))


@dataclass(frozen=True)
class _Outcome:
    lights: list[Light] = field(default_factory=list)
    written: Written | None = None


def _entry(seen: Seen[_Outcome]) -> LightControl:
    found = seen.value
    if found is None:
        return entry(LightControl, seen)
    fields: dict[str, Any] = {"api": API, "lights": found.lights}
    if found.written is not None:
        fields |= verdict(found.written, seen.detail)
    return entry(LightControl, seen, **fields)


@dataclass(frozen=True)
class _Step:
    """One thing to tell a light: the setting it changes, as `Light` calls it, and its value."""

    setting: str
    value: bool | int
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)


async def _act(lights: Lights, before: Light, params: VapixLightControl) -> _Outcome:
    steps = _steps(before, params)
    led_before = await _led(lights, before, params.led)
    refusal: Rejected | None = None
    done: list[_Step] = []
    for step in steps:
        try:
            await lights.tell(step.method, before.light, **step.arguments)
        except Rejected as error:
            refusal = error
            break
        done.append(step)
    if refusal is not None and not done:
        raise refusal
    after = await lights.one(before.light)
    led_after = await _led(lights, before, params.led)
    changes = []
    for step in steps:
        led = step.setting.startswith("led ")
        changes.append(
            Change(
                setting=step.setting,
                before=led_before if led else getattr(before, step.setting),
                asked=step.value,
                after=led_after if led else getattr(after, step.setting),
            )
        )
    written = judged(changes, _along(before, after, steps), refusal.message if refusal is not None else None)
    notes = list(written.notes)
    if params.action in ("activate", "deactivate") and after.synchronized:
        notes.append("The light follows day and night, which may switch it again: action synchronize ends that.")
    return _Outcome([after], Written(written.changes, written.refused, notes))


def _along(before: Light, after: Light, steps: Sequence[_Step]) -> list[Change]:
    """What changed besides: a light that is disabled goes out, one that follows day and night may come on."""
    asked = {step.setting for step in steps}
    return [
        Change(setting=name, before=getattr(before, name), after=getattr(after, name))
        for name in ("enabled", "lit", "synchronized")
        if name not in asked and getattr(before, name) != getattr(after, name)
    ]


async def _led(lights: Lights, light: Light, led: int | None) -> int | None:
    if led is None:
        return None
    return first_number(await lights.ask("getIndividualIntensity", light.light, LEDID=led))


def _steps(light: Light, params: VapixLightControl) -> list[_Step]:
    """What to tell the light, checked against what it can.

    Raises:
        Unsupported: It cannot do that.
        Rejected: It does not take this value, or is disabled.
    """
    match params.action:
        case "activate" | "deactivate" as action:
            if action == "activate" and light.enabled is False:
                raise Rejected(
                    f"{light.light} is disabled, so it cannot be lit.", hint="Enable it first: action enable."
                )
            return [_Step("lit", action == "activate", _SWITCHING[action])]
        case "enable" | "disable" as action:
            return [_Step("enabled", action == "enable", _SWITCHING[action])]
        case "synchronize":
            _need(light, "synchronize")
            on = bool(params.synchronized)
            return [_Step("synchronized", on, "setLightSynchronizeDayNightMode", {"enabled": on})]
        case "intensity":
            return _intensity(light, params)
        case "angle":
            return _angle(light, params)
    _need(light, "wavelength")
    if params.wavelength not in light.wavelengths:
        has = ", ".join(map(str, light.wavelengths)) or "none that it tells"
        raise Rejected(
            f"{light.light} has the wavelengths {has}, not {params.wavelength}.", hint="Nothing was changed."
        )
    return [_Step("wavelength", params.wavelength, "setIRWavelength", {"IRWavelength": params.wavelength})]


def _intensity(light: Light, params: VapixLightControl) -> list[_Step]:
    steps = []
    if params.intensity is not None:
        _need(light, "manual_intensity" if params.led is None else "individual_intensity")
        _within(light, "intensity", params.intensity, light.intensities)
    # A value set by hand counts only while the camera does not choose.
    automatic = False if params.automatic is None and light.automatic_intensity else params.automatic
    if automatic is not None:
        if automatic:
            _need(light, "automatic_intensity")
        steps.append(_Step("automatic_intensity", automatic, "setAutomaticIntensityMode", {"enabled": automatic}))
    if params.intensity is not None and params.led is not None:
        arguments = {"LEDID": params.led, "intensity": params.intensity}
        steps.append(_Step(f"led {params.led}", params.intensity, "setIndividualIntensity", arguments))
    elif params.intensity is not None:
        steps.append(_Step("intensity", params.intensity, "setManualIntensity", {"intensity": params.intensity}))
    return steps


def _angle(light: Light, params: VapixLightControl) -> list[_Step]:
    steps = []
    if params.angle is not None:
        _need(light, "manual_angle")
        _within(light, "angle", params.angle, light.angles)
    automatic = False if params.automatic is None and light.automatic_angle else params.automatic
    if automatic is not None:
        if automatic:
            _need(light, "automatic_angle")
        steps.append(_Step("automatic_angle", automatic, "setAutomaticAngleOfIlluminationMode", {"enabled": automatic}))
    if params.angle is not None:
        steps.append(
            _Step("angle", params.angle, "setManualAngleOfIllumination", {"angleOfIllumination": params.angle})
        )
    return steps


def _need(light: Light, ability: str) -> None:
    if ability not in light.can:
        can = ", ".join(light.can).replace("_", " ") or "nothing of that kind"
        raise Unsupported(
            f"{light.light} has no {ability.replace('_', ' ')}; it has: {can}.", hint="Nothing was changed."
        )


def _within(light: Light, what: str, value: int, spans: Sequence[Span]) -> None:
    if not spans:
        raise Unsupported(
            f"The camera does not say which {what} {light.light} takes, so it is not changed.",
            hint="Nothing was changed.",
        )
    if not any(span.low <= value <= span.high for span in spans):
        takes = ", ".join(f"{span.low} to {span.high}" for span in spans)
        raise Rejected(f"{light.light} takes an {what} of {takes}, not {value}.", hint="Nothing was changed.")
