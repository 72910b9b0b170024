"""A connection to one pinned address, for probes that talk: paced packet by packet, bounded in time, with TLS when asked.

asyncio's own streams cannot do it: they start TLS with a transport that reads ahead without pacing, keep no raw bytes for a handshake
made by hand, and hide how long each step took.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from tasks.core.errors import Busy
from tasks.core.rate import Pacer

T = TypeVar("T")

SEGMENT_BYTES = 1448
"""Payload of a full Ethernet segment with TCP timestamps: what is sent costs a packet for each, what arrives an acknowledgement."""
OPENING_PACKETS = 4
"""What every connection costs: SYN, ACK, FIN, and the ACK of theirs."""
RECEIVE_BUFFER_BYTES = 32 << 10
"""The kernel acknowledges what fits its buffer before we look at it: a small one keeps a fast sender within what was paid."""
FAREWELL_SECONDS = 0.3
MOST_ADDRESSES = 4
"""Addresses of one name that are tried, in the resolver's order, when the first do not take a connection."""

_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class Till:
    """Where all hosts of a run pay for packets, one after the other.

    Each pays for all it is about to send before the next one's turn. If payments of many mixed, all would be done at about the same
    time, and would send at the same time what was paid for over seconds.

    Args:
        pacer: The run's share of the site's budget.
    """

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._turn = asyncio.Lock()

    async def pay(self, packets: int) -> None:
        """Wait until that many packets may be sent."""
        async with self._turn:
            for _ in range(packets):
                await self._pacer.wait()


class Pace:
    """What one host may be sent: within the run's share of the budget and within the host's own cap.

    Args:
        till: The run's till.
        host_packets_per_second: Cap of the host; 0 for none.

    Attributes:
        turn: Held by who talks to the host, so that it has one connection of ours at a time.
    """

    def __init__(self, till: Till, host_packets_per_second: float) -> None:
        self.turn = asyncio.Lock()
        self._till = till
        self._host = Pacer(host_packets_per_second) if host_packets_per_second else None

    async def pay(self, packets: int) -> None:
        """Wait until that many packets may be sent."""
        if self._host is not None:
            for _ in range(packets):
                await self._host.wait()
        await self._till.pay(packets)


class Paces:
    """The pace of every host: names that lead to the same address share one.

    Args:
        pacer: The run's share of the site's budget.
        host_packets_per_second: Cap of each host; 0 for none.
    """

    def __init__(self, pacer: Pacer, host_packets_per_second: float) -> None:
        self._till, self._rate = Till(pacer), host_packets_per_second
        self._made: dict[str, Pace] = {}

    def of(self, address: str) -> Pace:
        """The pace of the host at this address."""
        return self._made.setdefault(address, Pace(self._till, self._rate))


class Patience:
    """How long one check may wait for the other side, all in all. Waiting for our own pace does not use it up.

    Attributes:
        left: Seconds that are left.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @contextlib.asynccontextmanager
    async def waiting(self, at_most: float | None = None) -> AsyncIterator[None]:
        """Wait for the other side inside the block.

        Raises:
            TimeoutError: Patience ran out.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self.left if at_most is None else min(self.left, at_most))):
                yield
        finally:
            self.left -= time.monotonic() - began


