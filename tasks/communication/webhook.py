"""Call a webhook."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self
from urllib.parse import urlencode

import httpx
from pydantic import Field, JsonValue, field_validator, model_validator

from blocks.webhook import WebhookEndpoint
from tasks.communication._channel import Channel, trusted_by
from tasks.core.errors import InvalidParameters
from tasks.core.gate import PinnedUrl, admit_delivery
from tasks.core.http import Answer, send
from tasks.core.models import BlockName, Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import ToolRun, current_run
from tasks.core.scrub import excerpt, scrub, url_secrets
from tasks.core.tool import tool

MAX_BODY_BYTES = 1 << 20
SHOWN_CHARACTERS = 2048
"""Characters of the answer that the result carries."""
_REQUESTS_PER_SECOND, _BURST = 5.0, 10  # a courtesy to receivers; the ones we know publish no lower limits
_TURN_AND_BLOCK = 25.0  # seconds beside the call itself: the channel's turn and loading the block

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_SECRET_HEADERS = re.compile(
    r"authorization|cookie|(^|-)(auth|token|key|secret|password|signature|apikey|session)($|-)"
)
_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect", "keep-alive"}
)


class Webhook(SiteParams):
    """One HTTP request to an endpoint."""

    endpoint: BlockName | None = Field(
        None, description="Block of the endpoint (address, credentials, signing secret). Or give url."
    )
    url: str | None = Field(
        None,
        max_length=2000,
        description="Address to call, http or https, without credentials: public addresses, and others where the site's policy allows.",
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field("POST", description="HTTP method.")
    headers: dict[str, str] = Field(
        default_factory=dict,
        max_length=50,
        description="Further headers, at most 50. Credentials belong into the block.",
        json_schema_extra={"secret": True},  # errors must not repeat a credential somebody put here after all
    )
    query: dict[str, str | list[str]] = Field(
        default_factory=dict, max_length=50, description="Query parameters, added to those of the address."
    )
    json_body: JsonValue = Field(None, description="Body: any value, sent as JSON.")
    form: dict[str, str | list[str]] | None = Field(None, description="Body: fields sent as a form.")
    body: str | None = Field(None, description="Body: text sent as it is; set Content-Type in headers.")
    expect: Annotated[list[Annotated[int, Field(ge=200, le=599)]], Field(max_length=20)] = Field(
        default_factory=list, description="HTTP statuses that count as success. Empty: 200 to 299."
    )
    timeout: float = Field(10.0, ge=0.5, le=30, description="Seconds for the whole call, 0.5 to 30.")
    follow_redirects: int = Field(
        0, ge=0, le=5, description="Redirects to follow, 0 to 5; each must lead where url may lead."
    )
    idempotency_key: str | None = Field(
        None,
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Sent as Idempotency-Key. Give one only if the receiver knows the header: then lost answers are tried again. "
        "Default: the run's id, and no second try.",
    )

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        seen = set()
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is no header name; it may hold letters, digits and hyphens")
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"the value of {name} must be printable ASCII text on one line")
            folded = name.lower()
            if folded in _OURS or folded.startswith("proxy-"):
                raise ValueError(f"the header {name} is written by signalbox itself")
            if folded == "idempotency-key":
                raise ValueError(f"the header {name} comes from the parameter idempotency_key")
            if _SECRET_HEADERS.search(folded):
                raise ValueError(
                    f"the header {name} looks like a credential, and parameters are stored and shown: "
                    "put it into the headers of a Webhook Endpoint block and give that as endpoint"
                )
            if folded in seen:
                raise ValueError(f"the header {name} is given twice")
            seen.add(folded)
        return headers

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.endpoint is None) == (self.url is None):
            raise ValueError("give either endpoint or url")
        bodies = [name for name in ("json_body", "form", "body") if getattr(self, name) is not None]
        if len(bodies) > 1:
            raise ValueError(f"give only one of {', '.join(bodies)}")
        if bodies and self.method == "GET":
            raise ValueError(f"a GET has no body: {bodies[0]} needs another method")
        if len(self.encoded()[0]) > MAX_BODY_BYTES:
            raise ValueError(f"the body is longer than {MAX_BODY_BYTES:,} bytes")
        return self

    def about(self) -> str:
        if self.endpoint is not None:
            return f"{self.method} {self.endpoint}"
        # Without the query: tokens travel there, and the ledger keeps the subject.
        return f"{self.method} {(self.url or '').partition('?')[0]}"[:500]

    def deadline(self) -> float | None:
        return self.timeout + _TURN_AND_BLOCK

    def encoded(self) -> tuple[bytes, str | None]:
        """The body as it goes over the wire, and its type. Encoded here, because the signature covers these very bytes."""
        if self.json_body is not None:
            return json.dumps(self.json_body, ensure_ascii=False, allow_nan=False).encode(), "application/json"
        if self.form is not None:
            return urlencode(self.form, doseq=True).encode(), "application/x-www-form-urlencoded"
        return (self.body or "").encode(), "text/plain; charset=utf-8" if self.body is not None else None


class WebhookAnswer(ToolResult):
    """What the endpoint answered."""

    endpoint: str = Field(description="Block of the endpoint, or the address without its query.")
    method: str = Field(description="HTTP method.")
    status: int = Field(description="HTTP status.")
    content_type: str | None = Field(description="Type of the answer.")
    answer: str = Field(description="First characters of the answer, at most 2,048; secrets of ours in it are masked.")
    truncated: bool = Field(description="Whether the answer was longer.")
    signed: bool = Field(description="Whether the request carried a signature.")
    duration: float = Field(description="Seconds until the answer was there.")

    def headline(self) -> str:
        return f"{self.method} {self.endpoint}: HTTP {self.status} in {self.duration:.1f} s"


@tool(
    service=Service.COMMUNICATION,
    safety=Safety.CHANGE,
    timeout=30 + _TURN_AND_BLOCK,
    retries=3,
    # An error that may be retried means: not delivered, or harmless twice (idempotent method, or a key the receiver knows).
    idempotent=True,
    aliases=("webhook_sender",),
    examples=[
        Example(
            "Tell a ticket system",
            {"endpoint": "webhook/tickets", "json_body": {"event": "camera-offline", "camera": "cam-07"}},
        ),
        Example(
            "Call a public address",
            {"url": "https://status.example.com/api/ping", "method": "GET", "expect": [200, 204]},
        ),
        Example("Send a form", {"endpoint": "webhook/pager", "form": {"to": "noc", "text": "link down"}}),
    ],
)
async def webhook(params: Webhook) -> WebhookAnswer:
    """Call an HTTP endpoint: a webhook, a ticket system, a pager.

    Endpoints in blocks may be anywhere and bring credentials and a signature (HMAC-SHA256 over time and body). A `url`
    given as a parameter may lead to public addresses only, unless the policy's egress_allow names others; its redirects
    too, and they are not followed by default.

    Raises:
        InvalidParameters: A parameter is wrong; a credential among the headers.
        Refused: The address is not public and policy does not allow it. Nothing was sent.
        Rejected: The endpoint says no, or redirects and that was not allowed.
        NotFound: The name does not resolve, or the endpoint says 404 or 410.
        Unauthorized: The endpoint refuses the block's credentials.
        Busy: The endpoint asks for a pause; says for how long.
        Unreachable: No connection; nothing was sent.
        Unanswered: It was sent and no answer came.
    """
    run = current_run()
    target = await _target(params, run)
    body, content_type = params.encoded()
    headers = {"Content-Type": content_type} if content_type else {}
    headers |= {
        "Content-Type" if name.lower() == "content-type" else name: value for name, value in params.headers.items()
    }
    if params.method != "GET":
        headers["Idempotency-Key"] = params.idempotency_key or run.id
    if target.block is not None:
        # The block's own win: what an administrator put there is not for a parameter to change.
        ours = {name.lower() for name in target.block.headers.get_secret_value()}
        headers = {name: value for name, value in headers.items() if name.lower() not in ours}
        headers |= target.block.signed_headers(body)
    async with Channel(target.name, target.channel, per_second=_REQUESTS_PER_SECOND, burst=_BURST):
        answer = await send(
            params.method,
            target.url,
            headers=headers,
            content=body or None,
            timeout=params.timeout,
            verify=trusted_by(target.block, target.name) if target.block is not None else True,
            proxy=target.block.proxy_address if target.block is not None else None,
            follow=params.follow_redirects,
            admit=lambda url: admit_delivery(url, run.policy),
            pinned=target.pinned,
            secret_url=target.block is not None,
            secrets=target.secrets,
            repeatable=True if params.idempotency_key is not None else None,
            ok=params.expect or None,
        )
    return _result(params, target, answer)


@dataclass(frozen=True)
class _Target:
    """Where a request goes. Holds secrets: never shown."""

    name: str
    url: str
    channel: str
    block: WebhookEndpoint | None
    pinned: PinnedUrl | None
    secrets: tuple[str, ...]


async def _target(params: Webhook, run: ToolRun) -> _Target:
    if params.endpoint is not None:
        block = await run.load_block(params.endpoint, WebhookEndpoint)
        values = [str(value) for value in block.headers.get_secret_value().values()]
        # "Bearer abc" is also secret without its scheme, which endpoints leave out when they echo it.
        values += [part for value in values for part in value.split() if len(part) > 5]
        if block.signing_secret is not None:
            values.append(block.signing_secret.get_secret_value())
        secrets = (*values, *url_secrets(block.address))
        return _Target(params.endpoint, _with_query(block.address, params), block.address, block, None, secrets)
    url = _with_query(params.url or "", params)
    pinned = await admit_delivery(url, run.policy)
    return _Target(f"webhook/{pinned.host}", url, f"{pinned.scheme}://{pinned.host}:{pinned.port}", None, pinned, ())


def _with_query(url: str, params: Webhook) -> str:
    if not params.query:
        return url
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise InvalidParameters(
            "url: cannot be read as a URL.", hint="Right would be https://example.com/path."
        ) from None
    added = urlencode(params.query, doseq=True)
    old = parsed.query.decode("ascii")
    return str(parsed.copy_with(query=(f"{old}&{added}" if old else added).encode("ascii")))


def _result(params: Webhook, target: _Target, answer: Answer) -> WebhookAnswer:
    # Scrubbed before it is cut, so that no half of a secret is left at the end.
    shown = excerpt(scrub(answer.text, target.secrets).encode(), SHOWN_CHARACTERS)
    return WebhookAnswer(
        endpoint=params.endpoint or (params.url or "").partition("?")[0],
        method=params.method,
        status=answer.status,
        content_type=answer.headers.get("content-type"),
        answer=shown,
        truncated=answer.truncated or len(answer.text) > SHOWN_CHARACTERS,
        signed=target.block is not None and target.block.signing_secret is not None,
        duration=round(answer.duration, 3),
    )
