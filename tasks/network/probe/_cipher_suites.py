"""Cipher suites in the order we offer them, and what is wrong with the bad ones."""

from __future__ import annotations

import re

from tasks.network._tls_numbers import suite_name

TLS13_SUITES = {number: suite_name(number) for number in (0x1302, 0x1303, 0x1301, 0x1304, 0x1305)}
"""Suites of TLS 1.3, best first."""

_OLDER = (
    0xC02C, 0xC030, 0x009F, 0x00A3, 0xCCA9, 0xCCA8, 0xCCAA, 0xC02B, 0xC02F, 0x009E, 0x00A2, 0xC0AD, 0xC09F, 0xC0AC,
    0xC09E, 0xC0AF, 0xC0A3, 0xC0AE, 0xC0A2, 0xC024, 0xC028, 0x006B, 0x006A, 0xC023, 0xC027, 0x0067, 0x0040, 0xC087,
    0xC08B, 0xC07D, 0xC081, 0xC086, 0xC08A, 0xC07C, 0xC080, 0xC073, 0xC077, 0x00C4, 0x00C3, 0xC072, 0xC076, 0x00BE,
    0x00BD, 0xC00A, 0xC014, 0x0039, 0x0038, 0xC009, 0xC013, 0x0033, 0x0032, 0x0088, 0x0087, 0x0045, 0x0044, 0x009A,
    0x0099, 0x009D, 0x009C, 0xC09D, 0xC09C, 0x003D, 0x003C, 0x0035, 0x002F, 0x0084, 0x0041, 0x0096, 0x0007, 0xC008,
    0xC012, 0x0016, 0x0013, 0x000A, 0xC007, 0xC011, 0x0005, 0x0004, 0x0015, 0x0012, 0x0009, 0x00A7, 0x00A6, 0xC019,
    0xC018, 0x003A, 0x0034, 0x0014, 0x0008, 0x0003, 0x0006, 0xC006, 0xC010, 0x003B, 0x0002, 0x0001,
)  # fmt: skip
OLDER_SUITES = {number: suite_name(number) for number in _OLDER}
"""Suites of SSLv3 to TLS 1.2, best first, the broken ones last: a server that follows our order shows its best."""

SUITES = TLS13_SUITES | OLDER_SUITES

_BROKEN = (
    ("_NULL_", "does not encrypt"),
    ("_anon_", "does not prove who the server is"),
    ("_EXPORT_", "was made weak for export in the 1990s and is broken"),
    ("_RC4_", "uses RC4, which is broken (RFC 7465)"),
    ("_RC2_", "uses RC2, which is broken"),
    ("_3DES_", "uses 3DES, which leaks in long connections (Sweet32)"),
    ("_DES_", "uses DES, which is broken"),
)


def broken(name: str) -> str | None:
    """Say what is wrong with a suite, after its name; None when nothing is.

    >>> broken("TLS_RSA_WITH_RC4_128_SHA")
    'uses RC4, which is broken (RFC 7465)'
    >>> broken("TLS_RSA_WITH_AES_128_GCM_SHA256")
    """
    return next((what for part, what in _BROKEN if part in name), None)


def keeps_secrets(name: str) -> bool:
    """Whether a recording stays secret when the server's key is stolen later (forward secrecy).

    >>> keeps_secrets("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), keeps_secrets("TLS_RSA_WITH_AES_128_GCM_SHA256")
    (True, False)
    """
    return not re.match(r"TLS_RSA_", name)
