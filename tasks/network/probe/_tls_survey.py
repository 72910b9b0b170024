"""Look at the TLS of one host: its chain and what a client makes of it, and what it answers to each version of the protocol."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.x509 import ocsp

from tasks.core.transport import explain_connection
from tasks.network._tls_numbers import alert_name, suite_name
from tasks.network.probe._certificate import Parsed
from tasks.network.probe._connection import Connection, Pace, Patience, connect
from tasks.network.probe._starttls import NoStartTls, StartTls, start
from tasks.network.probe._tls_hello import NO_APPLICATION_PROTOCOL, Flight, NotTls, Version, client_hello
from tasks.network.probe._verification import (
    blind_context,
    offer,
    sent_chain,
    tolerate_old,
    trusting_context,
    why_untrusted,
)

HANDSHAKE_PACKETS, FLIGHT_PACKETS = 10, 3
"""Packets paid for in advance: a whole handshake, and a ClientHello with the first bytes of its answer."""

_NEWEST_FIRST = tuple(reversed(list(Version)))

Answered = Literal["yes", "no", "unknown"]


class Contexts:
    """The TLS contexts of one run, made when first needed: reading the authorities takes 20 ms.

    Args:
        ca: Authorities to trust besides the public ones and the system's, PEM.
    """

    def __init__(self, ca: str | None) -> None:
        self._ca = ca
        self._made: dict[tuple[bool, tuple[str, ...]], ssl.SSLContext] = {}
        self._names: dict[str, str] = {}

    def get(self, verify: bool, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """A context that also talks to old servers.

        Args:
            verify: Whether the chain must hold. The name is judged apart, to tell every fault and not only OpenSSL's first.
            alpn: Protocols to offer.
        """
        context = self._made.get((verify, alpn))
        if context is None:
            context = trusting_context(self._ca) if verify else blind_context()
            context.check_hostname = False
            self._made[verify, alpn] = context = offer(tolerate_old(context), alpn)
            self._names |= {suite["name"]: suite_name(suite["id"] & 0xFFFF) for suite in context.get_ciphers()}
        return context

    def suite(self, openssl: str) -> str:
        """IANA's name of a suite that OpenSSL calls otherwise."""
        return self._names.get(openssl, openssl)


@dataclass(frozen=True)
class Question:
    """Whom to ask for what.

    Attributes:
        addresses: Pinned addresses, in order of preference.
        port: TCP port.
        name: The name to ask for and to check, or an address.
        starttls: What comes before TLS.
        alpn: Protocols to offer.
        timeout: Seconds for each connection.
        versions: Whether to ask for every version of the protocol.
    """

    addresses: tuple[str, ...]
    port: int
    name: str
    starttls: StartTls
    alpn: tuple[str, ...]
    timeout: float
    versions: bool

    @property
    def place(self) -> str:
        """What is asked, for people."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def server_name(self) -> str | None:
        """The name to send (SNI): addresses are not sent (RFC 6066, section 3)."""
        try:
            ipaddress.ip_address(self.name)
        except ValueError:
            return self.name
        return None


@dataclass(frozen=True)
class Offer:
    """What a server answered to a ClientHello of one version."""

    offered: Answered
    suite: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Staple:
    """The OCSP response a server sent along; its signature is not checked."""

    status: str
    produced_for: int | None = None
    expired: bool = False


@dataclass
class Survey:
    """What is known of one host, as it comes in, so that a deadline loses none.

    Attributes:
        state: `tls` when it speaks it; `no_tls` when it answers otherwise; `unreachable`; `not_tried`.
        detail: Why there is no more.
        address: The address that took the connection.
        protocol: Version, suite and ALPN protocol a client of today gets.
        chain: Certificates as sent; None for one that cannot be read.
        trusted: Whether OpenSSL trusts the chain and its dates; None when that could not be tried.
        distrust: What it holds against it, and its number (X509_V_ERR).
        offers: What it answers to each version.
        staple: Its OCSP response; None when it sends none.
        staple_known: Whether that was looked for: TLS 1.3 encrypts it.
        prime_bits: Size of its Diffie-Hellman group, where a version's suite uses one.
        wants_certificate: Whether it asked for a client's certificate; None when that is not known.
    """

    state: Literal["tls", "no_tls", "unreachable", "not_tried"] = "not_tried"
    detail: str | None = None
    address: str | None = None
    protocol: str | None = None
    suite: str | None = None
    alpn: str | None = None
    chain: list[Parsed | None] = field(default_factory=list)
    trusted: bool | None = None
    distrust: str | None = None
    distrust_code: int | None = None
    offers: dict[Version, Offer] = field(default_factory=dict)
    staple: Staple | None = None
    staple_known: bool = False
    prime_bits: int | None = None
    wants_certificate: bool | None = None
    complete: bool = False

    @property
    def speaks(self) -> list[Version]:
        """Versions it speaks, the newest first."""
        return [
            version for version in _NEWEST_FIRST if version in self.offers and self.offers[version].offered == "yes"
        ]

    @property
    def leaf(self) -> Parsed | None:
        """The server's own certificate."""
        return self.chain[0] if self.chain else None


