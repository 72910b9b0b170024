"""Inputs and outputs: `portmanagement.cgi` (from 0), `port.cgi` (from 1), virtual inputs. One state for all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._envelope import NEWER, ApiError, Call, JsonApi
from deployments.demo.axis_camera._messages import Request, Response, StreamResponse
from deployments.demo.axis_camera._server import api

Circuit = str
"""`open` or `closed`."""
LONGEST_STEP_MS = 65535
KEEP_ALIVE_SECONDS = 15.0
VIRTUAL_INPUTS = range(1, 33)


def _other(circuit: Circuit) -> Circuit:
    return "closed" if circuit == "open" else "open"


class Terminals:
    """The circuits of a camera's ports. A test drives inputs with `drive`; outputs follow the APIs."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.numbers = [int(entry[1:]) for entry in device.params.entries("IOPort", "I")]
        self.circuits: dict[int, Circuit] = {number: self.normal(number) for number in self.numbers}
        self._running: dict[int, object] = {}
        self.watchers: list[asyncio.Queue[tuple[int, bool]]] = []
        self.virtual: dict[int, bool] = {}
        self._virtual_turns: dict[int, object] = {}
        self.readonly: set[int] = set()
        """Ports nobody may change: what some devices say of ports that are wired inside."""
        device.params.watch("IOPort", self._configured)
        device.on_reboot(self._restart)

    def direction(self, port: int) -> str:
        return self._device.params.get(f"IOPort.I{port}.Direction")

    def normal(self, port: int) -> Circuit:
        """The circuit at rest: the opposite of what the parameters call active."""
        side = "Output.Active" if self.direction(port) == "output" else "Input.Trig"
        return _other(self._device.params.get(f"IOPort.I{port}.{side}", "closed"))

    def active(self, port: int) -> bool:
        return self.circuits[port] != self.normal(port)

    def running(self, port: int) -> bool:
        """Whether a sequence is under way on a port."""
        return port in self._running

    def drive(self, port: int, circuit: Circuit) -> None:
        """Open or close the circuit of an input, as a door contact does. From any thread."""
        self._device.call(lambda: self._become(port, circuit))

    def put(self, port: int, circuit: Circuit) -> None:
        """Open or close the circuit of an output."""
        self._become(port, circuit)

    def activate(self, port: int, active: bool) -> None:
        normal = self.normal(port)
        self._become(port, _other(normal) if active else normal)

    def sequence(self, port: int, steps: list[tuple[Circuit, float]]) -> None:
        """Play states of an output one after the other, each for its seconds; the last one stays."""
        token = object()
        self._running[port] = token

        async def play() -> None:
            for circuit, seconds in steps:
                if self._running.get(port) is not token:
                    return
                self._become(port, circuit)
                await asyncio.sleep(seconds)
            if self._running.get(port) is token:
                del self._running[port]

        # The first state is there when the request is answered.
        self._become(port, steps[0][0])
        self._device.spawn(play)

    def switch_virtual(self, number: int, active: bool, seconds: int | None = None) -> bool:
        """Switch a virtual input; whether that changed it."""
        changed = self.virtual.get(number, False) != active
        self.virtual[number] = active
        token = self._virtual_turns[number] = object()
        self._device.emit("tns1:Device/tnsaxis:IO/VirtualInput", {"port": number}, {"active": active})
        if active and seconds:
            self._device.later(
                seconds, lambda: self._virtual_turns.get(number) is token and self.switch_virtual(number, False)
            )
        return changed

    def tell(self, port: int) -> None:
        """Emit the events of a port's state now."""
        active = self.active(port)
        self._device.emit("tns1:Device/tnsaxis:IO/Port", {"port": port}, {"state": active})
        if self.direction(port) == "output":
            self._device.emit("tns1:Device/tnsaxis:IO/OutputPort", {"port": port}, {"state": active})

    def _become(self, port: int, circuit: Circuit) -> None:
        before = self.active(port)
        self.circuits[port] = circuit
        if self.active(port) != before:
            for watcher in self.watchers:
                watcher.put_nowait((port, self.active(port)))
        self.tell(port)

    def _configured(self, name: str, value: str) -> None:
        match = re.fullmatch(r"IOPort\.I(\d+)\.(Direction|Input\.Trig|Output\.Active)", name)
        if match is None or int(match[1]) not in self.circuits:
            return
        port = int(match[1])
        if self.direction(port) == "output" and match[2] != "Input.Trig" and port not in self._running:
            # An output rests in its normal state, so another normal state moves it.
            self.circuits[port] = self.normal(port)
        self.tell(port)

    def _restart(self) -> None:
        self._running.clear()
        for port in self.numbers:
            if self.direction(port) == "output":
                self.put(port, self.normal(port))


