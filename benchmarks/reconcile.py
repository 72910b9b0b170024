"""Reconcile 10,000 hosts, then the same again with 1 % changed: seconds, rows a second, and the memory of the process.

    python benchmarks/reconcile.py [--hosts 10000] [--url postgresql://...]

Without `--url` it starts an embedded PostgreSQL of its own in a temporary folder. Each scan runs in a process of its own, so that
the peak is of that scan alone; the seconds are those of `reconcile`, the making of the observations not included. The goal: the
second scan takes at most 5 s and 300 MB on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

GOAL_SECONDS = 5.0
GOAL_MEGABYTES = 300.0
PORTS = "1-1000,8080,9000"


def observations(count: int, turn: int, now: datetime) -> list[object]:
    """Make what a scan sees: two observations a host. In the second turn 1 % moved, opened a port or have new firmware."""
    from tasks.asset._observation import ObservedHost, ObservedService

    seen: list[object] = []
    base = int(ipaddress.ip_address("10.0.0.0"))
    for number in range(count):
        changed = turn > 1 and number % 100 == 0
        address = str(ipaddress.ip_address(base + 1 + number + (count if changed and number % 300 == 0 else 0)))
        mac = f"ac:cc:8e:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        services = tuple(ObservedService("tcp", port, "http", "Apache httpd", "2.4") for port in (80, 443))
        if changed and number % 300 == 100:
            services += (ObservedService("tcp", 22, "ssh"),)
        seen.append(ObservedHost(address=address, method="arp", seen_at=now, mac=mac, mac_first_hand=True))
        seen.append(
            ObservedHost(
                address=address, method="nmap", seen_at=now, mac=mac, mac_first_hand=True, services=services, scanned_tcp=PORTS,
                hostnames=(f"host-{number}.example.com",), os="Linux 6.1" if not (changed and number % 300 == 200) else "Linux 6.12",
            )
        )  # fmt: skip
    return seen


async def one_turn(url: str, count: int, turn: int) -> dict[str, float | int | dict[str, int]]:
    """Run one scan's reconcile, the way `discover` does it: the question what is absent first."""
    from tasks.asset._observation import ObservedHost, ScanCoverage
    from tasks.asset._reconcile import missing_candidates, reconcile
    from tasks.core.db.engine import Database

    now = datetime.now(UTC) + timedelta(hours=turn)
    seen = [host for host in observations(count, turn, now) if isinstance(host, ObservedHost)]
    network = next(
        net for bits in range(24, 8, -1) if (net := ipaddress.ip_network(f"10.0.0.0/{bits}")).num_addresses > 2 * count
    )
    coverage = ScanCoverage(planned=(str(network),), finished=(str(network),), methods=("arp", "tcp"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    database = Database(url)
    started = time.perf_counter()
    await missing_candidates("default", coverage, seen, now=now, db=database)
    asked = time.perf_counter()
    changes = await reconcile("default", seen, coverage, run_id=f"turn-{turn}", now=now, db=database, timeout=300)
    ended = time.perf_counter()
    database.close()
    return {
        "absent_seconds": round(asked - started, 2),
        "reconcile_seconds": round(ended - asked, 2),
        "observations_per_second": round(len(seen) / (ended - asked)),
        "megabytes_before": round(before),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "events": changes.counts,
    }


def main() -> int:
    """Run the turns and compare the second one with the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--url", help="a migrated, empty database to use")
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        print(json.dumps(asyncio.run(one_turn(arguments.url, arguments.hosts, arguments.turn))))
        return 0
    if arguments.url:
        return compare(arguments.url, arguments.hosts)
    from deployments.local import EmbeddedPostgres
    from tasks.core.db.migrate import migrate_sync

    with tempfile.TemporaryDirectory(prefix="sbx-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            url = server.url("owner").replace("postgresql://", "postgresql+psycopg2://")
            migrate_sync(url)
            return compare(url, arguments.hosts)
        finally:
            server.stop()


def compare(url: str, count: int) -> int:
    """Run each turn in a process of its own; exit status 1 when the second misses the goal."""
    figures = {}
    for turn, title in ((1, "everything new"), (2, "1 % changed")):
        done = subprocess.run(
            [sys.executable, __file__, "--url", url, "--hosts", str(count), "--turn", str(turn)],
            check=True,
            capture_output=True,
            text=True,
        )
        figures[turn] = json.loads(done.stdout)
        print(f"{count} hosts, {title}: {json.dumps(figures[turn])}")
    again = figures[2]
    good = again["reconcile_seconds"] <= GOAL_SECONDS and again["peak_megabytes"] <= GOAL_MEGABYTES
    print(
        f"second scan: {again['reconcile_seconds']} s of {GOAL_SECONDS:g} s, {again['peak_megabytes']} MB of {GOAL_MEGABYTES:g} MB,"
        f" {again['reconcile_seconds'] / figures[1]['reconcile_seconds']:.2f} times the first: {'good' if good else 'TOO MUCH'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
