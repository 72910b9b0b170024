"""Tables on terminals of any width: nothing is cut off, short cells stay whole, titles break between words."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from deployments.cli import _output
from flows._text import facts, tables
from tasks.core.models import FileRef, ToolResult

HOST = {
    "target": "10.64.1.77",
    "outcome": "unreachable",
    "detail": "10.64.1.250 says: host unreachable",
    "loss_percent": 100,
}


def shown(rows: list[dict[str, Any]], width: int) -> str:
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(file):
        patch.setattr(_output, "PIPE_WIDTH", width)
        _output.emit_table(rows)
    return file.getvalue()


def test_a_table_that_fits_is_one_line_for_each_row() -> None:
    assert shown([HOST, HOST], 120).splitlines()[0].split() == ["TARGET", "OUTCOME", "DETAIL", "LOSS", "PERCENT"]
    assert len(shown([HOST, HOST], 120).splitlines()) == 3


def test_in_a_narrow_table_short_cells_stay_whole_and_titles_break_between_words() -> None:
    text = shown([HOST], 62)
    assert "10.64.1.77" in text and "unreachable" in text and re.search(r"LOSS *\n.*PERCENT", text)


def test_a_table_with_more_columns_than_room_becomes_records() -> None:
    text = shown([HOST, {**HOST, "target": "10.64.1.78", "detail": ""}], 30)
    assert text.startswith("TARGET 10.64.1.77\n  outcome: unreachable\n  detail: 10.64.1.250 says:\n    host")
    assert all(len(line) <= 30 for line in text.splitlines())
    assert text.count("detail") == 1


def test_what_is_to_be_copied_is_never_torn_apart() -> None:
    url = "rtsp://10.64.2.12/axis-media/media.amp?videocodec=h264&camera=1&resolution=1280x720&fps=10"
    row = {"target": "10.64.2.12", "outcome": "done", "serial": "00408C9F0212", "url": url, "detail": "all is well"}
    for width in (180, 110, 60, 30):
        assert url in shown([row, row], width), width


def test_an_empty_table_is_nothing_but_a_line() -> None:
    assert shown([], 80).strip() == ""


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    for width in (120, 12):
        assert "[red]x[/red]" in shown([{"banner": "[red]x[/red]", "port": 80, "more": "[/]"}], width)


def test_a_mac_and_an_ipv6_address_are_not_taken_for_emoji() -> None:
    row = {"mac": "00:ab:cd:ef:12:34", "address": "fd5b:64:100::7"}
    for width in (120, 20):
        text = shown([row], width)
        assert row["mac"] in text and row["address"] in text


@given(
    st.lists(
        st.fixed_dictionaries(
            {name: st.text("abc123.:", min_size=1, max_size=40) for name in ("one", "two_words", "three", "four")}
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(24, 140),
)
def test_no_cell_is_cut_off_whatever_the_width(rows: list[dict[str, str]], width: int) -> None:
    text = shown(rows, width)
    for character in "abc123":
        wanted = sum(value.count(character) for row in rows for value in row.values())
        assert text.count(character) >= wanted


# --- results ---------------------------------------------------------------------------------------------------------


class Port(BaseModel):
    port: int
    state: str


class Checked(BaseModel):
    address: str
    kind: str = "A"
    ports: list[Port] = Field(default_factory=list)


class Result(ToolResult):
    hosts: list[Checked] = Field(default_factory=list)
    columns: list[dict[str, str]] = Field(default_factory=list)
    rows: list[list[str]] = Field(default_factory=list)
    evidence: list[FileRef] = Field(default_factory=list)
    rate: list[dict[str, str]] = Field(default_factory=list)
    said: str = ""
    events: dict[str, int] = Field(default_factory=dict)

    def headline(self) -> str:
        return ""


def test_objects_inside_objects_are_a_table_of_their_own_that_says_what_they_belong_to() -> None:
    ports = [Port(port=22, state="open"), Port(port=80, state="closed")]
    result = Result(hosts=[Checked(address="10.64.1.1", ports=ports), Checked(address="10.64.1.2")])
    assert tables(result) == [
        ("hosts", [{"address": "10.64.1.1", "kind": "A"}, {"address": "10.64.1.2", "kind": "A"}]),
        (
            "hosts: ports",
            [
                {"address": "10.64.1.1", "port": "22", "state": "open"},
                {"address": "10.64.1.1", "port": "80", "state": "closed"},
            ],
        ),
    ]


def test_as_many_columns_say_what_they_belong_to_as_tell_the_rows_apart() -> None:
    one = [Port(port=22, state="open")]
    result = Result(hosts=[Checked(address="a", kind="A", ports=one), Checked(address="a", kind="AAAA", ports=one)])
    assert [list(row) for row in tables(result)[1][1]] == [["address", "kind", "port", "state"]] * 2


def test_a_result_that_names_its_columns_is_shown_under_them() -> None:
    result = Result(
        columns=[{"name": "ip.src"}, {"name": "dns.qry.name"}], rows=[["10.64.1.1", "x"], ["10.64.1.2", "y"]]
    )
    assert tables(result) == [
        ("rows", [{"ip.src": "10.64.1.1", "dns.qry.name": "x"}, {"ip.src": "10.64.1.2", "dns.qry.name": "y"}])
    ]
    assert facts(result) == {}


def test_files_of_the_store_are_a_line_and_times_within_a_second_are_told_apart() -> None:
    result = Result(
        evidence=[FileRef(site="default", name="nmap/x.xml", size_bytes=32590, sha256="0" * 64)],
        rate=[{"at": "2026-01-31T12:00:00.100000Z"}, {"at": "2026-01-31T12:00:00Z"}],
        events={"reset": 2, "refused": 0, "lost": 0},
    )
    assert facts(result) == {"evidence": "nmap/x.xml (32,590 bytes)", "events": "reset=2"}
    assert tables(result) == [("rate", [{"at": "2026-01-31 12:00:00.100"}, {"at": "2026-01-31 12:00:00.000"}])]


def test_a_text_of_several_lines_keeps_them_and_a_long_one_is_folded_below_its_name() -> None:
    file = io.StringIO()
    with contextlib.redirect_stdout(file), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_output, "PIPE_WIDTH", 20)
        _output.say_fact("stdout", "a  b\n\nc\n")
        _output.say_fact("note", "one two three four five six")
    assert file.getvalue() == "  stdout:\n    a  b\n    \n    c\n  note: one two\n    three four five\n    six\n"
