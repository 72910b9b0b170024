"""`snmp_query` against a real snmpd, and against hosts that are silent, absent, broken or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.snmp_agent import SWITCH, USERS, SnmpAgent, community, large_table, needs_snmpd, user
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto.api import v2c
from pysnmp.proto.mpmod.rfc3412 import SNMPv3Message
from pysnmp.proto.secmod.rfc3414.service import UsmSecurityParameters

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from blocks.snmp import SnmpCredentials
from tasks.core.db.devices import conversation
from tasks.core.errors import InvalidParameters, NotFound, Refused
from tasks.core.run import FixedWiring, wired
from tasks.network.probe import _snmp_values as values
from tasks.network.probe import snmp_query as module
from tasks.network.probe._snmp_read import Reader
from tasks.network.probe._snmp_wire import AgentOutcome, Line, Wire
from tasks.network.probe.snmp_query import Agent, SnmpQuery, SnmpQueryResult, everything, snmp_query

Ask = Callable[..., Awaitable[SnmpQueryResult]]

UNHURRIED = ProbePolicy(host_packets_per_second=0)
"""The default policy without the cap of packets per host, which is tested by itself."""


@pytest.fixture(scope="module")
def agent() -> Iterator[SnmpAgent]:
    lines = ["sysObjectID 1.3.6.1.4.1.9.1.716", "sysServices 6"]
    with SnmpAgent(objects={**SWITCH, **large_table(3000)}, lines=lines) as running:
        yield running


@pytest.fixture
def ask(perform: Any) -> Ask:
    """Ask one agent, or several, with the credentials given: `await ask(agent.port, credentials, views=[...])`."""

    async def run(
        port: int, credentials: SnmpCredentials | None = None, *, policy: ProbePolicy = UNHURRIED, **params: Any
    ) -> SnmpQueryResult:
        given = {"targets": ["127.0.0.1"], "port": port, "credentials": "snmp/test", "timeout": 1, **params}
        blocks = {"snmp/test": credentials or community()}
        result: SnmpQueryResult = await perform(snmp_query, given, policy=policy, blocks=blocks)
        return result

    return run


def only(result: SnmpQueryResult) -> Agent:
    assert len(result.agents) == 1
    return result.agents[0]


# --- what a switch says --------------------------------------------------------------------------------------------------


@needs_snmpd
async def test_the_system_view_says_who_the_device_is(ask: Ask, agent: SnmpAgent) -> None:
    found = only(await ask(agent.port))
    system = found.system
    assert found.outcome is AgentOutcome.ANSWERED and found.requests == 1 and system is not None
    assert (system.name, system.location, system.contact) == ("switch-1", "rack 7", "noc@example.com")
    assert (system.object_id, system.enterprise, system.vendor) == ("1.3.6.1.4.1.9.1.716", 9, "Cisco")
    assert system.layers == [2, 3]
    assert system.chassis_id == system.bridge_address == "00:1b:54:00:00:00"
    assert system.uptime_seconds is not None and system.uptime_seconds >= 0 and system.uptime
    assert system.engine_id and bytes.fromhex(system.engine_id)


@needs_snmpd
async def test_the_interfaces_view_puts_both_interface_tables_together(ask: Ask, agent: SnmpAgent) -> None:
    first, second = only(await ask(agent.port, views=["interfaces"])).interfaces
    assert (first.index, first.name, first.description, first.alias) == (1, "Gi0/1", "GigabitEthernet0/1", "to rack 1")
    assert (first.type, first.mtu, first.mac, first.admin, first.oper) == (
        "ethernet", 1500, "00:1b:54:00:00:01", "up", "up",
    )  # fmt: skip
    assert first.speed_bps == 1_000_000_000 and second.speed_bps == 10_000_000_000
    assert first.in_octets == (1 << 40) + 1, "64 bits where there are"
    assert first.out_octets == 2000, "32 bits where that is all"
    assert (first.in_errors, first.in_discards, second.oper) == (1, None, "down")
    assert first.changed_seconds_ago is not None and first.changed_seconds_ago >= 0


@needs_snmpd
async def test_the_addresses_view_reads_the_old_table_and_the_new_one(ask: Ask, agent: SnmpAgent) -> None:
    rows = {row.address: row for row in only(await ask(agent.port, views=["addresses"])).addresses}
    assert set(rows) == {"10.9.8.1", "2001:db8::1"}, "a broadcast address is not the device's own"
    assert (rows["10.9.8.1"].prefix_length, rows["10.9.8.1"].interface) == (24, 1)
    assert (rows["2001:db8::1"].prefix_length, rows["2001:db8::1"].interface) == (64, 2)


@needs_snmpd
async def test_the_arp_view_knows_ipv4_and_ipv6_neighbours(ask: Ask, agent: SnmpAgent) -> None:
    rows = only(await ask(agent.port, views=["arp"])).arp
    assert {(row.address, row.mac, row.interface, row.kind) for row in rows} == {
        ("10.9.8.50", "00:40:8c:12:34:56", 1, "dynamic"),
        ("2001:db8::1", "00:40:8c:00:00:07", 2, "dynamic"),
    }


@needs_snmpd
async def test_the_neighbours_view_reads_lldp_and_cdp(ask: Ask, agent: SnmpAgent) -> None:
    lldp, cdp = only(await ask(agent.port, views=["neighbours"])).neighbours
    assert (lldp.protocol, lldp.local_port, lldp.chassis_id, lldp.port) == (
        "lldp", "Gi0/1", "00:40:8c:12:34:56", "00:40:8c:12:34:56",
    )  # fmt: skip
    assert (lldp.name, lldp.port_description, lldp.capabilities) == ("axis-door", "eth0", ["station"])
    assert lldp.addresses == ["10.9.8.50"]
    assert (cdp.protocol, cdp.local_port, cdp.name, cdp.port) == (
        "cdp", "Te1/1", "core-sw.example.com", "TenGigabitEthernet1/0/1",
    )  # fmt: skip
    assert (cdp.platform, cdp.addresses, cdp.native_vlan) == ("cisco WS-C3850", ["10.9.8.2"], 99)
    assert cdp.capabilities == ["router", "switch", "igmp"]


@needs_snmpd
async def test_the_forwarding_view_names_vlans_and_interfaces(ask: Ask, agent: SnmpAgent) -> None:
    learned, own = only(await ask(agent.port, views=["forwarding"])).forwarding
    assert (learned.mac, learned.vlan, learned.port, learned.interface, learned.status) == (
        "00:40:8c:12:34:56", 30, 7, 1, "learned",
    )  # fmt: skip
    assert (own.mac, own.vlan, own.port, own.status) == ("00:1b:54:00:00:01", None, None, "self")


@needs_snmpd
async def test_the_entity_view_has_serials_models_and_firmware(ask: Ask, agent: SnmpAgent) -> None:
    chassis, part = only(await ask(agent.port, views=["entity"])).entity
    assert (chassis.kind, chassis.serial, chassis.model, chassis.vendor, chassis.firmware, chassis.software) == (
        "chassis", "FOC1234X0AB", "WS-C2960", "Cisco Systems, Inc.", "15.2", "15.2(7)E3",
    )  # fmt: skip
    assert (part.contained_in, part.kind, part.serial, part.replaceable) == (1, "module", "FOC1234X0AB-M", True)


@needs_snmpd
async def test_single_values_are_decoded_by_type_and_missing_ones_told_apart(ask: Ask, agent: SnmpAgent) -> None:
    private = [f"1.3.6.1.4.1.99999.{number}.0" for number in range(1, 6)]
    missing = ["1.3.6.1.2.1.1.5.1", "1.3.6.1.2.1.1.77.0", ".2.39.1"]
    found = only(await ask(agent.port, get=["1.3.6.1.2.1.1.5.0", *private, *missing]))
    said = [(row.type, row.value) for row in found.values]
    assert said == [
        ("text", "switch-1"),
        ("hex", "ff:00:01"),
        ("counter64", (1 << 63) + 5),
        ("ip_address", "192.0.2.1"),
        ("oid", "1.3.6.1.4.1.99999"),
        ("timeticks", 123456789),
        ("no_such_instance", None),
        ("no_such_object", None),
        ("no_such_object", None),
    ]
    assert found.values[5].text == "14 days, 6:56:07.89"
    assert found.outcome is AgentOutcome.ANSWERED


@needs_snmpd
async def test_a_walk_reads_a_subtree_and_nothing_else(ask: Ask, agent: SnmpAgent) -> None:
    found = only(await ask(agent.port, walk=["1.3.6.1.4.1.99999.9"], max_rows=5000, max_repetitions=100))
    assert found.outcome is AgentOutcome.ANSWERED
    assert len(found.values) + found.left_out["values"] == 3000
    assert found.requests <= 120, "bulk: not a request for each value"


@needs_snmpd
async def test_a_walk_of_a_single_value_or_of_nothing_says_what_is_there(ask: Ask, agent: SnmpAgent) -> None:
    found = only(await ask(agent.port, walk=["1.3.6.1.2.1.1.5.0", "1.3.6.1.4.1.4242"]))
    assert [(row.oid, row.type, row.value) for row in found.values] == [
        ("1.3.6.1.2.1.1.5.0", "text", "switch-1"),
        ("1.3.6.1.4.1.4242", "no_such_object", None),
    ]


@needs_snmpd
async def test_what_is_not_there_is_not_counted_as_a_value(ask: Ask, agent: SnmpAgent) -> None:
    there, missing = "1.3.6.1.2.1.1.5.0", ["1.3.6.1.4.1.4242.1.0", "1.3.6.1.2.1.1.5.1"]
    result = await ask(agent.port, get=[there, *missing])
    assert only(result).missing == 2 and result.headline() == "127.0.0.1: 1 value, 2 not there"
    result = await ask(agent.port, get=missing[:1])
    assert result.headline() == "127.0.0.1: 1 value not there"
    result = await ask(agent.port, get=[there, *missing], targets=["127.0.0.1", "127.0.0.2"])
    assert result.headline() == "2 agents: 1 answered, 1 no agent; 2 values not there"


@needs_snmpd
async def test_what_is_not_there_is_known_also_where_values_are_in_the_file_only(ask: Ask, agent: SnmpAgent) -> None:
    result = await ask(agent.port, walk=["1.3.6.1.4.1.99999.9", "1.3.6.1.4.1.4242"], max_rows=5000, max_repetitions=100)
    assert only(result).left_out["values"] > 0
    assert result.headline() == "127.0.0.1: 3,000 values, 1 not there"


@needs_snmpd
async def test_views_an_agent_has_nothing_of_are_named_and_no_error(ask: Ask) -> None:
    with SnmpAgent() as bare:
        result = await ask(bare.port, views=["system", "neighbours", "forwarding", "entity"])
    found = only(result)
    assert found.outcome is AgentOutcome.ANSWERED and found.system is not None
    assert found.nothing_of == ["neighbours", "forwarding", "entity"]
    assert result.headline() == "127.0.0.1: switch-1, nothing of neighbours, forwarding, entity"
    assert (found.system.vendor, found.system.chassis_id) == (None, None), "net-snmp made the agent, not the device"


@needs_snmpd
async def test_ipv6_agents_answer_too(ask: Ask) -> None:
    with SnmpAgent(address="::1") as six:
        assert only(await ask(six.port, targets=["::1"])).system is not None
        assert only(await ask(six.port, user("sha-aes"), targets=["::1"])).system is not None


# --- version 3 -----------------------------------------------------------------------------------------------------------


@needs_snmpd
@pytest.mark.parametrize("name", USERS)
async def test_every_authentication_and_encryption_protocol_works(ask: Ask, agent: SnmpAgent, name: str) -> None:
    found = only(await ask(agent.port, user(name), views=["system", "entity"]))
    assert found.outcome is AgentOutcome.ANSWERED and found.system is not None and len(found.entity) == 2
    assert found.engine_id == found.system.engine_id
    assert found.requests <= 6, "one more than version 2c needs: to ask who the agent is"


@needs_snmpd
@pytest.mark.parametrize(
    ("credentials", "outcome"),
    [
        (user("sha256-aes", auth_password="another-password"), AgentOutcome.WRONG_PASSWORD),
        (user("sha256-aes", auth_protocol="SHA-512"), AgentOutcome.WRONG_PASSWORD),
        (user("sha256-aes", priv_password="another-password"), AgentOutcome.WRONG_ENCRYPTION),
        (user("sha256-aes", priv_protocol="DES"), AgentOutcome.WRONG_ENCRYPTION),
        (user("sha256-aes", username="nobody"), AgentOutcome.UNKNOWN_USER),
        (user("sha", priv_protocol="AES", priv_password="priv-password"), AgentOutcome.WRONG_LEVEL),
        (user("sha256-aes", priv_protocol="none", priv_password=None), AgentOutcome.NOT_ALLOWED),
    ],
)
async def test_what_is_wrong_with_a_version_3_user_is_told_apart(
    ask: Ask, agent: SnmpAgent, credentials: SnmpCredentials, outcome: AgentOutcome
) -> None:
    result = await ask(agent.port, credentials, timeout=0.5)
    found = only(result)
    assert found.outcome is outcome
    assert found.detail and not result.reached() and found.requests <= 4
    assert not any(secret in result.model_dump_json() for secret in ("another-password", "priv-password"))


@needs_snmpd
async def test_an_agent_that_restarted_is_believed_its_new_clock(agent: SnmpAgent) -> None:
    """Within one conversation: the agent's boot counter goes up, and the next request finds the new time window."""
    async with line_to(agent.port, user("sha-aes")) as line:
        await line.ask("get", [(1, 3, 6, 1, 2, 1, 1, 5, 0)])
        model = line.wire.engine.security_models[3]
        timeline = model._SnmpUSMSecurityModel__timeline
        assert timeline
        for key, (boots, clock, latest, received) in list(timeline.items()):
            timeline[key] = (boots, clock + 100_000, latest + 100_000, received)  # we think it is later than it is
        (row,) = await line.ask("get", [(1, 3, 6, 1, 2, 1, 1, 5, 0)])
        assert row[1].text == "switch-1"


