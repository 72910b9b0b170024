"""`vapix_video_streaming`: what video cameras offer, where it is, and pictures of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import Busy, InvalidParameters, NotFound, Refused, Rejected, ToolError, Unreachable, Unsupported
from tasks.core.models import Example, FileRef, Safety, Scope, Service
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._picture import dimensions, is_jpeg, is_whole, light_of
from tasks.network.vapix._video_check import StreamCheck
from tasks.network.vapix._video_clip import SILENCE_SECONDS, Clip, no_picture, record, store_error
from tasks.network.vapix._video_offers import (
    MEDIA,
    MJPEG,
    RTSP_PORT,
    SNAPSHOT,
    Offers,
    picture_arguments,
    read_offers,
    url,
)
from tasks.network.vapix._wire import Nonsense

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

MOST_SNAPSHOT_BYTES: Final = 20 << 20
QUESTIONS_SECONDS: Final = 60.0
"""For everything but a clip's own time."""
MOST_CLIP_SECONDS: Final = 60.0
MOST_CLIPS: Final = 16
"""Cameras recorded at once: each has its room in the store promised first."""
DARK_MEAN, DARK_DEVIATION = 12.0, 4.0
"""Below both a picture is called dark: a covered lens gives 0 to 5 with a deviation below 2, a street at night more than 10 or lamps."""


class VideoAction(StrEnum):
    """What to do."""

    OFFERS = "offers"
    URLS = "urls"
    SNAPSHOT = "snapshot"
    CLIP = "clip"
    CHECK = "check"


_TAKES: Mapping[str, tuple[VideoAction, ...]] = {
    "codec": (VideoAction.URLS, VideoAction.CHECK),
    "resolution": (VideoAction.URLS, VideoAction.CHECK, VideoAction.SNAPSHOT, VideoAction.CLIP),
    "fps": (VideoAction.URLS, VideoAction.CHECK, VideoAction.CLIP),
    "compression": (VideoAction.URLS, VideoAction.SNAPSHOT, VideoAction.CLIP),
    "profile": (VideoAction.URLS, VideoAction.CHECK, VideoAction.SNAPSHOT, VideoAction.CLIP),
    "seconds": (VideoAction.CLIP,),
    "frames": (VideoAction.CLIP,),
    "size_bytes": (VideoAction.CLIP,),
    "rtsp_port": (VideoAction.URLS, VideoAction.CHECK),
}


class VapixVideoStreaming(CameraParams):
    """Parameters of `vapix_video_streaming`."""

    action: VideoAction = Field(
        VideoAction.OFFERS,
        description="offers: codecs, resolutions, views, profiles. urls: where the streams are, without credentials. snapshot: a picture "
        f"into the store. clip: up to a minute of pictures into the store, from at most {MOST_CLIPS} cameras. check: whether the stream "
        "answers over RTSP.",
    )
    view: int = Field(1, ge=1, le=64, description="View of the camera, 1 to 64; most have one.")
    codec: Literal["h264", "h265", "av1", "mpeg4", "jpeg"] | None = Field(
        None, description="urls and check: video codec, h264, h265, av1, mpeg4 or jpeg. None: the camera's choice."
    )
    resolution: str | None = Field(
        None,
        pattern=r"^\d{2,5}x\d{2,5}$",
        description="Width and height in pixels such as 1280x720; one that offers lists.",
    )
    fps: int | None = Field(
        None, ge=0, le=240, description="urls, check and clip: pictures a second, 0 to 240; 0 is as many as there are."
    )
    compression: int | None = Field(
        None, ge=0, le=100, description="urls, snapshot and clip: compression, 0 to 100; higher is smaller and worse."
    )
    profile: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Name of a stream profile of the camera, whose settings then hold.",
    )
    seconds: float | None = Field(
        None, ge=0.5, le=MOST_CLIP_SECONDS, description="clip: longest time, 0.5 to 60 seconds; 5 when not given."
    )
    frames: int | None = Field(None, ge=1, le=5000, description="clip: most pictures, 1 to 5000; 1000 when not given.")
    size_bytes: int | None = Field(
        None, ge=64 << 10, le=512 << 20, description="clip: most bytes, 64 KiB to 512 MiB; 32 MiB when not given."
    )
    rtsp_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="urls and check: TCP port of RTSP, 1 to 65535; the camera says it when not given.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, actions in _TAKES.items():
            if getattr(self, name) is not None and self.action not in actions:
                raise ValueError(f"{name} does not go with action {self.action}; it goes with {', '.join(actions)}")
        if self.profile is not None and not self.profile.isprintable():
            raise ValueError("profile: a name has no control characters")
        if self.action is VideoAction.CLIP and len(self.targets) > MOST_CLIPS:
            raise ValueError(f"action clip takes at most {MOST_CLIPS} targets; give it fewer at once")
        return self

    def scope(self) -> Scope:
        scope = super().scope()
        if self.action is not VideoAction.CHECK:
            return scope
        return Scope(
            targets=scope.targets,
            ports=tuple(sorted({*scope.ports, self.rtsp_port or RTSP_PORT})),
            packets_per_second=scope.packets_per_second,
            least_packets_per_second=scope.least_packets_per_second,
        )

    def camera_seconds(self) -> float:
        """Most seconds with each camera."""
        if self.action is not VideoAction.CLIP:
            return QUESTIONS_SECONDS
        return QUESTIONS_SECONDS + (self.seconds or 5.0) + SILENCE_SECONDS

    def deadline(self) -> float:
        return fleet_timeout(self.camera_seconds(), len(self.targets))

    def arguments(self) -> dict[str, str]:
        """The arguments of the picture functions."""
        return picture_arguments(
            view=self.view,
            resolution=self.resolution,
            fps=self.fps,
            compression=self.compression,
            profile=self.profile,
        )


