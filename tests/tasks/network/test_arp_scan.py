"""arp_scan: recorded lines, and hosts in the lab that answer, claim each other's addresses, or are not on our links."""

import asyncio
import ipaddress
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import CommandFailed, MissingProgram, Refused, ToolTimeout, Unreachable
from tasks.core.process import run_command
from tasks.network.scan import arp_scan as module
from tasks.network.scan._links import split
from tasks.network.scan.arp_scan import (
    ArpScan,
    ArpScanResult,
    arp_scan,
    duplicates,
    find_vendor,
    read_answers,
    shared_macs,
)
from tests.lab.network import AXIS, CISCO, DELL, HostSpec, Lab, needs_lab, processes_of

Perform = Callable[..., Awaitable[Any]]

RECORDED = """10.64.1.1\t00:1b:54:00:40:01\t0.054
10.64.1.10\t00:40:8c:00:00:10\t0.055
10.64.1.10\td4:be:d9:00:00:10\t0.057
10.64.1.12\t02:11:22:33:44:55\t0.060
10.64.1.128\t02:11:22:33:44:55\t0.041
"""


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    return ProbePolicy(
        allow=[f"10.{lab.slot}.0.0/16", *(str(subnet.network6) for subnet in lab.subnets.values())], **more
    )


# --- recorded ------------------------------------------------------------------------------------------------------------


def test_answers_have_vendor_and_time_and_say_when_a_mac_is_made_up() -> None:
    router, axis, dell, made_up, _ = read_answers(RECORDED, "eth0")
    assert (router.address, router.vendor, router.rtt_ms) == ("10.64.1.1", "Cisco Systems, Inc", 0.054)
    assert axis.vendor == "Axis Communications AB" and dell.vendor == "Dell Inc."
    assert made_up.locally_administered and made_up.vendor is None and not router.locally_administered


def test_two_macs_for_one_address_and_one_mac_for_many_are_said() -> None:
    hosts = list(read_answers(RECORDED, "eth0"))
    assert [(twice.address, twice.macs) for twice in duplicates(hosts)] == [
        ("10.64.1.10", ("00:40:8c:00:00:10", "d4:be:d9:00:00:10"))
    ]
    assert [(shared.mac, shared.addresses) for shared in shared_macs(hosts)] == [
        ("02:11:22:33:44:55", ("10.64.1.12", "10.64.1.128"))
    ]


@pytest.mark.parametrize("end", range(0, len(RECORDED), 7))
def test_output_cut_off_anywhere_gives_the_lines_that_were_whole(end: int) -> None:
    assert len(list(read_answers(RECORDED[:end], "eth0"))) == RECORDED[:end].count("\n")


def test_lines_that_are_no_answers_are_left_out() -> None:
    text = "Interface: eth0, type: EN10MB\n10.0.0.1\tnot a mac\t1\n10.0.0.2\t00:40:8c:00:00:01\t\n"
    assert [(host.address, host.rtt_ms) for host in read_answers(text, "eth0")] == [("10.0.0.2", None)]


def test_unknown_makers_have_no_name() -> None:
    assert find_vendor("00:00:00:00:00:01") is not None  # Xerox has the first of all
    assert find_vendor("fc:ff:ff:00:00:01") is None


# --- in the lab ------------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_who_is_on_our_link_is_found_first_hand_and_conflicts_are_reported(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add_all(
            [
                HostSpec("server", 10, f"{DELL}:00:00:10"),
                HostSpec("impostor", 10, f"{AXIS}:00:00:10"),
                HostSpec("proxy", 12, "02:11:22:33:44:55"),
                HostSpec("excluded", 44, f"{DELL}:00:00:44"),
                HostSpec("silent", 45, f"{DELL}:00:00:45"),
                HostSpec("far", 11, f"{AXIS}:00:00:11", "cameras"),
            ]
        )
        await lab.answer_prefix("proxy", f"10.{lab.slot}.1.128/29")
        await lab.silence("silent")
        excluded = lab.hosts["excluded"].address
        policy = policy_of(lab, exclude=[{"target": excluded, "reason": "heart monitor"}])
        async with lab.counting(f"arp and arp[24:4] = {_number(excluded)}") as to_excluded, lab.counting("arp") as sent:
            result: ArpScanResult = await perform(
                arp_scan,
                {"targets": [lab.first.cidr, lab.subnet("cameras").cidr, str(lab.first.network6[10])], "max_rate": 100},
                policy=policy,
            )
        found = {(host.address.rpartition(".")[2], host.mac) for host in result.hosts}
        assert {("1", f"{CISCO}:00:{lab.slot:02x}:01"), ("10", f"{DELL}:00:00:10"), ("10", f"{AXIS}:00:00:10")} <= found
        assert {address for address, _ in found} == {"1", "10", "12", *(str(number) for number in range(128, 136))}
        assert [(twice.address, set(twice.macs)) for twice in result.duplicates] == [
            (lab.hosts["server"].address, {f"{DELL}:00:00:10", f"{AXIS}:00:00:10"})
        ]
        assert [(shared.mac, len(shared.addresses)) for shared in result.shared_macs] == [("02:11:22:33:44:55", 9)]
        assert [(link.interface, link.address, link.mac) for link in result.links] == [
            (lab.interface, lab.address, lab.mac)
        ]
        assert set(result.not_adjacent) == {lab.subnet("cameras").cidr, str(lab.first.network6[10])}
        assert any("layer-2 adjacency" in note for note in result.notes)
        # 256 less the network, the broadcast, our own and the excluded address.
        assert (result.planned, result.attempted, result.answered, result.complete) == (252, 252, 11, True)
        assert to_excluded.total == 0
        assert 200 < sent.worst(5) <= 500
        assert result.evidence[0].size_bytes > 100


