"""Bring assets in from files, and write them out. An import is one transaction: all of a file or nothing, every error by its line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from tasks.asset._asset import Asset, HostMac, Hostname, IpAddress, Metadata, Serial, SettableStatus, Tags, Text
from tasks.asset._changes import Changes, EventKind
from tasks.asset._edit import NAMING, Editor
from tasks.asset._identity import Kind, Strength, same_name, serial_key
from tasks.asset._nmap_file import read_nmap
from tasks.asset._reconcile import reconcile
from tasks.core.db import assets
from tasks.core.db.engine import Database, database
from tasks.core.db.inventory import lock_site
from tasks.core.db.sites import ensure_site, find_site
from tasks.core.errors import InvalidParameters, ToolError

Format = Literal["auto", "csv", "netbox", "nmap"]
TIMEOUT = 600.0
"""Seconds an import may take."""
LARGEST_FILE = 256 << 20
PAGE = 1000

COLUMNS = (
    "id", "site", "hostname", "address", "mac", "type", "status", "environment", "location", "owner", "vendor", "model", "serial",
    "firmware", "os", "tags", "metadata", "addresses", "first_seen", "last_seen", "created_at", "updated_at",
)  # fmt: skip
"""Columns of an export, in order. An import takes the same file; what only the machine knows is passed over."""
_PASSED_OVER = frozenset({"addresses", "first_seen", "last_seen", "created_at", "updated_at", "version", "merged_into"})
_ALIASES = {"name": "hostname", "ip": "address", "primary_ip": "address", "ip_address": "address", "mac_address": "mac"}


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong on a line, and how it would be right."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, or would do.

    Attributes:
        format: What the file was read as.
        site: The site.
        rows: Assets or hosts in the file.
        created: Assets made.
        updated: Assets changed.
        unchanged: Assets that are as the file says already.
        errors: All that is wrong, by line. With any of them nothing was written.
        notes: What was passed over.
        dry_run: Nothing was written because that was asked for.
        changes: The change set of an nmap file, which is reconciled like a scan.
    """

    format: str
    site: str
    rows: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    errors: tuple[LineError, ...] = ()
    notes: tuple[str, ...] = ()
    dry_run: bool = False
    changes: Changes | None = None


