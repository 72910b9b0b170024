"""Ready-made views of an agent: which columns to read, and what they mean. Tables that an agent lacks are empty, not errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from tasks.network.probe import _snmp_names as names
from tasks.network.probe._snmp_read import Reader, Table
from tasks.network.probe._snmp_rows import (
    ArpEntry,
    Entity,
    Forwarding,
    Interface,
    Neighbour,
    OwnAddress,
    System,
)
from tasks.network.probe._snmp_values import (
    NOTHING,
    Oid,
    Value,
    address_of,
    format_oid,
    indexed_address,
    mac_of,
    oid_of,
    prefix_length,
    text_of,
    ticks_text,
)

T = TypeVar("T")


class View(StrEnum):
    """What can be read ready-made."""

    SYSTEM = "system"
    INTERFACES = "interfaces"
    ADDRESSES = "addresses"
    ARP = "arp"
    NEIGHBOURS = "neighbours"
    FORWARDING = "forwarding"
    ENTITY = "entity"


_SYSTEM = oid_of("1.3.6.1.2.1.1")
_SYSTEM_VALUES = tuple((*_SYSTEM, number, 0) for number in range(1, 8))
_ENGINE_ID = oid_of("1.3.6.1.6.3.10.2.1.1.0")
_CHASSIS_KIND = oid_of("1.0.8802.1.1.2.1.3.1.0")
_CHASSIS_ID = oid_of("1.0.8802.1.1.2.1.3.2.0")
_BRIDGE_ADDRESS = oid_of("1.3.6.1.2.1.17.1.1.0")
_ENTERPRISES = oid_of("1.3.6.1.4.1")
_IF_ENTRY = oid_of("1.3.6.1.2.1.2.2.1")
_IFX_ENTRY = oid_of("1.3.6.1.2.1.31.1.1.1")
_IF_NAME = 1
_IP_ADDR_ENTRY = oid_of("1.3.6.1.2.1.4.20.1")
_IP_ADDRESS_ENTRY = oid_of("1.3.6.1.2.1.4.34.1")
_NET_TO_MEDIA_ENTRY = oid_of("1.3.6.1.2.1.4.22.1")
_NET_TO_PHYSICAL_ENTRY = oid_of("1.3.6.1.2.1.4.35.1")
_LLDP_REMOTE_ENTRY = oid_of("1.0.8802.1.1.2.1.4.1.1")
_LLDP_ADDRESS_ENTRY = oid_of("1.0.8802.1.1.2.1.4.2.1")
_LLDP_PORT_ENTRY = oid_of("1.0.8802.1.1.2.1.3.7.1")
_CDP_ENTRY = oid_of("1.3.6.1.4.1.9.9.23.1.2.1.1")
_BRIDGE_PORT_ENTRY = oid_of("1.3.6.1.2.1.17.1.4.1")
_FDB_ENTRY = oid_of("1.3.6.1.2.1.17.4.3.1")
_Q_FDB_ENTRY = oid_of("1.3.6.1.2.1.17.7.1.2.2.1")
_Q_VLAN_ENTRY = oid_of("1.3.6.1.2.1.17.7.1.4.2.1")
_ENTITY_ENTRY = oid_of("1.3.6.1.2.1.47.1.1.1.1")

_MAC_SUBTYPE_CHASSIS, _ADDRESS_SUBTYPE_CHASSIS = 4, 5
_MAC_SUBTYPE_PORT, _ADDRESS_SUBTYPE_PORT = 3, 4
_UNSPECIFIED_SPEED = 0xFFFFFFFF


async def read_system(reader: Reader) -> System | None:
    """Read who the device is; None when it says nothing of that."""
    extra = (_ENGINE_ID, _CHASSIS_KIND, _CHASSIS_ID, _BRIDGE_ADDRESS)
    found = dict(await reader.get([*_SYSTEM_VALUES, *extra]))
    values = [found.get(oid, NOTHING) for oid in _SYSTEM_VALUES]
    if all(value.missing for value in found.values()):
        return None
    object_id = values[1].raw if isinstance(values[1].raw, tuple) else ()
    enterprise = object_id[6] if object_id[:6] == _ENTERPRISES and len(object_id) > 6 else None
    ticks, services = values[2].number, values[6].number or 0
    engine = found.get(_ENGINE_ID, NOTHING).octets
    chassis = found.get(_CHASSIS_ID, NOTHING)
    return System(
        description=values[0].text,
        object_id=format_oid(object_id) or None,
        enterprise=enterprise,
        vendor=names.vendor_of(enterprise),
        uptime_seconds=None if ticks is None else ticks / 100,
        uptime=None if ticks is None else ticks_text(ticks),
        contact=values[3].text,
        name=values[4].text,
        location=values[5].text,
        layers=[layer + 1 for layer in range(7) if services >> layer & 1],
        engine_id=engine.hex() or None,
        chassis_id=_lldp_id(
            chassis, found.get(_CHASSIS_KIND, NOTHING).number, _MAC_SUBTYPE_CHASSIS, _ADDRESS_SUBTYPE_CHASSIS
        ),
        bridge_address=mac_of(found.get(_BRIDGE_ADDRESS, NOTHING).octets),
    )


async def read_interfaces(reader: Reader) -> list[Interface]:
    """Read the interfaces."""
    basic = await reader.table(_IF_ENTRY, (2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 16, 19, 20))
    more = await reader.table(_IFX_ENTRY, (_IF_NAME, 6, 10, 15, 18))
    uptime = dict(await reader.get([_SYSTEM_VALUES[2]])).get(_SYSTEM_VALUES[2], NOTHING).number
    rows = []
    for index, row in _by_number(basic, more):
        description, name = _text(row, 2), _text(row, -_IF_NAME)
        changed = _number(row, 9)
        rows.append(
            Interface(
                index=index,
                name=name or description,
                description=description if name and description != name else None,
                alias=_text(row, -18),
                type=_named(names.INTERFACE_TYPES, _number(row, 3)),
                mtu=_number(row, 4),
                speed_bps=_speed(row),
                mac=mac_of(_value(row, 6).octets),
                admin=_named(names.ADMIN_STATES, _number(row, 7)),
                oper=_named(names.OPER_STATES, _number(row, 8)),
                changed_seconds_ago=(uptime - changed) / 100
                if uptime is not None and changed is not None and changed <= uptime
                else None,
                in_octets=_first(_number(row, -6), _number(row, 10)),
                out_octets=_first(_number(row, -10), _number(row, 16)),
                in_discards=_number(row, 13),
                in_errors=_number(row, 14),
                out_discards=_number(row, 19),
                out_errors=_number(row, 20),
            )
        )
    return rows


def _by_number(basic: Table, more: Table) -> Iterator[tuple[int, dict[int, Value]]]:
    """Yield interfaces of both tables by index; columns of the second are negative."""
    for index in sorted({*basic, *more}):
        if len(index) == 1:
            extra = {-column: value for column, value in more.get(index, {}).items()}
            yield index[0], {**basic.get(index, {}), **extra}


def _speed(row: Mapping[int, Value]) -> int | None:
    """Bits a second. ifSpeed ends at 4.29 Gbit/s, and says with its largest value that ifHighSpeed has the number (RFC 2863)."""
    megabits, speed = _number(row, -15), _number(row, 5)
    if megabits and (speed is None or speed >= _UNSPECIFIED_SPEED or megabits * 1_000_000 > _UNSPECIFIED_SPEED):
        return megabits * 1_000_000
    return speed if speed is not None else (megabits or 0) * 1_000_000 or None


async def read_addresses(reader: Reader) -> list[OwnAddress]:
    """Read the addresses of the device itself: IPv4 by the old table and the new one, IPv6 by the new one."""
    found: dict[str, OwnAddress] = {}
    for index, row in (await reader.table(_IP_ADDR_ENTRY, (2, 3))).items():
        address = address_of(bytes(index)) if len(index) == 4 and max(index) < 256 else None
        if address:
            found[address] = OwnAddress(
                address=address, prefix_length=prefix_length(_value(row, 3).octets), interface=_number(row, 2)
            )
    for index, row in (await reader.table(_IP_ADDRESS_ENTRY, (3, 4, 5))).items():
        address = indexed_address(index)
        if address and _number(row, 4) in (None, 1):  # unicast: a broadcast address is not the device's own
            prefix = _value(row, 5).raw
            # The prefix is a pointer to a row of ipAddressPrefixTable, whose index ends with the length.
            length = prefix[-1] if isinstance(prefix, tuple) and len(prefix) > 2 and prefix[-1] <= 128 else None
            before = found.get(address)
            found[address] = OwnAddress(
                address=address,
                prefix_length=_first(before.prefix_length if before else None, length),
                interface=_first(_number(row, 3), before.interface if before else None),
            )
    return list(found.values())


async def read_arp(reader: Reader) -> list[ArpEntry]:
    """Read the neighbours' physical addresses the device knows."""
    found: dict[tuple[int, str], ArpEntry] = {}
    old = await reader.table(_NET_TO_MEDIA_ENTRY, (2, 4))
    new = await reader.table(_NET_TO_PHYSICAL_ENTRY, (4, 6))
    rows: list[tuple[Oid, str | None, Value, int | None]] = [
        (index, address_of(bytes(index[1:])), _value(row, 2), _number(row, 4))
        for index, row in old.items()
        if len(index) == 5 and max(index[1:]) < 256
    ]
    rows += [(index, indexed_address(index[1:]), _value(row, 4), _number(row, 6)) for index, row in new.items()]
    for index, address, physical, kind in rows:
        mac = mac_of(physical.octets)
        if address and mac:
            entry = ArpEntry(address=address, mac=mac, interface=index[0], kind=_named(names.ARP_KINDS, kind))
            found.setdefault((index[0], address), entry)
    return list(found.values())


