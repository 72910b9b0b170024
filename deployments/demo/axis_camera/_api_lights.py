"""Lights: `lightcontrol.cgi`. An IR light obeys the IR-cut filter, and one that is synchronized follows day and night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deployments.demo.axis_camera._api_daynight import Sight
from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._envelope import ApiError, Call, Codes, JsonApi


@dataclass
class Lamp:
    """One light."""

    name: str = "led0"
    kind: str = "IR"
    enabled: bool = True
    lit: bool = False
    synchronized: bool = True
    automatic_intensity: bool = True
    automatic_angle: bool = True
    intensity: int = 1000
    intensities: tuple[int, int] = (0, 1000)
    leds: list[int] = field(default_factory=lambda: [1000, 1000, 1000])
    angle: int = 36
    angles: tuple[int, int] | None = (10, 60)
    wavelength: int = 850
    wavelengths: tuple[int, ...] = ()
    broken: str = ""
    weak: bool = False
    """Whether Power over Ethernet gives it too little."""
    derated: int | None = None
    """Most it gives while it is hot."""

    @property
    def output(self) -> int:
        """Intensity it has now."""
        if not self.lit:
            return 0
        wanted = self.intensities[1] if self.automatic_intensity else self.intensity
        return wanted if self.derated is None else min(wanted, self.derated)


class Lamps:
    """The lights of one camera: an IR light; on PTZ cameras one that knows two wavelengths and a white one without an angle."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.lamps: dict[str, Lamp] = {}
        if device.has("lights"):
            self.lamps["led0"] = Lamp(wavelengths=(850, 940) if device.has("ptz") else ())
            if device.has("ptz"):
                self.lamps["led1"] = Lamp(
                    "led1", "White", synchronized=False, angles=None, intensities=(0, 100), intensity=50
                )
        self.sight = device.slot(Sight)
        self.sight.listeners.append(self.follow)

    def follow(self) -> None:
        """Do what day and night ask for."""
        for lamp in self.lamps.values():
            if lamp.synchronized and lamp.enabled:
                self.switch(lamp, not self.sight.day)
            elif lamp.kind == "IR" and lamp.lit and self.sight.day:
                self.switch(lamp, False)

    def switch(self, lamp: Lamp, lit: bool) -> None:
        lamp.lit = lit
        self.tell(lamp)

    def tell(self, lamp: Lamp) -> None:
        """Emit the event of a light's state now."""
        number = list(self.lamps).index(lamp.name)
        self._device.emit("tns1:Device/tnsaxis:Light/Status", {"id": number}, {"state": "ON" if lamp.lit else "OFF"})


@on_create
def lights(device: Device) -> None:
    """Tell the first state of a new camera's lights."""
    lamps = device.slot(Lamps)
    lamps.follow()
    for lamp in lamps.lamps.values():
        lamps.tell(lamp)


def _lamp(device: Device, call: Call) -> Lamp:
    name = call.text("lightID")
    lamp = device.slot(Lamps).lamps.get(name)
    if lamp is None:
        raise ApiError(1002, f"Invalid lightID: {name[:40]}")
    return lamp


def _span(span: tuple[int, int]) -> dict[str, Any]:
    return {"ranges": [{"low": span[0], "high": span[1]}]}


def _unsupported() -> ApiError:
    return ApiError(1001, "Not supported by the device")


def get_service_capabilities(device: Device, call: Call) -> dict[str, Any]:
    lamps = list(device.slot(Lamps).lamps.values())
    told = [
        {
            "lightID": lamp.name,
            "automaticIntensitySupport": True,
            "manualIntensitySupport": True,
            "individualIntensitySupport": lamp.kind == "IR",
            "getCurrentIntensitySupport": True,
            "manualAngleOfIlluminationSupport": lamp.angles is not None,
            "automaticAngleOfIlluminationSupport": lamp.angles is not None,
            "dayNightSynchronizeSupport": True,
            "multiIRWaveLengthSupport": len(lamp.wavelengths) > 1,
        }
        for lamp in lamps
    ]
    whole = {key: any(one[key] for one in told) for key in (told[0] if told else {}) if key != "lightID"}
    return {**whole, "capabilities": told}


def get_light_information(device: Device, call: Call) -> dict[str, Any]:
    return {
        "items": [
            {
                "lightID": lamp.name,
                "lightType": lamp.kind,
                "enabled": lamp.enabled,
                "lightState": lamp.lit,
                "synchronizeDayNightMode": lamp.synchronized,
                "automaticIntensityMode": lamp.automatic_intensity,
                "automaticAngleOfIlluminationMode": lamp.automatic_angle,
                "nrOfLEDs": len(lamp.leds),
                "error": bool(lamp.broken),
                "errorInfo": lamp.broken,
            }
            for lamp in device.slot(Lamps).lamps.values()
        ]
    }


def _enable(device: Device, call: Call, enabled: bool) -> dict[str, Any]:
    lamps, lamp = device.slot(Lamps), _lamp(device, call)
    lamp.enabled = enabled
    if not enabled:
        lamps.switch(lamp, False)
    else:
        lamps.follow()
    return {}


def activate_light(device: Device, call: Call) -> dict[str, Any]:
    lamps, lamp = device.slot(Lamps), _lamp(device, call)
    if not lamp.enabled:
        raise ApiError(1009, "The light is disabled")
    if lamp.broken:
        raise ApiError(1005, "Hardware failure")
    if lamp.weak:
        raise ApiError(1006, "Wrong PoE class")
    if lamp.kind == "IR" and lamps.sight.filter == "day":
        raise ApiError(1008, "IR cut filter update failed")
    if not (lamp.synchronized and lamps.sight.day):
        # A synchronized light goes on following day and night, whatever it is told.
        lamps.switch(lamp, True)
    return {}


