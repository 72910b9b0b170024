"""ftp_analyzer: pyftpdlib and ftplib on loopback, what tshark says about them, and dialogues nobody should have."""

from __future__ import annotations

import asyncio
import contextlib
import ftplib
import io
import json
import logging
import os
import random
import shutil
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyftpdlib.authorizers import DummyAuthorizer  # type: ignore[import-untyped]
from pyftpdlib.handlers import FTPHandler  # type: ignore[import-untyped]
from pyftpdlib.ioloop import IOLoop  # type: ignore[import-untyped]
from pyftpdlib.servers import FTPServer  # type: ignore[import-untyped]

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import InvalidParameters, NotFound
from tasks.network.analyze._ftp import STREAMS, dissect
from tasks.network.analyze._ftp_book import FtpBook
from tasks.network.analyze._ftp_stream import FtpStream
from tasks.network.analyze._ftp_wire import parse_eprt, parse_epsv, parse_six
from tasks.network.analyze._lines import Lines, Replies
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._streams import StreamInfo
from tasks.network.analyze.ftp_analyzer import FtpReport, ftp_analyzer
from tests.lab.agreement import generated, ports_of, saved, talked
from tests.lab.authority import Authority
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
    write_pcap,
)

Perform = Callable[..., Awaitable[Any]]
Talk = list[tuple[bool, bytes]]
SECRET = "Tr0ub4dor&3"

records = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tcpdump", path=process.search_path()) is None, reason="needs tcpdump and root"
)


# --- FTP as bytes -----------------------------------------------------------------------------------------------------


def said(*lines: str) -> Talk:
    """A dialogue: `> COMMAND` by the client, anything else by the server."""
    return [(line.startswith("> "), line.removeprefix("> ").encode() + b"\r\n") for line in lines]


def login(user: str = "bob", password: str = SECRET, *, code: int = 230) -> Talk:
    return said(f"> USER {user}", "331 Password please", f"> PASS {password}", f"{code} So be it")


HELLO = said("220 FTP server ready")
BYE = said("> QUIT", "221 Bye")


def talk(messages: Talk, number: int = 0, **options: Any) -> list[Packet]:
    options = {"server_port": 21, "client_port": 50_000 + number, "start_ns": NOON_NS + number * 2_010_000, **options}
    return tcp_talk(messages, **options)


def data(
    size: int, at_ns: int, *, port: int = 50_000, client: str = "10.0.0.1", client_port: int = 51_000, server: str = "10.0.0.2",
    upload: bool = False,
) -> list[Packet]:  # fmt: skip
    """A data channel that `client` opens to `server`:`port`."""
    return tcp_talk(
        [(upload, b"x" * size)], client=client, client_port=client_port, server=server, server_port=port, start_ns=at_ns,
        gap_ns=10_000,
    )  # fmt: skip


def read(packets: list[Packet] | Capture, path: Path, selection: Selection = ALL, top: int = 200) -> dict[str, Any]:
    capture = packets if isinstance(packets, Capture) else Capture(packets)
    report = dissect(str(write_pcap(capture, path / "a.pcap")), selection, top)
    assert SECRET not in json.dumps(report, default=str)
    return report


def found(report: dict[str, Any]) -> dict[str, str]:
    return {finding.code: finding.severity.value for finding in report["findings"]}


def codes(report: dict[str, Any]) -> dict[int, int]:
    return {row["code"]: row["count"] for row in report["replies"]}


def commands(report: dict[str, Any]) -> dict[str, int]:
    return {row["command"]: row["count"] for row in report["commands"]}


