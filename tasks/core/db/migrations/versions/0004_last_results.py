"""The ledger finds what a tool said last without reading what all others said since.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Index the ends of runs by tool and time."""
    op.execute(
        "CREATE INDEX ix_tool_run_event_finished ON tool_run_event (site, tool, at DESC) WHERE kind = 'finished'"
    )
