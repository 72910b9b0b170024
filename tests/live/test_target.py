"""A real host: SIGNALBOX_LIVE_TARGET=host or host:port; it answers ICMP echo, and TCP on that port (default 443)."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from tasks.network.probe.ping import ping
from tasks.network.probe.tcp_port_check import tcp_port_check

pytestmark = pytest.mark.live


@pytest.fixture
def target(live_url: str) -> tuple[str, int]:
    host, _, port = live_url.rpartition(":") if live_url.rpartition(":")[2].isdigit() else (live_url, "", "443")
    return host.strip("[]"), int(port)


@pytest.fixture
def policy(target: tuple[str, int]) -> ProbePolicy:
    """Allows the addresses of this one host and nothing else."""
    found = {entry[4][0] for entry in socket.getaddrinfo(target[0], None)}
    return ProbePolicy(allow=sorted(str(ipaddress.ip_address(str(address).partition("%")[0])) for address in found))


async def test_the_host_answers_to_ping(perform: Any, target: tuple[str, int], policy: ProbePolicy) -> None:
    result = await perform(ping, {"targets": [target[0]], "count": 3, "interval": 0.3}, policy=policy)
    assert result.hosts[0].outcome == "answered" and result.hosts[0].received >= 1


async def test_the_host_has_the_port_open(perform: Any, target: tuple[str, int], policy: ProbePolicy) -> None:
    result = await perform(tcp_port_check, {"targets": [target[0]], "ports": str(target[1])}, policy=policy)
    assert result.hosts[0].ports[0].state == "open"
