"""`vapix_event_services` against simulated cameras: lists, rules made and removed, every fault, and what is left when something fails."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.axis_camera import Camera, cameras
from lab.axis_camera.asking import DESTROYING, UNHURRIED, Asking, only

from deployments.demo.axis_camera import Fault
from deployments.demo.axis_camera import _api_services as simulated
from deployments.demo.axis_camera._event_filters import FilterProblem, content_test, topic_test
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
from tasks.network.vapix import _soap_rules as soap
from tasks.network.vapix._events import content_filter
from tasks.network.vapix._fleet import CameraOutcome
from tasks.network.vapix._xml import envelope, parse_xml
from tasks.network.vapix.vapix_event_services import (
    VapixEventServices,
    VapixEventServicesResult,
    vapix_event_services,
)

Ask = Callable[..., Awaitable[VapixEventServicesResult]]
SERVICES = "/vapix/services"
PULSE = {
    "action": "create_rule",
    "name": "Door to gate",
    "template": "com.axis.action.fixed.io.toggle",
    "parameters": {"port": "1", "state": "high", "duration": "2"},
    "conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInput", "items": {"port": "7", "active": "1"}}],
}


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """Ask a camera: `await ask(camera, action="rules")`; a change gets the approval it needs unless `confirm` is given."""
    return asking(vapix_event_services, policy=DESTROYING, approving=True)


def kept(camera: Camera) -> simulated.Services:
    return camera.device.slot(simulated.Services)


def operations(camera: Camera) -> list[str]:
    """The operations that changed something, in order."""
    bodies = [one.body.decode() for one in camera.asked(SERVICES)]
    names = ("AddActionConfiguration", "AddActionRule", "RemoveActionRule", "RemoveActionConfiguration")
    return [name for body in bodies for name in names if f":{name}" in body or f"<{name}" in body]


# --- lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["ancient", "old", "9.80", "mid", "new", "ptz", "bare"])
async def test_the_events_of_every_generation_are_listed(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        found = only(await ask(camera, action="events"))
        assert (found.outcome, found.api, found.serial) == (CameraOutcome.DONE, "vapix-services", camera.device.serial)
        topics = [kind.topic for kind in found.events]
        assert topics == sorted(set(topics)), "in an order of ours: the camera's means nothing"
        inputs = next(kind for kind in found.events if kind.topic == "tns1:Device/tnsaxis:IO/VirtualInput")
        assert inputs.stateful and inputs.name == "Virtual input"
        assert [(item.name, len(item.values)) for item in inputs.source] == [("port", 32)]
        assert [item.name for item in inputs.data] == ["active"]
        failed = next(kind for kind in found.events if kind.topic.endswith("ActionFailed"))
        assert not failed.stateful and not failed.source
        assert not camera.device.errors


async def test_only_the_topics_that_are_wanted_are_listed(ask: Ask, mid: Camera) -> None:
    found = only(await ask(mid, action="events", topics=["tns1:Device/tnsaxis:Status//."]))
    assert found.events and all(kind.topic.startswith("tns1:Device/tnsaxis:Status/") for kind in found.events)


async def test_what_is_meant_for_an_application_is_marked(ask: Ask, mid: Camera) -> None:
    found = only(await ask(mid, action="events", topics=["tnsaxis:CameraApplicationPlatform//."]))
    assert {kind.application_data for kind in found.events} == {True, False}


async def test_templates_name_their_parameters_and_receivers(ask: Ask, mid: Camera) -> None:
    found = {template.template: template for template in only(await ask(mid, action="templates")).templates}
    assert found["com.axis.action.fixed.io.toggle"].parameters == ["port", "state", "duration"]
    assert found["com.axis.action.fixed.notification.tcp"].recipient == "com.axis.recipient.tcp"
    receivers = only(await ask(mid, action="recipient_templates")).templates
    assert "com.axis.recipient.smtp" in {template.template for template in receivers}


async def test_rules_are_listed_with_what_they_do(ask: Ask, mid: Camera) -> None:
    [rule] = only(await ask(mid)).rules
    assert (rule.rule_id, rule.name, rule.enabled, rule.configuration_id) == ("1", "Flash when ready", True, "1")
    assert (rule.action_name, rule.template) == ("Flash status LED", "com.axis.action.fixed.ledcontrol")
    assert rule.conditions[0].topic == "tns1:Device/tnsaxis:Status/SystemReady"
    assert rule.conditions[0].items == {"ready": "1"} and rule.start_event is None


async def test_logins_and_passwords_of_receivers_are_masked(ask: Ask, mid: Camera) -> None:
    result = await ask(mid, action="recipients")
    [receiver] = only(result).recipients
    assert receiver.parameters["upload_url"] == "http://192.0.2.80/alarm?site=north&gate=2"
    masked = {name: value for name, value in receiver.parameters.items() if value == "***"}
    assert set(masked) == {"login", "password", "proxy_login", "proxy_password"}
    assert receiver.parameters["proxy_host"] == "", "what is not set is not masked"
    told = result.model_dump_json()
    assert not any(secret in told for secret in ("Rcp-7f31", "Prx-90ab", "alarm-station", "proxy-user"))


async def test_credentials_in_addresses_of_actions_are_masked(ask: Ask, mid: Camera) -> None:
    values = {"upload_url": "http://joe:s3cretpw@192.0.2.9/", "message": "token=abcdef123456", "password": "x9y8z7"}
    stored = simulated.Stored("Post", "com.axis.action.fixed.notification.http", values)
    mid.device.call(lambda: kept(mid).add(kept(mid).actions, "action", stored))
    told = (await ask(mid, action="configurations")).model_dump_json()
    assert "s3cretpw" not in told and "abcdef123456" not in told and "x9y8z7" not in told


async def test_credentials_in_percent_encoded_addresses_are_masked_as_well(ask: Ask, mid: Camera) -> None:
    mid.device.params.set("Properties.Firmware.Version", "10.12.236")
    values = {"upload_url": "http://joe:s3cretpw@192.0.2.9/", "message": "on the way: 50%"}
    stored = simulated.Stored("Post", "com.axis.action.fixed.notification.http", values)
    mid.device.call(lambda: kept(mid).add(kept(mid).actions, "action", stored))
    found = only(await ask(mid, action="configurations")).configurations[-1]
    assert found.parameters["upload_url"] == "http://***@192.0.2.9/"
    assert found.parameters["message"] == "on%20the%20way%3A%2050%25"


SECRETS = [
    "login", "user", "username", "user_name", "userName", "userid", "user_id", "proxy_user", "ftpuser", "upload_login", "account",
    "pass", "pwd", "pw", "proxy_pwd", "proxyPwd", "proxy_pass", "Password", "password2", "passwd", "passphrase", "userpass", "psk",
    "wpa_psk", "key", "key1", "secret_key", "private_key", "privatekey", "apikey", "api-key", "access_key", "sharedKey",
    "community", "snmp_community", "community_name", "sas", "sig", "signature", "bearer", "token", "auth", "auth_type", "cookie",
    "custom_headers",
]  # fmt: skip
PLAIN = [
    "port", "state", "duration", "keyframe", "key_frame", "keyframe_interval", "keyboard", "monkey", "turkey", "bypass", "compass",
    "passthrough", "pass_count", "passive", "user_interface", "users_notified", "communities_shown", "powder", "design", "sigma",
    "accounting", "upload_url", "host", "qos", "pin", "message", "author", "bandpass",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
async def test_a_login_or_password_is_masked_and_refused_by_whatever_name(ask: Ask, mid: Camera, name: str) -> None:
    stored = simulated.Stored("Post", "com.axis.action.fixed.notification.http", {name: "hunter2!"})
    mid.device.call(lambda: kept(mid).add(kept(mid).actions, "action", stored))
    found = only(await ask(mid, action="configurations")).configurations[-1]
    assert list(found.parameters.values()) == ["***"]
    asked = len(mid.requests)
    with pytest.raises(InvalidParameters, match="never stand in parameters"):
        await ask(mid, **{**PULSE, "parameters": {name: "hunter2!"}})
    assert len(mid.requests) == asked


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_only_looks_like_a_password_is_none(name: str) -> None:
    assert not soap.is_secret(name) and not soap.holds_secret(name, "7")


async def test_an_empty_list_is_an_empty_list(ask: Ask, mid: Camera) -> None:
    assert (await ask(mid)).headline().endswith(": 1 rule")
    mid.device.call(lambda: [kept(mid).rules.clear(), kept(mid).actions.clear()])
    found = await ask(mid)
    assert only(found).rules == [] and found.headline().endswith(": 0 rules")


async def test_names_of_hostile_installers_are_shown_harmless(ask: Ask, mid: Camera) -> None:
    mid.device.call(lambda: setattr(kept(mid).rules["1"], "name", "<b>&\n ignore all\x7f" + "x" * 500))
    [rule] = only(await ask(mid)).rules
    assert "\n" not in rule.name and "\x7f" not in rule.name and len(rule.name) <= 100


async def test_many_cameras_are_listed_at_once_and_the_result_stays_small(ask: Ask) -> None:
    with cameras(*["mid"] * 16) as found:
        result = await ask(*found, action="events")
        assert {camera.outcome for camera in result.cameras} == {CameraOutcome.DONE}
        assert len(result.model_dump_json()) <= 64 << 10 and result.left_out and result.report is not None
        assert all(camera.listed >= 19 for camera in result.cameras), "how many there are is said all the same"


# --- making a rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["mid", "new", "ptz"])
async def test_a_rule_is_made_with_its_action_and_read_back(ask: Ask, profile: str) -> None:
    with cameras(profile) as [camera]:
        result = await ask(camera, **PULSE)
        found = only(result)
        assert found.rule is not None and found.configuration is not None and found.detail is None
        assert (found.rule.name, found.rule.enabled) == ("Door to gate", True)
        assert found.rule.configuration_id == found.configuration.configuration_id
        assert found.configuration.parameters == PULSE["parameters"]
        assert found.rule.conditions[0].items == {"port": "7", "active": "1"}
        assert [rule.name for rule in found.before] == ["Flash when ready"]
        assert [rule.name for rule in found.rules] == ["Flash when ready", "Door to gate"]
        assert kept(camera).rules[found.rule.rule_id].conditions[0].topic == "tns1:Device/tnsaxis:IO/VirtualInput"
        assert operations(camera) == ["AddActionConfiguration", "AddActionRule"]
        assert "made rule" in result.headline()
        assert not camera.device.errors


async def test_a_camera_that_writes_topics_its_own_way_made_the_rule_all_the_same(ask: Ask, mid: Camera) -> None:
    mid.device.params.set("Properties.Firmware.Version", "10.12.236")
    found = only(await ask(mid, **{**PULSE, "parameters": {"port": "1", "state": "high/low", "duration": "2"}}))
    assert found.detail is None and found.rule is not None
    assert found.rule.conditions[0].topic == "tns1:Device/tnsaxis:IO/VirtualInput"


async def test_parameters_that_are_not_given_are_sent_empty(ask: Ask, mid: Camera) -> None:
    await ask(mid, **{**PULSE, "parameters": {"port": "1"}})
    assert kept(mid).actions["2"].parameters == {"port": "1", "state": "", "duration": ""}


async def test_values_are_escaped_and_arrive_as_they_are(ask: Ask, mid: Camera) -> None:
    text = "<a href=\"x\">&amp; 'quoted' ]]> ü</a>"
    template = "com.axis.action.fixed.set_overlay"
    found = only(await ask(mid, **{**PULSE, "name": "A & B <c>", "template": template, "parameters": {"text": text}}))
    assert kept(mid).actions["2"].parameters["text"] == text
    assert found.rule is not None and found.rule.name == "A & B <c>"


async def test_a_moment_can_start_a_rule(ask: Ask, mid: Camera) -> None:
    start = {"topic": "tns1:VideoSource/tnsaxis:Tampering", "items": {"channel": "1"}}
    found = only(await ask(mid, **{**PULSE, "conditions": [], "start_event": start, "enabled": False}))
    assert found.rule is not None and found.rule.start_event is not None and not found.rule.enabled
    assert found.rule.start_event.items == {"channel": "1"} and not found.rule.conditions


@pytest.fixture
def contrary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras keep actions with other values than they are told."""
    real = simulated.Services.add

    def add(self: simulated.Services, kept: Any, kind: str, stored: simulated.Stored) -> str:
        stored.parameters.update(port="9", state="low")
        return real(self, kept, kind, stored)

    monkeypatch.setattr(simulated.Services, "add", add)