class _Row(BaseModel):
    """What a line may say: the same shapes as `asset_create`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    hostname: Hostname | None = None
    address: IpAddress | None = None
    mac: HostMac | None = None
    serial: Serial | None = None
    type: Text | None = None
    status: SettableStatus | None = None
    environment: Text | None = None
    location: Text | None = None
    owner: Text | None = None
    vendor: Text | None = None
    model: Text | None = None
    firmware: Text | None = None
    os: Text | None = None
    tags: Tags | None = None
    metadata: Metadata | None = None


@dataclass(slots=True)
class _Line:
    """A line that says something about one asset."""

    line: int
    values: dict[str, Any]
    asset_id: int | None = None
    external_id: str | None = None


@dataclass(slots=True)
class _Reading:
    """A file on its way in."""

    lines: list[_Line] = field(default_factory=list)
    errors: list[LineError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def complain(self, line: int, message: str) -> None:
        self.errors.append(LineError(line, message))


async def import_assets(
    data: bytes,
    *,
    format: Format = "auto",  # noqa: A002 - the word people use, on the command line too
    site: str = "default",
    dry_run: bool = False,
    by: str = "import",
    db: Database | None = None,
    timeout: float = TIMEOUT,
) -> ImportReport:
    """Import assets from a file: all of it or nothing.

    A line of a CSV file is a person's word: it makes an asset, or changes the one that has its number, its identity, its name or
    its address. Empty cells say nothing. Hosts of an nmap file are observations, and are reconciled like a scan's.

    Args:
        data: The file: CSV as `export_assets` writes it, NetBox's device CSV, or nmap's XML.
        format: What it is; `auto` looks at it.
        site: The site; made when it is new.
        dry_run: Check everything, write nothing.
        by: Who imports.
        db: The database; default: the one of the settings.
        timeout: Seconds it may take.

    Returns:
        What was done. With `errors`, nothing was: they are all there are, not the first.

    Raises:
        InvalidParameters: The file is too large.
        DatabaseGone, Busy: Nothing was written.
    """
    if len(data) > LARGEST_FILE:
        raise InvalidParameters(
            f"The file has {len(data) >> 20} MiB; at most {LARGEST_FILE >> 20} can be imported at once."
        )
    kind = _detect(data) if format == "auto" else format
    reading = _Reading()
    run_id = f"import {uuid4()} by {by}"
    if kind == "nmap":
        hosts = read_nmap(data, site, reading.complain)
        if reading.errors:
            return ImportReport(kind, site, len(hosts), errors=_sorted(reading.errors), dry_run=dry_run)
        changes = await reconcile(site, hosts, run_id=run_id, preview=dry_run, db=db, timeout=timeout)
        created = len(changes.of_kind(EventKind.NEW))
        return ImportReport(
            kind,
            site,
            len(hosts),
            created,
            changes.seen - created - changes.unchanged,
            changes.unchanged,
            dry_run=dry_run,
            changes=changes,
        )
    _read_csv(data, _from_netbox if kind == "netbox" else _from_ours, site, reading)

    def work(connection: Connection) -> ImportReport:
        report = _write(connection, reading, kind, site, run_id, dry_run)
        if dry_run or report.errors:
            raise _NothingWritten(report)
        return report

    try:
        return await (db or database()).run(work, timeout=timeout)
    except _NothingWritten as done:
        return done.report


class _NothingWritten(Exception):
    """Rolls an import back, and carries its report."""

    def __init__(self, report: ImportReport) -> None:
        self.report = report


def _detect(data: bytes) -> str:
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "nmap"
    header = {_column(cell) for cell in re.split(rb"[,;\t]", start.split(b"\n", 1)[0]) if cell}
    return (
        "netbox" if header & {"manufacturer", "device_type", "device_role", "tenant", "primary_ip4", "rack"} else "csv"
    )


def _column(cell: str | bytes) -> str:
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    return re.sub(r"[\s-]+", "_", text.strip().strip('"').strip().lower())


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_csv(
    data: bytes, translate: Callable[[dict[str, str], int, str, _Reading], _Line | None], site: str, reading: _Reading
) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        reading.complain(line, "is not UTF-8; save the file as UTF-8")
        return
    if "\x00" in text:
        reading.complain(text[: text.index("\x00")].count("\n") + 1, "contains a NUL character: this is no CSV file")
        return
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begun = 0
    header: list[str] = []
    try:
        for cells in rows:
            line, begun = begun + 1, rows.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [_ALIASES.get(name, name) for name in map(_column, cells)]
                twice = sorted({name for name in header if name and header.count(name) > 1})
                if twice:
                    reading.complain(line, f"has the column {twice[0]} twice")
                    return
                continue
            if len(cells) > len(header):
                reading.complain(
                    line, f"has {len(cells)} cells, the header {len(header)}; quote cells that contain {delimiter!r}"
                )
                continue
            row = {name: _plain(cell) for name, cell in zip(header, cells, strict=False) if name and cell.strip()}
            found = translate(row, line, site, reading)
            if found is not None:
                reading.lines.append(found)
    except csv.Error as error:
        reading.complain(begun + 1, f"is no CSV: {error}")
    if not header:
        reading.complain(1, f"has no header; right would be: {','.join(COLUMNS[2:6])},...")


def _plain(cell: str) -> str:
    """Undo what an export did so that a spreadsheet does not take a cell for a formula."""
    text = cell.strip()
    return text[1:] if re.match(r"'[=+\-@]", text) else text


def _from_ours(row: dict[str, str], line: int, site: str, reading: _Reading) -> _Line | None:
    """Read a line of a CSV as `export_assets` writes it."""
    unknown = sorted(row.keys() - set(COLUMNS) - _PASSED_OVER - {"external_id"})
    if unknown:
        reading.complain(line, f"has an unknown column {unknown[0]!r}; columns are {', '.join(COLUMNS[:17])}")
        return None
    if row.get("site", site) != site:
        reading.complain(line, f"is of site {row['site']!r}, this import is for {site!r}")
        return None
    values: dict[str, Any] = {name: cell for name, cell in row.items() if name in _Row.model_fields}
    if values.get("status") in ("missing", "stale"):
        del values["status"]  # what scans conclude is not for people to say
    if "tags" in values:
        values["tags"] = _list(values["tags"])
    if "metadata" in values:
        try:
            values["metadata"] = json.loads(values["metadata"])
        except ValueError:
            reading.complain(line, 'metadata: must be a JSON object; right would be {"rack": "A3"}')
            return None
    number = None
    if "id" in row:
        if not re.fullmatch(r"[1-9][0-9]{0,18}", row["id"]):
            reading.complain(line, "id: must be the number of an asset; leave it empty for a new one")
            return None
        number = int(row["id"])
    return _Line(line, values, number, row.get("external_id"))


_NETBOX = {
    "hostname": ("hostname",),
    "address": ("primary_ip4", "address", "primary_ip6"),
    "type": ("role", "device_role"),
    "vendor": ("manufacturer",),
    "model": ("device_type", "type", "model"),
    "serial": ("serial", "serial_number"),
    "os": ("platform",),
    "owner": ("tenant",),
}
_NETBOX_STATUS = {
    "active": "active",
    "planned": "planned",
    "staged": "planned",
    "inventory": "planned",
    "decommissioning": "archived",
}
_NETBOX_FACTS = {"asset_tag": "asset_tag", "site": "netbox_site", "description": "description", "comments": "comments"}


def _from_netbox(row: dict[str, str], line: int, site: str, reading: _Reading) -> _Line:
    """Read a line of NetBox's device CSV, as its table or its bulk import has it."""
    values: dict[str, Any] = {}
    for name, columns in _NETBOX.items():
        cell = next((row[column] for column in columns if column in row), None)
        if cell:
            values[name] = cell
    metadata = {key: row[column] for column, key in _NETBOX_FACTS.items() if column in row}
    if "hostname" in values:
        name = re.sub(r"\s+", "-", values["hostname"])
        if name != values["hostname"]:
            metadata["netbox_name"] = values["hostname"]
        values["hostname"] = name
    if "address" in values:
        values["address"] = values["address"].partition("/")[0]
    place = [row[column] for column in ("location", "rack") if column in row]
    if place:
        values["location"] = ", ".join(place)
    status = _NETBOX_STATUS.get(row.get("status", "").lower())
    if status:
        values["status"] = status
    if "tags" in row:
        values["tags"] = [re.sub(r"\s+", "-", tag) for tag in _list(row["tags"])]
    if metadata:
        values["metadata"] = metadata
    passed_over = sorted(
        row.keys() - {c for columns in _NETBOX.values() for c in columns} - _NETBOX_FACTS.keys() - _NETBOX_READ
    )
    for column in passed_over:
        note = f"column {column} is passed over"
        if note not in reading.notes:
            reading.notes.append(note)
    external = f"netbox:{row['id']}" if row.get("id", "").isdigit() else None
    return _Line(line, values, external_id=external)


