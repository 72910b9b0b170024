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
            text = printable(mask(value)) if isinstance(value, bytes) else str(description.i2repr(packet, value))
        except Exception:  # noqa: BLE001 - a dissector that stumbles over a stranger's value must not end the probe
            text = "?"
        text = "".join(one if one.isprintable() else " " for one in mask_text(text))
        fields[description.name] = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
    return fields
