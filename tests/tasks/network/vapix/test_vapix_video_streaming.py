"""`vapix_video_streaming` against simulated cameras: offers, URLs, snapshots, clips and the check of a stream."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import Asking, only
from PIL import Image
from pydantic import ValidationError

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Fault
from deployments.demo.axis_camera._api_media import IMAGE_CGI, MJPEG_CGI, Media
from deployments.demo.axis_camera._api_profiles import add_profile
from deployments.demo.axis_camera._api_ptz import head_of
from deployments.demo.axis_camera._picture_drawing import Look, draw
from tasks.core.errors import (
    Busy,
    Forbidden,
    InvalidParameters,
    Refused,
    Rejected,
    ToolError,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.network.vapix import _video_clip as clips
from tasks.network.vapix import vapix_video_streaming as video
from tasks.network.vapix._mjpeg import Frame, MultipartReader, boundary_of
from tasks.network.vapix._picture import dimensions, is_jpeg, is_whole, light_of
from tasks.network.vapix._video_check import read_description
from tasks.network.vapix._video_offers import url
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix.vapix_video_streaming import (
    VapixVideoStreaming,
    VapixVideoStreamingResult,
    VideoCamera,
    vapix_video_streaming,
)

Ask = Callable[..., Awaitable[VapixVideoStreamingResult]]
Use = Callable[..., Awaitable[VideoCamera]]


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "evidence", quota_bytes=256 << 20)


@pytest.fixture
def ask(asking: Asking, store: CaptureStore) -> Ask:
    """Ask cameras at the default policy's pace."""
    return asking(vapix_video_streaming, scheme="https", timeout=3, policy=ProbePolicy(), store=store)


@pytest.fixture
def use(ask: Ask, camera: Camera) -> Use:
    """Use the tool on that camera."""

    async def run(action: str, *, on: Camera = camera, **params: Any) -> Any:
        if action == "check":
            params.setdefault("rtsp_port", on.rtsp_port)
        result = await ask(on, action=action, **params)
        assert "pass" not in result.model_dump_json() and "root" not in result.model_dump_json()
        assert result.headline().startswith(on.address)
        return only(result)

    return run


# --- offers and URLs -------------------------------------------------------------------------------------------------


async def test_offers_say_codecs_resolutions_views_and_profiles(use: Use, camera: Camera) -> None:
    add_profile(camera.device, "Night shift", "videocodec=h264&resolution=640x360")
    found = await use("offers")
    assert found.codecs[0] == "jpeg" and "h264" in found.codecs and "mjpeg" not in found.codecs
    assert "1280x720" in found.resolutions and found.most_viewers == 20
    assert [view.number for view in found.views if view.enabled] == [1] and len(found.views) == 8
    assert found.profiles == ["Night shift"] and found.api == "stream-profiles"


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "new", "ptz"])
async def test_every_generation_has_offers_a_snapshot_and_urls(use: Use, profile: str) -> None:
    with cameras(profile) as [other]:
        size, shown = ("CIF", (352, 288)) if profile == "ancient" else ("640x360", (640, 360))
        add_profile(other.device, "Gate", f"resolution={size}")
        found = await use("offers", on=other)
        assert found.profiles == (["Gate", "Quality"] if profile == "ancient" else ["Gate"])
        assert found.codecs and size in found.resolutions
        assert found.api == ("param.cgi" if profile in {"ancient", "old"} else "stream-profiles")
        picture = (await use("snapshot", on=other, profile="Gate")).picture
        assert picture is not None and (picture.width, picture.height) == shown and not picture.dark
        urls = (await use("urls", on=other, profile="Gate")).urls
        assert urls is not None and urls.rtsp.endswith("/axis-media/media.amp?camera=1&streamprofile=Gate")


