"""The schema: from empty, from every earlier revision with rows in it, and the same as the models say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from tasks.core.db import inventory_schema, ledger, outbox, sites
from tasks.core.db.metadata import metadata
from tasks.core.db.migrate import MIGRATIONS, VERSION_TABLE, head_revision, migrate
from tasks.core.errors import Conflict

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]


@pytest.fixture
def empty_url(postgres: Any) -> Iterator[str]:
    """The owner's URL of a database without any table."""
    name = f"empty_{uuid4().hex[:12]}"
    _statement(postgres, f"CREATE DATABASE {name} TEMPLATE signalbox OWNER owner")
    yield postgres.url("owner", name).replace("postgresql://", "postgresql+psycopg2://")
    _statement(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def _statement(postgres: Any, statement: str) -> None:
    connection = psycopg2.connect(postgres.url("postgres"))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _shape(url: str) -> dict[str, Any]:
    """Everything a schema is: columns, constraints, indexes, triggers, rights."""
    engine = create_engine(url)
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY 1, 2",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
        "triggers": "SELECT event_object_table, trigger_name, event_manipulation FROM information_schema.triggers ORDER BY 1, 2, 3",
        "rights": "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants"
        " WHERE table_schema = 'public' ORDER BY 1, 2, 3",
    }
    try:
        with engine.connect() as connection:
            return {name: [tuple(row) for row in connection.exec_driver_sql(query)] for name, query in queries.items()}
    finally:
        engine.dispose()


async def test_an_empty_database_gets_everything_and_a_second_time_nothing(empty_url: str) -> None:
    assert await migrate(empty_url) == head_revision() == REVISIONS[-1]
    first = _shape(empty_url)
    assert {"asset", "asset_identifier", "observation", "scan_lease", "tool_run_event"} <= {
        row[0] for row in first["columns"]
    }
    assert await migrate(empty_url) == head_revision()
    assert _shape(empty_url) == first


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_earlier_revision_arrives_at_the_same_schema_and_keeps_its_rows(
    empty_url: str, database_url: str, revision: str
) -> None:
    assert await migrate(empty_url, revision) == revision
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO site (name) VALUES ('old')")
        if inspect(connection).has_table("asset"):
            connection.exec_driver_sql("INSERT INTO asset (site_id, hostname) SELECT id, 'kept' FROM site")
        connection.exec_driver_sql(
            "INSERT INTO tool_run_event (id, tool_run_id, site, kind, at, tool, service, safety)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'old', 'started', now(), 't', 'network', 'probe')"
        )
        sealed = ledger.seal(connection, 1)
    assert await migrate(empty_url) == head_revision()
    assert _shape(empty_url) == _shape(database_url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM site WHERE name = 'old'").scalar() == 1
    with engine.connect() as connection:
        assert len(sealed) == 1 and ledger.broken_seals(connection, "old") == []
    engine.dispose()


async def test_two_migrations_at_once_are_one(empty_url: str) -> None:
    assert set(await asyncio.gather(migrate(empty_url), migrate(empty_url))) == {head_revision()}


async def test_a_database_from_the_future_is_left_alone(empty_url: str) -> None:
    await migrate(empty_url)
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    before = _shape(empty_url)
    with pytest.raises(Conflict, match="9999"):
        await migrate(empty_url)
    assert _shape(empty_url) == before
    engine.dispose()


async def test_the_models_say_what_the_migrations_made(empty_url: str) -> None:
    await migrate(empty_url)
    ours = {table.name for module in (inventory_schema, outbox, sites) for table in _tables(module)}
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": False,
                "include_name": lambda name, kind, _: kind != "table" or name in ours,
            },
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def _tables(module: Any) -> list[Any]:
    return [item.__table__ for item in vars(module).values() if hasattr(item, "__table__")]


async def test_one_strong_identifier_has_one_owner_and_one_address_one_holder(database_url: str) -> None:
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg2://"))
    identifier = (
        "INSERT INTO asset_identifier (asset_id, site_id, kind, value, strength, source, first_seen, last_seen, active)"
        " VALUES ({asset}, 1, 'serial', 'axis:1', '{strength}', 't', now(), now(), {active})"
    )
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO site (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'one') ON CONFLICT DO NOTHING"
        )
        connection.exec_driver_sql(
            "INSERT INTO asset (id, site_id, hostname) VALUES (1, 1, 'A'), (2, 1, 'b'), (3, 1, NULL)"
        )
        connection.exec_driver_sql(identifier.format(asset=1, strength="strong", active="true"))
        connection.exec_driver_sql(identifier.format(asset=2, strength="weak", active="true"))
        connection.exec_driver_sql(identifier.format(asset=3, strength="strong", active="false"))
    forbidden = [
        "UPDATE asset_identifier SET strength = 'strong' WHERE asset_id = 2",
        "UPDATE asset_identifier SET active = true WHERE asset_id = 3",
        "UPDATE asset SET hostname = 'a' WHERE id = 2",  # names differ by more than their case
        "INSERT INTO address (site_id, asset_id, ip, first_seen, last_seen) SELECT 1, id, '10.0.0.1', now(), now() FROM asset",
        "INSERT INTO scan_lease (site_id, cidr, run_id, expires_at) VALUES (1, '10.0.0.0/16', 'a', now()), (1, '10.0.1.0/24', 'b', now())",
    ]
    for statement in forbidden:
        with pytest.raises(Exception, match=r"duplicate key|exclusion"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE asset SET status = 'archived' WHERE id = 1")  # lets go of its name
        connection.exec_driver_sql("UPDATE asset SET hostname = 'a' WHERE id = 2")
        connection.exec_driver_sql("DELETE FROM asset WHERE id = 1")
        assert connection.exec_driver_sql("SELECT asset_id, value FROM former_identifier").all() == [(1, "axis:1")]
    engine.dispose()
