"""What a fleet of cameras should be like: firmware, clock, certificates, settings, recording. An audit measures by it."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, field_validator

_VERSION = re.compile(r"\d{1,4}(\.\d{1,5}){0,3}")


def version_numbers(text: str) -> tuple[int, ...]:
    """Return a firmware version as numbers that compare: `9.80.2.2` is less than `11.11.150`.

    >>> version_numbers("9.80.2.2") < version_numbers("11.11.150")
    True
    """
    return tuple(int(part) for part in re.findall(r"\d+", text)[:4])


class CameraPolicy(Block):
    """What an audit of cameras expects of them.

    Example:
        ```python
        CameraPolicy(
            minimum_firmware={"9.80": "9.80.72", "11.11": "11.11.150", "12": "12.6"},
            known_bad_firmware=["11.11.73"],
            masks_required=["10.20.0.0/24", "gate-west"],
        ).save("default")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "Camera Policy"
    _block_type_slug: ClassVar[str] = "camera-policy"
    _description: ClassVar[str] = "What audits expect of cameras; audits name it cameras/NAME."
    short: ClassVar[str] = "cameras"

    minimum_firmware: dict[str, str] = Field(
        default_factory=dict,
        description="Lowest version that is good enough, for each track: 11.11 to 11.11.150. A track is the beginning of a version; "
        "the longest that fits counts. Empty: versions are listed, not judged.",
    )
    other_tracks: Literal["accept", "report"] = Field(
        "accept", description="Whether firmware of a track that minimum_firmware does not name is a finding."
    )
    known_bad_firmware: list[str] = Field(
        default_factory=list, description="Versions that must not run anywhere, exactly as cameras report them."
    )
    clock_seconds: float = Field(
        5.0, ge=0.5, le=86_400, description="How far a camera's clock may be off, seconds, 0.5 to 86400."
    )
    certificate_days: int = Field(
        30, ge=0, le=3650, description="A certificate that ends within so many days is a finding, 0 to 3650."
    )
    require_https: bool = Field(True, description="Whether a camera that offers no HTTPS is a finding.")
    allow_ssh: bool = Field(False, description="Whether the SSH service may be on.")
    allow_upnp: bool = Field(False, description="Whether UPnP discovery may be on.")
    allow_anonymous: bool = Field(False, description="Whether anybody may view without an account.")
    require_storage: bool = Field(False, description="Whether a camera without a working card or share is a finding.")
    require_recording: bool = Field(False, description="Whether a camera that records nothing itself is a finding.")
    masks_required: list[str] = Field(
        default_factory=list,
        description="Cameras that must show at least one privacy mask: addresses, prefixes, serials or host names.",
    )
    black_below: float = Field(
        6.0, ge=0, le=255, description="Mean brightness below which a picture is called black, 0 to 255."
    )

    @field_validator("minimum_firmware")
    @classmethod
    def _tracks(cls, value: dict[str, str]) -> dict[str, str]:
        for track, version in value.items():
            if not _VERSION.fullmatch(track) or not _VERSION.fullmatch(version):
                raise ValueError("names tracks and versions as numbers with dots, such as 11.11 and 11.11.150")
            if version_numbers(version)[: len(version_numbers(track))] != version_numbers(track):
                raise ValueError(f"{version} is not a version of the track {track}")
        return value

    @field_validator("known_bad_firmware")
    @classmethod
    def _versions(cls, value: list[str]) -> list[str]:
        for version in value:
            if not _VERSION.fullmatch(version):
                raise ValueError("lists versions as numbers with dots, such as 11.11.73")
        return value

    def minimum_for(self, version: str) -> tuple[str, str] | None:
        """The track a version belongs to and the lowest version that is good enough there; None for a track not named."""
        numbers = version_numbers(version)
        fitting = [
            (track, least)
            for track, least in self.minimum_firmware.items()
            if numbers[: len(version_numbers(track))] == version_numbers(track)
        ]
        return max(fitting, key=lambda pair: len(version_numbers(pair[0])), default=None)
