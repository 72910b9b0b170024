"""The picture's settings live in the parameter tree; here is what happens when they change."""

from __future__ import annotations

from deployments.demo.axis_camera._api_media import Media
from deployments.demo.axis_camera._device import Device, on_create

PROTECTOR = """
[ImageSource.I0.Sensor 7714]
SensorProtector = open | enum open,close | Sensor protector
"""


def _settled(device: Device, name: str, value: str) -> None:
    if name.endswith(".SensorProtector"):
        # Behind the closed protector there is nothing to see.
        device.slot(Media).black = value == "close"


@on_create
def imaging(device: Device) -> None:
    """Give cameras that have a sensor protector its parameter, and let it cover the sensor."""
    if device.has("sensor-protector"):
        device.params.define(PROTECTOR)
    if device.has("video"):
        device.params.watch("ImageSource.I0.Sensor", lambda name, value: _settled(device, name, value))
