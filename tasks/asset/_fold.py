"""Put the observations of one batch together: one `Host` for each thing that was seen, however many methods saw it.

Pure: no database. What is decided here is only what the batch itself proves. Two observations are of one host when they have
the same address, the same strong identity (not a MAC: containers share their host's), or when one payload read from a device
accounts for both addresses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks.asset._fields import OBSERVED_FIELDS, Claim, Rank
from tasks.asset._identity import (
    MATCH_ORDER,
    Kind,
    MacKind,
    choose_name,
    classify_mac,
    clean_name,
    clean_serial,
    is_host_local,
    is_no_host,
    oui_vendor,
    parse_address,
    serial_key,
)
from tasks.asset._observation import ObservedHost, ObservedService, check_ports
from tasks.core.models import Network

PROXY_ARP = 16
"""Addresses of separate hosts that answer with one MAC before it counts as a proxy. Hosts with a few containers have fewer."""

Key = tuple[str, str]


@dataclass(slots=True)
class Host:
    """One thing seen in a batch, with everything that was said about it."""

    observations: list[ObservedHost] = field(default_factory=list)
    addresses: dict[str, str | None] = field(default_factory=dict)
    """Where it answered, with the MAC that answered there, if one did first-hand."""
    payload: set[str] = field(default_factory=set)
    """Addresses the device itself says are its own."""
    keys: dict[Key, None] = field(default_factory=dict)
    """Strong identity but the MAC: external id, serial, chassis id, SSH host keys; ordered."""
    pinned: int | None = None
    told_macs: set[str] = field(default_factory=set)
    """MACs a third party gave."""
    names: dict[str, None] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    services: dict[tuple[str, str, int], ObservedService] = field(default_factory=dict)
    asked: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)
    """Ports asked, by address and protocol; hosts of one scan share one set."""
    refused: set[tuple[str, str, int]] = field(default_factory=set)
    shared_mac: bool = False
    """Its MAC answered for others in this batch too: it identifies nobody."""
    owns_mac: bool = True
    """Of those that share a MAC, the one with the lowest address gets it, where nobody had it yet."""
    proxied: bool = False
    """A proxy answered for it: the answer proves nothing."""
    scanned: bool = False
    """Seen by something else than third parties."""

    @property
    def seen_at(self) -> datetime:
        """When it was seen last."""
        return max(observation.seen_at for observation in self.observations)

    @property
    def methods(self) -> set[str]:
        """How it was seen."""
        return {observation.method for observation in self.observations}

    @property
    def macs(self) -> list[str]:
        """MACs that answered for it first-hand, distinct."""
        return list(dict.fromkeys(mac for mac in self.addresses.values() if mac))

    @property
    def all_addresses(self) -> set[str]:
        """Where it answered, and what it says is its own."""
        return self.payload | self.addresses.keys()

    @property
    def address(self) -> str | None:
        """Where it answered first, if anywhere."""
        return next(iter(self.addresses), None)

    @property
    def name(self) -> str | None:
        """The name to show, if it has one that says something."""
        return choose_name(self.names)

    @property
    def label(self) -> str:
        """What a person calls it."""
        serial = self.claims.get("serial")
        return self.name or self.address or next(iter(self.macs), "") or (serial.value if serial else "")

    def ask(self, where: tuple[str, str], ports: frozenset[int]) -> None:
        """Note that ports were asked, without a copy where nothing is added."""
        before = self.asked.get(where)
        self.asked[where] = (
            ports if before is None or before <= ports else before if ports <= before else before | ports
        )

    def strong_of(self, kind: Kind) -> set[str]:
        """Return its identities of one kind."""
        return {value for key, value in self.keys if key == kind}

    def absorb(self, other: Host) -> None:
        """Take over everything that was said about `other`: they are one."""
        self.observations += other.observations
        for address, mac in other.addresses.items():
            self.addresses[address] = self.addresses.get(address) or mac
        self.payload |= other.payload
        self.keys |= other.keys
        self.pinned = self.pinned or other.pinned
        self.told_macs |= other.told_macs
        self.names |= other.names
        for name, claim in other.claims.items():
            if claim.beats(self.claims.get(name)):
                self.claims[name] = claim
        for key, service in other.services.items():
            self.services[key] = _richer(self.services.get(key), service)
        for where, ports in other.asked.items():
            self.ask(where, ports)
        self.refused |= other.refused
        self.shared_mac |= other.shared_mac
        self.owns_mac &= other.owns_mac
        self.proxied &= other.proxied
        self.scanned |= other.scanned


@dataclass(slots=True)
class VirtualSighting:
    """A virtual router's address, with who says it is answering there now."""

    address: str
    mac: str | None
    seen_at: datetime
    method: str
    claimed_by: list[Host] = field(default_factory=list)


