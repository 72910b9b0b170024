"""`traceroute`: recorded output, loopback, and a lab whose routers answer, refuse, drop and change."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.db.engine import Database
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, NotFound, Refused, Unreachable
from tasks.core.ledger import Ledger
from tasks.core.process import run_command
from tasks.network.probe._traceroute_path import Difference, compare, find_names
from tasks.network.probe._traceroute_program import Answer, Hop, Trace, read_hops
from tasks.network.probe._traceroute_report import Earlier, best_of, compare_with, describe, find_target
from tasks.network.probe.traceroute import (
    REPORTING_SECONDS,
    RESULT_BYTES,
    TracedTarget,
    TraceOutcome,
    Traceroute,
    TracerouteResult,
    traceroute,
)
from tests.lab.network import AXIS, CISCO, HostSpec, Lab, http, in_namespace, needs_lab, processes_of

Perform = Callable[..., Awaitable[Any]]

RECORDED = """traceroute to 10.64.7.9 (10.64.7.9), 30 hops max, 60 byte packets
 1  10.64.1.1  0.078 ms  0.067 ms  0.065 ms
 2  10.64.2.2  1.250 ms 10.64.2.3  1.500 ms 10.64.2.2  1.750 ms
 3  * * *
 4  fe80::1%eth0  3.000 ms * *
 5  10.64.4.1  4.000 ms !H * 10.64.4.2  4.500 ms !<10>
