"""The embedded stack: a PostgreSQL, a Prefect server and a worker of one's own, below `SIGNALBOX_HOME`.

The only part of signalbox that starts daemons. Nothing here imports Prefect: `signalbox up` on a running stack, `status`, `env`
and `down` answer at once.
"""

from deployments.local.errors import StackError
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.scheduler import scheduler_works
from deployments.local.stack import StackStatus, down, status, up
from deployments.local.variables import environment

__all__ = ["EmbeddedPostgres", "StackError", "StackStatus", "down", "environment", "scheduler_works", "status", "up"]
