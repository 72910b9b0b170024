"""SQL of single assets: search, and the rows an operator's change touches.

What identifies an asset and who may write a field is decided in `tasks.asset`; here are the statements.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, text

from tasks.core.db.inventory_schema import SEARCH_TEXT
from tasks.core.db.sites import find_site

SHOWN = """
    asset.id, site.name AS site, asset.hostname, host(asset.primary_ip) AS address, asset.mac::text AS mac, asset.type, asset.status,
    asset.environment, asset.location, asset.owner, asset.vendor, asset.model, asset.serial, asset.firmware, asset.os, asset.tags,
    asset.metadata, asset.version, asset.merged_into, asset.created_at, asset.updated_at, asset.first_seen, asset.last_seen,
    ARRAY(SELECT host(a.ip) FROM address a WHERE a.asset_id = asset.id AND a.state = 'held' ORDER BY a.ip) AS addresses
"""
"""What is shown of an asset."""
_FROM = "FROM asset JOIN site ON site.id = asset.site_id"

COLUMNS = (
    "hostname", "address", "mac", "type", "status", "environment", "location", "owner", "vendor", "model", "serial", "firmware", "os",
    "tags", "metadata",
)  # fmt: skip
"""What a person may set; `address` is the column `primary_ip`."""
_COLUMN = {"address": "primary_ip"}
_CAST = {"address": "inet", "mac": "macaddr", "tags": "jsonb", "metadata": "jsonb"}

FIRST_SITE = "default"
"""The site that is there for everybody, though nothing may have been entered in it yet."""

SORTS = {
    "id": ("asset.id", "bigint"),
    "hostname": ("lower(asset.hostname)", "text"),
    "address": ("asset.primary_ip", "inet"),
    "type": ("lower(asset.type)", "text"),
    "status": ("asset.status", "text"),
    "vendor": ("lower(asset.vendor)", "text"),
    "owner": ("lower(asset.owner)", "text"),
    "created_at": ("asset.created_at", "timestamptz"),
    "updated_at": ("asset.updated_at", "timestamptz"),
    "last_seen": ("asset.last_seen", "timestamptz"),
}
"""What assets can be sorted by: expression and type."""


# --- search ----------------------------------------------------------------------------------------------------------

_FILTERS = {
    "id": "asset.id = :id",
    "site": "site.name = :site",
    "hostname": "lower(asset.hostname) LIKE :hostname",
    "network": (
        "(asset.primary_ip <<= CAST(:network AS inet) OR asset.id IN"
        " (SELECT a.asset_id FROM address a WHERE a.ip <<= CAST(:network AS inet) AND a.state = 'held'))"
    ),
    "mac": (
        "(asset.mac = CAST(:mac AS macaddr)"
        " OR asset.id IN (SELECT i.asset_id FROM asset_identifier i WHERE i.kind = 'mac' AND i.value = :mac AND i.active))"
    ),
    "type": "lower(asset.type) = :type",
    "status": "asset.status = :status",
    "environment": "lower(asset.environment) = :environment",
    "owner": "lower(asset.owner) LIKE :owner",
    "vendor": "lower(asset.vendor) LIKE :vendor",
    "model": "lower(asset.model) LIKE :model",
    "tags": "asset.tags @> CAST(:tags AS jsonb)",
    "metadata": "asset.metadata @> CAST(:metadata AS jsonb)",
}
_PARTIAL = frozenset({"hostname", "owner", "vendor", "model"})
_FOLDED = frozenset({"type", "environment"})


@dataclass(frozen=True)
class Place:
    """Where a page ended: the sort key of its last asset, as PostgreSQL writes it, and its id."""

    key: str | None
    id: int


@dataclass(frozen=True)
class Page:
    """Assets, how many there are in all, and where the next page begins (None when this was the last one)."""

    rows: Sequence[RowMapping]
    total: int
    end: Place | None


def search(
    connection: Connection,
    filters: Mapping[str, Any],
    *,
    words: Sequence[str] = (),
    archived: bool = True,
    sort: str = "id",
    descending: bool = False,
    limit: int = 50,
    offset: int = 0,
    after: Place | None = None,
) -> Page:
    """Find assets; those merged into others are never shown, except by `id`.

    Args:
        connection: Inside a transaction.
        filters: Any of `_FILTERS`; None does not matter. Parts of names match whatever their case, wildcards are data.
        words: All of them must occur in the searchable text.
        archived: Whether archived assets are shown, when neither `id` nor `status` is asked for.
        sort: One of `SORTS`; assets without a value come last.
        descending: The largest first.
        limit: Most assets.
        offset: Assets to leave out first.
        after: Begin after this place.

    Raises:
        NotFound: There is no such site.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    conditions = [_FILTERS[name] for name in given]
    if "id" not in given:
        conditions.append("asset.status <> 'merged'")
        if not archived and "status" not in given:
            conditions.append("asset.status <> 'archived'")
    values: dict[str, Any] = {name: _filter_value(name, value) for name, value in given.items()}
    for number, word in enumerate(words):
        conditions.append(f"{SEARCH_TEXT} LIKE :word{number}")
        values[f"word{number}"] = f"%{escape_like(word.lower())}%"
    expression, kind = SORTS[sort]
    direction = "DESC" if descending else "ASC"
    where = " AND ".join(conditions) or "true"
    # Only words of this module are put together here; what people ask for travels as bound values.
    total = connection.scalar(text(f"SELECT count(*) {_FROM} WHERE {where}"), values)
    if not total and given.get("site", FIRST_SITE) != FIRST_SITE:
        find_site(connection, given["site"])
    if after is not None:
        where += f" AND {_beyond(expression, kind, descending, after)}"
        values |= {"after_key": after.key, "after_id": after.id}
    statement = text(
        f"SELECT {SHOWN}, CAST({expression} AS text) AS sort_key {_FROM} WHERE {where}"
        f" ORDER BY {expression} {direction} NULLS LAST, asset.id {direction} LIMIT :limit OFFSET :offset"
    )
    rows = connection.execute(statement, {**values, "limit": limit + 1, "offset": offset}).mappings().all()
    more, rows = len(rows) > limit, rows[:limit]
    end = Place(rows[-1]["sort_key"], rows[-1]["id"]) if more and rows else None
    return Page(rows, int(total or 0), end)


