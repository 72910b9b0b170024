"""Day and night as cameras tell it: the IR-cut filter in the words of each, and the configuration of `daynight.cgi`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tasks.core.errors import Forbidden, Rejected, Unsupported
from tasks.network.vapix._imaging_change import (
    ALREADY,
    Change,
    Wanted,
    Written,
    change_parameters,
    check_all,
    judged,
    same,
    together,
)
from tasks.network.vapix._wire import NUMBERED, Meanings, Missing, Nonsense

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera
    from tasks.network.vapix._wire import Definition

DAYNIGHT = "/axis-cgi/daynight.cgi"
PTZ = "/axis-cgi/com/ptz.cgi"
LONGEST_LIST = 16 << 10
MEANINGS: Meanings = {**NUMBERED, 2103: "a parameter is missing", 2104: "a value is not valid for this camera"}

Vision = Literal["day", "night", "auto"]

CONFIGURATION: dict[str, str] = {
    "day_night_shift_level": "DayNightShiftLevel",
    "night_day_shift_level": "NightDayShiftLevel",
    "day_night_dwell_time": "DayNightDwellTime",
    "night_day_dwell_time": "NightDayDwellTime",
    "night_filter": "NightFilter",
    "autotune": "Autotune",
}
"""What we call the fields of `daynight.cgi`'s configuration."""
_NEEDS = {
    "night_day_shift_level": "NightDayShiftLevelSupport",
    "autotune": "AutotuneSupport",
}
"""Capabilities that a field needs; the others come with the API."""
# Fixed cameras say yes and no of ImageSource.I#.DayNight.IrCutFilter, PTZ domes and encoders on and off of PTZ.Various.V#.IrCutFilter.
# Yes and on mean that the filter is in place: day.
_WORDS = (("yes", "no"), ("on", "off"))


def words(choices: Sequence[str]) -> dict[Vision, str]:
    """Return a camera's words for day, night and auto, from the choices of its IR-cut filter.

    >>> words(["no", "yes", "auto"])
    {'day': 'yes', 'night': 'no', 'auto': 'auto'}
    >>> words(["off", "on"])
    {'day': 'on', 'night': 'off'}
    >>> words(["inside", "outside"])
    {}
    """
    for day, night in _WORDS:
        if day in choices and night in choices:
            found: dict[Vision, str] = {"day": day, "night": night}
            if "auto" in choices:
                found["auto"] = "auto"
            return found
    return {}


def vision(value: str | None) -> Vision | None:
    """What the value of an IR-cut filter means; None for a word nobody has met.

    >>> vision("yes"), vision("off"), vision("auto"), vision("maybe")
    ('day', 'night', 'auto', None)
    """
    meanings: dict[str, Vision] = {"yes": "day", "on": "day", "no": "night", "off": "night", "auto": "auto"}
    return meanings.get((value or "").strip().lower())


def parse_configuration(data: Any, channel: int) -> dict[str, Any]:
    """Read one channel of `getConfiguration` or `setConfiguration`; values that are none do not count.

    Raises:
        Nonsense: It is not what such an answer looks like.
        Missing: It has nothing of this channel.
    """
    said = channel_of(data, channel)
    found: dict[str, Any] = {}
    for ours, theirs in CONFIGURATION.items():
        value = said.get(theirs)
        if ours == "autotune":
            good = isinstance(value, bool)
        elif ours == "night_filter":
            good = isinstance(value, str) and 0 < len(value) <= 40 and value.isprintable()
        else:
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 86_400
        if good:
            found[ours] = value
    return found


def parse_capabilities(data: Any, channel: int) -> tuple[frozenset[str], bool]:
    """Read one channel of `getCapabilities`: what it lacks, and whether the night filter can pass infrared only."""
    said = channel_of(data, channel)
    lacks = frozenset(ours for ours, need in _NEEDS.items() if said.get(need) is not True)
    return lacks, said.get("IrPassSupport") is True


def channel_of(data: Any, channel: int) -> Mapping[str, Any]:
    """Find one channel in an answer that holds a list of them, or a single one.

    Raises:
        Nonsense: It is neither.
        Missing: The channel is not in it.
    """
    # The documented answer is a list of channels, which the client hands over under this name.
    listed = data.get("list", [data]) if isinstance(data, Mapping) else data
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) and one for one in listed):
        raise Nonsense("The device's answer about day and night is not what it should be.")
    for one in listed:
        if one.get("channel", channel) == channel:
            return one  # type: ignore[no-any-return]
    raise Missing(f"The device has no day/night channel {channel}.", hint="Channels begin with 0.")