class VideoView(BaseModel):
    """A view of a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(description="Its number, from 1.")
    name: str = Field(description="Its name, as the camera says.")
    enabled: bool = Field(description="Whether it is switched on.")


class VideoUrls(BaseModel):
    """Where a camera's video is. Who opens one logs in with an account of the camera: none is in here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rtsp: str = Field(description="RTSP.")
    rtsps: str | None = Field(None, description="RTSP over TLS; None where the camera has it switched off.")
    mjpeg: str | None = Field(None, description="JPEG pictures over HTTP; None for other codecs.")
    snapshot: str = Field(description="A single picture over HTTP.")


class Picture(BaseModel):
    """A snapshot in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileRef = Field(description="The picture, JPEG.")
    width: int | None = Field(description="Pixels; None when its header does not say.")
    height: int | None = Field(description="Pixels; None when its header does not say.")
    taken_at: datetime = Field(description="When it came, UTC.")
    mean: float | None = Field(description="Its brightness, 0 (black) to 255; None when it cannot be decoded.")
    deviation: float | None = Field(description="How much that differs from place to place, as a standard deviation.")
    dark: bool = Field(description="Whether it shows nothing: dark and even, as with a covered lens.")
    whole: bool = Field(description="Whether it ends as a JPEG does.")


class ClipEntry(BaseModel):
    """A recording in the store: JPEG pictures one behind the other, which players call raw MJPEG."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileRef = Field(description="The pictures.")
    frames: int = Field(description="Whole pictures in it.")
    broken: int = Field(description="Pictures left out: they came in part, or were too large.")
    odd_lengths: int = Field(description="Pictures whose length the camera did not say, or said wrong.")
    seconds: float = Field(description="From the first picture to the last, seconds.")
    fps: float | None = Field(description="Pictures a second that came; None for a single one.")
    width: int | None = Field(description="Pixels.")
    height: int | None = Field(description="Pixels.")
    ended_by: str = Field(description="duration, frames, size, camera (it ended the stream) or trouble.")


