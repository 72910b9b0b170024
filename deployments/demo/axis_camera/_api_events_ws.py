"""Events over a WebSocket (`/vapix/ws-data-stream`), and the one-time tokens that let clients in without digest (`wssession.cgi`)."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.server import ServerProtocol

from deployments.demo.axis_camera._device import Device, Event
from deployments.demo.axis_camera._event_filters import FilterProblem, as_items, content_test, topic_test
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._server import Upgraded, api, upgrade

ID = "event-streaming-over-websocket"
PATH = "/vapix/ws-data-stream"
MOST_REQUEST = 64 << 10
MOST_UNSENT = 8 << 20
"""A client that does not read is dropped when so much waits for it."""
MESSAGES = {
    1100: "Internal error",
    2100: "The requested API version is not supported",
    2101: "Invalid JSON",
    2102: "The requested method is not supported",
    2103: "Required parameter missing",
    2104: "Invalid parameter value specified",
    2105: "Authorization failed",
    2106: "Authentication failed",
    2107: "The request is too large",
}

Wanted = Callable[[Event], bool]
# The library writes every frame to its log, and the request with its token.
_quiet = logging.getLogger("signalbox.demo.camera.websocket")
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL)


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class EventSockets:
    """The event sessions of a device; `device.slot(EventSockets)`.

    Attributes:
        token_seconds: How long a token is good.
        single_use: A token ends with its use. Nobody has recorded whether real devices do so.
        initial: Current states are sent after a filter is set. Nobody has recorded this either.
        stamped: Events carry their time; it is optional.
        deaf: Nothing that clients send is heard any more, pings included: the connection is there, and nobody behind it.
        refuse: Answer each `events:configure` with this error.
        chatter: Frames that nobody asked for, sent before `events:configure` is answered.
        open: Sessions that are open now.
    """

    def __init__(self, device: Device) -> None:
        self.token_seconds = 15.0
        self.single_use = True
        self.initial = True
        self.stamped = True
        self.deaf = False
        self.refuse: int | None = None
        self.chatter: list[str] = []
        self.open: list[Session] = []
        self._tokens: dict[str, float] = {}
        device.on_reboot(self._tokens.clear)

    def new_token(self) -> str:
        """A token for one session."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + self.token_seconds
        return token

    def admits(self, token: str) -> bool:
        """Whether a token lets in."""
        until = self._tokens.pop(token, 0.0) if self.single_use else self._tokens.get(token, 0.0)
        return until > time.monotonic()

    def send(self, text: str | bytes) -> None:
        """Send a frame to everybody as it is, whatever it is."""
        for session in list(self.open):
            session.send(text)

    def close(self) -> None:
        """Close all sessions without a word."""
        for session in list(self.open):
            session.abort()


@api("/axis-cgi/wssession.cgi", methods=("GET",), needs=ID)
async def wssession(device: Device, request: Request) -> Response:
    """Hand out a token."""
    return Response.text(device.slot(EventSockets).new_token())


@upgrade(PATH, level="anonymous", needs=ID)
async def data_stream(device: Device, request: Request, connection: Upgraded) -> None:
    """Take over a connection: by token, or by the credentials of the handshake."""
    sockets = device.slot(EventSockets)
    if not sockets.admits(request.query.get("wssession", "")):
        request.needs("viewer")
    if request.query.get("sources") != "events":
        connection.writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await connection.writer.drain()
        return
    session = Session(device, sockets, connection)
    try:
        await session.run(request.head)
    finally:
        session.end()


