"""Fetching a recording from a camera into the store: as it comes, bounded, and what came before a break is kept and gone on from."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree.ElementTree import Element

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import Busy, Rejected, ToolError, Unreachable, Unsupported
from tasks.core.log import run_logger
from tasks.core.models import FileRef
from tasks.core.progress import Progress
from tasks.network.probe._connection import SEGMENT_BYTES
from tasks.network.vapix._recording import Recording, parse_time, refuse_failure, size_in_words, text, whole, wire_time
from tasks.network.vapix._recording_matroska import EBML_MAGIC, Reach, reach
from tasks.network.vapix._recording_mp4 import mp4_seconds, whole_mp4
from tasks.network.vapix._wire import Nonsense, said
from tasks.network.vapix._xml import anywhere, parse_xml

if TYPE_CHECKING:
    from blocks.captures import CaptureStore, StoredFile
    from tasks.core.http import Stream
    from tasks.core.run import ToolRun
    from tasks.network.vapix._camera import Camera

EXPORT = "/axis-cgi/record/export"
EXPORT_API = "recording-export"
EXPORT_PROPERTY = "Properties.LocalStorage.ExportRecording"
IDLE_SECONDS = 30.0
"""Longest silence between two pieces of a download."""
PAUSE_SECONDS = 2.0
"""Before a broken download is gone on with: the camera may have cut it because it was busy."""
MARGIN_BYTES = 4 << 20
"""Added to twice the camera's estimate, where the store has no room for all that was allowed."""
_PIECE = 1 << 20
_MOST_ERROR = 64 << 10
_LONGEST_SECONDS = 10 * 365 * 86_400
_SHORT_SECONDS = 5.0
"""A file that ends this much before what was promised is not all of it; key frames come at least that often."""


class ExportFormat(StrEnum):
    """What a recording is packed in."""

    MATROSKA = "matroska"
    MP4 = "mp4"


_ENDING = {ExportFormat.MATROSKA: "mkv", ExportFormat.MP4: "mp4"}


class Estimate(BaseModel):
    """What an export would be, by the camera's own word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: ExportFormat = Field(description="matroska or mp4.")
    size_bytes: int | None = Field(None, description="Estimated size, bytes; None when the camera does not know.")
    started_at: datetime | None = Field(None, description="Where it would begin (UTC): at a key frame.")
    stopped_at: datetime | None = Field(None, description="Where it would end (UTC).")


class ExportedFile(BaseModel):
    """A file with a recording, or with a stretch of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileRef = Field(description="The file in the store; the name of one that broke off says partial.")
    format: ExportFormat = Field(description="matroska or mp4.")
    whole: bool = Field(description="Whether it is all that was asked of it.")
    started_at: datetime | None = Field(None, description="What it begins with (UTC, by the camera's clock).")
    stopped_at: datetime | None = Field(
        None, description="What it ends with (UTC); of a partial one as far as it can be played."
    )


@dataclass(frozen=True)
class Terms:
    """What an export is held to.

    Attributes:
        format: What to ask for.
        start: From this time on; None: from the beginning.
        stop: Until this time; None: to the end.
        max_bytes: Most bytes of all files together.
        max_seconds: Most seconds for all of it.
        attempts: How often the download is begun at most.
    """

    format: ExportFormat
    start: datetime | None
    stop: datetime | None
    max_bytes: int
    max_seconds: float
    attempts: int


@dataclass
class Exported:
    """What came of it.

    Attributes:
        files: The files, in the order of time.
        estimate: What the camera had said of it.
        complete: Whether all that was asked for is in them.
        remarks: What there is to know.
    """

    files: list[ExportedFile] = field(default_factory=list)
    estimate: Estimate | None = None
    complete: bool = False
    remarks: list[str] = field(default_factory=list)


# --- what the camera says beforehand ---------------------------------------------------------------------------------


