"""The ledger of tool runs: who ran what against what, when, allowed by which rule, with which result.

A run is its events (queued, refused, started, finished, unknown); they are only ever added. What reads and probes is noted in a
local journal while the database is away, and entered later; what changes something is not done at all until it is noted.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import UUID, uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tasks.core.db import ledger as sql
from tasks.core.db.engine import Database, database
from tasks.core.db.ledger import Seal, SealRecord
from tasks.core.errors import DatabaseGone, NotFound, ToolError
from tasks.core.log import run_logger
from tasks.core.redact import bounded, redact, redact_text, storable
from tasks.core.settings import settings

if TYPE_CHECKING:
    from tasks.core.audit import Archive

T = TypeVar("T")

Outcome = Literal["completed", "failed", "refused", "timed_out", "cancelled"]

PATIENCE_SECONDS = 2.0
"""How long the database may take to note what a journal can note as well."""
BREAKER_SECONDS = 10.0
"""How long after the database was found gone nobody waits for it again to note what a journal can note as well."""
REPLAY_BATCH = 200
REPLAY_SECONDS = 1.0
"""How much of the journal one write that succeeded brings along; the rest comes with the next ones."""


class RunEvent(BaseModel):
    """One thing that happened to a tool run."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: UUID = Field(default_factory=uuid4, description="Identifies the event: noting it twice notes it once.")
    tool_run_id: UUID = Field(description="The run.")
    site: str = Field(description="Site the run works at.")
    kind: Literal["queued", "refused", "started", "finished", "unknown"] = Field(description="What happened.")
    at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC), description="When it happened.")
    tool: str = Field(description="Canonical name of the tool.")
    service: str = Field(description="The tool's service.")
    safety: str = Field(description="The tool's safety.")
    target: str = Field("", description="What it is run against, at most 500 characters.")
    allowed_by: str | None = Field(None, description="The rule that allowed it.")
    request_id: str | None = Field(None, description="The request the run belongs to.")
    flow_run_id: UUID | None = Field(None, description="Prefect's flow run.")
    task_run_id: UUID | None = Field(None, description="Prefect's task run.")
    who: str | None = Field(None, description="Who asked.")
    attempt: int = Field(1, ge=1, description="1 for the first attempt.")
    duration_s: float | None = Field(None, ge=0, description="How long it took, seconds.")
    outcome: Outcome | None = Field(None, description="How it ended; refused and finished events have one.")
    error_class: str | None = Field(None, description="Name of the error.")
    error_message: str | None = Field(None, description="What the error said.")
    result: dict[str, Any] | None = Field(None, description="The result; a marker in its place above 64 KiB.")
    params: dict[str, Any] | None = Field(None, description="The parameters.")
    trace_id: str | None = Field(None, description="Trace the run is part of.")


class ToolRunRecord(BaseModel):
    """The latest state of a tool run, as its events tell it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: UUID
    site: str
    tool: str
    service: str
    safety: str
    target: str
    state: Literal["queued", "running", "completed", "failed", "refused", "timed_out", "cancelled", "unknown"]
    outcome: Outcome | None
    attempt: int
    duration_s: float | None
    error_class: str | None
    error_message: str | None
    result: dict[str, Any] | None
    params: dict[str, Any] | None
    allowed_by: str | None
    request_id: str | None
    flow_run_id: UUID | None
    task_run_id: UUID | None
    who: str | None
    trace_id: str | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class PastResult(BaseModel):
    """The result of a run that completed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool_run_id: UUID
    at: datetime
    result: dict[str, Any]


class RunFilter(BaseModel):
    """Which runs to list; what is None does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str | None = None
    tool: str | None = None
    service: str | None = None
    safety: str | None = None
    state: str | None = Field(None, description="queued, running, unknown, or an outcome.")
    who: str | None = None
    request_id: str | None = None
    flow_run_id: UUID | None = None
    target: str | None = Field(None, description="Part of the target, in any case.")
    since: AwareDatetime | None = Field(None, description="Last event at or after.")
    until: AwareDatetime | None = Field(None, description="Last event before.")


class Count(BaseModel):
    """How often a tool ended how. Counted once per attempt, when the event arrives; never taken back, never pruned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    tool: str
    outcome: str
    bucket: datetime | None = Field(description="Start of the hour or day; None for the sum of all.")
    count: int
    duration_sum_s: float


