"""`signalbox policy`: what a site allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App
from pydantic import ValidationError

from deployments.cli._output import emit_json, emit_table, say
from tasks.core.errors import InvalidParameters
from tasks.core.models import format_ports, parse_ports
from tasks.core.settings import settings

if TYPE_CHECKING:
    from blocks.policy import ProbePolicy

app = App(name="policy", help="Show and change what a site allows.", help_format="plaintext")


def _change(site: str | None, edit: Callable[[dict[str, Any]], None]) -> ProbePolicy:
    """Load the site's policy, edit its fields, check the whole, save it."""
    from blocks.policy import ProbePolicy
    from tasks.core.rate import ensure_budget
    from tasks.core.run import wiring

    async def work() -> ProbePolicy:
        name = site or settings().site
        fields = (await wiring().policy(name)).model_dump(mode="json", exclude={"block_type_slug"})
        edit(fields)
        try:
            policy = ProbePolicy.model_validate(
                {key: value for key, value in fields.items() if key in ProbePolicy.model_fields}
            )
        except ValidationError as error:
            raise InvalidParameters(
                "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors()) + "."
            ) from None
        await policy.save(name, overwrite=True)
        await ensure_budget(name, policy.packets_per_second)
        await _keep_nightly(name, policy)
        return policy

    return asyncio.run(work())


async def _keep_nightly(site: str, policy: ProbePolicy) -> None:
    """Resume the nightly discovery once a network is allowed, pause it when none is: it has nothing to do before."""
    import ipaddress

    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    if site != settings().site:
        return
    wanted = any(not ipaddress.ip_network(entry).is_loopback for entry in policy.allow)
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name("discover/nightly")
        except ObjectNotFound:
            return
        for schedule in deployment.schedules:
            if schedule.active != wanted:
                await client.update_deployment_schedule(deployment.id, schedule.id, active=wanted)
                say(f"discover/nightly {'resumed' if wanted else 'paused'}.")


@app.command
def show(*, site: str | None = None, json: bool = False) -> int:
    """Show what a site allows.

    Args:
        site: The site; default: this machine's.
        json: Print one JSON document.
    """
    from blocks.policy import ProbePolicy
    from tasks.core.run import wiring

    name = site or settings().site
    policy = asyncio.run(wiring().policy(name))
    fields = {key: value for key, value in policy.model_dump(mode="json").items() if key in ProbePolicy.model_fields}
    if json:
        emit_json({"site": name, **fields})
        return 0
    exclusions = fields.pop("exclude")
    emit_table(
        [
            {"what": key.replace("_", " "), "site " + name: value if value not in ([], "") else "none"}
            for key, value in fields.items()
        ]
    )
    if exclusions:
        say("\nNever probed:")
        emit_table(exclusions)
    return 0


@app.command
def allow(*prefixes: str, site: str | None = None, egress: bool = False, remove: bool = False) -> int:
    """Allow networks or addresses to be probed.

    Args:
        prefixes: Such as 192.168.1.0/24 or 192.168.1.7.
        site: The site; default: this machine's.
        egress: Allow them as the address of a URL given as a parameter instead (webhook).
        remove: No longer allow them.
    """
    field = "egress_allow" if egress else "allow"
    policy = _change(site, lambda fields: _edit(fields, field, prefixes, remove))
    say(f"{'URLs may reach' if egress else 'Allowed'}: {', '.join(getattr(policy, field)) or 'nothing'}")
    return 0


@app.command
def exclude(*prefixes: str, reason: str = "", site: str | None = None, remove: bool = False) -> int:
    """Never probe these networks or addresses, whatever is allowed.

    Args:
        prefixes: Such as 192.168.1.128/25.
        reason: Why; every refusal repeats it.
        site: The site; default: this machine's.
        remove: No longer exclude them.
    """
    if not prefixes:
        raise InvalidParameters(
            "Name what is to be excluded.",
            hint='For example: signalbox policy exclude 10.0.5.0/24 --reason "heart monitors"',
        )
    if not remove and not reason.strip():
        raise InvalidParameters(
            "Say why: every refusal repeats it.", hint='For example: --reason "heart monitors, ask the clinic"'
        )
    wanted = [_canonical(prefix) for prefix in prefixes]

    def edit(fields: dict[str, Any]) -> None:
        known = {entry["target"] for entry in fields["exclude"]}
        if remove and (unknown := [target for target in wanted if target not in known]):
            raise InvalidParameters(f"{', '.join(unknown)} is not excluded.", hint="See: signalbox policy show")
        kept = [entry for entry in fields["exclude"] if entry["target"] not in wanted]
        fields["exclude"] = kept if remove else kept + [{"target": target, "reason": reason} for target in wanted]

    policy = _change(site, edit)
    say("Never probed: " + ("; ".join(f"{entry.target} ({entry.reason})" for entry in policy.exclude) or "nothing"))
    return 0


