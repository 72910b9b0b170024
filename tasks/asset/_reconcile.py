"""Bring the inventory of a site up to date with what was seen: one transaction, one at a time for a site.

Load what the batch may concern, put its observations together, match them, decide, write. A preview does all of it and rolls back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection

from tasks.asset._changes import AbsentAsset, Changes, Event, EventKind
from tasks.asset._draft import Plan, Situation, same_value
from tasks.asset._fields import OBSERVED_FIELDS
from tasks.asset._fold import Folded, Host, fold, match_keys
from tasks.asset._identity import Kind, parse_address
from tasks.asset._ladder import Status, SubnetBook
from tasks.asset._match import Matched, Matcher, Merge
from tasks.asset._observation import ObservedHost, ScanCoverage
from tasks.asset._plan import Planner
from tasks.asset._scope import Scope
from tasks.core.db import inventory, merges
from tasks.core.db.engine import Database, database
from tasks.core.db.inventory import AddressRow, Known
from tasks.core.db.sites import ensure_site
from tasks.core.errors import InvalidParameters

TIMEOUT = 120.0
"""Seconds a reconcile may take, waiting for another one of the site included."""
FORGET_VISITORS = timedelta(hours=24)
"""How long a random MAC that showed nothing else is remembered."""

T = TypeVar("T")


class _RollBack(Exception):
    """Carries a result out of a transaction that must not be committed."""

    def __init__(self, result: Any) -> None:
        self.result = result


async def reconcile(
    site: str,
    hosts: Sequence[ObservedHost],
    coverage: ScanCoverage | None = None,
    *,
    run_id: str,
    preview: bool = False,
    now: datetime | None = None,
    db: Database | None = None,
    timeout: float = TIMEOUT,
) -> Changes:
    """Bring the inventory of a site up to date with what was seen, and return what changed.

    All or nothing. Two at once wait for each other. The same observations a second time change nothing.

    Args:
        site: The site; made when it is new.
        hosts: What was seen, in any order; several observations of one host are put together.
        coverage: What the scan did; without it nothing goes missing.
        run_id: The run that saw it: its observations, events and merges carry it.
        preview: Do everything, then roll back: the same change set, nothing written.
        now: The time; for tests and imports.
        db: The database; default: the one of the settings.
        timeout: Seconds it may take.

    Raises:
        InvalidParameters: An observation is of another site.
        DatabaseGone, Busy: The database did not answer, or another reconcile of the site took too long. Nothing was written.
    """
    job = _job(site, hosts, coverage, run_id, now)
    return await _run(db, lambda connection: job(connection).write(preview=preview), preview, timeout)


async def missing_candidates(
    site: str,
    coverage: ScanCoverage,
    hosts: Sequence[ObservedHost] = (),
    *,
    now: datetime | None = None,
    db: Database | None = None,
    timeout: float = TIMEOUT,
) -> list[AbsentAsset]:
    """Return the assets this scan would call missing if a second method agreed. Reads only.

    Ask their addresses by another method than the scan's. What answers is an observation more for `reconcile`; what does not goes
    into `coverage.confirming(...)`. Without that, their silence is counted and nothing is called missing.

    Args:
        site: The site.
        coverage: What the scan did.
        hosts: What it saw.
        now: The time.
        db: The database; default: the one of the settings.
        timeout: Seconds it may take.
    """
    job = _job(site, hosts, coverage, "", now)
    return await _run(db, lambda connection: job(connection).absent(), True, timeout)


def _job(
    site: str, hosts: Sequence[ObservedHost], coverage: ScanCoverage | None, run_id: str, now: datetime | None
) -> Callable[[Connection], _Job]:
    elsewhere = sorted({host.site for host in hosts} - {site})
    if elsewhere:
        raise InvalidParameters(f"The observations are of site {', '.join(elsewhere)}, not of {site!r}.")
    at = now or datetime.now(UTC)
    return lambda connection: _Job(connection, site, list(hosts), coverage or ScanCoverage(), run_id, at)


async def _run(db: Database | None, work: Callable[[Connection], T], roll_back: bool, timeout: float) -> T:
    def in_transaction(connection: Connection) -> T:
        result = work(connection)
        if roll_back:
            raise _RollBack(result)
        return result

    try:
        return await (db or database()).run(in_transaction, timeout=timeout)
    except _RollBack as done:
        result: T = done.result
        return result


class _Job:
    """One reconcile, inside its transaction."""

    def __init__(
        self,
        connection: Connection,
        site: str,
        hosts: list[ObservedHost],
        coverage: ScanCoverage,
        run_id: str,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._site = site
        self._coverage = coverage
        self._run_id = run_id
        self._now = now
        self._site_id = ensure_site(connection, site)
        inventory.lock_site(connection, self._site_id)
        self._book = SubnetBook.from_rows(inventory.load_subnets(connection, self._site_id))
        self._hosts = hosts + self._scanner_itself(hosts)
        self._merges: list[tuple[int, Merge, str, str]] = []

    def _scanner_itself(self, hosts: list[ObservedHost]) -> list[ObservedHost]:
        """The scanner never answers its own ARP: where its own addresses were scanned, it is there."""
        scope = Scope(self._coverage, (), self._book)
        seen = {host.address for host in hosts}
        return [
            ObservedHost(address=ip, method="local", seen_at=self._now, site=self._site)
            for ip in self._coverage.local_addresses
            if ip not in seen and scope.covers(ip) and not parse_address(ip).is_loopback
        ]

    def write(self, *, preview: bool) -> Changes:
        """Decide and write; return what changed."""
        plan, situation, observed = self._decide()
        inventory.forget_random(self._connection, self._site_id, self._now - FORGET_VISITORS)
        events = [*self._merge_events(), *plan.events]
        plan.writes.events = [
            {
                "asset_id": e.asset_id, "kind": e.kind, "subject": e.subject, "ip": e.ip, "field": e.field, "before": e.before,
                "after": e.after, "source": "reconcile", "baseline": e.baseline, "quiet": e.quiet,
            }
            for e in events
        ]  # fmt: skip
        inventory.apply(self._connection, self._site_id, self._run_id, self._now, plan.writes)
        asset_of = plan.asset_of
        if preview:
            # New assets got numbers nobody will ever see again.
            events = [dataclasses.replace(e, asset_id=None) if e.asset_id in plan.new else e for e in events]
            asset_of = {ip: None if asset in plan.new else asset for ip, asset in asset_of.items()}
        matched, scope = situation.matched, situation.scope
        return Changes(
            site=self._site,
            run_id=self._run_id,
            preview=preview,
            baseline=situation.first_scan and bool(scope.networks),
            suspect=scope.suspect,
            silent_networks=scope.silent_networks,
            events=tuple(events),
            asset_of=asset_of,
            seen=len(matched.assets) + len(matched.glimpsed) + len(matched.new),
            unchanged=len(matched.assets.keys() - plan.changed),
            duplicates=observed,
            candidates=len(plan.writes.candidates),
            conflicts=len(plan.writes.conflicts),
            merges=tuple(number for number, *_ in self._merges),
        )

    def absent(self) -> list[AbsentAsset]:
        """Return the assets that would be missing if a second method agreed."""
        return self._decide()[0].absent

    def _decide(self) -> tuple[Plan, Situation, int]:
        connection, site_id = self._connection, self._site_id
        while True:
            virtual = inventory.load_virtual(connection, site_id)
            folded = fold(self._hosts, declared=self._book.networks, virtual=virtual)
            known = self._load(folded)
            candidates = inventory.load_candidates(connection, site_id, _candidate_keys(folded))
            unmerged = inventory.load_unmerged(connection, site_id)
            matched = Matcher(
                folded, known, self._book, candidates=candidates, unmerged=unmerged, now=self._now
            ).match()
            if not matched.merges:
                break
            # Everything is looked at again with the merged asset in place; each round makes the assets fewer.
            self._merge(matched.merges, known)
        inventory.load_services(connection, known, list(matched.assets))
        situation = self._situation(folded, matched, known, virtual, candidates)
        return Planner(situation).plan(), situation, folded.put_together

    def _load(self, folded: Folded) -> Known:
        keys: dict[tuple[str, str], None] = {}
        ips: dict[str, None] = dict.fromkeys(folded.virtual)
        pinned = set()
        for host in folded.hosts:
            keys |= dict.fromkeys(match_keys(host))
            keys |= dict.fromkeys((Kind.MAC.value, mac) for mac in host.told_macs)
            ips |= dict.fromkeys(host.all_addresses)
            if host.pinned is not None:
                pinned.add(host.pinned)
        for duplicate in folded.duplicates:
            ips[duplicate.address] = None
            keys |= dict.fromkeys((Kind.MAC.value, mac) for mac in duplicate.macs)
        return inventory.load_known(
            self._connection,
            self._site_id,
            keys=keys,
            ips=ips,
            prefixes=Scope(self._coverage, (), self._book).networks,
            pinned=pinned,
        )

    def _situation(
        self,
        folded: Folded,
        matched: Matched,
        known: Known,
        virtual: dict[str, AddressRow],
        candidates: dict[tuple[str, str], Any],
    ) -> Situation:
        connection, site_id = self._connection, self._site_id
        answered = {
            o.address
            for o in self._hosts
            if o.address is not None and not o.third_party and o.method != "local" and o.address not in matched.doubtful
        } | {duplicate.address for duplicate in folded.duplicates}
        names = {
            name.lower() for host in folded.hosts for name in (*host.names, *(n.partition(".")[0] for n in host.names))
        }
        names |= {
            a.hostname.lower()
            for i in matched.assets
            if (a := known.assets[i]).status == Status.ARCHIVED and a.hostname
        }
        places = {ip for host in matched.new for ip in host.all_addresses} | folded.virtual.keys()
        places |= {ip for candidate in matched.candidates for host in candidate.hosts for ip in host.addresses}
        return Situation(
            folded=folded,
            matched=matched,
            known=known,
            scope=Scope(self._coverage, answered, self._book),
            book=self._book,
            now=self._now,
            new_ids=inventory.draw_asset_ids(connection, len(matched.new)),
            owners=inventory.load_owners(connection, _contested(matched, known)),
            names=inventory.load_names(connection, site_id, names) if names else {},
            former=inventory.load_former(
                connection, site_id, [key for host in matched.new for key in match_keys(host)]
            ),
            scanned_before=inventory.scanned_before(connection, site_id, sorted(places)),
            first_scan=not inventory.ever_scanned(connection, site_id),
            virtual=virtual,
            known_candidates=candidates,
            known_conflicts=inventory.known_conflicts(connection, site_id, [c.fingerprint for c in matched.conflicts]),
        )

    # --- merges ---

    def _merge(self, wanted: Sequence[Merge], known: Known) -> None:
        became: dict[int, int] = {}

        def now_in(asset_id: int) -> int:
            while asset_id in became:
                asset_id = became[asset_id]
            return asset_id

        for merge in wanted:
            kept, merged = now_in(merge.kept), now_in(merge.merged)
            if kept == merged:
                continue
            number = merges.merge_assets(
                self._connection,
                self._site_id,
                kept,
                merged,
                reason=merge.reason,
                by="reconcile",
                run_id=self._run_id,
                now=self._now,
            )
            became[merged] = kept
            labels = [_label(known, asset_id) for asset_id in (kept, merged)]
            self._merges.append((number, Merge(kept, merged, merge.reason), labels[0], labels[1]))

    def _merge_events(self) -> list[Event]:
        return [
            Event(
                kind=EventKind.MERGED,
                asset_id=merge.kept,
                subject=kept,
                before={"assets": [merge.kept, merge.merged], "names": [kept, merged]},
                after={"asset": merge.kept, "merge": number, "reason": merge.reason},
            )
            for number, merge, kept, merged in self._merges
        ]


def _label(known: Known, asset_id: int) -> str:
    asset = known.assets.get(asset_id)
    return (asset.hostname or asset.primary_ip or asset.mac if asset else None) or f"asset {asset_id}"


def _candidate_keys(folded: Folded) -> list[tuple[str, str]]:
    """Return the keys under which anything in a batch may be a candidate already."""
    keys: dict[tuple[str, str], None] = {("proxy_arp", mac): None for mac in folded.proxies}
    for host in folded.hosts:
        for address in host.addresses:
            keys["icmp_only", address] = keys["third_party", address] = None
            if host.shared_mac:
                keys |= dict.fromkeys(("shared_mac", f"{mac} {address}") for mac in host.macs)
        keys |= dict.fromkeys(("random_mac", mac) for mac in host.macs)
    return list(keys)


def _contested(matched: Matched, known: Known) -> list[int]:
    """Return the assets of which something may change: only for these it matters who said what."""
    return [asset_id for asset_id, host in matched.assets.items() if _differs(known, asset_id, host)]


def _differs(known: Known, asset_id: int, host: Host) -> bool:
    asset = known.assets[asset_id]
    if asset.status != Status.ACTIVE:
        return True
    held = {row.ip for row in known.addresses.get(asset_id, ()) if row.state == "held"}
    if asset.primary_ip not in held or not host.all_addresses <= held or not host.addresses.keys() >= held:
        return True
    if any(mac != asset.mac for mac in host.macs):
        return True
    for key, claim in host.claims.items():
        whole, _, part = key.partition(".")
        current = asset.metadata.get(part) if part else getattr(asset, whole) if whole in OBSERVED_FIELDS else None
        if current != claim.value and (part or not same_value(key, current, claim.value, host)):
            return True
    return False
