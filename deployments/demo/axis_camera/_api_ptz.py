"""ptz.cgi, ptzconfig.cgi and ptzqueue.cgi: a head that moves over time, clamps in silence, and goes on until somebody stops it."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._ptz_head import Axis, Head, Place
from deployments.demo.axis_camera._server import api

PTZ_CGI = "/axis-cgi/com/ptz.cgi"
CONFIG_CGI = "/axis-cgi/com/ptzconfig.cgi"
QUEUE_CGI = "/axis-cgi/com/ptzqueue.cgi"
MOVE_TOPIC = "tns1:PTZController/tnsaxis:Move/Channel_1"
PRESET_TOPIC = "tns1:PTZController/tnsaxis:PTZPresets/Channel_1"
READY_TOPIC = "tns1:PTZController/tnsaxis:PTZReady"
HOME_PARAMETER = "PTZ.Preset.P0.HomePosition"
SPEEDS = {"pan": 180.0, "tilt": 120.0, "zoom": 9000.0, "focus": 6000.0, "iris": 6000.0}
"""Degrees or steps a second at full speed."""
AUXILIARIES = ("Wiper", "Washer")
ZOOM_STEPS = ((1, 1), (3868, 2), (7736, 3), (9999, 4))
"""The documented example of an attributes answer, and one more."""
_STEPS = {
    "up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0),
    "upleft": (-1, 1), "upright": (1, 1), "downleft": (-1, -1), "downright": (1, -1),
}  # fmt: skip
_ARGUMENTS = frozenset(
    {"camera", "move", "pan", "tilt", "zoom", "focus", "iris", "brightness", "rpan", "rtilt", "rzoom", "rfocus", "riris", "rbrightness",
     "continuouspantiltmove", "continuouszoommove", "continuousfocusmove", "continuousirismove", "continuousbrightnessmove",
     "proportionalspeed", "autofocus", "autoiris", "backlight", "ircutfilter", "center", "imagewidth", "imageheight", "areazoom", "speed",
     "imagerotation", "gotoserverpresetname", "gotoserverpresetno", "gotodevicepreset", "auxiliary", "query", "format", "info", "whoami",
     "html", "timestamp"}
)  # fmt: skip
_QUERIES = "limits mode position presetposall presetposcam presetposcamdata speed auxiliary attributes"
_NUMBER = re.compile(r"[+-]?\d{1,6}(\.\d{1,6})?\Z")


class Wrong(Exception):
    """The device's `Error:` text."""


def head_of(device: Device) -> Head:
    """The head of a camera that has one; tests look at it and set it."""
    return device.slot(make_head)


def make_head(device: Device) -> Head:
    """A head within the limits of the camera's parameters, looking at its home."""
    params, axes = device.params, {}
    for name, per_second in SPEEDS.items():
        title = name.title()
        low = float(params.get(f"PTZ.Limit.L1.Min{title}") or (-180 if name in {"pan", "tilt"} else 1))
        high = float(params.get(f"PTZ.Limit.L1.Max{title}") or (180 if name in {"pan", "tilt"} else 9999))
        start = min(high, max(low, 0.0 if name in {"pan", "tilt"} else 1.0 if name == "zoom" else 5000.0))
        axes[name] = Axis(low, high, start, per_second, endless=name == "pan" and high - low >= 360)
    head = Head(axes)
    tilt = axes["tilt"]
    head.keep(1, "Home")
    head.presets[2] = Place("Gate", {"pan": 45.0, "tilt": max(tilt.low, -10.0), "zoom": 2000.0})
    head.presets[3] = Place(
        device.names.get("preset", "Tür Süd"), {"pan": -90.0, "tilt": max(tilt.low, -20.0), "zoom": 500.0}
    )
    return head


@on_create
def prepare(device: Device) -> None:
    """The events a camera with a head has from the start."""
    if device.has("ptz"):
        device.emit(MOVE_TOPIC, {"PTZConfigurationToken": "0"}, {"is_moving": "0"})
        device.emit(READY_TOPIC, {"channel": "1"}, {"ready": "1"})
        device.params.set(HOME_PARAMETER, 1)
        device.on_reboot(lambda: head_of(device).stop())


# --- ptz.cgi ---------------------------------------------------------------------------------------------------------


def _has_ptz(device: Device) -> bool:
    return device.params.flag("Properties.PTZ.PTZ")


