"""What was seen and is no asset: virtual addresses, candidates, conflicts."""

from __future__ import annotations

from tasks.asset._changes import EventKind
from tasks.asset._draft import Draft, in_order
from tasks.asset._fold import VirtualSighting
from tasks.asset._match import CandidateSighting, ConflictSighting


class Leftovers:
    """Writes down what the batch left open."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def decide(self) -> None:
        """Go through everything that became no asset."""
        for sighting in self._draft.facts.folded.virtual.values():
            self._virtual(sighting)
        for candidate in self._draft.facts.matched.candidates:
            self._candidate(candidate)
        for conflict in self._draft.facts.matched.conflicts:
            self._conflict(conflict)

    def _virtual(self, sighting: VirtualSighting) -> None:
        row = self._draft.facts.virtual.get(sighting.address)
        nodes = {
            node
            for host in sighting.claimed_by
            for o in host.observations
            if (node := self._draft.asset_of_observation.get(id(o)))
        }
        node = nodes.pop() if len(nodes) == 1 else None
        self._draft.plan.asset_of.setdefault(sighting.address, None)
        if row is None:
            self._draft.writes.addresses.append(
                {"asset_id": None, "ip": sighting.address, "kind": "virtual", "mac": sighting.mac, "answered_by": node,
                 "method": sighting.method, "at": sighting.seen_at}
            )  # fmt: skip
            after = {key: value for key, value in (("mac", sighting.mac), ("answered_by", node)) if value}
            self._draft.tell(
                EventKind.VIRTUAL_ADDRESS,
                None,
                sighting.address,
                ip=sighting.address,
                after=after,
                at=[sighting.address],
            )
            return
        self._draft.writes.seen_addresses.append(
            {"id": row.id, "at": sighting.seen_at, "mac": sighting.mac, "method": sighting.method, "answered_by": node}
        )
        if node is not None and row.answered_by not in (None, node):
            self._draft.tell(
                EventKind.VIRTUAL_ADDRESS_MOVED,
                None,
                sighting.address,
                ip=sighting.address,
                before=row.answered_by,
                after=node,
            )

    def _candidate(self, candidate: CandidateSighting) -> None:
        known = self._draft.facts.known_candidates.get((candidate.kind, candidate.key))
        addresses = in_order({ip for host in candidate.hosts for ip in host.addresses})
        evidence = {
            "addresses": addresses[:256],
            "names": sorted({name for host in candidate.hosts for name in host.names})[:256],
            "methods": sorted({method for host in candidate.hosts for method in host.methods}),
        }
        self._draft.writes.candidates.append(
            {"kind": candidate.kind, "key": candidate.key, "ip": candidate.ip, "mac": candidate.mac, "reason": candidate.reason,
             "evidence": evidence, "at": max(host.seen_at for host in candidate.hosts)}
        )  # fmt: skip
        for ip in addresses:
            self._draft.plan.asset_of.setdefault(ip, None)
        if known is None or known.state == "resolved":
            kind = EventKind.SUSPECT if candidate.kind == "proxy_arp" else EventKind.CANDIDATE
            subject = (
                candidate.mac
                if candidate.kind in ("proxy_arp", "random_mac") and candidate.mac
                else candidate.hosts[0].label
            )
            self._draft.tell(
                kind, None, subject, ip=candidate.ip, field=candidate.kind, after={"reason": candidate.reason, "addresses": len(addresses)},
                quiet=candidate.kind == "random_mac", at=addresses,
            )  # fmt: skip

    def _conflict(self, conflict: ConflictSighting) -> None:
        self._draft.writes.conflicts.append(
            {"kind": conflict.kind, "fingerprint": conflict.fingerprint, "ip": conflict.ip, "asset_ids": conflict.asset_ids,
             "reason": conflict.reason, "evidence": conflict.evidence, "at": conflict.seen_at}
        )  # fmt: skip
        if conflict.fingerprint not in self._draft.facts.known_conflicts:
            self._draft.tell(
                EventKind.CONFLICT, conflict.asset_ids[0] if len(conflict.asset_ids) == 1 else None, conflict.label, ip=conflict.ip,
                field=conflict.kind, after={"reason": conflict.reason, "assets": conflict.asset_ids},
            )  # fmt: skip
