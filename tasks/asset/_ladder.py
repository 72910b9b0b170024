"""When silence becomes an event: the ladder missing -> stale -> archived, by the kind of network."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from tasks.asset._identity import parse_address
from tasks.core.models import Network


class SubnetKind(StrEnum):
    """What kind of hosts live in a network."""

    STATIC = "static"
    DHCP = "dhcp"
    GUEST = "guest"


class Status(StrEnum):
    """Where an asset stands."""

    ACTIVE = "active"
    PLANNED = "planned"
    MISSING = "missing"
    STALE = "stale"
    ARCHIVED = "archived"
    MERGED = "merged"


LADDER = (Status.ACTIVE, Status.MISSING, Status.STALE, Status.ARCHIVED)


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of a network.

    Attributes:
        kind: What lives there.
        missing_scans: Scans in a row an address must be silent in.
        missing_hours: Hours since it was last seen that must have passed as well.
        stale_hours: Hours it is missing before it is stale.
        archive_hours: Hours it is stale before it is archived.
        lease_hours: How long an address by itself still speaks for the host last seen there.
    """

    kind: SubnetKind
    missing_scans: int
    missing_hours: float
    stale_hours: float
    archive_hours: float
    lease_hours: float


DEFAULTS = {
    SubnetKind.STATIC: Rules(SubnetKind.STATIC, 3, 24, 7 * 24, 30 * 24, 14 * 24),
    SubnetKind.DHCP: Rules(SubnetKind.DHCP, 2, 8, 3 * 24, 14 * 24, 24),
    SubnetKind.GUEST: Rules(SubnetKind.GUEST, 1, 1, 4, 20, 4),
}
"""Numbers of a network nobody said anything about are those of its kind; a network nobody declared is static."""


@dataclass(frozen=True, slots=True)
class DeclaredSubnet:
    """A network an operator declared, with its rules."""

    prefix: Network
    rules: Rules


class SubnetBook:
    """Finds the rules of an address: those of the most specific declared network."""

    def __init__(self, subnets: Iterable[DeclaredSubnet] = ()) -> None:
        self._subnets = sorted(subnets, key=lambda subnet: -subnet.prefix.prefixlen)
        self.find = lru_cache(maxsize=65536)(self._find)

    @classmethod
    def from_rows(cls, rows: Iterable[Any]) -> SubnetBook:
        """Make the book from rows of the table `subnet`."""
        subnets = []
        for row in rows:
            rules = DEFAULTS.get(row.kind, DEFAULTS[SubnetKind.STATIC])
            given = {
                name: value
                for name in ("missing_scans", "missing_hours", "stale_hours", "archive_hours", "lease_hours")
                if (value := getattr(row, name)) is not None
            }
            subnets.append(DeclaredSubnet(ipaddress.ip_network(row.prefix), replace(rules, **given)))
        return cls(subnets)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The declared networks, most specific first."""
        return tuple(subnet.prefix for subnet in self._subnets)

    def _find(self, ip: str) -> DeclaredSubnet | None:
        address = parse_address(ip)
        return next((subnet for subnet in self._subnets if address in subnet.prefix), None)

    def rules(self, ip: str, *, ephemeral: bool = False) -> Rules:
        """Return the rules for what lives at an address; a host known by a random MAC alone is a guest anywhere."""
        declared = self.find(ip)
        rules = declared.rules if declared else DEFAULTS[SubnetKind.STATIC]
        guest = DEFAULTS[SubnetKind.GUEST]
        return guest if ephemeral and rules.missing_hours > guest.missing_hours else rules


def may_be_missing(rules: Rules, *, missed_scans: int, last_seen: datetime, now: datetime) -> bool:
    """Whether an address was silent for long enough, by count and by clock."""
    return missed_scans >= rules.missing_scans and now - last_seen >= timedelta(hours=rules.missing_hours)


def next_rung(status: str, rules: Rules, *, since: datetime, now: datetime) -> Status | None:
    """Return the next rung for an asset that was silent again, or None when it stays where it is."""
    if status == Status.MISSING and now - since >= timedelta(hours=rules.stale_hours):
        return Status.STALE
    if status == Status.STALE and now - since >= timedelta(hours=rules.archive_hours):
        return Status.ARCHIVED
    return None
