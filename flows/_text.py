"""How values read on a screen or a page. Knows nothing of Prefect, so that the command line starts fast."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tasks.core.models import ToolResult

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|\+00:00)")
"""A UTC time as JSON has it; a table shows it to the second."""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal takes for commands, what turns the order of text around, and what no database keeps; not tab and line feed."""


def cell(value: Any) -> str:
    """Write one value for a table cell: short, no JSON where words do.

    >>> cell(["a", "b"]), cell(None), cell(1.23456), cell(True)
    ('a, b', '', '1.235', 'yes')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, datetime):
        value = value.isoformat()
    text = str(value)
    moment = _MOMENT.fullmatch(text)
    return f"{moment[1]} {moment[2]}" if moment else text


def tables(result: ToolResult) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the tables of a result: each field that is a list of objects, its columns those that hold anything."""
    found = []
    for name, value in result.model_dump(mode="json").items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            rows = [{key.replace("_", " "): cell(item) for key, item in row.items()} for row in value]
            columns = [column for column in rows[0] if any(row.get(column) for row in rows)]
            found.append(
                (name.replace("_", " "), [{column: row.get(column, "") for column in columns} for row in rows])
            )
    return found


def facts(result: ToolResult) -> dict[str, str]:
    """Return what a result says outside its tables, name to text, empty values left out."""
    said = {}
    for name, value in result.model_dump(mode="json").items():
        is_table = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        if not is_table and value not in (None, "", [], {}):
            said[name.replace("_", " ")] = cell(value)
    return said


def markdown_table(rows: Sequence[Mapping[str, Any]], most: int = 50) -> str:
    """Write rows as a markdown table; every value is escaped, for names on the wire are chosen by strangers."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = ["| " + " | ".join(escape(column) for column in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(escape(cell(row.get(column))) for column in columns) + " |" for row in rows[:most]]
    if len(rows) > most:
        lines.append(f"\n... and {len(rows) - most} more.")
    return "\n".join(lines)


def escape(text: str) -> str:
    r"""Make text from a network harmless in markdown and HTML.

    >>> escape("<script>|`x`")
    '&lt;script&gt;\\|\\`x\\`'
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ").replace("\r", " ")
    text = harmless(text)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def harmless(text: str) -> str:
    r"""Make text from a network harmless on a terminal: nothing in it moves the cursor, sets the title or reads backwards.

    >>> harmless("a\x1b[2Jb\tc") == "a\ufffd[2Jb\tc"
    True
    """
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    >>> count(1, "host"), count(2, "host"), count(0, "address", "addresses")
    ('1 host', '2 hosts', '0 addresses')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def join(parts: Iterable[str]) -> str:
    """Join what is not empty with commas."""
    return ", ".join(part for part in parts if part)
