"""Where a camera keeps its overlays: behind dynamicoverlay.cgi, or one text for each view in its parameters; used alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from tasks.core.errors import Conflict, NotFound, ToolError, Unsupported
from tasks.network.vapix import _overlays as overlays
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._newest import newest
from tasks.network.vapix._overlays import Colour, Overlay, OverlayCapabilities
from tasks.network.vapix._wire import Nonsense

PATH = "/axis-cgi/dynamicoverlay/dynamicoverlay.cgi"
SLOTS_PATH = "/axis-cgi/dynamicoverlay.cgi"
_MEANINGS: Mapping[int, str | type[ToolError]] = {
    100: Unsupported,
    101: "the camera could not do it: an internal error",
    102: "the camera misses a parameter",
    103: "the camera does not take one of the parameters",
    200: "the camera could not read the request",
    201: "the camera could not read the request",
    202: "the camera could not read the request",
    203: Unsupported,
    300: Conflict,
    301: "the camera has no such view",
    302: NotFound,
    303: "the camera does not take this position",
    304: "the camera does not take this text",
    305: "the camera does not take this image",
    306: "the camera does not take this colour of the letters",
    307: "the camera does not take this colour behind the letters",
    308: "the camera does not take this outline colour",
    309: "the camera does not take this font size",
    311: "the camera does not take visible",
    312: "the camera does not take this order of overlays",
}


@dataclass(frozen=True)
class Look:
    """What an overlay is to say and how; None leaves a thing as it is."""

    text: str | None = None
    image: str | None = None
    position: str | None = None
    font_size: int | None = None
    text_colour: Colour | None = None
    background_colour: Colour | None = None
    outline_colour: Colour | None = None
    visible: bool | None = None

    def differences(self, overlay: Overlay) -> list[str]:
        """Name what is otherwise than asked for."""
        found = []
        if self.text is not None and not overlays.same_text(self.text, overlay.text):
            found.append("text")
        if self.image is not None and self.image != overlay.path:
            found.append("image")
        if self.position is not None and not overlays.same_place(self.position, overlay.position):
            found.append("position")
        found += [
            name
            for name in ("font_size", "visible")
            if getattr(self, name) is not None and getattr(self, name) != getattr(overlay, name)
        ]
        for name in ("text_colour", "background_colour", "outline_colour"):
            asked, there = getattr(self, name), getattr(overlay, name)
            if asked is not None and str(asked).lower() != (there or "").lower():
                found.append(name)
        return found


class Layer(Protocol):
    """The overlays of one camera."""

    api: str

    async def read(self) -> list[Overlay]:
        """Read all overlays, by identity; sets `images`."""
        ...

    async def images(self) -> list[str]:
        """Image files on the camera that can be laid on the picture."""
        ...

    async def capabilities(self) -> OverlayCapabilities:
        """Read what overlays can do."""
        ...

    async def add(self, camera: int, look: Look, there: list[Overlay]) -> int | None:
        """Lay a text or an image on the picture; returns its identity. `there` is what was read just before."""
        ...

    async def change(self, overlay: Overlay, look: Look) -> None:
        """Change an overlay that was read just before."""
        ...

    async def remove(self, overlay: Overlay) -> None:
        """Take an overlay that was read just before off the picture."""
        ...


async def layer_of(camera: Camera) -> tuple[Layer, list[Overlay]]:
    """Find what kind of overlays this camera has, the newest that serves, and read them.

    Raises:
        Unsupported: It has none: it is no camera with a picture.
    """
    capabilities = await camera.capabilities()
    older = partial(_read, LegacyLayer(camera))
    if capabilities.has("dynamicoverlay") or capabilities.flag("Properties.DynamicOverlay.DynamicOverlay"):
        newer = partial(_read, DynamicLayer(camera))
        return await newest(camera, newer, older, (DynamicLayer.api, LegacyLayer.api))
    return await older()


async def _read(layer: Layer) -> tuple[Layer, list[Overlay]]:
    return layer, await layer.read()


class DynamicLayer:
    """Overlays behind dynamicoverlay.cgi (from AXIS OS 7.10)."""

    api = "dynamicoverlay.cgi"

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._images: list[str] | None = None

    async def read(self) -> list[Overlay]:
        data = await self._call("list", {})
        try:
            found, self._images = overlays.of_json(data)
        except ValueError as error:
            raise Nonsense(f"{self.camera.asked} does not answer as dynamicoverlay does: {error}.") from None
        return found

    async def images(self) -> list[str]:
        if self._images is None:
            await self.read()
        return self._images or []

    async def capabilities(self) -> OverlayCapabilities:
        return overlays.capabilities_of(await self._call("getOverlayCapabilities", {}))

    async def add(self, camera: int, look: Look, there: list[Overlay]) -> int | None:
        fields = {"camera": camera, **_fields(look)}
        data = await self._call("addText" if look.image is None else "addImage", fields, write=True, version=look)
        identity = data.get("identity")
        return identity if isinstance(identity, int) and not isinstance(identity, bool) else None

    async def change(self, overlay: Overlay, look: Look) -> None:
        fields = {"identity": overlay.identity, **_fields(look)}
        await self._call("setText" if overlay.kind == "text" else "setImage", fields, write=True, version=look)

    async def remove(self, overlay: Overlay) -> None:
        await self._call("remove", {"identity": overlay.identity}, write=True)

    async def _call(
        self, method: str, params: dict[str, Any], *, write: bool = False, version: Look | None = None
    ) -> dict[str, Any]:
        asked = "1.0"
        if version is not None and version.visible is not None:
            # `visible` came with a later minor version, which one is not documented: ask for the newest this camera has.
            asked = (await self.camera.capabilities()).apis.get("dynamicoverlay", asked)
        data: dict[str, Any] = await self.camera.call(
            PATH, method, params, version=asked, meanings=_MEANINGS, write=write
        )
        return data


def _fields(look: Look) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "text": look.text,
        "overlayPath": look.image,
        "position": None if look.position is None else overlays.position_for_json(look.position),
        "fontSize": look.font_size,
        "textColor": look.text_colour,
        "textBGColor": look.background_colour,
        "textOLColor": look.outline_colour,
        "visible": look.visible,
    }
    return {
        key: str(value) if isinstance(value, Colour) else value for key, value in fields.items() if value is not None
    }


class LegacyLayer:
    """The one text each view has in the parameters Image.I#.Text (cameras without dynamic overlays)."""

    api = "param.cgi"

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._values: dict[str, str] = {}

    async def read(self) -> list[Overlay]:
        found = await self.camera.parameters("Image.*.Text")
        self._values = {name: value for name, value in found.items() if re.match(r"Image\.I[0-9]{1,2}\.Text\.", name)}
        if not self._values:
            raise Unsupported(
                "This device has no overlays: neither dynamicoverlay.cgi nor Image.I#.Text parameters.",
                hint="Is it a camera, and may this account read its parameters? See vapix_device_info.",
            )
        return overlays.of_legacy(self._values)

    async def images(self) -> list[str]:
        return []

    async def capabilities(self) -> OverlayCapabilities:
        held = await self.read()
        views = {key.split(".")[1] for key in self._values}
        return OverlayCapabilities(slots_free=len(views) - len(held), slots_per_text=1)

    async def add(self, camera: int, look: Look, there: list[Overlay]) -> int | None:
        held = next((one for one in there if one.camera == camera), None)
        if held is not None:
            raise Conflict(
                f"View {camera} of this camera has its one text already: {held.text!r}.",
                hint="It has no dynamic overlays. Use set_text with that text as expect.",
            )
        group = self._group(camera)
        await self.camera.set_parameters({**self._spelled(group, look), f"{group}.TextEnabled": _yes(look.visible)})
        return camera - 1

    async def change(self, overlay: Overlay, look: Look) -> None:
        group = self._group(overlay.camera)
        values = self._spelled(group, look)
        if look.visible is not None:
            values[f"{group}.TextEnabled"] = _yes(look.visible)
        await self.camera.set_parameters(values)

    async def remove(self, overlay: Overlay) -> None:
        group = self._group(overlay.camera)
        await self.camera.set_parameters({f"{group}.TextEnabled": "no", f"{group}.String": ""})

    def _group(self, camera: int) -> str:
        group = f"Image.I{camera - 1}.Text"
        if not any(key.startswith(f"{group}.") for key in self._values):
            views = sorted({int(key.split(".")[1][1:]) + 1 for key in self._values if key.split(".")[1][1:].isdigit()})
            raise NotFound(f"This camera has no view {camera}.", hint=f"It has {', '.join(map(str, views)) or 'none'}.")
        return group

    def _spelled(self, group: str, look: Look) -> dict[str, str]:
        """Spell a look in parameters.

        Raises:
            Unsupported: The old text cannot look like that.
        """
        if look.image is not None or look.font_size is not None or look.outline_colour is not None:
            raise _too_old("images, font_size and outline_colour")
        values = {}
        if look.text is not None:
            if "\n" in look.text or "\\n" in look.text:
                raise _too_old("texts of several lines")
            values[f"{group}.String"] = look.text
        if look.position is not None:
            if look.position not in ("top", "bottom"):
                raise _too_old("positions other than top and bottom")
            values[f"{group}.Position"] = look.position
        for key, colour in (("Color", look.text_colour), ("BGColor", look.background_colour)):
            if colour is None:
                continue
            if colour not in overlays.LEGACY_COLOURS[key]:
                raise _too_old(f"the colour {colour} there")
            # The old parameters spell colours in small letters only.
            values[f"{group}.{key}"] = colour.lower()
        return values


def _yes(visible: bool | None) -> str:
    return "no" if visible is False else "yes"


def _too_old(what: str) -> Unsupported:
    return Unsupported(
        f"This camera has no dynamic overlays, only one line of text for each view: it knows no {what}.",
        hint="Nothing was changed. Leave that out.",
    )
