"""What a discovery says: the summary on its run page, the digest, the tables and the picture. Nothing is sent here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flows._picture import data_url, draw
from flows._text import cell, count, escape, join, markdown_table
from tasks.asset._changes import Changes, Event, EventKind

Outcome = Literal["Completed", "Partial", "NoneAnswered", "Suspect", "Failed"]

GONE = (EventKind.MISSING, EventKind.STALE, EventKind.ARCHIVED)
ATTENTION = (EventKind.CONFLICT, EventKind.SUSPECT, EventKind.CANDIDATE, EventKind.MERGED, EventKind.SPLIT)
ARRIVED = (EventKind.NEW, EventKind.RETURNED)
MOST_LINES = 12
"""Events a digest spells out of each sort; the run page has all of them."""
FOUND = "Found"

_WORDS = {
    EventKind.IP_CHANGED: "moved",
    EventKind.MAC_CHANGED: "has another MAC",
    EventKind.SERVICE_ADDED: "new service",
    EventKind.SERVICE_REMOVED: "service gone",
    EventKind.SERVICE_CHANGED: "service changed",
    EventKind.ADDRESS_ADDED: "another address",
    EventKind.ADDRESS_REMOVED: "address gone",
}


@dataclass(frozen=True)
class LiveHost:
    """A host that answered, as the report shows it."""

    address: str
    name: str = ""
    mac: str = ""
    vendor: str = ""
    services: tuple[str, ...] = ()
    asset_id: int | None = None
    candidate: bool = False
    """It answers, but nothing says who it is."""
    model: str = ""


@dataclass(frozen=True)
class Report:
    """Everything a discovery has to say.

    Attributes:
        site: The site.
        profile: The profile it ran with.
        outcome: Its final state's name.
        scanned: Networks as asked.
        planned: Addresses in scope; `excluded` of them by policy.
        attempted: Addresses for which packets were sent.
        answered: Addresses that answered.
        failed_shards: What was not scanned, and why.
        hosts: Who answered.
        changes: What the reconcile changed; None when nothing was reconciled.
        notes: What a person should know.
        duration: Seconds.
        preview: Nothing was written.
        url: Address of the run page.
    """

    site: str
    profile: str
    outcome: Outcome
    scanned: tuple[str, ...]
    planned: int
    excluded: int
    attempted: int
    answered: int
    failed_shards: tuple[str, ...] = ()
    hosts: tuple[LiveHost, ...] = ()
    changes: Changes | None = None
    notes: tuple[str, ...] = ()
    duration: float = 0.0
    preview: bool = False
    url: str | None = None

    @property
    def where(self) -> str:
        """What was scanned, in one line."""
        plain = [text.removesuffix("/32").removesuffix("/128") for text in self.scanned]
        return ", ".join(plain[:8]) + (f" and {len(plain) - 8} more" if len(plain) > 8 else "")

    @property
    def loud(self) -> tuple[Event, ...]:
        """What a person should hear of."""
        return self.changes.loud if self.changes is not None else ()

    def of(self, *kinds: EventKind) -> list[Event]:
        """Loud events of these kinds."""
        return [event for event in self.loud if event.kind in kinds]

    @property
    def new(self) -> list[Event]:
        """Hosts that arrived or came back."""
        return self.of(*ARRIVED)

    @property
    def gone(self) -> list[Event]:
        """Hosts that are missing, or longer than that."""
        return self.of(*GONE)

    @property
    def changed(self) -> list[Event]:
        """Everything else that changed about a host."""
        return [event for event in self.loud if event.kind not in {*ARRIVED, *GONE, *ATTENTION, EventKind.LEARNED}]

    @property
    def first_found(self) -> list[Event]:
        """Hosts of networks that were scanned for the first time: imported quietly, told as one number."""
        return [
            event
            for event in (self.changes.events if self.changes is not None else ())
            if event.baseline and event.kind in ARRIVED
        ]

    @property
    def worth_telling(self) -> bool:
        """Whether anything happened that a person should hear of."""
        return bool(self.loud) or bool(self.first_found) or self.outcome != "Completed"


def title(report: Report) -> str:
    """One line: the site, and what is most worth knowing."""
    where = f"{report.site}: " if report.site != "default" else ""
    if report.outcome in ("Failed", "Suspect"):
        return f"{where}discovery {'failed' if report.outcome == 'Failed' else 'is suspect: nothing answered'}"
    candidates = sum(host.candidate for host in report.hosts)
    said = join(
        (
            f"first look: {count(len(report.first_found), 'host')}" if report.first_found else "",
            count(candidates, "candidate") if report.first_found and candidates else "",
            f"{len(report.new)} new" if report.new else "",
            f"{_subjects(report.changed)} changed" if report.changed else "",
            f"{len(report.gone)} gone" if report.gone else "",
        )
    )
    said = said or f"nothing changed, {count(report.answered, 'host')} up"
    return f"{where}{said}{' (preview)' if report.preview else ''}{' - partial' if report.outcome == 'Partial' else ''}"


def _subjects(events: Iterable[Event]) -> int:
    return len({(event.asset_id, event.subject) for event in events})


def warnings(report: Report) -> list[str]:
    """What must be read first."""
    lines = []
    if report.failed_shards:
        lines.append(
            f"Only part of the scope was scanned: {report.attempted} of {count(report.planned, 'address', 'addresses')}. "
            f"Not scanned: {'; '.join(report.failed_shards[:5])}"
        )
    if report.outcome == "Suspect":
        lines.append(
            "Nothing answered, and neither did what usually does: look at the link of this machine first. Nothing was called missing."
        )
    if report.outcome == "NoneAnswered":
        lines.append(
            "Nothing answered. The link is up, so there may really be nothing there. Nothing was called missing."
        )
    if report.preview:
        lines.append("This is a preview: nothing was written to the inventory, and nobody was told.")
    return lines


def coverage(report: Report) -> str:
    """One sentence about what was looked at."""
    unknown = report.planned - report.attempted
    parts = join(
        (
            f"{count(report.planned, 'address', 'addresses')} in scope",
            f"{report.excluded} excluded by policy" if report.excluded else "",
            f"{report.attempted} scanned",
            f"{report.answered} answered",
            f"{unknown} unknown" if unknown else "",
        )
    )
    return f"{parts}; profile {report.profile}, {report.duration:.0f} s."


def describe(event: Event) -> str:
    """Say one event in words.

    >>> describe(Event(kind=EventKind.IP_CHANGED, subject="printer", before="10.0.0.5", after="10.0.0.9"))
    'printer moved: 10.0.0.5 -> 10.0.0.9'
    """
    who = event.subject or event.ip or ""
    at = f" ({event.ip})" if event.ip and event.ip != who else ""
    what = _WORDS.get(event.kind, event.kind.value.replace("_", " "))
    if event.kind in ARRIVED and isinstance(event.after, Mapping):
        known = join(cell(event.after.get(name)) for name in ("vendor", "model", "mac", "services"))
        return f"{who}{at}" + (f": {known}" if known else "")
    if event.kind in GONE:
        return f"{who}{at} {what}"
    if event.kind in (EventKind.SERVICE_ADDED, EventKind.SERVICE_REMOVED):
        shown = event.after if event.kind is EventKind.SERVICE_ADDED else event.before
        return f"{who}: {what} {event.field}" + (f" ({_service(shown)})" if shown else "")
    if event.kind is EventKind.SERVICE_CHANGED:
        return f"{who}: {what} {event.field}: {_service(event.before)} -> {_service(event.after)}"
    details = ""
    if event.before not in (None, "") or event.after not in (None, ""):
        details = (
            f": {_short(event.before) or 'unknown'} -> {_short(event.after) or 'unknown'}"
            if event.before not in (None, "")
            else f": {_short(event.after)}"
        )
    return f"{who} {what}{'' if event.ip and event.ip in details else at}{details}"


def _service(value: Any) -> str:
    """Say what speaks on a port as people do: product and version, else the protocol's name."""
    if not isinstance(value, Mapping):
        return _short(value)
    said = " ".join(str(value[name]) for name in ("product", "version") if value.get(name))
    return _short(said or value.get("name") or value)


