"""`signalbox capture`: captures and raw scan output kept as evidence."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cyclopts import App

from deployments.cli._output import emit_json, emit_table, say
from flows._text import count
from tasks.core.errors import InvalidParameters, NotFound
from tasks.core.settings import settings

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

app = App(name="capture", help="Captures and raw scan output kept as evidence.", help_format="plaintext")


def _store(site: str | None) -> CaptureStore:
    from tasks.core.run import wiring

    return asyncio.run(wiring().store(site or settings().site))


@app.command(name="list")
def list_files(*, site: str | None = None, limit: int = 50, json: bool = False) -> int:
    """List the newest files of the store.

    Args:
        site: The site.
        limit: Most files to list.
        json: Print one JSON document, all files in it.
    """
    store = _store(site)
    rows = [
        {
            "name": entry.name,
            "size_bytes": entry.size_bytes,
            "modified": datetime.fromtimestamp(entry.modified_at, UTC).isoformat(timespec="seconds"),
        }
        for entry in store.files()
    ]
    if json:
        emit_json(rows)
        return 0
    emit_table(rows[-limit:])
    used = store.usage()
    say(
        f"\n{count(len(rows), 'file')}, {used:,} of {store.quota_bytes:,} bytes in {store.folder}; kept {store.retention_days} days."
    )
    return 0


@app.command
def show(name: str, /, *, site: str | None = None, json: bool = False) -> int:
    """Show where a file is, how large, and its SHA-256.

    Args:
        name: Its name in the store.
        site: The site.
        json: Print one JSON document.
    """
    store = _store(site)
    try:
        stored = store.describe(name)
        facts = {**stored._asdict(), "path": str(store.path(name))}
    except ValueError as error:
        raise InvalidParameters(f"{error}.", hint="Names: signalbox capture list") from None
    except FileNotFoundError:
        raise NotFound(f"There is no file {name} in the store.", hint="Names: signalbox capture list") from None
    if json:
        emit_json(facts)
    else:
        for key, value in facts.items():
            say(f"{key}: {value}")
    return 0


@app.command
def prune(*, site: str | None = None, json: bool = False) -> int:
    """Remove files older than the store keeps them.

    Args:
        site: The site.
        json: Print one JSON document.
    """
    removed = _store(site).prune()
    if json:
        emit_json([entry.name for entry in removed])
    else:
        say(f"Removed {count(len(removed), 'file')}, {sum(entry.size_bytes for entry in removed):,} bytes.")
    return 0
