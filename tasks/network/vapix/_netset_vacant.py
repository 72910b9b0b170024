"""Whether an address is free: what answers there already must not get a second owner."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from tasks.core.errors import Conflict, Refused
from tasks.network.probe._connection import OPENING_PACKETS
from tasks.network.probe._icmp import TOKEN_BYTES, Pinger, open_socket

USUAL_PORTS = (80, 443, 554, 22)
"""Ports that cameras, recorders and most other devices listen on."""
ANSWER_SECONDS = 1.5
_ARP_TABLE = Path("/proc/net/arp")
_ARP_COMPLETE = 0x02  # ATF_COM of <linux/if_arp.h>


async def check_vacant(address: str, ports: Iterable[int], pay: Callable[[int], Awaitable[None]]) -> None:
    """Return when nobody answers at an address: no port, no ICMP echo, no ARP.

    Args:
        address: The address.
        ports: TCP ports to try.
        pay: Waits until so many packets may be sent.

    Raises:
        Conflict: Somebody has it.
        Refused: There is no way to it from here, so nothing could be verified afterwards.
    """
    # The kernel answers for the whole of 127.0.0.0/8, also where nobody listens.
    loopback = ipaddress.ip_address(address).is_loopback
    for port in dict.fromkeys(ports):
        await pay(OPENING_PACKETS)
        found = await _try_port(address, port)
        if found == "open" or (found == "refused" and not loopback):
            raise _taken(address, f"TCP port {port} answers" if found == "open" else f"it refuses TCP port {port}")
        if found == "no way":
            raise Refused(
                f"There is no route from here to {address}, so nobody could see whether the camera arrives there. Nothing was changed.",
                hint="Run this on a worker that reaches both networks.",
            )
    if not loopback and await _echoes(address, pay):
        raise _taken(address, "it answers ICMP echo")
    if (mac := await asyncio.to_thread(_neighbour, address)) is not None:
        raise _taken(address, f"{mac} answers ARP for it")


def _taken(address: str, how: str) -> Conflict:
    return Conflict(
        f"{address} is taken: {how}. Nothing was changed.", hint="Give the camera an address that nobody has."
    )


async def _try_port(address: str, port: int) -> str:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return "no way" if error.errno == errno.ENETUNREACH else "silent"
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.wait_closed()
    return "open"


async def _echoes(address: str, pay: Callable[[int], Awaitable[None]]) -> bool:
    try:
        sock = open_socket(4)
    except PermissionError:
        return False  # the ports were tried, and ARP tells where it is a neighbour
    with Pinger(sock, 4, 2 * TOKEN_BYTES) as pinger:
        for _ in range(2):
            await pay(1)
            if (await pinger.echo(address, ANSWER_SECONDS)).rtt_ms is not None:
                return True
    return False


def _neighbour(address: str) -> str | None:
    """The MAC that answered ARP for an address just now; None for none, and beyond a router."""
    try:
        lines = _ARP_TABLE.read_text("ascii", "replace").splitlines()[1:]
    except OSError:
        return None
    return find_neighbour(lines, address)


def find_neighbour(lines: Iterable[str], address: str) -> str | None:
    """Find an address in the lines of /proc/net/arp (proc(5): address, type, flags, MAC, mask, device).

    >>> find_neighbour(["10.0.0.5  0x1  0x2  b8:a4:4f:00:00:01  *  eth0"], "10.0.0.5")
    'b8:a4:4f:00:00:01'
    """
    for line in lines:
        parts = line.split()
        if len(parts) >= 4 and parts[0] == address:
            with contextlib.suppress(ValueError):
                if int(parts[2], 16) & _ARP_COMPLETE:
                    return parts[3]
    return None
