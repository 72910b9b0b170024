"""asset_update: only what was given, only if nobody was faster, and scans do not overrule it."""

from __future__ import annotations

import asyncio

import pytest

from tasks.core.errors import Conflict, InvalidParameters, NotFound

AXIS = "00:40:8c:12:34:56"


async def test_only_given_fields_change_and_each_change_is_history(call, rows) -> None:
    made = (
        await call("asset_create", hostname="cam", owner="noc", type="camera", tags=["a"], metadata={"x": 1, "y": 2})
    ).asset
    done = await call(
        "asset_update", asset="CAM", owner="facility", location="Lobby", tags=["b"], metadata={"y": None, "z": 3}
    )
    now = done.asset
    assert (now.owner, now.location, now.type, now.tags, now.metadata) == (
        "facility",
        "Lobby",
        "camera",
        ["b"],
        {"x": 1, "z": 3},
    )
    assert done.before == {"owner": "noc", "location": None, "tags": ["a"], "metadata": {"x": 1, "y": 2}}
    assert now.version == made.version + 1 and now.updated_at > made.updated_at
    assert await rows("SELECT field, before, after FROM asset_event WHERE kind = 'updated' AND field IN ('owner', 'tags')"
        " ORDER BY field") == [
        ("owner", "noc", "facility"), ("tags", ["a"], ["b"]),
    ]  # fmt: skip
    assert await rows("SELECT source, rank FROM asset_field_source WHERE field = 'location'") == [("user", 100)]
    assert "owner" in done.headline()


async def test_an_asset_is_named_by_number_or_name_and_never_by_anything_else(call) -> None:
    made = (await call("asset_create", hostname="cam")).asset
    for reference in (made.id, str(made.id), " cam. ", "Cam"):
        assert (await call("asset_update", asset=reference, owner="x")).asset.id == made.id
    for wrong in (0, -1, "1.5", 1.5, "1e3 OR 1=1", "'; DROP TABLE asset; --", "%", "", True, None, 2**63, "10.0.0.1"):
        with pytest.raises(InvalidParameters, match="asset"):
            await call("asset_update", asset=wrong, owner="x")
    for missing in (made.id + 1, "came", "ca_", str(2**63 - 1)):
        with pytest.raises((NotFound, InvalidParameters)):
            await call("asset_update", asset=missing, owner="x")


async def test_an_asset_of_another_site_is_not_found_here(call) -> None:
    north = (await call("asset_create", hostname="cam", site="north")).asset
    with pytest.raises(NotFound, match="no site 'default'"):
        await call("asset_update", asset="cam", owner="x")
    here = (await call("asset_create", hostname="cam")).asset
    with pytest.raises(NotFound, match="--site north"):
        await call("asset_update", asset=north.id, owner="x")
    assert (await call("asset_update", asset="cam", owner="x")).asset.id == here.id


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "at least one field"),
        ({"colour": "red"}, "colour: no such parameter; there are site, asset"),
        ({"clear": ["colour"]}, "clear"),
        ({"owner": "x", "clear": ["owner"]}, "owner"),
        ({"owner": "x", "version": 0}, "version"),
        ({"mac": "zz"}, "mac"),
    ],
)
async def test_a_wrong_parameter_is_named(call, params: dict[str, object], named: str) -> None:
    await call("asset_create", hostname="cam")
    with pytest.raises(InvalidParameters, match=named):
        await call("asset_update", **{"asset": "cam", **params})


async def test_who_was_slower_gets_a_conflict_and_the_faster_ones_change_stays(call) -> None:
    made = (await call("asset_create", hostname="cam")).asset
    results = await asyncio.gather(
        *(call("asset_update", asset="cam", version=made.version, owner=f"team{n}") for n in range(4)),
        return_exceptions=True,
    )
    won = [result for result in results if not isinstance(result, BaseException)]
    assert len(won) == 1 and all(isinstance(result, Conflict) for result in results if result is not won[0])
    with pytest.raises(Conflict, match=f"version {made.version + 1}, not {made.version}"):
        await call("asset_update", asset="cam", version=made.version, owner="late")
    assert (await call("asset_query", hostname="cam")).assets[0].owner == won[0].asset.owner


