"""The supervisor: one process that starts the services in order, restarts what dies, and leaves nothing behind.

It is single-threaded: PR_SET_PDEATHSIG, which ends the services when a supervisor is killed, is tied to the thread that started
them. It is a subreaper, so that whatever a flow left running comes back to it and is found when the stack goes down.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from deployments.local import processes, ui
from deployments.local import variables as env
from deployments.local.api import Api
from deployments.local.errors import StackError
from deployments.local.home import Home
from deployments.local.ports import choose_port, choose_port_after, explicit_port
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.processes import Identity, identify
from deployments.local.scheduler import PATIENCE, SchedulerCheck
from deployments.local.state import Service, State

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
SERVER_TIMEOUT = 180.0
JOB_TIMEOUT = 300.0
WORKER_TIMEOUT = 90.0
DOWNLOADS_TIMEOUT = 60.0
FLOW_GRACE = 15.0
"""Seconds a running flow gets to write its last state before it is killed."""
LONGEST_BACKOFF = 60.0
HEALTHY_AFTER = 60.0
"""Seconds after which a service counts as well again, and its next death as the first."""
LOG_BYTES = 10 << 20
LOGS_KEPT = 3
ALREADY_UP = 75
"""Exit status when another supervisor has this home: EX_TEMPFAIL of sysexits.h."""


class _Stop(BaseException):
    """Somebody asked the stack to end. Not an Exception: no `except Exception` may swallow it."""


class Supervisor:
    """Runs the stack of one home until it is told to stop.

    Args:
        home: The home.
        say: Shows a line of progress.
    """

    def __init__(self, home: Home, say: Callable[[str], None]) -> None:
        self._home = home
        self._say = say
        myself = identify(os.getpid())
        assert myself is not None
        self._state = State(supervisor=myself, mark=secrets.token_hex(16))
        self._postgres: EmbeddedPostgres | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._jobs: list[subprocess.Popen[bytes]] = []
        self._due: dict[str, float] = {}
        self._rotated = 0.0
        self._lock: IO[str] | None = None
        self._server: Api | None = None
        self._starters: dict[str, Callable[[], subprocess.Popen[bytes]]] = {}

    def run(self) -> int:
        """Start everything, watch it, and stop it on TERM or INT; return the exit status."""
        self._lock = take_lock(self._home)
        if self._lock is None:
            return ALREADY_UP
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        status = 0
        try:
            self._start()
            self._watch()
        except _Stop:
            pass
        except StackError as error:
            status = self._fail(error.message, error.hint)
        except Exception as error:
            self._log(f"unexpected: {error!r}")
            status = self._fail(
                f"The supervisor failed: {error!r}", f"Read its log: {self._home.logs / 'supervisor.log'}"
            )
            raise
        finally:
            # A second TERM does not interrupt the clean-up; KILL does, and the next `up` cleans up after that.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._stop()
        return status

    def _fail(self, message: str, hint: str | None) -> int:
        self._state.error, self._state.hint = message, hint
        self._log(f"{message} {hint or ''}")
        return 1

    # Starting

    def _start(self) -> None:
        begun = time.monotonic()
        stopped = clean_up(self._home)
        if stopped:
            self._step(f"Cleaned up after a crashed run: {', '.join(stopped)}.")
        self._home.clear_temporary()
        self._state.write(self._home)
        env.write_profile(self._home)
        self._start_database()
        server = self._start_server()
        migration = self._job("migration", [sys.executable, "-m", "deployments.local.migration"])
        api = Api.from_environment(env.environment(self._home.folder))
        if server:
            self._await("prefect-server", lambda: api.healthy(timeout=2), SERVER_TIMEOUT)
            ui.keep_to_itself(self._home.prefect / ui.FOLDER)
            self._step(f"Prefect is up: {api.url.removesuffix('/api')}")
        elif not api.healthy():
            raise StackError(
                f"The Prefect API at {api.url} (PREFECT_API_URL) does not answer.",
                "Start it, or unset PREFECT_API_URL.",
            )
        self._finish_job("migration", migration, "The inventory database cannot be brought up to date")
        self._step("The inventory database is up to date.")
        if server:
            self._server = api
            lost = settle_runs(api, "What ran it ended before it did: a crash or a reboot.")
            if lost:
                self._step(f"{lost} run(s) that a crash cut off are marked Crashed.")
        check = SchedulerCheck(api)
        try:
            bootstrap = self._job("bootstrap", [sys.executable, "-m", "deployments.bootstrap"])
            self._finish_job("bootstrap", bootstrap, "Deployments and default blocks cannot be made")
            self._step("Work pool, blocks, limits and deployments are in place.")
            downloads = self._start_downloads()
            self._start_worker(api)
            self._step("The worker is up.")
            self._await("downloads", lambda: downloads.answers("/health", timeout=2), DOWNLOADS_TIMEOUT)
            self._step(f"Captures can be downloaded from {downloads.url}")
            self._check_scheduler(check)
        finally:
            check.close()
        self._state.phase = "ready"
        self._step(f"signalbox is up ({time.monotonic() - begun:.0f} s).")
        _notify("READY=1\nSTATUS=up")

    def _start_database(self) -> None:
        url = env.external_database()
        if url is not None:
            self._state.services["postgresql"] = Service("postgresql", external=True, detail="SIGNALBOX_DATABASE_URL")
            return
        begun = time.monotonic()
        self._postgres = EmbeddedPostgres(self._home.folder)
        self._postgres.start()
        self._note("postgresql", self._postgres.process, f"socket in {self._home.run}")
        self._step(f"PostgreSQL is up ({time.monotonic() - begun:.1f} s).")

    def _start_server(self) -> bool:
        external = env.external_api(self._home)
        if external is not None:
            self._state.services["prefect-server"] = Service("prefect-server", external=True, detail=external)
            return False
        port, remark = choose_port(explicit_port(), env.recorded_port(self._home))
        if remark:
            self._step(remark)
        url = env.record_endpoint(self._home, port)
        database = env.prefect_database_url(self._home)
        variables = env.server_environment(self._home, self._state.mark, database, port)
        if "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH" in variables:
            _provide_schema(str(env.external_database()))
        (self._home.prefect / ui.FOLDER).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "prefect", "server", "start"]
        self._starters["prefect-server"] = lambda: self._spawn("prefect-server", command, variables)
        self._children["prefect-server"] = self._starters["prefect-server"]()
        self._note("prefect-server", self._children["prefect-server"], url.removesuffix("/api"))
        return True

    def _start_worker(self, api: Api) -> None:
        name = f"{socket.gethostname()}-embedded"
        command = [
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", env.POOL, "--type", "process"),
            *("--name", name, "--install-policy", "never", "--limit", "20"),
        ]
        variables = env.child_environment(self._home, self._state.mark)
        self._starters["worker"] = lambda: self._spawn("worker", command, variables)
        begun = time.time()
        self._children["worker"] = self._starters["worker"]()
        self._note("worker", self._children["worker"], f"work pool {env.POOL}")
        self._await("worker", lambda: _heard_of(api, name, begun), WORKER_TIMEOUT)

    def _start_downloads(self) -> Api:
        """Start what hands out captures, before the worker: its flows are told the address."""
        server = env.recorded_port(self._home) if "prefect-server" in self._children else explicit_port()
        port = choose_port_after(server or env.DEFAULT_PORT, env.recorded_downloads_port(self._home))
        url = env.record_downloads(self._home, port)
        command = [sys.executable, "-m", "deployments.downloads", str(port)]
        variables = env.child_environment(self._home, self._state.mark)
        self._starters["downloads"] = lambda: self._spawn("downloads", command, variables)
        self._children["downloads"] = self._starters["downloads"]()
        self._note("downloads", self._children["downloads"], url)
        return Api(url, env.downloads_login(self._home))

    def _check_scheduler(self, check: SchedulerCheck) -> None:
        end = time.monotonic() + PATIENCE
        while not check.passed():
            if time.monotonic() > end:
                raise StackError(
                    "Prefect's scheduler does not work: a cron deployment got no runs.",
                    "Usually the installed packages are not the pinned ones: make clean run. Or see: signalbox doctor",
                )
            self._pause(0.5)
        self._step("The scheduler works.")

    def _spawn(self, name: str, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        return processes.spawn(command, env=variables, log=self._home.logs / f"{name}.log", cwd=self._home.prefect)

    def _job(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._home.logs / f"{name}.log"
        # A job's log is about its last run: a failure shows its end.
        log.unlink(missing_ok=True)
        job = self._spawn(name, command, env.child_environment(self._home, self._state.mark))
        self._jobs.append(job)
        return job

    def _finish_job(self, name: str, job: subprocess.Popen[bytes], trouble: str) -> None:
        end = time.monotonic() + JOB_TIMEOUT
        while job.poll() is None:
            if time.monotonic() > end:
                raise StackError(
                    f"{trouble}: not done after {JOB_TIMEOUT:.0f} s.", f"Read {self._home.logs / f'{name}.log'}"
                )
            self._look_after(name)
            self._pause(0.05)
        if job.returncode != 0:
            raise StackError(
                f"{trouble}: {_last_line(self._home.logs / f'{name}.log')}", f"Read {self._home.logs / f'{name}.log'}"
            )

    def _await(self, name: str, ready: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not ready():
            self._look_after(name)
            if time.monotonic() > end:
                raise StackError(
                    f"{name} is not ready after {timeout:.0f} s.", f"Read {self._home.logs / f'{name}.log'}"
                )
            self._pause(0.1)

    def _look_after(self, name: str) -> None:
        """Give up a start at once when what it waits for, or stands on, has died."""
        self._reap()
        for service, child in self._children.items():
            if child.poll() is not None:
                log = self._home.logs / f"{service}.log"
                raise StackError(f"{service} ended while {name} was starting: {_last_line(log)}", f"Read {log}")
        if (
            self._postgres is not None
            and self._postgres.process is not None
            and self._postgres.process.poll() is not None
        ):
            raise StackError(f"PostgreSQL ended while {name} was starting.", f"Read {self._postgres.log}")

    # Watching

    def _watch(self) -> None:
        while True:
            self._pause(0.5)
            self._reap()
            if self._postgres is not None:
                self._revive("postgresql", self._postgres.process, self._restart_postgres)
            for name in list(self._children):
                self._revive(name, self._children[name], partial(self._restart, name))
            self._rotate_logs()

    def _revive(self, name: str, child: subprocess.Popen[bytes] | None, restart: Callable[[], None]) -> None:
        if child is not None and child.poll() is None:
            return
        service = self._state.services[name]
        now = time.monotonic()
        if name not in self._due:
            if time.time() - service.since > HEALTHY_AFTER:
                service.restarts = 0
            delay = min(2.0**service.restarts, LONGEST_BACKOFF)
            self._due[name] = now + delay
            status = child.returncode if child is not None else "unknown"
            self._log(f"{name} ended (status {status}); starting it again in {delay:.0f} s")
            self._state.write(self._home)
        elif now >= self._due[name]:
            del self._due[name]
            service.restarts += 1
            service.since = time.time()
            try:
                restart()
            except (StackError, OSError) as error:
                self._log(f"{name} cannot be started: {error}")
            self._state.write(self._home)

    def _restart(self, name: str) -> None:
        restarts = self._state.services[name].restarts
        self._children[name] = self._starters[name]()
        self._note(name, self._children[name], self._state.services[name].detail, restarts)

    def _restart_postgres(self) -> None:
        assert self._postgres is not None
        service = self._state.services["postgresql"]
        self._postgres.start()
        self._note("postgresql", self._postgres.process, service.detail, service.restarts)

    def _rotate_logs(self) -> None:
        if time.monotonic() - self._rotated < 60:
            return
        self._rotated = time.monotonic()
        for log in self._home.logs.glob("*.log"):
            with suppress(OSError):
                if log.stat().st_size > LOG_BYTES:
                    _rotate(log)

    def _reap(self) -> None:
        """Collect ended orphans that came to this subreaper; the others' ends are left to their Popen objects.

        A job collected here would look to its Popen as if it had ended well.
        """
        own = {child.pid for child in [*self._children.values(), *self._jobs]}
        if self._postgres is not None and self._postgres.process is not None:
            own.add(self._postgres.process.pid)
        for pid, parent in processes.all_processes().items():
            if parent == os.getpid() and pid not in own and identify(pid) is None:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # Stopping

    def _stop(self) -> None:
        state = self._state
        state.phase = "stopping"
        self._try_to_write()
        _notify("STOPPING=1")
        postgres = self._postgres.process if self._postgres is not None else None
        server = self._children.get("prefect-server")
        apart = [child.pid for child in (server, postgres) if child is not None]
        kept = {os.getpid(), *apart, *(process.pid for process in processes.descendants(apart))}

        worker = self._children.get("worker")
        flows = running_flows([process for process in self._everything() if process.pid not in kept])
        if worker is not None and worker.poll() is None:
            # The flows first: a worker that ends kills them at once, and their clean-up would not run.
            direct = {pid for pid, parent in processes.all_processes().items() if parent == worker.pid}
            engines = [process for process in processes.descendants([worker.pid]) if process.pid in direct]
            processes.end(engines, grace=FLOW_GRACE)
            processes.end([found] if (found := identify(worker.pid)) else [], grace=FLOW_GRACE)
            state.stopped.append("worker")
        downloads = self._children.get("downloads")
        if downloads is not None and downloads.poll() is None:
            # It ends with the rest below.
            state.stopped.append("downloads")
        # While the server still answers, so that a flow's last state is not lost.
        rest = [process for process in self._everything() if process.pid not in kept]
        processes.end(rest, grace=FLOW_GRACE)
        if flows:
            state.stopped.append(f"{len(flows)} running flow{'s' if len(flows) > 1 else ''}")
        if server is not None and server.poll() is None and self._server is not None:
            with suppress(StackError):
                settle_runs(self._server, "Stopped by: signalbox down")
        if server is not None and server.poll() is None:
            processes.end([found] if (found := identify(server.pid)) else [], grace=15)
            state.stopped.append("prefect-server")
        if self._postgres is not None and postgres is not None and postgres.poll() is None:
            self._postgres.stop()
            state.stopped.append("postgresql")
        # Whatever started meanwhile.
        processes.end([process for process in self._everything() if process.pid != os.getpid()], grace=2)
        state.phase = "failed" if state.error else "down"
        self._try_to_write()
        self._log(f"stopped: {', '.join(state.stopped) or 'nothing was running'}")

    def _everything(self) -> list[Identity]:
        mine = processes.descendants([os.getpid()])
        return list(dict.fromkeys([*mine, *processes.marked(env.MARK, self._state.mark)]))

    def _try_to_write(self) -> None:
        # On a full disk the stack still stops; the old record only says that it was up, and its pids are gone.
        with suppress(StackError):
            self._state.write(self._home)

    # Small things

    def _note(self, name: str, child: subprocess.Popen[bytes] | None, detail: str, restarts: int = 0) -> None:
        process = identify(child.pid) if child is not None else None
        self._state.services[name] = Service(name, process, detail, restarts, time.time())
        self._state.write(self._home)

    def _step(self, text: str) -> None:
        self._say(text)
        self._state.steps.append(text)
        self._state.write(self._home)

    def _log(self, text: str) -> None:
        self._say(text)

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)


def take_lock(home: Home) -> IO[str] | None:
    """Return the home's lock, held until it is closed or this process ends; None when another supervisor has it."""
    stream = os.fdopen(os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def clean_up(home: Home) -> list[str]:
    """End what a supervisor that is gone left running, and say what that was. The caller holds the lock.

    Found by recorded pid and start time, by descent from those, and by the random mark every process of that run inherited.
    """
    state = State.read(home)
    stopped: list[str] = []
    if state is not None:
        services = [service for service in state.services.values() if service.alive and service.name != "postgresql"]
        roots = [service.process for service in services if service.process is not None]
        left = [*roots, *processes.descendants(root.pid for root in roots), *processes.marked(env.MARK, state.mark)]
        left = [process for process in dict.fromkeys(left) if process.pid != os.getpid()]
        flows = running_flows(left)
        if processes.end(left, grace=10):
            stopped = [service.name for service in services]
            if flows:
                stopped.append(f"{len(flows)} running flow{'s' if len(flows) > 1 else ''}")
            if not stopped:
                stopped = ["left-over processes"]
    if EmbeddedPostgres(home.folder).end_leftover():
        stopped.append("postgresql")
    return stopped


def settle_runs(api: Api, reason: str) -> int:
    """Mark the embedded pool's unfinished runs Crashed and return how many; only right while no worker runs.

    A worker that ends takes its flows along without telling the server. A run that stays Running for ever would keep its
    deployment's concurrency slot: the nightly discovery with a limit of one would never run again.
    """
    query = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [env.POOL]}},
        "limit": 200,
    }
    state = {"type": "CRASHED", "name": "Crashed", "message": reason}
    count = 0
    for run in api.call("POST", "/flow_runs/filter", query):
        # Not forced: the rules that give slots back are part of an ordinary transition.
        api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state})
        count += 1
    return count


