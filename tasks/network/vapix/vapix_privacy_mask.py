"""Privacy masks of Axis cameras: what is covered, covering more, and uncovering with approval."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from tasks.core.errors import Conflict, InvalidParameters, NotFound, Rejected, ToolError, Unanswered, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.vapix import _masks_reading as reading
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import (
    CameraEntry,
    CameraOutcome,
    CamerasResult,
    each_camera,
    entry,
    fitting,
    only_one,
)
from tasks.network.vapix._masks import NAME_LENGTH, Corner, Mask, others_changed
from tasks.network.vapix._masks_reading import MaskApi, State
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._wire import Declined, Nonsense

SECONDS = 90.0
TIMEOUT_SECONDS = fleet_timeout(SECONDS)
SLACK_SHARE = 0.01
"""Share of the picture by which a corner may be elsewhere than asked: cameras round to blocks of pixels."""


class MaskAction(StrEnum):
    """What to do."""

    LIST = "list"
    ADD = "add"
    CHANGE = "change"
    ENABLE = "enable"
    DISABLE = "disable"
    REMOVE = "remove"


_PERCENT = ("width", "height", "center_x", "center_y")
_PLACE = (*_PERCENT, "polygon", "window")
_ALLOWED: dict[MaskAction, tuple[str, ...]] = {
    MaskAction.LIST: (),
    MaskAction.ADD: ("name", "source", *_PLACE),
    MaskAction.CHANGE: ("name", "zoom_low_limit", *_PLACE),
    MaskAction.ENABLE: ("name",),
    MaskAction.DISABLE: ("name",),
    MaskAction.REMOVE: ("name",),
}
_OWN = ("name", "source", "zoom_low_limit", *_PLACE)

Point = Annotated[str, StringConstraints(pattern=r"^\d{1,5},\d{1,5}$")]
Rectangle = Annotated[str, StringConstraints(pattern=r"^\d{1,5},\d{1,5},\d{1,5},\d{1,5}$")]


class VapixPrivacyMask(CameraParams):
    """Which masks to list, add, change or remove."""

    action: MaskAction = Field(
        MaskAction.LIST,
        description="list; add a mask; change one's place or zoom limit; enable, disable or remove one. All at once is not offered.",
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=NAME_LENGTH,
        description=f"Name of the mask, exactly; 1 to {NAME_LENGTH} characters.",
    )
    width: float | None = Field(None, gt=0, le=100, description="Width, percent of the picture, above 0 to 100.")
    height: float | None = Field(None, gt=0, le=100, description="Height, percent of the picture, above 0 to 100.")
    center_x: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Its middle, percent from the left edge, 0 to 100; the picture's middle when left out.",
    )
    center_y: float | None = Field(None, ge=0, le=100, description="Its middle, percent from the upper edge, 0 to 100.")
    polygon: list[Point] | None = Field(
        None,
        min_length=3,
        max_length=64,
        description="Instead of a rectangle: its corners as x,y in pixels at the largest resolution and rotation 0, 3 to 64 of them.",
    )
    window: Rectangle | None = Field(
        None,
        description="For older cameras that keep masks in MaskWindows parameters: x,y,width,height in the camera's own unit; list shows "
        "those of present masks.",
    )
    zoom_low_limit: int | None = Field(
        None, ge=0, le=19999, description="For change: least zoom at which it is shown, 0 to 19999; for PTZ cameras."
    )
    source: int = Field(1, ge=1, le=8, description="For add: sensor of the camera, 1 to 8; 1 is the first.")

    @field_validator("action", mode="before")
    @classmethod
    def _one_at_a_time(cls, action: Any) -> Any:
        if str(action).lower().replace("-", "_") in {"disable_all", "enable_all", "remove_all", "delete_all"}:
            raise ValueError(
                "all masks at once are never switched or removed; name one: action disable or remove, and name"
            )
        return action

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        allowed = _ALLOWED[self.action]
        for name in _OWN:
            if name not in allowed and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning for {self.action}")
        if self.action is MaskAction.LIST:
            return self
        if self.name is None:
            raise ValueError(f"{self.action} needs name")
        if not self.name.isprintable() or self.name != self.name.strip():
            raise ValueError("name must be printable, without space at its ends")
        only_one(self, self.action)
        ways = [bool(self.percents), self.polygon is not None, self.window is not None]
        if sum(ways) > 1:
            raise ValueError("a place is given in one way: width and height in percent, or polygon, or window")
        if self.action is MaskAction.ADD and not any(ways):
            raise ValueError("add needs a place: width and height in percent, or polygon, or window")
        if self.action is MaskAction.ADD and ways[0] and (self.width is None or self.height is None):
            raise ValueError("add needs width and height, both")
        if self.action is MaskAction.CHANGE and not any(ways) and self.zoom_low_limit is None:
            raise ValueError(
                "change needs what to change: width, height, center_x with center_y, polygon, window or zoom_low_limit"
            )
        if (self.center_x is None) is not (self.center_y is None):
            raise ValueError("center_x and center_y go together")
        return self

    @property
    def percents(self) -> dict[str, float]:
        """What is given in percent."""
        return {name: value for name in _PERCENT if (value := getattr(self, name)) is not None}

    @property
    def corners(self) -> list[Corner]:
        """The polygon's corners."""
        pairs = [point.split(",") for point in self.polygon or []]
        return [Corner(x=int(x), y=int(y)) for x, y in pairs]

    def safety(self) -> Safety | None:
        match self.action:
            case MaskAction.LIST:
                return None
            case MaskAction.ADD:
                # Needs no approval: it uncovers nothing (a name that is taken is refused, and the other masks are compared
                # afterwards), and is undone by removing the one mask.
                return Safety.CHANGE
            case _:
                return Safety.DESTROY

    def approval(self) -> bool:
        return self.safety() is Safety.DESTROY

    def thing(self) -> str | None:
        return self.name

    def about(self) -> str:
        return f"{super().about()[:340]}: {self.action} {self.name or ''}".rstrip()

    def deadline(self) -> float:
        return fleet_timeout(SECONDS, len(self.targets))


