"""HTTP/2 in clear text (RFC 9113): requests and answers out of its frames; bodies are stepped over."""

from __future__ import annotations

import struct
from typing import Any, Final

from hpack import Decoder, HPACKError

from tasks.network.analyze._http_message import LONGEST_TARGET, Head, show
from tasks.network.analyze._http_traffic import Request, Traffic

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, CONTINUATION = 0, 1, 3, 4, 5, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 32
HEADER_BYTES: Final = 9
LONGEST_BLOCK: Final = 65_536
LARGEST_TABLE: Final = 65_536
MOST_STREAMS: Final = 2_000
_HEADER_TABLE_SIZE: Final = 1


class _Side:
    """What one side has sent and is not yet read."""

    __slots__ = (
        "block",
        "block_flags",
        "block_stream",
        "buffer",
        "decoder",
        "lost",
        "padding",
        "payload",
        "skip",
        "stream",
    )

    def __init__(self, skip: int) -> None:
        self.buffer = bytearray()  # a frame's header, or a frame that is read whole
        self.skip = skip  # bytes to step over: the preface, or a frame that is not read
        self.payload = False  # whether those are a body's
        self.stream = 0
        self.padding = 0
        self.lost = False  # where the next frame begins is not known
        self.decoder: Any = Decoder(max_header_list_size=LONGEST_BLOCK)
        self.block = bytearray()  # a header block in several frames
        self.block_stream = self.block_flags = 0


