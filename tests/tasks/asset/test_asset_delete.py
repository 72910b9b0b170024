"""asset_delete: only what was named twice, and history stays."""

from __future__ import annotations

import pytest

from blocks.policy import ProbePolicy
from tasks.core.errors import Conflict, InvalidParameters, NotFound, Refused


@pytest.mark.parametrize("confirm", [None, "", "ca", "cam ", "CAM", "1", "*", "yes"])
async def test_nothing_is_deleted_unless_the_name_is_repeated_exactly(call, rows, confirm: str | None) -> None:
    await call("asset_create", hostname="cam")
    await call("asset_create", hostname="other")
    given = {} if confirm is None else {"confirm": confirm}
    with pytest.raises(Refused, match="--confirm 'cam'"):
        await call("asset_delete", asset="cam", **given)
    assert await rows("SELECT count(*) FROM asset") == [(2,)]


async def test_what_was_deleted_is_returned_and_its_history_stays(call, rows) -> None:
    made = (
        await call("asset_create", hostname="cam", address="10.0.0.1", vendor="Axis", serial="SN-1", tags=["a"])
    ).asset
    await call("asset_update", asset="cam", owner="noc")
    deleted = await call("asset_delete", asset=str(made.id), confirm=str(made.id))
    assert (deleted.asset.id, deleted.asset.owner, deleted.asset.tags) == (
        made.id,
        "noc",
        ["a"],
    ) and "cam" in deleted.headline()
    assert await rows(
        "SELECT (SELECT count(*) FROM asset), (SELECT count(*) FROM address), (SELECT count(*) FROM asset_identifier)"
    ) == [(0, 0, 0)]
    kinds = await rows("SELECT kind FROM asset_event WHERE asset_id = :id ORDER BY id", id=made.id)
    assert [kind for (kind,) in kinds] == ["created", "updated", "deleted"]
    [(before, subject)] = await rows("SELECT before, subject FROM asset_event WHERE kind = 'deleted'")
    assert subject == "cam" and before["asset"]["serial"] == "SN-1" and before["addresses"][0]["ip"] == "10.0.0.1"
    assert await rows("SELECT kind, value, asset_id FROM former_identifier") == [("serial", "axis:sn-1", made.id)]
    with pytest.raises(NotFound):
        await call("asset_delete", asset=made.id, confirm=str(made.id))


async def test_no_wildcard_no_other_site_and_no_injection_deletes_anything(call, rows) -> None:
    made = (await call("asset_create", hostname="cam", site="north")).asset
    await call("asset_create", hostname="web")
    for reference, error in (
        ("c_m", NotFound),
        ("%", InvalidParameters),
        ("x' OR '1'='1", InvalidParameters),
        (made.id, NotFound),
    ):
        with pytest.raises(error):
            await call("asset_delete", asset=reference, confirm=str(reference))
    assert await rows("SELECT count(*) FROM asset") == [(2,)]


async def test_the_default_ceiling_refuses_to_destroy(perform, inventory, call, rows) -> None:
    from tasks.asset.asset_delete import asset_delete

    await call("asset_create", hostname="cam")
    with pytest.raises(Refused, match="ceiling"):
        await perform(asset_delete, {"asset": "cam", "confirm": "cam"}, policy=ProbePolicy())
    assert await rows("SELECT count(*) FROM asset") == [(1,)]


async def test_what_was_merged_into_it_goes_with_it_and_is_said(call, change, rows) -> None:
    numbers = [(await call("asset_create", hostname=name)).asset.id for name in ("kept", "one", "two")]
    await change(
        "UPDATE asset SET status = 'merged', merged_into = :into WHERE id = :id", into=numbers[0], id=numbers[1]
    )
    await change(
        "UPDATE asset SET status = 'merged', merged_into = :into WHERE id = :id", into=numbers[1], id=numbers[2]
    )
    with pytest.raises(Conflict, match="merged into"):
        await call("asset_delete", asset=numbers[2], confirm=str(numbers[2]))
    deleted = await call("asset_delete", asset="kept", confirm="kept")
    assert deleted.merged == numbers[1:]
    assert await rows("SELECT count(*) FROM asset") == [(0,)]
    assert await rows("SELECT asset_id, quiet FROM asset_event WHERE kind = 'deleted' ORDER BY asset_id") == [
        (numbers[0], False), (numbers[1], True), (numbers[2], True),
    ]  # fmt: skip


async def test_archived_assets_of_one_name_must_be_named_by_number(call) -> None:
    numbers = []
    for _ in range(2):
        numbers.append((await call("asset_create", hostname="cam")).asset.id)
        await call("asset_update", asset=numbers[-1], status="archived")
    with pytest.raises(Conflict, match=f"{numbers[0]}, {numbers[1]}"):
        await call("asset_delete", asset="cam", confirm="cam")
    assert (await call("asset_delete", asset=numbers[0], confirm=str(numbers[0]))).asset.id == numbers[0]
