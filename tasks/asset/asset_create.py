"""Enter an asset by hand."""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks.asset._asset import (
    TIMEOUT,
    Asset,
    HostMac,
    Hostname,
    IpAddress,
    Metadata,
    Serial,
    SettableStatus,
    Tags,
    Text,
)
from tasks.asset._edit import NAMING, Editor
from tasks.core.db import assets
from tasks.core.db.engine import database
from tasks.core.models import Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool


class AssetCreate(SiteParams):
    """What is known of the new asset: at least its name, address, MAC or serial number."""

    hostname: Hostname | None = Field(None, description="Its name, unique within the site.")
    address: IpAddress | None = Field(None, description="Its address.")
    mac: HostMac | None = Field(None, description="Its MAC address, in any notation.")
    serial: Serial | None = Field(
        None, description="Its serial number; together with the vendor it identifies the device."
    )
    type: Text | None = Field(None, description="What it is: camera, printer, server.")
    status: SettableStatus = Field("active", description="active, or planned for what is not there yet.")
    environment: Text | None = Field(None, description="What it is for: production, test.")
    location: Text | None = Field(None, description="Where it stands.")
    owner: Text | None = Field(None, description="Who answers for it.")
    vendor: Text | None = Field(None, description="Who made it.")
    model: Text | None = Field(None, description="Its model.")
    firmware: Text | None = Field(None, description="Its firmware version.")
    os: Text | None = Field(None, description="Its operating system.")
    tags: Tags = Field(
        default_factory=list, description="Tags, at most 50: letters, digits and . : / @ + = - _, no blanks."
    )
    metadata: Metadata = Field(
        default_factory=dict, description="Whatever else is worth noting, as JSON, at most 16 KiB."
    )

    @model_validator(mode="after")
    def _can_be_found(self) -> AssetCreate:
        if not any(getattr(self, name) for name in NAMING):
            raise ValueError("give at least one of hostname, address, mac or serial")
        return self

    def about(self) -> str:
        return self.hostname or self.address or self.mac or self.serial or ""


class AssetCreated(ToolResult):
    """The new asset."""

    asset: Asset = Field(description="The asset.")
    formerly: int | None = Field(
        description="The number it had before it was deleted, if its serial number or MAC is known from then."
    )

    def headline(self) -> str:
        again = f" (known before as asset {self.formerly})" if self.formerly else ""
        return f"Asset {self.asset.id} created: {self.asset.label()}{again}"


@tool(
    service=Service.ASSET,
    safety=Safety.CHANGE,
    timeout=TIMEOUT,
    examples=[
        Example(
            "A camera",
            {
                "hostname": "lobby-cam",
                "mac": "00:40:8c:12:34:56",
                "vendor": "Axis",
                "type": "camera",
                "tags": ["floor:0"],
            },
        ),
        Example("What will come", {"hostname": "printer-9", "status": "planned", "owner": "office"}),
    ],
)
async def asset_create(params: AssetCreate) -> AssetCreated:
    """Enter an asset by hand, unless it is there already."""
    editor = Editor(params.site, current_run().id)
    values = params.model_dump(include=set(assets.COLUMNS))
    if not values["tags"]:
        del values["tags"]
    if not values["metadata"]:
        del values["metadata"]
    asset, formerly = await database().run(lambda connection: editor.create(connection, values), timeout=TIMEOUT - 1)
    return AssetCreated(asset=asset, formerly=formerly)
