"""`vapix_overlay` against simulated cameras with dynamic overlays and with the old text, and its parsers against anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import Asking, only

from blocks.policy import ProbePolicy
from deployments.demo.axis_camera import Fault, Response
from deployments.demo.axis_camera._overlay_state import Overlays, overlay_texts
from tasks.core.errors import (
    Busy,
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
from tasks.network.vapix import _overlays as overlays
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._overlays_layer import LegacyLayer
from tasks.network.vapix._wire import Nonsense
from tasks.network.vapix.vapix_overlay import OverlayResult, VapixOverlay, vapix_overlay

Ask = Callable[..., Awaitable[OverlayResult]]
CGI = "/axis-cgi/dynamicoverlay/dynamicoverlay.cgi"
SLOTS = "/axis-cgi/dynamicoverlay.cgi"
PARAM = "/axis-cgi/param.cgi"
LOGO = "/etc/overlays/logo.png"


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask one camera or several: `await ask(camera, action="add_text", ...)`."""
    return asking(vapix_overlay, user="operator")


def held(camera: Camera) -> Overlays:
    found: Overlays = camera.device.slot(Overlays)
    return found


def put(camera: Camera, *texts: str) -> None:
    """Lay texts on the picture as another client would."""
    for text in texts:
        held(camera).add("text", {"camera": 1, "text": text})


