"""What an analysis of traffic says: the summary on its run page, the message, and a plot of rate and protocols. Nothing is sent here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape as html_escape
from typing import Literal
from xml.sax.saxutils import escape as xml_escape

from flows._picture import data_url
from flows._text import count, escape, markdown_table
from tasks.network.analyze._report import AnalyzerResult, Finding, Severity
from tasks.network.capture.dpkt import CaptureSummary

Outcome = Literal["Completed", "NoPackets", "Partial", "Failed"]
MOST_LINES = 20
"""Findings a message spells out; the run page has all of them."""
MOST_BARS = 120
"""Bars of the rate plot: longer captures have wider ones."""
MOST_PROTOCOLS = 8
WIDTH, HEIGHT, LEFT, GAP = 720, 120, 60, 24
COLOURS = {
    Severity.CRITICAL: "#b3261e",
    Severity.HIGH: "#d64545",
    Severity.MEDIUM: "#e0a100",
    Severity.LOW: "#2f6fde",
    Severity.INFO: "#6b7580",
}


@dataclass(frozen=True)
class Traffic:
    """How much of what a capture holds, for the plot.

    Attributes:
        packets: Packets in the capture.
        bytes: Their bytes on the wire.
        seconds: Time from the first packet to the last.
        interval_seconds: Length of the stretches of time in `rate`.
        rate: Number of a stretch, and packets in it; those without packets may be left out.
        protocols: Name to packets.
    """

    packets: int
    bytes: int
    seconds: float
    interval_seconds: float = 1.0
    rate: tuple[tuple[int, int], ...] = ()
    protocols: Mapping[str, int] | None = None


def summed_up(summary: CaptureSummary) -> Traffic:
    """Take what the plot shows from a capture's summary: rate, and what carries the packets."""
    interval = summary.interval_seconds or 1.0
    begin = min((point.at for point in summary.rate), default=None)
    return Traffic(
        packets=summary.coverage.packets,
        bytes=summary.coverage.bytes,
        seconds=summary.coverage.seconds,
        interval_seconds=interval,
        rate=tuple(
            (round((point.at - begin).total_seconds() / interval), point.packets)
            for point in summary.rate
            if begin is not None
        ),
        # What IP carries, and what is no IP at all; IP itself would be counted twice.
        protocols={row.name: row.packets for row in summary.protocols if row.group in ("transport", "ethernet type")},
    )


@dataclass(frozen=True)
class Report:
    """Everything an analysis has to say.

    Attributes:
        capture: Name of the capture in the store.
        site: Its site.
        results: Analyzer to its report.
        failed: Analyzer to why it said nothing.
        traffic: For the plot; None when the capture could not be summed up.
        recorded: How it was captured, in words; empty for one that was there.
        captured: Packets that were captured; None for one that was there.
        url: Address of the run page.
        download: Address that hands out the capture; None where nothing does.
    """

    capture: str
    site: str
    results: Mapping[str, AnalyzerResult]
    failed: Mapping[str, str]
    traffic: Traffic | None = None
    recorded: str = ""
    captured: int | None = None
    url: str | None = None
    download: str | None = None

    @property
    def outcome(self) -> Outcome:
        """The final state's name."""
        if self.failed:
            return "Partial" if self.results else "Failed"
        return "Completed" if self.packets else "NoPackets"

    @property
    def packets(self) -> int:
        """How many packets were looked at; with nothing but failures none."""
        # The summary may be missing, and an analyzer's count is the same.
        counted = [self.traffic.packets] if self.traffic is not None else []
        return max([*counted, *(result.coverage.packets for result in self.results.values())], default=0)

    @property
    def to_look_at(self) -> str:
        """What may be the reason why there are no packets; empty when that is not what came of it."""
        if self.outcome != "NoPackets":
            return ""
        if self.captured == 0:
            return "Is it the right interface, does its link or its mirror port send, and is the filter what was meant?"
        return "Is it the right capture, and are host and port what was meant?"

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """Every finding with its analyzer, the gravest first."""
        found = [(name, finding) for name, result in self.results.items() for finding in result.findings]
        return sorted(found, key=lambda pair: (-pair[1].severity.rank, -pair[1].count, pair[0], pair[1].what))

    @property
    def worst(self) -> Severity | None:
        """The gravest severity of all findings."""
        return next((finding.severity for _, finding in self.findings), None)


