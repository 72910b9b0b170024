"""A result's headline reads as a person would say it, for one of everything as well."""

from __future__ import annotations

import re
import types
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from tasks.core.models import ToolResult
from tasks.core.registry import ToolSpec, load_tools

VERBS = "has|is|was|says|matches"
NO_PLURAL = re.compile(rf"(?<![\d.,:/])1 (?:[a-zA-Z]+ )?(?!(?:address|ms|{VERBS})\b)[a-z]+s\b")


def one(kind: Any, size: int) -> Any:
    """A value of a type: numbers are 1, lists have `size` entries."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return one(arguments[0], size)
    if origin in (Union, types.UnionType):
        return one(next(part for part in arguments if part is not type(None)), size)
    if origin is Literal:
        return arguments[0]
    if origin in (list, tuple):
        return origin(one(arguments[0], size) for _ in range(size)) if arguments else origin()
    if origin is dict or kind is dict:
        return {}
    if isinstance(kind, TypeVar):
        return "x"
    if isinstance(kind, type):
        if issubclass(kind, BaseModel):
            hints = get_type_hints(kind, include_extras=True)
            return kind.model_construct(**{name: one(hints[name], size) for name in kind.model_fields})
        if issubclass(kind, Enum):
            return next(iter(kind))
        if issubclass(kind, bool):
            return True
        if issubclass(kind, (int, float)):
            return kind(1)
        if issubclass(kind, datetime):
            return datetime(2026, 1, 1, tzinfo=UTC)
        if issubclass(kind, str):
            return kind("http://x.example/x")
    return None


def result_of(spec: ToolSpec) -> type[ToolResult]:
    found = spec.result_model
    assert issubclass(found, ToolResult)
    return found


TOOLS = [spec for spec in load_tools().values() if not spec.name.startswith("vapix_")]


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("spec", TOOLS, ids=lambda spec: spec.name)
def test_one_is_no_plural(spec: ToolSpec, size: int) -> None:
    try:
        said = one(result_of(spec), size).headline()
    except (IndexError, ValueError, StopIteration):
        assert size == 0, "no such result exists"
        return
    assert not NO_PLURAL.search(said), said


def test_what_is_looked_for_is_found() -> None:
    for wrong in ("1 hosts: 1 up", "1 TLS handshakes", "2 of 1 addresses", "1 open ports"):
        assert NO_PLURAL.search(wrong), wrong
    for right in ("1 host: 1 up", "1 of 1 address", "11 hosts", "10.0.0.1 says", "0.1 s", "1 finding"):
        assert not NO_PLURAL.search(right), right
