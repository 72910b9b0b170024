"""The ledger's sealed batches in files: readable, and provable without the database and without this program.

A file is one batch: JSON lines, gzip-ed. The first line is its seal: site, range, number of events, the hash of the batch before it and its
own. Each further line is one event in canonical JSON. Its own hash is the SHA-256 over the hash before it and these lines, so a shell is
enough to prove it:

    (echo PREVIOUS_HASH; zcat FILE | tail -n +2) | head -c -1 | sha256sum
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from typing import TYPE_CHECKING
from urllib.parse import quote

from tasks.core.db.ledger import Seal, SealRecord
from tasks.core.errors import Conflict
from tasks.core.settings import settings

if TYPE_CHECKING:
    from tasks.core.ledger import Ledger

SUFFIX = ".jsonl.gz"
LONGEST_LINE = 1 << 20
"""Bytes of a line in a file; an event has at most two columns of 96 KiB and short ones."""
DRAFT_SECONDS = 3600.0
"""A batch that is still not whole after so long belongs to an export that was killed."""
MOST_PROBLEMS = 100
"""Problems of one site that are told; the rest is counted."""


class Archive:
    """A folder of sealed batches, a folder for each site in it.

    Args:
        folder: Where it is; default: `audit` in the home. Made (0700) when needed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or settings().audit_folder

    def path(self, seal: Seal) -> Path:
        """Where a batch is, or will be. Names sort in the order of the chain."""
        return self._site(seal.site) / f"{seal.from_seq:012d}-{seal.to_seq:012d}{SUFFIX}"

    def write(self, seal: Seal, lines: Iterable[bytes]) -> Path:
        """Write a batch and return when it is on the disk: whole and proved under its name, or not there.

        Raises:
            Conflict: The lines are not what was sealed. A file that is there stays as it is.
            OSError: It cannot be written.
        """
        path = self.path(seal)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{token_hex(4)}")  # another export may be writing the same batch
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as raw:
                # No time and no name in it: the same batch is the same file, whoever writes it.
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as stream:
                    stream.write(json.dumps(vars(seal), separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
                    events, digest = 0, hashlib.sha256(seal.previous_hash.encode())
                    for line in lines:
                        events += 1
                        digest.update(b"\n" + line)
                        stream.write(line + b"\n")
                raw.flush()
                os.fsync(raw.fileno())
            if (events, digest.hexdigest()) != (seal.events, seal.hash):
                raise Conflict(
                    f"The ledger's {seal}: what is there is not what was sealed.", hint="See: signalbox audit verify"
                )
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        for folder in (path.parent, self.folder):
            _fsync(folder)  # the names as well
        return path

    def holds(self, seal: Seal) -> bool:
        """Whether the batch is there, and its file proves it."""
        try:
            return read(self.path(seal)) == seal
        except (OSError, Damaged):
            return False

    def tidy(self) -> None:
        """Remove what exports that were killed left half-written."""
        for draft in self.folder.glob(f"*/.*{SUFFIX}.*"):
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > DRAFT_SECONDS:
                    draft.unlink()

    def files(self, sites: Sequence[str] | None = None) -> list[Path]:
        """The files, in the order of each site's chain."""
        folders = self.folder.glob("*/") if sites is None else (self._site(site) for site in sites)
        return sorted(file for folder in folders for file in folder.glob(f"[0-9]*{SUFFIX}"))

    def _site(self, site: str) -> Path:
        name = quote(site, safe="")
        return self.folder / (f"%2E{name[1:]}" if name.startswith(".") else name)


class Damaged(ValueError):
    """A file does not prove what it says it holds."""


def read(path: Path) -> Seal:
    """Read a file to its end and return the seal it proves.

    Raises:
        Damaged: It is no batch, or was changed, or cut.
        OSError: It cannot be read.
    """
    with closing(_lines(path)) as lines:
        first = next(lines, b"")
        try:
            seal = Seal(**json.loads(first))
            events, digest = 0, hashlib.sha256(seal.previous_hash.encode())
        except (ValueError, TypeError, AttributeError):
            raise Damaged("its first line is no seal") from None
        for line in lines:
            events += 1
            digest.update(b"\n" + line)
    if digest.hexdigest() != seal.hash:
        raise Damaged(f"its {events} events are not those its seal was made of")
    return seal


def _lines(path: Path) -> Generator[bytes]:
    with gzip.open(path, "rb") as stream:
        try:
            while line := stream.readline(LONGEST_LINE):
                if not line.endswith(b"\n"):
                    raise Damaged("it is cut off")
                yield line[:-1]
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise Damaged("it is cut off or no gzip file") from None


@dataclass
class Exported:
    """What an export wrote."""

    batches: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)


async def export(
    book: Ledger, archive: Archive, *, sites: Sequence[str] | None = None, seconds: float = 600.0
) -> Exported:
    """Write every sealed batch that is not in the archive yet.

    What is in the home's archive is noted in the database, and may be pruned there later. A batch that is not what was sealed is not
    exported, and told. Killed in the middle, the next export goes on where this one was.

    Args:
        book: The ledger.
        archive: Where to.
        sites: Only these; None for all.
        seconds: Time after which the rest is left for the next export.
    """
    done, end = Exported(), time.monotonic() + seconds
    archive.tidy()
    for site in await book.sealed_sites() if sites is None else sites:
        for record in await book.seals(site):
            if time.monotonic() > end:
                return done
            if not archive.path(record.seal).exists():
                if not await _bring(book, archive, record, done.problems):
                    continue
                done.batches += 1
                done.events += record.seal.events
            if _is_own(archive) and gethostname() not in record.hosts:
                await book.note_export(record, gethostname(), archive.path(record.seal).name)
    return done


async def _bring(book: Ledger, archive: Archive, record: SealRecord, problems: list[str]) -> bool:
    """Write one batch, from the database or, when it was pruned there, from the home's archive."""
    try:
        if not record.pruned:
            await book.export(record, archive)
            return True
        own = Archive()
        if _is_own(archive) or not own.path(record.seal).exists():
            return False  # another machine holds it
        lines = _lines(own.path(record.seal))
        next(lines, None)
        archive.write(record.seal, lines)
    except Conflict as error:
        if await book.batch_state(record) != "pruned":  # by another one, meanwhile
            problems.append(error.message)
        return False
    except Damaged as error:
        problems.append(f"{own.path(record.seal)}: {error}")
        return False
    return True


@dataclass
class PrunedEvents:
    """What was removed from the ledger, or would be."""

    batches: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)