class VideoCamera(CameraEntry):
    """One camera's video."""

    view: int = Field(1, description="The view, from 1.")
    codecs: list[str] = Field(default_factory=list, description="Codecs it offers; with check, those it describes.")
    resolutions: list[str] = Field(default_factory=list, description="Resolutions it offers, as it lists them.")
    views: list[VideoView] = Field(default_factory=list, description="Its views.")
    profiles: list[str] = Field(default_factory=list, description="Names of its stream profiles.")
    most_viewers: int | None = Field(None, description="How many may watch at once.")
    api: str | None = Field(None, description="API the profiles come from.")
    urls: VideoUrls | None = Field(None, description="Where its video is.")
    picture: Picture | None = Field(None, description="The snapshot.")
    clip: ClipEntry | None = Field(None, description="The recording.")
    answers: bool | None = Field(None, description="With check: whether the stream answers.")
    milliseconds: float | None = Field(None, description="With check: from the connection to the description.")
    audio: bool | None = Field(None, description="With check: whether sound is described too.")
    note: str | None = Field(None, description="What a person should know.")


class VapixVideoStreamingResult(CamerasResult):
    """What the cameras offer, or their pictures."""

    action: VideoAction = Field(description="What was done.")
    cameras: list[VideoCamera] = Field(description="A camera each, in the order asked.")

    def headline(self) -> str:
        text = super().headline()
        dark = sum(camera.picture is not None and camera.picture.dark for camera in self.cameras)
        return f"{text}; {dark} DARK" if dark and len(self.cameras) > 1 else text

    def one_line(self, camera: VideoCamera) -> str:
        if camera.outcome is not CameraOutcome.DONE:
            return super().one_line(camera)
        said = f"{self.action} done"
        if camera.picture is not None:
            one = camera.picture
            said = f"{one.width}x{one.height}, {count(one.file.size_bytes, 'byte')}, brightness {one.mean}"
            said += ", DARK" if one.dark else ""
        elif camera.clip is not None:
            clip = camera.clip
            size = count(clip.file.size_bytes, "byte")
            said = f"{count(clip.frames, 'picture')} in {clip.seconds:.1f} s, {size}, ended by {clip.ended_by}"
        elif camera.urls is not None:
            said = camera.urls.rtsp
        elif self.action is VideoAction.CHECK:
            said = "the stream DOES NOT ANSWER"
            if camera.answers:
                said = f"the stream answers with {', '.join(camera.codecs)} in {camera.milliseconds or 0:.0f} ms"
        elif self.action is VideoAction.OFFERS:
            said = f"{', '.join(camera.codecs)}; {count(len(camera.resolutions), 'resolution')}, {count(len(camera.profiles), 'profile')}"
        return f"{camera.target}: {said}; {camera.note}" if camera.note else f"{camera.target}: {said}"


Fields = dict[str, Any]


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=fleet_timeout(QUESTIONS_SECONDS + MOST_CLIP_SECONDS + SILENCE_SECONDS),
    retries=1,
    aliases=("axis_vapix_video_streaming",),
    examples=[
        Example("What a camera offers", {"targets": ["192.168.1.20"], "credentials": "axis/yard"}),
        Example(
            "A small picture of two cameras",
            {
                "targets": ["192.168.1.20", "192.168.1.21"],
                "credentials": "axis/yard",
                "action": "snapshot",
                "resolution": "640x360",
            },
        ),
        Example(
            "The URL of a stream for a player",
            {
                "targets": ["192.168.1.20"],
                "credentials": "axis/yard",
                "action": "urls",
                "codec": "h264",
                "resolution": "1280x720",
                "fps": 10,
            },
        ),
        Example(
            "Ten seconds of pictures",
            {
                "targets": ["192.168.1.20"],
                "credentials": "axis/yard",
                "action": "clip",
                "seconds": 10,
                "fps": 5,
            },
        ),
        Example(
            "Do the streams answer",
            {"targets": ["192.168.1.20", "192.168.1.21"], "credentials": "axis/yard", "action": "check"},
        ),
    ],
)
async def vapix_video_streaming(params: VapixVideoStreaming) -> VapixVideoStreamingResult:
    """Say what video Axis cameras offer and where, and take pictures of it.

    Codec, resolution, view and profile are compared with what the camera offers, so that an error says what would be right. URLs never
    hold credentials. A snapshot goes to the site's store, with its size, its time, and how bright and how even it is: a picture that is
    dark all over is a covered lens or a switched-off light. A clip is bounded in time, pictures and bytes; whatever ends it, the whole
    pictures that came are kept. `check` asks for the description of the stream over RTSP, on one connection, and plays nothing.
    Pictures show people: look at them only for a reason, and let the store's retention remove them.

    Raises:
        InvalidParameters: The camera does not offer what was asked for; says what it offers.
        Unsupported: The camera has no video, or not over this way.
        Rejected: The camera refuses.
        Nonsense: What came is no picture.
        Busy: The camera has no room for another viewer, or the store none for the file.
        Unauthorized: The account is refused, or its level too low.
        Unreachable: The camera does not answer.
    """

    async def act(camera: Camera) -> Fields:
        return await _ACTIONS[params.action](camera, params)

    seen = await each_camera(params, act, seconds=params.camera_seconds())
    result = VapixVideoStreamingResult(
        action=params.action, cameras=[entry(VideoCamera, one, view=params.view, **(one.value or {})) for one in seen]
    )
    return await fitting(
        result,
        (
            "views",
            "profiles",
            "resolutions",
            "address",
            "firmware",
            "model",
            "codecs",
            "serial",
            "urls",
            "clip",
            "picture",
        ),
    )


