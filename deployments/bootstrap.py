"""Bring a Prefect server to the state signalbox needs. Safe to run again: it changes only what differs.

Block types and default blocks, the work pool with a queue per service, packet budgets, the deployments of `prefect.yaml`, a `run-tool`
deployment per tool, and the automations that raise the alarm. `signalbox up` runs it as `python -m deployments.bootstrap`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.automations import ensure_automations
from deployments.catalogue import block_classes
from flows.maintain import put_in_order
from tasks.core.errors import CommandFailed, ToolError
from tasks.core.models import Service
from tasks.core.registry import ToolSpec, load_tools
from tasks.core.settings import settings

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import PrefectClient

POOL = "signalbox"
RUN_COMMAND = "python -m prefect.engine"
"""Starts a run in one process. Without it Prefect starts Python twice, first to look for a workspace with dependencies of its own: three
seconds more for each run, and half as much again of computing."""
PREFECT_YAML = Path(__file__).resolve().parent.parent / "prefect.yaml"
DIGEST_VARIABLE = "signalbox_bootstrap"
"""Prefect variable that says which version of all this the server has, so that an unchanged one is left alone."""


async def bootstrap(*, force: bool = False) -> list[str]:
    """Bring the server at PREFECT_API_URL up to date; return what was done, a line each.

    Args:
        force: Do all of it even when the server says it is up to date.

    Raises:
        CommandFailed: `prefect deploy` did not accept prefect.yaml.
    """
    from prefect.client.orchestration import get_client
    from prefect.variables import Variable

    digest = _digest()
    if not force and await Variable.aget(DIGEST_VARIABLE) == digest:
        async with get_client() as client:
            # The blocks they send through may have been changed in the UI.
            return ["Prefect server: up to date", *await ensure_automations(client)]
    done = []
    for kind in block_classes():
        await kind.aregister_type_and_schema()
    done.append(f"block types: {', '.join(str(kind._block_type_name) for kind in block_classes())}")
    done += await _ensure_blocks()
    async with get_client() as client:
        await _ensure_pool(client)
        done.append(f"work pool {POOL}: queues {', '.join(Service)}")
        switches = await _schedule_switches(client)
        # Side by side: Prefect's command spends its time with its own start. No task group, which would wrap what went wrong.
        _, count = await asyncio.gather(_deploy_file(), _ensure_tool_deployments(client))
        await _restore_schedules(client, switches)
        done.append(f"deployments: prefect.yaml and run-tool for {count} tools")
        done += await ensure_automations(client)
    await Variable.aset(DIGEST_VARIABLE, digest, overwrite=True)
    return done


def _digest() -> str:
    """Identify everything this module writes to the server."""
    tools = {
        name: [spec.documentation, str(spec.service), str(spec.safety), spec.parameter_schema()]
        for name, spec in load_tools().items()
    }
    kinds = [kind.model_json_schema() for kind in block_classes()]
    own = [
        Path(module).read_text() for module in (__file__, sys.modules["deployments.automations"].__file__ or __file__)
    ]
    text = json.dumps([version("signalbox"), PREFECT_YAML.read_text(), tools, kinds, own], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


async def _ensure_blocks() -> list[str]:
    """Make the default blocks that are missing; one that exists is the operator's."""
    from blocks.captures import CaptureStore
    from blocks.policy import ProbePolicy
    from tasks.core.rate import ensure_budget
    from tasks.core.run import load_or_none

    made = []
    site = settings().site
    policy = await load_or_none(ProbePolicy, site)
    if policy is None:
        policy = ProbePolicy()
        await policy.save(site)
        made.append(f"block policy/{site}: loopback only")
    await ensure_budget(site, policy.packets_per_second)
    if await load_or_none(CaptureStore, site) is None:
        await CaptureStore(folder=settings().evidence_folder).save(site)
        made.append(f"block captures/{site}: {settings().evidence_folder}")
    return made


