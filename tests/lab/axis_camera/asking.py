"""What tests of the camera tools ask under, and how they look at the answer; the asking is the fixture `asking` beside these tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from lab.axis_camera import Camera

from blocks.policy import ProbePolicy
from tasks.network.vapix._imaging_change import Change

UNHURRIED = ProbePolicy(host_packets_per_second=0)
DESTROYING = ProbePolicy(host_packets_per_second=0, ceiling="destroy")
FAST = ProbePolicy(host_packets_per_second=0, packets_per_second=100_000)
"""For many cameras at once: without the site's own limit too."""

Asking = Callable[..., Callable[..., Awaitable[Any]]]
"""The fixture `asking`: from a tool and what its tests mostly say, their `ask`."""

E_co = TypeVar("E_co", covariant=True)


class Entries(Protocol[E_co]):
    """A result with an entry for each camera."""

    @property
    def cameras(self) -> Sequence[E_co]: ...


class Changed(Protocol):
    """A camera's entry that tells what was changed."""

    @property
    def changes(self) -> Sequence[Change]: ...


def only(result: Entries[E_co]) -> E_co:
    """The entry of the one camera that was asked."""
    [entry] = result.cameras
    return entry


def values(entry: Changed) -> dict[str, tuple[Any, Any]]:
    """What was changed: before and after, by the setting's name."""
    return {change.setting: (change.before, change.after) for change in entry.changes}


def updates(camera: Camera) -> list[str]:
    """The changes of parameters (param.cgi) a camera was sent, as they were sent."""
    asked = [one for one in camera.requests if one.path == "/axis-cgi/param.cgi"]
    return [one.body.decode() for one in asked if b"action=update" in one.body]