@pytest.mark.usefixtures("contrary")
@pytest.mark.parametrize("rule", [True, False])
@pytest.mark.parametrize("encoding", [True, False])
async def test_values_that_the_camera_keeps_otherwise_are_told(
    ask: Ask, mid: Camera, rule: bool, encoding: bool
) -> None:
    if encoding:
        mid.device.params.set("Properties.Firmware.Version", "10.12.236")
    result = await ask(mid, **(PULSE if rule else ACTION_ALONE))
    found = only(result)
    assert found.outcome is CameraOutcome.DONE and found.configuration is not None
    assert "other values than were asked for: port '9' in place of '1', state 'low' in place of 'high'" in str(
        found.detail
    )
    assert "in place of" in result.headline()


async def test_another_template_and_name_than_were_asked_for_are_told(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = simulated.Services.add

    def add(self: simulated.Services, kept: Any, kind: str, stored: simulated.Stored) -> str:
        made = simulated.Stored("Another", "com.axis.action.fixed.ledcontrol", stored.parameters)
        return real(self, kept, kind, made)

    monkeypatch.setattr(simulated.Services, "add", add)
    detail = only(await ask(mid, **PULSE)).detail or ""
    assert "calls the action 'Another'" in detail and "com.axis.action.fixed.ledcontrol in place of" in detail


@pytest.mark.parametrize("firmware", ["10.12.236", "11.11.150"])
@pytest.mark.parametrize(
    "text", ["50% + 7 = ü", "a%20b", "two\nlines", "token=abcdef123456", "x" * 2000, "ü" * 2000, "http://192.0.2.1/?a=b&c=d"]
)  # fmt: skip
async def test_values_that_are_only_written_another_way_are_no_difference(
    ask: Ask, mid: Camera, firmware: str, text: str
) -> None:
    mid.device.params.set("Properties.Firmware.Version", firmware)
    template = "com.axis.action.fixed.set_overlay"
    found = only(await ask(mid, **{**PULSE, "template": template, "parameters": {"text": text}}))
    assert found.detail is None and "abcdef123456" not in found.model_dump_json()


ACTION_ALONE = {key: PULSE[key] for key in ("template", "parameters")} | {
    "action": "create_configuration",
    "name": "Pulse gate",
}
REUSING = {key: PULSE[key] for key in ("action", "name", "conditions")}


async def test_an_action_is_set_up_alone_and_rules_are_made_with_it(ask: Ask, mid: Camera) -> None:
    result = await ask(mid, **ACTION_ALONE)
    action = only(result).configuration
    assert action is not None and (action.name, action.parameters) == ("Pulse gate", PULSE["parameters"])
    assert result.headline().endswith(f": made action configuration {action.configuration_id}")
    assert operations(mid) == ["AddActionConfiguration"] and len(kept(mid).rules) == 1
    for name in ("Day", "Night"):
        # `confirm` names the rule: what is approved is that it begins to work.
        found = only(await ask(mid, **{**REUSING, "name": name, "configuration_id": action.configuration_id}))
        assert found.rule is not None and found.rule.configuration_id == action.configuration_id
        assert found.rule.action_name == "Pulse gate"
    assert len(kept(mid).actions) == 2 and operations(mid).count("AddActionConfiguration") == 1


async def test_a_second_action_of_the_same_name_is_refused(ask: Ask, mid: Camera) -> None:
    await ask(mid, **ACTION_ALONE)
    with pytest.raises(Conflict, match="has an action configuration 'Pulse gate' already"):
        await ask(mid, **ACTION_ALONE)
    assert len(kept(mid).actions) == 2


async def test_a_rule_with_an_action_that_is_not_there_changes_nothing(ask: Ask, mid: Camera) -> None:
    with pytest.raises(NotFound, match="no action configuration number 99"):
        await ask(mid, **{**REUSING, "configuration_id": "99"})
    assert operations(mid) == []


async def test_an_action_that_was_there_before_stays_when_its_rule_is_refused(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(services: simulated.Services, call: simulated.Call) -> str:
        raise simulated.Fault("aa:InvalidConditionFilterFault", "could not match any property events")

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionRule"), refused)
    with pytest.raises(Rejected, match="could not match any property events") as caught:
        await ask(mid, **{**REUSING, "configuration_id": "1"})
    assert "removed" not in str(caught.value) and set(kept(mid).actions) == {"1"}


async def test_a_lost_answer_about_a_rule_of_an_older_action_finds_the_new_rule_alone(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(SERVICES, Fault("close", effect=True, skip=4))
    found = only(await ask(mid, **{**REUSING, "configuration_id": "1"}))
    assert found.rule is not None and found.rule.name == "Door to gate"
    assert [rule.configuration_id for rule in found.rules] == ["1", "1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"template": "com.axis.action.fixed.io.toggles"}, "did you mean com.axis.action.fixed.io.toggle"),
        ({"parameters": {"prot": "1"}}, "has no 'prot'; it has port, state, duration"),
        ({"conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInputs", "items": {"port": "1"}}]}, "did you mean"),
        ({"conditions": [{"topic": "tns1:VideoSource/tnsaxis:Tampering", "items": {"channel": "1"}}]}, "start_event"),
        ({"conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInput", "items": {"active": "1"}}]}, "which port"),
        (
            {"conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInput", "items": {"port": "7"}}]},
            "what active must be",
        ),
        (
            {"conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInput", "items": {"prt": "7"}}]},
            "has no item 'prt'",
        ),
        ({"conditions": [{"topic": "tns1:Device/tnsaxis:IO/VirtualInput", "items": {"port": "99"}}]}, "is one of 1, 2"),
        (
            {
                "template": "com.axis.action.unlimited.io.toggle",
                "parameters": {},
                "conditions": [],
                "start_event": {"topic": "tns1:VideoSource/tnsaxis:Tampering"},
            },
            "needs at least one of conditions",
        ),
    ],
)
async def test_what_the_camera_cannot_do_is_refused_before_anything_changes(
    ask: Ask, mid: Camera, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await ask(mid, **{**PULSE, **change})
    assert operations(mid) == [] and set(kept(mid).actions) == {"1"}


async def test_a_second_rule_of_the_same_name_is_refused(ask: Ask, mid: Camera) -> None:
    await ask(mid, **PULSE)
    with pytest.raises(Conflict, match="has a rule 'Door to gate' already"):
        await ask(mid, **PULSE)
    assert len(kept(mid).rules) == 2


async def test_when_the_rule_is_refused_its_action_is_removed_again(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(services: simulated.Services, call: simulated.Call) -> str:
        raise simulated.Fault("aa:InvalidConditionFilterFault", "could not match any property events")

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionRule"), refused)
    with pytest.raises(Rejected, match=r"could not match any property events.*removed again: nothing is left"):
        await ask(mid, **PULSE)
    assert operations(mid) == ["AddActionConfiguration", "AddActionRule", "RemoveActionConfiguration"]
    assert set(kept(mid).actions) == {"1"} and set(kept(mid).rules) == {"1"}


async def test_what_cannot_be_removed_again_is_said(ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(services: simulated.Services, call: simulated.Call) -> str:
        raise simulated.Fault("aa:InvalidActionConfigurationFault", "no")

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionRule"), refused)
    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "RemoveActionConfiguration"), refused)
    with pytest.raises(Rejected, match=r"number 2\) is left on the camera.*remove_configuration"):
        await ask(mid, **PULSE)


async def test_a_lost_answer_is_looked_up_and_the_rule_is_there(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = simulated.add_action_configuration

    def and_lose_the_next(services: simulated.Services, call: simulated.Call) -> str:
        mid.device.faults.add(SERVICES, Fault("close", effect=True))
        return original(services, call)

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionConfiguration"), and_lose_the_next)
    found = only(await ask(mid, **PULSE))
    assert found.rule is not None and found.rule.rule_id == "2" and set(kept(mid).rules) == {"1", "2"}
    assert operations(mid) == ["AddActionConfiguration", "AddActionRule"], "it was not sent twice"


async def test_a_lost_answer_that_cannot_be_looked_up_is_said(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = simulated.add_action_configuration

    def and_lose_the_rest(services: simulated.Services, call: simulated.Call) -> str:
        mid.device.faults.add(SERVICES, Fault("close", effect=True))
        mid.device.faults.add(SERVICES, Fault("500", count=None))
        return original(services, call)

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionConfiguration"), and_lose_the_rest)
    with pytest.raises(Unanswered, match="its action has number 2"):
        await ask(mid, **PULSE)
    assert set(kept(mid).actions) == {"1", "2"}, "nothing was removed that a rule may use"


async def test_a_lost_answer_about_the_action_says_what_to_look_for(ask: Ask, mid: Camera) -> None:
    # Four lists are read before: templates, events, rules and configurations.
    mid.device.faults.add(SERVICES, Fault("close", effect=True, skip=4))
    with pytest.raises(Unanswered, match="named 'Door to gate'"):
        await ask(mid, **PULSE)


async def test_an_answer_without_the_number_is_looked_up(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = simulated.add_action_rule
    monkeypatch.setitem(
        simulated._OPERATIONS,
        (simulated.ACTION, "AddActionRule"),
        lambda services, call: original(services, call) and "",
    )
    found = only(await ask(mid, **PULSE))
    assert found.rule is not None and found.rule.rule_id == "2"


async def test_a_rule_that_is_not_there_afterwards_is_an_error(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        simulated._OPERATIONS, (simulated.ACTION, "AddActionRule"), lambda services, call: "<aa:RuleID>77</aa:RuleID>"
    )
    with pytest.raises(Rejected, match="said it made rule 77"):
        await ask(mid, **PULSE)


async def test_a_rule_that_is_kept_otherwise_than_asked_is_said(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = simulated.add_action_rule

    def otherwise(services: simulated.Services, call: simulated.Call) -> str:
        answer = original(services, call)
        services.rules["2"].enabled = False
        services.rules["2"].conditions[0].content = ""
        return answer

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionRule"), otherwise)
    found = only(await ask(mid, **PULSE))
    assert "as disabled" in str(found.detail) and "other conditions" in str(found.detail)


# --- removing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "rule_id"])
async def test_a_rule_is_removed_with_its_action(ask: Ask, mid: Camera, by: str) -> None:
    made = only(await ask(mid, **PULSE)).rule
    assert made is not None
    found = only(await ask(mid, action="remove_rule", **{by: getattr(made, by)}))
    assert found.rule is not None and found.rule.rule_id == made.rule_id
    assert found.configuration is not None and found.configuration.configuration_id == made.configuration_id
    assert [rule.rule_id for rule in found.rules] == ["1"] and len(found.before) == 2
    assert set(kept(mid).actions) == {"1"} and set(kept(mid).rules) == {"1"}


async def test_an_action_that_another_rule_uses_stays(ask: Ask, mid: Camera) -> None:
    await ask(mid, **PULSE)
    other = simulated.StoredRule("Other", True, None, kept(mid).rules["2"].conditions, "2")
    mid.device.call(lambda: kept(mid).rules.update({"9": other}))
    found = only(await ask(mid, action="remove_rule", name="Door to gate"))
    assert found.configuration is None and "rule 9 uses it as well" in str(found.detail)
    assert "2" in kept(mid).actions


async def test_an_action_can_be_left_there(ask: Ask, mid: Camera) -> None:
    await ask(mid, **PULSE)
    found = only(await ask(mid, action="remove_rule", name="Door to gate", keep_configuration=True))
    assert "stays, as asked" in str(found.detail) and set(kept(mid).actions) == {"1", "2"}
    found = only(await ask(mid, action="remove_configuration", configuration_id="2"))
    assert found.configuration is not None and set(kept(mid).actions) == {"1"}


async def test_an_action_that_cannot_be_removed_is_said_and_the_rule_is_gone(
    ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(services: simulated.Services, call: simulated.Call) -> str:
        raise simulated.Fault("aa:InvalidActionConfigurationFault", "no")

    await ask(mid, **PULSE)
    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "RemoveActionConfiguration"), refused)
    found = only(await ask(mid, action="remove_rule", name="Door to gate"))
    assert "The rule is gone, but its action (number 2) is left" in str(found.detail) and found.configuration is None


async def test_an_action_in_use_is_not_removed(ask: Ask, mid: Camera) -> None:
    with pytest.raises(Conflict, match=r"in rule 1 \(Flash when ready\)"):
        await ask(mid, action="remove_configuration", configuration_id="1")
    assert operations(mid) == []


async def test_what_is_not_there_is_not_found(ask: Ask, mid: Camera) -> None:
    with pytest.raises(NotFound, match="no rule 'Nothing'"):
        await ask(mid, action="remove_rule", name="Nothing")
    with pytest.raises(NotFound, match="no rule number 99"):
        await ask(mid, action="remove_rule", rule_id="99")
    with pytest.raises(NotFound, match="no action configuration number 99"):
        await ask(mid, action="remove_configuration", configuration_id="99")
    assert operations(mid) == []


async def test_a_name_that_several_rules_have_is_not_enough(ask: Ask, mid: Camera) -> None:
    mid.device.call(lambda: kept(mid).rules.update({"9": kept(mid).rules["1"]}))
    with pytest.raises(Conflict, match="numbers 1, 9"):
        await ask(mid, action="remove_rule", name="Flash when ready")
    assert set(kept(mid).rules) == {"1", "9"}


# --- approval, levels, cameras without -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        PULSE,
        {"action": "remove_rule", "name": "Flash when ready"},
        {"action": "remove_rule", "rule_id": "1"},
        {"action": "remove_configuration", "configuration_id": "1"},
    ],
)
@pytest.mark.parametrize("confirm", [None, "yes", "ADDRESS"])
async def test_a_change_needs_the_ceiling_and_an_exact_approval(
    ask: Ask, mid: Camera, change: dict[str, Any], confirm: str | None
) -> None:
    confirm = mid.address if confirm == "ADDRESS" else confirm
    with pytest.raises(Refused, match="needs approval"):
        await ask(mid, confirm=confirm, **change)
    with pytest.raises(Refused, match="destroy"):
        await ask(mid, policy=UNHURRIED, **change)
    assert not mid.requests


def test_changes_are_destroy_and_lists_are_not() -> None:
    given: dict[str, Any] = {"targets": ["10.0.0.1"], "credentials": "axis/a"}
    made = VapixEventServices(**given, **PULSE)
    assert made.safety() is Safety.DESTROY and made.approval() and made.subject() == "10.0.0.1 Door to gate"
    by_number = VapixEventServices(**given, action="remove_rule", rule_id="5")
    assert by_number.subject() == "10.0.0.1 rule 5", "not to be taken for a configuration, or for a rule called 5"
    configuration = VapixEventServices(**given, action="remove_configuration", configuration_id="5")
    assert configuration.subject() == "10.0.0.1 configuration 5"
    read = VapixEventServices(**given)
    assert read.safety() is None and not read.approval()


@pytest.mark.parametrize("account", ["viewer", "operator"])
async def test_an_account_below_administrator_is_told_so(ask: Ask, mid: Camera, account: str) -> None:
    with pytest.raises(Forbidden, match="higher level"):
        await ask(mid, user=account)


@pytest.mark.parametrize("way", ["401", "403"])
async def test_a_wrong_password_is_no_level(ask: Ask, mid: Camera, way: Any) -> None:
    mid.device.insufficient = way
    with pytest.raises(Unauthorized) as refused:
        await ask(mid, password="wrong")
    assert not isinstance(refused.value, Forbidden)
    assert sum(one.credentials is not None for one in mid.requests) == 1


async def test_a_camera_without_the_services_is_unsupported(ask: Ask, mid: Camera) -> None:
    mid.device.faults.add(SERVICES, "404")
    with pytest.raises(Unsupported):
        await ask(mid)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("hang", Unreachable),
        ("close", Unreachable),
        ("reset", ToolError),
        ("truncate", ToolError),
        ("garbage", ToolError),
        ("html", ToolError),
        ("empty", ToolError),
        ("doctype", ToolError),
        ("oversized", ToolError),
        ("gzip-bomb", ToolError),
        ("500", ToolError),
        ("503", ToolError),
        ("content-type", None),
    ],
)
async def test_a_broken_answer_is_an_error_that_says_so(
    ask: Ask, mid: Camera, kind: Any, error: type[Exception] | None
) -> None:
    mid.device.faults.add(SERVICES, Fault(kind, count=None))
    if error is None:
        assert only(await ask(mid, timeout=2)).rules
        return
    with pytest.raises(error) as broken:
        await ask(mid, timeout=2)
    assert "pass" not in str(broken.value).split()


