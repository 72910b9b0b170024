"""`vapix_ptz_control`: where cameras point, and moving one of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import Conflict, InvalidParameters, NotFound, Rejected, ToolError, Unanswered, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._ptz_moving import (
    LONGEST_STOP,
    STOPPED_SECONDS,
    command,
    confirm_stopped,
    drive,
    in_control,
    missed,
    stop,
    surely,
    wait_for_rest,
)
from tasks.network.vapix._ptz_reading import (
    MOTORS,
    PTZ_CONFIG,
    Head,
    Means,
    Position,
    find_preset,
    home_parameter,
    queue,
    read_auxiliaries,
    read_driver,
    read_home,
    read_means,
    read_place,
    read_position,
    read_presets,
    read_speed,
    read_zoom_steps,
)
from tasks.network.vapix._ptz_text import Preset, QueueState, ZoomStep

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

MOST_SECONDS: Final = 10.0
"""Longest continuous move: nobody watches it but us."""
QUESTIONS_SECONDS: Final = 60.0
"""For the questions before a move and after it."""
_FORBIDDEN = frozenset('"<>~:')


class PtzAction(StrEnum):
    """What to do."""

    CAPABILITIES = "capabilities"
    POSITION = "position"
    PRESETS = "presets"
    QUEUE = "queue"
    STOP = "stop"
    SPEED = "speed"
    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    CONTINUOUS = "continuous"
    HOME = "home"
    LENS = "lens"
    AUXILIARY = "auxiliary"
    PRESET_GO = "preset_go"
    PRESET_SET = "preset_set"
    PRESET_REMOVE = "preset_remove"


_READING = frozenset({PtzAction.CAPABILITIES, PtzAction.POSITION, PtzAction.PRESETS, PtzAction.QUEUE})
_AXES = ("pan", "tilt", "zoom", "focus", "iris")
_TAKES: Mapping[PtzAction, tuple[str, ...]] = {
    PtzAction.ABSOLUTE: ("pan", "tilt", "zoom", "magnification", "speed", "settle"),
    PtzAction.RELATIVE: (*_AXES, "speed", "settle"),
    PtzAction.CONTINUOUS: (*_AXES, "seconds"),
    PtzAction.HOME: ("speed", "settle"),
    PtzAction.LENS: ("focus", "iris", "autofocus", "autoiris", "settle"),
    PtzAction.SPEED: ("speed",),
    PtzAction.AUXILIARY: ("auxiliary",),
    PtzAction.PRESET_GO: ("preset", "speed", "settle"),
    PtzAction.PRESET_SET: ("preset", "home"),
    PtzAction.PRESET_REMOVE: ("preset",),
}
_OWN = (*_AXES, "magnification", "seconds", "autofocus", "autoiris", "speed", "preset", "home", "auxiliary")


class VapixPtzControl(CameraParams):
    """Parameters of `vapix_ptz_control`."""

    action: PtzAction = Field(
        PtzAction.CAPABILITIES,
        description="capabilities, position, presets and queue read, from many cameras. stop and speed change, preset_set stores where "
        "it points. absolute, relative, continuous, home, lens, auxiliary and preset_go move one camera and preset_remove removes: "
        "they need `confirm`.",
    )
    view: int = Field(1, ge=1, le=64, description="View of the camera, 1 to 64; most have one.")
    pan: float | None = Field(
        None,
        ge=-360,
        le=360,
        description="absolute: degrees, -180 to 180. relative: degrees to turn, to the right positive, -360 to 360. "
        "continuous: percent of full speed, whole, -100 to 100.",
    )
    tilt: float | None = Field(
        None,
        ge=-360,
        le=360,
        description="absolute: degrees, -180 to 180. relative: degrees, upwards positive, -360 to 360. "
        "continuous: percent of full speed, whole, -100 to 100.",
    )
    zoom: int | None = Field(
        None,
        ge=-9999,
        le=19999,
        description="absolute: device steps, 1 to 19999 (no magnification). relative: steps, -9999 to 9999. "
        "continuous: percent of full speed, -100 to 100.",
    )
    magnification: float | None = Field(
        None,
        ge=1,
        le=200,
        description="absolute, instead of `zoom`: times, 1 to 200; only values the camera itself lists.",
    )
    focus: int | None = Field(
        None,
        ge=-9999,
        le=9999,
        description="lens: device steps, 1 to 9999. relative: steps, -9999 to 9999. continuous: percent, -100 to 100.",
    )
    iris: int | None = Field(
        None,
        ge=-9999,
        le=9999,
        description="lens: device steps, 1 to 9999. relative: steps, -9999 to 9999. continuous: percent, -100 to 100.",
    )
    autofocus: bool | None = Field(None, description="lens: whether the camera focuses by itself.")
    autoiris: bool | None = Field(None, description="lens: whether the iris adjusts itself.")
    seconds: float | None = Field(
        None,
        ge=0.1,
        le=MOST_SECONDS,
        description=f"continuous, required: seconds until it is stopped, 0.1 to {MOST_SECONDS:g}.",
    )
    speed: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Percent of full speed, 1 to 100, of a move; of all later ones with action speed.",
    )
    preset: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Name of a preset; preset_go and preset_remove also take its number, 1 to 512.",
    )
    home: bool = Field(False, description="preset_set: also make it the home position.")
    auxiliary: str | None = Field(
        None, min_length=1, max_length=64, description="Auxiliary function, by a name that capabilities lists."
    )
    settle: float = Field(
        20.0, ge=1, le=60, description="Most seconds to watch a move until the camera rests, 1 to 60."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        takes = _TAKES.get(self.action, ())
        for name in _OWN:
            if getattr(self, name) not in (None, False) and name not in takes:
                others = ", ".join(action for action, names in _TAKES.items() if name in names)
                raise ValueError(f"{name} does not go with action {self.action}; it goes with {others}")
        if self.action not in _READING and self.action is not PtzAction.STOP and len(self.targets) != 1:
            raise ValueError(f"action {self.action} takes exactly one target; only reading and stop take many")
        match self.action:
            case PtzAction.ABSOLUTE:
                self._absolute()
            case PtzAction.RELATIVE:
                if not self.axes():
                    raise ValueError("action relative needs pan, tilt, zoom, focus or iris: by how much to move")
                if self.zoom is not None and self.zoom > 9999:
                    raise ValueError("zoom of a relative move is -9999 to 9999 steps")
            case PtzAction.CONTINUOUS:
                self._continuous()
            case PtzAction.LENS:
                self._lens()
            case PtzAction.PRESET_GO | PtzAction.PRESET_REMOVE if self.preset is None:
                raise ValueError(f"action {self.action} needs preset: a name or number that action presets lists")
            case PtzAction.PRESET_SET:
                self._storable()
            case PtzAction.AUXILIARY if self.auxiliary is None:
                raise ValueError("action auxiliary needs auxiliary: a name that action capabilities lists")
            case PtzAction.SPEED if self.speed is None:
                raise ValueError("action speed needs speed: 1 to 100 percent")
        return self

    def _absolute(self) -> None:
        if self.zoom is not None and self.magnification is not None:
            raise ValueError("zoom and magnification are two ways to say one thing; give one")
        if not self.axes() and self.magnification is None:
            raise ValueError("action absolute needs pan, tilt, zoom or magnification: where to point")
        for name in ("pan", "tilt"):
            if abs(getattr(self, name) or 0) > 180:
                raise ValueError(f"{name} of an absolute move is -180 to 180 degrees")
        if self.zoom is not None and self.zoom < 1:
            raise ValueError("zoom of an absolute move is 1 to 19999 steps")

    def _continuous(self) -> None:
        if self.seconds is None:
            raise ValueError(
                f"action continuous needs seconds, 0.1 to {MOST_SECONDS:g}: such a move does not end by itself"
            )
        speeds = self.axes()
        if not any(speeds.values()):
            raise ValueError(
                "action continuous needs pan, tilt, zoom, focus or iris other than 0: the speed in percent"
            )
        for name, value in speeds.items():
            if abs(value) > 100 or value != int(value):
                raise ValueError(f"{name} of a continuous move is whole percent of full speed, -100 to 100")

    def _lens(self) -> None:
        if all(getattr(self, name) is None for name in ("focus", "iris", "autofocus", "autoiris")):
            raise ValueError("action lens needs focus, iris, autofocus or autoiris")
        for name in ("focus", "iris"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of action lens is 1 to 9999 steps")
            if value is not None and getattr(self, f"auto{name}"):
                raise ValueError(f"{name} and auto{name} contradict each other; give one")

    def _storable(self) -> None:
        if self.preset is None:
            raise ValueError("action preset_set needs preset: the name to store where the camera points under")
        if not self.preset.isascii() or not self.preset.isprintable() or _FORBIDDEN & set(self.preset):
            raise ValueError(
                'preset: cameras disagree about other characters, so a new name is plain ASCII without " < > ~ and :'
            )
        if self.preset.isdigit() or self.preset != self.preset.strip():
            raise ValueError("preset: a new name is no number and has no blanks at its ends")

    def axes(self) -> dict[str, float]:
        """What was given for the axes."""
        return {name: value for name in _AXES if (value := getattr(self, name)) is not None}

    def safety(self) -> Safety | None:
        if self.action is PtzAction.PRESET_REMOVE:
            return Safety.DESTROY
        return None if self.action in _READING else Safety.CHANGE

    def approval(self) -> bool:
        return self.action not in _READING | {PtzAction.STOP, PtzAction.SPEED, PtzAction.PRESET_SET}

    def thing(self) -> str | None:
        return self.preset if self.action is PtzAction.PRESET_REMOVE else None

    def camera_seconds(self) -> float:
        """Most seconds with each camera."""
        moving = (self.seconds or 0.0) + self.settle + LONGEST_STOP + 3 * STOPPED_SECONDS
        return QUESTIONS_SECONDS + (0.0 if self.action in _READING else moving)

    def deadline(self) -> float:
        return fleet_timeout(self.camera_seconds(), len(self.targets))


class PtzPreset(BaseModel):
    """A stored position."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(description="Its number, from 1.")
    name: str = Field(description="Its name, as the camera says.")


