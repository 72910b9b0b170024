"""What SSH says in the clear: banners and KEXINIT; bytes in, what they say out (RFC 4253)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, fields

MOST_IN_A_LIST = 256
LONGEST_BANNER = 255
"""Bytes of a banner line (RFC 4253 section 4.2)."""


class Malformed(ValueError):
    """These bytes are not what they claim to be."""


@dataclass(frozen=True, slots=True)
class Banner:
    """A side's first line: protocol version, software, what it says beyond."""

    line: str
    protocol: str
    software: str
    comment: str


def parse_banner(line: bytes) -> Banner:
    """Read `SSH-2.0-OpenSSH_9.2p1 Debian-2` (without the line's end).

    >>> parse_banner(b"SSH-2.0-OpenSSH_9.2p1 Debian-2").software
    'OpenSSH_9.2p1'

    Raises:
        Malformed: It does not start as one.
    """
    if not line.startswith(b"SSH-"):
        raise Malformed("not a banner")
    text = line[:LONGEST_BANNER].decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    protocol, _, rest = text[4:].partition("-")
    software, _, comment = rest.partition(" ")
    return Banner(line=text, protocol=protocol, software=software, comment=comment)


@dataclass(frozen=True, slots=True)
class KexInit:
    """The lists of a KEXINIT, as sent (RFC 4253 section 7.1)."""

    kex: tuple[str, ...]
    host_key: tuple[str, ...]
    cipher_to_server: tuple[str, ...]
    cipher_to_client: tuple[str, ...]
    mac_to_server: tuple[str, ...]
    mac_to_client: tuple[str, ...]
    compression_to_server: tuple[str, ...]
    compression_to_client: tuple[str, ...]


def parse_kexinit(payload: bytes) -> KexInit:
    """Read the payload of a KEXINIT, its message number (20) included.

    Raises:
        Malformed: It is cut off, or a length in it is wrong.
    """
    if payload[:1] != b"\x14" or len(payload) < 17:
        raise Malformed("not a KEXINIT")
    at, lists = 17, []
    for _ in fields(KexInit):
        names, at = take_string(payload, at)
        lists.append(_names(names))
    return KexInit(*lists)


def take_string(data: bytes, at: int) -> tuple[bytes, int]:
    """A string (RFC 4251 section 5) and where it ends.

    Raises:
        Malformed: It is longer than what is there.
    """
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    if at + 4 > len(data) or end > len(data):
        raise Malformed("a string is longer than its packet")
    return data[at + 4 : end], end


def _names(data: bytes) -> tuple[str, ...]:
    text = data.decode("ascii", "backslashreplace")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return tuple(text.split(",")[:MOST_IN_A_LIST]) if text else ()


def _md5(*lists: tuple[str, ...]) -> str:
    text = ";".join(",".join(names) for names in lists)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def hassh(offer: KexInit) -> str:
    """The HASSH fingerprint of a client (https://github.com/salesforce/hassh)."""
    return _md5(offer.kex, offer.cipher_to_server, offer.mac_to_server, offer.compression_to_server)


def hassh_server(offer: KexInit) -> str:
    """The HASSHServer fingerprint of a server."""
    return _md5(offer.kex, offer.cipher_to_client, offer.mac_to_client, offer.compression_to_client)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What two sides agree on; None where they have nothing in common."""

    kex: str | None
    host_key: str | None
    cipher_to_server: str | None
    cipher_to_client: str | None
    mac_to_server: str | None
    mac_to_client: str | None
    compression_to_server: str | None
    compression_to_client: str | None

    @property
    def complete(self) -> bool:
        """Whether they can go on."""
        return None not in {getattr(self, item.name) for item in fields(self)}


IMPLICIT = "implicit"
"""The MAC of a cipher that needs none of its own."""
_PSEUDO = ("ext-info-", "kex-strict-")


def is_authenticated(cipher: str) -> bool:
    """Whether a cipher brings its own authentication (AEAD)."""
    return "gcm" in cipher or cipher.startswith(("chacha20-poly1305", "AEAD_"))


def negotiate(client: KexInit, server: KexInit) -> Chosen:
    """What RFC 4253 section 7.1 makes of two offers: of each list the client's first that the server has too."""

    def first(name: str) -> str | None:
        theirs = set(getattr(server, name))
        return next(
            (mine for mine in getattr(client, name) if mine in theirs and not mine.startswith(_PSEUDO)),
            None,
        )

    chosen = {item.name: first(item.name) for item in fields(KexInit)}
    for way in ("to_server", "to_client"):
        if is_authenticated(chosen[f"cipher_{way}"] or ""):
            chosen[f"mac_{way}"] = IMPLICIT
    return Chosen(**chosen)