async def _ensure_pool(client: PrefectClient) -> None:
    """Make the process work pool and a queue per service, so that a worker can serve one service alone."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        template = (await client.read_work_pool(POOL)).base_job_template
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        # True would end a run at its next log line when its worker goes away (reference: Prefect measured, section 2).
        template["variables"]["properties"]["stream_output"]["default"] = False
        template["variables"]["properties"]["command"]["default"] = RUN_COMMAND
        await client.create_work_pool(
            WorkPoolCreate(
                name=POOL, type="process", base_job_template=template, description="Runs signalbox on this machine."
            )
        )
    else:
        command = template.get("variables", {}).get("properties", {}).get("command")
        if command is not None and not command.get("default"):
            command["default"] = RUN_COMMAND
            await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
    for service in Service:
        with suppress(ObjectAlreadyExists):
            await client.create_work_queue(
                name=str(service), description=f"Runs of the {service} tools.", work_pool_name=POOL
            )


async def _deploy_file() -> None:
    """Apply prefect.yaml with Prefect's own command, the one its file format is defined by."""
    import os

    from tasks.core.process import run_command

    passed = {name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "SIGNALBOX_"))}
    program = str(Path(sys.executable).with_name("prefect"))
    try:
        await run_command(
            [program, "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_YAML)],
            timeout=120,
            env={**passed, "NO_COLOR": "1"},
            cwd=PREFECT_YAML.parent,
        )
    except CommandFailed as error:
        raise CommandFailed("Prefect did not accept prefect.yaml.", hint=str(error)) from None


async def _schedule_switches(client: PrefectClient) -> dict[tuple[UUID, str], bool]:
    """Which schedules are on, by deployment and slug."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["signalbox"]))
    return {
        (deployment.id, schedule.slug): schedule.active
        for deployment in await client.read_deployments(deployment_filter=ours)
        for schedule in deployment.schedules
        if schedule.slug
    }


async def _restore_schedules(client: PrefectClient, before: dict[tuple[UUID, str], bool]) -> None:
    """Leave schedules on or off as they were: prefect.yaml says how they begin, policy and operators have switched them since."""
    for (deployment, slug), active in (await _schedule_switches(client)).items():
        wanted = before.get((deployment, slug), active)
        if wanted != active:
            for schedule in await client.read_deployment_schedules(deployment):
                if schedule.slug == slug:
                    await client.update_deployment_schedule(deployment, schedule.id, active=wanted)


async def _ensure_tool_deployments(client: PrefectClient) -> int:
    """Make `run-tool/NAME` for every tool, with a form from its parameter model; remove those of tools that are gone."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    from flows.run_tool import FLOW_NAME

    flow_id = await client.create_flow_from_name(FLOW_NAME)
    tools = load_tools()
    for spec in tools.values():
        await _ensure_tool_deployment(client, flow_id, spec)
    for deployment in await client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))):
        if deployment.name not in tools:
            await client.delete_deployment(deployment.id)
    return len(tools)


async def _ensure_tool_deployment(client: PrefectClient, flow_id: UUID, spec: ToolSpec) -> None:
    from flows.run_tool import form_schema, run_tool

    await client.create_deployment(
        flow_id=flow_id,
        name=spec.name,
        entrypoint=f"{run_tool.fn.__module__}.{run_tool.fn.__name__}",
        path=".",
        work_pool_name=POOL,
        work_queue_name=str(spec.service),
        tags=["signalbox", f"service:{spec.service}", f"safety:{spec.safety}"],
        description=_description(spec),
        parameters={"tool": spec.name},
        parameter_openapi_schema=form_schema(spec.name),
        enforce_parameter_schema=True,
    )


def _description(spec: ToolSpec) -> str:
    lines = [spec.documentation, "", f"Safety **{spec.safety}**, deadline {spec.timeout:g} s, {spec.retries} retries."]
    for example in spec.examples:
        lines += ["", f"{example.title}:", "", "```json", json.dumps(example.params, indent=2), "```"]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run `bootstrap` and say what it did."""

    async def work() -> list[str]:
        done = await bootstrap(force="--force" in arguments)
        try:
            return [*done, f"ledger: {(await put_in_order()).headline()}"]
        except ToolError as error:
            return [*done, f"ledger: not put in order, maintain/hourly will try again: {error}"]

    for line in asyncio.run(work()):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
