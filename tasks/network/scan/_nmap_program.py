"""Runs nmap once, keeps its XML as evidence, and turns what it says into notes and trouble."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import CommandFailed, ToolError, ToolTimeout, Unreachable
from tasks.core.models import FileRef
from tasks.core.process import find_program, run_command
from tasks.core.run import ToolRun
from tasks.core.words import count
from tasks.network.scan._nmap_xml import NmapReport, read_report
from tasks.network.scan._privilege import may_send_raw

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

_USUAL = (
    # Said on every unprivileged run; the result's own note says it better.
    "Host discovery disabled (-Pn)",
    "You have specified some options that require raw socket access",
    "These options will not be honored",
    "Warning: You are not root",
    "WARNING: a TCP ping scan was requested",
    # Ports of a policy that are not among those scanned.
    "WARNING: Your ports include",
)
_NO_ROUTE = re.compile(
    r"no route|failed to determine route|Network is unreachable|unable to determine.*route", re.IGNORECASE
)


class NmapProgram:
    """nmap on behalf of one tool run.

    Args:
        run: The tool run.
        excluded: Prefixes nmap must leave out, whatever it is asked.
        ends: Time (of `time.monotonic`) when the last nmap must be over.

    Attributes:
        raw: Whether it may send raw packets.
        evidence: The XML of every run so far.
        notes: What a reader of the result must know, without repetitions.
        trouble: Why the last run did not finish.
    """

    def __init__(self, run: ToolRun, excluded: Iterable[str], *, ends: float) -> None:
        self.path = find_program("nmap")
        self.raw = may_send_raw(self.path)
        self.evidence: list[FileRef] = []
        self.notes: dict[str, None] = {}
        self.trouble: ToolError | None = None
        self._run, self._excluded, self._ends = run, tuple(excluded), ends

    def note(self, text: str) -> None:
        self.notes[text] = None

    async def run(self, what: str, version: int, argv: list[str], targets: Iterable[str], seconds: float) -> NmapReport:
        """Run nmap, keep its XML, and read what it finished; what went wrong is in `trouble`.

        Args:
            what: Names the evidence.
            version: 4 or 6.
            argv: Options that say what to do.
            targets: Addresses and prefixes.
            seconds: How long it may take, at most until the end of the whole.
        """
        limit = min(self._ends - time.monotonic(), seconds)
        if limit < 1:
            self.trouble = ToolTimeout(
                f"The deadline came before {what} could go on.", hint="Ask for fewer addresses or ports at once."
            )
            self.note(self.trouble.message)
            return NmapReport(hosts=(), reported=0, finished=False)
        store = await self._run.store()
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        name = f"nmap/{today}/{self._run.id}-{self._run.attempt}-{len(self.evidence) + 1:03d}-{what}.xml"
        path = await asyncio.to_thread(store.new, name)
        words = [self.path, "--privileged" if self.raw else "--unprivileged", "-n", "-T3", "-v", *argv]
        words += ["-6"] if version == 6 else []
        # Shorter than our own limit: nmap then gives up on a slow host by itself and goes on with the others.
        words += ["--host-timeout", f"{max(int(limit * 0.9), 1)}s", "-oX", "-", "-iL", "-"]
        never = self._run.policy.never_port_ranges()
        if never and "-sn" not in argv:
            words += ["--exclude-ports", ",".join(f"{low}-{high}" for low, high in never)]
        complaints = b""
        with tempfile.TemporaryDirectory(prefix="signalbox-nmap-") as folder:
            excluded = [text for text in self._excluded if ipaddress.ip_network(text).version == version]
            if excluded:
                file = Path(folder, "exclude")
                await asyncio.to_thread(file.write_text, "\n".join(excluded) + "\n")
                words += ["--excludefile", str(file)]
            try:
                stdin = ("\n".join(targets) + "\n").encode()
                complaints = (
                    await run_command(words, timeout=limit, stdin=stdin, stdout_path=path, scratch=folder)
                ).stderr
            except ToolTimeout as error:
                self.trouble, complaints = error, error.partial.stderr if error.partial else b""
            except CommandFailed as error:
                self.trouble, complaints = error, error.completed.stderr if error.completed else b""
            except BaseException:
                store.discard(path)
                raise
        report = await self._keep(store, path)
        self._hear(complaints, report, version)
        return report

    async def _keep(self, store: CaptureStore, path: Path) -> NmapReport:
        """Make the XML evidence, then read it: what cannot be read today is not lost."""
        if not await asyncio.to_thread(lambda: path.exists() and path.stat().st_size > 0):
            store.discard(path)
            return NmapReport(hosts=(), reported=0, finished=False)
        stored = await asyncio.to_thread(store.commit, path)
        self.evidence.append(self._run.file_ref(stored))
        return await asyncio.to_thread(read_report, store.path(stored.name))

    def _hear(self, complaints: bytes, report: NmapReport, version: int) -> None:
        """Turn what nmap said and how it ended into notes and trouble."""
        lines = [" ".join(line.split()) for line in complaints.decode(errors="replace").splitlines()]
        said = [line for line in lines if line and not line.startswith(_USUAL)]
        for line in said:
            self.note(f"nmap: {line[:300]}")
        if report.unreadable:
            self.note(f"{count(report.unreadable, 'host')} in nmap's XML could not be read; the evidence has them.")
        late = [host.address for host in report.hosts if host.timed_out]
        if late:
            self.note(f"Took longer than their deadline, their ports are unknown: {', '.join(late[:10])}")
        if self.trouble is not None:
            self.note(f"Cut off: {self.trouble.message}")
            if any(_NO_ROUTE.search(line) for line in said) and not report.hosts:
                self.trouble = Unreachable(f"There is no IPv{version} route to the targets: {said[-1][:200]}")
        elif not report.finished:
            reason = report.error or "its XML has no end"
            self.trouble = CommandFailed(f"nmap did not finish: {reason}.")
            self.note(self.trouble.message)
