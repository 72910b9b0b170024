"""Packets out of tshark's PDML, with pyshark's own parser. Runs in a child process: it is slow and reads what strangers sent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tasks.core.redact import MASK
from tasks.network.capture._mask import mask_text
from tasks.network.capture._tshark_fields import (
    companion,
    is_secret_by,
    is_secret_field,
    iso_time,
    masked_hex,
    shortened,
)

MOST_VALUES = 50
"""Values of one field of one layer that are kept."""
WITHOUT_NAME = "text"
"""What lines of a layer that are no field are listed under."""


def decode(pdml: bytes, layers: Sequence[str], result_bytes: int, reveal: bool) -> list[dict[str, Any]]:
    """Decode packets.

    Args:
        pdml: `<packet>` elements as tshark prints them; a last one that is cut off is left out.
        layers: Names of the layers wanted; none: all.
        result_bytes: Most bytes of JSON; packets beyond are left out.
        reveal: Whether secrets stay.

    Returns:
        Of each packet its number, time, length and layers, each with its fields.
    """
    # Takes a tenth of a second, and not everybody who imports this module decodes.
    from pyshark.tshark.output_parser.tshark_xml import packet_from_xml_packet  # type: ignore[import-untyped]

    wanted = {name.lower() for name in layers}
    packets: list[dict[str, Any]] = []
    room = result_bytes
    for element in re.findall(rb"<packet>.*?</packet>", pdml, re.DOTALL):
        packet = packet_from_xml_packet(element)
        found = {
            "number": int(str(packet.number)),
            "at": iso_time(str(packet.sniff_timestamp)),
            "length": int(str(packet.length)),
            "layers": [
                {"name": layer.layer_name, "fields": _fields(layer, packet.layers, reveal=reveal)}
                for layer in packet.layers
                if not wanted or layer.layer_name.lower() in wanted
            ],
        }
        room -= len(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
        if room < 0:
            break
        packets.append(found)
    return packets


def _fields(layer: Any, layers: Sequence[Any], *, reveal: bool) -> dict[str, str | list[str]]:
    """The fields of a layer by the names pyshark gives them, with what Wireshark shows for each; `layers` are all of its packet."""
    fields: dict[str, list[str]] = {}
    containers = layer._all_fields  # noqa: SLF001 - its public names have lost the dots that tell what a field is
    for full, container in containers.items():
        name = layer._sanitize_field_name(full) or WITHOUT_NAME  # noqa: SLF001
        guide = companion(full)
        hidden = not reveal and (
            is_secret_field(full) or (guide is not None and is_secret_by(guide, _said(guide, layer, layers)))
        )
        values = fields.setdefault(name, [])
        for one in container.all_fields:
            if one.hide or len(values) >= MOST_VALUES:
                continue
            text = _text(one)
            if hidden and text:
                values.append(MASK)
            else:
                values.append(shortened(text if reveal else _masked(text)))
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items() if values}


def _said(guide: str, layer: Any, layers: Sequence[Any]) -> list[str]:
    """What a field says that tells of others: in their layer, else wherever it is in the packet."""
    holders = [layer] if guide in layer._all_fields else layers  # noqa: SLF001
    found = [one._all_fields[guide] for one in holders if guide in one._all_fields]  # noqa: SLF001
    return [str(field.show or "") for container in found for field in container.all_fields]


def _text(field: Any) -> str:
    """What a field is: its value as Wireshark shows it, else the line it stands in, else its bytes."""
    for text in (field.show, field.showname, field.raw_value):
        if text:
            return str(text)
    return ""


def _masked(text: str) -> str:
    return masked_hex(text) if len(text) >= 8 and re.fullmatch(r"(?:[0-9a-f]{2}:?)+", text) else mask_text(text)
