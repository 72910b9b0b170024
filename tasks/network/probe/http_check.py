"""`http_check`: whether web pages answer, how fast, and as they should."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from enum import StrEnum
from typing import Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.core.models import Example, FileRef, Safety, Scope, Service, SiteParams, ToolResult
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network._sparing import spare
from tasks.network.probe._certificate import Authorities
from tasks.network.probe._connection import OPENING_PACKETS, SEGMENT_BYTES, Paces
from tasks.network.probe._http_exchange import EXCHANGE_PACKETS, TLS_PACKETS, Terms
from tasks.network.probe._web_address import Urls, host_of, port_of, shown
from tasks.network.probe._web_check import Check, Expectations, Found, Pattern
from tasks.network.probe._web_door import Door

TIMEOUT_SECONDS = 1800.0
IN_FLIGHT = 32
"""Hosts asked at once; each gets one request at a time."""
REPORTING_SECONDS = 3.0
MAX_BODY_BYTES = 1 << 20
MAX_HEADERS = 20

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 9110, section 5.6.2
_SECRET_HEADER = re.compile(r"(?i)auth|cookie|token|secret|passw|key|session|credential|signature")
_OUR_HEADERS = re.compile(
    r"(?i)host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|content-.*|proxy-.*|:.*"
)


def parse_statuses(value: Any) -> str:
    """Return HTTP statuses such as `200-299,401` in canonical spelling.

    >>> parse_statuses("401, 200-204")
    '200-204,401'

    Raises:
        ValueError: Not statuses or ranges of 100 to 599.
    """
    ranges = []
    for part in str(value).split(","):
        match = re.fullmatch(r"\s*([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?\s*", part)
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"{part[:20]!r} is not an HTTP status or range; right would be 200 or 200-299,401")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in sorted(set(ranges)))


def _compiles(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
    return pattern


def _header_names(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > MAX_HEADERS:
        raise ValueError(f"holds {len(headers)} headers; at most {MAX_HEADERS}")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is not the name of a header")
        if len(value) > 1000 or not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name} must be printable ASCII of at most 1000 characters")
    return headers


def _harmless(headers: dict[str, str]) -> dict[str, str]:
    for name in _header_names(headers):
        if _SECRET_HEADER.search(name):
            raise ValueError(f"{name} is for credentials; parameters hold none, they are written into the ledger")
        if _OUR_HEADERS.fullmatch(name):
            raise ValueError(f"{name} is made by the connection itself")
    return headers


class HttpCheck(SiteParams):
    """Parameters of `http_check`."""

    urls: Urls = Field(
        description="Addresses of pages, http or https, 1 to 256. Not their passwords, nor tokens: they are written into the ledger.",
        json_schema_extra={"secret": True},  # errors must not repeat a password somebody put here after all
    )
    method: Literal["GET", "HEAD"] = Field("GET", description="GET reads the page, HEAD asks for its headers only.")
    status: Annotated[str, BeforeValidator(parse_statuses)] = Field(
        "200-399", description="HTTP statuses that are right, such as 200-299,401; of the last answer after redirects."
    )
    body: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Text that must be in the page, exactly so, 1 to 1000 characters.",
    )
    pattern: Annotated[str | None, AfterValidator(_compiles)] = Field(
        None,
        min_length=1,
        max_length=500,
        description="Regular expression (Python's) that must be found in the page; it gets 5 s in a process of its own.",
    )
    expect_headers: Annotated[dict[str, str], AfterValidator(_header_names)] = Field(
        default_factory=dict,
        description="Headers the answer must have, each with text its value must contain (empty: any), at most 20.",
    )
    certificate_days: int = Field(
        0,
        ge=0,
        le=3650,
        description="Fail when the certificate expires within so many days, 0 to 3650, or when there is none because the page came "
        "over http; 0 only shows them.",
    )
    slower_than: float | None = Field(
        None, gt=0, le=60, description="Fail when the answer takes longer, redirects included, seconds, up to 60."
    )
    redirects: int = Field(
        5,
        ge=0,
        le=20,
        description="Most redirects to follow, 0 to 20; each passes the gate first. 0 takes a redirect as the answer.",
    )
    verify: bool = Field(
        True,
        description="Whether the certificate must hold. Without, its fault is noted, and TLS that is no longer safe is put up with.",
    )
    ca: Authorities = Field(
        None,
        description="Authorities to trust besides the public ones and the system's: certificates in PEM.",
        json_schema_extra={"secret": True},
    )
    http2: bool = Field(True, description="Offer HTTP/2 by ALPN.")
    headers: Annotated[dict[str, str], AfterValidator(_harmless)] = Field(
        default_factory=dict,
        description="Headers to send along, at most 20; dropped when a redirect leads to another server. None for credentials.",
        json_schema_extra={"secret": True},
    )
    max_bytes: int = Field(
        64 << 10, ge=0, le=MAX_BODY_BYTES, description=f"Most bytes of a page that are read, 0 to {MAX_BODY_BYTES}."
    )
    timeout: float = Field(
        10.0, ge=0.5, le=60, description="Seconds to wait for each URL, redirects included, 0.5 to 60."
    )

    @model_validator(mode="after")
    def _head_has_no_body(self) -> HttpCheck:
        if self.method == "HEAD" and (self.body or self.pattern):
            raise ValueError("with HEAD there is no page: body and pattern need method GET")
        if self.max_bytes == 0 and (self.body or self.pattern):
            raise ValueError("max_bytes is 0, so there is nothing for body or pattern to be in")
        return self

    def parsed(self) -> list[httpx.URL]:
        """The URLs, parsed."""
        return [httpx.URL(url) for url in self.urls]

    def scope(self) -> Scope:
        urls = self.parsed()
        hosts = tuple(dict.fromkeys(map(host_of, urls)))
        want = min(1000, max(50, 20 * len(hosts)))
        return Scope(targets=hosts, ports=tuple(sorted({*map(port_of, urls)})), packets_per_second=want)

    def deadline(self) -> float:
        urls = Counter(map(host_of, self.parsed()))
        silent = (-(-len(urls) // IN_FLIGHT) + max(urls.values()) - 1) * self.timeout
        packets = 2 * (OPENING_PACKETS + EXCHANGE_PACKETS + TLS_PACKETS) + self.max_bytes // SEGMENT_BYTES
        paced = len(self.urls) * packets / self.scope().least_packets_per_second
        return min(TIMEOUT_SECONDS, silent + paced + 15 + REPORTING_SECONDS)

    def about(self) -> str:
        text = ", ".join(map(shown, self.parsed()))
        return text if len(text) <= 500 else f"{text[:480]} ... ({len(self.urls)})"


class CheckState(StrEnum):
    """How a check came out."""

    OK = "ok"  # the answer is what was expected
    FAILED = "failed"  # there is an answer, but it is not
    UNTRUSTED = "untrusted"  # the certificate does not hold, so nothing was asked
    REFUSED = "refused"  # it redirects to where policy allows nothing; nothing was sent there
    UNREACHABLE = "unreachable"  # there is no answer
    NOT_TRIED = "not_tried"  # the name does not resolve, or the deadline came first


class Redirect(BaseModel):
    """A redirect that was answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int = Field(description="HTTP status.")
    to: str = Field(description="Where it leads, without the query.")


