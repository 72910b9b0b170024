"""The probes below IP, in the child process: ARP, IPv6 neighbours, DHCP, and listening for LLDP and CDP."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scapy.contrib.cdp import CDPv2_HDR
from scapy.contrib.lldp import LLDPDU
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot3, Ether
from scapy.packet import Packet

from tasks.core.errors import MissingProgram
from tasks.core.rate import Pacer
from tasks.network.capture._scapy_neighbour import read_cdp, read_lldp, text
from tasks.network.capture._scapy_order import Order, Outcome, Probe, Report, Target

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, ETH_P_LLDP, ETH_P_802_2 = 0x0800, 0x0806, 0x86DD, 0x88CC, 0x0004  # <linux/if_ether.h>
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 263, 1, 0  # <linux/if_packet.h>
_LLDP_GROUPS = ("01:80:c2:00:00:0e", "01:80:c2:00:00:03", "01:80:c2:00:00:00")  # IEEE 802.1AB, 7.1
_CDP_GROUP = "01:00:0c:cc:cc:cc"
_NOBODY = "00:00:00:00:00:00"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
MOST_NEIGHBOURS = 256
MOST_CLAIMS, MOST_OFFERS, MOST_LISTED = 16, 64, 16
"""MACs that claim one address, offers, and addresses in one offer: whoever floods the link shall not fill the memory or the result."""
_DHCP_WANTED = [1, 3, 6, 12, 15, 28, 42, 51, 54, 66, 67, 119, 121]
"""Options a DISCOVER asks for: mask, router, name servers, ..., boot server and file, routes (RFC 2132)."""


class Link:
    """A packet socket on an interface that hears one kind of frame, and sends at a pace.

    Args:
        interface: The interface.
        kind: Ethernet type (or a pseudo type of the kernel's).
        rate: Packets per second.
        hear: Called with every frame.
        groups: Multicast addresses to listen to.

    Raises:
        MissingProgram: This process may not open packet sockets.
    """

    def __init__(
        self, interface: str, kind: int, rate: float, hear: Callable[[bytes, float], None], groups: Iterable[str] = ()
    ) -> None:
        self.sent = 0
        self._pacer, self._hear = Pacer(rate), hear
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise MissingProgram("This process may not send raw packets: it lacks CAP_NET_RAW.") from None
        for group in groups:
            request = struct.pack(
                "iHH8s",
                socket.if_nametoindex(interface),
                _PACKET_MR_MULTICAST,
                6,
                bytes.fromhex(group.replace(":", "")),
            )
            self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        self._socket.bind((interface, kind))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear frames inside the block; the socket is closed at its end."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._read)
        try:
            yield
        finally:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()

    async def send(self, frame: Packet) -> float:
        """Send a frame when its turn comes; returns when."""
        await self._pacer.wait()
        at = time.time()
        self._socket.send(bytes(frame))
        self.sent += 1
        return at

    def _read(self) -> None:
        for _ in range(256):
            try:
                data = self._socket.recv(65536)
            except OSError:
                return
            try:
                self._hear(data, time.time())
            except Exception:  # noqa: BLE001, S112 - a dissector that stumbles over a stranger's frame must not end the probe
                continue


class _Asked:
    """Questions to neighbours and the answers: every MAC that claims an address."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.sent_at: dict[str, float] = {}
        self.found: dict[str, dict[str, dict[str, Any]]] = {target.address: {} for target in order.targets}

    def answer(self, address: str, mac: str, at: float, detail: str | None = None) -> None:
        known = self.found.get(address, {mac: {}})
        if address in self.sent_at and mac not in known and len(known) < MOST_CLAIMS:
            rtt = round(max(0.0, at - self.sent_at[address]) * 1000, 3)
            self.found[address][mac] = {"rtt_ms": rtt, "mac": mac, "detail": detail}

    def rows(self) -> Iterator[dict[str, Any]]:
        for target in self.order.targets:
            row = {"target": target.asked, "address": target.address}
            claims = self.found[target.address]
            for claim in claims.values():
                said = claim["detail"]
                if len(claims) > 1:
                    said = f"{said}; " if said else ""
                    said += f"claimed by {len(claims)} MACs{' at least' if len(claims) == MOST_CLAIMS else ''}"
                yield row | claim | {"outcome": Outcome.ANSWERED, "by": target.address, "detail": said}
            if not claims:
                tried = target.address in self.sent_at
                yield row | {"outcome": Outcome.NO_ANSWER if tried else Outcome.NOT_TRIED}


def _ask(
    order: Order, kind: int, question: Callable[[Target], Packet], hear: Callable[[_Asked, bytes, float], None]
) -> Report:
    """Ask neighbours, link by link, and collect who answers."""
    asked = _Asked(order)
    report = Report()

    async def run() -> None:
        ends = time.monotonic() + order.seconds
        for interface in dict.fromkeys(target.interface for target in order.targets):
            near = [target for target in order.targets if target.interface == interface]
            link = Link(interface, kind, order.rate, lambda data, at: hear(asked, data, at))
            with link.listening():
                for _ in range(order.count):
                    for target in near:
                        if time.monotonic() >= ends:
                            report.complete = False
                            break
                        asked.sent_at[target.address] = await link.send(question(target))
                    until = time.monotonic() + max(order.wait, 1 / order.host_rate if order.host_rate else 0.0)
                    # All of a round are waited for, also those that answered: another may claim the same address.
                    await asyncio.sleep(max(0.0, min(ends, until) - time.monotonic()))
            report.sent += link.sent

    asyncio.run(run())
    report.answers = list(asked.rows())
    return report


def arp_ping(order: Order) -> Report:
    """Ask who has an address (RFC 826), by broadcast, from our own address."""

    def question(target: Target) -> Packet:
        who_has = ARP(op=1, hwsrc=target.mac, psrc=target.source, hwdst=_NOBODY, pdst=target.address)
        return Ether(dst=EVERYBODY, src=target.mac) / who_has

    def hear(asked: _Asked, data: bytes, at: float) -> None:
        frame = Ether(data)
        if ARP in frame and frame[ARP].op == 2:
            asked.answer(str(frame[ARP].psrc), str(frame[ARP].hwsrc), at)

    return _ask(order, ETH_P_ARP, question, hear)


def ipv6_neighbours(order: Order) -> Report:
    """Ask for the MAC of an IPv6 address (RFC 4861, 7.2), at the multicast address of those that may have it."""

    def question(target: Target) -> Packet:
        last = ipaddress.IPv6Address(target.address).packed[-3:]
        group = ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + last)
        frame = Ether(dst="33:33:ff:" + ":".join(f"{byte:02x}" for byte in last), src=target.mac)
        solicitation = ICMPv6ND_NS(tgt=target.address) / ICMPv6NDOptSrcLLAddr(lladdr=target.mac)
        return frame / IPv6(src=target.source, dst=str(group), hlim=255) / solicitation

    def hear(asked: _Asked, data: bytes, at: float) -> None:
        if data[20:21] != b"\x3a" or data[54:55] != b"\x88":  # ICMPv6, neighbour advertisement
            return
        frame = Ether(data)
        if ICMPv6ND_NA not in frame or frame[IPv6].hlim != 255:  # RFC 4861, 7.1.2: others came through a router
            return
        said = frame[ICMPv6ND_NA]
        option = frame.getlayer(ICMPv6NDOptDstLLAddr)
        mac = str(option.lladdr) if option is not None else str(frame.src)
        address = str(ipaddress.IPv6Address(said.tgt))
        asked.answer(address, mac, at, "a router" if said.R else None)

    return _ask(order, ETH_P_IPV6, question, hear)


