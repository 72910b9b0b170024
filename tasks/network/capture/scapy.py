"""`scapy`: named probes and packets declared as data, made and read by scapy. No code comes from outside."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import InvalidParameters, MissingProgram
from tasks.core.gate import Grant
from tasks.core.models import (
    MAX_TARGETS,
    Example,
    PortList,
    Safety,
    Scope,
    Service,
    SiteParams,
    Target,
    ToolResult,
    parse_ports,
)
from tasks.core.offload import offload
from tasks.core.redact import json_size
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture import _scapy_plan as plan
from tasks.network.capture._interfaces import check_interface
from tasks.network.capture._scapy_order import Order, Outcome, Probe, Report, carry_out
from tasks.network.capture._scapy_order import Target as Aim
from tasks.network.capture._scapy_rows import Announcement, Answer, Hop, Neighbour, Offer, PathMtu
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw

TIMEOUT_SECONDS = 1500.0
LEAST_RATE, WISHED_RATE = 10, 50
MARGIN_SECONDS = 20.0
"""Between the end of the child's own time and its being killed: starting, importing scapy, reporting."""
MEMORY_BYTES = 512 << 20
MOST_PACKETS = 4096
"""Packets of one call."""
MOST_ROWS = 250
"""Rows of one kind in a result. What was answered comes first."""
ROWS_BYTES = 52 << 10
"""What they may take: the ledger keeps 64 KiB, and what an answer says is chosen by whoever answers."""
Row = TypeVar("Row", bound=BaseModel)
_ASK_ALL = {Probe.DHCP_DISCOVER: 67, Probe.MDNS: 5353, Probe.SSDP: 1900}
"""Probes that ask everybody on a link, and the port they ask at."""
_ELSEWHERE = {*_ASK_ALL, Probe.LLDP_LISTEN}  # these ask a link, not hosts


def _distinct(targets: list[str]) -> list[str]:
    return list(dict.fromkeys(targets))


_Targets = Annotated[list[Target], Field(max_length=MAX_TARGETS), AfterValidator(_distinct)]


