"""The one place that captures live traffic: tcpdump under the policy's limits, into the CaptureStore."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from blocks._pcap import link_type
from tasks.core.errors import Busy, CommandFailed, Conflict, InvalidParameters, MissingProgram, Refused, ToolError
from tasks.core.log import run_logger
from tasks.core.process import Completed, find_program, last_words, run_command
from tasks.core.run import ToolRun, current_run
from tasks.network.capture._filter import check_filter
from tasks.network.capture._interfaces import ANY, check_interface
from tasks.network.capture._sink import PcapSink
from tasks.network.scan._privilege import HOW_TO_GET_IT, may_send_raw

if TYPE_CHECKING:
    from blocks.captures import CaptureStore, StoredFile
    from blocks.policy import ProbePolicy

T = TypeVar("T")

START_SECONDS = 30.0
"""Longest tcpdump may take to begin and, at its end, to say what was dropped."""
BUFFER_KIB = 16 * 1024
"""The kernel's buffer, which bridges the moments in which this process is busy."""
LARGE_SNAP_LENGTH = 4096
"""Above this, packets are not taken one by one but by the block: taken one by one, each has a slot of the snap length in the kernel's
buffer, and a burst of 45,000 small packets a second lost half of them in 64 MiB (by the block: none, in 16 MiB)."""
BLOCK_SECONDS = 1.2
"""After this at the latest a block that is not full comes too (tcpdump asks for 1 s)."""


class EndedBy(StrEnum):
    """Why a capture ended."""

    DURATION = "duration"
    PACKETS = "packets"
    SIZE = "size"
    DISK = "disk"  # it has no room left; what was written is kept
    INTERFACE = "interface"  # it went away, or down


@dataclass(frozen=True)
class Recording:
    """A live capture that has ended.

    Attributes:
        files: The files, oldest first; more than one for a ring.
        paths: Where they are.
        received: Packets that passed the filter in the kernel, as tcpdump counts them; on loopback each is counted twice. None when
            tcpdump could not say.
        captured: Packets in the files.
        overwritten: Packets that were in files of a ring which gave way to newer ones.
        dropped: Packets lost because this machine was too slow; None when tcpdump could not say.
        dropped_by_interface: Packets the interface or its driver lost; None when it does not count them.
        interface: Where it listened.
        link_type: What the packets begin with, as tcpdump names it (EN10MB is Ethernet).
        ended_by: Why it ended.
        first_at, last_at: Times of the first and the last packet in the files; None without packets.
        seconds: How long it listened.
        note: What tcpdump said when it ended before its time.
    """

    files: tuple[StoredFile, ...]
    paths: tuple[Path, ...]
    received: int | None
    captured: int
    overwritten: int
    dropped: int | None
    dropped_by_interface: int | None
    interface: str
    link_type: str
    ended_by: EndedBy
    first_at: datetime | None
    last_at: datetime | None
    seconds: float
    note: str | None = None

    @property
    def stored(self) -> StoredFile:
        """The file; the newest of a ring."""
        return self.files[-1]

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.paths[-1]


async def record(
    *,
    interface: str,
    filter: str,  # noqa: A002 - the field's word for it
    duration: float,
    packets: int,
    size_bytes: int,
    snap_length: int,
    name: str | None = None,
    files: int = 1,
    promiscuous: bool = True,
    any_link_type: str | None = None,
    on_start: Callable[[], None] | None = None,
) -> Recording:
    """Capture live traffic into the store, for the tool run in progress.

    The store's room for all of it is reserved first. What was captured when the run is cancelled or its deadline passes is put into the
    store all the same; what it had captured when it is killed is put there by the store's next `recover()`. Only a kill, and only with
    a large snap length, costs the last second; a cancel or a deadline waits for it.

    Args:
        interface: Name of an interface, or `any`.
        filter: Capture filter, pcap-filter(7); empty: everything.
        duration: Seconds to listen.
        packets: Packets after which it ends.
        size_bytes: Bytes after which it ends; of a ring: what all its files have together.
        snap_length: Bytes kept of each packet.
        name: Name in the store; default: TOOL/DAY/RUN.pcap. A ring's files get -0001 and so on before the suffix.
        files: Files of the ring; 1: none.
        promiscuous: Whether the interface shall hear frames for others as well.
        any_link_type: What packets of `any` shall begin with, as tcpdump names it; default: its own choice.
        on_start: Called when it listens.

    Raises:
        InvalidParameters: No such interface, or a wrong filter.
        Refused: The policy forbids the interface, or allows less.
        MissingProgram: No tcpdump, or no privilege to capture.
        Busy: The store or its disk has no room.
        Conflict: The store has a file of this name.
        CommandFailed: tcpdump could not begin.
    """
    run = current_run()
    check_interface(interface, run.policy)
    _check_limits(run.policy, duration=duration, packets=packets, size_bytes=size_bytes, snap_length=snap_length)
    program = find_program("tcpdump")
    if not may_send_raw(program):
        raise _no_privilege()
    await check_filter(filter, interface=interface, link_type=any_link_type if interface == ANY else None)
    store = await run.store()
    path = await _claim(store, name or _default_name(run), size_bytes, ring=files > 1)
    argv = [program, "-i", interface, "-n", "-U", "-s", str(snap_length), "-c", str(packets), "-B", str(BUFFER_KIB)]
    by_block = snap_length > LARGE_SNAP_LENGTH
    argv += [] if by_block else ["--immediate-mode"]
    argv += [] if promiscuous and interface != ANY else ["-p"]
    argv += ["-y", any_link_type] if any_link_type and interface == ANY else []
    argv += [*_account(), "-w", "-", "--", *([filter] if filter else [])]
    sink = PcapSink(path, size_bytes=size_bytes, files=files)
    session = _Session(sink, duration, BLOCK_SECONDS if by_block else 0.0, on_start)
    try:
        completed = await session.run(argv)
    finally:
        # However it ended, also by a cancel: what is there is kept.
        stored = await _to_the_end(asyncio.to_thread(session.keep, store, path))
    if not session.sink.header:
        raise CommandFailed("tcpdump ended before it listened.")
    return _recording(session, completed, stored, interface, store)


