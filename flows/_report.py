"""What a run leaves on its page: markdown a person reads, and tables, made from typed results alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact
from pydantic import BaseModel

from flows._text import escape, facts, markdown_table, tables
from tasks.core.models import FileRef, ToolParams, ToolResult
from tasks.core.registry import ToolSpec
from tasks.core.settings import settings

MOST_ROWS = 500
"""Rows of a table artifact; the ledger and the evidence have the rest."""
MOST_FILES = 20
MOST_LINKS = 5
"""Files that get an artifact of their own; the summary links more of them."""


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


def download_url(site: str, name: str) -> str | None:
    """Return the address that hands out a file of the store; None where nothing does: on a worker without the embedded stack."""
    base = settings().downloads_url
    return f"{base}/captures/{site}/{quote(name)}" if base else None


def file_lines(refs: Sequence[FileRef]) -> list[str]:
    """Say in markdown how to get at files of the store: by a link in a browser on this machine, by a command elsewhere."""
    if not refs:
        return []
    shown = refs[:MOST_FILES]
    lines = ["### Files", ""]
    for ref in shown:
        url = download_url(ref.site, ref.name)
        if url is not None:
            lines.append(f"- [Download {escape(ref.name)}]({url}) ({ref.size_bytes:,} bytes)")
    if lines[2:]:
        lines += ["", "A link asks for the login of these pages. Without a browser, where the store is:", ""]
    else:
        lines += ["To get them, where the store is:", ""]
    here = settings().site
    commands = [
        f"signalbox capture save {ref.name}{f' --site {ref.site}' if ref.site != here else ''}" for ref in shown
    ]
    lines += ["```", *commands, "```", ""]
    if len(refs) > MOST_FILES:
        lines += [f"... and {len(refs) - MOST_FILES} more: signalbox capture list", ""]
    return lines


async def publish_result(spec: ToolSpec, params: ToolParams, result: ToolResult) -> None:
    """Put a tool's result on the run page: one summary a person reads, a table for each list, a link for each file it made."""
    found = tables(result)
    said = facts(result)
    lines = [f"## {escape(result.headline())}", ""]
    if said:
        lines += [markdown_table([{"what": name, "value": value} for name, value in said.items()], most=40), ""]
    for title, rows in found:
        lines += [f"### {title}", "", markdown_table(rows), ""]
    lines += file_lines(files(result))
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
    # Not for the capture it was given to read: the run that made it has its link.
    made = [ref for ref in files(result) if ref.name != getattr(params, "capture", None)][:MOST_LINKS]
    for number, ref in enumerate(made, start=1):
        if (url := download_url(ref.site, ref.name)) is not None:
            await acreate_link_artifact(
                key=artifact_key("download", spec.name, str(number) if len(made) > 1 else ""),
                link=url,
                link_text=f"Download {escape(ref.name)}",
                description=f"{ref.name} ({ref.size_bytes:,} bytes)",
            )
