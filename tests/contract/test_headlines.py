"""A result's headline reads as a person would say it, for one of everything as well."""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise
from pathlib import Path
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
    if origin is Sequence:
        origin = list
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


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("spec", load_tools().values(), ids=lambda spec: spec.name)
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


FINDINGS = sorted(Path("tasks").rglob("_*findings.py"))
NOUN = re.compile(
    r" (?:[a-z]+ )?(?:addresses|answers|clients|conversations|days|handshakes|hosts|logins|lookups|mails|messages|names|packets|ports|"
    r"queries|questions|recipients|requests|senders|servers|sessions|times|transfers|tunnels)\b"
)
WHO = {"server", "client", "who", "ratio", "name", "host", "entry['ratio']", "entry['service']"}
"""What stands before such a word as the one who does it, or as a factor."""


@pytest.mark.parametrize("file", FINDINGS, ids=lambda file: file.name)
def test_what_a_finding_counts_is_written_by_count(file: Path) -> None:
    """A number before a noun in the plural would be wrong for one of it."""
    wrong = []
    for text in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.JoinedStr)):
        for number, after in pairwise(text.values):
            counted = isinstance(number, ast.FormattedValue) and ast.unparse(number.value) not in WHO
            if counted and isinstance(after, ast.Constant) and NOUN.match(str(after.value)):
                wrong.append(f"line {text.lineno}: {ast.unparse(text)[:100]}")
    assert not wrong, wrong
    assert FINDINGS
