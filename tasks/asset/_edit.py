"""What a person does to one asset: create, update, delete. Each is one transaction, and nobody's scan is in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from tasks.asset._asset import Asset
from tasks.asset._changes import EventKind
from tasks.asset._fields import Rank
from tasks.asset._identity import Kind, Strength, clean_name, clean_serial, clean_vendor, mac_strength, serial_key
from tasks.core.db import assets, inventory
from tasks.core.db.sites import ensure_site, find_site
from tasks.core.errors import Conflict, InvalidParameters, NotFound

NAMING = ("hostname", "address", "mac", "serial")
"""An asset has at least one of these: without them nobody could find it again."""


@dataclass(frozen=True)
class Editor:
    """Who edits: the site, and the tool run that history names.

    Attributes:
        site: Name of the site.
        run_id: The tool run; the ledger says who asked.
    """

    site: str
    run_id: str

    def create(self, connection: Connection, values: Mapping[str, Any]) -> tuple[Asset, int | None]:
        """Enter an asset; return it, and the number it had when it was deleted before, if it is known again by an identifier.

        Raises:
            Conflict: It is there already: a strong identifier, the name or the address is another asset's.
        """
        now = datetime.now(UTC)
        site_id = ensure_site(connection, self.site)
        inventory.lock_site(connection, site_id)
        self._refuse_twin(connection, site_id, values, None)
        asset_id = assets.insert_asset(connection, site_id, values, now)
        if values.get("address"):
            self._take_address(connection, site_id, asset_id, values["address"], now)
        identifiers = dict(_identifiers(values))
        for (kind, value), strength in identifiers.items():
            assets.add_identifier(connection, site_id, asset_id, kind, value, strength, now)
        assets.own_fields(connection, asset_id, _said(values), Rank.USER, self.run_id, now)
        assets.resolve_candidates(
            connection, site_id, asset_id, [values[name] for name in ("address", "mac") if values.get(name)], now
        )
        strong = [(str(kind), value) for (kind, value), strength in identifiers.items() if strength is Strength.STRONG]
        former = next(iter(inventory.load_former(connection, site_id, strong).values()), None)
        asset = self._shown(connection, asset_id)
        assets.add_event(
            connection, site_id, asset_id, EventKind.CREATED, subject=asset.label(), run_id=self.run_id, now=now,
            before=None if former is None else {"asset_id": former}, after=_said(values),
        )  # fmt: skip
        return asset, former

    def update(
        self, connection: Connection, reference: str, values: Mapping[str, Any], version: int | None
    ) -> tuple[Asset, dict[str, Any]]:
        """Set fields (None empties one); return the asset, and what the changed fields were before.

        `metadata` is changed key by key; a key set to None is removed.

        Raises:
            NotFound: There is no such asset at the site.
            Conflict: It has another `version`, was merged, or a name, address or identifier is another asset's.
            InvalidParameters: Nothing would be left to find it by.
        """
        now = datetime.now(UTC)
        site_id, current = self._open(connection, reference)
        wanted = dict(values)
        if "tags" in wanted:
            wanted["tags"] = wanted["tags"] or []
        if "metadata" in wanted:
            merged = {} if wanted["metadata"] is None else {**current.metadata, **wanted["metadata"]}
            wanted["metadata"] = {key: value for key, value in merged.items() if value is not None}
        before = {name: getattr(current, name) for name in wanted}
        changed = {name: value for name, value in wanted.items() if value != before[name]}
        # A second call after an answer that got lost finds everything as it wants it: that is no conflict.
        if version is not None and version != current.version and changed:
            raise Conflict(
                f"Asset {current.id} ({current.label()}) changed meanwhile: it is at version {current.version}, not {version}.",
                hint="Look at it again, then give its new version.",
            )
        after = {name: wanted.get(name, getattr(current, name)) for name in assets.COLUMNS}
        if not any(after[name] for name in NAMING):
            raise InvalidParameters(
                f"Asset {current.id} would have no {', '.join(NAMING[:-1])} or {NAMING[-1]} left to find it by."
            )
        if changed:
            self._refuse_twin(connection, site_id, _claims(current, after, changed), current.id)
            assets.update_asset(connection, current.id, changed, now)
            self._move(connection, site_id, current, after, now)
            for name, value in changed.items():
                assets.add_event(
                    connection, site_id, current.id, EventKind.UPDATED, subject=current.label(), run_id=self.run_id, now=now,
                    field=name, before=before[name], after=value,
                )  # fmt: skip
        # Said again is said: from now on no scan overrules it. Emptied is free for whoever knows.
        assets.own_fields(connection, current.id, _said(wanted), Rank.USER, self.run_id, now)
        assets.disown_fields(connection, current.id, [name for name, value in wanted.items() if value is None])
        return self._shown(connection, current.id), {name: before[name] for name in changed}

    def delete(self, connection: Connection, reference: str) -> tuple[Asset, list[int]]:
        """Delete an asset, and those merged into it; return what it was, and the numbers of the merged ones.

        Raises:
            NotFound: There is no such asset at the site.
            Conflict: It was merged into another one.
        """
        now = datetime.now(UTC)
        site_id, asset = self._open(connection, reference)
        folded = assets.merged_into(connection, asset.id)
        for number in (*folded, asset.id):
            assets.add_event(
                connection, site_id, number, EventKind.DELETED, subject=asset.label(), run_id=self.run_id, now=now,
                before=assets.snapshot(connection, number), quiet=number != asset.id,
            )  # fmt: skip
        assets.delete_assets(connection, [*folded, asset.id])
        return asset, folded

    # --- parts ---

    def _open(self, connection: Connection, reference: str) -> tuple[int, Asset]:
        """Find the asset and keep scans, merges and others away from it."""
        site_id = find_site(connection, self.site)
        inventory.lock_site(connection, site_id)
        if reference.isdigit():
            number = int(reference)
        else:
            found = assets.find_by_name(connection, site_id, reference)
            if not found:
                raise NotFound(
                    f"Site {self.site} has no asset named {reference!r}.", hint="Look for it: signalbox asset query"
                )
            if len(found) > 1:  # archived ones may share a name
                raise Conflict(
                    f"{len(found)} archived assets are named {reference!r}.",
                    hint=f"Name one by its number: {', '.join(map(str, found[:20]))}.",
                )
            number = found[0]
        row = assets.lock_asset(connection, number)
        if row is None:
            raise NotFound(f"There is no asset {number}.", hint="Look for it: signalbox asset query")
        asset = Asset.of(row)
        if asset.site != self.site:
            raise NotFound(
                f"Asset {number} is not at site {self.site}.", hint=f"It is at site {asset.site}: --site {asset.site}"
            )
        if asset.status == "merged":
            raise Conflict(
                f"Asset {number} was merged into asset {asset.merged_into}.",
                hint=f"Name asset {asset.merged_into}, or undo the merge.",
            )
        return site_id, asset

    def _shown(self, connection: Connection, asset_id: int) -> Asset:
        return Asset.of(assets.get_asset(connection, asset_id))

    def _refuse_twin(self, connection: Connection, site_id: int, values: Mapping[str, Any], but: int | None) -> None:
        """Refuse what another asset is already.

        Raises:
            Conflict: Names the twin.
        """
        strong = [(str(kind), value) for (kind, value), strength in _identifiers(values) if strength is Strength.STRONG]
        twin = assets.strong_twin(connection, site_id, strong, but)
        if twin is not None:
            raise self._taken(connection, twin.asset_id, "serial number" if twin.kind == Kind.SERIAL else "MAC address")
        if serial := clean_serial(values.get("serial")):
            vendor = clean_vendor(values.get("vendor"))
            for other in assets.assets_with_serial(connection, site_id, serial, but):
                # Two vendors may number alike; a vendor nobody knows may be the same one.
                if not vendor or not other.vendor or clean_vendor(other.vendor) == vendor:
                    raise self._taken(connection, other.id, "serial number")
        if values.get("hostname") and values.get("status") != "archived":
            for number in assets.find_by_name(connection, site_id, values["hostname"]):
                if number != but and self._shown(connection, number).status != "archived":
                    raise self._taken(connection, number, "name")
        if values.get("address"):
            holder = assets.address_holder(connection, site_id, values["address"])
            if holder is not None and holder.kind == "virtual":
                raise Conflict(
                    f"{values['address']} is a virtual address (VRRP, HSRP or CARP) at site {self.site}: it belongs to no single asset."
                )
            if holder is not None and holder.asset_id != but and holder.status not in ("archived", "merged"):
                raise self._taken(connection, holder.asset_id, "address")

    def _taken(self, connection: Connection, twin: int, what: str) -> Conflict:
        return Conflict(
            f"Asset {twin} ({self._shown(connection, twin).label()}) at site {self.site} has this {what} already.",
            hint=f"Change that one with asset_update, or look at it: signalbox asset show {twin}",
        )

    def _take_address(self, connection: Connection, site_id: int, asset_id: int, address: str, now: datetime) -> None:
        holder = assets.address_holder(connection, site_id, address)
        if holder is not None and holder.asset_id != asset_id:  # archived: it lets go
            assets.release_address(connection, holder.asset_id, address)
        assets.hold_address(connection, site_id, asset_id, address, now)

    def _move(
        self, connection: Connection, site_id: int, current: Asset, after: Mapping[str, Any], now: datetime
    ) -> None:
        """Bring address and identifiers in line with changed fields."""
        if after["address"] != current.address:
            if current.address:
                assets.release_address(connection, current.id, current.address)
            if after["address"]:
                self._take_address(connection, site_id, current.id, after["address"], now)
        old, new = dict(_identifiers(current.model_dump())), dict(_identifiers(after))
        for kind, value in old.keys() - new.keys():
            assets.drop_identifier(connection, current.id, kind, value)
        for kind, value in new.keys() - old.keys():
            assets.add_identifier(connection, site_id, current.id, kind, value, new[kind, value], now)


def _identifiers(values: Mapping[str, Any]) -> Iterator[tuple[tuple[Kind, str], Strength]]:
    """The identifiers that follow from an asset's fields. A person read the MAC from the device: that is first-hand."""
    if key := serial_key(values.get("vendor"), values.get("serial")):
        yield (Kind.SERIAL, key), Strength.STRONG
    if values.get("mac") and (strength := mac_strength(values["mac"], first_hand=True)):
        yield (Kind.MAC, values["mac"]), strength
    if name := clean_name(values.get("hostname")):
        yield (Kind.HOSTNAME, name), Strength.WEAK


def _claims(current: Asset, after: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """What an update lays claim to anew. What an asset had all along is not questioned, though a twin may have it too."""
    if _revived(current, after):
        return dict(after)
    names = {name for name in NAMING if name in changed} | ({"serial"} if "vendor" in changed else set())
    return {name: after[name] for name in (*names, "vendor", "status")}


def _revived(current: Asset, after: Mapping[str, Any]) -> bool:
    """Whether an archived asset, which let go of name and address, comes back."""
    return current.status == "archived" and bool(after["status"] != "archived")


def _said(values: Mapping[str, Any]) -> list[str]:
    return [name for name in assets.COLUMNS if values.get(name) is not None]
