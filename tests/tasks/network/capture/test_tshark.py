"""tshark on captures with known content: typed rows, statistics that agree with tshark's own, masked secrets, wrong input."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, NotFound, ToolTimeout
from tasks.core.models import Safety
from tasks.core.process import find_program, run_command
from tasks.network.capture import _tshark_modes as modes
from tasks.network.capture import _tshark_program as program
from tasks.network.capture._tshark_fields import FieldInfo, is_secret_field, iso_time
from tasks.network.capture._tshark_output import Lines, Stream
from tasks.network.capture.tshark import Tshark, TsharkResult, tshark
from tests.lab.network import needs_lab, processes_of

Perform = Callable[..., Awaitable[Any]]

START = 1_700_000_000.0
CLIENT, SERVER = "10.0.0.5", "10.0.0.9"
HTTP = b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\nCookie: sid=topsecret\r\n\r\n"


def conversation(client_port: int, port: int, said: list[tuple[bool, bytes]], at: float) -> list[Packet]:
    """A TCP conversation as packets; `said` is (whether the client says it, what)."""
    packets: list[Packet] = []
    sequence = {True: 1000, False: 5000}

    def add(up: bool, flags: str, data: bytes = b"") -> None:
        source, target = (CLIENT, SERVER) if up else (SERVER, CLIENT)
        ports = {"sport": client_port, "dport": port} if up else {"sport": port, "dport": client_port}
        segment = TCP(**ports, flags=flags, seq=sequence[up], ack=sequence[not up] if flags != "S" else 0)
        frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=source, dst=target) / segment / data
        frame.time = at + len(packets) / 100
        packets.append(frame)
        sequence[up] += len(data) + ("S" in flags) + ("F" in flags)

    add(True, "S")
    add(False, "SA")
    add(True, "A")
    for up, data in said:
        add(up, "PA", data)
    add(True, "FA")
    return packets


def office() -> list[Packet]:
    """A little of everything."""
    packets = conversation(
        40000, 80, [(True, HTTP), (False, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe\0lo")], START
    )
    login = [(False, b"220 hi\r\n"), (True, b"USER bob\r\n"), (True, b"PASS hunter2\r\n")]
    packets += conversation(40001, 21, login, START + 1)
    packets += conversation(40002, 9999, [(True, b"USER bob\r\nPASS hun"), (True, b"ter2\r\n")], START + 1.5)
    telnet = [(False, b"$ bob\r\nPassword: "), (True, b"hun"), (True, b"ter2\r\n")]
    packets += conversation(40003, 23, telnet, START + 1.7)
    redis = [(True, b"*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n*2\r\n$3\r\nGET\r\n$3\r\nbob\r\n")]
    packets += conversation(40004, 6379, redis, START + 1.8)
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for i in range(3):
        name = f"h{i}.example"
        ask = link / IP(src=CLIENT, dst="10.0.0.53") / UDP(sport=5000 + i, dport=53) / DNS(id=i, qd=DNSQR(qname=name))
        said = DNS(
            id=i,
            qr=1,
            qd=DNSQR(qname=name),
            an=[DNSRR(rrname=name, rdata="1.2.3.4"), DNSRR(rrname=name, rdata="1.2.3.5")],
        )
        answer = link / IP(src="10.0.0.53", dst=CLIENT) / UDP(sport=53, dport=5000 + i) / said
        ask.time, answer.time = START + 2 + i, START + 2.1 + i
        packets += [ask, answer]
    lost = IP(src=CLIENT, dst="10.0.0.99") / UDP(sport=6000, dport=7) / Raw(b"x" * 40)
    refused = link / IP(src="10.0.0.99", dst=CLIENT) / ICMP(type=3, code=3) / lost
    big = [
        Dot1Q(vlan=7) / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=9, dport=9) / Raw(b"y" * 1400) for _ in range(20)
    ]
    rest = [link / lost, refused, *[Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / one for one in big]]
    rest.append(link / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest())
    for i, packet in enumerate(rest):
        packet.time = START + 10 + i / 10
    return packets + rest


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    store = CaptureStore(folder=tmp_path / "evidence")
    keep(store, "office.pcap", office())
    return store


def keep(store: CaptureStore, name: str, packets: list[Packet]) -> None:
    path = store.new(name)
    wrpcap(str(path), packets)
    store.commit(path)


@pytest.fixture
def ask(perform: Perform, store: CaptureStore) -> Callable[..., Awaitable[TsharkResult]]:
    async def run(**params: Any) -> TsharkResult:
        given = {"capture": "office.pcap"} | params
        result: TsharkResult = await perform(tshark, given, store=store)
        return result

    return run


async def by_hand(store: CaptureStore, *arguments: str) -> str:
    """What plain tshark says."""
    argv = [find_program("tshark"), "-n", "-r", store.path("office.pcap"), *arguments]
    return (await run_command(argv, timeout=60)).stdout.decode()


Ask = Callable[..., Awaitable[TsharkResult]]


# --- what is found -------------------------------------------------------------------------------------------------------


async def test_rows_have_the_fields_asked_for_with_their_types(ask: Ask) -> None:
    fields = [
        "frame.number",
        "frame.time_epoch",
        "ip.src",
        "dns.qry.name",
        "dns.a",
        "dns.flags.response",
        "dns.time",
        "udp.checksum",
    ]
    result = await ask(display_filter="dns.flags.response == 1", fields=fields)
    assert [column.kind for column in result.columns] == [
        "integer",
        "time",
        "text",
        "text",
        "text",
        "boolean",
        "number",
        "integer",
    ]
    assert (result.total, result.left_out, len(result.rows)) == (3, 0, 3)
    number, at, source, name, addresses, response, took, checksum = result.rows[0]
    assert at == "2023-11-14T22:13:22.100000000Z" and isinstance(number, int) and isinstance(checksum, int)
    assert (source, name, addresses, response) == ("10.0.0.53", "h0.example", ["1.2.3.4", "1.2.3.5"], True)
    assert took == pytest.approx(0.1)
    assert result.headline() == "3 packets"


async def test_by_default_a_row_is_what_wireshark_s_packet_list_shows(ask: Ask) -> None:
    result = await ask(display_filter="dns")
    assert [column.name for column in result.columns][-1] == "_ws.col.Info"
    assert result.rows[0][2:5] == [CLIENT, "10.0.0.53", "DNS"] and "h0.example" in str(result.rows[0][-1])


async def test_what_does_not_fit_is_left_out_and_counted(ask: Ask) -> None:
    everything = await ask(fields=["frame.number"])
    few = await ask(fields=["frame.number"], rows=5)
    assert (few.total, len(few.rows), few.left_out) == (everything.total, 5, everything.total - 5)
    small = await ask(fields=["frame.number", "frame.protocols"], result_bytes=1024)
    assert 0 < len(small.rows) < everything.total == small.total and small.left_out == small.total - len(small.rows)
    assert f"{len(small.rows)} of them here" in small.headline()


async def test_the_hierarchy_agrees_with_tshark(ask: Ask, store: CaptureStore) -> None:
    result = await ask(mode="hierarchy")
    listed = re.findall(
        r"^ *(\S+) +frames:(\d+) bytes:(\d+)$", await by_hand(store, "-q", "-z", "io,phs"), re.MULTILINE
    )
    assert [(row.path.rpartition(":")[2], str(row.frames), str(row.size_bytes)) for row in result.hierarchy] == listed
    assert {"eth:ip:tcp:http", "eth:vlan:ethertype:ip:udp"} & {row.path for row in result.hierarchy}
    assert sum(row.frames for row in result.hierarchy if ":" not in row.path) == len(office())


@pytest.mark.parametrize("layer", ["eth", "ip", "ipv6", "tcp", "udp"])
async def test_conversations_agree_with_tshark_and_their_bytes_are_exact(
    ask: Ask, store: CaptureStore, layer: str
) -> None:
    result = await ask(mode="conversations", layer=layer)
    theirs = {}
    for line in (await by_hand(store, "-q", "-z", f"conv,{layer}")).splitlines():
        if match := re.match(r"(\S+) +<-> (\S+) +(\d+) (\S+) (\S+) +(\d+) (\S+) (\S+) +(\d+) ", line):
            theirs[frozenset((match[1], match[2]))] = (int(match[9]), {int(match[3]), int(match[6])})
    ours = {}
    for row in result.conversations:
        ends = [
            f"{address}:{port}" if port else address for address, port in ((row.a, row.a_port), (row.b, row.b_port))
        ]
        ours[frozenset(ends)] = (row.packets_ab + row.packets_ba, {row.packets_ab, row.packets_ba})
    assert ours == theirs and ours
    sizes = [row.bytes_ab + row.bytes_ba for row in result.conversations]
    assert sizes == sorted(sizes, reverse=True)
    if layer == "udp":
        big = next(row for row in result.conversations if row.a == "10.1.0.1")
        assert (big.bytes_ab, big.bytes_ba) == (20 * (14 + 4 + 20 + 8 + 1400), 0)
        assert sum(row.a_port == 6000 for row in result.conversations) == 1, "what an ICMP error quotes was sent once"


@pytest.mark.parametrize("layer", ["eth", "ip", "tcp"])
async def test_endpoints_agree_with_tshark(ask: Ask, store: CaptureStore, layer: str) -> None:
    result = await ask(mode="endpoints", layer=layer)
    lines = (await by_hand(store, "-q", "-z", f"endpoints,{layer}")).splitlines()
    theirs = {tuple(line.split()) for line in lines if re.search(r"( +\d+){6} *$", line)}
    ours = set()
    for row in result.endpoints:
        numbers = (
            row.packets,
            row.size_bytes,
            row.sent_packets,
            row.sent_bytes,
            row.received_packets,
            row.received_bytes,
        )
        ours.add((row.address, *([str(row.port)] if row.port else []), *(str(number) for number in numbers)))
    assert ours == theirs and ours


async def test_expert_information_agrees_with_tshark_and_names_frames(ask: Ask, store: CaptureStore) -> None:
    result = await ask(mode="expert")
    listed = await by_hand(store, "-q", "-z", "expert")
    theirs = re.findall(r"^ +(\d+) +(\S+) +(\S+)  (.+)$", listed, re.MULTILINE)
    assert sorted((str(row.count), row.group.title(), row.message) for row in result.expert) == sorted(
        (count, group, message) for count, group, _, message in theirs
    )
    syn = next(row for row in result.expert if "(SYN): server port 80" in row.message)
    assert (syn.severity, syn.frames, syn.protocol) == ("chat", [1], "TCP")
    ranks = ["error", "warning", "note", "comment", "chat"]
    assert [ranks.index(row.severity) for row in result.expert] == sorted(
        ranks.index(row.severity) for row in result.expert
    )


async def test_a_filter_narrows_every_statistic(ask: Ask) -> None:
    expression = "ip.addr in {10.1.0.1, 10.1.0.2}"
    hierarchy = await ask(mode="hierarchy", display_filter=expression)
    assert hierarchy.hierarchy[0].frames == 20
    assert (await ask(mode="conversations", layer="udp", display_filter=expression)).total == 1
    assert (await ask(mode="endpoints", display_filter=expression)).total == 2
    assert (await ask(mode="expert", display_filter=expression)).total == 0
    assert (await ask(display_filter="frame.number > 10000")).total == 0


async def test_a_stream_is_followed_with_sides_frames_and_times(ask: Ask) -> None:
    result = await ask(mode="follow", stream=1)
    assert result.stream is not None
    assert (result.stream.client, result.stream.server) == (f"{CLIENT}:40001", f"{SERVER}:21")
    assert (result.stream.client_bytes, result.stream.server_bytes) == (24, 8)
    first = result.stream.segments[0]
    assert (first.frame, first.from_client, first.text, first.size_bytes) == (10, False, "220 hi\n", 8)
    assert first.at.timestamp() == pytest.approx(START + 1.03)
    small = await ask(mode="follow", stream=0, result_bytes=1024, rows=1)
    assert small.left_out == 1 and len(small.stream.segments) == 1


async def test_ports_can_be_read_as_something_else(ask: Ask) -> None:
    result = await ask(mode="hierarchy", decode_as=["tcp.port==21,http"])
    assert all("ftp" not in row.path for row in result.hierarchy)


# --- secrets ---------------------------------------------------------------------------------------------------------------

SECRETS = (
    "YWRtaW46c2VjcmV0",
    "topsecret",
    "hunter2",
    "hun",
    "ter2",
    b"topsecret".hex(),
    HTTP.hex(),
    b"hun".hex(),
    b"hunter2".hex(":"),
)
CREDENTIALS = ["_ws.col.Info", "http.authorization", "http.authbasic", "http.cookie", "http.cookie_pair", "http.request.line",
               "ftp.request.command", "ftp.request.arg", "tcp.payload"]  # fmt: skip


@pytest.mark.parametrize(
    "params",
    [
        {"fields": CREDENTIALS},
        {"fields": ["ftp.request.arg", "http.authorization"], "display_filter": "ftp || http"},
        {"mode": "expert"},
        {"mode": "follow", "stream": 0},
        {"mode": "follow", "stream": 1},
        {"mode": "follow", "stream": 2},
        {"mode": "follow", "stream": 3},
        {"mode": "follow", "stream": 4},
        {"fields": ["resp.bulk_string.value", "tcp.payload"], "display_filter": "resp"},
        {"fields": ["tcp.payload", "telnet.data"], "display_filter": "telnet"},
        {"fields": ["data.data"], "decode_as": ["tcp.port==23,data"]},
        {"mode": "follow", "stream": 0, "protocol": "http"},
    ],
)
async def test_no_secret_is_shown(ask: Ask, params: dict[str, Any]) -> None:
    shown = (await ask(**params)).model_dump_json()
    assert not [secret for secret in SECRETS if secret in shown]
    assert "***" in shown or params.get("mode") == "expert"
    assert "bob" in shown or "fields" not in params or len(params["fields"]) < 3


async def test_reveal_shows_them_and_counts_as_a_change(ask: Ask) -> None:
    result = await ask(fields=CREDENTIALS, reveal=True)
    assert "YWRtaW46c2VjcmV0" in result.model_dump_json() and "PASS" in result.model_dump_json()
    assert "topsecret" in (await ask(mode="follow", stream=0, reveal=True)).model_dump_json()
    assert Tshark(capture="x", reveal=True).safety() is Safety.CHANGE
    assert Tshark(capture="x").safety() is Safety.READ
    assert Tshark(interface="lo", filter="tcp").safety() is Safety.PROBE


def test_fields_that_hold_secrets_are_known_by_their_names() -> None:
    for name in ("http.authorization", "http2.headers.set_cookie", "snmp.community", "ldap.simple", "imap.request.password",
                 "smtp.auth.username_password", "pgsql.password", "mqtt.passwd", "telnet.data", "tds.login.password",
                 "sip.auth.digest.response"):  # fmt: skip
        assert is_secret_field(name), name
    for name in (
        "ip.src",
        "dns.qry.name",
        "tcp.stream",
        "http.host",
        "dhcp.option.type",
        "_ws.col.Info",
        "bgp.community_prefix",
    ):
        assert not is_secret_field(name), name


@pytest.mark.parametrize("kind", ["FT_STRING", "FT_BYTES", "FT_UINT32"])
def test_whatever_such_a_field_holds_is_masked_as_a_whole(kind: str) -> None:
    assert FieldInfo("snmp.community", kind, "").value("70", reveal=False) == "***"
    assert FieldInfo("snmp.community", kind, "").value("70", reveal=True) != "***"
    assert FieldInfo("snmp.version", kind, "").value("70", reveal=False) != "***"


# --- wrong input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"display_filter": "ip.src =="}, "Unexpected end of filter"),
        ({"display_filter": "ip.foo == 1"}, "ip.foo"),
        ({"display_filter": 'http.host matches "("'}, "parenthesis"),
        ({"fields": ["ip.srcs", "frame.number"]}, "no field 'ip.srcs'. Near: ip.src"),
        ({"fields": ["nosuch.thing"]}, "no field 'nosuch.thing'"),
        ({"fields": []}, "fields"),
        ({"fields": ["ip.src; rm"]}, "fields"),
        ({"decode_as": ["tcp.port==80,nosuch"]}, "Unknown protocol"),
        ({"decode_as": ["-o x"]}, "decode_as"),
        ({"mode": "follow"}, "follow needs stream"),
        ({"stream": 1}, "stream is for the mode follow"),
        ({"mode": "follow", "stream": 1, "display_filter": "tcp"}, "no display_filter"),
        ({"interface": "lo"}, "not both"),
        ({"capture": None}, "either capture"),
        ({"capture": None, "interface": "lo"}, "needs a filter"),
        ({"capture": None, "interface": "nosuch0", "filter": "tcp"}, "no interface 'nosuch0'"),
        ({"capture": "../../etc/passwd"}, "not a name in the store"),
    ],
)
async def test_what_is_wrong_is_said_with_the_reason(ask: Ask, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=re.escape(said)):
        await ask(**params)


async def test_a_wrong_display_filter_is_found_before_anything_is_recorded(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.network.capture._source.record", lambda **_: pytest.fail("it recorded"))
    with pytest.raises(InvalidParameters, match="tshark"):
        await ask(capture=None, interface="lo", filter="tcp", display_filter="ip.src ==")


async def test_a_stream_or_a_capture_that_is_not_there_is_not_found(ask: Ask) -> None:
    with pytest.raises(NotFound, match="no tcp stream 77"):
        await ask(mode="follow", stream=77)
    with pytest.raises(NotFound, match=r"no capture other\.pcap"):
        await ask(capture="other.pcap")


async def test_a_capture_that_is_cut_off_is_read_to_where_it_ends(ask: Ask, store: CaptureStore) -> None:
    whole = store.path("office.pcap").read_bytes()
    store.write("cut.pcap", whole[:500])
    for mode in ("hierarchy", "conversations", "expert"):
        result = await ask(capture="cut.pcap", mode=mode)
        assert program.CUT_SHORT in result.notes, mode
    assert result.mode == "expert" and result.total > 0


async def test_files_that_are_no_captures_and_empty_ones_are_told_apart(ask: Ask, store: CaptureStore) -> None:
    store.write("noise.pcap", os.urandom(300))
    with pytest.raises(InvalidParameters, match="capture"):
        await ask(capture="noise.pcap")
    store.write("header.pcap", store.path("office.pcap").read_bytes()[:24])
    assert (await ask(capture="header.pcap")).total == 0


async def test_without_tshark_the_hint_says_how_to_get_it(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install tshark"):
        await ask()


async def test_a_deadline_ends_tshark_and_says_so(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "READING_SECONDS", 0.01)
    with pytest.raises(ToolTimeout, match=r"tshark did not finish"):
        await ask()
    assert not processes_of("tshark")


async def test_too_little_memory_is_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MEMORY_BYTES", 120 << 20)
    with pytest.raises(CommandFailed):
        await ask(mode="hierarchy")


# --- how it runs -----------------------------------------------------------------------------------------------------------


async def test_tshark_has_no_privileges_and_no_profile(
    store: CaptureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A user's Lua script would run in every tshark of theirs.
    home = tmp_path / "home"
    (home / ".local/lib/wireshark/plugins").mkdir(parents=True)
    (home / ".local/lib/wireshark/plugins/spy.lua").write_text(f"io.open('{home}/ran', 'w'):close()")
    monkeypatch.setenv("HOME", str(home))
    script = tmp_path / "tshark"
    script.write_text("#!/bin/sh\nid -u\ngrep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status\nenv\n")
    script.chmod(0o755)
    # An account without rights must find the script; pytest's folders are for their owner alone, how many there are depends on its workers.
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    await program.read_capture(store.path("office.pcap"), ["-T", "fields", "-e", "frame.number"], timeout=60)
    assert not (home / "ran").exists()
    monkeypatch.setattr(program, "find_tshark", lambda: str(script))
    said = (await program.read_capture(store.path("office.pcap"), [], timeout=60)).stdout.decode()
    assert "HOME=/nonexistent" in said and "NoNewPrivs:\t1" in said
    if os.geteuid() == 0:
        assert (
            said.startswith("65534\n") and "CapEff:\t0000000000000000" in said and "CapBnd:\t0000000000000000" in said
        )


async def test_a_cancel_leaves_no_tshark_behind(ask: Ask, store: CaptureStore) -> None:
    whole = store.path("office.pcap").read_bytes()
    store.write("long.pcap", whole[:24] + whole[24:] * 2000)
    reading = asyncio.ensure_future(ask(capture="long.pcap", mode="conversations"))
    for _ in range(400):
        await asyncio.sleep(0.01)
        if processes_of("tshark") or processes_of("/usr/bin/tshark"):
            break
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not processes_of("tshark") and not processes_of("/usr/bin/tshark")


@pytest.mark.lab
@needs_lab
async def test_live_traffic_is_recorded_and_read(ask: Ask) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def talk() -> None:
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await asyncio.sleep(0.05)

    talking = asyncio.ensure_future(talk())
    try:
        result = await ask(
            capture=None,
            interface="lo",
            filter=f"tcp port {port}",
            duration=20,
            packets=12,
            mode="conversations",
            layer="tcp",
        )
    finally:
        talking.cancel()
        server.close()
    assert sum(row.packets_ab + row.packets_ba for row in result.conversations) == 12
    # Which end is A depends on the packet that was seen first: of a talk that was going on, an answer.
    assert all(port in (row.a_port, row.b_port) for row in result.conversations)
    assert any("Recorded 12 packets" in note for note in result.notes)


# --- parts -----------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_output_in_any_pieces_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    lines: list[bytes] = []
    cutter = Lines(lines.append)
    bounds = [0, *sorted(cuts), len(data)]
    for first, last in pairwise(bounds):
        cutter.feed(data[first:last])
    assert lines == data.split(b"\n")[:-1]


def test_a_line_that_is_too_long_is_left_out_and_counted_and_the_others_are_not() -> None:
    lines: list[bytes] = []
    cutter = Lines(lines.append, longest=10)
    for piece in (b"one\n" + b"x" * 9, b"x" * 9, b"x" * 9 + b"\n\ntwo\n" + b"y" * 11 + b"\nthr", b"ee\n" + b"z" * 20):
        cutter.feed(piece)
    assert lines == [b"one", b"", b"two", b"three"] and cutter.dropped == 3


async def test_a_field_that_holds_a_whole_download_costs_its_row_alone(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "Lines", lambda take: Lines(take, longest=250))
    result = await ask(fields=["frame.number", "tcp.payload"])
    assert 0 < result.total == len(result.rows)
    assert any("1 packets were left out" in note for note in result.notes)


@given(st.text(max_size=300))
def test_any_text_is_a_stream_or_none(text: str) -> None:
    Stream.read(
        "peers:\n  - peer: 0\n    host: a\n    port: 1\npackets:\n  - packet: 1\n    peer: 0\n    data: !!binary |\n      "
        + text
    )


def test_times_keep_their_nanoseconds() -> None:
    assert iso_time("1700000000.000000001") == "2023-11-14T22:13:20.000000001Z"
    assert iso_time("Jan  1, 1970 00:00:00.000000000 UTC") == "1970-01-01T00:00:00.000000000Z"
    assert iso_time("Not representable") == "Not representable"


async def test_a_long_stream_is_masked_without_keeping_everybody_else_waiting(perform: Perform, tmp_path: Path) -> None:
    lines = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\nCookie: sid=topsecret%d\r\n\r\n" % (n, n) for n in range(900))
    store = CaptureStore(folder=tmp_path / "store")
    path = store.new("long.pcap", expected_bytes=20 << 20)
    wrpcap(str(path), conversation(40000, 80, [(True, lines[:50_000])] * 200, START))
    store.commit(path)
    longest, done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not done:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    result = await perform(tshark, {"capture": "long.pcap", "mode": "follow", "stream": 0}, store=store)
    done = True
    await watching
    assert result.stream.client_bytes == 200 * 50_000 and "topsecret" not in result.model_dump_json()
    assert "***" in result.stream.segments[0].text
    assert longest < 0.7
