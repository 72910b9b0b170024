"""tcpdump: real packets on loopback and in the lab, and every way a capture can end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blocks import _reservation
from blocks._pcap import measure
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import Busy, Conflict, InvalidParameters, MissingProgram, Refused
from tasks.network.capture._sink import PcapSink
from tasks.network.capture.tcpdump import Tcpdump, TcpdumpResult, tcpdump
from tasks.network.scan._privilege import HOW_TO_GET_IT
from tests.lab.network import CISCO, Lab, needs_lab, processes_of

Perform = Callable[..., Awaitable[Any]]

needs_tcpdump = pytest.mark.skipif(
    shutil.which("tcpdump", path=process.search_path()) is None or os.geteuid() != 0,
    reason="capturing needs tcpdump and CAP_NET_RAW",
)
live = pytest.mark.usefixtures("traffic")


@pytest.fixture
def port() -> Iterator[int]:
    """A port of our own on loopback that takes datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        yield receiver.getsockname()[1]


@pytest.fixture
async def traffic(port: int) -> AsyncIterator[None]:
    """A hundred datagrams of 1,000 bytes a second to that port, while the test runs."""

    async def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while True:
                sender.sendto(bytes(1000), ("127.0.0.1", port))
                await asyncio.sleep(0.01)

    sending = asyncio.create_task(send())
    yield
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


def read_back(path: Path) -> list[str]:
    """What tcpdump itself reads in a file; fails on a file that is cut off."""
    done = subprocess.run(["tcpdump", "-n", "-q", "-r", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "truncated" not in done.stderr, done.stderr
    return done.stdout.splitlines()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def being_written(store: CaptureStore) -> int:
    """Bytes of the captures under way."""
    return sum(path.stat().st_size for path in (store.folder / ".incoming").glob("*/**/*.pcap"))


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"interface": "lo"}, "needs a filter or a host"),
        ({"interface": "lo", "filter": "  "}, "needs a filter or a host"),
        ({"interface": "lo", "host": "::1", "duration": 1801}, "1800"),
        ({"interface": "lo", "host": "::1", "size_bytes": (100 << 20) + 1}, "104857600"),
        ({"interface": "lo", "host": "::1", "snap_length": 20}, "64"),
        ({"interface": "lo", "host": "::1", "ring_files": 10, "size_bytes": 100_000}, "ring"),
        ({"interface": "lo", "host": "::1", "name": "../x.pcap"}, "pattern"),
        ({"interface": "lo", "host": "10.0.0.0/8"}, "single hosts"),
    ],
)
async def test_a_capture_without_bounds_is_refused_before_it_starts(
    perform: Perform, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidParameters, match=says):
        await perform(tcpdump, given)


def test_defaults_are_modest() -> None:
    params = Tcpdump(interface="eth0", host="192.168.1.7", port=443, filter="tcp or udp")
    assert (params.duration, params.packets, params.size_bytes, params.snap_length) == (60, 10_000, 50 << 20, 256)
    assert params.bpf() == "host 192.168.1.7 and port 443 and (tcp or udp)"
    assert params.about() == "eth0: host 192.168.1.7 and port 443 and (tcp or udp)"


@needs_tcpdump
@live
async def test_a_filter_may_say_which_way_packets_go(perform: Perform, store: CaptureStore, port: int) -> None:
    asked = {"interface": "lo", "filter": f"inbound and udp port {port}", "packets": 5, "duration": 30}
    assert (await perform(tcpdump, asked, store=store)).captured == 5


async def test_an_interface_that_does_not_exist_is_named_with_those_that_do(perform: Perform) -> None:
    with pytest.raises(InvalidParameters, match=r"no interface 'nosuch0'.* There are: .*\blo\b"):
        await perform(tcpdump, {"interface": "nosuch0", "filter": "icmp"})


async def test_the_policy_names_the_interfaces_and_any_must_be_named_itself(perform: Perform) -> None:
    for policy, interface in (
        (ProbePolicy(), "any"),
        (ProbePolicy(capture_interfaces=[]), "lo"),
        (ProbePolicy(capture_interfaces=["eth*"]), "lo"),
    ):
        with pytest.raises(Refused, match="capture_interfaces"):
            await perform(tcpdump, {"interface": interface, "filter": "icmp"}, policy=policy)


async def test_the_policy_may_allow_less_than_the_maximum(perform: Perform) -> None:
    policy = ProbePolicy(capture_max_seconds=5, capture_max_packets=10, capture_max_snap_length=64)
    with pytest.raises(
        Refused, match=r"duration 60 .*at most 5.*packets 10,000 .*at most 10.*snap_length 256"
    ) as caught:
        await perform(tcpdump, {"interface": "lo", "filter": "icmp"}, policy=policy)
    assert "size_bytes" not in str(caught.value)


