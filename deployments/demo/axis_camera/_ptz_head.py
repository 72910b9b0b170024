"""The moving head of a simulated camera: axes with limits, motion over time, presets, and a queue of those who want control."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Axis:
    """One motor. Its place is worked out when somebody asks, so a camera that moves costs nothing.

    Attributes:
        low, high: Its limits; what is asked beyond them is clamped without a word, as devices do.
        per_second: How far it goes in a second at full speed.
        endless: Whether it turns through: beyond 180 comes -180.
        driven: The velocity of a continuous move, units a second, which never ends by itself; 0 when there is none.
    """

    low: float
    high: float
    value: float
    per_second: float
    endless: bool = False
    driven: float = 0.0
    _goal: float | None = None
    _speed: float = 0.0
    _since: float = 0.0

    def at(self, now: float) -> float:
        """Where it is."""
        passed = max(0.0, now - self._since)
        if self._goal is not None:
            way = self._goal - self.value
            gone = min(abs(way), self._speed * passed)
            return self._placed(self.value + (gone if way > 0 else -gone))
        return self._placed(self.value + self.driven * passed)

    def go(self, goal: float, now: float, share: float) -> None:
        """Move to a place, at a share of full speed."""
        self._settle(now)
        self._goal = goal if self.endless else min(self.high, max(self.low, goal))
        self._speed = max(1e-6, self.per_second * share)

    def shift(self, by: float, now: float, share: float) -> None:
        """Move by an amount from where it is."""
        self.go(self.at(now) + by, now, share)

    def drive(self, share: float, now: float) -> None:
        """Move on and on with a share of full speed, -1 to 1; 0 stops."""
        self._settle(now)
        self.driven = self.per_second * share

    def ends_at(self, now: float) -> float | None:
        """When the present motion ends by itself; None when there is none, or it does not end."""
        if self._goal is not None:
            end = self._since + abs(self._goal - self.value) / self._speed
            return end if end > now else None
        if self.driven and not self.endless:
            way = (self.high if self.driven > 0 else self.low) - self.value
            end = self._since + way / self.driven
            return end if end > now else None
        return None

    def moving(self, now: float) -> bool:
        """Whether it moves at this moment."""
        return self.ends_at(now) is not None or bool(self.driven and self.endless)

    def _settle(self, now: float) -> None:
        self.value, self._since = self.at(now), now
        self._goal, self.driven = None, 0.0

    def _placed(self, value: float) -> float:
        if self.endless:
            return (value + 180.0) % 360.0 - 180.0 if not -180.0 <= value <= 180.0 else value
        return min(self.high, max(self.low, value))


@dataclass
class Place:
    """A stored preset."""

    name: str
    values: dict[str, float]


@dataclass
class Control:
    """One who waits for control, or has it."""

    who: str
    until: float


@dataclass
class Head:
    """A pan-tilt-zoom head.

    Attributes:
        axes: The motors by name: pan, tilt, zoom, and what lens there is.
        speed: The speed of absolute and relative moves, 1 to 100.
        presets: By number; the order of the numbers is the order of the device's file.
        home: Number of the preset that is home; without one, home is the middle.
        queue: Those who asked for control, the first of them has it.
    """

    axes: dict[str, Axis]
    speed: int = 100
    switches: dict[str, bool] = field(default_factory=lambda: {"autofocus": True, "autoiris": True})
    presets: dict[int, Place] = field(default_factory=dict)
    home: int | None = 1
    queue: list[Control] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def position(self) -> dict[str, float]:
        """Where every axis is."""
        now = self.clock()
        return {name: axis.at(now) for name, axis in self.axes.items()}

    def moving(self) -> bool:
        """Whether anything moves at this moment."""
        now = self.clock()
        return any(axis.moving(now) for axis in self.axes.values())

    def driven(self) -> bool:
        """Whether a continuous move was begun and never stopped."""
        return any(axis.driven for axis in self.axes.values())

    def rests_in(self) -> float | None:
        """Seconds until everything rests by itself; None when something never does."""
        now = self.clock()
        if any(axis.driven and axis.endless for axis in self.axes.values()):
            return None
        return max((end - now for axis in self.axes.values() if (end := axis.ends_at(now)) is not None), default=0.0)

    def go(self, values: dict[str, float], speed: int | None = None) -> None:
        """Move axes to places."""
        now, share = self.clock(), (speed or self.speed) / 100
        for name, value in values.items():
            if name in self.axes:
                self.axes[name].go(value, now, share)

    def shift(self, name: str, by: float, speed: int | None = None) -> None:
        """Move an axis by an amount."""
        if name in self.axes:
            self.axes[name].shift(by, self.clock(), (speed or self.speed) / 100)

    def drive(self, name: str, percent: float) -> None:
        """Move an axis on and on; 0 stops it."""
        if name in self.axes:
            self.axes[name].drive(min(100.0, max(-100.0, percent)) / 100, self.clock())

    def stop(self) -> None:
        """Stop pan and tilt, as `move=stop` does, and the zoom."""
        for name in ("pan", "tilt", "zoom"):
            self.drive(name, 0)

    def go_home(self) -> None:
        """Move to the home preset, or to the middle."""
        place = self.presets.get(self.home) if self.home is not None else None
        self.go(dict(place.values) if place else {"pan": 0.0, "tilt": 0.0, "zoom": 1.0})

    def preset(self, name: str) -> int | None:
        """The number of the preset of this name."""
        return next((number for number, place in sorted(self.presets.items()) if place.name == name), None)

    def keep(self, number: int, name: str) -> None:
        """Store where it is as a preset."""
        self.presets[number] = Place(name, self.position())

    def free_number(self) -> int:
        """The lowest number without a preset."""
        return next(number for number in range(1, len(self.presets) + 2) if number not in self.presets)

    def on_preset(self) -> int | None:
        """The preset it rests at, if any."""
        here = self.position()
        for number, place in sorted(self.presets.items()):
            if all(abs(here[axis] - place.values[axis]) < 0.01 for axis in ("pan", "tilt") if axis in place.values):
                return number
        return None

    def place_in_queue(self, who: str) -> int:
        """1 is in control, 0 is not waiting at all. Those whose time is over are gone."""
        now = self.clock()
        self.queue = [member for member in self.queue if member.until > now]
        return next((place for place, member in enumerate(self.queue, start=1) if member.who == who), 0)

    def request(self, who: str, seconds: float) -> int:
        """Ask for control, or for more time of it."""
        place = self.place_in_queue(who)
        if not place:
            self.queue.append(Control(who, self.clock() + seconds))
            return len(self.queue)
        self.queue[place - 1].until = self.clock() + seconds
        return place

    def drop(self, who: str) -> None:
        """Give control back."""
        self.queue = [member for member in self.queue if member.who != who]

    def seconds_left(self, who: str) -> int:
        """Whole seconds until control ends."""
        now = self.clock()
        return next((max(0, round(member.until - now)) for member in self.queue if member.who == who), 0)
