"""Captures for tests: recorded from real traffic, built by hand, wrapped in every link layer, and read by tshark for comparison.

talk = tcp_talk([(True, b"GET / HTTP/1.0\\r\\n\\r\\n"), (False, b"HTTP/1.0 204 No Content\\r\\n\\r\\n")])
for name, write in VARIANTS.items():
    write(Capture(talk), tmp_path / name)

async with recording(tmp_path / "dns.pcap", "udp port 5353"):
    ...real traffic on loopback...
assert tshark_fields(tmp_path / "dns.pcap", "dns", "dns.qry.name", decode_as=["udp.port==5353,dns"]) == [...]
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tasks.core.errors import MissingProgram
from tasks.core.process import find_program, run_command

NOON_NS = 1_714_564_800_000_000_000  # 2024-05-01 12:00 UTC
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ETHERNET, NULL, RAW, COOKED, COOKED_2, PPP = 1, 0, 101, 113, 276, 9


def _missing(program: str) -> str | None:
    try:
        find_program(program)
    except MissingProgram as error:
        return str(error)
    return None


def has_tshark() -> bool:
    """Whether there is a tshark to agree with."""
    return _missing("tshark") is None


needs_tshark = pytest.mark.skipif(_missing("tshark") is not None, reason=_missing("tshark") or "")
"""Skips a test where there is no tshark to agree with, and says so."""


# --- packets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packet:
    """A frame and its time. `wire` is its length on the wire where the capture cut it."""

    time_ns: int
    data: bytes
    wire: int | None = None


@dataclass(frozen=True)
class Capture:
    """Frames of one link type."""

    packets: Sequence[Packet]
    link: int = ETHERNET

    def mapped(self, change: Callable[[bytes], bytes], link: int | None = None) -> Capture:
        """Every frame changed."""
        return Capture(
            [replace(packet, data=change(packet.data)) for packet in self.packets], self.link if link is None else link
        )


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(
    source: str, destination: str, protocol: int, payload: bytes, *, identification: int = 0, fragment: int = 0x4000
) -> bytes:
    """An IPv4 or IPv6 packet; `fragment` is IPv4's flags and offset."""
    a, b = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(a) == 16:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + a + b + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), identification, fragment, 64, protocol, 0) + a + b
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def ethernet(packet: bytes, kind: int | None = None) -> bytes:
    """An Ethernet frame around an IP packet (or anything, with its type)."""
    if kind is None:
        kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return bytes.fromhex("0200000000020200000000 01".replace(" ", "")) + struct.pack(">H", kind) + packet


def _with_checksum(source: str, destination: str, protocol: int, segment: bytes, at: int) -> bytes:
    a, b = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    pseudo = (
        a
        + b
        + (
            struct.pack(">BBH", 0, protocol, len(segment))
            if len(a) == 4
            else struct.pack(">II", len(segment), protocol)
        )
    )
    value = checksum(pseudo + segment) or 0xFFFF
    return segment[:at] + struct.pack(">H", value) + segment[at + 2 :]