def deactivate_light(device: Device, call: Call) -> dict[str, Any]:
    lamps, lamp = device.slot(Lamps), _lamp(device, call)
    if not (lamp.synchronized and lamp.enabled and not lamps.sight.day):
        lamps.switch(lamp, False)
    return {}


def _set_intensity(device: Device, call: Call) -> dict[str, Any]:
    lamp, value = _lamp(device, call), call.number("intensity")
    if not lamp.intensities[0] <= value <= lamp.intensities[1]:
        raise ApiError(1003, "Intensity out of range")
    lamp.intensity = value
    return {}


def _set_individual(device: Device, call: Call) -> dict[str, Any]:
    lamp, led, value = _lamp(device, call), call.number("LEDID"), call.number("intensity")
    if lamp.kind != "IR":
        raise _unsupported()
    if not 0 <= led < len(lamp.leds):
        raise ApiError(1000, "Invalid LEDID")
    if not lamp.intensities[0] <= value <= lamp.intensities[1]:
        raise ApiError(1003, "Intensity out of range")
    lamp.leds[led] = value
    return {}


def _get_individual(device: Device, call: Call) -> dict[str, Any]:
    lamp, led = _lamp(device, call), call.number("LEDID")
    if lamp.kind != "IR":
        raise _unsupported()
    if not 0 <= led < len(lamp.leds):
        raise ApiError(1000, "Invalid LEDID")
    return {"intensity": lamp.leds[led]}


def _angled(device: Device, call: Call) -> tuple[Lamp, tuple[int, int]]:
    lamp = _lamp(device, call)
    if lamp.angles is None:
        raise _unsupported()
    return lamp, lamp.angles


def _set_angle(device: Device, call: Call) -> dict[str, Any]:
    (lamp, angles), value = _angled(device, call), call.number("angleOfIllumination")
    if not angles[0] <= value <= angles[1]:
        raise ApiError(1004, "Angle of illumination out of range")
    lamp.angle = value
    return {}


def _set_automatic_angle(device: Device, call: Call) -> dict[str, Any]:
    lamp, _ = _angled(device, call)
    lamp.automatic_angle = call.yes("enabled")
    return {}


def _current_angle(device: Device, call: Call) -> dict[str, Any]:
    lamp, angles = _angled(device, call)
    return {"angleOfIllumination": angles[1] if lamp.automatic_angle else lamp.angle}


def _set_automatic_intensity(device: Device, call: Call) -> dict[str, Any]:
    _lamp(device, call).automatic_intensity = call.yes("enabled")
    return {}


def _synchronize(device: Device, call: Call) -> dict[str, Any]:
    _lamp(device, call).synchronized = call.yes("enabled")
    device.slot(Lamps).follow()
    return {}


def _waves(device: Device, call: Call) -> Lamp:
    lamp = _lamp(device, call)
    if len(lamp.wavelengths) < 2:
        raise _unsupported()
    return lamp


def _set_wavelength(device: Device, call: Call) -> dict[str, Any]:
    lamp, value = _waves(device, call), call.number("IRWavelength")
    if value not in lamp.wavelengths:
        raise ApiError(1007, "Invalid IR wavelength")
    lamp.wavelength = value
    return {}


METHODS: dict[str, Callable[[Device, Call], dict[str, Any]]] = {
    "getServiceCapabilities": get_service_capabilities,
    "getLightInformation": get_light_information,
    "enableLight": lambda device, call: _enable(device, call, True),
    "disableLight": lambda device, call: _enable(device, call, False),
    "activateLight": activate_light,
    "deactivateLight": deactivate_light,
    "getLightStatus": lambda device, call: {"status": _lamp(device, call).lit},
    "setAutomaticIntensityMode": _set_automatic_intensity,
    "getValidIntensity": lambda device, call: _span(_lamp(device, call).intensities),
    "setManualIntensity": _set_intensity,
    "getManualIntensity": lambda device, call: {"intensity": _lamp(device, call).intensity},
    "setIndividualIntensity": _set_individual,
    "getIndividualIntensity": _get_individual,
    "getCurrentIntensity": lambda device, call: {"intensity": _lamp(device, call).output},
    "setAutomaticAngleOfIlluminationMode": _set_automatic_angle,
    "getValidAngleOfIllumination": lambda device, call: _span(_angled(device, call)[1]),
    "setManualAngleOfIllumination": _set_angle,
    "getManualAngleOfIllumination": lambda device, call: {"angleOfIllumination": _angled(device, call)[0].angle},
    "getCurrentAngleOfIllumination": _current_angle,
    "setLightSynchronizeDayNightMode": _synchronize,
    "getLightSynchronizeDayNightMode": lambda device, call: {"synchronize": _lamp(device, call).synchronized},
    "getValidIRWavelengths": lambda device, call: {"validIRWavelengths": list(_waves(device, call).wavelengths)},
    "setIRWavelength": _set_wavelength,
    "getIRWavelength": lambda device, call: {"IRWavelength": _waves(device, call).wavelength},
}

light_control = JsonApi(
    "/axis-cgi/lightcontrol.cgi", id="light-control", level="operator", codes=Codes(missing=4001, invalid=4002)
)
for _name, _work in METHODS.items():
    light_control.method(_name)(_work)
