"""What is wrong with a cipher suite, read from its name."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from tasks.network._tls_numbers import suite_name
from tasks.network.analyze._report import Severity

_PSEUDO = {0x00FF, 0x5600}
"""Signals that travel as cipher suites: renegotiation_info (RFC 5746) and the fallback's (RFC 7507)."""


@dataclass(frozen=True, slots=True)
class Weakness:
    """A reason against a cipher suite."""

    name: str
    severity: Severity
    why: str


_NO_ENCRYPTION = Weakness(
    "no encryption", Severity.CRITICAL, "NULL ciphers do not encrypt: everybody on the way reads along."
)
_ANONYMOUS = Weakness(
    "anonymous", Severity.HIGH, "Nobody proves who they are: anybody on the way can sit in the middle."
)
_EXPORT = Weakness(
    "export", Severity.HIGH, "Export ciphers have keys of 40 or 56 bits, broken in minutes (FREAK, Logjam)."
)
_RC4 = Weakness("RC4", Severity.HIGH, "RC4 leaks what it encrypts; RFC 7465 forbids it.")
_DES = Weakness("DES", Severity.HIGH, "DES has keys of 56 bits, broken within a day.")
_TRIPLE_DES = Weakness(
    "3DES", Severity.MEDIUM, "Blocks of 64 bits repeat after some gigabytes and give contents away (Sweet32)."
)
_RC2 = Weakness("RC2", Severity.HIGH, "RC2 is broken.")
_MD5 = Weakness("MD5", Severity.MEDIUM, "MD5 is broken as a hash; its use as a MAC is no longer trusted.")
_NO_FORWARD_SECRECY = Weakness(
    "no forward secrecy",
    Severity.LOW,
    "Who records the traffic now and gets the server's key later reads all of it.",
)
_CBC = Weakness(
    "CBC with SHA",
    Severity.INFO,
    "Encrypt-after-MAC with CBC has had padding oracles (Lucky 13, POODLE); AEAD is better.",
)


@functools.lru_cache(maxsize=4096)
def weaknesses(code: int) -> tuple[Weakness, ...]:
    """What speaks against a cipher suite, the gravest first; nothing for an unknown one.

    >>> [weakness.name for weakness in weaknesses(0x0005)]  # TLS_RSA_WITH_RC4_128_SHA
    ['RC4', 'no forward secrecy']
    >>> weaknesses(0x1301), weaknesses(0xC02F)
    ((), ())
    """
    name = suite_name(code)
    exchange, found, cipher = name.removeprefix("TLS_").partition("_WITH_")
    if not found or code in _PSEUDO:  # TLS 1.3 has no `_WITH_`, and nothing weak but the two without encryption
        return (_NO_ENCRYPTION,) if code in {0xC0B4, 0xC0B5} else ()
    reasons = []
    if cipher.startswith("NULL"):
        reasons.append(_NO_ENCRYPTION)
    if "anon" in exchange or exchange == "NULL":
        reasons.append(_ANONYMOUS)
    if "EXPORT" in exchange:
        reasons.append(_EXPORT)
    if cipher.startswith("RC4"):
        reasons.append(_RC4)
    if cipher.startswith("RC2"):
        reasons.append(_RC2)
    if re.match(r"DES(40)?_", cipher):
        reasons.append(_DES)
    if cipher.startswith("3DES"):
        reasons.append(_TRIPLE_DES)
    if cipher.endswith("_MD5"):
        reasons.append(_MD5)
    if not re.match(r"(EC)?DHE_|(EC)?DH_anon|PSK_DHE|ECCPWD|ECJPAKE|SRP|GOSTR", exchange):
        reasons.append(_NO_FORWARD_SECRECY)
    if "_CBC" in cipher and re.search(r"_SHA(256|384)?$", cipher):
        reasons.append(_CBC)
    return tuple(sorted(reasons, key=lambda reason: -reason.severity.rank))
