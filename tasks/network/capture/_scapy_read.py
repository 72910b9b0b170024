"""Packets of scapy's as plain data."""

from __future__ import annotations

from typing import Any

from scapy.packet import NoPayload, Packet

from tasks.network.capture._mask import mask, mask_text, printable

MOST_LAYERS = 12
LONGEST_VALUE = 300


def layers_of(packet: Packet | None) -> list[dict[str, Any]]:
    """The layers of a packet with their fields as scapy shows them, secrets masked."""
    layers: list[dict[str, Any]] = []
    while packet is not None and not isinstance(packet, NoPayload) and len(layers) < MOST_LAYERS:
        layers.append({"name": packet.__class__.__name__, "fields": _fields(packet)})
        packet = packet.payload
    return layers


def _fields(packet: Packet) -> dict[str, str]:
    fields: dict[str, str] = {}
    for description in packet.fields_desc:
        value = packet.fields.get(description.name)
        if value is None:
            continue
        try:
            text = _words(description, packet, value)
        except Exception:  # noqa: BLE001 - a dissector that stumbles over a stranger's value must not end the probe
            text = "?"
        text = "".join(one if one.isprintable() else " " for one in mask_text(text))
        if text:
            fields[description.name] = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
    return fields


def _words(description: Any, packet: Packet, value: Any) -> str:
    """A field's value as a person would write it; scapy's own is a piece of Python for all that is more than a number."""
    if isinstance(value, bytes):
        return printable(mask(value))
    if isinstance(value, Packet):
        return _inner(value)
    if isinstance(value, (list, tuple)):
        return ("; " if any(isinstance(one, Packet) for one in value) else ", ").join(_entry(one) for one in value)
    return str(description.i2repr(packet, value))


def _entry(value: Any) -> str:
    """One entry of a list: a packet of its own, or an option with its value, as TCP and DHCP have them."""
    if isinstance(value, Packet):
        return _inner(value)
    if isinstance(value, bytes):
        return printable(mask(value))
    if isinstance(value, (list, tuple)):
        return " ".join(text for one in value if (text := _entry(one)))
    return "" if value is None else str(value)


def _inner(packet: Packet) -> str:
    """A packet inside a field, such as a record of DNS; what it carries itself is left out."""
    said = ", ".join(f"{name}={text}" for name, text in _fields(packet).items())
    return f"{packet.__class__.__name__} ({said})" if said else packet.__class__.__name__
