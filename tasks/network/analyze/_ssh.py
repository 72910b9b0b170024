"""A capture's SSH as plain data: what `ssh_analyzer` runs in a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.core.words import count
from tasks.network.analyze._engine import Counts, Signature, StreamInfo, read_streams
from tasks.network.analyze._fitting import MOST_BYTES, fit
from tasks.network.analyze._report import gravest_first
from tasks.network.analyze._ssh_book import Session, SshBook
from tasks.network.analyze._ssh_stream import SshStream
from tasks.network.analyze._ssh_weakness import weak_in, weakness

if TYPE_CHECKING:
    from tasks.network.analyze._selection import Selection

STREAMS = Signature(ports=frozenset({22}), prefixes=(b"SSH-",))

_KINDS = {
    "kex": "kex", "host_key": "host key", "cipher_to_server": "cipher", "cipher_to_client": "cipher",
    "mac_to_server": "MAC", "mac_to_client": "MAC", "compression_to_server": "", "compression_to_client": "",
}  # fmt: skip


def dissect(path: str, selection: Selection, top: int, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read a capture and return the report's fields, without the capture's own.

    Args:
        path: A pcap or pcapng file.
        selection: The packets that count.
        top: Rows of each table.
        most_bytes: What the report may take as JSON; tables are shortened to it.
    """
    book, counts = SshBook(), Counts()

    def begin(info: StreamInfo) -> SshStream:
        return SshStream((info.client, info.client_port), (info.server, info.server_port), info.start_ns, book)

    read_streams(path, selection, STREAMS, begin, counts)
    book.finish()
    made = report(book, top)
    counts.notes += _notes(book) + fit(made, most_bytes)
    return {**made, "coverage": counts.coverage()}


def _notes(book: SshBook) -> list[str]:
    notes = []
    if book.unseen:
        notes.append(
            f"{count(book.unseen, 'conversation')} on port 22 began before the capture, or "
            f"{'is' if book.unseen == 1 else 'are'} not SSH: no banner was seen."
        )
    if book.malformed:
        notes.append(f"In {count(book.malformed, 'conversation')} a packet of the key exchange contradicts itself.")
    if book.gaps:
        notes.append(
            f"In {count(book.gaps, 'conversation')} bytes are missing from the capture; "
            f"{'its login is' if book.gaps == 1 else 'their logins are'} not judged."
        )
    if book.logins["accepted"] or book.logins["refused"]:
        notes.append(
            "Logins are encrypted: accepted and refused ones are told apart by the sizes of the server's answers."
        )
    left = {"servers": book.servers.left_out, "clients": book.clients.left_out}
    notes += [f"{number:,} {what} came after the table was full." for what, number in left.items() if number]
    return notes


def report(book: SshBook, top: int) -> dict[str, Any]:
    """Make the report's fields of what was counted."""
    sessions = list(book.recent)
    # Those that were refused first: they are what one looks for.
    chosen = sorted(sessions, key=lambda session: (session.login != "refused", -session.start_ns))[:top]
    return {
        "conversations": book.conversations,
        "encrypted": book.sealed,
        "without_banner": book.unseen,
        "logins": {
            "accepted": book.logins["accepted"], "refused": book.logins["refused"], "unknown": book.logins["unknown"],
            "refused_attempts": book.attempts,
        },
        "protocols": [{"name": name, "count": count} for name, count in book.protocols.most_common(top)],
        "software": [
            {"role": role, "software": name, "conversations": seen[0]}
            for (role, name), seen in book.software.top(top, lambda seen: seen[0])
        ],
        "algorithms": [
            {
                "kind": kind, "name": name, "offered": counts[0], "negotiated": counts[1],
                "weak": reason.why if _KINDS[kind] and (reason := weakness(_KINDS[kind], name)) else "",
            }
            for kind, tally in book.algorithms.items()
            for name, counts in tally.top(max(3, top // 2), lambda counts: counts[1] * 1e9 + counts[0])
        ],
        "fingerprints": [
            {
                "role": role, "hassh": digest, "conversations": row.sessions, "software": sorted(row.software),
                "hosts": sorted(row.hosts),
            }
            for (role, digest), row in book.prints.top(top, lambda row: row.sessions)
        ],
        "servers_seen": len(book.servers),
        "servers": [
            {
                "server": name, "conversations": row.sessions, "accepted": row.accepted, "refused": row.refused,
                "refused_attempts": row.attempts, "banners": sorted(row.banners), "hassh_server": sorted(row.hasshes),
                "host_keys": [
                    {"kind": key.kind, "fingerprint": key.fingerprint, "bits": key.bits} for key in row.keys.values()
                ],
                "weak_algorithms": [name for _, name, _ in weak_in(row.offer)][:20] if row.offer else [],
            }
            for name, row in book.servers.top(top, lambda row: row.refused * 1e6 + row.sessions)
        ],
        "clients_seen": len(book.clients),
        "clients": [
            {
                "client": name, "conversations": row.sessions, "accepted": row.accepted, "refused": row.refused,
                "refused_attempts": row.attempts, "banners": sorted(row.banners), "hassh": sorted(row.hasshes),
                "servers": sorted(row.servers),
            }
            for name, row in book.clients.top(top, lambda row: row.refused * 1e6 + row.sessions)
        ],
        "sessions": [_session(session) for session in chosen],
        "findings": gravest_first(book.findings.all()),
    }  # fmt: skip


def _session(session: Session) -> dict[str, Any]:
    chosen = session.chosen
    return {
        "frame": session.frame,
        "client": session.client,
        "server": session.server,
        "started_at": datetime.fromtimestamp(session.start_ns / 1e9, UTC),
        "seconds": round(session.seconds, 6),
        "client_bytes": session.client_bytes,
        "server_bytes": session.server_bytes,
        "client_banner": session.client_banner,
        "server_banner": session.server_banner,
        "hassh": session.hassh,
        "hassh_server": session.hassh_server,
        "kex": chosen.get("kex") or "",
        "host_key": chosen.get("host_key") or "",
        "cipher": _both(chosen, "cipher"),
        "mac": _both(chosen, "mac"),
        "compression": _both(chosen, "compression"),
        "strict": session.strict,
        "login": session.login,
        "refused_attempts": session.refused,
        "end": session.end,
    }


def _both(chosen: dict[str, str | None], what: str) -> str:
    """One name where both directions use the same, else both."""
    up, down = chosen.get(f"{what}_to_server") or "", chosen.get(f"{what}_to_client") or ""
    return up if up == down else f"{up} / {down}"