def agree(path: Path) -> dict[str, Any]:
    """Compare what is found in a capture with what tshark finds, and return it.

    tshark looks at the first line of a packet only, and names the first and the last line of a reply that comes in several packets;
    so what it names are the lines with a code and a space. Data channels it finds by PASV, EPSV and EPRT, and by PORT where the
    server connects from port 20; to a command it gives what comes after it.
    """
    report = dissect(str(path), ALL, 100_000)
    assert SECRET not in json.dumps(report, default=str)
    decode = [f"tcp.port=={port},ftp" for port in ports_of(report, [21, 990])]
    rows = tshark_fields(
        path, "ftp", "ftp.request.command", "ftp.request.arg", "ftp.response.code", "ftp.response.arg", decode_as=decode
    )
    asked = Counter(row[0].upper() for row in rows if row[0])
    assert commands(report) == {name: count for name, count in asked.items() if name in commands(report)}
    assert report["unknown_commands"] == asked.total() - report["commands_seen"]
    answers = Counter(int(row[2]) for row in rows if row[2])
    multiple = Counter(int(row[2]) for row in rows if row[2] == "211" and row[3].startswith(("End", "END")))
    assert codes(report) == dict(answers - multiple)
    assert Counter(row["path"] for row in report["transfers"]) == Counter(
        row[1] for row in rows if row[0].upper() in {"RETR", "STOR", "APPE", "LIST", "NLST", "MLSD", "STOU"}
    )
    carried: Counter[str] = Counter()
    for mode, command, size in tshark_fields(
        path, "ftp-data", "ftp-data.setup-method", "ftp-data.command", "tcp.len", decode_as=decode
    ):
        carried[f"{mode.replace('EPASV', 'EPSV')} {command}"] += int(size)
    ours: Counter[str] = Counter()
    for row in report["transfers"]:
        ours[f"{row['mode']} {row['command']} {row['path']}".strip()] += row["bytes"] or 0
    assert {name: ours[name] for name in carried} == carried and carried.keys() >= {
        name for name in ours if name[:4] in {"PASV", "EPSV"} and ours[name]
    }
    return report


# --- captures made by hand --------------------------------------------------------------------------------------------


def passive(port: int = 50_000, address: str = "10,0,0,2") -> Talk:
    return said("> PASV", f"227 Entering Passive Mode ({address},{port >> 8},{port & 255}).")


def mixed() -> list[Packet]:
    first = (
        HELLO + login() + said("> FEAT", "211-Features:\r\n AUTH TLS\r\n MDTM\r\n211 End", "> TYPE I", "200 Fine") + passive()
        + said("> RETR a b.txt", "150 Here it comes", "226 Done", "> EPSV", "229 Entering Extended Passive Mode (|||50001|)")
        + said("> STOR up.bin", "150 Go on", "226 Done", "> PORT 10,0,0,1,200,25", "200 Fine", "> NLST", "150 Here", "226 Done")
        + said("> EPRT |1|10.0.0.1|51203|", "200 Fine", "> REST 100", "350 From there", "> RETR gone", "550 No such file")
        + said("> rnfr a", "350 And to", "> RNTO b", "250 Renamed", "> WHAT is this", "500 I do not know") + BYE
    )  # fmt: skip
    control = talk(first)

    def when(text: bytes) -> int:
        return next(packet.time_ns for packet in control if text in packet.data)

    return merged(
        control,
        data(5000, when(b"150 Here it comes") + 100_000),
        data(7000, when(b"150 Go on") + 100_000, port=50_001, upload=True),
        data(
            300, when(b"NLST") + 100_000, port=51_225, client="10.0.0.2", client_port=20, server="10.0.0.1", upload=True
        ),
        talk(HELLO + said("> AUTH TLS", "234 Go on") + [(True, b"\x16\x03\x01\x00\x05hello")], 1),
        talk(HELLO + login("anonymous", "me@example.com") + BYE, 2, server="10.0.0.3", server_port=2121),
    )


@needs_tshark
def test_commands_replies_and_transfers_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    report = agree(write_pcap(Capture(mixed()), tmp_path / "a.pcap"))
    assert (report["conversations"], report["encrypted"], report["servers_seen"]) == (3, 1, 2)
    assert report["logins"] == {"accepted": 2, "refused": 0, "anonymous": 1, "in_clear": 1}
    rows = {row["path"]: row for row in report["transfers"]}
    assert {name: (row["mode"], row["bytes"], row["direction"], row["outcome"]) for name, row in rows.items()} == {
        "a b.txt": ("PASV", 5000, "down", "completed"),
        "up.bin": ("EPSV", 7000, "up", "completed"),
        "": ("PORT", 300, "listing", "completed"),
        "gone": ("EPRT", None, "down", "failed"),
    }
    assert rows["gone"]["offset"] == 100 and rows["a b.txt"]["user"] == "bob" and rows["a b.txt"]["seconds"] > 0
    assert (report["bytes_down"], report["bytes_up"]) == (5300, 7000)
    assert report["unknown_commands"] == 1 and report["failures"] == [
        {"command": "RETR", "code": 550, "count": 1, "text": "No such file"},
        {"command": "unknown", "code": 500, "count": 1, "text": ""},
    ]
    assert {row["tls"] for row in report["sessions"]} == {"used", "offered", "no"}
    assert found(report) == {
        "ftp.plain-login": "high", "ftp.anonymous": "low", "ftp.plain-transfers": "low", "ftp.failed-transfers": "low",
        "ftp.other-port": "info",
    }  # fmt: skip
    assert "although the server offers TLS" in next(f.what for f in report["findings"] if f.code == "ftp.plain-login")


