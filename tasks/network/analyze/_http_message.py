"""Heads of HTTP/1 messages (RFC 9112): what an analyzer counts of them, and what of them may be shown."""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import re
from typing import Final

LONGEST_HEAD: Final = 65_536
"""Bytes of a head; servers refuse far less."""
LONGEST_TARGET: Final = 8_192
"""Bytes kept of a request's target while its answer is awaited."""
METHODS: Final = (
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND", b"PROPPATCH", b"MKCOL",
    b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"SEARCH", b"MERGE", b"CHECKOUT", b"SUBSCRIBE", b"UNSUBSCRIBE", b"NOTIFY",
)  # fmt: skip
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How HTTP/2 begins (RFC 9113 section 3.4)."""
STARTS: Final = (*(method + b" " for method in METHODS), b"HTTP/1.", PREFACE[:12])
"""What a conversation in clear-text HTTP begins with, in one direction or the other."""
UNKNOWN_LENGTH: Final = -1
MASK: Final = "***"

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}) +([^ \r\n]+) +HTTP/1\.([01])[ \t]*\r?\Z")
_STATUS = re.compile(rb"HTTP/1\.([01]) +([1-9][0-9]{2})(?: .*)?\r?\Z", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}")
_SECRET_KEY = re.compile(
    r"(?i)passw|passphrase|^pass$|pwd|secret|token|api[_-]?key|access[_-]?key|^key$|^sig$|signature|^auth|credential|^otp$|^pin$"
    r"|session[_-]?id|^sid$|jsessionid|phpsessid"
)
_FORM_NAME = re.compile(rb"""(?i)name=["']?([A-Za-z0-9_.\[\]-]{1,60})""")
_JSON_NAME = re.compile(rb'"([A-Za-z0-9_.-]{1,60})"\s*:')
_RANDOM = re.compile(r"(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[A-Za-z0-9_=~%-]{24,}")
_WORDS = re.compile(r"[A-Za-z]*([_-]([A-Za-z]+|[0-9]{1,8}))*[_-]?")
_UUID = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST_USER = re.compile(rb'(?i)\busername="?([^",]{0,200})')


