"""`discover` on networks as they are: hundreds of hosts, silent ones, walls, exclusions, scans that die, cables that are out.

A whole signalbox scans a lab in network namespaces, each test under a site of its own. The flow runs as `signalbox discover` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lab.announcers import announcing_mdns, announcing_unasked, axis_records, service_records
from lab.network import AXIS, CISCO, DELL, HostSpec, Lab, http, needs_lab, ssh
from lab.stack import ROOT, Stack

from deployments.demo.axis_camera import Device, http_protocol
from deployments.demo.servers import Served
from tasks.core.process import find_program, run_command

pytestmark = [
    pytest.mark.lab,
    needs_lab,
    pytest.mark.slow,
    pytest.mark.xdist_group("lab"),
    pytest.mark.timeout(600),
]

DISCOVER_SECONDS = 240.0
_sites = count(1)

MAKE_SITE = """
import asyncio, json, sys
from blocks.policy import ProbePolicy
from tasks.core.rate import ensure_budget
name, fields = sys.argv[1], json.loads(sys.argv[2])
async def main():
    policy = ProbePolicy(**fields)
    await policy.save(name, overwrite=True)
    await ensure_budget(name, policy.packets_per_second)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def lab_and_site(stack: Stack, *subnets: str, **fields: Any) -> AsyncIterator[tuple[Lab, str]]:
    """A lab, and a site whose policy allows all of it at a laboratory's rate; `fields` change the policy."""
    async with Lab(subnets=subnets or ("office", "cameras")) as lab:
        site = f"lab-{os.getpid()}-{next(_sites)}"
        allow = [f"10.{lab.slot}.0.0/16", *(str(subnet.network6) for subnet in lab.subnets.values())]
        excluded = [{"target": one.format(slot=lab.slot), "reason": "ask first"} for one in fields.pop("exclude", [])]
        policy = {"allow": allow, "packets_per_second": 20_000, "host_packets_per_second": 0, "exclude": excluded}
        await asyncio.to_thread(run_code, stack, MAKE_SITE, site, json.dumps({**policy, **fields}))
        yield lab, site


