"""A signalbox on somebody else's PostgreSQL and Prefect server: it starts the rest, and stops no more than that."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.stack import ROOT, Stack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guarantees"), pytest.mark.timeout(400)]


class Guest:
    """A home of its own that is told to use the services of a running stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        kept = {
            name: value for name, value in stack.env.items() if not name.startswith(("PREFECT_", "SIGNALBOX_", "PG"))
        }
        self.env = {
            **kept,
            "SIGNALBOX_HOME": str(folder),
            "SIGNALBOX_DATABASE_URL": (stack.home / "secrets/database-url-owner").read_text().strip(),
            "PREFECT_API_URL": stack.env["PREFECT_API_URL"],
            "PREFECT_API_AUTH_STRING": stack.env["PREFECT_API_AUTH_STRING"],
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", "from deployments.cli import main; raise SystemExit(main())", *args]
        return subprocess.run(
            argv, env=self.env, input="", capture_output=True, text=True, timeout=200, check=False, cwd="/"
        )

    def json(self, *args: str) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def guest(stack: Stack) -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp") as folder:
        guest = Guest(stack, Path(folder, "h"))
        try:
            yield guest
        finally:
            guest.run("down")


def test_with_external_services_up_starts_the_rest_and_down_stops_no_more_than_that(stack: Stack, guest: Guest) -> None:
    up = guest.run("up")
    assert up.returncode == 0, up.stderr
    assert {row["service"]: row["state"] for row in guest.json("status")["services"]} == {
        "postgresql": "external",
        "prefect-server": "external",
        "downloads": "running",
        "worker": "running",
    }
    assert not Path(guest.env["SIGNALBOX_HOME"], "postgres").exists()
    doctor = {row["name"]: row for row in json.loads(guest.run("doctor", "--json").stdout)}
    assert doctor["service postgresql"]["ok"] and doctor["service postgresql"]["detail"].startswith("external: ")

    assert doctor["downloads"]["ok"], doctor["downloads"]

    found = guest.run("discover", "127.0.0.8/29", "--profile", "quick")
    assert found.returncode == 0, found.stderr
    # The inventory is the one both use.
    [(count,)] = stack.sql("SELECT count(*) FROM address WHERE ip << '127.0.0.8/29'")
    assert count == 8

    down = guest.run("down")
    assert down.stdout.strip() == "Stopped: worker, downloads."
    assert stack.request("GET", "/health").status_code == 200
    assert {row["service"]: row["state"] for row in stack.cli_json("status")["services"]}["prefect-server"] == "running"