@pytest.mark.parametrize("status", [400, 500])
async def test_a_fault_is_told_in_the_cameras_words_whatever_its_status(ask: Ask, mid: Camera, status: int) -> None:
    fault = simulated.Fault("aa:InvalidActionConfigurationFault", "the disk is\x1b gone <b>").xml()
    answer = simulated._envelope(fault.replace("\x1b", ""), status)
    mid.device.faults.add(SERVICES, Fault("answer", response=answer))
    with pytest.raises(Rejected, match="InvalidActionConfigurationFault: the disk is gone <b>"):
        await ask(mid)


async def test_a_fault_says_what_to_do_about_it(ask: Ask, mid: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(services: simulated.Services, call: simulated.Call) -> str:
        raise simulated.Fault("aa:ActionTemplateNotFoundFault", "action template with id 'x' not found")

    monkeypatch.setitem(simulated._OPERATIONS, (simulated.ACTION, "AddActionConfiguration"), refused)
    with pytest.raises(NotFound, match="action = templates") as problem:
        await ask(mid, **PULSE)
    assert "action template with id 'x' not found" in problem.value.message


async def test_one_broken_camera_costs_the_others_nothing(ask: Ask) -> None:
    with cameras("mid", "new", "ptz") as found:
        found[1].device.faults.add(SERVICES, Fault("garbage", count=None))
        result = await ask(*found)
        outcomes = [camera.outcome for camera in result.cameras]
        assert outcomes[0] == outcomes[2] == CameraOutcome.DONE != outcomes[1]


# --- parameters ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"action": "create_rule"}, "needs name and template"),
        ({**PULSE, "configuration_id": "1"}, "template, or name and configuration_id"),
        ({**REUSING, "configuration_id": "1", "parameters": {"port": "1"}}, "parameters go with template"),
        ({"action": "create_configuration", "name": "a"}, "needs name and template"),
        ({**ACTION_ALONE, "parameters": {"password": "hunter2!"}}, "never stand in parameters"),
        ({**PULSE, "conditions": []}, "start_event or at least one of conditions"),
        ({"action": "remove_rule"}, "either name or rule_id"),
        ({"action": "remove_rule", "name": "a", "rule_id": "1"}, "either name or rule_id"),
        ({"action": "remove_configuration"}, "needs configuration_id"),
        ({"action": "rules", "name": "a"}, "name is for action"),
        ({"action": "rules", "topics": ["//."]}, "topics is for action"),
        ({"action": "remove_rule", "name": "a", "targets": ["10.0.0.1", "10.0.0.2"]}, "exactly one target"),
        ({**PULSE, "conditions": [{"topic": "tns1:Device//."}]}, "several events"),
        ({**PULSE, "name": "a\nb"}, "line breaks"),
        ({**PULSE, "template": "x y"}, "template"),
        ({**PULSE, "parameters": {"password": "hunter2!"}}, "never stand in parameters"),
        ({**PULSE, "parameters": {"upload_url": "http://a:hunter2!@b/"}}, "never stand in parameters"),
        ({**PULSE, "parameters": {"text": "a\x00b"}}, "control characters"),
        ({"action": "remove_rule", "rule_id": "1; drop"}, "rule_id"),
    ],
)
async def test_parameters_that_do_not_go_together_are_refused_with_what_is_right(
    ask: Ask, mid: Camera, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said) as refused:
        await ask(mid, **params)
    assert "hunter2" not in str(refused.value) and not mid.requests


