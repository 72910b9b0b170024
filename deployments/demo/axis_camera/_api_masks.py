"""Privacy masks: `privacymask.cgi` (family B), and the `MaskWindows` parameters of older fixed cameras, which show the same masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._parameters import Template, parse
from deployments.demo.axis_camera._profiles import MASK_WINDOW
from deployments.demo.axis_camera._server import api

GROUP = "Image.I0.Overlay.MaskWindows"
TEMPLATE = "0_maskwindows"
Point = tuple[int, int]
_KNOWN = {
    "action",
    "query",
    "name",
    "imagesource",
    "width",
    "height",
    "center",
    "pxpolygon",
    "zoomlowlimit",
    "responseformat",
}


class MaskRefusal(Exception):
    """The device says no, in these words."""


@dataclass
class Mask:
    """A privacy mask, by its corners in pixels at the largest resolution."""

    mask_id: int
    name: str
    corners: list[Point] = field(default_factory=list)
    enabled: bool = True
    zoom_low_limit: int = 1


@dataclass
class Geometry:
    """What a request says of a mask's place; None for what it leaves as it is."""

    corners: list[Point] | None = None
    width: float | None = None
    height: float | None = None
    center: tuple[float, float] | None = None
    zoom_low_limit: int | None = None


class Masks:
    """The masks of one camera: `device.slot(Masks)`. Where it has `MaskWindows` parameters they are there, else here.

    Attributes:
        main_switch: Whether masks are shown at all.
        swallow: Requests that are answered as done and not done: tests of those who read back.
        spill: What a change does to another mask besides, by its name: a firmware nobody wants.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.main_switch = True
        self.swallow = 0
        self.spill: str | None = None
        self._own: list[Mask] = []
        if self.by_parameters or device.has("mask-cgi"):
            self.add(device.names.get("mask", "Window"), [(100, 100), (400, 100), (400, 300), (100, 300)])

    @property
    def by_parameters(self) -> bool:
        """Whether the masks are parameters."""
        return TEMPLATE in self.device.params.templates

    @property
    def size(self) -> tuple[int, int]:
        """The largest resolution, pixels."""
        match = re.match(r"(\d+)x(\d+)", self.device.params.get("Properties.Image.Resolution"))
        return (int(match[1]), int(match[2])) if match else (1920, 1080)

    @property
    def most(self) -> int:
        return self.device.params.number("Properties.PrivacyMask.MaxNbrOfPrivacyMasks", 8)

    def all(self) -> list[Mask]:
        """The masks there are, by their numbers."""
        if not self.by_parameters:
            return [
                Mask(m.mask_id, m.name, m.corners, m.enabled and self.main_switch, m.zoom_low_limit) for m in self._own
            ]
        params = self.device.params
        found = []
        for entry in params.entries(GROUP, "M"):
            inner = f"{GROUP}.{entry}"
            x, y = params.number(f"{inner}.XPos"), params.number(f"{inner}.YPos")
            right, low = x + params.number(f"{inner}.Width"), y + params.number(f"{inner}.Height")
            found.append(
                Mask(
                    int(entry[1:]),
                    params.get(f"{inner}.Name"),
                    [(x, y), (right, y), (right, low), (x, low)],
                    params.flag(f"{inner}.Enabled") and self.main_switch,
                    params.number(f"{inner}.ZoomLowLimit", 1),
                )
            )
        return found

    def named(self, name: str) -> Mask:
        """The mask of that name.

        Raises:
            MaskRefusal: There is none.
        """
        found = next((mask for mask in self.all() if mask.name == name), None)
        if found is None:
            raise MaskRefusal("No such mask")
        return found

    def add(self, name: str, corners: list[Point], zoom_low_limit: int = 1) -> None:
        """Mask an area.

        Raises:
            MaskRefusal: There is one of this name, or no room.
        """
        present = self.all()
        if any(mask.name == name for mask in present):
            raise MaskRefusal("Mask name already exists")
        if len(present) >= self.most:
            raise MaskRefusal("Maximum number of masks reached")
        if self.by_parameters:
            values = {"Name": name, "Enabled": "yes", "ZoomLowLimit": str(zoom_low_limit), **_window(corners)}
            self.device.params.add_entry(TEMPLATE, values)
            return
        number = next(n for n in range(len(present) + 1) if n not in {mask.mask_id for mask in present})
        self._own.append(Mask(number, name, corners, zoom_low_limit=zoom_low_limit))
        self._own.sort(key=lambda mask: mask.mask_id)

    def change(self, name: str, corners: list[Point] | None, zoom_low_limit: int | None) -> None:
        """Move a mask, or show it from another zoom on."""
        mask = self.named(name)
        if self.by_parameters:
            inner = f"{GROUP}.M{mask.mask_id}"
            for key, value in (_window(corners) if corners is not None else {}).items():
                self.device.params.set(f"{inner}.{key}", value)
            if zoom_low_limit is not None:
                self.device.params.set(f"{inner}.ZoomLowLimit", zoom_low_limit)
            return
        own = next(one for one in self._own if one.name == name)
        own.corners = own.corners if corners is None else corners
        own.zoom_low_limit = own.zoom_low_limit if zoom_low_limit is None else zoom_low_limit

    def remove(self, name: str) -> None:
        """Uncover what a mask covered."""
        mask = self.named(name)
        if self.by_parameters:
            self.device.params.remove_entry(f"{GROUP}.M{mask.mask_id}")
        else:
            self._own = [one for one in self._own if one.name != name]

    # --- geometry --------------------------------------------------------------------------------------------------------

    def rectangle(self, geometry: Geometry, present: list[Point] | None = None) -> list[Point] | None:
        """Corners of what a request describes; what it leaves out is as it is, or in the middle. None when it says nothing."""
        if geometry.corners is not None:
            return geometry.corners
        if geometry.width is None and geometry.height is None and geometry.center is None:
            return None
        wide, high = self.size
        xs, ys = [x for x, _ in present or [(0, 0)]], [y for _, y in present or [(0, 0)]]
        width = geometry.width if geometry.width is not None else 100 * (max(xs) - min(xs)) / wide
        height = geometry.height if geometry.height is not None else 100 * (max(ys) - min(ys)) / high
        middle = (50 * (max(xs) + min(xs)) / wide, 50 * (max(ys) + min(ys)) / high) if present else (50.0, 50.0)
        x, y = geometry.center if geometry.center is not None else middle
        left, right = (min(max(round((x + sign * width / 2) / 100 * wide), 0), wide) for sign in (-1, 1))
        top, low = (min(max(round((y + sign * height / 2) / 100 * high), 0), high) for sign in (-1, 1))
        return [(left, top), (right, top), (right, low), (left, low)]


@on_create
def masks(device: Device) -> None:
    """Give fixed cameras before 10 their mask parameters beside the CGI, and put the installer's mask there."""
    if device.has("mask-cgi") and device.firmware.startswith("9."):
        device.params.templates[TEMPLATE] = Template("Image.I0.Overlay.MaskWindows", "M", parse(MASK_WINDOW), 8, 6)
    if TEMPLATE in device.params.templates:
        device.slot(Masks)


