"""Events over a WebSocket, the way newer cameras know: JSON text frames, one event each.

The login is a token that the camera gives once over HTTP (wssession.cgi) and that ends with its use or after 15 s. It stands in the URL,
so what the library would write to its log is kept out of it. Neither redirects nor proxies are followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException

from tasks.core.errors import Busy, Forbidden, ToolError, Unauthorized, Unreachable, Unsupported
from tasks.core.transport import explain_connection
from tasks.network.probe._connection import OPENING_PACKETS, SEGMENT_BYTES
from tasks.network.probe._http_exchange import EXCHANGE_PACKETS, TLS_PACKETS
from tasks.network.vapix._camera import Place
from tasks.network.vapix._events import CameraEvent, clean, clean_items, content_filter, moment, told_event
from tasks.network.vapix._wire import Declined, Nonsense

PATH = "/vapix/ws-data-stream"
MOST_FRAME_BYTES = 1 << 20
MOST_WAITING = 8
"""Frames that may wait here to be read: what comes meanwhile waits at the camera's."""
PING_SECONDS = 15.0
"""What clients of cameras use in practice."""
BEFORE_REPLY = 500
"""Frames that may come before the camera answers our request."""

_quiet = logging.getLogger("signalbox.quiet.websockets")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL + 1)

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}\Z")


@dataclass(frozen=True)
class Reply:
    """A camera's answer to a request.

    Attributes:
        context: The request's mark, echoed.
        code: Its error's number; None when it agreed.
        message: Its error's words.
    """

    context: str
    code: int | None = None
    message: str = ""


def read_frame(text: str | bytes) -> CameraEvent | Reply | None:
    """Read one frame; None when it is JSON of a kind we do not know.

    Raises:
        ValueError: It is no JSON object.
    """
    if isinstance(text, bytes):
        raise ValueError("a binary frame")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(frame, dict):
        raise ValueError("no JSON object")
    if frame.get("method") == "events:notify":
        return _event(frame.get("params"))
    error = frame.get("error")
    if isinstance(error, dict):
        return Reply(
            clean(frame.get("context", ""), 40), _number(error.get("code")), clean(error.get("message", ""), 200)
        )
    if "data" in frame:
        return Reply(clean(frame.get("context", ""), 40))
    return None


def _number(code: Any) -> int:
    # Some devices write the number as text.
    try:
        return int(str(code)[:10])
    except ValueError:
        return 0


def _event(params: Any) -> CameraEvent | None:
    told = params.get("notification") if isinstance(params, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("topic"), str):
        return None
    message = told.get("message")
    sides = message if isinstance(message, dict) else {}
    source, key, data = (
        clean_items(side.items()) if isinstance(side := sides.get(name), dict) else {}
        for name in ("source", "key", "data")
    )
    return told_event(
        told["topic"],
        at=moment(told.get("timestamp")),
        received_at=datetime.now(UTC),
        source=source,
        key=key,
        data=data,
    )


def configuration(topics: Sequence[str], items: Mapping[str, str], context: str) -> str:
    """The request that says which events we want.

    >>> configuration(["//."], {}, "a")
    '{"apiVersion": "1.0", "context": "a", "method": "events:configure", "params": {"eventFilterList": [{"topicFilter": "//."}]}}'
    """
    content = {"contentFilter": content_filter(items)} if items else {}
    filters = [{"topicFilter": topic, **content} for topic in topics]
    return json.dumps(
        {"apiVersion": "1.0", "context": context, "method": "events:configure", "params": {"eventFilterList": filters}}
    )


def explain(reply: Reply, name: str) -> ToolError:
    """What a camera's refusal means."""
    said = f"{name} refused the events (error {reply.code}{': ' + reply.message if reply.message else ''})."
    match reply.code:
        case 2100 | 2102:
            return Unsupported(f"{said} Its version of the API is another.", hint="Try transport = rtsp.")
        case 2103 | 2104:
            return Declined(
                said, hint="Check topics and items: vapix_event_services lists what the camera has.", code=reply.code
            )
        case 2105:
            return Forbidden(said, hint="The account's level is too low.")
        case 2106:
            return Unauthorized(said, hint="The camera does not take the account any more.")
        case 2107:
            return Declined(said, hint="Ask for fewer topics.", code=reply.code)
        case 1100:
            return Busy(said, hint="Try again later.")
        case _:
            return Declined(said, code=reply.code)


class _Connect(connect):
    """Goes to no other place than the one that policy allowed, and sends nothing before the certificate is checked."""

    place: Place

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc

    async def create_connection(self) -> ClientConnection:
        connection = await super().create_connection()
        tls = connection.transport.get_extra_info("ssl_object")
        if tls is not None:
            try:
                self.place.check_certificate(tls.getpeercert(binary_form=True) or b"")
            except ToolError:
                connection.transport.abort()
                raise
        return connection


