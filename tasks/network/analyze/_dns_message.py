"""DNS messages (RFC 1035) read fast: what an analyzer counts, and nothing more.

A general library takes about 100 us a message because it builds every record. Here a question is looked up by its bytes
(traffic repeats itself), records are stepped over, and only what changes a count is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

HEADER_BYTES = 12
LONGEST_NAME = 255
MOST_CACHED = 32_768
"""Questions kept by their bytes; when there are more, the cache starts again."""

A, NS, CNAME, PTR, TXT, AAAA, NULL = 1, 2, 5, 12, 16, 28, 10
OPT, RRSIG, IXFR, AXFR, ANY = 41, 46, 251, 252, 255

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
"""Bits of the header's flags."""

TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 11: "WKS", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP",
    18: "AFSDB", 24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 39: "DNAME",
    41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 49: "DHCID",
    50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY",
    62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG",
    251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA", 32768: "TA", 32769: "DLV", 65399: "PRIVATE",
}  # fmt: skip
"""Names of record types (IANA, DNS parameters); iodine uses 65399."""
RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET",
    8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE", 11: "DSOTYPENI", 16: "BADVERS", 23: "BADCOOKIE",
}  # fmt: skip
OPCODES = {0: "QUERY", 1: "IQUERY", 2: "STATUS", 4: "NOTIFY", 5: "UPDATE", 6: "DSO"}
EXTENDED_ERRORS = {
    0: "other", 1: "unsupported DNSKEY algorithm", 2: "unsupported DS digest", 3: "stale answer", 4: "forged answer",
    5: "DNSSEC indeterminate", 6: "DNSSEC bogus", 7: "signature expired", 8: "signature not yet valid", 9: "DNSKEY missing",
    10: "RRSIGs missing", 11: "no zone key bit set", 12: "NSEC missing", 13: "cached error", 14: "not ready", 15: "blocked",
    16: "censored", 17: "filtered", 18: "prohibited", 19: "stale NXDOMAIN answer", 20: "not authoritative",
    21: "not supported", 22: "no reachable authority", 23: "network error", 24: "invalid data",
}  # fmt: skip
"""Extended DNS errors (RFC 8914)."""
DNSSEC_ERRORS = frozenset(range(1, 3)) | frozenset(range(5, 13))
_EDE = 15  # EDNS option

_header: Callable[[bytes, int], tuple[int, int, int, int, int, int]] = struct.Struct(">6H").unpack_from
_record: Callable[[bytes, int], tuple[int, int, int, int]] = struct.Struct(">HHIH").unpack_from
_two: Callable[[bytes, int], tuple[int, int]] = struct.Struct(">HH").unpack_from

_PLAIN = re.compile(rb"[!-\[\]-~]*")
"""A name whose joined labels need no escape; a dot inside a label is found by counting."""
_HOSTLIKE = re.compile(rb"[A-Za-z0-9_*-]+")


class Malformed(ValueError):
    """The bytes are no DNS message; says why."""


class Question:
    """A question, and what the capture has of it: one object for all messages with the same bytes there."""

    __slots__ = ("answer_bytes", "class_", "failed", "folded", "frame", "labels", "name", "nxdomain", "queries", "type")

    def __init__(self, labels: tuple[bytes, ...], type_: int, class_: int) -> None:
        self.labels = labels
        self.name = name_text(labels)
        self.folded = self.name.lower()
        self.type = type_
        self.class_ = class_
        self.queries = self.nxdomain = self.failed = self.answer_bytes = self.frame = 0


class Message(NamedTuple):
    """What was read of a message; `rcode` has the upper bits of EDNS in it."""

    ident: int
    flags: int
    rcode: int
    questions: tuple[Question, ...]
    answers: int
    udp_size: int
    """What an OPT record says can be received; -1 without one."""
    do: bool
    signed: bool
    """Whether an RRSIG is in the answer."""
    extended_error: int
    """RFC 8914; -1 without one."""
    whole: bool
    """False when the bytes end before the message does: cut by the capture."""


