"""arp_scan: who is on our own links, first hand, with MACs."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated

import netaddr
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.core.errors import CommandFailed, MissingProgram, ToolError, ToolTimeout, Unreachable
from tasks.core.models import (
    MAX_TARGETS,
    Example,
    FileRef,
    ProbeParams,
    Safety,
    Scope,
    Service,
    Target,
    ToolResult,
    parse_mac,
)
from tasks.core.process import find_program, run_command
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.scan._links import Link, split
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw

TIMEOUT_SECONDS = 900.0
MARGIN_SECONDS = 10.0
LEAST_RATE, WISHED_RATE = 10, 200
ATTEMPTS = 2
BATCH = 512
"""Addresses of one run of arp-scan: it writes its output at its end, so a run that is cut off loses its batch."""
WAIT_SECONDS = 3.0
"""What arp-scan waits for late answers."""
REASON = "ARP needs layer-2 adjacency: it reaches hosts on our own links only."


def _distinct(targets: list[str]) -> list[str]:
    return list(dict.fromkeys(targets))


_Targets = Annotated[list[Target], Field(min_length=1, max_length=MAX_TARGETS), AfterValidator(_distinct)]


class ArpScan(ProbeParams):
    """Parameters of `arp_scan`."""

    targets: _Targets = Field(description="IPv4 prefixes, addresses or host names on our own links, 1 to 256.")
    max_rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=100_000,
        description="Packets a second wished for, 10 to 100,000; the site's budget may give less.",
    )

    def scope(self) -> Scope:
        return Scope(
            targets=tuple(self.targets),
            packets_per_second=self.max_rate,
            least_packets_per_second=LEAST_RATE,
        )

    def deadline(self) -> float:
        addresses = sum(ipaddress.ip_network(t).num_addresses if "/" in t else 1 for t in self.targets)
        batches = math.ceil(addresses / BATCH) + len(self.targets)
        return min(TIMEOUT_SECONDS, 60 + 2 * (addresses * ATTEMPTS / LEAST_RATE + batches * WAIT_SECONDS))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArpHost(_Frozen):
    """One answer: an address and the MAC that claims it."""

    address: str = Field(description="IPv4 address.")
    mac: str = Field(description="MAC that answered for it, first hand.")
    vendor: str | None = Field(None, description="Who made the interface, by the IEEE's register.")
    locally_administered: bool = Field(
        False, description="The MAC was made up by software (random, virtual); it identifies nothing for long."
    )
    rtt_ms: float | None = Field(None, description="Time to the answer, milliseconds.")
    interface: str = Field(description="Our interface that heard it.")


class ArpLink(_Frozen):
    """A link that was asked, and who we are there: our own host never answers itself."""

    interface: str = Field(description="Our interface.")
    network: str = Field(description="The prefix on the link.")
    address: str = Field(description="Our own address.")
    mac: str | None = Field(None, description="Our own MAC.")


class Duplicate(_Frozen):
    """One address that several MACs claim: a conflict, or a takeover in progress."""

    address: str = Field(description="The address.")
    macs: tuple[str, ...] = Field(description="The MACs that answered for it.")


class SharedMac(_Frozen):
    """One MAC that answers for several addresses: a router, a host with several addresses, or proxy ARP."""

    mac: str = Field(description="The MAC.")
    addresses: tuple[str, ...] = Field(description="The addresses it answered for.")


class ArpScanResult(ToolResult):
    """Who answered on our links."""

    hosts: tuple[ArpHost, ...] = Field(description="Answers, by address.")
    links: tuple[ArpLink, ...] = Field(description="Links that were asked, with our own address and MAC there.")
    duplicates: tuple[Duplicate, ...] = Field((), description="Addresses that several MACs claim.")
    shared_macs: tuple[SharedMac, ...] = Field((), description="MACs that answer for several addresses.")
    planned: int = Field(description="Addresses on our links that were to be asked.")
    attempted: int = Field(description="Addresses asked; less than planned when arp-scan was cut off.")
    answered: int = Field(description="Addresses that answered.")
    not_adjacent: tuple[str, ...] = Field((), description="Targets that are not on our links and were not asked.")
    complete: bool = Field(description="Whether all on our links was asked.")
    packets_per_second: int = Field(description="The share of the site's budget that was held.")
    duration: float = Field(description="Duration, seconds.")
    evidence: tuple[FileRef, ...] = Field((), description="arp-scan's output.")
    notes: tuple[str, ...] = Field((), description="What a reader must know.")

    def headline(self) -> str:
        text = f"{self.answered} of {count(self.planned, 'address', 'addresses')} answered ARP"
        if self.duplicates:
            text += f"; {len(self.duplicates)} claimed by several MACs"
        if self.not_adjacent:
            text += f"; {count(len(self.not_adjacent), 'prefix', 'prefixes')} not on our links"
        return text if self.complete else f"{text}; INCOMPLETE: {self.attempted} asked"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    programs=("arp-scan", "ip"),
    examples=[
        Example("Who is on this link", {"targets": ["192.168.1.0/24"]}),
        Example("Which MAC has an address", {"targets": ["192.168.1.7"]}),
    ],
)
async def arp_scan(params: ArpScan) -> ArpScanResult:
    """Find hosts on our own links by ARP, with first-hand MACs.

    Interfaces are chosen by address and route. Addresses that two MACs claim, and MACs that answer for several addresses, are reported.

    Raises:
        MissingProgram: arp-scan or ip is not installed, or CAP_NET_RAW is missing.
        Unreachable: No target is on a link of ours.
        ToolTimeout: It was ended before the first batch was done.
        CommandFailed: arp-scan failed before the first batch was done.
    """
    run = current_run()
    if run.grant is None:
        raise RuntimeError("arp_scan ran without a grant")
    program = find_program("arp-scan")
    if not may_send_raw(program, aware=True):
        raise MissingProgram(
            "ARP needs CAP_NET_RAW, which arp-scan would not have.", hint=f"To get it: {HOW_TO_GET_IT}"
        )
    found = await split(_ipv4(run.grant.networks, run.grant.addresses))
    far = dict(found.far)
    far |= {
        text: "ARP is for IPv4"
        for text in (*run.grant.networks, *run.grant.addresses)
        if ipaddress.ip_network(text).version == 6
    }
    if not found.near:
        where = "; ".join(f"{text}: {why}" for text, why in list(far.items())[:4])
        raise Unreachable(
            f"{REASON} {where}.", hint="Routed networks are found by: signalbox tool run nmap --profile sweep"
        )
    scan = _Scan(
        program,
        run,
        min(run.packets_per_second, params.max_rate),
        time.monotonic() + params.deadline() - MARGIN_SECONDS,
    )
    for link, networks in found.near.items():
        await scan.ask(link, networks)
    return scan.result(far)


class _Scan:
    """One call of the tool: what its batches have brought so far."""

    def __init__(self, program: str, run: ToolRun, share: int, ends: float) -> None:
        self.program, self.run, self.share, self.ends = program, run, share, ends
        self.started = time.monotonic()
        self.links: list[Link] = []
        self.hosts: dict[tuple[str, str], ArpHost] = {}
        self.planned = self.attempted = 0
        self.evidence: list[FileRef] = []
        self.notes: list[str] = []
        self.trouble: ToolError | None = None

    async def ask(self, link: Link, networks: list[ipaddress.IPv4Network]) -> None:
        """Ask every address of some prefixes on a link, in batches."""
        self.links.append(link)
        addresses = list(_addresses(networks, link))
        self.planned += len(addresses)
        for at in range(0, len(addresses), BATCH):
            if self.trouble is not None:
                return
            await self._batch(link, addresses[at : at + BATCH])

    async def _batch(self, link: Link, addresses: list[str]) -> None:
        limit = self.ends - time.monotonic()
        if limit < 1:
            self._cut_off(
                ToolTimeout("The deadline came before everything was asked.", hint="Ask for fewer addresses.")
            )
            return
        argv = [self.program, "--interface", link.interface, "--plain", "--rtt", "--numeric", f"--retry={ATTEMPTS}"]
        argv += ["--format=${ip}\\t${mac}\\t${rtt}", f"--interval={math.ceil(1_000_000 / self.share)}u", "--file=-"]
        try:
            done = await run_command(argv, timeout=limit, stdin=("\n".join(addresses) + "\n").encode())
        except ToolTimeout as error:
            self._cut_off(error)
            output = error.partial.stdout if error.partial else b""
        except CommandFailed as error:
            self._cut_off(error)
            output = error.completed.stdout if error.completed else b""
        else:
            output = done.stdout
            self.attempted += len(addresses)
            self.notes += [f"arp-scan: {line}" for line in done.stderr.decode(errors="replace").splitlines() if line]
        await self._keep(output)
        for host in read_answers(output.decode(errors="replace"), link.interface):
            self.hosts.setdefault((host.address, host.mac), host)

    def _cut_off(self, error: ToolError) -> None:
        self.trouble = error
        self.notes.append(f"Cut off: {error.message}")

    async def _keep(self, output: bytes) -> None:
        if not output:
            return
        store = await self.run.store()
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        name = f"arp-scan/{today}/{self.run.id}-{self.run.attempt}-{len(self.evidence) + 1:02d}.txt"
        self.evidence.append(self.run.file_ref(await asyncio.to_thread(store.write, name, output)))

    def result(self, far: dict[str, str]) -> ArpScanResult:
        """Make the result; raises what went wrong when there is nothing to show."""
        if self.trouble is not None and not self.hosts and not self.attempted:
            raise self.trouble
        hosts = sorted(self.hosts.values(), key=lambda host: (ipaddress.ip_address(host.address), host.mac))
        if far:
            self.notes.append(REASON)
            self.notes += [f"{text}: {why}" for text, why in list(far.items())[:10]]
        return ArpScanResult(
            hosts=tuple(hosts),
            links=tuple(
                ArpLink(interface=link.interface, network=str(link.network), address=link.address, mac=link.mac)
                for link in self.links
            ),
            duplicates=duplicates(hosts),
            shared_macs=shared_macs(hosts),
            planned=self.planned,
            attempted=self.attempted,
            answered=len({host.address for host in hosts}),
            not_adjacent=tuple(far),
            complete=self.trouble is None,
            packets_per_second=self.share,
            duration=round(time.monotonic() - self.started, 3),
            evidence=tuple(self.evidence),
            notes=tuple(self.notes),
        )


def read_answers(text: str, interface: str) -> Iterator[ArpHost]:
    """Read arp-scan's lines of address, MAC and round-trip time; what is cut off in the middle of a line is left out."""
    for line in text.splitlines(keepends=True):
        match = re.fullmatch(r"(\d+\.\d+\.\d+\.\d+)\t([0-9a-fA-F:]{17})\t([\d.]*)[^\n]*\n", line)
        if match:
            mac = parse_mac(match[2])
            yield ArpHost(
                address=match[1],
                mac=mac,
                vendor=find_vendor(mac),
                locally_administered=is_local(mac),
                rtt_ms=float(match[3]) if match[3] else None,
                interface=interface,
            )


