"""ngrep: packets whose payload matches a regular expression."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.core.errors import CommandFailed, InvalidParameters, ToolError, ToolTimeout, Unsupported
from tasks.core.models import Example, FileRef, Host, Safety, Service, ToolResult
from tasks.core.offload import offload
from tasks.core.process import Limits, find_program, last_words, run_command
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._filter import check_filter_of, combine
from tasks.network.capture._live import START_SECONDS, no_room
from tasks.network.capture._pattern import LONGEST_PATTERN, check_pattern
from tasks.network.capture._source import MOST_SECONDS, WHOLE_PACKETS, CaptureInput, Opened, SnapLength, opened
from tasks.network.capture._unprivileged import may_change_account

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

SEARCH_SECONDS = 240.0
"""Of one run; with a filter there are two."""
SHOW_SECONDS = 240.0
WORKING_SECONDS = 2 * SEARCH_SECONDS + SHOW_SECONDS + 60
MEMORY_BYTES = 512 << 20
MOST_FOUND = 20_000
"""Packets ngrep finds at most; it stops there."""
GREP_STATUS = (0, 1)
"""As grep's: 1 when nothing matched. ngrep also uses it for errors, which it then names on its error output."""
TEXT_BYTES = 40 << 10
"""Most bytes of text in a result: the ledger keeps 64 KiB of it."""
ENOUGH_BYTES = 64 << 20


class Ngrep(CaptureInput):
    """Parameters of `ngrep`."""

    reads_with_filter: ClassVar[bool] = True
    working_seconds: ClassVar[float] = WORKING_SECONDS
    any_link_type: ClassVar[str | None] = "LINUX_SLL"  # ngrep does not know the newer LINUX_SLL2

    pattern: str = Field(
        description="Regular expression (Perl's language) that the payload of a packet must match, such as 'HTTP/1.[01] 5..'; "
        "a dot is any byte, newlines included. With `hexadecimal`: bytes, such as 16 03 01.",
        min_length=1,
        max_length=LONGEST_PATTERN,
    )
    host: Host | None = Field(None, description="Only packets from and to this host: a name or an address.")
    port: int | None = Field(None, ge=1, le=65535, description="Only packets from and to this port.")
    ignore_case: bool = Field(False, description="Whether upper and lower case are the same.")
    word: bool = Field(False, description="Whether the match must be a whole word.")
    invert: bool = Field(False, description="Find the packets that do not match.")
    hexadecimal: bool = Field(False, description="Whether the pattern is bytes written in hexadecimal.")
    context: int = Field(80, ge=0, le=1000, description="Bytes shown before and after a match, 0 to 1,000.")
    most: int = Field(50, ge=1, le=500, description="Matching packets shown, 1 to 500; all are counted.")
    reveal: bool = Field(
        False,
        description="Show passwords, cookies and tokens instead of ***. What is shown stays in the ledger and on the run's page, so "
        "this is a change-level option.",
    )
    snap_length: SnapLength = WHOLE_PACKETS

    @field_validator("pattern")
    @classmethod
    def _no_nul(cls, pattern: str) -> str:
        if "\0" in pattern:
            raise ValueError(r"a NUL cannot be given as it is; write \x00")
        return pattern

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.hexadecimal:
            if self.word:
                raise ValueError("bytes are no word: give either word or hexadecimal")
            try:
                bytes.fromhex(self.hex_digits)
            except ValueError:
                raise ValueError("pattern must be bytes in hexadecimal, such as 16 03 01 or 0x160301") from None
        else:
            try:
                check_pattern(self.pattern, ignore_case=self.ignore_case)
            except InvalidParameters as error:
                raise ValueError(str(error).rstrip(".")) from None
        return self

    @property
    def hex_digits(self) -> str:
        """The pattern's digits."""
        return "".join(self.pattern.removeprefix("0x").replace(":", " ").split())

    def bpf(self) -> str:
        """The filter to record and to search with."""
        return combine(self.filter, host=self.host, port=self.port)

    def safety(self) -> Safety:
        return Safety.CHANGE if self.reveal else super().safety()