def running_flows(candidates: list[Identity]) -> set[str]:
    """Return the ids of the flow runs that the processes execute."""
    found = set()
    for process in candidates:
        with suppress(OSError):
            for variable in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                name, _, value = variable.partition(b"=")
                if name == b"PREFECT__FLOW_RUN_ID":
                    found.add(value.decode())
    return found


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _Stop


def _notify(message: str) -> None:
    """Tell systemd, when it asked to be told: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(message.encode())


def _heard_of(api: Api, name: str, since: float) -> bool:
    """Whether a worker of this name has sent a heartbeat after `since`."""
    from datetime import datetime

    with suppress(StackError):
        for worker in api.call("POST", f"/work_pools/{env.POOL}/workers/filter", {}):
            beat = worker.get("last_heartbeat_time")
            if worker["name"] == name and beat and datetime.fromisoformat(beat).timestamp() >= since:
                return True
    return False


def _provide_schema(url: str) -> None:
    """Make the schema `prefect` in the external database that the embedded Prefect server shares with the inventory."""
    import psycopg2

    try:
        connection = psycopg2.connect(url.replace("postgresql+psycopg2://", "postgresql://", 1), connect_timeout=5)
    except psycopg2.OperationalError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StackError(
            f"The database of SIGNALBOX_DATABASE_URL does not answer: {reason}.", "Check address and password."
        ) from None
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS prefect")
    except psycopg2.Error as error:
        raise StackError(
            f"The role of SIGNALBOX_DATABASE_URL may not make the schema 'prefect': {str(error).strip().splitlines()[0]}.",
            "Make it for that role, or name a database for Prefect with PREFECT_SERVER_DATABASE_CONNECTION_URL.",
        ) from None
    finally:
        connection.close()


def _rotate(log: Path) -> None:
    # Copied and cut, not renamed: the service holds the file open, for appending.
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    log.with_name(f"{log.name}.1").chmod(0o600)
    os.truncate(log, 0)


def _last_line(log: Path) -> str:
    with suppress(OSError):
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").strip().splitlines()
        if lines:
            # A traceback's last line without the class: `tasks.core.errors.CommandFailed: what it says`.
            return re.sub(r"^(\w+\.)+\w+: ", "", lines[-1].strip())[:300]
    return "it said nothing"


def main() -> int:
    """Run the supervisor of the home named as argument: how `up` starts it in the background."""

    def say(text: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, file=sys.stderr, flush=True)

    return Supervisor(Home(Path(sys.argv[1])), say).run()


if __name__ == "__main__":
    sys.exit(main())
