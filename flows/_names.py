"""Names of live hosts: what the system's resolver says, which is no probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.core.errors import ToolError
from tasks.core.log import run_logger
from tasks.network.probe.dns_lookup import (
    MAX_NAMES,
    DnsLookup,
    DnsLookupResult,
    DnsOutcome,
    RecordType,
    dns_lookup,
)

NAMES_FIRST = 8
"""Names asked for before the rest of a shard's."""
NAME_SECONDS = 2.0
"""How long each answer of the resolver is awaited."""
SILENCES = 2
"""Shards in a row about which the resolver says nothing, before it is left alone for the rest of the run."""


class Names:
    """Names of addresses, from the system's resolver, which is no probe. A resolver that is silent costs seconds and the names only.

    Args:
        site: The site.
        known: Addresses whose names are known already and not asked: this machine's own.
    """

    def __init__(self, site: str, known: Iterable[str] = ()) -> None:
        self._site, self._known = site, frozenset(known)
        self._silences = 0

    async def of(self, addresses: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the names of those addresses that have any."""
        found: dict[str, tuple[str, ...]] = {}
        wanted = [address for address in addresses if address not in self._known]
        # A few first: where no answer comes for them, none is awaited for hundreds.
        batches = [wanted[:NAMES_FIRST]] if wanted else []
        batches += [wanted[at : at + MAX_NAMES] for at in range(NAMES_FIRST, len(wanted), MAX_NAMES)]
        for number, batch in enumerate(batches):
            if self._silences >= SILENCES:
                break
            params = DnsLookup(
                names=batch, types=[RecordType.PTR], site=self._site, timeout=NAME_SECONDS, attempts=2 if number else 1
            )
            try:
                # Not tried again: without a resolver there are no names, now or in some seconds.
                answer: DnsLookupResult = await dns_lookup.spec.task.with_options(retries=0)(params)
            except ToolError as problem:
                self._silences = SILENCES
                run_logger().warning("Names are not known: %s", problem)
                break
            if all(reply.outcome is DnsOutcome.TIMEOUT for reply in answer.answers):
                self._silences += 1
                run_logger().warning("The resolver says nothing about %s: names are not known", batch[0])
                break
            self._silences = 0
            found |= names_of(answer)
        return found

    async def leading_to(self, candidates: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Return for each address those of its names that the resolver leads there.

        Args:
            candidates: Names by the address that is said to have them.
        """
        wanted = list(dict.fromkeys(name for names in candidates.values() for name in names))[:MAX_NAMES]
        if not wanted or self._silences >= SILENCES:
            return {}
        kinds = [RecordType.A, RecordType.AAAA]
        try:
            params = DnsLookup(names=wanted, types=kinds, site=self._site, timeout=NAME_SECONDS, attempts=1)
            answer: DnsLookupResult = await dns_lookup.spec.task.with_options(retries=0)(params)
        except (ToolError, ValueError) as problem:  # ValueError: a certificate may call itself anything
            run_logger().warning("Names of certificates are not looked up: %s", problem)
            return {}
        leads = {(reply.name, record.data) for reply in answer.answers for record in reply.records}
        return {
            address: tuple(name for name in names if (name, address) in leads) for address, names in candidates.items()
        }


def names_of(answer: DnsLookupResult) -> dict[str, tuple[str, ...]]:
    """Return the PTR names of each address that has any."""
    return {
        reply.name: tuple(dict.fromkeys(record.data.rstrip(".").lower() for record in reply.records))
        for reply in answer.answers
        if reply.records
    }
