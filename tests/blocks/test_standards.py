"""What is true of every block, said once: the blocks are found, not listed."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import BaseModel, SecretBytes, SecretStr

import blocks

MODULES = [found.name for found in pkgutil.iter_modules(blocks.__path__, prefix="blocks.")]
_SECRET_NAME = re.compile(r"(^|_)(password|passphrase|secret|token|url|key|headers|proxy|community)($|_)")


def _blocks() -> list[type[Block]]:
    found = []
    for name in MODULES:
        for value in vars(importlib.import_module(name)).values():
            own = isinstance(value, type) and issubclass(value, Block) and value.__module__ == name
            if own and "_block_type_slug" in vars(value):
                found.append(value)
    return found


BLOCKS = _blocks()
each_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)


def test_there_are_blocks_to_check() -> None:
    assert {"mail", "slack", "teams", "webhook", "policy", "captures"} <= {_text(block, "short") for block in BLOCKS}


@each_block
def test_a_block_says_what_it_is(block: type[Block]) -> None:
    first, *_ = (block.__doc__ or "").strip().splitlines() or [""]
    assert 10 < len(first) < 130 and first.endswith((".", ")."))
    assert _text(block, "_description").endswith(".")
    assert 2 < len(_text(block, "_block_type_name")) < 40


@each_block
def test_a_block_has_a_slug_and_a_short_name_nobody_else_has(block: type[Block]) -> None:
    for name in ("_block_type_slug", "short"):
        text = _text(block, name)
        assert re.fullmatch(r"[a-z][a-z0-9-]*", text)
        assert [_text(other, name) for other in BLOCKS].count(text) == 1


@each_block
def test_every_field_of_a_block_is_described_in_a_sentence(block: type[Block]) -> None:
    for name, info in _fields(block).items():
        assert info.description, f"{name} has no description"
        assert len(info.description) > 10, f"the description of {name} says nothing"
        assert info.description.rstrip()[-1] in ".)", f"the description of {name} is not a sentence"


@each_block
def test_what_is_secret_in_a_block_has_a_secret_type_and_is_encrypted(block: type[Block]) -> None:
    encrypted = block.model_json_schema().get("secret_fields", [])
    for name, info in _fields(block).items():
        kinds = {SecretStr, SecretBytes, SecretDict} & set(_types(info.annotation))
        if _SECRET_NAME.search(name):
            assert kinds, f"{name} sounds secret and is shown in clear"
        if kinds:
            assert any(entry.split(".")[0] == name for entry in encrypted), f"{name} is not encrypted at rest"


@each_block
def test_an_error_in_a_blocks_field_does_not_repeat_the_value(block: type[Block]) -> None:
    from pydantic import ValidationError

    secret_fields = [
        name for name, info in _fields(block).items() if {SecretStr, SecretDict} & set(_types(info.annotation))
    ]
    for name in secret_fields:
        with pytest.raises(ValidationError) as caught:
            block(**{name: ["s3cretValue", "\x00s3cretValue"]})
        assert "s3cretValue" not in str(caught.value)


def test_every_block_module_imports_offline_and_imports_nothing_of_ours() -> None:
    code = (
        "import importlib, socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a block reached for the network at import')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        "ours = sorted(name for name in sys.modules if name.split('.')[0] in {'tasks', 'flows', 'deployments'})\n"
        "assert not ours, ours\n"
    )
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr


def _text(block: type[Block], name: str) -> str:
    """A class attribute; underscored ones of a pydantic class are private attributes unless they are ClassVar."""
    value: Any = getattr(block, name)
    return str(getattr(value, "default", value))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {name: info for name, info in model.model_fields.items() if name not in Block.model_fields}


def _types(annotation: Any) -> list[Any]:
    from typing import get_args

    inner = get_args(annotation)
    return [annotation, *(part for argument in inner for part in _types(argument))]
