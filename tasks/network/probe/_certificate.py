"""Read X.509 certificates into plain values, and say whose they are."""

from __future__ import annotations

import functools
import ipaddress
import ssl
import warnings
from datetime import UTC, datetime
from typing import Annotated, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_NAMES = 30
"""Names of a certificate that are listed; content delivery networks put hundreds into one."""
MOST_CA_BYTES = 256 << 10
_DAY = 86_400
_SIGNATURES = {
    "1.2.840.113549.1.1.2": "md2WithRSAEncryption",
    "1.2.840.113549.1.1.4": "md5WithRSAEncryption",
    "1.2.840.113549.1.1.5": "sha1WithRSAEncryption",
    "1.2.840.113549.1.1.10": "rsassaPss",
    "1.2.840.113549.1.1.11": "sha256WithRSAEncryption",
    "1.2.840.113549.1.1.12": "sha384WithRSAEncryption",
    "1.2.840.113549.1.1.13": "sha512WithRSAEncryption",
    "1.2.840.113549.1.1.14": "sha224WithRSAEncryption",
    "1.2.840.10040.4.3": "dsaWithSHA1",
    "2.16.840.1.101.3.4.3.2": "dsa_with_SHA256",
    "1.2.840.10045.4.1": "ecdsa-with-SHA1",
    "1.2.840.10045.4.3.1": "ecdsa-with-SHA224",
    "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384",
    "1.2.840.10045.4.3.4": "ecdsa-with-SHA512",
    "1.3.101.112": "ED25519",
    "1.3.101.113": "ED448",
}
"""Signature algorithms as OpenSSL writes them; others show as their number."""


def _certificates(text: str | None) -> str | None:
    if text is None or not text.strip():
        return None
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key; give certificates only, and treat that key as published")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError("must be one or more certificates in PEM: -----BEGIN CERTIFICATE----- ...")
    try:
        found = x509.load_pem_x509_certificates(text.encode())
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError):
        raise ValueError("holds a certificate that cannot be read") from None
    if not found:
        raise ValueError("holds no certificate")
    return text


Authorities = Annotated[str | None, Field(max_length=MOST_CA_BYTES), AfterValidator(_certificates)]
"""A parameter: authorities to trust besides the public ones and the system's, PEM."""


