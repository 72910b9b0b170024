"""nmap: which hosts are up, which ports are open, what answers there, which system it is."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.core.errors import CommandFailed, MissingProgram, Refused
from tasks.core.models import (
    MAX_TARGETS,
    Example,
    FileRef,
    PortList,
    ProbeParams,
    Safety,
    Scope,
    Service,
    Target,
    ToolResult,
    format_ports,
    parse_ports,
)
from tasks.core.process import run_command
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.scan._links import split
from tasks.network.scan._nmap_plan import (
    ARP_PACKETS,
    OS_PACKETS,
    OS_SECONDS,
    PART,
    RETRIES,
    SERVICE_PACKETS,
    SERVICE_SECONDS,
    SWEEP_PACKETS,
    SWEEP_RETRIES,
    Prediction,
    Profile,
    Slice,
    Window,
    chunks,
    cut,
    pace,
    port_packets,
    predict,
    probe_rate,
    sweep_packets,
)
from tasks.network.scan._nmap_program import NmapProgram
from tasks.network.scan._nmap_xml import NmapHost, NmapOs, NmapPort
from tasks.network.scan._privilege import HOW_TO_GET_IT

if TYPE_CHECKING:
    from tasks.core.gate import Grant

__all__ = ["Nmap", "NmapHost", "NmapOs", "NmapPort", "NmapResult", "Prediction", "nmap", "predict"]

TIMEOUT_SECONDS = 3600.0
MARGIN_SECONDS = 15.0
"""How long before the tool's own deadline nmap is ended: reading what it left takes time."""
LEAST_HOST_SECONDS = 300.0
LEAST_RATE, WISHED_RATE = 20, 500
SWEEP_PORTS = (22, 80, 443)
SWEEP_PARALLELISM = 100
COMMON_UDP_PORTS = "53,67,69,111,123,137-138,161-162,445,500,514,520,631,1434,1900,4500,5353,49152"
"""UDP ports where something usually answers; for `udp_ports`."""
MOST_NOTES = 20


def _distinct(targets: list[str]) -> list[str]:
    return list(dict.fromkeys(targets))


_Targets = Annotated[list[Target], Field(min_length=1, max_length=MAX_TARGETS), AfterValidator(_distinct)]


class Nmap(ProbeParams):
    """Parameters of `nmap`."""

    targets: _Targets = Field(description="Prefixes, addresses or host names, 1 to 256.")
    profile: Profile = Field(
        "sweep",
        description="sweep: which hosts are up. ports: and which of their TCP ports are open. services: and what answers there. "
        "os: and which system they run (needs CAP_NET_RAW).",
    )
    ports: PortList | None = Field(
        None,
        description="TCP ports to scan, such as 22,80,8000-8010. Default: the most common ones.",
        examples=["22,80,443"],
    )
    top_ports: int = Field(
        100, ge=1, le=1000, description="How many of the most common TCP ports to scan when none are named, 1 to 1000."
    )
    udp_ports: PortList | None = Field(
        None, description="UDP ports to scan too (needs CAP_NET_RAW).", examples=["53,123,161"]
    )
    discovery: bool = Field(
        True, description="Whether to look first which hosts are up. False: take all targets for up."
    )
    max_rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=1_000_000,
        description="Packets a second wished for, 10 to 1,000,000; the site's budget may give less.",
    )

    def scope(self) -> Scope:
        asked = [text for text in (self.ports, self.udp_ports) if text is not None and self.profile != "sweep"]
        return Scope(
            targets=tuple(self.targets),
            ports=tuple(sorted({port for text in asked for port in parse_ports(text)})),
            packets_per_second=self.max_rate,
            least_packets_per_second=min(LEAST_RATE, self.max_rate),
        )

    def port_count(self) -> int:
        """Ports of each host that will be asked."""
        tcp = len(parse_ports(self.ports)) if self.ports else self.top_ports
        return tcp + (len(parse_ports(self.udp_ports)) if self.udp_ports else 0)

    def deadline(self) -> float:
        # The share is not known yet; the smallest one bounds it. Names count as one address.
        expected = predict(
            self.profile,
            sum(_size(target) for target in self.targets),
            ports=self.port_count(),
            packets_per_second=min(LEAST_RATE, self.max_rate),
            discovery=self.discovery,
        )
        return min(TIMEOUT_SECONDS, max(120.0, 2 * expected.seconds) + MARGIN_SECONDS)


