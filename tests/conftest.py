"""Fixtures of all tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.local import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded PostgreSQL of this test session (one per xdist worker: it starts in under a second).

    Without fsync: a test's database need not survive the machine. The folder is short, a socket's path has 107 bytes.
    """
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
