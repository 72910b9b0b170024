"""`signalbox audit`: prove that nobody changed the ledger, and take it elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from deployments.cli._output import complain, emit_json, emit_table, say
from flows._text import count
from tasks.core.errors import NotFound

if TYPE_CHECKING:
    from tasks.core.audit import Verified
    from tasks.core.ledger import Ledger

app = App(
    name="audit",
    help="Prove that nobody changed the ledger, and take it elsewhere.",
    help_format="plaintext",
)


def _book() -> Ledger:
    from tasks.core.run import wiring

    book = wiring().ledger()
    if book is None:
        raise NotFound("This run has no ledger.")
    return book


def _tell(problems: Sequence[str]) -> int:
    """Print what does not hold; return the exit status."""
    if not problems:
        return 0
    for problem in problems[:20]:
        say(f"- {problem}")
    more = len(problems) - 20
    return complain(
        f"{count(len(problems), 'problem')}{f', {more} of them not shown' if more > 0 else ''}.",
        "What is not what was sealed was changed behind signalbox's back: compare with a backup.",
        status=1,
    )


@app.command
def export(*, folder: Path | None = None, site: str | None = None, json: bool = False) -> int:
    """Write the ledger into files that prove themselves: a batch each, JSON lines, gzip-ed.

    What was noted until now is sealed first. A batch that has a file there already is left alone; what was pruned from the database is
    copied from the home's files. A batch's hash is the SHA-256 of the hash before it (in the first line) and all other lines.

    Args:
        folder: Where to; default: audit in SIGNALBOX_HOME, where prune/hourly exports as well.
        site: Only this site; default: all.
        json: Print one JSON document.
    """
    from tasks.core import audit

    archive = audit.Archive(folder.expanduser().absolute() if folder is not None else None)
    book = _book()

    async def work() -> audit.Exported:
        await book.seal()
        return await audit.export(book, archive, sites=None if site is None else [site], seconds=float("inf"))

    done = asyncio.run(work())
    if json:
        emit_json({"folder": str(archive.folder), **vars(done)})
        return 1 if done.problems else 0
    batches, events = count(done.batches, "batch", "batches"), count(done.events, "event")
    say(f"{batches} with {events} written to {archive.folder}.")
    return _tell(done.problems)


@app.command
def verify(*, folder: Path | None = None, site: str | None = None, files_only: bool = False, json: bool = False) -> int:
    """Recompute the hashes of the ledger and of its files, and compare both.

    Exit status 1 when something is not what was sealed. The events of the last hour may not be sealed yet.

    Args:
        folder: Folder of the files; default: audit in SIGNALBOX_HOME.
        site: Only this site; default: all.
        files_only: Prove the files alone, without the database.
        json: Print one JSON document.
    """
    from tasks.core import audit

    archive = audit.Archive(folder.expanduser().absolute() if folder is not None else None)
    if folder is not None and not archive.folder.is_dir():
        raise NotFound(f"There is no folder {archive.folder}.")
    sites = None if site is None else [site]
    found = audit.verify_files(archive, sites) if files_only else asyncio.run(audit.verify(_book(), archive, sites))
    problems = [problem for one in found for problem in one.problems]
    if json:
        emit_json([vars(one) for one in found])
        return 1 if problems else 0
    if not found:
        say("Nothing is sealed yet.")
        return 0
    emit_table([_row(one) for one in found])
    for note in [note for one in found for note in one.notes][:20]:
        say(f"- {note}")
    if not problems:
        say("\nAll of it is what was sealed.")
    return _tell(problems)


def _row(found: Verified) -> dict[str, Any]:
    return {
        "site": found.site,
        "batches": found.batches,
        "events": found.events,
        "pruned_batches": found.pruned,
        "files": found.files,
        "sealed_until": found.sealed_at,
        "problems": len(found.problems),
    }