@needs_tshark
def test_generated_dialogues_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    chance = random.Random(11)
    steps: list[Callable[[], Talk]] = [
        lambda: login(f"user{chance.randrange(4)}", code=chance.choice([230, 530])),
        lambda: (
            passive(chance.randrange(1024, 65_000))
            + said("> RETR a", *chance.choice([["150 Here", "226 Done"], ["550 No"]]))
        ),
        lambda: said("> EPSV", "229 Fine (|||40000|)", "> STOR b", "125 Go on", "426 Broken"),
        lambda: said("> PORT 10,0,0,1,9,9", "200 Fine", "> list -l", "425 Cannot connect"),
        lambda: said("> CWD /" + "d" * chance.randrange(200), chance.choice(["250 Fine", "550 No"])),
        lambda: said("> STAT", "213-This\r\n 213 is\r\nlong\r\n213 End"),
        lambda: said("> XYZZY 1", "500 What"),
    ]
    talks = []
    for number in range(40):
        told = [line for _ in range(chance.randrange(7)) for line in chance.choice(steps)()]
        ending = chance.choice([BYE, [], [*said("> AUTH TLS", "234 Go on"), (True, b"\x16\x03\x01\x00\x02\r\n")]])
        talks.append(talk(HELLO + told + ending, number, farewell=chance.choice(["fin", "rst", "none"])))
    report = agree(write_pcap(Capture(merged(*talks)), tmp_path / "a.pcap"))
    assert report["conversations"] == 40 and report["transfers_seen"] > 20


steps = st.sampled_from([
    login(), login("eve", code=530), said("> NOOP", "200 Fine"), said("> syst", "215 UNIX"), said("> XYZZY 1", "500 What"),
    said("> FEAT", "211-Features:\r\n MDTM\r\n211 End"), said("> CWD /a b", "250-So\r\n250 Be it"), said("> STOR x", "550 No"),
    said("> PORT 10,0,0,1,9,9", "200 Fine", "> LIST", "425 Cannot connect"), said("> SIZE f", "213 100"),
])  # fmt: skip


@needs_tshark
@generated()
@given(
    talked(
        st.lists(steps, max_size=6).map(lambda told: [*HELLO, *(line for step in told for line in step)]), [21, 2121]
    )
)
def test_made_up_dialogues_are_read_as_tshark_reads_them(
    tmp_path_factory: pytest.TempPathFactory, packets: list[Any]
) -> None:
    agree(saved(packets, tmp_path_factory.mktemp("made") / "a.pcap"))


PACKETS = mixed()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_said_does_not_depend_on_the_kind_of_capture(variant: str, tmp_path: Path) -> None:
    VARIANTS[variant](Capture(PACKETS), tmp_path / "variant")
    plain, other = read(PACKETS, tmp_path), dissect(str(tmp_path / "variant"), ALL, 200)
    for report in (plain, other):
        del report["coverage"]
        for row in (*report["sessions"], *report["transfers"]):
            del row["started_at"], row["seconds"]
        for name in ("reply_times", "banner_times"):
            report[name] = report[name]["count"]
    assert plain == other and plain["conversations"] == 3 and plain["bytes_down"] == 5300


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.unlike_tshark("it dissects packets, not lines: a command cut in two is two there")
def test_a_dialogue_in_pieces_is_put_together(size: int, tmp_path: Path) -> None:
    messages = HELLO + login() + passive() + said("> RETR x", "150-Here\r\n it\r\n150 comes", "226 Done") + BYE
    whole, pieces = (read(talk(messages, segment_size=segment), tmp_path) for segment in (1400, size))
    for name in ("commands", "replies", "users", "servers"):
        assert whole[name] == pieces[name]