def udp(source: str, source_port: int, destination: str, destination_port: int, payload: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram."""
    segment = struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    return ethernet(ip(source, destination, 17, _with_checksum(source, destination, 17, segment, 6)))


def tcp(
    source: str, source_port: int, destination: str, destination_port: int, payload: bytes = b"", *,
    flags: int = ACK, seq: int = 0, ack: int = 0, window: int = 64240, options: bytes = b"",
) -> bytes:  # fmt: skip
    """An Ethernet frame with a TCP segment."""
    options += b"\1" * (-len(options) % 4)
    segment = struct.pack(
        ">HHIIBBHHH", source_port, destination_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, (20 + len(options)) // 4 << 4, flags,
        window, 0, 0,
    ) + options + payload  # fmt: skip
    return ethernet(ip(source, destination, 6, _with_checksum(source, destination, 6, segment, 16)))


def tcp_talk(
    messages: Iterable[tuple[bool, bytes]],
    *,
    client: str = "10.0.0.1",
    client_port: int = 50_000,
    server: str = "10.0.0.2",
    server_port: int = 80,
    start_ns: int = NOON_NS,
    gap_ns: int = 1_000_000,
    segment_size: int = 1400,
    handshake: bool = True,
    farewell: str = "fin",
    client_seq: int = 1000,
    server_seq: int = 5000,
) -> list[Packet]:
    """A TCP conversation that carries messages: `(from the client?, bytes)`, each acknowledged.

    Args:
        messages: What is said, in order.
        client: Address of the client.
        client_port: Its port.
        server: Address of the server.
        server_port: Its port.
        start_ns: Time of the first packet.
        gap_ns: Time between packets.
        segment_size: Most bytes of a segment; small enough for every wrapping below.
        handshake: Whether it begins with one.
        farewell: `fin`, `rst` (by the client) or `none`.
        client_seq: Initial sequence number of the client.
        server_seq: And of the server.
    """
    packets: list[Packet] = []
    ends = ((client, client_port), (server, server_port))
    seq = [client_seq, server_seq]

    def send(side: int, flags: int, payload: bytes = b"", acked: bool = True) -> None:
        (source, source_port), (destination, destination_port) = ends[side], ends[1 - side]
        data = tcp(
            source, source_port, destination, destination_port, payload, flags=flags, seq=seq[side],
            ack=seq[1 - side] if acked else 0,
        )  # fmt: skip
        packets.append(Packet(start_ns + len(packets) * gap_ns, data))
        seq[side] += len(payload) + bool(flags & (SYN | FIN))

    if handshake:
        send(0, SYN, acked=False)
        send(1, SYN | ACK)
        send(0, ACK)
    else:
        seq = [client_seq + 1, server_seq + 1]
    for from_client, message in messages:
        side = 0 if from_client else 1
        for at in range(0, len(message), segment_size):
            send(side, PSH | ACK, message[at : at + segment_size])
        send(1 - side, ACK)
    if farewell == "fin":
        send(0, FIN | ACK)
        send(1, FIN | ACK)
        send(0, ACK)
    elif farewell == "rst":
        send(0, RST | ACK)
    return packets


def merged(*talks: Iterable[Packet]) -> list[Packet]:
    """Conversations side by side, in the order of time."""
    return sorted((packet for talk in talks for packet in talk), key=lambda packet: packet.time_ns)


# --- link layers, tunnels, fragments: of Ethernet frames with IP in them ------------------------------------------------


def _kind(frame: bytes) -> bytes:
    return frame[12:14]


def as_vlan(capture: Capture, tag: int = 7) -> Capture:
    """In a VLAN (IEEE 802.1Q)."""
    return capture.mapped(lambda frame: frame[:12] + struct.pack(">HH", 0x8100, tag) + frame[12:])


def as_qinq(capture: Capture) -> Capture:
    """In a VLAN within a provider's (IEEE 802.1ad)."""
    return as_vlan(capture).mapped(lambda frame: frame[:12] + struct.pack(">HH", 0x88A8, 100) + frame[12:])


def as_pppoe(capture: Capture) -> Capture:
    """In a PPPoE session (RFC 2516)."""

    def wrap(frame: bytes) -> bytes:
        protocol = b"\x00\x21" if _kind(frame) == b"\x08\x00" else b"\x00\x57"
        return frame[:12] + b"\x88\x64\x11\x00" + struct.pack(">HH", 1, len(frame) - 12) + protocol + frame[14:]

    return capture.mapped(wrap)


def as_mpls(capture: Capture) -> Capture:
    """Behind two MPLS labels (RFC 3032)."""
    labels = struct.pack(">II", 100 << 12 | 64, 200 << 12 | 0x100 | 64)
    return capture.mapped(lambda frame: frame[:12] + b"\x88\x47" + labels + frame[14:])


def as_snap(capture: Capture) -> Capture:
    """In IEEE 802.3 frames with LLC and SNAP (RFC 1042)."""
    return capture.mapped(
        lambda frame: frame[:12] + struct.pack(">H", len(frame) - 6) + b"\xaa\xaa\x03\0\0\0" + frame[12:]
    )


def as_gre(capture: Capture) -> Capture:
    """In GRE with a key (RFC 2890)."""
    return capture.mapped(
        lambda frame: ethernet(ip("192.0.2.1", "192.0.2.2", 47, b"\x20\x00" + _kind(frame) + b"\0\0\0\1" + frame[14:]))
    )


def as_gre_ethernet(capture: Capture) -> Capture:
    """In GRE that carries Ethernet frames, over IPv6."""
    return capture.mapped(lambda frame: ethernet(ip("2001:db8::1", "2001:db8::2", 47, b"\x00\x00\x65\x58" + frame)))


def as_vxlan(capture: Capture) -> Capture:
    """In VXLAN (RFC 7348)."""
    head = struct.pack(">II", 0x08 << 24, 77 << 8)
    return capture.mapped(lambda frame: udp("192.0.2.1", 51_000, "192.0.2.2", 4789, head + frame))


def as_geneve(capture: Capture) -> Capture:
    """In Geneve with an option, Ethernet frames inside (RFC 8926), over IPv6."""
    head = struct.pack(">BBHIHBB", 1, 0, 0x6558, 77 << 8, 0x0102, 3, 0)
    return capture.mapped(lambda frame: udp("2001:db8::1", 51_000, "2001:db8::2", 6081, head + frame))


def as_geneve_ip(capture: Capture) -> Capture:
    """In Geneve without options, IP right inside."""
    return capture.mapped(
        lambda frame: udp("192.0.2.1", 51_000, "192.0.2.2", 6081, b"\0\0" + _kind(frame) + b"\0\0\x4d\0" + frame[14:])
    )


def as_gtp(capture: Capture) -> Capture:
    """In GTP-U with a sequence number and a PDU session container (TS 29.281, TS 38.415)."""

    def wrap(frame: bytes) -> bytes:
        more = bytes.fromhex("0001 00 85 01000900") + frame[14:]
        return udp("192.0.2.1", 2152, "192.0.2.2", 2152, struct.pack(">BBHI", 0x36, 0xFF, len(more), 0xABCD) + more)

    return capture.mapped(wrap)


def as_plain_gtp(capture: Capture) -> Capture:
    """In GTP-U with nothing but a tunnel's name."""
    return capture.mapped(
        lambda frame: udp(
            "192.0.2.1", 2152, "192.0.2.2", 2152, struct.pack(">BBHI", 0x30, 0xFF, len(frame) - 14, 0xABCD) + frame[14:]
        )
    )


def as_ip_in_ip(capture: Capture) -> Capture:
    """In IPv4 once more (RFC 2003, RFC 4213)."""
    return capture.mapped(
        lambda frame: ethernet(ip("192.0.2.1", "192.0.2.2", 4 if _kind(frame) == b"\x08\x00" else 41, frame[14:]))
    )


def as_cooked(capture: Capture) -> Capture:
    """As Linux' interface `any` gives it, version 1."""
    return capture.mapped(lambda frame: b"\0\0\0\1\0\6" + frame[6:12] + b"\0\0" + frame[12:], COOKED)


def as_cooked_2(capture: Capture) -> Capture:
    """As Linux' interface `any` gives it, version 2."""
    return capture.mapped(
        lambda frame: _kind(frame) + b"\0\0\0\0\0\2\0\1\0\6" + frame[6:12] + b"\0\0" + frame[14:], COOKED_2
    )


def as_raw_ip(capture: Capture) -> Capture:
    """Without a link layer."""
    return capture.mapped(lambda frame: frame[14:], RAW)


def as_null(capture: Capture) -> Capture:
    """As a BSD's loopback gives it, with its machine's byte order."""
    return capture.mapped(lambda frame: struct.pack("<I", 2 if _kind(frame) == b"\x08\x00" else 30) + frame[14:], NULL)


def as_ppp(capture: Capture) -> Capture:
    """On a PPP link."""
    return capture.mapped(
        lambda frame: b"\xff\x03" + (b"\x00\x21" if _kind(frame) == b"\x08\x00" else b"\x00\x57") + frame[14:], PPP
    )


def as_ipv6_extended(capture: Capture) -> Capture:
    """IPv6 packets with hop-by-hop options, a routing header and destination options; IPv4 stays as it is."""

    def wrap(frame: bytes) -> bytes:
        if _kind(frame) != b"\x86\xdd":
            return frame
        header, protocol, rest = frame[14:54], frame[20], frame[54:]
        hop, route = bytes([43, 0, 1, 4, 0, 0, 0, 0]), bytes([60, 0, 0, 0, 0, 0, 0, 0])
        more = hop + route + bytes([protocol, 1, 1, 12]) + bytes(12) + rest
        return frame[:14] + header[:4] + struct.pack(">HB", len(more), 0) + header[7:] + more

    return capture.mapped(wrap)


def as_fragments(capture: Capture, size: int = 512, *, reverse: bool = False) -> Capture:
    """IP packets whose payload is longer than `size` (a multiple of 8) as fragments, 1 microsecond apart."""
    packets: list[Packet] = []
    for count, packet in enumerate(capture.packets):
        frame = packet.data
        version_4 = _kind(frame) == b"\x08\x00"
        body = frame[34 : 14 + struct.unpack(">H", frame[16:18])[0]] if version_4 else frame[54:]
        if len(body) <= size:
            packets.append(packet)
            continue
        parts: list[bytes] = []
        for at in range(0, len(body), size):
            more = at + size < len(body)
            if version_4:
                source, destination = (str(ipaddress.IPv4Address(frame[i : i + 4])) for i in (26, 30))
                part = ip(
                    source,
                    destination,
                    frame[23],
                    body[at : at + size],
                    identification=count + 1,
                    fragment=at // 8 | more << 13,
                )
            else:
                source, destination = (str(ipaddress.IPv6Address(frame[i : i + 16])) for i in (22, 38))
                header = struct.pack(">BBHI", frame[20], 0, at | more, count + 1)
                part = ip(source, destination, 44, header + body[at : at + size])
            parts.append(ethernet(part))
        packets += [
            Packet(packet.time_ns + 1000 * index, part)
            for index, part in enumerate(reversed(parts) if reverse else parts)
        ]
    return Capture(packets, capture.link)


def cut(capture: Capture, snap_length: int) -> Capture:
    """As a capture with this snap length has it."""
    return Capture(
        [
            replace(packet, data=packet.data[:snap_length], wire=packet.wire or len(packet.data))
            for packet in capture.packets
        ],
        capture.link,
    )


# --- files -----------------------------------------------------------------------------------------------------------


def write_pcap(capture: Capture, path: Path, *, nanosecond: bool = False, big_endian: bool = False) -> Path:
    """Write a pcap file."""
    order, unit = ">" if big_endian else "<", 1 if nanosecond else 1000
    parts = [
        struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nanosecond else 0xA1B2C3D4, 2, 4, 0, 0, 262_144, capture.link)
    ]
    for packet in capture.packets:
        seconds, rest = divmod(packet.time_ns, 1_000_000_000)
        wire = packet.wire or len(packet.data)
        parts += [struct.pack(f"{order}IIII", seconds, rest // unit, len(packet.data), wire), packet.data]
    path.write_bytes(b"".join(parts))
    return path


def _block(order: str, kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def write_pcapng(
    captures: Sequence[Capture],
    path: Path,
    *,
    big_endian: bool = False,
    resolutions: Sequence[int] = (6, 9, 0x80 | 20),
    sections: int = 1,
) -> Path:
    """Write a pcapng file with an interface for each capture, packets in the order of time.

    Args:
        captures: Frames of one interface each.
        path: Where to.
        big_endian: Byte order.
        resolutions: `if_tsresol` of the interfaces in turn.
        sections: The file is that many sections, with the interfaces described in each; the packets are in turn in one of them.
    """
    order = ">" if big_endian else "<"
    packets = sorted(
        ((packet.time_ns, index, packet) for index, capture in enumerate(captures) for packet in capture.packets),
        key=lambda entry: entry[:2],
    )
    parts: list[bytes] = []
    share = -(-len(packets) // sections) or 1
    for section in range(sections):
        parts.append(_block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)))
        for index, capture in enumerate(captures):
            resolution = resolutions[index % len(resolutions)]
            options = (
                struct.pack(f"{order}HH", 2, 4) + b"eth0" + struct.pack(f"{order}HHB", 9, 1, resolution) + b"\0\0\0"
            )
            body = struct.pack(f"{order}HHI", capture.link, 0, 262_144) + options + b"\0\0\0\0"
            parts.append(_block(order, 1, body))
        parts.append(_block(order, 5, struct.pack(f"{order}III", 0, 0, 0)))  # statistics: to be skipped
        for time_ns, index, packet in packets[section * share : (section + 1) * share]:
            resolution = resolutions[index % len(resolutions)]
            units = 1 << (resolution & 0x7F) if resolution & 0x80 else 10**resolution
            # Rounded up: what reads it back rounds down.
            stamp = -(-time_ns * units // 1_000_000_000)
            wire = packet.wire or len(packet.data)
            head = struct.pack(f"{order}IIIII", index, stamp >> 32, stamp & 0xFFFFFFFF, len(packet.data), wire)
            parts.append(_block(order, 6, head + packet.data + b"\0" * (-len(packet.data) % 4)))
    path.write_bytes(b"".join(parts))
    return path


def _several_interfaces(capture: Capture, path: Path) -> Path:
    """Packets in turn from an Ethernet interface, a cooked one and one without link layer, of different time resolutions."""
    turns = [Capture(capture.packets[turn::3], capture.link) for turn in range(3)]
    return write_pcapng([turns[0], as_cooked(turns[1]), as_raw_ip(turns[2])], path)


VARIANTS: dict[str, Callable[[Capture, Path], Path]] = {
    "plain": write_pcap,
    "nanosecond": lambda capture, path: write_pcap(capture, path, nanosecond=True),
    "big-endian": lambda capture, path: write_pcap(capture, path, big_endian=True),
    "big-endian-nanosecond": lambda capture, path: write_pcap(capture, path, big_endian=True, nanosecond=True),
    "pcapng": lambda capture, path: write_pcapng([capture], path),
    "pcapng-big-endian": lambda capture, path: write_pcapng([capture], path, big_endian=True),
    "pcapng-interfaces": _several_interfaces,
    "pcapng-sections": lambda capture, path: write_pcapng([capture], path, sections=3),
    "vlan": lambda capture, path: write_pcap(as_vlan(capture), path),
    "qinq": lambda capture, path: write_pcap(as_qinq(capture), path),
    "pppoe": lambda capture, path: write_pcap(as_pppoe(capture), path),
    "pppoe-in-vlan": lambda capture, path: write_pcap(as_vlan(as_pppoe(capture)), path),
    "mpls": lambda capture, path: write_pcap(as_mpls(capture), path),
    "snap": lambda capture, path: write_pcap(as_snap(capture), path),
    "gre": lambda capture, path: write_pcap(as_gre(capture), path),
    "gre-ethernet": lambda capture, path: write_pcap(as_gre_ethernet(capture), path),
    "vxlan": lambda capture, path: write_pcap(as_vxlan(capture), path),
    "geneve": lambda capture, path: write_pcap(as_geneve(capture), path),
    "geneve-ip": lambda capture, path: write_pcap(as_geneve_ip(capture), path),
    "gtp": lambda capture, path: write_pcap(as_gtp(capture), path),
    "gtp-plain": lambda capture, path: write_pcap(as_plain_gtp(capture), path),
    "ip-in-ip": lambda capture, path: write_pcap(as_ip_in_ip(capture), path),
    "cooked": lambda capture, path: write_pcap(as_cooked(capture), path),
    "cooked-2": lambda capture, path: write_pcap(as_cooked_2(capture), path),
    "raw": lambda capture, path: write_pcap(as_raw_ip(capture), path),
    "null": lambda capture, path: write_pcap(as_null(capture), path),
    "ppp": lambda capture, path: write_pcap(as_ppp(capture), path),
    "ipv6-extended": lambda capture, path: write_pcap(as_ipv6_extended(capture), path),
}
"""The same Ethernet frames with IP, as captures of every kind. What a capture says does not depend on which."""


# --- real traffic ----------------------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """Where tcpdump wrote what it heard; complete when the block ends."""

    path: Path
    notes: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def datagrams() -> AsyncIterator[int]:
    """A port on loopback that gets datagrams meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]

        async def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                while True:
                    sender.sendto(b"hello", ("127.0.0.1", port))
                    await asyncio.sleep(0.01)

        sending = asyncio.create_task(send())
        try:
            yield port
        finally:
            sending.cancel()


@contextlib.asynccontextmanager
async def recording(
    path: Path, expression: str = "", *, interface: str = "lo", snap_length: int = 0, seconds: float = 120.0
) -> AsyncIterator[Recorded]:
    """Record real traffic into a file while the block runs. Needs root.

    Args:
        path: The file.
        expression: What to record (pcap-filter syntax).
        interface: Where.
        snap_length: Bytes of each packet; 0 for all.
        seconds: After which it ends in any case.
    """
    argv = [find_program("tcpdump"), "-i", interface, "-n", "-p", "-U", "--immediate-mode", "-B", "16384"]
    argv += ["-s", str(snap_length), "-Z", "root", "-w", str(path), *([expression] if expression else [])]
    tcpdump = asyncio.create_task(run_command(argv, timeout=seconds))
    try:
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(lambda: path.exists() and path.stat().st_size):
                if tcpdump.done():
                    tcpdump.result()
                await asyncio.sleep(0.02)
        yield Recorded(path)
        size = -1  # until nothing more comes
        for _ in range(50):
            await asyncio.sleep(0.2)
            now = (await asyncio.to_thread(path.stat)).st_size
            if now == size:
                break
            size = now
    finally:
        tcpdump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tcpdump


# --- what tshark says ------------------------------------------------------------------------------------------------


def tshark(*arguments: str, timeout: float = 100) -> str:
    """Run tshark; its output. What it says about damaged files is not an error here."""
    done = subprocess.run(
        [find_program("tshark"), "-n", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        errors="replace",
    )
    if done.returncode and not done.stdout and not re.search(r"cut short|damaged|corrupt", done.stderr):
        raise AssertionError(f"tshark {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def tshark_fields(
    path: Path, display_filter: str, *fields: str, decode_as: Sequence[str] = (), options: Sequence[str] = ()
) -> list[list[str]]:
    """Rows of fields of the packets that match; of a field that is there several times, the values with commas between.

    Args:
        path: The capture.
        display_filter: Which packets; empty for all.
        fields: Their names.
        decode_as: As `-d` takes it, such as `tcp.port==8080,http`.
        options: Preferences, as `-o` takes them.
    """
    arguments = ["-r", str(path), "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]
    arguments += [word for name in fields for word in ("-e", name)]
    arguments += [word for entry in decode_as for word in ("-d", entry)]
    arguments += [word for entry in options for word in ("-o", entry)]
    arguments += ["-Y", display_filter] if display_filter else []
    return [line.split("\t") for line in tshark(*arguments).splitlines()]


def tshark_conversations(path: Path, kind: str) -> list[tuple[str, str, int, int]]:
    """The conversations of `-z conv,KIND`: both ends as `address:port`, packets to the first, packets from it.

    Bytes are not there: tshark rounds them to kilobytes.
    """
    row = re.compile(r"^(\S+)\s+<->\s+(\S+)\s+(\d+)\s+[\d.,]+ \w+\s+(\d+)\s+")
    found = (row.match(line) for line in tshark("-q", "-r", str(path), "-z", f"conv,{kind}").splitlines())
    return [(match[1], match[2], int(match[3]), int(match[4])) for match in found if match]
