"""Decide everything a reconcile writes: rows and events, from what was seen, what is known, and where the scan looked.

Nothing is written here, so a preview and the real thing cannot differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.asset._changes import EventKind
from tasks.asset._draft import AssetChange, Draft, Plan, Situation, in_order, same_value
from tasks.asset._fields import OBSERVED_FIELDS, QUIET_METADATA, may_write
from tasks.asset._fold import Host, match_keys
from tasks.asset._identity import (
    Kind,
    MacKind,
    Strength,
    classify_mac,
    is_default_name,
    mac_strength,
    same_name,
)
from tasks.asset._ladder import LADDER, Status
from tasks.asset._leftovers import Leftovers
from tasks.asset._observation import ObservedHost
from tasks.asset._services import asked_of, compare, ports_asked
from tasks.asset._silence import Silence
from tasks.asset._whereabouts import Whereabouts
from tasks.core.db.inventory import AssetRow


class Planner:
    """Makes the plan of one reconcile."""

    def __init__(self, situation: Situation) -> None:
        self._draft = Draft(situation)
        self._whereabouts = Whereabouts(self._draft)

    def plan(self) -> Plan:
        """Decide."""
        found = self._draft.facts.matched
        for asset_id, host in self._draft.new:
            self._create(asset_id, host)
        for asset_id, host in found.assets.items():
            self._update(self._draft.facts.known.assets[asset_id], host)
        for asset_id, host in found.glimpsed.items():
            self._glimpse(asset_id, host)
        Leftovers(self._draft).decide()
        silence = Silence(self._draft)
        silence.decide()
        silence.whole_networks()
        self._observations()
        self._draft.writes.scans = self._draft.facts.scope.history()
        return self._draft.plan

    def _create(self, asset_id: int, host: Host) -> None:
        self._draft.note(asset_id, host)
        claims = dict(host.claims)
        name = claims.get("hostname")
        if name is not None and not self._draft.take_name(asset_id, name.value, host, new=True):
            del claims["hostname"]
        values = {key: claims[key].value if key in claims else None for key in OBSERVED_FIELDS}
        metadata = {key.partition(".")[2]: claim.value for key, claim in claims.items() if key.startswith("metadata.")}
        mac = self._draft.own_mac(asset_id, host, host.address)
        asked = ports_asked(host, {})
        seen = host.seen_at
        self._draft.plan.new.add(asset_id)
        ephemeral = self._is_ephemeral(host)
        row = {
            "id": asset_id, **values, "primary_ip": host.address or min(host.payload, default=None), "mac": mac, "metadata": metadata,
            "ephemeral": ephemeral, "scanned_tcp": asked.get("tcp", ""), "scanned_udp": asked.get("udp", ""), "seen": seen,
        }  # fmt: skip
        self._draft.writes.new_assets.append(row)
        for ip in in_order(host.all_addresses):
            if self._draft.taken.get(ip) == asset_id:
                self._draft.hold(asset_id, ip, host)
        self._identify(asset_id, host, {})
        for (ip, protocol, port), service in host.services.items():
            self._draft.writes.services.append(
                {"asset_id": asset_id, "ip": ip, "protocol": protocol, "port": port, "name": service.name,
                 "product": service.product, "version": service.version, "at": seen}
            )  # fmt: skip
        for key, claim in claims.items():
            self._draft.own(asset_id, key, claim)
        for kind, value in self._candidate_keys(host):
            if (kind, value) in self._draft.facts.known_candidates:
                self._draft.writes.resolved_candidates.append({"asset_id": asset_id, "kind": kind, "key": value})
        after: dict[str, Any] = {
            key: value for key, value in (*values.items(), ("ip", row["primary_ip"]), ("mac", mac)) if value
        }
        if host.services:
            after["services"] = [f"{protocol}/{port}" for _, protocol, port in sorted(host.services)]
        if ephemeral:
            after["ephemeral"] = True
        formerly = {self._draft.facts.former[key] for key in match_keys(host) if key in self._draft.facts.former}
        if formerly:
            after["formerly"] = max(formerly)
        self._draft.tell(
            EventKind.NEW, asset_id, host.label, ip=host.address, after=after, quiet=ephemeral, at=host.all_addresses
        )

    def _is_ephemeral(self, host: Host) -> bool:
        kinds = {classify_mac(mac) for mac in host.macs}
        return kinds == {MacKind.RANDOM} and not host.keys and not host.services and host.pinned is None

    def _candidate_keys(self, host: Host) -> Iterable[tuple[str, str]]:
        for address in host.addresses:
            yield "icmp_only", address
            yield "third_party", address
            for mac in host.macs:
                yield "shared_mac", f"{mac} {address}"
        for mac in host.macs:
            yield "random_mac", mac

    def _update(self, asset: AssetRow, host: Host) -> None:
        self._draft.note(asset.id, host)
        change = AssetChange(asset)
        if not self._draft.is_old_news(asset.id, host):
            self._draft.writes.seen_assets.append((asset.id, host.seen_at))
            self._status(change, host)
            moves = self._whereabouts.decide(change, host)
            self._identify(
                asset.id, host, {(r.kind, r.value): r for r in self._draft.facts.known.identifiers.get(asset.id, ())}
            )
            self._services(change, host, moves)
        self._fields(change, host)
        if change.learned:
            self._draft.tell(
                EventKind.LEARNED,
                asset.id,
                change.subject,
                ip=change.values["primary_ip"],
                after=change.learned,
                quiet=True,
            )
        if change.differs:
            self._draft.writes.asset_fields.append(change.row())

    def _status(self, change: AssetChange, host: Host) -> None:
        asset = change.asset
        if asset.status == Status.ACTIVE:
            pass
        elif asset.status in LADDER:
            change.values["status"] = Status.ACTIVE
            self._draft.tell(
                EventKind.RETURNED,
                asset.id,
                change.subject,
                ip=host.address,
                before=asset.status,
                after="active",
                quiet=asset.ephemeral,
            )
            if asset.status == Status.ARCHIVED and asset.hostname:
                holder = self._draft.names.setdefault(asset.hostname.lower(), asset.id)
                if holder != asset.id:  # another has the name now
                    change.values["hostname"] = None
                    self._draft.tell(
                        EventKind.HOSTNAME_CHANGED, asset.id, change.subject, field="hostname", before=asset.hostname
                    )
        elif asset.status == Status.PLANNED and not self._draft.locked(asset.id, "status"):
            change.values["status"] = Status.ACTIVE
            self._draft.tell(
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
                self._draft.writes.seen_identifiers.append(row.id)
                continue
            if strength is Strength.STRONG:
                others = [
                    r for r in self._draft.facts.known.owners_of_key.get((kind, value), ())
                    if r.asset_id != asset_id and r.strength == Strength.STRONG
                ]  # fmt: skip
                if others and kind == Kind.MAC and host.shared_mac:
                    strength = Strength.WEAK  # its machine's, which has it already
                else:
                    self._draft.writes.dropped_identifiers += [r.id for r in others]
            self._draft.writes.identifiers.append(
                {
                    "asset_id": asset_id,
                    "kind": kind,
                    "value": value,
                    "strength": strength,
                    "source": method,
                    "at": host.seen_at,
                }
            )

    def _services(self, change: AssetChange, host: Host, moves: Mapping[str, str]) -> None:
        asset = change.asset
        before = asked_of(asset.scanned_tcp, asset.scanned_udp)
        found = compare(host, self._draft.facts.known.services.get(asset.id, ()), asked_before=before, moves=moves)
        for (ip, protocol, port), service in found.write.items():
            self._draft.writes.services.append(
                {"asset_id": asset.id, "ip": ip, "protocol": protocol, "port": port, "name": service.name,
                 "product": service.product, "version": service.version, "at": host.seen_at}
            )  # fmt: skip
        self._draft.writes.seen_services += found.seen
        self._draft.writes.missed_services += found.missed
        self._draft.writes.closed_services += found.closed
        self._draft.writes.moved_services += [{"id": key, "ip": ip} for key, ip in found.moved]
        if found.learned:
            change.learned["services"] = found.learned
        for kind, (ip, protocol, port), was, said in found.events:
            self._draft.tell(kind, asset.id, change.subject, ip=ip, field=f"{protocol}/{port}", before=was, after=said)
        for protocol, ports in ports_asked(host, before).items():
            change.values[f"scanned_{protocol}"] = ports

    def _fields(self, change: AssetChange, host: Host) -> None:
        asset = change.asset
        confirmed: dict[tuple[int, str], set[str]] = defaultdict(set)
        for key, claim in host.claims.items():
            whole, _, part = key.partition(".")
            current = asset.metadata.get(part) if part else change.values[key]
            if current == claim.value or (not part and same_value(key, current, claim.value, host)):
                confirmed[claim.rank, claim.source].add(key)
                continue
            owner = self._draft.owner(asset.id, key)
            if self._draft.locked(asset.id, whole) or not may_write(claim, current, owner):
                continue
            if key == "hostname" and not self._draft.take_name(asset.id, claim.value, host):
                continue
            self._draft.own(asset.id, key, claim)
            change.set(key, claim.value)
            quiet_upgrade = key == "hostname" and current is not None and same_name(current, claim.value)
            if current is None or quiet_upgrade:
                change.learned[key] = claim.value
            else:
                kind = EventKind(f"{whole}_changed")
                self._draft.tell(
                    kind, asset.id, change.subject, ip=asset.primary_ip, field=key, before=current, after=claim.value,
                    quiet=part.startswith(QUIET_METADATA),
                )  # fmt: skip
        for (rank, source), fields in confirmed.items():
            self._draft.writes.confirmed_owners.setdefault((rank, source, frozenset(fields)), []).append(asset.id)

    def _glimpse(self, asset_id: int, host: Host) -> None:
        """A third party spoke of an asset: it counts as seen, nothing else is believed."""
        self._draft.note(asset_id, host)
        if asset_id not in self._draft.facts.matched.assets and not self._draft.is_old_news(asset_id, host):
            self._draft.writes.seen_assets.append((asset_id, host.seen_at))

    def _observations(self) -> None:
        folded = self._draft.facts.folded
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
                self._draft.plan.asset_of.setdefault(observation.address, None)
            self._draft.writes.observations.append(
                {
                    "tool_run_id": observation.tool_run_id,
                    "asset_id": self._draft.asset_of_observation.get(id(observation)),
                    "ip": observation.address,
                    "mac": observation.mac,
                    "method": observation.method,
                    "payload": observation.payload(),
                    "evidence": observation.evidence.model_dump() if observation.evidence else None,
                    "at": observation.seen_at,
                }
            )
