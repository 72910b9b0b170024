"""The Initial packets of QUIC: everybody on the way can open them, and the hellos of TLS are inside.

Their keys come from the client's first destination connection ID and a published salt (RFC 9001 section 5.2, RFC 9369 for
version 2). Later packets stay closed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tasks.network.analyze._tls_hello import Malformed

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF
DRAFT_29 = 0xFF00001D

INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)

_SALTS = {
    VERSION_1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    VERSION_2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
    DRAFT_29: bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899"),
}
_LAST_DRAFT = 0xFF000022  # draft-ietf-quic-transport-34
_LONGEST_ID = 20
_MOST_CRYPTO = 1 << 16
"""Bytes of one side's handshake that are put together; a ClientHello has some kilobytes."""
_MOST_PIECES = 256


def version_name(version: int) -> str:
    """How people call a version of QUIC.

    >>> version_name(1), version_name(0x6B3343CF), version_name(0xFF00001D), version_name(0x51303530)
    ('1', '2', 'draft 29', '0x51303530 (Q050)')
    """
    if version in {VERSION_1, VERSION_2}:
        return "1" if version == VERSION_1 else "2"
    if version >> 8 == 0xFF0000:
        return f"draft {version & 0xFF}"
    letters = version.to_bytes(4, "big")
    return f"0x{version:08x}" + (f" ({letters.decode()})" if letters.isalnum() else "")


def looks_like(payload: bytes) -> bool:
    """Whether a datagram's first bytes may be a long header of a QUIC that is known: a version of ours, a draft, Google's.

    Version negotiation (version 0) is an answer and never comes first, but is recognized too. Versions are compared whole: a DNS message
    has its flags where QUIC has its version, and one in five hundred would begin like Google's otherwise.
    """
    if len(payload) < 7 or payload[0] < 0x80:
        return False
    version = payload[1:5]
    size = payload[5]
    after = 6 + size
    if size > _LONGEST_ID or (len(payload) > after and payload[after] > _LONGEST_ID):
        return False
    if version == bytes(4):
        # What is offered instead follows the connection IDs.
        offered = after + 1 + payload[after] if len(payload) > after else len(payload)
        return _is_version(payload[offered : offered + 4])
    return payload[0] >= 0xC0 and _is_version(version)


