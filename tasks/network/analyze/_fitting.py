"""Keeps a report small enough for the ledger: 64 KiB of a result are kept, of a larger one nothing."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel

MOST_BYTES: Final = 60_000
"""What a report may take as JSON, with room for the capture's own fields."""


def fit(report: dict[str, Any], most_bytes: int = MOST_BYTES) -> list[str]:
    """Shorten a report's longest tables, from their ends, until it fits; say what was left out.

    Tables are sorted by weight, so what goes weighs least.

    Args:
        report: Plain data; its lists are its tables. Changed in place.
        most_bytes: Bytes it may take as JSON.

    Returns:
        Notes for the report's coverage; none when nothing had to go.
    """
    rows = {name: [_size(row) for row in value] for name, value in report.items() if isinstance(value, list)}
    total = sum(_size(value) for name, value in report.items() if name not in rows) + sum(map(sum, rows.values()))
    left_out: dict[str, int] = {}
    while total > most_bytes:
        longest = max(rows, key=lambda name: sum(rows[name]), default="")
        if not longest or not rows[longest]:
            break
        # A quarter at a time: several long tables shrink together.
        gone = max(1, len(rows[longest]) // 4)
        total -= sum(rows[longest][-gone:])
        del rows[longest][-gone:]
        left_out[longest] = left_out.get(longest, 0) + gone
    for name, count in left_out.items():
        del report[name][-count:]
    if not left_out:
        return []
    what = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(left_out.items()))
    return [f"Left out to keep the report small, those that weigh least: {what}."]


def _size(value: Any) -> int:
    if isinstance(value, BaseModel):
        return len(value.model_dump_json()) + 2
    return len(json.dumps(value, default=_plain, ensure_ascii=False).encode("utf-8", "replace")) + 2


def _plain(value: Any) -> Any:
    return json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else str(value)
