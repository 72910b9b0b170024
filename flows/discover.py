"""The main job: discover networks, keep the inventory, tell people.

scope -> sweep -> ports and services of the live hosts only -> enrich -> reconcile -> artifacts -> notify. Sharded: a shard that fails costs
itself and shows in the coverage. What was seen is kept as evidence before anything is made of it, and nothing is called missing but by the
rules of `tasks.asset`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed
from prefect.utilities.annotations import quote
from pydantic import BaseModel, ConfigDict, Field

from blocks.snmp import SnmpCredentials
from flows import _digest, _notify
from flows._announcements import Announced, ask_links, silent_ones, with_announced
from flows._flow_run import quietly, run_identity, skipped_late
from flows._names import Names
from flows._scan import (
    OwnAddress,
    ShardResult,
    Sighting,
    add_own,
    default_gateways,
    observe,
    own_addresses,
    scan_shard,
)
from flows._scope import Plan, Shard, plan_scope
from flows._sentinel import Watch
from flows._sentinel_echo import watching
from flows._text import count
from tasks.asset._changes import Changes, EventKind
from tasks.asset._observation import ObservedHost, ScanCoverage
from tasks.asset._reconcile import missing_candidates, reconcile
from tasks.asset._scan_lease import Overlapping, scan_lease
from tasks.core.errors import InvalidParameters, Refused, ToolError
from tasks.core.log import run_logger
from tasks.core.progress import Progress
from tasks.core.run import wiring
from tasks.network.probe.tcp_port_check import TcpPortCheck, tcp_port_check

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from blocks.policy import ProbePolicy

DEEP_ASKS_ABOVE = 256
"""Addresses of a `deep` discovery that go without `confirm_large`."""
SHARDS_AT_ONCE = 2
"""Shards scanned at the same time: one waits for answers while the other sends; the budget is one for both."""
SHARD_ATTEMPTS = 2
LONGEST_SECONDS = 24 * 3600.0
CONFIRM_PORTS = "22,80,443,445,3389"
"""Ports of the second look at hosts that did not answer: one of them answers, even with a refusal, when the host is there."""

Profile = Literal["quick", "standard", "deep"]


class DiscoverResult(BaseModel):
    """What a discovery did: what CLI, API and tests read.

    Attributes are plain values, so that the result is JSON; the tables are artifacts and the inventory is the database.
    """

    model_config = ConfigDict(frozen=True)

    site: str
    profile: str
    outcome: str = Field(description="Completed, Partial, NoneAnswered, Suspect or Failed.")
    title: str = Field(description="The digest's first line.")
    scanned: list[str] = Field(description="Networks as asked, merged.")
    planned: int = Field(description="Addresses in scope.")
    excluded: int = Field(description="Addresses policy kept out of scope.")
    attempted: int = Field(description="Addresses for which packets were sent.")
    answered: int = Field(description="Addresses that answered.")
    unknown: int = Field(description="Addresses of which nothing is known, because their shard failed.")
    baseline: bool = Field(False, description="The first discovery of these networks: imported quietly.")
    preview: bool = False
    hosts: list[dict[str, str]] = Field(default_factory=list, description="Hosts that answered.")
    events: list[dict[str, str]] = Field(default_factory=list, description="What changed.")
    counts: dict[str, int] = Field(default_factory=dict, description="Events of each kind, quiet ones included.")
    notified: list[str] = Field(default_factory=list, description="Blocks that were told.")
    not_notified: dict[str, str] = Field(default_factory=dict, description="Blocks that could not be told, and why.")
    notes: list[str] = Field(default_factory=list)
    failed_shards: list[str] = Field(default_factory=list)
    duration: float = Field(0.0, description="Seconds.")
    run_id: str = ""
    states: dict[str, str] = Field(
        default_factory=dict, description="Address to what became of it: live, new, changed, missing, candidate."
    )
    picture: str = Field("", description="The address space as an SVG document.", repr=False)
    text: str = Field("", description="The digest as plain text.")


@dataclass
class _Outcome:
    """What came of one shard."""

    shard: Shard
    sightings: list[Sighting] = field(default_factory=list)
    error: str = ""
    complete: bool = True
    unknown: tuple[str, ...] = ()


def _flow_run_name() -> str:
    from prefect.runtime import flow_run

    targets = flow_run.parameters.get("targets")
    what = ", ".join(map(str, targets[:3])) + (" ..." if len(targets) > 3 else "") if targets else "all that is allowed"
    return f"{flow_run.parameters.get('site', 'default')}: {what}"


@flow(name="discover", flow_run_name=_flow_run_name, persist_result=False, timeout_seconds=LONGEST_SECONDS)
async def discover(
    targets: list[str] | None = None,
    site: str = "default",
    profile: Profile = "standard",
    notify: list[str] | None = None,
    notify_when: Literal["changes", "always"] = "changes",
    preview: bool = False,
    overlap: Literal["wait", "skip"] = "wait",
    confirm_large: bool = False,
    snmp: str | None = None,
    announcements: bool = False,
) -> Any:
    """Discover networks, bring the inventory up to date, and tell people what changed.

    Args:
        targets: Networks, addresses or host names; none: all that the site's policy allows.
        site: The site.
        profile: quick (who is there, and names), standard (and the 100 most common ports with what speaks there),
            deep (1,000 ports, and the operating system).
        notify: Blocks that get the digest, such as slack/ops or mail/noc.
        notify_when: Send the digest only when something happened (changes), or after every run (always).
        preview: Probe and show the exact change set, but write nothing to the inventory and tell nobody.
        overlap: When another discovery scans one of these networks: wait for it, or skip this run.
        confirm_large: A deep discovery of more than 256 addresses needs this.
        snmp: Block with the site's SNMP credentials, such as snmp/core: live hosts are asked who they are, which addresses are theirs,
            and for serials. Without one SNMP is not spoken; communities are never guessed. Not with quick.
        announcements: Ask everybody on our own links that are wholly in scope, by mDNS and SSDP, what they are: names and services of
            hosts, hosts that answer nothing else, and Axis devices behind a MAC of somebody else's.

    Raises:
        InvalidParameters: A parameter is wrong; says which and what is right. Nothing was sent.
        Refused: Policy forbids it; says the rule. Nothing was sent.
    """
    if (skipped := skipped_late()) is not None:
        return skipped
    try:
        report, result = await _discover(
            targets,
            site,
            profile,
            list(notify or []),
            notify_when,
            preview,
            overlap,
            confirm_large,
            snmp,
            announcements,
        )
    except Overlapping as error:
        if overlap == "wait":
            raise
        # Skipped as asked is no failure: nobody need be woken by it.
        return Cancelled(name="SkippedOverlap", message=str(error))
    return _final_state(report, result)


def _final_state(report: _digest.Report, result: DiscoverResult) -> State[Any]:
    """Say the truth in the run's final state."""
    message = _digest.title(report)
    if report.outcome == "Completed":
        return Completed(data=result, message=message)
    if report.outcome in ("Partial", "NoneAnswered"):
        return Completed(name=report.outcome, data=result, message=" ".join([*_digest.warnings(report)[:1], message]))
    return Failed(
        name=None if report.outcome == "Failed" else report.outcome,
        data=result,
        message=" ".join([message, *_digest.warnings(report)[:1]]),
    )


