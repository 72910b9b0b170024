"""SOAP services of actions and events (`/vapix/services`): rules, what they do and what starts them. Faults come with status 400."""

from __future__ import annotations

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._event_catalogue import RECIPIENTS, Item, Kind, Template, actions_of, kinds_of
from deployments.demo.axis_camera._event_filters import FilterProblem, content_test, topic_test
from deployments.demo.axis_camera._messages import Request, Response
from deployments.demo.axis_camera._server import api

ENVELOPE = "http://www.w3.org/2003/05/soap-envelope"
ACTION = "http://www.axis.com/vapix/ws/action1"
EVENT = "http://www.axis.com/vapix/ws/event1"
WSNT = "http://docs.oasis-open.org/wsn/b-2"
TNS1 = "http://www.onvif.org/ver10/topics"
TNSAXIS = "http://www.axis.com/2009/event/topics"
TOPIC_DIALECTS = (
    "http://docs.oasis-open.org/wsn/t-1/TopicExpression/Concrete",
    "http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet",
)
MOST_COMBINATIONS = 4096

_NAMESPACES = {
    "SOAP-ENV": ENVELOPE,
    "SOAP-ENC": "http://www.w3.org/2003/05/soap-encoding",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsd": "http://www.w3.org/2001/XMLSchema",
    "c14n": "http://www.w3.org/2001/10/xml-exc-c14n#",
    "wsu": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd",
    "xenc": "http://www.w3.org/2001/04/xmlenc#",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
    "wsse": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
    "wsa5": "http://www.w3.org/2005/08/addressing",
    "wsa": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "wsdd": "http://schemas.xmlsoap.org/ws/2005/04/discovery",
    "xmime": "http://tempuri.org/xmime.xsd",
    "xop": "http://www.w3.org/2004/08/xop/include",
    "wsrfbf": "http://docs.oasis-open.org/wsrf/bf-2",
    "wsrfr": "http://docs.oasis-open.org/wsrf/r-2",
    "wstop": "http://docs.oasis-open.org/wsn/t-1",
    "wsnt": WSNT,
    "tt": "http://www.onvif.org/ver10/schema",
    "ter": "http://www.onvif.org/ver10/error",
    "tns1": TNS1,
    "tnsaxis": TNSAXIS,
    "aa": ACTION,
    "aev": EVENT,
    **{f"t{name}": f"http://www.onvif.org/ver10/{path}/wsdl" for name, path in {
        "ds": "device", "ev": "events", "rt": "media", "rec": "recording", "rp": "replay", "se": "search", "rv": "receiver",
        "mt": "mediatransport", "io": "deviceIO", "ac": "accesscontrol", "dc": "doorcontrol", "cr": "credential", "sc": "schedule",
        "ar": "accessrules", "th": "thermal", "pv": "provisioning", "as": "advancedsecurity", "au": "authenticationbehavior",
    }.items()},
    **{f"n{number}": f"http://www.axis.com/vapix/ws/{name}" for number, name in enumerate((
        "action2", "event2", "entry", "doorcontrol", "idpoint", "pacs", "schedule", "storage", "recording", "audio", "light", "ptz",
        "overlay", "siren", "speaker", "wiper", "webserver", "cert", "user", "webhook",
    ))},
}  # fmt: skip


class Fault(Exception):
    """What a request is refused with: the name of the detail's element, and the words."""

    def __init__(self, name: str, reason: str, *, detail: str = "", subcode: str = "") -> None:
        super().__init__(reason)
        self.name, self.reason, self.detail, self.subcode = name, reason, detail, subcode

    def xml(self) -> str:
        value = (
            f"<SOAP-ENV:Subcode><SOAP-ENV:Value>{self.subcode}</SOAP-ENV:Value></SOAP-ENV:Subcode>"
            if self.subcode
            else ""
        )
        detail = f"<{self.name}>{self.detail}</{self.name}>" if self.name else self.detail
        return (
            f"<SOAP-ENV:Fault><SOAP-ENV:Code><SOAP-ENV:Value>SOAP-ENV:Sender</SOAP-ENV:Value>{value}</SOAP-ENV:Code>"
            f'<SOAP-ENV:Reason><SOAP-ENV:Text xml:lang="en">{escape(self.reason)}</SOAP-ENV:Text></SOAP-ENV:Reason>'
            f"<SOAP-ENV:Detail>{detail}</SOAP-ENV:Detail></SOAP-ENV:Fault>"
        )


