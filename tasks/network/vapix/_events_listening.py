"""Listening to one camera's events for a while: the transport it has, what came, and what went wrong meanwhile.

The WebSocket is asked first where the camera has one, RTSP where it has not or where the WebSocket fails. A connection that breaks is made
anew while there is time, after a growing pause; what came before stays, and every break is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.core.errors import Busy, NotFound, ToolError, Unreachable, Unsupported, Untrusted
from tasks.network.vapix._camera import Camera, apart
from tasks.network.vapix._events import CameraEvent, Sieve, least
from tasks.network.vapix._rtsp_events import RtspEvents, notifications
from tasks.network.vapix._websocket import WebSocketEvents
from tasks.network.vapix._wire import Nonsense

WEBSOCKET_ID = "event-streaming-over-websocket"
WSSESSION = "/axis-cgi/wssession.cgi"
MOST_STREAM_BYTES = 16 << 20
"""Most bytes that are read from one camera: what it floods us with beyond is left there."""
PAUSES_SECONDS = (1.0, 2.0, 5.0, 10.0, 10.0)
"""Before each further connection; after the last one that breaks we stop."""
MOST_UNREAD = 100
"""Frames or documents that cannot be read, after which we stop: it is not the stream we think it is."""


class Transport(StrEnum):
    """How events come."""

    AUTO = "auto"
    WEBSOCKET = "websocket"
    RTSP = "rtsp"


class Ended(StrEnum):
    """Why listening ended."""

    TIME = "time"
    COUNT = "count"
    BROKEN = "broken"
    BYTES = "bytes"


@dataclass(frozen=True)
class Wish:
    """What to listen for.

    Attributes:
        topics: Topic filters, in our spelling.
        items: Items an event must have.
        seconds: How long to listen.
        most: Events after which to stop.
        transport: How.
        rtsp_port: TCP port of RTSP.
        timeout: Seconds for each answer while connecting.
    """

    topics: Sequence[str]
    items: Mapping[str, str]
    seconds: float
    most: int
    transport: Transport
    rtsp_port: int
    timeout: float


@dataclass
class Heard:
    """What came, as it comes, so that a deadline loses none.

    Attributes:
        transport: How events come; None before that is known.
        events: What was asked for, each once.
        sieve: Counts what was not, and second deliveries.
        unread: Frames or documents that could not be read.
        lost: Packets that are missing by their numbers.
        bytes_received: Bytes that came.
        breaks: When the connection broke, and why, in words.
        seconds: How long it listened.
        ended: Why it ended.
    """

    sieve: Sieve
    transport: Transport | None = None
    events: list[CameraEvent] = field(default_factory=list)
    unread: int = 0
    lost: int = 0
    bytes_received: int = 0
    breaks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: Ended = Ended.TIME


async def listen(camera: Camera, wish: Wish) -> Heard:
    """Listen to a camera until the time is over, enough came, or the connection is beyond repair.

    Raises:
        ToolError: It did not come to listening at all.
    """
    topics = least(wish.topics)
    heard = Heard(Sieve(topics, wish.items))
    stream = await _first_stream(camera, wish, topics, heard)
    began = time.monotonic()
    until = began + wish.seconds
    failures = 0
    try:
        while True:
            before = len(heard.events)
            try:
                heard.ended = await _hear(stream, wish, heard, until)
                break
            except (Unreachable, Nonsense) as problem:
                heard.breaks.append(f"after {time.monotonic() - began:.1f} s: {problem.message}")
            finally:
                await stream.close()
                heard.bytes_received += stream.bytes_received
                heard.lost += stream.lost
            failures = 0 if len(heard.events) > before else failures
            further, failures = await _further_stream(camera, wish, topics, heard, until, failures)
            if further is None:
                heard.ended = Ended.BROKEN
                break
            stream = further
    finally:
        heard.seconds = round(time.monotonic() - began, 3)
    return heard


async def _first_stream(camera: Camera, wish: Wish, topics: Sequence[str], heard: Heard) -> _Stream:
    failed: ToolError | None = None
    if wish.transport is Transport.WEBSOCKET or (
        wish.transport is Transport.AUTO and (await camera.capabilities()).has(WEBSOCKET_ID)
    ):
        try:
            if not (await camera.capabilities()).has(WEBSOCKET_ID):
                raise Unsupported(f"{camera.asked} has no events over WebSocket.", hint="Try transport = rtsp.")
            return await _open(camera, wish, topics, heard, Transport.WEBSOCKET)
        except (Unsupported, NotFound, Unreachable, Busy, Nonsense) as problem:
            if wish.transport is Transport.WEBSOCKET or isinstance(problem, Untrusted):
                raise
            failed = problem
    try:
        stream = await _open(camera, wish, topics, heard, Transport.RTSP)
    except ToolError as problem:
        if failed is not None:
            problem.message = f"{problem.message} Before that: {failed.message}"
        raise
    if failed is not None:
        camera.notes.append(f"The events came over RTSP, because: {failed.message}")
    if camera.secure:
        camera.notes.append("The events came over a connection that is not encrypted (RTSP).")
    return stream


async def _further_stream(
    camera: Camera, wish: Wish, topics: Sequence[str], heard: Heard, until: float, failures: int
) -> tuple[_Stream | None, int]:
    """Connect once more, and again, while there is time; None when there is not, or when the camera will not have it."""
    assert heard.transport is not None
    while failures < len(PAUSES_SECONDS):
        pause = PAUSES_SECONDS[failures]
        failures += 1
        if time.monotonic() + pause >= until:
            break
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                return await _open(camera, wish, topics, heard, heard.transport), failures
        except (Unreachable, Busy, Nonsense) as problem:
            if isinstance(problem, Untrusted):
                heard.breaks.append(problem.message)
                break
        except ToolError as problem:
            heard.breaks.append(problem.message)
            break
        except TimeoutError:
            break
    return None, failures


async def _open(
    camera: Camera, wish: Wish, topics: Sequence[str], heard: Heard, transport: Transport
) -> _WebSocketStream | _RtspStream:
    stream: _WebSocketStream | _RtspStream
    most_bytes = MOST_STREAM_BYTES - heard.bytes_received
    if transport is Transport.WEBSOCKET:
        token = (await camera.text(WSSESSION)).strip()
        stream = _WebSocketStream(WebSocketEvents(camera.websocket_place(), wish.timeout, most_bytes))
        opening = stream.inner.open(token, topics, wish.items)
    else:
        # The password is proven over HTTP, where the camera tells a wrong one from a level that is too low.
        await camera.level()
        stream = _RtspStream(RtspEvents(camera.rtsp_place(wish.rtsp_port), wish.timeout, most_bytes))
        opening = stream.inner.open(topics, wish.items)
    try:
        await opening
    except BaseException:
        await stream.close()
        raise
    await camera.let_go()
    heard.transport = transport
    return stream


async def _hear(stream: _Stream, wish: Wish, heard: Heard, until: float) -> Ended:
    """Take what comes until there is enough or the time is over."""
    before = heard.bytes_received
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
            async with contextlib.aclosing(stream.events()) as events:
                async for event in events:
                    if event is None:
                        heard.unread += 1
                        if heard.unread >= MOST_UNREAD:
                            raise Nonsense("What comes cannot be read.")
                    elif heard.sieve.takes(event):
                        heard.events.append(event)
                        if len(heard.events) >= wish.most:
                            return Ended.COUNT
                    if before + stream.bytes_received > MOST_STREAM_BYTES:
                        return Ended.BYTES
            return Ended.BYTES  # it ends by itself only when too much came, be it nothing that we asked for
    return Ended.TIME


class _WebSocketStream:
    """Events of a WebSocket."""

    lost = 0

    def __init__(self, inner: WebSocketEvents) -> None:
        self.inner = inner

    @property
    def bytes_received(self) -> int:
        return self.inner.bytes_received

    async def events(self) -> AsyncGenerator[CameraEvent | None, None]:
        """Events as they come; None for what cannot be read."""
        async with contextlib.aclosing(self.inner.frames()) as frames:
            async for frame in frames:
                yield frame

    async def close(self) -> None:
        await self.inner.close()


class _RtspStream:
    """Events of an RTSP session."""

    def __init__(self, inner: RtspEvents) -> None:
        self.inner = inner

    @property
    def bytes_received(self) -> int:
        return self.inner.bytes_received

    @property
    def lost(self) -> int:
        return self.inner.assembler.lost

    async def events(self) -> AsyncGenerator[CameraEvent | None, None]:
        """Events as they come; None for what cannot be read."""
        async with contextlib.aclosing(self.inner.documents()) as documents:
            async for document in documents:
                try:
                    found = await apart(notifications, document)
                except ValueError:
                    yield None
                    continue
                for event in found:
                    yield event

    async def close(self) -> None:
        await self.inner.close()


_Stream = _WebSocketStream | _RtspStream
