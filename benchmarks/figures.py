"""One line of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, in the words of a reader.

    Attributes:
        what: What was done.
        ours: What it took here.
        bare: What the bare thing took; empty where there is none.
        ratio: Ours by bare, or what stands for it.
        goal: What it should be; empty where none is set.
        good: Whether the goal is met; None without one.
    """

    what: str
    ours: str
    bare: str = ""
    ratio: str = ""
    goal: str = ""
    good: bool | None = None

    @property
    def verdict(self) -> str:
        """The goal and whether it is met."""
        return self.goal if self.good is None else f"{self.goal}: {'met' if self.good else 'MISSED'}"


HEAD = ("what", "here", "bare", "ratio", "goal")


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Rows of cells, in the order of `HEAD`."""
    return [(figure.what, figure.ours, figure.bare, figure.ratio, figure.verdict) for figure in figures]


def as_text(figures: Sequence[Figure]) -> str:
    """Make a table for a terminal."""
    table = [HEAD, *rows(figures)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def as_markdown(figures: Sequence[Figure]) -> str:
    """Make a table for a page."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(figures))])


def median(values: Sequence[float]) -> float:
    """The middle one: a busy moment of the machine does not move it."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
