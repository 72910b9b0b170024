"""`vapix_io_ports` against simulated cameras with either API, over one set of circuits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import ACCOUNTS, PASSWORD, Camera, cameras
from lab.axis_camera.asking import Asking, values

from deployments.demo.axis_camera import Device, Event, Fault, Response, find_profile
from deployments.demo.axis_camera._api_io import Terminals
from tasks.core.errors import (
    Busy,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix._io_port_apis import (
    Port,
    electrical,
    legacy_ports,
    means_active,
    parse_check,
    parse_items,
    parse_parameters,
    pick,
)
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix.vapix_io_ports import IoPorts, VapixIoPorts, vapix_io_ports

MANAGEMENT = "/axis-cgi/io/portmanagement.cgi"
PORT_CGI = "/axis-cgi/io/port.cgi"
Ask = Callable[..., Awaitable[IoPorts]]
GENERATIONS = [("ancient", "port.cgi", 2), ("9.80", "portmanagement.cgi", 1), ("ptz", "portmanagement.cgi", 2)]
"""Profiles with an output, the API they are asked by, and the output."""
every_generation = pytest.mark.parametrize(("profile", "api", "output"), GENERATIONS)


@pytest.fixture
def ask(asking_one: Asking) -> Ask:
    return asking_one(vapix_io_ports, scheme="https", approving=True)


@pytest.fixture
def camera(ptz: Camera) -> Camera:
    """A camera with portmanagement.cgi: two configurable ports, two outputs."""
    return ptz


def terminals(camera: Camera) -> Terminals:
    return camera.device.slot(Terminals)


def one(entry: IoPorts) -> Port:
    (port,) = entry.ports
    return port


def acts(camera: Camera) -> list[Any]:
    """What a camera was told to do with its ports, by either API."""
    told = [log for log in camera.requests if log.path == MANAGEMENT and log.call in {"setPorts", "setStateSequence"}]
    return told + [log for log in camera.requests if log.path == PORT_CGI and "action" in log.query]


# --- reading -------------------------------------------------------------------------------------------------------------


@every_generation
async def test_ports_are_told_the_same_way_by_either_api(profile: str, api: str, output: int, ask: Ask) -> None:
    with cameras(profile) as [camera]:
        entry = await ask(camera)
        assert entry.api == api
        assert [port.port for port in entry.ports] == list(range(len(camera.device.profile.ports)))
        assert all(port.number == port.port + 1 for port in entry.ports)
        found = entry.ports[output]
        assert (found.direction, found.name, found.state, found.normal_state, found.active) == (
            "output", f"Output {output + 1}", "open", "open", False,
        )  # fmt: skip
        assert (entry.ports[0].direction, entry.ports[0].name, entry.ports[0].configurable) == (
            "input",
            "Input 1",
            True,
        )
        terminals(camera).drive(0, "closed")
        driven = one(await ask(camera, action="read", only=[0]))
        assert (driven.state, driven.active) == ("closed", True)
        assert camera.most_in_flight == 1 and not acts(camera)


@every_generation
async def test_an_input_that_rests_closed_is_active_when_it_opens(
    profile: str, api: str, output: int, ask: Ask
) -> None:
    device = Device(profile, accounts=ACCOUNTS)
    device.params.set("IOPort.I0.Input.Trig", "open")
    with cameras(device) as [camera]:
        terminals(camera).drive(0, "closed")
        assert not one(await ask(camera, action="read", only=[0])).active
        terminals(camera).drive(0, "open")
        port = one(await ask(camera, action="read", only=[0]))
        assert (port.state, port.normal_state, port.active) == ("open", "closed", True)


async def test_a_port_that_is_not_there_is_named_with_those_that_are(camera: Camera, ancient: Camera, ask: Ask) -> None:
    for each in (camera, ancient):
        with pytest.raises(NotFound, match=r"no port 7 here; there are: 0 \(input\), 1 \(input\), 2 \(output\)"):
            await ask(each, action="read", only=[0, 7])


async def test_a_camera_without_ports_has_an_empty_list(ask: Ask) -> None:
    device = Device(dataclasses.replace(find_profile("mid"), ports=()), accounts=ACCOUNTS)
    with cameras(device) as [camera]:
        entry = await ask(camera)
        assert entry.ports == [] and "no ports" in entry.notes[0]


# --- setting -------------------------------------------------------------------------------------------------------------


@every_generation
@pytest.mark.parametrize("normal", ["open", "closed"])
async def test_an_output_is_made_active_and_inactive_whatever_its_normal_state(
    profile: str, api: str, output: int, normal: str, ask: Ask
) -> None:
    device = Device(profile, accounts=ACCOUNTS)
    device.params.set(f"IOPort.I{output}.Output.Active", "closed" if normal == "open" else "open")
    with cameras(device) as [camera]:
        assert one(await ask(camera, action="read", only=[output])).normal_state == normal
        events: list[Event] = []
        device.subscribe(events.append)
        active = await ask(camera, action="set", io_port=output, state="active")
        assert values(active) == {"state": ("inactive", "active")} and one(active).state != normal
        assert terminals(camera).active(output)
        by_circuit = await ask(camera, action="set", io_port=output, state=normal)
        assert values(by_circuit) == {"state": ("open" if normal == "closed" else "closed", normal)}
        assert not terminals(camera).active(output)
        told = [
            (event.source["port"], event.data["state"]) for event in events if event.topic.endswith("IO/OutputPort")
        ]
        assert told == [(str(output), "1"), (str(output), "0")]


async def test_both_apis_show_one_circuit(ancient: Camera, ask: Ask) -> None:
    await ask(ancient, action="set", io_port=3, state="active")
    assert unquote(acts(ancient)[-1].query) == "action=4:/", "ports of port.cgi begin with 1"
    assert terminals(ancient).circuits[3] == "closed"


async def test_inputs_are_not_switched(camera: Camera, ancient: Camera, ask: Ask) -> None:
    for each in (camera, ancient):
        for action in ({"action": "set", "state": "active"}, {"action": "pulse", "seconds": 1}):
            with pytest.raises(Rejected, match="Port 0 is an input: only outputs are switched"):
                await ask(each, io_port=0, **action)
        assert not acts(each)


async def test_read_only_ports_are_not_touched(camera: Camera, ask: Ask) -> None:
    terminals(camera).readonly.add(2)
    assert one(await ask(camera, action="read", only=[2])).readonly
    for action in ({"action": "set", "state": "active"}, {"action": "configure", "name": "X"}):
        with pytest.raises(Rejected, match="Port 2 is read-only"):
            await ask(camera, io_port=2, **action)
    assert not acts(camera)


async def test_an_output_that_does_not_follow_is_found_out_by_reading_back(camera: Camera, ask: Ask) -> None:
    ok = Response.json({"apiVersion": "1.1", "method": "setPorts", "data": {"ports": ["2"]}})
    camera.device.faults.add(MANAGEMENT, Fault("answer", method="setPorts", response=ok))
    entry = await ask(camera, action="set", io_port=2, state="active")
    assert entry.outcome == "rejected" and entry.detail == (
        "The camera took it and did not do it: state is still inactive."
    )


@pytest.mark.parametrize("effect", [True, False])
async def test_an_answer_that_says_nothing_is_settled_by_reading_the_port(
    effect: bool, camera: Camera, ask: Ask
) -> None:
    camera.device.faults.add(MANAGEMENT, Fault("html", effect=effect, method="setPorts"))
    if not effect:
        with pytest.raises(Nonsense, match="web page"):
            await ask(camera, action="set", io_port=2, state="active")
        return
    entry = await ask(camera, action="set", io_port=2, state="active")
    assert entry.outcome == "done" and one(entry).active and "web page" in entry.notes[0]


async def test_an_output_that_the_camera_does_not_explain_is_switched_by_its_circuit_only(
    camera: Camera, ask: Ask
) -> None:
    item = {"port": "0", "configurable": False, "usage": "", "name": "", "direction": "output", "state": "open"}
    ports = Response.json({"apiVersion": "1.1", "data": {"numberOfPorts": 1, "items": [item]}})
    camera.device.faults.add(MANAGEMENT, Fault("answer", count=None, method="getPorts", response=ports))
    with pytest.raises(Unsupported, match="which state is normal for port 0"):
        await ask(camera, action="set", io_port=0, state="active")
    assert not acts(camera)


# --- pulses ----------------------------------------------------------------------------------------------------------------


@every_generation
async def test_a_pulse_makes_an_output_active_for_its_time_and_the_camera_ends_it(
    profile: str, api: str, output: int, ask: Ask
) -> None:
    with cameras(profile) as [camera]:
        events: list[Event] = []
        camera.device.subscribe(events.append)
        entry = await ask(camera, action="pulse", io_port=output, seconds=1.5)
        assert entry.outcome == "done" and entry.pulsed_seconds == 1.5 and not one(entry).active, entry
        assert "The output was seen active." in entry.notes and not entry.changes
        told = [event for event in events if event.topic.endswith("IO/OutputPort")]
        assert [event.data["state"] for event in told] == ["1", "0"]
        assert 1.4 < (told[1].at - told[0].at).total_seconds() < 3
        if api == "port.cgi":
            assert unquote(acts(camera)[-1].query) == f"action={output + 1}:/1500\\"


async def test_a_long_pulse_is_not_waited_for(camera: Camera, ask: Ask) -> None:
    entry = await ask(camera, action="pulse", io_port=3, seconds=60)
    assert one(entry).active and "ends the pulse by itself after 60 s" in entry.notes[1]
    with pytest.raises(Busy, match="2200") as caught:
        await ask(camera, action="pulse", io_port=3, seconds=1)
    assert not caught.value.retryable, "nobody pulses a door a second time on his own"
    with pytest.raises(Busy):
        await ask(camera, action="set", io_port=3, state="inactive")


async def test_a_pulse_whose_answer_is_lost_is_not_sent_again(camera: Camera, ancient: Camera, ask: Ask) -> None:
    camera.device.faults.add(MANAGEMENT, Fault("close", effect=True, method="setStateSequence"))
    with pytest.raises(Unanswered) as caught:
        await ask(camera, action="pulse", io_port=2, seconds=0.5)
    assert not caught.value.retryable and len(acts(camera)) == 1
    ancient.device.faults.add(PORT_CGI, Fault("close", effect=True, skip=1))
    with pytest.raises(Unanswered):
        await ask(ancient, action="pulse", io_port=2, seconds=0.5)
    assert len(acts(ancient)) == 1


async def test_a_pulse_that_does_not_happen_is_found_out(camera: Camera, ask: Ask) -> None:
    ok = Response.json({"apiVersion": "1.1", "method": "setStateSequence", "data": {"port": "2"}})
    camera.device.faults.add(MANAGEMENT, Fault("answer", method="setStateSequence", response=ok))
    entry = await ask(camera, action="pulse", io_port=2, seconds=4)
    assert entry.outcome == "rejected" and "did not become active" in str(entry.detail)


async def test_a_pulse_ends_an_output_that_was_active_before(camera: Camera, ask: Ask) -> None:
    await ask(camera, action="set", io_port=2, state="active")
    entry = await ask(camera, action="pulse", io_port=2, seconds=0.3)
    assert values(entry) == {"state": ("active", "inactive")} and "active before, too" in entry.notes[-1]


# --- configuring -------------------------------------------------------------------------------------------------------------


@every_generation
async def test_a_configurable_port_is_configured_and_can_be_put_back(
    profile: str, api: str, output: int, ask: Ask
) -> None:
    with cameras(profile) as [camera]:
        entry = await ask(
            camera, action="configure", io_port=0, direction="output", normal_state="closed", name="Gate 7"
        )
        assert entry.outcome == "done" and values(entry) == {
            "direction": ("input", "output"),
            "normal_state": ("open", "closed"),
            "name": ("Input 1", "Gate 7"),
        }
        assert camera.device.params.get("IOPort.I0.Output.Name") == "Gate 7"
        assert camera.device.params.get("IOPort.I0.Output.Active") == "open"
        assert not one(entry).active, "an output rests in its normal state"
        back = await ask(camera, action="configure", io_port=0, direction="input", normal_state="open", name="Input 1")
        assert (one(back).direction, one(back).name, one(back).normal_state) == ("input", "Input 1", "open")


async def test_a_port_that_is_not_configurable_keeps_its_direction_and_may_have_a_name(ask: Ask) -> None:
    with cameras("mid", "old") as several:
        for camera in several:
            with pytest.raises(Rejected, match="Port 0 is an input and cannot be made an output"):
                await ask(camera, action="configure", io_port=0, direction="output", name="X")
            assert not acts(camera) and camera.device.params.get("IOPort.I0.Direction") == "input"
            entry = await ask(camera, action="configure", io_port=0, name="Door contact")
            assert values(entry) == {"name": ("Input 1", "Door contact")}


async def test_what_a_port_becomes_along_with_another_normal_state_is_told(camera: Camera, ask: Ask) -> None:
    terminals(camera).drive(0, "closed")
    entry = await ask(camera, action="configure", io_port=0, normal_state="closed")
    assert values(entry) == {"normal_state": ("open", "closed"), "active": (True, False)}
    assert entry.notes == ["active changed along: True before, False now."]


async def test_a_refusal_halfway_tells_what_holds_all_the_same(camera: Camera, ask: Ask) -> None:
    def answer(_: str, value: str) -> None:
        camera.device.params.set("IOPort.I0.Input.Name", "Half")

    camera.device.params.watch("IOPort.I0.Direction", answer)
    refusal = {
        "code": 2104,
        "message": "Invalid parameter value: normalState",
        "details": {"port": "0", "propertyName": "normalState"},
        "errors": [],
    }
    body = Response.json({"apiVersion": "1.1", "method": "setPorts", "error": refusal})
    camera.device.faults.add(MANAGEMENT, Fault("answer", method="setPorts", response=body, effect=True))
    entry = await ask(camera, action="configure", io_port=0, name="Half")
    assert entry.outcome == "rejected" and "a value is not valid for this port" in str(entry.detail)
    assert values(entry) == {"name": ("Input 1", "Half")}


# --- an API that is listed and not there ------------------------------------------------------------------------------------


async def test_ports_are_told_and_worked_by_the_older_api_where_the_newer_is_only_listed(
    camera: Camera, ask: Ask
) -> None:
    as_newer = await ask(camera)
    camera.device.faults.add(MANAGEMENT, Fault("404", count=None))
    entry = await ask(camera)
    assert entry.api == "port.cgi" and entry.ports == as_newer.ports
    [note] = entry.notes
    assert "portmanagement.cgi" in note and "HTTP 404" in note
    assert len([log for log in camera.requests if log.path == MANAGEMENT and log.status == 404]) == 1
    entry = await ask(camera, action="set", io_port=2, state="active")
    assert values(entry) == {"state": ("inactive", "active")} and terminals(camera).active(2)
    entry = await ask(camera, action="configure", io_port=0, name="Door contact")
    assert values(entry) == {"name": ("Input 1", "Door contact")}


async def test_a_camera_without_ports_by_either_api_has_none(camera: Camera, ask: Ask) -> None:
    camera.device.faults.add(MANAGEMENT, Fault("404", count=None))
    camera.device.faults.add(PORT_CGI, Fault("404", count=None))
    with pytest.raises(Unsupported, match=r"portmanagement\.cgi is not there"):
        await ask(camera)


async def test_no_other_api_is_tried_after_something_was_sent_that_changes(camera: Camera, ask: Ask) -> None:
    camera.device.faults.add(MANAGEMENT, Fault("404", method="setPorts"))
    with pytest.raises(Unsupported):
        await ask(camera, action="set", io_port=2, state="active")
    assert len(acts(camera)) == 1


# --- virtual inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "mid", "new"])
async def test_virtual_inputs_are_switched_and_fall_back_by_themselves(profile: str, ask: Ask) -> None:
    with cameras(profile) as [camera]:
        events: list[Event] = []
        camera.device.subscribe(events.append)
        entry = await ask(camera, action="virtual", virtual_input=7, state="active", seconds=1)
        assert entry.virtual is not None and entry.virtual.changed and entry.virtual.seconds == 1
        again = await ask(camera, action="virtual", virtual_input=7, state="active", seconds=1)
        assert again.virtual is not None and again.virtual.changed is False
        for _ in range(60):
            await asyncio.sleep(0.05)
            if len(events) > 1:
                break
        told = [(event.source["port"], event.data["active"]) for event in events if "VirtualInput" in event.topic]
        assert told == [("7", "1"), ("7", "0")]
        off = await ask(camera, action="virtual", virtual_input=7, state="inactive")
        assert off.virtual is not None and not off.virtual.active and off.virtual.changed is False
        assert "no request that reads a virtual input" in off.notes[0], "what nobody can read back is not told as seen"


async def test_a_virtual_input_that_is_not_there_is_refused_by_the_camera(camera: Camera, ask: Ask) -> None:
    with pytest.raises(Rejected, match="Invalid port 64"):
        await ask(camera, action="virtual", virtual_input=64, state="active")
    with cameras("bare") as [radar], pytest.raises(Unsupported, match="no virtual inputs"):
        await ask(radar, action="virtual", virtual_input=1, state="active")


# --- safety --------------------------------------------------------------------------------------------------------------------

ACTING: list[dict[str, Any]] = [
    {"action": "set", "io_port": 2, "state": "active"},
    {"action": "pulse", "io_port": 2, "seconds": 1},
    {"action": "configure", "io_port": 2, "name": "X"},
    {"action": "virtual", "virtual_input": 1, "state": "active"},
]


@pytest.mark.parametrize("acting", ACTING, ids=lambda acting: str(acting["action"]))
async def test_what_acts_needs_approval_for_exactly_this_camera(
    acting: dict[str, Any], camera: Camera, ask: Ask
) -> None:
    for confirm in (None, "", "yes", f"{camera.address} ", "127.0.0.1"):
        with pytest.raises(Refused, match="needs approval"):
            await ask(camera, **acting, confirm=confirm)
    assert not camera.requests
    params = VapixIoPorts(targets=["10.0.0.5"], credentials="axis/yard", **acting)
    assert params.safety() is Safety.CHANGE and params.approval() and params.subject() == "10.0.0.5"
    with pytest.raises(InvalidParameters, match="exactly one target"):
        await ask(camera, **acting, targets=[camera.address, "127.0.0.9"])


async def test_reading_needs_no_approval() -> None:
    for given_ in ({}, {"action": "read", "only": [1]}):
        params = VapixIoPorts(targets=["10.0.0.5", "10.0.0.6"], credentials="axis/yard", **given_)  # type: ignore[arg-type]
        assert params.safety() is None and not params.approval()


async def test_levels_are_kept(camera: Camera, ask: Ask) -> None:
    assert (await ask(camera, user="viewer")).ports
    with pytest.raises(Forbidden):
        await ask(camera, user="viewer", action="set", io_port=2, state="active")
    camera.device.insufficient = "json"
    with pytest.raises(Forbidden):
        await ask(camera, user="viewer", action="set", io_port=2, state="active")
    assert not terminals(camera).active(2)
    with pytest.raises(Unauthorized):
        await ask(camera, user="operator", password="wrong")
    assert one(await ask(camera, user="operator", action="set", io_port=2, state="active")).active


@pytest.mark.parametrize("kind", ["garbage", "truncate-json", "html", "empty", "both", "code-as-string", "500", "503"])
async def test_a_camera_that_answers_wrongly_is_not_acted_upon(kind: Any, camera: Camera, ask: Ask) -> None:
    camera.device.faults.add(MANAGEMENT, Fault(kind, count=None, method="getPorts"))
    with pytest.raises(ToolError) as caught:
        await ask(camera, action="set", io_port=2, state="active")
    assert str(caught.value) and PASSWORD not in str(caught.value)
    assert not acts(camera) and not terminals(camera).active(2)


@pytest.mark.parametrize("kind", ["garbage", "html", "error-text", "404", "503"])
async def test_an_old_camera_that_answers_wrongly_is_not_acted_upon(kind: Any, ancient: Camera, ask: Ask) -> None:
    ancient.device.faults.add(PORT_CGI, Fault(kind, count=1))
    try:
        entry = await ask(ancient, action="set", io_port=2, state="open")
    except ToolError:
        assert not acts(ancient)
    else:
        # Without the check the state is unknown, what the port is comes from the parameters all the same.
        assert entry.changes[0].before is None and not terminals(ancient).active(2)


async def test_hostile_names_are_shown_cut_and_without_control_characters(camera: Camera, ask: Ask) -> None:
    camera.device.params.set("IOPort.I0.Input.Name", "<b>x</b>\n\x1b[2J" + "A" * 4000)
    name = (await ask(camera)).ports[0].name
    assert name.startswith("<b>x</b>") and len(name) <= 140 and name.isprintable()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"action": "set", "io_port": 1}, "action set needs state"),
        ({"action": "set", "state": "active"}, "action set needs io_port"),
        ({"action": "pulse", "io_port": 1, "seconds": 61}, "seconds"),
        ({"action": "pulse", "io_port": 1, "seconds": 0.01}, "seconds"),
        ({"action": "pulse", "io_port": 1, "seconds": 1, "state": "active"}, "state is not for action pulse"),
        ({"action": "configure", "io_port": 1}, "give direction, normal_state or name"),
        ({"action": "configure", "io_port": 1, "name": "a\nb"}, "name is one line"),
        ({"action": "read"}, "action read needs only"),
        ({"io_port": 1}, "io_port is not for action list"),
        ({"action": "virtual", "virtual_input": 1, "state": "closed"}, "no circuit"),
        ({"action": "virtual", "virtual_input": 1, "state": "active", "seconds": 1.5}, "whole"),
        ({"action": "virtual", "virtual_input": 1, "state": "inactive", "seconds": 2}, "with state active"),
        ({"action": "set", "io_port": -1, "state": "active"}, "io_port"),
    ],
)
async def test_wrong_parameters_are_named_before_anything_is_sent(
    params: dict[str, Any], said: str, camera: Camera, ask: Ask
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await ask(camera, **params)
    assert not camera.requests


# --- the simulated device --------------------------------------------------------------------------------------------------


async def test_a_camera_reports_errors_of_its_port_apis_as_devices_do(camera: Camera) -> None:
    """The `axis` library of version 60 sends `params` as a list: real devices refuse that."""
    import httpx

    async with httpx.AsyncClient(auth=httpx.BasicAuth("root", PASSWORD), verify=False) as client:

        async def call(method: str, params: Any) -> dict[str, Any]:
            body = {"apiVersion": "1.0", "method": method, "params": params}
            return dict((await client.post(f"{camera.https_url}{MANAGEMENT}", json=body)).json())

        assert (await call("setPorts", [{"port": "2", "state": "closed"}]))["error"]["code"] in {2103, 2104}
        wrong = await call("setPorts", {"ports": [{"port": "2", "name": "A"}, {"port": "0", "state": "open"}]})
        assert wrong["error"]["details"] == {"port": "0", "propertyName": "state"}
        assert camera.device.params.get("IOPort.I2.Output.Name") == "A", "ports ahead of the one that fails are changed"
        assert (await call("setStateSequence", {"port": "2", "sequence": [{"state": "open", "time": 70000}]}))["error"][
            "code"
        ] == 2104
        check = await client.get(f"{camera.https_url}{PORT_CGI}", params={"checkdirection": "1,3"})
        assert check.text == "port1=input\nport3=output\n"
        assert (await client.get(f"{camera.https_url}{PORT_CGI}", params={"action": "9:/"})).text.startswith("Error:")


async def test_the_axis_library_reads_and_works_the_simulated_ports(camera: Camera) -> None:
    import httpx
    from axis.device import AxisDevice
    from axis.models.configuration import Configuration

    camera.device.params.set("Network.HTTP.AuthenticationPolicy", "digest")
    async with httpx.AsyncClient() as client:
        device = AxisDevice(Configuration(client, camera.address, username="root", password=PASSWORD, port=camera.port))
        ports = await device.vapix.io_port_management.get_ports()
        assert [(ports[key].direction, ports[key].name) for key in sorted(ports)][2] == ("output", "Output 3")
        await device.vapix.port_cgi.update()
        # What the library calls close makes an output active: its circuit is open at rest.
        await device.vapix.port_cgi.close("2")
        assert terminals(camera).circuits[2] == "closed"
        await device.vapix.port_cgi.open("2")
        assert terminals(camera).circuits[2] == "open"


async def test_the_monitor_of_port_cgi_tells_changes_as_they_come(camera: Camera) -> None:
    import httpx

    seen = ""
    async with (
        httpx.AsyncClient(auth=httpx.BasicAuth("root", PASSWORD), verify=False, timeout=5) as client,
        client.stream("GET", f"{camera.https_url}{PORT_CGI}", params={"monitor": "1,3"}) as answer,
    ):
        assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=ioboundary"
        async for text in answer.aiter_text():
            seen += text
            if "3O:L" in seen and "1I:/" not in seen:
                terminals(camera).drive(0, "closed")
            if "1I:/" in seen:
                break
    assert "1I:L" in seen and seen.count("--ioboundary") >= 3


# --- parsers ---------------------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=12)
    | st.sampled_from(["0", "open", "closed", "input"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["items", "port", "state", "normalState", "direction", "name", "readonly"]), inner
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["items", "numberOfPorts"]), _json))
def test_whatever_getports_answers_is_read_or_refused(data: dict[str, Any]) -> None:
    try:
        ports = parse_items(data)
    except Nonsense:
        return
    assert [port.port for port in ports] == sorted({port.port for port in ports})
    for port in ports:
        assert (port.active is None) == (port.state is None or port.normal_state is None)


@given(st.text(max_size=200))
def test_whatever_port_cgi_answers_is_read(text: str) -> None:
    assert all(isinstance(number, int) and value for number, value in parse_check(text).items())


@given(
    st.dictionaries(
        st.from_regex(
            r"IOPort\.I[0-9]{1,3}\.(Direction|Input\.Trig|Output\.Active|Input\.Name|Configurable)", fullmatch=True
        ),
        st.sampled_from(["input", "output", "open", "closed", "yes", "", "x"]),
    ),
    st.dictionaries(st.integers(0, 10), st.sampled_from(["active", "inactive", "?"])),
)
def test_whatever_the_parameters_say_the_two_views_of_a_port_agree(
    values: dict[str, str], active: dict[int, str]
) -> None:
    assert set(parse_parameters(values)) == {port.port for port in legacy_ports(values, active)}
    for port in legacy_ports(values, active):
        if port.state is not None:
            assert port.active == (port.state != port.normal_state)
            assert electrical(port, "active") != electrical(port, "inactive") == port.normal_state
            assert means_active(port, port.state) is port.active
        assert pick([port], port.port) is port