class Record(NamedTuple):
    """A record, for protocols whose answers are looked at (mDNS, LLMNR)."""

    section: int
    labels: tuple[bytes, ...]
    type: int
    class_: int
    ttl: int
    start: int
    length: int


class Reader:
    """Reads messages; keeps the questions it has seen."""

    def __init__(self) -> None:
        self.questions: dict[bytes, Question] = {}
        self.evicted: Callable[[dict[bytes, Question]], None] | None = None

    def read(self, data: bytes, *, cut: bool = False) -> Message:
        """Read one message.

        Args:
            data: The message, without the length that TCP puts before it.
            cut: The capture does not have its end; what is there is read.

        Raises:
            Malformed: It is no DNS message.
        """
        if len(data) < HEADER_BYTES:
            raise Malformed("shorter than a DNS header")
        ident, flags, asked, answers, authorities, additional = _header(data, 0)
        rcode = flags & 15
        udp_size = extended_error = -1
        do = signed = False
        found: tuple[Question, ...] = ()
        where = HEADER_BYTES
        try:
            if asked:
                where, first = self._question(data, HEADER_BYTES)
                found = (first,)
                for _ in range(asked - 1):
                    where, question = self._question(data, where)
                    found += (question,)
            for _ in range(answers + authorities + additional):
                lead = data[where]
                if lead >= 0xC0:
                    # Most owners are the question's name; the others' pointers have to lead somewhere.
                    if data[where + 1] != HEADER_BYTES or lead != 0xC0:
                        read_name(data, where)
                    where += 2
                elif lead:
                    where = read_name(data, where)[1]
                else:
                    where += 1
                kind, class_, ttl, length = _record(data, where)
                where += 10 + length
                if kind == OPT:
                    if where > len(data):
                        break
                    udp_size, do = class_, bool(ttl & 0x8000)
                    rcode |= ttl >> 24 << 4
                    if length:
                        extended_error = _extended_error(data, where - length, where)
                elif kind == RRSIG:
                    signed = True
            if where > len(data):
                raise IndexError
        except (IndexError, struct.error):
            if not cut:
                raise Malformed("ends in the middle of a record") from None
            return Message(ident, flags, rcode, found, answers, udp_size, do, signed, extended_error, False)
        return Message(ident, flags, rcode, found, answers, udp_size, do, signed, extended_error, True)

    def _question(self, data: bytes, where: int) -> tuple[int, Question]:
        # A name ends with its first zero byte, unless a label holds one or it is compressed: then its bytes up to there
        # are not in the cache, and it is read the long way.
        end = data.find(0, where) + 5
        raw = data[where:end]
        known = self.questions.get(raw)
        if known is not None and end <= len(data):
            return end, known
        labels, end = read_name(data, where)
        kind, class_ = _two(data, end)
        end += 4
        question = Question(labels, kind, class_)
        # A name that was compressed, or has a zero in a label, goes under bytes that no name begins with.
        plain = b"".join([len(label).to_bytes(1, "big") + label for label in labels]) + raw[-5:]
        key = raw if plain == raw else b"\xff".join((b"", *labels, data[end - 4 : end]))
        if (known := self.questions.get(key)) is not None:
            return end, known
        if len(self.questions) >= MOST_CACHED:
            if self.evicted is not None:
                self.evicted(self.questions)
            self.questions.clear()
        self.questions[key] = question
        return end, question


def read_name(data: bytes, where: int) -> tuple[tuple[bytes, ...], int]:
    """Read a name; return its labels and where what follows it begins.

    Compression pointers must lead backwards, each further than the one before, so that reading ends.

    Raises:
        Malformed: A label type nobody uses, a pointer that does not lead backwards, or more than 255 bytes.
        IndexError: The bytes end inside the name.
    """
    labels: list[bytes] = []
    after = -1
    limit = where
    size = 1
    while True:
        length = data[where]
        if length == 0:
            break
        if length < 64:
            size += length + 1
            if size > LONGEST_NAME:
                raise Malformed("a name of more than 255 bytes")
            label = data[where + 1 : where + 1 + length]
            if len(label) < length:
                raise IndexError
            labels.append(label)
            where += length + 1
        elif length >= 0xC0:
            target = (length & 0x3F) << 8 | data[where + 1]
            if after < 0:
                after = where + 2
            if target >= limit:
                raise Malformed("a compression pointer that does not lead backwards")
            limit = where = target
        else:
            raise Malformed("a label of unknown type")
    return tuple(labels), (where + 1 if after < 0 else after)