class Head:
    """The head of a request or a response."""

    __slots__ = (
        "agent", "ambiguous", "authorization", "chunked", "close", "content_type", "cookie", "host", "keep_alive", "key_header",
        "length", "location", "method", "minor", "proxy_authorization", "status", "target", "upgrade",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.status = 0
        self.minor = 1
        self.host = self.agent = self.content_type = self.location = self.upgrade = ""
        self.authorization = self.proxy_authorization = b""
        self.key_header = ""
        self.cookie = self.chunked = self.close = self.keep_alive = self.ambiguous = False
        self.length = UNKNOWN_LENGTH


def find_end(data: bytes | bytearray, start: int) -> int:
    """Where a head that begins before `start` ends, its empty line included; -1 when it does not yet."""
    end = data.find(b"\r\n\r\n", start)
    # Servers have to cope with bare line feeds, so some clients send them.
    bare = data.find(b"\n\n", start, end if end >= 0 else len(data))
    return bare + 2 if bare >= 0 else end + 4 if end >= 0 else -1


def read_head(data: bytes) -> Head | None:
    """Read a head up to and with its empty line; None when its first line is not HTTP/1."""
    lines = data.split(b"\n")
    head = Head()
    first = lines[0]
    if first.startswith(b"HTTP/"):
        status = _STATUS.match(first)
        if status is None:
            return None
        head.minor, head.status = int(status[1]), int(status[2])
    else:
        request = _REQUEST.match(first)
        if request is None:
            return None
        head.method = request[1].decode("ascii")
        head.target = request[2][:LONGEST_TARGET].decode("latin-1")
        head.minor = int(request[3])
    coded = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        read = _FIELDS.get(name) or _FIELDS.get(name.lower())
        if read is None:
            continue
        value = value.strip()
        match read:
            case "host":
                head.host = value.decode("latin-1").lower()
            case "agent":
                head.agent = show(value)
            case "type":
                head.content_type = show(value.partition(b";")[0].strip().lower(), 80)
            case "length":
                # Some send a list of equal lengths; anything else that is no number ends what can be followed.
                number = value.partition(b",")[0].strip()
                length = int(number) if number.isdigit() and len(number) <= 18 else UNKNOWN_LENGTH
                head.ambiguous |= head.length not in {UNKNOWN_LENGTH, length}
                head.length = length
            case "coding":
                coded = True
                head.chunked = value.lower().endswith(b"chunked")
            case "connection":
                value = value.lower()
                head.close, head.keep_alive = b"close" in value, b"keep-alive" in value
            case "upgrade":
                head.upgrade = show(value.lower(), 40)
            case "location":
                head.location = value.decode("latin-1")
            case "cookie":
                head.cookie = True
            case "authorization":
                head.authorization = value
            case "proxy":
                head.proxy_authorization = value
            case _:
                head.key_header = name.decode("latin-1")
    head.ambiguous |= coded and head.length != UNKNOWN_LENGTH
    return head


_NAMES: Final = {
    "host": "Host",
    "agent": "User-Agent",
    "type": "Content-Type",
    "length": "Content-Length",
    "coding": "Transfer-Encoding",
    "connection": "Connection",
    "upgrade": "Upgrade",
    "location": "Location",
    "cookie": "Cookie",
    "authorization": "Authorization",
    "proxy": "Proxy-Authorization",
    "api": "X-Api-Key",
    "token": "X-Auth-Token",
}
_FIELDS: Final = {
    spelling.encode(): read for read, name in _NAMES.items() for spelling in (name, name.lower(), name.upper())
}


def chunk_size(line: bytes) -> int:
    """Length that a chunk's first line gives; -1 when it gives none."""
    number = _HEX.match(line.strip())
    return int(number[0], 16) if number else -1


def looks_like_start(data: bytes, *, request: bool) -> bool:
    """Whether a segment begins with a message: how a stream is followed again after a gap."""
    if not data.startswith(STARTS):
        return False
    line = data[: data.find(b"\n") if b"\n" in data[:8192] else 8192]
    if data.startswith(b"HTTP/1."):
        return not request and _STATUS.match(line) is not None
    return request and (_REQUEST.match(line) is not None or data.startswith(PREFACE[:16]))


def show(value: bytes, most: int = 120) -> str:
    """Make a header's value fit to be shown: printable, and not long."""
    return _shown(value[: most * 4], most)


@functools.lru_cache(maxsize=4096)  # agents and types are the same again and again
def _shown(value: bytes, most: int) -> str:
    text = value.decode("utf-8", "replace")
    if not text.isprintable():
        text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def path_of(target: str) -> str:
    """The path of a request's target: without host, query and fragment; parts that look random are masked.

    >>> path_of("http://joe:pw@shop.example/reset/9f8a7b6c5d4e3f2a1b0c9d8e/start?token=abc#x")
    '/reset/***/start'
    """
    if "://" in target[:12]:
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path = re.split(r"[?#;]", target, maxsplit=1)[0]
    path = "/".join(MASK if _is_random(part) else part for part in path.split("/"))
    return show(path.encode("latin-1", "replace"), 160)


def url_of(target: str, host: str = "") -> str:
    """A target for people: host, path, and of a query the names alone.

    >>> url_of("/login?user=joe&token=s3cret", "www.example.com")
    'www.example.com/login?user=***&token=***'
    """
    if "://" in target[:12]:
        scheme, _, rest = target.partition("://")
        host = f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    query = target.partition("?")[2].partition("#")[0]
    names = [pair.partition("=") for pair in query.split("&")[:8]] if query else []
    shown = "&".join(f"{name[:40]}={MASK}" if equals else MASK for name, equals, _ in names)
    address = f"{host}{path_of(target)}" + (f"?{shown}" if shown else "")
    return show(address.encode("utf-8", "replace"), 300)


def _is_random(part: str) -> bool:
    return bool(_RANDOM.search(part)) and not _WORDS.fullmatch(part.partition(".")[0]) and not _UUID.fullmatch(part)


def host_of(head: Head, server: str, port: int) -> str:
    """The host a request is for; the server's address when it names none."""
    target = head.target
    if "://" in target[:12]:
        name = target.split("://", 1)[1].partition("/")[0].rpartition("@")[2].lower()
    elif head.method == "CONNECT":
        name = target.lower()
    else:
        name = head.host
    if not name:
        bracketed = f"[{server}]" if ":" in server else server
        name = bracketed if port == 80 else f"{bracketed}:{port}"
    return show(name.encode("latin-1", "replace"), 255)


def address_of(host: str) -> str | None:
    """The address that a host is given as, without its port; None when it is a name.

    >>> address_of("192.0.2.7:8080"), address_of("[2001:db8::7]"), address_of("www.example.com")
    ('192.0.2.7', '2001:db8::7', None)
    """
    text = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def credential_of(value: bytes) -> tuple[str, str]:
    """The scheme and the user of an Authorization header; the secret itself is never looked at twice.

    >>> credential_of(b"Basic am9lOnNlY3JldA=="), credential_of(b"Bearer abc")
    (('Basic', 'joe'), ('Bearer', ''))
    """
    scheme, _, rest = value.partition(b" ")
    match scheme.lower():
        case b"basic":
            try:
                # The user name ends with the first colon (RFC 7617); without one all of it may be a password.
                user, colon, _ = base64.b64decode(rest.strip() + b"==").partition(b":")
            except (binascii.Error, ValueError):
                return "Basic", ""
            return "Basic", show(user, 64) if colon else ""
        case b"digest":
            user_name = _DIGEST_USER.search(rest)
            return "Digest", show(user_name[1], 64) if user_name else ""
        case b"bearer" | b"negotiate" | b"ntlm" | b"apikey" | b"token" | b"aws4-hmac-sha256":
            return scheme.decode().capitalize() if scheme.lower() != b"ntlm" else "NTLM", ""
    return "other", ""


def secret_names_of_query(target: str) -> list[str]:
    """Names of a query's parameters whose values are likely secrets."""
    query = target.partition("?")[2]
    if not query:
        return []
    names = (pair.partition("=") for pair in query.split("&")[:64])
    return [show(name.encode("latin-1", "replace"), 40) for name, _, value in names if value and is_secret_name(name)]


def secret_names_of_body(content_type: str, body: bytes) -> list[str]:
    """Names of a form's or a JSON object's fields whose values are likely secrets, from the beginning of a body."""
    if content_type == "application/x-www-form-urlencoded":
        names = [pair.partition(b"=")[0] for pair in body.split(b"&")[:64]]
    elif content_type.startswith("multipart/"):
        names = _FORM_NAME.findall(body)
    elif content_type.endswith("json"):
        names = _JSON_NAME.findall(body)
    else:
        return []
    shown = [show(name, 40) for name in names if len(name) <= 60]
    return list(dict.fromkeys(name for name in shown if is_secret_name(name)))[:8]


def may_hold_fields(content_type: str) -> bool:
    """Whether `secret_names_of_body` can read a body of this type."""
    return content_type.startswith(("application/x-www-form-urlencoded", "multipart/")) or content_type.endswith("json")


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is likely a secret."""
    return _SECRET_KEY.search(name) is not None
