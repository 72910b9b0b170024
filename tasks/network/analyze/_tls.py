"""A capture's TLS as plain data: what `tls_analyzer` runs in a process of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tasks.core.words import count
from tasks.network._tls_numbers import alert_name, group_name, suite_name, version_name
from tasks.network.analyze import _quic as quic
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_datagrams, read_streams
from tasks.network.analyze._fitting import MOST_BYTES, fit
from tasks.network.analyze._quic_tracker import QuicTracker, looks_interesting
from tasks.network.analyze._report import gravest_first
from tasks.network.analyze._tls_book import Book
from tasks.network.analyze._tls_session import CertificateRow, Session
from tasks.network.analyze._tls_stream import TlsStream, looks_like_hello, looks_like_old_hello, looks_like_record
from tasks.network.analyze._tls_weakness import weaknesses

if TYPE_CHECKING:
    from tasks.network.analyze._selection import Selection

PORTS = frozenset({443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 5061, 5223, 5671, 6697, 8443, 8883})
"""Ports of TLS alone: looked at also when the beginning of a conversation is not in the capture."""
QUIC_PORTS = frozenset({443, 853, 8443})
UPGRADES = {
    21: "ftp", 25: "smtp", 110: "pop3", 119: "nntp", 143: "imap", 389: "ldap", 587: "smtp", 1080: "socks", 2525: "smtp",
    3128: "http proxy", 3306: "mysql", 3389: "rdp", 4190: "sieve", 5222: "xmpp", 5269: "xmpp", 5432: "postgres",
}  # fmt: skip
"""Ports of protocols that go over to TLS after some words in the clear."""
_FIRST_WORDS = {
    b"220": "smtp or ftp",
    b"* OK": "imap",
    b"+OK": "pop3",
    b"200 ": "nntp",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f": "postgres",
    b"<?xml": "xmpp",
    b"<stream:": "xmpp",
    b"CONNECT ": "http proxy",
    b"PROXY ": "proxy protocol",
    b"\r\n\r\n\x00\r\nQUIT\n": "proxy protocol",
    b"\x03\x00\x00": "rdp",
    b"\x05": "socks",
    b"\x04\x01": "socks",
    b"EHLO": "smtp",
    b"AUTH TLS": "ftp",
    b'"IMPLEMENTATION"': "sieve",
}
"""How such conversations begin, on whatever port."""


def upgrade(first: bytes, port: int) -> str:
    """The protocol a conversation begins with that may go over to TLS; empty when it is none we know."""
    for start, name in _FIRST_WORDS.items():
        if first.startswith(start) and (name != "socks" or len(first) <= 40):
            return UPGRADES.get(port, name)
    if first[3:5] == b"\x00\x0a" and len(first) > 5:  # a greeting of MySQL: packet 0, protocol 10
        return "mysql"
    return UPGRADES.get(port, "")


def _first_payload(first: bytes) -> bool:
    if looks_like_hello(first) or looks_like_old_hello(first):
        return True
    return upgrade(first, 0) != ""


STREAMS = Signature(ports=PORTS | frozenset(UPGRADES), test=_first_payload)
DATAGRAMS = Signature(ports=QUIC_PORTS, test=looks_interesting)


class Conversation:
    """A StreamParser that finds out with its first bytes whether TLS comes at once, later or never."""

    __slots__ = ("_book", "_info", "_stream")

    def __init__(self, info: StreamInfo, book: Book) -> None:
        self._info = info
        self._book = book
        self._stream: TlsStream | None = None

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """The next bytes of one side."""
        stream = self._stream
        if stream is None:
            info = self._info
            # Without the handshake of TCP the engine can only guess who is the client; a ClientHello knows.
            turned = not info.handshake and not from_client and (looks_like_hello(data) or looks_like_old_hello(data))
            client, server = ((info.server, info.server_port), (info.client, info.client_port))
            if not turned:
                client, server = server, client
            session = Session(*client, *server)
            if not (looks_like_record(data) or looks_like_old_hello(data)):
                session.via = upgrade(data[:64], info.server_port)
            self._stream = stream = (_Turned if turned else TlsStream)(session, self._book, plain=session.via != "")
        stream.data(from_client, data, time_ns, frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Bytes that are not in the capture."""
        if self._stream is not None:
            self._stream.gap(from_client, missing, time_ns, frame)

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over."""
        if self._stream is not None:
            self._stream.end(how, time_ns, frame)


class _Turned(TlsStream):
    """A stream whose sides are the other way round."""

    __slots__ = ()

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        super().data(not from_client, data, time_ns, frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        super().gap(not from_client, missing, time_ns, frame)


def dissect(path: str, selection: Selection, top: int, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own.

    Args:
        path: A pcap or pcapng file.
        selection: The packets that count.
        top: Rows of each table.
        most_bytes: What the report may take as JSON; tables are shortened to it.
    """
    now = datetime.now(UTC)
    book, counts, datagrams = Book(now), Counts(), Counts()
    tracker = QuicTracker(book)
    for packet in read_datagrams(path, selection, DATAGRAMS, datagrams):
        tracker.datagram(
            packet.payload, packet.number, packet.time_ns, packet.source, packet.source_port, packet.destination,
            packet.destination_port,
        )  # fmt: skip
    read_streams(path, selection, STREAMS, lambda info: Conversation(info, book), counts)
    tracker.finish(counts.last_ns or 0)
    # Both passes saw all packets; what they say about them is the same, apart from what they looked into.
    counts.analyzed += datagrams.analyzed
    made = report(book, tracker, top, now)
    counts.notes = [*dict.fromkeys(counts.notes + datagrams.notes), *_notes(book, tracker), *fit(made, most_bytes)]
    return {**made, "coverage": counts.coverage()}


