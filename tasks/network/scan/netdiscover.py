"""netdiscover: who is on a link of ours, asked by ARP or only listened for."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import InvalidParameters, MissingProgram, Refused, ToolError, ToolTimeout, Unreachable
from tasks.core.models import (
    MAX_TARGETS,
    Example,
    FileRef,
    Safety,
    Scope,
    Service,
    SiteParams,
    Target,
    ToolResult,
)
from tasks.core.process import find_program
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._interfaces import ANY, check_interface
from tasks.network.scan._links import Link, split
from tasks.network.scan._netdiscover_program import MARGIN_SECONDS, START_SECONDS, Heard, Outcome, ask, listen
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw
from tasks.network.scan.arp_scan import ArpHost, Duplicate, SharedMac, duplicates, find_vendor, is_local, shared_macs

TIMEOUT_SECONDS = 1900.0
REPORTING_SECONDS = 10.0
"""Kept of the deadline for the result: what was heard until then is never lost."""
LEAST_RATE, WISHED_RATE = 10, 100
MOST_HOSTS = 300
INSTEAD = "arp_scan asks any address of our own links: signalbox tool run arp_scan"
_ETHERNET = "1"  # ARPHRD_ETHER of <linux/if_arp.h>, in /sys/class/net/*/type


def _distinct(targets: list[str]) -> list[str]:
    return list(dict.fromkeys(targets))


_Targets = Annotated[list[Target], Field(max_length=MAX_TARGETS), AfterValidator(_distinct)]


class Netdiscover(SiteParams):
    """Parameters of `netdiscover`."""

    mode: Literal["active", "passive"] = Field(
        "active",
        description="active: ask every address by ARP. passive: send nothing, and hear who speaks (ARP is broadcast).",
    )
    targets: _Targets = Field(
        default_factory=list,
        description="active: IPv4 prefixes, addresses or host names on our own links, 1 to 256. passive: none.",
    )
    interface: str | None = Field(
        None,
        description="passive: the Ethernet interface to listen on, such as eth0. active: it is chosen by the targets.",
        pattern=r"^[^\s/]{1,15}$",
    )
    duration: float = Field(60.0, ge=1, le=1800, description="passive: seconds to listen, 1 to 1800.")
    count: int = Field(2, ge=1, le=5, description="active: requests for each address, 1 to 5.")
    max_rate: int = Field(
        WISHED_RATE,
        ge=10,
        le=1000,
        description="active: packets a second wished for, 10 to 1000; the site's budget may give less.",
    )

    @model_validator(mode="after")
    def _one_mode(self) -> Netdiscover:
        if self.mode == "active" and not self.targets:
            raise ValueError("active needs targets: prefixes or addresses on our own links, such as 192.168.1.0/24")
        if self.mode == "active" and self.interface is not None:
            raise ValueError("active chooses the interface by the targets; leave interface out")
        if self.mode == "passive" and self.targets:
            raise ValueError("passive hears whoever speaks; leave targets out, and name an interface")
        if self.mode == "passive" and self.interface is None:
            raise ValueError("passive needs an interface to listen on, such as eth0")
        return self

    def scope(self) -> Scope | None:
        if self.mode == "passive":
            return None
        return Scope(targets=tuple(self.targets), packets_per_second=self.max_rate, least_packets_per_second=LEAST_RATE)

    def about(self) -> str:
        text = self.interface or ", ".join(self.targets)
        return text if len(text) <= 500 else f"{text[:480]} ... ({len(self.targets)})"

    def deadline(self) -> float:
        if self.mode == "passive":
            return self.duration + MARGIN_SECONDS + REPORTING_SECONDS
        # The share is not known yet; the smallest one bounds it. Whatever is wider, our own /24s are all that is asked.
        addresses = sum(min(ipaddress.ip_network(t).num_addresses, 4096) if "/" in t else 1 for t in self.targets)
        longest = 1.5 * addresses * self.count / LEAST_RATE + 20 * (START_SECONDS + MARGIN_SECONDS)
        return min(TIMEOUT_SECONDS, longest + REPORTING_SECONDS)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetdiscoverHost(_Frozen):
    """Somebody who spoke ARP."""

    address: str = Field(description="IPv4 address.")
    mac: str = Field(description="MAC that spoke for it.")
    vendor: str | None = Field(None, description="Who made the interface, by the IEEE's register.")
    other_vendor: str | None = Field(
        None, description="What netdiscover's own, older table says, where that is another maker."
    )
    locally_administered: bool = Field(
        False, description="The MAC was made up by software (random, virtual); it identifies nothing for long."
    )
    asked: bool = Field(False, description="We asked for it. False: it spoke while we listened.")
    interface: str = Field(description="Our interface that heard it.")


class NetdiscoverLink(_Frozen):
    """A network that was asked, and in whose name."""

    interface: str = Field(description="Our interface.")
    network: str = Field(description="The /24.")
    address: str = Field(description="Our own address, in whose name was asked.")


class NetdiscoverResult(ToolResult):
    """Who spoke on our links."""

    mode: Literal["active", "passive"] = Field(description="How it was found.")
    hosts: tuple[NetdiscoverHost, ...] = Field(description="Who spoke, by address.")
    left_out: int = Field(0, description="Hosts beyond those listed; the evidence has them.")
    links: tuple[NetdiscoverLink, ...] = Field((), description="Networks that were asked.")
    duplicates: tuple[Duplicate, ...] = Field((), description="Addresses that several MACs claim.")
    shared_macs: tuple[SharedMac, ...] = Field((), description="MACs that speak for several addresses.")
    planned: int = Field(0, description="Addresses that were to be asked.")
    attempted: int = Field(0, description="Addresses asked; less than planned when netdiscover was cut off.")
    answered: int = Field(description="Addresses asked that answered; passive: addresses heard.")
    not_asked: tuple[str, ...] = Field((), description="Targets netdiscover cannot ask from here.")
    complete: bool = Field(description="Whether all was asked, or listened to the end.")
    packets_per_second: int = Field(description="The share of the site's budget that was held; passive: 0.")
    duration: float = Field(description="Duration, seconds.")
    evidence: tuple[FileRef, ...] = Field((), description="netdiscover's output.")
    notes: tuple[str, ...] = Field((), description="What a reader must know.")

    def headline(self) -> str:
        if self.mode == "passive":
            text = f"{count(self.answered, 'address', 'addresses')} heard in {self.duration:.0f} s"
        else:
            text = f"{self.answered} of {count(self.planned, 'address', 'addresses')} answered ARP"
        if self.duplicates:
            text += f"; {len(self.duplicates)} claimed by several MACs"
        if self.complete:
            return text
        return f"{text}; INCOMPLETE" + (f": {self.attempted} asked" if self.mode == "active" else "")


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    programs=("netdiscover", "ip"),
    examples=[
        Example("Who is on this link", {"targets": ["192.168.1.0/24"]}),
        Example("Who speaks, without sending anything", {"mode": "passive", "interface": "eth0", "duration": 300}),
    ],
)
async def netdiscover(params: Netdiscover) -> NetdiscoverResult:
    """Find hosts on our own links by ARP, asking or only listening, with netdiscover.

    netdiscover knows networks of 256 addresses and asks in the name of an address there, so active mode asks only where our own address
    is: in the /24 of each link that holds it, and there exactly the addresses policy allows. Passive mode hears hosts that announce
    themselves or ask for others, silent ones never. Both put the interface into promiscuous mode while they run.

    Raises:
        MissingProgram: netdiscover or ip is not installed, or netdiscover would not be root with CAP_NET_RAW.
        InvalidParameters: There is no such Ethernet interface.
        Refused: Policy does not let the interface be captured, or not for so long.
        Unreachable: No target is in a /24 of ours.
        ToolTimeout: It was ended before anything was heard.
        CommandFailed: netdiscover failed before anything was heard.
    """
    run = current_run()
    program = find_program("netdiscover")
    # It looks at the user, not at capabilities, and then needs the capability all the same.
    if os.geteuid() != 0 and os.getuid() != 0:
        raise MissingProgram("netdiscover runs for root only; a capability does not do.", hint=INSTEAD)
    if not may_send_raw(program):
        raise MissingProgram(
            "ARP needs CAP_NET_RAW, which netdiscover would not have.", hint=f"To get it: {HOW_TO_GET_IT}"
        )
    if params.interface is not None:
        return await _Discovery(params, run).listen(params.interface)
    return await _Discovery(params, run).ask()


class _Discovery:
    """One call of the tool: what its runs have brought so far."""

    def __init__(self, params: Netdiscover, run: ToolRun) -> None:
        self.params, self.run = params, run
        self.started = time.monotonic()
        self.ends = self.started + min(params.deadline(), TIMEOUT_SECONDS) - REPORTING_SECONDS
        self.share = min(run.packets_per_second, params.max_rate) if run.grant is not None else 0
        self.heard: dict[tuple[str, str, str], NetdiscoverHost] = {}
        self.asked: set[str] = set()
        self.links: list[NetdiscoverLink] = []
        self.not_asked: dict[str, str] = {}
        self.evidence: list[FileRef] = []
        self.notes: dict[str, None] = {}
        self.trouble: ToolError | None = None
        self.planned = self.attempted = 0

    async def listen(self, interface: str) -> NetdiscoverResult:
        """Hear who speaks."""
        policy = self.run.policy
        if interface == ANY:
            raise InvalidParameters("netdiscover listens on one Ethernet interface, not on any.")
        check_interface(interface, policy)
        kind = await asyncio.to_thread(_kind, interface)
        if kind != _ETHERNET:
            raise InvalidParameters(f"{interface} is no Ethernet interface: there is no ARP to hear.")
        if self.params.duration > policy.capture_max_seconds:
            raise Refused(
                f"The policy of site {policy.site!r} allows listening for {policy.capture_max_seconds} s, "
                f"not {self.params.duration:g}.",
                hint=f"Ask for less, or raise capture_max_seconds of the block policy/{policy.site}.",
            )
        outcome = await listen(interface, self.params.duration)
        if outcome.ended and outcome.trouble is None:
            # It listens for ever; the interface went away.
            self._cut_off(Unreachable(f"netdiscover ended by itself: is {interface} still there?"))
        await self._take(outcome, interface)
        return self._result()

    async def ask(self) -> NetdiscoverResult:
        """Ask every allowed address of our own /24s."""
        grant = self.run.grant
        if grant is None:
            raise RuntimeError("netdiscover asked without a grant")
        for missing in grant.unresolved:
            self.notes[f"{missing.asked}: {missing.error.message}"] = None
        networks = [ipaddress.ip_network(text) for text in (*grant.networks, *grant.addresses)]
        found = await split(network for network in networks if isinstance(network, ipaddress.IPv4Network))
        self.not_asked |= found.far
        self.not_asked |= {
            str(network).removesuffix("/128"): "ARP is for IPv4" for network in networks if network.version == 6
        }
        blocks = list(self._blocks(found.near))
        if not blocks:
            where = "; ".join(f"{text}: {why}" for text, why in list(self.not_asked.items())[:4])
            raise Unreachable(f"netdiscover can ask nobody from here: {where}.", hint=INSTEAD)
        self.planned = sum(len(hosts) for _, _, hosts in blocks)
        for link, block, hosts in blocks:
            if self.trouble is None:
                await self._ask(link, block, hosts)
        return self._result()

    def _blocks(
        self, near: dict[Link, list[ipaddress.IPv4Network]]
    ) -> Iterator[tuple[Link, ipaddress.IPv4Network, list[int]]]:
        """What to ask: for each link the /24 of our own address there, and of that the addresses that are allowed."""
        for link, networks in near.items():
            block = ipaddress.IPv4Network(f"{link.address}/24", strict=False)
            never = {link.address, str(link.network.network_address), str(link.network.broadcast_address)}
            # netdiscover itself never asks for these two.
            never |= {str(block.network_address), str(block.broadcast_address)}
            hosts: set[int] = set()
            for network in networks:
                if network.subnet_of(block) or block.subnet_of(network):
                    within = network if network.subnet_of(block) else block
                    hosts |= {int(address) & 255 for address in within if str(address) not in never}
                if not network.subnet_of(block):
                    self.not_asked[str(network)] = (
                        f"of {link.interface} netdiscover can ask {block} alone, where our own address {link.address} is"
                    )
            if hosts:
                yield link, block, sorted(hosts)

    async def _ask(self, link: Link, block: ipaddress.IPv4Network, hosts: list[int]) -> None:
        pause_ms = math.ceil(1000 / self.share)
        expected = START_SECONDS + 1.1 * len(hosts) * self.params.count * pause_ms / 1000
        limit = min(self.ends - time.monotonic(), 2 * expected + MARGIN_SECONDS)
        if limit < START_SECONDS:
            self._cut_off(
                ToolTimeout("The deadline came before everything was asked.", hint="Ask for fewer addresses.")
            )
            return
        self.links.append(NetdiscoverLink(interface=link.interface, network=str(block), address=link.address))
        self.asked |= {str(block[host]) for host in hosts}
        outcome = await ask(
            link.interface,
            block,
            hosts,
            ours=int(ipaddress.IPv4Address(link.address)) & 255,
            pause_ms=pause_ms,
            count=self.params.count,
            timeout=limit,
        )
        if not outcome.ended:
            self._cut_off(ToolTimeout(f"netdiscover was ended after {limit:.0f} s.", hint="Ask for fewer addresses."))
        elif outcome.trouble is None:
            self.attempted += len(hosts)
        await self._take(outcome, link.interface)

    async def _take(self, outcome: Outcome, interface: str) -> None:
        if outcome.trouble is not None:
            self._cut_off(outcome.trouble)
        for one in outcome.heard:
            if one.address == "0.0.0.0":  # noqa: S104 - no address to bind to
                self.notes[f"{one.mac} asked before it took an address (RFC 5227)."] = None
            else:
                host = _host(one, interface, asked=one.address in self.asked)
                self.heard.setdefault((one.address, one.mac, interface), host)
        if outcome.output.strip():
            store = await self.run.store()
            today = datetime.now(UTC).strftime("%Y-%m-%d")
            name = f"netdiscover/{today}/{self.run.id}-{self.run.attempt}-{len(self.evidence) + 1:02d}.txt"
            self.evidence.append(self.run.file_ref(await asyncio.to_thread(store.write, name, outcome.output)))

    def _cut_off(self, error: ToolError) -> None:
        self.trouble = error
        self.notes[f"Cut off: {error.message}"] = None

    def _result(self) -> NetdiscoverResult:
        """Make the result; raises what went wrong when there is nothing to show."""
        if self.trouble is not None and not self.heard and not self.attempted:
            raise self.trouble
        passive = self.params.mode == "passive"
        hosts = sorted(self.heard.values(), key=lambda host: (ipaddress.ip_address(host.address), host.mac))
        pairs = [ArpHost(address=host.address, mac=host.mac, interface=host.interface) for host in hosts]
        if self.not_asked:
            self.notes |= {f"{text}: {why}": None for text, why in list(self.not_asked.items())[:10]}
            self.notes[INSTEAD] = None
        return NetdiscoverResult(
            mode=self.params.mode,
            hosts=tuple(hosts[:MOST_HOSTS]),
            left_out=max(0, len(hosts) - MOST_HOSTS),
            links=tuple(self.links),
            duplicates=duplicates(pairs)[:50],
            shared_macs=_short(shared_macs(pairs)),
            planned=self.planned,
            attempted=self.attempted,
            answered=len({host.address for host in hosts if host.asked or passive}),
            not_asked=tuple(self.not_asked)[:50],
            complete=self.trouble is None,
            packets_per_second=self.share,
            duration=round(time.monotonic() - self.started, 3),
            evidence=tuple(self.evidence),
            notes=tuple(self.notes)[:20],
        )


def _host(one: Heard, interface: str, *, asked: bool) -> NetdiscoverHost:
    vendor = find_vendor(one.mac)
    return NetdiscoverHost(
        address=one.address,
        mac=one.mac,
        vendor=vendor,
        other_vendor=one.vendor if one.vendor and not same_maker(one.vendor, vendor) else None,
        locally_administered=is_local(one.mac),
        asked=asked,
        interface=interface,
    )


def same_maker(one: str, other: str | None) -> bool:
    """Whether two tables mean the same maker: they write it differently, but begin alike.

    >>> same_maker("Cisco Systems", "CISCO SYSTEMS, INC."), same_maker("Axis Communications AB", None)
    (True, False)
    """
    first = [re.findall(r"[a-z0-9]+", name.lower())[:1] for name in (one, other or "")]
    return bool(first[0]) and first[0] == first[1]


def _short(shared: Iterable[SharedMac]) -> tuple[SharedMac, ...]:
    """Lists that the ledger has room for: a proxy may speak for a whole network."""
    return tuple(SharedMac(mac=entry.mac, addresses=entry.addresses[:50]) for entry in list(shared)[:20])


def _kind(interface: str) -> str:
    try:
        return Path("/sys/class/net", interface, "type").read_text().strip()
    except OSError:
        return ""
