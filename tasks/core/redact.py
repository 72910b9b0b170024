"""Make a record fit to be kept for ever: without what looks like a secret, storable as JSONB, and of bounded size.

Belt and braces: tools keep secrets in blocks and name none in parameters or results. What slips through (a banner that shows a
URL with a password, an answer that repeats a header) is masked here by its looks, before it reaches database or journal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
MOST_BYTES = 64 * 1024
"""Largest JSON of one result or of one set of parameters in the ledger."""
LONGEST_SCALAR = 1000

_SECRET_KEY = re.compile(
    r"(?i)(^|[_\-.\s])(pass|passwd|password|passphrase|pwd|secret|secrets|token|api[_-]?key|auth|authorization|cookie|set-cookie"
    r"|private[_-]?key|access[_-]?key|client[_-]?secret|credential|credentials|community)$"
    r"|password$|passwd$|secret$|apikey$|token$"
)
_IN_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    # https://user:password@host -> https://***@host (RFC 3986, userinfo)
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://)[^\s/?#@\"'<>]+@"), rf"\1{MASK}@"),
    # Authorization: Bearer xyz; also Basic, Digest (its whole line of parameters), and bare scheme tokens
    (re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)[^\r\n\"']+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b((?:set-)?cookie\s*:\s*)(?!\*\*\*)[^\r\n]+"), rf"\1{MASK}"),
    (re.compile(r"\b(Bearer|Basic)\s+(?!\*\*\*)[A-Za-z0-9+/_.~=-]{8,}"), rf"\1 {MASK}"),
    # password=xyz, token: xyz, ?sig=xyz (Azure's webhook signature)
    (
        re.compile(
            r"(?i)(?<![a-z])((?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|sig|signature)"
            r"[\"']?\s*[=:]\s*[\"']?)(?!\*\*\*)[^\s&;,\"'<>]+"
        ),
        rf"\1{MASK}",
    ),
    # Of a query or form; with a colon it is a word of prose ("second pass: 3").
    (re.compile(r"(?i)(?<![a-z])(pass=)(?!\*\*\*)[^\s&;,\"'<>]+"), rf"\1{MASK}"),
    # The path is the secret of an incoming webhook (Slack, Teams).
    (re.compile(r"(?i)(https://hooks\.slack\.com/)[^\s\"'<>]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)(https://[a-z0-9.-]*webhook\.office\.com/)[^\s\"'<>]+"), rf"\1{MASK}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
)


def redact(value: Any, *, key: str = "") -> Any:
    """Return `value` as plain JSON that PostgreSQL stores, with what looks like a secret masked.

    Args:
        value: Anything made of dicts, lists, strings, numbers, booleans and None; other things become their text.
        key: The name `value` stands under; what a secret's name says is masked whatever it looks like.

    >>> redact({"url": "https://joe:pw@example.com/", "password": "x", "tries": 3})
    {'url': 'https://***@example.com/', 'password': '***', 'tries': 3}
    """
    if value is None or isinstance(value, bool):
        return value
    if key and value not in ("", 0) and _SECRET_KEY.search(key) and not isinstance(value, (Mapping, list, tuple)):
        return MASK
    match value:
        case str():
            return redact_text(value)
        case int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)  # JSON has no NaN and no infinity
        case Mapping():
            return {storable(str(name)): redact(item, key=str(name)) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redact(item, key=key) for item in value]
        case _:
            return redact_text(str(value))


def redact_text(text: str) -> str:
    """Mask in free text what looks like a secret: credentials in URLs and headers, `password=`, webhook paths, keys.

    >>> redact_text("user=joe&pass=hunter2&zoom=1, second pass: 3, bypass=yes")
    'user=joe&pass=***&zoom=1, second pass: 3, bypass=yes'
    """
    text = storable(text)
    for pattern, mask in _IN_TEXT:
        text = pattern.sub(mask, text)
    return text


def storable(text: str) -> str:
    """Replace what PostgreSQL cannot store in text: NUL and lone surrogates."""
    if "\x00" in text:
        text = text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def bounded(record: dict[str, Any] | None, most_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
    """Return the record, or a marker in its place when its JSON is larger than `most_bytes`.

    The marker has `truncated`, `size_bytes`, the top-level scalars (long texts cut), references to files, and for every other
    list or object its number of entries under `counts`.
    """
    if record is None:
        return None
    size = json_size(record)
    if size <= most_bytes:
        return record
    marker: dict[str, Any] = {"truncated": True, "size_bytes": size}
    counts: dict[str, int] = {}
    for name, value in list(record.items())[:200]:
        if name in ("truncated", "size_bytes", "counts"):
            continue
        if isinstance(value, str):
            kept: Any = value if len(value) <= LONGEST_SCALAR else f"{value[:LONGEST_SCALAR]}..."
        elif isinstance(value, (dict, list)) and not _is_file_ref(value):
            counts[name] = len(value)
            continue
        else:
            kept = value
        if json_size(marker) + json_size({name: kept}) <= most_bytes // 2:
            marker[name] = kept
    if counts:
        marker["counts"] = counts
    return marker


def json_size(value: Any) -> int:
    """Return the size in bytes of a value as compact JSON in UTF-8."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"))


def _is_file_ref(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_file_ref(item) for item in value)
    return isinstance(value, dict) and {"site", "name", "size_bytes", "sha256"} <= value.keys()
