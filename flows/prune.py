"""Keep the store of captures and evidence within its retention and its quota (`prune/hourly`, `prune/on-demand`).

The ledger is not pruned: what is removed from it must have been sealed and exported before (docs/architecture.md), and nothing exports
it yet.
"""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field

from blocks.captures import CaptureStore, StoredEntry, StoredFile
from flows._text import count, markdown_table
from tasks.core.log import run_logger
from tasks.core.run import wiring
from tasks.core.settings import settings

MOST_LISTED = 200


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
    dry_run: bool = Field(description="Whether nothing was removed.")

    def headline(self) -> str:
        """Say it in one line."""
        verb = "would be removed" if self.dry_run else "removed"
        text = f"{count(self.removed, 'file')} {verb} ({self.removed_bytes:,} bytes)"
        if self.recovered:
            text += f", {count(len(self.recovered), 'capture')} of killed runs recovered"
        return f"{text}; {count(self.files, 'file')} in the store, {self.used_bytes:,} of {self.quota_bytes:,} bytes"


@flow(name="prune", persist_result=False, timeout_seconds=900)
async def prune(site: str | None = None, dry_run: bool = False) -> Pruned:
    """Remove captures and evidence that are too old, and the oldest while the store is too full.

    A file somebody reads is never removed, and none of the last hour for want of room. Captures that killed runs left are put into the
    store first.

    Args:
        site: Site of the store, whose worker this must be; default: this machine's site.
        dry_run: Remove nothing, only say what would be removed.
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
    run_logger().info("%s", done.headline())
    if removed or recovered:
        await acreate_markdown_artifact(key="pruned", markdown=_page(done, removed), description=done.headline()[:200])
    return done


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
    if removed:
        rows = [{"name": entry.name, "bytes": f"{entry.size_bytes:,}"} for entry in removed]
        lines += ["### Would be removed" if done.dry_run else "### Removed", "", markdown_table(rows, most=MOST_LISTED)]
    return "\n".join(lines)
