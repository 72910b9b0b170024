"""Scanning one shard, and turning what the tools saw into observations."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from flows._agents import CONTAINER_LINKS, observe_agents
from flows._cameras import observe_axis
from flows._enrich import NOTHING_SAID, Said, certificate_hostnames, enrich
from flows._names import Names
from flows._scope import Plan, Shard
from tasks.asset._observation import ObservedHost, ObservedService
from tasks.core.errors import ToolError
from tasks.core.log import run_logger
from tasks.core.models import FileRef, format_ports, parse_ports
from tasks.core.process import find_program, run_command
from tasks.core.run import wiring
from tasks.network.scan.nmap import Nmap, NmapHost, NmapPort, NmapResult, nmap

if TYPE_CHECKING:
    from collections.abc import Iterable

Profile = Literal["quick", "standard", "deep"]

DEEP_PORTS = 1000
STANDARD_PORTS = 100
DEEP_UDP_PORTS = "53,67,69,111,123,137-138,161-162,445,500,514,520,631,1434,1900,4500,5353"


@dataclass(frozen=True)
class SeenService:
    """An open port, as scans report it."""

    protocol: str
    port: int
    name: str = ""
    product: str = ""
    version: str = ""

    @property
    def label(self) -> str:
        """What a table shows."""
        said = " ".join(part for part in (self.product or self.name, self.version) if part)
        return f"{self.port}/{self.protocol}" + (f" {said}" if said else "")


@dataclass(frozen=True)
class Sighting:
    """A host that answered."""

    address: str
    method: str
    seen_at: datetime
    mac: str | None = None
    vendor: str | None = None
    hostnames: tuple[str, ...] = ()
    services: tuple[SeenService, ...] = ()
    scanned_tcp: str | None = None
    scanned_udp: str | None = None
    refused_tcp: str = ""
    os: str | None = None
    evidence: FileRef | None = None
    own_addresses: tuple[str, ...] = ()
    said: Said = NOTHING_SAID
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardResult:
    """What a shard's scan brought.

    Attributes:
        sightings: Hosts that answered.
        complete: Whether every address was asked to the end.
        unknown: Addresses about which nothing can be said: their host ran into its time limit.
        error: Why part of it was not scanned; what was seen before is kept.
    """

    sightings: list[Sighting] = field(default_factory=list)
    complete: bool = True
    unknown: tuple[str, ...] = ()
    error: str = ""


async def scan_shard(
    shard: Shard,
    site: str,
    profile: Profile,
    names: Names,
    *,
    at_once: int = 1,
    snmp: str | None = None,
    announced: Mapping[str, Mapping[str, str]] | None = None,
    answered: Callable[[Iterable[str]], None] = lambda addresses: None,
) -> ShardResult:
    """Sweep a shard, then ask the live hosts only for ports, services and, in depth, their system; and for their names meanwhile.

    At last, but for `quick`, they are asked what they say about themselves.

    Args:
        shard: What to scan.
        site: The site.
        profile: How much is asked.
        names: Where names come from.
        snmp: Block with the site's SNMP credentials, if it has any.
        at_once: Shards scanned at the same time: each wishes for its part of the budget, else one takes all and the others wait.
        announced: What hosts said when everybody was asked, by address.
        answered: Is told the addresses that answered the sweep, at once.

    Raises:
        ToolError: The sweep failed: nothing is known of this shard.
    """
    rate = max(10, (await wiring().policy(site)).packets_per_second // at_once)
    swept = await nmap(Nmap(targets=shard.targets, profile="sweep", site=site, max_rate=rate))
    answered(host.address for host in swept.hosts)
    asking = asyncio.create_task(names.of([host.address for host in swept.hosts]))
    try:
        result = await _ask_live(shard, site, profile, swept, rate)
        found = await asking
    finally:
        asking.cancel()
    named = [
        replace(sighting, hostnames=(*found.get(sighting.address, ()), *sighting.hostnames))
        for sighting in result.sightings
    ]
    if profile != "quick" and named:
        named = await _enriched(named, site, snmp, names, announced)
    return replace(result, sightings=named)


async def _enriched(
    sightings: list[Sighting],
    site: str,
    snmp: str | None,
    names: Names,
    announced: Mapping[str, Mapping[str, str]] | None,
) -> list[Sighting]:
    """Add what the hosts say about themselves."""
    services = {sighting.address: sighting.services for sighting in sightings}
    vendors = {sighting.address: sighting.vendor for sighting in sightings}
    found = await enrich(services, site, snmp, vendors, announced)
    nameless = certificate_hostnames(found.said, (sighting.address for sighting in sightings if sighting.hostnames))
    leading = await names.leading_to(nameless)
    told = [
        replace(
            sighting,
            said=found.said.get(sighting.address, sighting.said),
            hostnames=(*sighting.hostnames, *leading.get(sighting.address, ())),
        )
        for sighting in sightings
    ]
    told[0] = replace(told[0], notes=(*told[0].notes, *found.notes))
    return told


async def _ask_live(shard: Shard, site: str, profile: Profile, swept: NmapResult, rate: int) -> ShardResult:
    sightings = {host.address: _sighting(host, swept) for host in swept.hosts}
    error = "" if swept.complete else f"the sweep was cut off after {swept.attempted} of {swept.planned} addresses"
    unknown: tuple[str, ...] = ()
    if profile != "quick" and sightings:
        try:
            asked = await nmap(_second_look(list(sightings), site, profile, rate))
        except ToolError as problem:
            # The sweep stands: who is there is known, what they offer is not.
            run_logger().warning("Ports of shard %s: %s", shard.label, problem)
            return ShardResult(list(sightings.values()), complete=swept.complete, error=f"ports not scanned: {problem}")
        for host in asked.hosts:
            before = sightings.get(host.address)
            sightings[host.address] = _with_ports(before or _sighting(host, asked), host, asked)
        unknown = tuple(host.address for host in asked.hosts if host.timed_out)
        if profile == "deep":
            sightings |= await _systems(sightings, site, rate)
    return ShardResult(list(sightings.values()), complete=swept.complete, unknown=unknown, error=error)


def _second_look(addresses: list[str], site: str, profile: Profile, rate: int) -> Nmap:
    return Nmap(
        targets=addresses,
        profile="services",
        discovery=False,
        site=site,
        max_rate=rate,
        top_ports=DEEP_PORTS if profile == "deep" else STANDARD_PORTS,
        udp_ports=DEEP_UDP_PORTS if profile == "deep" else None,
    )


async def _systems(sightings: dict[str, Sighting], site: str, rate: int) -> dict[str, Sighting]:
    """Ask hosts with an open port which system they run; not knowing it costs nothing else."""
    hosts = [
        address
        for address, sighting in sightings.items()
        if any(service.protocol == "tcp" for service in sighting.services)
    ]
    if not hosts:
        return {}
    try:
        guessed = await nmap(Nmap(targets=hosts, profile="os", discovery=False, site=site, max_rate=rate))
    except ToolError as problem:
        run_logger().warning("Operating systems are not known: %s", problem)
        return {}
    return {
        host.address: replace(sightings[host.address], os=host.os_guesses[0].name)
        for host in guessed.hosts
        if host.os_guesses and host.address in sightings
    }


def _sighting(host: NmapHost, result: NmapResult) -> Sighting:
    reason = host.reason or ""
    method = "arp" if host.mac else "icmp" if "echo" in reason or "timestamp" in reason else "tcp"
    return Sighting(
        address=host.address,
        method=method,
        seen_at=datetime.now(UTC),
        mac=host.mac,
        vendor=host.vendor,
        evidence=result.evidence[-1] if result.evidence else None,
        notes=result.notes if result.method == "connect" else (),
    )


def _with_ports(sighting: Sighting, host: NmapHost, result: NmapResult) -> Sighting:
    services = tuple(_service(port) for port in host.ports if port.state == "open")
    names = tuple(dict.fromkeys(port.hostname for port in host.ports if port.hostname))
    if host.timed_out:
        return replace(sighting, services=services, hostnames=(*sighting.hostnames, *names))
    return replace(
        sighting,
        mac=sighting.mac or host.mac,
        vendor=sighting.vendor or host.vendor,
        method=sighting.method if sighting.method != "icmp" or not services else "tcp",
        services=services,
        scanned_tcp=result.scanned_tcp or None,
        scanned_udp=result.scanned_udp or None,
        # Nothing was silent: what is not open refused, and a service that was there is gone for certain.
        refused_tcp=_refused(result.scanned_tcp, services) if host.filtered_ports == 0 else "",
        hostnames=(*sighting.hostnames, *names),
        evidence=result.evidence[-1] if result.evidence else sighting.evidence,
    )


def _refused(scanned: str, services: Sequence[SeenService]) -> str:
    opened = {service.port for service in services if service.protocol == "tcp"}
    return format_ports(set(parse_ports(scanned)) - opened) if scanned else ""


def _service(port: NmapPort) -> SeenService:
    name = port.service or ""
    # nmap says "http" inside "ssl"; people say https.
    if port.tunnel == "ssl":
        name = {"http": "https", "smtp": "smtps", "imap": "imaps", "pop3": "pop3s", "ldap": "ldaps"}.get(
            name, f"{name} over TLS" if name else "tls"
        )
    return SeenService(
        port.protocol,
        port.port,
        name if port.probed or name != "unknown" else "",
        port.product or "",
        port.version or "",
    )


def observe(sightings: Sequence[Sighting], plan: Plan, site: str) -> list[ObservedHost]:
    """Make observations of sightings; the name a host was asked by comes first, and what its SNMP agent says is one more."""
    hosts = [
        ObservedHost(
            address=sighting.address,
            method=sighting.method,
            seen_at=sighting.seen_at,
            site=site,
            mac=sighting.mac,
            mac_first_hand=sighting.mac is not None,
            hostnames=tuple(
                dict.fromkeys(
                    [
                        *([plan.names[sighting.address]] if sighting.address in plan.names else []),
                        *sighting.hostnames,
                    ]
                )
            ),
            vendor=sighting.vendor,
            addresses=sighting.own_addresses,
            services=tuple(
                ObservedService(s.protocol, s.port, s.name, s.product, s.version) for s in sighting.services
            ),
            scanned_tcp=sighting.scanned_tcp,
            scanned_udp=sighting.scanned_udp,
            refused_tcp=sighting.refused_tcp,
            os=sighting.os,
            ssh_host_keys=sighting.said.ssh_host_keys,
            metadata=sighting.said.facts,
            evidence=sighting.evidence,
        )
        for sighting in sightings
    ]
    agents = {sighting.address: sighting.said.agent for sighting in sightings if sighting.said.agent is not None}
    axis = [(sighting.address, sighting.said.axis) for sighting in sightings if sighting.said.axis is not None]
    return [*hosts, *observe_agents(agents, site), *observe_axis(axis, site, datetime.now(UTC))]


# --- this machine ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnAddress:
    """An address of this machine."""

    address: str
    interface: str
    mac: str | None


async def own_addresses() -> list[OwnAddress]:
    """Addresses of this machine; it never answers its own ARP, and must not go missing for that."""
    answer = await run_command([find_program("ip", "iproute2"), "-json", "addr", "show"], timeout=10)
    found = []
    for link in json.loads(answer.stdout or b"[]"):
        if link["ifname"].startswith(CONTAINER_LINKS):
            continue
        mac = link.get("address") if link.get("link_type") == "ether" else None
        found += [
            OwnAddress(entry["local"], link["ifname"], mac) for entry in link.get("addr_info", []) if "local" in entry
        ]
    return found


def add_own(sightings: Sequence[Sighting], own: Sequence[OwnAddress], shards: Iterable[Shard]) -> list[Sighting]:
    """Say of this machine's own addresses in scope what only it knows: present, its MAC, and that they are one host."""
    networks = [network for shard in shards for network in shard.networks]
    by_address = {item.address: item for item in own}
    outward = tuple(item.address for item in own if not _only_here(item.address))
    result = []
    for sighting in sightings:
        mine = by_address.pop(sighting.address, None)
        result.append(sighting if mine is None else _as_own(sighting, mine, outward))
    in_scope = [
        item
        for item in by_address.values()
        if any(ipaddress.ip_address(item.address) in network for network in networks)
    ]
    result += [_as_own(Sighting(item.address, "local", datetime.now(UTC)), item, outward) for item in in_scope]
    return result


def _as_own(sighting: Sighting, mine: OwnAddress, outward: tuple[str, ...]) -> Sighting:
    return replace(
        sighting,
        method="local",
        mac=mine.mac,
        hostnames=(socket.gethostname(), *sighting.hostnames),
        own_addresses=outward,
    )


def _only_here(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed.is_loopback or parsed.is_link_local


async def default_gateways() -> list[str]:
    """Gateways of this machine's default routes."""
    answer = await run_command([find_program("ip", "iproute2"), "-json", "route", "show", "default"], timeout=10)
    return [route["gateway"] for route in json.loads(answer.stdout or b"[]") if "gateway" in route]
