"""`temperaturecontrol.cgi`: sensors, heaters and fans, as its published description has them; no recorded answer was at hand."""

from __future__ import annotations

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._server import api


class Climate:
    """Temperatures in degrees Celsius by sensor, and what heats and cools."""

    def __init__(self, device: Device) -> None:
        self.sensors = (
            {"S0": ("Main", 41.25), "S1": ("Image Sensor", 44.5)} if device.has("video") else {"S0": ("Main", 38.0)}
        )
        self.heaters = {"H0": "Stopped"} if device.has("ptz") else {}
        self.fans = {"F0": "Running"} if device.has("ptz") else {}

    def lines(self) -> list[str]:
        """All of it, a line each."""
        made = []
        for sensor, (name, celsius) in self.sensors.items():
            made += [f"Sensor.{sensor}.Name={name}", f"Sensor.{sensor}.Celsius={celsius:.2f}"]
            made.append(f"Sensor.{sensor}.Fahrenheit={celsius * 1.8 + 32:.2f}")
        for heater, status in self.heaters.items():
            made += [f"Heater.{heater}.Status={status}", f"Heater.{heater}.TimeUntilStop=0"]
        return made + [f"Fan.{fan}.Status={status}" for fan, status in self.fans.items()]


@api("/axis-cgi/temperaturecontrol.cgi", level="operator", when=lambda device: bool(device.profile.apis))
async def temperature(device: Device, request: Request) -> Response:
    """What the sensors say now."""
    if request.query.get("action") != "statusall":
        return Response.text("Error: unknown action\n")
    return Response.text("".join(f"{line}\n" for line in device.slot(Climate).lines()))