async def prune(
    book: Ledger,
    archive: Archive,
    older_than: timedelta,
    *,
    sites: Sequence[str] | None = None,
    dry_run: bool = False,
    seconds: float = 600.0,
) -> PrunedEvents:
    """Remove the events of old batches from the ledger, each only while a proved file of it is in this archive.

    Counters, seals and runs that went on later stay. A batch that was changed in the database goes when its file is good, and is told;
    without a good file it stays, and all after it.

    Args:
        book: The ledger.
        archive: The home's archive.
        older_than: Age of the batches that go, at least a week: the database refuses younger ones.
        sites: Only these; None for all.
        dry_run: Remove nothing, only count.
        seconds: Time after which the rest is left for the next time.
    """
    done, end = PrunedEvents(), time.monotonic() + seconds
    horizon = datetime.now(UTC) - older_than
    for site in await book.sealed_sites() if sites is None else sites:
        for record in await book.seals(site):
            if record.sealed_at > horizon or time.monotonic() > end:
                break
            if record.pruned:
                continue
            if dry_run:
                done.events += record.seal.events
            elif await _secure(book, archive, record, done.problems):
                await book.note_export(record, gethostname(), archive.path(record.seal).name)
                done.events += await book.prune(record)
            else:
                break
            done.batches += 1
    return done