async def test_urls_hold_what_was_asked_and_no_credentials(use: Use, camera: Camera) -> None:
    urls = (await use("urls", codec="h264", resolution="1280x720", fps=10)).urls
    assert urls is not None
    place = f"rtsp://{camera.address}:{camera.rtsp_port}/axis-media/media.amp"
    assert urls.rtsp == f"{place}?videocodec=h264&camera=1&resolution=1280x720&fps=10"
    assert urls.mjpeg is None and urls.rtsps is None
    assert (
        urls.snapshot
        == f"https://{camera.address}:{camera.https_port}/axis-cgi/jpg/image.cgi?camera=1&resolution=1280x720"
    )
    plain = (await use("urls", codec="jpeg", scheme="http")).urls
    assert (
        plain is not None and plain.mjpeg == f"http://{camera.address}:{camera.port}/axis-cgi/mjpg/video.cgi?camera=1"
    )
    assert "@" not in plain.model_dump_json()


async def test_rtsps_is_named_where_it_is_on(use: Use, camera: Camera) -> None:
    camera.device.params.set("Network.RTSPS.Enabled", "yes")
    urls = (await use("urls")).urls
    assert urls is not None and urls.rtsps == f"rtsps://{camera.address}/axis-media/media.amp?camera=1"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"codec": "av1"}, "codec: the camera does not offer av1; it offers jpeg, h264"),
        ({"resolution": "1234x567"}, "resolution: the camera does not offer 1234x567; it offers 1920x1080"),
        ({"profile": "Nobody"}, "no stream profile 'Nobody'; it has none"),
        ({"view": 3}, r"no view 3 \(it is switched off\); right would be 1"),
        ({"view": 9}, "no view 9; right would be 1"),
    ],
)
async def test_what_the_camera_does_not_offer_is_refused_with_what_it_does(
    use: Use, params: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidParameters, match=says):
        await use("urls", **params)


async def test_a_radar_has_no_video(use: Use) -> None:
    with cameras("bare") as [radar]:
        for action in ("offers", "snapshot", "clip"):
            with pytest.raises(Unsupported, match="no video"):
                await use(action, on=radar)


# --- snapshots -------------------------------------------------------------------------------------------------------


async def test_a_snapshot_is_in_the_store_with_its_size_and_its_light(use: Use, store: CaptureStore) -> None:
    found = (await use("snapshot", resolution="640x360")).picture
    assert found is not None and (found.width, found.height) == (640, 360) and found.whole and not found.dark
    assert found.mean is not None and found.deviation is not None and found.mean > 60 and found.deviation > 10
    with store.reading(found.file.name) as path:
        data = path.read_bytes()
    assert len(data) == found.file.size_bytes and Image.open(io.BytesIO(data)).size == (640, 360)


async def test_a_covered_lens_is_told_from_a_picture(use: Use, camera: Camera) -> None:
    camera.device.slot(Media).black = True
    found = await use("snapshot")
    assert (
        found.picture is not None and found.picture.dark and found.picture.mean is not None and found.picture.mean < 10
    )
    assert found.note == "The picture shows nothing: is the lens covered?"


async def test_the_picture_shows_where_the_camera_points_and_what_is_laid_over_it(
    use: Use, store: CaptureStore
) -> None:
    with cameras("ptz") as [ptz]:
        one = (await use("snapshot", on=ptz, resolution="640x360")).picture
        head_of(ptz.device).axes["pan"].value = 75
        other = (await use("snapshot", on=ptz, resolution="640x360")).picture
        assert one is not None and other is not None and one.file.sha256 != other.file.sha256


async def test_what_the_camera_refuses_is_explained_by_what_it_offers(use: Use) -> None:
    with pytest.raises(InvalidParameters, match="does not offer 999x999"):
        await use("snapshot", resolution="999x999")
    with pytest.raises(InvalidParameters, match="no view 9"):
        await use("snapshot", view=9)
    with pytest.raises(InvalidParameters, match="no stream profile 'x'"):
        await use("clip", profile="x")


async def test_a_comment_in_place_of_a_picture_is_the_cameras_no(use: Use, camera: Camera) -> None:
    camera.device.slot(Media).picture = b"<!-- Camera 1 not available. -->\n"
    with pytest.raises(Rejected, match=r"says no: Camera 1 not available\."):
        await use("snapshot")


@pytest.mark.parametrize("picture", [b"", b"GIF89a", b"\xff\xd8", b"<html>login</html>"])
async def test_what_is_no_jpeg_is_no_picture(use: Use, camera: Camera, picture: bytes, store: CaptureStore) -> None:
    camera.device.slot(Media).picture = picture
    with pytest.raises(Nonsense, match="in place of a picture"):
        await use("snapshot")
    assert store.files() == []