@api(PTZ_CGI, level="viewer", ptz=True, when=_has_ptz)
async def ptz(device: Device, request: Request) -> Response:
    """Move, or say where it is."""
    arguments = request.query
    try:
        unknown = next((name for name in arguments if name not in _ARGUMENTS), None)
        if unknown is not None:
            raise Wrong(f"unknown argument: {unknown}")
        _camera(device, arguments)
        if "whoami" in arguments:
            return _text(device, _driver(device))
        if "info" in arguments:
            return _text(device, _info())
        if "query" in arguments:
            return _query(device, arguments)
        _command(device, request, arguments)
    except Wrong as wrong:
        return Response.text(f"Error:{wrong}\n")
    return Response.empty()


def _text(device: Device, text: str) -> Response:
    latin = device.params.get("PTZ.ResponseEncoding", "iso-8859-1") == "iso-8859-1"
    return Response.text(text, charset="iso-8859-1" if latin else "utf-8")


def _camera(device: Device, arguments: dict[str, str]) -> int:
    value = arguments.get("camera", "1")
    if not value.isdigit() or not 1 <= int(value) <= device.params.number("PTZ.NbrOfCameras", 1):
        raise Wrong(f"camera: invalid value: {value}")
    return int(value)


def _enabled(device: Device) -> bool:
    return device.has("ptz") and device.params.get("PTZ.ImageSource.I0.PTZEnabled") == "true"


def _driver(device: Device) -> str:
    return "Sim PTZ driver\n" if device.has("ptz") else "No driver\n"


def _info() -> str:
    return "Available commands\n:\n{camera=[n]}\n" + "".join(f"{name}=\n" for name in sorted(_ARGUMENTS - {"camera"}))


def _query(device: Device, arguments: dict[str, str]) -> Response:
    asked = arguments["query"].lower()
    as_json = arguments.get("format") == "json"
    if asked not in _QUERIES.split():
        raise Wrong(f"query: unknown value: {arguments['query']}")
    if not _enabled(device):
        return Response.text("")  # seen where PTZ is not available
    head = head_of(device)
    match asked:
        case "position":
            return _text(device, _position(head))
        case "limits":
            return _text(
                device,
                "".join(
                    f"Min{name.title()}={axis.low:g}\nMax{name.title()}={axis.high:g}\n"
                    for name, axis in head.axes.items()
                ),
            )
        case "speed":
            return Response.text(f"speed={head.speed}\n")
        case "mode":
            queueing = device.params.flag("PTZ.Various.V1.CtlQueueing")
            return Response.text(f"mode={'queue' if queueing else 'normal'}\n")
        case "auxiliary":
            if as_json:
                return Response.json({"Auxiliary": list(AUXILIARIES)})
            return Response.text("Available auxiliary commands\n" + "".join(f"{name}\n" for name in AUXILIARIES))
        case "attributes":
            steps = [{"zoom": step, "magnification": times} for step, times in ZOOM_STEPS]
            return Response.json({"attributes": {"zoom": {"steps": steps}}})
        case _:
            return _presets(device, head, asked, as_json)


def _position(head: Head) -> str:
    here = head.position()
    for lens in ("focus", "iris"):
        if head.switches[f"auto{lens}"]:  # it follows the scene, and never quite rests
            here[lens] += 40 * (int(head.clock() * 9) % 3 - 1)
    lines = [f"{name}={here[name]:.4f}" for name in ("pan", "tilt") if name in here]
    lines += [f"{name}={here[name]:.0f}" for name in ("zoom", "focus", "iris") if name in here]
    lines.append("brightness=4999")
    lines += [f"{name}={'on' if on else 'off'}" for name, on in head.switches.items()]
    return "\n".join(lines) + "\n"


def _presets(device: Device, head: Head, asked: str, as_json: bool) -> Response:
    stored = sorted(head.presets.items())
    if as_json:
        return Response.json({"Camera 1": [{"presetposno": number, "name": place.name} for number, place in stored]})
    lines = ["Preset Positions for camera 1"]
    for number, place in stored:
        data = ""
        if asked == "presetposcamdata":
            data = ":" + ":".join(f"{name}={value:g}" for name, value in place.values.items())
        lines.append(f"presetposno{number}={place.name}{data}")
    return _text(device, "\n".join(lines) + "\n")


def _number(name: str, value: str) -> float:
    if not _NUMBER.match(value):
        raise Wrong(f"{name}: invalid value: {value}")
    return float(value)


def _pair(name: str, value: str) -> tuple[float, float]:
    x, comma, y = value.partition(",")
    if not comma:
        raise Wrong(f"{name}: invalid value: {value}")
    return _number(name, x), _number(name, y)


