"""How fast nmap may go, how long it will take, and how service detection is cut into slices that keep the budget.

The budget counts packets *we originate*; nmap's `--max-rate` counts probes. What one probe costs was measured in the lab (tcpdump on our
interface, nmap 7.93):

- a SYN probe of an open port costs 2: the SYN, and the RST our kernel sends for the answer; plus an ARP request per host on our link;
- a connect probe of an open port costs 3: SYN, ACK, RST; plus the ARP request;
- host discovery costs 1 for each probe, 1.6 where a host answers nothing but the SYNs;
- `-sV` and `-O` ignore `--max-rate`. One port under `-sV --version-intensity 2` takes 6 (a banner) to 26 packets (a TLS server) in its
  worst five seconds; one host under `-O --max-os-tries 1` takes 33 in under two seconds.

So the SYN, connect and discovery phases get `--max-rate` = share / cost, and `-sV` and `-O` run in slices of as many ports (hosts) as fit
the share even if each is as bad as the worst one measured, the next slice only when the last five seconds have room for it. A paced banner
reader of our own was the other choice: it would keep any rate exactly, but it would not know what nmap knows about 12,000 services, and at
the usual shares (some hundreds a second) a slice holds dozens of ports, which detection waits for at the same time: 6 s for each web
server, 40 s for each port that says nothing, however many of them a slice holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Profile = Literal["sweep", "ports", "services", "os"]

WINDOW_SECONDS = 5.0
"""The budget holds in every window of this length."""
SWEEP_PROBES = 5
"""Probes of one address: echo request, SYN to three ports, ACK to one."""
RETRIES = 2
SERVICE_PACKETS = 32
"""Most packets that detecting the service of one port takes: 26 seen, and room."""
OS_PACKETS = 40
"""Most packets that guessing the system of one host takes: 33 seen, and room."""
SERVICE_SECONDS = 45.0
"""Longest a slice of service detection takes: a port that never says a word takes 41 s."""
OS_SECONDS = 15.0
SLICE_PART = 0.4
"""Part of a window's packets that the work of one slice may take."""
AGAIN_PART = 0.3
"""Part of the share at which nmap looks at a slice's ports again before its work; the rest is for the end of the slice before."""
HOST_SLICE_PART = 0.8
"""Part of a host's cap for the work of one slice; the rest is for looking at its ports again."""
OPEN_PORTS_EXPECTED = 5
"""Open ports a host is thought to have, for predictions."""
START_SECONDS = 5.0
HOST_GROUP = 64
"""Hosts nmap scans together; a run that is cut off loses the group it was at."""


def probe_rate(profile: Profile, packets_per_second: int, *, raw: bool, ports: int) -> int:
    """The `--max-rate` at which nmap originates at most `packets_per_second` packets in its discovery or port scan phase."""
    # Unprivileged discovery is connects; its probes are so few that the ARP request for each host counts.
    sweep, scan = (1.6, 2.0) if raw else (4.0, 3.0)
    cost = sweep if profile == "sweep" else scan + 1 / max(ports, 1)
    return max(1, math.floor(packets_per_second / cost))


def scan_delay_ms(host_packets_per_second: int) -> int:
    """The `--scan-delay` that keeps probes of one host within its own cap; 0 for no cap. Answers to open ports are few and not counted."""
    return math.ceil(1000 / host_packets_per_second) if host_packets_per_second > 0 else 0


@dataclass(frozen=True)
class Prediction:
    """What a run will cost at most.

    Attributes:
        packets: Packets sent, when nothing answers and every probe is repeated.
        seconds: Duration at the given share.
    """

    packets: int
    seconds: float


def predict(
    profile: Profile,
    addresses: int,
    *,
    ports: int = 100,
    live: int | None = None,
    packets_per_second: int = 1000,
    host_packets_per_second: int = 40,
    raw: bool = True,
    discovery: bool = True,
) -> Prediction:
    """Predict packets and duration of a run, on the high side.

    Args:
        profile: What is asked.
        addresses: Addresses that are swept.
        ports: Ports of each live host.
        live: Hosts that are up; None when unknown: all of them.
        packets_per_second: The held share of the budget.
        host_packets_per_second: The cap for one host; 0 for none.
        raw: Whether raw packets may be sent.
        discovery: Whether hosts are looked for first.
    """
    live = addresses if live is None else live
    share = max(packets_per_second, 1)
    packets, seconds = 0, START_SECONDS
    if profile == "sweep" or discovery:
        swept = addresses * SWEEP_PROBES * (1 + RETRIES)
        packets += swept
        # The rate of probes, not of packets: most addresses do not answer, and then a probe is one packet.
        seconds += swept / probe_rate("sweep", share, raw=raw, ports=0)
    if profile != "sweep":
        probes = live * ports * (1 + RETRIES)
        delay = scan_delay_ms(host_packets_per_second) / 1000
        packets += probes
        groups = math.ceil(live / HOST_GROUP)
        seconds += max(
            probes / probe_rate("ports", share, raw=raw, ports=ports), groups * ports * (1 + RETRIES) * delay
        )
    expected = live * min(ports, OPEN_PORTS_EXPECTED)
    if profile == "services":
        packets += expected * SERVICE_PACKETS
        seconds += math.ceil(expected / most_at_once(share, SERVICE_PACKETS)) * SERVICE_SECONDS
    if profile == "os":
        packets += live * OS_PACKETS
        seconds += math.ceil(live / most_at_once(share, OS_PACKETS)) * OS_SECONDS
    return Prediction(packets, round(seconds, 1))


