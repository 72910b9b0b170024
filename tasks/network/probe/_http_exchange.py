"""One HTTP request to pinned addresses, timed step by step: HTTP/1.1, or HTTP/2 when both sides agree on it by ALPN.

httpcore speaks the protocol; the connection below it is ours. So it goes to the address the gate has checked and to no other, every
packet is paced, the answer is cut off where we say, and nothing comes from the environment.
"""

from __future__ import annotations

import ssl
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpcore
import httpx

from tasks.core.errors import Unsupported
from tasks.core.transport import explain_connection
from tasks.network._tls_numbers import alert_name
from tasks.network.probe._certificate import Parsed
from tasks.network.probe._connection import Connection, Pace, Patience, connect
from tasks.network.probe._verification import blind_context, offer, tolerate_old, trusting_context, why_untrusted
from tasks.network.probe._web_address import host_of, port_of

EXCHANGE_PACKETS, TLS_PACKETS = 3, 8
"""Packets paid for in advance, so that steps are measured without our own waiting: the request and a short answer; TLS before it."""
_MARGIN_BYTES = 64 << 10


class NoAnswer(Exception):
    """There is no HTTP answer; the text says why. `reached`: something answered, but not as HTTP or not to be trusted."""

    def __init__(self, reason: str, *, reached: bool = False, untrusted: bool = False) -> None:
        super().__init__(reason)
        self.reached, self.untrusted = reached, untrusted


@dataclass(frozen=True)
class Terms:
    """What holds for every request of a run.

    Attributes:
        method: GET or HEAD.
        verify: Whether a certificate must hold; otherwise its fault is noted, and old TLS is put up with.
        http2: Whether HTTP/2 is offered.
        ca: Authorities to trust besides the public ones and the system's, PEM.
        max_bytes: Most bytes of a body that are read.
    """

    method: str
    verify: bool
    http2: bool
    ca: str | None
    max_bytes: int
    contexts: dict[bool, ssl.SSLContext] = field(default_factory=dict, compare=False, repr=False)

    def context(self, verify: bool) -> ssl.SSLContext:
        """The TLS context, made once a run."""
        if verify not in self.contexts:
            context = trusting_context(self.ca) if verify else tolerate_old(blind_context())
            self.contexts[verify] = offer(context, ["h2", "http/1.1"] if self.http2 else ["http/1.1"])
        return self.contexts[verify]


@dataclass
class Answer:
    """What a server answered to one request. Times are seconds, without those we held ourselves back.

    Attributes:
        status: HTTP status.
        headers: Headers; names case-insensitive.
        http_version: `HTTP/1.1`, `HTTP/2`.
        body: The first bytes of the body, unpacked.
        complete: Whether that is all of it.
        broke: How the body ended too early; None when it did not.
        address: Where it came from.
        connect: TCP handshake.
        tls: TLS handshake; None without TLS.
        first_byte: From the request to the first byte of the answer.
        total: From the first packet to the last byte read.
        tls_version: Version of TLS.
        certificate: The server's certificate.
        distrust: What is wrong with it, when it was put up with.
    """

    status: int
    headers: httpx.Headers
    http_version: str
    body: bytes
    complete: bool
    broke: str | None
    address: str
    connect: float
    tls: float | None
    first_byte: float
    total: float
    tls_version: str | None = None
    certificate: Parsed | None = None
    distrust: str | None = None


