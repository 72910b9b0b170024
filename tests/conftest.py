"""Fixtures every test may use. Heavy ones (PostgreSQL, Prefect, namespaces) start only when a test asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.core.models import ToolResult
from tasks.core.settings import settings


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give every test an empty SIGNALBOX_HOME, so that nothing of the user's is read or written."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    for name in ("SIGNALBOX_DATABASE_URL", "SIGNALBOX_SITE", "SIGNALBOX_USER"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield home
    settings.cache_clear()


Perform = Callable[..., Awaitable[ToolResult]]


@pytest.fixture
def perform(tmp_path: Path) -> Perform:
    """Run one tool through the kit's pipeline (gate, deadline, errors) without a Prefect server or a ledger.

    `await perform(tool, params, policy=ProbePolicy(...), blocks={"mail/noc": block}, store=CaptureStore(...), ledger=...)`.
    The default policy allows loopback; the default store is an empty folder.
    """
    from blocks.captures import CaptureStore
    from blocks.policy import ProbePolicy
    from tasks.core import tool as kit
    from tasks.core.run import FixedWiring, wired

    async def run(
        tool: Any,
        params: Mapping[str, Any],
        *,
        policy: ProbePolicy | None = None,
        blocks: Mapping[str, Any] | None = None,
        store: CaptureStore | None = None,
        ledger: Any = None,
    ) -> ToolResult:
        site = str(params.get("site", "default"))
        wiring = FixedWiring(
            policies={"default": policy or ProbePolicy(), site: policy or ProbePolicy()},
            blocks=blocks or {},
            captures=store or CaptureStore(folder=tmp_path / "evidence"),
            book=ledger,
        )
        with wired(wiring):
            return await kit.perform(tool.spec, params)

    return run
