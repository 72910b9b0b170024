"""Packets under way and the answers that find them, in the child process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from scapy.layers.inet import ICMP, TCP, UDP, icmpcodes, icmptypes
from scapy.layers.inet6 import ICMPv6EchoReply, icmp6types
from scapy.packet import Packet

from tasks.network.capture import _scapy_wire as wire
from tasks.network.capture._scapy_order import Order, Outcome, Target
from tasks.network.capture._scapy_wire import Heard, Wire, version_of

_FILTERED = {(4, 3, 9), (4, 3, 10), (4, 3, 13), (6, 1, 1), (6, 1, 5)}

Key = tuple[str, str, int, int]


@dataclass(slots=True)
class Shot:
    """One packet and what became of it."""

    target: Target
    packet: Packet
    port: int | None = None
    ttl: int | None = None
    sent_at: float | None = None
    outcome: Outcome = Outcome.NOT_TRIED
    by: str | None = None
    rtt_ms: float | None = None
    heard_ttl: int | None = None
    detail: str | None = None
    heard: Packet | None = None
    mtu: int | None = None

    @property
    def settled(self) -> bool:
        return self.outcome not in {Outcome.NOT_TRIED, Outcome.NO_ANSWER}

    def row(self) -> dict[str, Any]:
        """As a row of the result."""
        return {
            "target": self.target.asked,
            "address": self.target.address,
            "port": self.port,
            "outcome": self.outcome,
            "rtt_ms": self.rtt_ms,
            "by": self.by,
            "ttl": self.heard_ttl,
            "detail": self.detail,
        }


@dataclass
class Exchange:
    """Packets under way, and the answers that find them."""

    order: Order
    protocols: frozenset[int]
    waiting: dict[Key, list[Shot]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ends: float = 0.0

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.order.seconds
        versions = {version_of(target.address) for target in self.order.targets}
        self._addresses = {target.address for target in self.order.targets}
        self.wire = Wire(versions, self.protocols, self.order.rate, self.order.host_rate, self._hear)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.ends

    async def send(self, shot: Shot, packets: int = 1) -> None:
        """Send a packet when its turn comes; answers find it from then on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.ends - time.monotonic())):
                await self.wire.turn(shot.target.address, packets)
                self.waiting.setdefault(key_of(shot.packet), []).append(shot)
                shot.sent_at, problem = self.wire.send(shot.packet)
                if problem is not None:
                    shot.outcome, shot.detail = Outcome.UNREACHABLE, f"not sent: {problem}"
                else:
                    shot.outcome = Outcome.NO_ANSWER

    async def settle(self, shots: list[Shot], seconds: float) -> None:
        """Wait until all of these have an answer, that long at most after the last was sent."""
        until = min(self.ends, time.monotonic() + seconds)
        while (left := until - time.monotonic()) > 0 and any(shot.outcome is Outcome.NO_ANSWER for shot in shots):
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.changed.wait()

    # --- what comes back ---------------------------------------------------------------------------------------------

    def _hear(self, heard: Heard) -> None:
        # Raw sockets hear everybody's packets: what is not from a target, and quotes none, is not looked at.
        if heard.protocol == wire.ICMP[heard.version]:
            self._hear_icmp(heard)
        elif heard.source in self._addresses and len(heard.data) >= 8:
            name = "tcp" if heard.protocol == wire.TCP else "udp"
            source, target = (int.from_bytes(heard.data[at : at + 2], "big") for at in (0, 2))
            answered = self._of_transport(name, heard, source, target)
            if answered is not None:
                self._settle(answered, heard, Outcome.ANSWERED, _transport_packet(name, heard.data))

    def _of_transport(self, name: str, heard: Heard, source: int, target: int) -> Shot | None:
        shots = self.waiting.get((name, heard.source, source, target), [])
        if name == "tcp" and len(heard.data) >= 12:
            acknowledged = int.from_bytes(heard.data[8:12], "big")
            exact = [shot for shot in shots if acknowledged == _acknowledgement(shot.packet)]
            shots = exact or shots
        return next((shot for shot in shots if not shot.settled), None)

    def _hear_icmp(self, heard: Heard) -> None:
        if len(heard.data) < 8:
            return
        kind, code = heard.data[0], heard.data[1]
        error = kind in {3, 4, 5, 11, 12} if heard.version == 4 else kind < 128
        if error:
            quoted = _quoted(heard)
            if quoted is None:
                return
            key, sequence = quoted
            shots = [one for one in self.waiting.get(key, []) if sequence is None or one.packet[TCP].seq == sequence]
            shot = next((one for one in shots if not one.settled), None)
            if shot is not None:
                self._settle_error(shot, heard, kind, code)
            return
        identifier, number = (int.from_bytes(heard.data[at : at + 2], "big") for at in (4, 6))
        shot = next(
            (one for one in self.waiting.get(("icmp", heard.source, identifier, number), []) if not one.settled), None
        )
        # Pinging ourselves, the question is heard as well.
        if shot is not None and kind not in {8, 13, 15, 17, 128}:
            reader = ICMP if heard.version == 4 else ICMPv6EchoReply
            self._settle(shot, heard, Outcome.ANSWERED, _read(reader, heard.data))

    def _settle(self, shot: Shot, heard: Heard, outcome: Outcome, packet: Packet | None) -> None:
        shot.outcome, shot.by, shot.heard, shot.heard_ttl = outcome, heard.source, packet, heard.ttl
        if shot.sent_at is not None:
            shot.rtt_ms = round(max(0.0, heard.at - shot.sent_at) * 1000, 3)
        self.changed.set()

    def _settle_error(self, shot: Shot, heard: Heard, kind: int, code: int) -> None:
        what = (heard.version, kind, code)
        outcome = Outcome.UNREACHABLE
        if (heard.version, kind) in {(4, 11), (6, 3)}:
            outcome = Outcome.EXCEEDED
        elif what == (4, 3, 4) or (heard.version, kind) == (6, 2):
            outcome = Outcome.TOO_LARGE
            shot.mtu = int.from_bytes(heard.data[6:8] if heard.version == 4 else heard.data[4:8], "big") or None
        elif what in _FILTERED:
            outcome = Outcome.FILTERED
        self._settle(shot, heard, outcome, None)
        shot.detail = f"{heard.source} says: {said(heard.version, kind, code)}"