async def read_neighbours(reader: Reader) -> list[Neighbour]:
    """Read who is on the other end of the cables: LLDP, then CDP."""
    return [*await _lldp(reader), *await _cdp(reader)]


async def _lldp(reader: Reader) -> list[Neighbour]:
    remotes = await reader.table(_LLDP_REMOTE_ENTRY, (4, 5, 6, 7, 8, 9, 10, 12))
    if not remotes:
        return []
    ports = await reader.table(_LLDP_PORT_ENTRY, (2, 3, 4))
    addresses: dict[Oid, list[str]] = {}
    # The address is in the index; of the columns only the last three can be read.
    for index in await reader.table(_LLDP_ADDRESS_ENTRY, (3,)):
        address = indexed_address(index[3:])
        if address:
            addresses.setdefault(index[:3], []).append(address)
    rows = []
    for index, row in remotes.items():
        if len(index) != 3:  # time mark, local port, remote index
            continue
        port = ports.get((index[1],), {})
        rows.append(
            Neighbour(
                protocol="lldp",
                local_port=_first(
                    _lldp_id(_value(port, 3), _number(port, 2), _MAC_SUBTYPE_PORT, _ADDRESS_SUBTYPE_PORT),
                    _text(port, 4),
                    str(index[1]),
                ),
                chassis_id=_lldp_id(_value(row, 5), _number(row, 4), _MAC_SUBTYPE_CHASSIS, _ADDRESS_SUBTYPE_CHASSIS),
                port=_lldp_id(_value(row, 7), _number(row, 6), _MAC_SUBTYPE_PORT, _ADDRESS_SUBTYPE_PORT),
                port_description=_text(row, 8),
                name=_text(row, 9),
                description=_text(row, 10),
                capabilities=_bits(_value(row, 12).octets),
                addresses=addresses.get(index, []),
            )
        )
    return rows


