"""`vapix_ptz_control` against simulated cameras whose heads move over time, clamp in silence and never stop by themselves."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.axis_camera import ACCOUNTS, Camera, cameras
from lab.axis_camera.asking import Asking, only
from pydantic import ValidationError

from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Device, Fault, Response
from deployments.demo.axis_camera._api_ptz import PTZ_CGI, QUEUE_CGI, head_of, watch
from deployments.demo.axis_camera._ptz_head import Axis, Head
from tasks.core.errors import (
    Busy,
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix import _ptz_moving as moving
from tasks.network.vapix import _ptz_text as text
from tasks.network.vapix._ptz_reading import find_preset
from tasks.network.vapix.vapix_ptz_control import (
    PtzAction,
    PtzCamera,
    VapixPtzControl,
    VapixPtzControlResult,
    vapix_ptz_control,
)

Ask = Callable[..., Awaitable[VapixPtzControlResult]]
Use = Callable[..., Awaitable[PtzCamera]]
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated heads are quick, so they are looked at often."""
    monkeypatch.setattr(moving, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(moving, "LATER_POLL_SECONDS", 0.05)
    monkeypatch.setattr(moving, "START_SECONDS", 0.3)
    monkeypatch.setattr(moving, "STOP_SECONDS", 0.6)
    monkeypatch.setattr(moving, "STOP_PAUSES", (0.05, 0.05, 0.05))
    monkeypatch.setattr(moving, "STOPPED_SECONDS", 1.5)


@pytest.fixture
def camera(ptz: Camera) -> Camera:
    """A camera with a head."""
    return ptz


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask several cameras, or one without approval; the pace is the default policy's."""
    return asking(vapix_ptz_control, timeout=2, policy=ProbePolicy())


@pytest.fixture
def use(ask: Ask, camera: Camera) -> Use:
    """Use the tool on that camera, with approval unless told otherwise."""
    policy = ProbePolicy(ceiling="destroy")

    async def run(action: str, *, on: Camera = camera, user: str = "root", scheme: str = "https", **params: Any) -> Any:
        params |= {"action": action}
        if VapixPtzControl(targets=[on.address], credentials="axis/test", **params).approval():
            params.setdefault("confirm", on.address)
        result = await ask(on, user=user, scheme=scheme, policy=policy, **params)
        assert "pass" not in result.model_dump_json().replace("passphrase", "")
        assert result.headline().startswith(on.address)
        return only(result)

    return run


def commands(camera: Camera) -> list[str]:
    """The commands the head was given."""
    return [one.body.decode() for one in camera.asked(PTZ_CGI) if one.method == "POST"]


def attempts(camera: Camera) -> list[str]:
    """The commands that were sent, those that were not let in (HTTP 401) among them."""
    return [one.body.decode() for one in camera.requests if one.path == PTZ_CGI and one.method == "POST"]


def refusal(status: int, **when: Any) -> Fault:
    """An answer that does not let a command in; 401 asks for the login once more."""
    challenge = {"WWW-Authenticate": 'Digest realm="AXIS_ACCC8E000000", nonce="0123", qop="auth", algorithm=MD5'}
    return Fault("answer", response=Response(status, b"", "text/html", challenge if status == 401 else {}), **when)


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_capabilities_say_what_the_head_reaches_and_knows(use: Use) -> None:
    found = await use("capabilities")
    reach = {one.axis: (one.low, one.high) for one in found.limits}
    assert reach["pan"] == (-180, 180) and reach["zoom"] == (1, 19999)
    assert found.enabled is True and found.locked is False and found.speed == 100
    assert {"AbsolutePan", "ContinuousZoom", "ServerPreset"} <= set(found.supports)
    assert [(one.step, one.magnification) for one in found.zoom_steps][:3] == [(1, 1), (3868, 2), (7736, 3)]
    assert found.auxiliaries == ["Wiper", "Washer"] and found.driver == "Sim PTZ driver"
    assert found.position is not None and found.position.magnification == 1
    assert [one.name for one in found.presets] == ["Home", "Gate", "Tür Süd"]


async def test_an_ancient_dome_is_read_the_same_way(use: Use) -> None:
    with cameras("ancient") as [old]:
        for scheme in ("http", "https"):
            found = await use("capabilities", on=old, scheme=scheme)
            reach = {one.axis: (one.low, one.high) for one in found.limits}
            assert reach["tilt"] == (-180, 0) and found.presets[2].name == "Tür Süd" and found.firmware == "5.51.7"


async def test_a_camera_without_ptz_says_so(use: Use) -> None:
    with cameras("old", "bare") as others:
        for other in others:
            with pytest.raises(Unsupported, match="no pan, tilt and zoom"):
                await use("position", on=other)


async def test_a_fixed_camera_with_digital_ptz_switched_off_says_which_parameter_says_so(use: Use) -> None:
    with cameras("mid") as [fixed]:
        found = await use("capabilities", on=fixed)
        assert found.enabled is False and found.note == "PTZ is switched off for this view."
        with pytest.raises(Rejected, match="PTZEnabled is false"):
            await use("absolute", on=fixed, pan=10)
        with pytest.raises(Rejected, match="does not say where"):
            await use("position", on=fixed)
        assert commands(fixed) == []


async def test_reading_takes_many_and_one_that_is_dead_costs_its_own_entry(ask: Ask) -> None:
    with cameras("ptz", "ptz", "mid") as [good, dead, fixed]:
        dead.device.refuse()
        result = await ask(good, dead, fixed, action="position")
        assert [one.outcome for one in result.cameras] == ["done", "unreachable", "rejected"]
        assert result.cameras[0].position.pan == 0 and result.reached()


async def test_a_viewer_without_the_ptz_right_is_told_so(use: Use) -> None:
    with pytest.raises(Forbidden):
        await use("position", user="viewer")
    assert (await use("position", user="ptz")).position is not None


async def test_the_queue_is_shown_where_there_is_one(use: Use, camera: Camera) -> None:
    assert "no queue" in ((await use("queue")).note or "")
    camera.device.params.set("PTZ.Various.V1.CtlQueueing", True)
    queue = (await use("queue")).queue
    assert queue is not None and queue.position == 0 and queue.poll_seconds == 20


# --- moving ----------------------------------------------------------------------------------------------------------


async def test_an_absolute_move_reports_before_asked_and_reached(use: Use, camera: Camera) -> None:
    moved = await use("absolute", pan=60, tilt=-20, zoom=3000)
    assert moved.before is not None and moved.before.pan == 0
    assert moved.asked is not None and (moved.asked.pan, moved.asked.tilt, moved.asked.zoom) == (60, -20, 3000)
    assert moved.position is not None and (moved.position.pan, moved.position.tilt, moved.position.zoom) == (
        60,
        -20,
        3000,
    )
    assert moved.rested and moved.note is None and moved.seconds is not None and moved.seconds > 0.2
    assert not head_of(camera.device).moving()


async def test_it_is_watched_until_it_rests_and_no_longer_than_allowed(use: Use, camera: Camera) -> None:
    moved = await use("absolute", pan=170, speed=1, settle=1)
    assert moved.rested is False and "still moving after 1 s" in (moved.note or "")


async def test_what_is_out_of_reach_is_refused_before_anything_is_sent(use: Use, camera: Camera) -> None:
    camera.device.params.set("PTZ.Limit.L1.MaxTilt", 20)
    with pytest.raises(
        InvalidParameters, match=r"tilt: 45 is beyond what this camera reaches; right would be -?[0-9]+ to 20"
    ):
        await use("absolute", tilt=45)
    with pytest.raises(InvalidParameters, match="tilt: 30 is beyond"):
        await use("relative", tilt=30)
    assert commands(camera) == []


async def test_a_camera_that_clamps_all_the_same_is_found_out(use: Use, camera: Camera) -> None:
    head_of(camera.device).axes["tilt"].high = 10  # less than its own limits say
    limits = Response.text("MinPan=-180\nMaxPan=180\nMinTilt=-90\nMaxTilt=90\n")
    camera.device.faults.add(PTZ_CGI, Fault("answer", response=limits))
    moved = await use("absolute", tilt=45)
    assert moved.note == "the camera came to rest elsewhere: tilt is 10, not 45"


async def test_a_relative_move_goes_through_where_the_head_turns_round(use: Use, camera: Camera) -> None:
    await use("absolute", pan=170)
    moved = await use("relative", pan=30)
    assert moved.asked is not None and moved.asked.pan == -160
    assert moved.position is not None and moved.position.pan == -160 and moved.note is None


async def test_a_lost_answer_to_a_move_is_never_sent_again(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("close", skip=2, effect=True))
    with pytest.raises(Unanswered):
        await use("relative", pan=20)
    await asyncio.sleep(0.3)
    assert commands(camera) == ["camera=1&rpan=20"] and head_of(camera.device).position()["pan"] == pytest.approx(20)


async def test_magnification_is_looked_up_and_never_computed(use: Use, camera: Camera) -> None:
    moved = await use("absolute", magnification=2)
    assert moved.position is not None and moved.position.zoom == 3868
    with pytest.raises(InvalidParameters, match=r"lists no 2\.5; it lists 1, 2, 3, 4"):
        await use("absolute", magnification=2.5)
    camera.device.faults.add(
        PTZ_CGI, Fault("answer", count=None, skip=1, response=Response.text("Error:query: unknown value\n"))
    )
    with pytest.raises(Unsupported, match="not linear"):
        await use("absolute", magnification=2)


async def test_what_the_driver_cannot_do_is_not_sent(use: Use, camera: Camera) -> None:
    camera.device.params.set("PTZ.Support.S1.AbsoluteZoom", False)
    with pytest.raises(Unsupported, match="AbsoluteZoom"):
        await use("absolute", zoom=500)
    camera.device.params.set("PTZ.Various.V1.Locked", True)
    with pytest.raises(Rejected, match=r"V1\.Locked is true"):
        await use("absolute", pan=5)
    assert commands(camera) == []


async def test_home_and_presets_are_gone_to_by_name_or_number(use: Use, camera: Camera) -> None:
    gate = await use("preset_go", preset="Gate")
    assert gate.position is not None and gate.position.pan == 45 and gate.presets[0].number == 2
    assert (await use("preset_go", preset="3")).position.pan == -90  # type: ignore[union-attr]
    assert (await use("preset_go", preset="Tür Süd")).presets[0].number == 3
    assert (await use("home")).position.pan == 0  # type: ignore[union-attr]
    with pytest.raises(NotFound, match="There are 'Home', 'Gate'"):
        await use("preset_go", preset="Attic")


async def test_the_lens_is_set_and_read_back(use: Use, camera: Camera) -> None:
    focused = await use("lens", focus=1234)
    assert focused.position is not None and (focused.position.focus, focused.position.autofocus) == (1234, False)
    automatic = await use("lens", autofocus=True, autoiris=False)
    assert automatic.position is not None and (automatic.position.autofocus, automatic.position.autoiris) == (
        True,
        False,
    )


async def test_speed_and_auxiliary_functions(use: Use, camera: Camera) -> None:
    changed = await use("speed", speed=30)
    assert (changed.speed_before, changed.speed) == (100, 30) and head_of(camera.device).speed == 30
    await use("auxiliary", auxiliary="Wiper")
    assert head_of(camera.device).called == ["Wiper"]
    with pytest.raises(NotFound, match="It lists Wiper, Washer"):
        await use("auxiliary", auxiliary="Siren")


async def test_a_move_needs_approval_and_nothing_is_sent_without(use: Use, camera: Camera) -> None:
    for confirm in (None, "", "127.0.0.1", f"{camera.address} "):
        with pytest.raises(Refused, match="needs approval"):
            await use("absolute", pan=5, confirm=confirm)
    assert camera.requests == []


# --- a continuous move always ends -----------------------------------------------------------------------------------


async def test_a_continuous_move_is_stopped_after_its_seconds(use: Use, camera: Camera) -> None:
    started = time.monotonic()
    moved = await use("continuous", pan=10, zoom=5, seconds=0.5)
    assert time.monotonic() - started > 0.5
    assert commands(camera) == [
        "camera=1&continuouspantiltmove=10%2C0&continuouszoommove=5",
        "camera=1&continuouspantiltmove=0%2C0&continuouszoommove=0",
    ]
    head = head_of(camera.device)
    assert not head.driven() and moved.rested and moved.position is not None
    assert moved.position.pan == pytest.approx(9, abs=4)  # 18 degrees a second


async def test_a_cancel_in_the_middle_of_a_continuous_move_stops_it(use: Use, camera: Camera) -> None:
    task = asyncio.ensure_future(use("continuous", pan=30, seconds=10))
    head = head_of(camera.device)
    await until(head.driven)
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not head.driven() and not head.moving()


async def test_cancelling_again_and_again_does_not_keep_it_from_stopping(use: Use, camera: Camera) -> None:
    task = asyncio.ensure_future(use("continuous", tilt=-5, seconds=10))
    head = head_of(camera.device)
    await until(head.driven)
    camera.device.faults.add(PTZ_CGI, Fault("delay", seconds=0.3))
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.02)
    assert task.cancelled() and not head.driven()


