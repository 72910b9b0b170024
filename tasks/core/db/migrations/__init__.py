"""Alembic revisions, run by `tasks.core.db.migrate`."""
