"""What a camera's event is, and how events are named and chosen: the same for both transports.

A topic is a path of names, `tns1:Device/tnsaxis:IO/Port`; `tns1:` is ONVIF's tree and `tnsaxis:` the maker's own. In RTSP URLs the same
trees are called `onvif:` and `axis:`. `//.` behind a topic means everything below it; alone it means every event.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.network.vapix._events_kinds import Kind, meaning

SUBTREE = "//."
EVERYTHING = SUBTREE
LONGEST_TOPIC = 300
LONGEST_NAME = 100
LONGEST_VALUE = 500
MOST_ITEMS = 32
"""Most items of an event that are kept; cameras send one to five."""
REMEMBERED = 4096
"""Events that are remembered to notice a second delivery."""

_PREFIX = {"onvif": "tns1", "axis": "tnsaxis", "tns1": "tns1", "tnsaxis": "tnsaxis"}
_RTSP_PREFIX = {"tns1:": "onvif:", "tnsaxis:": "axis:"}
_STEP = re.compile(r"(?:([A-Za-z0-9]+):)?([A-Za-z_][A-Za-z0-9_.-]*)\Z")
_ITEM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}\Z")
RIGHT_TOPIC = "right would be tns1:Device/tnsaxis:IO/Port, or tns1:Device//. for all below"


def parse_topic(given: Any) -> str:
    """Return a topic in our spelling; `onvif:` and `axis:` become `tns1:` and `tnsaxis:`.

    >>> parse_topic("onvif:Device/axis:IO/Port//.")
    'tns1:Device/tnsaxis:IO/Port//.'

    Raises:
        ValueError: It is none; the message says what would be right.
    """
    if not isinstance(given, str):
        raise ValueError(f"a topic is text; {RIGHT_TOPIC}")
    text: str = given.strip()
    if text == EVERYTHING:
        return text
    if not text or len(text) > LONGEST_TOPIC:
        raise ValueError(f"a topic has 1 to {LONGEST_TOPIC} characters; {RIGHT_TOPIC}")
    path, below = (text.removesuffix(SUBTREE), SUBTREE) if text.endswith(SUBTREE) else (text, "")
    steps = []
    for number, step in enumerate(path.split("/")):
        match = _STEP.match(step)
        prefix = _PREFIX.get(match[1], "") if match and match[1] else None
        if match is None or prefix == "":
            raise ValueError(f"{text!r} is not a topic: {step!r} is no step of one; {RIGHT_TOPIC}")
        if number == 0 and prefix is None:
            raise ValueError(f"{text!r} is not a topic: it begins with neither tns1: nor tnsaxis:; {RIGHT_TOPIC}")
        steps.append(f"{prefix}:{match[2]}" if prefix else match[2])
    return "/".join(steps) + below


def rtsp_topic(topic: str) -> str:
    """The topic as RTSP URLs name it.

    >>> rtsp_topic("tns1:Device/tnsaxis:IO/Port")
    'onvif:Device/axis:IO/Port'
    """
    return re.sub(r"\b(tns1|tnsaxis):", lambda match: _RTSP_PREFIX[match[0]], topic)


def covers(wanted: str, topic: str) -> bool:
    """Whether a topic filter takes a topic, or everything another filter takes.

    >>> covers("tns1:Device//.", "tns1:Device/tnsaxis:IO/Port")
    True
    >>> covers("tns1:Device", "tns1:Device/tnsaxis:IO/Port")
    False
    """
    if wanted == EVERYTHING:
        return True
    if wanted.endswith(SUBTREE):
        root = wanted.removesuffix(SUBTREE)
        path = topic.removesuffix(SUBTREE)
        return topic != EVERYTHING and (path == root or path.startswith(f"{root}/"))
    return wanted == topic


def least(topics: Iterable[str]) -> list[str]:
    """The filters that are needed: one that another takes in as well would only bring events twice."""
    distinct = list(dict.fromkeys(topics))
    return [topic for topic in distinct if not any(covers(other, topic) for other in distinct if other != topic)]


def parse_items(given: Mapping[str, str]) -> dict[str, str]:
    """Check items that an event must have, such as port = 0 and state = 1.

    Raises:
        ValueError: A name or value that no event has.
    """
    for name, value in given.items():
        if not _ITEM_NAME.match(name):
            raise ValueError(f"{name[:60]!r} is not the name of an item; right would be port or state")
        if len(value) > 200 or not value.isprintable() or '"' in value:
            raise ValueError(
                f"the value of {name} must be at most 200 characters without quotation marks or line breaks"
            )
    return dict(given)


def content_filter(items: Mapping[str, str]) -> str:
    """Write items as the message content filter cameras understand (ONVIF's ItemFilter dialect).

    >>> content_filter({"port": "0"})
    'boolean(//SimpleItem[@Name="port" and @Value="0"])'
    """
    return " and ".join(f'boolean(//SimpleItem[@Name="{name}" and @Value="{value}"])' for name, value in items.items())


class Change(StrEnum):
    """What an event says about the state it tells of; only RTSP says it."""

    INITIAL = "initial"
    CHANGED = "changed"
    DELETED = "deleted"


class CameraEvent(BaseModel):
    """One event as a camera told it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime | None = Field(None, description="When, by the camera's clock (UTC); None when it does not say.")
    kind: Kind | None = Field(
        None, description="What it is about: port, motion, sound, light or ptz; None for anything else."
    )
    active: bool | None = Field(
        None,
        description="Whether that is so now: motion seen, port active, lit (or day), moving (or at the preset). None where not known.",
    )
    topic: str = Field(description="Its topic, such as tns1:Device/tnsaxis:IO/Port.")
    change: Change | None = Field(
        None,
        description="initial (the state when we began to listen), changed or deleted; None where the camera does not say.",
    )
    source: dict[str, str] = Field(default_factory=dict, description="Where it comes from, such as port = 0.")
    key: dict[str, str] = Field(
        default_factory=dict, description="What tells it from others of the same source; mostly empty."
    )
    data: dict[str, str] = Field(default_factory=dict, description="What it says, such as state = 1.")
    received_at: datetime = Field(description="When it came here (UTC).")

    def has(self, items: Mapping[str, str]) -> bool:
        """Whether it has all these items with these values."""
        return all(
            value in (self.source.get(name), self.data.get(name), self.key.get(name)) for name, value in items.items()
        )


def clean(text: Any, limit: int = LONGEST_VALUE) -> str:
    r"""What a camera said, as text that is safe to show: no control characters, not longer than `limit`.

    >>> clean("gate\x1b[31m\nopen")
    'gate [31m open'
    """
    if isinstance(text, bool):
        return "1" if text else "0"
    words = str(text)[: 4 * limit]
    words = "".join(character if character.isprintable() else " " for character in words).strip()
    return words if len(words) <= limit else f"{words[: limit - 3]}..."


def clean_items(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Items as a camera sent them, bounded and cleaned."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if len(found) >= MOST_ITEMS:
            break
        found[clean(name, LONGEST_NAME)] = clean("" if value is None else value)
    return found


def told_topic(text: Any) -> str:
    """A topic as a camera wrote it, in our spelling where it is one; 10.12 appends `//.`."""
    words = clean(text, LONGEST_TOPIC)
    try:
        return parse_topic(words).removesuffix(SUBTREE) or words
    except ValueError:
        return words


def told_event(topic: str, data: Mapping[str, str], **fields: Any) -> CameraEvent:
    """An event as a camera wrote it, with what it means; `fields` are the other ones of `CameraEvent`."""
    spelt = told_topic(topic)
    kind, active = meaning(spelt, data)
    return CameraEvent(topic=spelt, data=dict(data), kind=kind, active=active, **fields)


def moment(milliseconds: Any) -> datetime | None:
    """A time given in milliseconds since 1970; None when that is none."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass
class Sieve:
    """Keeps the events that were asked for, each once.

    Attributes:
        topics: Topic filters; an event must be taken by one of them. Cameras filter as well, but not all the same.
        items: Items an event must have.
        duplicates: Second deliveries that were dropped.
        others: Events that were not asked for.
    """

    topics: Sequence[str]
    items: Mapping[str, str] = field(default_factory=dict)
    duplicates: int = 0
    others: int = 0
    _seen: OrderedDict[tuple[Any, ...], None] = field(default_factory=OrderedDict)

    def takes(self, event: CameraEvent) -> bool:
        """Whether the event is wanted and new. One without a time cannot be told from the next of its kind, so it is new."""
        if not any(covers(topic, event.topic) for topic in self.topics) or not event.has(self.items):
            self.others += 1
            return False
        if event.at is None:
            return True
        sides = (tuple(sorted(side.items())) for side in (event.source, event.key, event.data))
        mark = (event.at, event.topic, event.change, *sides)
        if mark in self._seen:
            self.duplicates += 1
            return False
        self._seen[mark] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True
