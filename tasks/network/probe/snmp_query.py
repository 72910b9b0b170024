"""`snmp_query`: what network devices say about themselves over SNMP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from blocks.snmp import SnmpCredentials
from tasks.core.db.devices import conversation
from tasks.core.errors import Busy, NotFound
from tasks.core.log import run_logger
from tasks.core.models import BlockName, Example, FileRef, ProbeParams, Safety, Scope, Service, ToolResult
from tasks.core.rate import Pacer
from tasks.core.run import ToolRun, current_run, wiring
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.probe._snmp_read import Reader
from tasks.network.probe._snmp_rows import (
    ArpEntry,
    Entity,
    Forwarding,
    Interface,
    Neighbour,
    OwnAddress,
    SnmpValue,
    System,
)
from tasks.network.probe._snmp_values import (
    MISSING,
    Oid,
    Value,
    ValueType,
    format_oid,
    hex_of,
    oid_of,
    parse_oid,
    text_of,
    ticks_text,
)
from tasks.network.probe._snmp_views import READERS, View
from tasks.network.probe._snmp_wire import AgentOutcome, Line, SnmpProblem, Wire

TIMEOUT_SECONDS = 1200.0
IN_FLIGHT = 32
"""Agents asked at once; each has one request at a time."""
MAX_OIDS = 64
OTHERS_SECONDS = 15.0
"""Longest wait for another run that talks with the same device."""
REPORTING_SECONDS = 5.0
SHOWN_BYTES = 48 << 10
"""Most JSON a result carries: the ledger keeps 64 KiB. What is more goes to a file."""
_SHOWN_ROWS = (500, 200, 100, 50, 20, 10, 5, 2, 0)
_ENTRIES = {
    "values": ("value", "values"),
    "interfaces": ("interface", "interfaces"),
    "addresses": ("address", "addresses"),
    "arp": ("ARP entry", "ARP entries"),
    "neighbours": ("neighbour", "neighbours"),
    "forwarding": ("forwarding entry", "forwarding entries"),
    "entity": ("part", "parts"),
}
"""The lists of an agent's result: what one entry of each is called, and several are."""


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


_Oids = Annotated[
    list[Annotated[str, BeforeValidator(parse_oid)]], Field(max_length=MAX_OIDS), AfterValidator(_distinct)
]


