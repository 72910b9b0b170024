"""Value types that every tool speaks: parameters, results, targets, ports, files."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_TARGETS = 256
"""Most targets of one probe: a batch is the unit of work (one task run, one ledger entry)."""


class Service(StrEnum):
    """Where a tool belongs and may run."""

    AUTOMATION = "automation"
    COMMUNICATION = "communication"
    ASSET = "asset"
    NETWORK = "network"


@functools.total_ordering
class Safety(Enum):
    """What a tool may do to the world; compared by rank, never as text."""

    READ = "read"  # no packet to targets, no write
    PROBE = "probe"  # sends packets, changes nothing
    CHANGE = "change"
    DESTROY = "destroy"

    @property
    def rank(self) -> int:
        return list(Safety).index(self)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Safety):
            return NotImplemented
        return self.rank < other.rank

    def __str__(self) -> str:
        return self.value


# --- targets ---------------------------------------------------------------------------------------------------------

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


def parse_network(text: str) -> Network:
    """Parse `10.0.0.0/24` or a single address as a network; IPv4-mapped IPv6 becomes the IPv4 it means.

    Raises:
        ValueError: Not an address or prefix, or host bits are set (the message says the prefix that was meant).
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address or prefix; right would be 192.168.1.0/24 or 192.168.1.7"
        ) from None
    if "/" in text and ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(
            f"{text!r} has host bits set; the network is {network}, the host {text.split('/', maxsplit=1)[0]}"
        )
    if isinstance(network, ipaddress.IPv6Network):
        if network.network_address.scope_id:
            raise ValueError(
                f"{text!r} names an interface; give the address without %{network.network_address.scope_id}"
            )
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


def parse_target(text: Any) -> str:
    """Return a host name, an address or a prefix in its canonical spelling; IPv4-mapped IPv6 becomes the IPv4 it means.

    Raises:
        ValueError: It is none of them; the message says what would be right.
    """
    if not isinstance(text, str):
        raise ValueError("must be text: a host name, an address or a prefix")
    text = text.strip()
    if not text or len(text) > 253:
        raise ValueError("must be a host name, an address or a prefix of 1 to 253 characters")
    if re.fullmatch(r"[0-9.]+(/.*)?", text) or ":" in text or "/" in text:
        network = parse_network(text)
        return str(network.network_address) if network.num_addresses == 1 else str(network)
    name: str = text.rstrip(".").lower()
    if not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError(
            f"{text!r} is neither an address nor a host name; right would be 192.168.1.7 or printer.example.com"
        )
    return name


def _host(text: Any) -> str:
    target = parse_target(text)
    if "/" in target:
        raise ValueError(f"{target!r} is a prefix; this takes single hosts: a name or an address")
    return target


def _distinct(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


Target = Annotated[str, BeforeValidator(parse_target)]
"""A host name, an address or a prefix, in its canonical spelling."""
Host = Annotated[str, BeforeValidator(_host)]
"""A host name or an address."""
Targets = Annotated[list[Host], Field(min_length=1, max_length=MAX_TARGETS), AfterValidator(_distinct)]
"""1 to 256 hosts; repeated ones are merged."""
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


# --- ports -----------------------------------------------------------------------------------------------------------


def parse_ports(value: Any) -> tuple[int, ...]:
    """Parse `22,80,8000-8010` (or a list of numbers) into sorted distinct ports.

    Raises:
        ValueError: Not numbers or ranges of 0 < port < 65536, or a range that runs backwards.
    """
    parts: Iterable[Any] = (
        value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    )
    ports: set[int] = set()
    for part in parts:
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", str(part))
        if not match:
            raise ValueError(f"{part!r} is not a port; right would be 443 or 22,80,8000-8010")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"{part!r} is not a port range; ports are 1 to 65535, lowest first")
        ports.update(range(low, high + 1))
    if not ports:
        raise ValueError("names no port; right would be 443 or 22,80,8000-8010")
    return tuple(sorted(ports))


def format_ports(ports: Iterable[int]) -> str:
    """Write ports as nmap and people do.

    >>> format_ports([22, 80, 81, 82, 443])
    '22,80-82,443'
    """
    runs: list[list[int]] = []
    for port in sorted(set(ports)):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


