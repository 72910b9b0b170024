"""Whom TLS connections of our blocks trust."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Annotated, Literal

import httpx
from pydantic import AfterValidator, Field


@lru_cache(maxsize=32)
def trust(ca: str | None = None, protocol: Literal["http", "smtp"] = "http") -> ssl.SSLContext:
    """Return a TLS context that checks certificate and name, trusting the public authorities, the system's, and `ca`.

    Building one reads some 140 certificates (20 ms), hence the cache.

    Args:
        ca: One or more certificates in PEM, or the absolute path of a file with them.
        protocol: What is spoken over it: httpcore writes its ALPN names into the context it is given, and a mail server
            that is offered `http/1.1` hangs up (the ALPACA attack), so contexts are not shared between protocols.

    Raises:
        ValueError: `ca` is neither.
    """
    # httpx's authorities (certifi) as well as the system's: a minimal container has no ca-certificates, a company's
    # machine has its own. trust_env=False: no SSL_CERT_FILE of the caller's shell replaces them.
    context = httpx.create_ssl_context(trust_env=False)
    context.set_default_verify_paths()
    if ca is not None:
        try:
            if "-----BEGIN" in ca:
                context.load_verify_locations(cadata=ca)
            else:
                context.load_verify_locations(cafile=ca)
        except (OSError, ValueError) as error:
            where = "the certificates" if "-----BEGIN" in ca else f"the file {ca}"
            raise ValueError(f"ca: {where} cannot be read: {error}") from None
    return context


def _certificates(ca: str | None) -> str | None:
    if ca is None or not ca.strip():
        return None
    if "-----BEGIN" in ca:
        trust(ca)
    elif not ca.startswith("/"):
        raise ValueError("must be certificates in PEM, or the absolute path of a file with them")
    return ca


TrustedAuthority = Annotated[
    str | None,
    # A path is read when it is used: the file is on the worker, not where the block is made.
    AfterValidator(_certificates),
    Field(
        title="CA",
        description="Authority to trust besides the public ones: certificates in PEM, or the absolute path of a file with them.",
    ),
]
"""Field of a block: whose certificates count."""
