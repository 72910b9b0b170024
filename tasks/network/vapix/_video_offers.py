"""What video a camera offers, and the URLs that ask for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tasks.core.errors import InvalidParameters, NotFound, Rejected, Unsupported
from tasks.network.vapix._wire import said

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

MEDIA: Final = "/axis-media/media.amp"
SNAPSHOT: Final = "/axis-cgi/jpg/image.cgi"
MJPEG: Final = "/axis-cgi/mjpg/video.cgi"
STREAM_PROFILES: Final = "/axis-cgi/streamprofile.cgi"
RTSP_PORT: Final = 554
RTSPS_PORT: Final = 322
CODECS: Final = ("h264", "h265", "av1", "mpeg4", "jpeg")
_CODEC_OF: Final = {"mjpeg": "jpeg", "mpeg-4": "mpeg4", "h.264": "h264", "h.265": "h265"}
"""As `Properties.Image.Format` calls them, and as `videocodec` takes them."""
SIZE: Final = r"^(\d{2,5}x\d{2,5}|[0-9A-Z]{2,10})$"
"""A resolution: pixels, or on old cameras with analogue sensors a name such as 4CIF."""
_MOST = 64


@dataclass(frozen=True)
class View:
    """One view of a camera: a sensor, or a part of its picture."""

    number: int
    name: str
    enabled: bool


@dataclass(frozen=True)
class Offers:
    """What a camera offers.

    Attributes:
        codecs: As `videocodec` takes them, in the camera's order.
        resolutions: Such as `1920x1080` (old cameras: `4CIF`), in the camera's order.
        views: Its views; empty where it does not say.
        most_viewers: How many may watch at once.
        profiles: Names of its stream profiles; None where it was not asked or does not show them.
        rtsp_port: TCP port of RTSP.
        rtsp_on: Whether RTSP is switched on; None where it does not say, or not to our account.
        rtsps_port: TCP port of RTSP over TLS; None where that is off.
        api: Where the profiles come from: stream-profiles or param.cgi.
    """

    codecs: tuple[str, ...]
    resolutions: tuple[str, ...]
    views: tuple[View, ...]
    most_viewers: int | None
    profiles: tuple[str, ...] | None
    rtsp_port: int
    rtsp_on: bool | None
    rtsps_port: int | None
    api: str | None

    def check(
        self, *, view: int, codec: str | None = None, resolution: str | None = None, profile: str | None = None
    ) -> None:
        """Refuse what the camera does not offer; where it does not say, it is the camera that refuses.

        Raises:
            InvalidParameters: Says what it offers.
        """
        there = [one.number for one in self.views if one.enabled]
        if there and view not in there:
            off = " (it is switched off)" if view in [one.number for one in self.views] else ""
            raise InvalidParameters(f"view: the camera has no view {view}{off}; right would be {_listed(there)}.")
        if codec is not None and self.codecs and codec not in self.codecs:
            raise InvalidParameters(f"codec: the camera does not offer {codec}; it offers {_listed(self.codecs)}.")
        if resolution is not None and self.resolutions and resolution not in self.resolutions:
            raise InvalidParameters(
                f"resolution: the camera does not offer {resolution}; it offers {_listed(self.resolutions)}."
            )
        if profile is not None and self.profiles is not None and profile not in self.profiles:
            there_are = f"it has {_listed(self.profiles)}" if self.profiles else "it has none"
            raise InvalidParameters(f"profile: the camera has no stream profile {profile!r}; {there_are}.")


def _listed(values: Sequence[object]) -> str:
    text = ", ".join(str(value) for value in values[:24])
    return f"{text} and {len(values) - 24} more" if len(values) > 24 else text


async def read_offers(camera: Camera, *, profiles: bool = True) -> Offers:
    """Ask a camera what it offers.

    Raises:
        Unsupported: It has no video.
    """
    capabilities = await camera.capabilities()
    properties = capabilities.properties
    formats = [word.lower() for word in _words(properties.get("Properties.Image.Format", ""))]
    resolutions = [size for size in _words(properties.get("Properties.Image.Resolution", "")) if re.match(SIZE, size)]
    if not formats and not resolutions:
        raise Unsupported("This camera has no video (its properties name no picture format).")
    parameters = await camera.parameters(
        "Image.MaxViewers", "Image.*.Enabled", "Image.*.Name", "Network.RTSP", "Network.RTSPS"
    )
    names: tuple[str, ...] | None = None
    api = None
    if profiles:
        names, api = await _profile_names(camera, modern=capabilities.has("stream-profiles"))
    secure = parameters.get("Network.RTSPS.Enabled", "").lower() == "yes"
    return Offers(
        codecs=tuple(dict.fromkeys(codec for word in formats if (codec := _CODEC_OF.get(word, word)) in CODECS)),
        resolutions=tuple(dict.fromkeys(resolutions)),
        views=_views(parameters),
        most_viewers=_number(parameters.get("Image.MaxViewers"), 10_000),
        profiles=names,
        rtsp_port=_number(parameters.get("Network.RTSP.Port"), 65_535) or RTSP_PORT,
        rtsp_on={"yes": True, "no": False}.get(parameters.get("Network.RTSP.Enabled", "").strip().lower()),
        rtsps_port=(_number(parameters.get("Network.RTSPS.Port"), 65_535) or RTSPS_PORT) if secure else None,
        api=api,
    )


def _words(text: str) -> list[str]:
    return [word for part in text[:4000].split(",") if (word := said(part, 24).strip())][:_MOST]


def _number(text: str | None, most: int) -> int | None:
    value = (text or "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 8 and 0 < int(value) <= most else None


def _views(parameters: Mapping[str, str]) -> tuple[View, ...]:
    found = {}
    for name, value in parameters.items():
        match = re.fullmatch(r"Image\.I(\d{1,2})\.Enabled", name)
        if match:
            number = int(match[1]) + 1
            label = said(parameters.get(f"Image.I{match[1]}.Name", ""), 64)
            found[number] = View(number, label, value.strip().lower() == "yes")
    return tuple(found[number] for number in sorted(found))


async def _profile_names(camera: Camera, *, modern: bool) -> tuple[tuple[str, ...] | None, str | None]:
    if modern:
        try:
            data = await camera.call(STREAM_PROFILES, "list", {"streamProfileName": []})
        except (Unsupported, Rejected, NotFound):
            data = None
        if data is not None:
            entries = data.get("streamProfile", []) if isinstance(data, dict) else []
            entries = entries if isinstance(entries, list) else []  # without profiles there is no such key
            names = [
                entry["name"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)
            ]
            return tuple(sorted(said(name, 64) for name in names[:_MOST])), "stream-profiles"
    values = await camera.parameters("StreamProfile")
    names = [value for name, value in values.items() if re.fullmatch(r"StreamProfile\.S\d{1,3}\.Name", name)]
    return tuple(sorted(said(name, 64) for name in names[:_MOST] if name)), "param.cgi"


# --- URLs --------------------------------------------------------------------------------------------------------------


def picture_arguments(
    *,
    view: int,
    resolution: str | None = None,
    fps: int | None = None,
    compression: int | None = None,
    profile: str | None = None,
) -> dict[str, str]:
    """The arguments of the picture functions; what is not given stays the camera's own setting."""
    arguments = {"camera": str(view)}
    if profile is not None:
        arguments["streamprofile"] = profile
    if resolution is not None:
        arguments["resolution"] = resolution
    if compression is not None:
        arguments["compression"] = str(compression)
    if fps is not None:
        arguments["fps"] = str(fps)
    return arguments


def url(scheme: str, host: str, port: int, path: str, arguments: Mapping[str, str]) -> str:
    """A URL without credentials; the scheme's usual port is left out.

    >>> url("rtsp", "192.0.2.7", 554, "/axis-media/media.amp", {"camera": "1", "streamprofile": "Quality & more"})
    'rtsp://192.0.2.7/axis-media/media.amp?camera=1&streamprofile=Quality%20%26%20more'
    """
    usual = {"rtsp": RTSP_PORT, "rtsps": RTSPS_PORT, "http": 80, "https": 443}[scheme]
    place = f"[{host}]" if ":" in host else host
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in arguments.items())
    return f"{scheme}://{place}{'' if port == usual else f':{port}'}{path}{f'?{query}' if query else ''}"
