"""masscan: which ports are open, of many routed hosts at once. Off until policy turns it on."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import secrets
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import MissingProgram, Refused, ToolError, ToolTimeout, Unsupported
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
from tasks.core.process import find_program
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.scan._masscan_program import Job, OpenPort, Outcome, check_configuration, run_masscan
from tasks.network.scan._masscan_ways import LOOPBACK, OURSELVES, Way, Ways, choose_source_ports, find_ways
from tasks.network.scan._nmap_plan import PART, WINDOW_SECONDS, Window
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw

if TYPE_CHECKING:
    from tasks.core.gate import Grant

TIMEOUT_SECONDS = 3600.0
MARGIN_SECONDS = 15.0
"""Kept of the deadline for the result: what was found until then is never lost."""
START_SECONDS = 60.0
LEAST_RATE, WISHED_RATE = 20, 1000
COST = 2
"""Most packets of one probe: the SYN, and the RST our kernel sends for the answer of an open port (or its ICMP error for UDP)."""
OVERSHOOT = 1.1
"""masscan sends up to 1.06 times its `--max-rate` in five seconds (measured at 10, 200, 500 and 2,000 a second), and ARP comes on top."""
COMMON_PORTS = (
    "21-23,25,53,80-81,88,110-111,135,139,143,389,443,445,465,554,587,631,636,873,990,993,995,1080,1433,1521,1723,1883,2049,2375,"
    "3128,3268,3306,3389,5000,5060,5432,5672,5900,5985-5986,6379,8000,8008,8080-8081,8443,8554,8883,8888,9000,9090,9200,9443,"
    "10000,11211,27017,37777"
)
"""TCP ports where services of offices, servers and cameras usually listen."""
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")
"""Always in the excludefile: loopback and what no host has."""
RESULT_BYTES = 40_000
"""About how much of a result hosts may take: the ledger keeps 64 KiB; the evidence has all."""
INSTEAD = "Use nmap instead: signalbox tool run nmap --profile ports"


def _distinct(targets: list[str]) -> list[str]:
    return list(dict.fromkeys(targets))


_Targets = Annotated[list[Target], Field(min_length=1, max_length=MAX_TARGETS), AfterValidator(_distinct)]


class Masscan(ProbeParams):
    """Parameters of `masscan`."""

    targets: _Targets = Field(description="IPv4 prefixes, addresses or host names, 1 to 256.")
    ports: PortList | None = Field(
        None,
        description="TCP ports to scan, such as 22,80,8000-8010. Default: some 70 common ones, unless UDP ports are named.",
        examples=["22,80,443"],
    )
    udp_ports: PortList | None = Field(
        None,
        description="UDP ports to scan. DNS, NTP, SNMP (community public) and others are asked in their own way, the rest with nothing.",
        examples=["53,123,161"],
    )
    max_rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=1_000_000,
        description="Packets a second wished for, 10 to 1,000,000; the site's budget may give less.",
    )
    retries: int = Field(0, ge=0, le=3, description="How often each probe is repeated, answered or not, 0 to 3.")
    wait: int = Field(2, ge=1, le=30, description="Seconds to wait for late answers after the last probe, 1 to 30.")
    seed: int | None = Field(
        None, ge=1, le=2**63 - 1, description="Number that decides the order of the probes; default: a random one."
    )

    @model_validator(mode="after")
    def _fits_the_deadline(self) -> Masscan:
        seconds = self._probes() * COST * OVERSHOOT / self.max_rate
        if seconds > TIMEOUT_SECONDS - START_SECONDS - MARGIN_SECONDS:
            raise ValueError(
                f"{self._probes():,} probes at {self.max_rate} packets a second need {seconds / 3600:.1f} hours, more than the hour "
                "a masscan may take; name fewer addresses or ports, or raise max_rate if the site's budget has room"
            )
        return self

    def scope(self) -> Scope:
        asked = [text for text in (self.ports, self.udp_ports) if text is not None]
        return Scope(
            targets=tuple(self.targets),
            ports=tuple(sorted({port for text in asked for port in parse_ports(text)})),
            packets_per_second=self.max_rate,
            least_packets_per_second=min(LEAST_RATE, self.max_rate),
        )

    def deadline(self) -> float:
        # The share is not known yet; the smallest one bounds it.
        longest = self._probes() * COST * OVERSHOOT / min(LEAST_RATE, self.max_rate)
        return min(TIMEOUT_SECONDS, 1.5 * longest + START_SECONDS + 120 + MARGIN_SECONDS)

    def tcp(self) -> tuple[int, ...]:
        """TCP ports asked for."""
        if self.ports is None and self.udp_ports is not None:
            return ()
        return parse_ports(self.ports or COMMON_PORTS)

    def udp(self) -> tuple[int, ...]:
        """UDP ports asked for."""
        return parse_ports(self.udp_ports) if self.udp_ports else ()

    def _probes(self) -> int:
        addresses = sum(ipaddress.ip_network(target).num_addresses if "/" in target else 1 for target in self.targets)
        return addresses * (len(self.tcp()) + len(self.udp())) * (1 + self.retries)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MasscanHost(_Frozen):
    """A host with open ports."""

    address: str = Field(description="IPv4 address.")
    tcp: str = Field("", description="Open TCP ports, such as 22,80,8000-8010.")
    udp: str = Field("", description="UDP ports that answered.")
    ttl: int | None = Field(None, description="Time to live of an answer: 64, 128 or 255 less the hops it came.")
    mac: str | None = Field(None, description="MAC of a host on our own link, by ARP.")


class MasscanWay(_Frozen):
    """Where frames went: masscan sends all of a run to one MAC."""

    interface: str = Field(description="Our interface.")
    router: str | None = Field(None, description="The router; None for hosts on our own link.")
    mac: str | None = Field(None, description="The router's MAC.")
    addresses: int = Field(description="Addresses that were asked this way.")


class NotScanned(_Frozen):
    """A target masscan cannot scan from here."""

    target: str = Field(description="Prefix or address.")
    reason: str = Field(description="Why.")


class MasscanResult(ToolResult):
    """Which ports answered."""

    hosts: tuple[MasscanHost, ...] = Field(description="Hosts with open ports, by address.")
    left_out: int = Field(0, description="Hosts with open ports beyond those listed; the evidence has them.")
    open_ports: int = Field(description="Open ports, those left out included.")
    planned: int = Field(
        description="Addresses that were to be asked: exclusions and what cannot be scanned taken off."
    )
    silent: int = Field(
        0, description="Addresses on our own links that do not answer ARP; no port of theirs was asked."
    )
    probes: int = Field(description="Probes planned, repetitions included.")
    sent: int = Field(description="Probes sent, by masscan's own count; less than planned when it was cut off.")
    not_scanned: tuple[NotScanned, ...] = Field((), description="Targets that cannot be scanned from here.")
    excluded: tuple[str, ...] = Field((), description="Prefixes and addresses the policy excludes.")
    scanned_tcp: str = Field("", description="TCP ports asked, such as 22,80,8000-8010.")
    scanned_udp: str = Field("", description="UDP ports asked.")
    ways: tuple[MasscanWay, ...] = Field((), description="Where frames went.")
    complete: bool = Field(description="Whether all was asked. False: what is missing is unknown, not closed.")
    packets_per_second: int = Field(description="The share of the site's budget that was held.")
    source_ports: str = Field(description="Source ports of the probes: nobody else on this machine uses them.")
    seed: int = Field(description="The seed that repeats this order of probes.")
    duration: float = Field(description="Duration, seconds.")
    evidence: tuple[FileRef, ...] = Field((), description="masscan's output.")
    notes: tuple[str, ...] = Field((), description="What a reader must know.")

    def headline(self) -> str:
        planned = count(self.planned, "address", "addresses")
        text = f"{count(self.open_ports, 'open port')} on {len(self.hosts) + self.left_out:,} of {planned}"
        if self.not_scanned:
            text += f"; {count(len(self.not_scanned), 'target')} cannot be scanned from here"
        return text if self.complete else f"{text}; INCOMPLETE: {self.sent:,} of {count(self.probes, 'probe')} sent"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    programs=("masscan", "ip", "arp-scan"),
    examples=[
        Example("Web and SSH ports of a routed network", {"targets": ["10.20.0.0/22"], "ports": "22,80,443"}),
        Example("SNMP agents of a network", {"targets": ["10.20.0.0/24"], "udp_ports": "161"}),
    ],
)
async def masscan(params: Masscan) -> MasscanResult:
    """Find open ports of many routed hosts with masscan.

    Off until policy turns it on. Goes no faster than the held share of the site's packet budget, and no faster to one host than the
    policy's cap. Probes come from source ports that nothing else on this machine uses; no firewall rule is made for them, so our kernel
    resets each connection masscan half-opens. What it reports as open answered; what it does not report may be closed, filtered, or lost
    on the way: it asks once unless told otherwise. Loopback and this machine itself are out of its reach, and so is all of a large
    network on our own link: nmap scans those.

    Raises:
        Refused: Policy does not allow masscan, or every port asked for is one that is never touched.
        MissingProgram: masscan or ip is not installed, or CAP_NET_RAW is missing.
        Unsupported: No target can be scanned by masscan from here.
        ToolTimeout: It was ended before it found anything.
        CommandFailed: masscan failed before it found anything.
    """
    run = current_run()
    if run.grant is None:
        raise RuntimeError("masscan ran without a grant")
    if not run.policy.masscan:
        at = "" if run.site == "default" else f" --site {run.site}"
        raise Refused(
            f"masscan is off at site {run.site}: it asks without listening, and a wrong target or rate hurts at once.",
            hint=f"Turn it on: signalbox policy masscan on{at}",
        )
    program = find_program("masscan")
    if not may_send_raw(program):
        raise MissingProgram("masscan needs CAP_NET_RAW, which it would not have.", hint=f"To get it: {HOW_TO_GET_IT}")
    check_configuration()
    return await _Scan(params, run, run.grant).perform()


class _Scan:
    """One call of the tool: what its runs have brought so far."""

    def __init__(self, params: Masscan, run: ToolRun, grant: Grant) -> None:
        self.params, self.run, self.grant = params, run, grant
        self.started = time.monotonic()
        self.ends = self.started + params.deadline() - MARGIN_SECONDS
        self.share = min(run.packets_per_second, params.max_rate)
        self.host_share = run.policy.host_packets_per_second
        self.window = Window(self.share, self.host_share)
        self.seed = params.seed or secrets.randbelow(2**63 - 1) + 1
        self.source_ports = choose_source_ports()
        self.notes: dict[str, None] = {}
        self.not_scanned: dict[str, str] = {}
        self.found: dict[tuple[str, str, int], OpenPort] = {}
        self.macs: dict[str, str] = {}
        self.evidence: list[FileRef] = []
        self.trouble: ToolError | None = None
        self.probes, self.sent = 0, 0.0

    async def perform(self) -> MasscanResult:
        self._choose_ports()
        ways = await self._find_ways()
        jobs = [(way, ports) for way in ways.found for ports in self._portions(way)]
        repeated = 1 + self.params.retries
        self.probes = sum(_size(ways.found[way]) * len(ports) * repeated for way, ports in jobs)
        for way, ports in jobs:
            if self.trouble is None:
                await self._run(way, ways.found[way], ports)
        if self.trouble is not None and not self.found:
            raise self.trouble
        return self._result(ways)

    def _choose_ports(self) -> None:
        policy = self.run.policy
        asked = self.params.tcp()
        self.tcp = tuple(port for port in asked if not policy.is_never_port(port))
        self.udp = tuple(port for port in self.params.udp() if not policy.is_never_port(port))
        if left_out := sorted(set(asked) - set(self.tcp)):
            self._note(f"TCP ports that are never touched were left out: {format_ports(left_out)}")
        if not self.tcp and not self.udp:
            raise Refused("Every port asked for is one that is never touched.", hint="See: signalbox policy show")

    async def _find_ways(self) -> Ways:
        for missing in self.grant.unresolved:
            self._note(f"{missing.asked}: {missing.error.message}")
        networks = [ipaddress.ip_network(text) for text in (*self.grant.networks, *self.grant.addresses)]
        self.not_scanned |= {_show(network): f"IPv6. {INSTEAD}" for network in networks if network.version == 6}
        wanted = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
        loopback = [network for network in wanted if network.is_loopback]
        self.not_scanned |= {_show(network): LOOPBACK for network in loopback}
        ways = await find_ways(
            (network for network in wanted if network not in loopback),
            packets_per_second=self.share,
            seconds=START_SECONDS,
        )
        for text, why in ways.closed.items():
            if why == OURSELVES and text.removesuffix("/32") not in self.grant.addresses:
                self._note(f"{text.removesuffix('/32')} was left out: {why}")
            else:
                self.not_scanned[_show(ipaddress.ip_network(text))] = why
        for note in ways.notes:
            self._note(note)
        if self.not_scanned:
            self._note(INSTEAD)
        if not ways.found and not ways.silent:
            where = "; ".join(f"{text}: {why}" for text, why in list(self.not_scanned.items())[:4])
            raise Unsupported(f"masscan cannot scan from here: {where}.", hint=INSTEAD)
        return ways

    def _portions(self, way: Way) -> Iterator[list[tuple[str, int]]]:
        """Cut the ports so that no host gets more than its cap in five seconds: masscan's order is random, its worst is all at once."""
        ports = [("tcp", port) for port in self.tcp] + [("udp", port) for port in self.udp]
        each = COST * (1 + self.params.retries)
        # To one host alone masscan's own rate keeps the cap.
        alone = way.router is None or not self.host_share
        step = len(ports) if alone else max(1, int(PART * WINDOW_SECONDS * self.host_share / each))
        for at in range(0, len(ports), step):
            yield ports[at : at + step]

    async def _run(self, way: Way, networks: list[ipaddress.IPv4Network], ports: list[tuple[str, int]]) -> None:
        limit = self.ends - time.monotonic()
        if limit < self.params.wait + 2:
            self._cut_off(
                ToolTimeout("The deadline came before everything was asked.", hint="Ask for fewer addresses or ports.")
            )
            return
        probes = _size(networks) * len(ports) * (1 + self.params.retries)
        most = min(self.share, self.host_share or self.share) if way.router is None else self.share
        job = Job(
            way=way,
            targets=tuple(str(network) for network in networks),
            excluded=self._excluded(),
            ports=_port_words(ports),
            rate=most / COST / OVERSHOOT,
            source_ports=self.source_ports,
            seed=self.seed,
            wait=self.params.wait,
            retries=self.params.retries,
        )
        each = min(COST * len(ports) * (1 + self.params.retries), self.window.most_per_host)
        # The rate keeps the site's share by itself; the window keeps apart what goes to the same hosts: all of the same networks,
        # which are named by themselves, for a /8 has too many hosts to name.
        async with self.window.room(0, [str(network) for network in networks], each):
            outcome = await run_masscan(job, timeout=limit, expected=probes / job.rate)
        self.sent += probes * outcome.percent / 100
        for found in outcome.ports:
            # What answers from elsewhere (a router, a trap) is not what was asked.
            if self.grant.covers(found.address):
                self.found[found.address, found.protocol, found.port] = found
                if way.router is None:
                    self.macs[found.address] = way.mac
            else:
                self._note(f"{found.address} answered, which was not asked; it was left out.")
        await self._keep(outcome)
        if outcome.trouble is not None:
            self._cut_off(outcome.trouble)

    def _excluded(self) -> tuple[str, ...]:
        asked = [ipaddress.ip_network(entry.target) for entry in self.run.policy.exclude]
        every = [*NEVER, *self.grant.excluded, *(str(network) for network in asked)]
        return tuple(dict.fromkeys(text for text in every if ipaddress.ip_network(text).version == 4))

    def _cut_off(self, error: ToolError) -> None:
        self.trouble = error
        self._note(f"Cut off: {error.message}")

    def _note(self, text: str) -> None:
        self.notes[text] = None

    async def _keep(self, outcome: Outcome) -> None:
        """Keep masscan's file; where it was ended before it wrote all of it, the file has what was heard as well."""
        if not outcome.ports:
            return
        words = outcome.output
        written = words.count(b'"status"')
        if written < len(outcome.ports):
            heard = (f"Discovered open port {port.port}/{port.protocol} on {port.address}\n" for port in outcome.ports)
            words = words[: words.rfind(b"\n") + 1] + "".join(heard).encode()
        store = await self.run.store()
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        name = f"masscan/{today}/{self.run.id}-{self.run.attempt}-{len(self.evidence) + 1:03d}.json"
        self.evidence.append(self.run.file_ref(await asyncio.to_thread(store.write, name, words)))

    def _result(self, ways: Ways) -> MasscanResult:
        hosts = list(self._hosts())
        listed = _fitting(hosts)
        return MasscanResult(
            hosts=tuple(listed),
            left_out=len(hosts) - len(listed),
            open_ports=len(self.found),
            planned=sum(_size(networks) for networks in ways.found.values()) + ways.silent,
            silent=ways.silent,
            probes=self.probes,
            sent=min(math.floor(self.sent), self.probes),
            not_scanned=tuple(NotScanned(target=text, reason=why) for text, why in list(self.not_scanned.items())[:50]),
            excluded=self.grant.excluded[:50],
            scanned_tcp=format_ports(self.tcp),
            scanned_udp=format_ports(self.udp),
            ways=_ways(ways),
            complete=self.trouble is None,
            packets_per_second=self.share,
            source_ports=f"{self.source_ports[0]}-{self.source_ports[1]}",
            seed=self.seed,
            duration=round(time.monotonic() - self.started, 3),
            evidence=tuple(self.evidence[:20]),
            notes=tuple(self.notes)[:20],
        )

    def _hosts(self) -> Iterator[MasscanHost]:
        ports: dict[str, list[OpenPort]] = {}
        for found in self.found.values():
            ports.setdefault(found.address, []).append(found)
        for address in sorted(ports, key=ipaddress.ip_address):
            yield MasscanHost(
                address=address,
                tcp=format_ports(port.port for port in ports[address] if port.protocol == "tcp"),
                udp=format_ports(port.port for port in ports[address] if port.protocol == "udp"),
                ttl=next((port.ttl for port in ports[address] if port.ttl), None),
                mac=self.macs.get(address),
            )


