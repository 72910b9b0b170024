"""tls_analyzer: OpenSSL's handshakes in captures of every kind, real servers on loopback, and what tshark says about both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import smtplib
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import InvalidParameters, NotFound
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._tls import PORTS, dissect
from tasks.network.analyze.tls_analyzer import TlsReport, tls_analyzer
from tests.lab.agreement import generated, ports_of, saved, talked
from tests.lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    cut,
    merged,
    needs_tshark,
    recording,
    tcp_talk,
    tshark_fields,
    udp,
    write_pcap,
)
from tests.lab.mail_server import MailServerLab
from tests.lab.tls_bytes import (
    Talk,
    certificate,
    client_context,
    client_hello,
    crypto_frame,
    handshake,
    in_records,
    initial,
    server_context,
    write_pem,
)

Perform = Callable[..., Awaitable[Any]]
TLS_1_0, TLS_1_2 = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2
NOON = datetime.fromtimestamp(NOON_NS / 1e9, UTC)
WEB = certificate(
    "web.example", "*.apps.example", not_before=NOON - timedelta(days=9), not_after=NOON + timedelta(days=9)
)

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tcpdump", path=process.search_path()) is None,
    reason="recording needs tcpdump and CAP_NET_RAW",
)


def read(capture: Capture | list[Packet], path: Path, selection: Selection = ALL, top: int = 200) -> dict[str, Any]:
    """Write packets to a file and dissect it."""
    return dissect(
        str(write_pcap(capture if isinstance(capture, Capture) else Capture(capture), path / "a.pcap")), selection, top
    )


def found(report: dict[str, Any]) -> dict[str, str]:
    """Findings: code and severity."""
    return {finding.code: finding.severity.value for finding in report["findings"]}


def counted(rows: list[dict[str, Any]], key: str = "name") -> dict[str, int]:
    return {row[key]: row["count"] for row in rows}


def simple(name: str = "web.example", **client: Any) -> Talk:
    return handshake(client_context(**client), server_context(WEB, protocols=["h2"]), name)


def mixed() -> list[Packet]:
    """Handshakes of many kinds, side by side."""
    old, new = server_context(WEB, newest=TLS_1_0, ciphers="ALL"), server_context(WEB, groups="secp384r1")
    sessions: list[ssl.SSLSession] = []
    again = client_context(newest=TLS_1_2)
    plain, weak = server_context(WEB), server_context(WEB, ciphers="ALL")
    talks = [
        (443, simple(protocols=["h2", "http/1.1"])),
        (443, handshake(again, plain, "one.apps.example", sessions=sessions)),
        (8443, handshake(again, plain, "one.apps.example", session=sessions[0])),
        (9999, handshake(client_context(newest=TLS_1_0, ciphers="ALL"), old, None)),
        (10_000, handshake(client_context(), new, "two.apps.example")),  # with a HelloRetryRequest
        (443, handshake(client_context(verify=True, newest=TLS_1_2), plain, "elsewhere.example")),
        (443, handshake(client_context(newest=TLS_1_2, ciphers="ECDHE-RSA-AES128-SHA"), weak, "three.apps.example")),
        (443, handshake(client_context(newest=TLS_1_2, ciphers="AES256-SHA"), weak, "four.apps.example")),
    ]  # fmt: skip
    return merged(
        *(
            tcp_talk(talk, client_port=50_000 + index, server_port=port, start_ns=NOON_NS + index * 3_010_000)
            for index, (port, talk) in enumerate(talks)
        )
    )


def agree(path: Path) -> dict[str, Any]:
    """Compare what is found in a capture with what tshark finds, and return it.

    tshark gets the ports that were found by first bytes as `-d`. It counts handshake messages where they end, as we do.
    """
    report = dissect(str(path), ALL, 100_000, 1 << 30)
    plain = {"sessions": [row for row in report["sessions"] if row["transport"] == "tcp" and not row["upgraded_from"]]}
    decode = [f"tcp.port=={port},tls" for port in ports_of(plain, PORTS)]
    fields = (
        "tls.handshake.type", "tls.handshake.extensions_server_name", "tls.handshake.ja3", "tls.handshake.ja3s",
        "tls.handshake.ciphersuite", "tls.handshake.version", "tls.handshake.extensions.supported_version",
        "tls.handshake.random", "x509af.serialNumber", "tls.alert_message.desc", "frame.number",
    )  # fmt: skip
    rows = tshark_fields(path, "tls.handshake || tls.alert_message", *fields, decode_as=decode)
    names, prints, answers, serials, alerts = (
        Counter[str](),
        Counter[str](),
        Counter[Any](),
        Counter[int](),
        Counter[int](),
    )
    for kinds, name, ja3, ja3s, suites, versions, supported, nonce, serial, alert, _frame in rows:
        names.update(name.split(",") if name else [])
        prints.update(ja3.split(",") if ja3 else [])
        serials.update(int(number.replace(":", ""), 16) for number in serial.split(",") if number)
        alerts.update(int(code) for code in alert.split(",") if code)
        if "2" in kinds.split(",") and not nonce.startswith("cf21ad74"):
            version = int((supported or versions).split(",")[0], 16)
            answers[ja3s, int(suites.split(",")[0], 16), version] += 1
    assert {row["name"]: row["hellos"] for row in report["names"]} == names
    ours = Counter[str]()
    for row in report["fingerprints"]:
        ours[row["ja3"]] += row["hellos"]
    assert ours == prints
    assert sum(answers.values()) == report["server_hellos"] - report["hello_retries"]
    assert Counter(row["ja3s"] for row in report["sessions"] if row["ja3s"]) == Counter(
        {print_: sum(count for key, count in answers.items() if key[0] == print_) for print_, _, _ in answers}
    )
    suites_chosen = Counter({row["code"]: row["negotiated"] for row in report["cipher_suites"] if row["negotiated"]})
    assert suites_chosen == Counter([f"0x{suite:04x}" for _, suite, _ in answers.elements()])
    versions_chosen = {row["version"]: row["negotiated"] for row in report["versions"] if row["negotiated"]}
    assert sorted(versions_chosen.values()) == sorted(Counter(version for *_, version in answers.elements()).values())
    assert Counter({int(row["serial"], 16): row["seen"] for row in report["certificates"]}) == serials
    assert sum(row["count"] for row in report["alerts"]) == sum(alerts.values())
    return report


# --- captures made of OpenSSL's bytes ---------------------------------------------------------------------------------


@needs_tshark
def test_handshakes_of_many_kinds_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    report = agree(write_pcap(Capture(mixed()), tmp_path / "a.pcap"))
    assert report["handshakes"] == 8 and report["established"] == 7 and report["failed"] == 1
    assert report["hello_retries"] == 1 and report["client_hellos"] == 9
    assert counted(report["resumed"]) == {"ticket": 1}
    assert {row["version"]: (row["offered"], row["negotiated"]) for row in report["versions"]} == {
        "TLS 1.3": (2, 2), "TLS 1.2": (7, 5), "TLS 1.0": (1, 1),
    }  # fmt: skip
    assert report["protocols"][0] == {"protocol": "h2", "offered": 1, "chosen": 0}  # TLS 1.3 says it encrypted
    assert counted(report["groups"])["secp384r1"] == 1
    assert [(row["alert"], row["level"], row["sender"]) for row in report["alerts"]] == [
        ("unknown_ca", "fatal", "client")
    ]
    failed = report["sessions"][0]
    assert (failed["outcome"], failed["alert"], failed["name"]) == (
        "refused",
        "client: unknown_ca",
        "elsewhere.example",
    )
    assert {code: severity for code, severity in found(report).items() if code != "tls.weak-cipher"} == {
        "tls.weak-version": "medium", "tls.weak-version-offered": "medium", "tls.weak-cipher-offered": "low",
        "tls.alert": "medium", "tls.expired-since": "medium", "tls.self-signed": "low", "tls.no-forward-secrecy": "low",
        "tls.wrong-name": "medium",
    }  # fmt: skip
    served = report["certificates"][0]
    assert served["names"] == ["web.example", "*.apps.example"] and served["key"] == "RSA 2048"
    assert served["signature"] == "sha256WithRSAEncryption" and served["self_issued"]
    assert served["days_left_at_capture"] == 8 and served["days_left_now"] < 0
    assert report["coverage"]["unreadable"] == 0 and "encrypt the server's certificate" in " ".join(
        report["coverage"]["notes"]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_said_does_not_depend_on_the_kind_of_capture(variant: str, tmp_path: Path) -> None:
    packets = VARIANT_PACKETS
    VARIANTS[variant](Capture(packets), tmp_path / "variant")
    plain = read(packets, tmp_path)
    other = dissect(str(tmp_path / "variant"), ALL, 200)
    for report in (plain, other):  # times of a coarser clock, and bytes of other headers
        for session in report["sessions"]:
            del session["handshake_ms"]
        del report["coverage"]
    assert plain == other and plain["handshakes"] == 8


VARIANT_PACKETS = mixed()


@needs_tshark
@pytest.mark.parametrize(("segment", "record"), [(1, 0), (7, 0), (1400, 50), (3, 16), (60, 1)])
def test_a_hello_in_pieces_is_put_together(segment: int, record: int, tmp_path: Path) -> None:
    talk = simple(newest=TLS_1_2)
    if record:
        talk[0] = (True, in_records(talk[0][1], record))
    path = write_pcap(Capture(tcp_talk(talk, server_port=443, segment_size=segment)), tmp_path / "a.pcap")
    whole = read(tcp_talk(simple(newest=TLS_1_2), server_port=443), tmp_path)
    # tshark 4.0 puts a message together from several segments, and from several records only since 4.2 reliably.
    pieces = dissect(str(path), ALL, 200) if record else agree(path)
    assert pieces["fingerprints"][0]["ja4"] == whole["fingerprints"][0]["ja4"]
    assert pieces["established"] == 1 and counted(pieces["outcomes"]) == {"established": 1}
    assert len(pieces["certificates"]) == 1


def odd_hello(chance: random.Random) -> bytes:
    """A record with a ClientHello that no library would write, but every parser should read."""
    codes = [0x0A0A, 0xFAFA, 0x1301, 0xC02F, 0x0005, 0x00FF, 0x5600, 0xCAFE, 0x2A2B, *range(0x2F, 0x3F)]

    def some(most: int) -> bytes:
        return b"".join(chance.choice(codes).to_bytes(2, "big") for _ in range(chance.randint(1, most)))

    def sized(data: bytes, size: int) -> bytes:
        return len(data).to_bytes(size, "big") + data

    name = f"{chance.randrange(10**6)}.example".encode()
    bodies = {
        0: sized(b"\0" + sized(name, 2), 2), 10: sized(some(9), 2), 11: sized(bytes(chance.randint(1, 3)), 1),
        13: sized(some(9), 2), 16: sized(sized(b"h2", 1) + sized(b"http/1.1", 1), 2), 23: b"", 35: bytes(chance.randint(0, 40)),
        43: sized(some(3), 1), 0x2A2A: b"", 0x6A6A: b"\0", 65281: b"\0", 21: bytes(chance.randint(0, 200)), 0xFF77: b"abc",
    }  # fmt: skip
    kinds = chance.sample(sorted(bodies), chance.randint(0, len(bodies)))
    extensions = b"".join(kind.to_bytes(2, "big") + sized(bodies[kind], 2) for kind in kinds)
    body = (
        chance.choice([b"\3\0", b"\3\1", b"\3\3"])
        + chance.randbytes(32)
        + sized(chance.randbytes(chance.choice([0, 32])), 1)
    )
    body += sized(some(20), 2) + b"\1\0" + (sized(extensions, 2) if kinds else b"")
    return b"\x16\3\1" + sized(b"\1" + sized(body, 3), 2)


@st.composite
def handshakes(draw: st.DrawFn) -> Talk:
    name = draw(st.sampled_from(["web.example", "one.apps.example", "two.apps.example", None]))
    newest = draw(st.sampled_from([TLS_1_2, None]))
    client = client_context(
        protocols=draw(st.sampled_from([["h2"], ["h2", "http/1.1"]])), **({"newest": newest} if newest else {})
    )
    return handshake(client, server_context(WEB, protocols=["h2"]), name)


@needs_tshark
@generated()
@given(talked(handshakes(), [443, 8443, 9999]))
def test_made_up_handshakes_are_read_as_tshark_reads_them(
    tmp_path_factory: pytest.TempPathFactory, packets: list[Any]
) -> None:
    agree(saved(packets, tmp_path_factory.mktemp("made") / "a.pcap"))


@needs_tshark
def test_hellos_of_any_kind_have_the_names_and_fingerprints_that_tshark_gives_them(tmp_path: Path) -> None:
    chance = random.Random(7)
    talks = [
        tcp_talk(
            [(True, odd_hello(chance))], client_port=40_000 + number, server_port=443, start_ns=NOON_NS + number * 10**7,
            segment_size=chance.choice([100, 1400]),
        )
        for number in range(150)
    ]  # fmt: skip
    report = agree(write_pcap(Capture(merged(*talks)), tmp_path / "a.pcap"))
    assert report["client_hellos"] == 150 and report["fingerprints_seen"] > 100


def test_tls_is_found_on_any_port_and_other_traffic_is_not_taken_for_it(tmp_path: Path) -> None:
    web = [
        (True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (False, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\x16\x03\x01\x02\x00"),
    ]
    report = read(
        merged(tcp_talk(simple(), server_port=31_337), tcp_talk(web, server_port=8000, client_port=50_001)), tmp_path
    )
    assert report["handshakes"] == 1 and report["servers"][0]["server"] == "10.0.0.2:31337"
    assert report["without_handshake"] == 0


UPGRADES = {
    "smtp": (2525, [
        (False, b"220 mx ESMTP\r\n"), (True, b"EHLO me\r\n"), (False, b"250-mx\r\n250 STARTTLS\r\n"), (True, b"STARTTLS\r\n"),
        (False, b"220 go\r\n"),
    ]),
    "imap": (10143, [(False, b"* OK ready\r\n"), (True, b"a STARTTLS\r\n"), (False, b"a OK go\r\n")]),
    "pop3": (10110, [(False, b"+OK ready\r\n"), (True, b"STLS\r\n"), (False, b"+OK go\r\n")]),
    "ftp": (21, [(False, b"220 ftp\r\n"), (True, b"AUTH TLS\r\n"), (False, b"234 go\r\n")]),
    "postgres": (15432, [(True, bytes.fromhex("0000000804d2162f")), (False, b"S")]),
    "mysql": (13306, [
        (False, bytes.fromhex("4a0000000a382e302e3336") + bytes(60)), (True, bytes.fromhex("2000000185ae7f00") + bytes(28)),
    ]),
    "xmpp": (15222, [
        (True, b"<?xml version='1.0'?><stream:stream>"), (False, b"<stream:features/>"), (True, b"<starttls/>"),
        (False, b"<proceed/>"),
    ]),
    "http proxy": (18080, [(True, b"CONNECT web.example:443 HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")]),
    "socks": (11080, [
        (True, b"\x05\x01\x00"), (False, b"\x05\x00"), (True, b"\x05\x01\x00\x01\x0a\0\0\2\x01\xbb"),
        (False, b"\x05\x00\x00\x01\0\0\0\0\0\0"),
    ]),
    "ldap": (389, [
        (True, bytes.fromhex("301d02010177188016312e332e362e312e342e312e313436362e3230303337")),
        (False, bytes.fromhex("300c02010178070a010004000400")),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("protocol", UPGRADES)
def test_tls_after_another_protocol_is_found(protocol: str, tmp_path: Path) -> None:
    port, before = UPGRADES[protocol]
    report = read(tcp_talk([*before, *simple()], server_port=port), tmp_path)
    assert counted(report["upgraded"]) == {"smtp or ftp" if protocol == "smtp" and port != 2525 else protocol: 1}
    assert report["established"] == 1 and report["names"][0]["name"] == "web.example"
    assert read(tcp_talk(before, server_port=port), tmp_path)["handshakes"] == 0


def test_a_hello_in_the_segment_of_the_words_before_it_is_found(tmp_path: Path) -> None:
    talk = simple()
    talk[0] = (True, b"PROXY TCP4 192.0.2.1 10.0.0.2 1234 443\r\n" + talk[0][1])
    report = read(tcp_talk(talk, server_port=9443), tmp_path)
    assert counted(report["upgraded"]) == {"proxy protocol": 1} and report["established"] == 1


def test_certificates_that_are_bad_are_told_by_the_captures_time_and_by_now(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    cases = {
        "expired": certificate("expired.example", not_before=NOON - timedelta(days=99), not_after=NOON - timedelta(days=9)),
        "early": certificate("early.example", not_before=NOON + timedelta(days=9), not_after=now + timedelta(days=900)),
        "since": certificate("since.example", not_before=NOON - timedelta(days=99), not_after=NOON + timedelta(days=9)),
        "expiring": certificate("expiring.example", not_before=NOON - timedelta(days=9), not_after=now + timedelta(days=9, hours=1)),
        "small": certificate("small.example", not_before=NOON - timedelta(days=9), bits=1024),
        "sha1": certificate("sha1.example", not_before=NOON - timedelta(days=9), issuer="Old CA", sha1=True),
        "fine": certificate("fine.example", not_before=NOON - timedelta(days=9), issuer="Good CA"),
    }  # fmt: skip
    talks = [
        tcp_talk(
            handshake(client_context(newest=TLS_1_2, ciphers="ALL"), server_context(issued, ciphers="ALL"), f"{name}.example"),
            server=f"10.0.1.{index}", server_port=443,
        )
        for index, (name, issued) in enumerate(cases.items())
    ]  # fmt: skip
    report = read(merged(*talks), tmp_path)
    by_server: dict[str, set[str]] = {}
    for finding in report["findings"]:
        for index, name in enumerate(cases):
            if f"10.0.1.{index}:443" in finding.what and "certificate" in finding.what:
                by_server.setdefault(name, set()).add(finding.code)
    own = {"tls.self-signed"}
    assert by_server == {
        "expired": own | {"tls.expired-certificate"}, "early": own | {"tls.early-certificate"},
        "since": own | {"tls.expired-since"}, "expiring": own | {"tls.expiring-certificate"}, "small": own | {"tls.weak-key"},
        "sha1": {"tls.weak-signature"},
    }  # fmt: skip
    expired = next(finding for finding in report["findings"] if finding.code == "tls.expired-certificate")
    assert "before the capture (2024-05-01" in expired.what and expired.severity == "high" and expired.frames
    row = next(row for row in report["certificates"] if row["subject"] == "CN=expired.example")
    assert (row["days_left_at_capture"], row["days_left_now"] < row["days_left_at_capture"]) == (-9, True)


@pytest.mark.parametrize(
    ("talk", "farewell", "outcome", "code"),
    [
        (lambda: [(True, client_hello("a.example"))], "rst", "reset", "tls.failed-handshake"),
        (lambda: [(True, client_hello("a.example"))], "fin", "unanswered", "tls.failed-handshake"),
        (lambda: [(True, client_hello("a.example"))], "none", "cut off", None),
        (lambda: simple()[:2], "fin", "closed", "tls.failed-handshake"),
        (lambda: simple()[:2], "rst", "reset", "tls.failed-handshake"),
        (lambda: handshake(client_context(newest=TLS_1_2, ciphers="AES128-SHA"), server_context(WEB), "a"), "fin", "refused", "tls.alert"),
        (lambda: [*simple()[:2], (True, bytes.fromhex("140303000101 1703030013") + bytes(19))], "fin", "refused", "tls.failed-handshake"),
    ],
)  # fmt: skip
def test_a_handshake_that_fails_says_how(
    talk: Callable[[], Talk], farewell: str, outcome: str, code: str | None, tmp_path: Path
) -> None:
    report = read(tcp_talk(talk(), server_port=443, farewell=farewell), tmp_path)
    assert counted(report["outcomes"]) == {outcome: 1}
    assert report["failed"] == (outcome != "cut off")
    assert code is None or code in found(report)


@pytest.mark.unlike_tshark("it does not read a message that the snap length cut")
def test_what_the_snap_length_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    report = read(cut(Capture(tcp_talk(simple(newest=TLS_1_2), server_port=443)), 200), tmp_path)
    assert [row["name"] for row in report["names"]] == ["web.example"]
    assert report["fingerprints"] == []  # of a part they would say nothing
    assert counted(report["outcomes"]) == {"established": 1}  # the headers of the encrypted records are there
    assert report["coverage"]["truncated"] > 0 and report["certificates"] == []


def test_a_capture_that_begins_in_the_middle_says_so(tmp_path: Path) -> None:
    talk = simple()
    data = [(False, bytes.fromhex("1703030400") + bytes(1024)), (True, bytes.fromhex("1703030020") + bytes(32))]
    late = tcp_talk([*talk[3:], *data], server_port=443, handshake=False)
    report = read(late, tmp_path)
    assert report["without_handshake"] == 1 and report["handshakes"] == 0
    assert "began before the capture" in " ".join(report["coverage"]["notes"])
    # Without TCP's handshake the side with the lower port is taken for the server; a ClientHello knows better.
    turned = read(tcp_talk(talk, server_port=60_000, client_port=5000, handshake=False), tmp_path)
    assert turned["established"] == 1 and turned["servers"][0]["server"] == "10.0.0.2:60000"


def test_lost_packets_of_data_do_not_matter_and_lost_ones_of_the_handshake_are_named(tmp_path: Path) -> None:
    data = [(False, bytes.fromhex("1703034000") + bytes(0x4000)) for _ in range(4)]
    packets = tcp_talk([*simple(), *data], server_port=443)
    assert counted(read([*packets[:-20], *packets[-12:]], tmp_path)["outcomes"]) == {"established": 1}
    assert counted(read([*packets[:5], *packets[6:]], tmp_path)["outcomes"]) == {"incomplete": 1}


def test_host_port_and_time_narrow_the_capture(tmp_path: Path) -> None:
    packets = merged(
        tcp_talk(simple("a.apps.example"), server_port=443),
        tcp_talk(simple("b.apps.example"), server="10.0.0.3", server_port=8443, start_ns=NOON_NS + 10**9),
    )
    for selection, names in (
        (Selection(addresses=("10.0.0.3",)), ["b.apps.example"]),
        (Selection(port=443), ["a.apps.example"]),
        (Selection(end_ns=NOON_NS + 10**8), ["a.apps.example"]),
        (ALL, ["a.apps.example", "b.apps.example"]),
    ):
        assert [row["name"] for row in read(packets, tmp_path, selection)["names"]] == names


def test_heartbleed_downgrades_and_old_formats_are_found(tmp_path: Path) -> None:
    talk = simple(newest=TLS_1_2)
    bleed = [*talk[:2], (True, bytes.fromhex("1803030003014000"))]
    assert found(read(tcp_talk(bleed, server_port=443), tmp_path))["tls.heartbleed"] == "critical"
    # A server that knows TLS 1.3 says so in its random (RFC 8446 section 4.1.3); the client offered it.
    whole, less = simple(), simple(newest=TLS_1_2)
    downgraded = [whole[0], *less[1:]]
    assert found(read(tcp_talk(downgraded, server_port=443), tmp_path))["tls.downgrade"] == "high"
    assert "tls.downgrade" not in found(read(tcp_talk(less, server_port=443), tmp_path))
    body = bytes.fromhex("010301 000c 0000 0010 010080 00000a 000005 0000ff") + bytes(range(16))
    ancient = bytes([0x80, len(body)]) + body
    report = read(tcp_talk([(True, ancient), (False, simple(newest=TLS_1_2)[1][1])], server_port=4433), tmp_path)
    assert report["client_hellos"] == 1 and report["fingerprints"] == [] and "tls.weak-version-offered" in found(report)


def test_tables_are_capped_and_say_what_they_counted(tmp_path: Path) -> None:
    hellos = [client_hello(f"host-{number}.example") for number in range(30)]
    packets = merged(
        *(tcp_talk([(True, hello)], client_port=40_000 + i, server_port=443) for i, hello in enumerate(hellos))
    )
    report = read(packets, tmp_path, top=5)
    assert len(report["names"]) == len(report["sessions"]) == 5 and report["names_seen"] == 30
    assert report["handshakes"] == 30 and len(report["findings"]) == 1 and report["findings"][0].count == 30


# --- QUIC -------------------------------------------------------------------------------------------------------------


def datagrams(*packets: tuple[bool, bytes], server_port: int = 443) -> list[Packet]:
    client, server = ("10.0.0.1", 51_000), ("10.0.0.2", server_port)
    return [
        Packet(NOON_NS + index * 10**6, udp(*(client + server if from_client else server + client), data))
        for index, (from_client, data) in enumerate(packets)
    ]


HELLO = client_hello("quic.example", protocols=["h3"])[5:]
ANSWER = simple()[1][1]
ANSWER = ANSWER[5 : 5 + int.from_bytes(ANSWER[3:5], "big")]
ORIGINAL = bytes.fromhex("8394c8f03e515708")


@needs_tshark
@pytest.mark.parametrize("version", [0x00000001, 0x6B3343CF])
def test_quics_initials_are_opened_as_tshark_opens_them(version: int, tmp_path: Path) -> None:
    packets = datagrams(
        (True, initial(crypto_frame(0, HELLO), original=ORIGINAL, source=b"client", version=version)),
        (False, initial(b"\x02\x00\x00\x00\x00" + crypto_frame(0, ANSWER), original=ORIGINAL, destination=b"client",
                        source=b"server99", client=False, version=version)),
    )  # fmt: skip
    path = write_pcap(Capture(packets), tmp_path / "quic.pcap")
    report = agree(path)
    assert [(row["name"], row["quic"]) for row in report["names"]] == [("quic.example", 1)]
    assert report["quic"]["opened"] == 2 and report["quic"]["sealed"] == 0
    session = report["sessions"][0]
    assert (session["transport"], session["version"], session["cipher_suite"]) == (
        "quic",
        "TLS 1.3",
        "TLS_AES_256_GCM_SHA384",
    )
    assert session["ja4"].startswith("q13d") and session["server"] == "10.0.0.2:443"
    assert report["protocols"][0]["protocol"] == "h3"


def test_a_hello_is_put_together_from_shuffled_pieces_of_several_initials(tmp_path: Path) -> None:
    pieces = [(at, HELLO[at : at + 60]) for at in range(0, len(HELLO), 60)]
    first = b"".join(crypto_frame(at, data) + b"\x01" for at, data in reversed(pieces[1::2]))
    second = b"".join(crypto_frame(at, data) + bytes(3) for at, data in pieces[::2])
    packets = datagrams(
        (True, initial(first, original=ORIGINAL, number=0, number_size=1)),
        (True, initial(first, original=ORIGINAL, number=1, number_size=2)),  # sent again
        (True, initial(second, original=ORIGINAL, number=2, number_size=3)),
        server_port=4433,
    )
    report = read(packets, tmp_path)
    assert [row["name"] for row in report["names"]] == ["quic.example"] and report["client_hellos"] == 1
    assert report["quic"]["initials"] == 3 and counted(report["outcomes"]) == {"cut off": 1}


def test_after_a_retry_the_keys_are_new(tmp_path: Path) -> None:
    retry = bytes([0xF0]) + (1).to_bytes(4, "big") + b"\x06client" + b"\x08newchoic" + b"token" + bytes(16)
    packets = datagrams(
        (True, initial(crypto_frame(0, HELLO), original=ORIGINAL, source=b"client")),
        (False, retry),
        (True, initial(crypto_frame(0, HELLO), original=b"newchoic", source=b"client", token=b"token", number=1)),
        (False, initial(crypto_frame(0, ANSWER), original=b"newchoic", destination=b"client", client=False)),
    )
    report = read(packets, tmp_path)
    assert report["quic"]["retries"] == 1 and report["quic"]["sealed"] == 0 and report["handshakes"] == 1
    assert report["client_hellos"] == 1 and report["server_hellos"] == 1


@pytest.mark.unlike_tshark("it has no field for an alert in a QUIC close")
def test_alerts_in_quic_come_in_its_close(tmp_path: Path) -> None:
    close = b"\x1c" + (0x4000 | (0x100 + 120)).to_bytes(2, "big") + b"\x06\x03bad"
    packets = datagrams(
        (True, initial(crypto_frame(0, HELLO), original=ORIGINAL)),
        (False, initial(close, original=ORIGINAL, destination=b"", client=False)),
    )
    report = read(packets, tmp_path)
    assert report["alerts"][0]["alert"] == "no_application_protocol" and counted(report["outcomes"]) == {"refused": 1}


def test_what_of_quic_cannot_be_read_is_counted(tmp_path: Path) -> None:
    negotiation = b"\xca" + bytes(4) + b"\x06client\x08server99" + bytes.fromhex("000000016b3343cf")
    unknown = b"\xc3" + b"Q050" + b"\x08" + ORIGINAL + b"\x00" + bytes(1200)
    greased = b"\xc3" + bytes.fromhex("1a2a3a4a") + b"\x08" + ORIGINAL + b"\x06client" + bytes(1200)
    late = initial(crypto_frame(0, HELLO), original=b"unknown!", destination=b"server99")
    short = bytes([0x40]) + bytes(50)
    report = read(
        datagrams((True, greased), (False, negotiation), (True, unknown), (True, late), (True, short)), tmp_path
    )
    assert report["quic"] == {
        "datagrams": 4, "initials": 1, "opened": 0, "sealed": 1, "retries": 0, "version_negotiations": 1,
        "unknown_versions": 2,
        "versions": [
            {"name": "0x1a2a3a4a", "count": 1}, {"name": "0x51303530 (Q050)", "count": 1}, {"name": "1", "count": 1},
        ],
    }  # fmt: skip
    assert report["handshakes"] == 0 and len(report["coverage"]["notes"]) == 2


def test_dtls_is_counted_and_named(tmp_path: Path) -> None:
    record = bytes.fromhex("16fefd0000000000000000") + (100).to_bytes(2, "big") + bytes(100)
    report = read(datagrams((True, record), (False, record), server_port=4567), tmp_path)
    assert report["dtls_packets"] == 2 and "DTLS" in report["coverage"]["notes"][0]


# --- real servers -----------------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, int]]:
    """OpenSSL's own server twice, and nginx with a certificate that has expired."""
    now = datetime.now(UTC)
    good = write_pem(certificate("real.example", issuer="Lab CA"), tmp_path / "good.pem")
    gone = certificate("gone.example", not_before=now - timedelta(days=90), not_after=now - timedelta(days=3))
    old = write_pem(gone, tmp_path / "gone.pem")
    ports = dict(zip(("modern", "weak", "nginx"), free_ports(3), strict=True))
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr error;\n"
        "events { worker_connections 64; }\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"server {{ listen 127.0.0.1:{ports['nginx']} ssl http2; ssl_certificate {old}; ssl_certificate_key {old};\n"
        "ssl_protocols TLSv1.2 TLSv1.3; location / { return 204; } } }\n"
    )
    commands = [
        ["openssl", "s_server", "-accept", f"127.0.0.1:{ports['modern']}", "-cert", str(good), "-quiet", "-www", "-alpn", "h2"],
        ["openssl", "s_server", "-accept", f"127.0.0.1:{ports['weak']}", "-cert", str(good), "-quiet", "-www", "-tls1_2",
         "-cipher", "ALL:@SECLEVEL=0"],
        ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
    ]  # fmt: skip
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        for port in ports.values():
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                subprocess.run(["sleep", "0.05"], check=True)
        yield ports
    finally:
        for program in running:
            program.terminate()
            program.wait(5)


def talk_to(port: int, *options: str) -> None:
    subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input=b"GET / HTTP/1.0\r\n\r\n", capture_output=True, timeout=20, check=False,
    )  # fmt: skip


