"""What tools saw: the input of `reconcile`. The flow `discover` builds these from the results of scans and probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from tasks.asset._identity import parse_address
from tasks.core.models import FileRef, parse_mac, parse_network, parse_ports

FROM_THE_DEVICE = frozenset({"snmp", "vapix", "ssh", "api", "local"})
"""Methods that read from the device itself, logged in: what they say about it is authoritative."""
THIRD_PARTY = frozenset({"arp-table", "controller", "dhcp-lease", "third-party"})
"""Methods by which somebody else speaks of a host: they refresh assets or raise candidates, and never make assets."""


@dataclass(frozen=True, slots=True)
class ObservedService:
    """An open port.

    Attributes:
        protocol: `tcp` or `udp`.
        port: 1 to 65535.
        name: What speaks there (`https`), if known.
        product: Software, if known (`nginx`).
        version: Its version, if known.
    """

    protocol: str
    port: int
    name: str = ""
    product: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp") or not 0 < self.port < 65536:
            raise ValueError(f"{self.protocol}/{self.port} is no service; right would be tcp/443")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedHost:
    """One host as one method saw it. Several of one host in a batch are fine: they are put together.

    Attributes:
        address: Where it answered; None only for parts that have no address of their own (a stack member with its serial).
        method: How it was seen: `arp`, `icmp`, `tcp`, `udp`, `nmap`, one of `FROM_THE_DEVICE`, or one of `THIRD_PARTY`.
        seen_at: When, aware.
        site: The site it was seen from.
        mac: Its MAC, in any notation.
        mac_first_hand: The device itself gave the MAC: an ARP reply we asked for, its own SNMP agent.
        hostnames: Names it has (reverse DNS, its own), best first.
        asset_id: The asset it is known to be (pinned by who asked), if any.
        external_id: Its id in another system (`netbox:17`), if any.
        vendor: Who made it, as the device or its MAC prefix says.
        serial: Serial number read from the device; with `vendor` a strong identifier.
        chassis_id: LLDP or SNMP chassis id.
        ssh_host_keys: Fingerprints (`SHA256:...`).
        addresses: All addresses of its own that one payload of the device accounts for (SNMP ifTable, its API). Only with a
            method in `FROM_THE_DEVICE`: this is what may merge assets.
        services: Open ports at `address`.
        scanned_tcp: TCP ports that were asked at `address`, as a PortList; None when ports were not looked at. A known service
            whose port was not asked is left alone.
        scanned_udp: The same for UDP.
        refused_tcp: Ports of `scanned_tcp` that refused: closed for certain, not merely silent.
        type: What it is (`camera`, `printer`, `switch`), if known.
        model: Model name, if known.
        firmware: Firmware version, if known.
        os: Operating system, if known or guessed.
        location: Where it says it is (sysLocation), if it does.
        metadata: Other facts worth keeping with the asset, flat.
        evidence: The raw output this was read from.
        tool_run_id: The tool run that saw it.
    """

    address: str | None
    method: str
    seen_at: datetime
    site: str = "default"
    mac: str | None = None
    mac_first_hand: bool = False
    hostnames: tuple[str, ...] = ()
    asset_id: int | None = None
    external_id: str | None = None
    vendor: str | None = None
    serial: str | None = None
    chassis_id: str | None = None
    ssh_host_keys: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    services: tuple[ObservedService, ...] = ()
    scanned_tcp: str | None = None
    scanned_udp: str | None = None
    refused_tcp: str = ""
    type: str | None = None
    model: str | None = None
    firmware: str | None = None
    os: str | None = None
    location: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    evidence: FileRef | None = None
    tool_run_id: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.seen_at.tzinfo is None:
            raise ValueError("seen_at must be aware (UTC)")
        if self.address is not None:
            put(self, "address", str(parse_address(self.address)))
        elif not (self.serial or self.chassis_id or self.external_id or self.asset_id):
            raise ValueError("an observation without an address needs a serial, a chassis id or another identity")
        if self.addresses:
            if not self.authoritative:
                raise ValueError(f"{self.method!r} does not read from the device and cannot account for its addresses")
            put(self, "addresses", tuple(dict.fromkeys(str(parse_address(text)) for text in self.addresses)))
        if self.mac is not None:
            put(self, "mac", parse_mac(self.mac))

    @property
    def authoritative(self) -> bool:
        """Whether the device itself said it."""
        return self.method in FROM_THE_DEVICE

    @property
    def third_party(self) -> bool:
        """Whether somebody else said it."""
        return self.method in THIRD_PARTY

    def payload(self) -> dict[str, Any]:
        """Return what was seen as JSON, without what is empty and without what the observation's columns hold."""
        document: dict[str, Any] = {}
        for name in _PAYLOAD_FIELDS:
            value = getattr(self, name)
            if value:
                document[name] = list(value) if isinstance(value, tuple) else value
        if self.metadata:
            document["metadata"] = dict(self.metadata)
        if self.services:
            document["services"] = [
                {"protocol": service.protocol, "port": service.port}
                | ({"name": service.name} if service.name else {})
                | ({"product": service.product} if service.product else {})
                | ({"version": service.version} if service.version else {})
                for service in self.services
            ]
        return document


_PAYLOAD_FIELDS = tuple(
    item.name
    for item in dataclasses.fields(ObservedHost)
    if item.name
    not in {"address", "method", "seen_at", "site", "mac", "services", "metadata", "evidence", "tool_run_id"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanCoverage:
    """What a scan really did. An empty one (the default) makes nothing go missing.

    Attributes:
        planned: Networks as they were asked for. "Had other answers" is judged for each of them by itself.
        excluded: Networks and addresses policy kept us from.
        attempted: Networks for which packets were sent.
        finished: Networks that were scanned to the end: only there can something be missing.
        methods: How was asked (`arp`, `icmp`, `tcp`).
        answered: Hosts that answered; None: counted from the hosts.
        local_addresses: The scanner's own addresses. It never answers its own ARP: present, not missing.
        unknown: Addresses about which the scan can say nothing (their host ran into its time limit).
        confirmed_absent: Addresses that did not answer a second method either; see `missing_candidates`.
    """

    planned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    attempted: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    answered: int | None = None
    local_addresses: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    confirmed_absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("planned", "excluded", "attempted", "finished"):
            put(self, name, tuple(str(parse_network(text)) for text in getattr(self, name)))
        for name in ("local_addresses", "unknown"):
            put(self, name, tuple(str(parse_address(text)) for text in getattr(self, name)))
        put(self, "confirmed_absent", frozenset(str(parse_address(text)) for text in self.confirmed_absent))

    def confirming(self, absent: frozenset[str] | set[str]) -> ScanCoverage:
        """Return this coverage with the addresses a second method found absent too."""
        return dataclasses.replace(self, confirmed_absent=self.confirmed_absent | frozenset(absent))


@lru_cache(maxsize=4096)
def check_ports(text: str | None) -> frozenset[int]:
    """Return the ports of a PortList; none for None and the empty text."""
    return frozenset(parse_ports(text)) if text else frozenset()