@needs_tcpdump
async def test_a_wrong_filter_is_an_error_with_tcpdumps_reason(perform: Perform, store: CaptureStore) -> None:
    with pytest.raises(InvalidParameters, match=r"'tcp prot 80' is wrong: .*syntax error"):
        await perform(tcpdump, {"interface": "lo", "filter": "tcp prot 80"}, store=store)
    assert store.usage() == 0


async def test_a_missing_tcpdump_is_named(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="tcpdump is not installed"):
        await perform(tcpdump, {"interface": "lo", "filter": "icmp"})


# --- captures --------------------------------------------------------------------------------------------------------


@needs_tcpdump
@live
async def test_a_capture_ends_with_its_packets_and_says_what_it_has(
    perform: Perform, store: CaptureStore, port: int
) -> None:
    result: TcpdumpResult = await perform(
        tcpdump, {"interface": "lo", "filter": f"udp port {port}", "packets": 20, "duration": 30}, store=store
    )
    assert (result.captured, result.ended_by, result.dropped, result.link_type) == (20, "packets", 0, "EN10MB")
    assert result.received is not None and result.received >= 20
    assert result.first_at is not None and result.last_at is not None and result.first_at <= result.last_at
    stored = result.files[0]
    assert stored == stored.model_copy(update=store.describe(stored.name)._asdict())
    lines = read_back(store.path(stored.name))
    assert len(lines) == 20 and all(f"127.0.0.1.{port}: UDP, length 1000" in line for line in lines)
    # 14 + 20 + 8 + 1000 bytes on the wire, of which the snap length keeps 256
    assert stored.size_bytes == 24 + 20 * (16 + 256)
    assert result.notes == (f"To get it: signalbox capture save {stored.name} FILE",)
    assert processes_of("tcpdump") == [] and list((store.folder / ".incoming").iterdir()) == []


@needs_tcpdump
@live
async def test_a_capture_ends_with_its_duration(perform: Perform, store: CaptureStore, port: int) -> None:
    result = await perform(tcpdump, {"interface": "lo", "port": port, "duration": 1}, store=store)
    assert result.ended_by == "duration" and result.seconds >= 1
    assert 0 < result.captured == len(read_back(store.path(result.files[0].name)))


@needs_tcpdump
@pytest.mark.parametrize("snap_length", [256, 65_535])
async def test_a_capture_has_its_last_moment_too(
    perform: Perform, store: CaptureStore, port: int, snap_length: int
) -> None:
    sent: list[float] = []

    async def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while True:
                sender.sendto(b"x", ("127.0.0.1", port))
                sent.append(time.time())
                await asyncio.sleep(0.005)

    sending = asyncio.create_task(send())
    asked = {"interface": "lo", "port": port, "duration": 1.5, "snap_length": snap_length}
    result = await perform(tcpdump, asked, store=store)
    sending.cancel()
    first, last = result.first_at.timestamp(), result.last_at.timestamp()
    assert result.captured == pytest.approx(sum(first - 0.002 < moment < last + 0.002 for moment in sent), abs=2)
    # All that was sent while it listened is there.
    assert not [moment for moment in sent if last + 0.05 < moment < first + 1.4]
    assert result.ended_by == "duration"


@needs_tcpdump
@live
async def test_a_capture_ends_with_its_size_and_never_exceeds_it(
    perform: Perform, store: CaptureStore, port: int
) -> None:
    asked = {"interface": "lo", "port": port, "size_bytes": 1 << 16, "snap_length": 65_535, "duration": 30}
    result = await perform(tcpdump, asked, store=store)
    assert result.ended_by == "size" and result.size_bytes <= 1 << 16
    assert result.captured == ((1 << 16) - 24) // (16 + 1042) == len(read_back(store.path(result.files[0].name)))


@needs_tcpdump
async def test_a_capture_that_heard_nothing_is_an_empty_file(perform: Perform, store: CaptureStore) -> None:
    result = await perform(
        tcpdump, {"interface": "lo", "filter": "udp port 9 and udp port 7", "duration": 1}, store=store
    )
    assert result.captured == 0 and result.first_at is None and "Nothing passed the filter." in result.notes
    assert read_back(store.path(result.files[0].name)) == []


