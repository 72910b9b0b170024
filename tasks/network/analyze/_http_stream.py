"""One TCP conversation in HTTP/1: heads are read, bodies stepped over, gaps survived."""

from __future__ import annotations

from collections import deque
from typing import Final

from tasks.network.analyze._http_h2 import Http2
from tasks.network.analyze._http_message import (
    LONGEST_HEAD,
    PREFACE,
    UNKNOWN_LENGTH,
    Head,
    chunk_size,
    find_end,
    looks_like_start,
    read_head,
)
from tasks.network.analyze._http_traffic import Request, Traffic

HEAD, BODY, CHUNK_LINE, CHUNK, TRAILER, TO_END, LOST = range(7)
MOST_PIPELINED: Final = 1_000
LONGEST_LINE: Final = 4_096
_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")


class _Side:
    """Where one side's messages stand."""

    __slots__ = ("buffer", "current", "mode", "remaining", "start_frame", "start_ns")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.buffer = bytearray()  # the beginning of a head or of a chunk's line
        self.remaining = 0  # bytes of the body, or of the chunk with its line end
        self.current: Request | None = None  # whose body this is
        self.start_ns = 0
        self.start_frame = 0


class HttpStream:
    """Reads a conversation for `Traffic`; a `StreamParser` of the engine.

    Args:
        traffic: Takes what is found.
        client: Address of the side that opened the conversation, as far as is known.
        server: Address of the other side.
        client_port: Port of the client.
        server_port: Port of the server.
        whole: The conversation's beginning is in the capture; else a message's beginning is looked for first.
    """

    __slots__ = (
        "_client", "_count", "_h2", "_off", "_oriented", "_pending", "_server", "_swapped", "_traffic", "_whole", "client",
        "client_port", "server", "server_port",
    )  # fmt: skip

    def __init__(
        self, traffic: Traffic, client: str, client_port: int, server: str, server_port: int, *, whole: bool = True
    ) -> None:
        self._traffic = traffic
        self.client, self.client_port, self.server, self.server_port = client, client_port, server, server_port
        self._whole = whole
        self._client = _Side(HEAD if whole else LOST)
        self._server = _Side(HEAD if whole else LOST)
        self._pending: deque[Request] = deque()
        self._h2: Http2 | None = None
        self._off = self._oriented = self._swapped = False
        self._count = 0

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """Take what one side sent next."""
        if self._off:
            return
        from_client ^= self._swapped
        if self._go_on_as_http2(from_client, data, time_ns, frame):
            return
        side = self._client if from_client else self._server
        if side.mode == LOST:
            if not looks_like_start(data, request=from_client):
                if self._oriented or not looks_like_start(data, request=not from_client):
                    return
                # Without a handshake the engine guessed who is the client; the first message knows.
                self._swap()
                from_client = not from_client
            side.mode = HEAD
            if not from_client:
                self._forget_lost_answers()
        where, size = 0, len(data)
        while where < size and not self._off:
            mode = side.mode
            if mode in {BODY, CHUNK}:
                where += self._body(side, data, where, time_ns, from_client)
            elif mode == HEAD:
                where = self._head(side, data, where, time_ns, frame, from_client)
                from_client = side is self._client  # what was read may have told that it is the other way round
                if self._go_on_as_http2(from_client, data[where:], time_ns, frame):
                    return
            elif mode == TO_END:
                self._traffic.body(side.current, size - where, up=False)
                return
            elif mode == LOST:
                return
            else:
                where = self._line(side, data, where, time_ns, from_client)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Take note of bytes that the capture does not have; inside a body of known length they cost nothing."""
        if self._off:
            return
        from_client ^= self._swapped
        self._traffic.gaps += 1
        if self._h2 is not None:
            self._h2.gap(from_client, missing)
            return
        side = self._client if from_client else self._server
        mode = side.mode
        # Of a chunk only the data may be missing: the line after it is where the next one is found.
        if (mode == BODY and missing <= side.remaining) or (mode == CHUNK and missing < side.remaining):
            side.remaining -= missing
            self._traffic.body(side.current, missing, up=from_client)
            if not side.remaining:
                self._message_end(side, time_ns, from_client)
        elif mode != TO_END:
            side.mode = LOST
            side.buffer.clear()
            if from_client and side.current is not None:
                self._traffic.request_end(side.current, time_ns)
                side.current = None

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """Take note that the conversation is over."""
        if self._h2 is not None:
            self._count += self._h2.end(how)
        if self._client.current is not None:
            self._traffic.request_end(self._client.current, time_ns)
        if self._server.mode == LOST:
            self._forget_lost_answers(keep=0)
        for request in self._pending:
            self._traffic.no_answer(request, how)
        self._pending.clear()
        if self._count:
            self._traffic.connection_end(self._count)

    # --- heads --------------------------------------------------------------------------------------------------------

    def _head(self, side: _Side, data: bytes, where: int, time_ns: int, frame: int, from_client: bool) -> int:
        buffer = side.buffer
        if not buffer:
            while data[where : where + 1] in {b"\r", b"\n"}:  # RFC 9112 section 2.2: before a request they mean nothing
                where += 1
            if where >= len(data):
                return where
            if data[where] not in _LETTERS and not (not from_client and _is_settings(data[where:])):
                side.mode = LOST
                return len(data)
            side.start_ns, side.start_frame = time_ns, frame
            end = find_end(data, where)
            if end >= 0:
                return self._take_head(side, data[where:end], end, time_ns, frame, from_client)
            buffer += data[where:]
        else:
            searched = max(0, len(buffer) - 3)
            held = len(buffer)
            buffer += data[where : where + LONGEST_HEAD]
            end = find_end(buffer, searched)
            if end >= 0:
                head = bytes(buffer[:end])
                buffer.clear()
                return self._take_head(side, head, where + end - held, time_ns, frame, from_client)
        if len(buffer) > LONGEST_HEAD:
            self._malformed(side, frame)
        return len(data)

    def _take_head(self, side: _Side, data: bytes, after: int, time_ns: int, frame: int, from_client: bool) -> int:
        if from_client and data == PREFACE[:18]:
            self._start_http2(side.start_ns, skip=len(PREFACE) - 18)
            return after
        head = read_head(data)
        if head is None or (head.status != 0) == from_client:
            if head is None or self._oriented:
                self._malformed(side, frame)
                return after
            self._swap()
            from_client = not from_client
        self._oriented = True
        if from_client:
            self._request(side, head, time_ns)
        else:
            self._response(side, head, time_ns, frame)
        return after

    def _request(self, side: _Side, head: Head, time_ns: int) -> None:
        traffic = self._traffic
        if not self._count:
            traffic.connections += 1
        self._count += 1
        request = traffic.request(
            head, self.client, self.server, self.server_port, side.start_frame, side.start_ns, version=f"HTTP/1.{head.minor}"
        )  # fmt: skip
        if self._pending and self._server.mode == HEAD and not self._server.buffer:
            traffic.pipelined += 1
        if len(self._pending) < MOST_PIPELINED:
            self._pending.append(request)
        if head.chunked:
            side.mode, side.current = CHUNK_LINE, request
        elif head.length > 0:
            side.mode, side.current, side.remaining = BODY, request, head.length
        else:
            traffic.request_end(request, time_ns)

    def _response(self, side: _Side, head: Head, time_ns: int, frame: int) -> None:
        request = self._pending[0] if self._pending else None
        self._traffic.response(request, head, side.start_frame, side.start_ns)
        status = head.status
        if status < 200 and status != 101:
            return
        if request is not None:
            self._pending.popleft()
            if status == 101 or (request.method == "CONNECT" and status < 300):
                self._switch(request, head, time_ns)
                return
        elif status == 101:
            self._off = True
            return
        side.current = request
        if (request is not None and request.method == "HEAD") or status in {204, 304}:
            side.current = None
        elif head.chunked:
            side.mode = CHUNK_LINE
        elif head.length != UNKNOWN_LENGTH:
            side.mode, side.remaining = (BODY, head.length) if head.length else (HEAD, 0)
        else:
            side.mode = TO_END

    def _switch(self, request: Request, head: Head, time_ns: int) -> None:
        if request.method == "CONNECT":
            self._traffic.tunnels[request.host_name] += 1
        else:
            kind = head.upgrade or request.upgrade or "unknown"
            self._traffic.upgrades[kind if len(self._traffic.upgrades) < 100 else "others"] += 1
            if kind.startswith("h2c"):
                self._start_http2(time_ns, skip=len(PREFACE), first=request)
                return
        self._off = True

    def _start_http2(self, time_ns: int, *, skip: int, first: Request | None = None) -> None:
        self._h2 = Http2(self._traffic, self.client, self.server, self.server_port, skip=skip, first=first)
        self._oriented = True
        held = bytes(self._server.buffer)
        self._server.buffer.clear()
        if held:
            self._h2.data(False, held, self._server.start_ns, self._server.start_frame)

    def _go_on_as_http2(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> bool:
        if self._h2 is None:
            return False
        self._h2.data(from_client, data, time_ns, frame)
        return True

    # --- bodies -------------------------------------------------------------------------------------------------------

    def _body(self, side: _Side, data: bytes, where: int, time_ns: int, from_client: bool) -> int:
        taken = min(side.remaining, len(data) - where)
        request = side.current
        if from_client and request is not None and request.wanted:
            request.look_at(data[where : where + taken])
        side.remaining -= taken
        size = taken
        if side.mode == CHUNK:  # the two bytes of its line end are no content
            size = max(0, taken - max(0, 2 - side.remaining))
        self._traffic.body(request, size, up=from_client)
        if not side.remaining:
            if side.mode == CHUNK:
                side.mode = CHUNK_LINE
            else:
                self._message_end(side, time_ns, from_client)
        return taken

    def _line(self, side: _Side, data: bytes, where: int, time_ns: int, from_client: bool) -> int:
        """Read a line between chunks, or of the trailer after the last."""
        end = data.find(b"\n", where)
        if end < 0:
            side.buffer += data[where:]
            if len(side.buffer) > LONGEST_LINE:
                side.buffer.clear()
                side.mode = LOST
            return len(data)
        line = bytes(side.buffer) + data[where:end]
        side.buffer.clear()
        if side.mode == TRAILER:
            if not line.strip():
                self._message_end(side, time_ns, from_client)
            return end + 1
        size = chunk_size(line)
        if size < 0:
            side.mode = LOST
        elif size == 0:
            side.mode = TRAILER
        else:
            side.mode, side.remaining = CHUNK, size + 2
        return end + 1

    def _message_end(self, side: _Side, time_ns: int, from_client: bool) -> None:
        if from_client and side.current is not None:
            self._traffic.request_end(side.current, time_ns)
        side.current = None
        side.mode = HEAD

    # --- trouble ------------------------------------------------------------------------------------------------------

    def _forget_lost_answers(self, keep: int = 1) -> None:
        """Let requests go whose answers fell into a gap; the next answer is most likely for the last request."""
        while len(self._pending) > keep:
            self._pending.popleft()
            self._traffic.answers_lost += 1

    def _malformed(self, side: _Side, frame: int) -> None:
        side.buffer.clear()
        side.mode = LOST
        # What never was HTTP, such as TLS on its port, is none of ours.
        if self._oriented:
            self._traffic.malformed += 1
            if len(self._traffic.malformed_frames) < 20:
                self._traffic.malformed_frames.append(frame)

    def _swap(self) -> None:
        self._swapped = not self._swapped
        self._client, self._server = self._server, self._client
        self.client, self.server = self.server, self.client
        self.client_port, self.server_port = self.server_port, self.client_port


def _is_settings(data: bytes) -> bool:
    """Whether a server begins with HTTP/2's SETTINGS, which it may send before the client has said anything."""
    return len(data) >= 9 and data[3:9] == b"\x04\0\0\0\0\0" and data[:2] == b"\0\0"
