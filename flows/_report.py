"""What a run leaves on its page: markdown a person reads, and tables, made from typed results alone."""

from __future__ import annotations

import json
import re
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from pydantic import BaseModel

from flows._text import escape, facts, markdown_table, tables
from tasks.core.models import FileRef, ToolParams, ToolResult
from tasks.core.registry import ToolSpec

MOST_ROWS = 500
"""Rows of a table artifact; the ledger and the evidence have the rest."""
MOST_FILES = 20


def artifact_key(*parts: str) -> str:
    """Make an artifact key: lower-case letters, digits and dashes only.

    >>> artifact_key("run_tool", "DNS Lookup")
    'run-tool-dns-lookup'
    """
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def files(value: Any) -> list[FileRef]:
    """Return the files of the store that a result refers to, each once."""
    if isinstance(value, FileRef):
        return [value]
    if isinstance(value, BaseModel):
        return files([getattr(value, name) for name in type(value).model_fields])
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(ref for item in value for ref in files(item)))
    return []


async def publish_result(spec: ToolSpec, params: ToolParams, result: ToolResult) -> None:
    """Put a tool's result on the run page: one summary a person reads, and a table artifact for each list."""
    found = tables(result)
    said = facts(result)
    lines = [f"## {escape(result.headline())}", ""]
    if said:
        lines += [markdown_table([{"what": name, "value": value} for name, value in said.items()], most=40), ""]
    for title, rows in found:
        lines += [f"### {title}", "", markdown_table(rows), ""]
    if refs := files(result):
        # Prefect's pages show no link to a file of the worker's, and strip data: links: the command is the way to it.
        commands = [f"signalbox capture save {ref.name}" for ref in refs[:MOST_FILES]]
        lines += ["### Files", "", "To get them, where the store is:", "", "```", *commands, "```", ""]
    asked = json.dumps(params.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
    lines += [f"Asked: `{spec.name}` with `{asked[:1000].replace('`', chr(39))}`"]
    await acreate_markdown_artifact(
        key=artifact_key("result", spec.name), markdown="\n".join(lines), description=result.headline()[:200]
    )
    for title, rows in found:
        await acreate_table_artifact(
            key=artifact_key("table", spec.name, title),
            table=[dict(row) for row in rows[:MOST_ROWS]],
            description=f"{title} ({len(rows)})",
        )
