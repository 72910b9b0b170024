"""The audit of a fleet of cameras, in-process under a Prefect server: fifty and more simulated cameras, some of which fail."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from lab.axis_camera import ACCOUNTS, cameras
from PIL import Image

from blocks.axis import AxisCredentials
from blocks.cameras import CameraPolicy
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Account, Device, Fault
from deployments.demo.axis_camera._api_media import Media
from flows import audit_cameras as flow_module
from flows.audit_cameras import CameraAudit, audit_cameras
from tasks.core.db.engine import database
from tasks.core.errors import InvalidParameters, NotFound
from tasks.core.run import FixedWiring, wired
from tasks.core.settings import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ACCOUNT = AxisCredentials(username="root", password="pass", scheme="http")


@pytest.fixture
def inventory(monkeypatch: pytest.MonkeyPatch, postgres: Any, database_name: str) -> Iterator[Any]:
    """The flow's database is this one; gives a function that asks it."""
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", postgres.url("app", database_name))
    settings.cache_clear()
    database.cache_clear()

    def ask(statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(postgres.url("owner", database_name))
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall()
        connection.close()
        return rows

    yield ask
    settings.cache_clear()
    database().close()
    database.cache_clear()


def wiring(tmp_path: Path, **blocks: Any) -> FixedWiring:
    return FixedWiring(
        policies={"default": ProbePolicy(packets_per_second=20_000, host_packets_per_second=0)},
        blocks={"axis/yard": ACCOUNT, **{name.replace("_", "/"): block for name, block in blocks.items()}},
        captures=CaptureStore(folder=tmp_path / "store"),
    )


async def audit(**params: Any) -> tuple[Any, CameraAudit]:
    state = await audit_cameras(credentials="axis/yard", return_state=True, **params)
    result = getattr(state.data, "result", state.data)
    if isinstance(result, BaseException):
        raise result
    return state, result


def fleet() -> list[Device]:
    """Fifty-six cameras of all generations: some are as they should be, the others each have one thing wrong."""
    kinds = ["mid", "new", "ptz", "old", "ancient", "9.80"]
    return [Device(kinds[n % len(kinds)], index=500 + n, accounts=ACCOUNTS) for n in range(48)]


async def test_a_fleet_with_dead_hanging_and_wrong_cameras_is_audited_and_nobody_delays_the_others(
    prefect_server: str, inventory: Any, tmp_path: Path
) -> None:
    strange = [
        Device("mid", index=600, accounts=ACCOUNTS),  # hangs
        Device("mid", index=601, accounts=ACCOUNTS),  # answers garbage
        Device("mid", index=602, accounts=(Account("root", "another", "admin"),)),  # does not know us
        Device("mid", index=603, accounts=ACCOUNTS, clock_offset=3600),
        Device("mid", index=604, accounts=ACCOUNTS, sd_card="failed"),
        Device("mid", index=605, accounts=ACCOUNTS),  # lens cap
        Device("needs-setup", index=606),
        Device("mid", index=607, accounts=ACCOUNTS),  # picture cut off
    ]
    hanging, garbage, stranger, fast, broken, dark, factory, cut = strange
    hanging.faults.add("/axis-cgi/*", Fault("hang", count=None, bare=True))
    garbage.faults.add("/axis-cgi/*", Fault("garbage", count=None, bare=True))
    cut.faults.add("/axis-cgi/jpg/image.cgi", Fault("truncate", count=None))
    dark.slot(Media).black = True
    policy = CameraPolicy(known_bad_firmware=["6.50.5.3"], minimum_firmware={"11.11": "11.11.1"})
    with cameras(*fleet(), *strange) as all_of_them, wired(wiring(tmp_path, cameras_strict=policy)):
        found = {camera.device: camera for camera in all_of_them}
        state, result = await audit(
            targets=[camera.address for camera in all_of_them], port=all_of_them[0].port, policy="cameras/strict"
        )
        assert state.name == "Partial" and result.outcome == "Partial"
        rows = {row["camera"]: row for row in result.cameras}
        assert list(rows) == [camera.address for camera in all_of_them], "in the order asked, each once"

        not_audited = {camera for camera, row in rows.items() if row["audited"] != "yes"}
        assert not_audited == {found[device].address for device in (hanging, garbage, stranger, factory)}
        codes: dict[str, set[str]] = {}
        for finding in result.findings:
            codes.setdefault(finding["camera"], set()).add(finding["code"].removeprefix("camera."))
        assert "not-audited" in codes[found[hanging].address]
        assert (
            "password" in rows[found[stranger].address]["audited"] or "401" in rows[found[stranger].address]["audited"]
        )
        assert "clock-wrong" in codes[found[fast].address]
        assert "storage-broken" in codes[found[broken].address]
        assert "picture-black" in codes[found[dark].address]
        assert "no-picture" in codes[found[cut].address]
        assert not {"clock-wrong", "storage-broken", "picture-black", "no-picture"} & codes.get(
            all_of_them[0].address, set()
        )
        assert all(row["stream"] in ("yes", "no", "") for row in rows.values())

        # One wrong password is one attempt: no six tools that lock the fleet out.
        assert sum(bool(request.credentials) and request.status == 401 for request in found[stranger].requests) == 1
        assert max(camera.most_in_flight for camera in all_of_them) == 1
        assert [error for camera in all_of_them for error in camera.device.errors] == []

        known = dict(inventory("SELECT serial, firmware FROM asset WHERE type = 'camera'"))
        assert known == {
            camera.device.serial: camera.device.profile.firmware
            for camera in all_of_them
            if camera.address not in not_audited
        }
        [sheet] = result.sheets
        picture = Image.open(io.BytesIO((tmp_path / "store" / sheet.name).read_bytes()))
        assert picture.format == "JPEG" and picture.height > 5 * 90

        # The same again: nothing new is learned.
        _, again = await audit(
            targets=[camera.address for camera in all_of_them[:6]], port=all_of_them[0].port, parts=[]
        )
        assert again.outcome == "Completed" and again.changes == [] and again.sheets == []


async def test_an_account_too_low_to_see_masks_and_disks_is_no_clean_bill(
    prefect_server: str, inventory: Any, tmp_path: Path
) -> None:
    policy = CameraPolicy(masks_required=["127.0.0.0/8"], require_storage=True, require_recording=True)
    low = AxisCredentials(username="viewer", password="pass", scheme="http")
    with cameras("mid", "mid") as two, wired(wiring(tmp_path, cameras_strict=policy, axis_low=low)):
        targets = [camera.address for camera in two]
        for asked in (targets, targets[:1]):  # a single camera's error is raised by the tools
            state = await audit_cameras(
                credentials="axis/low", targets=asked, port=two[0].port, policy="cameras/strict", return_state=True
            )
            result = getattr(state.data, "result", state.data)
            assert isinstance(result, CameraAudit)
            found = {(finding["camera"], finding["code"].removeprefix("camera.")) for finding in result.findings}
            wanted = {(one, code) for one in asked for code in ("mask-unknown", "storage-unknown", "recording-unknown")}
            assert found >= wanted
            assert "masks" in result.cameras[0]["not told"] and "What they do not tell" in result.text


async def test_cameras_of_the_inventory_are_audited_all_or_by_tag(
    prefect_server: str, inventory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cameras("mid", "mid", "ptz") as three, wired(wiring(tmp_path)):
        await audit(targets=[camera.address for camera in three], port=three[0].port, parts=[])
        assert inventory("SELECT count(*) FROM asset WHERE type = 'camera'") == [(3,)]
        _, second = await audit(port=three[0].port, parts=["clock"])
        assert {row["camera"] for row in second.cameras} == {camera.address for camera in three}
        assert {row["serial"] for row in second.cameras} == {camera.device.serial for camera in three}
        with pytest.raises(NotFound, match="tag 'area:gate'"):
            await audit(tag="area:gate")


async def test_a_camera_that_moved_and_was_updated_is_the_same_asset_and_people_hear_of_it_once(
    prefect_server: str, inventory: Any, tmp_path: Path
) -> None:
    before = Device("mid", index=800, accounts=ACCOUNTS)
    newer = dataclasses.replace(before.profile, firmware="11.11.999")
    after = Device(newer, serial=before.serial, index=801, accounts=ACCOUNTS)
    with cameras(before) as [old], wired(wiring(tmp_path)):
        await audit(targets=[old.address], port=old.port, parts=[])
    with cameras(Device("mid", index=802, accounts=ACCOUNTS), after) as [_, new], wired(wiring(tmp_path)):
        _, first = await audit(targets=[new.address], port=new.port, parts=[])
        _, again = await audit(targets=[new.address], port=new.port, parts=[])
    assert {row["what"] for row in first.changes} >= {"firmware changed", "address added"}
    assert "11.11.999" in first.text and again.changes == []
    assert inventory("SELECT count(*) FROM asset") == [(1,)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targets": []}, "targets is empty"),
        ({"targets": ["10.0.0.0/24"]}, "is a prefix"),
        ({"targets": ["no such name!"]}, "targets: "),
        ({"targets": ["10.0.0.1"], "tag": "area:gate"}, "targets or a tag"),
        ({"targets": ["10.0.0.1"], "policy": "cameras/none"}, "no block 'cameras/none'"),
    ],
)
async def test_what_makes_no_sense_is_said_before_anything_is_sent(
    prefect_server: str, inventory: Any, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with wired(wiring(tmp_path)), pytest.raises(InvalidParameters, match=said):
        await audit(**wrong)


async def test_an_inventory_that_is_away_loses_no_finding(
    prefect_server: str, inventory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.core.errors import DatabaseGone

    async def gone(*_: Any, **__: Any) -> Any:
        raise DatabaseGone("The inventory database does not answer.")

    monkeypatch.setattr(flow_module, "reconcile", gone)
    device = Device("mid", index=700, accounts=ACCOUNTS, clock_offset=3600)
    with cameras(device) as [camera], wired(wiring(tmp_path)):
        state, result = await audit(targets=[camera.address], port=camera.port, parts=["clock"])
    assert state.name == "Partial" and "inventory" in result.failed
    assert [finding["code"] for finding in result.findings] == ["camera.clock-wrong"]


def test_the_deployments_are_there_and_nothing_is_audited_by_itself_before_it_is_set_up() -> None:
    import yaml

    text = Path("prefect.yaml").read_text()
    ours = {
        deployment["name"]: deployment
        for deployment in yaml.safe_load(text)["deployments"]
        if deployment["entrypoint"] == "flows.audit_cameras.audit_cameras"
    }
    assert set(ours) == {"on-demand", "nightly"}
    assert ours["nightly"]["schedules"][0]["active"] is False and "schedules" not in ours["on-demand"]


async def test_a_camera_that_was_replaced_does_not_count_beside_the_one_in_its_place(
    prefect_server: str, inventory: Any, tmp_path: Path
) -> None:
    with cameras("mid", "mid") as [gone, there], wired(wiring(tmp_path)):
        await audit(targets=[gone.address, there.address], port=there.port, parts=[])
        for status, address in (("missing", gone.address), ("active", there.address)):
            inventory(
                f"UPDATE asset SET primary_ip = '{there.address}', status = '{status}' WHERE primary_ip = '{address}' RETURNING id"
            )
        state, result = await audit(port=there.port, parts=[])
    assert [(row["camera"], row["serial"]) for row in result.cameras] == [(there.address, there.device.serial)]
    assert state.is_completed() and state.name == "Completed"
