"""Makes a capture of many mixed packets, fast: conversations are written once, then repeated with other addresses and times."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import struct
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.message
import numpy as np

FIN, SYN, PSH, ACK = 1, 2, 8, 16
START_SECONDS = 1_714_564_800  # 2024-05-01 12:00 UTC
_ETHERNET = bytes.fromhex("020000000002020000000001") + b"\x08\x00"

Talk = list[tuple[bool, bytes]]


def write(path: Path, packets: int) -> int:
    """Write a pcap file with about so many packets; return how many there are.

    Of every hundred packets some fifty are bulk transfers, the others HTTP, TLS, DNS, SSH, SMTP, FTP, NTP and syslog.
    """
    records = _block()
    data = bytearray()
    offsets: list[int] = []
    for _, frame in records:
        offsets.append(len(data))
        data += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
    block = np.frombuffer(data, np.uint8)
    at = np.array(offsets)
    view = np.array(block)
    words = np.ndarray((len(view) - 3,), np.dtype("<u4"), view, strides=(1,))
    micros = np.array([time for time, _ in records], np.int64)
    span = int(micros[-1]) + 1000
    # Clients are 10.0.0.0/8 and those after it: the first two bytes say which repetition it is.
    sources = at + 16 + 26
    clients = np.where(view[sources] == 10, sources, sources + 4)
    times = -(-packets // len(records))
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for repetition in range(times):
            view[clients], view[clients + 1] = 10 + (repetition >> 8), repetition & 0xFF
            moment = micros + repetition * span
            words[at], words[at + 4] = START_SECONDS + moment // 1_000_000, moment % 1_000_000
            file.write(view.tobytes())
    return times * len(records)


def write_flood(path: Path, packets: int) -> None:
    """Write a pcap file of SYNs and DNS questions by turns, each from an address of its own."""
    opening = struct.pack(">HHIIBBHHH", 1024, 80, 1, 0, 0x50, SYN, 64_000, 0, 0)
    frames = (_ip("10.0.0.0", "192.0.2.80", 6, opening), _udp("10.0.0.0", 1024, "192.0.2.53", 53, bytes(12)))
    records = b"".join(struct.pack("<IIII", START_SECONDS, 0, len(frame), len(frame)) + frame for frame in frames)
    # The offset of the source address's last three bytes, which count.
    places = (16 + 27, 32 + len(frames[0]) + 27)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for first in range(0, packets // 2, 100_000):
            number = np.arange(first, min(first + 100_000, packets // 2))
            rows = np.tile(np.frombuffer(records, np.uint8), (len(number), 1))
            for place in places:
                for byte in range(3):
                    rows[:, place + byte] = number >> 8 * (2 - byte) & 0xFF
            file.write(rows.tobytes())


def _block() -> list[tuple[int, bytes]]:
    """One repetition: some 20,000 packets, sorted by time (microseconds)."""
    packets: list[tuple[int, bytes]] = []
    tls = _tls()
    number = 0

    def talks(many: int, talk: Talk, port: int, *, gap: int = 400, lossy: bool = False) -> None:
        nonlocal number
        for _ in range(many):
            number += 1
            packets.extend(
                _conversation(
                    talk, f"10.0.{number % 250}.{number % 200 + 1}", 10_000 + number, port, number * 1700, gap, lossy
                )
            )

    talks(20, [(True, b"send"), *[(False, bytes(1400))] * 400], 9000, gap=150)
    talks(4, [(True, b"send"), *[(False, bytes(1400))] * 200], 9001, gap=150, lossy=True)
    page = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 900\r\n\r\n" + b"x" * 900
    ask = b"GET /page/%d HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n\r\n"
    talks(120, [part for n in range(4) for part in ((True, ask % n), (False, page))], 80)
    talks(120, [*tls, *[(False, b"\x17\x03\x03\x03\xe8" + bytes(1000))] * 3], 443)
    kex = [
        (False, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (True, b"SSH-2.0-OpenSSH_9.6\r\n"),
        (True, _kexinit()),
        (False, _kexinit()),
    ]
    talks(60, [*kex, *[(True, bytes([7] * 64)), (False, bytes([9] * 96))] * 6], 22)
    talks(60, _SMTP, 25)
    talks(60, _FTP, 21)
    for n in range(900):
        client, port, moment = f"10.0.{n % 250}.{n % 199 + 1}", 20_000 + n, n * 1900
        query = dns.message.make_query(f"host{n % 97}.example.com", "A", id=n + 1)
        answer = dns.message.make_response(query)
        packets += [
            (moment, _udp(client, port, "192.0.2.53", 53, query.to_wire())),
            (moment + 900, _udp("192.0.2.53", 53, client, port, answer.to_wire())),
        ]
        if n % 3 == 0:
            packets.append((moment + 50, _udp(client, 123, "192.0.2.123", 123, b"\x23" + bytes(47))))
            packets.append((moment + 70, _udp(client, 30_000 + n, "192.0.2.99", 514, b"<13>bench: a line of a log")))
    packets.sort(key=lambda packet: packet[0])
    return packets


def _ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return _ETHERNET + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + ends + payload


def _udp(source: str, source_port: int, destination: str, destination_port: int, payload: bytes) -> bytes:
    return _ip(
        source, destination, 17, struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    )


def _conversation(
    talk: Talk, client: str, port: int, server_port: int, moment: int, gap: int, lossy: bool
) -> list[tuple[int, bytes]]:
    ends = ((client, port), (f"192.0.2.{server_port % 200}", server_port))
    seq = [1000, 2000]
    packets: list[tuple[int, bytes]] = []
    last = [0, 0]

    def send(side: int, flags: int, payload: bytes = b"") -> None:
        (source, source_port), (target, target_port) = ends[side], ends[1 - side]
        acked = seq[1 - side] if flags & ACK else 0
        last[side] = acked
        segment = struct.pack(
            ">HHIIBBHHH", source_port, target_port, seq[side], acked, 0x50, flags, 64_000 - len(packets) % 2, 0, 0
        )
        frame = _ip(source, target, 6, segment + payload)
        packets.append((moment + len(packets) * gap, frame))
        if lossy and len(packets) % 50 == 0:
            packets.append((moment + len(packets) * gap, frame))
        seq[side] += len(payload) + bool(flags & (SYN | FIN))

    send(0, SYN)
    send(1, SYN | ACK)
    send(0, ACK)
    for place, (from_client, message) in enumerate(talk):
        side = 0 if from_client else 1
        for at in range(0, len(message), 1400):
            send(side, PSH | ACK, message[at : at + 1400])
        answered = place + 1 < len(talk) and talk[place + 1][0] != from_client
        if not answered and place % 2:
            send(1 - side, ACK)
    send(0, FIN | ACK)
    send(1, FIN | ACK)
    send(0, ACK)
    return packets


def _kexinit() -> bytes:
    lists = (
        b"curve25519-sha256,ecdh-sha2-nistp256", b"ssh-ed25519,rsa-sha2-512", b"aes256-gcm@openssh.com,aes128-ctr",
        b"aes256-gcm@openssh.com,aes128-ctr", b"hmac-sha2-256", b"hmac-sha2-256", b"none", b"none", b"", b"",
    )  # fmt: skip
    return _ssh_packet(
        b"\x14" + bytes(16) + b"".join(struct.pack(">I", len(names)) + names for names in lists) + bytes(5)
    )


def _ssh_packet(body: bytes) -> bytes:
    padding = 16 - (len(body) + 5) % 8
    return struct.pack(">IB", len(body) + padding + 1, padding) + body + bytes(padding)


def _tls() -> Talk:
    """A real handshake (TLS 1.2, so that the certificate is in the clear)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(90)).sign(key, hashes.SHA256())
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "server.pem")
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_side.maximum_version = ssl.TLSVersion.TLSv1_2
        server_side.load_cert_chain(file)
    client_side = ssl.create_default_context()
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    talk: Talk = []
    outgoing = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    incoming = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    objects = [
        client_side.wrap_bio(incoming[0], outgoing[0], server_hostname="www.example.com"),
        server_side.wrap_bio(incoming[1], outgoing[1], server_side=True),
    ]
    for _ in range(6):
        for side in (0, 1):
            with contextlib.suppress(ssl.SSLWantReadError):
                objects[side].do_handshake()
            if data := outgoing[side].read():
                talk.append((side == 0, data))
                incoming[1 - side].write(data)
    return talk


