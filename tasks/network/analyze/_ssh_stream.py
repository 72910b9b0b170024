"""Follows one conversation of SSH: banners, key exchange, and how the login seems to have come out.

After NEWKEYS all is encrypted. What is left to see are sizes and turns: the server answers every attempt to log in, and its
refusals are all of one size, while its consent is the smallest packet there is.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.network.analyze._ssh_wire import (
    Banner,
    Chosen,
    HostKey,
    KexInit,
    Malformed,
    negotiate,
    parse_banner,
    parse_host_key,
    parse_kexinit,
    smallest_packet,
    take_string,
)

if TYPE_CHECKING:
    from tasks.network.analyze._ssh_book import SshBook

KEXINIT, NEWKEYS = 20, 21
_REPLY, _GROUP_REPLY = 31, 33
_LONGEST_PACKET = 1 << 18
"""OpenSSH takes no longer one either."""
_LONGEST_CLEAR = 1 << 16
"""A packet of the key exchange that is longer is passed over."""
_MOST_BEFORE_BANNER = 1 << 14
"""A server may say something before its banner (RFC 4253 section 4.2)."""
_MOST_TURNS = 64
"""Turns of the server in which its consent is looked for."""


class Side:
    """One direction. `frame` is that of its KEXINIT, or of its banner where there is none."""

    __slots__ = ("banner", "before", "bytes", "frame", "head", "lost", "offer", "sealed", "skip")

    def __init__(self) -> None:
        self.head = bytearray()
        self.banner: Banner | None = None
        self.offer: KexInit | None = None
        self.frame = 0
        self.before = 0
        self.bytes = 0
        self.skip = 0
        self.sealed = False
        self.lost = False


class SshStream:
    """A StreamParser of one conversation; what it knows at the end goes into a book.

    Args:
        client: The client's address and port.
        server: The server's.
        start_ns: When the conversation began.
        book: Who counts.
    """

    __slots__ = (
        "_book", "_refusal", "_spoke", "_turn", "_turn_first", "accepted", "chosen", "client", "client_at", "end_ns",
        "first_frame", "gaps", "group_bits", "host_key", "how", "malformed", "refusals", "server", "server_at", "start_ns",
        "turns",
    )  # fmt: skip

    def __init__(self, client: tuple[str, int], server: tuple[str, int], start_ns: int, book: SshBook) -> None:
        self.client_at, self.server_at, self.start_ns = client, server, start_ns
        self._book = book
        self.client, self.server = Side(), Side()
        self.chosen: Chosen | None = None
        self.host_key: HostKey | None = None
        self.group_bits = 0
        self.first_frame = 0
        self.end_ns = start_ns
        self.how = ""
        self.gaps = self.malformed = False
        self.accepted = False
        self.refusals = 0
        self.turns = 0
        self._refusal = 0  # bytes of a refusal
        self._turn = self._turn_first = 0  # bytes of the server's turn, and of its first segment
        self._spoke = False  # whether the client has said something that is encrypted

    # --- what a book asks ---------------------------------------------------------------------------------------------

    @property
    def sealed(self) -> bool:
        """Whether both sides went over to encryption."""
        return self.client.sealed and self.server.sealed

    @property
    def attempts(self) -> int:
        """Attempts to log in that were refused, about.

        One less than the refusals: clients first ask with the method `none` to hear which methods there are. Those that do not
        had one attempt at least, if they got in by nothing else.
        """
        return max(0 if self.accepted or not self.refusals else 1, self.refusals - 1)

    @property
    def login(self) -> str:
        """How the login seems to have come out: `accepted`, `refused`, or `unknown`."""
        if self.accepted:
            return "accepted"
        if self.refusals and not self.gaps and self.how in {"fin", "rst"}:
            return "refused"
        return "unknown"

    # --- what the engine calls ----------------------------------------------------------------------------------------

    def data(self, from_client: bool, data: bytes, time_ns: int, frame: int) -> None:
        """The next bytes of one side."""
        side = self.client if from_client else self.server
        side.bytes += len(data)
        self.end_ns = time_ns
        if not self.first_frame:
            self.first_frame = frame
        if side.sealed:
            if self.turns <= _MOST_TURNS and not self.accepted:
                self._sealed(from_client, len(data))
        elif not side.lost:
            self._clear(side, from_client, data, frame)

    def gap(self, from_client: bool, missing: int, time_ns: int, frame: int) -> None:
        """Bytes that are not in the capture."""
        side = self.client if from_client else self.server
        side.bytes += missing
        if side.skip >= missing:
            side.skip -= missing
            return
        if not side.sealed:
            side.lost = True
            side.head.clear()
        if not self.accepted:
            self.gaps = True

    def end(self, how: str, time_ns: int, frame: int) -> None:
        """The conversation is over."""
        self.how = how
        if self._turn:
            self._end_of_turn()
        self._book.conversation(self)

    # --- in the clear -------------------------------------------------------------------------------------------------

    def _clear(self, side: Side, from_client: bool, data: bytes, frame: int) -> None:
        if side.skip:
            passed = min(side.skip, len(data))
            side.skip -= passed
            data = data[passed:]
        head = side.head
        head += data
        while head and not side.lost:
            if side.sealed:  # what came in one segment with NEWKEYS
                head.clear()
            elif side.banner is None:
                if not self._banner(side, frame):
                    return
            elif not self._packet(side, from_client, frame):
                return
        head.clear()

    def _banner(self, side: Side, frame: int) -> bool:
        head = side.head
        end = head.find(b"\n")
        if end < 0:
            if len(head) > _MOST_BEFORE_BANNER:
                side.lost = True
                head.clear()
            return False
        line = bytes(head[:end]).rstrip(b"\r")
        del head[: end + 1]
        side.before += end + 1
        if line.startswith(b"SSH-"):
            side.banner = parse_banner(line)
            side.frame = frame
            # SSH 1 has packets of its own.
            side.lost = side.banner.protocol.startswith("1.") and side.banner.protocol != "1.99"
        elif side.before > _MOST_BEFORE_BANNER:
            side.lost = True
        return True

    def _packet(self, side: Side, from_client: bool, frame: int) -> bool:
        head = side.head
        if len(head) < 6:
            return False
        size = int.from_bytes(head[:4], "big")
        padding = head[4]
        if not 2 <= size <= _LONGEST_PACKET or padding >= size:
            side.lost = self.malformed = True
            head.clear()
            return False
        if size > _LONGEST_CLEAR:
            side.skip = max(0, 4 + size - len(head))
            del head[: 4 + size]
            return True
        if len(head) < 4 + size:
            return False
        payload = bytes(head[5 : 4 + size - padding])
        del head[: 4 + size]
        try:
            self._message(side, from_client, payload, frame)
        except Malformed:
            self.malformed = True
        return True

    def _message(self, side: Side, from_client: bool, payload: bytes, frame: int) -> None:
        kind = payload[0] if payload else 0
        if kind == KEXINIT and side.offer is None:
            side.offer = self._book.intern(parse_kexinit(payload))
            side.frame = frame
            if self.client.offer and self.server.offer:
                self.chosen = negotiate(self.client.offer, self.server.offer)
        elif kind == NEWKEYS:
            side.sealed = True
        elif not from_client and self.chosen and self.chosen.kex:
            grouped = "group-exchange" in self.chosen.kex
            if grouped and kind == _REPLY:
                self.group_bits = int.from_bytes(take_string(payload, 1)[0], "big").bit_length()
            elif kind == (_GROUP_REPLY if grouped else _REPLY):
                with contextlib.suppress(Malformed):
                    self.host_key = parse_host_key(take_string(payload, 1)[0])

    # --- encrypted ----------------------------------------------------------------------------------------------------

    def _sealed(self, from_client: bool, size: int) -> None:
        if from_client:
            self._spoke = True
            if self._turn:
                self._end_of_turn()
        elif self._spoke:  # what a server says before the client's first request is no answer
            if not self._turn:
                self._turn_first = size
            self._turn += size

    def _end_of_turn(self) -> None:
        """The server said something, and it is the client's turn again.

        The first turn accepts the service `ssh-userauth`. The second answers the first request to log in, which is `none`
        from nearly every client, to hear which methods there are: its size is that of a refusal.
        """
        turn, first = self._turn, self._turn_first
        self._turn = self._turn_first = 0
        self.turns += 1
        if self.chosen is None:
            return
        consent = smallest_packet(self.chosen.cipher_to_client or "", self.chosen.mac_to_client or "")
        if consent is not None and first == consent:
            self.accepted = True
        elif self.turns == 2:
            self._refusal, self.refusals = turn, 1
        elif turn == self._refusal:
            self.refusals += 1