# --- the simulator's services behave as the device's -----------------------------------------------------------------------------


def post(camera: Camera, inner: str, **headers: str) -> tuple[int, str]:
    body = f'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>{inner}</s:Body></s:Envelope>'
    answer = httpx.post(
        f"{camera.url}{SERVICES}",
        content=body.encode(),
        headers={"Content-Type": "application/soap+xml; charset=utf-8", **headers},
        auth=httpx.DigestAuth("root", "pass"),
        trust_env=False,
    )
    return answer.status_code, answer.text


NEW = '<{0} xmlns="http://www.axis.com/vapix/ws/action1">{1}</{0}>'
TOPIC = (
    '<TopicExpression xmlns="http://docs.oasis-open.org/wsn/b-2" Dialect="{1}" xmlns:tns1="http://www.onvif.org/ver10/topics" '
    'xmlns:tnsaxis="http://www.axis.com/2009/event/topics">{0}</TopicExpression>'
)
DIALECT = "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete"
READY = "tns1:Device/tnsaxis:Status/SystemReady"


def rule(condition: str, action: str = "1") -> str:
    inner = f"<NewActionRule><Name>n</Name><Enabled>true</Enabled>{condition}<PrimaryAction>{action}</PrimaryAction></NewActionRule>"
    return NEW.format("AddActionRule", inner)


