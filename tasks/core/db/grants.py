"""What the role `app` may do, table by table. Migrations call `grant_app` for the tables they make."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

APP = "app"
"""The role everything but migrations works as; never a superuser. Where it does not exist, the owner does it all."""


def grant_app(connection: Connection, privileges: Mapping[str, str]) -> None:
    """Give the role `app` exactly these privileges on tables and views, where the role exists.

    Default privileges may have given it more when the table was made: those are taken back.

    Args:
        connection: Connection of the migration, as the owner.
        privileges: Table or view -> privileges as in SQL, such as `{"asset": "SELECT, INSERT, UPDATE"}`.
    """
    if not connection.scalar(text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)"), {"role": APP}):
        return
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {APP}"))
    for table, granted in privileges.items():
        connection.execute(text(f"REVOKE ALL ON {schema}.{table} FROM {APP}"))
        connection.execute(text(f"GRANT {granted} ON {schema}.{table} TO {APP}"))
