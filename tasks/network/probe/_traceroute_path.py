"""How a path differs from the one before, and the names of those on it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["changed", "added", "removed", "fell_silent", "answers_again"]
REAL: frozenset[Kind] = frozenset({"changed", "added", "removed"})
"""What is a change of the path; a router that stops answering probes may still be on it."""
NAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Difference:
    """One hop that is not what it was."""

    hop: int
    kind: Kind
    before: tuple[str, ...]
    now: tuple[str, ...]


def compare(
    before: Mapping[int, tuple[str, ...]], now: Mapping[int, tuple[str, ...]], *, ends: tuple[int | None, int | None]
) -> list[Difference]:
    """Compare two paths hop by hop.

    Addresses that share a hop (load balancing) are one hop as long as one of them was seen both times.

    Args:
        before: Addresses that answered at each hop that was asked.
        now: The same, now.
        ends: Hop at which the target answered then and now; None where it did not.
    """
    was, is_now = ends
    found: list[Difference] = []
    for hop in sorted(before.keys() | now.keys()):
        old, new = before.get(hop, ()), now.get(hop, ())
        kind: Kind | None = None
        if old and new:
            kind = "changed" if set(old).isdisjoint(new) else None
        elif old and is_now is not None and hop > is_now:
            kind = "removed"
        elif new and was is not None and hop > was:
            kind = "added"
        elif old and hop in now:
            kind = "fell_silent"
        elif new and hop in before:
            kind = "answers_again"
        if kind is not None:
            found.append(Difference(hop, kind, old, new))
    return found


async def find_names(addresses: Iterable[str], seconds: float) -> dict[str, str]:
    """Ask the system's resolver for the names of addresses, for so long and no longer; those without one are left out.

    getnameinfo cannot be interrupted: each has a daemon thread, which no exit waits for.
    """
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(NAMES_AT_ONCE)
    names: dict[str, str] = {}

    async def one(address: str) -> None:
        async with slots:
            answer: asyncio.Future[str | None] = loop.create_future()

            def settle(name: str | None) -> None:
                if not answer.done():
                    answer.set_result(name)

            def ask() -> None:
                name: str | None = None
                with contextlib.suppress(OSError, UnicodeError):
                    name = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(settle, name)

            threading.Thread(target=ask, name=f"name-{address}", daemon=True).start()
            name = await answer
            if name and name != address:
                names[address] = "".join(letter if letter.isprintable() else "?" for letter in name)[:253]

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for address in dict.fromkeys(addresses):
                group.create_task(one(address))
    return names
