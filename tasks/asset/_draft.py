"""What a plan is made from, what it is, and the pen it is written with. The parts of the planner share one `Draft`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tasks.asset._changes import AbsentAsset, Event, EventKind
from tasks.asset._fields import Claim, Owner
from tasks.asset._fold import Folded, Host
from tasks.asset._identity import (
    Kind,
    Strength,
    clean_vendor,
    parse_address,
    same_name,
)
from tasks.asset._ladder import SubnetBook
from tasks.asset._match import ConflictSighting, Matched
from tasks.asset._scope import Scope
from tasks.core.db.inventory import CHANGED, AddressRow, AssetRow, Known, OwnerRow, Writes

OLD_NEWS = timedelta(minutes=15)
"""An observation this much older than the asset's last sighting (a file imported late) says nothing about where it is now."""

NOBODY = -1
"""Who has an address at which something answered that is no asset."""


@dataclass(slots=True)
class Situation:
    """Everything a decision is made from."""

    folded: Folded
    matched: Matched
    known: Known
    scope: Scope
    book: SubnetBook
    now: datetime
    new_ids: list[int]
    owners: Mapping[int, Mapping[str, OwnerRow]]
    names: Mapping[str, tuple[int, bool]]
    """Names that are taken: by which asset, and whether that was ever seen."""
    former: Mapping[tuple[str, str], int]
    scanned_before: set[str]
    """Addresses an earlier scan covered: there, something new is news."""
    first_scan: bool
    virtual: Mapping[str, AddressRow]
    known_candidates: Mapping[tuple[str, str], Any]
    known_conflicts: set[str]


@dataclass(slots=True)
class Plan:
    """What to write, and what to tell."""

    writes: Writes = field(default_factory=Writes)
    events: list[Event] = field(default_factory=list)
    asset_of: dict[str, int | None] = field(default_factory=dict)
    absent: list[AbsentAsset] = field(default_factory=list)
    """Assets that would be missing if a second method agreed."""
    new: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)


class AssetChange:
    """An asset on its way from what it was to what it is."""

    __slots__ = ("asset", "learned", "values")

    def __init__(self, asset: AssetRow) -> None:
        self.asset = asset
        self.values: dict[str, Any] = {name: getattr(asset, name) for name in CHANGED}
        self.learned: dict[str, Any] = {}

    @property
    def subject(self) -> str:
        """What a person calls it."""
        return subject_of(self.asset)

    @property
    def differs(self) -> bool:
        """Whether anything is to be written."""
        return any(self.values[name] != getattr(self.asset, name) for name in CHANGED)

    def set(self, key: str, value: Any) -> None:
        """Set a field, or one key of the metadata (`metadata.rack`)."""
        whole, _, part = key.partition(".")
        if part:
            self.values["metadata"] = {**self.values["metadata"], part: value}
        else:
            self.values[whole] = value

    def row(self) -> dict[str, Any]:
        """Return the row to write."""
        changed = {name for name in CHANGED if self.values[name] != getattr(self.asset, name)}
        return {
            "id": self.asset.id,
            **self.values,
            "visible": bool(changed - {"scanned_tcp", "scanned_udp"}),
            "renamed": "hostname" in changed,
        }