@dataclass
class WebSocketEvents:
    """A stream of events over one WebSocket: `open()`, then iterate `frames()`, then `close()`.

    Attributes:
        place: Where it is.
        timeout: Seconds for the handshake and for the answer to our request.
        most_bytes: After so many the frames end, whether there were events or not.
        bytes_received: Characters of the frames that came.
    """

    place: Place
    timeout: float = 15.0
    most_bytes: int = 1 << 40
    bytes_received: int = 0
    _connection: ClientConnection | None = None
    _early: list[CameraEvent | None] = field(default_factory=list)
    _unpaid: int = 0

    @property
    def name(self) -> str:
        """How errors call it."""
        return f"The event stream of {self.place.host}"

    async def open(self, token: str, topics: Sequence[str], items: Mapping[str, str]) -> None:
        """Connect with the one-time token and say which events we want.

        Raises:
            Unreachable: It does not answer.
            Unauthorized: It does not take the token, or the account may not have the events.
            Unsupported: It has no such stream.
            Declined: It does not take our filters.
        """
        if not _TOKEN.match(token):
            raise Unsupported(f"{self.name}: the camera gave no token that we could use.")
        place = self.place
        host = f"[{place.host}]" if ":" in place.host else place.host
        scheme = "wss" if place.tls is not None else "ws"
        uri = f"{scheme}://{host}:{place.port}{PATH}?wssession={quote(token, safe='')}&sources=events"
        tls: dict[str, Any] = {"ssl": place.tls, "server_hostname": place.host} if place.tls is not None else {}
        await place.pay(OPENING_PACKETS + EXCHANGE_PACKETS + (TLS_PACKETS if tls else 0))
        connecting = _Connect(
            uri,
            host=place.address,
            port=place.port,
            proxy=None,
            compression=None,
            max_size=MOST_FRAME_BYTES,
            max_queue=MOST_WAITING,
            open_timeout=self.timeout,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=1.0,
            user_agent_header="signalbox",
            logger=_quiet,
            **tls,
        )
        connecting.place = place
        try:
            self._connection = await connecting
        # None of the library's errors is repeated or chained: some carry the URL, and with it the token.
        except InvalidStatus as error:
            raise self._refusal(error.response.status_code) from None
        except TimeoutError:
            raise Unreachable(f"{self.name} did not answer within {self.timeout:g} s.") from None
        except OSError as error:
            known = explain_connection(error, self.name, place.host)
            raise known or Unreachable(f"{self.name} broke the connection.") from None
        except (InvalidHandshake, InvalidURI, WebSocketException) as error:
            if isinstance(error.__cause__, (EOFError, OSError)):
                raise Unreachable(f"{self.name} broke the connection.") from None
            raise Unsupported(f"{self.name}: what answered does not speak WebSocket.") from None
        await self._configure(topics, items)

    def _refusal(self, status: int) -> ToolError:
        if status in (401, 403):
            return Forbidden(
                f"{self.name} does not take the session ({status}).", hint="Is the account's level high enough?"
            )
        if status == 503:
            return Busy(f"{self.name} has no room for another session.", hint="Try again later.")
        return Unsupported(f"{self.name} is not there ({status}).", hint="Try transport = rtsp.")

    async def _configure(self, topics: Sequence[str], items: Mapping[str, str]) -> None:
        assert self._connection is not None
        try:
            async with asyncio.timeout(self.timeout):
                await self._connection.send(configuration(topics, items, "events"))
                for _ in range(BEFORE_REPLY):
                    found = await self._next()
                    if isinstance(found, Reply):
                        if found.code is not None:
                            raise explain(found, self.name)
                        return
                    self._early.append(found)
                    await self._pay()
                    if self.bytes_received > self.most_bytes:
                        break
        except TimeoutError:
            raise Unreachable(f"{self.name} did not answer within {self.timeout:g} s.") from None
        except ConnectionClosed:
            raise Unreachable(f"{self.name} was closed by the camera before it answered.") from None
        raise Unsupported(f"{self.name} sends much and does not answer.")

    async def _next(self) -> CameraEvent | Reply | None:
        assert self._connection is not None
        frame = await self._connection.recv()
        self.bytes_received += len(frame)
        self._unpaid += len(frame)
        try:
            return read_frame(frame)
        except ValueError:
            return None

    async def _pay(self) -> None:
        # We confirm what comes: about a packet for each two of theirs.
        packets, self._unpaid = divmod(self._unpaid, 2 * SEGMENT_BYTES)
        if packets:
            await self.place.pay(packets)

    async def frames(self) -> AsyncGenerator[CameraEvent | None, None]:
        """Events as they come, None for a frame that cannot be read, until too much came or the caller stops.

        Raises:
            Unreachable: The camera closed the connection, or it broke.
            Nonsense: What came is too large.
        """
        while self._early:
            yield self._early.pop(0)
        while self.bytes_received <= self.most_bytes:
            try:
                found = await self._next()
            except ConnectionClosed as closed:
                if closed.sent is not None and closed.sent.code == 1009:  # RFC 6455 section 7.4.1
                    raise Nonsense(f"{self.name} sent a frame of more than {MOST_FRAME_BYTES} bytes.") from None
                if closed.sent is not None and closed.sent.code == 1011 and closed.rcvd is None:  # ours: no pong came
                    raise Unreachable(f"{self.name} has fallen silent.") from None
                raise Unreachable(f"{self.name} was closed by the camera.") from None
            if not isinstance(found, Reply):
                yield found
            await self._pay()

    async def close(self) -> None:
        """Close the connection; a camera that does not answer to that is left after a second."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