@dataclass(slots=True)
class DuplicateAddress:
    """Two devices answered for one address."""

    address: str
    observations: list[ObservedHost]

    @property
    def macs(self) -> list[str]:
        """The MACs that answered."""
        return sorted({o.mac for o in self.observations if o.mac and o.mac_first_hand})


@dataclass(slots=True)
class Folded:
    """A batch, put together."""

    hosts: list[Host] = field(default_factory=list)
    virtual: dict[str, VirtualSighting] = field(default_factory=dict)
    duplicates: list[DuplicateAddress] = field(default_factory=list)
    proxies: dict[str, list[Host]] = field(default_factory=dict)
    unowned: list[ObservedHost] = field(default_factory=list)
    """Observations that speak of no host: container bridges, broadcast addresses, virtual addresses."""
    put_together: int = 0


def fold(
    observations: Sequence[ObservedHost], *, declared: Iterable[Network] = (), virtual: Mapping[str, Any] | None = None
) -> Folded:
    """Put the observations of a batch together.

    Args:
        observations: All of one site.
        declared: Networks an operator declared: addresses in them are real even where container bridges usually are.
        virtual: Addresses known to be virtual from earlier runs.
    """
    result = Folded()
    declared = tuple(declared)
    known_virtual = set(virtual or ())
    virtual_macs = {
        observation.address: observation.mac
        for observation in observations
        if observation.address and observation.mac and classify_mac(observation.mac) is MacKind.VIRTUAL
    }
    hosts = _by_address(observations, declared, known_virtual | virtual_macs.keys(), virtual_macs, result)
    _claim_virtual(hosts, known_virtual | virtual_macs.keys(), result)
    hosts = _join(hosts, result)
    _judge_macs(hosts, result)
    result.hosts = hosts
    result.put_together = sum(len(host.observations) - 1 for host in hosts)
    return result


def _claim_virtual(hosts: list[Host], virtual: Collection[str], result: Folded) -> None:
    """Note which devices say that a virtual address is theirs at the moment."""
    for host in hosts:
        for observation in host.observations:
            for address in observation.addresses:
                if address in virtual:
                    sighting = result.virtual.setdefault(
                        address, VirtualSighting(address, None, observation.seen_at, observation.method)
                    )
                    sighting.claimed_by.append(host)


