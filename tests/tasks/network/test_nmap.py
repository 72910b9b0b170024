"""nmap against real hosts in the lab: what it finds, what it never touches, how fast it goes, and how it fails."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core.errors import MissingProgram, Refused, ToolTimeout
from tasks.core.process import run_command
from tasks.network.scan import _nmap_program
from tasks.network.scan.nmap import MARGIN_SECONDS, Nmap, NmapResult, nmap
from tests.lab.network import AXIS, CISCO, DELL, SYNOLOGY, HostSpec, Lab, http, mute, needs_lab, processes_of, smtp, ssh

pytestmark = [pytest.mark.lab, needs_lab]

Perform = Callable[..., Awaitable[Any]]


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    more.setdefault("packets_per_second", 500)
    more.setdefault("host_packets_per_second", 0)
    return ProbePolicy(
        allow=[f"10.{lab.slot}.0.0/16", *(str(subnet.network6) for subnet in lab.subnets.values())], **more
    )


async def office(lab: Lab) -> None:
    await lab.add_all(
        [
            HostSpec(
                "web", 10, f"{DELL}:00:00:10", services=(http(title="Intranet"), ssh(), smtp(), mute(9100)), ipv6=True
            ),
            HostSpec("excluded", 44, f"{DELL}:00:00:44", services=(http(),)),
            HostSpec("silent", 45, f"{DELL}:00:00:45", services=(http(),)),
            HostSpec("camera", 11, f"{AXIS}:00:00:11", "cameras", services=(http(),)),
            HostSpec("walled", 12, f"{AXIS}:00:00:12", "cameras", services=(http(), ssh())),
        ]
    )
    await lab.silence("silent")
    await lab.firewall("walled", allow_tcp=[22])


def nmaps() -> list[int]:
    return processes_of("nmap")


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


# --- what it finds -------------------------------------------------------------------------------------------------------


async def test_a_sweep_finds_who_answers_by_arp_icmp_or_tcp_and_leaves_the_excluded_alone(perform: Perform) -> None:
    async with Lab() as lab:
        await office(lab)
        excluded = lab.hosts["excluded"].address
        policy = policy_of(lab, exclude=[{"target": excluded, "reason": "heart monitor"}])
        async with lab.counting(f"host {excluded}") as to_excluded:
            result: NmapResult = await perform(
                nmap, {"targets": [subnet.cidr for subnet in lab.subnets.values()], "max_rate": 500}, policy=policy
            )
        found = {host.address: host for host in result.hosts}
        assert set(found) == {
            lab.first.gateway,
            lab.address,
            lab.hosts["web"].address,
            lab.subnet("cameras").gateway,
            lab.hosts["camera"].address,
            lab.hosts["walled"].address,
        }
        web, walled = found[lab.hosts["web"].address], found[lab.hosts["walled"].address]
        assert (web.mac, web.vendor, web.reason) == (f"{DELL}:00:00:10", "Dell", "arp-response")
        assert found[lab.first.gateway].mac is not None and found[lab.first.gateway].mac.startswith(CISCO)
        assert (walled.mac, walled.reason) == (None, "syn-ack")
        assert to_excluded.total == 0
        assert result.complete and result.method == "raw"
        assert (result.planned, result.attempted, result.answered) == (511, 511, 6)
        assert result.excluded == (f"{excluded}/32",)
        assert result.evidence[0].size_bytes > 1000


async def test_ports_tell_open_closed_and_filtered_and_never_touch_a_printers_port(perform: Perform) -> None:
    async with Lab() as lab:
        await office(lab)
        for port in (9100, 515):
            await lab.watch_port("web", port)
        hosts = [lab.hosts[name].address for name in ("web", "walled")]
        result = await perform(
            nmap,
            {"targets": [*hosts, lab.hosts["web"].address6], "profile": "ports", "discovery": False},
            policy=policy_of(lab),
        )
        web, walled, web6 = result.hosts
        assert [port.port for port in web.ports] == [22, 25, 80]
        assert [port.port for port in web6.ports] == [22, 25, 80] and web6.address == lab.hosts["web"].address6
        assert ([port.port for port in walled.ports], walled.filtered_ports) == ([22], result.ports_scanned - 1)
        assert web.closed_ports == result.ports_scanned - 3
        assert any("never touched were left out: 515,9100" in note for note in result.notes)
        assert [await lab.packets_to("web", port) for port in (9100, 515)] == [0, 0]
        with pytest.raises(Refused, match="9100"):
            await perform(nmap, {"targets": hosts, "profile": "ports", "ports": "80,9100"}, policy=policy_of(lab))


async def test_services_and_systems_are_named(perform: Perform) -> None:
    async with Lab() as lab:
        await office(lab)
        targets = [lab.hosts[name].address for name in ("web", "camera")]
        what = {"targets": targets, "ports": "22,25,80", "discovery": False}
        result = await perform(nmap, {**what, "profile": "services"}, policy=policy_of(lab))
        web, camera = result.hosts
        assert [(port.service, port.product, port.probed) for port in web.ports] == [
            ("ssh", "OpenSSH", True),
            ("smtp", "Postfix smtpd", True),
            ("http", "nginx", True),
        ]
        assert camera.ports[0].version == "1.24.0"
        result = await perform(nmap, {**what, "profile": "os"}, policy=policy_of(lab))
        assert {host.os_guesses[0].family for host in result.hosts} == {"Linux"}
        assert [host.distance_hops for host in result.hosts] == [1, 2]


async def test_moved_changed_and_new_hosts_are_seen_as_they_are(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add("laptop", 20, f"{DELL}:00:00:20")
        await lab.add("phone", 21, "02:aa:bb:cc:dd:01")
        await lab.add("old", 22, f"{DELL}:00:00:22")

        async def seen() -> dict[str, str | None]:
            result = await perform(nmap, {"targets": [f"10.{lab.slot}.1.16/28"]}, policy=policy_of(lab))
            return {host.address.rpartition(".")[2]: host.mac for host in result.hosts}

        assert await seen() == {"20": f"{DELL}:00:00:20", "21": "02:aa:bb:cc:dd:01", "22": f"{DELL}:00:00:22"}
        await lab.move("laptop", 25)
        await lab.change_mac("phone", "06:11:22:33:44:55")
        await lab.remove("old")
        await lab.add("new", 27, f"{AXIS}:00:00:27")
        assert await seen() == {"25": f"{DELL}:00:00:20", "21": "06:11:22:33:44:55", "27": f"{AXIS}:00:00:27"}


async def test_a_prefix_that_answers_everywhere_is_found_whole(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add("farm", 9, f"{SYNOLOGY}:00:00:09", subnet="cameras", services=[http()])
        await lab.answer_prefix("farm", lab.prefix(22))
        result = await perform(
            nmap, {"targets": [lab.prefix(22)], "max_rate": 20_000}, policy=policy_of(lab, packets_per_second=20_000)
        )
        assert (result.planned, result.answered, result.complete) == (1024, 1024, True)


# --- how fast it goes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sweep", "sweep of nobody", "sweep of our link", "ports", "ports by connect"])
async def test_scans_stay_within_the_held_share_in_every_five_seconds(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    share = 100
    async with Lab() as lab:
        await lab.add("farm", 9, f"{SYNOLOGY}:00:00:09", subnet="cameras", services=[http(), ssh(), http(443)])
        await lab.answer_prefix("farm", lab.prefix(24))
        if what == "ports by connect":
            monkeypatch.setattr(_nmap_program, "may_send_raw", lambda _program: False)
        if what == "sweep":  # the dearest kind: no echo reply, an answer to every SYN
            await lab.nft("farm", "table inet wall {", "chain input {", "type filter hook input priority 0; policy accept;",
                          "icmp type echo-request drop", "}", "}")  # fmt: skip
        nobody = {"sweep of nobody": f"10.{lab.slot}.2.128/26", "sweep of our link": f"10.{lab.slot}.1.0/24"}
        where = nobody.get(what, lab.prefix(26))
        params: dict[str, Any] = {"targets": [where], "max_rate": share}
        if what.startswith("ports"):
            params |= {"profile": "ports", "ports": "22,80,443", "discovery": False}
        async with lab.counting() as sent:
            result = await perform(nmap, params, policy=policy_of(lab, packets_per_second=share))
        assert result.complete
        assert sent.total > 3 * share
        assert sent.worst(5) <= 5 * share
        assert sent.worst(5) > 1.5 * share, "so slow that the proof says nothing"


async def test_service_detection_stays_within_the_held_share_in_every_five_seconds(perform: Perform) -> None:
    share = 100
    async with Lab() as lab:
        # Banners come at once: without slices, 64 conversations in one second.
        await lab.add("farm", 9, f"{SYNOLOGY}:00:00:09", subnet="cameras", services=[ssh(), smtp()])
        await lab.answer_prefix("farm", lab.prefix(27))
        async with lab.counting() as sent:
            result = await perform(
                nmap,
                {
                    "targets": [lab.prefix(27)],
                    "profile": "services",
                    "ports": "22,25",
                    "discovery": False,
                    "max_rate": share,
                },
                policy=policy_of(lab, packets_per_second=share),
            )
        assert result.complete and sum(port.probed for host in result.hosts for port in host.ports) == 64
        assert sent.worst(5) <= 5 * share


async def test_one_host_gets_no_more_than_its_own_cap(perform: Perform) -> None:
    async with Lab() as lab:
        await lab.add("web", 11, f"{AXIS}:00:00:11", subnet="cameras", services=[http(80 + k) for k in range(6)])
        async with lab.counting(f"dst host {lab.hosts['web'].address}") as sent:
            result = await perform(
                nmap,
                {
                    "targets": [lab.hosts["web"].address],
                    "profile": "services",
                    "ports": "80-99,200-240",
                    "discovery": False,
                },
                policy=policy_of(lab, host_packets_per_second=40),
            )
        assert len(result.hosts[0].ports) == 6
        assert sent.worst(5) <= 5 * 40


# --- how it fails ----------------------------------------------------------------------------------------------------------


async def farm(lab: Lab) -> dict[str, Any]:
    """A scan of some 20 seconds, host by host."""
    await lab.add("farm", 9, f"{SYNOLOGY}:00:00:09", subnet="cameras", services=[http()])
    await lab.answer_prefix("farm", lab.prefix(24))
    return {"targets": [lab.prefix(24)], "profile": "ports", "ports": "22,80,443", "discovery": False, "max_rate": 100}


def a_host_is_done(store: CaptureStore) -> bool:
    return any(b"</host>" in path.read_bytes() for path in store.folder.rglob("*.xml"))


async def test_what_a_killed_nmap_had_finished_is_kept(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    async with Lab() as lab:
        params = await farm(lab)
        scan = asyncio.ensure_future(perform(nmap, params, policy=policy_of(lab), store=store))
        await until(lambda: a_host_is_done(store))
        (process,) = nmaps()
        os.kill(process, 9)
        result = await scan
    assert not result.complete
    assert 1 <= len(result.hosts) < 256 and result.attempted == len(result.hosts)
    assert all([port.port for port in host.ports] == [80] for host in result.hosts)
    assert any("SIGKILL" in note for note in result.notes)
    assert "INCOMPLETE" in result.headline()
    assert b"</host>" in store.path(result.evidence[0].name).read_bytes()


async def test_what_was_finished_before_the_deadline_is_kept_and_nothing_finished_is_a_timeout(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Lab() as lab:
        params = await farm(lab)
        monkeypatch.setattr(Nmap, "deadline", lambda _self: MARGIN_SECONDS + 10)
        result = await perform(nmap, params, policy=policy_of(lab))
        assert not result.complete and 1 <= len(result.hosts) < 256
        monkeypatch.setattr(Nmap, "deadline", lambda _self: MARGIN_SECONDS + 2)
        with pytest.raises(ToolTimeout):
            await perform(nmap, {"targets": [f"10.{lab.slot}.2.128/26"]}, policy=policy_of(lab))
    assert nmaps() == []


async def test_a_cancelled_scan_leaves_no_process_and_no_packet(perform: Perform) -> None:
    async with Lab() as lab:
        params = await farm(lab)
        scan = asyncio.ensure_future(perform(nmap, params, policy=policy_of(lab)))
        await until(lambda: bool(nmaps()))
        await asyncio.sleep(1)
        scan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scan
        assert nmaps() == []
        async with lab.counting("tcp") as sent:
            await asyncio.sleep(1)
        assert sent.total == 0


async def test_a_missing_nmap_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install nmap"):
        await perform(nmap, {"targets": ["127.0.0.1"]})


UNPRIVILEGED = """
import asyncio, json, sys
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.errors import ToolError
from tasks.core.run import FixedWiring, wired
from tasks.network.scan.nmap import nmap

