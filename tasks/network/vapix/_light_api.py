"""A camera's lights: what `lightcontrol.cgi` says of them, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import NotFound, Unsupported
from tasks.network.vapix._wire import CLASSIC, Meanings, Nonsense, said

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

LIGHTCONTROL = "/axis-cgi/lightcontrol.cgi"
MEANINGS: Meanings = {
    **CLASSIC,
    1000: "a value is not valid for this light",
    1001: Unsupported,
    1002: "it has no such light",
    1003: "the intensity is outside the light's range; action list shows the range",
    1004: "the angle is outside the light's range; action list shows the range",
    1005: "the light's hardware failed",
    1006: "Power over Ethernet of this class is too little for the light",
    1007: "the light has no such wavelength; action list shows those it has",
    1008: "the IR-cut filter did not move: an IR light is lit only while the filter is out of the way (vapix_daynight)",
    1009: "the light is disabled; action enable comes first",
}
MOST_LIGHTS = 32
MOST_RANGES = 16
TEXT_LENGTH = 64


class Span(BaseModel):
    """A range of values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int = Field(description="Lowest value.")
    high: int = Field(description="Highest value.")


class Light(BaseModel):
    """One light."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    light: str = Field(description="Its name there, such as led0: what this tool's parameters take.")
    type: str = Field("", description="What kind of light it is, such as IR or White.")
    enabled: bool | None = Field(None, description="Whether it may be lit at all.")
    lit: bool | None = Field(None, description="Whether it is lit now.")
    synchronized: bool | None = Field(None, description="Whether it follows day and night by itself.")
    automatic_intensity: bool | None = Field(None, description="Whether the camera chooses the intensity.")
    intensity: int | None = Field(None, description="Intensity set by hand, in the light's own units.")
    current_intensity: int | None = Field(None, description="Intensity now; heat and power may keep it lower.")
    intensities: list[Span] = Field(default_factory=list, description="Intensities it takes.")
    automatic_angle: bool | None = Field(None, description="Whether the camera chooses the angle of illumination.")
    angle: int | None = Field(None, description="Angle of illumination set by hand, degrees.")
    current_angle: int | None = Field(None, description="Angle of illumination now, degrees.")
    angles: list[Span] = Field(default_factory=list, description="Angles of illumination it takes, degrees.")
    wavelength: int | None = Field(None, description="Infrared wavelength, nanometres.")
    wavelengths: list[int] = Field(default_factory=list, description="Infrared wavelengths it takes, nanometres.")
    leds: int | None = Field(None, description="How many LEDs it has.")
    can: list[str] = Field(
        default_factory=list,
        description="What it can: manual_intensity, automatic_intensity, individual_intensity, current_intensity, manual_angle, "
        "automatic_angle, synchronize, wavelength.",
    )
    error: str | None = Field(None, description="What the camera says is wrong with it.")


_ABILITIES = {
    "automaticIntensitySupport": "automatic_intensity",
    "manualIntensitySupport": "manual_intensity",
    "individualIntensitySupport": "individual_intensity",
    "getCurrentIntensitySupport": "current_intensity",
    "manualAngleOfIlluminationSupport": "manual_angle",
    "automaticAngleOfIlluminationSupport": "automatic_angle",
    "dayNightSynchronizeSupport": "synchronize",
    "multiIRWaveLengthSupport": "wavelength",
}


def parse_capabilities(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Read `getServiceCapabilities`: each light's abilities. The booleans of the whole device are out of use and do not count."""
    listed = data.get("capabilities", [])
    if not isinstance(listed, list):
        return {}
    return {
        name: [ability for key, ability in _ABILITIES.items() if one.get(key) is True]
        for one in listed[:MOST_LIGHTS]
        if isinstance(one, dict) and (name := text_of(one.get("lightID")))
    }


def parse_information(data: Mapping[str, Any]) -> list[Light]:
    """Read `getLightInformation`.

    Raises:
        Nonsense: It is not what such an answer looks like.
    """
    items = data.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Nonsense("The device's list of lights is not one.")
    lights = []
    for item in items[:MOST_LIGHTS]:
        name = text_of(item.get("lightID"))
        if not name:
            raise Nonsense("The device's list of lights has one without a name.")
        wrong = text_of(item.get("errorInfo")) or "it does not say what" if item.get("error") is True else None
        lights.append(
            Light(
                light=name,
                type=text_of(item.get("lightType")),
                enabled=flag(item.get("enabled")),
                lit=flag(item.get("lightState")),
                synchronized=flag(item.get("synchronizeDayNightMode")),
                automatic_intensity=flag(item.get("automaticIntensityMode")),
                automatic_angle=flag(item.get("automaticAngleOfIlluminationMode")),
                leds=whole(item.get("nrOfLEDs")),
                error=wrong,
            )
        )
    return lights


