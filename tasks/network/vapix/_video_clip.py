"""Records a stream of JPEG pictures for a while: bounded in time, pictures and bytes, and what came before an end is kept."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tasks.core.errors import Busy, CommandFailed, Rejected, ToolError
from tasks.core.models import FileRef
from tasks.core.run import current_run
from tasks.network.vapix._mjpeg import Frame, MultipartReader, boundary_of
from tasks.network.vapix._picture import dimensions
from tasks.network.vapix._video_offers import MJPEG
from tasks.network.vapix._wire import Nonsense, said

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

MOST_FRAME_BYTES: Final = 20 << 20
SILENCE_SECONDS: Final = 10.0
"""Longest wait for the next bytes; a camera at one picture a second is not silent."""


@dataclass(frozen=True)
class Clip:
    """What was recorded.

    Attributes:
        file: The pictures, one JPEG behind the other: what players call raw MJPEG.
        frames: Whole pictures in it.
        broken: Pictures that came in part, or were larger than any, and were left out.
        odd_lengths: Pictures whose Content-Length was missing or wrong.
        seconds: From the first picture to the last.
        width, height: Of the first picture, pixels.
        ended_by: `duration`, `frames`, `size`, `camera` (it ended the stream) or `trouble`.
        trouble: Why it ended early.
    """

    file: FileRef
    frames: int
    broken: int
    odd_lengths: int
    seconds: float
    width: int | None
    height: int | None
    ended_by: str
    trouble: str | None


class _Full(Exception):
    """The recording has all it may have."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Recorder:
    def __init__(self, descriptor: int, *, frames: int, size_bytes: int) -> None:
        self.descriptor, self.most_frames, self.most_bytes = descriptor, frames, size_bytes
        self.frames = self.broken = self.odd_lengths = self.written = 0
        self.first: Frame | None = None
        self.began = self.last = 0.0

    def take(self, frame: Frame) -> None:
        """Keep a picture.

        Raises:
            _Full: There is no room for it, or it was the last.
        """
        self.odd_lengths += frame.length != "as_said"
        if not frame.whole:
            self.broken += 1
            return
        if self.written + len(frame.data) > self.most_bytes:
            raise _Full("size")
        view = memoryview(frame.data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self.written += len(frame.data)
        self.last = time.monotonic()
        if self.first is None:
            self.first, self.began = frame, self.last
        self.frames += 1
        if self.frames >= self.most_frames:
            raise _Full("frames")


async def record(
    camera: Camera, arguments: Mapping[str, str], *, name: str, seconds: float, frames: int, size_bytes: int
) -> Clip:
    """Record a camera's MJPEG stream into the store.

    Args:
        camera: The camera; others may talk with it meanwhile.
        arguments: Of the stream.
        name: Of the file in the store.
        seconds: Longest time.
        frames: Most pictures.
        size_bytes: Most bytes of the file; the store promises that room first.

    Raises:
        Busy: The store has no room, or the camera none for another viewer.
        Nonsense: What came is no stream of pictures, or had none.
        ToolError: The stream did not begin, or ended before the first picture.
    """
    run = current_run()
    store = await run.store()
    try:
        path = store.new(name, expected_bytes=size_bytes, keep=True)
    except OSError as error:
        raise store_error(error) from None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    recorder = _Recorder(descriptor, frames=frames, size_bytes=size_bytes)
    stored = None
    try:
        try:
            ended_by, trouble, too_large = await _read(camera, arguments, recorder, seconds, frames)
        except OSError as error:
            if isinstance(error, ToolError):
                raise
            raise store_error(error) from None
        finally:
            # Also after a cancel: what was recorded until then is in the store.
            os.close(descriptor)
            if recorder.frames:
                stored = store.commit(path)
    finally:
        if stored is None:
            store.discard(path)
    if stored is None or recorder.first is None:
        raise Nonsense(
            "The camera's stream brought no whole picture.",
            hint=f"{recorder.broken + too_large} came in part or too large.",
        )
    size = dimensions(recorder.first.data)
    return Clip(
        file=run.file_ref(stored),
        frames=recorder.frames,
        broken=recorder.broken + too_large,
        odd_lengths=recorder.odd_lengths,
        seconds=round(recorder.last - recorder.began, 3),
        width=size[0] if size else None,
        height=size[1] if size else None,
        ended_by=ended_by,
        trouble=trouble,
    )


async def _read(
    camera: Camera, arguments: Mapping[str, str], recorder: _Recorder, seconds: float, frames: int
) -> tuple[str, str | None, int]:
    """Read the stream until an end of it; returns which, why early, and how many pictures were too large."""
    # The camera is told the bounds too, so that it stops sending when we do.
    query = {**arguments, "duration": str(max(1, round(seconds + 1))), "nbrofframes": str(frames)}
    await camera.let_go()
    ended_by, trouble = "camera", None
    async with camera.stream(MJPEG, query, seconds=seconds, idle=SILENCE_SECONDS) as stream:
        kind = stream.headers.get("content-type", "")
        boundary = boundary_of(kind)
        if boundary is None:
            raise await _no_stream(kind, stream)
        reader = MultipartReader(boundary, MOST_FRAME_BYTES)
        try:
            async for chunk in stream:
                for frame in reader.feed(chunk):
                    recorder.take(frame)
                if reader.ended:
                    break
            if stream.over:
                # The picture under way when the time is up is not broken: it is the next one.
                ended_by = "duration"
            else:
                for frame in reader.finish():
                    recorder.take(frame)
        except _Full as full:
            ended_by = full.why
        except ToolError as error:
            for frame in reader.finish():
                recorder.take(frame)
            if not recorder.frames:
                raise
            ended_by, trouble = "trouble", str(error)
    return ended_by, trouble, reader.too_large


async def _no_stream(kind: str, stream: object) -> ToolError:
    start = b""
    async for chunk in stream:  # type: ignore[attr-defined]
        start += chunk
        if len(start) >= 2048:
            break
    return no_picture(start, kind)


def no_picture(body: bytes, kind: str) -> ToolError:
    """What an answer in place of a picture means; the camera's functions say no in an HTML comment, with status 200."""
    text = body[:2048].decode("utf-8", "replace").strip()
    if text.startswith("<!--"):
        return Rejected(f"The camera says no: {said(text.removeprefix('<!--').partition('-->')[0].strip())}.")
    if text.lower().startswith(("error", "# error")):
        return Rejected(f"The camera says no: {said(text)}.")
    return Nonsense(f"The camera answers with {said(kind, 60) or 'something'} in place of a picture.")


def store_error(error: OSError) -> ToolError:
    """What the store's refusal means."""
    if error.errno in {errno.EDQUOT, errno.ENOSPC}:
        return Busy(f"{error.strerror}.", hint="See: signalbox capture list; make room: signalbox capture prune")
    return CommandFailed(f"The capture store cannot be written: {error.strerror}.")
