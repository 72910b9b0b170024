"""masscan against real hosts in the lab: what it finds, what it never asks, how fast it goes, how it ends and how it fails."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from deployments.cli import policy as policy_command
from tasks.core import process
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, Refused, ToolTimeout, Unsupported
from tasks.core.process import run_command
from tasks.network.scan import masscan as module
from tasks.network.scan._masscan_program import (
    Listener,
    OpenPort,
    Outcome,
    _Done,
    check_configuration,
    merge,
    read_json,
)
from tasks.network.scan._masscan_ways import Way, Ways, choose_source_ports, find_ways
from tasks.network.scan.masscan import MARGIN_SECONDS, Masscan, MasscanResult, masscan
from tests.lab.network import AXIS, CISCO, DELL, SYNOLOGY, HostSpec, Lab, Served, http, needs_lab, processes_of, ssh

Perform = Callable[..., Awaitable[Any]]


def entry(address: str, port: int, protocol: str = "tcp", reason: str = "syn-ack", second: int = 4) -> str:
    """A line of masscan 1.3.2's file, spaces and all."""
    ports = f'[ {{"port": {port}, "proto": "{protocol}", "status": "open", "reason": "{reason}", "ttl": 63}} ]'
    return f'{{   "ip": "{address}",   "timestamp": "179538285{second}", "ports": {ports} }}\n'


RECORDED = (
    "[\n"
    + ",\n".join([entry("10.64.2.11", 22), entry("10.64.2.9", 80), entry("10.64.2.9", 53, "udp", "none", 5)])
    + "]\n"
).encode()
SAID = (
    b"Starting masscan 1.3.2 (http://bit.ly/14GZzcT) at 2026-11-22 21:47:15 GMT\nInitiating SYN Stealth Scan\n"
    b"Scanning 1 hosts [2 ports/host]\nDiscovered open port 80/tcp on 10.64.2.9                                       \n"
    b"rate:  0.00-kpps, 50.00% done,  33:00:10 remaining, found=1       \r"
    b"Discovered open port 22/tcp on 10.64.2.9                                       \n"
    b"rate:  0.00-kpps, 100.00% done, waiting 0-secs, found=2       \r"
)


