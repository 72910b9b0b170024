"""Adds up a capture for the tool `dpkt`, in a child process: plain numbers in, plain numbers out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tasks.core.words import count
from tasks.network.analyze._conversations import Conversations
from tasks.network.analyze._frames import ACK, FIN, PSH, RST, SYN, TCP, UDP, Counts, Frames, Layer, address, read_frames
from tasks.network.analyze._records import Ints
from tasks.network.analyze._selection import Selection
from tasks.network.analyze._volume import Volume, largest

MOST_POINTS: Final = 300
"""Points of the rate: what a plot shows and the ledger keeps."""
_STEPS: Final = tuple(
    int(seconds * 1e9)
    for seconds in (
        0.1,
        0.5,
        1,
        5,
        10,
        30,
        60,
        300,
        600,
        1800,
        3600,
        21_600,
        86_400,
        604_800,
        6_048_000,
        60_480_000,
        604_800_000,
    )
)
"""Lengths of a point's stretch of time; each is a multiple of the one before."""
SIZES: Final = (0, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)
"""Where classes of packet lengths begin: tshark's `-z plen,tree`."""
_FLAGS: Final = {"syn": SYN, "fin": FIN, "rst": RST, "psh": PSH, "ack": ACK, "urg": 32, "ece": 64, "cwr": 128}


@dataclass
class CaptureFacts:
    """What was found; the tool makes its summary of it."""

    coverage: dict[str, Any]
    first_ns: int | None
    last_ns: int | None
    links: dict[int, int] = field(default_factory=dict)
    protocols: list[dict[str, Any]] = field(default_factory=list)
    talkers: list[dict[str, Any]] = field(default_factory=list)
    addresses: int = 0
    conversations: list[dict[str, Any]] = field(default_factory=list)
    conversation_counts: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    sizes: list[dict[str, Any]] = field(default_factory=list)
    smallest: int | None = None
    greatest: int | None = None
    interval_ns: int = 0
    rate: list[tuple[int, int, int]] = field(default_factory=list)


def summarize(path: str, selection: Selection, top: int) -> CaptureFacts:
    """Read the headers of a whole capture.

    Args:
        path: The capture.
        selection: Packets wanted.
        top: Rows of each table.
    """
    counts = Counts()
    summary = _Summary(top)
    for frames in read_frames(path, selection, counts):
        if len(frames):
            summary.add(frames)
    counts.analyzed = counts.packets
    for conversations in (summary.pairs, summary.tcp, summary.udp):
        if conversations.left_out:
            counts.notes.append(
                f"{count(conversations.left_out, 'packet belongs', 'packets belong')} to conversations beyond the "
                f"first {conversations.most:,}."
            )
    return summary.facts(counts)


