"""A network in network namespaces: subnets, a router, hosts with services; made in a second, gone without a trace.

    root namespace ── veth ──┐                    ┌── host
    (we, adjacent to the     switch (bridges) ────┼── host
     first subnet)             │ │ │              └── host
                              router

This process reaches the first subnet directly (ARP works) and the others through the router. Nothing outside the lab changes except one
interface and one route in the root namespace, both removed at the end; what a killed process left is removed by the next lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from deployments.demo.servers import NAMESPACES, Served, ServerThread, in_namespace
from tasks.core.errors import Busy, CommandFailed, MissingProgram
from tasks.core.process import find_program, run_command

SLOTS = range(64, 128)
"""A slot is a number that a lab owns alone on this machine: it uses 10.SLOT.0.0/16 and fd5b:SLOT::/32, and its names carry it."""
COMMAND_SECONDS = 60.0
LINK_SECONDS = 10.0
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # <linux/capability.h>

AXIS, HEWLETT_PACKARD, DELL, CISCO, UBIQUITI, SYNOLOGY = (
    "00:40:8c", "3c:d9:2b", "d4:be:d9", "00:1b:54", "24:a4:3c", "00:11:32",
)  # fmt: skip
"""Organizationally unique identifiers of real makers, so that a lab's hosts have vendors."""


def why_not() -> str | None:
    """Say why no lab can be made here; None when one can."""
    if shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        return "a lab needs the program ip: apt install iproute2"
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return "a lab needs Linux"
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    if not (effective >> CAP_NET_ADMIN & 1 and effective >> CAP_SYS_ADMIN & 1):
        return "a lab needs CAP_NET_ADMIN and CAP_SYS_ADMIN (run as root)"
    return None


@dataclass(frozen=True)
class Subnet:
    """One broadcast domain of the lab.

    Attributes:
        name: What the lab calls it.
        index: Its place; subnet k is 10.SLOT.k.0/24 and fd5b:SLOT:k::/64.
        network: IPv4 prefix.
        network6: IPv6 prefix.
    """

    name: str
    index: int
    network: ipaddress.IPv4Network
    network6: ipaddress.IPv6Network

    @property
    def cidr(self) -> str:
        return str(self.network)

    @property
    def gateway(self) -> str:
        """The router's address here."""
        return str(self.network[1])

    @property
    def bridge(self) -> str:
        return f"br{self.index}"

    def address(self, wanted: int | str) -> str:
        """The address of host number `wanted`, or `wanted` itself when it is an address."""
        return str(self.network[wanted]) if isinstance(wanted, int) else wanted


@dataclass(frozen=True)
class HostSpec:
    """What a host of the lab shall be.

    Attributes:
        name: Its name in the lab; letters, digits and hyphens.
        address: Host number in its subnet, or a full address.
        mac: Its MAC; the vendor comes from its first three bytes.
        subnet: Name of its subnet; None for the first.
        services: What it offers.
        ipv6: Whether it has an IPv6 address, host number as in IPv4.
    """

    name: str
    address: int | str
    mac: str
    subnet: str | None = None
    services: tuple[Served, ...] = ()
    ipv6: bool = False


@dataclass
class Host:
    """A host of the lab as it is now."""

    name: str
    subnet: Subnet
    address: str
    mac: str
    namespace: str
    port: str
    address6: str | None = None
    services: list[Served] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # further `ip` commands its configuration consists of


