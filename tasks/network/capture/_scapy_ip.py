"""The probes that go to hosts over IP, in the child process: TCP SYN, ICMP timestamp, TCP traceroute, MTU, declared packets."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from tasks.network.capture import _scapy_wire as wire
from tasks.network.capture._scapy_exchange import Exchange, Shot
from tasks.network.capture._scapy_order import Order, Outcome, Probe, Report, Target
from tasks.network.capture._scapy_packet import Declared
from tasks.network.capture._scapy_read import layers_of
from tasks.network.capture._scapy_wire import reserved_port, source_for, version_of

HOPS_AT_ONCE = 4
"""Hops of a traceroute asked at once: more would only go on to where the target has answered already."""
LEAST_MTU = {4: 68, 6: 1280}  # RFC 791, RFC 8200
_ECHO_HEADERS = {4: 28, 6: 48}


def _ip(target: Target, source: str, ttl: int | None = None) -> Packet:
    """The IP header of a packet to a target."""
    packet: Packet
    if version_of(target.address) == 4:
        packet = IP(src=source, dst=target.address, id=secrets.randbelow(0x10000))
        packet.ttl = ttl or 64
    else:
        packet = IPv6(src=source, dst=target.address)
        packet.hlim = ttl or 64
    return packet


def _sources(order: Order, report: Report, lost: Callable[[Target], dict[str, Any]]) -> dict[Target, str]:
    """Our own address on the way to each target; targets there is no way to are reported."""
    found: dict[Target, str] = {}
    for target in order.targets:
        source = source_for(target.address)
        if source is None:
            report.answers.append(lost(target))
        else:
            found[target] = source
    return found


def _no_route(target: Target) -> dict[str, Any]:
    shot = Shot(target, Raw())
    shot.outcome, shot.detail = Outcome.UNREACHABLE, "not sent: this machine has no route to it"
    return shot.row()


def _work(protocols: frozenset[int], body: Callable[[Exchange, Report], Awaitable[None]]) -> Callable[[Order], Report]:
    """Make the function that carries out an order from its body."""

    def carry_out(order: Order) -> Report:
        async def run() -> Report:
            report, exchange = Report(), Exchange(order, protocols)
            with exchange.wire:
                await body(exchange, report)
            report.sent = exchange.wire.sent
            report.complete = not exchange.over
            return report

        return asyncio.run(run())

    return carry_out


# --- the probes ------------------------------------------------------------------------------------------------------


async def _tcp_syn(exchange: Exchange, report: Report) -> None:
    """SYN to every port of every target, port by port, so that no host gets many at once."""
    order = exchange.order
    sources = _sources(order, report, _no_route)
    shots: list[Shot] = []
    with contextlib.ExitStack() as stack:
        sports = _ports_of(stack, order, socket.SOCK_STREAM)
        for port in order.ports:
            for target, source in sources.items():
                shots.append(Shot(target, _syn(target, source, sports[version_of(target.address)], port), port))
        for attempt in range(order.count):
            again = [shot for shot in shots if not shot.settled]
            for shot in again:
                if attempt:
                    shot.packet.payload.seq = secrets.randbits(32)
                await exchange.send(shot, packets=2)  # the kernel resets what opens
            await exchange.settle(again, order.wait)
    for shot in shots:
        inner = shot.heard
        if inner is not None:
            shot.outcome = Outcome.OPEN if inner.flags.S and inner.flags.A else Outcome.CLOSED
            shot.detail = _tcp_manner(inner) if shot.outcome is Outcome.OPEN else "reset"
    report.answers += [shot.row() for shot in shots]


def _syn(target: Target, source: str, sport: int, port: int, ttl: int | None = None) -> Packet:
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    segment = TCP(sport=sport, dport=port, flags="S", seq=secrets.randbits(32), window=64240, options=options)
    return _ip(target, source, ttl) / segment


def _tcp_manner(segment: Packet) -> str:
    """How a stack opens: window and options tell systems apart."""
    names = ",".join(str(name) for name, _ in segment.options)
    return f"window {segment.window}; options {names or 'none'}"


def _ports_of(stack: contextlib.ExitStack, order: Order, kind: int) -> dict[int, int]:
    versions = sorted({version_of(target.address) for target in order.targets})
    return {version: stack.enter_context(reserved_port(version, kind)) for version in versions}


async def _icmp_timestamp(exchange: Exchange, report: Report) -> None:
    """ICMP timestamp (RFC 792): what time a host thinks it is, in milliseconds since midnight UTC."""
    order = exchange.order
    sources = _sources(order, report, _no_route)
    identifier = secrets.randbelow(0x10000)
    shots: list[Shot] = []
    for number in range(order.count):
        for place, (target, source) in enumerate(sources.items()):
            packet = _ip(target, source) / ICMP(type=13, id=identifier, seq=number * 256 + place)
            packet[ICMP].ts_ori = int(time.time() * 1000) % 86_400_000
            packet[ICMP].ts_rx = packet[ICMP].ts_tx = 0
            shots.append(Shot(target, packet))
            await exchange.send(shots[-1])
    await exchange.settle(shots, order.wait)
    for shot in shots:
        if shot.outcome is Outcome.ANSWERED and isinstance(shot.heard, ICMP) and shot.heard.type == 14:
            shot.detail = _clock(shot)
    report.answers += [shot.row() for shot in shots]


def _clock(shot: Shot) -> str:
    """How far a host's clock is from ours, from the middle of question and answer."""
    assert shot.heard is not None and shot.sent_at is not None and shot.rtt_ms is not None
    theirs = int(shot.heard.ts_tx)
    if theirs & 0x80000000:  # RFC 792: not in milliseconds since midnight
        return "its clock does not count milliseconds since midnight"
    ours = (shot.sent_at * 1000 + shot.rtt_ms / 2) % 86_400_000
    apart = (theirs - ours + 43_200_000) % 86_400_000 - 43_200_000
    return f"clock {abs(apart) / 1000:.3f} s {'ahead of' if apart >= 0 else 'behind'} ours"