@app.command
def ports(*, open: str | None = None, close: str | None = None, site: str | None = None) -> int:
    """Change which ports are never touched.

    Args:
        open: Ports that may be touched from now on, such as 9100 or 9100-9107.
        close: Ports never to be touched from now on.
        site: The site; default: this machine's.
    """
    if (open is None) == (close is None):
        raise InvalidParameters(
            "Give --open PORTS or --close PORTS.", hint="For example: signalbox policy ports --open 9100"
        )

    def edit(fields: dict[str, Any]) -> None:
        try:
            now = {port for entry in fields["never_ports"] for port in parse_ports(entry)}
            now = now - set(parse_ports(open)) if open is not None else now | set(parse_ports(close))
        except ValueError as error:
            raise InvalidParameters(f"{error}.") from None
        fields["never_ports"] = format_ports(now).split(",") if now else []

    policy = _change(site, edit)
    say(f"Never touched: {', '.join(policy.never_ports) or 'none: every port may be probed'}")
    return 0


@app.command
def ceiling(level: Literal["read", "probe", "change", "destroy"], /, *, site: str | None = None) -> int:
    """Set the most a tool may do: read < probe < change < destroy.

    Args:
        level: The highest safety level that is allowed.
        site: The site; default: this machine's.
    """
    say(f"Ceiling: {_change(site, lambda fields: fields.update(ceiling=level)).ceiling}")
    return 0


@app.command
def max_addresses(number: int, /, *, site: str | None = None) -> int:
    """Set the most addresses one run may probe.

    Args:
        number: How many addresses.
        site: The site; default: this machine's.
    """
    say(f"Most addresses of one run: {_change(site, lambda fields: fields.update(max_addresses=number)).max_addresses}")
    return 0


@app.command
def rate(packets_per_second: int, /, *, host: int | None = None, site: str | None = None) -> int:
    """Set the packet budget of a site, one for all its runs and workers.

    Args:
        packets_per_second: Packets per second of the whole site.
        host: Packets per second to any one host, at most the site's; 0 for no cap (laboratories only). It stays as it is, or goes
            down with the site's.
        site: The site; default: this machine's.
    """

    def edit(fields: dict[str, Any]) -> None:
        fields["packets_per_second"] = packets_per_second
        cap = min(fields["host_packets_per_second"], packets_per_second)
        fields["host_packets_per_second"] = cap if host is None else host

    policy = _change(site, edit)
    say(
        f"Packets per second: {policy.packets_per_second} for the site, {policy.host_packets_per_second or 'no cap'} per host"
    )
    return 0


@app.command
def allow_program(*names: str, site: str | None = None, remove: bool = False) -> int:
    """Allow shell_command to run local programs.

    Args:
        names: Names found in PATH, or absolute paths.
        site: The site; default: this machine's.
        remove: No longer allow them.
    """
    policy = _change(site, lambda fields: _edit(fields, "programs", names, remove, canonical=str))
    say(f"Programs: {', '.join(policy.programs) or 'none'}")
    return 0


@app.command
def masscan(state: Literal["on", "off"], /, *, site: str | None = None) -> int:
    """Say whether masscan may be used at all; it is off unless turned on.

    Args:
        state: on or off.
        site: The site; default: this machine's.
    """
    policy = _change(site, lambda fields: fields.update(masscan=state == "on"))
    say(f"masscan: {'on, within the allowed networks and the packet budget' if policy.masscan else 'off'}")
    return 0


@app.command
def alert_to(*blocks: str) -> int:
    """Say who is told when a run fails, crashes or hangs, or no worker is left; no names: nobody.

    Args:
        blocks: Names of message blocks, such as slack/ops or mail/noc.
    """
    from deployments.automations import alert_to as tell

    for line in asyncio.run(tell(blocks)):
        say(line)
    return 0


def _canonical(prefix: str) -> str:
    from tasks.core.models import parse_network

    try:
        return str(parse_network(prefix))
    except ValueError as error:
        raise InvalidParameters(f"{error}.") from None


def _edit(
    fields: dict[str, Any], name: str, values: Sequence[str], remove: bool, canonical: Callable[[str], str] = _canonical
) -> None:
    """Add entries to a list field, or take them out."""
    if not values:
        raise InvalidParameters("Name at least one.", hint="For example: signalbox policy allow 192.168.1.0/24")
    wanted = [canonical(value) for value in values]
    unknown = [value for value in wanted if value not in fields[name]]
    if remove and unknown:
        raise InvalidParameters(f"{', '.join(unknown)} is not in the list.", hint="See: signalbox policy show")
    fields[name] = [value for value in fields[name] if value not in wanted] if remove else fields[name] + unknown
