"""Capture filters (pcap-filter(7)), compiled before anything is captured: a wrong one is an error with libpcap's own reason."""

from __future__ import annotations

import re
import struct

from tasks.core.errors import CommandFailed, InvalidParameters, ToolTimeout
from tasks.core.process import Limits, find_program, last_words, run_command

COMPILE_SECONDS = 10.0
"""Names in a filter are resolved, and a resolver may be slow; compiling itself takes milliseconds."""
LONGEST_FILTER = 2000
ETHERNET, COOKED = 1, 276  # tcpdump.org/linktypes.html; the latter is what `any` gives

_NOISE = re.compile(r"^(tcpdump: )?(reading from file .*|Warning: .*)$")


async def check_filter(expression: str, *, link_type: int = ETHERNET) -> None:
    """Compile a capture filter with tcpdump, which needs no privilege and no interface for that.

    Args:
        expression: A filter in libpcap's language; empty: everything.
        link_type: What the packets begin with, as `tcpdump.org/linktypes.html` numbers it.

    Raises:
        InvalidParameters: The filter is wrong; says tcpdump's reason.
        MissingProgram: tcpdump is not installed.
    """
    if not expression:
        return
    program = find_program("tcpdump")
    # An empty capture on its standard input says for which link layer to compile.
    empty = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link_type)
    try:
        await run_command(
            [program, "-n", "-r", "-", "-d", "--", expression],
            timeout=COMPILE_SECONDS,
            stdin=empty,
            limits=Limits(cpu_seconds=5, memory_bytes=1 << 30),
        )
    except CommandFailed as error:
        if error.completed is None or error.completed.returncode < 0:
            raise
        raise InvalidParameters(
            f"The capture filter {_shown(expression)} is wrong: {_reason(error.completed.stderr)}.",
            hint="Its language: man pcap-filter. Right would be 'host 192.168.1.7 and tcp port 443'.",
        ) from None
    except ToolTimeout:
        raise InvalidParameters(
            f"The capture filter {_shown(expression)} could not be compiled within {COMPILE_SECONDS:g} s.",
            hint="Does it name a host that no resolver answers for? Addresses need none.",
        ) from None


def combine(expression: str, *, host: str | None = None, port: int | None = None) -> str:
    """Join a filter with a host and a port in libpcap's language.

    >>> combine("udp or tcp", host="10.0.0.7", port=53)
    'host 10.0.0.7 and port 53 and (udp or tcp)'

    Raises:
        ValueError: The filter's parentheses do not pair, so that it would say something else once it is joined.
    """
    parts = [f"host {host}"] if host is not None else []
    parts += [f"port {port}"] if port is not None else []
    expression = expression.strip()
    depth = 0
    for character in expression if parts else "":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        raise ValueError(f"the parentheses of filter {expression[:80]!r} do not pair; right would be '(udp or tcp)'")
    if expression:
        parts.append(f"({expression})" if parts else expression)
    return " and ".join(parts)


def _shown(expression: str) -> str:
    text = repr(expression)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _reason(stderr: bytes) -> str:
    """What tcpdump says is wrong, without its other talk."""
    lines = [line for line in stderr.splitlines() if not _NOISE.match(line.decode(errors="replace").strip())]
    return last_words(b"\n".join(lines)).removeprefix("tcpdump: ").rstrip(".") or "tcpdump does not say why"
