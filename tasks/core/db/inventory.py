"""SQL of the reconciliation: what is loaded before it decides, and the bulk writes after.

Everything works on sets: a reconcile of 10,000 hosts is a few dozen statements, not one per host. Rows to write travel as one JSON
document a statement (`jsonb_to_recordset`), which PostgreSQL turns into a table by itself.
"""

# ruff: noqa: S608 - statements are put together from constants of this module; values are always bound.

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

RECONCILE_LOCK = 0x53494752  # "SIGR": first half of the advisory lock, the site is the second
CHUNK = 4000
"""Rows one statement writes: bounds the memory of the JSON document on both sides."""


def lock_site(connection: Connection, site_id: int) -> None:
    """Wait until no other reconcile or merge of the site is under way; held until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key, :site)"), {"key": RECONCILE_LOCK, "site": site_id})


# --- what is known ---------------------------------------------------------------------------------------------------


class AssetRow(NamedTuple):
    """An asset as it is before a reconcile."""

    id: int
    hostname: str | None
    primary_ip: str | None
    mac: str | None
    type: str | None
    status: str
    vendor: str | None
    model: str | None
    serial: str | None
    firmware: str | None
    os: str | None
    location: str | None
    metadata: dict[str, Any]
    ephemeral: bool
    scanned_tcp: str
    scanned_udp: str
    last_seen: datetime | None
    status_since: datetime


class IdentifierRow(NamedTuple):
    """An identifier of an asset."""

    id: int
    asset_id: int
    kind: str
    value: str
    strength: str
    active: bool


class AddressRow(NamedTuple):
    """An address that is held, or was lost to another device."""

    id: int
    asset_id: int | None
    ip: str
    kind: str
    state: str
    mac: str | None
    answered_by: int | None
    method: str
    last_seen: datetime
    missed_scans: int


class ServiceRow(NamedTuple):
    """An open port of an asset, or one that was."""

    id: int
    asset_id: int
    ip: str
    protocol: str
    port: int
    name: str
    product: str
    version: str
    missed_scans: int
    active: bool


class OwnerRow(NamedTuple):
    """Who said what a field is."""

    asset_id: int
    field: str
    source: str
    rank: int
    locked: bool
    observed_at: datetime


@dataclass(slots=True)
class Known:
    """What the database knows about everything a batch may concern."""

    assets: dict[int, AssetRow] = field(default_factory=dict)
    identifiers: dict[int, list[IdentifierRow]] = field(default_factory=dict)
    addresses: dict[int, list[AddressRow]] = field(default_factory=dict)
    services: dict[int, list[ServiceRow]] = field(default_factory=dict)
    holders: dict[str, AddressRow] = field(default_factory=dict)
    """Who holds an address now; virtual addresses included."""
    owners_of_key: dict[tuple[str, str], list[IdentifierRow]] = field(default_factory=dict)
    """Active identifiers by kind and value."""


def load_virtual(connection: Connection, site_id: int) -> dict[str, AddressRow]:
    """Return the site's virtual addresses."""
    rows = connection.execute(
        text(f"SELECT {_ADDRESS} FROM address WHERE site_id = :site AND kind = 'virtual' AND state = 'held'"),
        {"site": site_id},
    )
    return {row[2]: AddressRow._make(row) for row in rows}


