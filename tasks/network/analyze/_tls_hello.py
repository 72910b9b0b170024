"""ClientHello and ServerHello: bytes in, what they say out (RFC 8446 section 4.1, RFC 5246 section 7.4.1).

Both are written by whoever sends packets, so nothing in them is trusted: what is cut off or contradicts itself raises
`Malformed`, and no length is believed beyond the bytes that are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.network._tls_numbers import is_grease

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The `random` that makes a ServerHello a HelloRetryRequest (RFC 8446 section 4.1.3)."""
DOWNGRADED = (b"DOWNGRD\x01", b"DOWNGRD\x00")
"""How a server that knows TLS 1.3 ends its `random` when it settles for less (RFC 8446 section 4.1.3)."""

SERVER_NAME = 0
SUPPORTED_GROUPS = 10
POINT_FORMATS = 11
SIGNATURE_ALGORITHMS = 13
ALPN = 16
SESSION_TICKET = 35
PRE_SHARED_KEY = 41
EARLY_DATA = 42
SUPPORTED_VERSIONS = 43
KEY_SHARE = 51
RENEGOTIATION_INFO = 0xFF01
ENCRYPTED_HELLO = 0xFE0D

RENEGOTIATION_SCSV = 0x00FF
FALLBACK_SCSV = 0x5600
MOST_NAMES = 16
"""Names and protocols taken from one hello; real ones have one name and a handful of protocols."""


class Malformed(ValueError):
    """These bytes are not what they claim to be."""


class Reader:
    """Takes numbers and vectors off the front of some bytes; asks for more than there is raise `Malformed`."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._end = len(data)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self._position
        if start + count > self._end:
            raise Malformed(f"{count} bytes wanted, {self._end - start} left")
        self._position = start + count
        return self._data[start : start + count]

    def number(self, size: int) -> int:
        """The next `size` bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """A vector whose length is in the `size` bytes before it."""
        return self.take(self.number(size))

    def rest(self) -> bytes:
        """What is left."""
        return self.take(self._end - self._position)

    def __bool__(self) -> bool:
        return self._position < self._end


def _codes(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2))


def text(data: bytes) -> str:
    """Bytes from the wire as text that is safe to show: what is not printable ASCII comes as its hexadecimal code."""
    shown = data[:255].decode("ascii", "backslashreplace")
    return shown if shown.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


@dataclass(slots=True)
class ClientHello:
    """What a client offers. `extensions`, `suites` and `groups` are as sent, GREASE included."""

    version: int
    session_id: bytes = b""
    suites: tuple[int, ...] = ()
    compressions: bytes = b""
    extensions: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    protocols: tuple[bytes, ...] = ()
    groups: tuple[int, ...] = ()
    point_formats: bytes = b""
    signatures: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    ticket: bool = False
    old_format: bool = False
    whole: bool = True
    """Whether all of it was there and made sense; a fingerprint of less says nothing."""

    @property
    def offered(self) -> list[int]:
        """Versions it offers, the newest first: what `supported_versions` says, or the highest alone."""
        return sorted({code for code in self.versions if not is_grease(code)}, reverse=True) or [self.version]


@dataclass(slots=True)
class ServerHello:
    """What a server chose."""

    legacy_version: int
    random: bytes = b""
    session_id: bytes = b""
    suite: int = 0
    compression: int = 0
    extensions: tuple[int, ...] = ()
    version: int = 0
    protocol: bytes | None = None
    group: int | None = None
    retry: bool = False

    @property
    def downgraded(self) -> bool:
        """Whether the server says that it knows a newer version than it chose."""
        return self.random.endswith(DOWNGRADED)


def parse_client_hello(body: bytes) -> ClientHello:
    """Read the body of a ClientHello (without the four bytes of the handshake's header).

    Of one that is cut off behind its cipher suites (a short snap length) the extensions that are there are read; one with a
    broken extension keeps the others. Neither is `whole`.

    Raises:
        Malformed: It is cut off before its extensions, or a length there is wrong.
    """
    reader = Reader(body)
    hello = ClientHello(version=reader.number(2))
    reader.take(32)
    hello.session_id = reader.vector(1)
    suites = reader.vector(2)
    if len(suites) % 2 or len(hello.session_id) > 32:
        raise Malformed("cipher suites of an odd length, or a session id of more than 32 bytes")
    hello.suites = _codes(suites)
    hello.compressions = reader.vector(1)
    if not reader:  # SSL 3.0 and early TLS 1.0 clients send no extensions
        return hello
    kinds: list[int] = []
    try:
        size = reader.number(2)
        data = reader.rest()
        hello.whole = len(data) == size
        extensions = Reader(data[:size])
        while extensions:
            kind = extensions.number(2)
            length = extensions.number(2)
            kinds.append(kind)
            _read_extension(hello, kind, extensions.take(length))
    except Malformed:
        hello.whole = False
    hello.extensions = tuple(kinds)
    return hello


