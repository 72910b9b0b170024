"""HTTP servers on loopback that are as strict as Slack, Teams and careful webhook receivers, and fail like they do.

Each runs in a thread of its own, so tests of any kind (sync, async, other processes) can call it:

    with SlackEndpoint() as slack:
        ...  # slack.url is the webhook's secret address
        slack.requests[-1].json

`endpoint.reply(Reply(429, headers={"Retry-After": "1"}))` queues an answer before the endpoint's own judgement resumes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer, or one of the ways not to answer."""

    status: int = 200
    body: bytes | str = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte."""
    reset: bool = False
    """Send a TCP reset instead of an answer."""
    hang_up: bool = False
    """Close the connection without an answer."""
    raw: bytes | None = None
    """Send these bytes instead of HTTP."""
    drip: float = 0.0
    """Seconds between the bytes of the body."""


class HttpEndpoint:
    """A server on loopback that answers what `judge` says and remembers every request."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", name: str | None = None) -> None:
        self.requests: list[Received] = []
        self._queued: deque[Reply] = deque()
        self._stopped = threading.Event()
        self._scheme = "https" if tls else "http"
        self._name = name or ("localhost" if tls else host)
        self._server = _Server((host, 0), self, tls)
        self.port: int = self._server.server_address[1]

    @property
    def origin(self) -> str:
        return f"{self._scheme}://{self._name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/"

    def reply(self, *replies: Reply) -> None:
        """Queue answers for the next requests."""
        self._queued.extend(replies)

    def judge(self, request: Received) -> Reply:
        """What the endpoint answers by itself."""
        return Reply(200, b"ok")

    def answer(self, request: Received) -> Reply:
        self.requests.append(request)
        reply = self._queued.popleft() if self._queued else self.judge(request)
        self._stopped.wait(reply.delay)
        return reply

    def pause(self, seconds: float) -> bool:
        """Wait; True when the endpoint was stopped meanwhile."""
        return self._stopped.wait(seconds)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], endpoint: HttpEndpoint, tls: ssl.SSLContext | None) -> None:
        self.endpoint, self.tls = endpoint, tls
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Here, in the connection's own thread: a client that never finishes its handshake must not stop the others.
        request.settimeout(30)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up or refuse our certificate are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        endpoint = self.server.endpoint
        length = int(self.headers.get("content-length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(self.command, self.path, headers, self.rfile.read(length), time.time())
        reply = endpoint.answer(received)
        self.close_connection = True
        if reply.reset:
            # SO_LINGER with zero seconds: close() sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if reply.hang_up:
            return
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            return
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if not reply.drip:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if endpoint.pause(reply.drip):
                return

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Requests are remembered, not printed."""


def closed_port() -> int:
    """A TCP port on loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- Slack -----------------------------------------------------------------------------------------------------------


class SlackEndpoint(HttpEndpoint):
    """An incoming webhook: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, errors included.

    Args:
        per_second: Messages a second it takes before it answers 429; 0 for any number.
        channels: Channels a message may name; others answer `channel_not_found`.
    """

    TOKEN = "T0AAAAAAA/B0BBBBBBB/xoxSlackSecretTokenXYZ"

    def __init__(self, *, per_second: float = 0, channels: tuple[str, ...] = ("#noc",), **server: Any) -> None:
        super().__init__(**server)
        self.per_second, self.channels = per_second, channels
        self.accepted: list[dict[str, Any]] = []
        self._last = 0.0

    @property
    def url(self) -> str:
        return f"{self.origin}/services/{self.TOKEN}"

    def judge(self, request: Received) -> Reply:
        if not request.path.startswith("/services/"):
            return Reply(404, "no_service")
        if request.path != f"/services/{self.TOKEN}":
            return Reply(403, "invalid_token")
        if request.method != "POST" or not request.headers.get("content-type", "").startswith("application/json"):
            return Reply(400, "invalid_payload")
        try:
            message = request.json
        except ValueError:
            return Reply(400, "invalid_payload")
        if not isinstance(message, dict) or set(message) - _SLACK_FIELDS:
            return Reply(400, "invalid_payload")
        text, blocks, attachments = (message.get(name) for name in ("text", "blocks", "attachments"))
        if not text and not blocks and not attachments:
            return Reply(400, "no_text")
        if text is not None and (not isinstance(text, str) or len(text) > 40_000):
            return Reply(400, "msg_too_long" if isinstance(text, str) else "invalid_payload")
        if blocks is not None and not _are_blocks(blocks):
            return Reply(400, "invalid_blocks")
        if attachments is not None and len(attachments) > 100:
            return Reply(400, "too_many_attachments")
        if "channel" in message and message["channel"] not in self.channels:
            return Reply(404, "channel_not_found")
        if "thread_ts" in message and not re.fullmatch(r"\d{10}\.\d{6}", message["thread_ts"]):
            return Reply(400, "invalid_thread_ts")
        if self.per_second and request.at - self._last < 1 / self.per_second:
            return Reply(429, "rate_limited", {"Retry-After": "1"})
        self._last = request.at
        self.accepted.append(message)
        return Reply(200, "ok", {"Content-Type": "text/html"})


# https://docs.slack.dev/reference/block-kit/blocks
_SLACK_BLOCKS = {
    "actions", "context", "divider", "file", "header", "image", "input", "markdown", "rich_text", "section", "table", "video",
}  # fmt: skip


def _are_blocks(blocks: Any) -> bool:
    if not isinstance(blocks, list) or len(blocks) > 50:
        return False
    for block in blocks:
        if block.get("type") not in _SLACK_BLOCKS:
            return False
        text = block.get("text")
        if block["type"] == "section" and text is None and "fields" not in block:
            return False
        if text is not None and (text.get("type") not in {"mrkdwn", "plain_text"} or not text.get("text")):
            return False
    return True


_SLACK_FIELDS = {
    "text", "blocks", "attachments", "thread_ts", "channel", "username", "icon_emoji", "icon_url", "mrkdwn", "unfurl_links", "unfurl_media",
}  # fmt: skip


# --- Teams -----------------------------------------------------------------------------------------------------------


class TeamsWorkflow(HttpEndpoint):
    """A Workflows (Power Automate) webhook: takes Adaptive Cards of at most 28 KB and answers 202 with nothing."""

    SIGNATURE = "sigTeamsSecretAbCdEf0123456789"

    def __init__(self, **server: Any) -> None:
        super().__init__(**server)
        self.accepted: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return (
            f"{self.origin}/workflows/0123abcd/triggers/manual/paths/invoke?api-version=1&sp=run&sig={self.SIGNATURE}"
        )

    def judge(self, request: Received) -> Reply:
        if request.query.get("sig") != [self.SIGNATURE]:
            body = {
                "error": {"code": "DirectApiAuthorizationRequired", "message": "The request must be authenticated."}
            }
            return Reply(401, json.dumps(body), {"Content-Type": "application/json"})
        if len(request.body) > 28 * 1024:
            return Reply(413, "RequestEntityTooLarge")
        if request.method != "POST" or not request.headers.get("content-type", "").startswith("application/json"):
            return _refusal("TriggerInputSchemaMismatch", "The input body for trigger 'manual' must be JSON.")
        problem = _adaptive_card_problem(request.json)
        if problem:
            return _refusal("TriggerInputSchemaMismatch", problem)
        self.accepted.append(request.json)
        return Reply(202)


def _refusal(code: str, message: str) -> Reply:
    return Reply(400, json.dumps({"error": {"code": code, "message": message}}), {"Content-Type": "application/json"})


def _adaptive_card_problem(message: Any) -> str | None:
    if not isinstance(message, dict) or message.get("type") != "message":
        return "type must be message"
    attachments = message.get("attachments")
    if not isinstance(attachments, list) or len(attachments) != 1:
        return "attachments must hold one card"
    if attachments[0].get("contentType") != "application/vnd.microsoft.card.adaptive":
        return "contentType must be application/vnd.microsoft.card.adaptive"
    card = attachments[0].get("content")
    if (
        not isinstance(card, dict)
        or card.get("type") != "AdaptiveCard"
        or card.get("version") not in {"1.2", "1.3", "1.4", "1.5"}
    ):
        return "content must be an AdaptiveCard of a version Teams knows"
    return _element_problem(card.get("body")) or next(
        (
            f"unknown action {a}"
            for a in card.get("actions", [])
            if a.get("type") != "Action.OpenUrl" or not a.get("url")
        ),
        None,
    )


def _element_problem(elements: Any) -> str | None:
    if not isinstance(elements, list) or not elements:
        return "body must hold elements"
    for element in elements:
        kind = element.get("type")
        if kind == "Container":
            if element.get("style", "default") not in {"default", "emphasis", "good", "attention", "warning", "accent"}:
                return f"unknown style {element['style']}"
            problem = _element_problem(element.get("items"))
            if problem:
                return problem
        elif kind == "TextBlock":
            if not isinstance(element.get("text"), str):
                return "a TextBlock needs text"
        elif kind == "FactSet":
            if not all(isinstance(f.get("title"), str) and isinstance(f.get("value"), str) for f in element["facts"]):
                return "facts need title and value"
        else:
            return f"unknown element {kind}"
    return None


class TeamsConnector(HttpEndpoint):
    """A legacy connector: takes MessageCards, answers 200 with `1`, and hides its failures in bodies of answers 200."""

    TOKEN = "secretGuidTeams1234@tenant/IncomingWebhook/abcdef987654/guid"

    def __init__(self, **server: Any) -> None:
        super().__init__(**server)
        self.accepted: list[dict[str, Any]] = []
        self.overloaded = 0

    @property
    def url(self) -> str:
        return f"{self.origin}/webhookb2/{self.TOKEN}"

    def judge(self, request: Received) -> Reply:
        card = request.json
        if card.get("@type") != "MessageCard" or card.get("@context") not in {
            "http://schema.org/extensions", "https://schema.org/extensions",
        }:  # fmt: skip
            return Reply(400, "Bad payload received by generic incoming webhook.")
        if not card.get("summary") and not card.get("text"):
            return Reply(400, "Summary or Text is required.")
        if not re.fullmatch(r"[0-9A-Fa-f]{6}", card.get("themeColor", "000000")):
            return Reply(400, "Bad payload received by generic incoming webhook.")
        if len(request.body) > 28 * 1024:
            return Reply(413, "Request too large")
        if self.overloaded:
            self.overloaded -= 1
            return Reply(
                200,
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 "
                "with ContextId tcid=0,server=DB3PEPF00000000,cv=xyz..",
            )
        self.accepted.append(card)
        return Reply(200, "1")


# --- webhooks --------------------------------------------------------------------------------------------------------


class WebhookSink(HttpEndpoint):
    """A careful receiver: checks the signature and its age when it has a secret, and takes an idempotency key once."""

    def __init__(self, *, secret: str | None = None, header: str = "x-signalbox-signature", **server: Any) -> None:
        super().__init__(**server)
        self.secret, self.header = secret, header.lower()
        self.accepted: dict[str, Received] = {}

    @property
    def url(self) -> str:
        return f"{self.origin}/hooks/secretPathSegment42"

    def judge(self, request: Received) -> Reply:
        if self.secret is not None and not self._signed(request):
            return Reply(401, "bad signature")
        key = request.headers.get("idempotency-key", f"without-{len(self.accepted)}")
        self.accepted.setdefault(key, request)
        return Reply(201, json.dumps({"received": len(self.accepted)}), {"Content-Type": "application/json"})

    def _signed(self, request: Received) -> bool:
        parts = dict(part.partition("=")[::2] for part in request.headers.get(self.header, "").split(","))
        signed_at = parts.get("t", "")
        if not signed_at.isdigit() or abs(request.at - int(signed_at)) > 300:
            return False
        expected = hmac.new((self.secret or "").encode(), f"{signed_at}.".encode() + request.body, hashlib.sha256)
        return hmac.compare_digest(expected.hexdigest(), parts.get("v1", ""))