async def _discover(
    targets: list[str] | None,
    site: str,
    profile: Profile,
    notify: list[str],
    notify_when: str,
    preview: bool,
    overlap: str,
    confirm_large: bool,
    snmp: str | None,
    announcements: bool,
) -> tuple[_digest.Report, DiscoverResult]:
    started = time.monotonic()
    policy = await wiring().policy(site)
    plan = await plan_scope(targets, policy)
    await _notify.check_blocks(notify)
    if snmp:
        await wiring().block(snmp, SnmpCredentials)
    if profile == "deep" and plan.addresses > DEEP_ASKS_ABOVE and not confirm_large:
        raise Refused(
            f"A deep discovery of {plan.addresses} addresses takes long and touches much.",
            hint="If that is what you want: confirm_large (--yes).",
        )
    run_id, url = run_identity()
    run_logger().info(
        "Scope: %s in %s; %s",
        count(plan.addresses, "address", "addresses"),
        count(len(plan.shards), "shard"),
        _predicted(plan, profile, policy),
    )
    own = await own_addresses()
    here = [item.address for item in own]
    async with scan_lease(site, plan.asked, run_id, wait=overlap == "wait"), watching(site, plan.asked, here) as watch:
        announced = await ask_links(plan, site) if announcements else Announced()
        outcomes = await _scan_all(plan, site, profile, Names(site, known=here), watch, snmp, announced)
    sightings = [sighting for outcome in outcomes for sighting in outcome.sightings]
    sightings = with_announced(add_own(sightings, own, plan.shards), announced)
    enriched = observe(sightings, plan, site)
    coverage = _coverage(plan, outcomes, sightings, own)
    # This machine answers itself also when its cable is out; where nobody else is in scope, that is all there is to hear.
    answered = bool(coverage.answered) or len(sightings) == plan.addresses
    # Quoted: Prefect would look for futures in every field of thousands of hosts. It takes the quotes off before the task starts.
    quoted: Any = quote(enriched)
    changes = await _reconcile(site, quoted, coverage, run_id, preview)
    report = _digest.Report(
        site=site,
        profile=profile,
        outcome=_outcome(outcomes, answered, answered or await _link_is_up(site, policy)),
        scanned=plan.asked,
        planned=plan.addresses,
        excluded=sum(ipaddress.ip_network(text).num_addresses for text in plan.excluded),
        attempted=sum(
            network.num_addresses
            for outcome in outcomes
            if outcome.complete or not outcome.error  # swept to the end, though the ports were not
            for network in outcome.shard.networks
        ),
        answered=len({sighting.address for sighting in sightings}),
        failed_shards=tuple(f"{outcome.shard.label}: {outcome.error}" for outcome in outcomes if outcome.error),
        hosts=tuple(_live_hosts(sightings, enriched, changes)),
        changes=changes,
        notes=tuple(
            dict.fromkeys(
                [
                    *plan.notes,
                    *watch.notes,
                    *announced.notes,
                    *silent_ones(sightings, plan, announced),
                    *(note for sighting in sightings for note in sighting.notes),
                ]
            )
        ),
        duration=time.monotonic() - started,
        preview=preview,
        url=url,
    )
    await _publish(report)
    deliveries = await _tell(report, notify, notify_when, run_id)
    return report, _result(report, deliveries, run_id)


