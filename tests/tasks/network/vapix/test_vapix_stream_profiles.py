"""`vapix_stream_profiles` against simulated cameras of every generation, and its parsers against anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import DESTROYING, Asking, only

from deployments.demo.axis_camera import Fault, Response
from deployments.demo.axis_camera._api_profiles import add_profile, stored
from tasks.core.errors import (
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix import _profiles as profiles
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._profiles import Held
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix.vapix_stream_profiles import (
    StreamProfilesResult,
    VapixStreamProfiles,
    vapix_stream_profiles,
)

Ask = Callable[..., Awaitable[StreamProfilesResult]]
LOW = "videocodec=h264&resolution=640x360&fps=5"
CGI = "/axis-cgi/streamprofile.cgi"
PARAM = "/axis-cgi/param.cgi"


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask one camera or several: `await ask(camera, action="create", ...)`."""
    return asking(vapix_stream_profiles, user="operator")


# --- each generation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "api"),
    [
        ("ancient", "param.cgi"), ("old", "param.cgi"), ("9.80", "streamprofile.cgi"), ("mid", "streamprofile.cgi"),
        ("new", "streamprofile.cgi"), ("ptz", "streamprofile.cgi"),
    ],
)  # fmt: skip
async def test_a_profile_lives_from_create_to_remove_on_every_generation(ask: Ask, profile: str, api: str) -> None:
    with cameras(profile) as [camera]:
        factory = ["Quality"] if profile == "ancient" else []
        assert [one.name for one in only(await ask(camera)).profiles] == factory
        made = only(await ask(camera, action="create", name="map_low", parameters=LOW, description="for the map"))
        assert (made.api, made.before, made.outcome) == (api, None, CameraOutcome.DONE)
        assert made.after is not None and made.after.own
        assert (made.after.name, made.after.parameters) == ("map_low", LOW)
        assert made.after.description == "for the map [signalbox]"
        assert made.serial == camera.device.serial
        # What one API writes the other one shows: there is one state.
        group = f"StreamProfile.{stored(camera.device)['map_low']}"
        assert camera.device.params.get(f"{group}.Parameters") == LOW
        listed = only(await ask(camera))
        assert [one.name for one in listed.profiles] == [*factory, "map_low"] and listed.max_profiles == 26
        changed = only(await ask(camera, action="update", name="map_low", parameters="videocodec=jpeg&fps=1"))
        assert changed.before == made.after and changed.after is not None
        assert changed.after.parameters == "videocodec=jpeg&fps=1"
        assert changed.after.description == "for the map [signalbox]", "what is not named stays"
        gone = only(await ask(camera, action="remove", name="map_low"))
        assert gone.before == changed.after and gone.after is None
        assert list(stored(camera.device)) == factory and camera.most_in_flight == 1


async def test_profiles_are_kept_in_the_parameters_where_the_newer_api_is_only_listed(ask: Ask, mid: Camera) -> None:
    before = only(await ask(mid, action="create", name="map_low", parameters=LOW)).after
    mid.device.faults.add(CGI, Fault("404", count=None))
    listed = only(await ask(mid))
    assert listed.api == "param.cgi" and listed.profiles == [before]
    assert "streamprofile.cgi" in (listed.detail or "") and "HTTP 404" in (listed.detail or "")
    assert len([one for one in mid.requests if one.path == CGI and one.status == 404]) == 1
    changed = only(await ask(mid, action="update", name="map_low", parameters="videocodec=jpeg&fps=1"))
    assert changed.after is not None and changed.after.parameters == "videocodec=jpeg&fps=1"
    gone = only(await ask(mid, action="remove", name="map_low"))
    assert gone.after is None and stored(mid.device) == {}


async def test_no_other_api_is_tried_after_a_profile_was_sent(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("404", method="create"))
    with pytest.raises(Unsupported):
        await ask(mid, action="create", name="map_low", parameters=LOW)
    assert stored(mid.device) == {}