class CameraMasks(CameraEntry):
    """The privacy masks of one camera."""

    api: str | None = Field(None, description="Where they were read.")
    masks: list[Mask] = Field(default_factory=list, description="Its masks; after a change as they are now.")
    most: int | None = Field(None, description="How many it can have; None when it does not say.")
    before: list[Mask] | None = Field(
        None, description="Its masks before a change; None when nothing was to be changed."
    )
    remarks: list[str] = Field(default_factory=list, description="What else there is to know.")


class PrivacyMaskResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraMasks] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraMasks) -> str:
        if camera.outcome is not CameraOutcome.DONE:
            return super().one_line(camera)
        shown = [f"{mask.name}{' (off)' if mask.enabled is False else ''}" for mask in camera.masks]
        said = f"{camera.target}: {count(len(shown), 'mask')}{': ' if shown else ''}{', '.join(shown[:8])}{', ...' if shown[8:] else ''}"
        return said if camera.before is None else f"{said} (before: {len(camera.before)})"


@dataclass
class _Found:
    """What is told of one camera."""

    api: str
    masks: list[Mask]
    most: int | None = None
    before: list[Mask] | None = None
    remarks: list[str] = field(default_factory=list)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("axis_vapix_privacy_mask",),
    examples=[
        Example(
            "What is covered on two cameras?", {"targets": ["10.0.7.11", "10.0.7.12"], "credentials": "axis/admin"}
        ),
        Example(
            "Cover the middle of the left half",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/admin",
                "action": "add",
                "name": "Neighbour",
                "width": 20,
                "height": 30,
                "center_x": 25,
                "center_y": 50,
            },
        ),
        Example(
            "Cover a triangle",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/admin",
                "action": "add",
                "name": "Gable",
                "polygon": ["100,100", "700,100", "400,500"],
            },
        ),
        Example(
            "Remove a mask",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/admin",
                "action": "remove",
                "name": "Gable",
                "confirm": "10.0.7.11 Gable",
            },
        ),
    ],
)
async def vapix_privacy_mask(params: VapixPrivacyMask) -> PrivacyMaskResult:
    """List the privacy masks of cameras; add, change, switch or remove one.

    Takes an account of level admin; where a camera keeps its masks in parameters, an operator may read them.

    Adding is a change: it covers, and uncovers nothing. What may uncover an area is at the level destroy and needs approval: `change`,
    `enable`, `disable` and `remove`; `confirm` is the target, a space, and the mask's name. All masks at once are never switched or
    removed. One mask can be switched only where the camera has it as a parameter (older fixed cameras).

    Every change reads the masks before and after. A mask that is not as asked afterwards, or another one that changed, is an error that
    says what is uncovered. The result has the masks before and now.

    Raises:
        Unsupported: The (only) camera has no masks, or not what was asked of them.
        Forbidden: The account's level is too low.
        NotFound: There is no mask of this name.
        Conflict: There is one of this name already, or as many as there can be.
        InvalidParameters: A corner is outside the picture, or there are too many.
        Rejected: The camera refused it, or it did not come about: then the message says what is covered and what is not.
    """

    async def work(camera: Camera) -> _Found:
        before = await reading.read(camera)
        act = _ACTIONS.get(params.action)
        if act is None:
            return _Found(str(before.api), before.masks, before.limits.most, remarks=before.remarks)
        return await _changed(camera, params, before, act)

    seen = await each_camera(params, work, seconds=SECONDS)
    cameras = [entry(CameraMasks, one, **(vars(one.value) if one.value is not None else {})) for one in seen]
    return await fitting(PrivacyMaskResult(cameras=cameras), ["before", "masks", "remarks"])