@dataclass
class Stored:
    """A stored action or receiver."""

    name: str
    template: str
    parameters: dict[str, str]


@dataclass
class Filter:
    """What a rule waits for: the topic as the device keeps it, and the filter."""

    topic: str
    content: str


@dataclass
class StoredRule:
    """A stored rule."""

    name: str
    enabled: bool
    start: Filter | None
    conditions: list[Filter]
    action: str


class Services:
    """What a device keeps about its rules."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.numbers = {kind: itertools.count(1) for kind in ("action", "recipient", "rule", "schedule")}
        self.actions: dict[str, Stored] = {}
        self.recipients: dict[str, Stored] = {}
        self.rules: dict[str, StoredRule] = {}
        self.schedules: dict[str, tuple[str, str]] = {}
        values = {"led": "statusled", "color": "green,none", "duration": "1", "interval": "250"}
        number = self.add(
            self.actions, "action", Stored("Flash status LED", "com.axis.action.fixed.ledcontrol", values)
        )
        ready = Filter("tns1:Device/tnsaxis:Status/SystemReady", 'boolean(//SimpleItem[@Name="ready" and @Value="1"])')
        self.rules[self.number("rule")] = StoredRule("Flash when ready", True, None, [ready], number)
        receiver = {
            "upload_url": "http://192.0.2.80/alarm?site=north&gate=2", "login": "alarm-station", "password": "Rcp-7f31-secret",
            "proxy_host": "", "proxy_port": "", "proxy_login": "proxy-user", "proxy_password": "Prx-90ab-secret", "qos": "0",
        }  # fmt: skip
        self.add(self.recipients, "recipient", Stored("Alarm station", "com.axis.recipient.http", receiver))

    def number(self, kind: str) -> str:
        """The next number of that kind; numbers are not used twice."""
        return str(next(self.numbers[kind]))

    def add(self, where: dict[str, Stored], kind: str, stored: Stored) -> str:
        number = self.number(kind)
        where[number] = stored
        return number


@dataclass
class Call:
    """An operation as it was asked: its element, and which prefix means which namespace anywhere in the request."""

    operation: ET.Element
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def find(self, *path: str) -> ET.Element | None:
        """An element down a path of local names."""
        node: ET.Element | None = self.operation
        for name in path:
            node = _child(node, name) if node is not None else None
        return node

    def text(self, *path: str) -> str:
        """The text of an element; empty when there is none."""
        node = self.find(*path)
        return (node.text or "").strip() if node is not None else ""


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("DTD")


@api("/vapix/services", level="admin", methods=("POST",), needs="actions")
async def services(device: Device, request: Request) -> Response:
    """Answer a SOAP request. The operation counts, not the content type's `action` nor a SOAPAction header."""
    try:
        call = _read(request.body)
        name = _local(call.operation.tag)
        operation = _OPERATIONS.get((_namespace(call.operation.tag), name))
        if operation is None:
            raise Fault("", f"Method '{name}' not implemented: method name or namespace not recognized")
        inner = operation(device.slot(Services), call)
    except Fault as fault:
        return _envelope(fault.xml(), 400)
    prefix = "aa" if _namespace(call.operation.tag) == ACTION else "aev"
    return _envelope(f"<{prefix}:{name}Response>{inner}</{prefix}:{name}Response>")


def _envelope(body: str, status: int = 200) -> Response:
    declared = "\n ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    text = f"<SOAP-ENV:Envelope {declared}>\n<SOAP-ENV:Body>{body}</SOAP-ENV:Body></SOAP-ENV:Envelope>\n"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
    return Response(status, text.encode(), "application/soap+xml; charset=utf-8")


