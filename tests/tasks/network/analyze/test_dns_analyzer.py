from __future__ import annotations

import asyncio
import contextlib
import random
import string
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.agreement import asked, decode_as, decode_datagrams_as, generated, saved
from lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    cut,
    needs_tshark,
    recording,
    tcp_talk,
    tshark_fields,
    udp,
    write_pcap,
)
from lab.network import needs_lab

from blocks.captures import CaptureStore
from tasks.core.errors import InvalidParameters, NotFound
from tasks.core.models import ToolResult
from tasks.core.process import find_program
from tasks.network.analyze._dns import DATAGRAMS, STREAMS, dissect
from tasks.network.analyze._dns_findings import find
from tasks.network.analyze._dns_local import LLMNR, MDNS, NETBIOS, PROTOCOLS, LocalNames, netbios_name
from tasks.network.analyze._dns_message import (
    ANY,
    RCODES,
    Malformed,
    Message,
    Reader,
    looks_like_dns,
    looks_like_dns_over_tcp,
    name_text,
    read_name,
    read_records,
    type_name,
)
from tasks.network.analyze._dns_names import entropy
from tasks.network.analyze._dns_stream import DnsStream
from tasks.network.analyze._dns_traffic import ANSWERED_NS, FIRST_OPEN, MOST_OPEN, SECOND, STORM_ANSWERS, Traffic
from tasks.network.analyze._percentiles import EXACT_SAMPLES, Durations
from tasks.network.analyze._selection import ALL
from tasks.network.analyze.dns_analyzer import DnsReport, dns_analyzer
from tasks.network.probe.dns_lookup import dns_lookup

Perform = Callable[..., Awaitable[ToolResult]]

CLIENT, SERVER = "10.0.0.9", "10.0.0.53"
START = 1_700_000_000 * SECOND


def ask(name: str, kind: str = "A", ident: int = 1, **options: object) -> bytes:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    query.id = ident
    return query.to_wire()


def answer(query: bytes, *records: str, rcode: int = 0, flags: int = 0) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(query))
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.flags |= flags
    for record in records:
        response.answer.append(dns.rrset.from_text(*record.split(maxsplit=4)))
    return response.to_wire(max_size=65535)


