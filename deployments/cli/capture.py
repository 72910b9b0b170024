"""`signalbox capture`: captures and raw scan output kept as evidence."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from cyclopts import App, Parameter

from deployments.cli._output import emit_json, emit_table, say
from flows._text import count
from tasks.core.errors import Busy, CommandFailed, Conflict, InvalidParameters, NotFound
from tasks.core.settings import settings

if TYPE_CHECKING:
    from blocks.captures import CaptureStore, StoredEntry

app = App(name="capture", help="Captures and raw scan output kept as evidence.", help_format="plaintext")

NAMES_HINT = "Names: signalbox capture list"
_CHUNK = 1 << 20


def _store(site: str | None) -> CaptureStore:
    from tasks.core.run import wiring

    return asyncio.run(wiring().store(site or settings().site))


@contextlib.contextmanager
def _reading(store: CaptureStore, name: str) -> Iterator[Path]:
    """The path of a file of the store, which stays there meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(store.reading(name))
        except ValueError as error:
            raise InvalidParameters(f"{error}.", hint=NAMES_HINT) from None
        except IsADirectoryError:
            raise InvalidParameters(f"{name} is a folder of the store.", hint=NAMES_HINT) from None
        except FileNotFoundError:
            raise NotFound(f"There is no file {name} in the store.", hint=NAMES_HINT) from None
        yield path


def _row(entry: StoredEntry, store: CaptureStore) -> dict[str, Any]:
    modified = datetime.fromtimestamp(entry.modified_at, UTC)
    return {
        "name": entry.name,
        "size_bytes": entry.size_bytes,
        "modified": modified.isoformat(timespec="seconds"),
        "kept_until": (modified + timedelta(days=store.retention_days)).isoformat(timespec="seconds"),
    }


@app.command(name="list")
def list_files(prefix: str = "", /, *, site: str | None = None, limit: int = 50, json: bool = False) -> int:
    """List the newest files of the store.

    What runs that were killed had captured until then is put into the store first.

    Args:
        prefix: Only names that begin so, such as tcpdump/.
        site: The site.
        limit: Most files to list.
        json: Print one JSON document, all files in it.
    """
    store = _store(site)
    recovered = store.recover()
    rows = [_row(entry, store) for entry in store.files() if entry.name.startswith(prefix)]
    if json:
        emit_json(rows)
        return 0
    emit_table(rows[-limit:])
    if recovered:
        say(f"\nRecovered from runs that were killed: {', '.join(stored.name for stored in recovered)}")
    left_out = f" ({len(rows) - limit} older ones are not shown)" if len(rows) > limit else ""
    say(
        f"\n{count(len(rows), 'file')}{left_out}; the store has {store.usage():,} of {store.quota_bytes:,} bytes in {store.folder}; "
        f"kept {store.retention_days} days."
    )
    return 0


@app.command
def show(name: str, /, *, site: str | None = None, json: bool = False) -> int:
    """Show where a file is, how large, its SHA-256, and of a pcap file how many packets it has.

    Args:
        name: Its name in the store.
        site: The site.
        json: Print one JSON document.
    """
    from blocks._pcap import measure

    store = _store(site)
    with _reading(store, name) as path:
        facts: dict[str, Any] = {**store.describe(name)._asdict(), "path": str(path)}
        if (whole := measure(path)) is not None:
            facts["packets"] = whole.packets
    if json:
        emit_json(facts)
    else:
        for key, value in facts.items():
            say(f"{key}: {value}")
    return 0


@app.command
def save(
    name: str,
    file: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    /,
    *,
    site: str | None = None,
    force: bool = False,
) -> int:
    """Copy a file of the store to a place of yours, checked against its SHA-256.

    Args:
        name: Its name in the store.
        file: Where to: a file, a folder, or - for standard output; default: its own name in this folder.
        site: The site.
        force: Replace a file that is there.
    """
    store = _store(site)
    with _reading(store, name) as path:
        if file == "-":
            with path.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer, _CHUNK)
            sys.stdout.buffer.flush()
            return 0
        target = Path(file or ".").expanduser()
        if target.is_dir():
            target /= path.name
        stored = store.describe(name)
        _copy(path, target, stored.sha256, force=force)
    say(f"{target}: {stored.size_bytes:,} bytes, SHA-256 {stored.sha256}")
    return 0


def _copy(path: Path, target: Path, sha256: str, *, force: bool) -> None:
    """Copy a file so that it appears whole under its name; others may not read it, captures hold what people said."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with path.open("rb") as source, _new_file(draft) as copy:
            digest = hashlib.sha256()
            while piece := source.read(_CHUNK):
                digest.update(piece)
                copy.write(piece)
        if digest.hexdigest() != sha256:
            raise CommandFailed(
                f"{path.name} changed while it was copied.", hint="Is anybody writing to the store's folder?"
            )
        if force:
            draft.replace(target)
        else:
            os.link(draft, target)  # unlike a rename, a link never replaces a file
    except FileExistsError:
        raise Conflict(f"There is a file {target} already.", hint="Choose another name, or --force.") from None
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidParameters(f"There is no folder {target.parent}.") from None
    finally:
        draft.unlink(missing_ok=True)


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


@app.command
def add(file: Path, /, *, name: str | None = None, site: str | None = None, json: bool = False) -> int:
    """Put a capture of yours into the store, where the analyzers can read it.

    Args:
        file: A pcap or pcapng file.
        name: Its name in the store; default: added/DAY/ and its own name.
        site: The site.
        json: Print one JSON document.
    """
    from tasks.network.capture._stored import check_capture

    store = _store(site)
    try:
        check_capture(file, str(file))
        wanted = name or f"added/{datetime.now(UTC):%Y-%m-%d}/{file.name}"
        path = store.new(wanted, expected_bytes=file.stat().st_size)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InvalidParameters(f"{file} cannot be read: {error.strerror}.") from None
    except FileExistsError:
        raise Conflict(f"The store has a file {wanted} already.", hint="Choose another --name.") from None
    except ValueError as error:
        if isinstance(error, InvalidParameters):
            raise
        raise InvalidParameters(f"{error}.", hint="Choose a --name.") from None
    except OSError as error:
        if error.errno in {errno.EDQUOT, errno.ENOSPC}:
            raise Busy(f"{error.strerror}.", hint="Make room: signalbox capture prune") from None
        raise
    try:
        shutil.copyfile(file, path)
        stored = store.commit(path)
    except BaseException:
        store.discard(path)
        raise
    if json:
        emit_json(stored._asdict())
    else:
        say(f"{stored.name}: {stored.size_bytes:,} bytes, SHA-256 {stored.sha256}")
    return 0


@app.command
def prune(*, site: str | None = None, dry_run: bool = False, json: bool = False) -> int:
    """Remove files older than the store keeps them, and the oldest while it is too full.

    A file somebody is reading stays. What runs that were killed had captured until then is put into the store first.

    Args:
        site: The site.
        dry_run: Remove nothing, only say what would be removed.
        json: Print one JSON document.
    """
    store = _store(site)
    recovered = [] if dry_run else store.recover()
    removed = store.prune(dry_run=dry_run)
    if json:
        emit_json([entry.name for entry in removed])
        return 0
    if recovered:
        say(f"Recovered from runs that were killed: {', '.join(stored.name for stored in recovered)}")
    if dry_run:
        emit_table([_row(entry, store) for entry in removed])
    size = sum(entry.size_bytes for entry in removed)
    say(f"{'Would remove' if dry_run else 'Removed'} {count(len(removed), 'file')}, {size:,} bytes.")
    return 0
