"""Stream profiles: streamprofile.cgi, on the same entries as the parameters `StreamProfile.S#`."""

from __future__ import annotations

import re
from typing import Any

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._envelope import ApiError, Call, Codes, JsonApi
from deployments.demo.axis_camera._parameters import Update

CODES = Codes(
    only_post=2001, version=2000, method=2005, bad_json=2001, missing=2003, invalid=2004, forbidden=2001, internal=1000
)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
GROUP = "StreamProfile"

profiles = JsonApi("/axis-cgi/streamprofile.cgi", id="stream-profiles", level="viewer", codes=CODES)


def stored(device: Device) -> dict[str, str]:
    """The entry (`S0`) of each profile by its name."""
    return {device.params.get(f"{GROUP}.{entry}.Name"): entry for entry in device.params.entries(GROUP, "S")}


def add_profile(device: Device, name: str, parameters: str, description: str = "") -> str:
    """Give the camera a profile, as somebody else's program would; returns its entry."""
    entry, _ = device.params.add_entry(
        "streamprofile", {"Name": name, "Description": description, "Parameters": parameters}
    )
    return entry


@profiles.method("list")
def list_profiles(device: Device, call: Call) -> dict[str, Any]:
    asked = call.get("streamProfileName", [])
    if not isinstance(asked, list):
        raise ApiError(2004, "streamProfileName must be a list")
    there = stored(device)
    names = [_name(one) for one in asked]
    for name in names:
        if name not in there:
            raise ApiError(2006, f"No such stream profile: {name}")
    found = [
        {
            "name": name,
            "description": device.params.get(f"{GROUP}.{there[name]}.Description"),
            "parameters": device.params.get(f"{GROUP}.{there[name]}.Parameters"),
        }
        for name in names or there
    ]
    device.random.shuffle(found)
    # As recorded: without profiles the key is not there at all.
    return {
        **({"streamProfile": found} if found else {}),
        "maxProfiles": device.params.number(f"{GROUP}.MaxGroups", 26),
    }


@profiles.method("create", level="operator")
def create(device: Device, call: Call) -> None:
    wanted = _entries(call)
    there = stored(device)
    if any(one["name"] in there for one in wanted):
        raise ApiError(2002, "A stream profile with that name exists")
    if len(there) + len(wanted) > device.params.number(f"{GROUP}.MaxGroups", 26):
        raise ApiError(1000, "Maximum number of stream profiles reached")
    for one in wanted:
        add_profile(device, one["name"], one["parameters"], one["description"])


@profiles.method("update", level="operator")
def update(device: Device, call: Call) -> None:
    wanted = _entries(call)
    there = stored(device)
    for one in wanted:
        if one["name"] not in there:
            raise ApiError(2006, f"No such stream profile: {one['name']}")
    for one in wanted:
        for key, inner in (("description", "Description"), ("parameters", "Parameters")):
            if device.params.update(f"{GROUP}.{there[one['name']]}.{inner}", one[key], 9) is not Update.DONE:
                raise ApiError(2004, f"Invalid value for {key}")


@profiles.method("remove", level="operator")
def remove(device: Device, call: Call) -> None:
    names = [_name(one) for one in call.need("streamProfileName", list)]
    there = stored(device)
    for name in names:
        if name not in there:
            raise ApiError(2006, f"No such stream profile: {name}")
    for name in names:
        device.params.remove_entry(f"{GROUP}.{there[name]}")


def _entries(call: Call) -> list[dict[str, str]]:
    entries = call.need("streamProfile", list)
    found = []
    for entry in entries:
        name = _name(entry)
        texts = {key: entry.get(key, "") for key in ("description", "parameters")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ApiError(2004, "description and parameters must be strings")
        if len(texts["description"]) > 128 or len(texts["parameters"]) > 1024:
            raise ApiError(2004, "The description or the parameters are too long")
        found.append({"name": name, **texts})
    if len({one["name"] for one in found}) != len(found):
        raise ApiError(2002, "The same name is used more than once")
    return found


def _name(entry: Any) -> str:
    if not isinstance(entry, dict) or "name" not in entry:
        raise ApiError(2003, "name is missing")
    if not isinstance(entry["name"], str) or not NAME.fullmatch(entry["name"]):
        raise ApiError(2004, "Invalid name")
    return str(entry["name"])


@on_create
def factory_profiles(device: Device) -> None:
    """Give old firmware the profile it comes with, which cannot be removed."""
    if not device.firmware.startswith("5."):
        return
    entry = add_profile(device, "Quality", "resolution=D1&compression=20&mirror=0", "Best image quality")
    remove = device.params.remove_entry

    def keep(group: str, level: int = 9) -> None:
        if group.removeprefix("root.") == f"{GROUP}.{entry}":
            raise ValueError(f"Cannot remove group '{group}'")
        remove(group, level)

    device.params.remove_entry = keep  # type: ignore[method-assign]
