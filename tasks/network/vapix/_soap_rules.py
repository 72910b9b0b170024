"""The camera's own rules, as its SOAP services say and take them: what it can notice, what it can do, and which rule joins the two.

Everything here is a function of XML elements: `add_rule(...)` builds a request, `rules(...)` reads an answer. Elements are found by their
local names: firmware versions declare prefixes as they like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.redact import redact_text
from tasks.network.vapix._events import LONGEST_NAME, clean, content_filter, told_topic

ACTION = "http://www.axis.com/vapix/ws/action1"
EVENT = "http://www.axis.com/vapix/ws/event1"
NOTIFICATION = "http://docs.oasis-open.org/wsn/b-2"
TOPIC = "http://docs.oasis-open.org/wsn/t-1"
TREES = {"tns1": "http://www.onvif.org/ver10/topics", "tnsaxis": "http://www.axis.com/2009/event/topics"}
TOPIC_DIALECT = "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete"
CONTENT_DIALECT = "http://www.onvif.org/ver10/tev/messageContentFilter/ItemFilter"

MASK = "***"
LONGEST_PARAMETER = 2000
DEEPEST_TOPIC = 12
MOST_VALUES = 64
MOST_ENTRIES = 1000

# Names as `_words` has them. Short words count alone and last only: a key frame, a bypass and a monkey are no secrets.
_SECRET = re.compile(
    r"passw|passphrase|passcode|secret|token|credential|(api|private|access|shared)_?key|(^|_)auth(?!ors?(_|$))"
    r"|((^|_)(pass|pw|key|sas|sig|signature|bearer|cookies?)|(user|login|proxy|ftp|smtp)pass|pwd|psk|headers?"
    r"|(login|user|account|community)(_?(id|name))?)_?\d*$"
)
_TREE = {uri: prefix for prefix, uri in TREES.items()}
_ITEM = re.compile(r'boolean\(\s*//SimpleItem\[\s*@Name\s*=\s*"([^"]+)"\s+and\s+@Value\s*=\s*"([^"]*)"\s*\]\s*\)')


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventItem(_Said):
    """An item an event has: where it comes from, or what it says."""

    name: str = Field(description="Its name, such as port or state.")
    type: str | None = Field(None, description="Its XML type, such as xsd:int or xsd:boolean.")
    values: list[str] = Field(default_factory=list, description="The values it can have, where the camera lists them.")


class EventKind(_Said):
    """A kind of event a camera can notice."""

    topic: str = Field(description="Its topic, such as tns1:Device/tnsaxis:IO/Port.")
    name: str | None = Field(None, description="What the camera calls it.")
    stateful: bool = Field(
        description="Whether it is a state, which conditions of rules may name; else it is a moment."
    )
    application_data: bool = Field(False, description="Whether it is meant for one application and not for rules.")
    source: list[EventItem] = Field(default_factory=list, description="Items that say where it comes from.")
    data: list[EventItem] = Field(default_factory=list, description="Items that say what is.")


class Template(_Said):
    """Something a camera can do, or a kind of receiver it can send to."""

    template: str = Field(description="Its token, such as com.axis.action.fixed.io.toggle.")
    recipient: str | None = Field(None, description="The template of the receiver it needs.")
    parameters: list[str] = Field(default_factory=list, description="Names of its parameters.")


class Configuration(_Said):
    """An action with its values, which a rule starts; or a receiver with its values."""

    configuration_id: str = Field(description="The camera's number of it.")
    name: str = Field(description="Its name.")
    template: str = Field(description="The template it is made from.")
    parameters: dict[str, str] = Field(
        default_factory=dict,
        description="Its values, which some firmware writes percent-encoded; logins and passwords are masked.",
    )


class RuleEvent(_Said):
    """What a rule waits for."""

    topic: str = Field(description="Topic of the event.")
    content: str | None = Field(None, description="The filter on its items, as the camera keeps it.")
    items: dict[str, str] = Field(
        default_factory=dict, description="The same filter as items and values, where it is that simple."
    )


class Rule(_Said):
    """A rule of a camera: when this, do that."""

    rule_id: str = Field(description="The camera's number of it.")
    name: str = Field(description="Its name.")
    enabled: bool = Field(description="Whether it works.")
    start_event: RuleEvent | None = Field(None, description="The event that starts it.")
    conditions: list[RuleEvent] = Field(default_factory=list, description="States that must hold.")
    configuration_id: str = Field(description="The action configuration it starts.")
    action_name: str | None = Field(None, description="That configuration's name.")
    template: str | None = Field(None, description="That configuration's template.")


# --- requests --------------------------------------------------------------------------------------------------------


def _child(parent: ET.Element, name: str, text: str | None = None, namespace: str = ACTION) -> ET.Element:
    made = ET.SubElement(parent, f"{{{namespace}}}{name}")
    made.text = text
    return made


def ask_for(name: str, namespace: str = ACTION) -> ET.Element:
    """A request that needs no more than its name, such as GetActionRules."""
    return ET.Element(f"{{{namespace}}}{name}")


def remove(name: str, identity: str, value: str) -> ET.Element:
    """A request to remove what a number names, such as RemoveActionRule with its RuleID."""
    request = ask_for(name)
    _child(request, identity, value)
    return request


def add_configuration(name: str, template: str, parameters: Mapping[str, str]) -> ET.Element:
    """The request that stores an action with its values; a template wants all its parameters, empty ones too."""
    request = ask_for("AddActionConfiguration")
    new = _child(request, "NewActionConfiguration")
    _child(new, "Name", name)
    _child(new, "TemplateToken", template)
    values = _child(new, "Parameters")
    for parameter, value in parameters.items():
        _child(values, "Parameter").attrib.update({"Name": parameter, "Value": value})
    return request


def add_rule(
    name: str,
    configuration_id: str,
    *,
    enabled: bool,
    start_event: tuple[str, Mapping[str, str]] | None,
    conditions: Sequence[tuple[str, Mapping[str, str]]],
) -> ET.Element:
    """The request that stores a rule; events are pairs of topic and items."""
    request = ask_for("AddActionRule")
    new = _child(request, "NewActionRule")
    for prefix, uri in TREES.items():
        # Topics are names inside a text: the parser of ours that writes this cannot know that they need their prefixes.
        new.set(f"xmlns:{prefix}", uri)
    _child(new, "Name", name)
    _child(new, "Enabled", "true" if enabled else "false")
    if start_event is not None:
        _event(_child(new, "StartEvent"), *start_event)
    if conditions:
        all_of = _child(new, "Conditions")
        for condition in conditions:
            _event(_child(all_of, "Condition"), *condition)
    _child(new, "PrimaryAction", configuration_id)
    return request


def _event(parent: ET.Element, topic: str, items: Mapping[str, str]) -> None:
    _child(parent, "TopicExpression", topic, NOTIFICATION).set("Dialect", TOPIC_DIALECT)
    if items:
        _child(parent, "MessageContent", content_filter(items), NOTIFICATION).set("Dialect", CONTENT_DIALECT)


# --- answers ---------------------------------------------------------------------------------------------------------


def local(tag: object) -> str:
    """An element's or attribute's name without its namespace.

    >>> local("{http://www.axis.com/vapix/ws/action1}Name")
    'Name'
    """
    return tag.rsplit("}", 1)[-1] if isinstance(tag, str) else ""


def _all(node: ET.Element, name: str) -> Iterator[ET.Element]:
    for number, found in enumerate(inner for inner in node.iter() if local(inner.tag) == name):
        if number >= MOST_ENTRIES:
            return
        yield found


def _one(node: ET.Element, name: str) -> ET.Element | None:
    return next((child for child in node if local(child.tag) == name), None)


def said(node: ET.Element, name: str, limit: int = LONGEST_NAME) -> str:
    """The text of a child; empty when there is none."""
    child = _one(node, name)
    return clean(child.text or "", limit) if child is not None else ""


def identity(answer: ET.Element, name: str) -> str | None:
    """The number a request for something new is answered with."""
    found = next(_all(answer, name), None)
    return clean(found.text or "", 40) or None if found is not None else None


def _attribute(node: ET.Element, name: str) -> str:
    return next((value for key, value in node.attrib.items() if local(key) == name), "")


def event_kinds(answer: ET.Element) -> list[EventKind]:
    """Read the tree of topics; in the order of their names, as the camera's own order means nothing."""
    found: list[EventKind] = []
    for tree in _all(answer, "TopicSet"):
        for child in tree:
            _walk(child, [], found)
    return sorted(found, key=lambda kind: kind.topic)


