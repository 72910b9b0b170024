"""SQL of what operators look at and decide: candidates, conflicts, events, locks, declared networks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text


def list_candidates(connection: Connection, site_id: int, state: str | None, limit: int) -> list[Any]:
    """Return candidates, newest sighting first."""
    return list(
        connection.execute(
            text(
                "SELECT id, kind, key, host(ip) AS ip, mac::text AS mac, reason, evidence, sightings, state, asset_id, first_seen,"
                " last_seen, decided_by, decided_at FROM candidate WHERE site_id = :site"
                " AND (CAST(:state AS text) IS NULL OR state = :state) ORDER BY last_seen DESC, id LIMIT :limit"
            ),
            {"site": site_id, "state": state, "limit": limit},
        )
    )


def find_candidate(connection: Connection, candidate_id: int) -> Any | None:
    """Return a candidate with its site, locked until the transaction ends; or None."""
    return connection.execute(
        text(
            "SELECT c.id, c.site_id, s.name AS site, c.kind, c.key, host(c.ip) AS ip, c.mac::text AS mac, c.state, c.asset_id,"
            " c.first_seen, c.last_seen, c.evidence FROM candidate c JOIN site s ON s.id = c.site_id WHERE c.id = :id FOR UPDATE OF c"
        ),
        {"id": candidate_id},
    ).one_or_none()


def decide_candidate(
    connection: Connection, candidate_id: int, *, state: str, asset_id: int | None, by: str, now: datetime
) -> None:
    """Note what was decided about a candidate."""
    connection.execute(
        text(
            "UPDATE candidate SET state = :state, asset_id = :asset, decided_by = :by, decided_at = :now WHERE id = :id"
        ),
        {"id": candidate_id, "state": state, "asset": asset_id, "by": by, "now": now},
    )


def holder_of(connection: Connection, site_id: int, ip: str) -> int | None:
    """Return the asset that holds an address."""
    found = connection.scalar(
        text("SELECT asset_id FROM address WHERE site_id = :site AND ip = CAST(:ip AS inet) AND state = 'held'"),
        {"site": site_id, "ip": ip},
    )
    return int(found) if found is not None else None


def create_accepted(
    connection: Connection, candidate: Any, *, ephemeral: bool, strength: str | None, now: datetime
) -> int:
    """Make the asset of an accepted candidate, with its address and its MAC."""
    given = {
        "site": candidate.site_id, "ip": candidate.ip, "mac": candidate.mac, "first": candidate.first_seen, "last": candidate.last_seen,
        "ephemeral": ephemeral, "strength": strength, "now": now,
    }  # fmt: skip
    asset_id = connection.scalar(
        text(
            "INSERT INTO asset (site_id, primary_ip, mac, ephemeral, first_seen, last_seen, created_at, updated_at, status_since)"
            " VALUES (:site, CAST(:ip AS inet), CAST(:mac AS macaddr), :ephemeral, :first, :last, :now, :now, :now) RETURNING id"
        ),
        given,
    )
    assert isinstance(asset_id, int)
    given["asset"] = asset_id
    if candidate.ip is not None:
        connection.execute(
            text(
                "INSERT INTO address (site_id, asset_id, ip, mac, method, first_seen, last_seen)"
                " VALUES (:site, :asset, CAST(:ip AS inet), CAST(:mac AS macaddr), 'accepted', :first, :last)"
            ),
            given,
        )
    if candidate.mac is not None and strength is not None:
        connection.execute(
            text(
                "INSERT INTO asset_identifier (asset_id, site_id, kind, value, strength, source, first_seen, last_seen)"
                " VALUES (:asset, :site, 'mac', :mac, :strength, 'accepted', :first, :last)"
            ),
            given,
        )
    return asset_id


def strong_owner(connection: Connection, site_id: int, kind: str, value: str) -> int | None:
    """Return the asset that has an active strong identifier."""
    found = connection.scalar(
        text(
            "SELECT asset_id FROM asset_identifier WHERE site_id = :site AND kind = :kind AND value = :value AND active"
            " AND strength = 'strong'"
        ),
        {"site": site_id, "kind": kind, "value": value},
    )
    return int(found) if found is not None else None


def list_conflicts(connection: Connection, site_id: int, state: str | None, limit: int) -> list[Any]:
    """Return conflicts, newest sighting first."""
    return list(
        connection.execute(
            text(
                "SELECT id, kind, host(ip) AS ip, asset_ids, reason, evidence, sightings, state, first_seen, last_seen, decided_by,"
                " decided_at FROM conflict WHERE site_id = :site AND (CAST(:state AS text) IS NULL OR state = :state)"
                " ORDER BY last_seen DESC, id LIMIT :limit"
            ),
            {"site": site_id, "state": state, "limit": limit},
        )
    )


def decide_conflict(connection: Connection, conflict_id: int, *, state: str, by: str, now: datetime) -> str | None:
    """Note what was decided about an open conflict, and return its site; None when there is no such open conflict."""
    site = connection.scalar(
        text(
            "UPDATE conflict SET state = :state, decided_by = :by, decided_at = :now FROM site"
            " WHERE conflict.id = :id AND conflict.state = 'open' AND site.id = conflict.site_id RETURNING site.name"
        ),
        {"id": conflict_id, "state": state, "by": by, "now": now},
    )
    return str(site) if site is not None else None


def resolve_conflicts_of(connection: Connection, one: int, other: int, *, by: str, now: datetime) -> None:
    """Two assets were merged: what was open between them is answered."""
    connection.execute(
        text(
            "UPDATE conflict SET state = 'resolved', decided_by = :by, decided_at = :now"
            " WHERE state = 'open' AND asset_ids @> ARRAY[CAST(:other AS bigint)]"
            " AND (asset_ids @> ARRAY[CAST(:one AS bigint)] OR kind = 'same_name')"
        ),
        {"one": one, "other": other, "by": by, "now": now},
    )


def site_of(connection: Connection, asset_id: int) -> int | None:
    """Return the number of an asset's site, without locking anything; None when there is no such asset."""
    found = connection.scalar(text("SELECT site_id FROM asset WHERE id = :id"), {"id": asset_id})
    return int(found) if found is not None else None


