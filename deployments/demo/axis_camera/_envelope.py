"""JSON APIs: one path, many methods, each request and answer in the same envelope.

    lights = JsonApi("/axis-cgi/lightcontrol.cgi", id="light-control", level="operator")

    @lights.method("getValidIntensity")
    async def get_valid_intensity(device: Device, call: Call) -> dict[str, Any]:
        light = device.slot(Lights).of(call.text("lightID"))   # raises ApiError(1002, "Unknown lightID")
        return {"ranges": [{"low": 0, "high": 1000}]}

What a method returns becomes `data`; `raise ApiError(code, message)` becomes `error`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._messages import Account, NeedsLevel, Request, Response
from deployments.demo.axis_camera._server import Condition, api


class ApiError(Exception):
    """What a JSON API answers instead of data.

    Attributes:
        status: HTTP status; None for what the API's table says, or 200.
        details: More of the error object, such as `{"details": {"subCode": 100}}`.
    """

    def __init__(self, code: int, message: str = "", *, status: int | None = None, **details: Any) -> None:
        super().__init__(message or f"Error {code}")
        self.code, self.status, self.details = code, status, details


@dataclass(frozen=True)
class Codes:
    """The numbers an API uses for what all APIs can say."""

    only_post: int = 2002
    version: int = 2003
    method: int = 2004
    bad_json: int = 4000
    missing: int = 4002
    invalid: int = 1000
    forbidden: int = 2001
    internal: int = 8000


CLASSIC = Codes()
"""apidiscovery, basicdeviceinfo, lightcontrol (with 4001 and 4002 of its own)."""
NEWER = Codes(
    only_post=2102, version=2100, method=2102, bad_json=2101, missing=2103, invalid=2104, forbidden=2105, internal=1100
)
"""portmanagement, viewarea, systemready and what came later."""


@dataclass(frozen=True)
class Call:
    """One call of a method.

    Attributes:
        params: What was sent as `params`; an empty object without.
        version: The `apiVersion` asked for.
    """

    request: Request
    method: str
    params: Any
    version: str
    codes: Codes
    whole: Mapping[str, Any] = field(default_factory=dict)

    @property
    def account(self) -> Account:
        return self.request.account

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter as it was sent."""
        return self.params.get(name, default) if isinstance(self.params, dict) else default

    def need(self, name: str, kind: type | tuple[type, ...] = object) -> Any:
        """A parameter that must be there and of that type.

        Raises:
            ApiError: It is missing, or of another type.
        """
        if not isinstance(self.params, dict) or name not in self.params:
            raise ApiError(self.codes.missing, f"Required parameter '{name}' is missing")
        value = self.params[name]
        wrong_bool = (
            isinstance(value, bool)
            and kind is not object
            and bool not in (kind if isinstance(kind, tuple) else (kind,))
        )
        if not isinstance(value, kind) or wrong_bool:
            raise ApiError(self.codes.invalid, f"Invalid value for parameter '{name}'")
        return value

    def text(self, name: str) -> str:
        """A required text."""
        return str(self.need(name, str))

    def number(self, name: str) -> int:
        """A required whole number."""
        return int(self.need(name, int))

    def yes(self, name: str) -> bool:
        """A required true or false."""
        return bool(self.need(name, bool))


Method = Callable[[Device, Call], Awaitable[Any] | Any]


