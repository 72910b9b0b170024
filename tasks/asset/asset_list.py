"""List the inventory page by page."""

from __future__ import annotations

from pydantic import Field

from tasks.asset._asset import TIMEOUT, AnySite, Asset, Status, Tags, Text
from tasks.asset._pages import Sort
from tasks.core.db import assets
from tasks.core.db.engine import database
from tasks.core.models import Example, Safety, Service, SiteParams, ToolResult
from tasks.core.tool import tool
from tasks.core.words import count


class AssetList(SiteParams):
    """Which page of which assets."""

    site: AnySite = Field("default", description="The site, or * for all sites.")
    type: Text | None = Field(None, description="Only what is of this type, in any case: camera, printer.")
    status: Status | None = Field(None, description="Only what stands so.")
    environment: Text | None = Field(None, description="Only what is for this, in any case: production.")
    owner: Text | None = Field(None, description="Only what this owner has: part of the name, in any case.")
    tags: Tags | None = Field(None, description="Only what has all these tags.")
    include_archived: bool = Field(False, description="List archived assets as well.")
    sort: Sort = Field(
        "hostname", description="Field to sort by; -last_seen: the largest first. Assets without one come last."
    )
    page: int = Field(1, ge=1, le=1_000_000, description="Number of the page, from 1.")
    page_size: int = Field(50, ge=1, le=500, description="Assets on a page, 1 to 500.")

    def about(self) -> str:
        return f"site {self.site}, page {self.page}"


class AssetsListed(ToolResult):
    """A page of the inventory."""

    assets: list[Asset] = Field(description="The assets of this page.")
    total: int = Field(description="How many there are in all.")
    page: int = Field(description="Number of this page.")
    pages: int = Field(description="How many pages there are.")

    def headline(self) -> str:
        return count(self.total, "asset") + (f", page {self.page} of {self.pages}" if self.pages > 1 else "")


@tool(
    service=Service.ASSET,
    safety=Safety.READ,
    timeout=TIMEOUT,
    retries=2,
    examples=[
        Example("The first page", {}),
        Example("Missing cameras of all sites", {"site": "*", "type": "camera", "status": "missing"}),
        Example("The second hundred, by address", {"page": 2, "page_size": 100, "sort": "address"}),
    ],
)
async def asset_list(params: AssetList) -> AssetsListed:
    """List assets page by page, with the total."""
    filters = params.model_dump(include={"type", "status", "environment", "owner", "tags"})
    filters["site"] = None if params.site == "*" else params.site
    page = await database().run(
        lambda connection: assets.search(
            connection,
            filters,
            archived=params.include_archived,
            sort=params.sort.removeprefix("-"),
            descending=params.sort.startswith("-"),
            limit=params.page_size,
            offset=(params.page - 1) * params.page_size,
        ),
        timeout=TIMEOUT - 1,
    )
    pages = max(1, -(-page.total // params.page_size))
    return AssetsListed(assets=[Asset.of(row) for row in page.rows], total=page.total, page=params.page, pages=pages)