def condition(topic: str, content: str = "", dialect: str = DIALECT) -> str:
    message = (
        f'<MessageContent xmlns="http://docs.oasis-open.org/wsn/b-2">{content}</MessageContent>' if content else ""
    )
    return f"<Conditions><Condition>{TOPIC.format(topic, dialect)}{message}</Condition></Conditions>"


LED = (
    "<NewActionConfiguration><Name>n</Name><TemplateToken>com.axis.action.fixed.ledcontrol</TemplateToken>"
    "<Parameters>{}</Parameters></NewActionConfiguration>"
)
ADD, NONE = "AddActionConfiguration", LED.replace("ledcontrol", "nothing").format("")


@pytest.mark.parametrize(
    ("inner", "fault", "reason"),
    [
        (NEW.format(ADD, NONE), "aa:ActionTemplateNotFoundFault", "not found"),
        (NEW.format(ADD, LED.format('<Parameter Name="led" Value="x"/>')), "aa:ParametersMissmatchFault",
         "Configuration parameter missing: "),
        (rule(condition(READY), "99"), "aa:ActionConfigurationNotFoundFault",
         "Unknown action configuration '99' specified for primary action"),
        (NEW.format("RemoveActionConfiguration", "<ConfigurationID>99</ConfigurationID>"), "aa:ActionConfigurationNotFoundFault", ""),
        (NEW.format("RemoveActionConfiguration", "<ConfigurationID>1</ConfigurationID>"), "aa:ActionConfigurationIsInUseFault",
         "action configuration is in use"),
        (NEW.format("RemoveActionRule", "<RuleID>99</RuleID>"), "aa:ActionRuleNotFoundFault", "No action rule with id '99' exists"),
        (rule(condition("tns1:VideoSource/tnsaxis:Tampering")), "aa:InvalidConditionFilterFault", "could not match any property events"),
        (rule(condition("tns1:Device/tnsaxis:IO/VirtualInput")), "aa:InvalidConditionFilterFault", "more than one"),
        (rule(condition("tns1:/x")), "wsnt:InvalidTopicExpressionFault", "failed to parse topic expression"),
        (rule(condition("foo:Device")), "wsnt:InvalidTopicExpressionFault", "failed to parse topic expression"),
        (rule(condition(READY, "boolean(")), "wsnt:InvalidMessageContentExpressionFault", "around character"),
        (rule(condition(READY, dialect="urn:x")), "wsnt:TopicExpressionDialectUnknownFault", "dialect"),
        (rule(""), "ter:InvalidArgs", "occurrence violation in element Conditions"),
    ],
)  # fmt: skip
def test_every_fault_comes_with_status_400_and_its_name(mid: Camera, inner: str, fault: str, reason: str) -> None:
    status, text = post(mid, inner)
    assert status == 400 and fault in text and reason in text
    ET.fromstring(text)
    assert text.count("xmlns:") > 55, "real answers declare about 60 namespaces"


