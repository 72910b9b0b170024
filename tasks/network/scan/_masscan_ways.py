"""Which MAC a frame for a target goes to: masscan sends all of its frames to one, so targets are parted by it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.cidr import AddressSet
from tasks.core.errors import CommandFailed, MissingProgram, ToolTimeout
from tasks.core.process import find_program, run_command
from tasks.network.scan._links import COMMAND_SECONDS, Link, ipv4_links, routes_to
from tasks.network.scan.arp_scan import read_answers

MOST_NEAR_ADDRESSES = 1024
"""Addresses on our own links that are looked for by ARP."""
MOST_NEAR_HOSTS = 32
"""Hosts on our own links that get a masscan of their own; more are nmap's work."""
SOURCE_PORTS = 16
"""Source ports of one run; masscan wants a power of two."""
LOOPBACK = "loopback is no Ethernet: masscan makes whole frames and has no MAC to send them to"
OURSELVES = "it is this machine itself, which masscan's frames never reach"
NEAR = "each host on our own link has a MAC of its own, and masscan sends to one"

IPv4Network = ipaddress.IPv4Network


@dataclass(frozen=True)
class Way:
    """Where masscan's frames go.

    Attributes:
        interface: Our interface.
        source: Our address there.
        mac: MAC of the router, or of the one host.
        router: Address of the router; None for a host on our own link.
    """

    interface: str
    source: str
    mac: str
    router: str | None = None


@dataclass
class Ways:
    """Targets, parted.

    Attributes:
        found: Prefixes for each way.
        closed: Prefixes that masscan cannot scan, each with the reason.
        silent: Addresses on our own links that do not answer ARP: nobody is there.
        notes: What a reader must know.
    """

    found: dict[Way, list[IPv4Network]] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    silent: int = 0
    notes: list[str] = field(default_factory=list)


async def find_ways(targets: Iterable[IPv4Network], *, packets_per_second: int, seconds: float) -> Ways:
    """Part targets by the MAC their frames go to, asking the kernel's routing and neighbour tables, then ARP.

    Asking for a MAC by ARP is what the kernel does before any packet; it reaches our own links only.

    Args:
        targets: Prefixes that policy allows.
        packets_per_second: How fast ARP may ask.
        seconds: How long that may take.

    Raises:
        MissingProgram: ip is not installed.
        CommandFailed: ip does not say.
    """
    links = {link.interface: link for link in reversed(await ipv4_links())}
    pieces = _cut(ipaddress.collapse_addresses(targets), await _route_prefixes())
    routes = await routes_to(str(_some_host(piece)) for piece in pieces)
    ways = Ways()
    near: dict[str, list[IPv4Network]] = {}
    routed: dict[tuple[str, str, str], list[IPv4Network]] = {}
    for piece in pieces:
        route = routes.get(str(_some_host(piece)))
        reason = _why_not(piece, route, links)
        if reason or route is None:
            ways.closed[str(piece)] = reason or "there is no route to it"
        elif route.get("gateway"):
            routed.setdefault((route["dev"], route["gateway"], route.get("prefsrc", "")), []).append(piece)
        else:
            near.setdefault(route["dev"], []).append(piece)
    until = asyncio.get_running_loop().time() + seconds
    for (interface, router, source), networks in routed.items():
        mac = await _known_mac(interface, router) or (
            await _ask(interface, [router], packets_per_second, until, ways.notes)
        ).get(router)
        if mac is None:
            ways.closed |= {
                str(network): f"its router {router} does not answer ARP on {interface}" for network in networks
            }
            continue
        way = Way(interface, source or links[interface].address, mac, router)
        ways.found.setdefault(way, []).extend(ipaddress.collapse_addresses(networks))
    for interface, networks in near.items():
        await _find_near(ways, links[interface], networks, packets_per_second, until)
    return ways


async def _find_near(
    ways: Ways, link: Link, networks: list[IPv4Network], packets_per_second: int, until: float
) -> None:
    never = {link.address, str(link.network.network_address), str(link.network.broadcast_address)}
    count = sum(network.num_addresses for network in networks)
    if count > MOST_NEAR_ADDRESSES:
        ways.closed |= {str(network): f"{NEAR}; {count} addresses are too many to ask first" for network in networks}
        return
    asked = [str(address) for network in networks for address in network if str(address) not in never]
    try:
        macs = await _ask(link.interface, asked, packets_per_second, until, ways.notes)
    except (MissingProgram, CommandFailed, ToolTimeout) as error:
        ways.closed |= {str(network): f"{NEAR}; finding them failed: {error.message}" for network in networks}
        return
    ways.silent += len(asked) - len(macs)
    for number, (address, mac) in enumerate(macs.items()):
        if number < MOST_NEAR_HOSTS:
            ways.found.setdefault(Way(link.interface, link.address, mac), []).append(IPv4Network(address))
        else:
            ways.closed[address] = f"{NEAR}; {MOST_NEAR_HOSTS} of {len(macs)} hosts that are there were scanned"


