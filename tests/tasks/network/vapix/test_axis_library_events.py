"""The simulated camera's events satisfy a client nobody here wrote: the `axis` library, which Home Assistant uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import axis.rtsp
import httpx
import pytest
from axis.device import AxisDevice
from axis.models.configuration import Configuration
from axis.models.event import Event, EventOperation, EventTopic
from axis.rtsp import Signal, State
from lab.axis_camera import Camera, cameras

from deployments.demo.axis_camera._rtsp import Rtsp


@pytest.fixture(params=["ancient", "9.80", "mid", "ptz"])
def camera(request: pytest.FixtureRequest) -> AsyncIterator[Camera]:
    with cameras(request.param) as [found]:
        yield found
        assert not found.device.errors


@pytest.fixture
async def device(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AxisDevice]:
    monkeypatch.setattr(axis.rtsp, "RTSP_PORT", camera.rtsp_port)
    async with httpx.AsyncClient(verify=False, trust_env=False) as session:
        yield AxisDevice(
            Configuration(session, camera.address, username="root", password="pass", port=camera.port, web_proto="http")
        )


async def until(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_it_reads_which_events_there_are(device: AxisDevice, camera: Camera) -> None:
    instances = await device.vapix.event_instances.get_event_instances()
    ready = instances["tns1:Device/tnsaxis:Status/SystemReady"]
    assert ready.stateful and ready.is_available and ready.topic_filter == "onvif:Device/axis:Status/SystemReady"
    port = instances["tns1:Device/tnsaxis:IO/VirtualInput"]
    assert isinstance(port.source, dict) and port.source["@Name"] == "port"
    if camera.device.has("video"):
        assert instances["tns1:VideoSource/tnsaxis:Tampering"].stateless
        assert instances["tnsaxis:CameraApplicationPlatform/VMD/xinternal_data"].is_application_data


async def test_its_event_stream_tells_the_states_and_then_what_changes(device: AxisDevice, camera: Camera) -> None:
    heard: list[Event] = []
    signals: list[Signal] = []
    device.enable_events()
    device.event.subscribe(heard.append)
    device.stream.connection_status_callback.append(signals.append)
    device.stream.start()
    try:
        await until(lambda: any(event.topic_base is EventTopic.DAY_NIGHT_VISION for event in heard))
        assert {event.operation for event in heard} == {EventOperation.INITIALIZED}
        assert Signal.PLAYING in signals and device.stream.state is State.PLAYING
        camera.device.emit("tns1:Device/tnsaxis:IO/Port", {"port": "0"}, {"state": "1"})
        await until(lambda: heard[-1].operation is EventOperation.CHANGED)
        assert (heard[-1].topic_base, heard[-1].id, heard[-1].is_tripped) == (EventTopic.PORT_INPUT, "0", True)
    finally:
        device.stream.stop()
    await until(lambda: not camera.device.slot(Rtsp).open)


async def test_a_wrong_password_gets_no_stream(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks again at once and without end, so it is stopped as soon as the camera has said no twice."""
    monkeypatch.setattr(axis.rtsp, "RTSP_PORT", camera.rtsp_port)
    async with httpx.AsyncClient(verify=False, trust_env=False) as session:
        place = Configuration(
            session, camera.address, username="root", password="wrong", port=camera.port, web_proto="http"
        )
        device = AxisDevice(place)
        device.enable_events()
        device.stream.start()
        try:
            await until(
                lambda: sum(one.method == "DESCRIBE" and one.status == 401 for one in list(camera.requests)) > 1
            )
        finally:
            device.stream.stop()
        assert not camera.device.slot(Rtsp).open
