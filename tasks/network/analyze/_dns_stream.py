"""DNS over TCP: messages with their length before them (RFC 1035 section 4.2.2), across segments and gaps."""

from __future__ import annotations

from tasks.network.analyze._dns_message import HEADER_BYTES, looks_like_dns_over_tcp
from tasks.network.analyze._dns_traffic import Traffic


class _Side:
    """What one side has sent and is not yet a whole message."""

    __slots__ = ("buffer", "lost", "skip", "source", "target")

    def __init__(self, source: tuple[str, int], target: tuple[str, int]) -> None:
        self.source = source
        self.target = target
        self.buffer = bytearray()
        self.skip = 0  # bytes of a message that has been counted already
        self.lost = False  # where the next message begins is not known


class DnsStream:
    """Cuts a TCP stream into messages for `Traffic`; a `StreamParser` of the engine.

    Args:
        traffic: Takes the messages.
        client: Address and port of the side that opened the stream, as far as is known.
        server: The other side.
        whole: The stream's first byte is in the capture. Without it, messages are looked for first.
    """

    __slots__ = ("_broken", "_client", "_server", "_traffic")

    def __init__(
        self, traffic: Traffic, client: tuple[str, int], server: tuple[str, int], *, whole: bool = True
    ) -> None:
        self._traffic = traffic
        self._client = _Side(client, server)
        self._server = _Side(server, client)
        self._client.lost = self._server.lost = not whole
        self._broken = False

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """Take what one side sent next."""
        if self._broken:
            return
        side = self._client if from_client else self._server
        if side.skip:
            skipped = min(side.skip, len(data))
            side.skip -= skipped
            data = data[skipped:]
        if side.lost:
            if not looks_like_dns_over_tcp(data):
                return
            side.lost = False
        if side.buffer:
            side.buffer += data
            if len(side.buffer) < 2 or len(side.buffer) < 2 + int.from_bytes(side.buffer[:2], "big"):
                return
            data = bytes(side.buffer)
            side.buffer.clear()
        start = 0
        while len(data) - start >= 2:
            end = start + 2 + (data[start] << 8 | data[start + 1])
            if end > len(data):
                break
            if not self._message(side, data[start + 2 : end], time_ns, frame):
                return
            start = end
        # At most one message, so at most 64 KiB.
        side.buffer += data[start:]

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Take note of bytes that the capture does not have."""
        if self._broken:
            return
        side = self._client if from_client else self._server
        if side.skip >= missing:
            side.skip -= missing
            return
        missing -= side.skip
        side.skip = 0
        held, side.buffer = bytes(side.buffer), bytearray()
        if side.lost or len(held) < 2:
            # Between two messages, or before the length: where the next one begins has to be seen.
            side.lost = True
            return
        rest = 2 + (held[0] << 8 | held[1]) - len(held) - missing
        if len(held) >= 2 + HEADER_BYTES:
            self._message(side, held[2:], time_ns, frame, cut=True)
        side.skip, side.lost = max(rest, 0), rest < 0

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """Take note that the stream is over; a message that was not finished is counted as cut off."""
        if self._broken:
            return
        for side in (self._client, self._server):
            if len(side.buffer) >= 2 + HEADER_BYTES:
                self._message(side, bytes(side.buffer[2:]), time_ns, frame, cut=True)
            side.buffer.clear()

    def _message(self, side: _Side, data: bytes, time_ns: int, frame: int, *, cut: bool = False) -> bool:
        if not data:
            return True
        fine = self._traffic.message(data, time_ns, frame, *side.source, *side.target, True, cut)
        # One message that is none, and the lengths that follow mean nothing.
        self._broken = not fine
        return fine
