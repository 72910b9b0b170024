"""Changes of a camera's parameters: checked against what the camera says it takes, written, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import Rejected, Unanswered, Unsupported
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._wire import Nonsense

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera
    from tasks.network.vapix._wire import Definition

Scalar = str | int | float | bool | None

_TRUE = ("yes", "on", "true")
_FALSE = ("no", "off", "false")
ALREADY = "It was so already; nothing was sent."
LONGEST_SHOWN = 200
"""Characters of a device's list of choices that an error shows."""


class Change(BaseModel):
    """One setting before and after: what to give to have the old value back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: str = Field(description="Name of the setting, as this tool's parameters call it.")
    parameter: str | None = Field(None, description="What the camera calls it.")
    before: Scalar = Field(None, description="Value before; giving it again undoes the change.")
    asked: Scalar = Field(None, description="Value asked for; None where it changed along with another one.")
    after: Scalar = Field(None, description="Value that was read back.")

    @property
    def held(self) -> bool:
        """Whether the camera has what was asked for."""
        return self.asked is None or same(self.after, self.asked)


@dataclass(frozen=True)
class Wanted:
    """One parameter to write: what the tool calls it, what the camera calls it, and the literal to send."""

    setting: str
    parameter: str
    value: str


@dataclass(frozen=True)
class Written:
    """What became of a write.

    Attributes:
        changes: Settings asked for, then those that changed along with them.
        refused: Why the camera does not have what was asked for; None when it does.
        notes: What a reader should know besides.
    """

    changes: list[Change]
    refused: str | None = None
    notes: list[str] = field(default_factory=list)


def same(one: Scalar, other: Scalar) -> bool:
    """Whether two values mean the same: numbers by value, words whatever their case.

    >>> same("050", 50), same("Auto", "auto"), same("yes", "no")
    (True, True, False)
    """
    left, right = str(one).strip().lower(), str(other).strip().lower()
    if left == right:
        return True
    try:
        return float(left) == float(right)
    except ValueError:
        return False


def switch_literal(setting: str, definition: Definition, on: bool) -> str:
    """Return the camera's word for on or off: some say yes and no, some on and off, some true and false.

    Raises:
        Unsupported: It has no such pair among its choices.
    """
    for yes, no in zip(_TRUE, _FALSE, strict=True):
        word = yes if on else no
        if word in definition.choices and (no if on else yes) in definition.choices:
            return word
    raise Unsupported(
        f"{setting} is no switch on this camera: it takes {_choices(definition)}.", hint="Nothing was changed."
    )


def check_value(setting: str, definition: Definition, value: str) -> None:
    """Hold a value against what the camera says it takes, before anything is sent.

    Raises:
        Rejected: The parameter is read-only there, or the value is none of the choices, out of the range, or too long.
    """
    if definition.readonly:
        raise Rejected(f"{setting} is read-only on this camera.", hint="Nothing was changed.")
    if definition.choices and value not in definition.choices:
        raise Rejected(
            f"{setting} takes {_choices(definition)} on this camera, not {value}.", hint="Nothing was changed."
        )
    low, high = definition.minimum, definition.maximum
    if low is not None or high is not None:
        try:
            number = float(value)
        except ValueError:
            raise Rejected(
                f"{setting} takes a number on this camera, not {value}.", hint="Nothing was changed."
            ) from None
        if (low is not None and number < low) or (high is not None and number > high):
            span = (
                f"{low:g} to {high:g}" if low is not None and high is not None else f"{low if high is None else high:g}"
            )
            raise Rejected(f"{setting} takes {span} on this camera, not {value}.", hint="Nothing was changed.")
    if definition.maxlen is not None and len(value) > definition.maxlen:
        raise Rejected(
            f"{setting} takes at most {definition.maxlen} characters on this camera.", hint="Nothing was changed."
        )


def check_all(wanted: Sequence[Wanted], definitions: Mapping[str, Definition]) -> None:
    """Hold all values against what the camera says it takes.

    Raises:
        Unsupported: It does not say.
        Rejected: It does not take one of them.
    """
    for one in wanted:
        if one.parameter not in definitions:
            raise undefined(one.setting)
        check_value(one.setting, definitions[one.parameter], one.value)


def undefined(setting: str) -> Unsupported:
    """The error about a setting of which the camera does not say what it takes."""
    return Unsupported(
        f"The camera does not say which values {setting} takes, so it is not changed.",
        hint="Does the account have the level operator?",
    )


def _choices(definition: Definition) -> str:
    text = ", ".join(definition.choices) or "something else"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


async def change_parameters(
    camera: Camera,
    wanted: Sequence[Wanted],
    before: Mapping[str, str],
    definitions: Mapping[str, Definition],
    *,
    groups: Sequence[str],
    names: Mapping[str, str],
) -> Written:
    """Write parameters and read them back, with all others of their groups, since some change along.

    Args:
        camera: The camera.
        wanted: What to write, in the order of the parameters.
        before: The groups as they are.
        definitions: What the camera says of them.
        groups: The groups that were read and are read again.
        names: The tool's names of the camera's parameters: others are not looked at, they may move by themselves.

    Raises:
        Rejected: The camera takes no such value (nothing was sent), or refused and changed nothing.
        Unanswered: The answer was lost; the hint has the values before.
    """
    check_all(wanted, definitions)
    pending = {one.parameter: one.value for one in wanted if not same(before.get(one.parameter), one.value)}
    if not pending:
        return Written([_change(one, before, before) for one in wanted], notes=["It was so already; nothing was sent."])
    refusal: Rejected | Nonsense | None = None
    try:
        await camera.set_parameters(pending)
    except (Rejected, Nonsense) as error:
        # Some of it may hold all the same: each parameter of a request stands alone.
        refusal = error
    except Unanswered as error:
        undo = ", ".join(f"{one.setting}={before.get(one.parameter)}" for one in wanted)
        raise Unanswered(error.message, hint=f"It may have arrived. Values before: {undo}.") from None
    after = await camera.parameters(*groups)
    changes = [_change(one, before, after) for one in wanted]
    if refusal is not None and not any(after.get(name) != before.get(name) for name in pending):
        if isinstance(refusal, Nonsense) or not refusal.hint:  # what an unclear answer leaves open was read back
            refusal.hint = "Nothing was changed."
        raise refusal
    said = refusal.message if refusal is not None else None
    asked = {one.parameter for one in wanted}
    along = [
        Change(setting=names[name], parameter=name, before=before[name], asked=None, after=after.get(name))
        for name in before
        if name in names and name not in asked and after.get(name) != before[name]
    ]
    return judged(changes, along, said)


def _change(one: Wanted, before: Mapping[str, str], after: Mapping[str, str]) -> Change:
    return Change(
        setting=one.setting,
        parameter=one.parameter,
        before=before.get(one.parameter),
        asked=one.value,
        after=after.get(one.parameter),
    )


def judged(changes: list[Change], along: Sequence[Change] = (), said: str | None = None) -> Written:
    """Say of changes that were read back whether the camera has what was asked for.

    A value between before and asked is what the camera made of it (a note); a value that stayed was ignored (a refusal).
    """
    ignored = [change for change in changes if not change.held and same(change.after, change.before)]
    made = [change for change in changes if not change.held and not same(change.after, change.before)]
    notes = [f"{change.setting}: asked for {change.asked}, the camera made it {change.after}." for change in made]
    notes += [f"{change.setting} changed along: {change.before} before, {change.after} now." for change in along]
    refused = None
    if ignored:
        stayed = ", ".join(f"{change.setting} is still {change.after}" for change in ignored)
        refused = f"The camera {'refused' if said else 'took it and did not do it'}: {stayed}."
        if said:
            refused = f"{refused} It said: {said}"
    elif said is not None:
        refused = said
    return Written([*changes, *along], refused, notes)


def together(parts: Sequence[Written], *, unsent: Sequence[str] = ()) -> Written:
    """What became of several writes, as of one; `unsent` names what was not tried after a refusal."""
    refused = next((part.refused for part in parts if part.refused), None)
    if refused is not None and unsent:
        refused = f"{refused} Not tried after that: {', '.join(unsent)}."
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    if ALREADY in notes and any(ALREADY not in part.notes for part in parts):
        notes.remove(ALREADY)
    return Written([change for part in parts for change in part.changes], refused, notes)


def verdict(written: Written, detail: str | None = None) -> dict[str, Any]:
    """The fields of a result's entry after a write; the conversation's own notes come last."""
    fields: dict[str, Any] = {"changes": written.changes, "notes": [*written.notes, *([detail] if detail else [])]}
    if written.refused is not None:
        fields |= {"outcome": CameraOutcome.REJECTED, "detail": written.refused}
    return fields


def summary(changes: Sequence[Change]) -> str:
    """Changes on one line.

    >>> summary([Change(setting="brightness", before="50", asked="55", after="55")])
    'brightness 50 -> 55'
    >>> summary([Change(setting="lit", before=False, asked=True, after=True)])
    'lit no -> yes'
    """
    return ", ".join(f"{change.setting} {_word(change.before)} -> {_word(change.after)}" for change in changes)


def _word(value: Scalar) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not told" if value is None else str(value)