class CheckedUrl(BaseModel):
    """One URL and what came of it. Times leave out what we held ourselves back for the packet budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="The URL as asked.")
    state: CheckState = Field(description="ok, failed, untrusted, refused, unreachable or not_tried.")
    reason: str | None = Field(None, description="Why it is not ok.")
    status: int | None = Field(None, description="HTTP status of the last answer.")
    total_ms: float | None = Field(
        None, description="From asking the resolver to the last byte, redirects included, milliseconds."
    )
    dns_ms: float | None = Field(
        None,
        description="Resolver, milliseconds, of the last request as the next four. None for an address, and for a name asked before.",
    )
    connect_ms: float | None = Field(None, description="TCP handshake, milliseconds.")
    tls_ms: float | None = Field(None, description="TLS handshake, milliseconds.")
    first_byte_ms: float | None = Field(
        None, description="From the request to the first byte of the answer, milliseconds."
    )
    read_ms: float | None = Field(None, description="From there to the last byte that was read, milliseconds.")
    http_version: str | None = Field(None, description="HTTP/1.1 or HTTP/2.")
    body_bytes: int | None = Field(None, description="Bytes of the page that were read.")
    truncated: bool = Field(False, description="Whether the page has more.")
    title: str | None = Field(None, description="Title of the page.")
    server: str | None = Field(None, description="What the server says it is.")
    content_type: str | None = Field(None, description="Kind of content.")
    verified: bool | None = Field(None, description="Whether the certificate holds; None without TLS.")
    certificate_days: int | None = Field(None, description="Whole days until the certificate expires.")
    tls_version: str | None = Field(None, description="Version of TLS.")
    address: str | None = Field(None, description="The address the last answer came from.")
    redirects: list[Redirect] = Field(default_factory=list, description="Redirects on the way, in order.")
    notes: list[str] = Field(default_factory=list, description="What else a person should know.")


class HttpCheckResult(ToolResult):
    """An entry for each URL, in the order asked."""

    checks: list[CheckedUrl] = Field(description="One entry for each URL.")
    left_out: list[str] = Field(default_factory=list, description="What did not fit here and is in the report alone.")
    report: FileRef | None = Field(None, description="The whole result as JSON, when not all of it fits here.")

    def headline(self) -> str:
        if len(self.checks) == 1:
            return _one_line(self.checks[0])
        counts = Counter(check.state for check in self.checks)
        found = ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in CheckState if state in counts)
        bad = next((check for check in self.checks if check.state is not CheckState.OK), None)
        return f"{count(len(self.checks), 'URL')}: {found}" + (
            f"; {shown(httpx.URL(bad.url))}: {bad.reason}" if bad else ""
        )

    def reached(self) -> bool:
        return any(check.state not in (CheckState.UNREACHABLE, CheckState.NOT_TRIED) for check in self.checks)


def _one_line(check: CheckedUrl) -> str:
    place = shown(httpx.URL(check.url))
    if check.status is None:
        return f"{place}: {check.reason}"
    what = f"{check.status} in {check.total_ms:.0f} ms over {check.http_version}"
    return f"{place}: {what}" if check.state is CheckState.OK else f"{place}: {check.state}: {check.reason} ({what})"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("http_probe", "url_check", "web_check"),
    examples=[
        Example("Does the web server of this machine answer?", {"urls": ["http://127.0.0.1/"]}),
        Example(
            "The shop sells, over HTTP/2 or not, within two seconds, and its certificate holds for two weeks",
            {"urls": ["https://shop.example.com/"], "body": "Add to cart", "slower_than": 2, "certificate_days": 14},
        ),
        Example(
            "Cameras ask for a login, whatever their certificates are worth",
            {"urls": ["https://10.0.0.11/", "https://10.0.0.12/"], "status": "401", "verify": False},
        ),
    ],
)
async def http_check(params: HttpCheck) -> HttpCheckResult:
    """Ask for web pages, time each step, and compare answers with expectations.

    Requests go to the addresses the gate has checked, whatever the name resolves to a moment later. Redirects are followed by this
    tool, each through the gate: one that leads where policy allows nothing is an outcome that says so, and nothing is sent there.
    No proxy and nothing else comes from the environment. One request at a time to each host. A page that does not answer is a
    result, not an error.

    Raises:
        NotFound: No name resolves (of several, those that do not say so in `reason`).
        Busy: This machine is out of sockets or local ports.
    """
    run = current_run()
    assert run.grant is not None
    door = Door(run)
    paces = Paces(Pacer(run.packets_per_second), run.policy.host_packets_per_second)
    slots = asyncio.Semaphore(IN_FLIGHT)
    missing = {name.asked: name.error.message for name in run.grant.unresolved}
    terms = Terms(params.method, params.verify, params.http2, params.ca, params.max_bytes)
    expected = Expectations(
        status=params.status,
        body=params.body,
        pattern=Pattern(params.pattern) if params.pattern else None,
        headers=params.expect_headers,
        certificate_days=params.certificate_days,
        slower_than=params.slower_than,
    )
    found = {str(url): Found() for url in params.parsed()}

    async def one(url: httpx.URL) -> None:
        # By name: names that share an address take turns by its pace.
        pace = paces.of(door.addresses(url)[0])
        check = Check(found[str(url)], door, paces, terms, expected, params.headers, params.redirects, params.timeout)
        async with pace.turn, slots:
            await check.run(url)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            try:
                async with asyncio.TaskGroup() as group:
                    for url in params.parsed():
                        if host_of(url) in missing:
                            found[str(url)].settle("not_tried", missing[host_of(url)])
                        else:
                            group.create_task(one(url))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
    result = HttpCheckResult(checks=[_entry(url, found[url]) for url in params.urls])
    _, report = await spare(result, (), "checks")
    return result if report is None else _shortened(result, report)


_NICE = ("title", "server", "content_type", "tls_version", "redirects", "notes")


def _entry(url: str, found: Found) -> CheckedUrl:
    return CheckedUrl(url=url, state=CheckState(found.state), **found.facts())


def _shortened(result: HttpCheckResult, report: FileRef) -> HttpCheckResult:
    """Leave out what is only nice to know, so that an outcome for each of many URLs stays."""
    less: dict[str, Any] = {
        name: CheckedUrl.model_fields[name].get_default(call_default_factory=True) for name in _NICE
    }
    checks = [
        check.model_copy(update={**less, "reason": check.reason[:200] if check.reason else None})
        for check in result.checks
    ]
    return result.model_copy(update={"checks": checks, "left_out": list(_NICE), "report": report})