def _notes(book: Book, tracker: QuicTracker) -> list[str]:
    notes = []
    if tracker.dtls:
        frames = ", ".join(map(str, tracker.dtls_frames[:5]))
        notes.append(
            f"{count(tracker.dtls, 'packet of DTLS was', 'packets of DTLS were')} counted, not analyzed (frames {frames})."
        )
    if tracker.sealed:
        notes.append(
            f"{count(tracker.sealed, 'QUIC Initial packet')} could not be opened: the connection's first packet is not in the capture."
        )
    if tracker.unknown:
        packets = count(tracker.unknown, "QUIC packet is of a version", "QUIC packets are of versions")
        notes.append(f"{packets} whose keys are not known.")
    if book.unseen:
        notes.append(
            f"{count(book.unseen, 'TLS conversation')} began before the capture: "
            f"{'its handshake is' if book.unseen == 1 else 'their handshakes are'} not in it."
        )
    if incomplete := book.outcomes["incomplete"]:
        notes.append(f"In {count(incomplete, 'handshake')} bytes are missing from the capture.")
    if book.broken:
        messages = count(
            book.broken,
            "handshake message contradicts itself and was",
            "handshake messages contradict themselves and were",
        )
        notes.append(f"{messages} not read.")
    if book.hidden_certificates:
        notes.append(
            f"{count(book.hidden_certificates, 'handshake of TLS 1.3 encrypts', 'handshakes of TLS 1.3 encrypt')} "
            "the server's certificate: it cannot be seen here."
        )
    left = {
        "server names": book.names.left_out, "fingerprints": book.fingerprints.left_out, "servers": book.servers.left_out,
        "certificates": book.certificates_seen.left_out,
    }  # fmt: skip
    notes += [f"{number:,} {what} came after the table was full." for what, number in left.items() if number]
    return notes


def report(book: Book, tracker: QuicTracker, top: int, now: datetime) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    failed = sum(book.outcomes[outcome] for outcome in ("refused", "reset", "closed", "unanswered"))
    return {
        "client_hellos": book.hellos,
        "server_hellos": book.answers,
        "handshakes": sum(book.outcomes.values()),
        "established": book.outcomes["established"],
        "failed": failed,
        "outcomes": _counted(book.outcomes.items(), top),
        "resumed": _counted(book.resumed.items(), top),
        "upgraded": _counted(book.upgrades.items(), top),
        "hello_retries": book.retries,
        "encrypted_alerts": book.alerts_sealed,
        "without_handshake": book.unseen,
        "versions": _versions(book),
        "cipher_suites": _suites(book, top),
        "groups": _counted(((group_name(code), count) for code, count in book.groups.items()), top),
        "protocols": [
            {"protocol": name, "offered": counts[0], "chosen": counts[1]}
            for name, counts in book.protocols.top(top, lambda counts: counts[0] + counts[1])
        ],
        "names_seen": len(book.names),
        "names": [
            {"name": name, "hellos": row.hellos, "quic": row.quic, "servers": sorted(row.servers)}
            for name, row in book.names.top(top, lambda row: row.hellos)
        ],
        "fingerprints_seen": len(book.fingerprints),
        "fingerprints": [
            {
                "ja3": first, "ja4": fourth, "hellos": row.hellos, "clients": sorted(row.clients),
                "names": sorted(row.names),
            }
            for (first, fourth), row in book.fingerprints.top(top, lambda row: row.hellos)
        ],
        "servers_seen": len(book.servers),
        "servers": [
            {
                "server": name, "names": sorted(row.names), "handshakes": row.handshakes, "established": row.established,
                "failed": row.failed, "resumed": row.resumed,
                "versions": [version_name(code) for code, _ in row.versions.most_common(5)],
                "cipher_suites": [suite_name(code) for code, _ in row.suites.most_common(5)],
                "ja3s": sorted(row.ja3s),
            }
            for name, row in book.servers.top(top, lambda row: row.failed * 1e9 + row.handshakes)
        ],
        "certificates_seen": len(book.certificates_seen),
        "certificates": _certificates(book, top, now),
        "alerts": [
            {"alert": alert_name(code), "level": "fatal" if level == 2 else "warning", "sender": sender,
             "count": row.count, "frames": row.frames}
            for (sender, level, code), row in book.alerts.top(top, lambda row: row.count)
        ],
        "sessions": [_session(session) for session in _newest(book, top)],
        "quic": {
            "datagrams": tracker.datagrams, "initials": tracker.initials, "opened": tracker.opened,
            "sealed": tracker.sealed, "retries": tracker.retries, "version_negotiations": tracker.negotiations,
            "unknown_versions": tracker.unknown,
            "versions": [
                {"name": quic.version_name(version), "count": count[0]}
                for version, count in tracker.versions.top(top, lambda count: count[0])
            ],
        },
        "dtls_packets": tracker.dtls,
        "findings": gravest_first(book.findings.all()),
    }  # fmt: skip