_NETBOX_READ = frozenset({"id", "status", "location", "rack", "tags"})


def _list(cell: str) -> list[str]:
    """Split a cell at commas or semicolons, or where there are none at blanks (as an export writes it)."""
    parts = re.split(r"[,;]", cell) if re.search(r"[,;]", cell) else cell.split()
    return [part.strip() for part in parts if part.strip()]


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(connection: Connection, reading: _Reading, kind: str, site: str, run_id: str, dry_run: bool) -> ImportReport:
    """Write line by line, each in a savepoint, so that every line's error is found; the caller rolls back if there is one."""
    site_id = ensure_site(connection, site)
    lock_site(connection, site_id)
    editor = Editor(site, run_id)
    counts = {"created": 0, "updated": 0, "unchanged": 0}
    lines_of: dict[int, int] = {}
    for line in reading.lines:
        values = _validate(line, reading)
        if values is None:
            continue
        try:
            with connection.begin_nested():
                asset_id, what = _write_line(connection, editor, site_id, line, values)
                if asset_id in lines_of:
                    raise InvalidParameters(f"is asset {asset_id}, as line {lines_of[asset_id]} is")
        except ToolError as error:
            reading.complain(line.line, str(error))
            continue
        except IntegrityError:
            reading.complain(line.line, "a name, an address or an identifier is another asset's already")
            continue
        lines_of[asset_id] = line.line
        counts[what] += 1
    return ImportReport(
        kind,
        site,
        len(reading.lines),
        created=counts["created"],
        updated=counts["updated"],
        unchanged=counts["unchanged"],
        errors=_sorted(reading.errors),
        notes=tuple(reading.notes),
        dry_run=dry_run,
    )


def _validate(line: _Line, reading: _Reading) -> dict[str, Any] | None:
    try:
        return _Row(**line.values).model_dump(exclude_none=True)
    except ValidationError as problem:
        for error in problem.errors():
            where = ".".join(map(str, error["loc"])) or "the line"
            reading.complain(line.line, f"{where}: {error['msg'].removeprefix('Value error, ')}")
        return None


