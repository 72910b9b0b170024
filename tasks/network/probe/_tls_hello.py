"""The first flight of a TLS handshake, made and read by hand: what a server offers, whatever this machine's OpenSSL refuses.

SSLv3 to TLS 1.1 cannot be asked for with the OpenSSL of most systems. A ClientHello that offers exactly one version and the ServerHello
(or alert) that answers it say whether the server speaks it, and which cipher suite it picks. Up to TLS 1.2 its certificates and its OCSP
staple follow in the clear. Nothing is encrypted here, so nothing of this is a connection one could use.

SSLv3: RFC 6101; TLS: RFC 2246, 4346, 5246, 8446; extensions: RFC 6066, 7919, 8422.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from tasks.network._tls_numbers import alert_name
from tasks.network.probe._cipher_suites import OLDER_SUITES, TLS13_SUITES

MOST_BYTES = 256 << 10
"""More than any server's first flight: what comes beyond is not read."""

_CHANGE_CIPHER, _ALERT, _HANDSHAKE, _APPLICATION = 20, 21, 22, 23
_RECORDS = {_CHANGE_CIPHER, _ALERT, _HANDSHAKE, _APPLICATION}
_SCSV = 0x00FF  # we know secure renegotiation (RFC 5746): some servers refuse who does not
_GROUPS = (0x001D, 0x0017, 0x0018, 0x0019, 0x001E, 0x0100, 0x0101)  # x25519, P-256, P-384, P-521, x448, ffdhe2048, 3072
_X25519 = 0x001D
_SIGNATURES = (
    0x0807, 0x0808, 0x0403, 0x0503, 0x0603,  # Ed25519, Ed448, ECDSA with SHA-256, 384, 512
    0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B,  # RSA-PSS
    0x0401, 0x0501, 0x0601, 0x0301, 0x0303, 0x0201, 0x0203, 0x0202, 0x0101,  # RSA PKCS 1, and what is old: SHA-224, SHA-1, MD5
)  # fmt: skip
_HELLO_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446, 4.1.3

NO_APPLICATION_PROTOCOL = 120


class Version(StrEnum):
    """A version of the protocol, written as OpenSSL does."""

    SSL3 = "SSLv3"
    TLS10 = "TLSv1"
    TLS11 = "TLSv1.1"
    TLS12 = "TLSv1.2"
    TLS13 = "TLSv1.3"

    @property
    def number(self) -> int:
        """The number on the wire."""
        return 0x0300 + list(Version).index(self)


class _Message(IntEnum):
    """Handshake messages a server sends in the clear."""

    HELLO_REQUEST = 0
    SERVER_HELLO = 2
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_STATUS = 22


class NotTls(ValueError):
    """What came back is not TLS; its text says what it looks like."""


def client_hello(version: Version, server_name: str | None) -> bytes:
    """Make a ClientHello that offers one version only.

    Args:
        version: The version.
        server_name: The name to ask for (SNI); None for none, and SSLv3 knows no way to ask.
    """
    modern = version is Version.TLS13
    suites = (*TLS13_SUITES,) if modern else (*OLDER_SUITES, _SCSV)
    body = struct.pack("!H", min(version.number, Version.TLS12.number)) + os.urandom(32)
    # A session id: what lies between may want TLS 1.3 to look like a resumed 1.2 (RFC 8446, D.4).
    body += _sized(1, os.urandom(32) if modern else b"")
    body += _sized(2, b"".join(struct.pack("!H", suite) for suite in suites)) + b"\x01\x00"
    if version is not Version.SSL3:
        body += _sized(2, _extensions(version, server_name))
    record_version = Version.SSL3.number if version is Version.SSL3 else Version.TLS10.number
    return (
        struct.pack("!BHH", _HANDSHAKE, record_version, len(body) + 4) + b"\x01" + len(body).to_bytes(3, "big") + body
    )


def _extensions(version: Version, server_name: str | None) -> bytes:
    groups = b"".join(struct.pack("!H", group) for group in _GROUPS)
    signatures = b"".join(struct.pack("!H", signature) for signature in _SIGNATURES)
    found = [(0, _sized(2, b"\x00" + _sized(2, server_name.encode("ascii"))))] if server_name else []
    found += [
        (10, _sized(2, groups)),
        (11, b"\x01\x00"),
        (23, b""),
    ]  # groups, uncompressed points, extended master secret
    if version.number >= Version.TLS12.number:
        found.append((13, _sized(2, signatures)))
    if version is Version.TLS13:
        # Any 32 bytes are a point of X25519: we go no further than the answer.
        share = struct.pack("!H", _X25519) + _sized(2, os.urandom(32))
        found += [(43, _sized(1, struct.pack("!H", version.number))), (51, _sized(2, share)), (45, b"\x01\x01")]
    else:
        found.append((5, b"\x01\x00\x00\x00\x00"))  # an OCSP staple, please
    return b"".join(struct.pack("!H", kind) + _sized(2, data) for kind, data in found)


