"""`vapix_event_services`: what cameras can notice and do by themselves, and the rules that join the two."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.vapix._camera import OTHERS_SECONDS, Camera
from tasks.network.vapix._events import SUBTREE, covers, parse_items, parse_topic
from tasks.network.vapix._fleet import CameraEntry, CamerasResult, each_camera, entry, fitting, only_one
from tasks.network.vapix._params import MOST_SECONDS, CameraParams, fleet_timeout
from tasks.network.vapix._rules_change import (
    Changed,
    NewRule,
    Services,
    create,
    create_configuration,
    remove_configuration,
    remove_rule,
)
from tasks.network.vapix._soap_rules import Configuration, EventKind, Rule, Template, holds_secret

READING_REQUESTS, CHANGING_REQUESTS = 8, 20
"""Answers that are waited for at most: those of the login and of who the camera is included."""
API = "vapix-services"


class RuleAction(StrEnum):
    """What to do."""

    EVENTS = "events"
    TEMPLATES = "templates"
    RECIPIENT_TEMPLATES = "recipient_templates"
    CONFIGURATIONS = "configurations"
    RECIPIENTS = "recipients"
    RULES = "rules"
    CREATE_RULE = "create_rule"
    CREATE_CONFIGURATION = "create_configuration"
    REMOVE_RULE = "remove_rule"
    REMOVE_CONFIGURATION = "remove_configuration"


CREATING = (RuleAction.CREATE_RULE, RuleAction.CREATE_CONFIGURATION)
CHANGING = (*CREATING, RuleAction.REMOVE_RULE, RuleAction.REMOVE_CONFIGURATION)
_TAKES: dict[str, tuple[RuleAction, ...]] = {
    "topics": (RuleAction.EVENTS,),
    "name": (*CREATING, RuleAction.REMOVE_RULE),
    "template": CREATING,
    "parameters": CREATING,
    "start_event": (RuleAction.CREATE_RULE,),
    "conditions": (RuleAction.CREATE_RULE,),
    "enabled": (RuleAction.CREATE_RULE,),
    "rule_id": (RuleAction.REMOVE_RULE,),
    "keep_configuration": (RuleAction.REMOVE_RULE,),
    "configuration_id": (RuleAction.REMOVE_CONFIGURATION, RuleAction.CREATE_RULE),
}
_NUMBER = r"^[0-9]{1,10}$"


def _single_topic(text: Any) -> str:
    topic = parse_topic(text)
    if topic.endswith(SUBTREE):
        raise ValueError(
            f"{topic!r} means several events; a rule takes exactly one, such as tns1:Device/tnsaxis:IO/Port"
        )
    return topic


def _plain(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be without line breaks, and without blanks at its ends")
    return text


def _values(given: dict[str, str]) -> dict[str, str]:
    for name, value in given.items():
        if len(name) > 100 or not name.isprintable():
            raise ValueError("a parameter's name has at most 100 printable characters")
        if len(value) > 2000 or any(ord(character) < 32 and character not in "\t\n" for character in value):
            raise ValueError(f"the value of {name} must be at most 2000 characters without control characters")
    return given


class Trigger(BaseModel):
    """An event a rule waits for."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    topic: Annotated[str, BeforeValidator(_single_topic)] = Field(
        description="Its topic, such as tns1:Device/tnsaxis:IO/Port; action = events lists them."
    )
    items: Annotated[dict[str, str], Field(max_length=16), AfterValidator(parse_items)] = Field(
        default_factory=dict,
        description='Items it must have, such as {"port": "0", "state": "1"}: where it comes from, and what it says.',
    )