class JsonApi:
    """A JSON CGI.

    Args:
        path: Where it is.
        id: Its id in API discovery: devices whose list lacks it answer 404 (unless `when` says otherwise); its version is the one there.
        level: Level needed to be heard; a method may need more.
        version: Its version, where API discovery does not say; by device when it is a function.
        codes: Its numbers for what all APIs can say.
        statuses: HTTP status by error code; 200 for the others.
        echo_method: Whether answers name the method.
        versions_key: What `getSupportedVersions` calls its list.
        ptz: The right to move the camera is needed too.
        when: Which devices have it, instead of those with the id.
    """

    def __init__(
        self,
        path: str,
        *,
        id: str | None = None,  # noqa: A002  what API discovery calls it
        level: str = "viewer",
        version: str | Callable[[Device], str] = "1.0",
        codes: Codes = CLASSIC,
        statuses: Mapping[int, int] | None = None,
        echo_method: bool = True,
        versions_key: str = "apiVersions",
        ptz: bool = False,
        when: Condition | None = None,
    ) -> None:
        self.path, self.id, self.codes = path, id, codes
        self.statuses = statuses or {}
        self.echo_method, self.versions_key = echo_method, versions_key
        self._version = version
        self._methods: dict[str, tuple[Method, str | None, str | None, bool]] = {}
        needs = (id,) if id and when is None else ()
        api(
            path,
            level=level,
            ptz=ptz,
            methods=("GET", "POST", "PUT", "DELETE"),
            needs=needs,
            when=when,
            refusal=codes.forbidden,
        )(self._handle)

    def method(
        self, name: str, *, level: str | None = None, since: str | None = None, ptz: bool = False
    ) -> Callable[[Method], Method]:
        """Decorate what does a method.

        Args:
            name: The method's name.
            level: Level it needs, where that is above the API's.
            since: First version of the API that has it; older devices do not know it.
            ptz: The right to move the camera is needed too.
        """

        def register(work: Method) -> Method:
            self._methods[name] = (work, level, since, ptz)
            return work

        return register

    def version_of(self, device: Device) -> str:
        """The API's version on a device."""
        listed = device.profile.apis.get(self.id or "")
        if listed is not None:
            return listed
        return self._version if isinstance(self._version, str) else self._version(device)

    async def _handle(self, device: Device, request: Request) -> Response:
        asked: dict[str, Any] = {}
        try:
            if request.method != "POST":
                raise ApiError(
                    self.codes.only_post, "Only HTTP POST is supported", status=self.statuses.get(self.codes.only_post)
                )
            try:
                sent = request.json()
            except (ValueError, RecursionError):
                raise ApiError(self.codes.bad_json, "Invalid JSON") from None
            if not isinstance(sent, dict):
                raise ApiError(self.codes.bad_json, "The request is no JSON object")
            asked = sent
            data = await self._call(device, request, asked)
        except ApiError as error:
            return self._error(device, asked, error)
        except NeedsLevel:
            raise
        if asked.get("method") == "getSupportedVersions":
            return self._send(device, {"method": "getSupportedVersions", "data": data} | _context(asked))
        return self._send(device, self._frame(device, asked) | {"data": data})

    async def _call(self, device: Device, request: Request, asked: dict[str, Any]) -> Any:
        codes, name = self.codes, asked.get("method")
        if not isinstance(name, str):
            raise ApiError(codes.missing, "Required parameter 'method' is missing")
        if name == "getSupportedVersions" and name not in self._methods:
            return {self.versions_key: [self.version_of(device)]}
        if device.strict_json and (unknown := asked.keys() - {"apiVersion", "context", "method", "params"}):
            raise ApiError(codes.invalid, f"Unknown key '{min(unknown)}'")
        found = self._methods.get(name)
        if found is None or (found[2] is not None and _numbers(found[2]) > _numbers(self.version_of(device))):
            raise ApiError(codes.method, f"JSON semantic error: Unknown method '{name}'")
        work, level, _, ptz = found
        if level is not None or ptz:
            request.needs(level or "viewer", ptz=ptz)
        version = asked.get("apiVersion")
        if version is None and name != "getSupportedVersions":
            raise ApiError(codes.missing, "Required parameter 'apiVersion' is missing")
        if version is not None and not _accepts(self.version_of(device), version):
            raise ApiError(codes.version, f"The requested version {version} is not supported")
        params = asked.get("params", {})
        result = work(device, Call(request, name, params, str(version), codes, asked))
        if inspect.isawaitable(result):
            result = await result
        return {} if result is None else result

    def _frame(self, device: Device, asked: Mapping[str, Any]) -> dict[str, Any]:
        frame: dict[str, Any] = {"apiVersion": self.version_of(device)} | _context(asked)
        if self.echo_method and isinstance(asked.get("method"), str):
            frame["method"] = asked["method"]
        return frame

    def _error(self, device: Device, asked: Mapping[str, Any], error: ApiError) -> Response:
        status = error.status or self.statuses.get(error.code, 200)
        frame = self._frame(device, asked) | {"error": {"code": error.code, "message": str(error), **error.details}}
        return self._send(device, frame, status)

    def _send(self, device: Device, frame: dict[str, Any], status: int = 200) -> Response:
        keys = list(frame)
        device.random.shuffle(keys)  # as on the devices: nothing may lean on an order
        return Response(status, json.dumps({key: frame[key] for key in keys}).encode(), device.profile.json_type)


def json_api(path: str, **options: Any) -> JsonApi:
    """Register a JSON CGI; see `JsonApi`."""
    return JsonApi(path, **options)


def _context(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"context": asked["context"]} if "context" in asked else {}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _accepts(have: str, asked: object) -> bool:
    """A device takes every minor version up to its own; a major one is another API. `1` is taken as well."""
    wanted = _numbers(str(asked))
    own = _numbers(have)
    return bool(wanted) and wanted[0] == own[0] and wanted <= own
