"""What is worth saying about handshakes: the wording and the weight of every finding of `tls_analyzer`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tasks.core.words import count
from tasks.network._tls_numbers import alert_name, suite_name, version_name
from tasks.network.analyze._report import Severity
from tasks.network.analyze._tls_chain import Certificate
from tasks.network.analyze._tls_weakness import Weakness

Said = tuple[Severity, str, str, str]
"""Severity, what, why, action."""

SOON = timedelta(days=30)
_OLDEST_GOOD = 0x0303
_WEAK_SIGNATURES = {"md2", "md5", "sha1"}


def day(moment: datetime) -> str:
    """A date for people, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def weak_version(server: str, version: int) -> Said:
    old = version <= 0x0300
    return (
        Severity.HIGH if old else Severity.MEDIUM,
        f"{server} spoke {version_name(version)}.",
        "SSL 2.0 and 3.0 are broken (DROWN, POODLE)."
        if old
        else "TLS 1.0 and 1.1 rest on SHA-1 and MD5, and are withdrawn since 2021 (RFC 8996).",
        "Allow TLS 1.2 and 1.3 only on the server; update the client if it offers nothing newer.",
    )


def old_client(client: str, version: int) -> Said:
    return (
        Severity.MEDIUM,
        f"{client} offers at most {version_name(version)}.",
        "A server that allows only what is safe today refuses it; one that does not is at risk because of it.",
        "Update the client, or its TLS library.",
    )


def weak_suite(server: str, suite: int, weakness: Weakness) -> Said:
    return (
        weakness.severity,
        f"{server} chose {suite_name(suite)} ({weakness.name}).",
        weakness.why,
        "Remove it from the server's cipher suites; prefer ECDHE with AES-GCM or ChaCha20.",
    )


def weak_offer(client: str, names: list[str]) -> Said:
    return (
        Severity.LOW,
        f"{client} offers cipher suites with {', '.join(names)}.",
        "A server, or somebody in the middle, may choose them.",
        "Remove them from the client's cipher suites.",
    )


def weak_group(server: str, bits: int) -> Said:
    return (
        Severity.HIGH if bits <= 1024 else Severity.MEDIUM,
        f"{server} uses a Diffie-Hellman group of {bits} bits.",
        "Groups of 1024 bits and less are within reach of a state (Logjam); below 2048 bits nothing is recommended.",
        "Use ECDHE, or a group of 2048 bits or more.",
    )


def compression(server: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} compresses inside TLS.",
        "The length of what is compressed gives secrets away (CRIME).",
        "Switch TLS compression off.",
    )


def downgrade(server: str, version: int) -> Said:
    return (
        Severity.HIGH,
        f"{server} says it knows a newer TLS than the {version_name(version)} it chose, and the client offered one.",
        "Somebody between them may have changed the client's offer; a client that checks ends such a handshake.",
        "Look at what sits between client and server (a proxy that inspects TLS, or an attacker).",
    )


def no_secure_renegotiation(server: str) -> Said:
    return (
        Severity.LOW,
        f"{server} does not know secure renegotiation (RFC 5746).",
        "An attacker may put text in front of what a client sends.",
        "Update the server's TLS library.",
    )


def heartbleed(sender: str, wanted: int) -> Said:
    return (
        Severity.CRITICAL,
        f"{sender} asked for {wanted} bytes with a heartbeat that carries fewer (Heartbleed).",
        "A server with OpenSSL 1.0.1 to 1.0.1f answers with its memory: keys, passwords.",
        "Find out who sends it; look for a long answer, and if there is one replace the server's keys and passwords.",
    )


def alert(server: str, from_client: bool, code: int) -> Said:
    who = "The client" if from_client else "The server"
    return (
        Severity.MEDIUM if code in {42, 43, 44, 45, 46, 48, 51, 86, 116} else Severity.LOW,
        f"{who} ended handshakes with {server} with the alert {alert_name(code)}.",
        _ALERTS.get(code, "The two do not get along, so this connection does not exist."),
        "Compare what the client offers with what the server allows; see the handshakes of this report.",
    )


_ALERTS = {
    40: "They have no cipher suite, group or signature in common.",
    42: "The certificate is broken, or its signature is wrong.",
    44: "The certificate is revoked.",
    45: "The certificate has expired.",
    46: "The certificate is not accepted, for a reason the sender keeps.",
    48: "The issuer of the certificate is not trusted: a private authority the other side does not know, or a man in the middle.",
    51: "A signature is wrong, or the pre-shared key differs.",
    70: "They have no version of TLS in common.",
    80: "Something broke inside the sender.",
    86: "The client came back with an older version than the server knows: a failed first try, or an attack.",
    112: "The server has nothing for the name that was asked for.",
    116: "The server wants a certificate from the client, and got none.",
    120: "They have no application protocol in common.",
}


