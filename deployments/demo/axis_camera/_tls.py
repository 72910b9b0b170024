"""A camera's certificate: self-signed, for its serial and not for its address, as they come from the factory."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Identity:
    """A certificate with its key, in the context that serves it.

    Attributes:
        context: For the listener; connections made after `renew` get the new certificate.
        fingerprint: SHA-256 of the certificate, in lower-case hex.
    """

    context: ssl.SSLContext
    fingerprint: str
    pem: bytes
    name: str

    def renew(self, *, days: float = 3650.0) -> str:
        """Replace the certificate, for new connections; returns its fingerprint."""
        made, key = _make(self.name, days)
        self.pem = made.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = _fingerprint(made)
        _load(self.context, self.pem, key)
        return self.fingerprint


def self_signed(name: str, *, days: float = 3650.0, old: bool = False) -> Identity:
    """Make a certificate for `name`.

    Args:
        name: Common name, such as `axis-b8a44f7c1d20`.
        days: How long it is valid from now; negative for one that has expired.
        old: Speak TLS 1.2 at most.
    """
    made, key = _make(name, days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    pem = made.public_bytes(serialization.Encoding.PEM)
    _load(context, pem, key)
    return Identity(context, _fingerprint(made), pem, name)


def _fingerprint(made: x509.Certificate) -> str:
    return hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


def _make(name: str, days: float) -> tuple[x509.Certificate, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Axis Communications AB"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made, plain


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # OpenSSL's interface in Python reads keys from files alone.
    handle, path = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(certificate + key)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()