def run_code(stack: Stack, code: str, *arguments: str) -> None:
    done = subprocess.run(
        stack.shielded([sys.executable, "-c", code, *arguments]),
        env={**stack.env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def discover(stack: Stack, site: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Run `signalbox discover`; return its one JSON document."""
    found: dict[str, Any] = await asyncio.to_thread(
        stack.cli_json, "discover", *arguments, "--site", site, timeout=DISCOVER_SECONDS, status=status
    )
    return found


def addresses(result: dict[str, Any]) -> set[str]:
    return {host["address"] for host in result["hosts"]}


def descendants_named(name: str) -> Iterator[tuple[int, list[str]]]:
    """Living programs of that name that descend from this process, with their arguments."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0") if entry.name.isdigit() else [""]
            if Path(words[0]).name != name:
                continue
            ancestor = int(entry.name)
            while ancestor > 1 and ancestor != os.getpid():
                ancestor = int(Path(f"/proc/{ancestor}/stat").read_text().rpartition(")")[2].split()[1])
            if ancestor == os.getpid():
                yield int(entry.name), words
        except (OSError, ValueError):
            continue


@contextlib.contextmanager
def killing(which: Callable[[list[str]], bool]) -> Iterator[list[int]]:
    """Kill -9 every nmap that scans and whose arguments are such; gives the process ids of those killed so far."""
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        while not over.wait(0.02):
            for pid, words in descendants_named("nmap"):
                if "-iL" in words and which(words) and pid not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    hunter = threading.Thread(target=hunt, name="nmap-killer", daemon=True)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()


@contextlib.contextmanager
def resolver(stack: Stack, address: str) -> Iterator[None]:
    """Give the stack's commands another resolver while the block runs."""
    file = stack.home.parent / "resolv.conf"
    before = file.read_text()
    file.write_text(f"nameserver {address}\n")
    try:
        yield
    finally:
        file.write_text(before)


# --- what is found -------------------------------------------------------------------------------------------------------


async def test_hundreds_of_hosts_in_several_networks_are_found_and_the_excluded_never_hear_from_us(
    stack: Stack,
) -> None:
    excluded = ["10.{slot}.2.40", "10.{slot}.128.64/28"]
    async with lab_and_site(stack, "office", "cameras", "plant", exclude=excluded) as (lab, site):
        await lab.add_all(
            [
                HostSpec("web", 10, f"{DELL}:00:00:10", services=(http(title="Intranet"), ssh())),
                HostSpec("silent", 11, f"{DELL}:00:00:11", services=(http(),)),
                HostSpec("camera", 12, f"{AXIS}:00:00:12", "cameras", services=(http(),)),
                HostSpec("walled", 13, f"{AXIS}:00:00:13", "cameras", services=(http(), ssh())),
                HostSpec("dropping", 14, f"{AXIS}:00:00:14", "cameras", services=(http(8080),)),
                HostSpec("monitor", 40, f"{CISCO}:00:00:40", "cameras", services=(http(),)),
                HostSpec("farm", 20, f"{CISCO}:00:00:20", "plant", services=(http(),)),
            ]
        )
        await lab.silence("silent")
        await lab.firewall("walled", allow_tcp=[22])
        await lab.firewall("dropping", allow_tcp=[8080])
        farm = lab.prefix(23)
        await lab.answer_prefix("farm", farm)
        stack.names[f"web.lab{lab.slot}.example"] = lab.hosts["web"].address

        office, cameras = lab.first.cidr, lab.subnet("cameras").cidr
        left_alone = [text.format(slot=lab.slot) for text in excluded]
        nets = " or ".join(f"net {text}" for text in left_alone)
        asked = [office, cameras, farm, office, lab.hosts["web"].address]
        async with lab.counting(nets) as to_excluded, lab.counting() as sent:
            result = await discover(stack, site, *asked)

        assert to_excluded.total == 0
        assert sent.total > 3 * 512
        found = addresses(result)
        by_name = {name: host.address for name, host in lab.hosts.items()}
        assert {by_name["web"], by_name["camera"], by_name["walled"], lab.address, lab.first.gateway} <= found
        assert not {by_name["silent"], by_name["dropping"], by_name["monitor"]} & found
        in_farm = {address for address in found if address.startswith((f"10.{lab.slot}.128.", f"10.{lab.slot}.129."))}
        assert len(in_farm) == 512 - 16

        assert (result["outcome"], result["failed_shards"]) == ("Completed", [])
        assert (result["planned"], result["excluded"], result["attempted"], result["unknown"]) == (
            256 + 255 + 512 - 16,
            17,
            256 + 255 + 512 - 16,
            0,
        )
        assert result["answered"] == len(found) == 496 + 6
        assert result["scanned"] == [office, cameras, farm]
        notes = "\n".join(result["notes"])
        assert f"{office} is named more than once" in notes
        assert f"{by_name['web']} is inside {office}" in notes
        assert all(f"{text}" in notes for text in left_alone)

        rows = {host["address"]: host for host in result["hosts"]}
        assert "nginx 1.24.0" in rows[by_name["web"]]["services"] and "OpenSSH" in rows[by_name["web"]]["services"]
        assert rows[by_name["web"]]["name"] == f"web.lab{lab.slot}.example"
        assert rows[by_name["walled"]]["services"].startswith("22/tcp OpenSSH")
        assert "80/tcp" not in rows[by_name["walled"]]["services"]
        known = stack.sql(
            "SELECT count(*) FROM asset JOIN site ON site.id = asset.site_id WHERE site.name = %s", [site]
        )
        assert known[0][0] >= 4  # a prefix that one MAC answers for is no 496 assets
        run = stack.run(result["run_id"])
        assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Completed")
        assert {"discovery", "hosts", "progress"} <= set(stack.artifacts(result["run_id"]))


async def test_without_the_privilege_for_raw_packets_it_connects_and_says_so(stack: Stack) -> None:
    async with lab_and_site(stack, "office") as (lab, site):
        web = await lab.add("web", 10, f"{DELL}:00:00:10", services=[http(), ssh()])
        argv = ["discover", f"10.{lab.slot}.1.8/29", "--site", site, "--json"]
        inside = [sys.executable, "-c", "from deployments.cli import main; raise SystemExit(main())", *argv]
        done = await asyncio.to_thread(
            subprocess.run,
            stack.shielded([find_program("setpriv"), "--bounding-set", "-net_raw", *inside]),
            env={**stack.env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=DISCOVER_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert addresses(result) == {web.address}
        assert any("CAP_NET_RAW" in note for note in result["notes"])
        assert "80/tcp nginx" in result["hosts"][0]["services"]


async def test_what_announces_itself_becomes_facts_and_who_hides_behind_a_wall_is_named(stack: Stack) -> None:
    async with lab_and_site(stack) as (lab, site):
        device = Device("mid", serial="E8272500000A")
        web = Served("http", 80, http_protocol(device))
        camera = await lab.add("camera", 10, "e8:27:25:00:00:0a", services=[web])
        hidden = await lab.add("hidden", 11, f"{DELL}:00:00:11")
        await lab.silence(hidden)
        records = service_records("_ipp._tcp", "Hidden printer", "hidden", 631, hidden.address)
        said = axis_records("AXIS P3245", device.serial, camera.address)
        with announcing_mdns(camera.namespace, said), announcing_unasked(hidden.namespace, records):
            result = await discover(stack, site, lab.first.cidr, "--announcements")
        rows = stack.sql(
            "SELECT a.serial, a.metadata->>'mdns_services' FROM asset a JOIN address ON address.asset_id = a.id "
            "JOIN site ON site.id = a.site_id WHERE site.name = %s AND address.ip = %s",
            [site, camera.address],
        )
        assert rows == [(device.serial, "_axis-video._tcp")]
        assert f"{hidden.address} did not answer, and announces itself as Hidden printer." in result["notes"]
        assert hidden.address not in addresses(result)


# --- what goes wrong -----------------------------------------------------------------------------------------------------


async def test_a_shard_whose_scans_are_killed_costs_itself_and_is_said_first(stack: Stack) -> None:
    async with lab_and_site(stack, "office") as (lab, site):
        web = await lab.add("web", 10, f"{DELL}:00:00:10", services=[http()], ipv6=True)
        six = f"{lab.first.network6.network_address}/120"
        with killing(lambda words: "-6" in words) as killed:
            result = await discover(stack, site, lab.first.cidr, six, status=1)
        assert len(killed) >= 2  # tried again, and killed again
        assert result["outcome"] == "Partial"
        assert [shard.split(": ")[0] for shard in result["failed_shards"]] == [six]
        assert (result["planned"], result["attempted"], result["unknown"]) == (512, 256, 256)
        assert {web.address, lab.address, lab.first.gateway} <= addresses(result)
        run = stack.run(result["run_id"])
        assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Partial")
        assert run["state"]["message"].startswith("Only part of the scope was scanned")
        summary = stack.artifacts(result["run_id"])["discovery"]["data"]
        heading, first = [line for line in summary.splitlines() if line.strip()][:2]
        assert heading.startswith("## ") and "Only part of the scope was scanned" in first

        # It is repaired: what the broken run knows nothing of has not gone missing, and nothing is told twice.
        result = await discover(stack, site, lab.first.cidr, six)
        assert (result["outcome"], result["attempted"], result["unknown"]) == ("Completed", 512, 0)
        assert web.address6 in addresses(result)
        assert not [event for event in result["events"] if event["what"] in {"missing", "gone"}]


async def test_when_every_shard_fails_the_run_has_failed_and_nothing_is_missing(stack: Stack) -> None:
    async with lab_and_site(stack, "office") as (lab, site):
        await lab.add("web", 10, f"{DELL}:00:00:10", services=[http()])
        network = f"10.{lab.slot}.1.0/28"
        assert len((await discover(stack, site, network))["hosts"]) == 2
        with killing(lambda words: True):
            result = await discover(stack, site, network, status=1)
        assert (result["outcome"], result["answered"], result["attempted"], result["unknown"]) == ("Failed", 0, 0, 16)
        assert result["counts"] == {}
        run = stack.run(result["run_id"])
        assert (run["state_type"], run["state_name"]) == ("FAILED", "Failed")


async def test_nothing_answers_means_one_thing_with_the_link_up_and_another_with_it_down(stack: Stack) -> None:
    async with lab_and_site(stack, "office") as (lab, site):
        ip = find_program("ip")
        host = await lab.add("web", 249, f"{DELL}:00:00:20", services=[http()])
        # We are in it: our own answer must not pass for the network's.
        network = f"10.{lab.slot}.1.248/29"
        assert addresses(await discover(stack, site, network)) == {host.address, lab.address}
        # The lab's router becomes a default gateway of this machine that no packet takes: the worst there is.
        route = f"route add default via {lab.first.gateway} dev {lab.interface} metric 4000000000"
        await run_command([ip, *route.split()], timeout=10)

        await lab.unplug(host)
        result = await discover(stack, site, network)
        run = stack.run(result["run_id"])
        assert (result["outcome"], addresses(result), result["attempted"]) == ("NoneAnswered", {lab.address}, 8)
        assert (run["state_type"], run["state_name"]) == ("COMPLETED", "NoneAnswered")

        switch = f"{host.namespace.removesuffix('web')}switch"
        await run_command([ip, "-n", switch, "link", "set", "us", "down"], timeout=10)
        result = await discover(stack, site, network, status=1)
        run = stack.run(result["run_id"])
        assert (result["outcome"], addresses(result)) == ("Suspect", {lab.address})
        assert (run["state_type"], run["state_name"]) == ("FAILED", "Suspect")

        missing = (
            "SELECT count(*) FROM asset_event JOIN site ON site.id = site_id WHERE site.name = %s AND kind = 'missing'"
        )
        assert stack.sql(missing, [site]) == [(0,)]


async def test_a_resolver_that_says_nothing_costs_seconds_and_the_names_only(stack: Stack) -> None:
    async with lab_and_site(stack, "office") as (lab, site):
        await lab.add("crowd", 10, f"{CISCO}:00:00:10")
        await lab.answer_prefix("crowd", f"10.{lab.slot}.1.64/26")
        await lab.add("resolver", 53, f"{DELL}:00:00:53")
        await lab.firewall("resolver")
        with resolver(stack, lab.hosts["resolver"].address):
            result = await discover(stack, site, f"10.{lab.slot}.1.64/26", "--profile", "quick")
        assert (result["outcome"], result["answered"]) == ("Completed", 64)
        asked = "SELECT duration_s, jsonb_array_length(params->'names') FROM tool_run WHERE tool = 'dns_lookup' AND flow_run_id = %s"
        [(seconds, names)] = stack.sql(asked, [result["run_id"]])
        assert names < 64
        assert seconds < 5


# --- one at a time -------------------------------------------------------------------------------------------------------


async def test_overlapping_networks_are_scanned_one_after_the_other_or_skipped_as_asked(stack: Stack) -> None:
    async with lab_and_site(stack, "office", "empty", packets_per_second=100) as (lab, site):
        network, part = lab.subnet("empty").cidr, f"10.{lab.slot}.2.0/28"
        first = asyncio.create_task(discover(stack, site, network, "--profile", "quick"))
        leased = "SELECT count(*) FROM scan_lease JOIN site ON site.id = site_id WHERE site.name = %s"
        await asyncio.to_thread(stack.eventually, lambda: stack.sql(leased, [site]) == [(1,)])

        waiting = asyncio.create_task(discover(stack, site, part, "--profile", "quick"))
        began = time.monotonic()
        skipped = await asyncio.to_thread(
            stack.cli, "discover", part, "--site", site, "--profile", "quick", "--skip-overlap"
        )
        assert not first.done(), f"the first run is over after {time.monotonic() - began} s: no overlap was tried"
        assert skipped.returncode == 1
        assert "is being scanned by run" in skipped.stdout + skipped.stderr

        one, two = await first, await waiting
        assert (one["outcome"], two["outcome"]) == ("Completed", "Completed")
        times = "SELECT min(at), max(at) FROM tool_run_event WHERE site = %s AND tool = 'nmap' AND flow_run_id = %s"
        [(_, ended)] = stack.sql(times, [site, one["run_id"]])
        [(started, _)] = stack.sql(times, [site, two["run_id"]])
        assert started >= ended
        filtered = stack.api(
            "POST", "/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["SkippedOverlap"]}}}}
        )
        assert [run["state_type"] for run in filtered if run["parameters"]["site"] == site] == ["CANCELLED"]