# --- dynamic overlays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["9.80", "mid", "new", "ptz"])
async def test_a_text_lives_from_add_to_remove(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        assert only(await ask(camera)).overlays == []
        made = only(await ask(camera, action="add_text", text="Yard %F", position="bottomright", font_size=30))
        assert (made.api, made.before, made.outcome, made.detail) == (
            "dynamicoverlay.cgi",
            None,
            CameraOutcome.DONE,
            None,
        )
        assert made.after is not None and made.after.identity == 0
        assert (made.after.text, made.after.position, made.after.font_size) == ("Yard %F", "bottomRight", 30)
        assert overlay_texts(camera.device) == ["Yard %F"]
        changed = only(
            await ask(camera, action="set_text", identity=0, expect="Yard %F", text="Yard\nsouth", text_colour="red")
        )
        assert changed.before == made.after and changed.after is not None
        assert (changed.after.text, changed.after.text_colour) == ("Yard\nsouth", "red")
        assert changed.after.position == "bottomRight", "what is not named stays"
        gone = only(await ask(camera, action="remove", identity=0, expect="Yard\nsouth"))
        assert gone.before == changed.after and gone.after is None
        assert overlay_texts(camera.device) == [] and camera.most_in_flight == 1


async def test_a_position_may_be_a_point_and_the_cameras_rounding_is_no_difference(ask: Ask, mid: Camera) -> None:
    held(mid).rounding = 0.01
    made = only(await ask(mid, action="add_text", text="x", position="-0.512,0.25"))
    assert made.after is not None and made.after.position == "-0.51,0.25" and made.detail is None
    held(mid).rounding = 0.5
    made = only(await ask(mid, action="add_text", text="y", position="0.3,0.3"))
    assert made.after is not None and made.after.position == "0.5,0.5"
    assert "another position" in (made.detail or "")


async def test_visibility_is_asked_for_in_the_version_that_has_it(ask: Ask, mid: Camera) -> None:
    put(mid, "x")
    hidden = only(await ask(mid, action="set_text", expect="x", visible=False))
    assert hidden.after is not None and hidden.after.visible is False
    assert b'"1.7"' in mid.asked(CGI, "setText")[0].body and overlay_texts(mid.device) == []


async def test_an_image_that_is_on_the_camera_lies_on_the_picture(ask: Ask, mid: Camera) -> None:
    listed = only(await ask(mid))
    assert LOGO in listed.images
    made = only(await ask(mid, action="add_image", image=LOGO, position="topRight"))
    assert made.after is not None and (made.after.kind, made.after.path) == ("image", LOGO)
    other = listed.images[0]
    changed = only(await ask(mid, action="set_image", expect=LOGO, image=other))
    assert changed.after is not None and changed.after.path == other
    gone = only(await ask(mid, action="remove", expect=other))
    assert gone.after is None and held(mid).images == {}


async def test_an_image_that_is_not_on_the_camera_is_not_asked_for(ask: Ask, mid: Camera) -> None:
    with pytest.raises(NotFound, match=r"no overlay image.*logo\.png"):
        await ask(mid, action="add_image", image="/etc/passwd")
    assert not mid.asked(CGI, "addImage")


@pytest.mark.parametrize("profile", ["9.80", "mid"])
async def test_capabilities_are_read_however_they_are_spelled(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        put(camera, "x")
        found = only(await ask(camera, action="capabilities")).capabilities
        assert found is not None
        assert (found.slots_free, found.slots_per_text, found.max_text, found.max_font_size) == (299, 1, 512, 200)


async def test_overlays_of_one_view_can_be_listed(ask: Ask, mid: Camera) -> None:
    put(mid, "x")
    held(mid).add("text", {"camera": 2, "text": "second"})
    assert [one.text for one in only(await ask(mid, camera=2)).overlays] == ["second"]
    assert [one.text for one in only(await ask(mid)).overlays] == ["x", "second"]


async def test_a_view_that_is_not_there_is_said(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Rejected, match="no such view"):
        await ask(mid, action="add_text", text="x", camera=9)


async def test_a_full_camera_is_said(ask: Ask, mid: Camera) -> None:
    put(mid, *(f"t{number}" for number in range(300)))
    with pytest.raises(Conflict, match="no room"):
        await ask(mid, action="add_text", text="x")
    assert len(held(mid).texts) == 300


# --- the right one, or none ----------------------------------------------------------------------------------------------


async def test_after_a_restart_the_wrong_overlay_is_not_changed(ask: Ask, mid: Camera) -> None:
    put(mid, "a", "b", "c")
    held(mid).remove({"identity": 0})
    # What was 2 is 1 after the restart.
    mid.device.call(held(mid).renumber)
    with pytest.raises(Conflict, match="overlay 1 now, not 2"):
        await ask(mid, action="set_text", identity=2, expect="c", text="new")
    with pytest.raises(Conflict, match="not 0"):
        await ask(mid, action="remove", identity=0, expect="c")
    assert [one["text"] for one in held(mid).texts.values()] == ["b", "c"]
    assert not mid.asked(CGI, "setText") and not mid.asked(CGI, "remove")
    changed = only(await ask(mid, action="set_text", expect="c", text="new"))
    assert changed.before is not None and changed.before.identity == 1
    assert [one["text"] for one in held(mid).texts.values()] == ["b", "new"]


async def test_an_overlay_that_says_something_else_is_not_touched(ask: Ask, mid: Camera) -> None:
    put(mid, "a")
    with pytest.raises(Conflict, match=r"Overlay 0 does not say 'b'.*0 'a'"):
        await ask(mid, action="remove", identity=0, expect="b")
    with pytest.raises(NotFound, match="No overlay of the camera says 'b'"):
        await ask(mid, action="remove", expect="b")
    with pytest.raises(NotFound, match="no overlay 7"):
        await ask(mid, action="remove", identity=7, expect="b")
    assert not mid.asked(CGI, "remove")


async def test_of_two_that_say_the_same_the_identity_decides(ask: Ask, mid: Camera) -> None:
    put(mid, "a", "a")
    with pytest.raises(Conflict, match=r"identity \(0, 1\)"):
        await ask(mid, action="remove", expect="a")
    only(await ask(mid, action="remove", identity=1, expect="a"))
    assert list(held(mid).texts) == [0]


async def test_set_text_does_not_change_an_image(ask: Ask, mid: Camera) -> None:
    held(mid).add("image", {"camera": 1, "overlayPath": LOGO})
    with pytest.raises(NotFound):
        await ask(mid, action="set_text", identity=0, expect=LOGO, text="x")


async def test_what_is_so_already_is_not_written(ask: Ask, mid: Camera) -> None:
    put(mid, "a")
    same = only(await ask(mid, action="set_text", expect="a", text="a"))
    assert same.before == same.after and "already" in (same.detail or "") and not mid.asked(CGI, "setText")


async def test_another_clients_change_at_the_same_time_is_said(ask: Ask, mid: Camera) -> None:
    put(mid, "a", "b")
    real = Overlays.set

    def also(self: Overlays, kind: str, params: dict[str, Any]) -> None:
        real(self, kind, params)
        self.texts[1]["text"] = "somebody else's"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Overlays, "set", also)
        changed = only(await ask(mid, action="set_text", expect="a", text="c"))
    assert "Other overlays changed" in (changed.detail or "")


# --- slots ---------------------------------------------------------------------------------------------------------------


async def test_a_dynamic_slot_is_filled_read_and_shown(ask: Ask, mid: Camera) -> None:
    put(mid, "gate: #D2")
    filled = only(await ask(mid, action="set_slot", slot=2, text="open & shut"))
    assert (filled.slot_before, filled.slot) == ("", "open & shut")
    assert overlay_texts(mid.device) == ["gate: open & shut"]
    assert only(await ask(mid, action="get_slot", slot=2)).slot == "open & shut"
    again = only(await ask(mid, action="set_slot", slot=2, text="closed"))
    assert again.slot_before == "open & shut"


async def test_a_slot_that_keeps_its_text_is_no_success(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(SLOTS, Fault("answer", skip=1, response=Response.text("OK")))
    with pytest.raises(Rejected, match="still holds"):
        await ask(mid, action="set_slot", slot=1, text="x")


async def test_slots_of_a_camera_without_them_are_unsupported(ask: Ask, old: Camera) -> None:
    with pytest.raises(Unsupported, match="no dynamic text slots"):
        await ask(old, action="set_slot", slot=1, text="x")


# --- the old text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "old"])
async def test_the_old_text_lives_from_add_to_remove(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        made = only(await ask(camera, action="add_text", text="Yard =&+ %F", position="bottom", text_colour="white"))
        assert made.api == "param.cgi" and made.after is not None and made.after.text == "Yard =&+ %F"
        assert camera.device.params.get("Image.I0.Text.TextEnabled") == "yes"
        with pytest.raises(Conflict, match="has its one text already"):
            await ask(camera, action="add_text", text="other")
        changed = only(
            await ask(
                camera, action="set_text", expect="Yard =&+ %F", text="South", background_colour="semiTransparent"
            )
        )
        assert changed.after is not None and (changed.after.text, changed.after.position) == ("South", "bottom")
        assert changed.detail is None
        gone = only(await ask(camera, action="remove", expect="South"))
        assert gone.after is None and camera.device.params.get("Image.I0.Text.TextEnabled") == "no"
        assert only(await ask(camera)).overlays == []


@pytest.mark.parametrize(
    "params",
    [
        {"text": "a\nb"}, {"text": "x", "position": "topLeft"}, {"text": "x", "font_size": 20},
        {"text": "x", "text_colour": "red"}, {"text": "x", "outline_colour": "black"},
    ],
)  # fmt: skip
async def test_what_the_old_text_cannot_do_is_said_before_anything_is_written(
    ask: Ask, old: Camera, params: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported, match="no dynamic overlays"):
        await ask(old, action="add_text", **params)
    assert not [one for one in old.requests if one.method == "POST" and one.path == PARAM]


async def test_a_camera_with_an_old_text_has_one_slot_for_each_view(ask: Ask, old: Camera) -> None:
    found = only(await ask(old, action="capabilities")).capabilities
    assert found is not None and found.slots_free == 1
    with pytest.raises(NotFound, match="no view 2"):
        await ask(old, action="add_text", text="x", camera=2)


async def test_a_device_without_a_picture_has_no_overlays(ask: Ask) -> None:
    with cameras("bare") as [radar], pytest.raises(Unsupported, match="no overlays"):
        await ask(radar, user="root")


async def test_a_camera_that_lists_dynamic_overlays_and_has_them_not_is_asked_for_its_old_text(
    ask: Ask, mid: Camera
) -> None:
    mid.device.faults.add(CGI, Fault("404", count=None))
    made = only(await ask(mid, action="add_text", text="Yard", position="top"))
    assert made.api == "param.cgi" and made.after is not None and made.after.text == "Yard"
    assert made.detail is not None and "dynamicoverlay.cgi" in made.detail
    listed = await ask(mid)
    assert [one.text for one in only(listed).overlays] == ["Yard"] and "dynamicoverlay.cgi" in listed.headline()
    found = only(await ask(mid, action="capabilities"))
    assert found.api == "param.cgi" and found.capabilities is not None and found.capabilities.slots_per_text == 1
    gone = only(await ask(mid, action="remove", expect="Yard"))
    assert gone.after is None and mid.device.params.get("Image.I0.Text.TextEnabled") == "no"
    assert len(mid.asked(CGI)) == 4


async def test_a_camera_with_neither_says_what_is_wrong_with_the_one_it_lists(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("404", count=None))
    mid.device.faults.add(PARAM, Fault("answer", skip=1, count=None, response=Response.text("")))
    with pytest.raises(Unsupported, match=r"dynamicoverlay\.cgi.*404"):
        await ask(mid)


@pytest.mark.parametrize(("kind", "error"), [("503", Busy), ("html", Nonsense), ("both", Rejected)])
async def test_only_an_api_that_is_not_there_leaves_the_old_text(
    ask: Ask, mid: Camera, kind: Any, error: type[ToolError]
) -> None:
    mid.device.faults.add(CGI, Fault(kind, count=None))
    with pytest.raises(error):
        await ask(mid)


# --- fleets --------------------------------------------------------------------------------------------------------------


async def test_old_and_new_cameras_get_the_same_text_in_one_run(ask: Ask) -> None:
    with cameras("mid", "old") as [mid, old]:
        result = await ask(mid, old, action="add_text", text="Yard", position="top")
        assert [one.outcome for one in result.cameras] == [CameraOutcome.DONE] * 2
        assert [one.api for one in result.cameras] == ["dynamicoverlay.cgi", "param.cgi"]
        result = await ask(mid, old, action="set_text", expect="Yard", text="Gate")
        assert overlay_texts(mid.device) == overlay_texts(old.device) == ["Gate"]
        assert result.headline() == "2 cameras: 2 done"


# --- levels, accounts, parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("insufficient", ["401", "403"])
async def test_a_viewer_may_not_touch_overlays(ask: Ask, mid: Camera, insufficient: Any) -> None:
    mid.device.insufficient = insufficient
    with pytest.raises(Forbidden):
        await ask(mid, user="viewer", action="add_text", text="x")
    assert held(mid).texts == {}


async def test_a_wrong_password_is_tried_once_and_never_shown(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(mid, password="hunter2-secret")
    assert "hunter2" not in str(caught.value)
    assert len([one for one in mid.requests if one.credentials]) == 1


async def test_changes_are_refused_below_their_level(ask: Ask, mid: Camera) -> None:
    probing = ProbePolicy(ceiling="probe", host_packets_per_second=0)
    with pytest.raises(Refused, match="ceiling"):
        await ask(mid, action="add_text", text="x", policy=probing)
    assert mid.requests == []
    assert only(await ask(mid, policy=probing)).overlays == []
    given = {"targets": ["10.0.0.5"], "credentials": "axis/yard", "action": "remove", "expect": "x"}
    assert VapixOverlay.model_validate(given).safety() is Safety.CHANGE


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"action": "add_text"}, "needs text"),
        ({"action": "add_text", "text": "x\x07"}, "control characters"),
        ({"action": "add_text", "text": "x" * 513}, "1 to 512"),
        ({"action": "add_text", "text": ""}, "1 to 512"),
        ({"action": "add_text", "text": "x", "position": "middle"}, "topRight"),
        ({"action": "add_text", "text": "x", "position": "1.5,0"}, "topRight"),
        ({"action": "add_text", "text": "x", "expect": "y"}, "takes no expect"),
        ({"action": "set_text", "identity": 0, "text": "x"}, "needs expect"),
        ({"action": "set_text", "expect": "x"}, "needs what is to change"),
        ({"action": "set_image", "expect": "x", "text": "y"}, "takes no text"),
        ({"action": "remove", "identity": 0}, "needs expect"),
        ({"action": "list", "text": "x"}, "takes no text"),
        ({"action": "set_slot", "text": "x"}, "needs slot"),
        ({"action": "set_slot", "slot": 17, "text": "x"}, "slot"),
        ({"action": "remove", "expect": "x", "targets": ["127.0.0.1", "127.0.0.2"]}, "exactly one target"),
        ({"action": "add_image", "image": LOGO, "targets": ["127.0.0.1", "127.0.0.2"]}, "exactly one target"),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_with_what_is_right_and_nothing_is_sent(
    ask: Ask, mid: Camera, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await ask(mid, **params)
    assert mid.requests == []


# --- what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (300, Conflict, "300"), (302, NotFound, "302"), (303, Rejected, "position"), (304, Rejected, "this text"),
        (101, Rejected, "internal"), (100, Unsupported, "100"), (999, Rejected, "999"),
    ],
)  # fmt: skip
async def test_an_error_of_the_camera_says_what_it_means(
    ask: Ask, mid: Camera, code: int, error: type[ToolError], said: str
) -> None:
    answer = Response.json({"apiVersion": "1.7", "error": {"code": code, "message": "no"}})
    mid.device.faults.add(CGI, Fault("answer", method="addText", response=answer))
    with pytest.raises(error, match=said):
        await ask(mid, action="add_text", text="x")


async def test_a_yes_that_changes_nothing_is_no_success(ask: Ask, mid: Camera) -> None:
    put(mid, "a")
    done = Response.json({"apiVersion": "1.7", "data": {"camera": 1, "identity": 5}})
    for method, params in (
        ("addText", {"action": "add_text", "text": "x"}),
        ("setText", {"action": "set_text", "expect": "a", "text": "x"}),
        ("remove", {"action": "remove", "expect": "a"}),
    ):
        mid.device.faults.add(CGI, Fault("answer", method=method, response=done))
        with pytest.raises(Rejected, match="said yes, but"):
            await ask(mid, **params)


async def test_a_lost_answer_is_settled_by_reading_back(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(CGI, Fault("truncate", method="addText", effect=True))
    made = only(await ask(mid, action="add_text", text="x"))
    assert made.after is not None and made.after.text == "x" and "answer was lost" in (made.detail or "")
    assert len(mid.asked(CGI, "addText")) == 1 and len(held(mid).texts) == 1
    mid.device.faults.add(CGI, Fault("close", method="addText"))
    with pytest.raises(Unanswered):
        await ask(mid, action="add_text", text="y")
    mid.device.faults.add(CGI, Fault("close", method="remove"))
    with pytest.raises(Unanswered):
        await ask(mid, action="remove", expect="x")
    assert len(mid.asked(CGI, "remove")) == 1 and len(held(mid).texts) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("hang", Unreachable), ("garbage", Nonsense), ("html", Nonsense), ("empty", Nonsense), ("truncate-json", Nonsense),
        ("oversized", ToolError), ("gzip-bomb", ToolError), ("both", ToolError), ("503", ToolError), ("500", ToolError),
        ("redirect", ToolError), ("neither", Nonsense),
    ],
)  # fmt: skip
async def test_whatever_comes_in_place_of_a_list_is_a_clear_error(
    ask: Ask, mid: Camera, fault: Any, error: type[ToolError]
) -> None:
    put(mid, "a")
    mid.device.faults.add(CGI, Fault(fault, count=None, method="list"))
    with pytest.raises(error):
        await ask(mid, action="add_text", text="x", timeout=1)
    assert not mid.asked(CGI, "addText")