async def test_half_a_jpeg_is_kept_and_said(use: Use, camera: Camera) -> None:
    camera.device.slot(Media).picture = draw(Look(320, 180))[:900]
    found = await use("snapshot")
    assert found.picture is not None and not found.picture.whole


async def test_dead_cameras_among_many_cost_their_own_pictures_alone(ask: Ask) -> None:
    with cameras(*["mid"] * 40) as many:
        for one in many[::8]:
            one.device.refuse()
        result = await ask(*many, scheme="http", action="snapshot", resolution="320x180", timeout=15)
    assert sum(one.picture is not None for one in result.cameras) == 35
    assert [one.outcome for one in result.cameras].count("unreachable") == 5
    assert len({one.picture.file.name for one in result.cameras if one.picture}) == 35
    assert max(one.most_in_flight for one in many) == 1
    grown = result.model_copy(update={"cameras": list(result.cameras) * 7})
    assert len(grown.model_dump_json()) > 64 << 10, (
        "pictures of 256 are more than the ledger keeps: they have to be fitted"
    )


# --- clips -----------------------------------------------------------------------------------------------------------


def pictures(store: CaptureStore, found: VideoCamera) -> list[bytes]:
    assert found.clip is not None
    with store.reading(found.clip.file.name) as path:
        data = path.read_bytes()
    parts = [b"\xff\xd8\xff" + part for part in data.split(b"\xff\xd8\xff")[1:]]
    for part in parts:
        Image.open(io.BytesIO(part)).load()
    return parts


async def test_a_clip_holds_whole_pictures_and_ends_by_its_number(use: Use, store: CaptureStore) -> None:
    found = await use("clip", frames=5, resolution="320x180", fps=20, seconds=10)
    assert found.clip is not None and found.clip.frames == 5 and found.clip.ended_by in {"frames", "camera"}
    assert (found.clip.width, found.clip.height, found.clip.odd_lengths) == (320, 180, 0) and found.note is None
    assert len(pictures(store, found)) == 5


async def test_a_clip_ends_by_its_time(use: Use, store: CaptureStore) -> None:
    found = await use("clip", seconds=1, fps=10, resolution="320x180")
    assert (
        found.clip is not None
        and found.clip.ended_by == "duration"
        and 3 <= found.clip.frames <= 12
        and not found.clip.broken
    )
    assert found.clip.fps is not None and 3 < found.clip.fps < 13


async def test_a_clip_ends_by_its_size(use: Use, store: CaptureStore) -> None:
    found = await use("clip", seconds=20, size_bytes=64 << 10, resolution="640x360")
    assert found.clip is not None and found.clip.ended_by == "size" and found.clip.file.size_bytes <= 64 << 10


@pytest.mark.parametrize(
    ("fault", "frames", "odd"),
    [("missing-length", 6, 6), ("wrong-length", 6, 6), ("short-length", 6, 6), ("quoted", 6, 0), ("dashed", 6, 0)],
)
async def test_cameras_that_break_the_rules_of_multipart_are_understood(
    use: Use, camera: Camera, store: CaptureStore, fault: Any, frames: int, odd: int
) -> None:
    camera.device.slot(Media).stream_fault = fault
    found = await use("clip", frames=6, resolution="320x180", seconds=10)
    assert found.clip is not None and (found.clip.frames, found.clip.odd_lengths, found.clip.broken) == (frames, odd, 0)
    assert len(pictures(store, found)) == frames


@pytest.mark.parametrize(("fault", "ended_by"), [("mid-frame", "camera"), ("reset", "trouble")])
async def test_a_stream_that_stops_in_the_middle_of_a_picture_keeps_the_whole_ones(
    use: Use, camera: Camera, store: CaptureStore, fault: Any, ended_by: str
) -> None:
    camera.device.slot(Media).stream_fault = fault
    found = await use("clip", frames=6, resolution="320x180", seconds=10)
    assert found.clip is not None and (found.clip.frames, found.clip.broken, found.clip.ended_by) == (2, 1, ended_by)
    assert "1 pictures came in part" in (found.note or "") and len(pictures(store, found)) == 2


