"""Who scans which networks now. The exclusion constraint of `scan_lease` keeps overlapping networks from being leased twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from tasks.core.db.sites import ensure_site


@dataclass(frozen=True)
class Holder:
    """A run that holds an overlapping network."""

    run_id: str
    cidr: str


def acquire(connection: Connection, site: str, networks: Sequence[str], run_id: str, seconds: float) -> Holder | None:
    """Lease networks for a run; None when they are ours now, else who holds one that overlaps. Nothing is leased then."""
    site_id = ensure_site(connection, site)
    connection.execute(text("DELETE FROM scan_lease WHERE expires_at < now()"))
    held = connection.execute(
        text(
            "SELECT lease.run_id, lease.cidr::text FROM scan_lease lease JOIN unnest(CAST(:networks AS cidr[])) wanted(cidr)"
            " ON lease.cidr && wanted.cidr WHERE lease.site_id = :site AND lease.run_id <> :run LIMIT 1"
        ),
        {"networks": list(networks), "site": site_id, "run": run_id},
    ).first()
    if held is not None:
        return Holder(held.run_id, held.cidr)
    try:
        with connection.begin_nested():
            connection.execute(
                text(
                    "INSERT INTO scan_lease (site_id, cidr, run_id, expires_at)"
                    " SELECT :site, cidr, :run, now() + make_interval(secs => :seconds) FROM unnest(CAST(:networks AS cidr[])) wanted(cidr)"
                ),
                {"networks": list(networks), "site": site_id, "run": run_id, "seconds": seconds},
            )
    except IntegrityError:  # another took one between our look and our insert
        return Holder("another run", "an overlapping network")
    return None


def renew(connection: Connection, run_id: str, seconds: float) -> int:
    """Extend a run's leases; return how many it still has."""
    return connection.execute(
        text("UPDATE scan_lease SET expires_at = now() + make_interval(secs => :seconds) WHERE run_id = :run"),
        {"run": run_id, "seconds": seconds},
    ).rowcount


def release(connection: Connection, run_id: str) -> None:
    """Give a run's leases back."""
    connection.execute(text("DELETE FROM scan_lease WHERE run_id = :run"), {"run": run_id})
