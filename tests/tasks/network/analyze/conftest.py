"""What the tests of analyzers share: a capture that an analyzer reads in a test is read by tshark too, and both must agree."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lab.captures import has_tshark

MOST_OF_A_TEST = 12
"""Captures of one test that are compared: those that hypothesis makes by the hundred are sampled by their first ones."""
PLURALS = (
    "conversations|handshakes|transfers|packets|lines|messages|queries|answers|segments|datagrams|requests|responses"
)
ONE_AS_MANY = re.compile(rf"(?<![\d,.:])1 (?!of )(?:[\w-]+ ){{0,3}}(?:{PLURALS})\b")

_compared: set[tuple[str, bytes]] = set()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "unlike_tshark(why): tshark rightly says something else of this test's captures."
    )


class Comparing:
    """Compares each capture once, by what is in it."""

    def __init__(self, module: ModuleType, *, most: int) -> None:
        self._module, self._left, self._busy = module, most, False
        self._dissect, self._agree = module.dissect, module.agree

    def dissect(self, path: str, *arguments: Any) -> Any:
        report = self._dissect(path, *arguments)
        for text in () if self._busy else _sentences(report):
            assert not ONE_AS_MANY.search(text), text
        self.compare(Path(path))
        return report

    def agree(self, path: Path, **options: Any) -> Any:
        _compared.add(self._name(path))
        self._busy = True
        try:
            return self._agree(path, **options)
        finally:
            self._busy = False

    def compare(self, path: Path) -> None:
        if not self._busy and self._left and self._name(path) not in _compared:
            self._left -= 1
            self.agree(path)

    def _name(self, path: Path) -> tuple[str, bytes]:
        return self._module.__name__, hashlib.sha256(path.read_bytes()).digest()


def _sentences(report: Any) -> list[str]:
    if not isinstance(report, dict):
        return []
    found = [finding if isinstance(finding, dict) else finding.model_dump() for finding in report["findings"]]
    return [*report["coverage"]["notes"], *(finding["what"] for finding in found)]


@pytest.fixture(autouse=True)
def tshark_agrees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare what a test's analyzer reads with tshark: what is dissected at once, what the tool read at the end.

    A module of tests says how by `agree(path)`. A test whose captures tshark rightly reads differently says why:
    `@pytest.mark.unlike_tshark("a greeting cut in two is two greetings there")`.
    """
    if not hasattr(request.module, "agree"):
        yield
        return
    marked = request.node.get_closest_marker("unlike_tshark") is not None
    comparing = Comparing(request.module, most=0 if marked or not has_tshark() else MOST_OF_A_TEST)
    monkeypatch.setattr(request.module, "dissect", comparing.dissect)
    monkeypatch.setattr(request.module, "agree", comparing.agree)
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for path in sorted(folder.rglob("*.pcap*")) if folder else ():
        comparing.compare(path)