def most_at_once(packets_per_second: int, packets_each: int, *, part: float = SLICE_PART) -> int:
    """How many ports (hosts) one slice may hold; one at least, which `Window` then spaces."""
    return max(1, int(packets_per_second * WINDOW_SECONDS * part) // packets_each)


# --- slices ------------------------------------------------------------------------------------------------------------


@dataclass
class Slice:
    """Hosts and ports of one run of service detection; nmap looks at every open one of `ports` on each of `hosts`."""

    hosts: set[str] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def probes(self, open_ports: Mapping[str, frozenset[int]]) -> dict[str, int]:
        """Open ports that are looked at, by host."""
        return {host: len(open_ports[host] & self.ports) for host in self.hosts}


def cut(
    open_ports: Mapping[str, Iterable[int]], *, most: int, most_per_host: int, most_ports: int = 65535
) -> list[Slice]:
    """Cut open ports into slices: at most `most` in one, at most `most_per_host` of one host, `most_ports` different ones.

    >>> [(sorted(s.hosts), sorted(s.ports)) for s in cut({"a": [22, 80], "b": [80]}, most=3, most_per_host=2)]
    [(['a', 'b'], [22, 80])]
    >>> [(sorted(s.hosts), sorted(s.ports)) for s in cut({"a": [22, 80], "b": [80]}, most=1, most_per_host=1)]
    [(['a'], [22]), (['a'], [80]), (['b'], [80])]
    """
    known = {host: frozenset(ports) for host, ports in open_ports.items()}
    step = max(1, min(most, most_per_host, most_ports))
    rows: list[tuple[list[int], str]] = []
    for host, ports in known.items():
        ordered = sorted(ports)
        rows += [(ordered[at : at + step], host) for at in range(0, len(ordered), step)]
    slices: list[Slice] = []
    # Alike port lists next to each other: a slice asks each of its hosts for all of its ports.
    for chunk, host in sorted(rows):
        for place in slices:
            grown = Slice(place.hosts | {host}, place.ports | set(chunk))
            probes = grown.probes(known)
            fits = sum(probes.values()) <= most and max(probes.values()) <= step and len(grown.ports) <= most_ports
            if host not in place.hosts and fits:
                place.hosts, place.ports = grown.hosts, grown.ports
                break
        else:
            slices.append(Slice({host}, set(chunk)))
    return slices


class Window:
    """Lets bursts through so that no five seconds see more than the share, and no host more than its cap.

    A burst counts from its start until five seconds after its end: when in that time its packets are sent is not ours to say.

    Args:
        packets_per_second: The held share.
        host_packets_per_second: The cap for one host; 0 for none.
    """

    def __init__(self, packets_per_second: int, host_packets_per_second: int = 0) -> None:
        self.most = packets_per_second * WINDOW_SECONDS
        self.most_per_host = host_packets_per_second * WINDOW_SECONDS if host_packets_per_second else math.inf
        self._past: list[tuple[float, float, frozenset[str], float]] = []

    @contextlib.asynccontextmanager
    async def burst(self, packets: float, hosts: Iterable[str] = (), packets_each: float = 0) -> AsyncIterator[None]:
        """Wait until there is room for `packets`, of which any of `hosts` gets `packets_each`, and count them."""
        to = frozenset(hosts)
        while self._past:
            horizon = time.monotonic() - WINDOW_SECONDS
            self._past = [past for past in self._past if past[0] > horizon]
            spent = sum(past[1] for past in self._past)
            spent_each = sum(past[3] for past in self._past if past[2] & to)
            # A burst too large for any window goes alone: it is one port or host, and nmap cannot be asked for less.
            if spent + packets <= self.most and (not spent_each or spent_each + packets_each <= self.most_per_host):
                break
            if self._past:
                await asyncio.sleep(max(self._past[0][0] - horizon, 0) + 0.001)
        try:
            yield
        finally:
            self._past.append((time.monotonic(), packets, to, packets_each))
