"""Accounts of cameras: what is said is whole, certificates count as said, and the password is never shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from blocks.axis import AxisCredentials

ACCOUNT: dict[str, Any] = {"username": "noc", "password": "hunter2-secret"}
PRINT = "3F:" + "9a:" * 30 + "00"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"username": ""}, "at least 1 character"),
        ({"username": "no:c"}, "without colons"),
        ({"username": "nöc"}, "must be ASCII"),
        ({"username": "no\nc"}, "control characters"),
        ({"password": ""}, "must not be empty"),
        ({"verification": "pinned"}, "needs fingerprints"),
        ({"verification": "pinned", "fingerprints": ["3f:9a"]}, "64 hexadecimal digits"),
        ({"fingerprints": [PRINT]}, "only with verification pinned"),
        ({"verification": "off", "ca": "/etc/ssl/ca.pem"}, "only with verification system"),
        ({"scheme": "http", "verification": "pinned", "fingerprints": [PRINT]}, "need scheme https"),
        ({"scheme": "http", "ca": "/etc/ssl/ca.pem"}, "need scheme https"),
        ({"ca": "ca.pem"}, "absolute path"),
        ({"port": 0}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_together_says_what_is_right(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AxisCredentials(**{**ACCOUNT, **fields})
    assert said in str(caught.value) and "hunter2" not in str(caught.value)


def test_fingerprints_are_compared_without_colons_and_case() -> None:
    block = AxisCredentials(**ACCOUNT, verification="pinned", fingerprints=[PRINT, PRINT.lower().replace(":", "")])
    assert block.fingerprints == ["3f" + "9a" * 30 + "00"]


def test_the_port_is_the_one_given_else_the_blocks_else_the_schemes() -> None:
    assert AxisCredentials(**ACCOUNT).port_of() == 443
    assert AxisCredentials(**ACCOUNT, scheme="http").port_of() == 80
    assert AxisCredentials(**ACCOUNT, port=8443).port_of() == 8443
    assert AxisCredentials(**ACCOUNT, port=8443).port_of(9443) == 9443


def test_certificates_are_checked_unless_the_block_says_otherwise(tmp_path: Path) -> None:
    checked = AxisCredentials(**ACCOUNT).tls()
    assert checked is not None and checked.verify_mode is ssl.CERT_REQUIRED and checked.check_hostname
    for fields in ({"verification": "off"}, {"verification": "pinned", "fingerprints": [PRINT]}):
        context = AxisCredentials(**ACCOUNT, **fields).tls()
        assert context is not None and context.verify_mode is ssl.CERT_NONE
    assert AxisCredentials(**ACCOUNT, scheme="http").tls() is None
    with pytest.raises(ValueError, match="cannot be read"):
        AxisCredentials(**ACCOUNT, ca=str(tmp_path / "missing.pem")).tls()


def test_the_password_is_in_nothing_that_is_shown() -> None:
    block = AxisCredentials(**ACCOUNT)
    assert "hunter2" not in repr(block) + str(block) + block.model_dump_json()
