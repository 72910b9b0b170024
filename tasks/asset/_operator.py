"""What operators do with what the machine leaves open: candidates, conflicts, merges, locks; and the record of it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from tasks.asset._changes import EventKind
from tasks.asset._fields import OWNED_FIELDS, Rank
from tasks.asset._identity import Kind, MacKind, Strength, classify_mac, clean_serial, mac_strength
from tasks.asset._ladder import Status, SubnetKind
from tasks.core.db import inbox, inventory, merges
from tasks.core.db.engine import Database, database
from tasks.core.db.sites import ensure_site, find_site
from tasks.core.errors import Conflict, InvalidParameters, NotFound, Rejected
from tasks.core.models import parse_network

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CandidateEntry:
    """Something seen that is not proof enough for an asset. `kind` and `reason` say why."""

    id: int
    kind: str
    key: str
    ip: str | None
    mac: str | None
    reason: str
    evidence: dict[str, Any]
    sightings: int
    state: str
    asset_id: int | None
    first_seen: datetime
    last_seen: datetime
    decided_by: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class ConflictEntry:
    """Something nothing was written for. `evidence` has one entry for each side."""

    id: int
    kind: str
    ip: str | None
    asset_ids: list[int]
    reason: str
    evidence: list[dict[str, Any]]
    sightings: int
    state: str
    first_seen: datetime
    last_seen: datetime
    decided_by: str | None
    decided_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventEntry:
    """An event as it was recorded. `source` is `reconcile` or the operator."""

    id: int
    asset_id: int | None
    run_id: str | None
    kind: str
    subject: str
    ip: str | None
    field: str | None
    before: Any
    after: Any
    source: str
    baseline: bool
    quiet: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class SubnetEntry:
    """A declared network. Empty numbers mean the default of its kind."""

    prefix: str
    kind: str
    missing_scans: int | None
    missing_hours: float | None
    stale_hours: float | None
    archive_hours: float | None
    lease_hours: float | None
    description: str


async def _run(db: Database | None, work: Callable[[Connection], T]) -> T:
    return await (db or database()).run(work)


# --- candidates ------------------------------------------------------------------------------------------------------


async def candidates(
    site: str = "default", *, state: str | None = "open", limit: int = 1000, db: Database | None = None
) -> list[CandidateEntry]:
    """Return a site's candidates, last seen first.

    Args:
        site: The site.
        state: `open`, `ignored`, `accepted`, `resolved`; None for all.
        limit: Most to return.
        db: The database; default: the one of the settings.

    Raises:
        NotFound: There is no such site.
    """
    return await _run(
        db, lambda c: [CandidateEntry(*row) for row in inbox.list_candidates(c, find_site(c, site), state, limit)]
    )


async def accept(candidate_id: int, *, by: str, db: Database | None = None) -> int:
    """Make an asset of a candidate, and return its number.

    Raises:
        NotFound: There is no such candidate.
        Conflict: It was accepted already, or its address or MAC belongs to an asset.
        Rejected: It is a proxy: there is no thing to accept.
    """

    def work(connection: Connection) -> int:
        candidate, now = _candidate(connection, candidate_id), _now()
        if candidate.kind == "proxy_arp":
            raise Rejected(
                f"Candidate {candidate_id} is a proxy that answers for others, not a thing.",
                hint="Create the assets behind it by their own identity: asset_create.",
            )
        strength = mac_strength(candidate.mac, first_hand=candidate.kind != "third_party") if candidate.mac else None
        holder = inbox.holder_of(connection, candidate.site_id, candidate.ip) if candidate.ip else None
        owner = None
        if strength is Strength.STRONG:
            owner = inbox.strong_owner(connection, candidate.site_id, Kind.MAC, candidate.mac)
            if owner is not None and candidate.kind == "shared_mac":
                owner, strength = None, Strength.WEAK  # the MAC is its machine's, and known to be
        if holder is not None or owner is not None:
            raise Conflict(f"What candidate {candidate_id} shows belongs to asset {holder or owner}.")
        ephemeral = candidate.mac is not None and classify_mac(candidate.mac) is MacKind.RANDOM
        asset_id = inbox.create_accepted(connection, candidate, ephemeral=ephemeral, strength=strength, now=now)
        inbox.decide_candidate(connection, candidate_id, state="accepted", asset_id=asset_id, by=by, now=now)
        inbox.note_event(
            connection, candidate.site_id, asset_id=asset_id, kind=EventKind.ACCEPTED, subject=candidate.ip or candidate.key,
            ip=candidate.ip, after=json.dumps({"candidate": candidate_id, "kind": candidate.kind}), source=by, now=now,
        )  # fmt: skip
        return asset_id

    return await _run(db, work)


async def ignore(candidate_id: int, *, by: str, db: Database | None = None) -> None:
    """Never raise this candidate again. More proof (a port, a name) makes an asset all the same.

    Raises:
        NotFound: There is no such candidate.
        Conflict: It was accepted already.
    """

    def work(connection: Connection) -> None:
        candidate, now = _candidate(connection, candidate_id), _now()
        inbox.decide_candidate(connection, candidate_id, state="ignored", asset_id=None, by=by, now=now)
        inbox.note_event(
            connection, candidate.site_id, asset_id=None, kind=EventKind.IGNORED, subject=candidate.ip or candidate.key, ip=candidate.ip,
            after=json.dumps({"candidate": candidate_id, "kind": candidate.kind}), source=by, now=now,
        )  # fmt: skip

    await _run(db, work)


def _candidate(connection: Connection, candidate_id: int) -> Any:
    """Find a candidate that is still to be decided, with its site locked."""
    site_id = inbox.site_of_candidate(connection, candidate_id)
    if site_id is not None:
        inventory.lock_site(connection, site_id)
    candidate = inbox.find_candidate(connection, candidate_id)
    if candidate is None:
        raise NotFound(f"There is no candidate {candidate_id}.", hint="See: signalbox asset candidates")
    if candidate.state in ("accepted", "resolved"):
        raise Conflict(f"Candidate {candidate_id} is asset {candidate.asset_id} already.")
    return candidate


# --- conflicts -------------------------------------------------------------------------------------------------------


async def conflicts(
    site: str = "default", *, state: str | None = "open", limit: int = 1000, db: Database | None = None
) -> list[ConflictEntry]:
    """Return a site's conflicts with the evidence of each side, last seen first.

    Args:
        site: The site.
        state: `open`, `resolved`, `ignored`; None for all.
        limit: Most to return.
        db: The database; default: the one of the settings.

    Raises:
        NotFound: There is no such site.
    """
    return await _run(
        db, lambda c: [ConflictEntry(*row) for row in inbox.list_conflicts(c, find_site(c, site), state, limit)]
    )


async def settle(conflict_id: int, *, by: str, ignore: bool = False, db: Database | None = None) -> None:
    """Close a conflict. It is raised again if it is seen again, unless `ignore`.

    Raises:
        NotFound: There is no such open conflict.
    """
    state = "ignored" if ignore else "resolved"
    site = await _run(db, lambda c: inbox.decide_conflict(c, conflict_id, state=state, by=by, now=_now()))
    if site is None:
        raise NotFound(f"There is no open conflict {conflict_id}.")


# --- merging ---------------------------------------------------------------------------------------------------------


async def merge(kept: int, merged: int, *, by: str, reason: str = "", db: Database | None = None) -> int:
    """Fold asset `merged` into `kept`, and return the number of the merge, for `undo`.

    Raises:
        InvalidParameters: Both are the same.
        NotFound: One does not exist.
        Conflict: They are of different sites, or one was merged already.
    """
    if kept == merged:
        raise InvalidParameters(f"Asset {kept} cannot be merged with itself.")

    def work(connection: Connection) -> int:
        _lock_site_of(connection, kept)
        rows = {asset_id: _asset(connection, asset_id) for asset_id in sorted((kept, merged))}
        one, other = rows[kept], rows[merged]
        if one.site_id != other.site_id:
            raise Conflict(f"Asset {kept} is of site {one.site}, asset {merged} of {other.site}: they cannot be one.")
        for row in (one, other):
            if row.status == Status.MERGED:
                raise Conflict(f"Asset {row.id} was merged into asset {row.merged_into} already.")
        now = _now()
        number = merges.merge_assets(
            connection, one.site_id, kept, merged, reason=reason or f"merged by {by}", by=by, run_id=None, now=now
        )
        inbox.resolve_conflicts_of(connection, kept, merged, by=by, now=now)
        inbox.note_event(
            connection, one.site_id, asset_id=kept, kind=EventKind.MERGED, subject=_name(one), source=by, now=now,
            before=json.dumps({"assets": [kept, merged], "names": [_name(one), _name(other)]}),
            after=json.dumps({"asset": kept, "merge": number, "reason": reason}),
        )  # fmt: skip
        return number

    return await _run(db, work)


async def undo(merge_id: int, *, by: str, db: Database | None = None) -> tuple[int, int]:
    """Take a merge back, and return the two assets. No payload merges them again by itself.

    Raises:
        NotFound: There is no such merge.
        Conflict: It was undone already, or a later merge builds upon it.
    """

    def work(connection: Connection) -> tuple[int, int]:
        entry = merges.find_merge(connection, merge_id)
        if entry is None:
            raise NotFound(f"There is no merge {merge_id}.")
        inventory.lock_site(connection, entry.site_id)
        entry = merges.find_merge(connection, merge_id)  # as it is now that nobody else can change it
        assert entry is not None  # merges are never removed
        if entry.undone_at is not None:
            raise Conflict(f"Merge {merge_id} was undone already.")
        if entry.built_upon:
            raise Conflict(f"A later merge builds upon merge {merge_id}.", hint="Undo that one first.")
        for asset_id in (entry.kept_id, entry.merged_id):
            _asset(connection, asset_id)
        now = _now()
        merges.undo_merge(connection, entry, by=by, now=now)
        for asset_id in (entry.kept_id, entry.merged_id):
            inbox.note_event(
                connection, entry.site_id, asset_id=asset_id, kind=EventKind.SPLIT, subject=_name(_asset(connection, asset_id)),
                source=by, now=now, after=json.dumps({"assets": [entry.kept_id, entry.merged_id], "merge": merge_id}),
            )  # fmt: skip
        return entry.kept_id, entry.merged_id

    return await _run(db, work)


# --- locks -----------------------------------------------------------------------------------------------------------


async def lock(asset_id: int, field: str, *, by: str, db: Database | None = None) -> list[str]:
    """Fix a field of an asset against all automatic sources, and return all its locked fields.

    Raises:
        InvalidParameters: There is no such field.
        NotFound: There is no such asset.
    """
    return await _set_lock(asset_id, field, True, by, db)


async def unlock(asset_id: int, field: str, *, by: str, db: Database | None = None) -> list[str]:
    """Let automatic sources write a field again, and return the fields that stay locked.

    Raises:
        InvalidParameters: There is no such field.
        NotFound: There is no such asset.
    """
    return await _set_lock(asset_id, field, False, by, db)


async def _set_lock(asset_id: int, field: str, locked: bool, by: str, db: Database | None) -> list[str]:
    if field not in OWNED_FIELDS:
        raise InvalidParameters(
            f"{field!r} is no field that can be locked.", hint=f"Fields: {', '.join(OWNED_FIELDS)}."
        )

    def work(connection: Connection) -> list[str]:
        asset, now = _asset(connection, asset_id), _now()
        # A lock keeps who said it last; a field nobody spoke of yet is the operator's.
        if inbox.set_lock(connection, asset_id, field, locked=locked, by=by, rank=Rank.SCAN, now=now):
            kind = EventKind.LOCKED if locked else EventKind.UNLOCKED
            inbox.note_event(
                connection,
                asset.site_id,
                asset_id=asset_id,
                kind=kind,
                subject=_name(asset),
                field=field,
                source=by,
                now=now,
            )
        return inbox.locks_of(connection, asset_id)

    return await _run(db, work)


# --- the record ------------------------------------------------------------------------------------------------------


async def events(
    site: str = "default",
    *,
    since: datetime | None = None,
    kinds: Sequence[str] = (),
    loud: bool = False,
    limit: int = 100,
    db: Database | None = None,
) -> list[EventEntry]:
    """Return events of a site, newest first.

    Args:
        site: The site.
        since: Only from then on.
        kinds: Only of these kinds; none means all.
        loud: Without the baseline and without what raises no alert.
        limit: Most to return.
        db: The database; default: the one of the settings.

    Raises:
        NotFound: There is no such site.
        InvalidParameters: There is no such kind.
    """
    unknown = sorted(set(kinds) - {kind.value for kind in EventKind})
    if unknown:
        raise InvalidParameters(f"{unknown[0]!r} is no kind of event.", hint=f"Kinds: {', '.join(EventKind)}.")

    def work(connection: Connection) -> list[EventEntry]:
        rows = inbox.list_events(
            connection, find_site(connection, site), since=since, kinds=kinds, asset_ids=None, loud=loud, limit=limit
        )
        return [EventEntry(*row) for row in rows]

    return await _run(db, work)


async def history(
    site: str = "default",
    *,
    asset: int | None = None,
    serial: str | None = None,
    limit: int = 1000,
    db: Database | None = None,
) -> list[EventEntry]:
    """Return what happened to one device, oldest first: also under numbers it had before it was deleted or merged.

    Args:
        site: The site.
        asset: The asset's number, or
        serial: its serial number.
        limit: Most to return, the newest.
        db: The database; default: the one of the settings.

    Raises:
        NotFound: There is no such site.
        InvalidParameters: Neither asset nor serial is given.
    """
    if asset is None and serial is None:
        raise InvalidParameters("A history needs an asset's number or a serial.")

    def work(connection: Connection) -> list[EventEntry]:
        site_id = find_site(connection, site)
        ids = inbox.incarnations(connection, site_id, asset_id=asset, serial=clean_serial(serial))
        rows = inbox.list_events(connection, site_id, since=None, kinds=(), asset_ids=ids, loud=False, limit=limit)
        return [EventEntry(*row) for row in reversed(rows)]

    return await _run(db, work)


# --- networks --------------------------------------------------------------------------------------------------------


async def subnets(site: str = "default", *, db: Database | None = None) -> list[SubnetEntry]:
    """Return the networks an operator declared, with their rules.

    Raises:
        NotFound: There is no such site.
    """
    return await _run(db, lambda c: [SubnetEntry(*row) for row in inventory.load_subnets(c, find_site(c, site))])


async def declare_subnet(
    site: str,
    prefix: str,
    *,
    kind: str = "static",
    missing_scans: int | None = None,
    missing_hours: float | None = None,
    stale_hours: float | None = None,
    archive_hours: float | None = None,
    lease_hours: float | None = None,
    description: str = "",
    db: Database | None = None,
) -> SubnetEntry:
    """Say what kind of hosts live in a network, and when silence there counts as missing. Replaces what was said before.

    Args:
        site: The site; made when it is new.
        prefix: The network.
        kind: `static`, `dhcp` or `guest`.
        missing_scans: Scans in a row an address must be silent in.
        missing_hours: Hours since it was last seen.
        stale_hours: Hours it is missing before it is stale.
        archive_hours: Hours it is stale before it is archived.
        lease_hours: How long an address by itself still speaks for the host last seen there.
        description: For people.
        db: The database; default: the one of the settings.

    Raises:
        InvalidParameters: The prefix, the kind or a number is wrong.
    """
    try:
        network = str(parse_network(prefix))
    except ValueError as error:
        raise InvalidParameters(f"prefix: {error}") from None
    if kind not in list(SubnetKind):
        raise InvalidParameters(f"{kind!r} is no kind of network.", hint=f"Kinds: {', '.join(SubnetKind)}.")
    numbers = {
        "missing_scans": missing_scans, "missing_hours": missing_hours, "stale_hours": stale_hours,
        "archive_hours": archive_hours, "lease_hours": lease_hours,
    }  # fmt: skip
    for name, number in numbers.items():
        if number is not None and number < (1 if name == "missing_scans" else 0):
            raise InvalidParameters(f"{name} is {number}; it must be {1 if name == 'missing_scans' else 0} or more.")
    values = {"prefix": network, "kind": kind, **numbers, "description": description}
    await _run(db, lambda c: inbox.declare_subnet(c, ensure_site(c, site), values))
    return SubnetEntry(
        network, kind, missing_scans, missing_hours, stale_hours, archive_hours, lease_hours, description
    )


async def forget_subnet(site: str, prefix: str, *, db: Database | None = None) -> None:
    """Take back what was declared about a network.

    Raises:
        NotFound: Nothing was declared about it.
        InvalidParameters: The prefix is wrong.
    """
    try:
        network = str(parse_network(prefix))
    except ValueError as error:
        raise InvalidParameters(f"prefix: {error}") from None
    if not await _run(db, lambda c: inbox.forget_subnet(c, find_site(c, site), network)):
        raise NotFound(f"Nothing is declared about {network} at site {site}.")


def _lock_site_of(connection: Connection, asset_id: int) -> None:
    """Take the site's lock before any row's, as a reconcile does: in one order, nobody waits in a circle."""
    inventory.lock_site(connection, inbox.site_of(connection, asset_id) or _missing(asset_id))


def _asset(connection: Connection, asset_id: int) -> Any:
    asset = inbox.find_asset(connection, asset_id)
    return asset if asset is not None else _missing(asset_id)


def _missing(asset_id: int) -> Any:
    raise NotFound(f"There is no asset {asset_id}.")


def _name(asset: Any) -> str:
    return str(asset.hostname or asset.primary_ip or asset.mac or asset.serial or f"asset {asset.id}")


def _now() -> datetime:
    return datetime.now(UTC)
