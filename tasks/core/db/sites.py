"""Sites: the domains of identity and reachability that every asset, observation and tool run belongs to."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Identity, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from tasks.core.db.metadata import Base
from tasks.core.errors import NotFound


class Site(Base):
    """A site. The same 10.0.0.5 at two sites is two hosts."""

    __tablename__ = "site"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


def ensure_site(connection: Connection, name: str) -> int:
    """Return the id of the site, making it when it is new. Safe when two do it at once."""
    found = connection.scalar(select(Site.id).where(Site.name == name))
    if found is None:
        connection.execute(insert(Site).values(name=name).on_conflict_do_nothing(index_elements=[Site.name]))
        found = connection.scalar(select(Site.id).where(Site.name == name))
    assert found is not None  # just inserted, by us or by another
    return found


def find_site(connection: Connection, name: str) -> int:
    """Return the id of a site that must exist.

    Raises:
        NotFound: There is no such site; names the ones there are.
    """
    found = connection.scalar(select(Site.id).where(Site.name == name))
    if found is None:
        names = ", ".join(list_sites(connection)[:20]) or "none yet"
        raise NotFound(f"There is no site {name!r}.", hint=f"Sites: {names}.")
    return found


def list_sites(connection: Connection) -> list[str]:
    """Return the names of all sites, sorted."""
    return list(connection.scalars(select(Site.name).order_by(Site.name)))