PortList = Annotated[str, BeforeValidator(lambda value: format_ports(parse_ports(value)))]
"""Ports as `22,80,8000-8010`; canonical: sorted, distinct, ranges joined. `parse_ports` gives the numbers."""


# --- MAC addresses ---------------------------------------------------------------------------------------------------


def parse_mac(text: Any) -> str:
    """Return a MAC in any notation as `aa:bb:cc:dd:ee:ff`.

    >>> parse_mac("AABB.CCDD.EEFF")
    'aa:bb:cc:dd:ee:ff'

    Raises:
        ValueError: Not 12 hexadecimal digits.
    """
    digits = re.sub(r"[.:\-\s]", "", text).lower() if isinstance(text, str) else ""
    if not re.fullmatch(r"[0-9a-f]{12}", digits):
        raise ValueError(f"{text!r} is not a MAC address; right would be aa:bb:cc:dd:ee:ff or AABB.CCDD.EEFF")
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


Mac = Annotated[str, BeforeValidator(parse_mac)]


# --- block names -----------------------------------------------------------------------------------------------------

BlockName = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", examples=["mail/noc", "slack/ops"])]
"""Type and name of a block (`slack/ops`): parameters carry names, blocks carry secrets."""


# --- what the gate is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """What a tool is about to send packets to: the question the gate's probe door answers.

    Attributes:
        targets: Host names, addresses or prefixes.
        ports: TCP and UDP ports that will be touched, where the tool chooses any.
        packets_per_second: The share of the site's budget the tool would like to hold while it runs; 0 for none.
        least_packets_per_second: The smallest share it can work with.
    """

    targets: tuple[str, ...]
    ports: tuple[int, ...] = ()
    packets_per_second: int = 50
    least_packets_per_second: int = 10


# --- parameters and results ------------------------------------------------------------------------------------------


class ToolParams(BaseModel):
    """Base of every tool's parameters: frozen, nothing unknown, and errors never repeat the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    def about(self) -> str:
        """What the ledger names as the target, at most 500 characters; also what `confirm` must repeat, but for `ProbeParams.subject`."""
        return ""

    def approval(self) -> bool:
        """Whether these parameters need approval, also where the tool as such does not; it can only add it."""
        return False

    def scope(self) -> Scope | None:
        """What will be probed: the gate sees it first. None when these parameters send nothing to a target."""
        return None

    def safety(self) -> Safety | None:
        """What these parameters may do, when that is more than the tool's own level; it can only raise it."""
        return None

    def deadline(self) -> float | None:
        """Seconds these parameters need at most, or None for the tool's own deadline. Never more than that is used."""
        return None


class SiteParams(ToolParams):
    """Parameters of a tool whose answer depends on the site."""

    site: SiteName = Field("default", description="The site: the same address at two sites is two hosts.")


class ProbeParams(SiteParams):
    """Parameters of a tool that sends packets to targets: the gate sees its `scope()` first."""

    targets: Targets = Field(description="Host names or addresses, 1 to 256.")

    def scope(self) -> Scope | None:
        return Scope(targets=tuple(self.targets))

    def subject(self) -> str:
        """What `confirm` must repeat exactly where a call needs approval: the thing that is acted on."""
        return self.about()

    def about(self) -> str:
        text = ", ".join(self.targets)
        return text if len(text) <= 500 else f"{text[:480]} ... ({len(self.targets)})"


class ToolResult(BaseModel):
    """Base of every tool's result: frozen, JSON throughout, free of secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def headline(self) -> str:
        """One line a person reads first. Tools override it."""
        return type(self).__name__

    def reached(self) -> bool:
        """Whether anything that was asked for is there; when not, the command ends with exit status 4. Probes override it."""
        return True


class FileRef(BaseModel):
    """A file in the CaptureStore of a site: what results carry instead of big output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str = Field(description="Site whose store holds the file; steps that read it run there.")
    name: str = Field(description="Name inside the store.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    size_bytes: int = Field(ge=0, description="Size in bytes.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content.")


@dataclass(frozen=True)
class Example:
    """A worked call of a tool: in its docs, its command-line help, and validated by the contract test."""

    title: str
    params: dict[str, Any]
