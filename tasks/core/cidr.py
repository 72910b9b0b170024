"""Sets of addresses: exact arithmetic on prefixes, with every IPv4 address in one form only.

IPv4-mapped IPv6 (`::ffff:10.0.0.5`) is the IPv4 address it means, everywhere. Forms that carry an IPv4 address which a
packet will reach in the end (NAT64, 6to4, Teredo and others) stay IPv6, and `embedded_ipv4` says what they carry.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from tasks.core.models import Address, Network

Span = tuple[int, int]
"""First and last address of a run, as numbers."""

V = TypeVar("V")

_BITS = {4: 32, 6: 128}

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215; read as a /96, the usual length
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765 (SIIT)
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291 2.5.5.1, deprecated
_6TO4 = ipaddress.IPv6Network("2002::/16")  # RFC 3056
_TEREDO = ipaddress.IPv6Network("2001::/32")  # RFC 4380
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: upper half of the interface identifier
_LOW32 = (1 << 32) - 1


def canonical(address: Address) -> Address:
    """Return the IPv4 address an IPv4-mapped IPv6 address means; every other address as it is."""
    if address.version == 6 and (mapped := address.ipv4_mapped) is not None:
        return mapped
    return address


def embedded_ipv4(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """IPv4 addresses that a packet to this IPv6 address may reach through a translator or a tunnel.

    >>> embedded_ipv4(ipaddress.ip_address("64:ff9b::10.0.0.5"))
    (IPv4Address('10.0.0.5'),)
    """
    if address.version == 4:
        return ()
    value = int(address)
    low, found = value & _LOW32, []
    if address in _6TO4:
        found.append(value >> 80 & _LOW32)
    elif address in _TEREDO:
        found += [value >> 64 & _LOW32, low ^ _LOW32]  # the server, and the client (stored inverted)
    elif any(address in carrier for carrier in (_NAT64, _NAT64_LOCAL, _TRANSLATED)) or (
        address in _COMPATIBLE and low > 1
    ):
        found.append(low)
    if (value >> 32 & _LOW32) in _ISATAP:
        found.append(low)
    return tuple(ipaddress.IPv4Address(number) for number in dict.fromkeys(found))


def may_embed_ipv4(network: Network) -> bool:
    """Whether a prefix holds addresses for which `embedded_ipv4` says something; IPv6 wider than /96 always does."""
    if network.version == 4:
        return False
    # From /96 on, the bits that mark a carrier are the same for all addresses; but ::1 in ::/96 is no carrier, so look
    # at both ends.
    return network.prefixlen < 96 or any(embedded_ipv4(end) for end in (network[0], network[-1]))


def span(network: Network) -> Span:
    """First and last address of a prefix as numbers."""
    low = int(network.network_address)
    return low, low | (1 << _BITS[network.version] - network.prefixlen) - 1


def is_single(network: Network) -> bool:
    """Whether the prefix is one address (`num_addresses` says so too, ten times slower)."""
    return network.prefixlen == _BITS[network.version]


def single(address: Address) -> Network:
    """The prefix that holds this address alone."""
    return _network(address.version, int(address), _BITS[address.version])


class AddressSet:
    """A set of addresses, held as sorted, disjoint, non-adjacent spans: large sets cost what their fragments cost.

    >>> office = AddressSet([ipaddress.ip_network("10.0.0.0/24")]) - AddressSet([ipaddress.ip_network("10.0.0.128/25")])
    >>> [str(network) for network in office.networks()]
    ['10.0.0.0/25']
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        spans: dict[int, list[Span]] = {4: [], 6: []}
        for network in networks:
            spans[network.version].append(span(network))
        self._spans = {version: _merged(found) for version, found in spans.items()}
        self._starts = {version: [low for low, _ in found] for version, found in self._spans.items()}

    @classmethod
    def _of(cls, spans: dict[int, list[Span]]) -> AddressSet:
        made = cls()
        made._spans = spans
        made._starts = {version: [low for low, _ in found] for version, found in spans.items()}
        return made

    def __contains__(self, address: Address) -> bool:
        value = int(address)
        return self._covers(address.version, value, value)

    def covers(self, network: Network) -> bool:
        """Whether every address of the prefix is in the set."""
        return self._covers(network.version, *span(network))

    def overlaps(self, network: Network) -> bool:
        """Whether any address of the prefix is in the set."""
        low, high = span(network)
        at = bisect_right(self._starts[network.version], high) - 1
        return at >= 0 and self._spans[network.version][at][1] >= low

    def _covers(self, version: int, low: int, high: int) -> bool:
        at = bisect_right(self._starts[version], low) - 1
        return at >= 0 and self._spans[version][at][1] >= high

    def __or__(self, other: AddressSet) -> AddressSet:
        return AddressSet._of({version: _merged(self._spans[version] + other._spans[version]) for version in _BITS})

    def __sub__(self, other: AddressSet) -> AddressSet:
        return AddressSet._of(
            {version: list(_without(self._spans[version], other._spans[version])) for version in _BITS}
        )

    def __and__(self, other: AddressSet) -> AddressSet:
        return self - (self - other)

    def __bool__(self) -> bool:
        return any(self._spans.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddressSet) and self._spans == other._spans

    def __hash__(self) -> int:
        return hash(tuple(tuple(found) for found in self._spans.values()))

    def __repr__(self) -> str:
        return f"AddressSet({', '.join(map(str, self.networks()))})"

    def count(self) -> int:
        """How many addresses are in the set (`len` cannot say numbers this large)."""
        return sum(high - low + 1 for found in self._spans.values() for low, high in found)

    def networks(self) -> list[Network]:
        """The fewest prefixes that make up the set, IPv4 first, in order."""
        return [
            network for version, found in self._spans.items() for run in found for network in _prefixes(version, run)
        ]


