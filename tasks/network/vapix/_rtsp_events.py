"""Events over RTSP, the way every camera knows: metadata in RTP packets, inside the RTSP connection itself (interleaved TCP).

Three layers, each without the one above: `Splitter` cuts the connection's bytes into answers and packets (RFC 2326, sections 7 and 10.12),
`Assembler` puts RTP packets together to documents (RFC 3550), `notifications` reads a document's events (ONVIF's MetadataStream).
`RtspEvents` is the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin
from xml.etree.ElementTree import Element

from tasks.core.errors import Busy, Forbidden, NotFound, ToolError, Unauthorized, Unreachable, Unsupported
from tasks.core.transport import explain_connection
from tasks.network.probe._connection import OPENING_PACKETS, SEGMENT_BYTES
from tasks.network.vapix._auth import parse_challenges
from tasks.network.vapix._camera import Place
from tasks.network.vapix._events import (
    EVERYTHING,
    CameraEvent,
    Change,
    clean,
    clean_items,
    content_filter,
    rtsp_topic,
    told_event,
)
from tasks.network.vapix._wire import Declined, Nonsense
from tasks.network.vapix._xml import anywhere, children, local, parse_xml

RTSP_PORT = 554
MOST_HEAD_BYTES = 16 << 10
MOST_BODY_BYTES = 256 << 10
MOST_DOCUMENT_BYTES = 1 << 20
PATH = "/axis-media/media.amp"
METADATA = "vnd.onvif.metadata"
PORT_HINT = "Is RTSP on, and on this port (rtsp_port)?"
ALIVE_SECONDS = 15.0
"""Longest time between two signs of life of ours: they keep the session, and show whether the camera is still there."""

_CHANGES = {"initialized": Change.INITIAL, "changed": Change.CHANGED, "deleted": Change.DELETED}


class Garbled(ValueError):
    """What came is not RTSP: the connection cannot be understood any further."""


# --- the connection's bytes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RtspAnswer:
    """An answer to a request of ours.

    Attributes:
        status: RTSP status.
        reason: What the camera calls it.
        headers: Names in lower case; of repeated ones all values.
        body: Its body.
    """

    status: int
    reason: str
    headers: Mapping[str, list[str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The first value of a header; empty when there is none."""
        return self.headers.get(name, [""])[0]


@dataclass(frozen=True)
class Packet:
    """A packet of an interleaved channel."""

    channel: int
    payload: bytes