async def test_silence_ends_a_clip_and_what_came_is_kept(
    use: Use, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SILENCE_SECONDS", 0.5)
    camera.device.slot(Media).stream_fault = "frozen"
    found = await use("clip", seconds=20, resolution="320x180")
    assert found.clip is not None and found.clip.frames == 2 and "nothing for 0.5 s" in (found.note or "")


async def test_a_stream_without_a_boundary_is_none(use: Use, camera: Camera, store: CaptureStore) -> None:
    camera.device.slot(Media).stream_fault = "no-boundary"
    with pytest.raises(Nonsense):
        await use("clip", resolution="320x180")
    assert store.files() == [] and store.usage() == 0


async def test_a_cancel_keeps_what_was_recorded_and_leaves_the_camera(
    use: Use, camera: Camera, store: CaptureStore
) -> None:
    task = asyncio.ensure_future(use("clip", seconds=30, fps=20, resolution="320x180"))
    media = camera.device.slot(Media)
    for _ in range(200):
        await asyncio.sleep(0.05)
        if media.viewers:
            break
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.name.endswith(".mjpeg") for entry in store.files()] == [True]
    for _ in range(100):
        if not media.viewers:
            break
        await asyncio.sleep(0.05)
    assert media.viewers == 0


async def test_a_clip_without_room_in_the_store_does_not_begin(use: Use, camera: Camera) -> None:
    with pytest.raises(Busy, match="prune"):
        await use("clip", size_bytes=512 << 20)
    assert not camera.asked(MJPEG_CGI)


async def test_a_camera_with_too_many_viewers_is_busy(use: Use, camera: Camera) -> None:
    camera.device.params.set("Image.MaxViewers", 1)
    camera.device.slot(Media).viewers = 1
    with pytest.raises(Busy):
        await use("clip", resolution="320x180")


# --- does the stream answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "9.80", "mid", "new", "ptz"])
async def test_the_check_describes_the_stream_of_every_generation(use: Use, profile: str) -> None:
    with cameras(profile) as [other]:
        found = await use("check", on=other)
        assert found.answers is True and "h264" in found.codecs and found.milliseconds is not None
        asked = [one for one in other.requests if one.scheme == "rtsp"]
        assert {one.method for one in asked} <= {"DESCRIBE"} and len(asked) == 2


async def test_a_viewer_may_check(use: Use) -> None:
    assert (await use("check", user="viewer")).answers is True


async def test_a_stream_that_does_not_answer_is_said(use: Use, camera: Camera) -> None:
    found = await use("check", rtsp_port=1)
    assert found.answers is False and found.note and found.outcome == "done"
    camera.device.faults.add("rtsp:/axis-media/media.amp", Fault("hang", count=None, bare=True))
    silent = await use("check", timeout=1)
    assert silent.answers is False and "did not answer" in (silent.note or "")


async def test_the_camera_says_which_port_its_streams_have_and_that_they_are_off(use: Use, camera: Camera) -> None:
    camera.device.params.set("Network.RTSP.Port", camera.rtsp_port)
    assert (await use("check", rtsp_port=None)).answers is True
    camera.device.params.set("Network.RTSP.Enabled", "no")
    found = await use("check", rtsp_port=None)
    assert found.answers is False and "switched off" in (found.note or "")
    assert "switched off" in ((await use("urls")).note or "")


async def test_a_port_that_must_never_be_touched_is_not(ask: Ask, camera: Camera) -> None:
    policy = ProbePolicy(never_ports=[camera.rtsp_port])
    with pytest.raises(Refused):
        await ask(camera, action="check", rtsp_port=camera.rtsp_port, policy=policy)
    assert camera.requests == []


