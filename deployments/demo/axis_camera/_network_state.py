"""A camera's network settings: what network_settings.cgi, the REST configuration and the parameters Network.* show and change alike."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._listening import Listening

Reaction = Literal["move", "stay", "fail", "silent", "lost", "reset"]
"""What the camera does with a new IPv4 setting: `move` answers and then has the new address; `stay` answers and changes nothing;
`fail` finds that it cannot, rolls back by itself and answers error 1000; `silent` moves without answering; `lost` answers and is gone;
`reset` moves, and forgets the router it was given."""
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,253}")


class NetworkRefusal(Exception):
    """The camera says no.

    Attributes:
        code: Its error code.
        subcode: What `details.subCode` says of a value that is wrong.
        status: HTTP status it comes with.
    """

    def __init__(self, code: int, message: str, subcode: int | None = None, status: int = 200) -> None:
        super().__init__(message)
        self.code, self.message, self.subcode, self.status = code, message, subcode, status


@dataclass
class SwitchPort:
    """A port of a built-in switch."""

    number: int
    enabled: bool = True
    up: bool = True
    remote: list[str] = field(default_factory=list)
    enforced: str = "NONE"


class NetworkState:
    """Network settings of one camera, with what is not among its parameters."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.reaction: Reaction = "move"
        self.hostname_sticks = True
        self.delay = 0.1
        self.told = 0
        """How often it was told a new IPv4 setting: the last one counts."""
        self.dhcp_address: str | None = None
        """The address a DHCP server gives it; None: the one it had from it before, or has."""
        self.switch_ports: list[SwitchPort] = []
        self.dhcp_hostname = True
        self.static_servers: list[str] = []
        self.static_search: list[str] = []
        self.static_domain = ""
        self.link_local = "auto"
        self.fallback = True
        self.static_addresses: list[dict[str, Any]] = [
            {"address": "192.168.0.90", "prefixLength": 24, "broadcast": "192.168.0.255"}
        ]
        self.static_router = "192.168.0.1"
        self.proxies: dict[str, str] | None = None

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def dhcp(self) -> bool:
        return self.device.params.get("Network.BootProto", "dhcp") == "dhcp"

    @property
    def address(self) -> str:
        return self.device.address

    @property
    def subnet(self) -> ipaddress.IPv4Interface:
        """The address it has now, with its prefix."""
        if not self.dhcp:
            for one in self.static_addresses:
                if one["address"] == self.address:
                    return ipaddress.IPv4Interface(f"{one['address']}/{one['prefixLength']}")
        loopback = ipaddress.ip_address(self.address).is_loopback
        return ipaddress.IPv4Interface(f"{self.address}/{8 if loopback else 24}")

    @property
    def router(self) -> str:
        if not self.dhcp:
            return self.static_router
        return str(self.subnet.network.network_address + 1)

    @property
    def hostname(self) -> str:
        return (
            f"axis-{self.device.serial.lower()}" if self.dhcp_hostname else self.device.params.get("Network.HostName")
        )

    def info(self) -> dict[str, Any]:
        """The answer of `getNetworkInfo`."""
        params = self.device.params
        from_dhcp = params.flag("Network.Resolver.ObtainFromDHCP")
        servers = params.get("Network.Resolver.NameServerList").replace(",", " ").split()
        system: dict[str, Any] = {
            "tcpEcnMode": "acceptAndInitiate",
            "deviceSwitching": {
                "mode": "auto",
                "devices": ["eth0"],
                "manualActiveDevices": ["eth0"],
                "activeDevices": ["eth0"],
            },
            "hostname": {
                "useDhcpHostname": self.dhcp_hostname,
                "hostname": self.hostname,
                "staticHostname": params.get("Network.HostName"),
            },
            "resolver": {
                "useDhcpResolverInfo": from_dhcp,
                "nameServers": servers,
                "staticNameServers": list(self.static_servers),
                "maxSupportedStaticNameServers": 3,
                "searchDomains": list(self.static_search),
                "staticSearchDomains": list(self.static_search),
                "maxSupportedStaticSearchDomains": 6,
                "domainName": params.get("Network.DomainName"),
                "staticDomainName": self.static_domain,
            },
        }
        if self.proxies is not None:
            system["globalProxy"] = dict(self.proxies)
        interface = self.subnet
        eth0: dict[str, Any] = {
            "name": "eth0",
            "type": "wired",
            "macAddress": self.device.mac,
            "partOfBridge": "",
            "link": True,
            "wired": {
                "linkMode": "auto",
                "8021X": {
                    "enabled": False,
                    "status": "Stopped",
                    "mode": "WPA-Enterprise-EAPTLS",
                    "configurations": [],
                    "supportedModes": ["WPA-Enterprise-EAPTLS"],
                },
            },
            "IPv4": {
                "enabled": True,
                "configurationMode": "dhcp" if self.dhcp else "static",
                "linkLocalMode": self.link_local,
                "addresses": [
                    {
                        "address": str(interface.ip),
                        "prefixLength": interface.network.prefixlen,
                        "origin": "dhcp" if self.dhcp else "static",
                        "scope": "global",
                        "broadcast": str(interface.network.broadcast_address),
                    }
                ],
                "maxSupportedStaticAddressConfigurations": 1,
                "staticAddressConfigurations": [dict(one) for one in self.static_addresses],
                "defaultRouter": self.router,
                "staticDefaultRouter": self.static_router,
                "useStaticDHCPFallback": self.fallback,
            },
            "IPv6": {"enabled": False, "addresses": []},
        }
        ports = [
            {
                "name": f"port{port.number}",
                "type": "switchPort",
                "link": port.up,
                "switchPort": {"portNumber": port.number, "remoteAddresses": list(port.remote)},
            }
            for port in self.switch_ports
        ]
        return {"system": system, "devices": [eth0, *ports]}

    # --- writing -----------------------------------------------------------------------------------------------------

    def set_hostname(self, params: dict[str, Any]) -> None:
        from_dhcp = _boolean(params, "useDhcpHostname")
        name = params.get("staticHostname", self.device.params.get("Network.HostName"))
        if not isinstance(name, str) or (name and not _HOSTNAME.fullmatch(name)):
            raise NetworkRefusal(4004, "Invalid parameter value: staticHostname", 100)
        if not self.hostname_sticks:
            return
        self.dhcp_hostname = from_dhcp
        self.device.params.set("Network.HostName", name)

    def set_resolver(self, params: dict[str, Any]) -> None:
        from_dhcp = _boolean(params, "useDhcpResolverInfo")
        servers, search = params.get("staticNameServers", []), params.get("staticSearchDomains", [])
        domain = params.get("staticDomainName", "")
        if not isinstance(servers, list) or len(servers) > 3 or not all(_is_address(one) for one in servers):
            raise NetworkRefusal(4004, "Invalid parameter value: staticNameServers", 110)
        if not isinstance(search, list) or len(search) > 6 or not all(_is_domain(one) for one in search):
            raise NetworkRefusal(4004, "Invalid parameter value: staticSearchDomains", 111)
        if domain and not _is_domain(domain):
            raise NetworkRefusal(4004, "Invalid parameter value: staticDomainName", 112)
        self.static_servers, self.static_search, self.static_domain = servers, search, domain
        tree = self.device.params
        tree.set("Network.Resolver.ObtainFromDHCP", from_dhcp)
        tree.set("Network.Resolver.NameServerList", self.router if from_dhcp else " ".join(servers))
        tree.set("Network.DomainName", "lan" if from_dhcp else domain)

    def set_ipv4(self, params: dict[str, Any]) -> Callable[[], None] | None:
        """Check a new IPv4 setting; returns what the camera does with it once it has answered."""
        if params.get("deviceName") != "eth0":
            raise NetworkRefusal(5000, "No such device")
        mode = params.get("configurationMode")
        if mode is None:
            raise NetworkRefusal(4003, "Required parameter missing: configurationMode")
        if mode not in ("static", "dhcp"):
            raise NetworkRefusal(4004, "Invalid parameter value: configurationMode", 120)
        addresses = params.get("staticAddressConfigurations", self.static_addresses)
        router = params.get("staticDefaultRouter", self.static_router)
        self._check_addresses(addresses, router, needed=mode == "static")
        if self.reaction == "fail":
            raise NetworkRefusal(1000, "Internal error", status=500)
        if self.reaction == "stay":
            return None
        fallback = params.get("useStaticDHCPFallback", self.fallback)

        def apply() -> None:
            if self.reaction == "lost":
                self.go(None)
                return
            if self.dhcp and self.dhcp_address is None:
                self.dhcp_address = self.address
            self.static_addresses = [
                {"broadcast": str(_interface(one).network.broadcast_address), **one} for one in addresses
            ]
            self.static_router = "" if self.reaction == "reset" else router
            self.fallback = bool(fallback)
            self.device.params.set("Network.BootProto", mode if mode == "dhcp" else "none")
            self.go(addresses[0]["address"] if mode == "static" else self.dhcp_address or self.address)

        return apply

    def _check_addresses(self, addresses: Any, router: Any, *, needed: bool) -> None:
        if not isinstance(addresses, list) or len(addresses) > 1 or (needed and not addresses):
            raise NetworkRefusal(4004, "Invalid parameter value: staticAddressConfigurations", 121)
        for one in addresses:
            try:
                interface = _interface(one)
            except (ValueError, TypeError, KeyError):
                raise NetworkRefusal(4004, "Invalid parameter value: address", 122) from None
            if router and (not _is_address(router) or ipaddress.ip_address(router) not in interface.network):
                raise NetworkRefusal(4004, "Invalid parameter value: staticDefaultRouter", 123)

    def go(self, address: str | None) -> None:
        """Have another address from now on, or none: its ports close and open there, where this machine has that address."""
        self.device.refuse()
        if address is None:
            return
        self.device.address = address
        tree, interface = self.device.params, self.subnet
        for prefix in ("Network", "Network.eth0"):
            tree.set(f"{prefix}.IPAddress", address)
            tree.set(f"{prefix}.SubnetMask", interface.netmask)
            tree.set(f"{prefix}.DefaultRouter", self.router)
        tree.set("Network.Broadcast", interface.network.broadcast_address)
        for door in self.device.doors:
            owner = getattr(door, "__self__", None)
            if isinstance(owner, Listening):
                owner.host = address
        if _is_ours(address):
            self.device.refuse(False)

    # --- the REST model ----------------------------------------------------------------------------------------------

    def model(self) -> dict[str, Any]:
        """The root of the REST model `network-settings.v2`."""
        if not self.switch_ports:
            return {"switch_supported": False}
        return {
            "switch_supported": True,
            "switch": {"port": {str(port.number): _port(port) for port in self.switch_ports}},
        }