@pytest.mark.parametrize(
    ("messages", "finding"),
    [
        (HELLO + login("eve") + said("> PORT 10,9,9,9,0,80", "200 Fine"), {"ftp.bounce": "high", "ftp.low-port": "medium"}),
        (HELLO + login("eve") + said("> EPRT |2|2001:db8::9|5000|", "501 Not that"), {"ftp.bounce": "medium"}),
        (HELLO + login("eve") + passive(address="192,168,0,2"), {"ftp.passive-address": "low"}),
        (HELLO + login("anonymous", "x") + passive() + said("> STOR x", "150 Go", "226 Done"), {"ftp.writable-anonymous": "high"}),
        (HELLO + login("ftp", "x") + said("> DELE x", "250 Gone"), {"ftp.writable-anonymous": "high"}),
        (HELLO + login("ftp", "x") + said("> DELE x", "550 No"), {"ftp.anonymous": "low"}),
        (HELLO + said("> AUTH TLS", "502 No"), {"ftp.tls-refused": "medium"}),
        (said("421 Too many"), {"ftp.no-service": "medium"}),
        (said("220 (vsFTPd 2.3.4)"), {"ftp.old-software": "critical"}),
        (HELLO + login("x:)", code=530), {"ftp.backdoor": "high", "ftp.refused-login": "info"}),
        (HELLO + said("> SITE CPFR /etc/passwd", "350 And to"), {"ftp.dangerous-command": "medium"}),
        (HELLO + login("eve") + passive() + said("> LIST", "425 Cannot connect"), {"ftp.failed-transfers": "low"}),
    ],
)  # fmt: skip
def test_what_should_not_be_is_found(messages: Talk, finding: dict[str, str], tmp_path: Path) -> None:
    report = read(talk(messages), tmp_path)
    assert finding.items() <= found(report).items(), found(report)
    assert all(finding.frames and finding.why and finding.action for finding in report["findings"])


@pytest.mark.unlike_tshark("it reads on where TLS began")
def test_an_ordinary_login_over_tls_has_nothing_to_report(tmp_path: Path) -> None:
    sealed: Talk = [
        (True, b"\x16\x03\x01\x02\x00" + bytes(600)),
        (False, b"\x16\x03\x03" + bytes(500)),
        (True, b"USER x\r\n"),
    ]
    report = read(talk(HELLO + said("> AUTH TLS", "234 Go on") + sealed), tmp_path)
    assert found(report) == {} and report["encrypted"] == 1 and commands(report) == {"AUTH": 1}
    assert "not readable" in report["coverage"]["notes"][0]
    implicit = read(talk(sealed, server_port=990), tmp_path)
    assert implicit["encrypted"] == implicit["implicit_tls"] == 1 and implicit["sessions"][0]["tls"] == "implicit"


def test_guessing_is_found_by_how_often_and_how_fast(tmp_path: Path) -> None:
    refused = HELLO + [line for number in range(3) for line in login(f"user{number}", code=530)]
    fast = merged(*(talk(refused, number, start_ns=NOON_NS + number * 10**9) for number in range(3)))
    report = read(fast, tmp_path)
    (finding,) = [finding for finding in report["findings"] if finding.code == "ftp.brute-force"]
    assert finding.severity == "high" and finding.count == 9
    assert "10.0.0.1 guesses its way into 10.0.0.2:21: 9 refused logins with 3 names, 3 connections" in finding.what
    assert report["logins"]["refused"] == 9 and report["sessions"][0]["login"] == "refused"
    slow = merged(*(talk(refused, number, start_ns=NOON_NS + number * 10**12) for number in range(3)))
    assert "ftp.brute-force" not in found(read(slow, tmp_path))
    hit = talk(HELLO + login(), 9, start_ns=NOON_NS + 20 * 10**9)
    assert found(read(merged(fast, hit), tmp_path))["ftp.brute-force-succeeded"] == "critical"
    assert "ftp.brute-force-succeeded" not in found(read(merged(slow, hit), tmp_path))
    spray = merged(*(talk(HELLO + login(code=530), number, server=f"10.0.0.{20 + number}") for number in range(6)))
    assert found(read(spray, tmp_path))["ftp.spraying"] == "high"


@pytest.mark.parametrize(
    "messages",
    [
        [(False, b"220 mail.test ESMTP\r\n"), (True, b"EHLO x\r\n"), (False, b"250 Hello\r\n")],
        [(False, b"220 mail.test\r\n"), (True, b"EHLO x\r\n"), (False, b"250 Hello\r\n")],
        [(False, b"+OK ready\r\n"), (True, b"USER bob\r\n"), (False, b"+OK\r\n"), (True, b"PASS Tr0ub4dor&3\r\n")],
        [(True, b"USER bob 0 * :Bob\r\n"), (False, b":irc.test 001 bob :Welcome\r\n")],
        [(True, b"GET / HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")],
    ],
)  # fmt: skip
def test_what_is_not_ftp_is_left_alone_on_any_port(messages: Talk, tmp_path: Path) -> None:
    report = read(talk(messages, server_port=2121), tmp_path)
    assert report["conversations"] == report["commands_seen"] == 0 and not report["users"] and not report["findings"]