@needs_root
@needs_tshark
@pytest.mark.lab
async def test_real_servers_are_reported_as_they_are(servers: dict[str, int], tmp_path: Path, perform: Perform) -> None:
    store = CaptureStore(folder=tmp_path / "evidence")
    path = store.new("lab/tls.pcap")
    modern, weak, nginx = servers["modern"], servers["weak"], servers["nginx"]

    def speak(mail: MailServerLab) -> None:
        kept = str(tmp_path / "session")
        talk_to(modern, "-servername", "real.example", "-alpn", "h2")
        talk_to(modern, "-servername", "real.example", "-tls1_2", "-sess_out", kept)
        talk_to(modern, "-servername", "real.example", "-tls1_2", "-sess_in", kept)
        talk_to(weak, "-cipher", "ADH-AES128-SHA@SECLEVEL=0", "-tls1_2", "-noservername")
        talk_to(weak, "-tls1_3", "-servername", "too-new.example")  # the server says protocol_version
        talk_to(nginx, "-servername", "gone.example", "-tls1_2", "-alpn", "h2,http/1.1")
        talk_to(nginx, "-servername", "gone.example", "-tls1_3")
        strict = ssl.create_default_context()
        strict.maximum_version = TLS_1_2
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection(("127.0.0.1", nginx), 10) as plain,
            strict.wrap_socket(plain, server_hostname="gone.example"),
        ):
            pass
        with smtplib.SMTP("127.0.0.1", mail_port, timeout=10) as client:
            client.starttls(context=ssl._create_unverified_context())
            client.noop()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_pem(certificate("mx.example"), tmp_path / "mx.pem"))
    with MailServerLab(tls=context, mode="starttls") as mail:
        mail_port = mail.port
        ports = " or ".join(f"tcp port {port}" for port in (*servers.values(), mail_port))
        async with recording(path, ports):
            await asyncio.to_thread(speak, mail)
    store.commit(path)
    report: TlsReport = await perform(tls_analyzer, {"capture": "lab/tls.pcap", "top": 50}, store=store)
    assert (report.handshakes, report.established, report.failed) == (9, 7, 2)
    assert counted([row.model_dump() for row in report.resumed]) == {"ticket": 1}
    assert counted([row.model_dump() for row in report.upgraded]) == {"smtp or ftp": 1}
    assert {row.name: row.hellos for row in report.names} == {
        "real.example": 3, "too-new.example": 1, "gone.example": 3,
    } | ({"127.0.0.1": 1} if any(row.name == "127.0.0.1" for row in report.names) else {})  # fmt: skip
    assert {(row.alert, row.sender) for row in report.alerts} >= {("protocol_version", "server")}
    codes = {(finding.code, finding.severity.value) for finding in report.findings}
    assert codes >= {("tls.expired-certificate", "high"), ("tls.weak-cipher", "high"), ("tls.alert", "low")}
    expired = next(finding for finding in report.findings if finding.code == "tls.expired-certificate")
    assert f"127.0.0.1:{nginx}" in expired.what and expired.count == 2
    gone = next(row for row in report.certificates if row.subject == "CN=gone.example")
    assert gone.days_left_now == gone.days_left_at_capture == -3
    chosen = {row.protocol: row.chosen for row in report.protocols}
    assert chosen["h2"] == 1  # nginx in TLS 1.2; in TLS 1.3 the choice is encrypted
    assert "expired" in report.headline() or "anonymous" in report.headline()
    agreed = agree(store.path("lab/tls.pcap"))
    assert agreed["handshakes"] == 9


@needs_root
@pytest.mark.lab
async def test_a_live_capture_is_recorded_first(perform: Perform, servers: dict[str, int], tmp_path: Path) -> None:
    port = servers["modern"]

    async def speak() -> None:
        for _ in range(12):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(talk_to, port, "-servername", "live.example")

    speaking = asyncio.create_task(speak())
    report: TlsReport = await perform(
        tls_analyzer, {"interface": "lo", "port": port, "duration": 3}, policy=ProbePolicy(),
        store=CaptureStore(folder=tmp_path / "evidence"),
    )  # fmt: skip
    await speaking
    assert report.handshakes and [row.name for row in report.names] == ["live.example"]
    assert report.capture.name.endswith(".pcap")


async def test_a_capture_that_is_not_there_or_none_is_refused(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "evidence")
    store.write("notes/a.txt", b"nothing of this is a capture")
    with pytest.raises(NotFound):
        await perform(tls_analyzer, {"capture": "lab/none.pcap"}, store=store)
    with pytest.raises(InvalidParameters):
        await perform(tls_analyzer, {"capture": "notes/a.txt"}, store=store)
