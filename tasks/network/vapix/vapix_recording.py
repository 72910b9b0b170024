"""What Axis cameras have recorded: listing it, fetching a recording, removing one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from tasks.core.errors import Conflict, NotFound, Rejected
from tasks.core.models import Example, Safety, Service
from tasks.core.redact import json_size
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network._sparing import ROOM_BYTES, spare_entries
from tasks.network.vapix import _recording_export as exporting
from tasks.network.vapix import _storage as storage
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, only_one
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._recording import (
    LIST_PATH,
    MOST_SCANNED,
    Recording,
    check_recording_id,
    find_recording,
    list_recordings,
    refuse_failure,
    size_in_words,
)
from tasks.network.vapix._recording_export import Estimate, ExportedFile, ExportFormat

REMOVE_PATH = "/axis-cgi/record/remove.cgi"
READING_SECONDS = 120.0
"""Most seconds for one camera, beside a download."""
TIMEOUT_SECONDS = 3500.0
_SHOWN = (50, 20, 8, 3)
"""Recordings of each camera that are shown where not all fit."""


class RecordingAction(StrEnum):
    """What to do."""

    LIST = "list"
    ESTIMATE = "estimate"
    EXPORT = "export"
    REMOVE = "remove"


_FILTERS = ("disk", "event", "source", "type", "running", "order", "limit")
_TIMES = ("start", "stop")
_ALLOWED: dict[RecordingAction, tuple[str, ...]] = {
    RecordingAction.LIST: (*_FILTERS, *_TIMES),
    RecordingAction.ESTIMATE: ("recording", "format", *_TIMES),
    RecordingAction.EXPORT: ("recording", "format", "max_bytes", "max_seconds", "attempts", *_TIMES),
    RecordingAction.REMOVE: ("recording",),
}
_OWN = (*_FILTERS, *_TIMES, "recording", "format", "max_bytes", "max_seconds", "attempts")

DiskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$")]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]


class VapixRecording(CameraParams):
    """Which recordings to list, fetch or remove."""

    action: RecordingAction = Field(
        RecordingAction.LIST,
        description="list; estimate says how large an export would be; export fetches one recording into the store; remove deletes one.",
    )
    recording: str | None = Field(
        None, description="Id of the one recording to estimate, export or remove, as the list gives it."
    )
    disk: DiskId | None = Field(None, description="Only recordings on this disk: SD_DISK, NetworkShare, ...")
    start: AwareDatetime | None = Field(
        None,
        description="List recordings from this time on, or export from it on; with its zone: 2026-01-01T12:00:00Z.",
    )
    stop: AwareDatetime | None = Field(
        None, description="List recordings until this time, or export until it; likewise."
    )
    event: EventId | None = Field(None, description="Only recordings of the event with this id.")
    source: int | None = Field(None, ge=1, le=64, description="Only recordings of this view, 1 to 64; 1 is the first.")
    type: Literal["triggered", "scheduled", "continuous"] | None = Field(
        None, description="Only recordings of this type."
    )
    running: bool | None = Field(None, description="Only recordings that go on now (true), or that have ended (false).")
    order: Literal["newest", "oldest"] = Field("newest", description="Which come first.")
    limit: int = Field(100, ge=1, le=5000, description="Most recordings listed of each camera, 1 to 5000.")
    format: ExportFormat = Field(
        ExportFormat.MATROSKA, description="matroska, which every camera writes, or mp4, which some do."
    )
    max_bytes: int = Field(
        512 << 20,
        ge=1 << 16,
        le=1 << 36,
        description="Most bytes of an export, 65536 to 68719476736; the store promises room for it.",
    )
    max_seconds: float = Field(900.0, ge=5, le=3300, description="Most seconds for an export, 5 to 3300.")
    attempts: int = Field(
        3,
        ge=1,
        le=6,
        description="How often the download is begun at most, 1 to 6: one that breaks off is gone on with.",
    )

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        allowed = _ALLOWED[self.action]
        for name in _OWN:
            if name not in allowed and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning for {self.action}")
        if self.start is not None and self.stop is not None and self.stop <= self.start:
            raise ValueError("stop must be after start")
        if "recording" in allowed:
            if self.recording is None:
                raise ValueError(f"{self.action} needs recording: the id of one, as the list gives it")
            try:
                check_recording_id(self.recording)
            except ValueError as mistake:
                raise ValueError(f"recording: {mistake}") from None
            only_one(self, self.action)
        return self

    def safety(self) -> Safety | None:
        # A recording is evidence, and an export takes pictures of people out of the camera.
        return Safety.DESTROY if self.action in (RecordingAction.EXPORT, RecordingAction.REMOVE) else None

    def approval(self) -> bool:
        return self.safety() is Safety.DESTROY

    def thing(self) -> str | None:
        return self.recording

    def about(self) -> str:
        return f"{super().about()[:380]}: {self.action} {self.recording or ''}".rstrip()

    def deadline(self) -> float:
        if self.action is RecordingAction.EXPORT:
            return min(TIMEOUT_SECONDS, self.seconds + 20)
        return fleet_timeout(self.seconds, len(self.targets))

    @property
    def seconds(self) -> float:
        """Most seconds for one camera."""
        return READING_SECONDS + (self.max_seconds if self.action is RecordingAction.EXPORT else 0)


class CameraRecordings(CameraEntry):
    """Recordings of one camera."""

    api: str | None = Field(None, description="The function of the camera that was used.")
    recordings: list[Recording] = Field(
        default_factory=list, description="Those asked for; with estimate, export and remove the one, as it was before."
    )
    total: int | None = Field(
        None, description="How many the camera counts by what it can filter itself: disk, times, event, view."
    )
    complete: bool | None = Field(
        None, description="Whether the list has all that match, or the files all that was asked for."
    )
    estimate: Estimate | None = Field(None, description="What an export would be, or was said to be.")
    files: list[ExportedFile] = Field(default_factory=list, description="Files an export made, in the order of time.")
    removed: bool | None = Field(None, description="With remove: whether the recording is gone.")
    remarks: list[str] = Field(default_factory=list, description="What else there is to know.")


class RecordingResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraRecordings] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraRecordings) -> str:
        if camera.outcome is not CameraOutcome.DONE:
            return super().one_line(camera)
        if camera.files:
            size = sum(one.file.size_bytes for one in camera.files)
            names = ", ".join(one.file.name for one in camera.files)
            return f"{camera.target}: {'' if camera.complete else 'PARTIAL, '}{size_in_words(size)} in {names}"
        if camera.removed is not None:
            return f"{camera.target}: {camera.recordings[0].recording_id} is removed"
        if camera.estimate is not None:
            size_bytes = camera.estimate.size_bytes
            return (
                f"{camera.target}: about {size_in_words(size_bytes)}"
                if size_bytes
                else f"{camera.target}: size unknown"
            )
        more = "" if camera.complete else " and more"
        running = sum(one.running for one in camera.recordings)
        return f"{camera.target}: {count(len(camera.recordings), 'recording')}{more}{f', {running} going on' if running else ''}"


@dataclass
class _Found:
    """What is told of one camera."""

    api: str = LIST_PATH
    recordings: list[Recording] = field(default_factory=list)
    total: int | None = None
    complete: bool | None = None
    estimate: Estimate | None = None
    files: list[ExportedFile] = field(default_factory=list)
    removed: bool | None = None
    remarks: list[str] = field(default_factory=list)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("axis_vapix_recording",),
    examples=[
        Example(
            "What two cameras recorded on a morning because something triggered it",
            {
                "targets": ["10.0.7.11", "10.0.7.12"],
                "credentials": "axis/yard",
                "start": "2026-01-01T06:00:00Z",
                "stop": "2026-01-01T12:00:00Z",
                "type": "triggered",
            },
        ),
        Example(
            "How large would it be?",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "estimate",
                "recording": "20260101_120000_A1B2_B8A44F7C1D20",
            },
        ),
        Example(
            "Five minutes of a recording into the store",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "export",
                "recording": "20260101_120000_A1B2_B8A44F7C1D20",
                "start": "2026-01-01T12:00:00Z",
                "stop": "2026-01-01T12:05:00Z",
                "confirm": "10.0.7.11 20260101_120000_A1B2_B8A44F7C1D20",
            },
        ),
        Example(
            "Remove one recording for good",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "remove",
                "recording": "20260101_120000_A1B2_B8A44F7C1D20",
                "confirm": "10.0.7.11 20260101_120000_A1B2_B8A44F7C1D20",
            },
        ),
    ],
)
async def vapix_recording(params: VapixRecording) -> RecordingResult:
    """List the recordings on cameras, fetch one into the store, or remove one.

    Listing asks page by page, at most 20,000 recordings of a camera, and says whether that was all. Times are by the camera's clock, UTC.

    `export` and `remove` are at the level destroy and need approval: `confirm` is the target, a space, and the recording's id. Both name
    one recording; `all`, lists and wildcards are refused.

    An export goes to the store as it comes, within `max_bytes`, and not faster than the policy's packet rates let it: 40 packets a second
    to a host are 116 kB/s. One that could not be done in `max_seconds` is refused before it begins.

    What resuming really is: cameras offer no byte ranges for exports, but times. A Matroska download that breaks off is kept under a name
    that says `partial`, and the next file is asked for from the last moment that is whole in it; the files overlap by a key frame at most
    and together hold everything. An MP4 download is begun again. When no attempt succeeds the error names the files that are kept and the
    `start` to go on with. An export that was cut by `max_bytes` or `max_seconds`, or that ends before what the camera had promised, is a
    result with `complete` false, and a remark says how far it reaches. The SHA-256 of each file is in its reference.

    Raises:
        Unsupported: The (only) camera has no storage, or does not export, or not to this format.
        NotFound: It has no such recording.
        Conflict: The recording to be removed goes on.
        Rejected: The export would be larger than `max_bytes` or take longer than `max_seconds`; the camera refuses it; or a removed
            recording is still there.
        InvalidParameters: `start` or `stop` are outside the recording.
        Busy: The store has no room.
        Unreachable: The download broke off each time.
        Nonsense: What came is no recording.
    """

    async def work(camera: Camera) -> _Found:
        await storage.require_storage(camera)
        return await _ACTIONS[params.action](camera, params)

    seen = await each_camera(params, work, seconds=params.seconds)
    cameras = [entry(CameraRecordings, one, **(vars(one.value) if one.value is not None else {})) for one in seen]
    return await _fitting(RecordingResult(cameras=cameras))


async def _fitting(result: RecordingResult) -> RecordingResult:
    """Return the result as it is, or with the first recordings of each camera and all of them in a file."""
    update = await spare_entries(result, "cameras", ["recordings", "remarks"])
    if not update:
        return result
    for shown in _SHOWN:
        some = [one.model_copy(update={"recordings": one.recordings[:shown]}) for one in result.cameras]
        fitted = {**update, "cameras": some, "left_out": [f"recordings beyond the first {shown} of each camera"]}
        if json_size(result.model_copy(update=fitted).model_dump(mode="json")) <= ROOM_BYTES:
            return result.model_copy(update=fitted)
    return result.model_copy(update=update)


async def _list(camera: Camera, params: VapixRecording) -> _Found:
    listing = await list_recordings(
        camera,
        disk=params.disk,
        start=params.start,
        stop=params.stop,
        event=params.event,
        source=params.source,
        type_=params.type,
        running=params.running,
        ascending=params.order == "oldest",
        most=params.limit,
    )
    found = _Found(recordings=listing.recordings, total=listing.total, complete=listing.complete)
    if not listing.complete and len(listing.recordings) < params.limit:
        found.remarks.append(f"{MOST_SCANNED:,} recordings were looked at; there are more. Ask for a shorter time.")
    return found


async def _one(camera: Camera, params: VapixRecording) -> Recording:
    assert params.recording is not None
    found = await find_recording(camera, params.recording)
    if found is None:
        raise NotFound(f"{camera.asked} has no recording {params.recording}.", hint="See what it has: action list")
    return found


async def _estimate(camera: Camera, params: VapixRecording) -> _Found:
    recording = await _one(camera, params)
    await exporting.require_export(camera, params.format)
    told = await exporting.estimate(camera, recording, params.format, params.start, params.stop)
    return _Found(api=f"{exporting.EXPORT}/properties.cgi", recordings=[recording], estimate=told)


async def _export(camera: Camera, params: VapixRecording) -> _Found:
    recording = await _one(camera, params)
    terms = exporting.Terms(
        params.format, params.start, params.stop, params.max_bytes, params.max_seconds, params.attempts
    )
    made = await exporting.export(camera, recording, terms, current_run())
    found = _Found(api=f"{exporting.EXPORT}/exportrecording.cgi", recordings=[recording], complete=made.complete)
    found.estimate, found.files, found.remarks = made.estimate, made.files, made.remarks
    if recording.running:
        found.remarks.append("The recording goes on: what is recorded later is not in the file.")
    return found


async def _remove(camera: Camera, params: VapixRecording) -> _Found:
    recording = await _one(camera, params)
    if recording.running:
        raise Conflict(f"{recording.recording_id} goes on.", hint="End it first, with vapix_edge_storage: action stop.")
    before = (await list_recordings(camera, most=1, scan=1)).total
    # Only ever an explicit id: `all` and filters such as `beforetime` would take others with it.
    query = {"recordingid": check_recording_id(recording.recording_id)}
    refuse_failure(await camera.xml(REMOVE_PATH, query, form=True, write=True), f"removing {recording.recording_id}")
    if await find_recording(camera, recording.recording_id) is not None:
        raise Rejected(f"{camera.asked} says it removed {recording.recording_id}, but lists it still.")
    found = _Found(api=REMOVE_PATH, recordings=[recording], removed=True)
    found.total = (await list_recordings(camera, most=1, scan=1)).total
    if before is not None and found.total is not None and found.total < before - 1:
        found.remarks.append(
            f"There were {before} recordings before and are {found.total} now: more than the one are gone. The camera may have "
            "removed old ones to make room meanwhile."
        )
    return found


_ACTIONS: dict[RecordingAction, Callable[[Camera, VapixRecording], Awaitable[_Found]]] = {
    RecordingAction.LIST: _list,
    RecordingAction.ESTIMATE: _estimate,
    RecordingAction.EXPORT: _export,
    RecordingAction.REMOVE: _remove,
}
