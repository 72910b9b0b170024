"""ICMP echo to many hosts over one socket: requests out, replies, errors and kernel time stamps back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

# Numbers of <linux/in.h>, <linux/in6.h>, <linux/icmpv6.h> and <asm-generic/socket.h> that Python's socket module does not have.
_IP_RECVERR, _IPV6_RECVERR, _ICMP6_FILTER, _SO_TIMESTAMPNS = 11, 25, 1, 35
_ECHO_REQUEST, _ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_ORIGIN_LOCAL = 1  # SO_EE_ORIGIN_LOCAL of <linux/errqueue.h>
_ERROR = struct.Struct("@IBBBBII")  # struct sock_extended_err
_HEADER = struct.Struct("!BBHHH")
_TIMESPEC = struct.Struct("@ll")
TOKEN_BYTES = 8
"""Random bytes at the start of every request: whose answer it is, also on a raw socket that sees everybody's."""

_REASONS = {
    (4, 3, 0): "network unreachable",
    (4, 3, 1): "host unreachable",
    (4, 3, 2): "protocol unreachable",
    (4, 3, 4): "packet too large for the way there",
    (4, 3, 6): "network unknown",
    (4, 3, 7): "host unknown",
    (4, 3, 9): "network forbidden by a filter",
    (4, 3, 10): "host forbidden by a filter",
    (4, 3, 13): "forbidden by a filter",
    (4, 11, 0): "packet went in circles (TTL exceeded)",
    (6, 1, 0): "no route to it",
    (6, 1, 1): "forbidden by a filter",
    (6, 1, 3): "host unreachable",
    (6, 1, 4): "port unreachable",
    (6, 1, 5): "source address forbidden by a filter",
    (6, 1, 6): "route rejects it",
    (6, 2, 0): "packet too large for the way there",
    (6, 3, 0): "packet went in circles (hop limit exceeded)",
}


@dataclass
class Echo:
    """One request and what became of it.

    Attributes:
        address: Where it went.
        sent_at: Seconds since the epoch.
        rtt_ms: Round-trip time, None while or when there is no reply.
        error: Why it cannot arrive, as a router or this machine says.
        sent: Whether it left this machine.
    """

    address: str
    sent_at: float
    rtt_ms: float | None = None
    error: str | None = None
    sent: bool = True
    settled: asyncio.Event = field(default_factory=asyncio.Event)