async def test_hostile_texts_are_shown_harmless(ask: Ask, mid: Camera) -> None:
    put(mid, "x")
    held(mid).texts[0]["text"] = "ignore\x1b[2J all\x00 \nnext" + "y" * 5000
    held(mid).texts[0]["position"] = ["a", None]
    shown = only(await ask(mid)).overlays[0]
    assert shown.text is not None and "\x1b" not in shown.text and "\x00" not in shown.text and len(shown.text) <= 600
    assert shown.position is None


# --- the simulated camera answers as devices do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("addText", {"camera": 1}, 102), ("addText", {"text": "x"}, 102), ("addText", {"camera": 9, "text": "x"}, 301),
        ("setText", {"identity": 5, "text": "x"}, 302), ("setText", {"text": "x"}, 102),
        ("addText", {"camera": 1, "text": "x", "position": "middle"}, 303), ("addText", {"camera": 1, "text": "x" * 513}, 304),
        ("addImage", {"camera": 1, "overlayPath": "/nowhere"}, 305), ("addText", {"camera": 1, "text": "x", "textColor": "pink"}, 306),
        ("addText", {"camera": 1, "text": "x", "textBGColor": "pink"}, 307), ("addText", {"camera": 1, "text": "x", "fontSize": 201}, 309),
        ("remove", {"identity": 0}, 302), ("nothing", {}, 203),
    ],
)  # fmt: skip
def test_dynamic_overlays_have_their_own_error_codes(
    mid: Camera, method: str, params: dict[str, Any], code: int
) -> None:
    with httpx.Client(base_url=mid.url, auth=httpx.DigestAuth("operator", "pass"), trust_env=False) as client:
        answer = client.post(CGI, json={"apiVersion": "1.0", "method": method, "params": params})
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code) and held(mid).texts == {}


