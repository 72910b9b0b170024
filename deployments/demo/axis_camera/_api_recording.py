"""Recordings: `record/list.cgi` and `remove.cgi` (family E), `record/export/*.cgi` (family F, and files)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone

from deployments.demo.axis_camera._api_storage import (
    element,
    general_error,
    has_storage,
    refused,
    rooted,
    storage_api,
    succeeded,
)
from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._edge_storage import EdgeStorage, Recording, StorageRefusal, Window
from deployments.demo.axis_camera._messages import Answer, Request, Response, StreamResponse
from deployments.demo.axis_camera._recording_media import matroska, matroska_size, mp4

_LOCAL = timezone(timedelta(hours=1))
_TYPES = {"matroska": "video/x-matroska", "mp4": "video/mp4"}
_ENDINGS = {"matroska": "mkv", "mp4": "mp4"}


# --- list and remove -------------------------------------------------------------------------------------------------


@storage_api("/axis-cgi/record/list.cgi", level="viewer")
async def list_recordings(device: Device, request: Request) -> Response:
    asked = request.query
    if not {"recordingid", "starttime", "stoptime"} & asked.keys():
        return refused("recordings", "Missing parameter: recordingid")
    storage = device.slot(EdgeStorage)
    try:
        start, stop = _time(asked.get("starttime")), _time(asked.get("stoptime"))
        most, place = _number(asked.get("maxnumberofresults")), _number(asked.get("startatresultnumber"))
    except ValueError:
        return refused("recordings", "Invalid parameter")
    wanted = asked.get("recordingid", "all")
    found = [
        recording
        for recording in storage.listed()
        if wanted == "all" or recording.recording_id in wanted.split(",")
        if start is None or (recording.stopped or device.now()) >= start
        if stop is None or recording.started <= stop
        if asked.get("diskid") in (None, "", "all", recording.disk_id)
        if asked.get("eventid") in (None, "", recording.event_id)
        if asked.get("source") in (None, "", str(recording.source))
    ]
    if asked.get("sortorder") != "ascending":
        found.reverse()
    first = max(0, (place if place is not None else storage.first_result) - storage.first_result)
    page = found[first:] if most is None else found[first : first + most]
    rows = "".join(_row(recording) for recording in page)
    counts = f'totalnumberofrecordings="{len(found)}" numberofrecordings="{len(page)}"'
    return rooted(f"<recordings {counts}>{rows}</recordings>", "record/list1.xsd")


def _row(recording: Recording) -> str:
    stopped = recording.stopped
    video = element(
        "video",
        {
            "mimetype": "video/x-h264",
            "source": recording.source,
            "framerate": "15:1",
            "resolution": "1920x1080",
            "width": 1920,
            "height": 1080,
        },
    )
    sound = {"mimetype": "audio/mpeg4-generic", "source": 1, "bitrate": 32000, "samplerate": 16000}
    return element(
        "recording",
        {
            "diskid": recording.disk_id,
            "recordingid": recording.recording_id,
            "starttime": _utc(recording.started),
            "starttimelocal": _local(recording.started),
            "stoptime": _utc(stopped) if stopped else "",
            "stoptimelocal": _local(stopped) if stopped else "",
            "recordingtype": recording.kind,
            "eventid": recording.event_id,
            "eventtrigger": recording.event_id,
            "recordingstatus": "completed" if stopped else "recording",
            "source": recording.source,
        },
        video + (element("audio", sound) if recording.audio else ""),
    )


@storage_api("/axis-cgi/record/remove.cgi", level="operator")
async def remove(device: Device, request: Request) -> Response:
    """Irreversible, and by filters as well: what a tool must never ask for."""
    asked = request.query
    storage = device.slot(EdgeStorage)
    wanted = asked.get("recordingid", "")
    filters = {"diskid", "beforetime", "eventid", "source"} & asked.keys()
    if not wanted and not filters:
        return refused("remove", "Missing parameter: recordingid")
    try:
        before = _time(asked.get("beforetime"))
        if wanted and wanted != "all":
            for recording_id in wanted.split(","):
                storage.remove(recording_id)
        else:
            for recording in storage.listed():
                if (
                    (before is None or recording.started < before)
                    and asked.get("diskid", recording.disk_id) == recording.disk_id
                    and asked.get("eventid", recording.event_id) == recording.event_id
                ):
                    storage.remove(recording.recording_id)
    except (StorageRefusal, ValueError) as no:
        return refused("remove", str(no), recordingid=wanted)
    return rooted(element("remove", {"recordingid": wanted, "result": "OK"}))


def has_export(device: Device) -> bool:
    """Whether the device exports recordings: from 5.60."""
    return has_storage(device) and device.params.flag("Properties.LocalStorage.ExportRecording")


# --- export ----------------------------------------------------------------------------------------------------------


@storage_api("/axis-cgi/record/export/schemaversions.cgi", level="viewer", when=has_export)
async def export_versions(device: Device, request: Request) -> Response:
    version = "<SchemaVersion><VersionNumber>1.0</VersionNumber><Deprecated>false</Deprecated></SchemaVersion>"
    return Response.xml(f"<SchemaVersionsResponse><Success>{version}</Success></SchemaVersionsResponse>")


@storage_api("/axis-cgi/record/export/capabilities.cgi", level="viewer", when=has_export)
async def export_capabilities(device: Device, request: Request) -> Response:
    """The shape of this answer is unproven."""
    name = "ExportCapabilitiesResponse"
    if request.query.get("schemaversion") != "1":
        return general_error(name, 40, "Invalid schema version")
    storage = device.slot(EdgeStorage)
    formats = "".join(f"<ExportFormat>{form}</ExportFormat>" for form in storage.formats)
    return succeeded(name, f'<ExportCapabilities MaxJobs="{storage.most_exports}">{formats}</ExportCapabilities>')


@storage_api("/axis-cgi/record/export/properties.cgi", level="viewer", when=has_export)
async def export_properties(device: Device, request: Request) -> Response:
    name = "ExportPropertiesResponse"
    found = _wanted(device, request, name)
    if isinstance(found, Response):
        return found
    recording, window, form = found
    size = _size(window, form)
    return succeeded(
        name,
        element(
            "ExportProperties",
            {
                "RecordingId": recording.recording_id,
                "ExportFormat": form,
                "EstimatedFileSize": -1 if recording.stopped is None else -(-size // 1024),
                "Starttime": _utc(window.start),
                "Stoptime": _utc(window.stop),
            },
        ),
    )


@storage_api("/axis-cgi/record/export/exportrecording.cgi", level="viewer", when=has_export)
async def export_recording(device: Device, request: Request) -> Answer:
    name = "ExportRecordingResponse"
    found = _wanted(device, request, name)
    if isinstance(found, Response):
        return found
    storage = device.slot(EdgeStorage)
    if request.query.get("encryptionformat"):
        return general_error(name, 250, "Invalid encryption format")
    if storage.exports >= storage.most_exports:
        return general_error(name, 220, "Too many export jobs")
    recording, window, form = found
    pieces = _file(window, form)
    cut = storage.cuts.pop(0) if storage.cuts else None
    title = request.query.get("filename") or recording.recording_id
    headers = {"Content-Disposition": f'attachment; filename="{title}.{_ENDINGS[form]}"'}
    if storage.says_length:
        headers["Content-Length"] = str(_size(window, form))
    return StreamResponse(_sent(storage, pieces, cut), _TYPES[form], headers)


async def _sent(storage: EdgeStorage, pieces: Iterator[bytes], cut: int | None) -> AsyncIterator[bytes]:
    storage.exports += 1
    sent = 0
    try:
        for number, piece in enumerate(pieces):
            if number % 500 == 499:
                await asyncio.sleep(0)  # a long recording must not stop the other cameras
            if cut is not None and sent + len(piece) > cut:
                yield piece[: cut - sent]
                await asyncio.sleep(0.02)  # what was sent is on its way before the connection ends
                storage.device.disconnect()
                return
            yield piece
            sent += len(piece)
            if storage.seconds_between:
                await asyncio.sleep(storage.seconds_between)
    finally:
        storage.exports -= 1


def _wanted(device: Device, request: Request, name: str) -> Response | tuple[Recording, Window, str]:
    """What an export is about; or the answer that says why there is none."""
    asked = request.query
    storage = device.slot(EdgeStorage)
    if asked.get("schemaversion") != "1":
        return general_error(name, 40, "Invalid schema version")
    if not {"recordingid", "diskid", "exportformat"} <= asked.keys():
        return general_error(name, 20, "Invalid request")
    recording = storage.recordings.get(asked["recordingid"])
    if recording is None or recording.disk_id != asked["diskid"] or recording not in storage.listed():
        return general_error(name, 110, "Recording not found")
    if asked["exportformat"] not in storage.formats:
        return general_error(name, 170, "Invalid export format")
    times: dict[str, datetime | None] = {}
    for code, word in ((120, "starttime"), (130, "stoptime")):
        try:
            times[word] = _time(asked.get(word))
        except ValueError:
            return general_error(name, code, f"Invalid {word}")
    start, stop = times["starttime"], times["stoptime"]
    end = recording.stopped or device.now()
    if start and stop and stop <= start:
        return general_error(name, 140, "Stop time is before start time")
    if start and not recording.started <= start < end:
        return general_error(name, 150, "Start time is outside the recording")
    if stop and stop > end + timedelta(seconds=2):
        return general_error(name, 160, "Stop time is outside the recording")
    return recording, storage.window(recording, start, stop), asked["exportformat"]


def _file(window: Window, form: str) -> Iterator[bytes]:
    return matroska(window.footage) if form == "matroska" else mp4(window.footage)


def _size(window: Window, form: str) -> int:
    return matroska_size(window.footage) if form == "matroska" else sum(map(len, mp4(window.footage)))


# --- times -----------------------------------------------------------------------------------------------------------


def _utc(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _local(when: datetime) -> str:
    return when.astimezone(_LOCAL).isoformat(timespec="microseconds")


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _number(text: str | None) -> int | None:
    if text is None or text == "":
        return None
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(text)
    return int(text)
