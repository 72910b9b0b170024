"""Pictures: image.cgi, the MJPEG stream, imagesize.cgi and videostatus.cgi."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from deployments.demo.axis_camera._api_ptz import head_of
from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._messages import Answer, Request, Response, StreamResponse
from deployments.demo.axis_camera._overlay_state import Overlays
from deployments.demo.axis_camera._picture_drawing import Look, draw
from deployments.demo.axis_camera._server import api

IMAGE_CGI = "/axis-cgi/jpg/image.cgi"
MJPEG_CGI = "/axis-cgi/mjpg/video.cgi"
BOUNDARY = "myboundary"
FASTEST = 25.0
"""Pictures a second where none are asked for."""

CIF = {"D1": "720x576", "4CIF": "704x576", "2CIFEXP": "704x576", "2CIF": "704x288", "CIF": "352x288", "QCIF": "176x144"}
"""What the names of old cameras mean, at 50 fields a second."""

StreamFault = Literal[
    "missing-length", "wrong-length", "short-length", "mid-frame", "reset", "quoted", "dashed", "no-boundary", "frozen"
]


@dataclass
class Media:
    """How a camera's pictures behave; `device.slot(Media)`.

    Attributes:
        device: The camera.
        black: The lens is covered: the pictures are black.
        signal: Whether there is video at the source, as videostatus.cgi says.
        stream_fault: What is wrong with the MJPEG stream: no or a wrong Content-Length (too large, too short), an end in the middle of the
            third picture (or a reset there), a boundary in quotes, with its dashes, or not named at all, or silence after two pictures.
        picture: Bytes that are sent in place of any picture.
        refuse_sizes: Answer a resolution it does not offer with 400; else with the nearest it has.
    """

    device: Device
    black: bool = False
    signal: bool = True
    stream_fault: StreamFault | None = None
    picture: bytes | None = None
    refuse_sizes: bool = True
    viewers: int = 0


class _Refused(Exception):
    """The answer in place of a picture."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self.answer = answer


def _comment(text: str) -> Response:
    """How the image functions say no with status 200."""
    return Response(200, f"<!-- {text} -->\n".encode(), "text/html")


@api(IMAGE_CGI, level="viewer", needs="video")
async def image(device: Device, request: Request) -> Response:
    """One picture."""
    try:
        return Response(200, picture(device, request.query), "image/jpeg")
    except _Refused as refused:
        return refused.answer


@api(MJPEG_CGI, level="viewer", needs="video")
async def video(device: Device, request: Request) -> Answer:
    """Pictures one after the other, endless unless told otherwise."""
    media = device.slot(Media)
    try:
        arguments = _arguments(device, request.query)
        picture(device, request.query)
        fps, duration, frames = (_number(arguments, name) for name in ("fps", "duration", "nbrofframes"))
    except _Refused as refused:
        return refused.answer
    if media.viewers >= device.params.number("Image.MaxViewers", 20):
        return Response.page(503)
    boundary = {"quoted": f'"{BOUNDARY}"', "dashed": f"--{BOUNDARY}"}.get(media.stream_fault or "", BOUNDARY)
    kind = "multipart/x-mixed-replace" + ("" if media.stream_fault == "no-boundary" else f"; boundary={boundary}")
    return StreamResponse(_parts(device, request.query, min(fps or FASTEST, FASTEST), duration, int(frames)), kind)


