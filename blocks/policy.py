"""What a site allows: targets, ports, rates and safety levels. An empty policy refuses everything."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_WIDEST_IPV4 = 8
_WIDEST_IPV6 = 16
_WIDE_PRIVATE_IPV6 = (ipaddress.IPv6Network("fc00::/7"), ipaddress.IPv6Network("fe80::/10"))
_NEVER_ALLOWED = tuple(
    ipaddress.ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")
)

NEVER_PORTS = ["102", "502", "515", "2404", "6101", "9100-9116", "20000", "34962-34964", "44818", "47808"]
"""Ports where a probe does harm.

Printers print what arrives at 9100-9116 and 6101 (raw printing; nmap leaves out 9100-9107 alone, its issue 2237 names the others) and at
515 (LPD). Industrial controllers and building automation lose sessions or stop at half-open or unexpected connections: 102 (S7),
502 (Modbus), 2404 (IEC 60870-5-104), 20000 (DNP3), 34962-34964 (PROFINET), 44818 (EtherNet/IP), 47808 (BACnet).
"""


def _cidr(text: Any) -> str:
    """Return a prefix in its canonical spelling; a single address becomes a /32 or /128, IPv4-mapped IPv6 the IPv4 it means."""
    if not isinstance(text, str) or not (text := text.strip()):
        raise ValueError("must be a prefix or address as text, such as 192.168.1.0/24")
    if "%" in text:
        raise ValueError(f"{text!r} names an interface; give it without the % and what follows")
    try:
        network = ipaddress.ip_network(text, strict=False)
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise ValueError(
            f"{text!r} is not a prefix or address; right would be 192.168.1.0/24 or 2001:db8::/64"
        ) from None
    if "/" in text and address != network.network_address:
        raise ValueError(f"{text!r} has host bits set; the network is {network}, the host {address}")
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return f"{mapped}/{network.prefixlen - 96}"
    return str(network)


def _allowed_cidr(text: Any) -> str:
    cidr = _cidr(text)
    network = ipaddress.ip_network(cidr)
    if isinstance(network, ipaddress.IPv4Network):
        if network.prefixlen < _WIDEST_IPV4:
            raise ValueError(
                f"{cidr} is wider than /{_WIDEST_IPV4}: nobody's network is that large; name the networks you run"
            )
    elif network.prefixlen < _WIDEST_IPV6 and not any(network.subnet_of(private) for private in _WIDE_PRIVATE_IPV6):
        raise ValueError(
            f"{cidr} is wider than /{_WIDEST_IPV6}: nobody's network is that large; name the networks you run"
        )
    for never in _NEVER_ALLOWED:
        if network.version == never.version and network.overlaps(never):
            raise ValueError(f"{cidr} holds addresses that no host has (unspecified, multicast or broadcast: {never})")
    return cidr


def _ports(text: Any) -> str:
    match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a port or range; right would be 9100 or 9100-9116")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= 65535:
        raise ValueError(f"{text!r} is not a port range; ports are 1 to 65535, lowest first")
    return str(low) if low == high else f"{low}-{high}"


class Exclusion(BaseModel):
    """A part of the network that is never probed, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(
        description="Prefix or address that is never probed, whatever `allow` says.", examples=["10.0.5.0/24"]
    )
    reason: str = Field(
        description="Why; every refusal repeats it.",
        min_length=1,
        max_length=300,
        examples=["heart monitors, ask the clinic"],
    )

    @field_validator("target", mode="before")
    @classmethod
    def _check_target(cls, text: Any) -> str:
        return _cidr(text)

    @field_validator("reason")
    @classmethod
    def _one_line(cls, reason: str) -> str:
        if not (reason := " ".join(reason.split())):
            raise ValueError("say why, in a few words: every refusal repeats it")
        return reason


