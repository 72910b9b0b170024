"""tshark's fields: which there are, of what type, what their values mean, and which of them hold secrets."""

from __future__ import annotations

import asyncio
import difflib
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from tasks.core.errors import InvalidParameters
from tasks.core.redact import MASK
from tasks.network.capture._mask import TYPED_PORTS, is_secret_name, mask, mask_text
from tasks.network.capture._tshark_program import find_tshark, list_known

LONGEST_VALUE = 400
"""Characters of one value that a row carries."""
_NEAREST_AMONG = 20_000

_COLUMN = re.compile(r"_ws\.col\.[A-Za-z0-9_.-]{1,60}")
_SECRET_FIELD = re.compile(
    r"(?i)(?:passw|passwd|passphrase|\bpass$|pwd$|authbasic|authcitrix|authorization(?!Period|-protocol-name)|(?<!dcc)cookie|secret|credential"
    r"|community$|token$|private_?key|api_?key|\bsmtp\.auth\.|ldap\.simple$|telnet\.data|\.digest\.response$|\.psk)"
)
_COMPANIONS = {
    "ftp.request.arg": "ftp.request.command",
    "pop.request.parameter": "pop.request.command",
    "urlencoded-form.value": "urlencoded-form.key",
    "http2.header.value": "http2.header.name",
    "json.value.string": "json.key",
    "json.value.number": "json.key",
    "resp.bulk_string": "resp.bulk_string.value",
    "resp.bulk_string.value": "resp.bulk_string.value",
    "tcp.payload": "tcp.dstport",
    "tcp.segment_data": "tcp.dstport",
    "data": "tcp.dstport",
    "data.data": "tcp.dstport",
    "data.text": "tcp.dstport",
}
"""Fields that hold a secret when another of the same packet says so: the command they are an argument of, the name of a value, or the
port where all that is typed may be one. A command of Redis is a list of values like its arguments."""
_SECRET_COMMANDS = frozenset({"PASS", "ACCT", "APOP", "AUTH", "REQUIREPASS", "MASTERAUTH"})
_MONTH_TIME = re.compile(r"([A-Z][a-z]{2}) +(\d+), (\d{4}) (\d\d:\d\d:\d\d)(\.\d+)? UTC")
_EPOCH = re.compile(r"(\d{1,11})(\.\d{1,9})?")