class PtzZoomStep(BaseModel):
    """A zoom position whose magnification the camera lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(description="Device steps, 1 to 19999.")
    magnification: float = Field(description="Times.")


class PtzRange(BaseModel):
    """How far an axis goes; degrees for pan and tilt, else device steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: str = Field(description="pan, tilt, zoom, focus, iris or brightness.")
    low: float | None = Field(description="Lowest value; None where the camera says none.")
    high: float | None = Field(description="Highest value; None where the camera says none.")


class PtzQueue(BaseModel):
    """Who may move the camera, where control has to be asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: int = Field(description="Our place: 1 is in control, 0 or less is not waiting.")
    seconds_left: int = Field(description="Seconds of control, or of waiting, that are left.")
    poll_seconds: int = Field(description="How often the camera wants to be asked, seconds.")


class PtzCamera(CameraEntry):
    """One camera's head."""

    view: int = Field(1, description="The view, from 1.")
    position: Position | None = Field(None, description="Where it points: after a move, where it came to rest.")
    before: Position | None = Field(None, description="Where it pointed before the move.")
    asked: Position | None = Field(None, description="Where the move should have led, where that is known.")
    rested: bool | None = Field(
        None, description="Whether it rested when it was last looked at; None where that could not be seen."
    )
    seconds: float | None = Field(None, description="From the command to rest, seconds.")
    speed: int | None = Field(None, description="Percent of full speed of its moves.")
    speed_before: int | None = Field(None, description="That speed before the change.")
    enabled: bool | None = Field(None, description="Whether PTZ is switched on for the view; None: it does not say.")
    locked: bool | None = Field(None, description="Whether the head is locked.")
    driver: str | None = Field(None, description="Name of its PTZ driver.")
    supports: list[str] = Field(default_factory=list, description="What its driver says it can do.")
    limits: list[PtzRange] = Field(default_factory=list, description="How far it reaches.")
    zoom_steps: list[PtzZoomStep] = Field(default_factory=list, description="Magnifications it lists.")
    auxiliaries: list[str] = Field(default_factory=list, description="Its auxiliary functions.")
    presets: list[PtzPreset] = Field(default_factory=list, description="Its presets.")
    home: int | None = Field(None, description="Number of the preset that is the home position, where that was set.")
    home_before: int | None = Field(None, description="That number before the change.")
    queue: PtzQueue | None = Field(None, description="The queue for control; None where there is none.")
    note: str | None = Field(None, description="What is different from what was asked, and why.")