class Match(BaseModel):
    """A packet whose payload matches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame: int = Field(description="Frame number in the capture, as Wireshark counts.")
    at: datetime = Field(description="When, UTC.")
    protocol: str = Field(description="tcp, udp, icmp and so on.")
    source: str = Field(description="Source address.")
    source_port: int | None = Field(description="Source port.")
    destination: str = Field(description="Destination address.")
    destination_port: int | None = Field(description="Destination port.")
    payload_bytes: int = Field(description="Bytes of its payload in the capture.")
    before: str = Field(description="What is before the match; bytes that are no text as \\xNN, secrets as ***.")
    match: str = Field(description="The first match in the packet, at most 256 bytes of it.")
    after: str = Field(description="What is after the match.")


class NgrepResult(ToolResult):
    """What matched."""

    capture: FileRef = Field(description="The capture that was searched.")
    matches: tuple[Match, ...] = Field(description="The first matching packets.")
    found: int = Field(ge=0, description="Matching packets in all.")
    conversations: int = Field(ge=0, description="Conversations they belong to.")
    complete: bool = Field(description="Whether the whole capture was searched.")
    revealed: bool = Field(description="Whether secrets are shown.")
    notes: tuple[str, ...] = Field((), description="What a reader must know.")

    def headline(self) -> str:
        if not self.found:
            return "No packet matches"
        packets = count(self.found, "packet matches", "packets match")
        text = f"{packets} in {count(self.conversations, 'conversation')}"
        return text if self.complete else f"{text}; INCOMPLETE"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=MOST_SECONDS + 2 * START_SECONDS + WORKING_SECONDS,
    programs=("ngrep", "tcpdump"),
    examples=[
        Example(
            "Server errors of a web server, in a capture of the store",
            {"capture": "tcpdump/office.pcap", "pattern": r"^HTTP/1\.[01] 5\d\d", "port": 80},
        ),
        Example(
            "Whoever sends mail without encryption, in the next minute",
            {"interface": "eth0", "filter": "tcp port 25", "pattern": "^MAIL FROM", "ignore_case": True},
        ),
        Example(
            "TLS handshakes, by their first bytes",
            {"capture": "tcpdump/office.pcap", "pattern": "16 03 01", "hexadecimal": True},
        ),
    ],
)
async def ngrep(params: Ngrep) -> NgrepResult:
    """Find packets whose payload matches a regular expression.

    In a capture of the store, or in a live one that is recorded first. What matched is shown with its surroundings; bytes that are no
    text are escaped, and what looks like a secret (passwords, cookies, authorization, tokens) is masked unless `reveal` is set, which
    policy must allow as a change. A pattern that could take for ever on some packets is refused before anything is captured. ngrep
    looks at one packet at a time: a text that is split over two is not found.

    Raises:
        InvalidParameters: A wrong or too costly pattern, a wrong filter, or no such interface.
        NotFound: The store has no such capture.
        MissingProgram: ngrep or tcpdump is not installed, or capturing is not permitted.
        Refused: Policy forbids the interface or allows less.
        Unsupported: ngrep does not know the capture's link layer.
        Busy: The store has no room.
        ToolTimeout: The capture is too large to be searched in time.
        CommandFailed: ngrep failed.
    """
    program = find_program("ngrep")
    await _try(program, params)
    async with opened(params) as capture:
        if not params.live:
            await check_filter_of(params.bpf(), capture.path)
        return await _search(program, params, capture)


async def _search(program: str, params: Ngrep, capture: Opened) -> NgrepResult:
    from tasks.network.capture._ngrep_matches import Matches, Search, find

    run = current_run()
    store = await run.store()
    # What ngrep finds goes into a file of the store while it is looked at: within the quota, and gone with this run.
    try:
        matched = await asyncio.to_thread(
            store.new,
            f"ngrep/{run.id}-{run.attempt}.found",
            expected_bytes=2 * min(ENOUGH_BYTES, capture.ref.size_bytes + 24),
        )
    except OSError as error:
        raise no_room(error) from None
    try:
        problem = await _find(program, params, capture.path, matched)
        parts = [str(_part(matched, number)) for number in range(len(_filters(params)))]
        search = Search(
            pattern=params.hex_digits if params.hexadecimal else params.pattern,
            ignore_case=params.ignore_case,
            word=params.word,
            invert=params.invert,
            hexadecimal=params.hexadecimal,
            context=params.context,
            most=params.most,
            text_bytes=TEXT_BYTES,
            reveal=params.reveal,
        )
        found: Matches = await offload(
            find, str(capture.path), parts, search, timeout=SHOW_SECONDS, memory_bytes=MEMORY_BYTES
        )
    finally:
        await asyncio.shield(asyncio.to_thread(_tidy, store, matched))
    notes = [problem] if problem else []
    if len(found.shown) < found.packets:
        notes.append(f"{found.packets - len(found.shown):,} more matching packets are not shown.")
    if found.packets >= MOST_FOUND:
        notes.append(f"The search ended with {MOST_FOUND:,} matching packets: narrow it.")
    return NgrepResult(
        capture=capture.ref,
        matches=tuple(
            Match(
                frame=shown.frame,
                at=datetime.fromtimestamp(shown.time_ns / 1e9, UTC),
                protocol=shown.protocol,
                source=shown.source,
                source_port=shown.source_port,
                destination=shown.destination,
                destination_port=shown.destination_port,
                payload_bytes=shown.payload_bytes,
                before=shown.before,
                match=shown.match,
                after=shown.after,
            )
            for shown in found.shown
        ),
        found=found.packets,
        conversations=found.conversations,
        complete=problem is None and found.packets < MOST_FOUND,
        revealed=params.reveal,
        notes=(*notes, *found.notes),
    )


def _tidy(store: CaptureStore, matched: Path) -> None:
    for path in [_part(matched, 0), _part(matched, 1), matched]:
        store.discard(path)


def _arguments(program: str, params: Ngrep) -> list[str]:
    argv = [program, "-q", "-n", str(MOST_FOUND)]
    argv += ["-i"] if params.ignore_case else []
    argv += ["-v"] if params.invert else []
    argv += ["-X"] if params.hexadecimal else []
    # It gives up root by itself, once its files are open; where root may not change accounts, it would refuse to work.
    return argv if may_change_account() else [*argv, "-R"]


def _words(params: Ngrep) -> list[str]:
    if params.hexadecimal:
        return ["--", f"0x{params.hex_digits}"]
    # ngrep's own -w finds no word that is all there is in a packet.
    return ["--", rf"(?<!\w)(?:{params.pattern})(?!\w)" if params.word else params.pattern]


def _filters(params: Ngrep) -> list[str]:
    """Filters to search with, one after the other."""
    # What was recorded has passed it, and not every filter of an interface is one for a file: `inbound` is not.
    expression = "" if params.live else params.bpf()
    # Without one, ngrep looks behind VLAN tags by itself. With one it does not, and as `vlan` moves all that follows it behind the
    # tag, both cannot be said at once.
    return [expression, f"vlan and ({expression})"] if expression else [""]


async def _find(program: str, params: Ngrep, path: Path, matched: Path) -> str | None:
    """Have ngrep write the matching packets to `matched` and what has the same beginning; returns what kept it from searching all."""
    limits = Limits(cpu_seconds=int(SEARCH_SECONDS), memory_bytes=1 << 30, file_size_bytes=ENOUGH_BYTES)
    problem: str | None = None
    for number, expression in enumerate(_filters(params)):
        argv = [*_arguments(program, params), "-I", str(path), "-O", str(_part(matched, number)), *_words(params)]
        argv += [expression] if expression else []
        try:
            done = await run_command(argv, timeout=SEARCH_SECONDS, max_output_bytes=0, limits=limits, ok=GREP_STATUS)
        except ToolTimeout:
            raise ToolTimeout(
                f"ngrep did not search the capture within {SEARCH_SECONDS:.0f} s.",
                hint="Narrow it with filter, host or port, or simplify the pattern.",
            ) from None
        except CommandFailed as error:
            if error.completed is None:
                raise
            problem = _partly(error, error.completed.stderr)
        else:
            # Not every link layer has tags; that the filter itself is right was seen before.
            if number == 0 or b"pcap: " not in done.stderr:
                problem = _partly(None, done.stderr) or problem
    return problem


def _part(matched: Path, number: int) -> Path:
    return matched.with_name(f"{matched.name}.{number}")


def _partly(error: CommandFailed | None, stderr: bytes) -> str | None:
    """What a reader must know of an ngrep that ended early; raises when it found nothing for that reason."""
    said = last_words(stderr)
    if "unsupported interface type" in said or "unsupported link" in said:
        raise Unsupported(
            "ngrep does not know the link layer of this capture.",
            hint="The tools tshark and dpkt do; or capture on one interface.",
        )
    if "truncated dump file" in said:
        return "The capture ends in the middle of a packet; what is before it was searched."
    if "she's dead" in said:  # ngrep's words for an error of the expression engine
        raise InvalidParameters(
            "The pattern is too costly for what this capture holds.", hint="Simplify it, or narrow the search."
        )
    if error is None and said:
        raise CommandFailed(f"ngrep: {said}.")
    if error is None:
        return None
    if error.completed is not None and error.completed.returncode == -25:  # SIGXFSZ
        return f"More than {ENOUGH_BYTES >> 20} MiB of packets match; the first of them are shown."
    raise error


async def _try(program: str, params: Ngrep) -> None:
    """Let ngrep compile the pattern, and match it against packets made to be hard, before anything is captured."""
    argv = [*_arguments(program, params), "-I", "-", *_words(params)]
    try:
        done = await run_command(
            argv,
            timeout=20,
            stdin=_hard_packets(),
            max_output_bytes=0,
            limits=Limits(cpu_seconds=2, memory_bytes=1 << 30),
            ok=GREP_STATUS,
        )
    except CommandFailed as error:
        if error.completed is None:
            raise
        raise _wrong_pattern(params, last_words(error.completed.stderr), error.completed.returncode) from None
    except ToolTimeout:
        raise _wrong_pattern(params, "", -1) from None
    if said := last_words(done.stderr):
        raise _wrong_pattern(params, said, done.returncode)


def _wrong_pattern(params: Ngrep, said: str, returncode: int) -> ToolError:
    if "compile failed" in said or "regex compile" in said:
        return InvalidParameters(f"The pattern {params.pattern!r} is wrong: {said.partition(': ')[2] or said}.")
    if returncode < 0 or "she's dead" in said:
        return InvalidParameters(
            f"The pattern {params.pattern!r} could take for ever on some packets.", hint="Simplify it."
        )
    return CommandFailed(f"ngrep: {said}." if said else "ngrep failed.")


def _hard_packets() -> bytes:
    """A capture of datagrams on which expressions that backtrack take their time: one byte over and over, and then another."""
    payloads = [bytes([one]) * 1400 + b"\n!" for one in b"a0A /.,-=\x00\xff"]
    payloads += [(b"ab" * 700) + b"!", (b"a " * 700) + b"!", bytes(range(256)) * 5]
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)]  # Ethernet
    for payload in payloads:
        udp = struct.pack(">HHHH", 9, 9, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4)) + udp
        frame = bytes(12) + b"\x08\x00" + ip
        parts += [struct.pack("<IIII", 0, 0, len(frame), len(frame)), frame]
    return b"".join(parts)
