"""Fixtures every test may use. Heavy ones (PostgreSQL, Prefect, namespaces) start only when a test asks for them."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tasks.core.models import ToolResult
from tasks.core.settings import settings

if TYPE_CHECKING:
    from deployments.local import EmbeddedPostgres


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker (`--dist loadgroup`), and all tests that share the Prefect server: it takes seconds to start."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            folder = item.path.parent.name
            item.add_marker(pytest.mark.xdist_group("prefect" if folder == "flows" else str(item.path)))
    # The long ones begin first, or a worker is left alone with them at the end.
    items.sort(key=lambda item: item.path.parent.name != "flows")


@pytest.fixture(autouse=True)
def own_home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give every test an empty SIGNALBOX_HOME, so that nothing of the user's is read or written."""
    if request.path.parent.name != "flows":  # whose tests leave this worker with a Prefect server
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    for name in ("SIGNALBOX_DATABASE_URL", "SIGNALBOX_SITE", "SIGNALBOX_USER"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield home
    settings.cache_clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded PostgreSQL of this test session (one per xdist worker: it starts in under a second).

    Without fsync: a test's database need not survive the machine. The folder is short, a socket's path has 107 bytes.
    """
    from deployments.local import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(
            Path(folder), options={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """The superuser's URL of that PostgreSQL's database `postgres`; `postgres.url("owner", "name")` logs other roles in."""
    return postgres.url("postgres")


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """Name of a database with all migrations in it, to be cloned; nobody stays connected to it."""
    from tasks.core.db.migrate import migrate_sync

    name = "template_signalbox"
    _statement(postgres, f"CREATE DATABASE {name} TEMPLATE signalbox OWNER owner")
    migrate_sync(postgres.url("owner", name))
    return name


@pytest.fixture
def database_name(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """Name of a fresh migrated database, dropped after the test; `postgres.url("app", name)` logs the role app in."""
    name = f"test_{uuid4().hex[:12]}"
    _statement(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template} OWNER owner")
    yield name
    _statement(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, database_name: str) -> str:
    """The owner's URL of a fresh migrated database."""
    return postgres.url("owner", database_name)


def _statement(postgres: EmbeddedPostgres, statement: str) -> None:
    import psycopg2

    connection = psycopg2.connect(postgres.url("postgres"), connect_timeout=5)
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


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