def _counted(items: Iterable[tuple[str, int]], top: int) -> list[dict[str, Any]]:
    ranked = sorted(items, key=lambda item: (-item[1], item[0]))
    return [{"name": name, "count": count} for name, count in ranked if count][:top]


def _versions(book: Book) -> list[dict[str, Any]]:
    codes = sorted({*book.offered, *book.chosen}, key=lambda code: (-book.chosen[code], -book.offered[code]))
    return [
        {"version": version_name(code), "offered": book.offered[code], "negotiated": book.chosen[code]}
        for code in codes[:20]
    ]


def _suites(book: Book, top: int) -> list[dict[str, Any]]:
    offered = {code: times[0] for code, times in book.suites_offered}
    codes: Counter[int] = Counter(offered)
    for code, times in book.suites_chosen.items():
        codes[code] += times * 1_000_000_000  # what was chosen comes first
    return [
        {
            "code": f"0x{code:04x}",
            "name": suite_name(code),
            "offered": offered.get(code, 0),
            "negotiated": book.suites_chosen[code],
            "weak": [reason.name for reason in weaknesses(code)],
        }
        for code, _ in codes.most_common(top)
    ]


def _certificates(book: Book, top: int, now: datetime) -> list[dict[str, Any]]:
    def rank(row: CertificateRow) -> float:
        return row.leaf * 1e9 + row.seen

    found = []
    for digest, row in book.certificates_seen.top(top, rank):
        certificate = row.certificate
        assert certificate is not None
        seen_at = datetime.fromtimestamp(row.first_ns / 1e9, UTC)
        ends = certificate.not_after
        found.append(
            {
                "sha256": digest,
                "role": row.role if row.leaf else "issuer",
                "subject": certificate.subject,
                "names": list(certificate.names),
                "names_left_out": certificate.names_left_out,
                "issuer": certificate.issuer,
                "serial": certificate.serial,
                "not_before": certificate.not_before,
                "not_after": ends,
                "days_left_at_capture": _days(ends - seen_at) if ends else None,
                "days_left_now": _days(ends - now) if ends else None,
                "key": certificate.key,
                "signature": certificate.signature,
                "self_issued": certificate.self_issued,
                "problem": certificate.problem,
                "servers": sorted(row.servers),
                "seen": row.seen,
                "frames": row.frames,
            }
        )
    return found


def _days(left: timedelta) -> int:
    """Whole days; minus one is the day after the last."""
    return int(left / timedelta(days=1))


def _newest(book: Book, top: int) -> list[Session]:
    """Failed handshakes first: half of the table at most, unless there is nothing else."""
    failures, fine = list(book.failures), list(book.sessions)
    share = max(top - len(fine), (top + 1) // 2)
    chosen = failures[-share:] if share else []
    return chosen + (fine[-(top - len(chosen)) :] if top > len(chosen) else [])


def _session(session: Session) -> dict[str, Any]:
    offer = session.hello
    return {
        "frame": session.hello_frame or session.answer_frame or 0,
        "client": f"[{session.client}]:{session.client_port}" if ":" in session.client else f"{session.client}:{session.client_port}",
        "server": session.at,
        "transport": session.transport,
        "upgraded_from": session.via,
        "name": session.name,
        "version": version_name(session.version) if session.version else "",
        "cipher_suite": suite_name(session.suite) if session.answer_frame is not None else "",
        "group": group_name(session.group) if session.group is not None else "",
        "protocol": session.protocol,
        "ja3": (offer.ja3 or "") if offer else "",
        "ja4": (offer.ja4 or "") if offer else "",
        "ja3s": session.ja3s,
        "resumed": session.resumed,
        "certificate": session.leaf.sha256 if session.leaf else "",
        "outcome": session.outcome,
        "alert": session.alert,
        "handshake_ms": (
            round((session.established_ns - session.hello_ns) / 1e6, 3)
            if session.established_ns and session.hello_ns
            else None
        ),
    }  # fmt: skip