def title(report: Report) -> str:
    """Say it in one line."""
    if not report.results:
        return f"{report.capture} could not be analyzed"
    if not report.packets:
        return "nothing was captured" if report.captured == 0 else "no packets to analyze"
    packets = f"{count(report.traffic.packets, 'packet')}, " if report.traffic is not None else ""
    # The gravest come first, so do their counts.
    if not report.findings:
        return f"{packets}nothing to report"
    *others, (severity, number) = Counter(str(finding.severity) for _, finding in report.findings).items()
    said = [*(f"{many:,} {grave}" for grave, many in others), count(number, f"{severity} finding")]
    return f"{packets}{', '.join(said)}"


def finding_rows(report: Report) -> list[dict[str, str]]:
    """The findings as rows of a table."""
    return [
        {
            "severity": str(finding.severity),
            "analyzer": name,
            "what": finding.what,
            "why": finding.why,
            "do": finding.action,
            "times": str(finding.count),
            "frames": ", ".join(map(str, finding.frames)),
            "code": finding.code,
        }
        for name, finding in report.findings
    ]


def markdown(report: Report) -> str:
    """The summary on the run page: what is wrong first, then what was seen."""
    lines = [f"## {escape(title(report))}", ""]
    lines += [report.to_look_at, ""] if report.to_look_at else []
    lines += [f"**{escape(name)}_analyzer failed**: {escape(why)}\n" for name, why in report.failed.items()]
    lines += [f"Capture `{report.capture}`{': ' + escape(report.recorded) if report.recorded else ''}.", ""]
    link = f"[Download the capture]({report.download}), or get it" if report.download else "Get it"
    lines += [f"{link} with `signalbox capture save {report.capture} --site {report.site}`, where the store is.", ""]
    if report.traffic is not None and report.traffic.packets:
        lines += [f"![Packets over time, and protocols]({data_url(plot(report.traffic))})", ""]
    rows = finding_rows(report)
    if rows:
        shown = [{key: row[key] for key in ("severity", "analyzer", "what", "do", "times", "frames")} for row in rows]
        lines += ["### Findings", "", markdown_table(shown), ""]
    seen = [
        {"analyzer": name, "result": result.headline()}
        for name, result in report.results.items()
        if result.coverage.analyzed
    ]
    if seen:
        lines += ["### What was seen", "", markdown_table(seen), ""]
    absent = [name for name, result in report.results.items() if not result.coverage.analyzed]
    if absent:
        lines += [f"Not in this capture: {', '.join(absent)}.", ""]
    notes = dict.fromkeys(note for result in report.results.values() for note in result.coverage.notes)
    if notes:
        lines += ["### Notes", "", *(f"- {escape(note)}" for note in notes), ""]
    return "\n".join(lines)


def text(report: Report, least: Severity) -> str:
    """The message as plain text: findings from a severity on."""
    loud = [(name, finding) for name, finding in report.findings if finding.severity.rank >= least.rank]
    lines = [title(report), ""]
    for name, finding in loud[:MOST_LINES]:
        times = f" ({finding.count} times)" if finding.count > 1 else ""
        lines += [f"{str(finding.severity).upper()} {name}: {finding.what}{times}", f"    {finding.action}"]
    if len(loud) > MOST_LINES:
        lines.append(f"... and {len(loud) - MOST_LINES} more.")
    lines += [report.to_look_at] if report.to_look_at else []
    lines += [f"{name}_analyzer failed: {why}" for name, why in report.failed.items()]
    lines += ["", f"Capture {report.capture} of site {report.site}."]
    if report.url:
        lines.append(f"The whole report: {report.url}")
    return "\n".join(lines)