10  10.64.7.9 <syn,ack>  9.000 ms  9.100 ms *
"""


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    return ProbePolicy(allow=[f"10.{lab.slot}.0.0/16", "fd00::/8"], **{"host_packets_per_second": 0, **more})


# --- recorded ------------------------------------------------------------------------------------------------------------


def test_lines_give_who_answered_when_and_how_and_what_was_lost() -> None:
    first, shared, silent, link_local, refused, last = read_hops(RECORDED)
    assert (first.number, first.answers, first.lost) == (1, [Answer("10.64.1.1", [0.078, 0.067, 0.065])], 0)
    assert shared.answers == [Answer("10.64.2.2", [1.25, 1.75]), Answer("10.64.2.3", [1.5])]
    assert (silent.answers, silent.lost) == ([], 3)
    assert (link_local.addresses, link_local.lost) == (("fe80::1",), 2)
    assert refused.answers == [Answer("10.64.4.1", [4.0], "!H"), Answer("10.64.4.2", [4.5], "!<10>")]
    assert (last.number, last.answers, last.lost) == (10, [Answer("10.64.7.9", [9.0, 9.1], None, "syn,ack")], 1)


@pytest.mark.parametrize("end", range(len(RECORDED)))
def test_output_cut_off_anywhere_says_nothing_that_the_whole_does_not(end: int) -> None:
    whole = {hop.number: hop for hop in read_hops(RECORDED)}
    for hop in read_hops(RECORDED[:end]):
        full = whole[hop.number]
        assert hop.lost <= full.lost and set(hop.addresses) <= set(full.addresses)
        for answer in hop.answers:
            there = next(one for one in full.answers if one.address == answer.address)
            assert answer.times_ms == there.times_ms[: len(answer.times_ms)] and answer.code in (None, there.code)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "traceroute to x\n 1  nonsense  1.0 ms\n", "a\n1 2 3\n\x00\xff\n 2  !H\n"]
)
def test_what_is_no_hop_is_left_out(text: str) -> None:
    assert list(read_hops(text)) == []


def traced(*hops: Hop, ended: bool = True, error: str | None = None) -> TracedTarget:
    return describe("10.0.9.9", "10.0.9.9", Trace(hops, ended, error), {"10.0.0.1": "gw.example"})


def hop(number: int, *addresses: str, code: str | None = None, lost: int = 0) -> Hop:
    return Hop(number, [Answer(address, [1.0], code) for address in addresses], lost)


def test_each_way_to_end_has_its_outcome() -> None:
    gateway, target = hop(1, "10.0.0.1"), hop(2, "10.0.9.9")
    reached = traced(gateway, target)
    assert (reached.outcome, reached.distance, reached.detail) == ("reached", 2, None)
    assert reached.hops[0].answers[0].name == "gw.example"
    filtered = traced(gateway, hop(2, "10.0.9.9", code="!X"))
    assert (filtered.outcome, filtered.detail) == ("reached", "it answers, and says: forbidden by a filter")
    refused = traced(gateway, hop(2, "10.0.5.1", code="!N", lost=2), hop(3, lost=3))
    assert (refused.outcome, refused.detail) == ("unreachable", "10.0.5.1 says: network unreachable")
    assert (refused.silent_after, len(refused.hops)) == (1, 2)
    silent = traced(gateway, hop(2, lost=3), hop(3, lost=3))
    assert (silent.outcome, silent.detail) == ("no_answer", "the last answer is from 10.0.0.1, hop 1")
    assert (silent.silent_after, len(silent.hops)) == (2, 1)
    assert traced(hop(1, lost=3)).detail == "nobody on the way answered"
    assert traced(error="no route to host").detail == "this machine: no route to host"
    cut = traced(gateway, ended=False)
    assert not cut.complete and cut.detail is not None and "cut off after hop 1" in cut.detail
    assert describe("x", "10.0.0.9", None, {}).outcome is TraceOutcome.NOT_TRIED


def test_a_change_of_the_way_is_told_from_a_router_that_is_silent_this_time() -> None:
    before = {1: ("a",), 2: ("b", "c"), 3: (), 4: ("d",), 5: ("t",)}
    assert compare(before, before, ends=(5, 5)) == []
    assert compare(before, {**before, 2: ("c",), 3: ("x",), 4: ()}, ends=(5, 5)) == [
        Difference(3, "answers_again", (), ("x",)),
        Difference(4, "fell_silent", ("d",), ()),
    ]
    assert compare(before, {1: ("a",), 2: ("e",), 3: ("t",)}, ends=(5, 3)) == [
        Difference(2, "changed", ("b", "c"), ("e",)),
        Difference(3, "answers_again", (), ("t",)),
        Difference(4, "removed", ("d",), ()),
        Difference(5, "removed", ("t",), ()),
    ]
    assert compare({1: ("t",)}, {1: ("a",), 2: ("t",)}, ends=(1, 2)) == [
        Difference(1, "changed", ("t",), ("a",)),
        Difference(2, "added", (), ("t",)),
    ]
    # Cut off early: what was not asked has not changed.
    assert compare(before, {1: ("a",)}, ends=(5, None)) == []


def test_only_what_both_runs_asked_is_compared() -> None:
    old = traced(hop(1, "10.0.0.1"), hop(2, "10.0.5.1"), hop(3, "10.0.9.9")).model_dump(mode="json")
    earlier = Earlier("run", datetime.now(UTC), old)
    later = compare_with(earlier, traced(hop(2, "10.0.5.1"), hop(3, "10.0.9.9")))
    assert later is not None and (later.changed, later.changes) == (False, ())
    silent = compare_with(earlier, traced(hop(1, "10.0.0.1"), hop(2, lost=3), hop(3, lost=3)))
    assert silent is not None and not silent.changed
    assert [(change.hop, change.kind) for change in silent.changes] == [(2, "fell_silent"), (3, "fell_silent")]
    assert compare_with(None, traced(hop(1, "10.0.0.1"))) is None
    assert compare_with(Earlier("run", datetime.now(UTC), {"hops": [{"what": 1}]}), traced(hop(1, "10.0.0.1"))) is None


def named(address: str, *routers: str) -> TracedTarget:
    hops = [hop(number, router) for number, router in enumerate((*routers, address), 1)]
    return describe("www.example.com", address, Trace(tuple(hops), True, None), {})


def result_of(*targets: TracedTarget) -> TracerouteResult:
    return TracerouteResult(mode="udp", targets=targets, packets_per_second=10, duration=1)


def test_the_way_to_another_address_of_a_name_is_not_another_way() -> None:
    old = named("192.0.2.1", "10.0.0.1", "10.0.0.2").model_dump(mode="json")
    now = named("192.0.2.2", "10.0.0.1", "10.0.0.3")
    moved = compare_with(Earlier("run", datetime.now(UTC), old), now)
    assert moved is not None and (moved.changed, moved.changes, moved.address_before) == (False, (), "192.0.2.1")
    traced = now.model_copy(update={"comparison": moved})
    assert (
        result_of(traced)
        .headline()
        .endswith("; the name leads to another address now (192.0.2.2, last time 192.0.2.1)")
    )
    assert result_of(traced, traced).headline() == (
        "2 targets: 2 reached; 2 names lead to another address than last time"
    )
    same = compare_with(Earlier("run", datetime.now(UTC), old), named("192.0.2.1", "10.0.0.1", "10.0.0.3"))
    assert same is not None and same.changed and same.address_before is None


@pytest.mark.parametrize(
    ("address", "chosen"), [("192.0.2.1", "older"), ("192.0.2.2", "newer"), ("192.0.2.3", "newer")]
)
def test_of_a_name_with_several_addresses_the_last_way_to_the_same_one_is_compared(address: str, chosen: str) -> None:
    """Names that lead to their addresses in turn: each way has its own last time."""
    found = {"newer": named("192.0.2.2", "10.0.0.1"), "older": named("192.0.2.1", "10.0.0.1")}
    earlier = [Earlier(run, datetime.now(UTC), target.model_dump(mode="json")) for run, target in found.items()]
    best = best_of(earlier, address)
    assert best is not None and best.run == chosen
    assert best_of([], address) is None


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"truncated": True, "mode": "udp"},
        {"mode": "tcp", "targets": [{"target": "a", "hops": [1], "complete": True}]},
        {"mode": "udp", "targets": [{"target": "b", "hops": [1], "complete": True}, 7]},
        {"mode": "udp", "targets": [{"target": "a", "hops": [], "complete": True}]},
        {"mode": "udp", "targets": [{"target": "a", "hops": [1], "complete": False}]},
    ],
)
def test_a_result_without_this_way_is_not_compared_with(result: dict[str, Any] | None) -> None:
    assert find_target(result, "a", "udp") is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": [f"10.0.0.{n}" for n in range(1, 18)]}, "targets"),
        ({"targets": ["10.0.0.0/24"]}, "single hosts"),
        ({"targets": ["10.0.0.1"], "mode": "sctp"}, "mode"),
        ({"targets": ["10.0.0.1"], "mode": "icmp", "port": 80}, "mode icmp has no ports"),
        ({"targets": ["10.0.0.1"], "port": 65530}, "too few ports above it"),
        ({"targets": ["10.0.0.1"], "first_hop": 9, "max_hops": 8}, "first_hop 9 is beyond max_hops 8"),
        ({"targets": ["10.0.0.1"], "max_hops": 65}, "max_hops"),
        (
            {"targets": [f"10.0.0.{n}" for n in range(1, 17)], "probes": 10, "max_hops": 64},
            "more than the 1800 s a traceroute may take",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(perform: Perform, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await perform(traceroute, given)


def test_the_gate_sees_every_port_that_may_be_touched() -> None:
    assert Traceroute(targets=["10.0.0.1"], max_hops=2, probes=2).scope().ports == (33434, 33435, 33436, 33437)
    assert Traceroute(targets=["10.0.0.1"], mode="tcp").scope().ports == (80,)
    assert Traceroute(targets=["10.0.0.1"], mode="icmp").scope().ports == ()


# --- names ---------------------------------------------------------------------------------------------------------------


async def test_names_come_from_the_systems_resolver_and_a_slow_one_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(place: tuple[str, int], flags: int) -> tuple[str, str]:
        assert flags == socket.NI_NAMEREQD
        if place[0] == "10.0.0.2":
            time.sleep(3)
        if place[0] == "10.0.0.3":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return f"host-{place[0]}\x1b", "0"

    monkeypatch.setattr(socket, "getnameinfo", answer)
    began = time.monotonic()
    names = await find_names([f"10.0.0.{n}" for n in range(1, 5)], 0.5)
    assert names == {"10.0.0.1": "host-10.0.0.1?", "10.0.0.4": "host-10.0.0.4?"}
    assert time.monotonic() - began < 2.5


# --- loopback --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "localhost"])
async def test_this_machine_is_one_hop_away(perform: Perform, target: str) -> None:
    result: TracerouteResult = await perform(traceroute, {"targets": [target], "names": False})
    (found,) = result.targets
    assert (found.outcome, found.distance, found.complete) == ("reached", 1, True)
    assert len(found.hops[0].answers[0].times_ms) == 3 and found.best_ms is not None and found.best_ms < 1000
    assert result.reached() and f"{target}" in result.headline() and "reached in 1 hop," in result.headline()
    assert any("no ledger" in note for note in result.notes)


async def test_names_that_do_not_resolve_are_told_apart(perform: Perform) -> None:
    result = await perform(traceroute, {"targets": ["no-such-host.invalid", "127.0.0.1"], "names": False})
    assert [target.outcome for target in result.targets] == ["unresolved", "reached"]
    with pytest.raises(NotFound):
        await perform(traceroute, {"targets": ["no-such-host.invalid"]})


async def test_a_missing_program_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(process, "ADMIN_FOLDERS", ())
    with pytest.raises(MissingProgram, match="apt-get install traceroute"):
        await perform(traceroute, {"targets": ["127.0.0.1"]})


UNPRIVILEGED = """
import asyncio, sys
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import tool as kit
from tasks.core.errors import ToolError
from tasks.core.run import FixedWiring, wired
from tasks.network.probe.traceroute import traceroute

