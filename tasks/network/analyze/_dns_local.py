"""Names without a server: mDNS (RFC 6762), LLMNR (RFC 4795) and NetBIOS (RFC 1002), counted apart from DNS."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from tasks.network.analyze._dns_message import AAAA, PTR, QR, A, Malformed, Reader, name_text, read_name, read_records

MDNS, LLMNR, NETBIOS = "mdns", "llmnr", "netbios"
PROTOCOLS: Final = {5353: MDNS, 5355: LLMNR, 137: NETBIOS}
MOST_NAMES: Final = 5_000
MOST_RESPONDERS: Final = 5_000
_NB: Final = 32
_RECURSION_AVAILABLE: Final = 0x0080
_SERVICES: Final = "_services._dns-sd._udp.local"
PROXY_NAMES: Final = frozenset({"wpad", "isatap", "proxysrv"})
"""Names that machines ask for by themselves, and that give power to whoever answers."""


class Responder:
    """A host that answers, and for which names."""

    __slots__ = ("answers", "frames", "names")

    def __init__(self) -> None:
        self.answers = 0
        self.names: set[str] = set()
        self.frames: list[int] = []


class LocalNames:
    """Counts of one of the three protocols."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.reader = Reader()
        self.queries = self.answers = self.malformed = 0
        self.names: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.services: Counter[str] = Counter()
        self.responders: dict[str, Responder] = {}
        self.proxy_frames: list[int] = []
        self.frames: list[int] = []

    def message(self, data: bytes, frame: int, source: str, *, cut: bool = False) -> bool:
        """Take one message; return whether it could be read."""
        try:
            message = self.reader.read(data, cut=cut)
        except Malformed:
            self.malformed += 1
            return False
        if len(self.frames) < 20:
            self.frames.append(frame)
        if message.flags & QR:
            self.answers += 1
            responder = self.responders.get(source)
            if responder is None and len(self.responders) < MOST_RESPONDERS:
                responder = self.responders[source] = Responder()
            if responder is not None:
                self._answer(data, frame, message.flags, responder)
            return True
        self.queries += 1
        if message.flags >> 11 & 15:
            return True  # NetBIOS registers and releases names with the same bit
        _count(self.clients, source)
        for question in message.questions:
            name = self._name(question.labels)
            _count(self.names, name)
            if self.protocol != MDNS and name.lower() in PROXY_NAMES and len(self.proxy_frames) < 20:
                self.proxy_frames.append(frame)
        return True

    def _answer(self, data: bytes, frame: int, flags: int, responder: Responder) -> None:
        responder.answers += 1
        if len(responder.frames) < 20:
            responder.frames.append(frame)
        try:
            for record in read_records(data):
                if record.section:
                    break  # what is added to an answer was not asked for
                if self.protocol == MDNS:
                    self._service(data, record.labels, record.type, record.start)
                if self.protocol != NETBIOS:
                    wanted = record.type in {A, AAAA}
                else:  # only name servers say that they recurse, and they may know every name
                    wanted = record.type == _NB and not flags >> 11 & 15 and not flags & _RECURSION_AVAILABLE
                if wanted and len(responder.names) < 100:
                    responder.names.add(self._name(record.labels).lower())
        except Malformed:
            pass  # what the capture has of it was read

    def _service(self, data: bytes, labels: tuple[bytes, ...], kind: int, start: int) -> None:
        if kind != PTR:
            return
        owner = name_text(labels)
        if owner == _SERVICES:
            try:
                owner = name_text(read_name(data, start)[0])
            except (IndexError, Malformed):
                return
        if owner.startswith("_"):
            _count(self.services, owner)

    def _name(self, labels: tuple[bytes, ...]) -> str:
        if self.protocol == NETBIOS and labels and len(labels[0]) == 32:
            return netbios_name(labels[0])
        return name_text(labels)

    def summary(self, top: int) -> dict[str, Any]:
        """A row of the report."""
        return {
            "protocol": self.protocol,
            "queries": self.queries,
            "answers": self.answers,
            "malformed": self.malformed,
            "clients": len(self.clients),
            "responders": len(self.responders),
            "names": [{"name": name[:255], "count": count} for name, count in _most(self.names, top)],
            "services": [{"name": name[:255], "count": count} for name, count in _most(self.services, top)],
        }


def netbios_name(label: bytes) -> str:
    """Decode a NetBIOS name from its half-bytes (RFC 1001 section 14.1), without the padding and the suffix byte.

    >>> netbios_name(b"FHFAEBEECACACACACACACACACACACAAA")
    'WPAD'
    """
    if len(label) != 32 or not all(0x41 <= byte <= 0x50 for byte in label):
        return name_text((label,))
    raw = bytes((label[i] - 0x41) << 4 | label[i + 1] - 0x41 for i in range(0, 32, 2))
    return name_text((raw[:15].rstrip(b" \0"),)) if raw.strip(b" \0") else "."


def _count(counter: Counter[str], name: str) -> None:
    if name in counter or len(counter) < MOST_NAMES:
        counter[name] += 1


def _most(counter: Counter[str], top: int) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:top]
