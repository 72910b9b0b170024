"""The embedded stack: a PostgreSQL, a Prefect server and a worker of one's own, below `SIGNALBOX_HOME`.

The only part of signalbox that starts daemons. Nothing here imports Prefect: `signalbox up` on a running stack, `status`, `env`
and `down` answer at once.
"""

from deployments.local.errors import StackError
from deployments.local.postgres import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "StackError"]
