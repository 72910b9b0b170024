"""A packet declared as data: layers and fields, each checked against scapy's own description of it.

What is not offered here cannot be sent. Addresses are not fields: a packet goes from our own address to one the gate granted. Fields that
say where other fields are (header lengths, protocol numbers, fragment offsets, IP options) stay scapy's business, because with them a
packet could reach another port, by another way, than the gate was asked about. ICMP carries questions only: errors and redirects of ours
would change what others do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scapy.fields import ConditionalField, FlagsField, MultipleTypeField, _EnumField
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, TCPOptions
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from tasks.core.errors import InvalidParameters

MOST_PAYLOAD = 1400
_ICMP_QUESTIONS = {8: "echo-request", 13: "timestamp-request", 15: "information-request", 17: "address-mask-request"}
_TCP_OPTION_BYTES = 40
_LAYERS: dict[str, type[Packet]] = {
    "IP": IP, "IPv6": IPv6, "TCP": TCP, "UDP": UDP, "ICMP": ICMP, "ICMPv6EchoRequest": ICMPv6EchoRequest, "DNS": DNS, "Raw": Raw,
}  # fmt: skip
_FIELDS: dict[str, tuple[str, ...]] = {
    "IP": ("tos", "id", "flags", "ttl"),
    "IPv6": ("tc", "fl", "hlim"),
    "TCP": ("sport", "dport", "seq", "ack", "flags", "window", "urgptr", "options"),
    "UDP": ("sport", "dport"),
    "ICMP": ("type", "code", "id", "seq"),
    "ICMPv6EchoRequest": ("id", "seq"),
    "DNS": ("id", "rd", "ad", "cd", "qname", "qtype"),
    "Raw": ("load",),
}
_MAY_FOLLOW: dict[str, tuple[str, ...]] = {
    "": ("IP", "IPv6", "TCP", "UDP", "ICMP", "ICMPv6EchoRequest"),
    "IP": ("TCP", "UDP", "ICMP"),
    "IPv6": ("TCP", "UDP", "ICMPv6EchoRequest"),
    "TCP": ("Raw",),
    "UDP": ("DNS", "Raw"),
    "ICMP": ("Raw",),
    "ICMPv6EchoRequest": ("Raw",),
    "DNS": (),
    "Raw": (),
}
_ONLY_IN = {"IP": 4, "ICMP": 4, "IPv6": 6, "ICMPv6EchoRequest": 6}


class Declared:
    """A declared packet for one IP version, ready to be addressed.

    Args:
        layers: Names of layers with their fields, outermost first; the IP layer may be left out.
        version: 4 or 6.

    Raises:
        InvalidParameters: It is no packet that can be sent; says what is right.
    """

    def __init__(self, layers: tuple[tuple[str, dict[str, Any]], ...], version: int) -> None:
        self.version = version
        above = ""
        packet: Packet | None = None
        for name, fields in layers:
            if name not in _MAY_FOLLOW[above]:
                allowed = ", ".join(_MAY_FOLLOW[above]) or "nothing"
                where = f"after {above}" if above else "at the beginning"
                raise InvalidParameters(f"packet: {name} cannot stand {where}; there can: {allowed}.")
            if _ONLY_IN.get(name, version) != version:
                raise InvalidParameters(f"packet: {name} cannot go to IPv{version} targets.")
            layer = _layer(name, fields)
            packet = layer if packet is None else packet / layer
            above = name
        if packet is None or above in {"IP", "IPv6"}:
            raise InvalidParameters(
                "packet: has no layer above IP; right would be TCP, UDP, ICMP or ICMPv6EchoRequest."
            )
        network = IP if version == 4 else IPv6
        self._packet = packet if isinstance(packet, network) else network() / packet

    @property
    def transport(self) -> str:
        """Name of the layer above IP."""
        return str(self._packet.payload.__class__.__name__)

    @property
    def given(self) -> frozenset[str]:
        """Fields of that layer that were declared."""
        return frozenset(self._packet.payload.fields)

    def to(self, source: str, target: str, fields: Mapping[str, int]) -> Packet:
        """The packet from `source` to `target`; `fields` fills fields of the transport layer that were not declared."""
        packet = self._packet.copy()
        packet.src, packet.dst = source, target
        for name, value in fields.items():
            if name not in packet.payload.fields:
                setattr(packet.payload, name, value)
        return packet


def _layer(name: str, fields: Mapping[str, Any]) -> Packet:
    kind = _LAYERS[name]
    for field in fields:
        if field not in _FIELDS[name]:
            raise InvalidParameters(f"packet: {_not_a_field(name, field)}")
    values = {field: _value(name, kind, field, value) for field, value in fields.items()}
    if name == "ICMP" and (number := values.get("type", 8)) not in _ICMP_QUESTIONS:
        allowed = ", ".join(f"{number} ({said})" for number, said in _ICMP_QUESTIONS.items())
        raise InvalidParameters(f"packet: ICMP.type {number} is no question; those are {allowed}.")
    if name == "IP" and int(values.get("flags", 0)) & ~2:
        raise InvalidParameters("packet: IP.flags can be DF or nothing; fragments and the reserved bit are not sent.")
    if name == "DNS":
        question = DNSQR(qname=values.pop("qname", b"."), qtype=values.pop("qtype", 1))
        values = {"id": 1, "rd": 1} | values | {"qd": [question]}
    if name == "TCP" and "dport" not in values:
        values["dport"] = 80
    if name == "UDP" and "dport" not in values:
        values["dport"] = 53
    return kind(**values)


def _not_a_field(layer: str, field: str) -> str:
    offered = ", ".join(_FIELDS[layer])
    if field in {"src", "dst"}:
        return f"{layer}.{field} is not a field: packets go from our own address to the targets."
    known = {description.name for description in _LAYERS[layer].fields_desc}
    if field in known:
        return f"{layer}.{field} is set by scapy and cannot be declared; there are {offered}."
    return f"{layer} has no field {field}; there are {offered}."


def _value(layer: str, kind: type[Packet], name: str, value: Any) -> Any:
    """A value as scapy takes it, checked against the field's own description.

    Raises:
        InvalidParameters: It does not fit; says what would.
    """
    where = f"packet: {layer}.{name}"
    if name == "options":
        return _tcp_options(where, value)
    if name == "load":
        return _payload(where, value)
    if name == "qname":
        return _domain_name(where, value)
    source = DNSQR if name == "qtype" else kind
    field = next(description for description in source.fields_desc if description.name == name)
    if isinstance(field, ConditionalField):
        field = field.fld
    if isinstance(field, MultipleTypeField):
        field = field.dflt
    most = 2 ** round(field.sz * 8) - 1
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        if not 0 <= value <= most:
            raise InvalidParameters(f"{where} is a number from 0 to {most}, not {value}.")
        if name in {"sport", "dport"} and value == 0:
            raise InvalidParameters(f"{where} is a port from 1 to 65535.")
        return value
    if isinstance(value, str) and isinstance(field, FlagsField):
        letters = [str(one) for one in field.names]
        given = value.split("+") if "+" in value or value in letters else list(value)
        if value and not set(given) <= set(letters):
            raise InvalidParameters(f"{where} is made of {', '.join(letters)}, not {value[:40]!r}.")
        return sum(1 << letters.index(one) for one in set(given) if one)
    if isinstance(value, str) and isinstance(field, _EnumField) and name not in {"sport", "dport"}:
        names = {str(said): number for number, said in dict(field.i2s or {}).items()}
        if value not in names:
            raise InvalidParameters(f"{where} knows no {value[:40]!r}; there are {', '.join(sorted(names)[:12])}.")
        return names[value]
    raise InvalidParameters(f"{where} is a number from 0 to {most}, not {type(value).__name__} {str(value)[:40]!r}.")


def _payload(where: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidParameters(f"{where} is text, or bytes as 'hex:00ff'.")
    try:
        data = bytes.fromhex(value.removeprefix("hex:")) if value.startswith("hex:") else value.encode()
    except ValueError:
        raise InvalidParameters(f"{where}: what follows hex: is not hexadecimal digits.") from None
    if len(data) > MOST_PAYLOAD:
        raise InvalidParameters(f"{where} has {len(data)} bytes; at most {MOST_PAYLOAD} fit one packet.")
    return data


def _domain_name(where: str, value: Any) -> bytes:
    labels = value.rstrip(".").split(".") if isinstance(value, str) else []
    if value == "." or (labels and len(value) <= 253 and all(0 < len(one.encode()) <= 63 for one in labels)):
        return str(value).encode()
    raise InvalidParameters(f"{where} is a domain name, such as printer.example.com.")


def _tcp_options(where: str, value: Any) -> list[tuple[str, Any]]:
    """Options as scapy takes them, from pairs such as `["MSS", 1460]`."""
    formats = {"EOL": 0, "NOP": 0, "SAckOK": 0, "MSS": 1, "WScale": 1, "Timestamp": 2}
    sizes = {"EOL": 1, "NOP": 1, "SAckOK": 2, "MSS": 4, "WScale": 3, "Timestamp": 10}
    right = f"{where} is a list of names and values, such as [['MSS', 1460], ['SAckOK'], ['NOP']]"
    if not isinstance(value, (list, tuple)):
        raise InvalidParameters(f"{right}.")
    options: list[tuple[str, Any]] = []
    for entry in value:
        words = [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, (list, tuple)) else []
        if not words or words[0] not in formats or words[0] not in TCPOptions[1]:
            raise InvalidParameters(f"{right}; there are {', '.join(formats)}.")
        name, numbers = str(words[0]), [one for one in words[1:] if one is not None]
        numbers = list(numbers[0]) if len(numbers) == 1 and isinstance(numbers[0], (list, tuple)) else numbers
        most = {"MSS": 0xFFFF, "WScale": 14, "Timestamp": 0xFFFFFFFF}.get(name, 0)
        if len(numbers) != formats[name] or not all(type(one) is int and 0 <= one <= most for one in numbers):
            raise InvalidParameters(f"{where}: {name} takes {formats[name]} numbers from 0 to {most}.")
        options.append((name, tuple(numbers) if len(numbers) > 1 else numbers[0] if numbers else None))
    if sum(sizes[name] for name, _ in options) > _TCP_OPTION_BYTES:
        raise InvalidParameters(f"{where}: more than the {_TCP_OPTION_BYTES} bytes that fit a TCP header.")
    return options
