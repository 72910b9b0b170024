"""Search the inventory."""

from __future__ import annotations

from pydantic import Field

from tasks.asset._asset import LARGEST_ID, TIMEOUT, AnySite, Asset, Metadata, Status, Tags, Text
from tasks.asset._pages import Sort, read_cursor, write_cursor
from tasks.core.db import assets
from tasks.core.db.engine import database
from tasks.core.models import Example, Mac, Safety, Service, SiteParams, ToolResult
from tasks.core.models import Target as AddressOrPrefix
from tasks.core.tool import tool
from tasks.core.words import count


class AssetQuery(SiteParams):
    """What to look for; all that is given must hold."""

    site: AnySite = Field("default", description="The site, or * for all sites.")
    text: Text | None = Field(
        None,
        description="Words that must all occur in name, vendor, model, serial, owner, location or operating system.",
    )
    id: int | None = Field(None, ge=1, le=LARGEST_ID, description="Number of the asset.")
    hostname: Text | None = Field(None, description="Part of the name, in any case.")
    address: AddressOrPrefix | None = Field(
        None, description="An address, or a prefix such as 10.1.0.0/16: any address it holds."
    )
    mac: Mac | None = Field(None, description="A MAC address in any notation.")
    type: Text | None = Field(None, description="What it is, in any case: camera, printer.")
    status: Status | None = Field(None, description="Where it stands.")
    environment: Text | None = Field(None, description="What it is for, in any case: production.")
    owner: Text | None = Field(None, description="Part of the owner's name, in any case.")
    vendor: Text | None = Field(None, description="Part of the vendor's name, in any case.")
    model: Text | None = Field(None, description="Part of the model, in any case.")
    tags: Tags | None = Field(None, description="Tags it must all have.")
    metadata: Metadata | None = Field(None, description="What its metadata must contain, as JSON.")
    include_archived: bool = Field(False, description="Show archived assets as well.")
    sort: Sort = Field(
        "hostname", description="Field to sort by; -last_seen: the largest first. Assets without one come last."
    )
    limit: int = Field(50, ge=1, le=500, description="Most assets to return, 1 to 500.")
    cursor: str | None = Field(None, max_length=1000, description="Where the page before ended (its `next_cursor`).")

    def about(self) -> str:
        given = self.model_dump(
            exclude_none=True, exclude_defaults=True, exclude={"cursor", "limit", "sort"}, mode="json"
        )
        return ", ".join(f"{name}={value}" for name, value in given.items())[:500]


class AssetsFound(ToolResult):
    """A page of assets."""

    assets: list[Asset] = Field(description="The assets of this page.")
    total: int = Field(description="How many there are in all.")
    next_cursor: str | None = Field(description="Give it to get the next page; none: this was the last one.")

    def headline(self) -> str:
        if not self.total:
            return "No asset matches"
        if self.total == len(self.assets) == 1:
            return f"Asset {self.assets[0].id}: {self.assets[0].label()}"
        return (
            count(self.total, "asset")
            if len(self.assets) == self.total
            else f"{len(self.assets)} of {count(self.total, 'asset')}"
        )


@tool(
    service=Service.ASSET,
    safety=Safety.READ,
    timeout=TIMEOUT,
    retries=2,
    examples=[
        Example("Everything of a vendor in a network", {"vendor": "axis", "address": "10.1.0.0/16"}),
        Example("Who has this MAC, at any site", {"mac": "AABB.CCDD.EEFF", "site": "*"}),
        Example("Free text, newest sightings first", {"text": "lobby camera", "sort": "-last_seen"}),
        Example("By tag and metadata", {"tags": ["floor:2"], "metadata": {"rack": {"row": 4}}}),
    ],
)
async def asset_query(params: AssetQuery) -> AssetsFound:
    """Search assets by any field, free text, network, tags or metadata."""
    filters = params.model_dump(
        include={
            "id",
            "hostname",
            "mac",
            "type",
            "status",
            "environment",
            "owner",
            "vendor",
            "model",
            "tags",
            "metadata",
        }
    )
    filters["network"] = params.address
    filters["site"] = None if params.site == "*" else params.site
    words = params.text.split() if params.text else []
    search = {**filters, "words": words, "archived": params.include_archived, "sort": params.sort}
    after = read_cursor(params.cursor, search)
    page = await database().run(
        lambda connection: assets.search(
            connection,
            filters,
            words=words,
            archived=params.include_archived,
            sort=params.sort.removeprefix("-"),
            descending=params.sort.startswith("-"),
            limit=params.limit,
            after=after,
        ),
        timeout=TIMEOUT - 1,
    )
    return AssetsFound(
        assets=[Asset.of(row) for row in page.rows], total=page.total, next_cursor=write_cursor(page.end, search)
    )
