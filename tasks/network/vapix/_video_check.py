"""Does a camera's video stream answer? One connection, one DESCRIBE; nothing is played."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from tasks.core.errors import Rejected
from tasks.network.vapix._rtsp_events import RtspEvents
from tasks.network.vapix._wire import said

_ENCODINGS: Final = {"h264": "h264", "h265": "h265", "av1": "av1", "mp4v-es": "mpeg4", "jpeg": "jpeg"}
"""Names of RTP payload formats (the registry of RFC 4855), and as `videocodec` calls them."""


@dataclass(frozen=True)
class Described:
    """What the camera describes.

    Attributes:
        codecs: Of its video, as `videocodec` calls them.
        audio: Whether it describes sound too.
        milliseconds: From the connection to the description.
    """

    codecs: tuple[str, ...]
    audio: bool
    milliseconds: float


class StreamCheck(RtspEvents):
    """The beginning of an RTSP conversation."""

    async def describe(self, address: str) -> Described:
        """Ask for the description of a stream, and leave.

        Raises:
            Unreachable: There is no RTSP server, or it does not answer.
            Unauthorized: It does not take the account.
            NotFound: It has no such stream.
            Busy: It has no room for another stream.
            Rejected: It describes no video, or refuses for another reason.
        """
        started = time.monotonic()
        try:
            await self._connect()
            answer = await self._ask("DESCRIBE", address, {"Accept": "application/sdp"})
        finally:
            await self.close()
        codecs, audio = read_description(answer.body)
        if not codecs:
            raise Rejected(f"{self.name} describes no video.", hint="See what the camera offers: action offers.")
        return Described(codecs, audio, round((time.monotonic() - started) * 1000, 1))


def read_description(sdp: bytes) -> tuple[tuple[str, ...], bool]:
    r"""The video codecs of a session description (RFC 8866), and whether it has audio.

    >>> read_description(b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n")
    (('h264',), False)
    """
    codecs: list[str] = []
    audio, inside = False, ""
    for line in sdp[: 64 << 10].decode("utf-8", "replace").splitlines():
        media = re.match(r"m=([a-z]+) \d+", line)
        if media:
            inside = media[1]
            audio = audio or inside == "audio"
            if inside == "video" and re.search(r" 26\b", line):  # a static payload type, RFC 3551: needs no rtpmap
                codecs.append("jpeg")
        elif inside == "video" and (named := re.match(r"a=rtpmap:\d+ ([^/\s]{1,40})/", line)):
            word = named[1].lower()
            codecs.append(_ENCODINGS.get(word, said(word, 40)))
    return tuple(dict.fromkeys(codecs))[:8], audio