async def require_export(camera: Camera, wanted: ExportFormat) -> None:
    """Make sure that the camera exports, and to this format.

    Raises:
        Unsupported: It says that it does not.
    """
    capabilities = await camera.capabilities()
    if not capabilities.has(EXPORT_API) and not capabilities.flag(EXPORT_PROPERTY):
        raise Unsupported(f"{camera.asked} does not export recordings (neither {EXPORT_API} nor {EXPORT_PROPERTY}).")
    if wanted is ExportFormat.MATROSKA:  # which all of them write
        return
    root = await camera.xml(f"{EXPORT}/capabilities.cgi", {"schemaversion": "1"})
    refuse_failure(root, "its export formats")
    if str(wanted) not in formats_of(root):
        raise Unsupported(f"{camera.asked} does not export to {wanted}.", hint="Every camera exports to matroska.")


def formats_of(root: Element) -> set[str]:
    """Formats that `capabilities.cgi` names, wherever in its answer it names them: its shape is documented nowhere."""
    words: set[str] = set()
    for element in root.iter():
        for value in (element.text, *element.attrib.values()):
            words |= {word.strip().lower() for word in (value or "")[:500].replace(";", ",").split(",")}
    return {str(known) for known in ExportFormat} & words


async def estimate(
    camera: Camera, recording: Recording, wanted: ExportFormat, start: datetime | None, stop: datetime | None
) -> Estimate:
    """Ask what an export would be. A camera that has no such function leaves it open."""
    query = _query(recording, wanted, start, stop)
    try:
        root = await camera.xml(f"{EXPORT}/properties.cgi", query)
    except Unsupported:
        return Estimate(
            format=wanted, started_at=start or recording.started_at, stopped_at=stop or recording.stopped_at
        )
    refuse_failure(root, f"what an export of {recording.recording_id} would be")
    return estimate_of(root, wanted)


def estimate_of(root: Element, wanted: ExportFormat) -> Estimate:
    """Read the answer of `properties.cgi`.

    Raises:
        Nonsense: It holds no properties of an export.
    """
    found = next(anywhere(root, "ExportProperties"), None)
    if found is None:
        raise Nonsense("The camera's answer has no properties of an export.")
    size = whole(found.get("EstimatedFileSize"))
    return Estimate(
        format=wanted,
        size_bytes=size * 1024 if size is not None and 0 <= size < 1 << 40 else None,
        started_at=parse_time(found.get("Starttime")),
        stopped_at=parse_time(found.get("Stoptime")),
    )


def _query(recording: Recording, wanted: ExportFormat, start: datetime | None, stop: datetime | None) -> dict[str, str]:
    query = {"schemaversion": "1", "recordingid": recording.recording_id, "exportformat": str(wanted)}
    if recording.disk_id:
        query["diskid"] = recording.disk_id
    if start is not None:
        query["starttime"] = wire_time(start)
    if stop is not None:
        query["stoptime"] = wire_time(stop)
    return query


# --- the download ----------------------------------------------------------------------------------------------------


async def export(camera: Camera, recording: Recording, terms: Terms, run: ToolRun) -> Exported:
    """Fetch a recording into the store.

    A download that breaks off is gone on with where it can be: the partial Matroska file says by its clusters how far it is whole, and
    the next file is asked for from there (cameras know no byte ranges for exports, but times; they align them to key frames, so the
    files overlap by a moment and nothing is missing). Where it cannot be, because it is MP4 or nothing whole had come, it begins again.
    What had come of a Matroska file, and of the last try in any case, is kept and named as partial. So is a file that came as long as the
    camera announced it and ends before what was promised: asking again would bring the same, and it is no error but not complete.

    Raises:
        Rejected: It would be larger than allowed, or take longer, or the camera refuses it.
        Busy: The store has no room.
        Unreachable: It broke off each time, or no picture came; the message names the files that are kept.
        Nonsense: What came is no recording.
    """
    await require_export(camera, terms.format)
    store = await run.store()
    done = Exported(estimate=await estimate(camera, recording, terms.format, terms.start, terms.stop))
    assert done.estimate is not None
    size = done.estimate.size_bytes
    if size is not None and size > terms.max_bytes:
        raise Rejected(
            f"The export would have about {size:,} bytes, more than max_bytes ({terms.max_bytes:,}).",
            hint="Raise max_bytes, or export a shorter time: start and stop.",
        )
    _check_time(size, terms, run)
    until = time.monotonic() + terms.max_seconds
    left, start = terms.max_bytes, terms.start
    now = done.estimate
    problem: ToolError | None = None
    for attempt in range(1, terms.attempts + 1):
        if attempt > 1:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                now = await estimate(camera, recording, terms.format, start, terms.stop)
            except ToolError:  # without an answer the times asked for have to do
                now = now.model_copy(update={"started_at": start or now.started_at})
        part = _Part(store, _name(run, recording, attempt, terms.format), now, left, terms.format)
        part.last = attempt == terms.attempts
        try:
            query = _query(recording, terms.format, start, terms.stop)
            problem = await part.fetch(camera, query, until - time.monotonic())
        finally:
            # However it ended, also by a cancel: what is there is kept.
            kept = await _surely(part.finish(run, recording.started_at))
        if kept is not None:
            done.files.append(kept)
            left -= kept.file.size_bytes
        done.remarks += part.remarks
        if problem is None:
            done.complete = part.whole
            return done
        if not isinstance(problem, Unreachable) or time.monotonic() >= until or left <= 0:
            break
        if kept is not None and part.resumable:
            start = part.whole_until
        run_logger().warning("The download of %s broke off: %s", recording.recording_id, problem.message)
    assert problem is not None
    raise _broken(problem, done)


