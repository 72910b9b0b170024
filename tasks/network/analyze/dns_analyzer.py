"""`dns_analyzer`: who asks for which names, how well that is answered, and what hides in it."""

from __future__ import annotations

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Coverage, Finding, Row, Times, gravest_first


class DnsAnalyzer(PayloadAnalyzerParams):
    """Parameters of `dns_analyzer`."""


class DnsCount(Row):
    """How often something was seen."""

    name: str = Field(description="What was counted.")
    count: int = Field(description="How often it was seen.")


class DnsName(Row):
    """A name that was asked for, over all types and spellings."""

    name: str = Field(description="The name in lower case, without its last dot.")
    queries: int = Field(description="Queries for it.")
    types: list[str] = Field(description="Record types asked for.")
    nxdomain: int = Field(description="Answers that it does not exist.")
    failed: int = Field(description="Answers with another error.")


class DnsDomain(Row):
    """A domain with all names below it."""

    domain: str = Field(description="The domain that somebody registered, guessed from its last labels.")
    queries: int = Field(description="Queries for it and for names below it.")
    names: int = Field(description="Different names below it, at most 4,096.")
    mean_length: float = Field(description="Characters of those below the domain, on average.")
    entropy_bits: float = Field(description="Their mean entropy, bits a character: words have 2 to 3, data 4 and more.")
    answer_bytes: int = Field(description="Bytes of the answers.")


class DnsClient(Row):
    """An address that asks."""

    address: str = Field(description="The client.")
    queries: int = Field(description="Queries it sent, those sent again included.")
    answers: int = Field(description="Answers it got.")
    nxdomain: int = Field(description="Answers that a name does not exist.")
    failed: int = Field(description="Answers with another error.")
    unanswered: int = Field(description="Queries without an answer.")
    repeated: int = Field(description="Queries that were sent again.")
    servers: int = Field(description="Servers it asked.")


class DnsServer(Row):
    """An address that is asked."""

    address: str = Field(description="The server.")
    queries: int = Field(description="Queries it got.")
    answers: int = Field(description="Answers it sent.")
    nxdomain: int = Field(description="Answers that a name does not exist.")
    failed: int = Field(description="Answers with another error.")
    unanswered: int = Field(description="Queries it left unanswered.")
    unasked: int = Field(description="Answers without a query in the capture.")
    truncated: int = Field(description="Answers that ask the client to come back over TCP.")
    query_bytes: int = Field(description="Bytes of the queries over UDP.")
    answer_bytes: int = Field(description="Bytes of the answers over UDP.")
    ratio: float | None = Field(description="Bytes of answers for each byte of queries.")
    clients: int = Field(description="Clients that asked it.")
    times: Times = Field(description="How long it took to answer.")


class DnsSlowest(Row):
    """A slow answer."""

    name: str = Field(description="The name asked for.")
    type: str = Field(description="The record type asked for.")
    server: str = Field(description="Who answered.")
    time_ms: float = Field(description="Milliseconds from query to answer.")
    frame: int = Field(description="Frame of the answer.")


class DnsSecurity(Row):
    """DNSSEC as the flags tell."""

    do_queries: int = Field(description="Queries that want signatures (DO).")
    cd_queries: int = Field(description="Queries that want no validation (CD).")
    ad_queries: int = Field(description="Queries that want to know whether the answer was validated (AD).")
    authenticated_answers: int = Field(description="Answers that the server says it validated (AD).")
    signed_answers: int = Field(description="Answers that carry signatures (RRSIG).")


class DnsLocal(Row):
    """Names without a server: mDNS, LLMNR or NetBIOS."""

    protocol: str = Field(description="mdns, llmnr or netbios.")
    queries: int = Field(description="Queries, for NetBIOS registrations included.")
    answers: int = Field(description="Answers and announcements.")
    malformed: int = Field(description="Messages that could not be read.")
    clients: int = Field(description="Hosts that asked.")
    responders: int = Field(description="Hosts that answered.")
    names: list[DnsCount] = Field(description="Names asked for most.")
    services: list[DnsCount] = Field(description="Services announced most (mDNS).")


class DnsReport(AnalyzerResult):
    """What a capture's DNS says."""

    messages: int = Field(description="DNS messages, over UDP and TCP; mDNS, LLMNR and NetBIOS are counted in `local`.")
    queries: int = Field(description="Queries, those sent again included.")
    answers: int = Field(description="Answers.")
    over_tcp: int = Field(description="Messages over TCP.")
    malformed: int = Field(description="What came on port 53 and is no DNS message.")
    cut: int = Field(description="Messages of which the capture has the beginning only.")
    unanswered: int = Field(description="Queries without an answer; those sent again count once.")
    open_at_end: int = Field(description="Queries of the capture's last two seconds without an answer yet.")
    unasked: int = Field(description="Answers without a query in the capture.")
    repeated: int = Field(description="Queries sent again with the same id and ports.")
    truncated: int = Field(description="Answers that ask to come back over TCP (TC).")
    retried_over_tcp: int = Field(description="Questions that were then asked over TCP.")
    names_seen: int = Field(description="Different names, as far as told apart.")
    names_left_out: int = Field(description="Rare names that were not kept.")
    times: Times = Field(description="How long answers took.")
    rcodes: list[DnsCount] = Field(description="Answers by response code.")
    types: list[DnsCount] = Field(description="Queries by record type.")
    opcodes: list[DnsCount] = Field(description="Messages that are no standard query, by operation.")
    names: list[DnsName] = Field(description="Names asked for most.")
    domains: list[DnsDomain] = Field(description="Domains asked for most.")
    clients: list[DnsClient] = Field(description="Clients that asked most.")
    servers: list[DnsServer] = Field(description="Servers that were asked most.")
    slowest: list[DnsSlowest] = Field(description="The slowest answers.")
    dnssec: DnsSecurity = Field(description="DNSSEC as the flags tell.")
    edns_sizes: list[DnsCount] = Field(description="Queries by the bytes their sender can take over UDP (EDNS).")
    extended_errors: list[DnsCount] = Field(description="Answers by extended error (RFC 8914).")
    local: list[DnsLocal] = Field(description="mDNS, LLMNR and NetBIOS, where the capture has any.")

    def headline(self) -> str:
        return (
            f"{count(self.queries, 'query', 'queries')}, {count(self.answers, 'answer')}, {self.unanswered:,} unanswered; "
            f"{self.verdict()}"
        )


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    aliases=("analyze_dns",),
    examples=[
        Example("The DNS of a capture", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("One client's, until eleven o'clock", {"capture": "office.pcap", "host": "192.168.1.7", "end": "2024-05-01T11:00:00Z"}),
        Example("Listen for a minute", {"interface": "eth0", "filter": "port 53 or port 5353 or port 5355"}),
    ],
)  # fmt: skip
async def dns_analyzer(params: DnsAnalyzer) -> DnsReport:
    """Analyze DNS: names, answers, slow servers, tunnels, storms, amplification.

    Reads DNS over UDP and TCP, also on unusual ports, and mDNS, LLMNR and NetBIOS names apart. DNS over TLS and HTTPS is
    encrypted and not seen.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture.
    """
    from tasks.network.analyze._dns import dissect

    opened, facts = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    findings = gravest_first(Finding(**item) for item in facts.pop("findings"))
    return DnsReport(capture=opened.ref, coverage=Coverage(**facts.pop("coverage")), findings=findings, **facts)
