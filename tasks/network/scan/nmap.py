"""nmap: which hosts are up, which ports are open, what answers there, which system it is."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.core.errors import CommandFailed, MissingProgram, Refused, ToolError, ToolTimeout, Unreachable
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
from tasks.core.process import find_program, run_command
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.network.scan._nmap_plan import (
    AGAIN_PART,
    HOST_GROUP,
    HOST_SLICE_PART,
    OS_PACKETS,
    OS_SECONDS,
    RETRIES,
    SERVICE_PACKETS,
    SERVICE_SECONDS,
    WINDOW_SECONDS,
    Prediction,
    Profile,
    Slice,
    Window,
    cut,
    most_at_once,
    predict,
    probe_rate,
    scan_delay_ms,
)
from tasks.network.scan._nmap_xml import NmapHost, NmapOs, NmapPort, NmapReport, read_report
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

__all__ = ["Nmap", "NmapHost", "NmapOs", "NmapPort", "NmapResult", "Prediction", "nmap", "predict"]

TIMEOUT_SECONDS = 3600.0
MARGIN_SECONDS = 15.0
"""How long before the tool's own deadline nmap is ended: reading what it left takes time."""
LEAST_HOST_SECONDS = 300.0
LEAST_RATE, WISHED_RATE = 20, 500
SWEEP_PORTS = (22, 80, 443)
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
    predicted: int = Field(description="Packets predicted at most.")
    duration: float = Field(description="Duration, seconds.")
    evidence: tuple[FileRef, ...] = Field((), description="nmap's XML.")
    notes: tuple[str, ...] = Field(
        (), description="What a reader must know: missing privileges, warnings of nmap, targets left out."
    )

    def headline(self) -> str:
        text = f"{self.answered} of {self.planned} addresses up"
        if self.profile != "sweep":
            text += f", {sum(len(host.ports) for host in self.hosts)} open ports"
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
    return await _Scan(params, current_run()).perform()


