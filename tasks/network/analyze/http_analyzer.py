"""`http_analyzer`: clear-text HTTP by host, method and status; what is slow, what fails, and what everybody can read."""

from __future__ import annotations

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Coverage, Finding, Row, Times, gravest_first


class HttpAnalyzer(PayloadAnalyzerParams):
    """Parameters of `http_analyzer`."""


class HttpCount(Row):
    """How often something was seen."""

    name: str = Field(description="What was counted.")
    count: int = Field(description="How often it was seen.")


class HttpHost(Row):
    """A host as requests name it."""

    host: str = Field(description="Host and port of the requests; the server's address where they name none.")
    is_address: bool = Field(description="Whether it is an address instead of a name.")
    requests: int = Field(description="Requests to it.")
    answered: int = Field(description="Requests that were answered.")
    client_errors: int = Field(description="Answers 4xx.")
    server_errors: int = Field(description="Answers 5xx.")
    unanswered: int = Field(description="Requests whose connection was closed without an answer.")
    bytes_up: int = Field(description="Bytes of request bodies.")
    bytes_down: int = Field(description="Bytes of answer bodies.")
    times: Times = Field(description="Time to the first byte of its answers.")


class HttpClient(Row):
    """An address that asks."""

    address: str = Field(description="The client.")
    requests: int = Field(description="Requests it sent.")
    failed: int = Field(description="Those answered with 4xx or 5xx, or not at all.")
    bytes_up: int = Field(description="Bytes of request bodies.")


class HttpRedirect(Row):
    """A redirection."""

    address: str = Field(description="What was asked for; values of its parameters are masked.")
    location: str = Field(description="Where the answer points to; values of its parameters are masked.")
    count: int = Field(description="How often.")


class HttpSlowest(Row):
    """A slow answer."""

    method: str = Field(description="Method of the request.")
    address: str = Field(description="What was asked for; values of its parameters are masked.")
    client: str = Field(description="Who asked.")
    status: int = Field(description="Status code of the answer.")
    time_ms: float = Field(description="Milliseconds from the request's last byte to the answer's first.")
    frame: int = Field(description="Frame of the request.")


class HttpCredential(Row):
    """A kind of secret that went to a host in clear text; the secret itself is never kept."""

    kind: str = Field(description="authorization, form, header or query.")
    name: str = Field(description="The scheme, field, header or parameter.")
    host: str = Field(description="The host it was sent to.")
    users: list[str] = Field(description="User names, where the scheme shows them.")
    count: int = Field(description="Requests that carried it.")


class HttpReport(AnalyzerResult):
    """What a capture's HTTP says."""

    connections: int = Field(description="TCP connections with HTTP.")
    reused_connections: int = Field(description="Connections that carried more than one request (keep-alive).")
    most_requests_per_connection: int = Field(description="Most requests of one connection.")
    pipelined: int = Field(description="Requests sent before the one before was answered.")
    http2_connections: int = Field(description="Connections in clear-text HTTP/2.")
    requests: int = Field(description="Requests.")
    responses: int = Field(description="Answers, interim ones (1xx) included.")
    unanswered: int = Field(description="Requests whose connection was closed without an answer.")
    open_at_end: int = Field(description="Requests still open when the capture ended.")
    answers_lost: int = Field(description="Requests whose answers fell into gaps of the capture.")
    unasked: int = Field(description="Answers whose request is not in the capture.")
    malformed: int = Field(description="Places where a conversation went on with what is no HTTP message.")
    bytes_up: int = Field(description="Bytes of request bodies.")
    bytes_down: int = Field(description="Bytes of answer bodies, as transferred.")
    times: Times = Field(description="Time to the first byte of answers.")
    methods: list[HttpCount] = Field(description="Requests by method.")
    statuses: list[HttpCount] = Field(description="Answers by status code.")
    versions: list[HttpCount] = Field(description="Requests by version.")
    hosts: list[HttpHost] = Field(description="Hosts with most requests.")
    servers: list[HttpCount] = Field(description="Servers' addresses and ports by requests.")
    clients: list[HttpClient] = Field(description="Clients with most requests.")
    agents: list[HttpCount] = Field(description="Requests by user agent.")
    content_types: list[HttpCount] = Field(description="Answers by type of content.")
    redirects: list[HttpRedirect] = Field(description="Redirections.")
    slowest: list[HttpSlowest] = Field(description="The slowest answers.")
    credentials: list[HttpCredential] = Field(description="Secrets that went over the wire in clear text.")
    upgrades: list[HttpCount] = Field(description="Connections that became something else (WebSocket).")
    tunnels: list[HttpCount] = Field(description="Hosts that a proxy opened tunnels to (CONNECT).")

    def headline(self) -> str:
        hosts = "20 or more hosts" if len(self.hosts) >= 20 else count(len(self.hosts), "host")
        return f"{count(self.requests, 'request')} to {hosts}, {count(self.responses, 'answer')}; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    aliases=("analyze_http",),
    examples=[
        Example("The HTTP of a capture", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("One server's", {"capture": "tcpdump/2024-05-01/office.pcap", "host": "192.168.1.7", "port": 8080}),
        Example("Listen for a minute", {"interface": "eth0", "filter": "tcp port 80"}),
    ],
)  # fmt: skip
async def http_analyzer(params: HttpAnalyzer) -> HttpReport:
    """Analyze clear-text HTTP: hosts, failures, slow answers, readable secrets.

    Finds HTTP/1 and HTTP/2 on any port by how a conversation begins. HTTPS is encrypted: `tls_analyzer` says what of it
    shows. Secrets are named and never repeated: a Basic user's name is kept, passwords and tokens are not.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture.
    """
    from tasks.network.analyze._http import dissect

    opened, facts = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    findings = gravest_first(Finding(**item) for item in facts.pop("findings"))
    return HttpReport(capture=opened.ref, coverage=Coverage(**facts.pop("coverage")), findings=findings, **facts)
