"""Where a tool's packets come from: a capture in the store, or a live one that is recorded first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from tasks.core.models import FileRef, Safety, SiteParams
from tasks.core.run import current_run
from tasks.network.capture._filter import LONGEST_FILTER
from tasks.network.capture._live import START_SECONDS, Recording, record
from tasks.network.capture._stored import held

DEFAULT_SECONDS, MOST_SECONDS = 60.0, 1800.0
DEFAULT_PACKETS, MOST_PACKETS = 10_000, 1_000_000
DEFAULT_BYTES, LEAST_BYTES, MOST_BYTES = 50 << 20, 1 << 16, 100 << 20
DEFAULT_SNAP_LENGTH, WHOLE_PACKETS, MOST_SNAP_LENGTH = 256, 65_535, 262_144


CaptureFilter = Annotated[
    str,
    Field(
        description="Capture filter (pcap-filter language), such as 'host 192.168.1.7 and tcp port 443'. A live capture needs one.",
        max_length=LONGEST_FILTER,
    ),
]
Seconds = Annotated[
    float, Field(ge=1, le=MOST_SECONDS, description="Seconds to listen, 1 to 1,800; the policy may allow less.")
]
Packets = Annotated[
    int, Field(ge=1, le=MOST_PACKETS, description="Packets after which a live capture ends, 1 to 1,000,000.")
]
SizeBytes = Annotated[
    int,
    Field(ge=LEAST_BYTES, le=MOST_BYTES, description="Bytes after which a live capture ends, 64 KiB to 100 MiB."),
]
SnapLength = Annotated[
    int,
    Field(ge=64, le=MOST_SNAP_LENGTH, description="Bytes kept of each packet of a live capture, 64 to 262,144."),
]


class CaptureInput(SiteParams):
    """Parameters of a tool that reads a capture: one of the store, or a live one."""

    reads_with_filter: ClassVar[bool] = False
    """Whether the tool applies `filter` to a capture of the store as well."""
    any_link_type: ClassVar[str | None] = None
    """What packets captured on `any` shall begin with, where the tool does not know tcpdump's choice; LINUX_SLL or LINUX_SLL2."""
    working_seconds: ClassVar[float] = 600.0
    """What the tool may take once it has the capture."""

    capture: str | None = Field(
        None,
        description="Name of a capture in the store (signalbox capture list). Either this or `interface`.",
        max_length=400,
        examples=["tcpdump/2024-05-01/office.pcap"],
    )
    interface: str | None = Field(
        None,
        description="Interface to listen on, such as eth0; `any` where policy allows it. Either this or `capture`.",
        min_length=1,
        max_length=64,
    )
    filter: CaptureFilter = ""
    duration: Seconds = DEFAULT_SECONDS
    packets: Packets = DEFAULT_PACKETS
    size_bytes: SizeBytes = DEFAULT_BYTES
    snap_length: SnapLength = DEFAULT_SNAP_LENGTH

    @property
    def live(self) -> bool:
        """Whether a capture is recorded first."""
        return self.interface is not None

    def bpf(self) -> str:
        """The filter to record with. Tools with a host or a port of their own add them."""
        return self.filter.strip()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.capture is None) == (self.interface is None):
            raise ValueError(
                "give either capture (the name of one in the store) or interface (to listen live)"
                + (", not both" if self.capture is not None else "")
            )
        wanted = self.bpf()  # tells by itself what cannot be joined; a capture of the store is read with it too
        if self.live and not wanted:
            raise ValueError(
                "a live capture needs a filter, so that it hears what was meant and nobody else: "
                "filter='host 192.168.1.7' or, where the tool has them, host or port"
            )
        if not self.live and self.filter and not self.reads_with_filter:
            raise ValueError("filter says what a live capture records; it does not narrow a capture of the store")
        return self

    def scope(self) -> None:
        """Nothing is sent: capturing is listening."""
        return

    def safety(self) -> Safety:
        return Safety.PROBE if self.live else Safety.READ

    def about(self) -> str:
        if not self.live:
            return f"capture {self.capture}"
        text = f"{self.interface}: {self.bpf()}"
        return text if len(text) <= 500 else f"{text[:497]}..."

    def deadline(self) -> float:
        return self.working_seconds + (self.duration + 2 * START_SECONDS if self.live else 0.0)


@dataclass(frozen=True)
class Opened:
    """A capture that stays where it is while it is read.

    Attributes:
        path: Where it is.
        ref: Its reference, for the result.
        recording: How it was captured; None for one of the store.
    """

    path: Path
    ref: FileRef
    recording: Recording | None


@asynccontextmanager
async def opened(params: CaptureInput) -> AsyncIterator[Opened]:
    """Give the capture that the parameters name, recorded first when it is a live one.

    Inside the block it is not pruned.

    Raises:
        InvalidParameters: The name is no name, or the file is no capture; or what `record` says.
        Unsupported: It is one of a kind that is not read; says what to do.
        NotFound: The store has no such file.
        ToolError: As `record` raises.
    """
    recording: Recording | None = None
    if params.interface is not None:
        recording = await record(
            interface=params.interface,
            filter=params.bpf(),
            duration=params.duration,
            packets=params.packets,
            size_bytes=params.size_bytes,
            snap_length=params.snap_length,
            any_link_type=params.any_link_type,
        )
    run = current_run()
    store = await run.store()
    name = recording.stored.name if recording is not None else str(params.capture)
    with held(store, name) as path:
        stored = recording.stored if recording is not None else await asyncio.to_thread(store.describe, name)
        yield Opened(path=path, ref=run.file_ref(stored), recording=recording)
