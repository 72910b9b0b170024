"""SNMP credentials: one way in, whole, and never shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from blocks.snmp import SnmpCredentials

USER: dict[str, Any] = {"version": "3", "username": "noc"}
AUTH: dict[str, Any] = {"auth_protocol": "SHA-256", "auth_password": "authenticate"}
PRIV: dict[str, Any] = {"priv_protocol": "AES", "priv_password": "encrypt-this"}


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"community": "public"}, "community"),
        (USER, "noAuthNoPriv"),
        ({**USER, **AUTH}, "authNoPriv"),
        ({**USER, **AUTH, **PRIV}, "authPriv"),
    ],
)
def test_the_level_says_what_protects_a_conversation(fields: dict[str, Any], level: str) -> None:
    assert SnmpCredentials(**fields).level == level


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "needs a community"),
        ({"community": ""}, "needs a community"),
        ({"community": "x" * 256}, "at most 255 bytes"),
        ({"community": "public", "username": "noc"}, "need version 3"),
        ({"community": "public", "context": "vlan-1"}, "COMMUNITY@VLAN"),
        ({"version": "3"}, "needs a username"),
        ({**USER, "community": "public"}, "has no community"),
        ({**USER, "auth_protocol": "SHA"}, "needs auth_password"),
        ({**USER, "auth_protocol": "SHA", "auth_password": "s3cret7"}, "of 8 characters"),
        ({**USER, "auth_password": "authenticate"}, "of no use without auth_protocol"),
        ({**USER, **AUTH, "priv_password": "encrypt-this"}, "of no use without priv_protocol"),
        ({**USER, **PRIV}, "needs auth_protocol"),
        ({**USER, "auth_protocol": "SHA-3"}, "auth_protocol"),
        ({"version": "1", "community": "public"}, "version"),
    ],
)
def test_what_is_half_or_contradicts_itself_is_refused_without_repeating_a_secret(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        SnmpCredentials(**fields)
    assert said in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("s3cret7", "authenticate", "encrypt-this"))


def test_nothing_secret_is_in_its_text_or_its_json() -> None:
    block = SnmpCredentials(**USER, **AUTH, **PRIV)
    for text in (repr(block), str(block), block.model_dump_json()):
        assert "authenticate" not in text and "encrypt-this" not in text
    assert {"community", "auth_password", "priv_password"} <= set(block.model_json_schema()["secret_fields"])
