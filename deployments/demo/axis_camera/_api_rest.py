"""The REST configuration: `/config/discover` and `/config/rest/...` (AXIS OS 11.8 and later)."""

from __future__ import annotations

from typing import Any

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._network_state import NetworkState
from deployments.demo.axis_camera._server import api

BASE = "/config/rest/network-settings/v2beta"
VERBS = ("GET", "POST", "PATCH", "PUT", "DELETE")


class RestRefusal(Exception):
    """An error of the REST configuration."""

    def __init__(self, code: int, message: str, status: int) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def _error(refusal: RestRefusal) -> Response:
    body = {"status": "error", "error": {"code": refusal.code, "message": refusal.message}}
    return Response.json(body, refusal.status)


@api("/config/discover", level="admin", methods=("GET",), needs="rest")
async def discover(device: Device, request: Request) -> Response:
    """Say which REST APIs there are, and where: beta versions end in `v2beta`, alpha ones in `v1alpha`."""
    apis = {
        "network-settings": {
            "v2": {
                "version": "2.0.0-beta.4",
                "state": "beta",
                "rest_api": BASE,
                "rest_openapi": "/config/discover/apis/network-settings/v2/openapi.json",
                "rest_ui": "/config/rest-ui/network-settings/v2beta",
                "model": "/config/discover/apis/network-settings/v2/model.json",
                "doc": "/config/discover/apis/network-settings/v2/doc.md",
            }
        },
        "ssh": {
            "v1": {
                "version": "1.2.0-alpha.1",
                "state": "alpha",
                "rest_api": "/config/rest/ssh/v1alpha",
                "rest_openapi": "/config/discover/apis/ssh/v1/openapi.json",
                "model": "/config/discover/apis/ssh/v1/model.json",
                "doc": "/config/discover/apis/ssh/v1/doc.md",
            }
        },
    }
    return Response.json({"apis": apis})


@api("/config/rest/", level="admin", methods=VERBS, needs="rest")
async def rest(device: Device, request: Request) -> Response:
    """Read and change the models."""
    try:
        return _rest(device, request)
    except RestRefusal as refusal:
        return _error(refusal)


def _rest(device: Device, request: Request) -> Response:
    path = request.path.rstrip("/")
    if path != BASE and not path.startswith(f"{BASE}/"):
        raise RestRefusal(1, f"Resource not found: {path}", 404)
    parts = [part for part in path.removeprefix(BASE).split("/") if part]
    state = device.slot(NetworkState)
    if request.method == "GET":
        return Response.json({"status": "success", "data": _find(state.model(), parts)})
    data = _data(request)
    if request.method in ("PATCH", "PUT"):
        _find(state.model(), parts)
        _change(state, parts, data)
        return Response.json({"status": "success"})  # answers to writes may lack `data`
    if request.method == "POST":
        if parts[:2] == ["switch", "port"] and len(parts) == 2:
            raise RestRefusal(6, f"Item already exists: {data.get('portId', '')}", 409)
        raise RestRefusal(1, f"Resource not found: {path}", 404)
    _find(state.model(), parts)
    raise RestRefusal(5, "Validation error: the item cannot be removed", 400)


def _data(request: Request) -> dict[str, Any]:
    if request.method == "DELETE":
        return {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise RestRefusal(11, "Bad content type: application/json is needed", 400)
    try:
        data = request.json()["data"]
    except (ValueError, TypeError, KeyError):
        raise RestRefusal(5, "Validation error: the body must hold data", 400) from None
    if not isinstance(data, (dict, bool)):
        raise RestRefusal(5, "Validation error: data has the wrong type", 400)
    return data if isinstance(data, dict) else {"": data}


def _find(node: Any, parts: list[str]) -> Any:
    walked: list[str] = []
    for part in parts:
        walked.append(part)
        if not isinstance(node, dict) or part not in node:
            # Items of a map are missing with another number than branches of the model.
            if walked[:2] == ["switch", "port"] and len(walked) == 3 and isinstance(node, dict):
                raise RestRefusal(2, f"Item does not exist: {part}", 404)
            raise RestRefusal(1, f"Resource not found: {'/'.join(walked)}", 404)
        node = node[part]
    return node


def _change(state: NetworkState, parts: list[str], data: dict[str, Any]) -> None:
    if parts[:2] != ["switch", "port"] or len(parts) not in (3, 4):
        raise RestRefusal(5, "Validation error: this cannot be written", 400)
    port = next(one for one in state.switch_ports if str(one.number) == parts[2])
    values = {parts[3]: data.get("")} if len(parts) == 4 else data
    for key, value in values.items():
        if key != "enabled" or not isinstance(value, bool):
            raise RestRefusal(5, f"Validation error: {key} cannot be written so", 400)
        port.enabled = value
