"""Record traffic where the worker sits, let the chosen analyzers read it, show and tell what they found.

capture (or one that is in the store) -> analyzers, two at a time -> findings, tables and a plot on the run page -> a message when a
finding is grave enough or there were no packets -> the store's retention. An analyzer that fails costs itself; the capture and the other
reports stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows import _notify, _traffic
from flows._flow_run import quietly, run_identity, skipped_late
from flows._report import MOST_ROWS, download_url, publish_result
from flows._text import count
from tasks.core.errors import InvalidParameters, ToolError
from tasks.core.log import run_logger
from tasks.core.models import ToolParams
from tasks.core.registry import ToolSpec, find_tool
from tasks.core.run import wiring
from tasks.core.tool import validate
from tasks.network.analyze._report import AnalyzerResult, Severity
from tasks.network.capture._stored import held
from tasks.network.capture.tcpdump import TcpdumpResult

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

Analyzer = Literal["dns", "http", "tls", "tcp", "udp", "ssh", "ftp", "smtp"]
ANALYZERS: tuple[Analyzer, ...] = ("dns", "http", "tls", "tcp", "udp", "ssh", "ftp", "smtp")
AT_ONCE = 2
"""Analyzers that read at the same time: each is a process that computes."""
LONGEST_SECONDS = 3 * 3600.0


class CaptureAnalysis(BaseModel):
    """What came of it: what the API and tests read; the tables are artifacts."""

    model_config = ConfigDict(frozen=True)

    outcome: str = Field(description="Completed, NoPackets, Partial or Failed.")
    title: str = Field(description="One line.")
    capture: str = Field(description="Name of the capture in the store.")
    headlines: dict[str, str] = Field(description="Analyzer to what it saw.")
    findings: list[dict[str, str]] = Field(description="What a person should know, the gravest first.")
    failed: dict[str, str] = Field(default_factory=dict, description="Analyzer to why it said nothing.")
    notified: list[str] = Field(default_factory=list, description="Blocks that were told.")
    not_notified: dict[str, str] = Field(default_factory=dict, description="Blocks that could not be told, and why.")
    run_id: str = ""


def _flow_run_name() -> str:
    from prefect.runtime import flow_run

    asked = flow_run.parameters
    return f"{asked.get('site', 'default')}: {asked.get('interface') or asked.get('capture') or 'nothing'}"


@flow(name="capture-and-analyze", flow_run_name=_flow_run_name, persist_result=False, timeout_seconds=LONGEST_SECONDS)
async def capture_and_analyze(
    interface: str = "",
    capture: str = "",
    filter: str = "",  # noqa: A002  what everybody calls it
    host: str = "",
    port: int | None = None,
    duration: float = 60.0,
    packets: int = 100_000,
    size_bytes: int = 50 << 20,
    snap_length: int = 65_535,
    analyzers: list[Analyzer] | None = None,
    site: str = "default",
    notify: list[str] | None = None,
    notify_at: Severity = Severity.MEDIUM,
) -> Any:
    """Record traffic or take a capture of the store, analyze it, and tell people what is wrong.

    Args:
        interface: Interface to listen on, such as eth0. Either this or capture.
        capture: Name of a capture in the store (signalbox capture list). Either this or interface.
        filter: Capture filter, such as tcp port 443. Listening needs a filter, a host or a port.
        host: Only traffic of this host: a name or an address.
        port: Only traffic of this port.
        duration: Seconds to listen, 1 to 1,800.
        packets: Packets after which listening ends, 1 to 1,000,000.
        size_bytes: Bytes after which listening ends, at most 100 MiB.
        snap_length: Bytes kept of each packet.
        analyzers: Which analyzers read it; none: all.
        site: The site, whose worker listens.
        notify: Blocks that get the findings, such as slack/ops or mail/noc.
        notify_at: Tell people from this severity on: info, low, medium, high or critical. That there were no packets, or that an analyzer
            failed, they are told in any case.

    Raises:
        InvalidParameters: A parameter is wrong, or the capture is none; says what is right. Nothing was recorded.
        NotFound: The store has no such capture.
        Unsupported: The capture is of a kind that is not read; says what to do.
        Refused: Policy forbids it; says the rule.
    """
    if (skipped := skipped_late()) is not None:
        return skipped
    chosen = list(dict.fromkeys(analyzers or ANALYZERS))
    narrowed = {key: value for key, value in (("host", host), ("port", port)) if value not in ("", None)}
    if bool(interface) == bool(capture):
        raise InvalidParameters(
            "Give either interface (to listen) or capture (the name of one in the store)"
            f"{', not both' if interface else ''}.",
            hint="Captures: signalbox capture list",
        )
    for name in chosen:  # before anything is recorded
        validate(find_tool(f"{name}_analyzer"), {"capture": capture or "not-yet.pcap", "site": site, **narrowed})
    channels = list(notify or [])
    await _notify.check_blocks(channels)
    run_id, url = run_identity()
    store = await wiring().store(site)

    recording: _Ran | None = None
    if interface:
        asked = {
            "filter": filter,
            "duration": duration,
            "packets": packets,
            "size_bytes": size_bytes,
            "snap_length": snap_length,
        }
        recording = await _perform("tcpdump", {"interface": interface, "site": site, **asked, **narrowed})
        capture = recording.result.files[-1].name
    elif filter:
        raise InvalidParameters(
            "filter says what to record; it does not narrow a capture of the store. Use host and port."
        )

    # Tools hold it only while they read. What was just recorded is too young to be pruned until here.
    with held(store, capture):
        if recording is not None:
            await _show(recording)
        recorded: TcpdumpResult | None = recording.result if recording is not None else None
        report = await _analyze(capture, chosen, {"site": site, **narrowed}, recorded, url, site)
        await _publish(report)
        deliveries = await _tell(report, channels, notify_at, run_id)
    await _retain(store)
    return _final_state(report, deliveries, run_id)


class _Ran(NamedTuple):
    """A tool that ran as a task of this run."""

    spec: ToolSpec
    params: ToolParams
    result: Any


async def _perform(tool: str, params: Mapping[str, Any]) -> _Ran:
    spec = find_tool(tool)
    checked = validate(spec, params)
    return _Ran(spec, checked, await spec.task(checked))


async def _show(ran: _Ran) -> None:
    """Put what a tool gave on the run's page."""
    # An analyzer whose protocol is not in the capture has nothing for a page; the summary says so in a line.
    if not isinstance(ran.result, AnalyzerResult) or ran.result.coverage.analyzed:
        await quietly(publish_result(*ran))