@pytest.mark.parametrize(
    "hello", [b"220 Welcome\r\n", b"220-Hello\r\n220-there\r\n220 Welcome\r\n", b"220 (vsFTPd 3.0.5)\r\n"]
)
def test_ftp_is_found_on_other_ports_by_what_is_said(hello: bytes, tmp_path: Path) -> None:
    report = read(talk([(False, hello), *login()], server_port=8021), tmp_path)
    assert report["conversations"] == 1 and report["logins"]["accepted"] == 1 and codes(report)[220] == 1
    assert report["servers"][0]["banners"] and found(report)["ftp.other-port"] == "info"
    late = read(talk(login(), server_port=8021, handshake=False), tmp_path)
    assert late["logins"]["accepted"] == 1 and not late["servers"][0]["banners"]


@pytest.mark.unlike_tshark("it does not see what the snap length cut off")
def test_what_the_snap_length_cut_off_of_a_file_counts_all_the_same(tmp_path: Path) -> None:
    report = read(cut(Capture(PACKETS), 110), tmp_path)
    assert (report["bytes_down"], report["bytes_up"]) == (5300, 7000) and report["coverage"]["truncated"]
    assert report["logins"]["accepted"] == 2 and codes(report)[226] == 3
    # Half a port is none: that would be another channel's.
    for snap_length in range(66, 110):
        part = read(cut(Capture(PACKETS), snap_length), tmp_path)
        endings = {row["data_channel"].rpartition(":")[2] for row in part["transfers"]}
        assert endings <= {"", "50000", "50001", "51225", "51203"} and {row["mode"] for row in part["transfers"]} <= {
            "PASV",
            "EPSV",
            "PORT",
            "EPRT",
        }
    shorter = read(cut(Capture(PACKETS), 60), tmp_path)  # six bytes of each line
    assert shorter["conversations"] >= 2 and codes(shorter)[226] == 3 and commands(shorter)["PASS"] == 2


def test_what_was_sent_twice_counts_once_and_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    control = talk(HELLO + login() + passive() + said("> RETR x", "150 Here", "226 Done"))
    channel = data(5000, control[0].time_ns + 20_000_000)
    again = [Packet(packet.time_ns + 1000, packet.data) for packet in channel]
    assert read(merged(control, channel, again), tmp_path)["bytes_down"] == 5000
    report = read(control, tmp_path)
    assert (
        report["transfers"][0]["bytes"] is None
        and "data channel is not in the capture" in report["coverage"]["notes"][0]
    )


@pytest.mark.unlike_tshark("it gives a port that comes again to one transfer for ever")
def test_each_transfer_has_its_own_channel_even_where_the_port_comes_again(tmp_path: Path) -> None:
    moves = [line for number in range(3) for line in passive() + said(f"> RETR {number}", "150 Here", "226 Done")]
    control = talk(HELLO + login() + moves)
    starts = [packet.time_ns for packet in control if b"227 " in packet.data]
    channels = [data(1000 * (n + 1), start + 100_000, client_port=52_000 + n) for n, start in enumerate(starts)]
    report = read(merged(control, *channels), tmp_path)
    assert {row["path"]: row["bytes"] for row in report["transfers"]} == {"0": 1000, "1": 2000, "2": 3000}


@pytest.mark.unlike_tshark("it takes whoever connects for the client")
def test_somebody_else_at_the_data_channel_is_found(tmp_path: Path) -> None:
    control = talk(HELLO + login() + passive() + said("> RETR x", "150 Here", "226 Done"))
    start = next(packet.time_ns for packet in control if b"227 " in packet.data)
    stranger = data(10, start + 10_000, client="10.0.0.66")
    report = read(merged(control, stranger, data(500, start + 500_000)), tmp_path)
    assert found(report)["ftp.data-stranger"] == "medium" and report["bytes_down"] == 500


@pytest.mark.unlike_tshark("it looks for the channel at the address that the server gave")
def test_a_channel_behind_an_address_translation_is_found_at_the_server(tmp_path: Path) -> None:
    control = talk(HELLO + login() + passive(address="192,168,0,2") + said("> RETR x", "150 Here", "226 Done"))
    start = next(packet.time_ns for packet in control if b"227 " in packet.data)
    assert read(merged(control, data(500, start + 10_000)), tmp_path)["bytes_down"] == 500