@on_create
def ports(device: Device) -> None:
    """Tell the first states of a new camera's ports."""
    terminals = device.slot(Terminals)
    for port in terminals.numbers:
        terminals.tell(port)


# --- portmanagement.cgi ------------------------------------------------------------------------------------------------

_FIELDS = {
    "usage": None,
    "name": None,
    "direction": ("input", "output"),
    "normalState": ("open", "closed"),
    "state": ("open", "closed"),
}


def _terminals(device: Device) -> Terminals:
    return device.slot(Terminals)


def shown(device: Device, port: int) -> dict[str, Any]:
    """A port as `getPorts` tells it."""
    terminals, params = _terminals(device), device.params
    direction = terminals.direction(port)
    side = "Output" if direction == "output" else "Input"
    told: dict[str, Any] = {
        "port": str(port),
        "configurable": params.flag(f"IOPort.I{port}.Configurable"),
        "usage": params.get(f"IOPort.I{port}.Usage"),
        "name": params.get(f"IOPort.I{port}.{side}.Name"),
        "direction": direction,
        "state": terminals.circuits[port],
        "normalState": terminals.normal(port),
    }
    if direction == "output" or port in terminals.readonly:
        told["readonly"] = port in terminals.readonly
    return told


management = JsonApi("/axis-cgi/io/portmanagement.cgi", id="io-port-management", codes=NEWER)


@management.method("getPorts")
def get_ports(device: Device, call: Call) -> dict[str, Any]:
    """All ports; `items` is absent when there are none."""
    numbers = _terminals(device).numbers
    told: dict[str, Any] = {"numberOfPorts": len(numbers)}
    if numbers:
        told["items"] = [shown(device, number) for number in numbers]
    return told


def _port(device: Device, value: Any) -> int:
    if not isinstance(value, str):
        raise ApiError(2103 if value is None else 2104, "Invalid parameter: port", details={"propertyName": "port"})
    number = int(value) if re.fullmatch(r"\d{1,4}", value) else -1
    if number not in _terminals(device).numbers:
        raise ApiError(
            2104, f"Invalid parameter value: no port {value}", details={"port": value, "propertyName": "port"}
        )
    return number


@management.method("setPorts", level="operator")
def set_ports(device: Device, call: Call) -> dict[str, Any]:
    """Change ports one after the other: those ahead of one that fails stay changed."""
    wanted = call.need("ports", list)
    if not wanted or not all(isinstance(one, dict) for one in wanted):
        raise ApiError(2104, "Invalid parameter value: ports")
    done = []
    for one in wanted:
        _set_port(device, _port(device, one.get("port")), one)
        done.append(one["port"])
    return {"ports": done}


