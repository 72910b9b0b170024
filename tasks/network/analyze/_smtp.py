"""A capture's SMTP as plain data: what `smtp_analyzer` runs in a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.core.words import count
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_streams
from tasks.network.analyze._fitting import fit
from tasks.network.analyze._lines import at, shown
from tasks.network.analyze._report import gravest_first
from tasks.network.analyze._smtp_book import SmtpBook
from tasks.network.analyze._smtp_rows import AddressRow, Mail, Session
from tasks.network.analyze._smtp_stream import PORTS, SmtpStream
from tasks.network.analyze._smtp_wire import READABLE
from tasks.network.analyze._tally import Tally

if TYPE_CHECKING:
    from tasks.network.analyze._selection import Selection


def _may_be_smtp(first: bytes) -> bool:
    """FTP's greeting begins as SMTP's does; most say which they are."""
    said = first.upper()
    return b"FTP" not in said or b"SMTP" in said


STREAMS = Signature(
    ports=PORTS,
    prefixes=(b"220 ", b"220-", b"421 ", b"554 ", b"EHLO ", b"HELO ", b"LHLO ", b"ehlo ", b"helo ", b"lhlo "),
    test=_may_be_smtp,
)


def dissect(path: str, selection: Selection, top: int) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own."""
    book, counts = SmtpBook(), Counts()

    def begin(info: StreamInfo) -> SmtpStream:
        return SmtpStream(info, book)

    read_streams(path, selection, STREAMS, begin, counts)
    book.finish()
    made = report(book, top)
    counts.notes += _notes(book) + fit(made)
    return {**made, "coverage": counts.coverage()}