@pytest.mark.parametrize(
    ("sdp", "codecs", "audio"),
    [
        (b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/16000\r\n", ("h265",), True),
        (b"m=video 0 RTP/AVP 26\r\n", ("jpeg",), False),
        (b"m=application 0 RTP/AVP 98\r\na=rtpmap:98 vnd.onvif.metadata/90000\r\n", (), False),
        (b"m=video 0 RTP/AVP 96\na=rtpmap:96 MP4V-ES/90000\n", ("mpeg4",), False),
        (b"\xff\xfe nonsense", (), False),
    ],
)  # fmt: skip
def test_descriptions_are_read(sdp: bytes, codecs: tuple[str, ...], audio: bool) -> None:
    assert read_description(sdp) == (codecs, audio)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("html", Nonsense), ("empty", Nonsense), ("garbage", Nonsense), ("error-text", Rejected), ("hang", Unreachable),
        ("close", Unreachable), ("truncate", Nonsense), ("404", Unsupported), ("503", Busy), ("oversized", Nonsense), ("500", ToolError),
    ],
)  # fmt: skip
async def test_a_faulty_answer_is_an_error_and_leaves_no_file(
    use: Use, camera: Camera, store: CaptureStore, monkeypatch: pytest.MonkeyPatch, fault: Any, error: type[Exception]
) -> None:
    monkeypatch.setattr(video, "MOST_SNAPSHOT_BYTES", 1 << 20)
    camera.device.faults.add(IMAGE_CGI, Fault(fault, count=None, size=2 << 20))
    with pytest.raises(error):
        await use("snapshot", timeout=2)
    assert store.files() == []


async def test_a_wrong_password_is_tried_once_and_never_shown(ask: Ask, camera: Camera) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(camera, action="snapshot", password="s3cret-wrong")
    assert "s3cret-wrong" not in repr(caught.value) and not isinstance(caught.value, Forbidden)
    assert len([one for one in camera.requests if one.credentials]) == 1


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"action": "snapshot", "codec": "h264"}, "codec does not go with action snapshot; it goes with urls, check"),
        ({"action": "offers", "seconds": 5}, "seconds does not go with action offers; it goes with clip"),
        ({"action": "clip", "seconds": 61}, "less than or equal to 60"),
        ({"action": "clip", "targets": [f"10.0.0.{n}" for n in range(1, 18)]}, "at most 16 targets"),
        ({"action": "urls", "codec": "mjpeg"}, "'h264', 'h265', 'av1', 'mpeg4' or 'jpeg'"),
        ({"action": "urls", "resolution": "big!"}, "match pattern"),
        ({"action": "urls", "profile": "a\nb"}, "control characters"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_what_is_right(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        VapixVideoStreaming(**{"targets": ["10.0.0.1"], "credentials": "axis/yard", **params})


# --- parsers ---------------------------------------------------------------------------------------------------------

JPEGS = [draw(Look(64, 36, lines=(str(number),))) for number in range(3)]


@st.composite
def streams(draw_from: Any) -> tuple[bytes, list[bytes]]:
    """A multipart stream whose lengths are right, missing or wrong, and the pictures in it."""
    chosen = draw_from(st.lists(st.sampled_from(JPEGS), max_size=5))
    stream = draw_from(st.sampled_from([b"", b"\r\n", b"preamble\r\n"])) + b"--b\r\n"
    for data in chosen:
        length = draw_from(
            st.sampled_from(
                [len(data), None, 0, 1, len(data) - 1, len(data) + 1, len(data) + 2, len(data) + 500, 10**9]
            )
        )
        head = b"Content-Type: image/jpeg\r\n" + (b"" if length is None else b"Content-Length: %d\r\n" % length)
        stream += head + b"\r\n" + data + b"\r\n--b\r\n"
    return stream, chosen


def read(stream: bytes, sizes: list[int], boundary: bytes = b"b", most: int = 1 << 20) -> list[Frame]:
    reader, found, at = MultipartReader(boundary, most), [], 0
    while at < len(stream):
        size = sizes[at % len(sizes)] if sizes else len(stream)
        found += reader.feed(stream[at : at + size])
        at += size
    return found + reader.finish()


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(st.integers(1, 2000), max_size=5))
def test_every_picture_comes_out_whole_however_the_stream_is_cut(
    stream: tuple[bytes, list[bytes]], sizes: list[int]
) -> None:
    data, expected = stream
    assert [frame.data for frame in read(data, sizes)] == expected
    assert all(frame.whole for frame in read(data, sizes))


SCRAPS = [
    b"--b\r\n",
    b"--b--",
    b"\r\n",
    b"\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999",
    b"abc",
    JPEGS[0][:40],
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(SCRAPS), max_size=30).map(b"".join) | st.binary(max_size=200),
    st.lists(st.integers(1, 40), max_size=4),
)
def test_any_bytes_are_read_the_same_however_they_are_cut(data: bytes, sizes: list[int]) -> None:
    assert read(data, sizes, most=64) == read(data, [], most=64)


