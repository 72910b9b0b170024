"""What `scapy` asks its child process to do, and what comes back: plain data, without scapy and without Prefect."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Probe(StrEnum):
    """The probes there are."""

    ARP_PING = "arp_ping"
    TCP_SYN = "tcp_syn"
    ICMP_TIMESTAMP = "icmp_timestamp"
    TCP_TRACEROUTE = "tcp_traceroute"
    DHCP_DISCOVER = "dhcp_discover"
    LLDP_LISTEN = "lldp_listen"
    IPV6_NEIGHBOURS = "ipv6_neighbours"
    MTU = "mtu"
    MDNS = "mdns"
    SSDP = "ssdp"
    PACKET = "packet"


class Outcome(StrEnum):
    """What became of a packet."""

    ANSWERED = "answered"
    OPEN = "open"
    CLOSED = "closed"
    FILTERED = "filtered"  # somebody on the way says that it is forbidden
    UNREACHABLE = "unreachable"  # a router, or this machine, says that packets do not get there
    EXCEEDED = "exceeded"  # a router on the way, where the packet's time to live ended
    TOO_LARGE = "too_large"
    NO_ANSWER = "no_answer"
    NOT_TRIED = "not_tried"  # the deadline came first


@dataclass(frozen=True)
class Target:
    """An address that the gate granted, and how to reach it.

    Attributes:
        asked: The target as asked.
        address: Its pinned address.
        interface: Interface of its link, for probes below IP.
        mac: Our own MAC there.
        source: Our own address there.
    """

    asked: str
    address: str
    interface: str = ""
    mac: str = ""
    source: str = ""


@dataclass(frozen=True)
class Order:
    """A probe, completely described.

    Attributes:
        probe: Which.
        targets: Addresses to probe; nothing is sent to any other.
        ports: TCP ports.
        count: Packets to each target (and port, hop or size).
        rate: Packets per second.
        host_rate: Packets per second to one host; 0: no cap.
        wait: Seconds to wait for an answer.
        seconds: Seconds after which the child stops and says what it has.
        hops: Most hops of a traceroute.
        largest: Largest packet of the MTU probe, bytes.
        layers: The declared packet: names of layers with their fields.
        interface: Interface to listen on, or to broadcast on.
        mac: Our own MAC there.
        source: Our own address there.
        networks: Networks whose hosts may answer a question to everybody.
    """

    probe: Probe
    targets: tuple[Target, ...] = ()
    ports: tuple[int, ...] = ()
    count: int = 1
    rate: float = 10.0
    host_rate: float = 0.0
    wait: float = 2.0
    seconds: float = 60.0
    hops: int = 30
    largest: int = 1500
    layers: tuple[tuple[str, dict[str, Any]], ...] = ()
    interface: str = ""
    mac: str = ""
    source: str = ""
    networks: tuple[str, ...] = ()


@dataclass
class Report:
    """What a probe brought: plain rows, as the models of the tool's result have them."""

    sent: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    hops: list[dict[str, Any]] = field(default_factory=list)
    paths: list[dict[str, Any]] = field(default_factory=list)
    offers: list[dict[str, Any]] = field(default_factory=list)
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    announcements: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True


def carry_out(order: Order) -> Report:
    """Do what is ordered, in a process of its own.

    Raises:
        InvalidParameters: The declared packet is none; nothing was sent.
        MissingProgram: This process may not send raw packets.
    """
    # scapy keeps lists it reads in the user's folders; /dev/null/scapy can be neither read nor written.
    os.environ |= {"XDG_CACHE_HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null"}
    # Importing scapy takes a third of a second, looks at this machine's routes and keeps them: not in the worker's own process.
    from tasks.network.capture import _scapy_announce, _scapy_ip, _scapy_link

    work = (_scapy_link.PROBES | _scapy_announce.PROBES).get(order.probe) or _scapy_ip.PROBES[order.probe]
    return work(order)
