"""The inventory database as a Prefect block."""

from __future__ import annotations

from typing import Any, ClassVar

from prefect.blocks.core import Block
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector, SyncDriver
from pydantic import Field, SecretStr
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session

from blocks.postgresql import connect_arguments


class AssetDatabase(Block):
    """The PostgreSQL database that holds inventory and ledger, with limits that keep a dead server from holding a run.

    Example:
        Look at the inventory from a flow of your own:

            database = await AssetDatabase.aload("default")
            with database.session() as session:
                session.execute(text("SELECT hostname FROM asset")).all()
    """

    _block_type_name = "Asset database"
    _block_type_slug = "asset-database"
    _description = "The PostgreSQL database that holds signalbox's inventory and ledger."
    short: ClassVar[str] = "database"

    connection: ConnectionComponents = Field(
        description="Where the PostgreSQL server (14 or later) is and who logs in."
    )
    statement_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds one statement may take.")
    lock_timeout: float = Field(10.0, gt=0, le=3600, description="Seconds one statement may wait for a lock.")
    application_name: str = Field("signalbox", max_length=63, description="Name the server shows.")

    @classmethod
    def from_url(cls, url: str | URL, **fields: Any) -> AssetDatabase:
        """Make a block from a PostgreSQL URL such as postgresql://user:password@host:5432/name."""
        parts = make_url(url)
        query = {key: value if isinstance(value, str) else ",".join(value) for key, value in parts.query.items()}
        return cls(
            connection=ConnectionComponents(
                driver=SyncDriver.POSTGRESQL_PSYCOPG2,
                host=parts.host,
                port=parts.port,
                database=parts.database,
                username=parts.username,
                password=SecretStr(parts.password) if parts.password is not None else None,
                query=query or None,
            ),
            **fields,
        )

    def url(self) -> URL:
        """The SQLAlchemy URL; its `str` hides the password."""
        url: URL = self.connection.create_url()
        return url

    def connect_args(self) -> dict[str, Any]:
        """Arguments for psycopg2's `connect`."""
        return connect_arguments(
            statement_timeout=self.statement_timeout,
            lock_timeout=self.lock_timeout,
            application_name=self.application_name,
        )

    def connector(self) -> SqlAlchemyConnector:
        """The same database as prefect-sqlalchemy's block, for flows that like its `execute` and `fetch_many`."""
        return SqlAlchemyConnector(connection_info=self.connection, connect_args=self.connect_args())

    def engine(self, **arguments: Any) -> Engine:
        """Return a new engine. Close it with `dispose()`.

        Args:
            **arguments: Passed on to SQLAlchemy's `create_engine`.
        """
        arguments = {"pool_pre_ping": True, "hide_parameters": True, **arguments}
        return create_engine(self.url(), connect_args=self.connect_args(), **arguments)

    def session(self, **arguments: Any) -> Session:
        """Return a session on a new engine of its own. It blocks: inside the tools' event loop use `Database.run`."""
        return Session(self.engine(**arguments))