async def test_profiles_that_are_in_neither_place_are_none(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("404", count=None))
    unknown = Response.text("# Error: Error -1 getting param in group 'StreamProfile'\n")
    mid.device.faults.add(
        PARAM, Fault("answer", method="GET", skip=1, response=unknown)
    )  # the first asks for properties
    with pytest.raises(Unsupported, match=r"streamprofile\.cgi is not there"):
        await ask(mid)


async def test_a_device_without_video_has_no_profiles(ask: Ask) -> None:
    with cameras("bare") as [radar], pytest.raises(Unsupported, match="no stream profiles"):
        await ask(radar, user="root")


async def test_one_profile_can_be_listed_by_its_name(ask: Ask, mid: Camera) -> None:
    for name in ("a", "b"):
        add_profile(mid.device, name, LOW)
    assert [one.name for one in only(await ask(mid, name="b", user="viewer")).profiles] == ["b"]


async def test_several_cameras_get_the_same_profile_and_one_that_refuses_costs_its_entry_alone(ask: Ask) -> None:
    with cameras("mid", "new", "old") as [first, second, third]:
        add_profile(second.device, "map_low", LOW)
        second.device.params.set("Network.HTTP.AuthenticationPolicy", "digest")
        result = await ask(first, second, third, action="create", name="map_low", parameters=LOW)
        assert [one.outcome for one in result.cameras] == [
            CameraOutcome.DONE,
            CameraOutcome.REJECTED,
            CameraOutcome.DONE,
        ]
        assert "already" in (result.cameras[1].detail or "")
        assert result.headline() == "3 cameras: 2 done, 1 rejected"


# --- what is there already, and whose it is ----------------------------------------------------------------------------


async def test_an_existing_name_is_not_created_again(ask: Ask, mid: Camera) -> None:
    add_profile(mid.device, "map_low", LOW)
    with pytest.raises(Conflict, match=r"already \(not made here\)"):
        await ask(mid, action="create", name="map_low", parameters=LOW)
    assert not mid.asked(CGI, "create")


async def test_a_full_camera_is_not_asked_for_one_more(ask: Ask, mid: Camera) -> None:
    for number in range(26):
        add_profile(mid.device, f"p{number}", LOW)
    with pytest.raises(Conflict, match="no room"):
        await ask(mid, action="create", name="map_low", parameters=LOW)
    assert not mid.asked(CGI, "create")


async def test_a_name_that_is_not_there_is_not_updated_or_removed(ask: Ask, mid: Camera) -> None:
    add_profile(mid.device, "other", LOW)
    for params in ({"action": "remove"}, {"action": "update", "parameters": LOW}):
        with pytest.raises(NotFound, match="It has other"):
            await ask(mid, name="map_low", **params)