async def survey(found: Survey, question: Question, pace: Pace, contexts: Contexts) -> None:
    """Fill in what can be found out about one host.

    Args:
        found: Where it goes.
        question: Whom to ask for what.
        pace: What the host may be sent.
        contexts: Whom to trust.

    Raises:
        Busy: This machine is out of sockets or local ports.
    """
    if await _shake_hands(found, question, pace, contexts) and (question.versions or found.state != "tls"):
        for version in _NEWEST_FIRST:
            await _ask_for(found, question, pace, version)
            if found.state != "tls" and found.offers[version].offered == "unknown":
                break  # it is no TLS server: further questions give the same answer
        if found.state != "tls":
            found.state = "tls" if found.speaks else "no_tls"
        if found.wants_certificate and found.protocol and found.trusted is None:
            found.detail = f"{question.place} asks for a client's certificate, and there is none to show."
    found.complete = True


async def _shake_hands(found: Survey, question: Question, pace: Pace, contexts: Contexts) -> bool:
    """Shake hands as a client does; when the certificate does not hold, once more without looking. Whether to go on asking."""
    verify, alpn = True, bool(question.alpn)
    for _ in range(3):
        connection = await _reach(found, question, pace, HANDSHAKE_PACKETS)
        if connection is None:
            return False
        context = contexts.get(verify, question.alpn if alpn else ())
        try:
            await connection.start_tls(context, question.name)
        except ssl.SSLCertVerificationError as error:
            found.trusted, found.distrust, found.distrust_code = False, why_untrusted(error), error.verify_code
            verify = False
            continue
        except ssl.SSLError as error:
            if alpn and connection.alert == NO_APPLICATION_PROTOCOL:
                alpn = False
                continue
            if connection.alert is not None:
                what = alert_name(connection.alert).replace("_", " ")
                found.detail = f"{question.place} ends the handshake: {what}."
            else:
                found.detail = _explain(error, question)
            return True
        except TimeoutError:
            what = f"takes the connection, but does not answer to TLS within {question.timeout:g} s"
            _settle(found, "no_tls", f"{question.place} {what}.")
            return False
        except OSError as error:
            found.detail = _explain(error, question)
            return True
        finally:
            await connection.aclose()
        tls = connection.tls
        assert tls is not None
        found.state, found.protocol, found.alpn = "tls", tls.version(), tls.selected_alpn_protocol()
        cipher = tls.cipher()
        found.suite = contexts.suite(cipher[0]) if cipher else None
        found.chain = _parse(sent_chain(tls))
        found.trusted = verify
        return True
    return True


