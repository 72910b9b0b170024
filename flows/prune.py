"""Keep the store of captures and evidence, and the ledger, within their retention and quota (`prune/hourly`, `prune/on-demand`).

What is sealed in the ledger is exported into `audit` in the home; only what a file there proves is removed from the database.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field

from blocks.captures import CaptureStore, StoredEntry, StoredFile
from flows._text import count, markdown_table
from tasks.core import audit
from tasks.core.audit import Archive
from tasks.core.errors import Conflict, DatabaseGone
from tasks.core.log import run_logger
from tasks.core.run import wiring
from tasks.core.settings import settings

MOST_LISTED = 200
LEDGER_SECONDS = 300.0
"""Seconds exporting may take, and as many pruning; the next hour goes on."""

LedgerDays = Annotated[int, Field(ge=7)]


class Pruned(BaseModel):
    """What was done to a store."""

    model_config = ConfigDict(frozen=True)

    site: str = Field(description="Site of the store.")
    removed: int = Field(description="Files removed, or that would be.")
    removed_bytes: int = Field(description="Their bytes.")
    recovered: list[str] = Field(description="Captures of killed runs that were put into the store.")
    files: int = Field(description="Files in the store now.")
    used_bytes: int = Field(description="Bytes they take.")
    quota_bytes: int = Field(description="Most bytes they may take.")
    exported: int = Field(0, description="Events of the ledger that were exported.")
    pruned: int = Field(0, description="Events removed from the ledger, or that would be; their seals and sums stay.")
    ledger_problems: list[str] = Field(default=[], description="What of the ledger is not what was sealed.")
    dry_run: bool = Field(description="Whether nothing was removed.")

    def headline(self) -> str:
        """Say it in one line."""
        text = f"{self._store()}; {count(self.exported, 'event')} of the ledger exported, {count(self.pruned, 'event')}"
        text += " would be removed" if self.dry_run else " removed"
        if self.ledger_problems:
            text += f"; the ledger was changed: {count(len(self.ledger_problems), 'problem')}"
        return text

    def _store(self) -> str:
        verb = "would be removed" if self.dry_run else "removed"
        text = f"{count(self.removed, 'file')} {verb} ({self.removed_bytes:,} bytes)"
        if self.recovered:
            text += f", {count(len(self.recovered), 'capture')} of killed runs recovered"
        return f"{text}; {count(self.files, 'file')} in the store, {self.used_bytes:,} of {self.quota_bytes:,} bytes"


@flow(name="prune", persist_result=False, timeout_seconds=900)
async def prune(site: str | None = None, dry_run: bool = False, ledger_days: LedgerDays | None = None) -> Pruned:
    """Remove captures, evidence and ledger events that are too old, and the oldest files while the store is too full.

    A file somebody reads is never removed, and none of the last hour for want of room. Captures that killed runs left are put into the
    store first. Of the ledger all that is sealed is exported, and what is too old goes once a file in this machine's home proves it.

    Args:
        site: Site of the store, whose worker this must be, and of the ledger's events; default: this machine's store, all events.
        dry_run: Remove and export nothing, only say what would be removed.
        ledger_days: Days the ledger keeps its events, at least 7; default: SIGNALBOX_LEDGER_DAYS, or else 400.

    Raises:
        Conflict: Events of the ledger are not what was sealed; all else was done.
        DatabaseGone: The ledger cannot be reached; the store was pruned.
    """
    name = site or settings().site
    store = await wiring().store(name)
    recovered, removed = await asyncio.to_thread(_prune, store, dry_run)
    done = Pruned(
        site=name,
        removed=len(removed),
        removed_bytes=sum(entry.size_bytes for entry in removed),
        recovered=[stored.name for stored in recovered],
        files=len(await asyncio.to_thread(store.files)),
        used_bytes=await asyncio.to_thread(store.usage),
        quota_bytes=store.quota_bytes,
        dry_run=dry_run,
    )
    gone: DatabaseGone | None = None
    try:
        done = done.model_copy(update=await _ledger(site, dry_run, ledger_days))
    except DatabaseGone as error:
        gone = error
    run_logger().info("%s", done.headline())
    if removed or recovered or done.pruned or done.ledger_problems:
        await acreate_markdown_artifact(key="pruned", markdown=_page(done, removed), description=done.headline()[:200])
    if gone is not None:
        raise gone
    if done.ledger_problems:
        raise Conflict(f"The ledger was changed: {done.ledger_problems[0]}.", hint="See: signalbox audit verify")
    return done


async def _ledger(site: str | None, dry_run: bool, days: int | None) -> dict[str, object]:
    """Export what is sealed, then remove what is too old."""
    book = wiring().ledger()
    if book is None:  # tests
        return {}
    archive, sites = Archive(), None if site is None else [site]
    problems: list[str] = []
    exported = 0
    if not dry_run:
        written = await audit.export(book, archive, sites=sites, seconds=LEDGER_SECONDS)
        exported, problems = written.events, written.problems
    age = timedelta(days=settings().ledger_days if days is None else days)
    removed = await audit.prune(book, archive, age, sites=sites, dry_run=dry_run, seconds=LEDGER_SECONDS)
    problems += [problem for problem in removed.problems if problem not in problems]
    return {"exported": exported, "pruned": removed.events, "ledger_problems": problems[:MOST_LISTED]}


def _prune(store: CaptureStore, dry_run: bool) -> tuple[list[StoredFile], list[StoredEntry]]:
    recovered = [] if dry_run else store.recover()
    return recovered, store.prune(dry_run=dry_run)


def _page(done: Pruned, removed: list[StoredEntry]) -> str:
    lines = [f"## {done.headline()}", ""]
    if done.recovered:
        lines += [
            "### Recovered",
            "",
            markdown_table([{"name": name} for name in done.recovered], most=MOST_LISTED),
            "",
        ]
    if done.ledger_problems:
        lines += [
            "### The ledger is not what was sealed",
            "",
            *(f"- {problem}" for problem in done.ledger_problems),
            "",
        ]
    if removed:
        rows = [{"name": entry.name, "bytes": f"{entry.size_bytes:,}"} for entry in removed]
        lines += ["### Would be removed" if done.dry_run else "### Removed", "", markdown_table(rows, most=MOST_LISTED)]
    return "\n".join(lines)
