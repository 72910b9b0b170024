"""A camera's parameter tree: names, values, types, ranges and who may read and write them. All APIs of a camera share one.

What a camera has is data, a few lines a group:

    [ImageSource.I0.Sensor 7714]
    Brightness = 50 | int 0..100 | Brightness
    WDR = on | enum on:On,off:Off
    Model = X | string 64 readonly

The four digits are the levels needed to create, delete, read and write: 0 anybody, 1 viewer, 4 operator, 6 administrator, 7 nobody.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from xml.sax.saxutils import quoteattr

NAMESPACE = "http://www.axis.com/ParameterDefinitionsSchema"
FLAGS = ("readonly", "hidden", "internal", "const", "dynamic")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Definition:
    """What a parameter may hold.

    Attributes:
        kind: `string`, `int`, `bool`, `enum`, `password`, `ip`, `iplist` or `hostname`.
        default: Value it has first.
        security: Levels to create, delete, read and write, a digit each.
        choices: Values of an `enum` (or the two of a `bool`) and how people call them.
        flags: Some of `FLAGS`.
    """

    kind: str = "string"
    default: str = ""
    security: str = "7714"
    choices: tuple[tuple[str, str], ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    maxlen: int | None = None
    flags: frozenset[str] = frozenset()
    nice: str = ""

    @property
    def create_level(self) -> int:
        return int(self.security[0])

    @property
    def delete_level(self) -> int:
        return int(self.security[1])

    @property
    def read_level(self) -> int:
        return int(self.security[2])

    @property
    def write_level(self) -> int:
        return 7 if self.flags & {"readonly", "const"} else int(self.security[3])

    def allows(self, value: str) -> bool:
        """Say whether a value is one of this type and range."""
        match self.kind:
            case "int":
                if not re.fullmatch(r"-?\d{1,10}", value):
                    return False
                number = int(value)
                return (self.minimum is None or number >= self.minimum) and (
                    self.maximum is None or number <= self.maximum
                )
            case "enum" | "bool":
                return any(value == choice for choice, _ in self.choices)
            case "ip":
                return value == "" or _is_address(value)
            case "iplist":
                return all(_is_address(one) for one in value.replace(",", " ").split())
            case "hostname":
                return len(value) <= (self.maxlen or 63) and (value == "" or bool(_HOSTNAME.fullmatch(value)))
        return len(value) <= (self.maxlen or 1024) and "\n" not in value and "\r" not in value

    def clamp(self, value: str) -> str:
        """Bring a number into the range, as some devices do instead of refusing it."""
        number = int(value)
        if self.minimum is not None:
            number = max(number, self.minimum)
        return str(number if self.maximum is None else min(number, self.maximum))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Template:
    """What `action=add` makes: the entries S0, S1 ... below a group.

    Attributes:
        group: Group the entries belong to, such as `StreamProfile`.
        letter: First letter of an entry, such as `S`.
        definitions: Parameters of an entry.
        limit: Parameter that holds how many there may be, or the number.
        level: Level needed to add and to remove one.
    """

    group: str
    letter: str
    definitions: Mapping[str, Definition]
    limit: str | int = 26
    level: int = 4


class Update(StrEnum):
    """What became of a value somebody wanted to write."""

    DONE = "done"
    IGNORED = "ignored"
    """Answered as if it were done, and not done."""
    UNKNOWN = "unknown"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"


@functools.cache
def parse(text: str) -> dict[str, Definition]:
    """Read definitions from their lines. A text is parsed once: a fleet shares what comes of it.

    Raises:
        ValueError: A line is none of the two forms.
    """
    found: dict[str, Definition] = {}
    group, security, inherited = "", "7714", frozenset[str]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            head = line.strip("[]").split()
            group = head[0] if head[0] != "-" else ""
            security = head[1] if len(head) > 1 else "7714"
            inherited = frozenset(head[2:])
            continue
        name, sign, rest = line.partition("=")
        if not sign:
            raise ValueError(f"line {number}: {line!r} is neither [Group 7714] nor Name = value | type | nice name")
        value, *more = [part.strip() for part in rest.split(" | ")]
        words = more[0].split() if more else ["string"]
        path = f"{group}.{name.strip()}" if group else name.strip()
        found[path] = _definition(words, value, security, inherited, more[1] if len(more) > 1 else "")
    return found


def _definition(words: list[str], value: str, security: str, inherited: frozenset[str], nice: str) -> Definition:
    kind, *rest = words
    flags = {word for word in rest if word in FLAGS} | inherited
    numbers = [word for word in rest if word not in FLAGS]
    own = next((word for word in numbers if re.fullmatch(r"@\d{4}", word)), None)
    detail = next((word for word in numbers if word != own), "")
    security = own[1:] if own else security
    if kind == "int":
        low, _, high = detail.partition("..")
        return Definition(
            kind, value, security, (), int(low) if low else None, int(high) if high else None, None,
            frozenset(flags), nice,
        )  # fmt: skip
    if kind in {"enum", "bool"}:
        parts = detail.split("/" if kind == "bool" else ",")
        if kind == "bool" and len(parts) != 2:
            parts = ["yes", "no"]
        choices = tuple((one.partition(":")[0], one.partition(":")[2].replace("_", " ")) for one in parts)
        return Definition(kind, value, security, choices, None, None, None, frozenset(flags), nice)
    length = int(detail) if detail.isdigit() else None
    return Definition(kind, value, security, (), None, None, length, frozenset(flags), nice)


Watcher = Callable[[str, str], None]


@dataclass
class ParameterTree:
    """The parameters of one camera, by name without `root.`, in the order the device lists them.

    `get` and `set` are for the camera's own APIs: they ask for no level. `update`, `add_entry` and `remove_entry` are what param.cgi does.
    """

    definitions: dict[str, Definition] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    silently_ignored: set[str] = field(default_factory=set)
    """Names whose invalid values are answered with OK and have no effect."""
    clamped: set[str] = field(default_factory=set)
    """Names whose numbers are brought into their range instead of being refused."""
    _values: dict[str, str] = field(default_factory=dict)
    _watchers: list[tuple[str, Watcher]] = field(default_factory=list)

    def define(self, text: str, **values: str) -> None:
        """Add parameters from their lines; `{name}` in a value is filled in from `values`."""
        for name, definition in parse(text).items():
            self.definitions[name] = definition
            value = definition.default
            self._values[name] = value.format_map(values) if values and "{" in value else value

    def undefine(self, group: str) -> None:
        """Take a group, or one parameter, away: this device has no such thing."""
        for name in self.names(group):
            del self.definitions[name], self._values[name]

    # --- for the camera's own APIs ---------------------------------------------------------------------------------------

    def get(self, name: str, default: str = "") -> str:
        """The value of a parameter."""
        return self._values.get(name.removeprefix("root."), default)

    def flag(self, name: str) -> bool:
        """Whether a parameter says yes, true, on or 1."""
        return self.get(name).lower() in {"yes", "true", "on", "1"}

    def number(self, name: str, default: int = 0) -> int:
        """A parameter as a number."""
        try:
            return int(self.get(name))
        except ValueError:
            return default

    def set(self, name: str, value: object) -> None:
        """Write a parameter, whoever may. Booleans become the words of the parameter. A new name becomes a read-only text."""
        name = name.removeprefix("root.")
        definition = self.definitions.setdefault(name, Definition(security="7717"))
        if isinstance(value, bool):
            words = [choice for choice, _ in definition.choices] or ["yes", "no"]
            text = next(word for word in words if (word in {"yes", "true", "on"}) is value)
        else:
            text = str(value)
        if self._values.get(name) == text:
            return
        self._values[name] = text
        for prefix, watcher in list(self._watchers):
            if name == prefix or name.startswith(f"{prefix}."):
                watcher(name, text)

    def names(self, group: str = "") -> list[str]:
        """Names of a group, which may hold `*` for a level; all of them without one."""
        group = group.strip(".").removeprefix("root.")
        if group in {"", "root", "*"}:
            return list(self._values)
        if "*" not in group:
            start = f"{group}."
            return [name for name in self._values if name.startswith(start) or name == group]
        wanted = group.split(".")
        return [name for name in self._values if _matches(wanted, name.split("."))]

    def group(self, group: str) -> dict[str, str]:
        """A group's parameters, by their names inside it."""
        return {name[len(group) :].lstrip("."): self._values[name] for name in self.names(group)}

    def entries(self, group: str, letter: str) -> list[str]:
        """Entries of a list such as `StreamProfile` (`S0`, `S2`), in the order of their numbers."""
        pattern = re.compile(rf"{re.escape(group)}\.({letter}\d+)\.")
        found = {match[1] for name in self._values if (match := pattern.match(name))}
        return sorted(found, key=lambda entry: int(entry[len(letter) :]))

    def watch(self, prefix: str, watcher: Watcher) -> None:
        """Call `watcher(name, value)` after each change of a parameter or of any in the group."""
        self._watchers.append((prefix, watcher))

    # --- what param.cgi does ---------------------------------------------------------------------------------------------

    def readable(self, group: str, level: int) -> list[tuple[str, str]]:
        """Names and values of a group that somebody of this level may read; passwords are masked."""
        shown = []
        for name in self.names(group):
            definition = self.definitions[name]
            if definition.read_level <= level and "internal" not in definition.flags:
                value = self._values[name]
                shown.append((name, "******" if definition.kind == "password" and value else value))
        return shown

    def update(self, name: str, value: str, level: int) -> Update:
        """Write a parameter for somebody of this level."""
        name = name.removeprefix("root.")
        definition = self.definitions.get(name)
        if definition is None:
            return Update.UNKNOWN
        if definition.write_level > level:
            return Update.FORBIDDEN
        if not definition.allows(value):
            if name in self.silently_ignored:
                return Update.IGNORED
            if not (name in self.clamped and re.fullmatch(r"-?\d{1,10}", value)):
                return Update.INVALID
            value = definition.clamp(value)
        self.set(name, value)
        return Update.DONE

    def add_entry(self, template: str, values: Mapping[str, str], level: int = 9) -> tuple[str, dict[str, Update]]:
        """Add an entry of a template; `values` by the names inside the entry. Returns its name and what became of each value.

        Raises:
            ValueError: There is no such template, or no room.
            PermissionError: The level is too low.
        """
        form = self.templates.get(template)
        if form is None:
            raise ValueError(f"Unknown template '{template}'")
        if form.level > level:
            raise PermissionError(template)
        present = self.entries(form.group, form.letter)
        limit = self.number(form.limit, 26) if isinstance(form.limit, str) else form.limit
        if len(present) >= limit:
            raise ValueError(f"Max number of groups reached in '{form.group}'")
        entry = next(f"{form.letter}{number}" for number in range(limit) if f"{form.letter}{number}" not in present)
        for inner, definition in form.definitions.items():
            name = f"{form.group}.{entry}.{inner}"
            self.definitions[name] = definition
            self._values[name] = definition.default
        done = {}
        for inner, value in values.items():
            name = f"{form.group}.{entry}.{inner}"
            definition = self.definitions.get(name, Definition())
            if name not in self._values:
                done[inner] = Update.UNKNOWN
            elif not definition.allows(value):
                done[inner] = Update.INVALID
            else:
                self.set(name, value)
                done[inner] = Update.DONE
        return entry, done

    def remove_entry(self, group: str, level: int = 9) -> None:
        """Remove an entry such as `StreamProfile.S3`.

        Raises:
            ValueError: It is not there, or is none that can be removed.
            PermissionError: The level is too low.
        """
        group = group.removeprefix("root.")
        for form in self.templates.values():
            if re.fullmatch(rf"{re.escape(form.group)}\.{form.letter}\d+", group):
                if not self.names(group):
                    raise ValueError(f"Group '{group}' does not exist")
                if form.level > level:
                    raise PermissionError(group)
                self.undefine(group)
                for prefix, watcher in list(self._watchers):
                    if group == prefix or group.startswith(f"{prefix}."):
                        watcher(group, "")
                return
        raise ValueError(f"Cannot remove group '{group}'")

    # --- listdefinitions -------------------------------------------------------------------------------------------------

    def definitions_xml(self, groups: Iterable[str], level: int, *, model: str, firmware: str) -> str:
        """What `action=listdefinitions&listformat=xmlschema` answers."""
        names: dict[str, None] = {}
        for group in groups:
            names.update((name, None) for name, _ in self.readable(group, level))
        tree: dict[str, object] = {}
        for name in names:
            *path, last = name.split(".")
            node = tree
            for part in path:
                child = node.setdefault(part, {})
                # A name may be a parameter and a group at once; XML can say that with two elements, a dict cannot.
                node = child if isinstance(child, dict) else node.setdefault(f"{part}.", {})  # type: ignore[assignment]
            node[last if not isinstance(node.get(last), dict) else f"{last}="] = name
        lines = [
            '<?xml version="1.0" encoding="ISO-8859-1"?>',
            f'<parameterDefinitions xmlns="{NAMESPACE}" version="1.0">',
            f"<model>{model}</model><firmwareVersion>{firmware}</firmwareVersion>",
            '<group name="root">',
            *self._xml_of(tree),
            "</group></parameterDefinitions>",
        ]
        return "\n".join(lines) + "\n"

    def _xml_of(self, node: Mapping[str, object]) -> Iterator[str]:
        for key, child in node.items():
            label = quoteattr(key.rstrip(".="))
            if isinstance(child, dict):
                yield f"<group name={label}>"
                yield from self._xml_of(child)
                yield "</group>"
            else:
                name = str(child)
                yield _parameter_xml(label, self.definitions[name], self._values[name])


