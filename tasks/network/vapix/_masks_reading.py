"""How a camera's privacy masks are read: by its best query, by its parameters, or by the old text; and what it lets us do with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tasks.core.errors import Forbidden, Unsupported
from tasks.network.vapix import _masks as masks
from tasks.network.vapix._masks import Mask
from tasks.network.vapix._wire import Declined, Nonsense

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera
    from tasks.network.vapix._wire import Capabilities

PATH = "/axis-cgi/privacymask.cgi"
API = "privacy-mask"
PROPERTY = "Properties.PrivacyMask.PrivacyMask"
WINDOWS = "Image.I0.Overlay.MaskWindows"
TEMPLATE = "0_maskwindows"
MOST_VIEWS = 8
QUERIES = frozenset({"list", "position", "listpxjson", "positionpxjson"})


class MaskApi(StrEnum):
    """Where a camera tells of its masks."""

    JSON = "privacymask.cgi listpxjson"
    PARAMETERS = "param.cgi MaskWindows"
    TEXT = "privacymask.cgi list"


@dataclass(frozen=True)
class Limits:
    """What a camera lets masks be.

    Attributes:
        cgi: Whether it has privacymask.cgi.
        windows: Whether it has `MaskWindows` parameters of single masks; None: it has no mask, so nobody knows.
        most: How many there may be; None when it does not say.
        polygon: Whether they may have other than four corners.
        corners: Most corners; None when it does not say.
        size: Its largest resolution, pixels; None when it does not say.
        turns: Whether it is a PTZ camera, whose masks are elsewhere in the picture when it looks elsewhere.
        queries: What it answers to `query=`; empty when it does not say.
    """

    cgi: bool
    windows: bool | None
    most: int | None
    polygon: bool
    corners: int | None
    size: tuple[int, int] | None
    turns: bool
    queries: frozenset[str] = frozenset()


@dataclass
class State:
    """The masks as they are.

    Attributes:
        api: Where they were read.
        masks: Them.
        limits: What they may be.
        remarks: What there is to know.
    """

    api: MaskApi
    masks: list[Mask]
    limits: Limits
    remarks: list[str] = field(default_factory=list)


def limits_of(capabilities: Capabilities) -> Limits:
    """Read what a camera says of masks in general."""
    properties = capabilities.properties

    def number(name: str) -> int | None:
        value = properties.get(f"Properties.PrivacyMask.{name}", "").strip()
        return int(value) if re.fullmatch(r"[0-9]{1,4}", value) else None

    queries = properties.get("Properties.PrivacyMask.Query", "")
    sizes = re.findall(r"\b(\d{2,5})x(\d{2,5})\b", properties.get("Properties.Image.Resolution", ""))
    largest = max(((int(width), int(height)) for width, height in sizes), key=lambda one: one[0] * one[1], default=None)
    return Limits(
        cgi=capabilities.has(API) or capabilities.flag(PROPERTY),
        windows=None,
        most=number("MaxNbrOfPrivacyMasks"),
        polygon=capabilities.flag("Properties.PrivacyMask.Polygon"),
        corners=number("MaxNbrOfCorners"),
        size=largest,
        turns=capabilities.flag("Properties.PTZ.PTZ") and not capabilities.flag("Properties.PTZ.DigitalPTZ"),
        # A value that names none of the queries says nothing about them.
        queries=frozenset(re.findall(r"[a-z]+", queries.lower())) & QUERIES,
    )


async def read(camera: Camera) -> State:
    """List the camera's masks by the best way it has.

    Raises:
        Unsupported: It has neither the function nor the parameters; or says that it has the function, which is not there, and shows no
            mask in parameters: then nobody knows whether it has any.
        Forbidden: The function takes an administrator, and the parameters show nothing.
    """
    limits = limits_of(await camera.capabilities())
    windows = await _by_parameters(camera)
    remarks: list[str] = []
    if limits.cgi:
        try:
            return await _by_function(camera, limits, windows)
        except Forbidden:
            # Reading the parameters takes less, where the camera has them.
            if not windows:
                raise
        except Unsupported:
            if not windows:
                raise
            limits = Limits(**{**vars(limits), "cgi": False})
            remarks.append(
                "The camera says that it has privacymask.cgi, and does not answer there: its parameters were read."
            )
    if windows or await _has_windows(camera):
        limits = Limits(**{**vars(limits), "windows": True})
        return State(MaskApi.PARAMETERS, windows, limits, remarks)
    raise Unsupported(
        f"{camera.asked} has no privacy masks (neither {API} nor {PROPERTY} nor parameters {WINDOWS}).",
    )


async def _by_function(camera: Camera, limits: Limits, windows: Sequence[Mask]) -> State:
    refused: Declined | Nonsense | None = None
    if not limits.queries or "listpxjson" in limits.queries:
        try:
            found = masks.masks_from_json(await camera.text(PATH, {"query": "listpxjson"}))
            limits = Limits(**{**vars(limits), "windows": bool(windows) or None})
            return State(MaskApi.JSON, masks.with_windows(found, windows), limits)
        except Declined as no:
            refused = no  # firmware whose function is older than this query
        except Nonsense:
            if "listpxjson" in limits.queries:
                raise
    if windows:
        return State(MaskApi.PARAMETERS, list(windows), Limits(**{**vars(limits), "windows": True}))
    if refused is not None and limits.queries and "list" not in limits.queries:
        raise refused
    found = masks.masks_from_text(await camera.text(PATH, {"query": "list"}))
    remark = "This firmware tells only the names of its masks, not where they are or whether they are on."
    return State(MaskApi.TEXT, found, limits, [remark] if found else [])


async def _by_parameters(camera: Camera) -> list[Mask]:
    return masks.masks_from_parameters(await camera.parameters(*(_group(view) for view in range(MOST_VIEWS))))


async def _has_windows(camera: Camera) -> bool:
    """Whether the camera has mask parameters at all: without any mask only their colour is there."""
    return bool(await camera.parameters(WINDOWS))


def _group(view: int) -> str:
    return f"Image.I{view}.Overlay.MaskWindows"
