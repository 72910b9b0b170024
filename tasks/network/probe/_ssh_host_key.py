"""The host key of an SSH server: the key exchange up to the point where the server proves that it has the key (RFC 4253), no further.

The signature is checked. A key that is merely shown proves nothing: it is public, and whoever showed another host's key would become
that host in the inventory. Nobody logs in, and the connection ends before encryption begins.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils, x25519

OUR_VERSION = b"SSH-2.0-signalbox"
MOST_PACKET = 35000
"""Largest packet every implementation takes (RFC 4253 section 6.1)."""
MOST_GREETING = 8192
LEAST_SILENCE_SECONDS = 1.0
SILENCE_FACTOR = 10
"""How long a server that has greeted may say nothing before its side of the key exchange, in times of what its greeting took: sending it
needs no computing, so who is silent for longer is no SSH server behind the greeting (a trap, a stuck device)."""
_DISCONNECT, _IGNORE, _UNIMPLEMENTED, _DEBUG, _EXT_INFO, _KEXINIT, _INIT, _REPLY = 1, 2, 3, 4, 7, 20, 30, 31
_MOST_PACKETS = 16

_HOST_KEYS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa",
)  # fmt: skip
"""What we ask for, best first: the same order always, so that a server with several keys shows the same one."""
_CIPHERS = (
    "aes128-ctr", "aes256-ctr", "chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-cbc",
    "aes256-cbc", "3des-cbc",
)  # fmt: skip
_MACS = (
    "hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha1", "hmac-md5",
)  # fmt: skip
# The modulus of group 14 (RFC 3526 section 3): 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476).
_GROUP14 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
    "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"
    "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)


class NoHostKey(Exception):
    """There is no key that was proven; says why."""

    def __init__(self, why: str, banner: str | None = None) -> None:
        super().__init__(why)
        self.banner = banner


@dataclass(frozen=True)
class HostKey:
    """A key the server proved to have.

    Attributes:
        kind: Such as `ssh-ed25519`.
        fingerprint: `SHA256:...`, as ssh-keygen writes it.
        banner: The server's version line.
    """

    kind: str
    fingerprint: str
    banner: str


class Stream(Protocol):
    """What bytes come from and go to; `Connection` is one."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self, most: int = ...) -> bytes: ...


async def read_host_key(stream: Stream) -> HostKey:
    """Exchange keys with a server up to its proof.

    Raises:
        NoHostKey: It is no SSH server, offers nothing we know, or proves nothing.
        OSError: The connection broke.
    """
    reader = _Reader(stream)
    began = time.monotonic()
    banner = await _greeting(reader)
    text = banner.decode("latin-1")
    silence = max(LEAST_SILENCE_SECONDS, SILENCE_FACTOR * (time.monotonic() - began))
    try:
        return await _exchange(reader, banner, text, silence)
    except NoHostKey as problem:
        raise NoHostKey(str(problem), text) from None
    except (ValueError, IndexError, struct.error, UnsupportedAlgorithm):
        raise NoHostKey("what it sent is no key exchange", text) from None


async def _greeting(reader: _Reader) -> bytes:
    """Read the version line; lines before it are allowed (RFC 4253 section 4.2)."""
    read = 0
    while read < MOST_GREETING:
        line = await reader.line(MOST_GREETING - read)
        read += len(line)
        line = line.rstrip(b"\r\n")
        if line.startswith(b"SSH-"):
            if not line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
                raise NoHostKey("it speaks version 1 of the protocol only", line.decode("latin-1"))
            return line[:255]
    raise NoHostKey("no SSH server greets there")


async def _exchange(reader: _Reader, banner: bytes, text: str, silence: float) -> HostKey:
    ours = _kexinit()
    await reader.stream.send(OUR_VERSION + b"\r\n" + _packet(ours))
    try:
        async with asyncio.timeout(silence):
            theirs = await reader.message(_KEXINIT)
    except TimeoutError:
        raise NoHostKey("it greets, and says nothing after that") from None
    lists = _Fields(theirs[17:])
    their_exchanges, their_keys = lists.names(), lists.names()
    exchange = _first(_EXCHANGES, their_exchanges, "key exchange")
    asked = _first(_HOST_KEYS, their_keys, "host key")
    method = _EXCHANGES[exchange]()
    await reader.stream.send(_packet(bytes([_INIT]) + method.public))
    reply = _Fields((await reader.message(_REPLY))[1:])
    key, their_public, signature = reply.string(), reply.string(), reply.string()
    transcript = b"".join(map(_string, (OUR_VERSION, banner, ours, theirs, key)))
    transcript += method.public + _string(their_public) + _mpint(method.shared(their_public))
    proof = hashlib.new(method.digest, transcript).digest()
    kind = _check(key, signature, proof, asked)
    fingerprint = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return HostKey(kind, f"SHA256:{fingerprint}", text)


def _kexinit() -> bytes:
    lists = [tuple(_EXCHANGES), _HOST_KEYS, _CIPHERS, _CIPHERS, _MACS, _MACS, ("none",), ("none",), (), ()]
    names = b"".join(_string(",".join(some).encode()) for some in lists)
    return bytes([_KEXINIT]) + secrets.token_bytes(16) + names + b"\0" + bytes(4)


def _first(ours: Sequence[str] | dict[str, Any], theirs: Sequence[str], what: str) -> str:
    for name in ours:
        if name in theirs:
            return name
    raise NoHostKey(f"it offers no {what} we know: {', '.join(theirs)[:200]}")


