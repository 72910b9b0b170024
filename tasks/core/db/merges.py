"""SQL of merging two assets into one, and of taking them apart again."""

# ruff: noqa: S608 - statements are put together from constants of this module; values are always bound.

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

FILLED = (
    "hostname",
    "primary_ip",
    "mac",
    "type",
    "environment",
    "location",
    "owner",
    "vendor",
    "model",
    "serial",
    "firmware",
    "os",
)
"""Fields the kept asset takes from the merged one where it has none."""


def merge_assets(
    connection: Connection,
    site_id: int,
    kept: int,
    merged: int,
    *,
    reason: str,
    by: str,
    run_id: str | None,
    now: datetime,
) -> int:
    """Fold asset `merged` into `kept`, and return the number of the merge, by which it can be undone.

    The merged asset's row stays, with the status `merged`. Its identifiers, addresses and services move; where the kept asset has
    the same one, both stay where they are. Both must be of the site and not merged already (the caller checks).
    """
    ids = {"kept": kept, "merged": merged}
    before = {
        row.id: dict(row.document)
        for row in connection.execute(
            text(
                "SELECT id, to_jsonb(asset) AS document FROM asset WHERE id IN (:kept, :merged) ORDER BY id FOR UPDATE"
            ),
            ids,
        )
    }
    moved = {
        table: list(connection.scalars(text(statement), ids))
        for table, statement in _MOVE.items()
    }  # fmt: skip
    into, out = before[kept], before[merged]
    filled = {name: out[name] for name in FILLED if into[name] is None and out[name] is not None}
    tags = [tag for tag in out["tags"] if tag not in into["tags"]]
    metadata = {key: value for key, value in out["metadata"].items() if key not in into["metadata"]}
    connection.execute(
        text(
            "UPDATE asset SET status = 'merged', merged_into = :kept, status_since = :now, updated_at = :now, version = version + 1"
            " WHERE id = :merged"
        ),
        {**ids, "now": now},
    )
    sets = "".join(
        f"{name} = COALESCE({name}, (SELECT m.{name} FROM asset m WHERE m.id = :merged)), " for name in FILLED
    )
    connection.execute(
        text(
            f"UPDATE asset SET {sets} tags = tags || CAST(:tags AS jsonb), metadata = CAST(:metadata AS jsonb) || metadata,"
            " first_seen = least(first_seen, (SELECT m.first_seen FROM asset m WHERE m.id = :merged)),"
            " last_seen = greatest(last_seen, (SELECT m.last_seen FROM asset m WHERE m.id = :merged)),"
            " updated_at = :now, version = version + 1 WHERE id = :kept"
        ),
        {**ids, "now": now, "tags": json.dumps(tags), "metadata": json.dumps(metadata)},
    )
    connection.execute(
        text(
            "INSERT INTO asset_field_source (asset_id, field, source, rank, locked, run_id, observed_at)"
            " SELECT :kept, field, source, rank, locked, run_id, observed_at FROM asset_field_source"
            " WHERE asset_id = :merged AND field = ANY(:filled) ON CONFLICT DO NOTHING"
        ),
        {**ids, "filled": list(filled)},
    )
    # What was merged into the merged one before is found through the kept one from now on.
    snapshot = {
        "moved": moved,
        "filled": filled,
        "tags": tags,
        "metadata": metadata,
        "kept": {key: into[key] for key in ("hostname", "primary_ip", "status", "first_seen")},
        "merged": {key: out[key] for key in ("hostname", "primary_ip", "status", "status_since")},
    }
    number = connection.scalar(
        text(
            "INSERT INTO merge_log (site_id, kept_id, merged_id, reason, by, run_id, snapshot, at)"
            " VALUES (:site, :kept, :merged, :reason, :by, :run, CAST(:snapshot AS jsonb), :now) RETURNING id"
        ),
        {
            **ids,
            "site": site_id,
            "reason": reason,
            "by": by,
            "run": run_id,
            "snapshot": json.dumps(snapshot),
            "now": now,
        },
    )
    assert isinstance(number, int)
    return number