class Draft:
    """A plan in the making: what is decided so far, and how a decision is written down."""

    def __init__(self, situation: Situation) -> None:
        self.facts = situation
        self.plan = Plan()
        self.writes = self.plan.writes
        self.names: dict[str, int] = {name: asset for name, (asset, _) in situation.names.items()}
        self.new = list(zip(situation.new_ids, situation.matched.new, strict=True))
        self.taken = self._takers()
        self.asset_of_observation: dict[int, int] = {}

    def _takers(self) -> dict[str, int]:
        """Return who has each address at which something certain answered in this batch."""
        takers: dict[str, int] = {}
        everyone = [*self.facts.matched.assets.items(), *self.new]
        for candidate in self.facts.matched.candidates:
            if candidate.kind != "third_party":
                everyone += [(NOBODY, host) for host in candidate.hosts]
        for asset_id, host in everyone:
            if host.scanned and not (asset_id == NOBODY and host.proxied) and not self.is_old_news(asset_id, host):
                for address in host.addresses:
                    holder = self.facts.known.holders.get(address)
                    if holder is not None and holder.asset_id != asset_id and parse_address(address).is_loopback:
                        continue  # of two workers, the first is shown with it
                    takers.setdefault(address, asset_id)
        for address in self.facts.folded.virtual:
            takers[address] = NOBODY
        for asset_id, host in everyone:
            if asset_id == NOBODY:
                continue
            for address in sorted(host.payload):
                # A device may list an address nobody answers at; it does not take one from another asset by listing it.
                holder = self.facts.known.holders.get(address)
                if holder is None or holder.asset_id == asset_id:
                    takers.setdefault(address, asset_id)
        return takers

    def is_old_news(self, asset_id: int, host: Host) -> bool:
        """Whether what was seen is older than what is known of the asset."""
        asset = self.facts.known.assets.get(asset_id)
        return asset is not None and asset.last_seen is not None and host.seen_at < asset.last_seen - OLD_NEWS

    def take_name(self, asset_id: int, name: str, host: Host, *, new: bool = False) -> bool:
        """Take a name if it is free. A record nobody ever saw that has the name is shown to an operator: it may be this one."""
        holder = self.names.get(name.lower())
        for form in {name.lower(), name.lower().partition(".")[0]}:
            known = self.facts.names.get(form)
            if known is not None and not known[1] and known[0] != asset_id and new:
                self._same_name(known[0], name, host)
        if holder is not None and holder != asset_id:
            return False
        self.names[name.lower()] = asset_id
        return True

    def _same_name(self, asset_id: int, name: str, host: Host) -> None:
        sides: list[dict[str, Any]] = [
            {
                "side": "observed",
                "addresses": in_order(host.all_addresses),
                "macs": host.macs,
                "names": list(host.names),
            },
            {"side": f"asset {asset_id}", "hostname": name},
        ]
        self.facts.matched.conflicts.append(
            ConflictSighting(
                "same_name",
                f"same_name {asset_id} {name.lower()}",
                f"asset {asset_id} has the name {name} and was never seen; {host.label} may be it: merge them if it is",
                host.address,
                [asset_id],
                sides,
                host.seen_at,
                host.label,
            )
        )

    def own_mac(self, asset_id: int, host: Host, address: str | None) -> str | None:
        """Return the MAC that is this host's own at an address: none when a proxy answered or it is its machine's."""
        mac = host.addresses.get(address) if address is not None else None
        if mac is None or host.proxied or (host.shared_mac and not host.owns_mac):
            return None
        owners = self.facts.known.owners_of_key.get((Kind.MAC, mac), ())
        return None if any(row.asset_id != asset_id and row.strength == Strength.STRONG for row in owners) else mac

    def hold(self, asset_id: int, ip: str, host: Host) -> None:
        """Write that an asset holds an address from now on."""
        self.writes.addresses.append(
            {"asset_id": asset_id, "ip": ip, "kind": "host", "mac": None if host.proxied else host.addresses.get(ip),
             "answered_by": None, "method": method_at(host, ip), "at": host.seen_at}
        )  # fmt: skip

    def own(self, asset_id: int, key: str, claim: Claim) -> None:
        """Write who said what a field is."""
        self.writes.owners.append(
            {"asset_id": asset_id, "field": key, "source": claim.source, "rank": int(claim.rank), "at": claim.seen_at}
        )

    def owner(self, asset_id: int, key: str) -> Owner | None:
        """Return who said what a field is now."""
        row = self.facts.owners.get(asset_id, {}).get(key)
        return None if row is None else Owner(row.source, row.rank, row.locked, row.observed_at)

    def locked(self, asset_id: int, key: str) -> bool:
        """Whether an operator fixed a field."""
        row = self.facts.owners.get(asset_id, {}).get(key)
        return row is not None and row.locked

    def note(self, asset_id: int, host: Host) -> None:
        """Remember which asset observations and addresses are of."""
        for observation in host.observations:
            self.asset_of_observation[id(observation)] = asset_id
        for ip in host.addresses:
            self.plan.asset_of[ip] = asset_id

    def tell(
        self,
        kind: EventKind,
        asset_id: int | None,
        subject: str,
        *,
        ip: str | None = None,
        field: str | None = None,
        before: Any = None,
        after: Any = None,
        quiet: bool = False,
        at: Iterable[str] | None = None,
    ) -> None:
        """Note an event. `at` names the addresses whose first scan makes it part of the baseline."""
        places = list(at) if at is not None else None
        baseline = False
        if places is not None:
            baseline = not any(ip in self.facts.scanned_before for ip in places) if places else self.facts.first_scan
        if asset_id is not None:
            self.plan.changed.add(asset_id)
        self.plan.events.append(
            Event(
                kind=kind,
                asset_id=asset_id,
                subject=subject,
                ip=ip,
                field=field,
                before=before,
                after=after,
                baseline=baseline,
                quiet=quiet,
            )
        )


def same_value(key: str, current: Any, claimed: str, host: Host) -> bool:
    """Whether a claim says what the field says already, in other words."""
    if current is None:
        return False
    if key == "hostname":
        if current.lower() == claimed:
            return True
        # Of several names it has, the first found stays; a short name gives way to the full one.
        return (same_name(current, claimed) and "." not in claimed) or (
            current.lower() in host.names and "." in current
        )
    if key == "vendor":
        return clean_vendor(current) == clean_vendor(claimed)
    return bool(str(current).lower() == claimed.lower())


def subject_of(asset: AssetRow) -> str:
    """What a person calls an asset."""
    return asset.hostname or asset.primary_ip or asset.mac or asset.serial or f"asset {asset.id}"


def method_at(host: Host, ip: str) -> str:
    """How a host was seen at an address."""
    return next((o.method for o in host.observations if o.address == ip), host.observations[0].method)


def in_order(addresses: Iterable[str]) -> list[str]:
    """Return addresses as people sort them, IPv4 first."""
    return sorted(addresses, key=lambda ip: (parse_address(ip).version, int(parse_address(ip))))
