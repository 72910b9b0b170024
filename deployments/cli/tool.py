"""`signalbox tool`: the tools, listed, explained and run; options come from each tool's parameter model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from deployments.cli._options import command_line, default_of, fields, is_list, parse, singular, takes
from deployments.cli._output import emit_json, emit_table, progress, say, say_fact
from flows._text import count, facts, tables
from tasks.core.errors import InvalidParameters, Refused, Unreachable
from tasks.core.models import SiteParams
from tasks.core.registry import ToolSpec, find_tool, load_tools

app = App(name="tool", help="List, explain and run the tools.", help_format="plaintext")


@app.command(name="list")
def list_tools(*, service: str | None = None, json: bool = False) -> int:
    """List the tools.

    Args:
        service: Only this service: automation, communication, asset or network.
        json: Print one JSON document.
    """
    rows = [
        {
            "tool": spec.name,
            "group": spec.group,
            "safety": str(spec.safety),
            "aliases": list(spec.aliases),
            "what it does": spec.summary,
        }
        for spec in load_tools().values()
        if service is None or str(spec.service) == service.lower()
    ]
    if service is not None and not rows:
        raise InvalidParameters(
            f"There is no service {service!r}.", hint="Services: automation, communication, asset, network."
        )
    if json:
        emit_json(rows)
    else:
        emit_table(rows)
        say(f"\n{count(len(rows), 'tool')}. One of them in full: signalbox tool show NAME")
    return 0


@app.command
def show(name: str, /, *, json: bool = False) -> int:
    """Explain one tool: parameters, examples, safety, deadline.

    Args:
        name: The tool's name or alias, in any spelling.
        json: Print one JSON document, with the JSON schemas.
    """
    spec = find_tool(name)
    if json:
        emit_json(
            {
                "name": spec.name,
                "service": str(spec.service),
                "safety": str(spec.safety),
                "timeout": spec.timeout,
                "retries": spec.retries,
                "aliases": list(spec.aliases),
                "programs": list(spec.programs),
                "approval": spec.approval,
                "documentation": spec.documentation,
                "examples": [{"title": example.title, "params": example.params} for example in spec.examples],
                "parameters": spec.parameter_schema(),
                "result": spec.result_model.model_json_schema(),
            }
        )
        return 0
    aliases = f"  (also: {', '.join(spec.aliases)})" if spec.aliases else ""
    say(f"{spec.name}{aliases}\n\n{spec.documentation}\n")
    programs = f", starts {', '.join(spec.programs)}" if spec.programs else ""
    say(
        f"Service {spec.service}, safety {spec.safety}, deadline {spec.timeout:g} s, "
        f"{count(spec.retries, 'retry', 'retries')}{programs}{', needs --confirm' if spec.approval else ''}\n"
    )
    emit_table(
        [
            {
                "option": "--" + (singular(field) if is_list(schema) else field).replace("_", "-"),
                "takes": takes(schema, definitions) + (", repeatable" if is_list(schema) else ""),
                "default": "required" if required else default_of(schema),
                "what it is": schema.get("description", ""),
            }
            for field, schema, required, definitions in fields(spec)
        ]
    )
    for example in spec.examples:
        say(f"\n{example.title}:\n  signalbox tool run {spec.name} {command_line(spec, example.params)}")
    return 0


@app.command
def runs(
    *,
    tool: str | None = None,
    site: str | None = None,
    state: str | None = None,
    target: str | None = None,
    since: str = "24h",
    limit: int = 50,
    json: bool = False,
) -> int:
    """Show the ledger: who ran what against what, when, allowed by which rule, with which outcome.

    Args:
        tool: Only this tool.
        site: Only this site.
        state: Only runs that stand so: running, completed, failed, refused, timed_out, cancelled, unknown.
        target: Only runs against targets with this part, in any case.
        since: How far back: 30m, 24h, 7d, or a time such as 2026-01-31T12:00.
        limit: Most runs, the newest.
        json: Print one JSON document, with parameters and results.
    """
    from deployments.cli._output import moment
    from tasks.core.ledger import RunFilter, ledger

    wanted = RunFilter(
        tool=find_tool(tool).name if tool else None, site=site, state=state, target=target, since=moment(since)
    )
    found = asyncio.run(ledger().list_runs(wanted, limit))
    rows = [record.model_dump(mode="json") for record in found]
    if json:
        emit_json(rows)
        return 0
    columns = ("updated_at", "tool", "target", "state", "duration_s", "who", "allowed_by", "error_message")
    emit_table(rows[::-1], columns=columns)
    say(f"\n{count(len(rows), 'run')}." if rows else "No tool ran.")
    return 0


# A tool's parameter may be called version, as asset_update's is.
@app.command(help_flags=[], version_flags=[])
def run(name: str, /, *options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run one tool now; `signalbox tool show NAME` lists its options.

    Options of every tool: --json prints one JSON document; --dry-run checks everything and sends nothing.

    Args:
        name: The tool's name or alias, in any spelling.
        options: The tool's own options.
    """
    if name in ("--help", "-h"):
        app(["run"], help_on_error=True)
    spec = find_tool(name)
    asked = parse(spec, options)
    if asked is None:
        return show(spec.name)
    params, as_json, dry_run = asked
    return asyncio.run(_run(spec, params, as_json=as_json, dry_run=dry_run))