async def test_a_lost_answer_to_a_continuous_move_is_followed_by_a_stop(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("close", skip=2, effect=True))
    with pytest.raises(Unanswered):
        await use("continuous", pan=30, seconds=5)
    assert not head_of(camera.device).driven()


async def test_a_stop_that_is_not_answered_is_sent_again(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("hang", skip=3))
    await use("continuous", pan=30, seconds=0.2)
    assert not head_of(camera.device).driven()
    assert len(commands(camera)) == 3


async def test_a_stop_that_is_never_confirmed_is_said_loudly(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("hang", skip=3, count=None))
    with pytest.raises(Unanswered, match="MAY STILL BE MOVING"):
        await use("continuous", pan=30, seconds=0.2)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_stop_that_is_refused_once_is_sent_again(use: Use, camera: Camera, status: int) -> None:
    camera.device.faults.add(PTZ_CGI, refusal(status, skip=3))
    moved = await use("continuous", pan=30, seconds=0.2)
    assert moved.rested and not head_of(camera.device).driven()
    assert attempts(camera)[1:] == ["camera=1&continuouspantiltmove=0%2C0"] * 2


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_stop_that_is_refused_for_good_is_said_loudly(use: Use, camera: Camera, status: int) -> None:
    camera.device.faults.add(PTZ_CGI, refusal(status, skip=3, count=None))
    with pytest.raises(Unanswered, match="MAY STILL BE MOVING"):
        await use("continuous", pan=30, seconds=0.2)
    assert len(attempts(camera)) == 5 and attempts(camera)[-1] == "camera=1&move=stop"