def _lldp_id(value: Value, kind: int | None, mac_kind: int, address_kind: int) -> str | None:
    """Return an LLDP id by its subtype: a MAC, an address (its family in the first byte), else text."""
    octets = value.octets
    if kind == mac_kind:
        return mac_of(octets)
    if kind == address_kind and len(octets) in (5, 17):
        return address_of(octets[1:])
    if kind is None and text_of(octets) is None and len(octets) == 6:
        return mac_of(octets)
    return value.text


def _bits(octets: bytes) -> list[str]:
    """Names of the bits of a BITS value, from the first bit of the first byte."""
    return [
        name
        for place, name in enumerate(names.LLDP_CAPABILITIES)
        if place // 8 < len(octets) and octets[place // 8] >> (7 - place % 8) & 1
    ]


async def _cdp(reader: Reader) -> list[Neighbour]:
    remotes = await reader.table(_CDP_ENTRY, (3, 4, 5, 6, 7, 8, 9, 11))
    if not remotes:
        return []
    interfaces = await reader.table(_IFX_ENTRY, (_IF_NAME,))
    rows = []
    for index, row in remotes.items():
        if len(index) != 2:  # ifIndex, device index
            continue
        address = address_of(_value(row, 4).octets) if _number(row, 3) in (None, 1, 20) else None
        bits = int.from_bytes(_value(row, 9).octets[-4:], "big")
        rows.append(
            Neighbour(
                protocol="cdp",
                local_port=_text(interfaces.get(index[:1], {}), _IF_NAME) or str(index[0]),
                chassis_id=_text(row, 6),
                port=_text(row, 7),
                name=_text(row, 6),
                description=_text(row, 5),
                platform=_text(row, 8),
                capabilities=[name for bit, name in names.CDP_CAPABILITIES.items() if bits & bit],
                addresses=[address] if address else [],
                native_vlan=_number(row, 11) or None,
            )
        )
    return rows