async def _tcp_traceroute(exchange: Exchange, report: Report) -> None:
    """The way to a TCP port: SYNs that live for one hop more each, until the target itself answers."""
    order = exchange.order
    (port,) = order.ports
    sources = _sources(order, report, _no_route)
    with contextlib.ExitStack() as stack:
        sports = _ports_of(stack, order, socket.SOCK_STREAM)
        open_ones = list(sources)
        for first in range(1, order.hops + 1, HOPS_AT_ONCE):
            window = range(first, min(first + HOPS_AT_ONCE, order.hops + 1))
            shots: dict[Target, list[Shot]] = {target: [] for target in open_ones}
            for ttl in window:
                for _ in range(order.count):
                    for target in open_ones:
                        # All from one port: routers that spread traffic send them the same way.
                        sport = sports[version_of(target.address)]
                        shots[target].append(Shot(target, _syn(target, sources[target], sport, port, ttl), port, ttl))
                        await exchange.send(shots[target][-1], packets=2)
            await exchange.settle([shot for some in shots.values() for shot in some], order.wait)
            for target, some in shots.items():
                if _note_hops(target, some, report):
                    open_ones.remove(target)
            if not open_ones or exchange.over:
                break


def _note_hops(target: Target, shots: list[Shot], report: Report) -> bool:
    """Note what was heard of some hops; returns whether the way ends there."""
    for shot in shots:
        if shot.outcome is Outcome.ANSWERED and shot.heard is not None:
            opened = shot.heard.flags.S and shot.heard.flags.A
            shot.outcome = Outcome.OPEN if opened else Outcome.CLOSED
    ended = [shot for shot in shots if shot.settled and shot.outcome is not Outcome.EXCEEDED]
    last = min((shot.ttl or 0 for shot in ended), default=None)
    for shot in shots:
        if last is None or (shot.ttl or 0) <= last:
            report.hops.append(
                {
                    "target": target.asked,
                    "ttl": shot.ttl,
                    "address": shot.by,
                    "rtt_ms": shot.rtt_ms,
                    "outcome": shot.outcome,
                    "detail": shot.detail,
                }
            )
    return last is not None


async def _mtu(exchange: Exchange, report: Report) -> None:
    """The largest packet that gets through unfragmented: echo requests of a size found by halving, and by what routers say."""
    order = exchange.order
    sources = _sources(order, report, _no_route)
    identifier = secrets.randbelow(0x10000)
    numbers = iter(range(1, 0x10000))

    async def one(target: Target, source: str) -> None:
        report.paths.append(await _measure(exchange, target, source, identifier, numbers))

    async with asyncio.TaskGroup() as group:
        for target, source in sources.items():
            group.create_task(one(target, source))
    names = [target.asked for target in order.targets]
    report.paths.sort(key=lambda path: names.index(path["target"]))