class VapixPtzControlResult(CamerasResult):
    """Where the cameras point, or what became of the move."""

    action: PtzAction = Field(description="What was done.")
    cameras: list[PtzCamera] = Field(description="A camera each, in the order asked.")

    def one_line(self, camera: PtzCamera) -> str:
        if camera.outcome is not CameraOutcome.DONE:
            return super().one_line(camera)
        said = [_pointing(camera.position)] if camera.position else []
        if self.action is PtzAction.SPEED:
            said.append(f"speed {camera.speed_before} -> {camera.speed} %")
        if camera.presets:
            said.append(", ".join(f"{preset.number} {preset.name!r}" for preset in camera.presets[:8]))
        if camera.rested is False:
            said.append("STILL MOVING when last looked at")
        if camera.note:
            said.append(camera.note)
        return f"{camera.target}: {self.action}: {'; '.join(said) or 'done'}"


def _pointing(position: Position) -> str:
    return ", ".join(
        f"{name} {value:g}" for name in ("pan", "tilt", "zoom") if (value := position.axis(name)) is not None
    )


Fields = dict[str, Any]


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=fleet_timeout(QUESTIONS_SECONDS + 120),
    aliases=("axis_vapix_ptz_control",),
    examples=[
        Example(
            "Where two cameras point",
            {"targets": ["192.168.1.20", "192.168.1.21"], "credentials": "axis/yard", "action": "position"},
        ),
        Example("What a camera's head can do", {"targets": ["192.168.1.20"], "credentials": "axis/yard"}),
        Example(
            "Point a camera at the gate",
            {
                "targets": ["192.168.1.20"],
                "credentials": "axis/yard",
                "action": "preset_go",
                "preset": "Gate",
                "confirm": "192.168.1.20",
            },
        ),
        Example(
            "Turn slowly to the right for two seconds, then stop",
            {
                "targets": ["192.168.1.20"],
                "credentials": "axis/yard",
                "action": "continuous",
                "pan": 20,
                "seconds": 2,
                "confirm": "192.168.1.20",
            },
        ),
    ],
)
async def vapix_ptz_control(params: VapixPtzControl) -> VapixPtzControlResult:
    """Read where Axis cameras point and what they reach, or move one camera.

    What a camera can do is asked first: a place beyond its limits, a function its driver does not have, a head that is locked or
    switched off are refused before anything is sent. A move is watched until the camera rests; the result has where it was, where it
    should go and where it came to rest, and says when that differs; others may stop the camera meanwhile. A continuous move is stopped
    after its time, a cancel, an error or a lost answer; a camera that does not confirm that is said to be moving still. When this very
    program is killed outright in those seconds (SIGKILL, a power cut), nobody stops it: then use action stop. Movement needs an account
    with the PTZ right; presets are changed by administrators.

    Raises:
        InvalidParameters: A place beyond the camera's limits, or a preset's name it does not take.
        Unsupported: The camera has no PTZ, or not this.
        Rejected: The camera refuses, PTZ is locked or switched off, or the camera did other than it was told.
        NotFound: No such preset or auxiliary function; names those there are.
        Conflict: A preset of this name exists.
        Busy: Others are before us in the queue for control, or another run talks with the camera.
        Unanswered: A command's answer was lost, so it may have moved; or it could not be told to stop.
        Unauthorized: The account is refused, or has no PTZ right.
        Unreachable: The camera does not answer.
    """

    async def act(camera: Camera) -> Fields:
        return await _ACTIONS[params.action](Head(camera, params.view), params)

    seen = await each_camera(params, act, seconds=params.camera_seconds())
    result = VapixPtzControlResult(
        action=params.action, cameras=[entry(PtzCamera, one, view=params.view, **(one.value or {})) for one in seen]
    )
    return await fitting(
        result,
        (
            "zoom_steps",
            "supports",
            "auxiliaries",
            "limits",
            "presets",
            "driver",
            "detail",
            "address",
            "model",
            "firmware",
        ),
    )


