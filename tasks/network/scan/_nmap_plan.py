"""How fast nmap may go, how long it will take, and how a scan is cut into steps that keep the budget.

The budget counts packets *we originate* in any five seconds. nmap keeps it by none of its options alone; measured in the lab (tcpdump on
our interface, nmap 7.93):

- `--max-rate` counts probes. A SYN probe of an open port costs 2 packets (the SYN, and the RST our kernel sends for the answer), a connect
  probe 3, and each host on our link an ARP request besides.
- `--max-rate` is an average since the start of a host group: what was not sent while waiting for answers is caught up at once. A sweep of
  hosts that answer TCP only sent 390 echo requests in five seconds at `--max-rate 60`.
- `--scan-delay` is kept strictly, per host. `--max-hostgroup` does not hold for host discovery.
- `-sV` and `-O` ignore `--max-rate`. One port under `-sV --version-intensity 2` takes 6 (a banner) to 26 packets (a TLS server) in its
  worst five seconds; one host under `-O --max-os-tries 1` takes 33 in under two seconds.

So every step has a bound on its packets: a sweep is cut into chunks, service and system detection into slices, each with room for the worst
that was measured; `Window` starts a step only when the last five seconds have room for all of it. A port scan too large for that runs in
host groups of n with a `--scan-delay` that n hosts cannot exceed the share with.

A paced banner reader of our own was the other choice for services: it would keep any rate exactly, but not know what nmap knows of 12,000
services. At the usual shares (hundreds a second) a slice holds dozens of ports, for which nmap waits at the same time: 6 s for a web
server, 41 s for a port that says nothing, however many of them there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Profile = Literal["sweep", "ports", "services", "os"]

WINDOW_SECONDS = 5.0
"""The budget holds in every window of this length."""
PART = 0.45
"""Part of a window's packets that one chunk or slice may take: two that touch then fit into one window."""
RETRIES = 2
"""Retries of a port probe."""
SWEEP_RETRIES = 1
"""Retries of a discovery probe: five different ones are two tries each, ten chances to answer."""
SWEEP_PACKETS = 13
"""Most packets that asking one address whether it is up takes: five probes twice, and three RSTs."""
SWEEP_PACKETS_CONNECT = 18
ARP_PACKETS = 3
"""Most packets that asking one address on our own link takes: two ARP requests, and room."""
PROBE_PACKETS = 3
"""Most packets of one port: three tries of a filtered one, or SYN, ACK and RST of an open one under connect."""
HOST_PACKETS = 4
"""What nmap and the kernel send each host besides: ARP requests, timing pings."""
SERVICE_PACKETS = 32
"""Most packets that detecting the service of one port takes: 26 seen, and room."""
SERVICE_SECONDS = 45.0
"""Longest a slice of service detection takes: a port that never says a word takes 41 s."""
OS_PACKETS = 40
"""Most packets that guessing the system of one host takes: 33 seen, and room."""
OS_SECONDS = 15.0
LARGEST_GROUP = 64
"""Most hosts nmap scans together; a run that is cut off loses the group it was at."""
SHORTEST_DELAY_MS = 20
OPEN_PORTS_EXPECTED = 5
"""Open ports a host is thought to have, for predictions."""
START_SECONDS = 5.0


def sweep_packets(raw: bool) -> int:
    """Most packets of asking one address whether it is up."""
    return SWEEP_PACKETS if raw else SWEEP_PACKETS_CONNECT


def port_packets(ports: int) -> int:
    """Most packets of asking one host for so many ports."""
    return ports * PROBE_PACKETS + HOST_PACKETS


def probe_rate(profile: Profile, packets_per_second: int, *, raw: bool, ports: int) -> int:
    """The `--max-rate` at which nmap sends at most `packets_per_second` on average."""
    sweep, scan = (1.6, 2.0) if raw else (4.0, 3.0)
    cost = sweep if profile == "sweep" else scan + 1 / max(ports, 1)
    return max(1, math.floor(packets_per_second / cost))


@dataclass(frozen=True)
class Pace:
    """How a port scan runs.

    Attributes:
        group: Hosts scanned together.
        delay_ms: `--scan-delay`; 0 for none.
        packets: Most packets in any window.
    """

    group: int
    delay_ms: int
    packets: float


def pace(hosts: int, ports: int, *, packets_per_second: int, host_packets_per_second: int, raw: bool) -> Pace:
    """Choose group size and delay of a port scan of `hosts` hosts."""
    most, each = packets_per_second * WINDOW_SECONDS, port_packets(ports)
    capped = bool(host_packets_per_second) and each > host_packets_per_second * WINDOW_SECONDS
    # Probes alone: answers of ours to open ports are few beside them.
    delay = math.ceil(1000 / host_packets_per_second) if capped else 0
    if hosts * each <= PART * most:
        return Pace(min(hosts, LARGEST_GROUP), delay, hosts * each)
    cost = (2.0 if raw else 3.0) + 1 / max(ports, 1)
    share = 0.85 * packets_per_second
    group = max(1, min(hosts, LARGEST_GROUP, int(share * max(delay, SHORTEST_DELAY_MS) / 1000 / cost)))
    return Pace(group, max(delay, math.ceil(1000 * group * cost / share)), 0.95 * most)


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
        swept = addresses * sweep_packets(raw)
        packets += swept
        seconds += swept / (share * PART)
    if profile != "sweep" and live:
        packets += live * port_packets(ports)
        way = pace(live, ports, packets_per_second=share, host_packets_per_second=host_packets_per_second, raw=raw)
        rounds = math.ceil(live / way.group)
        # What is delayed waits for the delay; the rest for the rate.
        seconds += rounds * (ports * PROBE_PACKETS * way.delay_ms / 1000 + 2.0)
        seconds += live * port_packets(ports) / share if not way.delay_ms else 0.0
    expected = live * min(ports, OPEN_PORTS_EXPECTED)
    budget = share * WINDOW_SECONDS * PART
    if profile == "services":
        packets += expected * SERVICE_PACKETS
        seconds += math.ceil(expected * SERVICE_PACKETS / budget) * SERVICE_SECONDS
    if profile == "os":
        packets += live * OS_PACKETS
        seconds += math.ceil(live * OS_PACKETS / budget) * OS_SECONDS
    return Prediction(packets, round(seconds, 1))


