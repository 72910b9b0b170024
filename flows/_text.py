"""How values read on a screen or a page. Knows nothing of Prefect, so that the command line starts fast."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tasks.core.models import FileRef, ToolResult
from tasks.core.words import count as count  # noqa: PLC0414  for those who write with this module

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d+))?(?:Z|\+00:00)")
"""A UTC time as JSON has it; a table shows it to the second."""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal takes for commands, what turns the order of text around, and what no database keeps; not tab and line feed."""


def cell(value: Any) -> str:
    """Write one value for a table cell: short, no JSON where words do.

    >>> cell(["a", "b"]), cell(None), cell(1.23456), cell(True)
    ('a, b', '', '1.235', 'yes')
    >>> cell({"reset": 2, "refused": 0, "lost": 0}), cell([{"port": 22}, {"port": 80}])
    ('reset=2', 'port=22; port=80')
    >>> cell({"name": {"now": "dome", "static": "cam"}, "ports": [{"port": 22}, {"port": 80}]})
    'name=(now=dome, static=cam), ports=(port=22; port=80)'
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        if _is_file(value):
            return f"{value['name']} ({value['size_bytes']:,} bytes)"
        if len(value) > 2 and all(
            type(item) is int for item in value.values()
        ):  # how often each of many things happened
            return ", ".join(f"{key}={item}" for key, item in value.items() if item) or "none"
        return ", ".join(f"{key}={_inner(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    if isinstance(value, (list, tuple)):
        between = "; " if any(isinstance(item, Mapping) for item in value) else ", "
        return between.join(cell(item) for item in value)
    if isinstance(value, datetime):
        value = value.isoformat()
    text = str(value)
    moment = _MOMENT.fullmatch(text)
    return f"{moment[1]} {moment[2]}" if moment else text


def _inner(value: Any) -> str:
    """Write a value that stands inside of another: what has names or several parts of its own is held together."""
    several = isinstance(value, Mapping) or (
        isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value)
    )
    return f"({cell(value)})" if several and not _is_file(value) else cell(value)


def _number(value: float) -> str:
    """Write a number with four digits that count, and never with an exponent a person has to work out.

    >>> _number(145512.3), _number(0.000019), _number(12.345678)
    ('145,512', '0.000019', '12.35')
    """
    if 1e-4 <= abs(value) < 1e4 or value == 0 or not math.isfinite(value):
        return f"{value:.4g}"
    if abs(value) >= 1:
        return f"{value:,.0f}"
    text = f"{value:.6f}".rstrip("0")
    return f"{value:.4g}" if float(text) == 0 else text


def _is_file(value: Any) -> bool:
    """Whether this is a FileRef as JSON has it."""
    return isinstance(value, Mapping) and set(value) == set(FileRef.model_fields)


def _is_table(value: Any) -> bool:
    """Whether this is a list of objects; files of the store are told in a line instead."""
    return (
        bool(value) and isinstance(value, list) and all(isinstance(item, dict) and not _is_file(item) for item in value)
    )


def _grid(data: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a result that says its columns itself (`columns` with a name each, `rows` with a list each); None where none does."""
    columns, rows = data.get("columns"), data.get("rows")
    if not (_is_table(columns) and isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows)):
        return None
    names = [str(column.get("name")) for column in columns or ()]
    return [dict(zip(names, row, strict=True)) for row in rows] if all(len(row) == len(names) for row in rows) else None


def tables(result: ToolResult) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the tables of a result: each field that is a list of objects, its columns those that hold anything.

    Objects inside the objects (the ports of a host) become a table of their own, whose first columns say what they belong to.
    """
    data = result.model_dump(mode="json")
    grid = _grid(data)
    found = [("rows", _rows(grid, list(grid[0])))] if grid else []
    for name, value in data.items():
        if _is_table(value) and not (grid and name == "columns"):
            found += _with_inner(name.replace("_", " "), value)
    return found


def _with_inner(title: str, items: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, str]]]]:
    keys = list(items[0])
    inner = [key for key in keys if any(_is_table(item.get(key)) for item in items)]
    outer = [key for key in keys if key not in inner]
    found = [(title, _rows(items, outer))] if outer else []
    owner = _identity(items, outer)
    for key in inner:
        children = [
            # What both call alike is the child's own.
            {**{name: item.get(name) for name in owner}, **child}
            for item in items
            for child in item.get(key) or ()
        ]
        names = list(dict.fromkeys([*owner, *(name for child in children for name in child)]))
        found.append((f"{title}: {key.replace('_', ' ')}", _rows(children, names)))
    return found


def _identity(items: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """The first columns of a table, as many (three at most) as tell its rows apart."""
    plain = [
        key for key in keys if all(not isinstance(item.get(key), (list, dict)) for item in items) and items[0].get(key)
    ]
    for many in (1, 2, 3):
        if len({tuple(item.get(key) for key in plain[:many]) for item in items}) == len(items):
            return plain[:many]
    return plain[:3]


def _rows(items: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, str]]:
    columns = {key: _column([item.get(key) for item in items]) for key in keys}
    kept = {key.replace("_", " "): texts for key, texts in columns.items() if any(texts)}
    return [{name: texts[place] for name, texts in kept.items()} for place in range(len(items))]


def _column(values: Sequence[Any]) -> list[str]:
    """Write a column; times that differ by less than a second get their milliseconds."""
    texts = [cell(value) for value in values]
    moments = [_MOMENT.fullmatch(value) if isinstance(value, str) else None for value in values]
    if all(moments) and len(set(texts)) < len(set(values)):
        return [
            f"{text}.{(moment['fraction'] or '')[:3]:0<3}"
            for text, moment in zip(texts, moments, strict=True)
            if moment
        ]
    return texts


def facts(result: ToolResult) -> dict[str, str]:
    """Return what a result says outside its tables, name to text, empty values left out."""
    said = {}
    data = result.model_dump(mode="json")
    grid = _grid(data)
    for name, value in data.items():
        if not _is_table(value) and value not in (None, "", [], {}) and not (grid and name == "rows"):
            unit = " s" if name == "duration" else ""
            said[name.replace("_", " ")] = f"{cell(value)}{unit}"
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


def join(parts: Iterable[str]) -> str:
    """Join what is not empty with commas."""
    return ", ".join(part for part in parts if part)