# --- changes ---------------------------------------------------------------------------------------------------------

Act = Callable[[Camera, VapixPrivacyMask, State], Awaitable[None]]


async def _changed(camera: Camera, params: VapixPrivacyMask, before: State, act: Act) -> _Found:
    """Check, do it, read back, and compare: with what was asked, and all others with what they were."""
    assert params.name is not None
    present = [mask for mask in before.masks if mask.name == params.name]
    if params.action is MaskAction.ADD:
        _check_room(camera, params, before, present)
    elif not present:
        there = ", ".join(mask.name for mask in before.masks)[:300] or "none"
        raise NotFound(f"{camera.asked} has no mask {params.name!r}.", hint=f"Its masks: {there}.")
    elif len(present) > 1:
        raise Conflict(
            f"{camera.asked} has {len(present)} masks {params.name!r}, and which one is meant cannot be said."
        )
    unclear: Declined | Nonsense | None = None
    try:
        await act(camera, params, before)
    except Unanswered as lost:
        raise await _as_it_is(camera, lost) from None
    except (Declined, Nonsense) as answer:
        unclear = answer  # part of it may hold all the same: each parameter stands alone
    try:
        after = await reading.read(camera)
    except ToolError as problem:
        said = f" The camera's answer to it: {unclear.message}" if unclear is not None else ""
        raise type(problem)(
            f"{params.action} {params.name!r} was sent to {camera.asked}, but whether it holds could not be read back: "
            f"{problem.message}{said}",
            hint="Look at the picture, and list the masks again.",
        ) from None
    found = _Found(str(after.api), after.masks, after.limits.most, before.masks, list(after.remarks))
    comparable = after.api is before.api and not before.limits.turns
    if unclear is not None:
        if not others_changed(before.masks, after.masks, besides="", with_positions=comparable):
            raise unclear
        found.remarks.append(f"{unclear.message} The masks were read all the same.")
    changed = others_changed(before.masks, after.masks, besides=params.name, with_positions=comparable)
    mine = _difference(params, present[0] if present else None, after, found.remarks)
    if mine or changed:
        problems = [*([mine] if mine else []), *(f"WITHOUT BEING ASKED: {change}" for change in changed)]
        answered = unclear.message.rstrip(".") if unclear is not None else "the camera says it is done"
        raise Rejected(
            f"{params.action} {params.name!r} on {camera.asked}: {answered}, but {'; '.join(problems)[:600]}.",
            hint=f"Masks now: {_listed(after.masks)}. Before: {_listed(before.masks)}.",
        )
    return found


def _check_room(camera: Camera, params: VapixPrivacyMask, before: State, present: list[Mask]) -> None:
    if present:
        raise Conflict(
            f"{camera.asked} has a mask {params.name!r} already.", hint="Choose another name, or change that one."
        )
    most = before.limits.most
    if most is not None and len(before.masks) >= most:
        raise Conflict(f"{camera.asked} has {len(before.masks)} of {most} masks already.")


async def _as_it_is(camera: Camera, lost: Unanswered) -> ToolError:
    """Say after a lost answer how the masks are now, when the camera still tells."""
    try:
        now = await reading.read(camera)
    except ToolError:
        return lost
    return Unanswered(f"{lost.message} Its masks are now: {_listed(now.masks)}.", hint=lost.hint)


def _listed(masks: list[Mask]) -> str:
    shown = ", ".join(f"{mask.name!r}{' (off)' if mask.enabled is False else ''}" for mask in masks[:24])
    return shown or "none"


async def _add(camera: Camera, params: VapixPrivacyMask, before: State) -> None:
    assert params.name is not None
    if params.window is not None:
        group = f"Image.I{params.source - 1}.Overlay.MaskWindows"
        inside = {"Enabled": "yes", "Name": params.name, **_window(params)}
        await _check_window(camera, before, params)
        await camera.add_parameters(
            f"{params.source - 1}_maskwindows", group, {f"{group}.M.{key}": value for key, value in inside.items()}
        )
        return
    query = {
        "action": "add",
        "name": params.name,
        "imagesource": str(params.source - 1),
        **_place(camera, params, before),
    }
    await camera.text(reading.PATH, query, write=True)


