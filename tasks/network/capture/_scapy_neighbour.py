"""What a switch, phone or camera says about itself by LLDP and CDP, as one kind of row."""

from __future__ import annotations

import ipaddress
from typing import Any

from scapy.contrib.cdp import (
    CDPMsgAddr,
    CDPMsgCapabilities,
    CDPMsgDeviceID,
    CDPMsgNativeVLAN,
    CDPMsgPlatform,
    CDPMsgPortID,
    CDPMsgSoftwareVersion,
    CDPv2_HDR,
)
from scapy.contrib.lldp import (
    LLDPDUChassisID,
    LLDPDUGenericOrganisationSpecific,
    LLDPDUManagementAddress,
    LLDPDUPortDescription,
    LLDPDUPortID,
    LLDPDUSystemCapabilities,
    LLDPDUSystemDescription,
    LLDPDUSystemName,
    LLDPDUTimeToLive,
)
from scapy.packet import Packet

LONGEST_TEXT = 400
MOST_ADDRESSES = 16
_CAPABILITIES = {
    "mac_bridge": "bridge", "wlan_access_point": "access point", "router": "router", "telephone": "telephone",
    "docsis_cable_device": "cable device", "station_only": "station", "repeater": "repeater", "other": "other",
}  # fmt: skip
_IEEE_8021, _PORT_VLAN = 0x0080C2, 1  # IEEE 802.1Q, D.2.1


def read_lldp(frame: Packet) -> dict[str, Any]:
    """A neighbour out of an LLDP frame (IEEE 802.1AB)."""
    row = _row("lldp", frame.src)
    layer: Packet | None = frame.payload
    while layer:
        if isinstance(layer, LLDPDUChassisID):
            row["chassis"] = text(layer.id)
        elif isinstance(layer, LLDPDUPortID):
            row["port"] = text(layer.id)
        elif isinstance(layer, LLDPDUTimeToLive):
            row["ttl_seconds"] = int(layer.ttl)
        elif isinstance(layer, LLDPDUPortDescription):
            row["port_description"] = text(layer.description)
        elif isinstance(layer, LLDPDUSystemName):
            row["system_name"] = text(layer.system_name)
        elif isinstance(layer, LLDPDUSystemDescription):
            row["system_description"] = text(layer.description)
        elif isinstance(layer, LLDPDUSystemCapabilities):
            row["capabilities"] = [said for name, said in _CAPABILITIES.items() if getattr(layer, f"{name}_enabled", 0)]
        elif isinstance(layer, LLDPDUManagementAddress) and len(row["management_addresses"]) < MOST_ADDRESSES:
            row["management_addresses"].append(_address(layer.management_address))
        elif isinstance(layer, LLDPDUGenericOrganisationSpecific) and layer.org_code == _IEEE_8021:
            data = bytes(layer.data) if hasattr(layer, "data") else b""
            if layer.subtype == _PORT_VLAN and len(data) >= 2:
                row["vlan"] = int.from_bytes(data[:2], "big")
        layer = layer.payload
    return row


def read_cdp(frame: Packet) -> dict[str, Any]:
    """A neighbour out of a CDP frame."""
    row = _row("cdp", frame.src)
    header = frame[CDPv2_HDR]
    row["ttl_seconds"] = int(header.ttl)
    for message in header.msg:
        if isinstance(message, CDPMsgDeviceID):
            row["chassis"] = row["system_name"] = text(message.val)
        elif isinstance(message, CDPMsgPortID):
            row["port"] = text(message.iface)
        elif isinstance(message, CDPMsgSoftwareVersion):
            row["system_description"] = text(message.val)
        elif isinstance(message, CDPMsgPlatform):
            row["platform"] = text(message.val)
        elif isinstance(message, CDPMsgCapabilities):
            row["capabilities"] = [one.lower() for one in str(message.cap).split("+") if one]
        elif isinstance(message, CDPMsgNativeVLAN):
            row["vlan"] = int(message.vlan)
        elif isinstance(message, CDPMsgAddr):  # management addresses are of a subclass
            row["management_addresses"] += [str(record.addr) for record in message.addr if hasattr(record, "addr")]
    row["management_addresses"] = list(dict.fromkeys(row["management_addresses"]))[:MOST_ADDRESSES]
    return row


def _row(protocol: str, mac: str) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "mac": str(mac),
        "chassis": "",
        "port": "",
        "port_description": None,
        "system_name": None,
        "system_description": None,
        "platform": None,
        "capabilities": [],
        "management_addresses": [],
        "vlan": None,
        "ttl_seconds": None,
    }


def text(value: Any) -> str:
    """What a device calls something, printable and of bounded length."""
    said = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    said = " ".join("".join(one if one.isprintable() else " " for one in said).split())
    return said if len(said) <= LONGEST_TEXT else f"{said[:LONGEST_TEXT]}..."


def _address(data: bytes) -> str:
    try:
        return str(ipaddress.ip_address(bytes(data)))
    except ValueError:
        return bytes(data).hex(":")