def _command(device: Device, request: Request, arguments: dict[str, str]) -> None:
    """Do everything a request asks for, after all of it was understood."""
    params = device.params
    if not _enabled(device):
        raise Wrong("ptz is not enabled")
    if params.flag("PTZ.Various.V1.Locked"):
        raise Wrong("ptz is locked")
    head = head_of(device)
    if params.flag("PTZ.Various.V1.CtlQueueing") and head.place_in_queue(_member(device, request)) != 1:
        raise Wrong("not in control of the ptz")
    speed = int(_number("speed", arguments["speed"])) if "speed" in arguments else None
    if speed is not None and not 1 <= speed <= 100:
        speed = min(100, max(1, speed))
    work: list[Callable[[], None]] = []
    for name, value in arguments.items():
        step = _step(device, head, name, value, speed)
        if step is not None:
            work.append(step)
    if not work and speed is None:
        raise Wrong("no command")
    if speed is not None and not work:
        head.speed = speed
    for step in work:
        step()
    watch(device, head)


def _step(device: Device, head: Head, name: str, value: str, speed: int | None) -> Callable[[], None] | None:
    """What one argument does; None for those that only describe others."""
    if name in {"pan", "tilt", "zoom", "focus", "iris"}:
        number = _number(name, value)
        return lambda: _go(head, name, number, speed)
    if name in {"rpan", "rtilt", "rzoom", "rfocus", "riris"}:
        number = _number(name, value)
        return lambda: head.shift(name[1:], number, speed)
    match name:
        case "move":
            return _walk(head, value, speed)
        case "continuouspantiltmove":
            x, y = _pair(name, value)
            return lambda: _drive(head, x, y)
        case "continuouszoommove" | "continuousfocusmove" | "continuousirismove":
            number, axis = _number(name, value), name.removeprefix("continuous").removesuffix("move")
            return lambda: head.drive(axis, number)
        case "autofocus" | "autoiris":
            if value not in {"on", "off"}:
                raise Wrong(f"{name}: invalid value: {value}")
            return lambda: head.switches.__setitem__(name, value == "on")
        case "backlight" | "ircutfilter":
            if value not in {"on", "off", *(("auto",) if name == "ircutfilter" else ())}:
                raise Wrong(f"{name}: invalid value: {value}")
            parameter = "PTZ.Various.V1.BackLight" if name == "backlight" else "PTZ.Various.V1.IrCutFilter"
            shown = {"on": "true", "off": "false"}[value] if name == "backlight" else value
            return lambda: device.params.set(parameter, shown)
        case "gotoserverpresetname" | "gotoserverpresetno":
            number_of = head.preset(value) if name.endswith("name") else int(value) if value.isdigit() else None
            if number_of is None or number_of not in head.presets:
                raise Wrong(f"{name}: no such preset: {value}")
            return lambda: head.go(dict(head.presets[number_of].values), speed)
        case "auxiliary":
            if value not in AUXILIARIES:
                raise Wrong(f"auxiliary: unknown value: {value}")
            return lambda: head.called.append(value)
        case "areazoom" | "center":
            first = value.split(",")
            if len(first) != (3 if name == "areazoom" else 2):
                raise Wrong(f"{name}: invalid value: {value}")
            x = _number(name, first[0]) / max(1.0, _number(name, device_width(device))) - 0.5
            return lambda: head.shift("pan", x * 60, speed)
        case "gotodevicepreset":
            raise Wrong("gotodevicepreset: not supported by this device")
    return None


def _go(head: Head, name: str, number: float, speed: int | None) -> None:
    head.go({name: number}, speed)
    if name in {"focus", "iris"}:
        head.switches[f"auto{name}"] = False


def _drive(head: Head, x: float, y: float) -> None:
    head.drive("pan", x)
    head.drive("tilt", y)


def device_width(device: Device) -> str:
    """Width of the camera's picture, pixels."""
    return device.params.get("Image.I0.Appearance.Resolution", "1920x1080").partition("x")[0]


def _walk(head: Head, value: str, speed: int | None) -> Callable[[], None]:
    if value == "stop":
        return head.stop
    if value == "home":
        return head.go_home
    if value not in _STEPS:
        raise Wrong(f"move: unknown value: {value}")
    x, y = _STEPS[value]

    def step() -> None:
        for axis, sign in (("pan", x), ("tilt", y)):
            if sign:
                head.shift(axis, sign * 15.0, speed)

    return step


