"""Who may write a field: user > locked > authoritative > newer of the same rank > fill-if-empty.

`locked` means fixed by an operator against all automatic sources. A source that has nothing to say about a field never blanks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

QUIET_METADATA = ("http_", "tls_", "snmp_", "mdns_", "ssdp_")
"""Beginnings of metadata that changes by itself (titles with a clock in them, renewed certificates): kept, and nobody is alerted."""


class Rank(IntEnum):
    """How much a source's word weighs."""

    THIRD_PARTY = 10
    SCAN = 20  # guesses from outside: OS detection, reverse DNS, the MAC's prefix
    AUTHORITATIVE = 50  # read from the device itself
    USER = 100


OBSERVED_FIELDS = ("hostname", "type", "vendor", "model", "serial", "firmware", "os", "location")
"""Fields a device or a scan can speak about. `environment`, `owner` and `tags` are people's."""

OWNED_FIELDS = (*OBSERVED_FIELDS, "environment", "owner", "tags", "metadata", "status", "primary_ip", "mac")
"""Fields an operator can lock."""


@dataclass(slots=True)
class Claim:
    """What a source says a field is."""

    value: str
    rank: Rank
    source: str
    seen_at: datetime

    def beats(self, other: Claim | None) -> bool:
        """Whether this claim is the better one of two made at the same time."""
        return other is None or (self.rank, self.seen_at) > (other.rank, other.seen_at)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who said what a field is now."""

    source: str
    rank: int
    locked: bool
    observed_at: datetime


def may_write(claim: Claim, current: Any, owner: Owner | None) -> bool:
    """Whether an automatic source's claim may replace what a field holds.

    Args:
        claim: What is claimed.
        current: What the field holds; None when empty.
        owner: Who put it there. A value nobody claims was put there by hand and is treated as a user's.
    """
    if owner is None:
        return current is None
    if owner.locked or owner.rank >= Rank.USER:
        return False
    if current is None or claim.rank > owner.rank:
        return True
    return claim.rank == owner.rank and claim.seen_at >= owner.observed_at