class Http2:
    """Reads both directions of an HTTP/2 conversation.

    Args:
        traffic: Takes what is found.
        client: Address of the client.
        server: Address of the server.
        port: The server's port.
        skip: Bytes of the preface that the client has still to send.
        first: The HTTP/1 request that was upgraded: stream 1.
    """

    def __init__(
        self, traffic: Traffic, client: str, server: str, port: int, *, skip: int, first: Request | None = None
    ) -> None:
        self._traffic = traffic
        self._address = (client, server, port)
        self._client, self._server = _Side(skip), _Side(0)
        self._streams: dict[int, Request] = {} if first is None else {1: first}
        self._count = 0
        traffic.http2_connections += 1
        if first is None:
            traffic.connections += 1

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """Take what one side sent next."""
        side = self._client if from_client else self._server
        where, size = 0, len(data)
        while where < size and not side.lost:
            if side.skip:
                taken = min(side.skip, size - where)
                self._step(side, taken, from_client)
                if from_client and side.payload and (request := self._streams.get(side.stream)) is not None:
                    request.look_at(data[where : where + taken])
                where += taken
                if not side.skip:
                    self._stepped(side, time_ns, from_client)
                continue
            missing = self._missing(side)
            side.buffer += data[where : where + missing]
            where += missing
            if self._missing(side) <= 0:
                self._frame(side, time_ns, frame, from_client)

    def gap(self, from_client: bool, missing: int) -> None:
        """Take note of bytes that the capture does not have; only inside a body can reading go on."""
        side = self._client if from_client else self._server
        if side.skip > missing:
            self._step(side, missing, from_client)
        else:
            side.lost = True

    def end(self, how: str) -> int:
        """Take note that the conversation is over; return the requests it carried."""
        lost = self._server.lost
        for request in self._streams.values():
            if lost and not request.answered:
                self._traffic.answers_lost += 1
            else:
                self._traffic.no_answer(request, how)
        self._streams.clear()
        return self._count

    # --- frames -------------------------------------------------------------------------------------------------------

    def _missing(self, side: _Side) -> int:
        """How many bytes the frame in the buffer lacks: of its header, then of what is read whole."""
        if len(side.buffer) < HEADER_BYTES:
            return HEADER_BYTES - len(side.buffer)
        if not _read_whole(side.buffer[3]):
            return 0
        return HEADER_BYTES + int.from_bytes(side.buffer[:3], "big") - len(side.buffer)

    def _step(self, side: _Side, size: int, from_client: bool) -> None:
        side.skip -= size
        if side.payload:
            self._traffic.body(self._streams.get(side.stream), size, up=from_client)

    def _stepped(self, side: _Side, time_ns: int, from_client: bool) -> None:
        if side.payload and side.padding & END_STREAM:
            self._stream_end(side.stream, time_ns, from_client)
        side.payload = False

    def _frame(self, side: _Side, time_ns: int, frame: int, from_client: bool) -> None:
        buffer = side.buffer
        length = int.from_bytes(buffer[:3], "big")
        kind, flags = buffer[3], buffer[4]
        stream = int.from_bytes(buffer[5:9], "big") & 0x7FFF_FFFF
        if not _read_whole(kind):
            side.skip, side.stream, side.payload = length, stream, kind == DATA
            side.padding = flags
            buffer.clear()
            if not length:
                self._stepped(side, time_ns, from_client)
            return
        if len(buffer) < HEADER_BYTES + length:
            if length > LONGEST_BLOCK:
                side.lost = True
                self._traffic.undecoded += 1
            return
        payload = bytes(buffer[HEADER_BYTES:])
        buffer.clear()
        if kind == SETTINGS:
            self._settings(payload, flags, from_client)
        elif kind == RST_STREAM:
            request = self._streams.pop(stream, None)
            if request is not None:
                self._traffic.no_answer(request, "rst")
        else:
            self._headers(side, kind, flags, stream, payload, time_ns, frame, from_client)

    def _settings(self, payload: bytes, flags: int, from_client: bool) -> None:
        if flags & 1:  # an acknowledgement
            return
        other = self._server if from_client else self._client
        for where in range(0, len(payload) - 5, 6):
            name, value = struct.unpack_from(">HI", payload, where)
            if name == _HEADER_TABLE_SIZE:
                # What one side can keep is what the other side's headers may refer to.
                other.decoder.max_allowed_table_size = max(4096, min(value, LARGEST_TABLE))

    def _headers(
        self, side: _Side, kind: int, flags: int, stream: int, payload: bytes, time_ns: int, frame: int, from_client: bool
    ) -> None:  # fmt: skip
        if kind == CONTINUATION:
            if stream != side.block_stream:
                side.lost = True
                return
        else:
            padding = 0
            if flags & PADDED and payload:
                padding, payload = payload[0], payload[1:]
            if kind == HEADERS and flags & PRIORITY:
                payload = payload[5:]
            elif kind == PUSH_PROMISE:
                payload = payload[4:]
            payload = payload[: len(payload) - padding] if padding else payload
            side.block.clear()
            side.block_stream, side.block_flags = stream, flags & END_STREAM | kind << 8
        side.block += payload
        if len(side.block) > LONGEST_BLOCK:
            side.lost = True
            return
        if not flags & END_HEADERS:
            return
        head = self._decode(side)
        pushed, ended = side.block_flags >> 8 == PUSH_PROMISE, bool(side.block_flags & END_STREAM)
        side.block.clear()
        if pushed:  # decoded to keep the table right; a promise is no request
            return
        if from_client:
            self._request(head, stream, time_ns, frame)
        else:
            self._response(head, stream, time_ns, frame)
        if ended:
            self._stream_end(stream, time_ns, from_client)

    def _decode(self, side: _Side) -> Head:
        head = Head()
        try:
            fields = side.decoder.decode(bytes(side.block), raw=True)
        except (HPACKError, ValueError, IndexError, OverflowError):
            # Its table has missed something. Streams still begin and end where they do.
            self._traffic.undecoded += 1
            return head
        for name, value in fields:
            match name:
                case b":method":
                    head.method = show(value, 40)
                case b":path":
                    head.target = value[:LONGEST_TARGET].decode("latin-1")
                case b":authority":
                    head.host = value.decode("latin-1").lower()
                case b"host":
                    head.host = head.host or value.decode("latin-1").lower()
                case b":status":
                    head.status = int(value) if len(value) == 3 and value.isdigit() else 0
                case b"user-agent":
                    head.agent = show(value)
                case b"content-type":
                    head.content_type = show(value.partition(b";")[0].strip().lower(), 80)
                case b"authorization":
                    head.authorization = value
                case b"proxy-authorization":
                    head.proxy_authorization = value
                case b"x-api-key" | b"x-auth-token":
                    head.key_header = name.decode()
                case b"cookie":
                    head.cookie = True
                case b"location":
                    head.location = value.decode("latin-1")
                case _:
                    pass
        return head

    # --- streams ------------------------------------------------------------------------------------------------------

    def _request(self, head: Head, stream: int, time_ns: int, frame: int) -> None:
        if stream in self._streams or not stream & 1:
            return  # a trailer
        head.method = head.method or "unknown"
        self._count += 1
        self._traffic.http2_requests += 1
        request = self._traffic.request(head, *self._address, frame, time_ns, version="HTTP/2")
        if len(self._streams) >= MOST_STREAMS:
            self._traffic.no_answer(self._streams.pop(next(iter(self._streams))), "capture")
        self._streams[stream] = request

    def _response(self, head: Head, stream: int, time_ns: int, frame: int) -> None:
        request = self._streams.get(stream)
        if request is not None and request.answered:
            return  # a trailer
        self._traffic.response(request, head, frame, time_ns)

    def _stream_end(self, stream: int, time_ns: int, from_client: bool) -> None:
        request = self._streams.get(stream)
        if request is None:
            return
        if from_client:
            self._traffic.request_end(request, time_ns)
        elif request.answered:
            del self._streams[stream]
            if not request.complete:
                self._traffic.request_end(request, time_ns)


def _read_whole(kind: int) -> bool:
    return kind in {HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, CONTINUATION}
