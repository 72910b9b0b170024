"""Runs masscan once: ends it when it is done, since it may not end by itself, and reads what it found from all it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import CommandFailed, MissingProgram, ToolError, ToolTimeout
from tasks.core.process import find_program, last_words, run_command
from tasks.network.scan._masscan_ways import Way

CONFIGURATION = Path("/etc/masscan/masscan.conf")
HARMLESS = {"exclude", "exclude-file", "excludefile", "nocapture"}
MARGIN_SECONDS = 20.0
"""Beyond what a run should take: a loaded machine sends slower."""
_FOUND = re.compile(r"Discovered open port (\d+)/(tcp|udp) on (\d+\.\d+\.\d+\.\d+)")
_STATUS = re.compile(r"rate:.*?([\d.]+)% done, +(?:waiting (-?\d+)-secs)?")
_PRIVILEGE = re.compile(r"permission|not permitted|need to sudo", re.IGNORECASE)


@dataclass(frozen=True)
class OpenPort:
    """One answer."""

    address: str
    protocol: str
    port: int
    ttl: int | None = None


class _Done(Exception):
    """masscan has sent all and waited for the answers."""


@dataclass
class Listener:
    """What masscan says while it runs: `Discovered` lines, and a status line that is written over and over."""

    found: set[tuple[str, str, int]] = field(default_factory=set)
    percent: float = 0.0
    done: bool = False
    said: list[str] = field(default_factory=list)
    _rest: str = ""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + data.decode(errors="replace"))
        self._rest = self._rest[-4096:]
        for line in lines:
            self.hear(line)
        if self.done:
            raise _Done

    def hear(self, line: str) -> None:
        """Take one line."""
        if status := _STATUS.search(line):
            self.percent = max(self.percent, min(float(status[1]), 100.0))
            # "waiting -1-secs": what it was told to wait is over. Its receiving thread sits in libpcap until some packet comes in and
            # on a quiet link that may be never (masscan issues 144, 558 and 813).
            self.done = self.done or (status[2] is not None and int(status[2]) < 0)
        elif discovered := _FOUND.search(line):
            self.found.add((discovered[3], discovered[2], int(discovered[1])))
        elif (text := " ".join(line.split())) and not text.startswith(("Starting masscan", "Initiating", "Scanning")):
            self.said = [*self.said[-19:], text]


@dataclass
class Outcome:
    """What one run brought.

    Attributes:
        ports: Open ports.
        percent: How much was sent.
        trouble: Why it did not finish.
        said: Its other output.
        output: What it wrote to its file.
    """

    ports: list[OpenPort]
    percent: float
    trouble: ToolError | None
    said: list[str]
    output: bytes


@dataclass(frozen=True)
class Job:
    """What one run shall do."""

    way: Way
    targets: tuple[str, ...]
    excluded: tuple[str, ...]
    ports: str
    rate: float
    source_ports: tuple[int, int]
    seed: int
    wait: int
    retries: int


def check_configuration(file: Path = CONFIGURATION) -> None:
    """Refuse to start beside a configuration that adds targets, ports or speed: masscan reads it always, and first.

    Raises:
        CommandFailed: It sets more than exclusions.
    """
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    keys = {line.partition("=")[0].strip().lower() for line in lines if line.strip() and line.strip()[0] not in "#;["}
    if wrong := sorted(keys - HARMLESS):
        raise CommandFailed(
            f"{file} sets {', '.join(wrong[:5])}, which masscan would add to what was asked.",
            hint=f"Leave only {', '.join(sorted(HARMLESS))} in it.",
        )


async def run_masscan(job: Job, *, timeout: float, expected: float) -> Outcome:
    """Run masscan in a folder of its own, where its paused.conf stays.

    Args:
        job: What to do.
        timeout: Seconds until it is ended whatever it does.
        expected: Seconds it should need.

    Raises:
        MissingProgram: It is not installed, or may not send.
    """
    listener = Listener()
    trouble: ToolError | None = None
    with tempfile.TemporaryDirectory(prefix="signalbox-masscan-") as folder:
        place = Path(folder)
        await asyncio.to_thread(_write, place, job)
        argv = [find_program("masscan"), "-iL", "targets", "--excludefile", "exclude", "-p", job.ports]
        argv += ["-e", job.way.interface, "--adapter-ip", job.way.source, "--router-mac", job.way.mac]
        argv += ["--adapter-port", f"{job.source_ports[0]}-{job.source_ports[1]}", "--max-rate", f"{job.rate:.2f}"]
        argv += ["--seed", str(job.seed), "--wait", str(job.wait), "--retries", str(job.retries)]
        # Without --noreset it answers a closed port's RST with one of its own, and open ports get two: ours and the kernel's.
        argv += ["--noreset", "--interactive", "-oJ", "found.json"]
        # The shell does one thing: the status goes to standard error, where nobody could hear it in time.
        words = [find_program("sh"), "-c", 'exec "$@" 2>&1', "sh", *argv]
        try:
            limit = min(timeout, 1.5 * expected + job.wait + MARGIN_SECONDS)
            with contextlib.suppress(_Done):
                await run_command(words, timeout=limit, cwd=place, scratch=place, on_stdout=listener, grace=1.0)
                listener.percent = 100.0
        except ToolTimeout:
            trouble = ToolTimeout(
                f"masscan was ended after {limit:.0f} s, {listener.percent:.0f} % sent.",
                hint="Ask for fewer addresses or ports at once.",
            )
        except CommandFailed as error:
            words_said = last_words("\n".join(listener.said).encode())
            if _PRIVILEGE.search(words_said):
                raise MissingProgram("masscan may not send raw packets here.", hint=words_said[:200]) from None
            trouble = CommandFailed(f"masscan failed: {words_said or error.message}")
        output = await asyncio.to_thread(_read, place / "found.json")
    return Outcome(merge(listener.found, read_json(output)), listener.percent, trouble, listener.said, output)


def _write(place: Path, job: Job) -> None:
    (place / "targets").write_text("".join(f"{target}\n" for target in job.targets))
    (place / "exclude").write_text("".join(f"{prefix}\n" for prefix in job.excluded))


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def read_json(output: bytes) -> list[OpenPort]:
    """Read masscan's JSON line by line: one that was cut off, or is not yet closed, gives what it has."""
    found = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = json.loads(line.strip().rstrip(b","))
            for port in entry["ports"]:
                if port["status"] == "open" and port["proto"] in {"tcp", "udp"}:
                    # 0 where it does not know: for UDP.
                    ttl = int(port.get("ttl") or 0) or None
                    found.append(OpenPort(str(entry["ip"]), port["proto"], int(port["port"]), ttl))
    return found


def merge(heard: Iterable[tuple[str, str, int]], written: Iterable[OpenPort]) -> list[OpenPort]:
    """Put together what masscan said at once and what it wrote: its file, with the TTLs, is some kilobytes late."""
    known = {(port.address, port.protocol, port.port): port for port in reversed(list(written))}
    for address, protocol, port in heard:
        known.setdefault((address, protocol, port), OpenPort(address, protocol, port))
    return [known[key] for key in sorted(known)]
