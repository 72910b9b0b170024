"""What cameras say about themselves: every generation, with an account and without, one at a time and by the hundred."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import FAST, Asking

from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Device
from deployments.demo.axis_camera._faults import Fault
from deployments.demo.axis_camera._messages import Response
from tasks.core.errors import (
    InvalidParameters,
    NotFound,
    Refused,
    ToolError,
    Unauthorized,
    Unreachable,
)
from tasks.core.redact import MOST_BYTES, json_size
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._wire import (
    NeedsSetup,
    Nonsense,
    NotReady,
    decode,
    parse_json,
    parse_level,
    parse_parameters,
    raise_for_text,
)
from tasks.network.vapix._xml import parse_xml
from tasks.network.vapix.vapix_device_info import DeviceEntry, DeviceView, vapix_device_info

Info = Callable[..., Awaitable[Any]]
ALL = [view.value for view in DeviceView]


@pytest.fixture
def info(asking: Asking) -> Info:
    return asking(vapix_device_info, scheme="https", policy=FAST, timeout=15)


# --- each generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "model", "api", "discovery", "boot_id"),
    [
        ("ancient", "AXIS P5512-SIM", "param-cgi", False, False),
        ("old", "AXIS M3045-SIM", "param-cgi", False, False),
        ("9.80", "AXIS P3367-SIM", "param-cgi", True, False),
        ("mid", "AXIS P3245-SIM", "basic-device-info", True, True),
        ("new", "AXIS P1468-SIM", "basic-device-info", True, True),
        ("ptz", "AXIS Q6318-SIM", "basic-device-info", True, True),
        ("bare", "AXIS D2210-SIM", "basic-device-info", True, True),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_every_generation_says_the_same_things(
    info: Info, profile: str, model: str, api: str, discovery: bool, boot_id: bool, scheme: str
) -> None:
    with cameras(profile) as [camera]:
        result = await info(camera, block=camera.block(scheme=scheme), views=ALL)
    [found] = result.cameras
    assert (found.outcome, found.model, found.serial) == (CameraOutcome.DONE, model, camera.device.serial)
    assert found.firmware == camera.device.firmware and found.basic.api == api and found.basic.brand == "AXIS"
    assert found.basic.architecture and found.basic.hardware_id
    assert bool(found.apis) is discovery and bool(found.boot_id) is boot_id
    assert found.properties["System.SerialNumber"] == camera.device.serial
    assert abs(found.time.offset_seconds) < 2 and found.account.level == "admin" and found.account.ptz
    if scheme == "https":
        assert found.certificate.fingerprint == camera.fingerprint and found.certificate.days_left > 3000
    else:
        assert "not encrypted" in found.missing["certificate"]
    assert model in result.headline() and "pass" not in result.model_dump_json()
    assert camera.most_in_flight == 1


async def test_what_a_camera_tells_anybody_needs_no_account(info: Info, camera: Camera) -> None:
    result = await info(camera, credentials=None, port=camera.port, views=["basic", "capabilities", "time"])
    [found] = result.cameras
    assert found.serial == camera.device.serial and found.basic.build_date and found.apis
    assert found.basic.architecture is None and found.account is None
    assert not [request for request in camera.requests if request.credentials]


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80"])
async def test_older_cameras_show_who_has_no_account_their_serial_only(info: Info, profile: str) -> None:
    with cameras(profile) as [camera]:
        [found] = (await info(camera, credentials=None, port=camera.port)).cameras
    assert found.serial == camera.device.serial and found.firmware is None
    assert "accounts only" in found.missing["basic"] and "nobody more" in found.detail


async def test_views_for_accounts_only_are_refused_without_one(info: Info) -> None:
    with pytest.raises(InvalidParameters, match="views temperature need credentials"):
        await info(targets=["127.0.0.1"], credentials=None, views=["temperature"])


async def test_a_viewer_gets_what_viewers_may_see(info: Info, camera: Camera) -> None:
    [found] = (await info(camera, block=camera.block("viewer"), views=["basic", "account", "temperature"])).cameras
    assert found.outcome is CameraOutcome.DONE and found.basic.name and found.basic.architecture is None
    assert found.account.level == "viewer" and not found.account.ptz


async def test_a_clock_that_is_wrong_is_seen(info: Info) -> None:
    with cameras(Device("mid", clock_offset=-5400)) as [camera]:
        result = await info(camera, views=["time"])
    assert result.cameras[0].time.offset_seconds == pytest.approx(-5400, abs=3)
    assert "time_zone" in result.cameras[0].time.model_dump()


async def test_temperatures_heaters_and_fans_are_read(info: Info, camera: Camera) -> None:
    text = (
        "Sensor.S0.Name=Main\nSensor.S0.Celsius=43.50\nSensor.S0.Fahrenheit=110.30\nSensor.S1.Name=Image Sensor\n"
        "Sensor.S1.Celsius=-12.25\nSensor.S2.Name=Broken\nSensor.S2.Celsius=nan\nHeater.H0.Status=Running[40]\n"
        "Heater.H0.TimeUntilStop=0\nFan.F0.Status=Fan Failure\n"
    )
    path = "/axis-cgi/temperaturecontrol.cgi"
    camera.device.faults.add(path, Fault("answer", response=Response.text(text), bare=True))
    [found] = (await info(camera, views=["temperature"])).cameras
    camera.device.faults.add(path, Fault("answer", response=Response.text("<html>"), bare=True))
    [garbage] = (await info(camera, views=["temperature"])).cameras
    assert [(one.sensor, one.name, one.celsius) for one in found.temperatures] == [
        ("S0", "Main", 43.5),
        ("S1", "Image Sensor", -12.25),
    ]
    assert [(one.device, one.status) for one in found.climate] == [
        ("Fan.F0", "Fan Failure"),
        ("Heater.H0", "Running[40]"),
    ]
    assert "does not list its temperatures" in garbage.missing["temperature"]


async def test_what_a_model_does_not_have_is_noted_and_the_rest_is_kept(info: Info, camera: Camera) -> None:
    camera.device.faults.add("/axis-cgi/apidiscovery.cgi", Fault("404", count=None))
    camera.device.faults.add("/axis-cgi/temperaturecontrol.cgi", Fault("404", count=None, bare=True))
    [found] = (await info(camera, views=["basic", "capabilities", "temperature"])).cameras
    assert found.outcome is CameraOutcome.DONE and set(found.missing) == {"capabilities", "temperature"}


# --- what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "fault", "expected"),
    [
        ("needs-setup", None, NeedsSetup),
        ("mid", "hang", Unreachable),
        ("mid", "html", Nonsense),
        ("mid", "garbage", Nonsense),
        ("mid", "truncate", Nonsense),
    ],
)
async def test_one_camera_that_fails_is_an_error_with_a_next_step(
    info: Info, profile: str, fault: Any, expected: type[ToolError]
) -> None:
    with cameras(profile) as [camera]:
        if fault:
            camera.device.faults.add("/axis-cgi/systemready.cgi", Fault(fault, count=None))
        with pytest.raises(expected):
            await info(camera, timeout=1)


async def test_a_camera_that_starts_is_not_ready(info: Info, camera: Camera) -> None:
    camera.device.ready = False
    with pytest.raises(NotReady):
        await info(camera)


async def test_a_wrong_password_is_one_attempt_whatever_is_asked(info: Info, camera: Camera) -> None:
    for _ in range(3):
        with pytest.raises(Unauthorized) as caught:
            await info(camera, block=camera.block(password="hunter2wrong"), views=ALL)
        assert "hunter2wrong" not in str(caught.value)
    assert len([request for request in camera.requests if request.credentials]) == 1


async def test_a_port_the_policy_never_touches_is_refused_before_anything_is_sent(info: Info, camera: Camera) -> None:
    policy = ProbePolicy(never_ports=[str(camera.https_port)])
    with pytest.raises(Refused, match="never"):
        await info(camera, policy=policy)
    with pytest.raises(Refused, match="never"):
        await info(camera, policy=policy, port=camera.https_port)
    assert camera.requests == []


async def test_a_name_that_does_not_resolve_is_not_found(info: Info) -> None:
    with pytest.raises(NotFound):
        await info(targets=["camera.invalid"], credentials=None)


# --- fleets --------------------------------------------------------------------------------------------------------------


async def test_one_dead_camera_costs_its_own_entry_and_delays_nobody(info: Info) -> None:
    with cameras("mid", "new", "mid", "needs-setup", "mid") as fleet:
        fingerprints = [camera.fingerprint for camera in fleet]
        fleet[2].device.faults.add("*", Fault("hang", count=None))
        block = fleet[0].block(fingerprints=fingerprints[:4], verification="pinned")
        began = time.monotonic()
        result = await info(
            *fleet, block=block, timeout=2, targets=[*(camera.address for camera in fleet), "gone.invalid"]
        )
    assert [camera.outcome for camera in result.cameras] == [
        CameraOutcome.DONE,
        CameraOutcome.DONE,
        CameraOutcome.UNREACHABLE,
        CameraOutcome.NEEDS_SETUP,
        CameraOutcome.UNTRUSTED,
        CameraOutcome.UNRESOLVED,
    ]
    assert time.monotonic() - began < 15
    assert result.headline() == "6 cameras: 2 done, 1 unreachable, 1 untrusted, 1 needs setup, 1 unresolved"
    assert result.reached() and "fingerprint is" in result.cameras[4].detail


async def test_what_was_done_before_the_deadline_is_kept(info: Info, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.network.vapix._fleet.REPORTING_SECONDS", vapix_device_info.spec.timeout - 3.0)
    with cameras("mid", "mid") as fleet:
        fleet[1].device.faults.add("/axis-cgi/usergroup.cgi", Fault("hang", count=None))
        result = await info(*fleet, block=fleet[0].block(verification="off"), timeout=60)
    assert [camera.outcome for camera in result.cameras] == [CameraOutcome.DONE, CameraOutcome.TIMED_OUT]
    assert result.cameras[1].serial == fleet[1].device.serial  # as far as it came


async def test_a_whole_batch_fits_what_the_ledger_keeps(info: Info) -> None:
    with cameras(*["mid"] * 64) as fleet:
        aliases = [camera.address for camera in fleet]
        result = await info(*fleet, block=fleet[0].block(verification="off"), targets=aliases, views=ALL)
    assert json_size(result.model_dump(mode="json")) <= MOST_BYTES
    assert [camera.target for camera in result.cameras] == aliases
    assert {camera.outcome for camera in result.cameras} == {CameraOutcome.DONE}
    assert result.cameras[-1].serial == fleet[-1].device.serial
    assert result.report is not None and "properties" in result.left_out


def test_what_says_nothing_is_not_written_and_reads_back() -> None:
    bare = DeviceEntry(target="10.0.0.7", outcome=CameraOutcome.UNREACHABLE, detail="It is off.")
    written = bare.model_dump(mode="json")
    assert written == {"target": "10.0.0.7", "outcome": "unreachable", "detail": "It is off."}
    assert DeviceEntry.model_validate_json(json.dumps(written)) == bare


# --- nothing a camera says breaks a parser ---------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_any_bytes_are_an_answer_or_an_error_of_ours(body: bytes) -> None:
    text = decode(body)
    for parse in (
        lambda: parse_json(body, "it"),
        lambda: parse_parameters(text, "it"),
        lambda: raise_for_text(text, "it"),
        lambda: parse_level(text),
        lambda: parse_xml(body, "it"),
    ):
        said = _error_of(parse)
        assert len(said) < 500 and (not said or said.isprintable())


def _error_of(parse: Callable[[], Any]) -> str:
    try:
        parse()
    except ToolError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE a [<!ENTITY b "x">]><a>&b;</a>',
        b'<?xml version="1.0"?><!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b"<a>" * 5000,
        b"<a>" + b"<b/>" * 60_000 + b"</a>",
        b"<a/><b/>",
        b"",
        b"\x00",
    ],
)
def test_dangerous_or_broken_xml_is_nonsense(document: bytes) -> None:
    with pytest.raises(Nonsense):
        parse_xml(document, "it")


async def test_a_port_that_must_never_be_touched_is_not_touched_without_an_account_either(perform: Any) -> None:
    policy = ProbePolicy(never_ports=["80", "443"])
    for port in (None, 80, 443):
        with pytest.raises(Refused, match="never"):
            await perform(vapix_device_info, {"targets": ["127.0.0.1"], "port": port}, policy=policy)


# --- settings that let strangers in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["old", "9.80", "mid", "new", "ptz"])
@pytest.mark.parametrize("user", ["root", "operator", "viewer"])
async def test_whether_anybody_may_view_is_tried_for_every_account(info: Info, profile: str, user: str) -> None:
    with cameras(profile) as [camera]:
        for open_to_all in (False, True):
            camera.device.anonymous_viewer = open_to_all
            [found] = (await info(camera, block=camera.block(user), views=["settings"])).cameras
            assert found.settings is not None and found.settings.anonymous is open_to_all
        glimpses = [one for one in camera.requests if one.path == "/axis-cgi/jpg/image.cgi"]
        assert len(glimpses) == 2 and not any(one.credentials for one in glimpses), "nobody logged in for that"


@pytest.mark.parametrize("user", ["operator", "viewer"])
async def test_settings_an_account_may_not_see_are_missing_and_not_in_order(
    info: Info, camera: Camera, user: str
) -> None:
    [found] = (await info(camera, block=camera.block(user), views=["settings"])).cameras
    assert found.settings is not None and found.settings.ssh is None
    assert "does not tell this account about HTTPS, SSH, UPnP" in found.missing["settings"]
    [whole] = (await info(camera, views=["settings"])).cameras
    assert whole.settings is not None and whole.settings.ssh is not None and "settings" not in whole.missing


async def test_a_camera_that_gives_no_picture_says_nothing_of_who_may_view(info: Info, camera: Camera) -> None:
    camera.device.faults.add("/axis-cgi/jpg/image.cgi", Fault("503", count=None, bare=True))
    [found] = (await info(camera, block=camera.block("viewer"), views=["settings"])).cameras
    assert found.settings is not None and found.settings.anonymous is None
