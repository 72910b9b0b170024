"""Making and removing a camera's rules, so that a failure half-way leaves nothing behind that nobody knows of.

A rule is two things on a camera: an action with its values (a configuration), and the rule that starts it. There is no operation that
changes one: replacing is adding the new one and removing the old one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from tasks.core.errors import Conflict, InvalidParameters, NotFound, Rejected, ToolError, Unanswered
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._events import SUBTREE, clean
from tasks.network.vapix._soap_rules import (
    ACTION,
    EVENT,
    Configuration,
    EventKind,
    Rule,
    RuleEvent,
    Template,
    add_configuration,
    add_rule,
    ask_for,
    configurations,
    event_kinds,
    identity,
    local,
    remove,
    rules,
    same_value,
    templates,
)
from tasks.network.vapix._wire import Declined, Nonsense

Wanted = tuple[str, Mapping[str, str]]
"""A topic, and the items an event must have."""
LONGEST_QUOTED = 60


HINTS = {
    "ActionTemplateNotFoundFault": "List what the camera can do with action = templates.",
    "ParametersMissmatchFault": "List the template's parameters with action = templates.",
    "ActionConfigurationNotFoundFault": "List them with action = configurations.",
    "ActionConfigurationIsInUseFault": "Remove the rule that uses it first: action = remove_rule removes both.",
    "ActionRuleNotFoundFault": "List them with action = rules.",
    "InvalidConditionFilterFault": "A condition has to mean exactly one state: list them with action = events.",
    "InsufficientActivationRuleFault": "An action that lasts needs a state that holds meanwhile: give one of conditions.",
    "InvalidTopicExpressionFault": "List the topics with action = events.",
    "InvalidMessageContentExpressionFault": "List the items of events with action = events.",
    "InvalidFilterFault": "List the items of events with action = events.",
    "RecipientConfigurationNotFoundFault": "List them with action = recipients.",
    "RecipientTemplateNotFoundFault": "List them with action = recipient_templates.",
}
"""What to do about the faults of the services, by their names."""


class Services:
    """The SOAP services of one camera, operation by operation."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera

    async def _ask(self, request: Element, *, namespace: str = ACTION, write: bool = False) -> Element:
        try:
            return await self.camera.soap(request, action=f"{namespace}/{local(request.tag)}", write=write)
        except (Declined, NotFound) as problem:
            problem.hint = problem.hint or HINTS.get(getattr(problem, "fault", None) or "")
            raise

    async def _read(self, name: str, namespace: str = ACTION) -> Element:
        return await self._ask(ask_for(name, namespace), namespace=namespace)

    async def events(self) -> list[EventKind]:
        """The events it can notice."""
        return event_kinds(await self._read("GetEventInstances", EVENT))

    async def templates(self) -> list[Template]:
        """What it can do."""
        return templates(await self._read("GetActionTemplates"))

    async def recipient_templates(self) -> list[Template]:
        """Where it can send to."""
        return templates(await self._read("GetRecipientTemplates"), "RecipientTemplate")

    async def configurations(self) -> list[Configuration]:
        """The actions that are set up."""
        return configurations(await self._read("GetActionConfigurations"))

    async def recipients(self) -> list[Configuration]:
        """The receivers that are set up."""
        return configurations(await self._read("GetRecipientConfigurations"), "RecipientConfiguration")

    async def rules(self) -> list[Rule]:
        """The rules, each with what its action is."""
        return joined(rules(await self._read("GetActionRules")), await self.configurations())

    async def add_configuration(self, name: str, template: str, parameters: Mapping[str, str]) -> str:
        """Set up an action; returns its number."""
        answer = await self._ask(add_configuration(name, template, parameters), write=True)
        return self._number(answer, "ConfigurationID")

    async def add_rule(
        self,
        name: str,
        configuration_id: str,
        *,
        enabled: bool,
        start_event: Wanted | None,
        conditions: Sequence[Wanted],
    ) -> str:
        """Make a rule; returns its number."""
        request = add_rule(name, configuration_id, enabled=enabled, start_event=start_event, conditions=conditions)
        answer = await self._ask(request, write=True)
        return self._number(answer, "RuleID")

    async def remove_rule(self, rule_id: str) -> None:
        """Remove a rule; its action stays."""
        await self._ask(remove("RemoveActionRule", "RuleID", rule_id), write=True)

    async def remove_configuration(self, configuration_id: str) -> None:
        """Remove an action; refused while a rule uses it."""
        await self._ask(remove("RemoveActionConfiguration", "ConfigurationID", configuration_id), write=True)

    def _number(self, answer: Element, name: str) -> str:
        number = identity(answer, name)
        if number is None:
            raise Nonsense(f"{self.camera.asked} does not say the number of what it added.", hint="List its rules.")
        return number


