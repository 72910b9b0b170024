"""How Axis cameras let us in: one account for a group of cameras."""

from __future__ import annotations

import re
import ssl
from functools import lru_cache
from typing import ClassVar, Literal, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from blocks._trust import TrustedAuthority, trust

Verification = Literal["system", "pinned", "off"]


class AxisCredentials(Block):
    """An account on a group of cameras, and how they are reached: the hosts are parameters, this is what lets us in.

    Cameras come with certificates they signed themselves. Either give them certificates of an authority of yours (`ca`), or name
    the fingerprints of the ones they have (`verification="pinned"`). `"off"` encrypts, but anybody on the way can pose as the camera
    and take the password.

    Example:
        ```python
        AxisCredentials(username="noc", password="...", ca="/etc/ssl/cameras.pem").save("yard")
        AxisCredentials(
            username="noc", password="...", verification="pinned", fingerprints=["3f:9a:..."]
        ).save("gate")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "Axis Credentials"
    _block_type_slug: ClassVar[str] = "axis-credentials"
    _description: ClassVar[str] = "Account on a group of Axis cameras; tools name it axis/NAME."
    short: ClassVar[str] = "axis"

    username: str = Field(
        min_length=1, max_length=64, description="Name of the account; one of its own, with no more rights than needed."
    )
    password: SecretStr = Field(description="Its password.")
    scheme: Literal["https", "http"] = Field(
        "https", description="https, or http for cameras without TLS: then everybody on the way reads along."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="TCP port, 1 to 65535. None: 443 for https, 80 for http."
    )
    verification: Verification = Field(
        "system",
        description="Which certificates count: system (public authorities, the system's and ca), pinned (those whose fingerprints are "
        "listed), off (any: only where the network is trusted; every outcome says so).",
    )
    ca: TrustedAuthority = None
    fingerprints: list[str] = Field(
        default_factory=list,
        max_length=10_000,
        description="For pinned: SHA-256 fingerprints of the cameras' certificates, 64 hexadecimal digits each, colons allowed.",
    )
    basic_over_http: bool = Field(
        False,
        description="Send the password in clear text to cameras that accept nothing better over http.",
    )

    @field_validator("username")
    @classmethod
    def _sendable(cls, username: str) -> str:
        # RFC 7617 section 2: the first colon ends the name; RFC 7616 puts it between quotes.
        if ":" in username or not username.isascii() or not username.isprintable():
            raise ValueError("must be ASCII, without colons and control characters")
        return username

    @field_validator("password")
    @classmethod
    def _not_empty(cls, password: SecretStr) -> SecretStr:
        if not password.get_secret_value():
            raise ValueError("must not be empty")
        return password

    @field_validator("fingerprints")
    @classmethod
    def _digests(cls, fingerprints: list[str]) -> list[str]:
        digests = [re.sub(r"[:\s]", "", text).lower() for text in fingerprints]
        for text, digest in zip(fingerprints, digests, strict=True):
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"{text[:100]!r} is no SHA-256 fingerprint: those have 64 hexadecimal digits")
        return list(dict.fromkeys(digests))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.verification == "pinned" and not self.fingerprints:
            raise ValueError("pinned needs fingerprints")
        if self.verification != "pinned" and self.fingerprints:
            raise ValueError("fingerprints count only with verification pinned")
        if self.verification != "system" and self.ca is not None:
            raise ValueError("ca counts only with verification system")
        if self.scheme == "http" and (self.verification == "pinned" or self.ca is not None):
            raise ValueError("with http there are no certificates: fingerprints and ca need scheme https")
        return self

    def port_of(self, port: int | None = None) -> int:
        """The TCP port: the one given, else the block's, else the scheme's."""
        return port or self.port or (443 if self.scheme == "https" else 80)

    def tls(self) -> ssl.SSLContext | None:
        """Whom TLS connections trust; None with http. A pinned certificate is compared by who connects: it is in `fingerprints`.

        Raises:
            ValueError: `ca` names a file that cannot be read here.
        """
        if self.scheme == "http":
            return None
        return trust(self.ca) if self.verification == "system" else unchecked()


@lru_cache(maxsize=1)
def unchecked() -> ssl.SSLContext:
    """A context that takes any certificate: who uses it compares fingerprints, or sends nothing secret, or was told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
