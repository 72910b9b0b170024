"""tcpflow: what both sides of TCP conversations said, reassembled into files."""

from __future__ import annotations

import asyncio
import os
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import CommandFailed, InvalidParameters, ToolTimeout, Unsupported
from tasks.core.models import Example, FileRef, Host, Safety, Service, ToolResult
from tasks.core.offload import offload
from tasks.core.process import Completed, Limits, find_program, last_words, run_command
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._filter import check_filter_of, combine
from tasks.network.capture._live import START_SECONDS, no_room
from tasks.network.capture._source import MOST_SECONDS, WHOLE_PACKETS, CaptureInput, Opened, SnapLength, opened
from tasks.network.capture._unprivileged import NOBODY, may_change_account, unprivileged

if TYPE_CHECKING:
    from blocks.captures import CaptureStore, StoredFile
    from tasks.network.capture._tcpflow_index import Packed

REASSEMBLY_SECONDS = 300.0
PACKING_SECONDS = 300.0
WORKING_SECONDS = REASSEMBLY_SECONDS + PACKING_SECONDS + 60
MEMORY_BYTES = 512 << 20
WATCH_SECONDS = 0.05
"""How often what tcpflow has written is measured."""
MOST_FILES = 20_000
"""Files tcpflow may make; with more conversations it is stopped."""
SPARE_BYTES = 1 << 20


class Tcpflow(CaptureInput):
    """Parameters of `tcpflow`."""

    reads_with_filter: ClassVar[bool] = True
    any_link_type: ClassVar[str | None] = "LINUX_SLL"  # tcpflow does not know the newer LINUX_SLL2
    working_seconds: ClassVar[float] = WORKING_SECONDS

    host: Host | None = Field(None, description="Only conversations of this host: a name or an address.")
    port: int | None = Field(None, ge=1, le=65535, description="Only conversations with this port at one end.")
    streams: int = Field(200, ge=1, le=1000, description="Streams kept, 1 to 1,000: the largest.")
    stream_bytes: int = Field(
        1 << 20, ge=1024, le=16 << 20, description="Bytes kept of each stream, its first; 1 KiB to 16 MiB."
    )
    total_bytes: int = Field(
        50 << 20, ge=1 << 20, le=100 << 20, description="Bytes of all streams together, 1 to 100 MiB."
    )
    top: int = Field(
        50, ge=1, le=100, description="Streams listed in the result, 1 to 100; the archive's index has all."
    )
    snap_length: SnapLength = WHOLE_PACKETS

    def bpf(self) -> str:
        """The filter to record and to read with."""
        return combine(self.filter, host=self.host, port=self.port)


