"""Secrets in captured payload: where they stand, and payload shown without them.

What a capture holds of passwords, cookies and keys belongs to the people on the wire. Every tool that shows payload masks it here, before
it cuts the payload into lines or excerpts: half a header is no longer recognised. Known are credentials of HTTP (headers, forms, JSON, XML,
cookies, URLs), FTP, POP3, IMAP, SMTP, NNTP, IRC, Redis, LDAP (simple bind), SNMP (community), MQTT and PostgreSQL, all that is typed into
Telnet, private keys and JSON web tokens. What a protocol of one's own calls a secret cannot be known: masking makes accidents rare, it does
not make a capture public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from tasks.core.redact import MASK

Span = tuple[int, int]

_HEADERS = (
    rb"(?:proxy-)?authorization|authentication|(?:set-)?cookie2?|x-api-key|api-key|apikey|x-auth-(?:token|key)|x-access-token"
    rb"|x-(?:csrf|xsrf)-token|x-csrftoken|x-amz-security-token|x-vault-token|private-token|x-goog-api-key|x-functions-key"
)
_BEGINS = rb"(?:(?<![a-z])|(?<=%[0-9a-f][0-9a-f])|(?<=%25[0-9a-f][0-9a-f]))"
"""Where a word begins: not behind a letter, unless that is the end of a percent-encoded character."""
_NAMES = (
    rb"pass(?:word|wd|phrase|code|wort)|"
    + _BEGINS
    + rb"(?:pass|pwd|pw|psw|token|auth|sid|jwt|pin)(?![a-z])|secret|api[_-]?key"
    # Not any word that ends so: a compass and a bypass are none.
    rb"|"
    + _BEGINS
    + rb"(?:user|usr|new|old|current|cur|my|login|admin|root|web|mail|smtp|ftp|db|sql|wifi|wlan|wpa|ppp|vpn|proxy|key"
    rb"|confirm|conf|repeat|retype|verify|re)(?:pass|pwd|pw)(?![a-z])"
    rb"|access[_-]?key|private[_-]?key|(?:access|refresh|id|auth|session|csrf|bearer|security)[_-]?token|session[_-]?id"
    rb"|sessid|credential|community"
)
_VALUE = rb"\"(?:[^\"\\\r\n]|\\.){1,4096}\"|'[^'\r\n]{1,4096}'|[^\s&;,<>\"'{}\]]{1,4096}"

_SCHEME = rb"(?:(?:basic|bearer|digest|negotiate|ntlm|token|apikey|aws4-hmac-sha256)[ \t]+)?"
_TO_ITS_END = rb"(?:[^\\\r\n]|\\(?!r\\n))+"  # dissectors and logs write the end of a line as \\r\\n

_SIDE = rb"(?:(?:Request|C): )?"  # what Wireshark's packet list puts before a command

# The secret is group 1. No pattern has two unbounded repetitions that can match the same bytes: cost is linear in the payload.
_PATTERNS: tuple[re.Pattern[bytes], ...] = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        # A header and the lines folded under it. The scheme stays: Basic, Digest, Bearer say how, not what.
        (
            rb"(?im)^[\"']?(?:"
            + _HEADERS
            + rb")[\"']?[ \t]*[:=][ \t]*[\"']?"
            + _SCHEME
            + rb"("
            + _TO_ITS_END
            + rb"(?:\r?\n[ \t][^\r\n]+)*)",
            0,
        ),
        # The same inside other text, as in logs and JSON.
        (
            rb"(?i)\b(?:"
            + _HEADERS
            + rb")[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?"
            + _SCHEME
            + rb"(?!\*\*\*)("
            + _TO_ITS_END
            + rb")",
            0,
        ),
        (rb"(?i)\b(?:basic|bearer)[ \t]+([a-z0-9+/_.~=-]{8,})", 0),
        # name=value, "name": "value", name: value; user[name]=value as forms of Rails and PHP have it; JSON inside JSON
        (
            rb"(?i)(?:"
            + _NAMES
            + rb")[\w.-]{0,30}(?:\]|%5d){0,3}\\?[\"']?\s{0,4}[=:]\s{0,4}("
            + rb"\\\"[^\"\\\r\n]{1,4096}|"
            + _VALUE
            + rb")",
            0,
        ),
        # The same once more percent-encoded: an address inside an address, JSON inside a form.
        (
            rb"(?i)(?:"
            + _NAMES
            + rb")[\w.-]{0,30}(?:%(?:25)?(?:22|27|5d)){0,3}%(?:25)?(?:3d|3a)(?:%(?:25)?(?:20|22|27)|\+){0,3}"
            + rb"((?:(?!%(?:25)?2[267])[^\s&;,<>\"'{}\]]){1,4096})",
            0,
        ),
        # <wsse:Password Type="...">value</...>
        (rb"(?i)<(?:\w{1,30}:)?[\w-]{0,30}(?:password|passwd|passphrase|secret|token)\b[^<>]{0,500}>([^<]+)<", 0),
        # multipart/form-data: a part that is called so. Its headers end where those of another part begin.
        (
            rb"(?im)(?:^content-disposition:|\A)[^\r\n]{0,200}?name=\"?[\w.\[\]-]{0,40}(?:"
            + _NAMES
            + rb")[^\r\n]*(?:\r\n(?!content-disposition:)[^\r\n]+)*+\r\n\r\n([^\r\n]+)",
            0,
        ),
        # scheme://user:password@host
        (rb"(?i)[a-z][a-z0-9+.-]{1,20}://[^\s/?#@:\"'<>]{0,256}:([^\s/?#@\"'<>]{1,256})@", 0),
        (rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(.*?)(?:-----END|\Z)", re.DOTALL),
        (rb"(?<![\w-])(eyJ[\w-]{8,}\.eyJ[\w-]{2,}\.[\w-]*)", 0),
        # FTP, POP3, IRC: PASS; FTP: ACCT; POP3: APOP user digest; NNTP; IRC: OPER user password
        (
            rb"(?im)^"
            + _SIDE
            + rb"(?::\S{1,100} )?(?:PASS|ACCT|AUTHINFO[ \t]+PASS|APOP[ \t]+\S{1,200}|OPER[ \t]+\S{1,200})[ \t]+([^\r\n]+)",
            0,
        ),
        # IMAP: tag LOGIN user password
        (
            rb"(?im)^"
            + _SIDE
            + rb"[\w.]{1,40}[ \t]+LOGIN[ \t]+(?:\"(?:[^\"\\\r\n]|\\.){0,300}\"|[^\s\"]{1,300})[ \t]+([^\r\n]+)",
            0,
        ),
        # Redis: AUTH [user] password, in a line and as RESP; CONFIG SET requirepass password
        (
            rb"(?m)^"
            + _SIDE
            + rb"(?:AUTH|auth)[ \t]+(?!(?:TLS|SSL|PLAIN|LOGIN|NTLM|CRAM|DIGEST|GSSAPI|SCRAM|XOAUTH|OAUTH)[\s-])([^\r\n]+)",
            0,
        ),
        (rb"(?i)\$\d{1,2}\r\n(?:AUTH|requirepass|masterauth)\r\n((?:\$\d{1,5}\r\n[^\r\n]{1,4096}(?:\r\n)?){1,2})", 0),
    )
)

_SECRET_NAME = re.compile(rb"(?i)^(?:" + _HEADERS + rb")$|" + _NAMES)
_SASL = re.compile(
    rb"(?im)^" + _SIDE + rb"(?:[\w.]{1,40}[ \t]+)?AUTH(?:ENTICATE)?[ \t]+[\w-]{3,30}(?:[ \t]+([^\r\n]+))?\r?\n?"
)
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/]{2,}={0,2}\r?(?:\n|\Z)")
_SERVER_PROMPT = re.compile(rb"(?:334|\+)(?:[ \t][^\r\n]*)?\r?\n")
_SASL_PORTS = frozenset({25, 110, 143, 465, 587, 993, 995, 2525})
TYPED_PORTS = frozenset({23, 512, 513})
"""Where people log in and what they type travels as it is: Telnet, rexec, rlogin."""
_TYPED = re.compile(
    # Negotiations and commands of RFC 854, ends of lines; the rest: 255 twice, or once at a packet's end, is a byte like others.
    rb"\xff[\xfb-\xfe].?|\xff[\xf0-\xfa]|[\r\n\x00]+|((?:[^\xff\r\n\x00]|\xff(?![\xf0-\xfe])\xff?)+)",
    re.DOTALL,
)
_SASL_LINES = 8
"""Lines looked at after an AUTH: the longest mechanisms have four exchanges."""


def secrets(data: bytes, ports: Sequence[int] = ()) -> list[Span]:
    """Say where secrets stand in a payload, as sorted spans that do not touch.

    Give all that one side said where it is at hand (a stream): what follows `AUTH LOGIN` stands in lines, and packets, of its own.

    Args:
        data: A payload, or one direction of a conversation.
        ports: The ports it came from and went to, where known: some protocols are recognised by them.
    """
    found = [match.span(1) for pattern in _PATTERNS for match in pattern.finditer(data)]
    found += _sasl(data, ports)
    for look in _OTHERS:
        found += look(data, ports)
    return _merged(found)


def mask(data: bytes, ports: Sequence[int] = ()) -> bytes:
    r"""Return a payload with every secret replaced by `***`, whatever its length.

    >>> mask(b"USER bob\r\nPASS hunter2\r\n")
    b'USER bob\r\nPASS ***\r\n'
    """
    return b"".join(_without(data, 0, secrets(data, ports)))


def mask_text(text: str) -> str:
    """Return a text with every secret replaced by `***`."""
    data = text.encode("utf-8", "surrogatepass")
    spans = secrets(data)
    return b"".join(_without(data, 0, spans)).decode("utf-8", "replace") if spans else text


def mask_pieces(pieces: Iterable[bytes], ports: Sequence[int] = ()) -> list[bytes]:
    """Mask pieces of one stream: a secret that is spread over several is masked in each."""
    parts = list(pieces)
    spans = secrets(b"".join(parts), ports)
    masked, start = [], 0
    for part in parts:
        masked.append(b"".join(_without(part, start, spans)))
        start += len(part)
    return masked


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name (of a header, a form's field, a key) is a secret.

    >>> is_secret_name("user_password"), is_secret_name("Authorization"), is_secret_name("compass")
    (True, True, False)
    """
    return _SECRET_NAME.search(name.encode("utf-8", "replace")) is not None