def test_any_prefix_style_and_content_type_is_taken(mid: Camera) -> None:
    assert post(mid, NEW.format("GetActionRules", ""))[0] == 200
    assert post(mid, '<q:GetActionRules xmlns:q="http://www.axis.com/vapix/ws/action1"/>')[0] == 200
    action = 'application/soap+xml; action="http://www.axis.com/vapix/ws/action1/GetActionRules"'
    assert post(mid, NEW.format("GetActionRules", ""), **{"Content-Type": action})[0] == 200
    own = rule(condition(READY)).replace("tns1:", "x:").replace("xmlns:tns1", "xmlns:x")
    assert post(mid, own)[0] == 200 and kept(mid).rules["2"].conditions[0].topic == READY


@pytest.mark.parametrize("body", [b"", b"<a/>", b"<", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
def test_what_is_no_envelope_is_a_fault(mid: Camera, body: bytes) -> None:
    answer = httpx.post(f"{mid.url}{SERVICES}", content=body, auth=httpx.DigestAuth("root", "pass"), trust_env=False)
    assert answer.status_code == 400 and "Fault" in answer.text


def test_virtual_inputs_can_be_switched_by_soap(mid: Camera) -> None:
    heard: list[Any] = []
    mid.device.subscribe(heard.append)
    inner = '<ChangeVirtualInputState xmlns="http://www.axis.com/vapix/ws/event1"><port>3</port><active>true</active></ChangeVirtualInputState>'
    assert post(mid, inner)[0] == 200
    assert (heard[-1].source, heard[-1].data) == ({"port": "3"}, {"active": "1"})


@settings(deadline=None)
@given(st.text(alphabet='()[]=@" andorNameValueboolean/SimpleItem01', max_size=60))
def test_any_content_filter_is_read_or_refused(text: str) -> None:
    try:
        test = content_test(text)
    except FilterProblem:
        return
    assert test([("port", "0")]) in (True, False)


WORDS = st.from_regex(r"[a-z]{1,5}", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(WORDS, st.from_regex(r"[a-z0-9 ]{0,5}", fullmatch=True), min_size=1, max_size=4))
def test_the_filter_we_write_means_our_items(items: dict[str, str]) -> None:
    test = content_test(content_filter(items))
    assert test(list(items.items()))
    name = next(iter(items))
    assert not test([(key, value + "!" if key == name else value) for key, value in items.items()])
    assert soap.items_of(content_filter(items)) == {key: value.strip() for key, value in items.items()}


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_topic_filter_is_read_or_refused(text: str) -> None:
    try:
        assert topic_test(text)("tns1:Device") in (True, False)
    except FilterProblem:
        return


# --- readers, with whatever comes ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["ActionRules", "ActionRule", "RuleID", "Name", "Enabled", "Conditions", "Condition", "StartEvent", "TopicExpression", "MessageContent",
     "PrimaryAction", "ActionConfiguration", "ConfigurationID", "Parameters", "Parameter", "TopicSet", "MessageInstance", "SourceInstance",
     "SimpleItemInstance", "Value", "ActionTemplate", "TemplateToken"]
)  # fmt: skip
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["Name", "Value", "topic", "isProperty", "Type"]),
    st.sampled_from(["", "true", "1", "x" * 3000]),
    max_size=3,
)