def _set_port(device: Device, port: int, wanted: Mapping[str, Any]) -> None:
    terminals = _terminals(device)

    def invalid(field: str, why: str) -> ApiError:
        details = {"port": str(port), "propertyName": field}
        return ApiError(2104, f"Invalid parameter value: {field} {why}", details=details, errors=[details])

    for field, choices in _FIELDS.items():
        value = wanted.get(field)
        if value is None:
            continue
        if not isinstance(value, str) or (choices is not None and value not in choices) or len(value) > 64:
            raise invalid(field, "is not valid")
        if port in terminals.readonly:
            raise invalid(field, "is read-only")
    direction = wanted.get("direction", terminals.direction(port))
    if direction != terminals.direction(port) and not device.params.flag(f"IOPort.I{port}.Configurable"):
        raise invalid("direction", "cannot be changed")
    if "state" in wanted and direction != "output":
        raise invalid("state", "of an input cannot be set")
    if "state" in wanted and terminals.running(port):
        raise ApiError(2200, "A sequence is already running on the port", details={"port": str(port)})
    where, side = f"IOPort.I{port}", "Output" if direction == "output" else "Input"
    for name, value in (
        ("Direction", wanted.get("direction")),
        ("Usage", wanted.get("usage")),
        (f"{side}.Name", wanted.get("name")),
        ("Output.Active" if direction == "output" else "Input.Trig", _opposite(wanted.get("normalState"))),
    ):
        if value is not None:
            device.params.set(f"{where}.{name}", value)
    if "state" in wanted:
        terminals.put(port, wanted["state"])


def _opposite(circuit: Circuit | None) -> Circuit | None:
    return None if circuit is None else _other(circuit)


@management.method("setStateSequence")
def set_state_sequence(device: Device, call: Call) -> dict[str, Any]:
    """Play states of an output; the answer comes when it has begun."""
    terminals = _terminals(device)
    port = _port(device, call.need("port"))
    steps = call.need("sequence")
    good = isinstance(steps, list) and 0 < len(steps) <= 100
    for step in steps if good else ():
        time = step.get("time") if isinstance(step, dict) else None
        good = (
            good and isinstance(time, int) and 0 <= time <= LONGEST_STEP_MS and step.get("state") in ("open", "closed")
        )
    if not good or terminals.direction(port) != "output" or port in terminals.readonly:
        raise ApiError(2104, "Invalid parameter value: sequence", details={"port": str(port)})
    if terminals.running(port):
        raise ApiError(2200, "A sequence is already running on the port", details={"port": str(port)})
    terminals.sequence(port, [(step["state"], step["time"] / 1000) for step in steps])
    return {"port": str(port)}


# --- port.cgi ------------------------------------------------------------------------------------------------------------


@api("/axis-cgi/io/port.cgi", level="viewer", methods=("GET", "POST"))
async def port_cgi(device: Device, request: Request) -> Response | StreamResponse:
    """The older API: ports from 1, active and inactive."""
    terminals = _terminals(device)
    if not terminals.numbers:
        return Response.page(404)
    query = request.query
    try:
        for name, answer in (("check", _check), ("checkactive", _check_active), ("checkdirection", _check_direction)):
            if name in query:
                ports = _numbers(terminals, query[name])
                return Response.text("".join(f"port{port + 1}={answer(terminals, port)}\n" for port in ports))
        if "action" in query:
            _act(terminals, query["action"])
            return Response(200, b"", "text/plain")
        if "monitor" in query:
            return _monitor(terminals, _numbers(terminals, query["monitor"]))
    except ValueError as error:
        return Response.text(f"Error: {error}\n")
    return Response.text("Error: missing argument\n")


def _check(terminals: Terminals, port: int) -> str:
    return "1" if terminals.circuits[port] == "closed" else "0"


def _check_active(terminals: Terminals, port: int) -> str:
    return "active" if terminals.active(port) else "inactive"


def _check_direction(terminals: Terminals, port: int) -> str:
    return terminals.direction(port)


def _numbers(terminals: Terminals, text: str) -> list[int]:
    numbers = [int(part) - 1 if re.fullmatch(r"\d{1,4}", part) else -1 for part in text.split(",")]
    for number, part in zip(numbers, text.split(","), strict=True):
        if number not in terminals.numbers:
            raise ValueError(f"no port {part}")
    return numbers


