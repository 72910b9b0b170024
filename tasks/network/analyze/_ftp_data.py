"""Finds the data channels that control channels agreed upon, and adds up what they carried.

Only headers are looked at, so what the snap length cut off counts all the same.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tasks.network.analyze._conversations import Assigned, Conversations
from tasks.network.analyze._frames import FIN, TCP, Counts, Frames, read_frames
from tasks.network.analyze._selection import Selection
from tasks.network.analyze._volume import Volume

if TYPE_CHECKING:
    from tasks.network.analyze._ftp_stream import Transfer
    from tasks.network.analyze._ftp_wire import Endpoint

_ROUND = 1 << 32
"""Sequence numbers begin again after so many bytes."""


@dataclass(slots=True)
class Channel:
    """A conversation with an endpoint that was agreed upon.

    Attributes:
        peer: Address of the one who connected.
        first_ns: Its first packet.
        last_ns: Its last packet.
        frame: Number of its first packet.
        sent: Bytes that the listening side sent.
        received: Bytes that it got.
        packets: Packets of both sides.
    """

    peer: str
    first_ns: int
    last_ns: int
    frame: int
    sent: int
    received: int
    packets: int


@dataclass(slots=True)
class Correlation:
    """What came of it: packets of data channels, and connections to them of somebody else."""

    packets: int = 0
    strangers: list[tuple[Transfer, Channel]] = field(default_factory=list)


def correlate(path: str, selection: Selection, transfers: Iterable[Transfer]) -> Correlation:
    """Give every transfer what its data channel carried, as far as the capture has it.

    The port and the host of a selection are those of the control channel; data channels are looked for beyond them.
    """
    found = Correlation()
    wanted = [transfer for transfer in transfers if transfer.setup.endpoint is not None]
    if not wanted:
        return found
    ends: set[Endpoint] = set()
    for transfer in wanted:
        ends.update(_places(transfer))
    channels = _read(path, Selection(start_ns=selection.start_ns, end_ns=selection.end_ns), ends)
    taken: set[int] = set()
    for transfer in sorted(wanted, key=lambda one: one.time_ns):
        passive = transfer.setup.mode in {"PASV", "EPSV"}
        peer = transfer.client[0] if passive else transfer.server[0]
        candidates = [
            channel
            for place in _places(transfer)
            for channel in channels.get(place, ())
            if channel.first_ns >= transfer.setup.time_ns and id(channel) not in taken
        ]
        # The next agreement on the same endpoint has the next conversation: the first that is left is this one's.
        candidates.sort(key=lambda channel: channel.first_ns)
        channel = next((one for one in candidates if one.peer == peer), None)
        for other in candidates:
            if other.peer != peer and (channel is None or other.first_ns <= channel.first_ns):
                found.strangers.append((transfer, other))
                taken.add(id(other))
        if channel is None:
            continue
        taken.add(id(channel))
        uploading = transfer.verb in {"STOR", "STOU", "APPE"}
        transfer.bytes = channel.received if passive == uploading else channel.sent
        transfer.data_ns = channel.last_ns - channel.first_ns
        transfer.data_frame = channel.frame
        found.packets += channel.packets
    return found


def _places(transfer: Transfer) -> list[Endpoint]:
    """Where a transfer's data channel may be: as agreed, and, behind a NAT, at the address of the one who offered it."""
    setup = transfer.setup
    if setup.endpoint is None:
        return []
    offered_by = transfer.server[0] if setup.mode in {"PASV", "EPSV"} else transfer.client[0]
    first, second = setup.endpoint, (offered_by, setup.endpoint[1])
    return [first] if first == second else [first, second]


def _read(path: str, selection: Selection, ends: set[Endpoint]) -> dict[Endpoint, list[Channel]]:
    ports = np.zeros(65_536, np.bool_)
    ports[[port for _, port in ends]] = True
    lows = np.array(sorted({int(ipaddress.ip_address(name)) & (1 << 64) - 1 for name, _ in ends}), np.uint64)
    conversations = Conversations(TCP)
    volume = Volume(conversations)
    conversations.table.column("reach", width=2)
    conversations.table.column("fin", fill=-1, width=2)
    for frames in read_frames(path, selection, Counts()):
        tcp = np.flatnonzero(frames.is_tcp)
        source, destination = frames.source_port[tcp], frames.destination_port[tcp]
        near = tcp[ports[source] | ports[destination]]
        near = near[np.isin(frames.source_low[near], lows) | np.isin(frames.destination_low[near], lows)]
        if len(near):
            part = frames.take(near)
            assigned = conversations.assign(part)
            volume.add(part, assigned)
            _reach(part, assigned, conversations)
    channels: dict[Endpoint, list[Channel]] = defaultdict(list)
    table = conversations.table
    for identity in range(len(conversations)):
        client = conversations.client(identity)
        opened = bool(table["syn"][identity].any() or table["syn_ack"][identity].any())
        for side in (1 - client, client):
            end = conversations.endpoint(identity, side)
            if end not in ends:
                continue
            if side == client and opened:
                break  # it connected from that port: it did not listen there
            channels[end].append(
                Channel(
                    peer=conversations.endpoint(identity, 1 - side)[0], first_ns=int(table["first_ns"][identity]),
                    last_ns=int(table["last_ns"][identity]), frame=int(table["first_frame"][identity]),
                    sent=_bytes(conversations, identity, side), received=_bytes(conversations, identity, 1 - side),
                    packets=int(table["packets"][identity].sum()),
                )
            )  # fmt: skip
            break
    return channels


def _reach(frames: Frames, assigned: Assigned, conversations: Conversations) -> None:
    """Note how far each side's sequence numbers come: what was sent twice counts once."""
    table, rows, ids, side = conversations.table, assigned.rows, assigned.ids, assigned.side
    ends = (frames.seq[rows] + frames.payload_wire[rows] - table["base"][ids, side] - 1) % _ROUND
    says = frames.payload_wire[rows] > 0
    fin = frames.flags[rows] & FIN != 0
    for here in (0, 1):
        mine = side == here
        for name, mask in (("reach", mine & says), ("fin", mine & fin)):
            best = np.maximum.reduceat(np.where(mask, ends, -1), assigned.starts)
            table[name][assigned.segments, here] = np.maximum(table[name][assigned.segments, here], best)


def _bytes(conversations: Conversations, identity: int, side: int) -> int:
    """Bytes a side sent. Sequence numbers tell them modulo 2**32, the sum of all segments how often that went round."""
    table = conversations.table
    total, fin, reach = (int(table[name][identity, side]) for name in ("payload", "fin", "reach"))
    end = fin if fin >= 0 else reach
    rounds = max(0, round((total - end) / _ROUND))
    if not total or (fin < 0 and rounds) or end + rounds * _ROUND > 2 * total + (1 << 28):
        return total
    return end + rounds * _ROUND
