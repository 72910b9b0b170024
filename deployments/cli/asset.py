"""`signalbox asset` and `signalbox events`: the inventory, what the machine left open, and what happened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import App, Parameter

from deployments.cli import tool as tools
from deployments.cli._output import emit_json, emit_table, moment, say, say_fact
from flows._text import cell, count
from tasks.core.errors import NotFound
from tasks.core.models import parse_mac
from tasks.core.settings import settings

T = TypeVar("T")

app = App(name="asset", help="The inventory: search it, correct it, decide what is open.", help_format="plaintext")

COLUMNS = ("id", "site", "hostname", "address", "mac", "type", "status", "vendor", "model", "serial", "os", "last_seen")


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _who() -> str:
    import getpass

    return settings().user or getpass.getuser()


Options = Annotated[str, Parameter(allow_leading_hyphen=True)]


def _tool(name: str, options: Sequence[str]) -> int:
    return tools.run(name, *options)


def _listing(name: str, options: Sequence[str]) -> int:
    """Run `asset_list` or `asset_query` and show the columns people look for."""
    if "--json" in options or {"--help", "-h", "--dry-run"} & set(options):
        return _tool(name, options)
    result = tools.run_quietly(name, options)
    if result is None:
        return 0
    rows = [asset.model_dump(mode="json") for asset in result.assets]
    if rows:
        emit_table(
            rows,
            columns=[
                column for column in COLUMNS if column != "site" or any(row["site"] != settings().site for row in rows)
            ],
        )
    say(f"\n{result.headline()}" if rows else result.headline())
    if getattr(result, "next_cursor", None):
        say(f"The next page: --cursor {result.next_cursor}")
    return 0


@app.command(name="list", help_flags=[], version_flags=[])
def list_assets(*options: Options) -> int:
    """List assets; `signalbox asset list --help` shows the filters."""
    return _listing("asset_list", options)


@app.command(help_flags=[], version_flags=[])
def query(*options: Options) -> int:
    """Search assets; words without an option are free text. `signalbox asset query --help` shows the filters."""
    words = list(options)
    if words and not words[0].startswith("-"):
        words = ["--text", *words]
    return _listing("asset_query", words)


LAST_EVENTS = 10


@app.command
def show(asset: str, /, *, site: str | None = None, json: bool = False) -> int:
    """Show one asset: all that is known of it, and what happened to it last.

    Args:
        asset: Its number, name, address or MAC address.
        site: The site.
        json: Print one JSON document.
    """
    from tasks.asset import _operator

    where = ["--site", site] if site else []
    result = tools.run_quietly("asset_query", [_way_to_name(asset), asset, "--include-archived", *where])
    named = [one for one in result.assets if one.hostname == asset] or result.assets
    if not named:
        raise NotFound(f"There is no asset {asset!r}.", hint="Look for it: signalbox asset query WORD")
    if len(named) > 1:
        emit_table([one.model_dump(mode="json") for one in named], columns=COLUMNS)
        raise NotFound(
            f"{asset!r} is not the name of one asset but part of several.", hint="Name the one: signalbox asset show ID"
        )
    [one] = named
    events = _run(_operator.history(one.site, asset=one.id, limit=LAST_EVENTS))
    if json:
        emit_json({**one.model_dump(mode="json"), "events": [dataclasses.asdict(event) for event in events]})
        return 0
    say(f"Asset {one.id}: {one.label()}")
    for name, value in one.model_dump(mode="json", exclude={"id"}).items():
        if value not in (None, "", [], {}):
            say_fact(name.replace("_", " "), cell(value))
    if events:
        say("\nWhat happened last")
        _show_events(events, False)
    return 0


def _way_to_name(asset: str) -> str:
    """The option of `asset_query` that finds what is written like this.

    >>> [_way_to_name(text) for text in ("17", "10.0.0.5", "3CD9.2B07.AA20", "lobby-cam")]
    ['--id', '--address', '--mac', '--hostname']
    """
    if asset.isdecimal():
        return "--id"
    for option, parse in (("--address", ipaddress.ip_address), ("--mac", parse_mac)):
        with contextlib.suppress(ValueError):
            parse(asset)
            return option
    return "--hostname"


@app.command(help_flags=[], version_flags=[])
def create(*options: Options) -> int:
    """Create an asset; `signalbox asset create --help` shows the fields."""
    return _tool("asset_create", options)


def _with_asset(options: Sequence[str]) -> list[str]:
    """Take a first word for the asset: `asset update 17 --owner noc`."""
    return ["--asset", *options] if options and not options[0].startswith("-") else list(options)


@app.command(help_flags=[], version_flags=[])
def update(*options: Options) -> int:
    """Change fields of an asset: signalbox asset update ID|NAME --owner noc."""
    return _tool("asset_update", _with_asset(options))


@app.command(help_flags=[], version_flags=[])
def delete(*options: Options) -> int:
    """Delete an asset: signalbox asset delete ID|NAME --confirm ID|NAME; its history stays."""
    return _tool("asset_delete", _with_asset(options))


@app.command
def candidates(*, site: str | None = None, state: str = "open", json: bool = False) -> int:
    """List what was seen but is not proof enough for an asset.

    Args:
        site: The site.
        state: open, ignored, accepted, resolved or all.
        json: Print one JSON document.
    """
    from tasks.asset import _operator

    found = _run(_operator.candidates(site or settings().site, state=None if state == "all" else state))
    rows = [dataclasses.asdict(entry) for entry in found]
    if json:
        emit_json(rows)
    else:
        emit_table(rows, columns=("id", "kind", "ip", "mac", "reason", "sightings", "state", "last_seen"))
        say(
            f"\n{count(len(rows), 'candidate')}."
            + (" Decide: signalbox asset accept ID, signalbox asset ignore ID" if rows else "")
        )
    return 0


@app.command
def accept(candidate: int, /) -> int:
    """Make an asset of a candidate.

    Args:
        candidate: Number of the candidate.
    """
    from tasks.asset import _operator

    say(f"Candidate {candidate} is asset {_run(_operator.accept(candidate, by=_who()))} now.")
    return 0


@app.command
def ignore(candidate: int, /) -> int:
    """Leave a candidate alone from now on.

    Args:
        candidate: Number of the candidate.
    """
    from tasks.asset import _operator

    _run(_operator.ignore(candidate, by=_who()))
    say(f"Candidate {candidate} is ignored.")
    return 0


@app.command
def conflicts(*, site: str | None = None, state: str = "open", json: bool = False) -> int:
    """List what contradicts itself, with the evidence of both sides; nothing was written for it.

    Args:
        site: The site.
        state: open, resolved, ignored or all.
        json: Print one JSON document.
    """
    from tasks.asset import _operator

    found = _run(_operator.conflicts(site or settings().site, state=None if state == "all" else state))
    if json:
        emit_json([dataclasses.asdict(entry) for entry in found])
        return 0
    for entry in found:
        assets = ", ".join(map(str, entry.asset_ids)) or "none"
        say(
            f"{entry.id}  {entry.kind}  {entry.ip or ''}  {entry.reason}  (seen {count(entry.sightings, 'time')}, assets {assets})"
        )
        for evidence in entry.evidence:
            emit_table([{"what": key, "evidence": value} for key, value in evidence.items()])
    say(
        f"{count(len(found), 'conflict')}."
        + (" Decide: signalbox asset merge KEEP OTHER, or signalbox asset settle ID" if found else "")
    )
    return 0


@app.command
def settle(conflict: int, /, *, ignore: bool = False) -> int:
    """Close a conflict that you have dealt with.

    Args:
        conflict: Number of the conflict.
        ignore: It is none, and shall not be raised again.
    """
    from tasks.asset import _operator

    _run(_operator.settle(conflict, by=_who(), ignore=ignore))
    say(f"Conflict {conflict} is closed.")
    return 0


@app.command
def merge(keep: int, other: int, /, *, reason: str = "") -> int:
    """Merge two assets that are one thing; `undo` takes it back.

    Args:
        keep: Number of the asset that stays.
        other: Number of the asset that goes into it.
        reason: Why; goes into the log.
    """
    from tasks.asset import _operator

    number = _run(_operator.merge(keep, other, by=_who(), reason=reason))
    say(f"Asset {other} is part of asset {keep} now. Take it back: signalbox asset undo {number}")
    return 0


@app.command
def undo(merge: int, /) -> int:
    """Take a merge back.

    Args:
        merge: Number of the merge, as `merge` and the events say.
    """
    from tasks.asset import _operator

    kept, parted = _run(_operator.undo(merge, by=_who()))
    say(f"Assets {kept} and {parted} are two again.")
    return 0


@app.command
def lock(asset: int, field: str, /) -> int:
    """Fix a field against all automatic sources.

    Args:
        asset: Number of the asset.
        field: Such as hostname or location.
    """
    from tasks.asset import _operator

    say(f"Locked: {', '.join(_run(_operator.lock(asset, field, by=_who())))}")
    return 0


@app.command
def unlock(asset: int, field: str, /) -> int:
    """Let automatic sources change a field again.

    Args:
        asset: Number of the asset.
        field: Such as hostname or location.
    """
    from tasks.asset import _operator

    say(f"Still locked: {', '.join(_run(_operator.unlock(asset, field, by=_who()))) or 'nothing'}")
    return 0


@app.command
def history(asset: int, /, *, site: str | None = None, limit: int = 50, json: bool = False) -> int:
    """Show what happened to an asset.

    Args:
        asset: Number of the asset; works for one that was deleted, too.
        site: The site.
        limit: Most events.
        json: Print one JSON document.
    """
    from tasks.asset import _operator

    return _show_events(_run(_operator.history(site or settings().site, asset=asset, limit=limit)), json)


@app.command(name="import")
def import_file(
    file: Path,
    /,
    *,
    format: Literal["auto", "csv", "netbox", "nmap"] = "auto",
    site: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Import assets from a file: all of it or nothing, every error by its line.

    Args:
        file: CSV (as `asset export` writes it), NetBox's device CSV, or nmap's XML.
        format: What it is; auto looks at it.
        site: The site.
        dry_run: Check everything and write nothing.
        json: Print one JSON document.
    """
    from tasks.asset import _exchange

    try:
        data = file.read_bytes()
    except OSError as problem:
        raise NotFound(f"{file} cannot be read: {problem.strerror}.") from None
    report = _run(
        _exchange.import_assets(data, format=format, site=site or settings().site, dry_run=dry_run, by=_who())
    )
    if json:
        emit_json(dataclasses.asdict(report))
        return 1 if report.errors else 0
    for error in report.errors:
        say(f"line {error.line}: {error.message}")
    word = "would be" if dry_run else "were"
    if report.errors:
        say(f"{count(len(report.errors), 'error')}; nothing was written.")
        return 1
    say(f"{count(report.created, 'asset')} {word} created, {report.updated} updated, {report.unchanged} unchanged.")
    return 0


