"""asset_create: what is there already is not made twice, and what is no identity is not taken for one."""

from __future__ import annotations

import asyncio

import pytest

from blocks.policy import ProbePolicy
from tasks.core.errors import Conflict, InvalidParameters, Refused

AXIS = "00:40:8c:12:34:56"


async def test_an_asset_is_entered_with_its_identifiers_address_owner_and_history(call, rows) -> None:
    created = await call(
        "asset_create", hostname="Lobby-Cam.example.com.", address="::ffff:10.1.0.7", mac="0040.8C12.3456", vendor="Axis AB",
        serial="ACCC8E 012345", type="camera", tags=["floor:0", "floor:0", "öffentlich"], metadata={"rack": {"row": 4}},
    )  # fmt: skip
    asset = created.asset
    assert (asset.hostname, asset.address, asset.mac) == ("lobby-cam.example.com", "10.1.0.7", AXIS)
    assert (asset.tags, asset.metadata, asset.status, asset.version) == (
        ["floor:0", "öffentlich"], {"rack": {"row": 4}}, "active", 1,
    )  # fmt: skip
    assert asset.addresses == ["10.1.0.7"] and created.formerly is None and "lobby-cam" in created.headline()
    assert await rows("SELECT kind, value, strength FROM asset_identifier ORDER BY kind") == [
        ("hostname", "lobby-cam.example.com", "weak"), ("mac", AXIS, "strong"), ("serial", "axis:accc8e012345", "strong"),
    ]  # fmt: skip
    assert await rows("SELECT host(ip), state, method FROM address") == [("10.1.0.7", "held", "user")]
    owned = await rows("SELECT field FROM asset_field_source WHERE source = 'user' AND rank = 100 ORDER BY field")
    assert {"hostname", "primary_ip", "mac", "serial", "tags"} <= {field for (field,) in owned}
    assert await rows("SELECT kind, asset_id, subject, source, run_id IS NOT NULL FROM asset_event") == [
        ("created", asset.id, "lobby-cam.example.com", "user", True)
    ]


@pytest.mark.parametrize(
    "one", [{"hostname": "a"}, {"address": "fe80::1"}, {"mac": "02:00:00:00:00:01"}, {"serial": "SN-4711"}]
)
async def test_any_one_name_is_enough(call, one: dict[str, str]) -> None:
    assert (await call("asset_create", **one)).asset.id > 0


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "hostname, address, mac or serial"),
        ({"vendor": "Axis"}, "hostname, address, mac or serial"),
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "10.0.0.1"}, "hostname"),
        ({"hostname": "-a"}, "hostname"),
        ({"hostname": "a\x00b"}, "hostname"),
        ({"address": "10.0.0.256"}, "address"),
        ({"address": "10.0.0.0/24"}, "address"),
        ({"address": "0.0.0.0"}, "address"),
        ({"address": "224.0.0.1"}, "address"),
        ({"address": "fe80::1%eth0"}, "address"),
        ({"mac": "00:40:8c"}, "mac"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "mac"),
        ({"mac": "01:00:5e:00:00:01"}, "mac"),
        ({"serial": "To be filled by O.E.M."}, "serial"),
        ({"hostname": "a", "tags": ["with blank"]}, "tags"),
        ({"hostname": "a", "tags": [""]}, "tags"),
        ({"hostname": "a", "metadata": {"x": "\x00"}}, "metadata"),
        ({"hostname": "a", "metadata": {"x": float("nan")}}, "metadata"),
        ({"hostname": "a", "metadata": {"x": "y" * 20_000}}, "metadata"),
        ({"hostname": "a", "owner": "two\nlines"}, "owner"),
        ({"hostname": "a", "status": "missing"}, "status"),
        ({"hostname": "a", "colour": "red"}, "colour: no such parameter"),
    ],
)
async def test_a_wrong_shape_is_named_and_nothing_is_entered(call, rows, params: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidParameters, match=named):
        await call("asset_create", **params)
    assert await rows("SELECT count(*) FROM asset") == [(0,)]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({"mac": AXIS}, {"mac": "0040.8c12.3456", "hostname": "other"}, "MAC address"),
        (
            {"vendor": "Axis AB", "serial": "SN-1"},
            {"vendor": "AXIS", "serial": "sn-1", "hostname": "b"},
            "serial number",
        ),
        ({"serial": "SN-1"}, {"vendor": "Axis", "serial": "sn-1"}, "serial number"),
        ({"hostname": "Web1"}, {"hostname": "WEB1"}, "name"),
        ({"address": "10.0.0.1"}, {"address": "::ffff:10.0.0.1", "hostname": "b"}, "address"),
    ],
)
async def test_a_twin_is_refused_with_the_number_of_the_one_that_is_there(
    call, rows, first: dict[str, str], second: dict[str, str], what: str
) -> None:
    there = (await call("asset_create", **first)).asset
    with pytest.raises(Conflict, match=rf"Asset {there.id} .*{what}"):
        await call("asset_create", **second)
    assert await rows("SELECT count(*), (SELECT count(*) FROM asset_event) FROM asset") == [(1, 1)]


