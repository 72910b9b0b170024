"""What a page holds: its text, its title, and whether a pattern is in it."""

from __future__ import annotations

import codecs
import html
import re

LONGEST = 200
"""Characters kept of a title, or of anything else a server says of itself."""
LONGEST_HEAD = 2048
"""Bytes in which a page has to name its charset; browsers look at 1,024."""
# A title ends where another begins, so that no part of a page is looked through again and again.
_TITLE = re.compile(r"<title\b[^<>]{0,200}>([^<]*(?:<(?!/?title\b)[^<]*)*)</title\s*>", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
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
    r"""Decode a page, or its beginning: by the charset its server names, or else itself, or else UTF-8, or else Latin-1.

    >>> text_of("Tür".encode("latin-1"), "text/html; charset=nonsense"), text_of(b'<meta charset="cp1251">\xc4', "text/html")[-1]
    ('Tür', 'Д')
    """
    named = _CHARSET.search(content_type.encode("latin-1", "replace")) or _CHARSET.search(body[:LONGEST_HEAD])
    if named and is_charset(charset := named[1].decode()):
        try:
            return body.decode(charset, "replace")
        except (LookupError, UnicodeError):  # what Python knows is no charset of text, or replaces nothing
            pass
    try:
        # The last character of a beginning may be half.
        return codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError as error:
        # One wrong byte far inside is a mistake; where there is no right one before it, it is no UTF-8.
        return body.decode("latin-1") if body[: error.start].isascii() else body.decode("utf-8", "replace")


def title_of(text: str) -> str | None:
    r"""The title of an HTML page, on one line.

    >>> title_of("<html><head><TITLE lang=en>AXIS&nbsp;P1448\n</TITLE>"), title_of("<title>half")
    ('AXIS P1448', None)
    """
    found = _TITLE.search(text)
    return shown(html.unescape(found[1])) if found else None


def shown(text: str | None) -> str | None:
    """Return a stranger's text in one line without control characters, at most so long; None for nothing."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return (clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 3]}...") or None


def holds(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text. May take for ever: call it by `offload`."""
    return re.search(pattern, text) is not None
