"""The camera's RTSP server: descriptions of its streams, and its events as RTP packets, over UDP or inside the RTSP connection.

Real devices listen on 554. Video can be described and set up, so that who checks that a stream answers gets an answer; no pictures flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import format_datetime
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape, quoteattr

from deployments.demo.axis_camera._device import Device, Event, Logged
from deployments.demo.axis_camera._event_filters import FilterProblem, Test, as_items, content_test, rtsp_topics
from deployments.demo.axis_camera._faults import Fault
from deployments.demo.axis_camera._server import rtsp

PATH = "/axis-media/media.amp"
PAYLOAD_TYPE = 98
CLOCK = 90_000
MOST_HEAD = 16 << 10
METHODS = "OPTIONS, DESCRIBE, ANNOUNCE, GET_PARAMETER, PAUSE, PLAY, RECORD, SETUP, SET_PARAMETER, TEARDOWN"
PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "RTSP Version Not Supported",
}


@dataclass
class Rtsp:
    """How a camera's RTSP server behaves; `device.slot(Rtsp)`.

    Attributes:
        device: The camera.
        session_seconds: A session ends when nothing is heard for so long.
        fragment: Most bytes of a document in one packet; None for whole documents.
        together: Put all initial events into one document.
        empty_first: Begin with a MetadataStream without events, as real devices may.
        lose_every: Leave out every n-th packet; 0 for none.
        deaf: Requests are not answered any more, and nothing is sent.
        most_sessions: Streams at once; more are answered by 453.
        open: Sessions that play now.
    """

    device: Device
    session_seconds: float = 60.0
    fragment: int | None = None
    together: bool = False
    empty_first: bool = True
    lose_every: int = 0
    deaf: bool = False
    most_sessions: int = 20
    open: list[Session] = field(default_factory=list)


@dataclass
class Asked:
    """A request."""

    method: str
    url: str
    version: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))


@rtsp
def protocol(device: Device) -> asyncio.BaseProtocol:
    """The protocol of one connection to the camera's RTSP port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(device, reader, writer).run()

    return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=MOST_HEAD), connected)


