"""`vapix_overlay`: texts and images on the picture of cameras."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tasks.core.errors import Conflict, NotFound, Rejected, Unanswered, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.vapix import _overlays as overlays
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting
from tasks.network.vapix._overlays import Colour, Overlay, OverlayCapabilities
from tasks.network.vapix._overlays_layer import SLOTS_PATH, Layer, Look, layer_of
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._wire import Declined, Nonsense

CAMERA_SECONDS = 90.0


class OverlayAction(StrEnum):
    """What to do with overlays."""

    LIST = "list"
    CAPABILITIES = "capabilities"
    ADD_TEXT = "add_text"
    SET_TEXT = "set_text"
    ADD_IMAGE = "add_image"
    SET_IMAGE = "set_image"
    REMOVE = "remove"
    GET_SLOT = "get_slot"
    SET_SLOT = "set_slot"


_READS = {OverlayAction.LIST, OverlayAction.CAPABILITIES, OverlayAction.GET_SLOT}
_OVER_MANY = {*_READS, OverlayAction.ADD_TEXT, OverlayAction.SET_TEXT, OverlayAction.SET_SLOT}
_LOOKS = ("position", "visible")
_TEXT_LOOKS = ("font_size", "text_colour", "background_colour", "outline_colour")
_ALLOWED: dict[OverlayAction, set[str]] = {
    OverlayAction.LIST: {"camera"},
    OverlayAction.CAPABILITIES: set(),
    OverlayAction.ADD_TEXT: {"camera", "text", *_LOOKS, *_TEXT_LOOKS},
    OverlayAction.SET_TEXT: {"identity", "expect", "text", *_LOOKS, *_TEXT_LOOKS},
    OverlayAction.ADD_IMAGE: {"camera", "image", *_LOOKS},
    OverlayAction.SET_IMAGE: {"identity", "expect", "image", *_LOOKS},
    OverlayAction.REMOVE: {"identity", "expect"},
    OverlayAction.GET_SLOT: {"camera", "slot"},
    OverlayAction.SET_SLOT: {"camera", "slot", "text"},
}
_NEEDED: dict[OverlayAction, tuple[str, ...]] = {
    OverlayAction.ADD_TEXT: ("text",),
    OverlayAction.SET_TEXT: ("expect",),
    OverlayAction.ADD_IMAGE: ("image",),
    OverlayAction.SET_IMAGE: ("expect",),
    OverlayAction.REMOVE: ("expect",),
    OverlayAction.GET_SLOT: ("slot",),
    OverlayAction.SET_SLOT: ("slot", "text"),
}
_WHAT = {
    "text": "what it shall say",
    "image": "a file that list names among the images",
    "expect": "what it says now, as list shows it, so that no other one is changed",
    "slot": "the number after #D",
}


class VapixOverlay(CameraParams):
    """Parameters of `vapix_overlay`."""

    action: OverlayAction = Field(
        OverlayAction.LIST,
        description="list, capabilities, add_text, set_text, add_image, set_image, remove, get_slot or set_slot.",
    )
    camera: int | None = Field(
        None, ge=1, le=64, description="The view, from 1. Default: 1 for adding and slots, all views for list."
    )
    identity: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="set and remove: the overlay's number as list shows it. Not needed where only one says what expect says.",
    )
    expect: str | None = Field(
        None,
        max_length=overlays.MAX_TEXT,
        description="set and remove: what the overlay says now, exactly (of an image its file). Numbers change when a camera starts "
        "again; without this the wrong overlay might be changed.",
    )
    text: Annotated[str, AfterValidator(overlays.check_text)] | None = Field(
        None,
        description=f"The text, at most {overlays.MAX_TEXT} characters. "
        "The camera fills in %F (date), %T (time), %c (both) and #D to #D16 (slots).",
    )
    image: str | None = Field(
        None,
        min_length=1,
        max_length=300,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="The image, one of the files on the camera that list names.",
    )
    position: Annotated[str, AfterValidator(overlays.check_position)] | None = Field(
        None, description=f"Where: {', '.join(overlays.ASKED_POSITIONS)}, or x,y from -1.0 to 1.0."
    )
    font_size: int | None = Field(None, ge=1, le=200, description="Size of the font, pixels, 1 to 200.")
    text_colour: Colour | None = Field(None, description="Colour of the letters.")
    background_colour: Colour | None = Field(None, description="Colour behind the letters.")
    outline_colour: Colour | None = Field(None, description="Colour around the letters.")
    visible: bool | None = Field(None, description="Whether it is shown.")
    slot: int | None = Field(
        None,
        ge=1,
        le=16,
        description="get_slot and set_slot: the dynamic text slot, 1 to 16, which #D1 to #D16 in a text show.",
    )

    @model_validator(mode="after")
    def _fits_the_action(self) -> VapixOverlay:
        fields = {name for names in _ALLOWED.values() for name in names}
        given = {name for name in fields if getattr(self, name) is not None}
        if extra := sorted(given - _ALLOWED[self.action]):
            fitting = ", ".join(sorted(_ALLOWED[self.action])) or "no more parameters"
            raise ValueError(f"{self.action} takes no {' or '.join(extra)}; it takes {fitting}")
        for name in _NEEDED.get(self.action, ()):
            if name not in given:
                raise ValueError(f"{self.action} needs {name}: {_WHAT[name]}")
        if self.action in (OverlayAction.SET_TEXT, OverlayAction.SET_IMAGE) and not given - {"identity", "expect"}:
            raise ValueError(f"{self.action} needs what is to change, such as text, image or position")
        if self.action not in _OVER_MANY and len(self.targets) != 1:
            raise ValueError(
                f"{self.action} takes exactly one target; over several go list, add_text, set_text and set_slot"
            )
        return self

    def safety(self) -> Safety | None:
        return None if self.action in _READS else Safety.CHANGE

    def deadline(self) -> float:
        return fleet_timeout(CAMERA_SECONDS, len(self.targets))

    def about(self) -> str:
        what = " ".join(
            [
                self.action,
                *(f"{name} {getattr(self, name)}" for name in ("identity", "slot") if getattr(self, name) is not None),
            ]
        )
        return f"{super().about()[:400]}: {what}"[:500]

    def look(self) -> Look:
        """What the overlay is to be."""
        return Look(
            text=self.text,
            image=self.image,
            position=self.position,
            font_size=self.font_size,
            text_colour=self.text_colour,
            background_colour=self.background_colour,
            outline_colour=self.outline_colour,
            visible=self.visible,
        )


class CameraOverlays(CameraEntry):
    """The overlays of one camera, or what was done with one of them."""

    api: str | None = Field(None, description="The API used: dynamicoverlay.cgi or param.cgi.")
    overlays: list[Overlay] = Field(default_factory=list, description="list: its overlays, by identity.")
    images: list[str] = Field(default_factory=list, description="list: image files on the camera, at most 100.")
    capabilities: OverlayCapabilities | None = Field(None, description="capabilities: what its overlays can do.")
    before: Overlay | None = Field(None, description="The overlay before; None when there was none.")
    after: Overlay | None = Field(None, description="The overlay as read back afterwards; None when there is none.")
    slot_before: str | None = Field(None, description="set_slot: what the slot held before.")
    slot: str | None = Field(None, description="get_slot and set_slot: what the slot holds, as the camera says.")


class OverlayResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraOverlays] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraOverlays) -> str:
        if camera.outcome is not CameraOutcome.DONE or camera.api is None:
            return super().one_line(camera)
        if camera.capabilities is not None:
            free = camera.capabilities.slots_free
            room = (
                f"room for {count(free, 'more overlay')}" if free is not None else "it does not say for how many more"
            )
            return f"{camera.target}: {room}"
        if camera.slot is not None:
            return f"{camera.target}: slot holds {camera.slot[:80]!r}"
        noted = f"; {camera.detail}" if camera.detail else ""
        before, after = camera.before, camera.after
        shown = after or before
        if shown is None:
            return f"{camera.target}: {count(len(camera.overlays), 'overlay')}{noted}"
        what = (
            "added" if before is None else "removed" if after is None else "unchanged" if before == after else "changed"
        )
        return f"{camera.target}: {shown.kind} overlay {shown.identity} {what}: {shown.content()[:80]!r}{noted}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=fleet_timeout(CAMERA_SECONDS),
    aliases=("axis_vapix_overlay",),
    examples=[
        Example("What lies on the picture?", {"targets": ["10.0.0.5"], "credentials": "axis/yard"}),
        Example(
            "Name and time on two cameras",
            {
                "targets": ["10.0.0.5", "10.0.0.6"],
                "credentials": "axis/yard",
                "action": "add_text",
                "text": "Yard north %F %T",
                "position": "topLeft",
            },
        ),
        Example(
            "Another text in its place",
            {
                "targets": ["10.0.0.5"],
                "credentials": "axis/yard",
                "action": "set_text",
                "expect": "Yard north %F %T",
                "text": "Yard south %F %T",
            },
        ),
        Example(
            "Fill the first dynamic slot, which #D in a text shows",
            {"targets": ["10.0.0.5"], "credentials": "axis/yard", "action": "set_slot", "slot": 1, "text": "gate open"},
        ),
    ],
)
async def vapix_overlay(params: VapixOverlay) -> OverlayResult:
    r"""List, add, change and remove texts and images on the picture of cameras.

    Overlays go into all streams and recordings that allow them. The camera's numbers for them change when it starts again: what is
    changed or removed is named by what it says now (`expect`), and is not touched when that is no longer so. Cameras without dynamic
    overlays have one line of text for each view. What is written is read back.

    Raises:
        InvalidParameters: There is no such block.
        Unsupported: The one camera asked has no overlays, or not such ones.
        NotFound: It has no such overlay or image.
        Conflict: The overlay says something else now, several say the same, or there is no room for another.
        Rejected: It did not take what was written.
    """

    async def work(camera: Camera) -> dict[str, Any]:
        return await _on(camera, params)

    seen = await each_camera(params, work, seconds=CAMERA_SECONDS)
    result = OverlayResult(cameras=[entry(CameraOverlays, one, **(one.value or {})) for one in seen])
    return await fitting(result, ["images", "overlays", "before", "after"])


async def _on(camera: Camera, params: VapixOverlay) -> dict[str, Any]:
    action = params.action
    if action in (OverlayAction.GET_SLOT, OverlayAction.SET_SLOT):
        return await _slot(camera, params)
    layer, there = await layer_of(camera)
    if action is OverlayAction.CAPABILITIES:
        return {"api": layer.api, "capabilities": await layer.capabilities()}
    if action is OverlayAction.LIST:
        shown = [one for one in there if params.camera in (None, one.camera)]
        return {"api": layer.api, "overlays": shown, "images": (await layer.images())[:100]}
    if params.image is not None and params.image not in (images := await layer.images()):
        raise NotFound(
            f"The camera has no overlay image {params.image}.", hint=f"It has {', '.join(images[:10]) or 'none'}."
        )
    if action in (OverlayAction.ADD_TEXT, OverlayAction.ADD_IMAGE):
        return {"api": layer.api, "after": await _add(camera, layer, params, there)}
    before = _pick(params, there)
    after = await _change(camera, layer, params, there, before)
    return {"api": layer.api, "before": before, "after": after}


def _pick(params: VapixOverlay, there: list[Overlay]) -> Overlay:
    """Find the one overlay that is meant: by what it says, and by its number where that was given.

    Raises:
        NotFound: There is none.
        Conflict: The number belongs to another overlay now, or several say the same.
    """
    kinds: dict[OverlayAction, Literal["text", "image"]] = {
        OverlayAction.SET_TEXT: "text", OverlayAction.SET_IMAGE: "image",
    }  # fmt: skip
    kind = kinds.get(params.action)
    expect = params.expect or ""
    of_kind = [one for one in there if kind in (None, one.kind)]
    same = [one for one in of_kind if _says(one, expect)]
    known = ", ".join(f"{one.identity} {one.content()[:40]!r}" for one in of_kind[:8]) or "none"
    hint = f"Nothing was changed. The camera has: {known}."
    if params.identity is None:
        if len(same) == 1:
            return same[0]
        if not same:
            raise NotFound(f"No overlay of the camera says {expect[:60]!r}.", hint=hint)
        numbers = ", ".join(str(one.identity) for one in same)
        raise Conflict(f"{len(same)} overlays say {expect[:60]!r}: say which by identity ({numbers}).", hint=hint)
    found = next((one for one in of_kind if one.identity == params.identity), None)
    if found is not None and found in same:
        return found
    if same:
        raise Conflict(
            f"What says {expect[:60]!r} is overlay {same[0].identity} now, not {params.identity}: "
            "cameras give new numbers when they start again.",
            hint=hint,
        )
    if found is None:
        raise NotFound(f"The camera has no overlay {params.identity}.", hint=hint)
    raise Conflict(f"Overlay {params.identity} does not say {expect[:60]!r} (any more).", hint=hint)


def _says(overlay: Overlay, expect: str) -> bool:
    return overlays.same_text(overlay.text, expect) if overlay.kind == "text" else overlay.path == expect


async def _add(camera: Camera, layer: Layer, params: VapixOverlay, there: list[Overlay]) -> Overlay:
    look, view = params.look(), params.camera or 1
    if layer.api == "dynamicoverlay.cgi" and len(there) >= overlays.MAX_OVERLAYS:
        raise Conflict(f"The camera has {len(there)} overlays and no room for more.", hint="Remove some first.")
    identity: int | None = None
    lost: Unanswered | None = None
    try:
        identity = await layer.add(view, look, there)
    except Unanswered as error:
        lost = error  # it may have arrived: reading back tells
    known = {one.identity for one in there}
    now = await layer.read()
    fresh = [one for one in now if one.identity not in known and one.camera == view and not _other(look, one)]
    after = next((one for one in now if one.identity == identity), None) if identity is not None else None
    if after is None or _other(look, after):
        after = fresh[0] if fresh else None
    if after is None:
        if lost is not None:
            raise lost
        raise Rejected(
            "The camera said yes, but reading back shows no such overlay.",
            hint="List the overlays; what it took may differ from what was asked.",
        )
    if lost is not None:
        camera.notes.append("The answer was lost; reading back shows that the camera did it.")
    _note_differences(camera, look, after)
    return after


def _other(look: Look, overlay: Overlay) -> bool:
    """Whether this cannot be the overlay that was asked for."""
    return bool({"text", "image"} & set(look.differences(overlay)))


async def _change(
    camera: Camera, layer: Layer, params: VapixOverlay, there: list[Overlay], before: Overlay
) -> Overlay | None:
    removing = params.action is OverlayAction.REMOVE
    look = params.look()
    if not removing and not look.differences(before):
        camera.notes.append("The overlay was like that already; nothing was written.")
        return before
    unclear: Unanswered | Declined | Nonsense | None = None
    try:
        await (layer.remove(before) if removing else layer.change(before, look))
    except (Unanswered, Declined, Nonsense) as error:
        unclear = error  # it may have arrived, or hold in part: reading back tells
    now = await layer.read()
    after = next((one for one in now if one.identity == before.identity), None)
    if unclear is not None:
        if after == before:
            raise unclear
        what = "The answer was lost" if isinstance(unclear, Unanswered) else unclear.message.rstrip(".")
        camera.notes.append(f"{what}; reading back shows that the camera did something.")
    if removing:
        if after is not None and after.content() == before.content():
            raise Rejected(
                f"The camera said yes, but overlay {before.identity} is still there.", hint="Look at its own pages."
            )
        after = None
    elif after is None or after == before:
        raise Rejected(
            f"The camera said yes, but reading back shows overlay {before.identity} {'gone' if after is None else 'unchanged'}.",
            hint="List the overlays; another client may be changing them.",
        )
    else:
        _note_differences(camera, look, after)
    others = [one for one in there if one.identity != before.identity]
    if others != [one for one in now if one.identity != before.identity]:
        camera.notes.append("Other overlays changed at the same time; list them: another client may be at work.")
    return after


def _note_differences(camera: Camera, look: Look, after: Overlay) -> None:
    if different := look.differences(after):
        camera.notes.append(f"The camera took another {', '.join(different)} than asked for; after shows what it has.")


async def _slot(camera: Camera, params: VapixOverlay) -> dict[str, Any]:
    query = {"text_index": str(params.slot), "camera": str(params.camera or 1)}
    before = await _slot_text(camera, query)
    if params.action is OverlayAction.GET_SLOT:
        return {"api": "dynamicoverlay.cgi (slots)", "slot": before}
    assert params.text is not None
    lost: Unanswered | None = None
    try:
        await camera.text(SLOTS_PATH, {"action": "settext", "text": params.text, **query}, write=True)
    except Unanswered as error:
        lost = error
    after = await _slot_text(camera, query)
    # How the camera words the answer is not documented: it must contain the text.
    if params.text not in after:
        if lost is not None:
            raise lost
        if after == before:
            raise Rejected(
                f"The camera said yes, but slot {params.slot} still holds what it held.",
                hint=f"It says {after[:80]!r}.",
            )
        camera.notes.append("The camera holds something else in the slot than was asked for.")
    return {"api": "dynamicoverlay.cgi (slots)", "slot_before": before, "slot": after}


async def _slot_text(camera: Camera, query: dict[str, str]) -> str:
    try:
        answer = await camera.text(SLOTS_PATH, {"action": "gettext", **query})
    except Unsupported:
        raise Unsupported(
            "This camera has no dynamic text slots.", hint="They came with dynamic overlays; use add_text instead."
        ) from None
    return overlays.clean(answer.strip(), 600)
