"""The links this machine sits on: which addresses ARP can reach, by which interface, according to the kernel's own tables."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.core.process import find_program, run_command

COMMAND_SECONDS = 15.0


@dataclass(frozen=True)
class Link:
    """An interface and a prefix that is on it.

    Attributes:
        interface: Name of the interface.
        network: The prefix on the link.
        address: Our own address there.
        mac: Our own MAC there; None where there is none (loopback, tunnels).
        arp: Whether hosts there are found by ARP.
    """

    interface: str
    network: ipaddress.IPv4Network
    address: str
    mac: str | None
    arp: bool


@dataclass
class Split:
    """What of some targets is on a link, and what is not.

    Attributes:
        near: Prefixes on each link.
        far: Prefixes that are not, each with the reason.
    """

    near: dict[Link, list[ipaddress.IPv4Network]] = field(default_factory=dict)
    far: dict[str, str] = field(default_factory=dict)


async def ipv4_links() -> list[Link]:
    """List the IPv4 links of this machine, the most specific prefix first.

    Raises:
        MissingProgram: ip is not installed.
        CommandFailed: ip does not say.
    """
    done = await run_command([find_program("ip"), "-json", "address", "show", "up"], timeout=COMMAND_SECONDS)
    links = []
    for interface in json.loads(done.stdout or b"[]"):
        flags = set(interface.get("flags", ()))
        mac = interface.get("address")
        for own in interface.get("addr_info", ()):
            if own.get("family") != "inet":
                continue
            length = own["prefixlen"]
            # A point-to-point address has a peer, which `local` is not; nothing is found by ARP there.
            links.append(
                Link(
                    interface=interface["ifname"],
                    network=ipaddress.IPv4Network(f"{own['local']}/{length}", strict=False),
                    address=own["local"],
                    mac=mac.lower() if mac and interface.get("link_type") == "ether" else None,
                    arp="BROADCAST" in flags and not flags & {"NOARP", "LOOPBACK", "POINTOPOINT"} and length < 31,
                )
            )
    return sorted(links, key=lambda link: link.network.prefixlen, reverse=True)


async def split(targets: Iterable[ipaddress.IPv4Network]) -> Split:
    """Split prefixes into what is on our links and what is not.

    The address table says what is on a link, the routing table whether packets really go there: a more specific route (a VPN, a container
    network) may take them elsewhere.

    Raises:
        MissingProgram: ip is not installed.
        CommandFailed: ip does not say.
    """
    links = await ipv4_links()
    found = Split()
    for target in targets:
        rest = [target]
        for link in links:
            left = []
            for piece in rest:
                if not piece.overlaps(link.network):
                    left.append(piece)
                    continue
                inside = piece if piece.subnet_of(link.network) else link.network
                if not piece.subnet_of(link.network):
                    left += list(piece.address_exclude(link.network))
                if not link.arp:
                    found.far[str(inside)] = f"{link.interface} has no ARP"
                    continue
                elsewhere = await _routed_elsewhere(inside, link)
                if elsewhere:
                    found.far[str(inside)] = elsewhere
                else:
                    found.near.setdefault(link, []).append(inside)
            rest = left
        for piece in sorted(rest):
            found.far[str(piece)] = "no interface of this machine has an address there"
    return found


async def _routed_elsewhere(network: ipaddress.IPv4Network, link: Link) -> str | None:
    """Say where the kernel sends packets for a prefix, when that is not its link."""
    probe = next((str(address) for address in network if str(address) != link.address), None)
    if probe is None:
        return None  # our own address: nobody else is asked
    if network.prefixlen < 31 and probe == str(network.network_address):
        probe = str(network[1]) if str(network[1]) != link.address else str(network[2])
    done = await run_command(
        [find_program("ip"), "-json", "route", "get", probe], timeout=COMMAND_SECONDS, ok=(0, 1, 2)
    )
    routes = json.loads(done.stdout or b"[]") if done.returncode == 0 else []
    if not routes:
        return "there is no route to it"
    route = routes[0]
    if route.get("gateway"):
        return f"it is routed by way of {route['gateway']}"
    if route.get("dev") != link.interface and route.get("type") != "local":
        return f"it is routed to {route.get('dev')}"
    return None