class _Scan:
    """One call of the tool: its steps, and what they have brought so far."""

    def __init__(self, params: Nmap, run: ToolRun) -> None:
        self.params, self.run = params, run
        self.program = find_program("nmap")
        self.raw = may_send_raw(self.program)
        self.share = run.packets_per_second
        self.host_share = run.policy.host_packets_per_second
        self.window = Window(self.share, self.host_share)
        self.started = time.monotonic()
        self.ends = self.started + min(params.deadline(), TIMEOUT_SECONDS) - MARGIN_SECONDS
        self.hosts: dict[str, NmapHost] = {}
        self.attempted = 0
        self.evidence: list[FileRef] = []
        self.notes: dict[str, None] = {}
        self.trouble: ToolError | None = None
        self.tcp: tuple[int, ...] = ()
        self.udp: tuple[int, ...] = ()
        self.predicted = 0
        self.excluded: tuple[str, ...] = ()

    async def perform(self) -> NmapResult:
        grant = self.run.grant
        if grant is None:
            raise RuntimeError("nmap ran without a grant")
        await self._choose_ports()
        for missing in grant.unresolved:
            self.notes[f"{missing.asked}: {missing.error.message}"] = None
        planned = 0
        self.excluded = grant.excluded
        for version in (4, 6):
            targets, count = _targets(grant.networks, grant.addresses, version)
            planned += count
            if targets and self.trouble is None:
                await self._scan_family(version, targets, count)
        if self.trouble is not None and not self.hosts and self.attempted == 0:
            raise self.trouble
        self._say_what_is_missing(planned)
        return NmapResult(
            profile=self.params.profile,
            method="raw" if self.raw else "connect",
            hosts=tuple(self.hosts.values()),
            planned=planned,
            attempted=min(self.attempted, planned),
            answered=len(self.hosts),
            excluded=grant.excluded,
            ports_scanned=len(self.tcp) + len(self.udp),
            scanned_tcp=format_ports(self.tcp),
            scanned_udp=format_ports(self.udp),
            complete=self.trouble is None,
            packets_per_second=self.share,
            predicted=self.predicted,
            duration=round(time.monotonic() - self.started, 3),
            evidence=tuple(self.evidence),
            notes=tuple(self.notes)[:MOST_NOTES],
        )

    def _say_what_is_missing(self, planned: int) -> None:
        if not self.raw:
            self.notes[
                "No CAP_NET_RAW: full TCP connects only. Hosts that answer none of the ports asked stay unseen, there are no MACs, "
                f"and every open port sees a connection. To get it: {HOW_TO_GET_IT}"
            ] = None
        if self.trouble is None and self.attempted < planned:
            self.notes[f"nmap left out {planned - self.attempted} addresses; its warnings say why."] = None

    async def _choose_ports(self) -> None:
        params, policy = self.params, self.run.policy
        if params.profile == "sweep":
            return
        if params.profile == "os" and not self.raw:
            raise MissingProgram(
                "Guessing operating systems needs CAP_NET_RAW, which nmap would not have.",
                hint=f"To get it: {HOW_TO_GET_IT}",
            )
        asked = parse_ports(params.ports) if params.ports else await common_ports(self.program, params.top_ports)
        self.tcp = tuple(port for port in asked if not policy.is_never_port(port))
        left_out = sorted(set(asked) - set(self.tcp))
        if left_out:
            self.notes[f"TCP ports that are never touched were left out: {format_ports(left_out)}"] = None
        if params.udp_ports and not self.raw:
            self.notes["UDP ports were left out: they need CAP_NET_RAW."] = None
        elif params.udp_ports:
            self.udp = tuple(port for port in parse_ports(params.udp_ports) if not policy.is_never_port(port))
        if not self.tcp and not self.udp:
            raise Refused("Every port asked for is one that is never touched.", hint="See: signalbox policy show")

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _scan_family(self, version: int, targets: Sequence[str], count: int) -> None:
        params = self.params
        expected = predict(
            params.profile,
            count,
            ports=max(len(self.tcp) + len(self.udp), 1),
            packets_per_second=self.share,
            host_packets_per_second=self.host_share,
            raw=self.raw,
            discovery=params.discovery,
        )
        self.predicted += expected.packets
        argv = ["-PE"] if self.raw else []
        probes = [port for port in SWEEP_PORTS if not self.run.policy.is_never_port(port)]
        if probes:
            argv.append(f"-PS{format_ports(probes)}")
        if 80 in probes and self.raw:
            argv.append("-PA80")
        if not argv:
            raise Refused(
                "Every port a sweep would ask is one that is never touched, and there is no CAP_NET_RAW for an ICMP sweep."
            )
        patience = max(LEAST_HOST_SECONDS, expected.seconds)
        if params.profile == "sweep":
            argv += ["-sn", *self._pace("sweep", 1), "--max-hostgroup", "256"]
        else:
            argv = argv if params.discovery else ["-Pn"]
            argv += [*self._scan_types(), *self._pace("ports", len(self.tcp) + len(self.udp)), "-p", self._port_words()]
            argv += ["--min-hostgroup", str(HOST_GROUP), "--max-hostgroup", str(HOST_GROUP)]
        each = min(2.0 * (len(self.tcp) + len(self.udp)) + 4, self.window.most_per_host)
        async with self.window.burst(
            min(expected.packets, self.window.most), targets if count == len(targets) else (), each
        ):
            report = await self._step(
                params.profile if params.profile == "sweep" else "ports", version, argv, targets, patience
            )
        self.attempted += report.reported
        for host in report.hosts:
            self.hosts[host.address] = host
        if params.profile == "services":
            await self._detect_services(version)
        if params.profile == "os":
            await self._guess_systems(version)

    async def _detect_services(self, version: int) -> None:
        open_ports = {address: ports for address, ports in self._open_tcp(version).items() if ports}
        most, most_ports = most_at_once(self.share, SERVICE_PACKETS), 65535
        per_host = most
        if self.host_share:
            per_host = most_at_once(self.host_share, SERVICE_PACKETS, part=HOST_SLICE_PART)
            most_ports = max(1, int(self.window.most_per_host * (1 - HOST_SLICE_PART)) // 2)
        for part in cut(open_ports, most=most, most_per_host=per_host, most_ports=most_ports):
            if self.trouble is not None:
                return
            probes = part.probes(open_ports)
            argv = ["-Pn", *self._scan_types(udp=False), "-sV", "--version-intensity", "2"]
            # All ports of a slice at once: each may wait 41 s for a word. Under -T3 nmap would take 20 at a time.
            argv += ["--min-parallelism", str(sum(probes.values()))]
            seconds = SERVICE_SECONDS + LEAST_HOST_SECONDS
            await self._slice("services", version, part, argv, probes, SERVICE_PACKETS, seconds)

    async def _guess_systems(self, version: int) -> None:
        open_ports = {address: ports for address, ports in self._open_tcp(version).items() if ports}
        hosts, most = sorted(open_ports), most_at_once(self.share, OS_PACKETS)
        for at in range(0, len(hosts), most):
            if self.trouble is not None:
                return
            some = hosts[at : at + most]
            # A guess needs one open and one closed port: port 1 is closed nearly everywhere.
            closed = set() if self.run.policy.is_never_port(1) else {1}
            part = Slice(set(some), {min(open_ports[address]) for address in some} | closed)
            argv = ["-Pn", "-sS", "-O", "--max-os-tries", "1"]
            await self._slice(
                "os", version, part, argv, dict.fromkeys(some, 1), OS_PACKETS, OS_SECONDS + LEAST_HOST_SECONDS
            )

    async def _slice(
        self,
        what: str,
        version: int,
        part: Slice,
        argv: list[str],
        probes: dict[str, int],
        packets_each: int,
        seconds: float,
    ) -> None:
        """Run a part of what ignores `--max-rate` when there is room for the worst it can do, and merge what it brings."""
        hosts = sorted(part.hosts)
        # Before it does its work nmap looks at the ports again, slowly: with the work's own burst that fits into a window.
        again = min(len(hosts) * (2 * len(part.ports) * (1 + RETRIES) + 4), self.share * WINDOW_SECONDS * AGAIN_PART)
        burst = sum(probes.values()) * packets_each + again
        each = max(probes.values()) * packets_each + 2 * len(part.ports)
        # No --scan-delay: nmap would ignore --min-parallelism then, and each host's few packets are counted in `each`.
        rate = probe_rate("ports", max(int(self.share * AGAIN_PART), 1), raw=self.raw, ports=len(part.ports))
        argv = [*argv, "--max-rate", str(rate), "--max-retries", str(RETRIES), "-p", format_ports(part.ports)]
        async with self.window.burst(burst, hosts, each):
            report = await self._step(what, version, argv, hosts, seconds)
        for host in report.hosts:
            if host.address in self.hosts:
                self.hosts[host.address] = merge(self.hosts[host.address], host)

    def _open_tcp(self, version: int) -> dict[str, frozenset[int]]:
        return {
            address: frozenset(port.port for port in host.ports if port.protocol == "tcp" and port.state == "open")
            for address, host in self.hosts.items()
            if ipaddress.ip_address(address).version == version
        }

    def _scan_types(self, *, udp: bool = True) -> list[str]:
        types = (["-sS"] if self.raw else ["-sT"]) if self.tcp else []
        return [*types, "-sU"] if udp and self.udp else types

    def _port_words(self) -> str:
        words = [f"T:{format_ports(self.tcp)}"] if self.tcp else []
        return ",".join([*words, f"U:{format_ports(self.udp)}"] if self.udp else words)

    def _pace(self, profile: Profile, ports: int) -> list[str]:
        rate = probe_rate(profile, self.share, raw=self.raw, ports=ports)
        words = ["--max-rate", str(rate), "--max-retries", str(RETRIES)]
        delay = scan_delay_ms(self.host_share)
        return [*words, "--scan-delay", f"{delay}ms"] if delay and profile != "sweep" else words

    # --- nmap --------------------------------------------------------------------------------------------------------

    async def _step(
        self, what: str, version: int, argv: list[str], targets: Iterable[str], seconds: float
    ) -> NmapReport:
        """Run nmap once, keep its XML, read what it finished; what went wrong is in `self.trouble`."""
        left = self.ends - time.monotonic()
        if left < 1:
            self.trouble = ToolTimeout(
                f"The deadline came before {what} could start.", hint="Ask for fewer addresses or ports at once."
            )
            return NmapReport(hosts=(), reported=0, finished=False)
        limit = min(left, 2 * seconds)
        store = await self.run.store()
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        name = f"nmap/{today}/{self.run.id}-{self.run.attempt}-{len(self.evidence) + 1:02d}-{what}.xml"
        path = await asyncio.to_thread(store.new, name)
        words = [
            self.program,
            "--privileged" if self.raw else "--unprivileged",
            "-n",
            "-T3",
            "-v",
            *(["-6"] if version == 6 else []),
        ]
        # Shorter than our own limit: nmap then gives up on a slow host by itself and goes on with the others.
        words += [*argv, "--host-timeout", f"{max(int(limit * 0.9), 1)}s", "-oX", "-", "-iL", "-"]
        never = [(low, high) for low, high in self.run.policy.never_port_ranges()]
        if never and "-sn" not in argv:
            words += ["--exclude-ports", ",".join(f"{low}-{high}" for low, high in never)]
        complaints = b""
        with tempfile.TemporaryDirectory(prefix="signalbox-nmap-") as folder:
            excluded = [text for text in self.excluded if ipaddress.ip_network(text).version == version]
            if excluded:
                file = Path(folder, "exclude")
                await asyncio.to_thread(file.write_text, "\n".join(excluded) + "\n")
                words += ["--excludefile", str(file)]
            try:
                done = await run_command(
                    words, timeout=limit, stdin=("\n".join(targets) + "\n").encode(), stdout_path=path
                )
                complaints = done.stderr
            except ToolTimeout as error:
                self.trouble, complaints = error, error.partial.stderr if error.partial else b""
            except CommandFailed as error:
                self.trouble, complaints = error, error.completed.stderr if error.completed else b""
            except BaseException:
                store.discard(path)
                raise
        report = await self._keep(store, path)
        self._hear(complaints, report, version)
        return report

    async def _keep(self, store: CaptureStore, path: Path) -> NmapReport:
        """Make the XML evidence, then read it: what cannot be read today is not lost."""
        if not await asyncio.to_thread(lambda: path.exists() and path.stat().st_size > 0):
            store.discard(path)
            return NmapReport(hosts=(), reported=0, finished=False)
        stored = await asyncio.to_thread(store.commit, path)
        self.evidence.append(self.run.file_ref(stored))
        return await asyncio.to_thread(read_report, store.path(stored.name))

    def _hear(self, complaints: bytes, report: NmapReport, version: int) -> None:
        """Turn what nmap said and how it ended into notes and trouble."""
        lines = [" ".join(line.split()) for line in complaints.decode(errors="replace").splitlines()]
        said = [line for line in lines if line and not line.startswith(_USUAL)]
        for line in said:
            self.notes[f"nmap: {line[:300]}"] = None
        if report.unreadable:
            self.notes[f"{report.unreadable} hosts in nmap's XML could not be read; the evidence has them."] = None
        late = [host.address for host in report.hosts if host.timed_out]
        if late:
            self.notes[f"Took longer than their deadline, their ports are unknown: {', '.join(late[:10])}"] = None
        if self.trouble is not None:
            self.notes[f"Cut off: {self.trouble.message}"] = None
            if any(_NO_ROUTE.search(line) for line in said) and not report.hosts:
                self.trouble = Unreachable(f"There is no IPv{version} route to the targets: {said[-1][:200]}")
        elif not report.finished:
            reason = report.error or "its XML has no end"
            self.trouble = CommandFailed(f"nmap did not finish: {reason}.")
            self.notes[self.trouble.message] = None


_USUAL = (
    # Said on every unprivileged run; the result's own note says it better.
    "Host discovery disabled (-Pn)",
    "You have specified some options that require raw socket access",
    "These options will not be honored",
    "Warning: You are not root",
    "WARNING: a TCP ping scan was requested",
    # Ports of a policy that are not among those scanned.
    "WARNING: Your ports include",
)
_NO_ROUTE = re.compile(
    r"no route|failed to determine route|Network is unreachable|unable to determine.*route", re.IGNORECASE
)


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
