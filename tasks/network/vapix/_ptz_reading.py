"""What a camera's head can do, where it points, and which presets it knows: asked before anything moves."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import InvalidParameters, NotFound, Rejected, Unsupported
from tasks.network.vapix import _ptz_text as text
from tasks.network.vapix._ptz_text import Preset, QueueState, ZoomStep
from tasks.network.vapix._wire import decode, raise_for_text

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

PTZ: Final = "/axis-cgi/com/ptz.cgi"
PTZ_CONFIG: Final = "/axis-cgi/com/ptzconfig.cgi"
PTZ_QUEUE: Final = "/axis-cgi/com/ptzqueue.cgi"
MOTORS: Final = ("pan", "tilt", "zoom")
_TRUE = frozenset({"true", "yes", "on", "1"})
_COOKIE = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}=[!#-+\--:<-\[\]-~]{0,256})(?:;|\s*\Z)"
)  # RFC 6265 section 4.1.1
_FALSE = frozenset({"false", "no", "off", "0"})


class Position(BaseModel):
    """Where a head points; what the camera does not say is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pan: float | None = Field(None, description="Degrees, -180 to 180; to the right is positive.")
    tilt: float | None = Field(None, description="Degrees, -180 to 180; upwards is positive.")
    zoom: float | None = Field(None, description="Steps of the device, 1 to 19999; not a magnification.")
    magnification: float | None = Field(None, description="Of that step, where the camera lists it.")
    focus: float | None = Field(None, description="Steps of the device, 1 to 9999.")
    iris: float | None = Field(None, description="Steps of the device, 1 to 9999.")
    brightness: float | None = Field(None, description="Steps of the device, 1 to 9999.")
    autofocus: bool | None = Field(None, description="Whether it focuses by itself.")
    autoiris: bool | None = Field(None, description="Whether the iris adjusts itself.")

    def axis(self, name: str) -> float | None:
        """The value of an axis by its name."""
        value: float | None = getattr(self, name)
        return value

    def same(self, other: Position, axes: Collection[str] = MOTORS) -> bool:
        """Whether none of these axes moved between the two, beyond what a reading trembles.

        Focus and iris count only where they were moved: left to themselves they follow the scene, and never rest.
        """
        for name in axes:
            one, two = self.axis(name), other.axis(name)
            if (one is None) != (two is None):
                return False
            if one is not None and two is not None and abs(one - two) > tolerance(name):
                return False
        return True


def tolerance(axis: str) -> float:
    """By how much two readings of an axis at rest may differ: a tenth of a degree, or five steps."""
    return 0.1 if axis in {"pan", "tilt"} else 5.0


@dataclass(frozen=True)
class Means:
    """What may be done with one view of a camera.

    Attributes:
        view: The view, from 1.
        enabled: PTZEnabled of its source; None when the camera does not say.
        locked: Whether somebody locked the head.
        queueing: Whether control has to be asked for.
        supports: The driver's own list of what it can; what it does not list is unknown, not absent.
        longest_name: Most characters of a preset's name.
        limits: Lowest and highest value of each axis.
    """

    view: int
    enabled: bool | None
    locked: bool
    queueing: bool
    supports: Mapping[str, bool] = field(default_factory=dict)
    longest_name: int = 31
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def need_ready(self) -> None:
        """Refuse while the head is switched off or locked.

        Raises:
            Rejected: Says which parameter says so.
        """
        if self.enabled is False:
            raise Rejected(
                f"PTZ is switched off for view {self.view} (PTZ.ImageSource.I{self.view - 1}.PTZEnabled is false).",
                hint="Switch it on in the camera's own pages first.",
            )
        if self.locked:
            raise Rejected(
                f"PTZ is locked for view {self.view} (PTZ.Various.V{self.view}.Locked is true).",
                hint="Somebody locked it on purpose; unlock it in the camera's own pages.",
            )

    def need(self, *flags: str) -> None:
        """Refuse what the driver says it cannot do.

        Raises:
            Unsupported: Names what is missing.
        """
        missing = [flag for flag in flags if self.supports.get(flag) is False]
        if missing:
            raise Unsupported(f"This camera's PTZ driver does not support {', '.join(missing)}.")

    def need_within(self, axis: str, value: float, *, circular: bool = False) -> None:
        """Refuse a place beyond the limits: the camera would go elsewhere without a word.

        Args:
            axis: Its name.
            value: Where it would go.
            circular: Whether a full turn is allowed, where the limits are the whole circle.

        Raises:
            InvalidParameters: Names the limits.
        """
        low, high = self.limits.get(axis, (None, None))
        if circular and low is not None and high is not None and high - low >= 360:
            return
        if (low is not None and value < low) or (high is not None and value > high):
            span = f"{_shown(low)} to {_shown(high)}"
            raise InvalidParameters(f"{axis}: {value:g} is beyond what this camera reaches; right would be {span}.")