# --- reading ---------------------------------------------------------------------------------------------------------


async def _capabilities(head: Head, params: VapixPtzControl) -> Fields:
    means = await read_means(head)
    fields: Fields = {
        "enabled": means.enabled,
        "locked": means.locked,
        "supports": sorted(name for name, has in means.supports.items() if has),
        "limits": [PtzRange(axis=axis, low=low, high=high) for axis, (low, high) in means.limits.items()],
    }
    if means.enabled is False:
        return {**fields, "note": "PTZ is switched off for this view."}
    steps = await read_zoom_steps(head)
    presets = await read_presets(head)
    return {
        **fields,
        "driver": await read_driver(head),
        "position": _magnified(await read_position(head), steps),
        "speed": await read_speed(head),
        "zoom_steps": [PtzZoomStep(step=step, magnification=times) for step, times in steps[:64]],
        "auxiliaries": await read_auxiliaries(head),
        "presets": _listed(presets),
        "queue": _queued(await queue(head, "query")) if means.queueing else None,
        "note": "Control has to be asked for: this camera queues those who want to move it."
        if means.queueing
        else None,
    }


async def _position(head: Head, params: VapixPtzControl) -> Fields:
    await _need_ptz(head)
    return {"position": await read_position(head)}


async def _presets(head: Head, params: VapixPtzControl) -> Fields:
    await _need_ptz(head)
    return {"presets": _listed(await read_presets(head))}


