"""What an event is about, in a word, and whether what it tells of is so.

Which topics tell of motion, sound, a light or a port differs by firmware and by camera application: Home Assistant's `axis` library has
learnt it from the cameras of many homes. It reads no bytes here, only a topic that was already taken apart and bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from axis.models.event import TOPIC_TO_GROUP, Event, EventGroup


class Kind(StrEnum):
    """What events are about."""

    PORT = "port"
    MOTION = "motion"
    SOUND = "sound"
    LIGHT = "light"
    PTZ = "ptz"


_KINDS = {
    # A topic of ports does not say which way a port goes: on most cameras one and the same tells of inputs and of outputs.
    EventGroup.INPUT: Kind.PORT,
    EventGroup.OUTPUT: Kind.PORT,
    EventGroup.MOTION: Kind.MOTION,
    EventGroup.SOUND: Kind.SOUND,
    EventGroup.LIGHT: Kind.LIGHT,
    EventGroup.PTZ: Kind.PTZ,
}
_MORE = {"tns1:Device/tnsaxis:IO/OutputPort": Kind.PORT, "tns1:Device/Trigger/DigitalInput": Kind.PORT}
"""What the library does not know."""
_SO, _NOT_SO = {"1", "true", "on", "active"}, {"0", "false", "off", "inactive"}
"""How cameras write a state, in any case; which of these depends on the topic and the firmware."""


def topics_of(kinds: Iterable[Kind]) -> list[str]:
    """The topic filters that take events of these kinds.

    >>> topics_of([Kind.SOUND])
    ['tns1:AudioSource/tnsaxis:TriggerLevel//.']
    """
    wanted = set(kinds)
    known = {topic.value: _KINDS[group] for topic, group in TOPIC_TO_GROUP.items()} | _MORE
    return [f"{topic}//." for topic, kind in known.items() if kind in wanted]


def meaning(topic: str, data: Mapping[str, str]) -> tuple[Kind | None, bool | None]:
    """What an event is about, and whether it is so now; None for what is not known.

    >>> meaning("tns1:Device/tnsaxis:Light/Status", {"state": "ON"})
    (<Kind.LIGHT: 'light'>, True)
    >>> meaning("tnsaxis:CameraApplicationPlatform/VMD/Camera1Profile1", {"active": "0"})
    (<Kind.MOTION: 'motion'>, False)
    >>> meaning("tnsaxis:Storage/Recording", {"recording": "1"})
    (None, None)
    """
    kind = _MORE.get(topic) or _KINDS.get(Event.decode({"topic": topic}).group)
    if kind is None:
        return None, None
    said = [word for value in data.values() if (word := value.lower()) in _SO | _NOT_SO]
    return kind, said[0] in _SO if said else None
