"""A camera's disks and what it records on them: read whole, with what an operator should look after named as findings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import NotFound, Rejected, Unsupported
from tasks.network.vapix._recording import (
    Recording,
    list_recordings,
    number,
    refuse_failure,
    text,
    whole,
)
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix._xml import anywhere, children

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

DISKS_PATH = "/axis-cgi/disks/list.cgi"
HEALTH_PATH = "/axis-cgi/disks/gethealth.cgi"
JOB_PATH = "/axis-cgi/disks/job.cgi"
MOUNT_PATH = "/axis-cgi/disks/mount.cgi"
RECORD_PATH = "/axis-cgi/record/record.cgi"
STOP_PATH = "/axis-cgi/record/stop.cgi"
CONTINUOUS_LIST_PATH = "/axis-cgi/record/continuous/listconfiguration.cgi"
CONTINUOUS_ADD_PATH = "/axis-cgi/record/continuous/addconfiguration.cgi"
CONTINUOUS_REMOVE_PATH = "/axis-cgi/record/continuous/removeconfiguration.cgi"

LOCAL_STORAGE = "Properties.LocalStorage.LocalStorage"
CONTINUOUS_RECORDING = "Properties.LocalStorage.ContinuousRecording"
CONTINUOUS_LIMIT = "Properties.LocalStorage.NbrOfContinuousRecordingProfiles"
DISKS_API = "disk-management"

MOST_DISKS = 16
MOST_OPTIONS = 1000
"""Characters of stream arguments: a profile's name of 64, percent-encoded, has 768."""
LOW_SPACE_SHARE = 0.02
"""Below this share of free space a disk whose oldest recordings are not removed by themselves is nearly full."""
WORN_PERCENT = 80.0
HOT_CELSIUS = 70.0
"""SD cards are made for up to 85 degrees Celsius; from here on they age quickly."""
RUNNING_SCAN = 300
"""Recordings looked at for one that is going on: a long one may have many triggered ones after it."""


class Health(BaseModel):
    """A disk's health, where the camera measures it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wear: float | None = Field(None, description="Share of its life that is used up, percent.")
    temperature: float | None = Field(None, description="Temperature, degrees Celsius.")
    overall: str | None = Field(None, description="The camera's own verdict.")


class Disk(BaseModel):
    """A disk of a camera: card, network share or drive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disk_id: str = Field(description="Its id: SD_DISK, NetworkShare, ...")
    name: str | None = Field(None, description="Its name, where it has one.")
    status: str = Field(
        description="As the camera says: OK, connected (there, but not mounted), disconnected, failed, no passphrase, wrong "
        "passphrase, not encrypted."
    )
    usable: bool = Field(description="Whether it can be recorded on: status OK, neither locked nor read-only.")
    total_bytes: int | None = Field(None, description="Size, bytes; 0 when there is no disk.")
    free_bytes: int | None = Field(None, description="Free, bytes.")
    file_system: str | None = Field(None, description="ext4, vfat, cifs, ...")
    required_file_system: str | None = Field(None, description="The one the camera insists on, if any.")
    locked: bool | None = Field(None, description="Whether it is locked by another device or by an administrator.")
    full: bool | None = Field(None, description="Whether it is full.")
    read_only: bool | None = Field(None, description="Whether it can only be read.")
    encrypted: bool | None = Field(None, description="Whether its content is encrypted.")
    encryption_wanted: bool | None = Field(None, description="Whether the camera is set to encrypt it.")
    cleanup: str | None = Field(None, description="What happens when it fills up, such as fifo: the oldest goes first.")
    keep_days: int | None = Field(None, description="Days after which recordings are removed; 0 is never.")
    health: Health | None = Field(None, description="Its health, where it was asked for and the camera measures it.")


class Continuous(BaseModel):
    """A configuration that records for as long as it exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field(description="Its number, by which it is removed.")
    disk_id: str | None = Field(None, description="The disk it records on.")
    options: str | None = Field(None, description="Its stream arguments.")
    event_id: str | None = Field(None, description="The event id its recordings carry.")


class Job(BaseModel):
    """A piece of work on a disk that takes the camera a while."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str = Field(description="Its number at the camera.")
    disk_id: str | None = Field(None, description="The disk it works on.")
    action: str | None = Field(None, description="What it does: mount, unmount, ...")
    progress: float | None = Field(None, description="How far it is, percent; None when the camera does not say.")
    said: str | None = Field(None, description="What the camera says about it.")


# --- reading ---------------------------------------------------------------------------------------------------------


