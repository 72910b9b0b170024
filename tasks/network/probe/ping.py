"""`ping`: are hosts there, and how far away."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import re
import socket
import statistics
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import CommandFailed, MissingProgram, ToolTimeout, Unreachable
from tasks.core.gate import Grant
from tasks.core.models import Example, ProbeParams, Safety, Scope, Service, ToolResult
from tasks.core.process import find_program, run_command
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.probe._icmp import Pinger, open_socket

TIMEOUT_SECONDS = 600.0
IN_FLIGHT = 64
"""Hosts pinged at once; larger bursts lose answers."""
PROGRAMS_AT_ONCE = 16
"""Hosts pinged at once where the `ping` program has to do it: each is a process."""
REPORTING_SECONDS = 3.0
"""Kept of the deadline for the result: what was measured until then is never lost."""


class PingOutcome(StrEnum):
    """What was found out about a host."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"  # nothing came back: off, filtered, or elsewhere
    UNREACHABLE = "unreachable"  # a router, or this machine, says that packets do not get there
    UNRESOLVED = "unresolved"  # its name has no address
    NOT_TRIED = "not_tried"  # the deadline came first


class Ping(ProbeParams):
    """Parameters of `ping`."""

    count: int = Field(4, ge=1, le=100, description="Echo requests to send to each host, 1 to 100.")
    interval: float = Field(1.0, ge=0.2, le=10, description="Seconds between two requests to the same host, 0.2 to 10.")
    timeout: float = Field(2.0, ge=0.1, le=30, description="Seconds to wait for each reply, 0.1 to 30.")
    size: int = Field(56, ge=16, le=1452, description="Bytes of data in each request, 16 to 1452 (one packet).")

    @model_validator(mode="after")
    def _fits_the_deadline(self) -> Ping:
        if (needed := self._seconds(self._wanted_rate())) > TIMEOUT_SECONDS - REPORTING_SECONDS:
            raise ValueError(
                f"{len(self.targets)} targets with {self.count} requests every {self.interval:g} s need {needed:.0f} s, "
                f"more than the {TIMEOUT_SECONDS:.0f} s a ping may take; lower count, interval or timeout, or name fewer targets"
            )
        return self

    def scope(self) -> Scope:
        return Scope(targets=tuple(self.targets), packets_per_second=self._wanted_rate(), least_packets_per_second=10)

    def deadline(self) -> float:
        # With the smallest share of the site's budget it has to work with.
        return min(TIMEOUT_SECONDS, 1.5 * self._seconds(10) + 10 + REPORTING_SECONDS)

    def _wanted_rate(self) -> int:
        """Packets per second at which nothing waits but for the interval."""
        return max(10, math.ceil(min(len(self.targets), IN_FLIGHT) / self.interval / 10) * 10)

    def _seconds(self, packets_per_second: int) -> float:
        rounds = math.ceil(len(self.targets) / IN_FLIGHT)
        undisturbed = rounds * ((self.count - 1) * max(self.interval, self.timeout) + self.timeout)
        return max(undisturbed, len(self.targets) * self.count / packets_per_second + self.timeout)


