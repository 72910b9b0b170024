"""tcpflow: streams are what was said, byte for byte; within their limits; and shown without secrets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import Busy, CommandFailed, InvalidParameters, MissingProgram, NotFound, Unsupported
from tasks.core.models import Safety
from tasks.network.capture._tcpflow_index import guess
from tasks.network.capture.tcpflow import Tcpflow, TcpflowResult, tcpflow
from tests.lab.captures import (
    Capture,
    Packet,
    as_cooked,
    as_cooked_2,
    as_ppp,
    as_raw_ip,
    as_vlan,
    cut,
    merged,
    needs_tshark,
    tcp_talk,
    tshark,
    udp,
    write_pcap,
    write_pcapng,
)
from tests.lab.network import processes_of

Perform = Callable[..., Awaitable[Any]]

pytestmark = pytest.mark.skipif(
    shutil.which("tcpflow", path=process.search_path()) is None, reason="needs tcpflow: apt install tcpflow"
)

RNG = random.Random(11)
PICTURE = b"\x89PNG\r\n\x1a\n" + RNG.randbytes(20_000)
SAID = [
    (True, b"GET /picture HTTP/1.1\r\nHost: a\r\nAuthorization: Basic Ym9iOmh1bnRlcjI=\r\n\r\n"),
    (False, b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + PICTURE),
]
WEB = tcp_talk(SAID)
SSH = tcp_talk(
    [(False, b"SSH-2.0-OpenSSH_9.2\r\n"), (True, b"SSH-2.0-x\r\n")], client="fd00::1", server="fd00::2", server_port=22
)
TRAFFIC = merged(WEB, SSH, [Packet(WEB[0].time_ns + 5, udp("10.0.0.1", 5, "10.0.0.2", 6, b"no stream"))])


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


@pytest.fixture
def reassemble(perform: Perform, store: CaptureStore) -> Callable[..., Awaitable[TcpflowResult]]:
    """Reassemble the streams of a capture made of packets."""

    async def reassemble(packets: Capture | list[Packet] | bytes, **more: Any) -> TcpflowResult:
        if not isinstance(packets, bytes):
            capture = packets if isinstance(packets, Capture) else Capture(packets)
            packets = write_pcap(capture, store.folder.parent / "made.pcap").read_bytes()
        name = f"c{len(store.files())}.pcap"
        store.write(name, packets)
        result = await perform(tcpflow, {"capture": name, **more}, store=store)
        assert isinstance(result, TcpflowResult)
        assert not list((store.folder / ".incoming").iterdir()), "something is left behind"
        return result

    return reassemble


Reassemble = Callable[..., Awaitable[TcpflowResult]]


def contents(store: CaptureStore, result: TcpflowResult) -> dict[str, bytes]:
    """The files of the archive by their name; the index is checked against them."""
    assert result.archive is not None
    with zipfile.ZipFile(store.path(result.archive.name)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(files.pop("index.json"))
    assert [entry["file"] for entry in index] == list(files)
    assert [entry["sha256"] for entry in index] == [hashlib.sha256(data).hexdigest() for data in files.values()]
    return files


def said(messages: list[tuple[bool, bytes]], from_client: bool) -> bytes:
    return b"".join(data for client, data in messages if client is from_client)


# --- what comes out --------------------------------------------------------------------------------------------------


async def test_each_stream_is_what_was_said_byte_for_byte(reassemble: Reassemble, store: CaptureStore) -> None:
    result = await reassemble(TRAFFIC)
    files = contents(store, result)
    assert (result.found, result.kept, result.left_out, result.missing_bytes, result.complete) == (4, 4, 0, 0, True)
    by_source = {(stream.source, stream.source_port): stream for stream in result.streams}
    server, client = by_source["10.0.0.2", 80], by_source["10.0.0.1", 50_000]
    assert files[server.file] == said(SAID, from_client=False) and files[client.file] == said(SAID, from_client=True)
    assert (server.kind, client.kind, by_source["fd00::2", 22].kind) == ("HTTP response", "HTTP request", "SSH")
    assert result.streams[0] == server  # the largest first
    assert server.size_bytes == len(said(SAID, from_client=False)) and not server.cut
    assert server.started_at.year == 2024
    assert f"signalbox capture save {result.archive.name} FILE" in result.notes[-1]  # type: ignore[union-attr]
    assert store.usage() == sum(entry.size_bytes for entry in store.files())


async def test_what_comes_out_of_order_or_twice_is_put_in_order_once(
    reassemble: Reassemble, store: CaptureStore
) -> None:
    middle = WEB[3:-3]
    shuffled = [middle[at ^ 1] if at ^ 1 < len(middle) else middle[at] for at in range(len(middle))]
    packets = [*WEB[:3], *shuffled, *middle[3:8], *WEB[-3:]]
    packets = [Packet(WEB[0].time_ns + at * 1000, packet.data) for at, packet in enumerate(packets)]
    files = contents(store, await reassemble(packets))
    assert sorted(files.values(), key=len) == [said(SAID, from_client=True), said(SAID, from_client=False)]


@needs_tshark
@pytest.mark.parametrize("made", ["pcap", "nanosecond", "big-endian", "pcapng", "vlan", "raw", "ppp", "cooked"])
async def test_streams_agree_with_tsharks_own_in_every_format(
    reassemble: Reassemble, store: CaptureStore, tmp_path: Path, made: str
) -> None:
    capture, path = Capture(TRAFFIC), tmp_path / "x"
    wrap: dict[str, Callable[[Capture], Capture]] = {
        "vlan": as_vlan,
        "raw": as_raw_ip,
        "ppp": as_ppp,
        "cooked": as_cooked,
    }
    if made == "pcapng":
        write_pcapng([capture], path, resolutions=(6,))
    else:
        wrapped = wrap.get(made, lambda same: same)(capture)
        write_pcap(wrapped, path, nanosecond=made == "nanosecond", big_endian=made == "big-endian")
    result = await reassemble(path.read_bytes(), filter="tcp", port=80)
    # tshark writes the server's bytes indented, the client's not.
    lines = tshark("-q", "-r", str(path), "-z", "follow,tcp,raw,0").splitlines()
    web = [line for line in lines if line.strip("\t") and set(line.strip()) <= set("0123456789abcdef")]
    server = bytes.fromhex("".join(line.strip() for line in web if line.startswith("\t")))
    client = bytes.fromhex("".join(line for line in web if not line.startswith("\t")))
    assert {server, client} == set(contents(store, result).values()) and result.found == 2


async def test_host_port_and_filter_choose_conversations(reassemble: Reassemble) -> None:
    assert {stream.source for stream in (await reassemble(TRAFFIC, host="fd00::1")).streams} == {"fd00::1", "fd00::2"}
    assert (await reassemble(TRAFFIC, port=80)).found == 2
    assert (await reassemble(TRAFFIC, filter="src port 80")).found == 1
    nothing = await reassemble(TRAFFIC, port=9)
    assert (nothing.found, nothing.archive, nothing.headline()) == (0, None, "No TCP conversation with data")


async def test_a_filter_that_begins_with_a_minus_is_a_filter_and_no_option(reassemble: Reassemble) -> None:
    # Without link layer there are no tags, so the filter is given as it is.
    raw = as_raw_ip(Capture(TRAFFIC))
    assert (await reassemble(raw, filter="-len != 0")).found == (await reassemble(raw)).found > 0


async def test_a_second_conversation_between_the_same_ports_is_another_stream(
    reassemble: Reassemble, store: CaptureStore
) -> None:
    again = tcp_talk([(True, b"again")], start_ns=WEB[0].time_ns + 10**10)
    files = contents(store, await reassemble(merged(WEB, again)))
    assert len(files) == 3 and b"again" in files.values()


# --- what is missing, what is too much -------------------------------------------------------------------------------


async def test_bytes_that_are_not_in_the_capture_are_told(reassemble: Reassemble) -> None:
    short = await reassemble(cut(Capture(TRAFFIC), 200))
    assert short.missing_bytes > 10_000 and any("zeros stand for them" in note for note in short.notes)
    lost = await reassemble([packet for at, packet in enumerate(WEB) if at != 8])
    assert lost.missing_bytes == 1400


async def test_a_capture_that_is_cut_off_is_read_to_its_end(reassemble: Reassemble, tmp_path: Path) -> None:
    result = await reassemble(write_pcap(Capture(TRAFFIC), tmp_path / "x").read_bytes()[:-20])
    assert result.found == 4 and any("middle of a packet" in note or "cut off" in note for note in result.notes)


async def test_the_number_and_the_size_of_streams_are_bounded(reassemble: Reassemble, store: CaptureStore) -> None:
    talks = [
        tcp_talk([(True, bytes([n]) * (100 * n))], client_port=1000 + n, start_ns=WEB[0].time_ns + n)
        for n in range(1, 41)
    ]
    result = await reassemble(merged(*talks), streams=10, stream_bytes=2048, top=5)
    assert (result.found, result.kept, result.left_out, len(result.streams)) == (40, 10, 30, 5)
    assert all(stream.cut and stream.size_bytes == 2048 for stream in result.streams)
    assert all(len(data) == 2048 for data in contents(store, result).values())
    assert any("30 streams" in note for note in result.notes) and any(
        "cut off at 2,048" in note for note in result.notes
    )


async def test_more_than_all_streams_may_take_ends_the_reassembly(reassemble: Reassemble, store: CaptureStore) -> None:
    # Each conversation claims a megabyte of which the capture has the end only: a small capture that unpacks to much.
    talks = []
    for n in range(60):
        talk = tcp_talk([(True, b"a"), (True, b"z")], client_port=1000 + n, start_ns=WEB[0].time_ns + n)
        last = next(at for at, packet in enumerate(talk) if packet.data.endswith(b"z"))
        data = bytearray(talk[last].data)
        data[38:42] = (int.from_bytes(data[38:42], "big") + 1_000_000).to_bytes(4, "big")
        talks.append([*talk[:last], Packet(talk[last].time_ns, bytes(data))])
    result = await reassemble(merged(*talks), total_bytes=1 << 20)
    assert result.stream_bytes <= 1 << 20 and result.left_out > 0
    assert store.usage() < 1 << 20


async def test_a_store_without_room_is_told_before_anything_is_written(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "small", quota_bytes=1 << 20)
    store.write("c.pcap", write_pcap(Capture(TRAFFIC), tmp_path / "x").read_bytes())
    with pytest.raises(Busy, match=r"full.*signalbox capture prune"):
        await perform(tcpflow, {"capture": "c.pcap"}, store=store)
    assert [entry.name for entry in store.files()] == ["c.pcap"]


# --- secrets, guesses ------------------------------------------------------------------------------------------------


async def test_the_index_shows_no_secret_and_no_control_character(reassemble: Reassemble, store: CaptureStore) -> None:
    talks = [
        tcp_talk([(True, b"PASS hunter2\r\n")], client_port=1, server_port=21),
        tcp_talk([(True, b"GET /?token=hunter2 HTTP/1.1\r\n\r\n")], client_port=2),
        tcp_talk([(False, b"Password: "), (True, b"hunter2\r\n")], client_port=4, server_port=23),
        tcp_talk([(True, b"\x1b[2J\x00hello\r\n")], client_port=3),
    ]
    result = await reassemble(merged(*talks))
    with zipfile.ZipFile(store.path(result.archive.name)) as archive:  # type: ignore[union-attr]
        index = archive.read("index.json").decode()
    for text in (index, result.model_dump_json()):
        assert "hunter2" not in text and "***" in text and "\x1b" not in text and "\\\\x1b[2J\\\\x00hello" in text
    assert "PASS ***" in {stream.begins.strip() for stream in result.streams}


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP request"), (b"HTTP/1.0 404 Not", "HTTP response"), (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"SSH-2.0-OpenSSH\r\n", "SSH"), (b"220 mail ESMTP Postfix\r\n", "SMTP server"), (b"EHLO me\r\n", "SMTP client"),
        (b"220 (vsFTPd 3.0)\r\n", "FTP server"), (b"+OK ready\r\n", "POP3 server"), (b"* OK IMAP4rev1\r\n", "IMAP server"),
        (b"%PDF-1.7", "PDF"), (PICTURE, "PNG image"), (b"PK\x03\x04", "ZIP archive"), (b'{"a": 1}', "JSON"),
        (b"<!DOCTYPE html>", "HTML"), (b"plain words", "text"), ("Größe".encode(), "text"), (b"\x00\x01\x02", "binary"),
        (b"RTSP/1.0 200 OK", "RTSP response"), (b"DESCRIBE rtsp://a", "RTSP request"), (b"", "nothing"),
    ],
)  # fmt: skip
def test_what_a_stream_carries_is_guessed_by_its_beginning(beginning: bytes, kind: str) -> None:
    assert guess(beginning) == kind


# --- failures --------------------------------------------------------------------------------------------------------


def test_reading_is_reading_and_listening_is_a_probe() -> None:
    assert Tcpflow(capture="x").safety() is Safety.READ
    assert Tcpflow(interface="lo", port=80).safety() is Safety.PROBE
    assert Tcpflow(interface="lo", port=80).snap_length == 65_535


async def test_what_cannot_be_reassembled_is_told(
    perform: Perform, store: CaptureStore, reassemble: Reassemble
) -> None:
    with pytest.raises(NotFound, match="no capture nosuch"):
        await perform(tcpflow, {"capture": "nosuch.pcap"}, store=store)
    with pytest.raises(InvalidParameters, match=r"is wrong: .*syntax error"):
        await reassemble(TRAFFIC, filter="tcp prot 80")
    with pytest.raises(InvalidParameters, match="needs a filter"):
        await perform(tcpflow, {"interface": "lo"}, store=store)
    with pytest.raises(Unsupported, match="link layer"):
        await reassemble(as_cooked_2(Capture(TRAFFIC)))
    assert not list((store.folder / ".incoming").iterdir())


async def test_a_missing_tcpflow_is_named(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install tcpflow"):
        await perform(tcpflow, {"capture": "x"})


async def test_an_empty_capture_and_random_packets_do_no_harm(reassemble: Reassemble) -> None:
    assert (await reassemble([])).found == 0
    rng = random.Random(3)
    packets = [Packet(10**18 + n, rng.randbytes(rng.randrange(120))) for n in range(300)]
    for at, packet in enumerate(WEB * 3):
        data = bytearray(packet.data)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        packets.append(Packet(10**18 + 1000 + at, bytes(data)))
    result = await reassemble(packets)
    assert result.kept == result.found - result.left_out


@pytest.fixture
def impostor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tcpflow found before the real one, which says who it is and fails."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # a test's own folders are closed to other accounts
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tcpflow").write_text("#!/bin/sh\nid -u >&2; grep CapEff /proc/self/status >&2; exit 3\n")
        (folder / "tcpflow").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
@pytest.mark.usefixtures("impostor")
async def test_tcpflow_has_no_privileges(reassemble: Reassemble) -> None:
    with pytest.raises(CommandFailed, match="65534; CapEff: 0000000000000000"):
        await reassemble(TRAFFIC)


@pytest.mark.skipif(os.geteuid() != 0, reason="capturing needs CAP_NET_RAW")
async def test_live_traffic_is_captured_and_reassembled(perform: Perform, store: CaptureStore) -> None:
    body = random.Random(5).randbytes(30_000)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = {"interface": "lo", "port": port, "duration": 2}
    running = asyncio.create_task(perform(tcpflow, asked, store=store))
    async with asyncio.timeout(20):
        while not list((store.folder / ".incoming").glob("*/**/*.pcap")):
            await asyncio.sleep(0.02)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n")
        assert (await reader.read()).endswith(body)
        writer.close()
    result = await running
    server.close()
    assert result.found == 6 and result.missing_bytes == 0
    answers = [data for data in contents(store, result).values() if len(data) > 1000]
    assert answers == [b"HTTP/1.0 200 OK\r\n\r\n" + body] * 3
    assert processes_of("tcpflow") == [] and processes_of("tcpdump") == []