async def _queue(head: Head, params: VapixPtzControl) -> Fields:
    means = await read_means(head, limits=False)
    if not means.queueing:
        return {"note": "This camera has no queue: whoever may move it moves it at once."}
    return {"queue": _queued(await queue(head, "query"))}


async def _need_ptz(head: Head) -> None:
    if not (await head.camera.capabilities()).flag("Properties.PTZ.PTZ"):
        raise Unsupported("This camera has no pan, tilt and zoom (Properties.PTZ.PTZ is not yes).")


def _magnified(position: Position, steps: list[ZoomStep]) -> Position:
    times = next((times for step, times in steps if step == position.zoom), None)
    return position.model_copy(update={"magnification": times})


def _listed(presets: list[Preset]) -> list[PtzPreset]:
    return [PtzPreset(number=preset.number, name=preset.name) for preset in presets]


def _queued(state: QueueState) -> PtzQueue:
    return PtzQueue(position=state.position, seconds_left=state.seconds_left, poll_seconds=state.poll_seconds)


# --- moving ----------------------------------------------------------------------------------------------------------


async def _means_to(head: Head, params: VapixPtzControl, *flags: str) -> Means:
    """Ask what the camera can do, and refuse what it cannot."""
    means = await read_means(head)
    means.need_ready()
    means.need(*flags, *(("SpeedCtl",) if params.speed is not None else ()))
    return means


async def _move(
    head: Head,
    params: VapixPtzControl,
    means: Means,
    arguments: Mapping[str, str],
    goal: Mapping[str, float],
    before: Position | None = None,
    place: Mapping[str, float] | None = None,
) -> Fields:
    """Send one move and watch it until it rests.

    Args:
        head: The head.
        params: Speed, and how long to watch.
        means: What the camera can do.
        arguments: The command.
        goal: Where each axis that moves should end.
        before: Where it points, where that was read already.
        place: Where pan and tilt should end, where the zoom may move too and nobody knows to where.
    """
    before = before or await read_position(head)
    speed = {"speed": str(params.speed)} if params.speed is not None and params.action is not PtzAction.SPEED else {}
    async with in_control(head, means):
        started = time.monotonic()
        await command(head, **arguments, **speed)
        # From here on this run only looks on: a stop of another one must not wait until it has seen enough.
        await head.camera.let_go()
        rest = await wait_for_rest(head, seconds=params.settle, goal=goal, before=before)
    where = {**goal, **(place or {})}
    note = None
    if rest.unseen is not None:
        note = (
            f"it was not seen at rest within {params.settle:g} s, because others had the camera: {rest.unseen.message}"
        )
    elif not rest.rested:
        note = f"it was still moving after {params.settle:g} s"
    elif elsewhere := missed(rest.position, where):
        note = f"the camera came to rest elsewhere: {', '.join(elsewhere)}"
    elif not where and place is not None:
        note = "the camera does not say where that is: seen was only that it rests"
    return {
        "before": before,
        "asked": Position(**where) if where else None,  # type: ignore[arg-type]
        "position": rest.position,
        "rested": None if rest.unseen is not None else rest.rested,
        "seconds": round(time.monotonic() - started, 2),
        "note": note,
    }


