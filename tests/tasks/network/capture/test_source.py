"""What a reading tool opens: a capture of the store, held while it is read, or a live one that is recorded first."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab.captures import datagrams
from pydantic import ValidationError

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core import process
from tasks.core.errors import InvalidParameters, NotFound, Unsupported
from tasks.core.models import Safety
from tasks.core.registry import find_tool
from tasks.core.run import FixedWiring, ToolRun, running, wired
from tasks.network.capture._source import CaptureInput, opened

PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


@contextmanager
def run_of(store: CaptureStore, policy: ProbePolicy | None = None) -> Iterator[None]:
    policy = policy or ProbePolicy()
    run = ToolRun(spec=find_tool("tcpdump"), site="default", policy=policy)
    with wired(FixedWiring(policies={"default": policy}, captures=store)), running(run):
        yield


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "either capture .* or interface"),
        ({"capture": "a.pcap", "interface": "lo", "filter": "icmp"}, "not both"),
        ({"interface": "lo"}, "needs a filter"),
        ({"interface": "lo", "filter": " "}, "needs a filter"),
        ({"capture": "a.pcap", "filter": "icmp"}, "does not narrow"),
        ({"interface": "lo", "filter": "icmp", "duration": 0}, "duration"),
    ],
)
def test_packets_come_from_exactly_one_bounded_source(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CaptureInput(**given)


@pytest.mark.parametrize("name", ["dns_analyzer", "ngrep", "tcpdump", "tcpflow"])
def test_a_filter_that_would_break_out_of_its_host_is_told_before_anything_is_opened(name: str) -> None:
    given: dict[str, Any] = {"host": "10.0.0.1", "filter": "tcp) or (udp"}
    given |= {"pattern": "x"} if name == "ngrep" else {}
    sources = (
        [{"interface": "lo"}] if name in {"dns_analyzer", "tcpdump"} else [{"interface": "lo"}, {"capture": "a.pcap"}]
    )
    for source in sources:
        with pytest.raises(ValidationError, match=r"parentheses of filter .* do not pair"):
            find_tool(name).params_model(**given, **source)


def test_listening_is_a_probe_and_reading_is_not() -> None:
    live, stored = CaptureInput(interface="lo", filter="icmp"), CaptureInput(capture="a.pcap")
    assert (live.safety(), stored.safety()) == (Safety.PROBE, Safety.READ)
    assert live.scope() is None and stored.scope() is None
    assert (live.about(), stored.about()) == ("lo: icmp", "capture a.pcap")
    assert live.deadline() > live.duration + stored.deadline()


async def test_a_capture_of_the_store_is_not_pruned_while_it_is_open(store: CaptureStore) -> None:
    stored = store.write("old.pcap", PCAP)
    os.utime(store.path("old.pcap"), (1, 1))
    with run_of(store):
        async with opened(CaptureInput(capture="old.pcap")) as capture:
            assert capture.recording is None and capture.path.read_bytes() == PCAP
            assert (capture.ref.name, capture.ref.sha256, capture.ref.site) == ("old.pcap", stored.sha256, "default")
            assert store.prune() == [] and capture.path.exists()
    assert [entry.name for entry in store.prune()] == ["old.pcap"]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("nosuch.pcap", NotFound, "no capture nosuch.pcap"),
        ("../etc/passwd", InvalidParameters, "not a name in the store"),
        ("report.xml", InvalidParameters, "is not a capture"),
        ("empty", InvalidParameters, "empty is an empty file"),
        ("x.pcap.gz", Unsupported, r"x\.pcap\.gz is compressed with gzip\. Decompress it first"),
        ("kuznetzov.pcap", Unsupported, r"modified pcap format\. Convert it: editcap"),
        ("folder", InvalidParameters, "folder"),
        ("empty/x.pcap", NotFound, "no capture empty/x.pcap"),
        ("a" * 300, InvalidParameters, "too long: .* at most 200"),
        ("loop", InvalidParameters, "symbolic link"),
    ],
)
async def test_what_cannot_be_opened_says_why(
    store: CaptureStore, name: str, error: type[Exception], says: str
) -> None:
    store.write("report.xml", b"<nmaprun/>")
    store.write("empty", b"")
    store.write("x.pcap.gz", gzip.compress(PCAP))
    store.write("kuznetzov.pcap", b"\x34\xcd\xb2\xa1" + PCAP[4:])
    store.write("folder/x.pcap", PCAP)
    (store.folder / "loop").symlink_to("loop")
    with run_of(store), pytest.raises(error, match=says):
        async with opened(CaptureInput(capture=name)):
            pass


@pytest.mark.parametrize("magic", [b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a"])
async def test_every_capture_format_is_opened(store: CaptureStore, magic: bytes) -> None:
    store.write("x", magic + bytes(20))
    with run_of(store):
        async with opened(CaptureInput(capture="x")) as capture:
            assert capture.ref.size_bytes == 24


@pytest.mark.skipif(
    shutil.which("tcpdump", path=process.search_path()) is None or os.geteuid() != 0,
    reason="capturing needs tcpdump and CAP_NET_RAW",
)
async def test_a_live_capture_is_recorded_and_then_held(store: CaptureStore) -> None:
    async with datagrams() as port:
        with run_of(store):
            asked = CaptureInput(interface="lo", filter=f"udp port {port}", packets=10, duration=30)
            async with opened(asked) as capture:
                assert capture.recording is not None and capture.recording.captured == 10
                assert capture.ref.name.startswith("tcpdump/") and capture.path == store.path(capture.ref.name)
                assert store.prune(now=time.time() + 90 * 86_400) == []
    assert len(store.prune(now=time.time() + 90 * 86_400)) == 1