class NmapResult(ToolResult):
    """What nmap saw."""

    profile: Profile = Field(description="What was asked.")
    method: Literal["raw", "connect"] = Field(
        description="raw: ARP, ICMP and half-open TCP. connect: full TCP connects only, for want of CAP_NET_RAW; hosts without an open or "
        "closed port among those asked stay unseen."
    )
    hosts: tuple[NmapHost, ...] = Field(description="Hosts that answered.")
    planned: int = Field(description="Addresses that were to be asked, exclusions taken off.")
    attempted: int = Field(description="Addresses nmap reported on, up or down; less than planned when it was cut off.")
    answered: int = Field(description="Addresses that answered.")
    excluded: tuple[str, ...] = Field((), description="Prefixes and addresses the policy excludes.")
    ports_scanned: int = Field(0, description="Ports of each host that were asked.")
    scanned_tcp: str = Field("", description="TCP ports of each host that were asked, such as 22,80,8000-8010.")
    scanned_udp: str = Field("", description="UDP ports of each host that were asked.")
    complete: bool = Field(description="Whether nmap finished. False: what is missing is unknown, not absent.")
    packets_per_second: int = Field(description="The share of the site's budget that was held.")
    packets_predicted: int = Field(description="Packets predicted at most: an upper bound, not what was sent.")
    duration: float = Field(description="Duration, seconds.")
    evidence: tuple[FileRef, ...] = Field((), description="nmap's XML.")
    notes: tuple[str, ...] = Field(
        (), description="What a reader must know: missing privileges, warnings of nmap, targets left out."
    )

    def headline(self) -> str:
        text = f"{self.answered} of {count(self.planned, 'address', 'addresses')} up"
        if self.profile != "sweep":
            text += f", {count(sum(len(host.ports) for host in self.hosts), 'open port')}"
        if self.method == "connect":
            text += " (by TCP connect only: no CAP_NET_RAW)"
        return text if self.complete else f"{text}; INCOMPLETE: {self.attempted} asked"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    programs=("nmap",),
    examples=[
        Example("Which hosts of a network are up", {"targets": ["192.168.1.0/24"]}),
        Example("Common ports of two hosts", {"targets": ["192.168.1.7", "192.168.1.8"], "profile": "ports"}),
        Example(
            "What answers on the web ports", {"targets": ["192.168.1.7"], "profile": "services", "ports": "80,443,8080"}
        ),
    ],
)
async def nmap(params: Nmap) -> NmapResult:
    """Find live hosts, open ports, services and systems with nmap.

    Goes no faster than the held share of the site's packet budget, service detection included, and no faster to one host than the policy's
    cap. Ports the policy never touches are left out. The XML is kept as evidence; when nmap is cut off, what it had finished is the result.

    Raises:
        MissingProgram: nmap is not installed, or the profile needs CAP_NET_RAW.
        ToolTimeout: It was ended before any host was finished.
        CommandFailed: nmap failed before any host was finished.
        Unreachable: There is no route to the targets.
    """
    run = current_run()
    if run.grant is None:
        raise RuntimeError("nmap ran without a grant")
    return await _Scan(params, run, run.grant).perform()