async def test_the_same_update_again_changes_nothing_even_with_the_old_version(call, rows) -> None:
    made = (await call("asset_create", hostname="cam")).asset
    for _ in range(2):  # the answer to the first was lost
        done = await call("asset_update", asset="cam", version=made.version, owner="noc")
    assert done.before == {} and done.asset.version == made.version + 1 and "already" in done.headline()
    assert await rows("SELECT count(*) FROM asset_event WHERE kind = 'updated'") == [(1,)]


async def test_emptied_fields_are_free_for_whoever_knows_and_one_name_always_stays(call, rows) -> None:
    await call("asset_create", hostname="cam", mac=AXIS, owner="noc", tags=["a"], metadata={"x": 1})
    done = await call("asset_update", asset="cam", clear=["owner", "tags", "metadata", "mac"])
    assert (done.asset.owner, done.asset.tags, done.asset.metadata, done.asset.mac) == (None, [], {}, None)
    assert await rows("SELECT field FROM asset_field_source WHERE field IN ('owner', 'mac')") == []
    assert await rows("SELECT value, active FROM asset_identifier WHERE kind = 'mac'") == [(AXIS, False)]
    with pytest.raises(InvalidParameters, match="to find it by"):
        await call("asset_update", asset="cam", clear=["hostname"])


async def test_address_mac_and_serial_move_with_their_rows(call, rows) -> None:
    made = (
        await call("asset_create", hostname="cam", address="10.0.0.1", mac=AXIS, vendor="Axis", serial="SN-1")
    ).asset
    await call(
        "asset_update", asset="cam", address="10.0.0.2", mac="00:40:8c:00:00:01", vendor="Bosch", hostname="cam2"
    )
    assert await rows("SELECT host(ip), state FROM address ORDER BY ip") == [
        ("10.0.0.1", "released"),
        ("10.0.0.2", "held"),
    ]
    assert await rows("SELECT kind, value FROM asset_identifier WHERE active ORDER BY kind") == [
        ("hostname", "cam2"), ("mac", "00:40:8c:00:00:01"), ("serial", "bosch:sn-1"),
    ]  # fmt: skip
    other = (await call("asset_create", hostname="cam", address="10.0.0.1", mac=AXIS)).asset
    for stolen in ({"hostname": "cam"}, {"address": "10.0.0.1"}, {"mac": AXIS}):
        with pytest.raises(Conflict, match=f"Asset {other.id}"):
            await call("asset_update", asset=made.id, **stolen)
    assert (await call("asset_query", id=made.id)).assets[0].version == 2


async def test_a_twin_made_by_scans_does_not_keep_anyone_from_naming_an_owner(call, change) -> None:
    await call("asset_create", hostname="a", serial="SN-1")
    await call("asset_create", hostname="b")
    await change("UPDATE asset SET serial = 'SN-1' WHERE hostname = 'b'")
    assert (await call("asset_update", asset="b", owner="noc")).asset.owner == "noc"


async def test_a_locked_field_stays_locked_and_a_visitor_someone_cares_for_stays(call, change, rows) -> None:
    await call("asset_create", hostname="phone", mac="02:00:00:00:00:01")
    await change(
        "UPDATE asset SET ephemeral = true; UPDATE asset_field_source SET locked = true WHERE field = 'hostname'"
    )
    await call("asset_update", asset="phone", hostname="anns-phone")
    assert await rows("SELECT ephemeral FROM asset") == [(False,)]
    assert await rows("SELECT locked FROM asset_field_source WHERE field = 'hostname'") == [(True,)]


async def test_a_merged_asset_names_the_one_it_is_now(call, change) -> None:
    kept = (await call("asset_create", hostname="kept")).asset
    gone = (await call("asset_create", hostname="gone")).asset
    await change("UPDATE asset SET status = 'merged', merged_into = :kept WHERE id = :gone", kept=kept.id, gone=gone.id)
    with pytest.raises(Conflict, match=f"merged into asset {kept.id}"):
        await call("asset_update", asset=gone.id, owner="x")
    with pytest.raises(NotFound):
        await call("asset_update", asset="gone", owner="x")