@given(st.text(max_size=80))
def test_any_content_type_is_looked_at_without_an_error(text: str) -> None:
    boundary_of(text)
    boundary_of(f"multipart/x-mixed-replace; {text}")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("multipart/x-mixed-replace; boundary=myboundary", b"myboundary"),
        ('multipart/x-mixed-replace;boundary="--myboundary"', b"myboundary"),
        ("Multipart/X-Mixed-Replace; Boundary = a; charset=x", b"a"),
        ("text/html; boundary=a", None),
        ("multipart/x-mixed-replace", None),
    ],
)
def test_the_boundary_is_found_in_any_spelling(header: str, token: bytes | None) -> None:
    assert boundary_of(header) == token


def test_a_part_larger_than_allowed_is_passed_over_without_being_kept() -> None:
    reader = MultipartReader(b"b", 1000)
    for _ in range(100):
        assert reader.feed(b"--b\r\n\r\n" + b"x" * 5000 if not reader.too_large else b"x" * 5000) == []
        assert len(reader._buffer) < 8000
    assert reader.too_large >= 1
    assert [frame.data for frame in reader.feed(b"\r\n--b\r\n\r\nsmall\r\n--b\r\n")] == [b"small"]


@settings(deadline=None)
@given(st.binary(max_size=300) | st.integers(0, len(JPEGS[0])).map(lambda cut: JPEGS[0][:cut]))
def test_any_bytes_are_looked_at_as_a_picture_without_an_error(data: bytes) -> None:
    size = dimensions(data)
    assert size is None or (is_jpeg(data) and size[0] > 0)
    assert light_of(data) is None or size is not None
    is_whole(data)


def test_a_picture_that_says_it_is_enormous_is_not_decoded() -> None:
    data = bytearray(JPEGS[0])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert dimensions(bytes(data)) == (65535, 65535) and light_of(bytes(data)) is None


def test_urls_are_escaped_and_name_unusual_ports() -> None:
    assert (
        url("http", "2001:db8::1", 8080, "/a", {"streamprofile": "A&b=c"})
        == "http://[2001:db8::1]:8080/a?streamprofile=A%26b%3Dc"
    )


def test_a_picture_made_to_take_all_memory_is_not_decoded() -> None:
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "JPEG", progressive=True)
    data = picture.getvalue()
    place = data.index(b"\xff\xc2") + 5  # height and width in the frame header
    for wide, high, decoded in ((8, 8, True), (7000, 7000, False), (65_000, 65_000, False)):
        said = data[:place] + high.to_bytes(2, "big") + wide.to_bytes(2, "big") + data[place + 4 :]
        assert (light_of(said) is not None) is decoded


async def test_a_password_that_rtsp_refused_is_not_tried_again_over_http_nor_the_other_way_round(
    ask: Ask, camera: Camera
) -> None:
    check: dict[str, Any] = {"action": "check", "rtsp_port": camera.rtsp_port}
    for number, asked in enumerate((check, {"action": "offers"}, check)):
        with pytest.raises(Unauthorized, match="a moment ago" if number else "RTSP server"):
            await ask(camera, password="wrong", **asked)
    assert [request.status for request in camera.requests if request.credentials] == [401]


async def test_a_stream_of_another_device_gets_no_credentials(use: Use, camera: Camera) -> None:
    camera.device.auth.realm = "Recorder"
    seen = await use("check", rtsp_port=camera.rtsp_port, serial=camera.device.serial)
    assert seen.answers is False and f"does not say that it is {camera.device.serial}" in str(seen.note)
    assert not [request for request in camera.requests if request.credentials]
