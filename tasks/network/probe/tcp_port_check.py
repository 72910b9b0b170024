"""`tcp_port_check`: which of a few ports hosts accept connections on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.core.errors import Busy
from tasks.core.models import (
    Example,
    PortList,
    ProbeParams,
    Safety,
    Scope,
    Service,
    ToolResult,
    format_ports,
    parse_ports,
)
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count

TIMEOUT_SECONDS = 600.0
MAX_PORTS = 256
IN_FLIGHT = 64
"""Hosts checked at once; each has one connection at a time, so that no host's queue fills up."""
PACKETS_PER_CONNECTION = 6
"""Packets we send for a connection that is accepted: SYN, ACK, FIN, the ACK of theirs, one for a greeting, and one that the kernel sends
again. Paid before the first."""
FAREWELL_SECONDS = 0.5
"""Longest wait for the other side's end of a clean close."""
REPORTING_SECONDS = 3.0

_NO_WAY = {
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
    errno.EAFNOSUPPORT,
}
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class PortState(StrEnum):
    """What a port did with a connection."""

    OPEN = "open"  # accepted it
    CLOSED = "closed"  # the host is there and said no
    FILTERED = "filtered"  # nothing came back, or a filter said no
    UNREACHABLE = "unreachable"  # a router, or this machine, says that packets do not get there
    NOT_TRIED = "not_tried"  # the deadline came first


def _few(ports: str) -> str:
    number = len(parse_ports(ports))
    if number > MAX_PORTS:
        raise ValueError(f"names {number} ports; at most {MAX_PORTS} here, nmap is the tool for more")
    return ports


class TcpPortCheck(ProbeParams):
    """Parameters of `tcp_port_check`."""

    ports: Annotated[PortList, AfterValidator(_few)] = Field(
        description=f"TCP ports such as 22,80,8000-8010; at most {MAX_PORTS}."
    )
    timeout: float = Field(
        4.0,
        ge=0.1,
        le=30,
        description="Seconds to wait for each connection, 0.1 to 30. Below 4 a host that does not exist on this "
        "machine's own network shows as filtered: the kernel looks for it for 3 s.",
    )

    def scope(self) -> Scope:
        want = min(1000, max(50, 20 * len(self.targets)))
        return Scope(targets=tuple(self.targets), ports=parse_ports(self.ports), packets_per_second=want)

    def deadline(self) -> float:
        ports = len(parse_ports(self.ports))
        silent = -(-len(self.targets) // IN_FLIGHT) * ports * (self.timeout + 0.1)
        paced = len(self.targets) * ports * PACKETS_PER_CONNECTION / self.scope().least_packets_per_second
        return min(TIMEOUT_SECONDS, silent + paced + 10 + REPORTING_SECONDS)

    def about(self) -> str:
        return f"{super().about()[:400]} ports {self.ports}"[:500]


class CheckedPort(BaseModel):
    """One port of one host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(description="TCP port.")
    state: PortState = Field(description="open, closed, filtered, unreachable or not_tried.")
    time_ms: float | None = Field(None, description="From the first packet to the answer, milliseconds.")
    detail: str | None = Field(None, description="What the system or the network said.")


class HostPorts(BaseModel):
    """The ports of one host, or why there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    address: str | None = Field(None, description="The address that was checked; None when the name does not resolve.")
    detail: str | None = Field(None, description="Why nothing was checked.")
    ports: list[CheckedPort] = Field(default_factory=list, description="One entry for each port.")

    def having(self, state: PortState) -> list[int]:
        """Ports in this state."""
        return [port.port for port in self.ports if port.state == state]


class TcpPortCheckResult(ToolResult):
    """An entry for each target, in the order asked."""

    hosts: list[HostPorts] = Field(description="One entry for each target.")

    def headline(self) -> str:
        if len(self.hosts) == 1:
            return _one_line(self.hosts[0])
        counts = Counter(port.state for host in self.hosts for port in host.ports)
        found = [f"{counts[state]} {state.replace('_', ' ')}" for state in PortState if state in counts]
        unresolved = sum(host.address is None for host in self.hosts)
        found += [f"{unresolved} unresolved"] if unresolved else []
        return f"{count(len(self.hosts), 'host')}: {', '.join(found)}"

    def reached(self) -> bool:
        # A port that refuses is an answer of the host.
        return any(port.state in (PortState.OPEN, PortState.CLOSED) for host in self.hosts for port in host.ports)


def _one_line(host: HostPorts) -> str:
    if host.address is None:
        return f"{host.target}: {host.detail}"
    states = [(state.replace("_", " "), host.having(state)) for state in PortState]
    return f"{host.target}: " + ", ".join(f"{format_ports(ports)} {state}" for state, ports in states if ports)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=2,
    aliases=("tcp_check", "port_check"),
    examples=[
        Example("Is there a web server on this machine?", {"targets": ["127.0.0.1"], "ports": "80,443"}),
        Example("Do the cameras take RTSP?", {"targets": ["10.0.0.11", "10.0.0.12"], "ports": "554", "timeout": 4}),
    ],
)
async def tcp_port_check(params: TcpPortCheck) -> TcpPortCheckResult:
    """Tell open, closed, filtered and unreachable TCP ports of hosts apart.

    Every check is a full connection and a clean close, one at a time for each host. Of a name with several addresses, the
    one the resolver prefers is checked. A host that does not answer is a result, not an error.

    Raises:
        NotFound: No target's name resolves (of several, those that do not say so in `detail`).
        Busy: This machine is out of sockets or local ports.
    """
    run = current_run()
    assert run.grant is not None
    ports = run.grant.ports
    checks = {target.asked: _Check(target.asked, target.addresses[0], ports) for target in run.grant.targets}
    pacer = Pacer(run.packets_per_second)
    slots = asyncio.Semaphore(IN_FLIGHT)
    # What one host may get is less than what the site may send.
    pause = PACKETS_PER_CONNECTION / run.policy.host_packets_per_second if run.policy.host_packets_per_second else 0.0

    async def one(check: _Check) -> None:
        async with slots:
            await check.run(params.timeout, pacer, pause)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            try:
                async with asyncio.TaskGroup() as group:
                    for check in checks.values():
                        group.create_task(one(check))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
    found = {asked: check.summary() for asked, check in checks.items()}
    for missing in run.grant.unresolved:
        found[missing.asked] = HostPorts(target=missing.asked, detail=missing.error.message)
    return TcpPortCheckResult(hosts=[found[target] for target in params.targets])


