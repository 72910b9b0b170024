"""What Axis cameras record on themselves: disks, their state, and what is recorded now; starting and stopping it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import parse_qsl, quote, urlencode

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.core.errors import Busy, Conflict, Forbidden, NotFound, Rejected, Unreachable, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix import _storage as storage
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting, only_one
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._recording import (
    Recording,
    check_recording_id,
    find_recording,
    refuse_failure,
    text,
    whole,
)
from tasks.network.vapix._storage import Continuous, Disk, Job
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix._xml import anywhere

READING_SECONDS = 60.0
"""Most seconds for one camera, beside what a job may take."""
LOOK_SECONDS = 1.0
"""Between two looks at a job or a recording that begins: cameras are not asked more often."""
LOOKS = 4
"""Looks at a recording until what was asked for shows."""
TIMEOUT_SECONDS = fleet_timeout(READING_SECONDS)


class StorageAction(StrEnum):
    """What to do."""

    STATUS = "status"
    JOB = "job"
    MOUNT = "mount"
    UNMOUNT = "unmount"
    RECORD = "record"
    STOP = "stop"
    ADD_CONTINUOUS = "add_continuous"
    REMOVE_CONTINUOUS = "remove_continuous"


_NEEDS = {
    StorageAction.JOB: ("job", "disk"),
    StorageAction.MOUNT: ("disk",),
    StorageAction.UNMOUNT: ("disk",),
    StorageAction.RECORD: ("disk",),
    StorageAction.STOP: ("recording",),
    StorageAction.ADD_CONTINUOUS: ("disk",),
    StorageAction.REMOVE_CONTINUOUS: ("profile",),
}
_STREAM = ("stream_profile", "codec", "resolution", "fps", "camera", "audio")
_MAY_HAVE: dict[StorageAction, tuple[str, ...]] = {
    StorageAction.STATUS: ("health",),
    StorageAction.MOUNT: ("wait",),
    StorageAction.UNMOUNT: ("wait",),
    StorageAction.RECORD: _STREAM,
    StorageAction.ADD_CONTINUOUS: (*_STREAM, "event"),
}
_OWN = ("disk", "job", "recording", "profile", "health", "event", "wait", *_STREAM)

DiskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f&=?#]+$")]


class VapixEdgeStorage(CameraParams):
    """What to read of, or to do with, the storage of cameras."""

    action: StorageAction = Field(
        StorageAction.STATUS,
        description="status reads disks and what is recorded; job asks how far a job is; mount, unmount; record starts a recording, stop "
        "ends one; add_continuous and remove_continuous record for as long as the configuration exists.",
    )
    disk: DiskId | None = Field(
        None, description="The disk, for job, mount, unmount, record and add_continuous: SD_DISK, NetworkShare, ..."
    )
    health: bool = Field(
        False, description="Ask for the disks' wear and temperature as well; one more question for each disk."
    )
    recording: str | None = Field(None, description="Id of the recording to stop, as status lists it under running.")
    profile: int | None = Field(
        None, ge=0, le=9999, description="Number of the continuous recording to remove, 0 to 9999."
    )
    job: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,40}$", description="Number of the job to ask about.")
    stream_profile: Label | None = Field(
        None, description="Name of the camera's stream profile to record with, for record and add_continuous."
    )
    codec: str | None = Field(
        None, pattern=r"^(h264|h265|av1|jpeg)$", description="h264, h265, av1 or jpeg, in place of the profile's."
    )
    resolution: str | None = Field(
        None, pattern=r"^\d{2,5}x\d{2,5}$", description="Such as 1920x1080, in place of the profile's."
    )
    fps: int | None = Field(None, ge=1, le=180, description="Frames a second, 1 to 180, in place of the profile's.")
    camera: int | None = Field(None, ge=1, le=64, description="View to record, 1 to 64; 1 is the first.")
    audio: bool | None = Field(None, description="Whether to record sound, in place of what the profile says.")
    event: Label | None = Field(None, description="Event id that a continuous recording's files carry.")
    wait: float = Field(30.0, ge=0, le=300, description="Seconds to wait until a mount or unmount is done, 0 to 300.")

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        needed = _NEEDS.get(self.action, ())
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{self.action} needs {name}")
        allowed = {*needed, *_MAY_HAVE.get(self.action, ())}
        for name in _OWN:
            if name not in allowed and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning for {self.action}")
        if self.recording is not None:
            try:
                check_recording_id(self.recording)
            except ValueError as mistake:
                raise ValueError(f"recording: {mistake}") from None
        if self.action is not StorageAction.STATUS:
            only_one(self, self.action)
        return self

    def safety(self) -> Safety | None:
        # What ends a recording or takes its disk away loses evidence.
        match self.action:
            case StorageAction.STATUS | StorageAction.JOB:
                return None
            case StorageAction.UNMOUNT | StorageAction.STOP | StorageAction.REMOVE_CONTINUOUS:
                return Safety.DESTROY
            case _:
                return Safety.CHANGE

    def approval(self) -> bool:
        return self.safety() is Safety.DESTROY

    def thing(self) -> str | None:
        named = {
            StorageAction.UNMOUNT: self.disk,
            StorageAction.STOP: self.recording,
            StorageAction.REMOVE_CONTINUOUS: str(self.profile),
        }
        return named.get(self.action)

    def deadline(self) -> float:
        return fleet_timeout(self.seconds, len(self.targets))

    def about(self) -> str:
        what = self.disk or self.recording or ("" if self.profile is None else f"profile {self.profile}")
        return f"{super().about()[:400]}: {self.action} {what}".rstrip()

    @property
    def seconds(self) -> float:
        """Most seconds for one camera."""
        return READING_SECONDS + (self.wait if self.action in (StorageAction.MOUNT, StorageAction.UNMOUNT) else 0)

    @property
    def options(self) -> str:
        """The stream arguments as the camera takes them: themselves a query string."""
        asked = {
            "streamprofile": self.stream_profile,
            "videocodec": self.codec,
            "resolution": self.resolution,
            "fps": self.fps,
            "camera": self.camera,
            "audio": None if self.audio is None else int(self.audio),
        }
        return urlencode({name: value for name, value in asked.items() if value is not None}, quote_via=quote)


class Before(BaseModel):
    """How it was before a change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disk: Disk | None = Field(None, description="The disk.")
    continuous: list[Continuous] = Field(default_factory=list, description="The continuous recordings.")
    recording: Recording | None = Field(None, description="The recording.")