_SMTP: Talk = [
    (False, b"220 mail.example.com ESMTP Postfix\r\n"),
    (True, b"EHLO client.example.com\r\n"),
    (False, b"250-mail.example.com\r\n250-SIZE 10240000\r\n250-STARTTLS\r\n250 8BITMIME\r\n"),
    (True, b"MAIL FROM:<a@example.com>\r\n"),
    (False, b"250 2.1.0 Ok\r\n"),
    (True, b"RCPT TO:<b@example.com>\r\n"),
    (False, b"250 2.1.5 Ok\r\n"),
    (True, b"DATA\r\n"),
    (False, b"354 End data with <CR><LF>.<CR><LF>\r\n"),
    (True, b"Subject: bench\r\n\r\n" + b"A line of a mail.\r\n" * 60 + b".\r\n"),
    (False, b"250 2.0.0 Ok: queued\r\n"),
    (True, b"QUIT\r\n"),
    (False, b"221 2.0.0 Bye\r\n"),
]
_FTP: Talk = [
    (False, b"220 FTP server ready.\r\n"),
    (True, b"USER bench\r\n"),
    (False, b"331 Password required.\r\n"),
    (True, b"PASS bench\r\n"),
    (False, b"230 Logged in.\r\n"),
    (True, b"PWD\r\n"),
    (False, b'257 "/" is the current directory.\r\n'),
    (True, b"PASV\r\n"),
    (False, b"227 Entering Passive Mode (192,0,2,21,200,10).\r\n"),
    (True, b"RETR file.bin\r\n"),
    (False, b"150 Opening data connection.\r\n"),
    (False, b"226 Transfer complete.\r\n"),
    (True, b"QUIT\r\n"),
    (False, b"221 Goodbye.\r\n"),
]
