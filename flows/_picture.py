"""A picture of the address space: one square per address, coloured by what was found there."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from tasks.core.models import Address, Network

COLOURS = {
    "live": ("#2f9e6e", "answers, known"),
    "new": ("#2f6fde", "new"),
    "changed": ("#e0a100", "changed"),
    "missing": ("#d64545", "missing"),
    "candidate": ("#8d6cc9", "answers, not identified"),
    "silent": ("#e3e7ec", "no answer"),
    "excluded": ("#9aa3ad", "excluded"),
    "unknown": ("#f5d9b8", "not scanned"),
}
"""State of an address: colour and what the legend says."""

CELL, GAP, ROW = 11, 2, 32
LETTER = 7
"""Pixels a letter of the small text takes at most, on average: an SVG cannot ask."""
MOST_BLOCKS = 16
"""Blocks of up to 256 addresses drawn; the rest is summed up in a line."""


def draw(prefixes: Sequence[str], states: Mapping[str, str], *, title: str) -> str:
    """Draw prefixes as blocks of squares, 32 a row.

    Args:
        prefixes: What was scanned, as prefixes or addresses.
        states: Address to a key of `COLOURS`; an address without one is `silent`.
        title: Line above the picture.

    Returns:
        A complete SVG document.
    """
    blocks = [block for prefix in prefixes for block in _blocks(prefix)]
    order = {state: rank for rank, state in enumerate(("new", "changed", "missing", "live", "candidate"))}
    blocks.sort(key=lambda block: -sum(str(address) in states for address in block) if len(blocks) > MOST_BLOCKS else 0)
    shown, hidden = blocks[:MOST_BLOCKS], blocks[MOST_BLOCKS:]
    width = ROW * (CELL + GAP) + 40
    parts: list[str] = []
    y = 58
    for block in shown:
        label = (
            str(block[0]) if len(block) == 1 else f"{block[0]}/{block[0].max_prefixlen - (len(block) - 1).bit_length()}"
        )
        counts = {state: sum(states.get(str(a)) == state for a in block) for state in order}
        said = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        parts.append(
            f'<text x="20" y="{y}" class="label">{escape(label)}</text>'
            f'<text x="{width - 20}" y="{y}" text-anchor="end" class="dim">{escape(said)}</text>'
        )
        y += 8
        for index, address in enumerate(block):
            state = states.get(str(address), "silent")
            left, top = 20 + index % ROW * (CELL + GAP), y + index // ROW * (CELL + GAP)
            tip = f"<title>{address}: {COLOURS[state][1]}</title>"
            parts.append(
                f'<rect x="{left}" y="{top}" width="{CELL}" height="{CELL}" rx="2" fill="{COLOURS[state][0]}">{tip}</rect>'
            )
        y += (len(block) + ROW - 1) // ROW * (CELL + GAP) + 24
    if hidden:
        parts.append(
            f'<text x="20" y="{y}" class="dim">... and {len(hidden)} more blocks of up to 256 addresses.</text>'
        )
        y += 24
    used = [state for state in COLOURS if state == "silent" or any(value == state for value in states.values())]
    left = 20
    for state in used:
        meaning = COLOURS[state][1]
        needed = 17 + LETTER * len(meaning)
        if left + needed > width - 20:
            left, y = 20, y + 20
        parts.append(f'<rect x="{left}" y="{y - 9}" width="{CELL}" height="{CELL}" rx="2" fill="{COLOURS[state][0]}"/>')
        parts.append(f'<text x="{left + 17}" y="{y}" class="dim">{escape(meaning)}</text>')
        left += needed + 12
    y += 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}">'
        "<style>text{font-family:system-ui,sans-serif;font-size:12px;fill:#24292f}.head{font-size:15px;font-weight:600}"
        ".label{font-weight:600}.dim{fill:#6b7580;font-weight:400}</style>"
        f'<rect width="{width}" height="{y}" fill="#ffffff" rx="6"/><text x="20" y="30" class="head">{escape(title)}</text>'
        + "".join(parts)
        + "</svg>"
    )


def data_url(svg: str) -> str:
    """Wrap an SVG for an image tag: Prefect's UI strips inline SVG from markdown, but shows images."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _blocks(prefix: str) -> list[list[Address]]:
    network: Network = ipaddress.ip_network(prefix)
    if network.num_addresses > 4096:  # an IPv6 prefix that large was refused before; a loopback /8 is one host
        return [[network.network_address]]
    addresses: list[Address] = [*network]
    return [addresses[start : start + 256] for start in range(0, len(addresses), 256)]