def _beyond(expression: str, kind: str, descending: bool, after: Place) -> str:
    sign = "<" if descending else ">"
    if after.key is None:  # among those without a value, which come last
        return f"({expression} IS NULL AND asset.id {sign} :after_id)"
    key = f"CAST(:after_key AS {kind})"
    return (
        f"({expression} {sign} {key} OR ({expression} = {key} AND asset.id {sign} :after_id) OR {expression} IS NULL)"
    )


def _filter_value(name: str, value: Any) -> Any:
    if name in _PARTIAL:
        return f"%{escape_like(str(value).lower())}%"
    if name in _FOLDED:
        return str(value).lower()
    return json.dumps(value) if name in ("tags", "metadata") else value


def escape_like(part: str) -> str:
    """Escape what LIKE would take for a wildcard; its escape character is the backslash, PostgreSQL's default."""
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


# --- one asset -------------------------------------------------------------------------------------------------------


def get_asset(connection: Connection, asset_id: int) -> RowMapping | None:
    """Return what is shown of an asset, whatever its status."""
    return (
        connection.execute(text(f"SELECT {SHOWN} {_FROM} WHERE asset.id = :id"), {"id": asset_id})
        .mappings()
        .one_or_none()
    )


def lock_asset(connection: Connection, asset_id: int) -> RowMapping | None:
    """Return an asset and keep others from changing it until the transaction ends."""
    statement = text(f"SELECT {SHOWN} {_FROM} WHERE asset.id = :id FOR UPDATE OF asset")
    return connection.execute(statement, {"id": asset_id}).mappings().one_or_none()


def find_by_name(connection: Connection, site_id: int, name: str) -> list[int]:
    """Return the assets of a site with exactly this name in any case: those in use, or else the archived ones."""
    rows = connection.execute(
        text(
            "SELECT id, status FROM asset WHERE site_id = :site AND lower(hostname) = lower(:name) AND status <> 'merged' ORDER BY id"
        ),
        {"site": site_id, "name": name},
    ).all()
    return [row.id for row in rows if row.status != "archived"] or [row.id for row in rows]


def strong_twin(
    connection: Connection, site_id: int, keys: Iterable[tuple[str, str]], but: int | None
) -> Row[Any] | None:
    """Return kind, value and owner of the first of these identifiers that is another asset's strong one."""
    for kind, value in keys:
        found = connection.execute(
            text(
                "SELECT kind, value, asset_id FROM asset_identifier WHERE site_id = :site AND kind = :kind AND value = :value"
                " AND active AND strength = 'strong' AND asset_id IS DISTINCT FROM CAST(:but AS bigint)"
            ),
            {"site": site_id, "kind": kind, "value": value, "but": but},
        ).one_or_none()
        if found is not None:
            return found
    return None


def assets_with_serial(connection: Connection, site_id: int, serial: str, but: int | None) -> Sequence[Row[Any]]:
    """Return id and vendor of the assets with this serial number, in any case and with any blanks."""
    statement = text(
        "SELECT id, vendor FROM asset WHERE site_id = :site AND lower(regexp_replace(serial, '\\s', '', 'g')) = :serial"
        " AND status <> 'merged' AND id IS DISTINCT FROM CAST(:but AS bigint) ORDER BY id"
    )
    return connection.execute(statement, {"site": site_id, "serial": serial, "but": but}).all()