class CameraStorage(CameraEntry):
    """The storage of one camera."""

    api: str | None = Field(None, description="The function of the camera that was used.")
    disks: list[Disk] = Field(default_factory=list, description="Its disks; after a change as they are now.")
    continuous: list[Continuous] = Field(
        default_factory=list, description="Configurations that record for as long as they exist."
    )
    recording_now: bool | None = Field(
        None, description="Whether it records anything now; None when that could not be found out."
    )
    running: list[Recording] = Field(
        default_factory=list, description="Recordings that go on now, or the one that was started or stopped."
    )
    job: Job | None = Field(None, description="The job that was asked about, or that a change became.")
    findings: list[str] = Field(
        default_factory=list, description="What somebody should look after: no card, full, locked, worn."
    )
    before: Before | None = Field(None, description="How it was before a change.")
    remarks: list[str] = Field(
        default_factory=list, description="What could not be read, and what else there is to know."
    )


class EdgeStorageResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraStorage] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraStorage) -> str:
        if camera.outcome is not CameraOutcome.DONE:
            return super().one_line(camera)
        disks = ", ".join(_short(disk) for disk in camera.disks)
        now = {True: "records now", False: "records nothing now", None: ""}[camera.recording_now]
        job = f"job {camera.job.job_id} {camera.job.progress or 0:g} %" if camera.job is not None else ""
        said = "; ".join(part for part in (_done(camera), disks, now, job, *camera.findings) if part)
        return f"{camera.target}: {said or 'no disks'}"