def bytes_per_second(run: ToolRun) -> int:
    """How fast a download can be: our packets are counted, and every second segment received takes one to acknowledge it."""
    packets = min(run.packets_per_second, run.policy.host_packets_per_second or run.packets_per_second)
    return packets * 2 * SEGMENT_BYTES


def _check_time(size: int | None, terms: Terms, run: ToolRun) -> None:
    speed = bytes_per_second(run)
    if size is not None and size > speed * terms.max_seconds:
        raise Rejected(
            f"The export would have about {size:,} bytes, and takes about {size / speed:,.0f} s at the {speed:,} bytes a second that the "
            f"site's packet rates leave for it: more than max_seconds ({terms.max_seconds:g}).",
            hint="Raise max_seconds, export a shorter time (start and stop), or raise the rate: signalbox policy rate RATE --host RATE",
        )


def _broken(problem: ToolError, done: Exported) -> ToolError:
    if not done.files:
        return problem
    names = ", ".join(one.file.name for one in done.files)
    last = done.files[-1].stopped_at
    onward = f" Go on with start={wire_time(last)}." if last is not None else ""
    return type(problem)(
        f"{problem.message} Kept is what had come: {names}.", hint=(problem.hint or "").strip() + onward
    )


def _name(run: ToolRun, recording: Recording, attempt: int, wanted: ExportFormat) -> str:
    part = f".part{attempt}" if attempt > 1 else ""
    return f"{run.spec.name}/{run.id}-{run.attempt}/{recording.recording_id}{part}.{_ENDING[wanted]}"


async def _surely(work: Coroutine[Any, Any, ExportedFile | None]) -> ExportedFile | None:
    """Finish a file even while this task is being cancelled."""
    finishing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(finishing)
    except asyncio.CancelledError:
        with suppress(ToolError, OSError):
            await finishing
        raise