async def test_what_is_no_identity_makes_no_twin(call) -> None:
    await call("asset_create", vendor="Axis", serial="SN-1")
    await call("asset_create", vendor="Bosch", serial="SN-1")  # vendors number alike
    await call("asset_create", mac="02:00:00:00:00:01")
    await call("asset_create", mac="02:00:00:00:00:01")  # a random MAC may come twice
    await call("asset_create", hostname="web1", address="10.0.0.5", mac=AXIS)
    await call(
        "asset_create", hostname="web1", address="10.0.0.5", mac=AXIS, site="north"
    )  # another site, another host


async def test_five_at_once_make_one(call, rows) -> None:
    made = await asyncio.gather(
        *(call("asset_create", mac=AXIS, hostname="cam") for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in made) == 4
    assert await rows("SELECT count(*) FROM asset") == [(1,)]


async def test_an_archived_asset_gives_name_and_address_to_its_successor(call, rows) -> None:
    old = (await call("asset_create", hostname="web1", address="10.0.0.5")).asset
    await call("asset_update", asset=old.id, status="archived")
    new = (await call("asset_create", hostname="web1", address="10.0.0.5")).asset
    assert await rows("SELECT asset_id, state FROM address ORDER BY asset_id") == [
        (old.id, "released"),
        (new.id, "held"),
    ]
    with pytest.raises(Conflict, match=f"Asset {new.id}"):
        await call("asset_update", asset=str(old.id), status="active")


async def test_a_virtual_routers_address_is_nobodys(call, change) -> None:
    await call("asset_create", hostname="a")
    await change(
        "INSERT INTO address (site_id, ip, kind, first_seen, last_seen) SELECT id, '10.0.0.1', 'virtual', now(), now() FROM site"
    )
    with pytest.raises(Conflict, match="virtual address"):
        await call("asset_create", address="10.0.0.1")


async def test_a_deleted_device_that_comes_back_is_known_again(call, rows) -> None:
    old = (await call("asset_create", vendor="Axis", serial="SN-1", hostname="cam")).asset
    await call("asset_delete", asset="cam", confirm="cam")
    again = await call("asset_create", vendor="Axis", serial="SN-1", hostname="cam")
    assert again.formerly == old.id != again.asset.id and str(old.id) in again.headline()


async def test_the_candidate_it_was_is_closed(call, change, rows) -> None:
    await call("asset_create", hostname="a")
    await change(
        "INSERT INTO candidate (site_id, kind, key, reason, first_seen, last_seen)"
        " SELECT id, 'icmp_only', '10.0.0.9', 'answers', now(), now() FROM site"
    )
    created = (await call("asset_create", address="10.0.0.9")).asset
    assert await rows("SELECT state, asset_id FROM candidate") == [("resolved", created.id)]


async def test_a_site_that_only_allows_reading_enters_nothing(perform, inventory, rows) -> None:
    from tasks.asset.asset_create import asset_create

    with pytest.raises(Refused, match="ceiling"):
        await perform(asset_create, {"hostname": "a"}, policy=ProbePolicy(ceiling="probe"))
    assert await rows("SELECT count(*) FROM asset") == [(0,)]
