"""`dns_lookup`: what the domain name system says about names and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.core.cidr import canonical
from tasks.core.errors import Unreachable
from tasks.core.models import Example, Host, Safety, Scope, Service, SiteParams, ToolResult
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count

if TYPE_CHECKING:
    from dns.rdata import Rdata

TIMEOUT_SECONDS = 300.0
IN_FLIGHT = 16
MAX_NAMES = 256
DNS_PORT = 53
PACKETS_PER_TCP_QUERY = 7
"""Packets we send for a query over TCP: handshake, question, acknowledgements, close."""
REPORTING_SECONDS = 3.0
MAX_RESOLVERS = 3
"""Resolvers of the system that are asked: as many as its own library asks (resolv.conf(5))."""
MAX_SERVER_ADDRESSES = 2
"""Addresses of a named server that are asked."""
EDNS_PAYLOAD = 1232
"""Largest UDP answer asked for: what passes everywhere without fragments (DNS flag day 2020)."""


class RecordType(StrEnum):
    """Record types that can be asked for."""

    A = "A"
    AAAA = "AAAA"
    PTR = "PTR"
    MX = "MX"
    TXT = "TXT"
    NS = "NS"
    SOA = "SOA"
    CNAME = "CNAME"
    SRV = "SRV"
    CAA = "CAA"


_AnyCase = Annotated[RecordType, BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text)]


class DnsOutcome(StrEnum):
    """How a question was answered."""

    ANSWERED = "answered"
    NO_DATA = "no_data"  # the name exists, but has no record of this type
    NXDOMAIN = "nxdomain"  # the name does not exist
    SERVFAIL = "servfail"  # the server could not find out: broken delegation, DNSSEC, its own upstream
    REFUSED = "refused"  # the server does not answer us
    TIMEOUT = "timeout"  # no server answered in time
    ERROR = "error"  # another code, or an answer that makes no sense; `detail` has it
    NOT_TRIED = "not_tried"  # the deadline came first


def _name(text: Any) -> str:
    """Return a name in ASCII without its last dot, or an address in its canonical spelling."""
    if not isinstance(text, str) or not (text := text.strip()):
        raise ValueError("must be text: a name or an address")
    with contextlib.suppress(ValueError):
        return str(canonical(ipaddress.ip_address(text)))
    try:
        name = dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError):
        raise ValueError(f"{text[:80]!r} is not a name; right would be www.example.com or 192.0.2.7") from None
    if "/" in text and text.split("/")[0].replace(".", "").isdigit():
        raise ValueError(f"{text[:80]!r} is a prefix; give addresses one by one")
    return name.to_text(omit_final_dot=name != dns.name.root).lower()


def _distinct(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


class DnsLookup(SiteParams):
    """Parameters of `dns_lookup`."""

    names: Annotated[
        list[Annotated[str, BeforeValidator(_name)]],
        Field(min_length=1, max_length=MAX_NAMES),
        AfterValidator(_distinct),
    ] = Field(description=f"Full names to look up, 1 to {MAX_NAMES}; for an address its names (PTR) are looked up.")
    types: Annotated[list[_AnyCase], Field(min_length=1), AfterValidator(_distinct)] = Field(
        default=[RecordType.A, RecordType.AAAA],
        description="Record types to ask for. Not used for addresses, which always mean PTR.",
    )
    server: Host | None = Field(
        None, description="Server to ask: a name or an address that policy allows. Default: the system's resolvers."
    )
    port: int = Field(DNS_PORT, ge=1, le=65535, description="Port of `server`, UDP and TCP.")
    timeout: float = Field(3.0, ge=0.1, le=30, description="Seconds to wait for each answer, 0.1 to 30.")
    attempts: int = Field(2, ge=1, le=5, description="How often to ask each server that does not answer, 1 to 5.")
    tcp: bool = Field(False, description="Ask over TCP at once; else TCP follows only a truncated answer.")

    @model_validator(mode="after")
    def _port_of_a_server(self) -> DnsLookup:
        if self.server is None and self.port != DNS_PORT:
            raise ValueError("port belongs to server: name the server too, or leave port out")
        return self

    def scope(self) -> Scope | None:
        # Asking the system's resolver is no probe: every program on the machine does.
        if self.server is None:
            return None
        return Scope(targets=(self.server,), ports=(self.port,), packets_per_second=40)

    def deadline(self) -> float:
        questions = sum(1 if _is_address(name) else len(self.types) for name in self.names)
        servers = MAX_RESOLVERS if self.server is None else MAX_SERVER_ADDRESSES
        silent = -(-questions // IN_FLIGHT) * servers * self.attempts * self.timeout
        paced = questions * self.attempts * PACKETS_PER_TCP_QUERY / 10
        return min(TIMEOUT_SECONDS, silent + paced + 10 + REPORTING_SECONDS)

    def about(self) -> str:
        names = ", ".join(self.names)
        shown = names if len(names) <= 400 else f"{names[:380]} ... ({len(self.names)})"
        return shown if self.server is None else f"{shown} at {self.server}"[:500]


class DnsRecord(BaseModel):
    """One record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(description="Its data as zone files write it; for TXT the text itself.")
    ttl_seconds: int = Field(description="How long it may be kept, seconds.")


