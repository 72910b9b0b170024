"""`vapix_imaging` against simulated cameras of all generations."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.axis_camera import ACCOUNTS, PASSWORD, Camera, cameras
from lab.axis_camera.asking import DESTROYING, Asking, only, updates, values

from deployments.demo.axis_camera import Device, Fault, find_profile, self_signed
from deployments.demo.axis_camera._api_media import Media
from tasks.core.errors import (
    Forbidden,
    InvalidParameters,
    Refused,
    Rejected,
    ToolError,
    ToolTimeout,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.core.models import Safety
from tasks.network.vapix._imaging_change import Change, check_value, judged, same, switch_literal
from tasks.network.vapix._imaging_settings import PLACES, found
from tasks.network.vapix._wire import Definition, Nonsense
from tasks.network.vapix.vapix_imaging import Imaging, VapixImaging, vapix_imaging

PARAM = "/axis-cgi/param.cgi"
SENSOR = "ImageSource.I0.Sensor"
Ask = Callable[..., Awaitable[Imaging]]


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask cameras: of one its entry, of several the whole result."""
    ask_all = asking(vapix_imaging, scheme="https", timeout=3)

    async def run(*on: Camera, **params: Any) -> Any:
        result = await ask_all(*on, **params)
        assert PASSWORD not in result.model_dump_json().replace("bypass", "")
        return only(result) if len(on) == 1 else result

    return run


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "mid", "new", "ptz"])
async def test_every_generation_tells_its_settings_and_takes_a_change_that_can_be_undone(
    profile: str, ask: Ask
) -> None:
    with cameras(profile) as [camera]:
        read = {setting.name: setting for setting in (await ask(camera)).settings}
        assert (read["brightness"].value, read["brightness"].minimum, read["brightness"].maximum) == ("50", 0, 100)
        assert "auto" in read["white_balance"].choices and set(read["wdr"].choices) == {"on", "off"}
        flipped = read["wdr"].value == "off"
        changed = await ask(camera, action="set", brightness=61, wdr=flipped)
        assert changed.outcome == "done" and changed.api == "param.cgi"
        assert values(changed) == {
            "brightness": ("50", "61"),
            "wdr": (read["wdr"].value, "on" if flipped else "off"),
        }
        assert camera.device.params.get(f"{SENSOR}.Brightness") == "61"
        undo = {change.setting: change.before for change in changed.changes}
        undone = await ask(camera, action="set", brightness=int(str(undo["brightness"])), wdr=undo["wdr"] == "on")
        assert {name: after for name, (_, after) in values(undone).items()} == undo
        assert camera.device.errors == [] and camera.most_in_flight == 1


async def test_what_an_old_camera_does_not_have_is_said_and_nothing_is_sent(ask: Ask) -> None:
    with cameras("ancient") as [camera]:
        with pytest.raises(Unsupported, match="has no scene_profile; it has: brightness"):
            await ask(camera, action="set", scene_profile="vivid", brightness=70)
        assert updates(camera) == [] and camera.device.params.get(f"{SENSOR}.Brightness") == "50"


async def test_analogue_models_keep_contrast_and_saturation_elsewhere(ask: Ask) -> None:
    device = Device("ancient", accounts=ACCOUNTS)
    device.params.undefine(SENSOR)
    device.params.define("[ImageSource.I0.Video 7744]\nContrast = 50 | int 0..100\nSaturation = 50 | int 0..100\n")
    with cameras(device) as [camera]:
        changed = await ask(camera, action="set", contrast=40, color_level=60)
        assert values(changed) == {"contrast": ("50", "40"), "color_level": ("50", "60")}
        assert {change.parameter for change in changed.changes} == {
            "ImageSource.I0.Video.Contrast",
            "ImageSource.I0.Video.Saturation",
        }