async def fetch(
    url: httpx.URL,
    addresses: Sequence[str],
    *,
    terms: Terms,
    headers: Mapping[str, str],
    pace: Pace,
    patience: Patience,
) -> Answer:
    """Send one request, and read its answer.

    Args:
        url: What to ask for.
        addresses: Pinned addresses of its host, in order of preference.
        terms: What holds for the run.
        headers: Headers to send along.
        pace: What the host may be sent.
        patience: Time for all of it.

    Raises:
        NoAnswer: There is none.
        Busy: This machine is out of sockets or local ports.
    """
    place = f"{url.scheme}://{url.netloc.decode('ascii')}"
    connection, handshake, distrust = await _open(url, addresses, place, terms, pace, patience)
    stream = _Stream(connection)
    rest = True
    try:
        began = stream.now()
        response = await _ask(stream, url, place, terms, headers)
        first = (stream.headers_at if stream.headers_at is not None else stream.now()) - began
        if response.extensions.get("http_version") != b"HTTP/2" and stream.first_at is not None:
            first = stream.first_at - began
        body, complete, broke = await _read(response, terms)
        total = connection.connect_seconds + (handshake or 0.0) + stream.now() - began
        rest = not complete
        return Answer(
            status=response.status,
            headers=httpx.Headers(response.headers),
            http_version=response.extensions.get("http_version", b"HTTP/1.1").decode("ascii", "replace"),
            body=body,
            complete=complete,
            broke=broke,
            address=connection.address,
            connect=connection.connect_seconds,
            tls=handshake,
            first_byte=first,
            total=total,
            tls_version=connection.tls.version() if connection.tls is not None else None,
            certificate=_certificate(connection),
            distrust=distrust,
        )
    finally:
        await connection.aclose(rest=rest)


# --- the connection ----------------------------------------------------------------------------------------------------


async def _open(
    url: httpx.URL, addresses: Sequence[str], place: str, terms: Terms, pace: Pace, patience: Patience
) -> tuple[Connection, float | None, str | None]:
    """Connect, with TLS for https; when a certificate need not hold, once more without looking if it does not."""
    distrust = None
    deposit = EXCHANGE_PACKETS + (TLS_PACKETS if url.scheme == "https" else 0)
    for verify in (True, False):
        try:
            connection = await connect(addresses, port_of(url), pace=pace, patience=patience, deposit=deposit)
        except OSError as error:  # TimeoutError is one
            _no_connection(error, place, url)
        if url.scheme != "https":
            return connection, None, None
        began = time.perf_counter()
        try:
            await connection.start_tls(terms.context(verify), host_of(url))
        except (ssl.SSLError, OSError) as error:
            await connection.aclose(rest=True)
            if not (verify and not terms.verify and isinstance(error, ssl.SSLError)):
                _no_handshake(error, place, url, connection.alert)
            distrust = _fault(error)
        except BaseException:
            await connection.aclose(rest=True)
            raise
        else:
            return connection, time.perf_counter() - began - connection.paced_seconds, distrust
    raise AssertionError("the second attempt returns or raises")