def watch(device: Device, head: Head) -> None:
    """Tell subscribers that it moves, and when it rests. A later command asks anew."""
    moving = head.moving()
    device.emit(MOVE_TOPIC, {"PTZConfigurationToken": "0"}, {"is_moving": "1" if moving else "0"})
    number = None if moving else head.on_preset()
    for preset in sorted(head.presets):
        on = "1" if preset == number else "0"
        device.emit(PRESET_TOPIC, {"PresetToken": str(preset), "PTZConfigurationToken": "0"}, {"on_preset": on})
    rests_in = head.rests_in()
    if moving and rests_in is not None:
        device.later(rests_in + 0.02, lambda: watch(device, head))


# --- ptzconfig.cgi -----------------------------------------------------------------------------------------------------


@api(CONFIG_CGI, level="admin", when=_has_ptz)
async def ptzconfig(device: Device, request: Request) -> Response:
    """Store, rename and remove presets."""
    try:
        _camera(device, request.query)
        if not _enabled(device):
            raise Wrong("ptz is not enabled")
        _configure(device, request.query)
    except Wrong as wrong:
        return Response.text(f"Error:{wrong}\n")
    return Response.empty()


def _configure(device: Device, arguments: dict[str, str]) -> None:
    head = head_of(device)
    longest = device.params.number("PTZ.PresetNameMaxLen", 31)

    def named(name: str) -> str:
        if not name or len(name) > longest or set(name) & set('"<>~:'):
            raise Wrong("invalid preset name")
        return name

    number: int | None
    if "setserverpresetname" in arguments:
        name = named(arguments["setserverpresetname"])
        number = head.preset(name) or head.free_number()
        head.keep(number, name)
    elif "setserverpresetno" in arguments:
        number = _existing(arguments["setserverpresetno"], None)
        head.keep(number, head.presets[number].name if number in head.presets else f"Preset {number}")
    elif "renameserverpresetno" in arguments:
        number = _existing(arguments["renameserverpresetno"], head)
        head.presets[number].name = named(arguments.get("newname", ""))
    elif "removeserverpresetname" in arguments:
        number = head.preset(arguments["removeserverpresetname"])
        if number is None:
            raise Wrong(f"no such preset: {arguments['removeserverpresetname']}")
        del head.presets[number]
        return
    elif "removeserverpresetno" in arguments:
        del head.presets[_existing(arguments["removeserverpresetno"], head)]
        return
    elif arguments.get("removeallserverpresets") == "yes":
        head.presets.clear()
        return
    else:
        raise Wrong("no command")
    if arguments.get("home") == "yes":
        head.home = number
        device.params.set(HOME_PARAMETER, number)


def _existing(value: str, head: Head | None) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 256 or (head is not None and int(value) not in head.presets):
        raise Wrong(f"no such preset: {value}")
    return int(value)


# --- ptzqueue.cgi ------------------------------------------------------------------------------------------------------


@api(QUEUE_CGI, level="viewer", ptz=True, needs="ptz")
async def ptzqueue(device: Device, request: Request) -> Response:
    """Who may move the head, where control has to be asked for. The answer's fields are anchors."""
    if not device.params.flag("PTZ.Various.V1.CtlQueueing"):
        return Response.text("Error:ptz control queueing is not enabled\n")
    head, control = head_of(device), request.query.get("control", "")
    new = device.params.flag("PTZ.UserCtlQueue.U0.UseCookie") and _cookie(request) is None
    member = f"cookie-{device.random.getrandbits(48):x}" if new else _member(device, request)
    match control:
        case "request":
            head.request(member, device.params.number("PTZ.UserCtlQueue.U0.TimeoutTime", 60))
        case "drop":
            head.drop(member)
        case "query":
            pass
        case _:
            return Response.text(f"Error:control: unknown value: {control}\n")
    fields = (
        head.place_in_queue(member),
        head.seconds_left(member),
        device.params.number("PTZ.Various.V1.CtlQueuePollTime", 20),
    )
    body = "".join(f'<a name="{field}"></a>' for field in fields)
    headers = {"Set-Cookie": f"ptz_ctl_id={member.removeprefix('cookie-')}; path=/"} if new else {}
    return Response(200, f"<html><body>{body}</body></html>\n".encode(), "text/html", headers)


def _cookie(request: Request) -> str | None:
    try:
        morsel = SimpleCookie(request.headers.get("cookie", "")).get("ptz_ctl_id")
    except CookieError:
        return None
    return morsel.value if morsel else None


def _member(device: Device, request: Request) -> str:
    cookie = _cookie(request)
    if device.params.flag("PTZ.UserCtlQueue.U0.UseCookie") and cookie is not None:
        return f"cookie-{cookie}"
    return f"{request.account.name}@{request.client.rpartition(':')[0] or request.client}"
