"""The demo's office and the lab it stands on: what is there, what changes, and that nothing stays."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from blocks.policy import ProbePolicy
from deployments.demo.lab import Lab
from deployments.demo.network import GUEST_MAC, Office
from tasks.core.process import run_command
from tasks.network.scan.arp_scan import arp_scan
from tasks.network.scan.nmap import nmap
from tests.lab.network import DELL, needs_lab

pytestmark = [pytest.mark.lab, needs_lab]


def namespaces(prefix: str) -> list[str]:
    folder = Path("/run/netns")
    return [path.name for path in folder.iterdir() if path.name.startswith(prefix)] if folder.is_dir() else []


async def traces_of(slot: int) -> list[str]:
    """What of a lab is on this machine: namespaces, interfaces, routes."""
    routes = await run_command(["ip", "-json", "route"], timeout=10)
    found = namespaces(f"sbx{slot}-")
    found += [name for _, name in socket.if_nameindex() if name == f"sbx{slot}"]
    return found + [route["dst"] for route in json.loads(routes.stdout) if route["dst"].startswith(f"10.{slot}.")]


async def test_the_office_is_found_changes_and_leaves_nothing_behind(perform) -> None:  # type: ignore[no-untyped-def]
    async with Office() as office:
        lab = office.lab
        assert lab is not None
        await office.watch()
        policy = ProbePolicy(allow=office.cidrs, packets_per_second=2000, host_packets_per_second=0)

        async def look() -> tuple[dict[str, str | None], dict[str, list[int]]]:
            swept = await perform(nmap, {"targets": office.cidrs, "max_rate": 2000}, policy=policy)
            live = [host.address for host in swept.hosts]
            asked = await perform(
                nmap, {"targets": live, "profile": "ports", "discovery": False, "max_rate": 2000}, policy=policy
            )
            macs = {host.address: host.mac for host in swept.hosts}
            return macs, {host.address: [port.port for port in host.ports] for host in asked.hosts}

        first_macs, first_ports = await look()
        files, guest = lab.hosts["files"].address, lab.hosts["guest"].address
        assert len(first_macs) == 8 + 3  # and the router twice, and we
        assert first_ports[files] == [22, 80, 5000]
        assert first_macs[guest] == GUEST_MAC
        printer, _ = office.never_touched
        assert first_ports[printer] == [80]

        told = await office.change()
        assert len(told) == 6
        macs, ports = await look()
        gone, moved = lab.first.address(31), lab.first.address(132)
        assert set(first_macs) - set(macs) == {gone, lab.first.address(32), lab.subnet("cameras").address(12)}
        assert set(macs) - set(first_macs) == {moved, lab.first.address(60)}
        assert macs[moved] == first_macs[lab.first.address(32)]
        assert macs[guest] != GUEST_MAC
        assert ports[files] == [22, 80, 5000, 8080]
        assert await office.touches() == 0
        assert len(await traces_of(lab.slot)) > 10
    assert await traces_of(lab.slot) == []


async def test_the_cameras_of_the_office_are_asked_who_they_are(perform) -> None:  # type: ignore[no-untyped-def]
    async with Office() as office:
        assert office.lab is not None
        door, yard = (office.lab.hosts[name] for name in ("camera-door", "camera-yard"))
        async with httpx.AsyncClient(verify=False, trust_env=False, auth=httpx.DigestAuth("root", "pass")) as client:
            for host, scheme in ((door, "http"), (door, "https"), (yard, "http")):
                listed = await client.get(
                    f"{scheme}://{host.address}/axis-cgi/param.cgi?action=list&group=Network.IPAddress,Properties.System.SerialNumber"
                )
                serial = host.mac.replace(":", "").upper()
                assert listed.text == f"Network.IPAddress={host.address}\nProperties.System.SerialNumber={serial}\n"
            assert "<title>AXIS</title>" in (await client.get(f"http://{door.address}/")).text
        assert [one.errors for one in office.cameras.values()] == [[], []]


async def test_labs_at_once_have_addresses_of_their_own() -> None:
    async with Lab() as one, Lab() as other:
        assert one.slot != other.slot
        await asyncio.gather(one.add("a", 10, f"{DELL}:00:00:0a"), other.add("a", 10, f"{DELL}:00:00:0a"))
        for lab in (one, other):
            await run_command(["ping", "-c", "1", "-W", "2", lab.hosts["a"].address], timeout=10)


async def test_what_a_killed_process_left_is_removed_by_the_next_lab() -> None:
    script = """
import asyncio, sys
from deployments.demo.lab import Lab
async def main():
    async with Lab() as lab:
        await lab.add("a", 10, "00:40:8c:00:00:01")
        print(lab.slot, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert child.stdout is not None
    slot = int(await asyncio.wait_for(child.stdout.readline(), 30))
    child.send_signal(signal.SIGKILL)
    await child.wait()
    prefix = f"sbx{slot}-{child.pid}-"
    assert namespaces(prefix)
    async with Lab():
        assert not namespaces(prefix)


async def test_a_lab_whose_making_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: Lab) -> None:
        raise RuntimeError("no links today")

    monkeypatch.setattr(Lab, "_links_up", fail)
    lab = Lab()
    with pytest.raises(RuntimeError, match="no links today"):
        await lab.__aenter__()
    assert await traces_of(lab.slot) == []


async def test_the_printer_is_there_for_arp(perform) -> None:  # type: ignore[no-untyped-def]
    async with Office() as office:
        printer, _ = office.never_touched
        result = await perform(arp_scan, {"targets": [printer]}, policy=ProbePolicy(allow=office.cidrs))
        assert [host.vendor for host in result.hosts] == ["Hewlett Packard"]