class Stream(BaseModel):
    """One direction of a TCP conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(description="Name in the archive.")
    source: str = Field(description="Address of the side that said it.")
    source_port: int = Field(description="Its port.")
    destination: str = Field(description="Address of the other side.")
    destination_port: int = Field(description="Its port.")
    size_bytes: int = Field(description="Bytes of the stream in the archive.")
    cut: bool = Field(description="Whether it was cut off at `stream_bytes`.")
    started_at: datetime = Field(description="When it began, UTC, to the second.")
    kind: str = Field(description="What it seems to carry, by its first bytes.")
    begins: str = Field(description="Its first bytes; those that are no text as \\xNN, secrets as ***.")


class TcpflowResult(ToolResult):
    """Reassembled streams."""

    capture: FileRef = Field(description="The capture they come from.")
    archive: FileRef | None = Field(
        description="ZIP archive of the streams with index.json; secrets in the streams are not masked. None without streams."
    )
    streams: tuple[Stream, ...] = Field(description="The largest streams.")
    found: int = Field(ge=0, description="Streams with data in the capture.")
    kept: int = Field(ge=0, description="Streams in the archive.")
    stream_bytes: int = Field(ge=0, description="Bytes of the streams in the archive, unpacked.")
    left_out: int = Field(ge=0, description="Streams over the limits, which are not in the archive.")
    missing_bytes: int = Field(
        ge=0,
        description="Bytes at least for which zeros stand in the streams: their packets were lost, or cut by the snap length.",
    )
    complete: bool = Field(description="Whether the whole capture was read.")
    notes: tuple[str, ...] = Field((), description="What a reader must know, and how to get the archive.")

    def headline(self) -> str:
        if not self.found:
            return "No TCP conversation with data"
        text = f"{count(self.kept, 'stream')}, {count(self.stream_bytes, 'byte')}"
        if self.left_out:
            text += f"; {self.left_out:,} left out"
        return text if self.complete else f"{text}; INCOMPLETE"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=MOST_SECONDS + 2 * START_SECONDS + WORKING_SECONDS,
    programs=("tcpflow", "tcpdump"),
    examples=[
        Example("All conversations of a capture", {"capture": "tcpdump/office.pcap"}),
        Example("What a camera is told in the next minute", {"interface": "eth0", "host": "192.168.1.90", "port": 80}),
    ],
)
async def tcpflow(params: Tcpflow) -> TcpflowResult:
    """Reassemble TCP conversations of a capture into one file for each direction.

    From a capture of the store, or a live one that is recorded first. The streams go into one archive in the store, with an index:
    addresses, ports, bytes, what they seem to carry and how they begin (secrets masked there, not in the streams themselves). Number
    and size are bounded. tcpflow runs as nobody where we are root.

    Raises:
        InvalidParameters: A wrong filter, or no such interface.
        NotFound: The store has no such capture.
        MissingProgram: tcpflow or tcpdump is not installed, or capturing is not permitted.
        Refused: Policy forbids the interface or allows less.
        Unsupported: tcpflow does not know the capture's link layer.
        Busy: The store has no room.
        ToolTimeout: The capture is too large to be read in time.
        CommandFailed: tcpflow failed.
    """
    program = find_program("tcpflow")
    async with opened(params) as capture:
        if not params.live:
            await check_filter_of(params.bpf(), capture.path)
        return await _reassemble(program, params, capture)


async def _reassemble(program: str, params: Tcpflow, capture: Opened) -> TcpflowResult:
    from tasks.network.capture._tcpflow_index import pack

    run = current_run()
    store = await run.store()
    # Streams take what the capture has of them, and zeros for what it lacks; packed once more as much at most.
    room = min(params.total_bytes, 2 * capture.ref.size_bytes + SPARE_BYTES)
    name = f"tcpflow/{datetime.now(UTC):%Y-%m-%d}/{run.id}-{run.attempt}.zip"
    try:
        archive = await asyncio.to_thread(store.new, name, expected_bytes=2 * room)
    except OSError as error:
        raise no_room(error) from None
    folder = archive.with_name(f"{archive.name}.streams")
    try:
        await asyncio.to_thread(_make, folder)
        stopped = await _run(program, params, capture, folder, room)
        packed = await offload(
            pack,
            str(capture.path),
            str(folder),
            str(archive),
            params.streams,
            params.stream_bytes,
            room,
            timeout=PACKING_SECONDS,
            memory_bytes=MEMORY_BYTES,
        )
    finally:
        stored = await asyncio.shield(asyncio.to_thread(_keep, store, archive, folder))
    return _result(params, capture, packed, run.file_ref(stored) if stored else None, stopped)


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if may_change_account():
        os.chown(folder, NOBODY, NOBODY)


def _keep(store: CaptureStore, archive: Path, folder: Path) -> StoredFile | None:
    """Put the archive into the store when it is whole and has streams; nothing else remains."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if archive.exists() and zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as whole:
                streams = len(whole.namelist()) > 1
            if streams:
                return store.commit(archive)
    finally:
        store.discard(archive)
    return None


async def _run(program: str, params: Tcpflow, capture: Opened, folder: Path, room: int) -> str | None:
    """Have tcpflow write the streams into `folder`; returns why it did not read all."""
    enough = asyncio.Event()
    watching = asyncio.create_task(_watch(folder, room, enough))
    # What was recorded has passed it, and not every filter of an interface is one for a file: `inbound` is not.
    expression = "" if params.live else params.bpf()
    # Behind VLAN tags too; `vlan` moves all that follows it, and link layers without tags do not know the word.
    filters = [f"({expression}) or (vlan and ({expression}))", expression] if expression else [""]
    try:
        for words in filters:
            try:
                done = await _tcpflow(program, params, capture.path, folder, words, enough)
            except CommandFailed as error:
                if error.completed is None:
                    raise
                if words != filters[-1] and b"VLAN" in error.completed.stderr:
                    continue
                return _explain(error, error.completed)
            break
    finally:
        watching.cancel()
    if enough.is_set():
        return "There was more than the limits allow: what was reassembled until then is here."
    if b"truncated dump file" in done.stderr:
        return "The capture ends in the middle of a packet; what is before it was read."
    return None


