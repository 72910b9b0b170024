"""From what was asked for and granted to an order for the child process: interfaces, own addresses, what a broadcast would reach."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InvalidParameters, Refused, Unreachable
from tasks.core.process import find_program, run_command
from tasks.network.capture._interfaces import interface_names, is_up
from tasks.network.capture._scapy_order import Target
from tasks.network.scan._links import COMMAND_SECONDS, ipv4_links, split

if TYPE_CHECKING:
    from tasks.core.gate import Grant


async def check_no_broadcast(grant: Grant) -> None:
    """Refuse targets that are no hosts but everybody on one of our own links; the gate knows prefixes, not links.

    Raises:
        InvalidParameters: One is the broadcast or network address of a link.
    """
    addresses = {ipaddress.ip_address(address) for address in grant.addresses}
    for link in await ipv4_links():
        if link.network.prefixlen >= 31:
            continue
        for everybody in (link.network.broadcast_address, link.network.network_address):
            if everybody in addresses and link.arp:
                raise InvalidParameters(
                    f"targets: {everybody} is everybody on {link.interface} ({link.network}), not a host.",
                    hint="Name hosts.",
                )


async def arp_targets(grant: Grant) -> tuple[list[Target], dict[str, str]]:
    """Targets that ARP reaches, with our own address and MAC on their links; and the others, with the reason.

    Raises:
        Unreachable: None is on a link of ours.
    """
    asked = {target.addresses[0]: target.asked for target in grant.targets}
    far = {address: "ARP is for IPv4" for address in asked if ":" in address}
    wanted = [ipaddress.IPv4Network(address) for address in asked if ":" not in address]
    found = await split(wanted)
    far |= {text.partition("/")[0]: why for text, why in found.far.items()}
    near = [
        Target(asked[str(address)], str(address), link.interface, link.mac or "", link.address)
        for link, networks in found.near.items()
        for network in networks
        for address in network
        if str(address) in asked and str(address) != link.address
    ]
    own = {link.address for link in found.near} & set(asked)
    far |= dict.fromkeys(own, "it is our own address")
    if not near:
        where = "; ".join(f"{address}: {why}" for address, why in list(far.items())[:4])
        raise Unreachable(f"ARP reaches hosts on our own links only. {where}.")
    return near, {asked[address]: why for address, why in far.items() if address in asked}


async def nd_targets(grant: Grant, interface: str | None) -> tuple[list[Target], dict[str, str]]:
    """Targets that IPv6 neighbour discovery reaches, with our own address and MAC on their links; and the others.

    Args:
        grant: What was granted.
        interface: Where link-local addresses are looked for.

    Raises:
        Unreachable: None is on a link of ours.
        InvalidParameters: There is no such interface.
    """
    if interface is not None:
        _check_exists(interface)
    answers = await asyncio.gather(*(_route6(target.addresses[0], interface) for target in grant.targets))
    near, far = [], {}
    for target, (link, why) in zip(grant.targets, answers, strict=True):
        if link is None:
            far[target.asked] = why
        else:
            near.append(Target(target.asked, target.addresses[0], *link))
    if not near:
        where = "; ".join(f"{asked}: {why}" for asked, why in list(far.items())[:4])
        raise Unreachable(f"Neighbour discovery reaches hosts on our own links only. {where}.")
    return near, far


async def _route6(address: str, interface: str | None) -> tuple[tuple[str, str, str] | None, str]:
    """Interface, own MAC and own address towards a neighbour; or why it is none."""
    if ":" not in address:
        return None, "neighbour discovery is for IPv6"
    local = ipaddress.ip_address(address).is_link_local
    if local and interface is None:
        return None, "a link-local address needs interface"
    argv = [find_program("ip"), "-6", "-json", "route", "get", address, *(["oif", interface] if interface else [])]
    done = await run_command(argv, timeout=COMMAND_SECONDS, ok=(0, 1, 2))
    try:
        route = json.loads(done.stdout or b"[]")[0]
    except (ValueError, IndexError):
        return None, "there is no route to it"
    if route.get("gateway"):
        return None, f"it is routed by way of {route['gateway']}"
    if route.get("type") in {"local", "unreachable", "prohibit", "blackhole"} or route.get("dev") == "lo":
        return None, "it is our own address" if route.get("type") == "local" or route.get(
            "dev"
        ) == "lo" else "there is no route to it"
    mac = await mac_of(str(route["dev"]))
    if mac is None or not route.get("prefsrc"):
        return None, f"{route['dev']} has no neighbours"
    return (str(route["dev"]), mac, str(route["prefsrc"])), ""


@dataclass(frozen=True)
class Everybody:
    """All hosts on an interface, which a broadcast or multicast reaches.

    Attributes:
        mac: Our own MAC there.
        source: Our own address there.
        networks: The networks on it.
    """

    mac: str
    source: str
    networks: tuple[str, ...]


async def broadcast_link(grant: Grant, interface: str) -> Everybody:
    """Make sure that everybody whom a broadcast on an interface would reach may be probed, and say who that is.

    Raises:
        InvalidParameters: There is no such interface, it is down, or it has no IPv4 network.
        Refused: A network of the interface is not among the targets, or part of one is excluded.
    """
    _check_exists(interface)
    if not is_up(interface):
        raise InvalidParameters(f"The interface {interface} is down: nothing passes there.")
    links = [link for link in await ipv4_links() if link.interface == interface]
    if not links or not all(link.arp for link in links):
        raise InvalidParameters(
            f"{interface} has no IPv4 network to broadcast on, so no policy can say who may be asked there.",
            hint="Give it an address first.",
        )
    allowed = [ipaddress.ip_network(network) for network in grant.networks]
    for link in links:
        if any(isinstance(network, ipaddress.IPv4Network) and link.network.subnet_of(network) for network in allowed):
            continue
        left_out = [text for text in grant.excluded if ipaddress.ip_network(text).overlaps(link.network)]
        if left_out:
            raise Refused(
                f"A broadcast on {interface} reaches {', '.join(left_out[:4])}, which policy excludes.",
                hint="signalbox policy show",
            )
        raise Refused(
            f"A broadcast on {interface} reaches all of {link.network}, which is not among the targets.",
            hint=f"Name it: targets {link.network}",
        )
    mac = links[0].mac
    if mac is None:
        raise InvalidParameters(f"{interface} has no MAC address to ask from.")
    return Everybody(mac, links[0].address, tuple(str(link.network) for link in links))


async def mac_of(interface: str) -> str | None:
    """Our own MAC on an Ethernet interface; None where there is none."""
    folder = Path("/sys/class/net", interface)
    try:
        kind = await asyncio.to_thread((folder / "type").read_text)
        mac = await asyncio.to_thread((folder / "address").read_text)
    except OSError:
        return None
    return mac.strip() if kind.strip() == "1" else None  # ARPHRD_ETHER of <linux/if_arp.h>


def _check_exists(interface: str) -> None:
    names = interface_names()
    if interface not in names:
        raise InvalidParameters(f"There is no interface {interface!r}.", hint=f"There are: {', '.join(names)}.")