@pytest.mark.parametrize("profile", ["old", "mid"])
async def test_somebody_elses_profile_is_left_alone(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        add_profile(camera.device, "vms", LOW, "recorder")
        for params in ({"action": "remove"}, {"action": "update", "parameters": "fps=1"}):
            with pytest.raises(Refused, match="not made here"):
                await ask(camera, name="vms", **params)
        assert camera.device.params.get("StreamProfile.S0.Parameters") == LOW
        assert not [one for one in camera.requests if one.method == "POST" and one.path == PARAM]


async def test_somebody_elses_profile_is_changed_with_approval_and_stays_theirs(ask: Ask, mid: Camera) -> None:
    add_profile(mid.device, "vms", LOW, "recorder")
    approved = {"foreign": True, "confirm": f"{mid.address} vms", "policy": DESTROYING}
    changed = only(await ask(mid, action="update", name="vms", parameters="fps=1", **approved))
    assert changed.after is not None and changed.after.description == "recorder" and not changed.after.own
    changed = only(await ask(mid, action="update", name="vms", description="recorder 2", **approved))
    assert changed.after is not None and changed.after.description == "recorder 2" and not changed.after.own
    gone = only(await ask(mid, action="remove", name="vms", **approved))
    assert gone.after is None and stored(mid.device) == {}


async def test_a_profile_the_camera_came_with_stays_and_that_is_said(ask: Ask) -> None:
    with cameras("ancient") as [camera]:
        with pytest.raises(Rejected, match=r"does not remove Quality.*came with cannot be removed"):
            await ask(
                camera,
                action="remove",
                name="Quality",
                foreign=True,
                confirm=f"{camera.address} Quality",
                policy=DESTROYING,
            )
        assert "Quality" in stored(camera.device)


@pytest.mark.parametrize("confirm", [None, "{address}", "{address} vms2", "vms", "{address}  vms"])
async def test_without_the_exact_approval_nothing_is_sent(ask: Ask, mid: Camera, confirm: str | None) -> None:
    add_profile(mid.device, "vms", LOW)
    params = {"confirm": confirm.format(address=mid.address)} if confirm is not None else {}
    with pytest.raises(Refused, match="approval"):
        await ask(mid, action="remove", name="vms", foreign=True, policy=DESTROYING, **params)
    assert mid.requests == []


async def test_the_default_ceiling_refuses_to_touch_what_is_not_ours(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Refused, match="ceiling"):
        await ask(mid, action="remove", name="vms", foreign=True, confirm=f"{mid.address} vms")
    assert mid.requests == []


async def test_what_is_so_already_is_not_written(ask: Ask, mid: Camera) -> None:
    await ask(mid, action="create", name="map_low", parameters=LOW)
    same = only(await ask(mid, action="update", name="map_low", parameters="fps=5&videocodec=h264&resolution=640x360"))
    assert "already" in (same.detail or "") and not mid.asked(CGI, "update")


# --- levels and accounts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insufficient", ["401", "403", "json"])
async def test_a_viewer_lists_and_does_not_create(ask: Ask, mid: Camera, insufficient: Any) -> None:
    mid.device.insufficient = insufficient
    assert only(await ask(mid, user="viewer")).profiles == []
    with pytest.raises(ToolError) as caught:
        await ask(mid, user="viewer", action="create", name="map_low", parameters=LOW)
    # 2001 means a bad request in this API: by JSON alone a level cannot be told from it.
    assert isinstance(caught.value, Forbidden) or (insufficient == "json" and isinstance(caught.value, Rejected))
    assert stored(mid.device) == {}


async def test_a_wrong_password_is_tried_once_and_never_shown(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(mid, password="hunter2-secret")
    assert "hunter2" not in str(caught.value)
    assert len([one for one in mid.requests if one.credentials]) == 1


async def test_the_raised_level_is_change_for_own_profiles_and_destroy_for_others() -> None:
    base = {"targets": ["10.0.0.5"], "credentials": "axis/yard"}
    assert VapixStreamProfiles(**base).safety() is None  # type: ignore[arg-type]
    own = VapixStreamProfiles(**base, action="remove", name="x")  # type: ignore[arg-type]
    assert own.safety() is Safety.CHANGE and not own.approval()
    foreign = VapixStreamProfiles(**base, action="remove", name="x", foreign=True)  # type: ignore[arg-type]
    assert foreign.safety() is Safety.DESTROY and foreign.approval() and foreign.subject() == "10.0.0.5 x"


# --- parameters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"parameters": "videocodec=mjpeg"}, "called jpeg"),
        ({"parameters": "videocodec=h266"}, "one of h264"),
        ({"parameters": "fps=fast"}, "number from 0"),
        ({"parameters": "fps=5&fps=6"}, "given twice"),
        ({"parameters": "compression=101"}, "0 to 100"),
        ({"parameters": "resolution=640"}, "1920x1080"),
        ({"parameters": "resolution=640x360%26user=x"}, "1920x1080"),
        ({"parameters": "streamprofile=other"}, "does not belong"),
        ({"parameters": "recordingid=1"}, "does not belong"),
        ({"parameters": "text=hello"}, "10.6"),
        ({"parameters": "password=hunter2"}, "no stream argument"),
        ({"parameters": "user:pw@host"}, "name=value"),
        ({"parameters": "fps=5\r\nfps=6"}, "number from 0"),
        ({"parameters": ""}, "characters"),
        ({"name": "map low", "parameters": LOW}, "letters, digits"),
        ({"name": "../x", "parameters": LOW}, "letters, digits"),
        ({"parameters": LOW, "description": "a\nb"}, "description"),
        ({"parameters": LOW, "description": "x" * 120}, "description"),
        ({"name": None, "parameters": LOW}, "needs name"),
        ({}, "needs parameters"),
        ({"action": "update"}, "needs parameters or description"),
        ({"action": "remove", "parameters": LOW}, "remove takes name alone"),
        ({"action": "list", "parameters": LOW}, "list takes no"),
        ({"action": "remove", "foreign": True, "targets": ["127.0.0.1", "127.0.0.2"]}, "exactly one target"),
    ],
)
async def test_bad_input_is_refused_with_what_is_right_and_nothing_is_sent(
    ask: Ask, mid: Camera, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said) as caught:
        await ask(mid, **{"action": "create", "name": "map_low", **params})
    assert mid.requests == []
    if "hunter2" in str(params):
        assert "hunter2" not in str(caught.value).replace(str(params["parameters"]), "")


