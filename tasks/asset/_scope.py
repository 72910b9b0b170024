"""What a scan may conclude: where it really looked, and where silence means something."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from tasks.asset._identity import parse_address
from tasks.asset._ladder import SubnetBook
from tasks.asset._observation import ScanCoverage
from tasks.core.cidr import AddressSet, PrefixTable
from tasks.core.models import Network

_SINGLE_HOSTS = "single hosts"


class Scope:
    """Judges silence. Silence counts only where the scan ended and others answered.

    "Others answered" is judged for each network as it was asked for, or as it was declared if that is smaller: a dead uplink
    must not make everything behind it go missing because another network answered. Hosts asked for one by one count together.

    Args:
        coverage: What the scan did.
        answered: Addresses that answered, without the scanner's own and without doubtful ones.
        book: The site's declared networks.
    """

    def __init__(self, coverage: ScanCoverage, answered: Iterable[str], book: SubnetBook) -> None:
        self.coverage = coverage
        excluded = AddressSet(map(ipaddress.ip_network, coverage.excluded))
        self._finished = AddressSet(map(ipaddress.ip_network, coverage.finished)) - excluded
        asked: list[Network] = [ipaddress.ip_network(text) for text in coverage.planned or coverage.finished]
        declared = [network for network in book.networks if self._finished.overlaps(network)]
        groups = [(network, _SINGLE_HOSTS if network.num_addresses == 1 else str(network)) for network in asked]
        self._groups: PrefixTable[str] = PrefixTable(
            [*((network, str(network)) for network in declared if any(_inside(network, big) for big in asked)), *groups]
        )
        self._silent_about = {parse_address(text) for text in (*coverage.unknown, *coverage.local_addresses)}
        self._answers: Counter[str | None] = Counter()
        where = [address for address in map(parse_address, answered) if address in self._finished]
        for address in where:
            self._answers[self._groups.find(address)] += 1
        self.answered = len(where) if coverage.answered != 0 else 0
        self._where = where

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks that were scanned to the end, without what was excluded."""
        return tuple(map(str, self._finished.networks()))

    @property
    def suspect(self) -> bool:
        """Something was scanned to the end, and nothing answered."""
        return bool(self._finished) and not self.answered

    @property
    def silent_networks(self) -> tuple[str, ...]:
        """Networks as asked for that were scanned and did not answer at all."""
        silent = []
        for text in self.coverage.planned or self.coverage.finished:
            network = ipaddress.ip_network(text)
            if network.num_addresses == 1 or not self._finished.overlaps(network):
                continue
            if not self.answered or not any(address in network for address in self._where):
                silent.append(text)
        return tuple(silent)

    def covers(self, ip: str) -> bool:
        """Whether the scan looked at the address and ended."""
        return parse_address(ip) in self._finished

    def counts_silence(self, ip: str, doubtful: Collection[str] = ()) -> bool:
        """Whether silence at the address means that nothing is there."""
        address = parse_address(ip)
        if ip in doubtful or address in self._silent_about or address not in self._finished or not self.answered:
            return False
        return self._answers[self._groups.find(address)] > 0

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of `scan_history`: what ended and answered, as few prefixes as it takes."""
        if not self.answered:
            return []
        silent = AddressSet(ipaddress.ip_network(text) for text in self.silent_networks)
        networks = (self._finished - silent).networks()
        table: PrefixTable[str] = PrefixTable((network, str(network)) for network in networks)
        counts = Counter(table.find(address) for address in self._where)
        methods = list(self.coverage.methods)
        return [{"prefix": str(network), "methods": methods, "answered": counts[str(network)]} for network in networks]


def _inside(small: Network, large: Network) -> bool:
    return small.version == large.version and small.subnet_of(large)  # type: ignore[arg-type]  # same version, just compared