@needs_tcpdump
@live
async def test_a_ring_keeps_the_latest_packets_within_its_size(
    perform: Perform, store: CaptureStore, port: int
) -> None:
    asked = {"interface": "lo", "port": port, "size_bytes": 3 << 16, "ring_files": 3, "snap_length": 1500}
    result = await perform(tcpdump, {**asked, "packets": 260, "duration": 60, "name": "ring/one.pcap"}, store=store)
    each = ((1 << 16) - 24) // (16 + 1042)
    assert [file.name for file in result.files] == [f"ring/one-000{n}.pcap" for n in (3, 4, 5)]
    assert result.size_bytes <= 3 << 16
    assert result.captured + result.overwritten == 260 and result.overwritten == 2 * each
    lines = [line for file in result.files for line in read_back(store.path(file.name))]
    assert len(lines) == result.captured
    assert lines == sorted(lines)  # they begin with their time
    assert store.usage() == result.size_bytes


@needs_tcpdump
@live
async def test_all_interfaces_at_once_are_captured_where_policy_names_any(
    perform: Perform, store: CaptureStore, port: int
) -> None:
    policy = ProbePolicy(capture_interfaces=["any"])
    asked = {"interface": "any", "filter": f"udp port {port}", "packets": 5, "duration": 30}
    result = await perform(tcpdump, asked, store=store, policy=policy)
    assert result.captured == 5 and result.link_type == "LINUX_SLL2"
    assert len(read_back(store.path(result.files[0].name))) == 5
    with pytest.raises(InvalidParameters, match="is wrong"):
        await perform(tcpdump, {**asked, "filter": "ether host 00:11:22:33:44:55"}, store=store, policy=policy)


@needs_tcpdump
async def test_a_name_is_used_once(perform: Perform, store: CaptureStore) -> None:
    store.write("mine.pcap", b"x")
    with pytest.raises(Conflict, match=r"mine\.pcap already"):
        await perform(tcpdump, {"interface": "lo", "filter": "icmp", "name": "mine.pcap"}, store=store)
    with pytest.raises(Conflict, match=r"a file mine\.pcap already"):
        await perform(tcpdump, {"interface": "lo", "filter": "icmp", "name": "mine.pcap/x.pcap"}, store=store)
    store.write("ring/one-0007.pcap", b"x")
    asked = {"interface": "lo", "filter": "icmp", "name": "ring/one.pcap", "ring_files": 2}
    with pytest.raises(Conflict, match=r"one-0007\.pcap already"):
        await perform(tcpdump, asked, store=store)
    assert list((store.folder / ".incoming").iterdir()) == []


@needs_tcpdump
@live
@pytest.mark.parametrize("ring_files", [1, 2])
async def test_what_was_captured_is_kept_when_its_name_is_taken_meanwhile(
    perform: Perform, store: CaptureStore, port: int, ring_files: int
) -> None:
    asked = {"interface": "lo", "port": port, "packets": 100, "duration": 60, "ring_files": ring_files}
    capturing = asyncio.create_task(perform(tcpdump, {**asked, "name": "one.pcap"}, store=store))
    await until(lambda: being_written(store) > 1000)
    store.write("one.pcap", b"x")
    store.write("one-0001.pcap", b"x")
    result = await capturing
    (file,) = result.files
    assert file.name.startswith("one-") and len(read_back(store.path(file.name))) == 100
    assert store.path("one.pcap").read_bytes() == store.path("one-0001.pcap").read_bytes() == b"x"
    assert list((store.folder / ".incoming").iterdir()) == []


@pytest.mark.lab
@needs_lab
@needs_tcpdump
async def test_in_the_lab_the_capture_has_exactly_the_packets_that_were_sent(
    perform: Perform, store: CaptureStore
) -> None:
    async with Lab() as lab:
        host = await lab.add("web", 10, f"{CISCO}:00:00:10")
        asked = {"interface": lab.interface, "filter": "icmp", "host": host.address, "packets": 10, "duration": 30}
        capturing = asyncio.create_task(perform(tcpdump, asked, store=store))
        await until(lambda: being_written(store) >= 24)
        await process.run_command(["ping", "-n", "-c", "5", "-i", "0.05", host.address], timeout=20)
        result = await capturing
    assert (result.captured, result.received, result.dropped, result.ended_by) == (10, 10, 0, "packets")
    lines = read_back(store.path(result.files[0].name))
    assert [("echo request" in line, "echo reply" in line) for line in lines] == [(True, False), (False, True)] * 5


