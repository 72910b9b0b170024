"""What the command prints: data on stdout (a table, or one JSON document), everything else on stderr."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from flows._text import CONTROLS, cell, harmless
from tasks.core.errors import InvalidParameters

PIPE_WIDTH = 180
GAP = 2
"""Blanks between two columns."""
LONG = 60
FOLDS = 4
"""Lines a cell may be folded to before a table is shown as records instead."""
WHOLE_WIDTH = 17
"""Cells up to this long (a MAC address) are not folded while longer ones can be."""


def escape(text: str) -> str:
    """Make text for the console: neither markup nor anything a terminal would obey, for names on the wire are chosen by strangers."""
    return escape_markup(harmless(text))


def out() -> Console:
    """The console of stdout: data."""
    # Piped output has no width of its own: wide enough that tables do not fold, for grep and for logs.
    # emoji: the :ab: of a MAC and the :100: of an IPv6 address would become pictures.
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """The console of stderr: progress and complaints."""
    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def complain(message: str, hint: str | None = None, *, status: int) -> int:
    """Say what went wrong and what to do, on stderr; return the exit status."""
    err().print(f"[bold red]signalbox:[/] {escape(message)}")
    if hint:
        err().print(f"  {escape(hint)}")
    return status


def explain_unexpected(error: Exception) -> int:
    """Say legibly what a library raised: the API away, the disk full; the rest by class, with the way to the traceback."""
    import errno

    import httpx

    if isinstance(error, httpx.HTTPError) or str(error).startswith("Failed to reach API"):  # Prefect's own RuntimeError
        return complain("The Prefect API does not answer.", "Is signalbox up? signalbox status", status=1)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return complain(
            "The disk is full.", "Free some space, or set SIGNALBOX_HOME to a folder on another disk.", status=1
        )
    if isinstance(error, OSError) and error.filename:
        return complain(f"{error.strerror}: {error.filename}", status=1)
    return complain(
        f"{type(error).__name__}: {error}", "For the traceback: SIGNALBOX_LOG_LEVEL=DEBUG signalbox ...", status=1
    )


def emit_json(data: Any) -> None:
    """Print one JSON document and nothing else."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    # JSON itself escapes only half of what a terminal obeys. Line feeds are ours, all others are inside of strings.
    text = CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    sys.stdout.write(f"{text}\n")


def emit_table(
    rows: Sequence[Mapping[str, Any]], *, title: str | None = None, columns: Sequence[str] | None = None
) -> None:
    """Print rows as a table; columns that hold nothing are left out."""
    names = list(columns or (rows[0] if rows else ()))
    names = [name for name in names if any(row.get(name) not in (None, "", [], {}) for row in rows)]
    table = Table(
        title=escape(title) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_edge=False,
    )
    texts = [[cell(row.get(name)) for name in names] for row in rows]
    layout = [
        _Column(
            name.replace("_", " ").upper(),
            max((len(line) for text in texts for line in text[place].split("\n")), default=0),
            max((len(word) for text in texts for word in text[place].split()), default=0),
        )
        for place, name in enumerate(names)
    ]
    console = out()
    if sum(column.natural for column in layout) > console.width + GAP:
        layout = [column.narrowed() for column in layout]
        long = [column for column in layout if not column.whole]
        share = (console.width + GAP - sum(column.least for column in layout if column.whole)) // max(
            len(long), 1
        ) - GAP
        # Several long texts side by side, each a few words wide, are read by nobody; a path or a URL in pieces is copied by nobody.
        folded = len(long) > 1 and max(column.width for column in long) > FOLDS * share
        if share < WHOLE_WIDTH or folded or max((column.word for column in long), default=0) > share:
            _emit_records(console, [name.replace("_", " ") for name in names], texts, title)
            return
    for column in layout:
        table.add_column(escape(column.title), overflow="fold", no_wrap=column.whole)
    for text in texts:
        table.add_row(*(escape(one) for one in text))
    console.print(table)


class _Column(NamedTuple):
    """A table's column: its title, the widths of its widest cell and of its longest word, and whether its cells are never folded."""

    title: str
    width: int
    word: int
    whole: bool = False

    @property
    def natural(self) -> int:
        """The room it would take, with the gap after it."""
        return max(self.width, *map(len, self.title.split("\n"))) + GAP

    @property
    def least(self) -> int:
        """The room it cannot do without: what is short stays whole, what is long is folded."""
        return self.natural if self.whole else WHOLE_WIDTH + GAP

    def narrowed(self) -> _Column:
        """The same in a table that must fold: titles break between words, and what is short stays whole."""
        return _Column(_broken(self.title, self.width), self.width, self.word, self.width <= WHOLE_WIDTH)


def _emit_records(console: Console, names: Sequence[str], texts: Sequence[Sequence[str]], title: str | None) -> None:
    """Print rows of more columns than the terminal has room for: each as its first value and, below it, the others by name."""
    if title:
        console.print(escape(title))
    for text in texts:
        console.print(escape(f"{names[0].upper()} {text[0]}"), soft_wrap=True)
        said = [f"{name}: {one}" for name, one in zip(names[1:], text[1:], strict=True) if one]
        line = ""
        for one in said:
            # What is long stands on lines of its own, what is short shares one.
            if line and (len(one) > LONG or len(line) + len(one) + 2 * GAP > console.width or len(line) > LONG):
                _emit_line(console, line)
                line = ""
            line = f"{line}; {one}" if line else one
        if line:
            _emit_line(console, line)


def _emit_line(console: Console, text: str) -> None:
    """Print a text two blanks in, folded between words, the further lines two blanks deeper."""
    lines = text.strip("\n").split("\n")
    if len(lines) > 1:  # what came in lines keeps them
        folded = [f"  {lines[0]}", *(f"    {line}" for line in lines[1:])]
    else:
        folded = textwrap.wrap(
            text,
            console.width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    for line in folded:
        console.print(escape(line), soft_wrap=True)


def _broken(title: str, width: int) -> str:
    r"""Break a column's title between words when its cells are narrower.

    >>> _broken("LOSS PERCENT", 4), _broken("MIN MS", 6)
    ('LOSS\nPERCENT', 'MIN MS')
    """
    return "\n".join(textwrap.wrap(title, max(width, 1), break_long_words=False)) if len(title) > width else title


def say(text: str = "") -> None:
    """Print a line of the report on stdout."""
    out().print(escape(text))


def say_fact(name: str, text: str) -> None:
    """Print one thing a result says, by its name."""
    text = text.rstrip("\n")
    _emit_line(out(), f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")


def progress(text: str) -> None:
    """Print a line about work under way, on stderr."""
    err().print(f"[dim]{escape(text)}[/]")


def moment(text: str) -> datetime:
    """Read how far back a list goes: 30m, 24h, 7d, 2w, or a time; without a zone it is UTC.

    Raises:
        InvalidParameters: It is neither.
    """
    match = re.fullmatch(r"(\d+)\s*([mhdw])", text)
    if match:
        unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
        return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameters(
            f"--since {text!r} is no time.", hint="Right would be 30m, 24h, 7d or 2026-01-31T12:00."
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