# --- chunks and slices -------------------------------------------------------------------------------------------------


def chunks(targets: Iterable[str], most: int) -> Iterator[tuple[list[str], int]]:
    """Cut prefixes and addresses into lists of at most `most` addresses, each with its number of addresses.

    >>> list(chunks(["10.0.0.0/30", "10.0.1.1", "10.0.1.2"], 3))
    [(['10.0.0.0/31'], 2), (['10.0.0.2/31', '10.0.1.1'], 3), (['10.0.1.2'], 1)]
    """
    most = max(most, 1)
    some: list[str] = []
    count = 0
    for text in targets:
        network = ipaddress.ip_network(text)
        step = min(network.num_addresses, 1 << (most.bit_length() - 1))
        for piece in network.subnets(new_prefix=network.max_prefixlen - (step.bit_length() - 1)):
            if count + step > most:
                yield some, count
                some, count = [], 0
            some.append(str(piece.network_address) if step == 1 else str(piece))
            count += step
    if some:
        yield some, count


@dataclass
class Slice:
    """Hosts and ports of one run of service detection; nmap looks at every open one of `ports` on each of `hosts`."""

    hosts: set[str] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def probes(self, open_ports: Mapping[str, frozenset[int]]) -> dict[str, int]:
        """Open ports that are looked at, by host."""
        return {host: len(open_ports[host] & self.ports) for host in self.hosts}

    def packets(self, open_ports: Mapping[str, frozenset[int]], each: int) -> int:
        """Most packets it takes: nmap looks at all of its ports again before its work, which takes `each` of an open one."""
        return len(self.hosts) * port_packets(len(self.ports)) + each * sum(self.probes(open_ports).values())

    def packets_of_one(self, open_ports: Mapping[str, frozenset[int]], each: int) -> int:
        """Most packets it sends to any one host."""
        return port_packets(len(self.ports)) + each * max(self.probes(open_ports).values(), default=0)


def cut(
    open_ports: Mapping[str, Iterable[int]], each: int, *, most: float, most_per_host: float = math.inf
) -> list[Slice]:
    """Cut open ports into slices of at most `most` packets, of them at most `most_per_host` to one host.

    One port is never cut further, whatever it takes.

    >>> [(sorted(s.hosts), sorted(s.ports)) for s in cut({"a": [22, 80], "b": [80]}, 32, most=200)]
    [(['a', 'b'], [22, 80])]
    >>> [(sorted(s.hosts), sorted(s.ports)) for s in cut({"a": [22, 80], "b": [80]}, 32, most=40)]
    [(['a'], [22]), (['a'], [80]), (['b'], [80])]
    """
    known = {host: frozenset(ports) for host, ports in open_ports.items()}
    step = max(1, int((min(most, most_per_host, 1 << 20) - HOST_PACKETS) // (each + PROBE_PACKETS)))
    rows: list[tuple[list[int], str]] = []
    for host, ports in known.items():
        ordered = sorted(ports)
        rows += [(ordered[at : at + step], host) for at in range(0, len(ordered), step)]
    slices: list[Slice] = []
    # Alike port lists next to each other: a slice asks each of its hosts for all of its ports.
    for chunk, host in sorted(rows):
        for place in slices:
            if host in place.hosts:
                continue
            grown = Slice(place.hosts | {host}, place.ports | set(chunk))
            if grown.packets(known, each) <= most and grown.packets_of_one(known, each) <= most_per_host:
                place.hosts, place.ports = grown.hosts, grown.ports
                break
        else:
            slices.append(Slice({host}, set(chunk)))
    return slices


class Window:
    """Lets steps through so that no five seconds see more than the share, and no host more than its cap.

    A step counts from its start until five seconds after its end: when in that time its packets are sent is not ours to say.

    Args:
        packets_per_second: The held share.
        host_packets_per_second: The cap for one host; 0 for none.
    """

    def __init__(self, packets_per_second: int, host_packets_per_second: int = 0) -> None:
        self.most = packets_per_second * WINDOW_SECONDS
        self.most_per_host = host_packets_per_second * WINDOW_SECONDS if host_packets_per_second else math.inf
        self._past: list[tuple[float, float, frozenset[str], float]] = []

    @contextlib.asynccontextmanager
    async def room(self, packets: float, hosts: Iterable[str] = (), packets_each: float = 0) -> AsyncIterator[None]:
        """Wait until there is room for `packets`, of which any of `hosts` gets `packets_each`, and count them."""
        to = frozenset(hosts)
        while True:
            horizon = time.monotonic() - WINDOW_SECONDS
            self._past = [past for past in self._past if past[0] > horizon]
            spent = sum(past[1] for past in self._past)
            spent_each = sum(past[3] for past in self._past if past[2] & to)
            free = spent + packets <= self.most and (not spent_each or spent_each + packets_each <= self.most_per_host)
            # A step too large for any window goes alone: it is one port or host, and nmap cannot be asked for less.
            if free or not self._past:
                break
            await asyncio.sleep(self._past[0][0] - horizon + 0.001)
        try:
            yield
        finally:
            self._past.append((time.monotonic(), packets, to, packets_each))