def _why_not(piece: IPv4Network, route: dict[str, Any] | None, links: dict[str, Link]) -> str | None:
    if piece.is_loopback:
        return LOOPBACK
    if route is None:
        return "there is no route to it"
    if route.get("type") == "local" or route.get("dev") == "lo":
        return OURSELVES
    link = links.get(route.get("dev", ""))
    if link is None or link.mac is None:
        return f"{route.get('dev')} is no Ethernet interface with an IPv4 address"
    if not route.get("gateway") and not link.arp:
        return f"{link.interface} has no ARP"
    return None


def _cut(networks: Iterable[IPv4Network], prefixes: Iterable[IPv4Network]) -> list[IPv4Network]:
    """Cut prefixes along those of the routing tables, so that all of a piece goes one way."""
    cuts = sorted(set(prefixes), key=lambda prefix: prefix.prefixlen, reverse=True)
    pieces: list[IPv4Network] = []
    for network in networks:
        rest = AddressSet([network])
        for prefix in cuts:
            if prefix != network and prefix.subnet_of(network):
                inner = AddressSet([prefix]) & rest
                pieces += [part for part in inner.networks() if isinstance(part, IPv4Network)]
                rest = rest - inner
        pieces += [part for part in rest.networks() if isinstance(part, IPv4Network)]
    return pieces


def _some_host(piece: IPv4Network) -> ipaddress.IPv4Address:
    return piece[min(1, piece.num_addresses - 1)] if piece.prefixlen < 31 else piece[0]


async def _route_prefixes() -> list[IPv4Network]:
    argv = [find_program("ip"), "-4", "-json", "route", "show", "table", "all"]
    done = await run_command(argv, timeout=COMMAND_SECONDS, max_output_bytes=64 << 20)
    found = []
    for route in json.loads(done.stdout or b"[]"):
        text = route.get("dst", "default")
        if text != "default":
            found.append(IPv4Network(text, strict=False))
    return found


async def _known_mac(interface: str, address: str) -> str | None:
    argv = [find_program("ip"), "-4", "-json", "neigh", "show", "to", address, "dev", interface]
    done = await run_command(argv, timeout=COMMAND_SECONDS)
    for entry in json.loads(done.stdout or b"[]"):
        if entry.get("lladdr") and not set(entry.get("state", ())) & {"FAILED", "INCOMPLETE"}:
            return str(entry["lladdr"]).lower()
    return None


async def _ask(
    interface: str, addresses: list[str], packets_per_second: int, until: float, notes: list[str]
) -> dict[str, str]:
    """Ask for MACs by ARP; of an address that several claim, the first that answered."""
    if not addresses:
        return {}
    argv = [find_program("arp-scan"), "--interface", interface, "--plain", "--rtt", "--numeric", "--retry=2"]
    argv += ["--format=${ip}\\t${mac}\\t${rtt}", f"--interval={math.ceil(1_000_000 / packets_per_second)}u", "--file=-"]
    done = await run_command(
        argv,
        timeout=max(1.0, until - asyncio.get_running_loop().time()),
        stdin=("\n".join(addresses) + "\n").encode(),
    )
    answers = list(read_answers(done.stdout.decode(errors="replace"), interface))
    macs = {host.address: host.mac for host in reversed(answers)}
    notes += [
        f"{host.address} is claimed by {macs[host.address]}, which was scanned, and by {host.mac}."
        for host in answers
        if host.mac != macs[host.address]
    ]
    return {host.address: macs[host.address] for host in answers}


def choose_source_ports(proc: Path = Path("/proc")) -> tuple[int, int]:
    """Choose ports that no connection of this machine uses or will be given, so that nobody's answers are mixed up.

    They lie outside net.ipv4.ip_local_port_range. No firewall rule is made for them: our kernel, which knows nothing of masscan's
    half-open connections, resets each of them at once. For a scan without banners that is good manners, and a packet more.

    Raises:
        CommandFailed: Every block of ports has one that is in use.
    """
    low, high = (int(word) for word in (proc / "sys/net/ipv4/ip_local_port_range").read_text().split())
    used: set[int] = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        file = proc / "net" / table
        if file.exists():
            used |= {
                int(port, 16)
                for port in re.findall(r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) ", file.read_text(), re.MULTILINE)
            }
    for start in [*range(61440, 65536, SOURCE_PORTS), *range(20480, 61440, SOURCE_PORTS)]:
        block = range(start, start + SOURCE_PORTS)
        if (block[-1] < low or block[0] > high) and not used & set(block):
            return block[0], block[-1]
    raise CommandFailed(
        "masscan finds no source ports of its own: every block outside net.ipv4.ip_local_port_range is in use.",
        hint="Narrow it: sysctl net.ipv4.ip_local_port_range='32768 60999'",
    )
