"""Bring the schema of the inventory database up to date, from empty or from any earlier revision."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from tasks.core.db.engine import Database
from tasks.core.errors import Conflict

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "signalbox_revision"
"""Not Alembic's own name: in a database shared with a Prefect server (SIGNALBOX_DATABASE_URL), that one finds Prefect's, or ours."""
MIGRATION_LOCK = 0x5349474D  # "SIGM"; the number only has to differ from our other advisory locks
TIMEOUT = 600.0
"""Seconds a migration may take, waiting for another one included."""


def migrate_sync(url: str, revision: str = "head", *, timeout: float = TIMEOUT) -> str:
    """Migrate the database at `url` and return the revision it is at then. For code outside an event loop.

    Raises:
        As `migrate`.
    """
    return asyncio.run(migrate(url, revision, timeout=timeout))


async def migrate(url: str, revision: str = "head", *, timeout: float = TIMEOUT) -> str:
    """Migrate the database at `url` (as its owner) and return the revision it is at then.

    All or nothing: the whole way up is one transaction. Two at once are safe: the second waits and finds nothing to do.

    Args:
        url: SQLAlchemy URL of the owner role.
        revision: The revision to go to; `head` for the newest.
        timeout: Seconds it may take.

    Raises:
        DatabaseGone: The server cannot be reached.
        Unauthorized: The role may not create tables here.
        Conflict: The database was migrated by a newer version of signalbox.
    """
    database = Database(url, workers=1)
    try:
        return await database.run(lambda connection: _upgrade(connection, revision), timeout=timeout)
    finally:
        database.close()


async def current_revision(database: Database) -> str | None:
    """Return the revision a database is at; None for an empty one."""
    return await database.run(lambda connection: _context(connection).get_current_revision())


def head_revision() -> str:
    """Return the newest revision this version of signalbox knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _upgrade(connection: Connection, revision: str) -> str:
    # Of the transaction, so that it goes with it, whatever happens. The wait is bounded by lock_timeout.
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    config = _config()
    before = _context(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if before is not None and before not in known:
        raise Conflict(
            f"The inventory database is at revision {before}, which this version of signalbox does not know.",
            hint="Use the version that migrated it, or a newer one.",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    after = _context(connection).get_current_revision()
    assert after is not None
    return after