def _by_address(
    observations: Sequence[ObservedHost],
    declared: Collection[Network],
    virtual: Collection[str],
    virtual_macs: Mapping[str, str | None],
    result: Folded,
) -> list[Host]:
    """Group by address, setting aside what is no host's."""
    groups: dict[str | int, list[ObservedHost]] = defaultdict(list)
    for number, observation in enumerate(observations):
        groups[number if observation.address is None else observation.address].append(observation)
    hosts: list[Host] = []
    for where, group in groups.items():
        if not isinstance(where, str):
            hosts.append(_host(group, declared, virtual, address=None))
            continue
        if where in virtual:
            latest = max(group, key=lambda observation: observation.seen_at)
            sighting = VirtualSighting(where, virtual_macs.get(where), latest.seen_at, latest.method)
            result.virtual[where] = sighting
            speaking = [observation for observation in group if _identified(observation)]
            result.unowned += [observation for observation in group if not _identified(observation)]
            if speaking:  # whoever answers there told who it is: the address is still not its own
                host = _host(speaking, declared, virtual, address=None)
                sighting.claimed_by.append(host)
                hosts.append(host)
            continue
        address = parse_address(where)
        if is_no_host(address) or (is_host_local(address, declared) and not address.is_loopback):
            result.unowned += group
            continue
        macs = {o.mac for o in group if o.mac and o.mac_first_hand and classify_mac(o.mac) is not MacKind.NONE}
        if len(macs) > 1:
            result.duplicates.append(DuplicateAddress(where, group))
            continue
        hosts += _by_serial(group, declared, virtual)
    return hosts


def _by_serial(group: list[ObservedHost], declared: Collection[Network], virtual: Collection[str]) -> list[Host]:
    """Members of a stack share its address: their serials keep them apart, and the first has the address."""
    parts: dict[str | None, list[ObservedHost]] = defaultdict(list)
    for observation in group:
        parts[serial_key(_vendor(observation), observation.serial)].append(observation)
    anonymous = parts.pop(None, [])
    if not parts:
        return [_host(anonymous, declared, virtual, address=group[0].address)]
    hosts = []
    for number, part in enumerate(parts.values()):
        address = group[0].address if number == 0 else None
        hosts.append(_host(part + (anonymous if number == 0 else []), declared, virtual, address=address))
    return hosts


def _identified(observation: ObservedHost) -> bool:
    return bool(
        observation.asset_id
        or observation.external_id
        or observation.chassis_id
        or observation.ssh_host_keys
        or serial_key(_vendor(observation), observation.serial)
    )


def _vendor(observation: ObservedHost) -> str | None:
    return observation.vendor or (oui_vendor(observation.mac) if observation.mac else None)


def _host(
    group: list[ObservedHost], declared: Collection[Network], virtual: Collection[str], *, address: str | None
) -> Host:
    """Make a host of observations known to be of one thing."""
    host = Host(observations=list(group))
    for observation in sorted(group, key=lambda o: (not o.authoritative, o.third_party)):
        host.scanned |= not observation.third_party
        if address is not None and not observation.third_party:
            host.addresses.setdefault(address, None)
        mac = observation.mac
        if mac and classify_mac(mac) not in (MacKind.NONE, MacKind.VIRTUAL):
            if observation.mac_first_hand and address is not None:
                host.addresses[address] = mac
            else:
                host.told_macs.add(mac)
        host.pinned = host.pinned or observation.asset_id
        for kind, value in _strong_keys(observation):
            host.keys[kind, value] = None
        for text in observation.addresses:
            own = parse_address(text)
            if text not in virtual and not is_host_local(own, declared) and not is_no_host(own):
                host.payload.add(text)
        if observation.authoritative and address is not None and not parse_address(address).is_loopback:
            host.payload.add(address)
        for name in map(clean_name, observation.hostnames):
            if name:
                host.names[name] = None
        _claim(host, observation)
        if address is not None:
            _ports(host, observation, address)
    if address is not None and not host.addresses:
        host.addresses = {address: None}  # third parties alone spoke of it
    name = host.name
    if name:
        said = next(o for o in group if name in map(clean_name, o.hostnames))
        host.claims["hostname"] = Claim(name, _rank(said), said.method, said.seen_at)
    return host


def _strong_keys(observation: ObservedHost) -> Iterator[Key]:
    if observation.external_id:
        yield Kind.EXTERNAL, observation.external_id
    if not observation.third_party:
        serial = serial_key(_vendor(observation), observation.serial)
        if serial:
            yield Kind.SERIAL, serial
        if observation.chassis_id and len(observation.chassis_id.strip()) > 2:
            yield Kind.CHASSIS, observation.chassis_id.strip().lower()
        for fingerprint in observation.ssh_host_keys:
            yield Kind.SSH_HOST_KEY, fingerprint