async def read_forwarding(reader: Reader) -> list[Forwarding]:
    """Read the bridge's forwarding table: with VLANs where the bridge has them, and what only the plain table knows."""
    with_vlan = await reader.table(_Q_FDB_ENTRY, (2, 3))
    plain = await reader.table(_FDB_ENTRY, (2, 3))
    if not with_vlan and not plain:
        return []
    interfaces = {
        index[0]: _number(row, 2)
        for index, row in (await reader.table(_BRIDGE_PORT_ENTRY, (2,))).items()
        if len(index) == 1
    }
    vlans: dict[int, int] = {}
    if with_vlan:
        # Entries carry the number of a filtering database; which VLAN has it stands elsewhere, and is the same where it stands nowhere.
        for index, row in (await reader.table(_Q_VLAN_ENTRY, (3,))).items():
            database = _number(row, 3)
            if len(index) == 2 and database is not None:
                vlans.setdefault(database, index[1])
    found: list[Forwarding] = []
    seen: set[str] = set()
    for table, tagged in ((with_vlan, True), (plain, False)):
        for index, row in table.items():
            arcs = index[1:] if tagged else index
            mac = mac_of(bytes(arcs)) if len(arcs) == 6 and max(arcs) < 256 else None
            if mac is None or (not tagged and mac in seen):
                continue
            seen.add(mac)
            port = _number(row, 2) or None  # 0: the bridge knows the address, not the port
            found.append(
                Forwarding(
                    mac=mac,
                    vlan=vlans.get(index[0], index[0]) if tagged else None,
                    port=port,
                    interface=interfaces.get(port) if port is not None else None,
                    status=_named(names.FORWARDING_STATES, _number(row, 3)),
                )
            )
    return found


async def read_entity(reader: Reader) -> list[Entity]:
    """Read the physical parts, with serials, models and firmware."""
    table = await reader.table(_ENTITY_ENTRY, (2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 16))
    return [
        Entity(
            index=index[0],
            contained_in=_number(row, 4),
            kind=_named(names.ENTITY_KINDS, _number(row, 5)),
            name=_text(row, 7),
            description=_text(row, 2),
            vendor=_text(row, 12),
            model=_text(row, 13),
            serial=_text(row, 11),
            hardware=_text(row, 8),
            firmware=_text(row, 9),
            software=_text(row, 10),
            replaceable={1: True, 2: False}.get(_number(row, 16) or 0),
        )
        for index, row in sorted(table.items())
        if len(index) == 1
    ]


READERS: Mapping[View, Callable[[Reader], Awaitable[Any]]] = {
    View.SYSTEM: read_system,
    View.INTERFACES: read_interfaces,
    View.ADDRESSES: read_addresses,
    View.ARP: read_arp,
    View.NEIGHBOURS: read_neighbours,
    View.FORWARDING: read_forwarding,
    View.ENTITY: read_entity,
}
"""How each view is read."""


def _value(row: Mapping[int, Value], column: int) -> Value:
    return row.get(column, NOTHING)


def _text(row: Mapping[int, Value], column: int) -> str | None:
    return _value(row, column).text


def _number(row: Mapping[int, Value], column: int) -> int | None:
    return _value(row, column).number


def _named(table: Mapping[int, str], number: int | None) -> str | None:
    """A number's name; the number itself where it has none here."""
    return None if number is None else table.get(number, str(number))


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)
