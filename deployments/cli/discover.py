"""`signalbox discover`: the main job, from the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from deployments.cli._output import complain, emit_json, emit_table, progress, say
from tasks.core.settings import settings
from tasks.core.words import count


def discover(
    *targets: str,
    site: str | None = None,
    profile: Literal["quick", "standard", "deep"] = "standard",
    notify: Annotated[list[str] | None, Parameter(negative=())] = None,
    always: bool = False,
    preview: bool = False,
    dry_run: bool = False,
    skip_overlap: bool = False,
    yes: bool = False,
    snmp: str | None = None,
    announcements: bool = False,
    picture: Path | None = None,
    json: bool = False,
) -> int:
    """Discover networks, bring the inventory up to date, show what is there and what changed.

    Args:
        targets: Networks, addresses or names; none: all that policy allows.
        site: The site; default: this machine's.
        profile: quick: who is there. standard: and common services. deep: 1,000 ports and the operating system.
        notify: Block that gets the digest, such as slack/ops or mail/noc; may be repeated.
        always: Send the digest even when nothing happened.
        preview: Probe and show the exact change set, but write nothing and tell nobody.
        dry_run: Send nothing at all: check the scope and say what it would cost.
        skip_overlap: Give up when another discovery scans one of these networks, instead of waiting.
        yes: Go ahead with a deep discovery of more than 256 addresses.
        snmp: Block with SNMP credentials, such as snmp/core, to ask live hosts who they are; without one SNMP is not spoken.
        announcements: Ask all on our own links in scope, by mDNS and SSDP, what they are; Axis devices are then asked for more.
        picture: Write the address space as an SVG picture to this file.
        json: Print one JSON document.
    """
    name = site or settings().site
    if dry_run:
        return asyncio.run(_plan(list(targets) or None, name, as_json=json))
    parameters: dict[str, Any] = {
        "targets": list(targets) or None,
        "site": name,
        "profile": profile,
        "notify": notify or [],
        "notify_when": "always" if always else "changes",
        "preview": preview,
        "overlap": "skip" if skip_overlap else "wait",
        "confirm_large": yes,
        "snmp": snmp,
        "announcements": announcements,
    }
    state = asyncio.run(run(parameters))
    return show(state, as_json=json, picture=picture)


async def run(parameters: dict[str, Any]) -> Any:
    """Run the flow here, and return its final state."""
    from prefect import tags

    from deployments.automations import TAG
    from flows.discover import discover as flow

    progress(f"Discovering {', '.join(parameters['targets'] or ['all that policy allows'])} ...")
    # The tag is what automations go by; a deployment has it in prefect.yaml.
    with tags(TAG, "discover"):
        return await flow(**parameters, return_state=True)


def show(state: Any, *, as_json: bool = False, picture: Path | None = None) -> int:
    """Show a discovery's result; return the exit status."""
    from flows.discover import DiscoverResult

    result = getattr(
        state.data, "result", state.data
    )  # Prefect wraps what a flow returns, even when nothing is persisted
    if not isinstance(result, DiscoverResult):
        error = result if isinstance(result, BaseException) else None
        if error is not None:
            raise error
        return complain(state.message or state.name, status=1)
    if picture is not None:
        picture.write_text(result.picture)
    if as_json:
        emit_json(result.model_dump(mode="json", exclude={"picture", "text"}))
    else:
        if result.hosts:
            emit_table(result.hosts)
            say()
        say(result.text.rstrip())
        for block, why in result.not_notified.items():
            say(f"! {block} was not told: {why}")
        if result.notified:
            say(f"Told: {', '.join(result.notified)}")
    return 0 if result.outcome in ("Completed", "NoneAnswered") and not result.not_notified else 1


async def _plan(targets: list[str] | None, site: str, *, as_json: bool) -> int:
    from flows._scope import plan_scope
    from tasks.core.run import wiring
    from tasks.network.scan.nmap import predict

    policy = await wiring().policy(site)
    plan = await plan_scope(targets, policy)
    cost = predict(
        "services",
        plan.addresses,
        packets_per_second=policy.packets_per_second,
        host_packets_per_second=policy.host_packets_per_second,
    )
    data = {
        "dry_run": True,
        "scope": list(plan.asked),
        "addresses": plan.addresses,
        "excluded": list(plan.excluded),
        "shards": len(plan.shards),
        "allowed_by": plan.allowed_by,
        "most_packets": cost.packets,
        "most_seconds": cost.seconds,
        "notes": list(plan.notes),
    }
    if as_json:
        emit_json(data)
        return 0
    addresses, shards = count(plan.addresses, "address", "addresses"), count(len(plan.shards), "shard")
    say(f"Would discover {', '.join(plan.asked)}: {addresses} in {shards}, allowed by {plan.allowed_by}.")
    say(
        f"If every address were alive: at most {count(cost.packets, 'packet')} and {cost.seconds:.0f} s. Nothing was sent."
    )
    for note in plan.notes:
        say(f"Note: {note}")
    return 0
