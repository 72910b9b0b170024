"""`ping` on loopback, and in a laboratory network with hosts that are silent, filtered or not there."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from blocks.policy import ProbePolicy
from tasks.core.errors import (
    CommandFailed,
    InvalidParameters,
    MissingProgram,
    NotFound,
    Refused,
    ToolTimeout,
    Unreachable,
)
from tasks.core.process import Completed
from tasks.network.probe import ping as module
from tasks.network.probe._icmp import Pinger, open_socket
from tasks.network.probe.ping import HostPing, Ping, PingOutcome, PingResult, _Measured, ping, read_program_output
from tests.lab.network import DELL, Lab, in_namespace, needs_lab

LAB_POLICY = ProbePolicy(allow=["10.0.0.0/8", "fd00::/8", "127.0.0.0/8", "::1", "192.0.2.0/24"])


def can_ping() -> bool:
    try:
        open_socket(4).close()
    except PermissionError:
        return False
    return True


needs_icmp = pytest.mark.skipif(not can_ping(), reason="needs net.ipv4.ping_group_range or CAP_NET_RAW")


@pytest.fixture
def no_sockets(monkeypatch):
    """The kernel gives this process no ICMP socket: the program has to do it."""

    def refuse(version: int) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module, "open_socket", refuse)


@pytest.fixture
async def lab():
    async with Lab() as lab:
        yield lab


# --- loopback --------------------------------------------------------------------------------------------------------


@needs_icmp
@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_a_host_that_answers_has_its_times(perform, target):
    result = await perform(ping, {"targets": [target], "count": 3, "interval": 0.2})
    (host,) = result.hosts
    assert host.outcome == PingOutcome.ANSWERED and (host.sent, host.received, host.loss_percent) == (3, 3, 0.0)
    assert 0 < host.min_ms <= host.avg_ms <= host.max_ms < 1000 and host.stddev_ms >= 0
    assert result.headline().startswith(f"{host.address} answered 3 of 3")
    assert result.method in {"datagram socket", "raw socket"}


@needs_icmp
async def test_a_reply_is_timed_by_the_kernel_not_by_when_we_looked(perform):
    asyncio.get_running_loop().call_later(0.05, time.sleep, 0.4)  # somebody blocks the loop
    result = await perform(ping, {"targets": ["127.0.0.1"], "count": 3, "interval": 0.2})
    assert result.hosts[0].max_ms < 100


@needs_icmp
async def test_every_target_has_an_outcome_in_the_order_asked(perform):
    targets = ["no-such-host.invalid", "127.0.0.3", "localhost", "::1"]
    result = await perform(ping, {"targets": targets, "count": 1})
    assert [host.target for host in result.hosts] == targets
    assert [host.outcome for host in result.hosts] == ["unresolved", "answered", "answered", "answered"]
    assert "does not resolve" in result.hosts[0].detail
    assert result.headline() == "4 hosts: 3 answered, 1 unresolved"


def test_hosts_that_answer_now_and_then_are_not_counted_like_those_that_always_do():
    hosts = [
        HostPing(target=f"10.0.0.{number}", outcome=PingOutcome.ANSWERED, sent=5, received=received)
        for number, received in enumerate((5, 1, 5, 4))
    ]
    assert PingResult(hosts=hosts, method="raw socket").headline() == "4 hosts: 4 answered, 2 of them not always"
    assert PingResult(hosts=hosts[::2], method="raw socket").headline() == "2 hosts: 2 answered"


async def test_a_name_that_does_not_resolve_is_not_found_when_it_is_the_only_target(perform):
    with pytest.raises(NotFound, match=r"no-such-host\.invalid does not resolve"):
        await perform(ping, {"targets": ["no-such-host.invalid"]})


async def test_nothing_is_sent_where_policy_does_not_allow_it(perform, monkeypatch):
    monkeypatch.setattr(module, "open_socket", lambda version: pytest.fail("a socket was opened"))
    with pytest.raises(Refused):
        await perform(ping, {"targets": ["127.0.0.1", "192.0.2.1"]})


@needs_icmp
async def test_256_hosts_are_paced_by_the_site_s_budget(perform):
    policy = ProbePolicy(packets_per_second=250)
    began = time.monotonic()
    result = await perform(ping, {"targets": [f"127.0.1.{n}" for n in range(256)], "count": 1}, policy=policy)
    assert {host.outcome for host in result.hosts} == {"answered"}
    assert 0.95 < time.monotonic() - began < 5


@needs_icmp
async def test_one_host_is_paced_by_its_own_cap(perform):
    policy = ProbePolicy(host_packets_per_second=2)
    began = time.monotonic()
    await perform(ping, {"targets": ["127.0.0.1"], "count": 3, "interval": 0.2}, policy=policy)
    assert time.monotonic() - began > 0.95


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": []}, "targets"),
        ({"targets": ["10.0.0.0/24"]}, "single hosts"),
        ({"targets": [f"10.0.{n}.1" for n in range(257)]}, "targets"),
        ({"targets": ["10.0.0.1"], "count": 0}, "count"),
        ({"targets": ["10.0.0.1"], "interval": 0.1}, "interval"),
        ({"targets": ["10.0.0.1"], "count": 100, "interval": 10}, "more than the 600 s"),
        ({"targets": ["10.0.0.1"], "size": 65000}, "size"),
    ],
)
async def test_a_wrong_parameter_is_named(perform, given, said):
    with pytest.raises(InvalidParameters, match=said):
        await perform(ping, given)


def test_parameters_that_are_accepted_fit_their_deadline():
    params = Ping(targets=[f"10.0.0.{n}" for n in range(1, 251)], count=20)
    assert params.deadline() <= 600


@needs_icmp
async def test_a_deadline_keeps_what_was_measured(perform, monkeypatch):
    monkeypatch.setattr(Ping, "deadline", lambda self: module.REPORTING_SECONDS + 0.7)
    result = await perform(ping, {"targets": [f"127.0.2.{n}" for n in range(70)], "count": 4, "interval": 0.5})
    outcomes = {host.outcome for host in result.hosts}
    assert outcomes == {"answered", "not_tried"}
    assert all(host.received < 4 for host in result.hosts)


@needs_icmp
async def test_replies_to_somebody_else_are_not_ours():
    with Pinger(open_socket(4), 4, 56) as ours, Pinger(open_socket(4), 4, 56) as theirs:
        theirs._identifier, theirs._next = ours._identifier, ours._next
        mine, other = await asyncio.gather(ours.echo("127.0.0.1", 1), theirs.echo("127.0.0.2", 0.2))
        assert mine.rtt_ms is not None and other.rtt_ms is not None
        assert mine.address == "127.0.0.1" and other.address == "127.0.0.2"


# --- the program -----------------------------------------------------------------------------------------------------


async def test_the_program_measures_where_no_socket_is_allowed(perform, no_sockets):
    try:
        result = await perform(ping, {"targets": ["127.0.0.1", "::1"], "count": 3, "interval": 0.2})
    except MissingProgram as error:
        pytest.skip(str(error))
    assert result.method == "program"
    assert [(host.outcome, host.sent, host.received) for host in result.hosts] == [("answered", 3, 3)] * 2
    assert all(0 < host.min_ms <= host.avg_ms <= host.max_ms for host in result.hosts)


async def test_without_the_program_the_hint_says_how_to_get_it(perform, no_sockets, monkeypatch):
    monkeypatch.setattr("tasks.core.process.search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install iputils-ping"):
        await perform(ping, {"targets": ["127.0.0.1"]})


REPLIES = b"""PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.
64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.314 ms
64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=0.400 ms (DUP!)
64 bytes from 10.0.0.1: icmp_seq=3 ttl=64 time=1005 ms