# --- agents that do not answer -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def line_to(port: int, credentials: SnmpCredentials, **options: Any) -> AsyncIterator[Line]:
    async def pay() -> None: ...

    line = Line(await asyncio.to_thread(Wire, credentials), "127.0.0.1", port, 1, 0, pay)
    await line.open()
    try:
        yield line
    finally:
        line.close()


@needs_snmpd
async def test_a_wrong_community_is_told_from_silence_by_the_agents_version_3(ask: Ask, agent: SnmpAgent) -> None:
    result = await ask(agent.port, community("signal-green"), timeout=0.5)
    found = only(result)
    assert found.outcome is AgentOutcome.WRONG_COMMUNITY and not result.reached()
    assert found.requests == 3, "twice with the community, once to ask who is there"
    assert found.detail and "the community" in found.detail and "signal-green" not in result.model_dump_json()
    assert found.engine_id, "the agent said who it is"


@needs_snmpd
async def test_two_names_of_one_agent_with_a_wrong_community_get_the_same_outcome(ask: Ask, agent: SnmpAgent) -> None:
    result = await ask(agent.port, community("signal-green"), targets=["127.0.0.1", "localhost"], timeout=0.5)
    assert [found.address for found in result.agents] == ["127.0.0.1", "127.0.0.1"]
    assert [found.outcome for found in result.agents] == 2 * [AgentOutcome.WRONG_COMMUNITY]


