"""A whole signalbox for tests, as a newcomer has it: started by the command, asked over HTTP, SQL and the command line.

Nothing of it reaches into the test's own process: no Prefect setting, no SIGNALBOX_HOME. Tests take the fixture `stack`:

    run = stack.start("discover/on-demand", {"targets": ["127.0.0.1"]})
    assert stack.wait_for_run(run["id"])["state"]["type"] == "COMPLETED"
    assert stack.sql("SELECT count(*) FROM asset") == [(1,)]
    assert stack.cli("policy", "show", "--json").returncode == 0
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg2

from deployments.demo.servers import dns
from deployments.local.home import Home
from deployments.local.processes import Identity, command_of, marked
from deployments.local.state import State
from deployments.local.variables import MARK

ROOT = Path(__file__).resolve().parents[2]
UP_SECONDS = 300.0
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Stack:
    """A signalbox in a folder of its own, as a context manager.

    Attributes:
        home: Its SIGNALBOX_HOME.
        env: The whole environment of a user's shell after `eval $(signalbox env)`.
        names: Host names and IPv4 addresses its resolver knows, both ways (root only); may be changed at any time.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp", ignore_cleanup_errors=True)
        self.home = Path(self._folder.name) / "h"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SIGNALBOX_", "PG"))
        }
        self.env = {
            **kept,
            "SIGNALBOX_HOME": str(self.home),
            "SIGNALBOX_PORT": str(_free_port()),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        self._resolver: _Resolver | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            self._resolver = _Resolver(self.names)
            Path(self._folder.name, "resolv.conf").write_text(
                f"nameserver {self._resolver.address}\noptions timeout:1 attempts:1\n"
            )
        try:
            done = self.cli("up", timeout=UP_SECONDS)
            assert done.returncode == 0, f"signalbox up: {done.stdout}\n{done.stderr}\n{self.logs()}"
            self.mark = self.state().mark
            for line in self.cli("env").stdout.splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                self.env[name] = "".join(shlex.split(value))
            self._http = httpx.Client(
                base_url=self.env["PREFECT_API_URL"],
                auth=httpx.BasicAuth(*self.env["PREFECT_API_AUTH_STRING"].split(":", 1)),
                timeout=30,
                trust_env=False,
            )
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()
        left = self._stop()
        assert not left, f"signalbox down left {[command_of(process) for process in left]}"

    def _stop(self) -> list[Identity]:
        try:
            done = self.cli("down", timeout=UP_SECONDS)
            state = State.read(Home(self.home))
            left = marked(MARK, state.mark) if state is not None else []
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
            assert done.returncode == 0, f"signalbox down: {done.stderr}"
            return left
        finally:
            if self._resolver is not None:
                self._resolver.close()
            self._folder.cleanup()

    def state(self) -> State:
        """What the supervisor wrote down: phase, services and their processes."""
        state = State.read(Home(self.home))
        assert state is not None
        return state

    def processes(self) -> list[Identity]:
        """Every living process of the stack, flow runs and what they started included."""
        return marked(MARK, self.state().mark)

    def logs(self, last: int = 4000) -> str:
        """The end of every log, for the message of a failed test."""
        texts = [
            f"--- {file.name}\n{file.read_text(errors='replace')[-last:]}"
            for file in sorted((self.home / "logs").glob("*.log"))
        ]
        return "\n".join(texts)

    # --- asking ------------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """One request to the Prefect API, whatever it answers; `path` begins with a slash."""
        return self._http.request(method, f"{self.env['PREFECT_API_URL']}{path}", json=json)

    def api(self, method: str, path: str, json: Any = None) -> Any:
        """One request to the Prefect API that must succeed; returns the decoded answer."""
        answer = self.request(method, path, json)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def command(self, *args: str) -> list[str]:
        """The argument list of `signalbox ARGS`, in a place where names are answered by this stack's resolver alone."""
        argv = [sys.executable, "-c", "from deployments.cli import main; raise SystemExit(main())", *args]
        return self.shielded(argv)

    def shielded(self, argv: Sequence[str]) -> list[str]:
        """Wrap a command line so that it sees this stack's resolv.conf."""
        if self._resolver is None:
            return list(argv)
        # A mount namespace of its own: the machine's /etc/resolv.conf stays as it is.
        mount = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh", str(Path(self._folder.name, "resolv.conf")), *argv]

    def cli(
        self, *args: str, timeout: float = 120, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `signalbox ARGS` to its end."""
        return subprocess.run(
            self.command(*args),
            env={**self.env, "PYTHONPATH": str(ROOT), **(env or {})},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self._folder.name,
        )

    def python(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `python ARGS` in the stack's environment to its end."""
        return subprocess.run(
            self.shielded([sys.executable, *args]),
            env={**self.env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self._folder.name,
        )

    def cli_json(self, *args: str, timeout: float = 120, status: int = 0) -> Any:
        """Run `signalbox ARGS --json`; return the one document on stdout."""
        done = self.cli(*args, "--json", timeout=timeout)
        assert done.returncode == status, f"exit {done.returncode}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def sql(self, query: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query to the inventory and the ledger; psycopg2's placeholders."""
        url = (self.home / "secrets" / "database-url-owner").read_text().strip().replace("+psycopg2", "")
        connection = psycopg2.connect(url, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    # --- runs --------------------------------------------------------------------------------------------------------

    def deployment(self, name: str) -> Any:
        """A deployment by `flow/deployment`."""
        return self.api("GET", f"/deployments/name/{name}")

    def start(self, deployment: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> Any:
        """Create a run of a deployment as curl would; returns the run. `fields` go into the body beside `parameters`."""
        identity = self.deployment(deployment)["id"]
        return self.api(
            "POST", f"/deployments/{identity}/create_flow_run", {"parameters": dict(parameters or {}), **fields}
        )

    def run(self, run_id: str) -> Any:
        """A flow run as it is now."""
        return self.api("GET", f"/flow_runs/{run_id}")

    def wait_for_run(self, run_id: str, timeout: float = 120, until: Callable[[Any], bool] | None = None) -> Any:
        """Wait until a run has a final state (or `until` holds of it) and return it."""
        end = time.monotonic() + timeout
        while True:
            run = self.run(run_id)
            if (until or _is_final)(run):
                return run
            assert time.monotonic() < end, (
                f"run {run['name']} is {run['state_name']} after {timeout} s\n{self.run_logs(run_id)}\n{self.logs()}"
            )
            time.sleep(0.3)

    def run_to_end(self, deployment: str, parameters: Mapping[str, Any] | None = None, timeout: float = 180) -> Any:
        """Start a run of a deployment and wait for its final state."""
        return self.wait_for_run(self.start(deployment, parameters)["id"], timeout)

    def run_logs(self, run_id: str) -> str:
        """What a run logged."""
        query = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(entry["message"] for entry in self.api("POST", "/logs/filter", query))

    def artifacts(self, run_id: str) -> dict[str, Any]:
        """A run's artifacts by key."""
        found = self.api("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}, "limit": 200})
        return {artifact["key"]: artifact for artifact in found}

    def eventually(self, condition: Callable[[], Any], timeout: float = 60) -> Any:
        """Wait until the condition gives something true and return it."""
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f"did not come true within {timeout} s\n{self.logs()}"
            time.sleep(0.3)
        return found


def _is_final(run: Any) -> bool:
    return run["state_type"] in FINAL


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_RESOLVERS = itertools.count()


class _Resolver:
    """Answers A and PTR for the names of a table, NXDOMAIN to all else, in a thread: no name of a test may leave this machine."""

    def __init__(self, names: Mapping[str, str]) -> None:
        # resolv.conf knows no ports, so each stack of each test session has a loopback address of its own.
        pid = os.getpid()
        self.address = f"127.{53 + next(_RESOLVERS)}.{pid >> 8 & 255}.{pid & 255}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-resolver", daemon=True)
        self._thread.start()
        serving = self._loop.create_datagram_endpoint(dns(names).factory, local_addr=(self.address, 53))  # type: ignore[arg-type, var-annotated]
        self._transport, _ = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._transport.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
