"""The picture's settings: what this project calls them, and where cameras keep them. Nothing else of the tree is ever written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where cameras keep one setting.

    Attributes:
        parameters: Names below the image source's number, newest first; `{n}` is the number.
        switch: Whether it is on or off, in whichever words the camera has for it.
    """

    parameters: tuple[str, ...]
    switch: bool = False


def _sensor(*names: str, switch: bool = False) -> Place:
    return Place(tuple(f"ImageSource.I{{n}}.Sensor.{name}" for name in names), switch)


def _appearance(name: str, *, switch: bool = False) -> Place:
    return Place((f"Image.I{{n}}.Appearance.{name}",), switch)


PLACES: dict[str, Place] = {
    "brightness": _sensor("Brightness"),
    # Analogue models of the 5.51 time keep two of them below Video.
    "contrast": Place(("ImageSource.I{n}.Sensor.Contrast", "ImageSource.I{n}.Video.Contrast")),
    "color_level": Place(("ImageSource.I{n}.Sensor.ColorLevel", "ImageSource.I{n}.Video.Saturation")),
    "sharpness": _sensor("Sharpness"),
    "local_contrast": _sensor("LocalContrast"),
    "tone_mapping": _sensor("ToneMapping"),
    "white_balance": _sensor("WhiteBalance"),
    "red_balance": _sensor("RedBalance"),
    "blue_balance": _sensor("BlueBalance"),
    "exposure": _sensor("Exposure"),
    "exposure_value": _sensor("ExposureValue"),
    "exposure_priority": _sensor("ExposurePriority", "ExposurePriorityNormal"),
    "exposure_window": _sensor("ExposureWindow"),
    "min_exposure_time": _sensor("MinExposureTime"),
    "max_exposure_time": _sensor("MaxExposureTime"),
    "min_gain": _sensor("MinGain"),
    "max_gain": _sensor("MaxGain"),
    "wdr": _sensor("WDR", switch=True),
    "wdr_level": _sensor("WDRLevel"),
    "backlight_compensation": _sensor("BacklightCompensation", switch=True),
    "defog": _sensor("Defog"),
    "defog_effect": _sensor("DefogEffect"),
    "stabilizer": _sensor("Stabilizer", switch=True),
    "spatial_noise_filter": _sensor("SNF"),
    "temporal_noise_filter": _sensor("TNF"),
    "scene_profile": Place(("ImageSource.I{n}.SceneProfile",)),
    "compression": _appearance("Compression"),
    "mirror": _appearance("MirrorEnabled", switch=True),
    "rotation": _appearance("Rotation"),
    "sensor_protector": _sensor("SensorProtector"),
}
"""Every setting, in the order they are written: the scene profile goes ahead of the others by itself."""


def groups(source: int) -> list[str]:
    """The parameter groups that hold the settings of an image source."""
    return [f"ImageSource.I{source}", f"Image.I{source}.Appearance"]


def found(setting: str, source: int, there: Iterable[str]) -> str | None:
    """Return the name under which a camera has a setting, or None when it has none.

    >>> found("contrast", 0, ["ImageSource.I0.Video.Contrast"])
    'ImageSource.I0.Video.Contrast'
    """
    known = set(there)
    return next((name for spot in PLACES[setting].parameters if (name := spot.format(n=source)) in known), None)


def names(source: int, there: Iterable[str]) -> dict[str, str]:
    """The settings a camera has: its parameter -> our name."""
    known = list(there)
    return {parameter: setting for setting in PLACES if (parameter := found(setting, source, known)) is not None}
