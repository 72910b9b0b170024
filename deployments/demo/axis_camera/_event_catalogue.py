"""Which events a camera can notice, and what it can do about them: the same for its SOAP services, its WebSocket and its RTSP stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deployments.demo.axis_camera._device import Device, Event, on_create


@dataclass(frozen=True)
class Item:
    """An item of an event: its name, its type, the values it can have where they are listed, and the one it begins with."""

    name: str
    type: str = "xsd:string"
    values: tuple[str, ...] = ()
    first: str = "0"


@dataclass(frozen=True)
class Kind:
    """A kind of event.

    Attributes:
        topic: Its topic.
        name: What the device calls it.
        source: Items that say where it comes from.
        data: Items that say what is.
        stateful: Whether it is a state.
        needs: Features or APIs of which the device has one.
        application: Whether it is meant for one application.
    """

    topic: str
    name: str
    source: tuple[Item, ...] = ()
    data: tuple[Item, ...] = ()
    stateful: bool = True
    needs: tuple[str, ...] = ()
    application: bool = False


def _bool(name: str, first: str = "0") -> Item:
    return Item(name, "xsd:boolean", (), first)


KINDS = (
    Kind(
        "tns1:Device/tnsaxis:IO/Port",
        "Digital input port",
        (Item("port", "xsd:int", ("PORTS",)),),
        (_bool("state"),),
        True,
        ("io",),
    ),
    Kind(
        "tns1:Device/tnsaxis:IO/OutputPort",
        "Digital output port",
        (Item("port", "xsd:int", ("PORTS",)),),
        (_bool("state"),),
        True,
        ("io",),
    ),
    Kind("tns1:Device/tnsaxis:IO/VirtualPort", "Manual trigger", (Item("port", "xsd:int", ("1",)),), (_bool("state"),)),
    Kind(
        "tns1:Device/tnsaxis:IO/VirtualInput",
        "Virtual input",
        (Item("port", "xsd:int", tuple(str(number) for number in range(1, 33))),),
        (_bool("active"),),
    ),
    Kind("tns1:Device/tnsaxis:Status/SystemReady", "System Ready", (), (_bool("ready", "1"),)),
    Kind("tns1:Device/tnsaxis:Status/Temperature/Above", "Above operating temperature", (), (_bool("sensor_level"),)),
    Kind("tns1:Device/tnsaxis:Status/Temperature/Below", "Below operating temperature", (), (_bool("sensor_level"),)),
    Kind(
        "tns1:Device/tnsaxis:Status/Temperature/Inside",
        "Within operating temperature",
        (),
        (_bool("sensor_level", "1"),),
    ),
    Kind(
        "tns1:Device/tnsaxis:Network/Lost",
        "Network lost",
        (Item("interface", "xsd:string", ("eth0",)),),
        (_bool("lost"),),
    ),
    Kind(
        "tns1:Device/tnsaxis:HardwareFailure/StorageFailure",
        "Storage failure",
        (Item("disk_id", "xsd:string", ("SD_DISK", "NetworkShare")),),
        (_bool("disruption"),),
        True,
        ("sd",),
    ),
    Kind(
        "tns1:Device/tnsaxis:Light/Status",
        "Status",
        (Item("id", "xsd:string", ("0",)),),
        (Item("state", "xsd:string", (), "OFF"),),
        True,
        ("light-control", "lights"),
    ),
    Kind(
        "tns1:Device/tnsaxis:Sensor/PIR",
        "PIR sensor",
        (Item("sensor", "xsd:int", ("0",)),),
        (_bool("state"),),
        True,
        ("pir",),
    ),
    Kind(
        "tns1:VideoSource/tnsaxis:DayNightVision",
        "Day night vision",
        (Item("VideoSourceConfigurationToken", "xsd:int", ("1",)),),
        (_bool("day", "1"),),
        True,
        ("video",),
    ),
    Kind(
        "tns1:VideoSource/tnsaxis:LiveStreamAccessed",
        "Live stream accessed",
        (),
        (_bool("accessed"),),
        True,
        ("video",),
    ),
    Kind(
        "tns1:VideoSource/tnsaxis:Tampering",
        "Camera tampering",
        (Item("channel", "xsd:int", ("1",)),),
        (Item("tampering", "xsd:int"),),
        False,
        ("video",),
    ),
    Kind(
        "tns1:VideoSource/GlobalSceneChange/ImagingService",
        "Scene change",
        (Item("Source", "xsd:string", ("0",)),),
        (_bool("State"),),
        True,
        ("video",),
    ),
    Kind(
        "tns1:PTZController/tnsaxis:Move/Channel_1",
        "PTZ movement on channel 1",
        (Item("PTZConfigurationToken", "xsd:int", ("1",)),),
        (_bool("is_moving"),),
        True,
        ("ptz",),
    ),
    Kind(
        "tns1:PTZController/tnsaxis:PTZReady",
        "PTZ ready",
        (Item("channel", "xsd:int", ("1",)),),
        (_bool("ready", "1"),),
        True,
        ("ptz",),
    ),
    Kind(
        "tns1:PTZController/tnsaxis:PTZError",
        "PTZ error",
        (Item("channel", "xsd:int", ("1",)),),
        (Item("ptz_error"),),
        False,
        ("ptz",),
    ),
    Kind(
        "tnsaxis:CameraApplicationPlatform/VMD/Camera1Profile1",
        "VMD 4: Profile 1",
        (),
        (_bool("active"),),
        True,
        ("video",),
    ),
    Kind(
        "tnsaxis:CameraApplicationPlatform/VMD/xinternal_data",
        "VMD 4: internal data",
        (),
        (Item("svgframe"),),
        False,
        ("video",),
        True,
    ),
    Kind("tnsaxis:Storage/Recording", "Recording ongoing", (), (_bool("recording"),), True, ("sd",)),
    Kind(
        "tnsaxis:Storage/Disruption",
        "Storage disruption",
        (Item("disk_id", "xsd:string", ("SD_DISK", "NetworkShare")),),
        (_bool("disruption"),),
        True,
        ("sd",),
    ),
    Kind(
        "tnsaxis:Storage/Alert",
        "Storage alert",
        (Item("disk_id", "xsd:string", ("SD_DISK", "NetworkShare")),),
        (
            _bool("alert"),
            Item("wear", "xsd:int"),
            Item("temperature", "xsd:int", (), "35"),
            Item("overall_health", "xsd:int", (), "100"),
        ),
        True,
        ("sd",),
    ),
    Kind("tns1:Device/tnsaxis:SystemMessage/ActionFailed", "Action failed", (), (Item("description"),), False),
)


@dataclass(frozen=True)
class Template:
    """Something the device can do, or a kind of receiver.

    Attributes:
        token: Its token.
        parameters: Names and types.
        recipient: The receiver it needs.
        needs: Features or APIs of which the device has one.
    """

    token: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    recipient: str = ""
    needs: tuple[str, ...] = ()

    @property
    def unlimited(self) -> bool:
        """Whether it lasts while the conditions hold."""
        return ".unlimited." in self.token


def _names(text: str, kind: str = "xsd:string") -> dict[str, str]:
    return dict.fromkeys(text.split(), kind)


_RECORDING = {**_names("stream_options storage_id"), **_names("pre_duration post_duration", "xsd:int")}
_TOGGLE = {"port": "xsd:int", "state": "xsd:string"}
_LIGHT = {"source": "xsd:string", **_names("level fade_in fade_out frequency", "xsd:int")}
_HTTP = _names("upload_url login password proxy_host proxy_port proxy_login proxy_password qos")
_HTTPS = {**_HTTP, "validate_server_cert": "xsd:boolean"}
_MESSAGE = _names("message parameters period")

ACTIONS = (
    Template("com.axis.action.fixed.recording.storage", _RECORDING, needs=("sd",)),
    Template("com.axis.action.unlimited.recording.storage", _RECORDING, needs=("sd",)),
    Template("com.axis.action.fixed.io.toggle", {**_TOGGLE, "duration": "xsd:int"}, needs=("io",)),
    Template("com.axis.action.unlimited.io.toggle", _TOGGLE, needs=("io",)),
    Template("com.axis.action.fixed.light", {**_LIGHT, "duration": "xsd:int"}, needs=("light-control", "lights")),
    Template("com.axis.action.unlimited.light", _LIGHT, needs=("light-control", "lights")),
    Template("com.axis.action.unlimited.ircutfilter", _names("active_state inactive_state"), needs=("video",)),
    Template("com.axis.action.fixed.set_overlay", _names("text channels duration index"), needs=("video",)),
    Template("com.axis.action.unlimited.set_overlay", _names("text channels index"), needs=("video",)),
    Template("com.axis.action.fixed.ledcontrol", _names("led color duration interval")),
    Template("com.axis.action.fixed.notification.http", {**_MESSAGE, **_HTTP}, "com.axis.recipient.http"),
    Template(
        "com.axis.action.fixed.notification.https",
        {**_MESSAGE, **_HTTP, "validate_server_cert": "xsd:boolean"},
        "com.axis.recipient.https",
    ),
    Template("com.axis.action.fixed.notification.tcp", _names("message host port qos"), "com.axis.recipient.tcp"),
    Template(
        "com.axis.action.fixed.notification.smtp",
        _names("message subject email_to email_from host port login password"),
        "com.axis.recipient.smtp",
    ),
)
RECIPIENTS = (
    Template("com.axis.recipient.http", _HTTP),
    Template("com.axis.recipient.https", _HTTPS),
    Template("com.axis.recipient.tcp", _names("host port qos")),
    Template("com.axis.recipient.smtp", _names("email_to email_from host port login password")),
    Template("com.axis.recipient.ftp", _names("upload_path host port login password passive_mode")),
)


def _available(device: Device, needs: tuple[str, ...]) -> bool:
    return not needs or any(device.has(name) for name in needs)


def actions_of(device: Device) -> list[Template]:
    """What the device can do."""
    return [template for template in ACTIONS if _available(device, template.needs)]


def kinds_of(device: Device) -> list[Kind]:
    """The events the device can notice: those of the catalogue it has parts for, and what its own parts have told besides."""
    told: dict[str, list[Event]] = {}
    for event in device.current_events():
        told.setdefault(event.topic, []).append(event)
    found = []
    for kind in KINDS:
        if kind.topic in told:
            found.append(_as_told(kind, told.pop(kind.topic)))
        elif _available(device, kind.needs):
            found.append(kind)
    for topic, events in told.items():
        items = tuple(Item(name, _type(value)) for name, value in events[0].data.items())
        found.append(_as_told(Kind(topic, topic.rpartition("/")[2], data=items), events))
    return found


def _as_told(kind: Kind, events: list[Event]) -> Kind:
    names = list(dict.fromkeys(name for event in events for name in event.source))
    types = {item.name: item.type for item in kind.source}
    source = tuple(
        Item(
            name,
            types.get(name, _type(events[0].source.get(name, ""))),
            tuple(dict.fromkeys(event.source[name] for event in events if name in event.source)),
        )
        for name in names
    )
    return Kind(kind.topic, kind.name, source, kind.data, True, (), kind.application)


def _type(value: str) -> str:
    return "xsd:boolean" if value in ("0", "1") else "xsd:int" if value.lstrip("-").isdigit() else "xsd:string"


@on_create
def first_states(device: Device) -> None:
    """Tell the states nobody else has told yet: a state always has a value."""
    told = {event.topic for event in device.current_events()}
    for kind in KINDS:
        if not kind.stateful or kind.topic in told or not _available(device, kind.needs):
            continue
        for source in _places(device, kind):
            device.emit(kind.topic, source, {item.name: item.first for item in kind.data})


def _places(device: Device, kind: Kind) -> Iterator[dict[str, str]]:
    if not kind.source:
        yield {}
        return
    item = kind.source[0]
    values = _ports(device) if item.values == ("PORTS",) else item.values
    for value in values:
        yield {item.name: value}


def _ports(device: Device) -> tuple[str, ...]:
    numbers = [number for number in range(32) if device.params.get(f"IOPort.I{number}.Direction", "")]
    return tuple(str(number) for number in numbers) or ("0",)