def element(name: str, attributes: dict[str, str], text: str, inner: list[ET.Element]) -> ET.Element:
    made = ET.Element(name, attributes)
    made.text = text
    made.extend(inner)
    return made


TREES = st.recursive(
    st.builds(element, NAMES, ATTRIBUTES, st.sampled_from(["", "1", "tns1:A", "x" * 4000]), st.just([])),
    lambda inner: st.builds(element, NAMES, ATTRIBUTES, st.just(""), st.lists(inner, max_size=4)),
    max_leaves=25,
)


@settings(deadline=None)
@given(TREES)
def test_any_answer_is_read(tree: ET.Element) -> None:
    for found in (soap.rules(tree), soap.configurations(tree), soap.templates(tree), soap.event_kinds(tree)):
        json.dumps([item.model_dump(mode="json") for item in found])
    soap.identity(tree, "RuleID")


PLAIN = st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cc", "Cn")), max_size=30)


@settings(deadline=None)
@given(PLAIN, st.dictionaries(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), PLAIN, max_size=5))
def test_what_we_send_survives_the_way_there(name: str, values: dict[str, str]) -> None:
    sent = parse_xml(envelope(soap.add_configuration(name, "com.axis.action.fixed.x", values)))
    call = simulated._read(envelope(soap.add_configuration(name, "com.axis.action.fixed.x", values)))
    given_back = call.find("NewActionConfiguration", "Parameters")
    assert given_back is not None
    assert {item.get("Name"): item.get("Value") for item in given_back} == values
    assert call.text("NewActionConfiguration", "Name") == name.strip()
    assert sent is not None


def test_the_prefixes_of_topics_are_declared_where_topics_stand() -> None:
    request = soap.add_rule("n", "1", enabled=True, start_event=(READY, {}), conditions=[(READY, {"ready": "1"})])
    call = simulated._read(envelope(request))
    assert call.prefixes["tns1"] == simulated.TNS1 and call.prefixes["tnsaxis"] == simulated.TNSAXIS
