"""The rows of `scapy`'s results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tasks.network.capture._scapy_order import Outcome


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnswerLayer(_Frozen):
    """A layer of an answer."""

    name: str = Field(description="The layer, by scapy's name.")
    fields: dict[str, str] = Field(description="Its fields as scapy shows them; secrets as ***.")


class Answer(_Frozen):
    """What became of one packet."""

    target: str = Field(description="The target as asked.")
    address: str = Field(description="The address it went to.")
    port: int | None = Field(None, description="The port it went to.")
    outcome: Outcome = Field(
        description="answered, open, closed, filtered, unreachable, exceeded, too_large, no_answer or not_tried."
    )
    rtt_ms: float | None = Field(None, description="Round trip, milliseconds.")
    by: str | None = Field(None, description="Who answered.")
    mac: str | None = Field(None, description="MAC that claims the address.")
    ttl: int | None = Field(None, description="Time to live (hop limit) of the answer.")
    detail: str | None = Field(None, description="What the answer says, or why there is none.")
    layers: list[AnswerLayer] = Field(default_factory=list, description="The answer, decoded; of a declared packet.")


class Hop(_Frozen):
    """One packet of a traceroute."""

    target: str = Field(description="The target as asked.")
    ttl: int = Field(description="Hops it lived for.")
    address: str | None = Field(None, description="Who answered there.")
    rtt_ms: float | None = Field(None, description="Round trip, milliseconds.")
    outcome: Outcome = Field(
        description="exceeded (a router), open or closed (the target), filtered, unreachable or no_answer."
    )
    detail: str | None = Field(None, description="What it says.")


class PathMtu(_Frozen):
    """The largest packet that gets to a target unfragmented."""

    target: str = Field(description="The target as asked.")
    address: str = Field(description="Its address.")
    mtu: int | None = Field(
        None, description="Bytes of the largest packet, IP header included; None when nothing was answered."
    )
    limited_by: str | None = Field(None, description="Who says that larger ones do not fit.")
    detail: str | None = Field(None, description="What it says, or why the size is not known.")


class Offer(_Frozen):
    """An address that a DHCP server offers."""

    server: str = Field(description="The server.")
    server_mac: str = Field(description="MAC the offer came from: the server's or its relay's.")
    relay: str | None = Field(None, description="The relay, where the server is on another link.")
    address: str = Field(description="The address offered. It was not taken.")
    mask: str | None = Field(None, description="Mask of the network.")
    routers: list[str] = Field(default_factory=list, description="Routers.")
    name_servers: list[str] = Field(default_factory=list, description="Name servers.")
    domain: str | None = Field(None, description="Domain.")
    lease_seconds: int | None = Field(None, description="How long the address could be kept, seconds.")
    boot_file: str | None = Field(None, description="Boot file, where it names one.")
    rtt_ms: float = Field(description="Time to the offer, milliseconds.")


class Neighbour(_Frozen):
    """What a device on the link says about itself."""

    protocol: str = Field(description="lldp or cdp.")
    mac: str = Field(description="MAC it said it from.")
    chassis: str = Field(description="What it calls itself: a MAC, an address or a name.")
    port: str = Field(description="Its port that we are on.")
    port_description: str | None = Field(None, description="What its port is called.")
    system_name: str | None = Field(None, description="Its name.")
    system_description: str | None = Field(None, description="What it is and runs.")
    platform: str | None = Field(None, description="Its model, by CDP.")
    capabilities: list[str] = Field(default_factory=list, description="What it does: bridge, router, telephone, ...")
    management_addresses: list[str] = Field(default_factory=list, description="Where it is managed.")
    vlan: int | None = Field(None, description="Untagged VLAN of its port.")
    ttl_seconds: int | None = Field(None, description="How long what it says holds, seconds.")
    heard: int = Field(description="How often it said it.")


class AnnouncedService(_Frozen):
    """A service a device says it has, by mDNS."""

    kind: str = Field(description="Kind of service, such as _axis-video._tcp.")
    name: str = Field(description="What the device calls it.")
    host: str | None = Field(None, description="Name of the host that has it, without .local.")
    port: int | None = Field(None, description="Its port.")
    txt: dict[str, str] = Field(default_factory=dict, description="What else it says of it; secrets as ***.")


class Announcement(_Frozen):
    """What a device answers when everybody on the link is asked. It is its own word: nothing of it was looked up or fetched."""

    protocol: str = Field(description="mdns or ssdp.")
    address: str = Field(description="Address it answered from.")
    mac: str = Field(description="MAC it answered from.")
    names: list[str] = Field(default_factory=list, description="Names of hosts it gives, without .local; of mdns.")
    kinds: list[str] = Field(default_factory=list, description="Kinds of service (mdns) or of device (ssdp) it has.")
    services: list[AnnouncedService] = Field(default_factory=list, description="Its services; of mdns.")
    addresses: list[str] = Field(default_factory=list, description="Addresses it says are its own; of mdns.")
    server: str | None = Field(None, description="System and product; of ssdp.")
    locations: list[str] = Field(
        default_factory=list, description="Hosts and ports where its description is said to be; of ssdp."
    )
    usns: list[str] = Field(
        default_factory=list, description="Unique names of its devices, often with a serial; of ssdp."
    )
    rtt_ms: float = Field(description="Time from the question to its first answer, milliseconds.")
    heard: int = Field(description="How many answers came from it.")