@dataclass
class State:
    """What one camera has for day and night.

    Attributes:
        values: Its parameters.
        definitions: What it says of them.
        filter: Name of the IR-cut filter's parameter, if there is one.
        level: Name of the shift level's parameter, if there is one.
        words: The filter's words for day, night and auto.
        by_ptz: Whether only `ptz.cgi` moves the filter; then nothing says where it is.
        offered: Whether it has `daynight.cgi`.
        configuration: What that has, by our names.
        lacks: Our names of what that cannot.
        irpass: Whether its night filter can pass infrared only.
        hidden: Why `daynight.cgi`, which the camera lists, could not be read.
    """

    values: dict[str, str]
    definitions: dict[str, Definition]
    filter: str | None = None
    level: str | None = None
    words: dict[Vision, str] = field(default_factory=dict)
    by_ptz: bool = False
    offered: bool = False
    configuration: dict[str, Any] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    irpass: bool = False
    hidden: Forbidden | Unsupported | None = None

    @property
    def api(self) -> str:
        """What it was asked by."""
        places = ["param.cgi"] if self.filter or self.level else []
        places += ["daynight.cgi"] if self.offered else []
        places += ["ptz.cgi"] if self.by_ptz else []
        return ", ".join(places)

    @property
    def settable(self) -> list[str]:
        """Our names of what can be set."""
        found = ["ir_cut_filter"] if self.words or self.by_ptz else []
        if self.offered:
            return [*found, *(name for name in CONFIGURATION if name not in self.lacks)]
        return [*found, *(["day_night_shift_level"] if self.level is not None else [])]

    @property
    def shown(self) -> dict[str, Any]:
        """Its settings by our names."""
        found = dict(self.configuration)
        if self.level is not None and "day_night_shift_level" not in found:
            with suppress(ValueError):
                found["day_night_shift_level"] = float(self.values[self.level])
        found["ir_cut_filter"] = vision(self.values.get(self.filter)) if self.filter is not None else None
        return found