# --- what goes wrong -------------------------------------------------------------------------------------------------------


async def test_an_error_of_the_camera_says_what_it_means(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("answer", method="create", response=_error(1000)))
    with pytest.raises(Rejected, match="application error"):
        await ask(mid, action="create", name="map_low", parameters=LOW)
    mid.device.faults.add(CGI, Fault("answer", method="create", response=_error(2002)))
    with pytest.raises(Conflict):
        await ask(mid, action="create", name="map_low", parameters=LOW)


async def test_a_yes_that_changes_nothing_is_no_success(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("answer", method="create", response=_answer({})))
    with pytest.raises(Rejected, match="reading back"):
        await ask(mid, action="create", name="map_low", parameters=LOW)


async def test_what_the_camera_made_of_it_is_said(ask: Ask, mid: Camera) -> None:
    def other(name: str, value: str) -> None:
        if name.endswith(".Parameters") and value == LOW:
            mid.device.params.set(name, "videocodec=h264&resolution=640x360&fps=6")

    mid.device.params.watch("StreamProfile", other)
    made = only(await ask(mid, action="create", name="map_low", parameters=LOW))
    assert made.after is not None and made.after.parameters.endswith("fps=6")
    assert "something else" in (made.detail or "")


async def test_a_lost_answer_is_settled_by_reading_back(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("truncate", method="create", effect=True))
    made = only(await ask(mid, action="create", name="map_low", parameters=LOW))
    assert made.after is not None and "answer was lost" in (made.detail or "")
    assert len(mid.asked(CGI, "create")) == 1
    mid.device.faults.add(CGI, Fault("close", method="remove"))
    with pytest.raises(Unanswered):
        await ask(mid, action="remove", name="map_low")
    assert len(mid.asked(CGI, "remove")) == 1 and "map_low" in stored(mid.device)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("hang", Unreachable), ("garbage", Nonsense), ("html", Nonsense), ("empty", Nonsense), ("truncate-json", Nonsense),
        ("oversized", ToolError), ("gzip-bomb", ToolError), ("neither", Nonsense), ("both", ToolError), ("503", ToolError),
        ("500", ToolError), ("redirect", ToolError), ("code-as-string", ToolError),
    ],
)  # fmt: skip
async def test_whatever_comes_in_place_of_a_list_is_a_clear_error(
    ask: Ask, mid: Camera, fault: Any, error: type[ToolError]
) -> None:
    mid.device.faults.add(CGI, Fault(fault, count=None, method="list"))
    with pytest.raises(error):
        await ask(mid, action="create", name="map_low", parameters=LOW, timeout=1)
    assert not mid.asked(CGI, "create")


async def test_hostile_names_are_shown_harmless(ask: Ask, mid: Camera) -> None:
    add_profile(mid.device, "x", "fps=5&password=hunter2", "a\x1b[31m" + "b" * 100)
    mid.device.params.set("StreamProfile.S0.Name", "evil\x00\x1b]0;name")
    shown = only(await ask(mid)).profiles[0]
    assert "\x1b" not in shown.name + shown.description and "\x00" not in shown.name
    assert "hunter2" not in shown.parameters


