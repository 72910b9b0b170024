"""Alembic's environment: runs the revisions in the transaction `tasks.core.db.migrate` has open."""

from __future__ import annotations

from alembic import context

from tasks.core.db.metadata import metadata
from tasks.core.db.migrate import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=metadata, transaction_per_migration=False, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