_MOVE = {
    "asset_identifier": """
        UPDATE asset_identifier SET asset_id = :kept WHERE asset_id = :merged AND NOT EXISTS
            (SELECT FROM asset_identifier k WHERE k.asset_id = :kept AND k.kind = asset_identifier.kind
                AND k.value = asset_identifier.value)
        RETURNING id
    """,
    "address": """
        UPDATE address SET asset_id = :kept WHERE asset_id = :merged AND NOT EXISTS
            (SELECT FROM address k WHERE k.asset_id = :kept AND k.ip = address.ip)
        RETURNING id
    """,
    "service": """
        UPDATE service SET asset_id = :kept WHERE asset_id = :merged AND NOT EXISTS
            (SELECT FROM service k WHERE k.asset_id = :kept AND k.ip = service.ip AND k.protocol = service.protocol
                AND k.port = service.port)
        RETURNING id
    """,
}
_MOVE_BACK = {
    table: f"UPDATE {table} SET asset_id = :merged WHERE id = ANY(:moved) AND asset_id = :kept" for table in _MOVE
}


def undo_merge(connection: Connection, entry: Any, *, by: str, now: datetime) -> None:
    """Take two assets apart again: everything the merge moved or filled goes back, unless it was changed since.

    Args:
        connection: In a transaction that holds the site's lock.
        entry: The row of `merge_log`, not undone yet.
        by: Who undoes it.
        now: The time.
    """
    snapshot = entry.snapshot
    ids = {"kept": entry.kept_id, "merged": entry.merged_id}
    connection.execute(text("SELECT FROM asset WHERE id IN (:kept, :merged) ORDER BY id FOR UPDATE"), ids)
    for table, statement in _MOVE_BACK.items():
        connection.execute(text(statement), {**ids, "moved": snapshot["moved"][table]})
    # What was filled and is still the same goes; what was set since stays.
    emptied = "".join(
        f"{name} = CASE WHEN text({name}) = text((SELECT m.{name} FROM asset m WHERE m.id = :merged)) THEN NULL ELSE {name} END, "
        for name in FILLED
        if name in snapshot["filled"]
    )
    connection.execute(
        text(
            f"UPDATE asset SET {emptied} tags = (SELECT coalesce(jsonb_agg(t), '[]') FROM jsonb_array_elements(tags) t"
            " WHERE NOT CAST(:tags AS jsonb) @> t), metadata = metadata - CAST(:keys AS text[]),"
            " first_seen = CAST(:first_seen AS timestamptz), updated_at = :now, version = version + 1 WHERE id = :kept"
        ),
        {
            **ids,
            "now": now,
            "tags": json.dumps(snapshot["tags"]),
            "keys": list(snapshot["metadata"]),
            "first_seen": snapshot["kept"]["first_seen"],
        },
    )
    connection.execute(
        text("DELETE FROM asset_field_source WHERE asset_id = :kept AND field = ANY(:filled)"),
        {**ids, "filled": list(snapshot["filled"])},
    )
    # The primary address may have been let go of meanwhile: it is one that is held, or none.
    connection.execute(
        text(
            "UPDATE asset SET status = :status, merged_into = NULL, status_since = :now, updated_at = :now, version = version + 1,"
            " hostname = CASE WHEN EXISTS (SELECT FROM asset o WHERE o.site_id = asset.site_id AND o.id <> asset.id"
            " AND lower(o.hostname) = lower(asset.hostname) AND o.status NOT IN ('archived', 'merged')) THEN NULL ELSE hostname END"
            " WHERE id = :merged"
        ),
        {**ids, "status": snapshot["merged"]["status"], "now": now},
    )
    connection.execute(
        text(
            "UPDATE asset SET primary_ip = (SELECT a.ip FROM address a WHERE a.asset_id = asset.id AND a.state = 'held' ORDER BY a.ip"
            " LIMIT 1) WHERE id IN (:kept, :merged) AND NOT EXISTS"
            " (SELECT FROM address a WHERE a.asset_id = asset.id AND a.ip = asset.primary_ip AND a.state = 'held')"
            " AND EXISTS (SELECT FROM address a WHERE a.asset_id = asset.id)"
        ),
        ids,
    )
    connection.execute(
        text("UPDATE merge_log SET undone_at = :now, undone_by = :by WHERE id = :id"),
        {"id": entry.id, "by": by, "now": now},
    )


def find_merge(connection: Connection, merge_id: int) -> Any | None:
    """Return the row of a merge, or None."""
    return connection.execute(
        text(
            "SELECT m.id, m.site_id, m.kept_id, m.merged_id, m.reason, m.snapshot, m.undone_at, s.name AS site,"
            " EXISTS (SELECT FROM merge_log later WHERE later.id > m.id AND later.undone_at IS NULL"
            " AND (later.merged_id IN (m.kept_id, m.merged_id) OR later.kept_id = m.merged_id)) AS built_upon"
            " FROM merge_log m JOIN site s ON s.id = m.site_id WHERE m.id = :id"
        ),
        {"id": merge_id},
    ).one_or_none()