def dhcp_discover(order: Order) -> Report:
    """Ask for an address (RFC 2131, 3.1) and never take it: who offers what."""
    transaction = secrets.randbits(32)
    offers: dict[tuple[str, str], dict[str, Any]] = {}
    report = Report()
    hardware = bytes.fromhex(order.mac.replace(":", ""))
    asked_at: list[float] = []

    def hear(data: bytes, at: float) -> None:
        if data[23:24] != b"\x11" or data[36:38] != b"\x00\x44":  # UDP to port 68
            return
        frame = Ether(data)
        if DHCP in frame and BOOTP in frame and frame[BOOTP].op == 2 and frame[BOOTP].xid == transaction:
            offer = _offer(frame)
            if offer["message"] == "offer" and len(offers) < MOST_OFFERS:
                offer["rtt_ms"] = round((at - asked_at[0]) * 1000, 3)
                offers.setdefault((str(offer["server"]), str(offer["server_mac"])), offer)

    async def run() -> None:
        link = Link(order.interface, ETH_P_IP, order.rate, hear)
        options = [("message-type", "discover"), ("param_req_list", _DHCP_WANTED), "end"]
        # The answer shall be broadcast: we have no socket for the address that is offered.
        bootp = BOOTP(op=1, chaddr=hardware + bytes(10), xid=transaction, flags=0x8000)
        frame = Ether(dst=EVERYBODY, src=order.mac) / IP(src="0.0.0.0", dst="255.255.255.255")  # noqa: S104 - RFC 2131, 4.1
        frame = frame / UDP(sport=68, dport=67) / bootp / DHCP(options=options)
        with link.listening():
            for _ in range(order.count):
                asked_at.append(await link.send(frame))
                await asyncio.sleep(order.wait)  # every server's answer counts, not the first
        report.sent = link.sent

    asyncio.run(run())
    report.offers = list(offers.values())
    return report


