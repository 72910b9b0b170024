"""`dns_lookup` against a DNS server on loopback that also misbehaves."""

from __future__ import annotations

import time

import pytest

from blocks.policy import ProbePolicy
from tasks.core.errors import InvalidParameters, NotFound, Refused
from tasks.network.probe.dns_lookup import DnsLookup, DnsOutcome, RecordType, dns_lookup
from tests.lab.dns_server import DnsServer

FAST = ProbePolicy(host_packets_per_second=1000)


@pytest.fixture
async def server():
    async with DnsServer() as server:
        yield server


@pytest.fixture
def look_up(perform, server):
    async def look_up(*names: str, policy: ProbePolicy = FAST, **options):
        given = {"names": list(names), "server": server.host, "port": server.port, "timeout": 0.3, "attempts": 1}
        return await perform(dns_lookup, {**given, **options}, policy=policy)

    return look_up


def data(answer) -> list[str]:
    return sorted(record.data for record in answer.records)  # servers rotate them


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("www.lab.test", "A", ["10.0.0.7", "10.0.0.8"]),
        ("www.lab.test", "AAAA", ["2001:db8::7"]),
        ("lab.test", "MX", ["10 mail.lab.test.", "20 backup.lab.test."]),
        ("lab.test", "TXT", ["v=spf1 mx -all"]),
        ("lab.test", "NS", ["ns1.lab.test", "ns2.lab.test"]),
        ("lab.test", "SOA", ["ns1.lab.test. hostmaster.lab.test. 2024050101 7200 900 1209600 300"]),
        ("lab.test", "CAA", ['0 issue "ca.example"']),
        ("alias.lab.test", "CNAME", ["www.lab.test"]),
        ("_sip._tcp.lab.test", "SRV", ["10 60 5060 www.lab.test."]),
        ("7.0.0.10.in-addr.arpa", "PTR", ["www.lab.test"]),
    ],
)
async def test_every_record_type_is_read(look_up, name, kind, expected):
    result = await look_up(name, types=[kind])
    (answer,) = result.answers
    assert (answer.outcome, data(answer)) == (DnsOutcome.ANSWERED, expected)
    assert answer.records[0].ttl_seconds == 300
    assert answer.server == "127.0.0.1" and answer.authoritative and not answer.over_tcp and answer.time_ms > 0


@pytest.mark.parametrize("address", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::7"])
async def test_an_address_is_looked_up_as_a_name(look_up, address):
    result = await look_up(address, types=["MX"])
    (answer,) = result.answers
    assert (answer.type, data(answer)) == (RecordType.PTR, ["www.lab.test"])


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("nowhere.lab.example", DnsOutcome.NXDOMAIN),
        ("_sip._tcp.lab.test", DnsOutcome.NO_DATA),
        ("servfail.lab.test", DnsOutcome.SERVFAIL),
        ("refused.lab.test", DnsOutcome.REFUSED),
        ("silent.lab.test", DnsOutcome.TIMEOUT),
        ("formerr.lab.test", DnsOutcome.ERROR),
    ],
)
async def test_the_ways_of_not_answering_are_told_apart(look_up, name, outcome):
    result = await look_up(name, types=["A"])
    (answer,) = result.answers
    assert answer.outcome == outcome and not answer.records
    if outcome in {DnsOutcome.TIMEOUT, DnsOutcome.ERROR}:
        assert "127.0.0.1" in answer.detail


async def test_each_name_and_type_has_its_own_outcome_in_the_order_asked(look_up):
    result = await look_up("silent.lab.test", "www.lab.test", "10.0.0.7", "nowhere.example", types=["a", "AAAA", "A"])
    assert [(answer.name, answer.type, answer.outcome) for answer in result.answers] == [
        ("silent.lab.test", "A", "timeout"),
        ("silent.lab.test", "AAAA", "timeout"),
        ("www.lab.test", "A", "answered"),
        ("www.lab.test", "AAAA", "answered"),
        ("10.0.0.7", "PTR", "answered"),
        ("nowhere.example", "A", "nxdomain"),
        ("nowhere.example", "AAAA", "nxdomain"),
    ]
    assert result.headline() == "7 questions: 3 answered, 2 nxdomain, 2 timeout"


async def test_a_truncated_answer_is_fetched_over_tcp(look_up, server):
    result = await look_up("large.lab.test", types=["TXT"])
    (answer,) = result.answers
    assert answer.outcome == DnsOutcome.ANSWERED and len(answer.records) == 60 and answer.over_tcp
    assert [transport for _, _, transport in server.asked] == ["udp", "tcp"]


async def test_tcp_can_be_asked_for_at_once(look_up, server):
    await look_up("www.lab.test", types=["A"], tcp=True)
    assert [transport for _, _, transport in server.asked] == ["tcp"]


async def test_a_truncated_answer_without_tcp_is_no_answer(perform):
    async with DnsServer(tcp=False) as server:
        given = {"names": ["large.lab.test"], "types": ["TXT"], "server": server.host, "port": server.port}
        result = await perform(dns_lookup, given, policy=FAST)
    assert result.answers[0].outcome == DnsOutcome.TIMEOUT and "could not be asked" in result.answers[0].detail


