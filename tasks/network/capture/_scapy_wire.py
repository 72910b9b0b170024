"""Packets to hosts and what comes back, over raw sockets: scapy makes and reads them, the kernel routes them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from scapy.packet import Packet

from tasks.core.errors import MissingProgram
from tasks.core.rate import Pacer

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3  # <linux/in.h>, <linux/in6.h>
_TIMESPEC = struct.Struct("@ll")
_RECEIVE_BUFFER = 1 << 22


@dataclass(frozen=True, slots=True)
class Heard:
    """A packet that came for us.

    Attributes:
        version: 4 or 6.
        source: Who sent it.
        protocol: Number of what it carries.
        data: What it carries.
        ttl: Its time to live (hop limit) when it came; None when the kernel did not say.
        at: Seconds since the epoch, by the kernel's clock.
    """

    version: int
    source: str
    protocol: int
    data: bytes
    ttl: int | None
    at: float


class Wire:
    """Raw sockets for some protocols, and the pace at which may be sent.

    Args:
        versions: IP versions.
        protocols: TCP, UDP; ICMP is always heard.
        rate: Packets per second.
        host_rate: Packets per second to one host; 0: no cap.
        hear: Called with every packet that came.

    Raises:
        MissingProgram: This process may not open raw sockets.
    """

    def __init__(
        self,
        versions: Iterable[int],
        protocols: Iterable[int],
        rate: float,
        host_rate: float,
        hear: Callable[[Heard], None],
    ) -> None:
        self.sent = 0
        self._hear = hear
        self._pacer, self._host_rate = Pacer(rate), host_rate
        self._hosts: dict[str, Pacer] = {}
        self._senders: dict[int, socket.socket] = {}
        self._receivers: list[tuple[socket.socket, int, int]] = []
        try:
            for version in sorted(set(versions)):
                self._senders[version] = _raw(version, socket.IPPROTO_RAW)
                for protocol in {ICMP[version], *protocols}:
                    self._receivers.append((_raw(version, protocol), version, protocol))
        except PermissionError:
            self.close()
            raise MissingProgram("This process may not send raw packets: it lacks CAP_NET_RAW.") from None

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for receiver in self._receivers:
            loop.add_reader(receiver[0].fileno(), self._read, *receiver)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for receiver, _, _ in self._receivers:
            loop.remove_reader(receiver.fileno())
        self.close()

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()
        for receiver, _, _ in self._receivers:
            receiver.close()

    async def turn(self, address: str, packets: int = 1) -> None:
        """Wait until so many packets may go to an address.

        Args:
            address: The host.
            packets: What one question makes us send: a connection that opens is also reset.
        """
        for _ in range(packets):
            if self._host_rate:
                pacer = self._hosts.get(address) or self._hosts.setdefault(address, Pacer(self._host_rate))
                await pacer.wait()
            await self._pacer.wait()

    def send(self, packet: Packet) -> tuple[float, str | None]:
        """Send a packet now; returns when, and why it could not be sent."""
        version = packet.version
        data = bytes(packet)
        at = time.time()
        for _ in range(8):
            try:
                self._senders[version].sendto(data, (packet.dst, 0))
            except OSError as error:
                if error.errno in {errno.ENOBUFS, errno.EAGAIN}:
                    time.sleep(0.005)  # the interface's queue is full; nothing else is to be done meanwhile
                    continue
                return at, why_not(error.errno or 0)
            self.sent += 1
            return at, None
        return at, "this machine's send queue is full"

    def _read(self, receiver: socket.socket, version: int, protocol: int) -> None:
        for _ in range(256):
            try:
                data, ancillary, _, sender = receiver.recvmsg(65536, 256)
            except OSError:
                return
            at, ttl = time.time(), None
            for level, kind, body in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(body) >= _TIMESPEC.size:
                    seconds, nanoseconds = _TIMESPEC.unpack_from(body)
                    at = seconds + nanoseconds / 1e9
                elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                    ttl = int.from_bytes(body[:4], sys.byteorder)
            if version == 4:
                if len(data) < 20:
                    continue
                ttl, data = data[8], data[(data[0] & 0x0F) * 4 :]
            self._hear(Heard(version, sender[0].partition("%")[0], protocol, data, ttl, at))


def _raw(version: int, protocol: int) -> socket.socket:
    sock = socket.socket(FAMILY[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    if protocol == socket.IPPROTO_RAW:
        # What the kernel learned about the way's largest packet must not stop the probe that measures it.
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU_DISCOVER) if version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        )
        sock.setsockopt(level, option, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    return sock


def version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def source_for(address: str) -> str | None:
    """Our own address on the way to another; None when there is no way. Connecting a datagram socket sends nothing."""
    with socket.socket(FAMILY[version_of(address)], socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return None
        return str(sock.getsockname()[0]).partition("%")[0]


@contextlib.contextmanager
def reserved_port(version: int, kind: int) -> Iterator[int]:
    """A port of ours that no program uses meanwhile: for UDP, nobody is told that it is closed either."""
    with socket.socket(FAMILY[version], kind) as sock:
        sock.bind(("", 0))
        yield sock.getsockname()[1]


def why_not(number: int) -> str:
    """Why a packet could not be sent."""
    return {
        errno.ENETUNREACH: "this machine has no route to it",
        errno.EHOSTUNREACH: "this machine has no way to it",
        errno.EACCES: "it is a broadcast address of this machine's network, or a rule of this machine rejects it",
        errno.EMSGSIZE: "too large for this machine's own interface",
        errno.EPERM: "this machine's own firewall forbids it",
        errno.EINVAL: "this machine cannot send there",
    }.get(number, os.strerror(number).lower())