class Connection:
    """A TCP connection, and TLS inside it after `start_tls`. Made by `connect`.

    Attributes:
        address: The address it goes to.
        connect_seconds: How long the handshake of TCP took.
        paced_seconds: How long we held ourselves back since then: to be taken off what is measured around calls.
        tls: The TLS inside, when there is one.
        alert: Number of the fatal alert with which the other side ended a handshake, as far as it was sent in the clear.
    """

    def __init__(
        self, sock: socket.socket, address: str, pace: Pace, patience: Patience, deposit: int, seconds: float
    ) -> None:
        self.address = address
        self.connect_seconds = seconds
        self.paced_seconds = 0.0
        self.tls: ssl.SSLObject | None = None
        self.alert: int | None = None
        self.patience = patience
        self._sock = sock
        self._pace = pace
        self._deposit = float(deposit)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    # --- bytes -------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send everything.

        Raises:
            OSError: The connection broke.
            ssl.SSLError: TLS broke.
            TimeoutError: The other side does not take it in time.
        """
        if self.tls is None:
            if data:  # sending nothing would only fetch, and so hide, what a later receive has to tell
                await self._put(data)
            return
        view = memoryview(data)
        while view:
            view = view[await self._drive(self.tls.write, view[: 16 << 10]) :]

    async def receive(self, most: int = 16 << 10) -> bytes:
        """Return what there is, at most so many bytes; nothing when the other side has ended its part.

        Raises:
            OSError: The connection broke.
            ssl.SSLError: TLS broke.
            TimeoutError: Nothing came in time.
        """
        if self.tls is None:
            return await self._get(most)
        try:
            return await self._drive(self.tls.read, most)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""  # with or without a goodbye: what a missing one cut off shows in the protocol inside

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> None:
        """Begin TLS.

        Raises:
            ssl.SSLError: No handshake; a certificate that does not hold is `ssl.SSLCertVerificationError`.
            OSError: The connection broke.
            TimeoutError: The handshake did not come to its end in time.
        """
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        await self._drive(tls.do_handshake)
        self.tls = tls

    async def aclose(self, *, rest: bool = False) -> None:
        """Say goodbye and close.

        Args:
            rest: Much that we do not want may still come: cut it off instead of reading to its end.
        """
        try:
            if not rest:
                with contextlib.suppress(OSError, ValueError):  # TimeoutError and ssl.SSLError are OSErrors
                    await self._say_goodbye()
        finally:
            self._sock.close()

    async def _say_goodbye(self) -> None:
        if self.tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()  # writes our close_notify; theirs is not waited for
            await self._flush()
        # FIN, then read to the other side's: closing with unread data would send a reset.
        self._sock.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(FAREWELL_SECONDS):
            for _ in range(8):
                if not await loop.sock_recv(self._sock, RECEIVE_BUFFER_BYTES):
                    return

    # --- underneath --------------------------------------------------------------------------------------------------

    async def _drive(self, step: Callable[..., T], *arguments: Any) -> T:
        """Run a step of TLS to its end, moving bytes between it and the socket."""
        while True:
            try:
                done = step(*arguments)
            except ssl.SSLWantReadError:
                pass  # what follows is outside: an error of the socket has nothing to do with this one
            except ssl.SSLError:
                with contextlib.suppress(OSError, TimeoutError):
                    await self._flush()  # the alert that tells the other side why
                raise
            else:
                await self._flush()
                return done
            await self._flush()
            if self._incoming.eof:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was closed")
            data = await self._get(16 << 10)
            if data:
                # A record of two bytes, the first of them "fatal": Python does not name every alert OpenSSL reports.
                if data[-7:-6] == b"\x15" and data[-4:-1] == b"\x00\x02\x02":
                    self.alert = data[-1]
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._put(self._outgoing.read())

    async def _put(self, data: bytes) -> None:
        await self._pay(-(-len(data) // SEGMENT_BYTES))
        async with self.patience.waiting():
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _get(self, most: int) -> bytes:
        await self._pay(0)
        async with self.patience.waiting():
            data = await asyncio.get_running_loop().sock_recv(self._sock, most)
        self._deposit -= len(data) / SEGMENT_BYTES
        return data

    async def _pay(self, packets: int) -> None:
        self._deposit -= packets
        owed = -int(self._deposit // 1)
        if owed > 0:
            began = time.monotonic()
            await self._pace.pay(owed)
            self._deposit += owed
            self.paced_seconds += time.monotonic() - began


async def connect(
    addresses: Sequence[str], port: int, *, pace: Pace, patience: Patience, deposit: int = 12
) -> Connection:
    """Connect to the first address that takes a connection.

    Args:
        addresses: Pinned addresses of one host, in order of preference.
        port: TCP port.
        pace: Paid before anything is sent.
        patience: Time for connecting, and for everything on the connection later.
        deposit: Packets paid for in advance beyond the opening ones, so that what follows is measured without our own waiting.

    Raises:
        OSError: None takes one; the error of the last.
        TimeoutError: None took one in time.
        Busy: This machine is out of sockets or local ports.
    """
    tried = list(addresses)[:MOST_ADDRESSES]
    for number, address in enumerate(tried, start=1):
        await pace.pay(OPENING_PACKETS + deposit)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began = time.monotonic()
            # A silent address leaves the others their share of the time.
            async with patience.waiting(patience.left / (len(tried) - number + 1)):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return Connection(sock, address, pace, patience, deposit, time.monotonic() - began)
        except OSError as problem:  # TimeoutError is one
            if sock is not None:
                sock.close()
            if problem.errno in _OUT_OF:
                raise Busy(
                    f"This machine cannot open more connections: {os.strerror(problem.errno or 0).lower()}.",
                    hint="Try again in a minute, or raise its limit of open files.",
                    retry_after=60,
                ) from None
            if number == len(tried):
                raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    raise ValueError("there is no address to connect to")
