"""SMTP's words: commands, the addresses in MAIL and RCPT, extensions, user names in SASL, and where a mail ends (RFC 5321, RFC 4954)."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Final

from tasks.network.analyze._lines import clean

COMMANDS: Final = frozenset(
    b"ATRN AUTH BDAT BURL DATA EHLO ETRN EXPN HELO HELP LHLO MAIL NOOP QUIT RCPT RSET SAML SEND SOML STARTTLS TURN VRFY XCLIENT XFORWARD"
    b" XEXCH50 X-ANONYMOUSTLS X-EXPS XADR XCIR XSTA XGEN".split()
)
"""A word that is not here may be anything, a line of SASL too: it is counted, not shown."""
HELLOS: Final = frozenset({"HELO", "EHLO", "LHLO"})
READABLE: Final = frozenset({"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER", "XOAUTH"})
"""Mechanisms that send what lets one log in: a password, or a token."""

_PATH = re.compile(rb"(?i)^(?:FROM|TO)\s*:\s*(?:<((?:\"(?:[^\"\\]|\\.)*\"|[^>\"])*)>|([^\s<>]+))")
_MECHANISM = re.compile(r"^[A-Z0-9_-]{1,20}$")
_ENHANCED = re.compile(rb"^([245]\.\d{1,3}\.\d{1,3})\b")
_SIZE = re.compile(rb"(?i)\bSIZE=(\d{1,18})\b")
_SASL_USER = re.compile(rb"(?:^|[,\x01])(?:user|a)=([^,\x01]+)")


def split_command(line: bytes) -> tuple[str, bytes]:
    """The command of a line in capitals (empty when it is none that is known), and its argument.

    >>> split_command(b"mail FROM:<a@b.test>"), split_command(b"aHVudGVyMg==")
    (('MAIL', b'FROM:<a@b.test>'), ('', b''))
    """
    word, _, argument = line.strip().partition(b" ")
    verb = word.upper()
    return (verb.decode(), argument.strip()) if verb in COMMANDS else ("", b"")


def parse_path(argument: bytes) -> str | None:
    """The address of MAIL or RCPT; empty for the null sender, None where there is none.

    >>> parse_path(b"TO:<@relay.test:bob@Example.COM> NOTIFY=NEVER"), parse_path(b"FROM:<>")
    ('bob@example.com', '')
    """
    match = _PATH.match(argument)
    if match is None:
        return None
    path = match[1] if match[1] is not None else match[2]
    if path.startswith(b"@") and b":" in path:  # a source route (RFC 5321, C)
        path = path.partition(b":")[2]
    text = clean(path, 100)
    local, sign, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}" if sign else text


def parse_size(argument: bytes) -> int | None:
    """The size a client announces (RFC 1870)."""
    match = _SIZE.search(argument)
    return int(match[1]) if match else None


def parse_chunk(argument: bytes) -> tuple[int, bool] | None:
    """Bytes of a BDAT, and whether it is the last (RFC 3030).

    >>> parse_chunk(b"86 LAST"), parse_chunk(b"lots")
    ((86, True), None)
    """
    parts = argument.upper().split()
    if not parts or not parts[0].isdigit() or len(parts[0]) > 18:
        return None
    return int(parts[0]), parts[1:] == [b"LAST"]


def enhanced(text: bytes) -> str:
    """The enhanced status code a reply begins with (RFC 3463), or nothing.

    >>> enhanced(b"5.7.1 Relaying denied")
    '5.7.1'
    """
    match = _ENHANCED.match(text)
    return match[1].decode() if match else ""


def mechanism(argument: bytes) -> str:
    """The mechanism of an AUTH; what does not look like one is not shown."""
    name = argument.partition(b" ")[0].decode("latin-1").upper()
    return name if _MECHANISM.match(name) else "unknown"


def sasl_user(name: str, response: bytes, prompt: bytes | None) -> str:
    """The user's name in a line of SASL; never what comes with it.

    Args:
        name: The mechanism.
        response: The line, in base64.
        prompt: What the server asked for, in base64; None for what comes with AUTH itself.
    """
    decoded, user = _decoded(response), b""
    if name == "PLAIN":
        parts = decoded.split(b"\0")
        user = parts[1] if len(parts) == 3 else b""
    elif name == "LOGIN":
        # Only what is asked for as the name is one: where a packet is missing the next line is the password.
        user = decoded if prompt is None or _decoded(prompt)[:4].lower() == b"user" else b""
    elif name == "CRAM-MD5":
        user = decoded.rpartition(b" ")[0]
    elif name in {"XOAUTH2", "OAUTHBEARER"}:
        match = _SASL_USER.search(decoded)
        user = match[1] if match else b""
    return clean(user, 64)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def domain_of(address: str) -> str:
    """The domain of an address."""
    return address.rpartition("@")[2].rstrip(".") if "@" in address else ""


def organisation(domain: str) -> str:
    """The part of a domain that somebody registered, about: without a list of public suffixes it is a guess.

    >>> organisation("mx1.mail.example.com"), organisation("a.example.co.uk")
    ('example.com', 'example.co.uk')
    """
    labels = domain.lower().strip("[].").split(".")
    three = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if three else -2 :])


def from_outside(client: str, server: str) -> bool:
    """Whether a client comes from the Internet, and not from the server's own network."""
    try:
        one, other = ipaddress.ip_address(client), ipaddress.ip_address(server)
    except ValueError:
        return False
    if not one.is_global:
        return False
    bits = 24 if one.version == 4 else 48
    return one.version != other.version or other not in ipaddress.ip_network(f"{one}/{bits}", strict=False)


class Body:
    r"""Passes over a mail's text, and knows where it ends.

    >>> body = Body()
    >>> body.feed(b"Subject: x\r\n\r\n.\r"), body.feed(b"\nQUIT\r\n"), body.bytes
    (None, 1, 14)
    """

    __slots__ = ("_tail", "bytes", "odd_end")

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the line before it has ended
        self.bytes = 0
        """Bytes of the text, without the line that ends it."""
        self.odd_end = False
        """Whether a dot stands between line ends of which one is no CR LF: servers may differ on whether the mail ends there."""

    def feed(self, data: bytes) -> int | None:
        """Take bytes; where in them the mail is over, or None."""
        before = len(self._tail)
        both = self._tail + data
        end = both.find(b"\r\n.\r\n")
        text = both if end < 0 else both[: end + 2]
        if not self.odd_end and b"\n." in text:
            lone = text.find(b"\n.\r\n")
            self.odd_end = b"\n.\n" in text or (lone >= 0 and text[lone - 1 : lone] != b"\r")
        if end < 0:
            self.bytes += len(data)
            self._tail = both[-4:]
            return None
        used = end + 5 - before
        self.bytes = max(0, self.bytes + used - 3)
        return used

    def lost(self, missing: int) -> None:
        """Bytes of it are missing, its end perhaps among them."""
        self.bytes += missing
        self._tail = b""
