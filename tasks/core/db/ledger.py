"""SQL of the ledger: insert events, read runs and counters, seal batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

GENESIS = "0" * 64
"""What the first seal of a site names as its predecessor."""
SEAL_BATCH = 5000
"""Most events under one seal."""
_IN_FLIGHT_LOCK = 1397311308
"""The advisory lock every insert of events holds shared until it commits (revision 0001)."""
_SEAL_LOCK = 1397311309

COLUMNS = (
    "id", "tool_run_id", "site", "kind", "at", "tool", "service", "safety", "target", "allowed_by", "request_id", "flow_run_id",
    "task_run_id", "who", "attempt", "duration_s", "outcome", "error_class", "error_message", "result", "params", "trace_id",
)  # fmt: skip
_JSON = frozenset({"result", "params"})

_INSERT = text(
    # All names are ours.
    f"INSERT INTO tool_run_event ({', '.join(COLUMNS)}) VALUES ("  # noqa: S608
    + ", ".join(f"CAST(:{name} AS jsonb)" if name in _JSON else f":{name}" for name in COLUMNS)
    + ") ON CONFLICT (id) DO NOTHING"
)


def insert_events(connection: Connection, events: Iterable[Mapping[str, Any]]) -> int:
    """Insert events that are not there yet; return how many were new. Repeating it changes nothing.

    Args:
        connection: Inside a transaction.
        events: Values for `COLUMNS`; `result` and `params` as Python objects.
    """
    # Always in one order: two replays of the same journal then meet the counters' rows in the same order, not crosswise.
    ordered = sorted(events, key=lambda e: (e["site"], e["tool"], e["outcome"] or e["kind"], e["at"], str(e["id"])))
    new = 0
    for event in ordered:
        values = {name: event[name] for name in COLUMNS}
        for name in _JSON:
            values[name] = None if values[name] is None else json.dumps(values[name], ensure_ascii=False)
        new += connection.execute(_INSERT, values).rowcount
    return new


# --- runs ---


def get_run(connection: Connection, tool_run_id: UUID) -> RowMapping | None:
    """Return the latest state of one run."""
    return (
        connection.execute(text("SELECT * FROM tool_run WHERE id = :id"), {"id": tool_run_id}).mappings().one_or_none()
    )


def run_events(connection: Connection, tool_run_id: UUID) -> Sequence[RowMapping]:
    """Return all events of one run, in the order they happened."""
    statement = text("SELECT * FROM tool_run_event WHERE tool_run_id = :id ORDER BY attempt, rank, at, seq")
    return connection.execute(statement, {"id": tool_run_id}).mappings().all()


_RUN_FILTERS = {
    "site": "site = :site",
    "tool": "tool = :tool",
    "service": "service = :service",
    "safety": "safety = :safety",
    "state": "state = :state",
    "who": "who = :who",
    "request_id": "request_id = :request_id",
    "flow_run_id": "flow_run_id = :flow_run_id",
    "target": "target ILIKE :target",
    "since": "updated_at >= :since",
    "until": "updated_at < :until",
}


def list_runs(connection: Connection, filters: Mapping[str, Any], limit: int) -> Sequence[RowMapping]:
    """Return runs, the one with the newest event first.

    Args:
        connection: Inside a transaction.
        filters: Any of `_RUN_FILTERS`; `target` matches a part, whatever its case.
        limit: Most rows.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    if "target" in given:
        given["target"] = f"%{escape_like(given['target'])}%"
    where = " AND ".join(_RUN_FILTERS[name] for name in given) or "true"
    statement = text(f"SELECT * FROM tool_run WHERE {where} ORDER BY updated_at DESC LIMIT :limit")  # noqa: S608 - our words
    return connection.execute(statement, {**given, "limit": limit}).mappings().all()


