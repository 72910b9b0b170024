"""What is wrong with the TLS of a host, judged from what a survey saw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tasks.network.analyze._report import Finding, Severity
from tasks.network.probe._certificate import Parsed, printable
from tasks.network.probe._cipher_suites import broken, keeps_secrets
from tasks.network.probe._tls_hello import Version
from tasks.network.probe._tls_survey import Survey
from tasks.network.probe._verification import EXPIRED, NOT_YET_VALID, SELF_SIGNED

URGENT_DAYS = 7
LEAST_RSA_BITS, LEAST_EC_BITS = 2048, 224  # NIST SP 800-131A: what is still allowed
_BROKEN_HASHES = {"md2", "md5", "sha1"}

_RENEW = "Renew it, and let a program do so in time next time (ACME)."
_IMPERSONATE = "Clients refuse it, or people learn to click warnings away, and then nobody notices an impostor."
_FORGE = "Who can break it can forge the server's identity and read along."
_READ_ALONG = "Who records the traffic may be able to read it, now or later."


def _finding(severity: Severity, code: str, what: str, why: str, action: str) -> Finding:
    return Finding(severity=severity, code=f"tls.{code}", what=what, why=why, action=action)


def judge(found: Survey, name: str, expiring_days: int) -> list[Finding]:
    """Return what is wrong with a host's TLS.

    Args:
        found: What was seen.
        name: The name it was asked for.
        expiring_days: From how many days before its end on a certificate is worth a warning.
    """
    if found.state != "tls":
        return []
    return [
        *_chain(found, name),
        *_dates(found, expiring_days),
        *_strength(found),
        *_protocol(found),
        *_staple(found),
    ]


def _chain(found: Survey, name: str) -> Iterator[Finding]:
    leaf = found.leaf
    if found.chain and leaf is None:
        yield _finding(
            Severity.HIGH,
            "malformed-certificate",
            "The certificate cannot be read.",
            "Clients refuse it.",
            "Issue it anew with another program.",
        )
    if leaf is None:
        return
    if not leaf.is_for(name):
        by_cn = "" if leaf.names else " It names its host in the common name only, which clients ignore."
        yield _finding(
            Severity.HIGH,
            "wrong-name",
            f"The certificate is not for {name}, but for {_some(leaf.names or [leaf.common_name or 'nobody'])}.{by_cn}",
            _IMPERSONATE,
            f"Issue one with {name} among its names, or use a name it was issued for.",
        )
    yield from _issuer(found, leaf)
    known = [certificate for certificate in found.chain if certificate is not None]
    if any(not lower.issued_by(upper) for lower, upper in itertools.pairwise(known)):
        yield _finding(
            Severity.LOW,
            "chain-order",
            "The certificates it sends are out of order, or some do not belong to the chain.",
            "Older clients give up (TLS before 1.3 demands the order).",
            "Send the server's own first, then the one that issued it, and so on.",
        )


def _issuer(found: Survey, leaf: Parsed) -> Iterator[Finding]:
    if leaf.self_signed and found.trusted is not True:
        yield _finding(
            Severity.MEDIUM,
            "self-signed",
            "The certificate is self-signed.",
            _IMPERSONATE,
            "Issue one from an authority your clients know, or give them this one.",
        )
    elif found.trusted is False and found.distrust_code not in {EXPIRED, NOT_YET_VALID, SELF_SIGNED}:
        last = found.chain[-1]
        if last is not None and not last.self_signed and found.distrust_code in {20, 21}:
            alone = len(found.chain) == 1
            yield _finding(
                Severity.HIGH if alone else Severity.MEDIUM,
                "missing-intermediate",
                f"The chain ends with a certificate of {last.issuer}, which was not sent and is not known here.",
                "Clients that do not happen to have it refuse the connection; browsers often do have it, programs do not.",
                "Send the intermediate certificates too (fullchain.pem), or, if the authority is your own, give it in ca.",
            )
        else:
            yield _finding(
                Severity.MEDIUM,
                "unknown-authority",
                f"The certificate does not hold: {found.distrust}.",
                _IMPERSONATE,
                "Issue one from an authority your clients know; if the authority is your own, give it in ca.",
            )


def _dates(found: Survey, expiring_days: int) -> Iterator[Finding]:
    for place, certificate in enumerate(found.chain):
        if certificate is None:
            continue
        which = "The certificate" if place == 0 else f"The certificate of the authority {certificate.subject}"
        days = certificate.days_left()
        if days < 0:
            yield _finding(
                Severity.HIGH,
                "expired",
                f"{which} expired on {certificate.not_after:%Y-%m-%d}{f', {_days(-days - 1)} ago' if days < -1 else ''}.",
                _IMPERSONATE,
                _RENEW,
            )
        elif certificate.not_yet_valid:
            yield _finding(
                Severity.HIGH,
                "not-yet-valid",
                f"{which} is valid from {certificate.not_before:%Y-%m-%d} on only.",
                "Clients refuse it.",
                "Check the clocks of the authority, of the server, and of this machine.",
            )
        elif days <= expiring_days:
            yield _finding(
                Severity.HIGH if days <= URGENT_DAYS else Severity.MEDIUM,
                "expiring",
                f"{which} expires on {certificate.not_after:%Y-%m-%d}, in {_days(days)}.",
                "From then on clients refuse it.",
                _RENEW,
            )


def _strength(found: Survey) -> Iterator[Finding]:
    for place, certificate in enumerate(found.chain):
        if certificate is None:
            continue
        which = "The certificate" if place == 0 else f"The certificate of the authority {certificate.subject}"
        if certificate.digest in _BROKEN_HASHES and not (place and certificate.self_signed):
            # Nobody checks the signature of a root on itself.
            yield _finding(
                Severity.HIGH,
                "weak-signature",
                f"{which} is signed with {certificate.digest.upper()}, which is broken.",
                _FORGE,
                "Issue it anew with SHA-256.",
            )
        if _is_weak(certificate):
            yield _finding(
                Severity.HIGH,
                "weak-key",
                f"The key of {which[0].lower()}{which[1:]} is {certificate.key} with {certificate.key_bits} bits.",
                _FORGE,
                "Issue it anew with RSA of 2048 bits or more, or with P-256.",
            )
    if found.prime_bits and found.prime_bits < 2048:
        yield _finding(
            Severity.HIGH if found.prime_bits < 1024 else Severity.MEDIUM,
            "weak-dh",
            f"The server's Diffie-Hellman group has {found.prime_bits} bits.",
            _READ_ALONG,
            "Use elliptic curves (ECDHE), or a group of 2048 bits.",
        )


def _protocol(found: Survey) -> Iterator[Finding]:
    for version in found.speaks:
        if version in {Version.SSL3, Version.TLS10, Version.TLS11}:
            yield _finding(
                Severity.HIGH if version is Version.SSL3 else Severity.MEDIUM,
                "old-version",
                f"The server offers {version}.",
                "It is broken and forbidden (RFC 7568, RFC 8996); an attacker can press clients down to it.",
                "Switch it off; TLS 1.2 and 1.3 are enough for everything since 2014.",
            )
    if found.offers and found.speaks and not {Version.TLS12, Version.TLS13} & set(found.speaks):
        yield _finding(
            Severity.HIGH,
            "no-modern-version",
            "The server offers no version of TLS that is still safe.",
            "Clients of today refuse it.",
            "Bring its software up to date, or put a proxy before it.",
        )
    suites = {offer.suite: version for version, offer in found.offers.items() if offer.suite and offer.offered == "yes"}
    if found.suite:
        suites.setdefault(found.suite, Version.TLS12)
    for suite in suites:
        if (fault := broken(suite)) is not None:
            yield _finding(
                Severity.HIGH,
                "weak-suite",
                f"The server picks {suite}, which {fault}.",
                _READ_ALONG,
                "Leave only ECDHE suites with AES-GCM or ChaCha20.",
            )
        elif not keeps_secrets(suite):
            yield _finding(
                Severity.LOW,
                "no-forward-secrecy",
                f"The server picks {suite}: recordings can be read once its key is stolen.",
                _READ_ALONG,
                "Prefer ECDHE suites.",
            )


def _staple(found: Survey) -> Iterator[Finding]:
    staple = found.staple
    if staple is None:
        return
    if staple.status == "revoked":
        yield _finding(
            Severity.CRITICAL,
            "revoked",
            "The OCSP response the server sends along says that its certificate was revoked.",
            "Somebody may have stolen its key; clients refuse it.",
            "Find out why it was revoked, and issue a new one with a new key.",
        )
    elif staple.expired or staple.status in {"unreadable", "unknown"}:
        what = "has expired" if staple.expired else f"is {staple.status}"
        yield _finding(
            Severity.LOW,
            "bad-staple",
            f"The OCSP response the server sends along {what}.",
            "Clients that insist on one refuse the connection.",
            "Check that the server can reach its authority's OCSP responder.",
        )


def _is_weak(certificate: Parsed) -> bool:
    bits = certificate.key_bits or 0
    if certificate.key == "RSA":
        return bits < LEAST_RSA_BITS
    if certificate.key.startswith("EC "):
        return bits < LEAST_EC_BITS
    return certificate.key == "DSA"


def _days(number: int) -> str:
    return f"{number} day{'s'[: number != 1]}"


def _some(names: list[str]) -> str:
    return ", ".join(printable(name, 100) for name in names[:4]) + (
        f" and {len(names) - 4} more" if len(names) > 4 else ""
    )
