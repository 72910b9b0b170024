"""URLs that may be asked: http and https, a plain host, no password; and how they are shown."""

from __future__ import annotations

import re
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BeforeValidator, Field

from tasks.core.models import MAX_TARGETS, parse_target

PORTS = {"http": 80, "https": 443}
_MOST_CHARACTERS = 2048
_EXAMPLE = "right would be https://www.example.com/path"


def parse_url(text: Any) -> str:
    """Return a URL in its canonical spelling, without a fragment.

    Raises:
        ValueError: It is none that may be asked. The message never repeats it: people paste passwords.
    """
    if not isinstance(text, str):
        raise ValueError(f"must be text; {_EXAMPLE}")
    text = text.strip()
    # What browsers repair (backslashes, tabs inside) is refused: two programs could disagree about what the host is.
    if not 1 <= len(text) <= _MOST_CHARACTERS or re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError(f"must be 1 to {_MOST_CHARACTERS} characters without spaces or backslashes; {_EXAMPLE}")
    try:
        url = httpx.URL(text).copy_with(fragment=None)
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError(f"cannot be read as a URL; {_EXAMPLE}") from None
    check_url(url)
    return str(url)


def check_url(url: httpx.URL) -> None:
    """Look whether a URL may be asked at all, by its form.

    Raises:
        ValueError: It may not; says why, after "it".
    """
    if url.scheme not in PORTS:
        raise ValueError(f"must begin with http:// or https://; {_EXAMPLE}")
    if url.userinfo or "@" in url.netloc.decode("ascii"):
        raise ValueError("must hold no user name or password")
    if not url.host:
        raise ValueError(f"names no host; {_EXAMPLE}")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError("has a port that is none; ports are 1 to 65535")
    try:
        target = parse_target(host_of(url))
    except ValueError:
        raise ValueError(f"has a host that is neither a name nor an address; {_EXAMPLE}") from None
    if "/" in target:
        raise ValueError("names a prefix; give one host")


def host_of(url: httpx.URL) -> str:
    """The host as the gate is asked for it: a name in ASCII, lower case, without a final dot; an address without brackets."""
    return url.raw_host.decode("ascii").lower().strip("[]").rstrip(".")


def port_of(url: httpx.URL) -> int:
    """The TCP port."""
    return url.port or PORTS[url.scheme]


def shown(url: httpx.URL) -> str:
    """A URL for results and messages: without the query, where tokens travel.

    >>> shown(httpx.URL("https://example.com:8443/login?token=abc"))
    'https://example.com:8443/login?...'
    """
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}{'?...' if url.query else ''}"


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether two URLs are the same server's, so that headers meant for it may go there."""
    return (one.scheme, host_of(one), port_of(one)) == (other.scheme, host_of(other), port_of(other))


def _distinct(urls: list[str]) -> list[str]:
    return list(dict.fromkeys(urls))


Urls = Annotated[
    list[Annotated[str, BeforeValidator(parse_url)]],
    Field(min_length=1, max_length=MAX_TARGETS),
    AfterValidator(_distinct),
]
"""1 to 256 URLs; repeated ones are merged."""