async def require_storage(camera: Camera) -> None:
    """Make sure that the camera has the storage API.

    Raises:
        Unsupported: It says that it has none.
    """
    capabilities = await camera.capabilities()
    if not capabilities.has(DISKS_API) and not capabilities.flag(LOCAL_STORAGE):
        raise Unsupported(
            "This camera says it has no local storage (neither disk-management nor Properties.LocalStorage)."
        )


async def read_disks(camera: Camera) -> list[Disk]:
    """List the camera's disks."""
    return disks_of(await camera.xml(DISKS_PATH, {"diskid": "all"}))


def disks_of(root: Element) -> list[Disk]:
    """Read the answer of `disks/list.cgi`.

    Raises:
        Declined: The camera said no.
        Nonsense: The answer is no list of disks.
    """
    refuse_failure(root, "listing its disks")
    container = next(anywhere(root, "disks"), None)
    if container is None:
        raise Nonsense("The camera's answer is no list of disks.")
    rows = [row for row in children(container, "disk") if text(row.get("diskid"))]
    return [_disk(row) for row in rows[:MOST_DISKS]]


def _disk(row: Element) -> Disk:
    status = text(row.get("status"), 40) or "unknown"
    locked, read_only = _yes(row.get("locked")), _yes(row.get("readonly"))
    return Disk(
        disk_id=text(row.get("diskid"), 60) or "",
        name=text(row.get("name"), 60),
        status=status,
        usable=status == "OK" and locked is not True and read_only is not True,
        total_bytes=_kilobytes(row.get("totalsize")),
        free_bytes=_kilobytes(row.get("freesize")),
        file_system=text(row.get("filesystem"), 20),
        required_file_system=None
        if row.get("requiredfilesystem") == "none"
        else text(row.get("requiredfilesystem"), 20),
        locked=locked,
        full=_yes(row.get("full")),
        read_only=read_only,
        encrypted=_yes(row.get("diskencrypted")),
        # Recorded cameras write the one, the documentation the other.
        encryption_wanted=_yes(row.get("encryptionenabled") or row.get("diskencryptionenabled")),
        cleanup=text(row.get("cleanuppolicy"), 20),
        keep_days=whole(row.get("cleanupmaxage")),
    )


async def read_health(camera: Camera, disk_id: str) -> Health | None:
    """Ask for a disk's health; None when the camera does not measure it."""
    try:
        root = await camera.xml(HEALTH_PATH, {"schemaversion": "1", "diskid": disk_id})
        refuse_failure(root, "the disk's health")
    except (Unsupported, NotFound, Rejected):
        return None
    return health_of(root)


def health_of(root: Element) -> Health | None:
    """Read the answer of `disks/gethealth.cgi`; None when it holds no health."""
    found = next(anywhere(root, "HealthStatus"), None)
    if found is None:
        return None
    wear, temperature = number(found.get("wear")), number(found.get("temperature"))
    return Health(
        # A negative share is how disks without a counter are marked.
        wear=wear if wear is not None and 0 <= wear <= 1000 else None,
        temperature=temperature if temperature is not None and -60 < temperature < 200 else None,
        overall=text(found.get("overallhealth"), 40),
    )


async def read_continuous(camera: Camera) -> list[Continuous]:
    """List the configurations that record continuously."""
    return continuous_of(await camera.xml(CONTINUOUS_LIST_PATH))


def continuous_of(root: Element) -> list[Continuous]:
    """Read the answer of `record/continuous/listconfiguration.cgi`.

    Raises:
        Declined: The camera said no.
        Nonsense: The answer is no such list.
    """
    refuse_failure(root, "listing its continuous recordings")
    container = next(anywhere(root, "continuousrecordingconfigurations"), None)
    if container is None:
        raise Nonsense("The camera's answer is no list of continuous recordings.")
    rows = list(children(container, "continuousrecordingconfiguration"))
    return [
        Continuous(
            profile=profile,
            disk_id=text(row.get("diskid"), 60),
            options=text(row.get("options"), MOST_OPTIONS),
            event_id=text(row.get("eventid"), 60),
        )
        for row in rows[:64]
        if (profile := text(row.get("profile"), 40))
    ]


async def read_running(camera: Camera) -> tuple[list[Recording], bool | None]:
    """List the recordings that are going on now.

    Returns:
        Them, and whether there is any; None when there are so many recordings that not all were looked at and none was found.
    """
    listing = await list_recordings(camera, running=True, most=20, scan=RUNNING_SCAN)
    if listing.recordings:
        return listing.recordings, True
    return [], False if listing.complete else None


async def read_job(camera: Camera, job_id: str, disk_id: str) -> Job:
    """Ask how far a job is."""
    root = await camera.xml(JOB_PATH, {"jobid": job_id, "diskid": disk_id})
    return job_of(root, "the job's progress")