class _Summary:
    def __init__(self, top: int) -> None:
        self.top = top
        self.pairs, self.tcp, self.udp = Conversations(-1), Conversations(TCP), Conversations(UDP)
        self.volumes = {id(each): Volume(each) for each in (self.pairs, self.tcp, self.udp)}
        self.kinds: dict[tuple[str, int], list[int]] = {}
        self.flags = np.zeros(256, np.int64)
        self.sizes = np.zeros((len(SIZES), 2), np.int64)
        self.smallest: int | None = None
        self.greatest: int | None = None
        self.rate = _Rate()

    def add(self, frames: Frames) -> None:
        """Add the packets of a piece."""
        for conversations in (self.pairs, self.tcp, self.udp):
            self.volumes[id(conversations)].add(frames, conversations.assign(frames))
        self._protocols(frames)
        self.flags += np.bincount(frames.flags[frames.is_tcp], minlength=256)
        wire = frames.wire_length
        self.smallest = min(int(wire.min()), self.smallest if self.smallest is not None else int(wire.min()))
        self.greatest = max(int(wire.max()), self.greatest or 0)
        place = np.searchsorted(SIZES, wire, "right") - 1
        self.sizes[:, 0] += np.bincount(place, minlength=len(SIZES))
        self.sizes[:, 1] += np.bincount(place, weights=wire, minlength=len(SIZES)).astype(np.int64)
        self.rate.add(frames.time_ns, wire)

    def _protocols(self, frames: Frames) -> None:
        wire = frames.wire_length
        self._tally("ethernet type", np.where(frames.version > 0, -1, frames.kind), wire)
        self._tally("ip", frames.version, wire)
        self._tally("transport", frames.protocol, wire)
        for layer in Layer:
            if layer in (Layer.ASSEMBLED, Layer.LLC):
                continue
            mask = frames.layers & layer != 0
            if mask.any():
                self._tally("layer", np.where(mask, int(layer), -1), wire)

    def _tally(self, group: str, values: Ints, wire: Ints) -> None:
        known = values > 0 if group != "transport" else values >= 0
        found, place, packets = np.unique(values[known], return_inverse=True, return_counts=True)
        sizes = np.bincount(place, weights=wire[known], minlength=len(found))
        for value, many, size in zip(found.tolist(), packets.tolist(), sizes.tolist(), strict=True):
            entry = self.kinds.setdefault((group, value), [0, 0])
            entry[0] += many
            entry[1] += int(size)

    def facts(self, counts: Counts) -> CaptureFacts:
        """What all pieces add up to."""
        for conversations in (self.pairs, self.tcp, self.udp):
            conversations.table.release()
        talkers, addresses = self._talkers()
        named = {
            name: int(self.flags[[value for value in range(256) if value & bit]].sum()) for name, bit in _FLAGS.items()
        }
        named["syn_ack"] = int(self.flags[[value for value in range(256) if value & (SYN | ACK) == SYN | ACK]].sum())
        named["none"] = int(self.flags[0])
        return CaptureFacts(
            coverage=counts.coverage(),
            first_ns=counts.first_ns,
            last_ns=counts.last_ns,
            protocols=self._named(),
            talkers=talkers,
            addresses=addresses,
            conversations=self._conversations(),
            conversation_counts={"ip": len(self.pairs), "tcp": len(self.tcp), "udp": len(self.udp)},
            flags=named,
            sizes=[
                {"from": low, "packets": int(packets), "bytes": int(size)}
                for low, (packets, size) in zip(SIZES, self.sizes.tolist(), strict=True)
            ],
            smallest=self.smallest,
            greatest=self.greatest,
            interval_ns=self.rate.step,
            rate=self.rate.points(),
        )

    def _named(self) -> list[dict[str, Any]]:
        names: dict[str, Any] = {
            "ip": lambda value: f"IPv{value}",
            "layer": lambda value: {"TUNNEL": "IP in IP", "FRAGMENT": "IP fragments", "PPPOE": "PPPoE"}.get(
                str(Layer(value).name), str(Layer(value).name)
            ),
            "transport": _transport_name,
            "ethernet type": _ethernet_name,
        }
        order = list(names)
        rows = [
            {"group": group, "name": names[group](value), "packets": packets, "bytes": size}
            for (group, value), (packets, size) in self.kinds.items()
        ]
        return sorted(rows, key=lambda row: (order.index(row["group"]), -row["packets"], row["name"]))[: 3 * self.top]

    def _talkers(self) -> tuple[list[dict[str, Any]], int]:
        """Addresses by what they sent and received: both sides of all pairs, added up."""
        table, size = self.pairs.table, len(self.pairs)
        if not size:
            return [], 0
        key = np.empty(2 * size, np.dtype([("high", "u8"), ("low", "u8"), ("version", "u1")]))
        for name in ("high", "low"):
            key[name] = table[name][:size].T.ravel()
        key["version"] = np.tile(table["version"][:size], 2)
        table.release()
        ends, place = np.unique(key, return_inverse=True)
        del key
        columns: dict[str, Ints] = {}
        for name in ("packets", "bytes"):
            sent = table[name][:size].T.ravel()
            received = table[name][:size, ::-1].T.ravel()
            table.release()
            for how, values in (("sent", sent), ("received", received)):
                columns[f"{name}_{how}"] = np.zeros(len(ends), np.int64)
                np.add.at(columns[f"{name}_{how}"], place, values)
        total = columns["bytes_sent"] + columns["bytes_received"]
        rows = [
            {
                "address": address(int(ends["version"][i]), int(ends["high"][i]), int(ends["low"][i])),
                **{name: int(column[i]) for name, column in columns.items()},
            }
            for i in largest(total, self.top)
        ]
        return rows, len(ends)

    def _conversations(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for name, conversations in (("tcp", self.tcp), ("udp", self.udp)):
            volume, table, clients = self.volumes[id(conversations)], conversations.table, conversations.clients()
            for identity in volume.largest(self.top):
                client = int(clients[identity])
                here, there = conversations.endpoint(identity, client), conversations.endpoint(identity, 1 - client)
                rows.append(
                    {
                        "protocol": name,
                        "stream": identity,
                        "client": here[0],
                        "client_port": here[1],
                        "server": there[0],
                        "server_port": there[1],
                        "packets": int(table["packets"][identity].sum()),
                        "bytes_sent": int(table["bytes"][identity, client]),
                        "bytes_received": int(table["bytes"][identity, 1 - client]),
                        "start_ns": int(table["first_ns"][identity]),
                        "seconds": volume.duration_ns(identity) / 1e9,
                    }
                )
        rows.sort(key=lambda row: -(row["bytes_sent"] + row["bytes_received"]))
        return rows[: self.top]


class _Rate:
    """Packets and bytes by time, in as many stretches as a plot has room for."""

    def __init__(self) -> None:
        self.level = 0
        self.buckets: dict[int, list[int]] = {}

    @property
    def step(self) -> int:
        return _STEPS[self.level]

    def add(self, time_ns: Ints, wire: Ints) -> None:
        """Count packets; those without a time are left out."""
        timed = time_ns != 0
        if not timed.any():
            return
        time_ns, wire = time_ns[timed], wire[timed]
        ends = [int(time_ns.min()) // self.step, int(time_ns.max()) // self.step]
        if self.buckets:
            ends += [min(self.buckets), max(self.buckets)]
        low, high = min(ends) * self.step, max(ends) * self.step
        while (high - low) // self.step >= MOST_POINTS and self.level + 1 < len(_STEPS):
            self._coarser()
        found, place, packets = np.unique(time_ns // self.step, return_inverse=True, return_counts=True)
        sizes = np.bincount(place, weights=wire, minlength=len(found))
        for bucket, many, size in zip(found.tolist(), packets.tolist(), sizes.tolist(), strict=True):
            entry = self.buckets.setdefault(bucket, [0, 0])
            entry[0] += many
            entry[1] += int(size)

    def _coarser(self) -> None:
        times = _STEPS[self.level + 1] // self.step
        self.level += 1
        old, self.buckets = self.buckets, {}
        for bucket, (packets, size) in old.items():
            entry = self.buckets.setdefault(bucket // times, [0, 0])
            entry[0] += packets
            entry[1] += size

    def points(self) -> list[tuple[int, int, int]]:
        """Start of each stretch (nanoseconds since the epoch), its packets and bytes; empty ones between are there too."""
        if not self.buckets:
            return []
        low, high = min(self.buckets), max(self.buckets)
        # Clocks that were centuries apart leave more stretches between than there is room for.
        places = sorted(self.buckets)[:MOST_POINTS] if high - low >= 2 * MOST_POINTS else range(low, high + 1)
        counted = ((bucket, self.buckets.get(bucket, [0, 0])) for bucket in places)
        return [(bucket * self.step, packets, size) for bucket, (packets, size) in counted]


def _transport_name(protocol: int) -> str:
    # The library's table of names. Its import is too slow for every start.
    import dpkt.ip  # type: ignore[import-untyped]

    return str(dpkt.ip.get_ip_proto_name(protocol) or f"protocol {protocol}")


def _ethernet_name(kind: int) -> str:
    import dpkt.ethernet  # type: ignore[import-untyped]

    if kind <= 1500:
        return "IEEE 802.3"
    names = (
        name for name in dir(dpkt.ethernet) if name.startswith("ETH_TYPE_") and getattr(dpkt.ethernet, name) == kind
    )
    return next((name.removeprefix("ETH_TYPE_") for name in names), f"type 0x{kind:04x}")
