"""TLS and QUIC as bytes, without a network: real handshakes of OpenSSL in memory, certificates as they go wrong, Initial packets.

talk = handshake(client_context(), server_context(certificate("web.example")), "web.example")
write_pcap(Capture(tcp_talk(talk, server_port=443)), tmp_path / "web.pcap")
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

Talk = list[tuple[bool, bytes]]
"""What is said: from the client?, bytes."""


@functools.cache
def _key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as one PEM."""

    pem: bytes
    der: bytes
    serial: int


def certificate(
    *names: str,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    bits: int = 2048,
    issuer: str | None = None,
    sha1: bool = False,
) -> Issued:
    """Make a certificate for names: signed by itself, or by a key of its issuer's.

    No library signs with SHA-1 any more: one that says so has a signature that is wrong, which nobody here checks.
    """
    now = datetime.now(UTC)
    key = _key(bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    signer = subject if issuer is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - timedelta(days=1))
        .not_valid_after(not_after or now + timedelta(days=365))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key if issuer is None else _key(3072), hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    der = made.public_bytes(serialization.Encoding.DER)
    if sha1:  # sha1WithRSAEncryption instead of sha256WithRSAEncryption
        der = der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))
    return Issued(ssl.DER_cert_to_PEM_cert(der).encode() + private, der, made.serial_number)


def server_context(
    issued: Issued | None,
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str | None = None,
    protocols: Sequence[str] = (),
    groups: str | None = None,
) -> ssl.SSLContext:
    """A server's context. With ciphers of its own it takes weak ones, and old versions."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _loosen(context, newest, ciphers)
    if issued is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(issued.pem)
            file.flush()
            context.load_cert_chain(file.name)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if groups:
        context.set_ecdh_curve(groups)
    return context


def client_context(
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str | None = None,
    protocols: Sequence[str] = (),
    verify: bool = False,
) -> ssl.SSLContext:
    """A client's context; one that verifies trusts nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _loosen(context, newest, ciphers)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _loosen(context: ssl.SSLContext, newest: ssl.TLSVersion, ciphers: str | None) -> None:
    if ciphers:
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    if newest < ssl.TLSVersion.TLSv1_2:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = newest
    context.maximum_version = newest


def handshake(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    name: str | None,
    *,
    said: bytes = b"GET / HTTP/1.0\r\n\r\n",
    session: ssl.SSLSession | None = None,
    sessions: list[ssl.SSLSession] | None = None,
) -> Talk:
    """What OpenSSL says on both sides: the handshake, some data, and its failure where it fails.

    Args:
        client: The client's context.
        server: The server's.
        name: SNI.
        said: Data that the client sends and the server sends back.
        session: A session to take up.
        sessions: Gets the session for a later one.
    """
    wires = [ssl.MemoryBIO() for _ in range(4)]
    one = client.wrap_bio(wires[0], wires[1], server_hostname=name, session=session)
    other = server.wrap_bio(wires[2], wires[3], server_side=True)
    talk: Talk = []

    def step(from_client: bool, act: Callable[[], object]) -> bool | None:
        """Let one side act and carry over what it writes. None when it gave up."""
        done: bool | None = True
        try:
            act()
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            done = False
        except ssl.SSLError:
            done = None
        if data := wires[1 if from_client else 3].read():
            talk.append((from_client, data))
            wires[2 if from_client else 0].write(data)
        return done

    finished: list[bool | None] = [False, False]
    for _ in range(12):
        for side, act in enumerate((one.do_handshake, other.do_handshake)):
            if finished[side] is False:
                finished[side] = step(not side, act)
    if all(finished):
        step(True, lambda: one.write(said))
        step(False, lambda: other.write(other.read(65536)))
        step(True, lambda: one.read(65536))
        if sessions is not None and one.session is not None:
            sessions.append(one.session)
        step(True, one.unwrap)
    return talk


def client_hello(name: str, **options: object) -> bytes:
    """The record with a ClientHello alone."""
    return handshake(client_context(**options), server_context(None), name)[0][1]  # type: ignore[arg-type]


def in_records(record: bytes, size: int) -> bytes:
    """A handshake record as several of at most `size` bytes (RFC 8446 section 5.1 allows it)."""
    body = record[5:]
    return b"".join(
        record[:3] + len(body[at : at + size]).to_bytes(2, "big") + body[at : at + size]
        for at in range(0, len(body), size)
    )


# --- QUIC, written after RFC 9001 and 9369 without a look at the analyzer ---------------------------------------------

V1, V2 = 0x00000001, 0x6B3343CF


def _expand_label(secret: bytes, label: str, size: int) -> bytes:
    full = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    return hmac.new(secret, info + b"\1", hashlib.sha256).digest()[:size]


def varint(number: int) -> bytes:
    """A variable-length integer (RFC 9000 section 16)."""
    for bits, prefix in ((6, 0), (14, 1), (30, 2), (62, 3)):
        if number < 1 << bits:
            size = (bits + 2) // 8
            return (prefix << (bits) | number).to_bytes(size, "big")
    raise ValueError(number)


def crypto_frame(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(
    payload: bytes,
    *,
    original: bytes,
    destination: bytes | None = None,
    source: bytes = b"",
    number: int = 0,
    number_size: int = 4,
    version: int = V1,
    client: bool = True,
    token: bytes = b"",
    least: int = 1200,
) -> bytes:
    """An Initial packet, protected.

    Args:
        payload: Its frames; padded until the packet has `least` bytes.
        original: The connection ID its keys come from.
        destination: The one it is sent to; default: `original`.
        source: The sender's.
        number: The packet's number.
        number_size: Bytes the number is written with.
        version: Of QUIC.
        client: Whether the client sends it.
        token: From a Retry.
        least: Size to pad to.
    """
    salt = bytes.fromhex(
        "38762cf7f55934b34d179ae6a4c80cadccbb7f0a" if version == V1 else "0dede3def700a6db819381be6e269dcbf9bd2ed9"
    )
    secret = _expand_label(
        hmac.new(salt, original, hashlib.sha256).digest(), "client in" if client else "server in", 32
    )
    prefix = "quic" if version == V1 else "quicv2"
    key, iv, hp = (
        _expand_label(secret, f"{prefix} {name}", size) for name, size in (("key", 16), ("iv", 12), ("hp", 16))
    )
    destination = original if destination is None else destination
    head = (
        bytes([(0xC0 if version == V1 else 0xD0) | (number_size - 1)])
        + version.to_bytes(4, "big")
        + bytes([len(destination)])
        + destination
        + bytes([len(source)])
        + source
        + varint(len(token))
        + token
    )
    payload += bytes(max(0, least - len(head) - 2 - number_size - len(payload) - 16))
    head += (0x4000 | (number_size + len(payload) + 16)).to_bytes(2, "big")
    at = len(head)
    head += number.to_bytes(number_size, "big")
    nonce = (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")
    packet = bytearray(head + AESGCM(key).encrypt(nonce, payload, head))
    sample = bytes(packet[at + 4 : at + 20])
    mask = Cipher(algorithms.AES(hp), modes.ECB()).encryptor().update(sample)
    packet[0] ^= mask[0] & 0x0F
    for index in range(number_size):
        packet[at + index] ^= mask[1 + index]
    return bytes(packet)


def random_id() -> bytes:
    """A connection ID."""
    return os.urandom(8)


def write_pem(issued: Issued, path: Path) -> Path:
    """Write certificate and key for a program."""
    path.write_bytes(issued.pem)
    return path