def open_socket(version: int) -> socket.socket:
    """Open a socket for ICMP echo: an unprivileged datagram one where the kernel allows it, else a raw one.

    The kernel allows the first to the groups in net.ipv4.ping_group_range; the second needs CAP_NET_RAW.

    Raises:
        PermissionError: Neither is allowed.
    """
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol)
    except PermissionError:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # replies of 64 hosts while Python is busy
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            if sock.type == socket.SOCK_RAW:
                # A set bit blocks that type: let echo replies through and nothing else.
                blocked = bytearray(b"\xff" * 32)
                blocked[_ECHO_REPLY[6] // 8] &= ~(1 << _ECHO_REPLY[6] % 8)
                sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
    except BaseException:
        sock.close()
        raise
    return sock


class Pinger:
    """Sends echo requests to hosts of one IP version and matches what comes back.

    Each request has a number of its own on the socket (65,536 of them), so replies and errors find it without guessing.

    Args:
        sock: From `open_socket`; closed at the end of the `with` block.
        version: 4 or 6.
        size: Bytes of data in each request, at least `TOKEN_BYTES`.
    """

    def __init__(self, sock: socket.socket, version: int, size: int) -> None:
        self._sock = sock
        self._version = version
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._data = self._token + bytes(size - TOKEN_BYTES)
        self._raw = sock.type == socket.SOCK_RAW
        # A datagram socket's identifier is its port, which the kernel sets; on a raw socket it is ours to choose.
        self._identifier = secrets.randbelow(0x10000)
        self._next = 0
        self._waiting: dict[int, Echo] = {}

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    async def echo(self, address: str, timeout: float) -> Echo:
        """Send one request and wait for its reply or error, `timeout` seconds at most."""
        number = self._next = (self._next + 1) % 0x10000
        packet = self._packet(number)
        echo = self._waiting[number] = Echo(address, time.time())
        try:
            reason = self._send(packet, echo)
            if reason is not None:
                echo.sent, echo.error = False, reason
                return echo
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await echo.settled.wait()
            return echo
        finally:
            del self._waiting[number]

    def _packet(self, number: int) -> bytes:
        kind = _ECHO_REQUEST[self._version]
        header = _HEADER.pack(kind, 0, 0, self._identifier, number)
        # The kernel fills in the checksum of ICMPv6 and of datagram sockets.
        if self._version == 4 and self._raw:
            header = _HEADER.pack(kind, 0, _checksum(header + self._data), self._identifier, number)
        return header + self._data

    def _send(self, packet: bytes, echo: Echo) -> str | None:
        """Send, and return why it could not be sent."""
        for _ in range(8):
            try:
                echo.sent_at = time.time()
                self._sock.sendto(packet, (echo.address, 0))
                return None
            except BlockingIOError:
                return "this machine's send queue is full"
            except OSError as problem:
                # With RECVERR an error that belongs to an earlier request is reported by whatever call comes next: take those
                # off the queue and try again. An error of our own stays.
                number = problem.errno
                if not self._read_errors():
                    break
        return {
            errno.ENETUNREACH: "this machine has no route to it",
            errno.EHOSTUNREACH: "this machine has no way to it",
            errno.EACCES: "it is a broadcast address of this machine's network",
            errno.EMSGSIZE: "packet too large for this machine's network",
            errno.EPERM: "this machine's own firewall forbids it",
            errno.EINVAL: "this machine cannot send there",
        }.get(number or 0, os.strerror(number or 0).lower())

    def _read(self) -> None:
        self._read_errors()
        while True:
            try:
                data, ancillary, _, sender = self._sock.recvmsg(65536, 256)
            except BlockingIOError:
                return
            except OSError:
                self._read_errors()  # an error that came in between; its request is told there
                continue
            if self._version == 4 and self._raw:
                data = data[(data[0] & 0x0F) * 4 :] if data else data
            self._take_reply(data, sender[0], _stamp(ancillary))

    def _take_reply(self, data: bytes, sender: str, received_at: float) -> None:
        if len(data) < _HEADER.size + TOKEN_BYTES:
            return
        kind, _, _, identifier, number = _HEADER.unpack_from(data)
        echo = self._waiting.get(number)
        if (
            kind != _ECHO_REPLY[self._version]
            or (self._raw and identifier != self._identifier)
            or data[_HEADER.size : _HEADER.size + TOKEN_BYTES] != self._token
            or echo is None
            or sender.partition("%")[0] != echo.address
            or echo.rtt_ms is not None
        ):
            return
        echo.rtt_ms = max(0.0, (received_at - echo.sent_at) * 1000)
        echo.settled.set()

    def _read_errors(self) -> int:
        """Take everything off the socket's error queue, tell the requests concerned, and return how many errors there were."""
        count = 0
        while True:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(65536, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return count
            count += 1
            for level, kind, body in ancillary:
                if (level, kind) in {
                    (socket.IPPROTO_IP, _IP_RECVERR),
                    (socket.IPPROTO_IPV6, _IPV6_RECVERR),
                }:
                    self._take_error(data, body)

    def _take_error(self, packet: bytes, body: bytes) -> None:
        if len(packet) < _HEADER.size or len(body) < _ERROR.size:
            return
        number = _HEADER.unpack_from(packet)[4]
        identifier = _HEADER.unpack_from(packet)[3]
        echo = self._waiting.get(number)
        if echo is None or (self._raw and identifier != self._identifier):
            return
        code, origin, kind, subcode, *_ = _ERROR.unpack_from(body)
        reason = _REASONS.get((self._version, kind, subcode)) or os.strerror(code).lower()
        offender = _address_of(body[_ERROR.size :])
        if origin == _ORIGIN_LOCAL or offender is None:
            echo.error = f"this machine: {reason}"
        else:
            echo.error = f"{offender} says: {reason}"
        echo.settled.set()


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel received a packet: free of what this process was busy with at the time."""
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(body) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(body)
            return float(seconds + nanoseconds / 1e9)
    return time.time()


def _address_of(sockaddr: bytes) -> str | None:
    """Address in a struct sockaddr_in or sockaddr_in6; None when it has none."""
    if len(sockaddr) < 2:
        return None
    family = struct.unpack_from("@H", sockaddr)[0]
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(family, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(family, sockaddr[8:24])
    return None


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
