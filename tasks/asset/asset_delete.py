"""Delete an asset."""

from __future__ import annotations

from pydantic import Field

from tasks.asset._asset import TIMEOUT, Asset, AssetReference
from tasks.asset._edit import Editor
from tasks.core.db.engine import database
from tasks.core.models import Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool


class AssetDelete(SiteParams):
    """Which asset to delete."""

    asset: AssetReference = Field(description="Number of the asset, or its name.")
    confirm: str | None = Field(
        None, max_length=253, description="Repeat the number or name exactly; without it nothing is deleted."
    )

    def about(self) -> str:
        return self.asset


class AssetDeleted(ToolResult):
    """What was deleted."""

    asset: Asset = Field(description="The asset as it was.")
    merged: list[int] = Field(description="Assets that had been merged into it, deleted with it.")

    def headline(self) -> str:
        return f"Asset {self.asset.id} deleted: {self.asset.label()}"


@tool(
    service=Service.ASSET,
    safety=Safety.DESTROY,
    timeout=TIMEOUT,
    approval=True,
    examples=[
        Example("By name", {"asset": "lobby-cam", "confirm": "lobby-cam"}),
        Example("By number", {"asset": "12", "confirm": "12"}),
    ],
)
async def asset_delete(params: AssetDelete) -> AssetDeleted:
    """Delete an asset and return what it was; its history stays."""
    editor = Editor(params.site, current_run().id)
    asset, merged = await database().run(
        lambda connection: editor.delete(connection, params.asset), timeout=TIMEOUT - 1
    )
    return AssetDeleted(asset=asset, merged=merged)