@pytest.mark.unlike_tshark("it reads the first line of a packet only")
def test_commands_in_one_packet_get_their_replies_in_turn(tmp_path: Path) -> None:
    together = (True, b"TYPE I\r\nSIZE x\r\nMDTM x\r\n")
    report = read(talk([*HELLO, *login(), together, (False, b"200 Fine\r\n550 No\r\n213 20240501\r\n")]), tmp_path)
    assert [(row["command"], row["code"]) for row in report["failures"]] == [("SIZE", 550)]
    aborted = [
        *said("> RETR x", "150 Here"),
        (True, b"\xff\xf4\xff\xf2ABOR\r\n"),
        (False, b"426 Broken\r\n226 Closed\r\n"),
    ]
    report = read(talk(HELLO + login() + passive() + aborted), tmp_path)
    assert commands(report)["ABOR"] == 1 and report["transfers_failed"] == 1 and report["transfers"][0]["code"] == 426


def test_a_password_that_is_not_where_it_should_be_is_not_shown_either(tmp_path: Path) -> None:
    odd = said(
        f"> {SECRET}",
        f"500 '{SECRET}': not understood",
        f"> ACCT {SECRET}",
        f"530 not {SECRET}",
        f"> pass  {SECRET}",
        "230 In",
        "> RETR x",
        f"500 {SECRET}?",
    )
    report = read(talk(HELLO + said("> USER bob", "331 Please") + odd), tmp_path)
    assert report["unknown_commands"] == 1 and report["logins"]["accepted"] == 1
    read(cut(Capture(talk(HELLO + login())), 64), tmp_path)
    for size in (1400, 9, 4):
        packets = talk(HELLO + said("> USER bob", "331 Please") + odd + login(), segment_size=size)
        for number in range(3, len(packets)):
            read([*packets[:number], *packets[number + 1 :]], tmp_path)


@pytest.mark.unlike_tshark("it does not say which lines lost packets made two halves of")
def test_lost_packets_spoil_no_more_than_they_must(tmp_path: Path) -> None:
    packets = talk(HELLO + login() + said("> PWD", '257 "/"', "> SYST", "215 UNIX") + BYE)
    lost = [packet for packet in packets if b"331 " not in packet.data]
    report = read(lost, tmp_path)
    assert (
        report["conversations"] == 1
        and codes(report)[215] == 1
        and "bytes are missing" in report["coverage"]["notes"][0]
    )
    late = read(packets[14:], tmp_path)
    assert late["conversations"] == 1 and late["commands_seen"] and not late["servers"][0]["banners"]


def test_host_and_port_narrow_the_control_channels_and_leave_them_their_data(tmp_path: Path) -> None:
    assert read(PACKETS, tmp_path, Selection(port=21))["bytes_down"] == 5300
    assert read(PACKETS, tmp_path, Selection(addresses=("10.0.0.3",)))["conversations"] == 1
    assert read(PACKETS, tmp_path, Selection(end_ns=NOON_NS))["conversations"] == 0


@pytest.mark.unlike_tshark("it shows names in their whole length")
def test_the_report_of_a_busy_server_fits_into_the_ledger(tmp_path: Path) -> None:
    def busy(number: int) -> list[Packet]:
        name = f"user{number:04d}" + "x" * 60
        moves = passive(50_000 + number) + said("> RETR " + f"/very/long/{number}/" * 20, "550 " + "no " * 80)
        return talk(
            said("220 FTP " + name * 3) + login(name) + moves, number, server=f"10.0.{number // 200}.{number % 200 + 2}"
        )

    packets = merged(*(busy(number) for number in range(250)))
    report = read(packets, tmp_path)
    assert len(json.dumps({k: str(v) if k == "findings" else v for k, v in report.items()}, default=str)) < 64 * 1024
    assert report["servers_seen"] == report["users_seen"] == 250 and "Left out" in report["coverage"]["notes"][-1]
    assert len(read(packets, tmp_path, top=3)["transfers"]) == 3


# --- fuzz -------------------------------------------------------------------------------------------------------------


def info(port: int = 21) -> StreamInfo:
    return StreamInfo(0, "10.0.0.1", 50_000, "10.0.0.2", port, NOON_NS, handshake=True)


_WORDS = st.sampled_from([
    b"220 FTP", b"220-", b"USER a", b"PASS b", b"230 ", b"331-x", b"PASV", b"227 (1,2,3,4,5,6)", b"EPSV", b"229 (|||9|)",
    b"RETR x", b"150 ", b"226 ", b"550 ", b"PORT 1,2,3,4,5,6", b"EPRT |1|", b"AUTH TLS", b"ABOR", b"\r\n", b"\n", b"\r",
    b"\xff\xf4", b"426 ", b"REST 9" * 30,
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), _WORDS | st.binary(max_size=40), st.integers(0, 9)), max_size=60),
    st.integers(0, 1),
)
def test_any_bytes_are_read_to_the_end(pieces: list[tuple[bool, bytes, int]], standard: int) -> None:
    book = FtpBook()
    stream = FtpStream(info(21 if standard else 4711), book)
    for number, (from_client, piece, what) in enumerate(pieces):
        if what == 9:
            stream.gap(from_client, 10, NOON_NS + number, number)
        else:
            stream.data(from_client, piece, NOON_NS + number, number + 1)
    stream.end("capture", NOON_NS, 99)
    book.finish()
    assert book.conversations + book.others + book.unseen == 1


