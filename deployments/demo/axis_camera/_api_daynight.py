"""Day and night: the IR-cut filter, what a camera sees by, and `daynight.cgi` where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._envelope import ApiError, Call, Codes, JsonApi

FIXED = "ImageSource.I0.DayNight.IrCutFilter"
DOME = "PTZ.Various.V1.IrCutFilter"
LEVEL = "ImageSource.I0.DayNight.ShiftLevel"
_MEANINGS = {"yes": "day", "on": "day", "no": "night", "off": "night"}


class Sight:
    """What the camera sees by. A test makes it dark with `light`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.ambient = 100
        """Light in the scene, 0 to 100."""
        self.listeners: list[Callable[[], None]] = []
        self.autotune_support = True
        self.irpass_support = False
        self.configuration: dict[str, Any] = {
            "DayNightDwellTime": 5.0,
            "DayNightShiftLevel": 60,
            "NightDayDwellTime": 10.0,
            "NightDayShiftLevel": 40,
            "Autotune": False,
            "NightFilter": "clear",
        }
        self._day = True
        device.params.watch(FIXED, lambda name, value: self.settle())
        device.params.watch(DOME, lambda name, value: self.settle())

    @property
    def filter(self) -> str:
        """`day`, `night` or `auto`."""
        value = self._device.params.get(FIXED) or self._device.params.get(DOME) or "auto"
        return _MEANINGS.get(value, "auto")

    @property
    def day(self) -> bool:
        """Whether it sees by day: the filter is in place."""
        return self._day

    def light(self, ambient: int) -> None:
        """Make the scene brighter or darker, 0 to 100. From any thread."""

        def change() -> None:
            self.ambient = ambient
            self.settle()

        self._device.call(change)

    def settle(self) -> None:
        """Move the filter where it belongs, and tell who listens."""
        self._day = self.ambient >= 50 if self.filter == "auto" else self.filter == "day"
        self._device.emit(
            "tns1:VideoSource/tnsaxis:DayNightVision", {"VideoSourceConfigurationToken": 1}, {"day": self._day}
        )
        for listener in self.listeners:
            listener()


@on_create
def sight(device: Device) -> None:
    """Tell whether a new camera sees by day."""
    if device.has("video"):
        device.slot(Sight).settle()


daynight = JsonApi(
    "/axis-cgi/daynight.cgi",
    id="daynight",
    level="operator",
    codes=Codes(
        only_post=2107,
        version=2100,
        method=2102,
        bad_json=2101,
        missing=2103,
        invalid=2104,
        forbidden=2105,
        internal=1100,
    ),
    # This API alone says its errors with HTTP statuses of their own.
    statuses={2101: 400, 2103: 500, 2104: 500, 2105: 403, 2106: 401, 2107: 405, 1100: 500},
)


def _channel(call: Call) -> int:
    channel = call.number("channel")
    if channel != 0:
        raise ApiError(2104, "Invalid parameter value: channel")
    return channel


@daynight.method("getCapabilities")
def get_capabilities(device: Device, call: Call) -> list[dict[str, Any]]:
    """What the channel can, in a list of one."""
    channel, kept = _channel(call), device.slot(Sight)
    return [
        {
            "channel": channel,
            "AutotuneSupport": kept.autotune_support,
            "IrPassSupport": kept.irpass_support,
            "NightDayShiftLevelSupport": True,
        }
    ]


@daynight.method("getConfiguration")
def get_configuration(device: Device, call: Call) -> list[dict[str, Any]]:
    """What the channel is set to, in a list of one."""
    return [{"channel": _channel(call), **device.slot(Sight).configuration}]


@daynight.method("setConfiguration")
def set_configuration(device: Device, call: Call) -> list[dict[str, Any]]:
    """Change some of it; all or nothing."""
    channel, kept = _channel(call), device.slot(Sight)
    wanted = {name: value for name, value in call.params.items() if name in kept.configuration}
    for name, value in wanted.items():
        if not _allowed(kept, name, value):
            raise ApiError(2104, f"Invalid parameter value: {name}")
    kept.configuration.update(wanted)
    if "DayNightShiftLevel" in wanted:
        device.params.set(LEVEL, wanted["DayNightShiftLevel"])
    return [{"channel": channel, **kept.configuration}]


def _allowed(kept: Sight, name: str, value: Any) -> bool:
    match name:
        case "Autotune":
            return isinstance(value, bool) and (kept.autotune_support or not value)
        case "NightFilter":
            return value == "clear" or (value == "irpass" and kept.irpass_support)
    low, high = (1, 600) if name.endswith("DwellTime") else (0, 100)
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
