"""The check of the scheduler notices one that does not schedule."""

from __future__ import annotations

from deployments.local import scheduler_works
from deployments.local.api import Api


def test_a_server_that_does_not_schedule_fails_the_check_and_keeps_nothing_of_it(prefect_server: str) -> None:
    # The harness's server runs without its scheduler: healthy to look at, as with a wrong SQLAlchemy.
    api = Api(prefect_server)
    assert api.healthy()
    assert scheduler_works(api, timeout=7) is False
    flows = api.call("POST", "/flows/filter", {})
    assert not [flow for flow in flows if flow["name"].startswith("signalbox-scheduler-check")]