def _predicted(plan: Plan, profile: Profile, policy: ProbePolicy) -> str:
    from tasks.network.scan.nmap import predict

    cost = predict("sweep", plan.addresses, packets_per_second=policy.packets_per_second)
    return f"the sweep sends at most {cost.packets} packets in about {cost.seconds:.0f} s"


async def _scan_all(
    plan: Plan, site: str, profile: Profile, names: Names, watch: Watch, snmp: str | None, announced: Announced
) -> list[_Outcome]:
    """Scan every shard, two at a time; a failure costs its shard."""
    places = asyncio.Semaphore(SHARDS_AT_ONCE)
    done = 0
    progress = Progress("progress", every=0)
    await progress.tell(0.0, f"0 of {count(len(plan.shards), 'shard')}")

    async def one(shard: Shard) -> _Outcome:
        nonlocal done
        async with places:
            at_once = min(SHARDS_AT_ONCE, len(plan.shards))
            outcome = await _scan_one(shard, site, profile, names, watch, at_once, snmp, announced)
        done += 1
        await progress.tell(100.0 * done / len(plan.shards), f"{done} of {count(len(plan.shards), 'shard')}")
        return outcome

    return list(await asyncio.gather(*(one(shard) for shard in plan.shards)))


async def _scan_one(
    shard: Shard,
    site: str,
    profile: Profile,
    names: Names,
    watch: Watch,
    at_once: int,
    snmp: str | None,
    announced: Announced,
) -> _Outcome:
    def scan() -> Coroutine[Any, Any, ShardResult]:
        slower = at_once * watch.slowdown
        return scan_shard(
            shard, site, profile, names, at_once=slower, snmp=snmp, announced=announced.facts, answered=watch.suggest
        )

    for attempt in range(1, SHARD_ATTEMPTS + 1):
        try:
            found = await watch.steady(scan)
            return _Outcome(shard, found.sightings, complete=found.complete, unknown=found.unknown, error=found.error)
        except (Refused, InvalidParameters) as error:
            return _Outcome(shard, error=str(error), complete=False)
        except ToolError as error:
            run_logger().warning("Shard %s, attempt %d: %s", shard.label, attempt, error)
            problem = str(error)
        except Exception as error:  # noqa: BLE001  it is logged whole
            # A defect of ours: the traceback goes to the log, and the other shards go on.
            run_logger().exception("Shard %s, attempt %d", shard.label, attempt)
            problem = f"{type(error).__name__}, see the run's log"
    return _Outcome(shard, error=problem, complete=False)


