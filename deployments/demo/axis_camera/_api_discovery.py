"""`apidiscovery.cgi`: which APIs the firmware has."""

from __future__ import annotations

import fnmatch
from typing import Any

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._envelope import ApiError, Call, json_api

UNOFFICIAL = {"packagemanager", "fwmgr", "widget-overlay"}
"""APIs whose status the devices leave out or call beta."""

discovery = json_api("/axis-cgi/apidiscovery.cgi", id="api-discovery", level="anonymous")


@discovery.method("getApiList")
def get_api_list(device: Device, call: Call) -> dict[str, Any]:
    """All APIs, or those whose id and version match; an id nobody knows gives an empty list."""
    if device.has("discovery-login"):
        call.request.needs("viewer")
    wanted_id, wanted_version = call.get("id", "*"), call.get("version", "*")
    if not isinstance(wanted_id, str) or not isinstance(wanted_version, str):
        raise ApiError(1000, "Invalid value")
    found = []
    for api_id, version in device.profile.apis.items():
        if not (fnmatch.fnmatchcase(api_id, wanted_id) and fnmatch.fnmatchcase(version, wanted_version)):
            continue
        entry = {"id": api_id, "version": version, "name": api_id.replace("-", " ").title(), "docLink": ""}
        if api_id not in UNOFFICIAL and not device.has("no-status"):
            entry["status"] = "official"
        elif api_id == "widget-overlay":
            entry["status"] = "beta"
        found.append(entry)
    device.random.shuffle(found)
    return {"apiList": found}