def html(report: Report, least: Severity) -> str:
    """The message as HTML, for mail."""
    style = "font-weight:600;vertical-align:top;padding:4px 12px 4px 0"
    rows = "".join(
        f'<tr><td style="color:{COLOURS[finding.severity]};{style}">{finding.severity}</td>'
        f'<td style="padding:4px 0"><b>{html_escape(finding.what)}</b><br>{html_escape(finding.why)}<br>'
        f"<i>{html_escape(finding.action)}</i></td></tr>"
        for _, finding in report.findings[:MOST_LINES]
        if finding.severity.rank >= least.rank
    )
    failed = "".join(
        f"<p>{html_escape(name)}_analyzer failed: {html_escape(why)}</p>" for name, why in report.failed.items()
    )
    failed += f"<p>{html_escape(report.to_look_at)}</p>" if report.to_look_at else ""
    link = f'<p><a href="{html_escape(report.url)}">The whole report</a></p>' if report.url else ""
    return (
        f'<div style="font-family:system-ui,sans-serif"><h2>{html_escape(title(report))}</h2>{failed}<table>{rows}</table>'
        f"<p>Capture {html_escape(report.capture)} of site {html_escape(report.site)}.</p>{link}</div>"
    )


def plot(traffic: Traffic) -> str:
    """Draw packets a second over time, and how many packets each protocol has, as an SVG document."""
    parts = [
        f'<text x="20" y="28" class="head">{count(traffic.packets, "packet")}, {_size(traffic.bytes)}, {_span(traffic.seconds)}</text>'
    ]
    bars, seconds = _bars(traffic)
    top, bottom = 48, 48 + HEIGHT
    most = max(bars, default=0.0) or 1.0
    step = (WIDTH - LEFT - 20) / max(len(bars), 1)
    for number, value in enumerate(bars):
        height = HEIGHT * value / most
        said = f"{number * seconds:.4g} s: {value:,.4g} packets a second"
        parts.append(
            f'<rect x="{LEFT + number * step:.1f}" y="{bottom - height:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{height:.1f}" fill="#2f6fde"><title>{said}</title></rect>'
        )
    parts += [
        f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - 20}" y2="{bottom}" stroke="#9aa3ad"/>',
        f'<text x="{LEFT - 6}" y="{top + 9}" text-anchor="end" class="dim">{most:,.3g}/s</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end" class="dim">0</text>',
        f'<text x="{LEFT}" y="{bottom + 16}" class="dim">0 s</text>',
        f'<text x="{WIDTH - 20}" y="{bottom + 16}" text-anchor="end" class="dim">{len(bars) * seconds:.4g} s</text>',
    ]
    y = bottom + 16 + GAP
    ordered = sorted((traffic.protocols or {}).items(), key=lambda pair: -pair[1])
    rest = sum(number for _, number in ordered[MOST_PROTOCOLS:])
    shown = ordered[:MOST_PROTOCOLS] + ([("others", rest)] if rest else [])
    largest = max((number for _, number in shown), default=1) or 1
    for name, number in shown:
        length = max(2.0, (WIDTH - LEFT - 220) * number / largest)
        share = 100 * number / traffic.packets if traffic.packets else 0.0
        parts.append(
            f'<text x="{LEFT + 54}" y="{y}" text-anchor="end" class="label">{xml_escape(name)}</text>'
            f'<rect x="{LEFT + 62}" y="{y - 10}" width="{length:.1f}" height="12" rx="2" fill="#2f9e6e"/>'
            f'<text x="{LEFT + 70 + length:.1f}" y="{y}" class="dim">{number:,} ({share:.1f} %)</text>'
        )
        y += 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
        "<style>text{font-family:system-ui,sans-serif;font-size:12px;fill:#24292f}.head{font-size:15px;font-weight:600}"
        ".label{font-weight:600}.dim{fill:#6b7580}</style>"
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff" rx="6"/>' + "".join(parts) + "</svg>"
    )


def _bars(traffic: Traffic) -> tuple[list[float], float]:
    """Packets a second in equal steps, and the seconds of a step."""
    last = max((number for number, _ in traffic.rate), default=0)
    together = last // MOST_BARS + 1
    seconds = together * traffic.interval_seconds
    bars = [0.0] * (last // together + 1)
    for number, packets in traffic.rate:
        bars[number // together] += packets / seconds
    return bars, seconds


def _size(number: int) -> str:
    size = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _span(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
