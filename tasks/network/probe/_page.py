"""What a page holds: its text, its title, and whether a pattern is in it."""

from __future__ import annotations

import html
import re

MOST_TITLE = 120


def text_of(body: bytes, content_type: str) -> str:
    """Decode a body by the charset its server names; what cannot be decoded is replaced."""
    named = re.search(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", content_type, re.IGNORECASE)
    try:
        return body.decode(named[1] if named else "utf-8", "replace")
    except LookupError:  # no such charset, or one that is none of text
        return body.decode("utf-8", "replace")


def title_of(text: str) -> str | None:
    r"""The title of an HTML page, on one line.

    >>> title_of("<html><head><TITLE lang=en>AXIS&nbsp;P1448\n</TITLE>")
    'AXIS P1448'
    """
    # Bounded repeats, and nothing to go back to: linear in the page.
    found = re.search(r"<title\b[^>]{0,200}>([^<]{0,2000})", text, re.IGNORECASE)
    if found is None:
        return None
    words = " ".join(html.unescape(found[1]).split())
    clean = "".join(character for character in words if character.isprintable())
    return (clean if len(clean) <= MOST_TITLE else f"{clean[: MOST_TITLE - 3]}...") or None


def holds(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text. May take for ever: call it by `offload`."""
    return re.search(pattern, text) is not None
