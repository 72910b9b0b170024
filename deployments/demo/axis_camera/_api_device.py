"""What a camera says about itself: properties, readiness, who is asking, accounts, applications, view areas."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any
from xml.sax.saxutils import quoteattr

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._envelope import NEWER, ApiError, Call, json_api
from deployments.demo.axis_camera._messages import Account, Request, Response
from deployments.demo.axis_camera._server import api

# --- the page people see -------------------------------------------------------------------------------------------------


@api("/", level="anonymous", methods=("GET",))
async def front_page(device: Device, request: Request) -> Response:
    """The page that leads to the live view, which asks for a login."""
    text = "<!DOCTYPE html>\n<html><head><title>AXIS</title></head><body><a href='/camera/index.html'>Live view</a></body></html>\n"
    return Response(200, text.encode(), "text/html; charset=utf-8")


# --- basicdeviceinfo.cgi -------------------------------------------------------------------------------------------------

RESTRICTED = ("Architecture", "Soc", "SocSerialNumber")

info = json_api("/axis-cgi/basicdeviceinfo.cgi", id="basic-device-info", level="anonymous", echo_method=False)


def properties(device: Device) -> dict[str, str]:
    """All the basic properties."""
    get = device.params.get
    return {
        "Brand": get("Brand.Brand"),
        "ProdFullName": get("Brand.ProdFullName"),
        "ProdNbr": get("Brand.ProdNbr"),
        "ProdShortName": get("Brand.ProdShortName"),
        "ProdType": get("Brand.ProdType"),
        "ProdVariant": get("Brand.ProdVariant"),
        "HardwareID": get("Properties.System.HardwareID"),
        "SerialNumber": device.serial,
        "Version": device.firmware,
        "BuildDate": get("Properties.Firmware.BuildDate"),
        "WebURL": get("Brand.WebURL"),
        "Architecture": get("Properties.System.Architecture"),
        "Soc": get("Properties.System.Soc"),
        "SocSerialNumber": "",
    }


@info.method("getAllUnrestrictedProperties", since="1.2")
def get_all_unrestricted(device: Device, call: Call) -> dict[str, Any]:
    return {"propertyList": {name: value for name, value in properties(device).items() if name not in RESTRICTED}}


@info.method("getAllProperties", level="operator")
def get_all(device: Device, call: Call) -> dict[str, Any]:
    return {"propertyList": properties(device)}


@info.method("getProperties", level="operator")
def get_some(device: Device, call: Call) -> dict[str, Any]:
    wanted, known = call.need("propertyList", list), properties(device)
    if any(name not in known for name in wanted):
        raise ApiError(1000, "Invalid value for propertyList")
    return {"propertyList": {name: known[name] for name in wanted}}


# --- systemready.cgi -----------------------------------------------------------------------------------------------------

ready = json_api("/axis-cgi/systemready.cgi", id="systemready", level="anonymous", codes=NEWER)


@ready.method("systemready")
async def systemready(device: Device, call: Call) -> dict[str, Any]:
    """Whether the device has started; it may hold the request for `timeout` seconds until it has."""
    wait = call.get("timeout", 0)
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= 3600:
        raise ApiError(2104, "Invalid value for timeout")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(device.started.wait(), wait)
    data = {"systemready": "yes" if device.ready else "no", "needsetup": "yes" if device.auth.refuse_all else "no"}
    if device.has("boot-id"):
        data |= {"uptime": str(int(device.uptime)), "bootid": device.boot_id}
    if device.profile.apis.get("systemready") == "1.5":
        data["passphrasepolicy"] = "none"
    return data


# --- accounts ------------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9]{1,14}")


@api("/axis-cgi/usergroup.cgi", level="viewer", methods=("GET", "POST"))
async def usergroup(device: Device, request: Request) -> Response:
    """Who is asking: the name, and the groups on a second line."""
    return Response.text(f"{request.account.name}\n{' '.join(['users', *reversed(request.account.groups)])}\n")


@api("/axis-cgi/pwdgrp.cgi", level="admin")
async def pwdgrp(device: Device, request: Request) -> Response:
    """The accounts: list, add, change, remove."""
    asked, accounts = request.query, device.auth.accounts
    user = asked.get("user", "")
    match asked.get("action"):
        case "get":
            members = {
                "admin": [one.name for one in accounts.values() if one.level == "admin"],
                "operator": [one.name for one in accounts.values() if one.level in {"admin", "operator"}],
                "viewer": list(accounts),
                "ptz": [one.name for one in accounts.values() if one.ptz],
                "digusers": list(accounts),
            }
            return Response.text("".join(f'{group}="{",".join(names)}"\n' for group, names in members.items()))
        case "add":
            if user in accounts:
                return Response.html("Error: this user name already exists, consult the system log file.")
            if not _NAME.fullmatch(user):
                return Response.html("Error: account user name.")
            if not asked.get("pwd"):
                return Response.html("Error: invalid password.")
            accounts[user] = _account(user, asked["pwd"], asked.get("sgrp", "viewer"))
            return Response.html(f"Created account {user}.")
        case "update" if user in accounts:
            old = accounts[user]
            groups = asked.get("sgrp", ":".join(old.groups))
            accounts[user] = _account(user, asked.get("pwd", old.password), groups)
            return Response.html(f"Modified account {user}.")
        case "remove" if user in accounts and user != "root":
            del accounts[user]
            return Response.html(f"Removed account {user}.")
    return Response.html("Error: account user name.")


def _account(name: str, password: str, groups: str) -> Account:
    held = set(groups.split(":"))
    level = next((level for level in ("admin", "operator") if level in held), "viewer")
    return Account(name, password, level, "ptz" in held)


# --- applications --------------------------------------------------------------------------------------------------------

APPLICATIONS = (
    {
        "Name": "vmd", "NiceName": "AXIS Video Motion Detection", "Vendor": "Axis Communications", "Version": "4.5-8",
        "ApplicationID": "143440", "License": "None", "Status": "Stopped", "ConfigurationPage": "local/vmd/config.html", "VendorHomePage": "http://www.axis.com",
    },
)  # fmt: skip


@api("/axis-cgi/applications/list.cgi", level="admin")
async def list_applications(device: Device, request: Request) -> Response:
    """The installed applications."""
    shown = APPLICATIONS if device.has("video") else ()
    rows = "".join(
        f" <application {' '.join(f'{name}={quoteattr(value)}' for name, value in one.items())} />\n" for one in shown
    )
    return Response.xml(f'<reply result="ok">\n{rows}</reply>\n')


# --- view areas ----------------------------------------------------------------------------------------------------------

GEOMETRY = ("horizontalOffset", "horizontalSize", "verticalOffset", "verticalSize")

areas = json_api("/axis-cgi/viewarea/info.cgi", id="view-area", level="viewer", codes=NEWER)
configure = json_api("/axis-cgi/viewarea/configure.cgi", id="view-area", level="operator", codes=NEWER)


class ViewAreas:
    """Where each view area lies on its sensor, by its number."""

    def __init__(self, device: Device) -> None:
        width, _, height = device.params.get("Properties.Image.Resolution", "1920x1080").split(",")[0].partition("x")
        self.canvas = {"horizontal": int(width), "vertical": int(height)}
        self.whole = dict(zip(GEOMETRY, (0, int(width), 0, int(height)), strict=True))
        self.placed: dict[int, dict[str, int]] = {}

    def shown(self, device: Device) -> list[dict[str, Any]]:
        """As the device lists them."""
        return [self._one(number) for number in range(device.params.number("Properties.Image.NbrOfViews"))]

    def _one(self, number: int) -> dict[str, Any]:
        area: dict[str, Any] = {"id": number + 1000001, "source": 0, "camera": number + 1, "configurable": number > 0}
        if number > 0:
            area |= {
                "rectangularGeometry": self.placed.get(number, self.whole),
                "canvasSize": self.canvas,
                "minSize": {"horizontal": 64, "vertical": 64},
                "maxSize": self.canvas,
                "grid": {"horizontalOffset": 2, "horizontalSize": 4, "verticalOffset": 2, "verticalSize": 4},
            }
        return area


@areas.method("list")
def list_view_areas(device: Device, call: Call) -> dict[str, Any]:
    return {"viewAreas": device.slot(ViewAreas).shown(device)}


@configure.method("setGeometry")
def set_geometry(device: Device, call: Call) -> dict[str, Any]:
    held = device.slot(ViewAreas)
    area, number = _view_area(device, call)
    geometry = area.get("rectangularGeometry", {})
    if not all(isinstance(geometry.get(side), int) for side in GEOMETRY):
        raise ApiError(2103, "Required parameter rectangularGeometry is missing")
    wide, high = held.canvas["horizontal"], held.canvas["vertical"]
    placed = {side: int(geometry[side]) for side in GEOMETRY}
    fits = 0 <= placed["horizontalOffset"] <= wide - placed["horizontalSize"]
    if not (fits and 0 <= placed["verticalOffset"] <= high - placed["verticalSize"] and min(placed.values()) >= 0):
        raise ApiError(2104, "The geometry does not fit the canvas")
    held.placed[number] = placed
    return {"viewAreas": held.shown(device)}


@configure.method("resetGeometry")
def reset_geometry(device: Device, call: Call) -> dict[str, Any]:
    _, number = _view_area(device, call)
    device.slot(ViewAreas).placed.pop(number, None)
    return {"viewAreas": device.slot(ViewAreas).shown(device)}


def _view_area(device: Device, call: Call) -> tuple[dict[str, Any], int]:
    area = call.need("viewArea", dict)
    number = area.get("id", 0) - 1000001 if isinstance(area.get("id"), int) else -1
    if not 0 < number < device.params.number("Properties.Image.NbrOfViews"):
        raise ApiError(2104, "There is no configurable view area with that id")
    return area, number