def _sized(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


@dataclass
class Flight:
    """What a server answered to a ClientHello, as its bytes come in.

    Attributes:
        version: The version it chose, as the number on the wire; None before its ServerHello.
        suite: The cipher suite it chose.
        retry: Whether it asked for another key first (HelloRetryRequest): it speaks TLS 1.3.
        certificates: What it sent, DER, in its order. Never for TLS 1.3, where they are encrypted.
        staple: The OCSP response it sent along, DER.
        prime_bits: Size of its Diffie-Hellman group, where one is used.
        wants_certificate: Whether it asked for ours.
        alert: The alert that ended the handshake, by name.
        done: Whether the flight is complete.
    """

    version: int | None = None
    suite: int | None = None
    retry: bool = False
    certificates: list[bytes] = field(default_factory=list)
    staple: bytes | None = None
    prime_bits: int | None = None
    wants_certificate: bool = False
    alert: str | None = None
    done: bool = False
    _raw: bytearray = field(default_factory=bytearray)
    _messages: bytearray = field(default_factory=bytearray)
    _received: int = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            NotTls: They are not TLS, or contradict it.
        """
        self._received += len(data)
        if self._received > MOST_BYTES:
            raise NotTls("its first answer does not end")
        self._raw += data
        while not self.done and len(self._raw) >= 5:
            kind, version, length = struct.unpack_from("!BHH", self._raw)
            if kind not in _RECORDS or version >> 8 != 3 or not 0 < length <= (1 << 14) + 2048:
                raise NotTls(looks_like(bytes(self._raw)))
            if len(self._raw) < 5 + length:
                return
            fragment = bytes(self._raw[5 : 5 + length])
            del self._raw[: 5 + length]
            if kind == _ALERT:
                self._take_alert(fragment)
            elif kind == _HANDSHAKE:
                self._messages += fragment
                self._take_messages()
            elif self.version is not None:
                self.done = True  # what follows is encrypted
            else:
                raise NotTls("it answers with TLS records in an order that makes no sense")
        if self._raw and not self.done and self._raw[0] not in _RECORDS:
            raise NotTls(looks_like(bytes(self._raw)))

    def _take_alert(self, fragment: bytes) -> None:
        if len(fragment) < 2:
            raise NotTls("it answers with half an alert")
        # A warning such as "I do not know that name" does not end the handshake.
        if fragment[0] == 2 or fragment[1] == 0:
            self.alert = alert_name(fragment[1])
            self.done = True

    def _take_messages(self) -> None:
        while not self.done and len(self._messages) >= 4:
            length = int.from_bytes(self._messages[1:4], "big")
            if length > MOST_BYTES:
                raise NotTls("it announces a handshake message of more than 256 KB")
            if len(self._messages) < 4 + length:
                return
            kind, body = self._messages[0], bytes(self._messages[4 : 4 + length])
            del self._messages[: 4 + length]
            try:
                self._take(kind, body)
            except (struct.error, IndexError) as error:
                raise NotTls("a message of its handshake is malformed") from error

    def _take(self, kind: int, body: bytes) -> None:
        if self.version is None and kind != _Message.SERVER_HELLO:
            if kind == _Message.HELLO_REQUEST:  # to be ignored
                return
            raise NotTls("its handshake does not begin with a ServerHello")
        match kind:
            case _Message.SERVER_HELLO:
                self._take_hello(body)
            case _Message.CERTIFICATE:
                self.certificates = _certificates(body)
            case _Message.CERTIFICATE_STATUS:
                length = int.from_bytes(body[1:4], "big")
                if body[0] == 1 and len(body) >= 4 + length:
                    self.staple = body[4 : 4 + length]
            case _Message.SERVER_KEY_EXCHANGE:
                self.prime_bits = _prime_bits(body, self.suite or 0)
            case _Message.CERTIFICATE_REQUEST:
                self.wants_certificate = True
            case _Message.SERVER_HELLO_DONE:
                self.done = True

    def _take_hello(self, body: bytes) -> None:
        version, random = struct.unpack_from("!H32s", body)
        place = 35 + body[34]
        (suite,) = struct.unpack_from("!H", body, place)
        place += 3
        if place < len(body):
            (size,) = struct.unpack_from("!H", body, place)
            end = min(len(body), place + 2 + size)
            place += 2
            while place + 4 <= end:
                kind, length = struct.unpack_from("!HH", body, place)
                if kind == 43 and length == 2:
                    (version,) = struct.unpack_from("!H", body, place + 4)
                place += 4 + length
        self.version, self.suite, self.retry = version, suite, random == _HELLO_RETRY
        if version >= Version.TLS13.number:
            self.done = True


def _certificates(body: bytes) -> list[bytes]:
    end, place, found = 3 + int.from_bytes(body[:3], "big"), 3, []
    if end > len(body):
        raise IndexError("the list is longer than the message")
    while place + 3 <= end:
        length = int.from_bytes(body[place : place + 3], "big")
        if place + 3 + length > end:
            raise IndexError("a certificate is longer than the list")
        found.append(body[place + 3 : place + 3 + length])
        place += 3 + length
    return found


def _prime_bits(body: bytes, suite: int) -> int | None:
    name = OLDER_SUITES.get(suite, "")
    if not name.startswith(("TLS_DHE_", "TLS_DH_")):
        return None
    length = int.from_bytes(body[:2], "big")
    return int.from_bytes(body[2 : 2 + length], "big").bit_length()


def looks_like(data: bytes) -> str:
    """Say what bytes that are not TLS look like, without repeating much of them.

    >>> looks_like(b"HTTP/1.1 400 Bad Request")
    'it answers with plain HTTP'
    """
    if data.startswith(b"HTTP/"):
        return "it answers with plain HTTP"
    if data.startswith(b"SSH-"):
        return "it answers with SSH"
    if data[:4] in (b"220 ", b"220-"):
        return "it answers as a mail or FTP server, in plain text: try starttls"
    if data.startswith(b"* OK"):
        return "it answers as an IMAP server, in plain text: try starttls"
    if data.startswith(b"+OK"):
        return "it answers as a POP3 server, in plain text: try starttls"
    return f"it answers with something else, beginning {data[:16]!r}"