def address_holder(connection: Connection, site_id: int, address: str) -> Row[Any] | None:
    """Return who holds an address: `asset_id` (None for a virtual address), `kind`, and the asset's `status`."""
    return connection.execute(
        text(
            "SELECT a.id, a.asset_id, a.kind, asset.status FROM address a LEFT JOIN asset ON asset.id = a.asset_id"
            " WHERE a.site_id = :site AND a.ip = CAST(:ip AS inet) AND a.state = 'held'"
        ),
        {"site": site_id, "ip": address},
    ).one_or_none()


def longest_known(connection: Connection, site: str, networks: Sequence[str], limit: int) -> list[str]:
    """Return addresses of a site's active assets in these networks, the longest known first."""
    statement = text(
        "SELECT host(a.ip) FROM address a JOIN site ON site.id = a.site_id JOIN asset ON asset.id = a.asset_id"
        " WHERE site.name = :site AND a.state = 'held' AND a.kind = 'host' AND asset.status = 'active' AND NOT asset.ephemeral"
        " AND a.ip <<= ANY (CAST(:networks AS inet[])) ORDER BY asset.first_seen NULLS LAST, a.id LIMIT :limit"
    )
    return list(connection.scalars(statement, {"site": site, "networks": list(networks), "limit": limit}))


# --- changes ---------------------------------------------------------------------------------------------------------


def insert_asset(connection: Connection, site_id: int, values: Mapping[str, Any], now: datetime) -> int:
    """Insert an asset with these `COLUMNS`, and return its id."""
    names = [name for name in COLUMNS if values.get(name) is not None]
    columns = "".join(f", {_COLUMN.get(name, name)}" for name in names)
    given = "".join(f", {_bound(name)}" for name in names)
    return int(
        connection.scalar(
            text(
                f"INSERT INTO asset (site_id, created_at, updated_at, status_since{columns}) VALUES (:site_id, :now, :now, :now{given})"  # noqa: S608 - our column names
                " RETURNING id"
            ),
            {"site_id": site_id, "now": now, **{name: _plain(name, values[name]) for name in names}},
        )
        or 0
    )


def update_asset(connection: Connection, asset_id: int, values: Mapping[str, Any], now: datetime) -> None:
    """Set these `COLUMNS`, and count the change. What a person cared for does not expire like a passing visitor."""
    sets = "".join(f", {_COLUMN.get(name, name)} = {_bound(name)}" for name in values)
    if "status" in values:
        sets += ", status_since = :now"
    connection.execute(
        text(
            f"UPDATE asset SET version = version + 1, updated_at = :now, ephemeral = false{sets} WHERE id = :asset_id"  # noqa: S608
        ),
        {"asset_id": asset_id, "now": now, **{name: _plain(name, value) for name, value in values.items()}},
    )


def delete_assets(connection: Connection, ids: Sequence[int]) -> None:
    """Delete assets with everything that is theirs. Events, observations and strong identifiers stay as history."""
    connection.execute(text("DELETE FROM asset WHERE id = ANY(:ids)"), {"ids": list(ids)})


def merged_into(connection: Connection, asset_id: int) -> list[int]:
    """Return the assets that were merged into this one, directly or through others."""
    statement = text(
        """
        WITH RECURSIVE folded AS (
            SELECT id FROM asset WHERE merged_into = :id
            UNION
            SELECT asset.id FROM asset JOIN folded ON asset.merged_into = folded.id
        )
        SELECT id FROM folded ORDER BY id
        """
    )
    return list(connection.scalars(statement, {"id": asset_id}))


def hold_address(connection: Connection, site_id: int, asset_id: int, address: str, now: datetime) -> None:
    """Say that an asset holds an address, because a person said so."""
    connection.execute(
        text(
            "INSERT INTO address (site_id, asset_id, ip, method, first_seen, last_seen)"
            " VALUES (:site, :asset, CAST(:ip AS inet), 'user', :now, :now)"
            " ON CONFLICT (asset_id, ip) DO UPDATE SET state = 'held', kind = 'host', missed_scans = 0, missed_since = NULL"
        ),
        {"site": site_id, "asset": asset_id, "ip": address, "now": now},
    )


def release_address(connection: Connection, asset_id: int, address: str) -> None:
    """Say that an asset does not have an address any more."""
    connection.execute(
        text(
            "UPDATE address SET state = 'released' WHERE asset_id = :asset AND ip = CAST(:ip AS inet) AND state <> 'released'"
        ),
        {"asset": asset_id, "ip": address},
    )


