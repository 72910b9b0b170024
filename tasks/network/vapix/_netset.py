"""Network settings of a camera: what it says about them in three APIs, and which new ones make sense."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_MOST_DEVICES = 64
_MOST_ADDRESSES = 16
_MOST_PORTS = 64
_USERINFO = re.compile(r"(//)?[^/@\s]*@")
HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InterfaceAddress(_Part):
    """One address of an interface."""

    address: str = Field(description="The address.")
    prefix_length: int | None = Field(None, description="Length of its prefix, bits.")
    origin: str | None = Field(None, description="Where it comes from, such as dhcp, static or linkLocal.")


class StaticAddress(_Part):
    """One address an interface is told to have where its mode is static."""

    address: str = Field(description="The address.")
    prefix_length: int = Field(description="Length of its prefix, bits.")
    broadcast: str | None = Field(None, description="The broadcast address.")


class Ipv4(_Part):
    """IPv4 settings of an interface."""

    enabled: bool | None = Field(None, description="Whether IPv4 is on.")
    mode: str | None = Field(None, description="static or dhcp.")
    addresses: list[InterfaceAddress] = Field(default_factory=list, description="The addresses it has now.")
    router: str | None = Field(None, description="The default router in use.")
    static_addresses: list[StaticAddress] = Field(
        default_factory=list, description="The addresses it takes where the mode is static."
    )
    static_router: str | None = Field(None, description="The router it takes where the mode is static.")
    link_local: str | None = Field(None, description="Whether it takes a link-local address too: the camera's word.")
    static_fallback: bool | None = Field(
        None, description="Whether it takes the static address when no DHCP server answers."
    )


class Dot1x(_Part):
    """802.1X of a wired interface."""

    enabled: bool | None = Field(None, description="Whether it logs in to the switch.")
    status: str | None = Field(None, description="How that went: the camera's word.")
    mode: str | None = Field(None, description="The method.")


class Interface(_Part):
    """A network interface of a camera."""

    name: str = Field(description="Its name, such as eth0.")
    type: str | None = Field(None, description="wired, wlan, bridge or switchPort.")
    mac: str | None = Field(None, description="Its MAC address.")
    link: bool | None = Field(None, description="Whether there is a link.")
    link_mode: str | None = Field(None, description="How speed and duplex are chosen.")
    dot1x: Dot1x | None = Field(None, description="802.1X.")
    ipv4: Ipv4 | None = Field(None, description="IPv4.")
    ipv6_enabled: bool | None = Field(None, description="Whether IPv6 is on.")
    ipv6: list[InterfaceAddress] = Field(default_factory=list, description="IPv6 addresses.")


class SwitchPort(_Part):
    """A port of the switch some cameras have built in."""

    port: str = Field(description="Its number.")
    enabled: bool | None = Field(None, description="Whether it is on.")
    up: bool | None = Field(None, description="Whether something is connected.")
    remote_addresses: list[str] = Field(default_factory=list, description="Addresses seen behind it, at most 16.")
    security: str | None = Field(None, description="What is enforced: NONE, AUTHENTICATED or MACSEC_SECURED.")


class Hostname(_Part):
    """The host name of a camera."""

    name: str | None = Field(None, description="The name in use.")
    static: str | None = Field(None, description="The name it was given by hand.")
    from_dhcp: bool | None = Field(None, description="Whether the name comes from the DHCP server.")


class Resolver(_Part):
    """The name servers of a camera."""

    from_dhcp: bool | None = Field(None, description="Whether they come from the DHCP server.")
    servers: list[str] = Field(default_factory=list, description="Name servers in use.")
    search: list[str] = Field(default_factory=list, description="Search domains in use.")
    domain: str | None = Field(None, description="The domain in use.")
    static_servers: list[str] = Field(default_factory=list, description="Name servers given by hand.")
    static_search: list[str] = Field(default_factory=list, description="Search domains given by hand.")
    static_domain: str | None = Field(None, description="Domain given by hand.")
    max_servers: int | None = Field(None, description="Most name servers that can be given.")
    max_search: int | None = Field(None, description="Most search domains that can be given.")


class Proxies(_Part):
    """The proxies of a camera; user names and passwords in them are left out."""

    http: str | None = Field(None, description="For http.")
    https: str | None = Field(None, description="For https.")
    exceptions: str | None = Field(None, description="What is reached without.")


class NetworkSettings(_Part):
    """What a camera says about its network."""

    hostname: Hostname = Field(default_factory=Hostname, description="Host name.")
    resolver: Resolver = Field(default_factory=Resolver, description="Name servers.")
    proxies: Proxies | None = Field(None, description="Proxies.")
    interfaces: list[Interface] = Field(default_factory=list, description="Interfaces.")
    switch_ports: list[SwitchPort] = Field(default_factory=list, description="Ports of the built-in switch.")


# --- reading strangers' words -----------------------------------------------------------------------------------------


def _text(value: Any, limit: int = 255) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    clean = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value[: 2 * limit])
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def _flag(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _whole(value: Any, least: int, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any, most: int) -> list[Mapping[str, Any]]:
    return [entry for entry in value[:most] if isinstance(entry, dict)] if isinstance(value, list) else []


def _texts(value: Any, most: int = _MOST_ADDRESSES) -> list[str]:
    return [text for entry in value[:most] if (text := _text(entry))] if isinstance(value, list) else []


def _address(value: Any) -> str | None:
    """An address in its canonical spelling; what is none is shown as it came."""
    text = _text(value, 64)
    try:
        return str(ipaddress.ip_address(text)) if text else None
    except ValueError:
        return text


def without_login(url: str | None) -> str | None:
    """Leave user and password out of a proxy's address.

    >>> without_login("http://ann:secret@proxy.example.com:3128")
    'http://***@proxy.example.com:3128'
    """
    return _USERINFO.sub(r"\1***@", url) if url else None


# --- network_settings.cgi ---------------------------------------------------------------------------------------------


def of_json(data: Any) -> NetworkSettings:
    """Read the answer of `getNetworkInfo`.

    Raises:
        ValueError: It holds no interfaces: it is something else.
    """
    if not isinstance(data, dict) or not isinstance(data.get("devices"), list):
        raise ValueError("its network information has no list of devices")
    system = _dict(data.get("system"))
    devices = _dicts(data["devices"], _MOST_DEVICES)
    return NetworkSettings(
        hostname=_hostname(_dict(system.get("hostname"))),
        resolver=_resolver(_dict(system.get("resolver"))),
        proxies=_proxies(system, data),
        interfaces=[_interface(device) for device in devices if device.get("type") != "switchPort"],
        switch_ports=[_switch_port(device) for device in devices if device.get("type") == "switchPort"],
    )


def _hostname(said: Mapping[str, Any]) -> Hostname:
    return Hostname(
        name=_text(said.get("hostname")),
        static=_text(said.get("staticHostname")),
        from_dhcp=_flag(said.get("useDhcpHostname")),
    )


def _resolver(said: Mapping[str, Any]) -> Resolver:
    return Resolver(
        from_dhcp=_flag(said.get("useDhcpResolverInfo")),
        servers=_texts(said.get("nameServers")),
        search=_texts(said.get("searchDomains")),
        domain=_text(said.get("domainName")),
        static_servers=_texts(said.get("staticNameServers")),
        static_search=_texts(said.get("staticSearchDomains")),
        static_domain=_text(said.get("staticDomainName")),
        max_servers=_whole(said.get("maxSupportedStaticNameServers"), 0, 100),
        max_search=_whole(said.get("maxSupportedStaticSearchDomains"), 0, 100),
    )


def _proxies(*places: Mapping[str, Any]) -> Proxies | None:
    """Find the proxies: where they stand in the answer is not documented, their keys are those of the setter."""
    for place in places:
        for candidate in (place, *(inner for inner in place.values() if isinstance(inner, dict))):
            if {"httpProxy", "httpsProxy", "noProxy"} & set(candidate):
                exceptions = candidate.get("noProxy")
                listed = ", ".join(_texts(exceptions)) if isinstance(exceptions, list) else exceptions
                return Proxies(
                    http=without_login(_text(candidate.get("httpProxy"))),
                    https=without_login(_text(candidate.get("httpsProxy"))),
                    exceptions=_text(listed, 500),
                )
    return None


def _interface(said: Mapping[str, Any]) -> Interface:
    wired = _dict(said.get("wired"))
    dot1x = wired.get("8021X")
    ipv6 = _dict(said.get("IPv6"))
    return Interface(
        name=_text(said.get("name"), 32) or "",
        type=_text(said.get("type"), 32),
        mac=_text(said.get("macAddress"), 32),
        link=_flag(said.get("link")),
        link_mode=_text(wired.get("linkMode"), 64),
        dot1x=Dot1x(
            enabled=_flag(dot1x.get("enabled")),
            status=_text(dot1x.get("status"), 64),
            mode=_text(dot1x.get("mode"), 64),
        )
        if isinstance(dot1x, dict)
        else None,
        ipv4=_ipv4(said["IPv4"]) if isinstance(said.get("IPv4"), dict) else None,
        ipv6_enabled=_flag(ipv6.get("enabled")),
        ipv6=_addresses(ipv6.get("addresses")),
    )


def _addresses(value: Any) -> list[InterfaceAddress]:
    return [
        InterfaceAddress(
            address=address,
            prefix_length=_whole(entry.get("prefixLength"), 0, 128),
            origin=_text(entry.get("origin"), 32),
        )
        for entry in _dicts(value, _MOST_ADDRESSES)
        if (address := _address(entry.get("address")))
    ]


def _ipv4(said: Mapping[str, Any]) -> Ipv4:
    return Ipv4(
        enabled=_flag(said.get("enabled")),
        mode=_text(said.get("configurationMode"), 32),
        addresses=_addresses(said.get("addresses")),
        router=_address(said.get("defaultRouter")),
        static_addresses=[
            StaticAddress(address=address, prefix_length=prefix, broadcast=_address(entry.get("broadcast")))
            for entry in _dicts(said.get("staticAddressConfigurations"), _MOST_ADDRESSES)
            if (address := _address(entry.get("address"))) is not None
            and (prefix := _whole(entry.get("prefixLength"), 0, 32)) is not None
        ],
        static_router=_address(said.get("staticDefaultRouter")),
        link_local=_text(said.get("linkLocalMode"), 32),
        static_fallback=_flag(said.get("useStaticDHCPFallback")),
    )


def _switch_port(said: Mapping[str, Any]) -> SwitchPort:
    port = _dict(said.get("switchPort"))
    number = port.get("portNumber")
    return SwitchPort(
        port=str(number) if isinstance(number, int) else _text(number, 16) or _text(said.get("name"), 32) or "",
        up=_flag(said.get("link")),
        remote_addresses=_texts(port.get("remoteAddresses")),
    )


# --- /config ----------------------------------------------------------------------------------------------------------

_REST_PATH = re.compile(r"/config/rest(?:/[A-Za-z0-9_-]+){1,6}")


def rest_path_of(discovered: Any) -> str | None:
    """Find the path of the network settings in the answer of `/config/discover`; None where there is none we know.

    The path comes from the camera: one that leads elsewhere than below /config/rest is not taken.
    """
    versions = _dict(_dict(_dict(discovered).get("apis")).get("network-settings"))
    known = sorted((name for name in versions if re.fullmatch(r"v[2-9]", str(name))), reverse=True)
    for name in known:
        path = _dict(versions[name]).get("rest_api")
        if isinstance(path, str) and _REST_PATH.fullmatch(path):
            return path
    return None


def switch_ports_of_rest(data: Any) -> list[SwitchPort]:
    """Read the root of the network settings' REST model: the switch's ports; none where there is no switch.

    Raises:
        ValueError: It is no such model.
    """
    if not isinstance(data, dict):
        raise ValueError("its network settings model is no object")
    if data.get("switch_supported") is False:
        return []
    ports = _dict(_dict(data.get("switch")).get("port"))
    found = []
    for key, said in list(ports.items())[:_MOST_PORTS]:
        port = _dict(said)
        state = port.get("lowerState")
        found.append(
            SwitchPort(
                port=_text(port.get("portId"), 16) or _text(str(key), 16) or "",
                enabled=_flag(port.get("enabled")),
                up=state == "UP" if isinstance(state, str) else None,
                remote_addresses=_texts(port.get("remoteAddresses")),
                security=_text(_dict(port.get("security")).get("authServerEnforced"), 32),
            )
        )
    return sorted(found, key=lambda one: (len(one.port), one.port))


# --- Network.* parameters ---------------------------------------------------------------------------------------------


def of_parameters(values: Mapping[str, str]) -> NetworkSettings:
    """Read `Network.*` parameters of cameras without network_settings.cgi; what an account may not read is absent.

    Raises:
        ValueError: There are none.
    """
    if not any(key.startswith("Network.") for key in values):
        raise ValueError("it shows no Network parameters to this account")

    def first(*keys: str) -> str | None:
        return next((text for key in keys if (text := _text(values.get(f"Network.{key}")))), None)

    names = sorted(
        {match[1] for key in values if (match := re.fullmatch(r"Network\.(eth\d{1,2}|wlan\d{1,2})\..+", key))}
    )
    boot = (first("BootProto") or "").lower()
    mode = {"dhcp": "dhcp", "none": "static", "static": "static"}.get(boot, boot or None)
    interfaces = []
    for name in names or ["eth0"]:
        address = _address(first(f"{name}.IPAddress", *(["IPAddress"] if name == (names or ["eth0"])[0] else [])))
        router = _address(first(f"{name}.DefaultRouter", "DefaultRouter"))
        prefix = _prefix_of(first(f"{name}.SubnetMask", "SubnetMask"))
        held = [InterfaceAddress(address=address, prefix_length=prefix, origin=mode)] if address else []
        interfaces.append(
            Interface(
                name=name,
                type="wlan" if name.startswith("wlan") else "wired",
                mac=_text(values.get(f"Network.{name}.MACAddress"), 32),
                ipv4=Ipv4(enabled=_flag(first("IPv4.Enabled")), mode=mode, addresses=held, router=router),
                ipv6_enabled=_flag(first("IPv6.Enabled")),
                ipv6=[
                    InterfaceAddress(address=str(_address(part.partition("/")[0])))
                    for part in (first(f"{name}.IPv6.IPAddresses") or "").split()[:_MOST_ADDRESSES]
                ],
            )
        )
    from_dhcp = _flag(first("Resolver.ObtainFromDHCP"))
    numbered = [text for key in ("NameServer1", "NameServer2") if (text := first(f"Resolver.{key}"))]
    # 0.0.0.0 stands for none there.
    servers = [
        text
        for text in (first("Resolver.NameServerList") or " ".join(numbered)).replace(",", " ").split()[:_MOST_ADDRESSES]
        if text.strip("0.")
    ]
    search = (first("Resolver.Search", "DomainName") or "").split()[:_MOST_ADDRESSES]
    name = first("VolatileHostName.HostName", "HostName")
    return NetworkSettings(
        hostname=Hostname(
            name=name, static=first("HostName"), from_dhcp=_flag(first("VolatileHostName.ObtainFromDHCP"))
        ),
        resolver=Resolver(from_dhcp=from_dhcp, servers=servers, search=search, domain=first("DomainName")),
        interfaces=interfaces,
    )


def _prefix_of(mask: str | None) -> int | None:
    try:
        return ipaddress.ip_network(f"0.0.0.0/{mask}").prefixlen if mask else None
    except ValueError:
        return None


# --- which new settings make sense ------------------------------------------------------------------------------------


def check_hostname(name: str) -> str:
    """Return a host name.

    Raises:
        ValueError: It is none.
    """
    if not HOSTNAME.fullmatch(name) or name.isdigit():
        raise ValueError("a host name has 1 to 63 letters, digits and -, not at its ends; right would be camera-door-3")
    return name


def check_domain(name: str) -> str:
    """Return a domain.

    Raises:
        ValueError: It is none.
    """
    text = name.strip().rstrip(".")
    if not text or len(text) > 253 or not all(HOSTNAME.fullmatch(label) for label in text.split(".")):
        raise ValueError("a domain looks like example.com")
    return text


def check_host_address(text: str) -> str:
    """Return an IPv4 address that a host can have.

    Raises:
        ValueError: It is none.
    """
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        raise ValueError("must be an IPv4 address such as 192.168.1.20") from None
    if address.is_multicast or address.is_unspecified or address.is_reserved or address.is_link_local:
        raise ValueError(f"{address} is no address a camera can be given")
    return str(address)


def check_subnet(address: str, prefix_length: int, router: str | None) -> ipaddress.IPv4Network:
    """Return the subnet of a new address, when address and router make sense in it.

    Raises:
        ValueError: Says what does not.
    """
    network = ipaddress.IPv4Interface(f"{address}/{prefix_length}").network
    if prefix_length < 31 and ipaddress.IPv4Address(address) in (network.network_address, network.broadcast_address):
        raise ValueError(f"{address} is the network's own or its broadcast address in {network}; no host can have it")
    if router is not None:
        if ipaddress.IPv4Address(router) not in network:
            raise ValueError(f"the router {router} is not in {network}, so the camera could not reach it")
        if prefix_length < 31 and ipaddress.IPv4Address(router) in (network.network_address, network.broadcast_address):
            raise ValueError(
                f"{router} is the network's own or its broadcast address in {network}; no router can have it"
            )
        if router == address:
            raise ValueError("the router and the camera cannot have the same address")
    return network


def interface_with(settings: NetworkSettings, address: str) -> Interface | None:
    """The interface that has this address now."""
    for interface in settings.interfaces:
        held = interface.ipv4.addresses if interface.ipv4 else []
        if any(one.address == address for one in held):
            return interface
    return None


def subnet_of(interface: Interface, address: str) -> ipaddress.IPv4Network | None:
    """The subnet in which the interface has this address now."""
    for one in interface.ipv4.addresses if interface.ipv4 else []:
        if one.address == address and one.prefix_length is not None and one.prefix_length <= 32:
            return ipaddress.IPv4Interface(f"{one.address}/{one.prefix_length}").network
    return None


def describe_ipv4(ipv4: Ipv4 | None) -> str:
    """Say in a few words what IPv4 settings are, such as `static 10.0.0.5/24 via 10.0.0.1`."""
    if ipv4 is None:
        return "none"
    given: Sequence[StaticAddress | InterfaceAddress] = (
        ipv4.static_addresses if ipv4.mode == "static" and ipv4.static_addresses else ipv4.addresses
    )
    router = ipv4.static_router if ipv4.mode == "static" and ipv4.static_router else ipv4.router
    addresses = ", ".join(
        one.address if one.prefix_length is None else f"{one.address}/{one.prefix_length}" for one in given
    )
    return " ".join(
        [ipv4.mode or "unknown mode", *([addresses] if addresses else []), *([f"via {router}"] if router else [])]
    )


def listed(values: Iterable[str]) -> str:
    """Join values for a sentence."""
    return ", ".join(values) or "none"


def is_inside(address: str, network: str) -> bool:
    """Whether an address is in the network of `10.0.0.5/24`."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def is_loopback(address: str) -> bool:
    """Whether an address is this host's own, wherever it is used."""
    return ipaddress.ip_address(address).is_loopback


def broadcast_of(address: str, prefix_length: int) -> str:
    """The broadcast address of an address's subnet.

    >>> broadcast_of("192.168.1.20", 24)
    '192.168.1.255'
    """
    return str(ipaddress.IPv4Interface(f"{address}/{prefix_length}").network.broadcast_address)