def _offer(frame: Packet) -> dict[str, Any]:
    options: dict[str, list[Any]] = {}
    for option in frame[DHCP].options:
        if isinstance(option, tuple) and len(option) > 1:
            options.setdefault(str(option[0]), []).extend(option[1:])

    def one(name: str) -> Any:
        value = next(iter(options.get(name, [])), None)
        return (text(value.rstrip(b"\0")) or None) if isinstance(value, bytes) else value

    kinds = {1: "discover", 2: "offer", 5: "ack", 6: "nak"}
    return {
        "message": kinds.get(one("message-type"), str(one("message-type"))),
        "server": str(one("server_id") or frame[IP].src),
        "server_mac": str(frame.src),
        "relay": str(frame[BOOTP].giaddr) if str(frame[BOOTP].giaddr) != "0.0.0.0" else None,  # noqa: S104
        "address": str(frame[BOOTP].yiaddr),
        "mask": one("subnet_mask"),
        "routers": [str(value) for value in options.get("router", [])][:MOST_LISTED],
        "name_servers": [str(value) for value in options.get("name_server", [])][:MOST_LISTED],
        "domain": one("domain"),
        "lease_seconds": one("lease_time"),
        "boot_file": one("boot-file-name") or text(frame[BOOTP].file.rstrip(b"\0")) or None,
    }


def lldp_listen(order: Order) -> Report:
    """Hear what switches and others say about themselves by LLDP (IEEE 802.1AB) and CDP. Nothing is sent."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    report = Report()

    def hear_lldp(data: bytes, at: float) -> None:
        frame = Ether(data)
        if LLDPDU in frame:
            note(read_lldp(frame))

    def hear_cdp(data: bytes, at: float) -> None:
        if data[:6].hex(":") == _CDP_GROUP:
            frame = Dot3(data)
            if CDPv2_HDR in frame:
                note(read_cdp(frame))

    def note(neighbour: dict[str, Any]) -> None:
        key = (neighbour["protocol"], neighbour["chassis"], neighbour["port"])
        if key in found or len(found) < MOST_NEIGHBOURS:
            found[key] = neighbour | {"heard": found.get(key, {"heard": 0})["heard"] + 1}

    async def run() -> None:
        lldp = Link(order.interface, ETH_P_LLDP, 10, hear_lldp, _LLDP_GROUPS)
        cdp = Link(order.interface, ETH_P_802_2, 10, hear_cdp, (_CDP_GROUP,))
        with lldp.listening(), cdp.listening():
            await asyncio.sleep(order.seconds)

    asyncio.run(run())
    report.neighbours = list(found.values())
    return report


PROBES: dict[Probe, Callable[[Order], Report]] = {
    Probe.ARP_PING: arp_ping,
    Probe.IPV6_NEIGHBOURS: ipv6_neighbours,
    Probe.DHCP_DISCOVER: dhcp_discover,
    Probe.LLDP_LISTEN: lldp_listen,
}
