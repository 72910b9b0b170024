"""Send one HTTP request, and say why it failed: the only place that maps HTTP statuses and transport errors to `ToolError`s.

Requests go through an httpx transport, not a client: a client writes every URL to the log at level INFO, and webhook URLs are secrets.
Nothing comes from the environment: a proxy is used only where a block names one.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from blocks._trust import trust
from tasks.core.errors import (
    Busy,
    Conflict,
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

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note how far the request came; httpcore calls this at every step."""
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
    target = hop.url
    extensions: dict[str, Any] = {"trace": hop.trace}
    if hop.pinned is not None:
        # Connect to the address the gate checked; the name stays in Host and in the TLS handshake.
        target = hop.url.copy_with(host=hop.pinned.address)
        extensions["sni_hostname"] = hop.pinned.host
    request = httpx.Request(hop.method, target, headers=hop.headers, content=hop.body or None, extensions=extensions)
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
    if value.isdigit() and len(value) < 9:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
