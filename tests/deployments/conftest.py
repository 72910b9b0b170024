"""Fixtures for the tests of the embedded stack."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.local import down


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment that names a stack: neither the user's nor another test's Prefect."""
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "SIGNALBOX_")):
            monkeypatch.delenv(name)


@pytest.fixture
def short_home(plain_environment: None) -> Iterator[Path]:
    """A home with a path short enough for a socket; what a test left running in it is stopped."""
    with tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "h"
        yield home
        down(home)