class Lab:
    """A network in namespaces, as an async context manager.

    Args:
        subnets: Names of its subnets; this process has an interface in the first.

    Attributes:
        address: Our own address in the first subnet.
        mac: Our own MAC there.
        interface: Our interface.
        hosts: The hosts by name.
        servers: The thread that serves their services.

    Raises:
        MissingProgram: Something a lab needs is not there; see `why_not`.
        Busy: Every slot is taken.
    """

    def __init__(self, subnets: Sequence[str] = ("office", "cameras")) -> None:
        self._names = tuple(subnets)
        self.hosts: dict[str, Host] = {}
        self.routed: list[str] = []
        self._ports = 0

    # --- made and removed --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        reason = why_not()
        if reason:
            raise MissingProgram(f"No lab can be made here: {reason}.")
        self._ip = find_program("ip", "iproute2")
        await self._remove_stale()
        self.slot, self._claim = await self._claim_slot()
        self._prefix = f"sbx{self.slot}-{os.getpid()}"
        self.interface = f"sbx{self.slot}"
        self.subnets = {
            name: Subnet(
                name,
                k,
                ipaddress.IPv4Network(f"10.{self.slot}.{k}.0/24"),
                ipaddress.IPv6Network(f"fd5b:{self.slot}:{k}::/64"),
            )
            for k, name in enumerate(self._names, start=1)
        }
        self.first = next(iter(self.subnets.values()))
        self.address = str(self.first.network[250])
        self.address6 = str(self.first.network6[250])
        self.mac = f"02:5b:{self.slot:02x}:00:00:fa"
        self.servers = ServerThread()
        try:
            await self._build()
        except BaseException:
            await asyncio.shield(self._remove_all())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._remove_all())

    async def _build(self) -> None:
        switch, router = self._namespace("switch"), self._namespace("router")
        lines = [f"netns add {switch}", f"netns add {router}", f"netns exec {switch} {self._ip} link set lo up"]
        inside_switch, inside_router = [], ["link set lo up"]
        for subnet in self.subnets.values():
            k = subnet.index
            inside_switch += [f"link add {subnet.bridge} type bridge forward_delay 0", f"link set {subnet.bridge} up"]
            lines.append(
                f"link add eth{k} netns {router} address {CISCO}:00:{self.slot:02x}:{k:02x} type veth peer name r{k} netns {switch}"
            )
            inside_switch += [f"link set r{k} master {subnet.bridge} up"]
            inside_router += [
                f"addr add {subnet.gateway}/24 dev eth{k}",
                f"addr add {subnet.network6[1]}/64 dev eth{k} nodad",
                f"link set eth{k} up",
            ]
        lines.append(f"link add {self.interface} address {self.mac} type veth peer name us netns {switch}")
        inside_switch += [f"link set us master {self.first.bridge} up"]
        await self._batch(lines)
        _write_sysctls(router, {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        await asyncio.gather(self._batch(inside_switch, switch), self._batch(inside_router, router))
        own = [
            f"addr add {self.address}/24 dev {self.interface}",
            f"addr add {self.address6}/64 dev {self.interface} nodad",
        ]
        own.append(f"link set {self.interface} up")
        for subnet in list(self.subnets.values())[1:]:
            own.append(f"route add {subnet.cidr} via {self.first.gateway} dev {self.interface}")
            own.append(f"-6 route add {subnet.network6} via {self.first.network6[1]} dev {self.interface}")
        await self._batch([line for line in own if not line.startswith("-6")])
        await self._batch([line[3:] for line in own if line.startswith("-6")], family="-6")
        await self._links_up()

    async def _remove_all(self) -> None:
        self.servers.close()
        await _remove_slot(self._ip, self.slot)
        self._claim.close()
        self.hosts.clear()

    async def _claim_slot(self) -> tuple[int, socket.socket]:
        """Own a slot whose addresses no route of this machine uses.

        The claim is a socket in the abstract namespace: the kernel frees it with the process, kill -9 included, it leaves no file, and it
        is as wide as what it protects (the root network namespace).
        """
        found = await run_command([self._ip, "-json", "route", "show", "table", "all"], timeout=COMMAND_SECONDS)
        routes = json.loads(found.stdout or b"[]")
        used = [
            ipaddress.ip_network(route["dst"], strict=False)
            for route in routes
            if route.get("dst", "default") != "default" and route.get("type") not in {"unreachable", "multicast"}
        ]
        for slot in SLOTS:
            mine = ipaddress.ip_network(f"10.{slot}.0.0/16")
            if any(network.version == 4 and network.prefixlen > 0 and network.overlaps(mine) for network in used):
                continue
            claim = _claim(slot)
            if claim is not None:
                await _remove_slot(self._ip, slot)
                return slot, claim
        raise Busy("Every address range a lab could use is taken.", hint="Remove left-over labs: ip netns list")

    async def _remove_stale(self) -> None:
        """Remove what labs of killed processes left: whoever can claim a slot knows that nobody lives there."""
        for slot in _slots_present():
            claim = _claim(slot)
            if claim is not None:
                with claim:
                    await _remove_slot(self._ip, slot)

    # --- hosts ---------------------------------------------------------------------------------------------------------

    def subnet(self, name: str | None = None) -> Subnet:
        """The subnet of that name; the first without one."""
        return self.subnets[name] if name else self.first

    async def add(
        self,
        name: str,
        address: int | str,
        mac: str,
        *,
        subnet: str | None = None,
        services: Iterable[Served] = (),
        ipv6: bool = False,
    ) -> Host:
        """Add one host; see `HostSpec`."""
        (host,) = await self.add_all([HostSpec(name, address, mac, subnet, tuple(services), ipv6)])
        return host

    async def add_all(self, specs: Sequence[HostSpec]) -> list[Host]:
        """Add hosts, up to hundreds at once.

        Raises:
            ValueError: A name is taken or unfit.
        """
        added, make, plug = [], [], []
        switch = self._namespace("switch")
        for spec in specs:
            if spec.name in {*self.hosts, "switch", "router"} or not re.fullmatch(r"[a-z0-9-]{1,40}", spec.name):
                raise ValueError(f"host name {spec.name!r} is taken or not of letters, digits and hyphens")
            subnet = self.subnet(spec.subnet)
            self._ports += 1
            host = Host(
                spec.name, subnet, subnet.address(spec.address), spec.mac, self._namespace(spec.name), f"p{self._ports}"
            )
            if spec.ipv6:
                host.address6 = str(subnet.network6[int(host.address.rsplit(".", 1)[1])])
            self.hosts[spec.name] = host
            added.append(host)
            make += [
                f"netns add {host.namespace}",
                f"link add eth0 netns {host.namespace} address {spec.mac} type veth peer name {host.port} netns {switch}",
            ]
            plug.append(f"link set {host.port} master {subnet.bridge} up")
        await self._batch(make)
        await self._batch(plug, switch)
        for host in added:
            # Tell the neighbours on every change of address or MAC, as real stacks do; and answer ICMP for every probe, not one a second.
            _write_sysctls(
                host.namespace,
                {"ipv4/conf/all/arp_notify": "1", "ipv4/conf/eth0/arp_notify": "1", "ipv4/icmp_ratelimit": "0"},
            )
        await self._batch([line for host in added for line in self._configure(host)])
        await self._links_up()
        for spec, host in zip(specs, added, strict=True):
            for served in spec.services:
                await self.add_service(host, served)
        return added

    def _configure(self, host: Host) -> list[str]:
        run = f"netns exec {host.namespace} {self._ip}"
        lines = [
            f"{run} link set lo up",
            f"{run} addr flush dev eth0",
            f"{run} addr add {host.address}/24 dev eth0",
            f"{run} link set eth0 up",
            f"{run} route replace default via {host.subnet.gateway}",
        ]
        if host.address6:
            lines.append(f"{run} addr add {host.address6}/64 dev eth0 nodad")
            lines.append(f"{run} -6 route replace default via {host.subnet.network6[1]}")
        return lines + [f"{run} {extra}" for extra in host.extra]

    async def move(self, host: Host | str, address: int | str) -> None:
        """Give a host another address; its MAC stays (what DHCP does)."""
        host = self._host(host)
        old, host.address = host.address, host.subnet.address(address)
        await self._batch(self._configure(host))
        await self._forget(old, host.address)

    async def change_mac(self, host: Host | str, mac: str) -> None:
        """Give a host another MAC; its address stays (another device took its place, or it randomises)."""
        host = self._host(host)
        host.mac = mac
        run = f"netns exec {host.namespace} {self._ip}"
        await self._batch([f"{run} link set eth0 down", f"{run} link set eth0 address {mac}", *self._configure(host)])
        await self._links_up()
        await self._forget(host.address)

    async def remove(self, host: Host | str) -> None:
        """Take a host away."""
        host = self._host(host)
        self.servers.stop(host.namespace)
        del self.hosts[host.name]
        # Its cable first: the kernel removes a namespace when it likes, and the address must be free when this returns.
        await self._batch([f"link del {host.port}"], self._namespace("switch"))
        await self._batch([f"netns del {host.namespace}"])
        await self._forget(host.address)

    async def unplug(self, host: Host | str) -> None:
        """Pull a host's cable."""
        await self._batch([f"link set {self._host(host).port} down"], self._namespace("switch"))

    async def plug(self, host: Host | str) -> None:
        """Put a host's cable back."""
        await self._batch([f"link set {self._host(host).port} up"], self._namespace("switch"))

    async def silence(self, host: Host | str) -> None:
        """Make a host answer nothing, not even ARP."""
        host = self._host(host)
        await self.firewall(host)
        await self._batch([f"netns exec {host.namespace} {self._ip} link set eth0 arp off"])

    async def answer_prefix(self, host: Host | str, prefix: str) -> None:
        """Make a host answer for a whole prefix, with one MAC: by ARP inside its subnet, routed to it from everywhere otherwise."""
        host = self._host(host)
        host.extra.append(f"route replace local {prefix} dev lo")
        lines = [f"netns exec {host.namespace} {self._ip} {host.extra[-1]}"]
        network = ipaddress.ip_network(prefix)
        if not (isinstance(network, ipaddress.IPv4Network) and network.subnet_of(host.subnet.network)):
            lines.append(f"netns exec {self._namespace('router')} {self._ip} route replace {prefix} via {host.address}")
            lines.append(f"route replace {prefix} via {self.first.gateway} dev {self.interface}")
        await self._batch(lines)

    def prefix(self, length: int = 20) -> str:
        """A prefix of this lab's own range beside its subnets, for `answer_prefix`."""
        return f"10.{self.slot}.128.0/{length}"

    # --- services and firewalls ----------------------------------------------------------------------------------------

    async def add_service(self, host: Host | str, served: Served) -> None:
        """Start a service on a host.

        Raises:
            OSError: The port is taken there.
        """
        host = self._host(host)
        self.servers.serve(host.namespace, served)
        host.services.append(served)

    async def stop_service(self, host: Host | str, port: int) -> None:
        """Stop what a host offers on a port."""
        host = self._host(host)
        self.servers.stop(host.namespace, port)
        host.services = [one for one in host.services if one.port != port]

    async def firewall(self, host: Host | str, allow_tcp: Iterable[int] = ()) -> None:
        """Make a host drop everything it receives except these TCP ports and ARP."""
        ports = ", ".join(str(port) for port in allow_tcp)
        rules = [f"tcp dport {{ {ports} }} accept"] if ports else []
        await self.nft(
            host,
            "add table inet wall",
            "flush table inet wall",
            "table inet wall {",
            "chain input {",
            "type filter hook input priority 0; policy drop;",
            *rules,
            "iif lo accept",
            "}",
            "}",
        )

    async def watch_port(self, host: Host | str, port: int) -> None:
        """Count every packet a host receives for a TCP or UDP port from now on, answered or not."""
        await self.nft(
            host,
            "table inet watch {",
            f"counter p{port} {{",
            "}",
            f"chain input{port} {{",
            "type filter hook input priority -10; policy accept;",
            f"th dport {port} counter name p{port}",
            "}",
            "}",
        )

    async def packets_to(self, host: Host | str, port: int) -> int:
        """Packets counted since `watch_port`."""
        listed = await self._exec(
            host, [find_program("nft", "nftables"), "-j", "list", "counter", "inet", "watch", f"p{port}"]
        )
        return int(next(item["counter"]["packets"] for item in json.loads(listed)["nftables"] if "counter" in item))

    async def nft(self, host: Host | str, *lines: str) -> None:
        """Load nftables rules inside a host."""
        await self._exec(
            host, [find_program("nft", "nftables"), "-f", "-"], stdin="".join(f"{line}\n" for line in lines).encode()
        )

    async def _exec(self, host: Host | str, argv: Sequence[str], stdin: bytes | None = None) -> bytes:
        namespace = self._host(host).namespace
        done = await run_command([self._ip, "netns", "exec", namespace, *argv], timeout=COMMAND_SECONDS, stdin=stdin)
        return done.stdout

    async def _links_up(self) -> None:
        """Wait until every cable carries: the kernel brings links up in its own time, and a first packet sent before is lost."""
        async with asyncio.timeout(LINK_SECONDS):
            while True:
                listed = await run_command(
                    [self._ip, "-n", self._namespace("switch"), "-json", "link"], timeout=COMMAND_SECONDS
                )
                links = [link for link in json.loads(listed.stdout) if "master" in link and "UP" in link["flags"]]
                if all(link["operstate"] == "UP" for link in links):
                    return
                await asyncio.sleep(0.02)

    async def _forget(self, *addresses: str) -> None:
        """Drop what we and the router know about the MAC of an address: the kernel would hold on to it for seconds."""
        lines = [f"neigh flush to {address}" for address in addresses]
        await self._batch(lines)
        await self._batch(lines, self._namespace("router"))

    # --- ip --------------------------------------------------------------------------------------------------------------

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _host(self, host: Host | str) -> Host:
        return self.hosts[host] if isinstance(host, str) else host

    async def _batch(self, lines: Sequence[str], namespace: str | None = None, family: str | None = None) -> None:
        """Run `ip` commands, one process for all of them."""
        if not lines:
            return
        argv = [self._ip, *(["-n", namespace] if namespace else []), *([family] if family else []), "-batch", "-"]
        await run_command(argv, timeout=COMMAND_SECONDS, stdin=("\n".join(lines) + "\n").encode())


def _write_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Set network sysctls of a namespace: /proc/sys/net shows the one the calling thread is in."""

    def write() -> None:
        for name, value in values.items():
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6 has no IPv6 forwarding to switch on
                Path("/proc/sys/net", name).write_text(value)

    in_namespace(namespace, write)


def _claim(slot: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0signalbox-lab-{slot}")
    except OSError:
        claim.close()
        return None
    return claim


def _slots_present() -> set[int]:
    names = [path.name for path in NAMESPACES.glob("sbx*-*")] if NAMESPACES.is_dir() else []
    names += [name for _, name in socket.if_nameindex()]
    return {int(match[1]) for name in names if (match := re.match(r"sbx(\d+)(-|$)", name))}


async def _remove_slot(ip: str, slot: int) -> None:
    """Remove every namespace of a slot and our end of its cable. What is gone already is no error."""
    lines = []
    if any(name == f"sbx{slot}" for _, name in socket.if_nameindex()):
        # Our end goes with its peer, but later, when the kernel cleans the namespace up; its routes must not outlive this call.
        lines.append(f"link del sbx{slot}")
    lines += [f"netns del {path.name}" for path in NAMESPACES.glob(f"sbx{slot}-*")]
    if lines:
        with contextlib.suppress(CommandFailed):
            await run_command(
                [ip, "-force", "-batch", "-"], timeout=COMMAND_SECONDS, stdin=("\n".join(lines) + "\n").encode()
            )
