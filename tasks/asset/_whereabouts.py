"""Where a known asset is now: which addresses it holds, which it left, and what a person hears of it."""

from __future__ import annotations

from tasks.asset._changes import AbsentAsset, EventKind
from tasks.asset._draft import AssetChange, Draft, in_order, method_at
from tasks.asset._fold import Host
from tasks.asset._identity import (
    Kind,
)
from tasks.asset._ladder import may_be_missing
from tasks.core.db.inventory import AddressRow


class Whereabouts:
    """Decides about the addresses and the MAC of assets that were seen."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def decide(self, change: AssetChange, host: Host) -> dict[str, str]:
        """Decide which addresses it holds now; return where its services moved."""
        asset = change.asset
        rows = {row.ip: row for row in self._draft.facts.known.addresses.get(asset.id, ()) if row.kind == "host"}
        held = {ip: row for ip, row in rows.items() if row.state == "held"}
        gained = [ip for ip in in_order(host.all_addresses) if ip not in held and self._draft.taken.get(ip) == asset.id]
        answered_anew = [ip for ip in gained if ip in host.addresses]
        left: list[str] = []
        for ip, row in rows.items():
            if ip in host.all_addresses and self._draft.taken.get(ip) == asset.id:
                if row.state == "held":
                    self._draft.writes.seen_addresses.append(
                        {
                            "id": row.id,
                            "at": host.seen_at,
                            "mac": host.addresses.get(ip),
                            "method": method_at(host, ip),
                            "answered_by": None,
                        }
                    )
                continue
            if row.state == "lost" or self._draft.taken.get(ip) not in (None, asset.id):
                left.append(ip)  # another answers there, and this one is here
            elif answered_anew and self._draft.facts.scope.counts_silence(ip, self._draft.facts.matched.doubtful):
                left.append(ip)  # it moved
            elif self._draft.facts.scope.counts_silence(ip, self._draft.facts.matched.doubtful):
                left += self._missed_address(change, row)
        self._draft.writes.address_states += [(rows[ip].id, "released") for ip in left]
        for ip in gained:
            self._draft.hold(asset.id, ip, host)
        moves: dict[str, str] = {}
        for old in left:
            if answered_anew:
                moves[old] = answered_anew[0]
        self._primary(change, host, [ip for ip in held if ip not in left] + gained)
        self._tell_moves(change, host, left, gained, answered_anew)
        return moves

    def _tell_moves(
        self, change: AssetChange, host: Host, left: list[str], gained: list[str], answered_anew: list[str]
    ) -> None:
        asset, rest = change.asset, list(gained)
        quiet = change.values["ephemeral"]
        old = asset.primary_ip if asset.primary_ip in left else next(iter(left), None)
        if old is not None and answered_anew:
            rest.remove(answered_anew[0])
            self._draft.tell(
                EventKind.IP_CHANGED, asset.id, change.subject, ip=answered_anew[0], field="primary_ip", before=old,
                after=answered_anew[0], quiet=quiet,
            )  # fmt: skip
            left = [ip for ip in left if ip != old]
        for ip in rest:
            if asset.primary_ip is None:
                change.learned.setdefault("ip", ip)
            elif asset.primary_ip != ip:  # else it only came back
                self._draft.tell(EventKind.ADDRESS_ADDED, asset.id, change.subject, ip=ip, after=ip, quiet=quiet)
        for ip in left:
            self._draft.tell(EventKind.ADDRESS_REMOVED, asset.id, change.subject, ip=ip, before=ip, quiet=quiet)

    def _missed_address(self, change: AssetChange, row: AddressRow) -> list[str]:
        """One address of an asset that is alive elsewhere was silent; return it when that is certain enough to let it go."""
        self._draft.writes.missed_addresses.append(row.id)
        rules = self._draft.facts.book.rules(row.ip, ephemeral=change.asset.ephemeral)
        if not may_be_missing(
            rules, missed_scans=row.missed_scans + 1, last_seen=row.last_seen, now=self._draft.facts.now
        ):
            return []
        if row.ip in self._draft.facts.scope.coverage.confirmed_absent:
            return [row.ip]
        self._draft.plan.absent.append(
            AbsentAsset(asset_id=change.asset.id, subject=change.subject, addresses=(row.ip,), method=row.method)
        )
        return []

    def _primary(self, change: AssetChange, host: Host, held: list[str]) -> None:
        """Keep the primary address while it is held; then the one that answered. It follows the device unless locked."""
        asset = change.asset
        primary = asset.primary_ip
        if held and primary not in held and not self._draft.locked(asset.id, "primary_ip"):
            primary = next((ip for ip in held if ip in host.addresses), held[0])
            change.values["primary_ip"] = primary
        mac = self._draft.own_mac(asset.id, host, primary)
        if mac is None or mac == asset.mac or self._draft.locked(asset.id, "mac"):
            return
        change.values["mac"] = mac
        if asset.mac is None:
            change.learned["mac"] = mac
            return
        quiet = change.values["ephemeral"]
        self._draft.tell(
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
            self._draft.writes.dropped_identifiers += [
                row.id
                for row in self._draft.facts.known.identifiers.get(asset.id, ())
                if row.kind == Kind.MAC and row.value == asset.mac and row.active
            ]