def _is_version(text: bytes) -> bool:
    """Whether these four bytes are a version that somebody spoke or speaks."""
    if len(text) < 4:
        return False
    version = int.from_bytes(text, "big")
    if version in _SALTS or 0xFF000000 < version <= _LAST_DRAFT or (text[:2] in (b"Q0", b"T0") and text[2:].isdigit()):
        return True
    # Versions that exist to be refused (RFC 9000 section 15): clients try servers with them.
    return version & 0x0F0F0F0F == 0x0A0A0A0A


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet with a long header. `start` to `end` is its place in the datagram; the packet number begins at `number_at`."""

    version: int
    kind: int
    destination_id: bytes
    source_id: bytes
    number_at: int
    start: int
    end: int


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise Malformed("cut off")
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise Malformed("cut off")
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def packets(datagram: bytes) -> Iterator[Packet]:
    """The packets with long headers in a datagram (they may be coalesced), up to the first that cannot be read.

    Packets of unknown versions and version negotiations fill their datagram: only their header is known (RFC 8999).
    """
    at = 0
    while at + 7 <= len(datagram) and datagram[at] & 0x80:
        first, version = datagram[at], int.from_bytes(datagram[at + 1 : at + 5], "big")
        size = datagram[at + 5]
        behind = at + 6 + size
        if behind >= len(datagram):
            return
        destination = datagram[at + 6 : behind]
        source_end = behind + 1 + datagram[behind]
        source = datagram[behind + 1 : source_end]
        if source_end > len(datagram):
            return
        if version not in _SALTS:
            yield Packet(version, -1, destination, source, source_end, at, len(datagram))
            return
        if size > _LONGEST_ID or len(source) > _LONGEST_ID:
            return
        # Version 2 counts the kinds from another end (RFC 9369 section 3.2).
        kind = ((first >> 4) - (version == VERSION_2)) & 3
        if kind == RETRY:
            yield Packet(version, kind, destination, source, source_end, at, len(datagram))
            return
        try:
            position = source_end
            if kind == INITIAL:
                token, position = _varint(datagram, position)
                position += token
            length, position = _varint(datagram, position)
        except Malformed:
            return
        if position + length > len(datagram):
            return
        yield Packet(version, kind, destination, source, position, at, position + length)
        at = position + length


def _expand(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label with SHA-256 (RFC 8446 section 7.1), for up to 32 bytes: one round."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00\x01"
    return hmac.digest(secret, info, hashlib.sha256)[:size]


class Keys:
    """The keys that open one side's Initial packets.

    Args:
        version: The packet's version of QUIC, one with a known salt.
        connection_id: The destination connection ID of the client's first Initial packet.
        client: Whether for packets the client sent.
    """

    __slots__ = ("_aead", "_mask", "_nonce")

    def __init__(self, version: int, connection_id: bytes, *, client: bool) -> None:
        initial = hmac.digest(_SALTS[version], connection_id, hashlib.sha256)
        secret = _expand(initial, "client in" if client else "server in", 32)
        prefix = "quicv2 " if version == VERSION_2 else "quic "
        self._aead = AESGCM(_expand(secret, f"{prefix}key", 16))
        self._nonce = int.from_bytes(_expand(secret, f"{prefix}iv", 12), "big")
        # ECB of one block is what the RFC asks for: it makes a mask, it encrypts nothing.
        self._mask = Cipher(algorithms.AES(_expand(secret, f"{prefix}hp", 16)), modes.ECB())  # noqa: S305

    def open(self, datagram: bytes, packet: Packet) -> bytes | None:
        """The payload of an Initial packet; None when these are not its keys, or it was tampered with."""
        at = packet.number_at
        sample = datagram[at + 4 : at + 20]
        if len(sample) < 16 or at + 20 > packet.end:
            return None
        mask = self._mask.encryptor().update(sample)
        first = datagram[packet.start] ^ (mask[0] & 0x0F)
        size = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(datagram[at : at + size], mask[1:], strict=False))
        header = bytes([first]) + datagram[packet.start + 1 : at] + number
        nonce = (self._nonce ^ int.from_bytes(number, "big")).to_bytes(12, "big")
        try:
            return self._aead.decrypt(nonce, datagram[at + size : packet.end], header)
        except InvalidTag:
            return None


CRYPTO = 6
CLOSE = 0x1C


def frames(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The frames in an Initial's payload that say something (RFC 9000 section 19): kind, number, data.

    The number is the offset of a CRYPTO frame, the error of a CONNECTION_CLOSE: 0x100 to 0x1ff are alerts of TLS (RFC 9001
    section 4.8).

    Raises:
        Malformed: A frame that does not belong into an Initial, or is cut off.
    """
    at = 0
    while at < len(payload):
        kind = payload[at]
        at += 1
        if kind == 0:  # PADDING comes by the thousand
            at = len(payload) - len(payload[at:].lstrip(b"\x00"))
        elif kind == CRYPTO:
            offset, at = _varint(payload, at)
            size, at = _varint(payload, at)
            if at + size > len(payload):
                raise Malformed("a CRYPTO frame is cut off")
            yield kind, offset, payload[at : at + size]
            at += size
        elif kind in {2, 3}:  # ACK: largest, delay, ranges; with three counters more
            _, at = _varint(payload, at)
            _, at = _varint(payload, at)
            ranges, at = _varint(payload, at)
            if ranges > len(payload):
                raise Malformed("an ACK frame with more ranges than bytes")
            for _ in range(1 + 2 * ranges + (3 if kind == 3 else 0)):
                _, at = _varint(payload, at)
        elif kind == CLOSE:  # error, frame type, reason
            error, at = _varint(payload, at)
            _, at = _varint(payload, at)
            size, at = _varint(payload, at)
            at += size
            yield kind, error, b""
        elif kind != 1:  # PING
            raise Malformed(f"frame type {kind} in an Initial packet")


class Crypto:
    """Puts one side's CRYPTO frames together: browsers send the pieces of a ClientHello in any order."""

    __slots__ = ("_data", "_pieces", "_taken")

    def __init__(self) -> None:
        self._data = bytearray()
        self._taken = 0
        self._pieces: dict[int, bytes] = {}

    def add(self, offset: int, data: bytes) -> None:
        """Take a piece; what is there already, or too far ahead, is ignored."""
        if offset + len(data) > _MOST_CRYPTO or offset + len(data) <= len(self._data):
            return
        if len(self._pieces) < _MOST_PIECES and len(self._pieces.get(offset, b"")) < len(data):
            self._pieces[offset] = data
        for start in sorted(self._pieces):
            if start > len(self._data):
                break
            piece = self._pieces.pop(start)
            self._data += piece[len(self._data) - start :]

    def message(self) -> tuple[int, bytes] | None:
        """Take type and body of the next handshake message, when all of it is there."""
        body = self._taken + 4
        if len(self._data) < body:
            return None
        end = body + int.from_bytes(self._data[body - 3 : body], "big")
        if len(self._data) < end:
            return None
        self._taken = end
        return self._data[body - 4], bytes(self._data[body:end])