async def test_a_value_outside_the_cameras_range_is_refused_before_anything_is_sent(camera: Camera, ask: Ask) -> None:
    camera.device.params.define(f"[{SENSOR} 7714]\nWDRLevel = 2 | int 1..3\n")
    with pytest.raises(Rejected, match=r"wdr_level takes 1 to 3 on this camera, not 4\. Nothing was changed"):
        await ask(camera, action="set", wdr_level=4, brightness=10)
    with pytest.raises(Rejected, match=r"white_balance takes auto, .* not moonlight"):
        await ask(camera, action="set", white_balance="moonlight")
    assert updates(camera) == []


async def test_a_read_only_setting_is_refused(camera: Camera, ask: Ask) -> None:
    camera.device.params.define(f"[{SENSOR} 7714]\nSharpness = 50 | int 0..100 readonly\n")
    assert next(one for one in (await ask(camera)).settings if one.name == "sharpness").readonly
    with pytest.raises(Rejected, match="sharpness is read-only"):
        await ask(camera, action="set", sharpness=60)
    assert updates(camera) == []


async def test_a_value_that_is_taken_and_ignored_is_found_out_by_reading_back(camera: Camera, ask: Ask) -> None:
    """The camera's definitions offer a scene profile that it then does not set: it says OK all the same."""
    name = "ImageSource.I0.SceneProfile"
    camera.device.params.define(
        "[ImageSource.I0 7714]\nSceneProfile = forensic | enum forensic,vivid,indoor | Scene profile\n"
    )
    allowed = camera.device.params.definitions[name]
    camera.device.params.watch(name, lambda _, value: camera.device.params.set(name, "forensic"))
    assert allowed.allows("indoor")
    entry = await ask(camera, action="set", scene_profile="indoor", brightness=60)
    assert entry.outcome == "rejected"
    assert entry.detail == (
        "The camera took it and did not do it: scene_profile is still forensic. Not tried after that: brightness."
    )
    assert values(entry) == {"scene_profile": ("forensic", "forensic")}
    assert len(updates(camera)) == 1, "what came after a refusal is not sent"


async def test_what_changes_along_with_a_scene_profile_is_told(camera: Camera, ask: Ask) -> None:
    params = camera.device.params
    params.watch("ImageSource.I0.SceneProfile", lambda _, value: params.set(f"{SENSOR}.ColorLevel", 70))
    entry = await ask(camera, action="set", scene_profile="vivid")
    assert values(entry) == {"scene_profile": ("forensic", "vivid"), "color_level": ("50", "70")}
    assert entry.outcome == "done" and entry.notes == ["color_level changed along: 50 before, 70 now."]


async def test_a_value_that_the_camera_brings_into_its_range_is_noted(camera: Camera, ask: Ask) -> None:
    params = camera.device.params
    params.watch(f"{SENSOR}.MaxGain", lambda name, value: params.set(name, min(int(value), 80)))
    params.set(f"{SENSOR}.MaxGain", 40)
    entry = await ask(camera, action="set", max_gain=90)
    assert entry.outcome == "done" and values(entry) == {"max_gain": ("40", "80")}
    assert entry.notes == ["max_gain: asked for 90, the camera made it 80."]


async def test_when_only_some_of_it_was_taken_the_result_says_which(camera: Camera, ask: Ask) -> None:
    """Each parameter of a request stands alone: what was set stays set, and has to be told for an undo."""
    params = camera.device.params
    params.definitions[f"{SENSOR}.Contrast"] = params.definitions["Properties.Image.Format"]
    params.definitions[f"{SENSOR}.Contrast"] = type(params.definitions[f"{SENSOR}.Brightness"])(
        kind="int", security="7717", minimum=0, maximum=100
    )
    entry = await ask(camera, action="set", brightness=60, contrast=60)
    assert entry.outcome == "rejected" and "contrast is still 50" in str(entry.detail)
    assert values(entry) == {"brightness": ("50", "60"), "contrast": ("50", "50")}