class Wire:
    """Two hosts, and what they say, as `Traffic` sees it."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.frame = 0
        self.now = START

    def query(
        self, data: bytes, *, port: int = 40000, client: str = CLIENT, server: str = SERVER, tcp: bool = False
    ) -> int:
        self.frame += 1
        self.traffic.message(data, self.now, self.frame, client, port, server, 53, tcp)
        return self.frame

    def answer(
        self, data: bytes, *, after: float = 0.01, port: int = 40000, client: str = CLIENT, server: str = SERVER, tcp: bool = False
    ) -> int:  # fmt: skip
        self.frame += 1
        self.now += int(after * SECOND)
        self.traffic.message(data, self.now, self.frame, server, 53, client, port, tcp)
        return self.frame

    def codes(self) -> dict[str, dict[str, object]]:
        self.traffic.finish(self.now + 10 * SECOND)
        return {item["code"]: item for item in find(self.traffic, [])}


# --- messages --------------------------------------------------------------------------------------------------------

labels = st.binary(min_size=1, max_size=20)
names = st.lists(labels, max_size=6).map(lambda parts: dns.name.Name([*parts, b""]))
types = st.sampled_from(["A", "AAAA", "TXT", "MX", "NS", "CNAME", "SRV", "NULL", "ANY", "HTTPS"])


@st.composite
def messages(draw: st.DrawFn) -> dns.message.Message:
    query = dns.message.make_query(draw(names), draw(types))
    query.id = draw(st.integers(0, 65535))
    query.flags = dns.flags.Flag(draw(st.sampled_from([0, 0x100, 0x110, 0x8180, 0x8580, 0x8380, 0x81A0])))
    if query.flags & dns.flags.QR:
        for _ in range(draw(st.integers(0, 4))):
            owner = draw(st.one_of(st.just(query.question[0].name), names))
            section = draw(st.sampled_from([query.answer, query.authority, query.additional]))
            data = draw(
                st.sampled_from(["A 192.0.2.7", "TXT some text", "MX 10 mail.example.com.", "CNAME www.example.com."])
            )
            section.append(dns.rrset.from_text(owner, draw(st.integers(0, 9999)), "IN", *data.split(maxsplit=1)))
    if draw(st.booleans()):
        options = [dns.edns.EDEOption(draw(st.integers(0, 24)), "why")] if draw(st.booleans()) else []
        query.use_edns(
            0, ednsflags=draw(st.sampled_from([0, 0x8000])), payload=draw(st.integers(512, 4096)), options=options
        )
    query.set_rcode(dns.rcode.Rcode(draw(st.sampled_from([0, 2, 3, 5, 16] if query.edns >= 0 else [0, 2, 3, 5]))))
    return query


def same(ours: Message, theirs: dns.message.Message) -> None:
    assert (ours.ident, ours.flags) == (theirs.id, int(theirs.flags)) and ours.rcode == theirs.rcode()
    assert [question.labels for question in ours.questions] == [rrset.name.labels[:-1] for rrset in theirs.question]
    assert [(question.type, question.class_) for question in ours.questions] == [
        (rrset.rdtype, rrset.rdclass) for rrset in theirs.question
    ]
    assert ours.udp_size == (theirs.payload if theirs.edns >= 0 else -1) and ours.whole
    assert ours.do == bool(theirs.ednsflags & dns.flags.DO)


@settings(max_examples=150, deadline=None)
@given(messages(), messages())
def test_what_is_read_of_a_message_is_what_dnspython_reads(one: dns.message.Message, two: dns.message.Message) -> None:
    reader = Reader()  # its cache holds what came before, which must change nothing
    for message in (one, two, one):
        wire = message.to_wire(max_size=65535)
        read = reader.read(wire)
        same(read, message)
        assert read.extended_error == next(
            (int(o.code) for o in message.options if isinstance(o, dns.edns.EDEOption)), -1
        )
        owners = [record.labels for record in read_records(wire) if record.type != dns.rdatatype.OPT]
        sections = (message.answer, message.authority, message.additional)
        assert owners == [rrset.name.labels[:-1] for section in sections for rrset in section for _ in rrset]


@settings(max_examples=200, deadline=None)
@given(messages(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_what_dnspython_accepts_is_never_called_malformed(
    message: dns.message.Message, changes: list[tuple[int, int]]
) -> None:
    wire = bytearray(message.to_wire(max_size=65535))
    for where, value in changes:
        wire[where % len(wire)] = value
    try:
        theirs = dns.message.from_wire(bytes(wire), ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, NotImplementedError, IndexError):
        with_problem = True
    else:
        with_problem = False
    try:
        ours = Reader().read(bytes(wire))
    except Malformed:
        assert with_problem
    else:
        if not with_problem:
            assert ours.ident == theirs.id
            assert [question.labels for question in ours.questions] == [
                rrset.name.labels[:-1] for rrset in theirs.question
            ] or len(theirs.question) != len(ours.questions)  # dnspython puts equal questions together


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_random_bytes_are_read_or_refused_and_never_more(data: bytes) -> None:
    reader = Reader()
    for step in (lambda: reader.read(data), lambda: reader.read(data, cut=True), lambda: list(read_records(data))):
        with contextlib.suppress(Malformed):
            step()
    looks_like_dns(data[:64])
    looks_like_dns_over_tcp(data[:64])
    traffic, local = Traffic(), [LocalNames(name) for name in (MDNS, LLMNR, NETBIOS)]
    traffic.message(data, START, 1, CLIENT, 40000, SERVER, 53)
    for names_ in local:
        names_.message(data, 1, CLIENT)
    stream = DnsStream(traffic, (CLIENT, 1), (SERVER, 53))
    stream.data(True, data, START, 2)
    stream.gap(True, 17, START, 3)
    stream.data(True, data, START, 4)
    stream.end("fin", START, 5)
    traffic.finish()
    find(traffic, local)


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # itself
        b"\xc0\x0e\xc0\x0c",  # each other
        b"\x01a\xc0\x0c",  # a name that contains itself
        b"\xc0\xff",  # forwards
        b"\x40abc\x00",  # a label type that was withdrawn
        b"\x3fshort",  # a label longer than the message
        (b"\x3f" + b"a" * 63) * 4 + b"\0",  # 257 bytes
    ],
)
def test_names_that_loop_lead_nowhere_or_are_too_long_are_malformed(name: bytes) -> None:
    with pytest.raises(Malformed):
        Reader().read(b"\0\1\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")


def test_a_name_through_the_longest_chain_of_pointers_ends() -> None:
    chain = b"\0" + b"".join((0xC000 | max(0, 2 * i - 1)).to_bytes(2, "big") for i in range(8000))
    assert read_name(chain, len(chain) - 2) == ((), len(chain))


def test_a_question_is_one_object_however_often_it_is_asked_and_another_when_its_case_differs() -> None:
    reader = Reader()
    one, two, odd = (
        reader.read(ask(name)).questions[0] for name in ("www.example.com", "www.example.com", "wWw.example.com")
    )
    assert one is two and odd is not one and odd.folded == one.name and odd.name == "wWw.example.com"


def test_names_with_zeros_or_pointers_in_questions_do_not_mislead_the_cache() -> None:
    reader = Reader()
    zero = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x03a\0b\x00" + b"\0\1\0\1"
    assert reader.read(zero).questions[0].labels == (b"a\0b",)
    twice = b"\0\1\1\0\0\2\0\0\0\0\0\0" + b"\x01x\x00" + b"\0\1\0\1" + b"\xc0\x0c\0\x1c\0\1"
    assert [(q.name, q.type) for q in reader.read(twice).questions] == [("x", 1), ("x", 28)]
    # The bytes of the second question with another first one: its pointer means another name.
    other = twice.replace(b"\x01x", b"\x01y")
    assert [(q.name, q.type) for q in reader.read(other).questions] == [("y", 1), ("y", 28)]


def test_what_the_capture_cut_off_is_read_as_far_as_it_goes() -> None:
    wire = answer(ask("www.example.com"), "www.example.com. 60 IN A 192.0.2.7")
    with pytest.raises(Malformed, match="middle of a record"):
        Reader().read(wire[:-3])
    cut = Reader().read(wire[:-3], cut=True)
    assert not cut.whole and cut.questions[0].name == "www.example.com"
    assert Reader().read(wire[:20], cut=True).questions == ()


def test_names_are_written_without_anything_a_terminal_obeys() -> None:
    assert name_text((b"a\x1b[2J", b"b")) == "a\\027[2J.b" and name_text(()) == "."
    assert name_text(("Büro".encode(), b"local")) == "Büro.local"
    assert name_text(("a\u202eb".encode(),)).isascii()


@pytest.mark.parametrize(
    "name",
    ["www.example.com", "x" * 60 + "." + "y" * 60 + ".example.com", "_ldap._tcp.dc.lab.test", "a.b", f"{'x' * 50}.uk"],
)
def test_dns_is_recognised_by_its_first_bytes_on_any_port(name: str) -> None:
    query = ask(name, use_edns=0)
    response = answer(query, rcode=3)
    for message in (query, response):
        assert looks_like_dns(message[:64])
        assert looks_like_dns_over_tcp((len(message).to_bytes(2, "big") + message)[:64])


def test_other_udp_is_not_taken_for_dns() -> None:
    chance = random.Random(3)
    others = [chance.randbytes(chance.randint(0, 64)) for _ in range(20_000)]
    others += [bytes(64), b"\xff" * 64, b"\0\1\0\1" + bytes(60)]
    others.append(b"\x1b" + bytes(47))  # NTP
    others.append(bytes.fromhex("0001000c2112a442") + bytes(20))  # STUN
    others.append(b"\x80\x00" + bytes.fromhex("00010000a0001234") + b"\x55" * 54)  # RTP
    others.append(b"\0\x01netascii.txt\0octet\0")  # TFTP
    others.append(b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP x")
    others.append(bytes.fromhex("302902010104067075626c6963a01c") + bytes(30))  # SNMP
    query = ask("www.example.com")
    for place, value in (
        (3, 0x40),
        (2, 0x05),
        (3, 0x03),
        (5, 2),
        (7, 1),
        (11, 9),
        (2, 0x79),
    ):  # flags and counts no query has
        others.append(query[:place] + bytes([value]) + query[place + 1 :])
    assert not any(map(looks_like_dns, others))


# --- traffic ---------------------------------------------------------------------------------------------------------


def test_answers_find_their_queries_and_the_time_between_is_measured() -> None:
    wire = Wire()
    for ident, seconds in enumerate([0.010, 0.020, 0.500], 1):
        query = ask("www.example.com", ident=ident)
        wire.query(query)
        wire.answer(answer(query), after=seconds)
    traffic = wire.traffic
    assert (traffic.queries, traffic.answers, traffic.unasked) == (3, 3, 0)
    assert [traffic.durations.percentile_ms(p) for p in (50, 90)] == [20, 500]
    assert max(traffic.slowest)[:2] == (500_000_000, 6)


def test_a_query_sent_again_is_the_same_query_and_silence_counts_once() -> None:
    wire = Wire()
    for _ in range(3):
        wire.query(ask("lost.example.com"))
        wire.now += 5 * SECOND
    wire.traffic.finish(wire.now)
    assert (wire.traffic.queries, wire.traffic.repeated, wire.traffic.unanswered) == (3, 2, 1)


def test_a_query_just_before_the_captures_end_is_open_not_unanswered() -> None:
    wire = Wire()
    wire.query(ask("www.example.com"))
    wire.traffic.finish(wire.now + SECOND)
    assert (wire.traffic.unanswered, wire.traffic.open_at_end) == (0, 1)


def test_a_server_that_answers_nothing_is_found() -> None:
    wire = Wire()
    for ident in range(6):
        wire.query(ask("www.example.com", ident=ident))
    found = wire.codes()["dns.silent-server"]
    assert found["severity"] == "high" and SERVER in str(found["what"]) and found["frames"] == [1, 2, 3, 4, 5, 6]


def test_two_different_answers_to_one_query_are_a_sign_of_forgery_and_a_repeated_one_is_not() -> None:
    wire = Wire()
    query = ask("bank.example.com")
    wire.query(query)
    for address in ("203.0.113.66", "203.0.113.66", "192.0.2.10"):
        frame = wire.answer(answer(query, f"bank.example.com. 60 IN A {address}"))
    assert wire.traffic.forged == [(frame, CLIENT, SERVER, "bank.example.com")]
    assert wire.codes()["dns.forged-answers"]["frames"] == [4]


def test_a_repeated_query_may_get_another_answer() -> None:
    wire = Wire()
    query = ask("www.example.com")
    for ttl in (60, 59):
        wire.query(query)
        wire.answer(answer(query, f"www.example.com. {ttl} IN A 192.0.2.7"))
    assert not wire.traffic.forged


def test_an_answer_to_another_question_is_a_sign_of_forgery_and_another_case_is_not() -> None:
    wire = Wire()
    wire.query(ask("www.example.com", ident=1))
    wire.answer(answer(ask("wWw.eXample.com", ident=1)))
    assert wire.traffic.mismatched == 0
    wire.query(ask("www.example.com", ident=2))
    wire.answer(answer(ask("evil.example.org", ident=2)))
    assert wire.traffic.mismatched == 1


def test_a_storm_of_nxdomain_is_found_and_the_same_number_spread_over_hours_is_not() -> None:
    fast, slow = Wire(), Wire()
    for wire, pause in ((fast, 0.5), (slow, 120.0)):
        for number in range(STORM_ANSWERS + 10):
            query = ask(f"{number:x}q{number * 7919:x}.example.com", ident=number)
            wire.query(query)
            wire.answer(answer(query, rcode=3), after=pause)
    assert "dns.nxdomain-storm" in fast.codes() and "dns.nxdomain-storm" not in slow.codes()


def tunnel(number: int) -> str:
    chance = random.Random(number)
    data = "".join(chance.choice(string.ascii_lowercase + string.digits) for _ in range(110))
    return f"{data[:55]}.{data[55:]}.t.evil.example"


def test_a_tunnel_is_found_by_its_names() -> None:
    wire = Wire()
    for number in range(120):
        query = ask(tunnel(number), "TXT" if number % 2 else "NULL", ident=number)
        wire.query(query)
        wire.answer(answer(query))
    found = wire.codes()["dns.tunnel"]
    assert found["severity"] == "high" and "evil.example" in str(found["what"]) and found["count"] == 120
    for sign in (
        "characters long on average",
        "bits of entropy",
        "TXT, NULL",
        "asked for only once",
        "labels of up to 55",
    ):
        assert sign in str(found["what"])


def test_honest_traffic_is_no_tunnel() -> None:
    wire = Wire()
    honest = [f"{a}{b}.cdn{a}.example.net" for a in range(30) for b in "abc"]  # many short names
    honest += [f"{n}.{n % 250}.168.192.in-addr.arpa" for n in range(250)]
    honest += [f"{n}.2.0.192.zen.example.org" for n in range(250)]  # a block list
    honest += ["d111111abcdef8.cloudfront.example.com"] * 300
    honest += [f"host-{n}.office.example.co.uk" for n in range(100)]
    for ident, name in enumerate(honest):
        wire.query(ask(name, ident=ident))
        wire.answer(answer(ask(name, ident=ident)))
    assert "dns.tunnel" not in wire.codes()


def test_amplification_and_reflection_are_told_apart() -> None:
    wire = Wire()
    records = [f"big.example.com. 60 IN TXT {'x' * 200}{n}" for n in range(12)]
    for ident in range(20):
        query = ask("big.example.com", "ANY", ident=ident)
        wire.query(query, client="198.51.100.7")
        wire.answer(answer(query, *records), client="198.51.100.7")
        wire.answer(answer(query, *records), client="198.51.100.8")
    codes = wire.codes()
    assert codes["dns.amplification"]["severity"] == "high" and "198.51.100.7" in str(
        codes["dns.amplification"]["what"]
    )
    assert codes["dns.reflected"]["count"] == 20 and "198.51.100.8" in str(codes["dns.reflected"]["what"])
    assert wire.traffic.servers[SERVER].pairs["198.51.100.7"].trouble.any == 20 and ANY in wire.traffic.names.types


def test_a_truncated_answer_wants_the_question_again_over_tcp() -> None:
    wire = Wire()
    for ident, name in enumerate(("one.example.com", "two.example.com")):
        query = ask(name, ident=ident)
        wire.query(query)
        wire.answer(answer(query, flags=dns.flags.TC))
    wire.query(ask("one.example.com", ident=7), tcp=True, port=50000)
    wire.answer(answer(ask("one.example.com", ident=7)), tcp=True, port=50000)
    assert (wire.traffic.truncated, wire.traffic.retried) == (2, 1)
    assert wire.codes()["dns.truncated-not-retried"]["frames"] == [4]


def test_dnssec_flags_and_what_resolvers_say_about_signatures_are_counted() -> None:
    wire = Wire()
    query = ask("signed.example.com", use_edns=0, want_dnssec=True, payload=1232)
    wire.query(query)
    response = dns.message.make_response(dns.message.from_wire(query))
    response.use_edns(0, options=[dns.edns.EDEOption(6, "bogus")])
    response.set_rcode(dns.rcode.SERVFAIL)
    wire.answer(response.to_wire())
    assert wire.traffic.dnssec["do"] == 1 and wire.traffic.edns_sizes == {1232: 1}
    assert "DNSSEC bogus" in str(wire.codes()["dns.dnssec-failed"]["what"])


def test_a_zone_transfer_is_found() -> None:
    wire = Wire()
    query = ask("lab.test", "AXFR")
    wire.query(query, tcp=True)
    wire.answer(answer(query, "lab.test. 60 IN NS ns.lab.test."), tcp=True)
    assert "lab.test" in str(wire.codes()["dns.zone-transfer"]["what"])


def test_memory_is_bounded_under_a_flood_of_forged_questions() -> None:
    wire = Wire()
    template = bytearray(ask("aaaaaaaa.example.com"))
    for number in range(MOST_OPEN + 30_000):
        template[13:21] = b"%08x" % number
        wire.query(bytes(template), client=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        wire.now += 1_000_000
    assert len(wire.traffic.open) <= MOST_OPEN and wire.traffic.pair_count <= 50_001
    wire.traffic.finish(wire.now + 60 * SECOND)
    assert wire.traffic.queries == wire.traffic.unanswered == MOST_OPEN + 30_000
    assert len(wire.traffic.names.names) <= 40_000 and wire.traffic.names.left_out
    assert wire.traffic.names.domains["example.com"].queries == wire.traffic.queries


def test_what_waits_for_an_answer_is_kept_while_others_are_forgotten() -> None:
    wire = Wire()
    wire.query(early := ask("early.example.com", ident=7), port=41_000)
    wire.query(asked_again := ask("again.example.com", ident=8), port=41_001)
    wire.answer(answer(asked_again), port=41_001)
    for number in range(3 * FIRST_OPEN):
        client = f"10.1.{number >> 8 & 255}.{number & 255}"
        wire.query(query := ask("www.example.com", ident=number % 65_536), client=client)
        wire.answer(answer(query), after=0.0005, client=client)
    wire.query(asked_again, port=41_001)
    wire.answer(answer(early), port=41_000)
    assert (wire.traffic.repeated, wire.traffic.unasked, wire.traffic.unanswered) == (1, 0, 0)
    wire.now += (ANSWERED_NS // SECOND + 1) * SECOND
    for number in range(2 * FIRST_OPEN):
        client = f"10.2.{number >> 8 & 255}.{number & 255}"
        wire.query(query := ask("www.example.com", ident=number % 65_536), client=client)
        wire.answer(answer(query), after=0.00001, client=client)
    assert len(wire.traffic.open) <= 2 * FIRST_OPEN
    wire.traffic.finish(wire.now)
    assert wire.traffic.unanswered == 0


def test_percentiles_are_exact_for_few_and_close_for_many() -> None:
    durations, other = Durations(), Durations()
    values = [int(random.Random(n).lognormvariate(16, 2)) for n in range(EXACT_SAMPLES + 5000)]
    for number, value in enumerate(values):
        (durations if number % 3 else other).add(value)
    durations.merge(other)
    for percent in (50, 90, 99):
        exact = sorted(values)[-int(-len(values) * percent // 100) - 1] / 1e6
        assert durations.percentile_ms(percent) == pytest.approx(exact, rel=0.01, abs=0.001)
    assert durations.count == len(values) and durations.longest == max(values)


def test_entropy_tells_words_from_data() -> None:
    assert entropy("") == 0 and entropy("www.www") < 1.5 < 3.4 < entropy("k3j9x0qz7fw2m8vb")


# --- over TCP --------------------------------------------------------------------------------------------------------


def framed(*messages_: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages_)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60))
def test_messages_over_tcp_are_the_same_however_the_stream_is_cut_into_segments(cuts: list[int]) -> None:
    queries = [ask(f"n{n}.example.com", ident=n) for n in range(6)]
    data = framed(*queries)
    traffic = Traffic()
    stream = DnsStream(traffic, (CLIENT, 40000), (SERVER, 53))
    for size in [*cuts, len(data)]:
        stream.data(True, data[:size], START, 1)
        data = data[size:]
    for query in queries:
        stream.data(False, framed(answer(query)), START, 2)
    stream.end("fin", START, 3)
    assert (traffic.queries, traffic.answers, traffic.unasked, traffic.tcp_messages) == (6, 6, 0, 12)


def test_a_gap_inside_a_message_costs_that_message_only() -> None:
    traffic = Traffic()
    stream = DnsStream(traffic, (CLIENT, 40000), (SERVER, 53))
    big = answer(ask("big.example.com"), *[f"big.example.com. 60 IN TXT {'x' * 200}{n}" for n in range(20)])
    data = framed(big, answer(ask("next.example.com")))
    stream.data(False, data[:1000], START, 1)
    stream.gap(False, 1000, START, 2)
    stream.data(False, data[2000:], START, 2)
    assert (traffic.answers, traffic.cut, sum(traffic.malformed.values())) == (2, 1, 0)


def test_after_a_gap_across_messages_the_next_one_is_found() -> None:
    traffic = Traffic()
    stream = DnsStream(traffic, (CLIENT, 40000), (SERVER, 53))
    first, second, third = (framed(ask(f"n{n}.example.com", ident=n)) for n in range(3))
    stream.data(True, first, START, 1)
    stream.gap(True, 3, START, 2)
    stream.data(True, second[3:], START, 2)
    stream.data(True, third, START, 3)
    assert traffic.queries == 2 and not traffic.malformed


# --- names without a server ------------------------------------------------------------------------------------------


def test_mdns_services_and_names_are_counted() -> None:
    local = LocalNames(MDNS)
    local.message(ask("_ipp._tcp.local", "PTR", ident=0), 1, "10.0.0.5")
    response = dns.message.Message(0)
    response.flags = dns.flags.QR | dns.flags.AA
    response.answer.append(dns.rrset.from_text("_ipp._tcp.local.", 4500, "IN", "PTR", "Printer._ipp._tcp.local."))
    response.answer.append(dns.rrset.from_text("_services._dns-sd._udp.local.", 4500, "IN", "PTR", "_http._tcp.local."))
    local.message(response.to_wire(), 2, "10.0.0.6")
    summary = local.summary(5)
    assert (summary["queries"], summary["answers"], summary["responders"]) == (1, 1, 1)
    assert summary["names"] == [{"name": "_ipp._tcp.local", "count": 1}]
    assert [row["name"] for row in summary["services"]] == ["_http._tcp.local", "_ipp._tcp.local"]


def test_a_host_that_answers_for_any_name_over_llmnr_is_found() -> None:
    local = LocalNames(LLMNR)
    for number, name in enumerate(("wpad", "fileserver", "printsrv")):
        query = ask(name, ident=number)
        local.message(query, number * 2 + 1, "10.0.0.5")
        local.message(answer(query, f"{name}. 30 IN A 10.0.0.66"), number * 2 + 2, "10.0.0.66")
    found = {item["code"]: item for item in find(Traffic(), [local])}
    assert found["dns.name-poisoning"]["severity"] == "critical" and "10.0.0.66" in found["dns.name-poisoning"]["what"]
    assert found["dns.proxy-discovery"]["frames"] == [1] and "dns.llmnr" in found


def test_netbios_names_are_decoded_and_a_name_server_is_no_poisoner() -> None:
    def encode(name: str) -> bytes:
        return b"".join(bytes([0x41 + (byte >> 4), 0x41 + (byte & 15)]) for byte in name.ljust(15).encode() + b"\0")

    assert netbios_name(encode("FILESERVER")) == "FILESERVER"
    local = LocalNames(NETBIOS)
    for number in range(8):
        name = b"\x20" + encode(f"HOST{number}") + b"\0"
        local.message(b"\0\1\1\x10\0\1\0\0\0\0\0\0" + name + b"\0\x20\0\1", 1, "10.0.0.5")
        record = name + b"\0\x20\0\1" + b"\0\0\0\x3c\0\6\0\0\x0a\0\0\1"
        local.message(b"\0\1\x85\x80\0\0\0\1\0\0\0\0" + record, 2, "10.0.0.2")
    assert local.queries == local.answers == 8 and local.names["HOST3"] == 1
    assert not any(item["code"] == "dns.name-poisoning" for item in find(Traffic(), [local]))


# --- whole captures, and what tshark says about them ------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    return dissect(str(path), ALL, 100_000)


def counted(rows: list[dict[str, Any]], key: str = "name", value: str = "count") -> dict[str, int]:
    return {row[key]: row[value] for row in rows if row[value]}


def agree(path: Path, *, names_too: bool = True) -> dict[str, Any]:
    """Compare everything both count. tshark also dissects what ICMP errors quote, which nobody sent as DNS.

    Of a response code it shows the four bits of the header, and of EDNS' upper bits a field of their own.
    """
    found = read(path)
    rows = tshark_fields(
        path, "(dns || mdns || llmnr || nbns) && !icmp && !icmpv6",
        "frame.protocols", "dns.flags.response", "dns.flags.rcode", "dns.qry.name", "dns.qry.type", "dns.flags.truncated",
        "dns.resp.ext_rcode", "nbns.flags.response",
        decode_as=decode_as(path, "dns", STREAMS, [53]) + decode_datagrams_as(path, "dns", DATAGRAMS, [53, *PROTOCOLS]),
    )  # fmt: skip
    queries: Counter[str] = Counter()
    types: Counter[str] = Counter()
    rcodes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    local: dict[str, Counter[str]] = {"mdns": Counter(), "llmnr": Counter(), "nbns": Counter()}
    truncated = 0
    for protocols, responses, codes, names_asked, asked_types, cuts, upper, netbios in rows:
        kind = protocols.rpartition(":")[2]
        if kind in local:
            local[kind].update((netbios if kind == "nbns" else responses).split(","))
            continue
        kinds.update(responses.split(","))
        if responses.startswith("0"):  # all messages of a frame go one way
            queries.update("." if name == "<Root>" else name.lower() for name in names_asked.split(",") if name)
            types.update(type_name(int(kind)) for kind in asked_types.split(",") if kind)
        else:
            high = int(upper, 16) << 4 if upper and "," not in upper + codes else 0
            rcodes.update(RCODES.get(code, f"RCODE{code}") for code in (int(low) | high for low in codes.split(",")))
            truncated += cuts.split(",").count("1")
    assert (found["queries"], found["answers"]) == (kinds["0"], kinds["1"])
    assert counted(found["rcodes"]) == rcodes and found["truncated"] == truncated
    if names_too:
        assert counted(found["names"], "name", "queries") == queries
        assert counted(found["types"]) == types
    for protocol, theirs in (("mdns", "mdns"), ("llmnr", "llmnr"), ("netbios", "nbns")):
        ours = next((row for row in found["local"] if row["protocol"] == protocol), None)
        both = local[theirs]
        assert (ours["queries"], ours["answers"]) == (both["0"], both["1"]) if ours else not both, protocol
    return found


def spoken(seed: int, *, messages_: int = 80, port: int = 53) -> list[Packet]:
    """A day at a resolver: queries and answers over UDP, some again, some never, some over TCP, several at once."""
    chance = random.Random(seed)
    packets: list[Packet] = []
    now = NOON_NS
    kinds = ["A", "AAAA", "TXT", "MX", "HTTPS", "ANY", "PTR", "SRV", "NULL"]
    for number in range(messages_):
        labels_ = [
            "".join(chance.choices(string.ascii_letters + string.digits + "-_", k=chance.randint(1, 20)))
            for _ in range(3)
        ]
        name = (
            ".".join(
                [*labels_[: chance.randint(0, 3)], chance.choice(["example.com", "lab.test", "co.uk", "."])]
            ).rstrip(".")
            or "."
        )
        query = ask(
            name, chance.choice(kinds), number, use_edns=chance.choice([0, False]), want_dnssec=chance.random() < 0.3
        )
        rcode = chance.choice([0, 0, 0, 2, 3, 5])
        records = [f"r{n}.example.com. 60 IN TXT {'x' * 50}" for n in range(chance.randint(0, 3) if not rcode else 0)]
        reply = answer(query, *records, rcode=rcode, flags=chance.choice([0, 0, dns.flags.TC, dns.flags.AD]))
        client, client_port = f"10.0.{chance.randint(0, 3)}.7", 40_000 + number
        for _ in range(chance.choice([1, 1, 1, 2])):
            packets.append(Packet(now, udp(client, client_port, SERVER, port, query)))
            now += 20_000_000
        for _ in range(chance.choice([0, 1, 1, 1])):
            packets.append(Packet(now, udp(SERVER, port, client, client_port, reply)))
            now += 20_000_000
    for number in range(4):
        queries = [ask(f"t{n}.tcp.example.com", ident=n) for n in range(chance.randint(1, 5))]
        said = [(True, framed(*queries)), (False, framed(*map(answer, queries)))]
        packets += tcp_talk(
            said, client="10.0.9.1", client_port=50_000 + number, server=SERVER, server_port=port, start_ns=now,
            segment_size=chance.choice([1, 7, 60, 1400]),
        )  # fmt: skip
        now += 3_000_000_000
    mdns = ask("_ipp._tcp.local", "PTR", 0)
    for data in (
        udp("10.0.0.5", 5353, "224.0.0.251", 5353, mdns),
        udp("10.0.0.6", 5353, "224.0.0.251", 5353, answer(mdns, "_ipp._tcp.local. 60 IN PTR x._ipp._tcp.local.")),
        udp("10.0.0.5", 50_000, "224.0.0.252", 5355, ask("wpad")),
        udp("10.0.0.5", 50_000, "10.0.0.6", 9, b"the end, seconds later"),
    ):
        now += 1_500_000_000
        packets.append(Packet(now, data))
    return packets


@needs_tshark
def test_every_question_of_a_query_counts_and_so_do_reserved_codes_and_upper_bits(tmp_path: Path) -> None:
    two = dns.message.make_query("a.example", "A", id=1)
    two.question += dns.message.make_query("b.example", "ANY", id=1).question
    packets = [Packet(NOON_NS, udp(CLIENT, 40_000, SERVER, 53, two.to_wire()))]
    for code in (*range(16), 16, 23, 3841):
        query = dns.message.make_query("c.example", "A", id=code, use_edns=0 if code > 15 else False)
        answered = answer(query.to_wire(), rcode=code if code > 15 else 0)
        answered = answered[:3] + bytes([answered[3] & 0xF0 | code & 15]) + answered[4:]
        packets += [Packet(NOON_NS + code * 10**9, udp(SERVER, 53, CLIENT, 50_000 + code, answered))]
    found = agree(write_pcap(Capture(packets), tmp_path / "codes.pcap"))
    assert counted(found["names"], "name", "queries") == {"a.example": 1, "b.example": 1}
    assert counted(found["types"]) == {"A": 1, "ANY": 1} and found["queries"] == 1
    assert counted(found["rcodes"]).keys() >= {"RCODE12", "RCODE15", "BADVERS", "BADCOOKIE", "RCODE3841"}


@needs_tshark
@pytest.mark.parametrize("seed", range(3))
def test_numbers_agree_with_tsharks_on_generated_captures(seed: int, tmp_path: Path) -> None:
    found = agree(write_pcap(Capture(spoken(seed)), tmp_path / "dns.pcap"))
    assert found["repeated"] and found["unanswered"] and found["over_tcp"] and not found["malformed"]


@needs_tshark
def test_numbers_agree_with_tsharks_on_other_ports_and_where_the_snap_length_cut(tmp_path: Path) -> None:
    other = Capture(spoken(4, port=5999))
    found = agree(write_pcap(other, tmp_path / "port.pcap"))
    assert any(item["code"] == "dns.other-port" for item in found["findings"])
    # Only UDP: of a stream, tshark tells what it reassembled in frames, we what was said.
    cut_off = [packet for packet in spoken(5) if packet.data[23] == 17]
    found = agree(write_pcap(cut(Capture(cut_off), 75), tmp_path / "cut.pcap"), names_too=False)
    assert found["cut"] and not found["malformed"]


@needs_tshark
@generated()
@given(asked([53, 53, 5300]))
def test_made_up_queries_are_counted_as_tshark_counts_them(
    tmp_path_factory: pytest.TempPathFactory, packets: list[Any]
) -> None:
    agree(saved(packets, tmp_path_factory.mktemp("made") / "a.pcap"))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_capture_says_the_same_whatever_its_format_and_link_layer(variant: str, tmp_path: Path) -> None:
    capture = Capture(spoken(6, messages_=25))
    plain, other = (
        read(write_pcap(capture, tmp_path / "plain.pcap")),
        read(VARIANTS[variant](capture, tmp_path / variant)),
    )
    plain["coverage"] = other["coverage"] = None
    for found in (plain, other):  # times of a file in microseconds are rounded
        for row in [found["times"], *found["slowest"], *(server["times"] for server in found["servers"])]:
            row.update({name: round(value, 1) for name, value in row.items() if isinstance(value, float)})
        found["slowest"].sort(key=lambda row: (-row["time_ms"], row["frame"], row["name"]))
    assert other == plain


def test_what_else_goes_over_udp_is_not_taken_for_dns(tmp_path: Path) -> None:
    chance = random.Random(9)
    packets = [
        Packet(
            NOON_NS + n, udp("10.0.0.1", 1024 + n, "10.0.0.2", 1024 + n // 2, chance.randbytes(chance.randint(1, 400)))
        )
        for n in range(3000)
    ]
    found = read(write_pcap(Capture(packets), tmp_path / "noise.pcap"))
    assert (found["messages"], found["malformed"], found["coverage"]["packets"]) == (0, 0, 3000)


@pytest.mark.unlike_tshark("it counts noise on port 53 as messages")
def test_noise_on_port_53_is_counted_as_malformed_and_said(tmp_path: Path) -> None:
    chance = random.Random(9)
    packets = [
        Packet(NOON_NS + n, udp("10.0.0.1", 5000 + n, "10.0.0.2", 53, b"\x45" * 12 + chance.randbytes(90)))
        for n in range(50)
    ]
    found = read(write_pcap(Capture(packets), tmp_path / "noise.pcap"))
    assert found["malformed"] == 50 and found["findings"][0]["code"] == "dns.not-dns"


def test_an_empty_capture_has_nothing_to_say(tmp_path: Path) -> None:
    found = read(write_pcap(Capture([]), tmp_path / "empty.pcap"))
    assert (found["messages"], found["findings"], found["coverage"]["packets"]) == (0, [], 0)


# --- real servers, real clients, and the tool ------------------------------------------------------------------------

NAMESERVER = "127.53.0.1"


@contextlib.asynccontextmanager
async def dnsmasq(*options: str) -> AsyncIterator[None]:
    """dnsmasq on a loopback address of its own, on port 53 and over UDP and TCP."""
    arguments = [
        find_program("dnsmasq"),
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
    ]
    arguments += [f"--listen-address={NAMESERVER}", "--bind-interfaces", "--user=root", "--local=/lab.test/", *options]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None, "dnsmasq did not start"
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(NAMESERVER, 53)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.lab
@needs_lab
@needs_tshark
async def test_what_was_really_asked_is_what_the_report_says(tmp_path: Path, perform: Perform) -> None:
    options = [
        "--host-record=www.lab.test,10.0.0.7",
        "--cname=alias.lab.test,www.lab.test",
        f"--txt-record=big.lab.test,{'x' * 250}",
    ]
    options += [f"--txt-record=big.lab.test,{n}{'y' * 240}" for n in range(6)]
    asked: Counter[tuple[str, str]] = Counter()
    async with dnsmasq(*options), recording(tmp_path / "real.pcap", f"host {NAMESERVER} and port 53"):
        for name, kind, tcp_ in [
            ("www.lab.test", "A", False), ("www.lab.test", "A", True), ("alias.lab.test", "A", False),
            ("missing.lab.test", "AAAA", False), ("outside.example", "A", False), ("Www.LAB.test", "A", False),
        ]:  # fmt: skip
            query = dns.message.make_query(name, kind)
            ask_ = dns.asyncquery.tcp if tcp_ else dns.asyncquery.udp
            await ask_(query, NAMESERVER, timeout=10)
            asked[name.lower(), kind] += 1
        # With the system's tool: truncated over UDP, then over TCP.
        params = {"names": ["big.lab.test"], "types": ["TXT"], "server": NAMESERVER}
        looked_up = await perform(dns_lookup, params)
        assert looked_up.answers[0].over_tcp  # type: ignore[attr-defined]
        asked["big.lab.test", "TXT"] += 2
    found = agree(tmp_path / "real.pcap")
    names_asked: Counter[str] = Counter()
    for (name, _), count in asked.items():
        names_asked[name] += count
    assert counted(found["names"], "name", "queries") == names_asked
    assert found["answers"] == asked.total() and (found["truncated"], found["retried_over_tcp"]) == (1, 1)
    assert counted(found["rcodes"]) == {"NOERROR": asked.total() - 2, "NXDOMAIN": 1, "REFUSED": 1}
    assert found["servers"][0]["address"] == NAMESERVER and found["times"]["count"] == asked.total()

    store = CaptureStore(folder=tmp_path / "store")
    store.write("real.pcap", (tmp_path / "real.pcap").read_bytes())
    result = await perform(dns_analyzer, {"capture": "real.pcap", "top": 3}, store=store)
    assert isinstance(result, DnsReport) and result.queries == asked.total() and len(result.names) == 3
    assert result.capture.name == "real.pcap" and result.headline().startswith(f"{asked.total()} queries")
    one = await perform(dns_analyzer, {"capture": "real.pcap", "port": 54}, store=store)
    assert isinstance(one, DnsReport) and one.queries == one.coverage.packets == 0


async def test_what_is_no_capture_or_not_there_is_said(tmp_path: Path, perform: Perform) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("words.txt", b"no capture at all, only words" * 10)
    with pytest.raises(InvalidParameters, match="not a capture"):
        await perform(dns_analyzer, {"capture": "words.txt"}, store=store)
    with pytest.raises(NotFound, match="no capture"):
        await perform(dns_analyzer, {"capture": "missing.pcap"}, store=store)
    with pytest.raises(InvalidParameters, match="either capture"):
        await perform(dns_analyzer, {}, store=store)


async def test_a_full_report_of_a_busy_capture_fits_into_the_ledger(tmp_path: Path, perform: Perform) -> None:
    packets = [packet for seed in range(5) for packet in spoken(seed, messages_=150)]
    store = CaptureStore(folder=tmp_path / "store")
    store.write("busy.pcap", write_pcap(Capture(packets), tmp_path / "busy.pcap").read_bytes())
    result = await perform(dns_analyzer, {"capture": "busy.pcap"}, store=store)
    assert isinstance(result, DnsReport) and len(result.names) == 20 and len(result.model_dump_json()) < 50_000