def joined(found: Sequence[Rule], known: Sequence[Configuration]) -> list[Rule]:
    """Rules with the names and templates of their actions."""
    by_id = {configuration.configuration_id: configuration for configuration in known}
    return [
        rule.model_copy(update={"action_name": action.name, "template": action.template})
        if (action := by_id.get(rule.configuration_id))
        else rule
        for rule in found
    ]


@dataclass
class Changed:
    """What a change did.

    Attributes:
        before: The rules before it.
        after: The rules after it.
        rule: The rule that was made or removed.
        configuration: The action that was made or removed.
        notes: What a person should know.
    """

    before: list[Rule]
    after: list[Rule]
    rule: Rule | None = None
    configuration: Configuration | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NewRule:
    """A rule to make.

    Attributes:
        name: Its name, and its action's where one is set up for it.
        template: What it does; None with `configuration_id`.
        parameters: With which values; the template's others are sent empty.
        start_event: The event that starts it.
        conditions: States that must hold.
        enabled: Whether it works at once.
        configuration_id: The action that is set up already and that it starts.
    """

    name: str
    template: str | None
    parameters: Mapping[str, str]
    start_event: Wanted | None
    conditions: Sequence[Wanted]
    enabled: bool
    configuration_id: str | None = None


async def create(services: Services, new: NewRule) -> Changed:
    """Make a rule, with an action of its own or one that is set up already, and read it back.

    Raises:
        InvalidParameters: The camera has no such template, parameter or event. Nothing was sent that changes it.
        NotFound: It has no such action.
        Conflict: There is a rule of that name.
        Rejected: The camera did not take it; nothing is left behind, or the error says what is.
    """
    place = services.camera.asked
    parameters: dict[str, str] = {}
    if new.configuration_id is not None:
        does = _configuration(await services.configurations(), new.configuration_id, place).template
    else:
        template = _template(await services.templates(), new.template or "", place)
        parameters, does = _parameters(template, new.parameters), template.template
    if ".unlimited." in does and not new.conditions:
        raise InvalidParameters(
            f"{does} lasts while states hold: it needs at least one of conditions.",
            hint=f"For something that happens once take {does.replace('.unlimited.', '.fixed.')}, where there is one.",
        )
    kinds = await services.events()
    for condition in new.conditions:
        check_condition(kinds, condition, place)
    if new.start_event is not None:
        check_start_event(kinds, new.start_event, place)
    before = await services.rules()
    same = [rule.rule_id for rule in before if rule.name == new.name]
    if same:
        raise Conflict(
            f"{place} has a rule {new.name!r} already (number {', '.join(same)}).",
            hint="A rule cannot be changed: make one of another name, then remove the old one.",
        )
    configuration_id = new.configuration_id or await _add_action(services, new.name, does, parameters)
    try:
        rule_id = await services.add_rule(
            new.name, configuration_id, enabled=new.enabled, start_event=new.start_event, conditions=new.conditions
        )
    except ToolError as problem:
        lost = isinstance(problem, (Unanswered, Nonsense))
        found = await _arrived(services, new, before, configuration_id) if lost else None
        if found is None and new.configuration_id is None:
            raise await _taken_back(services, configuration_id, problem) from None
        if found is None:
            raise
        rule_id = found.rule_id
    return await _made(services, new, before, rule_id, configuration_id)