# --- ways to agree on a secret -------------------------------------------------------------------------------------------


class _Curve25519:
    digest = "sha256"

    def __init__(self) -> None:
        self._private = x25519.X25519PrivateKey.generate()
        self.public = _string(self._private.public_key().public_bytes_raw())

    def shared(self, theirs: bytes) -> int:
        return int.from_bytes(self._private.exchange(x25519.X25519PublicKey.from_public_bytes(theirs)), "big")


class _Nistp256:
    digest = "sha256"

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        point = self._private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.public = _string(point)

    def shared(self, theirs: bytes) -> int:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), theirs)
        return int.from_bytes(self._private.exchange(ec.ECDH(), public), "big")


class _Group14:
    digest = "sha256"

    def __init__(self) -> None:
        # The secret protects nothing: the connection ends here. 320 bits are quick, and enough for its strength.
        self._private = secrets.randbits(320) | 1 << 319
        self.public = _mpint(pow(2, self._private, _GROUP14))

    def shared(self, theirs: bytes) -> int:
        number = int.from_bytes(theirs, "big")
        if not 1 < number < _GROUP14 - 1:
            raise NoHostKey("its part of the key exchange is out of range")
        return pow(number, self._private, _GROUP14)


class _Group14Sha1(_Group14):
    digest = "sha1"


_EXCHANGES: dict[str, type[_Curve25519 | _Nistp256 | _Group14]] = {
    "curve25519-sha256": _Curve25519,
    "curve25519-sha256@libssh.org": _Curve25519,
    "ecdh-sha2-nistp256": _Nistp256,
    "diffie-hellman-group14-sha256": _Group14,
    "diffie-hellman-group14-sha1": _Group14Sha1,
}
"""Key exchanges by name: RFC 8731, RFC 5656, RFC 8268, RFC 4253."""


def _check(blob: bytes, signature: bytes, proof: bytes, asked: str) -> str:
    """Check the server's signature over the exchange; return the kind of its key.

    Raises:
        NoHostKey: It does not hold.
    """
    kind = _Fields(blob).string().decode()
    if kind != ("ssh-rsa" if asked.startswith("rsa-") else asked):
        raise NoHostKey("its key is of another kind than it agreed to")
    fields = _Fields(signature)
    algorithm, signed = fields.string().decode(), fields.string()
    if algorithm != asked:
        raise NoHostKey("it signed in another way than it agreed to")
    key: Any = serialization.load_ssh_public_key(kind.encode() + b" " + base64.b64encode(blob))
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signed, proof)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            parts = _Fields(signed)
            both = utils.encode_dss_signature(parts.number(), parts.number())
            key.verify(both, proof, ec.ECDSA(_CURVE_HASHES[key.curve.name]))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signed, proof, padding.PKCS1v15(), _RSA_HASHES[algorithm])
        else:
            raise NoHostKey("its key is of a kind we do not know")
    except InvalidSignature:
        raise NoHostKey("it showed a key and could not prove that it has it") from None
    return kind


_CURVE_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512(),
}  # fmt: skip
# SHA-1 because old servers sign with nothing else; forging one of these still takes a second preimage.
_RSA_HASHES: dict[str, hashes.HashAlgorithm] = {
    "rsa-sha2-512": hashes.SHA512(), "rsa-sha2-256": hashes.SHA256(), "ssh-rsa": hashes.SHA1(),  # noqa: S303
}  # fmt: skip


# --- bytes ---------------------------------------------------------------------------------------------------------------


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _mpint(number: int) -> bytes:
    """A number as RFC 4251 section 5 has it: with a leading zero where the first bit is set."""
    return _string(number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b"")


def _packet(payload: bytes) -> bytes:
    fill = 8 - (len(payload) + 5) % 8
    fill += 8 if fill < 4 else 0
    return struct.pack(">IB", len(payload) + fill + 1, fill) + payload + secrets.token_bytes(fill)


class _Fields:
    """Reads the parts of a message one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def string(self) -> bytes:
        (length,) = struct.unpack_from(">I", self._data, self._place)
        start = self._place + 4
        if start + length > len(self._data):
            raise ValueError("cut off")
        self._place = start + length
        return self._data[start : start + length]

    def number(self) -> int:
        return int.from_bytes(self.string(), "big")

    def names(self) -> list[str]:
        return self.string().decode("ascii").split(",")


class _Reader:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._rest = b""

    async def line(self, most: int) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) >= most:
                raise NoHostKey("no SSH server greets there")
            await self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    async def message(self, wanted: int) -> bytes:
        """Read packets up to the one wanted; what may come between is skipped."""
        for _ in range(_MOST_PACKETS):
            length, fill = struct.unpack(">IB", await self._exactly(5))
            if not 1 < length <= MOST_PACKET or fill >= length:
                raise ValueError("not a packet")
            payload = (await self._exactly(length - 1))[: length - 1 - fill]
            if payload[:1] == bytes([wanted]):
                return payload
            if not payload or payload[0] == _DISCONNECT:
                raise NoHostKey("it hung up during the key exchange")
            if payload[0] not in (_IGNORE, _UNIMPLEMENTED, _DEBUG, _EXT_INFO):
                raise ValueError("not expected now")
        raise ValueError("too much chatter")

    async def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            await self._more()
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    async def _more(self) -> None:
        data = await self.stream.receive(MOST_PACKET)
        if not data:
            raise NoHostKey("it closed the connection")
        self._rest += data