def said(version: int, kind: int, code: int) -> str:
    """What an ICMP message says, in words."""
    if version == 4:
        return str(icmpcodes.get(kind, {}).get(code) or icmptypes.get(kind) or f"ICMP {kind}/{code}").replace("-", " ")
    if kind == 1:
        reasons = (
            "no route",
            "forbidden by a filter",
            "beyond the scope of the source",
            "address unreachable",
            "port unreachable",
        )
        return reasons[code] if code < len(reasons) else f"unreachable, code {code}"
    return str(icmp6types.get(kind, f"ICMPv6 {kind}/{code}")).lower()


def key_of(packet: Packet) -> Key:
    """What an answer to a packet, and an ICMP error that quotes it, have in common with it."""
    inner = packet.payload
    if isinstance(inner, (TCP, UDP)):
        return "tcp" if isinstance(inner, TCP) else "udp", packet.dst, int(inner.dport), int(inner.sport)
    return "icmp", packet.dst, int(inner.id or 0), int(inner.seq or 0)


def _quoted(heard: Heard) -> tuple[Key, int | None] | None:
    """The key of the packet that an ICMP error quotes, and its sequence number where it is TCP (RFC 792: at least 8 bytes are quoted)."""
    data = heard.data[8:]
    if heard.version == 4:
        if len(data) < 20:
            return None
        header, protocol = (data[0] & 0x0F) * 4, data[9]
        address = socket.inet_ntop(socket.AF_INET, data[16:20])
    else:
        if len(data) < 40:
            return None
        header, protocol = 40, data[6]
        address = socket.inet_ntop(socket.AF_INET6, data[24:40])
    inner = data[header:]
    if len(inner) < 8:
        return None
    first, second, third, fourth = (int.from_bytes(inner[at : at + 2], "big") for at in (0, 2, 4, 6))
    if protocol == wire.TCP:
        return ("tcp", address, second, first), third << 16 | fourth
    if protocol == wire.UDP:
        return ("udp", address, second, first), None
    return (("icmp", address, third, fourth), None) if protocol == wire.ICMP[heard.version] else None


def _acknowledgement(packet: Packet) -> int:
    """What an answer to a TCP packet acknowledges."""
    inner = packet[TCP]
    return (int(inner.seq) + len(inner.payload) + bool(inner.flags.S) + bool(inner.flags.F)) & 0xFFFFFFFF


def _transport_packet(name: str, data: bytes) -> Packet | None:
    return _read(TCP if name == "tcp" else UDP, data)


def _read(kind: type[Packet], data: bytes) -> Packet | None:
    try:
        return kind(data)
    except Exception:  # noqa: BLE001 - a dissector that stumbles over what a stranger sent must not end the probe
        return None