class _Part:
    """One download: a file, whole or not."""

    def __init__(self, store: CaptureStore, name: str, promised: Estimate, most: int, wanted: ExportFormat) -> None:
        self.store, self.promised, self.wanted = store, promised, wanted
        self.name = name
        self.partial_name = f"{name.rpartition('.')[0]}.partial.{_ENDING[wanted]}"
        self.most = most
        self.path: Path | None = None
        self.received = 0
        self.announced: int | None = None
        self.whole = False
        self.resumable = False
        self.last = False
        self.whole_until: datetime | None = None
        self.remarks: list[str] = []

    async def fetch(self, camera: Camera, query: dict[str, str], seconds: float) -> ToolError | None:
        """Download; returns what broke it off, None when it came to an end of some kind."""
        self.path = await asyncio.to_thread(self._claim)
        file = await asyncio.to_thread(self.path.open, "wb")
        try:
            # Others may talk with the camera meanwhile: a download takes minutes.
            await camera.let_go()
            async with camera.stream(
                f"{EXPORT}/exportrecording.cgi",
                query,
                seconds=max(1.0, seconds),
                idle=IDLE_SECONDS,
                timeout=IDLE_SECONDS,
            ) as stream:
                await self._take(stream, file)
        except ToolError as problem:
            return problem
        except OSError as problem:
            self.remarks.append(f"The store took no more: {problem.strerror}")
            return Busy(f"The store took no more after {self.received:,} bytes: {problem.strerror}.")
        finally:
            await asyncio.to_thread(file.close)
        return None if self.remarks else await asyncio.to_thread(self._judge)

    def _claim(self) -> Path:
        """Have room promised: all that is allowed, else twice what the camera estimates."""
        rooms = [self.most]
        if self.promised.size_bytes is not None:
            rooms.append(min(self.most, 2 * self.promised.size_bytes + MARGIN_BYTES))
        for room in rooms:
            try:
                path = self.store.new(self.partial_name, expected_bytes=room, keep=True)
            except OSError as problem:
                if problem.errno not in (errno.EDQUOT, errno.ENOSPC):
                    raise
                full = problem
                continue
            self.most = room
            return path
        raise Busy(f"{full.strerror}.", hint="Make room: signalbox capture prune")

    async def _take(self, stream: Stream, file: BinaryIO) -> None:
        kind = stream.headers.get("content-type", "").partition(";")[0].strip().lower()
        pending = bytearray()
        pieces = stream.chunks
        async for chunk in pieces:
            pending += chunk
            if len(pending) >= 12:
                break
        if kind in ("text/xml", "application/xml", "text/html", "text/plain") or pending.lstrip()[:1] == b"<":
            raise await _refusal(pieces, pending, kind)
        if not _is_recording(bytes(pending), self.wanted):
            raise Nonsense(f"The camera sends something that is no {self.wanted} file ({said(kind, 40) or 'no type'}).")
        length = whole(stream.headers.get("content-length"))
        progress = Progress("export")
        try:
            async for chunk in pieces:
                pending += chunk
                if self.received + len(pending) > self.most:
                    del pending[self.most - self.received :]
                    self.remarks.append(f"Cut at {self.most:,} bytes: max_bytes, or what the store has room for.")
                    break
                if len(pending) >= _PIECE:
                    await asyncio.to_thread(self._write, file, pending)
                    await progress.tell(*self._how_far(length))
        finally:
            # Also what came before a break, or a cancel.
            self._write(file, pending)
        if stream.over:
            self.remarks.append("Cut because max_seconds were over.")
        self.announced = length
        await progress.tell(100.0, f"{self._label()}: ended with {size_in_words(self.received)}")

    def _how_far(self, length: int | None) -> tuple[float, str]:
        """How much of what was announced has come, percent and in words; what was only estimated never counts as all of it."""
        total = self.promised.size_bytes if length is None else length
        percent = min(99.0, 100.0 * self.received / total) if total else 0.0
        share = f", {percent:.0f} % of {size_in_words(total)}" if total else ""
        return percent, f"{self._label()}: {size_in_words(self.received)}{share}"

    def _label(self) -> str:
        return f"Export of {self.name.rpartition('/')[2]}"

    def _write(self, file: BinaryIO, pending: bytearray) -> None:
        file.write(pending)
        self.received += len(pending)
        pending.clear()

    @cached_property
    def reached(self) -> Reach | None:
        """How far the pictures of a Matroska file reach, whole or cut; to be asked when no more comes."""
        if self.path is None or self.wanted is not ExportFormat.MATROSKA or not self.path.exists():
            return None
        with self.path.open("rb") as file:
            return reach(file)

    def _judge(self) -> ToolError | None:
        """Say whether an answer that came to its end is all that was promised: how long it said it would be is no proof of it.

        Returns:
            What broke it off, where it is worth asking again.
        """
        assert self.path is not None
        seconds: float | None
        if self.wanted is ExportFormat.MATROSKA:
            if self.reached is None:
                return Unreachable(f"The camera ended its answer before any picture, after {self.received:,} bytes.")
            ends, seconds = self.reached.whole, self.reached.until_seconds - self.reached.first_seconds
        else:
            with self.path.open("rb") as file:
                ends, seconds = whole_mp4(file), mp4_seconds(file)
        if not ends and self.announced is None:
            return Unreachable(f"The camera ended its answer in the middle, after {self.received:,} bytes.")
        begins, stops = self.promised.started_at, self.promised.stopped_at
        missing = 0.0  # where nobody knows
        if begins is not None and stops is not None and seconds is not None:
            missing = (stops - begins).total_seconds() - seconds
        self.whole = ends and missing <= _SHORT_SECONDS
        if not self.whole:
            self._note_times()
            if self.wanted is ExportFormat.MP4 and ends and stops is not None:
                self.whole_until = stops - timedelta(seconds=missing)
            self.remarks.append(self._short_of(ends, missing))
        return None

    def _short_of(self, ends: bool, missing: float) -> str:
        """Say what a file lacks that came as the camera announced it."""
        short = f"{missing:.0f} s too early" if missing > _SHORT_SECONDS else ""
        middle = "" if ends else f"in the middle, after the {self.received:,} bytes that the camera announced"
        said = [f"The file ends {', '.join(filter(None, (middle, short)))}."]
        if self.whole_until is not None:
            said.append(f"It is whole until there: go on with start={wire_time(self.whole_until)}.")
        elif self.wanted is ExportFormat.MP4:
            said.append("Fetch it as matroska, of which also a part can be played.")
        return " ".join([*said, "Keep the recording on the camera."])

    async def finish(self, run: ToolRun, began: datetime | None) -> ExportedFile | None:
        """Put what came under its name, or nothing where nothing of use came."""
        if self.path is None:
            return None
        try:
            stored = await asyncio.to_thread(self._store)
        except OSError as problem:
            raise Busy(f"The store did not take the file: {problem.strerror}.") from None
        if stored is None:
            return None
        starts = self.promised.started_at or began
        return ExportedFile(
            file=run.file_ref(stored),
            format=self.wanted,
            whole=self.whole,
            started_at=starts,
            stopped_at=self.promised.stopped_at if self.whole else self.whole_until,
        )

    def _note_times(self) -> None:
        """Find out until when a Matroska file is whole, and whether it can be gone on with from there."""
        found, starts = self.reached, self.promised.started_at
        if found is None or starts is None:
            return
        seconds = found.last_seconds - found.first_seconds
        if 0 <= seconds < _LONGEST_SECONDS:  # else its times make no sense, and nothing can be gone on from
            with suppress(OverflowError):
                self.whole_until = starts + timedelta(seconds=seconds)
        self.resumable = seconds > 0 and self.whole_until is not None

    def _store(self) -> StoredFile | None:
        assert self.path is not None
        self._note_times()
        # What neither can be gone on from nor is the last try is fetched again from its beginning.
        if not self.received or not (self.whole or self.resumable or self.remarks or self.last):
            self.store.discard(self.path)
            return None
        if self.whole:
            final = self.path.with_name(self.name.rpartition("/")[2])
            self.path.rename(final)
            self.path = final
        return self.store.commit(self.path)


async def _refusal(pieces: AsyncIterator[bytes], begun: bytearray, kind: str) -> ToolError:
    """Make the error of an answer that is no recording: refusals come with HTTP 200."""
    body = bytearray(begun)
    with suppress(Unreachable):
        async for chunk in pieces:
            body += chunk
            if len(body) > _MOST_ERROR:
                break
    try:
        refuse_failure(parse_xml(bytes(body[:_MOST_ERROR])), "the export")
    except Nonsense:
        pass
    except ToolError as error:
        return error
    return Nonsense(
        f"The camera answers an export with {said(kind, 40) or 'something'} in place of a recording: "
        f"{text(body[:200].decode('utf-8', 'replace')) or 'empty'}."
    )


def _is_recording(begin: bytes, wanted: ExportFormat) -> bool:
    return begin[:4] == EBML_MAGIC if wanted is ExportFormat.MATROSKA else begin[4:8] == b"ftyp"