class _Scan:
    """One call of the tool: what it asks in which steps, and what they have brought so far."""

    def __init__(self, params: Nmap, run: ToolRun, grant: Grant) -> None:
        self.params, self.run, self.grant = params, run, grant
        ends = time.monotonic() + min(params.deadline(), TIMEOUT_SECONDS) - MARGIN_SECONDS
        self.nmap = NmapProgram(run, grant.excluded, ends=ends)
        self.share = min(run.packets_per_second, params.max_rate)
        self.host_share = run.policy.host_packets_per_second
        self.window = Window(self.share, self.host_share)
        self.hosts: dict[str, NmapHost] = {}
        self.attempted = self.predicted = 0
        self.tcp: tuple[int, ...] = ()
        self.udp: tuple[int, ...] = ()

    async def perform(self) -> NmapResult:
        started = time.monotonic()
        await self._choose_ports()
        for missing in self.grant.unresolved:
            self.nmap.note(f"{missing.asked}: {missing.error.message}")
        planned = 0
        for version in (4, 6):
            targets, count = _targets(self.grant.networks, self.grant.addresses, version)
            planned += count
            if targets and self.nmap.trouble is None:
                await self._scan_family(version, targets, count)
        if self.nmap.trouble is not None and not self.hosts and self.attempted == 0:
            raise self.nmap.trouble
        self._say_what_is_missing(planned)
        return NmapResult(
            profile=self.params.profile,
            method="raw" if self.nmap.raw else "connect",
            hosts=tuple(self.hosts.values()),
            planned=planned,
            attempted=min(self.attempted, planned),
            answered=len(self.hosts),
            excluded=self.grant.excluded,
            ports_scanned=len(self.tcp) + len(self.udp),
            scanned_tcp=format_ports(self.tcp),
            scanned_udp=format_ports(self.udp),
            complete=self.nmap.trouble is None,
            packets_per_second=self.share,
            packets_predicted=self.predicted,
            duration=round(time.monotonic() - started, 3),
            evidence=tuple(self.nmap.evidence),
            notes=tuple(self.nmap.notes)[:MOST_NOTES],
        )

    def _say_what_is_missing(self, planned: int) -> None:
        if not self.nmap.raw:
            self.nmap.note(
                "No CAP_NET_RAW: full TCP connects only. Hosts that answer none of the ports asked stay unseen, there are "
                f"no MACs, and every open port sees a connection. To get it: {HOW_TO_GET_IT}"
            )
        if self.nmap.trouble is None and self.attempted < planned:
            self.nmap.note(f"nmap left out {planned - self.attempted} addresses; its warnings say why.")

    async def _choose_ports(self) -> None:
        params, policy = self.params, self.run.policy
        if params.profile == "sweep":
            return
        if params.profile == "os" and not self.nmap.raw:
            raise MissingProgram(
                "Guessing operating systems needs CAP_NET_RAW, which nmap would not have.",
                hint=f"To get it: {HOW_TO_GET_IT}",
            )
        asked = parse_ports(params.ports) if params.ports else await common_ports(self.nmap.path, params.top_ports)
        self.tcp = tuple(port for port in asked if not policy.is_never_port(port))
        left_out = sorted(set(asked) - set(self.tcp))
        if left_out:
            self.nmap.note(f"TCP ports that are never touched were left out: {format_ports(left_out)}")
        if params.udp_ports and not self.nmap.raw:
            self.nmap.note("UDP ports were left out: they need CAP_NET_RAW.")
        elif params.udp_ports:
            self.udp = tuple(port for port in parse_ports(params.udp_ports) if not policy.is_never_port(port))
        if not self.tcp and not self.udp:
            raise Refused("Every port asked for is one that is never touched.", hint="See: signalbox policy show")

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _scan_family(self, version: int, targets: list[str], number: int) -> None:
        params, ports = self.params, len(self.tcp) + len(self.udp)
        self.predicted += predict(
            params.profile,
            number,
            ports=max(ports, 1),
            packets_per_second=self.share,
            host_packets_per_second=self.host_share,
            raw=self.nmap.raw,
            discovery=params.discovery,
        ).packets
        if params.profile == "sweep" or params.discovery:
            await self._sweep(version, targets)
            # Those that are up; the scan of their ports below is not a second attempt at the others.
            targets = [address for address in self.hosts if ipaddress.ip_address(address).version == version]
            number = len(targets)
        if params.profile == "sweep" or not targets or self.nmap.trouble is not None:
            return
        await self._scan_ports(version, targets, number)
        if params.profile == "services":
            await self._detect_services(version)
        if params.profile == "os":
            await self._guess_systems(version)

    async def _sweep(self, version: int, targets: list[str]) -> None:
        """Find who is up, in chunks that have room."""
        argv = ["-sn", *self._discovery_probes()]
        argv += ["--max-rate", str(probe_rate("sweep", self.share, raw=self.nmap.raw, ports=1))]
        # With nobody answering nmap would fall back to one probe a second for each host; the rate alone shall bound it.
        argv += ["--max-retries", str(SWEEP_RETRIES), "--min-parallelism", str(SWEEP_PARALLELISM)]
        for part, each in await self._by_cost(version, targets):
            for some, number in chunks(part, int(PART * self.window.most) // each):
                async with self.window.room(number * each):
                    report = await self.nmap.run("sweep", version, argv, some, LEAST_HOST_SECONDS)
                self.attempted += report.reported
                self.hosts |= {host.address: host for host in report.hosts}
                if self.nmap.trouble is not None:
                    return

    async def _by_cost(self, version: int, targets: list[str]) -> list[tuple[list[str], int]]:
        """Part targets by the packets each address may take: ARP on our own links takes far fewer than ICMP and TCP beyond."""
        if version == 6 or not self.nmap.raw:
            return [(targets, sweep_packets(self.nmap.raw))]
        try:
            found = await split(ipaddress.IPv4Network(text) for text in targets)
        except (MissingProgram, CommandFailed):
            return [(targets, SWEEP_PACKETS)]  # without `ip` nothing is known to be near
        near = [str(network) for networks in found.near.values() for network in networks]
        return [(part, each) for part, each in ((near, ARP_PACKETS), (list(found.far), SWEEP_PACKETS)) if part]

    def _discovery_probes(self) -> list[str]:
        """Echo request, SYN and ACK; on our own links nmap asks by ARP or neighbour discovery instead."""
        argv = ["-PE"] if self.nmap.raw else []
        probes = [port for port in SWEEP_PORTS if not self.run.policy.is_never_port(port)]
        if probes:
            argv.append(f"-PS{format_ports(probes)}")
        if 80 in probes and self.nmap.raw:
            argv.append("-PA80")
        if not argv:
            raise Refused("Every port a sweep would ask is never touched, and an ICMP sweep needs CAP_NET_RAW.")
        return argv

    async def _scan_ports(self, version: int, targets: list[str], number: int) -> None:
        ports = len(self.tcp) + len(self.udp)
        way = pace(
            number, ports, packets_per_second=self.share, host_packets_per_second=self.host_share, raw=self.nmap.raw
        )
        argv = ["-Pn", *self._scan_types(), "-p", self._port_words(), "--max-retries", str(RETRIES)]
        argv += ["--max-rate", str(probe_rate("ports", self.share, raw=self.nmap.raw, ports=ports))]
        argv += ["--min-hostgroup", str(way.group), "--max-hostgroup", str(way.group)]
        if way.delay_ms:
            argv += ["--scan-delay", f"{way.delay_ms}ms", "--max-scan-delay", f"{max(way.delay_ms, 1000)}ms"]
        # A host's own cap is kept by the delay; one without a delay gets all its packets at once.
        each = self.window.most_per_host if way.delay_ms else port_packets(ports)
        expected = predict(
            "ports",
            number,
            ports=ports,
            packets_per_second=self.share,
            host_packets_per_second=self.host_share,
            raw=self.nmap.raw,
            discovery=False,
        )
        async with self.window.room(way.packets, targets if number == len(targets) else (), each):
            report = await self.nmap.run("ports", version, argv, targets, max(LEAST_HOST_SECONDS, 2 * expected.seconds))
        if not self.params.discovery:
            self.attempted += report.reported
        for host in report.hosts:
            self.hosts[host.address] = merge(self.hosts[host.address], host) if host.address in self.hosts else host

    async def _detect_services(self, version: int) -> None:
        open_ports = self._open_tcp(version)
        for part in cut(
            open_ports, SERVICE_PACKETS, most=PART * self.window.most, most_per_host=self.window.most_per_host
        ):
            if self.nmap.trouble is not None:
                return
            argv = [*self._scan_types(udp=False), "-sV", "--version-intensity", "2"]
            # All ports of a slice at once: each may wait 41 s for a word. Under -T3 nmap would take 20 at a time.
            argv += ["--min-parallelism", str(sum(part.probes(open_ports).values()))]
            await self._slice("services", version, part, argv, open_ports, SERVICE_PACKETS, SERVICE_SECONDS)

    async def _guess_systems(self, version: int) -> None:
        open_ports = self._open_tcp(version)
        # A guess needs one open and one closed port: port 1 is closed nearly everywhere.
        closed = set() if self.run.policy.is_never_port(1) else {1}
        first = {host: frozenset({min(ports)}) for host, ports in open_ports.items()}
        for part in cut(first, OS_PACKETS, most=PART * self.window.most):
            if self.nmap.trouble is not None:
                return
            part.ports |= closed
            await self._slice("os", version, part, ["-sS", "-O", "--max-os-tries", "1"], first, OS_PACKETS, OS_SECONDS)

    async def _slice(
        self,
        what: str,
        version: int,
        part: Slice,
        argv: list[str],
        open_ports: dict[str, frozenset[int]],
        packets_each: int,
        seconds: float,
    ) -> None:
        """Run a part of what ignores `--max-rate` when there is room for the worst it can do, and merge what it brings."""
        hosts = sorted(part.hosts)
        rate = probe_rate("ports", self.share, raw=self.nmap.raw, ports=len(part.ports))
        argv = ["-Pn", *argv, "--max-rate", str(rate), "--max-retries", str(RETRIES), "-p", format_ports(part.ports)]
        each = part.packets_of_one(open_ports, packets_each)
        async with self.window.room(part.packets(open_ports, packets_each), hosts, each):
            report = await self.nmap.run(what, version, argv, hosts, LEAST_HOST_SECONDS + seconds)
        for host in report.hosts:
            if host.address in self.hosts:
                self.hosts[host.address] = merge(self.hosts[host.address], host)

    def _open_tcp(self, version: int) -> dict[str, frozenset[int]]:
        """Open TCP ports of the hosts that have any."""
        found = {
            address: frozenset(port.port for port in host.ports if port.protocol == "tcp" and port.state == "open")
            for address, host in self.hosts.items()
            if ipaddress.ip_address(address).version == version
        }
        return {address: ports for address, ports in found.items() if ports}

    def _scan_types(self, *, udp: bool = True) -> list[str]:
        types = (["-sS"] if self.nmap.raw else ["-sT"]) if self.tcp else []
        return [*types, "-sU"] if udp and self.udp else types

    def _port_words(self) -> str:
        words = [f"T:{format_ports(self.tcp)}"] if self.tcp else []
        return ",".join([*words, f"U:{format_ports(self.udp)}"] if self.udp else words)


def merge(first: NmapHost, later: NmapHost) -> NmapHost:
    """Add what a later look at the same host brought: probed services and systems replace guesses, nothing seen is lost."""
    ports = {(port.protocol, port.port): port for port in first.ports}
    for port in later.ports:
        known = ports.get((port.protocol, port.port))
        if known is None or port.probed or not known.probed:
            ports[port.protocol, port.port] = port
    return first.model_copy(
        update={
            "ports": tuple(ports[key] for key in sorted(ports)),
            "mac": first.mac or later.mac,
            "vendor": first.vendor or later.vendor,
            "latency_ms": first.latency_ms if first.latency_ms is not None else later.latency_ms,
            "uptime_seconds": later.uptime_seconds or first.uptime_seconds,
            "booted_at": later.booted_at or first.booted_at,
            "distance_hops": later.distance_hops or first.distance_hops,
            "os_guesses": later.os_guesses or first.os_guesses,
            "timed_out": first.timed_out or later.timed_out,
        }
    )


_common: dict[tuple[str, int], tuple[int, ...]] = {}


async def common_ports(program: str, count: int) -> tuple[int, ...]:
    """The `count` most common TCP ports in the table of the nmap installed.

    Raises:
        CommandFailed: nmap does not say.
    """
    key = (program, count)
    if key not in _common:
        # Without targets nmap says what it would scan, and sends nothing.
        done = await run_command(
            [program, "-sT", "--unprivileged", "--top-ports", str(count), "-v", "-oG", "-"], timeout=30
        )
        match = re.search(rb"Ports scanned: TCP\(\d+;([\d,-]+)\)", done.stdout)
        if match is None:
            raise CommandFailed(
                "nmap does not name its most common ports.",
                hint="Is its file nmap-services there? nmap --top-ports 10 -v",
            )
        _common[key] = parse_ports(match[1].decode())
    return _common[key]


def _size(target: str) -> int:
    return ipaddress.ip_network(target).num_addresses if "/" in target else 1


def _targets(networks: Iterable[str], addresses: Iterable[str], version: int) -> tuple[list[str], int]:
    """What to ask in one address family, each address once, and how many addresses that is."""
    prefixes = [network for network in map(ipaddress.ip_network, networks) if network.version == version]
    single = [address for address in map(ipaddress.ip_address, addresses) if address.version == version]
    single = [address for address in single if not any(address in prefix for prefix in prefixes)]
    words = [str(prefix) for prefix in prefixes] + [str(address) for address in single]
    return words, sum(prefix.num_addresses for prefix in prefixes) + len(single)