def _done(camera: CameraStorage) -> str:
    """What a change did, in a few words; empty of what only reads."""
    before = camera.before
    match camera.api:
        case storage.RECORD_PATH:
            return f"{camera.running[0].recording_id} started" if camera.running else ""
        case storage.STOP_PATH:
            had_ended = before is not None and before.recording is not None and not before.recording.running
            return f"{camera.running[0].recording_id} {'had' if had_ended else 'is'} ended" if camera.running else ""
        case storage.CONTINUOUS_ADD_PATH | storage.CONTINUOUS_REMOVE_PATH if before is not None:
            older, now = ({one.profile for one in them} for them in (before.continuous, camera.continuous))
            what = ", ".join(sorted(older ^ now))
            return f"continuous recording {what} {'added' if now - older else 'removed'}" if what else ""
    return ""


def _short(disk: Disk) -> str:
    if not disk.total_bytes or disk.free_bytes is None:
        return f"{disk.disk_id} {disk.status}"
    return f"{disk.disk_id} {disk.status}, {disk.free_bytes / 1e9:.1f} of {disk.total_bytes / 1e9:.1f} GB free"


@dataclass
class _Found:
    """What is told of one camera, as it comes."""

    api: str = storage.DISKS_PATH
    disks: list[Disk] = field(default_factory=list)
    continuous: list[Continuous] = field(default_factory=list)
    recording_now: bool | None = None
    running: list[Recording] = field(default_factory=list)
    job: Job | None = None
    findings: list[str] = field(default_factory=list)
    before: Before | None = None
    remarks: list[str] = field(default_factory=list)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("axis_vapix_edge_storage",),
    examples=[
        Example(
            "Are the cards of two cameras in order, and do they record?",
            {"targets": ["10.0.7.11", "10.0.7.12"], "credentials": "axis/yard", "health": True},
        ),
        Example(
            "Record now, with one of the camera's stream profiles",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "record",
                "disk": "SD_DISK",
                "stream_profile": "Evidence",
            },
        ),
        Example(
            "End that recording",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "stop",
                "recording": "20260101_120000_A1B2_B8A44F7C1D20",
                "confirm": "10.0.7.11 20260101_120000_A1B2_B8A44F7C1D20",
            },
        ),
        Example(
            "Record continuously, ten frames a second",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "add_continuous",
                "disk": "SD_DISK",
                "codec": "h264",
                "fps": 10,
            },
        ),
        Example(
            "Give a card free, to take it out",
            {
                "targets": ["10.0.7.11"],
                "credentials": "axis/yard",
                "action": "unmount",
                "disk": "SD_DISK",
                "confirm": "10.0.7.11 SD_DISK",
            },
        ),
    ],
)
async def vapix_edge_storage(params: VapixEdgeStorage) -> EdgeStorageResult:
    """Read the disks of cameras and what they record; start and stop recording.

    Reading says what somebody should look after as findings: no card, a full, locked or worn one, nothing recorded though it should be.
    `record` starts a recording that goes on until `stop`; `add_continuous` makes a configuration that records for as long as it exists.
    Both are changes. What ends a recording or takes its disk away loses evidence that would have been: `stop`, `remove_continuous` and
    `unmount` are at the level destroy and need approval. Formatting, locking and repairing disks are not offered.

    Changes look first, so that nothing is sent that cannot go well, and read back afterwards; `before` says how it was.

    Raises:
        Unsupported: The (only) camera has no storage of its own.
        Forbidden: The account's level is too low: reading disks takes operator, mount and unmount admin.
        NotFound: It has no such disk, recording or configuration.
        Rejected: It refused, nothing can be recorded on the disk, or what was asked for did not come about.
        Conflict: It has as many continuous recordings as it can have.
    """

    async def work(camera: Camera) -> _Found:
        await storage.require_storage(camera)
        return await _ACTIONS[params.action](camera, params)

    seen = await each_camera(params, work, seconds=params.seconds)
    cameras = [entry(CameraStorage, one, **(vars(one.value) if one.value is not None else {})) for one in seen]
    return await fitting(
        EdgeStorageResult(cameras=cameras), ["before", "continuous", "running", "disks", "remarks", "findings"]
    )


