"""Ask the system's resolver (`/etc/hosts`, DNS, whatever nsswitch says) without ever waiting for it longer than said.

Asking the system's resolver is not a probe: no packet goes to a target.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

from tasks.core.errors import NotFound, ToolError, Unreachable

Resolve = Callable[[str], Awaitable[Iterable[str]]]
"""Turns a host name into addresses as text; raises NotFound when there are none, Unreachable when nobody answers."""

RESOLVE_SECONDS = 5.0
"""Longest wait for one name."""
_IN_FLIGHT = 32


async def resolve_host(name: str) -> tuple[str, ...]:
    """Return the addresses of a host name, in the system's order of preference.

    Each look-up has a daemon thread of its own: getaddrinfo cannot be interrupted, and threads of the loop's executor
    are joined at exit, so that a resolver which never answers would keep the process alive.

    Raises:
        NotFound: The name does not exist or has no address.
        Unreachable: The resolver did not answer, or said that it cannot at the moment.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def settle(addresses: tuple[str, ...], error: ToolError | None) -> None:
        if not answer.done():
            if error is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(error)

    def ask() -> None:
        addresses: tuple[str, ...] = ()
        error: ToolError | None = None
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        except socket.gaierror as problem:
            error = _explain(name, problem)
        except (UnicodeError, OSError):
            error = NotFound(f"{name} does not resolve.", hint="It is not a name DNS can hold.")
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, addresses, error)

    threading.Thread(target=ask, name=f"resolve-{name[:40]}", daemon=True).start()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            addresses = await answer
    except TimeoutError:
        raise Unreachable(f"The resolver did not answer for {name} within {RESOLVE_SECONDS:.0f} s.") from None
    return addresses


def _explain(name: str, problem: socket.gaierror) -> ToolError:
    if problem.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, getattr(socket, "EAI_SYSTEM", None), socket.EAI_MEMORY):
        return Unreachable(
            f"The resolver cannot say what {name} is at the moment.",
            hint="Check /etc/resolv.conf, or give the address.",
        )
    return NotFound(f"{name} does not resolve.", hint="Check the spelling, or give the address.")


async def resolve_all(
    names: Iterable[str], resolve: Resolve = resolve_host
) -> Mapping[str, tuple[str, ...] | ToolError]:
    """Resolve many names, a few at a time; each gets its addresses or the error that says why not."""
    slots = asyncio.Semaphore(_IN_FLIGHT)

    async def one(name: str) -> tuple[str, ...] | ToolError:
        async with slots:
            try:
                return tuple(await resolve(name)) or NotFound(f"{name} does not resolve: it has no address.")
            except (NotFound, Unreachable) as error:
                return error

    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, await asyncio.gather(*map(one, distinct)), strict=True))
