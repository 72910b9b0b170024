"""What tshark prints, read as it comes: rows of fields, statistics, conversations, expert information, followed streams."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tasks.core.redact import MASK
from tasks.network.capture._tshark_fields import FieldInfo, Value, companion, is_secret_by

Cell = Value | list[Value] | None

MOST_CONVERSATIONS = 100_000
"""Conversations told apart; a port scan makes millions. What is beyond is counted together."""
MOST_NOTES = 20_000
LONGEST_LINE = 1 << 24
MOST_FRAMES = 20
"""Frame numbers kept as evidence."""


class Lines:
    """Cuts output that arrives in pieces into lines.

    Attributes:
        dropped: Lines that were too long to be kept: a field may hold a whole download.
    """

    def __init__(self, take: Callable[[bytes], None], longest: int = LONGEST_LINE) -> None:
        self._take, self._longest, self._rest = take, longest, bytearray()
        self._dropping = False
        self.dropped = 0

    def feed(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._add(end)
            if not self._dropping:
                self._take(bytes(self._rest))
            self._rest.clear()
            self._dropping = False
        self._add(rest)

    def _add(self, data: bytes) -> None:
        if not self._dropping:
            self._rest += data
            if len(self._rest) > self._longest:
                self._rest.clear()
                self._dropping = True
                self.dropped += 1


class Rows:
    """Rows of fields out of `-T ek`: typed, masked, at most so many and so large; all are counted.

    Args:
        fields: What was asked for, in order.
        rows: Most rows kept.
        most_bytes: Most bytes of JSON kept.
        reveal: Whether secrets stay.
    """

    def __init__(self, fields: Sequence[FieldInfo], rows: int, most_bytes: int, *, reveal: bool) -> None:
        self._fields = [(info, info.name.replace(".", "_"), companion(info.name)) for info in fields]
        self._most_rows, self._room, self._reveal = rows, most_bytes, reveal
        self._full = False
        self.rows: list[list[Cell]] = []
        self.total = 0

    def arguments(self) -> list[str]:
        """What to ask tshark for."""
        argv = ["-T", "ek"]
        for name in dict.fromkeys([info.name for info, _, _ in self._fields] + [c for *_, c in self._fields if c]):
            argv += ["-e", name]
        return argv

    def take(self, line: bytes) -> None:
        if not line.startswith(b'{"timestamp"'):
            return
        self.total += 1
        if self._full or len(self.rows) >= self._most_rows:
            return
        layers = json.loads(line.decode(errors="replace"), strict=False).get("layers", {})
        row = [self._cell(info, layers.get(key), layers, command) for info, key, command in self._fields]
        self._room -= len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        if self._room < 0:
            self._full = True
        else:
            self.rows.append(row)

    def _cell(self, info: FieldInfo, found: Any, layers: dict[str, Any], command: str | None) -> Cell:
        if found is None:
            return None
        values = found if isinstance(found, list) else [found]
        if command is not None and not self._reveal:
            said = layers.get(command.replace(".", "_")) or []
            if is_secret_by(command, [str(one) for one in (said if isinstance(said, list) else [said])]):
                return MASK
        typed = [info.value(value, reveal=self._reveal) for value in values]
        return typed[0] if len(typed) == 1 else typed


@dataclass(frozen=True)
class ProtocolCount:
    """A line of the protocol hierarchy."""

    path: tuple[str, ...]
    frames: int
    size_bytes: int


def read_hierarchy(text: str) -> Iterator[ProtocolCount]:
    """Read `-z io,phs`."""
    path: list[str] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"( *)(\S+) +frames:(\d+) bytes:(\d+)", line):
            del path[len(match[1]) // 2 :]
            path.append(match[2])
            yield ProtocolCount(tuple(path), int(match[3]), int(match[4]))


@dataclass(frozen=True)
class EndpointCount:
    """A line of the endpoints."""

    address: str
    port: int | None
    packets: int
    size_bytes: int
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


def read_endpoints(text: str) -> Iterator[EndpointCount]:
    """Read `-z endpoints,...`: with a port for TCP and UDP, without for the others."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 7 or not all(word.isdigit() for word in words[-6:]):
            continue
        numbers = [int(word) for word in words[-6:]]
        port = int(words[1]) if len(words) == 8 else None
        yield EndpointCount(words[0], port, *numbers)


