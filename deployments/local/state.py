"""What the supervisor wrote down about itself and its services, and whether it is still true."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

from deployments.local.home import Home
from deployments.local.processes import Identity, is_alive

Phase = Literal["starting", "ready", "stopping", "failed", "down"]


@dataclass
class Service:
    """One service of the stack."""

    name: str
    process: Identity | None = None
    detail: str = ""
    restarts: int = 0
    since: float = 0.0
    """Unix time of its last start."""
    external: bool = False
    """Whether it is somebody else's: used, never started or stopped."""

    @property
    def condition(self) -> str:
        """What a person is told: `running`, `stopped` or `external`."""
        if self.external:
            return "external"
        return "running" if self.alive else "stopped"

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and is_alive(self.process)


@dataclass
class State:
    """The supervisor's record, `run/state.json`."""

    supervisor: Identity
    mark: str
    phase: Phase = "starting"
    steps: list[str] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)
    error: str | None = None
    hint: str | None = None
    stopped: list[str] = field(default_factory=list)

    def write(self, home: Home) -> None:
        """Replace the record."""
        home.write_private(home.state, json.dumps(asdict(self)))

    @classmethod
    def read(cls, home: Home) -> Self | None:
        """Return the last record; None when there is none, or none that can be read."""
        try:
            raw = json.loads(home.state.read_text())
            services = {
                name: Service(**{**service, "process": Identity(*service["process"]) if service["process"] else None})
                for name, service in raw.pop("services").items()
            }
            return cls(**{**raw, "supervisor": Identity(*raw["supervisor"]), "services": services})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def alive(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return is_alive(self.supervisor)
