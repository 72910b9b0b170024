"""Tables of the inventory: what exists, what was seen, what changed, and who said so.

An `asset` is a thing we believe exists. What tells it from others are its `asset_identifier` rows; where it was seen are its
`address` rows; where each of its fields comes from is in `asset_field_source`. `observation` and `asset_event` are append-only
and outlive the asset they speak of, as do `merge_log` and `former_identifier`.

Words used as values are listed at the classes that own them, and checked by `tasks.asset`, not by the database: a database that
refuses a word cannot be upgraded before its workers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, ForeignKey, Identity, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET, JSONB, MACADDR, ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from tasks.core.db.metadata import Base

_EMPTY_LIST = text("'[]'::jsonb")
_EMPTY_OBJECT = text("'{}'::jsonb")


class Asset(Base):
    """A thing we believe exists, with the fields people search.

    `status`: `active`, `planned` (never seen yet), `missing`, `stale`, `archived` (the ladder), or `merged` (then `merged_into`
    says where it went; the row stays so that a merge can be undone). `tags` is a list of texts (`key:value` by convention),
    `metadata` an object. `ephemeral` marks hosts known by a random MAC alone: they expire soon and raise no alert.
    `version` counts changes of fields (the optimistic lock); being seen again does not count.
    """

    __tablename__ = "asset"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    hostname: Mapped[str | None]
    primary_ip: Mapped[str | None] = mapped_column(INET)
    mac: Mapped[str | None] = mapped_column(MACADDR)
    type: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="active")
    environment: Mapped[str | None]
    location: Mapped[str | None]
    owner: Mapped[str | None]
    vendor: Mapped[str | None]
    model: Mapped[str | None]
    serial: Mapped[str | None]
    firmware: Mapped[str | None]
    os: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(JSONB, server_default=_EMPTY_LIST)
    # `metadata` is taken by SQLAlchemy's declarative base; the column keeps its name.
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=_EMPTY_OBJECT)
    ephemeral: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    merged_into: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="SET NULL"))
    # Ports ever asked for, as PortLists: a port asked for the first time is learned, not "added".
    scanned_tcp: Mapped[str] = mapped_column(server_default="")
    scanned_udp: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    first_seen: Mapped[datetime | None]
    last_seen: Mapped[datetime | None]
    status_since: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))

    __table_args__ = (
        # Archived and merged assets let go of their names, so that what replaces them can have them.
        Index(
            "uq_asset_site_id_hostname",
            "site_id",
            text("lower(hostname)"),
            unique=True,
            postgresql_where=text("hostname IS NOT NULL AND status NOT IN ('archived', 'merged')"),
        ),
        Index("ix_asset_site_id_status", "site_id", "status"),
        Index("ix_asset_primary_ip", "primary_ip", postgresql_using="gist", postgresql_ops={"primary_ip": "inet_ops"}),
        Index("ix_asset_mac", "mac"),
        Index("ix_asset_tags", "tags", postgresql_using="gin"),
        Index("ix_asset_metadata", "metadata", postgresql_using="gin"),
        Index("ix_asset_merged_into", "merged_into", postgresql_where=text("merged_into IS NOT NULL")),
        # One index for partial names and free text: queries use exactly this expression, `SEARCH_TEXT`.
        Index(
            "ix_asset_search",
            text(
                "(lower(coalesce(hostname, '') || ' ' || coalesce(vendor, '') || ' ' || coalesce(model, '') || ' ' ||"
                " coalesce(serial, '') || ' ' || coalesce(owner, '') || ' ' || coalesce(location, '') || ' ' || coalesce(os, '')))"
                " gin_trgm_ops"
            ),
            postgresql_using="gin",
        ),
        Index("ix_asset_hostname_trgm", text("lower(hostname) gin_trgm_ops"), postgresql_using="gin"),
    )


SEARCH_TEXT = (
    "(lower(coalesce(asset.hostname, '') || ' ' || coalesce(asset.vendor, '') || ' ' || coalesce(asset.model, '') || ' ' ||"
    " coalesce(asset.serial, '') || ' ' || coalesce(asset.owner, '') || ' ' || coalesce(asset.location, '') || ' ' ||"
    " coalesce(asset.os, '')))"
)
"""What free text is searched in, as the index `ix_asset_search` knows it: `WHERE <SEARCH_TEXT> LIKE '%camera%'`."""


class AssetIdentifier(Base):
    """Something that tells an asset from others.

    `kind`: `external`, `serial`, `chassis`, `ssh_host_key`, `mac`, `hostname`. `strength`: `strong` or `weak`. An active strong
    identifier belongs to one asset of its site, and the database says so.
    """

    __tablename__ = "asset_identifier"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    asset_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="CASCADE"))
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    kind: Mapped[str]
    value: Mapped[str]
    strength: Mapped[str]
    source: Mapped[str]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    active: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))

    __table_args__ = (
        Index("uq_asset_identifier_asset_id_kind_value", "asset_id", "kind", "value", unique=True),
        Index(
            "uq_asset_identifier_one_strong_owner",
            "site_id",
            "kind",
            "value",
            unique=True,
            postgresql_where=text("active AND strength = 'strong'"),
        ),
        Index("ix_asset_identifier_site_id_kind_value", "site_id", "kind", "value"),
    )


class FormerIdentifier(Base):
    """Strong identifiers of deleted assets, kept by a trigger: a device that comes back finds its history by them."""

    __tablename__ = "former_identifier"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    asset_id: Mapped[int] = mapped_column(BigInteger)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    kind: Mapped[str]
    value: Mapped[str]
    removed_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("ix_former_identifier_site_id_kind_value", "site_id", "kind", "value"),)


class Address(Base):
    """An address, and whose it is.

    `state`: `held` (one holder per site and address), `lost` (another device answers there now and this asset was not seen
    elsewhere since; counts towards missing), `released` (history). `kind`: `host`, or `virtual` (VRRP, HSRP, CARP: belongs to no
    asset; `answered_by` is the node that last claimed it).
    """

    __tablename__ = "address"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    asset_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="CASCADE"))
    ip: Mapped[str] = mapped_column(INET)
    kind: Mapped[str] = mapped_column(server_default="host")
    state: Mapped[str] = mapped_column(server_default="held")
    mac: Mapped[str | None] = mapped_column(MACADDR)
    answered_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="SET NULL"))
    method: Mapped[str] = mapped_column(server_default="")
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    missed_scans: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    missed_since: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_address_one_holder", "site_id", "ip", unique=True, postgresql_where=text("state = 'held'")),
        Index("uq_address_asset_id_ip", "asset_id", "ip", unique=True),
        Index("ix_address_answered_by", "answered_by", postgresql_where=text("answered_by IS NOT NULL")),
        Index("ix_address_ip", "ip", postgresql_using="gist", postgresql_ops={"ip": "inet_ops"}),
    )


class AssetService(Base):
    """An open port of an asset, at one of its addresses. `active` goes false when it is closed; the row stays."""

    __tablename__ = "service"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    asset_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="CASCADE"))
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    ip: Mapped[str] = mapped_column(INET)
    protocol: Mapped[str]
    port: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(server_default="")
    product: Mapped[str] = mapped_column(server_default="")
    version: Mapped[str] = mapped_column(server_default="")
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    missed_scans: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    active: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))

    __table_args__ = (
        Index("uq_service_asset_id_ip_protocol_port", "asset_id", "ip", "protocol", "port", unique=True),
        Index("ix_service_site_id_port", "site_id", "port", postgresql_where=text("active")),
    )


class Observation(Base):
    """What one tool run saw of one host. Append-only; says which asset it was taken for, if any."""

    __tablename__ = "observation"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    run_id: Mapped[str]
    tool_run_id: Mapped[str | None]
    asset_id: Mapped[int | None] = mapped_column(BigInteger)
    ip: Mapped[str | None] = mapped_column(INET)
    mac: Mapped[str | None] = mapped_column(MACADDR)
    method: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    seen_at: Mapped[datetime]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("ix_observation_asset_id_seen_at", "asset_id", "seen_at"),
        Index("ix_observation_site_id_run_id", "site_id", "run_id"),
        # Append-only and roughly in time order: a BRIN index costs next to nothing, and pruning needs it.
        Index("ix_observation_recorded_at", "recorded_at", postgresql_using="brin"),
    )


class AssetEvent(Base):
    """Something that happened to an asset, an address or a site. Append-only.

    `kind` is one of `tasks.asset._changes.EventKind`. `baseline` marks what the first scan of a network found, `quiet` what raises
    no alert by default (random MACs, fields learned). `subject` names the asset as it was then: it may be gone now.
    """

    __tablename__ = "asset_event"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    asset_id: Mapped[int | None] = mapped_column(BigInteger)
    run_id: Mapped[str | None]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default="")
    ip: Mapped[str | None] = mapped_column(INET)
    field: Mapped[str | None]
    before: Mapped[Any | None] = mapped_column(JSONB)
    after: Mapped[Any | None] = mapped_column(JSONB)
    source: Mapped[str] = mapped_column(server_default="")
    baseline: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    quiet: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("ix_asset_event_asset_id_id", "asset_id", "id"),
        Index("ix_asset_event_site_id_at", "site_id", "at"),
        Index("ix_asset_event_site_id_run_id", "site_id", "run_id"),
    )


class AssetFieldSource(Base):
    """Who said what a field of an asset is: user > locked > authoritative > newer of the same rank > fill-if-empty."""

    __tablename__ = "asset_field_source"

    asset_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="CASCADE"), primary_key=True)
    field: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    rank: Mapped[int] = mapped_column(Integer)
    locked: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    run_id: Mapped[str | None]
    observed_at: Mapped[datetime]


class MergeLog(Base):
    """A merge of two assets, with everything needed to undo it in `snapshot`."""

    __tablename__ = "merge_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    kept_id: Mapped[int] = mapped_column(BigInteger)
    merged_id: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    by: Mapped[str]
    run_id: Mapped[str | None]
    snapshot: Mapped[dict[str, Any]] = mapped_column(JSONB)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None]

    __table_args__ = (Index("ix_merge_log_kept_id", "kept_id"), Index("ix_merge_log_merged_id", "merged_id"))


class Candidate(Base):
    """Something seen that is not proof enough for an asset: it waits for more proof or for an operator.

    `kind`: `icmp_only`, `random_mac`, `shared_mac`, `third_party`, `proxy_arp`. `state`: `open`, `accepted`, `ignored`, `resolved`
    (more proof came). `key` is what makes it the same candidate the next time (an address, or a MAC).
    """

    __tablename__ = "candidate"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    kind: Mapped[str]
    key: Mapped[str]
    ip: Mapped[str | None] = mapped_column(INET)
    mac: Mapped[str | None] = mapped_column(MACADDR)
    reason: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY_OBJECT)
    sightings: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    state: Mapped[str] = mapped_column(server_default="open")
    asset_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("asset.id", ondelete="SET NULL"))
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_candidate_site_id_kind_key", "site_id", "kind", "key", unique=True),
        Index("ix_candidate_asset_id", "asset_id", postgresql_where=text("asset_id IS NOT NULL")),
    )


class Conflict(Base):
    """Two assets claim one observation, or two devices one address: nothing was written, an operator decides.

    `kind`: `identity`, `duplicate_address`, `same_name`. `evidence` is a list: one entry for each side. `fingerprint` makes it the
    same conflict the next time. `state`: `open`, `resolved`, `ignored`.
    """

    __tablename__ = "conflict"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    kind: Mapped[str]
    fingerprint: Mapped[str]
    ip: Mapped[str | None] = mapped_column(INET)
    asset_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'::bigint[]"))
    reason: Mapped[str]
    evidence: Mapped[Any] = mapped_column(JSONB, server_default=_EMPTY_LIST)
    sightings: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    state: Mapped[str] = mapped_column(server_default="open")
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_conflict_site_id_fingerprint",
            "site_id",
            "fingerprint",
            unique=True,
            postgresql_where=text("state IN ('open', 'ignored')"),
        ),
    )


class Subnet(Base):
    """What an operator said about a network: its kind, and when what is silent there counts as missing.

    `kind`: `static`, `dhcp`, `guest`. Empty numbers mean the default of the kind (`tasks.asset._ladder`).
    """

    __tablename__ = "subnet"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    prefix: Mapped[str] = mapped_column(CIDR)
    kind: Mapped[str] = mapped_column(server_default="static")
    missing_scans: Mapped[int | None] = mapped_column(Integer)
    missing_hours: Mapped[float | None]
    stale_hours: Mapped[float | None]
    archive_hours: Mapped[float | None]
    lease_hours: Mapped[float | None]
    description: Mapped[str] = mapped_column(server_default="")

    __table_args__ = (Index("uq_subnet_site_id_prefix", "site_id", "prefix", unique=True),)


class ScanHistory(Base):
    """A network a run really scanned to the end. The first row that covers an address ends its baseline."""

    __tablename__ = "scan_history"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    run_id: Mapped[str]
    prefix: Mapped[str] = mapped_column(CIDR)
    methods: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    answered: Mapped[int] = mapped_column(Integer)
    finished_at: Mapped[datetime]

    __table_args__ = (
        Index(
            "ix_scan_history_site_id_prefix",
            "site_id",
            "prefix",
            postgresql_using="gist",
            postgresql_ops={"prefix": "inet_ops"},
        ),
        Index("ix_scan_history_site_id_run_id", "site_id", "run_id"),
    )


class ScanLease(Base):
    """The right to scan a network: overlapping networks of a site cannot be leased twice at once.

    Whoever takes a lease deletes expired ones first: an exclusion constraint cannot look at the clock.
    """

    __tablename__ = "scan_lease"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    cidr: Mapped[str] = mapped_column(CIDR)
    run_id: Mapped[str]
    acquired_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]

    __table_args__ = (
        ExcludeConstraint(
            ("site_id", "="), ("cidr", "&&"), name="ex_scan_lease_overlap", using="gist", ops={"cidr": "inet_ops"}
        ),
        Index("ix_scan_lease_run_id", "run_id"),
    )
