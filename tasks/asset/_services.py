"""What changed about the open ports of an asset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tasks.asset._changes import EventKind
from tasks.asset._fold import Host
from tasks.asset._observation import ObservedService, check_ports
from tasks.core.db.inventory import ServiceRow
from tasks.core.models import format_ports

MISSES = 2
"""Scans a port must be silent in before it counts as closed. One that refuses is closed at once."""

Place = tuple[str, str, int]


@dataclass(slots=True)
class ServiceChanges:
    """Rows to write, and what a person hears of it: event kind, place, before, after."""

    write: dict[Place, ObservedService] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    moved: list[tuple[int, str]] = field(default_factory=list)
    events: list[tuple[EventKind, Place, Any, Any]] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    """Ports found open that were never asked before: `tcp/443`."""


def compare(
    host: Host,
    known: Iterable[ServiceRow],
    *,
    asked_before: Mapping[str, frozenset[int]],
    moves: Mapping[str, str],
) -> ServiceChanges:
    """Compare what was seen of an asset's ports with what is known.

    Args:
        host: What was seen.
        known: The asset's services, closed ones included.
        asked_before: Ports ever asked of this asset, by protocol: one that was never asked is learned, not added.
        moves: Addresses the asset moved from, and where to: its services moved with it.
    """
    changes = ServiceChanges()
    rows: dict[Place, ServiceRow] = {}
    for row in known:
        ip = moves.get(row.ip, row.ip)
        place = (ip, row.protocol, row.port)
        if ip != row.ip:
            if place in rows:
                continue  # it had both addresses once: the row at the new one is the truth
            changes.moved.append((row.id, ip))
        rows[place] = row
    for place, service in host.services.items():
        # A source that does not say which ports it asked is compared with what is known, if anything is.
        says = (place[0], place[1]) in host.asked
        asked = service.port in asked_before.get(service.protocol, ()) if says else bool(rows)
        _open(changes, place, service, rows.get(place), asked=asked)
    for place, row in rows.items():
        ip, protocol, port = place
        if not row.active or place in host.services or port not in host.asked.get((ip, protocol), ()):
            continue
        if place in host.refused or row.missed_scans + 1 >= MISSES:
            changes.closed.append(row.id)
            changes.events.append((EventKind.SERVICE_REMOVED, place, _said(row), None))
        else:
            changes.missed.append(row.id)
    return changes


def _open(
    changes: ServiceChanges,
    place: Place,
    service: ObservedService,
    row: ServiceRow | None,
    *,
    asked: bool,
) -> None:
    if row is None or not row.active:
        changes.write[place] = service
        if row is not None or asked:
            changes.events.append((EventKind.SERVICE_ADDED, place, None, _said(service)))
        else:
            changes.learned.append(f"{service.protocol}/{service.port}")
        return
    # What this scan could not tell is kept: a light probe knows less than a deep one did.
    name, product = service.name or row.name, service.product or row.product
    version = service.version or (row.version if product == row.product else "")
    if (name, product, version) == (row.name, row.product, row.version):
        changes.seen.append(row.id)
        return
    changes.write[place] = ObservedService(service.protocol, service.port, name, product, version)
    if any(before and before != after for before, after in zip(row[5:8], (name, product, version), strict=True)):
        changes.events.append((EventKind.SERVICE_CHANGED, place, _said(row), _said(changes.write[place])))


def _said(service: ServiceRow | ObservedService) -> dict[str, str]:
    """Return what is known about a service, without what is empty."""
    said = {"name": service.name, "product": service.product, "version": service.version}
    return {key: value for key, value in said.items() if value}


def ports_asked(host: Host, before: Mapping[str, frozenset[int]]) -> dict[str, str]:
    """Return all ports ever asked, by protocol, as PortLists; only protocols to which this host adds some."""
    asked: dict[str, frozenset[int]] = {}
    for (_, protocol), ports in host.asked.items():
        known = asked.get(protocol) or before.get(protocol, frozenset())
        if not ports <= known:
            asked[protocol] = ports | known
    return {protocol: _written(ports) for protocol, ports in asked.items()}


@lru_cache(maxsize=256)
def _written(ports: frozenset[int]) -> str:
    return format_ports(ports)


def asked_of(tcp: str, udp: str) -> dict[str, frozenset[int]]:
    """Return the ports a row's PortLists name."""
    return {"tcp": check_ports(tcp), "udp": check_ports(udp)}