async def _tcpflow(
    program: str, params: Tcpflow, capture: Path, folder: Path, expression: str, enough: asyncio.Event
) -> Completed:
    # /bin/sh opens the capture, and the working folder is entered, before the account changes: neither could be reached after.
    argv = ["/bin/sh", "-c", 'exec "$@" <"$0"', str(capture), *unprivileged(), program]
    argv += ["-r", "-", "-o", ".", "-q", "-f", "200", "-b", str(params.stream_bytes), "-S", "enable_report=NO"]
    argv += ["--", expression] if expression else []  # arithmetic may begin with a minus
    try:
        return await run_command(
            argv,
            timeout=REASSEMBLY_SECONDS,
            cwd=folder,
            max_output_bytes=0,
            enough=enough,
            limits=Limits(
                cpu_seconds=int(REASSEMBLY_SECONDS),
                memory_bytes=2 << 30,
                file_size_bytes=params.stream_bytes + 65_536,
                open_files=256,
                new_privileges=False,
            ),
        )
    except ToolTimeout:
        raise ToolTimeout(
            f"tcpflow did not read the capture within {REASSEMBLY_SECONDS:.0f} s.",
            hint="Narrow it with filter, host or port.",
        ) from None


def _explain(error: CommandFailed, completed: Completed) -> str:
    """What a reader must know of a tcpflow that failed in the middle; raises when it read nothing."""
    said = last_words(completed.stderr)
    if "datalink type" in said:
        raise Unsupported(
            "tcpflow does not know the link layer of this capture.",
            hint="The analyzers and tshark (follow) do; or capture on one interface.",
        )
    if "filter expression" in said:
        raise InvalidParameters(f"The capture filter is wrong here: {said.removeprefix('tcpflow: ')}.")
    if "truncated dump file" in said:
        return "The capture ends in the middle of a packet; what is before it was read."
    raise error


async def _watch(folder: Path, room: int, enough: asyncio.Event) -> None:
    """End tcpflow when its files take more than they may."""
    while not enough.is_set():
        await asyncio.sleep(WATCH_SECONDS)
        files, size = await asyncio.to_thread(_measure, folder)
        if size > room or files > MOST_FILES:
            enough.set()


def _measure(folder: Path) -> tuple[int, int]:
    files = size = 0
    for entry in os.scandir(folder):
        files += 1
        size += entry.stat(follow_symlinks=False).st_size
    return files, size


def _result(
    params: Tcpflow, capture: Opened, packed: Packed, archive: FileRef | None, stopped: str | None
) -> TcpflowResult:
    notes = [stopped] if stopped else []
    if packed.left_out:
        notes.append(
            f"{packed.left_out:,} streams with {packed.left_out_bytes:,} bytes are over the limits and were left out."
        )
    if cut := sum(stream.cut for stream in packed.streams):
        notes.append(f"{cut:,} streams were cut off at {params.stream_bytes:,} bytes.")
    if packed.missing_bytes:
        notes.append(
            f"At least {packed.missing_bytes:,} bytes are not in the capture (lost packets, or its snap length): zeros stand for them."
        )
    if archive is not None:
        notes.append(f"To get it: signalbox capture save {archive.name} FILE")
    return TcpflowResult(
        capture=capture.ref,
        archive=archive,
        streams=tuple(
            Stream(
                file=stream.file,
                source=stream.source,
                source_port=stream.source_port,
                destination=stream.destination,
                destination_port=stream.destination_port,
                size_bytes=stream.size_bytes,
                cut=stream.cut,
                started_at=datetime.fromisoformat(stream.started_at),
                kind=stream.kind,
                begins=stream.begins,
            )
            for stream in packed.streams[: params.top]
        ),
        found=packed.found,
        kept=len(packed.streams),
        stream_bytes=sum(stream.size_bytes for stream in packed.streams),
        left_out=packed.left_out,
        missing_bytes=packed.missing_bytes,
        complete=stopped is None,
        notes=(*notes, *packed.notes),
    )
