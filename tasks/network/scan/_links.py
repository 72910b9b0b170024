"""The links this machine sits on: which addresses ARP can reach, by which interface, according to the kernel's own tables."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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
    candidates: list[tuple[Link, ipaddress.IPv4Network]] = []
    for target in ipaddress.collapse_addresses(targets):
        rest = [target]
        for link in links:
            left = []
            for piece in rest:
                if not piece.overlaps(link.network):
                    left.append(piece)
                elif piece.subnet_of(link.network):
                    candidates.append((link, piece))
                else:
                    candidates.append((link, link.network))
                    left += list(piece.address_exclude(link.network))
            rest = left
        for piece in sorted(rest):
            found.far[str(piece)] = "no interface of this machine has an address there"
    routes = await routes_to(_probe(link, piece) for link, piece in candidates if link.arp)
    for link, piece in candidates:
        elsewhere = _elsewhere(link, routes.get(_probe(link, piece)))
        if elsewhere:
            found.far[str(piece)] = elsewhere
        else:
            found.near.setdefault(link, []).append(piece)
    return found


def _probe(link: Link, network: ipaddress.IPv4Network) -> str:
    """An address to ask the routing table about: of a host, and not our own, where there is one."""
    never = {link.address, str(link.network.network_address), str(link.network.broadcast_address)}
    return next((str(address) for address in network if str(address) not in never), str(network.network_address))


async def routes_to(addresses: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Ask the kernel where it would send packets for each address; one process for all of them."""
    lines = [f"route get {address}" for address in addresses]
    if not lines:
        return {}
    # -force: an address without a route is left out of the answer instead of ending it.
    argv = [find_program("ip"), "-force", "-json", "-batch", "-"]
    done = await run_command(
        argv, timeout=COMMAND_SECONDS, stdin="".join(f"{line}\n" for line in lines).encode(), ok=(0, 1, 2)
    )
    decoder, text = json.JSONDecoder(), done.stdout.decode(errors="replace").lstrip()
    routes: dict[str, dict[str, Any]] = {}
    while text:
        try:
            answer, end = decoder.raw_decode(text)
        except ValueError:
            break
        routes |= {route["dst"]: route for route in answer if "dst" in route}
        text = text[end:].lstrip()
    return routes


def _elsewhere(link: Link, route: dict[str, Any] | None) -> str | None:
    """Say why packets do not reach a link's hosts directly; None when they do."""
    if not link.arp:
        return f"{link.interface} has no ARP"
    if route is None:
        return "there is no route to it"
    if route.get("gateway"):
        return f"it is routed by way of {route['gateway']}"
    if route.get("dev") != link.interface and route.get("type") != "local":
        return f"it is routed to {route.get('dev')}"
    return None