async def _measure(
    exchange: Exchange, target: Target, source: str, identifier: int, numbers: Iterator[int]
) -> dict[str, Any]:
    order, version = exchange.order, version_of(target.address)
    tried: dict[int, Shot] = {}

    async def passes(size: int) -> bool:
        for _ in range(order.count):
            shot = Shot(target, _echo(target, source, identifier, next(numbers), size))
            await exchange.send(shot)
            await exchange.settle([shot], order.wait)
            tried[size] = shot
            if shot.outcome is not Outcome.NO_ANSWER:
                break
        return tried[size].outcome is Outcome.ANSWERED

    least, most = LEAST_MTU[version], max(order.largest, LEAST_MTU[version])
    path: dict[str, Any] = {
        "target": target.asked,
        "address": target.address,
        "mtu": None,
        "limited_by": None,
        "detail": None,
    }
    if await passes(most):
        path |= {"mtu": most, "detail": "the largest size that was asked for" if most == order.largest else None}
    elif not await passes(least):
        path["detail"] = tried[least].detail or "no answer to echo requests of any size"
    else:
        low, high = least, most
        hint = tried[most].mtu
        while high - low > 1 and not exchange.over:
            # A router's word is tried first: when it is true, two more packets settle it.
            size = hint if hint is not None and low < hint < high else (low + high) // 2
            if await passes(size):
                low, hint = size, (size + 1 if size == hint else None)
            else:
                high, hint = size, tried[size].mtu
        limit = tried[high]
        path |= {"mtu": low, "limited_by": limit.by, "detail": limit.detail}
        if limit.outcome is Outcome.NO_ANSWER:
            path["detail"] = "larger packets vanish: nobody says that they are too large"
        if exchange.over:
            path["detail"] = "the time was up before the size was exact"
    return path


def _echo(target: Target, source: str, identifier: int, number: int, size: int) -> Packet:
    """An echo request that is `size` bytes long with its IP header, and may not be fragmented."""
    data = bytes(size - _ECHO_HEADERS[version_of(target.address)])
    if version_of(target.address) == 4:
        header = _ip(target, source)
        header.flags = "DF"
        return header / ICMP(type=8, id=identifier, seq=number) / Raw(data)
    return _ip(target, source) / ICMPv6EchoRequest(id=identifier, seq=number, data=data)


async def _packet(exchange: Exchange, report: Report) -> None:
    """A declared packet, some times, to every target."""
    order = exchange.order
    declared = {version: Declared(order.layers, version) for version in {version_of(t.address) for t in order.targets}}
    sources = _sources(order, report, _no_route)
    shots: list[Shot] = []
    with contextlib.ExitStack() as stack:
        sports: dict[tuple[int, str], int] = {}
        for version, packet in declared.items():
            if packet.transport in {"TCP", "UDP"}:
                kind = socket.SOCK_STREAM if packet.transport == "TCP" else socket.SOCK_DGRAM
                sports[version, packet.transport] = stack.enter_context(reserved_port(version, kind))
        identifier = secrets.randbelow(0x10000)
        for number in range(order.count):
            for target, source in sources.items():
                version = version_of(target.address)
                packet = declared[version]
                filled = {
                    "TCP": {"sport": sports.get((version, "TCP"), 0), "seq": secrets.randbits(32)},
                    "UDP": {"sport": sports.get((version, "UDP"), 0)},
                }.get(packet.transport, {"id": identifier, "seq": number})
                one = packet.to(source, target.address, filled)
                shots.append(Shot(target, one, getattr(one.payload, "dport", None)))
                await exchange.send(shots[-1], packets=2 if packet.transport == "TCP" else 1)
        await exchange.settle(shots, order.wait)
    for shot in shots:
        if shot.outcome is Outcome.ANSWERED and isinstance(shot.heard, TCP):
            shot.detail = f"flags {shot.heard.flags}"
        report.answers.append(shot.row() | {"layers": layers_of(shot.heard)})


_NO_TRANSPORT: frozenset[int] = frozenset()
PROBES: dict[Probe, Callable[[Order], Report]] = {
    Probe.TCP_SYN: _work(frozenset({wire.TCP}), _tcp_syn),
    Probe.ICMP_TIMESTAMP: _work(_NO_TRANSPORT, _icmp_timestamp),
    Probe.TCP_TRACEROUTE: _work(frozenset({wire.TCP}), _tcp_traceroute),
    Probe.MTU: _work(_NO_TRANSPORT, _mtu),
    Probe.PACKET: _work(frozenset({wire.TCP, wire.UDP}), _packet),
}