def _short(value: Any) -> str:
    text = cell(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def lines(report: Report) -> list[tuple[str, list[str]]]:
    """The digest: headings, each with its lines."""
    parts: list[tuple[str, list[str]]] = []
    for heading, events in (
        ("New", report.new),
        ("Changed", report.changed),
        ("Gone", report.gone),
        ("Needs a look", report.of(*ATTENTION)),
    ):
        if events:
            said = [describe(event) for event in events[:MOST_LINES]]
            if len(events) > MOST_LINES:
                said.append(f"... and {len(events) - MOST_LINES} more")
            parts.append((f"{heading} ({len(events)})", said))
    if report.first_found:
        said = [
            join(
                (
                    host.address,
                    host.name,
                    host.vendor,
                    host.model,
                    " ".join(host.services[:6]),
                    "candidate" if host.candidate else "",
                )
            )
            for host in report.hosts[:MOST_LINES]
        ]
        if len(report.hosts) > MOST_LINES:
            said.append(f"... and {len(report.hosts) - MOST_LINES} more")
        parts.append((f"{FOUND} ({len(report.hosts)})", said))
    return parts


def text(report: Report) -> str:
    """The digest as plain text, for mail and the screen."""
    out = [title(report), ""]
    out += [f"! {warning}" for warning in warnings(report)]
    out += ["", *_text_lines(report)] if warnings(report) else _text_lines(report)
    out += [f"Scanned {report.where}: {coverage(report)}"]
    out += [f"Note: {note}" for note in report.notes]
    if report.url:
        out.append(f"The whole report: {report.url}")
    return "\n".join(out).strip() + "\n"


def _text_lines(report: Report) -> list[str]:
    out: list[str] = []
    for heading, said in lines(report):
        out += [heading, *(f"  - {line}" for line in said), ""]
    return out


def html(report: Report) -> str:
    """The digest as HTML, for mail."""
    parts = [f"<h2>{escape_html(title(report))}</h2>"]
    parts += [f'<p style="color:#b3261e"><b>{escape_html(warning)}</b></p>' for warning in warnings(report)]
    for heading, said in lines(report):
        items = "".join(f"<li>{escape_html(line)}</li>" for line in said)
        parts.append(f"<h3>{escape_html(heading)}</h3><ul>{items}</ul>")
    parts.append(f"<p>Scanned {escape_html(report.where)}: {escape_html(coverage(report))}</p>")
    parts += [f"<p>{escape_html(note)}</p>" for note in report.notes]
    if report.url:
        parts.append(f'<p><a href="{escape_html(report.url)}">The whole report</a></p>')
    return f'<div style="font-family:system-ui,sans-serif">{"".join(parts)}</div>'


def escape_html(value: str) -> str:
    """Make text from a network harmless in HTML."""
    from html import escape as escape_markup

    return escape_markup(value, quote=True)


def markdown(report: Report) -> str:
    """The summary on the run page: what a person would send to a colleague."""
    out = [f"## {escape(title(report))}", ""]
    out += [f"> **{escape(warning)}**\n" for warning in warnings(report)]
    # The page has the table of all hosts: the list of those found is for messages.
    for heading, said in (part for part in lines(report) if not part[0].startswith(FOUND)):
        out += [f"### {escape(heading)}", "", *(f"- {escape(line)}" for line in said), ""]
    out += [f"Scanned {escape(report.where)}: {coverage(report)}", ""]
    out += [f"- {escape(note)}" for note in report.notes]
    out += ["", f"![Address space]({data_url(picture(report))})", ""]
    if report.hosts:
        out += ["### Hosts", "", markdown_table(host_rows(report.hosts), most=100)]
    return "\n".join(out)


def host_rows(hosts: Sequence[LiveHost]) -> list[dict[str, str]]:
    """The table of hosts that answered."""
    return [
        {
            "address": host.address,
            "name": host.name,
            "mac": host.mac,
            "vendor": host.vendor,
            "model": host.model,
            "services": ", ".join(host.services),
            "asset": "candidate" if host.candidate else str(host.asset_id or "new"),
        }
        for host in hosts
    ]


def event_rows(events: Iterable[Event]) -> list[dict[str, str]]:
    """The table of events."""
    return [
        {
            "what": event.kind.value.replace("_", " "),
            "who": event.subject,
            "address": event.ip or "",
            "field": event.field or "",
            "before": _short(event.before),
            "after": _short(event.after),
            "asset": str(event.asset_id or ""),
        }
        for event in events
    ]


def states(report: Report) -> dict[str, str]:
    """What became of each address, in the picture's words."""
    found = {host.address: "candidate" if host.candidate else "live" for host in report.hosts}
    for event in report.loud:
        kind = (
            "new"
            if event.kind in ARRIVED
            else "missing"
            if event.kind in GONE
            else "changed"
            if event in report.changed
            else None
        )
        # What answers at an address now says more of it than who is gone from it.
        if kind and event.ip and not (found.get(event.ip) == "new" or (kind == "missing" and event.ip in found)):
            found[event.ip] = kind
    return found


def picture(report: Report) -> str:
    """The address space, one square per address."""
    blocks = []
    for prefix in report.scanned:
        network = ipaddress.ip_network(prefix)
        # Short and wide beats tall: an IPv6 prefix or a huge scope is shown where something answered.
        if network.num_addresses <= 4096:
            blocks.append(str(network))
    return draw(blocks, states(report), title=title(report))