class _Echo(asyncio.DatagramProtocol):
    """Answers every datagram, an empty one too."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(data or b"?", address)


ECHO = Served("echo", 7777, _Echo, "udp")


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    more = {"packets_per_second": 500, "host_packets_per_second": 0, "masscan": True, **more}
    return ProbePolicy(allow=[f"10.{lab.slot}.0.0/16", str(lab.first.network6), "127.0.0.0/8"], **more)


# --- recorded ------------------------------------------------------------------------------------------------------------


def test_its_file_gives_every_open_port_with_its_ttl() -> None:
    assert read_json(RECORDED) == [
        OpenPort("10.64.2.11", "tcp", 22, 63),
        OpenPort("10.64.2.9", "tcp", 80, 63),
        OpenPort("10.64.2.9", "udp", 53, 63),
    ]


@pytest.mark.parametrize("end", range(0, len(RECORDED), 11))
def test_a_file_cut_off_anywhere_gives_the_entries_that_were_whole(end: int) -> None:
    assert len(read_json(RECORDED[:end])) == RECORDED[:end].count(b"] }")


@pytest.mark.parametrize("junk", [b"", b"[\n]\n", b"\xff\xfe\n", b"{}\n[]\n1\nnull\n", b'{"ip": 1, "ports": [1]}\n'])
def test_what_is_no_result_is_left_out(junk: bytes) -> None:
    assert read_json(junk) == []


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_it_says_is_understood_in_pieces_of_any_size(size: int) -> None:
    listener = Listener()
    for at in range(0, len(SAID), size):
        listener(SAID[at : at + size])
    assert listener.found == {("10.64.2.9", "tcp", 80), ("10.64.2.9", "tcp", 22)}
    assert (listener.percent, listener.done, listener.said) == (100.0, False, [])


def test_when_the_time_it_was_told_to_wait_is_over_it_is_done() -> None:
    listener = Listener()
    with pytest.raises(_Done):
        listener(SAID + b"rate:  0.00-kpps, 100.00% done, waiting -1-secs, found=2       \r")
    assert listener.done


def test_what_was_heard_but_not_yet_written_is_not_lost() -> None:
    heard = [("10.64.2.9", "tcp", 80), ("10.64.2.9", "tcp", 443)]
    assert merge(heard, read_json(RECORDED)[1:2]) == [
        OpenPort("10.64.2.9", "tcp", 80, 63),
        OpenPort("10.64.2.9", "tcp", 443),
    ]


def test_a_configuration_of_the_machine_that_adds_targets_or_speed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "masscan.conf"
    check_configuration(file)
    file.write_text("# ours\nexcludefile = /etc/masscan/exclude.txt\n\n")
    check_configuration(file)
    file.write_text("range = 0.0.0.0/0\nrate = 1000000\n")
    with pytest.raises(CommandFailed, match="sets range, rate"):
        check_configuration(file)


def test_source_ports_are_neither_ephemeral_nor_in_use(tmp_path: Path) -> None:
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    limits = tmp_path / "sys/net/ipv4/ip_local_port_range"
    limits.write_text("32768\t60999\n")
    assert choose_source_ports(tmp_path) == (61440, 61455)
    (tmp_path / "net/tcp").write_text(
        "  sl  local_address rem_address\n   0: 0100007F:F005 00000000:0000 0A\n"
    )  # 61445
    assert choose_source_ports(tmp_path) == (61456, 61471)
    limits.write_text("25000\t65535\n")
    assert choose_source_ports(tmp_path) == (20480, 20495)
    limits.write_text("1024\t65535\n")
    with pytest.raises(CommandFailed, match="ip_local_port_range"):
        choose_source_ports(tmp_path)


def test_a_scan_that_cannot_end_in_time_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="hours, more than the hour"):
        Masscan(targets=["10.0.0.0/16"], ports="1-65535")
    assert Masscan(targets=["10.0.0.0/24"], ports="1-1000").deadline() <= 3600


# --- the switch ------------------------------------------------------------------------------------------------------------


async def test_it_is_off_until_policy_turns_it_on_and_the_refusal_names_the_command(perform: Perform) -> None:
    with pytest.raises(Refused, match=r"masscan is off at site default.*signalbox policy masscan on"):
        await perform(masscan, {"targets": ["127.0.0.1"]})
    with pytest.raises(Refused, match=r"signalbox policy masscan on --site branch"):
        await perform(masscan, {"targets": ["127.0.0.1"], "site": "branch"})
    assert "masscan" in policy_command.app


async def test_loopback_is_out_of_its_reach_and_nmap_is_named(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "may_send_raw", lambda _program: True)
    with pytest.raises(Unsupported, match=r"127\.0\.0\.1: loopback is no Ethernet.*signalbox tool run nmap"):
        await perform(masscan, {"targets": ["127.0.0.1"]}, policy=ProbePolicy(masscan=True))


async def test_wrong_ports_and_never_touched_ones_are_refused(perform: Perform) -> None:
    with pytest.raises(InvalidParameters, match="ports"):
        await perform(masscan, {"targets": ["127.0.0.1"], "ports": "ssh"})
    with pytest.raises(Refused, match="9100 must never be touched"):
        await perform(masscan, {"targets": ["127.0.0.1"], "ports": "80,9100"}, policy=ProbePolicy(masscan=True))


async def test_a_missing_program_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(process, "ADMIN_FOLDERS", ())
    with pytest.raises(MissingProgram, match="apt-get install masscan"):
        await perform(masscan, {"targets": ["127.0.0.1"]}, policy=ProbePolicy(masscan=True))


# --- in the lab ------------------------------------------------------------------------------------------------------------


async def village(lab: Lab) -> None:
    await lab.add_all(
        [
            HostSpec("web", 10, f"{DELL}:00:00:10", services=(http(), ssh())),
            HostSpec("camera", 11, f"{AXIS}:00:00:11", "cameras", services=(http(), ssh(), ECHO)),
            HostSpec("excluded", 12, f"{AXIS}:00:00:12", "cameras", services=(http(),)),
            HostSpec("walled", 13, f"{AXIS}:00:00:13", "cameras", services=(http(),)),
            HostSpec("farm", 9, f"{SYNOLOGY}:00:00:09", "cameras", services=(http(), ssh(), http(443))),
        ]
    )
    await lab.firewall("walled", allow_tcp=[22])
    await lab.answer_prefix("farm", lab.prefix(24))


@pytest.mark.lab
@needs_lab
async def test_open_ports_are_found_behind_a_router_and_on_our_link_and_nobody_excluded_is_asked(
    perform: Perform, tmp_path: Path
) -> None:
    async with Lab() as lab:
        await village(lab)
        here = set(Path.cwd().iterdir())
        excluded = lab.hosts["excluded"].address
        policy = policy_of(lab, exclude=[{"target": excluded, "reason": "heart monitor"}])
        targets = [
            f"10.{lab.slot}.2.8/29",
            lab.hosts["web"].address,
            lab.address,
            lab.first.address(77),
            str(lab.first.network6[10]),
        ]
        async with lab.counting(f"host {excluded}") as to_excluded, lab.counting("tcp") as sent:
            result: MasscanResult = await perform(
                masscan,
                {"targets": targets, "ports": "22,80,443", "udp_ports": "7777", "seed": 7, "wait": 1},
                policy=policy,
            )
        web, camera, farm = (lab.hosts[name].address for name in ("web", "camera", "farm"))
        assert {host.address: (host.tcp, host.udp, host.mac) for host in result.hosts} == {
            web: ("22,80", "", f"{DELL}:00:00:10"),
            camera: ("22,80", "7777", None),
            farm: ("22,80,443", "", None),
        }
        # TTLs stand in its file alone, which lacks its end where masscan had to be ended.
        assert {host.ttl for host in result.hosts if host.mac is None} <= {63, None}
        assert to_excluded.total == 0 and result.excluded == (f"{excluded}/32",)
        assert (result.planned, result.silent, result.open_ports, result.complete) == (9, 1, 8, True)
        assert result.sent == result.probes == 8 * 4
        reasons = {entry.target: entry.reason for entry in result.not_scanned}
        assert "this machine itself" in reasons[lab.address] and "IPv6" in reasons[str(lab.first.network6[10])]
        assert any("signalbox tool run nmap" in note for note in result.notes)
        assert {(way.interface, way.router, way.mac) for way in result.ways} == {
            (lab.interface, lab.first.gateway, f"{CISCO}:00:{lab.slot:02x}:01"),
            (lab.interface, None, None),
        }
        # Every SYN once, and one RST of our kernel for each open port: masscan itself resets nothing.
        assert sent.total == 8 * 3 + 7
        assert b'"syn-ack"' in (tmp_path / "evidence" / result.evidence[0].name).read_bytes()
        assert set(Path.cwd().iterdir()) == here, "nothing of masscan's is left in our folder"
        assert processes_of("masscan") == []


@pytest.mark.lab
@needs_lab
async def test_it_stays_within_the_share_in_every_five_seconds_though_all_is_open_and_within_a_hosts_cap(
    perform: Perform,
) -> None:
    async with Lab() as lab:
        await village(lab)
        farm = {"targets": [lab.prefix(25)], "ports": "22,80,443", "wait": 1}
        pair = [lab.hosts["farm"].address, lab.hosts["camera"].address]
        async with lab.counting(f"dst net {lab.prefix(25)}") as sent, lab.counting(f"dst host {pair[0]}") as to_one:
            whole, capped = await asyncio.gather(
                perform(masscan, farm, policy=policy_of(lab, packets_per_second=100)),
                perform(
                    masscan,
                    {"targets": pair, "ports": "201-242", "wait": 1},
                    policy=policy_of(lab, host_packets_per_second=8),
                ),
            )
        assert whole.complete and whole.open_ports == 384 and sent.total == 768
        assert sent.worst(5) <= 500
        assert sent.worst(5) > 300, "so slow that the proof says nothing"
        # The 42 ports of each of two hosts in portions, since the order within a run is random.
        assert capped.complete and to_one.total == 42
        assert 9 <= to_one.worst(5) <= 40


@pytest.mark.lab
@needs_lab
async def test_what_it_found_before_a_kill_or_the_deadline_is_kept_and_no_process_stays(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Lab() as lab:
        await village(lab)
        params = {"targets": [lab.prefix(24)], "ports": "22,80,443", "max_rate": 200}
        scan = asyncio.ensure_future(perform(masscan, params, policy=policy_of(lab)))
        async with asyncio.timeout(30):
            while not processes_of("masscan"):
                await asyncio.sleep(0.05)
            await asyncio.sleep(3)
        (running,) = processes_of("masscan")
        os.kill(running, 9)
        result = await scan
        assert not result.complete and 10 < result.open_ports < 700 and 10 < result.sent < 700
        assert "INCOMPLETE" in result.headline() and any("Cut off" in note for note in result.notes)
        kept = (tmp_path / "evidence" / result.evidence[0].name).read_bytes()
        assert all(host.address.encode() in kept for host in result.hosts)

        monkeypatch.setattr(Masscan, "deadline", lambda _self: MARGIN_SECONDS + 5)
        nothing = asyncio.ensure_future(perform(masscan, {**params, "ports": "200-300"}, policy=policy_of(lab)))
        result = await perform(masscan, params, policy=policy_of(lab))
        assert not result.complete and 10 < result.open_ports < 700
        assert any("was ended after" in note for note in result.notes)
        with pytest.raises(ToolTimeout):
            await nothing
        assert processes_of("masscan") == []
        async with lab.counting("tcp") as sent:
            await asyncio.sleep(0.5)
        assert sent.total == 0


@pytest.mark.lab
@needs_lab
async def test_what_policy_does_not_allow_is_refused_and_nothing_is_sent(perform: Perform) -> None:
    async with Lab() as lab:
        async with lab.counting("ip or arp") as sent:
            for policy in (policy_of(lab, masscan=False), ProbePolicy(masscan=True)):
                with pytest.raises(Refused):
                    await perform(masscan, {"targets": [lab.first.gateway], "ports": "80"}, policy=policy)
        assert sent.total == 0


@pytest.mark.lab
@needs_lab
async def test_a_prefix_is_parted_where_its_routes_part_and_what_leads_nowhere_says_why() -> None:
    async with Lab() as lab:
        special = f"10.{lab.slot}.2.64/28"
        for words in (f"{special} via {lab.first.address(99)}", f"unreachable 10.{lab.slot}.2.128/28"):
            await run_command(["ip", "route", "add", *words.split()], timeout=10)
        try:
            network = ipaddress.IPv4Network(lab.subnet("cameras").cidr)
            ways = await find_ways([network], packets_per_second=100, seconds=30)
        finally:
            await run_command(["ip", "route", "del", "unreachable", f"10.{lab.slot}.2.128/28"], timeout=10)
        assert ways.closed == {
            special: f"its router {lab.first.address(99)} does not answer ARP on {lab.interface}",
            f"10.{lab.slot}.2.128/28": "there is no route to it",
        }
        (way,) = ways.found
        assert (way.router, sum(part.num_addresses for part in ways.found[way])) == (lab.first.gateway, 256 - 32)


UNPRIVILEGED = """
import asyncio, sys
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.errors import ToolError
from tasks.core.run import FixedWiring, wired
from tasks.network.scan.masscan import masscan