def _walk(node: ET.Element, above: list[str], found: list[EventKind]) -> None:
    if len(above) >= DEEPEST_TOPIC or len(found) >= MOST_ENTRIES or not isinstance(node.tag, str):
        return
    uri, _, name = node.tag.rpartition("}")
    if name == "MessageInstance":
        return
    prefix = _TREE.get(uri.lstrip("{"))
    path = [*above, clean(f"{prefix}:{name}" if prefix else name, LONGEST_NAME)]
    if _attribute(node, "topic") == "true":
        message = _one(node, "MessageInstance")
        found.append(
            EventKind(
                topic="/".join(path),
                name=clean(_attribute(node, "NiceName"), LONGEST_NAME) or None,
                stateful=message is not None and _attribute(message, "isProperty") == "true",
                application_data=_attribute(node, "isApplicationData") == "true",
                source=_items(message, "SourceInstance"),
                data=_items(message, "DataInstance"),
            )
        )
    for child in node:
        _walk(child, path, found)


def _items(message: ET.Element | None, side: str) -> list[EventItem]:
    parent = _one(message, side) if message is not None else None
    if parent is None:
        return []
    return [
        EventItem(
            name=clean(_attribute(item, "Name"), LONGEST_NAME),
            type=clean(_attribute(item, "Type"), 40) or None,
            values=[clean(value.text or "", 100) for value in item if local(value.tag) == "Value"][:MOST_VALUES],
        )
        for item in parent
        if local(item.tag) == "SimpleItemInstance"
    ]