@api("/axis-cgi/privacymask.cgi", level="admin", methods=("GET",), needs="mask-cgi")
async def privacymask(device: Device, request: Request) -> Response:
    asked = request.query
    try:
        unknown = [name for name, _ in request.pairs if name not in _KNOWN]
        if unknown:
            raise MaskRefusal(f"Unknown argument '{unknown[0]}'")
        if "query" in asked:
            return _answer(device.slot(Masks), asked)
        _act(device.slot(Masks), asked)
    except MaskRefusal as no:
        return Response.text(f"Error:{no}\n")
    return Response.empty()


def _answer(state: Masks, asked: Mapping[str, str]) -> Response:
    query = asked["query"]
    if query not in state.device.params.get("Properties.PrivacyMask.Query").split(","):
        raise MaskRefusal("Invalid query")
    match query:
        case "listpxjson":
            rows = [
                {
                    "id": mask.mask_id,
                    "name": mask.name,
                    "enabled": mask.enabled,
                    "zoomlowlimit": mask.zoom_low_limit,
                    "position": _points(mask),
                }
                for mask in state.all()
            ]
            return Response.json({"listpx": rows})
        case "positionpxjson":
            return Response.json({"position": _points(state.named(asked.get("name", "")))})
        case "list":  # how a line looks is unproven
            return Response.text(
                "".join(f"{mask.name}\n" for mask in state.all()), charset=state.device.profile.charset
            )
    corners = state.named(asked.get("name", "")).corners
    return Response.text(":".join(f"{x},{y}" for x, y in corners) + "\n")


