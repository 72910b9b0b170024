"""Conversations with simulated cameras: one login, one request at a time, every family of answers, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from lab.axis_camera import Camera as Simulated
from lab.axis_camera import cameras

from blocks.axis import AxisCredentials
from deployments.demo.axis_camera import Device
from deployments.demo.axis_camera._faults import Fault
from deployments.demo.axis_camera._messages import Response
from tasks.core.delivery import PinnedUrl
from tasks.core.errors import (
    Busy,
    Forbidden,
    InvalidParameters,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.http import Session, Stream
from tasks.core.rate import Pacer
from tasks.network.probe._connection import Paces
from tasks.network.vapix import _camera
from tasks.network.vapix._camera import Camera, open_camera
from tasks.network.vapix._wire import Declined, Missing, NeedsSetup, Nonsense, NotReady, parse_parameters
from tasks.network.vapix.vapix_device_info import vapix_device_info

PARAM = "/axis-cgi/param.cgi"
ACTION = "http://www.axis.com/vapix/ws/action1"


@contextlib.asynccontextmanager
async def talk(
    simulated: Simulated,
    credentials: AxisCredentials | None = None,
    *,
    timeout: float = 5.0,
    port: int | None = None,
    serial: str | None = None,
) -> AsyncIterator[Camera]:
    async with open_camera(
        "default",
        simulated.address,
        simulated.address,
        credentials=credentials or simulated.block(),
        port=port,
        timeout=timeout,
        pace=Paces(Pacer(100_000), 0).of(simulated.address),
        serial=serial,
    ) as camera:
        yield camera


def sent(simulated: Simulated) -> list[tuple[str, str, int | None]]:
    return [(request.method, request.path, request.status) for request in simulated.requests]


# --- logging in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "mid", "new", "ptz"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_every_generation_lets_us_in_with_one_challenge(profile: str, scheme: str) -> None:
    with cameras(profile) as [simulated]:
        async with talk(simulated, simulated.block(scheme=scheme)) as camera:
            assert (await camera.device()).serial == simulated.device.serial
            assert (await camera.level()).rank == "admin"
            await camera.parameters("Brand")
            await camera.parameters("Network")
        refused = [request for request in simulated.requests if request.status == 401]
        assert [request.credentials for request in refused] in ([None], [""]), refused
        assert simulated.most_in_flight == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("profile", ["mid", "new"])
async def test_a_wrong_password_is_sent_exactly_once(profile: str, scheme: str) -> None:
    with cameras(profile) as [simulated]:
        wrong = simulated.block(password="hunter2wrong", scheme=scheme)
        for _ in range(3):  # three conversations, as a flow with three tools has
            async with talk(simulated, wrong) as camera:
                for _ in range(2):
                    with pytest.raises(Unauthorized) as caught:
                        await camera.parameters("Network")
                    assert "hunter2wrong" not in str(caught.value) and not isinstance(caught.value, Forbidden)
        assert len([request for request in simulated.requests if request.credentials]) == 1


async def test_a_level_that_is_too_low_is_not_a_wrong_password(mid: Simulated) -> None:
    for answer in ("401", "403"):
        mid.device.insufficient = answer
        async with talk(mid, mid.block("viewer")) as camera:
            with pytest.raises(Forbidden):
                await camera.xml("/axis-cgi/applications/list.cgi")
            assert (await camera.level()).name == "viewer"
    async with talk(mid, mid.block("viewer")) as camera:  # and the password is not remembered as refused
        assert await camera.parameters("Brand")


async def test_an_expired_nonce_is_answered_once_with_the_new_one(mid: Simulated) -> None:
    async with talk(mid, mid.block(scheme="http")) as camera:
        await camera.parameters("Brand")
        mid.device.auth.expire_nonces()
        assert await camera.parameters("Brand")
        mid.device.faults.add(PARAM, Fault("stale", count=2))
        before = len(mid.requests)
        with pytest.raises(ToolError):
            await camera.parameters("Brand")
        assert len(mid.requests) - before == 2


async def test_another_device_at_the_address_gets_no_credentials(mid: Simulated) -> None:
    async with talk(mid, mid.block(scheme="http")) as camera:
        await camera.device()
        mid.device.auth.realm = "AXIS_ACCC8E000001"
        with pytest.raises(Untrusted, match="ACCC8E000001"):
            await camera.parameters("Network")
        assert not [request for request in mid.requests if request.credentials]


def disguise(mid: Simulated, policy: str = "digest") -> None:
    """Make a camera answer as a printer does: it tells nobody what it is, and its login is for another realm."""
    mid.device.faults.add(_camera.BASICDEVICEINFO, Fault("404", count=None, bare=True))
    mid.device.params.set("Network.HTTP.AuthenticationPolicy", policy)
    mid.device.auth.realm = "Printer"


@pytest.mark.parametrize("policy", ["digest", "basic"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_is_to_be_a_certain_camera_gets_no_credentials_until_it_says_so(
    mid: Simulated, policy: str, scheme: str
) -> None:
    disguise(mid, policy)
    more = {"basic_over_http": True} if scheme == "http" else {"verification": "off"}
    async with talk(mid, mid.block(scheme=scheme, **more), serial=mid.device.serial) as camera:
        with pytest.raises(Untrusted, match=f"does not say that it is {mid.device.serial}"):
            await camera.device()
    assert not [request for request in mid.requests if request.credentials]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_device_that_does_not_look_like_a_camera_gets_no_password_that_can_be_read(
    mid: Simulated, scheme: str
) -> None:
    disguise(mid, "basic")
    more = {"basic_over_http": True} if scheme == "http" else {"verification": "off"}
    async with talk(mid, mid.block(scheme=scheme, **more)) as camera:
        with pytest.raises(Untrusted, match="says nowhere that it is an Axis device"):
            await camera.device()
        assert not [note for note in camera.notes if "clear text" in note]
    assert not [request for request in mid.requests if request.credentials]
    async with talk(mid, mid.block()) as camera:  # its certificate is pinned: it is the one that is meant
        assert (await camera.device()).serial == mid.device.serial


async def test_a_camera_with_a_realm_of_its_owners_is_known_by_what_it_tells_anybody(mid: Simulated) -> None:
    mid.device.auth.realm = "Front yard"
    async with talk(mid, mid.block(scheme="http"), serial=mid.device.serial) as camera:
        await camera.device()
        assert await camera.parameters("Network")
        rtsp, websocket = camera.rtsp_place(8554).login, camera.websocket_place().login
        rtsp.challenged(['Digest realm="Front yard", nonce="of-rtsp"'], tried=0)
        websocket.challenged(['Digest realm="Front yard", nonce="of-ws"'], tried=0)
        with pytest.raises(Untrusted):
            camera.rtsp_place(8554).login.challenged(['Digest realm="Recorder", nonce="of-rtsp"'], tried=0)


async def test_basic_is_not_sent_in_clear_text_unless_the_block_allows_it(mid: Simulated) -> None:
    mid.device.params.set("Network.HTTP.AuthenticationPolicy", "basic")
    async with talk(mid, mid.block(scheme="http")) as camera:
        with pytest.raises(Unauthorized, match="basic_over_http"):
            await camera.parameters("Network")
    assert not [request for request in mid.requests if request.credentials]
    async with talk(mid, mid.block(scheme="http", basic_over_http=True)) as camera:
        assert await camera.parameters("Network")
        assert camera.login_scheme == "basic"
        assert [note for note in camera.notes if "clear text" in note] == camera.notes[:1]


# --- certificates ------------------------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_pinned_gets_nothing(mid: Simulated) -> None:
    block = mid.block()
    fingerprint = mid.change_certificate()
    with pytest.raises(Untrusted, match=fingerprint):
        async with talk(mid, block):
            pass
    assert mid.requests == []


async def test_a_self_signed_certificate_is_not_trusted_by_itself(mid: Simulated) -> None:
    with pytest.raises(Untrusted, match="self-signed"):
        async with talk(mid, mid.block(verification="system")):
            pass
    assert mid.requests == []


async def test_a_certificate_nobody_checks_is_said(mid: Simulated) -> None:
    async with talk(mid, mid.block(verification="off")) as camera:
        assert "not checked" in camera.notes[0]
        assert camera.certificate is not None and camera.certificate.fingerprint == mid.fingerprint
        assert camera.certificate.days_left is not None and camera.certificate.days_left > 1000


# --- who it is ---------------------------------------------------------------------------------------------------------


async def test_a_camera_without_accounts_is_said_to_need_its_set_up() -> None:
    with cameras("needs-setup") as [simulated]:
        with pytest.raises(NeedsSetup, match="no account yet") as caught:
            async with talk(simulated):
                pass
        assert caught.value.device is not None and caught.value.device.serial == simulated.device.serial
        assert caught.value.device.model and caught.value.device.firmware
        with pytest.raises(Untrusted, match="not ACCC8E000001"):
            async with talk(simulated, serial="ACCC8E000001"):
                pass
        simulated.device.faults.add(_camera.BASICDEVICEINFO, Fault("404", count=None, bare=True))
        with pytest.raises(NeedsSetup) as caught:
            async with talk(simulated):
                pass
        assert caught.value.device is None
        assert not [request for request in simulated.requests if request.credentials]


async def test_a_camera_that_starts_is_not_ready_and_may_be_asked_later(mid: Simulated) -> None:
    mid.device.ready = False
    with pytest.raises(NotReady) as caught:
        async with talk(mid):
            pass
    assert caught.value.retryable


async def test_what_a_camera_can_do_is_asked_once_until_it_starts_again(mid: Simulated) -> None:
    for _ in range(2):
        async with talk(mid) as camera:
            capabilities = await camera.capabilities()
            assert capabilities.has("light-control") and capabilities.at_least("basic-device-info", "1.2")
            assert not capabilities.at_least("basic-device-info", "99.0") and capabilities.flag(
                "Properties.HTTPS.HTTPS"
            )
    assert len(mid.asked("/axis-cgi/apidiscovery.cgi")) == 1 == len(mid.asked("/axis-cgi/basicdeviceinfo.cgi"))
    mid.device.boot_id = "another"
    async with talk(mid) as camera:
        await camera.capabilities()
    assert len(mid.asked("/axis-cgi/apidiscovery.cgi")) == 2


@pytest.mark.parametrize(("firmware", "again"), [("11.11.150", True), ("8.50.1", True), ("8.40.3", False)])
async def test_an_answer_that_a_camera_has_no_apis_is_remembered_only_where_it_may_be_true(
    mid: Simulated, firmware: str, again: bool
) -> None:
    mid.device.params.set("Properties.Firmware.Version", firmware)
    mid.device.faults.add(_camera.APIDISCOVERY, Fault("404", bare=True))
    for expected in (False, again):
        async with talk(mid) as camera:
            assert (await camera.device()).firmware == firmware
            assert (await camera.capabilities()).has("light-control") is expected


# --- the families --------------------------------------------------------------------------------------------------------


async def test_parameters_have_no_root_and_unknown_groups_are_absent(mid: Simulated) -> None:
    async with talk(mid) as camera:
        found = await camera.parameters("root.Brand", "NoSuch.Group", "ImageSource.I0.DayNight")
    assert found["Brand.Brand"] == "AXIS" and "ImageSource.I0.DayNight.IrCutFilter" in found
    assert not [name for name in found if name.startswith(("root.", "NoSuch"))]


async def test_definitions_say_what_a_parameter_takes(mid: Simulated) -> None:
    async with talk(mid) as camera:
        found = await camera.definitions("ImageSource.I0.DayNight")
    cut, shift = found["ImageSource.I0.DayNight.IrCutFilter"], found["ImageSource.I0.DayNight.ShiftLevel"]
    assert cut.type == "enum" and cut.choices == ("no", "yes", "auto") and cut.level == "7714"
    assert (shift.type, shift.minimum, shift.maximum) == ("int", 0, 100)


async def test_a_parameter_that_is_not_taken_says_which(mid: Simulated) -> None:
    async with talk(mid) as camera:
        await camera.set_parameters({"ImageSource.I0.DayNight.IrCutFilter": "yes"})
        with pytest.raises(Declined, match=r"ImageSource\.I0\.Foo"):
            await camera.set_parameters({"ImageSource.I0.Foo": "bar"})
        with pytest.raises(InvalidParameters, match="control characters"):
            await camera.set_parameters({"ImageSource.I0.DayNight.IrCutFilter": "yes\naction=remove"})
        with pytest.raises(ValueError, match="not the name"):
            await camera.parameters("Brand&action=remove")
    assert mid.device.params.get("ImageSource.I0.DayNight.IrCutFilter") == "yes"


async def test_groups_are_added_and_removed(mid: Simulated) -> None:
    async with talk(mid) as camera:
        name = await camera.add_parameters(
            "streamprofile", "StreamProfile", {"StreamProfile.S.Name": "mobile", "StreamProfile.S.Parameters": "fps=5"}
        )
        assert (await camera.parameters(f"StreamProfile.{name}"))[f"StreamProfile.{name}.Name"] == "mobile"
        await camera.remove_parameters(f"StreamProfile.{name}")
        assert await camera.parameters(f"StreamProfile.{name}") == {}
        with pytest.raises(Declined):
            await camera.remove_parameters(f"StreamProfile.{name}")


async def test_errors_of_json_functions_are_read_at_any_status(mid: Simulated) -> None:
    path = "/axis-cgi/lightcontrol.cgi"
    async with talk(mid) as camera:
        with pytest.raises(Declined, match="no such light") as caught:
            await camera.call(path, "getLightStatus", {"lightID": "led9"}, meanings={1002: "there is no such light"})
        assert caught.value.code == 1002
        with pytest.raises(Unsupported):
            await camera.call(path, "sing", meanings={2004: Unsupported})
        mid.device.faults.add(path, "500-json")
        with pytest.raises(Declined, match="1100") as internal:
            await camera.call(path, "getLightInformation")
        assert internal.value.code == 1100
        mid.device.faults.add(path, "code-as-string")
        with pytest.raises(ToolError):
            await camera.call(path, "getLightInformation")


async def test_faults_of_soap_carry_their_name(mid: Simulated) -> None:
    async with talk(mid) as camera:
        rules = await camera.soap(Element(f"{{{ACTION}}}GetActionRules"), action=f"{ACTION}/GetActionRules")
        assert str(rules.tag) == f"{{{ACTION}}}GetActionRulesResponse"
        remove = Element(f"{{{ACTION}}}RemoveActionRule")
        number = Element(f"{{{ACTION}}}RuleID")
        number.text = "4711"
        remove.append(number)
        with pytest.raises(Missing) as caught:
            await camera.soap(remove, action=f"{ACTION}/RemoveActionRule", write=True)
    assert caught.value.fault == "ActionRuleNotFoundFault"


async def test_resources_of_the_device_configuration_are_read_and_refused() -> None:
    with cameras("new") as [simulated]:
        async with talk(simulated) as camera:
            discovered = await camera.rest("GET", "/config/discover")
            assert "apis" in discovered
            with pytest.raises((Unsupported, Missing)):
                await camera.rest("GET", "/config/rest/no-such-thing/v1")


async def test_text_functions_raise_what_they_say_at_status_200(mid: Simulated) -> None:
    async with talk(mid) as camera:
        mid.device.faults.add("/axis-cgi/imagesize.cgi", "error-text")
        with pytest.raises(Declined, match="another opinion"):
            await camera.text("/axis-cgi/imagesize.cgi", {"camera": "1"})
        with pytest.raises(Unsupported, match="does not support"):
            await camera.text("/axis-cgi/nosuch.cgi")


# --- what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("hang", Unreachable),
        ("close", Unreachable),
        ("reset", Nonsense),
        ("truncate", Nonsense),
        ("truncate-json", Nonsense),
        ("html", Nonsense),
        ("empty", Nonsense),
        ("garbage", Nonsense),
        ("oversized", Nonsense),
        ("gzip-bomb", Nonsense),
        ("500", Busy),
        ("503", Busy),
        ("503-retry", Busy),
        ("404", Unsupported),
        ("405", Unsupported),
        ("429", Busy),
        ("redirect", Rejected),
    ],
)
async def test_each_fault_is_an_error_that_says_what_it_is(
    mid: Simulated, fault: Any, expected: type[ToolError]
) -> None:
    path = "/axis-cgi/lightcontrol.cgi"
    async with talk(mid, timeout=1.0) as camera:
        await camera.level()
        mid.device.faults.add(path, Fault(fault, size=6 << 20, count=2 if fault == "close" else 1))
        began = time.monotonic()
        with pytest.raises(expected) as caught:
            await camera.call(path, "getLightInformation")
        assert time.monotonic() - began < 4
        assert len(str(caught.value)) < 600 and "pass" not in str(caught.value).replace("password", "")
        # The conversation goes on: the next request gets a connection of its own if it has to.
        assert await camera.call(path, "getLightInformation")


async def test_a_kept_connection_the_camera_closed_is_replaced_for_what_only_reads(mid: Simulated) -> None:
    path = "/axis-cgi/lightcontrol.cgi"
    async with talk(mid) as camera:
        await camera.level()
        mid.device.faults.add(path, "close")
        assert await camera.call(path, "getLightInformation")


async def test_a_lost_answer_to_a_write_is_not_sent_again(mid: Simulated) -> None:
    path = "/axis-cgi/lightcontrol.cgi"
    async with talk(mid, timeout=1.0) as camera:
        await camera.level()
        for fault in ("hang", "close"):
            mid.device.faults.add(path, fault)
            before = len(mid.requests)
            with pytest.raises(Unanswered) as caught:
                await camera.call(path, "activateLight", {"lightID": "led0"}, write=True)
            assert not caught.value.retryable and len(mid.requests) - before == 1


async def test_a_redirect_to_https_says_to_use_it(mid: Simulated) -> None:
    async with talk(mid, mid.block(scheme="http")) as camera:
        await camera.level()
        mid.device.faults.add(PARAM, "redirect-https")
        with pytest.raises(Rejected, match="scheme https in the block"):
            await camera.parameters("Brand")


async def test_what_is_no_camera_is_said_to_be_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n<html>hi</html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        block = AxisCredentials(username="root", password="pass", scheme="http", port=port)
        with pytest.raises(Nonsense, match="web page"):
            async with open_camera(
                "default",
                "127.0.0.1",
                "127.0.0.1",
                credentials=block,
                port=None,
                timeout=2,
                pace=Paces(Pacer(100_000), 0).of("127.0.0.1"),
            ):
                pass


async def test_transports_of_ones_own_log_in_with_a_nonce_of_their_own(mid: Simulated) -> None:
    async with talk(mid, mid.block(scheme="http")) as camera:
        await camera.device()
        await camera.level()
        place = camera.rtsp_place(8554)
        assert place.login.proven and place.login.serial == mid.device.serial
        assert (place.address, place.port, place.tls) == (mid.address, 8554, None) and "pass'" not in repr(place)
        place.login.challenged([f'Digest realm="AXIS_{mid.device.serial}", nonce="of-rtsp", stale=FALSE'], tried=0)
        assert 'nonce="of-rtsp"' in (place.login.authorization("DESCRIBE", "rtsp://x/") or "")
        assert await camera.parameters("Network")  # whose own nonce still holds
        assert camera.websocket_place().port == mid.port


async def test_a_password_the_camera_repeats_is_not_in_the_error(perform: Any, mid: Simulated) -> None:
    said = {"apiVersion": "1.0", "error": {"code": 1000, "message": "wrong: hunter2secret"}}
    mid.device.faults.add("/axis-cgi/systemready.cgi", Fault("answer", response=Response.json(said), count=None))
    mid.device.faults.add("/axis-cgi/basicdeviceinfo.cgi", Fault("answer", response=Response.json(said), count=None))
    mid.device.faults.add(
        PARAM, Fault("answer", response=Response.text("# Error: hunter2secret"), count=None, bare=True)
    )
    mid.device.faults.add(
        "/axis-cgi/usergroup.cgi", Fault("answer", response=Response.text("root\n"), count=None, bare=True)
    )
    with pytest.raises(Declined) as caught:
        await perform(
            vapix_device_info,
            {"targets": [mid.address], "credentials": "axis/yard"},
            blocks={"axis/yard": mid.block(password="hunter2secret")},
        )
    assert "hunter2" not in str(caught.value) and "***" in str(caught.value)


# --- alone with it -------------------------------------------------------------------------------------------------------


async def test_one_request_is_under_way_at_a_time(mid: Simulated) -> None:
    async with talk(mid) as camera:
        await asyncio.gather(*(camera.parameters("Brand") for _ in range(8)))
    assert mid.most_in_flight == 1


async def test_others_wait_until_the_conversation_is_let_go(mid: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_camera, "OTHERS_SECONDS", 0.3)
    async with talk(mid) as first:
        with pytest.raises(Busy, match="Another run"):
            async with talk(mid):
                pass
        await first.let_go()
        async with talk(mid) as second:
            assert await second.parameters("Brand")
            with pytest.raises(Busy):
                await first.parameters("Brand")
        assert await first.parameters("Brand")


async def test_a_stream_ends_with_its_time_and_its_bytes_are_counted(mid: Simulated) -> None:
    async with talk(mid) as camera:
        await camera.level()
        await camera.let_go()
        async with camera.stream("/axis-cgi/mjpg/video.cgi", {"fps": "10"}, seconds=0.8) as stream:
            received = 0
            async for chunk in stream:
                received += len(chunk)
            assert stream.over and stream.received == received > 1000
            assert "multipart" in stream.headers["content-type"]
            # Others may ask meanwhile, on their own connection.
        assert await camera.parameters("Brand")


async def test_a_stream_that_falls_silent_is_unreachable() -> None:
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in {b"\r\n", b""}:
            pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nsome bytes")
        await asyncio.sleep(5)
        writer.close()

    async def read_all(stream: Stream) -> None:
        async for _ in stream:
            pass

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pinned = PinnedUrl(
            url=url, scheme="http", host="127.0.0.1", port=int(url.rpartition(":")[2]), address="127.0.0.1"
        )
        session = Session(url, pinned)
        async with session.stream("GET", "/", seconds=5, idle=0.3) as stream:
            with pytest.raises(Unreachable, match="after 10 bytes"):
                await read_all(stream)


async def test_packets_are_paid_for_before_they_are_sent(mid: Simulated) -> None:
    pace = Paces(Pacer(1000), 100).of(mid.address)
    began = time.monotonic()
    async with open_camera(
        "default",
        mid.address,
        mid.address,
        credentials=mid.block(scheme="http"),
        port=None,
        timeout=1.0,
        pace=pace,
    ) as camera:
        for _ in range(60):  # more waiting for the pace than one answer may take
            await camera.parameters("Brand")
    assert time.monotonic() - began > 60 * 3 / 100


async def test_the_clock_of_the_camera_is_noted() -> None:
    with cameras(Device("mid", clock_offset=-7200)) as [simulated]:
        async with talk(simulated, simulated.block("root")) as camera:
            await camera.device()
            assert camera.clock is not None
            device_at, our_time = camera.clock
    assert -7203 < (device_at - our_time).total_seconds() < -7197


@pytest.mark.parametrize("uptime", ["\u00b2", "\u2460", "-1", "1e9", 10**30, True, None])
async def test_an_uptime_that_is_no_number_is_none(mid: Simulated, uptime: Any) -> None:
    ready = {"systemready": "yes", "needsetup": "no", "uptime": uptime}
    mid.device.faults.add(
        _camera.SYSTEMREADY, Fault("answer", response=Response.json({"apiVersion": "1.1", "data": ready}))
    )
    async with talk(mid) as camera:
        assert (await camera.device()).uptime is None


async def test_a_large_answer_is_read_beside_the_loop_and_a_small_one_in_it(
    mid: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def read(text: str, place: str) -> dict[str, str]:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse_parameters(text, place)

    monkeypatch.setattr(_camera, "parse_parameters", read)
    async with talk(mid) as camera:
        assert await camera.parameters("Brand")
        lines = "".join(f"root.Filler.F{number}=x\n" for number in range(50_000))
        mid.device.faults.add(PARAM, Fault("answer", response=Response.text(lines)))
        assert len(await camera.parameters("Filler")) == 50_000
    assert threads == [True, False]


@pytest.mark.parametrize("kind", ["html", "garbage", "empty"])
@pytest.mark.parametrize("write", [True, False])
async def test_a_change_whose_answer_nobody_can_read_may_have_been_made(mid: Simulated, kind: Any, write: bool) -> None:
    light, disks = "/axis-cgi/lightcontrol.cgi", "/axis-cgi/disks/list.cgi"
    async with talk(mid) as camera:
        for path, change in (
            (light, lambda: camera.call(light, "x", write=write)),
            (disks, lambda: camera.xml(disks, write=write)),
            (_camera.SERVICES, lambda: camera.soap(Element(f"{{{ACTION}}}GetActionRules"), action=ACTION, write=write)),
        ):
            mid.device.faults.add(path, Fault(kind))
            with pytest.raises(Nonsense) as caught:
                await change()
            assert ("may have done" in str(caught.value)) is write