class Session:
    """One stream of events to one client."""

    def __init__(
        self, rtsp: Rtsp, query: Mapping[str, str], send: Callable[[bytes], None], stop: Callable[[], None]
    ) -> None:
        self.rtsp = rtsp
        self.id = secrets.token_hex(8).upper()
        self.ssrc = secrets.randbits(32)
        self.topics, self.content = _filters(query)
        self._send, self._stop = send, stop
        self._unsubscribe: Callable[[], object] | None = None
        self._number = secrets.randbits(16)
        self._packets = 0

    @property
    def first_number(self) -> int:
        """Sequence number of the next packet."""
        return self._number

    def wants(self, event: Event) -> bool:
        """Whether an event passes the stream's filters."""
        if self.topics and not any(is_meant(event.topic) for is_meant in self.topics):
            return False
        return self.content(as_items(event.source.items(), event.data.items()))

    def play(self) -> None:
        """Begin: first the current states, then what happens."""
        if self._unsubscribe is not None:
            return
        if self.rtsp.empty_first:
            self.document("")
        states = [event for event in self.rtsp.device.current_events() if self.wants(event)]
        if self.rtsp.together:
            self.document("".join(map(self.notification, states)))
        else:
            for event in states:
                self.document(self.notification(event))
        self._unsubscribe = self.rtsp.device.subscribe(self._tell)
        self.rtsp.open.append(self)

    def _tell(self, event: Event) -> None:
        if self.wants(event):
            self.document(self.notification(event))

    def close(self) -> None:
        """End it."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
            self.rtsp.open.remove(self)
        self._stop()

    def notification(self, event: Event) -> str:
        """An event as ONVIF writes it."""
        items = {
            side: "".join(
                f"<tt:SimpleItem Name={quoteattr(name)} Value={quoteattr(value)}/>" for name, value in given.items()
            )
            for side, given in (("Source", event.source), ("Data", event.data))
        }
        operation = f' PropertyOperation="{event.operation}"' if event.stateful else ""
        moment = event.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return (
            '<wsnt:NotificationMessage xmlns:wsnt="http://docs.oasis-open.org/wsn/b-2" xmlns:wsa5="http://www.w3.org/2005/08/addressing"'
            ' xmlns:tns1="http://www.onvif.org/ver10/topics" xmlns:tnsaxis="http://www.axis.com/2009/event/topics">'
            f'<wsnt:Topic Dialect="http://docs.oasis-open.org/wsn/t-1/TopicExpression/Simple">{escape(event.topic)}</wsnt:Topic>'
            f"<wsnt:ProducerReference><wsa5:Address>uri://{self.rtsp.device.boot_id}/ProducerReference</wsa5:Address></wsnt:ProducerReference>"
            f'<wsnt:Message><tt:Message UtcTime="{moment}"{operation}><tt:Source>{items["Source"]}</tt:Source><tt:Key/>'
            f"<tt:Data>{items['Data']}</tt:Data></tt:Message></wsnt:Message></wsnt:NotificationMessage>"
        )

    def document(self, inner: str) -> None:
        """Send a document with these notifications."""
        events = f"<tt:Event>{inner}</tt:Event>" if inner else ""
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<tt:MetadataStream xmlns:tt="http://www.onvif.org/ver10/schema">{events}</tt:MetadataStream>'
        self.raw(text.encode())

    def raw(self, document: bytes) -> None:
        """Send bytes as if they were a document."""
        size = self.rtsp.fragment or 60_000
        pieces = [document[place : place + size] for place in range(0, len(document), size)] or [b""]
        stamp = int(asyncio.get_running_loop().time() * CLOCK) & 0xFFFFFFFF
        for number, piece in enumerate(pieces):
            marker = 0x80 if number == len(pieces) - 1 else 0
            head = (
                bytes((0x80, marker | PAYLOAD_TYPE))
                + self._number.to_bytes(2, "big")
                + stamp.to_bytes(4, "big")
                + self.ssrc.to_bytes(4, "big")
            )
            self._number = (self._number + 1) % 65536
            self._packets += 1
            if not self.rtsp.deaf and (not self.rtsp.lose_every or self._packets % self.rtsp.lose_every):
                self._send(head + piece)


def _filters(query: Mapping[str, str]) -> tuple[list[Callable[[str], bool]], Test]:
    topics = query.get("eventtopic", "")
    return (rtsp_topics(topics) if topics else []), content_test(query.get("eventcontent", ""))


class Connection:
    """One client's connection."""

    def __init__(self, device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.device, self.reader, self.writer = device, reader, writer
        self.rtsp = device.slot(Rtsp)
        self.peer, self.mine = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[0]
        self.sessions: dict[str, Session] = {}
        self.fault: Fault | None = None

    async def run(self) -> None:
        """Answer until the client leaves."""
        transport = self.writer.transport
        if self.device.refusing:
            transport.abort()
            return
        self.device.open.add(transport)
        try:
            while True:
                async with asyncio.timeout(self.rtsp.session_seconds):
                    asked = await self._read()
                if asked is None or not await self._answer(asked):
                    break
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            self.device.open.discard(transport)
            for session in list(self.sessions.values()):
                session.close()
            with contextlib.suppress(OSError, RuntimeError):
                self.writer.close()

    async def _read(self) -> Asked | None:
        while True:
            first = await self.reader.read(1)
            if not first:
                return None
            if first == b"$":  # the client's own reports, RTCP
                size = int.from_bytes((await self.reader.readexactly(3))[1:], "big")
                await self.reader.readexactly(size)
                continue
            if first in b"\r\n":
                continue
            head = first + await self.reader.readuntil(b"\r\n\r\n")
            line, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
            headers = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
            length = headers.get("content-length", "0")
            await self.reader.readexactly(min(int(length), MOST_HEAD) if length.isdigit() else 0)
            method, _, other = line.partition(" ")
            url, _, version = other.rpartition(" ")
            return Asked(method, url, version, headers)

    async def _answer(self, asked: Asked) -> bool:
        if self.rtsp.deaf:
            return True
        logged = Logged(asked.method, asked.path, urlsplit(asked.url).query, "rtsp", self.peer, asked.headers)
        self.device.requests.append(logged)
        fault = self.device.faults.take(f"rtsp:{asked.path}", asked.method, b"", bare=True)
        if fault is not None and not await self._fail(fault, asked):
            return False
        if self.device.throttle.blocks(self.peer):
            return False
        if asked.version != "RTSP/1.0":
            return self._reply(asked, 505)
        if asked.method == "OPTIONS":
            return self._reply(asked, 200, [("Public", METHODS)])
        if asked.method not in METHODS.split(", "):
            return self._reply(asked, 405)
        status, headers = self._let_in(asked, logged)
        if status != 200:
            return self._reply(asked, status, headers)
        work = {
            "DESCRIBE": self._describe,
            "SETUP": self._setup,
            "PLAY": self._play,
            "TEARDOWN": self._teardown,
            "GET_PARAMETER": self._alive,
        }
        step = work.get(asked.method)
        return await step(asked) if step is not None else self._reply(asked, 455)

    async def _fail(self, fault: Fault, asked: Asked) -> bool:
        """Meet a fault; True when the request is answered all the same."""
        match fault.kind:
            case "hang":
                await asyncio.sleep(3600)
            case "delay" | "slow":
                await asyncio.sleep(fault.seconds)
                return True
            case "garbage":
                self.writer.write(bytes((number * 73 + 41) % 256 for number in range(400)))
                return False
            case "truncate":
                self.writer.write(b"RTSP/1.0 200 OK\r\nContent-Len")
                return False
            case "oversized":
                self.writer.write(b"RTSP/1.0 200 OK\r\n" + b"X-Filler: " + b"x" * min(fault.size, 1 << 20))
                return False
            case "reset":
                self.writer.transport.abort()
                return False
            case "503" | "503-retry":
                return self._reply(asked, 503) and False
            case "404":
                return self._reply(asked, 404) and False
            case "500" | "500-json":
                return self._reply(asked, 500) and False
            case "reboot":
                self.device.reboot()
        return False

    def _let_in(self, asked: Asked, logged: Logged) -> tuple[int, list[tuple[str, str]]]:
        schemes = self.device.schemes("rtsp")
        verdict = self.device.auth.judge(
            asked.headers.get("authorization"), asked.method, asked.url, schemes, same_uri=False
        )
        logged.credentials, logged.stale = verdict.scheme, verdict.stale
        if verdict.account is not None:
            logged.account = verdict.account.name
            return (200, []) if verdict.account.reaches("viewer") else (401, self._challenges(schemes))
        if verdict.wrong:
            self.device.throttle.failed(self.peer)
        if self.device.anonymous_viewer and not verdict.wrong and not verdict.stale:
            return 200, []
        return 401, self._challenges(schemes, verdict.stale)

    def _challenges(self, schemes: Iterable[str], stale: bool = False) -> list[tuple[str, str]]:
        realm = self.device.auth.realm
        made = {
            "digest": lambda: (
                f'Digest realm="{realm}", nonce="{self.device.auth.nonce()}", stale={"TRUE" if stale else "FALSE"}'
            ),
            "basic": lambda: f'Basic realm="{realm}"',
        }
        return [("WWW-Authenticate", made[scheme]()) for scheme in schemes]

    def _reply(self, asked: Asked, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> bool:
        """Answer in one piece: clients read a reply out of one segment."""
        lines = [f"RTSP/1.0 {status} {PHRASES[status]}", f"CSeq: {asked.headers.get('cseq', '0')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Date: {format_datetime(self.device.now(), usegmt=True)}"]
        lines += [f"Content-Length: {len(body)}"] if body else []
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)
        if self.device.requests:
            last = next(
                (
                    each
                    for each in reversed(self.device.requests)
                    if each.scheme == "rtsp" and each.method == asked.method
                ),
                None,
            )
            if last is not None:
                last.status = status
        return True

    # --- what it is asked ---

    def _kinds(self, query: Mapping[str, str]) -> list[str] | None:
        """The streams a URL asks for; None when there is no such source."""
        if not query.get("camera", "1").isdigit() or int(query.get("camera", "1")) not in range(1, self._views() + 1):
            return None
        kinds = ["video"] if query.get("video", "1") != "0" else []
        if kinds and not self.device.has("video"):
            return None
        return kinds + (["event"] if query.get("event", "off") in ("on", "1", "yes") else [])

    def _views(self) -> int:
        return max(1, self.device.params.number("Properties.Image.NbrOfViews", 1))

    async def _describe(self, asked: Asked) -> bool:
        if asked.path != PATH:
            return self._reply(asked, 404)
        kinds = self._kinds(asked.query)
        if kinds is None:
            return self._reply(asked, 404)
        try:
            _filters(asked.query)
        except FilterProblem:
            kinds = []
        if not kinds:
            return self._reply(asked, 400)
        split = urlsplit(asked.url)
        base = f"{split.scheme}://{split.netloc}{PATH}"
        lines = [
            "v=0", f"o=- {secrets.randbits(60)} 1 IN IP4 {self.mine}", "s=Session streamed with GStreamer", "i=rtsp-server", "t=0 0",
            "a=tool:GStreamer", "a=type:broadcast", "a=range:npt=now-", f"a=control:{asked.url}",
        ]  # fmt: skip
        if "video" in kinds:
            codec = (
                "H265"
                if asked.query.get("videocodec") == "h265"
                else "JPEG"
                if asked.query.get("videocodec") in ("jpeg", "mjpeg")
                else "H264"
            )
            number = 26 if codec == "JPEG" else 96
            lines += [
                f"m=video 0 RTP/AVP {number}",
                "c=IN IP4 0.0.0.0",
                "b=AS:50000",
                f"a=rtpmap:{number} {codec}/{CLOCK}",
            ]
            lines += [] if codec == "JPEG" else [f"a=fmtp:{number} packetization-mode=1;profile-level-id=4d0029"]
            lines += [f"a=control:{base}/stream=0?{split.query}", "a=framerate:25.000000"]
        if "event" in kinds:
            track = kinds.index("event")
            lines += [
                f"m=application 0 RTP/AVP {PAYLOAD_TYPE}",
                "c=IN IP4 0.0.0.0",
                f"a=rtpmap:{PAYLOAD_TYPE} vnd.onvif.metadata/{CLOCK}",
            ]
            lines += [f"a=control:{base}/stream={track}?{split.query}"]
        body = ("\r\n".join(lines) + "\r\n").encode()
        return self._reply(asked, 200, [("Content-Type", "application/sdp"), ("Content-Base", f"{base}/")], body)

    async def _setup(self, asked: Asked) -> bool:
        match = re.fullmatch(re.escape(PATH) + r"/stream=(\d)", asked.path)
        kinds = self._kinds(asked.query)
        if match is None or kinds is None or int(match[1]) >= len(kinds):
            return self._reply(asked, 404)
        if len(self.rtsp.open) >= self.rtsp.most_sessions:
            return self._reply(asked, 453)
        wanted = asked.headers.get("transport", "")
        ports, channels = re.search(r"client_port=(\d+)(?:-(\d+))?", wanted), re.search(r"interleaved=(\d+)", wanted)
        try:
            if "RTP/AVP/TCP" in wanted:
                channel = int(channels[1]) if channels else 0
                session = Session(
                    self.rtsp, asked.query, lambda packet: self._interleave(channel, packet), lambda: None
                )
                told = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}"
            elif ports:
                udp = socket.socket(socket.AF_INET6 if ":" in self.mine else socket.AF_INET, socket.SOCK_DGRAM)
                udp.setblocking(False)
                udp.bind((self.mine, 0))
                place = (self.peer, int(ports[1]))
                session = Session(self.rtsp, asked.query, lambda packet: _datagram(udp, packet, place), udp.close)
                own = udp.getsockname()[1]
                told = f"RTP/AVP;unicast;client_port={ports[1]}-{ports[2] or int(ports[1]) + 1};server_port={own}-{own + 1}"
            else:
                return self._reply(asked, 461)
        except FilterProblem:
            return self._reply(asked, 400)
        session_id = asked.headers.get("session", "").partition(";")[0]
        if session_id in self.sessions and kinds[int(match[1])] == "video":
            session.id = session_id  # a second track of the same session, which stays silent
        else:
            self.sessions[session.id] = session
        timeout = max(1, int(self.rtsp.session_seconds))
        transport = f"{told};ssrc={session.ssrc:08X};mode=PLAY"
        return self._reply(asked, 200, [("Transport", transport), ("Session", f"{session.id};timeout={timeout}")])

    def _interleave(self, channel: int, packet: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet)

    async def _play(self, asked: Asked) -> bool:
        session = self.sessions.get(asked.headers.get("session", "").partition(";")[0])
        if session is None:
            return self._reply(asked, 454)
        info = f"url={asked.url};seq={session.first_number};rtptime=0"
        self._reply(asked, 200, [("Session", session.id), ("Range", "npt=now-"), ("RTP-Info", info)])
        if "event" in (self._kinds(asked.query) or []):
            # The client's first packets must not overtake the answer.
            asyncio.get_running_loop().call_later(0.005, self._start, session)
        return True

    def _start(self, session: Session) -> None:
        if session.id in self.sessions and not self.writer.transport.is_closing():
            session.play()

    async def _teardown(self, asked: Asked) -> bool:
        session = self.sessions.pop(asked.headers.get("session", "").partition(";")[0], None)
        if session is None:
            return self._reply(asked, 454)
        session.close()
        return self._reply(asked, 200, [("Session", session.id)])

    async def _alive(self, asked: Asked) -> bool:
        session = asked.headers.get("session", "").partition(";")[0]
        return self._reply(asked, 200, [("Session", session)] if session else [])


def _datagram(udp: socket.socket, packet: bytes, place: tuple[str, int]) -> None:
    # What does not go is lost, as datagrams are.
    with contextlib.suppress(OSError):
        udp.sendto(packet, place)