@pytest.mark.lab
@needs_lab
@needs_tcpdump
async def test_an_interface_that_goes_away_ends_the_capture_and_what_was_captured_is_kept(
    perform: Perform, store: CaptureStore
) -> None:
    here, there = f"sbxc{os.getpid() % 10**6}a", f"sbxc{os.getpid() % 10**6}b"
    ip = process.find_program("ip", "iproute2")

    async def link(*words: str) -> None:
        await process.run_command([ip, "link", *words], timeout=20)

    await link("add", here, "type", "veth", "peer", "name", there)
    try:
        await link("set", here, "up")
        await link("set", there, "up")
        capturing = asyncio.create_task(
            perform(tcpdump, {"interface": here, "filter": "not ip", "duration": 60}, store=store)
        )
        await until(lambda: being_written(store) >= 24)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((there, 0))
            for number in range(7):
                wire.send(bytes(12) + b"\x88\xb5" + bytes([number]) * 50)  # a protocol number for experiments
        await until(lambda: being_written(store) >= 24 + 7 * (16 + 64))
    finally:
        await link("delete", here)
    result = await asyncio.wait_for(capturing, 30)
    assert result.ended_by == "interface" and result.captured >= 7
    assert any("interface disappeared" in note for note in result.notes), result.notes


# --- quota, disk ------------------------------------------------------------------------------------------------------


@needs_tcpdump
@live
async def test_two_captures_at_once_never_exceed_the_quota_together(
    perform: Perform, tmp_path: Path, port: int
) -> None:
    store = CaptureStore(folder=tmp_path / "small", quota_bytes=3 << 19)  # room for one of 1 MiB, not for two
    asked = {"interface": "lo", "port": port, "size_bytes": 1 << 20, "packets": 30, "duration": 30}
    first = asyncio.create_task(perform(tcpdump, asked, store=store))
    await until(lambda: being_written(store) > 0)
    with pytest.raises(Busy, match=r"full: .* promised to what is being written.*signalbox capture prune"):
        await perform(tcpdump, asked, store=store)
    result = await first
    assert result.captured == 30
    # What the first did not use is free again.
    assert (await perform(tcpdump, asked, store=store)).captured == 30


