"""Certificates as they travel in a handshake, read with `cryptography`."""

from __future__ import annotations

import hashlib
import ipaddress
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from tasks.network.analyze._tls_hello import Reader

MOST_NAMES = 20
"""Subject alternative names shown of one certificate; those of content networks have hundreds."""
_LONGEST = 200
_MOST_COMPARED = 500
"""Names kept to compare with; a certificate with more is taken to fit."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, or why it could not be read."""

    sha256: str
    subject: str = ""
    names: tuple[str, ...] = ()
    names_left_out: int = 0
    all_names: frozenset[str] = frozenset()
    issuer: str = ""
    serial: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    key: str = ""
    key_bits: int = 0
    signature: str = ""
    self_issued: bool = False
    authority: bool = False
    problem: str = ""

    def fits(self, name: str) -> bool:
        """Whether it is for a host name: by its alternative names, or without any by its common name (RFC 6125)."""
        name = name.lower().rstrip(".")
        if self.names_left_out > _MOST_COMPARED - MOST_NAMES or name in self.all_names:
            return True
        _, dot, parent = name.partition(".")
        return bool(dot) and f"*.{parent}" in self.all_names


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, in hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def parse_chain(body: bytes) -> list[bytes]:
    """The certificates (DER) in a Certificate message of TLS 1.2 and before, the leaf first.

    Raises:
        Malformed: A length in it is wrong.
    """
    reader = Reader(Reader(body).vector(3))
    found: list[bytes] = []
    while reader:
        found.append(reader.vector(3))
    return found


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate; one that cannot be read comes back with its fingerprint and the problem."""
    digest = fingerprint(der)
    try:
        with warnings.catch_warnings():
            # Serial numbers of zero and the like are what we are here to look at.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            return _read(x509.load_der_x509_certificate(der), digest)
    # The library raises ValueError, its own UnsupportedAlgorithm, TypeError and more for what strangers put together.
    except Exception as problem:  # noqa: BLE001
        return Certificate(sha256=digest, problem=(str(problem).splitlines() or [type(problem).__name__])[0][:_LONGEST])


def _read(certificate: x509.Certificate, digest: str) -> Certificate:
    names = _alternative_names(certificate)
    common = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    key, bits = _key(certificate)
    return Certificate(
        sha256=digest,
        subject=_shown(certificate.subject.rfc4514_string()),
        names=tuple(_shown(name) for name in names[:MOST_NAMES]),
        names_left_out=max(0, len(names) - MOST_NAMES),
        all_names=frozenset(name.lower() for name in (names or common)[:_MOST_COMPARED]),
        issuer=_shown(certificate.issuer.rfc4514_string()),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc.astimezone(UTC),
        not_after=certificate.not_valid_after_utc.astimezone(UTC),
        key=key,
        key_bits=bits,
        signature=_signature(certificate),
        self_issued=certificate.subject == certificate.issuer,
        authority=_is_authority(certificate),
    )


def _shown(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = []
    for name in found:
        value = getattr(name, "value", None)
        if isinstance(value, (str, ipaddress.IPv4Address, ipaddress.IPv6Address)):
            names.append(str(value))
    return names


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _key(certificate: x509.Certificate) -> tuple[str, int]:
    try:
        key = certificate.public_key()
    except Exception:  # noqa: BLE001 - a key of a kind the library does not know is no reason to lose the rest
        return certificate.public_key_algorithm_oid.dotted_string, 0
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}", key.key_size
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}", key.curve.key_size
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA {key.key_size}", key.key_size
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return ("Ed25519", 256) if isinstance(key, ed25519.Ed25519PublicKey) else ("Ed448", 456)
    return type(key).__name__.removesuffix("PublicKey").lstrip("_"), 0


def _signature(certificate: x509.Certificate) -> str:
    name = getattr(certificate.signature_algorithm_oid, "_name", "")
    return name if name and name != "Unknown OID" else certificate.signature_algorithm_oid.dotted_string