def add_identifier(
    connection: Connection, site_id: int, asset_id: int, kind: str, value: str, strength: str, now: datetime
) -> None:
    """Note an identifier a person gave."""
    connection.execute(
        text(
            "INSERT INTO asset_identifier (asset_id, site_id, kind, value, strength, source, first_seen, last_seen)"
            " VALUES (:asset, :site, :kind, :value, :strength, 'user', :now, :now)"
            " ON CONFLICT (asset_id, kind, value) DO UPDATE SET active = true, strength = excluded.strength, source = 'user'"
        ),
        {"asset": asset_id, "site": site_id, "kind": kind, "value": value, "strength": strength, "now": now},
    )


def drop_identifier(connection: Connection, asset_id: int, kind: str, value: str) -> None:
    """Let an identifier identify no longer; the row stays as history."""
    connection.execute(
        text("UPDATE asset_identifier SET active = false WHERE asset_id = :asset AND kind = :kind AND value = :value"),
        {"asset": asset_id, "kind": kind, "value": value},
    )


def own_fields(
    connection: Connection, asset_id: int, fields: Sequence[str], rank: int, run_id: str, now: datetime
) -> None:
    """Note that a person said what these fields are. Locks stay."""
    connection.execute(
        text(
            "INSERT INTO asset_field_source (asset_id, field, source, rank, run_id, observed_at)"
            " SELECT :asset, unnest(CAST(:fields AS text[])), 'user', :rank, :run, :now"
            " ON CONFLICT (asset_id, field) DO UPDATE"
            " SET source = 'user', rank = excluded.rank, run_id = excluded.run_id, observed_at = excluded.observed_at"
        ),
        {
            "asset": asset_id,
            "fields": [_COLUMN.get(name, name) for name in fields],
            "rank": rank,
            "run": run_id,
            "now": now,
        },
    )


def disown_fields(connection: Connection, asset_id: int, fields: Sequence[str]) -> None:
    """Forget who said what these fields are: they are empty now, and whoever knows may fill them. Locked ones stay as they are."""
    connection.execute(
        text("DELETE FROM asset_field_source WHERE asset_id = :asset AND field = ANY(:fields) AND NOT locked"),
        {"asset": asset_id, "fields": [_COLUMN.get(name, name) for name in fields]},
    )


def resolve_candidates(connection: Connection, site_id: int, asset_id: int, keys: Sequence[str], now: datetime) -> None:
    """Close the open candidates that are this asset now."""
    connection.execute(
        text(
            "UPDATE candidate SET state = 'resolved', asset_id = :asset, decided_at = :now, decided_by = 'user'"
            " WHERE site_id = :site AND state = 'open' AND key = ANY(:keys)"
        ),
        {"site": site_id, "asset": asset_id, "keys": list(keys), "now": now},
    )


def add_event(
    connection: Connection,
    site_id: int,
    asset_id: int,
    kind: str,
    *,
    subject: str,
    run_id: str,
    now: datetime,
    field: str | None = None,
    before: Any = None,
    after: Any = None,
    quiet: bool = False,
) -> None:
    """Add to an asset's history what a person did. `before` and `after` are JSON."""
    connection.execute(
        text(
            "INSERT INTO asset_event (site_id, asset_id, run_id, kind, subject, field, before, after, source, quiet, at)"
            " VALUES (:site, :asset, :run, :kind, :subject, :field, CAST(:before AS jsonb), CAST(:after AS jsonb), 'user', :quiet, :now)"
        ),
        {
            "site": site_id,
            "asset": asset_id,
            "run": run_id,
            "kind": kind,
            "subject": subject,
            "field": field,
            "before": None if before is None else json.dumps(before, default=str),
            "after": None if after is None else json.dumps(after, default=str),
            "quiet": quiet,
            "now": now,
        },
    )


def snapshot(connection: Connection, asset_id: int) -> dict[str, Any]:
    """Return an asset with its identifiers, addresses and services as JSON, for its history."""
    parts = {
        "asset": "SELECT to_jsonb(asset) FROM asset WHERE id = :id",
        "identifiers": "SELECT coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.id), '[]') FROM asset_identifier i WHERE asset_id = :id",
        "addresses": "SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a.id), '[]') FROM address a WHERE asset_id = :id",
        "services": "SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.id), '[]') FROM service s WHERE asset_id = :id",
    }
    return {name: connection.scalar(text(statement), {"id": asset_id}) for name, statement in parts.items()}


def _bound(name: str) -> str:
    return f"CAST(:{name} AS {_CAST[name]})" if name in _CAST else f":{name}"


def _plain(name: str, value: Any) -> Any:
    return json.dumps(value) if name in ("tags", "metadata") else value