def _write_line(
    connection: Connection, editor: Editor, site_id: int, line: _Line, values: Mapping[str, Any]
) -> tuple[int, str]:
    number = line.asset_id or _find(connection, site_id, line, values)
    if number is None:
        if not any(values.get(name) for name in NAMING):
            raise InvalidParameters(f"needs one of {', '.join(NAMING)}: nobody could find it again")
        created, _ = editor.create(connection, {"status": "active", **values})
        number, what = created.id, "created"
    else:
        row = assets.get_asset(connection, number)
        current = Asset.of(row).model_dump() if row is not None else {}
        # Only what differs is this file's word; the rest stays whose it is.
        wanted = {name: value for name, value in values.items() if not _says(current.get(name), value)}
        _, changed = editor.update(connection, str(number), wanted, None)
        what = "updated" if changed else "unchanged"
    if line.external_id:
        assets.add_identifier(
            connection, site_id, number, Kind.EXTERNAL, line.external_id, Strength.STRONG, datetime.now(UTC)
        )
    return number, what


def _says(current: Any, value: Any) -> bool:
    if isinstance(value, dict) and isinstance(current, dict):
        return all(current.get(key) == item for key, item in value.items())
    return bool(current == value)


def _find(connection: Connection, site_id: int, line: _Line, values: Mapping[str, Any]) -> int | None:
    """Return the asset a line speaks of: by identity, then by name (a person's word), then by address."""
    keys: list[tuple[str, str]] = []
    if line.external_id:
        keys.append((Kind.EXTERNAL, line.external_id))
    if serial := serial_key(values.get("vendor"), values.get("serial")):
        keys.append((Kind.SERIAL, serial))
    if values.get("mac"):
        keys.append((Kind.MAC, values["mac"]))
    twin = assets.strong_twin(connection, site_id, keys, None)
    if twin is not None:
        return int(twin.asset_id)
    if values.get("hostname"):
        named = assets.find_by_name(connection, site_id, values["hostname"])
        if len(named) == 1:
            return named[0]
    if values.get("address"):
        holder = assets.address_holder(connection, site_id, values["address"])
        if holder is not None and holder.asset_id is not None and _agrees(connection, holder.asset_id, values):
            return int(holder.asset_id)
    return None


def _agrees(connection: Connection, asset_id: int, values: Mapping[str, Any]) -> bool:
    """Whether nothing a line says contradicts the asset that holds its address: discovered before anybody named it."""
    row = assets.get_asset(connection, asset_id)
    if row is None or row["status"] == "archived":
        return False
    name, given = row["hostname"], values.get("hostname")
    if name and given and not same_name(name, given):
        return False
    return all(
        not values.get(key) or not row[key] or str(values[key]).lower() == str(row[key]).lower()
        for key in ("mac", "serial")
    )


def _sorted(errors: list[LineError]) -> tuple[LineError, ...]:
    return tuple(sorted(errors, key=lambda error: error.line))


# --- export ----------------------------------------------------------------------------------------------------------


async def export_assets(
    *,
    format: Literal["csv", "json"] = "csv",  # noqa: A002
    site: str = "default",
    archived: bool = True,
    db: Database | None = None,
) -> str:
    """Return all assets of a site as CSV (which `import_assets` takes back) or as a JSON list.

    Args:
        format: `csv` or `json`.
        site: The site; `*` for all.
        archived: Archived ones too.
        db: The database; default: the one of the settings.

    Raises:
        NotFound: There is no such site.
        InvalidParameters: The format is unknown.
    """
    if format not in ("csv", "json"):
        raise InvalidParameters(f"{format!r} is no format of an export.", hint="Formats: csv, json.")

    def work(connection: Connection) -> list[dict[str, Any]]:
        if site != "*":
            find_site(connection, site)
        return list(_all(connection, site, archived))

    rows = await (db or database()).run(work, timeout=TIMEOUT)
    if format == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return out.getvalue()


def _all(connection: Connection, site: str, archived: bool) -> Iterator[dict[str, Any]]:
    after = None
    while True:
        filters = {} if site == "*" else {"site": site}
        page = assets.search(connection, filters, archived=archived, sort="id", limit=PAGE, after=after)
        for row in page.rows:
            yield Asset.of(row).model_dump(mode="json")
        if page.end is None:
            return
        after = page.end


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = (json.dumps(value, ensure_ascii=False) if value else "") if isinstance(value, dict) else str(value)
    # Names come from the network: a spreadsheet must not take one for a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
