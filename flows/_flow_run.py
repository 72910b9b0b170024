"""What a flow knows of its own run: who it is, whether it is late, and how it adds to its page."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows._text import count
from tasks.core.log import run_logger

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

LATE_AFTER = timedelta(minutes=15)
"""A scheduled run that starts later than this is skipped: the next one does the work."""


def skipped_late() -> State[Any] | None:
    """The final state of a scheduled run that is too late to be worth it; None for one that is not."""
    from prefect.states import Cancelled

    late = _lateness()
    if late is None or late <= LATE_AFTER:
        return None
    return Cancelled(
        name="SkippedLate", message=f"Should have started {_in_words(late)} ago; the next run does the work."
    )


def _lateness() -> timedelta | None:
    """How late a scheduled run is; None for a run that a person or a program asked for."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or not run.auto_scheduled or run.expected_start_time is None:
        return None
    # Prefect's own kind of datetime gives its own kind of difference, which reads badly.
    return timedelta(seconds=(datetime.now(UTC) - run.expected_start_time).total_seconds())


def _in_words(late: timedelta) -> str:
    hours, minutes = divmod(int(late.total_seconds()) // 60, 60)
    return f"{count(hours, 'hour')} and {count(minutes, 'minute')}" if hours else count(minutes, "minute")


def run_identity() -> tuple[str, str | None]:
    """Return the run's id and the address of its page; a fresh id and None outside a run."""
    from prefect.runtime import flow_run
    from prefect.settings import get_current_settings

    run_id = str(flow_run.id or uuid4())
    ui = get_current_settings().ui_url
    return run_id, f"{ui}/runs/flow-run/{run_id}?tab=Artifacts" if ui and flow_run.id else None


async def quietly(publishing: Awaitable[Any]) -> None:
    """Add an artifact to the run's page; a server that cannot take it does not undo the work."""
    try:
        await publishing
    except Exception as error:  # noqa: BLE001  whatever the API client raises: what was done is worth more than its page
        run_logger().warning("The run page lacks an artifact: %s", type(error).__name__)
