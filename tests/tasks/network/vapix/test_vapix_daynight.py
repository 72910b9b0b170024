"""`vapix_daynight` against simulated cameras that keep their IR-cut filter in different places and words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import ACCOUNTS, PASSWORD, Camera, cameras
from lab.axis_camera.asking import Asking, updates, values

from deployments.demo.axis_camera import Device, Event, Fault, Response
from deployments.demo.axis_camera._api_daynight import Sight as SimulatedSight
from deployments.demo.axis_camera._api_lights import Lamps
from tasks.core.errors import (
    Busy,
    Forbidden,
    InvalidParameters,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix._daynight_state import (
    CONFIGURATION,
    parse_capabilities,
    parse_configuration,
    vision,
    words,
)
from tasks.network.vapix._wire import Missing, Nonsense
from tasks.network.vapix.vapix_daynight import DayNight, VapixDaynight, vapix_daynight

PARAM = "/axis-cgi/param.cgi"
DAYNIGHT = "/axis-cgi/daynight.cgi"
FIXED = "ImageSource.I0.DayNight.IrCutFilter"
DOME = "PTZ.Various.V1.IrCutFilter"
Ask = Callable[..., Awaitable[DayNight]]


@pytest.fixture
def ask(asking_one: Asking) -> Ask:
    return asking_one(vapix_daynight, scheme="https", timeout=3)


@pytest.mark.parametrize(
    ("profile", "parameter", "literals", "api"),
    [
        ("ancient", DOME, ("on", "off", "auto"), "param.cgi"),
        ("old", FIXED, ("yes", "no", "auto"), "param.cgi"),
        ("9.80", FIXED, ("yes", "no", "auto"), "param.cgi"),
        ("mid", FIXED, ("yes", "no", "auto"), "param.cgi"),
        ("new", FIXED, ("yes", "no", "auto"), "param.cgi, daynight.cgi"),
        ("ptz", DOME, ("on", "off", "auto"), "param.cgi"),
    ],
)
async def test_every_generation_is_told_day_night_and_auto_in_its_own_words(
    profile: str, parameter: str, literals: tuple[str, str, str], api: str, ask: Ask
) -> None:
    with cameras(profile) as [camera]:
        read = await ask(camera)
        assert (read.ir_cut_filter, read.parameter, read.api) == ("auto", parameter, api)
        before = "auto"
        for told, literal in zip(("day", "night", "auto"), literals, strict=True):
            entry = await ask(camera, action="set", ir_cut_filter=told)
            assert entry.outcome == "done" and entry.ir_cut_filter == told
            assert values(entry) == {"ir_cut_filter": (before, told)}, "an undo can be given as it is told"
            assert camera.device.params.get(parameter) == literal
            before = told
        assert camera.device.errors == [] and camera.most_in_flight == 1


async def test_day_and_night_are_what_the_camera_then_sees_by(camera: Camera, ask: Ask) -> None:
    events: list[Event] = []
    camera.device.subscribe(events.append)
    await ask(camera, action="set", ir_cut_filter="night")
    assert not camera.device.slot(SimulatedSight).day and camera.device.slot(Lamps).lamps["led0"].lit
    await ask(camera, action="set", ir_cut_filter="day")
    assert camera.device.slot(SimulatedSight).day and not camera.device.slot(Lamps).lamps["led0"].lit
    seen = [event.data["day"] for event in events if event.topic == "tns1:VideoSource/tnsaxis:DayNightVision"]
    assert seen == ["0", "1"]
    await ask(camera, action="set", ir_cut_filter="auto")
    camera.device.slot(SimulatedSight).light(10)
    assert not camera.device.slot(SimulatedSight).day


async def test_the_shift_level_of_most_cameras_is_a_parameter(camera: Camera, ask: Ask) -> None:
    entry = await ask(camera, action="set", ir_cut_filter="night", day_night_shift_level=30)
    assert values(entry) == {"ir_cut_filter": ("auto", "night"), "day_night_shift_level": ("100", "30")}
    assert entry.day_night_shift_level == 30 and entry.settable == ["ir_cut_filter", "day_night_shift_level"]
    assert len(updates(camera)) == 1


async def test_what_only_daynight_cgi_has_is_refused_elsewhere_before_anything_is_sent(
    camera: Camera, ask: Ask
) -> None:
    for name, value in (
        ("night_day_shift_level", 30),
        ("day_night_dwell_time", 9),
        ("night_filter", "clear"),
        ("autotune", True),
    ):
        with pytest.raises(Unsupported, match=f"has no {name}; it has: ir_cut_filter, day_night_shift_level"):
            await ask(camera, action="set", ir_cut_filter="night", **{name: value})
    assert updates(camera) == [] and camera.device.params.get(FIXED) == "auto"


async def test_daynight_cgi_is_used_where_it_is_offered(new: Camera, ask: Ask) -> None:
    read = await ask(new)
    assert (read.day_night_shift_level, read.night_day_shift_level) == (60, 40)
    assert (read.day_night_dwell_time, read.night_day_dwell_time) == (5.0, 10.0)
    assert (read.night_filter, read.autotune) == ("clear", False)
    assert set(read.settable) == {"ir_cut_filter", *CONFIGURATION}
    entry = await ask(
        new,
        action="set",
        ir_cut_filter="night",
        day_night_shift_level=55,
        night_day_shift_level=45,
        day_night_dwell_time=12.5,
        autotune=False,
    )
    assert values(entry) == {
        "ir_cut_filter": ("auto", "night"),
        "day_night_shift_level": (60, 55),
        "night_day_shift_level": (40, 45),
        "day_night_dwell_time": (5.0, 12.5),
        "autotune": (False, False),
    }
    assert new.device.slot(SimulatedSight).configuration["DayNightDwellTime"] == 12.5
    assert new.device.params.get("ImageSource.I0.DayNight.ShiftLevel") == "55", "one state behind both APIs"
    again = await ask(new, action="set", night_day_shift_level=45)
    assert again.notes == ["It was so already; nothing was sent."]
    assert len(new.asked(DAYNIGHT, "setConfiguration")) == 1


async def test_what_the_capabilities_lack_is_refused(new: Camera, ask: Ask) -> None:
    with pytest.raises(Unsupported, match="has no night_filter irpass"):
        await ask(new, action="set", night_filter="irpass")
    new.device.slot(SimulatedSight).autotune_support = False
    with pytest.raises(Unsupported, match="has no autotune"):
        await ask(new, action="set", autotune=True)
    new.device.slot(SimulatedSight).irpass_support = True
    assert values(await ask(new, action="set", night_filter="irpass")) == {"night_filter": ("clear", "irpass")}
    assert len(new.asked(DAYNIGHT, "setConfiguration")) == 1


async def test_an_unknown_channel_is_an_error_in_words_although_the_device_calls_it_its_own_failure(
    new: Camera, ask: Ask
) -> None:
    with pytest.raises(Rejected, match="a value is not valid for this camera"):
        await ask(new, channel=3)
    assert new.asked(DAYNIGHT)[-1].status == 500


async def test_a_configuration_that_is_taken_and_ignored_is_found_out(new: Camera, ask: Ask) -> None:
    ok = Response.json({"apiVersion": "1.2", "method": "setConfiguration", "data": []})
    new.device.faults.add(DAYNIGHT, Fault("answer", method="setConfiguration", response=ok))
    entry = await ask(new, action="set", night_day_shift_level=50)
    assert entry.outcome == "rejected" and "night_day_shift_level is still 40" in str(entry.detail)


@pytest.mark.parametrize(("code", "status", "kind"), [
    (2104, 500, Rejected), (1100, 500, ToolError), (2105, 403, Forbidden), (2100, 200, Unsupported), (2102, 200, Unsupported),
])  # fmt: skip
async def test_the_errors_of_daynight_cgi_are_read_whatever_their_http_status(
    code: int, status: int, kind: type[ToolError], new: Camera, ask: Ask
) -> None:
    body = {"apiVersion": "1.2", "method": "getCapabilities", "error": {"code": code, "message": "no"}}
    new.device.faults.add(DAYNIGHT, Fault("answer", count=None, response=Response.json(body, status)))
    with pytest.raises(kind) as caught:
        await ask(new, action="set", ir_cut_filter="night", night_day_shift_level=9)
    assert updates(new) == []
    assert not isinstance(caught.value, Busy) or code == 1100


async def test_a_lost_answer_is_not_sent_twice(camera: Camera, ask: Ask) -> None:
    camera.device.faults.add(PARAM, Fault("close", effect=True, method="POST"))
    with pytest.raises(Unanswered, match="Values before: ir_cut_filter=auto"):
        await ask(camera, action="set", ir_cut_filter="night")
    assert len(updates(camera)) == 1


async def test_a_filter_that_stays_where_it_was_is_found_out_by_reading_back(camera: Camera, ask: Ask) -> None:
    params = camera.device.params
    params.watch(FIXED, lambda name, value: params.set(name, "auto"))
    entry = await ask(camera, action="set", ir_cut_filter="night")
    assert entry.outcome == "rejected" and entry.detail == (
        "The camera took it and did not do it: ir_cut_filter is still auto."
    )


async def test_a_filter_in_words_nobody_has_met_is_not_touched(ask: Ask) -> None:
    device = Device("mid", accounts=ACCOUNTS)
    device.params.define("[ImageSource.I0.DayNight 7714]\nIrCutFilter = inside | enum inside,outside\n")
    with cameras(device) as [camera]:
        read = await ask(camera)
        assert read.ir_cut_filter is None and read.settable == ["day_night_shift_level"]
        with pytest.raises(Unsupported, match="it takes inside, outside"):
            await ask(camera, action="set", ir_cut_filter="day")
        assert updates(camera) == []


async def test_without_a_parameter_a_dome_is_told_by_ptz_cgi_and_the_result_says_that_nobody_checked(ask: Ask) -> None:
    device = Device("ptz", accounts=ACCOUNTS)
    device.params.undefine("PTZ.Various.V1.IrCutFilter")
    commands = "Available commands\n:\nwhoami=yes\nircutfilter=[on|off|auto]\n"
    device.faults.add("/axis-cgi/com/ptz.cgi", Fault("answer", count=2, response=Response.text(commands)))
    with cameras(device) as [camera]:
        read = await ask(camera)
        assert (read.api, read.ir_cut_filter, read.settable) == ("ptz.cgi", None, ["ir_cut_filter"])
        device.faults.clear()
        device.faults.add("/axis-cgi/com/ptz.cgi", Fault("answer", response=Response.text(commands)))
        device.faults.add("/axis-cgi/com/ptz.cgi", Fault("answer", response=Response.empty()))
        device.faults.add("/axis-cgi/com/ptz.cgi", Fault("answer", response=Response.text(commands)))
        entry = await ask(camera, action="set", ir_cut_filter="day")
        assert entry.outcome == "done" and "nobody checked" in entry.notes[0]
        assert "ircutfilter=on" in [one.query for one in camera.asked("/axis-cgi/com/ptz.cgi")][-2]


async def test_levels_are_kept(camera: Camera, new: Camera, ask: Ask) -> None:
    assert (await ask(camera, user="viewer")).ir_cut_filter == "auto"
    with pytest.raises(Forbidden):
        await ask(camera, user="viewer", action="set", ir_cut_filter="day")
    assert (await ask(camera, user="operator", action="set", ir_cut_filter="day")).outcome == "done"
    shown = await ask(new, user="viewer")
    assert shown.ir_cut_filter == "auto" and shown.day_night_dwell_time is None, "daynight.cgi is for operators"
    assert shown.notes[0].startswith("daynight.cgi could not be read")
    with pytest.raises(Forbidden):
        await ask(new, user="viewer", action="set", day_night_dwell_time=9)
    with pytest.raises(Unauthorized):
        await ask(new, user="operator", password="wrong")


@pytest.mark.parametrize(
    "kind", ["garbage", "truncate-json", "html", "empty", "both", "neither", "code-as-string", "404"]
)
async def test_a_day_night_api_that_answers_wrongly_is_a_clear_error(kind: Any, new: Camera, ask: Ask) -> None:
    new.device.faults.add(DAYNIGHT, Fault(kind, count=None))
    with pytest.raises(ToolError) as caught:
        await ask(new, action="set", ir_cut_filter="night", day_night_dwell_time=9)
    assert str(caught.value) and PASSWORD not in str(caught.value)
    assert updates(new) == [], "all is read and checked before anything is written"


async def test_a_device_without_a_filter_says_so(ask: Ask) -> None:
    with cameras("bare") as [camera], pytest.raises(Unsupported, match="has no IR-cut filter"):
        await ask(camera)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"action": "set"}, "action set changes something"),
        ({"ir_cut_filter": "day"}, "ir_cut_filter is for action set"),
        ({"action": "set", "ir_cut_filter": "on"}, "ir_cut_filter"),
        ({"action": "set", "day_night_dwell_time": 0.5}, "day_night_dwell_time"),
        ({"action": "set", "day_night_shift_level": 101}, "day_night_shift_level"),
        ({"action": "set", "autotune": True, "day_night_shift_level": 5}, "leave them out"),
    ],
)
async def test_wrong_parameters_are_named_before_anything_is_sent(
    params: dict[str, Any], said: str, camera: Camera, ask: Ask
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await ask(camera, **params)
    assert not camera.requests


def test_setting_is_a_change_without_approval() -> None:
    params = VapixDaynight(
        targets=["10.0.0.5", "10.0.0.6"], credentials="axis/yard", action="set", ir_cut_filter="auto"
    )
    assert params.safety() is Safety.CHANGE and not params.approval()


# --- parsers -------------------------------------------------------------------------------------------------------------

_keys = st.sampled_from([*CONFIGURATION.values(), "channel", "list", "x"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=5),
    max_leaves=12,
)


@given(_json, st.integers(0, 3))
def test_whatever_daynight_cgi_answers_is_read_or_refused(data: Any, channel: int) -> None:
    try:
        found = parse_configuration(data, channel)
        lacks, _ = parse_capabilities(data, channel)
    except (Nonsense, Missing):
        return
    assert set(found) <= set(CONFIGURATION) and lacks <= set(CONFIGURATION)
    for name, value in found.items():
        assert isinstance(value, bool if name == "autotune" else str if name == "night_filter" else (int, float))
        shown = DayNight.model_validate({"target": "a", "outcome": "done", name: value})
        assert getattr(shown, name) == value


def test_the_documented_answers_are_read() -> None:
    data = {
        "list": [
            {
                "channel": 0,
                "DayNightDwellTime": 5.0,
                "DayNightShiftLevel": 60,
                "Autotune": False,
                "NightFilter": "clear",
            }
        ]
    }
    assert parse_configuration(data, 0) == {
        "day_night_dwell_time": 5.0, "day_night_shift_level": 60, "autotune": False, "night_filter": "clear",
    }  # fmt: skip
    lacks, irpass = parse_capabilities([{"channel": 0, "AutotuneSupport": True, "NightDayShiftLevelSupport": False}], 0)
    assert lacks == {"night_day_shift_level"} and not irpass
    with pytest.raises(Missing, match="no day/night channel 2"):
        parse_configuration(data, 2)


@given(st.lists(st.sampled_from(["yes", "no", "on", "off", "auto", "maybe"]), unique=True))
def test_a_word_that_is_sent_is_one_the_camera_offers_and_means_what_was_asked(choices: list[str]) -> None:
    for asked, literal in words(choices).items():
        assert literal in choices and vision(literal) == asked