async def _secure(book: Ledger, archive: Archive, record: SealRecord, problems: list[str]) -> bool:
    """Make sure that a batch about to go is in a proved file; whether it is."""
    state = await book.batch_state(record)
    if state == "changed":
        problems.append(f"{record.seal}: what is in the database is not what was sealed")
    if archive.holds(record.seal):
        return True
    return state == "intact" and await _bring(book, archive, record, problems)


@dataclass
class Verified:
    """What holds of a site's ledger, and what does not."""

    site: str
    batches: int = 0
    events: int = 0
    pruned: int = 0
    files: int = 0
    sealed_at: datetime | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def verify(book: Ledger, archive: Archive, sites: Sequence[str] | None = None) -> list[Verified]:
    """Recompute the chains in the database and those in the archive, and compare them.

    Args:
        book: The ledger.
        archive: The files.
        sites: Only these; None for all the database or the archive has.
    """
    by_site: dict[str, Verified] = {found.site: found for found in verify_files(archive, sites)}
    names = await book.sealed_sites() if sites is None else sites
    for site in sorted({*names, *by_site}):
        found = by_site.setdefault(site, Verified(site))
        files = archive.files([site])  # before the seals: one that is made meanwhile may get its file at once
        records = await book.seals(site)
        found.batches, found.events = len(records), sum(record.seal.events for record in records)
        found.pruned = sum(record.pruned for record in records)
        found.sealed_at = records[-1].sealed_at if records else None
        found.problems += await book.verify(site)
        for record in records:
            await _compare(book, archive, record, found)
        known = {archive.path(record.seal) for record in records}
        found.problems += [f"{file}: the database has no such batch" for file in files if file not in known]
    for found in by_site.values():
        if (more := len(found.problems) - MOST_PROBLEMS) > 0:
            found.problems[MOST_PROBLEMS:] = [f"{more} more"]
    return [by_site[site] for site in sorted(by_site)]


async def _compare(book: Ledger, archive: Archive, record: SealRecord, found: Verified) -> None:
    """Compare a batch in the database with its file."""
    path = archive.path(record.seal)
    if not path.exists():
        others = [host for host in record.hosts if host != gethostname()]
        if record.pruned and not others:
            found.problems.append(f"{record.seal}: its events were pruned, and their file {path} is missing")
        elif record.pruned:
            found.notes.append(f"{record.seal}: its file is on {', '.join(others)}")
        return
    try:
        lines = _lines(path)
        if Seal(**json.loads(next(lines, b""))) != record.seal:
            found.problems.append(f"{path}: its seal is not the one in the database")
        elif record.pruned and (left := await book.sealed_lines(record)) and not set(left) <= set(lines):
            found.problems.append(f"{record.seal}: an event that was not pruned differs from its file")
    except (ValueError, TypeError, OSError):
        return  # told when the file was read to its end


def verify_files(archive: Archive, sites: Sequence[str] | None = None) -> list[Verified]:
    """Prove an archive alone: each file by its own hash, and each as the next of the one before it.

    Files may be missing at its beginning, where old ones were moved away, and nowhere else.
    """
    by_site: dict[str, Verified] = {}
    chains: dict[str, list[tuple[Path, Seal]]] = {}
    for file in archive.files(sites):
        site = file.parent.name
        try:
            seal = read(file)
            site = seal.site
            problem = None if archive.path(seal) == file else "it is not where the batch it holds belongs"
        except (Damaged, OSError) as error:
            seal, problem = None, str(error) if isinstance(error, Damaged) else f"it cannot be read ({error.strerror})"
        found = by_site.setdefault(site, Verified(site))
        found.files += 1
        if problem is not None:
            found.problems.append(f"{file}: {problem}")
        elif seal is not None:
            found.batches += 1
            found.events += seal.events
            chains.setdefault(site, []).append((file, seal))
    for site, chain in chains.items():
        by_site[site].problems += [
            f"{file}: does not follow {before.name}, the file before it"
            for (before, earlier), (file, seal) in pairwise(chain)
            if seal.previous_hash != earlier.hash
        ]
    return list(by_site.values())


def _is_own(archive: Archive) -> bool:
    return archive.folder.absolute() == settings().audit_folder


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