def _shown(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


@dataclass
class Head:
    """The head that moves one view of a camera.

    Attributes:
        camera: The camera.
        view: The view, from 1.
        cookie: Which member of the queue for control we are, where the camera tells them apart by a cookie.
    """

    camera: Camera
    view: int
    cookie: str | None = None

    async def say(self, path: str, arguments: Mapping[str, str], *, write: bool = False) -> str:
        """Call one of the PTZ functions for this view, and return its text."""
        query = {"camera": str(self.view), **arguments}
        if self.cookie is None and path != PTZ_QUEUE:
            # Commands go as POST: of that nothing and nobody on the way thinks that it may be sent twice.
            return await self.camera.text(path, query, form=write, write=write)
        headers = {"Cookie": self.cookie} if self.cookie else None
        # No other function of a camera needs a cookie, so the client keeps none; this is its way to ask, with one header more.
        sent = {"data": query} if write else {"query": query}
        answer = await self.camera._ask("POST" if write else "GET", path, headers=headers, write=write, **sent)  # type: ignore[arg-type]  # noqa: SLF001
        match = _COOKIE.match(answer.headers.get("set-cookie", ""))
        if match and path == PTZ_QUEUE:
            self.cookie = match[1]
        return raise_for_text(decode(answer.body), self.camera.asked)


async def read_means(head: Head, *, limits: bool = True) -> Means:
    """Ask what may be done with a view.

    Raises:
        Unsupported: The camera has no PTZ at all.
    """
    view = head.view
    capabilities = await head.camera.capabilities()
    if not capabilities.flag("Properties.PTZ.PTZ"):
        raise Unsupported("This camera has no pan, tilt and zoom (Properties.PTZ.PTZ is not yes).")
    source, various, support = f"PTZ.ImageSource.I{view - 1}", f"PTZ.Various.V{view}", f"PTZ.Support.S{view}"
    said = await head.camera.parameters(source, various, support, "PTZ.PresetNameMaxLen")
    longest = said.get("PTZ.PresetNameMaxLen", "")
    prefix = f"{support}."
    enabled = _flag(said.get(f"{source}.PTZEnabled"))
    return Means(
        view=view,
        enabled=enabled,
        locked=_flag(said.get(f"{various}.Locked")) is True,
        queueing=_flag(said.get(f"{various}.CtlQueueing")) is True,
        supports={
            name.removeprefix(prefix): flag
            for name, value in said.items()
            if name.startswith(prefix) and (flag := _flag(value)) is not None
        },
        longest_name=int(longest)
        if re.fullmatch(r"[0-9]{1,4}", longest) and 0 < int(longest) <= text.MOST_NAME
        else 31,
        limits=text.limits(await ask(head, "limits")) if limits and enabled is not False else {},
    )


def _flag(value: str | None) -> bool | None:
    word = (value or "").strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


async def ask(head: Head, question: str, **more: str) -> str:
    """Put one `query` to ptz.cgi."""
    return await head.say(PTZ, {"query": question, **more})


async def read_position(head: Head) -> Position:
    """Where the head points.

    Raises:
        Rejected: The camera names no axis at all, as it does where PTZ is not available.
    """
    axes, switches = text.position(await ask(head, "position"))
    if not axes:
        raise Rejected(
            f"The camera does not say where view {head.view} points.",
            hint="PTZ may be switched off there, or have no driver.",
        )
    return Position(**axes, **switches)  # type: ignore[arg-type]


async def read_presets(head: Head) -> list[Preset]:
    """The presets of a view; an empty answer is none."""
    return text.presets(await ask(head, "presetposcam"))


async def read_place(head: Head, number: int) -> dict[str, float]:
    """Where pan and tilt of a preset are, degrees; nothing where the camera does not say."""
    try:
        return text.place(await ask(head, "presetposcamdata"), number)
    except (Rejected, NotFound, Unsupported):
        return {}


async def read_home(head: Head) -> int | None:
    """The number of the preset that is home; None when the camera does not say, or has none."""
    name = home_parameter(head.view)
    said = (await head.camera.parameters(name)).get(name, "").strip()
    return int(said) if re.fullmatch(r"[1-9][0-9]{0,4}", said) else None


def home_parameter(view: int) -> str:
    """The parameter that says which preset is home; its groups are counted from zero."""
    return f"PTZ.Preset.P{view - 1}.HomePosition"


async def read_speed(head: Head) -> int | None:
    """The speed of absolute and relative moves, 1 to 100; None when the camera does not say."""
    said = text.number(text.lines(await ask(head, "speed")).get("speed"))
    return int(said) if said is not None and 0 <= said <= 100 else None


async def read_driver(head: Head) -> str | None:
    """The name of the PTZ driver."""
    return text.clean(await head.say(PTZ, {"whoami": "1"})) or None


async def read_zoom_steps(head: Head) -> list[ZoomStep]:
    """Zoom positions whose magnification the camera lists; none where it lists none or cannot say."""
    try:
        return text.zoom_steps(await ask(head, "attributes", format="json"))
    except (Rejected, NotFound, Unsupported):
        return []


async def read_auxiliaries(head: Head) -> list[str]:
    """Auxiliary functions such as a wiper."""
    try:
        return text.auxiliaries(await ask(head, "auxiliary"))
    except (Rejected, NotFound, Unsupported):
        return []


async def queue(head: Head, control: str) -> QueueState:
    """Ask about control of the head (`query`), for it (`request`), or give it back (`drop`).

    Raises:
        Rejected: The answer is not one of the queue.
    """
    said = await head.say(PTZ_QUEUE, {"control": control}, write=control != "query")
    state = text.queue(said)
    if state is None:
        if control == "drop":
            return QueueState(0, 0, 0)
        raise Rejected("The camera's PTZ queue answers nothing that can be understood.")
    return state


def find_preset(presets: list[Preset], wanted: str) -> Preset:
    """The preset of this name, or of this number where no name is the same.

    Raises:
        NotFound: Names those there are.
        InvalidParameters: Several have this name.
    """
    named = [preset for preset in presets if preset.name == wanted]
    if len(named) > 1:
        numbers = ", ".join(str(preset.number) for preset in named)
        raise InvalidParameters(f"preset: several have the name {wanted!r}; give a number: {numbers}.")
    if named:
        return named[0]
    for preset in presets:
        if re.fullmatch(r"[0-9]{1,5}", wanted) and preset.number == int(wanted):
            return preset
    there = ", ".join(repr(preset.name) for preset in presets[:20])
    raise NotFound(f"The camera has no preset {wanted!r}.", hint=f"There are {there}." if there else "It has none.")
