"""SQL of the ledger: insert events, read runs and counters, seal batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

GENESIS = "0" * 64
"""What the first seal of a site names as its predecessor."""
SEAL_BATCH = 5000
"""Most events under one seal."""
PAGE = 200
"""Events read at once where a batch is hashed or exported; each may have 64 KiB of parameters and as much of a result."""
_IN_FLIGHT_LOCK = 1397311308
"""The advisory lock every insert of events holds shared until it commits (revision 0001)."""
_SEAL_LOCK = 1397311309

_ONE_MOMENT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
"""What is pruned while it is looked at must not look changed."""

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

    def __str__(self) -> str:
        return f"site {self.site}, events {self.from_seq} to {self.to_seq}"


@dataclass(frozen=True)
class SealRecord:
    """A seal and what became of its batch."""

    seal: Seal
    id: int
    sealed_at: datetime
    hosts: tuple[str, ...]
    """Machines that hold a file of it."""
    pruned: bool
    """Whether its events were removed; of runs that went on in a later batch some may still be there."""


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
    for site in _sites(connection):
        after, previous = last.get(site, (0, GENESIS))
        first, latest, events = _batch(connection, site, after + 1, up_to)
        if not events:
            continue
        digest = chain(previous, _events_between(connection, site, first, latest))
        link = Seal(site, first, latest, events, previous, digest)
        connection.execute(
            text(
                "INSERT INTO tool_run_seal (site, from_seq, to_seq, events, previous_hash, hash)"
                " VALUES (:site, :from_seq, :to_seq, :events, :previous_hash, :hash)"
            ),
            vars(link),
        )
        made.append(link)
    return made


def sealed_sites(connection: Connection) -> list[str]:
    """Return the sites that have a seal."""
    return list(connection.scalars(text("SELECT DISTINCT site FROM tool_run_seal ORDER BY site")))


def seals(connection: Connection, site: str) -> list[SealRecord]:
    """Return a site's chain, oldest first, and what became of each batch."""
    statement = text(
        """
        SELECT s.id, s.site, s.from_seq, s.to_seq, s.events, s.previous_hash, s.hash, s.sealed_at,
            array(SELECT x.host FROM tool_run_export x WHERE x.seal_id = s.id ORDER BY x.host) AS hosts,
            EXISTS (SELECT FROM tool_run_prune p WHERE p.seal_id = s.id) AS pruned
        FROM tool_run_seal s WHERE s.site = :site ORDER BY s.from_seq
        """
    )
    return [
        SealRecord(
            Seal(row.site, row.from_seq, row.to_seq, row.events, row.previous_hash, row.hash),
            id=row.id,
            sealed_at=row.sealed_at,
            hosts=tuple(row.hosts),
            pruned=row.pruned,
        )
        for row in connection.execute(statement, {"site": site})
    ]


def sealed_lines(connection: Connection, link: Seal) -> Iterator[bytes]:
    """Yield the events of a batch that are in the database, as the lines its hash is made of."""
    return (line(event) for event in _events_between(connection, link.site, link.from_seq, link.to_seq))


def note_export(connection: Connection, seal_id: int, host: str, file: str) -> None:
    """Note that a machine holds a batch in a file. Repeating it changes nothing."""
    connection.execute(
        text(
            "INSERT INTO tool_run_export (seal_id, host, file) VALUES (:seal_id, :host, :file) ON CONFLICT DO NOTHING"
        ),
        {"seal_id": seal_id, "host": host, "file": file},
    )


def prune(connection: Connection, seal_id: int) -> int:
    """Remove a batch's events; return how many went. Its seal stays.

    The database itself refuses a batch that is not exported, is not a week old, or has one before it that is not pruned. Of a run
    that still has an event in a later batch nothing goes yet; it goes with that one.
    """
    return int(connection.scalar(text("SELECT prune_tool_run_seal(:id)"), {"id": seal_id}) or 0)


def broken_seals(connection: Connection, site: str) -> list[str]:
    """Recompute a site's chain; return what does not hold, in words, and nothing when all holds.

    Of a batch that was pruned only its place in the chain can be seen here; its file proves the rest.
    """
    connection.execute(_ONE_MOMENT)
    problems, previous = [], GENESIS
    for record in seals(connection, site):
        link = record.seal
        if link.previous_hash != previous:
            problems.append(f"{link}: does not follow the seal before it")
        previous = link.hash
        if record.pruned:
            continue
        found, digest = _recompute(connection, link)
        if found != link.events:
            problems.append(f"{link}: {found} events where {link.events} were sealed")
        elif digest != link.hash:
            problems.append(f"{link}: an event differs from what was sealed")
    return problems


def batch_state(connection: Connection, record: SealRecord) -> Literal["intact", "changed", "pruned"]:
    """Say how a batch stands at one moment: its events are what was sealed, are not, or were pruned."""
    connection.execute(_ONE_MOMENT)
    statement = text("SELECT EXISTS (SELECT FROM tool_run_prune WHERE seal_id = :id)")
    if connection.scalar(statement, {"id": record.id}):
        return "pruned"
    link = record.seal
    return "intact" if _recompute(connection, link) == (link.events, link.hash) else "changed"


def _recompute(connection: Connection, link: Seal) -> tuple[int, str]:
    """Return how many events of a batch are there, and the hash they give."""
    found, digest = 0, hashlib.sha256(link.previous_hash.encode())
    for one in sealed_lines(connection, link):
        found += 1
        digest.update(b"\n" + one)
    return found, digest.hexdigest()


def chain(previous: str, events: Iterable[Mapping[str, Any] | RowMapping]) -> str:
    """Return the hash of a batch: SHA-256 over the hash before it and each event as one line of canonical JSON.

    Canonical: the columns of `COLUMNS` and `seq`, sorted by name, no spaces, UTC times with microseconds. Whoever has an export
    can compute it without this program.
    """
    digest = hashlib.sha256(previous.encode())
    for event in events:
        digest.update(b"\n" + line(event))
    return digest.hexdigest()


def line(event: Mapping[str, Any] | RowMapping) -> bytes:
    """Return an event as one line of canonical JSON."""
    values = {name: _canonical(event[name]) for name in (*COLUMNS, "seq")}
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


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


def _batch(connection: Connection, site: str, first: int, last: int) -> tuple[int, int, int]:
    """Return the first and the last `seq` of the next batch, and how many events it has."""
    statement = text(
        "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0), count(*) FROM (SELECT seq FROM tool_run_event"
        " WHERE site = :site AND seq BETWEEN :first AND :last ORDER BY seq LIMIT :limit) batch"
    )
    given = {"site": site, "first": first, "last": last, "limit": SEAL_BATCH}
    from_seq, to_seq, events = connection.execute(statement, given).one()
    return from_seq, to_seq, events


def _events_between(connection: Connection, site: str, first: int, last: int) -> Iterator[RowMapping]:
    """Yield a site's events in order, a page at a time: a batch of large results is never in memory whole."""
    statement = text(
        "SELECT * FROM tool_run_event WHERE site = :site AND seq BETWEEN :first AND :last ORDER BY seq LIMIT :limit"
    )
    while True:
        given = {"site": site, "first": first, "last": last, "limit": PAGE}
        page = connection.execute(statement, given).mappings().all()
        yield from page
        if len(page) < PAGE:
            return
        first = page[-1]["seq"] + 1
