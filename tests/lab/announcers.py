"""Devices of a lab that announce themselves by mDNS and SSDP: each a socket inside a host's namespace, and a thread that answers.

with announcing_mdns(host.namespace, axis_records("AXIS P3265-LV", "B8A44F00000A", host.address)): ...
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

from scapy.layers.dns import DNS, DNSRR, DNSRRSRV
from scapy.packet import Packet

from deployments.demo.servers import in_namespace

MDNS, SSDP = ("224.0.0.251", 5353), ("239.255.255.250", 1900)
Answer = tuple[bytes, tuple[str, int]]
"""A datagram, and whom it goes to."""
Records = Callable[[], tuple[list[Packet], list[Packet]]]
"""What is answered, and what is added to it."""


@contextlib.contextmanager
def answering(
    namespace: str, group: tuple[str, int], answers: Callable[[bytes, tuple[str, int]], Sequence[Answer]]
) -> Iterator[list[bytes]]:
    """Answer what is asked at a group inside a namespace; yields the questions as they came."""

    def listening() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", group[1]))
        index = socket.if_nametoindex("eth0")
        membership = socket.inet_aton(group[0]) + bytes(4) + index.to_bytes(4, "little")  # struct ip_mreqn
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, membership)
        sock.settimeout(0.1)
        return sock

    asked: list[bytes] = []
    over = threading.Event()
    sock = in_namespace(namespace, listening)

    def serve() -> None:
        while not over.is_set():
            try:
                question, sender = sock.recvfrom(9000)
            except TimeoutError:
                continue
            asked.append(question)
            for answer, to in answers(question, sender):
                sock.sendto(answer, to)

    thread = threading.Thread(target=serve, name=f"announcer-{namespace}")
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()
        sock.close()


def announcing_mdns(
    namespace: str, records: Records, *, to_all: bool = False
) -> contextlib.AbstractContextManager[list[bytes]]:
    """Announce records by mDNS; to the asker alone, as RFC 6762, 6.7 wants it, or to all as some devices do."""

    def answers(question: bytes, sender: tuple[str, int]) -> list[Answer]:
        asked = DNS(question)
        if asked.qr:
            return []
        said, more = records()
        message = DNS(id=0 if to_all else asked.id, qr=1, aa=1, qd=[], an=said, ar=more)
        return [(bytes(message), MDNS if to_all else sender)]

    return answering(namespace, MDNS, answers)


@contextlib.contextmanager
def announcing_unasked(namespace: str, records: Records) -> Iterator[None]:
    """Announce records to all by mDNS again and again, as a host does that lets nothing in."""
    said, more = records()
    message = bytes(DNS(id=0, qr=1, aa=1, qd=[], an=said, ar=more))
    over = threading.Event()
    sock = in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("", MDNS[1]))

    def announce() -> None:
        while not over.wait(0.1):
            sock.sendto(message, MDNS)

    thread = threading.Thread(target=announce, name=f"announcer-{namespace}")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sock.close()


def announcing_ssdp(
    namespace: str, server: str, usn: str, location: str
) -> contextlib.AbstractContextManager[list[bytes]]:
    """Answer M-SEARCH as a UPnP device does."""

    def answers(question: bytes, sender: tuple[str, int]) -> list[Answer]:
        if not question.startswith(b"M-SEARCH * HTTP/1.1\r\n"):
            return []
        answer = (
            f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\nLOCATION: {location}\r\nSERVER: {server}\r\n"
            f"ST: upnp:rootdevice\r\nUSN: {usn}\r\n\r\n"
        )
        return [(answer.encode(), sender)]

    return answering(namespace, SSDP, answers)


def service_records(kind: str, name: str, host: str, port: int, address: str, **txt: str) -> Records:
    """What a device with one service announces."""
    instance = f"{name}.{kind}.local"

    def records() -> tuple[list[Packet], list[Packet]]:
        said = [
            DNSRR(rrname="_services._dns-sd._udp.local", type="PTR", rdata=f"{kind}.local", ttl=10),
            DNSRR(rrname=f"{kind}.local", type="PTR", rdata=instance, ttl=10),
        ]
        entries = [f"{key}={value}".encode() for key, value in txt.items()]
        more = [
            DNSRRSRV(rrname=instance, port=port, target=f"{host}.local", cacheflush=1, ttl=10),
            DNSRR(rrname=instance, type="TXT", rdata=entries, cacheflush=1, ttl=10),
            DNSRR(rrname=f"{host}.local", type="A", rdata=address, cacheflush=1, ttl=10),
        ]
        return said, more

    return records


def axis_records(model: str, serial: str, address: str) -> Records:
    """What an Axis camera announces: the kinds it has, its video service, and where that is."""
    return service_records(
        "_axis-video._tcp", f"{model} - {serial}", f"axis-{serial.lower()}", 80, address, macaddress=serial
    )
