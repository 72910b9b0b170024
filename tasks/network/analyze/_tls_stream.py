"""Follows the TLS in one conversation: records, handshake messages, alerts, and how it came out.

What is encrypted is skipped without being kept. A handshake that starts in the middle of another protocol (STARTTLS, a
proxy's CONNECT) is found by its ClientHello.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.network.analyze._tls_hello import (
    ClientHello,
    Malformed,
    ServerHello,
    parse_client_hello,
    parse_old_client_hello,
    parse_server_hello,
)

if TYPE_CHECKING:
    from tasks.network.analyze._tls_book import Book
    from tasks.network.analyze._tls_session import Session

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = range(20, 25)
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE = 1, 2, 11, 12
_WANTED = {CLIENT_HELLO, SERVER_HELLO, CERTIFICATE, SERVER_KEY_EXCHANGE}

LONGEST_RECORD = 16384 + 2048
_LONGEST_MESSAGE = 1 << 17
"""A handshake message that is longer is skipped; a chain of certificates has some kilobytes."""
_MOST_TRIES = 64
"""Segments in which a lost direction looks for the start of a record, and a plain one for a ClientHello after its start."""
_MOST_PLAIN = 1 << 20
_CLIENT_ALERT = 19
"""Length of a TLS 1.3 record that holds an alert alone: level, description, content type, tag of 16 bytes."""
_TLS_1_3 = 0x0304


def looks_like_record(data: bytes) -> bool:
    """Whether these bytes may start with the header of a record (RFC 8446 section 5.1).

    >>> looks_like_record(bytes.fromhex("1603010200")), looks_like_record(b"GET / HTTP/1.1")
    (True, False)
    """
    return (
        len(data) >= 5
        and 20 <= data[0] <= 24
        and data[1] == 3
        and data[2] <= 4
        and 0 < (data[3] << 8 | data[4]) <= LONGEST_RECORD
    )


def looks_like_hello(data: bytes) -> bool:
    """Whether these bytes start with a record that holds a ClientHello, or its beginning."""
    return (
        looks_like_record(data)
        and data[0] == HANDSHAKE
        and data[5:6] in (b"\x01", b"")
        and data[6:7] in (b"\x00", b"")  # below 64 KiB
        and data[9:10] in (b"\x03", b"")
    )


def looks_like_old_hello(data: bytes) -> bool:
    """Whether these bytes start with a ClientHello in the format of SSL 2.0."""
    return (
        len(data) >= 11
        and data[0] & 0x80 != 0
        and data[2] == 1
        and data[3:5] in (b"\x00\x02", b"\x03\x00", b"\x03\x01", b"\x03\x02", b"\x03\x03")
        and data[5] == 0
        and data[6] % 3 == 0
        and data[6] > 0
    )


class _Side:
    """One direction: where it is in the records, and what is collected of a message."""

    __slots__ = ("body", "collected", "encrypted", "head", "kind", "left", "lost", "message", "size", "skip", "tries")

    def __init__(self) -> None:
        self.head = b""  # part of a record's header
        self.kind = 0  # of the record that is being read
        self.left = 0  # bytes of it that are still to come
        self.skip = 0  # bytes to pass over
        self.body = bytearray()  # of the handshake message that is being put together, its header included
        self.message = 0  # bytes of a handshake message that are passed over
        self.collected = b""  # start of a short record
        self.size = 0
        self.encrypted = False  # after its ChangeCipherSpec
        self.lost = False
        self.tries = 0


class TlsStream:
    """A StreamParser that tells a book what the handshake of one conversation says.

    Args:
        session: Where this conversation is written.
        book: Who counts.
        plain: Whether another protocol comes first, and TLS perhaps later.
    """

    __slots__ = ("_book", "_client", "_plain", "_plain_bytes", "_server", "over", "session")

    def __init__(self, session: Session, book: Book, *, plain: bool = False) -> None:
        self.session = session
        self._book = book
        self._client = _Side()
        self._server = _Side()
        self._plain = plain
        self._plain_bytes = 0
        self.over = False
        """Whether nothing that comes can add to what is known."""

    # --- what the engine calls --------------------------------------------------------------------------------------

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """The next bytes of one side."""
        if self.over:
            return
        side = self._client if from_client else self._server
        if side.skip >= len(data):
            side.skip -= len(data)
            return
        if self._plain:
            data = self._find_hello(from_client, data)
            if not data:
                return
        if side.lost and not self._found_again(side, data):
            return
        self._records(side, from_client, data, time_ns, frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Bytes that are not in the capture."""
        if self.over or self._plain:
            return
        side = self._client if from_client else self._server
        if side.skip >= missing:
            side.skip -= missing
            return
        self.session.gaps = True
        self._book.gap(self.session)
        if side.body[:1] == bytes([CLIENT_HELLO]):  # of a hello that is cut off, the name may be there
            self._hello(bytes(side.body[4:]), time_ns, frame)
        side.lost = True
        side.head = side.collected = b""
        side.skip = side.left = side.message = side.tries = 0
        side.body.clear()

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over: `fin`, `rst` or `capture`."""
        if not self._client.lost and self._client.body[:1] == bytes([CLIENT_HELLO]):
            self._hello(bytes(self._client.body[4:]), time_ns, frame)
        self._book.end(self.session, how, frame)
        self.over = True

    # --- where records start ------------------------------------------------------------------------------------------

    def _find_hello(self, from_client: bool, data: bytes) -> bytes:
        """What of plain text starts with a ClientHello; empty when none of it does."""
        self._plain_bytes += len(data)
        if from_client:
            at = data.find(b"\x16\x03")
            while at >= 0:
                if looks_like_hello(data[at : at + 16]) and len(data) - at >= 11:
                    self._plain = False
                    return data[at:]
                at = data.find(b"\x16\x03", at + 1)
        if self._plain_bytes > _MOST_PLAIN:
            self.over = True
        return b""

    def _found_again(self, side: _Side, data: bytes) -> bool:
        if looks_like_record(data):
            side.lost = False
            return True
        side.tries += 1
        if side.tries > _MOST_TRIES:
            self.over = True
        return False

    # --- records --------------------------------------------------------------------------------------------------------

    def _records(self, side: _Side, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        at, end = 0, len(data)
        if side.head:
            data = side.head + data
            side.head = b""
            end = len(data)
        while at < end:
            if side.skip:
                step = min(side.skip, end - at)
                side.skip -= step
                at += step
                continue
            if side.left:
                step = min(side.left, end - at)
                side.left -= step
                self._content(side, from_client, data[at : at + step], time_ns, frame)
                at += step
                if self.over:
                    return
                continue
            if end - at < 5:
                side.head = data[at:]
                return
            header = data[at : at + 5]
            if not looks_like_record(header):
                self._no_record(side, from_client, data[at:], time_ns, frame)
                return
            at += 5
            self._record(side, from_client, header[0], header[3] << 8 | header[4], time_ns, frame)
            if self.over:
                return

    def _no_record(self, side: _Side, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """Bytes where a record should start, and none does."""
        session = self.session
        if from_client and session.hello is None and looks_like_old_hello(data):
            size = (data[0] & 0x7F) << 8 | data[1]
            with contextlib.suppress(Malformed):
                self._heard(parse_old_client_hello(data[2 : 2 + size]), time_ns, frame)
            side.skip = max(0, 2 + size - len(data))
            if len(data) > 2 + size:
                self._records(side, from_client, data[2 + size :], time_ns, frame)
            return
        if not from_client and session.hello is not None and session.hello.old and len(data) > 6 and data[2] == 4:
            # SSL 2.0's own ServerHello; what follows is its own format too.
            answer = ServerHello(legacy_version=2, version=2)
            self._book.answer(session, answer, time_ns, frame)
            self.over = True
            return
        side.lost = True
        side.tries = 0

    def _record(self, side: _Side, from_client: bool, kind: int, size: int, time_ns: int, frame: int) -> None:
        """Decide what becomes of a record from its header."""
        session = self.session
        session.records += 1
        side.kind, side.size = kind, size
        new = session.version >= _TLS_1_3 or session.retried
        if kind == APPLICATION_DATA or (side.encrypted and not new and (session.version or kind != HANDSHAKE)):
            side.skip = size
            self._protected(side, from_client, kind, size, time_ns, frame)
            return
        side.left = size
        side.collected = b""

    def _content(self, side: _Side, from_client: bool, part: bytes, time_ns: int, frame: int) -> None:
        """A part of a record in the clear."""
        if side.kind == HANDSHAKE:
            self._handshake(side, from_client, part, time_ns, frame)
            return
        side.collected += part[: 3 - len(side.collected)]
        if side.left:
            return
        if side.kind == CHANGE_CIPHER_SPEC:
            side.encrypted = True
            side.body.clear()
        elif side.kind == ALERT and side.size == 2 and side.collected[0] in (1, 2):
            self._book.alert(self.session, from_client, side.collected[0], side.collected[1], frame)
        elif side.kind == HEARTBEAT and len(side.collected) == 3 and side.collected[0] == 1:
            wanted = int.from_bytes(side.collected[1:3], "big")
            if 3 + wanted > side.size:  # RFC 6520 section 4: it asks for more than it sent
                self._book.heartbleed(self.session, wanted, frame)

    def _protected(self, side: _Side, from_client: bool, kind: int, size: int, time_ns: int, frame: int) -> None:
        """An encrypted record: its kind and length are all there is."""
        session = self.session
        if session.answer_frame is None or session.outcome:
            return
        first = not (session.client_sealed if from_client else session.server_sealed)
        if from_client:
            session.client_sealed = True
        else:
            session.server_sealed = True
        if session.version >= _TLS_1_3:
            # The client's Finished is longer; early data may have any length.
            if first and size == _CLIENT_ALERT and not (session.hello and session.hello.early):
                self._book.sealed_alert(session, from_client, frame)
            elif from_client and session.server_sealed:
                self._book.established(session, time_ns)
        elif kind == ALERT:
            self._book.sealed_alert(session, from_client, frame)
        elif session.client_sealed and session.server_sealed:
            self._book.established(session, time_ns)
        self.over = session.outcome != ""

    # --- handshake messages ---------------------------------------------------------------------------------------------

    def _handshake(self, side: _Side, from_client: bool, part: bytes, time_ns: int, frame: int) -> None:
        while part:
            if side.message:
                step = min(side.message, len(part))
                side.message -= step
                part = part[step:]
                continue
            body = side.body
            have = len(body)
            need = 4 - have if have < 4 else 4 + int.from_bytes(body[1:4], "big") - have
            body += part[:need]
            part = part[need:]
            if len(body) < 4:
                return
            kind, size = body[0], int.from_bytes(body[1:4], "big")
            if kind not in _WANTED or size > _LONGEST_MESSAGE:
                side.message = size
                body.clear()
            elif len(body) == 4 + size:
                message = bytes(body[4:])
                body.clear()
                self._message(from_client, kind, message, time_ns, frame)

    def _message(self, from_client: bool, kind: int, body: bytes, time_ns: int, frame: int) -> None:
        book, session = self._book, self.session
        try:
            if kind == CLIENT_HELLO and from_client:
                self._hello(body, time_ns, frame)
            elif kind == SERVER_HELLO and not from_client:
                book.answer(session, parse_server_hello(body), time_ns, frame)
            elif kind == CERTIFICATE:
                book.certificates(session, from_client, body, time_ns, frame)
            elif kind == SERVER_KEY_EXCHANGE and not from_client:
                book.key_exchange(session, body, frame)
        except Malformed:
            book.malformed(session, frame)

    def _hello(self, body: bytes, time_ns: int, frame: int) -> None:
        try:
            hello = parse_client_hello(body)
        except Malformed:
            self._book.malformed(self.session, frame)
        else:
            self._heard(hello, time_ns, frame)

    def _heard(self, hello: ClientHello, time_ns: int, frame: int) -> None:
        self._book.hello(self.session, hello, time_ns, frame)