async def test_nothing_is_written_when_it_is_so_already(camera: Camera, ask: Ask) -> None:
    entry = await ask(camera, action="set", brightness=50)
    assert entry.outcome == "done" and entry.notes == ["It was so already; nothing was sent."]
    assert updates(camera) == []


async def test_a_viewer_reads_but_cannot_change(camera: Camera, ask: Ask) -> None:
    assert (await ask(camera, user="viewer")).settings
    with pytest.raises(Forbidden):
        await ask(camera, user="viewer", action="set", brightness=60)
    assert camera.device.params.get(f"{SENSOR}.Brightness") == "50"


async def test_a_viewer_of_an_old_camera_is_told_why_there_are_no_settings(ask: Ask) -> None:
    with cameras("ancient") as [camera]:  # noqa: SIM117
        with pytest.raises(Unsupported, match="account is viewer: old cameras show settings to operators only"):
            await ask(camera, user="viewer", action="set", brightness=60)


async def test_a_wrong_password_is_tried_once(camera: Camera, ask: Ask) -> None:
    with pytest.raises(Unauthorized) as caught:
        await ask(camera, password="not-the-password")
    assert "not-the-password" not in str(caught.value)
    assert sum(1 for one in camera.requests if one.credentials) == 1


async def test_a_device_without_a_picture_says_so(ask: Ask) -> None:
    with cameras("bare") as [camera], pytest.raises(Unsupported, match="has no image source 0"):
        await ask(camera)
    with cameras("mid") as [camera], pytest.raises(Unsupported, match="has no image source 9"):
        await ask(camera, source=9)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("hang", Unreachable), ("close", ToolError), ("garbage", Nonsense), ("html", Nonsense), ("doctype", ToolError),
        ("truncate", ToolError), ("503", ToolError), ("500", ToolError), ("404", Unsupported), ("empty", ToolError),
        ("oversized", Nonsense), ("redirect", ToolError), ("param-error", ToolError),
    ],
)  # fmt: skip
async def test_a_camera_that_answers_wrongly_is_a_clear_error_and_is_not_written_to(
    kind: Any, expected: type[ToolError], camera: Camera, ask: Ask
) -> None:
    camera.device.faults.add(PARAM, Fault(kind, count=None, size=4 << 20))
    with pytest.raises(expected) as caught:
        await ask(camera, action="set", brightness=60, timeout=1 if kind == "hang" else 10)
    assert not isinstance(caught.value, (ToolTimeout, InvalidParameters)) and PASSWORD not in str(caught.value)
    assert updates(camera) == [] and camera.device.params.get(f"{SENSOR}.Brightness") == "50"


async def test_an_answer_that_is_lost_while_writing_is_not_sent_twice_and_the_old_values_are_told(
    camera: Camera, ask: Ask
) -> None:
    camera.device.faults.add(PARAM, Fault("close", effect=True, method="POST"))
    with pytest.raises(Unanswered, match="Values before: brightness=50") as caught:
        await ask(camera, action="set", brightness=60)
    assert not caught.value.retryable and len(updates(camera)) == 1
    assert camera.device.params.get(f"{SENSOR}.Brightness") == "60"


@pytest.mark.parametrize("effect", [True, False])
async def test_an_answer_to_a_change_that_says_nothing_is_settled_by_reading_back(
    effect: bool, camera: Camera, ask: Ask
) -> None:
    camera.device.faults.add(PARAM, Fault("html", effect=effect, method="POST"))
    if not effect:
        with pytest.raises(Nonsense, match="Nothing was changed"):
            await ask(camera, action="set", brightness=60)
        return
    entry = await ask(camera, action="set", brightness=60)
    assert entry.outcome == "rejected" and "does not say whether it took that" in str(entry.detail)
    assert values(entry) == {"brightness": ("50", "60")}


async def test_hostile_words_of_a_device_are_cut_and_lose_their_control_characters(camera: Camera, ask: Ask) -> None:
    camera.device.params.set(f"{SENSOR}.AspectRatio", "x\x7f\x9b31m" + "A" * 5000)
    shown = (await ask(camera)).others[f"{SENSOR}.AspectRatio"]
    assert len(shown) <= 90 and shown.isprintable()