def failed(server: str, outcome: str) -> Said:
    return (
        Severity.LOW if outcome == "unanswered" else Severity.MEDIUM,
        f"Handshakes with {server} failed: {_OUTCOMES[outcome]}.",
        "Whoever wanted to talk to it could not.",
        "Look at the server's log for the time of these frames; see the handshakes of this report.",
    )


_OUTCOMES = {
    "refused": "one side sent an alert",
    "reset": "the connection was reset before it was through",
    "closed": "the connection was closed before it was through",
    "unanswered": "the ClientHello got no answer",
}


def expiry(certificate: Certificate, server: str, seen: datetime, now: datetime) -> tuple[str, Said] | None:
    """The finding about a certificate's dates: at the time of the capture first, then as of now."""
    assert certificate.not_before is not None and certificate.not_after is not None
    name = f"The certificate {certificate.subject or certificate.serial} of {server}"
    renew = "Renew it, and watch what should have renewed it."
    if certificate.not_after < seen:
        what = f"{name} had expired on {day(certificate.not_after)}, before the capture ({day(seen)})."
        return "tls.expired-certificate", (
            Severity.HIGH,
            what,
            "Clients that check refuse it; others learn not to.",
            renew,
        )
    if certificate.not_before > seen:
        what = f"{name} is valid only from {day(certificate.not_before)}, after the capture ({day(seen)})."
        why = "Clients that check refuse it; or a clock is wrong."
        return "tls.early-certificate", (Severity.MEDIUM, what, why, "Check the clocks of server and capture.")
    if certificate.not_after < now:
        what = f"{name} was valid in the capture and has expired since, on {day(certificate.not_after)}."
        why = "If the server still shows it, clients refuse it."
        return "tls.expired-since", (
            Severity.MEDIUM,
            what,
            why,
            "Look whether it was renewed (tls_certificate); renew it.",
        )
    if certificate.not_after < now + SOON:
        days = (certificate.not_after - now).days
        what = f"{name} expires in {count(days, 'day')}, on {day(certificate.not_after)} (counted from now)."
        return "tls.expiring-certificate", (Severity.LOW, what, "Clients refuse it from then on.", renew)
    if certificate.not_after < seen + SOON:
        days = (certificate.not_after - seen).days
        what = f"{name} was {count(days, 'day')} from its end, {day(certificate.not_after)}, when it was captured."
        return "tls.expiring-certificate", (Severity.LOW, what, "Clients refuse it from then on.", renew)
    return None


def weak_key(certificate: Certificate, server: str) -> Said | None:
    least = 224 if certificate.key.startswith("EC") else 2048
    if not certificate.key_bits or certificate.key.startswith("Ed") or certificate.key_bits >= least:
        return None
    return (
        Severity.HIGH if certificate.key_bits <= least // 2 else Severity.MEDIUM,
        f"The certificate {certificate.subject or certificate.serial} of {server} has a weak key: {certificate.key}.",
        "Such keys can be broken; browsers refuse them.",
        "Make a new key: EC P-256, or RSA with 2048 bits or more.",
    )


def weak_signature(certificate: Certificate, server: str) -> Said | None:
    # The signature of one that signs itself proves nothing to anybody who does not know it already.
    if certificate.self_issued or not any(name in certificate.signature.lower() for name in _WEAK_SIGNATURES):
        return None
    return (
        Severity.MEDIUM,
        f"The certificate {certificate.subject or certificate.serial} of {server} is signed with {certificate.signature}.",
        "MD5 and SHA-1 signatures can be forged; browsers refuse them.",
        "Have it signed anew with SHA-256.",
    )


def self_signed(certificate: Certificate, server: str) -> Said:
    return (
        Severity.LOW,
        f"{server} shows a certificate that it signed itself: {certificate.subject or certificate.serial}.",
        "Nobody vouches for it: a client cannot tell the server from somebody in the middle, unless it knows this very certificate.",
        "Use one of an authority that the clients trust.",
    )


def wrong_name(certificate: Certificate, server: str, name: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} was asked for {name} and showed a certificate for {', '.join(certificate.names[:3]) or certificate.subject}.",
        "Clients that check refuse it; or somebody else answered.",
        "Give the server a certificate for this name, or the client the right name.",
    )


def is_old(version: int) -> bool:
    """Whether a version is withdrawn."""
    return 0 < version < _OLDEST_GOOD and version != 0x0101
