"""What a camera has on its disks: disks, recordings, what records now, and jobs that take a while. Families E and F show the same."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from deployments.demo.axis_camera._recording_media import GROUP_SECONDS, Footage

if TYPE_CHECKING:
    from deployments.demo.axis_camera._device import Device

_YEAR_ONE = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass
class Disk:
    """A place to record on. Sizes are in kB, as the device counts."""

    disk_id: str
    group: str
    total: int = 62_367_744
    free: int = 31_183_872
    status: str = "OK"
    filesystem: str = "ext4"
    locked: bool = False
    full: bool = False
    readonly: bool = False
    cleanup: str = "fifo"
    keep_days: int = 7
    required_filesystem: str = "none"
    encryption_enabled: bool = False
    encrypted: bool = False
    wear: int = 3
    temperature: int = 38
    health: str = "good"

    @property
    def usable(self) -> bool:
        return self.status == "OK" and not self.locked and not self.readonly


@dataclass
class Recording:
    """Something recorded, or being recorded."""

    recording_id: str
    disk_id: str
    started: datetime
    stopped: datetime | None
    kind: str = "continuous"
    event_id: str = "continuous"
    source: int = 1
    audio: bool = False
    frame_bytes: int = 120
    profile: int | None = None
    """The continuous configuration that makes it."""


@dataclass
class Continuous:
    """A configuration that records for as long as it exists."""

    profile: int
    disk_id: str
    options: str
    event_id: str = "continuous"


@dataclass
class Job:
    """Work on a disk."""

    job_id: int
    action: str
    disk_id: str
    begun: datetime
    seconds: float
    finish: Callable[[], None] = field(repr=False, default=lambda: None)
    done: bool = False
    external: str | None = None


@dataclass
class Window:
    """A stretch of a recording, at its key frames."""

    footage: Footage
    start: datetime
    stop: datetime


class StorageRefusal(Exception):
    """The device says no, in these words."""


class EdgeStorage:
    """The storage of one camera: `device.slot(EdgeStorage)`.

    Attributes:
        disks: Its disks by their ids.
        recordings: Its recordings by their ids.
        continuous: Configurations that record, by number.
        jobs: Work on disks by number.
        job_seconds: How long such work takes.
        says_length: Whether exports come with a Content-Length.
        formats: What it exports to.
        exports: Exports going on; more than `most_exports` are refused.
        cuts: After how many bytes the next exports break off, one for each.
        seconds_between: Pause between the pieces of an export.
        first_result: The number of the first result in paging.
        encryption_attribute: How the attribute of the wish to encrypt is spelt: firmware differs.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        old = device.firmware.startswith(("5.", "6."))
        self.disks: dict[str, Disk] = {}
        if device.has("sd"):
            self.disks["SD_DISK"] = _card(device.sd_card)
        self.disks["NetworkShare"] = Disk("NetworkShare", "S1", 0, 0, "disconnected", "cifs")
        self.recordings: dict[str, Recording] = {}
        self.continuous: dict[int, Continuous] = {}
        self.jobs: dict[int, Job] = {}
        self.job_seconds = 0.2
        self.says_length = not old
        self.formats = ["matroska"] if old else ["matroska", "mp4"]
        self.exports = 0
        self.most_exports = 1
        self.cuts: list[int] = []
        self.seconds_between = 0.0
        self.first_result = 1
        self.encryption_attribute = "encryptionenabled" if device.firmware.startswith("9.") else "diskencryptionenabled"
        for disk in self.disks.values():
            self._show(disk)
        device.params.watch("Storage", self._set)
        self._installed()
        self._tell()

    def _show(self, disk: Disk) -> None:
        """Write into the parameters what they say of a disk too."""
        group, params = f"Storage.{disk.group}", self.device.params
        if params.names(group):
            params.set(f"{group}.Locked", disk.locked)
            params.set(f"{group}.CleanupPolicyActive", disk.cleanup)
            params.set(f"{group}.CleanupMaxAge", disk.keep_days)

    def _set(self, name: str, value: str) -> None:
        """Take over what somebody wrote into the parameters."""
        group, key = name.split(".")[1], name.rpartition(".")[2]
        for disk in self.disks.values():
            if disk.group != group:
                continue
            match key:
                case "Locked":
                    disk.locked = value == "yes"
                case "CleanupPolicyActive":
                    disk.cleanup = value
                case "CleanupMaxAge":
                    disk.keep_days = int(value)

    def _tell(self) -> None:
        """Say by the events what is so: whether anything is recorded, and which disks are not there."""
        going = any(recording.stopped is None for recording in self.recordings.values())
        self.device.emit("tnsaxis:Storage/Recording", {}, {"recording": going})
        for disk in self.disks.values():
            gone = disk.status != "OK"
            self.device.emit("tnsaxis:Storage/Disruption", {"disk_id": disk.disk_id}, {"disruption": gone})

    def _installed(self) -> None:
        """What an installer left: two recordings of yesterday, and one that goes on, when there is a card to record on."""
        card = self.disks.get("SD_DISK")
        if card is None or card.status != "OK" or card.locked:
            return
        day = self.device.now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        self.add(day + timedelta(hours=8), 300)
        self.add(day + timedelta(hours=12, minutes=30), 40, kind="triggered", event_id="motion", audio=True)
        if card.usable and not card.full and self.device.params.flag("Properties.LocalStorage.ContinuousRecording"):
            self.add_continuous("SD_DISK", "videocodec=h264&fps=15", since=self.device.now() - timedelta(hours=3))

    # --- recordings ------------------------------------------------------------------------------------------------------

    def add(
        self,
        started: datetime,
        seconds: float | None,
        *,
        disk: str = "SD_DISK",
        kind: str = "continuous",
        event_id: str = "continuous",
        source: int = 1,
        audio: bool = False,
        frame_bytes: int = 120,
        profile: int | None = None,
    ) -> Recording:
        """Put a recording on a disk; without `seconds` it goes on."""
        number = f"{secrets.randbelow(0x10000):04X}"
        recording_id = f"{started.astimezone(UTC):%Y%m%d_%H%M%S}_{number}_{self.device.serial}"
        stopped = None if seconds is None else started + timedelta(seconds=seconds)
        made = Recording(recording_id, disk, started, stopped, kind, event_id, source, audio, frame_bytes, profile)
        self.recordings[recording_id] = made
        return made

    def start(self, disk_id: str, options: str = "") -> Recording:
        """Record from now on.

        Raises:
            StorageRefusal: Not on this disk.
        """
        self.writable(disk_id)
        made = self.add(self.device.now(), None, disk=disk_id, kind="triggered", event_id="Manual")
        self._tell()
        return made

    def end(self, recording_id: str) -> None:
        """End a recording that goes on.

        Raises:
            StorageRefusal: There is none of this name, or it does not go on.
        """
        recording = self.recordings.get(recording_id)
        if recording is None:
            raise StorageRefusal("Unknown recording")
        if recording.stopped is not None:
            raise StorageRefusal("The recording is not ongoing")
        recording.stopped = self.device.now()
        self._tell()

    def remove(self, recording_id: str) -> None:
        """Remove a recording for good.

        Raises:
            StorageRefusal: There is none, or its disk is not to be written on.
        """
        recording = self.recordings.get(recording_id)
        if recording is None:
            raise StorageRefusal("Unknown recording")
        disk = self.disks.get(recording.disk_id)
        if disk is None or disk.status != "OK":
            raise StorageRefusal("The disk is not available")
        if disk.readonly or disk.locked:
            raise StorageRefusal("The disk is write protected")
        del self.recordings[recording_id]

    def listed(self) -> list[Recording]:
        """Recordings on disks that are there, the oldest first."""
        there = {disk.disk_id for disk in self.disks.values() if disk.status == "OK"}
        found = [recording for recording in self.recordings.values() if recording.disk_id in there]
        return sorted(found, key=lambda recording: (recording.started, recording.recording_id))

    def window(self, recording: Recording, start: datetime | None, stop: datetime | None) -> Window:
        """The part of a recording that an export of these times gives: from the key frame before to the one after."""
        end = recording.stopped or self.device.now()
        groups = max(1, math.ceil((end - recording.started).total_seconds() / GROUP_SECONDS))
        first = 0 if start is None else int((start - recording.started).total_seconds() // GROUP_SECONDS)
        last = groups if stop is None else math.ceil((stop - recording.started).total_seconds() / GROUP_SECONDS)
        first = min(max(first, 0), groups - 1)
        last = min(max(last, first + 1), groups)
        begins = recording.started + timedelta(seconds=first * GROUP_SECONDS)
        ends = min(end, recording.started + timedelta(seconds=last * GROUP_SECONDS))
        footage = Footage(
            recording.recording_id,
            first,
            last - first,
            frame_bytes=recording.frame_bytes,
            began_ns=int((begins - _YEAR_ONE).total_seconds()) * 1_000_000_000,
        )
        return Window(footage, begins, ends)

    # --- continuous recording --------------------------------------------------------------------------------------------

    def add_continuous(
        self, disk_id: str, options: str, event_id: str = "continuous", *, since: datetime | None = None
    ) -> Continuous:
        """Record continuously from now on.

        Raises:
            StorageRefusal: Not on this disk, or there are as many already as there may be.
        """
        if not self.device.params.flag("Properties.LocalStorage.ContinuousRecording"):
            raise StorageRefusal("Continuous recording is not supported")
        if len(self.continuous) >= self.device.params.number(
            "Properties.LocalStorage.NbrOfContinuousRecordingProfiles", 1
        ):
            raise StorageRefusal("The maximum number of continuous recording profiles is reached")
        self.writable(disk_id)
        profile = next(number for number in range(1, 100) if number not in self.continuous)
        made = self.continuous[profile] = Continuous(profile, disk_id, options, event_id)
        self.add(since or self.device.now(), None, disk=disk_id, event_id=event_id, profile=profile)
        self._tell()
        return made

    def remove_continuous(self, profile: int) -> None:
        """Stop recording continuously.

        Raises:
            StorageRefusal: There is no such profile.
        """
        if self.continuous.pop(profile, None) is None:
            raise StorageRefusal("Unknown profile")
        for recording in self.recordings.values():
            if recording.profile == profile and recording.stopped is None:
                recording.stopped = self.device.now()
        self._tell()

    def writable(self, disk_id: str) -> Disk:
        """The disk, when it can be recorded on.

        Raises:
            StorageRefusal: It cannot.
        """
        disk = self.disks.get(disk_id)
        if disk is None:
            raise StorageRefusal("Unknown disk")
        if disk.status != "OK":
            raise StorageRefusal("The disk is not available")
        if disk.locked:
            raise StorageRefusal("The disk is locked")
        if disk.readonly:
            raise StorageRefusal("The disk is write protected")
        if disk.full and disk.cleanup != "fifo":
            raise StorageRefusal("The disk is full")
        return disk

    # --- jobs ------------------------------------------------------------------------------------------------------------

    def job(self, action: str, disk_id: str, finish: Callable[[], None], external: str | None = None) -> Job:
        """Begin work on a disk; `finish()` is what it leads to, when it is done."""
        number = len(self.jobs) + 12
        made = Job(number, action, disk_id, self.device.now(), self.job_seconds, finish, external=external)
        self.jobs[number] = made
        if self.job_seconds <= 0:
            self.settle()
        else:
            self.device.later(self.job_seconds + 0.02, self.settle)
        return made

    def settle(self) -> None:
        """Finish the jobs whose time has come."""
        for job in self.jobs.values():
            if not job.done and self.progress(job) >= 100:
                job.done = True
                job.finish()

    def progress(self, job: Job) -> int:
        """How far a job is, percent."""
        if job.seconds <= 0 or job.done:
            return 100
        return min(100, round(100 * (self.device.now() - job.begun).total_seconds() / job.seconds + 0.49))

    def mount(self, disk_id: str, mounted: bool) -> Job:
        """Mount a disk, or give it free.

        Raises:
            StorageRefusal: There is no such disk, or none in it.
        """
        disk = self.disks.get(disk_id)
        if disk is None:
            raise StorageRefusal("Unknown disk")
        if disk.status in ("disconnected", "failed"):
            raise StorageRefusal("The disk is not connected")
        if disk.locked and mounted:
            raise StorageRefusal("The disk is locked")

        def finish() -> None:
            disk.status = "OK" if mounted else "connected"
            if not mounted:
                for recording in self.recordings.values():
                    if recording.disk_id == disk_id and recording.stopped is None:
                        recording.stopped = self.device.now()
            self._tell()

        return self.job("mount" if mounted else "unmount", disk_id, finish)

    def lock(self, disk_id: str, locked: bool) -> Job:
        """Let nobody write on a disk, or everybody again.

        Raises:
            StorageRefusal: There is no such disk.
        """
        disk = self._there(disk_id)

        def finish() -> None:
            disk.locked = locked
            self._show(disk)

        return self.job("lock" if locked else "unlock", disk_id, finish)

    def format(self, disk_id: str, filesystem: str) -> Job:
        """Erase everything on a disk.

        Raises:
            StorageRefusal: There is no such disk, or it is locked.
        """
        disk = self._there(disk_id)
        if disk.locked:
            raise StorageRefusal("The disk is locked")

        def finish() -> None:
            for recording in [one for one in self.recordings.values() if one.disk_id == disk_id]:
                del self.recordings[recording.recording_id]
            disk.total = disk.total or 62_367_744
            disk.filesystem, disk.free, disk.full, disk.status = filesystem, disk.total, False, "OK"
            self._tell()

        return self.job("format", disk_id, finish)

    def check(self, action: str, disk_id: str) -> Job:
        """Look at a disk's file system, or mend it.

        Raises:
            StorageRefusal: There is no such disk.
        """
        self._there(disk_id)
        return self.job(action, disk_id, lambda: None)

    def _there(self, disk_id: str) -> Disk:
        disk = self.disks.get(disk_id)
        if disk is None:
            raise StorageRefusal("Unknown disk")
        if disk.status == "disconnected":
            raise StorageRefusal("The disk is not connected")
        return disk


def _card(state: str) -> Disk:
    match state:
        case "missing":
            return Disk("SD_DISK", "S0", 0, 0, "disconnected", "", wear=-1, temperature=-1, health="unknown")
        case "full":
            return Disk("SD_DISK", "S0", free=0, full=True, cleanup="none")
        case "locked":
            return Disk("SD_DISK", "S0", locked=True)
        case "readonly":
            return Disk("SD_DISK", "S0", readonly=True)
        case "unformatted":
            return Disk("SD_DISK", "S0", 0, 0, "connected", "", required_filesystem="ext4")
        case "failed":
            return Disk("SD_DISK", "S0", 0, 0, "failed", "", wear=100, health="bad")
    return Disk("SD_DISK", "S0")