class DnsAnswer(BaseModel):
    """The answer to one question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The name or address as asked.")
    type: RecordType = Field(description="The record type asked for.")
    outcome: DnsOutcome = Field(
        description="answered, no_data, nxdomain, servfail, refused, timeout, error, not_tried."
    )
    records: list[DnsRecord] = Field(default_factory=list, description="The records, in the server's order.")
    canonical_name: str | None = Field(None, description="The name it is an alias of, when it is one.")
    server: str | None = Field(None, description="Address of the server that said so.")
    time_ms: float | None = Field(None, description="How long that took, milliseconds.")
    authoritative: bool = Field(False, description="Whether the server is an authority for the name.")
    authenticated: bool = Field(False, description="Whether the server checked the answer's DNSSEC signatures.")
    over_tcp: bool = Field(False, description="Whether the answer came over TCP.")
    detail: str | None = Field(None, description="What else there is to know about a failure.")


class DnsLookupResult(ToolResult):
    """An answer for each name and type, in the order asked."""

    answers: list[DnsAnswer] = Field(description="One entry for each name and record type.")

    def headline(self) -> str:
        if len(self.answers) == 1:
            answer = self.answers[0]
            data = ", ".join(record.data for record in answer.records[:3])
            more = f" and {len(answer.records) - 3} more" if len(answer.records) > 3 else ""
            return f"{answer.name} {answer.type}: {data + more or answer.outcome.replace('_', ' ')}"
        counts = Counter(answer.outcome for answer in self.answers)
        found = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in DnsOutcome if outcome in counts]
        return f"{count(len(self.answers), 'question')}: {', '.join(found)}"

    def reached(self) -> bool:
        return any(answer.records for answer in self.answers)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=2,
    aliases=("dns", "nslookup"),
    examples=[
        Example("Addresses of a name", {"names": ["www.example.com"]}),
        Example("Who takes mail for a domain, and the name of an address", {"names": ["example.com", "192.0.2.7"], "types": ["MX"]}),
        Example("Ask one server", {"names": ["printer.lan"], "types": ["A"], "server": "192.168.1.1"}),
    ],
)  # fmt: skip
async def dns_lookup(params: DnsLookup) -> DnsLookupResult:
    """Look up DNS records of names, and names of addresses.

    Each question has an outcome of its own: a name that does not exist, a server that fails, refuses or stays silent are
    results, not errors. Names are taken as they are; no search list is tried.

    Raises:
        NotFound: The name of `server` does not resolve.
        Unreachable: No server is given and this machine has no resolver.
    """
    run = current_run()
    if run.grant is not None:
        servers, port = run.grant.targets[0].addresses[:MAX_SERVER_ADDRESSES], params.port
        rate = run.packets_per_second
        if run.policy.host_packets_per_second:  # all of it goes to one host
            rate = min(rate, run.policy.host_packets_per_second)
        pacer: Pacer | None = Pacer(rate)
    else:
        servers, port = _system_resolvers()
        pacer = None
    client = _Client(servers, port, params.timeout, params.attempts, params.tcp, pacer)
    questions = [
        (name, kind) for name in params.names for kind in ([RecordType.PTR] if _is_address(name) else params.types)
    ]
    found: dict[tuple[str, RecordType], DnsAnswer] = {}
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(name: str, kind: RecordType) -> None:
        async with slots:
            found[name, kind] = await client.ask(name, kind)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS), asyncio.TaskGroup() as group:
            for name, kind in questions:
                group.create_task(one(name, kind))
    return DnsLookupResult(
        answers=[
            found.get((name, kind)) or DnsAnswer(name=name, type=kind, outcome=DnsOutcome.NOT_TRIED)
            for name, kind in questions
        ]
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _system_resolvers() -> tuple[tuple[str, ...], int]:
    try:
        resolver = dns.resolver.Resolver()
    except (dns.exception.DNSException, OSError):
        raise Unreachable(
            "This machine has no DNS resolver.", hint="Put one into /etc/resolv.conf, or name a server."
        ) from None
    return tuple(str(server) for server in resolver.nameservers[:MAX_RESOLVERS]), resolver.port


_OUTCOMES = {
    dns.rcode.NXDOMAIN: DnsOutcome.NXDOMAIN,
    dns.rcode.SERVFAIL: DnsOutcome.SERVFAIL,
    dns.rcode.REFUSED: DnsOutcome.REFUSED,
}
_FINAL = {DnsOutcome.ANSWERED, DnsOutcome.NO_DATA, DnsOutcome.NXDOMAIN}
"""Outcomes that another server would not change."""
_NO_EDNS = {dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS}
"""What servers answer that do not know EDNS (RFC 6891 section 7)."""


@dataclass
class _Client:
    """Asks servers in order until one knows."""

    servers: Sequence[str]
    port: int
    timeout: float
    attempts: int
    tcp: bool
    pacer: Pacer | None

    async def ask(self, name: str, kind: RecordType) -> DnsAnswer:
        asked = dns.reversename.from_address(name) if _is_address(name) else dns.name.from_text(name)
        best: DnsAnswer | None = None
        for _ in range(self.attempts):
            for server in self.servers:
                answer = await self._ask_server(server, name, asked, kind)
                if answer.outcome in _FINAL:
                    return answer
                # What a server said tells more than another's silence.
                if best is None or best.outcome == DnsOutcome.TIMEOUT:
                    best = answer
            if best is not None and best.outcome != DnsOutcome.TIMEOUT:
                break  # they have answered; asking again brings the same
        assert best is not None
        return best

    async def _ask_server(self, server: str, name: str, asked: dns.name.Name, kind: RecordType) -> DnsAnswer:
        began = time.perf_counter()
        over_tcp = self.tcp
        try:
            response, over_tcp = await self._query(server, asked, kind, edns=True)
            if response.rcode() in _NO_EDNS:
                response, over_tcp = await self._query(server, asked, kind, edns=False)
        except (dns.exception.Timeout, TimeoutError):
            detail = f"{server} did not answer within {self.timeout:g} s"
            return DnsAnswer(name=name, type=kind, outcome=DnsOutcome.TIMEOUT, server=server, detail=detail)
        except (OSError, EOFError) as problem:
            detail = f"{server} could not be asked: {getattr(problem, 'strerror', None) or 'it closed the connection'}"
            return DnsAnswer(name=name, type=kind, outcome=DnsOutcome.TIMEOUT, server=server, detail=detail)
        except dns.exception.DNSException as problem:
            detail = f"{server} sent what is no DNS answer ({type(problem).__name__})"
            return DnsAnswer(name=name, type=kind, outcome=DnsOutcome.ERROR, server=server, detail=detail)
        return _read(response, name, kind, server, (time.perf_counter() - began) * 1000, over_tcp)

    async def _query(
        self, server: str, asked: dns.name.Name, kind: RecordType, *, edns: bool
    ) -> tuple[dns.message.Message, bool]:
        query = dns.message.make_query(
            asked, dns.rdatatype.from_text(kind), use_edns=0 if edns else False, payload=EDNS_PAYLOAD
        )
        if not self.tcp:
            await self._pay(1)
            # Answers from elsewhere or to other questions are ignored until the time is up: spoofing ends nothing early.
            response = await dns.asyncquery.udp(
                query, server, timeout=self.timeout, port=self.port, ignore_unexpected=True, ignore_errors=True
            )
            if not response.flags & dns.flags.TC:
                return response, False
        await self._pay(PACKETS_PER_TCP_QUERY)
        return await dns.asyncquery.tcp(query, server, timeout=self.timeout, port=self.port), True

    async def _pay(self, packets: int) -> None:
        if self.pacer is not None:
            for _ in range(packets):
                await self.pacer.wait()


def _read(
    response: dns.message.Message, name: str, kind: RecordType, server: str, time_ms: float, over_tcp: bool
) -> DnsAnswer:
    """Turn a response into an answer."""
    rcode = response.rcode()
    outcome = _OUTCOMES.get(rcode)
    detail = alias = None
    records: list[DnsRecord] = []
    if outcome is None and rcode != dns.rcode.NOERROR:
        outcome, detail = DnsOutcome.ERROR, f"{server} answered {dns.rcode.to_text(rcode)}"
    elif outcome in {None, DnsOutcome.NXDOMAIN}:
        try:
            assert isinstance(response, dns.message.QueryMessage)
            chain = response.resolve_chaining()
        except (dns.exception.DNSException, AssertionError) as problem:
            if outcome is None:
                outcome, detail = (
                    DnsOutcome.ERROR,
                    f"{server} sent an answer that makes no sense ({type(problem).__name__})",
                )
        else:
            if chain.cnames:
                alias = _text(chain.canonical_name)
            if chain.answer is not None:
                records = [DnsRecord(data=_data(rdata), ttl_seconds=chain.answer.ttl) for rdata in chain.answer]
            outcome = outcome or (DnsOutcome.ANSWERED if records else DnsOutcome.NO_DATA)
            if outcome == DnsOutcome.NO_DATA and alias:
                detail = f"an alias of {alias}, of which the answer says nothing"
    return DnsAnswer(
        name=name,
        type=kind,
        outcome=outcome or DnsOutcome.ERROR,
        records=records,
        canonical_name=alias,
        server=server,
        time_ms=round(time_ms, 3),
        authoritative=bool(response.flags & dns.flags.AA),
        authenticated=bool(response.flags & dns.flags.AD),
        over_tcp=over_tcp,
        detail=detail,
    )


def _data(rdata: Rdata) -> str:
    """Record data as text: names without their last dot where they stand alone, TXT as one piece of text."""
    if rdata.rdtype == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode(errors="backslashreplace")  # type: ignore[attr-defined]
    if rdata.rdtype in {dns.rdatatype.PTR, dns.rdatatype.NS, dns.rdatatype.CNAME}:
        return _text(rdata.target)  # type: ignore[attr-defined]
    return rdata.to_text()


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=name != dns.name.root)
