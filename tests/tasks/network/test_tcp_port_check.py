"""`tcp_port_check` on loopback, and in a laboratory network with firewalls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import time
from typing import Self

import pytest

from blocks.policy import ProbePolicy
from tasks.core.errors import Busy, InvalidParameters, NotFound, Refused
from tasks.network.probe import tcp_port_check as module
from tasks.network.probe.tcp_port_check import PortState, TcpPortCheck, tcp_port_check
from tests.lab.network import DELL, Lab, banner, needs_lab

QUICK = ProbePolicy(host_packets_per_second=1000)


class Listener:
    """A TCP server that counts connections, and how they ended."""

    def __init__(self, greeting: bytes = b"", answer_close: bool = True) -> None:
        self.greeting, self.answer_close = greeting, answer_close
        self.ends: list[str] = []
        self.now = self.most = 0

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        writer.write(self.greeting)
        try:
            while received := await reader.read(100):
                self.ends.append(f"data {received!r}")
            self.ends.append("fin")
        except ConnectionResetError:
            self.ends.append("reset")
        self.now -= 1
        if self.answer_close:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
async def lab():
    async with Lab() as lab:
        yield lab


async def test_open_and_closed_ports_are_told_apart_with_their_times(perform):
    closed = closed_port()
    async with Listener() as listener:
        given = {"targets": ["127.0.0.1"], "ports": f"{listener.port},{closed}"}
        (host,) = (await perform(tcp_port_check, given, policy=QUICK)).hosts
    states = {port.port: port for port in host.ports}
    assert states[listener.port].state == PortState.OPEN and states[listener.port].detail is None
    assert states[closed].state == PortState.CLOSED and states[closed].detail == "connection refused"
    assert all(0 < port.time_ms < 1000 for port in host.ports)


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-test\r\n", b"x" * 100_000])
async def test_the_connection_is_closed_cleanly_and_nothing_is_said(perform, greeting):
    async with Listener(greeting) as listener:
        await perform(tcp_port_check, {"targets": ["127.0.0.1"], "ports": listener.port}, policy=QUICK)
        await asyncio.sleep(0.1)
        assert listener.ends == ["fin"]


async def test_a_server_that_does_not_close_holds_nothing_up(perform):
    async with Listener(answer_close=False) as listener:
        began = time.monotonic()
        result = await perform(tcp_port_check, {"targets": ["127.0.0.1"], "ports": listener.port}, policy=QUICK)
        assert result.hosts[0].ports[0].state == PortState.OPEN and time.monotonic() - began < 8


async def test_a_host_gets_one_connection_at_a_time(perform):
    async with Listener(answer_close=False) as listener:
        ports = [listener.port]
        for _ in range(4):
            another = await asyncio.start_server(listener._serve, "127.0.0.1", 0)
            ports.append(another.sockets[0].getsockname()[1])
        await perform(tcp_port_check, {"targets": ["127.0.0.1"], "ports": ports}, policy=QUICK)
        assert len(listener.ends) == 5 and listener.most == 1


async def test_connections_to_one_host_are_spaced_by_its_cap(perform):
    ports = "1-5"
    began = time.monotonic()
    await perform(
        tcp_port_check, {"targets": ["127.0.0.1"], "ports": ports}, policy=ProbePolicy(host_packets_per_second=20)
    )
    assert time.monotonic() - began >= 4 * 5 / 20


async def test_connections_are_paced_by_the_site_s_budget(perform):
    policy = ProbePolicy(packets_per_second=100, host_packets_per_second=0)
    began = time.monotonic()
    await perform(tcp_port_check, {"targets": [f"127.0.3.{n}" for n in range(21)], "ports": "1"}, policy=policy)
    assert time.monotonic() - began > 0.9


async def test_ipv6_works_too(perform):
    server = await asyncio.start_server(lambda r, w: w.close(), "::1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await perform(tcp_port_check, {"targets": ["::1"], "ports": port})
    server.close()
    assert result.hosts[0].ports[0].state == PortState.OPEN


async def test_a_machine_without_ipv6_says_nothing_about_the_port(monkeypatch):
    """What never left this machine is no answer of the host: it is not closed."""

    def none(*_):
        raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")

    monkeypatch.setattr(module.socket, "socket", none)
    seen = await module.connect("::1", 80, 1)
    assert seen.state == PortState.UNREACHABLE and "address family" in seen.detail


async def test_every_target_has_an_entry_in_the_order_asked(perform):
    async with Listener() as listener:
        given = {"targets": ["no-such-host.invalid", "127.0.0.1", "127.0.0.9"], "ports": listener.port}
        result = await perform(tcp_port_check, given, policy=QUICK)
    assert [host.target for host in result.hosts] == given["targets"]
    assert result.hosts[0].address is None and "does not resolve" in result.hosts[0].detail
    assert [host.ports[0].state for host in result.hosts[1:]] == ["open", "closed"]
    assert result.headline() == "3 hosts: 1 open, 1 closed, 1 unresolved"


async def test_one_host_is_told_in_a_line(perform):
    result = await perform(tcp_port_check, {"targets": ["127.0.0.1"], "ports": "3,1,2"}, policy=QUICK)
    assert result.headline() == "127.0.0.1: 1-3 closed"


async def test_what_policy_forbids_is_not_connected_to(perform):
    with pytest.raises(Refused, match=r"192\.0\.2\.1 is not allowed"):
        await perform(tcp_port_check, {"targets": ["192.0.2.1"], "ports": "80"})
    with pytest.raises(Refused, match="9100 must never be touched"):
        await perform(tcp_port_check, {"targets": ["127.0.0.1"], "ports": "80,9100"})
    with pytest.raises(NotFound):
        await perform(tcp_port_check, {"targets": ["no-such-host.invalid"], "ports": "80"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": ["127.0.0.1"]}, "ports"),
        ({"targets": ["127.0.0.1"], "ports": ""}, "not a port"),
        ({"targets": ["127.0.0.1"], "ports": "0"}, "not a port range"),
        ({"targets": ["127.0.0.1"], "ports": "1-1000"}, "nmap is the tool"),
        ({"targets": ["127.0.0.0/30"], "ports": "80"}, "single hosts"),
    ],
)
async def test_a_wrong_parameter_is_named(perform, given, said):
    with pytest.raises(InvalidParameters, match=said):
        await perform(tcp_port_check, given)


async def test_running_out_of_sockets_is_busy_and_no_port_is_called_closed(perform):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(socket.socket())
        with pytest.raises(Busy, match="too many open files"):
            await module.connect("127.0.0.1", 1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in taken:
            sock.close()


async def test_a_deadline_keeps_what_was_found(perform, monkeypatch):
    monkeypatch.setattr(TcpPortCheck, "deadline", lambda self: module.REPORTING_SECONDS + 0.6)
    given = {"targets": ["127.0.0.1"], "ports": "1-100"}
    (host,) = (await perform(tcp_port_check, given, policy=ProbePolicy(host_packets_per_second=50))).hosts
    assert 2 < len(host.having(PortState.CLOSED)) < 20
    assert len(host.having(PortState.CLOSED)) + len(host.having(PortState.NOT_TRIED)) == 100


# --- a network -------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_dropped_rejected_and_absent_are_told_apart(perform, lab):
    await lab.add("wall", 11, f"{DELL}:00:00:11")
    await lab.add("picky", 12, f"{DELL}:00:00:12")
    await lab.firewall("wall", allow_tcp=[80])
    await lab.nft(
        "picky",
        "table inet wall {",
        "chain input {",
        "type filter hook input priority 0; policy accept;",
        "tcp dport 81 reject with icmpx type admin-prohibited",
        "tcp dport 82 reject with tcp reset",
        "tcp dport 83 reject with icmpx type host-unreachable",
        "}",
        "}",
    )
    targets = [lab.first.address(11), lab.first.address(12), lab.first.address(99), lab.subnets["cameras"].address(99)]
    policy = ProbePolicy(allow=["10.0.0.0/8"], host_packets_per_second=0)
    result = await perform(tcp_port_check, {"targets": targets, "ports": "80-83"}, policy=policy)
    wall, picky, absent, beyond = result.hosts
    assert [port.state for port in wall.ports] == ["closed", "filtered", "filtered", "filtered"]
    assert "nothing came back within 4 s" in wall.ports[1].detail
    assert [port.state for port in picky.ports] == ["closed", "filtered", "closed", "filtered"]
    assert "rejected by a filter" in picky.ports[1].detail
    assert {port.state for port in absent.ports} == {"unreachable"}
    assert {port.state for port in beyond.ports} == {"unreachable"}


@pytest.mark.lab
@needs_lab
async def test_what_we_send_stays_within_the_budget_also_when_everything_is_open(perform, lab):
    big = await lab.add("big", 10, f"{DELL}:00:00:10", services=[banner(2222, "hello\r\n")])
    await lab.answer_prefix(big, lab.prefix(24))
    base = lab.prefix(24).split("/")[0].rsplit(".", 1)[0]
    policy = ProbePolicy(allow=[lab.prefix(24)], packets_per_second=200, host_packets_per_second=0)
    async with lab.counting("tcp") as sent:
        targets = [f"{base}.{n}" for n in range(200)]
        result = await perform(tcp_port_check, {"targets": targets, "ports": "2222"}, policy=policy)
    assert {host.ports[0].state for host in result.hosts} == {"open"}
    assert sent.worst(seconds=5) <= 1000
