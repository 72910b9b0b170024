"""Names for the numbers in the MIBs the views read. Standards and IANA registries; nothing is compiled or fetched."""

from __future__ import annotations

from collections.abc import Mapping

INTERFACE_TYPES: Mapping[int, str] = {
    1: "other", 6: "ethernet", 23: "ppp", 24: "loopback", 32: "frame_relay", 37: "atm", 53: "virtual", 62: "ethernet",
    69: "ethernet", 71: "wifi", 94: "adsl", 97: "vdsl", 117: "ethernet", 131: "tunnel", 135: "vlan", 136: "ip_vlan",
    161: "aggregate", 166: "mpls", 209: "bridge", 244: "wwan", 251: "vdsl2",
}  # fmt: skip
"""ifType: IANAifType-MIB."""

ADMIN_STATES: Mapping[int, str] = {1: "up", 2: "down", 3: "testing"}
"""ifAdminStatus: RFC 2863."""

OPER_STATES: Mapping[int, str] = {
    1: "up", 2: "down", 3: "testing", 4: "unknown", 5: "dormant", 6: "not_present", 7: "lower_layer_down",
}  # fmt: skip
"""ifOperStatus: RFC 2863."""

ARP_KINDS: Mapping[int, str] = {1: "other", 2: "invalid", 3: "dynamic", 4: "static", 5: "local"}
"""ipNetToMediaType and ipNetToPhysicalType: RFC 4293."""

FORWARDING_STATES: Mapping[int, str] = {1: "other", 2: "invalid", 3: "learned", 4: "self", 5: "mgmt"}
"""dot1dTpFdbStatus and dot1qTpFdbStatus: RFC 4188, RFC 4363."""

ENTITY_KINDS: Mapping[int, str] = {
    1: "other", 2: "unknown", 3: "chassis", 4: "backplane", 5: "container", 6: "power_supply", 7: "fan", 8: "sensor",
    9: "module", 10: "port", 11: "stack", 12: "cpu", 13: "energy_object", 14: "battery", 15: "storage_drive",
}  # fmt: skip
"""entPhysicalClass: IANA-ENTITY-MIB."""

LLDP_CAPABILITIES = ("other", "repeater", "bridge", "access_point", "router", "phone", "docsis", "station")
"""LldpSystemCapabilitiesMap, from the first bit: IEEE 802.1AB."""

CDP_CAPABILITIES: Mapping[int, str] = {
    0x01: "router", 0x02: "bridge", 0x04: "source_bridge", 0x08: "switch", 0x10: "host", 0x20: "igmp", 0x40: "repeater",
    0x80: "phone", 0x100: "remotely_managed",
}  # fmt: skip
"""cdpCacheCapabilities: CISCO-CDP-MIB."""

ENTERPRISES: Mapping[int, str] = {
    2: "IBM", 9: "Cisco", 11: "Hewlett-Packard", 42: "Oracle", 43: "3Com", 45: "Nortel", 63: "Apple", 94: "Nokia", 171: "D-Link",
    207: "Allied Telesis", 232: "Hewlett-Packard", 248: "Hirschmann", 253: "Xerox", 311: "Microsoft", 318: "APC", 343: "Intel",
    367: "Ricoh", 368: "Axis", 476: "Vertiv", 534: "Eaton", 641: "Lexmark", 674: "Dell", 789: "NetApp", 890: "Zyxel",
    1248: "Epson", 1347: "Kyocera", 1588: "Brocade", 1602: "Canon", 1916: "Extreme Networks", 1991: "Foundry", 2011: "Huawei",
    2356: "Lancom",
    2435: "Brother", 2604: "Sophos", 2620: "Check Point", 2636: "Juniper", 3375: "F5", 3417: "Blue Coat",
    3955: "Linksys", 4329: "Siemens", 4526: "Netgear", 5624: "Enterasys", 5951: "Citrix", 6486: "Alcatel-Lucent",
    6527: "Nokia", 6574: "Synology", 6876: "VMware", 8072: "Net-SNMP", 8691: "Moxa", 8741: "SonicWall", 10002: "Ubiquiti",
    11863: "TP-Link", 12356: "Fortinet", 12740: "Dell", 14179: "Cisco", 14823: "Aruba", 14988: "MikroTik",
    17163: "Riverbed", 17713: "Cambium", 18334: "Konica Minolta", 19746: "Dell", 24681: "QNAP",
    25053: "Ruckus", 25461: "Palo Alto Networks", 25506: "H3C", 29671: "Meraki", 30065: "Arista", 33049: "Mellanox",
    39165: "Hikvision", 40310: "Cumulus Networks", 41112: "Ubiquiti", 47196: "Aruba", 50536: "FreeNAS",
}  # fmt: skip
"""Private enterprise numbers of makers one meets (IANA). Net-SNMP is the agent's maker, not the device's: see `vendor_of`."""

_SOFTWARE = frozenset({8072, 311})
"""Enterprises that make the agent on a machine that somebody else made."""


def vendor_of(enterprise: int | None) -> str | None:
    """Return who made the device, by the enterprise number of its sysObjectID; None when that only says whose agent runs on it.

    >>> vendor_of(9), vendor_of(8072), vendor_of(None)
    ('Cisco', None, None)
    """
    return None if enterprise is None or enterprise in _SOFTWARE else ENTERPRISES.get(enterprise)
