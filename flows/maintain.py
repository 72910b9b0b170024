"""Keep the ledger in order: enter what waits in the journal, settle runs that nobody will ever finish, seal what was written.

A flow of its own every hour (`maintain/hourly`), and part of every `signalbox up`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from tasks.core.ledger import Ledger, RunFilter, ToolRunRecord
from tasks.core.log import run_logger
from tasks.core.registry import load_tools
from tasks.core.run import wiring
from tasks.core.tool import longest_attempt
from tasks.core.words import count

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
LATE_WORD = timedelta(seconds=15)
"""How long after its flow ended a tool's own last word may still be on its way into the ledger."""
MOST_RUNS = 1000
"""Unfinished runs looked at in one go; the next hour looks at the rest."""
ASKED_AT_ONCE = 100
"""Flow runs in one question to the Prefect API, which answers at most 200."""


class Maintained(BaseModel):
    """What was put in order."""

    model_config = ConfigDict(frozen=True)

    replayed: int = Field(description="Events that waited in this machine's journal and are in the ledger now.")
    unknown: int = Field(
        description="Runs that are marked unknown: they started, and nobody is left to say how they ended."
    )
    sealed: int = Field(description="Events that came under a seal.")

    def headline(self) -> str:
        """Say it in one line."""
        return (
            f"{count(self.replayed, 'event')} entered from the journal, {count(self.unknown, 'run')} marked unknown, "
            f"{count(self.sealed, 'event')} sealed"
        )


@flow(name="maintain", persist_result=False, timeout_seconds=900)
async def maintain() -> Maintained:
    """Put the ledger in order.

    Raises:
        DatabaseGone: The ledger cannot be reached; the next run does the work.
    """
    done = await put_in_order()
    run_logger().info("%s", done.headline())
    return done


async def put_in_order() -> Maintained:
    """Replay, settle, seal: in this order, so that an end that waits in the journal is not taken for missing.

    Raises:
        DatabaseGone: The ledger cannot be reached.
    """
    book = wiring().ledger()
    if book is None:  # tests
        return Maintained(replayed=0, unknown=0, sealed=0)
    replayed = await book.replay()
    unknown = set(await book.mark_unknown(longest()))
    unknown |= set(await _mark_left_behind(book))
    seals = await book.seal()
    return Maintained(replayed=replayed, unknown=len(unknown), sealed=sum(seal.events for seal in seals))


def longest() -> timedelta:
    """Longer than an attempt of any tool can take."""
    return timedelta(seconds=max(longest_attempt(spec.timeout) for spec in load_tools().values())) + LATE_WORD


async def _mark_left_behind(book: Ledger) -> Sequence[UUID]:
    """Mark runs whose flow is over: killed with their process, or a machine that went away. No need to wait for their deadline."""
    from prefect.client.orchestration import get_client

    filters = RunFilter(state="running", until=datetime.now(UTC) - LATE_WORD)
    running = [record for record in await book.list_runs(filters, MOST_RUNS) if record.flow_run_id is not None]
    if not running:
        return []
    async with get_client() as client:
        over = await _over(client, running)
    left = [record.id for record in running if record.flow_run_id in over]
    return await book.mark_unknown(timedelta(0), runs=left) if left else []


async def _over(client: PrefectClient, running: Sequence[ToolRunRecord]) -> set[UUID]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    ended = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType(name) for name in ENDED]))
    flows = sorted({record.flow_run_id for record in running if record.flow_run_id is not None})
    over: set[UUID] = set()
    for start in range(0, len(flows), ASKED_AT_ONCE):
        asked = FlowRunFilterId(any_=flows[start : start + ASKED_AT_ONCE])
        found = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=asked, state=ended), limit=ASKED_AT_ONCE)
        over |= {run.id for run in found}
    return over