async def create_configuration(services: Services, name: str, token: str, given: Mapping[str, str]) -> Changed:
    """Set up an action that no rule starts yet, and read it back.

    Raises:
        InvalidParameters: The camera has no such template or parameter. Nothing was sent that changes it.
        Conflict: There is an action of that name.
        Rejected: The camera did not take it.
    """
    place = services.camera.asked
    template = _template(await services.templates(), token, place)
    parameters = _parameters(template, given)
    same = [each.configuration_id for each in await services.configurations() if each.name == name]
    if same:
        raise Conflict(
            f"{place} has an action configuration {name!r} already (number {', '.join(same)}).",
            hint="It cannot be changed: make one of another name, then remove the old one.",
        )
    before = await services.rules()
    number = await _add_action(services, name, template.template, parameters)
    made = next((each for each in await services.configurations() if each.configuration_id == number), None)
    if made is None:
        raise Rejected(
            f"{place} said it made action configuration {number}, but has no such one.",
            hint="List them with action = configurations.",
        )
    return Changed(before, before, configuration=made, notes=_other_action(name, template.template, given, made))


async def _add_action(services: Services, name: str, template: str, parameters: Mapping[str, str]) -> str:
    try:
        return await services.add_configuration(name, template, parameters)
    except (Unanswered, Nonsense) as problem:
        problem.hint = (
            f"It may have been set up: list the configurations, and remove the one named {name!r} if it is there."
        )
        raise


async def _arrived(services: Services, new: NewRule, before: Sequence[Rule], configuration_id: str) -> Rule | None:
    """The rule whose answer got lost, if it was made. When that cannot be read either, the error says so."""
    try:
        known = await services.rules()
    except ToolError as problem:
        raise Unanswered(
            f"{services.camera.asked} did not answer whether it made the rule {new.name!r}, and cannot be asked: {problem.message}",
            hint=f"List its rules; its action has number {configuration_id}.",
        ) from None
    older = {rule.rule_id for rule in before}
    return next(
        (rule for rule in known if rule.configuration_id == configuration_id and rule.rule_id not in older), None
    )


async def _taken_back(services: Services, configuration_id: str, problem: ToolError) -> ToolError:
    """Remove the action of a rule that was not made, and say so in the error that is raised for it."""
    try:
        await services.remove_configuration(configuration_id)
    except ToolError as further:
        problem.message = (
            f"{problem.message} Its action (number {configuration_id}) is left on the camera: it could not be removed "
            f"({further.message})"
        )
        problem.hint = "Remove it with action = remove_configuration."
    else:
        problem.message = (
            f"{problem.message} The action that was set up for the rule was removed again: nothing is left."
        )
    return problem


async def _made(
    services: Services,
    new: NewRule,
    before: list[Rule],
    rule_id: str,
    configuration_id: str,
) -> Changed:
    after, known = await services.rules(), await services.configurations()
    rule = next((rule for rule in after if rule.rule_id == rule_id), None)
    configuration = next((each for each in known if each.configuration_id == configuration_id), None)
    if rule is None or configuration is None:
        missing = "rule" if rule is None else "action"
        raise Rejected(
            f"{services.camera.asked} said it made rule {rule_id}, but has no such {missing}.", hint="List its rules."
        )
    changed = Changed(before, after, rule, configuration)
    changed.notes += _differences(new, rule)
    if new.template is not None:
        changed.notes += _other_action(new.name, new.template, new.parameters, configuration)
    return changed


