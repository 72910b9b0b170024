"""TLS contexts for probes, what OpenSSL holds against a certificate, and the chain as it was sent."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any

import httpx

_LEGACY_SERVER_CONNECT = 0x4
"""SSL_OP_LEGACY_SERVER_CONNECT: speak to servers without RFC 5746; Python names it from 3.12 only."""

EXPIRED, NOT_YET_VALID = 10, 9
SELF_SIGNED, SELF_SIGNED_ROOT = 18, 19
UNKNOWN_ISSUER, UNVERIFIED_LEAF = 20, 21
_REASONS = {
    EXPIRED: "it has expired",
    NOT_YET_VALID: "it is not valid yet",
    SELF_SIGNED: "it is self-signed",
    SELF_SIGNED_ROOT: "its authority is not known here",
    UNKNOWN_ISSUER: "its issuer is not known here, or an intermediate certificate is missing",
    UNVERIFIED_LEAF: "its issuer is not known here, or an intermediate certificate is missing",
    23: "it was revoked",
    24: "a certificate in its chain may not issue others",
    26: "it is not meant for servers",
    32: "a certificate in its chain may not sign certificates",
    62: "it is not for this name",
    64: "it is not for this address",
    66: "its key is too weak",
    67: "the key of its authority is too weak",
    68: "it is signed with a hash that is broken",
}
"""X509_V_ERR_* of OpenSSL's x509_vfy.h."""


def trusting_context(ca: str | None = None) -> ssl.SSLContext:
    """A context as clients have it: public authorities, the system's, and `ca`; checks certificate and name.

    A fresh one for every run, because its ALPN names are set by whoever uses it. Nothing comes from the environment.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.set_default_verify_paths()
    # Python sets it from 3.13 on; what it asks for beyond RFC 5280's must is lacking in many a company's own authority.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca is not None:
        context.load_verify_locations(cadata=ca)
    return context


def blind_context() -> ssl.SSLContext:
    """A context that checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def tolerate_old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a context talk to servers that are no longer safe: to look at them, not to trust them with anything."""
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    # ALL begins with the strongest; ADH and AECDH show no certificate. Security level 0: short keys, SHA-1 and TLS 1.0
    # are what we want to see and report.
    context.set_ciphers("ALL:!ADH:!AECDH:@SECLEVEL=0")
    context.options |= _LEGACY_SERVER_CONNECT
    return context


def offer(context: ssl.SSLContext, alpn: Sequence[str]) -> ssl.SSLContext:
    """Offer these protocols by ALPN; none at all when there are none."""
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def why_untrusted(error: ssl.SSLCertVerificationError) -> str:
    """Say what OpenSSL holds against a certificate, in words that follow "the certificate does not hold:"."""
    return _REASONS.get(error.verify_code) or str(error.verify_message).rstrip(".")


def sent_chain(tls: ssl.SSLObject) -> list[bytes]:
    """Return the certificates the server sent, DER, in its order.

    Public from Python 3.13 on; 3.10 to 3.12 have the same function one object deeper. Where neither is, the server's own
    certificate alone.
    """
    public: Any = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if inner is not None:
        # Objects of _ssl; without a format they give PEM.
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner() or ()]
    own = tls.getpeercert(binary_form=True)
    return [own] if own else []