class DeclaredLayer(BaseModel):
    """A layer of a declared packet."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    layer: Literal["IP", "IPv6", "TCP", "UDP", "ICMP", "ICMPv6EchoRequest", "DNS", "Raw"] = Field(
        description="Name of the layer, as scapy calls it."
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        max_length=20,
        description="Its fields by scapy's names: numbers, text, flags such as SA, TCP options such as [['MSS', 1460]].",
    )


class Scapy(SiteParams):
    """Parameters of `scapy`."""

    probe: Probe = Field(
        description="arp_ping, tcp_syn, icmp_timestamp, tcp_traceroute, dhcp_discover, lldp_listen, ipv6_neighbours, mtu, mdns, ssdp, "
        "or packet (one declared in packet)."
    )
    targets: _Targets = Field(
        default_factory=list,
        description="Hosts to probe, up to 256; of dhcp_discover, mdns and ssdp the networks of the interface, because what they ask "
        "reaches all of them; of lldp_listen none.",
    )
    ports: PortList | None = Field(
        None, description="TCP ports of tcp_syn, such as 22,80,443; of tcp_traceroute one.", max_length=400
    )
    interface: str | None = Field(
        None,
        min_length=1,
        max_length=15,
        description="Interface of dhcp_discover, mdns, ssdp and lldp_listen, such as eth0; of ipv6_neighbours for link-local addresses.",
    )
    packet: list[DeclaredLayer] = Field(
        default_factory=list,
        max_length=6,
        description="Layers of the packet to send, outermost first; the IP layer may be left out. Addresses come from targets.",
    )
    count: int = Field(
        1,
        ge=1,
        le=100,
        description="Packets to each target (port, hop, size), 1 to 100; of tcp_syn and mtu at most so many.",
    )
    rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=10_000,
        description="Packets a second wished for, 10 to 10,000; the site's budget may give less.",
    )
    timeout: float = Field(2.0, ge=0.1, le=30, description="Seconds to wait for answers, 0.1 to 30.")
    duration: float = Field(
        65.0, ge=1, le=300, description="Seconds that lldp_listen listens, 1 to 300; LLDP comes every 30."
    )
    hops: int = Field(30, ge=1, le=64, description="Most hops of tcp_traceroute, 1 to 64.")
    largest: int = Field(1500, ge=68, le=9216, description="Largest packet mtu tries, bytes, 68 to 9,216.")

    @model_validator(mode="after")
    def _fits_the_probe(self) -> Scapy:
        probe = self.probe
        if probe not in _ELSEWHERE:
            if not self.targets:
                raise ValueError(f"{probe} needs targets")
            if wide := next((target for target in self.targets if "/" in target), None):
                raise ValueError(f"{wide!r} is a prefix; {probe} takes single hosts: names or addresses")
        if probe in _ASK_ALL and (not self.interface or not self.targets):
            raise ValueError(
                f"{probe} needs interface, and in targets the networks it is on: what it asks reaches all of them"
            )
        if probe is Probe.LLDP_LISTEN and (not self.interface or self.targets):
            raise ValueError("lldp_listen needs interface and no targets: it only listens")
        if (probe is Probe.PACKET) != bool(self.packet):
            raise ValueError("packet (its layers) belongs to the probe packet, and that needs it")
        ports = parse_ports(self.ports) if self.ports else ()
        if probe is Probe.TCP_SYN and not ports:
            raise ValueError("tcp_syn needs ports, such as 22,80,443")
        if probe is Probe.TCP_TRACEROUTE and len(ports) != 1:
            raise ValueError("tcp_traceroute needs one port in ports, such as 443")
        if ports and probe not in {Probe.TCP_SYN, Probe.TCP_TRACEROUTE}:
            raise ValueError(f"{probe} has no use for ports")
        if self._packets() > MOST_PACKETS:
            raise ValueError(
                f"that may take {self._packets():,} packets, more than the {MOST_PACKETS:,} of one call; ask for less"
            )
        for layer in self.packet:
            port = layer.fields.get("dport")
            if port is not None and (type(port) is not int or not 1 <= port <= 65535):
                raise ValueError(f"packet: {layer.layer}.dport is a number from 1 to 65535")
        return self

    def scope(self) -> Scope | None:
        if self.probe is Probe.LLDP_LISTEN:
            return None
        return Scope(
            targets=tuple(self.targets),
            ports=self._touched(),
            packets_per_second=self.rate,
            least_packets_per_second=LEAST_RATE,
        )

    def safety(self) -> Safety | None:
        # What bytes of one's own do is up to the program that gets them.
        return Safety.CHANGE if any(layer.layer == "Raw" for layer in self.packet) else None

    def about(self) -> str:
        what = ", ".join(self.targets) or self.interface or ""
        return f"{self.probe}: {what}" if len(what) <= 400 else f"{self.probe}: {what[:400]} ... ({len(self.targets)})"

    def deadline(self) -> float:
        return min(TIMEOUT_SECONDS, self._seconds() + MARGIN_SECONDS)

    def _touched(self) -> tuple[int, ...]:
        """Ports that will be touched: the gate checks them."""
        if self.probe in _ASK_ALL:
            return (_ASK_ALL[self.probe],)
        if self.probe is Probe.PACKET:
            otherwise = {"TCP": 80, "UDP": 53}
            return tuple(
                int(layer.fields.get("dport", otherwise[layer.layer]))
                for layer in self.packet
                if layer.layer in otherwise
            )
        return parse_ports(self.ports) if self.ports else ()

    def _packets(self) -> int:
        """Packets that may be needed at most."""
        each = {
            Probe.TCP_SYN: 2 * len(parse_ports(self.ports)) if self.ports else 0,
            Probe.TCP_TRACEROUTE: self.hops,
            Probe.MTU: 16,
            Probe.LLDP_LISTEN: 0,
        }.get(self.probe, 1)
        return each * self.count * max(1, len(self.targets))

    def _seconds(self) -> float:
        """What it takes at the smallest share of the budget it works with."""
        if self.probe is Probe.LLDP_LISTEN:
            return self.duration
        rounds = {Probe.TCP_TRACEROUTE: math.ceil(self.hops / 4), Probe.MTU: 16 * self.count}.get(
            self.probe, self.count
        )
        return 2 * self._packets() / LEAST_RATE + rounds * self.timeout + 5


class ScapyResult(ToolResult):
    """What came back; the list that belongs to the probe is filled."""

    probe: Probe = Field(description="What was asked for.")
    sent: int = Field(
        description="Packets sent by us; what this machine's own network stack adds (resets of opened connections) not counted."
    )
    answered: int = Field(description="Rows in which somebody answered.")
    answers: list[Answer] = Field(default_factory=list, description="What became of each packet, by target.")
    hops: list[Hop] = Field(default_factory=list, description="The way to each target; of tcp_traceroute.")
    paths: list[PathMtu] = Field(default_factory=list, description="The largest packet to each target; of mtu.")
    offers: list[Offer] = Field(default_factory=list, description="Addresses that were offered; of dhcp_discover.")
    neighbours: list[Neighbour] = Field(default_factory=list, description="Devices on the link; of lldp_listen.")
    announcements: list[Announcement] = Field(
        default_factory=list, description="Devices on the link that say what they are; of mdns and ssdp."
    )
    left_out: int = Field(0, description="Rows that did not fit; those without an answer first.")
    complete: bool = Field(description="Whether all was tried before the time was up.")
    packets_per_second: int = Field(description="The rate that was kept.")
    seconds: float = Field(description="How long it took.")
    notes: list[str] = Field(default_factory=list, description="What a reader must know.")

    def headline(self) -> str:
        match self.probe:
            case Probe.LLDP_LISTEN:
                text = f"{count(len(self.neighbours), 'device says who it is', 'devices say who they are')}"
            case Probe.MDNS | Probe.SSDP:
                who = count(len(self.announcements), "host announces itself", "hosts announce themselves")
                by = "mDNS" if self.probe is Probe.MDNS else "SSDP"
                text = f"{who if self.announcements else 'nobody announces itself'} by {by}"
                kinds = Counter(kind for one in self.announcements for kind in one.kinds)
                if kinds:
                    text += f": {', '.join(f'{kind} ({number})' for kind, number in kinds.most_common(4))}"
            case Probe.DHCP_DISCOVER:
                servers = sorted({offer.server for offer in self.offers})
                text = (
                    f"{count(len(servers), 'DHCP server answers', 'DHCP servers answer')}: {', '.join(servers[:8])}"
                    if servers
                    else "no DHCP server answers"
                )
            case Probe.MTU:
                text = "; ".join(f"{path.target}: {path.mtu or 'no answer'}" for path in self.paths[:4])
            case Probe.TCP_TRACEROUTE:
                ends = {hop.target: hop for hop in self.hops}
                text = "; ".join(f"{hop.target}: {hop.outcome} at hop {hop.ttl}" for hop in list(ends.values())[:4])
            case _:
                counts = Counter(str(answer.outcome) for answer in self.answers)
                text = (
                    ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.most_common())
                    or "nothing sent"
                )
        return text if self.complete else f"{text}; INCOMPLETE"

    def reached(self) -> bool:
        return self.answered > 0


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    programs=("ip",),
    examples=[
        Example("Which MAC has an address", {"probe": "arp_ping", "targets": ["192.168.1.7"], "count": 3}),
        Example(
            "Half-open look at three ports", {"probe": "tcp_syn", "targets": ["192.168.1.7"], "ports": "22,80,443"}
        ),
        Example(
            "Who offers addresses here", {"probe": "dhcp_discover", "interface": "eth0", "targets": ["192.168.1.0/24"]}
        ),
        Example(
            "Cameras, printers and pages that announce themselves",
            {"probe": "mdns", "interface": "eth0", "targets": ["192.168.1.0/24"], "timeout": 3},
        ),
        Example("Which switch port is this", {"probe": "lldp_listen", "interface": "eth0"}),
        Example(
            "A question of one's own",
            {
                "probe": "packet",
                "targets": ["192.168.1.1"],
                "packet": [
                    {"layer": "IP", "fields": {"ttl": 3}},
                    {"layer": "UDP", "fields": {"dport": 53}},
                    {"layer": "DNS", "fields": {"qname": "printer.example.com", "qtype": "A"}},
                ],
            },
        ),
    ],
)
async def scapy(params: Scapy) -> ScapyResult:
    """Probe with ARP, SYN, ICMP, DHCP, LLDP, mDNS, SSDP, or a declared packet.

    Packets go from our own address to the granted ones, paced by the site's budget; to everybody on a link only where a probe asks all by
    nature (dhcp_discover, mdns, ssdp) and policy allows all of them. A declared packet has layers and fields that are checked against
    scapy's own types. Bytes of one's own in it (Raw) count as a change. What devices announce (mdns, ssdp) is their own word: nothing is
    fetched from where they point to.
    No answer is a measurement, not an error.

    Raises:
        InvalidParameters: A layer, field or interface is wrong; nothing was sent.
        Refused: The policy does not allow it, or a broadcast would reach more than was granted.
        Unreachable: ARP or neighbour discovery was asked for hosts that are not on our links.
        MissingProgram: CAP_NET_RAW or the program ip is missing.
    """
    run = current_run()
    if not may_send_raw(sys.executable):
        raise MissingProgram("Probes of one's own need CAP_NET_RAW.", hint=f"To get it: {HOW_TO_GET_IT}")
    began = time.monotonic()
    order, notes = await _order(params, run)
    report = await offload(carry_out, order, timeout=params.deadline(), memory_bytes=MEMORY_BYTES)
    return _result(params, order, report, notes, time.monotonic() - began)


async def _order(params: Scapy, run: ToolRun) -> tuple[Order, list[str]]:
    """What the child shall do, and what a reader must know beforehand."""
    notes: list[str] = []
    more: dict[str, Any] = {}
    if params.probe is Probe.LLDP_LISTEN:
        assert params.interface is not None
        check_interface(params.interface, run.policy)
        more = {"interface": params.interface}
    else:
        assert run.grant is not None
        more = await _aimed(params, run.grant, notes)
    rate = min(run.packets_per_second, params.rate)
    order = Order(
        probe=params.probe,
        ports=parse_ports(params.ports) if params.ports else (),
        rate=rate,
        host_rate=run.policy.host_packets_per_second,
        wait=params.timeout,
        seconds=params.deadline() - MARGIN_SECONDS,
        hops=params.hops,
        largest=params.largest,
        layers=tuple((layer.layer, layer.fields) for layer in params.packet),
        **({"count": params.count} | more),
    )
    return order, notes


async def _aimed(params: Scapy, grant: Grant, notes: list[str]) -> dict[str, Any]:
    notes += [f"{missing.asked}: {missing.error.message}" for missing in grant.unresolved]
    if params.probe in _ASK_ALL:
        assert params.interface is not None
        everybody = await plan.broadcast_link(grant, params.interface)
        return asdict(everybody) | {"interface": params.interface, "count": min(params.count, 5)}
    if params.probe in {Probe.ARP_PING, Probe.IPV6_NEIGHBOURS}:
        near, far = (
            await plan.arp_targets(grant)
            if params.probe is Probe.ARP_PING
            else await plan.nd_targets(grant, params.interface)
        )
        notes += [f"Not asked: {asked} ({why})." for asked, why in list(far.items())[:20]]
        return {"targets": tuple(near)}
    await plan.check_no_broadcast(grant)
    aims = [Aim(target.asked, target.addresses[0]) for target in grant.targets]
    if params.probe is Probe.ICMP_TIMESTAMP:
        six = [aim.asked for aim in aims if ":" in aim.address]
        notes += [f"Not asked: {asked} (there is no ICMP timestamp in IPv6)." for asked in six[:20]]
        aims = [aim for aim in aims if ":" not in aim.address]
        if not aims:
            raise InvalidParameters("icmp_timestamp is for IPv4: there is no such question in IPv6.")
    return {"targets": tuple(aims)}


def _result(params: Scapy, order: Order, report: Report, notes: list[str], seconds: float) -> ScapyResult:
    answers = [Answer.model_validate(row) for row in report.answers]
    hops = [Hop.model_validate(row) for row in report.hops]
    quiet = {Outcome.NO_ANSWER, Outcome.NOT_TRIED}
    kept = _fitting(sorted(answers, key=lambda answer: answer.outcome in quiet))
    shown = (
        [answer for answer in answers if any(answer is one for one in kept)] if len(kept) < len(answers) else answers
    )
    paths = [PathMtu.model_validate(row) for row in report.paths]
    offers = [Offer.model_validate(_without(row, "message")) for row in report.offers]
    neighbours = [Neighbour.model_validate(row) for row in report.neighbours]
    announcements = [Announcement.model_validate(row) for row in report.announcements]
    left_out = len(answers) - len(shown)
    left_out += sum(len(rows) - len(_fitting(rows)) for rows in (hops, paths, offers, neighbours, announcements))
    notes = [*notes, *report.notes]
    servers = {str(offer["server"]) for offer in report.offers}
    if len(servers) > 1:
        notes.append(
            f"{len(servers)} DHCP servers answer on one link: unless that is meant, one of them should not be there."
        )
    if not report.complete:
        notes.append("The time was up before everything was tried.")
    answered = sum(answer.by is not None for answer in answers) + sum(hop.address is not None for hop in hops)
    answered += sum(path["mtu"] is not None for path in report.paths) + len(report.offers) + len(report.neighbours)
    answered += len(announcements)
    return ScapyResult(
        probe=params.probe,
        sent=report.sent,
        answered=answered,
        answers=shown,
        hops=_fitting(hops),
        paths=_fitting(paths),
        offers=_fitting(offers),
        neighbours=_fitting(neighbours),
        announcements=_fitting(announcements),
        left_out=left_out,
        complete=report.complete,
        packets_per_second=int(order.rate),
        seconds=round(seconds, 3),
        notes=notes,
    )


def _fitting(rows: Sequence[Row]) -> list[Row]:
    """The first rows, as many as a result has room for."""
    room = ROWS_BYTES
    for number, row in enumerate(rows[:MOST_ROWS]):
        room -= json_size(row.model_dump(mode="json")) + 1
        if room < 0:
            return list(rows[:number])
    return list(rows[:MOST_ROWS])


def _without(row: dict[str, Any], *names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