async def test_settings_are_read_also_where_the_camera_cannot_say_what_they_take(camera: Camera, ask: Ask) -> None:
    camera.device.faults.add(PARAM, Fault("garbage", skip=1, count=None))
    entry = await ask(camera)
    assert entry.outcome == "done" and next(one for one in entry.settings if one.name == "brightness").value == "50"
    assert "does not say what its settings take" in entry.notes[0]
    with pytest.raises(Nonsense):
        await ask(camera, action="set", brightness=60)
    assert updates(camera) == []


async def test_several_cameras_are_changed_and_one_that_cannot_costs_its_own_entry(ask: Ask) -> None:
    with cameras("mid", "bare", "9.80", "mid", identity=self_signed("axis-fleet")) as several:
        several[3].device.faults.add(PARAM, Fault("hang", count=None))
        result: Any = await ask(*several, action="set", sharpness=55, timeout=2)
    assert [str(one.outcome) for one in result.cameras] == ["done", "unsupported", "done", "unreachable"]
    assert result.headline() == "4 cameras: 2 done, 1 unreachable, 1 unsupported"
    assert [one.device.params.get(f"{SENSOR}.Sharpness") for one in several] == ["55", "", "55", "50"]


async def test_what_many_cameras_say_fits_the_ledger_and_is_whole_in_a_file(ask: Ask) -> None:
    with cameras(*["mid"] * 20, identity=self_signed("axis-fleet")) as several:
        result: Any = await ask(*several)
    assert len(result.model_dump_json()) < 64 << 10 and len(result.cameras) == 20
    assert result.report is not None and result.report.size_bytes > 64 << 10 and "others" in result.left_out
    assert {str(one.outcome) for one in result.cameras} == {"done"}


# --- safety ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def protected() -> Iterator[Camera]:
    mid = find_profile("mid")
    device = Device(dataclasses.replace(mid, features=mid.features | {"sensor-protector"}), accounts=ACCOUNTS)
    with cameras(device) as [one]:
        yield one


async def test_taking_the_picture_away_is_destruction_and_needs_approval(protected: Camera, ask: Ask) -> None:
    closing = {"action": "set", "sensor_protector": "close"}
    with pytest.raises(Refused, match="destroy"):
        await ask(protected, **closing, confirm=f"{protected.address} sensor_protector")
    with pytest.raises(Refused, match=f"{protected.address} sensor_protector"):
        await ask(protected, policy=DESTROYING, **closing, confirm=protected.address)
    assert not protected.requests, "refused before anything was sent"
    entry = await ask(protected, policy=DESTROYING, **closing, confirm=f"{protected.address} sensor_protector")
    assert values(entry) == {"sensor_protector": ("open", "close")} and protected.device.slot(Media).black
    assert values(await ask(protected, action="set", sensor_protector="open")) == {
        "sensor_protector": ("close", "open")
    }


async def test_turning_the_picture_needs_approval_since_masks_were_drawn_for_the_other_one(
    camera: Camera, ask: Ask
) -> None:
    for turn in ({"mirror": True}, {"rotation": 180}):
        with pytest.raises(Refused, match="needs approval"):
            await ask(camera, action="set", **turn)
    entry = await ask(camera, action="set", mirror=True, rotation=180, confirm=camera.address)
    assert values(entry) == {"mirror": ("no", "yes"), "rotation": ("0", "180")}
    assert camera.device.params.get("Image.I0.Appearance.Rotation") == "180"


