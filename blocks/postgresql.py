"""How we connect to PostgreSQL: the libpq arguments the block and the tools' engine share.

A module of its own, because it loads no Prefect (1.7 s), which `signalbox status` does not need.
"""

from __future__ import annotations

from typing import Any

CONNECT_TIMEOUT = 5
"""Seconds until a server that accepts but never answers counts as gone. libpq's default is to wait for ever, which left
processes that never ended."""


def connect_arguments(
    *, statement_timeout: float = 30.0, lock_timeout: float = 10.0, application_name: str = "signalbox"
) -> dict[str, Any]:
    """Return the libpq arguments that keep a dead server from holding a process.

    Args:
        statement_timeout: Seconds one statement may take; the server enforces it.
        lock_timeout: Seconds one statement may wait for a lock; the server enforces it.
        application_name: What `pg_stat_activity` shows.
    """
    session = {
        "statement_timeout": int(statement_timeout * 1000),
        "lock_timeout": int(lock_timeout * 1000),
        "timezone": "UTC",
        # Milliseconds between looks at the client while a statement runs: what nobody waits for any more is rolled back.
        "client_connection_check_interval": 1000,
    }
    return {
        "connect_timeout": CONNECT_TIMEOUT,
        # A peer that vanished without a FIN (power, cable, firewall) is noticed after 5 + 3 * 2 s of silence.
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        # The same for data that was sent and never acknowledged; milliseconds. Ignored on Unix sockets.
        "tcp_user_timeout": 10_000,
        "application_name": application_name,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
    }
