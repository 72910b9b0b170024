"""Tables that grow with what a capture holds, and stop growing before memory does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from tasks.network.analyze._report import MOST_FRAMES, Finding, Severity

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_ENTRIES = 20_000
"""Entries of a table: a scan or a generator of random names must not fill the memory."""
MOST_SUBJECTS = 2_000
"""Subjects of findings; the report shows far fewer."""


class Tally(Generic[K, V]):
    """A dictionary that makes its values and holds at most so many; what comes later is counted, not kept.

    Args:
        make: Makes a new entry.
        most: Entries it holds.
    """

    __slots__ = ("_entries", "_make", "_most", "left_out")

    def __init__(self, make: Callable[[], V], most: int = MOST_ENTRIES) -> None:
        self._make = make
        self._most = most
        self._entries: dict[K, V] = {}
        self.left_out = 0

    def entry(self, key: K) -> V | None:
        """The entry of a key, made when it is new; None when the table is full."""
        found = self._entries.get(key)
        if found is None:
            if len(self._entries) >= self._most:
                self.left_out += 1
                return None
            found = self._entries[key] = self._make()
        return found

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter(self._entries.items())

    def top(self, count: int, rank: Callable[[V], float]) -> list[tuple[K, V]]:
        """The entries of the highest rank, the highest first; of equals, the first seen."""
        return sorted(self._entries.items(), key=lambda item: -rank(item[1]))[:count]


class _Seen:
    __slots__ = ("count", "finding", "frames")

    def __init__(self) -> None:
        self.count = 0
        self.frames: list[int] = []
        self.finding: tuple[Severity, str, str, str] | None = None


class Findings:
    """Collects findings: one for each kind and subject, with how often and the first frames."""

    def __init__(self) -> None:
        self._seen: Tally[tuple[str, Hashable], _Seen] = Tally(_Seen, MOST_SUBJECTS)

    def add(
        self, code: str, subject: Hashable, frame: int | None, say: Callable[[], tuple[Severity, str, str, str]]
    ) -> None:
        """Note something.

        Args:
            code: The finding's stable name.
            subject: What it is about: the same subject makes one finding that counts.
            frame: The frame that shows it.
            say: Gives severity, what, why and action; called once for each subject.
        """
        seen = self._seen.entry((code, subject))
        if seen is None:
            return
        seen.count += 1
        if frame and len(seen.frames) < MOST_FRAMES and frame not in seen.frames:
            seen.frames.append(frame)
        if seen.finding is None:
            seen.finding = say()

    def all(self) -> list[Finding]:
        """What was found, in no order."""
        found = []
        for (code, _), seen in self._seen:
            assert seen.finding is not None
            severity, what, why, action = seen.finding
            found.append(
                Finding(
                    severity=severity,
                    code=code,
                    what=what,
                    why=why,
                    action=action,
                    count=seen.count,
                    frames=seen.frames,
                )
            )
        return found