def _read(body: bytes) -> Call:
    prefixes: dict[str, str] = {}
    try:
        ET.XMLParser(target=_NoDoctype()).feed(body)  # noqa: S314  it refuses document types, and with them entities
        root = None
        for event, value in ET.iterparse(io.BytesIO(body), events=("start-ns", "end")):  # noqa: S314  the same body
            if event == "start-ns":
                prefixes[value[0]] = value[1]
            else:
                root = value
    except (ET.ParseError, ValueError, LookupError):
        raise Fault("", "Validation constraint violation: SOAP message not well-formed") from None
    content = _child(root, "Body") if root is not None and _local(root.tag) == "Envelope" else None
    if root is None or _namespace(root.tag) != ENVELOPE or content is None or not len(content):
        raise Fault("", "SOAP version mismatch or no body")
    return Call(content[0], prefixes)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _namespace(tag: str) -> str:
    return tag.rpartition("}")[0].lstrip("{")


def _child(node: ET.Element | None, name: str) -> ET.Element | None:
    return next((child for child in node if _local(child.tag) == name), None) if node is not None else None


def _shuffled(device: Device, entries: dict[str, str]) -> str:
    """The entries in an order that means nothing."""
    made = list(entries.values())
    device.random.shuffle(made)
    return "".join(made)


# --- templates and configurations ------------------------------------------------------------------------------------


def _templates(device: Device, templates: list[Template], name: str) -> str:
    entries = {}
    for template in templates:
        recipient = f"<aa:RecipientTemplate>{template.recipient}</aa:RecipientTemplate>" if template.recipient else ""
        parameters = "".join(f'<aa:Parameter Name="{key}" Type="{kind}"/>' for key, kind in template.parameters.items())
        entries[template.token] = (
            f"<aa:{name}><aa:TemplateToken>{template.token}</aa:TemplateToken>{recipient}<aa:Parameters>{parameters}</aa:Parameters></aa:{name}>"
        )
    return f"<aa:{name}s>{_shuffled(device, entries)}</aa:{name}s>"


def get_action_templates(kept: Services, call: Call) -> str:
    return _templates(kept.device, actions_of(kept.device), "ActionTemplate")


def get_recipient_templates(kept: Services, call: Call) -> str:
    return _templates(kept.device, list(RECIPIENTS), "RecipientTemplate")


def _add(kept: Services, call: Call, where: dict[str, Stored], kind: str, templates: list[Template]) -> str:
    new = f"New{kind.title()}Configuration"
    token = call.text(new, "TemplateToken")
    template = next((template for template in templates if template.token == token), None)
    if template is None:
        raise Fault(f"aa:{kind.title()}TemplateNotFoundFault", f"{kind} template with id '{token}' not found")
    parameters = call.find(new, "Parameters")
    values = {child.get("Name", ""): child.get("Value", "") for child in (parameters if parameters is not None else ())}
    for name in template.parameters:
        if name not in values:
            raise Fault("aa:ParametersMissmatchFault", f"Configuration parameter missing: {name}")
    for name in values:
        if name not in template.parameters:
            raise Fault("aa:ParametersMissmatchFault", f"Unknown configuration parameter: {name}")
    number = kept.add(where, kind, Stored(call.text(new, "Name"), token, values))
    return f"<aa:ConfigurationID>{number}</aa:ConfigurationID>"


def add_action_configuration(kept: Services, call: Call) -> str:
    return _add(kept, call, kept.actions, "action", actions_of(kept.device))


def add_recipient_configuration(kept: Services, call: Call) -> str:
    return _add(kept, call, kept.recipients, "recipient", list(RECIPIENTS))


def _configurations(kept: Services, where: dict[str, Stored], kind: str) -> str:
    encoded = kept.device.firmware.startswith("10.")
    entries = {}
    for number, stored in where.items():
        parameters = "".join(
            f"<aa:Parameter Name={quoteattr(name)} Value={quoteattr(quote(value, safe='') if encoded else value)}></aa:Parameter>"
            for name, value in stored.parameters.items()
        )
        entries[number] = (
            f"<aa:{kind}Configuration><aa:ConfigurationID>{number}</aa:ConfigurationID><aa:Name>{escape(stored.name)}</aa:Name>"
            f"<aa:TemplateToken>{stored.template}</aa:TemplateToken><aa:Parameters>{parameters}</aa:Parameters></aa:{kind}Configuration>"
        )
    return f"<aa:{kind}Configurations>{_shuffled(kept.device, entries)}</aa:{kind}Configurations>"