def test_only_a_change_is_more_than_a_probe() -> None:
    def safety(**given: Any) -> Safety | None:
        return VapixImaging(targets=["10.0.0.5"], credentials="axis/yard", **given).safety()

    assert safety() is None
    assert safety(action="set", brightness=1) is Safety.CHANGE
    assert safety(action="set", sensor_protector="open") is Safety.CHANGE
    assert safety(action="set", sensor_protector="close") is Safety.DESTROY


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"action": "set"}, "give at least one, such as brightness=55"),
        ({"brightness": 4}, "brightness is for action set"),
        ({"action": "set", "brightness": 101}, "brightness"),
        ({"action": "set", "white_balance": "auto&root.Network.SSH.Enabled=yes"}, "white_balance"),
        ({"action": "set", "min_gain": 60, "max_gain": 50}, "min_gain must not be more"),
        ({"action": "set", "rotation": 45}, "rotation"),
        ({"action": "set", "Network.SSH.Enabled": "yes"}, "no such parameter"),
        ({"action": "set", "mirror": True, "targets": ["10.0.0.5", "10.0.0.6"]}, "exactly one target"),
        ({"action": "set", "sensor_protector": "close", "brightness": 5}, "goes alone"),
    ],
)
async def test_wrong_parameters_are_named_before_anything_is_sent(
    params: dict[str, Any], words: str, camera: Camera, ask: Ask
) -> None:
    with pytest.raises(InvalidParameters, match=words):
        await ask(camera, **params)
    assert not camera.requests


# --- what a camera says it takes ----------------------------------------------------------------------------------------

_definitions = st.builds(
    Definition,
    name=st.just("Some.Name"),
    value=st.text(max_size=10),
    type=st.sampled_from(["int", "enum", "bool", "string"]),
    choices=st.lists(st.text(max_size=8), max_size=4).map(tuple),
    minimum=st.none() | st.integers(-1000, 1000),
    maximum=st.none() | st.integers(-1000, 1000),
    maxlen=st.none() | st.integers(0, 20),
    readonly=st.booleans(),
)


@given(_definitions, st.text(max_size=30))
def test_whatever_a_definition_says_a_value_is_either_right_or_refused_in_words(
    definition: Definition, value: str
) -> None:
    try:
        check_value("brightness", definition, value)
    except Rejected:
        return
    assert not definition.readonly and (not definition.choices or value in definition.choices)
    if definition.minimum is not None:
        assert float(value) >= definition.minimum


@given(_definitions, st.booleans())
def test_a_switch_is_one_only_with_both_words(definition: Definition, on: bool) -> None:
    try:
        word = switch_literal("wdr", definition, on)
    except Unsupported:
        return
    assert word in definition.choices and word in ({"yes", "on", "true"} if on else {"no", "off", "false"})


@given(st.text(max_size=12) | st.integers() | st.booleans() | st.none(), st.text(max_size=12))
def test_comparing_values_never_fails_and_is_symmetric(one: Any, other: str) -> None:
    assert same(one, one) and same(one, other) == same(other, one)


@given(
    st.lists(
        st.builds(
            Change, setting=st.just("x"), before=st.integers(0, 3), asked=st.integers(0, 3), after=st.integers(0, 3)
        ),
        max_size=4,
    )
)
def test_a_refusal_is_told_exactly_when_something_asked_for_stayed_as_it_was(changes: list[Change]) -> None:
    written = judged(changes)
    stayed = any(change.after != change.asked and change.after == change.before for change in changes)
    assert (written.refused is not None) == stayed and written.changes == changes


def test_every_setting_is_a_parameter_of_the_picture_and_of_nothing_else() -> None:
    fields = set(VapixImaging.model_fields)
    for setting, place in PLACES.items():
        assert setting in fields
        for name in place.parameters:
            assert name.startswith(
                (
                    "ImageSource.I{n}.Sensor.",
                    "ImageSource.I{n}.SceneProfile",
                    "ImageSource.I{n}.Video.",
                    "Image.I{n}.Appearance.",
                )
            )
        assert found(setting, 3, [place.parameters[-1].format(n=3)]) == place.parameters[-1].format(n=3)
    assert found("brightness", 0, ["ImageSource.I1.Sensor.Brightness"]) is None
