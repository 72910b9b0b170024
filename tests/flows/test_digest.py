"""What a discovery says, made from its result alone."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from flows import _digest
from flows._digest import LiveHost, Report
from flows._picture import COLOURS, draw
from tasks.asset._changes import Changes, Event, EventKind


def report(*events: Event, **values: Any) -> Report:
    base: dict[str, Any] = {
        "site": "default",
        "profile": "standard",
        "outcome": "Completed",
        "scanned": ("10.1.0.0/24",),
        "planned": 256,
        "excluded": 0,
        "attempted": 256,
        "answered": 3,
        "hosts": (
            LiveHost("10.1.0.1", "router", "00:00:0c:11:22:33", "Cisco", ("80/tcp http",), 1),
            LiveHost("10.1.0.7", candidate=True),
        ),
        "duration": 12.3,
    }
    return Report(**(base | values), changes=Changes(site="default", run_id="r", events=events))


NEW = Event(kind=EventKind.NEW, asset_id=9, subject="cam-4", ip="10.1.0.9", after={"ip": "10.1.0.9"})
MOVED = Event(
    kind=EventKind.IP_CHANGED, asset_id=4, subject="printer", ip="10.1.0.12", before="10.1.0.5", after="10.1.0.12"
)
GONE = Event(kind=EventKind.MISSING, asset_id=2, subject="nas", ip="10.1.0.4")
SERVICE = Event(
    kind=EventKind.SERVICE_ADDED, asset_id=1, subject="router", ip="10.1.0.1", field="tcp/8443", after={"name": "https"}
)
QUIET = Event(kind=EventKind.LEARNED, asset_id=1, subject="router", field="vendor", after="Cisco", quiet=True)
FIRST = Event(kind=EventKind.NEW, asset_id=1, subject="router", ip="10.1.0.1", baseline=True)


def test_the_title_counts_what_a_person_wants_to_know() -> None:
    assert _digest.title(report(NEW, MOVED, SERVICE, GONE, QUIET)) == "1 new, 2 changed, 1 gone"
    assert _digest.title(report(NEW, site="berlin")) == "berlin: 1 new"
    assert _digest.title(report()) == "nothing changed, 3 hosts up"
    assert _digest.title(report(FIRST)) == "first look: 1 host, 1 candidate"
    assert _digest.title(report(NEW, preview=True)) == "1 new (preview)"


def test_quiet_events_are_not_worth_a_message_and_everything_else_is() -> None:
    assert not report(QUIET).worth_telling and not report().worth_telling
    for event in (NEW, MOVED, GONE, SERVICE, FIRST):
        assert report(event).worth_telling
    assert report(outcome="Partial").worth_telling


def test_the_warning_of_a_partial_run_comes_first() -> None:
    text = _digest.text(
        report(NEW, outcome="Partial", attempted=128, failed_shards=("10.1.0.128 ...: nmap was killed",))
    )
    assert text.splitlines()[0] == "1 new - partial"
    assert text.splitlines()[2].startswith("! Only part of the scope was scanned: 128 of 256 addresses.")
    assert "128 unknown" in text


def test_each_kind_of_change_reads_as_a_sentence() -> None:
    assert _digest.describe(MOVED) == "printer moved: 10.1.0.5 -> 10.1.0.12"
    assert _digest.describe(SERVICE) == "router: new service tcp/8443 (https)"
    assert _digest.describe(GONE) == "nas (10.1.0.4) missing"
    status = Event(kind=EventKind.MISSING, subject="10.1.0.4", ip="10.1.0.4", before="active", after="missing")
    assert _digest.describe(status) == "10.1.0.4 missing"
    new = {"ip": "10.1.0.9", "mac": "00:40:8c:00:00:09", "vendor": "Axis", "services": ["tcp/80", "tcp/554"]}
    arrived = Event(kind=EventKind.NEW, subject="10.1.0.9", ip="10.1.0.9", after=new)
    assert _digest.describe(arrived) == "10.1.0.9: Axis, 00:40:8c:00:00:09, tcp/80, tcp/554"
    ssh = {"name": "ssh", "product": "OpenSSH", "version": "9.6"}
    upgraded = Event(
        kind=EventKind.SERVICE_CHANGED, subject="nas", field="tcp/22", before=ssh, after=ssh | {"version": "9.9"}
    )
    assert _digest.describe(upgraded) == "nas: service changed tcp/22: OpenSSH 9.6 -> OpenSSH 9.9"


def test_text_html_and_markdown_all_have_every_section() -> None:
    full = report(NEW, MOVED, GONE, url="http://ui/runs/1")
    for said in (_digest.text(full), _digest.html(full), _digest.markdown(full)):
        for part in ("New (1)", "Changed (1)", "Gone (1)", "printer moved", "cam-4", "nas"):
            assert part in re.sub(r"\\", "", said)
    assert "http://ui/runs/1" in _digest.text(full)


def test_names_chosen_by_strangers_are_harmless() -> None:
    evil = "<img src=x onerror=alert(1)>|`[x](javascript:alert(1))"
    bad = report(
        Event(kind=EventKind.NEW, asset_id=1, subject=evil, ip="10.1.0.9"), hosts=(LiveHost("10.1.0.9", evil),)
    )
    assert "<img" not in _digest.html(bad)
    without_picture = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", _digest.markdown(bad))
    assert "<img" not in without_picture and "[x](" not in without_picture


def test_the_picture_shows_each_address_in_its_state() -> None:
    found = _digest.states(report(NEW, MOVED, GONE))
    assert found == {
        "10.1.0.1": "live",
        "10.1.0.7": "candidate",
        "10.1.0.9": "new",
        "10.1.0.12": "changed",
        "10.1.0.4": "missing",
    }
    [encoded] = re.findall(r"base64,([A-Za-z0-9+/=]+)", _digest.markdown(report(NEW)))
    svg = ET.fromstring(base64.b64decode(encoded))
    fills = [rect.get("fill") for rect in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert fills.count(COLOURS["new"][0]) == 2  # the address and the legend
    assert sum(fill == COLOURS["silent"][0] for fill in fills) == 256 - 3 + 1


@pytest.mark.parametrize(
    "prefixes", [["10.0.0.0/16"], ["10.0.0.1"], ["2001:db8::/120", "fd00::1"], [f"10.{n}.0.0/24" for n in range(40)]]
)
def test_a_picture_of_any_scope_is_a_whole_document_of_bounded_size(prefixes: list[str]) -> None:
    svg = draw(prefixes, {"10.0.0.1": "live"}, title="a <title> & more")
    ET.fromstring(svg)
    assert len(svg) < 1_500_000


def test_a_new_host_at_the_address_of_one_that_is_gone_is_drawn_as_new() -> None:
    swapped = Event(kind=EventKind.NEW, asset_id=9, subject="10.1.0.4", ip="10.1.0.4", after={"ip": "10.1.0.4"})
    assert _digest.states(report(swapped, GONE, hosts=(LiveHost("10.1.0.4", asset_id=9),)))["10.1.0.4"] == "new"


def test_the_run_page_lists_hosts_once_and_a_message_lists_them_in_words() -> None:
    first = report(FIRST)
    assert "Found (2)" in _digest.text(first) and "10.1.0.7, candidate" in _digest.text(first)
    assert "Found" not in _digest.markdown(first) and "### Hosts" in _digest.markdown(first)


def test_nothing_in_the_picture_runs_over_its_edge_or_over_its_neighbour() -> None:
    every = {f"10.1.0.{n}": state for n, state in enumerate(COLOURS, start=1)}
    svg = ET.fromstring(draw(["10.1.0.0/24"], every, title="t"))
    legend = sorted(
        (int(text.get("y") or 0), int(text.get("x") or 0), len(text.text or ""))
        for text in svg.iter("{http://www.w3.org/2000/svg}text")
        if text.get("class") == "dim" and text.get("text-anchor") is None
    )
    assert len(legend) == len(COLOURS)
    for (row, left, letters), (next_row, next_left, _) in zip(legend, [*legend[1:], (0, 0, 0)], strict=True):
        assert left + 6.3 * letters <= (next_left - 17 if next_row == row else float(svg.get("width") or 0))


def test_long_lists_are_cut_and_say_so() -> None:
    many = [Event(kind=EventKind.NEW, asset_id=n, subject=f"host-{n}", ip=f"10.1.0.{n}") for n in range(1, 60)]
    text = _digest.text(report(*many))
    assert "New (59)" in text and "... and 47 more" in text and len(text) < 5000