class VapixEventServices(CameraParams):
    """Parameters of `vapix_event_services`."""

    action: RuleAction = Field(
        RuleAction.RULES,
        description="events, templates (what the camera can do), recipient_templates, configurations (actions that are set up), recipients "
        "or rules: list them. create_rule, create_configuration, remove_rule, remove_configuration: need approval.",
    )
    topics: Annotated[list[Annotated[str, BeforeValidator(parse_topic)]], Field(max_length=32)] = Field(
        default_factory=list, description="events: only these topics, such as tns1:Device//.; at most 32. Default: all."
    )
    name: Annotated[str, AfterValidator(_plain)] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="create_rule: name of the new rule and of its new action, 1 to 64 characters. create_configuration: of the new action. "
        "remove_rule: name of the rule.",
    )
    rule_id: str | None = Field(
        None, pattern=_NUMBER, description="remove_rule: the rule's number, in place of its name."
    )
    configuration_id: str | None = Field(
        None,
        pattern=_NUMBER,
        description="remove_configuration: number of the action configuration. create_rule: of one that is set up, in place of template.",
    )
    template: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,200}$",
        description="create_rule and create_configuration: what to do, such as com.axis.action.fixed.io.toggle; action = templates "
        "lists them.",
    )
    parameters: Annotated[dict[str, str], Field(max_length=64), AfterValidator(_values)] = Field(
        default_factory=dict,
        description="create_rule and create_configuration: values of the template's parameters, such as "
        '{"port": "1", "state": "high", "duration": "2"}; those not given are sent empty. Never a login or a password.',
    )
    start_event: Trigger | None = Field(
        None, description="create_rule: the event that starts the action, a topic with items."
    )
    conditions: list[Trigger] = Field(
        default_factory=list,
        max_length=8,
        description="create_rule: states that must hold, each a topic with items that mean exactly one state; at most 8. "
        "At least one, or start_event.",
    )
    enabled: bool = Field(True, description="create_rule: whether the rule works at once.")
    keep_configuration: bool = Field(
        False, description="remove_rule: leave its action configuration on the camera, even when no other rule uses it."
    )

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        for field, actions in _TAKES.items():
            if (
                field in self.model_fields_set
                and self.action not in actions
                and getattr(self, field) != _default(field)
            ):
                raise ValueError(f"{field} is for action = {' or '.join(actions)}, not {self.action}")
        if self.action in CHANGING:
            only_one(self, self.action)
        match self.action:
            case RuleAction.CREATE_RULE:
                self._check_creation()
            case RuleAction.CREATE_CONFIGURATION:
                if self.name is None or self.template is None:
                    raise ValueError(
                        "create_configuration needs name and template; action = templates lists what the camera can do"
                    )
                self._check_values()
            case RuleAction.REMOVE_RULE:
                if (self.name is None) == (self.rule_id is None):
                    raise ValueError("remove_rule takes either name or rule_id")
            case RuleAction.REMOVE_CONFIGURATION:
                if self.configuration_id is None:
                    raise ValueError("remove_configuration needs configuration_id; action = configurations lists them")
        return self

    def _check_creation(self) -> None:
        if self.name is None or (self.template is None) == (self.configuration_id is None):
            raise ValueError(
                "create_rule needs name and template, or name and configuration_id; action = templates lists what the camera can do, "
                "configurations what is set up"
            )
        if self.parameters and self.template is None:
            raise ValueError("parameters go with template: the action that configuration_id means has its own")
        if self.start_event is None and not self.conditions:
            raise ValueError(
                "create_rule needs start_event or at least one of conditions; action = events lists the events"
            )
        self._check_values()

    def _check_values(self) -> None:
        for name, value in self.parameters.items():
            # Refused here already: what stands in parameters reaches the ledger.
            if holds_secret(name, value):
                raise ValueError(
                    f"parameters: {name} would hold a secret, and those never stand in parameters; set such an action up on the camera's "
                    "own web page, then make the rule with its configuration_id"
                )

    def thing(self) -> str | None:
        """What a change is about: a rule's or configuration's name, or its number and what it is the number of."""
        if self.name is not None:
            return self.name
        return f"rule {self.rule_id}" if self.rule_id is not None else f"configuration {self.configuration_id}"

    def safety(self) -> Safety | None:
        return Safety.DESTROY if self.action in CHANGING else None

    def approval(self) -> bool:
        return self.action in CHANGING

    @property
    def each_seconds(self) -> float:
        """Seconds one camera takes at most."""
        requests = CHANGING_REQUESTS if self.action in CHANGING else READING_REQUESTS
        return OTHERS_SECONDS + requests * self.timeout

    def deadline(self) -> float:
        return fleet_timeout(self.each_seconds, len(self.targets))

    def about(self) -> str:
        what = f"{self.action} {self.thing()}" if self.action in CHANGING else str(self.action)
        return f"{super().about()[:300]}: {what}"[:500]


def _default(field: str) -> Any:
    return VapixEventServices.model_fields[field].get_default(call_default_factory=True)


class CameraRules(CameraEntry):
    """What one camera has, or what became of a change."""

    api: str | None = Field(None, description="The API that was used: vapix-services (SOAP).")
    events: list[EventKind] = Field(default_factory=list, description="events: what it can notice, by topic.")
    templates: list[Template] = Field(
        default_factory=list, description="templates and recipient_templates: what it can do, or where it can send to."
    )
    configurations: list[Configuration] = Field(
        default_factory=list, description="configurations: the actions that are set up, by number."
    )
    recipients: list[Configuration] = Field(
        default_factory=list,
        description="recipients: the receivers that are set up, by number; logins and passwords are masked.",
    )
    rules: list[Rule] = Field(
        default_factory=list, description="rules: all, by number; after a change those there are now."
    )
    before: list[Rule] = Field(default_factory=list, description="Of a change: the rules there were before.")
    listed: int = Field(
        0, ge=0, description="How many entries the list that was asked for has, those only in the report included."
    )
    rule: Rule | None = Field(None, description="The rule that was made, as the camera keeps it, or removed.")
    configuration: Configuration | None = Field(
        None, description="The action configuration that was made or taken, as the camera keeps it, or removed."
    )


class VapixEventServicesResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    action: RuleAction = Field(description="What was asked for.")
    cameras: Sequence[CameraRules] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: Any) -> str:
        assert isinstance(camera, CameraRules)
        if camera.api is None:
            return super().one_line(camera)
        if self.action in CHANGING:
            what = f"rule {camera.rule.rule_id} ({camera.rule.name})" if camera.rule else ""
            action = f"action configuration {camera.configuration.configuration_id}" if camera.configuration else ""
            done = "made" if self.action in CREATING else "removed"
            notes = f"; {camera.detail}" if camera.detail else ""
            return f"{camera.target}: {done} {' with '.join(part for part in (what, action) if part)}{notes}"
        return f"{camera.target}: {count(camera.listed or 0, self.action.replace('_', ' ').removesuffix('s'))}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=MOST_SECONDS,
    retries=1,
    aliases=("axis_vapix_event_services",),
    examples=[
        Example("Which rules does a camera have?", {"targets": ["10.0.0.20"], "credentials": "axis/yard"}),
        Example(
            "Which events of its inputs and outputs can it notice?",
            {
                "targets": ["10.0.0.20"],
                "credentials": "axis/yard",
                "action": "events",
                "topics": ["tns1:Device/tnsaxis:IO//."],
            },
        ),
        Example(
            "Pulse the gate's relay when the door opens",
            {
                "targets": ["10.0.0.20"],
                "credentials": "axis/admin",
                "action": "create_rule",
                "name": "Door to gate",
                "template": "com.axis.action.fixed.io.toggle",
                "parameters": {"port": "1", "state": "high", "duration": "2"},
                "conditions": [{"topic": "tns1:Device/tnsaxis:IO/Port", "items": {"port": "0", "state": "1"}}],
                "confirm": "10.0.0.20 Door to gate",
            },
        ),
        Example(
            "Remove that rule",
            {
                "targets": ["10.0.0.20"],
                "credentials": "axis/admin",
                "action": "remove_rule",
                "name": "Door to gate",
                "confirm": "10.0.0.20 Door to gate",
            },
        ),
    ],
)
async def vapix_event_services(params: VapixEventServices) -> VapixEventServicesResult:
    """List cameras' events, actions and rules; make and remove rules.

    A rule works in the camera by itself: it can open doors, stop a recording or send pictures elsewhere, and it stays. So making one
    needs approval as much as removing one. A rule cannot be changed: make the new one, then remove the old one. All of it takes an
    administrator's account.

    Raises:
        InvalidParameters: The camera has no such template, parameter or event.
        Conflict: There is a rule of that name already, or what is to be removed is in use.
        NotFound: There is no such rule or configuration.
        Rejected: The camera did not take it. Nothing is left behind, or the error says what is.
        Forbidden: The account's level is too low.
        Unsupported: The camera has no such services.
    """

    async def work(camera: Camera) -> dict[str, Any]:
        found = await _work(Services(camera), params)
        return {"api": API, "listed": 0 if params.action in CHANGING else len(next(iter(found.values()))), **found}

    seen = await each_camera(params, work, seconds=params.each_seconds)
    entries = [entry(CameraRules, one, **(one.value or {})) for one in seen]
    result = VapixEventServicesResult(action=params.action, cameras=entries)
    return await fitting(result, ("before", "events", "templates", "recipients", "configurations", "rules"))


async def _work(services: Services, params: VapixEventServices) -> dict[str, Any]:
    match params.action:
        case RuleAction.EVENTS:
            kinds = await services.events()
            wanted = params.topics
            return {
                "events": [kind for kind in kinds if not wanted or any(covers(topic, kind.topic) for topic in wanted)]
            }
        case RuleAction.TEMPLATES:
            return {"templates": await services.templates()}
        case RuleAction.RECIPIENT_TEMPLATES:
            return {"templates": await services.recipient_templates()}
        case RuleAction.CONFIGURATIONS:
            return {"configurations": await services.configurations()}
        case RuleAction.RECIPIENTS:
            return {"recipients": await services.recipients()}
        case RuleAction.RULES:
            return {"rules": await services.rules()}
        case RuleAction.CREATE_RULE:
            return _said(services, await create(services, _new_rule(params)))
        case RuleAction.CREATE_CONFIGURATION:
            assert params.name is not None and params.template is not None
            return _said(
                services, await create_configuration(services, params.name, params.template, params.parameters)
            )
        case RuleAction.REMOVE_RULE:
            removing = remove_rule(services, name=params.name, rule_id=params.rule_id, keep=params.keep_configuration)
            return _said(services, await removing)
        case RuleAction.REMOVE_CONFIGURATION:
            assert params.configuration_id is not None
            return _said(services, await remove_configuration(services, params.configuration_id))


def _new_rule(params: VapixEventServices) -> NewRule:
    assert params.name is not None
    start = params.start_event
    return NewRule(
        name=params.name,
        template=params.template,
        parameters=params.parameters,
        start_event=(start.topic, start.items) if start is not None else None,
        conditions=[(condition.topic, condition.items) for condition in params.conditions],
        enabled=params.enabled,
        configuration_id=params.configuration_id,
    )


def _said(services: Services, changed: Changed) -> dict[str, Any]:
    services.camera.notes.extend(changed.notes)
    return {
        "rules": changed.after,
        "before": changed.before,
        "rule": changed.rule,
        "configuration": changed.configuration,
    }
