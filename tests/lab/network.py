"""The lab of the tests: the demo's network in namespaces, with real mail servers and a packet counter.

pytestmark = [pytest.mark.lab, needs_lab]

async def test_a_sweep_finds_the_web_server() -> None:
    async with Lab() as lab:
        await lab.add("web", 10, f"{DELL}:00:00:10", services=[http(title="Intranet")])
        async with lab.counting() as sent:
            ...
        assert sent.worst(seconds=5) <= 500
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

from deployments.demo.lab import (
    AXIS,
    CISCO,
    DELL,
    HEWLETT_PACKARD,
    SYNOLOGY,
    UBIQUITI,
    Host,
    HostSpec,
    Subnet,
    why_not,
)
from deployments.demo.lab import Lab as DemoLab
from deployments.demo.servers import Served, banner, dns, http, in_namespace, mute, smtp, ssh
from tasks.core.process import find_program, run_command

__all__ = [
    "AXIS",
    "CISCO",
    "DELL",
    "HEWLETT_PACKARD",
    "SYNOLOGY",
    "UBIQUITI",
    "Host",
    "HostSpec",
    "Lab",
    "Packets",
    "Served",
    "Subnet",
    "banner",
    "counting",
    "dns",
    "http",
    "in_namespace",
    "mail_server",
    "mute",
    "needs_lab",
    "processes_of",
    "smtp",
    "ssh",
]

_REASON = why_not()
needs_lab = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")
"""Skips a test where no lab can be made, and says why."""

CAPTURE_SECONDS = 600.0
FLUSH_SECONDS = 0.3


class Lab(DemoLab):
    """The demo's lab, with a counter of the packets we send into it."""

    def counting(self, expression: str = "") -> contextlib.AbstractAsyncContextManager[Packets]:
        """Count packets this process's machine originates into the lab; `expression` narrows them (pcap-filter syntax)."""
        # Our kernel's own IPv6 housekeeping (multicast reports, router solicitations, duplicate address detection) is no tool's.
        chatter = "ip6[6] == 0 or (ip6[6] == 58 and ip6[40] == 133) or (ip6[8:4] == 0 and ip6[20:4] == 0)"
        ours = f"ether src {self.mac} and not ({chatter})"
        return counting(self.interface, f"{ours} and ({expression})" if expression else ours)


@dataclass
class Packets:
    """When each counted packet was seen, seconds since the epoch, by the kernel's clock."""

    times: list[float] = field(default_factory=list)
    to: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return len(self.times)

    def worst(self, seconds: float = 5.0) -> int:
        """The most packets in any window of that length."""
        most = first = 0
        for last, time in enumerate(self.times):
            while self.times[first] <= time - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


@contextlib.asynccontextmanager
async def counting(interface: str, expression: str = "") -> AsyncIterator[Packets]:
    """Count packets on an interface with tcpdump while the block runs; the numbers are there when it ends."""
    packets = Packets()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "packets.pcap")
        # -U and --immediate-mode: on disk when seen. -Z root: the account it would drop to may not write here.
        argv = [
            find_program("tcpdump"),
            "-i",
            interface,
            "-n",
            "-p",
            "-U",
            "--immediate-mode",
            "-B",
            "16384",
            "-s",
            "64",
        ]
        argv += ["-Z", "root", "-w", str(file), *([expression] if expression else [])]
        tcpdump = asyncio.create_task(run_command(argv, timeout=CAPTURE_SECONDS))
        try:
            async with asyncio.timeout(10):
                while not await asyncio.to_thread(lambda: file.exists() and file.stat().st_size):
                    if tcpdump.done():
                        tcpdump.result()
                    await asyncio.sleep(0.02)
            yield packets
            await asyncio.sleep(FLUSH_SECONDS)
        finally:
            tcpdump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tcpdump
        for time, frame in _read_pcap(await asyncio.to_thread(file.read_bytes)):
            packets.times.append(time)
            if frame[12:14] == b"\x08\x00":
                packets.to[".".join(str(byte) for byte in frame[30:34])] += 1
            elif frame[12:14] == b"\x08\x06":
                packets.to["arp"] += 1
    packets.times.sort()


def _read_pcap(data: bytes) -> Iterator[tuple[float, bytes]]:
    order = "<" if data[:4] == b"\xd4\xc3\xb2\xa1" else ">"
    offset = 24
    while offset + 16 <= len(data):
        seconds, micros, kept, _ = struct.unpack_from(f"{order}IIII", data, offset)
        yield seconds + micros / 1e6, data[offset + 16 : offset + 16 + kept]
        offset += 16 + kept


def mail_server(port: int = 25, *, hostname: str = "mail.example", handler: Callable[[], object] = Sink) -> Served:
    """A real mail server (aiosmtpd) that takes mail into `handler`."""
    return Served("smtp", port, lambda: SMTP(handler(), hostname=hostname, ident="ESMTP Postfix"))


def processes_of(program: str) -> list[int]:
    """Process ids of a program's processes that descend from this one."""
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end while it is looked at.
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and Path((entry / "cmdline").read_text().split("\0")[0]).name == program:
                ancestor = int(entry.name)
                while ancestor > 1 and ancestor != os.getpid():
                    ancestor = int(Path(f"/proc/{ancestor}/stat").read_text().rpartition(")")[2].split()[1])
                if ancestor == os.getpid():
                    found.append(int(entry.name))
    return found