@pytest.mark.unlike_tshark("it gives up where we read on")
def test_damaged_captures_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    whole = write_pcap(Capture(PACKETS), tmp_path / "whole.pcap").read_bytes()
    chance = random.Random(7)
    for number in range(60):
        damaged = bytearray(whole[: chance.randrange(24, len(whole))] if number % 3 == 0 else whole)
        for _ in range(chance.randrange(1, 60)):
            damaged[chance.randrange(24, len(damaged))] = chance.randrange(256)
        (tmp_path / "damaged.pcap").write_bytes(damaged)
        with contextlib.suppress(InvalidParameters):
            dissect(str(tmp_path / "damaged.pcap"), ALL, 20)


@pytest.mark.parametrize("line", [b"", b"a", b"220", b"220x", b"22 0", b"999 x", b"220-", b"\xff" * 9000, b"\0" * 5])
def test_odd_lines_are_no_replies_and_hold_nothing_up(line: bytes) -> None:
    replies, lines = Replies(), Lines()
    lines.push(line + b"\n230 In\r\n")
    made = [replies.line(one, 0, 1) for one in iter(lines.line, None)]
    assert len(made) == 2 and (line == b"220-" or (made[1] is not None and made[1].code == 230))


def test_the_rest_of_a_reply_that_was_cut_is_no_other_reply() -> None:
    replies = Replies()
    assert replies.line(b"211-Features", 0, 1) is None
    cut_off = replies.lost(b" AUTH T", 0, 1)
    assert cut_off is not None and cut_off.code == 211 and cut_off.cut
    assert [replies.line(line, 0, 2) for line in (b" MDTM", b"211-More", b"211 End")] == [None] * 3
    other = replies.line(b"211 Again", 0, 3)
    assert other is not None and other.frame == 3
    assert replies.lost(b"230-Wel", 0, 4) is not None and replies.line(b"230 Come in", 0, 5) is None
    next_one = replies.line(b"200 Fine", 0, 6)
    assert next_one is not None and next_one.code == 200


def test_a_command_without_a_reply_does_not_shift_the_others(tmp_path: Path) -> None:
    report = read(talk(HELLO + login() + said("> NOOP") + passive() + said("> RETR x", "550 No")), tmp_path)
    assert [(row["command"], row["code"]) for row in report["failures"]] == [("RETR", 550)]
    assert report["transfers"][0]["mode"] == "PASV"


def test_addresses_that_are_none_are_refused() -> None:
    assert parse_six(b"Entering (256,0,0,1,1,1)") is parse_six(b"1,2,3,4,5") is None
    assert parse_eprt(b"|1|10.0.0.1|70000|") is parse_eprt(b"") is parse_eprt(b"|1|nobody|20|") is None
    assert parse_epsv(b"(|||0|)") is parse_epsv(b"(||20|)") is None
    assert parse_eprt(b"!2!fe80::1%eth0!20!") == ("fe80::1", 20)


def test_the_signature_looks_at_first_payloads_only() -> None:
    assert STREAMS.matches(b"220 ready") and not STREAMS.matches(b"220 ESMTP") and not STREAMS.matches(b"HTTP/1.1")


# --- real servers -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """pyftpdlib on loopback: bob with a password, and anybody who may write."""
    logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)
    people = DummyAuthorizer()
    people.add_user("bob", SECRET, str(folder), perm="elradfmwMT")
    people.add_anonymous(str(folder), perm="elrw")  # it warns of that, and is right

    class Handler(FTPHandler):  # type: ignore[misc]
        authorizer = people
        auth_failed_timeout = 0
        permit_foreign_addresses = True
        banner = "FTP lab ready."

    server = FTPServer((host, 0), Handler, ioloop=IOLoop())  # the default one is shared by all threads
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            server.serve_forever(timeout=0.02, blocking=False, handle_exit=False)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server.address[1]
    finally:
        stop.set()
        thread.join(5)
        server.close_all()