@pytest.mark.parametrize("answer", ["close", "500", "503", "html"])
async def test_what_the_camera_did_not_decline_may_still_move(use: Use, camera: Camera, answer: Any) -> None:
    camera.device.faults.add(PTZ_CGI, Fault(answer, skip=2, effect=True))
    camera.device.faults.add(PTZ_CGI, Fault("close", skip=2, count=None))
    with pytest.raises(Unanswered, match="MAY STILL BE MOVING"):
        await use("continuous", pan=30, seconds=0.2)
    assert head_of(camera.device).driven()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_move_that_was_not_let_in_is_no_alarm(use: Use, camera: Camera, status: int) -> None:
    camera.device.faults.add(PTZ_CGI, refusal(status, skip=2, count=None))
    with pytest.raises((Forbidden, Unsupported)):
        await use("continuous", pan=30, seconds=0.2)
    assert len(attempts(camera)) == 2, "nothing moves, so the stop is not insisted on: cameras lock out who guesses"


async def test_a_deadline_does_not_hide_that_the_stop_was_not_confirmed(
    use: Use, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VapixPtzControl, "camera_seconds", lambda params: 1.5)
    camera.device.faults.add(PTZ_CGI, Fault("close", skip=3, count=None))
    with pytest.raises(Unanswered, match="MAY STILL BE MOVING"):
        await use("continuous", pan=30, seconds=9)


