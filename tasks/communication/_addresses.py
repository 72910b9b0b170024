"""Mail addresses: one spelling, and nothing in them that could become a header."""

from __future__ import annotations

import re
from email.headerregistry import Address
from typing import Annotated, Any

from pydantic import BeforeValidator

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"""\s*(?:"?([^"<>\\]*?)"?\s*<)?({_ATOM}(?:\.{_ATOM})*)@([^\s@<>,;:"()\[\]\\]+)(>?)\s*""")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


def parse_address(text: Any) -> str:
    """Return a mail address in one spelling: `noc@example.com` or `NOC <noc@example.com>`.

    >>> parse_address('"Night shift" <NOC@Example.COM>')
    'Night shift <NOC@example.com>'

    Raises:
        ValueError: Not one address. Line ends are refused here, so that no header can be smuggled in.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) and len(text) <= 320 and text.isprintable() else None
    if match is None or (match[1] is None) == bool(match[4]):
        raise ValueError(f"{text!r} is not a mail address; right would be noc@example.com or NOC <noc@example.com>")
    name, local, domain = (match[1] or "").strip(), match[2], match[3]
    try:
        ascii_domain = domain.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        ascii_domain = ""
    if len(local) > 64 or not all(_LABEL.fullmatch(label) for label in ascii_domain.split(".")):
        raise ValueError(f"{text!r} is not a mail address: {domain!r} is no domain name")
    return f"{name} <{local}@{ascii_domain}>" if name else f"{local}@{ascii_domain}"


def bare_address(address: str) -> str:
    """The address without the name.

    >>> bare_address("NOC <noc@example.com>")
    'noc@example.com'
    """
    return address.rpartition("<")[2].rstrip(">")


def header_address(address: str) -> Address:
    """The address as the header's writer takes it: it quotes and encodes the name."""
    return Address(display_name=address.rpartition("<")[0].strip(), addr_spec=bare_address(address))


MailAddress = Annotated[str, BeforeValidator(parse_address)]
"""A mail address, with or without a name, in its one spelling."""