@dataclass
class Conversation:
    """Packets and bytes between two endpoints; `a` sent the first."""

    a: str
    a_port: int | None
    b: str
    b_port: int | None
    stream: int | None
    first: float
    last: float
    packets_ab: int = 0
    bytes_ab: int = 0
    packets_ba: int = 0
    bytes_ba: int = 0


@dataclass
class Conversations:
    """Conversations added up out of `-T fields`, because `-z conv` rounds bytes to thousands.

    `FIELDS[kind]` are to be asked for; `FILTER[kind]` leaves out packets that are only quoted in ICMP errors.
    """

    FIELDS: ClassVar = {
        "eth": ("eth.src", "eth.dst"),
        "ip": ("ip.src", "ip.dst", "icmp.type"),
        "ipv6": ("ipv6.src", "ipv6.dst", "icmpv6.type"),
        "tcp": ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.stream"),
        "udp": ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "udp.srcport", "udp.dstport", "udp.stream"),
    }  # fmt: skip
    FILTER: ClassVar = {
        "eth": "eth",
        "ip": "ip",
        "ipv6": "ipv6",
        "tcp": "tcp && !icmp && !icmpv6",
        "udp": "udp && !icmp && !icmpv6",
    }

    kind: str
    found: dict[tuple[Any, ...], Conversation] = field(default_factory=dict)
    packets: int = 0
    beyond: int = 0

    @classmethod
    def arguments(cls, kind: str, display_filter: str) -> list[str]:
        """What to ask tshark for."""
        wanted = f"({display_filter}) && {cls.FILTER[kind]}" if display_filter else cls.FILTER[kind]
        argv = ["-Y", wanted, "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]
        for name in ("frame.len", "frame.time_epoch", *cls.FIELDS[kind]):
            argv += ["-e", name]
        return argv

    def take(self, line: bytes) -> None:
        length, time, *values = line.decode(errors="replace").split("\t")
        lists = [value.split(",") if value else [] for value in values]
        self.packets += 1
        size, at = int(length), float(time)
        if self.kind in {"tcp", "udp"}:
            source, target, source6, target6, source_port, target_port, stream = lists
            # The innermost of a tunnel; whichever of the two families is there.
            one, other = (source, target) if source else (source6, target6)
            if one and other and source_port and target_port:
                number = int(stream[-1]) if stream else None
                self._add((one[-1], int(source_port[-1])), (other[-1], int(target_port[-1])), number, size, at)
            return
        sources, targets = lists[:2]
        pairs = list(zip(sources, targets, strict=False))
        if len(lists) == 3 and lists[2] and len(pairs) > 1:
            pairs.pop()  # what an ICMP error quotes was sent by nobody now
        for source_address, target_address in pairs:
            self._add((source_address, None), (target_address, None), None, size, at)

    def _add(
        self, source: tuple[str, int | None], target: tuple[str, int | None], stream: int | None, size: int, at: float
    ) -> None:
        forward, backward = (*source, *target, stream), (*target, *source, stream)
        conversation = self.found.get(forward)
        if conversation is not None:
            ours = True
        elif (conversation := self.found.get(backward)) is not None:
            ours = False
        elif len(self.found) >= MOST_CONVERSATIONS:
            self.beyond += 1
            return
        else:
            conversation = self.found[forward] = Conversation(*source, *target, stream, at, at)
            ours = True
        conversation.first, conversation.last = min(conversation.first, at), max(conversation.last, at)
        if ours:
            conversation.packets_ab += 1
            conversation.bytes_ab += size
        else:
            conversation.packets_ba += 1
            conversation.bytes_ba += size


@dataclass
class Notes:
    """Expert information added up: by severity, group, protocol and message, with frames as evidence."""

    FIELDS = (
        "frame.number", "_ws.expert.severity", "_ws.expert.group", "_ws.expert.message", "_ws.col.Protocol",
    )  # fmt: skip
    # epan/proto.h of Wireshark
    SEVERITIES: ClassVar = {
        0x00800000: "error",
        0x00600000: "warning",
        0x00400000: "note",
        0x00200000: "chat",
        0x00100000: "comment",
    }
    GROUPS: ClassVar = {
        0x01: "checksum", 0x02: "sequence", 0x03: "response", 0x04: "request", 0x05: "undecoded", 0x06: "reassemble",
        0x07: "malformed", 0x08: "debug", 0x09: "protocol", 0x0A: "security", 0x0B: "comments", 0x0C: "decryption",
        0x0D: "assumption", 0x0E: "deprecated", 0x0F: "receive", 0x10: "interface", 0x11: "dissector bug",
    }  # fmt: skip
    found: dict[tuple[str, str, str], tuple[int, str, list[int]]] = field(default_factory=dict)
    total: int = 0
    beyond: int = 0

    def take(self, line: bytes) -> None:
        if not line.startswith(b'{"timestamp"'):
            return
        layers = json.loads(line.decode(errors="replace"), strict=False).get("layers", {})
        number, severities, groups, messages, protocol = (
            layers.get(name.replace(".", "_"), []) for name in self.FIELDS
        )
        frame = int(number[0]) if number else 0
        for severity, group, message in zip(severities, groups, messages, strict=False):
            self.total += 1
            key = (
                self.SEVERITIES.get(int(severity), "unknown"),
                self.GROUPS.get(int(group) >> 24, "unknown"),
                str(message),
            )
            if key not in self.found and len(self.found) >= MOST_NOTES:
                self.beyond += 1
                continue
            count, name, frames = self.found.get(key, (0, str(protocol[0]) if protocol else "", []))
            self.found[key] = (count + 1, name, [*frames, frame] if len(frames) < MOST_FRAMES else frames)


@dataclass(frozen=True)
class Piece:
    """What one side of a followed stream said at once."""

    frame: int
    from_first: bool
    time: float
    data: bytes


@dataclass
class Stream:
    """A followed stream, out of `-z follow,...,yaml`: exact bytes with frame numbers and times."""

    hosts: list[str] = field(default_factory=lambda: ["", ""])
    ports: list[int] = field(default_factory=lambda: [0, 0])
    pieces: list[Piece] = field(default_factory=list)

    @classmethod
    def read(cls, text: str, *, cut: bool = False) -> Stream:
        """Read it; of output that is cut off, the last piece may be half and is left out."""
        stream = cls()
        peer, in_packets = 0, False
        frame, time = 0, 0.0
        encoded: list[str] | None = None
        for line in [*text.splitlines(), "packets:"]:
            key, _, value = line.strip().lstrip("- ").partition(": ")
            if in_packets and encoded is not None and (line.startswith("  - ") or not line.startswith("  ")):
                stream._add(frame, peer, time, encoded)
                encoded = None
            if line.startswith("packets:"):
                in_packets = True
            elif key == "peer":
                peer = int(value)
            elif key == "host" and not in_packets:
                stream.hosts[peer] = value
            elif key == "port" and not in_packets:
                stream.ports[peer] = int(value)
            elif key == "packet":
                frame = int(value)
            elif key == "timestamp":
                time = float(value)
            elif key == "data":
                encoded = []
            elif encoded is not None and line.startswith("      "):
                encoded.append(line.strip())
        if cut and stream.pieces:
            stream.pieces.pop()
        return stream

    def _add(self, frame: int, peer: int, time: float, encoded: list[str]) -> None:
        try:
            data = binascii.a2b_base64("".join(encoded), strict_mode=True)
        except ValueError:
            return
        self.pieces.append(Piece(frame, peer == 0, round(time, 6), data))
