"""`vapix_edge_storage` against simulated cameras of all generations, and what their storage does to an operator."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from xml.etree.ElementTree import Element, tostring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import DESTROYING, UNHURRIED, Asking, only

from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Device, Fault, Response
from deployments.demo.axis_camera._edge_storage import EdgeStorage
from tasks.core.errors import (
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    Unanswered,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix import _storage as storage
from tasks.network.vapix import vapix_edge_storage as module
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix._xml import parse_xml
from tasks.network.vapix.vapix_edge_storage import (
    EdgeStorageResult,
    VapixEdgeStorage,
    vapix_edge_storage,
)

DISKS = "/axis-cgi/disks/list.cgi"
HEALTH = "/axis-cgi/disks/gethealth.cgi"
RECORD = "/axis-cgi/record/record.cgi"
STOP = "/axis-cgi/record/stop.cgi"
MOUNT = "/axis-cgi/disks/mount.cgi"
ADD = "/axis-cgi/record/continuous/addconfiguration.cgi"
REMOVE = "/axis-cgi/record/continuous/removeconfiguration.cgi"
LIST = "/axis-cgi/record/list.cgi"

Ask = Callable[..., Awaitable[EdgeStorageResult]]


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """`await ask(camera, action=..., user="operator")`; several cameras are asked at once."""
    return asking(vapix_edge_storage, policy=DESTROYING)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)


def writes(camera: Camera) -> list[str]:
    """What was sent that changes something."""
    return [one.path for one in camera.requests if one.path in {RECORD, STOP, MOUNT, ADD, REMOVE} and one.status != 401]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "mid", "new", "ptz"])
async def test_each_generation_tells_of_its_disks_and_of_what_is_recorded(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        found = only(await ask(camera, health=True))
    card, share = found.disks
    assert (card.disk_id, card.status, card.usable, card.file_system) == ("SD_DISK", "OK", True, "ext4")
    assert card.total_bytes == 62_367_744 * 1024 and card.free_bytes == 31_183_872 * 1024
    assert (card.locked, card.full, card.read_only, card.encrypted, card.encryption_wanted) == (False,) * 5
    assert card.health is not None and card.health.wear == 3 and card.health.temperature == 38
    assert share.disk_id == "NetworkShare" and not share.usable
    assert found.recording_now is True and [one.type for one in found.running] == ["continuous"]
    assert [(one.profile, one.disk_id) for one in found.continuous] == [("1", "SD_DISK")]
    assert found.findings == [] and found.serial == camera.device.serial
    assert writes(camera) == [] and not camera.device.errors


async def test_both_spellings_of_the_wish_to_encrypt_are_read(ask: Ask) -> None:
    with cameras("9.80", "mid") as pair:
        for camera in pair:
            state = camera.device.slot(EdgeStorage)
            state.disks["SD_DISK"].encryption_enabled = True
        assert [camera.device.slot(EdgeStorage).encryption_attribute for camera in pair] == [
            "encryptionenabled",
            "diskencryptionenabled",
        ]
        for camera in pair:
            assert only(await ask(camera)).disks[0].encryption_wanted is True


@pytest.mark.parametrize(
    ("card", "finding"),
    [
        ("missing", "SD_DISK: no card in it"),
        ("full", "SD_DISK: full"),
        ("locked", "SD_DISK: locked"),
        ("readonly", "SD_DISK: read-only"),
        ("unformatted", "SD_DISK: there, but not mounted"),
        ("failed", "SD_DISK: status failed"),
    ],
)
async def test_a_card_that_is_not_in_order_is_a_finding_and_no_error(ask: Ask, card: Any, finding: str) -> None:
    with cameras("mid", sd_card=card) as [camera]:
        found = only(await ask(camera, health=True))
        assert found.outcome == "done" and finding in found.findings
        assert found.recording_now is False


async def test_a_configured_recording_that_does_not_run_is_a_finding(ask: Ask, camera: Camera) -> None:
    for recording in camera.device.slot(EdgeStorage).recordings.values():
        recording.stopped = recording.stopped or camera.device.now()
    found = only(await ask(camera))
    assert found.recording_now is False
    assert found.findings == ["a continuous recording is configured, but nothing is recorded"]


async def test_worn_hot_and_wrongly_formatted_disks_are_findings(ask: Ask, camera: Camera) -> None:
    disk = camera.device.slot(EdgeStorage).disks["SD_DISK"]
    disk.wear, disk.temperature, disk.filesystem, disk.required_filesystem = 91, 77, "vfat", "ext4"
    disk.cleanup, disk.free = "none", 1000
    found = only(await ask(camera, health=True))
    said = "; ".join(found.findings)
    for word in ("worn: 91 %", "hot: 77", "vfat", "nearly full"):
        assert word in said


async def test_a_network_share_nobody_set_up_is_no_finding_and_one_that_is_recorded_on_is(
    ask: Ask, camera: Camera
) -> None:
    assert only(await ask(camera)).findings == []
    camera.device.slot(EdgeStorage).continuous[1].disk_id = "NetworkShare"
    assert "NetworkShare: not connected" in only(await ask(camera)).findings


async def test_a_device_without_storage_says_so(ask: Ask) -> None:
    with cameras("bare") as [radar]:
        with pytest.raises(Unsupported, match="no local storage"):
            await ask(radar)
        assert not radar.asked(DISKS)


async def test_a_viewer_may_not_read_disks(ask: Ask, camera: Camera) -> None:
    with pytest.raises(Forbidden):
        await ask(camera, user="viewer")


async def test_of_several_cameras_each_has_its_own_outcome(ask: Ask) -> None:
    with cameras("mid", "bare", "new") as trio:
        trio[2].device.faults.add(DISKS, Fault("garbage", count=None))
        result = await ask(*trio)
        assert [one.outcome for one in result.cameras] == ["done", "unsupported", "nonsense"]
        assert result.cameras[0].disks and not result.cameras[2].disks
        assert result.headline() == "3 cameras: 1 done, 1 unsupported, 1 nonsense"


@pytest.mark.parametrize("kind", ["truncate", "truncate-json", "html", "empty", "doctype", "garbage", "oversized"])
async def test_an_answer_nobody_can_read_is_an_error_that_says_so(ask: Ask, camera: Camera, kind: Any) -> None:
    camera.device.faults.add(DISKS, Fault(kind, count=None))
    with pytest.raises(ToolError) as caught:
        await ask(camera)
    assert isinstance(caught.value, Nonsense) or "broke" in str(caught.value) or "XML" in str(caught.value)


async def test_a_camera_that_only_tells_of_its_disks_keeps_what_it_told(ask: Ask, camera: Camera) -> None:
    camera.device.faults.add(LIST, Fault("404", count=None))
    found = only(await ask(camera))
    assert found.disks and found.recording_now is None
    assert any("could not be listed" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", count=None, response=Response.page(403)),
        Fault("html", count=None),
        Fault("503", count=None),
        Fault("garbage", count=None),
        Fault("close", count=None),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_disk_whose_health_cannot_be_read_keeps_all_else_that_is_known_of_it(
    ask: Ask, camera: Camera, fault: Fault
) -> None:
    camera.device.faults.add(HEALTH, fault)
    found = only(await ask(camera, health=True))
    assert found.disks[0].status == "OK" and found.disks[0].health is None and found.recording_now is True
    [remark] = found.remarks
    assert remark.startswith("The health of SD_DISK could not be read: ")


async def test_a_disk_whose_health_the_camera_does_not_measure_is_nothing_to_remark_on(
    ask: Ask, camera: Camera
) -> None:
    camera.device.faults.add(HEALTH, Fault("404", count=None))
    found = only(await ask(camera, health=True))
    assert found.disks[0].health is None and found.remarks == []


async def test_whether_anything_is_recorded_is_unknown_among_too_many_recordings(
    ask: Ask, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RUNNING_SCAN", 100)
    state = camera.device.slot(EdgeStorage)
    for number in range(250):
        state.add(camera.device.now() - timedelta(minutes=number + 1), 30, kind="triggered", event_id="motion")
    found = only(await ask(camera))
    assert found.recording_now is None and any("not looked at" in remark for remark in found.remarks)


# --- recording -------------------------------------------------------------------------------------------------------


async def test_a_recording_is_started_with_a_stream_profile_and_seen_running(ask: Ask, camera: Camera) -> None:
    result = await ask(camera, action="record", disk="SD_DISK", stream_profile="Evidence 1", fps=10, user="operator")
    found = only(result)
    [started] = found.running
    assert result.headline().startswith(f"{camera.address}: {started.recording_id} started; SD_DISK OK")
    assert started.running and started.recording_id.endswith(camera.device.serial)
    [sent] = camera.asked(RECORD)
    assert b"options=streamprofile%3DEvidence%25201%26fps%3D10" in sent.body
    assert found.before is not None and found.before.disk is not None


async def test_recording_is_a_change_that_the_default_policy_allows(ask: Ask, camera: Camera) -> None:
    assert only(await ask(camera, action="record", disk="SD_DISK", policy=UNHURRIED)).recording_now is True
    with pytest.raises(Refused):
        await ask(camera, action="record", disk="SD_DISK", policy=ProbePolicy(ceiling="probe"))
    assert len(writes(camera)) == 1


@pytest.mark.parametrize("card", ["missing", "full", "locked", "readonly", "failed"])
async def test_nothing_is_sent_when_the_disk_cannot_be_recorded_on(ask: Ask, card: Any) -> None:
    with cameras("mid", sd_card=card) as [camera]:
        for action in ("record", "add_continuous"):
            with pytest.raises(Rejected, match="Nothing can be recorded on SD_DISK"):
                await ask(camera, action=action, disk="SD_DISK")
        with pytest.raises(NotFound, match="SD_DISK"):
            await ask(camera, action="record", disk="SSD0")
        assert writes(camera) == []


async def test_what_the_camera_says_against_recording_is_passed_on(ask: Ask, camera: Camera) -> None:
    answer = Response.xml('<root><record result="ERROR" errormsg="No &#10;encoder free"/></root>')
    camera.device.faults.add(RECORD, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="No encoder free"):
        await ask(camera, action="record", disk="SD_DISK")


async def test_a_lost_answer_to_a_start_is_not_sent_again(ask: Ask, camera: Camera) -> None:
    camera.device.faults.add(RECORD, Fault("close", count=None, effect=True))
    with pytest.raises(Unanswered) as caught:
        await ask(camera, action="record", disk="SD_DISK")
    assert caught.value.retryable is False
    assert len(camera.asked(RECORD)) == 1


async def test_ending_a_recording_needs_approval_for_exactly_it(ask: Ask, camera: Camera) -> None:
    started = only(await ask(camera, action="record", disk="SD_DISK")).running[0].recording_id
    for confirm in (None, camera.address, started, f"{camera.address} {started[:-1]}"):
        with pytest.raises(Refused, match="approval"):
            await ask(camera, action="stop", recording=started, confirm=confirm)
    with pytest.raises(Refused, match="destroy"):
        await ask(camera, action="stop", recording=started, confirm=f"{camera.address} {started}", policy=ProbePolicy())
    assert not camera.asked(STOP)
    result = await ask(camera, action="stop", recording=started, confirm=f"{camera.address} {started}")
    found = only(result)
    assert f": {started} is ended" in result.headline()
    assert found.before is not None and found.before.recording is not None and found.before.recording.running
    assert not found.running[0].running and found.running[0].stopped_at is not None
    again = only(await ask(camera, action="stop", recording=started, confirm=f"{camera.address} {started}"))
    assert again.remarks == ["It had ended already; nothing was sent."] and len(camera.asked(STOP)) == 1


async def test_a_recording_that_goes_on_although_the_camera_says_it_ended_is_an_error(ask: Ask, camera: Camera) -> None:
    started = only(await ask(camera, action="record", disk="SD_DISK")).running[0].recording_id
    answer = Response.xml(f'<root><stop recordingid="{started}" result="OK"/></root>')
    camera.device.faults.add(STOP, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="it goes on"):
        await ask(camera, action="stop", recording=started, confirm=f"{camera.address} {started}")


# --- continuous recordings -------------------------------------------------------------------------------------------


async def test_a_continuous_recording_is_removed_with_approval_and_added_again(ask: Ask, camera: Camera) -> None:
    with pytest.raises(Conflict, match="1 of 1"):
        await ask(camera, action="add_continuous", disk="SD_DISK")
    with pytest.raises(Refused):
        await ask(camera, action="remove_continuous", profile=1, confirm=camera.address)
    assert writes(camera) == []
    result = await ask(camera, action="remove_continuous", profile=1, confirm=f"{camera.address} 1")
    gone = only(result)
    assert ": continuous recording 1 removed" in result.headline()
    assert gone.before is not None and len(gone.before.continuous) == 1
    assert gone.continuous == [] and gone.recording_now is False
    with pytest.raises(NotFound, match="no continuous recording 1"):
        await ask(camera, action="remove_continuous", profile=1, confirm=f"{camera.address} 1")
    back = only(await ask(camera, action="add_continuous", disk="SD_DISK", codec="h264", fps=15, event="yard"))
    assert [(one.profile, one.options, one.event_id) for one in back.continuous] == [
        ("1", "videocodec=h264&fps=15", "yard")
    ]
    assert back.recording_now is True and back.before is not None and back.before.continuous == []


@pytest.mark.parametrize(
    ("held", "finding"),
    [
        ("fps=10&videocodec=h264", None),
        ("camera=1&fps=10&videocodec=h264", None),
        ("videocodec=jpeg&fps=1", "continuous recording 1 has videocodec jpeg, not h264; fps 1, not 10"),
        ("videocodec=h264", "continuous recording 1 has no fps, not 10"),
        ("", "continuous recording 1 has no videocodec, not h264; no fps, not 10"),
    ],
)
async def test_a_continuous_recording_with_other_options_than_asked_for_is_a_finding(
    ask: Ask, camera: Camera, held: str, finding: str | None
) -> None:
    state = camera.device.slot(EdgeStorage)
    state.remove_continuous(1)
    add = state.add_continuous
    state.add_continuous = lambda disk_id, options, event_id: add(disk_id, held, event_id)  # type: ignore[method-assign]
    result = await ask(camera, action="add_continuous", disk="SD_DISK", codec="h264", fps=10)
    assert only(result).findings == ([finding] if finding else [])
    assert finding is None or finding in result.headline()


async def test_an_added_configuration_that_is_not_there_afterwards_is_an_error(ask: Ask, camera: Camera) -> None:
    camera.device.slot(EdgeStorage).remove_continuous(1)
    answer = Response.xml('<root><configure profile="7" result="OK"/></root>')
    camera.device.faults.add(ADD, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="does not list it afterwards"):
        await ask(camera, action="add_continuous", disk="SD_DISK")


# --- disks -----------------------------------------------------------------------------------------------------------


async def test_a_disk_is_given_free_with_approval_and_mounted_again(ask: Ask, camera: Camera) -> None:
    with pytest.raises(Refused):
        await ask(camera, action="unmount", disk="SD_DISK")
    assert writes(camera) == []
    free = only(await ask(camera, action="unmount", disk="SD_DISK", confirm=f"{camera.address} SD_DISK"))
    assert free.before is not None and free.before.disk is not None and free.before.disk.status == "OK"
    assert free.disks[0].status == "connected" and free.job is not None and free.job.progress == 100
    back = only(await ask(camera, action="mount", disk="SD_DISK"))
    assert back.disks[0].status == "OK" and back.disks[0].usable
    again = only(await ask(camera, action="mount", disk="SD_DISK"))
    assert "already" in again.remarks[0] and len(camera.asked(MOUNT)) == 2


async def test_a_job_that_takes_longer_is_left_and_asked_about_later(ask: Ask, camera: Camera) -> None:
    camera.device.slot(EdgeStorage).job_seconds = 60
    found = only(await ask(camera, action="unmount", disk="SD_DISK", confirm=f"{camera.address} SD_DISK", wait=0.1))
    assert found.job is not None and (found.job.progress or 0) < 100 and "Not done" in found.remarks[0]
    later = only(await ask(camera, action="job", job=found.job.job_id, disk="SD_DISK"))
    assert later.job is not None and later.job.action == "unmount"
    with pytest.raises(Rejected, match="Unknown job"):
        await ask(camera, action="job", job="99", disk="SD_DISK")


async def test_a_mount_that_did_not_come_about_is_an_error(ask: Ask, camera: Camera) -> None:
    state = camera.device.slot(EdgeStorage)
    state.disks["SD_DISK"].status = "connected"
    answer = Response.xml('<root><job action="mount" diskid="SD_DISK" result="OK" jobid="1"/></root>')
    camera.device.faults.add(MOUNT, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="status is 'connected' afterwards"):
        await ask(camera, action="mount", disk="SD_DISK")


async def test_mounting_takes_an_administrator(ask: Ask, camera: Camera) -> None:
    camera.device.slot(EdgeStorage).disks["SD_DISK"].status = "connected"
    with pytest.raises(Forbidden):
        await ask(camera, action="mount", disk="SD_DISK", user="operator")


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"action": "mount"}, "mount needs disk"),
        ({"action": "stop"}, "stop needs recording"),
        ({"action": "stop", "recording": "all"}, "exactly one recording"),
        ({"action": "stop", "recording": "a,b"}, "exactly one recording"),
        ({"action": "stop", "recording": "2026*"}, "exactly one recording"),
        ({"action": "remove_continuous"}, "needs profile"),
        ({"action": "status", "disk": "SD_DISK"}, "disk has no meaning for status"),
        ({"action": "mount", "disk": "SD_DISK", "fps": 5}, "fps has no meaning for mount"),
        ({"action": "format", "disk": "SD_DISK"}, "action"),
        ({"action": "record", "disk": "all,SD_DISK"}, "disk"),
        ({"action": "record", "disk": "SD_DISK", "stream_profile": "a&diskid=b"}, "stream_profile"),
    ],
)
async def test_wrong_parameters_are_named_before_anything_is_sent(
    ask: Ask, camera: Camera, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameters, match=message):
        await ask(camera, **params)
    assert camera.requests == []


async def test_an_action_that_changes_something_takes_one_camera(ask: Ask) -> None:
    with cameras("mid", "mid") as pair:
        with pytest.raises(InvalidParameters, match="exactly one target"):
            await ask(*pair, action="record", disk="SD_DISK")
        assert pair[0].requests == []


def test_what_loses_evidence_is_destroy_and_what_starts_it_a_change() -> None:
    def made(**params: Any) -> VapixEdgeStorage:
        return VapixEdgeStorage.model_validate({"targets": ["10.0.0.1"], "credentials": "axis/a", **params})

    assert made().safety() is None and not made().approval()
    assert made(action="record", disk="SD_DISK").safety() is Safety.CHANGE
    assert made(action="mount", disk="SD_DISK").approval() is False
    for destroying in (
        made(action="unmount", disk="SD_DISK"),
        made(action="stop", recording="20260101_120000_A1B2_B8A44F7C1D20"),
        made(action="remove_continuous", profile=1),
    ):
        assert destroying.safety() is Safety.DESTROY and destroying.approval()
    assert made(action="unmount", disk="SD_DISK").subject() == "10.0.0.1 SD_DISK"


async def test_no_secret_is_in_a_result_or_an_error(ask: Ask) -> None:
    with cameras(Device("mid", accounts=[])) as [camera]:
        camera.device.account("root", "hunter2secret", "admin")
        result = await ask(camera, password="hunter2secret", scheme="https")
        assert "hunter2secret" not in result.model_dump_json()
        camera.device.faults.add(DISKS, Fault("answer", response=Response.xml(
            '<root><disks result="ERROR" errormsg="you sent hunter2secret"/></root>')))  # fmt: skip
        with pytest.raises(ToolError) as caught:
            await ask(camera, password="hunter2secret", scheme="https")
    assert "hunter2secret" not in str(caught.value)


# --- parsers ---------------------------------------------------------------------------------------------------------

_names = st.sampled_from(
    ["root", "disks", "disk", "job", "HealthStatus", "continuousrecordingconfigurations", "continuousrecordingconfiguration",
     "GeneralError", "ErrorCode", "recordings"]
)  # fmt: skip
_keys = st.sampled_from(
    ["diskid", "status", "totalsize", "freesize", "locked", "cleanupmaxage", "wear", "temperature", "progress", "jobid", "profile",
     "options", "result", "errormsg"]
)  # fmt: skip
_values = st.one_of(st.text(max_size=40), st.sampled_from(["OK", "yes", "-1", "9" * 30, "nan", "1e999", "ERROR", ""]))


@st.composite
def documents(draw: st.DrawFn, depth: int = 3) -> Element:
    element = Element(draw(_names), draw(st.dictionaries(_keys, _values, max_size=5)))
    if depth:
        element.extend(draw(st.lists(documents(depth=depth - 1), max_size=3)))
    return element


@given(documents())
def test_whatever_xml_says_is_read_or_an_error_of_ours(root: Element) -> None:
    for read in (
        storage.disks_of,
        storage.continuous_of,
        storage.health_of,
        lambda root: storage.job_of(root, "this"),
    ):
        try:
            found = read(root)
        except ToolError:
            continue
        if isinstance(found, list):
            assert len(found) <= 64
            if found and isinstance(found[0], storage.Disk):
                storage.findings_of(found, [])


@given(st.binary(max_size=300))
def test_bytes_are_xml_or_nonsense(data: bytes) -> None:
    with contextlib.suppress(ToolError):
        storage.disks_of(parse_xml(data))


@given(documents())
def test_cutting_an_answer_anywhere_is_nonsense_not_a_crash(root: Element) -> None:
    try:
        data = tostring(root)
        parse_xml(data)
    except (ValueError, ToolError):
        return
    for place in range(0, len(data), 7):
        with contextlib.suppress(ToolError):
            storage.disks_of(parse_xml(data[:place]))


# --- the simulated camera --------------------------------------------------------------------------------------------


async def test_the_simulated_camera_shows_one_storage_in_parameters_lists_and_events(ask: Ask, camera: Camera) -> None:
    await ask(camera)
    heard: list[tuple[str, dict[str, str]]] = []
    camera.device.subscribe(lambda event: heard.append((event.topic, dict(event.data))))
    camera.device.params.set("Storage.S0.CleanupMaxAge", "31")
    assert only(await ask(camera)).disks[0].keep_days == 31
    await ask(camera, action="remove_continuous", profile=1, confirm=f"{camera.address} 1")
    await ask(camera, action="unmount", disk="SD_DISK", confirm=f"{camera.address} SD_DISK")
    assert ("tnsaxis:Storage/Recording", {"recording": "0"}) in heard
    assert ("tnsaxis:Storage/Disruption", {"disruption": "1"}) in heard


async def test_nothing_the_tool_can_be_told_formats_locks_or_repairs_a_disk(ask: Ask, camera: Camera) -> None:
    for action in ("format", "lock", "unlock", "repair", "checkdisk"):
        with pytest.raises(InvalidParameters):
            await ask(camera, action=action, disk="SD_DISK", confirm=f"{camera.address} SD_DISK")
    assert camera.requests == []