@app.command
def export(file: Path | None = None, /, *, format: Literal["csv", "json"] = "csv", site: str | None = None) -> int:
    """Export assets, to a file or to standard output.

    Args:
        file: Where to; none: standard output.
        format: csv or json.
        site: The site.
    """
    from tasks.asset import _exchange

    text = _run(_exchange.export_assets(format=format, site=site or settings().site))
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text)
        say(f"Wrote {file}.")
    return 0


def events(
    *,
    site: str | None = None,
    since: str = "24h",
    kind: Annotated[list[str] | None, Parameter(negative=())] = None,
    all: bool = False,
    limit: int = 100,
    json: bool = False,
) -> int:
    """Show what happened in the inventory, the newest last.

    Args:
        site: The site.
        since: How far back: 30m, 24h, 7d, or a time such as 2026-01-31T12:00.
        kind: Only this kind, such as new, missing, ip_changed; may be repeated.
        all: Quiet events as well: first looks, random MACs, fields learned.
        limit: Most events.
        json: Print one JSON document.
    """
    from tasks.asset import _operator

    found = _run(
        _operator.events(
            site or settings().site, since=moment(since), kinds=tuple(kind or ()), loud=not all, limit=limit
        )
    )
    return _show_events(
        found, json, "Nothing happened." if all else "Nothing happened. First looks and fields learned: --all"
    )


def _show_events(found: Sequence[Any], as_json: bool, nothing: str = "Nothing happened.") -> int:
    rows = [dataclasses.asdict(entry) for entry in found]
    if as_json:
        emit_json(rows)
        return 0
    if not rows:
        say(nothing)
        return 0
    rows.sort(key=lambda row: row["id"])
    emit_table(rows, columns=("at", "kind", "asset_id", "subject", "ip", "field", "before", "after", "source"))
    say(f"\n{count(len(rows), 'event')}.")
    return 0