def run_quietly(name: str, options: Sequence[str]) -> Any:
    """Run a tool with its command-line options and return its result instead of showing it; None when only help was asked for."""
    spec = find_tool(name)
    asked = parse(spec, options)
    if asked is None:
        show(spec.name)
        return None
    return asyncio.run(_perform(spec, asked[0]))


async def _perform(spec: ToolSpec, params: dict[str, Any]) -> Any:
    """Check, ask the gate a first time (a refusal comes before a run is made), and run."""
    from prefect import tags

    from deployments.automations import TAG
    from flows.run_tool import run_tool
    from tasks.core.tool import note_refusal, validate

    checked = validate(spec, params)
    try:
        await _admit(spec, params)
    except Refused as error:
        await note_refusal(spec, checked, error)
        raise
    progress(f"{spec.name} {checked.about()} ...")
    with tags(TAG, f"service:{spec.service}"):
        return await run_tool(spec.name, checked.model_dump(mode="json"))


async def _admit(spec: ToolSpec, params: dict[str, Any]) -> tuple[Any, Any, Any]:
    from tasks.core import gate
    from tasks.core.run import wiring
    from tasks.core.settings import settings
    from tasks.core.tool import validate

    checked = validate(spec, params)
    site = checked.site if isinstance(checked, SiteParams) and checked.site != "*" else settings().site
    policy = await wiring().policy(site)
    gate.check_safety(spec.safety_of(checked), policy, spec.name)
    scope = checked.scope()
    return checked, policy, await gate.admit(scope, policy) if scope is not None else None


async def _run(spec: ToolSpec, params: dict[str, Any], *, as_json: bool, dry_run: bool) -> int:
    if dry_run:
        return _show_plan(spec, *await _admit(spec, params), as_json=as_json)
    result = await _perform(spec, params)
    status = 0 if result.reached() else Unreachable.exit_status
    if as_json:
        emit_json(result.model_dump(mode="json"))
        return status
    say(result.headline())
    for key, value in facts(result).items():
        say_fact(key, value)
    for title, rows in tables(result):
        say(f"\n{title}")
        emit_table(rows)
    return status


def _show_plan(spec: ToolSpec, checked: Any, policy: Any, grant: Any, *, as_json: bool) -> int:
    from tasks.core.tool import approval_for, check_approval

    addresses = (
        [str(address) for granted in grant.targets for address in granted.addresses or (granted.network,)]
        if grant
        else []
    )
    allowed_by = grant.allowed_by if grant else f"ceiling {policy.ceiling}"
    subject = approval_for(spec, checked)
    confirmed = getattr(checked, "confirm", None)
    if subject is not None and confirmed is not None:
        check_approval(spec, checked)
    if as_json:
        plan = {
            "tool": spec.name,
            "parameters": checked.model_dump(mode="json"),
            "safety": str(spec.safety_of(checked)),
            "allowed_by": allowed_by,
            "approval": subject,
        }
        emit_json({"dry_run": True, **plan, "addresses": addresses})
        return 0
    say(f"Would run {spec.name} ({spec.safety_of(checked)}), allowed by {allowed_by}. Nothing was sent.")
    if addresses:
        say(f"Addresses: {', '.join(addresses)}")
    if subject is not None:
        say("It is approved." if confirmed is not None else f"It needs approval: --confirm {subject!r}")
    return 0
