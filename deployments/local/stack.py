"""What the command does with the stack: `up`, `down`, `status`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from deployments.local import processes
from deployments.local import variables as env
from deployments.local.errors import StackError
from deployments.local.home import Home
from deployments.local.ports import explicit_port
from deployments.local.state import Phase, Service, State

START_TIMEOUT = 600.0
STOP_TIMEOUT = 120.0


@dataclass(frozen=True)
class StackStatus:
    """What runs where."""

    home: Path
    phase: Phase
    services: tuple[Service, ...]
    api_url: str | None
    ui_url: str | None
    crashed: bool = False
    """The supervisor is gone without having stopped its services: the next `up` or `down` cleans up."""

    @property
    def up(self) -> bool:
        """Whether everything runs."""
        return self.phase == "ready"


def up(home: Path, foreground: bool = False, say: Callable[[str], None] | None = None) -> StackStatus:
    """Start the stack, or find it up.

    Args:
        home: The signalbox home; made when missing.
        foreground: Stay in this process until TERM or INT, as systemd wants it.
        say: Shows a line of progress; on stderr by default.

    Raises:
        StackError: It cannot run here; says why and what helps.
    """
    say = say or _to_stderr
    place = Home(home)
    if not foreground and (found := _ready(place)):
        return found
    place.check_socket_path()
    place.prepare()
    explicit_port()
    if foreground:
        return _run_here(place, say)
    end = time.monotonic() + START_TIMEOUT
    child = _spawn_supervisor(place)
    shown = 0
    while time.monotonic() < end:
        state = State.read(place)
        ours = state is not None and (state.alive or state.supervisor.pid == child.pid)
        if state is not None and ours:
            for step in state.steps[shown:]:
                say(step)
            shown = max(shown, len(state.steps))
            if state.phase == "ready" and state.alive:
                return status(home)
            if state.phase == "failed" and state.error:
                child.wait()
                raise StackError(state.error, state.hint)
        if child.poll() is not None and not (state is not None and state.alive):
            if state is not None and state.supervisor.pid == child.pid and state.phase == "down":
                raise StackError("signalbox was stopped while it started.")
            if State.read(place) != state:
                continue
            # The supervisor we found was on its way out: ours met its lock. Try again with the place to ourselves.
            if child.returncode == _already_up():
                child, shown = _spawn_supervisor(place), 0
                time.sleep(0.2)
                continue
            raise StackError("The supervisor ended at once.", f"Read {place.logs / 'supervisor.log'}")
        time.sleep(0.05)
    raise StackError(f"signalbox is not up after {START_TIMEOUT:.0f} s.", f"Read the logs in {place.logs}")


def down(home: Path) -> list[str]:
    """Stop everything that runs for this home, flows included, and return what was stopped; nothing is fine too.

    Raises:
        StackError: Something does not end.
    """
    from deployments.local.supervisor import clean_up, take_lock

    place = Home(home)
    if not place.run.is_dir():
        return []
    state = State.read(place)
    if state is not None and state.alive:
        processes.send(state.supervisor, signal.SIGTERM)
        if processes.wait_gone([state.supervisor], STOP_TIMEOUT):
            raise StackError(
                f"The supervisor (pid {state.supervisor.pid}) does not end.", f"Read {place.logs / 'supervisor.log'}"
            )
        after = State.read(place)
        stopped = after.stopped if after is not None and after.supervisor == state.supervisor else []
    else:
        stopped = []
    lock = take_lock(place)
    if lock is None:
        raise StackError("signalbox is just being started by somebody else.", "Try again in a moment.")
    with closing(lock):
        return [*stopped, *(name for name in clean_up(place) if name not in stopped)]


def status(home: Path) -> StackStatus:
    """Say what runs where. Does not start, stop or change anything."""
    place = Home(home)
    state = State.read(place)
    api: str | None = None
    try:
        variables = env.environment(home)
        api = variables["PREFECT_API_URL"]
        # What a person types: the server leads from there to the right place.
        ui = (variables.get("PREFECT_UI_URL") or api.removesuffix("/api")).removesuffix(env.UI_PATH)
    except StackError:
        ui = None
    if state is None:
        return StackStatus(place.folder, "down", (), api, ui)
    services = tuple(state.services.values())
    if state.alive:
        return StackStatus(place.folder, state.phase, services, api, ui)
    crashed = state.phase not in ("down", "failed")
    phase: Phase = "down" if crashed else state.phase
    return StackStatus(place.folder, phase, services if crashed else (), api, ui, crashed=crashed)


def _ready(place: Home) -> StackStatus | None:
    state = State.read(place)
    if state is not None and state.phase == "ready" and state.alive:
        return status(place.folder)
    return None


def _run_here(place: Home, say: Callable[[str], None]) -> StackStatus:
    from deployments.local.supervisor import Supervisor

    code = Supervisor(place, say).run()
    state = State.read(place)
    if code == _already_up():
        raise StackError("signalbox is up already.", "Stop it first: signalbox down")
    if code != 0:
        raise StackError((state.error if state else None) or "The supervisor failed.", state.hint if state else None)
    return status(place.folder)


def _spawn_supervisor(place: Home) -> subprocess.Popen[bytes]:
    variables = {
        name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "PYTHONDONTWRITEBYTECODE")
    }
    root = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    return processes.spawn(
        [sys.executable, "-m", "deployments.local.supervisor", str(place.folder)],
        env=variables,
        log=place.logs / "supervisor.log",
        dies_with_parent=False,
    )


def _already_up() -> int:
    from deployments.local.supervisor import ALREADY_UP

    return ALREADY_UP


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