async def _absolute(head: Head, params: VapixPtzControl) -> Fields:
    goal = {name: float(value) for name, value in params.axes().items()}
    zooming = params.magnification is not None
    means = await _means_to(
        head, params, *(f"Absolute{name.title()}" for name in [*goal, *(["zoom"] if zooming else [])])
    )
    if params.magnification is not None:
        goal["zoom"] = float(await _step_of(head, params.magnification))
    for name, value in goal.items():
        means.need_within(name, value)
    return await _move(head, params, means, {name: f"{value:g}" for name, value in goal.items()}, goal)


async def _step_of(head: Head, magnification: float) -> int:
    steps = await read_zoom_steps(head)
    if not steps:
        raise Unsupported(
            "This camera does not list what its zoom steps magnify, and they are not linear.",
            hint="Give zoom in device steps; capabilities has its range.",
        )
    for step, times in steps:
        if abs(times - magnification) < 0.01:
            return step
    listed = ", ".join(f"{times:g}" for _, times in steps[:40])
    raise InvalidParameters(f"magnification: the camera lists no {magnification:g}; it lists {listed}.")


async def _relative(head: Head, params: VapixPtzControl) -> Fields:
    by = params.axes()
    means = await _means_to(head, params, *(f"Relative{name.title()}" for name in by))
    before = await read_position(head)
    goal = {}
    for name, value in by.items():
        here = before.axis(name)
        if here is None:
            continue  # a camera that does not say where it is cannot be checked; it knows its own limits
        there = here + value
        means.need_within(name, there, circular=name == "pan")
        goal[name] = (there + 180) % 360 - 180 if name == "pan" and abs(there) > 180 else there
    return await _move(head, params, means, {f"r{name}": f"{value:g}" for name, value in by.items()}, goal, before)


async def _continuous(head: Head, params: VapixPtzControl) -> Fields:
    speeds = {name: int(value) for name, value in params.axes().items()}
    means = await _means_to(head, params, *(f"Continuous{name.title()}" for name, value in speeds.items() if value))
    before = await read_position(head)
    async with in_control(head, means):
        started = time.monotonic()
        await drive(head, speeds, params.seconds or 0.1)
        rest = await confirm_stopped(head, tuple(speeds))
    return {
        "before": before,
        "position": rest.position,
        "rested": rest.rested,
        "seconds": round(time.monotonic() - started, 2),
        "note": "it did not move" if rest.position.same(before, {*MOTORS, *speeds}) else None,
    }


async def _stop(head: Head, params: VapixPtzControl) -> Fields:
    """Stop first and ask later: this may be urgent."""
    try:
        await surely(stop(head, insist=False))
    except Unanswered as unheard:
        try:
            means = await read_means(head, limits=False)
            if not means.queueing:
                raise unheard
            async with in_control(head, means):
                await surely(stop(head))
        except Unanswered:
            raise
        except ToolError as error:  # why nobody could be asked for control must not hide that it may move
            raise Unanswered(f"{unheard.message} Then: {error.message}", hint=unheard.hint) from error
    rest = await confirm_stopped(head)
    return {"position": rest.position, "rested": rest.rested}


async def _home(head: Head, params: VapixPtzControl) -> Fields:
    means = await _means_to(head, params)
    number = await read_home(head)
    place = await read_place(head, number) if number is not None else {}
    return await _move(head, params, means, {"move": "home"}, {}, place=place)


async def _lens(head: Head, params: VapixPtzControl) -> Fields:
    goal = {name: float(value) for name, value in params.axes().items()}
    switches = {name: wanted for name in ("autofocus", "autoiris") if (wanted := getattr(params, name)) is not None}
    flags = [f"Absolute{name.title()}" for name in goal] + [f"Auto{name[4:].title()}" for name in switches]
    means = await _means_to(head, params, *flags)
    for name, value in goal.items():
        means.need_within(name, value)
    arguments = {name: f"{value:g}" for name, value in goal.items()}
    arguments |= {name: "on" if wanted else "off" for name, wanted in switches.items()}
    fields = await _move(head, params, means, arguments, goal)
    wrong = [name for name, wanted in switches.items() if getattr(fields["position"], name) not in (wanted, None)]
    if wrong:
        raise Rejected(f"The camera took the command but {' and '.join(wrong)} is as before.")
    fields["asked"] = Position(**goal, **switches)  # type: ignore[arg-type]
    return fields