class Certificate(BaseModel):
    """One certificate as a server sent it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str = Field(description="Whom it names (RFC 4514), such as CN=www.example.com.")
    names: list[str] = Field(
        default_factory=list, description=f"DNS names and addresses it is for, at most {MOST_NAMES}."
    )
    more_names: int = Field(0, ge=0, description="Further names that are not listed.")
    issuer: str = Field(description="Who issued it (RFC 4514).")
    not_before: datetime = Field(description="Valid from.")
    not_after: datetime = Field(description="Valid until.")
    days_left: int = Field(description="Whole days until it expires; negative when it has.")
    key: str = Field(description="Kind of its key: RSA, EC with the curve, Ed25519, Ed448, DSA.")
    key_bits: int | None = Field(description="Size of the key, bits.")
    signature: str = Field(description="How it is signed, such as sha256WithRSAEncryption.")
    serial: str = Field(description="Serial number, hexadecimal.")
    sha256: str = Field(description="SHA-256 fingerprint of the whole certificate, hexadecimal.")
    self_signed: bool = Field(description="Whether it is signed with its own key.")
    ca: bool = Field(description="Whether it may issue others.")


class Parsed:
    """A certificate that could be read; knows more than its summary.

    Args:
        der: The certificate.

    Raises:
        ValueError: It cannot be read.
    """

    def __init__(self, der: bytes) -> None:
        self.der = der
        with warnings.catch_warnings():  # what is odd about other people's certificates is not for our log
            warnings.simplefilter("ignore")
            try:
                self._read(der)
            except (x509.InvalidVersion, TypeError) as error:  # how the library says no to some
                raise ValueError(str(error)) from None

    def _read(self, der: bytes) -> None:
        self.x509 = x509.load_der_x509_certificate(der)
        try:
            key: Any = self.x509.public_key()
        except (ValueError, UnsupportedAlgorithm):
            key = None
        self.key, self.key_bits = _key(key)
        self.not_before, self.not_after = self.x509.not_valid_before_utc, self.x509.not_valid_after_utc
        self.subject, self.issuer = _name(self.x509.subject), _name(self.x509.issuer)
        self.serial = f"{self.x509.serial_number:x}"

    @functools.cached_property
    def names(self) -> list[str]:
        """DNS names and addresses it is for."""
        extension = _extension(self.x509, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
        if extension is None:
            return []
        found = [str(name) for name in extension.get_values_for_type(x509.DNSName)]
        return found + [str(address) for address in extension.get_values_for_type(x509.IPAddress)]

    @property
    def common_name(self) -> str | None:
        """The subject's CN, which clients no longer look at."""
        found = self.x509.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(found[0].value) if found else None

    @functools.cached_property
    def is_ca(self) -> bool:
        extension = _extension(self.x509, ExtensionOID.BASIC_CONSTRAINTS)
        return bool(extension is not None and extension.ca)

    @functools.cached_property
    def self_signed(self) -> bool:
        return self.x509.subject == self.x509.issuer and self.issued_by(self)

    @property
    def digest(self) -> str | None:
        """The hash its signature is made over, such as sha1; None where the algorithm has it inside (Ed25519)."""
        try:
            algorithm: hashes.HashAlgorithm | None = self.x509.signature_hash_algorithm
        except UnsupportedAlgorithm:
            return None
        return algorithm.name if algorithm is not None else None

    def issued_by(self, other: Parsed) -> bool:
        """Whether the other one's key signed this one, name and signature both."""
        if self.x509.issuer != other.x509.subject:
            return False
        try:
            self.x509.verify_directly_issued_by(other.x509)
        except InvalidSignature:
            return False
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return True  # an algorithm that cannot be checked here (MD5): the names have to do
        return True

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it expires; negative when it has."""
        return int((self.not_after - (now or datetime.now(UTC))).total_seconds() // _DAY)

    @property
    def not_yet_valid(self) -> bool:
        return self.not_before > datetime.now(UTC)

    def is_for(self, host: str) -> bool:
        """Whether it is for this name or address, as clients see it (RFC 6125): the common name does not count."""
        try:
            wanted = str(ipaddress.ip_address(host))
        except ValueError:
            return any(matches(name, host) for name in self.names)
        return wanted in self.names

    def summary(self) -> Certificate:
        """What a result says about it."""
        return Certificate(
            subject=self.subject,
            names=[printable(name, 253) for name in self.names[:MOST_NAMES]],
            more_names=max(0, len(self.names) - MOST_NAMES),
            issuer=self.issuer,
            not_before=self.not_before,
            not_after=self.not_after,
            days_left=self.days_left(),
            key=self.key,
            key_bits=self.key_bits,
            signature=_signature(self.x509),
            serial=self.serial,
            sha256=self.x509.fingerprint(hashes.SHA256()).hex(),
            self_signed=self.self_signed,
            ca=self.is_ca,
        )


def matches(pattern: str, host: str) -> bool:
    """Whether a certificate's name covers a host name: a `*` stands for exactly the whole first label.

    >>> matches("*.example.com", "www.example.com"), matches("*.example.com", "a.b.example.com"), matches("*", "com")
    (True, False, False)
    """
    pattern, host = pattern.rstrip(".").lower(), host.rstrip(".").lower()
    if pattern == host:
        return True
    first, _, rest = pattern.partition(".")
    # At least two labels behind the star, as OpenSSL wants it: `*.com` is nobody's.
    return first == "*" and "." in rest and host.partition(".")[2] == rest and bool(host.partition(".")[0])


def printable(text: str, most: int) -> str:
    """Text of a stranger's, without control characters and of bounded length."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def _name(name: x509.Name) -> str:
    return printable(name.rfc4514_string(), 500)


def _key(key: Any) -> tuple[str, int | None]:
    match key:
        case rsa.RSAPublicKey():
            return "RSA", key.key_size
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}", key.key_size
        case dsa.DSAPublicKey():
            return "DSA", key.key_size
        case ed25519.Ed25519PublicKey():
            return "Ed25519", 256
        case ed448.Ed448PublicKey():
            return "Ed448", 456
    return "unknown", None


def _signature(certificate: x509.Certificate) -> str:
    oid = certificate.signature_algorithm_oid.dotted_string
    return _SIGNATURES.get(oid, oid)


def _extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> Any:
    try:
        return certificate.extensions.get_extension_for_oid(oid).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, UnsupportedAlgorithm):
        return None