def _matches(wanted: list[str], parts: list[str]) -> bool:
    return len(parts) >= len(wanted) and all(one in {"*", part} for one, part in zip(wanted, parts, strict=False))


def _parameter_xml(label: str, definition: Definition, value: str) -> str:
    shown = "******" if definition.kind == "password" and value else value
    flags = "".join(f' {flag}="true"' for flag in FLAGS if flag in definition.flags)
    match definition.kind:
        case "enum":
            inner = "".join(
                f"<entry value={quoteattr(choice)}{f' niceValue={quoteattr(nice)}' if nice else ''}/>"
                for choice, nice in definition.choices
            )
            kind = f"<enum>{inner}</enum>"
        case "bool":
            true, false = (choice for choice, _ in definition.choices)
            kind = f"<bool true={quoteattr(true)} false={quoteattr(false)}/>"
        case "int":
            low, high = definition.minimum, definition.maximum
            width = max(len(str(edge)) for edge in (low or 0, high or 0)) if high is not None else 11
            edges = "".join(f' {word}="{edge}"' for word, edge in (("min", low), ("max", high)) if edge is not None)
            kind = f'<int{edges} maxlen="{width}"/>'
        case "iplist":
            kind = "<ipList/>"
        case "ip" | "hostname" | "password" as plain:
            kind = f"<{plain}/>"
        case _:
            kind = f'<string maxlen="{definition.maxlen}"/>' if definition.maxlen else "<string/>"
    nice = f" niceName={quoteattr(definition.nice)}" if definition.nice else ""
    return (
        f'<parameter name={label} value={quoteattr(shown)} securityLevel="{definition.security}"{nice}>'
        f"<type{flags}>{kind}</type></parameter>"
    )
