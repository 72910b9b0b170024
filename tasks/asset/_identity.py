"""What tells one device from another, and how far it can be trusted. Pure functions, no database.

Strong: vendor and serial read from the device, chassis id, SSH host key, and a MAC that is globally administered, of a known
vendor and seen first-hand. Weak: any other MAC, addresses, names. Never: group, virtual-router and zero MACs, junk serials,
default names. Where many rivals make one device many, or many one, they trusted something from the lower lists.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

import netaddr

from tasks.core.models import Address, Network


class Strength(StrEnum):
    """How far an identifier can be trusted."""

    STRONG = "strong"
    WEAK = "weak"


class Kind(StrEnum):
    """Kinds of identifiers, in the order in which they decide."""

    EXTERNAL = "external"
    SERIAL = "serial"
    CHASSIS = "chassis"
    SSH_HOST_KEY = "ssh_host_key"
    MAC = "mac"
    HOSTNAME = "hostname"


MATCH_ORDER = (Kind.EXTERNAL, Kind.SERIAL, Kind.CHASSIS, Kind.SSH_HOST_KEY, Kind.MAC)
"""The first kind that knows an asset decides; an address comes after all of these, a name never decides."""


# --- MAC addresses ---------------------------------------------------------------------------------------------------


class MacKind(StrEnum):
    """What a MAC address is, from its bits and the IEEE registry."""

    GLOBAL = "global"  # burned in, of a registered vendor
    UNKNOWN = "unknown"  # says it is burned in, but nobody registered the prefix
    VM = "vm"  # locally administered, made by a hypervisor and kept by it
    RANDOM = "random"  # locally administered: phones and laptops that hide, virtual interfaces
    VIRTUAL = "virtual"  # a virtual router's: VRRP, CARP, HSRP, GLBP
    NONE = "none"  # group, broadcast or zero: no host has it


_VIRTUAL_ROUTERS = (
    "00:00:5e:00:01:",  # VRRP for IPv4, and CARP: RFC 9568 section 7.3
    "00:00:5e:00:02:",  # VRRP for IPv6
    "00:00:0c:07:ac:",  # HSRP version 1
    "00:00:0c:9f:f",  # HSRP version 2, groups 0 to 4095
    "00:05:73:a0:0",  # HSRP for IPv6
    "00:07:b4:00:",  # GLBP
)
_HYPERVISORS = ("52:54:00:", "02:42:")  # QEMU/KVM; Docker derives the rest from the container's address


@lru_cache(maxsize=65536)
def classify_mac(mac: str) -> MacKind:
    """Classify a MAC written `aa:bb:cc:dd:ee:ff`.

    >>> classify_mac("00:40:8c:12:34:56"), classify_mac("00:00:5e:00:01:0a"), classify_mac("da:a1:19:00:00:01")
    (<MacKind.GLOBAL: 'global'>, <MacKind.VIRTUAL: 'virtual'>, <MacKind.RANDOM: 'random'>)
    """
    first = int(mac[:2], 16)
    if first & 1 or mac == "00:00:00:00:00:00":
        return MacKind.NONE
    if mac.startswith(_VIRTUAL_ROUTERS):
        return MacKind.VIRTUAL
    if first & 2:
        return MacKind.VM if mac.startswith(_HYPERVISORS) else MacKind.RANDOM
    return MacKind.GLOBAL if oui_vendor(mac) else MacKind.UNKNOWN


def oui_vendor(mac: str) -> str | None:
    """Return who registered the MAC's prefix, from the IEEE table inside netaddr; None when nobody did.

    >>> oui_vendor("00:40:8c:12:34:56")
    'Axis Communications AB'
    """
    return _registered(mac[:8])


@lru_cache(maxsize=8192)
def _registered(prefix: str) -> str | None:
    if int(prefix[:2], 16) & 3:
        return None  # locally administered or group: the registry does not apply
    try:
        return str(netaddr.OUI(prefix.replace(":", "-")).registration()["org"]) or None
    except netaddr.NotRegisteredError:
        return None


def mac_strength(mac: str, *, first_hand: bool) -> Strength | None:
    """How far a MAC identifies; None when it never does.

    Args:
        mac: The address.
        first_hand: Whether the device itself told us (its ARP reply, its own SNMP agent), not a third party.
    """
    kind = classify_mac(mac)
    if kind in (MacKind.VIRTUAL, MacKind.NONE):
        return None
    return Strength.STRONG if kind is MacKind.GLOBAL and first_hand else Strength.WEAK


# --- serials, chassis, keys ------------------------------------------------------------------------------------------

_JUNK_SERIALS = """
none null nil n/a na unknown unspecified undefined default empty invalid oem test serial serialnumber notavailable notspecified
notapplicable tobefilledbyoem defaultstring systemserialnumber chassisserialnumber baseboardserialnumber 0123456789abcdef
0123456789 123456789 1234567890 12345678 1234567
"""
_JUNK = frozenset(_JUNK_SERIALS.split())  # without blanks and punctuation; SMBIOS tables are full of them


def clean_serial(serial: str | None) -> str | None:
    """Return the serial as it identifies, lower case without blanks; None for junk.

    >>> clean_serial(" ACCC8E-012345 "), clean_serial("To be filled by O.E.M."), clean_serial("0000000")
    ('accc8e-012345', None, None)
    """
    if not serial:
        return None
    text = re.sub(r"\s+", "", serial).lower()
    bare = re.sub(r"[^a-z0-9/]", "", text)
    if len(bare) < 3 or bare in _JUNK or len(set(bare)) == 1:
        return None
    return text


@lru_cache(maxsize=4096)
def clean_vendor(vendor: str | None) -> str:
    """Return a vendor's name without the words that come and go ("Inc.", "AB", "Communications").

    >>> clean_vendor("Axis Communications AB"), clean_vendor("AXIS")
    ('axis', 'axis')
    """
    words = re.sub(r"[^a-z0-9 ]", " ", (vendor or "").lower()).split()
    kept = [word for word in words if word not in _COMPANY_WORDS]
    return (kept or words or [""])[0]


_COMPANY_WORDS = frozenset(
    (
        "inc",
        "ltd",
        "llc",
        "ab",
        "ag",
        "gmbh",
        "co",
        "corp",
        "corporation",
        "company",
        "the",
        "systems",
        "communications",
    )
)


def serial_key(vendor: str | None, serial: str | None) -> str | None:
    """Return the identifier `vendor:serial`, or None when either is missing: a serial alone is no identifier."""
    number = clean_serial(serial)
    maker = clean_vendor(vendor)
    return f"{maker}:{number}" if number and maker else None


# --- names -----------------------------------------------------------------------------------------------------------

_DEFAULT_NAMES = re.compile(
    r"(localhost\d*|ip6-localhost|localhost\.localdomain|unknown|none|default|_?gateway|router|switch|printer|camera|ipcam|"
    r"debian|ubuntu|raspberrypi|openwrt|android|iphone|ipad|espressif|esp[-_]?[0-9a-f]{6}|desktop|host|axis|"
    r"(\d{1,3}[-.]){3}\d{1,3}.*|ip-\d.*|dhcp[-\d].*)"
)


def clean_name(name: str | None) -> str | None:
    """Return a host name in lower case without the final dot; None for nothing and for addresses."""
    text = (name or "").strip().rstrip(".").lower()
    if not text or len(text) > 253 or ":" in text or re.fullmatch(r"[0-9.]+", text):
        return None
    return text


def is_default_name(name: str) -> bool:
    """Whether a name says nothing about which host it is: "localhost", "raspberrypi", names made from the address.

    >>> is_default_name("localhost.localdomain"), is_default_name("web1.example.com")
    (True, False)
    """
    return _DEFAULT_NAMES.fullmatch(name) is not None or _DEFAULT_NAMES.fullmatch(name.partition(".")[0]) is not None


def same_name(one: str, other: str) -> bool:
    """Whether two names are one: equal, or one is the other's short form.

    >>> same_name("web1", "web1.example.com"), same_name("web1.a.example", "web1.b.example")
    (True, False)
    """
    one, other = one.lower(), other.lower()
    if one == other:
        return True
    return ("." not in one or "." not in other) and one.partition(".")[0] == other.partition(".")[0]


def choose_name(names: Iterable[str]) -> str | None:
    """Return the name to show: not a default one, fully qualified before short, else the first given."""
    useful = [name for name in map(clean_name, names) if name and not is_default_name(name)]
    return next((name for name in useful if "." in name), useful[0] if useful else None)


# --- addresses -------------------------------------------------------------------------------------------------------

_HOST_LOCAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(prefix)
    for prefix in (
        "127.0.0.0/8",
        "::1/128",
        "169.254.0.0/16",
        "fe80::/10",
        "172.17.0.0/16",  # docker0
        "192.168.122.0/24",  # libvirt's default network
    )
)
_NO_HOST: tuple[Network, ...] = tuple(
    ipaddress.ip_network(prefix) for prefix in ("0.0.0.0/32", "255.255.255.255/32", "224.0.0.0/4", "::/128", "ff00::/8")
)


@lru_cache(maxsize=65536)
def parse_address(text: str) -> Address:
    """Parse an address; IPv4-mapped IPv6 becomes the IPv4 it means.

    Raises:
        ValueError: Not an address.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_host_local(address: Address, declared: Iterable[Network] = ()) -> bool:
    """Whether every host may have this address for itself: loopback, link-local, container bridges. They identify nothing.

    Args:
        address: The address.
        declared: Networks an operator declared as the site's own: what lies in them is real.
    """
    if not any(address in network for network in _HOST_LOCAL):
        return False
    return address.is_loopback or address.is_link_local or not any(address in network for network in declared)


def is_no_host(address: Address) -> bool:
    """Whether no host can have this address: unspecified, broadcast, multicast."""
    return any(address in network for network in _NO_HOST)
