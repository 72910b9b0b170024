"""Reading an agent: single values, subtrees, columns of tables; bounded in rows and time, gentle with agents that cannot send much."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.network.probe._snmp_values import Oid, Value, ValueType, format_oid
from tasks.network.probe._snmp_wire import (
    GENERAL_ERROR,
    NO_SUCH_NAME,
    TOO_BIG,
    AgentOutcome,
    Line,
    SnmpProblem,
)

COLUMNS_AT_ONCE = 8
"""Columns of a table asked for in one request: what fits the smallest agents' messages (484 bytes, RFC 3417) with an answer each."""
VALUES_AT_ONCE = 16
"""Single values asked for in one request."""

Table = dict[Oid, dict[int, Value]]
"""Rows of a table by index, each with its values by column."""


@dataclass
class Reader:
    """Reads one agent until a limit is reached; what was read before stays.

    Args:
        line: The conversation.
        repetitions: Values asked for in one request of a walk, at most.
        rows: Most rows of one table, or values of one walk.
        seconds: Most seconds for everything.

    Attributes:
        cuts: What was left out, and why.
        values: Values read.
        refused: What the agent answered instead of values, the first time.
        stopped: Why the agent is not asked any more: it answered before, and then did not.
    """

    line: Line
    repetitions: int
    rows: int
    seconds: float
    cuts: list[str] = field(default_factory=list)
    values: int = 0
    refused: SnmpProblem | None = None
    stopped: SnmpProblem | None = None
    _began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether the agent is not asked any more: the seconds are used up, or it fell silent."""
        return self.stopped is not None or time.monotonic() - self._began >= self.seconds

    def cut(self, what: str) -> None:
        """Note something that was left out."""
        if what not in self.cuts:
            self.cuts.append(what)

    def _why_over(self) -> str:
        return str(self.stopped) if self.stopped is not None else f"{self.seconds:g} s were over"

    def _note(self, problem: SnmpProblem, what: str) -> None:
        """Go on after a problem: with other things when the agent refused this one, with nothing when it fell silent.

        Raises:
            SnmpProblem: It never said anything.
        """
        if problem.status:
            self.refused = self.refused or problem
        elif self.values == 0 and self.refused is None:
            raise problem
        else:
            self.stopped = problem
        self.cut(f"{what}: {problem}")

    async def get(self, oids: Sequence[Oid]) -> list[tuple[Oid, Value]]:
        """Read single values; missing ones are among them, with what the agent says about them.

        Raises:
            SnmpProblem: The agent does not answer.
        """
        found: list[tuple[Oid, Value]] = []
        for start in range(0, len(oids), VALUES_AT_ONCE):
            part = oids[start : start + VALUES_AT_ONCE]
            if self.over:
                self.cut(f"{len(oids) - start} values: {self._why_over()}")
                break
            try:
                found += await self._get(part)
            except SnmpProblem as problem:
                self._note(problem, f"{format_oid(part[0])} and what was asked with it")
        return found

    async def _get(self, oids: Sequence[Oid]) -> list[tuple[Oid, Value]]:
        try:
            answer = dict(await self.line.ask("get", oids))
        except SnmpProblem as problem:
            if problem.status == NO_SUCH_NAME and len(oids) == 1:
                # Version 1 words from an agent that should know better (RFC 3584 section 4.3).
                return [(oids[0], Value(ValueType.NO_SUCH_OBJECT))]
            if problem.status and len(oids) == 1:
                self._note(problem, format_oid(oids[0]))
                return []
            if problem.status not in (TOO_BIG, GENERAL_ERROR, NO_SUCH_NAME):
                raise
            # The answer does not fit, or one of them spoils it: ask for less at once.
            half = len(oids) // 2
            return [*await self._get(oids[:half]), *await self._get(oids[half:])]
        if not answer.keys() & set(oids):
            raise SnmpProblem(AgentOutcome.NONSENSE, "the agent answered about something else than what was asked")
        self.values += len(answer)
        return [(oid, answer.get(oid, Value(ValueType.NO_SUCH_OBJECT))) for oid in oids]

    async def subtree(self, root: Oid) -> list[tuple[Oid, Value]]:
        """Read everything below an object identifier.

        Raises:
            SnmpProblem: The agent does not answer.
        """
        column = (await self._walk([root]))[0]
        return [(root + index, value) for index, value in column.items()]

    async def table(self, entry: Oid, columns: Sequence[int]) -> Table:
        """Read columns of a table.

        Args:
            entry: The table's entry, such as ifEntry.
            columns: The columns wanted.

        Raises:
            SnmpProblem: The agent does not answer.
        """
        rows: Table = {}
        for start in range(0, len(columns), COLUMNS_AT_ONCE):
            part = columns[start : start + COLUMNS_AT_ONCE]
            for number, column in zip(part, await self._walk([(*entry, number) for number in part]), strict=True):
                for index, value in column.items():
                    rows.setdefault(index, {})[number] = value
        return rows

    async def _walk(self, roots: Sequence[Oid]) -> list[dict[Oid, Value]]:
        """Read subtrees side by side: one request asks on in all that have not ended."""
        walks = [_Walk(root) for root in roots]
        at_once = self.repetitions
        while going := [walk for walk in walks if not walk.done]:
            if self.over:
                self.cut(f"what follows {format_oid(going[0].last)}: {self._why_over()}")
                break
            repetitions = max(1, at_once // len(going))
            try:
                answer = await self.line.ask("bulk", [walk.last for walk in going], repetitions)
            except SnmpProblem as problem:
                if problem.status in (TOO_BIG, GENERAL_ERROR) and repetitions > 1:
                    # It should send what fits (RFC 3416 section 4.2.3), and not all do; or a value further on spoils it all.
                    at_once = max(len(going), at_once // 2) if at_once > len(going) else 1
                elif problem.status in (TOO_BIG, GENERAL_ERROR) and len(going) > 1:
                    for walk in going:
                        await self._one_by_one(walk)
                else:
                    self._note(problem, f"what follows {format_oid(going[0].last)}")
                    break
                continue
            if not answer:
                self._note(
                    SnmpProblem(AgentOutcome.NONSENSE, "the agent answered with nothing"), format_oid(going[0].last)
                )
                break
            for place, (oid, value) in enumerate(answer):
                self._take(going[place % len(going)], oid, value)
            for missed in going[len(answer) :]:
                missed.starved += 1
                if missed.starved > 1:  # an answer without a place for it, twice: ask for it alone
                    await self._one_by_one(missed)
        return [walk.found for walk in walks]

    async def _one_by_one(self, walk: _Walk) -> None:
        """Go on in one subtree, a value at a time, up to where the agent fails."""
        while not walk.done and not self.over:
            try:
                answer = await self.line.ask("bulk", [walk.last], 1)
            except SnmpProblem as problem:
                self._note(problem, f"what follows {format_oid(walk.last)}")
                answer = []
            for oid, value in answer[:1]:
                self._take(walk, oid, value)
            if not answer:
                walk.done = True

    def _take(self, walk: _Walk, oid: Oid, value: Value) -> None:
        if walk.done:
            return
        if value.missing or oid[: len(walk.root)] != walk.root:
            walk.done = True
        elif oid <= walk.last:
            self.cut(
                f"what follows {format_oid(walk.last)}: the agent goes in circles (its identifiers do not increase)"
            )
            walk.done = True
        elif len(walk.found) >= self.rows:
            self.cut(f"what follows {format_oid(walk.last)}: more than {self.rows} rows")
            walk.done = True
        else:
            walk.last = oid
            walk.found[oid[len(walk.root) :]] = value
            self.values += 1


@dataclass
class _Walk:
    root: Oid
    last: Oid = ()
    found: dict[Oid, Value] = field(default_factory=dict)
    done: bool = False
    starved: int = 0

    def __post_init__(self) -> None:
        self.last = self.root
