"""Axis devices among the hosts of a network: who is asked, what is made of the answers, and that camera and host become one asset."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from lab.axis_camera import cameras

from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Fault
from deployments.demo.network import Office
from flows import _enrich
from flows._cameras import AxisDevice, ask_axis, axis_ports, observe_axis
from flows._scan import SeenService
from tasks.core.run import FixedWiring, wired
from tests.lab.network import needs_lab

HTTP, HTTPS, SSH = (SeenService("tcp", port, name) for port, name in ((80, "http"), (443, "https"), (22, "ssh")))


def test_axis_devices_are_noticed_by_their_mac_or_by_what_their_page_wants_a_password_for() -> None:
    hosts = {
        "10.0.0.1": [SSH, HTTP, HTTPS],
        "10.0.0.2": [HTTPS],
        "10.0.0.3": [HTTP],
        "10.0.0.4": [HTTP],
        "10.0.0.5": [SSH],
        "10.0.0.6": [SeenService("udp", 80, "")],
    }
    vendors = {"10.0.0.1": "Axis Communications AB", "10.0.0.3": "Dell", "10.0.0.5": "AXIS COMMUNICATIONS AB"}
    vendors["10.0.0.6"] = "Axis Communications"
    facts = {
        "10.0.0.2": {"http_realm": "AXIS_B8A44F000002"},
        "10.0.0.3": {"http_realm": "AXIS_NOT_A_SERIAL"},
        "10.0.0.4": {"http_realm": "Printer"},
        "10.0.0.7": {"http_title": "AXIS"},
        "10.0.0.8": {"http_title": "Live view - AXIS P3225-LV Mk II"},
        "10.0.0.9": {"http_title": "Practice of Dr. Axis"},
    }
    hosts |= {address: [HTTP, HTTPS] for address in ("10.0.0.7", "10.0.0.8", "10.0.0.9")}
    assert axis_ports(hosts, vendors, facts) == {80: ["10.0.0.1", "10.0.0.7", "10.0.0.8"], 443: ["10.0.0.2"]}


@pytest.mark.lab
@needs_lab
async def test_cameras_behind_a_router_are_known_by_what_they_show_anybody(prefect_server: str) -> None:
    async with Office() as office:
        assert office.lab is not None
        there = {office.lab.hosts[name].address: office.lab.hosts[name] for name in ("camera-door", "camera-yard")}
        policy = ProbePolicy(allow=office.cidrs, host_packets_per_second=0)
        with wired(FixedWiring(policies={"default": policy})):
            found = (await _enrich.enrich({address: [HTTP, HTTPS] for address in there}, "default", None)).said
        for address, host in there.items():
            device = found[address].axis
            assert device is not None and device.serial == host.mac.replace(":", "").upper(), address
            assert device.kind == "camera" and device.model and device.firmware


def test_the_serial_is_the_mac_so_that_camera_and_host_are_one_asset() -> None:
    [host] = observe_axis(
        [("10.0.0.1", AxisDevice("B8A44F000001", "P3245", "11.11.150", "camera"))], "yard", datetime.now(UTC)
    )
    assert (host.mac, host.serial, host.type, host.method) == (
        "b8:a4:4f:00:00:01", "B8A44F000001", "camera", "vapix",
    )  # fmt: skip


@pytest.mark.parametrize("profile", ["mid", "new", "ptz"])
async def test_what_cameras_tell_anybody_is_asked_without_logging_in(profile: str, prefect_server: str) -> None:
    with cameras(profile, profile) as both, wired(FixedWiring(policies={"default": ProbePolicy()})):
        found = await ask_axis({both[0].port: [camera.address for camera in both]}, "default")
        assert {address: device.serial for address, device in found.items()} == {
            camera.address: camera.device.serial for camera in both
        }
        assert all(device.kind == "camera" and device.firmware for device in found.values())
        assert not any(request.credentials for camera in both for request in camera.requests), "nobody logged in"


@pytest.mark.parametrize("profiles", [("needs-setup",), ("needs-setup", "mid")])
async def test_cameras_that_nobody_has_set_up_yet_are_known_too(profiles: tuple[str, ...], prefect_server: str) -> None:
    with cameras(*profiles) as there, wired(FixedWiring(policies={"default": ProbePolicy()})):
        found = await ask_axis({there[0].port: [camera.address for camera in there]}, "default")
        assert {address: device.serial for address, device in found.items()} == {
            camera.address: camera.device.serial for camera in there
        }
        assert all(device.model and device.firmware for device in found.values())


async def test_hosts_that_are_no_cameras_cost_nothing_but_a_line_in_the_log(prefect_server: str) -> None:
    with cameras("mid") as [camera], wired(FixedWiring(policies={"default": ProbePolicy()})):
        camera.device.faults.add("/axis-cgi/*", Fault("garbage", count=None, bare=True))
        assert await ask_axis({camera.port: [camera.address]}, "default") == {}


async def test_enriching_puts_the_device_beside_what_its_services_say(monkeypatch: pytest.MonkeyPatch) -> None:
    device = AxisDevice("B8A44F000001", "P3245", "11.11.150", "camera")

    async def ask(by_port: object, site: str) -> dict[str, AxisDevice]:
        assert by_port == {80: ["10.0.0.1"]}
        return {"10.0.0.1": device}

    async def nothing(*_: object) -> dict[str, object]:
        return {}

    monkeypatch.setattr(_enrich, "ask_axis", ask)
    monkeypatch.setattr(_enrich, "_services", nothing)
    found = await _enrich.enrich({"10.0.0.1": [HTTP]}, "default", None, {"10.0.0.1": "Axis Communications AB"})
    assert found.said["10.0.0.1"].axis == device
