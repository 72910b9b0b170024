"""What cameras' answers mean, family by family: most of their errors come with HTTP status 200.

Everything a camera says is somebody else's text: `said` shortens it and takes control characters out before anyone repeats it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks.core.errors import Busy, Forbidden, NotFound, Rejected, ToolError, Unauthorized, Unsupported
from tasks.core.scrub import excerpt

MOST_BYTES = 2 << 20
"""Largest answer of text, JSON or XML that is read."""

Meanings = Mapping[int, "str | type[ToolError]"]
"""What the error codes of one API mean: a sentence, or the class of error. The same number differs between APIs."""

CLASSIC: Meanings = {2001: Forbidden, 2003: Unsupported, 2004: Unsupported}
"""Codes of apidiscovery, basicdeviceinfo and lightcontrol that mean the same there."""
NUMBERED: Meanings = {2100: Unsupported, 2102: Unsupported, 2105: Forbidden, 2106: Unauthorized}
"""Codes that the APIs with errors from 2100 on share (ports, view areas, day/night, event streaming)."""


# --- errors ----------------------------------------------------------------------------------------------------------


class Declined(Rejected):
    """The camera understood and said no.

    Attributes:
        code: Its number for the reason, where it gave one.
        fault: Name of the SOAP fault, where it is one.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        code: int | None = None,
        fault: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.code, self.fault = code, fault


class Missing(NotFound):
    """What was named does not exist on the camera.

    Attributes:
        fault: Name of the SOAP fault, where it is one.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None, fault: str | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.fault = fault


class Nonsense(ToolError):
    """What came back is not what this function of a camera answers: a web page, a broken or endless answer, another device."""


class NotReady(Busy):
    """The camera is starting."""


class NeedsSetup(ToolError):
    """The camera is as it left the factory: it has no account anybody could use.

    Attributes:
        device: Who it is, where it says so; does not survive pickling.
    """

    device: DeviceId | None = None


# --- who and what a camera is ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceId:
    """Who a camera is.

    Attributes:
        serial: Its MAC address, 12 hexadecimal digits in upper case; empty where it does not say.
        model: Short name such as `AXIS P3245-LVE`.
        firmware: Version of AXIS OS.
        boot_id: Changes when it starts; None on firmware that has none.
        uptime: Seconds since it started, when it was asked; None where it does not say.
        facts: All it said of itself, by the camera's own names.
    """

    serial: str
    model: str | None
    firmware: str | None
    boot_id: str | None = None
    uptime: int | None = None
    facts: Mapping[str, str] | None = None


class Rank(StrEnum):
    """Level of an account. Each may do what the ones before may."""

    NONE = "none"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True)
class Level:
    """What our account may do.

    Attributes:
        rank: viewer, operator or admin; none when the camera does not say.
        ptz: Whether it may move the camera.
        user: Name of the account.
    """

    rank: Rank
    ptz: bool = False
    user: str = ""

    @property
    def name(self) -> str:
        """The level for people, such as `operator, ptz`."""
        return f"{self.rank}, ptz" if self.ptz else str(self.rank)

    def at_least(self, rank: str) -> bool:
        """Whether the account has this level or a higher one; also where the camera does not say."""
        ranks = list(Rank)
        return self.rank is Rank.NONE or ranks.index(self.rank) >= ranks.index(Rank(rank))


def parse_level(text: str) -> Level:
    r"""Read the answer of usergroup.cgi: a line with the name, a line with the groups.

    >>> parse_level("operator1\nusers operator viewer ptz\n").name
    'operator, ptz'
    """
    lines = text.splitlines()
    groups = set(lines[1].split()) if len(lines) > 1 else set()
    rank = next((rank for rank in reversed(Rank) if rank in groups), Rank.NONE)
    return Level(rank, "ptz" in groups, said(lines[0], 64) if lines else "")


@dataclass(frozen=True)
class Capabilities:
    """What a camera can do.

    Attributes:
        apis: Version of each API by its id, from API discovery; empty on firmware without it.
        properties: The parameters of the group Properties, with that prefix.
        statuses: Status of each API by its id, where the camera gives one.
    """

    apis: Mapping[str, str]
    properties: Mapping[str, str]
    statuses: Mapping[str, str] | None = None

    def has(self, api: str) -> bool:
        """Whether API discovery lists this id."""
        return api in self.apis

    def at_least(self, api: str, version: str) -> bool:
        """Whether the camera has this version of an API, or a later one with the same major number."""
        have, want = version_tuple(self.apis.get(api)), version_tuple(version)
        return bool(have and want) and have[0] == want[0] and have >= want

    def flag(self, name: str) -> bool:
        """Whether a property such as `Properties.PTZ.PTZ` says yes; one that is missing means no."""
        return self.properties.get(name, "").strip().lower() in {"yes", "true", "1", "on"}


def version_tuple(text: str | None) -> tuple[int, ...]:
    """The numbers of a version, for comparing; empty when there are none.

    >>> version_tuple("11.11.150") > version_tuple("9.80.2.2")
    True
    """
    return tuple(int(part) for part in re.findall(r"\d{1,9}", (text or "")[:60]))


@dataclass(frozen=True)
class Definition:
    """What a parameter takes.

    Attributes:
        name: Whole name, without `root.`.
        value: Its value now.
        type: `enum`, `int`, `bool`, `string`, `password`, `ip`, `hostname`...
        choices: What it may be, as it has to be sent; empty when anything of its type.
        minimum: Smallest number.
        maximum: Largest number.
        maxlen: Most characters.
        readonly: Whether it cannot be written.
        level: Four digits: who may create, delete, read and write it (0 anybody, 1 viewer, 4 operator, 6 administrator, 7 nobody).
        nice: Its name for people.
    """

    name: str
    value: str
    type: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    maxlen: int | None = None
    readonly: bool = False
    level: str = ""
    nice: str = ""


# --- text ------------------------------------------------------------------------------------------------------------


def said(text: object, limit: int = 200) -> str:
    r"""Something a camera said, on one line and short enough to repeat.

    >>> said("Gate\n\x1b[31m 7")
    'Gate [31m 7'
    """
    return excerpt(str(text)[: 4 * limit].encode("utf-8", "replace"), limit)


def decode(body: bytes) -> str:
    """Text of a camera: UTF-8, else ISO-8859-1 as older ones send it."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("iso-8859-1")