async def test_a_restart_gives_overlays_new_numbers_from_0(ask: Ask, mid: Camera) -> None:
    put(mid, "a", "b", "c")
    held(mid).remove({"identity": 1})
    mid.device.reboot(down=0.2, starting=0.1)
    while not (mid.device.ready and mid.device.boots):
        await asyncio.sleep(0.05)
    assert [(one.identity, one.text) for one in only(await ask(mid)).overlays] == [(0, "a"), (1, "c")]
    held(mid).add("text", {"camera": 1, "text": "d"})
    assert sorted(held(mid).texts) == [0, 1, 2]


# --- parsers ---------------------------------------------------------------------------------------------------------------

KEYS = [
    "imageFiles", "imageOverlays", "textOverlays", "camera", "identity", "text", "position", "fontSize", "visible",
    "overlayPath", "numberAvailableSlots", "maxTextLength",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
ENTRIES = st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8), max_size=4)


@given(JSON)
def test_any_json_is_a_list_of_overlays_or_none(data: Any) -> None:
    overlays.capabilities_of(data)
    try:
        found, images = overlays.of_json(data)
    except ValueError:
        return
    assert all(one.identity >= 0 for one in found) and all(isinstance(image, str) for image in images)


@given(st.dictionaries(st.sampled_from(["textOverlays", "imageOverlays"]), ENTRIES))
def test_any_overlay_is_read_or_refused(data: Any) -> None:
    try:
        found, _ = overlays.of_json(data)
    except ValueError:
        return
    assert len({one.identity for one in found}) == len(found)


