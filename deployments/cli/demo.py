"""`signalbox demo`: the main job on a network of its own, and a camera, for anyone who wants to see it before pointing it at theirs."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from deployments import local
from deployments.cli._output import emit_table, out, progress, say
from tasks.core.errors import InvalidParameters, MissingProgram
from tasks.core.settings import settings

if TYPE_CHECKING:
    from deployments.demo.network import Office
    from flows.discover import DiscoverResult

app = App(name="demo", help="See signalbox at work without touching anybody's network.", help_format="plaintext")

ROW = 32


@app.command
def network(*, pictures: Path | None = None) -> int:
    """Build a small office in network namespaces, discover it, change it, discover it again (root).

    Everything happens in a signalbox of its own in a temporary folder; nothing is left behind.

    Args:
        pictures: Folder to write the two pictures to, as SVG.
    """
    if os.geteuid() != 0:
        raise MissingProgram(
            "The demo makes network namespaces, which needs root.", hint="sudo .venv/bin/signalbox demo network"
        )
    home = Path(tempfile.mkdtemp(prefix="signalbox-demo-"))
    before = {
        name: os.environ.get(name)
        for name in ("SIGNALBOX_HOME", "SIGNALBOX_DATABASE_URL", "PREFECT_API_URL", "SIGNALBOX_PORT")
    }
    for name in before:
        os.environ.pop(name, None)
    os.environ["SIGNALBOX_HOME"] = str(home)
    settings.cache_clear()
    try:
        progress("Starting a signalbox of its own for the demo ...")
        local.up(home, say=progress)
        from deployments.cli import point_at_home

        point_at_home()
        code = asyncio.run(_play(pictures))
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=10)  # the server is about to go
        return code
    finally:
        progress("Taking everything down again ...")
        local.down(home)
        shutil.rmtree(home, ignore_errors=True)
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
        settings.cache_clear()


@app.command
def camera(
    *,
    port: int = 8080,
    https_port: int | None = None,
    rtsp_port: int = 0,
    profile: str = "ptz",
    user: str = "root",
    password: str = "pass",  # noqa: S107  of a simulated camera, said on the screen
    host: str = "127.0.0.1",
) -> int:
    """Run a simulated Axis camera until Ctrl-C, to try the vapix tools without one (no root, no network).

    Args:
        port: TCP port for HTTP.
        https_port: TCP port for HTTPS; none without it.
        rtsp_port: TCP port for RTSP; 0: any free one, which the camera tells.
        profile: Model and firmware: ancient, old, 9.80, mid, new, ptz, bare, needs-setup.
        user: Name of its administrator.
        password: The administrator's password.
        host: Address to listen on; anything but loopback lets others in.
    """
    from deployments.demo.axis_camera import Account
    from deployments.demo.camera import known_profile, serve

    for name, number in (("--port", port), ("--https-port", https_port), ("--rtsp-port", rtsp_port)):
        if number is not None and not 0 <= number <= 65535:
            raise InvalidParameters(f"{name} {number} is no TCP port: 1 to 65535, or 0 for any free one.")
    if not user or ":" in user or not user.isprintable() or not password:
        raise InvalidParameters("--user is a name without a colon, and --password is not empty.")
    wanted = known_profile(profile)
    account = Account(user, password, "admin", ptz=True)
    asyncio.run(serve(wanted, account, host=host, port=port, https_port=https_port, rtsp_port=rtsp_port, say=say))
    return 0


async def _play(pictures: Path | None) -> int:
    from blocks.policy import ProbePolicy
    from deployments.demo.network import Office
    from tasks.asset import _operator
    from tasks.core.rate import ensure_budget

    async with Office() as office:
        say(f"\nA small office, in network namespaces of this machine: {', '.join(office.cidrs)}\n")
        emit_table(_truth(office))
        # The office is ours: faster than one would go on a network of others.
        policy = ProbePolicy(allow=[*office.cidrs], packets_per_second=5000, host_packets_per_second=0)
        await policy.save(settings().site, overwrite=True)
        await ensure_budget(settings().site, policy.packets_per_second)
        for cidr in office.cidrs:
            # A real network waits for several scans and hours before it calls a host missing; a demo does not have them.
            await _operator.declare_subnet(settings().site, cidr, kind="static", missing_scans=1, missing_hours=0)
        first = await _discover(office.cidrs)
        say("\nFirst look. Everything is new, so nobody is bothered:\n")
        _show(first, pictures, "demo-before")
        say("\nNow the office changes:")
        for line in await office.change():
            say(f"  - {line}")
        second = await _discover(office.cidrs)
        say("\nSecond look:\n")
        _show(second, pictures, "demo")
        say("\nAnd this is the message, sent once to each channel named with --notify:\n")
        for line in second.text.splitlines():
            say(f"  | {line}")
    return 0 if first.outcome == second.outcome == "Completed" else 1


def _truth(office: Office) -> list[dict[str, str]]:
    """What really is there: what a discovery should find."""
    assert office.lab is not None  # built
    return [
        {
            "host": host.name,
            "address": host.address,
            "mac": host.mac,
            "services": ", ".join(f"{served.port}/{served.protocol} {served.name}" for served in host.services),
        }
        for host in office.lab.hosts.values()
    ]


async def _discover(targets: Sequence[str]) -> DiscoverResult:
    from deployments.cli.discover import run
    from flows.discover import DiscoverResult as Result

    state: Any = await run(
        {
            "targets": list(targets),
            "site": settings().site,
            "profile": "standard",
            "notify": [],
            "notify_when": "changes",
            "preview": False,
            "overlap": "wait",
            "confirm_large": False,
        }
    )
    result = getattr(state.data, "result", state.data)
    if isinstance(result, BaseException):
        raise result
    assert isinstance(result, Result)
    return result


def _show(result: DiscoverResult, pictures: Path | None, name: str) -> None:
    emit_table(result.hosts)
    say()
    _draw(result.scanned, result.states)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        file = pictures / f"{name}.svg"
        file.write_text(result.picture)
        say(f"Picture: {file}")


def _draw(prefixes: Sequence[str], states: Mapping[str, str]) -> None:
    """Draw the address space in the terminal, a character an address."""
    from flows._picture import COLOURS

    console = out()
    signs = {
        "live": "o",
        "new": "N",
        "changed": "C",
        "missing": "M",
        "candidate": "?",
        "silent": ".",
        "excluded": "x",
        "unknown": " ",
    }
    for prefix in prefixes:
        addresses = list(ipaddress.ip_network(prefix))
        console.print(f"[bold]{prefix}[/]")
        for start in range(0, len(addresses), ROW):
            row = addresses[start : start + ROW]
            cells = [(states.get(str(address), "silent")) for address in row]
            console.print("  " + " ".join(f"[{COLOURS[state][0]}]{signs[state]}[/]" for state in cells))
    used = [state for state in COLOURS if state == "silent" or state in states.values()]
    console.print("  " + "   ".join(f"[{COLOURS[state][0]}]{signs[state]}[/] {COLOURS[state][1]}" for state in used))