def _rank(observation: ObservedHost) -> Rank:
    if observation.third_party:
        return Rank.THIRD_PARTY
    return Rank.AUTHORITATIVE if observation.authoritative else Rank.SCAN


def _claim(host: Host, observation: ObservedHost) -> None:
    rank = _rank(observation)
    said: dict[str, Any] = {
        name: getattr(observation, name) for name in OBSERVED_FIELDS if name not in ("hostname", "serial")
    }
    if clean_serial(observation.serial):
        said["serial"] = (observation.serial or "").strip()
    for name, value in said.items():
        text = str(value).strip() if value else ""
        if text:
            claim = Claim(text, rank, observation.method, observation.seen_at)
            if claim.beats(host.claims.get(name)):
                host.claims[name] = claim
    if "vendor" not in host.claims and observation.mac:
        maker = oui_vendor(observation.mac)
        if maker:
            host.claims["vendor"] = Claim(maker, min(rank, Rank.SCAN), observation.method, observation.seen_at)
    for name, value in observation.metadata.items():
        if value is not None:
            claim = Claim(value, rank, observation.method, observation.seen_at)
            if claim.beats(host.claims.get(f"metadata.{name}")):
                host.claims[f"metadata.{name}"] = claim


def _ports(host: Host, observation: ObservedHost, address: str) -> None:
    for service in observation.services:
        key = (address, service.protocol, service.port)
        host.services[key] = _richer(host.services.get(key), service)
    for protocol, scanned in (("tcp", observation.scanned_tcp), ("udp", observation.scanned_udp)):
        if scanned is not None:
            host.ask((address, protocol), check_ports(scanned))
    host.refused.update((address, "tcp", port) for port in check_ports(observation.refused_tcp))


def _richer(one: ObservedService | None, other: ObservedService) -> ObservedService:
    """Put two sightings of a port together: what one does not say, the other may."""
    if one is None or one == other:
        return other
    return ObservedService(
        other.protocol,
        other.port,
        other.name or one.name,
        other.product or one.product,
        other.version or (one.version if not other.product or other.product == one.product else ""),
    )


# --- one host by identity or by payload ------------------------------------------------------------------------------