def _other_action(name: str, template: str, given: Mapping[str, str], kept: Configuration) -> list[str]:
    """What an action that was set up has otherwise than was asked for. Values that were not given are the camera's affair."""
    found = []
    if kept.name != name:
        found.append(f"The camera calls the action {kept.name!r}.")
    if kept.template != template:
        found.append(f"The action does something else than was asked for: {kept.template} in place of {template}.")
    others = [
        f"{each} {clean(kept.parameters.get(each, ''), LONGEST_QUOTED)!r} in place of {clean(value, LONGEST_QUOTED)!r}"
        for each, value in given.items()
        if not same_value(each, value, kept.parameters.get(each, ""))
    ]
    if others:
        found.append(f"The camera keeps the action with other values than were asked for: {', '.join(others)}.")
    return found


def _differences(new: NewRule, rule: Rule) -> list[str]:
    def said(wanted: Wanted, told: RuleEvent) -> bool:
        topic = wanted[0].removesuffix(SUBTREE)
        return told.topic.removesuffix(SUBTREE) == topic and told.items == dict(wanted[1])

    found = []
    if rule.name != new.name:
        found.append(f"The camera calls the rule {rule.name!r}.")
    if rule.enabled is not new.enabled:
        found.append(
            f"The camera keeps the rule as {'enabled' if rule.enabled else 'disabled'}, against what was asked."
        )
    as_asked = len(rule.conditions) == len(new.conditions) and all(
        any(said(wanted, told) for told in rule.conditions) for wanted in new.conditions
    )
    if new.start_event is not None:
        as_asked = as_asked and rule.start_event is not None and said(new.start_event, rule.start_event)
    if not as_asked:
        found.append("The camera keeps other conditions than were asked for: look at the rule.")
    return found


async def remove_rule(services: Services, *, name: str | None, rule_id: str | None, keep: bool) -> Changed:
    """Remove a rule, and its action when nothing else uses it.

    Raises:
        NotFound: There is no such rule.
        Conflict: Several have that name.
        Rejected: It is still there afterwards.
    """
    place = services.camera.asked
    before = await services.rules()
    rule = _the_rule(before, name, rule_id, place)
    await services.remove_rule(rule.rule_id)
    after = await services.rules()
    if any(each.rule_id == rule.rule_id for each in after):
        raise Rejected(f"{place} said it removed rule {rule.rule_id}, but still has it.")
    changed = Changed(before, after, rule)
    configuration_id = rule.configuration_id
    users = [each.rule_id for each in after if each.configuration_id == configuration_id]
    if keep:
        changed.notes.append(f"Its action (number {configuration_id}) stays, as asked.")
    elif users:
        changed.notes.append(f"Its action (number {configuration_id}) stays: rule {', '.join(users)} uses it as well.")
    else:
        changed.configuration = next(
            (each for each in await services.configurations() if each.configuration_id == configuration_id), None
        )
        try:
            await services.remove_configuration(configuration_id)
        except NotFound:
            pass
        except ToolError as problem:
            changed.configuration = None
            changed.notes.append(
                f"The rule is gone, but its action (number {configuration_id}) is left: {problem.message} "
                "Remove it with action = remove_configuration."
            )
    return changed


def _the_rule(known: Sequence[Rule], name: str | None, rule_id: str | None, place: str) -> Rule:
    found = [rule for rule in known if (rule.rule_id == rule_id if rule_id is not None else rule.name == name)]
    what = f"number {rule_id}" if rule_id is not None else repr(name)
    if not found:
        raise NotFound(f"{place} has no rule {what}.", hint="List them with action = rules.")
    if len(found) > 1:
        numbers = ", ".join(rule.rule_id for rule in found)
        raise Conflict(f"{place} has several rules {what}: numbers {numbers}.", hint="Say which with rule_id.")
    return found[0]


