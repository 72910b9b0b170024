"""Runs traceroute for one target and reads what it wrote, to the end or until it was ended."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tasks.core.errors import CommandFailed, MissingProgram, ToolTimeout
from tasks.core.process import find_program, last_words, run_command

Mode = Literal["udp", "icmp", "tcp"]

SIMULTANEOUS = 16
"""Probes on their way at once: traceroute's own default."""
_HOP = re.compile(r" *(\d{1,3})  ?(.*)")
_TIME = re.compile(r"\d+\.\d+")
_CODE = re.compile(r"!(?:[HNPSXVC]|F(?:-\d+)?|<\d+>|\d+)")
_REACHES = {"syn": "open", "rst": "closed"}

MEANINGS = {
    "!H": "host unreachable",
    "!N": "network unreachable",
    "!P": "protocol unreachable",
    "!S": "source route failed",
    "!F": "packet too large for the way there",
    "!X": "forbidden by a filter",
    "!V": "host precedence violation",
    "!C": "precedence cutoff",
}
"""What traceroute's codes mean (traceroute(8)); others are `!<N>`: ICMP unreachable code N."""


def meaning(code: str) -> str:
    """Say what a code means.

    >>> meaning("!X"), meaning("!F-1400"), meaning("!<10>")
    ('forbidden by a filter', 'packet too large for the way there', 'unreachable, ICMP code 10')
    """
    return MEANINGS.get(code[:2]) or f"unreachable, ICMP code {code.strip('!<>')}"


@dataclass
class Answer:
    """What one address answered at a hop."""

    address: str
    times_ms: list[float] = field(default_factory=list)
    code: str | None = None
    flags: str | None = None


@dataclass
class Hop:
    """One distance: who answered there, and how many probes nobody answered."""

    number: int
    answers: list[Answer] = field(default_factory=list)
    lost: int = 0

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(answer.address for answer in self.answers)


@dataclass(frozen=True)
class Trace:
    """What traceroute brought.

    Attributes:
        hops: Every hop it wrote about.
        ended: Whether it went on to its end.
        error: Why this machine could not send.
    """

    hops: tuple[Hop, ...]
    ended: bool
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """What one run shall do; times in seconds."""

    address: str
    mode: Mode
    port: int | None
    first_hop: int
    max_hops: int
    probes: int
    wait: float
    pause: float

    def seconds(self) -> float:
        """The longest it takes: when nobody answers."""
        return longest(self.max_hops - self.first_hop + 1, self.probes, self.wait, self.pause)


def longest(hops: int, probes: int, wait: float, pause: float) -> float:
    """Seconds a trace takes when nobody answers."""
    return hops * probes * pause + (math.ceil(hops * probes / SIMULTANEOUS) + 1) * wait + 1


async def trace(job: Job, *, timeout: float) -> Trace:
    """Trace the way to one address.

    Raises:
        MissingProgram: traceroute is not installed, or may not open the socket it needs.
        CommandFailed: It failed in a way that is not the network's.
    """
    version = ipaddress.ip_address(job.address).version
    argv = [find_program("traceroute"), f"-{version}", "-n", "-f", str(job.first_hop), "-m", str(job.max_hops)]
    argv += ["-q", str(job.probes), "-N", str(SIMULTANEOUS)]
    # One number: the full wait for every probe, not one guessed from other answers. -z: seconds, as it is at most 10.
    argv += ["-w", f"{job.wait:g}", "-z", f"{job.pause:.4f}"]
    # info: which flags the target's answer had, so that open and closed are told apart.
    argv += {"udp": [], "icmp": ["-I"], "tcp": ["-T", "-O", "info"]}[job.mode]
    if job.port is not None:
        argv += ["-p", str(job.port)]
    try:
        done = await run_command([*argv, "--", job.address], timeout=timeout)
    except ToolTimeout as error:
        output = error.partial.stdout if error.partial else b""
        return Trace(tuple(read_hops(output.decode(errors="replace"))), ended=False)
    except CommandFailed as error:
        if error.completed is None:
            raise
        hops = tuple(read_hops(error.completed.stdout.decode(errors="replace")))
        if error.completed.returncode < 0:
            if not hops:
                raise
            return Trace(hops, ended=False)
        said = last_words(error.completed.stderr)
        if "privilege" in said:
            raise MissingProgram(
                f"traceroute needs CAP_NET_RAW for mode {job.mode}.", hint="Mode udp needs no privilege."
            ) from None
        if refused := re.search(r"(?:connect|send|sendto): (.+?)(?:;|$)", said):
            return Trace(hops, ended=True, error=refused[1].lower())
        raise CommandFailed(f"traceroute failed for {job.address}: {said or error.message}") from None
    return Trace(tuple(read_hops(done.stdout.decode(errors="replace"))), ended=True)


def read_hops(text: str) -> Iterator[Hop]:
    """Read traceroute's lines; what is cut off in the middle gives what was whole."""
    for line in text.splitlines()[1:]:  # the first repeats the question
        if match := _HOP.fullmatch(line):
            hop = _read_hop(int(match[1]), match[2].split())
            if hop.answers or hop.lost:
                yield hop


def _read_hop(number: int, words: list[str]) -> Hop:
    hop = Hop(number)
    answer: Answer | None = None
    flags: str | None = None
    for at, word in enumerate(words):
        if word == "*":
            hop.lost += 1
        elif _TIME.fullmatch(word):
            # A time without its unit was cut off: it may lack digits.
            if answer is not None and words[at + 1 : at + 2] == ["ms"]:
                if answer not in hop.answers:
                    hop.answers.append(answer)
                answer.times_ms.append(float(word))
                answer.flags = flags or answer.flags
        elif _CODE.fullmatch(word) and answer is not None:
            answer.code = answer.code or word
        elif word.startswith("<") and word.endswith(">"):
            flags = word[1:-1]
        elif address := _address(word):
            known = next((one for one in hop.answers if one.address == address), None)
            answer, flags = known or Answer(address), None
    return hop


def _address(word: str) -> str | None:
    try:
        return str(ipaddress.ip_address(word.partition("%")[0]))
    except ValueError:
        return None


def port_state(flags: str | None) -> str | None:
    """What a TCP answer says about the port.

    >>> port_state("syn,ack"), port_state("rst,ack"), port_state(None)
    ('open', 'closed', None)
    """
    return _REACHES.get((flags or "").partition(",")[0])