async def main():
    with wired(FixedWiring(policies={"default": ProbePolicy()}, captures=CaptureStore(folder=sys.argv[1]))):
        for mode in ("udp", "tcp"):
            try:
                result = await kit.perform(traceroute.spec, {"targets": ["127.0.0.1"], "mode": mode, "names": False})
                print(result.headline())
            except ToolError as error:
                print(type(error).__name__, error)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="drops a privilege of root's")
async def test_without_the_capability_udp_works_and_tcp_says_what_it_needs(tmp_path: Path) -> None:
    argv = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", sys.executable, "-c", UNPRIVILEGED]
    done = await run_command(
        [*argv, tmp_path],
        timeout=60,
        env={"PYTHONPATH": str(Path.cwd()), "SIGNALBOX_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)},
    )
    udp, tcp = done.stdout.decode().splitlines()
    assert udp.startswith("127.0.0.1 reached in 1 hop,")
    assert tcp.startswith("MissingProgram traceroute needs CAP_NET_RAW for mode tcp") and "udp needs no" in tcp


# --- in the lab ------------------------------------------------------------------------------------------------------------


async def talkative(lab: Lab, name: str = "router") -> None:
    """Make a router answer every probe, as many as come, and send nobody to another router."""

    def write() -> None:
        for setting, value in (("icmp_ratelimit", "0"), ("conf/all/send_redirects", "0"), ("ip_forward", "1")):
            Path("/proc/sys/net/ipv4", setting).write_text(value)

    in_namespace(lab._namespace(name), write)


async def second_router(lab: Lab) -> str:
    """Plug a second router into the first subnet; it sends everything on to the first one. Returns its address."""
    name, switch, address = lab._namespace("router2"), lab._namespace("switch"), lab.first.address(2)
    await lab._batch(
        [
            f"netns add {name}",
            f"link add eth1 netns {name} address {CISCO}:00:{lab.slot:02x}:21 type veth peer name q1 netns {switch}",
        ]
    )
    await lab._batch([f"link set q1 master {lab.first.bridge} up"], switch)
    await talkative(lab, "router2")
    lines = ["link set lo up", f"addr add {address}/24 dev eth1", "link set eth1 up"]
    await lab._batch([*lines, f"route add default via {lab.first.gateway}"], name)
    in_namespace(name, lambda: Path("/proc/sys/net/ipv4/conf/eth1/send_redirects").write_text("0"))
    await lab._links_up()
    return address


@pytest.mark.lab
@needs_lab
async def test_every_mode_sees_the_routers_and_the_target_behind_them(perform: Perform) -> None:
    async with Lab() as lab:
        await talkative(lab)
        camera = await lab.add("camera", 11, f"{AXIS}:00:00:11", subnet="cameras", services=[http()], ipv6=True)
        for given, state in (
            ({"mode": "udp"}, None),
            ({"mode": "icmp"}, None),
            ({"mode": "tcp", "port": 80}, "open"),
            ({"mode": "tcp", "port": 81}, "closed"),
        ):
            result = await perform(
                traceroute, {"targets": [camera.address], "names": False, **given}, policy=policy_of(lab)
            )
            (found,) = result.targets
            assert [hop.answers[0].address for hop in found.hops] == [lab.first.gateway, camera.address], given
            assert (found.outcome, found.distance, found.port_state, found.silent_after) == ("reached", 2, state, 0)
            assert all(hop.lost == 0 and len(hop.answers[0].times_ms) == 3 for hop in found.hops)
        result = await perform(traceroute, {"targets": [camera.address6], "names": False}, policy=policy_of(lab))
        (found,) = result.targets
        # The neighbours of a fresh IPv6 link are slow to be found: the first answer may be to a probe of one hop more.
        assert found.outcome == "reached" and found.hops[-1].answers[0].address == camera.address6
        result = await perform(
            traceroute, {"targets": [camera.address], "names": False, "first_hop": 2}, policy=policy_of(lab)
        )
        assert [hop.hop for hop in result.targets[0].hops] == [2] and result.targets[0].distance == 2


@pytest.mark.lab
@needs_lab
async def test_filters_and_missing_routes_are_told_by_who_refused_and_how(perform: Perform) -> None:
    async with Lab() as lab:
        await talkative(lab)
        await lab.add_all(
            [
                HostSpec("walled", 12, f"{AXIS}:00:00:12", "cameras", services=(http(),)),
                HostSpec("fenced", 13, f"{AXIS}:00:00:13", "cameras"),
            ]
        )
        await lab.firewall("walled", allow_tcp=[80])
        await lab.nft("fenced", "table inet fence {", "chain input {", "type filter hook input priority 0;",
                      "udp dport 33434-33600 reject with icmp type admin-prohibited", "}", "}")  # fmt: skip
        forbidden, missed = lab.subnet("cameras").address(60), lab.subnet("cameras").address(61)
        rules = [
            f"ip daddr {forbidden} reject with icmp type admin-prohibited",
            f"ip daddr {missed} reject with icmp type host-unreachable",
        ]
        chain = "\n".join(
            ["table inet fence {", "chain forward {", "type filter hook forward priority 0;", *rules, "}", "}\n"]
        )
        await run_command(
            ["ip", "netns", "exec", lab._namespace("router"), "nft", "-f", "-"], timeout=10, stdin=chain.encode()
        )
        hosts = {name: lab.hosts[name].address for name in ("walled", "fenced")}
        params: dict[str, Any] = {"targets": list(hosts.values()), "names": False, "max_hops": 4, "timeout": 1}
        result = await perform(traceroute, params, policy=policy_of(lab))
        walled, fenced = result.targets
        assert (walled.outcome, walled.detail) == ("no_answer", f"the last answer is from {lab.first.gateway}, hop 1")
        assert (walled.silent_after, walled.distance, walled.complete) == (3, None, True)
        assert (fenced.outcome, fenced.detail) == ("reached", "it answers, and says: forbidden by a filter")
        assert fenced.hops[1].answers[0].code == "!X"
        assert result.headline() == "2 targets: 1 reached, 1 no answer"
        result = await perform(traceroute, {**params, "targets": [forbidden, missed]}, policy=policy_of(lab))
        prohibited, missing = result.targets
        assert (prohibited.outcome, missing.outcome) == ("unreachable", "unreachable")
        assert prohibited.detail == f"{lab.first.gateway} says: forbidden by a filter"
        assert missing.detail == f"{lab.first.gateway} says: host unreachable"
        assert result.headline() == "2 targets: 2 unreachable" and not result.reached()
        # What stops datagrams lets the web through.
        result = await perform(
            traceroute, {**params, "targets": [hosts["walled"]], "mode": "tcp"}, policy=policy_of(lab)
        )
        assert (result.targets[0].outcome, result.targets[0].port_state) == ("reached", "open")


@pytest.mark.lab
@needs_lab
async def test_without_a_route_nothing_is_sent_and_the_error_says_so(perform: Perform) -> None:
    async with Lab() as lab:
        target = f"10.{lab.slot}.62.5"
        await run_command(["ip", "route", "add", "unreachable", f"{target}/32"], timeout=10)
        try:
            async with lab.counting("ip or arp") as sent:
                with pytest.raises(Unreachable, match=rf"Nothing could be sent to {target}: no route to host"):
                    await perform(traceroute, {"targets": [target], "names": False}, policy=policy_of(lab))
                with pytest.raises(Refused):
                    await perform(traceroute, {"targets": [lab.subnet("cameras").gateway]})
                with pytest.raises(Refused, match="9100"):
                    await perform(
                        traceroute,
                        {"targets": [lab.first.gateway], "mode": "tcp", "port": 9100},
                        policy=policy_of(lab),
                    )
            assert sent.total == 0
        finally:
            await run_command(["ip", "route", "del", "unreachable", f"{target}/32"], timeout=10)


@pytest.mark.lab
@needs_lab
async def test_several_at_once_stay_within_the_share_and_each_within_its_own_cap(perform: Perform) -> None:
    async with Lab() as lab:
        await talkative(lab)
        camera = await lab.add("camera", 11, f"{AXIS}:00:00:11", subnet="cameras", services=[http()])
        nobody = [f"10.{lab.slot}.2.{n}" for n in range(100, 103)]
        async with lab.counting("udp") as datagrams, lab.counting("tcp") as segments:
            await asyncio.gather(
                perform(
                    traceroute,
                    {"targets": nobody, "names": False, "max_hops": 8, "timeout": 0.5},
                    policy=policy_of(lab, packets_per_second=10),
                ),
                perform(
                    traceroute,
                    {"targets": [camera.address], "names": False, "mode": "tcp", "probes": 8, "max_hops": 2},
                    policy=policy_of(lab, host_packets_per_second=4),
                ),
            )
        assert datagrams.total == 3 * 8 * 3 and 25 < datagrams.worst(5) <= 50
        assert segments.total == 8 + 2 * 8 and 10 < segments.worst(5) <= 20


@pytest.mark.lab
@needs_lab
async def test_what_was_seen_before_a_kill_or_the_deadline_is_kept_and_no_process_stays(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Lab() as lab:
        await talkative(lab)
        await lab.add("walled", 12, f"{AXIS}:00:00:12", subnet="cameras")
        await lab.firewall("walled")
        params = {"targets": [lab.hosts["walled"].address], "names": False, "timeout": 5}
        tracing = asyncio.ensure_future(perform(traceroute, params, policy=policy_of(lab)))
        async with asyncio.timeout(20):
            while not processes_of("traceroute") and not processes_of("traceroute.db"):
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        (running,) = processes_of("traceroute")
        os.kill(running, 9)
        (cut,) = (await tracing).targets
        assert (cut.complete, cut.outcome) == (False, "no_answer")
        assert [hop.answers[0].address for hop in cut.hops] == [lab.first.gateway]
        assert cut.detail is not None and "cut off after hop" in cut.detail

        monkeypatch.setattr(Traceroute, "deadline", lambda _self: REPORTING_SECONDS + 1.5)
        result = await perform(
            traceroute, {**params, "targets": [lab.hosts["walled"].address, lab.first.gateway]}, policy=policy_of(lab)
        )
        cut, whole = result.targets
        assert (cut.complete, whole.complete, whole.outcome) == (False, True, "reached")
        monkeypatch.setattr(Traceroute, "deadline", lambda _self: REPORTING_SECONDS + 0.1)
        result = await perform(traceroute, params, policy=policy_of(lab))
        assert result.targets[0].outcome == "not_tried" and not result.reached()
        assert processes_of("traceroute") == []
        async with lab.counting("udp") as sent:
            await asyncio.sleep(0.3)
        assert sent.total == 0


# --- the last time ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def book(postgres: Any, database_name: str, tmp_path: Path) -> Iterator[Ledger]:
    database = Database(postgres.url("app", database_name))
    yield Ledger(lambda: database, tmp_path / "journal")
    database.close()


@pytest.mark.lab
@needs_lab
async def test_a_change_of_the_way_since_the_last_run_is_said_hop_by_hop(perform: Perform, book: Ledger) -> None:
    async with Lab() as lab:
        await talkative(lab)
        other = await second_router(lab)
        camera = await lab.add("camera", 11, f"{AXIS}:00:00:11", subnet="cameras")

        async def trace_it(*more: str, mode: str = "udp") -> TracerouteResult:
            params = {"targets": [camera.address, *more], "names": False, "mode": mode}
            result: TracerouteResult = await perform(traceroute, params, policy=policy_of(lab), ledger=book)
            return result

        first = await trace_it()
        assert first.targets[0].comparison is None and first.notes == ()
        same = await trace_it(lab.first.gateway)
        assert same.targets[0].comparison is not None and same.targets[1].comparison is None
        assert (same.targets[0].comparison.changed, same.targets[0].comparison.changes) == (False, ())
        route = ["ip", "route", "replace", lab.subnet("cameras").cidr, "via", other, "dev", lab.interface]
        await run_command(route, timeout=10)
        assert (await trace_it(mode="icmp")).targets[0].comparison is None, "another mode is another question"
        changed = await trace_it()
        comparison = changed.targets[0].comparison
        assert comparison is not None and comparison.changed
        assert [(change.hop, change.kind, change.before, change.now) for change in comparison.changes] == [
            (1, "changed", (lab.first.gateway,), (other,)),
            (2, "changed", (camera.address,), (lab.first.gateway,)),
            (3, "added", (), (camera.address,)),
        ]
        assert "another way than last time (hop 1, 2, 3)" in changed.headline()
        runs = await book.last_results(
            "default", "traceroute", target=camera.address, since=datetime(2020, 1, 1, tzinfo=UTC)
        )
        assert len(runs) == 4 and comparison.with_run == str(runs[2].tool_run_id)
        assert await book.last_results("branch", "traceroute", target=camera.address, since=runs[-1].at) == []


async def test_without_a_database_it_says_that_it_could_not_compare(perform: Perform, tmp_path: Path) -> None:
    gone = Database("postgresql+psycopg2://app:secret@/signalbox?host=/nowhere")
    book = Ledger(lambda: gone, tmp_path / "journal")
    result = await perform(traceroute, {"targets": ["127.0.0.1"], "names": False}, ledger=book)
    assert result.reached() and any("Not compared with the last run: the database" in note for note in result.notes)
    result = await perform(traceroute, {"targets": ["127.0.0.1"], "names": False, "compare": False}, ledger=book)
    assert result.notes == ()


async def test_a_result_too_large_for_the_ledger_keeps_the_way_and_drops_single_times(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.network.probe import traceroute as module

    async def long_way(job: Any, *, timeout: float) -> Trace:
        hops = [Hop(n, [Answer(f"10.{n}.0.1", [1.5] * 5), Answer(f"10.{n}.0.2", [2.25] * 5)]) for n in range(1, 31)]
        return Trace(tuple(hops), ended=True)

    monkeypatch.setattr(module, "trace", long_way)
    targets = [f"127.0.0.{n}" for n in range(1, 9)]
    result = await perform(traceroute, {"targets": targets, "names": False, "probes": 10})
    assert len(result.model_dump_json()) <= 64_000 and RESULT_BYTES < 64_000
    assert all(len(hop.answers[0].times_ms) == 1 for hop in result.targets[0].hops)
    assert any("only the shortest" in note for note in result.notes)


async def test_a_program_that_fails_for_another_reason_is_an_error(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "traceroute"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'Bad option' >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(CommandFailed, match=r"traceroute failed for 127\.0\.0\.1: Bad option"):
        await perform(traceroute, {"targets": ["127.0.0.1"]})