async def remove_configuration(services: Services, configuration_id: str) -> Changed:
    """Remove an action that no rule uses.

    Raises:
        NotFound: There is no such action.
        Conflict: A rule uses it.
    """
    place = services.camera.asked
    found = _configuration(await services.configurations(), configuration_id, place)
    before = await services.rules()
    users = [rule for rule in before if rule.configuration_id == configuration_id]
    if users:
        named = ", ".join(f"{rule.rule_id} ({rule.name})" for rule in users)
        raise Conflict(
            f"{place} uses action configuration number {configuration_id} in rule {named}.",
            hint="Remove the rule first: action = remove_rule removes both.",
        )
    await services.remove_configuration(configuration_id)
    if any(each.configuration_id == configuration_id for each in await services.configurations()):
        raise Rejected(f"{place} said it removed action configuration number {configuration_id}, but still has it.")
    return Changed(before, before, configuration=found)


def _configuration(known: Sequence[Configuration], configuration_id: str, place: str) -> Configuration:
    found = next((each for each in known if each.configuration_id == configuration_id), None)
    if found is None:
        raise NotFound(
            f"{place} has no action configuration number {configuration_id}.",
            hint="List them with action = configurations.",
        )
    return found


# --- what a rule may say ---------------------------------------------------------------------------------------------


def _template(known: Sequence[Template], token: str, place: str) -> Template:
    found = next((template for template in known if template.template == token), None)
    if found is None:
        raise InvalidParameters(
            f"template: {place} cannot do {token!r}{_nearest(token, [each.template for each in known])}.",
            hint="List what it can with action = templates.",
        )
    return found


def _parameters(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """The values of all of a template's parameters: cameras want those that are not used as well, empty."""
    for name in given:
        if name not in template.parameters:
            raise InvalidParameters(
                f"parameters: {template.template} has no {name!r}; it has {', '.join(template.parameters) or 'none'}."
            )
    return {name: given.get(name, "") for name in template.parameters}


def check_condition(kinds: Sequence[EventKind], condition: Wanted, place: str) -> None:
    """Check that a condition means exactly one state of the camera, and says which value it has.

    Raises:
        InvalidParameters: It does not; says what would be right.
    """
    kind = _kind(kinds, condition, place, "conditions")
    if not kind.stateful:
        raise InvalidParameters(
            f"conditions: {kind.topic} is a moment, not a state.", hint="Give it as start_event instead."
        )
    _, items = condition
    for item in kind.source:
        if item.name not in items and len(item.values) != 1:
            values = f": one of {', '.join(item.values[:20])}" if item.values else ""
            raise InvalidParameters(f"conditions: {kind.topic} does not say which {item.name}{values}.")
    if kind.data and not any(item.name in items for item in kind.data):
        wanted = " or ".join(item.name for item in kind.data)
        raise InvalidParameters(
            f"conditions: {kind.topic} does not say what {wanted} must be, such as {kind.data[0].name} = 1."
        )


def check_start_event(kinds: Sequence[EventKind], event: Wanted, place: str) -> None:
    """Check that the event that starts a rule is one the camera can notice.

    Raises:
        InvalidParameters: It is not.
    """
    _kind(kinds, event, place, "start_event")


def _kind(kinds: Sequence[EventKind], wanted: Wanted, place: str, parameter: str) -> EventKind:
    topic, items = wanted
    kind = next((each for each in kinds if each.topic == topic), None)
    if kind is None:
        raise InvalidParameters(
            f"{parameter}: {place} has no event {topic}{_nearest(topic, [each.topic for each in kinds])}.",
            hint="List them with action = events.",
        )
    known = {item.name: item for item in (*kind.source, *kind.data)}
    for name, value in items.items():
        if name not in known:
            raise InvalidParameters(f"{parameter}: {topic} has no item {name!r}; it has {', '.join(known) or 'none'}.")
        if known[name].values and value not in known[name].values:
            raise InvalidParameters(
                f"{parameter}: {name} of {topic} is one of {', '.join(known[name].values[:20])}, not {value!r}."
            )
    return kind


def _nearest(text: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
