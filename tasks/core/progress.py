"""How far long work is: a bar on its run's page."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from tasks.core.log import run_logger

if TYPE_CHECKING:
    from uuid import UUID

API_SECONDS = 3.0
"""Longest wait for the Prefect API: work does not stand still for its bar."""


class Progress:
    """A bar on the page of the Prefect run in progress; outside a run there is only the log.

    A server that does not take it costs the bar, never the work.
    """

    def __init__(self, key: str, *, every: float = 5.0) -> None:
        """Prepare a bar; the first `tell` draws it.

        Args:
            key: Its name among the run's artifacts: small letters, digits and dashes.
            every: Seconds between two drawings at least; what is told between them is passed over. 0 draws always.
        """
        self.key, self.every = key, every
        self._told = -math.inf
        self._artifact: UUID | None = None
        self._lost = False

    async def tell(self, percent: float, text: str) -> None:
        """Say how far it is, unless that was said a moment ago.

        Args:
            percent: 0 to 100; 100 is always drawn.
            text: The same in words.
        """
        if percent < 100 and time.monotonic() - self._told < self.every:
            return
        self._told = time.monotonic()
        run_logger().info("%s", text)
        if self._lost or not in_run():
            return
        try:
            async with asyncio.timeout(API_SECONDS):
                await self._draw(min(100.0, max(0.0, percent)), text)
        except Exception as error:  # noqa: BLE001  whatever the API client raises
            self._lost = True
            run_logger().warning("The run page does not show how far it is: %s", type(error).__name__)

    async def _draw(self, percent: float, text: str) -> None:
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(progress=percent, key=self.key, description=text)
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, progress=percent, description=text)


def in_run() -> bool:
    """Whether a Prefect run is in progress, the page of which can show something."""
    from prefect.context import FlowRunContext, TaskRunContext

    return TaskRunContext.get() is not None or FlowRunContext.get() is not None