async def _reach(found: Survey, question: Question, pace: Pace, deposit: int) -> Connection | None:
    """Connect, and go as far as TLS may begin; None when that is not possible, `found` says why."""
    patience = Patience(question.timeout)
    try:
        connection = await connect(question.addresses, question.port, pace=pace, patience=patience, deposit=deposit)
    except TimeoutError:
        _settle(found, "unreachable", f"{question.place} does not answer within {question.timeout:g} s.")
        return None
    except OSError as error:
        _settle(found, "unreachable", _explain(error, question))
        return None
    found.address = connection.address
    try:
        await start(connection, question.starttls)
    except (NoStartTls, TimeoutError, OSError) as error:
        what = str(error) if isinstance(error, NoStartTls) else "it does not answer to the end"
        _settle(found, "no_tls", f"{question.place} does not begin TLS inside {question.starttls}: {what}.")
        await connection.aclose()
        return None
    except BaseException:
        await connection.aclose(rest=True)
        raise
    return connection


def _settle(found: Survey, state: Literal["no_tls", "unreachable"], detail: str) -> None:
    """Note why a connection did not come about, unless an earlier one did: then a later one takes nothing away."""
    if found.state == "not_tried":
        found.state, found.detail = state, detail


async def _ask_for(found: Survey, question: Question, pace: Pace, version: Version) -> None:
    """Offer one version only, and note the answer."""
    state = found.state
    connection = await _reach(found, question, pace, FLIGHT_PACKETS)
    if connection is None:
        found.offers[version] = Offer("unknown", detail="no connection this time")
        found.state = state
        return
    # Once the rest of the flight is read too: certificates, staple, Diffie-Hellman group.
    whole = not found.staple_known and version is not Version.TLS13
    flight = Flight()
    try:
        await connection.send(client_hello(version, question.server_name))
        while not flight.done and (whole or flight.version is None):
            data = await connection.receive()
            if not data:
                break
            flight.feed(data)
    except NotTls as error:
        if flight.version is None:
            found.offers[version] = Offer("unknown", detail=str(error))
            if state != "tls":
                found.detail = f"{question.place} does not speak TLS: {error}."
            return
    except TimeoutError:
        if flight.version is None:
            found.offers[version] = Offer("unknown", detail=f"no answer within {question.timeout:g} s")
            return
    except OSError:
        pass  # how it says no: what was read until then counts
    finally:
        await connection.aclose(rest=True)
    found.offers[version] = _judge(version, flight)
    if found.offers[version].offered == "yes":
        _keep(found, version, flight, whole)


def _judge(version: Version, flight: Flight) -> Offer:
    if flight.version is None:
        return Offer("no", detail=flight.alert or "closed the connection")
    if flight.version != version.number:
        known = next((other for other in Version if other.number == flight.version), f"0x{flight.version:04x}")
        return Offer("no", detail=f"answers with {known}")
    detail = f"then {flight.alert}" if flight.alert else None
    return Offer("yes", suite_name(flight.suite or 0), detail)


def _keep(found: Survey, version: Version, flight: Flight, whole: bool) -> None:
    found.prime_bits = flight.prime_bits or found.prime_bits
    if whole and (flight.certificates or flight.done):
        found.staple_known = True
        found.staple = _read_staple(flight.staple) if flight.staple else None
        found.wants_certificate = flight.wants_certificate
    if not found.chain and flight.certificates:
        # OpenSSL did not come through (a client's certificate wanted, a version or key it refuses): they came in the clear.
        found.chain = _parse(flight.certificates)
        found.protocol, found.suite = str(version), suite_name(flight.suite or 0)


def _parse(chain: Sequence[bytes]) -> list[Parsed | None]:
    found: list[Parsed | None] = []
    for der in chain[:20]:
        try:
            found.append(Parsed(der))
        except (ValueError, TypeError, x509.InvalidVersion):
            found.append(None)
    return found


def _read_staple(der: bytes) -> Staple:
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return Staple(response.response_status.name.lower())
        single = next(iter(response.responses))
        until = single.next_update_utc
        return Staple(
            single.certificate_status.name.lower(),
            single.serial_number,
            until is not None and until < datetime.now(UTC),
        )
    except (ValueError, StopIteration):
        return Staple("unreadable")


def _explain(error: OSError, question: Question) -> str:
    reason = explain_connection(error, question.place, question.name)
    return reason.message if reason is not None else f"{question.place} breaks off the connection."