def test_a_disk_that_is_full_leaves_whole_packets(tmp_path: Path) -> None:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
    packet = struct.pack("<IIII", 1, 2, 1000, 1000) + bytes(1000)
    sink = PcapSink(tmp_path / "x.pcap", size_bytes=1 << 20)
    sink.feed(header + packet)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 + 5 * len(packet) + 17, hard))
    try:
        for _ in range(4):
            sink.feed(packet[:700])
            sink.feed(packet[700:])
        sink.feed(packet * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sink.close()
    assert sink.ended and sink.trouble is not None
    assert measure(tmp_path / "x.pcap") == (5, 24 + 5 * len(packet)) == (5, (tmp_path / "x.pcap").stat().st_size)


def test_what_arrives_in_any_pieces_is_written_whole(tmp_path: Path) -> None:
    header = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
    stream = header + b"".join(struct.pack(">IIII", n, 0, n, n) + bytes([n]) * n for n in range(1, 60))
    for size in (1, 7, 16, 23, 24, 25, 100, len(stream)):
        sink = PcapSink(tmp_path / f"{size}.pcap", size_bytes=1 << 16)
        for start in range(0, len(stream), size):
            sink.feed(stream[start : start + size])
            assert (found := measure(sink.paths[0]) if sink.paths else None) is None or found.packets == sink.packets
        sink.close()
        assert sink.paths[0].read_bytes() == stream
        assert (sink.packets, sink.first, sink.last) == (59, 1, 59)


def test_what_is_no_capture_is_not_taken_for_one(tmp_path: Path) -> None:
    sink = PcapSink(tmp_path / "x.pcap", size_bytes=1 << 16)
    sink.feed(b"tcpdump: this is not what was expected here")
    assert sink.trouble is not None and sink.paths == []


# --- cut off ---------------------------------------------------------------------------------------------------------


@needs_tcpdump
@live
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_what_was_captured_before_a_cancel_or_a_deadline_is_kept(
    perform: Perform, store: CaptureStore, port: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "deadline":
        monkeypatch.setattr(Tcpdump, "deadline", lambda self: 2.0)
    asked = {"interface": "lo", "port": port, "duration": 60}
    capturing = asyncio.create_task(perform(tcpdump, asked, store=store))
    await until(lambda: being_written(store) > 2000)
    if how == "cancel":
        capturing.cancel()
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await capturing
    (entry,) = store.files()
    assert entry.name.startswith("tcpdump/") and len(read_back(store.path(entry.name))) >= 5
    assert processes_of("tcpdump") == [] and list((store.folder / ".incoming").iterdir()) == []


@needs_tcpdump
async def test_a_cancel_loses_nothing_of_what_came_before_it(perform: Perform, store: CaptureStore, port: int) -> None:
    # So long a snap length makes the kernel hand packets over by the block, at the latest after a second.
    asked = {"interface": "lo", "port": port, "duration": 60, "snap_length": 65_535}
    capturing = asyncio.create_task(perform(tcpdump, asked, store=store))
    await until(lambda: being_written(store) >= 24)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(bytes(10), ("127.0.0.1", port))
        sent = time.monotonic()
        capturing.cancel()
        await asyncio.sleep(0.1)
        sender.sendto(b"later", ("127.0.0.1", port))
    with pytest.raises(asyncio.CancelledError):
        await capturing
    assert time.monotonic() - sent < 5
    (entry,) = store.files()
    assert len(read_back(store.path(entry.name))) == 100
    assert processes_of("tcpdump") == [] and list((store.folder / ".incoming").iterdir()) == []


@needs_tcpdump
async def test_what_a_killed_run_captured_has_its_name_before_the_next_one_can_take_it(
    perform: Perform, store: CaptureStore
) -> None:
    left = store.new("mine.pcap", expected_bytes=1000, keep=True)
    left.write_bytes(struct.pack("<IHHiIIIIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1, *(1, 2, 40, 60)) + bytes(40))
    os.close(_reservation._held.pop(str(left.parent)))  # what the kernel does when its process dies
    with pytest.raises(Conflict, match=r"mine\.pcap already.*Choose another name"):
        await perform(tcpdump, {"interface": "lo", "filter": "icmp", "name": "mine.pcap"}, store=store)
    assert [(entry.name, entry.size_bytes) for entry in store.files()] == [("mine.pcap", 80)]


SCRIPT = """
    import asyncio, sys
    from blocks.captures import CaptureStore
    from blocks.policy import ProbePolicy
    from tasks.core import tool
    from tasks.core.errors import ToolError
    from tasks.core.run import FixedWiring, wired
    from tasks.network.capture.tcpdump import tcpdump

    store = CaptureStore(folder=sys.argv[1])
    with wired(FixedWiring(policies={"default": ProbePolicy()}, captures=store)):
        try:
            result = asyncio.run(tool.perform(tcpdump.spec, {"interface": "lo", "filter": sys.argv[2], "packets": 5, "duration": 30}))
            print(result.captured)
        except ToolError as error:
            print(type(error).__name__, error)
"""


def other_process(store: CaptureStore, expression: str, *prefix: str) -> list[str]:
    return [*prefix, sys.executable, "-c", textwrap.dedent(SCRIPT), str(store.folder), expression]


def root() -> Path:
    return Path(__file__).resolve().parents[4]


@needs_tcpdump
@live
async def test_what_a_killed_run_had_captured_is_found_again(store: CaptureStore, port: int) -> None:
    script = other_process(store, f"udp port {port}")
    script[2] = script[2].replace('"packets": 5', '"packets": 5000')
    victim = await asyncio.create_subprocess_exec(*script, cwd=root())
    await until(lambda: being_written(store) > 2000)
    assert store.recover() == []  # its writer lives
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    (stored,) = store.recover()
    assert stored.name.startswith("tcpdump/") and len(read_back(store.path(stored.name))) >= 5
    assert list((store.folder / ".incoming").iterdir()) == [] and store.recover() == []


@needs_tcpdump
@live
async def test_without_the_privilege_it_says_how_to_get_it(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "nobody"
    folder.mkdir()
    shutil.chown(folder, 65534, 65534)
    account = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    # Our own folders may be closed to others: the capability to read is not the one to capture.
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    store = CaptureStore(folder=folder / "store")
    refused = await asyncio.to_thread(
        subprocess.run,
        other_process(store, f"udp port {port}", *account, *reading),
        capture_output=True, text=True, check=False, cwd=root(), env={"HOME": str(folder), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert refused.stdout.startswith("MissingProgram Capturing needs CAP_NET_RAW"), refused
    assert HOW_TO_GET_IT in refused.stdout
    both = ["--inh-caps=+dac_read_search,+net_raw", "--ambient-caps=+dac_read_search,+net_raw"]
    allowed = await asyncio.to_thread(
        subprocess.run,
        other_process(store, f"udp port {port}", *account, *both),
        capture_output=True, text=True, check=False, cwd=root(), env={"HOME": str(folder), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert allowed.stdout == "5\n", allowed
