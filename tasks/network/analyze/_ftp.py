"""A capture's FTP as plain data: what `ftp_analyzer` runs in a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tasks.core.words import count
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_streams
from tasks.network.analyze._fitting import fit
from tasks.network.analyze._ftp_book import FtpBook, Session
from tasks.network.analyze._ftp_data import correlate
from tasks.network.analyze._ftp_stream import CONTROL_PORT, IMPLICIT_PORT, FtpStream, Transfer
from tasks.network.analyze._ftp_wire import DOWNLOADS, UPLOADS
from tasks.network.analyze._lines import at, shown
from tasks.network.analyze._report import gravest_first

if TYPE_CHECKING:
    from tasks.network.analyze._selection import Selection

_MAIL: Final = (b"SMTP", b"LMTP")


def _may_be_ftp(first: bytes) -> bool:
    """SMTP's greeting begins as FTP's does; most say which they are."""
    said = first.upper()
    return not any(word in said for word in _MAIL)


STREAMS = Signature(
    ports=frozenset({CONTROL_PORT, IMPLICIT_PORT}),
    prefixes=(b"220 ", b"220-", b"120 ", b"421 ", b"USER ", b"AUTH TLS", b"AUTH SSL"),
    test=_may_be_ftp,
)


def dissect(path: str, selection: Selection, top: int) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own."""
    book, counts = FtpBook(), Counts()

    def begin(info: StreamInfo) -> FtpStream:
        return FtpStream(info, book)

    read_streams(path, selection, STREAMS, begin, counts)
    data = correlate(path, selection, book.transfers)
    for transfer, channel in data.strangers:
        book.stranger(transfer, channel)
    counts.analyzed += data.packets
    book.finish()
    made = report(book, top)
    counts.notes += _notes(book) + fit(made)
    return {**made, "coverage": counts.coverage()}


def _notes(book: FtpBook) -> list[str]:
    notes = []
    if book.unseen:
        notes.append(
            f"In {count(book.unseen, 'conversation')} on FTP's ports neither a greeting nor a command was seen."
        )
    if book.sealed:
        notes.append(
            f"{count(book.sealed, 'conversation')} went over to TLS: what was done in {'it' if book.sealed == 1 else 'them'} "
            "is not readable."
        )
    if book.gaps:
        notes.append(
            f"In {count(book.gaps, 'conversation')} bytes are missing from the capture; replies to some commands are not known."
        )
    if book.unknown_commands:
        lines = count(
            book.unknown_commands,
            "line of a client is no known command; it is",
            "lines of clients are no known commands; they are",
        )
        notes.append(f"{lines} not shown.")
    lost = sum(1 for transfer in book.transfers if transfer.bytes is None and transfer.code < 400)
    if lost:
        notes.append(f"Of {count(lost, 'transfer')} the data channel is not in the capture.")
    if book.transfers_seen > len(book.transfers):
        notes.append(f"Data channels were looked for of the first {len(book.transfers)} transfers only.")
    left = {"users": book.users.left_out, "servers": book.servers.left_out, "clients": book.clients.left_out}
    notes += [f"{number:,} {what} came after the table was full." for what, number in left.items() if number]
    return notes


def report(book: FtpBook, top: int) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    sessions = sorted(book.recent, key=lambda row: (row.login != "refused", -row.start_ns))[:top]
    transfers = sorted(book.transfers, key=lambda row: (-(row.bytes or 0), row.frame))[:top]
    commands = sorted(book.commands.items(), key=lambda item: (-item[1][0], item[0]))
    return {
        "conversations": book.conversations,
        "encrypted": book.sealed,
        "implicit_tls": book.implicit,
        "tls_refused": book.tls_refused,
        "without_greeting": book.unseen,
        "logins": {
            "accepted": book.accepted, "refused": book.refusals, "anonymous": book.anonymous, "in_clear": book.plain_passwords,
        },
        "commands_seen": sum(counts[0] for _, counts in commands),
        "commands": [{"command": name, "count": count, "failed": failed} for name, (count, failed) in commands[: max(top, 60)]],
        "unknown_commands": book.unknown_commands,
        "replies_seen": book.replies.total(),
        "replies": [
            {"code": code, "count": count}
            for code, count in sorted(book.replies.items(), key=lambda item: (-item[1], item[0]))[: max(top, 60)]
        ],
        "failures": [
            {"command": verb, "code": code, "count": row.count, "text": row.text}
            for (verb, code), row in book.failures.top(top, lambda row: row.count)
        ],
        "reply_times": book.times.summary(),
        "banner_times": book.banner_times.summary(),
        "users_seen": len(book.users),
        "users": [
            {
                "user": shown(user), "server": server, "accepted": row.accepted, "refused": row.refused, "in_clear": row.plain,
                "clients": sorted(row.clients),
            }
            for (user, server), row in book.users.top(top, lambda row: row.accepted + row.refused + row.plain)
        ],
        "servers_seen": len(book.servers),
        "servers": [
            {
                "server": name, "conversations": row.sessions, "encrypted": row.encrypted, "accepted": row.accepted,
                "refused": row.refused, "anonymous": row.anonymous, "transfers": row.transfers, "tls_offered": row.tls_offered,
                "banners": sorted(row.banners),
            }
            for name, row in book.servers.top(top, lambda row: row.sessions)
        ],
        "clients_seen": len(book.clients),
        "clients": [
            {
                "client": name, "conversations": row.sessions, "accepted": row.accepted, "refused": row.refused,
                "transfers": row.transfers, "servers": sorted(row.servers),
            }
            for name, row in book.clients.top(top, lambda row: row.refused * 1e6 + row.sessions)
        ],
        "transfers_seen": book.transfers_seen,
        "transfers_completed": book.completed,
        "transfers_failed": book.failed_transfers,
        "bytes_down": sum(row.bytes or 0 for row in book.transfers if row.verb not in UPLOADS),
        "bytes_up": sum(row.bytes or 0 for row in book.transfers if row.verb in UPLOADS),
        "modes": [{"mode": name, "count": count} for name, count in book.modes.most_common()],
        "transfers": [_transfer(row) for row in transfers],
        "sessions": [_session(row) for row in sessions],
        "findings": gravest_first(book.findings.all()),
    }  # fmt: skip


def _transfer(row: Transfer) -> dict[str, Any]:
    outcome = "unknown" if not row.code else "completed" if row.code < 400 else "failed"
    return {
        "frame": row.frame,
        "started_at": datetime.fromtimestamp(row.time_ns / 1e9, UTC),
        "client": at(*row.client),
        "server": at(*row.server),
        "user": shown(row.user),
        "command": row.verb,
        "path": shown(row.path),
        "direction": "down" if row.verb in DOWNLOADS else "up" if row.verb in UPLOADS else "listing",
        "mode": row.setup.mode,
        "data_channel": at(*row.setup.endpoint) if row.setup.endpoint else "",
        "data_frame": row.data_frame,
        "bytes": row.bytes,
        "seconds": None if row.bytes is None else round(row.data_ns / 1e9, 6),
        "offset": row.offset,
        "outcome": outcome,
        "code": row.code,
    }


def _session(row: Session) -> dict[str, Any]:
    return {
        "frame": row.frame,
        "client": row.client,
        "server": row.server,
        "started_at": datetime.fromtimestamp(row.start_ns / 1e9, UTC),
        "seconds": round(row.seconds, 6),
        "user": shown(row.user),
        "login": row.login,
        "commands": row.commands,
        "transfers": row.transfers,
        "tls": row.tls,
        "end": row.end,
    }
