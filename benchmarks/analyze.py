"""The analyzers beside the plain tshark commands that yield the same, on one capture of a million mixed packets.

    python benchmarks/analyze.py [--packets 1000000] [tcp udp ...]

Each runs in a process of its own with the memory that a tool gives it (512 MB of address space); seconds are from its start to its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.figures import Figure, as_text

PACKETS = 1_000_000
GOAL = 3.0
MEMORY_MEGABYTES = 512
FLAT = 1.3
"""Most that the memory may grow by while packets, hosts and conversations grow tenfold."""
FLOODED = ("tcp", "udp", "dpkt")
"""Those that keep a table of all conversations: measured on a million conversations of one packet as well."""


class Contest(NamedTuple):
    """What runs against what."""

    module: str
    function: str
    tshark: tuple[str, ...]


def _fields(protocol: str, *names: str) -> tuple[str, ...]:
    return (
        "-Y",
        protocol,
        "-T",
        "fields",
        *(word for name in ("frame.number", "ip.src", "ip.dst", *names) for word in ("-e", name)),
    )


_ANALYZE = "tasks.network.analyze."
CONTESTS = {
    "tcp": Contest(_ANALYZE + "_tcp", "dissect", ("-q", "-z", "conv,tcp")),
    "udp": Contest(_ANALYZE + "_udp", "dissect", ("-q", "-z", "conv,udp")),
    "dpkt": Contest(
        "tasks.network.capture._dpkt_summary", "summarize", ("-q", "-z", "conv,ip", "-z", "conv,tcp", "-z", "conv,udp")
    ),
    "dns": Contest(
        _ANALYZE + "_dns", "dissect", _fields("dns", "dns.qry.name", "dns.qry.type", "dns.flags.rcode", "dns.time")
    ),
    "http": Contest(
        _ANALYZE + "_http",
        "dissect",
        _fields("http", "http.host", "http.request.method", "http.response.code", "http.time"),
    ),
    "tls": Contest(
        _ANALYZE + "_tls",
        "dissect",
        _fields("tls", "tls.handshake.extensions_server_name", "tls.handshake.ciphersuite"),
    ),
    "ssh": Contest(_ANALYZE + "_ssh", "dissect", _fields("ssh", "ssh.protocol", "ssh.kex_algorithms")),
    "ftp": Contest(_ANALYZE + "_ftp", "dissect", _fields("ftp", "ftp.request.command", "ftp.response.code")),
    "smtp": Contest(_ANALYZE + "_smtp", "dissect", _fields("smtp", "smtp.req.command", "smtp.response.code")),
}

_CHILD = """
import importlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]) << 20,) * 2)
sys.path.insert(0, sys.argv[5])
from tasks.network.analyze._selection import ALL
getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(sys.argv[3], ALL, 20)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


class Run(NamedTuple):
    """What a process took."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def run(argv: Sequence[str]) -> Run:
    """Run a program to its end; its output goes to a file, as a report's would.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{argv[0]}: {errors.read()[-2000:].decode(errors='replace')}")
        output.seek(0)
        first = output.read(20).strip()
    # A process's own figure, where it prints one: what the kernel says at its end includes this process at the fork.
    peak = int(first) if argv[0] == sys.executable else usage.ru_maxrss
    return Run(took, usage.ru_utime + usage.ru_stime, peak / 1024)


def ours(contest: Contest, capture: Path) -> Run:
    """Run an analyzer as its tool does, in a child with bounded memory."""
    root = str(Path(__file__).parent.parent)
    return run(
        [sys.executable, "-c", _CHILD, contest.module, contest.function, str(capture), str(MEMORY_MEGABYTES), root]
    )


def against_tshark(_home: object = None, names: Sequence[str] = (), packets: int = PACKETS) -> list[Figure]:
    """Every analyzer that exists against tshark, and its memory on a tenth of the packets."""
    from benchmarks.traffic import write, write_flood

    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="sbx-") as folder:
        large, small = Path(folder, "large.pcap"), Path(folder, "small.pcap")
        count = write(large, packets)
        write(small, packets // 10)
        flood = Path(folder, "flood.pcap")
        write_flood(flood, packets)
        for name, contest in CONTESTS.items():
            if (names and name not in names) or importlib.util.find_spec(contest.module) is None:
                continue
            little, mine = ours(contest, small), ours(contest, large)
            bare = run(["tshark", "-n", "-r", str(large), *contest.tshark])
            # CPU time as well: of two programs on a busy machine the longer one is disturbed more.
            ratio, cpu = bare.seconds / mine.seconds, bare.cpu_seconds / mine.cpu_seconds
            figures.append(
                Figure(
                    f"{name}: {count:,} packets",
                    f"{mine.seconds:.1f} s ({mine.cpu_seconds:.1f} s CPU)",
                    f"{bare.seconds:.1f} s ({bare.cpu_seconds:.1f} s CPU), {bare.megabytes:.0f} MB",
                    f"1/{ratio:.1f} (CPU 1/{cpu:.1f})",
                    f"at least {GOAL:g} times faster",
                    min(ratio, cpu) >= GOAL,
                )
            )
            figures.append(
                Figure(
                    f"{name}: memory",
                    f"{mine.megabytes:.0f} MB",
                    f"{little.megabytes:.0f} MB for a tenth of the packets",
                    f"{mine.megabytes / little.megabytes:.2f}",
                    f"flat: at most {FLAT:g} times, and {MEMORY_MEGABYTES} MB",
                    mine.megabytes <= min(FLAT * little.megabytes, MEMORY_MEGABYTES),
                )
            )
            if name in FLOODED:
                peak = ours(contest, flood).megabytes
                figures.append(
                    Figure(
                        f"{name}: memory in a flood", f"{peak:.0f} MB", "a million invented addresses", "",
                        f"at most {MEMORY_MEGABYTES} MB", peak <= MEMORY_MEGABYTES,
                    )
                )  # fmt: skip
            print(as_text(figures[-3:]), file=sys.stderr, flush=True)
    return figures


def main() -> int:
    """Run the chosen contests; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CONTESTS, []], help="which; default: all")
    parser.add_argument("--packets", type=int, default=PACKETS)
    arguments = parser.parse_args()
    figures = against_tshark(names=arguments.names, packets=arguments.packets)
    print(as_text(figures))
    return 1 if any(figure.good is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