def _read_extension(hello: ClientHello, kind: int, data: bytes) -> None:
    try:
        if kind == SERVER_NAME:
            hello.names = _names(data)
        elif kind == SUPPORTED_GROUPS:
            hello.groups = _codes(Reader(data).vector(2))
        elif kind == POINT_FORMATS:
            hello.point_formats = Reader(data).vector(1)
        elif kind == SIGNATURE_ALGORITHMS:
            hello.signatures = _codes(Reader(data).vector(2))
        elif kind == ALPN:
            hello.protocols = _protocols(data)
        elif kind == SUPPORTED_VERSIONS:
            hello.versions = _codes(Reader(data).vector(1))
        elif kind == SESSION_TICKET:
            hello.ticket = bool(data)
    except Malformed:
        hello.whole = False


def parse_old_client_hello(data: bytes) -> ClientHello:
    """Read a ClientHello in the format of SSL 2.0, from the byte of its message type on (RFC 5246 appendix E.2).

    Raises:
        Malformed: It is cut off, or a length in it is wrong.
    """
    reader = Reader(data)
    if reader.number(1) != 1:
        raise Malformed("not a ClientHello")
    hello = ClientHello(version=reader.number(2), old_format=True)
    sizes = [reader.number(2) for _ in range(3)]
    suites, hello.session_id, challenge = (reader.take(size) for size in sizes)
    if len(suites) % 3 or not suites or not 16 <= len(challenge) <= 32:
        raise Malformed("not a ClientHello of SSL 2.0")
    codes = [int.from_bytes(suites[at : at + 3], "big") for at in range(0, len(suites), 3)]
    # Those above 16 bits are SSL 2.0's own ciphers, which have no name in TLS.
    hello.suites = tuple(code for code in codes if code < 0x10000)
    return hello


def parse_server_hello(body: bytes) -> ServerHello:
    """Read the body of a ServerHello or HelloRetryRequest.

    Raises:
        Malformed: It is cut off, or a length in it is wrong.
    """
    reader = Reader(body)
    hello = ServerHello(legacy_version=reader.number(2))
    hello.version = hello.legacy_version
    hello.random = reader.take(32)
    hello.retry = hello.random == RETRY
    if hello.legacy_version >> 8 == 0x7F and hello.legacy_version < 0x7F16:
        # Drafts of TLS 1.3 before 22 have neither session id nor compression here.
        hello.suite = reader.number(2)
    else:
        hello.session_id = reader.vector(1)
        hello.suite = reader.number(2)
        hello.compression = reader.number(1)
    if not reader:
        return hello
    extensions = Reader(reader.vector(2))
    kinds = []
    while extensions:
        kind = extensions.number(2)
        data = extensions.vector(2)
        kinds.append(kind)
        if kind == SUPPORTED_VERSIONS and len(data) == 2:
            hello.version = int.from_bytes(data, "big")
        elif kind == ALPN:
            hello.protocol = next(iter(_protocols(data)), None)
        elif kind == KEY_SHARE and len(data) >= 2:
            hello.group = int.from_bytes(data[:2], "big")
    hello.extensions = tuple(kinds)
    return hello


def _names(data: bytes) -> tuple[str, ...]:
    if not data:
        return ()
    reader = Reader(Reader(data).vector(2))
    found: list[str] = []
    while reader and len(found) < MOST_NAMES:
        kind, name = reader.number(1), reader.vector(2)
        if kind == 0:
            found.append(text(name))
    return tuple(found)


def _protocols(data: bytes) -> tuple[bytes, ...]:
    reader = Reader(Reader(data).vector(2))
    found: list[bytes] = []
    while reader and len(found) < MOST_NAMES:
        found.append(reader.vector(1))
    return tuple(found)