async def _offers(camera: Camera, params: VapixVideoStreaming) -> Fields:
    offers = await read_offers(camera)
    return {
        "codecs": list(offers.codecs),
        "resolutions": list(offers.resolutions),
        "views": [VideoView(number=view.number, name=view.name, enabled=view.enabled) for view in offers.views],
        "profiles": list(offers.profiles or ()),
        "most_viewers": offers.most_viewers,
        "api": offers.api,
    }


async def _urls(camera: Camera, params: VapixVideoStreaming) -> Fields:
    offers = await _checked_offers(camera, params)
    scheme = "https" if camera.secure else "http"
    pictures = {name: value for name, value in params.arguments().items() if name != "fps"}
    mjpeg = params.codec in {None, "jpeg"}
    urls = VideoUrls(
        rtsp=url("rtsp", camera.asked, params.rtsp_port or offers.rtsp_port, MEDIA, _stream_arguments(params)),
        rtsps=url("rtsps", camera.asked, offers.rtsps_port, MEDIA, _stream_arguments(params))
        if offers.rtsps_port is not None
        else None,
        mjpeg=url(scheme, camera.asked, camera.port, MJPEG, params.arguments()) if mjpeg else None,
        snapshot=url(scheme, camera.asked, camera.port, SNAPSHOT, pictures),
    )
    return {"urls": urls, "note": _RTSP_OFF if offers.rtsp_on is False else None}


_RTSP_OFF = "RTSP is switched off on this camera (Network.RTSP.Enabled is no)."


def _stream_arguments(params: VapixVideoStreaming) -> dict[str, str]:
    codec = {"videocodec": params.codec} if params.codec is not None else {}
    return {**codec, **params.arguments()}


async def _checked_offers(camera: Camera, params: VapixVideoStreaming) -> Offers:
    offers = await read_offers(camera, profiles=params.profile is not None)
    offers.check(view=params.view, codec=params.codec, resolution=params.resolution, profile=params.profile)
    return offers


async def _check(camera: Camera, params: VapixVideoStreaming) -> Fields:
    port = params.rtsp_port
    if port is None or params.codec or params.resolution or params.profile or params.view > 1:
        offers = await _checked_offers(camera, params)
        port = port or offers.rtsp_port
        if offers.rtsp_on is False:
            return {"answers": False, "note": _RTSP_OFF}
    if current_run().policy.is_never_port(port):
        raise Refused(
            f"The camera has its RTSP on port {port}, which must never be touched (never_ports of the site's policy).",
            hint=f"If you know what listens there: signalbox policy ports --open {port}",
        )
    place = camera.rtsp_place(port)
    check = StreamCheck(place, timeout=params.timeout)
    try:
        described = await check.describe(url("rtsp", place.address, port, MEDIA, _stream_arguments(params)))
    except (Unreachable, NotFound, Rejected, Busy, Nonsense, Unsupported) as error:
        return {"answers": False, "note": str(error)}  # that is what was asked
    return {
        "answers": True,
        "codecs": list(described.codecs),
        "audio": described.audio,
        "milliseconds": described.milliseconds,
    }


