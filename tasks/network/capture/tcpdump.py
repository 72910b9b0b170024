"""tcpdump: a bounded capture of live traffic, kept in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import Field, model_validator

from tasks.core.models import Example, FileRef, Host, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._filter import combine
from tasks.network.capture._live import START_SECONDS, EndedBy, Recording, record
from tasks.network.capture._source import (
    DEFAULT_BYTES,
    DEFAULT_PACKETS,
    DEFAULT_SECONDS,
    DEFAULT_SNAP_LENGTH,
    LEAST_BYTES,
    MOST_SECONDS,
    CaptureFilter,
    Packets,
    Seconds,
    SizeBytes,
    SnapLength,
)

MARGIN_SECONDS = 60.0
"""Time to put the files into the store."""
TIMEOUT_SECONDS = MOST_SECONDS + 2 * START_SECONDS + MARGIN_SECONDS


class Tcpdump(SiteParams):
    """Parameters of `tcpdump`."""

    interface: str = Field(
        description="Interface to listen on, such as eth0; `any` where policy allows it.", min_length=1, max_length=64
    )
    filter: CaptureFilter = ""
    host: Host | None = Field(None, description="Capture traffic from and to this host only: a name or an address.")
    port: int | None = Field(None, ge=1, le=65535, description="Capture traffic from and to this port only.")
    duration: Seconds = DEFAULT_SECONDS
    packets: Packets = DEFAULT_PACKETS
    size_bytes: SizeBytes = DEFAULT_BYTES
    snap_length: SnapLength = DEFAULT_SNAP_LENGTH
    ring_files: int = Field(
        1,
        ge=1,
        le=20,
        description="Files of a ring, 1 to 20, which share `size_bytes`: when all are full, the oldest gives way, so that the "
        "latest traffic is kept. 1: no ring, the size ends the capture.",
    )
    promiscuous: bool = Field(
        True, description="Also hear frames for others, which a mirror port or a hub brings; not possible on `any`."
    )
    name: str | None = Field(
        None,
        description="Name in the store, such as office/camera-7.pcap; default: tcpdump/DAY/RUN.pcap.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\.pcap$",
        max_length=200,
    )

    def bpf(self) -> str:
        """The filter to record with."""
        return combine(self.filter, host=self.host, port=self.port)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.bpf():
            raise ValueError(
                "a capture needs a filter or a host, so that it hears what was meant and nobody else: "
                "filter='tcp port 443' or host='192.168.1.7'"
            )
        least = max(LEAST_BYTES, 2 * self.snap_length)
        if self.ring_files > 1 and self.size_bytes // self.ring_files < least:
            raise ValueError(
                f"a ring's files are too small: size_bytes / ring_files must be at least {least:,} with this snap_length"
            )
        return self

    def scope(self) -> None:
        """Nothing is sent: capturing is listening."""
        return

    def about(self) -> str:
        text = f"{self.interface}: {self.bpf()}"
        return text if len(text) <= 500 else f"{text[:497]}..."

    def deadline(self) -> float:
        return self.duration + 2 * START_SECONDS + MARGIN_SECONDS


class TcpdumpResult(ToolResult):
    """What was captured."""

    files: tuple[FileRef, ...] = Field(description="The capture; the files of a ring, oldest first.")
    interface: str = Field(description="Where it listened.")
    link_type: str = Field(description="What the packets begin with, as tcpdump names it; EN10MB is Ethernet.")
    filter: str = Field(description="The capture filter in force.")
    captured: int = Field(ge=0, description="Packets in the files.")
    overwritten: int = Field(
        0, ge=0, description="Packets that were in files of the ring which gave way to newer ones."
    )
    received: int | None = Field(
        description="Packets that passed the filter in the kernel, as tcpdump counts: on loopback each twice. None: unknown."
    )
    dropped: int | None = Field(description="Packets the kernel lost because this machine was too slow. None: unknown.")
    dropped_by_interface: int | None = Field(
        description="Packets the interface or its driver lost. None: it does not count them."
    )
    size_bytes: int = Field(ge=0, description="Bytes of all files together.")
    first_at: datetime | None = Field(description="Time of the first packet in the files, UTC.")
    last_at: datetime | None = Field(description="Time of the last packet, UTC.")
    seconds: float = Field(ge=0, description="How long it listened.")
    ended_by: EndedBy = Field(
        description="Why it ended: its duration, its packets, its size, a full disk, or the interface that went away."
    )
    notes: tuple[str, ...] = Field((), description="What a reader must know, and how to get the file.")

    def headline(self) -> str:
        text = f"{count(self.captured, 'packet')} in {self.seconds:.1f} s on {self.interface}, {count(self.size_bytes, 'byte')}"
        lost = (self.dropped or 0) + (self.dropped_by_interface or 0)
        if lost:
            text += f"; {lost:,} LOST"
        if self.ended_by is not EndedBy.DURATION:
            text += f"; ended by {self.ended_by}"
        return text


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    examples=[
        Example("Ten seconds of one host's traffic", {"interface": "eth0", "host": "192.168.1.7", "duration": 10}),
        Example(
            "The last 20 MiB of web traffic, whole packets, for half an hour",
            {
                "interface": "eth0",
                "filter": "tcp port 80 or tcp port 443",
                "duration": 1800,
                "packets": 1_000_000,
                "size_bytes": 20 << 20,
                "ring_files": 4,
                "snap_length": 65_535,
            },
        ),
    ],
)
async def tcpdump(params: Tcpdump) -> TcpdumpResult:
    """Capture live traffic of one interface into the store.

    The filter is compiled first. Time, packets, size and the bytes of each packet are bounded, and the store's room for all of it is
    reserved, so that captures at once never exceed its quota together. Whatever ends a capture, the file holds whole packets: what was
    captured before a cancel or a deadline is in the store under the run's name at once, and what was captured before the run was killed
    after the next `signalbox capture list` or `prune`. tcpdump gives up root as soon as the interface is open.

    Raises:
        InvalidParameters: No such interface, or a wrong filter, with tcpdump's reason.
        Refused: The policy forbids the interface, or allows less.
        MissingProgram: tcpdump is not installed, or may not capture.
        Busy: The store has no room for it.
        Conflict: The store has a file of this name.
        CommandFailed: tcpdump could not begin.
    """
    recording = await record(
        interface=params.interface,
        filter=params.bpf(),
        duration=params.duration,
        packets=params.packets,
        size_bytes=params.size_bytes,
        snap_length=params.snap_length,
        name=params.name,
        files=params.ring_files,
        promiscuous=params.promiscuous,
    )
    run = current_run()
    return TcpdumpResult(
        files=tuple(run.file_ref(stored) for stored in recording.files),
        interface=recording.interface,
        link_type=recording.link_type,
        filter=params.bpf(),
        captured=recording.captured,
        overwritten=recording.overwritten,
        received=recording.received,
        dropped=recording.dropped,
        dropped_by_interface=recording.dropped_by_interface,
        size_bytes=sum(stored.size_bytes for stored in recording.files),
        first_at=recording.first_at,
        last_at=recording.last_at,
        seconds=recording.seconds,
        ended_by=recording.ended_by,
        notes=_notes(params, recording),
    )


def _notes(params: Tcpdump, recording: Recording) -> tuple[str, ...]:
    notes = [recording.note] if recording.note else []
    if recording.dropped:
        notes.append(
            f"The kernel lost {count(recording.dropped, 'packet')}: narrow the filter, or keep fewer bytes of each (snap_length)."
        )
    if not recording.captured:
        notes.append("Nothing passed the filter.")
    if recording.overwritten:
        notes.append(f"{count(recording.overwritten, 'older packet')} gave way in the ring.")
    notes.append(f"To get it: signalbox capture save {recording.stored.name} FILE")
    return tuple(notes)