def site_of_candidate(connection: Connection, candidate_id: int) -> int | None:
    """Return the number of a candidate's site, without locking anything; None when there is no such candidate."""
    found = connection.scalar(text("SELECT site_id FROM candidate WHERE id = :id"), {"id": candidate_id})
    return int(found) if found is not None else None


def find_asset(connection: Connection, asset_id: int) -> Any | None:
    """Return an asset's site, status and names, locked against changes by others; or None."""
    return connection.execute(
        text(
            "SELECT a.id, a.site_id, s.name AS site, a.status, a.hostname, host(a.primary_ip) AS primary_ip, a.mac::text AS mac, a.serial,"
            " a.merged_into FROM asset a JOIN site s ON s.id = a.site_id WHERE a.id = :id FOR NO KEY UPDATE OF a"
        ),
        {"id": asset_id},
    ).one_or_none()


def set_lock(
    connection: Connection, asset_id: int, field: str, *, locked: bool, by: str, rank: int, now: datetime
) -> bool:
    """Fix a field against automatic sources, or release it; says whether that changed anything."""
    given = {"asset": asset_id, "field": field, "locked": locked, "by": by, "rank": rank, "now": now}
    if locked:
        statement = (
            "INSERT INTO asset_field_source (asset_id, field, source, rank, locked, observed_at)"
            " VALUES (:asset, :field, :by, :rank, true, :now)"
            " ON CONFLICT (asset_id, field) DO UPDATE SET locked = true WHERE NOT asset_field_source.locked"
        )
    else:
        statement = "UPDATE asset_field_source SET locked = false WHERE asset_id = :asset AND field = :field AND locked"
    return connection.execute(text(statement), given).rowcount > 0


def locks_of(connection: Connection, asset_id: int) -> list[str]:
    """Return the locked fields of an asset."""
    return list(
        connection.scalars(
            text("SELECT field FROM asset_field_source WHERE asset_id = :asset AND locked ORDER BY field"),
            {"asset": asset_id},
        )
    )