def load_known(
    connection: Connection,
    site_id: int,
    *,
    keys: Iterable[tuple[str, str]],
    ips: Iterable[str],
    prefixes: Iterable[str],
    pinned: Iterable[int] = (),
) -> Known:
    """Load every asset that has one of these identifiers or addresses, or an address in one of these networks.

    The assets are locked against field changes by others until the transaction ends; reading them stays possible.

    Args:
        connection: In the reconcile's transaction.
        site_id: The site.
        keys: Kind and value of identifiers.
        ips: Addresses.
        prefixes: Networks that were scanned to the end.
        pinned: Assets by their number.
    """
    wanted = list(keys)
    ids = [
        row[0]
        for row in connection.execute(
            text(
                """
                SELECT i.asset_id FROM asset_identifier i
                    JOIN unnest(CAST(:kinds AS text[]), CAST(:values AS text[])) AS k (kind, value)
                        ON i.site_id = :site AND i.kind = k.kind AND i.value = k.value AND i.active
                UNION
                SELECT a.asset_id FROM address a JOIN unnest(CAST(:ips AS inet[])) AS s (ip)
                    ON a.site_id = :site AND a.ip = s.ip AND a.state = 'held' WHERE a.asset_id IS NOT NULL
                UNION
                SELECT a.asset_id FROM address a JOIN unnest(CAST(:prefixes AS inet[])) AS p (prefix)
                    ON a.ip <<= p.prefix WHERE a.site_id = :site AND a.state IN ('held', 'lost') AND a.asset_id IS NOT NULL
                UNION
                SELECT id FROM asset WHERE site_id = :site AND id = ANY(CAST(:pinned AS bigint[])) AND status <> 'merged'
                """
            ),
            {
                "site": site_id,
                "kinds": [kind for kind, _ in wanted],
                "values": [value for _, value in wanted],
                "ips": list(ips),
                "prefixes": list(prefixes),
                "pinned": list(pinned),
            },
        )
    ]
    known = Known()
    if not ids:
        return known
    given = {"ids": ids}
    # Ordered, so that two transactions that lock several assets cannot wait for each other in a circle.
    rows = connection.execute(
        text(
            "SELECT id, hostname, host(primary_ip), mac::text, type, status, vendor, model, serial, firmware, os, location, metadata,"
            " ephemeral, scanned_tcp, scanned_udp, last_seen, status_since FROM asset WHERE id = ANY(:ids) ORDER BY id"
            " FOR NO KEY UPDATE"
        ),
        given,
    )
    known.assets = {row[0]: AssetRow._make(row) for row in rows}
    for row in connection.execute(
        text("SELECT id, asset_id, kind, value, strength, active FROM asset_identifier WHERE asset_id = ANY(:ids)"),
        given,
    ):
        identifier = IdentifierRow._make(row)
        known.identifiers.setdefault(identifier.asset_id, []).append(identifier)
        if identifier.active:
            known.owners_of_key.setdefault((identifier.kind, identifier.value), []).append(identifier)
    for row in connection.execute(
        text(f"SELECT {_ADDRESS} FROM address WHERE asset_id = ANY(:ids) AND state IN ('held', 'lost') ORDER BY id"),
        given,
    ):
        address = AddressRow._make(row)
        assert address.asset_id is not None  # selected by it
        known.addresses.setdefault(address.asset_id, []).append(address)
        if address.state == "held":
            known.holders[address.ip] = address
    return known


_ADDRESS = "id, asset_id, host(ip), kind, state, mac::text, answered_by, method, last_seen, missed_scans"


def load_services(connection: Connection, known: Known, asset_ids: Sequence[int]) -> None:
    """Load the services of these assets into `known`."""
    for row in connection.execute(
        text(
            "SELECT id, asset_id, host(ip), protocol, port, name, product, version, missed_scans, active FROM service"
            " WHERE asset_id = ANY(:ids)"
        ),
        {"ids": list(asset_ids)},
    ):
        service = ServiceRow._make(row)
        known.services.setdefault(service.asset_id, []).append(service)


def load_owners(connection: Connection, asset_ids: Sequence[int]) -> dict[int, dict[str, OwnerRow]]:
    """Return who said what the fields of these assets are, by asset and field."""
    owners: dict[int, dict[str, OwnerRow]] = {}
    for row in connection.execute(
        text(
            "SELECT asset_id, field, source, rank, locked, observed_at FROM asset_field_source WHERE asset_id = ANY(:ids)"
        ),
        {"ids": list(asset_ids)},
    ):
        owner = OwnerRow._make(row)
        owners.setdefault(owner.asset_id, {})[owner.field] = owner
    return owners


