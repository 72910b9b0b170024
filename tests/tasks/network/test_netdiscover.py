"""netdiscover: recorded lines, and hosts in the lab that answer, speak by themselves, or must not be asked."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, Refused, ToolTimeout, Unreachable
from tasks.core.process import run_command
from tasks.network.scan import netdiscover as module
from tasks.network.scan._netdiscover_program import Heard, read_lines
from tasks.network.scan.netdiscover import REPORTING_SECONDS, Netdiscover, NetdiscoverResult, netdiscover, same_maker
from tests.lab.network import AXIS, CISCO, DELL, HostSpec, Lab, needs_lab, processes_of

Perform = Callable[..., Awaitable[Any]]

RECORDED = """\
 10.64.1.1       00:1b:54:00:40:01      1      42  Cisco Systems, Inc
 10.64.1.10      00:40:8c:00:00:10      1      60  Axis Communications AB
 192.168.100.200 02:11:22:33:44:55      1      42  Unknown vendor
 0.0.0.0         d4:be:d9:00:00:10      1      42  Dell Inc.

-- Active scan completed, 4 Hosts found.
"""


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    return ProbePolicy(allow=[f"10.{lab.slot}.0.0/16", str(lab.first.network6)], **more)


# --- recorded ------------------------------------------------------------------------------------------------------------


def test_lines_give_address_mac_and_what_its_own_table_says() -> None:
    assert list(read_lines(RECORDED)) == [
        Heard("10.64.1.1", "00:1b:54:00:40:01", "Cisco Systems, Inc"),
        Heard("10.64.1.10", "00:40:8c:00:00:10", "Axis Communications AB"),
        Heard("192.168.100.200", "02:11:22:33:44:55", None),
        Heard("0.0.0.0", "d4:be:d9:00:00:10", "Dell Inc."),
    ]


@pytest.mark.parametrize("end", range(0, len(RECORDED), 9))
def test_output_cut_off_anywhere_gives_the_lines_that_were_whole(end: int) -> None:
    assert len(list(read_lines(RECORDED[:end]))) == min(4, RECORDED[:end].count("\n"))


def test_what_is_no_line_of_a_host_is_left_out() -> None:
    assert list(read_lines("pcap_open_live(): nosuch\n IP  At MAC\n 10.0.0.1 nothing 1 1 x\n\x00\n")) == []


def test_makers_are_the_same_however_the_tables_write_them() -> None:
    assert same_maker("Cisco Systems, Inc", "CISCO SYSTEMS, INC.")
    assert not same_maker("Dell Inc.", "Axis Communications AB") and not same_maker("Dell Inc.", None)
    assert not same_maker("--", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "active needs targets"),
        ({"targets": ["10.0.0.0/24"], "interface": "eth0"}, "chooses the interface"),
        ({"mode": "passive"}, "passive needs an interface"),
        ({"mode": "passive", "interface": "eth0", "targets": ["10.0.0.1"]}, "leave targets out"),
        ({"mode": "passive", "interface": "eth0; id"}, "interface"),
        ({"targets": ["10.0.0.0/24"], "max_rate": 5}, "max_rate"),
        ({"mode": "passive", "interface": "eth0", "duration": 4000}, "duration"),
    ],
)
async def test_a_wrong_parameter_is_named(perform: Perform, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await perform(netdiscover, given)


def test_only_active_mode_asks_the_gate() -> None:
    assert Netdiscover(mode="passive", interface="eth0").scope() is None
    scope = Netdiscover(targets=["10.0.0.0/24"]).scope()
    assert scope is not None and scope.targets == ("10.0.0.0/24",)


# --- in the lab ------------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_active_mode_asks_the_allowed_addresses_of_our_own_24_in_our_own_name_and_no_faster_than_its_share(
    perform: Perform, tmp_path: Path
) -> None:
    async with Lab() as lab:
        await lab.add_all(
            [
                HostSpec("server", 10, f"{DELL}:00:00:10"),
                HostSpec("impostor", 10, f"{AXIS}:00:00:10"),
                HostSpec("virtual", 12, "02:11:22:33:44:55"),
                HostSpec("excluded", 44, f"{DELL}:00:00:44"),
                HostSpec("beyond", 200, f"{DELL}:00:00:c8"),
            ]
        )
        excluded = lab.hosts["excluded"].address
        policy = policy_of(lab, packets_per_second=50, exclude=[{"target": excluded, "reason": "heart monitor"}])
        far = [lab.subnet("cameras").cidr, str(lab.first.network6[10])]
        mine = f"arp[14:4] = {_number(lab.address)}"
        async with (
            lab.counting("arp") as sent,
            lab.counting(f"arp[6:2] = 1 and {mine}") as ours,
            lab.counting(f"arp[24:4] = {_number(excluded)}") as to_excluded,
            lab.counting(f"arp[24:4] = {_number(lab.hosts['beyond'].address)}") as to_beyond,
        ):
            result: NetdiscoverResult = await perform(
                netdiscover, {"targets": [f"10.{lab.slot}.1.0/25", *far], "count": 2}, policy=policy
            )
        found = {(host.address.rpartition(".")[2], host.mac): host for host in result.hosts if host.asked}
        assert set(found) == {
            ("1", f"{CISCO}:00:{lab.slot:02x}:01"),
            ("10", f"{DELL}:00:00:10"),
            ("10", f"{AXIS}:00:00:10"),
            ("12", "02:11:22:33:44:55"),
        }
        assert found["10", f"{AXIS}:00:00:10"].vendor == "Axis Communications AB"
        assert found["12", "02:11:22:33:44:55"].locally_administered
        assert all(host.other_vendor is None for host in found.values())
        assert [(twice.address, set(twice.macs)) for twice in result.duplicates] == [
            (lab.hosts["server"].address, {f"{DELL}:00:00:10", f"{AXIS}:00:00:10"})
        ]
        # 128 less the network's and the excluded one.
        assert (result.planned, result.attempted, result.answered, result.complete) == (126, 126, 3, True)
        assert [(link.interface, link.address) for link in result.links] == [(lab.interface, lab.address)]
        assert set(result.not_asked) == set(far) and any("arp_scan" in note for note in result.notes)
        assert (to_excluded.total, to_beyond.total) == (0, 0)
        assert ours.total == sent.total == 2 * 126
        assert 120 < sent.worst(5) <= 250
        evidence = (tmp_path / "evidence" / result.evidence[0].name).read_text()
        assert evidence.count(lab.hosts["server"].address) == 2 and "Active scan completed" in evidence


@pytest.mark.lab
@needs_lab
async def test_passive_mode_hears_who_speaks_and_sends_nothing(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add_all([HostSpec("server", 10, f"{DELL}:00:00:10"), HostSpec("quiet", 11, f"{AXIS}:00:00:11")])
        params = {"mode": "passive", "interface": lab.interface, "duration": 4}
        async with lab.counting("ip or arp") as sent:
            listening = asyncio.ensure_future(perform(netdiscover, params, policy=ProbePolicy()))
            await asyncio.sleep(1.5)
            argv = ["ip", "netns", "exec", lab.hosts["server"].namespace, "ping", "-c1", "-W1", lab.first.address(99)]
            await run_command(argv, timeout=10, ok=(0, 1))
            result = await listening
        assert [(host.address, host.mac, host.vendor, host.asked) for host in result.hosts] == [
            (lab.hosts["server"].address, f"{DELL}:00:00:10", "Dell Inc.", False)
        ]
        assert sent.total == 0
        assert result.complete and result.headline().startswith("1 address heard in 4 s")
        with pytest.raises(Refused, match="allows listening for 3 s"):
            await perform(netdiscover, params, policy=ProbePolicy(capture_max_seconds=3))
        assert processes_of("netdiscover") == []


@pytest.mark.lab
@needs_lab
async def test_what_was_heard_before_a_kill_or_the_deadline_is_kept_and_no_process_stays(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Lab() as lab:
        await lab.add("server", 10, f"{DELL}:00:00:10")
        params = {"targets": [lab.first.cidr], "max_rate": 20}
        monkeypatch.setattr(Netdiscover, "deadline", lambda _self: REPORTING_SECONDS + 6)
        result = await perform(netdiscover, params, policy=policy_of(lab))
        assert not result.complete and (result.answered, result.attempted) == (2, 0)
        assert "INCOMPLETE" in result.headline() and any("was ended" in note for note in result.notes)
        monkeypatch.setattr(Netdiscover, "deadline", lambda _self: REPORTING_SECONDS + 1)
        with pytest.raises(ToolTimeout, match="before everything was asked"):
            await perform(netdiscover, params, policy=policy_of(lab))
        monkeypatch.undo()
        scan = asyncio.ensure_future(perform(netdiscover, params, policy=policy_of(lab)))
        async with asyncio.timeout(20):
            while not processes_of("netdiscover"):
                await asyncio.sleep(0.05)
        (running,) = processes_of("netdiscover")
        os.kill(running, 9)
        with pytest.raises(CommandFailed, match="SIGKILL"):
            await scan
        assert processes_of("netdiscover") == []


@pytest.mark.lab
@needs_lab
async def test_what_it_cannot_or_may_not_ask_is_said_before_anything_is_sent(perform: Perform) -> None:
    async with Lab() as lab:
        async with lab.counting("ip or arp") as sent:
            with pytest.raises(Unreachable, match=r"ARP is for IPv4.*arp_scan"):
                await perform(netdiscover, {"targets": [str(lab.first.network6[10])]}, policy=policy_of(lab))
            with pytest.raises(Refused):
                await perform(netdiscover, {"targets": [lab.first.cidr]})
            # A link as wide as a /22: in the neighbouring /24 it would ask in somebody else's name.
            await run_command(["ip", "addr", "add", f"10.{lab.slot}.40.9/22", "dev", lab.interface], timeout=10)
            with pytest.raises(Unreachable, match=rf"can ask 10\.{lab.slot}\.40\.0/24 alone"):
                await perform(netdiscover, {"targets": [f"10.{lab.slot}.41.0/24"]}, policy=policy_of(lab))
        assert sent.total == 0


async def test_a_wrong_interface_is_named(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "may_send_raw", lambda _program: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for interface, said in (
        ("nosuch0", "There is no interface 'nosuch0'"),
        ("lo", "no Ethernet"),
        ("any", "not on any"),
    ):
        with pytest.raises(InvalidParameters, match=said):
            await perform(netdiscover, {"mode": "passive", "interface": interface})


async def test_for_others_than_root_it_says_what_to_use_instead(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(MissingProgram, match=r"for root only.*arp_scan"):
        await perform(netdiscover, {"targets": ["127.0.0.1"]})


async def test_a_missing_program_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(process, "ADMIN_FOLDERS", ())
    with pytest.raises(MissingProgram, match="apt-get install netdiscover"):
        await perform(netdiscover, {"targets": ["127.0.0.1"]})


UNPRIVILEGED = """
import asyncio, sys
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.errors import ToolError
from tasks.core.run import FixedWiring, wired
from tasks.network.scan.netdiscover import netdiscover

async def main():
    with wired(FixedWiring(policies={"default": ProbePolicy()}, captures=CaptureStore(folder=sys.argv[1]))):
        try:
            await kit.perform(netdiscover.spec, {"targets": ["127.0.0.1"]})
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
    assert done.stdout.startswith(b"MissingProgram ARP needs CAP_NET_RAW") and b"signalbox" in done.stdout


def _number(address: str) -> int:
    return int.from_bytes(bytes(int(part) for part in address.split(".")))


async def test_a_killed_process_leaves_no_home_of_netdiscovers_behind(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "netdiscover"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    places = tmp_path / "places"
    places.mkdir()
    words = "import asyncio; from tasks.network.scan._netdiscover_program import listen; asyncio.run(listen('lo', 60))"
    root = str(Path(__file__).parents[3])
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", words, cwd=root,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(places), "PYTHONPATH": root},
    )  # fmt: skip
    async with asyncio.timeout(30):
        while not list(places.glob("*/.netdiscover")):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # the program runs
        caller.kill()
        await caller.wait()
        while list(places.iterdir()):
            await asyncio.sleep(0.05)
