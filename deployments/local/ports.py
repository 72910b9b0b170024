"""Find a free port on 127.0.0.1, and who has one that is taken."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from itertools import chain
from pathlib import Path

from deployments.local.errors import StackError
from deployments.local.processes import command_of, identify
from deployments.local.variables import DEFAULT_PORT

SEARCHED = 100
"""How many ports after the default one are tried."""


def choose_port(explicit: int | None, recorded: int | None) -> tuple[int, str | None]:
    """Return the port for the Prefect server, and a remark when it is not the one the user would expect.

    Args:
        explicit: The port the user asked for; taken means an error.
        recorded: The port of the last run; preferred, so that bookmarks stay right.

    Raises:
        StackError: The port asked for is taken, or no port is free.
    """
    if explicit is not None:
        if not is_free(explicit):
            raise StackError(
                f"Port {explicit} on 127.0.0.1 is taken{_by(explicit)}.",
                "Choose another with SIGNALBOX_PORT, or unset it to let signalbox find a free one.",
            )
        return explicit, None
    if recorded is not None and is_free(recorded):
        return recorded, None
    for port in range(DEFAULT_PORT, DEFAULT_PORT + SEARCHED):
        if is_free(port):
            if port == DEFAULT_PORT:
                return port, None
            return (
                port,
                f"Port {DEFAULT_PORT} is taken{_by(DEFAULT_PORT)}: using {port}. SIGNALBOX_PORT chooses another.",
            )
    raise StackError(
        f"No port from {DEFAULT_PORT} to {DEFAULT_PORT + SEARCHED - 1} is free.", "Choose one with SIGNALBOX_PORT."
    )


def choose_port_after(port: int, recorded: int | None) -> int:
    """Return the port for what runs beside the Prefect server: that of the last run, else the next free one.

    Args:
        port: The Prefect server's, or the one it would have.
        recorded: The port of the last run; preferred, so that links on pages stay right.

    Raises:
        StackError: No port is free.
    """
    if recorded is not None and recorded != port and is_free(recorded):
        return recorded
    # Behind the very last port it goes on at the usual place.
    for candidate in chain(range(port + 1, port + 1 + SEARCHED), range(DEFAULT_PORT, DEFAULT_PORT + SEARCHED)):
        if candidate <= 65535 and candidate != port and is_free(candidate):
            return candidate
    raise StackError(
        f"None of the {SEARCHED} ports after {port} on 127.0.0.1 is free.", "Choose another place with SIGNALBOX_PORT."
    )


def explicit_port() -> int | None:
    """Return the port the environment asks for.

    Raises:
        StackError: SIGNALBOX_PORT is no port.
    """
    text = os.environ.get("SIGNALBOX_PORT", "")
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise StackError(
            f"SIGNALBOX_PORT is {text!r}; right would be a number from 1 to 65535, such as {DEFAULT_PORT}."
        )
    return int(text)


def is_free(port: int) -> bool:
    """Whether a server may listen on this port of 127.0.0.1."""
    with socket.socket() as candidate:
        # As the server itself does: connections of an earlier run in TIME_WAIT do not count.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str | None:
    """Return command and pid of the process that listens on a port, as far as this user may see it."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not sockets or not process.name.isdigit():
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in sockets and (identity := identify(int(process.name))):
                    return f"{command_of(identity)[:80]} (pid {process.name})"
    return None


def _by(port: int) -> str:
    holder = holder_of(port)
    return f" by {holder}" if holder else ""
