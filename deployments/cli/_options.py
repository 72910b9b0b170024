"""A tool's options on the command line, made from its parameter model; read back into parameters."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from tasks.core.errors import InvalidParameters
from tasks.core.registry import ToolSpec


def fields(spec: ToolSpec) -> list[tuple[str, dict[str, Any], bool, dict[str, Any]]]:
    """Return a tool's parameters: name, JSON schema, whether it is required, and the definitions the schema refers to."""
    schema = spec.params_model.model_json_schema()
    required = schema.get("required", [])
    return [(name, field, name in required, schema.get("$defs", {})) for name, field in schema["properties"].items()]


def _variants(field: dict[str, Any]) -> list[dict[str, Any]]:
    return [variant for variant in field.get("anyOf", [field]) if variant.get("type") != "null"]


def is_list(field: dict[str, Any]) -> bool:
    """Say whether a parameter takes several values, so that its option may be repeated."""
    return any(variant.get("type") == "array" for variant in _variants(field))


def singular(name: str) -> str:
    """Name the option that may be repeated: `targets` is given as `--target`."""
    for plural, single in (("addresses", "address"), ("ies", "y"), ("s", "")):
        if name.endswith(plural) and not name.endswith("ss"):
            return name.removesuffix(plural) + single
    return name


def _resolve(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref") or next((part["$ref"] for part in field.get("allOf", []) if "$ref" in part), None)
    return definitions.get(reference.rsplit("/", 1)[-1], field) if reference else field


def takes(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say in a few words what an option takes: text, number 1-100, one|two|three."""
    words = []
    for choice in _variants(field):
        variant = _resolve(choice.get("items", choice) if choice.get("type") == "array" else choice, definitions)
        if "enum" in variant or "const" in variant:
            words.append("|".join(map(str, variant.get("enum", [variant.get("const")]))))
        elif variant.get("type") in ("object", None):
            words.append("JSON")
        else:
            low, high = variant.get("minimum"), variant.get("maximum")
            limits = (
                f" {low:.10g}-{high:.10g}"
                if low is not None and high is not None
                else f" >= {low:.10g}"
                if low is not None
                else ""
            )
            words.append(
                {"string": "text", "integer": "number", "boolean": "yes/no"}.get(variant["type"], variant["type"])
                + limits
            )
    return " or ".join(dict.fromkeys(words))


def default_of(field: dict[str, Any]) -> str:
    """Write a parameter's default; empty when there is none to speak of."""
    value = field.get("default")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return "" if value in (None, [], {}) else json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def command_line(spec: ToolSpec, params: dict[str, Any]) -> str:
    """Write parameters as the options a person would type, quoted for a shell."""
    words = []
    for name, value in params.items():
        many = isinstance(value, list)
        option = "--" + (singular(name) if many else name).replace("_", "-")
        for item in value if many else [value]:
            if item is True:
                words.append(option)
            elif item is False:
                words.append(f"--no-{option.removeprefix('--')}")
            elif str(item).startswith("-"):
                words.append(f"{option}={shlex.quote(str(item))}")
            else:
                words += [option, shlex.quote(json.dumps(item) if isinstance(item, (dict, list, bool)) else str(item))]
    return " ".join(words)


class _Usage(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameters(f"{self.prog}: {message}.", hint=f"See: signalbox tool show {self.prog}")


def parse(spec: ToolSpec, options: Sequence[str]) -> tuple[dict[str, Any], bool, bool] | None:
    """Read a tool's options into its parameters (unchecked), `--json` and `--dry-run`; None when help was asked for."""
    parser = _Usage(prog=spec.name, add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true", dest="help!")
    parser.add_argument("--json", action="store_true", dest="json!")
    parser.add_argument("--dry-run", action="store_true", dest="dry_run!")
    parser.add_argument("--params", dest="params!", help="All parameters as one JSON object.")
    by_name = {name: (field, definitions) for name, field, _, definitions in fields(spec)}
    for name, (field, _) in by_name.items():
        if name in ("json", "dry_run"):
            raise ValueError(f"{spec.name}: a parameter may not be called {name}")
        spellings = {"--" + name.replace("_", "-"), "--" + name}
        if is_list(field):
            single = singular(name)
            spellings |= {"--" + single.replace("_", "-"), "--" + single}
            parser.add_argument(*sorted(spellings), action="append", nargs="+", dest=name)
        elif any(variant.get("type") == "boolean" for variant in _variants(field)):
            parser.add_argument(*sorted(spellings), action=argparse.BooleanOptionalAction, dest=name, default=None)
        else:
            parser.add_argument(*sorted(spellings), dest=name)
    given = vars(parser.parse_args(list(options)))
    if given["help!"]:
        return None
    params: dict[str, Any] = {}
    if given["params!"]:
        params = _json(spec.name, "params", given["params!"])
        if not isinstance(params, dict):
            raise InvalidParameters(
                f"{spec.name}: --params must be a JSON object.", hint=f"See: signalbox tool show {spec.name}"
            )
    for name, (field, definitions) in by_name.items():
        value = given[name]
        if value is None:
            continue
        if is_list(field):
            items = [item for group in value for item in group]
            item_schema = next(variant for variant in _variants(field) if variant.get("type") == "array").get(
                "items", {}
            )
            params[name] = [_value(spec.name, name, item, item_schema, definitions) for item in items]
        else:
            params[name] = value if isinstance(value, bool) else _value(spec.name, name, value, field, definitions)
    return params, given["json!"], given["dry_run!"]


def _value(tool: str, name: str, text: str, field: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Read one option's text: JSON where the model wants an object, else text, which the model itself converts."""
    kinds = {_resolve(variant, definitions).get("type") for variant in _variants(field)}
    if kinds & {"string", "integer", "number", "boolean"} and not (
        kinds & {"object"} and text.lstrip().startswith(("{", "["))
    ):
        return text
    return _json(tool, name, text)


def _json(tool: str, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidParameters(
            f"{tool}: {name} must be JSON: {error.msg} at character {error.pos}.",
            hint='For example: \'{"name": "value"}\'',
        ) from None