async def test_a_cancel_tells_the_log_that_the_stop_was_not_confirmed(
    use: Use, camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("close", skip=3, count=None))
    task = asyncio.ensure_future(use("continuous", pan=30, seconds=9))
    await until(head_of(camera.device).driven)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [one.levelname for one in caplog.records if "MAY STILL BE MOVING" in one.getMessage()] == ["CRITICAL"]


async def test_an_alarm_stays_one_when_the_camera_falls_silent_after_it(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("close", count=None))
    camera.device.faults.add("/axis-cgi/param.cgi", Fault("close", count=None))
    with pytest.raises(Unanswered, match="MAY STILL BE MOVING"):
        await use("stop")


async def test_zoom_is_never_told_to_stop_by_what_stops_pan_and_tilt_only(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("503", skip=3, count=3))
    await use("continuous", zoom=5, seconds=0.2)
    assert commands(camera)[1:] == ["camera=1&continuouszoommove=0"] * 4 and not head_of(camera.device).driven()


async def test_a_move_the_camera_refuses_is_reported_as_refused(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("error-text", skip=2, count=None))
    with pytest.raises(Rejected, match="another opinion"):
        await use("continuous", pan=30, seconds=0.2)


async def test_a_head_that_moves_on_although_it_confirmed_the_stop_is_said(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("answer", skip=3, count=1, response=Response.empty()))
    head = head_of(camera.device)
    moved = await use("continuous", pan=30, seconds=0.2)
    assert moved.rested and not head.driven(), "it was told once more, in another way"
    assert commands(camera)[-1] == "camera=1&move=stop"