@pytest.mark.lab
@needs_lab
async def test_what_is_not_on_our_link_is_refused_with_the_reason(perform: Perform) -> None:
    async with Lab() as lab:
        for target in (lab.subnet("cameras").cidr, str(lab.first.network6[10])):
            with pytest.raises(Unreachable, match="ARP needs layer-2 adjacency"):
                await perform(arp_scan, {"targets": [target]}, policy=policy_of(lab))
    with pytest.raises(Unreachable, match="lo has no ARP"):
        await perform(arp_scan, {"targets": ["127.0.0.1"]})
    with pytest.raises(Refused):
        await perform(arp_scan, {"targets": ["10.0.0.1"]})


@pytest.mark.lab
@needs_lab
async def test_of_a_prefix_wider_than_the_link_only_the_link_is_asked(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add("server", 10, f"{DELL}:00:00:10")
        result = await perform(arp_scan, {"targets": [f"10.{lab.slot}.0.0/22"]}, policy=policy_of(lab))
        assert {host.address for host in result.hosts} == {lab.first.gateway, lab.hosts["server"].address}
        assert result.planned == 253
        assert set(result.not_adjacent) == {f"10.{lab.slot}.0.0/24", f"10.{lab.slot}.2.0/23"}


@pytest.mark.lab
@needs_lab
async def test_what_a_more_specific_route_takes_elsewhere_is_not_on_our_link() -> None:
    async with Lab() as lab:
        address = lab.first.address(77)
        await run_command(["ip", "route", "add", f"{address}/32", "via", lab.first.gateway], timeout=10)
        found = await split(
            [ipaddress.IPv4Network(text) for text in (f"{address}/32", lab.first.address(79), lab.address)]
        )
        assert found.far == {f"{address}/32": f"it is routed by way of {lab.first.gateway}"}
        assert [str(network) for networks in found.near.values() for network in networks] == [
            f"{lab.first.address(79)}/32",
            f"{lab.address}/32",
        ]


@pytest.mark.lab
@needs_lab
async def test_the_batches_before_a_kill_or_a_deadline_are_kept(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Lab() as lab:
        await lab.add_all([HostSpec("low", 10, f"{DELL}:00:00:10"), HostSpec("high", 240, f"{DELL}:00:00:f0")])
        monkeypatch.setattr(module, "BATCH", 64)
        params = {"targets": [lab.first.cidr], "max_rate": 100}
        # A batch takes four seconds, so the second one meets the deadline.
        monkeypatch.setattr(ArpScan, "deadline", lambda _self: module.MARGIN_SECONDS + 5)
        result = await perform(arp_scan, params, policy=policy_of(lab))
        assert not result.complete and 0 < result.attempted < 252 and result.answered == 2
        assert "INCOMPLETE" in result.headline()
        monkeypatch.setattr(ArpScan, "deadline", lambda _self: module.MARGIN_SECONDS + 1.5)
        with pytest.raises(ToolTimeout):
            await perform(arp_scan, params, policy=policy_of(lab))
        monkeypatch.undo()
        scan = asyncio.ensure_future(perform(arp_scan, params, policy=policy_of(lab)))
        await asyncio.sleep(1)
        (running,) = processes_of("arp-scan")
        os.kill(running, 9)
        with pytest.raises(CommandFailed, match="SIGKILL"):
            await scan


async def test_a_missing_program_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(process, "ADMIN_FOLDERS", ())
    with pytest.raises(MissingProgram, match="apt-get install arp-scan"):
        await perform(arp_scan, {"targets": ["127.0.0.1"]})


UNPRIVILEGED = """
import asyncio, sys
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.errors import ToolError
from tasks.core.run import FixedWiring, wired
from tasks.network.scan.arp_scan import arp_scan

async def main():
    with wired(FixedWiring(policies={"default": ProbePolicy()}, captures=CaptureStore(folder=sys.argv[1]))):
        try:
            await kit.perform(arp_scan.spec, {"targets": ["127.0.0.1"]})
        except ToolError as error:
            print(type(error).__name__, error)

asyncio.run(main())
"""


@pytest.mark.lab
@needs_lab
async def test_without_the_capability_it_says_how_to_get_it(tmp_path: Path) -> None:
    done = await run_command(
        [
            "setpriv",
            "--bounding-set",
            "-net_raw",
            "--inh-caps",
            "-net_raw",
            sys.executable,
            "-c",
            UNPRIVILEGED,
            tmp_path,
        ],
        timeout=60,
        env={"PYTHONPATH": str(Path.cwd()), "SIGNALBOX_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)},
    )
    assert done.stdout.startswith(b"MissingProgram ARP needs CAP_NET_RAW") and b"signalbox doctor" in done.stdout


def _number(address: str) -> int:
    return int.from_bytes(bytes(int(part) for part in address.split(".")))