class Kind(StrEnum):
    """What the values of a field are."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIME = "time"
    BYTES = "bytes"
    TEXT = "text"


Value = int | float | bool | str


@dataclass(frozen=True)
class FieldInfo:
    """A field of tshark's.

    Attributes:
        name: Its name in filters, such as `ip.src`.
        type: tshark's type, such as FT_IPv4.
        title: What it is called where people look at it.
    """

    name: str
    type: str
    title: str

    @property
    def kind(self) -> Kind:
        if self.name.endswith(".time_epoch"):  # until Wireshark 4.4 of the type of a duration
            return Kind.TIME
        if re.fullmatch(r"FT_U?INT\d+|FT_FRAMENUM", self.type):
            return Kind.INTEGER
        if self.type in {"FT_FLOAT", "FT_DOUBLE", "FT_RELATIVE_TIME"}:
            return Kind.NUMBER
        return {"FT_BOOLEAN": Kind.BOOLEAN, "FT_ABSOLUTE_TIME": Kind.TIME, "FT_BYTES": Kind.BYTES}.get(
            self.type, Kind.BYTES if self.type == "FT_UINT_BYTES" else Kind.TEXT
        )

    @property
    def secret(self) -> bool:
        """Whether its name says that it holds a secret."""
        return is_secret_field(self.name)

    def value(self, text: Any, *, reveal: bool) -> Value:
        """Turn what tshark printed into a value, without secrets unless `reveal`, and of bounded length."""
        if self.secret and text and not reveal:
            return MASK
        if isinstance(text, (bool, int, float)):
            return text
        text = str(text)
        kind = self.kind
        if kind is Kind.INTEGER:
            return _integer(text)
        if kind is Kind.NUMBER:
            return _number(text)
        if kind is Kind.BOOLEAN:
            return text in {"1", "True"} if text in {"0", "1", "True", "False"} else text
        if kind is Kind.TIME:
            return iso_time(text)
        if not reveal:
            text = masked_hex(text) if kind is Kind.BYTES else mask_text(text)
        return shortened(text)


def is_secret_field(name: str) -> bool:
    """Whether the name of a field says that it holds a secret.

    >>> is_secret_field("http.authorization"), is_secret_field("http.host")
    (True, False)
    """
    return _SECRET_FIELD.search(name) is not None


def companion(field: str) -> str | None:
    """The field that says whether `field` holds a secret, where one does."""
    return _COMPANIONS.get(field)


def is_secret_by(guide: str, companions: Iterable[str]) -> bool:
    """Whether what the companion of a field says makes the field a secret.

    >>> is_secret_by("json.key", ["user", "password"]), is_secret_by("ftp.request.command", ["RETR"])
    (True, False)
    >>> is_secret_by("resp.bulk_string.value", ["61:75:74:68"]), is_secret_by("tcp.dstport", ["23"])
    (True, True)
    """
    if guide == "tcp.dstport":
        return any(said.isdecimal() and int(said) in TYPED_PORTS for said in companions)
    if guide == "resp.bulk_string.value":
        companions = [_from_hex(said) for said in companions]
    return any(said.upper() in _SECRET_COMMANDS or is_secret_name(said) for said in companions)


def _from_hex(text: str) -> str:
    try:
        return bytes.fromhex(text.replace(":", "")).decode(errors="replace")
    except ValueError:
        return text


def masked_hex(text: str) -> str:
    """Mask the secrets in bytes written as hexadecimal digits, with or without colons."""
    try:
        data = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return mask_text(text)
    masked = mask(data)
    return text if masked == data else masked.hex()


def shortened(text: str) -> str:
    """Cut a long value, and say how long it was."""
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}... ({len(text)} characters)"


def iso_time(text: str) -> str:
    """Write a time of tshark's as ISO 8601 in UTC, with all its digits; other text is returned as it is.

    >>> iso_time("1700000000.010000000"), iso_time("Nov 14, 2023 22:13:20.040000000 UTC")
    ('2023-11-14T22:13:20.010000000Z', '2023-11-14T22:13:20.040000000Z')
    """
    if match := _EPOCH.fullmatch(text):
        whole = datetime.fromtimestamp(int(match[1]), UTC)
        return f"{whole:%Y-%m-%dT%H:%M:%S}{match[2] or ''}Z"
    if match := _MONTH_TIME.fullmatch(text):
        day = datetime.strptime(f"{match[1]} {match[2]} {match[3]} {match[4]}", "%b %d %Y %H:%M:%S")  # noqa: DTZ007
        return f"{day:%Y-%m-%dT%H:%M:%S}{match[5] or ''}Z"
    return text


def _integer(text: str) -> Value:
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        return shortened(text)


def _number(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return shortened(text)


async def look_up(names: Iterable[str]) -> list[FieldInfo]:
    """Look fields up in tshark's own list.

    Raises:
        InvalidParameters: tshark has no such field; names the nearest ones.
        MissingProgram: tshark is not installed.
    """
    wanted = list(names)
    cache = _known(find_tshark(), Path(find_tshark()).stat().st_mtime_ns)  # noqa: ASYNC240 - one stat
    missing = [name for name in wanted if name not in cache and not _COLUMN.fullmatch(name)]
    if missing:
        listed = await list_known("fields")
        found = await asyncio.to_thread(_find, listed, missing)
        unknown = [name for name in missing if name not in found]
        if unknown:
            raise await asyncio.to_thread(_unknown, listed, unknown)
        cache |= found
    return [cache.get(name) or FieldInfo(name, "FT_STRING", name.rpartition(".")[2]) for name in wanted]


async def check_protocols(names: Iterable[str]) -> None:
    """Make sure that tshark knows these protocols.

    Raises:
        InvalidParameters: It has none of that name; names the nearest ones.
        MissingProgram: tshark is not installed.
    """
    wanted = list(names)
    if not wanted:
        return
    listed = await list_known("protocols")
    known = [line.rpartition("\t")[2] for line in listed.decode(errors="replace").splitlines()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        nearest = [near for name in unknown for near in difflib.get_close_matches(name, known, n=3, cutoff=0.5)]
        raise InvalidParameters(
            f"layers: tshark has no protocol {', '.join(map(repr, unknown))}.",
            hint=f"Near: {', '.join(dict.fromkeys(nearest))}." if nearest else "All of them: tshark -G protocols",
        )


@functools.lru_cache(maxsize=2)
def _known(program: str, changed_ns: int) -> dict[str, FieldInfo]:
    """Fields looked up so far, of one installed tshark: its list is too large to keep and takes half a second."""
    return {}


def _find(listed: bytes, names: Iterable[str]) -> dict[str, FieldInfo]:
    found = {}
    for name in names:
        at = listed.find(b"\t" + name.encode() + b"\tFT_")
        if at < 0:
            # A protocol is a field too: there, or not.
            protocol = re.search(
                rb"^P\t([^\t\n]*)\t[^\t\n]*\t" + re.escape(name.encode()) + rb"$", listed, re.MULTILINE
            )
            if protocol:
                found[name] = FieldInfo(name, "FT_PROTOCOL", protocol[1].decode(errors="replace"))
            continue
        start, end = listed.rfind(b"\n", 0, at) + 1, listed.find(b"\n", at)
        _, title, _, kind = listed[start:end].decode(errors="replace").split("\t")[:4]
        found[name] = FieldInfo(name, kind, title)
    return found


def _unknown(listed: bytes, unknown: list[str]) -> InvalidParameters:
    names = [match.decode() for match in re.findall(rb"^F\t[^\t]*\t([^\t]+)\tFT_", listed, re.MULTILINE)]
    said, nearest = [], []
    for name in unknown:
        said.append(repr(name))
        near = [other for other in names if other.startswith(name.partition(".")[0] + ".")]
        near = near or [other for other in names if other[:2] == name[:2]]
        nearest += difflib.get_close_matches(name, near[:_NEAREST_AMONG], n=3, cutoff=0.5)
    hint = f"Near: {', '.join(dict.fromkeys(nearest))}." if nearest else "All of them: tshark -G fields"
    return InvalidParameters(f"fields: tshark has no field {', '.join(said)}.", hint=hint)