async def _run(tool: str, params: Mapping[str, Any]) -> Any:
    ran = await _perform(tool, params)
    await _show(ran)
    return ran.result


async def _analyze(
    capture: str,
    chosen: Sequence[str],
    narrowed: Mapping[str, Any],
    recorded: TcpdumpResult | None,
    url: str | None,
    site: str,
) -> _traffic.Report:
    places = asyncio.Semaphore(AT_ONCE)
    params = {"capture": capture, **narrowed}
    results: dict[str, AnalyzerResult] = {}
    failed: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            async with places:
                results[name] = await _run(f"{name}_analyzer", params)
        except ToolError as error:
            failed[name] = str(error)
        except Exception as error:  # noqa: BLE001  it is logged whole
            # A defect of ours: the traceback goes to the log, and the other reports stay.
            run_logger().exception("%s_analyzer", name)
            failed[name] = f"{type(error).__name__}, see the run's log"

    async def summary() -> _traffic.Traffic | None:
        try:
            async with places:
                return _traffic.summed_up(await _run("dpkt", params))
        except ToolError as error:
            run_logger().warning("There is no plot: %s", error)
            return None

    traffic, *_ = await asyncio.gather(summary(), *(one(name) for name in chosen))
    return _traffic.Report(
        capture=capture,
        site=site,
        results={name: results[name] for name in chosen if name in results},
        failed={name: failed[name] for name in chosen if name in failed},
        traffic=traffic,
        recorded=recorded.headline() if recorded is not None else "",
        captured=recorded.captured if recorded is not None else None,
        url=url,
        download=download_url(site, capture),
    )


async def _publish(report: _traffic.Report) -> None:
    await quietly(
        acreate_markdown_artifact(
            key="traffic", markdown=_traffic.markdown(report), description=_traffic.title(report)[:200]
        )
    )
    rows = _traffic.finding_rows(report)
    if rows:
        await quietly(
            acreate_table_artifact(
                key="findings", table=[dict(row) for row in rows[:MOST_ROWS]], description=count(len(rows), "finding")
            )
        )


async def _tell(
    report: _traffic.Report, channels: Sequence[str], least: Severity, run_id: str
) -> list[_notify.Delivery]:
    """Send one message through each block when something is wrong, and what earlier runs could not deliver."""
    loud = report.worst is not None and report.worst.rank >= least.rank
    message = None
    if loud or report.outcome != "Completed":
        message = _notify.Message(
            title=f"{report.capture}: {_traffic.title(report)}",
            text=_traffic.text(report, least),
            html=_traffic.html(report, least),
            facts={"Site": report.site, "Capture": report.capture, "Findings": str(len(report.findings))},
            url=report.url,
            data={
                "event": "traffic",
                "site": report.site,
                "capture": report.capture,
                "outcome": report.outcome,
                "findings": _traffic.finding_rows(report)[:100],
            },
            key=f"traffic-{run_id}",
        )
    return await _notify.tell(message, channels, site=report.site, run_id=run_id)


async def _retain(store: CaptureStore) -> None:
    """Keep the store within its retention and its quota; what is too old may go now rather than within the hour."""
    try:
        removed = await asyncio.to_thread(store.prune)
    except OSError as error:
        run_logger().warning("The store was not pruned; the next prune does it: %s", error)
        return
    if removed:
        run_logger().info("The store let go of %s.", count(len(removed), "file"))


def _final_state(report: _traffic.Report, deliveries: Sequence[_notify.Delivery], run_id: str) -> Any:
    result = CaptureAnalysis(
        outcome=report.outcome,
        title=_traffic.title(report),
        capture=report.capture,
        headlines={name: found.headline() for name, found in report.results.items()},
        findings=_traffic.finding_rows(report),
        failed=dict(report.failed),
        notified=[delivery.block for delivery in deliveries if delivery.sent],
        not_notified={delivery.block: delivery.error for delivery in deliveries if not delivery.sent},
        run_id=run_id,
    )
    if report.outcome == "Completed":
        return Completed(data=result, message=result.title)
    if report.outcome == "NoPackets":
        return Completed(
            name="NoPackets", data=result, message=f"{report.capture}: {result.title}. {report.to_look_at}"
        )
    warning = "; ".join(f"{name}_analyzer failed: {why}" for name, why in report.failed.items())
    if report.outcome == "Partial":
        return Completed(name="Partial", data=result, message=f"{warning} {result.title}")
    return Failed(data=result, message=warning)