def is_local(mac: str) -> bool:
    """Whether a MAC is locally administered (IEEE 802: the second lowest bit of its first byte)."""
    return bool(int(mac[:2], 16) & 2)


def find_vendor(mac: str) -> str | None:
    """Who registered the first bytes of a MAC with the IEEE; None for made-up and unknown ones.

    >>> find_vendor("00:40:8c:12:34:56")
    'Axis Communications AB'
    """
    if is_local(mac):
        return None
    try:
        return str(getattr(netaddr.EUI(mac).oui.registration(), "org", "")) or None
    except netaddr.NotRegisteredError:
        return None


def duplicates(hosts: Iterable[ArpHost]) -> tuple[Duplicate, ...]:
    """Addresses that several MACs claim."""
    macs: dict[str, list[str]] = {}
    for host in hosts:
        macs.setdefault(host.address, []).append(host.mac)
    return tuple(Duplicate(address=address, macs=tuple(some)) for address, some in macs.items() if len(some) > 1)


def shared_macs(hosts: Iterable[ArpHost]) -> tuple[SharedMac, ...]:
    """MACs that answer for several addresses."""
    addresses: dict[str, list[str]] = {}
    for host in hosts:
        addresses.setdefault(host.mac, []).append(host.address)
    return tuple(SharedMac(mac=mac, addresses=tuple(some)) for mac, some in addresses.items() if len(some) > 1)


def _ipv4(networks: Iterable[str], addresses: Iterable[str]) -> list[ipaddress.IPv4Network]:
    """The IPv4 part of a grant, merged."""
    parsed = (ipaddress.ip_network(text) for text in (*networks, *addresses))
    return list(ipaddress.collapse_addresses(network for network in parsed if network.version == 4))


def _addresses(networks: Iterable[ipaddress.IPv4Network], link: Link) -> Iterator[str]:
    """Every address to ask: not our own, not the link's network and broadcast addresses."""
    never = {link.address, str(link.network.network_address), str(link.network.broadcast_address)}
    for network in networks:
        for address in network:
            if str(address) not in never:
                yield str(address)
