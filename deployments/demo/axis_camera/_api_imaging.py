"""The picture's settings live in the parameter tree; here is what happens when they change."""

from __future__ import annotations

from deployments.demo.axis_camera._device import Device, on_create

PROTECTOR = """
[ImageSource.I0.Sensor 7714]
SensorProtector = open | enum open,close | Sensor protector
"""


class Picture:
    """What becomes of the picture. `covered`: the sensor's protector is closed, so there is none."""

    def __init__(self, device: Device) -> None:
        self.covered = False
        self.applied = 0
        """How often a setting of the picture was changed."""
        device.params.watch("ImageSource.I0", self._changed)

    def _changed(self, name: str, value: str) -> None:
        self.applied += 1
        if name.endswith(".SensorProtector"):
            self.covered = value == "close"


@on_create
def imaging(device: Device) -> None:
    """Give cameras that have a sensor protector its parameter."""
    if device.has("sensor-protector"):
        device.params.define(PROTECTOR)
    if device.has("video"):
        device.slot(Picture)