async def _parts(
    device: Device, query: Mapping[str, str], fps: float, duration: float, frames: int
) -> AsyncIterator[bytes]:
    media = device.slot(Media)
    media.viewers += 1
    began, number = time.monotonic(), 0
    try:
        yield f"--{BOUNDARY}\r\n".encode()
        while not (frames and number >= frames) and not (duration and time.monotonic() - began >= duration):
            data = picture(device, query)
            number += 1
            if media.stream_fault in {"mid-frame", "reset"} and number == 3:
                yield _head(media, data) + data[: len(data) // 2]
                if media.stream_fault == "reset":
                    await asyncio.sleep(0.05)
                    device.disconnect()
                return
            yield _head(media, data) + data + f"\r\n--{BOUNDARY}\r\n".encode()
            if media.stream_fault == "frozen" and number == 2:
                await asyncio.sleep(3600)
            await asyncio.sleep(max(0.0, began + number / fps - time.monotonic()))
    finally:
        media.viewers -= 1


def _head(media: Media, data: bytes) -> bytes:
    length = {"missing-length": None, "wrong-length": len(data) + 1000, "short-length": len(data) // 2}.get(
        media.stream_fault or "", len(data)
    )
    said = f"Content-Length: {length}\r\n" if length is not None else ""
    return f"Content-Type: image/jpeg\r\n{said}\r\n".encode()


@api("/axis-cgi/imagesize.cgi", level="viewer", needs="video")
async def imagesize(device: Device, request: Request) -> Response:
    """The size a picture would have."""
    try:
        look = _look(device, request.query)
    except _Refused as refused:
        return refused.answer
    width, height = (look.height, look.width) if look.rotation in {90, 270} else (look.width, look.height)
    return Response.text(f"image width = {width}\nimage height = {height}\n")


@api("/axis-cgi/videostatus.cgi", level="viewer", needs="video")
async def videostatus(device: Device, request: Request) -> Response:
    """Whether there is video at each source asked about."""
    state = "video" if device.slot(Media).signal else "no video"
    asked = [one for one in request.query.get("status", "").split(",") if one.isdigit()]
    lines = [
        f"Video {one} = {state}"
        for one in asked
        if 1 <= int(one) <= device.params.number("ImageSource.NbrOfSources", 1)
    ]
    return Response.text("\n".join(lines) + "\n" if lines else "Error: invalid source\n")


# --- what a picture shows --------------------------------------------------------------------------------------------


def picture(device: Device, query: Mapping[str, str]) -> bytes:
    """The JPEG these arguments ask for."""
    look = _look(device, query)
    media = device.slot(Media)
    return media.picture if media.picture is not None else draw(look)


def _arguments(device: Device, query: Mapping[str, str]) -> dict[str, str]:
    """The arguments, with those of the stream profile behind them."""
    name = query.get("streamprofile")
    if not name:
        return dict(query)
    for entry in device.params.entries("StreamProfile", "S"):
        if device.params.get(f"StreamProfile.{entry}.Name") == name:
            stored = dict(parse_qsl(device.params.get(f"StreamProfile.{entry}.Parameters")))
            return {**stored, **query}
    raise _Refused(_comment(f"Stream profile {name[:40]} not available."))


def _look(device: Device, query: Mapping[str, str]) -> Look:
    params, arguments = device.params, _arguments(device, query)
    view = arguments.get("camera", "1")
    number = int(view) if view.isdigit() else 0
    if not 1 <= number <= device.profile.views or not params.flag(f"Image.I{number - 1}.Enabled"):
        raise _Refused(_comment(f"Camera {view[:10]} not available."))
    appearance = f"Image.I{number - 1}.Appearance"
    offered = params.get("Properties.Image.Resolution").split(",")
    size = arguments.get("resolution") or params.get(f"{appearance}.Resolution")
    if size not in offered:
        if device.slot(Media).refuse_sizes:
            raise _Refused(Response.html("<h1>400 Bad Request</h1>resolution", 400))
        size = offered[-1]
    width, _, height = CIF.get(size, size).partition("x")
    compression = _number(arguments, "compression", params.number(f"{appearance}.Compression", 30))
    rotation = _number(arguments, "rotation", params.number(f"{appearance}.Rotation"))
    if rotation not in {0, 90, 180, 270} or not 0 <= compression <= 100:
        raise _Refused(Response.html("<h1>400 Bad Request</h1>", 400))
    position = head_of(device).position() if device.has("ptz") else {}
    return Look(
        int(width),
        int(height),
        int(compression),
        int(rotation),
        round(position.get("pan", 0.0), 1),
        round(position.get("tilt", 0.0), 1),
        round(position.get("zoom", 1.0)),
        _lines(device, number, position),
        device.slot(Media).black,
        params.get("ImageSource.I0.DayNight.IrCutFilter") == "no" or params.get("PTZ.Various.V1.IrCutFilter") == "off",
    )


def _number(arguments: Mapping[str, str], name: str, default: float = 0) -> float:
    value = arguments.get(name, "")
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1e6:
        raise _Refused(Response.html("<h1>400 Bad Request</h1>", 400))
    return number


def _lines(device: Device, view: int, position: Mapping[str, float]) -> tuple[str, ...]:
    """What is written on the picture. Of its own the camera writes time and direction, so that a test (and a person) sees both."""
    now = device.now()
    lines = [f"{device.model}  view {view}  {now:%Y-%m-%d %H:%M:%S}"]
    if position:
        lines.append(f"pan {position['pan']:.1f}  tilt {position['tilt']:.1f}  zoom {position['zoom']:.0f}")
    text = f"Image.I{view - 1}.Text"
    if device.params.flag(f"{text}.TextEnabled"):
        lines.append(device.params.get(f"{text}.String"))
    for overlay in device.slot(Overlays).texts.values():
        if overlay.get("camera") == view and overlay.get("visible", True):
            written = str(overlay.get("text", ""))
            lines += (
                written.replace("%F", f"{now:%Y-%m-%d}")
                .replace("%X", f"{now:%H:%M:%S}")
                .replace("%D", f"{now:%Y-%m-%d}")
                .splitlines()
            )
    return tuple(lines)