def _points(mask: Mask) -> list[dict[str, int]]:
    return [{"x": x, "y": y} for x, y in mask.corners]


def _act(state: Masks, asked: Mapping[str, str]) -> None:
    action, name = asked.get("action", ""), asked.get("name", "")
    switch = {"enable_all": True, "disable_all": False}
    if action in switch:
        if not state.device.params.flag("Properties.PrivacyMask.MainSwitch"):
            raise MaskRefusal("Unknown action")
        state.main_switch = switch[action]
        return
    if action not in ("add", "update", "remove", "goto"):
        raise MaskRefusal("Unknown action")
    if action == "goto" and not state.device.has("ptz"):
        raise MaskRefusal("Not supported")
    if not name:
        raise MaskRefusal("Missing name")
    if len(name) > 128:
        raise MaskRefusal("Name is too long")
    geometry = _geometry(state, asked)
    if action != "add":
        present = state.named(name)
    elif "imagesource" in asked and asked["imagesource"] != "0":
        raise MaskRefusal("Invalid imagesource")
    if state.swallow:
        state.swallow -= 1
        return
    match action:
        case "add":
            corners = state.rectangle(geometry)
            if (geometry.corners is None and (geometry.width is None or geometry.height is None)) or corners is None:
                raise MaskRefusal("Missing width or height")
            state.add(name, corners, geometry.zoom_low_limit or 1)
        case "update":
            state.change(name, state.rectangle(geometry, present.corners), geometry.zoom_low_limit)
        case "remove":
            state.remove(name)
    if state.spill is not None:
        state.remove(state.spill)
        state.spill = None


def _geometry(state: Masks, asked: Mapping[str, str]) -> Geometry:
    made = Geometry(width=_percent(asked, "width"), height=_percent(asked, "height"))
    if "center" in asked:
        x, _, y = asked["center"].partition(",")
        made.center = _number(x, 100), _number(y, 100)
    if "zoomlowlimit" in asked:
        made.zoom_low_limit = int(_number(asked["zoomlowlimit"], 19999))
    if "pxpolygon" in asked:
        params = state.device.params
        if not params.flag("Properties.PrivacyMask.Polygon"):
            raise MaskRefusal("Polygon is not supported")
        pairs = [pair.split(",") for pair in asked["pxpolygon"].split(":")]
        most = params.number("Properties.PrivacyMask.MaxNbrOfCorners", 4)
        if not 3 <= len(pairs) <= most or any(len(pair) != 2 for pair in pairs):
            raise MaskRefusal("Invalid number of corners")
        wide, high = state.size
        made.corners = [(int(_number(x, wide)), int(_number(y, high))) for x, y in pairs]
    return made


def _percent(asked: Mapping[str, str], name: str) -> float | None:
    return _number(asked[name], 100) if name in asked else None


def _number(text: str, most: float) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) or float(text) > most:
        raise MaskRefusal(f"Invalid value '{text[:20]}'")
    return float(text)


def _window(corners: list[Point]) -> dict[str, str]:
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return {
        "XPos": str(min(xs)),
        "YPos": str(min(ys)),
        "Width": str(max(xs) - min(xs)),
        "Height": str(max(ys) - min(ys)),
    }
