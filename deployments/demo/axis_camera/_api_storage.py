"""Disks and what records on them: `disks/*.cgi` and `record/continuous/*.cgi`, `record.cgi`, `stop.cgi` (family E, one of family F)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl
from xml.sax.saxutils import quoteattr

from deployments.demo.axis_camera._device import Device, on_create
from deployments.demo.axis_camera._edge_storage import Disk, EdgeStorage, Job, StorageRefusal
from deployments.demo.axis_camera._messages import Answer, Request, Response
from deployments.demo.axis_camera._server import Condition, Handler, api

STREAM_ARGUMENTS = frozenset({
    "videocodec", "resolution", "fps", "compression", "camera", "audio", "streamprofile", "rotation", "videobitrate", "videomaxbitrate",
    "videokeyframeinterval", "videozstrength", "text", "textstring", "color", "squarepixel", "overlays", "signedvideo",
})  # fmt: skip
_HEAD = '<?xml version="1.0" encoding="utf-8" ?>\n'
_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="http://www.axis.com/vapix/http_cgi/{}"'


def element(name: str, attributes: Mapping[str, object], content: str = "") -> str:
    """One XML element; attributes whose value is None are left out."""
    shown = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items() if value is not None)
    return f"<{name}{shown}>{content}</{name}>" if content else f"<{name}{shown}/>"


def rooted(content: str, schema: str = "") -> Response:
    """An answer of family E."""
    return Response.xml(
        f"{_HEAD}<root {_XSI.format(schema)}>{content}</root>" if schema else f"{_HEAD}<root>{content}</root>"
    )


def refused(name: str, why: str, *, word: str = "errormsg", **attributes: object) -> Response:
    """An answer of family E that says no: with HTTP 200."""
    return rooted(element(name, {**attributes, "result": "ERROR", word: why}))


def has_storage(device: Device) -> bool:
    """Whether the device has the storage APIs at all; without them their paths are unknown to its web server."""
    return device.params.flag("Properties.LocalStorage.LocalStorage") or device.has("disk-management")


@on_create
def storage_properties(device: Device) -> None:
    """Say what the storage can do: continuous recording from 5.40, export from 5.60."""
    if not has_storage(device):
        return
    version = tuple(int(part) for part in device.firmware.split(".")[:2])
    device.params.define(
        """
        [Properties 7707 readonly]
        LocalStorage.ContinuousRecording = yes
        LocalStorage.NbrOfContinuousRecordingProfiles = 1 | int
        LocalStorage.ExportRecording = {export}
        """,
        export="yes" if version >= (5, 60) else "no",
    )


def storage_api(path: str, *, level: str, when: Condition = has_storage) -> Callable[[Handler], Handler]:
    """Register what answers a path of the storage APIs: by GET or POST, absent where the device has no storage."""

    def decorate(handler: Handler) -> Handler:
        async def answer(device: Device, request: Request) -> Answer:
            device.slot(EdgeStorage).settle()
            return await handler(device, request)

        api(path, level=level, methods=("GET", "POST"), when=when)(answer)
        return handler

    return decorate


# --- disks -----------------------------------------------------------------------------------------------------------


@storage_api("/axis-cgi/disks/list.cgi", level="operator")
async def list_disks(device: Device, request: Request) -> Response:
    asked = request.query.get("diskid", "")
    if not asked:
        return refused("disks", "Missing parameter: diskid")
    storage = device.slot(EdgeStorage)
    wanted = [disk for disk in storage.disks.values() if asked == "all" or disk.disk_id in asked.split(",")]
    rows = "".join(_disk(disk, storage.encryption_attribute) for disk in wanted)
    return rooted(f'<disks numberofdisks="{len(wanted)}">{rows}</disks>', "disk/list1.xsd")


def _disk(disk: Disk, encryption_attribute: str) -> str:
    words = {True: "yes", False: "no"}
    return element(
        "disk",
        {
            "diskid": disk.disk_id,
            "name": "",
            "totalsize": disk.total,
            "freesize": disk.free,
            "cleanuplevel": 90,
            "cleanupmaxage": disk.keep_days,
            "cleanuppolicy": disk.cleanup,
            "locked": words[disk.locked],
            "full": words[disk.full],
            "readonly": words[disk.readonly],
            "status": disk.status,
            "filesystem": disk.filesystem,
            "group": disk.group,
            "requiredfilesystem": disk.required_filesystem,
            encryption_attribute: str(disk.encryption_enabled).lower(),
            "diskencrypted": str(disk.encrypted).lower(),
        },
    )


@storage_api("/axis-cgi/disks/gethealth.cgi", level="operator")
async def disk_health(device: Device, request: Request) -> Response:
    """The shape around HealthStatus is unproven."""
    disk = device.slot(EdgeStorage).disks.get(request.query.get("diskid", ""))
    if request.query.get("schemaversion") != "1":
        return general_error("GetDiskHealthResponse", 40, "Invalid schema version")
    if disk is None:
        return general_error("GetDiskHealthResponse", 20, "Invalid disk id")
    status = element(
        "HealthStatus",
        {"diskid": disk.disk_id, "wear": disk.wear, "temperature": disk.temperature, "overallhealth": disk.health},
    )
    return succeeded("GetDiskHealthResponse", status)


def succeeded(name: str, content: str) -> Response:
    """An answer of family F."""
    return Response.xml(f'{_HEAD}<{name} SchemaVersion="1.0"><Success>{content}</Success></{name}>')


def general_error(name: str, code: int, description: str) -> Response:
    """An answer of family F that says no: with HTTP 200 as well."""
    error = f"<ErrorCode>{code}</ErrorCode><ErrorDescription>{description}</ErrorDescription>"
    return Response.xml(f'{_HEAD}<{name} SchemaVersion="1.0"><GeneralError>{error}</GeneralError></{name}>')


@storage_api("/axis-cgi/disks/mount.cgi", level="admin")
async def mount(device: Device, request: Request) -> Response:
    return _job(device, request, ("mount", "unmount"), lambda kept, action, disk: kept.mount(disk, action == "mount"))


@storage_api("/axis-cgi/disks/lock.cgi", level="admin")
async def lock(device: Device, request: Request) -> Response:
    return _job(device, request, ("lock", "unlock"), lambda kept, action, disk: kept.lock(disk, action == "lock"))


@storage_api("/axis-cgi/disks/format.cgi", level="admin")
async def format_disk(device: Device, request: Request) -> Response:
    """Erases everything: no tool of ours sends this."""
    filesystem = request.query.get("filesystem", "")
    if filesystem not in ("ext4", "vfat", "cifs"):
        return refused("job", "Invalid filesystem", word="description", action="format")
    return _job(device, request, ("format",), lambda kept, _, disk: kept.format(disk, filesystem))


@storage_api("/axis-cgi/disks/checkdisk.cgi", level="operator")
async def check_disk(device: Device, request: Request) -> Response:
    return _job(device, request, ("checkdisk",), lambda kept, action, disk: kept.check(action, disk))


@storage_api("/axis-cgi/disks/repair.cgi", level="admin")
async def repair_disk(device: Device, request: Request) -> Response:
    return _job(device, request, ("repair",), lambda kept, action, disk: kept.check(action, disk))


def _job(
    device: Device, request: Request, actions: tuple[str, ...], begin: Callable[[EdgeStorage, str, str], Job]
) -> Response:
    """Begin work on a disk; where there is only one action it need not be named."""
    action, disk_id = (
        request.query.get("action", actions[0] if len(actions) == 1 else ""),
        request.query.get("diskid", ""),
    )
    if action not in actions:
        return refused("job", "Invalid action", word="description", action=action, diskid=disk_id)
    try:
        job = begin(device.slot(EdgeStorage), action, disk_id)
    except StorageRefusal as no:
        return refused("job", str(no), word="description", action=action, diskid=disk_id)
    return rooted(element("job", {"action": action, "diskid": disk_id, "result": "OK", "jobid": job.job_id}))


@storage_api("/axis-cgi/disks/job.cgi", level="operator")
async def job_progress(device: Device, request: Request) -> Response:
    """The attribute `progress` is unproven."""
    number, disk_id = request.query.get("jobid", ""), request.query.get("diskid", "")
    storage = device.slot(EdgeStorage)
    job: Job | None = storage.jobs.get(int(number)) if number.isdecimal() and len(number) < 9 else None
    if job is None or job.disk_id != disk_id:
        return refused("job", "Unknown job", word="description", jobid=number, diskid=disk_id)
    shown = {
        "jobid": job.job_id,
        "diskid": job.disk_id,
        "action": job.action,
        "progress": storage.progress(job),
        "result": "OK",
    }
    return rooted(element("job", shown))


# --- recording -------------------------------------------------------------------------------------------------------


@storage_api("/axis-cgi/record/continuous/listconfiguration.cgi", level="viewer")
async def list_continuous(device: Device, request: Request) -> Response:
    wanted = request.query.get("profile")
    rows = "".join(
        element(
            "continuousrecordingconfiguration",
            {"profile": one.profile, "diskid": one.disk_id, "options": one.options, "eventid": one.event_id},
        )
        for one in device.slot(EdgeStorage).continuous.values()
        if wanted in (None, "", str(one.profile))
    )
    return rooted(f"<continuousrecordingconfigurations>{rows}</continuousrecordingconfigurations>")


@storage_api("/axis-cgi/record/continuous/addconfiguration.cgi", level="operator")
async def add_continuous(device: Device, request: Request) -> Response:
    asked = request.query
    try:
        options = _options(asked.get("options", ""))
        made = device.slot(EdgeStorage).add_continuous(
            asked.get("diskid", ""), options, asked.get("eventid", "continuous")
        )
    except StorageRefusal as no:
        return refused("configure", str(no))
    return rooted(element("configure", {"profile": made.profile, "result": "OK"}))


@storage_api("/axis-cgi/record/continuous/removeconfiguration.cgi", level="operator")
async def remove_continuous(device: Device, request: Request) -> Response:
    profile = request.query.get("profile", "")
    try:
        device.slot(EdgeStorage).remove_continuous(int(profile) if profile.isdecimal() and len(profile) < 9 else -1)
    except StorageRefusal as no:
        return refused("remove", str(no), profile=profile)
    return rooted(element("remove", {"profile": profile, "result": "OK"}))


@storage_api("/axis-cgi/record/record.cgi", level="operator")
async def record(device: Device, request: Request) -> Response:
    try:
        options = _options(request.query.get("options", ""))
        made = device.slot(EdgeStorage).start(request.query.get("diskid", ""), options)
    except StorageRefusal as no:
        return refused("record", str(no))
    return rooted(element("record", {"recordingid": made.recording_id, "result": "OK"}))


@storage_api("/axis-cgi/record/stop.cgi", level="operator")
async def stop(device: Device, request: Request) -> Response:
    recording_id = request.query.get("recordingid", "")
    try:
        device.slot(EdgeStorage).end(recording_id)
    except StorageRefusal as no:
        return refused("stop", str(no), recordingid=recording_id)
    return rooted(element("stop", {"recordingid": recording_id, "result": "OK"}))


def _options(text: str) -> str:
    unknown = [name for name, _ in parse_qsl(text, keep_blank_values=True) if name not in STREAM_ARGUMENTS]
    if unknown:
        raise StorageRefusal(f"Invalid option: {unknown[0]}")
    return text