class Sight:
    """Day and night of one channel of one camera: looked at, and changed."""

    def __init__(self, camera: Camera, channel: int) -> None:
        self._camera, self._channel = camera, channel
        self._fixed = f"ImageSource.I{channel}.DayNight"
        self._dome = f"PTZ.Various.V{channel + 1}"

    async def look(self) -> State:
        """Read what there is.

        Raises:
            Unsupported: There is no IR-cut filter, no shift level and no day/night API.
        """
        capabilities = await self._camera.capabilities()
        values = await self._camera.parameters(self._fixed, self._dome)
        state = State(values, await self._camera.definitions(self._fixed, self._dome) if values else {})
        for name in (f"{self._fixed}.IrCutFilter", f"{self._dome}.IrCutFilter"):
            if name in values:
                state.filter = name
                definition = state.definitions.get(name)
                state.words = words(definition.choices) if definition is not None and not definition.readonly else {}
                break
        if f"{self._fixed}.ShiftLevel" in values:
            state.level = f"{self._fixed}.ShiftLevel"
        if capabilities.has("daynight"):
            try:
                await self._look_by_api(state)
            except (Forbidden, Unsupported) as error:
                # The filter is among the parameters all the same: what is there is told.
                if state.filter is None:
                    raise
                state.hidden = error
        if state.filter is None and capabilities.flag("Properties.PTZ.PTZ"):
            # A list of commands, a line each: the only way to know whether ptz.cgi moves a filter.
            listed = await self._camera.text(PTZ, {"info": "1", "camera": str(self._channel + 1)})
            state.by_ptz = re.search(r"(?m)^\W*ircutfilter\b", listed[:LONGEST_LIST]) is not None
        if not (state.filter or state.level or state.offered or state.by_ptz):
            raise Unsupported(
                f"{self._camera.asked} has no IR-cut filter and no day/night settings on channel {self._channel}, "
                "or shows this account none.",
                hint="Channels begin with 0.",
            )
        return state

    async def _look_by_api(self, state: State) -> None:
        asked = {"channel": self._channel}
        can = await self._camera.call(DAYNIGHT, "getCapabilities", asked, meanings=MEANINGS)
        state.lacks, state.irpass = parse_capabilities(can, self._channel)
        has = await self._camera.call(DAYNIGHT, "getConfiguration", asked, meanings=MEANINGS)
        state.configuration = parse_configuration(has, self._channel)
        state.offered = True

    async def change(self, state: State, vision: Vision | None, configuration: Mapping[str, Any]) -> Written:
        """Check everything, then write and read back.

        Raises:
            Unsupported: The camera cannot do one of it. Nothing was sent.
            Rejected: It does not take one of the values (nothing was sent), or refused.
        """
        parameters, rest = self._checked(state, vision, configuration)
        written = []
        if parameters:
            written.append(
                await change_parameters(
                    self._camera,
                    parameters,
                    state.values,
                    state.definitions,
                    groups=(self._fixed, self._dome),
                    names={},
                )
            )
        if vision is not None and state.by_ptz:
            written.append(await self._move(vision))
        if rest and not any(one.refused for one in written):
            written.append(await self._configure(state, rest))
        whole = together(written, unsent=list(rest) if written and written[0].refused else [])
        return Written([_in_our_words(change) for change in whole.changes], whole.refused, whole.notes)

    def _checked(
        self, state: State, vision: Vision | None, configuration: Mapping[str, Any]
    ) -> tuple[list[Wanted], dict[str, Any]]:
        parameters, rest = [], dict(configuration)
        if vision is not None and not state.by_ptz:
            if state.filter is None:
                raise _cannot("ir_cut_filter", state)
            if vision not in state.words:
                definition = state.definitions.get(state.filter)
                offers = ", ".join(definition.choices) if definition is not None else ""
                raise Unsupported(
                    f"The camera's IR-cut filter has no {vision}: it takes {offers[:200] or 'what it does not say'}.",
                    hint="Nothing was changed. Does the account have the level operator?",
                )
            parameters.append(Wanted("ir_cut_filter", state.filter, state.words[vision]))
        if not state.offered and state.level is not None and "day_night_shift_level" in rest:
            parameters.append(Wanted("day_night_shift_level", state.level, str(rest.pop("day_night_shift_level"))))
        if rest and state.hidden is not None:
            raise state.hidden
        for name, value in rest.items():
            if not state.offered or name in state.lacks or (value == "irpass" and not state.irpass):
                raise _cannot("night_filter irpass" if value == "irpass" else name, state)
        check_all(parameters, state.definitions)
        return parameters, rest

    async def _move(self, vision: Vision) -> Written:
        word = {"day": "on", "night": "off", "auto": "auto"}[vision]
        await self._camera.text(PTZ, {"ircutfilter": word, "camera": str(self._channel + 1)}, write=True)
        return Written(
            [], notes=[f"The filter was told {vision}; this camera does not say where it is, so nobody checked."]
        )

    async def _configure(self, state: State, wanted: Mapping[str, Any]) -> Written:
        before = state.configuration
        pending = {CONFIGURATION[name]: value for name, value in wanted.items() if not same(before.get(name), value)}
        if not pending:
            return Written(_compared(wanted, before, before), notes=[ALREADY])
        refusal: Rejected | None = None
        try:
            await self._camera.call(
                DAYNIGHT, "setConfiguration", {"channel": self._channel, **pending}, meanings=MEANINGS, write=True
            )
        except Rejected as error:
            refusal = error
        data = await self._camera.call(DAYNIGHT, "getConfiguration", {"channel": self._channel}, meanings=MEANINGS)
        after = parse_configuration(data, self._channel)
        if refusal is not None and after == before:
            raise refusal
        return judged(_compared(wanted, before, after), (), refusal.message if refusal is not None else None)


def _compared(wanted: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    return [
        Change(setting=name, parameter=CONFIGURATION[name], before=before.get(name), asked=value, after=after.get(name))
        for name, value in wanted.items()
    ]


def _cannot(name: str, state: State) -> Unsupported:
    return Unsupported(
        f"The camera has no {name}; it has: {', '.join(state.settable) or 'nothing that can be set'}.",
        hint="Nothing was changed.",
    )


def _in_our_words(change: Change) -> Change:
    """Say day, night or auto, whatever the camera calls it, so that `before` can be given as it is."""
    if change.setting != "ir_cut_filter":
        return change
    return change.model_copy(
        update={
            side: vision(str(said)) or said for side in ("before", "asked", "after") if (said := getattr(change, side))
        }
    )