def _coverage(
    plan: Plan, outcomes: Sequence[_Outcome], sightings: Sequence[Sighting], own: Sequence[OwnAddress]
) -> ScanCoverage:
    def networks(chosen: Sequence[_Outcome]) -> tuple[str, ...]:
        return tuple(str(network) for outcome in chosen for network in outcome.shard.networks)

    return ScanCoverage(
        planned=plan.asked,
        excluded=plan.excluded,
        attempted=networks([outcome for outcome in outcomes if not outcome.error]),
        finished=networks([outcome for outcome in outcomes if outcome.complete and not outcome.error]),
        methods=tuple(sorted({sighting.method for sighting in sightings} - {"local"})),
        answered=len({sighting.address for sighting in sightings if sighting.method != "local"}),
        local_addresses=tuple(item.address for item in own),
        unknown=tuple(address for outcome in outcomes for address in outcome.unknown),
    )


def _outcome(outcomes: Sequence[_Outcome], answered: bool, link_up: bool) -> _digest.Outcome:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed and not answered and all(not outcome.complete for outcome in failed) and len(failed) == len(outcomes):
        return "Failed"
    if failed:
        return "Partial"
    if not answered:
        return "NoneAnswered" if link_up else "Suspect"
    return "Completed"


async def _link_is_up(site: str, policy: ProbePolicy) -> bool:
    """Whether the network works although nothing answered: the default gateway does, where policy lets us ask it."""
    from tasks.network.probe.ping import Ping, ping

    gateways = [
        address
        for address in await default_gateways()
        if any(ipaddress.ip_address(address) in ipaddress.ip_network(entry) for entry in policy.allow)
    ]
    if not gateways:
        return False
    try:
        answer = await ping(Ping(targets=gateways, count=2, site=site))
    except ToolError:
        return False
    return any(host.received for host in answer.hosts)


@task(name="reconcile", cache_policy=NO_CACHE, persist_result=False)
async def _reconcile(site: str, hosts: Sequence[Any], coverage: ScanCoverage, run_id: str, preview: bool) -> Changes:
    """Bring the inventory up to date in one transaction; what did not answer is asked a second way before it is called missing."""
    absent = await missing_candidates(site, coverage, hosts)
    addresses = [address for asset in absent for address in asset.addresses]
    confirmed = await _confirm_absent(site, addresses) if addresses else frozenset()
    return await reconcile(site, hosts, coverage.confirming(confirmed), run_id=run_id, preview=preview)


async def _confirm_absent(site: str, addresses: Sequence[str]) -> frozenset[str]:
    """Ask hosts that did not answer the scan by another method, full TCP connects; return those that are silent there too."""
    silent: set[str] = set()
    for start in range(0, len(addresses), 256):
        batch = list(addresses[start : start + 256])
        try:
            answer = await tcp_port_check(TcpPortCheck(targets=batch, ports=CONFIRM_PORTS, site=site))
        except ToolError as error:
            run_logger().warning(
                "The second look at %s failed: nothing there is called missing. %s", count(len(batch), "host"), error
            )
            continue
        silent |= {
            host.target
            for host in answer.hosts
            if host.ports and all(port.state in ("filtered", "unreachable") for port in host.ports)
        }
    return frozenset(silent)