async def _snapshot(camera: Camera, params: VapixVideoStreaming) -> Fields:
    try:
        answer = await camera.fetch(SNAPSHOT, params.arguments(), max_bytes=MOST_SNAPSHOT_BYTES, timeout=params.timeout)
        if not is_jpeg(answer.body):
            raise no_picture(answer.body, answer.headers.get("content-type", ""))
    except (Rejected, Unsupported, Nonsense) as error:
        raise await _explained(camera, params, error) from None
    taken_at = datetime.now(UTC)
    size = dimensions(answer.body)
    # Decoding is a few milliseconds of C code that lets other threads run, for a thirtieth of the picture's pixels.
    light = await asyncio.to_thread(light_of, answer.body)
    run = current_run()
    store = await run.store()
    try:
        stored = await asyncio.to_thread(store.write, _name(params, camera.asked, "jpg"), answer.body)
    except OSError as error:
        raise store_error(error) from None
    dark = light is not None and light.mean < DARK_MEAN and light.deviation < DARK_DEVIATION
    picture = Picture(
        file=run.file_ref(stored),
        width=size[0] if size else None,
        height=size[1] if size else None,
        taken_at=taken_at,
        mean=light.mean if light else None,
        deviation=light.deviation if light else None,
        dark=dark,
        whole=is_whole(answer.body),
    )
    note = None if light is not None else "The picture cannot be decoded."
    return {"picture": picture, "note": "The picture shows nothing: is the lens covered?" if dark else note}


async def _explained(camera: Camera, params: VapixVideoStreaming, error: ToolError) -> ToolError:
    """A better reason, where the camera does not offer what was asked for."""
    try:
        await _checked_offers(camera, params)
    except (InvalidParameters, Unsupported) as better:
        return better
    except ToolError:
        pass  # the first reason stays
    return error


async def _clip(camera: Camera, params: VapixVideoStreaming) -> Fields:
    try:
        clip = await record(
            camera,
            params.arguments(),
            name=_name(params, camera.asked, "mjpeg"),
            seconds=params.seconds or 5.0,
            frames=params.frames or 1000,
            size_bytes=params.size_bytes or 32 << 20,
        )
    except (Rejected, Unsupported, Nonsense) as error:
        raise await _explained(camera, params, error) from None
    return {"clip": _recorded(clip), "note": _about(clip)}


def _recorded(clip: Clip) -> ClipEntry:
    return ClipEntry(
        file=clip.file,
        frames=clip.frames,
        broken=clip.broken,
        odd_lengths=clip.odd_lengths,
        seconds=clip.seconds,
        fps=round((clip.frames - 1) / clip.seconds, 2) if clip.frames > 1 and clip.seconds > 0 else None,
        width=clip.width,
        height=clip.height,
        ended_by=clip.ended_by,
    )


def _about(clip: Clip) -> str | None:
    said = []
    if clip.trouble:
        said.append(f"It ended early: {clip.trouble[:300]}")
    if clip.broken:
        said.append(f"{clip.broken} pictures came in part and were left out.")
    if clip.odd_lengths:
        said.append(f"The camera said no or a wrong length for {clip.odd_lengths} pictures.")
    return " ".join(said) or None


def _name(params: VapixVideoStreaming, target: str, kind: str) -> str:
    """The file's name in the store: by day and run, then the camera, by its place among the targets so that no two are one."""
    run = current_run()
    place = params.targets.index(target) + 1
    word = re.sub(r"[^A-Za-z0-9.-]+", "-", target).strip("-.")[:80] or "camera"
    return f"{run.spec.name}/{datetime.now(UTC):%Y-%m-%d}/{run.id}-{run.attempt}/{place:03d}-{word}.{kind}"


_ACTIONS: Mapping[VideoAction, Callable[..., Awaitable[Fields]]] = {
    VideoAction.OFFERS: _offers,
    VideoAction.URLS: _urls,
    VideoAction.SNAPSHOT: _snapshot,
    VideoAction.CLIP: _clip,
    VideoAction.CHECK: _check,
}
