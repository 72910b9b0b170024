"""The whole stack: up, found up, killed in every way, and down without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest

from deployments.local import EmbeddedPostgres, StackError, down, environment, status, up
from deployments.local.api import Api
from deployments.local.home import Home
from deployments.local.processes import Identity, identify, is_alive, marked
from deployments.local.state import State
from deployments.local.variables import MARK, downloads_login

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"postgresql", "prefect-server", "worker", "downloads"}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, plain_environment: None) -> int:
    """A free port the stack is told to use: a developer's own signalbox may have the default one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    monkeypatch.setenv("SIGNALBOX_PORT", str(number))
    return number


def eventually(condition: Callable[[], bool], timeout: float = 30) -> bool:
    """Whether the condition comes true within the time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def processes_of(home: Path) -> dict[str, Identity]:
    """The processes the record names, the supervisor's included."""
    state = State.read(Home(home))
    assert state is not None
    found = {name: service.process for name, service in state.services.items() if service.process is not None}
    return {"supervisor": state.supervisor, **found}


def in_child(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line about `home` in a fresh process."""
    text = f"import sys; from pathlib import Path; from deployments.local import *; home = Path(sys.argv[1]); {code}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", text, str(home)], capture_output=True, text=True, timeout=180, check=False, env=env
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_up_finds_everything_and_down_leaves_nothing(
    short_home: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users_home = tmp_path / "user"
    users_home.mkdir()
    monkeypatch.setenv("HOME", str(users_home))
    accounts = Path("/etc/passwd").read_bytes(), Path("/etc/group").read_bytes()
    parent_mode = short_home.parent.stat().st_mode

    left = short_home / "tmp/left-by-a-killed-run/evidence.xml"
    left.parent.mkdir(parents=True)
    left.write_text("<nmaprun/>")

    steps: list[str] = []
    first = up(short_home, say=steps.append)
    assert first.up
    # What the worker writes while it works is in the home: under /tmp its folder would belong to the machine's first user of Prefect.
    assert (short_home / "tmp/runner_storage").is_dir() and not left.exists()
    assert first.ui_url == f"http://127.0.0.1:{port}"
    assert {service.name for service in first.services if service.alive} == SERVICES
    assert "The scheduler works." in steps

    second = in_child("print(up(home).services[0].process.pid, 'prefect' in sys.modules)", short_home)
    assert second.stdout.split()[1:] == ["False"], second
    assert second.stdout.split()[0] == str(processes_of(short_home)["postgresql"].pid)

    # The API is behind the login, on loopback alone.
    variables = environment(short_home)
    assert Api.from_environment(variables).healthy()
    with pytest.raises(StackError, match="answered 401"):
        Api(variables["PREFECT_API_URL"]).call("POST", "/flows/count", {})
    tables = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    # So are the captures.
    downloads = variables["SIGNALBOX_DOWNLOADS_URL"]
    assert Api(downloads, variables["PREFECT_API_AUTH_STRING"]).answers("/health")
    with pytest.raises(StackError, match="answered 401"):
        Api(downloads).call("GET", "/health")
    for number in (port, int(downloads.rpartition(":")[2])):
        listening = {fields[1] for fields in tables if fields[3] == "0A" and fields[1].endswith(f":{number:04X}")}
        assert listening == {f"0100007F:{number:04X}"}

    # Nothing was left by the check of the scheduler.
    flows = Api.from_environment(variables).call("POST", "/flows/filter", {})
    assert not [flow for flow in flows if flow["name"].startswith("signalbox-scheduler-check")]

    everything = processes_of(short_home)
    state = State.read(Home(short_home))
    assert state is not None
    assert set(down(short_home)) >= SERVICES
    assert not [name for name, process in everything.items() if is_alive(process)]
    assert not marked(MARK, state.mark)
    assert down(short_home) == []
    assert status(short_home).phase == "down"

    assert list(users_home.iterdir()) == []
    assert (Path("/etc/passwd").read_bytes(), Path("/etc/group").read_bytes()) == accounts
    assert short_home.parent.stat().st_mode == parent_mode


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_dies_is_started_again_and_a_killed_supervisor_leaves_nothing_the_next_up_minds(
    short_home: Path, port: int
) -> None:
    up(short_home)
    before = processes_of(short_home)
    variables = environment(short_home)
    killed = ("worker", "postgresql", "downloads")
    for name in killed:
        os.kill(before[name].pid, signal.SIGKILL)
    assert eventually(lambda: all(processes_of(short_home)[name] != before[name] for name in killed))
    assert eventually(lambda: Api.from_environment(variables).healthy())
    restarts = {service.name: service.restarts for service in status(short_home).services}
    assert restarts["worker"] == restarts["downloads"] == 1
    downloads = Api(variables["SIGNALBOX_DOWNLOADS_URL"], variables["PREFECT_API_AUTH_STRING"])
    assert eventually(lambda: downloads.answers("/health"))

    before = processes_of(short_home)
    os.kill(before["supervisor"].pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(before["supervisor"]), 5)
    crashed = status(short_home)
    assert crashed.crashed
    assert not crashed.up

    assert up(short_home).up
    assert not [name for name, process in before.items() if is_alive(process)]
    # Links on the pages of earlier runs still lead there.
    assert environment(short_home)["SIGNALBOX_DOWNLOADS_URL"] == downloads.url and downloads.answers("/health")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_the_foreground_it_tells_systemd_when_it_is_ready_and_ends_well_on_term(
    short_home: Path, port: int, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_home.parent / "notify"))
        manager.settimeout(120)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(short_home.parent / "notify")}
        code = "import sys; from pathlib import Path; from deployments.local import up; up(Path(sys.argv[1]), foreground=True)"
        service = subprocess.Popen(
            [sys.executable, "-c", code, str(short_home)], stderr=subprocess.PIPE, text=True, env=env
        )
        try:
            assert b"READY=1" in manager.recv(1024)
            assert status(short_home).up
            with pytest.raises(StackError, match="up already"):
                up(short_home, foreground=True)
        finally:
            service.terminate()
            _, said = service.communicate(timeout=60)
        assert b"STOPPING=1" in manager.recv(1024)
    assert service.returncode == 0, said
    assert "signalbox is up" in said
    assert status(short_home).phase == "down"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ups_at_once_make_one_stack(short_home: Path, port: int) -> None:
    line = "print(up(home).services[0].process.pid)"
    root = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"import sys; from pathlib import Path; from deployments.local import *; home = Path(sys.argv[1]); {line}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(short_home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=root,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_external_postgresql_holds_the_inventory_and_prefect_in_a_schema_of_its_own(
    short_home: Path, port: int, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    administrator = psycopg2.connect(postgres.url("postgres"))
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute("CREATE DATABASE elsewhere OWNER owner")
    try:
        monkeypatch.setenv("SIGNALBOX_DATABASE_URL", postgres.url("owner", "elsewhere"))
        stack = up(short_home)
        assert {service.name: service.alive for service in stack.services}["prefect-server"]
        assert not (short_home / "postgres").exists()
        inside = psycopg2.connect(postgres.url("owner", "elsewhere"))
        with inside.cursor() as cursor:
            cursor.execute(
                "SELECT table_schema FROM information_schema.tables WHERE table_name IN ('flow_run', 'asset') ORDER BY 1"
            )
            assert [schema for (schema,) in cursor.fetchall()] == ["prefect", "public"]
        inside.close()
        down(short_home)
    finally:
        with administrator.cursor() as cursor:
            cursor.execute("DROP DATABASE elsewhere WITH (FORCE)")
        administrator.close()


def test_a_port_that_is_taken_is_refused_with_its_holder_and_nothing_stays_running(short_home: Path, port: int) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(StackError, match=f"Port {port} .* is taken by .*pid {os.getpid()}") as caught:
            up(short_home)
    assert "SIGNALBOX_PORT" in str(caught.value)
    assert not (short_home / "postgres/postmaster.pid").exists()
    assert status(short_home).phase == "failed"


def test_a_port_that_is_none_is_refused_before_anything_starts(
    short_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_PORT", "http")
    with pytest.raises(StackError, match="SIGNALBOX_PORT is 'http'"):
        up(short_home)


def test_a_stale_record_of_a_reused_pid_is_not_believed(short_home: Path) -> None:
    place = Home(short_home)
    place.prepare()
    me = identify(os.getpid())
    assert me is not None
    State(supervisor=Identity(me.pid, me.started - 1, me.boot), mark="0" * 32, phase="ready").write(place)
    assert not status(short_home).up
    assert status(short_home).crashed
    assert down(short_home) == []  # and this very process is still here to see it


def test_a_record_that_is_damaged_counts_as_none(short_home: Path) -> None:
    place = Home(short_home)
    place.prepare()
    place.state.write_text('{"supervisor": [1,')
    assert status(short_home).phase == "down"
    assert down(short_home) == []


def test_down_of_a_home_that_never_was_does_nothing(short_home: Path) -> None:
    assert down(short_home) == []
    assert not short_home.exists()


def test_the_environment_of_a_home_without_a_stack_says_how_to_start_one(short_home: Path) -> None:
    with pytest.raises(StackError, match="signalbox up"):
        environment(short_home)


def test_an_external_prefect_is_taken_from_the_environment_but_never_our_own(
    short_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "noc:secret")
    found = environment(short_home)
    assert found["PREFECT_API_URL"] == "https://prefect.example.com/api"
    assert found["PREFECT_API_AUTH_STRING"] == "noc:secret"
    assert downloads_login(Home(short_home)) == "noc:secret"
    # One that asks for none, or for a key a browser cannot give: the downloads are still not open to everybody on the machine.
    Home(short_home).prepare()
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    monkeypatch.setenv("PREFECT_API_KEY", "key")
    assert downloads_login(Home(short_home)).startswith("signalbox:")
    assert downloads_login(Home(short_home)) == (short_home / "secrets/prefect-auth-string").read_text().strip()
    # What `eval $(signalbox env)` left in a shell names the embedded server, also after its port has changed.
    Home(short_home).prepare()
    (short_home / "run/endpoint.json").write_text(json.dumps({"port": 4300, "api_url": "http://127.0.0.1:4300/api"}))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("SIGNALBOX_EMBEDDED_API_URL", "http://127.0.0.1:4200/api")
    assert environment(short_home)["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
