"""What is wrong with SSH's algorithms and with old software, read from their names."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from tasks.network.analyze._report import Severity
from tasks.network.analyze._ssh_wire import IMPLICIT, Banner, Chosen, KexInit, is_authenticated


@dataclass(frozen=True, slots=True)
class Weakness:
    """A reason against an algorithm or a version."""

    severity: Severity
    why: str


_BROKEN_1024 = "Its group of 1024 bits is within reach of a state (Logjam), and SHA-1 is broken."
_SHA1_EXCHANGE = "It rests on SHA-1, which RFC 9142 advises against."
_CBC = "CBC lets an attacker on the way recover some plain text (CVE-2008-5161) where the MAC comes after."
_SMALL_BLOCKS = "Blocks of 64 bits repeat after some gigabytes and give contents away (Sweet32)."

_RULES: dict[str, tuple[tuple[str, Severity, str], ...]] = {
    "kex": (
        (r"diffie-hellman-group1-sha1|gss-group1-sha1-", Severity.HIGH, _BROKEN_1024),
        (r"rsa1024-sha1", Severity.HIGH, "RSA keys of 1024 bits can be broken."),
        (r"diffie-hellman-group-exchange-sha1|gss-gex-sha1-", Severity.MEDIUM, _SHA1_EXCHANGE),
        (r"diffie-hellman-group14-sha1|gss-group14-sha1-", Severity.LOW, _SHA1_EXCHANGE),
    ),
    "host key": (
        (r"ssh-dss|x509v3-ssh-dss|x509v3-sign-dss", Severity.HIGH, "DSA keys have 1024 bits and SHA-1; OpenSSH removed them."),
        (r"ssh-rsa($|-cert-)|x509v3-ssh-rsa|x509v3-sign-rsa$|pgp-", Severity.MEDIUM,
         "It signs with SHA-1, which can be forged; OpenSSH refuses it since 8.8."),
    ),
    "cipher": (
        (r"none$", Severity.CRITICAL, "Nothing is encrypted: passwords go over the wire as they are."),
        (r"arcfour|rc4", Severity.HIGH, "RC4 leaks what it encrypts; RFC 8758 forbids it."),
        (r"des-cbc", Severity.HIGH, "DES has keys of 56 bits, broken within a day."),
        (r"(3des|blowfish|cast128|idea)-", Severity.MEDIUM, _SMALL_BLOCKS),
        (r".*-cbc", Severity.LOW, _CBC),
    ),
    "MAC": (
        (r"none$", Severity.CRITICAL, "Nothing keeps what is sent from being changed on the way."),
        (r"hmac-md5", Severity.MEDIUM, "MD5 is broken as a hash; its use in a MAC is no longer trusted."),
        (r".*-96", Severity.LOW, "Tags of 96 bits are shorter than anybody recommends."),
        (r"umac-64", Severity.LOW, "Tags of 64 bits are shorter than anybody recommends."),
    ),
}  # fmt: skip

_LISTS = {
    "kex": ("kex",),
    "host key": ("host_key",),
    "cipher": ("cipher_to_server", "cipher_to_client"),
    "MAC": ("mac_to_server", "mac_to_client"),
}


@functools.lru_cache(maxsize=4096)
def weakness(kind: str, name: str) -> Weakness | None:
    """What speaks against an algorithm.

    >>> weakness("cipher", "arcfour128").severity, weakness("kex", "curve25519-sha256")
    (<Severity.HIGH: 'high'>, None)
    """
    for pattern, severity, why in _RULES[kind]:
        if re.match(pattern, name):
            return Weakness(severity, why)
    return None


def weak_in(offer: KexInit) -> list[tuple[str, str, Weakness]]:
    """The weak algorithms a side offers: kind, name, reason; the worst first."""
    found = {
        (kind, name): reason
        for kind, lists in _LISTS.items()
        for attribute in lists
        for name in getattr(offer, attribute)
        if (reason := weakness(kind, name))
    }
    return [
        (kind, name, reason)
        for (kind, name), reason in sorted(found.items(), key=lambda item: (-item[1].severity.rank, item[0]))
    ]


def weak_chosen(chosen: Chosen) -> list[tuple[str, str, Weakness]]:
    """The weak algorithms two sides agreed on."""
    found = {}
    for kind, attributes in _LISTS.items():
        for attribute in attributes:
            name = getattr(chosen, attribute)
            if name and name != IMPLICIT and (reason := weakness(kind, name)):
                found[kind, name] = reason
    # A cipher that authenticates needs no MAC, so "none" beside it is nothing to worry about.
    if is_authenticated(chosen.cipher_to_server or "") and is_authenticated(chosen.cipher_to_client or ""):
        found = {key: reason for key, reason in found.items() if key[0] != "MAC"}
    return [(kind, name, reason) for (kind, name), reason in found.items()]


def old_software(banner: Banner) -> Weakness | None:
    """What is known against a version, as far as a banner can tell: distributions repair without changing the number.

    >>> old_software(Banner("", "2.0", "OpenSSH_7.2p2", "")).severity
    <Severity.MEDIUM: 'medium'>
    """
    software = banner.software
    if match := re.match(r"OpenSSH_(\d+)\.(\d+)", software):
        version = int(match[1]), int(match[2])
        if version < (7, 4):
            return Weakness(
                Severity.MEDIUM, "It was released before 2017; holes found since are repaired in newer ones only."
            )
        if (8, 5) <= version < (9, 8) and re.match(r"OpenSSH_\d+\.\d+p", software):
            if banner.comment:
                why = f"As released, 8.5p1 to 9.7p1 have CVE-2024-6387 (regreSSHion); {banner.comment[:60]} may have repaired it."
                return Weakness(Severity.INFO, why)
            return Weakness(
                Severity.MEDIUM, "8.5p1 to 9.7p1 have CVE-2024-6387 (regreSSHion) on Linux: code from afar."
            )
        if version < (8, 0):
            return Weakness(Severity.LOW, "It was released before 2019.")
    elif match := re.match(r"dropbear_(\d{4})\.(\d+)", software):
        if int(match[1]) < 2016:
            return Weakness(Severity.HIGH, "Dropbear before 2016.74 runs code from afar (CVE-2016-7406).")
        if int(match[1]) < 2022:
            return Weakness(Severity.LOW, "It was released before 2022.")
    elif match := re.match(r"libssh[_-](\d+)\.(\d+)\.(\d+)", software):
        version3 = int(match[1]), int(match[2]), int(match[3])
        if (0, 6, 0) <= version3 < (0, 7, 6) or (0, 8, 0) <= version3 < (0, 8, 4):
            return Weakness(Severity.HIGH, "As a server it lets clients in without a login (CVE-2018-10933).")
    return None