async def test_an_alias_is_followed_and_named(look_up):
    result = await look_up("alias.lab.test", "dangling.lab.test", types=["A"])
    followed, dangling = result.answers
    assert data(followed) == ["10.0.0.7", "10.0.0.8"] and followed.canonical_name == "www.lab.test"
    assert dangling.outcome == DnsOutcome.NO_DATA and dangling.canonical_name == "elsewhere.example"
    assert "alias of elsewhere.example" in dangling.detail


async def test_an_answer_to_another_question_is_not_believed(look_up):
    assert data((await look_up("spoofed.lab.test", types=["A"])).answers[0]) == ["10.0.0.7"]


async def test_bytes_that_are_no_dns_are_no_answer(look_up):
    assert (await look_up("garbage.lab.test", types=["A"])).answers[0].outcome == DnsOutcome.TIMEOUT
    assert (await look_up("garbage.lab.test", types=["A"], tcp=True)).answers[0].outcome == DnsOutcome.ERROR


async def test_a_server_that_does_not_know_edns_is_asked_without_it(look_up):
    assert data((await look_up("noedns.lab.test", types=["A"])).answers[0]) == ["10.0.0.9"]


async def test_a_silent_server_is_asked_again_as_often_as_said(look_up, server):
    began = time.monotonic()
    await look_up("silent.lab.test", types=["A"], attempts=3, timeout=0.1)
    assert len(server.asked) == 3 and 0.3 <= time.monotonic() - began < 20


async def test_a_server_that_answered_is_not_asked_again(look_up, server):
    await look_up("servfail.lab.test", types=["A"], attempts=3)
    assert len(server.asked) == 1


async def test_nothing_listening_is_a_time_out(look_up):
    result = await look_up("www.lab.test", types=["A"], port=1)
    assert result.answers[0].outcome == DnsOutcome.TIMEOUT
    result = await look_up("www.lab.test", types=["A"], port=1, tcp=True)
    assert "could not be asked" in result.answers[0].detail


async def test_the_chosen_server_goes_through_the_gate(look_up, server):
    with pytest.raises(Refused, match=r"signalbox policy allow 192\.0\.2\.53/32"):
        await look_up("www.lab.test", server="192.0.2.53")
    with pytest.raises(Refused, match="never be touched"):
        await look_up("www.lab.test", port=9100)
    with pytest.raises(NotFound):
        await look_up("www.lab.test", server="no-such-host.invalid")
    assert server.asked == []


async def test_the_names_asked_for_need_no_permission(look_up):
    assert (await look_up("10.0.0.7", policy=FAST)).answers[0].outcome == DnsOutcome.ANSWERED


async def test_the_system_s_resolver_is_no_probe(perform, server, monkeypatch, tmp_path):
    assert DnsLookup(names=["www.lab.test"]).scope() is None
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server.host], server.port
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: resolver)
    result = await perform(dns_lookup, {"names": ["www.lab.test"]}, policy=ProbePolicy(allow=[]))
    assert [answer.outcome for answer in result.answers] == ["answered", "answered"]


async def test_the_next_resolver_is_asked_when_the_first_does_not_know(perform, server, monkeypatch):
    import dns.resolver

    async with DnsServer(zone={}, host="127.0.0.2") as silent:
        monkeypatch.setattr(silent, "answer", lambda *_: [])
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.3", server.host], server.port
        monkeypatch.setattr(dns.resolver, "Resolver", lambda: resolver)
        result = await perform(dns_lookup, {"names": ["www.lab.test"], "types": ["A"], "timeout": 0.2})
    assert result.answers[0].outcome == DnsOutcome.ANSWERED and result.answers[0].server == server.host


async def test_questions_to_one_server_are_paced(look_up, server):
    policy = ProbePolicy(host_packets_per_second=20)
    began = time.monotonic()
    await look_up(*(f"host-{n}.lab.test" for n in range(21)), types=["A"], policy=policy)
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"names": []}, "names"),
        ({"names": ["a" * 64 + ".test"]}, "not a name"),
        ({"names": ["10.0.0.0/24"]}, "is a prefix"),
        ({"names": [""]}, "must be text"),
        ({"names": ["x.test"], "types": ["ANY"]}, "types"),
        ({"names": ["x.test"], "server": "10.0.0.0/24"}, "single hosts"),
        ({"names": ["x.test"], "timeout": 0}, "timeout"),
        ({"names": ["x.test"], "port": 5353}, "port belongs to server"),
    ],
)
async def test_a_wrong_parameter_is_named(perform, given, said):
    with pytest.raises(InvalidParameters, match=said):
        await perform(dns_lookup, given)


def test_names_become_canonical():
    params = DnsLookup(names=["WWW.Lab.Test.", "www.lab.test", "::FFFF:10.0.0.7", "bücher.example", "."])
    assert params.names == ["www.lab.test", "10.0.0.7", "xn--bcher-kva.example", "."]
