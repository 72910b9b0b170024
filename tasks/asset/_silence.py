"""What was not seen: count it, move assets down the ladder when it is time, and say when a whole network is silent."""

from __future__ import annotations

import ipaddress

from tasks.asset._changes import AbsentAsset, EventKind
from tasks.asset._draft import AssetChange, Draft, subject_of
from tasks.asset._identity import Strength, parse_address
from tasks.asset._ladder import Status, may_be_missing, next_rung
from tasks.core.db.inventory import AddressRow, AssetRow


class Silence:
    """Decides about assets a scan looked for and did not see."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def decide(self) -> None:
        """Go through every asset that was not seen."""
        found = self._draft.facts.matched
        for asset_id, asset in self._draft.facts.known.assets.items():
            if asset_id in found.assets or asset_id in found.glimpsed or asset_id in found.held_back:
                continue
            rows = [row for row in self._draft.facts.known.addresses.get(asset_id, ()) if row.kind == "host"]
            lost = [row for row in rows if row.state == "held" and self._draft.taken.get(row.ip) is not None]
            self._draft.writes.address_states += [(row.id, "lost") for row in lost]
            if rows and asset.status in (Status.ACTIVE, Status.MISSING, Status.STALE):
                self._silent(asset, rows, {row.ip for row in rows if row.state == "lost"} | {row.ip for row in lost})

    def _silent(self, asset: AssetRow, rows: list[AddressRow], lost: set[str]) -> None:
        """An asset was not seen: count it, and move it down the ladder when it is time."""
        scope, now = self._draft.facts.scope, self._draft.facts.now
        missed = [row for row in rows if scope.counts_silence(row.ip, self._draft.facts.matched.doubtful)]
        if not missed:
            return
        self._draft.writes.missed_addresses += [row.id for row in missed]
        here = {row.id for row in missed}
        rules = {row.ip: self._draft.facts.book.rules(row.ip, ephemeral=asset.ephemeral) for row in rows}
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
                self._draft.plan.absent.append(
                    AbsentAsset(
                        asset_id=asset.id, subject=subject_of(asset), addresses=open_question, method=missed[0].method
                    )
                )
                return
            step = Status.MISSING
        else:
            step = next_rung(asset.status, rules[missed[0].ip], since=asset.status_since, now=now)
        if step is None:
            return
        change = AssetChange(asset)
        change.values["status"] = step
        self._draft.writes.asset_fields.append(change.row())
        self._draft.tell(
            EventKind(step.value), asset.id, change.subject, ip=asset.primary_ip or rows[0].ip, before=asset.status, after=step.value,
            quiet=asset.ephemeral,
        )  # fmt: skip
        if step is Status.ARCHIVED:
            # It lets go of what others may need; its strong identifiers stay, so that it is known when it returns.
            self._draft.writes.address_states += [(row.id, "released") for row in rows]
            self._draft.writes.dropped_identifiers += [
                row.id
                for row in self._draft.facts.known.identifiers.get(asset.id, ())
                if row.active and row.strength == Strength.WEAK
            ]

    def whole_networks(self) -> None:
        """Say when a network that has living assets did not answer at all: a cable, a route or the scanner, not its hosts."""
        for text in self._draft.facts.scope.silent_networks:
            network = ipaddress.ip_network(text)
            silent = [
                ip for ip, row in self._draft.facts.known.holders.items() if row.kind == "host" and parse_address(ip) in network
                and (asset := self._draft.facts.known.assets.get(row.asset_id or 0)) is not None and asset.status == Status.ACTIVE
                and row.asset_id not in self._draft.facts.matched.assets
            ]  # fmt: skip
            if silent:
                reason = "nothing answered where assets are known: nothing is called missing"
                self._draft.tell(
                    EventKind.SUSPECT, None, text, field="network", after={"reason": reason, "addresses": len(silent)}
                )