def _fault(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return why_untrusted(error)
    return "its TLS is no longer safe"


def _no_connection(error: OSError, place: str, url: httpx.URL) -> NoReturn:
    if isinstance(error, TimeoutError) and error.errno is None:
        raise NoAnswer(f"{place} does not take the connection in time.") from None
    reason = explain_connection(error, place, host_of(url))
    raise NoAnswer(reason.message if reason is not None else f"{place} breaks off the connection.") from None


def _no_handshake(error: OSError, place: str, url: httpx.URL, alert: int | None) -> NoReturn:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"The certificate of {place} does not hold: {why_untrusted(error)}."
        raise NoAnswer(reason, reached=True, untrusted=True) from None
    if isinstance(error, TimeoutError) and error.errno is None:
        raise NoAnswer(f"{place} takes the connection, but does not answer to TLS in time.") from None
    if alert is not None:
        what = alert_name(alert).replace("_", " ")
        raise NoAnswer(f"{place} ends the TLS handshake: {what}.", reached=True) from None
    explained = explain_connection(error, place, host_of(url))
    if explained is None:
        raise NoAnswer(f"{place} breaks off the TLS handshake.") from None
    raise NoAnswer(explained.message, reached=isinstance(explained, Unsupported)) from None


def _certificate(connection: Connection) -> Parsed | None:
    der = connection.tls.getpeercert(binary_form=True) if connection.tls is not None else None
    with suppress(ValueError):
        return Parsed(der) if der else None
    return None


# --- the protocol ------------------------------------------------------------------------------------------------------


class _Stream(httpcore.AsyncNetworkStream):
    """Our connection as httpcore wants one. It is closed by who opened it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.first_at: float | None = None
        self.beginning = b""
        self.headers_at: float | None = None

    def now(self) -> float:
        """Seconds on a clock that stands still while we hold ourselves back."""
        return time.perf_counter() - self.connection.paced_seconds

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = await self.connection.receive(min(max_bytes, 16 << 10))
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError from error
        if data and self.first_at is None:
            self.first_at, self.beginning = self.now(), data[:5]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self.connection.send(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError from error

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note when the headers were there; httpcore calls this at every step."""
        if event.endswith("receive_response_headers.complete"):
            self.headers_at = self.now()


async def _ask(
    stream: _Stream, url: httpx.URL, place: str, terms: Terms, headers: Mapping[str, str]
) -> httpcore.Response:
    tls = stream.connection.tls
    two = tls is not None and tls.selected_alpn_protocol() == "h2"
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    request = httpcore.Request(
        terms.method,
        target,
        headers=[(b"Host", url.netloc), *((name.encode(), value.encode()) for name, value in headers.items())],
        extensions={"trace": stream.trace},
    )
    speak = httpcore.AsyncHTTP2Connection if two else httpcore.AsyncHTTP11Connection
    try:
        return await speak(origin=target.origin, stream=stream).handle_async_request(request)
    except (httpcore.ReadTimeout, httpcore.WriteTimeout):
        if stream.beginning and not two and stream.beginning != b"HTTP/":
            raise NoAnswer(f"{place} answers, but not with HTTP.", reached=True) from None
        raise NoAnswer(f"{place} takes the connection, but does not answer in time.") from None
    except httpcore.RemoteProtocolError as error:
        if "disconnected" not in str(error) or (stream.beginning and not two and stream.beginning != b"HTTP/"):
            raise NoAnswer(f"{place} answers, but not with HTTP.", reached=True) from None
        if stream.beginning and not two:
            raise NoAnswer(f"{place} breaks off in the middle of its headers.", reached=True) from None
        raise NoAnswer(f"{place} closes the connection before it answers.") from None
    except (httpcore.NetworkError, httpcore.LocalProtocolError, httpcore.ConnectionNotAvailable) as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError):  # TLS 1.3 asks for a client's certificate after the handshake only
            explained = explain_connection(cause, place, host_of(url))
            if isinstance(explained, Unsupported):
                raise NoAnswer(explained.message, reached=True) from None
        raise NoAnswer(f"{place} breaks off the connection before it answers.") from None


async def _read(response: httpcore.Response, terms: Terms) -> tuple[bytes, bool, str | None]:
    """Read at most `max_bytes` of the body, unpacked; whether that is all of it; and how it broke off, if it did.

    We ask for no compression. A server that compresses nevertheless is unpacked, but never beyond the cap: 64 KB of gzip hold 64 MB.
    """
    encoding = httpx.Headers(response.headers).get("content-encoding", "identity").strip().lower()
    unpacker = zlib.decompressobj(wbits=47) if encoding in {"gzip", "x-gzip", "deflate"} else None  # 47: gzip or zlib
    body, received, most = bytearray(), 0, terms.max_bytes
    try:
        async for chunk in response.aiter_stream():
            received += len(chunk)
            body += unpacker.decompress(chunk, most + 1 - len(body)) if unpacker is not None else chunk
            if len(body) > most or received > most + _MARGIN_BYTES:
                return bytes(body[:most]), False, None
    except httpcore.TimeoutException:
        return bytes(body), False, f"does not finish its answer in time ({len(body)} bytes came)"
    except zlib.error:
        return bytes(body), False, "says its answer is compressed, but it is not"
    except (httpcore.ProtocolError, httpcore.NetworkError):
        return bytes(body), False, f"breaks its answer off after {len(body)} bytes"
    return bytes(body), True, None
