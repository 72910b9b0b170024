"""What the supervisor makes of the ends of its children."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from deployments.local import StackError
from deployments.local.home import Home
from deployments.local.processes import identify
from deployments.local.supervisor import Supervisor
from deployments.local.variables import record_endpoint


def test_a_job_that_fails_is_never_taken_for_one_that_went_well(short_home: Path) -> None:
    home = Home(short_home)
    home.prepare()
    record_endpoint(home, 4200)
    supervisor = Supervisor(home, lambda line: None)
    job = supervisor._job("bootstrap", [sys.executable, "-c", "raise RuntimeError('no such pool')"])
    while identify(job.pid) is not None:
        time.sleep(0.01)
    # The reaper of orphans comes by before anybody has asked the job how it ended.
    supervisor._reap()
    with pytest.raises(StackError, match="no such pool"):
        supervisor._finish_job("bootstrap", job, "It cannot be made")
