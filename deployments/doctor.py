"""What is missing on this machine, which tools that disables, and the one line that fixes it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from deployments.local import StackError, environment, scheduler_works, status
from deployments.local.api import Api
from deployments.local.home import LEAST_FREE_BYTES, Home
from deployments.local.variables import downloads_login, downloads_url
from tasks.core.errors import MissingProgram, ToolError
from tasks.core.process import find_program
from tasks.core.words import count

CAP_NET_RAW = 13  # <linux/capability.h>
CAPTURE_FREE_BYTES = 1 << 30
"""Captures and scan evidence want room beyond what keeps the database alive."""
LARGEST_CLOCK_ERROR = 5.0
RAW_PROGRAMS = frozenset({"arp-scan", "masscan", "netdiscover", "tcpdump", "tshark", "ngrep", "tcpflow"})
"""Programs that do nothing without raw sockets; nmap and ping do less."""
PINS: dict[str, Callable[[tuple[int, ...]], bool]] = {
    "prefect": lambda version: version == (3, 8, 8),
    "fastapi": lambda version: (0, 139) <= version < (0, 151),
    "sqlalchemy": lambda version: (2, 0, 58) <= version < (2, 1),
}
"""The versions pyproject.toml asks for; with others Prefect starts and silently never schedules."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    """The line to type, when something is wrong."""


async def examine(home: Path) -> list[Check]:
    """Look at everything; takes some seconds when the stack is up, because the scheduler is given something to schedule."""
    tools = programs_and_their_tools()
    checks = [*check_programs(tools), *check_privileges(tools, home), check_pins(), check_home(home), check_disk(home)]
    found = await asyncio.to_thread(check_services, home)
    return [*checks, *found, await check_database()]


def programs_and_their_tools() -> dict[str, list[str]]:
    """Every program a tool starts, and the tools that do."""
    from tasks.core.registry import load_tools

    # Not a tool's own: discovery chooses interfaces by route, and the lab is made of it.
    programs: dict[str, list[str]] = {"ip": ["discover"]}
    for spec in load_tools().values():
        for program in spec.programs:
            programs.setdefault(program, []).append(spec.name)
    return dict(sorted(programs.items()))


def check_programs(tools: dict[str, list[str]]) -> list[Check]:
    """Whether the programs are installed."""
    checks = []
    for program, users in tools.items():
        try:
            checks.append(Check(f"program {program}", True, find_program(program)))
        except MissingProgram as error:
            fix = (error.hint or "").removeprefix("Install it: ") or None
            checks.append(Check(f"program {program}", False, f"missing; without it: no {', '.join(users)}", fix))
    return checks


def check_privileges(tools: dict[str, list[str]], home: Path) -> list[Check]:
    """Whether raw sockets may be opened, by commands typed here and by runs on the worker: each has its own privileges."""
    name = "privilege CAP_NET_RAW"
    here = inherits_raw("self")
    worker = next(
        (service.process for service in status(home).services if service.name == "worker" and service.alive), None
    )
    there = inherits_raw(str(worker.pid)) if worker is not None else here
    if here and there:
        return [Check(name, True, "here, and inherited by the programs tools start")]
    disabled = sorted({tool for program in RAW_PROGRAMS for tool in tools.get(program, [])})
    tools_lost = f"no {', '.join(disabled)}; " if disabled else ""
    lost = f"without it: {tools_lost}nmap scans by TCP connect only, no MACs"
    if there:
        return [Check(name, True, f"the worker's runs have it; commands typed here have not ({lost})")]
    if here:
        return [
            Check(name, False, f"commands typed here have it, the worker's runs have not; {lost}", _raise_privilege())
        ]
    return [Check(name, False, f"not here; {lost}", _raise_privilege())]


def _raise_privilege() -> str:
    """The line that starts the stack with the one capability, and without root."""
    if os.geteuid() == 0:
        return "this root has no CAP_NET_RAW, as in a container: start it with --cap-add NET_RAW"
    command = shutil.which("signalbox") or f"{Path(sys.executable).parent}/signalbox"
    return (
        f"{command} down; sudo setpriv --reuid={os.getuid()} --regid={os.getgid()} --init-groups"
        f" --inh-caps=+net_raw --ambient-caps=+net_raw env HOME={Path.home()} {command} up"
    )


def inherits_raw(process: str) -> bool:
    """Whether a process has CAP_NET_RAW and hands it to programs it starts: the capability, not the user id, decides.

    In a container root may lack it, and an ordinary user may have it as an ambient capability, which alone is inherited.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    facts = dict(line.split(":", 1) for line in lines)
    root = facts["Uid"].split()[1] == "0"
    return bool(int(facts["CapEff" if root else "CapAmb"], 16) >> CAP_NET_RAW & 1)