def _live_hosts(
    sightings: Sequence[Sighting], enriched: Sequence[ObservedHost], changes: Changes | None
) -> list[_digest.LiveHost]:
    asset_of: Mapping[str, int | None] = changes.asset_of if changes is not None else {}
    # In a preview a new asset has no number yet; that makes it no candidate.
    new = {event.ip for event in changes.of_kind(EventKind.NEW)} if changes is not None else set()
    names: dict[str | None, tuple[str, ...]] = {}
    told: dict[tuple[str | None, str], str] = {}
    for host in enriched:
        names[host.address] = (*names.get(host.address, ()), *host.hostnames)
        for what, said in (("mac", host.mac), ("vendor", host.vendor), ("model", host.model)):
            if said:
                told.setdefault((host.address, what), said)
    hosts = [
        _digest.LiveHost(
            address=sighting.address,
            name=next(iter(names.get(sighting.address) or sighting.hostnames), ""),
            mac=sighting.mac or told.get((sighting.address, "mac"), ""),
            vendor=sighting.vendor or told.get((sighting.address, "vendor"), ""),
            model=told.get((sighting.address, "model"), ""),
            services=tuple(service.label for service in sighting.services),
            asset_id=asset_of.get(sighting.address),
            candidate=asset_of.get(sighting.address) is None and sighting.address not in new,
        )
        for sighting in sightings
    ]
    return sorted(
        hosts, key=lambda host: (ipaddress.ip_address(host.address).version, ipaddress.ip_address(host.address))
    )


async def _publish(report: _digest.Report) -> None:
    """Put the summary and the tables on the run page. A server that cannot take an artifact does not undo a discovery."""
    prefix = "preview-" if report.preview else ""
    await quietly(
        acreate_markdown_artifact(
            key=f"{prefix}discovery", markdown=_digest.markdown(report), description=_digest.title(report)
        )
    )
    tables: list[tuple[str, list[dict[str, str]]]] = [
        ("hosts", _digest.host_rows(report.hosts)),
        ("new", _digest.event_rows(report.new)),
        ("changed", _digest.event_rows(report.changed)),
        ("missing", _digest.event_rows(report.gone)),
    ]
    for key, rows in tables:
        if rows:
            await quietly(
                acreate_table_artifact(
                    key=prefix + key, table=[dict(row) for row in rows[:500]], description=f"{key}: {len(rows)}"
                )
            )


async def _tell(report: _digest.Report, notify: Sequence[str], notify_when: str, run_id: str) -> list[_notify.Delivery]:
    """Send the digest once through each block, and what earlier runs could not deliver."""
    if report.preview:
        return []
    message = None if notify_when == "changes" and not report.worth_telling else _message(report, run_id)
    return await _notify.tell(message, notify, site=report.site, run_id=run_id)


def _message(report: _digest.Report, run_id: str) -> _notify.Message:
    return _notify.Message(
        title=_digest.title(report),
        text=_digest.text(report),
        html=_digest.html(report),
        facts={
            "Site": report.site,
            "Scanned": ", ".join(report.scanned[:4]),
            "Answered": f"{report.answered} of {report.planned}",
            "New": str(len(report.new)),
            "Changed": str(len(report.changed)),
            "Gone": str(len(report.gone)),
        },
        url=report.url,
        data={
            "event": "discovery",
            "site": report.site,
            "outcome": report.outcome,
            "counts": dict(report.changes.counts) if report.changes else {},
            "changes": _digest.event_rows(report.loud[:200]),
        },
        key=f"discover-{run_id}",
    )


def _result(report: _digest.Report, deliveries: Sequence[_notify.Delivery], run_id: str) -> DiscoverResult:
    return DiscoverResult(
        site=report.site,
        profile=report.profile,
        outcome=report.outcome,
        title=_digest.title(report),
        scanned=list(report.scanned),
        planned=report.planned,
        excluded=report.excluded,
        attempted=report.attempted,
        answered=report.answered,
        unknown=report.planned - report.attempted,
        baseline=bool(report.first_found),
        preview=report.preview,
        hosts=_digest.host_rows(report.hosts),
        events=_digest.event_rows(report.loud),
        counts=dict(report.changes.counts) if report.changes else {},
        notified=[delivery.block for delivery in deliveries if delivery.sent],
        not_notified={delivery.block: delivery.error for delivery in deliveries if not delivery.sent},
        notes=list(report.notes),
        failed_shards=list(report.failed_shards),
        duration=report.duration,
        run_id=run_id,
        states=_digest.states(report),
        picture=_digest.picture(report),
        text=_digest.text(report),
    )
