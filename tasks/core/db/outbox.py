"""Messages that wait for their channel to come back. A message holds what people read, never a secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    ForeignKey,
    Identity,
    Index,
    Integer,
    UniqueConstraint,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from tasks.core.db.metadata import Base
from tasks.core.db.sites import ensure_site

KEPT = timedelta(days=7)
"""Older messages are news no more."""


class Outbox(Base):
    """A message that one channel did not take."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"))
    channel: Mapped[str]
    run_id: Mapped[str]
    message: Mapped[dict[str, Any]] = mapped_column(JSONB)
    error: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (UniqueConstraint("channel", "run_id"), Index("ix_outbox_site_id_channel", "site_id", "channel"))


def keep(connection: Connection, *, site: str, channel: str, run_id: str, message: Mapping[str, Any]) -> int:
    """Keep a message until it is delivered, and return its number; the same message of the same run once."""
    statement = insert(Outbox).values(
        site_id=ensure_site(connection, site),
        channel=channel,
        run_id=run_id,
        message=dict(message),
        error="not sent yet",
    )
    again = {"message": statement.excluded.message}
    number = connection.scalar(
        statement.on_conflict_do_update(index_elements=[Outbox.channel, Outbox.run_id], set_=again).returning(Outbox.id)
    )
    assert number is not None  # inserted or updated
    return number


def waiting(connection: Connection, *, site: str, channels: Sequence[str]) -> list[tuple[int, str, dict[str, Any]]]:
    """Return number, channel and message of what waits for these channels, oldest first; what is too old is dropped."""
    connection.execute(delete(Outbox).where(Outbox.created_at < func.now() - KEPT))
    rows = connection.execute(
        select(Outbox.id, Outbox.channel, Outbox.message)
        .where(Outbox.site_id == ensure_site(connection, site), Outbox.channel.in_(list(channels)))
        .order_by(Outbox.id)
    )
    return [(row.id, row.channel, row.message) for row in rows]


def delivered(connection: Connection, *, number: int) -> None:
    """Forget a message that has gone out."""
    connection.execute(delete(Outbox).where(Outbox.id == number))


def failed(connection: Connection, *, number: int, error: str) -> None:
    """Note a failed attempt."""
    connection.execute(update(Outbox).where(Outbox.id == number).values(attempts=Outbox.attempts + 1, error=error))