def _ways(ways: Ways) -> tuple[MasscanWay, ...]:
    """The ways for a reader; hosts on one link are one line."""
    shown: dict[tuple[str, str | None, str | None], int] = {}
    for way, networks in ways.found.items():
        key = (way.interface, way.router, way.mac if way.router else None)
        shown[key] = shown.get(key, 0) + _size(networks)
    return tuple(
        MasscanWay(interface=interface, router=router, mac=mac, addresses=count)
        for (interface, router, mac), count in list(shown.items())[:20]
    )


def _fitting(hosts: list[MasscanHost]) -> list[MasscanHost]:
    """The first hosts, as many as the ledger has room for."""
    room = RESULT_BYTES
    for number, host in enumerate(hosts):
        room -= len(host.model_dump_json())
        if room < 0:
            return hosts[:number]
    return hosts


def _size(networks: Iterable[ipaddress.IPv4Network]) -> int:
    return sum(network.num_addresses for network in networks)


def _show(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _port_words(ports: list[tuple[str, int]]) -> str:
    """Ports as masscan writes them: 22,80,U:53. TCP first: it takes what follows a U: for UDP as well."""
    tcp = format_ports(port for protocol, port in ports if protocol == "tcp")
    udp = format_ports(port for protocol, port in ports if protocol == "udp")
    return ",".join([*([tcp] if tcp else []), *(f"U:{part}" for part in udp.split(",") if part)])
