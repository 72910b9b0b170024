"""What an event is about, in a word, and whether what it tells of is so: as Home Assistant's `axis` library knows the topics.

Which topics tell of motion and which of an input, and what a light's or a relay's state is called, differs by firmware and by camera
application. That library has learnt it from the cameras of many homes; it reads no bytes here, only a topic and a value that were already
taken apart and bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from axis.models.event import TOPIC_TO_GROUP, TOPIC_TO_STATE, Event, EventTopic


class Kind(StrEnum):
    """What events are about."""

    INPUT = "input"
    OUTPUT = "output"
    MOTION = "motion"
    SOUND = "sound"
    LIGHT = "light"
    PTZ = "ptz"


_TWO_STATES = {"0", "1", "true", "false", "on", "off", "active", "inactive"}


def topics_of(kinds: Iterable[Kind]) -> list[str]:
    """The topic filters that take events of these kinds.

    >>> topics_of([Kind.OUTPUT])
    ['tns1:Device/Trigger/Relay//.']
    """
    wanted = {kind.value for kind in kinds}
    return [f"{topic.value}//." for topic, group in TOPIC_TO_GROUP.items() if group.value in wanted]


def meaning(topic: str, data: Mapping[str, str]) -> tuple[Kind | None, bool | None]:
    """What an event is about, and whether it is so now; None for what is not known.

    >>> meaning("tns1:Device/tnsaxis:Light/Status", {"state": "ON"})
    (<Kind.LIGHT: 'light'>, True)
    >>> meaning("tnsaxis:CameraApplicationPlatform/VMD/Camera1Profile1", {"active": "0"})
    (<Kind.MOTION: 'motion'>, False)
    >>> meaning("tnsaxis:Storage/Recording", {"recording": "1"})
    (None, None)
    """
    value = next((said for said in data.values() if said.lower() in _TWO_STATES), None)
    # Newer firmware may write 1 as true; the states with names of their own keep them.
    spelt = {"true": "1", "false": "0"}.get((value or "").lower(), value or "")
    told = Event.decode({"topic": topic, "value": spelt})
    if told.topic_base is EventTopic.UNKNOWN:
        return None, None
    so = spelt.lower() == TOPIC_TO_STATE.get(told.topic_base, "1").lower()
    return Kind(told.group.value), so if value is not None else None
