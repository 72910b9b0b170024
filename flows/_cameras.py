"""Axis devices among the hosts of a network: how they are noticed, what they tell anybody, and what the inventory makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tasks.asset._observation import ObservedHost
from tasks.core.errors import ToolError
from tasks.core.log import run_logger
from tasks.core.models import parse_mac
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._wire import NeedsSetup
from tasks.network.vapix.vapix_device_info import DeviceEntry, DeviceView, VapixDeviceInfo, vapix_device_info

VENDOR = "Axis Communications AB"
BATCH = 128
ANSWER_SECONDS = 5.0
"""Longest wait for one answer: these hosts answered a moment ago, and what is slower is asked by the next discovery."""
_REALM = re.compile(r"AXIS_([0-9A-F]{12})")
_TITLE = re.compile(r"\bAXIS\b")
"""Newer cameras show anybody their front page, and want a password only behind it."""
_AXIS_SERVICE = "_axis-video._tcp"
_AXIS_SERVER = re.compile(r"(?<![a-z])axis", re.IGNORECASE)
_AXIS_SERIAL = re.compile(r"(?<![0-9a-f])(?:00408c|accc8e|b8a44f|e82725)[0-9a-f]{6}(?![0-9a-f])", re.IGNORECASE)
"""A serial of Axis's is a MAC of theirs, and these are the prefixes the IEEE gave them."""
_KINDS = (
    ("camera", "camera"),
    ("encoder", "encoder"),
    ("speaker", "speaker"),
    ("intercom", "intercom"),
    ("door station", "intercom"),
    ("door controller", "door controller"),
    ("radar", "radar"),
)
"""Words in an Axis product type, and what the inventory calls such a device."""


class Port(Protocol):
    """An open port of a host."""

    @property
    def protocol(self) -> str: ...
    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class AxisDevice:
    """What an Axis device says of itself to anybody.

    Attributes:
        serial: Its serial, which is its MAC without separators.
        model: Model.
        firmware: Version of AXIS OS.
        kind: What it is, in the inventory's words; None where it does not say.
    """

    serial: str
    model: str | None = None
    firmware: str | None = None
    kind: str | None = None


def axis_ports(
    hosts: Mapping[str, Sequence[Port]], vendors: Mapping[str, str | None], facts: Mapping[str, Mapping[str, str]]
) -> dict[int, list[str]]:
    """Choose the hosts that may be Axis devices, by MAC prefix, front page or their own word, and a port of each.

    Args:
        hosts: Addresses with their open ports.
        vendors: Vendor by address, as the MAC prefix says.
        facts: What the services said and the host announced, by address.

    Returns:
        Addresses by port: 80 where it is open, else 443.
    """
    chosen: dict[int, list[str]] = {}
    for address, ports in hosts.items():
        by_vendor = "axis communications" in (vendors.get(address) or "").lower()
        said = facts.get(address, {})
        if not by_vendor and not looks_like_axis(said) and not announces_axis(said):
            continue
        opened = {port.port for port in ports if port.protocol == "tcp"}
        for port in (80, 443):
            if port in opened:
                chosen.setdefault(port, []).append(address)
                break
    return chosen


def looks_like_axis(facts: Mapping[str, str]) -> bool:
    """Whether a host's front page, or what it wants a password for, is like an Axis device's.

    >>> looks_like_axis({"http_title": "AXIS"}), looks_like_axis({"http_realm": "AXIS_ACCC8E012345"})
    (True, True)
    >>> looks_like_axis({"http_title": "Praxis Dr. Axis"})
    False
    """
    return (
        _REALM.fullmatch(facts.get("http_realm", "")) is not None
        or _TITLE.search(facts.get("http_title", "")) is not None
    )


def announces_axis(facts: Mapping[str, str]) -> bool:
    """Whether a host says that it is an Axis device.

    >>> announces_axis({"mdns_services": "_axis-video._tcp, _http._tcp"}), announces_axis({"mdns_services": "_http._tcp"})
    (True, False)
    >>> announces_axis({"ssdp_usn": "uuid:Upnp-BasicDevice-1_0-ACCC8E012345::upnp:rootdevice"})
    True
    >>> announces_axis({"ssdp_server": "Linux, UPnP/1.0, AXIS P3265"}), announces_axis({"ssdp_server": "Praxis 1.0"})
    (True, False)
    """
    return (
        _AXIS_SERVICE in facts.get("mdns_services", "").split(", ")
        or _AXIS_SERVER.search(facts.get("ssdp_server", "")) is not None
        or _AXIS_SERIAL.search(facts.get("ssdp_usn", "")) is not None
    )


async def ask_axis(by_port: Mapping[int, Sequence[str]], site: str) -> dict[str, AxisDevice]:
    """Ask hosts what Axis devices tell anybody, without logging in; those that say nothing are left out."""
    found: dict[str, AxisDevice] = {}
    for port, addresses in by_port.items():
        for start in range(0, len(addresses), BATCH):
            params = VapixDeviceInfo(
                targets=list(addresses[start : start + BATCH]),
                site=site,
                port=port,
                timeout=ANSWER_SECONDS,
                views=[DeviceView.BASIC],
            )
            try:
                # Not tried again: what is not read today is read by the next discovery.
                answer = await vapix_device_info.spec.task.with_options(retries=0)(params)
            except NeedsSetup as problem:  # of several it is an outcome, of a single one the error
                who = problem.device
                if who is not None and (one := _axis(who.serial, who.model, who.firmware)) is not None:
                    found[addresses[start]] = one
                continue
            except ToolError as problem:
                run_logger().info("No Axis device says more of itself: %s", problem)
                continue
            found |= {camera.target: device for camera in answer.cameras if (device := told(camera)) is not None}
    return found


def told(camera: DeviceEntry) -> AxisDevice | None:
    """What an answer says of the device; None where it has no serial that is one."""
    # One that nobody has set up yet says what it is, too.
    if camera.outcome not in (CameraOutcome.DONE, CameraOutcome.NEEDS_SETUP):
        return None
    kind = (camera.basic.type or "").lower() if camera.basic is not None else ""
    return _axis(
        camera.serial, camera.model, camera.firmware, next((name for word, name in _KINDS if word in kind), None)
    )


def _axis(serial: str | None, model: str | None, firmware: str | None, kind: str | None = None) -> AxisDevice | None:
    return AxisDevice(serial, model, firmware, kind) if serial and mac_of(serial) is not None else None


def observe_axis(devices: Iterable[tuple[str, AxisDevice]], site: str, seen_at: datetime) -> list[ObservedHost]:
    """Make observations: with the serial, which is also the MAC, camera and network host are one asset.

    Args:
        devices: Addresses with what answered there.
        site: The site.
        seen_at: When, aware.
    """
    return [
        ObservedHost(
            address=address,
            method="vapix",
            seen_at=seen_at,
            site=site,
            mac=mac_of(device.serial),
            mac_first_hand=mac_of(device.serial) is not None,
            vendor=VENDOR,
            serial=device.serial,
            type=device.kind,
            model=device.model,
            firmware=device.firmware,
        )
        for address, device in devices
    ]


def mac_of(serial: str | None) -> str | None:
    """The MAC that an Axis serial is; None where it is none."""
    try:
        return parse_mac(serial) if serial else None
    except ValueError:
        return None