async def _change(camera: Camera, params: VapixPrivacyMask, before: State) -> None:
    assert params.name is not None
    mask = next(mask for mask in before.masks if mask.name == params.name)
    if before.api is MaskApi.TEXT:
        raise Unsupported(
            f"{camera.asked} tells only the names of its masks: whether a change holds could not be read back.",
            hint="Nothing was sent.",
        )
    if params.window is not None or (params.zoom_low_limit is not None and not before.limits.cgi):
        if mask.window is None:
            raise Unsupported(
                f"{camera.asked} does not keep mask {params.name!r} in parameters.",
                hint="Give width and height, or polygon.",
            )
        values = _window(params) if params.window is not None else {}
        if params.zoom_low_limit is not None:
            values["ZoomLowLimit"] = str(params.zoom_low_limit)
        await _check_window(camera, before, params)
        await camera.set_parameters({f"{mask.window.group}.{key}": value for key, value in values.items()})
        return
    query = {"action": "update", "name": params.name, **_place(camera, params, before)}
    if params.zoom_low_limit is not None:
        query["zoomlowlimit"] = str(params.zoom_low_limit)
    await camera.text(reading.PATH, query, write=True)


async def _switch(camera: Camera, params: VapixPrivacyMask, before: State) -> None:
    mask = next(mask for mask in before.masks if mask.name == params.name)
    if mask.window is None:
        raise Unsupported(
            f"{camera.asked} cannot switch a single mask: it does not keep {params.name!r} in parameters.",
            hint="Remove the mask, or add it again. The main switch of all masks is not offered.",
        )
    await camera.set_parameters({f"{mask.window.group}.Enabled": "yes" if params.action is MaskAction.ENABLE else "no"})


async def _remove(camera: Camera, params: VapixPrivacyMask, before: State) -> None:
    assert params.name is not None
    mask = next(mask for mask in before.masks if mask.name == params.name)
    if before.limits.cgi:
        await camera.text(reading.PATH, {"action": "remove", "name": params.name}, write=True)
    else:
        assert mask.window is not None
        await camera.remove_parameters(mask.window.group)


_ACTIONS: dict[MaskAction, Act] = {
    MaskAction.ADD: _add,
    MaskAction.CHANGE: _change,
    MaskAction.ENABLE: _switch,
    MaskAction.DISABLE: _switch,
    MaskAction.REMOVE: _remove,
}


# --- places ----------------------------------------------------------------------------------------------------------


def _place(camera: Camera, params: VapixPrivacyMask, before: State) -> dict[str, str]:
    """The place as privacymask.cgi takes it."""
    limits = before.limits
    if not limits.cgi:
        raise Unsupported(
            f"{camera.asked} keeps its masks in parameters only.",
            hint="Give window: x,y,width,height; list shows those there are.",
        )
    if params.polygon is not None:
        corners = params.corners
        if not limits.polygon:
            raise Unsupported(f"{camera.asked} has rectangles only.", hint="Give width and height.")
        if limits.corners is not None and len(corners) > limits.corners:
            raise InvalidParameters(
                f"polygon: {camera.asked} takes at most {limits.corners} corners, not {len(corners)}."
            )
        if limits.size is not None:
            wide, high = limits.size
            outside = [f"{corner.x},{corner.y}" for corner in corners if corner.x > wide or corner.y > high]
            if outside:
                raise InvalidParameters(
                    f"polygon: {outside[0]} is outside the picture of {wide} x {high} pixels.",
                    hint="Corners are in pixels at the largest resolution.",
                )
        return {"pxpolygon": ":".join(f"{corner.x},{corner.y}" for corner in corners)}
    place = {name: f"{value:g}" for name in ("width", "height") if (value := getattr(params, name)) is not None}
    if params.center_x is not None:
        place["center"] = f"{params.center_x:g},{params.center_y:g}"
    return place


def _window(params: VapixPrivacyMask) -> dict[str, str]:
    assert params.window is not None
    return dict(zip(("XPos", "YPos", "Width", "Height"), params.window.split(","), strict=True))


