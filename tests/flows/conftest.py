"""What the tests of flows share: a bare Prefect server, and a whole signalbox; each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from lab.stack import Stack


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fresh Prefect server on loopback; gives its API address, which is also in force for this process and its children.

    It is Prefect's ephemeral server: without UI, scheduler, and the service that frees slots of expired leases.
    """
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    home: Path = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as environment:
        # Nothing leaves this machine, and the user's own Prefect is neither read nor written.
        environment.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        environment.setenv("DO_NOT_TRACK", "1")
        environment.setenv("PREFECT_HOME", str(home))
        with prefect_test_harness(server_startup_timeout=120):
            url = PREFECT_API_URL.value()
            assert url is not None
            environment.setenv("PREFECT_API_URL", url)
            yield url


_running: Stack | None = None


@pytest.fixture(scope="module")
def stack() -> Stack:
    """A whole signalbox: PostgreSQL, Prefect server, worker, deployments. One for each worker of pytest-xdist, whatever the module.

    Tests that use it carry `pytest.mark.slow` and an `xdist_group`, whose tests share it one after the other, and leave it running.
    The groups (`guarantees`, `alarms`, `faults`, `lab`, `product`) are of about the same length: they mostly wait, side by side.
    """
    global _running
    if _running is None:
        from lab.stack import Stack

        _running = Stack().__enter__()
    return _running


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the stack with the last test here: a fifth of a core is missed by all the tests that follow."""
    global _running
    if _running is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        ended, _running = _running, None
        ended.__exit__(None, None, None)
