"""A stack and a network of the benchmarks' own: brought up for one run, and down without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.demo.lab import Lab

RESOLVERS = Path("/etc/resolv.conf")
INSIDE = "SIGNALBOX_BENCHMARK_RESOLVERS"
"""Set in the process whose resolver is the lab's: names the file that is mounted over the system's."""
PACKETS_PER_SECOND = 20_000
PREFIX_ADDRESSES = 4096


def why_not() -> str | None:
    """Say why the benchmarks cannot run here; None when they can."""
    from deployments.demo import lab

    if os.geteuid() != 0:
        return "they make network namespaces and send raw packets: run them as root (sudo make bench)"
    missing = [program for program in ("nmap", "unshare", "mount") if shutil.which(program) is None]
    return f"they need {', '.join(missing)}" if missing else lab.why_not()


def with_own_resolver(arguments: list[str]) -> int:
    """Run the benchmarks again in a mount namespace where /etc/resolv.conf is theirs: no question leaves this machine."""
    with tempfile.NamedTemporaryFile("w", prefix="sbx-resolv-", suffix=".conf") as file:
        # Nobody answers there, at once; `lab` writes its own server here.
        file.write("nameserver 127.0.0.1\n")
        file.flush()
        script = f'mount --bind "${INSIDE}" "$(readlink -f {RESOLVERS})" && exec "$@"'
        command = [sys.executable, "-m", "benchmarks", *arguments]
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command],
            check=False,
            env={**os.environ, INSIDE: file.name},
        )
        return done.returncode


@contextlib.contextmanager
def stack() -> Iterator[Path]:
    """Start a stack in a temporary home and point this process at it."""
    from deployments.local import down, environment, up

    for name in list(os.environ):
        if name.startswith(("PREFECT_", "SIGNALBOX_")) and name != INSIDE:
            del os.environ[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["SIGNALBOX_PORT"] = str(probe.getsockname()[1])
    # A socket's path has 108 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "h"
        try:
            up(home)
            os.environ.update(environment(home))
            os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"
            yield home
        finally:
            down(home)


async def allow(prefix: str) -> None:
    """Give the site a laboratory's policy: this prefix, 20,000 packets a second, no cap for one host."""
    from blocks.policy import ProbePolicy
    from tasks.core.rate import ensure_budget

    policy = ProbePolicy(
        allow=[prefix, "127.0.0.0/8"],
        packets_per_second=PACKETS_PER_SECOND,
        host_packets_per_second=0,
        max_addresses=2 * PREFIX_ADDRESSES,
    )
    await policy.save("default", overwrite=True)
    await ensure_budget("default", PACKETS_PER_SECOND)


@contextlib.asynccontextmanager
async def office() -> AsyncIterator[Lab]:
    """Make the lab: a /24 with 60 live hosts, 27 of them with services, and a /20 that answers on every address.

    The 60: us, the router, 27 hosts with services, the name server, two more, and 28 addresses of which one of those answers.
    """
    from deployments.demo.lab import AXIS, CISCO, DELL, SYNOLOGY, HostSpec, Lab
    from deployments.demo.servers import dns, http, smtp, ssh

    async with Lab(subnets=("office",)) as lab:
        kinds = [
            (DELL, (ssh(), http(title="Intranet"))),
            (AXIS, (http(title="Camera", server="Apache/2.4.57"),)),
            (SYNOLOGY, (ssh(), http(), smtp())),
        ]
        specs = [
            HostSpec(
                f"host-{number}", number, f"{kinds[number % 3][0]}:00:00:{number:02x}", services=kinds[number % 3][1]
            )
            for number in range(10, 37)
        ]
        zone = {f"host-{number}.example": f"10.{lab.slot}.1.{number}" for number in range(10, 37)}
        specs.append(HostSpec("names", 53, f"{CISCO}:00:00:53", services=(dns(zone),)))
        specs.append(HostSpec("crowd", 65, f"{CISCO}:00:00:41"))
        specs.append(HostSpec("twenty", 254, f"{CISCO}:00:00:fe"))
        await lab.add_all(specs)
        # 28 addresses: .96 to .123.
        for prefix in (f"10.{lab.slot}.1.96/28", f"10.{lab.slot}.1.112/29", f"10.{lab.slot}.1.120/30"):
            await lab.answer_prefix("crowd", prefix)
        await lab.answer_prefix("twenty", lab.prefix(20))
        if file := os.environ.get(INSIDE):
            await asyncio.to_thread(Path(file).write_text, f"nameserver {lab.hosts['names'].address}\n")
        yield lab