async def main():
    with wired(FixedWiring(policies={"default": ProbePolicy(masscan=True)}, captures=CaptureStore(folder=sys.argv[1]))):
        try:
            await kit.perform(masscan.spec, {"targets": ["127.0.0.1"]})
        except ToolError as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


@pytest.mark.lab
@needs_lab
async def test_without_the_capability_it_says_how_to_get_it(tmp_path: Path) -> None:
    argv = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", sys.executable, "-c", UNPRIVILEGED]
    done = await run_command(
        [*argv, tmp_path],
        timeout=60,
        env={"PYTHONPATH": str(Path.cwd()), "SIGNALBOX_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)},
    )
    assert done.stdout.startswith(b"MissingProgram masscan needs CAP_NET_RAW") and b"signalbox" in done.stdout


async def test_a_network_of_sixteen_million_addresses_is_never_a_list(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, jobs = ipaddress.IPv4Network("10.0.0.0/8"), []

    async def ways(targets: Any, **_: Any) -> Ways:
        return Ways(found={Way("eth0", "192.0.2.1", "02:00:00:00:00:01", "192.0.2.254"): list(targets)})

    async def run(job: Any, **_: Any) -> Outcome:
        jobs.append(job)
        return Outcome([], 100.0, None, [], b"")

    monkeypatch.setattr(module, "find_ways", ways)
    monkeypatch.setattr(module, "run_masscan", run)
    monkeypatch.setattr(module, "find_program", lambda _: "/usr/bin/masscan")
    monkeypatch.setattr(module, "may_send_raw", lambda _: True)
    policy = ProbePolicy(
        allow=[str(network)], masscan=True, max_addresses=1 << 24, packets_per_second=100_000, host_packets_per_second=0
    )
    tracemalloc.start()
    result = await perform(masscan, {"targets": [str(network)], "ports": "80", "max_rate": 100_000}, policy=policy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.planned == result.sent == 1 << 24 and [job.targets for job in jobs] == [(str(network),)]
    assert peak < 20 << 20
