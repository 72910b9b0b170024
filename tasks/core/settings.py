"""Settings of this installation, from `SIGNALBOX_*` environment variables.

Everything signalbox keeps lives below `home`; the files named here are the only contract between the embedded stack
(`deployments.local` writes them) and the code that uses it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.core.errors import NotFound


class Settings(BaseSettings):
    """What the environment says. Read once a process, by `settings()`."""

    # An empty variable means unset: SIGNALBOX_HOME= would otherwise put the state into the current folder.
    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_", extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=lambda: Path.home() / ".signalbox", description="Folder of all state.")
    site: str = Field("default", description="The site this machine works for.")
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL 14 or later to use instead of the embedded one: postgresql://user:password@host/name.",
    )
    downloads_url: str | None = Field(
        None, description="Where this machine hands out files of the capture store; set by signalbox itself."
    )
    user: str | None = Field(None, description="Who asks; written to the ledger. Default: the login name.")
    log_level: str = Field("INFO", description="Level of signalbox's own log lines.")
    hanging_after: float = Field(
        6 * 3600.0,
        ge=10,
        description="Seconds after which a run that has not ended counts as hanging and is told of; at least 10.",
    )
    ledger_days: int = Field(
        400, ge=7, description="Days the ledger keeps its events; their sums and the exported batches stay. At least 7."
    )
    database_timeout: float = Field(
        5.0, gt=0, le=60, description="Seconds a database answer may take before it counts as gone."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"postgres(ql)?(\+psycopg2)?://", url.get_secret_value()):
            raise ValueError("must be a PostgreSQL address such as postgresql://user:password@host:5432/name")
        return url

    @property
    def secrets_folder(self) -> Path:
        """Folder (0700) of the files that hold passwords (0600)."""
        return self.home / "secrets"

    @property
    def journal_folder(self) -> Path:
        """Where ledger events wait while the database is away."""
        return self.home / "journal"

    @property
    def evidence_folder(self) -> Path:
        """Default folder of captures and raw scan output."""
        return self.home / "evidence"

    @property
    def audit_folder(self) -> Path:
        """Where sealed batches of the ledger are exported to."""
        return self.home / "audit"

    def resolve_database_url(self, role: str = "app") -> str:
        """Return the SQLAlchemy URL (postgresql+psycopg2) of the inventory database.

        Args:
            role: `app` for all work, `owner` for migrations. An external database has one URL for both.

        Raises:
            NotFound: No external database is named and the embedded one was never started.
        """
        if self.database_url is not None:
            url = self.database_url.get_secret_value()
        else:
            file = self.secrets_folder / f"database-url-{role}"
            try:
                url = file.read_text().strip()
            except OSError:
                raise NotFound(
                    f"There is no signalbox database in {self.home}.", hint="Start one with: signalbox up"
                ) from None
        return re.sub(r"^postgres(ql)?(\+psycopg2)?://", "postgresql+psycopg2://", url)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process. Tests call `settings.cache_clear()` after changing the environment."""
    return Settings()