--- 10.0.0.1 ping statistics ---
3 packets transmitted, 2 received, +1 duplicates, 33.3333% packet loss, time 2004ms
rtt min/avg/max/mdev = 0.314/335.238/1005.000/473.620 ms, pipe 2
"""
NOBODY = b"""PING 10.0.0.9 (10.0.0.9) 56(84) bytes of data.
From 10.0.0.1 icmp_seq=1 Destination Host Unreachable
From 10.0.0.1 icmp_seq=2 Destination Host Unreachable

--- 10.0.0.9 ping statistics ---
2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 1010ms
"""


def test_the_program_s_output_is_read():
    host = _Measured("x", "10.0.0.1")
    read_program_output(host, REPLIES, b"")
    assert (host.sent, host.times, host.errors) == (3, [0.314, 1005.0], [])
    host = _Measured("x", "10.0.0.9")
    read_program_output(host, NOBODY, b"")
    assert (host.sent, host.times) == (2, [])
    assert host.summary().outcome == PingOutcome.UNREACHABLE
    assert host.summary().detail == "10.0.0.1 says: destination host unreachable"


def test_the_program_s_own_problems_are_read():
    host = _Measured("x", "192.0.2.1")
    read_program_output(host, b"", b"ping: connect: Network is unreachable\n")
    assert host.sent == 0 and "network is unreachable" in host.errors[0]
    with pytest.raises(MissingProgram, match="CAP_NET_RAW"):
        read_program_output(
            _Measured("x", "10.0.0.1"), b"", b"ping: socktype: SOCK_RAW\nping: socket: Operation not permitted\n"
        )


async def test_what_a_killed_program_had_said_is_kept(no_sockets, perform, monkeypatch):
    late = ToolTimeout("ping did not end")
    late.partial = Completed(("ping",), -9, REPLIES.split(b"\n\n")[0] + b"\n", b"", False, 1.0)

    async def run(*_, **__):
        raise late

    monkeypatch.setattr(module, "run_command", run)
    (host,) = (await perform(ping, {"targets": ["127.0.0.1"]})).hosts
    assert (host.outcome, host.received) == (PingOutcome.ANSWERED, 2)


async def test_an_error_of_the_program_that_says_nothing_is_a_failure(no_sockets, perform, monkeypatch):
    async def run(argv, **_):
        return Completed(tuple(argv), 2, b"", b"ping: something new\n", False, 0.1)

    monkeypatch.setattr(module, "run_command", run)
    with pytest.raises(CommandFailed):
        await perform(ping, {"targets": ["127.0.0.1"]})


# --- a network -------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_answering_silent_absent_and_rejected_hosts_are_told_apart(perform, lab):
    await lab.add("web", 10, f"{DELL}:00:00:10", ipv6=True)
    await lab.add("wall", 11, f"{DELL}:00:00:11")
    await lab.add("far", 12, f"{DELL}:00:00:12", subnet="cameras")
    await lab.firewall("wall")
    far = lab.hosts["far"].subnet
    targets = [lab.first.address(10), lab.hosts["web"].address6, lab.first.address(11), lab.first.address(99)]
    targets += [far.address(12), far.address(99)]
    given = {"targets": targets, "count": 4, "interval": 1.0, "timeout": 1.5}
    result = await perform(ping, given, policy=LAB_POLICY)
    assert [host.outcome for host in result.hosts] == [
        "answered", "answered", "no_answer", "unreachable", "answered", "unreachable",
    ]  # fmt: skip
    silent, absent, beyond = result.hosts[2], result.hosts[3], result.hosts[5]
    assert silent.loss_percent == 100 and silent.sent == 4 and silent.avg_ms is None
    assert absent.detail.endswith("says: host unreachable"), "this machine found nobody who has the address"
    assert beyond.detail == f"{lab.first.gateway} says: host unreachable"


@pytest.mark.lab
@needs_lab
async def test_the_program_tells_them_apart_too(perform, lab, no_sockets):
    await lab.add("wall", 11, f"{DELL}:00:00:11")
    await lab.firewall("wall")
    given = {"targets": [lab.first.address(11), lab.first.address(99)], "count": 4, "timeout": 1}
    result = await perform(ping, given, policy=LAB_POLICY)
    assert [host.outcome for host in result.hosts] == ["no_answer", "unreachable"]
    assert [host.sent for host in result.hosts] == [4, 4]


@pytest.mark.lab
@needs_lab
@pytest.mark.parametrize("version", [4, 6])
async def test_an_unprivileged_datagram_socket_sees_replies_and_errors(lab, version):
    prober = await lab.add("prober", 20, f"{DELL}:00:00:20", ipv6=True)
    await lab.add("web", 10, f"{DELL}:00:00:10", ipv6=True)

    def open_there() -> socket.socket:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        return open_socket(version)

    sock = in_namespace(prober.namespace, open_there)
    assert sock.type == socket.SOCK_DGRAM
    subnet = lab.first
    web, nobody = (
        (subnet.address(10), subnet.address(99))
        if version == 4
        else (str(subnet.network6[10]), str(subnet.network6[99]))
    )
    elsewhere = "192.0.2.1" if version == 4 else "2001:db8::1"
    with Pinger(sock, version, 56) as pinger:
        there, gone, lost = await asyncio.gather(pinger.echo(web, 1), pinger.echo(nobody, 5), pinger.echo(elsewhere, 2))
        again = await pinger.echo(web, 1)
    assert there.rtt_ms and there.error is None
    assert again.rtt_ms and again.error is None, "an earlier request's error is not the next one's"
    assert gone.rtt_ms is None and "host unreachable" in gone.error
    assert lost.rtt_ms is None and "says" in lost.error, "the router has no route there and says so"


@pytest.mark.lab
@needs_lab
async def test_no_route_to_any_target_is_unreachable(perform, lab, monkeypatch):
    prober = await lab.add("prober", 20, f"{DELL}:00:00:20")
    await lab._batch([f"netns exec {prober.namespace} ip route del default"])
    monkeypatch.setattr(
        module, "open_socket", lambda version: in_namespace(prober.namespace, lambda: open_socket(version))
    )
    with pytest.raises(Unreachable, match=r"192\.0\.2\.1: this machine has no route"):
        await perform(ping, {"targets": ["192.0.2.1"], "count": 2}, policy=LAB_POLICY)
    given = {"targets": ["192.0.2.1", prober.address], "count": 1}
    result = await perform(ping, given, policy=LAB_POLICY)
    assert [host.outcome for host in result.hosts] == ["unreachable", "answered"]


@pytest.mark.lab
@needs_lab
async def test_what_we_send_stays_within_the_budget(perform, lab):
    big = await lab.add("big", 10, f"{DELL}:00:00:10")
    await lab.answer_prefix(big, lab.prefix(24))
    base = lab.prefix(24).split("/")[0].rsplit(".", 1)[0]
    policy = ProbePolicy(allow=[lab.prefix(24)], packets_per_second=100)
    async with lab.counting("icmp") as sent:
        targets = [f"{base}.{n}" for n in range(200)]
        result = await perform(ping, {"targets": targets, "count": 4, "interval": 0.2}, policy=policy)
    assert {host.outcome for host in result.hosts} == {"answered"}
    assert sent.total == 800
    assert sent.worst(seconds=5) <= 500
