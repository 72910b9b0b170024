"""Capture filters (pcap-filter(7)), compiled before anything is captured: a wrong one is an error with libpcap's own reason."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tasks.core.errors import CommandFailed, InvalidParameters, ToolTimeout
from tasks.core.process import Limits, find_program, last_words, run_command

COMPILE_SECONDS = 10.0
"""Names in a filter are resolved, and a resolver may be slow; compiling itself takes milliseconds."""
LONGEST_FILTER = 2000
HEADER_BYTES = 64 << 10
"""Of a capture: as much as tells its link layer, options of pcapng included."""

_NOISE = re.compile(r"^(tcpdump: )?(reading from file .*|Warning: .*|data link type .*)$")


async def check_filter(expression: str, *, interface: str, link_type: str | None = None) -> None:
    """Compile a capture filter for an interface: what words it knows (`inbound`, `wlan`) only the interface says. Nothing is captured.

    Args:
        expression: A filter in libpcap's language; empty: everything.
        interface: Where it will be used. What keeps it from being opened is for who listens there to tell.
        link_type: What packets shall begin with, as tcpdump names it; default: the interface's own choice.

    Raises:
        InvalidParameters: The filter is wrong there; says tcpdump's reason.
        MissingProgram: tcpdump is not installed.
    """
    # Whatever mode the interface is in, it stays.
    await _compile(expression, ["-p", "-i", interface, *(["-y", link_type] if link_type else [])], b"")


async def check_filter_of(expression: str, capture: Path) -> None:
    """Compile a capture filter for a file with packets, whose link layer says what words it knows.

    Raises:
        InvalidParameters: The filter is wrong there; says tcpdump's reason.
        MissingProgram: tcpdump is not installed.
    """
    await _compile(expression, ["-r", "-"], await asyncio.to_thread(_beginning, capture))


def _beginning(capture: Path) -> bytes:
    with capture.open("rb") as file:
        return file.read(HEADER_BYTES)


async def _compile(expression: str, source: list[str], stdin: bytes) -> None:
    if not expression:
        return
    argv = [find_program("tcpdump"), "-n", "-d", *source]
    limits = Limits(cpu_seconds=5, memory_bytes=1 << 30)
    try:
        await run_command([*argv, "--", expression], timeout=COMPILE_SECONDS, stdin=stdin, limits=limits)
    except CommandFailed as error:
        if error.completed is None or error.completed.returncode < 0:
            raise
        try:
            await run_command(argv, timeout=COMPILE_SECONDS, stdin=stdin, limits=limits)
        except CommandFailed:
            return  # not the filter is wrong: nothing can be read there
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