class HostPing(BaseModel):
    """What `ping` measured of one host. Times are round trips in milliseconds, None without an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    address: str | None = Field(None, description="The address that was pinged.")
    outcome: PingOutcome = Field(description="answered, no_answer, unreachable, unresolved or not_tried.")
    detail: str | None = Field(None, description="Who says why, when it is unreachable or unresolved.")
    sent: int = Field(0, description="Requests sent.")
    received: int = Field(0, description="Replies received.")
    loss_percent: float | None = Field(None, description="Requests without a reply, percent of those sent.")
    min_ms: float | None = Field(None, description="Shortest round trip, milliseconds.")
    avg_ms: float | None = Field(None, description="Mean round trip, milliseconds.")
    max_ms: float | None = Field(None, description="Longest round trip, milliseconds.")
    stddev_ms: float | None = Field(None, description="Standard deviation of the round trips, milliseconds.")


class PingResult(ToolResult):
    """An outcome for each target, in the order asked."""

    hosts: list[HostPing] = Field(description="One entry for each target.")
    method: str = Field(description="How it was measured: datagram socket, raw socket, or program.")

    def headline(self) -> str:
        if len(self.hosts) == 1:
            return _one_line(self.hosts[0])
        counts = Counter(host.outcome for host in self.hosts)
        others = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in PingOutcome if outcome in counts]
        lossy = sum(0 < host.received < host.sent for host in self.hosts)
        if lossy:
            others[0] += f", {lossy} of them not always"
        return f"{count(len(self.hosts), 'host')}: " + ", ".join(others)

    def reached(self) -> bool:
        return any(host.received for host in self.hosts)


def _one_line(host: HostPing) -> str:
    where = host.target if host.address in (None, host.target) else f"{host.target} ({host.address})"
    if host.outcome == PingOutcome.ANSWERED:
        return f"{where} answered {host.received} of {host.sent}, {host.avg_ms:.3g} ms on average"
    said = f"{where} {host.outcome.replace('_', ' ')}"
    return f"{said}: {host.detail}" if host.detail else said


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=2,
    aliases=("shell_ping",),
    programs=("ping",),
    examples=[
        Example("Is this machine's own network stack there?", {"targets": ["127.0.0.1"], "count": 1}),
        Example("Look at two cameras quickly", {"targets": ["10.0.0.11", "10.0.0.12"], "count": 3, "interval": 0.2}),
    ],
)
async def ping(params: Ping) -> PingResult:
    """Measure reachability and round-trip time of hosts with ICMP echo.

    A host that does not answer is a measurement, not an error: its outcome says so. Of a name with several addresses, the
    one the resolver prefers is pinged.

    Raises:
        NotFound: No target's name resolves (of several, those that do not are `unresolved`).
        Unreachable: This machine has no route to any of the targets, so nothing could be sent.
        MissingProgram: The kernel allows neither kind of ICMP socket and there is no `ping` program.
    """
    run = current_run()
    assert run.grant is not None
    measured = [_Measured(target.asked, target.addresses[0]) for target in run.grant.targets]
    interval = params.interval
    if run.policy.host_packets_per_second:
        interval = max(interval, 1 / run.policy.host_packets_per_second)
    method = "none"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            method = await _measure(measured, params, interval, run.packets_per_second)
    if all(host.sent == 0 and host.errors for host in measured):
        first = measured[0]
        raise Unreachable(
            f"Nothing could be sent to {first.address}: {first.errors[-1]}."
            + (f" The same for {len(measured) - 1} more." if len(measured) > 1 else ""),
            hint="Look at this machine's addresses and routes: ip route get " + first.address,
        )
    return PingResult(hosts=_in_order(params, run.grant, measured), method=method)


@dataclass
class _Measured:
    """Measurements of one host as they come in, so that a deadline loses none."""

    asked: str
    address: str
    sent: int = 0
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def summary(self) -> HostPing:
        if self.times:
            outcome = PingOutcome.ANSWERED
        elif self.errors:
            outcome = PingOutcome.UNREACHABLE
        else:
            outcome = PingOutcome.NO_ANSWER if self.sent else PingOutcome.NOT_TRIED
        times = self.times
        return HostPing(
            target=self.asked,
            address=self.address,
            outcome=outcome,
            detail=self.errors[-1] if self.errors else None,
            sent=self.sent,
            received=len(times),
            loss_percent=round(100 * (self.sent - len(times)) / self.sent, 1) if self.sent else None,
            min_ms=round(min(times), 3) if times else None,
            avg_ms=round(statistics.fmean(times), 3) if times else None,
            max_ms=round(max(times), 3) if times else None,
            stddev_ms=round(statistics.pstdev(times), 3) if times else None,
        )


def _in_order(params: Ping, grant: Grant, measured: list[_Measured]) -> list[HostPing]:
    found = {host.asked: host.summary() for host in measured}
    for missing in grant.unresolved:
        found[missing.asked] = HostPing(
            target=missing.asked, outcome=PingOutcome.UNRESOLVED, detail=missing.error.message
        )
    return [found[target] for target in params.targets]


async def _measure(measured: list[_Measured], params: Ping, interval: float, packets_per_second: int) -> str:
    """Ping all hosts by the least privileged means there is, and return which."""
    versions = {_version(host.address) for host in measured}
    with contextlib.ExitStack() as stack:
        try:
            sockets = {version: stack.enter_context(open_socket(version)) for version in versions}
        except PermissionError:
            await _by_program(measured, params, interval, packets_per_second)
            return "program"
        pingers = {
            version: stack.enter_context(Pinger(sock, version, params.size)) for version, sock in sockets.items()
        }
        await _by_socket(measured, pingers, params, interval, packets_per_second)
        raw = any(sock.type == socket.SOCK_RAW for sock in sockets.values())
        return "raw socket" if raw else "datagram socket"


async def _by_socket(
    measured: list[_Measured], pingers: dict[int, Pinger], params: Ping, interval: float, packets_per_second: int
) -> None:
    pacer = Pacer(packets_per_second)
    slots = asyncio.Semaphore(IN_FLIGHT)
    loop = asyncio.get_running_loop()

    async def one(host: _Measured) -> None:
        async with slots:
            due = loop.time()
            for number in range(params.count):
                if number:
                    due = max(loop.time(), due + interval)
                    await asyncio.sleep(due - loop.time())
                await pacer.wait()
                due = loop.time()
                host.sent += 1
                echo = await pingers[_version(host.address)].echo(host.address, params.timeout)
                if not echo.sent:
                    host.sent -= 1
                if echo.rtt_ms is not None:
                    host.times.append(echo.rtt_ms)
                elif echo.error is not None:
                    host.errors.append(echo.error)

    async with asyncio.TaskGroup() as group:
        for host in measured:
            group.create_task(one(host))


# --- the program, where the kernel gives this process no ICMP socket --------------------------------------------------

_REPLY = re.compile(rb"^\d+ bytes from .*icmp_seq=\d+ .*time=([0-9.]+) ms(?!.*DUP!)", re.MULTILINE)
_PROBLEM = re.compile(rb"^From (\S+) icmp_seq=\d+ (.+)$", re.MULTILINE)
_SENT = re.compile(rb"^(\d+) packets transmitted", re.MULTILINE)
_FATAL = re.compile(rb"(?:ping|connect): (.*(?:unreachable|not permitted|denied|Invalid argument).*)", re.IGNORECASE)


async def _by_program(measured: list[_Measured], params: Ping, interval: float, packets_per_second: int) -> None:
    program = find_program("ping", "iputils-ping")
    # So many at once as the share of the budget carries; each sends one packet an interval.
    at_once = max(1, min(PROGRAMS_AT_ONCE, int(packets_per_second * interval)))
    slots = asyncio.Semaphore(at_once)
    spacing = max(interval, 1 / packets_per_second)

    async def one(host: _Measured) -> None:
        async with slots:
            await _run_program(program, host, params, spacing)

    try:
        async with asyncio.TaskGroup() as group:
            for host in measured:
                group.create_task(one(host))
    except ExceptionGroup as several:
        raise several.exceptions[0] from None


async def _run_program(program: str, host: _Measured, params: Ping, interval: float) -> None:
    longest = (params.count - 1) * interval + params.timeout
    argv = [program, f"-{_version(host.address)}", "-n", "-c", str(params.count), "-i", f"{interval:g}"]
    argv += ["-W", f"{params.timeout:g}", "-s", str(params.size), "--", host.address]
    try:
        # Status 1: no reply. 2: any other problem, which its error output tells.
        completed = await run_command(argv, timeout=longest + 10, ok=(0, 1, 2))
    except ToolTimeout as error:
        if error.partial is None:
            raise
        completed = error.partial
    read_program_output(host, completed.stdout, completed.stderr)
    if completed.returncode == 2 and not host.errors and not host.sent:
        raise CommandFailed(f"ping ended with an error for {host.address}.", hint="See: signalbox doctor")


def read_program_output(host: _Measured, stdout: bytes, stderr: bytes) -> None:
    """Add what iputils ping wrote about a host to its measurements.

    Raises:
        MissingProgram: The program itself lacks the privilege to ping.
    """
    host.times += [float(found) for found in _REPLY.findall(stdout)]
    host.errors += [f"{who.decode()} says: {what.decode().lower()}" for who, what in _PROBLEM.findall(stdout)]
    if sent := _SENT.search(stdout):
        host.sent += int(sent[1])
    elif host.times or host.errors:  # it was ended before its summary
        host.sent += len(host.times) + len(host.errors)
    elif fatal := _FATAL.search(stderr):
        reason = fatal[1].decode(errors="replace").strip()
        if re.search("not permitted|denied", reason, re.IGNORECASE):
            raise MissingProgram(
                "ping may not open an ICMP socket here.",
                hint="Give the worker CAP_NET_RAW, or allow its group: sysctl net.ipv4.ping_group_range='0 2147483647'",
            )
        host.errors.append(f"this machine: {reason.lower()}")


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version
