"""What a discovery will scan: the gate's yes, cut into shards of at most 256 addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core import gate
from tasks.core.errors import InvalidParameters
from tasks.core.models import MAX_TARGETS, Network, Scope

if TYPE_CHECKING:
    from blocks.policy import ProbePolicy

_LOOPBACK = {4: ipaddress.ip_network("127.0.0.1/32"), 6: ipaddress.ip_network("::1/128")}


@dataclass(frozen=True)
class Shard:
    """A part of the scope that is scanned, retried and lost as one.

    Attributes:
        number: Counting from 1.
        networks: Prefixes, together at most 256 addresses, of one IP version.
    """

    number: int
    networks: tuple[Network, ...]

    @property
    def label(self) -> str:
        """What a person calls it."""
        first, last = self.networks[0], self.networks[-1]
        return _plain(first) if len(self.networks) == 1 else f"{_plain(first)} ... {_plain(last)}"

    @property
    def targets(self) -> list[str]:
        """The prefixes, as tools take them."""
        return [_plain(network) for network in self.networks]


@dataclass(frozen=True)
class Plan:
    """The scope of one discovery.

    Attributes:
        asked: The networks as asked, merged, before exclusions.
        excluded: What policy keeps us from.
        shards: What will be scanned.
        notes: What a person should know: merged targets, exclusions, names that do not resolve.
        allowed_by: The rules that allow it.
        names: Host names asked for, by pinned address.
    """

    asked: tuple[str, ...]
    excluded: tuple[str, ...]
    shards: tuple[Shard, ...]
    notes: tuple[str, ...]
    allowed_by: str
    names: dict[str, str]

    @property
    def addresses(self) -> int:
        """How many addresses will be scanned."""
        return sum(network.num_addresses for shard in self.shards for network in shard.networks)


async def plan_scope(targets: Sequence[str] | None, policy: ProbePolicy) -> Plan:
    """Ask the gate and cut what it grants into shards. Nothing is sent.

    Args:
        targets: Prefixes, addresses or names; None: all that the site's policy allows.
        policy: The site's policy.

    Raises:
        InvalidParameters: A target is malformed, or none is given.
        Refused: Policy forbids it, or it is too large for one run.
        NotFound: No name resolves.
    """
    if targets is not None and not targets:
        raise InvalidParameters(
            "targets: an empty list names nothing.",
            hint="Name networks such as 192.168.1.0/24, or leave targets out for all that policy allows.",
        )
    asked = [_one_loopback(text) for text in (targets if targets is not None else _everything(policy))]
    merged = gate.normalise_targets(asked)
    grant = await gate.admit(Scope(targets=merged.targets, packets_per_second=0), policy)
    hosts = [ipaddress.ip_network(address) for granted in grant.targets for address in granted.addresses]
    networks = merge_networks([*(ipaddress.ip_network(text) for text in grant.networks), *hosts])
    names = {
        address: granted.asked for granted in grant.targets for address in granted.addresses if granted.asked != address
    }
    notes = [*merged.notes, *grant.notes, *(f"{missing.asked} does not resolve" for missing in grant.unresolved)]
    whole = [granted.network or address for granted in grant.targets for address in (granted.addresses or ("",))]
    return Plan(
        asked=tuple(dict.fromkeys(str(ipaddress.ip_network(text)) for text in whole if text)),
        excluded=tuple(map(str, grant.excluded)),
        shards=tuple(cut(networks)),
        notes=tuple(notes),
        allowed_by=grant.allowed_by,
        names=names,
    )


def cut(networks: Iterable[Network], most: int = MAX_TARGETS) -> list[Shard]:
    """Cut networks into shards of at most `most` addresses; small neighbours share one.

    >>> [shard.targets for shard in cut([ipaddress.ip_network("10.0.0.0/23"), ipaddress.ip_network("10.0.9.9/32")])]
    [['10.0.0.0/24'], ['10.0.1.0/24'], ['10.0.9.9']]
    """
    shards: list[Shard] = []
    current: list[Network] = []
    size = 0
    for network in sorted(networks, key=lambda item: (item.version, item.network_address)):
        longest = network.max_prefixlen - (most.bit_length() - 1)
        for part in network.subnets(new_prefix=longest) if network.prefixlen < longest else (network,):
            if current and (size + part.num_addresses > most or part.version != current[0].version):
                shards.append(Shard(len(shards) + 1, tuple(current)))
                current, size = [], 0
            current.append(part)
            size += part.num_addresses
    if current:
        shards.append(Shard(len(shards) + 1, tuple(current)))
    return shards


def merge_networks(networks: Sequence[Network]) -> list[Network]:
    """Merge networks of both IP versions."""
    four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _everything(policy: ProbePolicy) -> list[str]:
    if not policy.allow:
        raise InvalidParameters(
            f"targets: site {policy.site} allows nothing, so there is nothing to discover.",
            hint="Allow a network: signalbox policy allow 192.168.1.0/24",
        )
    return list(policy.allow)


def _one_loopback(text: str) -> str:
    """A loopback prefix is one host, this one: 127.0.0.0/8 has 16 million addresses that all mean it."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return text
    return _plain(_LOOPBACK[network.version]) if network.is_loopback and network.num_addresses > MAX_TARGETS else text


def _plain(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)