class Ledger:
    """The ledger in a database, with a journal beside it.

    Args:
        connect: Gives the database. Called anew until it succeeds: the embedded one may not have been started yet.
        journal: Folder of events that wait for the database; made (0700) when needed.
    """

    def __init__(self, connect: Callable[[], Database] = database, journal: Path | None = None) -> None:
        self._connect = connect
        self._journal = Journal(journal or settings().journal_folder)
        self._gone_until = 0.0

    async def record(self, event: RunEvent, *, ahead: bool) -> None:
        """Note an event. Noting the same event again changes nothing.

        Args:
            event: What happened. Secrets are masked and sizes bounded here.
            ahead: It must be in the database before the caller goes on: for what changes something. Otherwise the journal
                does when the database does not answer within 2 s, or did not a moment ago.

        Raises:
            DatabaseGone: It could not be noted (where it had to be).
        """
        values = _prepare(event)
        if ahead:
            try:
                await self._run(lambda connection: sql.insert_events(connection, [values]))
            except ToolError as error:
                raise DatabaseGone(
                    f"The ledger cannot be written, so {event.tool} was not run: {error.message}", hint=error.hint
                ) from None
        elif time.monotonic() < self._gone_until:
            await self._spool(values)
            return
        else:
            try:
                await self._run(lambda connection: sql.insert_events(connection, [values]), timeout=PATIENCE_SECONDS)
            except asyncio.CancelledError:
                self._journal.write(values)  # perhaps noted already; the event's id keeps it from being noted twice
                raise
            except (ToolError, DBAPIError) as error:
                run_logger().warning("The ledger's database is away (%s); noted in the journal.", type(error).__name__)
                await self._spool(values)
                return
        # What was asked is done; what waits in the journal is brought along, a little at a time.
        with suppress(ToolError, OSError):  # TimeoutError is an OSError
            async with asyncio.timeout(2 * REPLAY_SECONDS):
                await self.replay(seconds=REPLAY_SECONDS)

    async def replay(self, *, seconds: float = 60.0) -> int:
        """Enter what waits in the journal; return how many events were new. Two at once do each event once.

        What the database will never take is kept under another name (`.rejected`) and logged.

        Raises:
            DatabaseGone: The database is away; what is left stays in the journal.
        """
        end = time.monotonic() + seconds
        new = 0
        for files in _batches(await asyncio.to_thread(self._journal.files), REPLAY_BATCH):
            new += await self._enter(files)
            if time.monotonic() > end:
                break
        return new

    async def get_run(self, tool_run_id: UUID | str) -> ToolRunRecord:
        """Return the latest state of a run.

        Raises:
            NotFound: The ledger has no such run.
        """
        try:
            key = tool_run_id if isinstance(tool_run_id, UUID) else UUID(tool_run_id)
        except ValueError:
            raise NotFound(f"{tool_run_id!r} is not the id of a tool run.") from None
        row = await self._run(lambda connection: sql.get_run(connection, key))
        if row is None:
            raise NotFound(
                f"The ledger has no tool run {key}.", hint="While the database was away it may wait in the journal."
            )
        return ToolRunRecord.model_validate(dict(row))

    async def list_events(self, tool_run_id: UUID) -> list[dict[str, Any]]:
        """Return all events of a run, in the order they happened."""
        return [dict(row) for row in await self._run(lambda connection: sql.run_events(connection, tool_run_id))]

    async def list_runs(self, filters: RunFilter | None = None, limit: int = 50) -> list[ToolRunRecord]:
        """Return runs, the one with the newest event first."""
        given = (filters or RunFilter()).model_dump()
        rows = await self._run(lambda connection: sql.list_runs(connection, given, limit))
        return [ToolRunRecord.model_validate(dict(row)) for row in rows]

    async def last_results(
        self, site: str, tool: str, *, target: str, since: datetime, limit: int = 10
    ) -> list[PastResult]:
        """Return results of a tool's latest completed runs against a target (a part of it matches), the newest first."""
        rows = await self._run(lambda connection: sql.last_results(connection, site, tool, target, since, limit))
        return [PastResult.model_validate(dict(row)) for row in rows]

    async def counters(
        self,
        *,
        site: str | None = None,
        tool: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Literal["hour", "day"] | None = None,
    ) -> list[Count]:
        """Return how often each tool ended how at each site: the sum of all time, or per hour or day (UTC)."""
        rows = await self._run(
            lambda connection: sql.counters(connection, site=site, tool=tool, since=since, until=until, by=by)
        )
        return [Count.model_validate(dict(row)) for row in rows]

    async def mark_unknown(self, older_than: timedelta, *, runs: Sequence[UUID] | None = None) -> list[UUID]:
        """Mark attempts that started that long ago and never ended; return their runs. An end that comes later still counts.

        Args:
            older_than: Longer than any tool's deadline, or anything where `runs` are known to be over.
            runs: Only these runs; None for all.
        """
        return await self._run(lambda connection: sql.mark_unknown(connection, older_than, runs), timeout=60.0)

    async def seal(self) -> list[Seal]:
        """Chain hashes over all events that are not under one yet, site by site; return the new seals."""
        horizon = await self._run(sql.horizon)  # a transaction of its own: its lock keeps writers waiting
        made: list[Seal] = []
        while batch := await self._run(lambda connection: sql.seal(connection, horizon), timeout=60.0):
            made += batch
        return made

    async def verify(self, site: str) -> list[str]:
        """Recompute a site's chain of hashes; return what does not hold, nothing when all does."""
        return await self._run(lambda connection: sql.broken_seals(connection, site), timeout=600.0)

    # --- sealed batches one by one; `tasks.core.audit` puts them into files ---

    async def sealed_sites(self) -> list[str]:
        """Return the sites that have a seal."""
        return await self._run(sql.sealed_sites)

    async def seals(self, site: str) -> list[SealRecord]:
        """Return a site's chain, oldest first, and what became of each batch."""
        return await self._run(lambda connection: sql.seals(connection, site), timeout=60.0)

    async def export(self, record: SealRecord, archive: Archive) -> None:
        """Write a batch into an archive.

        Raises:
            Conflict: Its events are not what was sealed.
        """
        seal = record.seal
        await self._run(lambda connection: archive.write(seal, sql.sealed_lines(connection, seal)), timeout=120.0)

    async def note_export(self, record: SealRecord, host: str, file: str) -> None:
        """Note that a machine holds a batch in a file."""
        await self._run(lambda connection: sql.note_export(connection, record.id, host, file))

    async def batch_state(self, record: SealRecord) -> Literal["intact", "changed", "pruned"]:
        """Say how a batch stands now: its events are what was sealed, are not, or were pruned."""
        return await self._run(lambda connection: sql.batch_state(connection, record), timeout=120.0)

    async def sealed_lines(self, record: SealRecord) -> list[bytes]:
        """Return the events of a batch that are in the database, as the lines its hash is made of."""
        return await self._run(lambda connection: list(sql.sealed_lines(connection, record.seal)), timeout=120.0)

    async def prune(self, record: SealRecord) -> int:
        """Remove the events of a batch that is exported and a week old at least; return how many went."""
        return await self._run(lambda connection: sql.prune(connection, record.id), timeout=120.0)

    async def _run(self, fn: Callable[[Connection], T], *, timeout: float | None = None) -> T:
        try:
            found = await self._connect().run(fn, timeout=timeout)
        except (DatabaseGone, NotFound):
            self._gone_until = time.monotonic() + BREAKER_SECONDS
            raise
        self._gone_until = 0.0
        return found

    async def _spool(self, values: dict[str, Any]) -> None:
        try:
            await asyncio.to_thread(self._journal.write, values)
        except OSError as error:
            raise DatabaseGone(
                f"The ledger cannot be written: the database is away and the journal {self._journal.folder} fails"
                f" ({error.strerror or type(error).__name__})."
            ) from None

    async def _enter(self, files: list[Path]) -> int:
        """Enter a batch; one event the database rejects must not keep the others waiting for ever."""
        events = {file: values for file in files if (values := self._journal.read(file)) is not None}
        try:
            new = await self._run(lambda connection: sql.insert_events(connection, list(events.values())), timeout=30.0)
        except DBAPIError as error:
            if len(files) == 1:
                run_logger().error("The ledger rejects %s: %s", files[0].name, type(error.orig).__name__)
                self._journal.set_aside(files[0])
                return 0
            return sum([await self._enter([file]) for file in events])
        self._journal.remove(events)
        return new