def raise_for_text(text: str, place: str) -> str:
    """Return a text answer, or raise when it begins with an error.

    Raises:
        Declined: It does.
    """
    first = text.lstrip()[:500].split("\n", 1)[0]
    match = re.match(r"(?:#\s*Error|#\s*Request failed|Error)\s*:", first, re.IGNORECASE)
    if match:
        raise Declined(f"{place} says no: {said(first.lstrip('# '))}.")
    return text


_UNKNOWN_GROUP = re.compile(r"# ?Error: Error -1 getting param", re.IGNORECASE)


def parse_parameters(text: str, place: str) -> dict[str, str]:
    """Read the lines of a parameter list. Groups the camera does not know are absent; `root.` is taken off.

    Raises:
        Declined: It says no.
        Nonsense: It is no list of parameters.
    """
    found: dict[str, str] = {}
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip() or _UNKNOWN_GROUP.match(line):
            continue
        if line.startswith("#"):
            raise Declined(f"{place} says no: {said(line.lstrip('# '))}.")
        name, separator, value = line.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z0-9_.\-]{1,200}", name):
            raise Nonsense(f"{place} answers with something that is no list of parameters: {said(line, 80)}.")
        found[name.removeprefix("root.")] = value
    return found


# --- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(body: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        Nonsense: It is none.
    """
    try:
        value = json.loads(decode(body))
    except (ValueError, RecursionError):
        start = body.lstrip()[:1]
        what = "a web page" if start == b"<" else "nothing" if not start else "something that is no JSON"
        raise Nonsense(f"{place} answers with {what} in place of JSON.") from None
    if not isinstance(value, dict):
        raise Nonsense(f"{place} answers with JSON that is no object.")
    return value


def raise_for_json(answer: Mapping[str, Any], place: str, meanings: Meanings) -> None:
    """Raise when a JSON answer carries an error.

    Raises:
        ToolError: As `meanings` says of its code; else `Declined`.
    """
    if "error" not in answer or answer["error"] is None:
        return
    error = answer["error"]
    code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
    number = _integer(code)
    text = f"error {said(code, 20)}: {said(message or 'it gives no reason')}"
    meaning = meanings.get(number) if number is not None else None
    if isinstance(meaning, type):
        raise meaning(f"{place} says no: {text}.", hint=_HINTS.get(meaning))
    if meaning is not None:
        raise Declined(f"{place} says no: {meaning} ({text}).", code=number)
    raise Declined(f"{place} says no: {text}.", code=number)


_HINTS: Mapping[type[ToolError], str] = {
    Unsupported: "This device does not support it.",
    Forbidden: "It takes an account of a higher level.",
}


def data_of(answer: Mapping[str, Any], place: str, meanings: Meanings) -> dict[str, Any]:
    """Return the `data` of a JSON answer; empty when it has none, as answers to setters may.

    Raises:
        ToolError: It carries an error, see `raise_for_json`.
        Nonsense: It has neither data nor anything else an answer has.
    """
    raise_for_json(answer, place, meanings)
    data = answer.get("data")
    if data is None:
        if "apiVersion" not in answer and "method" not in answer:
            raise Nonsense(f"{place} answers with neither data nor an error.")
        return {}
    # daynight.cgi answers with a list, one entry for each channel.
    return data if isinstance(data, dict) else {"list": data}


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value.strip()) else None