def get_action_configurations(kept: Services, call: Call) -> str:
    return _configurations(kept, kept.actions, "Action")


def get_recipient_configurations(kept: Services, call: Call) -> str:
    return _configurations(kept, kept.recipients, "Recipient")


def remove_action_configuration(kept: Services, call: Call) -> str:
    number = call.text("ConfigurationID")
    if number not in kept.actions:
        raise Fault("aa:ActionConfigurationNotFoundFault", "")
    users = {key: rule for key, rule in kept.rules.items() if rule.action == number}
    if users:
        detail = "".join(
            f"<aa:ActionRule><aa:ActionRuleID>{key}</aa:ActionRuleID><aa:ActionRuleName>{escape(rule.name)}</aa:ActionRuleName></aa:ActionRule>"
            for key, rule in users.items()
        )
        raise Fault(
            "aa:ActionConfigurationIsInUseFault",
            "action configuration is in use",
            detail=f"<aa:UsedByActionRules>{detail}</aa:UsedByActionRules>",
        )
    del kept.actions[number]
    return ""


def remove_recipient_configuration(kept: Services, call: Call) -> str:
    if kept.recipients.pop(call.text("ConfigurationID"), None) is None:
        raise Fault("aa:RecipientConfigurationNotFoundFault", "")
    return ""


# --- rules -----------------------------------------------------------------------------------------------------------


def add_action_rule(kept: Services, call: Call) -> str:
    new = call.find("NewActionRule")
    start_node, all_of = _child(new, "StartEvent"), _child(new, "Conditions")
    start = _filter(call, start_node) if start_node is not None else None
    conditions = [
        _filter(call, node) for node in (all_of if all_of is not None else ()) if _local(node.tag) == "Condition"
    ]
    if start is None and not conditions:
        raise Fault(
            "", "Invalid argument", detail="occurrence violation in element Conditions", subcode="ter:InvalidArgs"
        )
    action = call.text("NewActionRule", "PrimaryAction")
    if action not in kept.actions:
        raise Fault(
            "aa:ActionConfigurationNotFoundFault",
            f"Unknown action configuration '{action}' specified for primary action",
        )
    for condition in conditions:
        matched = _instances(kept.device, condition)
        if not matched:
            raise Fault("aa:InvalidConditionFilterFault", "could not match any property events")
        if matched > 1:
            raise Fault("aa:InvalidConditionFilterFault", "matched more than one property event")
    if ".unlimited." in kept.actions[action].template and not conditions:
        raise Fault("aa:InsufficientActivationRuleFault", "an unlimited action needs at least one condition")
    number = kept.number("rule")
    enabled = call.text("NewActionRule", "Enabled") in ("true", "1")
    kept.rules[number] = StoredRule(call.text("NewActionRule", "Name"), enabled, start, conditions, action)
    return f"<aa:RuleID>{number}</aa:RuleID>"


def _filter(call: Call, node: ET.Element) -> Filter:
    topic, content = _child(node, "TopicExpression"), _child(node, "MessageContent")
    if topic is None or _namespace(topic.tag) != WSNT:
        raise Fault(
            "", "Invalid argument", detail="occurrence violation in element TopicExpression", subcode="ter:InvalidArgs"
        )
    if topic.get("Dialect") not in TOPIC_DIALECTS:
        raise Fault(
            "wsnt:TopicExpressionDialectUnknownFault", f"unknown topic expression dialect '{topic.get('Dialect')}'"
        )
    given = (topic.text or "").strip()
    canonical = re.sub(
        r"([\w.-]+):",
        lambda match: {TNS1: "tns1:", TNSAXIS: "tnsaxis:"}.get(call.prefixes.get(match[1], ""), "?:"),
        given,
    )
    try:
        topic_test(canonical)
    except FilterProblem:
        raise Fault(
            "wsnt:InvalidTopicExpressionFault",
            f"failed to parse topic expression '{given}'",
            detail=f"<wsrfbf:Timestamp>{_now()}</wsrfbf:Timestamp>",
        ) from None
    words = (content.text or "").strip() if content is not None else ""
    try:
        content_test(words)
    except FilterProblem as problem:
        raise Fault(
            "wsnt:InvalidMessageContentExpressionFault",
            str(problem),
            detail=f"<wsrfbf:Timestamp>{_now()}</wsrfbf:Timestamp>",
        ) from None
    return Filter(canonical, words)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _instances(device: Device, wanted: Filter) -> int:
    """How many stateful event instances a condition can mean."""
    is_meant, holds = topic_test(wanted.topic), content_test(wanted.content)
    mentioned = re.findall(r"@Value\s*=\s*[\"']([^\"']*)", wanted.content) or [""]
    return sum(
        any(holds([*source, *data]) for data in _combinations(kind.data, mentioned))
        for kind in kinds_of(device)
        if kind.stateful and is_meant(kind.topic)
        for source in _combinations(kind.source, mentioned)
    )