class PrefixTable(Generic[V]):
    """Longest-prefix match: what the most specific entry says about an address or prefix."""

    def __init__(self, entries: Iterable[tuple[Network, V]]) -> None:
        # By version, longest prefix first: shift, and first bits -> value. There are few distinct lengths, so a look-up
        # is a few dict reads.
        self._tables: dict[int, list[tuple[int, dict[int, V]]]] = {4: [], 6: []}
        by_length: dict[tuple[int, int], dict[int, V]] = {}
        for network, value in entries:
            shift = _BITS[network.version] - network.prefixlen
            by_length.setdefault((network.version, shift), {}).setdefault(int(network.network_address) >> shift, value)
        for version, shift in sorted(by_length):
            self._tables[version].append((shift, by_length[version, shift]))

    def find(self, network: Network | Address) -> V | None:
        """Value of the most specific entry that holds all of `network`, or None."""
        if isinstance(network, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            value, width = int(network), 0
        else:
            value, width = int(network.network_address), _BITS[network.version] - network.prefixlen
        for shift, table in self._tables[network.version]:
            if shift >= width and (found := table.get(value >> shift)) is not None:
                return found
        return None


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return merged


def _without(spans: list[Span], removed: list[Span]) -> Iterator[Span]:
    """Subtract sorted disjoint spans from sorted disjoint spans, in one pass."""
    first = 0
    for start, high in spans:
        while first < len(removed) and removed[first][1] < start:
            first += 1
        low, at = start, first
        while at < len(removed) and removed[at][0] <= high:
            if removed[at][0] > low:
                yield low, removed[at][0] - 1
            low = max(low, removed[at][1] + 1)
            at += 1
        if low <= high:
            yield low, high


def _prefixes(version: int, run: Span) -> Iterator[Network]:
    low, high = run
    bits = _BITS[version]
    while low <= high:
        # The largest aligned block that starts at `low` and does not run past `high`.
        size = min((low & -low).bit_length() - 1 if low else bits, (high - low + 1).bit_length() - 1)
        yield _network(version, low, bits - size)
        low += 1 << size


def _network(version: int, first: int, length: int) -> Network:
    return ipaddress.IPv4Network((first, length)) if version == 4 else ipaddress.IPv6Network((first, length))