async def test_the_stop_goes_out_even_when_the_deadline_of_the_camera_passes(use: Use, camera: Camera) -> None:
    head = head_of(camera.device)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await use("continuous", pan=30, seconds=10)
    assert not head.driven()


ALONE = """
import asyncio, sys
from blocks.axis import AxisCredentials
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.run import FixedWiring, wired
from tasks.network.vapix.vapix_ptz_control import vapix_ptz_control

address, port = sys.argv[1], int(sys.argv[2])
block = AxisCredentials(username="root", password="pass", scheme="http", port=port)
given = {"targets": [address], "credentials": "axis/a", "action": "continuous", "pan": 20, "seconds": 10, "confirm": address}
with wired(FixedWiring(policies={"default": ProbePolicy()}, blocks={"axis/a": block})):
    asyncio.run(kit.perform(vapix_ptz_control.spec, given))
"""


async def test_ctrl_c_in_the_middle_of_a_continuous_move_stops_it(camera: Camera) -> None:
    command = [sys.executable, "-c", ALONE, camera.address, str(camera.port)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
    head = head_of(camera.device)
    try:
        await until(head.driven, 60)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) != 0
    finally:
        if process.returncode is None:
            process.kill()
    assert not head.driven() and len(commands(camera)) == 2


async def test_stop_takes_many_and_needs_no_approval(ask: Ask) -> None:
    with cameras("ptz", "ptz") as both:
        for one in both:
            one.device.call(lambda one=one: head_of(one.device).drive("pan", 20))  # type: ignore[misc]
        result = await ask(*both, action="stop")
        assert [one.rested for one in result.cameras] == [True, True]
        assert not any(head_of(one.device).driven() for one in both)


@pytest.mark.parametrize(
    ("move", "goal"),
    [({"action": "absolute", "pan": 160}, "160"), ({"action": "preset_go", "preset": "Gate"}, "45"), ({"action": "home"}, "0")],
)  # fmt: skip
async def test_a_stop_gets_in_while_another_run_watches_and_that_run_says_so(
    use: Use, camera: Camera, move: dict[str, Any], goal: str
) -> None:
    head = head_of(camera.device)
    await use("absolute", pan=-160)
    await use("speed", speed=1)
    watched = asyncio.ensure_future(use(**move, settle=40))
    await until(head.moving)
    await asyncio.sleep(0.5)
    started = time.monotonic()
    stopped = await use("stop")
    assert time.monotonic() - started < 4 and stopped.rested and not head.moving()
    seen = await watched
    assert (
        time.monotonic() - started < 8 and seen.rested and seen.position is not None and (seen.position.pan or 0) < -140
    )
    assert (seen.note or "").startswith(f"the camera came to rest elsewhere: pan is {seen.position.pan:g}, not {goal}")
    assert seen.asked is not None and seen.asked.pan == float(goal)


async def test_where_a_camera_does_not_say_where_a_preset_is_that_is_said(use: Use, camera: Camera) -> None:
    # Limits, then the presets; their places and the position come after them.
    camera.device.faults.add(
        PTZ_CGI, Fault("answer", skip=2, response=Response.text("Error:query: unknown value: presetposcamdata\n"))
    )
    moved = await use("preset_go", preset="Gate")
    assert moved.position is not None and moved.position.pan == 45 and moved.asked is None
    assert moved.note == "the camera does not say where that is: seen was only that it rests"


async def test_others_that_keep_the_camera_busy_end_no_watch(use: Use, camera: Camera) -> None:
    camera.device.faults.add(PTZ_CGI, Fault("503", skip=4, count=3))
    moved = await use("absolute", pan=20)
    assert moved.rested and moved.position is not None and moved.position.pan == 20
    camera.device.faults.add(PTZ_CGI, Fault("503", skip=3, count=None))
    unseen = await use("absolute", pan=-20, settle=1)
    assert unseen.rested is None and "was not seen at rest within 1 s" in (unseen.note or "")
    assert "STILL MOVING" not in VapixPtzControlResult(action=PtzAction.ABSOLUTE, cameras=[unseen]).headline()


