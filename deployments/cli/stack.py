"""`signalbox up`, `down`, `status`, `env`, `doctor` and the first run."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from typing import Annotated

from cyclopts import Parameter

from deployments import local
from deployments.cli._output import emit_json, emit_table, progress, say
from tasks.core.settings import settings


def up(*, foreground: bool = False) -> int:
    """Start everything: PostgreSQL, the Prefect server, a worker, the deployments.

    SIGNALBOX_DATABASE_URL and PREFECT_API_URL name external services to use instead; then only the rest is started.

    Args:
        foreground: Stay in the foreground, as systemd wants it.
    """
    status = local.up(settings().home, foreground=foreground, say=progress)
    if not foreground:
        say(f"signalbox is up. UI: {status.ui_url}  State: {status.home}")
    return 0


def down() -> int:
    """Stop everything that runs for this home; the state stays."""
    stopped = local.down(settings().home)
    say(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def status(*, json: bool = False) -> int:
    """Show what runs where.

    Args:
        json: Print one JSON document.
    """
    found = local.status(settings().home)
    rows = [
        {
            "service": service.name,
            "state": service.condition,
            "pid": service.process.pid if service.process and service.alive else None,
            "up for": _ago(service.since) if service.alive else None,
            "restarts": service.restarts or None,
            "detail": service.detail,
        }
        for service in found.services
    ]
    if json:
        emit_json(
            {
                "home": str(found.home),
                "phase": found.phase,
                "crashed": found.crashed,
                "ui": found.ui_url,
                "api": found.api_url,
                "services": rows,
            }
        )
        return 0 if found.up else 1
    word = {"ready": "up", "down": "down", "failed": "not up: the last start failed"}.get(found.phase, found.phase)
    say(f"signalbox is {word}.  Home: {found.home}")
    if found.crashed:
        say("Its supervisor died without stopping its services; the next `signalbox up` or `down` cleans up.")
    if rows:
        emit_table(rows)
    if found.up:
        say(f"UI: {found.ui_url}   API: {found.api_url}")
    else:
        say("Start it: signalbox up")
    return 0 if found.up else 1


def _ago(since: float) -> str:
    seconds = max(0, int(time.time() - since))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def env() -> int:
    """Print what a shell needs for `prefect` and curl to reach this signalbox: eval $(signalbox env)."""
    for name, value in local.environment(settings().home).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def doctor(*, json: bool = False) -> int:
    """Check programs, privileges, services and versions; say what is missing, what that disables, and the line that fixes it.

    Args:
        json: Print one JSON document.
    """
    from deployments.doctor import examine

    checks = asyncio.run(examine(settings().home))
    if json:
        emit_json([{"name": check.name, "ok": check.ok, "detail": check.detail, "fix": check.fix} for check in checks])
    else:
        emit_table(
            [{"check": check.name, "": "ok" if check.ok else "PROBLEM", "detail": check.detail} for check in checks]
        )
        for check in checks:
            if not check.ok and check.fix:
                say(f"\n{check.name}: {check.fix}")
    return 0 if all(check.ok for check in checks) else 1


def first_run(*targets: Annotated[str, Parameter(help="Networks to allow and discover.")]) -> int:
    """Do the main job once, right after set-up: discover what is allowed, show it, and say what to type next.

    Args:
        targets: Networks to allow and discover; none: what is allowed already, loopback at first.
    """
    from deployments.cli.discover import discover
    from deployments.cli.policy import allow

    up()
    # `up` may have just made the server; Prefect's settings are read when it is first imported, which is now.
    from deployments.cli import point_at_home

    point_at_home()
    if targets:
        allow(*targets)
    code = discover(*targets)
    _next_steps()
    return code


def _next_steps() -> None:
    status = local.status(settings().home)
    here = _networks()
    network, interface = here[0] if here else ("192.168.1.0/24", "your network")
    command = "signalbox" if os.environ.get("VIRTUAL_ENV") else ".venv/bin/signalbox"
    say(f"\nThe UI: {status.ui_url}  (user and password: signalbox env)")
    where = f"You are on {network} ({interface})" if here else f"For a network such as {network}"
    say(f"Next:\n  1. {where}; allow it:   {command} policy allow {network}")
    say(f"  2. Discover it:                {command} discover {network}")
    say(f"  3. Get a message about it:     {command} block create slack/ops --url https://hooks.slack.com/...")
    say(f"                                 {command} discover {network} --notify slack/ops")


def _networks() -> list[tuple[str, str]]:
    """Networks this machine is on, with the interface, the default route's first; virtual bridges of containers left out."""
    import json as json_module

    from tasks.core.errors import ToolError
    from tasks.core.process import find_program, run_command

    async def ask(*arguments: str) -> list[dict[str, object]]:
        answer = await run_command([find_program("ip"), "-json", *arguments], timeout=5)
        return json_module.loads(answer.stdout or b"[]")  # type: ignore[no-any-return]

    try:
        default = {str(route.get("dev")) for route in asyncio.run(ask("route", "show", "default"))}
        routes = asyncio.run(ask("-4", "route", "show", "scope", "link"))
    except (ToolError, ValueError):
        return []
    found = [
        (str(route["dst"]), str(route["dev"]))
        for route in routes
        if "/" in str(route.get("dst", ""))
        and not str(route.get("dev", "")).startswith(("docker", "br-", "veth", "virbr", "cni"))
    ]
    return sorted(found, key=lambda item: item[1] not in default)
