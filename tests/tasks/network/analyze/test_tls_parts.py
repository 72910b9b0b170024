"""The parts of tls_analyzer on bytes: fingerprints, names, Initials, and what strangers may send."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR

from tasks.network._tls_numbers import is_grease, suites
from tasks.network.analyze import _quic as quic
from tasks.network.analyze._fitting import MOST_BYTES, fit
from tasks.network.analyze._ja import ja3, ja3_text, ja3s, ja4
from tasks.network.analyze._quic_tracker import QuicTracker
from tasks.network.analyze._streams import StreamInfo
from tasks.network.analyze._tally import MOST_ENTRIES, Findings, Tally
from tasks.network.analyze._tls import Conversation, report
from tasks.network.analyze._tls_book import Book
from tasks.network.analyze._tls_chain import read_certificate
from tasks.network.analyze._tls_hello import ClientHello, Malformed, ServerHello, parse_client_hello, parse_server_hello
from tasks.network.analyze._tls_weakness import weaknesses
from tests.lab.tls_bytes import V1, V2, certificate, client_context, client_hello, handshake, initial, server_context

NOW = datetime(2024, 5, 1, tzinfo=UTC)


def _codes(text: str) -> tuple[int, ...]:
    return tuple(int(code, 16) for code in text.split(","))


def test_ja3_is_that_of_its_authors_examples() -> None:
    # https://github.com/salesforce/ja3, README: "769,47-53-5-10-49161-...,0-10-11,23-24-25,0" and one without extensions.
    hello = ClientHello(
        version=769,
        suites=(47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4),
        extensions=(0, 10, 11),
        groups=(23, 24, 25),
        point_formats=b"\0",
    )
    assert ja3(hello) == "ada70206e40642a3e4461f35503241d5"
    bare = ClientHello(version=769, suites=(4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99))
    assert ja3_text(bare) == "769,4-5-10-9-100-98-3-6-19-18-99,,,"
    assert ja3(bare) == "de350869b8c85de67a350c8d186f11e6"


def test_ja3_leaves_grease_out() -> None:
    plain = ClientHello(version=771, suites=(0x1301,), extensions=(0, 10), groups=(29,))
    greased = ClientHello(version=771, suites=(0x5A5A, 0x1301), extensions=(0x0A0A, 0, 10, 0xFAFA), groups=(0x2A2A, 29))
    assert ja3(plain) == ja3(greased)


def test_ja4_is_that_of_its_specification() -> None:
    # https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md: the worked example.
    hello = ClientHello(
        version=0x0303,
        suites=_codes("2a2a,1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"),
        extensions=_codes("0a0a,001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"),
        versions=_codes("6a6a,0304,0303"),
        signatures=_codes("0403,0804,0401,0503,0805,0501,0806,0601"),
        protocols=(b"h2", b"http/1.1"),
        names=("example.com",),
    )
    assert ja4(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert ja4(hello, "q") == "q13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("protocol", "ends"),
    [
        (b"h2", "h2"), (b"http/1.1", "h1"), (b"h", "hh"), (b"", "00"), (b"\xab", "ab"), (b"\xab\xcd", "ad"),
        (b"0\xab", "3b"), (b"01\xab\xcd", "3d"), (b"0\xab\xcd1", "01"),
    ],
)  # fmt: skip
def test_ja4_writes_the_ends_of_the_first_protocol(protocol: bytes, ends: str) -> None:
    assert ja4(ClientHello(version=0x0303, protocols=(protocol,))).partition("_")[0] == f"t12i0000{ends}"


def test_ja4_of_a_hello_without_anything_is_zeros() -> None:
    assert ja4(ClientHello(version=0x0300)) == "ts3i000000_000000000000_000000000000"


def test_ja3s_counts_version_suite_and_extensions() -> None:
    hello = ServerHello(legacy_version=769, suite=47, extensions=(65281, 0, 11, 35, 5, 16))
    assert ja3s(hello) == hashlib.md5(b"769,47,65281-0-11-35-5-16").hexdigest()


def test_cipher_suites_have_the_names_that_openssl_and_wireshark_give_them() -> None:
    listed = subprocess.run(
        ["openssl", "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    openssl = {
        int("".join(row.split()[0].replace("0x", "").split(",")), 16): row.split()[2] for row in listed.splitlines()
    }
    assert len(openssl) > 100
    assert openssl == {code: suites()[code] for code in openssl}
    values = subprocess.run(["tshark", "-G", "values"], check=True, capture_output=True, text=True).stdout
    wireshark = {
        int(row[2]): row[3]
        for row in (line.split("\t") for line in values.splitlines())
        if row[0] == "V" and row[1] == "tls.handshake.ciphersuite"
    }
    assert len(suites()) > 350
    # AEGIS is newer than that Wireshark.
    assert {code: name for code, name in suites().items() if code not in {0x1306, 0x1307}} == {
        code: wireshark[code] for code in suites() if code in wireshark
    }
    assert [code for code in wireshark if "GREASE" in wireshark[code]] == [
        code for code in range(65536) if is_grease(code)
    ]


def test_weak_suites_are_told_by_their_names() -> None:
    def names(code: int) -> list[str]:
        return [reason.name for reason in weaknesses(code)]

    assert names(0x0000) == ["no encryption", "anonymous", "no forward secrecy"]
    assert names(0x0003) == ["export", "RC4", "MD5", "no forward secrecy"]
    assert names(0x000A) == ["3DES", "no forward secrecy", "CBC with SHA"]
    assert names(0x0034) == ["anonymous", "CBC with SHA"]
    assert names(0xC011) == ["RC4"]
    assert names(0x1301) == names(0xC02B) == names(0xCCAA) == names(0x00FF) == names(0x5600) == []
    assert all(names(code) is not None for code in range(65536))


# --- QUIC's Initials --------------------------------------------------------------------------------------------------

# RFC 9001 appendix A.2 (and RFC 9369 appendix A.2 for version 2): the client's Initial, packet number 2.
ORIGINAL = bytes.fromhex("8394c8f03e515708")
CRYPTO = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c0000000"
    "10000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e0005000501000000000033"
    "00260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e040305"
    "0306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)
PROTECTED = {
    V1: ("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11", "e221af44860018ab0856972e194cd934"),
    V2: ("d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485", "a18b2faa745b6fe189cf772a9f84cbfc"),
}
# RFC 9001 appendix A.3: the server's answer, whole.
ANSWER = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf7"
    "3c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f"
    "58891850abbdca3d20398c276456cbc42158407dd074ee"
)


@pytest.mark.parametrize("version", [V1, V2])
def test_the_rfcs_own_initial_is_opened(version: int) -> None:
    datagram = initial(CRYPTO, original=ORIGINAL, number=2, version=version)
    head, tag = PROTECTED[version]
    # The tag at the end vouches for every byte between: this is the packet that the RFC prints.
    assert (len(datagram), datagram[:32].hex(), datagram[-16:].hex()) == (1200, head, tag)
    (packet,) = quic.packets(datagram)
    assert (packet.kind, packet.destination_id, packet.end) == (quic.INITIAL, ORIGINAL, 1200)
    payload = quic.Keys(version, ORIGINAL, client=True).open(datagram, packet)
    assert payload is not None and payload.startswith(CRYPTO) and len(payload) == 1162
    assert list(quic.frames(payload)) == [(quic.CRYPTO, 0, CRYPTO[4:])]
    assert parse_client_hello(CRYPTO[8:]).names == ("example.com",)
    assert quic.Keys(version, b"another.", client=True).open(datagram, packet) is None
    assert quic.Keys(version, ORIGINAL, client=False).open(datagram, packet) is None


def test_the_rfcs_own_answer_is_opened() -> None:
    (packet,) = quic.packets(ANSWER)
    payload = quic.Keys(V1, ORIGINAL, client=False).open(ANSWER, packet)
    assert payload is not None
    crypto = quic.Crypto()
    for _, offset, data in quic.frames(payload):
        crypto.add(offset, data)
    message = crypto.message()
    assert message is not None and parse_server_hello(message[1]).suite == 0x1301
    assert crypto.message() is None


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)), max_size=30))
def test_pieces_of_a_message_make_the_same_message_in_any_order(cuts: list[tuple[int, int]]) -> None:
    whole = b"\x01\x00\x00\x7c" + bytes(range(124))
    crypto = quic.Crypto()
    for start, size in cuts:
        crypto.add(start, whole[start : start + size])
    for start in range(0, len(whole), 16):
        crypto.add(start, whole[start : start + 16])
    assert crypto.message() == (1, whole[4:])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=64), st.integers(0, 1300), st.integers(0, 255)), max_size=6), st.booleans()
)
def test_any_datagram_is_read_or_passed_over(pieces: list[tuple[bytes, int, int]], server: bool) -> None:
    book = Book(NOW)
    tracker = QuicTracker(book)
    good = initial(CRYPTO, original=ORIGINAL, number=2)
    tracker.datagram(good, 1, 1, "10.0.0.1", 5, "10.0.0.2", 443)
    for number, (data, at, value) in enumerate(pieces):
        broken = bytearray(good)
        broken[at % len(broken)] = value
        sealed = initial(data, original=ORIGINAL, number=number, client=not server, least=60 + at)
        for payload in (data, bytes(broken), good[:at], sealed, ANSWER[: at % 140]):
            quic.looks_like(payload[:64])
            ends = ("10.0.0.2", 443, "10.0.0.1", 5) if server else ("10.0.0.1", 5, "10.0.0.2", 443)
            tracker.datagram(payload, number, number, *ends)
    tracker.finish(10)
    json.dumps(report(book, tracker, 20, NOW), default=str)


# --- what strangers may send ------------------------------------------------------------------------------------------

CERTIFICATE = certificate("web.example")
TALKS = [
    handshake(client_context(newest=ssl.TLSVersion.TLSv1_2), server_context(CERTIFICATE), "web.example"),
    handshake(client_context(protocols=["h2"]), server_context(CERTIFICATE), "web.example"),
]


def played(pieces: list[tuple[bool, bytes]], gaps: dict[int, int], port: int = 443) -> dict[str, Any]:
    """What a report says after these segments, with gaps before some of them."""
    book = Book(NOW)
    conversation = Conversation(StreamInfo(0, "10.0.0.1", 5000, "10.0.0.2", port, 0, True), book)
    for number, (from_client, data) in enumerate(pieces):
        if number in gaps:
            conversation.gap(from_client, gaps[number], number, number)
        if data:  # the engine gives no empty ones
            conversation.data(from_client, data, number, number + 1)
    conversation.end(["fin", "rst", "capture"][len(pieces) % 3], len(pieces), len(pieces))
    made = report(book, QuicTracker(book), 20, NOW)
    json.dumps(made, default=str)
    return made


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(st.binary(min_size=1, max_size=80), st.sampled_from([data for _, data in TALKS[0]])),
        ),
        max_size=10,
    ),
    st.dictionaries(st.integers(0, 9), st.integers(1, 5000), max_size=3),
    st.sampled_from([443, 25, 5000]),
)
def test_anything_may_be_sent_in_any_order(pieces: list[tuple[bool, bytes]], gaps: dict[int, int], port: int) -> None:
    played(pieces, gaps, port)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 1),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes_never_fail(which: int, changes: list[tuple[int, int, int]]) -> None:
    talk = [(side, bytearray(data)) for side, data in TALKS[which]]
    for message, at, value in changes:
        data = talk[message % len(talk)][1]
        data[at % len(data)] = value
    played([(side, bytes(data)) for side, data in talk], {})


@settings(deadline=None)
@given(st.integers(0, 1), st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_how_a_stream_is_cut_into_segments_changes_nothing(which: int, sizes: list[int]) -> None:
    pieces, turn = [], 0
    for side, data in TALKS[which]:
        at = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            pieces.append((side, data[at : at + size]))
            at, turn = at + size, turn + 1
    one, other = played(pieces, {}), played(list(TALKS[which]), {})
    for name in ("names", "fingerprints", "versions", "cipher_suites", "established", "failed", "servers", "groups"):
        assert one[name] == other[name]


@given(st.binary(max_size=300))
def test_hellos_and_certificates_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_client_hello, parse_server_hello):
        with contextlib.suppress(Malformed):
            parse(data)
    read_certificate(data)


def test_a_hello_is_read_at_every_length_it_may_be_cut_to() -> None:
    body = client_hello("web.example", protocols=["h2"])[9:]
    names = set()
    for size in range(len(body)):
        try:
            hello = parse_client_hello(body[:size])
        except Malformed:
            continue
        assert not hello.whole or not hello.extensions
        names.add(hello.names)
    assert names == {(), ("web.example",)}
    assert parse_client_hello(body).whole


def test_a_certificate_nobody_can_read_says_why() -> None:
    assert read_certificate(b"\x30\x03\x02\x01\x01").problem
    assert read_certificate(CERTIFICATE.der[:-5]).problem
    good = read_certificate(CERTIFICATE.der)
    assert not good.problem and int(good.serial, 16) == CERTIFICATE.serial
    wild = read_certificate(certificate("*.apps.example").der)
    assert wild.fits("one.apps.example") and not wild.fits("apps.example") and not wild.fits("a.b.apps.example")
    assert good.fits("WEB.example.") and not good.fits("www.web.example") and not good.fits("example")


def test_a_flood_of_names_does_not_fill_the_memory() -> None:
    tally: Tally[int, list[int]] = Tally(lambda: [0])
    for number in range(MOST_ENTRIES + 500):
        tally.entry(number)
    assert len(tally) == MOST_ENTRIES and tally.left_out == 500
    findings = Findings()
    for number in range(100):
        findings.add("x", "same", number, lambda: (weaknesses(5)[0].severity, "what", "why", "act"))
    (only,) = findings.all()
    assert only.count == 100 and len(only.frames) == 20


def test_a_long_encrypted_stream_is_passed_over_without_being_kept() -> None:
    book = Book(NOW)
    conversation = Conversation(StreamInfo(0, "10.0.0.1", 5000, "10.0.0.2", 443, 0, True), book)
    for number, (side, data) in enumerate(TALKS[1]):
        conversation.data(side, data, number, number)
    segment = bytes.fromhex("1703034000") + bytes(0x4000)
    for number in range(2000):
        conversation.data(False, segment, number, number)
    assert conversation._stream is not None and conversation._stream.over


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.text(max_size=300), max_size=200), min_size=1),
    st.integers(0, 20_000),
)
def test_a_report_is_shortened_from_the_ends_of_its_tables_until_it_fits(
    tables: dict[str, list[str]], most: int
) -> None:
    made = {name: list(rows) for name, rows in tables.items()}
    notes = fit(made, most)
    assert all(tables[name][: len(rows)] == rows for name, rows in made.items())
    size = sum(
        len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")) + 2
        for rows in made.values()
        for row in rows
    )
    assert size <= most or not any(made.values())
    gone = sum(len(tables[name]) - len(rows) for name, rows in made.items())
    assert bool(notes) == bool(gone)


def test_the_largest_report_fits_into_the_ledger() -> None:
    book = Book(NOW)
    for number in range(400):
        name = f"{number:03}." + ".".join(["a" * 60] * 4)
        talk = (
            handshake(client_context(newest=ssl.TLSVersion.TLSv1_2), server_context(CERTIFICATE), name)
            if not number % 40
            else TALKS[0]
        )
        conversation = Conversation(StreamInfo(0, f"10.0.{number}.1", 5000, f"10.1.{number}.2", 443, 0, True), book)
        for step, (side, data) in enumerate(talk):
            conversation.data(side, data, step, step + 1)
        conversation.end("fin", 9, 9)
    made = report(book, QuicTracker(book), 200, NOW)
    notes = fit(made)
    assert "findings" in notes[0] and "sessions" in notes[0]
    dumped = {**made, "findings": [finding.model_dump() for finding in made["findings"]]}
    assert 40_000 < len(json.dumps(dumped, default=str, ensure_ascii=False)) <= MOST_BYTES


def test_a_gap_inside_an_encrypted_record_costs_nothing() -> None:
    book = Book(NOW)
    conversation = Conversation(StreamInfo(0, "10.0.0.1", 5000, "10.0.0.2", 443, 0, True), book)
    talk = TALKS[1]
    hello = talk[1][1][: 5 + int.from_bytes(talk[1][1][3:5], "big")]  # the ServerHello alone
    conversation.data(True, talk[0][1], 1, 1)
    conversation.data(False, hello + bytes.fromhex("1703030400") + bytes(24), 2, 2)
    conversation.gap(False, 900, 3, 3)
    conversation.data(False, bytes(100) + bytes.fromhex("1703030020") + bytes(32), 4, 4)
    conversation.data(True, talk[2][1], 5, 5)
    conversation.end("fin", 6, 6)
    assert dict(book.outcomes) == {"established": 1} and book.sessions[0].gaps is False


def test_after_a_hello_retry_request_alerts_are_in_the_clear_still() -> None:
    talk = handshake(client_context(), server_context(CERTIFICATE, groups="secp384r1"), "web.example")
    retry = talk[1][1][: 5 + int.from_bytes(talk[1][1][3:5], "big")]
    made = played([talk[0], (False, retry), (True, bytes.fromhex("140303000101 1503030002022f"))], {})
    assert [row["alert"] for row in made["alerts"]] == ["illegal_parameter"]
    assert made["hello_retries"] == 1 and made["failed"] == 1


def test_a_second_server_hello_chooses_nothing() -> None:
    talk = TALKS[0]
    hello = talk[1][1][: 5 + int.from_bytes(talk[1][1][3:5], "big")]
    made = played([talk[0], (False, hello + hello)], {})
    assert made["server_hellos"] == 2 and sum(row["negotiated"] for row in made["versions"]) == 1


def test_no_dns_message_is_taken_for_quic_whatever_its_number() -> None:
    for recursion in (0, 1):
        asked = bytearray(bytes(DNS(id=0, rd=recursion, qd=DNSQR(qname="a.example"))))
        answered = bytearray(
            bytes(DNS(id=0, qr=1, rd=recursion, ra=1, qd=DNSQR(qname="a.example"), an=DNSRR(rdata="1.2.3.4")))
        )
        for message in (asked, answered):
            for number in range(1 << 16):
                message[:2] = number.to_bytes(2, "big")
                assert not quic.looks_like(bytes(message)), (number, recursion)


def test_other_versions_and_their_refusal_are_still_seen() -> None:
    for version in (1, 0x6B3343CF, 0xFF00001D, 0x51303436, 0x51303530, 0x54303531, 0x1A2A3A4A):
        begins = b"\xc3" + version.to_bytes(4, "big") + b"\x08" + bytes(8) + b"\x00"
        assert quic.looks_like(begins + bytes(40))
        refused = b"\x80" + bytes(4) + b"\x00\x08" + bytes(8) + version.to_bytes(4, "big")
        assert quic.looks_like(refused)
    assert not quic.looks_like(b"\x80" + bytes(4) + b"\x00\x08" + bytes(8) + b"abcd")
