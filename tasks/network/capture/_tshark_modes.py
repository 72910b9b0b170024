"""What `tshark` can be asked about a capture, one method each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tasks.core.errors import NotFound
from tasks.core.offload import offload
from tasks.network.capture._mask import mask_text
from tasks.network.capture._source import Opened
from tasks.network.capture._tshark_fields import FieldInfo, shortened
from tasks.network.capture._tshark_output import (
    LONGEST_LINE,
    MOST_CONVERSATIONS,
    MOST_NOTES,
    Conversations,
    Lines,
    Notes,
    Rows,
    read_endpoints,
    read_hierarchy,
)
from tasks.network.capture._tshark_program import CUT_SHORT, is_cut_short, read_capture
from tasks.network.capture._tshark_rows import (
    Column,
    ConversationRow,
    EndpointRow,
    ExpertRow,
    FollowedStream,
    ProtocolFrames,
    Segment,
)
from tasks.network.capture._tshark_stream import show

T = TypeVar("T", bound=BaseModel)

READING_SECONDS = 580.0
"""Longest tshark may read a capture; the rest of the tool's time is for looking fields up."""
STATISTICS_BYTES = 32 << 20
"""Output of a statistic that is kept: hundreds of thousands of lines."""
FOLLOW_BYTES = 32 << 20
"""Output of a followed stream that is kept."""
AT_ONCE_BYTES = 256 << 10
"""Output of a followed stream that is read here; a longer one is worth a process of its own, or others wait for it."""
SHOW_SECONDS = 120.0
SHOW_MEMORY_BYTES = 1 << 30
_SEVERITIES = ("error", "warning", "note", "comment", "chat")


@dataclass
class Found:
    """What was found: how many rows there are, how many are kept, and the fields of the result that hold them."""

    total: int
    kept: int
    parts: dict[str, Any]


