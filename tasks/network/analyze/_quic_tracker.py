"""Follows QUIC connections by their Initial packets, as far as these can be opened."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from tasks.network.analyze import _quic as quic
from tasks.network.analyze._tally import Tally
from tasks.network.analyze._tls_hello import Malformed, parse_client_hello, parse_server_hello
from tasks.network.analyze._tls_session import Session
from tasks.network.analyze._tls_stream import CLIENT_HELLO, SERVER_HELLO

if TYPE_CHECKING:
    from tasks.network.analyze._tls_book import Book

MOST_CONNECTIONS = 20_000
_GIVEN_UP_NS = 10_000_000_000
"""A connection that was silent for so long before the capture's end is over."""
_DTLS = {b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc", b"\x01\x00"}


def looks_like_dtls(payload: bytes) -> bool:
    """Whether a datagram starts with a record of DTLS (RFC 9147 section 4).

    >>> looks_like_dtls(bytes.fromhex("16fefd000000000000000000c8")), looks_like_dtls(b"GET / HTTP/1.1")
    (True, False)
    """
    return len(payload) >= 13 and 20 <= payload[0] <= 26 and payload[1:3] in _DTLS


def looks_interesting(payload: bytes) -> bool:
    """Whether a conversation that starts like this is one for the tracker."""
    return quic.looks_like(payload) or looks_like_dtls(payload)


class _Connection:
    __slots__ = ("client", "keys", "last_ns", "original", "retried", "server", "session")

    def __init__(self, session: Session, original: bytes) -> None:
        self.session = session
        self.original = original
        self.keys: dict[tuple[int, bool], quic.Keys] = {}
        self.client: quic.Crypto | None = quic.Crypto()
        self.server: quic.Crypto | None = quic.Crypto()
        self.retried = False
        self.last_ns = 0

    def opened(self, datagram: bytes, packet: quic.Packet, from_client: bool) -> bytes | None:
        """The payload, when this connection's keys open it."""
        keys = self.keys.get((packet.version, from_client))
        if keys is None:
            keys = quic.Keys(packet.version, self.original, client=from_client)
            self.keys[packet.version, from_client] = keys
        return keys.open(datagram, packet)


_Ends = tuple[str, int, str, int]


class QuicTracker:
    """Takes datagrams, tells a book about the handshakes in them.

    Args:
        book: Who counts.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._connections: dict[_Ends, _Connection] = {}
        self.dtls = 0
        self.dtls_frames: list[int] = []
        self.datagrams = 0
        self.initials = 0
        self.opened = 0
        self.sealed = 0
        self.retries = 0
        self.negotiations = 0
        self.unknown = 0
        self.versions: Tally[int, list[int]] = Tally(lambda: [0], 1_000)
        self.kinds: Counter[int] = Counter()

    def datagram(
        self, payload: bytes, number: int, time_ns: int, source: str, source_port: int, destination: str, port: int
    ) -> None:
        """The payload of a UDP packet."""
        if len(payload) < 7 or payload[0] < 0x80:  # a short header: encrypted for good
            if looks_like_dtls(payload):
                self.dtls += 1
                if len(self.dtls_frames) < 20:
                    self.dtls_frames.append(number)
            return
        ends = (source, source_port, destination, port)
        self.datagrams += 1
        for packet in quic.packets(payload):
            if packet.version == 0:
                self.negotiations += 1
                continue
            count = self.versions.entry(packet.version)
            if count:
                count[0] += 1
            if packet.kind < 0:
                self.unknown += 1
            elif packet.kind == quic.INITIAL:
                self.initials += 1
                self._initial(payload, packet, ends, number, time_ns)
            elif packet.kind == quic.RETRY:
                self.retries += 1
                connection = self._connections.get((destination, port, source, source_port))
                if connection:
                    connection.retried = True
            elif packet.kind == quic.HANDSHAKE:
                connection = self._connections.get(ends)
                if connection and connection.session.answer_frame is not None and not connection.session.outcome:
                    # The client has the keys of the handshake, so it took the ServerHello; the rest is sealed.
                    self._book.established(connection.session, time_ns)

    def finish(self, last_ns: int) -> None:
        """The capture is over."""
        for connection in self._connections.values():
            self._end(connection, last_ns)
        self._connections.clear()

    def _end(self, connection: _Connection, last_ns: int) -> None:
        over = last_ns - connection.last_ns > _GIVEN_UP_NS
        self._book.end(connection.session, "fin" if over else "capture", connection.session.hello_frame)

    def _initial(self, datagram: bytes, packet: quic.Packet, ends: _Ends, number: int, time_ns: int) -> None:
        connection, from_client, payload = self._find(datagram, packet, ends, time_ns)
        if connection is None or payload is None:
            self.sealed += 1
            return
        self.opened += 1
        connection.last_ns = time_ns
        crypto = connection.client if from_client else connection.server
        with contextlib.suppress(Malformed):
            for kind, value, data in quic.frames(payload):
                if kind == quic.CRYPTO:
                    if crypto is not None:
                        crypto.add(value, data)
                elif 0x100 <= value <= 0x1FF:
                    self._book.alert(connection.session, from_client, 2, value - 0x100, number)
        while crypto is not None and (message := crypto.message()):
            self._message(connection, from_client, *message, number, time_ns)

    def _find(
        self, datagram: bytes, packet: quic.Packet, ends: _Ends, time_ns: int
    ) -> tuple[_Connection | None, bool, bytes | None]:
        """Whose packet it is, which side sent it, and what is in it."""
        source, source_port, destination, port = ends
        known = self._connections.get((destination, port, source, source_port))
        if known:
            payload = known.opened(datagram, packet, False)
            if payload is not None:
                return known, False, payload
        known = self._connections.get(ends)
        if known:
            payload = known.opened(datagram, packet, True)
            if payload is not None:
                return known, True, payload
        # A new connection; or after a Retry, whose connection ID makes new keys (RFC 9001 section 5.2).
        payload = quic.Keys(packet.version, packet.destination_id, client=True).open(datagram, packet)
        if payload is None:
            return None, True, None
        if known and known.retried and known.session.answer_frame is None:
            known.original = packet.destination_id
            known.keys.clear()
            return known, True, payload
        if known:
            self._end(self._connections.pop(ends), time_ns)
        if len(self._connections) >= MOST_CONNECTIONS:
            self._end(self._connections.pop(next(iter(self._connections))), time_ns)
        session = Session(*ends, transport="quic")
        self._connections[ends] = connection = _Connection(session, packet.destination_id)
        return connection, True, payload

    def _message(
        self, connection: _Connection, from_client: bool, kind: int, body: bytes, number: int, time_ns: int
    ) -> None:
        session = connection.session
        try:
            if from_client and kind == CLIENT_HELLO:
                hello = parse_client_hello(body)
                session.records += 1
                self._book.hello(session, hello, time_ns, number)
            elif not from_client and kind == SERVER_HELLO:
                answer = parse_server_hello(body)
                self._book.answer(session, answer, time_ns, number)
        except Malformed:
            self._book.malformed(session, number)
        if session.answer_frame is not None:  # nothing more is said in Initials; a HelloRetryRequest is no answer yet
            connection.client = connection.server = None
