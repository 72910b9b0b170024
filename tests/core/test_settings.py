"""Settings come from the environment, and an empty variable is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.core.errors import NotFound
from tasks.core.settings import Settings


def test_an_empty_variable_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_HOME", "")
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "")
    assert Settings().home == Path.home() / ".signalbox" and Settings().database_url is None


def test_a_home_may_be_written_with_a_tilde_and_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_HOME", "~/box")
    assert Settings().home == Path.home() / "box"


def test_a_database_that_is_not_postgresql_is_refused_without_repeating_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "mysql://me:hunter2@db/name")
    with pytest.raises(ValidationError, match="PostgreSQL address such as") as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_an_external_database_is_used_by_every_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "postgres://me:pw@db/name")
    assert (
        Settings().resolve_database_url("app")
        == Settings().resolve_database_url("owner")
        == "postgresql+psycopg2://me:pw@db/name"
    )
    assert "pw" not in repr(Settings())


def test_without_a_database_the_next_step_is_said(own_home: Path) -> None:
    with pytest.raises(NotFound, match="signalbox up"):
        Settings().resolve_database_url()