def printable(data: bytes) -> str:
    r"""Show payload as text: UTF-8 where it is, `\xNN` for every byte that is not, lines as they are.

    >>> printable(b"\xc3\xa9t\xc3\xa9\x00\xff\x1b[2J\r\n")
    'été\\x00\\xff\\x1b[2J\n'
    """
    text = data.replace(b"\r\n", b"\n").decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() or one in "\n\t" else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _without(data: bytes, start: int, spans: Iterable[Span]) -> Iterator[bytes]:
    """The bytes of `data`, which begins at `start` of the whole, with the spans replaced."""
    at, end = start, start + len(data)
    for first, last in spans:
        if last <= at or first >= end:
            continue
        yield data[at - start : max(first, at) - start]
        yield MASK.encode()
        at = min(last, end)
    yield data[at - start :]


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(span for span in spans if span[0] < span[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


# --- what has no pattern ---------------------------------------------------------------------------------------------


def _sasl(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """SMTP, IMAP and POP3: the initial response after AUTH, and the lines of base64 that follow it."""
    for match in _SASL.finditer(data):
        if match[1]:
            yield match.span(1)
        at = match.end()
        for _ in range(_SASL_LINES):
            if prompt := _SERVER_PROMPT.match(data, at):
                at = prompt.end()
            elif line := _BASE64_LINE.match(data, at):
                yield line.start(), line.start() + len(line[0].rstrip(b"\r\n"))
                at = line.end()
            else:
                break
    # A packet that is nothing but a line of base64 on its way to or from a mail server: an answer to AUTH.
    if _SASL_PORTS.intersection(ports) and (whole := _BASE64_LINE.fullmatch(data)):
        yield 0, len(whole[0].rstrip(b"\r\n"))


_INPUT = re.compile(rb"(?i)<input\b(?:[^<>\"']|\"[^\"]{0,1000}(?:\"|\Z)|'[^']{0,1000}(?:'|\Z)){0,500}")
_INPUT_VALUE = re.compile(rb"(?i)\bvalue\s{0,4}=\s{0,4}(?:\"([^\"]+)|'([^']+)|([^\s>\"']+))")
_INPUT_IS_SECRET = re.compile(
    rb"(?i)\btype\s{0,4}=\s{0,4}[\"']?password\b|\b(?:name|id)\s{0,4}=\s{0,4}[\"']?[^\s\"'>]{0,40}?(?:" + _NAMES + rb")"
)


def _html(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """HTML: the value of an input that is a password, or is called like one. Its attributes come in any order."""
    for match in _INPUT.finditer(data):
        if _INPUT_IS_SECRET.search(match[0]) and (value := _INPUT_VALUE.search(match[0])):
            first, last = value.span(value.lastindex or 0)
            yield match.start() + first, match.start() + last


def _ber_length(data: bytes, at: int) -> tuple[int, int] | None:
    """Length of a BER element whose length octets begin at `at`, and where its content begins (X.690, 8.1.3)."""
    if at >= len(data):
        return None
    first = data[at]
    if first < 0x80:
        return first, at + 1
    count = first & 0x7F
    if not 1 <= count <= 4 or at + 1 + count > len(data):
        return None
    return int.from_bytes(data[at + 1 : at + 1 + count], "big"), at + 1 + count


def _snmp(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """SNMPv1 and v2c: SEQUENCE, INTEGER version 0 or 1, OCTET STRING community, a PDU (RFC 1157, RFC 3416)."""
    if data[:1] != b"\x30" or (outer := _ber_length(data, 1)) is None:
        return
    at = outer[1]
    if data[at : at + 3] in (b"\x02\x01\x00", b"\x02\x01\x01") and data[at + 3 : at + 4] == b"\x04":
        inner = _ber_length(data, at + 4)
        if inner is not None and inner[0] <= 255 and 0xA0 <= _byte(data, inner[1] + inner[0], 0xA0) <= 0xA8:
            yield inner[1], inner[1] + inner[0]


def _ldap(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """LDAP: a simple bind, [APPLICATION 0] with version, name and [0] password (RFC 4511, 4.2)."""
    for match in re.finditer(rb"\x60[\x00-\x7f\x81-\x84].{0,4}?\x02\x01[\x02\x03]\x04", data, re.DOTALL):
        name = _ber_length(data, match.end())
        if name is None or _byte(data, name[1] + name[0], 0) != 0x80:
            continue
        password = _ber_length(data, name[1] + name[0] + 1)
        if password is not None:
            yield password[1], min(len(data), password[1] + password[0])


def _mqtt(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """MQTT: the password of a CONNECT (MQTT 3.1.1, 3.1; MQTT 5 has a length and properties before the payload)."""
    if data[:1] != b"\x10":
        return
    match = re.match(rb"\x10.{1,4}?\x00(?:\x04MQTT|\x06MQIsdp)([\x03-\x05])(.)..", data, re.DOTALL)
    if match is None or not match[2][0] & 0x40:
        return
    flags, at = match[2][0], match.end()
    if match[1] == b"\x05":
        at += 1 + _byte(data, at, 0)  # properties of a CONNECT are shorter than 128 bytes in practice
    fields = 1 + (2 if flags & 0x04 else 0) + (1 if flags & 0x80 else 0)  # client, will topic and message, user
    for _ in range(fields):
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    length = int.from_bytes(data[at : at + 2], "big")
    yield min(at + 2, len(data)), min(at + 2 + length, len(data))


def _postgresql(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """PostgreSQL: PasswordMessage, `p`, length, text (protocol 3.0). The letter alone says too little, so by its port."""
    if 5432 in ports and data[:1] == b"p" and len(data) > 5 and int.from_bytes(data[1:5], "big") == len(data) - 1:
        yield 5, len(data)


def _telnet(data: bytes, ports: Sequence[int]) -> Iterator[Span]:
    """Telnet: all that is typed. It comes a key at a time, far from what asked for it; whatever is no password the server says again."""
    if len(ports) == 2 and ports[1] in TYPED_PORTS:
        yield from (match.span(1) for match in _TYPED.finditer(data) if match[1])


def _byte(data: bytes, at: int, otherwise: int) -> int:
    return data[at] if 0 <= at < len(data) else otherwise


_OTHERS: tuple[Callable[[bytes, Sequence[int]], Iterator[Span]], ...] = (
    _html,
    _snmp,
    _ldap,
    _mqtt,
    _postgresql,
    _telnet,
)
