"""What devices on a link say when everybody is asked, by mDNS and by SSDP, in the child process: one question, and rows of who answered.

Everything here was said by strangers: it is cut, cleaned and counted, and nothing it names is looked up, fetched or connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tasks.network.capture._mask import mask_text
from tasks.network.capture._scapy_link import ETH_P_IP, Link
from tasks.network.capture._scapy_neighbour import text
from tasks.network.capture._scapy_order import Order, Probe, Report
from tasks.network.capture._scapy_wire import reserved_port

MDNS_GROUP, MDNS_PORT = "224.0.0.251", 5353  # RFC 6762, 3
SSDP_GROUP, SSDP_PORT = "239.255.255.250", 1900  # UPnP Device Architecture 1.1, 1.1
MDNS_QUESTIONS = ("_services._dns-sd._udp.local", "_axis-video._tcp.local", "_http._tcp.local")
"""What kinds of service there are (RFC 6763, 9), and the instances of two kinds: cameras of Axis, and pages."""
MOST_ANSWERERS = 256
MOST_KINDS, MOST_SERVICES, MOST_TXT, MOST_ADDRESSES, MOST_RECORDS = 24, 12, 8, 8, 512
"""Of one host: what a friendly one never reaches and a hostile one must not pass."""
LONGEST = 120
LONGEST_SSDP_ANSWER = 4096
LONGEST_USUAL_ROW = 3000
_A, _PTR, _TXT, _AAAA, _SRV = 1, 12, 16, 28, 33


@dataclass
class _Host:
    """What one host said so far. Keys are lower case: names are the same in any."""

    mac: str
    rtt_ms: float
    heard: int = 0
    records: int = 0
    kinds: dict[str, None] = field(default_factory=dict)
    instances: dict[str, tuple[str, str]] = field(default_factory=dict)
    places: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    addresses: dict[str, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    server: str | None = None
    locations: dict[str, None] = field(default_factory=dict)
    usns: dict[str, None] = field(default_factory=dict)

    def row(self, protocol: str, address: str) -> dict[str, Any]:
        return {
            "protocol": protocol,
            "address": address,
            "mac": self.mac,
            "names": list(self.names)[:MOST_ADDRESSES],
            "kinds": list(self.kinds)[:MOST_KINDS],
            "services": list(self._services())[:MOST_SERVICES],
            "addresses": list(self.addresses)[:MOST_ADDRESSES],
            "server": self.server,
            "locations": list(self.locations)[:MOST_ADDRESSES],
            "usns": list(self.usns)[:MOST_ADDRESSES],
            "rtt_ms": self.rtt_ms,
            "heard": self.heard,
        }

    def _services(self) -> Iterator[dict[str, Any]]:
        for key in dict.fromkeys([*self.instances, *self.places]):
            full, host, port = self.places.get(key, (key, None, None))
            name, _, kind = full.partition("._")
            name, kind = self.instances.get(key, (name, f"_{kind}"))
            yield {"kind": kind, "name": name, "host": host, "port": port, "txt": self.texts.get(key, {})}


@dataclass
class _Answers:
    """Who answered, and how many did that must not count."""

    order: Order
    asked_at: float | None = None
    hosts: dict[str, _Host] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._networks = [ipaddress.ip_network(text) for text in self.order.networks]

    def host(self, datagram: _Datagram, at: float) -> _Host | None:
        """Whom an answer is from; None where it does not count."""
        address = ipaddress.ip_address(datagram.source)
        if self.asked_at is None or datagram.source == self.order.source:
            return None
        if not any(address in network for network in self._networks):
            if len(self.foreign) < MOST_ANSWERERS:
                self.foreign.add(datagram.source)
            return None
        host = self.hosts.get(datagram.source)
        if host is None:
            if len(self.hosts) >= MOST_ANSWERERS:
                return None
            host = _Host(datagram.mac, round(max(0.0, at - self.asked_at) * 1000, 3))
            self.hosts[datagram.source] = host
        host.heard += 1
        return host


@dataclass(frozen=True)
class _Datagram:
    """A UDP datagram out of a frame."""

    mac: str
    source: str
    source_port: int
    port: int
    payload: bytes


def mdns(order: Order) -> Report:
    """Ask everybody on the link which services they have (RFC 6762, 5.1): one question, answered to us or to all."""
    transaction = secrets.randbits(16)

    def question() -> Packet:
        return Raw(bytes(DNS(id=transaction, rd=0, qd=[DNSQR(qname=name, qtype="PTR") for name in MDNS_QUESTIONS])))

    def take(answers: _Answers, datagram: _Datagram, own_port: int, at: float) -> None:
        # RFC 6762, 6: an answer comes from port 5353; to all at 5353, or to the port a single question came from (6.7).
        if datagram.source_port != MDNS_PORT or datagram.port not in {MDNS_PORT, own_port}:
            return
        if len(datagram.payload) < 12 or not datagram.payload[2] & 0x80:
            return
        if datagram.port == own_port and int.from_bytes(datagram.payload[:2], "big") != transaction:
            return
        message = DNS(datagram.payload)
        if (host := answers.host(datagram, at)) is not None:
            _note_records(host, message)

    # RFC 6762, 11: with a time to live of 255, although no router passes this group on.
    return _ask_all(order, "mdns", MDNS_GROUP, MDNS_PORT, 255, question, take)


def ssdp(order: Order) -> Report:
    """Ask everybody on the link who is a UPnP device (UPnP Device Architecture 1.1, 1.3.2): one M-SEARCH. Nothing is fetched."""
    # Devices wait a random time up to MX before they answer: it must end before we stop listening.
    patience = max(1, min(5, int(order.wait) - 1))
    search = (
        f"M-SEARCH * HTTP/1.1\r\nHOST: {SSDP_GROUP}:{SSDP_PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: {patience}\r\n"
        "ST: upnp:rootdevice\r\n\r\n"
    )  # fmt: skip

    def take(answers: _Answers, datagram: _Datagram, own_port: int, at: float) -> None:
        if datagram.port != own_port or not datagram.payload.startswith(b"HTTP/1.1 200"):
            return
        if (host := answers.host(datagram, at)) is not None:
            _note_headers(host, datagram.payload)

    # A time to live of 1, where the standard proposes 2: routers would take it to networks nobody asked policy about.
    return _ask_all(order, "ssdp", SSDP_GROUP, SSDP_PORT, 1, lambda: Raw(search.encode()), take)


PROBES: dict[Probe, Callable[[Order], Report]] = {Probe.MDNS: mdns, Probe.SSDP: ssdp}


def _ask_all(
    order: Order,
    protocol: str,
    group: str,
    port: int,
    ttl: int,
    question: Callable[[], Packet],
    take: Callable[[_Answers, _Datagram, int, float], None],
) -> Report:
    """Send a question to a group on a link, and collect who answers until the wait is over."""
    answers = _Answers(order)
    report = Report()

    async def run() -> None:
        with reserved_port(4, socket.SOCK_DGRAM) as own_port:

            def hear(data: bytes, at: float) -> None:
                if (datagram := _datagram(data)) is not None:
                    take(answers, datagram, own_port, at)

            mac = _group_mac(group)
            link = Link(order.interface, ETH_P_IP, order.rate, hear, (mac,))
            frame = Ether(dst=mac, src=order.mac) / IP(src=order.source, dst=group, ttl=ttl)
            frame = frame / UDP(sport=own_port, dport=port) / question()
            with link.listening():
                for _ in range(order.count):
                    sent_at = await link.send(frame)
                    answers.asked_at = answers.asked_at or sent_at
                    await asyncio.sleep(order.wait)  # everybody's answer counts, not the first
            report.sent = link.sent

    asyncio.run(run())
    ordered = sorted(answers.hosts, key=ipaddress.ip_address)
    rows = [answers.hosts[address].row(protocol, address) for address in ordered]
    # Who says more than any device does comes last: where room is short, that is what is left out.
    report.announcements = sorted(rows, key=lambda row: len(repr(row)) > LONGEST_USUAL_ROW)
    if answers.foreign:
        shown = ", ".join(sorted(answers.foreign)[:4])
        report.notes.append(f"Not counted: answers from outside the networks asked about ({shown}).")
    if len(answers.hosts) >= MOST_ANSWERERS:
        report.notes.append(f"No more than {MOST_ANSWERERS} hosts are listed.")
    return report


def _group_mac(group: str) -> str:
    """The Ethernet address of an IPv4 group (RFC 1112, 6.4)."""
    last = int(ipaddress.IPv4Address(group)) & 0x7FFFFF
    return "01:00:5e:" + last.to_bytes(3, "big").hex(":")


def _datagram(data: bytes) -> _Datagram | None:
    """Read a UDP datagram by hand: all IPv4 traffic of the interface passes here. A later fragment is none; of a first one, its part."""
    header = (data[14] & 0x0F) * 4 if len(data) >= 34 else 0
    if header < 20 or data[23] != socket.IPPROTO_UDP or int.from_bytes(data[20:22], "big") & 0x1FFF:
        return None
    udp = data[14 + header : 14 + int.from_bytes(data[16:18], "big")]
    if len(udp) < 8:
        return None
    source_port, port = int.from_bytes(udp[:2], "big"), int.from_bytes(udp[2:4], "big")
    return _Datagram(data[6:12].hex(":"), socket.inet_ntoa(data[26:30]), source_port, port, udp[8:])


# --- what was said -----------------------------------------------------------------------------------------------------


def _note_records(host: _Host, message: DNS) -> None:
    """Keep what the records of an answer say."""
    for record in [*(message.an or []), *(message.ar or [])]:
        host.records += 1
        if host.records > MOST_RECORDS or not hasattr(record, "rrname"):
            return
        owner = _name(record.rrname)
        key = owner.lower()
        if record.type == _PTR:
            _note_pointer(host, owner, _name(record.rdata))
        elif record.type == _SRV:
            target = _without_local(_name(record.target))
            host.places[_without_local(key)] = _without_local(owner), target, int(record.port)
            host.names[target] = None
        elif record.type == _TXT:
            host.texts[_without_local(key)] = _txt(record.rdata)
        elif record.type in {_A, _AAAA}:
            host.addresses[str(ipaddress.ip_address(str(record.rdata)))] = None
            host.names[_without_local(owner)] = None


def _note_pointer(host: _Host, owner: str, target: str) -> None:
    if owner.lower() == MDNS_QUESTIONS[0]:
        host.kinds[_without_local(target)] = None
    elif owner.startswith("_"):
        kind = _without_local(owner)
        host.kinds[kind] = None
        # Cut off by the kind's length and not at a dot: an instance's name may have dots in it.
        name = target[: -len(owner) - 1] if target.lower().endswith(f".{owner.lower()}") else target
        host.instances[_without_local(target.lower())] = name, kind


def _note_headers(host: _Host, payload: bytes) -> None:
    """Keep what an answer to an M-SEARCH says: a status line and headers, as in HTTP."""
    headers: dict[bytes, bytes] = {}
    for line in payload[:LONGEST_SSDP_ANSWER].split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    if kind := _said(headers.get(b"st", b"")):
        host.kinds[kind] = None
    if usn := _said(headers.get(b"usn", b"")):
        host.usns[usn] = None
    host.server = _said(headers.get(b"server", b"")) or host.server
    if place := _place(_said(headers.get(b"location", b""))):
        host.locations[place] = None


def _place(location: str) -> str:
    """Host and port of an address, without what else stands in it: names and passwords have no business in a result."""
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not host:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port or (443 if parts.scheme == 'https' else 80)}"


def _txt(entries: Any) -> dict[str, str]:
    """A TXT record's entries (RFC 6763, 6.3), secrets masked."""
    found: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        name, _, value = mask_text(_said(entry)).partition("=")
        if name and len(found) < MOST_TXT:
            found.setdefault(name[:40], value)
    return found


def _name(value: Any) -> str:
    return _said(value).rstrip(".")


def _without_local(name: str) -> str:
    return name[: -len(".local")] if name.lower().endswith(".local") else name


def _said(value: Any) -> str:
    """What a stranger said, printable, on one line and short."""
    said = text(value)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