async def _check_window(camera: Camera, before: State, params: VapixPrivacyMask) -> None:
    """Check numbers against the ranges the camera gives for a present mask: what its unit is, only it knows."""
    group = next((mask.window.group for mask in before.masks if mask.window is not None), None)
    if group is None or params.window is None:
        return
    definitions = await camera.definitions(group)
    for key, value in _window(params).items():
        definition = definitions.get(f"{group}.{key}")
        if definition is None:
            continue
        low, high = definition.minimum, definition.maximum
        if (low is not None and int(value) < low) or (high is not None and int(value) > high):
            raise InvalidParameters(f"window: {camera.asked} takes {low} to {high} for {key}, not {value}.")


def _difference(params: VapixPrivacyMask, before: Mask | None, after: State, remarks: list[str]) -> str | None:
    """Say how the mask that was acted on differs from what was asked; None when it does not."""
    mask = next((mask for mask in after.masks if mask.name == params.name), None)
    if params.action is MaskAction.REMOVE:
        return "THE MASK IS STILL THERE" if mask is not None else None
    if mask is None:
        return "THE MASK IS NOT THERE: NOTHING IS COVERED BY IT"
    if params.action is MaskAction.DISABLE:
        return "the mask is still on" if mask.enabled is not False else None
    if params.action is MaskAction.ENABLE:
        return "THE MASK IS OFF: NOTHING IS COVERED BY IT" if mask.enabled is not True else None
    if params.action is MaskAction.ADD and mask.enabled is False:
        return "THE MASK IS OFF (is the main switch of all masks off?): NOTHING IS COVERED BY IT"
    if before is not None and before.enabled is not False and mask.enabled is False:
        return "THE MASK IS OFF NOW: NOTHING IS COVERED BY IT"
    if params.zoom_low_limit is not None and mask.zoom_low_limit not in (None, params.zoom_low_limit):
        return f"its zoom limit is {mask.zoom_low_limit}, not {params.zoom_low_limit}"
    if params.window is not None and mask.window is not None:
        window = mask.window
        is_now = ",".join(str(value) for value in (window.x, window.y, window.width, window.height))
        return (
            None
            if is_now == ",".join(str(int(n)) for n in params.window.split(","))
            else f"IT COVERS {is_now}, NOT {params.window}"
        )
    return _misplaced(params, mask, after, remarks)


def _misplaced(params: VapixPrivacyMask, mask: Mask, after: State, remarks: list[str]) -> str | None:
    asked = _box_asked(params, mask, after)
    if asked is None:
        return None
    if after.limits.turns:
        remarks.append("Where it is in the picture depends on where the camera looks: its place was not compared.")
        return None
    if not mask.corners or after.limits.size is None:
        remarks.append("The camera does not say where the mask is: look at the picture.")
        return None
    now = _box(mask.corners)
    slack = [max(4.0, SLACK_SHARE * edge) for edge in after.limits.size]
    left, top, right, low = (now[0] - asked[0], now[1] - asked[1], asked[2] - now[2], asked[3] - now[3])
    if max(left, right) > slack[0] or max(top, low) > slack[1]:
        return f"IT COVERS {_shown(now)}, NOT ALL OF {_shown(asked)} (pixels)"
    if min(left, right) < -slack[0] or min(top, low) < -slack[1]:
        remarks.append(f"It covers more than was asked: {_shown(now)} in place of {_shown(asked)} (pixels).")
    return None


Box = tuple[float, float, float, float]


def _box_asked(params: VapixPrivacyMask, mask: Mask, after: State) -> Box | None:
    """The rectangle around what was asked for, pixels; None when no place was."""
    if params.polygon is not None:
        return _box(params.corners)
    if after.limits.size is None or not params.percents:
        return None
    wide, high = after.limits.size
    now = _box(mask.corners) if mask.corners else (0.0, 0.0, 0.0, 0.0)
    # What was left out stays as it is, or is in the middle for a new one; either way the camera's own word stands for it.
    width = (now[2] - now[0]) if params.width is None else params.width / 100 * wide
    height = (now[3] - now[1]) if params.height is None else params.height / 100 * high
    x = (now[0] + now[2]) / 2 if params.center_x is None else params.center_x / 100 * wide
    y = (now[1] + now[3]) / 2 if params.center_y is None else params.center_y / 100 * high
    return max(0, x - width / 2), max(0, y - height / 2), min(wide, x + width / 2), min(high, y + height / 2)


def _box(corners: list[Corner]) -> Box:
    xs, ys = [corner.x for corner in corners], [corner.y for corner in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _shown(box: Box) -> str:
    return f"{box[0]:.0f},{box[1]:.0f} to {box[2]:.0f},{box[3]:.0f}"
