"""What the views of `snmp_query` consist of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SnmpValue(_Row):
    """One value as the agent gave it."""

    oid: str = Field(description="Object identifier.")
    type: str = Field(
        description="Its type: integer, text, hex, oid, ip_address, counter32, counter64, gauge32, timeticks, opaque, float or "
        "null; or why there is none: no_such_object, no_such_instance, end_of_mib."
    )
    value: int | float | str | None = Field(None, description="The value; bytes that are no text as 00:40:8c.")
    text: str | None = Field(None, description="As a person reads it, where that is more than the value.")


class System(_Row):
    """What an agent says about its device."""

    name: str | None = Field(None, description="sysName.")
    description: str | None = Field(None, description="sysDescr.")
    object_id: str | None = Field(None, description="sysObjectID: what the maker calls this kind of device.")
    enterprise: int | None = Field(None, description="The maker's number in sysObjectID (IANA).")
    vendor: str | None = Field(None, description="The maker by that number, where we know it.")
    uptime_seconds: float | None = Field(None, description="Since the agent started (sysUpTime).")
    uptime: str | None = Field(None, description="The same, readable.")
    contact: str | None = Field(None, description="sysContact.")
    location: str | None = Field(None, description="sysLocation.")
    layers: list[int] = Field(default_factory=list, description="Layers of the OSI model it works at (sysServices).")
    engine_id: str | None = Field(None, description="snmpEngineID, hexadecimal digits.")
    chassis_id: str | None = Field(None, description="How it calls itself in LLDP (lldpLocChassisId).")
    bridge_address: str | None = Field(None, description="MAC of its bridge (dot1dBaseBridgeAddress).")


class Interface(_Row):
    """One interface (IF-MIB)."""

    index: int = Field(description="ifIndex.")
    name: str | None = Field(None, description="ifName, else ifDescr.")
    description: str | None = Field(None, description="ifDescr, where it differs from the name.")
    alias: str | None = Field(None, description="What an operator called it (ifAlias).")
    type: str | None = Field(None, description="Kind by its number in the IANA registry, such as ethernet.")
    mtu: int | None = Field(None, description="Largest packet, bytes.")
    speed_bps: int | None = Field(None, description="Bits a second.")
    mac: str | None = Field(None, description="Physical address.")
    admin: str | None = Field(None, description="What it should be: up, down or testing.")
    oper: str | None = Field(None, description="What it is: up, down, testing, dormant, not_present ...")
    changed_seconds_ago: float | None = Field(None, description="Since its state changed.")
    in_octets: int | None = Field(None, description="Bytes received, 64 bits where the agent counts so.")
    out_octets: int | None = Field(None, description="Bytes sent.")
    in_errors: int | None = Field(None, description="Received with errors.")
    out_errors: int | None = Field(None, description="Not sent because of errors.")
    in_discards: int | None = Field(None, description="Received and thrown away.")
    out_discards: int | None = Field(None, description="To be sent and thrown away.")


class OwnAddress(_Row):
    """An address of the device itself (IP-MIB)."""

    address: str = Field(description="IPv4 or IPv6 address.")
    prefix_length: int | None = Field(None, description="Length of its prefix, bits.")
    interface: int | None = Field(None, description="ifIndex.")
    interface_name: str | None = Field(None, description="The interface's name, when interfaces were read too.")


class ArpEntry(_Row):
    """A neighbour's physical address as the device knows it (ARP, IPv6 neighbour discovery)."""

    address: str = Field(description="IPv4 or IPv6 address.")
    mac: str = Field(description="MAC address.")
    interface: int = Field(description="ifIndex.")
    kind: str | None = Field(None, description="dynamic, static, local, other or invalid.")


class Neighbour(_Row):
    """A device on the other end of a cable, as it announces itself."""

    protocol: str = Field(description="lldp or cdp.")
    local_port: str | None = Field(None, description="Our device's port.")
    chassis_id: str | None = Field(None, description="The neighbour's chassis id (LLDP) or device id (CDP).")
    port: str | None = Field(None, description="The neighbour's port.")
    port_description: str | None = Field(None, description="What the neighbour says about that port.")
    name: str | None = Field(None, description="The neighbour's name.")
    description: str | None = Field(None, description="What it says it is.")
    platform: str | None = Field(None, description="Model (CDP).")
    capabilities: list[str] = Field(default_factory=list, description="What it does: bridge, router, phone ...")
    addresses: list[str] = Field(default_factory=list, description="Addresses to manage it by.")
    native_vlan: int | None = Field(None, description="Untagged VLAN of its port (CDP).")


class Forwarding(_Row):
    """Behind which port a MAC is (BRIDGE-MIB, Q-BRIDGE-MIB)."""

    mac: str = Field(description="MAC address.")
    vlan: int | None = Field(None, description="VLAN, where the bridge keeps them apart.")
    port: int | None = Field(None, description="Bridge port; None where the bridge does not say.")
    interface: int | None = Field(None, description="ifIndex of that port.")
    status: str | None = Field(None, description="learned, self, mgmt, other or invalid.")


class Entity(_Row):
    """A physical part of the device (ENTITY-MIB)."""

    index: int = Field(description="entPhysicalIndex.")
    contained_in: int | None = Field(None, description="Index of the part it sits in; 0 for none.")
    kind: str | None = Field(None, description="chassis, module, port, power_supply, fan, stack ...")
    name: str | None = Field(None, description="entPhysicalName.")
    description: str | None = Field(None, description="entPhysicalDescr.")
    vendor: str | None = Field(None, description="Who made it.")
    model: str | None = Field(None, description="Model name.")
    serial: str | None = Field(None, description="Serial number.")
    hardware: str | None = Field(None, description="Hardware revision.")
    firmware: str | None = Field(None, description="Firmware revision.")
    software: str | None = Field(None, description="Software revision.")
    replaceable: bool | None = Field(None, description="Whether it can be replaced in the field.")
