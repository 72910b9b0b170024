"""What devices on our own links say when everybody is asked by mDNS and SSDP: hosts the sweep missed, names, and Axis devices.

Asked once per discovery, where it is wanted, of links that lie wholly in its scope: such a question reaches everybody on the link. What is
said is the device's own word, kept as facts of hosts that were seen otherwise; it makes no host of its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flows._text import count
from tasks.core.errors import ToolError
from tasks.network.capture._scapy_order import Probe
from tasks.network.capture.scapy import Scapy, ScapyResult, scapy
from tasks.network.scan._links import Link, ipv4_links

if TYPE_CHECKING:
    from flows._scan import Sighting
    from flows._scope import Plan
    from tasks.network.capture._scapy_rows import Announcement

LISTEN_SECONDS = 3.0
"""How long answers are awaited: SSDP devices take up to two seconds on purpose, mDNS ones half of one."""
MOST_SILENT = 8
"""Hosts a digest names that announce themselves and did not answer."""
MOST_SAID, LONGEST_FACT = 6, 240
_PROBES = {Probe.MDNS: "mDNS", Probe.SSDP: "SSDP"}


@dataclass
class Announced:
    """What was said.

    Attributes:
        facts: Metadata by the address that said it.
        notes: What a person should know: links that were not asked, and why.
    """

    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


async def ask_links(plan: Plan, site: str) -> Announced:
    """Ask our own links that lie in a discovery's scope. A link that cannot be asked costs a note."""
    scope = [ipaddress.ip_network(text) for text in plan.asked]
    found = Announced()
    asked = False
    by_interface: dict[str, list[Link]] = {}
    for link in await ipv4_links():
        if link.arp:
            by_interface.setdefault(link.interface, []).append(link)
    for interface, links in by_interface.items():
        networks = [link.network for link in links]
        if not any(network.overlaps(one) for network in networks for one in scope if one.version == 4):
            continue
        asked = True
        if outside := [network for network in networks if not _covered(network, scope)]:
            reached = ", ".join(map(str, outside))
            found.notes.append(f"Nobody was asked for announcements on {interface}: {reached} is not wholly in scope.")
            continue
        for probe in _PROBES:
            await _ask(probe, interface, [str(network) for network in networks], site, found)
    if not asked:
        found.notes.append("Nobody was asked for announcements: none of this machine's links is in scope.")
    return found


async def _ask(probe: Probe, interface: str, networks: list[str], site: str, found: Announced) -> None:
    try:
        answer: ScapyResult = await scapy(
            Scapy(probe=probe, interface=interface, targets=networks, timeout=LISTEN_SECONDS, site=site)
        )
    except ToolError as problem:
        found.notes.append(f"{_PROBES[probe]} was not asked on {interface}: {problem.message}")
        return
    found.notes += [f"{_PROBES[probe]} on {interface}: {note}" for note in answer.notes]
    for one in answer.announcements:
        found.facts.setdefault(one.address, {}).update(facts_of(one))


def _covered(network: ipaddress.IPv4Network, scope: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return any(isinstance(one, ipaddress.IPv4Network) and network.subnet_of(one) for one in scope)


def facts_of(said: Announcement) -> dict[str, str]:
    """What an announcement says, as metadata."""
    told: Mapping[str, Iterable[str | None]]
    if said.protocol == "mdns":
        told = {
            "mdns_name": sorted(service.name for service in said.services),
            "mdns_host": sorted(said.names),
            "mdns_services": sorted({*said.kinds, *(service.kind for service in said.services)}),
        }
    else:
        told = {"ssdp_server": [said.server], "ssdp_usn": sorted(said.usns)}
    facts = {key: ", ".join([text for text in texts if text][:MOST_SAID])[:LONGEST_FACT] for key, texts in told.items()}
    return {key: text for key, text in facts.items() if text}


def with_announced(sightings: Sequence[Sighting], announced: Announced) -> list[Sighting]:
    """Add what hosts announced to what they were seen to be."""
    return [
        replace(sighting, said=replace(sighting.said, facts={**said, **sighting.said.facts}))
        if (said := announced.facts.get(sighting.address))
        else sighting
        for sighting in sightings
    ]


def silent_ones(sightings: Iterable[Sighting], plan: Plan, announced: Announced) -> list[str]:
    """Say which hosts in scope announced themselves and did not answer the sweep."""
    seen = {sighting.address for sighting in sightings}
    scanned = [network for shard in plan.shards for network in shard.networks]
    silent = [
        address
        for address in sorted(announced.facts, key=ipaddress.ip_address)
        if address not in seen and any(ipaddress.ip_address(address) in network for network in scanned)
    ]
    notes = [
        f"{address} did not answer, and announces itself as {_called(announced.facts[address])}." for address in silent
    ]
    if (more := len(silent) - MOST_SILENT) > 0:
        notes[MOST_SILENT:] = [
            f"{count(more, 'more host announces itself', 'more hosts announce themselves')} and did not answer."
        ]
    return notes


def _called(facts: Mapping[str, str]) -> str:
    for key in ("mdns_name", "mdns_host", "ssdp_server", "mdns_services", "ssdp_usn"):
        if key in facts:
            return facts[key]
    return "something without a name"
