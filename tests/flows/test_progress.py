"""How far long work is, on the page of a real run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from tasks.core.progress import Progress


async def bars(run_id: str, key: str) -> list[Any]:
    async with get_client() as client:
        return await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        )


async def test_a_task_says_how_far_it_is_on_the_page_of_its_run(prefect_server: str) -> None:
    seen: list[Any] = []

    @task
    async def fetch() -> None:
        progress = Progress("export", every=0)
        await progress.tell(10.0, "Export of night.mkv: 1 MB, 10 % of 10 MB")
        seen.extend(await bars(flow_run.id, "export"))
        await progress.tell(55.0, "Export of night.mkv: 5.5 MB, 55 % of 10 MB")
        await progress.tell(100.0, "Export of night.mkv over at 10 MB")

    @flow
    async def run() -> str:
        await fetch()
        return str(flow_run.id)

    run_id = await run()
    [early] = seen
    assert early.data == 10.0 and "10 %" in early.description
    [last] = await bars(run_id, "export")
    assert (last.id, last.data, last.description) == (early.id, 100.0, "Export of night.mkv over at 10 MB")


async def test_what_is_told_at_once_again_is_passed_over_but_never_the_end(prefect_server: str) -> None:
    @flow
    async def run() -> str:
        progress = Progress("often")
        for percent in range(0, 101, 10):
            await progress.tell(percent, f"{percent} %")
        return str(flow_run.id)

    [bar] = await bars(await run(), "often")
    assert (bar.data, bar.description) == (100.0, "100 %")


async def test_a_server_that_does_not_take_it_costs_the_bar_only(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def refuse(**_: Any) -> None:
        asked.append(1)
        raise RuntimeError("no room")

    monkeypatch.setattr("prefect.artifacts.acreate_progress_artifact", refuse)

    @flow
    async def run() -> str:
        progress = Progress("refused", every=0)
        for percent in (0, 50, 100):
            await progress.tell(percent, f"{percent} %")
        return "done"

    assert await run() == "done"
    assert len(asked) == 1, "it is not asked again and again"


async def test_outside_a_run_the_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await Progress("export").tell(0, "Export of night.mkv: 0 MB")
    assert "Export of night.mkv: 0 MB" in caplog.text
