"""smtp_analyzer: aiosmtpd and smtplib on loopback, what tshark says about them, and dialogues nobody should have."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import smtplib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import InvalidParameters, NotFound
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._smtp import STREAMS, dissect
from tasks.network.analyze._smtp_book import SmtpBook
from tasks.network.analyze._smtp_stream import SmtpStream
from tasks.network.analyze._smtp_wire import Body, from_outside, parse_chunk, parse_path, sasl_user
from tasks.network.analyze._streams import StreamInfo
from tasks.network.analyze.smtp_analyzer import SmtpReport, smtp_analyzer
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
from tests.lab.mail_server import MailServerLab

Perform = Callable[..., Awaitable[Any]]
Talk = list[tuple[bool, bytes]]
SECRET = "Tr0ub4dor&3"
TEXT = "the-text-of-a-mail"

records = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tcpdump", path=process.search_path()) is None, reason="needs tcpdump and root"
)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


PLAIN = b64(f"\0bob\0{SECRET}")
HIDDEN = (SECRET, b64(SECRET), PLAIN, PLAIN[8:20], TEXT, b64(TEXT))
"""What must stand in no report."""


# --- SMTP as bytes ----------------------------------------------------------------------------------------------------


def said(*lines: str) -> Talk:
    """A dialogue: `> COMMAND` by the client, anything else by the server."""
    return [(line.startswith("> "), line.removeprefix("> ").encode() + b"\r\n") for line in lines]


HELLO = said(
    "220 mx.example.net ESMTP ready",
    "> EHLO pc.example.org",
    "250-mx.example.net\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 HELP",
)
BYE = said("> QUIT", "221 Bye")


def mail(sender: str = "ann@example.org", *recipients: str, text: str = TEXT, answer: str = "250 Taken") -> Talk:
    told = [line for name in recipients or ("bob@example.net",) for line in (f"> RCPT TO:<{name}>", "250 Fine")]
    return said(
        f"> MAIL FROM:<{sender}>", "250 Fine", *told, "> DATA", "354 Go on", f"> Subject: x\r\n\r\n{text}\r\n.", answer
    )


def talk(messages: Talk, number: int = 0, **options: Any) -> list[Packet]:
    options = {"server_port": 25, "client_port": 50_000 + number, "start_ns": NOON_NS + number * 2_010_000, **options}
    return tcp_talk(messages, **options)


def checked(report: dict[str, Any]) -> dict[str, Any]:
    everything = json.dumps(report, default=str)
    assert not [secret for secret in HIDDEN if secret in everything]
    return report


def read(packets: list[Packet] | Capture, path: Path, selection: Selection = ALL, top: int = 200) -> dict[str, Any]:
    capture = packets if isinstance(packets, Capture) else Capture(packets)
    return checked(dissect(str(write_pcap(capture, path / "a.pcap")), selection, top))


def found(report: dict[str, Any]) -> dict[str, str]:
    return {finding.code: finding.severity.value for finding in report["findings"]}


def codes(report: dict[str, Any]) -> dict[int, int]:
    return {row["code"]: row["count"] for row in report["replies"]}


def commands(report: dict[str, Any]) -> dict[str, int]:
    return {row["command"]: row["count"] for row in report["commands"]}


def last_line(payload: str) -> bytes:
    return bytes.fromhex(payload.replace(",", "")).rstrip(b"\r\n").rpartition(b"\n")[2]


def agree(path: Path) -> dict[str, Any]:
    """Compare what is found in a capture with what tshark finds, and return it.

    tshark knows commands of four letters only and cuts others to that, takes a BDAT for part of a mail where its chunk comes in the
    same packet, shows names in AUTH as they were sent, in base64, and none of other mechanisms than PLAIN and LOGIN.
    """
    report = checked(dissect(str(path), ALL, 100_000))
    names = (
        "smtp.req.command",
        "smtp.response.code",
        "smtp.auth.username",
        "smtp.auth.username_password",
        "tcp.payload",
    )
    rows = tshark_fields(
        path, "smtp", *names, decode_as=[f"tcp.port=={port},smtp" for port in ports_of(report, [25, 465, 587])]
    )
    asked = Counter(word.upper() for row in rows for word in row[0].split(",") if word)
    asked.pop("BDAT", None)
    ours = Counter({name[:4]: count for name, count in commands(report).items() if name != "BDAT"})
    assert ours == Counter({name: count for name, count in asked.items() if name in ours})
    assert report["unknown_commands"] == asked.total() - ours.total()
    answers = Counter(int(code) for row in rows for code in row[1].split(",") if code)
    # Of a reply that comes in several packets it counts each.
    answers -= Counter(int(line[:3]) for row in rows if row[1] and (line := last_line(row[4]))[3:4] == b"-")
    assert codes(report) == answers
    users = Counter(base64.b64decode(row[2]).decode() for row in rows if row[2])
    users += Counter(base64.b64decode(row[3]).split(b"\0")[1].decode() for row in rows if row[3])
    seen: Counter[str] = Counter()
    for row in report["users"]:
        seen[row["user"]] += row["accepted"] + row["refused"]
    if {row["mechanism"] for row in report["mechanisms"]} <= {"PLAIN", "LOGIN"}:
        assert seen == users
    return report


def plain_login(user: str = "bob", *, code: int = 235) -> Talk:
    return said("> AUTH PLAIN " + b64(f"\0{user}\0{SECRET}"), f"{code} So be it")


DOTS = "a\r\n..\r\nb" * 500


def mixed() -> list[Packet]:
    first = (
        HELLO + mail() + said("> MAIL FROM:<> SIZE=500", "250 Fine", "> RCPT TO:<none@example.net>", "550 5.1.1 No such user")
        + said("> RSET", "250 Fine") + mail("ann@example.org", "x@example.net", "y@example.net", text=DOTS, answer="554 5.7.1 Spam")
        + said("> VRFY bob", "252 Perhaps", "> what is this", "500 I do not know") + BYE
    )  # fmt: skip
    login = (
        HELLO + said("> AUTH LOGIN", "334 VXNlcm5hbWU6", f"> {b64('bob')}", "334 UGFzc3dvcmQ6", f"> {b64(SECRET)}", "235 In")
        + said("> MAIL FROM:<bob@example.net>", "250 Fine", "> RCPT TO:<c@example.com>", "250 Fine")
        + [(True, b"BDAT 20\r\n" + b"QUIT\r\nMAIL FROM:<x>\r"), (False, b"250 Fine\r\n")]
        + [(True, b"BDAT 5 LAST\r\n12345"), (False, b"250 Taken\r\n")]
        + BYE
    )  # fmt: skip
    sealed = HELLO + said("> STARTTLS", "220 Go on") + [(True, b"\x16\x03\x01\x00\x05hello\nEHLO x\r\n")]
    grouped = [
        *HELLO,
        (True, b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n"),
        (False, b"250 Fine\r\n250 Fine\r\n451 4.7.1 Greylisted, come back later\r\n354 Go on\r\n"),
        (True, f"{TEXT}\r\n.\r\n".encode()),
        (False, b"250 Taken\r\n"),
        *BYE,
    ]  # fmt: skip
    return merged(
        talk(first),
        talk(login, 1, server_port=587),
        talk(sealed, 2),
        talk(grouped, 3, server_port=2626, server="10.0.0.7"),
    )


@needs_tshark
def test_commands_and_replies_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    report = agree(write_pcap(Capture(mixed()), tmp_path / "a.pcap"))
    assert (report["conversations"], report["servers_seen"], report["unknown_commands"]) == (4, 3, 1)
    assert report["tls"] == {"offered": 1, "used": 1, "refused": 0, "implicit": 0}
    assert report["pipelining"] == {"offered": 4, "used": 1}
    assert report["mails"] == {
        "seen": 5, "accepted": 3, "rejected": 2, "deferred": 0, "unknown": 0, "bytes": 34 + 4016 + 25 + 20, "largest_bytes": 4016,
        "chunks": 2,
    }  # fmt: skip
    assert (report["recipients_accepted"], report["recipients_refused"], report["put_off"]) == (5, 2, 1)
    assert report["mechanisms"] == [
        {"mechanism": "LOGIN", "readable": True, "attempts": 1, "accepted": 1, "refused": 0}
    ]
    rows = {row["sender"]: row for row in report["latest_mails"] if row["outcome"] != "accepted"}
    assert rows["<>"]["declared_bytes"] == 500 and rows["<>"]["code"] == 0 and rows["ann@example.org"]["code"] == 554
    chunked = next(row for row in report["latest_mails"] if row["chunks"])
    assert (chunked["bytes"], chunked["authenticated"], chunked["recipients"]) == (25, True, ["c@example.com"])
    assert {(row["command"], row["code"], row["status"]) for row in report["rejections"]} == {
        ("RCPT", 451, "4.7.1"), ("RCPT", 550, "5.1.1"), ("DATA", 554, "5.7.1"), ("unknown", 500, ""),
    }  # fmt: skip
    assert found(report) == {
        "smtp.plain-login": "high", "smtp.plain-mail": "low", "smtp.rejected": "low", "smtp.verify": "low",
        "smtp.greylisting": "info", "smtp.other-port": "info",
    }  # fmt: skip
    assert report["hello_names"] == [{"name": "pc.example.org", "clients": ["10.0.0.1"]}]
    assert all(finding.frames and finding.why and finding.action for finding in report["findings"])


@needs_tshark
def test_generated_dialogues_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    chance = random.Random(11)
    steps: list[Callable[[], Talk]] = [
        lambda: mail(
            f"u{chance.randrange(9)}@example.org", *(f"r{n}@example.net" for n in range(chance.randrange(1, 4)))
        ),
        lambda: mail(
            text="x\r\n..y\r\n" * chance.randrange(400),
            answer=chance.choice(["250 Fine", "451 4.3.0 Later", "554 5.7.1 No"]),
        ),
        lambda: plain_login(f"user{chance.randrange(4)}", code=chance.choice([235, 535])),
        lambda: said("> RSET", "250-Fine\r\n250 Again"),
        lambda: said("> noop", "250 Fine"),
        lambda: said("> VRFY x", chance.choice(["252 Perhaps", "550 No", "502 Not here"])),
        lambda: said("> EXPN list", "550-No\r\n550 Never"),
        lambda: said(
            "> MAIL FROM:<>", "250 Fine", "> RCPT TO:<x@y.test>", chance.choice(["550 5.1.1 No", "450 4.2.0 Later"])
        ),
    ]
    talks = []
    for number in range(40):
        told = [line for _ in range(chance.randrange(7)) for line in chance.choice(steps)()]
        ending = chance.choice([BYE, [], [*said("> STARTTLS", "220 Go on"), (True, b"\x16\x03\x01\x00\x02\r\n")]])
        talks.append(talk(HELLO + told + ending, number, farewell=chance.choice(["fin", "rst", "none"])))
    report = agree(write_pcap(Capture(merged(*talks)), tmp_path / "a.pcap"))
    assert report["conversations"] == 40 and report["mails"]["seen"] > 40


steps = st.sampled_from([
    mail(), mail("x@example.org", "a@example.net", "b@example.net", text="QUIT\r\n..\r\n" * 9), mail(answer="554 5.7.1 No"),
    plain_login(), plain_login("eve", code=535), said("> RSET", "250 Fine"), said("> noop", "250-Fine\r\n250 Again"),
    said("> VRFY x", "252 Perhaps"), said("> WHAT is this", "500 What"), said("> HELP", "214-a\r\n214 b"),
])  # fmt: skip


@needs_tshark
@generated()
@given(
    talked(
        st.lists(steps, max_size=6).map(lambda told: [*HELLO, *(line for step in told for line in step)]),
        [25, 587, 2626],
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
        for row in (*report["sessions"], *report["latest_mails"]):
            del row["started_at"]
            row.pop("seconds", None)
        for name in ("reply_times", "banner_times"):
            report[name] = report[name]["count"]
    assert plain == other and plain["conversations"] == 4


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.unlike_tshark("it counts a reply in pieces once for each")
def test_a_dialogue_in_pieces_is_put_together(size: int, tmp_path: Path) -> None:
    messages = HELLO + plain_login() + mail(text=".\r\n..\r\nQUIT\r\n.x\r\n\r\n.".replace(".\r\n", "..\r\n")) + BYE
    whole, pieces = (read(talk(messages, segment_size=segment), tmp_path) for segment in (1400, size))
    for name in ("commands", "replies", "users", "servers", "mails"):
        assert whole[name] == pieces[name]
    assert whole["mails"]["accepted"] == 1 and commands(whole)["QUIT"] == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=30), st.sampled_from([b"", b"x\r\n", b"..\r\n", b"\r\n\r\n", b"a\r\n.b\r\n"])
)
def test_the_end_of_a_mail_is_found_however_it_is_cut(cuts: list[int], text: bytes) -> None:
    data, body, at, used = text + b".\r\nQUIT", Body(), 0, None
    for size in [*cuts, len(data)]:
        piece = data[at : at + size]
        used = body.feed(piece)
        if used is not None:
            at += used
            break
        at += len(piece)
    assert data[at:] == b"QUIT" and body.bytes == len(text) and not body.odd_end


@pytest.mark.parametrize(
    ("text", "odd"), [(b"a\n.\nb\r\n", True), (b"a\n.\r\nb\r\n", True), (b"a\r\n.\nb\r\n", True),
     (b"a\r\n.b\r\n", False), (b"\n.x\r\n", False)]
)  # fmt: skip
def test_a_dot_where_servers_differ_is_found(text: bytes, odd: bool, tmp_path: Path) -> None:
    smuggled = talk(HELLO + mail(text=text.decode()) + BYE)
    assert ("smtp.smuggling" in found(read(smuggled, tmp_path))) is odd


OFFER = said("220 mx.example.net ESMTP", "> EHLO pc", "250-mx.example.net\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN")


@pytest.mark.parametrize(
    ("messages", "finding"),
    [
        (OFFER + plain_login(), {"smtp.plain-login": "high", "smtp.auth-in-clear": "low"}),
        (OFFER + mail(), {"smtp.plain-mail": "low"}),
        (OFFER + said("> STARTTLS", "454 4.7.0 Not now"), {"smtp.tls-refused": "medium"}),
        (said("220 mx ESMTP", "> EHLO pc", "250-mx\r\n250-XXXXXXXX\r\n250 SIZE"), {"smtp.masked-extensions": "high"}),
        ([*OFFER, (True, b"STARTTLS\r\nMAIL FROM:<x@y.test>\r\n"), (False, b"220 Go on\r\n")], {"smtp.starttls-injection": "medium"}),
        (said("554 5.7.1 Go away"), {"smtp.no-service": "medium"}),
        (HELLO + said("> AUTH CRAM-MD5", "334 " + b64("<1@mx>"), "> " + b64("bob 0123456789abcdef"), "235 In"),
         {"smtp.plain-login": "low"}),
        (HELLO + plain_login(code=535), {"smtp.refused-login": "info", "smtp.plain-login": "high"}),
        (HELLO + mail(answer="452 4.3.1 Full"), {"smtp.rejected": "low"}),
    ],
)  # fmt: skip
def test_what_should_not_be_is_found(messages: Talk, finding: dict[str, str], tmp_path: Path) -> None:
    report = read(talk(messages), tmp_path)
    assert finding.items() <= found(report).items(), found(report)


def test_encryption_leaves_nothing_to_report(tmp_path: Path) -> None:
    hello: Talk = [(True, b"\x16\x03\x01\x02\x00" + bytes(600)), (False, b"\x16\x03\x03" + bytes(500))]
    offer = said(
        "220 mx.example.net ESMTP", "> EHLO pc", "250-mx.example.net\r\n250 STARTTLS", "> STARTTLS", "220 Go on"
    )
    report = read(talk(offer + hello), tmp_path)
    assert found(report) == {} and report["tls"]["used"] == 1 and report["servers"][0]["encrypted"] == 1
    report = read(talk(hello, server_port=465), tmp_path)
    assert found(report) == {} and report["tls"]["implicit"] == 1 and report["sessions"][0]["tls"] == "implicit"


def test_guessing_is_found_by_how_often_and_how_fast(tmp_path: Path) -> None:
    refused = HELLO + [line for number in range(3) for line in plain_login(f"user{number}", code=535)]
    fast = merged(*(talk(refused, number, start_ns=NOON_NS + number * 10**9) for number in range(3)))
    report = read(fast, tmp_path)
    (finding,) = [finding for finding in report["findings"] if finding.code == "smtp.brute-force"]
    assert "10.0.0.1 guesses its way into 10.0.0.2:25: 9 refused logins with 3 names, 3 connections" in finding.what
    assert report["clients"][0]["refused_logins"] == 9 and report["sessions"][0]["login"] == "refused"
    hit = talk(HELLO + plain_login(), 9, start_ns=NOON_NS + 20 * 10**9)
    assert found(read(merged(fast, hit), tmp_path))["smtp.brute-force-succeeded"] == "critical"
    slow = merged(*(talk(refused, number, start_ns=NOON_NS + number * 10**12) for number in range(3)))
    assert not {"smtp.brute-force", "smtp.brute-force-succeeded"} & set(found(read(merged(slow, hit), tmp_path)))
    spray = merged(
        *(talk(HELLO + plain_login(code=535), number, server=f"10.0.0.{20 + number}") for number in range(6))
    )
    assert found(read(spray, tmp_path))["smtp.spraying"] == "high"


def test_harvesting_and_greylisting_are_told_apart(tmp_path: Path) -> None:
    asked = [
        line for number in range(25) for line in said(f"> RCPT TO:<u{number}@example.net>", "550 5.1.1 No such user")
    ]
    report = read(talk(HELLO + said("> MAIL FROM:<a@example.org>", "250 Fine") + asked), tmp_path)
    assert found(report)["smtp.harvesting"] == found(report)["smtp.rejected"] == "medium"
    assert report["rejections"][0]["count"] == 25 and len(report["rejections"][0]["addresses"]) == 8
    first = (
        HELLO
        + said("> MAIL FROM:<a@example.org>", "250 Fine", "> RCPT TO:<b@example.net>", "450 4.2.0 Greylisted")
        + BYE
    )
    again = talk(HELLO + mail("a@example.org", "b@example.net"), 1, start_ns=NOON_NS + 600 * 10**9)
    report = read(merged(talk(first), again), tmp_path)
    assert (report["put_off"], report["came_back"]) == (1, 1) and "accepted after that: 1." in str(report["findings"])
    assert "smtp.harvesting" not in found(report)


def test_signs_of_an_open_relay_are_weighed(tmp_path: Path) -> None:
    def outside(*recipients: str, client: str = "8.8.4.4", login: bool = False) -> list[Packet]:
        return talk(
            HELLO + (plain_login() if login else []) + mail("x@spam.test", *recipients), client=client, server="9.9.9.9"
        )

    def relay(packets: list[Packet]) -> str | None:
        return found(read(packets, tmp_path)).get("smtp.may-relay")

    assert relay(outside("bob@example.net", "bob@sub.example.net")) is None  # its own domain
    assert relay(outside("a@one.test")) == "info"
    assert relay(outside("a@one.test", "a@two.test", "a@three.test")) == "medium"
    assert relay(outside("a@one.test", login=True)) is None
    assert relay(outside("a@one.test", client="10.1.2.3")) is relay(outside("a@one.test", client="9.9.9.77")) is None
    denied = said("> MAIL FROM:<x@spam.test>", "250 Fine", "> RCPT TO:<a@two.test>", "554 5.7.1 Relay access denied")
    refusing = talk(HELLO + denied, 1, client="8.8.4.4", server="9.9.9.9")
    assert relay(merged(outside("a@one.test"), refusing)) is None
    onward = talk(
        HELLO + mail("x@spam.test", "a@one.test"), 2, client="9.9.9.9", server="1.1.1.1", start_ns=NOON_NS + 10**10
    )
    assert found(read(merged(outside("a@one.test"), onward), tmp_path))["smtp.open-relay"] == "high"
    assert "smtp.open-relay" not in found(read(onward, tmp_path))


def test_starttls_that_only_some_are_offered_is_found(tmp_path: Path) -> None:
    report = read(merged(talk(HELLO + BYE), talk(OFFER + BYE, 1)), tmp_path)
    assert found(report)["smtp.tls-sometimes"] == "medium"
    assert "smtp.tls-sometimes" not in found(read(merged(talk(OFFER), talk(OFFER, 1)), tmp_path))


@pytest.mark.unlike_tshark("it takes that for part of the mail")
def test_what_comes_with_the_end_of_a_mail_is_a_command(tmp_path: Path) -> None:
    """tshark takes it for part of the mail."""
    together: Talk = [
        (True, f"{TEXT}\r\n.\r\nRSET\r\nQUIT\r\n".encode()),
        (False, b"250 Taken\r\n250 Fine\r\n221 Bye\r\n"),
    ]
    report = read(talk(HELLO + mail()[:-2] + together), tmp_path)
    assert commands(report)["RSET"] == commands(report)["QUIT"] == report["mails"]["accepted"] == 1
    assert report["mails"]["bytes"] == len(TEXT) + 2 and report["unknown_commands"] == 0


def test_lmtp_has_an_answer_for_each_recipient(tmp_path: Path) -> None:
    hello = said("220 lmtp.example.net LMTP", "> LHLO pc", "250 lmtp.example.net")
    told = said(
        "> MAIL FROM:<a@b.test>", "250 Fine", "> RCPT TO:<x@c.test>", "250 Fine", "> RCPT TO:<y@c.test>", "250 Fine"
    )
    sent = said("> DATA", "354 Go on", f"> {TEXT}\r\n.", "250 Taken", "452 4.2.2 Full")
    report = read(talk(hello + told + sent + BYE, server_port=24), tmp_path)
    assert report["lmtp"] == 1 and report["mails"]["accepted"] == 1 and codes(report)[452] == 1
    assert {row["command"]: row["failed"] for row in report["commands"]}["DATA"] == 1 and report[
        "unknown_commands"
    ] == 0


@pytest.mark.parametrize(
    "messages",
    [
        [(False, b"220 files FTP ready\r\n"), (True, b"USER bob\r\n"), (False, b"331 And?\r\n"), (True, b"PASS Tr0ub4dor&3\r\n")],
        [(False, b"220 Welcome\r\n"), (True, b"USER bob\r\n"), (False, b"331 And?\r\n"), (True, b"PASS Tr0ub4dor&3\r\n")],
        [(False, b"+OK ready\r\n"), (True, b"USER bob\r\n"), (False, b"+OK\r\n")],
        [(True, b"EHLO \r\n"), (False, b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    ],
)  # fmt: skip
def test_what_is_not_smtp_is_left_alone_on_any_port(messages: Talk, tmp_path: Path) -> None:
    report = read(talk(messages, server_port=4711), tmp_path)
    assert report["conversations"] == report["commands_seen"] == 0 and not report["findings"]


@pytest.mark.parametrize(
    "greeting", [b"220 Welcome\r\n", b"220-Hello\r\n220 there\r\n", b"220 ftp.example.net ESMTP\r\n"]
)
def test_smtp_is_found_on_other_ports_by_what_is_said(greeting: bytes, tmp_path: Path) -> None:
    report = read(talk([(False, greeting), *HELLO[1:], *mail()], server_port=4711), tmp_path)
    assert report["mails"]["accepted"] == 1 and codes(report)[220] == 1 and found(report)["smtp.other-port"] == "info"


@pytest.mark.unlike_tshark("it does not see what the snap length cut off")
def test_what_the_snap_length_cut_off_of_a_mail_counts_all_the_same(tmp_path: Path) -> None:
    whole = read(PACKETS, tmp_path)
    report = read(cut(Capture(PACKETS), 150), tmp_path)
    assert report["mails"]["seen"] == 5 and report["mails"]["accepted"] == 3 and report["coverage"]["truncated"]
    # Of a mail whose end is cut off, the line that ends it counts as part of it.
    assert whole["mails"]["bytes"] <= report["mails"]["bytes"] <= whole["mails"]["bytes"] + 3 * 5
    assert commands(report) == commands(whole)
    shorter = read(cut(Capture(PACKETS), 120), tmp_path)  # without a DATA in a group of commands, but with its 354
    assert shorter["mails"]["accepted"] == 3 and commands(shorter)["DATA"] == 2 and shorter["unknown_commands"] == 1
    for snap_length in range(54, 120, 3):
        assert read(cut(Capture(PACKETS), snap_length), tmp_path)["conversations"] == 4 or snap_length < 64


@pytest.mark.unlike_tshark("it does not say which lines lost packets made two halves of")
def test_lost_packets_spoil_no_more_than_they_must(tmp_path: Path) -> None:
    packets = talk(HELLO + mail() + mail("second@example.org") + BYE)
    for number in range(4, len(packets)):
        report = read([*packets[:number], *packets[number + 1 :]], tmp_path)
        assert report["conversations"] == 1 and report["mails"]["seen"] in {1, 2}
    late = read(packets[20:], tmp_path)
    assert late["conversations"] == 1 and late["commands_seen"] and late["mails"]["accepted"]


@pytest.mark.unlike_tshark("it does not say which lines lost packets made two halves of")
def test_a_mail_whose_begin_and_end_are_lost_ends_with_the_reply(tmp_path: Path) -> None:
    packets = talk(HELLO + mail(text=f"{TEXT}\r\n" * 5) + mail("second@example.org") + BYE, segment_size=60)
    first_go = next(number for number, packet in enumerate(packets) if b"354 Go on" in packet.data)
    first_end = next(number for number, packet in enumerate(packets) if packet.data.endswith(b"\r\n.\r\n"))
    report = read([packet for number, packet in enumerate(packets) if number not in {first_go, first_end}], tmp_path)
    assert report["mails"]["seen"] == 2 and report["mails"]["accepted"] >= 1
    assert commands(report)["QUIT"] == 1 and not report["unknown_commands"]


def test_a_command_without_a_reply_does_not_shift_the_others(tmp_path: Path) -> None:
    report = read(talk(HELLO + said("> NOOP") + plain_login() + mail() + BYE), tmp_path)
    assert report["mechanisms"][0]["accepted"] == report["mails"]["accepted"] == 1


@pytest.mark.unlike_tshark("it takes lines apart that nobody should send")
def test_secrets_that_are_not_where_they_should_be_are_not_shown_either(tmp_path: Path) -> None:
    odd = said(
        f"> {b64(SECRET)}", f"502 {b64(SECRET)}?", f"> AUTH {b64(SECRET)}", "504 No", "> AUTH LOGIN", "334 VXNlcm5hbWU6", f"> {b64('bob')}",
        f"> {b64(SECRET)}", "535 No", f"> AUTH PLAIN {PLAIN}", "334 ", f"> {PLAIN}", "235 In",
    )  # fmt: skip
    report = read(talk(HELLO + odd), tmp_path)
    assert report["mechanisms"] and report["unknown_commands"] == 1
    for size in (1400, 13):
        packets = talk(HELLO + odd, segment_size=size)
        for number in range(4, len(packets)):
            read([*packets[:number], *packets[number + 1 :]], tmp_path)
    for snap_length in range(60, 120, 5):
        read(cut(Capture(packets), snap_length), tmp_path)


def test_host_port_and_time_narrow_the_capture(tmp_path: Path) -> None:
    assert read(PACKETS, tmp_path, Selection(port=587))["conversations"] == 1
    assert read(PACKETS, tmp_path, Selection(addresses=("10.0.0.7",)))["conversations"] == 1
    assert read(PACKETS, tmp_path, Selection(end_ns=NOON_NS))["conversations"] == 0


@pytest.mark.unlike_tshark("it shows names in their whole length")
def test_the_report_of_a_busy_server_fits_into_the_ledger(tmp_path: Path) -> None:
    def busy(number: int) -> list[Packet]:
        name = f"user{number:04d}" + "x" * 60
        lines = said(
            f"220 {name}.test ESMTP " + "hello " * 20, f"> EHLO {name}", f"250-{name}.test\r\n250 AUTH LOGIN"
        ) + plain_login(name)
        sent = mail(f"{name}@example.org", *(f"{name}{n}@example.net" for n in range(20)), answer="550 " + "no " * 60)
        return talk(lines + sent, number, server=f"10.0.{number // 200}.{number % 200 + 2}")

    packets = merged(*(busy(number) for number in range(120)))
    report = read(packets, tmp_path)
    assert len(json.dumps({k: str(v) if k == "findings" else v for k, v in report.items()}, default=str)) < 64 * 1024
    assert report["servers_seen"] == report["users_seen"] == 120 and "Left out" in report["coverage"]["notes"][-1]
    assert len(read(packets, tmp_path, top=3)["latest_mails"]) == 3


# --- fuzz -------------------------------------------------------------------------------------------------------------


_WORDS = st.sampled_from([
    b"220 ESMTP", b"220-", b"EHLO a", b"LHLO b", b"250-STARTTLS", b"250 ", b"MAIL FROM:<", b"RCPT TO:<a@b>", b"DATA", b"354 ", b".",
    b"BDAT 5", b"BDAT 99999999999 LAST", b"AUTH LOGIN", b"AUTH PLAIN AAA=", b"334 ", b"235 ", b"535 ", b"STARTTLS", b"RSET", b"\r\n",
    b"\n", b"\r", b"421 ", b"x" * 3000,
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), _WORDS | st.binary(max_size=40), st.integers(0, 9)), max_size=60),
    st.integers(0, 1),
)
def test_any_bytes_are_read_to_the_end(pieces: list[tuple[bool, bytes, int]], standard: int) -> None:
    book = SmtpBook()
    info = StreamInfo(0, "10.0.0.1", 50_000, "10.0.0.2", 25 if standard else 4711, NOON_NS, handshake=True)
    stream = SmtpStream(info, book)
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


def test_addresses_chunks_and_names_are_read_as_they_may_be_written() -> None:
    assert parse_path(b"TO: bob@Example.NET") == "bob@example.net" and parse_path(b"hello") is None
    assert parse_path(b'FROM:<"a >b"@c.test> SIZE=1') == '"a >b"@c.test'
    assert parse_chunk(b"") is parse_chunk(b"-1 LAST") is parse_chunk(b"9" * 40) is None and parse_chunk(b"0 last") == (
        0,
        True,
    )
    assert sasl_user("PLAIN", b"!!!", None) == sasl_user("PLAIN", b64(SECRET).encode(), b"") == ""
    for prompt in (b"", b64("Password:").encode(), b"!"):
        assert sasl_user("LOGIN", b64(SECRET).encode(), prompt) == ""
    assert sasl_user("LOGIN", b64("bob").encode(), b64("User Name\0").encode()) == "bob"
    assert sasl_user("XOAUTH2", b64("user=bob@x.test\x01auth=Bearer y\x01\x01").encode(), None) == "bob@x.test"
    assert (
        from_outside("8.8.4.4", "10.0.0.1")
        and not from_outside("192.168.1.1", "8.8.4.4")
        and not from_outside("?", "::1")
    )
    assert (
        STREAMS.matches(b"220 ftp.example.net ESMTP")
        and STREAMS.matches(b"220 mx ESMTP")
        and not STREAMS.matches(b"220 FTP")
        and not STREAMS.matches(b"HTTP/1.1")
    )


# --- real servers -----------------------------------------------------------------------------------------------------


def send(
    port: int, *, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None, to: str = "bob@example.net"
) -> None:
    with smtplib.SMTP("127.0.0.1", port, "pc.example.org", timeout=10) as client:
        if tls:
            client.starttls(context=tls)
        if login:
            client.login(*login)
        with contextlib.suppress(smtplib.SMTPRecipientsRefused):
            client.sendmail("ann@example.org", [to], f"Subject: x\r\n\r\n{TEXT}\r\n.dot\r\n" * 200)


def fail(port: int, times: int, *methods: str) -> None:
    for number in range(times):
        with smtplib.SMTP("127.0.0.1", port, "pc.example.org", timeout=10) as client:
            client.ehlo()
            client.user, client.password = f"user{number}", SECRET
            for method in methods:
                with pytest.raises(smtplib.SMTPAuthenticationError):
                    client.auth(method, getattr(client, f"auth_{method.lower()}"))


@records
@needs_tshark
@pytest.mark.lab
async def test_real_servers_are_read_and_tshark_agrees(tmp_path: Path, perform: Perform) -> None:
    authority = Authority()
    store = CaptureStore(folder=tmp_path / "evidence")
    path = store.new("lab/smtp.pcap")
    trust = ssl.create_default_context(cadata=authority.pem)
    refuse = {"gone@example.net": "550 5.1.1 no such user"}
    with (
        MailServerLab(refuse=refuse) as plain,
        MailServerLab(users={"bob": SECRET}) as asking,
        MailServerLab(tls=authority.server(), mode="starttls", users={"bob": SECRET}) as sealed,
    ):
        ports = [plain.port, asking.port, sealed.port]
        async with recording(path, " or ".join(f"tcp port {port}" for port in ports)):
            await asyncio.to_thread(send, plain.port)
            await asyncio.to_thread(send, plain.port, to="gone@example.net")
            await asyncio.to_thread(send, asking.port, login=("bob", SECRET))
            await asyncio.to_thread(fail, asking.port, 4, "PLAIN", "LOGIN")
            await asyncio.to_thread(send, sealed.port, tls=trust, login=("bob", SECRET))
    assert sealed.messages and plain.messages
    store.commit(path)
    report: SmtpReport = await perform(smtp_analyzer, {"capture": "lab/smtp.pcap", "top": 50}, store=store)
    checked(report.model_dump(mode="json"))
    assert (report.conversations, report.servers_seen) == (8, 3)
    assert report.tls.model_dump() == {"offered": 1, "used": 1, "refused": 0, "implicit": 0}
    assert (report.mails.seen, report.mails.accepted, report.mails.rejected) == (3, 2, 1)
    assert {row.mechanism: (row.attempts, row.refused) for row in report.mechanisms} == {
        "PLAIN": (5, 4),
        "LOGIN": (4, 4),
    }
    assert {row.address: row.rejected for row in report.recipients} == {"bob@example.net": 0, "gone@example.net": 1}
    found = {finding.code: finding.severity.value for finding in report.findings}
    assert found["smtp.plain-login"] == found["smtp.brute-force"] == "high" and found["smtp.plain-mail"] == "low"
    assert report.headline().startswith("8 SMTP conversations, 3 servers, 3 readable mails, 1 refused; ")
    assert report.banner_times.count == 8 and report.reply_times.count
    agree(store.path("lab/smtp.pcap"))


async def test_a_capture_that_is_not_there_or_none_is_refused(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "evidence")
    store.write("notes/a.txt", b"nothing of this is a capture")
    with pytest.raises(NotFound):
        await perform(smtp_analyzer, {"capture": "lab/none.pcap"}, store=store)
    with pytest.raises(InvalidParameters):
        await perform(smtp_analyzer, {"capture": "notes/a.txt"}, store=store)