def is_strict(client: KexInit, server: KexInit) -> bool:
    """Whether both sides keep what goes before encryption from being tampered with (the answer to Terrapin)."""
    return "kex-strict-c-v00@openssh.com" in client.kex and "kex-strict-s-v00@openssh.com" in server.kex


def terrapin_modes(chosen: Chosen) -> list[str]:
    """The negotiated modes that Terrapin (CVE-2023-48795) works on, where nothing prevents it."""
    modes = []
    for cipher, mac in (
        (chosen.cipher_to_server, chosen.mac_to_server),
        (chosen.cipher_to_client, chosen.mac_to_client),
    ):
        if cipher and cipher.startswith("chacha20-poly1305"):
            modes.append(cipher)
        elif cipher and mac and cipher.endswith("-cbc") and "-etm@" in mac:
            modes.append(f"{cipher} with {mac}")
    return list(dict.fromkeys(modes))


def offers_terrapin(offer: KexInit) -> bool:
    """Whether a side offers modes that Terrapin works on."""
    ciphers, macs = offer.cipher_to_server + offer.cipher_to_client, offer.mac_to_server + offer.mac_to_client
    return any(cipher.startswith("chacha20-poly1305") for cipher in ciphers) or (
        any(cipher.endswith("-cbc") for cipher in ciphers) and any("-etm@" in mac for mac in macs)
    )


_TAGS = {"umac-64": 8, "hmac-md5": 16, "umac-128": 16, "hmac-sha1": 20, "hmac-ripemd160": 20, "hmac-sha2-256": 32,
         "hmac-sha2-512": 64}  # fmt: skip


def smallest_packet(cipher: str, mac: str) -> int | None:
    """Bytes of an encrypted packet with one byte of payload, such as USERAUTH_SUCCESS; None for a MAC we do not know.

    A packet is length (4), padding's length (1), payload, padding (4 at least) and tag; all before the tag, or all but the
    length where that is not part of what is encrypted with the rest, fills blocks (RFC 4253 section 6).

    >>> smallest_packet("chacha20-poly1305@openssh.com", "implicit"), smallest_packet("aes128-ctr", "hmac-sha2-256")
    (28, 48)
    """
    if cipher.startswith("chacha20-poly1305"):
        return 4 + 8 + 16
    if is_authenticated(cipher):
        return 4 + 16 + 16
    plain = mac.partition("@")[0]
    apart = plain.endswith("-etm")
    plain = plain.removesuffix("-etm")
    tag = 12 if plain.endswith("-96") else _TAGS.get(plain)
    if tag is None:
        return None
    block = 8 if cipher.startswith(("3des", "blowfish", "cast128", "arcfour", "des", "none")) else 16
    return (4 + block if apart else 16) + tag


@dataclass(frozen=True, slots=True)
class HostKey:
    """A server's public key as it proves itself with."""

    kind: str
    fingerprint: str
    bits: int


def parse_host_key(blob: bytes) -> HostKey:
    """Read a public key (RFC 4253 section 6.6): its kind, its fingerprint as OpenSSH writes it, its size.

    Raises:
        Malformed: It is cut off.
    """
    name, at = take_string(blob, 0)
    kind = name.decode("ascii", "backslashreplace")[:64]
    bits = 0
    if kind == "ssh-rsa":
        _, at = take_string(blob, at)
        bits = int.from_bytes(take_string(blob, at)[0], "big").bit_length()
    elif kind == "ssh-dss":
        bits = int.from_bytes(take_string(blob, at)[0], "big").bit_length()
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return HostKey(kind=kind if kind.isprintable() else "?", fingerprint=f"SHA256:{digest}", bits=bits)
