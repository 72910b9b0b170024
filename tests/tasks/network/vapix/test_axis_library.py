"""The simulated cameras as the `axis` library (Home Assistant's, version 60) sees them: a client nobody here wrote, over digest.

Its events over RTSP are in test_axis_library_events.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import axis.errors
import axis.rtsp
import httpx
import pytest
from axis.device import AxisDevice
from axis.models.configuration import Configuration
from axis.models.event import Event, EventOperation
from axis.models.parameters.io_port import PortAction
from axis.models.parameters.param_cgi import ParameterGroup
from axis.models.port_management import PortConfiguration, Sequence
from axis.models.ptz_cgi import PtzMove, PtzQuery
from axis.models.pwdgrp_cgi import SecondaryGroup
from axis.models.view_area import Geometry
from axis.rtsp import Signal
from lab.axis_camera import PASSWORD, Camera, cameras

from deployments.demo.axis_camera import Fault

PROFILES = ("mid", "new", "ptz")
LEGACY = ("ancient", "old", "9.80", "bare")
PORT_CGI = "/axis-cgi/io/port.cgi"


@pytest.fixture(params=PROFILES)
def camera(request: pytest.FixtureRequest) -> Iterator[Camera]:
    with cameras(request.param) as [one]:
        yield one
        assert one.device.errors == []


@contextlib.asynccontextmanager
async def connected(camera: Camera, user: str = "root", password: str = PASSWORD) -> AsyncIterator[AxisDevice]:
    async with httpx.AsyncClient(trust_env=False) as session:
        yield AxisDevice(
            Configuration(session, camera.address, username=user, password=password, port=camera.port, web_proto="http")
        )


async def test_it_initialises_and_knows_the_camera(camera: Camera) -> None:
    async with connected(camera) as device:
        await device.vapix.initialize()
        profile = camera.device.profile
        assert device.vapix.serial_number == camera.device.serial
        assert device.vapix.firmware_version == profile.firmware
        assert device.vapix.product_number == profile.model and device.vapix.product_type == profile.kind
        assert device.vapix.basic_device_info["0"].soc_serial_number == ""
        assert {api.id: api.version for api in device.vapix.api_discovery.values()} == dict(profile.apis)
        assert device.vapix.params.property_handler["0"].image_number_of_views == profile.views
        assert device.vapix.params.property_handler["0"].ptz is camera.device.has("ptz") or camera.device.has(
            "digital-ptz"
        )
        assert device.vapix.streaming_profiles == []
        assert [str(port.direction) for port in device.vapix.io_port_management.values()] == [
            "output" if kind == "output" else "input" for kind in profile.ports
        ]
        assert len(device.vapix.view_areas) == profile.views
        assert [app.nice_name for app in device.vapix.applications.values()] == ["AXIS Video Motion Detection"]
    assert camera.device.auth.handed_out < len(camera.requests)
    assert {entry.credentials for entry in camera.requests} <= {"digest", None}


@pytest.mark.parametrize("profile", LEGACY)
async def test_it_initialises_older_and_barer_ones_by_parameters(profile: str) -> None:
    with cameras(profile) as [camera]:
        camera.device.params.set("Network.HTTP.AuthenticationPolicy", "digest")
        async with connected(camera) as device:
            await device.vapix.initialize()
            assert device.vapix.serial_number == camera.device.serial
            assert device.vapix.firmware_version == camera.device.profile.firmware
            assert device.vapix.product_number == camera.device.model
            assert len(device.vapix.ports) == len(camera.device.profile.ports)
        assert camera.device.errors == []


async def test_it_reads_the_parameter_groups_it_knows(camera: Camera) -> None:
    async with connected(camera) as device:
        await device.vapix.initialize()
        params = device.vapix.params
        assert await params.image_handler.update()
        assert params.image_handler["0"].appearance["Resolution"] == camera.device.profile.resolutions.split(",")[0]
        assert await params.brand_handler.update() and params.brand_handler["0"].brand == "AXIS"
        assert await params.io_port_handler.update() and len(params.io_port_handler) == len(camera.device.profile.ports)
        camera.device.params.add_entry("streamprofile", {"Name": "low", "Parameters": "resolution=640x360&fps=5"})
        assert await params.stream_profile_handler.update()
        assert [profile.name for profile in params.stream_profile_handler["0"].stream_profiles] == ["low"]
        await device.vapix.stream_profiles.update()
        assert [(one.name, one.parameters) for one in device.vapix.streaming_profiles] == [
            ("low", "resolution=640x360&fps=5")
        ]


async def test_it_knows_who_it_is_and_the_accounts(camera: Camera) -> None:
    async with connected(camera, "ptz") as device:
        await device.vapix.load_user_groups()
        assert device.vapix.access_rights is SecondaryGroup.VIEWER_PTZ
    async with connected(camera) as device:
        await device.vapix.initialize_users()
        await device.vapix.load_user_groups()
        assert set(device.vapix.users) == {"root", "operator", "ptz", "viewer"}
        assert device.vapix.access_rights is SecondaryGroup.ADMIN_PTZ
        await device.vapix.users.create("new1", pwd="secret", sgrp=SecondaryGroup.OPERATOR)
        await device.vapix.users.modify("new1", sgrp=SecondaryGroup.VIEWER)
        assert camera.device.auth.accounts["new1"].level == "viewer"
        await device.vapix.users.delete("new1")
        assert "new1" not in camera.device.auth.accounts


async def test_it_lists_the_events_the_camera_declares(camera: Camera) -> None:
    async with connected(camera) as device:
        await device.vapix.initialize_event_instances()
        topics = {instance.topic for instance in device.vapix.event_instances.values()}
        assert "tns1:Device/tnsaxis:IO/Port" in topics
        assert all(instance.name or instance.data is not None for instance in device.vapix.event_instances.values())


@pytest.mark.parametrize("profile", ["mid", "ptz"])
async def test_it_controls_lights(profile: str) -> None:
    with cameras(profile) as [camera]:
        async with connected(camera) as device:
            await device.vapix.initialize()
            lights = device.vapix.light_control
            light = "led0"
            assert lights[light].light_type == "IR"
            # Synchronized with day and night it would stay off by day; the library spells the methods for that in its own way.
            off = {"apiVersion": "1.0", "context": "c", "method": "setLightSynchronizeDayNightMode"}
            off |= {"params": {"lightID": light, "enabled": False}}
            await device.vapix.request("post", "/axis-cgi/lightcontrol.cgi", content=json.dumps(off).encode())
            assert (await lights.get_service_capabilities()).manual_intensity_support
            await lights.enable_light(light)
            await lights.set_automatic_intensity_mode(light, False)
            await lights.activate_light(light)
            assert await lights.get_light_status(light) is True
            ranges = await lights.get_valid_intensity(light)
            await lights.set_manual_intensity(light, ranges.high // 2)
            assert await lights.get_manual_intensity(light) == ranges.high // 2
            assert isinstance(await lights.get_current_intensity(light), int)
            await lights.deactivate_light(light)
            assert await lights.get_light_status(light) is False
        assert camera.device.errors == []


async def test_it_moves_the_camera_and_asks_where_it_looks(ptz: Camera) -> None:
    async with connected(ptz) as device:
        await device.vapix.initialize()
        assert device.vapix.params.ptz_handler["0"].support["1"].absolute_pan is True
        control = device.vapix.ptz
        await control.control(camera=1, pan=10, tilt=-5, zoom=3000, speed=100)
        position = await _still(device)
        assert (float(position["pan"]), float(position["tilt"]), int(position["zoom"])) == (10.0, -5.0, 3000)
        await control.control(camera=1, relative_pan=5)
        assert float((await _still(device))["pan"]) == 15.0
        await control.control(camera=1, continuous_pantilt_move=(50, 0))
        await asyncio.sleep(0.1)
        await control.control(camera=1, continuous_pantilt_move=(0, 0))
        await control.control(camera=1, move=PtzMove.HOME)
        assert b"MaxPan=" in await control.query(PtzQuery.LIMITS)
        assert b"presetpos" in (await control.query(PtzQuery.PRESETPOSCAM)).lower()
        assert (await control.query(PtzQuery.SPEED)).startswith(b"speed=")
        assert await control.configured_device_driver() and b"ommands" in await control.available_ptz_commands()


async def _still(device: AxisDevice) -> dict[str, str]:
    """The position once two questions in a row give the same."""
    last = b""
    async with asyncio.timeout(20):
        while (now := await device.vapix.ptz.query(PtzQuery.POSITION)) != last:
            last = now
            await asyncio.sleep(0.1)
    return dict(line.split("=", 1) for line in now.decode().split())


async def test_a_viewer_without_the_right_to_move_is_refused(ptz: Camera) -> None:
    async with connected(ptz, "viewer") as device:
        with pytest.raises(axis.errors.Unauthorized):
            await device.vapix.ptz.control(camera=1, move=PtzMove.HOME)
    async with connected(ptz, "ptz") as device:
        await device.vapix.ptz.control(camera=1, move=PtzMove.HOME)


async def test_it_switches_outputs_by_the_old_api(ptz: Camera) -> None:
    async with connected(ptz) as device:
        await device.vapix.initialize()
        ports = device.vapix.port_cgi
        await device.vapix.params.io_port_handler.update()
        ports.load_ports()
        outputs = [name for name, port in ports.items() if str(port.direction) == "output"]
        await ports.action(outputs[0], PortAction.HIGH)
        await device.vapix.io_port_management.update()
        closed = device.vapix.io_port_management[outputs[0]].state
        await ports.open(outputs[0])
        await device.vapix.io_port_management.update()
        assert device.vapix.io_port_management[outputs[0]].state != closed
    assert ptz.asked(PORT_CGI)[0].query.startswith(f"action={int(outputs[0]) + 1}%3A%2F")


async def test_its_broken_way_to_set_ports_gets_an_error_as_from_a_device(ptz: Camera) -> None:
    """Version 60 sends a list where an object belongs; a sequence is fine."""
    async with connected(ptz) as device:
        await device.vapix.initialize()
        before = {name: port.state for name, port in device.vapix.io_port_management.items()}
        await device.vapix.io_port_management.set_ports(
            PortConfiguration("2", state="closed")
        )  # says nothing: it looks at no errors
        await device.vapix.io_port_management.update()
        assert {name: port.state for name, port in device.vapix.io_port_management.items()} == before
        await device.vapix.io_port_management.set_state_sequence("2", [Sequence("closed", 0)])
        await asyncio.sleep(0.2)
        await device.vapix.io_port_management.update()
        assert device.vapix.io_port_management["2"].state == "closed"


async def test_it_places_a_view_area_and_puts_it_back(mid: Camera) -> None:
    async with connected(mid) as device:
        await device.vapix.initialize()
        first = next(area for area in device.vapix.view_areas.values() if area.configurable)
        placed = await device.vapix.view_areas.set_geometry(int(first.id), Geometry(100, 640, 60, 360))
        assert placed[first.id].rectangular_geometry == Geometry(100, 640, 60, 360)
        back = await device.vapix.view_areas.reset_geometry(int(first.id))
        assert back[first.id].rectangular_geometry == first.rectangular_geometry
        with pytest.raises(KeyError, match="apiVersion"):  # recorded answers have none there, and the library wants one
            await device.vapix.view_areas.get_supported_versions()


async def test_it_hears_the_state_first_and_then_what_changes(mid: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axis.rtsp, "RTSP_PORT", mid.rtsp_port)
    heard: list[Event] = []
    playing = asyncio.Event()
    async with connected(mid) as device:
        device.event.subscribe(heard.append)
        device.stream.connection_status_callback.append(
            lambda signal: playing.set() if signal is Signal.PLAYING else None
        )
        device.enable_events()
        device.stream.start()
        try:
            async with asyncio.timeout(20):
                await playing.wait()
                while not any(event.operation is EventOperation.INITIALIZED for event in heard):
                    await asyncio.sleep(0.05)
            mid.device.emit("tns1:Device/tnsaxis:IO/Port", {"port": 0}, {"state": True})
            async with asyncio.timeout(20):
                while not any(event.operation is EventOperation.CHANGED and event.state == "1" for event in heard):
                    await asyncio.sleep(0.05)
        finally:
            device.stream.stop()


async def test_a_wrong_password_is_said_as_one(camera: Camera) -> None:
    async with connected(camera, password="wrong") as device:
        with pytest.raises(axis.errors.Unauthorized):
            await device.vapix.params.request_group(ParameterGroup.PROPERTIES)
        assert await device.vapix.user_groups.update() is False


async def test_a_hang_a_missing_path_and_a_level_too_low_are_said_as_such(
    mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axis.interfaces.vapix.TIME_OUT", 0.5)
    async with connected(mid) as device:
        mid.device.faults.add("/axis-cgi/usergroup.cgi", Fault("hang"))
        with pytest.raises(axis.errors.RequestError):
            await device.vapix.user_groups.get_user_groups()
        mid.device.faults.add("/axis-cgi/usergroup.cgi", Fault("404"))
        with pytest.raises(axis.errors.PathNotFound):
            await device.vapix.user_groups.get_user_groups()
    async with connected(mid, "viewer") as device:
        with pytest.raises(axis.errors.Unauthorized):
            await device.vapix.users.list()
        mid.device.insufficient = "403"
        with pytest.raises(axis.errors.Forbidden):
            await device.vapix.users.list()


async def test_digest_alone_fails_on_https_under_the_recommended_policy() -> None:
    """What the library cannot do, and why our tools read the challenge."""
    with cameras("new") as [camera]:
        async with httpx.AsyncClient(verify=False, trust_env=False) as session:
            place: dict[str, Any] = {"port": camera.https_port, "web_proto": "https"}
            device = AxisDevice(Configuration(session, camera.address, username="root", password=PASSWORD, **place))
            with pytest.raises(axis.errors.Unauthorized):
                await device.vapix.users.list()