@given(st.dictionaries(st.from_regex(r"Image\.I[0-9]{1,2}\.Text\.(String|TextEnabled|Position)"), st.text()))
def test_any_parameters_are_old_texts(values: dict[str, str]) -> None:
    for one in overlays.of_legacy(values):
        assert one.camera == one.identity + 1


@given(st.text())
def test_a_checked_position_is_a_word_or_a_point_on_the_picture(text: str) -> None:
    try:
        checked = overlays.check_position(text)
    except ValueError:
        return
    spelled = overlays.position_for_json(checked)
    assert spelled in overlays.ASKED_POSITIONS or (
        isinstance(spelled, list) and all(-1 <= part <= 1 for part in spelled)
    )


async def test_a_change_under_an_unclear_answer_is_settled_by_reading_back(ask: Ask, mid: Camera) -> None:
    put(mid, "a")
    mid.device.faults.add(CGI, Fault("html", method="setText"))
    with pytest.raises(Nonsense):
        await ask(mid, action="set_text", expect="a", text="b")
    mid.device.faults.add(CGI, Fault("html", method="setText", effect=True))
    changed = only(await ask(mid, action="set_text", expect="a", text="b"))
    assert changed.after is not None and changed.after.text == "b"
    assert "web page" in (changed.detail or "") and "reading back" in (changed.detail or "")


async def test_an_old_text_that_was_refused_in_part_is_told(ask: Ask, old: Camera) -> None:
    await ask(old, action="add_text", text="a")
    old.device.faults.add(PARAM, Fault("param-error", method="POST", effect=True))
    changed = only(await ask(old, action="set_text", expect="a", text="b", position="bottom"))
    assert changed.after is not None and changed.after.text == "b" and "says no" in (changed.detail or "")


async def test_parameters_that_are_no_texts_are_no_overlays() -> None:
    class Odd:
        asked = "camera7"

        async def parameters(self, *groups: str) -> dict[str, str]:
            return {"Image": "x", "Image.Ix.Text.String": "a", "Image.I0.Text.String": "b"}

    layer = LegacyLayer(Odd())  # type: ignore[arg-type]
    assert (await layer.capabilities()).slots_free == 0 and [one.text for one in await layer.read()] == ["b"]
    with pytest.raises(NotFound, match="It has 1"):
        await layer.add(
            2, VapixOverlay(targets=["192.0.2.7"], credentials="axis/a", action="add_text", text="c").look(), []
        )
