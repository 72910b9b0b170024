"""How SNMP agents let us read: a community (v2c), or a user with its keys (v3)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

AuthProtocol = Literal["none", "MD5", "SHA", "SHA-224", "SHA-256", "SHA-384", "SHA-512"]
PrivProtocol = Literal["none", "DES", "AES", "AES-192", "AES-256", "AES-192-C", "AES-256-C"]

SHORTEST_PASSWORD = 8
"""RFC 3414 section 11.2: agents refuse to make a user with a shorter password."""


class SnmpCredentials(Block):
    """Read access to a group of SNMP agents: the hosts are parameters, this is what lets us in.

    Example:
        ```python
        SnmpCredentials(community="...").save("printers")
        SnmpCredentials(
            version="3",
            username="noc",
            auth_protocol="SHA-256",
            auth_password="...",
            priv_protocol="AES",
            priv_password="...",
        ).save("core")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "SNMP Credentials"
    _block_type_slug: ClassVar[str] = "snmp-credentials"
    _description: ClassVar[str] = "Community or user of SNMP agents; tools name it snmp/NAME."
    short: ClassVar[str] = "snmp"

    version: Literal["2c", "3"] = Field(
        "2c", description="2c (a community, sent in clear text) or 3 (a user with passwords)."
    )
    community: SecretStr | None = Field(
        None, description="Read community, for version 2c. Anybody on the way can read it: prefer version 3."
    )
    username: str | None = Field(None, min_length=1, max_length=32, description="User name, for version 3.")
    auth_protocol: AuthProtocol = Field(
        "none", description="How a version 3 user proves who it is: none, MD5, SHA or one of the SHA-2 family."
    )
    auth_password: SecretStr | None = Field(None, description="Authentication password, at least 8 characters.")
    priv_protocol: PrivProtocol = Field(
        "none",
        description="How version 3 messages are encrypted: none, DES, AES (128 bits), AES-192, AES-256; with -C where keys are "
        "extended as Cisco and others do (net-snmp uses the same names).",
    )
    priv_password: SecretStr | None = Field(None, description="Encryption password, at least 8 characters.")
    context: str = Field(
        "", max_length=32, description="Version 3 context, such as vlan-10 on some switches. Empty: the default one."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.version == "2c":
            self._as_community()
        else:
            self._as_user()
        return self

    def _as_community(self) -> None:
        if self.community is None or not self.community.get_secret_value():
            raise ValueError("version 2c needs a community")
        if len(self.community.get_secret_value().encode()) > 255:
            raise ValueError("a community has at most 255 bytes")
        if self.username or self.auth_protocol != "none" or self.priv_protocol != "none":
            raise ValueError("version 2c has a community only: a user and protocols need version 3")
        if self.context:
            raise ValueError("version 2c has no contexts; some agents take COMMUNITY@VLAN as the community instead")

    def _as_user(self) -> None:
        if not self.username:
            raise ValueError("version 3 needs a username")
        if self.community is not None:
            raise ValueError("version 3 has no community: it needs a username")
        for kind, protocol, password in (
            ("auth", self.auth_protocol, self.auth_password),
            ("priv", self.priv_protocol, self.priv_password),
        ):
            if protocol == "none" and password is not None:
                raise ValueError(f"{kind}_password is of no use without {kind}_protocol")
            if protocol != "none" and (password is None or len(password.get_secret_value()) < SHORTEST_PASSWORD):
                raise ValueError(f"{kind}_protocol {protocol} needs {kind}_password of {SHORTEST_PASSWORD} characters")
        if self.priv_protocol != "none" and self.auth_protocol == "none":
            raise ValueError("who encrypts must also prove who it is: priv_protocol needs auth_protocol")

    @property
    def level(self) -> str:
        """What protects a conversation, in the words of RFC 3411; `community` for version 2c."""
        if self.version == "2c":
            return "community"
        if self.auth_protocol == "none":
            return "noAuthNoPriv"
        return "authNoPriv" if self.priv_protocol == "none" else "authPriv"
