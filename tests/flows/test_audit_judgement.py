"""What an audit makes of what cameras said."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from blocks.cameras import CameraPolicy
from flows import _audit, _contact_sheet
from flows._audit import CameraFacts, Disk, Report, findings_of, judge
from tasks.core.models import FileRef
from tasks.network.analyze._report import Severity

PICTURE = FileRef(site="yard", name="snapshot.jpg", size_bytes=7000, sha256="0" * 64)
GOOD = {
    "target": "10.0.0.5",
    "address": "10.0.0.5",
    "reachable": True,
    "serial": "B8A44F000005",
    "model": "P3245-SIM",
    "firmware": "11.11.150",
    "clock_offset_s": 0.4,
    "certificate_days": 300,
    "https": True,
    "ssh": False,
    "upnp": False,
    "anonymous": False,
    "disks": (Disk("SD_DISK", ok=True, state="OK"),),
    "recording": True,
    "stream": True,
    "brightness": 90.0,
    "masks": 1,
}
STRICT = CameraPolicy(
    minimum_firmware={"9.80": "9.80.72", "11.11": "11.11.150", "12": "12.6"},
    known_bad_firmware=["11.11.73"],
    other_tracks="report",
    require_storage=True,
    require_recording=True,
    masks_required=["10.0.0.0/24"],
)


def camera(**differences: object) -> CameraFacts:
    return CameraFacts(**{**GOOD, **differences})  # type: ignore[arg-type]


def codes(facts: CameraFacts, policy: CameraPolicy = STRICT) -> list[str]:
    return [finding.code.removeprefix("camera.") for finding in judge(facts, policy)]


def test_a_camera_as_it_should_be_has_no_findings() -> None:
    assert codes(camera()) == []


@pytest.mark.parametrize(
    ("difference", "code", "severity"),
    [
        ({"firmware": "11.11.73"}, "firmware-known-bad", Severity.CRITICAL),
        ({"firmware": "11.11.149"}, "firmware-too-old", Severity.HIGH),
        ({"firmware": "9.80.8"}, "firmware-too-old", Severity.HIGH),
        ({"firmware": "12.5.99"}, "firmware-too-old", Severity.HIGH),
        ({"firmware": "10.12.213"}, "firmware-other-track", Severity.MEDIUM),
        ({"firmware": None}, "firmware-unknown", Severity.LOW),
        ({"clock_offset_s": -61.0}, "clock-wrong", Severity.MEDIUM),
        ({"certificate_days": 29}, "certificate-ending", Severity.MEDIUM),
        ({"certificate_days": -1}, "certificate-ended", Severity.HIGH),
        ({"https": False}, "no-https", Severity.HIGH),
        ({"ssh": True}, "ssh-on", Severity.MEDIUM),
        ({"upnp": True}, "upnp-on", Severity.LOW),
        ({"anonymous": True}, "anonymous", Severity.HIGH),
        ({"disks": (Disk("SD_DISK", ok=False, state="failed"),)}, "storage-broken", Severity.HIGH),
        ({"disks": ()}, "no-storage", Severity.HIGH),
        ({"recording": False}, "not-recording", Severity.HIGH),
        ({"stream": False}, "no-stream", Severity.HIGH),
        ({"brightness": 2.0}, "picture-black", Severity.HIGH),
        ({"picture": PICTURE, "brightness": None}, "picture-broken", Severity.HIGH),
        ({"picture": PICTURE, "picture_whole": False}, "picture-broken", Severity.HIGH),
        ({"serial": "ACCC8E000001", "expected_serial": "ACCC8E000002"}, "other-device", Severity.HIGH),
        ({"masks": 0}, "mask-missing", Severity.CRITICAL),
        ({"masks": 1, "masks_sure": False}, "mask-unsure", Severity.MEDIUM),
    ],
)
def test_each_thing_that_is_wrong_is_found_with_its_gravity(
    difference: dict[str, object], code: str, severity: Severity
) -> None:
    found = {finding.code: finding for finding in judge(camera(**difference), STRICT)}
    assert f"camera.{code}" in found
    assert found[f"camera.{code}"].severity is severity
    assert found[f"camera.{code}"].what.endswith(".") and found[f"camera.{code}"].remedy.endswith(("?", "."))


def test_what_a_camera_did_not_tell_is_not_held_against_it() -> None:
    silent = camera(
        clock_offset_s=None, certificate_days=None, https=None, ssh=None, upnp=None, anonymous=None, disks=None,
        recording=None, stream=None, brightness=None, masks=None,
    )  # fmt: skip
    assert codes(silent) == []


@pytest.mark.parametrize(
    ("differences", "code"),
    [
        ({"masks": None, "untold": {"masks": "Its level is too low."}}, "mask-unknown"),
        ({"disks": None, "untold": {"storage": "Its level is too low."}}, "storage-unknown"),
        ({"recording": None, "untold": {"recording": "It sent garbage."}}, "recording-unknown"),
        ({"stream": None, "untold": {"stream": "It did not answer."}}, "no-stream"),
        ({"brightness": None, "untold": {"picture": "The picture is cut off."}}, "no-picture"),
    ],
)
def test_what_is_required_and_cannot_be_seen_is_a_finding(differences: dict[str, object], code: str) -> None:
    [finding] = judge(camera(**differences), STRICT)
    assert finding.code == f"camera.{code}" and finding.severity is Severity.HIGH
    why = next(iter(differences["untold"].values()))  # type: ignore[attr-defined]
    assert why in finding.what
    if code not in ("no-stream", "no-picture"):
        assert codes(camera(**differences), CameraPolicy()) == []


def test_a_radar_without_video_and_a_camera_others_keep_busy_are_not_blamed_for_it() -> None:
    why = {"stream": "This camera has no video.", "picture": "This camera has no video."}
    radar = camera(stream=None, brightness=None, untold=why, excused=frozenset(why))
    assert codes(radar) == []
    viewed = camera(brightness=None, untold={"picture": "It has no room."}, busy=frozenset({"picture"}))
    assert codes(viewed) == []
    report = Report(site="yard", cameras=[radar, viewed], findings=[])
    assert _audit.gaps(report) == ["picture, of 1 camera (10.0.0.5): It has no room."], "that is not known, and said"


def test_what_cameras_did_not_tell_is_said_once_for_all_of_them_and_praise_is_withheld() -> None:
    cameras = [
        camera(target=f"10.0.0.{n}", masks=None, untold={"masks": "An account of an administrator is needed."})
        for n in range(1, 8)
    ]
    cameras.append(camera(untold={"stream": "This camera has no video."}, excused=frozenset({"stream"})))
    report = Report(site="yard", cameras=cameras, findings=findings_of(cameras, CameraPolicy()))
    assert _audit.title(report) == "8 of 8 cameras audited, nothing wrong in what they tell; 7 do not tell all"
    said = "masks, of 7 cameras (10.0.0.1, 10.0.0.2, 10.0.0.3, ...): An account of an administrator is needed."
    assert said in _audit.text(report) and "no video" not in _audit.text(report)
    assert "masks" in _audit.markdown(report, None) and "7 cameras" in _audit.html(report)
    assert [row["not told"] for row in _audit.camera_rows(report)] == ["masks"] * 7 + [""]


def test_a_worn_card_and_a_recording_that_does_not_run_are_found_without_being_asked_for() -> None:
    worn = camera(disks=(Disk("SD_DISK", ok=True, state="OK", ageing=("worn: 97 % of its life is used up",)),))
    [finding] = judge(worn, CameraPolicy())
    assert finding.code == "camera.storage-ageing" and finding.severity is Severity.MEDIUM
    assert finding.what == "SD_DISK is worn: 97 % of its life is used up."
    assert codes(camera(recording=False, set_to_record=True), CameraPolicy()) == ["not-recording"]


def test_a_picture_that_is_the_same_all_over_is_found_and_a_black_one_is_called_black() -> None:
    assert codes(camera(contrast=0.3)) == ["picture-blank"]
    assert codes(camera(contrast=0.3, brightness=1.0)) == ["picture-black"]
    assert codes(camera(contrast=12.0)) == []


def test_a_camera_that_did_not_answer_has_that_finding_alone() -> None:
    assert codes(CameraFacts(target="10.0.0.9", problem="It does not answer within 15 s.")) == ["not-audited"]


def test_what_the_default_policy_does_not_ask_for_is_no_finding() -> None:
    assert codes(camera(firmware="5.51.7", disks=(), recording=False, masks=0), CameraPolicy()) == []


@pytest.mark.parametrize("wanted", ["10.0.0.5", "10.0.0.0/24", "b8a44f000005", "Gate-West"])
def test_a_mask_is_required_by_address_prefix_serial_or_name(wanted: str) -> None:
    facts = camera(masks=0, names=("gate-west",))
    assert "mask-missing" in codes(facts, CameraPolicy(masks_required=[wanted]))
    assert "mask-missing" not in codes(facts, CameraPolicy(masks_required=["10.0.1.0/24", "gate-east"]))


def test_versions_are_compared_as_numbers_and_the_longest_track_counts() -> None:
    policy = CameraPolicy(minimum_firmware={"11": "11.2.3", "11.11": "11.11.150"})
    assert codes(camera(firmware="11.2.10"), policy) == []
    assert codes(camera(firmware="11.11.9"), policy) == ["firmware-too-old"]


@pytest.mark.parametrize("wrong", [{"11.11": "12.1"}, {"x": "1"}, {"11": "eleven"}])
def test_a_policy_whose_versions_make_no_sense_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"track|numbers"):
        CameraPolicy(minimum_firmware=wrong)


def test_the_digest_says_what_matters_first_and_names_are_harmless() -> None:
    cameras = [camera(), camera(target="10.0.0.6", masks=0), CameraFacts(target="10.0.0.7<i>", problem="Silent.")]
    report = Report(site="yard", cameras=cameras, findings=findings_of(cameras, STRICT))
    assert _audit.title(report) == "2 of 3 cameras audited, 2 findings on 2 cameras (1 critical, 1 high)"
    assert report.outcome == "Partial"
    lines = _audit.text(report).splitlines()
    assert lines[2].startswith("- critical: 10.0.0.6: It must show a privacy mask")
    assert "<i>" not in _audit.html(report) and "<i>" not in _audit.markdown(report, None)
    assert [row["findings"] for row in _audit.camera_rows(report)] == ["0", "1", "1"]


def test_what_a_conversation_was_like_is_said_once_for_all_it_is_true_of() -> None:
    cameras = [
        camera(target=f"10.0.0.{n}", notes=(f"The certificate of 10.0.0.{n} was not checked.",)) for n in range(6)
    ]
    report = Report(site="yard", cameras=cameras, findings=[])
    [line] = _audit.notes(report)
    assert line.startswith("6 cameras (10.0.0.0, ") and line.endswith("): The certificate of it was not checked.")
    for said in (_audit.text(report), _audit.html(report), _audit.markdown(report, None)):
        assert "What else to know" in said and "was not checked" in said


def test_the_digest_has_no_empty_paragraphs() -> None:
    report = Report(site="yard", cameras=[camera()], findings=[], changes=[{"what": "asset found"}], url="http://x")
    assert "\n\n\n" not in _audit.text(report)


def test_a_fleet_nobody_could_reach_is_a_failed_audit_and_one_without_cameras_is_not() -> None:
    gone = [CameraFacts(target="10.0.0.7", problem="Silent.")]
    assert Report(site="x", cameras=gone, findings=[]).outcome == "Failed"
    assert Report(site="x", cameras=[], findings=[]).outcome == "Completed"


def test_the_contact_sheet_shows_every_camera_also_those_with_broken_pictures() -> None:
    out = io.BytesIO()
    Image.new("RGB", (640, 360), "#2060a0").save(out, "JPEG")
    frames = [
        _contact_sheet.Frame("10.0.0.5", picture=out.getvalue()),
        _contact_sheet.Frame("10.0.0.6", "picture-black", wrong=True, picture=out.getvalue()[:200]),
        _contact_sheet.Frame("10.0.0.7\x1b[2J a very long name that cannot fit below a snapshot", picture=b"no"),
        *(_contact_sheet.Frame(f"10.0.1.{n}") for n in range(100)),
    ]
    drawn = list(_contact_sheet.sheets(frames))
    assert len(drawn) == 2
    first = Image.open(io.BytesIO(drawn[0])).convert("RGB")
    width = _contact_sheet.GAP + _contact_sheet.WIDTH // 2
    middle = first.getpixel((width, _contact_sheet.GAP + _contact_sheet.HEIGHT // 2))
    assert isinstance(middle, tuple) and abs(middle[2] - 0xA0) < 12, "the picture itself is there"
    assert len(drawn[0]) < 400_000
    assert _contact_sheet.data_url(drawn[0]).startswith("data:image/jpeg;base64,/9j/")


def test_no_cameras_make_no_sheet() -> None:
    assert list(_contact_sheet.sheets([])) == []