def _combinations(items: tuple[Item, ...], mentioned: list[str]) -> Iterator[list[tuple[str, str]]]:
    choices = [[(item.name, value) for value in _values(item, mentioned)] for item in items]
    for combination in itertools.islice(itertools.product(*choices), MOST_COMBINATIONS):
        yield list(combination)


def _values(item: Item, mentioned: list[str]) -> list[str]:
    return list(item.values) or (
        ["0", "1"] if item.type == "xsd:boolean" else list(dict.fromkeys([*mentioned, item.first]))
    )


def get_action_rules(kept: Services, call: Call) -> str:
    return f"<aa:ActionRules>{_shuffled(kept.device, {key: _rule(kept, key, rule) for key, rule in kept.rules.items()})}</aa:ActionRules>"


def _rule(kept: Services, number: str, rule: StoredRule) -> str:
    # 10.12 writes topics back with its own ending.
    ending = "//." if kept.device.firmware.startswith("10.") else ""

    def told(wanted: Filter) -> str:
        topic = wanted.topic if wanted.topic.endswith("//.") else wanted.topic + ending
        content = (
            f'<wsnt:MessageContent Dialect="http://www.onvif.org/ver10/tev/messageContentFilter/ItemFilter">{escape(wanted.content)}</wsnt:MessageContent>'
            if wanted.content
            else ""
        )
        return f'<wsnt:TopicExpression Dialect="{TOPIC_DIALECTS[0]}">{topic}</wsnt:TopicExpression>{content}'

    start = f"<aa:StartEvent>{told(rule.start)}</aa:StartEvent>" if rule.start else ""
    conditions = "".join(f"<aa:Condition>{told(condition)}</aa:Condition>" for condition in rule.conditions)
    conditions = f"<aa:Conditions>{conditions}</aa:Conditions>" if conditions else ""
    return (
        f"<aa:ActionRule><aa:RuleID>{number}</aa:RuleID><aa:Name>{escape(rule.name)}</aa:Name><aa:Enabled>{str(rule.enabled).lower()}</aa:Enabled>"
        f"{start}{conditions}<aa:PrimaryAction>{rule.action}</aa:PrimaryAction></aa:ActionRule>"
    )


def remove_action_rule(kept: Services, call: Call) -> str:
    number = call.text("RuleID")
    if kept.rules.pop(number, None) is None:
        raise Fault("aa:ActionRuleNotFoundFault", f"No action rule with id '{number}' exists")
    return ""


# --- events ----------------------------------------------------------------------------------------------------------


def get_event_instances(kept: Services, call: Call) -> str:
    tree: dict[str, object] = {}
    kinds = kinds_of(kept.device)
    kept.device.random.shuffle(kinds)
    for kind in kinds:
        node = tree
        *above, last = kind.topic.split("/")
        for step in above:
            inner = node.setdefault(step, {})
            node = inner if isinstance(inner, dict) else node
        node[last] = kind
    return f'<wstop:TopicSet xmlns="">{_tree(tree)}</wstop:TopicSet>'


