"""An analysis of traffic in this process: its capture stays while the run needs it, and its words and final state say what it found."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lab.captures import Capture, datagrams, tcp_talk, write_pcap

import flows.capture_and_analyze as module
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from flows import _notify
from flows._traffic import Report, Traffic, html, markdown, plot, text, title
from tasks.core import process
from tasks.core.errors import NotFound, Unsupported
from tasks.core.models import FileRef
from tasks.core.run import FixedWiring, wired
from tasks.network.analyze._report import AnalyzerResult, Coverage, Finding, Severity

TALK = Capture(tcp_talk([(True, b"GET / HTTP/1.0\r\n\r\n"), (False, b"HTTP/1.0 200 OK\r\n\r\n")]))
WEEKS = timedelta(weeks=4).total_seconds()
needs_tcpdump = pytest.mark.skipif(
    shutil.which("tcpdump", path=process.search_path()) is None or os.geteuid() != 0,
    reason="capturing needs tcpdump and CAP_NET_RAW",
)


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    return CaptureStore(folder=tmp_path / "store")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[_notify.Message | None]:
    """What a run asks to have told; nobody is."""
    messages: list[_notify.Message | None] = []

    async def tell(message: _notify.Message | None, *_: Any, **__: Any) -> list[_notify.Delivery]:
        messages.append(message)
        return []

    monkeypatch.setattr(_notify, "tell", tell)
    return messages


def put(store: CaptureStore, name: str, capture: Capture, folder: Path) -> None:
    store.write(name, write_pcap(capture, folder / "made.pcap").read_bytes())


async def run(store: CaptureStore, **asked: Any) -> Any:
    """Run the flow; gives its final state."""
    with wired(FixedWiring(policies={"default": ProbePolicy()}, captures=store)):
        return await module.capture_and_analyze(analyzers=["tcp"], **asked, return_state=True)


# --- the capture stays -----------------------------------------------------------------------------------------------


@pytest.fixture
def pruned(store: CaptureStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a prune removes that falls into a run where no tool reads the capture: everything is long too old for it."""
    removed: list[str] = []
    for name in ("publish_result", "_publish", "_tell"):
        original = getattr(module, name)

        async def first_prune(*args: Any, original: Any = original) -> Any:
            removed.extend(entry.name for entry in store.prune(now=time.time() + WEEKS))
            return await original(*args)

        monkeypatch.setattr(module, name, first_prune)
    return removed


async def test_a_capture_is_not_pruned_while_a_run_analyzes_and_shows_it(
    prefect_server: str, store: CaptureStore, tmp_path: Path, pruned: list[str]
) -> None:
    for name in ("mine.pcap", "other.pcap"):
        put(store, name, TALK, tmp_path)
    state = await run(store, capture="mine.pcap")
    assert (state.name, pruned) == ("Completed", ["other.pcap"]), state.message
    # Its own retention holds for it again afterwards.
    assert [entry.name for entry in store.prune(now=time.time() + WEEKS)] == ["mine.pcap"]


@needs_tcpdump
async def test_what_was_just_recorded_is_not_pruned_either(
    prefect_server: str, store: CaptureStore, pruned: list[str]
) -> None:
    async with datagrams() as port:
        state = await run(store, interface="lo", port=port, packets=10, duration=30)
    assert (state.name, pruned) == ("Completed", []), state.message
    assert (await state.aresult()).capture == store.files()[0].name


async def test_a_capture_that_cannot_be_read_fails_once_by_its_reason(
    prefect_server: str, store: CaptureStore, tmp_path: Path
) -> None:
    store.write("packed.pcap.gz", gzip.compress(write_pcap(TALK, tmp_path / "a.pcap").read_bytes()))
    for name, error, said in (
        ("packed.pcap.gz", Unsupported, "packed.pcap.gz is compressed with gzip. Decompress it first."),
        ("nosuch.pcap", NotFound, "There is no capture nosuch.pcap"),
    ):
        state = await run(store, capture=name)
        assert state.type == "FAILED" and state.message.count(said) == 1
        with pytest.raises(error):
            await state.aresult()


# --- nothing captured ------------------------------------------------------------------------------------------------


@needs_tcpdump
async def test_a_run_that_captured_nothing_says_so_in_its_state_and_tells_people(
    prefect_server: str, store: CaptureStore, told: list[_notify.Message | None]
) -> None:
    state = await run(store, interface="lo", filter="udp port 9 and udp port 7", duration=1, notify_at="critical")
    assert (state.type, state.name) == ("COMPLETED", "NoPackets") and "nothing was captured" in state.message
    result = await state.aresult()
    assert (result.outcome, result.title) == ("NoPackets", "nothing was captured")
    [message] = told
    assert message is not None and "nothing was captured" in message.title and "mirror port" in message.text
    assert message.data["outcome"] == "NoPackets"


async def test_a_capture_of_the_store_without_packets_is_not_taken_for_a_clean_one(
    prefect_server: str, store: CaptureStore, tmp_path: Path, told: list[_notify.Message | None]
) -> None:
    put(store, "empty.pcap", Capture([]), tmp_path)
    put(store, "talk.pcap", TALK, tmp_path)
    for asked in ({"capture": "empty.pcap"}, {"capture": "talk.pcap", "host": "192.0.2.1"}):
        state = await run(store, **asked)
        assert (state.type, state.name) == ("COMPLETED", "NoPackets") and "no packets to analyze" in state.message
    assert all(told)
    assert (await run(store, capture="talk.pcap")).name == "Completed" and told[-1] is None


# --- words -----------------------------------------------------------------------------------------------------------

REF = FileRef(site="default", name="a.pcap", size_bytes=24, sha256="0" * 64)


class Said(AnalyzerResult):
    """An analyzer's report."""

    def headline(self) -> str:
        return self.verdict()


def report(*severities: Severity, packets: int = 7, **more: Any) -> Report:
    findings = [Finding(severity=one, code="x.y", what="What.", why="Why.", action="Do.") for one in severities]
    coverage = Coverage(packets=packets, bytes=60 * packets, seconds=1, analyzed=packets)
    result = Said(capture=REF, coverage=coverage, findings=findings)
    return Report(capture="a.pcap", site="default", results={"tcp": result}, failed={}, **more)


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        ([], "nothing to report"),
        ([Severity.HIGH], "1 high finding"),
        ([Severity.HIGH] * 2, "2 high findings"),
        ([Severity.LOW, Severity.HIGH, Severity.HIGH], "2 high, 1 low finding"),
        ([Severity.LOW, Severity.LOW, Severity.HIGH], "1 high, 2 low findings"),
    ],
)
def test_one_of_something_is_said_as_one(severities: list[Severity], said: str) -> None:
    traffic = Traffic(packets=1, bytes=60, seconds=0)
    assert title(report(*severities, traffic=traffic)) == f"1 packet, {said}"
    assert ">1 packet, 60 bytes, 0.0 s<" in plot(traffic)


def test_no_packets_are_noticed_without_the_summary_too_and_what_to_look_at_is_said() -> None:
    silent = report(packets=0, recorded="0 packets in 60.0 s on eth1, 24 bytes", captured=0)
    assert (silent.outcome, title(silent)) == ("NoPackets", "nothing was captured")
    for said in (markdown(silent), text(silent, Severity.HIGH), html(silent, Severity.HIGH)):
        assert "mirror port" in said
    stored = report(packets=0)
    assert (stored.outcome, title(stored)) == ("NoPackets", "no packets to analyze")
    assert "mirror port" not in markdown(stored) and "host" in markdown(stored)
    assert report(packets=3).outcome == "Completed"