async def _speed(head: Head, params: VapixPtzControl) -> Fields:
    means = await _means_to(head, params)
    before = await read_speed(head)
    async with in_control(head, means):
        await command(head, speed=str(params.speed))
    after = await read_speed(head)
    if after != params.speed:
        raise Rejected(f"The camera took the speed {params.speed} but says {after}.")
    return {"speed": after, "speed_before": before}


async def _auxiliary(head: Head, params: VapixPtzControl) -> Fields:
    means = await _means_to(head, params, "Auxiliary")
    there = await read_auxiliaries(head)
    if params.auxiliary not in there:
        raise NotFound(
            f"The camera lists no auxiliary function {params.auxiliary!r}.",
            hint=f"It lists {', '.join(there)}." if there else "It lists none.",
        )
    async with in_control(head, means):
        await command(head, auxiliary=params.auxiliary or "")
    return {
        "auxiliaries": [params.auxiliary],
        "note": "The camera took the command; it does not say what it does with it.",
    }


# --- presets ---------------------------------------------------------------------------------------------------------


async def _preset_go(head: Head, params: VapixPtzControl) -> Fields:
    means = await _means_to(head, params, "ServerPreset")
    preset = find_preset(await read_presets(head), params.preset or "")
    place = await read_place(head, preset.number)
    fields = await _move(head, params, means, {"gotoserverpresetno": str(preset.number)}, {}, place=place)
    return {**fields, "presets": _listed([preset])}


async def _preset_set(head: Head, params: VapixPtzControl) -> Fields:
    means = await _means_to(head, params, "ServerPreset")
    name = params.preset or ""
    if len(name) > means.longest_name:
        raise InvalidParameters(f"preset: this camera's names have at most {means.longest_name} characters.")
    before = await read_presets(head)
    if any(preset.name.casefold() == name.casefold() for preset in before):
        raise Conflict(f"The camera has a preset {name!r} already.", hint="Remove it first, or take another name.")
    position = await read_position(head)
    home_before = await read_home(head) if params.home else None
    query = {"setserverpresetname": name, **({"home": "yes"} if params.home else {})}
    await head.say(PTZ_CONFIG, query, write=True)
    new = [preset for preset in await read_presets(head) if preset.name == name]
    if not new:
        raise Rejected(f"The camera took the preset {name!r} but does not list it.", hint="See: action presets")
    fields: Fields = {"position": position, "presets": _listed(new)}
    if not params.home:
        return fields
    home, number = await read_home(head), new[0].number
    if home is None:
        unsaid = f"whether it is home now the camera does not say ({home_parameter(head.view)}): action home shows it"
        return {**fields, "note": unsaid}
    if home != number:
        raise Rejected(
            f"The camera stored {name!r} as preset {number}, but home is still preset {home}.",
            hint="Make it home in the camera's own pages.",
        )
    return {**fields, "home": home, "home_before": home_before}


async def _preset_remove(head: Head, params: VapixPtzControl) -> Fields:
    await _need_ptz(head)
    preset = find_preset(await read_presets(head), params.preset or "")
    query = {"removeserverpresetno": str(preset.number)}
    await head.say(PTZ_CONFIG, query, write=True)
    left = await read_presets(head)
    if preset in left:
        raise Rejected(f"The camera took the removal of preset {preset.name!r} but still lists it.")
    return {"presets": _listed(left), "note": f"removed preset {preset.number}, {preset.name!r}"}


_ACTIONS: Mapping[PtzAction, Callable[..., Awaitable[Fields]]] = {
    PtzAction.CAPABILITIES: _capabilities,
    PtzAction.POSITION: _position,
    PtzAction.PRESETS: _presets,
    PtzAction.QUEUE: _queue,
    PtzAction.STOP: _stop,
    PtzAction.SPEED: _speed,
    PtzAction.ABSOLUTE: _absolute,
    PtzAction.RELATIVE: _relative,
    PtzAction.CONTINUOUS: _continuous,
    PtzAction.HOME: _home,
    PtzAction.LENS: _lens,
    PtzAction.AUXILIARY: _auxiliary,
    PtzAction.PRESET_GO: _preset_go,
    PtzAction.PRESET_SET: _preset_set,
    PtzAction.PRESET_REMOVE: _preset_remove,
}
