"""Prefect automations that raise the alarm: failed, crashed, silent, hanging runs, and a pool without a worker.

Who is told is one list of block names (`signalbox policy alert-to slack/ops mail/noc`), kept in a Prefect variable. Two ways lead there:

- *Failed and hanging runs* start the flow `alert`, which sends through the named blocks like any other message. It carries no
  `signalbox` tag, so its own failure starts nothing.
- *Crashed runs and a pool without a worker* go by the server's own webhook action: the worker that would run a flow may be what died.
  Mail needs a worker, so a list of mail blocks only cannot be told of those; `doctor` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from tasks.core.errors import InvalidParameters
from tasks.core.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

ALERT_VARIABLE = "signalbox_alert_to"
PREFIX = "signalbox: "
TAG = "signalbox"
SILENT_AFTER = timedelta(seconds=90)
"""Three heartbeats of 30 s (`deployments.local.variables` sets their frequency; Prefect's own default would be 180 s)."""
ANYTHING = "prefect.flow-run.*"
"""All events of runs. A state's event is called after the state's *name*, and ours have names of their own (Partial, Suspect, TimedOut):
what a state means is its type, a label of the event."""
ENDS = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
# Rendered by the server when it fires. `tojson` quotes: a state's message may hold anything.
CRASHED = (
    '{{ ("The run " ~ flow_run.name ~ " of " ~ flow.name ~ " crashed: " ~ flow_run.state.message ~ " " ~ (flow_run|ui_url))'
    " | tojson }}"
)
NO_WORKER = '{{ ("Work pool " ~ work_pool.name ~ " has no worker: nothing will run. On its machine: signalbox status") | tojson }}'
OURS: dict[str, str | list[str]] = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}


async def alert_blocks() -> list[str]:
    """Names of the blocks that are told when something goes wrong; empty when nobody is."""
    from prefect.variables import Variable

    names: Any = await Variable.aget(ALERT_VARIABLE, default=[])
    return [str(name) for name in names] if isinstance(names, list) else []


async def alert_to(names: Sequence[str]) -> list[str]:
    """Tell these blocks from now on (none: nobody); return what was changed, a line each.

    Raises:
        InvalidParameters: A block does not exist, or is of a kind that carries no messages.
    """
    from prefect.client.orchestration import get_client
    from prefect.variables import Variable

    from flows._notify import check_blocks

    await check_blocks(names)
    await Variable.aset(ALERT_VARIABLE, list(names), overwrite=True)
    async with get_client() as client:
        return await ensure_automations(client)


async def ensure_automations(client: PrefectClient) -> list[str]:
    """Make the automations what this module says; remove those of ours that are no longer wanted."""
    names = await alert_blocks()
    hanging_after = timedelta(seconds=settings().hanging_after)
    untold: list[str] = []
    wanted = [_silent_run()]
    if names:
        deployment = await client.read_deployment_by_name("alert/send")
        wanted += [_failed_run(deployment.id, names), _hanging_run(deployment.id, names, hanging_after)]
    for name in names:
        try:
            hook = await _server_webhook(name)
        except InvalidParameters as error:  # deleted since: the others are told all the same
            untold.append(f"{name}: {error}")
            continue
        if hook is None:
            untold.append(
                f"{name}: told of failed and hanging runs, not of crashed runs and dead workers (the server cannot send mail)"
            )
        else:
            wanted += [_crashed_run(name, *hook), _no_worker(name, *hook)]
    existing = {
        automation.name: automation
        for automation in await client.read_automations()
        if automation.name.startswith(PREFIX)
    }
    for automation in wanted:
        known = existing.pop(automation.name, None)
        if known is None:
            await client.create_automation(automation)
        else:
            await client.update_automation(known.id, automation)
    for leftover in existing.values():
        await client.delete_automation(leftover.id)
    told = f" telling {', '.join(names)}" if names else ", telling nobody yet (signalbox policy alert-to BLOCK)"
    return [f"automations: {len(wanted)}{told}", *untold]


def _silent_run() -> AutomationCore:
    """A flow process that died together with its worker leaves a run that says Running for ever; nothing else notices."""
    return AutomationCore(
        name=f"{PREFIX}silent run",
        description="Marks a run as crashed when its heartbeats stop.",
        tags=[TAG],
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=OURS,  # another team's flows on the same server may beat more slowly
            after={"prefect.flow-run.heartbeat"},
            expect={ANYTHING},  # the next heartbeat, the end, or a pause, in which no process is left to beat
            for_each={"prefect.resource.id"},
            threshold=1,
            within=SILENT_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="Its heartbeats stopped: the process and its worker are gone."
            )
        ],
    )


def _alert(deployment: UUID, names: Sequence[str], what: str) -> RunDeployment:
    return RunDeployment(
        source="selected",
        deployment_id=deployment,
        parameters={
            "through": list(names),
            "what": what,
            # Rendered by the server when it fires.
            "run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"},
        },
    )


def _failed_run(deployment: UUID, names: Sequence[str]) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}failed run",
        description="Tells the named blocks when a signalbox run fails.",
        tags=[TAG],
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": "FAILED"},
            match_related=OURS,
            expect={ANYTHING},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[_alert(deployment, names, "failed")],
    )


def _hanging_run(deployment: UUID, names: Sequence[str], after: timedelta) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}hanging run",
        description=f"Tells the named blocks when a signalbox run takes longer than {after} (SIGNALBOX_HANGING_AFTER).",
        tags=[TAG],
        trigger=EventTrigger(
            posture=Posture.Proactive,
            # Without the states between (Cancelling, Paused): they are no end.
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["RUNNING", *ENDS]},
            match_related=OURS,
            after={"prefect.flow-run.Running", "prefect.flow-run.Retrying"},
            expect={ANYTHING},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=after,
        ),
        actions=[_alert(deployment, names, "hangs")],
    )


def _crashed_run(name: str, webhook: UUID, payload: str) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}crashed run ({name})",
        description="The server itself tells this block when a run crashes: the worker may be what died.",
        tags=[TAG],
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": "CRASHED"},
            match_related=OURS,
            expect={ANYTHING},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=payload % CRASHED)],
    )


def _no_worker(name: str, webhook: UUID, payload: str) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}no worker ({name})",
        description="The server itself tells this block when the work pool has no worker left.",
        tags=[TAG],
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match={"prefect.resource.id": "prefect.work-pool.*"},
            expect={"prefect.work-pool.not-ready"},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=payload % NO_WORKER)],
    )


async def _server_webhook(name: str) -> tuple[UUID, str] | None:
    """Mirror one of our message blocks as Prefect's own Webhook block, the kind the server can call by itself.

    Returns:
        The mirror's id and a JSON payload with one `%s` for the text; None for mail, which the server cannot send.
    """
    from prefect.blocks.webhook import Webhook
    from prefect.types import SecretDict
    from pydantic import SecretStr

    from flows._notify import server_call

    call = await server_call(name)
    if call is None:
        return None
    url, headers, payload = call
    mirror: Any = Webhook(method="POST", url=SecretStr(url), headers=SecretDict(headers), allow_private_urls=True)
    document = await mirror.save(f"signalbox-alert-{name.replace('/', '-')}", overwrite=True)
    return UUID(str(document)), payload
