"""Counts what handshakes say, and keeps of each conversation only what the report needs."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime

from tasks.network._tls_numbers import alert_name, is_grease, suite_name
from tasks.network.analyze import _tls_findings as say
from tasks.network.analyze._ja import ja3, ja3s, ja4
from tasks.network.analyze._report import MOST_FRAMES, Severity
from tasks.network.analyze._tally import Findings, Tally
from tasks.network.analyze._tls_chain import Certificate, fingerprint, parse_chain, read_certificate
from tasks.network.analyze._tls_hello import (
    EARLY_DATA,
    FALLBACK_SCSV,
    PRE_SHARED_KEY,
    RENEGOTIATION_INFO,
    RENEGOTIATION_SCSV,
    ClientHello,
    Reader,
    ServerHello,
    text,
)
from tasks.network.analyze._tls_session import (
    AlertRow,
    CertificateRow,
    FingerprintRow,
    NameRow,
    Offer,
    ServerRow,
    Session,
)
from tasks.network.analyze._tls_weakness import weaknesses

MOST_SESSIONS = 2_000
"""Handshakes kept for the table, those that failed and those that went well each; older ones make room."""
_MOST_CACHED = 5_000
_MOST_OF_EACH = 8
_TLS_1_3 = 0x0304
_NEVER_FATAL = {0, 90}
"""close_notify and user_canceled end a connection in order (RFC 8446 section 6.1)."""


def _remember(some: set[str], item: str) -> None:
    if item and len(some) < _MOST_OF_EACH:
        some.add(item)


class Book:
    """Everything that was seen, in bounded memory.

    Args:
        now: The time that "expired" is measured against, beside the capture's own.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now
        self.findings = Findings()
        self.outcomes: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        self.hellos = 0
        self.answers = 0
        self.retries = 0
        self.alerts_sealed = 0
        self.broken = 0
        self.unseen = 0
        self.hidden_certificates = 0
        self.offered: Counter[int] = Counter()
        self.chosen: Counter[int] = Counter()
        self.suites_offered: Tally[int, list[int]] = Tally(lambda: [0])
        self.suites_chosen: Counter[int] = Counter()
        self.protocols: Tally[str, list[int]] = Tally(lambda: [0, 0])
        self.groups: Counter[int] = Counter()
        self.names: Tally[str, NameRow] = Tally(NameRow)
        self.fingerprints: Tally[tuple[str, str], FingerprintRow] = Tally(FingerprintRow)
        self.servers: Tally[str, ServerRow] = Tally(ServerRow)
        self.certificates_seen: Tally[str, CertificateRow] = Tally(CertificateRow, 2_000)
        self.alerts: Tally[tuple[str, int, int], AlertRow] = Tally(AlertRow)
        self.upgrades: Counter[str] = Counter()
        self.failures: deque[Session] = deque(maxlen=MOST_SESSIONS)
        self.sessions: deque[Session] = deque(maxlen=MOST_SESSIONS)
        self._offers: dict[tuple[object, ...], Offer] = {}

    # --- what a conversation tells ------------------------------------------------------------------------------------

    def hello(self, session: Session, hello: ClientHello, time_ns: int, frame: int) -> None:
        """A ClientHello; the second one of a conversation answers a HelloRetryRequest."""
        offer = self._offer(hello, session.transport)
        self.hellos += 1
        for name in offer.names:
            row = self.names.entry(name)
            if row:
                row.hellos += 1
                row.quic += session.transport == "quic"
                _remember(row.servers, session.at)
        if offer.ja3 and offer.ja4:
            print_ = self.fingerprints.entry((offer.ja3, offer.ja4))
            if print_:
                print_.hellos += 1
                _remember(print_.clients, session.client)
                for name in offer.names:
                    _remember(print_.names, name)
        if session.hello is not None:
            session.hello = offer
            return
        session.hello, session.hello_frame, session.hello_ns = offer, frame, time_ns
        session.session_id = hello.session_id
        self.offered.update(offer.versions)
        for suite in offer.suites:
            count = self.suites_offered.entry(suite)
            if count:
                count[0] += 1
        for protocol in offer.protocols:
            counts = self.protocols.entry(protocol)
            if counts:
                counts[0] += 1
        server = self.servers.entry(session.at)
        if server:
            server.handshakes += 1
            _remember(server.names, session.name)
        if session.via:
            self.upgrades[session.via] += 1
        if offer.versions and say.is_old(offer.versions[0]):
            newest = offer.versions[0]
            self.findings.add(
                "tls.weak-version-offered",
                (session.client, newest),
                frame,
                lambda: say.old_client(session.client, newest),
            )
        if offer.weak:
            self.findings.add(
                "tls.weak-cipher-offered", (session.client, offer.weak), frame,
                lambda: say.weak_offer(session.client, list(offer.weak)),
            )  # fmt: skip

    def answer(self, session: Session, answer: ServerHello, time_ns: int, frame: int) -> None:
        """A ServerHello, or a HelloRetryRequest."""
        self.answers += 1
        if answer.retry:
            self.retries += 1
            session.retried = True
            return
        if session.answer_frame is not None:
            return  # a second one is no part of any handshake we can follow
        session.answer_frame = frame
        session.version, session.suite, session.group = answer.version, answer.suite, answer.group
        session.ja3s = ja3s(answer)
        session.protocol = text(answer.protocol) if answer.protocol else ""
        self.chosen[answer.version] += 1
        self.suites_chosen[answer.suite] += 1
        if answer.group is not None:
            self.groups[answer.group] += 1
        if session.protocol:
            counts = self.protocols.entry(session.protocol)
            if counts:
                counts[1] += 1
        at = session.at
        server = self.servers.entry(at)
        if server:
            server.versions[answer.version] += 1
            server.suites[answer.suite] += 1
            _remember(server.ja3s, session.ja3s)
        self._resumption(session, answer)
        self._judge(session, answer, frame, at)

    def certificates(self, session: Session, from_client: bool, body: bytes, time_ns: int, frame: int) -> None:
        """A Certificate message in the clear: TLS 1.2 and before.

        Raises:
            Malformed: A length in it is wrong.
        """
        if session.version >= _TLS_1_3:
            return
        if not from_client:
            session.resumed = ""
        for position, der in enumerate(parse_chain(body)[:16]):
            row = self.certificates_seen.entry(fingerprint(der))
            if row is None:
                return
            if row.certificate is None:
                row.certificate, row.first_ns = read_certificate(der), time_ns
                row.role, row.leaf = ("client" if from_client else "server"), position == 0
            row.seen += 1
            _remember(row.servers, session.at)
            if len(row.frames) < MOST_FRAMES and frame not in row.frames:
                row.frames.append(frame)
            if not row.certificate.problem:
                self._judge_certificate(session, row.certificate, position, from_client, time_ns, frame)

    def key_exchange(self, session: Session, body: bytes, frame: int) -> None:
        """A ServerKeyExchange: the group is in it.

        Raises:
            Malformed: A length in it is wrong.
        """
        exchange = suite_name(session.suite).removeprefix("TLS_").partition("_WITH_")[0]
        reader = Reader(body)
        if exchange.startswith("ECDH") and "PSK" not in exchange:
            if reader.number(1) == 3:  # named_curve
                session.group = reader.number(2)
                self.groups[session.group] += 1
        elif exchange.startswith("DH") and "PSK" not in exchange:
            bits = int.from_bytes(reader.vector(2), "big").bit_length()
            if bits < 2048:
                self.findings.add("tls.weak-group", (session.at, bits), frame, lambda: say.weak_group(session.at, bits))

    def alert(self, session: Session, from_client: bool, level: int, code: int, frame: int) -> None:
        """An alert in the clear."""
        sender = "client" if from_client else "server"
        row = self.alerts.entry((sender, level, code))
        if row:
            row.count += 1
            if len(row.frames) < MOST_FRAMES:
                row.frames.append(frame)
        fatal = code not in _NEVER_FATAL and (level == 2 or session.version >= _TLS_1_3)
        if not fatal or session.outcome or session.hello is None:
            return
        session.alert = f"{sender}: {alert_name(code)}"
        self._close(session, "refused")
        self.findings.add(
            "tls.alert", (session.at, from_client, code), frame, lambda: say.alert(session.at, from_client, code)
        )

    def sealed_alert(self, session: Session, from_client: bool, frame: int) -> None:
        """An alert that is encrypted, where the handshake should have ended."""
        self.alerts_sealed += 1
        session.alert = f"{'client' if from_client else 'server'}: encrypted"
        self._close(session, "refused")
        self.findings.add(
            "tls.failed-handshake", (session.at, "refused"), frame, lambda: say.failed(session.at, "refused")
        )

    def heartbleed(self, session: Session, wanted: int, frame: int) -> None:
        """A heartbeat that asks for more than it brings."""
        self.findings.add("tls.heartbleed", session.client, frame, lambda: say.heartbleed(session.client, wanted))

    def established(self, session: Session, time_ns: int) -> None:
        """Both sides went on to encrypted data."""
        session.established_ns = time_ns
        if session.version >= _TLS_1_3 and not session.resumed:
            self.hidden_certificates += 1
        self._close(session, "established")

    def gap(self, session: Session) -> None:
        """Bytes are missing where they mattered."""
        if not session.outcome:
            session.gaps = True

    def malformed(self, session: Session, frame: int) -> None:
        """A message that contradicts itself."""
        self.broken += 1

    def end(self, session: Session, how: str, frame: int) -> None:
        """The conversation ended: what did not finish gets its outcome now."""
        if session.outcome:
            return
        if session.hello is None and session.answer_frame is None:
            if session.records:
                self.unseen += 1
            return
        if session.gaps or session.hello is None:
            outcome = "incomplete"
        elif how == "capture":
            outcome = "cut off"
        elif session.answer_frame is None and not session.retried:
            outcome = "reset" if how == "rst" else "unanswered"
        else:
            outcome = "reset" if how == "rst" else "closed"
        self._close(session, outcome)
        if outcome in {"reset", "closed", "unanswered"}:
            self.findings.add(
                "tls.failed-handshake",
                (session.at, outcome),
                session.hello_frame,
                lambda: say.failed(session.at, outcome),
            )

    # --- judgement ----------------------------------------------------------------------------------------------------

    def _close(self, session: Session, outcome: str) -> None:
        session.outcome = outcome
        self.outcomes[outcome] += 1
        if session.resumed:
            self.resumed[session.resumed] += 1
        server = self.servers.entry(session.at)
        if server:
            server.established += outcome == "established"
            server.failed += outcome in {"refused", "reset", "closed", "unanswered"}
            server.resumed += bool(session.resumed)
        session.session_id = b""
        (self.sessions if outcome == "established" else self.failures).append(session)

    def _offer(self, hello: ClientHello, transport: str) -> Offer:
        key = (
            transport, hello.version, hello.suites, hello.extensions, hello.names, hello.protocols, hello.groups,
            hello.point_formats, hello.signatures, hello.versions, hello.ticket, hello.old_format, hello.whole,
        )  # fmt: skip
        offer = self._offers.get(key)
        if offer is None:
            if len(self._offers) >= _MOST_CACHED:  # a client that mixes its extensions never repeats itself
                self._offers.clear()
            printable = hello.whole and not hello.old_format
            weak = {
                reason.name
                for suite in hello.suites
                for reason in weaknesses(suite)
                if reason.severity.rank >= Severity.HIGH.rank
            }
            offer = self._offers[key] = Offer(
                names=hello.names,
                versions=tuple(hello.offered),
                suites=tuple(code for code in dict.fromkeys(hello.suites) if not is_grease(code)),
                protocols=tuple(text(protocol) for protocol in hello.protocols if not _is_grease_protocol(protocol)),
                ja3=ja3(hello) if printable else None,
                ja4=ja4(hello, "q" if transport == "quic" else "t") if printable else None,
                old=hello.old_format,
                early=EARLY_DATA in hello.extensions,
                weak=tuple(sorted(weak)),
                secure_renegotiation=RENEGOTIATION_INFO in hello.extensions or RENEGOTIATION_SCSV in hello.suites,
                fallback=FALLBACK_SCSV in hello.suites,
                psk=PRE_SHARED_KEY in hello.extensions,
                ticket=hello.ticket,
            )
        return offer

    def _resumption(self, session: Session, answer: ServerHello) -> None:
        if answer.version >= _TLS_1_3:
            session.resumed = "pre-shared key" if PRE_SHARED_KEY in answer.extensions else ""
        elif answer.session_id and answer.session_id == session.session_id:
            # With a ticket the client makes up a session ID to see whether it was taken (RFC 5077 section 3.4). A server
            # that sends a Certificate after all did not resume.
            session.resumed = "ticket" if session.hello and session.hello.ticket else "session id"

    def _judge(self, session: Session, answer: ServerHello, frame: int, at: str) -> None:
        add, version = self.findings.add, answer.version
        if say.is_old(version):
            add("tls.weak-version", (at, version), frame, lambda: say.weak_version(at, version))
        for reason in weaknesses(answer.suite):
            add(
                "tls.no-forward-secrecy" if reason.name == "no forward secrecy" else "tls.weak-cipher",
                (at, answer.suite, reason.name), frame,
                lambda reason=reason: say.weak_suite(at, answer.suite, reason),  # type: ignore[misc]
            )  # fmt: skip
        if answer.compression:
            add("tls.compression", at, frame, lambda: say.compression(at))
        offer = session.hello
        if offer is None:
            return
        if answer.downgraded and offer.versions and offer.versions[0] >= _TLS_1_3 > version:
            add("tls.downgrade", at, frame, lambda: say.downgrade(at, version))
        if version < _TLS_1_3 and offer.secure_renegotiation and RENEGOTIATION_INFO not in answer.extensions:
            add("tls.insecure-renegotiation", at, frame, lambda: say.no_secure_renegotiation(at))

    def _judge_certificate(
        self, session: Session, certificate: Certificate, position: int, from_client: bool, time_ns: int, frame: int
    ) -> None:
        at = session.client if from_client else session.at
        add, key = self.findings.add, (at, certificate.sha256)
        dated = say.expiry(certificate, at, datetime.fromtimestamp(time_ns / 1e9, UTC), self._now)
        if dated:
            code, said = dated
            add(code, key, frame, lambda: said)
        weak = say.weak_key(certificate, at)
        if weak:
            add("tls.weak-key", key, frame, lambda: weak)
        forged = say.weak_signature(certificate, at)
        if forged:
            add("tls.weak-signature", key, frame, lambda: forged)
        if position or from_client:
            return
        session.leaf = certificate
        if certificate.self_issued:
            add("tls.self-signed", key, frame, lambda: say.self_signed(certificate, at))
        name = session.name
        if name and certificate.all_names and not certificate.fits(name):
            add("tls.wrong-name", (*key, name), frame, lambda: say.wrong_name(certificate, at, name))


def _is_grease_protocol(protocol: bytes) -> bool:
    return len(protocol) == 2 and is_grease(int.from_bytes(protocol, "big"))