def _act(terminals: Terminals, action: str) -> None:
    r"""Carry out `2:/`, `2:\` or `2:/500\`: states, and pauses in milliseconds between them."""
    match = re.fullmatch(r"(\d{1,4}):((?:[/\\]|\d{1,7})+)", action)
    if match is None:
        raise ValueError("action: invalid value")
    (port,) = _numbers(terminals, match[1])
    if terminals.direction(port) != "output" or port in terminals.readonly:
        raise ValueError(f"port {port + 1} is not an output")
    normal = terminals.normal(port)
    steps: list[tuple[Circuit, float]] = []
    for part in re.findall(r"[/\\]|\d+", match[2]):
        if part in "/\\":
            steps.append((_other(normal) if part == "/" else normal, 0.0))
        elif steps:
            steps[-1] = (steps[-1][0], int(part) / 1000)
    if not steps:
        raise ValueError("action: invalid value")
    terminals.sequence(port, steps)


def _monitor(terminals: Terminals, ports: list[int]) -> StreamResponse:
    async def parts() -> AsyncIterator[bytes]:
        changes: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()
        terminals.watchers.append(changes)
        try:
            yield b"".join(_part(_letter(terminals, port, "H" if terminals.active(port) else "L")) for port in ports)
            while True:
                try:
                    port, active = await asyncio.wait_for(changes.get(), KEEP_ALIVE_SECONDS)
                except TimeoutError:
                    yield _part("")
                    continue
                if port in ports:
                    yield _part(_letter(terminals, port, "/" if active else "\\"))
        finally:
            terminals.watchers.remove(changes)

    return StreamResponse(parts(), "multipart/x-mixed-replace; boundary=ioboundary")


def _letter(terminals: Terminals, port: int, word: str) -> str:
    return f"{port + 1}{'O' if terminals.direction(port) == 'output' else 'I'}:{word}"


def _part(text: str) -> bytes:
    return f"--ioboundary\r\nContent-Type: text/plain\r\n\r\n{text}\r\n\r\n".encode()


# --- virtual inputs ------------------------------------------------------------------------------------------------------


@api("/axis-cgi/virtualinput/activate.cgi", level="operator", methods=("GET", "POST"))
async def activate(device: Device, request: Request) -> Response:
    """Make a virtual input active, for some seconds if asked."""
    return _virtual(device, request, active=True)


@api("/axis-cgi/virtualinput/deactivate.cgi", level="operator", methods=("GET", "POST"))
async def deactivate(device: Device, request: Request) -> Response:
    """Make a virtual input inactive."""
    return _virtual(device, request, active=False)


def _virtual(device: Device, request: Request, *, active: bool) -> Response:
    if not device.params.flag("Properties.VirtualInput.VirtualInput"):
        return Response.page(404)
    query = request.query
    port, duration = query.get("port", ""), query.get("duration", "0")
    if query.get("schemaversion") != "1":
        return _virtual_error(40, "Invalid schema version")
    if not port.isdigit() or int(port) not in VIRTUAL_INPUTS or not re.fullmatch(r"\d{1,6}", duration):
        return _virtual_error(20, f"Invalid port {port}"[:80])
    changed = _terminals(device).switch_virtual(int(port), active, int(duration) or None)
    word = "ActivateSuccess" if active else "DeactivateSuccess"
    state = "true" if changed else "false"
    return _virtual_answer(f"<Success><{word}><StateChanged>{state}</StateChanged></{word}></Success>")


def _virtual_error(code: int, text: str) -> Response:
    inner = f"<ErrorCode>{code}</ErrorCode><ErrorDescription>{escape(text)}</ErrorDescription>"
    return _virtual_answer(f"<GeneralError>{inner}</GeneralError>")


def _virtual_answer(content: str) -> Response:
    return Response.xml(
        '<?xml version="1.0" encoding="utf-8"?>\n<VirtualInputResponse xmlns="http://www.axis.com/vapix/http_cgi/virtualinput1" '
        f'SchemaVersion="1.0">{content}</VirtualInputResponse>'
    )
