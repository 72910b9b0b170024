"""Small real servers for the hosts of a lab: they listen inside a network namespace and speak their protocol.

All servers of all hosts run in one thread of this process. A socket belongs to the namespace it was made in, whichever thread serves it
later, so a throw-away thread enters the namespace, makes the socket and ends. Nothing survives the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
NAMESPACES = Path("/run/netns")
START_SECONDS = 10.0


# --- entering a namespace ----------------------------------------------------------------------------------------------


def in_namespace(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` inside a named network namespace and return what it returns. For work of milliseconds: it blocks.

    Raises:
        OSError: The namespace is not there, or this process may not enter it (CAP_SYS_ADMIN).
    """
    outcome: Future[T] = Future()

    def enter_and_work() -> None:
        try:
            handle = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # os.setns comes with Python 3.12. It moves the calling thread alone, which is why the thread is thrown away.
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, f"cannot enter network namespace {namespace}: {os.strerror(number)}")
            finally:
                os.close(handle)
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  handed to the caller, who raises it
            outcome.set_exception(error)

    thread = threading.Thread(target=enter_and_work, name=f"enter-{namespace}")
    thread.start()
    thread.join()
    return outcome.result()


# --- what can be served --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """One service of a host.

    Attributes:
        name: What it is, such as `http`.
        port: Port it listens on, on every address of the host.
        factory: Makes the asyncio protocol of one connection (one for all datagrams with `udp`).
        protocol: `tcp` or `udp`.
        tls: Certificate and settings when it speaks inside TLS.
    """

    name: str
    port: int
    factory: Callable[[], asyncio.BaseProtocol]
    protocol: Literal["tcp", "udp"] = "tcp"
    tls: ssl.SSLContext | None = None


class _Http(asyncio.Protocol):
    """HTTP/1.1, one page, connection closed after the answer."""

    def __init__(self, title: str, server: str) -> None:
        self._page = (
            f"<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()
        )
        self._server = server
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._head += data[:8192]
        if b"\r\n\r\n" not in self._head and b"\n\n" not in self._head:
            if len(self._head) > 8192:
                self._transport.close()
            return
        method, _, rest = self._head.partition(b" ")
        known = method in {b"GET", b"HEAD"} and b"HTTP/" in rest.split(b"\n", 1)[0]
        page = self._page if known else b"<html><head><title>400 Bad Request</title></head></html>"
        head = (
            f"HTTP/1.1 {'200 OK' if known else '400 Bad Request'}\r\nServer: {self._server}\r\nContent-Type: text/html; charset=utf-8\r\n"
            f"Content-Length: {len(page)}\r\nConnection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + (b"" if method == b"HEAD" else page))
        self._transport.close()


class _Banner(asyncio.Protocol):
    """Says a line first, answers each line by a table of replies, closes on the one that says so."""

    def __init__(self, text: str, replies: Mapping[str, str], otherwise: str | None, last: str | None) -> None:
        self._text, self._replies, self._otherwise, self._last = text, replies, otherwise, last
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._text:
            transport.write(self._text.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        *lines, self._rest = (self._rest + data)[-4096:].split(b"\n")
        for line in lines:
            word = line.decode("latin-1").split(" ")[0].strip().upper()
            answer = self._replies.get(word, self._otherwise)
            if answer:
                self._transport.write(answer.encode())
            if word == self._last:
                self._transport.close()


class _Dns(asyncio.DatagramProtocol):
    """Answers A and PTR questions from a table of names and addresses; anything else is NXDOMAIN."""

    def __init__(self, zone: Mapping[str, str]) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str | Any, int]) -> None:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.reversename
        import dns.rrset

        try:
            question = dns.message.from_wire(data)
            asked = question.question[0]
        except (dns.exception.DNSException, IndexError):
            return
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.AA | dns.flags.RA
        for name, target in self._zone.items():
            if asked.name.to_text(omit_final_dot=True).lower() == name and asked.rdtype == dns.rdatatype.A:
                answer.answer.append(dns.rrset.from_text(asked.name, 300, "IN", "A", target))
            if asked.name == dns.reversename.from_address(target) and asked.rdtype == dns.rdatatype.PTR:
                answer.answer.append(dns.rrset.from_text(asked.name, 300, "IN", "PTR", f"{name}."))
        if not answer.answer:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), address)  # type: ignore[attr-defined]


def http(port: int = 80, *, title: str = "Welcome", server: str = "nginx/1.24.0") -> Served:
    """A web server with one titled page."""
    return Served("http", port, lambda: _Http(title, server))


def https(tls: ssl.SSLContext, port: int = 443, *, title: str = "Welcome", server: str = "nginx/1.24.0") -> Served:
    """A web server with one titled page inside TLS."""
    return Served("https", port, lambda: _Http(title, server), tls=tls)


def ssh(port: int = 22, *, version: str = "OpenSSH_9.6p1 Ubuntu-3ubuntu13.5") -> Served:
    """What an SSH server says first; the key exchange never starts."""
    return Served("ssh", port, lambda: _Banner(f"SSH-2.0-{version}\r\n", {}, None, None))


def smtp(port: int = 25, *, name: str = "mail.example") -> Served:
    """A mail server that greets and answers the commands a prober sends; it takes no mail."""
    refusal = "502 5.5.2 Error: command not recognized\r\n"
    replies = {
        "EHLO": f"250-{name}\r\n250-SIZE 10240000\r\n250 HELP\r\n",
        "HELO": f"250 {name}\r\n",
        "HELP": refusal,
        "QUIT": "221 2.0.0 Bye\r\n",
    }
    return Served("smtp", port, lambda: _Banner(f"220 {name} ESMTP Postfix\r\n", replies, refusal, "QUIT"))


def banner(port: int, text: str, *, name: str = "banner") -> Served:
    """Says `text` on connecting and nothing after."""
    return Served(name, port, lambda: _Banner(text, {}, None, None))


def mute(port: int, *, name: str = "mute") -> Served:
    """Accepts and never says a word."""
    return Served(name, port, lambda: _Banner("", {}, None, None))


def dns(zone: Mapping[str, str], port: int = 53) -> Served:
    """A name server for a table of names and IPv4 addresses, both ways."""
    return Served("dns", port, lambda: _Dns(zone), "udp")


# --- serving -----------------------------------------------------------------------------------------------------------


class ServerThread:
    """The thread that serves every service of a lab.

    Attributes:
        accepted: Connections accepted so far, by (namespace, port): what a test asks to prove that a port was left alone.
    """

    def __init__(self) -> None:
        self.accepted: Counter[tuple[str, int]] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-servers", daemon=True)
        self._thread.start()
        self._open: dict[tuple[str, int, str], asyncio.Server | asyncio.DatagramTransport] = {}
        self._transports: dict[tuple[str, int, str], set[Any]] = {}

    def serve(self, namespace: str, served: Served) -> None:
        """Start a service in a namespace.

        Raises:
            OSError: The port is taken there, or the namespace cannot be entered.
        """
        listener = in_namespace(namespace, lambda: _listener(served))
        asyncio.run_coroutine_threadsafe(self._serve(namespace, served, listener), self._loop).result(START_SECONDS)

    async def _serve(self, namespace: str, served: Served, listener: socket.socket) -> None:
        key = (namespace, served.port, served.protocol)
        transports = self._transports.setdefault(key, set())

        def tracked() -> Any:
            # A closed listener leaves its connections, and a connection keeps its namespace alive: remember them.
            protocol: Any = served.factory()
            made = protocol.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                transports.difference_update([one for one in transports if one.is_closing()])
                transports.add(transport)
                self.accepted[namespace, served.port] += 1
                made(transport)

            protocol.connection_made = connection_made
            return protocol

        if served.protocol == "udp":
            self._open[key], _ = await self._loop.create_datagram_endpoint(tracked, sock=listener)
        else:
            self._open[key] = await self._loop.create_server(tracked, sock=listener, backlog=512, ssl=served.tls)

    def stop(self, namespace: str, port: int | None = None) -> None:
        """Stop one service of a namespace, or all of them; open connections are reset."""
        asyncio.run_coroutine_threadsafe(self._stop(namespace, port), self._loop).result(START_SECONDS)

    async def _stop(self, namespace: str | None, port: int | None) -> None:
        for key in [key for key in self._open if namespace in {None, key[0]} and port in {None, key[1]}]:
            self._open.pop(key).close()
            for transport in self._transports.pop(key, ()):
                # asyncio's transport falls over an abort after a close that had to wait for unsent bytes: it has no loop any more.
                with contextlib.suppress(AttributeError):
                    transport.abort()

    def close(self) -> None:
        """Stop everything and end the thread."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(None, None), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


def _listener(served: Served) -> socket.socket:
    """Make the listening socket: IPv6 and IPv4 at once where the kernel has IPv6, else IPv4."""
    kind = socket.SOCK_DGRAM if served.protocol == "udp" else socket.SOCK_STREAM
    families = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]  # noqa: S104  all addresses of a host that exists for this
    for last, (family, everything) in enumerate(families):
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((everything, served.port))
            if kind == socket.SOCK_STREAM:
                listener.listen(512)
            listener.setblocking(False)
        except OSError:
            listener.close()
            if last:
                raise
        else:
            return listener
    raise AssertionError("unreachable: the last family either listens or raises")
