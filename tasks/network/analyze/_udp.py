"""Reads the UDP of a capture for `udp_analyzer`, in a child process: plain numbers in, plain numbers out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tasks.core.words import count
from tasks.network.analyze._conversations import Conversations
from tasks.network.analyze._frames import UDP, Counts, Frames, Layer, read_frames
from tasks.network.analyze._icmp_errors import IcmpError, icmp_errors
from tasks.network.analyze._records import Ints, Mask
from tasks.network.analyze._selection import Selection
from tasks.network.analyze._volume import Volume

AMPLIFIERS: Final = {
    17: "quote of the day", 19: "chargen", 53: "DNS", 69: "TFTP", 111: "portmap", 123: "NTP", 137: "NetBIOS", 161: "SNMP", 389: "CLDAP",
    427: "SLP", 500: "IKE", 520: "RIP", 1434: "SQL Server browser", 1900: "SSDP", 3283: "Apple Remote Desktop", 3702: "WS-Discovery",
    5093: "Sentinel", 5353: "mDNS", 5683: "CoAP", 10001: "Ubiquiti discovery", 11211: "memcached", 27960: "Quake", 37810: "DHIP",
}  # fmt: skip
"""Services that answer strangers with more than they were asked (US-CERT TA14-017A, and what was found since)."""
LEAST_RATIO: Final = 5.0
"""Bytes of answers for each byte of questions from which a service is worth abusing."""
LEAST_ANSWERED: Final = 3000
"""Bytes of answers before a ratio means anything."""
ONE_WAY: Final = frozenset({162, 514, 2055, 2056, 4739, 6343, 8125, 9995, 9996})
"""Traps, syslog, flow records, statistics: nobody answers those."""
LEAST_PORTS: Final = 15
"""Ports of one host that do not answer one client: more than anybody mistypes."""
_TRACEROUTE: Final = frozenset(range(33434, 33535))
"""Ports that traceroute counts through; what does not answer there is as it should be."""
MOST_FRAMES: Final = 20
MOST_ENTRIES: Final = 20_000


@dataclass
class UdpFacts:
    """What was found; the tool makes its report of it."""

    coverage: dict[str, Any]
    packets: int = 0
    bytes: int = 0
    payload_bytes: int = 0
    conversations: int = 0
    answered: int = 0
    unanswered: int = 0
    one_way: int = 0
    fragments: int = 0
    assembled: int = 0
    unfinished: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    ports: list[dict[str, Any]] = field(default_factory=list)
    silent: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    amplifiers: list[dict[str, Any]] = field(default_factory=list)
    unasked: list[dict[str, Any]] = field(default_factory=list)
    scans: list[dict[str, Any]] = field(default_factory=list)
    fragment_frames: list[int] = field(default_factory=list)


def dissect(path: str, selection: Selection, top: int) -> UdpFacts:
    """Read a capture's UDP.

    Args:
        path: The capture.
        selection: Packets wanted.
        top: Rows of each table.
    """
    counts = Counts()
    reader = _Reader(top)
    for frames in read_frames(path, selection, counts):
        counts.analyzed += reader.add(frames)
    if reader.conversations.left_out:
        counts.notes.append(
            f"{count(reader.conversations.left_out, 'packet belongs', 'packets belong')} to conversations beyond the first "
            f"{reader.conversations.most:,}."
        )
    return reader.facts(counts)


class _Reader:
    def __init__(self, top: int) -> None:
        self.top = top
        self.conversations = Conversations(UDP)
        self.volume = Volume(self.conversations)
        self.conversations.table.column("asker", "i1")
        self.errors: dict[tuple[str, str, int, str], dict[str, Any]] = {}
        self.refused: set[tuple[str, int, str, int]] = set()
        self.fragments = self.assembled = self.wire_bytes = self.payload_bytes = 0
        self.fragment_frames: list[int] = []

    def add(self, frames: Frames) -> int:
        """Look at the packets of a piece; how many were UDP."""
        assigned = self.conversations.assign(frames)
        table = self.conversations.table
        new = table["packets"][assigned.segments].sum(axis=1) == 0
        table["asker"][assigned.segments[new]] = assigned.side[assigned.starts[new]]
        self.volume.add(frames, assigned)
        parts = (frames.protocol == UDP) & (frames.layers & Layer.FRAGMENT != 0)
        self.fragments += int(parts.sum())
        self.assembled += int((parts & (frames.layers & Layer.ASSEMBLED != 0)).sum())
        room = MOST_FRAMES - len(self.fragment_frames)
        self.fragment_frames += frames.number[np.flatnonzero(parts)[:room]].tolist()
        for error in icmp_errors(frames):
            if error.protocol == UDP:
                self._note(error)
        mask = frames.is_udp
        self.wire_bytes += int(frames.wire_length[mask].sum())
        self.payload_bytes += int(frames.payload_wire[mask].sum())
        return int(mask.sum())

    def _note(self, error: IcmpError) -> None:
        key = (error.reason, error.destination, error.destination_port, error.reporter)
        entry = self.errors.get(key)
        if entry is None:
            if len(self.errors) >= MOST_ENTRIES:
                return
            entry = self.errors[key] = {
                "reason": error.reason, "target": error.destination, "port": error.destination_port, "reporter": error.reporter,
                "count": 0, "clients": set(), "frames": [],
            }  # fmt: skip
        entry["count"] += 1
        if len(entry["clients"]) < 1000:
            entry["clients"].add(error.source)
        if len(entry["frames"]) < MOST_FRAMES:
            entry["frames"].append(error.frame)
        if len(self.refused) < 100_000:
            self.refused.add((error.source, error.source_port, error.destination, error.destination_port))

    def facts(self, counts: Counts) -> UdpFacts:
        table = self.conversations.table
        self.answered: Mask = table.each(lambda rows: np.all(table["packets"][rows] > 0, axis=1))
        self.servers = table.each(self._servers)
        port = self._of(self.servers, "port")
        self.one_way = ~self.answered & (table.each(self._group) | np.isin(port, list(ONE_WAY)))
        unanswered = ~self.answered & ~self.one_way
        return UdpFacts(
            coverage=counts.coverage(),
            packets=counts.analyzed,
            bytes=self.wire_bytes,
            payload_bytes=self.payload_bytes,
            conversations=len(self.conversations),
            answered=int(self.answered.sum()),
            unanswered=int(unanswered.sum()),
            one_way=int(self.one_way.sum()),
            fragments=self.fragments,
            assembled=self.assembled,
            unfinished=any("fragmented datagrams" in note for note in counts.notes),
            rows=[self._row(identity) for identity in self.volume.largest(self.top)],
            ports=self._ports(port),
            silent=self._silent(unanswered),
            errors=[
                {**entry, "clients": len(entry["clients"])}
                for entry in sorted(self.errors.values(), key=lambda entry: -entry["count"])[: self.top]
            ],
            **self._amplification(),
            scans=self._scans(unanswered),
            fragment_frames=self.fragment_frames,
        )

    def _of(self, sides: Ints, name: str) -> Ints:
        """A column's values of one side of each conversation."""
        table = self.conversations.table
        return table.each(lambda rows: np.take_along_axis(table[name][rows], sides[rows, None], axis=1)[:, 0])

    def _servers(self, rows: slice) -> Ints:
        """The side that is asked: a well-known service's, else who did not speak first."""
        port = self.conversations.table["port"][rows]
        side = 1 - self.conversations.table["asker"][rows].astype(np.int64)
        for known in (port < 1024, np.isin(port, list(AMPLIFIERS))):
            side = np.where(known[:, 0] & ~known[:, 1], 0, side)
            side = np.where(known[:, 1] & ~known[:, 0], 1, side)
        return side

    def _group(self, rows: slice) -> Mask:
        """Conversations with a multicast or broadcast address: answers come from other addresses, or not at all."""
        table = self.conversations.table
        four = (table["version"][rows] == 4)[:, None]
        low, high = table["low"][rows], table["high"][rows]
        group: Mask = four & ((low >> np.uint64(28) == 14) | (low == 0xFFFFFFFF) | (low & np.uint64(0xFF) == 0xFF))
        group = group | ~four & (high >> np.uint64(56) == 0xFF)
        return group[:, 0] | group[:, 1]

    def _row(self, identity: int) -> dict[str, Any]:
        table, server = self.conversations.table, int(self.servers[identity])
        there, here = self.conversations.endpoint(identity, server), self.conversations.endpoint(identity, 1 - server)
        seconds = self.volume.duration_ns(identity) / 1e9
        sent, received = int(table["payload"][identity, 1 - server]), int(table["payload"][identity, server])
        return {
            "stream": identity,
            "client": here[0],
            "client_port": here[1],
            "server": there[0],
            "server_port": there[1],
            "start_ns": int(table["first_ns"][identity]),
            "first_frame": int(table["first_frame"][identity]),
            "seconds": seconds,
            "packets": int(table["packets"][identity].sum()),
            "bytes": int(table["bytes"][identity].sum()),
            "sent": sent,
            "received": received,
            "answered": bool(self.answered[identity]),
        }

    def _ports(self, port: Ints) -> list[dict[str, Any]]:
        table = self.conversations.table
        values, place = np.unique(port, return_inverse=True)
        conversations = np.bincount(place, minlength=len(values))
        packets, sizes = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
        np.add.at(packets, place, table.each(lambda rows: table["packets"][rows].sum(axis=1)))
        np.add.at(sizes, place, table.each(lambda rows: table["bytes"][rows].sum(axis=1)))
        answered = np.bincount(place, weights=self.answered, minlength=len(values))
        order = np.argsort(-sizes, kind="stable")[: self.top]
        columns = {
            "port": values,
            "conversations": conversations,
            "answered": answered,
            "packets": packets,
            "bytes": sizes,
        }
        return [{name: int(column[i]) for name, column in columns.items()} for i in order.tolist()]

    def _silent(self, unanswered: Mask) -> list[dict[str, Any]]:
        """Services that left conversations without an answer."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for identity in np.flatnonzero(unanswered).tolist():
            server = self.conversations.endpoint(identity, int(self.servers[identity]))
            entry = found.get(server)
            if entry is None:
                if len(found) >= MOST_ENTRIES:
                    continue
                entry = found[server] = {
                    "server": server[0],
                    "port": server[1],
                    "count": 0,
                    "packets": 0,
                    "refused": 0,
                    "frames": [],
                }
            client = self.conversations.endpoint(identity, 1 - int(self.servers[identity]))
            entry["count"] += 1
            entry["packets"] += int(self.conversations.table["packets"][identity].sum())
            entry["refused"] += (*client, *server) in self.refused
            if len(entry["frames"]) < MOST_FRAMES:
                entry["frames"].append(int(self.conversations.table["first_frame"][identity]))
        return sorted(found.values(), key=lambda entry: (-entry["count"], entry["server"], entry["port"]))[: self.top]

    def _amplification(self) -> dict[str, list[dict[str, Any]]]:
        """Services that answer with far more than they were asked, and answers nobody asked for."""
        table = self.conversations.table
        answers, questions = self._of(self.servers, "payload"), self._of(1 - self.servers, "payload")
        port, spoke = self._of(self.servers, "port"), self._of(self.servers, "packets") > 0
        groups: dict[str, dict[tuple[str, int], dict[str, Any]]] = {"amplifiers": {}, "unasked": {}}
        for identity in np.flatnonzero(spoke & np.isin(port, list(AMPLIFIERS)) & (answers > questions)).tolist():
            server = self.conversations.endpoint(identity, int(self.servers[identity]))
            asked = int(table["packets"][identity, 1 - self.servers[identity]]) > 0
            victim = self.conversations.endpoint(identity, 1 - int(self.servers[identity]))[0]
            found = groups["amplifiers" if asked else "unasked"]
            key = server if asked else (victim, server[1])
            entry = found.get(key)
            if entry is None:
                if len(found) >= MOST_ENTRIES:
                    continue
                entry = found[key] = {
                    "address": key[0],
                    "port": key[1],
                    "service": AMPLIFIERS[key[1]],
                    "asked": 0,
                    "answered": 0,
                    "others": set(),
                    "frames": [],
                }
            entry["asked"] += int(questions[identity])
            entry["answered"] += int(answers[identity])
            if len(entry["others"]) < 1000:
                entry["others"].add(victim if asked else server[0])
            if len(entry["frames"]) < MOST_FRAMES:
                entry["frames"].append(int(table["first_frame"][identity]))
        result: dict[str, list[dict[str, Any]]] = {}
        for name, found in groups.items():
            worth = [
                {
                    **entry,
                    "others": len(entry["others"]),
                    "ratio": round(entry["answered"] / entry["asked"], 1) if entry["asked"] else None,
                }
                for entry in found.values()
                if entry["answered"] >= LEAST_ANSWERED and entry["answered"] >= LEAST_RATIO * entry["asked"]
            ]
            result[name] = sorted(worth, key=lambda entry: -entry["answered"])[: self.top]
        return result

    def _scans(self, unanswered: Mask) -> list[dict[str, Any]]:
        """Clients that try many ports of a host."""
        ports: dict[tuple[str, str], set[int]] = defaultdict(set)
        frames: dict[tuple[str, str], list[int]] = defaultdict(list)
        for identity in np.flatnonzero(unanswered).tolist():
            asker = int(self.conversations.table["asker"][identity])
            here = self.conversations.endpoint(identity, asker)[0]
            server, port = self.conversations.endpoint(identity, 1 - asker)
            if (here, server) not in ports and len(ports) >= MOST_ENTRIES:
                continue
            ports[here, server].add(port)
            if len(frames[here, server]) < MOST_FRAMES:
                frames[here, server].append(int(self.conversations.table["first_frame"][identity]))
        found: list[dict[str, Any]] = [
            {
                "client": here,
                "target": server,
                "count": len(values),
                "sample": sorted(values)[:20],
                "frames": frames[here, server],
            }
            for (here, server), values in ports.items()
            # Many ports of one's own for one service is what clients do; scanners differ in the ports they go to.
            if len(values) >= LEAST_PORTS and not values <= _TRACEROUTE
        ]
        return sorted(found, key=lambda scan: -int(scan["count"]))[: self.top]