class _Session:
    """One tcpdump and what it hears."""

    def __init__(self, sink: PcapSink, duration: float, patience: float, on_start: Callable[[], None] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.enough = asyncio.Event()
        self.sink = sink
        self.duration = duration
        self.patience = patience
        self.on_start = on_start
        self.started: float | None = None
        self.ended: float | None = None
        self.time_is_up = False
        self.note: str | None = None
        self._clock: asyncio.TimerHandle | None = None

    async def run(self, argv: list[str]) -> Completed:
        """Run tcpdump until it has enough; a cancel is one more reason to have enough."""
        return await _to_the_end(self._listen(argv), hasten=self._ring)

    async def _listen(self, argv: list[str]) -> Completed:
        """Run tcpdump; its own early end is no failure once it listened."""
        try:
            return await run_command(
                argv,
                timeout=self.duration + START_SECONDS,
                max_output_bytes=0,
                on_stdout=self._hear,
                enough=self.enough,
            )
        except CommandFailed as error:
            if error.completed is None:
                raise
            if not self.sink.header:
                raise _not_begun(error, error.completed.stderr) from None
            self.note = last_words(_talk(error.completed.stderr)) or error.message
            return error.completed
        finally:
            self.ended = self.loop.time()
            if self._clock is not None:
                self._clock.cancel()

    def _hear(self, data: bytes) -> None:
        self.sink.feed(data)
        if self.sink.ended:
            self.enough.set()
        if self.started is None and self.sink.header:
            self.started = self.loop.time()
            self._clock = self.loop.call_later(self.duration, self._ring)
            if self.on_start is not None:
                self.on_start()

    def _ring(self) -> None:
        if self.time_is_up:
            return
        self.time_is_up = True
        # What is yet in the kernel's blocks is waited for; what comes later is left out.
        self.sink.until = time.time()
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(self.patience if self.sink.header else 0.0, self.enough.set)

    def keep(self, store: CaptureStore, path: Path) -> list[StoredFile]:
        """Put the files into the store; gives up the room when there are none."""
        self.sink.close()
        try:
            # Under another name when somebody took its name meanwhile: what was captured does not come again.
            stored = [store.commit(written, rename=True) for written in self.sink.paths]
        finally:
            store.discard(path)
        return stored

    def ended_by(self) -> EndedBy:
        if self.sink.trouble is not None:
            return EndedBy.DISK
        if self.sink.full:
            return EndedBy.SIZE
        if self.time_is_up:
            return EndedBy.DURATION
        if self.note is not None:
            return EndedBy.INTERFACE
        return EndedBy.PACKETS


def _recording(
    session: _Session, completed: Completed, stored: list[StoredFile], interface: str, store: CaptureStore
) -> Recording:
    sink, said = session.sink, completed.stderr.decode(errors="replace")
    note = session.note
    if sink.trouble is not None:
        note = f"The capture could not be written on: {sink.trouble.strerror or sink.trouble}."
    return Recording(
        files=tuple(stored),
        paths=tuple(store.path(file.name) for file in stored),
        received=_number(said, "received by filter"),
        captured=sink.packets,
        overwritten=sink.overwritten,
        dropped=_number(said, "dropped by kernel"),
        dropped_by_interface=_number(said, "dropped by interface"),
        interface=interface,
        link_type=link_type(sink.header),
        ended_by=session.ended_by(),
        first_at=_time(sink.first),
        last_at=_time(sink.last) if sink.packets else None,
        seconds=round(min((session.ended or 0.0) - (session.started or 0.0), session.duration), 3),
        note=note,
    )


def _number(said: str, what: str) -> int | None:
    match = re.search(rf"^(\d+) packets? {what}", said, re.MULTILINE)
    return int(match[1]) if match else None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _check_limits(policy: ProbePolicy, *, duration: float, packets: int, size_bytes: int, snap_length: int) -> None:
    wanted = (
        ("duration", duration, policy.capture_max_seconds, "s", "capture_max_seconds"),
        ("packets", packets, policy.capture_max_packets, "packets", "capture_max_packets"),
        ("size_bytes", size_bytes, policy.capture_max_bytes, "bytes", "capture_max_bytes"),
        ("snap_length", snap_length, policy.capture_max_snap_length, "bytes a packet", "capture_max_snap_length"),
    )
    over = [
        f"{name} {value:,g} (at most {most:,} {unit}, its {knob})" if name == "duration" else
        f"{name} {value:,} (at most {most:,} {unit}, its {knob})"
        for name, value, most, unit, knob in wanted
        if value > most
    ]  # fmt: skip
    if over:
        raise Refused(
            f"The policy of site {policy.site!r} allows less of a capture: {', '.join(over)}.",
            hint="Ask for less, or raise it in the block.",
        )


def _default_name(run: ToolRun) -> str:
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{run.spec.name}/{today}/{run.id}-{run.attempt}.pcap"


def _check_ring(store: CaptureStore, name: str) -> None:
    """Make sure that the store has no file of another ring of this name."""
    final = store.path(name)
    if final.parent.is_dir():
        numbered = re.compile(rf"{re.escape(final.stem)}-\d{{4,}}{re.escape(final.suffix)}")
        if taken := next((path.name for path in final.parent.iterdir() if numbered.fullmatch(path.name)), None):
            raise FileExistsError(errno.EEXIST, f"The store has a file {taken} already")


async def _claim(store: CaptureStore, name: str, size_bytes: int, *, ring: bool) -> Path:
    """A path in the store with room for the capture."""
    claimed: list[Path] = []

    def claim() -> Path:
        store.recover()  # what a killed run captured under this name has it
        if ring:
            _check_ring(store, name)
        claimed.append(store.new(name, expected_bytes=size_bytes, keep=True))
        return claimed[0]

    try:
        return await _to_the_end(asyncio.to_thread(claim))
    except FileExistsError as error:
        said = str(error.strerror).partition(";")[0]
        raise Conflict(f"{said}.", hint="Choose another name.") from None
    except ValueError as error:
        raise InvalidParameters(f"{error}.") from None
    except OSError as error:
        raise no_room(error) from None
    except asyncio.CancelledError:
        for path in claimed:
            store.discard(path)
        raise


def no_room(error: OSError) -> ToolError:
    """The error behind a store that took nothing."""
    if error.errno in {errno.EDQUOT, errno.ENOSPC}:
        return Busy(f"{error.strerror}.", hint="See: signalbox capture list; make room: signalbox capture prune")
    return CommandFailed(f"The capture store cannot be written: {error.strerror}.")


async def _to_the_end(work: Awaitable[T], *, hasten: Callable[[], None] | None = None) -> T:
    """Wait for the end of `work`, whatever cancels us meanwhile; the cancel is raised after it, and `hasten` called at it."""
    job = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        if hasten is not None:
            hasten()
        with anyio.CancelScope(shield=True):
            while not job.done():
                try:
                    await asyncio.wait([job])
                except asyncio.CancelledError:
                    continue
        if not job.cancelled() and job.exception() is not None:
            run_logger().warning("While being cancelled: %s", job.exception())
        raise


def _account() -> list[str]:
    """Whose account tcpdump shall run under once the interface is open: root's only where root may not change accounts."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("tcpdump")  # made by Debian's package for this
    except KeyError:
        return ["-Z", "nobody"]
    return ["-Z", "tcpdump"]


def _no_privilege() -> MissingProgram:
    return MissingProgram(
        "Capturing needs CAP_NET_RAW, which tcpdump would not have.", hint=f"To get it: {HOW_TO_GET_IT}"
    )


def _talk(stderr: bytes) -> bytes:
    """Error output without the lines tcpdump writes every time."""
    usual = re.compile(rb"listening on |^\d+ packets? |^tcpdump: data link type|^$")
    return b"\n".join(line for line in stderr.splitlines() if not usual.search(line))


def _not_begun(error: CommandFailed, stderr: bytes) -> ToolError:
    """The error behind a tcpdump that never listened."""
    said = last_words(_talk(stderr)).removeprefix("tcpdump: ").rstrip(".")
    if "permission" in said or "Operation not permitted" in said:
        return _no_privilege()
    if "filter expression" in said or "unknown host" in said or "not supported on link-layer" in said:
        return InvalidParameters(f"The capture filter is wrong here: {said}.")
    return CommandFailed(f"tcpdump could not begin: {said}." if said else error.message)