class SnmpQuery(ProbeParams):
    """Parameters of `snmp_query`."""

    credentials: BlockName = Field(description="Block that lets us in, such as snmp/core (type SNMP Credentials).")
    views: Annotated[list[View], AfterValidator(_distinct)] = Field(
        default_factory=list,
        description="Ready-made views: system, interfaces, addresses, arp, neighbours, forwarding, entity. "
        "Default: system, when nothing else is asked for.",
    )
    get: _Oids = Field(
        default_factory=list,
        description=f"Single values to read, by numeric object identifier such as 1.3.6.1.2.1.1.5.0; at most {MAX_OIDS}.",
    )
    walk: _Oids = Field(
        default_factory=list,
        description=f"Subtrees to read, by numeric object identifier such as 1.3.6.1.2.1.1; at most {MAX_OIDS}.",
    )
    port: int = Field(161, ge=1, le=65535, description="UDP port of the agents, 1 to 65535.")
    timeout: float = Field(2.0, ge=0.1, le=30, description="Seconds to wait for each answer, 0.1 to 30.")
    attempts: int = Field(2, ge=1, le=5, description="How often each request is sent at most, 1 to 5.")
    max_repetitions: int = Field(
        32,
        ge=1,
        le=200,
        description="Values asked for in one request of a walk, 1 to 200. Agents send fewer when they do not fit.",
    )
    max_rows: int = Field(
        1000,
        ge=1,
        le=50_000,
        description="Most rows of each table, or values of each walk, for each target; 1 to 50000.",
    )
    max_seconds: float = Field(
        30.0, ge=1, le=600, description="Most seconds for each target, 1 to 600. What was read by then is kept."
    )

    @property
    def wanted(self) -> list[View]:
        """The views to read."""
        return self.views if self.views or self.get or self.walk else [View.SYSTEM]

    def scope(self) -> Scope:
        want = min(1000, max(50, 10 * len(self.targets)))
        return Scope(targets=tuple(self.targets), ports=(self.port,), packets_per_second=want)

    def deadline(self) -> float:
        rounds = -(-len(self.targets) // IN_FLIGHT)
        each = (
            OTHERS_SECONDS + self.max_seconds + self.timeout * (self.attempts + 1)
        )  # one to ask a silent one who it is
        return min(TIMEOUT_SECONDS, rounds * each + REPORTING_SECONDS + 5)

    def about(self) -> str:
        what = ", ".join([*self.wanted, *(f"get {oid}" for oid in self.get), *(f"walk {oid}" for oid in self.walk)])
        return f"{super().about()[:300]}: {what}"[:500]


class Agent(BaseModel):
    """What one agent said, or why it said nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    address: str | None = Field(None, description="The address that was asked; None when the name does not resolve.")
    outcome: AgentOutcome = Field(
        description="answered, partial, silent, wrong_community (version 2c: an agent is there, and does not answer this community), "
        "no_agent, unreachable, unknown_user, wrong_password, wrong_encryption, wrong_level, not_in_time_window, not_allowed, agent_error, "
        "nonsense, busy, unresolved or not_tried."
    )
    detail: str | None = Field(None, description="What it means.")
    engine_id: str | None = Field(
        None, description="The agent's engine id, hexadecimal digits, when it was asked by version 3."
    )
    time_ms: float | None = Field(None, description="From the first request to the last answer, milliseconds.")
    requests: int = Field(0, description="Packets sent.")
    values: list[SnmpValue] = Field(default_factory=list, description="What get and walk brought.")
    missing: int = Field(0, description="Of the values: those the agent says are not there, or does not show us.")
    system: System | None = Field(None, description="Who the device is.")
    interfaces: list[Interface] = Field(default_factory=list, description="Its interfaces.")
    addresses: list[OwnAddress] = Field(default_factory=list, description="Its own addresses.")
    arp: list[ArpEntry] = Field(default_factory=list, description="MACs of its neighbours by address.")
    neighbours: list[Neighbour] = Field(default_factory=list, description="Devices at the other ends of its cables.")
    forwarding: list[Forwarding] = Field(default_factory=list, description="MACs behind its ports.")
    entity: list[Entity] = Field(default_factory=list, description="Its physical parts.")
    nothing_of: list[str] = Field(
        default_factory=list, description="Views of which the agent has nothing, or shows us nothing."
    )
    cut: list[str] = Field(default_factory=list, description="What was not read, and why.")
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="Rows that are in the output file only, by list, because the result would be too large.",
    )

    @property
    def answered(self) -> bool:
        """Whether it said anything of what was asked."""
        return self.outcome in (AgentOutcome.ANSWERED, AgentOutcome.PARTIAL)

    @property
    def rows(self) -> int:
        """Rows and values it gave, those in the file only included."""
        return sum(len(getattr(self, name)) for name in _ENTRIES) + sum(self.left_out.values())


class SnmpQueryResult(ToolResult):
    """An entry for each target, in the order asked."""

    agents: list[Agent] = Field(description="One entry for each target.")
    output: FileRef | None = Field(
        None, description="Everything as JSON, when it is more than fits here and the store had room for it."
    )

    def headline(self) -> str:
        if len(self.agents) == 1:
            return _one_line(self.agents[0])
        counts = Counter(agent.outcome for agent in self.agents)
        found = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in AgentOutcome if outcome in counts]
        missing = sum(agent.missing for agent in self.agents)
        less = f"; {count(missing, 'value')} not there" if missing else ""
        return f"{count(len(self.agents), 'agent')}: {', '.join(found)}{less}"

    def reached(self) -> bool:
        return any(agent.answered for agent in self.agents)


def _one_line(agent: Agent) -> str:
    if not agent.answered:
        return f"{agent.target}: {agent.outcome.replace('_', ' ')}, {agent.detail}"
    said = []
    for rows, words in _ENTRIES.items():
        missing = agent.missing if rows == "values" else 0
        if there := len(getattr(agent, rows)) + agent.left_out.get(rows, 0) - missing:
            said.append(count(there, *words))
        if missing:
            said.append(f"{missing} not there" if there else f"{count(missing, *words)} not there")
    if agent.nothing_of:
        said.append(f"nothing of {', '.join(agent.nothing_of)}")
    name = agent.system.name or agent.system.description if agent.system else None
    partial = "; not everything, " + agent.cut[0] if agent.outcome is AgentOutcome.PARTIAL and agent.cut else ""
    return (
        f"{agent.target}: {', '.join([*([name.splitlines()[0][:80]] if name else []), *said]) or 'answered'}{partial}"
    )


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("snmpwalk", "snmpget"),
    examples=[
        Example("Who is this device?", {"targets": ["10.0.0.1"], "credentials": "snmp/core"}),
        Example(
            "Interfaces and neighbours of two switches",
            {"targets": ["10.0.0.2", "10.0.0.3"], "credentials": "snmp/core", "views": ["interfaces", "neighbours"]},
        ),
        Example(
            "Serials and firmware", {"targets": ["10.0.0.1"], "credentials": "snmp/core", "views": ["system", "entity"]}
        ),
        Example(
            "A subtree, not more than 200 values of it",
            {"targets": ["10.0.0.1"], "credentials": "snmp/core", "walk": ["1.3.6.1.2.1.25.2"], "max_rows": 200},
        ),
    ],
)
async def snmp_query(params: SnmpQuery) -> SnmpQueryResult:
    """Read values, tables and ready-made views of SNMP agents.

    Versions 2c and 3, by a block with the credentials. Each agent gets one request at a time, and no other run talks with it meanwhile.
    An agent that does not answer is a result, not an error. Version 2c agents do not answer a wrong community: a silent one is asked once
    more, by version 3 and without credentials, who it is. Agents that answer that are told apart as `wrong_community`.

    Raises:
        InvalidParameters: There is no such block.
        NotFound: No target's name resolves (of several, those that do not say so in `detail`).
        Busy: This machine is out of sockets.
    """
    run = current_run()
    assert run.grant is not None
    credentials = await run.load_block(params.credentials, SnmpCredentials)
    # pysnmp needs 0.1 s of computing to make its engine.
    wire = await asyncio.to_thread(Wire, credentials)
    pacer = Pacer(run.packets_per_second)
    talks = {target.asked: _Talk(target.asked, target.addresses[0], params) for target in run.grant.targets}
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(talk: _Talk) -> None:
        async with slots:
            await talk.run(wire, run, pacer)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            try:
                async with asyncio.TaskGroup() as group:
                    for talk in talks.values():
                        group.create_task(one(talk))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
    found = {asked: talk.summary() for asked, talk in talks.items()}
    for missing in run.grant.unresolved:
        found[missing.asked] = Agent(
            target=missing.asked, outcome=AgentOutcome.UNRESOLVED, detail=missing.error.message
        )
    return await _fitting(SnmpQueryResult(agents=[found[target] for target in params.targets]), run)


@dataclass
class _Talk:
    """The conversation with one agent, as its answers come in, so that a deadline loses none."""

    asked: str
    address: str
    params: SnmpQuery
    outcome: AgentOutcome = AgentOutcome.NOT_TRIED
    detail: str | None = None
    values: list[SnmpValue] = field(default_factory=list)
    views: dict[str, Any] = field(default_factory=dict)
    nothing_of: list[str] = field(default_factory=list)
    reader: Reader | None = None
    engine_id: str | None = None
    time_ms: float | None = None

    async def run(self, wire: Wire, run: ToolRun, pacer: Pacer) -> None:
        limit = run.policy.host_packets_per_second
        slowly = Pacer(limit) if limit else None

        async def pay() -> None:
            # What one host may get is less than what the site may send.
            if slowly is not None:
                await slowly.wait()
            await pacer.wait()

        params = self.params
        line = Line(wire, self.address, params.port, params.timeout, params.attempts - 1, pay)
        alone = False
        try:
            async with conversation(run.site, self.address, wait=OTHERS_SECONDS):
                alone = True
                await line.open()
                began = time.perf_counter()
                self.reader = Reader(line, params.max_repetitions, params.max_rows, params.max_seconds)
                try:
                    await self._read(self.reader)
                finally:
                    self.time_ms = round((time.perf_counter() - began) * 1000, 3)
                    self.engine_id = wire.engine_id((self.address, params.port))
        except SnmpProblem as problem:
            self.outcome, self.detail = problem.outcome, str(problem)
        except Busy as busy:
            if alone:  # out of sockets: that is not this agent's matter
                raise
            self.outcome, self.detail = AgentOutcome.BUSY, busy.message
        finally:
            line.close()

    async def _read(self, reader: Reader) -> None:
        for view in self.params.wanted:
            rows = await READERS[view](reader)
            if rows:
                self.views[view] = rows
            elif not reader.over:
                self.nothing_of.append(view)
        self.values += [_row(oid, value) for oid, value in await reader.get([oid_of(text) for text in self.params.get])]
        for text in self.params.walk:
            self.values += [_row(oid, value) for oid, value in await self._subtree(reader, oid_of(text))]
        if reader.cuts:
            self.outcome, self.detail = AgentOutcome.PARTIAL, reader.cuts[0]
            if reader.values == 0 and reader.refused is not None:
                self.outcome, self.detail = reader.refused.outcome, str(reader.refused)
        else:
            self.outcome = AgentOutcome.ANSWERED

    async def _subtree(self, reader: Reader, root: Oid) -> Sequence[tuple[Oid, Value]]:
        """Read a subtree; of one without anything below it the value itself, or what the agent says in its place."""
        cuts = len(reader.cuts)
        found = await reader.subtree(root)
        return found if found or len(reader.cuts) > cuts else await reader.get([root])

    def summary(self) -> Agent:
        reader = self.reader
        outcome, detail = self.outcome, self.detail
        if outcome is AgentOutcome.NOT_TRIED and reader is not None and reader.values:
            outcome, detail = AgentOutcome.PARTIAL, "the deadline came before everything was read"
        return Agent(
            target=self.asked,
            address=self.address,
            outcome=outcome,
            detail=detail,
            engine_id=self.engine_id,
            time_ms=self.time_ms,
            requests=reader.line.sent if reader is not None else 0,
            values=self.values,
            missing=sum(row.type in MISSING for row in self.values),
            nothing_of=self.nothing_of,
            cut=reader.cuts if reader is not None else [],
            **self.views,
        )


def _row(oid: Oid, value: Value) -> SnmpValue:
    kind, shown, text = value.type, value.raw, None
    if isinstance(shown, bytes):
        readable = text_of(shown) if kind is ValueType.HEX else None
        if readable is not None:
            kind, shown = ValueType.TEXT, readable
        else:
            shown = value.text if kind is ValueType.ADDRESS else hex_of(shown)
    elif isinstance(shown, tuple):
        shown = format_oid(shown)
    elif kind is ValueType.TIMETICKS:
        text = ticks_text(shown)
    return SnmpValue(oid=format_oid(oid), type=kind, value=shown, text=text)


async def _fitting(result: SnmpQueryResult, run: ToolRun) -> SnmpQueryResult:
    """Return the result as it is, or with fewer rows and everything in a file, when it is more than the ledger keeps."""
    document = result.model_dump_json()
    if len(document) <= SHOWN_BYTES:
        return result
    store = await run.store()
    ref = None
    try:
        name = f"snmp_query/{run.id}-{run.attempt}.json"
        ref = run.file_ref(await asyncio.to_thread(store.write, name, document.encode()))
    except OSError as problem:
        run_logger().warning("The rows that do not fit are lost: the store cannot take them (%s)", problem.strerror)
    for rows in _SHOWN_ROWS:
        shown = SnmpQueryResult(agents=[_shortened(agent, rows) for agent in result.agents], output=ref)
        if len(shown.model_dump_json()) <= SHOWN_BYTES:
            return shown
    bare = [
        Agent(
            target=agent.target,
            address=agent.address,
            outcome=agent.outcome,
            missing=agent.missing,
            left_out={"everything": agent.rows},
        )
        for agent in result.agents
    ]
    return SnmpQueryResult(agents=bare, output=ref)


def _shortened(agent: Agent, rows: int) -> Agent:
    long = {name: getattr(agent, name) for name in _ENTRIES if len(getattr(agent, name)) > rows}
    update: dict[str, Any] = {name: values[:rows] for name, values in long.items()}
    update["left_out"] = {name: len(values) - rows for name, values in long.items()}
    return agent.model_copy(update=update)


async def everything(result: SnmpQueryResult) -> SnmpQueryResult:
    """Return the whole result: where rows are in the output file only, read from there. For flows on the same machine.

    Raises:
        NotFound: The file is gone.
    """
    if result.output is None:
        return result
    store = await wiring().store(result.output.site)
    try:
        document = await asyncio.to_thread(store.path(result.output.name).read_bytes)
    except OSError:
        raise NotFound(f"The store has no file {result.output.name} any more.") from None
    return SnmpQueryResult.model_validate_json(document)