def _tree(node: Mapping[str, object]) -> str:
    parts = []
    for step, inner in node.items():
        if isinstance(inner, Kind):
            hidden = ' aev:isApplicationData="true"' if inner.application else ""
            parts.append(
                f'<{step} wstop:topic="true" aev:NiceName={quoteattr(inner.name)}{hidden}>{_instance(inner)}</{step}>'
            )
        elif isinstance(inner, dict):
            parts.append(f"<{step}>{_tree(inner)}</{step}>")
    return "".join(parts)


def _instance(kind: Kind) -> str:
    def items(given: tuple[Item, ...], extra: str = "") -> str:
        return "".join(
            f'<aev:SimpleItemInstance aev:NiceName="{item.name}" Type="{item.type}" Name="{item.name}"{extra}>'
            + "".join(f"<aev:Value>{escape(value)}</aev:Value>" for value in item.values)
            + "</aev:SimpleItemInstance>"
            for item in given
        )

    source = f"<aev:SourceInstance>{items(kind.source)}</aev:SourceInstance>" if kind.source else ""
    state = ' isPropertyState="true"' if kind.stateful else ""
    data = f"<aev:DataInstance>{items(kind.data, state)}</aev:DataInstance>" if kind.data else ""
    stateful = ' aev:isProperty="true"' if kind.stateful else ""
    return f"<aev:MessageInstance{stateful}>{source}{data}</aev:MessageInstance>"


def get_scheduled_events(kept: Services, call: Call) -> str:
    entries = {
        key: f"<aev:ScheduledEvent><aev:EventID>{key}</aev:EventID><aev:Name>{escape(name)}</aev:Name>"
        f'<aev:Schedule><aev:ICalendar Dialect="http://www.axis.com/vapix/ws/ical1">{escape(calendar)}</aev:ICalendar></aev:Schedule></aev:ScheduledEvent>'
        for key, (name, calendar) in kept.schedules.items()
    }
    return f"<aev:ScheduledEvents>{_shuffled(kept.device, entries)}</aev:ScheduledEvents>"


def add_scheduled_event(kept: Services, call: Call) -> str:
    number = kept.number("schedule")
    calendar = call.text("NewScheduledEvent", "Schedule", "ICalendar")
    kept.schedules[number] = (call.text("NewScheduledEvent", "Name"), calendar)
    return f"<aev:EventID>{number}</aev:EventID>"


def remove_scheduled_event(kept: Services, call: Call) -> str:
    if kept.schedules.pop(call.text("EventID"), None) is None:
        raise Fault("aev:ScheduledEventNotFoundFault", f"No scheduled event with id '{call.text('EventID')}' exists")
    return ""


def change_virtual_input_state(kept: Services, call: Call) -> str:
    port, active = call.text("port"), call.text("active").lower() in ("true", "1")
    if not port.isdigit() or not 1 <= int(port) <= 32:
        raise Fault("", "Invalid argument", detail="port", subcode="ter:InvalidArgs")
    kept.device.emit("tns1:Device/tnsaxis:IO/VirtualInput", {"port": port}, {"active": active})
    return ""


_OPERATIONS: dict[tuple[str, str], Callable[[Services, Call], str]] = {
    (ACTION, "GetActionTemplates"): get_action_templates,
    (ACTION, "AddActionConfiguration"): add_action_configuration,
    (ACTION, "GetActionConfigurations"): get_action_configurations,
    (ACTION, "RemoveActionConfiguration"): remove_action_configuration,
    (ACTION, "GetRecipientTemplates"): get_recipient_templates,
    (ACTION, "AddRecipientConfiguration"): add_recipient_configuration,
    (ACTION, "GetRecipientConfigurations"): get_recipient_configurations,
    (ACTION, "RemoveRecipientConfiguration"): remove_recipient_configuration,
    (ACTION, "AddActionRule"): add_action_rule,
    (ACTION, "GetActionRules"): get_action_rules,
    (ACTION, "RemoveActionRule"): remove_action_rule,
    (EVENT, "GetEventInstances"): get_event_instances,
    (EVENT, "AddScheduledEvent"): add_scheduled_event,
    (EVENT, "GetScheduledEvents"): get_scheduled_events,
    (EVENT, "RemoveScheduledEvent"): remove_scheduled_event,
    (EVENT, "ChangeVirtualInputState"): change_virtual_input_state,
}
