"""Decide everything a reconcile writes: rows and events, from what was seen, what is known, and where the scan looked.

Nothing is written here, so a preview and the real thing cannot differ.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tasks.asset._changes import AbsentAsset, Event, EventKind
from tasks.asset._fields import OBSERVED_FIELDS, Claim, Owner, may_write
from tasks.asset._fold import Folded, Host, VirtualSighting, match_keys
from tasks.asset._identity import (
    Kind,
    MacKind,
    Strength,
    classify_mac,
    clean_vendor,
    is_default_name,
    mac_strength,
    parse_address,
    same_name,
)
from tasks.asset._ladder import LADDER, Status, SubnetBook, may_be_missing, next_rung
from tasks.asset._match import CandidateSighting, ConflictSighting, Matched
from tasks.asset._observation import ObservedHost
from tasks.asset._scope import Scope
from tasks.asset._services import asked_of, compare, ports_asked
from tasks.core.db.inventory import CHANGED, AddressRow, AssetRow, Known, OwnerRow, Writes

OLD_NEWS = timedelta(minutes=15)
"""An observation this much older than the asset's last sighting (a file imported late) says nothing about where it is now."""

_NOBODY = -1
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


class Planner:
    """Makes the plan of one reconcile."""

    def __init__(self, situation: Situation) -> None:
        self._in = situation
        self._plan = Plan()
        self._writes = self._plan.writes
        self._names: dict[str, int] = {name: asset for name, (asset, _) in situation.names.items()}
        self._new = list(zip(situation.new_ids, situation.matched.new, strict=True))
        self._taken = self._takers()
        self._asset_of_observation: dict[int, int] = {}

    def plan(self) -> Plan:
        """Decide."""
        found = self._in.matched
        for asset_id, host in self._new:
            self._create(asset_id, host)
        for asset_id, host in found.assets.items():
            self._update(self._in.known.assets[asset_id], host)
        for asset_id, host in found.glimpsed.items():
            self._glimpse(asset_id, host)
        for sighting in self._in.folded.virtual.values():
            self._virtual(sighting)
        for candidate in found.candidates:
            self._candidate(candidate)
        for conflict in found.conflicts:
            self._conflict(conflict)
        self._silence()
        self._whole_networks()
        self._observations()
        self._writes.scans = self._in.scope.history()
        return self._plan

    # --- who answers where now ---

    def _takers(self) -> dict[str, int]:
        """Return who has each address at which something certain answered in this batch."""
        takers: dict[str, int] = {}
        everyone = [*self._in.matched.assets.items(), *self._new]
        for candidate in self._in.matched.candidates:
            if candidate.kind != "third_party":
                everyone += [(_NOBODY, host) for host in candidate.hosts]
        for asset_id, host in everyone:
            if host.scanned and not (asset_id == _NOBODY and host.proxied) and not self._is_old_news(asset_id, host):
                for address in host.addresses:
                    takers.setdefault(address, asset_id)
        for address in self._in.folded.virtual:
            takers[address] = _NOBODY
        for asset_id, host in everyone:
            if asset_id == _NOBODY:
                continue
            for address in sorted(host.payload):
                # A device may list an address nobody answers at; it does not take one from another asset by listing it.
                holder = self._in.known.holders.get(address)
                if holder is None or holder.asset_id == asset_id:
                    takers.setdefault(address, asset_id)
        return takers

    def _is_old_news(self, asset_id: int, host: Host) -> bool:
        asset = self._in.known.assets.get(asset_id)
        return asset is not None and asset.last_seen is not None and host.seen_at < asset.last_seen - OLD_NEWS

    # --- a new asset ---

    def _create(self, asset_id: int, host: Host) -> None:
        self._note(asset_id, host)
        claims = dict(host.claims)
        name = claims.get("hostname")
        if name is not None and not self._take_name(asset_id, name.value, host, new=True):
            del claims["hostname"]
        values = {key: claims[key].value if key in claims else None for key in OBSERVED_FIELDS}
        metadata = {key.partition(".")[2]: claim.value for key, claim in claims.items() if key.startswith("metadata.")}
        mac = self._own_mac(asset_id, host, host.address)
        asked = ports_asked(host, {})
        seen = host.seen_at
        self._plan.new.add(asset_id)
        ephemeral = self._is_ephemeral(host)
        row = {
            "id": asset_id, **values, "primary_ip": host.address or min(host.payload, default=None), "mac": mac, "metadata": metadata,
            "ephemeral": ephemeral, "scanned_tcp": asked.get("tcp", ""), "scanned_udp": asked.get("udp", ""), "seen": seen,
        }  # fmt: skip
        self._writes.new_assets.append(row)
        for ip in _in_order(host.all_addresses):
            if self._taken.get(ip) == asset_id:
                self._hold(asset_id, ip, host)
        self._identify(asset_id, host, {})
        for (ip, protocol, port), service in host.services.items():
            self._writes.services.append(
                {"asset_id": asset_id, "ip": ip, "protocol": protocol, "port": port, "name": service.name,
                 "product": service.product, "version": service.version, "at": seen}
            )  # fmt: skip
        for key, claim in claims.items():
            self._own(asset_id, key, claim)
        for kind, value in self._candidate_keys(host):
            if (kind, value) in self._in.known_candidates:
                self._writes.resolved_candidates.append({"asset_id": asset_id, "kind": kind, "key": value})
        after: dict[str, Any] = {
            key: value for key, value in (*values.items(), ("ip", row["primary_ip"]), ("mac", mac)) if value
        }
        if host.services:
            after["services"] = [f"{protocol}/{port}" for _, protocol, port in sorted(host.services)]
        if ephemeral:
            after["ephemeral"] = True
        formerly = {self._in.former[key] for key in match_keys(host) if key in self._in.former}
        if formerly:
            after["formerly"] = max(formerly)
        self._tell(
            EventKind.NEW, asset_id, host.label, ip=host.address, after=after, quiet=ephemeral, at=host.all_addresses
        )

    def _is_ephemeral(self, host: Host) -> bool:
        kinds = {classify_mac(mac) for mac in host.macs}
        return kinds == {MacKind.RANDOM} and not host.keys and not host.services and host.pinned is None

    def _take_name(self, asset_id: int, name: str, host: Host, *, new: bool = False) -> bool:
        """Take a name if it is free. A record nobody ever saw that has the name is shown to an operator: it may be this one."""
        holder = self._names.get(name.lower())
        for form in {name.lower(), name.lower().partition(".")[0]}:
            known = self._in.names.get(form)
            if known is not None and not known[1] and known[0] != asset_id and new:
                self._same_name(known[0], name, host)
        if holder is not None and holder != asset_id:
            return False
        self._names[name.lower()] = asset_id
        return True

    def _same_name(self, asset_id: int, name: str, host: Host) -> None:
        sides: list[dict[str, Any]] = [
            {
                "side": "observed",
                "addresses": _in_order(host.all_addresses),
                "macs": host.macs,
                "names": list(host.names),
            },
            {"side": f"asset {asset_id}", "hostname": name},
        ]
        self._in.matched.conflicts.append(
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

    def _candidate_keys(self, host: Host) -> Iterable[tuple[str, str]]:
        for address in host.addresses:
            yield "icmp_only", address
            yield "third_party", address
            for mac in host.macs:
                yield "shared_mac", f"{mac} {address}"
        for mac in host.macs:
            yield "random_mac", mac

    def _own_mac(self, asset_id: int, host: Host, address: str | None) -> str | None:
        """Return the MAC that is this host's own at an address: none when a proxy answered or it is its machine's."""
        mac = host.addresses.get(address) if address is not None else None
        if mac is None or host.proxied or (host.shared_mac and not host.owns_mac):
            return None
        owners = self._in.known.owners_of_key.get((Kind.MAC, mac), ())
        return None if any(row.asset_id != asset_id and row.strength == Strength.STRONG for row in owners) else mac

    # --- a known asset ---

    def _update(self, asset: AssetRow, host: Host) -> None:
        self._note(asset.id, host)
        change = _Change(asset)
        if not self._is_old_news(asset.id, host):
            self._writes.seen_assets.append((asset.id, host.seen_at))
            self._status(change, host)
            moves = self._whereabouts(change, host)
            self._identify(asset.id, host, {(r.kind, r.value): r for r in self._in.known.identifiers.get(asset.id, ())})
            self._services(change, host, moves)
        self._fields(change, host)
        if change.learned:
            self._tell(
                EventKind.LEARNED,
                asset.id,
                change.subject,
                ip=change.values["primary_ip"],
                after=change.learned,
                quiet=True,
            )
        if change.differs:
            self._writes.asset_fields.append(change.row())

    def _status(self, change: _Change, host: Host) -> None:
        asset = change.asset
        if asset.status == Status.ACTIVE:
            pass
        elif asset.status in LADDER:
            change.values["status"] = Status.ACTIVE
            self._tell(
                EventKind.RETURNED,
                asset.id,
                change.subject,
                ip=host.address,
                before=asset.status,
                after="active",
                quiet=asset.ephemeral,
            )
            if asset.status == Status.ARCHIVED and asset.hostname:
                holder = self._names.setdefault(asset.hostname.lower(), asset.id)
                if holder != asset.id:  # another has the name now
                    change.values["hostname"] = None
                    self._tell(
                        EventKind.HOSTNAME_CHANGED, asset.id, change.subject, field="hostname", before=asset.hostname
                    )
        elif asset.status == Status.PLANNED and not self._locked(asset.id, "status"):
            change.values["status"] = Status.ACTIVE
            self._tell(
                EventKind.STATUS_CHANGED,
                asset.id,
                change.subject,
                ip=host.address,
                field="status",
                before="planned",
                after="active",
            )
        if asset.ephemeral and not self._is_ephemeral(host) and (host.services or host.keys):
            change.values["ephemeral"] = False  # it showed more than a random MAC

    def _whereabouts(self, change: _Change, host: Host) -> dict[str, str]:
        """Decide which addresses it holds now; return where its services moved."""
        asset = change.asset
        rows = {row.ip: row for row in self._in.known.addresses.get(asset.id, ()) if row.kind == "host"}
        held = {ip: row for ip, row in rows.items() if row.state == "held"}
        gained = [ip for ip in _in_order(host.all_addresses) if ip not in held and self._taken.get(ip) == asset.id]
        answered_anew = [ip for ip in gained if ip in host.addresses]
        left: list[str] = []
        for ip, row in rows.items():
            if ip in host.all_addresses and self._taken.get(ip) == asset.id:
                if row.state == "held":
                    self._writes.seen_addresses.append(
                        {
                            "id": row.id,
                            "at": host.seen_at,
                            "mac": host.addresses.get(ip),
                            "method": _method(host, ip),
                            "answered_by": None,
                        }
                    )
                continue
            if row.state == "lost" or self._taken.get(ip) not in (None, asset.id):
                left.append(ip)  # another answers there, and this one is here
            elif answered_anew and self._in.scope.counts_silence(ip, self._in.matched.doubtful):
                left.append(ip)  # it moved
            elif self._in.scope.counts_silence(ip, self._in.matched.doubtful):
                left += self._missed_address(change, row)
        self._writes.address_states += [(rows[ip].id, "released") for ip in left]
        for ip in gained:
            self._hold(asset.id, ip, host)
        moves: dict[str, str] = {}
        for old in left:
            if answered_anew:
                moves[old] = answered_anew[0]
        self._primary(change, host, [ip for ip in held if ip not in left] + gained)
        self._tell_moves(change, host, left, gained, answered_anew)
        return moves

    def _tell_moves(
        self, change: _Change, host: Host, left: list[str], gained: list[str], answered_anew: list[str]
    ) -> None:
        asset, rest = change.asset, list(gained)
        quiet = change.values["ephemeral"]
        old = asset.primary_ip if asset.primary_ip in left else next(iter(left), None)
        if old is not None and answered_anew:
            rest.remove(answered_anew[0])
            self._tell(
                EventKind.IP_CHANGED, asset.id, change.subject, ip=answered_anew[0], field="primary_ip", before=old,
                after=answered_anew[0], quiet=quiet,
            )  # fmt: skip
            left = [ip for ip in left if ip != old]
        for ip in rest:
            if asset.primary_ip is None:
                change.learned.setdefault("ip", ip)
            elif asset.primary_ip != ip:  # else it only came back
                self._tell(EventKind.ADDRESS_ADDED, asset.id, change.subject, ip=ip, after=ip, quiet=quiet)
        for ip in left:
            self._tell(EventKind.ADDRESS_REMOVED, asset.id, change.subject, ip=ip, before=ip, quiet=quiet)

    def _missed_address(self, change: _Change, row: AddressRow) -> list[str]:
        """One address of an asset that is alive elsewhere was silent; return it when that is certain enough to let it go."""
        self._writes.missed_addresses.append(row.id)
        rules = self._in.book.rules(row.ip, ephemeral=change.asset.ephemeral)
        if not may_be_missing(rules, missed_scans=row.missed_scans + 1, last_seen=row.last_seen, now=self._in.now):
            return []
        if row.ip in self._in.scope.coverage.confirmed_absent:
            return [row.ip]
        self._plan.absent.append(
            AbsentAsset(asset_id=change.asset.id, subject=change.subject, addresses=(row.ip,), method=row.method)
        )
        return []

    def _primary(self, change: _Change, host: Host, held: list[str]) -> None:
        """Keep the primary address while it is held; then the one that answered. It follows the device unless locked."""
        asset = change.asset
        primary = asset.primary_ip
        if held and primary not in held and not self._locked(asset.id, "primary_ip"):
            primary = next((ip for ip in held if ip in host.addresses), held[0])
            change.values["primary_ip"] = primary
        mac = self._own_mac(asset.id, host, primary)
        if mac is None or mac == asset.mac or self._locked(asset.id, "mac"):
            return
        change.values["mac"] = mac
        if asset.mac is None:
            change.learned["mac"] = mac
            return
        quiet = change.values["ephemeral"]
        self._tell(
            EventKind.MAC_CHANGED,
            asset.id,
            change.subject,
            ip=primary,
            field="mac",
            before=asset.mac,
            after=mac,
            quiet=quiet,
        )
        if primary == asset.primary_ip and asset.mac not in host.macs:
            # The card was exchanged: wherever the old one turns up next, it is not this asset.
            self._writes.dropped_identifiers += [
                row.id
                for row in self._in.known.identifiers.get(asset.id, ())
                if row.kind == Kind.MAC and row.value == asset.mac and row.active
            ]

    def _hold(self, asset_id: int, ip: str, host: Host) -> None:
        self._writes.addresses.append(
            {"asset_id": asset_id, "ip": ip, "kind": "host", "mac": None if host.proxied else host.addresses.get(ip),
             "answered_by": None, "method": _method(host, ip), "at": host.seen_at}
        )  # fmt: skip

    def _identify(self, asset_id: int, host: Host, rows: Mapping[tuple[str, str], Any]) -> None:
        """Note what identified it, and take over what belonged to another by mistake."""
        method = host.observations[0].method
        wanted: list[tuple[str, str, Strength]] = [(kind, value, Strength.STRONG) for kind, value in host.keys]
        if not host.proxied:
            for mac in host.macs:
                strength = mac_strength(mac, first_hand=True)
                if strength is not None:
                    own = not host.shared_mac or host.owns_mac
                    wanted.append((Kind.MAC, mac, strength if own else Strength.WEAK))
        wanted += [(Kind.HOSTNAME, name, Strength.WEAK) for name in host.names if not is_default_name(name)]
        for kind, value, worth in wanted:
            strength = worth
            row = rows.get((kind, value))
            if row is not None and row.active and (row.strength == strength or row.strength == Strength.STRONG):
                self._writes.seen_identifiers.append(row.id)
                continue
            if strength is Strength.STRONG:
                others = [
                    r for r in self._in.known.owners_of_key.get((kind, value), ())
                    if r.asset_id != asset_id and r.strength == Strength.STRONG
                ]  # fmt: skip
                if others and kind == Kind.MAC and host.shared_mac:
                    strength = Strength.WEAK  # its machine's, which has it already
                else:
                    self._writes.dropped_identifiers += [r.id for r in others]
            self._writes.identifiers.append(
                {
                    "asset_id": asset_id,
                    "kind": kind,
                    "value": value,
                    "strength": strength,
                    "source": method,
                    "at": host.seen_at,
                }
            )

    def _services(self, change: _Change, host: Host, moves: Mapping[str, str]) -> None:
        asset = change.asset
        before = asked_of(asset.scanned_tcp, asset.scanned_udp)
        found = compare(host, self._in.known.services.get(asset.id, ()), asked_before=before, moves=moves)
        for (ip, protocol, port), service in found.write.items():
            self._writes.services.append(
                {"asset_id": asset.id, "ip": ip, "protocol": protocol, "port": port, "name": service.name,
                 "product": service.product, "version": service.version, "at": host.seen_at}
            )  # fmt: skip
        self._writes.seen_services += found.seen
        self._writes.missed_services += found.missed
        self._writes.closed_services += found.closed
        self._writes.moved_services += [{"id": key, "ip": ip} for key, ip in found.moved]
        if found.learned:
            change.learned["services"] = found.learned
        for kind, (ip, protocol, port), was, said in found.events:
            self._tell(kind, asset.id, change.subject, ip=ip, field=f"{protocol}/{port}", before=was, after=said)
        for protocol, ports in ports_asked(host, before).items():
            change.values[f"scanned_{protocol}"] = ports

    def _fields(self, change: _Change, host: Host) -> None:
        asset = change.asset
        confirmed: dict[tuple[int, str], set[str]] = defaultdict(set)
        for key, claim in host.claims.items():
            whole, _, part = key.partition(".")
            current = asset.metadata.get(part) if part else change.values[key]
            if current == claim.value or (not part and same_value(key, current, claim.value, host)):
                confirmed[claim.rank, claim.source].add(key)
                continue
            owner = self._owner(asset.id, key)
            if self._locked(asset.id, whole) or not may_write(claim, current, owner):
                continue
            if key == "hostname" and not self._take_name(asset.id, claim.value, host):
                continue
            self._own(asset.id, key, claim)
            change.set(key, claim.value)
            quiet_upgrade = key == "hostname" and current is not None and same_name(current, claim.value)
            if current is None or quiet_upgrade:
                change.learned[key] = claim.value
            else:
                kind = EventKind(f"{whole}_changed")
                self._tell(
                    kind, asset.id, change.subject, ip=asset.primary_ip, field=key, before=current, after=claim.value
                )
        for (rank, source), fields in confirmed.items():
            self._writes.confirmed_owners.setdefault((rank, source, frozenset(fields)), []).append(asset.id)

    def _own(self, asset_id: int, key: str, claim: Claim) -> None:
        self._writes.owners.append(
            {"asset_id": asset_id, "field": key, "source": claim.source, "rank": int(claim.rank), "at": claim.seen_at}
        )

    def _owner(self, asset_id: int, key: str) -> Owner | None:
        row = self._in.owners.get(asset_id, {}).get(key)
        return None if row is None else Owner(row.source, row.rank, row.locked, row.observed_at)

    def _locked(self, asset_id: int, key: str) -> bool:
        row = self._in.owners.get(asset_id, {}).get(key)
        return row is not None and row.locked

    # --- what is no asset ---

    def _glimpse(self, asset_id: int, host: Host) -> None:
        """A third party spoke of an asset: it counts as seen, nothing else is believed."""
        self._note(asset_id, host)
        if asset_id not in self._in.matched.assets and not self._is_old_news(asset_id, host):
            self._writes.seen_assets.append((asset_id, host.seen_at))

    def _virtual(self, sighting: VirtualSighting) -> None:
        row = self._in.virtual.get(sighting.address)
        nodes = {
            node
            for host in sighting.claimed_by
            for o in host.observations
            if (node := self._asset_of_observation.get(id(o)))
        }
        node = nodes.pop() if len(nodes) == 1 else None
        self._plan.asset_of.setdefault(sighting.address, None)
        if row is None:
            self._writes.addresses.append(
                {"asset_id": None, "ip": sighting.address, "kind": "virtual", "mac": sighting.mac, "answered_by": node,
                 "method": sighting.method, "at": sighting.seen_at}
            )  # fmt: skip
            after = {key: value for key, value in (("mac", sighting.mac), ("answered_by", node)) if value}
            self._tell(
                EventKind.VIRTUAL_ADDRESS,
                None,
                sighting.address,
                ip=sighting.address,
                after=after,
                at=[sighting.address],
            )
            return
        self._writes.seen_addresses.append(
            {"id": row.id, "at": sighting.seen_at, "mac": sighting.mac, "method": sighting.method, "answered_by": node}
        )
        if node is not None and row.answered_by not in (None, node):
            self._tell(
                EventKind.VIRTUAL_ADDRESS_MOVED,
                None,
                sighting.address,
                ip=sighting.address,
                before=row.answered_by,
                after=node,
            )

    def _candidate(self, candidate: CandidateSighting) -> None:
        known = self._in.known_candidates.get((candidate.kind, candidate.key))
        addresses = _in_order({ip for host in candidate.hosts for ip in host.addresses})
        evidence = {
            "addresses": addresses[:256],
            "names": sorted({name for host in candidate.hosts for name in host.names})[:256],
            "methods": sorted({method for host in candidate.hosts for method in host.methods}),
        }
        self._writes.candidates.append(
            {"kind": candidate.kind, "key": candidate.key, "ip": candidate.ip, "mac": candidate.mac, "reason": candidate.reason,
             "evidence": evidence, "at": max(host.seen_at for host in candidate.hosts)}
        )  # fmt: skip
        for ip in addresses:
            self._plan.asset_of.setdefault(ip, None)
        if known is None or known.state == "resolved":
            kind = EventKind.SUSPECT if candidate.kind == "proxy_arp" else EventKind.CANDIDATE
            subject = (
                candidate.mac
                if candidate.kind in ("proxy_arp", "random_mac") and candidate.mac
                else candidate.hosts[0].label
            )
            self._tell(
                kind, None, subject, ip=candidate.ip, field=candidate.kind, after={"reason": candidate.reason, "addresses": len(addresses)},
                quiet=candidate.kind == "random_mac", at=addresses,
            )  # fmt: skip

    def _conflict(self, conflict: ConflictSighting) -> None:
        self._writes.conflicts.append(
            {"kind": conflict.kind, "fingerprint": conflict.fingerprint, "ip": conflict.ip, "asset_ids": conflict.asset_ids,
             "reason": conflict.reason, "evidence": conflict.evidence, "at": conflict.seen_at}
        )  # fmt: skip
        if conflict.fingerprint not in self._in.known_conflicts:
            self._tell(
                EventKind.CONFLICT, conflict.asset_ids[0] if len(conflict.asset_ids) == 1 else None, conflict.label, ip=conflict.ip,
                field=conflict.kind, after={"reason": conflict.reason, "assets": conflict.asset_ids},
            )  # fmt: skip

    # --- silence ---

    def _silence(self) -> None:
        found = self._in.matched
        for asset_id, asset in self._in.known.assets.items():
            if asset_id in found.assets or asset_id in found.glimpsed or asset_id in found.held_back:
                continue
            rows = [row for row in self._in.known.addresses.get(asset_id, ()) if row.kind == "host"]
            lost = [row for row in rows if row.state == "held" and self._taken.get(row.ip) is not None]
            self._writes.address_states += [(row.id, "lost") for row in lost]
            if rows and asset.status in (Status.ACTIVE, Status.MISSING, Status.STALE):
                self._silent(asset, rows, {row.ip for row in rows if row.state == "lost"} | {row.ip for row in lost})

    def _silent(self, asset: AssetRow, rows: list[AddressRow], lost: set[str]) -> None:
        """An asset was not seen: count it, and move it down the ladder when it is time."""
        scope, now = self._in.scope, self._in.now
        missed = [row for row in rows if scope.counts_silence(row.ip, self._in.matched.doubtful)]
        if not missed:
            return
        self._writes.missed_addresses += [row.id for row in missed]
        here = {row.id for row in missed}
        rules = {row.ip: self._in.book.rules(row.ip, ephemeral=asset.ephemeral) for row in rows}
        step: Status | None
        if asset.status == Status.ACTIVE:
            if not all(
                may_be_missing(
                    rules[row.ip], missed_scans=row.missed_scans + (row.id in here), last_seen=row.last_seen, now=now
                )
                for row in rows
            ):
                return
            open_question = tuple(
                row.ip for row in missed if row.ip not in lost and row.ip not in scope.coverage.confirmed_absent
            )
            if open_question:
                self._plan.absent.append(
                    AbsentAsset(
                        asset_id=asset.id, subject=_subject(asset), addresses=open_question, method=missed[0].method
                    )
                )
                return
            step = Status.MISSING
        else:
            step = next_rung(asset.status, rules[missed[0].ip], since=asset.status_since, now=now)
        if step is None:
            return
        change = _Change(asset)
        change.values["status"] = step
        self._writes.asset_fields.append(change.row())
        self._tell(
            EventKind(step.value), asset.id, change.subject, ip=asset.primary_ip or rows[0].ip, before=asset.status, after=step.value,
            quiet=asset.ephemeral,
        )  # fmt: skip
        if step is Status.ARCHIVED:
            # It lets go of what others may need; its strong identifiers stay, so that it is known when it returns.
            self._writes.address_states += [(row.id, "released") for row in rows]
            self._writes.dropped_identifiers += [
                row.id
                for row in self._in.known.identifiers.get(asset.id, ())
                if row.active and row.strength == Strength.WEAK
            ]

    def _whole_networks(self) -> None:
        """Say when a network that has living assets did not answer at all: a cable, a route or the scanner, not its hosts."""
        for text in self._in.scope.silent_networks:
            network = ipaddress.ip_network(text)
            silent = [
                ip for ip, row in self._in.known.holders.items() if row.kind == "host" and parse_address(ip) in network
                and (asset := self._in.known.assets.get(row.asset_id or 0)) is not None and asset.status == Status.ACTIVE
                and row.asset_id not in self._in.matched.assets
            ]  # fmt: skip
            if silent:
                reason = "nothing answered where assets are known: nothing is called missing"
                self._tell(
                    EventKind.SUSPECT, None, text, field="network", after={"reason": reason, "addresses": len(silent)}
                )

    # --- what was seen, as it was seen ---

    def _note(self, asset_id: int, host: Host) -> None:
        for observation in host.observations:
            self._asset_of_observation[id(observation)] = asset_id
        for ip in host.addresses:
            self._plan.asset_of[ip] = asset_id

    def _observations(self) -> None:
        folded = self._in.folded
        everything: Iterable[ObservedHost] = (
            *(o for host in folded.hosts for o in host.observations),
            *folded.unowned,
            *(o for duplicate in folded.duplicates for o in duplicate.observations),
        )
        written: set[int] = set()
        for observation in everything:
            if id(observation) in written:
                continue
            written.add(id(observation))
            if observation.address is not None:
                self._plan.asset_of.setdefault(observation.address, None)
            self._writes.observations.append(
                {
                    "tool_run_id": observation.tool_run_id,
                    "asset_id": self._asset_of_observation.get(id(observation)),
                    "ip": observation.address,
                    "mac": observation.mac,
                    "method": observation.method,
                    "payload": observation.payload(),
                    "evidence": observation.evidence.model_dump() if observation.evidence else None,
                    "at": observation.seen_at,
                }
            )

    def _tell(
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
            baseline = not any(ip in self._in.scanned_before for ip in places) if places else self._in.first_scan
        if asset_id is not None:
            self._plan.changed.add(asset_id)
        self._plan.events.append(
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


class _Change:
    """An asset on its way from what it was to what it is."""

    __slots__ = ("asset", "learned", "values")

    def __init__(self, asset: AssetRow) -> None:
        self.asset = asset
        self.values: dict[str, Any] = {name: getattr(asset, name) for name in CHANGED}
        self.learned: dict[str, Any] = {}

    @property
    def subject(self) -> str:
        return _subject(self.asset)

    @property
    def differs(self) -> bool:
        return any(self.values[name] != getattr(self.asset, name) for name in CHANGED)

    def set(self, key: str, value: Any) -> None:
        whole, _, part = key.partition(".")
        if part:
            self.values["metadata"] = {**self.values["metadata"], part: value}
        else:
            self.values[whole] = value

    def row(self) -> dict[str, Any]:
        changed = {name for name in CHANGED if self.values[name] != getattr(self.asset, name)}
        return {
            "id": self.asset.id,
            **self.values,
            "visible": bool(changed - {"scanned_tcp", "scanned_udp"}),
            "renamed": "hostname" in changed,
        }


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


def _subject(asset: AssetRow) -> str:
    return asset.hostname or asset.primary_ip or asset.mac or asset.serial or f"asset {asset.id}"


def _method(host: Host, ip: str) -> str:
    return next((o.method for o in host.observations if o.address == ip), host.observations[0].method)


def _in_order(addresses: Iterable[str]) -> list[str]:
    return sorted(addresses, key=lambda ip: (parse_address(ip).version, int(parse_address(ip))))
