"""Overlays on a camera's picture: texts and images by identity, and the dynamic text slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deployments.demo.axis_camera._device import Device

LIMIT = 300
MAX_TEXT = 512
POSITIONS = ("top", "topRight", "bottomRight", "bottom", "bottomLeft", "topLeft")
COLOURS = ("black", "white", "red", "transparent", "semiTransparent")
_COLOUR_CODES = {"textColor": 306, "textBGColor": 307, "textOLColor": 308}


class OverlayRefusal(Exception):
    """The camera says no, with its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Overlays:
    """The overlays of one camera."""

    device: Device
    texts: dict[int, dict[str, Any]] = field(default_factory=dict)
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: list[str] = field(default_factory=lambda: ["/etc/overlays/axis(128x44).ovl", "/etc/overlays/logo.png"])
    slots: dict[tuple[int, int], str] = field(default_factory=dict)
    _next: int = 0
    rounding: float | None = None
    """A grid positions are moved to, as some cameras do."""

    def __post_init__(self) -> None:
        self.device.on_reboot(self.renumber)

    def renumber(self) -> None:
        """Give all overlays new identities from 0 upwards, as a camera does when it starts."""
        texts, images = list(self.texts.values()), list(self.images.values())
        self.texts = dict(enumerate(texts))
        self.images = dict(enumerate(images, start=len(texts)))
        for identity, overlay in [*self.texts.items(), *self.images.items()]:
            overlay["identity"] = identity
        self._next = len(texts) + len(images)

    @property
    def views(self) -> int:
        return self.device.profile.views

    def add(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        camera = self._camera(params)
        if len(self.texts) + len(self.images) >= LIMIT:
            raise OverlayRefusal(300, "Maximum number of overlays reached")
        overlay: dict[str, Any] = {"camera": camera, "identity": self._next, "visible": True, "zIndex": self._next}
        if kind == "text":
            if "text" not in params:
                raise OverlayRefusal(102, "Required parameter missing: text")
            overlay.update(
                position="topLeft", fontSize=40, textColor="white", textBGColor="transparent", textOLColor="black",
                reference="channel", rotation=0, size=[300, 40],
            )  # fmt: skip
            overlay.update(self._text_fields(params))
            self.texts[self._next] = overlay
        else:
            if "overlayPath" not in params:
                raise OverlayRefusal(102, "Required parameter missing: overlayPath")
            overlay.update(position="topLeft", size=[128, 44])
            overlay.update(self._image_fields(params))
            self.images[self._next] = overlay
        self._next += 1
        return {"camera": camera, "identity": overlay["identity"]}

    def set(self, kind: str, params: dict[str, Any]) -> None:
        held = self.texts if kind == "text" else self.images
        fields = self._text_fields(params) if kind == "text" else self._image_fields(params)
        held[self._identity(params, held)].update(fields)

    def remove(self, params: dict[str, Any]) -> None:
        identity = self._identity(params, {**self.texts, **self.images})
        self.texts.pop(identity, None)
        self.images.pop(identity, None)

    def list(self, params: dict[str, Any]) -> dict[str, Any]:
        camera, identity = params.get("camera"), params.get("identity")

        def chosen(overlays: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
            found = [
                dict(one)
                for one in overlays.values()
                if camera in (None, one["camera"]) and identity in (None, one["identity"])
            ]
            self.device.random.shuffle(found)
            return found

        return {
            "imageFiles": list(self.files),
            "imageOverlays": chosen(self.images),
            "textOverlays": chosen(self.texts),
        }

    def capabilities(self) -> dict[str, Any]:
        # Recorded devices spell the number of free slots in several ways.
        old = self.device.profile.apis.get("dynamicoverlay") == "1.0"
        key = "numberOfAvailableSlots" if old else "numberAvailableSlots"
        return {
            key: LIMIT - len(self.texts) - len(self.images),
            "slotsPerTextOverlay": 1,
            "slotsPerImageOverlay": 1,
            "maxTextLength": MAX_TEXT,
            "minFontSize": 4,
            "maxFontSize": 200,
        }

    # --- checking ----------------------------------------------------------------------------------------------------

    def _camera(self, params: dict[str, Any]) -> int:
        camera = params.get("camera")
        if camera is None:
            raise OverlayRefusal(102, "Required parameter missing: camera")
        if not _whole(camera) or not 1 <= camera <= max(1, self.views):
            raise OverlayRefusal(301, "Invalid value for parameter camera")
        return int(camera)

    def _identity(self, params: dict[str, Any], held: dict[int, dict[str, Any]]) -> int:
        identity = params.get("identity")
        if identity is None:
            raise OverlayRefusal(102, "Required parameter missing: identity")
        if not _whole(identity) or identity not in held:
            raise OverlayRefusal(302, "Invalid value for parameter identity")
        return int(identity)

    def _text_fields(self, params: dict[str, Any]) -> dict[str, Any]:
        fields = self._placing(params)
        if "text" in params:
            if not isinstance(params["text"], str) or len(params["text"]) > MAX_TEXT:
                raise OverlayRefusal(304, "Invalid value for parameter text")
            fields["text"] = params["text"]
        for name, code in _COLOUR_CODES.items():
            if name in params:
                if params[name] not in COLOURS:
                    raise OverlayRefusal(code, f"Invalid value for parameter {name}")
                fields[name] = params[name]
        if "fontSize" in params:
            if not _whole(params["fontSize"]) or not 0 <= params["fontSize"] <= 200:
                raise OverlayRefusal(309, "Invalid value for parameter fontSize")
            fields["fontSize"] = params["fontSize"]
        return fields

    def _image_fields(self, params: dict[str, Any]) -> dict[str, Any]:
        fields = self._placing(params)
        if "overlayPath" in params:
            if params["overlayPath"] not in self.files:
                raise OverlayRefusal(305, "Invalid value for parameter overlayPath")
            fields["overlayPath"] = params["overlayPath"]
        return fields

    def _placing(self, params: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        position = params.get("position")
        if position is not None:
            if isinstance(position, list) and len(position) == 2 and all(_within(part) for part in position):
                if self.rounding is not None:
                    position = [round(part / self.rounding) * self.rounding for part in position]
            elif position not in POSITIONS:
                raise OverlayRefusal(303, "Invalid value for parameter position")
            fields["position"] = position
        if "visible" in params:
            if not isinstance(params["visible"], bool):
                raise OverlayRefusal(311, "Invalid value for parameter visible")
            fields["visible"] = params["visible"]
        return fields


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1 <= value <= 1


def overlay_texts(device: Device) -> list[str]:
    """Texts that lie on the picture now, dynamic ones with their slots filled in, the legacy one first."""
    shown = []
    if device.params.flag("Image.I0.Text.TextEnabled"):
        shown.append(device.params.get("Image.I0.Text.String"))
    if device.has("dynamicoverlay"):
        overlays = device.slot(Overlays)
        for overlay in overlays.texts.values():
            if overlay["camera"] == 1 and overlay["visible"]:
                text = str(overlay["text"])
                for slot in range(16, 0, -1):
                    text = text.replace(f"#D{slot}", overlays.slots.get((1, slot), ""))
                shown.append(text.replace("#D", overlays.slots.get((1, 1), "")))
    return shown
