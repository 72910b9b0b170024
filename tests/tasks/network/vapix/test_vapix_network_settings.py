"""`vapix_network_settings` against simulated cameras that move, stay, fail, forget and vanish; and its parsers against anything."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import DESTROYING, UNHURRIED, Asking, only
from lab.network import AXIS, DELL, Lab, Served, needs_lab

from blocks.axis import AxisCredentials
from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Device, Fault, Response, http_protocol
from deployments.demo.axis_camera._network_state import NetworkState, SwitchPort
from tasks.core.errors import (
    Conflict,
    Forbidden,
    InvalidParameters,
    Refused,
    Rejected,
    ToolError,
    ToolTimeout,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.models import Safety
from tasks.network.vapix import _netset as netset
from tasks.network.vapix import _netset_change as change
from tasks.network.vapix import _netset_vacant as vacant
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._netset_change import Lost
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix.vapix_network_settings import (
    CameraNetwork,
    NetworkSettingsResult,
    VapixNetworkSettings,
    vapix_network_settings,
)
from tasks.network.vapix.vapix_network_settings import NetworkState as State

Ask = Callable[..., Awaitable[NetworkSettingsResult]]
CGI = "/axis-cgi/network_settings.cgi"
DISCOVER = "/config/discover"
SETTERS = {"setHostnameConfiguration", "setResolverConfiguration", "setIPv4AddressConfiguration"}
_free = itertools.count(1)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than the devices' own pace asks for."""
    monkeypatch.setattr(change, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(vacant, "ANSWER_SECONDS", 0.3)


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask one camera or several; a change is approved unless `confirm` says otherwise."""
    ask_all = asking(vapix_network_settings, policy=DESTROYING, approving=True)

    async def run(*cams: Camera, **params: Any) -> Any:
        if "action" in params:
            params.setdefault("verify_seconds", 5)
        return await ask_all(*cams, **params)

    return run


def unhurried(**fields: Any) -> ProbePolicy:
    return ProbePolicy(**{"host_packets_per_second": 0, "ceiling": "destroy", **fields})


def state(camera: Camera) -> NetworkState:
    found: NetworkState = camera.device.slot(NetworkState)
    return found


def free_address() -> str:
    """A loopback address that no camera of these tests has."""
    number = next(_free)
    return f"127.{210 + os.getpid() % 40}.{number // 250}.{number % 250 + 1}"


def answers(address: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


def written(camera: Camera) -> list[str]:
    """The setters that reached the camera."""
    return [one.call or "" for one in camera.requests if one.call in SETTERS and one.status != 401]


# --- reading, on each generation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "api"),
    [
        ("ancient", "param.cgi"), ("old", "param.cgi"), ("9.80", "network_settings.cgi"), ("mid", "network_settings.cgi"),
        ("new", "network_settings.cgi"), ("bare", "network_settings.cgi"),
    ],
)  # fmt: skip
async def test_every_generation_says_its_addresses_names_and_name_servers(ask: Ask, profile: str, api: str) -> None:
    with cameras(profile) as [camera]:
        # The parameters of a camera that was never moved know another address than the one it listens on.
        camera.device.params.set("Network.eth0.IPAddress", camera.address)
        camera.device.params.set("Network.eth0.SubnetMask", "255.0.0.0")
        found = only(await ask(camera, scheme="https" if profile == "new" else "http", user="root"))
        assert found.api == api and found.settings is not None
        [eth0] = found.settings.interfaces
        assert eth0.name == "eth0" and eth0.ipv4 is not None and eth0.ipv4.mode == "dhcp"
        assert [one.address for one in eth0.ipv4.addresses] == [camera.address]
        assert eth0.ipv4.addresses[0].prefix_length == 8
        assert (eth0.mac or "").lower() == camera.device.mac
        assert found.settings.hostname.name == f"axis-{camera.device.serial.lower()}"
        assert found.settings.resolver.servers == ["192.0.2.1"] and found.settings.resolver.from_dhcp is True
        if api != "param.cgi":
            assert eth0.dot1x is not None and (eth0.dot1x.enabled, eth0.dot1x.status) == (False, "Stopped")
        assert camera.most_in_flight == 1


async def test_settings_are_read_from_the_parameters_where_the_newer_api_is_only_listed(ask: Ask, mid: Camera) -> None:
    mid.device.params.set("Network.eth0.IPAddress", mid.address)
    mid.device.params.set("Network.eth0.SubnetMask", "255.0.0.0")
    mid.device.faults.add(CGI, Fault("404", count=None))
    found = only(await ask(mid))
    assert found.api == "param.cgi" and found.settings is not None and found.settings.interfaces[0].ipv4 is not None
    assert [one.address for one in found.settings.interfaces[0].ipv4.addresses] == [mid.address]
    assert "network_settings.cgi" in (found.detail or "") and "HTTP 404" in (found.detail or "")
    assert len([one for one in mid.requests if one.path == CGI and one.status == 404]) == 1
    with pytest.raises(Unsupported, match="HTTP 404"):
        await ask(mid, action="set_hostname", hostname="x")


async def test_switch_ports_come_from_the_rest_configuration_where_its_path_is_said(ask: Ask, mid: Camera) -> None:
    state(mid).switch_ports = [
        SwitchPort(1, remote=["192.0.2.55"]),
        SwitchPort(2, enabled=False, enforced="AUTHENTICATED"),
    ]
    found = only(await ask(mid))
    assert found.api == "network_settings.cgi, /config" and found.settings is not None
    first, second = found.settings.switch_ports
    assert (first.port, first.enabled, first.up, first.remote_addresses) == ("1", True, True, ["192.0.2.55"])
    assert (second.enabled, second.up, second.security) == (False, False, "AUTHENTICATED")
    assert [one.name for one in found.settings.interfaces] == ["eth0"], "a switch port is no interface of its own"
    assert mid.asked("/config/rest/network-settings/v2beta")


async def test_a_camera_without_a_switch_has_no_switch_ports(ask: Ask, mid: Camera) -> None:
    found = only(await ask(mid))
    assert found.settings is not None and found.settings.switch_ports == [] and found.detail is None


@pytest.mark.parametrize(
    "path", ["http://198.51.100.7/config/rest/x", "/config/rest/../../etc", "/axis-cgi/pwdgrp.cgi", 7]
)
async def test_a_path_that_leads_elsewhere_is_not_followed(ask: Ask, mid: Camera, path: Any) -> None:
    found = {"apis": {"network-settings": {"v2": {"rest_api": path}}}}
    mid.device.faults.add(DISCOVER, Fault("answer", response=Response.json(found)))
    assert only(await ask(mid)).outcome is CameraOutcome.DONE
    assert {one.path for one in mid.requests if one.path.startswith("/config")} == {DISCOVER}


async def test_switch_ports_that_cannot_be_read_are_a_note(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(DISCOVER, Fault("404"))
    found = only(await ask(mid))
    assert found.outcome is CameraOutcome.DONE and "switch ports were not read" in (found.detail or "")


async def test_logins_in_proxies_are_left_out(ask: Ask, mid: Camera) -> None:
    state(mid).proxies = {"httpProxy": "http://ann:hunter2@proxy.example.com:3128", "httpsProxy": "", "noProxy": "lan"}
    result = await ask(mid)
    found = only(result).settings
    assert found is not None and found.proxies is not None
    assert found.proxies.http == "http://***@proxy.example.com:3128" and found.proxies.exceptions == "lan"
    assert "hunter2" not in result.model_dump_json()


async def test_several_cameras_are_read_at_once_and_a_dead_one_costs_its_entry_alone(ask: Ask) -> None:
    with cameras("mid", "mid", "old") as [first, second, third]:
        second.device.refuse()
        result = await ask(first, second, third)
        assert [one.outcome for one in result.cameras] == [
            CameraOutcome.DONE,
            CameraOutcome.UNREACHABLE,
            CameraOutcome.DONE,
        ]


# --- host name and name servers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["9.80", "mid"])
async def test_a_host_name_is_changed_read_back_and_seen(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        done = only(await ask(camera, action="set_hostname", hostname="yard-north"))
        assert done.state is State.CHANGED and done.settings is not None and done.before is not None
        assert done.before.hostname.from_dhcp is True
        assert (done.settings.hostname.name, done.settings.hostname.from_dhcp) == ("yard-north", False)
        assert camera.device.params.get("Network.HostName") == "yard-north"
        again = only(await ask(camera, action="set_hostname", hostname="yard-north"))
        assert again.state is State.UNCHANGED and len(written(camera)) == 1
        back = only(await ask(camera, action="set_hostname", from_dhcp=True))
        assert back.state is State.CHANGED and back.changed_from == "host name yard-north"


async def test_name_servers_are_changed_read_back_and_seen(ask: Ask, mid: Camera) -> None:
    done = only(await ask(mid, action="set_dns", servers=["192.0.2.53", "192.0.2.54"], search=["example.com"]))
    assert done.state is State.CHANGED and done.settings is not None
    assert done.settings.resolver.servers == ["192.0.2.53", "192.0.2.54"]
    assert done.settings.resolver.static_search == ["example.com"]
    assert mid.device.params.get("Network.Resolver.NameServerList") == "192.0.2.53 192.0.2.54"
    back = only(await ask(mid, action="set_dns", from_dhcp=True))
    assert back.state is State.CHANGED and back.settings is not None and back.settings.resolver.from_dhcp is True
    assert back.settings.resolver.static_search == ["example.com"], "what is not named stays"


async def test_more_name_servers_than_the_camera_takes_are_not_sent(ask: Ask, mid: Camera) -> None:
    servers = [f"192.0.2.{number}" for number in range(1, 5)]
    with pytest.raises(InvalidParameters, match="3 name servers at most"):
        await ask(mid, action="set_dns", servers=servers)
    assert written(mid) == []


async def test_a_host_name_the_camera_does_not_keep_is_rolled_back(ask: Ask, mid: Camera) -> None:
    state(mid).hostname_sticks = False
    with pytest.raises(Rejected, match=r"^Rolled back: .*not with that setting") as caught:
        await ask(mid, action="set_hostname", hostname="yard-north")
    assert "the host name of the DHCP server" in str(caught.value)


async def test_a_camera_that_is_gone_after_a_host_name_is_lost(ask: Ask, mid: Camera) -> None:
    real = NetworkState.set_hostname

    def vanish(self: NetworkState, params: dict[str, Any]) -> None:
        real(self, params)
        self.device.later(0.05, lambda: self.go(None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkState, "set_hostname", vanish)
        with pytest.raises(Lost, match=r"^Lost: nobody answers"):
            await ask(mid, action="set_hostname", hostname="yard-north")


async def test_a_camera_that_comes_back_late_is_no_loss(ask: Ask, mid: Camera) -> None:
    real = NetworkState.set_hostname

    def restart(self: NetworkState, params: dict[str, Any]) -> None:
        real(self, params)
        self.device.later(0.05, lambda: self.device.reboot(down=0.7, starting=0.7))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkState, "set_hostname", restart)
        done = only(await ask(mid, action="set_hostname", hostname="yard-north", verify_seconds=20))
    assert done.state is State.CHANGED


# --- another address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "scheme"), [("9.80", "http"), ("mid", "https"), ("new", "https")])
async def test_a_camera_moves_and_is_seen_at_its_new_address(ask: Ask, profile: str, scheme: str) -> None:
    with cameras(profile) as [camera]:
        old, new = camera.address, free_address()
        done = only(await ask(camera, action="set_ipv4", address=new, scheme=scheme))
        assert done.state is State.CHANGED and done.settings is not None and done.before is not None
        assert camera.address == new and answers(new, camera.port) and not answers(old, camera.port)
        ipv4 = done.settings.interfaces[0].ipv4
        assert ipv4 is not None and (ipv4.mode, ipv4.addresses[0].address) == ("static", new)
        assert done.changed_to == f"static {new}/8 via 127.0.0.1" and done.changed_from == f"dhcp {old}/8 via 127.0.0.1"
        assert done.target == old and done.serial == camera.device.serial
        assert written(camera) == ["setIPv4AddressConfiguration"]
        assert camera.most_in_flight == 1


async def test_an_answer_that_never_comes_is_no_error_when_the_camera_is_there(ask: Ask, mid: Camera) -> None:
    state(mid).reaction = "silent"
    new = free_address()
    done = only(await ask(mid, action="set_ipv4", address=new))
    assert done.state is State.CHANGED and mid.address == new
    assert written(mid) == ["setIPv4AddressConfiguration"], "it is never sent a second time"


async def test_a_camera_goes_to_dhcp_where_its_reservation_is_known(ask: Ask, mid: Camera) -> None:
    old, reserved = mid.address, free_address()
    state(mid).dhcp_address = reserved
    state(mid).device.params.set("Network.BootProto", "none")
    state(mid).static_addresses = [{"address": old, "prefixLength": 8, "broadcast": "127.255.255.255"}]
    state(mid).static_router = "127.0.0.1"
    done = only(await ask(mid, action="set_ipv4", from_dhcp=True, address=reserved))
    assert done.state is State.CHANGED and mid.address == reserved
    sent = [one for one in mid.requests if one.call == "setIPv4AddressConfiguration"][-1].body
    assert b'"useStaticDHCPFallback": true' in sent.replace(b'":true', b'": true') and old.encode() in sent


async def test_only_the_router_can_change(ask: Ask, mid: Camera) -> None:
    done = only(await ask(mid, action="set_ipv4", address=mid.address, router="127.0.0.9"))
    assert done.state is State.CHANGED and done.settings is not None
    ipv4 = done.settings.interfaces[0].ipv4
    assert ipv4 is not None and ipv4.router == "127.0.0.9"
    again = only(await ask(mid, action="set_ipv4", address=mid.address, router="127.0.0.9"))
    assert again.state is State.UNCHANGED and len(written(mid)) == 1


# --- the way back ----------------------------------------------------------------------------------------------------------


async def test_a_camera_that_stays_where_it_was_is_left_with_its_old_setting(ask: Ask, mid: Camera) -> None:
    state(mid).reaction = "stay"
    old, new = mid.address, free_address()
    with pytest.raises(Rejected, match=rf"^Rolled back: nobody answers at {new} within 5 s.*answers at {old} with"):
        await ask(mid, action="set_ipv4", address=new)
    assert mid.address == old and state(mid).dhcp
    assert len(written(mid)) == 2, "what it has not done yet is not to be done later"


async def test_a_camera_that_fails_inside_and_says_so_was_rolled_back(ask: Ask, mid: Camera) -> None:
    state(mid).reaction = "fail"
    began = time.monotonic()
    with pytest.raises(Rejected, match=r"^Rolled back: the camera says it failed .*1000"):
        await ask(mid, action="set_ipv4", address=free_address())
    assert answers(mid.address, mid.port) and time.monotonic() - began < 30
    assert len(written(mid)) == 1, "it has undone the change by itself"


async def test_a_camera_that_comes_up_with_something_else_is_brought_back_from_the_new_address(
    ask: Ask, mid: Camera
) -> None:
    state(mid).reaction = "reset"  # it forgets the router
    old, new = mid.address, free_address()
    heal_when_back(mid)
    with pytest.raises(Rejected, match=rf"^Rolled back: the camera answers at {new}, but not with that setting.*{old}"):
        await ask(mid, action="set_ipv4", address=new)
    assert mid.address == old and answers(old, mid.port) and not answers(new, mid.port)
    assert written(mid) == ["setIPv4AddressConfiguration"] * 2 and state(mid).dhcp


async def test_a_camera_nobody_sees_any_more_is_lost_and_the_old_setting_is_said(ask: Ask, mid: Camera) -> None:
    state(mid).reaction = "lost"
    old, new = mid.address, free_address()
    with pytest.raises(Lost) as caught:
        await ask(mid, action="set_ipv4", address=new)
    said = str(caught.value)
    for part in ("Lost", old, new, mid.device.serial, "It had dhcp", "signalbox discover", "reset"):
        assert part in said
    assert not caught.value.retryable


async def test_a_camera_that_puts_a_move_off_does_not_make_it_after_it_was_told_to_stay(ask: Ask, mid: Camera) -> None:
    old, new = mid.address, free_address()
    state(mid).delay = 7.0  # later than anybody waits
    began = time.monotonic()
    with pytest.raises(Rejected, match=rf"^Rolled back: .*answers at {old}"):
        await ask(mid, action="set_ipv4", address=new)
    await asyncio.sleep(max(0.0, 7.5 - (time.monotonic() - began)))
    assert mid.address == old and answers(old, mid.port), "the move it had put off does not come after all"


PAGE = "text/html"


@pytest.mark.parametrize(
    "answer",
    [Response(500, b"", PAGE), Response(403, b"no", PAGE), Response(404, b"no", PAGE), Response(502, b"no", PAGE),
     Response(401, b"no", PAGE), Response(409, b"no", PAGE), Response(302, b"", PAGE, {"Location": "/login"}),
     Response.json({"apiVersion": "1.33", "error": {"code": 1100, "message": "Internal error"}})],
    ids=lambda answer: str(answer.status),
)  # fmt: skip
async def test_a_camera_that_moves_and_answers_with_an_error_page_is_found(
    ask: Ask, mid: Camera, answer: Response
) -> None:
    new = free_address()
    mid.device.faults.add(CGI, Fault("answer", method="setIPv4AddressConfiguration", effect=True, response=answer))
    if b"1100" in answer.body:  # it says itself that it failed, so the old setting is what it gets
        with pytest.raises(Rejected, match=r"^Rolled back: the camera says it failed .*1100"):
            await ask(mid, action="set_ipv4", address=new)
        return
    done = only(await ask(mid, action="set_ipv4", address=new))
    assert done.state is State.CHANGED and mid.address == new
    assert written(mid) in (["setIPv4AddressConfiguration"], []), "it is never sent a second time"


@pytest.mark.parametrize("status", [403, 500])
async def test_an_error_page_is_no_proof_that_nothing_changed(ask: Ask, mid: Camera, status: int) -> None:
    old, new = mid.address, free_address()
    mid.device.faults.add(
        CGI, Fault("answer", method="setIPv4AddressConfiguration", response=Response(status, b"no", PAGE))
    )
    with pytest.raises(Rejected, match=rf"^Rolled back: nobody answers at {new}.*HTTP {status}.*answers at {old} with"):
        await ask(mid, action="set_ipv4", address=new)
    assert mid.address == old and len(written(mid)) == 2, "what it has not done yet is not to be done later"


async def test_an_error_page_and_a_wrong_setting_are_rolled_back(ask: Ask, mid: Camera) -> None:
    state(mid).reaction = "reset"  # it forgets the router
    old, new = mid.address, free_address()
    mid.device.faults.add(CGI, Fault("500", method="setIPv4AddressConfiguration", effect=True))
    heal_when_back(mid)
    with pytest.raises(
        Rejected, match=rf"^Rolled back: the camera answers at {new}, but not with that.*HTTP 500.*{old}"
    ):
        await ask(mid, action="set_ipv4", address=new)
    assert mid.address == old and answers(old, mid.port) and not answers(new, mid.port)


def heal_when_back(camera: Camera) -> None:
    """Let a camera take its old setting as it is told to."""

    def heal(name: str, value: str) -> None:
        if value == "dhcp":
            state(camera).reaction = "move"

    camera.device.params.watch("Network.BootProto", heal)


async def interrupted(ask: Ask, camera: Camera, new: str, *, again: bool = False) -> None:
    """Cancel a change once it was sent."""
    running = asyncio.ensure_future(ask(camera, action="set_ipv4", address=new))
    while not written(camera):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    running.cancel()
    if again:
        await asyncio.sleep(0.2)
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def last_word(caplog: pytest.LogCaptureFixture) -> str:
    [line] = [record.getMessage() for record in caplog.records if "was interrupted" in record.getMessage()]
    return line


async def test_an_interrupted_change_of_a_camera_that_vanished_says_where_it_may_be(
    ask: Ask, mid: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    state(mid).reaction = "lost"
    old, new = mid.address, free_address()
    with caplog.at_level(logging.WARNING):
        await interrupted(ask, mid, new)
    line = last_word(caplog)
    assert "Lost" in line and old in line and new in line and mid.device.serial in line


@pytest.mark.parametrize("again", [False, True])
async def test_an_interrupted_change_that_did_not_come_out_is_rolled_back_all_the_same(
    ask: Ask, mid: Camera, caplog: pytest.LogCaptureFixture, again: bool
) -> None:
    state(mid).reaction = "reset"
    old, new = mid.address, free_address()
    heal_when_back(mid)
    with caplog.at_level(logging.WARNING):
        await interrupted(ask, mid, new, again=again)
    assert mid.address == old and answers(old, mid.port) and not answers(new, mid.port)
    assert "Rolled back" in last_word(caplog)


async def test_an_interrupted_change_that_came_out_is_left_and_said_to_be_there(
    ask: Ask, mid: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    state(mid).delay = 1.0  # it moves after the cancel
    new = free_address()
    with caplog.at_level(logging.WARNING):
        await interrupted(ask, mid, new)
    assert mid.address == new and written(mid) == ["setIPv4AddressConfiguration"]
    assert f"answers at {new} with the new setting" in last_word(caplog)


async def test_a_change_whose_time_is_up_is_rolled_back(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(VapixNetworkSettings, "change_seconds", lambda self: 2.0)
    monkeypatch.setattr(change, "INTERRUPTED_VERIFY_SECONDS", 2.0)
    state(mid).reaction = "stay"
    old, new = mid.address, free_address()
    with caplog.at_level(logging.WARNING), pytest.raises(ToolTimeout, match="Rolled back"):
        await ask(mid, action="set_ipv4", address=new, verify_seconds=60)
    assert mid.address == old and len(written(mid)) == 2 and "Rolled back" in last_word(caplog)


async def test_looking_after_an_interrupted_change_has_an_end(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(change, "INTERRUPTED_SECONDS", 1.0)
    state(mid).reaction = "lost"
    old, new = mid.address, free_address()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        await interrupted(ask, mid, new)
    assert time.monotonic() - began < 5
    line = last_word(caplog)
    assert "nobody looks after it any more" in line.lower() and old in line and new in line


async def test_another_device_at_the_new_address_gets_no_credentials_and_the_camera_is_brought_back(ask: Ask) -> None:
    with cameras("9.80", "9.80") as [camera, other]:
        old, new, other_old = camera.address, free_address(), other.address
        real = NetworkState.set_ipv4

        def lose_the_race(self: NetworkState, params: dict[str, Any]) -> Any:
            apply = real(self, params)
            if self.device is not camera.device:
                return apply
            state(other).go(new)  # somebody else has the address first; the camera sees that and stays
            return lambda: None

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NetworkState, "set_ipv4", lose_the_race)
            with pytest.raises(
                Rejected, match=r"^Rolled back: something else answers at .*other.device|^Rolled back: something else"
            ) as caught:
                await ask(camera, action="set_ipv4", address=new)
        assert other.address == new != other_old and camera.address == old
        assert other.device.serial in str(caught.value)
        assert not [one for one in other.requests if one.credentials], "nobody else gets our credentials"
        assert written(other) == []


async def test_the_old_setting_is_in_the_log_before_anything_is_sent(
    ask: Ask, mid: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    new = free_address()
    with caplog.at_level(logging.WARNING):
        await ask(mid, action="set_ipv4", address=new)
    [line] = [record.getMessage() for record in caplog.records if "is about to change" in record.getMessage()]
    assert "dhcp" in line and new in line and mid.device.serial in line


# --- what is refused before anything is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("confirm", [None, "{address}", "ipv4 {new}", "{address} ipv4 127.9.9.9", "{address} {new}"])
async def test_without_the_exact_approval_nothing_is_sent(ask: Ask, mid: Camera, confirm: str | None) -> None:
    new = free_address()
    said = confirm.format(address=mid.address, new=new) if confirm is not None else None
    with pytest.raises(Refused, match="approval"):
        await ask(mid, action="set_ipv4", address=new, confirm=said)
    assert mid.requests == []


async def test_the_default_ceiling_refuses_every_change(ask: Ask, mid: Camera) -> None:
    for params in (
        {"action": "set_ipv4", "address": free_address()},
        {"action": "set_hostname", "hostname": "x"},
        {"action": "set_dns", "servers": ["192.0.2.53"]},
    ):
        with pytest.raises(Refused, match="ceiling"):
            await ask(mid, policy=UNHURRIED, **params)
    assert mid.requests == []
    base = {"targets": ["10.0.0.5"], "credentials": "axis/yard"}
    assert VapixNetworkSettings.model_validate(base).safety() is None
    changing = VapixNetworkSettings.model_validate({**base, "action": "set_hostname", "hostname": "x"})
    assert changing.safety() is Safety.DESTROY and changing.approval() and changing.subject() == "10.0.0.5 hostname x"


async def test_a_new_address_that_policy_does_not_allow_is_refused_before_anything_is_sent(
    ask: Ask, mid: Camera
) -> None:
    for address, policy in (
        ("10.99.0.5", DESTROYING),
        ("127.77.0.5", unhurried(exclude=[{"target": "127.77.0.0/24", "reason": "the clinic"}])),
    ):
        with pytest.raises(Refused, match=address):
            await ask(mid, action="set_ipv4", address=address, policy=policy)
    assert mid.requests == []


async def test_an_address_that_somebody_has_is_refused(ask: Ask) -> None:
    with cameras("mid", "mid") as [camera, other]:
        with pytest.raises(Conflict, match=f"{other.address} is taken: TCP port"):
            await ask(camera, action="set_ipv4", address=other.address)
        assert written(camera) == [] and not [one for one in other.requests if one.credentials]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"address": "127.255.255.255"}, "broadcast"),
        ({"address": "127.90.0.0", "prefix_length": 24, "other_subnet": True, "router": "127.90.0.1"}, "network's own"),
        ({"address": "127.90.0.5", "prefix_length": 24}, "another subnet"),
        ({"address": "127.90.0.5", "prefix_length": 24, "other_subnet": True}, "needs a router"),
        ({"address": "127.90.0.5", "prefix_length": 24, "router": "127.91.0.1", "other_subnet": True}, "not in"),
        ({"address": "127.90.0.5", "router": "127.90.0.5"}, "same address"),
        ({"address": "127.90.0.5", "router": "127.255.255.255"}, "broadcast"),
        ({"address": "10.0.0.5", "prefix_length": 24, "other_subnet": True}, "loopback"),
    ],
)  # fmt: skip
async def test_an_address_that_makes_no_sense_there_is_not_written(
    ask: Ask, mid: Camera, params: dict[str, Any], said: str
) -> None:
    policy = unhurried(allow=["127.0.0.0/8", "10.0.0.0/8"])
    with pytest.raises(InvalidParameters, match=said):
        await ask(mid, action="set_ipv4", policy=policy, **params)
    assert written(mid) == []


async def test_a_camera_behind_address_translation_is_not_changed(ask: Ask, mid: Camera) -> None:
    mid.device.address = "192.168.7.7"
    with pytest.raises(
        InvalidParameters, match=r"does not have the address it is reached at .* it says 192\.168\.7\.7"
    ):
        await ask(mid, action="set_ipv4", address=free_address())
    assert written(mid) == []


async def test_another_camera_than_the_one_that_is_meant_is_not_changed(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Untrusted, match=f"is {mid.device.serial}, not ACCC8E000001"):
        await ask(mid, action="set_hostname", hostname="x", serial="accc8e000001")
    assert written(mid) == []
    done = only(await ask(mid, action="set_hostname", hostname="x", serial=mid.device.serial.lower()))
    assert done.state is State.CHANGED


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"action": "read", "hostname": "x"}, "takes no hostname"),
        ({"serial": "ACCC8E000001", "targets": ["127.0.0.1", "127.0.0.2"]}, "exactly one target"),
        ({"action": "set_hostname"}, "needs hostname"),
        ({"action": "set_hostname", "hostname": "x", "from_dhcp": True}, "not both"),
        ({"action": "set_hostname", "hostname": "bad_name!"}, "letters, digits"),
        ({"action": "set_hostname", "hostname": "x", "address": "10.0.0.1"}, "takes no address"),
        ({"action": "set_dns"}, "needs servers"),
        ({"action": "set_dns", "servers": ["ns.example.com"]}, "addresses such as"),
        ({"action": "set_dns", "servers": ["192.0.2.1"], "search": ["-bad-"]}, "example.com"),
        ({"action": "set_ipv4"}, "needs address"),
        ({"action": "set_ipv4", "address": "fe80::1"}, "IPv4 address"),
        ({"action": "set_ipv4", "address": "224.0.0.1"}, "no address a camera"),
        ({"action": "set_ipv4", "address": "10.0.0.5", "prefix_length": 31}, "prefix_length"),
        ({"action": "set_ipv4", "address": "10.0.0.5", "from_dhcp": True, "router": "10.0.0.1"}, "leave them out"),
        ({"action": "set_ipv4", "address": "10.0.0.5", "targets": ["127.0.0.1", "127.0.0.2"]}, "exactly one target"),
        ({"action": "set_ipv4", "address": "10.0.0.5", "serial": "nonsense"}, "serial"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_with_what_is_right_and_nothing_is_sent(
    ask: Ask, mid: Camera, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await ask(mid, **params)
    assert mid.requests == []


# --- levels, accounts, devices, faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("insufficient", ["401", "403"])
async def test_an_operator_may_neither_read_nor_change(ask: Ask, mid: Camera, insufficient: Any) -> None:
    mid.device.insufficient = insufficient
    with pytest.raises(Forbidden):
        await ask(mid, user="operator")
    with pytest.raises(Forbidden, match="administrator"):
        await ask(mid, user="operator", action="set_hostname", hostname="x")
    assert written(mid) == []


async def test_a_wrong_password_is_tried_once_and_never_shown(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(mid, password="hunter2-secret", action="set_hostname", hostname="x")
    assert "hunter2" not in str(caught.value)
    assert len([one for one in mid.requests if one.credentials]) == 1


@pytest.mark.parametrize("profile", ["ancient", "old"])
async def test_settings_of_old_firmware_can_only_be_read(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        with pytest.raises(Unsupported, match="only be read"):
            await ask(camera, action="set_hostname", hostname="x")
        assert not [one for one in camera.requests if one.method == "POST" and "param.cgi" in one.path]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (4004, Rejected, "one of the values"), (4002, Forbidden, "4002"), (5000, Rejected, "no such network interface"),
        (4000, Unsupported, "4000"), (777, Rejected, "777"),
    ],
)  # fmt: skip
async def test_a_no_of_the_camera_is_said_at_once_and_nothing_is_looked_for(
    ask: Ask, mid: Camera, code: int, error: type[ToolError], said: str
) -> None:
    answer = Response.json(
        {"apiVersion": "1.33", "error": {"code": code, "message": "no", "details": {"subCode": 122}}}
    )
    mid.device.faults.add(CGI, Fault("answer", method="setIPv4AddressConfiguration", response=answer))
    with pytest.raises(error, match=said):
        await ask(mid, action="set_ipv4", address=free_address())
    assert len([one for one in mid.requests if one.call == "getNetworkInfo" and one.status == 200]) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("hang", Unreachable), ("garbage", Nonsense), ("html", Nonsense), ("empty", Nonsense), ("truncate-json", Nonsense),
        ("both", ToolError), ("neither", Nonsense), ("503", ToolError), ("500", ToolError), ("404", Unsupported),
        ("redirect", ToolError), ("gzip-bomb", ToolError),
    ],
)  # fmt: skip
async def test_whatever_comes_in_place_of_the_settings_is_a_clear_error_and_nothing_is_changed(
    ask: Ask, mid: Camera, fault: Any, error: type[ToolError]
) -> None:
    mid.device.faults.add(CGI, Fault(fault, count=None, method="getNetworkInfo"))
    with pytest.raises(error):
        await ask(mid, action="set_ipv4", address=free_address(), timeout=1)
    assert written(mid) == []


# --- whether an address is free ------------------------------------------------------------------------------------------


async def _free_of_charge(packets: int) -> None:
    await asyncio.sleep(0)


async def test_an_open_port_takes_an_address_and_a_silent_one_is_free() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Conflict, match=f"TCP port {port} answers"):
        await vacant.check_vacant("127.0.0.1", [port], _free_of_charge)
    server.close()
    await vacant.check_vacant("127.0.0.1", [port], _free_of_charge)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_table_of_neighbours_is_read(lines: list[str]) -> None:
    assert vacant.find_neighbour(lines, "192.0.2.7") is None


def test_a_neighbour_that_did_not_answer_is_none() -> None:
    assert vacant.find_neighbour(["10.0.0.5 0x1 0x0 00:00:00:00:00:00 * eth0"], "10.0.0.5") is None


# --- the simulated camera answers as devices do --------------------------------------------------------------------------


def raw(camera: Camera) -> httpx.Client:
    return httpx.Client(base_url=camera.url, auth=httpx.DigestAuth("root", "pass"), trust_env=False)


BASE = "/config/rest/network-settings/v2beta"


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "code"),
    [
        ("GET", "/config/rest/network-settings/v2", None, 404, 1), ("GET", f"{BASE}/nothing", None, 404, 1),
        ("GET", f"{BASE}/switch/port/9", None, 404, 2), ("PATCH", f"{BASE}/switch/port/9", {"data": {"enabled": True}}, 404, 2),
        ("PATCH", f"{BASE}/switch/port/1", {"data": {"enabled": "no"}}, 400, 5), ("PATCH", f"{BASE}/switch/port/1", {}, 400, 5),
        ("PATCH", BASE, {"data": {"switch_supported": False}}, 400, 5), ("DELETE", f"{BASE}/switch/port/1", None, 400, 5),
        ("POST", f"{BASE}/switch/port", {"data": {"portId": "1"}}, 409, 6), ("PATCH", f"{BASE}/switch/port/1", "text", 400, 11),
    ],
)  # fmt: skip
def test_the_rest_configuration_has_its_own_error_codes(
    mid: Camera, verb: str, path: str, body: Any, status: int, code: int
) -> None:
    state(mid).switch_ports = [SwitchPort(1)]
    with raw(mid) as client:
        answer = (
            client.request(verb, path, content=body.encode(), headers={"Content-Type": "text/plain"})
            if isinstance(body, str)
            else client.request(verb, path, json=body)
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["status"] == "error" and state(mid).switch_ports[0].enabled


def test_a_write_to_the_rest_configuration_is_answered_without_data(mid: Camera) -> None:
    state(mid).switch_ports = [SwitchPort(1), SwitchPort(2)]
    with raw(mid) as client:
        assert client.patch(f"{BASE}/switch/port/2", json={"data": {"enabled": False}}).json() == {"status": "success"}
        assert client.put(f"{BASE}/switch/port/1/enabled", json={"data": False}).json() == {"status": "success"}
        assert client.get(f"{BASE}/switch/port/1/enabled").json() == {"status": "success", "data": False}
        listed = client.get("/config/discover").json()["apis"]
        assert listed["network-settings"]["v2"]["rest_api"] == BASE and listed["ssh"]["v1"]["rest_api"].endswith(
            "v1alpha"
        )
    assert [port.enabled for port in state(mid).switch_ports] == [False, False]


@pytest.mark.parametrize(
    ("method", "params", "code", "subcode"),
    [
        ("setHostnameConfiguration", {}, 4003, None), ("setHostnameConfiguration", {"useDhcpHostname": 1}, 4004, 101),
        ("setHostnameConfiguration", {"useDhcpHostname": False, "staticHostname": "a b"}, 4004, 100),
        ("setResolverConfiguration", {"useDhcpResolverInfo": False, "staticNameServers": ["x"]}, 4004, 110),
        ("setIPv4AddressConfiguration", {"deviceName": "eth9"}, 5000, None),
        ("setIPv4AddressConfiguration", {"deviceName": "eth0"}, 4003, None),
        ("setIPv4AddressConfiguration", {"deviceName": "eth0", "configurationMode": "static",
         "staticAddressConfigurations": [{"address": "10.0.0.5", "prefixLength": 99}]}, 4004, 122),
        ("setIPv4AddressConfiguration", {"deviceName": "eth0", "configurationMode": "static", "staticDefaultRouter": "10.9.0.1",
         "staticAddressConfigurations": [{"address": "10.0.0.5", "prefixLength": 24}]}, 4004, 123),
        ("setNothing", {}, 4000, None),
    ],
)  # fmt: skip
def test_network_settings_have_their_own_error_codes(
    mid: Camera, method: str, params: dict[str, Any], code: int, subcode: int | None
) -> None:
    with raw(mid) as client:
        answer = client.post(CGI, json={"apiVersion": "1.0", "method": method, "params": params})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("details", {}).get("subCode")) == (200, code, subcode)
    assert state(mid).dhcp and state(mid).dhcp_hostname


def test_an_internal_error_of_network_settings_is_status_500_and_versions_have_another_name(mid: Camera) -> None:
    state(mid).reaction = "fail"
    params = {
        "deviceName": "eth0", "configurationMode": "static", "staticDefaultRouter": "127.0.0.1",
        "staticAddressConfigurations": [{"address": "127.0.0.5", "prefixLength": 8}],
    }  # fmt: skip
    with raw(mid) as client:
        answer = client.post(CGI, json={"apiVersion": "1.0", "method": "setIPv4AddressConfiguration", "params": params})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, 1000)
        answer = client.post(CGI, json={"method": "getSupportedVersions"})
        assert answer.json()["data"] == {"supportedVersions": ["1.33"]}


# --- in a network of hosts -----------------------------------------------------------------------------------------------


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as made:
        yield made


@pytest.fixture
async def yard(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A camera that is a host of the lab, and gets another address there when it is told to."""
    loop = asyncio.get_running_loop()
    device = Device("mid")
    await lab.add("yard", 20, f"{AXIS}:00:00:20", services=[Served("http", 80, http_protocol(device))])
    device.address = lab.hosts["yard"].address
    device.params.set("Network.BootProto", "none")
    settings = device.slot(NetworkState)
    settings.static_addresses = [{"address": device.address, "prefixLength": 24, "broadcast": lab.first.address(255)}]
    settings.static_router = lab.first.gateway

    def go(self: NetworkState, address: str | None) -> None:
        assert address is not None
        self.device.address = address
        asyncio.run_coroutine_threadsafe(lab.move("yard", address), loop)

    monkeypatch.setattr(NetworkState, "go", go)
    return device


@pytest.fixture
def ask_yard(ask: Ask, lab: Lab, yard: Device) -> Callable[..., Awaitable[CameraNetwork]]:
    async def run(address: str, **params: Any) -> CameraNetwork:
        block = AxisCredentials(username="root", password="pass", scheme="http")  # type: ignore[arg-type]
        policy = unhurried(allow=["10.0.0.0/8"])
        given = {"action": "set_ipv4", "address": address, "verify_seconds": 10, **params}
        result = await ask(targets=[lab.hosts["yard"].address], block=block, policy=policy, **given)
        assert not yard.errors
        return only(result)

    return run


@pytest.mark.lab
@needs_lab
async def test_a_host_of_a_network_moves_to_a_free_address_and_is_seen_there(
    lab: Lab, yard: Device, ask_yard: Callable[..., Awaitable[CameraNetwork]]
) -> None:
    old, new = lab.hosts["yard"].address, lab.first.address(30)
    done = await ask_yard(new)
    assert done.state is State.CHANGED and lab.hosts["yard"].address == new
    assert done.changed_from == f"static {old}/24 via {lab.first.gateway}"
    assert done.changed_to == f"static {new}/24 via {lab.first.gateway}"


@pytest.mark.lab
@needs_lab
async def test_a_host_that_drops_all_we_send_still_has_its_address(
    lab: Lab, yard: Device, ask_yard: Callable[..., Awaitable[CameraNetwork]]
) -> None:
    await lab.add("wall", 40, f"{DELL}:00:00:40")
    await lab.firewall("wall")
    with pytest.raises(Conflict, match=rf"{lab.hosts['wall'].address} is taken: {DELL}:00:00:40 answers ARP"):
        await ask_yard(lab.hosts["wall"].address)
    await lab.add("plain", 50, f"{DELL}:00:00:50")
    with pytest.raises(Conflict, match="it refuses TCP port 80"):
        await ask_yard(lab.hosts["plain"].address)
    assert lab.hosts["yard"].address == lab.first.address(20)


@pytest.mark.lab
@needs_lab
async def test_a_camera_that_is_sent_where_it_has_no_cable_is_lost_and_said_to_be(
    lab: Lab, yard: Device, ask_yard: Callable[..., Awaitable[CameraNetwork]]
) -> None:
    # The other subnet is behind the router; the camera's cable ends in this one.
    other = lab.subnet("cameras")
    with pytest.raises(Lost, match=rf"^Lost: nobody answers at {other.address(60)}.*It had static"):
        await ask_yard(other.address(60), other_subnet=True, router=other.gateway, verify_seconds=5)


# --- parsers ---------------------------------------------------------------------------------------------------------------

KEYS = [
    "system", "devices", "hostname", "resolver", "IPv4", "IPv6", "addresses", "address", "prefixLength", "wired", "8021X",
    "type", "name", "switchPort", "staticAddressConfigurations", "configurationMode", "httpProxy", "apis", "network-settings",
    "v2", "rest_api", "switch", "port", "portNumber", "nameServers", "macAddress",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("switchPort"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
PARTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8)


@given(JSON)
def test_any_json_is_network_settings_or_none(data: Any) -> None:
    path = netset.rest_path_of(data)
    assert path is None or path.startswith("/config/rest/")
    for read in (netset.of_json, netset.switch_ports_of_rest):
        try:
            read(data)
        except ValueError:
            continue


@given(PARTS, st.lists(PARTS, max_size=4))
def test_any_devices_are_shown_harmless(system: Any, devices: Any) -> None:
    found = netset.of_json({"system": system, "devices": devices})
    for interface in found.interfaces:
        assert interface.name.isprintable()
        netset.describe_ipv4(interface.ipv4)
        netset.interface_with(found, "192.0.2.1")


@given(
    st.dictionaries(
        st.sampled_from(
            [f"Network.{name}" for name in ("BootProto", "HostName", "eth0.IPAddress", "eth0.SubnetMask", "SubnetMask", "IPAddress",
             "DefaultRouter", "Resolver.NameServerList", "Resolver.NameServer1", "eth1.MACAddress", "eth0.IPv6.IPAddresses")]
        ),
        st.text(),
        min_size=1,
    )
)  # fmt: skip
def test_any_parameters_are_network_settings(values: dict[str, str]) -> None:
    found = netset.of_parameters(values)
    assert found.interfaces and all(one.name for one in found.interfaces)


@given(st.ip_addresses(v=4), st.integers(8, 30), st.none() | st.ip_addresses(v=4))
def test_a_subnet_that_passes_holds_camera_and_router(address: Any, length: int, router: Any) -> None:
    try:
        subnet = netset.check_subnet(str(address), length, str(router) if router is not None else None)
    except ValueError:
        return
    assert address in subnet and address not in (subnet.network_address, subnet.broadcast_address)
    assert router is None or (router in subnet and router != address)
    assert isinstance(subnet, ipaddress.IPv4Network)
