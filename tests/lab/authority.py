"""A certificate authority of the tests' own, and servers' certificates as they go wrong in the field."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import trustme


class Authority:
    """Issues certificates; `pem` is what a block's field `ca` takes to trust them."""

    @cached_property
    def _ca(self) -> trustme.CA:
        return trustme.CA(organization_name="signalbox tests")

    @property
    def pem(self) -> str:
        return self._ca.cert_pem.bytes().decode()

    def write_pem(self, path: Path) -> Path:
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def server(self, *names: str, expired: bool = False, maximum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A server's context with a certificate for `names` (default: localhost and the loopback addresses)."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        certificate = self._ca.issue_cert(
            *(names or ("localhost", "127.0.0.1", "::1")),
            not_before=yesterday - timedelta(days=30) if expired else None,
            not_after=yesterday if expired else None,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if maximum is not None:
            context.minimum_version = context.maximum_version = maximum
        certificate.configure_cert(context)
        return context
