"""asset_list: pages that add up."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tasks.core.errors import InvalidParameters, NotFound


@pytest_asyncio.fixture
async def seven(call) -> None:
    for number in range(7):
        await call(
            "asset_create", hostname=f"h{number}", address=f"10.0.0.{20 - number}", type="camera" if number % 2 else "server",
            owner="NOC west" if number < 3 else "facility", tags=["even"] if number % 2 == 0 else [],
        )  # fmt: skip
    await call("asset_create", hostname="h0", site="north")


async def test_pages_add_up_to_the_total(call, seven) -> None:
    pages = [await call("asset_list", page=number, page_size=3) for number in (1, 2, 3)]
    assert [[asset.hostname for asset in page.assets] for page in pages] == [
        ["h0", "h1", "h2"],
        ["h3", "h4", "h5"],
        ["h6"],
    ]
    assert {(page.total, page.pages) for page in pages} == {(7, 3)}
    assert pages[1].headline() == "7 assets, page 2 of 3"
    beyond = await call("asset_list", page=9, page_size=3)
    assert (beyond.assets, beyond.total) == ([], 7)


async def test_filters_narrow_the_total_as_well(call, seven) -> None:
    assert (await call("asset_list", type="CAMERA")).total == 3
    assert (await call("asset_list", owner="noc")).total == 3
    assert (await call("asset_list", tags=["even"], owner="facility")).total == 2
    assert (await call("asset_list", site="*")).total == 8
    assert (await call("asset_list", site="north")).total == 1
    assert (await call("asset_list", status="missing")).total == 0


async def test_sorting_by_address_is_by_number_not_by_text(call, seven) -> None:
    await call("asset_create", address="10.0.0.9")
    listed = await call("asset_list", sort="address", page_size=2)
    assert [asset.address for asset in listed.assets] == ["10.0.0.9", "10.0.0.14"]


async def test_archived_assets_are_left_out_unless_asked_for(call, seven) -> None:
    await call("asset_update", asset="h1", status="archived")
    assert (await call("asset_list")).total == 6
    assert (await call("asset_list", include_archived=True)).total == 7
    assert [asset.hostname for asset in (await call("asset_list", status="archived")).assets] == ["h1"]


async def test_an_empty_inventory_has_one_empty_page_and_an_unknown_site_is_said(call) -> None:
    listed = await call("asset_list")
    assert (listed.assets, listed.total, listed.pages) == ([], 0, 1)
    with pytest.raises(NotFound):
        await call("asset_list", site="nowhere")


@pytest.mark.parametrize(
    "params", [{"page": 0}, {"page_size": 0}, {"page_size": 501}, {"page": "x"}, {"offset": 3}, {"sort": "1"}]
)
async def test_a_wrong_parameter_is_named(call, params: dict[str, object]) -> None:
    with pytest.raises(InvalidParameters, match=next(iter(params))):
        await call("asset_list", **params)