def templates(answer: ET.Element, kind: str = "ActionTemplate") -> list[Template]:
    """Read what the camera can do, or with kind RecipientTemplate where it can send to; by name."""
    found = [
        Template(
            template=said(node, "TemplateToken"),
            recipient=said(node, "RecipientTemplate") or None,
            parameters=list(
                dict.fromkeys(
                    clean(_attribute(parameter, "Name"), LONGEST_NAME) for parameter in _all(node, "Parameter")
                )
            ),
        )
        for node in _all(answer, kind)
        if _one(node, "TemplateToken") is not None
    ]
    return sorted(found, key=lambda template: template.template)


def is_secret(name: str) -> bool:
    """Whether a parameter of this name may hold a login or a password.

    >>> [name for name in ("login", "proxyPwd", "snmp_community", "port", "keyframe") if is_secret(name)]
    ['login', 'proxyPwd', 'snmp_community']
    """
    return _SECRET.search(_words(name)) is not None


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def holds_secret(name: str, value: str) -> bool:
    """Whether a value is a secret by its parameter's name, or has credentials in an address.

    >>> holds_secret("upload_url", "http://joe:pw@example.com/"), holds_secret("password", "")
    (True, False)
    """
    return bool(value) and (is_secret(name) or re.search(r"//[^/?#\s]*@", value) is not None)


def configurations(answer: ET.Element, kind: str = "ActionConfiguration") -> list[Configuration]:
    """Read stored actions, or with kind RecipientConfiguration receivers; by number. Logins and passwords are masked here."""
    found = [
        Configuration(
            configuration_id=said(node, "ConfigurationID", 40),
            name=said(node, "Name"),
            template=said(node, "TemplateToken"),
            parameters=dict(
                sorted(
                    _masked(_attribute(parameter, "Name"), _attribute(parameter, "Value"))
                    for parameter in _all(node, "Parameter")
                )
            ),
        )
        for node in _all(answer, kind)
        if _one(node, "ConfigurationID") is not None
    ]
    return sorted(found, key=lambda configuration: _by_number(configuration.configuration_id))


def _masked(name: str, value: str) -> tuple[str, str]:
    if value and is_secret(name):
        return clean(name, LONGEST_NAME), MASK
    shown = redact_text(clean(value, LONGEST_PARAMETER))
    # Some firmware writes values percent-encoded: what is a secret in an address is one there as well.
    plain = clean(unquote(value), LONGEST_PARAMETER)
    return clean(name, LONGEST_NAME), shown if redact_text(plain) == plain else redact_text(plain)


def same_value(name: str, asked: str, told: str) -> bool:
    """Whether a parameter that is told as `told` has the value that was asked for; too long to be told whole counts as the same.

    >>> same_value("state", "high/low", "high%2Flow"), same_value("state", "high", "low")
    (True, False)
    """
    _, shown = _masked(name, asked)
    return len(told) >= LONGEST_PARAMETER or shown in (told, clean(unquote(told), LONGEST_PARAMETER))


def rules(answer: ET.Element) -> list[Rule]:
    """Read the rules, by number."""
    found = []
    for node in _all(answer, "ActionRule"):
        if _one(node, "RuleID") is None:
            continue
        start, all_of = _one(node, "StartEvent"), _one(node, "Conditions")
        found.append(
            Rule(
                rule_id=said(node, "RuleID", 40),
                name=said(node, "Name"),
                enabled=said(node, "Enabled") in ("true", "1"),
                start_event=_told(start) if start is not None else None,
                conditions=[_told(condition) for condition in _all(all_of, "Condition")] if all_of is not None else [],
                configuration_id=said(node, "PrimaryAction", 40),
            )
        )
    return sorted(found, key=lambda rule: _by_number(rule.rule_id))


def _told(node: ET.Element) -> RuleEvent:
    content = said(node, "MessageContent", LONGEST_PARAMETER)
    return RuleEvent(
        topic=told_topic(said(node, "TopicExpression", 300)), content=content or None, items=items_of(content)
    )


def items_of(content: str) -> dict[str, str]:
    """The items of a filter that only joins them by "and"; of any other none.

    >>> items_of('boolean(//SimpleItem[@Name="port" and @Value="0"]) and boolean(//SimpleItem[@Name="state" and @Value="1"])')
    {'port': '0', 'state': '1'}
    """
    left = re.sub(r"\band\b", "", _ITEM.sub("", content))
    return (
        {clean(name, LONGEST_NAME): clean(value) for name, value in _ITEM.findall(content)}
        if not left.strip(" ()")
        else {}
    )


def _by_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() else (1 << 62, text)