@dataclass
class Reading:
    """One look at a capture.

    Attributes:
        path: The capture.
        display_filter: Which packets count; empty: all.
        decode_as: What to read ports as.
        rows: Most rows kept.
        result_bytes: Most bytes of them, as JSON.
        reveal: Whether secrets stay.
        notes: What a reader must know.
    """

    path: Path
    display_filter: str
    decode_as: Sequence[str]
    rows: int
    result_bytes: int
    reveal: bool
    notes: list[str] = field(default_factory=list)

    async def packets(self, columns: Sequence[FieldInfo]) -> Found:
        """Rows of fields, a row for each packet that matches."""
        rows = Rows(columns, self.rows, self.result_bytes, reveal=self.reveal)
        await self._lines([*self._filter(), *rows.arguments()], rows.take)
        heads = [Column(name=info.name, title=info.title, kind=info.kind) for info in columns]
        return Found(rows.total, len(rows.rows), {"columns": heads, "rows": rows.rows})

    async def hierarchy(self) -> Found:
        """Frames and bytes of each protocol and what it carries."""
        text = await self._statistic("io,phs")
        found = [
            ProtocolFrames(path=":".join(line.path), frames=line.frames, size_bytes=line.size_bytes)
            for line in read_hierarchy(text)
        ]
        return self._kept("hierarchy", found)

    async def conversations(self, layer: str) -> Found:
        """Who talks to whom, with exact bytes."""
        table = Conversations(layer)
        await self._lines(Conversations.arguments(layer, self.display_filter), table.take)
        if table.beyond:
            self.notes.append(
                f"Only the first {MOST_CONVERSATIONS:,} conversations were told apart; {table.beyond:,} packets are of others."
            )
        found = sorted(table.found.values(), key=lambda one: (-one.bytes_ab - one.bytes_ba, one.first))
        return self._kept(
            "conversations",
            (
                ConversationRow(
                    a=one.a,
                    a_port=one.a_port,
                    b=one.b,
                    b_port=one.b_port,
                    stream=one.stream,
                    packets_ab=one.packets_ab,
                    bytes_ab=one.bytes_ab,
                    packets_ba=one.packets_ba,
                    bytes_ba=one.bytes_ba,
                    first_at=datetime.fromtimestamp(one.first, UTC),
                    seconds=round(one.last - one.first, 6),
                )
                for one in found
            ),
            len(found),
        )

    async def endpoints(self, layer: str) -> Found:
        """What each endpoint sent and received."""
        text = await self._statistic(f"endpoints,{layer}")
        found = sorted(read_endpoints(text), key=lambda one: (-one.size_bytes, one.address, one.port or 0))
        return self._kept(
            "endpoints",
            (
                EndpointRow(
                    address=one.address,
                    port=one.port,
                    packets=one.packets,
                    size_bytes=one.size_bytes,
                    sent_packets=one.sent_packets,
                    sent_bytes=one.sent_bytes,
                    received_packets=one.received_packets,
                    received_bytes=one.received_bytes,
                )
                for one in found
            ),
            len(found),
        )

    async def expert(self) -> Found:
        """What Wireshark's experts noticed, with frames as evidence."""
        notes = Notes()
        wanted = f"({self.display_filter}) && _ws.expert" if self.display_filter else "_ws.expert"
        arguments = ["-Y", wanted, "-T", "ek"]
        for name in Notes.FIELDS:
            arguments += ["-e", name]
        await self._lines(arguments, notes.take)
        if notes.beyond:
            self.notes.append(
                f"Only {MOST_NOTES:,} different notes were told apart; {notes.beyond:,} others were seen."
            )

        def rank(severity: str) -> int:
            return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)

        found = sorted(notes.found.items(), key=lambda item: (rank(item[0][0]), -item[1][0], item[0]))
        return self._kept(
            "expert",
            (
                ExpertRow(
                    severity=severity,
                    group=group,
                    protocol=protocol,
                    message=shortened(message if self.reveal else mask_text(message)),
                    count=count,
                    frames=frames,
                )
                for (severity, group, message), (count, protocol, frames) in found
            ),
            len(found),
        )

    async def follow(self, protocol: str, number: int) -> Found:
        """Both sides of a stream, secrets masked over the whole of what each side said.

        Raises:
            NotFound: There is no such stream.
        """
        done = await read_capture(
            self.path,
            [*self._options(), "-q", "-z", f"follow,{protocol},yaml,{number}"],
            timeout=READING_SECONDS,
            max_output_bytes=FOLLOW_BYTES,
        )
        self._note_cut(is_cut_short(done))
        cut = done.truncated and len(done.stdout) >= FOLLOW_BYTES
        order = (done.stdout, cut, self.reveal, self.rows, self.result_bytes)
        if len(done.stdout) <= AT_ONCE_BYTES:
            stream = show(*order)
        else:
            stream = await offload(show, *order, timeout=SHOW_SECONDS, memory_bytes=SHOW_MEMORY_BYTES)
        if not stream.hosts[0]:
            raise NotFound(
                f"The capture has no {protocol} stream {number}.",
                hint="mode conversations with the layer tcp or udp lists the streams.",
            )
        if cut:
            self.notes.append("The stream is longer than what is read of one; its beginning was.")
        client, server = (f"{_bracketed(host)}:{port}" for host, port in zip(stream.hosts, stream.ports, strict=True))
        segments = [
            Segment(
                frame=told.frame,
                at=datetime.fromtimestamp(told.time, UTC),
                from_client=told.from_first,
                size_bytes=told.size_bytes,
                text=told.text,
            )
            for told in stream.told
        ]
        followed = FollowedStream(
            client=client,
            server=server,
            client_bytes=stream.first_bytes,
            server_bytes=stream.second_bytes,
            segments=segments,
        )
        return Found(stream.pieces, len(segments), {"stream": followed})

    # --- running it --------------------------------------------------------------------------------------------------

    def _options(self) -> list[str]:
        return [word for entry in self.decode_as for word in ("-d", entry)]

    def _filter(self) -> list[str]:
        return ["-Y", self.display_filter] if self.display_filter else []

    async def _lines(self, arguments: Sequence[str], take: Callable[[bytes], None]) -> None:
        lines = Lines(take)
        done = await read_capture(
            self.path,
            [*self._options(), *arguments],
            timeout=READING_SECONDS,
            max_output_bytes=0,
            on_stdout=lines.feed,
        )
        if lines.dropped:
            self.notes.append(
                f"{lines.dropped:,} packets were left out: of each, these fields are more than {LONGEST_LINE >> 20} MiB."
            )
        self._note_cut(is_cut_short(done))

    async def _statistic(self, name: str) -> str:
        # Everything behind the name's comma is the filter, commas included.
        tap = f"{name},{self.display_filter}" if self.display_filter else name
        done = await read_capture(
            self.path,
            [*self._options(), "-q", "-z", tap],
            timeout=READING_SECONDS,
            max_output_bytes=STATISTICS_BYTES,
        )
        self._note_cut(is_cut_short(done))
        return done.stdout.decode(errors="replace")

    def _note_cut(self, cut: bool) -> None:
        if cut:
            self.notes.append(CUT_SHORT)

    def _kept(self, name: str, rows: Iterable[T], total: int | None = None) -> Found:
        """Keep the first rows that fit."""
        room, seen = self.result_bytes, 0
        kept: list[T] = []
        for row in rows:
            seen += 1
            room -= len(json.dumps(row.model_dump(mode="json")).encode())
            if room < 0 or len(kept) >= self.rows:
                if total is not None:
                    break
                room = -1
            else:
                kept.append(row)
        return Found(seen if total is None else total, len(kept), {name: kept})


def capture_notes(capture: Opened) -> list[str]:
    """What a reader must know of a live capture."""
    recording = capture.recording
    if recording is None:
        return []
    notes = [f"Recorded {recording.captured:,} packets in {recording.seconds:.0f} s; ended by {recording.ended_by}."]
    if recording.dropped:
        notes.append(f"{recording.dropped:,} packets were lost because this machine was too slow.")
    if recording.note:
        notes.append(f"tcpdump: {recording.note}")
    return notes


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