def job_of(root: Element, doing: str) -> Job:
    """Read the answer to something that became a job, or about one.

    Raises:
        Declined: The camera said no.
        Nonsense: The answer names no job.
    """
    refuse_failure(root, doing)
    row = next(anywhere(root, "job"), None)
    if row is None:
        raise Nonsense(f"The camera's answer to {doing} names no job.")
    progress = number((row.get("progress") or "").rstrip("%"))
    return Job(
        job_id=text(row.get("jobid"), 40) or "",
        disk_id=text(row.get("diskid"), 60),
        action=text(row.get("action"), 40),
        progress=progress if progress is not None and 0 <= progress <= 100 else None,
        said=text(row.get("description")) or text(row.get("status")),
    )


def _yes(value: str | None) -> bool | None:
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}.get(
        (value or "").strip().lower()
    )


def _kilobytes(value: str | None) -> int | None:
    size = whole(value)
    return size * 1024 if size is not None and 0 <= size < 1 << 50 else None


# --- what an operator should look after ------------------------------------------------------------------------------


def findings_of(disks: list[Disk], continuous: list[Continuous]) -> list[str]:
    """Say what is wrong with a camera's storage; empty when nothing is."""
    found = []
    used = {configuration.disk_id for configuration in continuous}
    for disk in disks:
        absent = disk.status == "disconnected"
        if absent and not disk.total_bytes and disk.disk_id != "SD_DISK" and disk.disk_id not in used:
            continue  # a network share nobody has set up
        found += [f"{disk.disk_id}: {problem}" for problem in _problems(disk)]
    missing = used - {disk.disk_id for disk in disks} - {None}
    found += [f"{disk_id}: the continuous recording's disk is not there" for disk_id in sorted(map(str, missing))]
    if not disks:
        found.append("no disk at all")
    return found


def _problems(disk: Disk) -> list[str]:
    if disk.status == "disconnected":
        return ["no card in it" if disk.disk_id == "SD_DISK" else "not connected"]
    found = []
    match disk.status:
        case "OK":
            pass
        case "connected":
            found.append("there, but not mounted")
        case "no passphrase" | "wrong passphrase":
            found.append(f"encrypted, {disk.status}: nothing is recorded on it")
        case "not encrypted":
            found.append("not encrypted, though the camera is set to encrypt it")
        case other:
            found.append(f"status {other}")
    if disk.locked:
        found.append("locked")
    if disk.read_only:
        found.append("read-only")
    if disk.full:
        found.append("full")
    elif disk.usable and disk.cleanup != "fifo" and _nearly_full(disk):
        found.append(f"nearly full: {disk.free_bytes:,} of {disk.total_bytes:,} bytes free")
    if disk.required_file_system and disk.file_system and disk.required_file_system != disk.file_system:
        found.append(f"has the file system {disk.file_system}, the camera wants {disk.required_file_system}")
    return [*found, *ageing(disk)]


def ageing(disk: Disk) -> list[str]:
    """Say what shows that a disk will not last: worn, hot. Empty also when its health was not asked for."""
    found = []
    health = disk.health
    if health is not None and health.wear is not None and health.wear >= WORN_PERCENT:
        found.append(f"worn: {health.wear:g} % of its life is used up")
    if health is not None and health.temperature is not None and health.temperature >= HOT_CELSIUS:
        found.append(f"hot: {health.temperature:g} degrees Celsius")
    return found


def _nearly_full(disk: Disk) -> bool:
    return bool(disk.total_bytes) and (disk.free_bytes or 0) < LOW_SPACE_SHARE * (disk.total_bytes or 0)


def disk_named(disks: list[Disk], disk_id: str) -> Disk:
    """The disk of that id.

    Raises:
        NotFound: The camera has none.
    """
    for disk in disks:
        if disk.disk_id == disk_id:
            return disk
    there = ", ".join(disk.disk_id for disk in disks) or "none"
    raise NotFound(f"This camera has no disk {disk_id!r}.", hint=f"Its disks: {there}.")


def usable(disk: Disk) -> Disk:
    """Return the disk when something can be recorded on it.

    Raises:
        Rejected: It cannot; says why.
    """
    # Of a full disk whose oldest recordings give way, as of most cards, something can still be recorded on it.
    if not disk.usable or (disk.full and disk.cleanup != "fifo"):
        why = "; ".join(_problems(disk)) or f"status {disk.status}"
        raise Rejected(f"Nothing can be recorded on {disk.disk_id}: {why}.", hint="Nothing was changed.")
    return disk
