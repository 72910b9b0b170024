"""Why a connection failed, in words an operator can act on: names, routes, refusals, certificates.

For every client of ours that opens a TCP or TLS connection (HTTP, SMTP): the reasons are the system's and OpenSSL's, not the protocol's.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

from tasks.core.errors import NotFound, ToolError, Unreachable, Unsupported, Untrusted

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _SELF_SIGNED_ROOT, _UNKNOWN_ISSUER, _UNVERIFIED_LEAF = 9, 10, 18, 19, 20, 21
_REVOKED, _WRONG_NAME, _WRONG_ADDRESS = 23, 62, 64

_ADD_CA = "To trust it, put the certificate of its authority into the block's field ca."


def explain_connection(error: BaseException, place: str, host: str) -> ToolError | None:
    """Say why connecting failed; None when `error` is about something else.

    Args:
        error: What a client library raised; its causes and contexts are read too.
        place: What was called, free of secrets: `https://hooks.example.com`.
        host: The name that had to resolve and that the certificate must be for.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, place, host)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return _handshake(cause, place)
        if isinstance(cause, socket.gaierror):
            return _resolution(cause, host)
        if isinstance(cause, OSError):
            reason = _REASONS.get(cause.errno or 0)
            if reason is not None:
                return Unreachable(f"{place} {reason}.")
    return None


_REASONS = {
    errno.ECONNREFUSED: "refuses the connection: nothing listens on that port",
    errno.ENETUNREACH: "is unreachable: this machine has no route to that network",
    errno.EHOSTUNREACH: "is unreachable: the host does not answer on its network, or a firewall says so",
    errno.ETIMEDOUT: "does not answer: the connection was not accepted in time",
    errno.EACCES: "cannot be reached: the system forbids this connection",
    errno.EPERM: "cannot be reached: a local firewall forbids this connection",
    errno.EADDRNOTAVAIL: "cannot be reached: this machine has no address of that kind",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, members of exception groups included (two address families fail as a group)."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        waiting.extend(further for further in (cause.__cause__, cause.__context__) if further is not None)


def _certificate(error: ssl.SSLCertVerificationError, place: str, host: str) -> ToolError:
    match error.verify_code:
        case code if code == _EXPIRED:
            return Untrusted(f"The certificate of {place} has expired.", hint="Its owner has to renew it.")
        case code if code == _NOT_YET_VALID:
            return Untrusted(f"The certificate of {place} is not valid yet.", hint="Is this machine's clock right?")
        case code if code in {_WRONG_NAME, _WRONG_ADDRESS}:
            return Untrusted(f"The certificate of {place} is not for {host}.", hint="Use the name it was issued for.")
        case code if code == _SELF_SIGNED:
            return Untrusted(f"The certificate of {place} is self-signed.", hint=_ADD_CA)
        case code if code in {_SELF_SIGNED_ROOT, _UNKNOWN_ISSUER, _UNVERIFIED_LEAF}:
            return Untrusted(
                f"The certificate of {place} comes from an authority this machine does not know.", hint=_ADD_CA
            )
        case code if code == _REVOKED:
            return Untrusted(f"The certificate of {place} was revoked.")
    return Untrusted(f"The certificate of {place} does not hold: {error.verify_message}.")


def _handshake(error: ssl.SSLError, place: str) -> ToolError:
    reason = error.reason or ""
    if reason in {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "UNEXPECTED_MESSAGE",
    }:
        return Unsupported(
            f"{place} answers, but not with TLS.", hint="Is it the right port, and is it meant to be encrypted?"
        )
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason:
        return Unsupported(f"{place} wants a client certificate, and there is none to show.")
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return Unsupported(f"{place} speaks only versions of TLS that are no longer safe.")
    return Unsupported(f"No TLS connection with {place}: {reason.replace('_', ' ').lower() or 'the handshake failed'}.")


def _resolution(error: socket.gaierror, host: str) -> ToolError:
    if error.errno in {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}:
        return NotFound(
            f"The name {host} does not resolve.", hint="Is it spelled right, and does this machine's resolver know it?"
        )
    return Unreachable(f"The name {host} could not be resolved: the resolver does not answer.")
