"""Migrations lead from anywhere to the same schema, and the models say what is there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import tasks.core.db
from tasks.core.db.engine import Database
from tasks.core.db.metadata import metadata
from tasks.core.db.migrate import MIGRATIONS, current_revision, head_revision, migrate
from tasks.core.errors import DatabaseGone

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]


@pytest.fixture
def empty_url(postgres: Any) -> Iterator[str]:
    """The owner's URL of a database as `signalbox up` makes it, with nothing in it."""
    name = f"empty_{uuid4().hex[:12]}"
    admin = psycopg2.connect(postgres.url("postgres"))
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name} TEMPLATE signalbox OWNER owner")
    yield postgres.url("owner", name)
    admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


def shape(connection: Connection) -> list[tuple[Any, ...]]:
    """Everything a query could notice: columns, indexes, constraints, triggers and privileges of all tables."""
    statements = (
        (
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        ),
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        (
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
        ),
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants WHERE grantee = 'app'",
    )
    return sorted(
        (tuple(map(str, row)) for statement in statements for row in connection.execute(text(statement))), key=str
    )


@pytest.mark.parametrize("start", REVISIONS)
async def test_every_earlier_revision_leads_to_the_schema_a_new_database_gets(
    start: str, empty_url: str, database_url: str
) -> None:
    assert await migrate(empty_url, start) == start
    database, fresh = Database(empty_url), Database(database_url)
    await database.run(lambda c: c.execute(text("INSERT INTO site (name) VALUES ('kept')")))
    assert await migrate(empty_url) == head_revision() == await current_revision(database)
    assert await database.run(shape) == await fresh.run(shape)
    assert await database.run(lambda c: c.scalar(text("SELECT name FROM site"))) == "kept"
    database.close()
    fresh.close()


@pytest.mark.filterwarnings("ignore:Expression #1")  # alembic compares trigram indexes without their operator class
async def test_the_models_say_what_the_migrations_made(database_url: str) -> None:
    for module in pkgutil.iter_modules(tasks.core.db.__path__):
        importlib.import_module(f"tasks.core.db.{module.name}")

    def difference(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_modelled})
        return list(compare_metadata(context, metadata))

    def is_modelled(name: str | None, kind: str, _parents: Any) -> bool:
        return kind != "table" or name in metadata.tables  # the ledger is SQL only

    database = Database(database_url)
    assert await database.run(difference) == []
    database.close()


async def test_the_role_app_cannot_migrate_and_a_gone_server_is_said(postgres: Any, empty_url: str) -> None:
    from tasks.core.errors import Unauthorized

    name = empty_url.partition("?")[0].rpartition("/")[2]
    with pytest.raises(Unauthorized):
        await migrate(postgres.url("app", name))
    with pytest.raises(DatabaseGone):
        await migrate("postgresql+psycopg2://owner:x@/x?host=/nowhere")


async def test_a_migration_that_fails_leaves_the_old_schema_whole(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_url, REVISIONS[0])
    database = Database(empty_url)
    before = await database.run(shape)
    # The name of a later table is taken: its migration fails half-way.
    await database.run(lambda c: c.execute(text("CREATE VIEW scan_lease AS SELECT 1 AS one")))
    with pytest.raises(Exception, match="scan_lease"):
        await migrate(empty_url)
    await database.run(lambda c: c.execute(text("DROP VIEW scan_lease")))
    assert await database.run(shape) == before and await current_revision(database) == REVISIONS[0]
    database.close()