async def test_profiles_of_256_cameras_would_fit_by_leaving_lists_to_the_report(ask: Ask) -> None:
    with cameras("mid", "mid", "mid") as three:
        for camera in three:
            for number in range(26):
                add_profile(camera.device, f"p{number}", "&".join(f"videozminfps={n}" for n in range(60)), "d" * 100)
        result = await ask(*three)
        assert result.report is not None and "profiles" in result.left_out
        assert [one.outcome for one in result.cameras] == [CameraOutcome.DONE] * 3


# --- the simulated camera answers as devices do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("create", {"streamProfile": [{"name": "a"}, {"name": "a"}]}, 2002), ("create", {"streamProfile": [{"name": "there"}]}, 2002),
        ("create", {"streamProfile": [{}]}, 2003), ("create", {}, 2003), ("create", {"streamProfile": [{"name": "a b"}]}, 2004),
        ("create", {"streamProfile": [{"name": f"p{number}"} for number in range(26)]}, 1000),
        ("update", {"streamProfile": [{"name": "a"}]}, 2006), ("remove", {"streamProfileName": [{"name": "a"}]}, 2006),
        ("list", {"streamProfileName": [{"name": "a"}]}, 2006), ("nothing", {}, 2005),
    ],
)  # fmt: skip
def test_stream_profiles_have_their_own_error_codes(
    mid: Camera, method: str, params: dict[str, Any], code: int
) -> None:
    add_profile(mid.device, "there", LOW)
    with httpx.Client(base_url=mid.url, auth=httpx.DigestAuth("operator", "pass"), trust_env=False) as client:
        answer = client.post(CGI, json={"apiVersion": "1.0", "method": method, "params": params})
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code) and list(stored(mid.device)) == ["there"]


def test_without_profiles_the_answer_has_no_list(mid: Camera) -> None:
    with httpx.Client(base_url=mid.url, auth=httpx.DigestAuth("viewer", "pass"), trust_env=False) as client:
        asked = {"apiVersion": "1.0", "method": "list", "params": {"streamProfileName": []}}
        assert client.post(CGI, json=asked).json()["data"] == {"maxProfiles": 26}


# --- parsers ---------------------------------------------------------------------------------------------------------------

KEYS = ["streamProfile", "name", "description", "parameters", "maxProfiles"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_a_list_of_profiles_or_none(data: Any) -> None:
    try:
        found = profiles.of_json(data)
    except ValueError:
        return
    assert all(one.shown().name.isprintable() for one in found)
    assert 0 < profiles.most_of_json(data) < 10_000


@given(
    st.dictionaries(st.from_regex(r"StreamProfile\.(S[0-9]{1,4}\.)?(Name|Description|Parameters|MaxGroups)"), st.text())
)
def test_any_parameters_are_profiles(values: dict[str, str]) -> None:
    for group, one in profiles.of_parameters(values).items():
        assert group.startswith("StreamProfile.S") and one.shown().parameters.isprintable()
    assert profiles.most_of_parameters(values) > 0


@given(st.text())
def test_checked_arguments_hold_nothing_that_could_be_injected(text: str) -> None:
    try:
        checked = profiles.check_parameters(text)
    except ValueError:
        return
    assert profiles.check_parameters(checked) == checked
    assert not set(checked) - set("abcdefghijklmnopqrstuvwxyz0123456789=&._")


def test_order_of_arguments_and_blanks_around_a_description_do_not_matter() -> None:
    assert Held("a", "d", "x=1&y=2").same_as(Held("a", "d ", "?y=2&x=1"))
    assert not Held("a", "d", "x=1").same_as(Held("a", "d", "x=2"))


def _answer(data: dict[str, Any]) -> Any:
    return Response.json({"apiVersion": "1.0", "method": "create", "data": data})


def _error(code: int) -> Any:
    return Response.json({"apiVersion": "1.0", "method": "create", "error": {"code": code, "message": "no"}})


async def test_a_change_under_an_unclear_answer_is_settled_by_reading_back(ask: Ask, mid: Camera) -> None:
    for effect in (False, True):
        mid.device.faults.add(CGI, Fault("html", method="create", effect=effect))
        making = ask(mid, action="create", name="lean", parameters="fps=5")
        if not effect:
            with pytest.raises(Nonsense):
                await making
        else:
            made = only(await making)
            assert made.after is not None and "reading back" in (made.detail or "")
