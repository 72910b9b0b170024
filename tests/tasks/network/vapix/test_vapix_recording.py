"""`vapix_recording` against simulated cameras: lists of any length, downloads that break, and removal of exactly one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import DESTROYING, UNHURRIED, Asking, only

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Fault, Response
from deployments.demo.axis_camera._edge_storage import EdgeStorage, Recording
from deployments.demo.axis_camera._recording_media import Footage, matroska, matroska_size, mp4
from tasks.core.errors import (
    Busy,
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    Unreachable,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.core.progress import Progress
from tasks.network.vapix import _recording as reading
from tasks.network.vapix import _recording_export as exporting
from tasks.network.vapix._recording_matroska import EBML_MAGIC, reach
from tasks.network.vapix._recording_mp4 import mp4_seconds, whole_mp4
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix._xml import parse_xml
from tasks.network.vapix.vapix_recording import (
    RecordingAction,
    RecordingResult,
    VapixRecording,
    vapix_recording,
)

LIST = "/axis-cgi/record/list.cgi"
REMOVE = "/axis-cgi/record/remove.cgi"
EXPORT = "/axis-cgi/record/export/exportrecording.cgi"
PROPERTIES = "/axis-cgi/record/export/properties.cgi"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Ask = Callable[..., Awaitable[RecordingResult]]


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


@pytest.fixture
def ask(asking: Asking, store: CaptureStore) -> Ask:
    """`await ask(camera, action=..., user="operator")`; several cameras are asked at once."""
    return asking(vapix_recording, policy=DESTROYING, store=store)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PAUSE_SECONDS", 0.02)


def storage(camera: Camera) -> EdgeStorage:
    state: EdgeStorage = camera.device.slot(EdgeStorage)
    return state


def fresh(camera: Camera, seconds: float = 60, **options: Any) -> Recording:
    """The camera with this one recording, of 2026-01-01 12:00 UTC, and nothing else."""
    storage(camera).recordings.clear()
    return storage(camera).add(NOON, seconds, **options)


def approved(camera: Camera, recording: Recording) -> dict[str, Any]:
    return {"recording": recording.recording_id, "confirm": f"{camera.address} {recording.recording_id}"}


# --- listing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "mid", "new", "ptz"])
async def test_each_generation_lists_its_recordings_newest_first_with_times_in_utc(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        found = only(await ask(camera, user="viewer"))
    assert [one.type for one in found.recordings] == ["continuous", "triggered", "continuous"]
    going, motion, morning = found.recordings
    assert going.running and going.stopped_at is None and going.duration is None
    assert motion.event_id == "motion" and motion.audio == "mpeg4-generic" and motion.duration == 40
    assert morning.video == "h264 1920x1080 15 fps" and morning.disk_id == "SD_DISK" and morning.status == "completed"
    assert all(one.started_at is not None and one.started_at.utcoffset() == timedelta(0) for one in found.recordings)
    assert (found.total, found.complete, found.api) == (3, True, LIST)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_long_list_is_read_page_by_page_without_gaps_wherever_counting_begins(
    ask: Ask, camera: Camera, first: int
) -> None:
    state = storage(camera)
    state.first_result = first
    state.recordings.clear()
    made = [state.add(NOON + timedelta(minutes=number), 30).recording_id for number in range(351)]
    found = only(await ask(camera, limit=1000, order="oldest"))
    report = found.recordings
    assert [one.recording_id for one in report[:20]] == made[:20]
    assert (found.total, found.complete) == (351, True)
    assert 4 <= len(camera.asked(LIST)) <= 5
    some = only(await ask(camera, limit=250, order="newest"))
    assert some.complete is False and some.recordings[0].recording_id == made[-1]


async def test_a_list_too_long_for_the_ledger_is_whole_in_a_file(ask: Ask, camera: Camera, store: CaptureStore) -> None:
    state = storage(camera)
    state.recordings.clear()
    for number in range(300):
        state.add(NOON + timedelta(minutes=number), 30)
    result = await ask(camera, limit=1000)
    assert result.report is not None and result.left_out == ["recordings beyond the first 50 of each camera"]
    assert len(only(result).recordings) == 50 and len(result.model_dump_json()) < 64 << 10
    whole = RecordingResult.model_validate_json(store.path(result.report.name).read_bytes())
    assert len(whole.cameras[0].recordings) == 300


async def test_what_is_asked_for_is_what_is_listed(ask: Ask, camera: Camera) -> None:
    state = storage(camera)
    state.recordings.clear()
    early = state.add(NOON, 60, event_id="door", kind="triggered")
    late = state.add(NOON + timedelta(hours=2), 60, source=2)
    going = state.add(NOON + timedelta(hours=3), None)

    async def ids(**params: Any) -> list[str]:
        return [one.recording_id for one in only(await ask(camera, order="oldest", **params)).recordings]

    assert await ids() == [early.recording_id, late.recording_id, going.recording_id]
    assert await ids(event="door") == [early.recording_id]
    assert await ids(source=2) == [late.recording_id]
    assert await ids(type="triggered") == [early.recording_id]
    assert await ids(running=True) == [going.recording_id]
    assert await ids(running=False) == [early.recording_id, late.recording_id]
    assert await ids(stop="2026-01-01T13:00:00+00:00") == [early.recording_id]
    assert await ids(start="2026-01-01T14:30:00+01:00") == [late.recording_id, going.recording_id]
    assert await ids(disk="NetworkShare") == []
    assert dict(parse_qsl(camera.asked(LIST)[-2].query))["starttime"] == "2026-01-01T13:30:00Z"


@pytest.mark.parametrize(
    ("status", "stop", "running"),
    [("recording", "", True), ("completed", "2026-01-01T12:05:00Z", False), ("unknown", "", False), (None, "", True)],
)
def test_what_a_power_cut_left_does_not_go_on(status: str | None, stop: str, running: bool) -> None:
    said = f'recordingstatus="{status}"' if status else ""
    row = f'<recording recordingid="a" starttime="2026-01-01T12:00:00Z" stoptime="{stop}" {said}/>'
    _, [one] = reading.recordings_of(parse_xml(f"<root><recordings>{row}</recordings></root>".encode()))
    assert one.running is running


async def test_no_card_is_an_empty_list_and_no_error(ask: Ask) -> None:
    with cameras("mid", sd_card="missing") as [camera]:
        found = only(await ask(camera))
    assert found.outcome == "done" and found.recordings == [] and found.complete is True


async def test_a_device_without_storage_says_so(ask: Ask) -> None:
    with cameras("bare") as [radar], pytest.raises(Unsupported):
        await ask(radar)


@pytest.mark.parametrize("kind", ["truncate", "truncate-json", "html", "empty", "doctype", "garbage"])
async def test_a_list_nobody_can_read_is_an_error_that_says_so(ask: Ask, camera: Camera, kind: Any) -> None:
    camera.device.faults.add(LIST, Fault(kind, count=None))
    with pytest.raises(Nonsense):
        await ask(camera)


async def test_of_several_cameras_each_has_its_own_outcome(ask: Ask) -> None:
    with cameras("mid", "bare") as pair:
        result = await ask(*pair)
    assert [one.outcome for one in result.cameras] == ["done", "unsupported"]


# --- export ----------------------------------------------------------------------------------------------------------


async def test_a_download_tells_in_the_log_how_far_it_is(
    ask: Ask, camera: Camera, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "Progress", lambda key: Progress(key, every=0))
    monkeypatch.setattr(exporting, "_PIECE", 4096)
    with caplog.at_level(logging.INFO):
        recording = fresh(camera, 600)
        await ask(camera, action="export", **approved(camera, recording))
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Export of ")]
    *underway, last = told
    shares = [int(line.split(", ")[1].partition(" %")[0]) for line in underway]
    assert len(shares) > 3 and shares == sorted(shares) and 50 < shares[-1] < 100
    assert recording.recording_id in told[0] and ": ended with " in last


@pytest.mark.parametrize("profile", ["old", "9.80", "mid", "new"])
async def test_a_recording_is_fetched_whole_with_its_hash(ask: Ask, store: CaptureStore, profile: str) -> None:
    with cameras(profile) as [camera]:
        recording = fresh(camera)
        found = only(await ask(camera, action="export", user="viewer", **approved(camera, recording)))
        expected = b"".join(matroska(storage(camera).window(recording, None, None).footage))
        [made] = found.files
        assert store.path(made.file.name).read_bytes() == expected
        assert store.describe(made.file.name).sha256 == made.file.sha256
        assert made.whole and found.complete and found.remarks == []
        assert made.file.name.endswith(f"/{recording.recording_id}.mkv")
        assert (made.started_at, made.stopped_at) == (NOON, NOON + timedelta(seconds=60))
        assert found.recordings[0].recording_id == recording.recording_id
        assert not camera.device.errors and storage(camera).exports == 0


@pytest.mark.skipif(which("file") is None, reason="file is not installed")
async def test_what_is_fetched_is_what_the_program_file_calls_it(ask: Ask, camera: Camera, store: CaptureStore) -> None:
    recording = fresh(camera)
    for wanted, kind in (("matroska", "Matroska"), ("mp4", "MP4")):
        found = only(await ask(camera, action="export", format=wanted, **approved(camera, recording)))
        name = str(store.path(found.files[0].file.name))
        said = await asyncio.to_thread(subprocess.run, ["file", "-b", name], capture_output=True, text=True, check=True)
        assert kind in said.stdout and found.complete


async def test_a_stretch_is_cut_at_key_frames_and_the_result_says_where(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    found = only(
        await ask(
            camera,
            action="export",
            start="2026-01-01T12:00:11Z",
            stop="2026-01-01T12:00:21Z",
            **approved(camera, recording),
        )
    )
    [made] = found.files
    assert (made.started_at, made.stopped_at) == (NOON + timedelta(seconds=10), NOON + timedelta(seconds=22))


async def test_an_estimate_says_size_and_times_and_fetches_nothing(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    told = only(
        await ask(
            camera,
            action="estimate",
            recording=recording.recording_id,
            user="viewer",
            policy=UNHURRIED,
        )
    )
    assert told.estimate is not None and told.estimate.stopped_at == NOON + timedelta(seconds=60)
    size = sum(map(len, matroska(storage(camera).window(recording, None, None).footage)))
    assert told.estimate.size_bytes is not None and 0 <= told.estimate.size_bytes - size < 1024
    assert not camera.asked(EXPORT)
    storage(camera).recordings[recording.recording_id].stopped = None
    assert only(await ask(camera, action="estimate", recording=recording.recording_id)).estimate.size_bytes is None  # type: ignore[union-attr]


@pytest.mark.parametrize("profile", ["mid", "old"])
async def test_a_broken_download_is_gone_on_with_from_what_is_whole(
    ask: Ask, store: CaptureStore, profile: str
) -> None:
    with cameras(profile) as [camera]:  # old ones do not say how long it will be
        recording = fresh(camera)
        storage(camera).cuts = [20_000, 9_000]
        found = only(await ask(camera, action="export", **approved(camera, recording)))
        assert [one.whole for one in found.files] == [False, False, True] and found.complete
        names = [one.file.name.rpartition("/")[2] for one in found.files]
        base = recording.recording_id
        assert names == [f"{base}.partial.mkv", f"{base}.part2.partial.mkv", f"{base}.part3.mkv"]
        for before, after in zip(found.files, found.files[1:], strict=False):
            assert before.stopped_at is not None and after.started_at is not None
            assert before.stopped_at >= after.started_at, "nothing may be missing between two files"
        assert found.files[0].started_at == NOON
        assert found.files[-1].stopped_at == NOON + timedelta(seconds=60)
        first = store.path(found.files[0].file.name).read_bytes()
        assert 0 < len(first) <= 20_000
        assert len(camera.asked(EXPORT)) == 3 and "starttime=" in camera.asked(EXPORT)[1].query


async def test_a_download_that_breaks_each_time_is_an_error_that_names_what_is_kept(
    ask: Ask, camera: Camera, store: CaptureStore
) -> None:
    recording = fresh(camera)
    storage(camera).cuts = [20_000, 9_000]
    with pytest.raises(Unreachable, match=r"broke its answer off .*partial\.mkv.*start=2026-01-01T12:00:") as caught:
        await ask(camera, action="export", attempts=2, **approved(camera, recording))
    assert caught.value.retryable is False
    kept = [one.name for one in store.files()]
    assert len(kept) == 2 and all(name.endswith(".partial.mkv") and name in str(caught.value) for name in kept)


async def test_a_broken_mp4_is_fetched_again_from_its_beginning(ask: Ask, camera: Camera, store: CaptureStore) -> None:
    recording = fresh(camera)
    storage(camera).cuts = [8_000]
    found = only(await ask(camera, action="export", format="mp4", **approved(camera, recording)))
    [made] = found.files
    assert made.whole and made.file.name.endswith(".part2.mp4")
    expected = b"".join(mp4(storage(camera).window(recording, None, None).footage))
    assert store.path(made.file.name).read_bytes() == expected
    storage(camera).cuts = [8_000]
    with pytest.raises(Unreachable, match=r"partial\.mp4"):
        await ask(camera, action="export", format="mp4", attempts=1, **approved(camera, recording))


def half_answer(camera: Camera, data: bytes, media: str = "video/x-matroska") -> None:
    """The camera sends this in place of the recording, and says itself that it is no more."""
    camera.device.faults.add(EXPORT, Fault("answer", count=None, response=Response(200, data, media)))


@pytest.mark.parametrize(("clusters", "more"), [(3, 0), (10, 0), (10, 700)])
async def test_a_file_that_ends_before_it_should_is_never_whole_however_long_the_camera_said_it_is(
    ask: Ask, camera: Camera, clusters: int, more: int
) -> None:
    recording = fresh(camera)
    pieces = list(matroska(storage(camera).window(recording, None, None).footage))
    half_answer(camera, b"".join(pieces[: 1 + clusters]) + pieces[1 + clusters][:more])
    found = only(await ask(camera, action="export", **approved(camera, recording)))
    [made] = found.files
    assert (found.complete, made.whole, made.started_at) == (False, False, NOON)
    assert made.stopped_at is not None and 0 <= (NOON + timedelta(seconds=2 * clusters) - made.stopped_at).seconds <= 2
    assert made.file.name.endswith(".partial.mkv")
    [remark] = found.remarks
    assert f"start={made.stopped_at:%Y-%m-%dT%H:%M:%S}Z" in remark and "s too early" in remark
    assert ("in the middle" in remark) is bool(more)
    assert len(camera.asked(EXPORT)) == 1


async def test_a_file_without_any_picture_is_no_recording(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    camera.device.faults.add(EXPORT, Fault("truncate-json", count=None))
    with pytest.raises(Unreachable, match="before any picture"):
        await ask(camera, action="export", **approved(camera, recording))
    camera.device.faults.clear()
    camera.device.faults.add(EXPORT, Fault("truncate-json", count=1))
    found = only(await ask(camera, action="export", **approved(camera, recording)))
    assert found.complete and [one.whole for one in found.files] == [True]


async def test_half_an_mp4_file_is_never_whole(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    whole = b"".join(mp4(storage(camera).window(recording, None, None).footage))
    half_answer(camera, whole[: len(whole) // 2], "video/mp4")
    found = only(await ask(camera, action="export", format="mp4", **approved(camera, recording)))
    [made] = found.files
    assert (found.complete, made.whole, made.stopped_at) == (False, False, None)
    assert made.file.name.endswith(".partial.mp4") and "matroska" in found.remarks[0]


async def test_an_mp4_file_that_is_shorter_than_promised_is_never_whole(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    early = NOON + timedelta(seconds=40)
    half_answer(camera, b"".join(mp4(storage(camera).window(recording, None, early).footage)), "video/mp4")
    found = only(await ask(camera, action="export", format="mp4", **approved(camera, recording)))
    [made] = found.files
    assert (found.complete, made.whole, made.stopped_at) == (False, False, early)
    assert found.remarks[0].startswith("The file ends 20 s too early.")


async def test_the_times_of_what_was_gone_on_with_are_right_also_where_the_camera_tells_none(
    ask: Ask, camera: Camera
) -> None:
    recording = fresh(camera)
    storage(camera).cuts = [20_000]
    camera.device.faults.add(PROPERTIES, Fault("html", skip=1, count=None))
    found = only(await ask(camera, action="export", **approved(camera, recording)))
    first, last = found.files
    assert found.complete and found.remarks == [] and last.whole
    assert first.stopped_at == last.started_at and last.stopped_at == NOON + timedelta(seconds=60)


async def test_a_download_that_falls_silent_is_over_after_a_while(
    ask: Ask, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "IDLE_SECONDS", 0.3)
    recording = fresh(camera)
    storage(camera).seconds_between = 5
    with pytest.raises(Unreachable, match="sent nothing for"):
        await ask(camera, action="export", attempts=1, **approved(camera, recording))


async def test_the_most_bytes_are_never_exceeded(ask: Ask, camera: Camera, store: CaptureStore) -> None:
    recording = fresh(camera, 300)
    with pytest.raises(Rejected, match="more than max_bytes") as caught:
        await ask(camera, action="export", max_bytes=1 << 16, **approved(camera, recording))
    assert "max_bytes" in str(caught.value) and not camera.asked(EXPORT)
    # A camera that estimates too little is cut.
    storage(camera).recordings[recording.recording_id].frame_bytes = 120
    tiny = Response.xml(
        '<ExportPropertiesResponse SchemaVersion="1.0"><Success><ExportProperties EstimatedFileSize="1" '
        'Starttime="2026-01-01T12:00:00Z" Stoptime="2026-01-01T12:05:00Z"/></Success></ExportPropertiesResponse>'
    )
    camera.device.faults.add(PROPERTIES, Fault("answer", count=None, response=tiny))
    found = only(await ask(camera, action="export", max_bytes=1 << 16, **approved(camera, recording)))
    [made] = found.files
    assert made.file.size_bytes == 1 << 16 and not made.whole and found.complete is False
    assert made.file.name.endswith(".partial.mkv") and "max_bytes" in found.remarks[0]
    assert made.stopped_at is not None and NOON < made.stopped_at < NOON + timedelta(seconds=300)


async def test_an_export_that_takes_longer_than_allowed_is_refused_before_it_begins(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera, 600, frame_bytes=10_000)  # 30 MB
    policy = ProbePolicy(ceiling="destroy", host_packets_per_second=40)
    with pytest.raises(Rejected, match=r"about 259 s at the 115,840 bytes a second .*max_seconds \(60\).*policy rate"):
        await ask(camera, action="export", policy=policy, max_seconds=60, **approved(camera, recording))
    assert not camera.asked(EXPORT)


async def test_the_most_seconds_end_a_download_and_what_came_is_kept(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera, 120)
    storage(camera).seconds_between = 0.2
    found = only(await ask(camera, action="export", max_seconds=5, **approved(camera, recording)))
    assert found.complete is False and found.files[0].file.size_bytes > 0
    assert found.remarks == ["Cut because max_seconds were over."]


async def test_a_full_store_is_said_before_anything_is_fetched(ask: Ask, camera: Camera, tmp_path: Path) -> None:
    small = CaptureStore(folder=tmp_path / "small", quota_bytes=1 << 20)
    small.write("old.bin", bytes((1 << 20) - 1000))
    recording = fresh(camera)
    with pytest.raises(Busy, match="full"):
        await ask(camera, action="export", store=small, **approved(camera, recording))
    assert not camera.asked(EXPORT)
    assert [one.name for one in small.files()] == ["old.bin"]


async def test_a_store_with_less_room_than_allowed_takes_what_the_camera_estimates(
    ask: Ask, camera: Camera, tmp_path: Path
) -> None:
    small = CaptureStore(folder=tmp_path / "small", quota_bytes=8 << 20)
    recording = fresh(camera)
    found = only(await ask(camera, action="export", store=small, **approved(camera, recording)))
    assert found.complete and small.usage() == found.files[0].file.size_bytes


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Response.xml('<ExportRecordingResponse SchemaVersion="1.0"><GeneralError><ErrorCode>220</ErrorCode>'
                      "<ErrorDescription>Too many jobs</ErrorDescription></GeneralError></ExportRecordingResponse>"),
         Rejected, "too many exports"),
        (Response(200, b"<html><body>Log in</body></html>", "text/html"), Nonsense, "in place of a recording"),
        (Response(200, b"", "video/x-matroska"), Nonsense, "no matroska file"),
        (Response(200, b"GIF89a and more of it", "video/x-matroska"), Nonsense, "no matroska file"),
        (Response(200, b"<ExportRecordingResponse", "video/x-matroska"), Nonsense, "in place of a recording"),
        (Response.page(503), Busy, "503"),
    ],
)  # fmt: skip
async def test_what_is_no_recording_is_never_kept_as_one(
    ask: Ask, camera: Camera, store: CaptureStore, answer: Response, kind: type[ToolError], message: str
) -> None:
    recording = fresh(camera)
    camera.device.faults.add(EXPORT, Fault("answer", count=None, response=answer))
    with pytest.raises(kind, match=message):
        await ask(camera, action="export", **approved(camera, recording))
    assert store.files() == [] and store.usage() == 0


async def test_the_cameras_error_codes_are_explained(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    with pytest.raises(InvalidParameters, match=r"code 150.*inside the recording's own times"):
        await ask(camera, action="export", start="2026-01-02T00:00:00Z", **approved(camera, recording))
    with pytest.raises(NotFound, match="no recording"):
        await ask(
            camera,
            action="export",
            recording="20200101_000000_AAAA_B8A44F7C1D20",
            confirm=f"{camera.address} 20200101_000000_AAAA_B8A44F7C1D20",
        )
    assert not camera.asked(EXPORT)


async def test_a_camera_before_export_says_so_and_mp4_only_where_the_camera_has_it(ask: Ask) -> None:
    with cameras("ancient", "old") as [ancient, old]:
        recording = fresh(ancient)
        with pytest.raises(Unsupported, match="does not export recordings"):
            await ask(ancient, action="export", **approved(ancient, recording))
        recording = fresh(old)
        with pytest.raises(Unsupported, match="mp4"):
            await ask(old, action="export", format="mp4", **approved(old, recording))


async def test_others_may_talk_with_the_camera_during_a_download(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    storage(camera).seconds_between = 0.1
    export = asyncio.ensure_future(ask(camera, action="export", **approved(camera, recording)))
    while not camera.asked(EXPORT):
        await asyncio.sleep(0.02)
    assert only(await ask(camera)).outcome == "done" and not export.done()
    assert only(await export).complete


async def test_a_cancelled_export_keeps_what_had_come(ask: Ask, camera: Camera, store: CaptureStore) -> None:
    recording = fresh(camera, frame_bytes=60_000)
    storage(camera).seconds_between = 0.05
    export = asyncio.ensure_future(ask(camera, action="export", **approved(camera, recording)))
    while not any(path.stat().st_size for path in store.folder.rglob("*.partial.mkv")):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    export.cancel()
    with pytest.raises(asyncio.CancelledError):
        await export
    [kept] = store.files()
    assert kept.name.endswith(".partial.mkv") and kept.size_bytes > 0


@pytest.mark.parametrize("profile", ["new", "ptz"])
async def test_a_recording_is_fetched_over_tls_with_a_pinned_certificate(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        recording = fresh(camera)
        found = only(await ask(camera, scheme="https", action="export", **approved(camera, recording)))
        assert found.complete and {one.scheme for one in camera.asked(EXPORT)} == {"https"}


# --- removal ---------------------------------------------------------------------------------------------------------


async def test_exactly_one_recording_is_removed_with_approval(ask: Ask, camera: Camera) -> None:
    other = storage(camera).add(NOON - timedelta(days=1), 60)
    recording = storage(camera).add(NOON, 60)
    for confirm in (None, camera.address, recording.recording_id, f"{camera.address} {other.recording_id}"):
        with pytest.raises(Refused):
            await ask(camera, action="remove", recording=recording.recording_id, confirm=confirm)
    with pytest.raises(Refused, match="destroy"):
        await ask(camera, action="remove", policy=ProbePolicy(), **approved(camera, recording))
    assert camera.requests == []
    with pytest.raises(Forbidden):
        await ask(camera, action="remove", user="viewer", **approved(camera, recording))
    found = only(await ask(camera, action="remove", user="operator", **approved(camera, recording)))
    assert found.removed is True and found.recordings[0].recording_id == recording.recording_id
    assert recording.recording_id not in storage(camera).recordings
    assert other.recording_id in storage(camera).recordings and len(storage(camera).recordings) == 4
    sent = [one for one in camera.asked(REMOVE) if one.account == "operator"]
    assert [one.body for one in sent] == [f"recordingid={recording.recording_id}".encode()]


@pytest.mark.parametrize(
    "recording", ["all", "ALL", "*", "2026*", "a,b", "20260101_120000_A1B2_B8A44F7C1D20,all", "", "a b", "x\ny"]
)
@pytest.mark.parametrize("action", ["remove", "export", "estimate"])
async def test_what_could_name_several_recordings_is_refused_in_code(
    ask: Ask, camera: Camera, action: str, recording: str
) -> None:
    with pytest.raises(InvalidParameters, match="exactly one recording"):
        await ask(camera, action=action, recording=recording, confirm=f"{camera.address} {recording}")
    assert camera.requests == []


async def test_a_recording_that_goes_on_is_not_removed(ask: Ask, camera: Camera) -> None:
    going = next(one for one in storage(camera).recordings.values() if one.stopped is None)
    with pytest.raises(Conflict, match="goes on"):
        await ask(camera, action="remove", **approved(camera, going))
    assert not camera.asked(REMOVE)


async def test_a_recording_that_is_still_there_after_removal_is_an_error(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    answer = Response.xml(f'<root><remove recordingid="{recording.recording_id}" result="OK"/></root>')
    camera.device.faults.add(REMOVE, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="lists it still"):
        await ask(camera, action="remove", **approved(camera, recording))


async def test_that_more_than_one_is_gone_is_said(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    for number in range(3):
        storage(camera).add(NOON + timedelta(hours=number + 1), 10)
    answer = Response.xml(f'<root><remove recordingid="{recording.recording_id}" result="OK"/></root>')
    camera.device.faults.add(REMOVE, Fault("answer", response=answer, effect=True))
    original = storage(camera).remove

    def all_of_them(recording_id: str) -> None:
        original(recording_id)
        storage(camera).recordings.clear()

    storage(camera).remove = all_of_them  # type: ignore[method-assign]
    found = only(await ask(camera, action="remove", **approved(camera, recording)))
    assert found.removed and "more than the one are gone" in found.remarks[0]


async def test_a_read_only_disk_keeps_its_recordings_and_the_camera_says_why(ask: Ask, camera: Camera) -> None:
    recording = fresh(camera)
    storage(camera).disks["SD_DISK"].readonly = True
    with pytest.raises(Rejected, match="write protected"):
        await ask(camera, action="remove", **approved(camera, recording))
    assert recording.recording_id in storage(camera).recordings


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"action": "remove"}, "needs recording"),
        ({"action": "list", "recording": "20260101_120000_A1B2_B8A44F7C1D20"}, "recording has no meaning for list"),
        ({"start": "2026-01-01T12:00:00"}, "start"),
        ({"start": "2026-01-02T00:00:00Z", "stop": "2026-01-01T00:00:00Z"}, "stop must be after start"),
        ({"limit": 0}, "limit"),
        ({"max_bytes": 1 << 20}, "max_bytes has no meaning for list"),
        ({"event": "a\nb"}, "event"),
    ],
)
async def test_wrong_parameters_are_named_before_anything_is_sent(
    ask: Ask, camera: Camera, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameters, match=message):
        await ask(camera, **params)
    assert camera.requests == []


async def test_export_and_removal_take_one_camera_and_are_destroy(ask: Ask) -> None:
    with cameras("mid", "mid") as pair:
        with pytest.raises(InvalidParameters, match="exactly one target"):
            await ask(*pair, action="export", recording="20260101_120000_A1B2_B8A44F7C1D20")
        assert pair[0].requests == []
    made = VapixRecording(
        targets=["10.0.0.1"],
        credentials="axis/a",
        action=RecordingAction.EXPORT,
        recording="20260101_120000_A1B2_B8A44F7C1D20",
    )
    assert made.safety() is Safety.DESTROY and made.approval()
    assert made.subject() == "10.0.0.1 20260101_120000_A1B2_B8A44F7C1D20"
    assert VapixRecording(targets=["10.0.0.1"], credentials="axis/a").safety() is None


# --- parsers ---------------------------------------------------------------------------------------------------------

_values = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["2026-01-01T12:00:00.000000Z", "0001-01-01T00:00:00+23:59", "recording", "completed", "15:0", "15:1", ""]
    ),
)
_keys = st.sampled_from(
    ["recordingid", "starttime", "stoptime", "recordingtype", "recordingstatus", "framerate", "mimetype", "totalnumberofrecordings",
     "EstimatedFileSize", "Starttime", "result", "source"]
)  # fmt: skip
_names = st.sampled_from(
    ["root", "recordings", "recording", "video", "audio", "ExportProperties", "GeneralError", "ErrorCode"]
)


@st.composite
def documents(draw: st.DrawFn, depth: int = 3) -> Element:
    element = Element(draw(_names), draw(st.dictionaries(_keys, _values, max_size=6)))
    element.text = draw(st.one_of(st.none(), st.text(max_size=20)))
    if depth:
        element.extend(draw(st.lists(documents(depth=depth - 1), max_size=3)))
    return element


@given(documents())
def test_whatever_xml_says_is_read_or_an_error_of_ours(root: Element) -> None:
    with contextlib.suppress(ToolError):
        total, found = reading.recordings_of(root)
        assert total is None or isinstance(total, int)
        for one in found:
            assert one.recording_id and one.recording_id.isprintable()
            assert one.started_at is None or one.started_at.tzinfo is UTC
            assert one.running in (True, False)
            one.model_dump_json()
    with contextlib.suppress(ToolError):
        exporting.estimate_of(root, exporting.ExportFormat.MP4)
    exporting.formats_of(root)


@given(st.binary(max_size=400))
def test_bytes_are_a_list_or_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(ToolError):
        reading.recordings_of(parse_xml(data))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_can_be_asked_how_far_they_reach(data: bytes, begun: bool) -> None:
    found = reach(io.BytesIO((EBML_MAGIC if begun else b"") + data))
    assert found is None or found.clusters > 0
    whole_mp4(io.BytesIO(data))
    seconds = mp4_seconds(io.BytesIO(data))
    assert seconds is None or seconds > 0


MATROSKA = b"".join(matroska(Footage("a test", 0, 5)))
MP4 = b"".join(mp4(Footage("a test", 0, 5)))


@given(st.integers(0, len(MATROSKA)))
def test_a_cut_matroska_file_is_never_whole_and_reaches_no_further_than_it_does(cut: int) -> None:
    found = reach(io.BytesIO(MATROSKA[:cut]))
    if found is None:
        return
    assert 0 <= found.last_seconds <= found.until_seconds < 10
    ends = [len(b"".join(list(matroska(Footage("a test", 0, 5)))[: 1 + groups])) for groups in range(6)]
    # At the end of a cluster nobody can tell that another would have come.
    assert found.whole is (cut in ends)
    clusters_begun = sum(cut > end for end in ends[:-1])
    assert found.clusters <= clusters_begun


def test_the_simulated_camera_knows_how_large_its_files_will_be() -> None:
    assert matroska_size(Footage("a test", 0, 5)) == len(MATROSKA)


@given(st.integers(0, len(MP4) - 1))
@example(MP4.index(b"mdat") - 4)  # between two boxes
def test_a_cut_mp4_file_is_never_whole(cut: int) -> None:
    assert whole_mp4(io.BytesIO(MP4)) and not whole_mp4(io.BytesIO(MP4[:cut]))


@pytest.mark.parametrize(
    ("index", "seconds"),
    [
        ("00 000000 00000000 00000000 000003e8 00002710", 10),
        ("01 000000 0000000000000000 0000000000000000 000003e8 0000000000002710", 10),
        ("00 000000 00000000 00000000 000003e8 00000000", None),  # in fragments
        ("00 000000 00000000 00000000 000003e8 ffffffff", None),
        ("00 000000 00000000 00000000 00000000 00002710", None),
        ("00 000000 00000000", None),
    ],
)
def test_an_mp4_file_says_by_its_index_how_long_it_is(index: str, seconds: float | None) -> None:
    inner = bytes.fromhex(index)
    header = (8 + len(inner)).to_bytes(4, "big") + b"mvhd" + inner
    large = bytes.fromhex("00000001") + b"moov" + (16 + len(header)).to_bytes(8, "big") + header
    for movie in ((8 + len(header)).to_bytes(4, "big") + b"moov" + header, large):
        assert mp4_seconds(io.BytesIO(bytes.fromhex("00000008") + b"free" + movie)) == seconds
    assert mp4_seconds(io.BytesIO(MP4)) == 10


@pytest.mark.parametrize("began", [NOON, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)])
@pytest.mark.parametrize("times", [(1 << 60, 0), (0, 1 << 60), (0, 60_000)])
def test_what_came_is_kept_whatever_its_times_say(store: CaptureStore, began: datetime, times: tuple[int, int]) -> None:
    clusters = b"".join(
        bytes.fromhex("1f43b67501ffffffffffffffe788") + number.to_bytes(8, "big") + bytes.fromhex("a38481000080")
        for number in times
    )
    data = EBML_MAGIC + b"\x80" + bytes.fromhex("1853806701ffffffffffffff") + clusters
    promised = exporting.Estimate(format=exporting.ExportFormat.MATROSKA, started_at=began)
    part = exporting._Part(store, "vapix_recording/run/one.mkv", promised, 1 << 20, exporting.ExportFormat.MATROSKA)
    part.path, part.received, part.last = part._claim(), len(data), True
    part.path.write_bytes(data)
    stored = part._store()
    assert stored is not None and stored.size_bytes == len(data)
    assert part.resumable is (began == NOON and times == (0, 60_000))
