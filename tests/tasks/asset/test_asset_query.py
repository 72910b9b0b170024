"""asset_query: every way of asking finds what it should and nothing else, and what is asked for is data."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import pytest_asyncio

from tasks.core.errors import DatabaseGone, InvalidParameters, NotFound


@pytest_asyncio.fixture
async def fleet(call) -> dict[str, int]:
    """Six assets at two sites, by name."""
    made = [
        {"hostname": "cam-lobby", "address": "10.1.0.7", "mac": "00:40:8c:00:00:01", "type": "Camera", "vendor": "Axis Communications AB",
         "model": "P3245-LV", "owner": "Facility", "environment": "production", "tags": ["floor:0", "poe"],
         "metadata": {"rack": {"row": 4, "u": 2}}},
        {"hostname": "cam-roof", "address": "10.1.1.9", "mac": "00:40:8c:00:00:02", "type": "camera", "vendor": "Axis", "model": "Q6075-E",
         "owner": "facility", "environment": "Test", "tags": ["floor:9"], "metadata": {"rack": {"row": 5}}},
        {"hostname": "web1", "address": "2001:db8::1", "type": "server", "vendor": "Dell", "owner": "noc", "tags": ["poe", "floor:0"]},
        {"hostname": "a_b", "type": "server"},
        {"serial": "SN-NAMELESS", "vendor": "Zebra", "status": "planned"},
        {"hostname": "web1", "address": "10.1.0.7", "site": "north"},
    ]  # fmt: skip
    found: dict[str, int] = {}
    for params in made:
        asset = (await call("asset_create", **params)).asset
        found[f"{asset.site}/{asset.label()}" if asset.site != "default" else asset.label()] = asset.id
    return found


async def names(call: Any, **params: Any) -> list[str]:
    found = await call("asset_query", **params)
    assert found.total == len(found.assets)
    return [asset.label() for asset in found.assets]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["a_b", "cam-lobby", "cam-roof", "web1", "SN-NAMELESS"]),
        ({"hostname": "CAM"}, ["cam-lobby", "cam-roof"]),
        ({"hostname": "b"}, ["a_b", "cam-lobby", "web1"]),
        ({"address": "10.1.0.7"}, ["cam-lobby"]),
        ({"address": "10.1.0.0/16"}, ["cam-lobby", "cam-roof"]),
        ({"address": "::ffff:10.1.0.7"}, ["cam-lobby"]),
        ({"address": "2001:db8::/32"}, ["web1"]),
        ({"mac": "0040.8C00.0002"}, ["cam-roof"]),
        ({"mac": "00-40-8c-00-00-02"}, ["cam-roof"]),
        ({"type": "CAMERA"}, ["cam-lobby", "cam-roof"]),
        ({"type": "cam"}, []),
        ({"status": "planned"}, ["SN-NAMELESS"]),
        ({"environment": "test"}, ["cam-roof"]),
        ({"owner": "FACIL"}, ["cam-lobby", "cam-roof"]),
        ({"vendor": "axis"}, ["cam-lobby", "cam-roof"]),
        ({"model": "q60"}, ["cam-roof"]),
        ({"tags": ["poe"]}, ["cam-lobby", "web1"]),
        ({"tags": ["poe", "floor:0"]}, ["cam-lobby", "web1"]),
        ({"tags": ["poe", "floor:9"]}, []),
        ({"metadata": {"rack": {"row": 4}}}, ["cam-lobby"]),
        ({"metadata": {"rack": {"row": "4"}}}, []),
        ({"text": "AXIS facility"}, ["cam-lobby", "cam-roof"]),
        ({"text": "axis p3245"}, ["cam-lobby"]),
        ({"text": "axis noc"}, []),
        ({"vendor": "axis", "environment": "production", "address": "10.0.0.0/8"}, ["cam-lobby"]),
        ({"site": "north"}, ["web1"]),
        ({"site": "*", "hostname": "web1"}, ["web1", "web1"]),
        ({"sort": "-address"}, ["web1", "cam-roof", "cam-lobby", "SN-NAMELESS", "a_b"]),
    ],
    ids=str,
)
async def test_every_filter_finds_what_it_should(call, fleet, params: dict[str, Any], expected: list[str]) -> None:
    assert await names(call, **params) == expected


async def test_a_number_finds_one_asset_and_numbers_must_be_whole(call, fleet) -> None:
    assert await names(call, id=fleet["cam-roof"]) == ["cam-roof"]
    assert await names(call, id=fleet["north/web1"]) == [] != await names(call, id=fleet["north/web1"], site="*")
    for wrong in (0, -1, 1.5, "1; DROP TABLE asset", "1 OR 1=1", "x", 2**63):
        with pytest.raises(InvalidParameters, match="id"):
            await call("asset_query", id=wrong)


ODD = ["%", "_", "\\", "'", '"', "'; DROP TABLE asset; --", "%' OR '1'='1", "$1", ":site", "{0}", "%(site)s", "☃" * 60]


@pytest.mark.parametrize("field", ["hostname", "owner", "vendor", "model", "text", "type", "environment"])
async def test_what_is_asked_for_is_data(call, fleet, rows, field: str) -> None:
    for value in ODD:
        expected = ["a_b"] if (field, value) in {("hostname", "_"), ("text", "_")} else []
        assert await names(call, **{field: value}) == expected, value
    assert await rows("SELECT count(*) FROM asset") == [(6,)]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"address": "10.0.0.1/8"}, "10.0.0.0/8"),
        ({"mac": "xyz"}, "mac"),
        ({"status": "gone"}, "status"),
        ({"sort": "serial; DROP TABLE asset"}, "sort"),
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"hostname": "a\x00"}, "hostname"),
        ({"site": "No Site"}, "site"),
        ({"tags": ["a b"]}, "tags"),
        ({"colour": "red"}, "no such parameter"),
    ],
)
async def test_a_wrong_parameter_is_named(call, params: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidParameters, match=named):
        await call("asset_query", **params)


@pytest.mark.parametrize("sort", [f"{sign}{name}" for sign in ("", "-") for name in (
    "id", "hostname", "address", "type", "status", "vendor", "owner", "created_at", "updated_at", "last_seen")])  # fmt: skip
async def test_pages_of_any_sort_show_every_asset_once_in_the_order_of_one_big_page(call, change, sort: str) -> None:
    for number in range(12):
        params: dict[str, Any] = (
            {"address": f"10.0.0.{200 - number}"} if number % 3 else {"hostname": f"h{number % 5}-{number}"}
        )
        await call("asset_create", **params, type=["a", "b"][number % 2], **({"owner": "x"} if number % 4 else {}))
    await change("UPDATE asset SET last_seen = now() + id * interval '1.000001 s' WHERE id % 2 = 0")
    whole = [asset.id for asset in (await call("asset_query", sort=sort, limit=500)).assets]
    assert len(set(whole)) == 12
    pages, cursor = [], None
    while True:
        page = await call("asset_query", sort=sort, limit=5, **({"cursor": cursor} if cursor else {}))
        assert page.total == 12 and len(page.assets) <= 5
        pages += [asset.id for asset in page.assets]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert pages == whole


async def test_a_page_is_not_shaken_by_what_is_entered_meanwhile(call) -> None:
    for name in ("b", "d", "f"):
        await call("asset_create", hostname=name)
    page = await call("asset_query", limit=2)
    for name in ("a", "c", "e"):
        await call("asset_create", hostname=name)
    rest = await call("asset_query", limit=10, cursor=page.next_cursor)
    assert [asset.hostname for asset in (*page.assets, *rest.assets)] == ["b", "d", "e", "f"]


async def test_a_cursor_fits_only_the_search_it_came_from(call) -> None:
    for name in ("a", "b", "c"):
        await call("asset_create", hostname=name)
    cursor = (await call("asset_query", limit=1)).next_cursor
    fingerprint, key, number = json.loads(base64.urlsafe_b64decode(cursor + "=="))

    def made(*parts: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    for params in (
        {"sort": "-hostname", "cursor": cursor},
        {"hostname": "a", "cursor": cursor},
        {"cursor": "nonsense"},
        {"cursor": "ü"},
        {"cursor": made(fingerprint, key, "1; DROP TABLE asset")},
        {"cursor": made(fingerprint, [key], number)},
        {"cursor": made(fingerprint, key, True)},
        {"cursor": made(fingerprint)},
    ):
        with pytest.raises(InvalidParameters, match="cursor"):
            await call("asset_query", **params)


async def test_merged_assets_are_not_shown_and_archived_ones_when_asked(call, change, fleet) -> None:
    await change("UPDATE asset SET status = 'archived' WHERE hostname = 'cam-roof'")
    await change("UPDATE asset SET status = 'merged' WHERE hostname = 'a_b'")
    assert await names(call) == ["cam-lobby", "web1", "SN-NAMELESS"]
    assert await names(call, include_archived=True) == ["cam-lobby", "cam-roof", "web1", "SN-NAMELESS"]
    assert await names(call, status="archived") == ["cam-roof"]
    assert await names(call, id=fleet["a_b"]) == ["a_b"]


async def test_an_address_it_holds_beside_its_main_one_finds_it_too(call, change, fleet) -> None:
    await change(
        "INSERT INTO address (site_id, asset_id, ip, first_seen, last_seen) SELECT site_id, id, '172.20.0.1', now(), now()"
        " FROM asset WHERE id = :id", id=fleet["cam-lobby"],
    )  # fmt: skip
    found = await call("asset_query", address="172.16.0.0/12")
    assert found.assets[0].addresses == ["10.1.0.7", "172.20.0.1"] and found.headline().startswith(
        f"Asset {fleet['cam-lobby']}"
    )


async def test_an_unknown_site_is_said_and_an_empty_inventory_is_empty(call) -> None:
    assert await names(call) == []
    with pytest.raises(NotFound, match="no site 'nowhere'"):
        await call("asset_query", site="nowhere")


async def test_a_database_that_is_gone_is_said(perform, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.asset.asset_query import asset_query
    from tasks.core.db.engine import database
    from tasks.core.settings import settings

    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "postgresql://app:hunter2@/signalbox?host=/nowhere")
    settings.cache_clear()
    database.cache_clear()
    with pytest.raises(DatabaseGone) as caught:
        await perform(asset_query, {})
    database.cache_clear()
    assert "hunter2" not in str(caught.value)
