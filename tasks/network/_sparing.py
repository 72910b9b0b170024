"""Keep a result within what the ledger keeps, and what is left out of it in a file of the site's store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

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
    stored = await _stored(result, name)
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


async def spare_entries(result: ToolResult, field: str, droppable: Sequence[str]) -> dict[str, Any]:
    """Say what has to be changed in a result with an entry for each target, so that the ledger keeps it and no target is missing.

    Args:
        result: The whole result; it has the fields `left_out`, a list of text, and `report`.
        field: The list with the entries.
        droppable: Fields of the entries that go back to their defaults, in all entries, the one that is missed least first.

    Returns:
        The update for `model_copy`, empty when everything fits.
    """
    if json_size(result.model_dump(mode="json")) <= ROOM_BYTES:
        return {}
    update: dict[str, Any] = {"left_out": [], "report": await _stored(result, field)}
    entries: list[BaseModel] = list(getattr(result, field))

    def fits() -> bool:
        return json_size(result.model_copy(update={**update, field: entries}).model_dump(mode="json")) <= ROOM_BYTES

    for name in droppable:
        entries = [_without(entry, name) for entry in entries]
        update["left_out"] = [*update["left_out"], name]
        if fits():
            break
    for longest in (200, 80, 0):  # what is left are a target's name, its outcome, and the reason
        if fits():
            break
        entries = [_shorter(entry, longest) for entry in entries]
    return {**update, field: entries}


def _without(entry: BaseModel, name: str) -> BaseModel:
    about = type(entry).model_fields.get(name)
    if about is None:
        return entry
    return entry.model_copy(update={name: about.get_default(call_default_factory=True)})


def _shorter(entry: BaseModel, longest: int) -> BaseModel:
    detail = getattr(entry, "detail", None)
    if not isinstance(detail, str) or len(detail) <= longest:
        return entry
    return entry.model_copy(update={"detail": f"{detail[:longest]}..." if longest else None})


async def _stored(result: ToolResult, name: str) -> FileRef:
    run = current_run()
    store = await run.store()
    path = f"{run.spec.name}/{name}-{run.id}-{run.attempt}.json"
    return run.file_ref(await asyncio.to_thread(store.write, path, result.model_dump_json().encode()))