class Splitter:
    """Cuts what comes over an RTSP connection into answers, packets and requests of the camera's own (which are passed over)."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[RtspAnswer | Packet]:
        """Take bytes, return what is complete.

        Raises:
            Garbled: They are not RTSP.
        """
        self._rest += data
        found: list[RtspAnswer | Packet] = []
        while self._rest:
            taken = self._packet() if self._rest[0] == 0x24 else self._answer()
            if taken is None:
                break
            found += taken
        return found

    def _packet(self) -> list[RtspAnswer | Packet] | None:
        if len(self._rest) < 4:
            return None
        size = int.from_bytes(self._rest[2:4], "big")
        if len(self._rest) < 4 + size:
            return None
        packet = Packet(self._rest[1], bytes(self._rest[4 : 4 + size]))
        del self._rest[: 4 + size]
        return [packet]

    def _answer(self) -> list[RtspAnswer | Packet] | None:
        # Some devices put empty lines between messages.
        blank = len(self._rest) - len(self._rest.lstrip(b"\r\n"))
        if blank:
            del self._rest[:blank]
            return []
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > MOST_HEAD_BYTES or not _may_begin(bytes(self._rest[:16])):
                raise Garbled("what came is no RTSP answer")
            return None
        if end > MOST_HEAD_BYTES:
            raise Garbled(f"an answer's header is longer than {MOST_HEAD_BYTES} bytes")
        first, *lines = bytes(self._rest[:end]).decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                headers.setdefault(name.strip().lower(), []).append(value.strip())
        length = headers.get("content-length", ["0"])[0]
        if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > MOST_BODY_BYTES:
            raise Garbled(f"an answer says it has a body of {clean(length, 20)} bytes")
        size = int(length)
        if len(self._rest) < end + 4 + size:
            return None
        body = bytes(self._rest[end + 4 : end + 4 + size])
        del self._rest[: end + 4 + size]
        match = re.match(r"RTSP/1\.[01] (\d{3})(?: (.*))?\Z", first)
        if match is None:
            if re.match(r"[A-Z_]+ \S+ RTSP/1\.[01]\Z", first):
                return []  # the camera asks us something (some send OPTIONS or SET_PARAMETER); nothing depends on an answer
            raise Garbled("what came is no RTSP answer")
        return [RtspAnswer(int(match[1]), clean(match[2] or "", 100), headers, body)]


def _may_begin(start: bytes) -> bool:
    return b"RTSP/1.".startswith(start[:7]) or re.match(rb"[A-Z_]+( |\Z)", start) is not None


# --- RTP -------------------------------------------------------------------------------------------------------------


@dataclass
class Assembler:
    """Puts RTP packets together: a document may span several, and the last of them carries the marker.

    Attributes:
        lost: Packets that are missing by their numbers, or were not understood.
    """

    lost: int = 0
    _next: int | None = None
    _parts: list[bytes] = field(default_factory=list)
    _size: int = 0
    _broken: bool = False

    def feed(self, packet: bytes) -> bytes | None:
        """Take a packet; return a document when it is complete."""
        payload = _payload(packet)
        if payload is None:
            self.lost += 1
            return None
        number = int.from_bytes(packet[2:4], "big")
        if self._next is not None and number != self._next:
            gap = (number - self._next) % 65536
            self.lost += gap if gap < 32768 else 1
            # What began before the gap has no end, and what follows it may have no beginning.
            self._broken = True
        self._next = (number + 1) % 65536
        if self._broken and _begins(payload):
            self._parts, self._size, self._broken = [], 0, False
        self._size += len(payload)
        if self._size > MOST_DOCUMENT_BYTES:
            self._parts, self._broken = [], True
        if not self._broken:
            self._parts.append(payload)
        if not packet[1] & 0x80:
            return None
        document = None if self._broken else b"".join(self._parts)
        self._parts, self._size, self._broken = [], 0, False
        return document


def _begins(payload: bytes) -> bool:
    return payload.lstrip()[:1] == b"<" and re.match(rb"\s*<(\?xml|[\w.-]*:?MetadataStream)", payload[:200]) is not None


def _payload(packet: bytes) -> bytes | None:
    if len(packet) < 12 or packet[0] >> 6 != 2:
        return None
    start = 12 + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        if len(packet) < start + 4:
            return None
        start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
    end = len(packet)
    if packet[0] & 0x20:
        end -= packet[-1]
    return packet[start:end] if start <= end else None


# --- documents -------------------------------------------------------------------------------------------------------


def notifications(document: bytes) -> list[CameraEvent]:
    """Read the events of a MetadataStream; one without events has none.

    Raises:
        ValueError: It is no such document.
    """
    if len(document) > MOST_DOCUMENT_BYTES:
        raise ValueError("the document is too large")
    try:
        root = parse_xml(document)
    except Nonsense as problem:
        raise ValueError(problem.message) from None
    if local(root) != "MetadataStream":
        raise ValueError(f"the document is no MetadataStream but {clean(local(root), 40)}")
    now = datetime.now(UTC)
    # Only where they belong: one inside the other, each would be searched again for all that is in it.
    nodes = (node for part in children(root, "Event") for node in children(part, "NotificationMessage"))
    return [event for node in nodes if (event := _event(node, now))]


def _event(node: Element, now: datetime) -> CameraEvent | None:
    topic = next((child for child in node if local(child) == "Topic"), None)
    message = next((inner for inner in anywhere(node, "Message") if inner.get("UtcTime") is not None), None)
    if topic is None or not (topic.text or "").strip() or message is None:
        return None
    sides = {
        local(side): clean_items((item.get("Name", ""), item.get("Value", "")) for item in anywhere(side, "SimpleItem"))
        for side in message
    }
    return told_event(
        topic.text or "",
        at=_time(message.get("UtcTime", "")),
        received_at=now,
        change=_CHANGES.get(message.get("PropertyOperation", "").lower()),
        source=sides.get("Source", {}),
        key=sides.get("Key", {}),
        data=sides.get("Data", {}),
    )


def _time(text: str) -> datetime | None:
    # 3.11's fromisoformat takes Z and any number of digits; a time without a zone is UTC by the attribute's name.
    try:
        found = datetime.fromisoformat(text.strip()[:40])
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- the session -----------------------------------------------------------------------------------------------------


def events_url(host: str, port: int, topics: Sequence[str], items: Mapping[str, str]) -> str:
    """The URL of a camera's event stream, without credentials.

    >>> events_url("192.0.2.7", 554, ["tns1:Device/tnsaxis:IO/Port"], {})
    'rtsp://192.0.2.7:554/axis-media/media.amp?video=0&audio=0&event=on&eventtopic=onvif:Device/axis:IO/Port'
    """
    place = f"[{host}]" if ":" in host else host
    url = f"rtsp://{place}:{port}{PATH}?video=0&audio=0&event=on"
    if EVERYTHING not in topics:
        url += "&eventtopic=" + quote(",".join(map(rtsp_topic, topics)), safe="/:,.")
    if items:
        url += "&eventcontent=" + quote(content_filter(items), safe="")
    return url


def control_url(base: str, sdp: bytes) -> str | None:
    """Where the metadata stream of a description is set up; None when it describes none."""
    inside, kind, control = False, False, None
    for line in sdp.decode("utf-8", "replace").splitlines():
        if line.startswith("m="):
            if inside and kind:
                break
            inside, kind, control = line.startswith("m=application"), False, None
        elif inside and line.startswith("a=rtpmap:") and METADATA in line.lower():
            kind = True
        elif inside and line.startswith("a=control:"):
            control = line.removeprefix("a=control:").strip()
    if not (inside and kind) or not control or not control.isascii() or not control.isprintable() or " " in control:
        return None
    if control.lower().startswith("rtsp://"):
        return control
    # urljoin knows the rtsp scheme as one with relative paths.
    return urljoin(base if base.endswith("/") else f"{base}/", control)


@dataclass
class RtspEvents:
    """A stream of events over one RTSP connection: `open()`, then iterate `documents()`, then `close()`.

    Attributes:
        place: Where it is, and who we are there. Over a connection that is not encrypted the password is not sent, only its digest.
        timeout: Seconds for the connection and for each answer.
        most_bytes: After so many the documents end, whether there were any or not.
        bytes_received: What came.
    """

    place: Place
    timeout: float = 15.0
    most_bytes: int = 1 << 40
    bytes_received: int = 0
    assembler: Assembler = field(default_factory=Assembler)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None
    _splitter: Splitter = field(default_factory=Splitter)
    _waiting: deque[RtspAnswer | Packet] = field(default_factory=deque)
    _channel: int = 0
    _sequence: int = 0
    _session: str = ""
    _alive_every: float = ALIVE_SECONDS
    _silent_since: float | None = None
    _url: str = ""

    @property
    def name(self) -> str:
        """How errors call it."""
        return self.place.name

    async def open(self, topics: Sequence[str], items: Mapping[str, str]) -> None:
        """Connect, log in and begin to play.

        Raises:
            Unreachable: There is no RTSP server, or it does not answer.
            Unauthorized: It does not take the account.
            Unsupported: It has no event stream.
            Declined: It refuses for another reason.
            Nonsense: What came is not RTSP.
        """
        self._url = events_url(self.place.address, self.place.port, topics, items)
        await self._connect()
        described = await self._ask("DESCRIBE", self._url, {"Accept": "application/sdp"})
        control = control_url(described.header("content-base") or self._url, described.body)
        if control is None:
            raise Unsupported(
                f"{self.name} describes no stream of events.", hint="Its firmware may be too old for them."
            )
        setup = await self._ask("SETUP", control, {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1"})
        if "interleaved" not in setup.header("transport").lower():
            raise Unsupported(f"{self.name} does not send events inside the RTSP connection.")
        channel = re.search(r"interleaved=(\d{1,3})", setup.header("transport"), re.IGNORECASE)
        self._channel = int(channel[1]) if channel else 0
        session, _, options = setup.header("session").partition(";")
        if not re.fullmatch(r"[\x21-\x7e]{1,128}", session.strip()):
            raise Nonsense(f"{self.name} opened no session that we could use.")
        self._session = session.strip()
        seconds = re.search(r"timeout\s*=\s*(\d{1,6})", options)
        self._alive_every = max(0.5, min(ALIVE_SECONDS, (int(seconds[1]) if seconds else 60) / 2))
        await self._ask("PLAY", self._url, {"Range": "npt=0.000-"})

    async def _connect(self) -> None:
        place = self.place
        await place.pay(OPENING_PACKETS)
        tls: dict[str, Any] = {"ssl": place.tls, "server_hostname": place.host} if place.tls is not None else {}
        try:
            async with asyncio.timeout(min(self.timeout, 10.0)):
                self._reader, self._writer = await asyncio.open_connection(place.address, place.port, **tls)
        except TimeoutError:
            raise Unreachable(f"{self.name} does not answer.", hint=PORT_HINT) from None
        except OSError as error:
            known = explain_connection(error, self.name, place.host)
            known = known or Unreachable(f"{self.name} takes no connection.")
            if isinstance(known, Unreachable):
                known.hint = known.hint or PORT_HINT
            raise known from None
        certificate = self._writer.get_extra_info("ssl_object")
        if certificate is not None:
            place.check_certificate(certificate.getpeercert(binary_form=True) or b"")

    async def documents(self) -> AsyncGenerator[bytes, None]:
        """Whole documents as they come, until too much came or the caller stops; keeps the session alive meanwhile.

        Raises:
            Unreachable: The connection broke.
            Nonsense: What came is not RTSP.
        """
        alive_at = time.monotonic() + self._alive_every
        while True:
            while self._waiting:
                item = self._waiting.popleft()
                if isinstance(item, Packet):
                    document = self.assembler.feed(item.payload) if item.channel == self._channel else None
                    if document is not None:
                        yield document
                elif item.status == 454:
                    raise Unreachable(f"{self.name} ended the session.")
            if self.bytes_received > self.most_bytes:
                return
            now = time.monotonic()
            if self._silent_since is not None and now - self._silent_since > self.timeout:
                raise Unreachable(f"{self.name} has fallen silent.")
            if now >= alive_at:
                await self._send("OPTIONS", self._url, {}, self.place.login.authorization("OPTIONS", self._url))
                alive_at = now + self._alive_every
                self._silent_since = now if self._silent_since is None else self._silent_since
            with contextlib.suppress(TimeoutError):
                # Looked at again soon enough to notice a silence as long as our patience.
                async with asyncio.timeout(min(alive_at - now, self.timeout)):
                    await self._receive()

    async def close(self) -> None:
        """Tell the camera that we leave, and leave; never waits for it."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with contextlib.suppress(OSError, RuntimeError):
            if self._session:
                writer.write(
                    self._request("TEARDOWN", self._url, {}, self.place.login.authorization("TEARDOWN", self._url))
                )
            writer.close()
            async with asyncio.timeout(1.0):
                await writer.wait_closed()

    # --- one request after the other ---

    async def _ask(self, method: str, uri: str, headers: Mapping[str, str]) -> RtspAnswer:
        tried = 0
        while True:
            authorization = self.place.login.authorization(method, uri)
            await self._send(method, uri, headers, authorization)
            answer = await self._answer()
            if answer.status != 401:
                break
            tried += authorization is not None
            offers = answer.headers.get("www-authenticate", [])
            offered = {challenge.scheme for challenge in parse_challenges(offers)}
            if offered == {"basic"} and self.place.tls is None:
                raise Unauthorized(
                    f"{self.name} takes passwords in clear text only, and its connection is not encrypted.",
                    hint="Set the camera's authentication policy to digest or recommended.",
                )
            self.place.login.challenged(offers, tried=tried)  # raises when there is nothing more to try
        if authorization is not None:
            self.place.login.accepted()
        if answer.status != 200:
            raise self._refusal(method, answer)
        return answer

    def _refusal(self, method: str, answer: RtspAnswer) -> ToolError:
        said = f"{self.name} answered {method} with {answer.status} {answer.reason}".strip()
        if answer.status == 404:
            return NotFound(f"{said}: it has no such stream.")
        if answer.status == 403:
            return Forbidden(f"{said}: the account may not see it.", hint="It needs the level viewer at least.")
        if answer.status in (453, 503):
            return Busy(f"{said}: it has no room for another stream.", hint="Try again later.")
        if answer.status == 461:
            return Unsupported(f"{said}: it does not send events inside the RTSP connection.")
        if answer.status == 400:
            return Declined(f"{said}: it does not understand the topics or the items.", code=400)
        return Declined(f"{said}.", code=answer.status)

    def _request(self, method: str, uri: str, headers: Mapping[str, str], authorization: str | None) -> bytes:
        self._sequence += 1
        lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {self._sequence}", "User-Agent: signalbox"]
        if authorization is not None:
            lines.append(f"Authorization: {authorization}")
        if self._session:
            lines.append(f"Session: {self._session}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("utf-8")

    async def _send(self, method: str, uri: str, headers: Mapping[str, str], authorization: str | None) -> None:
        if self._writer is None:
            raise Unreachable(f"{self.name} is not connected.")
        await self.place.pay(2)
        try:
            self._writer.write(self._request(method, uri, headers, authorization))
            async with asyncio.timeout(self.timeout):
                await self._writer.drain()
        except (OSError, RuntimeError):  # TimeoutError is an OSError
            raise Unreachable(f"{self.name} broke the connection.") from None

    async def _answer(self) -> RtspAnswer:
        """The answer to the request just sent; packets that come before it wait."""
        packets: list[RtspAnswer | Packet] = []
        try:
            async with asyncio.timeout(self.timeout):
                while True:
                    while self._waiting:
                        item = self._waiting.popleft()
                        if isinstance(item, Packet):
                            packets.append(item)
                            continue
                        number = item.header("cseq")
                        if number and number != str(self._sequence):
                            continue
                        self._waiting.extendleft(reversed(packets))
                        return item
                    if len(packets) > 1000:
                        raise Nonsense(f"{self.name} sends packets in place of an answer.")
                    await self._receive()
        except TimeoutError:
            raise Unreachable(f"{self.name} did not answer within {self.timeout:g} s.") from None

    async def _receive(self) -> None:
        assert self._reader is not None
        try:
            data = await self._reader.read(64 << 10)
        except TimeoutError:
            raise
        except OSError:
            data = b""
        if not data:
            raise Unreachable(f"{self.name} broke the connection.")
        self.bytes_received += len(data)
        self._silent_since = None
        try:
            self._waiting += self._splitter.feed(data)
        except Garbled as error:
            raise Nonsense(f"{self.name} does not speak RTSP: {error}.") from None
        # We confirm what comes: about a packet for each two of theirs. Last, as a deadline may end the wait.
        await self.place.pay(-(-len(data) // (2 * SEGMENT_BYTES)))
