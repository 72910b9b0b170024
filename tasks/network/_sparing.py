"""Keep a result within what the ledger keeps, and what is left out of it in a file of the site's store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.models import FileRef, ToolResult
from tasks.core.redact import MOST_BYTES, json_size
from tasks.core.run import current_run

ROOM_BYTES = MOST_BYTES - (6 << 10)
"""What a result may take: the ledger's limit, less what escapes and masks may add."""


async def spare(result: ToolResult, droppable: Sequence[str], name: str) -> tuple[Mapping[str, Any], FileRef | None]:
    """Say what has to be changed in a result so that the ledger keeps it.

    Args:
        result: The whole result; it has a field `left_out`, a list of text.
        droppable: Fields that are lists, the one that is missed least first. Their ends go; the gravest stands first.
        name: Name of the file that holds all of it, when something has to go.

    Returns:
        The update for `model_copy`, empty when everything fits; and the file that holds the whole.
    """
    plain = result.model_dump(mode="json")
    size = json_size(plain)
    if size <= ROOM_BYTES:
        return {}, None
    run = current_run()
    store = await run.store()
    path = f"{run.spec.name}/{name}-{run.id}-{run.attempt}.json"
    text = result.model_dump_json().encode()
    stored = run.file_ref(await asyncio.to_thread(store.write, path, text))
    update: dict[str, Any] = {}
    notes: list[str] = []
    for field in droppable:
        entries, kept = plain[field], len(plain[field])
        while kept and size > ROOM_BYTES:
            kept -= 1
            size -= json_size(entries[kept]) + 1
        if kept < len(entries):
            update[field] = getattr(result, field)[:kept]
            notes.append(f"{len(entries) - kept} of {len(entries)} {field.replace('_', ' ')}")
    update["left_out"] = notes
    return update, stored
