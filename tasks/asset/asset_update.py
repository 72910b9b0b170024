"""Change what is known of an asset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.asset._asset import (
    TIMEOUT,
    Asset,
    AssetReference,
    HostMac,
    Hostname,
    IpAddress,
    Metadata,
    Serial,
    SettableStatus,
    Tags,
    Text,
)
from tasks.asset._edit import Editor
from tasks.core.db import assets
from tasks.core.db.engine import database
from tasks.core.models import Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool

Clearable = Literal[
    "hostname", "address", "mac", "serial", "type", "environment", "location", "owner", "vendor", "model", "firmware", "os", "tags",
    "metadata",
]  # fmt: skip


class AssetUpdate(SiteParams):
    """Which asset, and the fields that shall change; what is not given stays."""

    asset: AssetReference = Field(description="Number of the asset, or its name.")
    version: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Change it only if it still has this version, as it was when you looked."
    )
    hostname: Hostname | None = Field(None, description="Its name, unique within the site.")
    address: IpAddress | None = Field(None, description="Its address.")
    mac: HostMac | None = Field(None, description="Its MAC address, in any notation.")
    serial: Serial | None = Field(None, description="Its serial number.")
    type: Text | None = Field(None, description="What it is: camera, printer, server.")
    status: SettableStatus | None = Field(None, description="Where it stands; missing and stale follow from scans.")
    environment: Text | None = Field(None, description="What it is for: production, test.")
    location: Text | None = Field(None, description="Where it stands.")
    owner: Text | None = Field(None, description="Who answers for it.")
    vendor: Text | None = Field(None, description="Who made it.")
    model: Text | None = Field(None, description="Its model.")
    firmware: Text | None = Field(None, description="Its firmware version.")
    os: Text | None = Field(None, description="Its operating system.")
    tags: Tags | None = Field(None, description="All its tags: these replace the ones it has.")
    metadata: Metadata | None = Field(
        None, description="Keys to set, as JSON; other keys stay, a key set to null is removed."
    )
    # A list of its own, because null means "not given" wherever parameters have been through a form or a file.
    clear: Annotated[list[Clearable], Field(max_length=14)] = Field(
        default_factory=list, description="Fields to empty."
    )

    @model_validator(mode="after")
    def _says_something(self) -> AssetUpdate:
        given = self.given()
        both = [name for name in self.clear if name in given]
        if both:
            raise ValueError(f"{both[0]} is to be set and to be emptied; give one of the two")
        if not given and not self.clear:
            raise ValueError("give at least one field to change")
        return self

    def given(self) -> dict[str, Any]:
        """The fields to set."""
        return {name: value for name in assets.COLUMNS if (value := getattr(self, name)) is not None}

    def about(self) -> str:
        return self.asset


class AssetUpdated(ToolResult):
    """The asset as it is now, and what it was."""

    asset: Asset = Field(description="The asset.")
    before: dict[str, Any] = Field(description="What the changed fields were.")

    def headline(self) -> str:
        if not self.before:
            return f"Asset {self.asset.id} ({self.asset.label()}) was so already"
        return f"Asset {self.asset.id} ({self.asset.label()}): changed {', '.join(self.before)}"


@tool(
    service=Service.ASSET,
    safety=Safety.CHANGE,
    timeout=TIMEOUT,
    retries=2,
    idempotent=True,  # values are set, not counted; a lost answer followed by a second call changes nothing further
    examples=[
        Example("Say who answers for it", {"asset": "lobby-cam", "owner": "facility", "location": "Lobby"}),
        Example("Only if nobody else changed it", {"asset": "12", "version": 3, "address": "10.1.0.7"}),
        Example("Empty fields", {"asset": "12", "clear": ["owner", "location"]}),
    ],
)
async def asset_update(params: AssetUpdate) -> AssetUpdated:
    """Change given fields of an asset; scans do not overrule them afterwards."""
    editor = Editor(params.site, current_run().id)
    emptied: list[str] = [*params.clear]
    values: dict[str, Any] = {**params.given(), **dict.fromkeys(emptied)}
    asset, before = await database().run(
        lambda connection: editor.update(connection, params.asset, values, params.version), timeout=TIMEOUT - 1
    )
    return AssetUpdated(asset=asset, before=before)
