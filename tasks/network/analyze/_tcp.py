"""Reads the TCP of a capture for `tcp_analyzer`, in a child process: plain numbers in, plain numbers out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tasks.core.words import count
from tasks.network.analyze._conversations import Conversations
from tasks.network.analyze._frames import TCP, Counts, read_frames
from tasks.network.analyze._records import Ints
from tasks.network.analyze._selection import Selection
from tasks.network.analyze._tcp_handshake import Ending, Handshakes
from tasks.network.analyze._tcp_sequence import Event, Sequences
from tasks.network.analyze._volume import Volume, largest

LEAST_PORTS: Final = 15
"""Ports of one host that do not answer one client: more than anybody mistypes."""
LEAST_HOSTS: Final = 15
"""Hosts of which one port does not answer one client."""
LEAST_FLOOD: Final = 200
"""Handshakes that one port was left with."""
MOST_FRAMES: Final = 20
MOST_SUBJECTS: Final = 20_000
"""Clients and servers that are looked at; a flood of invented addresses must not fill the memory."""
MOST_SCANS: Final = 50
_FAILED: Final = (Ending.REFUSED, Ending.UNANSWERED, Ending.HALF_OPEN, Ending.STRAY)


@dataclass
class TcpFacts:
    """What was found; the tool makes its report of it."""

    coverage: dict[str, Any]
    packets: int = 0
    bytes: int = 0
    payload_bytes: int = 0
    conversations: int = 0
    events: dict[str, int] = field(default_factory=dict)
    resent_bytes: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    handshakes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    troubled: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)
    scans: list[dict[str, Any]] = field(default_factory=list)
    floods: list[dict[str, Any]] = field(default_factory=list)


def dissect(path: str, selection: Selection, top: int) -> TcpFacts:
    """Read a capture's TCP.

    Args:
        path: The capture.
        selection: Packets wanted.
        top: Rows of each table.
    """
    counts = Counts()
    reader = _Reader(top)
    for frames in read_frames(path, selection, counts):
        assigned = reader.conversations.assign(frames)
        reader.volume.add(frames, assigned)
        reader.handshakes.add(frames, assigned)
        reader.sequences.add(frames, assigned)
        mask = frames.is_tcp
        counts.analyzed += int(mask.sum())
        reader.bytes += int(frames.wire_length[mask].sum())
        reader.payload_bytes += int(frames.payload_wire[mask].sum())
    if reader.conversations.left_out:
        counts.notes.append(
            f"{count(reader.conversations.left_out, 'packet belongs', 'packets belong')} to conversations beyond the first "
            f"{reader.conversations.most:,}."
        )
    return reader.facts(counts)


class _Reader:
    def __init__(self, top: int) -> None:
        self.top = top
        self.bytes = self.payload_bytes = 0
        self.conversations = Conversations(TCP)
        self.volume = Volume(self.conversations)
        self.handshakes = Handshakes(self.conversations)
        self.sequences = Sequences(self.conversations)

    def facts(self, counts: Counts) -> TcpFacts:
        size = len(self.conversations)
        self.endings = self.handshakes.endings()
        self.clients = self.conversations.clients()
        scans, scanners = self._scans()
        return TcpFacts(
            coverage=counts.coverage(),
            packets=counts.analyzed,
            bytes=self.bytes,
            payload_bytes=self.payload_bytes,
            conversations=size,
            events={event.name.lower(): int(self.sequences.totals[event]) for event in Event},
            resent_bytes=self.sequences.resent_bytes,
            endings={ending.name.lower(): int((self.endings == ending).sum()) for ending in Ending},
            handshakes=self._handshake_times(),
            rows=[self.row(identity) for identity in self.volume.largest(self.top)],
            troubled=self._troubled(),
            servers=self._unwell(scanners),
            scans=scans,
            floods=self._floods(),
        )

    def row(self, identity: int) -> dict[str, Any]:
        """A conversation as a row of a table."""
        table, client = self.conversations.table, int(self.clients[identity])
        here, there = self.conversations.endpoint(identity, client), self.conversations.endpoint(identity, 1 - client)
        seconds = self.volume.duration_ns(identity) / 1e9
        times = [int(table[name][identity]) for name in ("syn_ns", "syn_ack_ns", "first_ack_ns")]
        sent, received = (int(table["payload"][identity, side]) for side in (client, 1 - client))
        events = {
            event.name.lower(): dict(zip(("client", "server"), self._by_role(identity, event, client), strict=True))
            for event in Event
            if any(self.sequences.of(identity, event))
        }
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
            "sent_bps": 8 * sent / seconds if seconds > 0 and sent else None,
            "received_bps": 8 * received / seconds if seconds > 0 and received else None,
            "network_rtt_ns": times[1] - times[0] if times[0] >= 0 and times[1] >= times[0] else None,
            "handshake_ns": times[2] - times[0] if times[0] >= 0 and times[2] >= times[0] else None,
            "ending": Ending(int(self.endings[identity])).name.lower(),
            "events": events,
            "frames": {
                event.name.lower(): frames for event, frames in self.sequences.evidence.get(identity, {}).items()
            },
        }

    def _by_role(self, identity: int, event: Event, client: int) -> tuple[int, int]:
        counts = self.sequences.of(identity, event)
        return counts[client], counts[1 - client]

    def _handshake_times(self) -> dict[str, dict[str, Any]]:
        table = self.conversations.table

        def between(first: str, then: str) -> dict[str, Any]:
            def taken(rows: slice) -> Ints:
                a, b = table[first][rows], table[then][rows]
                return (b - a)[(a >= 0) & (b >= a)]

            return _percentiles(table.each(taken))

        return {
            "server": between("syn_ns", "syn_ack_ns"),
            "client": between("syn_ack_ns", "first_ack_ns"),
            "whole": between("syn_ns", "first_ack_ns"),
        }

    def _troubled(self) -> list[dict[str, Any]]:
        """Conversations with the most trouble: sent again, lost, out of order, closed windows."""
        table = self.conversations.table
        columns = [
            side * len(Event) + event
            for event in Event
            if event not in (Event.KEEP_ALIVE, Event.DUPLICATE_ACK)
            for side in (0, 1)
        ]
        bad = table.each(lambda rows: table["events"][rows][:, columns].sum(axis=1, dtype=np.int64))
        return [self.row(identity) for identity in largest(bad, self.top) if bad[identity]]

    def _unwell(self, scanners: set[str]) -> list[dict[str, Any]]:
        """Ports that refuse, do not answer or reset; what scanners asked for is theirs to answer for."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        unwell = np.isin(self.endings, (Ending.REFUSED, Ending.UNANSWERED, Ending.HALF_OPEN, Ending.RESET))
        for identity in np.flatnonzero(unwell).tolist():
            client = int(self.clients[identity])
            if self.conversations.endpoint(identity, client)[0] in scanners:
                continue
            server = self.conversations.endpoint(identity, 1 - client)
            if server not in found and len(found) >= MOST_SUBJECTS:
                continue
            entry = found.setdefault(
                server,
                {
                    "server": server[0],
                    "port": server[1],
                    "refused": 0,
                    "unanswered": 0,
                    "half_open": 0,
                    "reset": 0,
                    "frames": [],
                },
            )
            entry[Ending(int(self.endings[identity])).name.lower()] += 1
            if len(entry["frames"]) < MOST_FRAMES:
                entry["frames"].append(int(self.conversations.table["first_frame"][identity]))
        ordered = sorted(
            found.values(),
            key=lambda entry: -(entry["refused"] + entry["unanswered"] + entry["half_open"] + entry["reset"]),
        )
        return ordered[: self.top]

    def _scans(self) -> tuple[list[dict[str, Any]], set[str]]:
        """Clients that knock at many ports of a host, or at one port of many hosts, and mostly are not let in."""
        table, client = self.conversations.table, self.clients
        ports: dict[tuple[str, str], set[int]] = defaultdict(set)
        hosts: dict[tuple[str, int], set[str]] = defaultdict(set)
        frames: dict[object, list[int]] = defaultdict(list)
        stray: dict[object, int] = defaultdict(int)
        failed = np.isin(self.endings, _FAILED)
        # An open port of a scan ends with RST, before anything was said.
        silent = (self.endings == Ending.RESET) & table.each(lambda rows: table["payload"][rows].sum(axis=1) == 0)
        for identity in np.flatnonzero(failed | silent).tolist():
            here = self.conversations.endpoint(identity, int(client[identity]))[0]
            server, port = self.conversations.endpoint(identity, 1 - int(client[identity]))
            for key, group, value in (((here, server), ports, port), ((here, port), hosts, server)):
                if key not in group and len(group) >= MOST_SUBJECTS:
                    continue
                group[key].add(value)  # type: ignore[index,arg-type]
                stray[key] += int(self.endings[identity] == Ending.STRAY)
                if len(frames[key]) < MOST_FRAMES:
                    frames[key].append(int(table["first_frame"][identity]))
        found: list[dict[str, Any]] = []
        for (here, server), values in ports.items():
            if len(values) >= LEAST_PORTS:
                key = (here, server)
                kind = "stray flags" if stray[key] > len(values) // 2 else "ports"
                found.append(
                    {
                        "kind": kind,
                        "client": here,
                        "target": server,
                        "count": len(values),
                        "sample": sorted(values)[:20],
                        "frames": frames[key],
                    }
                )
        for (here, port), names in hosts.items():
            if len(names) >= LEAST_HOSTS:
                found.append(
                    {
                        "kind": "hosts",
                        "client": here,
                        "target": f"port {port}",
                        "count": len(names),
                        "sample": sorted(names)[:20],
                        "frames": frames[here, port],
                    }
                )
        found.sort(key=lambda scan: -scan["count"])
        return found[:MOST_SCANS], {scan["client"] for scan in found}

    def _floods(self) -> list[dict[str, Any]]:
        """Ports that many addresses opened conversations with and never finished one."""
        sources: dict[tuple[str, int], set[str]] = defaultdict(set)
        counts: dict[tuple[str, int], int] = defaultdict(int)
        frames: dict[tuple[str, int], list[int]] = defaultdict(list)
        for identity in np.flatnonzero(np.isin(self.endings, (Ending.HALF_OPEN, Ending.UNANSWERED))).tolist():
            client = int(self.clients[identity])
            server = self.conversations.endpoint(identity, 1 - client)
            if server not in counts and len(counts) >= MOST_SUBJECTS:
                continue
            counts[server] += 1
            if len(sources[server]) < 10_000:
                sources[server].add(self.conversations.endpoint(identity, client)[0])
            if len(frames[server]) < MOST_FRAMES:
                frames[server].append(int(self.conversations.table["first_frame"][identity]))
        return [
            {
                "server": server,
                "port": port,
                "count": count,
                "sources": len(sources[server, port]),
                "frames": frames[server, port],
            }
            for (server, port), count in sorted(counts.items(), key=lambda entry: -entry[1])[:20]
            if count >= LEAST_FLOOD
        ]


def _percentiles(values: Ints) -> dict[str, Any]:
    """Nearest-rank percentiles, milliseconds."""
    if not len(values):
        return {"count": 0, "p50_ms": None, "p90_ms": None, "p99_ms": None, "longest_ms": None}
    ordered = np.sort(values)
    at = {f"p{percent}_ms": ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 90, 99)}
    return {
        "count": len(ordered),
        **{name: round(int(v) / 1e6, 3) for name, v in at.items()},
        "longest_ms": round(int(ordered[-1]) / 1e6, 3),
    }