@dataclass
class _Check:
    """The ports of one host as their states come in, so that a deadline loses none."""

    asked: str
    address: str
    ports: tuple[int, ...]
    done: dict[int, CheckedPort] = field(default_factory=dict)

    async def run(self, timeout: float, pacer: Pacer, pause: float) -> None:
        for number, port in enumerate(self.ports):
            if number:
                await asyncio.sleep(pause)
            await pacer.wait(PACKETS_PER_CONNECTION)
            self.done[port] = await connect(self.address, port, timeout)

    def summary(self) -> HostPorts:
        states = [self.done.get(port) or CheckedPort(port=port, state=PortState.NOT_TRIED) for port in self.ports]
        if any(found.state in {PortState.OPEN, PortState.CLOSED} for found in states):
            # The host is there: who says "unreachable" about some of its ports is a filter (firewalls reject that way).
            states = [
                found.model_copy(
                    update={"state": PortState.FILTERED, "detail": f"rejected by a filter: {found.detail}"}
                )
                if found.state == PortState.UNREACHABLE
                else found
                for found in states
            ]
        return HostPorts(target=self.asked, address=self.address, ports=states)


async def connect(address: str, port: int, timeout: float) -> CheckedPort:
    """Connect to a port, close the connection cleanly, and say what the port did.

    Raises:
        Busy: This machine is out of sockets or local ports.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(sock, (address, port))
            elapsed = time.perf_counter() - began
            await _say_goodbye(sock)
    except TimeoutError as problem:
        said = "the network gave up" if problem.errno else f"nothing came back within {timeout:g} s"
        return CheckedPort(port=port, state=PortState.FILTERED, detail=said)
    except OSError as problem:
        elapsed = time.perf_counter() - began
        if problem.errno in _OUT_OF:
            raise Busy(
                f"This machine cannot open more connections: {os.strerror(problem.errno or 0).lower()}.",
                hint="Try again in a minute, or raise its limit of open files.",
                retry_after=60,
            ) from None
        state = PortState.UNREACHABLE if problem.errno in _NO_WAY else PortState.CLOSED
        return CheckedPort(
            port=port, state=state, time_ms=round(elapsed * 1000, 3), detail=os.strerror(problem.errno or 0).lower()
        )
    return CheckedPort(port=port, state=PortState.OPEN, time_ms=round(elapsed * 1000, 3))


async def _say_goodbye(sock: socket.socket) -> None:
    """Close cleanly: FIN, then read to the other side's. Closing with unread data would send a reset."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(FAREWELL_SECONDS):
            for _ in range(16):
                if not await loop.sock_recv(sock, 65536):
                    return
