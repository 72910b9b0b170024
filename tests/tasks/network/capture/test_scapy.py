"""scapy's probes against real hosts in the lab, and what a declared packet may and may not be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.contrib.cdp import CDPMsgDeviceID, CDPMsgNativeVLAN, CDPMsgPlatform, CDPMsgPortID, CDPv2_HDR
from scapy.contrib.lldp import (
    LLDPDUChassisID,
    LLDPDUEndOfLLDPDU,
    LLDPDUGenericOrganisationSpecific,
    LLDPDUManagementAddress,
    LLDPDUPortID,
    LLDPDUSystemCapabilities,
    LLDPDUSystemDescription,
    LLDPDUSystemName,
    LLDPDUTimeToLive,
)
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRSRV
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import LLC, SNAP, Dot3, Ether
from scapy.packet import Packet

from blocks.policy import ProbePolicy
from tasks.core.errors import InvalidParameters, MissingProgram, Refused, ToolTimeout, Unreachable
from tasks.core.models import Safety
from tasks.core.process import find_program
from tasks.core.redact import MOST_BYTES, json_size
from tasks.network.capture import scapy as module
from tasks.network.capture._scapy_order import Order, Probe, Report
from tasks.network.capture._scapy_packet import Declared
from tasks.network.capture._scapy_read import layers_of
from tasks.network.capture._scapy_rows import Announcement
from tasks.network.capture._scapy_wire import Heard
from tasks.network.capture.scapy import Scapy, ScapyResult, scapy
from tasks.network.scan._privilege import may_send_raw
from tests.lab.announcers import Records, announcing_mdns, announcing_ssdp, announcing_unasked, axis_records
from tests.lab.network import AXIS, CISCO, DELL, HostSpec, Lab, http, in_namespace, needs_lab

Perform = Callable[..., Awaitable[Any]]


# --- what may be declared ------------------------------------------------------------------------------------------------


def layers(*some: tuple[str, dict[str, Any]]) -> tuple[tuple[str, dict[str, Any]], ...]:
    return some


@pytest.mark.parametrize(
    "packet",
    [
        layers(("TCP", {"dport": 443, "flags": "SA", "seq": 1, "options": [["MSS", 1460], ["SAckOK"], ["NOP"], ["Timestamp", 1, 0]]})),
        layers(("IP", {"ttl": 3, "tos": 184, "flags": "DF"}), ("UDP", {"dport": 53}), ("DNS", {"qname": "a.example", "qtype": "TXT"})),
        layers(("ICMP", {"type": "timestamp-request"})),
        layers(("ICMP", {"type": 8, "id": 7}), ("Raw", {"load": "hex:00ff"})),
        layers(("TCP", {"flags": ""})),
    ],
)  # fmt: skip
def test_a_sound_packet_is_accepted(packet: tuple[tuple[str, dict[str, Any]], ...]) -> None:
    Declared(packet, 4)


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (layers(("IP", {"src": "10.0.0.1"}), ("UDP", {})), "IP.src is not a field: packets go from our own address"),
        (layers(("IP", {"dst": "10.0.0.1"}), ("UDP", {})), "IP.dst is not a field"),
        (layers(("IP", {"options": []}), ("UDP", {})), "IP.options is set by scapy"),
        (layers(("IP", {"proto": 6}), ("UDP", {})), "IP.proto is set by scapy"),
        (layers(("IP", {"ihl": 6}), ("UDP", {})), "IP.ihl is set by scapy"),
        (layers(("IP", {"frag": 1}), ("UDP", {})), "IP.frag is set by scapy"),
        (layers(("IP", {"flags": "MF"}), ("UDP", {})), "IP.flags can be DF or nothing"),
        (layers(("IP", {"ttl": 256}), ("UDP", {})), "IP.ttl is a number from 0 to 255, not 256"),
        (layers(("IP", {"ttl": "RandByte()"}), ("UDP", {})), "IP.ttl is a number from 0 to 255, not str"),
        (layers(("IP", {"ttl": [1, 2]}), ("UDP", {})), "IP.ttl is a number from 0 to 255, not list"),
        (layers(("TCP", {"dprt": 80})), "TCP has no field dprt; there are sport, dport"),
        (layers(("TCP", {"flags": "XY"})), "TCP.flags is made of F, S, R"),
        (layers(("TCP", {"sport": 0})), "TCP.sport is a port from 1"),
        (layers(("TCP", {"dport": "http"})), "TCP.dport is a number"),
        (layers(("TCP", {"options": [["MSS", 70000]]})), "MSS takes 1 numbers from 0 to 65535"),
        (layers(("TCP", {"options": [["TFO", 1, 2]]})), "there are EOL, NOP"),
        (layers(("TCP", {"options": [["Timestamp", 1, 2]] * 5})), "more than the 40 bytes"),
        (layers(("TCP", {}), ("UDP", {})), "UDP cannot stand after TCP; there can: Raw"),
        (layers(("Raw", {"load": "x"})), "Raw cannot stand at the beginning"),
        (layers(("IP", {}), ("Raw", {"load": "x"})), "Raw cannot stand after IP"),
        (layers(("IP", {}), ("IP", {}), ("UDP", {})), "IP cannot stand after IP"),
        (layers(("IP", {})), "no layer above IP"),
        (layers(("ICMP", {"type": 5})), "ICMP.type 5 is no question"),
        (layers(("ICMP", {"type": "redirect"})), "is no question"),
        (layers(("IPv6", {}), ("UDP", {})), "IPv6 cannot go to IPv4 targets"),
        (layers(("UDP", {}), ("DNS", {"opcode": 5})), "DNS.opcode is set by scapy"),
        (layers(("UDP", {}), ("DNS", {"qname": "a" * 64 + ".x"})), "DNS.qname is a domain name"),
        (layers(("UDP", {}), ("DNS", {"qtype": "NOSUCH"})), "knows no 'NOSUCH'"),
        (layers(("UDP", {}), ("Raw", {"load": "hex:0g"})), "not hexadecimal"),
        (layers(("UDP", {}), ("Raw", {"load": "x" * 1500})), "at most 1400"),
    ],
)
def test_what_must_not_be_sent_is_refused_with_what_is_right(packet: Any, said: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        Declared(packet, 4)
    assert said in str(refused.value)


ANY_VALUE = st.one_of(
    st.integers(), st.text(max_size=20), st.booleans(), st.none(), st.lists(st.integers(), max_size=3), st.floats()
)
NAMES = st.sampled_from(["IP", "IPv6", "TCP", "UDP", "ICMP", "ICMPv6EchoRequest", "DNS", "Raw"])
FIELDS = st.sampled_from(
    [
        "src",
        "dst",
        "ttl",
        "flags",
        "dport",
        "sport",
        "type",
        "code",
        "options",
        "load",
        "qname",
        "qtype",
        "id",
        "proto",
        "hlim",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NAMES, st.dictionaries(FIELDS, ANY_VALUE, max_size=3)), max_size=4), st.sampled_from([4, 6]))
def test_any_declaration_is_one_packet_to_the_target_or_refused(
    packet: list[tuple[str, dict[str, Any]]], version: int
) -> None:
    source, target = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    try:
        declared = Declared(tuple(packet), version)
    except InvalidParameters:
        return
    made = declared.to(source, target, {"sport": 40000, "seq": 1} if declared.transport in {"TCP", "UDP"} else {})
    assert (made.src, made.dst) == (source, target) and len(list(made)) == 1
    data = bytes(made)
    assert data == bytes(made)
    address = data[16:20] if version == 4 else data[24:40]
    assert address == socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, target)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"probe": "tcp_syn", "targets": ["127.0.0.1"]}, "tcp_syn needs ports"),
        ({"probe": "tcp_syn", "ports": "80"}, "tcp_syn needs targets"),
        ({"probe": "tcp_syn", "targets": ["127.0.0.0/30"], "ports": "80"}, "takes single hosts"),
        ({"probe": "tcp_syn", "targets": [f"127.0.0.{n}" for n in range(1, 100)], "ports": "1-100"}, "packets"),
        ({"probe": "tcp_traceroute", "targets": ["127.0.0.1"], "ports": "80,81"}, "one port"),
        ({"probe": "mtu", "targets": ["127.0.0.1"], "ports": "80"}, "no use for ports"),
        ({"probe": "dhcp_discover", "targets": ["127.0.0.0/8"]}, "needs interface"),
        ({"probe": "dhcp_discover", "interface": "lo"}, "the networks it is on"),
        ({"probe": "mdns", "targets": ["127.0.0.0/8"]}, "mdns needs interface"),
        ({"probe": "ssdp", "interface": "lo"}, "the networks it is on"),
        ({"probe": "ssdp", "interface": "lo", "targets": ["127.0.0.0/8"], "ports": "1900"}, "no use for ports"),
        ({"probe": "mdns", "interface": "lo", "targets": ["127.0.0.0/8"]}, "no IPv4 network to broadcast on"),
        ({"probe": "lldp_listen"}, "needs interface"),
        ({"probe": "lldp_listen", "interface": "lo", "targets": ["127.0.0.1"]}, "no targets"),
        ({"probe": "lldp_listen", "interface": "nosuch0"}, "no interface 'nosuch0'"),
        ({"probe": "packet", "targets": ["127.0.0.1"]}, "needs it"),
        ({"probe": "packet", "targets": ["127.0.0.1"], "packet": [{"layer": "Ether"}]}, "layer"),
        ({"probe": "packet", "targets": ["127.0.0.1"], "packet": [{"layer": "UDP", "fields": {"dport": [1, 9]}}]}, "dport"),
        ({"probe": "mtu", "targets": ["127.0.0.1"], "packet": [{"layer": "UDP"}]}, "belongs to the probe packet"),
        ({"probe": "icmp_timestamp", "targets": ["::1"]}, "is for IPv4"),
        ({"probe": "exec", "targets": ["127.0.0.1"]}, "probe"),
        ({"probe": "dhcp_discover", "interface": "lo", "targets": ["127.0.0.0/8"]}, "no IPv4 network to broadcast on"),
        ({"probe": "packet", "targets": ["127.0.0.1"], "packet": [{"layer": "UDP", "fields": {"frag": 1}}]}, "no field frag"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_named_before_anything_is_sent(
    perform: Perform, params: dict[str, Any], said: str
) -> None:
    policy = ProbePolicy(max_addresses=1 << 24)
    with pytest.raises(InvalidParameters) as refused:
        await perform(scapy, params, policy=policy)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "params",
    [
        {"probe": "tcp_syn", "targets": ["127.0.0.1"], "ports": "22,9100"},
        {"probe": "packet", "targets": ["127.0.0.1"], "packet": [{"layer": "UDP", "fields": {"dport": 47808}}]},
        {"probe": "tcp_traceroute", "targets": ["127.0.0.1"], "ports": "502"},
        {"probe": "icmp_timestamp", "targets": ["127.0.0.1", "192.0.2.1"]},
        {"probe": "mtu", "targets": ["224.0.0.1"]},
        {"probe": "mtu", "targets": ["255.255.255.255"]},
        {"probe": "ipv6_neighbours", "targets": ["ff02::1"]},
    ],
)
async def test_ports_and_targets_the_policy_does_not_allow_are_refused(
    perform: Perform, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    monkeypatch.setattr(module, "offload", lambda *_, **__: pytest.fail("something was done"))
    with pytest.raises(Refused):
        await perform(scapy, params)


def test_bytes_of_ones_own_count_as_a_change() -> None:
    def safety(*some: dict[str, Any]) -> Safety | None:
        return Scapy(probe=Probe.PACKET, targets=["127.0.0.1"], packet=list(some)).safety()

    assert safety({"layer": "UDP"}, {"layer": "Raw", "fields": {"load": "x"}}) is Safety.CHANGE
    assert safety({"layer": "UDP"}, {"layer": "DNS"}) is None
    assert Scapy(probe=Probe.LLDP_LISTEN, interface="lo").scope() is None


async def test_without_the_privilege_it_says_how_to_get_it(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "may_send_raw", lambda *_: False)
    with pytest.raises(MissingProgram, match="CAP_NET_RAW"):
        await perform(scapy, {"probe": "mtu", "targets": ["127.0.0.1"]})


def test_scapy_and_prefect_stay_out_of_each_others_processes() -> None:
    # scapy's import takes long and keeps this machine's routes; Prefect has no business in a child that makes packets.
    code = (
        "import sys, tasks.network.capture.scapy; assert 'scapy' not in sys.modules, 'scapy in the worker'\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in ('prefect', 'tasks')]: del sys.modules[name]\n"
        "import tasks.network.capture._scapy_ip, tasks.network.capture._scapy_announce, scapy\n"
        "assert 'prefect' not in sys.modules, 'prefect in the child'; assert hasattr(scapy, 'VERSION')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[4], check=False
    )
    assert done.returncode == 0, done.stderr


# --- the lab -------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as lab:
        await lab.add_all(
            [
                HostSpec("web", 10, f"{DELL}:00:00:10", services=(http(),), ipv6=True),
                HostSpec("wall", 11, f"{DELL}:00:00:11"),
                HostSpec("impostor", 10, f"{AXIS}:00:00:10", "cameras"),
                HostSpec("far", 12, f"{AXIS}:00:00:12", "cameras", (http(),), ipv6=True),
            ]
        )
        await lab.firewall("wall")
        yield lab


def policy_of(lab: Lab, **more: Any) -> ProbePolicy:
    return ProbePolicy(
        allow=[f"10.{lab.slot}.0.0/16", *(str(subnet.network6) for subnet in lab.subnets.values())], **more
    )


Ask = Callable[..., Awaitable[ScapyResult]]


@pytest.fixture
def ask(perform: Perform, lab: Lab) -> Ask:
    async def run(probe: str, *targets: str, policy: ProbePolicy | None = None, **params: Any) -> ScapyResult:
        given = {"probe": probe, "targets": list(targets)} | params
        result: ScapyResult = await perform(scapy, given, policy=policy or policy_of(lab))
        return result

    return run


lab_test = [pytest.mark.lab, needs_lab, pytest.mark.asyncio(loop_scope="module")]


class TestInTheLab:
    """One lab for all of them: making it costs more than the probes."""

    pytestmark = lab_test

    async def test_arp_ping_finds_macs_first_hand_and_says_who_is_not_on_our_link(self, lab: Lab, ask: Ask) -> None:
        web, nobody, far = lab.hosts["web"].address, lab.first.address(99), lab.hosts["far"].address
        async with lab.counting() as sent:
            result = await ask("arp_ping", web, nobody, far, count=2, timeout=0.3)
        found = {answer.target: answer for answer in result.answers}
        assert (
            found[web].mac == f"{DELL}:00:00:10" and found[web].outcome == "answered" and found[web].rtt_ms is not None
        )
        assert found[nobody].outcome == "no_answer" and found[nobody].mac is None
        assert any(far in note and "no interface" in note for note in result.notes) and far not in found
        assert result.sent == 4 and sent.to == {"arp": 4}
        with pytest.raises(Unreachable, match="own links only"):
            await ask("arp_ping", far)

    async def test_an_address_that_two_macs_claim_is_said(self, lab: Lab, ask: Ask) -> None:
        twin = await lab.add("twin", 11, f"{AXIS}:00:00:77")
        try:
            result = await ask("arp_ping", twin.address, timeout=0.4)
        finally:
            await lab.remove("twin")
        assert {answer.mac for answer in result.answers} == {f"{DELL}:00:00:11", f"{AXIS}:00:00:77"}
        assert all("claimed by 2 MACs" in str(answer.detail) for answer in result.answers)

    async def test_syn_tells_open_closed_and_silent_ports(self, lab: Lab, ask: Ask) -> None:
        web, wall, six = lab.hosts["web"].address, lab.hosts["wall"].address, str(lab.hosts["web"].address6)
        async with lab.counting("tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack == 0") as sent:
            result = await ask("tcp_syn", web, wall, six, ports="80,81", count=2, timeout=0.4)
        found = {(answer.target, answer.port): answer for answer in result.answers}
        assert {key: str(answer.outcome) for key, answer in found.items()} == {
            (web, 80): "open", (web, 81): "closed", (six, 80): "open", (six, 81): "closed",
            (wall, 80): "no_answer", (wall, 81): "no_answer",
        }  # fmt: skip
        assert "MSS" in str(found[web, 80].detail) and found[web, 80].ttl == 64 and found[six, 80].ttl == 64
        assert result.sent == 8 and sent.total == 6, (
            "what answered is not asked again (IPv6 is not counted by this filter)"
        )
        assert "2 open" in result.headline()

    async def test_a_timestamp_says_how_far_a_clock_is_from_ours(self, lab: Lab, ask: Ask) -> None:
        result = await ask("icmp_timestamp", lab.hosts["web"].address, lab.hosts["wall"].address, timeout=0.5)
        first, second = result.answers
        assert first.outcome == "answered" and str(first.detail).startswith("clock 0.0")
        assert second.outcome == "no_answer"

    async def test_traceroute_shows_the_way_and_its_end(self, lab: Lab, ask: Ask) -> None:
        far = lab.hosts["far"]
        async with lab.counting("tcp[tcpflags] & tcp-syn != 0") as sent:
            result = await ask("tcp_traceroute", far.address, ports="80", count=2, timeout=1)
        ways = {(hop.ttl, hop.address, str(hop.outcome)) for hop in result.hops if hop.address}
        assert ways == {(1, lab.first.gateway, "exceeded"), (2, far.address, "open")}
        assert "open at hop 2" in result.headline() and sent.total == result.sent == 8
        closed = await ask("tcp_traceroute", str(far.address6), ports="81", timeout=1)
        assert (closed.hops[-1].ttl, str(closed.hops[-1].outcome)) == (2, "closed")
        assert closed.hops[0].address == str(lab.first.network6[1])

    async def test_the_way_s_largest_packet_is_found_and_who_limits_it(self, lab: Lab, ask: Ask) -> None:
        far, web = lab.hosts["far"], lab.hosts["web"]
        router = lab._namespace("router")
        await lab._batch(["link set eth2 mtu 1400"], router)
        try:
            result = await ask(
                "mtu", far.address, str(far.address6), web.address, lab.first.address(99), count=2, timeout=0.6
            )
        finally:
            await lab._batch(["link set eth2 mtu 1500"], router)
        found = {path.target: path for path in result.paths}
        assert [path.mtu for path in result.paths] == [1400, 1400, 1500, None]
        assert found[far.address].limited_by == lab.first.gateway and "says" in str(found[far.address].detail)
        assert result.sent < 40

    async def test_a_packet_larger_than_our_own_interface_is_our_own_limit(self, lab: Lab, ask: Ask) -> None:
        result = await ask("mtu", lab.hosts["web"].address, largest=9000, timeout=0.5)
        assert result.paths[0].mtu == 1500 and "own interface" in str(result.paths[0].detail)

    async def test_neighbour_discovery_finds_macs_of_ipv6(self, lab: Lab, ask: Ask) -> None:
        web, router, far = lab.hosts["web"], str(lab.first.network6[1]), str(lab.hosts["far"].address6)
        result = await ask("ipv6_neighbours", str(web.address6), router, str(lab.first.network6[99]), far, timeout=0.5)
        found = {answer.target: answer for answer in result.answers}
        assert found[str(web.address6)].mac == web.mac and found[router].mac == f"{CISCO}:00:{lab.slot:02x}:01"
        assert found[router].detail == "a router" and found[str(lab.first.network6[99])].outcome == "no_answer"
        assert any(far in note and "routed by way of" in note for note in result.notes)

    async def test_a_declared_question_is_sent_so_often_and_its_answer_decoded(self, lab: Lab, ask: Ask) -> None:
        web = lab.hosts["web"].address
        packet = [
            {"layer": "IP", "fields": {"ttl": 9}},
            {"layer": "TCP", "fields": {"dport": 81, "flags": "A", "seq": 5, "ack": 7}},
        ]
        async with lab.counting(f"tcp dst port 81 and ip[8] = 9 and src {lab.address} and dst {web}") as sent:
            result = await ask("packet", web, packet=packet, count=3, timeout=0.5)
        assert sent.total == 3 == len(result.answers)
        assert {str(answer.outcome) for answer in result.answers} == {"answered"}
        assert result.answers[0].detail == "flags R" and result.answers[0].layers[0].name == "TCP"
        udp = await ask("packet", web, packet=[{"layer": "UDP", "fields": {"dport": 9}}], timeout=0.5)
        assert (str(udp.answers[0].outcome), udp.answers[0].detail) == ("unreachable", f"{web} says: port unreachable")
        echo = await ask(
            "packet",
            web,
            str(lab.hosts["web"].address6),
            timeout=0.5,
            packet=[{"layer": "UDP", "fields": {"dport": 9}}],
        )
        assert [str(answer.outcome) for answer in echo.answers] == ["unreachable"] * 2
        short = await ask("packet", lab.hosts["far"].address, timeout=0.5,
                          packet=[{"layer": "IP", "fields": {"ttl": 1}}, {"layer": "ICMP"}])  # fmt: skip
        assert (str(short.answers[0].outcome), short.answers[0].by) == ("exceeded", lab.first.gateway)

    async def test_our_own_pace_is_kept_to_all_and_to_each(self, lab: Lab, ask: Ask) -> None:
        web, echo = lab.hosts["web"].address, [{"layer": "ICMP"}]
        policy = policy_of(lab, host_packets_per_second=8)
        async with lab.counting("icmp") as sent:
            began = time.monotonic()
            result = await ask("packet", web, packet=echo, count=12, timeout=0.5, rate=1000, policy=policy)
        assert result.answered == 12 and sent.total == 12 and time.monotonic() - began > 11 / 8
        assert sent.worst(1) <= 9
        async with lab.counting("icmp") as sent:
            result = await ask("packet", web, packet=echo, count=50, timeout=0.5, rate=35)
        assert result.packets_per_second == 35 and sent.total == 50 and sent.worst(1) <= 38

    async def test_everybody_on_the_link_is_no_target(self, lab: Lab, ask: Ask) -> None:
        everybody = str(lab.first.network.broadcast_address)
        async with lab.counting(f"dst host {everybody}") as sent:
            for probe in ({"probe": "icmp_timestamp"}, {"probe": "packet", "packet": [{"layer": "UDP"}]}):
                with pytest.raises(InvalidParameters, match="is everybody on"):
                    await ask(targets=[everybody], **probe)
        assert sent.total == 0

    async def test_who_offers_addresses_is_found_and_nothing_is_taken(self, lab: Lab, ask: Ask, tmp_path: Path) -> None:
        router = lab._namespace("router")
        leases = tmp_path / "leases"
        argv = [find_program("ip"), "netns", "exec", router, find_program("dnsmasq"), "--keep-in-foreground", "--port=0",
                "--user=root", "--conf-file=/dev/null", "--interface=eth1", "--bind-interfaces", "--no-ping", f"--dhcp-leasefile={leases}",
                f"--dhcp-range={lab.first.address(200)},{lab.first.address(210)},255.255.255.0,1h", "--dhcp-authoritative",
                f"--dhcp-option=3,{lab.first.gateway}", "--dhcp-option=6,10.0.0.53", "--domain=office.example"]  # fmt: skip
        server = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await asyncio.sleep(0.5)
            async with lab.counting("udp port 67") as sent:
                result = await ask("dhcp_discover", lab.first.cidr, interface=lab.interface, timeout=2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            await server.wait()
        (offer,) = result.offers
        assert (
            offer.server == lab.first.gateway
            and offer.routers == [lab.first.gateway]
            and offer.name_servers == ["10.0.0.53"]
        )
        assert (
            offer.address.rsplit(".", 1)[0] == lab.first.gateway.rsplit(".", 1)[0] and offer.domain == "office.example"
        )
        assert (
            offer.lease_seconds == 3600
            and offer.mask == "255.255.255.0"
            and offer.server_mac == f"{CISCO}:00:{lab.slot:02x}:01"
        )
        assert sent.total == 1 == result.sent and not leases.read_text().strip()
        assert result.headline() == f"1 DHCP server answers: {lab.first.gateway}"

    async def test_a_broadcast_needs_all_it_reaches_to_be_allowed(self, lab: Lab, ask: Ask) -> None:
        async with lab.counting("udp") as sent:
            with pytest.raises(Refused, match="not among the targets"):
                await ask("dhcp_discover", f"10.{lab.slot}.2.0/24", interface=lab.interface)
            excluding = policy_of(lab, exclude=[{"target": lab.first.address(44), "reason": "heart monitor"}])
            with pytest.raises(Refused, match=f"{lab.first.address(44)}/32, which policy excludes"):
                await ask("dhcp_discover", lab.first.cidr, interface=lab.interface, policy=excluding)
            with pytest.raises(InvalidParameters, match="no interface 'nosuch0'"):
                await ask("dhcp_discover", lab.first.cidr, interface="nosuch0")
        assert sent.total == 0

    async def test_no_dhcp_server_is_an_answer_too(self, lab: Lab, ask: Ask) -> None:
        result = await ask("dhcp_discover", lab.first.cidr, interface=lab.interface, timeout=0.3)
        assert result.offers == [] and not result.reached() and result.headline() == "no DHCP server answers"

    async def test_what_announces_itself_by_mdns_is_found_with_its_services(self, lab: Lab, ask: Ask) -> None:
        web, wall = lab.hosts["web"], lab.hosts["wall"]
        camera, printer = axis_records("AXIS P32.1", "B8A44F00000A", web.address), printer_records(wall.address)
        with announcing_mdns(web.namespace, camera) as asked, announcing_unasked(wall.namespace, printer):
            async with lab.counting("dst host 224.0.0.251") as sent:
                result = await ask("mdns", lab.first.cidr, interface=lab.interface, timeout=1)
        first, second = result.announcements
        (video,) = first.services
        assert (video.kind, video.name, video.port) == ("_axis-video._tcp", "AXIS P32.1 - B8A44F00000A", 80)
        assert video.host == "axis-b8a44f00000a" and video.txt == {"macaddress": "B8A44F00000A"}
        assert (first.address, first.mac, first.addresses) == (web.address, web.mac, [web.address])
        assert first.names == ["axis-b8a44f00000a"] and first.kinds == ["_axis-video._tcp"] and first.heard == 1
        assert (second.address, second.kinds) == (wall.address, ["_ipp._tcp", "_http._tcp"])
        assert [(page.name, page.port, page.txt) for page in second.services] == [
            ("Ink [2J jet", 631, {"note": "2nd floor", "password": "***"})
        ]
        (question,) = [DNS(one) for one in asked if not DNS(one).qr]
        assert sent.total == 1 == result.sent and question.qdcount == 3
        assert result.headline().startswith("2 hosts announce themselves by mDNS: _axis-video._tcp (1)")

    async def test_what_announces_itself_by_ssdp_is_found_and_nothing_is_fetched(self, lab: Lab, ask: Ask) -> None:
        web = lab.hosts["web"]
        server, usn = (
            "Linux/5.4 UPnP/1.0 AXIS\x1b[2J P3265/11.11",
            "uuid:Upnp-BasicDevice-1_0-B8A44F00000A::upnp:rootdevice",
        )
        location = f"http://root:pass@{web.address}:49152/rootdesc1.xml"
        with announcing_ssdp(web.namespace, server, usn, location) as asked:
            async with lab.counting(
                f"dst host 239.255.255.250 or (dst host {web.address} and not arp and not icmp)"
            ) as sent:
                result = await ask("ssdp", lab.first.cidr, interface=lab.interface, timeout=1)
        (device,) = result.announcements
        assert (device.protocol, device.address, device.mac) == ("ssdp", web.address, web.mac)
        assert (device.server, device.usns) == ("Linux/5.4 UPnP/1.0 AXIS [2J P3265/11.11", [usn])
        assert device.locations == [f"{web.address}:49152"] and device.kinds == ["upnp:rootdevice"]
        assert sent.total == 1 == result.sent and sent.to == {"239.255.255.250": 1} and asked[0].count(b"\r\n") == 6
        assert result.headline() == "1 host announces itself by SSDP: upnp:rootdevice (1)"

    async def test_only_answers_from_the_networks_asked_about_count(self, lab: Lab, ask: Ask) -> None:
        web = lab.hosts["web"]
        run = f"netns exec {web.namespace} {lab._ip}"
        stranger = axis_records("AXIS X", "B8A44F00000B", "198.51.100.7")
        with announcing_mdns(web.namespace, stranger, to_all=True):
            await lab._batch([f"{run} addr flush dev eth0", f"{run} addr add 198.51.100.7/24 dev eth0"])
            try:
                result = await ask("mdns", lab.first.cidr, interface=lab.interface, timeout=1)
            finally:
                await lab._batch(lab._configure(web))
                await lab._forget(web.address)
        assert result.announcements == [] and any("198.51.100.7" in note for note in result.notes)
        assert result.headline() == "nobody announces itself by mDNS" and not result.reached()

    async def test_a_question_to_all_needs_all_it_reaches_to_be_allowed(self, lab: Lab, ask: Ask) -> None:
        excluding = policy_of(lab, exclude=[{"target": lab.first.address(44), "reason": "heart monitor"}])
        async with lab.counting("udp") as sent:
            for probe, port in (("mdns", "5353"), ("ssdp", "1900")):
                with pytest.raises(Refused, match="not among the targets"):
                    await ask(probe, f"10.{lab.slot}.2.0/24", interface=lab.interface)
                with pytest.raises(Refused, match=f"{lab.first.address(44)}/32, which policy excludes"):
                    await ask(probe, lab.first.cidr, interface=lab.interface, policy=excluding)
                sparing = policy_of(lab, never_ports=[port])
                with pytest.raises(Refused, match=port):
                    await ask(probe, lab.first.cidr, interface=lab.interface, policy=sparing)
        assert sent.total == 0

    async def test_what_switches_say_about_themselves_is_heard_and_nothing_is_sent(self, lab: Lab, ask: Ask) -> None:
        lldp = Ether(dst="01:80:c2:00:00:0e", src="00:1b:54:00:00:99") / LLDPDUChassisID(
            subtype=4, id="00:1b:54:00:00:99"
        )
        lldp = (
            lldp
            / LLDPDUPortID(subtype=5, id=b"Gi1/0/7")
            / LLDPDUTimeToLive(ttl=120)
            / LLDPDUSystemName(system_name=b"sw-office")
        )
        lldp = (
            lldp
            / LLDPDUSystemDescription(description=b"IOS 15\n\x1b[2J")
            / LLDPDUSystemCapabilities(mac_bridge_available=1, mac_bridge_enabled=1, router_available=1)
        )
        lldp = lldp / LLDPDUManagementAddress(management_address_subtype=1, management_address=bytes([10, 0, 0, 2]),
                                              interface_numbering_subtype=2, interface_number=1)  # fmt: skip
        lldp = (
            lldp
            / LLDPDUGenericOrganisationSpecific(org_code=0x0080C2, subtype=1, data=b"\x00\x0c")
            / LLDPDUEndOfLLDPDU()
        )
        said = [
            CDPMsgDeviceID(val=b"phone-7"),
            CDPMsgPortID(iface=b"Port 1"),
            CDPMsgPlatform(val=b"Cisco 7960"),
            CDPMsgNativeVLAN(vlan=12),
        ]
        cdp = (
            Dot3(dst="01:00:0c:cc:cc:cc", src="00:1b:54:00:00:98")
            / LLC(dsap=0xAA, ssap=0xAA, ctrl=3)
            / SNAP(OUI=0xC, code=0x2000)
        )
        cdp = cdp / CDPv2_HDR(msg=said)
        noise = Ether(dst="01:80:c2:00:00:0e", src="00:1b:54:00:00:97", type=0x88CC) / b"\x02\xff\xff"
        async with lab.counting("not ip6 and not arp") as sent:
            listening = asyncio.ensure_future(ask("lldp_listen", interface=lab.interface, duration=3))
            # LLDP does not pass a bridge: the other end of our own cable has to say it.
            switch = lab._namespace("switch")
            for _ in range(12):
                await asyncio.sleep(0.25)
                in_namespace(switch, lambda: say("us", lldp, cdp, noise))
            result = await listening
        found = {neighbour.protocol: neighbour for neighbour in result.neighbours if neighbour.port}
        switch_said, phone = found["lldp"], found["cdp"]
        assert (switch_said.system_name, switch_said.port, switch_said.chassis) == (
            "sw-office",
            "Gi1/0/7",
            "00:1b:54:00:00:99",
        )
        assert (
            switch_said.capabilities == ["bridge"]
            and switch_said.management_addresses == ["10.0.0.2"]
            and switch_said.vlan == 12
        )
        assert (
            switch_said.system_description == "IOS 15 [2J" and switch_said.ttl_seconds == 120 and switch_said.heard >= 3
        )
        assert (phone.system_name, phone.platform, phone.port, phone.vlan) == ("phone-7", "Cisco 7960", "Port 1", 12)
        assert result.sent == 0 and sent.total == 0

    async def test_it_may_listen_only_where_the_policy_lets_it(self, lab: Lab, ask: Ask) -> None:
        with pytest.raises(Refused, match="capture"):
            await ask(
                "lldp_listen", interface=lab.interface, duration=1, policy=policy_of(lab, capture_interfaces=["lo"])
            )

    async def test_a_deadline_keeps_what_was_heard_and_a_cancel_ends_the_sender(
        self, lab: Lab, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web = lab.hosts["web"].address
        monkeypatch.setattr(Scapy, "deadline", lambda self: module.MARGIN_SECONDS + 1.5)
        result = await ask("packet", web, packet=[{"layer": "ICMP"}], count=50, rate=10, timeout=0.5)
        assert not result.complete and "INCOMPLETE" in result.headline() and 5 <= result.answered < 50
        assert {str(answer.outcome) for answer in result.answers} <= {"answered", "not_tried", "no_answer"}
        monkeypatch.setattr(module, "MARGIN_SECONDS", -30.0)
        monkeypatch.setattr(Scapy, "deadline", lambda self: 1.0)
        with pytest.raises(ToolTimeout):
            await ask("packet", web, packet=[{"layer": "ICMP"}], count=50, rate=10)
        monkeypatch.undo()
        sending = asyncio.ensure_future(ask("packet", web, packet=[{"layer": "ICMP"}], count=100, rate=20))
        await asyncio.sleep(1.5)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        async with lab.counting("icmp") as sent:
            await asyncio.sleep(0.5)
        assert sent.total == 0


@pytest.fixture
async def exchange() -> AsyncIterator[Any]:
    from tasks.network.capture import _scapy_exchange as exchanges
    from tasks.network.capture import _scapy_ip as ip
    from tasks.network.capture._scapy_order import Target

    if not may_send_raw(sys.executable):
        pytest.skip("needs CAP_NET_RAW")
    target = Target("x", "192.0.2.1")
    made = exchanges.Exchange(Order(Probe.TCP_TRACEROUTE, (target,), (80,)), frozenset({ip.wire.TCP}))
    with made.wire:
        made.shots = [
            ip.Shot(target, ip._syn(target, "10.0.0.1", 4000, 80, ttl), 80, ttl, time.time()) for ttl in (1, 2, 3)
        ]
        made.waiting = {exchanges.key_of(made.shots[0].packet): made.shots}
        yield made


async def test_a_router_s_answer_finds_the_very_packet_it_quotes(exchange: Any) -> None:
    first, second, third = exchange.shots
    quoted = bytes(second.packet)[:28]  # RFC 792: the header and 8 bytes
    exchange._hear(Heard(4, "10.9.9.9", 1, b"\x0b\0\0\0\0\0\0\0" + quoted, 63, time.time()))
    assert (str(second.outcome), second.by) == ("exceeded", "10.9.9.9")
    assert first.by is None and third.by is None
    foreign = bytes(first.packet)[:24] + b"\xff\xff\xff\xff"
    exchange._hear(Heard(4, "10.9.9.9", 1, b"\x0b\0\0\0\0\0\0\0" + foreign, 63, time.time()))
    assert first.by is None, "somebody else's packet to the same port"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120), st.sampled_from([(4, 1), (4, 6), (4, 17), (6, 58), (6, 6)]), st.integers(0, 200))
async def test_nothing_that_strangers_send_ends_a_probe(
    exchange: Any, data: bytes, kind: tuple[int, int], cut: int
) -> None:
    version, protocol = kind
    quoted = bytes(exchange.shots[0].packet)
    for payload in (data, b"\x0b\0\0\0\0\0\0\0" + quoted[:cut] + data, quoted[20:40] + data):
        exchange._hear(Heard(version, "192.0.2.1", protocol, payload, None, time.time()))


def printer_records(address: str) -> Records:
    instance, about = "Ink\x1b[2J\njet._ipp._tcp.local", [b"note=2nd floor", b"password=hunter2"]
    kinds = [
        DNSRR(rrname="_services._dns-sd._udp.local", type="PTR", rdata=f"_{kind}._tcp.local")
        for kind in ("ipp", "http")
    ]
    more = [
        DNSRRSRV(rrname=instance, port=631, target="ink.local"),
        DNSRR(rrname=instance, type="TXT", rdata=about),
        DNSRR(rrname="ink.local", type="A", rdata=address),
    ]
    return lambda: (kinds, more)


def say(interface: str, *frames: Packet) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        for frame in frames:
            sock.send(bytes(frame))


def test_a_result_fits_the_ledger_whatever_strangers_answer() -> None:
    text = "x" * 400
    about = dict.fromkeys(
        ("chassis", "port", "port_description", "system_name", "system_description", "platform"), text
    )
    neighbours = [about | {"protocol": "lldp", "mac": "02:00:00:00:00:01", "heard": 1} for _ in range(256)]
    offer = {
        "server": "10.0.0.1",
        "server_mac": "02:00:00:00:00:01",
        "address": "10.0.0.9",
        "domain": text,
        "rtt_ms": 1.0,
    }
    answer = {"target": "a", "address": "10.0.0.1", "outcome": "answered", "by": "10.0.0.1"}
    answers = [answer | {"layers": [{"name": "DNS", "fields": {"qd": text}}] * 12} for _ in range(200)]
    path = {"target": "a", "address": "10.0.0.1", "mtu": 1400, "detail": text}
    service = {"kind": text, "name": text, "txt": {"a": text}}
    announcement = {"protocol": "mdns", "address": "10.0.0.1", "mac": "02:00:00:00:00:01", "rtt_ms": 1.0, "heard": 1}
    announcement |= {"services": [service] * 3}
    reports = {
        Probe.LLDP_LISTEN: Report(neighbours=neighbours),
        Probe.DHCP_DISCOVER: Report(offers=[offer] * 300),
        Probe.PACKET: Report(answers=answers),
        Probe.MTU: Report(paths=[path] * 256),
        Probe.MDNS: Report(announcements=[announcement] * 256),
    }
    asked = {
        Probe.LLDP_LISTEN: {"interface": "lo"},
        Probe.DHCP_DISCOVER: {"interface": "lo", "targets": ["10.0.0.0/24"]},
        Probe.PACKET: {"targets": ["10.0.0.1"], "packet": [{"layer": "UDP"}]},
        Probe.MTU: {"targets": ["10.0.0.1"]},
        Probe.MDNS: {"interface": "lo", "targets": ["10.0.0.0/24"]},
    }
    for probe, report in reports.items():
        result = module._result(Scapy(probe=probe, **asked[probe]), Order(probe), report, [], 1.0)
        kinds = ("neighbours", "offers", "answers", "paths", "announcements")
        rows = sum(len(getattr(result, kind)) for kind in kinds)
        given = sum(len(getattr(report, kind)) for kind in kinds)
        assert json_size(result.model_dump(mode="json")) <= MOST_BYTES and rows > 5
        assert result.left_out == given - rows > 0


LABELS = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4).map(".".join)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(LABELS, st.sampled_from([1, 12, 16, 28, 33, 47]), st.binary(max_size=60)), max_size=12),
    st.binary(max_size=200),
    st.integers(12, 400),
)
def test_whatever_announces_itself_becomes_a_row_of_bounded_length(
    records: list[tuple[str, int, bytes]], head: bytes, cut: int
) -> None:
    from tasks.network.capture import _scapy_announce as announce

    host = announce._Host("02:00:00:00:00:01", 1.0)
    with contextlib.suppress(Exception):  # scapy gives up on some of it, and Link goes on with the next frame
        said = [DNSRR(rrname=name, type=kind, rdata=data) for name, kind, data in records]
        announce._note_records(host, DNS(bytes(DNS(qr=1, qd=[], an=said))[:cut]))
    with contextlib.suppress(Exception):
        announce._note_records(host, DNS(head))
    announce._note_headers(
        host, b"HTTP/1.1 200 OK\r\nLOCATION: http://" + head + b"\r\nSERVER:" + head + b"\nUSN:" + head
    )
    row = Announcement.model_validate(host.row("mdns", "10.0.0.1"))
    texts = [*row.names, *row.kinds, *row.usns, *row.locations, *(service.name for service in row.services)]
    assert all(text.isprintable() and len(text) <= announce.LONGEST + 3 for text in texts)
    assert len(row.services) <= announce.MOST_SERVICES and len(row.model_dump_json()) < 40_000


def test_a_device_that_announces_very_much_is_cut() -> None:
    from tasks.network.capture import _scapy_announce as announce

    host = announce._Host("02:00:00:00:00:01", 1.0)
    many = [DNSRR(rrname="_http._tcp.local", type="PTR", rdata=f"page {n}._http._tcp.local") for n in range(90)]
    announce._note_records(host, DNS(bytes(DNS(qr=1, qd=[], an=many))))
    row = host.row("mdns", "10.0.0.1")
    assert len(row["services"]) == announce.MOST_SERVICES and row["kinds"] == ["_http._tcp"]


def test_what_a_dhcp_server_says_is_one_line_without_control_characters() -> None:
    from tasks.network.capture._scapy_link import _offer

    options = [("message-type", "offer"), ("domain", b"\x1b[2Jevil\n.example\0"), ("router", *["10.0.0.1"] * 60), "end"]
    bootp = BOOTP(op=2, yiaddr="10.0.0.9", file=b"\x1b]0;boot\x07" + bytes(100))
    frame = (
        Ether(src="02:00:00:00:00:01") / IP(src="10.0.0.1") / UDP(sport=67, dport=68) / bootp / DHCP(options=options)
    )
    offer = _offer(Ether(bytes(frame)))
    assert (offer["message"], offer["domain"], offer["boot_file"]) == ("offer", "[2Jevil .example", "]0;boot")
    assert offer["routers"] == ["10.0.0.1"] * 16


def test_an_order_survives_the_way_to_another_process() -> None:
    import pickle

    order = Order(Probe.PACKET, layers=(("UDP", {"dport": 53}),))
    assert pickle.loads(pickle.dumps(order)) == order


def test_what_an_answer_says_is_no_piece_of_python() -> None:
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None), ("WScale", 7)]
    syn = Ether(bytes(Ether() / IP(options=[IPOption_Router_Alert()]) / TCP(options=options)))
    _, ip, tcp = layers_of(syn)
    assert tcp["fields"]["options"] == "MSS 1460, SAckOK, Timestamp 1 2, NOP, WScale 7"
    assert ip["fields"]["options"].startswith("IPOption_Router_Alert (copy_flag=1, optclass=control")
    answer = DNS(bytes(DNS(qr=1, qd=DNSQR(qname="a.example"), an=DNSRR(rrname="a.example", rdata="1.2.3.4"))))
    (dns,) = layers_of(answer)
    assert dns["fields"]["an"] == "DNSRR (rrname=a.example., type=A, cacheflush=0, rclass=IN, ttl=0, rdata=1.2.3.4)"
    assert "ns" not in dns["fields"]
    for layers in (layers_of(syn), layers_of(answer)):
        shown = str([layer["fields"] for layer in layers])
        assert "<" not in shown and "b'" not in shown.replace("'b'", "")


def test_a_secret_inside_a_field_is_masked_as_well() -> None:
    said = DHCP(bytes(DHCP(options=[("message-type", "offer"), (77, b"password=hunter2"), "end"])))
    assert "hunter2" not in str(layers_of(said)) and "message-type" in str(layers_of(said))