def read_records(data: bytes) -> Iterator[Record]:
    """Yield the records of a message with their owners; raises as `Reader.read` does."""
    if len(data) < HEADER_BYTES:
        raise Malformed("shorter than a DNS header")
    _, _, asked, *counts = _header(data, 0)
    where = HEADER_BYTES
    try:
        for _ in range(asked):
            where = read_name(data, where)[1] + 4
        for section, count in enumerate(counts):
            for _ in range(count):
                labels, where = read_name(data, where)
                kind, class_, ttl, length = _record(data, where)
                where += 10 + length
                if where > len(data):
                    raise IndexError
                yield Record(section, labels, kind, class_, ttl, where - length, length)
    except (IndexError, struct.error):
        raise Malformed("ends in the middle of a record") from None


def _extended_error(data: bytes, where: int, end: int) -> int:
    while where + 4 <= end:
        code, length = _two(data, where)
        if code == _EDE and length >= 2 and where + 6 <= end:
            return data[where + 4] << 8 | data[where + 5]
        where += 4 + length
    return -1


def name_text(labels: tuple[bytes, ...]) -> str:
    r"""Write a name for people: without the last dot, `.` for the root; what is not printable as `\DDD`.

    >>> print(name_text((b"www", b"example", b"com")), name_text((b"a.b", b"\x00")))
    www.example.com a\.b.\000
    """
    joined = b".".join(labels)
    if _PLAIN.fullmatch(joined) and joined.count(b".") == len(labels) - 1:
        return joined.decode("ascii")
    return ".".join(map(_label_text, labels)) or "."


def _label_text(label: bytes) -> str:
    try:
        text = label.decode()  # mDNS names are UTF-8 (RFC 6762 section 16)
        if text.isprintable() and not text.isascii():
            return text.replace("\\", "\\\\").replace(".", "\\.")
    except UnicodeDecodeError:
        pass
    return "".join(
        f"\\{chr(byte)}" if byte in b".\\" else chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03d}" for byte in label
    )


def type_name(number: int) -> str:
    """`A` for 1; `TYPE1234` for what has no name (RFC 3597)."""
    return TYPES.get(number) or f"TYPE{number}"


def looks_like_dns(first: bytes) -> bool:
    """Whether the beginning of a payload is that of a DNS message: strict enough for ports that promise nothing.

    One question, flags and counts that make sense together, and a name of letters, digits, hyphens and underscores
    with a known type and class; of a longer name, what is there of it.
    """
    if len(first) < 17 or first[4] or first[5] != 1:
        return False
    _, flags, _, answers, authorities, additional = _header(first, 0)
    if flags & 0x0040 or flags >> 11 & 15 not in OPCODES:
        return False
    if flags & QR:
        if flags & 15 > 10 or answers > 200 or authorities > 60 or additional > 60:
            return False
    elif flags & (AA | TC | RA | 15) or answers or authorities or additional > 2:
        # Requests of NOTIFY and UPDATE may carry records, but nobody sends their first on an unusual port.
        return False
    where = HEADER_BYTES
    while True:
        if where >= len(first):
            return where >= HEADER_BYTES + 24
        length = first[where]
        if length == 0:
            break
        label = first[where + 1 : where + 1 + length]
        if length > 63 or (label and not _HOSTLIKE.fullmatch(label)):
            return False
        where += length + 1
    if len(first) < where + 5:
        return where >= HEADER_BYTES + 24
    kind, class_ = _two(first, where + 1)
    return kind in TYPES and class_ in {1, 3, 255}


def looks_like_dns_over_tcp(first: bytes) -> bool:
    """The same for the beginning of a stream, where a length comes first."""
    if len(first) < 2 + 17:
        return False
    length = first[0] << 8 | first[1]
    return length >= 17 and looks_like_dns(first[2 : 2 + length])