async def main():
    policy, folder, calls = json.loads(sys.argv[1])
    with wired(FixedWiring(policies={"default": ProbePolicy(**policy)}, captures=CaptureStore(folder=folder))):
        for params in calls:
            try:
                print((await kit.perform(nmap.spec, params)).model_dump_json())
            except ToolError as error:
                print(json.dumps({"error": type(error).__name__, "text": str(error)}))

asyncio.run(main())
"""


async def test_without_the_capability_it_connects_and_says_so(tmp_path: Path) -> None:
    async with Lab() as lab:
        await office(lab)
        web, camera = lab.hosts["web"].address, lab.hosts["camera"].address
        # Root without CAP_NET_RAW: what a container often is. Its nmap must not be told that it may send raw packets.
        calls = [
            {"targets": [lab.first.cidr]},
            {"targets": [f"10.{lab.slot}.2.64/28"]},
            {"targets": [web, camera], "profile": "services", "ports": "22,80", "udp_ports": "53"},
            {"targets": [web], "profile": "os"},
        ]
        words = json.dumps([policy_of(lab).model_dump(mode="json"), str(tmp_path / "evidence"), calls])
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
                words,
            ],
            timeout=110,
            env={"PYTHONPATH": str(Path.cwd()), "SIGNALBOX_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)},
        )
    sweep, nobody, services, system = (json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{"))
    assert (sweep["method"], sweep["complete"]) == ("connect", True)
    assert {web, lab.first.gateway} <= {host["address"] for host in sweep["hosts"]}
    assert any("No CAP_NET_RAW" in note for note in nobody["notes"]) and nobody["hosts"] == []
    assert [[port["product"] for port in host["ports"]] for host in services["hosts"]] == [
        ["OpenSSH", "nginx"],
        ["nginx"],
    ]
    assert any("UDP ports were left out" in note for note in services["notes"])
    assert system["error"] == "MissingProgram" and "CAP_NET_RAW" in system["text"]