def note_event(
    connection: Connection,
    site_id: int,
    *,
    asset_id: int | None,
    kind: str,
    subject: str,
    now: datetime,
    source: str,
    field: str | None = None,
    before: str | None = None,
    after: str | None = None,
    ip: str | None = None,
) -> None:
    """Append an event; `before` and `after` are JSON texts."""
    connection.execute(
        text(
            "INSERT INTO asset_event (site_id, asset_id, kind, subject, ip, field, before, after, source, at) VALUES (:site, :asset, :kind,"
            " :subject, CAST(:ip AS inet), :field, CAST(:before AS jsonb), CAST(:after AS jsonb), :source, :now)"
        ),
        {
            "site": site_id, "asset": asset_id, "kind": kind, "subject": subject, "ip": ip, "field": field, "before": before,
            "after": after, "source": source, "now": now,
        },
    )  # fmt: skip


_EVENT = "SELECT id, asset_id, run_id, kind, subject, host(ip) AS ip, field, before, after, source, baseline, quiet, at FROM asset_event"


def list_events(
    connection: Connection,
    site_id: int,
    *,
    since: datetime | None,
    kinds: Sequence[str],
    asset_ids: Sequence[int] | None,
    loud: bool,
    limit: int,
) -> list[Any]:
    """Return events of a site, newest first."""
    return list(
        connection.execute(
            text(
                f"{_EVENT} WHERE site_id = :site AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)"
                " AND (cardinality(CAST(:kinds AS text[])) = 0 OR kind = ANY(:kinds))"
                " AND (CAST(:assets AS bigint[]) IS NULL OR asset_id = ANY(CAST(:assets AS bigint[])))"
                " AND NOT (:loud AND (baseline OR quiet)) ORDER BY id DESC LIMIT :limit"
            ),
            {
                "site": site_id, "since": since, "kinds": list(kinds), "loud": loud, "limit": limit,
                "assets": None if asset_ids is None else list(asset_ids),
            },
        )
    )  # fmt: skip


def incarnations(connection: Connection, site_id: int, *, asset_id: int | None, serial: str | None) -> list[int]:
    """Return the numbers under which one device was known: by its strong identifiers, deleted and merged assets included."""
    return list(
        connection.scalars(
            text(
                """
                WITH RECURSIVE key AS (
                    SELECT kind, value, asset_id FROM asset_identifier WHERE site_id = :site AND strength = 'strong'
                    UNION SELECT kind, value, asset_id FROM former_identifier WHERE site_id = :site
                ), same AS (
                    SELECT CAST(:asset AS bigint) AS id WHERE CAST(:asset AS bigint) IS NOT NULL
                    UNION SELECT asset_id FROM key WHERE kind = 'serial' AND split_part(value, ':', 2) = :serial
                    UNION SELECT other.asset_id FROM same JOIN key mine ON mine.asset_id = same.id
                        JOIN key other ON other.kind = mine.kind AND other.value = mine.value
                )
                SELECT id FROM same UNION SELECT m.merged_id FROM merge_log m JOIN same ON same.id = m.kept_id
                    WHERE m.undone_at IS NULL ORDER BY 1
                """
            ),
            {"site": site_id, "asset": asset_id, "serial": serial},
        )
    )


def declare_subnet(connection: Connection, site_id: int, values: dict[str, Any]) -> None:
    """Declare a network, or change what was declared."""
    connection.execute(
        text(
            "INSERT INTO subnet (site_id, prefix, kind, missing_scans, missing_hours, stale_hours, archive_hours, lease_hours, description)"
            " VALUES (:site, CAST(:prefix AS cidr), :kind, :missing_scans, :missing_hours, :stale_hours, :archive_hours, :lease_hours,"
            " :description) ON CONFLICT (site_id, prefix) DO UPDATE SET kind = excluded.kind, missing_scans = excluded.missing_scans,"
            " missing_hours = excluded.missing_hours, stale_hours = excluded.stale_hours, archive_hours = excluded.archive_hours,"
            " lease_hours = excluded.lease_hours, description = excluded.description"
        ),
        {"site": site_id, **values},
    )


def forget_subnet(connection: Connection, site_id: int, prefix: str) -> bool:
    """Remove a declared network; says whether there was one."""
    return (
        connection.execute(
            text("DELETE FROM subnet WHERE site_id = :site AND prefix = CAST(:prefix AS cidr)"),
            {"site": site_id, "prefix": prefix},
        ).rowcount
        > 0
    )
