"""Runs netdiscover once and reads its lines. It knows /24 networks only, so what it asks there is given to it address by address."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import CommandFailed, MissingProgram, ToolError, ToolTimeout
from tasks.core.models import parse_mac
from tasks.core.process import find_program, run_command

START_SECONDS = 5.0
"""netdiscover sleeps two seconds before it asks, and three after."""
MARGIN_SECONDS = 10.0
_LINE = re.compile(r" (\d+\.\d+\.\d+\.\d+) +([0-9a-f]{2}(?::[0-9a-f]{2}){5}) +\d+ +\d+  (.*?) *\n")


@dataclass(frozen=True)
class Heard:
    """An address and the MAC that spoke for it.

    Attributes:
        address: IPv4 address; 0.0.0.0 where a host asked before it took one.
        mac: MAC of the frame.
        vendor: What netdiscover's own table says, None for makers it does not know.
    """

    address: str
    mac: str
    vendor: str | None


@dataclass(frozen=True)
class Outcome:
    """What one run brought.

    Attributes:
        heard: Each pair of address and MAC, in the order they spoke.
        output: What it wrote.
        ended: Whether it ended by itself.
        trouble: Why it failed.
    """

    heard: tuple[Heard, ...]
    output: bytes
    ended: bool
    trouble: ToolError | None = None


async def ask(
    interface: str,
    network: ipaddress.IPv4Network,
    hosts: Iterable[int],
    *,
    ours: int,
    pause_ms: int,
    count: int,
    timeout: float,
) -> Outcome:
    """Ask some addresses of a /24 who has them.

    Its only list of single addresses is the one of its fast mode, read from the home folder: the run gets a home of its own.

    Args:
        interface: Our interface.
        network: The /24.
        hosts: Last bytes of the addresses to ask.
        ours: Last byte of our own address there: netdiscover asks in the name of x.x.x.67 otherwise, whoever that is.
        pause_ms: Milliseconds after each request.
        count: Requests for each address.
        timeout: Seconds until it is ended.
    """
    argv = ["-i", interface, "-r", f"{network.network_address}/24", "-f", "-s", str(pause_ms), "-c", str(count)]
    return await _run([*argv, "-n", str(ours)], timeout, hosts)


async def listen(interface: str, seconds: float) -> Outcome:
    """Listen and send nothing; netdiscover does not end by itself, so it is ended after `seconds`."""
    return await _run(["-i", interface, "-p"], seconds, ())


async def _run(words: list[str], timeout: float, hosts: Iterable[int]) -> Outcome:
    # -P: lines instead of a screen that wants a terminal. -N: no header.
    argv = [find_program("netdiscover"), *words, "-P", "-N"]
    with tempfile.TemporaryDirectory(prefix="signalbox-netdiscover-") as home:
        await asyncio.to_thread(_write, Path(home), hosts)
        try:
            done = await run_command(argv, timeout=timeout, cwd=home, scratch=home, env={"HOME": home})
        except ToolTimeout as error:
            output = error.partial.stdout if error.partial else b""
            return Outcome(tuple(read_lines(output.decode(errors="replace"))), output, ended=False)
        except CommandFailed as error:
            output = error.completed.stdout if error.completed else b""
            said = " ".join(output.decode(errors="replace").split())[-300:]
            if re.search("must be root|permission", said, re.IGNORECASE):
                raise MissingProgram(f"netdiscover may not listen here: {said}") from None
            heard = tuple(read_lines(output.decode(errors="replace")))
            trouble = error if heard or not said else CommandFailed(f"netdiscover failed: {said}")
            return Outcome(heard, output, ended=True, trouble=trouble)
    return Outcome(tuple(read_lines(done.stdout.decode(errors="replace"))), done.stdout, ended=True)


def _write(home: Path, hosts: Iterable[int]) -> None:
    folder = home / ".netdiscover"
    folder.mkdir()
    (folder / "fastips").write_text("".join(f"{host}\n" for host in hosts))


def read_lines(text: str) -> Iterator[Heard]:
    """Read netdiscover's lines of address, MAC, count, length and vendor; what is cut off in the middle of a line is left out."""
    for line in text.splitlines(keepends=True):
        if match := _LINE.fullmatch(line):
            vendor = match[3].strip()
            unknown = not vendor or vendor.lower().startswith("unknown")
            yield Heard(match[1], parse_mac(match[2]), None if unknown else vendor)