# --- reading ---------------------------------------------------------------------------------------------------------


async def _status(camera: Camera, params: VapixEdgeStorage) -> _Found:
    found = _Found()
    found.disks = await storage.read_disks(camera)
    if params.health:
        await _add_health(camera, found)
    await _recording_state(camera, found)
    found.findings = storage.findings_of(found.disks, found.continuous)
    if found.continuous and found.recording_now is False:
        found.findings.append("a continuous recording is configured, but nothing is recorded")
    return found


async def _add_health(camera: Camera, found: _Found) -> None:
    """Add how the disks are. What cannot be said of their health is no reason to say nothing else of them."""
    for place, disk in enumerate(found.disks):
        if disk.status != "OK":
            continue
        try:
            health = await storage.read_health(camera, disk.disk_id)
        except (Forbidden, Busy, Unreachable, Nonsense) as problem:
            found.remarks.append(f"The health of {disk.disk_id} could not be read: {problem.message}")
        else:
            found.disks[place] = disk.model_copy(update={"health": health})


async def _recording_state(camera: Camera, found: _Found) -> None:
    """Add what is recorded now. A camera that tells of its disks and not of this keeps what it told."""
    try:
        if (await camera.capabilities()).flag(storage.CONTINUOUS_RECORDING):
            found.continuous = await storage.read_continuous(camera)
    except (Unsupported, Rejected, Nonsense) as problem:
        found.remarks.append(f"Continuous recordings could not be listed: {problem.message}")
    try:
        found.running, found.recording_now = await storage.read_running(camera)
    except (Unsupported, Rejected, Nonsense) as problem:
        found.remarks.append(f"Recordings could not be listed: {problem.message}")
        return
    if found.recording_now is None:
        found.remarks.append(
            f"None of the {storage.RUNNING_SCAN} latest recordings goes on; older ones were not looked at."
        )


async def _job(camera: Camera, params: VapixEdgeStorage) -> _Found:
    assert params.job is not None and params.disk is not None
    job = await storage.read_job(camera, params.job, params.disk)
    return _Found(api=storage.JOB_PATH, job=job)


# --- disks -----------------------------------------------------------------------------------------------------------


async def _mount(camera: Camera, params: VapixEdgeStorage) -> _Found:
    """Mount a disk or give it free, wait for the job, and read back."""
    assert params.disk is not None
    mounting = params.action is StorageAction.MOUNT
    doing = f"{'mounting' if mounting else 'unmounting'} {params.disk}"
    before = storage.disk_named(await storage.read_disks(camera), params.disk)
    found = _Found(api=storage.MOUNT_PATH, before=Before(disk=before), recording_now=None)
    if (before.status == "OK") is mounting:
        found.disks = [before]
        found.remarks.append(f"{params.disk} was {'mounted' if mounting else 'not mounted'} already; nothing was sent.")
        return found
    if before.status == "disconnected":
        raise Rejected(f"There is nothing to mount: {params.disk} is disconnected.", hint="Is a card in the camera?")
    query = {"action": str(params.action), "diskid": params.disk}
    found.job = storage.job_of(await camera.xml(storage.MOUNT_PATH, query, form=True, write=True), doing)
    finished = await _until_done(camera, found, params)
    after = storage.disk_named(await storage.read_disks(camera), params.disk)
    found.disks = [after]
    if (after.status == "OK") is not mounting:
        if finished:
            raise Rejected(f"The camera took {doing}, but its status is {after.status!r} afterwards.")
        found.remarks.append(f"Not done after {params.wait:g} s: ask again with action job.")
    found.findings = [] if not mounting else storage.findings_of([after], [])
    return found