# --- the queue for control -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [True, False])
async def test_control_is_asked_for_and_given_back(use: Use, camera: Camera, cookies: bool) -> None:
    camera.device.params.set("PTZ.Various.V1.CtlQueueing", True)
    camera.device.params.set("PTZ.UserCtlQueue.U0.UseCookie", cookies)
    assert (await use("absolute", pan=10)).note is None
    await use("continuous", pan=10, seconds=0.2)
    head = head_of(camera.device)
    assert not head.queue and not head.driven()
    controls = [one.body.decode() for one in camera.asked(QUEUE_CGI)]
    assert controls == ["camera=1&control=request", "camera=1&control=drop"] * 2


async def test_while_others_have_control_nothing_moves(use: Use, camera: Camera) -> None:
    camera.device.params.set("PTZ.Various.V1.CtlQueueing", True)
    head_of(camera.device).request("somebody else", 42)
    with pytest.raises(Busy, match="place 2 of its queue"):
        await use("absolute", pan=10)
    assert commands(camera) == [] and len(head_of(camera.device).queue) == 1


# --- presets ---------------------------------------------------------------------------------------------------------


async def test_a_preset_is_stored_and_removed_by_an_administrator(use: Use, camera: Camera) -> None:
    await use("absolute", pan=33)
    stored = await use("preset_set", preset="Dock 4", home=True)
    assert stored.presets[0].name == "Dock 4" and stored.position is not None and stored.position.pan == 33
    assert head_of(camera.device).home == stored.presets[0].number == 4
    assert stored.home == 4
    removed = await use("preset_remove", preset="Dock 4", confirm=f"{camera.address} Dock 4")
    assert "Dock 4" not in [one.name for one in removed.presets] and len(removed.presets) == 3


async def test_the_home_position_is_read_before_and_after(use: Use, camera: Camera) -> None:
    made = await use("preset_set", preset="Dock", home=True)
    assert (made.home_before, made.home, made.note) == (1, 4, None)
    assert (await use("preset_set", preset="Yard")).home is None
    # What follows answers the question after the change; the ones before it are answered as they should be.
    unchanged = Response.text("root.PTZ.Preset.P0.HomePosition=4\n")
    camera.device.faults.add("/axis-cgi/param.cgi", Fault("answer", skip=2, response=unchanged))
    with pytest.raises(Rejected, match="stored 'Roof' as preset 6, but home is still preset 4"):
        await use("preset_set", preset="Roof", home=True)


async def test_where_a_camera_does_not_say_which_preset_is_home_that_is_said(use: Use, camera: Camera) -> None:
    camera.device.params.set("PTZ.Preset.P0.HomePosition", "")
    camera.device.faults.add(
        "/axis-cgi/param.cgi",
        Fault("answer", skip=3, response=Response.text("# Error: Error -1 getting param in group 'PTZ.Preset.P0'\n")),
    )
    stored = await use("preset_set", preset="Dock 4", home=True)
    assert stored.home is None and stored.note == (
        "whether it is home now the camera does not say (PTZ.Preset.P0.HomePosition): action home shows it"
    )


async def test_removing_takes_the_destroy_level_and_the_presets_name_as_approval(
    use: Use, ask: Ask, camera: Camera
) -> None:
    with pytest.raises(Refused, match=f"{camera.address} Gate"):
        await use("preset_remove", preset="Gate")
    with pytest.raises(Refused, match="destroy"):
        await ask(camera, action="preset_remove", preset="Gate", confirm=f"{camera.address} Gate")
    assert len(head_of(camera.device).presets) == 3 and camera.requests == []


async def test_presets_are_not_overwritten_and_not_changed_by_operators(use: Use, camera: Camera) -> None:
    with pytest.raises(Conflict, match="already"):
        await use("preset_set", preset="gate")
    with pytest.raises(Forbidden):
        await use("preset_set", preset="Mine", user="operator")
    with pytest.raises(InvalidParameters, match="at most 95"):
        await use("preset_set", preset="x" * 96)


async def test_a_preset_the_camera_took_but_does_not_list_is_said(use: Use, camera: Camera) -> None:
    camera.device.faults.add("/axis-cgi/com/ptzconfig.cgi", Fault("answer", response=Response.empty()))
    with pytest.raises(Rejected, match="does not list it"):
        await use("preset_set", preset="Ghost")


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("html", Rejected), ("empty", Rejected), ("garbage", Rejected), ("error-text", Rejected), ("hang", Unreachable),
        ("close", Unreachable), ("truncate", Exception), ("404", Unsupported), ("503", Busy), ("500", Exception), ("oversized", Exception),
    ],
)  # fmt: skip
async def test_a_faulty_answer_is_an_error_and_never_a_position(
    use: Use, camera: Camera, fault: Any, error: type[Exception]
) -> None:
    camera.device.faults.add(PTZ_CGI, Fault(fault, count=None, seconds=0.1, size=3 << 20))
    with pytest.raises(error):
        await use("position")