def last_results(
    connection: Connection, site: str, tool: str, target: str, since: datetime, limit: int
) -> Sequence[RowMapping]:
    """Return run, time and result of a tool's latest completed runs against a target, the newest first.

    Read backwards along an index of its own, so that what was run lately is found at once.

    Args:
        connection: Inside a transaction.
        site: The site.
        tool: Canonical name of the tool.
        target: Part of what the ledger names as the target.
        since: How far back to look.
        limit: Most rows.
    """
    statement = text(
        "SELECT tool_run_id, at, result FROM tool_run_event WHERE site = :site AND tool = :tool AND kind = 'finished'"
        " AND outcome = 'completed' AND result IS NOT NULL AND at >= :since AND target ILIKE :target"
        " ORDER BY at DESC LIMIT :limit"
    )
    given = {"site": site, "tool": tool, "target": f"%{escape_like(target)}%", "since": since, "limit": limit}
    return connection.execute(statement, given).mappings().all()


def escape_like(part: str) -> str:
    """Escape what LIKE would take for a wildcard; its escape character is the backslash, PostgreSQL's default."""
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def counters(
    connection: Connection,
    *,
    site: str | None,
    tool: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
) -> Sequence[RowMapping]:
    """Return counts and summed durations by site, tool and outcome, and by hour or day if asked."""
    bucket = {None: "NULL::timestamptz", "hour": "hour", "day": "date_trunc('day', hour, 'UTC')"}[by]
    statement = text(
        f"""
        SELECT site, tool, outcome, {bucket} AS bucket, sum(count)::bigint AS count, sum(duration_sum_s) AS duration_sum_s
        FROM tool_run_counter
        WHERE (CAST(:site AS text) IS NULL OR site = :site) AND (CAST(:tool AS text) IS NULL OR tool = :tool)
            AND (CAST(:since AS timestamptz) IS NULL OR hour >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC'))
            AND (CAST(:until AS timestamptz) IS NULL OR hour < :until)
        GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
        """  # noqa: S608 - `bucket` is one of three words of ours
    )
    return connection.execute(statement, {"site": site, "tool": tool, "since": since, "until": until}).mappings().all()


def mark_unknown(connection: Connection, older_than: timedelta, runs: Sequence[UUID] | None = None) -> list[UUID]:
    """Write an `unknown` event for every attempt that started that long ago and has no end; return their run ids.

    Args:
        connection: Inside a transaction.
        older_than: Least age of the attempt.
        runs: Only these runs; None for all.
    """
    statement = text(
        """
        INSERT INTO tool_run_event (id, tool_run_id, site, kind, at, tool, service, safety, target, allowed_by, request_id,
            flow_run_id, task_run_id, who, attempt, trace_id)
        SELECT md5(s.tool_run_id || '-' || s.attempt || '-unknown')::uuid, s.tool_run_id, s.site, 'unknown', now(), s.tool,
            s.service, s.safety, s.target, s.allowed_by, s.request_id, s.flow_run_id, s.task_run_id, s.who, s.attempt, s.trace_id
        FROM tool_run_event s
        WHERE s.kind = 'started' AND s.at < now() - CAST(:older_than AS interval)
            AND (CAST(:runs AS uuid[]) IS NULL OR s.tool_run_id = ANY (CAST(:runs AS uuid[])))
            AND NOT EXISTS (
                SELECT FROM tool_run_event e
                WHERE e.tool_run_id = s.tool_run_id AND (e.attempt > s.attempt OR (e.attempt = s.attempt AND e.rank >= 2)))
        ORDER BY s.site, s.tool, s.at
        ON CONFLICT (id) DO NOTHING
        RETURNING tool_run_id
        """
    )
    chosen = None if runs is None else [str(run) for run in runs]
    return list(connection.scalars(statement, {"older_than": older_than, "runs": chosen}))


# --- seals ---


@dataclass(frozen=True)
class Seal:
    """One link of a site's chain: the hash of a batch of events and of the link before it."""

    site: str
    from_seq: int
    to_seq: int
    events: int
    previous_hash: str
    hash: str