async def _until_done(camera: Camera, found: _Found, params: VapixEdgeStorage) -> bool:
    """Wait for a job; says whether it is done. One the camera no longer knows is."""
    assert found.job is not None and params.disk is not None
    until = time.monotonic() + params.wait
    while True:
        try:
            now = await storage.read_job(camera, found.job.job_id, params.disk)
        except (Rejected, NotFound, Unsupported):
            return True
        found.job = now.model_copy(update={"action": now.action or found.job.action})
        if now.progress is None or now.progress >= 100:
            return True
        if time.monotonic() >= until:
            return False
        await asyncio.sleep(min(LOOK_SECONDS, max(0.05, until - time.monotonic())))


# --- single recordings -----------------------------------------------------------------------------------------------


async def _record(camera: Camera, params: VapixEdgeStorage) -> _Found:
    assert params.disk is not None
    disk = storage.usable(storage.disk_named(await storage.read_disks(camera), params.disk))
    query = {"diskid": params.disk, **({"options": params.options} if params.options else {})}
    root = await camera.xml(storage.RECORD_PATH, query, form=True, write=True)
    refuse_failure(root, f"recording on {params.disk}")
    answer = next(anywhere(root, "record"), None)
    recording_id = text(answer.get("recordingid")) if answer is not None else None
    if recording_id is None:
        raise Nonsense(f"{camera.asked} does not say which recording it started.", hint="See what runs: action status")
    found = _Found(api=storage.RECORD_PATH, disks=[disk], before=Before(disk=disk))
    recording = await _look_for(camera, recording_id, running=True)
    if recording is None or not recording.running:
        raise Rejected(
            f"{camera.asked} says it started {recording_id}, but its list does not show it going on.",
            hint="See what runs: action status",
        )
    found.running, found.recording_now = [recording], True
    return found


async def _stop(camera: Camera, params: VapixEdgeStorage) -> _Found:
    assert params.recording is not None
    before = await find_recording(camera, params.recording)
    if before is None:
        raise NotFound(f"{camera.asked} has no recording {params.recording}.", hint="See what runs: action status")
    found = _Found(api=storage.STOP_PATH, before=Before(recording=before))
    if not before.running:
        found.running, found.remarks = [before], ["It had ended already; nothing was sent."]
        return found
    root = await camera.xml(storage.STOP_PATH, {"recordingid": params.recording}, form=True, write=True)
    refuse_failure(root, f"ending {params.recording}")
    after = await _look_for(camera, params.recording, running=False)
    if after is None:
        raise Rejected(f"{camera.asked} ended {params.recording}, and its list does not show it any more.")
    if after.running:
        raise Rejected(
            f"{camera.asked} says it ended {params.recording}, but it goes on.",
            hint="A continuous recording ends with its configuration: action remove_continuous.",
        )
    found.running = [after]
    return found


async def _look_for(camera: Camera, recording_id: str, *, running: bool) -> Recording | None:
    """Look a recording up until it goes on, or does not: what was asked for takes the camera a moment to show."""
    seen = None
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(LOOK_SECONDS)
        seen = await find_recording(camera, recording_id)
        if seen is not None and seen.running is running:
            break
    return seen


# --- continuous recordings -------------------------------------------------------------------------------------------