def check_pins() -> Check:
    """Whether the installed packages are the ones that work together."""
    wrong = []
    for package, accepted in PINS.items():
        version = importlib.metadata.version(package)
        if not accepted(numbers(version)):
            wrong.append(f"{package} {version}")
    if wrong:
        return Check("package versions", False, f"not the pinned ones: {', '.join(wrong)}", "make clean install")
    found = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PINS)
    return Check("package versions", True, found)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare.

    >>> numbers("2.1.0rc1")
    (2, 1)
    >>> numbers("0.139.0") < (0, 151)
    True
    """
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def check_home(home: Path) -> Check:
    """Whether the home belongs to this user and keeps its secrets from others."""
    if not home.exists():
        return Check("home", True, f"{home} does not exist yet; signalbox up makes it")
    if not os.access(home, os.W_OK | os.X_OK):
        return Check("home", False, f"{home} cannot be written", f"sudo chown -R {os.getuid()}:{os.getgid()} {home}")
    loose = [path for path in _private(home) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if loose:
        return Check("home", False, f"others may read {', '.join(str(path) for path in loose)}", f"chmod -R go= {home}")
    return Check("home", True, f"{home}; secrets for this user alone")


def _private(home: Path) -> Iterable[Path]:
    for folder in (home / "secrets", home / "run"):
        if folder.is_dir():
            yield folder
    if (home / "secrets").is_dir():
        yield from (home / "secrets").iterdir()


def check_disk(home: Path) -> Check:
    """Whether there is room for the database, captures and scan evidence."""
    folder = home
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    detail = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f} GiB at {home}"
    fix = "set SIGNALBOX_HOME to a folder on another disk, or make room: signalbox capture prune"
    if usage.free < LEAST_FREE_BYTES:
        return Check("disk", False, f"{detail}: too little for the database", fix)
    if usage.free < CAPTURE_FREE_BYTES:
        return Check("disk", False, f"{detail}: too little for captures", fix)
    return Check("disk", True, detail)


def check_services(home: Path) -> list[Check]:
    """Whether the stack runs, the API answers, the clocks agree and the scheduler schedules."""
    stack = status(home)
    checks = []
    for service in stack.services:
        if service.external:
            checks.append(Check(f"service {service.name}", True, f"external: {service.detail}"))
        else:
            restarted = f"; restarted {count(service.restarts, 'time')}" if service.restarts else ""
            fix = None if service.alive else f"signalbox down; signalbox up   (its log: {home}/logs/{service.name}.log)"
            state = "runs" if service.alive else "does not run"
            checks.append(Check(f"service {service.name}", service.alive, f"{state}: {service.detail}{restarted}", fix))
            if service.name == "downloads" and service.alive:
                checks.append(check_downloads(home))
    try:
        api = Api.from_environment(environment(home))
        skew = clock_skew(api)
    except StackError as error:
        return [*checks, Check("Prefect API", False, error.message, "signalbox up")]
    checks.append(Check("Prefect API", True, api.url))
    if skew is None or abs(skew) <= LARGEST_CLOCK_ERROR:
        checks.append(Check("clock", True, "agrees with the Prefect server's"))
    else:
        detail = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the Prefect server's: schedules and leases go wrong"
        checks.append(Check("clock", False, detail, "sudo timedatectl set-ntp true"))
    try:
        works = scheduler_works(api)
    except StackError as error:
        return [*checks, Check("scheduler", False, error.message, "signalbox down; signalbox up")]
    if works:
        checks.append(Check("scheduler", True, "a cron deployment got its runs"))
    else:
        fix = "make clean run   (usually packages that are not the pinned ones)"
        checks.append(Check("scheduler", False, "a cron deployment got no runs", fix))
    return checks


def check_downloads(home: Path) -> Check:
    """Whether files of the capture store can be fetched with the login of the UI."""
    place = Home(home)
    url = downloads_url(place)
    if url is not None and Api(url, downloads_login(place)).answers("/health"):
        return Check("downloads", True, f"{url} answers to the login of the UI")
    fix = f"signalbox down; signalbox up   (its log: {place.logs}/downloads.log)"
    return Check("downloads", False, f"{url} does not answer: links to captures lead nowhere", fix)


def clock_skew(api: Api) -> float | None:
    """Seconds the server's clock is ahead of ours; None when it does not say.

    Raises:
        StackError: The API does not answer.
    """
    sent = time.time()
    date = api.date()
    if date is None:
        return None
    # The header has whole seconds and was written somewhere between the two moments.
    return parsedate_to_datetime(date).timestamp() + 0.5 - (sent + time.time()) / 2


async def check_database() -> Check:
    """Whether the inventory database answers and has this version's schema."""
    from tasks.core.db.engine import database
    from tasks.core.db.migrate import current_revision, head_revision

    try:
        found, wanted = await current_revision(database()), head_revision()
    except ToolError as error:
        return Check("inventory database", False, error.message, error.hint or "signalbox up")
    if found != wanted:
        detail = f"its schema is {found or 'empty'}, this version needs {wanted}"
        return Check("inventory database", False, detail, "signalbox down; signalbox up")
    return Check("inventory database", True, f"answers; schema {found}")
