"""Show that Prefect's scheduler works, by letting it schedule something.

A wrong SQLAlchemy breaks the scheduler while the server looks healthy: cron deployments silently get no runs. Old runs of a real
deployment would prove that it worked once; so each check makes a flow and a cron deployment of its own, waits for the first
Scheduled run and removes all of it. Nothing can execute it: it is in no work pool, and due on the first of next month.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from deployments.local.api import Api
from deployments.local.errors import StackError

FLOW = "signalbox-scheduler-check"
PATIENCE = 20.0
"""Seconds to wait: the server looks for new deployments every 5 s."""
ABANDONED = timedelta(minutes=5)
"""A check of this age was interrupted; the next one removes it."""


def scheduler_works(api: Api, timeout: float = PATIENCE, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Whether a new cron deployment gets Scheduled runs.

    Args:
        api: The Prefect API.
        timeout: Seconds to wait for the first run.
        sleep: Waits between two looks.

    Raises:
        StackError: The API does not answer.
    """
    check = SchedulerCheck(api)
    try:
        end = time.monotonic() + timeout
        while not check.passed():
            if time.monotonic() > end:
                return False
            sleep(0.5)
        return True
    finally:
        check.close()


class SchedulerCheck:
    """One check under way: made by its constructor, looked at with `passed`, removed with `close`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._remove_abandoned()
        self._flow = str(api.call("POST", "/flows/", {"name": f"{FLOW}-{uuid.uuid4().hex[:8]}"})["id"])
        body = {
            "name": "monthly",
            "flow_id": self._flow,
            "schedules": [{"schedule": {"cron": "0 0 1 * *", "timezone": "UTC"}, "active": True}],
            "description": "Shows that the scheduler works; removes itself.",
        }
        self._deployment = str(api.call("POST", "/deployments/", body)["id"])

    def passed(self) -> bool:
        """Whether the scheduler has given the deployment a run."""
        query = {
            "deployments": {"id": {"any_": [self._deployment]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        return bool(self._api.call("POST", "/flow_runs/count", query))

    def close(self) -> None:
        """Remove the flow, and with it deployment and runs."""
        with suppress(StackError):
            self._api.call("DELETE", f"/deployments/{self._deployment}")
            self._api.call("DELETE", f"/flows/{self._flow}")

    def _remove_abandoned(self) -> None:
        before = datetime.now(UTC) - ABANDONED
        for flow in self._api.call("POST", "/flows/filter", {"flows": {"name": {"like_": FLOW}}}):
            if flow["name"].startswith(f"{FLOW}-") and datetime.fromisoformat(flow["created"]) < before:
                with suppress(StackError):
                    self._api.call("DELETE", f"/flows/{flow['id']}")