def visit(
    host: str, port: int, *, active: bool = False, user: str = "bob", password: str = SECRET, size: int = 50_000
) -> None:
    with ftplib.FTP() as ftp:
        ftp.connect(host, port, 10)
        ftp.login(user, password)
        ftp.set_pasv(not active)
        ftp.storbinary(f"STOR {user}.bin", io.BytesIO(bytes(size)))
        ftp.retrbinary(f"RETR {user}.bin", lambda data: None)
        ftp.nlst()
        with contextlib.suppress(ftplib.error_perm):
            ftp.retrbinary("RETR none", lambda data: None)


def refuse(host: str, port: int, times: int) -> None:
    for number in range(times):
        with ftplib.FTP() as ftp:
            ftp.connect(host, port, 10)
            with pytest.raises(ftplib.error_perm):
                ftp.login(f"user{number}", "wrong" + SECRET)


@contextlib.contextmanager
def serving_tls(authority: Authority) -> Iterator[int]:
    """A control channel that goes over to TLS: pyftpdlib's needs pyOpenSSL, the standard library's TLS does for one."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = authority.server()

    def serve() -> None:
        plain, _ = listener.accept()
        plain.settimeout(10)
        plain.sendall(b"220 FTP lab ready.\r\n")
        assert plain.recv(100) == b"AUTH TLS\r\n"
        plain.sendall(b"234 Go on\r\n")
        with context.wrap_socket(plain, server_side=True) as sealed:
            while line := sealed.recv(1000):
                sealed.sendall(b"331 And?\r\n" if line.startswith(b"USER") else b"230 Fine\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(5)
        listener.close()


def visit_with_tls(port: int, authority: Authority) -> None:
    context = ssl.create_default_context(cadata=authority.pem)
    with ftplib.FTP_TLS(context=context) as ftp:
        ftp.connect("127.0.0.1", port, 10)
        ftp.login("bob", SECRET)


@records
@needs_tshark
@pytest.mark.lab
async def test_a_real_server_is_read_in_every_mode_and_tshark_agrees(tmp_path: Path, perform: Perform) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    store = CaptureStore(folder=tmp_path / "evidence")
    path = store.new("lab/ftp.pcap")
    authority = Authority()
    with serving(folder) as four, serving(folder, "::1") as six, serving_tls(authority) as sealed:
        # A short snap length: files are counted by their headers, and tcpdump's buffer holds many packets instead of few.
        async with recording(path, "tcp", snap_length=400):
            for host, port in (("127.0.0.1", four), ("::1", six)):
                for active in (False, True):
                    await asyncio.to_thread(visit, host, port, active=active)
            await asyncio.to_thread(visit, "127.0.0.1", four, user="anonymous", password="me@example.com")
            await asyncio.to_thread(refuse, "127.0.0.1", four, 8)
            await asyncio.to_thread(visit_with_tls, sealed, authority)
    store.commit(path)
    report: FtpReport = await perform(ftp_analyzer, {"capture": "lab/ftp.pcap", "top": 50}, store=store)
    assert SECRET not in report.model_dump_json()
    assert (report.conversations, report.servers_seen, report.encrypted) == (14, 3, 1)
    assert report.logins.model_dump() == {"accepted": 5, "refused": 8, "anonymous": 1, "in_clear": 12}
    assert {row.mode: row.count for row in report.modes} == {"PASV": 8, "PORT": 4, "EPSV": 4, "EPRT": 4}
    assert (report.transfers_seen, report.transfers_completed, report.transfers_failed) == (20, 15, 5)
    assert report.bytes_up == 5 * 50_000 and report.bytes_down >= 5 * 50_000
    assert all(row.bytes == 50_000 and row.seconds is not None for row in report.transfers[:10])
    codes = {finding.code: finding.severity.value for finding in report.findings}
    assert codes["ftp.plain-login"] == codes["ftp.brute-force"] == codes["ftp.writable-anonymous"] == "high"
    assert report.headline().startswith("14 FTP conversations, 3 servers, 20 transfers, 8 refused logins; ")
    assert report.reply_times.count and report.banner_times.count == 14
    agree(store.path("lab/ftp.pcap"))


async def test_a_capture_that_is_not_there_or_none_is_refused(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "evidence")
    store.write("notes/a.txt", b"nothing of this is a capture")
    with pytest.raises(NotFound):
        await perform(ftp_analyzer, {"capture": "lab/none.pcap"}, store=store)
    with pytest.raises(InvalidParameters):
        await perform(ftp_analyzer, {"capture": "notes/a.txt"}, store=store)