def _is_ours(address: str) -> bool:
    """Whether this machine can listen at an address; elsewhere nobody sees the camera any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _port(port: SwitchPort) -> dict[str, Any]:
    return {
        "portId": str(port.number),
        "enabled": port.enabled,
        "lowerState": "UP" if port.up and port.enabled else "DOWN",
        "remoteAddresses": list(port.remote),
        "security_supported": True,
        "security": {
            "authServerEnabled": port.enforced != "NONE",
            "authServerEnforced": port.enforced,
            "authState": "AUTHENTICATED",
            "macSecState": "UNSECURED",
        },
    }


def _boolean(params: dict[str, Any], name: str) -> bool:
    value = params.get(name)
    if value is None:
        raise NetworkRefusal(4003, f"Required parameter missing: {name}")
    if not isinstance(value, bool):
        raise NetworkRefusal(4004, f"Invalid parameter value: {name}", 101)
    return value


def _is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return isinstance(value, str)


def _is_domain(value: Any) -> bool:
    return isinstance(value, str) and bool(_DOMAIN.fullmatch(value))


def _interface(one: dict[str, Any]) -> ipaddress.IPv4Interface:
    if not isinstance(one["prefixLength"], int):
        raise TypeError("prefixLength")
    return ipaddress.IPv4Interface(f"{one['address']}/{one['prefixLength']}")