def _notes(book: SmtpBook) -> list[str]:
    notes = []
    if book.unseen:
        notes.append(
            f"In {count(book.unseen, 'conversation')} on mail's ports neither a greeting nor a command was seen."
        )
    if book.sealed:
        notes.append(
            f"{count(book.sealed, 'conversation')} went over to TLS: logins and mails in {'it' if book.sealed == 1 else 'them'} "
            "are not readable."
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
    left = {
        "senders": book.senders.left_out, "recipients": book.recipients.left_out, "servers": book.servers.left_out,
        "clients": book.clients.left_out, "users": book.users.left_out,
    }  # fmt: skip
    notes += [f"{number:,} {what} came after the table was full." for what, number in left.items() if number]
    return notes


def report(book: SmtpBook, top: int) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    bad = {"rejected": 2, "deferred": 1}
    mails = sorted(book.recent_mails, key=lambda row: (-bad.get(row.outcome, 0), -row.bytes, row.frame))[:top]
    sessions = sorted(book.recent, key=lambda row: (row.login != "refused", -row.start_ns))[:top]
    commands = sorted(book.commands.items(), key=lambda item: (-item[1][0], item[0]))
    return {
        "conversations": book.conversations,
        "lmtp": book.lmtp,
        "without_greeting": book.unseen,
        "tls": {
            "offered": book.tls_offered, "used": book.tls_used, "refused": book.tls_refused, "implicit": book.implicit,
        },
        "pipelining": {"offered": book.pipelining, "used": book.pipelined},
        "commands_seen": sum(counts[0] for _, counts in commands),
        "commands": [{"command": name, "count": count, "failed": failed} for name, (count, failed) in commands],
        "unknown_commands": book.unknown_commands,
        "replies_seen": book.replies.total(),
        "replies": [
            {"code": code, "count": count}
            for code, count in sorted(book.replies.items(), key=lambda item: (-item[1], item[0]))[: max(top, 60)]
        ],
        "reply_times": book.times.summary(),
        "banner_times": book.banner_times.summary(),
        "mails": {
            "seen": book.mails, "accepted": book.outcomes["accepted"], "rejected": book.outcomes["rejected"],
            "deferred": book.outcomes["deferred"], "unknown": book.outcomes["unknown"], "bytes": book.mail_bytes,
            "largest_bytes": book.largest, "chunks": book.chunks,
        },
        "recipients_accepted": book.recipients_accepted,
        "recipients_refused": book.recipients_refused,
        "put_off": book.put_off,
        "came_back": book.came_back,
        "rejections": [
            {
                "server": server, "command": verb, "code": code, "status": status, "count": row.count, "text": row.text,
                "addresses": sorted(row.addresses),
            }
            for (server, verb, code, status), row in book.rejections.top(top, lambda row: row.count)
        ],
        "mechanisms": [
            {
                "mechanism": name, "readable": name in READABLE, "attempts": row.attempts, "accepted": row.accepted,
                "refused": row.refused,
            }
            for name, row in book.logins.top(top, lambda row: row.attempts)
        ],
        "users_seen": len(book.users),
        "users": [
            {"user": shown(user), "server": server, "accepted": row.accepted, "refused": row.refused}
            for (user, server), row in book.users.top(top, lambda row: row.attempts)
        ],
        "hello_names_seen": len(book.hellos),
        "hello_names": [
            {"name": shown(name), "clients": sorted(clients)} for name, clients in book.hellos.top(top, len)
        ],
        "senders_seen": len(book.senders),
        "senders": _addresses(book.senders, top),
        "recipients_seen": len(book.recipients),
        "recipients": _addresses(book.recipients, top),
        "servers_seen": len(book.servers),
        "servers": [
            {
                "server": name, "names": sorted(row.names), "conversations": row.sessions, "encrypted": row.encrypted,
                "mails": row.mails, "rejected": row.rejected, "deferred": row.deferred, "starttls_offered": row.offered,
                "banners": sorted(row.banners), "extensions": sorted(row.extensions)[:30],
                "mechanisms": sorted(row.mechanisms)[:20],
            }
            for name, row in book.servers.top(top, lambda row: row.sessions)
        ],
        "clients_seen": len(book.clients),
        "clients": [
            {
                "client": name, "names": [shown(one) for one in sorted(row.names)], "conversations": row.sessions,
                "encrypted": row.encrypted, "mails": row.mails, "rejected": row.rejected,
                "refused_logins": row.refused_logins, "servers": sorted(row.servers),
            }
            for name, row in book.clients.top(top, lambda row: row.refused_logins * 1e6 + row.sessions)
        ],
        "latest_mails": [_mail(row) for row in mails],
        "sessions": [_session(row) for row in sessions],
        "findings": gravest_first(book.findings.all()),
    }  # fmt: skip


def _addresses(table: Tally[str, AddressRow], top: int) -> list[dict[str, Any]]:
    return [
        {
            "address": shown(name),
            "count": row.count,
            "accepted": row.accepted,
            "rejected": row.refused,
            "put_off": row.put_off,
        }
        for name, row in table.top(top, lambda row: row.count)
    ]


def _mail(row: Mail) -> dict[str, Any]:
    return {
        "frame": row.frame,
        "started_at": datetime.fromtimestamp(row.time_ns / 1e9, UTC),
        "client": at(*row.client),
        "server": at(*row.server),
        "sender": shown(row.sender or "<>"),
        "recipients": [shown(name) for name in row.recipients],
        "recipients_accepted": row.accepted,
        "recipients_refused": row.refused,
        "declared_bytes": row.declared,
        "bytes": row.bytes,
        "chunks": row.chunks,
        "authenticated": row.authenticated,
        "outcome": row.outcome,
        "code": row.code,
    }


def _session(row: Session) -> dict[str, Any]:
    return {
        "frame": row.frame,
        "client": row.client,
        "server": row.server,
        "started_at": datetime.fromtimestamp(row.start_ns / 1e9, UTC),
        "seconds": round(row.seconds, 6),
        "hello": shown(row.hello),
        "tls": row.tls,
        "login": row.login,
        "user": shown(row.user),
        "mails": row.mails,
        "commands": row.commands,
        "end": row.end,
    }