async def test_a_wrong_password_is_tried_once_and_never_shown(ask: Ask, camera: Camera) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(camera, password="s3cret-wrong", scheme="https")
    assert "s3cret-wrong" not in repr(caught.value) and len([one for one in camera.requests if one.credentials]) == 1


async def test_a_hostile_preset_name_comes_out_clean(use: Use) -> None:
    device = Device("ptz", index=900, accounts=ACCOUNTS)
    device.names["preset"] = "Gate\x1b[31m; rm -rf\x07"
    with cameras(device) as [hostile]:
        names = [one.name for one in (await use("presets", on=hostile)).presets]
        assert names == ["Home", "Gate", "Gate [31m; rm -rf"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"action": "absolute"}, "needs pan, tilt, zoom or magnification"),
        ({"action": "absolute", "pan": 200}, "-180 to 180"),
        ({"action": "absolute", "zoom": -5}, "1 to 19999"),
        ({"action": "absolute", "zoom": 5, "magnification": 2}, "give one"),
        ({"action": "continuous", "pan": 5}, "needs seconds"),
        ({"action": "continuous", "pan": 5, "seconds": 60}, "less than or equal to 10"),
        ({"action": "continuous", "pan": 0, "seconds": 1}, "other than 0"),
        ({"action": "continuous", "pan": 150, "seconds": 1}, "-100 to 100"),
        ({"action": "relative"}, "by how much"),
        ({"action": "position", "pan": 5}, "pan does not go with action position; it goes with absolute"),
        ({"action": "preset_go"}, "needs preset"),
        ({"action": "preset_set", "preset": "Tür"}, "plain ASCII"),
        ({"action": "preset_set", "preset": "7"}, "is no number"),
        ({"action": "lens", "focus": 5, "autofocus": True}, "contradict"),
        ({"action": "speed"}, "needs speed"),
        ({"action": "absolute", "pan": 5, "targets": ["10.0.0.1", "10.0.0.2"]}, "exactly one target"),
        ({"action": "auxiliary"}, "needs auxiliary"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_with_what_is_right(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        VapixPtzControl(**{"targets": ["10.0.0.1"], "credentials": "axis/yard", **params})


def test_actions_have_the_safety_they_should() -> None:
    def made(action: str, **more: Any) -> VapixPtzControl:
        return VapixPtzControl(targets=["10.0.0.1"], credentials="axis/yard", action=action, **more)

    assert made("presets").safety() is None and not made("presets").approval()
    assert made("stop").safety() is Safety.CHANGE and not made("stop").approval()
    assert made("home").safety() is Safety.CHANGE and made("home").approval() and made("home").subject() == "10.0.0.1"
    assert made("preset_set", preset="a").safety() is Safety.CHANGE and not made("preset_set", preset="a").approval()
    removal = made("preset_remove", preset="Gate")
    assert removal.safety() is Safety.DESTROY and removal.approval() and removal.subject() == "10.0.0.1 Gate"
    assert all(action in VapixPtzControl.model_fields["action"].description for action in PtzAction)


# --- parsers and the head --------------------------------------------------------------------------------------------


NAMES = st.sampled_from(["pan", "TILT", "zoom", "autofocus", "MinPan", "MaxPan", "presetposno1", "x"])
LINES = st.lists(st.tuples(NAMES, st.text(max_size=20))).map(lambda rows: "\n".join(f"{a}={b}" for a, b in rows))
KEYS = st.sampled_from(["zoom", "magnification", "step", "a"])
LEAVES = st.none() | st.booleans() | st.floats() | st.integers(1, 20_000) | st.text(max_size=5)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)


DOCUMENTS = st.recursive(LEAVES, _nested, max_leaves=20)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | LINES)
def test_whatever_a_camera_answers_is_read_without_an_error(answer: str) -> None:
    axes, switches = text.position(answer)
    assert all(abs(value) < 1e9 for value in axes.values()) and set(switches) <= set(text.SWITCHES)
    for low, high in text.limits(answer).values():
        assert low is None or high is None or low <= high
    for preset in text.presets(answer):
        assert preset.number > 0 and preset.name.isprintable() and len(preset.name) <= text.MOST_NAME
    text.queue(answer)
    assert all(step.magnification > 0 for step in text.zoom_steps(answer))
    assert all(name.isprintable() for name in text.auxiliaries(answer))