def horizon(connection: Connection) -> int:
    """Return the largest `seq` below which no event is still to be committed.

    Waits for the inserts in flight, and keeps new ones waiting meanwhile: a moment, bounded by `lock_timeout`.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _IN_FLIGHT_LOCK})
    # A statement of its own: its snapshot must be newer than the lock.
    return int(connection.scalar(text("SELECT coalesce(max(seq), 0) FROM tool_run_event")) or 0)


def seal(connection: Connection, up_to: int) -> list[Seal]:
    """Seal one batch a site of what is not sealed yet, up to a `horizon`; return the new seals."""
    # One sealer at a time; the chain's unique constraints would stop a second one as well, but with an error.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEAL_LOCK})
    last = _last_seals(connection)
    made = []
    for site in connection.scalars(
        text("SELECT DISTINCT site FROM tool_run_event WHERE seq <= :up_to"), {"up_to": up_to}
    ).all():
        after, previous = last.get(site, (0, GENESIS))
        rows = _events_between(connection, site, after + 1, up_to, SEAL_BATCH)
        if not rows:
            continue
        link = Seal(site, rows[0]["seq"], rows[-1]["seq"], len(rows), previous, chain(previous, rows))
        connection.execute(
            text(
                "INSERT INTO tool_run_seal (site, from_seq, to_seq, events, previous_hash, hash)"
                " VALUES (:site, :from_seq, :to_seq, :events, :previous_hash, :hash)"
            ),
            vars(link),
        )
        made.append(link)
    return made


def broken_seals(connection: Connection, site: str) -> list[str]:
    """Recompute a site's chain; return what does not hold, in words, and nothing when all holds."""
    seals = connection.execute(
        text("SELECT * FROM tool_run_seal WHERE site = :site ORDER BY from_seq"), {"site": site}
    ).mappings()
    problems, previous = [], GENESIS
    for link in seals.all():
        name = f"site {site}, events {link['from_seq']} to {link['to_seq']}"
        if link["previous_hash"] != previous:
            problems.append(f"{name}: does not follow the seal before it")
        rows = _events_between(connection, site, link["from_seq"], link["to_seq"], link["events"] + 1)
        if len(rows) != link["events"]:
            problems.append(f"{name}: {len(rows)} events where {link['events']} were sealed")
        elif chain(link["previous_hash"], rows) != link["hash"]:
            problems.append(f"{name}: an event differs from what was sealed")
        previous = link["hash"]
    return problems


def chain(previous: str, events: Iterable[Mapping[str, Any] | RowMapping]) -> str:
    """Return the hash of a batch: SHA-256 over the hash before it and each event as one line of canonical JSON.

    Canonical: the columns of `COLUMNS` and `seq`, sorted by name, no spaces, UTC times with microseconds. Whoever has an export
    can compute it without this program.
    """
    digest = hashlib.sha256(previous.encode())
    for event in events:
        line = {name: _canonical(event[name]) for name in (*COLUMNS, "seq")}
        digest.update(b"\n" + json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    return digest.hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value) if isinstance(value, UUID) else value


def _last_seals(connection: Connection) -> dict[str, tuple[int, str]]:
    rows = connection.execute(
        text("SELECT DISTINCT ON (site) site, to_seq, hash FROM tool_run_seal ORDER BY site, from_seq DESC")
    )
    return {site: (to_seq, digest) for site, to_seq, digest in rows}


def _sites(connection: Connection) -> Sequence[str]:
    """Return the sites of all events, by a jump from one to the next in the index: DISTINCT would read every event."""
    statement = text(
        """
        WITH RECURSIVE found AS (
            (SELECT site FROM tool_run_event ORDER BY site LIMIT 1)
            UNION ALL
            SELECT (SELECT e.site FROM tool_run_event e WHERE e.site > found.site ORDER BY e.site LIMIT 1)
            FROM found WHERE found.site IS NOT NULL
        )
        SELECT site FROM found WHERE site IS NOT NULL
        """
    )
    return connection.scalars(statement).all()


def _events_between(connection: Connection, site: str, first: int, last: int, limit: int) -> Sequence[RowMapping]:
    statement = text(
        "SELECT * FROM tool_run_event WHERE site = :site AND seq BETWEEN :first AND :last ORDER BY seq LIMIT :limit"
    )
    return connection.execute(statement, {"site": site, "first": first, "last": last, "limit": limit}).mappings().all()
