"""Alembic's environment: runs the revisions in the transaction `tasks.core.db.migrate` has open."""

from __future__ import annotations

from alembic import context

from tasks.core.db.metadata import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
