"""ngrep: what it finds agrees with tshark, what it shows has no secrets, and no pattern or payload makes it run for ever."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import InvalidParameters, MissingProgram, NotFound, Refused, Unsupported
from tasks.core.models import Safety
from tasks.network.capture._pattern import check_pattern
from tasks.network.capture.ngrep import Ngrep, NgrepResult, ngrep
from tests.lab.captures import (
    Capture,
    Packet,
    as_fragments,
    as_null,
    as_ppp,
    as_raw_ip,
    as_vlan,
    merged,
    needs_tshark,
    tcp,
    tcp_talk,
    tshark_fields,
    udp,
    write_pcap,
    write_pcapng,
)

Perform = Callable[..., Awaitable[Any]]

pytestmark = pytest.mark.skipif(
    shutil.which("ngrep", path=process.search_path()) is None, reason="needs ngrep: apt install ngrep"
)


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


@pytest.fixture
def search(perform: Perform, store: CaptureStore) -> Callable[..., Awaitable[NgrepResult]]:
    """Search a capture made of packets."""

    async def search(packets: Capture | list[Packet] | bytes, pattern: str, **more: Any) -> NgrepResult:
        if not isinstance(packets, bytes):
            capture = packets if isinstance(packets, Capture) else Capture(packets)
            packets = write_pcap(capture, store.folder.parent / "made.pcap").read_bytes()
        name = f"c{len(store.files())}.pcap"
        store.write(name, packets)
        policy = ProbePolicy()
        result = await perform(ngrep, {"capture": name, "pattern": pattern, **more}, store=store, policy=policy)
        assert isinstance(result, NgrepResult)
        assert not list((store.folder / ".incoming").iterdir()), "what ngrep found is left behind"
        return result

    return search


Search = Callable[..., Awaitable[NgrepResult]]

WEB = tcp_talk(
    [
        (True, b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nCookie: session=topsecret1\r\n\r\n"),
        (False, b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\n\x00\x01\xff\n"),
    ]
)


# --- what is found ---------------------------------------------------------------------------------------------------


async def test_a_match_is_shown_with_its_surroundings_and_its_frame(search: Search) -> None:
    result = await search(WEB, r"HTTP/1\.[01] 5\d\d", context=22)
    (match,) = result.matches
    assert (result.found, result.conversations, result.complete) == (1, 1, True)
    assert (match.frame, match.protocol) == (6, "tcp")
    assert (match.source, match.source_port, match.destination, match.destination_port) == (
        "10.0.0.2",
        80,
        "10.0.0.1",
        50_000,
    )
    assert (match.before, match.match, match.after) == ("", "HTTP/1.1 500", " Internal Server Error")
    assert result.headline() == "1 packet matches in 1 conversation"


async def test_binary_payload_is_shown_safely(search: Search) -> None:
    packets = [Packet(10**18, udp("10.0.0.1", 5000, "10.0.0.2", 6000, b"\x1b[2Jname\x00\xff\x7f<b>\r\n\xc3\xa9"))]
    (match,) = (await search(packets, "name")).matches
    assert (match.before, match.match, match.after) == ("\\x1b[2J", "name", "\\x00\\xff\\x7f<b>\né")


async def test_what_does_not_match_is_not_searched_again_for_what_it_has_not(search: Search) -> None:
    packets = [Packet(10**18, udp("10.0.0.1", 5000, "10.0.0.2", 6000, b"ab" * 2500)) for _ in range(4)]
    packets.append(Packet(10**18, udp("10.0.0.1", 5000, "10.0.0.2", 6000, b"aQ")))
    # Two unbounded repetitions: the time of a search in vain is the cube of the length.
    result = await asyncio.wait_for(search(packets, "a.*b.*Q", invert=True), 20)
    assert result.found == len(result.matches) == 5 and result.matches[0].match == ""


@needs_tshark
@pytest.mark.parametrize(
    "made", ["pcap", "nanosecond", "big-endian", "pcapng", "vlan", "raw", "null", "ppp", "fragments"]
)
async def test_the_same_packets_are_found_as_by_tshark(search: Search, tmp_path: Path, made: str) -> None:
    packets = merged(
        WEB,
        tcp_talk(
            [(True, b"needle one"), (False, b"hay"), (True, b"NEEDLE two needle")], client="10.0.0.9", server_port=7777
        ),
        [
            Packet(1_700_000_000_000_000_000 + n, udp("fd00::1", 99, "fd00::2", 53, b"x" * n + b"needle"))
            for n in range(5)
        ],
    )
    capture, path = Capture(packets), tmp_path / "x"
    wrap: dict[str, Callable[[Capture], Capture]] = {
        "vlan": as_vlan, "raw": as_raw_ip, "null": as_null, "ppp": as_ppp,
        "fragments": lambda capture: as_fragments(capture, 64),
    }  # fmt: skip
    if made == "pcapng":
        write_pcapng([capture], path, resolutions=(6,))
    else:
        write_pcap(
            wrap.get(made, lambda same: same)(capture),
            path,
            nanosecond=made == "nanosecond",
            big_endian=made == "big-endian",
        )
    result = await search(path.read_bytes(), "needle", most=500)
    frames = [
        int(row[0])
        for row in tshark_fields(path, 'tcp.payload contains "needle" or udp.payload contains "needle"', "frame.number")
    ]
    assert [match.frame for match in result.matches] == frames and result.found == len(frames) == 7
    assert all(match.match == "needle" for match in result.matches)


async def test_case_words_inversion_and_hexadecimal(search: Search) -> None:
    packets = [
        Packet(10**18 + n, udp("10.0.0.1", 1, "10.0.0.2", 2, text))
        for n, text in enumerate([b"a cat sat", b"concatenate", b"CAT", b"dog \x16\x03\x01"])
    ]

    async def found(pattern: str, **more: Any) -> list[int]:
        return [match.frame for match in (await search(packets, pattern, **more)).matches]

    assert await found("cat") == [1, 2]
    assert await found("cat", ignore_case=True) == [1, 2, 3]
    assert await found("cat", word=True, ignore_case=True) == [1, 3]
    assert await found("cat", invert=True) == [3, 4]
    assert await found("16 03 01", hexadecimal=True) == [4]
    assert await found("0x1603", hexadecimal=True) == [4]


async def test_host_port_and_filter_narrow_the_search(search: Search) -> None:
    packets = [Packet(10**18 + n, udp(f"10.0.0.{n}", 1000 + n, "10.0.0.100", 53, b"needle")) for n in range(1, 5)]
    assert [m.frame for m in (await search(packets, "needle", host="10.0.0.3")).matches] == [3]
    assert [m.frame for m in (await search(packets, "needle", port=1002)).matches] == [2]
    assert [m.frame for m in (await search(packets, "needle", filter="src port 1001 or src port 1004")).matches] == [
        1,
        4,
    ]
    tagged = [m.frame for m in (await search(as_vlan(Capture(packets)), "needle", host="10.0.0.3")).matches]
    assert tagged == [3]
    assert (await search(as_raw_ip(Capture(packets)), "needle", host="10.0.0.3")).complete
    # A pattern that is also a filter stays a pattern.
    assert (await search(packets, "udp")).found == 0


async def test_what_is_too_much_to_show_is_counted(search: Search) -> None:
    packets = [
        Packet(10**18 + n * 1000, udp("10.0.0.1", n, "10.0.0.2", 53, b"needle" + b"y" * 900)) for n in range(1, 600)
    ]
    result = await search(packets, "needle", most=10)
    assert (len(result.matches), result.found, result.conversations) == (10, 599, 599)
    assert any("589 more matching packets are not shown" in note for note in result.notes)
    result = await search(packets, "needle", most=500, context=1000)
    assert 10 < len(result.matches) < 60 and len(result.model_dump_json()) < 64_000


async def test_the_same_packet_twice_in_a_microsecond_is_found_twice(search: Search) -> None:
    twin = udp("10.0.0.1", 7, "10.0.0.2", 53, b"needle")
    result = await search(
        [Packet(10**18, twin), Packet(10**18, twin), Packet(10**18 + 1, udp("10.0.0.1", 7, "10.0.0.2", 53, b"hay"))],
        "needle",
    )
    assert [match.frame for match in result.matches] == [1, 2]


async def test_a_capture_that_is_cut_off_is_searched_to_its_end(search: Search, tmp_path: Path) -> None:
    whole = write_pcap(Capture([*WEB, *WEB]), tmp_path / "x").read_bytes()
    result = await search(whole[:-30], "HTTP/1.1 500")
    assert result.found == 2
    assert any("cut off" in note for note in result.notes)


async def test_an_empty_capture_matches_nothing(search: Search) -> None:
    result = await search([], "x")
    assert (result.found, result.matches, result.headline()) == (0, (), "No packet matches")


# --- secrets ---------------------------------------------------------------------------------------------------------

TALKS = {
    "http": (80, [(True, b"POST /login HTTP/1.1\r\nAuthorization: Basic Ym9iOmh1bnRlcjI=\r\nX: marker\r\n\r\nuser=bob&password=hunter2")]),
    "form": (80, [(True, b"marker user=bob&password=hunter2&x=1")]),
    "token": (80, [(True, b"GET /a?access_token=hunter2&b=1 HTTP/1.1\r\nX: marker\r\n\r\n")]),
    "set-cookie": (80, [(False, b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=hunter2; Path=/\r\nX: marker\r\n\r\n")]),
    "ftp": (21, [(True, b"USER bob marker\r\nPASS hunter2\r\n")]),
    "pop": (110, [(True, b"USER marker\r\n"), (False, b"+OK\r\n"), (True, b"PASS hunter2\r\n")]),
    "imap": (143, [(True, b"a1 LOGIN marker hunter2\r\n")]),
    "telnet line": (23, [(False, b"marker\r\nPassword: "), (True, b"hunter2\r\n")]),
    "telnet": (23, [(False, b"marker\r\nPassword: "), *((True, b"%c" % one) for one in b"hunter2\r\n")]),
    "smtp": (25, [(True, b"EHLO marker\r\nAUTH PLAIN AGJvYgBodW50ZXIy\r\n")]),
}  # fmt: skip


@pytest.mark.parametrize("talk", TALKS)
async def test_secrets_are_not_shown(search: Search, talk: str) -> None:
    port, messages = TALKS[talk]
    for pattern in ("marker", "."):
        result = await search(tcp_talk(messages, server_port=port), pattern, context=1000)
        text = "".join(match.before + match.match + match.after for match in result.matches)
        assert "marker" in text and "hunter2" not in result.model_dump_json()
        assert "Ym9iOmh1bnRlcjI" not in text and "AGJvYgBodW50ZXIy" not in text
    assert "***" in text


@pytest.mark.parametrize("segment_size", [1, 5, 30, 60])
async def test_a_secret_that_is_spread_over_packets_is_not_shown(search: Search, segment_size: int) -> None:
    secret = b"QZJKVYWQZJKVYWQZJKVYWQZJKVYWQZJKVYWQZJKVYW"  # letters that stand nowhere else
    request = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + secret + b"\r\nAccept: */*\r\n\r\n"
    packets = tcp_talk([(True, request)], segment_size=segment_size)
    packets = [*packets[:3], *reversed(packets[3:-4]), *packets[5:9], *packets[-4:]]  # out of order, and some twice
    packets = [Packet(10**18 + n * 1000, packet.data) for n, packet in enumerate(packets)]
    result = await search(packets, ".", most=500, context=1000)
    shown = "".join(match.before + match.match + match.after for match in result.matches)
    assert result.found >= len(request) // segment_size and "***" in shown
    assert not set(secret.decode()) & set(shown.replace("***", ""))
    assert "Host" in shown if segment_size > 20 else "H" in shown


async def test_the_match_itself_is_masked(search: Search) -> None:
    (match,) = (await search(tcp_talk([(True, b"PASS hunter2\r\n")], server_port=21), "hunter2")).matches
    assert "hunter2" not in match.model_dump_json() and "***" in match.match


async def test_revealing_is_a_change_which_policy_may_forbid(
    perform: Perform, store: CaptureStore, search: Search
) -> None:
    assert Ngrep(capture="x", pattern="y", reveal=True).safety() is Safety.CHANGE
    packets = tcp_talk([(True, b"PASS hunter2\r\n")], server_port=21)
    result = await search(packets, "PASS", reveal=True)
    assert result.revealed and result.matches[0].after.startswith(" hunter2")
    with pytest.raises(Refused, match=r"ceiling|change"):
        await perform(
            ngrep,
            {"capture": "c0.pcap", "pattern": "PASS", "reveal": True},
            store=store,
            policy=ProbePolicy(ceiling="probe"),
        )


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "GET /", r"(?:GET|POST|PUT) /\S* HTTP", r"^HTTP/1\.[01] 5\d\d", r"User-Agent: .*curl", r"(?:[a-z]+\.)+com",
        r"(?:\d{1,3}\.){3}\d{1,3}", r"Host: [^\r\n]+\r\n", "(?i)password", r"\x16\x03[\x00-\x04]", "(foo|bar)+", "(?:[^;]*;)*end",
        r"[a-z0-9._%-]+@[a-z0-9.-]+\.[a-z]{2,6}", ".*login.*", "(?<=a)b(?!c)", r"(\d|\w)+!", "(?:one|two|three)+x",
        r"a\{,3}b", "[{,3}]", "[]{,3}]", r"[^]\]{,}]", "a{1,3}b", "a{2,}", "{a,3}",
    ],
)  # fmt: skip
def test_an_ordinary_pattern_passes(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a|a+)*b", "(a|aa)+$", r"(\w+\s?)*$", "(.*,)*x", "(.*a){20}", ".*.*.*x", "(a*)*", "([a-z]+)*=", "foo(a+)+[bc]",
        "(x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"\s*\s*\s*,", "(?=(a+)+b)x", "(a{1,200}){1,200}b", "(?i)(a+A)+b", r"(a+?)+?$",
        "(?:a?){40}", "(a*)(.*)(.*)b",
    ],
)  # fmt: skip
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidParameters, match="take for ever"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a{2",
        r"(a)\1",
        "(?R)",
        r"\Qa\E",
        "[[:digit:]]",
        r"\K",
        "*",
        "(?P<a>x)(?(a)y)",
        "a{,3}b",
        "[x{,3}]{,3}",
        r"\\{,}",
    ],
)
async def test_what_is_no_pattern_of_both_languages_is_refused(perform: Perform, pattern: str) -> None:
    if pattern == "a{2":  # a literal in both
        check_pattern(pattern)
        return
    with pytest.raises(InvalidParameters, match="pattern"):
        await perform(ngrep, {"capture": "x.pcap", "pattern": pattern})


@pytest.mark.parametrize("pattern", ["(a|b|ab)*c", "(.*a){12}$", "(a+)+[bc]"])
async def test_ngrep_itself_is_asked_with_packets_that_are_hard(
    perform: Perform, pattern: str, monkeypatch: pytest.MonkeyPatch, store: CaptureStore
) -> None:
    """The second line: with the first taken away, a costly pattern is noticed before anything is captured, or does no harm."""
    store.write("x.pcap", write_pcap(Capture(WEB), store.folder.parent / "x").read_bytes())
    monkeypatch.setattr("tasks.network.capture.ngrep.check_pattern", lambda *_, **__: None)
    async with asyncio.timeout(60):
        outcome = await asyncio.gather(
            perform(ngrep, {"capture": "x.pcap", "pattern": pattern}, store=store), return_exceptions=True
        )
    if isinstance(outcome[0], Exception):
        with pytest.raises(InvalidParameters, match=r"take for ever|costly"):
            raise outcome[0]
    else:
        assert outcome[0].complete


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pattern": "x"}, "either capture"),
        ({"interface": "lo", "pattern": "x"}, "needs a filter"),
        ({"capture": "x", "pattern": "zz", "hexadecimal": True}, "hexadecimal"),
        ({"capture": "x", "pattern": "16", "hexadecimal": True, "word": True}, "either word or hexadecimal"),
        ({"capture": "x", "pattern": "a\0b"}, "NUL"),
        ({"capture": "x", "pattern": ""}, "pattern"),
    ],
)
async def test_a_wrong_search_says_what_would_be_right(perform: Perform, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidParameters, match=says):
        await perform(ngrep, given)


async def test_what_is_not_there_or_not_readable_is_told(perform: Perform, store: CaptureStore, search: Search) -> None:
    with pytest.raises(NotFound, match="no capture nosuch"):
        await perform(ngrep, {"capture": "nosuch.pcap", "pattern": "x"}, store=store)
    with pytest.raises(InvalidParameters, match=r"is wrong: .*syntax error"):
        await search(WEB, "x", filter="tcp prot 80")
    with pytest.raises(Unsupported, match="link layer"):
        await search(Capture([Packet(1, bytes(60))], link=230), "x")
    assert not list((store.folder / ".incoming").iterdir())


async def test_a_missing_ngrep_is_named(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install ngrep"):
        await perform(ngrep, {"capture": "x", "pattern": "y"})


async def test_random_packets_do_no_harm(search: Search) -> None:
    import random

    rng = random.Random(7)
    packets = [Packet(10**18 + n, rng.randbytes(rng.randrange(120))) for n in range(400)]
    packets += [
        Packet(10**18 + 1000 + n, tcp("10.0.0.1", 80, "10.0.0.2", 90, rng.randbytes(50))[: rng.randrange(100)])
        for n in range(400)
    ]
    result = await search(packets, r"[\x00-\x7f]", most=500)
    assert result.found >= len(result.matches) > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="capturing needs CAP_NET_RAW")
@pytest.mark.parametrize("interface", ["lo", "any"])
async def test_live_traffic_is_captured_and_searched(perform: Perform, store: CaptureStore, interface: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 503 Busy\r\nSet-Cookie: id=hunter2\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n")
            await reader.read()
            writer.close()
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        asked = {"interface": interface, "port": port, "filter": "inbound", "packets": 60, "duration": 20}
        asked["pattern"] = r"^HTTP/1\.0 5\d\d"
        result = await perform(ngrep, asked, store=store, policy=ProbePolicy(capture_interfaces=["lo", "any"]))
    finally:
        asking.cancel()
        server.close()
    assert result.found >= 3 and result.capture.name.startswith("ngrep/") and store.path(result.capture.name).exists()
    assert all(match.source_port == port and match.match == "HTTP/1.0 503" for match in result.matches)
    assert "hunter2" not in result.model_dump_json()