async def _add_continuous(camera: Camera, params: VapixEdgeStorage) -> _Found:
    assert params.disk is not None
    capabilities = await camera.capabilities()
    if not capabilities.flag(storage.CONTINUOUS_RECORDING):
        raise Unsupported(f"{camera.asked} cannot record continuously ({storage.CONTINUOUS_RECORDING}).")
    before = await storage.read_continuous(camera)
    most = whole(capabilities.properties.get(storage.CONTINUOUS_LIMIT))
    if most is not None and len(before) >= most:
        there = ", ".join(f"{one.profile} on {one.disk_id}" for one in before)
        raise Conflict(
            f"{camera.asked} has {len(before)} of {most} continuous recordings already: {there}.",
            hint="Remove one first: action remove_continuous. A configuration cannot be edited.",
        )
    disk = storage.usable(storage.disk_named(await storage.read_disks(camera), params.disk))
    query = {"diskid": params.disk, "options": params.options, **({"eventid": params.event} if params.event else {})}
    root = await camera.xml(storage.CONTINUOUS_ADD_PATH, query, form=True, write=True)
    refuse_failure(root, f"recording continuously on {params.disk}")
    answer = next(anywhere(root, "configure"), None)
    profile = text(answer.get("profile")) if answer is not None else None
    found = _Found(api=storage.CONTINUOUS_ADD_PATH, disks=[disk], before=Before(disk=disk, continuous=before))
    found.continuous = await storage.read_continuous(camera)
    known = {one.profile for one in before}
    fresh = [one for one in found.continuous if one.profile not in known]
    made = next((one for one in fresh if one.disk_id == params.disk and profile in (None, one.profile)), None)
    if made is None:
        raise Rejected(f"{camera.asked} took the continuous recording, but does not list it afterwards.")
    if others := _otherwise(params, made):
        found.findings.append(f"continuous recording {made.profile} has {'; '.join(others)}")
    await _note_running(camera, found)
    return found


def _otherwise(params: VapixEdgeStorage, made: Continuous) -> list[str]:
    """Name what a continuous recording has otherwise than asked for; what the camera added by itself is no difference."""
    asked, held = (dict(parse_qsl(options, keep_blank_values=True)) for options in (params.options, made.options or ""))
    if params.event is not None:
        asked["eventid"], held["eventid"] = params.event, made.event_id or ""
    return [
        f"{f'{name} {held[name]}' if held.get(name) else f'no {name}'}, not {value}"
        for name, value in asked.items()
        if held.get(name) != value
    ]


async def _remove_continuous(camera: Camera, params: VapixEdgeStorage) -> _Found:
    wanted = str(params.profile)
    before = await storage.read_continuous(camera)
    if wanted not in {one.profile for one in before}:
        there = ", ".join(f"{one.profile} on {one.disk_id}" for one in before) or "none"
        raise NotFound(f"{camera.asked} has no continuous recording {wanted}.", hint=f"It has: {there}.")
    root = await camera.xml(storage.CONTINUOUS_REMOVE_PATH, {"profile": wanted}, form=True, write=True)
    refuse_failure(root, f"removing continuous recording {wanted}")
    found = _Found(api=storage.CONTINUOUS_REMOVE_PATH, before=Before(continuous=before))
    found.continuous = await storage.read_continuous(camera)
    left = {one.profile for one in found.continuous}
    if wanted in left:
        raise Rejected(f"{camera.asked} says it removed continuous recording {wanted}, but lists it still.")
    for one in before:
        if one.profile != wanted and one.profile not in left:
            found.remarks.append(f"Continuous recording {one.profile} is gone as well, which nobody asked for.")
    await _note_running(camera, found)
    return found


async def _note_running(camera: Camera, found: _Found) -> None:
    try:
        found.running, found.recording_now = await storage.read_running(camera)
    except (Unsupported, Rejected, Nonsense) as problem:
        found.remarks.append(f"What runs now could not be listed: {problem.message}")


_ACTIONS: dict[StorageAction, Callable[[Camera, VapixEdgeStorage], Awaitable[_Found]]] = {
    StorageAction.STATUS: _status,
    StorageAction.JOB: _job,
    StorageAction.MOUNT: _mount,
    StorageAction.UNMOUNT: _mount,
    StorageAction.RECORD: _record,
    StorageAction.STOP: _stop,
    StorageAction.ADD_CONTINUOUS: _add_continuous,
    StorageAction.REMOVE_CONTINUOUS: _remove_continuous,
}