def _join(hosts: list[Host], result: Folded) -> list[Host]:
    """Join hosts that one strong identity or one payload proves to be one."""
    leader = list(range(len(hosts)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    def join(one: int, other: int) -> None:
        one, other = sorted((find(one), find(other)))
        leader[other] = one

    by_key: dict[Key, list[int]] = defaultdict(list)
    by_address: dict[str, int] = {}
    for number, host in enumerate(hosts):
        if host.pinned is not None:
            by_key["pinned", str(host.pinned)].append(number)
        for key in host.keys:
            by_key[key].append(number)
        for address in host.addresses:
            by_address[address] = number
    for numbers in _dual_stack(hosts):
        for other in numbers[1:]:
            if not contradict(hosts[numbers[0]], hosts[other]):
                join(numbers[0], other)
    for (kind, _), numbers in by_key.items():
        if kind != Kind.SSH_HOST_KEY:
            for other in numbers[1:]:
                join(numbers[0], other)
    claims: dict[str, list[int]] = defaultdict(list)
    for number, host in enumerate(hosts):
        for address in host.payload:
            claims[address].append(number)
    for address, numbers in claims.items():
        owners = {find(number) for number in numbers}
        if len(owners) > 1 and any(contradict(hosts[a], hosts[b]) for a in owners for b in owners if a < b):
            _call_virtual(address, [hosts[number] for number in numbers], by_address, hosts, result)
            continue
        there = by_address.get(address)
        everyone = [*numbers, *([] if there is None else [there])]
        for other in everyone[1:]:
            if not contradict(hosts[everyone[0]], hosts[other]):
                join(everyone[0], other)
    # A key that hosts share which nothing else joins is of a cloned image: it identifies none of them.
    for (kind, value), numbers in by_key.items():
        if kind == Kind.SSH_HOST_KEY and len({find(number) for number in numbers}) > 1:
            for number in numbers:
                hosts[number].keys.pop((kind, value), None)
    joined: dict[int, Host] = {}
    renamed: dict[int, Host] = {}
    for number, host in enumerate(hosts):
        if not (host.addresses or host.keys or host.pinned or host.payload):
            result.unowned += host.observations
            continue
        first = joined.setdefault(find(number), host)
        if first is not host:
            first.absorb(host)
        renamed[id(host)] = first
    for sighting in result.virtual.values():
        sighting.claimed_by = list({id(h): h for h in (renamed.get(id(c), c) for c in sighting.claimed_by)}.values())
    return list(joined.values())


def _dual_stack(hosts: list[Host]) -> Iterator[list[int]]:
    """Yield hosts that are one interface with its IPv4 and its IPv6 addresses: one MAC, and at most one IPv4 address.

    Several IPv4 addresses with one MAC are containers or a proxy until something better says they are one.
    """
    by_mac: dict[str, list[int]] = defaultdict(list)
    for number, host in enumerate(hosts):
        for mac in host.macs:
            by_mac[mac].append(number)
    for numbers in by_mac.values():
        if 1 < len(numbers) < PROXY_ARP:
            versions = [parse_address(address).version for number in numbers for address in hosts[number].addresses]
            if versions.count(4) <= 1:
                yield numbers


def _call_virtual(
    address: str, claimants: list[Host], by_address: dict[str, int], hosts: list[Host], result: Folded
) -> None:
    """Two devices of different identity both say an address is their own: it moves between them, and is neither's."""
    for host in claimants:
        host.payload.discard(address)
    there = by_address.pop(address, None)
    mac = None
    if there is not None:
        mac = hosts[there].addresses.pop(address, None)
    latest = max((o for host in claimants for o in host.observations), key=lambda o: o.seen_at)
    result.virtual[address] = VirtualSighting(address, mac, latest.seen_at, latest.method, list(claimants))


def contradict(one: Host, other: Host) -> bool:
    """Whether two hosts cannot be one: both read from the device, and different serials or chassis."""
    for kind in (Kind.EXTERNAL, Kind.SERIAL, Kind.CHASSIS):
        left, right = one.strong_of(kind), other.strong_of(kind)
        if left and right and not left & right:
            return True
    return False


# --- what MACs are worth in this batch -------------------------------------------------------------------------------


def _judge_macs(hosts: list[Host], result: Folded) -> None:
    """Mark hosts whose MAC answered for others too."""
    by_mac: dict[str, list[Host]] = defaultdict(list)
    for host in hosts:
        for mac in host.macs:
            by_mac[mac].append(host)
    for mac, sharers in by_mac.items():
        if len(sharers) < 2:
            continue
        proxy = len(sharers) >= PROXY_ARP
        if proxy:
            result.proxies[mac] = sharers
        first = min(sharers, key=_place)
        for host in sharers:
            host.shared_mac = True
            host.proxied = proxy
            host.owns_mac = host is first and not proxy


def _place(host: Host) -> tuple[int, int]:
    address = parse_address(host.address or "::")
    return address.version, int(address)


def match_keys(host: Host) -> list[Key]:
    """Return the identity of a host in the order in which it decides, MACs last."""
    order = {kind.value: place for place, kind in enumerate(MATCH_ORDER)}
    keys = sorted(host.keys, key=lambda key: order[key[0]])
    return [*keys, *((Kind.MAC.value, mac) for mac in host.macs)]