class Session:
    """One client."""

    def __init__(self, device: Device, sockets: EventSockets, connection: Upgraded) -> None:
        self.device, self.sockets, self.connection = device, sockets, connection
        self.protocol = ServerProtocol(max_size=1 << 20, logger=_quiet)
        self.filters: list[Wanted] = []
        self._unsubscribe: Callable[[], object] | None = None
        self._parts: list[bytes] = []

    async def run(self, head: bytes) -> None:
        """Answer the handshake and then the client, until one of both leaves."""
        self.protocol.receive_data(head)
        handshake = next((event for event in self.protocol.events_received() if isinstance(event, Handshake)), None)
        if handshake is None:
            return
        self.protocol.send_response(self.protocol.accept(handshake))
        self._flush()
        self.sockets.open.append(self)
        data = self.connection.leftovers
        while True:
            if data and not self.sockets.deaf:
                self.protocol.receive_data(data)
                for event in self.protocol.events_received():
                    if isinstance(event, Frame):
                        self._frame(event)
            self._flush()
            if self.protocol.close_expected() and self.protocol.state.name != "OPEN":
                return
            data = await self.connection.reader.read(65536)
            if not data:
                self.protocol.receive_eof()
                return

    def end(self) -> None:
        """Forget the session."""
        if self in self.sockets.open:
            self.sockets.open.remove(self)
        if self._unsubscribe is not None:
            self._unsubscribe()

    def abort(self) -> None:
        """Cut the connection."""
        self.connection.writer.transport.abort()

    def send(self, text: str | bytes) -> None:
        """Send a frame; a client that does not read is dropped."""
        if self.protocol.state.name != "OPEN":
            return
        with contextlib.suppress(ProtocolError):
            if isinstance(text, bytes):
                self.protocol.send_binary(text)
            else:
                self.protocol.send_text(text.encode("utf-8", "replace"))
        self._flush()
        if self.connection.writer.transport.get_write_buffer_size() > MOST_UNSENT:
            self.abort()

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.connection.writer.write(data)
            else:
                self.connection.writer.close()

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self.protocol.fail(1003, "text frames only")
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.CONT):
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            message, self._parts = b"".join(self._parts), []
            self._message(message)

    # --- requests ---

    def _message(self, message: bytes) -> None:
        asked: Mapping[str, Any] = {}
        try:
            if len(message) > MOST_REQUEST:
                raise _Refused(2107)
            try:
                found = json.loads(message)
            except (ValueError, RecursionError):
                raise _Refused(2101) from None
            if not isinstance(found, dict):
                raise _Refused(2101)
            asked = found
            filters = self._configuration(asked)
        except _Refused as refused:
            self._reply(asked, error={"code": refused.code, "message": MESSAGES.get(refused.code, "Error")})
            return
        self.filters = filters
        for frame in self.sockets.chatter:
            self.send(frame)
        self._reply(asked, data={})
        if self._unsubscribe is None:
            self._unsubscribe = self.device.subscribe(self._tell)
        if self.sockets.initial:
            for event in self.device.current_events():
                self._tell(event)

    def _reply(self, asked: Mapping[str, Any], **what: Any) -> None:
        reply = {"apiVersion": "1.0", **({"context": asked["context"]} if "context" in asked else {})}
        if isinstance(asked.get("method"), str):
            reply["method"] = asked["method"]
        self.send(json.dumps({**reply, **what}))

    def _configuration(self, asked: Mapping[str, Any]) -> list[Wanted]:
        version = asked.get("apiVersion")
        if not isinstance(version, str) or version.partition(".")[0] != "1":
            raise _Refused(2100)
        if asked.get("method") != "events:configure":
            raise _Refused(2102)
        if self.sockets.refuse is not None:
            raise _Refused(self.sockets.refuse)
        params = asked.get("params")
        if not isinstance(params, dict) or "eventFilterList" not in params:
            raise _Refused(2103)
        listed = params["eventFilterList"]
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise _Refused(2104)
        return [_filter(each) for each in listed]

    def _tell(self, event: Event) -> None:
        # One delivery for each filter that fits: a client with overlapping filters gets an event twice.
        for wanted in self.filters:
            if wanted(event):
                self.send(json.dumps(_notification(event, self.sockets.stamped)))


def _filter(given: Mapping[str, Any]) -> Wanted:
    topic, content = given.get("topicFilter"), given.get("contentFilter", "")
    if topic is None:
        raise _Refused(2103)
    if not isinstance(topic, str) or not isinstance(content, str):
        raise _Refused(2104)
    try:
        is_meant, holds = topic_test(topic), content_test(content)
    except FilterProblem:
        raise _Refused(2104) from None
    return lambda event: is_meant(event.topic) and holds(as_items(event.source.items(), event.data.items()))


def _notification(event: Event, stamped: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"timestamp": int(event.at.timestamp() * 1000)} if stamped else {}
    message = {"source": dict(event.source), "key": {}, "data": dict(event.data)}
    return {
        "apiVersion": "1.0",
        "method": "events:notify",
        "params": {"notification": {**told, "topic": event.topic, "message": message}},
    }