def parse_ranges(data: Mapping[str, Any]) -> list[Span]:
    """Read the `ranges` of `getValidIntensity` and `getValidAngleOfIllumination`; what is no range does not count."""
    ranges = data.get("ranges", [])
    spans = []
    for one in ranges[:MOST_RANGES] if isinstance(ranges, list) else []:
        low, high = (whole(one.get("low")), whole(one.get("high"))) if isinstance(one, dict) else (None, None)
        if low is not None and high is not None and low <= high:
            spans.append(Span(low=low, high=high))
    return spans


def parse_wavelengths(data: Mapping[str, Any]) -> list[int]:
    """Read `getValidIRWavelengths`: whichever key holds a list of numbers, plain or one in each object."""
    for value in data.values():
        if isinstance(value, list):
            numbers = [first_number(one) if isinstance(one, dict) else whole(one) for one in value[:MOST_RANGES]]
            return [number for number in numbers if number is not None]
    return []


def first_number(data: Mapping[str, Any]) -> int | None:
    """The first whole number among the values, for answers that hold one value."""
    return next((number for value in data.values() if (number := whole(value)) is not None), None)


def first_flag(data: Mapping[str, Any]) -> bool | None:
    """The first yes or no among the values, for answers that hold one value."""
    return next((answer for value in data.values() if (answer := flag(value)) is not None), None)


def whole(value: Any) -> int | None:
    """A number as devices write it, plain or as text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    if isinstance(value, str) and value.isascii() and value.strip().isdigit() and len(value) <= 12:
        return int(value)
    return None


def flag(value: Any) -> bool | None:
    """A yes or no as devices write it; None for anything else."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(word)


def text_of(value: Any) -> str:
    """A device's text, on one line and cut to a bearable length."""
    return said(value, TEXT_LENGTH) if isinstance(value, str) else ""


class Lights:
    """The lights of one camera."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    async def ask(self, method: str, light: str, **values: Any) -> dict[str, Any]:
        """Ask something of one light."""
        answer = await self._camera.call(LIGHTCONTROL, method, {"lightID": light, **values}, meanings=MEANINGS)
        return dict(answer)

    async def tell(self, method: str, light: str, **values: Any) -> None:
        """Change something of one light."""
        await self._camera.call(LIGHTCONTROL, method, {"lightID": light, **values}, meanings=MEANINGS, write=True)

    async def every(self) -> list[Light]:
        """All lights, without the values that take a question each."""
        information = await self._camera.call(LIGHTCONTROL, "getLightInformation", {}, meanings=MEANINGS)
        lights = parse_information(information)
        if not lights:
            return []
        capabilities = await self._camera.call(LIGHTCONTROL, "getServiceCapabilities", meanings=MEANINGS)
        can = parse_capabilities(capabilities)
        return [light.model_copy(update={"can": can.get(light.light, [])}) for light in lights]

    async def one(self, name: str) -> Light:
        """One light with everything about it.

        Raises:
            NotFound: There is none of that name; the message says which there are.
        """
        lights = await self.every()
        for light in lights:
            if light.light == name:
                return await self.whole(light)
        there = ", ".join(light.light for light in lights) or "none"
        raise NotFound(f"There is no light {name!r} here; there are: {there}.")

    async def whole(self, light: Light) -> Light:
        """Add the values that take a question each, as far as the light has them."""
        name, can = light.light, set(light.can)
        found: dict[str, Any] = {"lit": first_flag(await self.ask("getLightStatus", name))}
        for ability, setting, method, read in _QUESTIONS:
            if can & ability:
                # Some say that a light has something, and then that it has not.
                with suppress(Unsupported):
                    found[setting] = read(await self.ask(method, name))
        if found["lit"] is None:
            found["lit"] = light.lit
        return light.model_copy(update=found)


_QUESTIONS: tuple[tuple[set[str], str, str, Callable[[dict[str, Any]], Any]], ...] = (
    ({"manual_intensity", "individual_intensity"}, "intensities", "getValidIntensity", parse_ranges),
    ({"manual_intensity"}, "intensity", "getManualIntensity", first_number),
    ({"current_intensity"}, "current_intensity", "getCurrentIntensity", first_number),
    ({"manual_angle"}, "angles", "getValidAngleOfIllumination", parse_ranges),
    ({"manual_angle"}, "angle", "getManualAngleOfIllumination", first_number),
    ({"manual_angle"}, "current_angle", "getCurrentAngleOfIllumination", first_number),
    ({"wavelength"}, "wavelengths", "getValidIRWavelengths", parse_wavelengths),
    ({"wavelength"}, "wavelength", "getIRWavelength", first_number),
)
"""Which abilities call for which question: the field it fills, the method, and how its answer is read."""
