"""Overlays: dynamicoverlay.cgi, and the dynamic text slots of the CGI with nearly the same name."""

from __future__ import annotations

from typing import Any

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._envelope import ApiError, Call, Codes, JsonApi
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._overlay_state import MAX_TEXT, OverlayRefusal, Overlays
from deployments.demo.axis_camera._server import api

CODES = Codes(
    only_post=203, version=100, method=203, bad_json=200, missing=102, invalid=103, forbidden=2001, internal=101
)

overlays = JsonApi("/axis-cgi/dynamicoverlay/dynamicoverlay.cgi", id="dynamicoverlay", level="operator", codes=CODES)


def _params(call: Call) -> dict[str, Any]:
    if not isinstance(call.params, dict):
        raise ApiError(200, "params must be an object")
    return call.params


def _register(name: str, kind: str, *, adding: bool) -> None:
    @overlays.method(name)
    def work(device: Device, call: Call) -> dict[str, Any]:
        held = device.slot(Overlays)
        try:
            if adding:
                return held.add(kind, _params(call))
            held.set(kind, _params(call))
        except OverlayRefusal as refusal:
            raise ApiError(refusal.code, refusal.message) from None
        return {}


for _name, _kind, _adding in (
    ("addText", "text", True), ("setText", "text", False), ("addImage", "image", True), ("setImage", "image", False),
):  # fmt: skip
    _register(_name, _kind, adding=_adding)


@overlays.method("remove")
def remove(device: Device, call: Call) -> dict[str, Any]:
    try:
        device.slot(Overlays).remove(_params(call))
    except OverlayRefusal as refusal:
        raise ApiError(refusal.code, refusal.message) from None
    return {}


@overlays.method("list")
def list_overlays(device: Device, call: Call) -> dict[str, Any]:
    return device.slot(Overlays).list(_params(call))


@overlays.method("getOverlayCapabilities")
def capabilities(device: Device, call: Call) -> dict[str, Any]:
    return device.slot(Overlays).capabilities()


@api("/axis-cgi/dynamicoverlay.cgi", level="operator", needs="dynamicoverlay")
async def slots(device: Device, request: Request) -> Response:
    """Fill and read the dynamic text slots, `#D` in a text."""
    asked = request.query
    action, index, camera = asked.get("action"), asked.get("text_index", "1"), asked.get("camera", "1")
    if action not in ("settext", "gettext"):
        return Response.text("Error: unknown action")
    if not index.isdigit() or not 1 <= int(index) <= 16:
        return Response.text("Error: text_index must be 1 to 16")
    if not camera.isdigit() or not 1 <= int(camera) <= device.profile.views:
        return Response.text(f"Error: camera {camera} not available")
    held = device.slot(Overlays)
    place = (int(camera), int(index))
    if action == "settext":
        text = asked.get("text")
        if text is None or len(text) > MAX_TEXT:
            return Response.text("Error: text is missing or too long")
        held.slots[place] = text
        return Response.text("OK\n")
    return Response.text(held.slots.get(place, "") + "\n")
