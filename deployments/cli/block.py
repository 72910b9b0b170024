"""`signalbox block`: the endpoints and credentials that parameters name (`mail/noc`, `slack/ops`)."""

from __future__ import annotations

import argparse
import asyncio
import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, Parameter
from pydantic import ValidationError

from deployments.catalogue import block_classes
from deployments.cli._output import emit_json, emit_table, say
from tasks.core.errors import Conflict, InvalidParameters, NotFound

if TYPE_CHECKING:
    from prefect.blocks.core import Block

app = App(name="block", help="List, show and make blocks: endpoints, credentials, policies.", help_format="plaintext")


async def documents(kind: type[Block]) -> list[tuple[str, dict[str, Any]]]:
    """Return the saved blocks of a kind: name and data, secrets obfuscated by the server."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            found = await client.read_block_documents_by_type(kind.get_block_type_slug(), include_secrets=False)
        except ObjectNotFound:
            return []
    return sorted((document.name or "", document.data) for document in found)


@app.command(name="list")
def list_blocks(*, json: bool = False) -> int:
    """List the blocks by the name parameters use.

    Args:
        json: Print one JSON document.
    """

    async def collect() -> list[dict[str, str]]:
        return [
            {"block": f"{kind.short}/{name}", "type": kind._block_type_name or kind.__name__}  # type: ignore[attr-defined]
            for kind in block_classes()
            for name, _ in await documents(kind)
        ]

    rows = asyncio.run(collect())
    if json:
        emit_json(rows)
    else:
        emit_table(rows)
        kinds = ", ".join(kind.short for kind in block_classes())  # type: ignore[attr-defined]
        say(f"\nMake one: signalbox block create TYPE/NAME ...  Types: {kinds}")
    return 0


@app.command(help_flags=[], version_flags=[])
def create(name: str, /, *options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Make a block, or change one with --overwrite; `signalbox block create TYPE` lists the options of a type.

    A secret is read from standard input where its value is given as -, so that it stays out of the shell's history.

    Args:
        name: Type and name, such as slack/ops.
        options: The fields of the type.
    """
    short, _, document = name.partition("/")
    kind = next((kind for kind in block_classes() if kind.short == short), None)  # type: ignore[attr-defined]
    if kind is None:
        kinds = ", ".join(kind.short for kind in block_classes())  # type: ignore[attr-defined]
        raise InvalidParameters(f"There is no block type {short!r}.", hint=f"Types: {kinds}")
    if not document or {"--help", "-h"} & set(options):
        _explain(kind, short)
        return 0 if {"--help", "-h"} & set(options) else 2
    given, overwrite = _parse(kind, name, options)

    async def work() -> None:
        from tasks.core.run import load_or_none

        if not overwrite and await load_or_none(kind, document) is not None:
            raise Conflict(f"There is a block {name} already.", hint="Change it: add --overwrite")
        try:
            block = kind.model_validate(given)
        except ValidationError as error:
            said = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors(include_input=False)
            )
            raise InvalidParameters(f"{name}: {said}.", hint=f"See: signalbox block create {short} --help") from None
        try:
            await block.save(document, overwrite=overwrite)
        except ValueError as error:
            raise InvalidParameters(f"{name}: {error}") from None

    asyncio.run(work())
    say(f"Block {name} saved.")
    return 0


@app.command
def delete(name: str, /) -> int:
    """Delete a block.

    Args:
        name: Type and name, such as slack/ops.
    """
    short, _, document = name.partition("/")
    kind = next((kind for kind in block_classes() if kind.short == short), None)  # type: ignore[attr-defined]
    if kind is None or not document:
        raise InvalidParameters(
            f"{name!r} does not name a block.", hint="Right would be slack/ops; see: signalbox block list"
        )
    try:
        asyncio.run(kind.adelete(document))
    except ValueError:
        raise NotFound(f"There is no block {name}.", hint="See: signalbox block list") from None
    say(f"Block {name} deleted.")
    return 0


def _explain(kind: type[Block], short: str) -> None:
    say(f"signalbox block create {short}/NAME ...  ({kind._block_type_name})\n")
    schema = kind.model_json_schema()
    emit_table(
        [
            {
                "option": "--" + name.replace("_", "-"),
                "required": "required" if name in schema.get("required", []) else "",
                "what it is": field.get("description") or field.get("title", ""),
            }
            for name, field in schema["properties"].items()
        ]
    )


class _Usage(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameters(
            f"{self.prog}: {message}.", hint=f"See: signalbox block create {self.prog.partition('/')[0]} --help"
        )


def _parse(kind: type[Block], name: str, options: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
    parser = _Usage(prog=name, add_help=False, allow_abbrev=False)
    parser.add_argument("--overwrite", action="store_true")
    schema = kind.model_json_schema()
    for field in schema["properties"]:
        parser.add_argument("--" + field.replace("_", "-"), dest=field, action="append")
    asked = vars(parser.parse_args(list(options)))
    overwrite = asked.pop("overwrite")
    given: dict[str, Any] = {}
    for field, values in asked.items():
        if values is None:
            continue
        texts = [sys.stdin.readline().rstrip("\n") if value == "-" else value for value in values]
        variants = schema["properties"][field].get("anyOf", [schema["properties"][field]])
        if any(variant.get("type") == "array" for variant in variants):
            given[field] = [_read(text) for text in texts]
        else:
            given[field] = _read(texts[-1])
    return given, overwrite


def _read(text: str) -> Any:
    """Read an option's text: an object or list as JSON, anything else as text, which the block converts."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json_module.loads(text)
        except json_module.JSONDecodeError:
            return text
    return text
