"""What a page holds: its text, its title, and whether a pattern is in it."""

from __future__ import annotations

import codecs
import html
import re

MOST_TITLE = 120
_NO_CHARSETS = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"})
"""Python's codecs of text in which no page is written. A server names the charset: some of these raise whatever the page holds, and
decoding punycode takes time by the square of its length, minutes for a page."""


def is_charset(name: str) -> bool:
    """Whether pages may be written in it.

    >>> is_charset("ISO-8859-15"), is_charset("Punycode"), is_charset("no-such")
    (True, False, False)
    """
    try:
        return codecs.lookup(name).name.replace("_", "-") not in _NO_CHARSETS
    except LookupError:
        return False


def text_of(body: bytes, content_type: str) -> str:
    """Decode a body by the charset its server names; what cannot be decoded is replaced."""
    named = re.search(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", content_type, re.IGNORECASE)
    try:
        return body.decode(named[1] if named and is_charset(named[1]) else "utf-8", "replace")
    except (LookupError, UnicodeError):  # what Python knows is no charset of text, or replaces nothing
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
