"""A simulated Axis camera: HTTP and HTTPS, logins, levels, the JSON, XML, SOAP and text APIs with state behind them, and faults on demand.

    device = Device("mid", index=7)
    async with Listening(device, port=8080) as camera:
        ...  # http://127.0.0.1:8080, account root, password pass

`_device` is the camera, `_parameters` its parameters, `_profiles` the models; `_server` answers requests, `_envelope` is for JSON APIs;
each API is in an `_api_*` module, which registers itself. Everything is written from what is known of the devices, not from what our
tools send.
"""

from __future__ import annotations

import importlib
import pkgutil

from deployments.demo.axis_camera._auth import Throttle
from deployments.demo.axis_camera._device import HOSTILE, Device, Event, Logged, on_create
from deployments.demo.axis_camera._envelope import ApiError, Call, JsonApi, json_api
from deployments.demo.axis_camera._faults import Fault, Faults
from deployments.demo.axis_camera._listening import Listening, rtsp_protocol
from deployments.demo.axis_camera._messages import Account, Request, Response, StreamResponse
from deployments.demo.axis_camera._parameters import ParameterTree
from deployments.demo.axis_camera._profiles import PROFILES, Profile, find_profile
from deployments.demo.axis_camera._server import Upgraded, api, http_protocol, rtsp, upgrade
from deployments.demo.axis_camera._tls import Identity, self_signed

__all__ = [
    "HOSTILE",
    "PROFILES",
    "Account",
    "ApiError",
    "Call",
    "Device",
    "Event",
    "Fault",
    "Faults",
    "Identity",
    "JsonApi",
    "Listening",
    "Logged",
    "ParameterTree",
    "Profile",
    "Request",
    "Response",
    "StreamResponse",
    "Throttle",
    "Upgraded",
    "api",
    "find_profile",
    "http_protocol",
    "json_api",
    "on_create",
    "rtsp",
    "rtsp_protocol",
    "self_signed",
    "upgrade",
]

for _found in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if _found.startswith("_api_") or _found == "_rtsp":
        importlib.import_module(f"{__name__}.{_found}")
