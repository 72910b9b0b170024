"""What SNMP agents say about their devices, as observations: who they are, and which addresses are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.asset._identity import parse_address, serial_key
from tasks.asset._observation import ObservedHost
from tasks.core.models import parse_mac
from tasks.network.probe.snmp_query import Agent

PRINTER_SERIAL, PRINTER_MODEL = "1.3.6.1.2.1.43.5.1.1.17.1", "1.3.6.1.2.1.25.3.2.1.3.1"
"""prtGeneralSerialNumber.1 (RFC 3805) and hrDeviceDescr.1 (RFC 2790): printers have no entity table."""

CONTAINER_LINKS = ("docker", "br-", "veth", "virbr", "cni", "flannel", "cali")
"""Names of links that exist on this machine only: bridges and ends of containers and virtual machines."""


def observe_agents(agents: Mapping[str, Agent], site: str) -> list[ObservedHost]:
    """Make observations of what agents say, by the addresses they answered at."""
    own = own_addresses(agents)
    return [
        observed for address, agent in agents.items() for observed in observe_agent(address, site, agent, own[address])
    ]


def own_addresses(agents: Mapping[str, Agent]) -> dict[str, tuple[str, ...]]:
    """Return for each agent the addresses that are its device's own for certain: only those may make one asset of several.

    Left out are loopback, link-local, and what container bridges have: each machine has the same. Two agents that do not list each other's
    address are two devices; an address both claim is then neither's (a private link, a bridge by another name), unless serials tell them
    apart: then it is a virtual router's, and the inventory knows what to do with it.
    """
    claims: dict[str, list[str]] = {}
    own: dict[str, list[str]] = {}
    for address, agent in agents.items():
        links = {row.index for row in agent.interfaces if (row.name or "").startswith(CONTAINER_LINKS)}
        own[address] = [row.address for row in agent.addresses if _is_own(row.address) and row.interface not in links]
        for claimed in own[address]:
            claims.setdefault(claimed, []).append(address)
    doubtful = {
        claimed
        for claimed, by in claims.items()
        for one in by
        for other in by
        if one < other
        and not (one in own[other] and other in own[one])
        and not (_identities(agents[one]) and _identities(agents[other]))
    }
    return {
        address: tuple(dict.fromkeys(text for text in texts if text not in doubtful or text == address))
        for address, texts in own.items()
    }


def _identities(agent: Agent) -> bool:
    """Whether the device has an identity by which another one can contradict it."""
    return _chassis_id(agent) is not None or any(
        serial_key(part.get("vendor"), part.get("serial")) for part in _chassis(agent)
    )


def observe_agent(address: str, site: str, agent: Agent, own: tuple[str, ...]) -> list[ObservedHost]:
    """Make observations of what an agent says: the device at the address, and the further members of its stack.

    What identifies: vendor and serial of the chassis, its LLDP chassis id where that is a MAC, the MAC of the interface that has
    the address. Its own addresses make one asset of what was swept as several. The engine id is kept as a fact only: clones of one
    image share it.

    Args:
        address: Where the agent answered.
        site: The site.
        agent: What it said.
        own: Addresses that are the device's own; see `own_addresses`.
    """
    system = agent.system
    if system is None and not agent.addresses and not agent.entity:
        return []
    now = datetime.now(UTC)
    first, *members = _chassis(agent) or [{}]
    facts: dict[str, Any] = {}
    if system is not None:
        told = {
            "snmp_description": system.description and " ".join(system.description.split())[:300],
            "snmp_object_id": system.object_id,
            "snmp_contact": system.contact,
            "snmp_engine_id": system.engine_id,
        }
        facts = {key: value for key, value in told.items() if value}
    observed = ObservedHost(
        address=address,
        method="snmp",
        seen_at=now,
        site=site,
        mac=_mac_at(address, agent),
        mac_first_hand=True,
        hostnames=(system.name,) if system and system.name else (),
        chassis_id=_chassis_id(agent),
        addresses=own if address in own else (),
        location=system.location if system else None,
        type=_type(agent),
        metadata=facts,
        **{"vendor": system.vendor if system else None, **first},
    )
    return [
        observed,
        *(ObservedHost(address=None, method="snmp", seen_at=now, site=site, **member) for member in members),
    ]


def _chassis(agent: Agent) -> list[dict[str, Any]]:
    """Vendor, serial, model and firmware of each chassis; of the part that holds all others where none is called so."""
    vendor = agent.system.vendor if agent.system else None
    with_serial = [part for part in agent.entity if part.serial]
    stacks = {part.index for part in agent.entity if part.kind == "stack"}
    chosen = [part for part in with_serial if part.kind == "chassis" and part.contained_in in {0, None, *stacks}]
    chosen = chosen or [part for part in with_serial if part.contained_in in (0, None)][:1]
    if chosen:
        return [
            {
                "vendor": part.vendor or vendor,
                "serial": part.serial,
                "model": part.model or part.description,
                "firmware": part.software or part.firmware,
            }
            for part in chosen
        ]
    said = {row.oid: row.value for row in agent.values if row.type == "text"}
    serial, model = said.get(PRINTER_SERIAL), said.get(PRINTER_MODEL)
    return [{"vendor": vendor, "serial": str(serial), "model": str(model) if model else None}] if serial else []


def _chassis_id(agent: Agent) -> str | None:
    """The LLDP chassis id where it is a MAC: a name or an interface is not a device's own."""
    try:
        return parse_mac(agent.system.chassis_id) if agent.system and agent.system.chassis_id else None
    except ValueError:
        return None


def _mac_at(address: str, agent: Agent) -> str | None:
    index = next((row.interface for row in agent.addresses if row.address == address), None)
    return next((row.mac for row in agent.interfaces if index is not None and row.index == index), None)


def _is_own(text: str) -> bool:
    address = parse_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast)


def _type(agent: Agent) -> str | None:
    if any(row.oid == PRINTER_SERIAL and row.type == "text" for row in agent.values):
        return "printer"
    layers = set(agent.system.layers) if agent.system else set()
    # sysServices (RFC 3418): 2 is bridging, 3 is routing; a host says 4 and 7, and what says all of them says nothing.
    if 7 in layers or not layers & {2, 3}:
        return None
    return "switch" if 2 in layers else "router"
