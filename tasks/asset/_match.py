"""Find the asset of each host of a batch, or say why there is none.

The order is that of the reference: what the device says it is, then a strong MAC seen first-hand, then (weaker) the same MAC or
the same address, never a name by itself. Pure: works on what `tasks.core.db.inventory.load_known` loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tasks.asset._fold import DuplicateAddress, Folded, Host, Key, match_keys
from tasks.asset._identity import (
    Kind,
    MacKind,
    Strength,
    classify_mac,
    is_default_name,
    mac_strength,
    parse_address,
    same_name,
)
from tasks.asset._ladder import SubnetBook, SubnetKind
from tasks.core.db.inventory import AddressRow, Known

PERSISTENCE = timedelta(hours=24)
"""How long the same random MAC must be around, by itself, before it is a thing and not a visitor."""


@dataclass(slots=True)
class CandidateSighting:
    """Something seen that is not proof enough for an asset."""

    kind: str
    key: str
    reason: str
    ip: str | None
    mac: str | None
    hosts: list[Host]


@dataclass(slots=True)
class ConflictSighting:
    """Something that needs an operator: nothing was written for it."""

    kind: str
    fingerprint: str
    reason: str
    ip: str | None
    asset_ids: list[int]
    evidence: list[dict[str, Any]]
    seen_at: datetime
    label: str = ""


@dataclass(slots=True)
class Merge:
    """Two assets that one payload proves to be one."""

    kept: int
    merged: int
    reason: str


@dataclass(slots=True)
class Matched:
    """Where every host of a batch went."""

    assets: dict[int, Host] = field(default_factory=dict)
    """Known assets that were seen, with all that was seen of them."""
    glimpsed: dict[int, Host] = field(default_factory=dict)
    """Assets a third party spoke of: alive, nothing else is believed."""
    new: list[Host] = field(default_factory=list)
    candidates: list[CandidateSighting] = field(default_factory=list)
    conflicts: list[ConflictSighting] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    held_back: set[int] = field(default_factory=set)
    """Assets about which this batch says nothing certain: neither seen nor missed."""
    doubtful: set[str] = field(default_factory=set)
    """Addresses at which an answer proves nothing."""


class Matcher:
    """Matches the hosts of one batch.

    Args:
        folded: The batch.
        known: What the database knows about anything in it.
        book: The site's networks.
        candidates: Known candidates by kind and key.
        unmerged: Pairs of assets an operator took apart again.
        now: The time.
    """

    def __init__(
        self,
        folded: Folded,
        known: Known,
        book: SubnetBook,
        *,
        candidates: Mapping[Key, Any],
        unmerged: Collection[frozenset[int]],
        now: datetime,
    ) -> None:
        self._folded = folded
        self._known = known
        self._book = book
        self._candidates = candidates
        self._unmerged = unmerged
        self._now = now
        self._result = Matched()
        self._moved: set[int] = set()
        self._at: dict[str, AddressRow] = known.holders

    def match(self) -> Matched:
        """Match every host."""
        rest = []
        for host in self._folded.hosts:
            if not host.scanned:
                self._third_party(host)
            elif not self._strong(host):
                rest.append(host)
        rest = [host for host in rest if not self._weak_mac(host)]
        rest = [host for host in rest if not self._by_address(host)]
        for host in rest:
            self._unmatched(host)
        self._proxies()
        for duplicate in self._folded.duplicates:
            self._duplicate(duplicate)
        for asset_id in self._result.held_back & self._result.assets.keys():
            self._result.held_back.discard(asset_id)
        return self._result

    # --- strong identity ---

    def _strong(self, host: Host) -> bool:
        hits = self._hits(host)
        accounted = self._accounted(host, hits)
        if not hits and not accounted:
            return False
        kept = next(iter(hits)) if hits else min(accounted)
        others = [asset_id for asset_id in (*hits, *accounted) if asset_id != kept]
        refused = [asset_id for asset_id in others if not self._may_merge(host, kept, asset_id)]
        if refused and any(asset_id in hits for asset_id in refused):
            self._conflict(host, {kept: hits[kept], **{a: hits.get(a, "address") for a in refused}})
            return True
        for asset_id in others:
            if asset_id not in refused:
                reason = "one payload of the device accounts for every address of both"
                self._result.merges.append(Merge(kept, asset_id, reason))
        self._assign(kept, host)
        return True

    def _hits(self, host: Host) -> dict[int, str]:
        """Return the assets the host's identity points to, in deciding order, with what pointed."""
        hits: dict[int, str] = {}
        if host.pinned in self._known.assets and host.pinned is not None:
            hits[host.pinned] = "pinned"
        for kind, value in match_keys(host):
            owners = [
                row for row in self._known.owners_of_key.get((kind, value), ()) if row.asset_id in self._known.assets
            ]
            if kind == Kind.MAC:
                shared = host.shared_mac or len(owners) > 1
                if shared:
                    # The MAC says which machine it is, not which of those that live on it: the address must agree.
                    owners = [row for row in owners if self._holds(row.asset_id, host.addresses)]
                elif mac_strength(value, first_hand=True) is not Strength.STRONG:
                    continue
                if len(owners) != 1:
                    continue
            for row in owners:
                if row.asset_id in hits or (kind != Kind.MAC and row.strength != Strength.STRONG):
                    continue
                if kind in (Kind.MAC, Kind.SSH_HOST_KEY) and self._contradicts(host, row.asset_id):
                    continue  # a network card or a disk that was put into another device
                hits[row.asset_id] = kind
        return hits

    def _accounted(self, host: Host, hits: Mapping[int, str]) -> list[int]:
        """Return further assets that hold nothing but addresses the device itself says are its own."""
        found: dict[int, None] = {}
        for address in sorted(host.payload):
            row = self._at.get(address)
            if row is None or row.asset_id is None or row.asset_id in hits or row.kind != "host":
                continue
            if self._address_agrees(host, address, row) and self._accounts_for(host, row.asset_id):
                found[row.asset_id] = None
        return sorted(found)

    def _accounts_for(self, host: Host, asset_id: int) -> bool:
        held = {row.ip for row in self._known.addresses.get(asset_id, ()) if row.state == "held" and row.kind == "host"}
        return bool(host.payload) and held <= host.all_addresses

    def _may_merge(self, host: Host, kept: int, other: int) -> bool:
        if frozenset((kept, other)) in self._unmerged or self._contradicts(host, other):
            return False
        if self._assets_contradict(kept, other):
            return False
        return self._accounts_for(host, other) and self._accounts_for(host, kept)

    def _identities(self, asset_id: int, kind: str, *, strong: bool = False) -> set[str]:
        return {
            row.value
            for row in self._known.identifiers.get(asset_id, ())
            if row.kind == kind
            and row.active
            and (row.strength == Strength.STRONG or (kind == Kind.MAC and not strong))
        }

    def _contradicts(self, host: Host, asset_id: int) -> bool:
        """Whether the host says it is something else than this asset."""
        for kind in (Kind.EXTERNAL, Kind.SERIAL, Kind.CHASSIS):
            said, known = host.strong_of(kind), self._identities(asset_id, kind)
            if said and known and not said & known:
                return True
        return False

    def _assets_contradict(self, one: int, other: int) -> bool:
        for kind in (Kind.SERIAL, Kind.CHASSIS):
            left, right = self._identities(one, kind), self._identities(other, kind)
            if left and right and not left & right:
                return True
        return False

    def _holds(self, asset_id: int, addresses: Iterable[str]) -> bool:
        held = {row.ip for row in self._known.addresses.get(asset_id, ()) if row.state == "held"}
        return any(address in held for address in addresses)

    def _assign(self, asset_id: int, host: Host) -> None:
        if any(
            address not in {row.ip for row in self._known.addresses.get(asset_id, ())} for address in host.addresses
        ):
            self._moved.add(asset_id)
        first = self._result.assets.setdefault(asset_id, host)
        if first is not host:
            first.absorb(host)

    # --- weaker evidence ---

    def _weak_mac(self, host: Host) -> bool:
        """Match by a MAC that is no strong identifier: first-hand, of one host and one asset alone, and nothing disagrees."""
        if host.shared_mac or host.proxied:
            return False
        for mac in host.macs:
            owners = {row.asset_id for row in self._known.owners_of_key.get((Kind.MAC, mac), ())}
            owners &= self._known.assets.keys()
            if len(owners) != 1:
                continue
            (asset_id,) = owners
            if asset_id in self._result.assets or self._contradicts(host, asset_id):
                continue
            self._assign(asset_id, host)
            return True
        return False

    def _by_address(self, host: Host) -> bool:
        if host.proxied and not host.keys:
            return False
        hits: dict[int, str] = {}
        for address in host.addresses:
            row = self._at.get(address)
            if row is None or row.asset_id is None or row.kind != "host":
                continue
            if row.asset_id in self._moved:
                continue  # it answers elsewhere now: whoever answers here is another
            if self._address_agrees(host, address, row):
                hits[row.asset_id] = "address"
        if not hits:
            return False
        kept, *others = sorted(hits)
        if any(not self._may_merge(host, kept, other) for other in others):
            self._conflict(host, hits)
            return True
        for other in others:
            self._result.merges.append(
                Merge(kept, other, "one payload of the device accounts for every address of both")
            )
        self._assign(kept, host)
        return True

    def _address_agrees(self, host: Host, address: str, row: AddressRow) -> bool:
        """Whether the host at an address may be the asset that holds it: no strong identifier disagrees, and it was there lately."""
        asset_id = row.asset_id
        asset = self._known.assets.get(asset_id) if asset_id is not None else None
        if asset is None or asset_id is None or self._contradicts(host, asset_id):
            return False
        if parse_address(address).is_loopback:
            # Every worker has it: it speaks for one only while no other address says that they are two.
            held = {r.ip for r in self._known.addresses.get(asset_id, ()) if not parse_address(r.ip).is_loopback}
            mine = {ip for ip in host.all_addresses if not parse_address(ip).is_loopback}
            if held and mine and not held & mine:
                return False
        keys, known_keys = host.strong_of(Kind.SSH_HOST_KEY), self._identities(asset_id, Kind.SSH_HOST_KEY)
        if keys and known_keys and not keys & known_keys:
            return False
        mac = host.addresses.get(address)
        if mac is not None:
            known_macs = self._identities(asset_id, Kind.MAC)
            if mac not in known_macs and row.mac is not None and mac != row.mac:
                if asset.ephemeral or host.proxied:
                    return False
                if row.mac in self._identities(asset_id, Kind.MAC, strong=True):
                    return False
        rules = self._book.rules(address, ephemeral=asset.ephemeral)
        if self._now - row.last_seen <= timedelta(hours=rules.lease_hours):
            return True
        # Long gone, but the same name came back to the same address: not a name alone.
        return asset.hostname is not None and any(
            same_name(asset.hostname, name) for name in host.names if not is_default_name(name)
        )

    def _third_party(self, host: Host) -> None:
        """Somebody else speaks of a host: that refreshes an asset or raises a candidate."""
        for address in host.addresses:
            row = self._at.get(address)
            if row is not None and row.asset_id in self._known.assets and row.asset_id is not None:
                macs = self._identities(row.asset_id, Kind.MAC)
                if not host.told_macs or not macs or host.told_macs & macs:
                    self._glimpse(row.asset_id, host)
                    return
        for mac in host.told_macs:
            owners = {
                row.asset_id for row in self._known.owners_of_key.get((Kind.MAC, mac), ())
            } & self._known.assets.keys()
            if len(owners) == 1:
                self._glimpse(owners.pop(), host)
                return
        if host.address is not None:
            reason = "only others speak of it: " + ", ".join(sorted(host.methods))
            self._candidate("third_party", host.address, reason, host, next(iter(host.told_macs), None))

    def _glimpse(self, asset_id: int, host: Host) -> None:
        first = self._result.glimpsed.setdefault(asset_id, host)
        if first is not host:
            first.absorb(host)

    # --- no asset ---

    def _unmatched(self, host: Host) -> None:
        if host.proxied and not host.keys:
            self._result.doubtful.update(host.addresses)
            return
        problem = self._lacks_proof(host)
        if problem is None:
            self._result.new.append(host)
            return
        kind, key, reason = problem
        self._candidate(kind, key, reason, host, next(iter(host.macs), None))

    def _lacks_proof(self, host: Host) -> tuple[str, str, str] | None:
        """Return why a host is not made an asset: kind and key of the candidate, and the reason; None when it is."""
        if host.keys or host.pinned is not None or "local" in host.methods:
            return None
        address = host.address
        if address is None:
            return None
        names = [name for name in host.names if not is_default_name(name)]
        if host.services or parse_address(address).is_loopback:
            return None
        mac = next(iter(host.macs), "")
        if host.shared_mac and not names and not (host.owns_mac and not self._known.owners_of_key.get((Kind.MAC, mac))):
            return (
                "shared_mac",
                f"{mac} {address}",
                f"answers with {mac}, as another address does, and shows nothing of its own",
            )
        kinds = {classify_mac(mac) for mac in host.macs}
        if not kinds and not names:
            return "icmp_only", address, "answered, but showed no MAC, no open port and no name"
        if kinds == {MacKind.RANDOM} and (not names or self._book.rules(address).kind is SubnetKind.GUEST):
            seen = self._candidates.get(("random_mac", mac))
            if seen is None or self._now - seen.first_seen < PERSISTENCE:
                return "random_mac", mac, "a random MAC and nothing else: a visitor, until it stays"
        return None

    def _candidate(self, kind: str, key: str, reason: str, host: Host, mac: str | None) -> None:
        self._result.candidates.append(CandidateSighting(kind, key, reason, host.address, mac, [host]))

    def _proxies(self) -> None:
        for mac, hosts in self._folded.proxies.items():
            doubtful = [host for host in hosts if self._result.doubtful & host.addresses.keys()]
            if doubtful:
                reason = f"{len(hosts)} addresses answer with {mac}: a proxy speaks for them, nothing is believed"
                self._result.candidates.append(
                    CandidateSighting("proxy_arp", mac, reason, doubtful[0].address, mac, doubtful)
                )

    # --- what an operator must decide ---

    def _conflict(self, host: Host, hits: Mapping[int, str]) -> None:
        self._result.held_back.update(hits)
        ids = sorted(hits)
        evidence: list[dict[str, Any]] = [_seen(host)]
        for asset_id in ids:
            asset = self._known.assets[asset_id]
            evidence.append(
                {
                    "side": f"asset {asset_id}",
                    "matched_by": str(hits[asset_id]),
                    "hostname": asset.hostname,
                    "addresses": sorted(
                        row.ip for row in self._known.addresses.get(asset_id, ()) if row.state == "held"
                    ),
                    "identifiers": sorted(
                        f"{row.kind} {row.value}" for row in self._known.identifiers.get(asset_id, ()) if row.active
                    ),
                    "last_seen": asset.last_seen.isoformat() if asset.last_seen else None,
                }
            )
        by = ", ".join(f"asset {asset_id} by {how}" for asset_id, how in hits.items())
        self._result.conflicts.append(
            ConflictSighting(
                "identity",
                f"identity {' '.join(map(str, ids))}",
                f"{host.label} could be {by}",
                host.address,
                ids,
                evidence,
                host.seen_at,
                host.label,
            )
        )

    def _duplicate(self, duplicate: DuplicateAddress) -> None:
        self._result.doubtful.add(duplicate.address)
        owners: list[int] = []
        for mac in duplicate.macs:
            for row in self._known.owners_of_key.get((Kind.MAC, mac), ()):
                if row.asset_id in self._known.assets and row.asset_id not in owners:
                    owners.append(row.asset_id)
        self._result.held_back.update(owners)
        evidence = [
            {
                "side": observation.mac or "no MAC",
                "method": observation.method,
                "seen_at": observation.seen_at.isoformat(),
            }
            | ({"evidence": observation.evidence.model_dump()} if observation.evidence else {})
            | observation.payload()
            for observation in duplicate.observations
        ]
        self._result.conflicts.append(
            ConflictSighting(
                "duplicate_address",
                f"duplicate_address {duplicate.address} {' '.join(duplicate.macs)}",
                f"{duplicate.address} is answered by {len(duplicate.macs)} devices: {', '.join(duplicate.macs)}",
                duplicate.address,
                sorted(owners),
                evidence,
                max(observation.seen_at for observation in duplicate.observations),
                duplicate.address,
            )
        )


def _seen(host: Host) -> dict[str, Any]:
    """Return what was seen, as one side of a conflict."""
    return {
        "side": "observed",
        "addresses": sorted(host.all_addresses),
        "macs": host.macs,
        "names": list(host.names),
        "identifiers": [f"{kind} {value}" for kind, value in host.keys],
        "methods": sorted(host.methods),
        "seen_at": host.seen_at.isoformat(),
        "evidence": [o.evidence.model_dump() for o in host.observations if o.evidence],
    }