async def test_an_address_that_says_nothing_stays_silent_and_both_reasons_are_said(ask: Ask) -> None:
    async with peer(lambda _: []) as (port, server):
        found = only(await ask(port, timeout=0.2))
        assert found.outcome is AgentOutcome.SILENT and found.requests == len(server.heard) == 3
        assert found.detail and "community" in found.detail and "no agent" in found.detail
        last, _ = decoder.decode(server.heard[-1], asn1Spec=SNMPv3Message())
        security, _ = decoder.decode(bytes(last[2]), asn1Spec=UsmSecurityParameters())
        assert int(last[0]) == 3 and not bytes(security[0]) and not bytes(security[3]), "nobody's question who is there"


async def test_the_question_who_is_there_waits_its_turn_like_any_other(ask: Ask) -> None:
    heard: list[float] = []

    def answer(_: bytes) -> list[bytes]:
        heard.append(time.monotonic())
        return []

    async with peer(answer) as (port, _):
        await ask(port, policy=ProbePolicy(host_packets_per_second=2), timeout=0.1, attempts=1)
    assert len(heard) == 2 and heard[1] - heard[0] >= 0.4


@pytest.mark.parametrize(("seconds", "attempts"), [(0.45, 2), (0.75, 2), (0.45, 1)])
async def test_an_answer_that_comes_after_its_time_is_taken_while_anything_is_waited_for(
    ask: Ask, seconds: float, attempts: int
) -> None:
    class Slow(_Peer):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            if data[4] == 1:  # version 2c
                name = [("1.3.6.1.2.1.1.5.0", v2c.OctetString("slow"))]
                asyncio.get_running_loop().call_later(seconds, self._transport.sendto, response(data, name), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Slow(lambda _: []), local_addr=("127.0.0.1", 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        found = only(await ask(port, get=["1.3.6.1.2.1.1.5.0"], timeout=0.3, attempts=attempts))
    finally:
        transport.close()
    assert found.outcome is AgentOutcome.ANSWERED and found.values[0].value == "slow"


async def test_a_host_that_says_nobody_listens_is_told_from_a_silent_one(ask: Ask) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        assert only(await ask(port, timeout=0.2)).outcome is AgentOutcome.SILENT
        assert only(await ask(port, user("sha"), timeout=0.2)).outcome is AgentOutcome.SILENT
    found = only(await ask(port, timeout=0.2))
    assert found.outcome is AgentOutcome.NO_AGENT and found.requests == 1


async def test_a_target_no_route_leads_to_is_unreachable(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = Line.open

    async def no_route(self: Line) -> None:
        monkeypatch.setattr(
            asyncio.get_running_loop(), "create_datagram_endpoint", _raising(OSError(errno.ENETUNREACH, "no way"))
        )
        await open_(self)

    monkeypatch.setattr(Line, "open", no_route)
    assert only(await ask(161)).outcome is AgentOutcome.UNREACHABLE


def _raising(problem: OSError) -> Callable[..., Awaitable[None]]:
    async def fail(*_: Any, **__: Any) -> None:
        raise problem

    return fail


@needs_snmpd
async def test_an_agent_that_stops_halfway_leaves_what_it_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with SnmpAgent(objects=SWITCH) as halting:
        ask_one = Line.ask

        async def stopping(self: Line, command: Any, oids: Any, repetitions: int = 0) -> Any:
            if command == "bulk":
                halting.stop_answering()
            return await ask_one(self, command, oids, repetitions)

        monkeypatch.setattr(Line, "ask", stopping)
        found = only(await ask(halting.port, views=["system", "interfaces", "entity"], timeout=0.3, attempts=2))
        assert found.outcome is AgentOutcome.PARTIAL
        assert found.system is not None and found.system.name == "switch-1" and not found.interfaces
        assert found.detail and "answered before" in found.detail
        assert found.requests == 3, "once silent it is not asked for the rest"
        assert found.nothing_of == []


# --- agents that answer badly --------------------------------------------------------------------------------------------


class _Peer(asyncio.DatagramProtocol):
    """A UDP server that answers each message by a function of it."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self.heard: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.append(data)
        for message in self._answer(data):
            self._transport.sendto(message, addr)


@contextlib.asynccontextmanager
async def peer(answer: Callable[[bytes], list[bytes]]) -> AsyncIterator[tuple[int, _Peer]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Peer(answer), local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1], protocol
    finally:
        transport.close()


def response(request: bytes, rows: list[tuple[str, Any]], *, status: int = 0, index: int = 0, shift: int = 0) -> bytes:
    """A version 2c response to a request."""
    message, _ = decoder.decode(request, asn1Spec=v2c.Message())
    asked = v2c.apiMessage.get_pdu(message)
    pdu = v2c.ResponsePDU()
    v2c.apiPDU.set_defaults(pdu)
    v2c.apiPDU.set_request_id(pdu, int(v2c.apiPDU.get_request_id(asked)) + shift)
    v2c.apiPDU.set_error_status(pdu, status)
    v2c.apiPDU.set_error_index(pdu, index)
    v2c.apiPDU.set_varbinds(pdu, [(v2c.ObjectIdentifier(oid), value) for oid, value in rows])
    v2c.apiMessage.set_pdu(message, pdu)
    return bytes(encoder.encode(message))


def asked_for(request: bytes) -> tuple[str, list[str], int]:
    """Command, object identifiers and max-repetitions of a version 2c request."""
    message, _ = decoder.decode(request, asn1Spec=v2c.Message())
    pdu = v2c.apiMessage.get_pdu(message)
    bulk = pdu.tagSet == v2c.GetBulkRequestPDU.tagSet
    oids = [str(oid) for oid, _ in v2c.apiPDU.get_varbinds(pdu)]
    return ("bulk" if bulk else "get"), oids, int(v2c.apiBulkPDU.get_max_repetitions(pdu)) if bulk else 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00",
        b"HTTP/1.1 200 OK\r\n",
        b"\x30\x82\xff\xff\x02",
        b"\x30\x03\x02\x01\x01",
        b"\x30\x80" * 200,
        bytes(1400),
    ],
    ids=["zero", "http", "cut", "version-only", "nested", "zeros"],
)
async def test_garbage_is_called_nonsense_for_both_versions(ask: Ask, garbage: bytes) -> None:
    async with peer(lambda _: [garbage]) as (port, server):
        for credentials in (community(), user("sha-aes")):
            found = only(await ask(port, credentials, timeout=0.2, attempts=1))
            assert found.outcome is AgentOutcome.NONSENSE, found
        assert len(server.heard) == 2


async def test_a_message_pysnmp_itself_stumbles_over_is_nonsense_too(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(Wire, "read", stumble)
    async with peer(lambda _: [b"anything"]) as (port, _):
        assert only(await ask(port, timeout=0.3, attempts=1)).outcome is AgentOutcome.NONSENSE


async def test_answers_to_other_requests_and_of_other_communities_are_not_taken(ask: Ask) -> None:
    name = [("1.3.6.1.2.1.1.5.0", v2c.OctetString("impostor"))]
    for wrong in (
        lambda request: response(request, name, shift=1),
        lambda request: response(request, name).replace(b"signal-red", b"signal-tan"),
    ):
        async with peer(lambda request, wrong=wrong: [wrong(request)]) as (port, _):
            found = only(await ask(port, get=["1.3.6.1.2.1.1.5.0"], timeout=0.2, attempts=1))
            assert found.outcome is AgentOutcome.NONSENSE and not found.values


async def test_garbage_before_the_answer_does_no_harm(ask: Ask) -> None:
    def answer(request: bytes) -> list[bytes]:
        return [b"junk", response(request, [("1.3.6.1.2.1.1.5.0", v2c.OctetString("here"))])]

    async with peer(answer) as (port, _):
        found = only(await ask(port, get=["1.3.6.1.2.1.1.5.0"]))
        assert found.outcome is AgentOutcome.ANSWERED and found.values[0].value == "here"


@settings(deadline=None)  # making an engine takes a tenth of a second, and more on a busy machine
@given(st.binary(max_size=200))
def test_no_bytes_a_stranger_sends_break_the_reader(data: bytes) -> None:
    for line in _lines():
        line.datagram_received(data, None)
        assert not line.answered


def _lines() -> list[Line]:
    if not _LINES:

        async def pay() -> None: ...

        _LINES.extend(Line(Wire(c), "127.0.0.1", 161, 1, 0, pay) for c in (community(), user("sha-aes")))
    return _LINES


_LINES: list[Line] = []


async def test_an_agent_that_cannot_send_much_at_once_is_asked_for_less(ask: Ask) -> None:
    root = "1.3.6.1.4.1.99999.9.1.1"

    def answer(request: bytes) -> list[bytes]:
        command, oids, repetitions = asked_for(request)
        if repetitions > 4 or len(oids) > 2:
            return [response(request, [], status=1)]  # tooBig
        if command == "get":
            return [response(request, [(oid, v2c.Integer32(7)) for oid in oids])]
        start = int(oids[0].removeprefix(root).strip(".") or 0)
        rows = [(f"{root}.{row}", v2c.Integer32(row)) for row in range(start + 1, start + 1 + repetitions) if row <= 30]
        return [response(request, rows or [(oids[0], v2c.EndOfMibView(""))])]

    async with peer(answer) as (port, _):
        found = only(await ask(port, walk=[root], get=[f"1.3.6.1.4.1.99999.{number}.0" for number in range(9)]))
        assert found.outcome is AgentOutcome.ANSWERED
        assert [row.value for row in found.values] == [7] * 9 + list(range(1, 31))


async def test_a_value_that_an_agent_fails_at_costs_that_value_only(ask: Ask) -> None:
    bad = "1.3.6.1.4.1.99999.3.0"

    def answer(request: bytes) -> list[bytes]:
        _, oids, _ = asked_for(request)
        if bad in oids:
            return [response(request, [(oid, v2c.Null("")) for oid in oids], status=5, index=oids.index(bad) + 1)]
        return [response(request, [(oid, v2c.Integer32(1)) for oid in oids])]

    async with peer(answer) as (port, _):
        oids = [f"1.3.6.1.4.1.99999.{number}.0" for number in range(1, 9)]
        found = only(await ask(port, get=oids))
        assert found.outcome is AgentOutcome.PARTIAL and "genErr" in (found.detail or "")
        assert [row.oid for row in found.values] == [oid for oid in oids if oid != bad]
        assert only(await ask(port, get=[bad])).outcome is AgentOutcome.AGENT_ERROR


async def test_an_agent_that_goes_in_circles_is_left(ask: Ask) -> None:
    root = "1.3.6.1.4.1.99999"

    def answer(request: bytes) -> list[bytes]:
        return [response(request, [(f"{root}.2", v2c.Integer32(1)), (f"{root}.1", v2c.Integer32(1))])]

    async with peer(answer) as (port, server):
        found = only(await ask(port, walk=[root]))
        assert found.outcome is AgentOutcome.PARTIAL and "circles" in (found.detail or "")
        assert len(server.heard) == 1


async def test_a_table_without_end_stops_at_the_rows_and_at_the_seconds_allowed(ask: Ask) -> None:
    root = "1.3.6.1.4.1.99999"

    def answer(request: bytes) -> list[bytes]:
        _, oids, repetitions = asked_for(request)
        start = int(oids[0].removeprefix(root).strip(".") or 0)
        rows = [(f"{root}.{row}", v2c.Integer32(row)) for row in range(start + 1, start + 1 + min(repetitions, 40))]
        return [response(request, rows)]

    async with peer(answer) as (port, _):
        found = only(await ask(port, walk=[root], max_rows=100))
        assert len(found.values) == 100 and found.cut == [f"what follows {root}.100: more than 100 rows"]
        began = time.monotonic()
        slowly = ProbePolicy(host_packets_per_second=10)
        found = only(await ask(port, policy=slowly, walk=[root], max_rows=50_000, max_seconds=1))
        assert found.outcome is AgentOutcome.PARTIAL and "1 s were over" in found.cut[0]
        assert time.monotonic() - began < 10


async def test_an_agent_whose_clock_never_fits_is_given_up(ask: Ask) -> None:
    reports = {"discovery": (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0), "window": (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0)}

    async with peer(lambda request: [report(request, reports)]) as (port, server):
        found = only(await ask(port, user("sha"), timeout=0.5, attempts=1))
        assert found.outcome is AgentOutcome.NOT_IN_TIME_WINDOW and found.detail
        assert len(server.heard) <= 4


def report(request: bytes, oids: Mapping[str, tuple[int, ...]]) -> bytes:
    """An unauthenticated version 3 report: who I am to whoever asks that, else that the time does not fit."""
    message, _ = decoder.decode(request, asn1Spec=SNMPv3Message())
    security, _ = decoder.decode(bytes(message[2]), asn1Spec=UsmSecurityParameters())
    asks_who = not bytes(security[0])
    pdu = v2c.ReportPDU()
    v2c.apiPDU.set_defaults(pdu)
    v2c.apiPDU.set_varbinds(pdu, [(oids["discovery" if asks_who else "window"], v2c.Counter32(1))])
    answer = SNMPv3Message()
    answer[0] = 3
    answer[1][0], answer[1][1], answer[1][2], answer[1][3] = int(message[1][0]), 65507, b"\0", 3
    engine = bytes.fromhex("80001f8880e9630000d61ff449")
    parameters = UsmSecurityParameters()
    for place, value in enumerate((engine, 1, 5, b"", b"", b"")):
        parameters[place] = value
    answer[2] = bytes(encoder.encode(parameters))
    answer[3]["plaintext"][0], answer[3]["plaintext"][1] = engine, b""
    answer[3]["plaintext"][2].setComponentByType(
        pdu.tagSet, pdu, verifyConstraints=False, matchTags=False, matchConstraints=False, innerFlag=True
    )
    return bytes(encoder.encode(answer))


# --- several agents, one at a time each ----------------------------------------------------------------------------------


@needs_snmpd
async def test_each_target_gets_its_own_outcome(ask: Ask, agent: SnmpAgent) -> None:
    targets = ["127.0.0.2", "127.0.0.1", "gone.invalid"]
    result = await ask(agent.port, targets=targets, timeout=0.2)
    assert [found.target for found in result.agents] == targets
    assert [found.outcome for found in result.agents] == [
        AgentOutcome.NO_AGENT, AgentOutcome.ANSWERED, AgentOutcome.UNRESOLVED,
    ]  # fmt: skip
    assert result.reached() and result.headline() == "3 agents: 1 answered, 1 no agent, 1 unresolved"


async def test_an_agent_never_has_two_requests_in_flight_also_for_two_runs(ask: Ask) -> None:
    waiting = most = 0

    class Slow(_Peer):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            asyncio.get_running_loop().call_later(0.05, self._reply, data, addr)

        def _reply(self, data: bytes, addr: Any) -> None:
            nonlocal waiting
            waiting -= 1
            _, oids, _ = asked_for(data)
            self._transport.sendto(response(data, [(oid, v2c.Integer32(1)) for oid in oids]), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Slow(lambda _: []), local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    oids = [f"1.3.6.1.4.1.99999.{number}.0" for number in range(40)]
    try:
        results = await asyncio.gather(*(ask(port, get=oids) for _ in range(3)))
    finally:
        transport.close()
    assert most == 1
    assert all(only(result).outcome is AgentOutcome.ANSWERED for result in results)


async def test_an_agent_another_run_talks_with_for_long_is_busy(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OTHERS_SECONDS", 0.1)
    async with conversation("default", "127.0.0.1", wait=0):
        found = only(await ask(161))
    assert found.outcome is AgentOutcome.BUSY and found.requests == 0


async def test_one_host_gets_no_more_packets_than_policy_allows(ask: Ask) -> None:
    heard: list[float] = []

    def answer(request: bytes) -> list[bytes]:
        heard.append(time.monotonic())
        _, oids, _ = asked_for(request)
        return [response(request, [(oid, v2c.Integer32(1)) for oid in oids])]

    async with peer(answer) as (port, _):
        oids = [f"1.3.6.1.4.1.99999.{number}.0" for number in range(64)]
        await ask(port, policy=ProbePolicy(host_packets_per_second=5), get=oids)
    assert len(heard) == 4 and heard[-1] - heard[0] >= 0.5


async def test_the_deadline_keeps_what_was_read(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SnmpQuery, "deadline", lambda self: module.REPORTING_SECONDS + 0.5)

    def answer(request: bytes) -> list[bytes]:
        _, oids, _ = asked_for(request)
        return [response(request, [(oid, v2c.Integer32(1)) for oid in oids])] if "1.3.6.1.4.1.7.0.0" in oids else []

    async with peer(answer) as (port, _):
        found = only(await ask(port, get=[f"1.3.6.1.4.1.7.{n}.0" for n in range(20)], timeout=20))
        assert found.outcome is AgentOutcome.PARTIAL and "deadline" in (found.detail or "")
        silent = only(await ask(port, get=["1.3.6.1.4.1.8.0"], timeout=20))
        assert silent.outcome is AgentOutcome.NOT_TRIED


# --- what is large, and what is not allowed ------------------------------------------------------------------------------


@needs_snmpd
async def test_more_than_the_ledger_keeps_goes_to_a_file_with_everything_in_it(
    ask: Ask, agent: SnmpAgent, perform: Any, tmp_path: Any
) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    params = {
        "targets": ["127.0.0.1"], "port": agent.port, "credentials": "snmp/test", "walk": ["1.3.6.1.4.1.99999.9"],
        "max_rows": 5000, "max_repetitions": 100,
    }  # fmt: skip
    result = await perform(snmp_query, params, policy=UNHURRIED, blocks={"snmp/test": community()}, store=store)
    shown = only(result)
    assert len(result.model_dump_json()) < 64 << 10 and result.output is not None
    assert shown.rows == 3000 > len(shown.values) > 0 and "3,000 values" in result.headline()
    with wired(FixedWiring(captures=store)):
        assert len(only(await everything(result)).values) == 3000
        store.path(result.output.name).unlink()
        with pytest.raises(NotFound):
            await everything(result)


async def test_a_target_policy_does_not_allow_hears_nothing(ask: Ask) -> None:
    async with peer(lambda _: []) as (port, server):
        with pytest.raises(Refused):
            await ask(port, policy=ProbePolicy(allow=["10.0.0.0/8"]))
        with pytest.raises(Refused):
            await ask(port, policy=ProbePolicy(never_ports=[str(port)]))
        assert not server.heard


async def test_a_block_that_does_not_exist_is_said_before_anything_is_sent(perform: Any) -> None:
    with pytest.raises(InvalidParameters, match="snmp/none"):
        await perform(snmp_query, {"targets": ["127.0.0.1"], "credentials": "snmp/none"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"get": ["sysName.0"]}, "numeric"),
        ({"get": ["1"]}, "numeric"),
        ({"get": ["1.3..6"]}, "numeric"),
        ({"walk": ["3.1"]}, "outside the tree"),
        ({"walk": ["1.40.1"]}, "outside the tree"),
        ({"walk": ["1.3.4294967296"]}, "above"),
        ({"walk": ["1.3" + ".1" * 130]}, "arcs"),
        ({"views": ["everything"]}, "views"),
        ({"max_rows": 0}, "max_rows"),
        ({"credentials": "public"}, "credentials"),
        ({"port": 0}, "port"),
    ],
)
async def test_wrong_parameters_are_named(perform: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await perform(snmp_query, {"targets": ["127.0.0.1"], "credentials": "snmp/core", **wrong})


# --- values --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, values.LARGEST_ARC), min_size=1, max_size=126))
def test_every_object_identifier_keeps_its_spelling(arcs: list[int]) -> None:
    text = values.format_oid((1, 3, *arcs))
    assert values.parse_oid(f".{text}") == text and values.format_oid(values.oid_of(text)) == text


@given(st.binary(max_size=64))
def test_bytes_are_shown_as_text_only_where_nothing_is_lost_or_dangerous(octets: bytes) -> None:
    text = values.text_of(octets)
    if text is not None:
        assert all(character.isprintable() or character in "\n\t" for character in text)
    elif octets.isascii():
        assert any(byte < 32 or byte == 127 for byte in octets)


def test_terminal_escapes_and_latin_1_are_no_text() -> None:
    assert values.text_of(b"\x1b[31mred") is None
    assert values.text_of("Zürich".encode("latin-1")) is None
    assert values.text_of("Zürich".encode()) == "Zürich"


@pytest.mark.parametrize("arcs", [(), (1,), (1, 4, 10, 0, 0), (1, 4, 10, 0, 0, 256), (1, 0), (2, 5, 1, 2, 3, 4, 5)])
def test_an_index_that_is_no_address_is_none(arcs: tuple[int, ...]) -> None:
    assert values.indexed_address(arcs) is None


def test_a_zone_is_left_out_of_an_address() -> None:
    link_local = (0xFE, 0x80, *([0] * 13), 1)
    assert values.indexed_address((4, 20, *link_local, 0, 0, 0, 2)) == "fe80::1"


async def test_a_reader_that_is_out_of_time_says_what_it_did_not_read() -> None:
    async with line_to(9, community()) as line:
        reader = Reader(line, 10, 10, 0.0)
        assert await reader.get([(1, 3, 6)]) == [] and await reader.subtree((1, 3, 6)) == []
        assert line.sent == 0 and all("0 s were over" in cut for cut in reader.cuts) and len(reader.cuts) == 2
