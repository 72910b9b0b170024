"""How a result reads: tables for the screen and markdown for the run page, from the typed result alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from tasks.core.models import ToolParams, ToolResult
from tasks.core.registry import ToolSpec

MOST_ROWS = 500
"""Rows of a table artifact; the ledger and the evidence have the rest."""


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
    return str(value)


def tables(result: ToolResult) -> list[tuple[str, list[dict[str, str]]]]:
    """Return the tables of a result: each field that is a list of objects, its columns those that hold anything."""
    found = []
    for name, value in result.model_dump(mode="json").items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            rows = [{key.replace("_", " "): cell(item) for key, item in row.items()} for row in value]
            columns = [column for column in rows[0] if any(row.get(column) for row in rows)]
            found.append((name.replace("_", " "), [{column: row.get(column, "") for column in columns} for row in rows]))
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
    """Make text from a network harmless in markdown and HTML.

    >>> escape("<script>|`x`")
    '&lt;script&gt;\\\\|\\\\`x\\\\`'
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ").replace("\r", " ")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def artifact_key(*parts: str) -> str:
    """Make an artifact key: lower-case letters, digits and dashes only.

    >>> artifact_key("run_tool", "DNS Lookup")
    'run-tool-dns-lookup'
    """
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


async def publish_result(spec: ToolSpec, params: ToolParams, result: ToolResult) -> None:
    """Put a tool's result on the run page: one summary a person reads, and a table artifact for each list."""
    found = tables(result)
    said = facts(result)
    lines = [f"## {escape(result.headline())}", ""]
    if said:
        lines += [markdown_table([{"what": name, "value": value} for name, value in said.items()], most=40), ""]
    for title, rows in found:
        lines += [f"### {title}", "", markdown_table(rows), ""]
    asked = json.dumps(params.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
    lines += [f"Asked: `{spec.name}` with `{asked[:1000].replace('`', chr(39))}`"]
    await acreate_markdown_artifact(key=artifact_key("result", spec.name), markdown="\n".join(lines), description=result.headline()[:200])
    for title, rows in found:
        await acreate_table_artifact(
            key=artifact_key("table", spec.name, title), table=[dict(row) for row in rows[:MOST_ROWS]], description=f"{title} ({len(rows)})"
        )


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    >>> count(1, "host"), count(2, "host"), count(0, "address", "addresses")
    ('1 host', '2 hosts', '0 addresses')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def join(parts: Iterable[str]) -> str:
    """Join what is not empty with commas."""
    return ", ".join(part for part in parts if part)