class ProbePolicy(Block):
    """What one site allows. The block's name is the site's name.

    Attributes:
        allow: Prefixes that may be probed. Empty: nothing may.
        exclude: Parts that are never probed; wins over `allow`.

    Example:
        Allow an office network, but never the clinic's devices in it:

        ```python
        ProbePolicy(
            allow=["10.0.0.0/16"],
            exclude=[{"target": "10.0.5.0/24", "reason": "heart monitors, ask the clinic"}],
        ).save("default")
        ```
    """

    _block_type_name: ClassVar[str] = "Probe Policy"
    _block_type_slug: ClassVar[str] = "probe-policy"
    _description: ClassVar[str] = "What a site allows: targets, ports, rates and safety levels. Empty means: refuse."
    short: ClassVar[str] = "policy"

    allow: list[str] = Field(
        default_factory=lambda: ["127.0.0.0/8", "::1/128"],
        description="Prefixes and addresses that may be probed, at most /8 (IPv4) or /16 (IPv6) wide. Empty: nothing may.",
    )
    exclude: list[Exclusion] = Field(
        default_factory=list,
        description="Parts that are never probed, with the reason; wins over allow, checked on every resolved address.",
    )
    never_ports: list[str] = Field(
        default_factory=lambda: list(NEVER_PORTS),
        description="Ports and ranges that are never touched: raw printing (printers print what arrives) and industrial control.",
    )
    max_addresses: int = Field(
        4096, ge=1, le=1 << 24, description="Most addresses one run may probe, exclusions taken off."
    )
    packets_per_second: int = Field(
        1000, ge=10, le=1_000_000, description="Packets per second all runs and workers of the site may send together."
    )
    host_packets_per_second: int = Field(
        40, ge=0, le=1_000_000, description="Packets per second to any one host; 0 for no cap (laboratories only)."
    )
    ceiling: Literal["read", "probe", "change", "destroy"] = Field(
        "change", description="The most a tool may do: read < probe (sends packets) < change < destroy."
    )
    egress_allow: list[str] = Field(
        default_factory=list,
        description="Loopback, private, link-local or metadata prefixes that a URL given as a parameter may reach. "
        "Public addresses need no entry; neither do endpoints named in blocks.",
    )
    programs: list[str] = Field(
        default_factory=list,
        description="Programs shell_command may run: names found in PATH, or absolute paths. Empty: none.",
    )
    masscan: bool = Field(False, description="Whether masscan may be used at all.")
    capture_interfaces: list[str] = Field(
        default_factory=lambda: ["*"],
        description="Interfaces that may be captured: names, or patterns such as eth*. Empty: none. `any`, which hears all "
        "interfaces at once, must be named itself.",
    )
    capture_max_seconds: int = Field(1800, ge=1, le=1800, description="Longest live capture, seconds.")
    capture_max_packets: int = Field(1_000_000, ge=1, le=100_000_000, description="Most packets of one live capture.")
    capture_max_bytes: int = Field(100 << 20, ge=1 << 16, le=100 << 20, description="Largest capture file, bytes.")
    capture_max_snap_length: int = Field(262_144, ge=64, le=262_144, description="Most bytes kept of each packet.")

    @field_validator("allow", mode="before")
    @classmethod
    def _check_allow(cls, values: Any) -> list[str]:
        return _each(values, _allowed_cidr, "prefixes such as 192.168.1.0/24")

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _check_egress(cls, values: Any) -> list[str]:
        return _each(values, _allowed_cidr, "prefixes such as 192.168.1.0/24")

    @field_validator("never_ports", mode="before")
    @classmethod
    def _check_ports(cls, values: Any) -> list[str]:
        return _each(values, _ports, "ports such as 9100 or 9100-9116")

    @field_validator("programs", mode="before")
    @classmethod
    def _check_programs(cls, values: Any) -> list[str]:
        return _each(values, _program, "program names such as uptime")

    @field_validator("capture_interfaces", mode="before")
    @classmethod
    def _check_interfaces(cls, values: Any) -> list[str]:
        return _each(values, _interface, "interfaces such as eth0 or eth*")

    @model_validator(mode="after")
    def _host_share(self) -> ProbePolicy:
        if self.host_packets_per_second > self.packets_per_second:
            raise ValueError(
                f"host_packets_per_second ({self.host_packets_per_second}) is more than the whole site's "
                f"packets_per_second ({self.packets_per_second}); lower it, or raise the site's"
            )
        return self

    @property
    def site(self) -> str:
        """The site this policy is for: the block's name, `default` for one that was never saved or loaded."""
        return self._block_document_name or "default"

    def may_capture(self, interface: str) -> bool:
        """Whether traffic of an interface may be captured; `any` only when it is named itself."""
        if interface == "any":
            return "any" in self.capture_interfaces
        return any(fnmatch.fnmatchcase(interface, pattern) for pattern in self.capture_interfaces)

    def is_never_port(self, port: int) -> bool:
        """Whether `port` (TCP or UDP) must never be touched."""
        return any(low <= port <= high for low, high in self.never_port_ranges())

    def never_port_ranges(self) -> list[tuple[int, int]]:
        """The ports never touched, as inclusive ranges."""
        bounds = (entry.partition("-") for entry in self.never_ports)
        return [(int(low), int(high or low)) for low, _, high in bounds]


def _program(text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch(r"(/[A-Za-z0-9_.+-]+)+|[A-Za-z0-9_][A-Za-z0-9_.+-]*", text):
        raise ValueError(f"{text!r} is not a program; right would be uptime or /usr/bin/uptime, without arguments")
    return text


def _interface(text: Any) -> str:
    # Names have at most 15 characters (IFNAMSIZ); the kernel forbids / and white space in them.
    if not isinstance(text, str) or not re.fullmatch(r"[^\s/]{1,40}", text):
        raise ValueError(f"{text!r} is not an interface; right would be eth0, eth* or any")
    return text


def _each(values: Any, check: Any, right: str) -> list[str]:
    """Check every entry of a list, keep the distinct ones, and name all that are wrong at once."""
    if isinstance(values, str) or not isinstance(values, (list, tuple)):
        raise ValueError(f"must be a list of {right}")
    good: dict[str, None] = {}
    bad: list[str] = []
    for value in values:
        try:
            good[check(value)] = None
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError("; ".join(bad))
    return list(good)
