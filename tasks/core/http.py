"""Send one HTTP request, and say why it failed: the only place that maps HTTP statuses and transport errors to `ToolError`s.

Requests go through an httpx transport, not a client: a client writes every URL to the log at level INFO, and webhook URLs are secrets.
Nothing comes from the environment: a proxy is used only where a block names one.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import httpx

from blocks._trust import trust
from tasks.core.errors import (
    Busy,
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.core.scrub import excerpt, scrub, url_secrets
from tasks.core.transport import explain_connection

if TYPE_CHECKING:
    from tasks.core.gate import PinnedUrl

DEFAULT_TIMEOUT = 10.0
DEFAULT_MAX_BYTES = 64 << 10
CONNECT_SECONDS = 5.0
"""Longest a device of the local network may take for TCP, and for TLS on it: a dead one must not cost the whole timeout."""
KEPT_SECONDS = 4.0
"""How long an idle connection is kept: servers close theirs after five seconds (Apache's KeepAliveTimeout)."""
_MARGIN_BYTES = (
    64 << 10
)  # compressed bytes we read beyond the cap before we give up on a stream that unpacks to nothing
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # idempotent methods, RFC 9110 section 9.2.2
# identity: what is not compressed cannot unpack without end; servers that compress anyway meet the cap in `_read`.
_HEADERS = {"User-Agent": "signalbox", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
_CONTENT_HEADERS = ("content-length", "content-type", "content-encoding", "transfer-encoding")
_KEPT_ACROSS_ORIGINS = frozenset(
    {"accept", "accept-encoding", "content-type", "content-length", "user-agent", "connection"}
)

Explain = Callable[["Answer"], str | None]
"""Says in a sentence what a service means by an answer that is an error, or None when it knows no better."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: Headers, names case-insensitive.
        body: The first bytes of the body, decompressed; at most the cap of the call.
        truncated: Whether the body was longer than the cap.
        duration: Seconds the whole call took.
        url: Where the answer came from after redirects, as asked (names, not pinned addresses). May be secret: not in the repr.
    """

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)
    truncated: bool
    duration: float
    url: str = field(repr=False)

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def said_at(self) -> datetime | None:
        """What the server's clock said (header `Date`); None when it says nothing usable."""
        try:
            return parsedate_to_datetime(self.headers.get("date", "")[:60]).astimezone(UTC)
        except (ValueError, IndexError, TypeError, OverflowError):
            return None


@dataclass
class _Hop:
    """One request of a call: the first, or one that a redirect asked for."""

    method: str
    url: httpx.URL
    headers: httpx.Headers
    body: bytes
    pinned: PinnedUrl | None
    sent: bool = False  # whether a byte of the request may have left
    tunnelled: bool = False  # whether a proxy has connected us, so that what fails from here on is the server's
    watch: Callable[[_Hop, str, Mapping[str, Any]], Awaitable[None]] | None = None  # who else wants to know each step
    limit: asyncio.Timeout | None = None  # what bounds it, where waiting for our own pace shall not count
    connected: bool = False  # whether it got a connection of its own, not one that was kept
    connect_timeout: float | None = None  # seconds for TCP, and for TLS on it, where that is less than for all of it
    repeatable: bool = False  # whether it may be sent again when a kept connection turns out to be closed

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note how far the request came; httpcore calls this at every step."""
        if self.watch is not None:
            await self.watch(self, event, info)
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent = True
        elif event == "proxy.start_tls.started":
            self.tunnelled = True


async def send(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | str | None = None,
    json: Any = None,
    data: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    verify: bool | ssl.SSLContext = True,
    proxy: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    follow: int = 0,
    admit: Callable[[str], Awaitable[PinnedUrl]] | None = None,
    pinned: PinnedUrl | None = None,
    secret_url: bool = False,
    secrets: Collection[str] = (),
    repeatable: bool | None = None,
    ok: Collection[int] | None = None,
    explain: Explain | None = None,
) -> Answer:
    """Send one HTTP request and return the answer, or raise what the caller should do next.

    Args:
        method: HTTP method.
        url: Absolute http or https URL.
        headers: Extra headers. Dropped when a redirect leads to another origin.
        content: Raw body.
        json: Instead of `content`: a value sent as JSON.
        data: Instead of `content`: fields sent as a form.
        timeout: Seconds for the whole call: names, connection, TLS, request, answer, redirects.
        verify: False checks no certificate; a context brings its own authorities.
        proxy: URL of the proxy that the block names.
        max_bytes: Most bytes of the answer that are kept; also the guard against compressed answers that unpack without end.
        follow: Most redirects that are followed; each one is admitted first.
        admit: The gate's delivery door, asked for every redirect. Needed when `follow` is not 0.
        pinned: What the gate admitted: the connection goes to its address, `Host` and the certificate's name stay those of the URL.
        secret_url: The URL is a credential: no error repeats more of it than scheme and host.
        secrets: Other strings that no error may repeat, such as header values.
        repeatable: Whether a second delivery does no harm. Default: by method. If not, a lost answer is `Unanswered`.
        ok: Statuses that count as success. Default: 200 to 299.
        explain: The service's own reading of its error answers.

    Raises:
        InvalidParameters: The URL or a header is malformed.
        NotFound: The name does not resolve; the server says 404 or 410.
        Untrusted: The certificate is expired, for another name, self-signed, or of an unknown authority.
        Unsupported: No TLS there, or none that is safe; the server says 405, 501 or 505.
        Unauthorized: 401, 403, 407.
        Conflict: 409.
        Busy: 408, 425, 429, 503; with the pause the server asks for.
        Rejected: Any other answer that is not a success, and redirects beyond `follow`.
        Unreachable: No connection, or (when repeatable) a lost answer.
        Unanswered: The request left, the answer was lost, and a second delivery might do harm.
    """
    method = method.upper()
    if follow and admit is None:
        raise ValueError("redirects are followed only through the gate: give admit")
    hop = _first_hop(method, url, headers, content, json, data, pinned)
    hidden = [*secrets, *(url_secrets(url) if secret_url else ())]
    can_repeat = method in _REPEATABLE if repeatable is None else repeatable
    started, deadline = time.monotonic(), asyncio.get_running_loop().time() + timeout
    try:
        for remaining in range(follow, -1, -1):
            answer = await _exchange(hop, deadline, verify, proxy, max_bytes, started)
            if remaining == 0 or admit is None or not _is_redirect(answer):
                break
            async with asyncio.timeout_at(deadline):
                hop = await _next_hop(hop, answer, admit, secret_url)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError) as error:
        # from None: httpx's errors carry the request, and with it the URL and the headers.
        raise _transport_error(error, hop, timeout, can_repeat, secret_url, proxy, hidden) from None
    if (answer.status in ok) if ok is not None else (200 <= answer.status < 300):
        return answer
    raise _status_error(answer, _place(hop.url, secret_url), can_repeat, secret_url, hidden, explain)


# --- the request -----------------------------------------------------------------------------------------------------


def _first_hop(
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    content: bytes | str | None,
    json: Any,
    data: Mapping[str, Any] | None,
    pinned: PinnedUrl | None,
) -> _Hop:
    try:
        parsed = httpx.URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise httpx.InvalidURL("no http URL")
        merged = httpx.Headers(_HEADERS)
        merged.update(headers or {})
        built = httpx.Request(
            method,
            parsed.copy_with(fragment=None),
            headers=merged,
            content=content,
            json=json,
            data=dict(data) if data else None,
        )
    except httpx.InvalidURL:
        raise InvalidParameters(
            "This is not an http or https address.", hint="Right would be https://example.com/path."
        ) from None
    except UnicodeEncodeError:
        raise InvalidParameters("Header values may hold ASCII characters only.") from None
    return _Hop(method, built.url, built.headers, built.read(), pinned)


async def _exchange(
    hop: _Hop, deadline: float, verify: bool | ssl.SSLContext, proxy: str | None, max_bytes: int, started: float
) -> Answer:
    request = _request(hop)
    context = trust() if verify is True else verify
    async with httpx.AsyncHTTPTransport(verify=context, proxy=proxy, trust_env=False) as transport:
        async with asyncio.timeout_at(deadline):
            response = await transport.handle_async_request(request)
        response.request = request
        try:
            body, truncated = await _read(response, max_bytes, deadline)
        finally:
            await response.aclose()
    return Answer(response.status_code, response.headers, body, truncated, time.monotonic() - started, str(hop.url))


def _request(hop: _Hop) -> httpx.Request:
    target = hop.url
    extensions: dict[str, Any] = {"trace": hop.trace}
    if hop.pinned is not None:
        # Connect to the address the gate checked; the name stays in Host and in the TLS handshake.
        target = hop.url.copy_with(host=hop.pinned.address)
        extensions["sni_hostname"] = hop.pinned.host
    if hop.connect_timeout is not None:
        extensions["timeout"] = {"connect": hop.connect_timeout}
    return httpx.Request(hop.method, target, headers=hop.headers, content=hop.body or None, extensions=extensions)


async def _read(response: httpx.Response, max_bytes: int, deadline: float) -> tuple[bytes, bool]:
    """Read at most `max_bytes` of the body, unpacked; and whether that is less than all of it.

    A body that breaks off or does not end in time is a short answer, not a lost one: the status says what became of the request.
    httpx would unpack each chunk whole, and 64 KB of gzip hold 64 MB; here the unpacking itself stops at the cap.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    unpacker = zlib.decompressobj(wbits=47) if encoding in {"gzip", "x-gzip", "deflate"} else None  # 47: gzip or zlib
    body, received = bytearray(), 0
    try:
        async with asyncio.timeout_at(deadline):
            async for chunk in response.aiter_raw():
                received += len(chunk)
                body += unpacker.decompress(chunk, max_bytes + 1 - len(body)) if unpacker is not None else chunk
                if len(body) > max_bytes or received > max_bytes + _MARGIN_BYTES:
                    return bytes(body[:max_bytes]), True
    except (TimeoutError, httpx.TransportError, zlib.error):
        return bytes(body[:max_bytes]), True
    return bytes(body), False


# --- a conversation with one device ----------------------------------------------------------------------------------


class Login(Protocol):
    """Decides what to send as `Authorization`, and whether there is anything to try after a server has asked for it."""

    def authorization(self, method: str, target: str) -> str | None:
        """What to send along with this request; None to send it bare."""

    def challenged(self, challenges: Sequence[str], *, tried: int) -> None:
        """Take note of what a 401 asks for. Returning means: ask `authorization` again and send the request once more.

        Args:
            challenges: The values of its `WWW-Authenticate` headers.
            tried: How often this request has been sent with credentials already.

        Raises:
            ToolError: There is nothing more to try; says why.
        """

    def accepted(self) -> None:
        """Take note that a request with credentials was not answered by 401."""


@dataclass
class Stream:
    """An answer that is read as it comes.

    Attributes:
        status: HTTP status.
        headers: Headers, names case-insensitive.
        received: Bytes that have come.
        over: Whether it ended because its time was up, with more to come.
    """

    status: int
    headers: httpx.Headers = field(repr=False)
    received: int = 0
    over: bool = False
    chunks: AsyncIterator[bytes] = field(repr=False, init=False)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


class Session:
    """Requests to one server, one after the other, over a connection that is kept.

    It goes to the pinned address, whatever the name resolves to by then; nothing comes from the environment, no redirect is followed.

    Args:
        origin: Scheme, host and port, such as `https://camera7.example.com:443`.
        pinned: What the gate admitted.
        tls: Whom TLS connections trust.
        login: Who answers a 401; None to ask without credentials only.
        peer: Called with the certificate (DER) of every new TLS connection before anything is sent on it; may raise a `ToolError`.
        pay: Called before packets are sent, with an estimate how many; it waits for their turn. That wait is not part of any timeout.
        costs: Packets of a new connection, of TLS on it, and of a request with a short answer; and bytes of payload to a packet.
        secrets: What no error may repeat.
    """

    def __init__(
        self,
        origin: str,
        pinned: PinnedUrl,
        *,
        tls: ssl.SSLContext | None = None,
        login: Login | None = None,
        peer: Callable[[bytes], None] | None = None,
        pay: Callable[[int], Awaitable[None]] | None = None,
        costs: tuple[int, int, int, int] = (4, 8, 3, 1448),
        secrets: Collection[str] = (),
    ) -> None:
        self.origin = origin
        self._pinned = pinned
        self._tls = tls
        self._login = login
        self._peer = peer
        self._pay = pay
        self._costs = costs
        self._secrets = tuple(secrets)
        self._kept: httpx.AsyncHTTPTransport | None = None
        self._welcome = False  # whether our credentials were accepted once

    async def aclose(self) -> None:
        """Close the connection."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()

    async def ask(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        json: Any = None,
        data: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_bytes: int = DEFAULT_MAX_BYTES,
        repeatable: bool = True,
        anonymous: bool = False,
        explain: Explain | None = None,
    ) -> Answer:
        """Send a request and return its answer; after a 401 once more, as the login says.

        Args:
            method: HTTP method.
            target: Absolute path.
            query: Arguments of the URL.
            headers: Extra headers.
            content: Raw body.
            json: Instead of `content`: a value sent as JSON.
            data: Instead of `content`: fields sent as a form.
            timeout: Seconds for all of it.
            max_bytes: Most bytes of the answer that are kept.
            repeatable: Whether a second delivery does no harm. If not, a lost answer is `Unanswered`.
            anonymous: Send no credentials; a 401 is `Unauthorized`.
            explain: The device's own reading of an error answer; it may raise a `ToolError` that says it better.

        Raises:
            ToolError: As `send` says, but for 404, which is `Unsupported`: a device has no other addresses than those of its
                functions; 403, which is `Forbidden`; and 401, which is what the login says.
        """
        hop = self._hop(method, target, query, headers, content, json, data)
        login = None if anonymous else self._login
        started, place = time.monotonic(), _place(hop.url, False)
        transport = self._transport()
        try:
            async with asyncio.timeout(timeout) as limit:
                hop.limit, hop.repeatable = limit, repeatable
                response = await self._converse(transport, hop, login)
                try:
                    body, truncated = await _read(response, max_bytes, _until(limit))
                finally:
                    await response.aclose()
                await self._wait(hop, self._acknowledgements(len(body)))
        except (httpx.HTTPError, httpx.StreamError, TimeoutError, OSError) as error:
            await self.aclose()
            raise _transport_error(error, hop, timeout, repeatable, False, None, self._secrets) from None
        except BaseException:
            await self.aclose()  # a connection whose answer nobody has read is of no use
            raise
        answer = Answer(
            response.status_code, response.headers, body, truncated, time.monotonic() - started, str(hop.url)
        )
        if 200 <= answer.status < 300:
            return answer
        raise _device_error(answer, place, repeatable, self._secrets, explain)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        target: str,
        *,
        query: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        seconds: float | None = None,
        idle: float = 30.0,
        repeatable: bool = True,
        explain: Explain | None = None,
    ) -> AsyncIterator[Stream]:
        """Send a request on a connection of its own, and read its answer as it comes.

        Args:
            method: HTTP method.
            target: Absolute path.
            query: Arguments of the URL.
            data: Fields sent as a form.
            headers: Extra headers.
            timeout: Seconds until the answer begins.
            seconds: Seconds after which reading ends, from the beginning of the answer; `over` says so. None: until its end.
            idle: Longest silence in between, seconds.
            repeatable: Whether a second delivery does no harm.
            explain: As for `ask`.

        Raises:
            ToolError: As `ask`; while reading `Unreachable`, when it breaks off or falls silent.
        """
        hop = self._hop(method, target, query, headers, None, None, data)
        place = _place(hop.url, False)
        async with self._new_transport() as transport:
            try:
                async with asyncio.timeout(timeout) as limit:
                    hop.limit = limit
                    response = await self._converse(transport, hop, self._login)
            except (httpx.HTTPError, httpx.StreamError, TimeoutError, OSError) as error:
                raise _transport_error(error, hop, timeout, repeatable, False, None, self._secrets) from None
            try:
                if not 200 <= response.status_code < 300:
                    body, truncated = await _read(
                        response, DEFAULT_MAX_BYTES, asyncio.get_running_loop().time() + timeout
                    )
                    answer = Answer(response.status_code, response.headers, body, truncated, 0.0, str(hop.url))
                    raise _device_error(answer, place, repeatable, self._secrets, explain)
                stream = Stream(response.status_code, response.headers)
                stream.chunks = self._chunks(response, stream, place, seconds, idle)
                yield stream
            finally:
                await response.aclose()

    # --- inside ---

    def _hop(
        self,
        method: str,
        target: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        content: bytes | None,
        json: Any,
        data: Mapping[str, str] | None,
    ) -> _Hop:
        url = self.origin + target
        if query:
            # Blanks as %20: not every device takes a plus sign for one. Commas and such as they are: they are read by people too.
            url += "?" + urlencode(query, quote_via=quote, safe=",:/*")
        hop = _first_hop(
            method.upper(), url, {"Connection": "keep-alive", **(headers or {})}, content, json, data, self._pinned
        )
        hop.watch, hop.connect_timeout = self._watch, CONNECT_SECONDS
        return hop

    def _transport(self) -> httpx.AsyncHTTPTransport:
        if self._kept is None:
            self._kept = self._new_transport()
        return self._kept

    def _new_transport(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._tls if self._tls is not None else trust(),
            trust_env=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_SECONDS),
        )

    async def _converse(self, transport: httpx.AsyncHTTPTransport, hop: _Hop, login: Login | None) -> httpx.Response:
        """Send the request until its answer is no 401, or the login has nothing more to try."""
        tried = 0
        while True:
            response, authorized = await self._once(transport, hop, login)
            tried += authorized
            if login is None:
                return response
            if response.status_code != 401:
                if authorized:
                    login.accepted()
                    self._welcome = True
                return response
            try:
                # Read, so that the connection can be used again.
                await _read(response, DEFAULT_MAX_BYTES, _until(hop.limit))
            finally:
                await response.aclose()
            login.challenged(response.headers.get_list("www-authenticate"), tried=tried)

    async def _once(
        self, transport: httpx.AsyncHTTPTransport, hop: _Hop, login: Login | None
    ) -> tuple[httpx.Response, bool]:
        """Send the request; and once more where a kept connection turned out to be closed, and it does no harm."""
        await self._wait(hop, self._costs[2] + len(hop.body) // self._costs[3])
        hop.connected = False
        authorized = self._authorize(hop, login)
        try:
            response = await transport.handle_async_request(_request(hop))
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # Credentials that were never accepted may be why: they are not tried a second time.
            if hop.connected or not hop.repeatable or (authorized and not self._welcome):
                raise
            authorized = self._authorize(hop, login)  # anew: a counter of a nonce is used once
            response = await transport.handle_async_request(_request(hop))
        response.request = _request(hop)
        return response, authorized

    def _authorize(self, hop: _Hop, login: Login | None) -> bool:
        authorization = None if login is None else login.authorization(hop.method, hop.url.raw_path.decode("ascii"))
        hop.headers.pop("Authorization", None)
        if authorization is not None:
            hop.headers["Authorization"] = authorization
        return authorization is not None

    async def _chunks(
        self, response: httpx.Response, stream: Stream, place: str, seconds: float | None, idle: float
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds if seconds is not None else float("inf")
        source = response.aiter_raw()
        while True:
            left = until - loop.time()
            if left <= 0:
                stream.over = True
                return
            try:
                async with asyncio.timeout(min(idle, left)):
                    chunk = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if loop.time() >= until:
                    stream.over = True
                    return
                raise Unreachable(
                    f"{place} sent nothing for {idle:g} s after {stream.received} bytes.",
                ) from None
            except (httpx.HTTPError, httpx.StreamError, OSError):
                raise Unreachable(f"{place} broke its answer off after {stream.received} bytes.") from None
            stream.received += len(chunk)
            if self._pay is not None:
                await self._pay(max(1, self._acknowledgements(len(chunk))))
            yield chunk

    async def _watch(self, hop: _Hop, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            hop.connected = True
            await self._wait(hop, self._costs[0])
        elif event.endswith("start_tls.started"):
            await self._wait(hop, self._costs[1])
        elif event.endswith("start_tls.complete") and self._peer is not None:
            stream = info["return_value"]
            tls = stream.get_extra_info("ssl_object")
            try:
                self._peer(tls.getpeercert(binary_form=True) or b"")
            except BaseException:
                await stream.aclose()
                raise

    def _acknowledgements(self, received: int) -> int:
        # A receiver acknowledges every second full segment (RFC 9293, section 3.8.6.3); the first is paid with the request.
        return received // (2 * self._costs[3])

    async def _wait(self, hop: _Hop, packets: int) -> None:
        """Wait for the packets' turn, with the request's clock stopped."""
        if self._pay is None or packets <= 0:
            return
        loop = asyncio.get_running_loop()
        began, when = loop.time(), hop.limit.when() if hop.limit is not None else None
        if hop.limit is None or when is None:
            await self._pay(packets)
            return
        hop.limit.reschedule(None)
        await self._pay(packets)
        hop.limit.reschedule(when + loop.time() - began)


def _until(limit: asyncio.Timeout | None) -> float:
    when = limit.when() if limit is not None else None
    return when if when is not None else asyncio.get_running_loop().time() + DEFAULT_TIMEOUT


# --- redirects -------------------------------------------------------------------------------------------------------


def _is_redirect(answer: Answer) -> bool:
    return answer.status in {301, 302, 303, 307, 308} and "location" in answer.headers


async def _next_hop(hop: _Hop, answer: Answer, admit: Callable[[str], Awaitable[PinnedUrl]], secret_url: bool) -> _Hop:
    """Follow a redirect as RFC 9110 section 15.4 says, through the gate, without carrying headers to another origin."""
    try:
        url = hop.url.join(answer.headers["location"]).copy_with(fragment=None)
    except httpx.InvalidURL:
        raise Rejected(f"{_place(hop.url, secret_url)} redirects to something that is no address.") from None
    if url.scheme not in {"http", "https"} or (hop.url.scheme == "https" and url.scheme == "http"):
        raise Rejected(
            f"{_place(hop.url, secret_url)} redirects to {url.scheme}://, which is not followed: it is less safe."
        )
    pinned = await admit(str(url))
    method, body, headers = hop.method, hop.body, hop.headers.copy()
    if (answer.status == 303 and method != "HEAD") or (answer.status in {301, 302} and method == "POST"):
        method, body = "GET", b""
        for name in _CONTENT_HEADERS:
            headers.pop(name, None)
    if _origin(url) != _origin(hop.url):
        headers = httpx.Headers({name: value for name, value in headers.items() if name in _KEPT_ACROSS_ORIGINS})
    headers["Host"] = url.netloc.decode("ascii")
    return _Hop(method, url, headers, body, pinned)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


# --- what went wrong -------------------------------------------------------------------------------------------------


def _place(url: httpx.URL, secret_url: bool) -> str:
    """What was called, for people. Never user, password, query or fragment: tokens travel there."""
    place = f"{url.scheme}://{url.netloc.decode('ascii')}"
    return place if secret_url or url.path in {"", "/"} else f"{place}{url.path}"


def _transport_error(
    error: BaseException,
    hop: _Hop,
    timeout: float,
    can_repeat: bool,
    secret_url: bool,
    proxy: str | None,
    hidden: Collection[str],
) -> ToolError:
    place = _place(hop.url, secret_url)
    if isinstance(error, httpx.ProxyError):
        return _proxy_error(error, place)
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return InvalidParameters("A header or the address holds characters that HTTP does not allow.")
    if isinstance(error, httpx.ConnectTimeout) and hop.connect_timeout is not None:
        timeout = min(timeout, hop.connect_timeout)
    if not hop.sent:
        if proxy is not None and not hop.tunnelled:
            place, host = f"The proxy to {place}", httpx.URL(proxy).host
        else:
            host = hop.url.host
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return Unreachable(
                f"{place} does not answer within {timeout:g} s.", hint="Nothing was sent. Is a firewall in between?"
            )
        reason = explain_connection(error, place, host)
        if reason is not None:
            return reason
        return Unreachable(f"{place} closed the connection before anything was sent.")
    # The request left, or some of it: an answer was lost, or was none.
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        what = f"took the request but did not finish its answer within {timeout:g} s"
    elif isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        what = "answers, but not with HTTP"
    else:
        reason = explain_connection(error, place, hop.url.host)
        if isinstance(reason, Unsupported):  # TLS 1.3 asks for a client certificate only after the handshake
            return reason
        what = "closed the connection before it answered"
    if can_repeat:
        return Unreachable(scrub(f"{place} {what}.", hidden))
    return Unanswered(
        scrub(f"{place} {what}.", hidden), hint="It may have arrived: look there before you send it again."
    )


def _proxy_error(error: httpx.ProxyError, place: str) -> ToolError:
    status = str(error)[:3]
    if status == "407":
        return Unauthorized(
            f"The proxy to {place} wants other credentials.", hint="They are in the block's field proxy."
        )
    if status.isdigit() and status not in {"502", "503", "504"}:
        return Rejected(f"The proxy refuses to connect to {place} (HTTP {status}).")
    return Unreachable(f"The proxy cannot reach {place}.")


def _status_error(
    answer: Answer, place: str, can_repeat: bool, secret_url: bool, hidden: Collection[str], explain: Explain | None
) -> ToolError:
    status = answer.status
    said = (explain(answer) if explain is not None else None) or excerpt(answer.body)
    said = scrub(said, hidden)
    detail = f": {said}" if said else ""
    pause = retry_after(answer)
    match status:
        case 401 | 403:
            return Unauthorized(f"{place} refuses this access (HTTP {status}){detail}")
        case 407:
            return Unauthorized(
                f"The proxy to {place} wants other credentials.", hint="They are in the block's field proxy."
            )
        case 404 | 410:
            return NotFound(f"{place} knows no such address (HTTP {status}){detail}")
        case 409:
            return Conflict(f"{place} says this contradicts what it has (HTTP 409){detail}")
        case 405 | 501 | 505:
            return Unsupported(f"{place} does not support this request (HTTP {status}){detail}")
        case 429:
            return Busy(f"{place} wants fewer messages (HTTP 429){_pause(pause)}{detail}", retry_after=pause)
        case 408 | 425 | 503:
            return Busy(f"{place} is not ready (HTTP {status}){_pause(pause)}{detail}", retry_after=pause)
        case _ if 300 <= status < 400:
            return _redirect_error(answer, place, secret_url, hidden)
        case _ if status >= 500 and can_repeat:
            return Busy(f"{place} failed (HTTP {status}){detail}", retry_after=pause)
        case 502 | 504:
            return Unanswered(
                f"A gateway before {place} lost the answer (HTTP {status}){detail}",
                hint="It may have arrived: look there before you send it again.",
            )
    return Rejected(f"{place} answered HTTP {status}{detail}")


def _device_error(
    answer: Answer, place: str, can_repeat: bool, hidden: Collection[str], explain: Explain | None
) -> ToolError:
    """What an error of a device means: as any other server's, but it has one address for each thing it can do."""
    said = (explain(answer) if explain is not None else None) or ""
    match answer.status:
        case 401:
            return Unauthorized(f"{place} wants an account (HTTP 401).", hint="Name a block with credentials.")
        case 403:
            return Forbidden(
                f"{place} does not let this account do that (HTTP 403){f': {scrub(said, hidden)}' if said else ''}.",
                hint="It takes an account of a higher level.",
            )
        case 404 | 410:
            return Unsupported(f"{place} is not there (HTTP {answer.status}): this device does not support it.")
        case 301 | 302 | 303 | 307 | 308:
            target = httpx.URL(answer.url)
            with suppress(httpx.InvalidURL):
                target = target.join(answer.headers.get("location", ""))
            if target.host == httpx.URL(answer.url).host and target.scheme == "https" and place.startswith("http:"):
                return Rejected(
                    f"{place} wants HTTPS (HTTP {answer.status} to {_place(target, False)}).",
                    hint="Set the scheme https in the block with its credentials.",
                )
    return _status_error(answer, place, can_repeat, False, hidden, (lambda _: said) if said else None)


def _redirect_error(answer: Answer, place: str, secret_url: bool, hidden: Collection[str]) -> ToolError:
    target = ""
    with suppress(httpx.InvalidURL):
        target = _place(httpx.URL(answer.url).join(answer.headers.get("location", "")), secret_url)
    return Rejected(
        scrub(f"{place} redirects to {target or 'elsewhere'} (HTTP {answer.status}), which was not followed.", hidden),
        hint="Give the address it redirects to, if you trust it.",
    )


def _pause(seconds: float | None) -> str:
    return f", in {seconds:.0f} s again" if seconds is not None else ""


def retry_after(answer: Answer) -> float | None:
    """Seconds the server asks to wait (RFC 9110 section 10.2.3: a number or a date); None when it says nothing usable."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 9:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
