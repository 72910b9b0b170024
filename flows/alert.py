"""Tell people that a run of signalbox failed or hangs. Started by automations; carries no `signalbox` tag, so it never starts itself."""

from __future__ import annotations

from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flows._notify import Message, send
from tasks.core.errors import NotFound, Unreachable


@flow(name="alert", persist_result=False, timeout_seconds=300)
async def alert(through: list[str], what: str, run_id: str) -> list[str]:
    """Send one message about a run through named blocks.

    Args:
        through: Message blocks, such as slack/ops or mail/noc.
        what: What happened to the run: failed, hangs.
        run_id: The flow run's id.

    Raises:
        NotFound: There is no such run.
        Unreachable: Nobody could be told, through none of the blocks.
    """
    async with get_client() as client:
        try:
            run = await client.read_flow_run(UUID(run_id))
        except (ObjectNotFound, ValueError):
            raise NotFound(f"There is no flow run {run_id}.") from None
        of = await client.read_flow(run.flow_id)
    from prefect.settings import get_current_settings

    ui = get_current_settings().ui_url
    url = f"{ui}/runs/flow-run/{run.id}" if ui else None
    state = run.state
    said = (state.message or state.name or "") if state is not None else "no state"
    if what == "hangs" and state is not None:
        said = f"{state.name} since {state.timestamp:%Y-%m-%d %H:%M} UTC, and no end in sight."
    title = f"{of.name} {run.name}: {what}"
    text = f"{title}\n\n{said}\n" + (f"\nThe run: {url}\n" if url else "")
    deliveries = await send(
        Message(
            title=title,
            text=text,
            facts={"Flow": of.name, "Run": run.name, "State": (state.name or "") if state is not None else ""},
            url=url,
            data={
                "event": "run",
                "what": what,
                "flow": of.name,
                "run": run.name,
                "run_id": str(run.id),
                "message": said,
            },
            key=f"alert-{run.id}-{what}",
        ),
        through,
    )
    failed = [delivery for delivery in deliveries if not delivery.sent]
    if failed and len(failed) == len(deliveries):
        raise Unreachable("; ".join(f"{delivery.block}: {delivery.error}" for delivery in failed))
    return [delivery.block for delivery in deliveries if delivery.sent]
