"""Tables on terminals of any width: nothing is cut off, short cells stay whole, titles break between words."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.cli import _output

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
    assert text.startswith("TARGET 10.64.1.77\n  outcome: unreachable;")
    assert all(len(line) <= 30 for line in text.splitlines())
    assert text.count("detail") == 1


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