def load_names(connection: Connection, site_id: int, names: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """Return who has these names now (lower case): the asset, and whether it was ever seen."""
    rows = connection.execute(
        text(
            "SELECT lower(hostname), id, last_seen IS NOT NULL FROM asset WHERE site_id = :site"
            " AND lower(hostname) = ANY(:names) AND status NOT IN ('archived', 'merged')"
        ),
        {"site": site_id, "names": list(names)},
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def load_former(connection: Connection, site_id: int, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the deleted asset that had a strong identifier last, by kind and value."""
    wanted = list(keys)
    if not wanted:
        return {}
    rows = connection.execute(
        text(
            "SELECT f.kind, f.value, max(f.asset_id) FROM former_identifier f"
            " JOIN unnest(CAST(:kinds AS text[]), CAST(:values AS text[])) AS k (kind, value) USING (kind, value)"
            " WHERE f.site_id = :site GROUP BY 1, 2"
        ),
        {"site": site_id, "kinds": [kind for kind, _ in wanted], "values": [value for _, value in wanted]},
    )
    return {(row[0], row[1]): row[2] for row in rows}


def load_subnets(connection: Connection, site_id: int) -> list[Any]:
    """Return the site's declared networks, as rows of the table `subnet`."""
    return list(
        connection.execute(
            text(
                "SELECT text(prefix) AS prefix, kind, missing_scans, missing_hours, stale_hours, archive_hours, lease_hours, description"
                " FROM subnet WHERE site_id = :site ORDER BY prefix"
            ),
            {"site": site_id},
        )
    )


def scanned_before(connection: Connection, site_id: int, ips: Sequence[str]) -> set[str]:
    """Return those of the addresses that an earlier scan of the site covered to its end."""
    rows = connection.execute(
        text(
            "SELECT host(s.ip) FROM unnest(CAST(:ips AS inet[])) AS s (ip) WHERE EXISTS"
            " (SELECT FROM scan_history h WHERE h.site_id = :site AND h.prefix >>= s.ip)"
        ),
        {"site": site_id, "ips": list(ips)},
    )
    return {row[0] for row in rows}


def ever_scanned(connection: Connection, site_id: int) -> bool:
    """Whether any scan of the site ever ended."""
    return bool(
        connection.scalar(text("SELECT EXISTS (SELECT FROM scan_history WHERE site_id = :site)"), {"site": site_id})
    )


def load_unmerged(connection: Connection, site_id: int) -> set[frozenset[int]]:
    """Return the pairs of assets whose merge an operator undid: no payload may merge them again."""
    rows = connection.execute(
        text("SELECT kept_id, merged_id FROM merge_log WHERE site_id = :site AND undone_at IS NOT NULL"),
        {"site": site_id},
    )
    return {frozenset((row[0], row[1])) for row in rows}


def load_candidates(
    connection: Connection, site_id: int, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    """Return the candidates with these kinds and keys."""
    wanted = list(keys)
    rows = connection.execute(
        text(
            "SELECT c.id, c.kind, c.key, c.state, c.first_seen, c.sightings FROM candidate c"
            " JOIN unnest(CAST(:kinds AS text[]), CAST(:keys AS text[])) AS k (kind, key) USING (kind, key) WHERE c.site_id = :site"
        ),
        {"site": site_id, "kinds": [kind for kind, _ in wanted], "keys": [key for _, key in wanted]},
    )
    return {(row.kind, row.key): row for row in rows}


def draw_asset_ids(connection: Connection, count: int) -> list[int]:
    """Draw the numbers of new assets, so that all their rows can be written in bulk. Numbers of a preview stay unused."""
    if not count:
        return []
    return sorted(
        connection.scalars(
            text("SELECT nextval(pg_get_serial_sequence('asset', 'id')) FROM generate_series(1, :count)"),
            {"count": count},
        )
    )


# --- what is written -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Writes:
    """Rows to write, by table. Each is a dictionary of the columns the statement below names."""

    new_assets: list[dict[str, Any]] = field(default_factory=list)
    asset_fields: list[dict[str, Any]] = field(default_factory=list)
    """Assets with changed fields: `id` and every column of `CHANGED`."""
    seen_assets: list[tuple[int, datetime]] = field(default_factory=list)
    address_states: list[tuple[int, str]] = field(default_factory=list)
    """Addresses that become `lost` or `released`."""
    addresses: list[dict[str, Any]] = field(default_factory=list)
    """Addresses that are held from now on."""
    seen_addresses: list[dict[str, Any]] = field(default_factory=list)
    missed_addresses: list[int] = field(default_factory=list)
    dropped_identifiers: list[int] = field(default_factory=list)
    identifiers: list[dict[str, Any]] = field(default_factory=list)
    seen_identifiers: list[int] = field(default_factory=list)
    moved_services: list[dict[str, Any]] = field(default_factory=list)
    services: list[dict[str, Any]] = field(default_factory=list)
    seen_services: list[int] = field(default_factory=list)
    missed_services: list[int] = field(default_factory=list)
    closed_services: list[int] = field(default_factory=list)
    owners: list[dict[str, Any]] = field(default_factory=list)
    confirmed_owners: dict[tuple[int, str, frozenset[str]], list[int]] = field(default_factory=dict)
    """Assets whose fields were seen again as they are, by rank, source and fields."""
    candidates: list[dict[str, Any]] = field(default_factory=list)
    resolved_candidates: list[dict[str, Any]] = field(default_factory=list)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    observations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    scans: list[dict[str, Any]] = field(default_factory=list)


def apply(connection: Connection, site_id: int, run_id: str, now: datetime, writes: Writes) -> None:
    """Write everything, in an order in which no constraint is broken on the way."""
    bulk = _Bulk(connection, {"site": site_id, "run": run_id, "now": now})
    bulk.rows(_NEW_ASSET, writes.new_assets)
    bulk.ids(_DROP_IDENTIFIERS, writes.dropped_identifiers)
    bulk.rows(_ADDRESS_STATE, ({"id": key, "state": state} for key, state in writes.address_states))
    # A name may pass from one asset to another in one batch: first all let go, then all take.
    bulk.ids(_LET_GO_OF_NAMES, [row["id"] for row in writes.asset_fields if row["renamed"]])
    bulk.rows(_ASSET_FIELDS, writes.asset_fields)
    bulk.rows(_SEEN_ASSET, ({"id": key, "at": at.isoformat()} for key, at in writes.seen_assets))
    bulk.rows(_ADDRESS_HELD, writes.addresses)
    bulk.rows(_SEEN_ADDRESS, writes.seen_addresses)
    bulk.ids(_MISSED_ADDRESSES, writes.missed_addresses)
    bulk.rows(_IDENTIFIER, writes.identifiers)
    bulk.ids(_SEEN_IDENTIFIERS, writes.seen_identifiers)
    bulk.rows(_MOVED_SERVICE, writes.moved_services)
    bulk.rows(_SERVICE, writes.services)
    bulk.ids(_SEEN_SERVICES, writes.seen_services)
    bulk.ids(_MISSED_SERVICES, writes.missed_services)
    bulk.ids(_CLOSED_SERVICES, writes.closed_services)
    bulk.rows(_OWNER, writes.owners)
    for (rank, source, fields), ids in writes.confirmed_owners.items():
        bulk.ids(_CONFIRMED_OWNERS, ids, rank=rank, source=source, fields=sorted(fields))
    bulk.rows(_CANDIDATE, writes.candidates)
    bulk.rows(_RESOLVED_CANDIDATE, writes.resolved_candidates)
    bulk.rows(_CONFLICT, writes.conflicts)
    bulk.rows(_OBSERVATION, writes.observations)
    bulk.rows(_EVENT, writes.events)
    bulk.rows(_SCAN, writes.scans)


class _Bulk:
    """Runs a statement over many rows, a chunk at a time."""

    def __init__(self, connection: Connection, common: dict[str, Any]) -> None:
        self._connection = connection
        self._common = common

    def rows(self, statement: str, rows: Iterable[dict[str, Any]]) -> None:
        for chunk in _chunks(rows):
            self._connection.execute(text(statement), {**self._common, "rows": json.dumps(chunk, default=_plain)})

    def ids(self, statement: str, ids: Sequence[int], **more: Any) -> None:
        if ids:
            self._connection.execute(text(statement), {**self._common, **more, "ids": list(ids)})


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


_FROM = "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r"

_NEW_ASSET = f"""
INSERT INTO asset (id, site_id, hostname, primary_ip, mac, type, vendor, model, serial, firmware, os, location, metadata, ephemeral,
    scanned_tcp, scanned_udp, created_at, updated_at, status_since, first_seen, last_seen)
SELECT id, :site, hostname, primary_ip, mac, type, vendor, model, serial, firmware, os, location, metadata, ephemeral,
    scanned_tcp, scanned_udp, :now, :now, :now, seen, seen
{_FROM} (id bigint, hostname text, primary_ip inet, mac macaddr, type text, vendor text, model text, serial text, firmware text, os text,
    location text, metadata jsonb, ephemeral boolean, scanned_tcp text, scanned_udp text, seen timestamptz)
"""

CHANGED = (
    "hostname", "primary_ip", "mac", "type", "status", "vendor", "model", "serial", "firmware", "os", "location", "metadata",
    "ephemeral", "scanned_tcp", "scanned_udp",
)  # fmt: skip
"""Columns of `asset` a reconcile may change."""

# Learning which ports were asked is no change a person would see: it does not count for the optimistic lock.
_ASSET_FIELDS = f"""
UPDATE asset SET hostname = r.hostname, primary_ip = r.primary_ip, mac = r.mac, type = r.type, status = r.status, vendor = r.vendor,
    model = r.model, serial = r.serial, firmware = r.firmware, os = r.os, location = r.location, metadata = r.metadata,
    ephemeral = r.ephemeral, scanned_tcp = r.scanned_tcp, scanned_udp = r.scanned_udp,
    status_since = CASE WHEN asset.status = r.status THEN asset.status_since ELSE :now END,
    updated_at = CASE WHEN r.visible THEN :now ELSE asset.updated_at END,
    version = asset.version + CASE WHEN r.visible THEN 1 ELSE 0 END
{_FROM} (id bigint, hostname text, primary_ip inet, mac macaddr, type text, status text, vendor text, model text, serial text,
    firmware text, os text, location text, metadata jsonb, ephemeral boolean, scanned_tcp text, scanned_udp text, visible boolean)
WHERE asset.id = r.id
"""
_LET_GO_OF_NAMES = "UPDATE asset SET hostname = NULL WHERE id = ANY(:ids)"
_SEEN_ASSET = f"""
UPDATE asset SET last_seen = greatest(asset.last_seen, r.at), first_seen = coalesce(asset.first_seen, r.at)
{_FROM} (id bigint, at timestamptz) WHERE asset.id = r.id
"""
_ADDRESS_STATE = f"UPDATE address SET state = r.state {_FROM} (id bigint, state text) WHERE address.id = r.id"
_ADDRESS_HELD = f"""
INSERT INTO address (site_id, asset_id, ip, kind, state, mac, answered_by, method, first_seen, last_seen)
SELECT :site, asset_id, ip, kind, 'held', mac, answered_by, method, at, at
{_FROM} (asset_id bigint, ip inet, kind text, mac macaddr, answered_by bigint, method text, at timestamptz)
ON CONFLICT (asset_id, ip) DO UPDATE SET state = 'held', kind = excluded.kind, mac = coalesce(excluded.mac, address.mac),
    method = excluded.method, last_seen = greatest(address.last_seen, excluded.last_seen), missed_scans = 0, missed_since = NULL
"""
_SEEN_ADDRESS = f"""
UPDATE address SET last_seen = greatest(address.last_seen, r.at), missed_scans = 0, missed_since = NULL,
    mac = coalesce(r.mac, address.mac), method = coalesce(r.method, address.method),
    answered_by = coalesce(r.answered_by, address.answered_by)
{_FROM} (id bigint, at timestamptz, mac macaddr, method text, answered_by bigint) WHERE address.id = r.id
"""
_MISSED_ADDRESSES = """
UPDATE address SET missed_scans = missed_scans + 1, missed_since = coalesce(missed_since, :now) WHERE id = ANY(:ids)
"""
_DROP_IDENTIFIERS = "UPDATE asset_identifier SET active = false WHERE id = ANY(:ids)"
_IDENTIFIER = f"""
INSERT INTO asset_identifier (asset_id, site_id, kind, value, strength, source, first_seen, last_seen)
SELECT asset_id, :site, kind, value, strength, source, at, at
{_FROM} (asset_id bigint, kind text, value text, strength text, source text, at timestamptz)
ON CONFLICT (asset_id, kind, value) DO UPDATE SET active = true, strength = excluded.strength, source = excluded.source,
    last_seen = greatest(asset_identifier.last_seen, excluded.last_seen)
"""
_SEEN_IDENTIFIERS = "UPDATE asset_identifier SET last_seen = greatest(last_seen, :now) WHERE id = ANY(:ids)"
_MOVED_SERVICE = f"UPDATE service SET ip = r.ip {_FROM} (id bigint, ip inet) WHERE service.id = r.id"
_SERVICE = f"""
INSERT INTO service (asset_id, site_id, ip, protocol, port, name, product, version, first_seen, last_seen)
SELECT asset_id, :site, ip, protocol, port, name, product, version, at, at
{_FROM} (asset_id bigint, ip inet, protocol text, port int, name text, product text, version text, at timestamptz)
ON CONFLICT (asset_id, ip, protocol, port) DO UPDATE SET active = true, missed_scans = 0, name = excluded.name,
    product = excluded.product, version = excluded.version, last_seen = greatest(service.last_seen, excluded.last_seen)
"""
_SEEN_SERVICES = "UPDATE service SET last_seen = greatest(last_seen, :now), missed_scans = 0 WHERE id = ANY(:ids)"
_MISSED_SERVICES = "UPDATE service SET missed_scans = missed_scans + 1 WHERE id = ANY(:ids)"
_CLOSED_SERVICES = "UPDATE service SET active = false, missed_scans = 0 WHERE id = ANY(:ids)"
_OWNER = f"""
INSERT INTO asset_field_source (asset_id, field, source, rank, run_id, observed_at)
SELECT asset_id, field, source, rank, :run, at {_FROM} (asset_id bigint, field text, source text, rank int, at timestamptz)
ON CONFLICT (asset_id, field) DO UPDATE SET source = excluded.source, rank = excluded.rank, run_id = excluded.run_id,
    observed_at = excluded.observed_at
"""
# Twice a day is often enough to know which of two sources is the newer one, and spares a scan 50,000 rows. A better source that
# says the same takes the field over.
_CONFIRMED_OWNERS = """
UPDATE asset_field_source SET observed_at = :now, rank = :rank, source = :source, run_id = :run
WHERE asset_id = ANY(:ids) AND field = ANY(:fields)
    AND (rank < :rank OR (rank = :rank AND observed_at < CAST(:now AS timestamptz) - interval '12 hours'))
"""
_CANDIDATE = f"""
INSERT INTO candidate (site_id, kind, key, ip, mac, reason, evidence, first_seen, last_seen)
SELECT :site, kind, key, ip, mac, reason, evidence, at, at
{_FROM} (kind text, key text, ip inet, mac macaddr, reason text, evidence jsonb, at timestamptz)
ON CONFLICT (site_id, kind, key) DO UPDATE SET ip = excluded.ip, mac = excluded.mac, reason = excluded.reason,
    evidence = excluded.evidence, sightings = candidate.sightings + 1, last_seen = greatest(candidate.last_seen, excluded.last_seen),
    first_seen = CASE WHEN candidate.state = 'resolved' THEN excluded.first_seen ELSE candidate.first_seen END,
    state = CASE WHEN candidate.state = 'resolved' THEN 'open' ELSE candidate.state END
"""
_RESOLVED_CANDIDATE = f"""
UPDATE candidate SET state = 'resolved', asset_id = r.asset_id, decided_at = :now
{_FROM} (asset_id bigint, kind text, key text)
WHERE candidate.site_id = :site AND candidate.kind = r.kind AND candidate.key = r.key AND candidate.state = 'open'
"""
_CONFLICT = f"""
INSERT INTO conflict (site_id, kind, fingerprint, ip, asset_ids, reason, evidence, first_seen, last_seen)
SELECT :site, kind, fingerprint, ip, ARRAY(SELECT jsonb_array_elements_text(asset_ids)::bigint), reason, evidence, at, at
{_FROM} (kind text, fingerprint text, ip inet, asset_ids jsonb, reason text, evidence jsonb, at timestamptz)
ON CONFLICT (site_id, fingerprint) WHERE state IN ('open', 'ignored') DO UPDATE SET evidence = excluded.evidence,
    sightings = conflict.sightings + 1, last_seen = greatest(conflict.last_seen, excluded.last_seen)
"""
_OBSERVATION = f"""
INSERT INTO observation (site_id, run_id, tool_run_id, asset_id, ip, mac, method, payload, evidence, seen_at, recorded_at)
SELECT :site, :run, tool_run_id, asset_id, ip, mac, method, payload, evidence, at, :now
{_FROM} (tool_run_id text, asset_id bigint, ip inet, mac macaddr, method text, payload jsonb, evidence jsonb, at timestamptz)
"""
_EVENT = f"""
INSERT INTO asset_event (site_id, run_id, asset_id, kind, subject, ip, field, before, after, source, baseline, quiet, at)
SELECT :site, :run, asset_id, kind, subject, ip, field, nullif(before, 'null'), nullif(after, 'null'), source, baseline, quiet, :now
{_FROM} (asset_id bigint, kind text, subject text, ip inet, field text, before jsonb, after jsonb, source text, baseline boolean,
    quiet boolean)
"""
_SCAN = f"""
INSERT INTO scan_history (site_id, run_id, prefix, methods, answered, finished_at)
SELECT :site, :run, prefix, ARRAY(SELECT jsonb_array_elements_text(methods)), answered, :now
{_FROM} (prefix cidr, methods jsonb, answered int)
"""


def known_conflicts(connection: Connection, site_id: int, fingerprints: Sequence[str]) -> set[str]:
    """Return those of the conflicts that are open or ignored already: they are no news."""
    rows = connection.execute(
        text(
            "SELECT fingerprint FROM conflict WHERE site_id = :site AND fingerprint = ANY(:wanted) AND state IN ('open', 'ignored')"
        ),
        {"site": site_id, "wanted": list(fingerprints)},
    )
    return {row[0] for row in rows}


def forget_random(connection: Connection, site_id: int, before: datetime) -> int:
    """Remove open candidates known by a random MAC alone that were not seen since; assets are never removed."""
    return connection.execute(
        text(
            "DELETE FROM candidate WHERE site_id = :site AND kind = 'random_mac' AND state = 'open' AND last_seen < :before"
        ),
        {"site": site_id, "before": before},
    ).rowcount