@given(DOCUMENTS)
def test_zoom_steps_rise_or_are_not_believed(document: Any) -> None:
    rows = text.zoom_steps(json.dumps(document))
    assert rows == sorted(rows) and len({row.magnification for row in rows}) == len(rows)


@given(st.floats(-180, 180), st.floats(-90, 20))
def test_a_position_is_read_as_it_is_written(pan: float, tilt: float) -> None:
    axes, _ = text.position(f"pan={pan:.4f}\r\ntilt={tilt:.4f}\r\nautofocus=on\r\n")
    assert axes == {"pan": pytest.approx(pan, abs=1e-4), "tilt": pytest.approx(tilt, abs=1e-4)}


@pytest.mark.parametrize("answer", ["pan=nan", "pan=inf", "pan=1e400", "pan=", "pan", "pan = ", ""])
def test_a_number_that_is_none_is_no_position(answer: str) -> None:
    assert text.position(answer) == ({}, {})


def test_the_simulated_head_moves_over_time_clamps_and_goes_on_until_it_is_stopped() -> None:
    now = [0.0]
    head = Head(
        {"pan": Axis(-170, 170, 0, 100), "tilt": Axis(-90, 20, 0, 50), "zoom": Axis(1, 9999, 1, 1000)},
        clock=lambda: now[0],
    )
    head.go({"pan": 100})
    now[0] = 0.5
    assert head.position()["pan"] == 50 and head.moving() and head.rests_in() == pytest.approx(0.5)
    now[0] = 2
    assert head.position()["pan"] == 100 and not head.moving()
    head.go({"pan": 999})
    now[0] = 10
    assert head.position()["pan"] == 170
    head.drive("tilt", -10)
    now[0] = 12
    assert head.position()["tilt"] == -10 and head.driven() and head.moving()
    now[0] = 1000
    assert head.position()["tilt"] == -90 and head.driven(), "at its limit it still wants on"
    head.stop()
    assert not head.driven()


async def test_the_simulated_head_tells_its_subscribers_when_it_moves_and_when_it_rests(camera: Camera) -> None:
    told: list[tuple[str, str]] = []
    camera.device.subscribe(
        lambda event: told.extend((event.topic.rsplit("/", 2)[1], value) for value in event.data.values())
    )
    head = head_of(camera.device)

    def move() -> None:
        head.go({"pan": 45.0, "tilt": -10.0, "zoom": 2000.0})
        watch(camera.device, head)

    camera.device.call(move)
    await until(lambda: ("tnsaxis:Move", "0") in told)
    assert told.index(("tnsaxis:Move", "1")) < told.index(("tnsaxis:Move", "0"))
    await until(lambda: ("tnsaxis:PTZPresets", "1") in told)


async def test_the_axis_library_moves_the_simulated_head(camera: Camera) -> None:
    import httpx
    from axis.device import AxisDevice
    from axis.models.configuration import Configuration
    from axis.models.ptz_cgi import PtzMove, PtzQuery

    async with httpx.AsyncClient() as session:
        theirs = AxisDevice(
            Configuration(session, camera.address, username="root", password="pass", port=camera.port, web_proto="http")
        )
        ptz = theirs.vapix.ptz
        await ptz.control(pan=30, tilt=-10, zoom=100, speed=100)
        head = head_of(camera.device)
        await until(lambda: not head.moving())
        assert b"pan=30.0000\ntilt=-10.0000\nzoom=100\n" in await ptz.query(PtzQuery.POSITION)
        await ptz.control(continuous_pantilt_move=(10, 0))
        assert head.driven()
        await ptz.control(move=PtzMove.STOP)
        assert not head.driven()
        assert b"presetposno2=Gate" in await ptz.query(PtzQuery.PRESETPOSCAM)
        assert await ptz.configured_device_driver() == b"Sim PTZ driver\n"
        assert b"Error" not in await ptz.available_ptz_commands()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        await asyncio.sleep(0.02)


def test_a_preset_whose_name_only_looks_like_a_number_is_sought_by_name() -> None:
    for wanted in ("\u00b2", "\u0662", "9" * 128):
        with pytest.raises(NotFound):
            find_preset([text.Preset(2, "Gate")], wanted)
    assert find_preset([text.Preset(2, "Gate")], "2").name == "Gate"