class Journal:
    """Events that wait for the database: one file each, whole or not there, readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, values: dict[str, Any]) -> None:
        """Write one event and return when it is on the disk.

        Raises:
            OSError: It cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Sorts by time; the event's id makes it one file however often it is written.
        name = f"{values['at'].strftime('%Y%m%dT%H%M%S.%f')}-{values['id']}.json"
        draft = self.folder / f".{name}.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                json.dump(values, stream, default=_to_text, ensure_ascii=False)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.rename(self.folder / name)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name as well
        finally:
            os.close(folder)

    def files(self) -> list[Path]:
        """The waiting events, oldest first."""
        try:
            return sorted(file for file in self.folder.iterdir() if file.suffix == ".json" and file.name[0] != ".")
        except FileNotFoundError:
            return []

    def read(self, file: Path) -> dict[str, Any] | None:
        """Read an event; None when another replay has just entered it, or it is damaged (then it is set aside)."""
        try:
            return RunEvent.model_validate_json(file.read_bytes()).model_dump()
        except FileNotFoundError:
            return None
        except (ValidationError, UnicodeDecodeError):
            run_logger().error("The journal's %s is damaged.", file.name)
            self.set_aside(file)
            return None

    def set_aside(self, file: Path) -> None:
        """Keep a file that cannot be entered, under a name nobody reads again."""
        with suppress(FileNotFoundError):
            file.rename(file.with_name(f"{file.name}.rejected"))

    def remove(self, files: Iterable[Path]) -> None:
        """Remove what was entered."""
        for file in files:
            file.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def ledger() -> Ledger:
    """The ledger of this process. Tests call `ledger.cache_clear()`."""
    return Ledger()


def _prepare(event: RunEvent) -> dict[str, Any]:
    """Return an event's values as they are kept: secrets masked, sizes bounded, nothing PostgreSQL cannot store."""
    values = event.model_dump()
    for name in ("result", "params"):
        values[name] = bounded(redact(values[name]))
    for name, longest in (("target", 500), ("error_message", 2000), ("allowed_by", 500)):
        if values[name] is not None:
            values[name] = redact_text(values[name])[:longest]
    for name in ("site", "tool", "service", "safety", "request_id", "who", "error_class", "trace_id"):
        if values[name] is not None:
            values[name] = storable(values[name])[:200]
    return values


def _to_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _batches(files: list[Path], size: int) -> Iterable[list[Path]]:
    return (files[start : start + size] for start in range(0, len(files), size))
