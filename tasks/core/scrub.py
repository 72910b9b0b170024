"""Take secrets out of what others say before anyone repeats it: answers, error pages and banners echo what they were sent."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

SHORTEST_SECRET = 6
"""A secret of fewer characters is masked as a whole word only: `ab` inside other words gives nothing away."""
MASK = "***"
# Our own pattern, not urlsplit: that one raises on addresses such as http://[bad/secret, and then nothing would be masked.
_URL = re.compile(r"[^/?#]*//(?:([^/?#]*)@)?[^/?#]*(/[^?#]*)?(?:\?([^#]*))?")


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Mask every secret in `text`, also where it is percent-encoded or in base64.

    >>> scrub("no route for /T0001/hunter2secret", ["hunter2secret"])
    'no route for /T0001/***'
    """
    spellings: set[str] = set()
    for secret in secrets:
        if not secret:
            continue
        encoded = base64.b64encode(secret.encode()).decode()
        spellings |= {secret, quote(secret), quote(secret, safe=""), unquote(secret), encoded, encoded.rstrip("=")}
    for spelling in sorted(spellings, key=len, reverse=True):
        if len(spelling) >= SHORTEST_SECRET:
            text = text.replace(spelling, MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", MASK, text)
    return text


def url_secrets(url: str) -> list[str]:
    """Everything of a URL that may be secret: user, password, path with the parts that are no words, query with its values.

    >>> url_secrets("https://hooks.example.com/services/T0123ABC/x9Rfk2?key=s3cret77")
    ['/services/T0123ABC/x9Rfk2', 'T0123ABC', 'x9Rfk2', 'key=s3cret77', 's3cret77']
    """
    match = _URL.match(url)
    if match is None:
        return [url]
    user, path, query = (part or "" for part in match.groups())
    found = user.split(":", 1)
    if len(path) > 1:
        found += [path, *(piece for piece in path.split("/") if _is_token(piece))]
    if query:
        values = (pair.partition("=")[2] for pair in query.split("&"))
        found += [query, *(value for value in values if len(value) >= SHORTEST_SECRET)]
    return [secret for secret in found if secret]


def _is_token(piece: str) -> bool:
    """Whether a part of a path may be a token; `services` or `alerts` alone give nothing away and are common words."""
    return len(piece) >= SHORTEST_SECRET and (len(piece) >= 20 or not re.fullmatch(r"[A-Z]?[a-z._-]+", piece))


def excerpt(data: bytes, limit: int = 300) -> str:
    r"""The first `limit` characters of an answer on one line, as text that is safe to show.

    >>> excerpt(b"<h1>Not\nFound</h1>\x07")
    '<h1>Not Found</h1>'
    """
    text = data[: 8 * limit].decode("utf-8", "replace")
    text = " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
