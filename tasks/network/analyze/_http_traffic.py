"""Requests and their answers, counted as they come; what is kept grows with hosts and clients, not with traffic."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Final

from tasks.network.analyze._http_message import (
    Head,
    credential_of,
    host_of,
    may_hold_fields,
    secret_names_of_body,
    secret_names_of_query,
    url_of,
)
from tasks.network.analyze._percentiles import Durations

MOST_ENTRIES: Final = 10_000
"""Entries of a table that is told apart; what comes when it is full counts as `others`."""
MOST_FRAMES: Final = 20
MOST_SLOWEST: Final = 100
SAMPLE_BYTES: Final = 4096
"""Beginning of a request's body in which field names are looked for."""
LARGE_UPLOAD_BYTES: Final = 10_000_000
OTHERS: Final = "others"


class Host:
    """One host as requests name it."""

    __slots__ = (
        "answered",
        "client_errors",
        "down",
        "durations",
        "frames",
        "requests",
        "server_errors",
        "unanswered",
        "up",
    )

    def __init__(self) -> None:
        self.requests = self.answered = self.client_errors = self.server_errors = self.unanswered = 0
        self.up = self.down = 0
        self.durations = Durations()
        self.frames: dict[str, list[int]] = {}


class Client:
    """One address that asks."""

    __slots__ = ("failed", "missing", "missing_paths", "refused", "refused_frames", "requests", "up")

    def __init__(self) -> None:
        self.requests = self.failed = self.missing = self.up = 0
        self.missing_paths: set[int] = set()
        self.refused: Counter[str] = Counter()
        self.refused_frames: list[int] = []


class Request:
    """A request until it is answered."""

    __slots__ = (
        "answered", "client", "client_address", "complete", "content_type", "end_ns", "frame", "host", "host_name", "method",
        "sample", "start_ns", "target", "up", "upgrade", "wanted",
    )  # fmt: skip

    def __init__(
        self, head: Head, host_name: str, host: Host, address: str, client: Client, frame: int, start_ns: int
    ) -> None:
        self.method = head.method
        self.target = head.target
        self.content_type = head.content_type
        self.upgrade = head.upgrade
        self.host_name = host_name
        self.host = host
        self.client_address = address
        self.client = client
        self.frame = frame
        self.start_ns = self.end_ns = start_ns
        self.complete = self.answered = False
        self.sample = b""
        self.wanted = SAMPLE_BYTES if may_hold_fields(head.content_type) else 0
        self.up = 0

    def look_at(self, body: bytes) -> None:
        """Keep the beginning of a body whose field names are read when it is complete."""
        if self.wanted:
            part = body[: self.wanted]
            self.sample += part
            self.wanted -= len(part)


class Secrets:
    """One kind of secret that went over the wire readable, to one host."""

    __slots__ = ("count", "frames", "users")

    def __init__(self) -> None:
        self.count = 0
        self.frames: list[int] = []
        self.users: set[str] = set()


class Traffic:
    """All HTTP of a capture."""

    def __init__(self) -> None:
        self.connections = self.http2_connections = self.requests = self.responses = self.http2_requests = 0
        self.open_at_end = self.unanswered = self.unasked = self.answers_lost = self.malformed = self.pipelined = 0
        self.gaps = self.undecoded = self.bytes_down = self.bytes_up = 0
        self.malformed_frames: list[int] = []
        self.ambiguous_frames: list[int] = []
        self.methods: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.content_types: Counter[str] = Counter()
        self.upgrades: Counter[str] = Counter()
        self.tunnels: Counter[str] = Counter()
        self.servers: Counter[tuple[str, int]] = Counter()
        self.redirects: Counter[tuple[str, str]] = Counter()
        self.redirect_frames: dict[tuple[str, str], list[int]] = {}
        self.secrets: dict[tuple[str, str, str], Secrets] = {}
        self.cookies = 0
        self.cookie_frames: list[int] = []
        self.hosts: dict[str, Host] = {}
        self.clients: dict[str, Client] = {}
        self.durations = Durations()
        self.slowest: list[tuple[int, int, int, str, str, str]] = []
        self.uploads: dict[tuple[str, str], tuple[int, list[int]]] = {}
        self.reused = self.most_requests = 0

    # --- what streams report ------------------------------------------------------------------------------------------

    def request(
        self, head: Head, client: str, server: str, port: int, frame: int, start_ns: int, *, version: str
    ) -> Request:
        """Note a request whose head was read."""
        self.requests += 1
        self.methods[head.method if head.method in self.methods or len(self.methods) < 100 else OTHERS] += 1
        self.versions[version] += 1
        name = host_of(head, server, port)
        host = self.hosts.get(name) or self._host(name)
        who = self.clients.get(client) or self._client(client)
        host.requests += 1
        who.requests += 1
        if head.agent:
            _count(self.agents, head.agent)
        address = (server, port)
        if address in self.servers or len(self.servers) < MOST_ENTRIES:
            self.servers[address] += 1
        if head.authorization or head.proxy_authorization or head.key_header or "?" in head.target:
            self._credentials(head, name, frame)
        if head.cookie:
            self.cookies += 1
            _frame(self.cookie_frames, frame)
        if head.ambiguous:
            _frame(self.ambiguous_frames, frame)
        return Request(head, name, host, client, who, frame, start_ns)

    def request_end(self, request: Request, time_ns: int) -> None:
        """Note that a request is complete."""
        request.complete = True
        request.end_ns = time_ns
        if request.sample:
            for name in secret_names_of_body(request.content_type, request.sample):
                self._secret("form", name, request.host_name, "", request.frame)
            request.sample = b""
        if request.up >= LARGE_UPLOAD_BYTES:
            key = (request.client_address, request.host_name)
            total, frames = self.uploads.get(key, (0, []))
            if key in self.uploads or len(self.uploads) < MOST_ENTRIES:
                _frame(frames, request.frame)
                self.uploads[key] = (total + request.up, frames)

    def body(self, request: Request | None, size: int, *, up: bool) -> None:
        """Note bytes of a body."""
        if up:
            self.bytes_up += size
        else:
            self.bytes_down += size
        if request is None:
            return
        if up:
            request.up += size
            request.host.up += size
            request.client.up += size
        else:
            request.host.down += size

    def response(self, request: Request | None, head: Head, frame: int, start_ns: int) -> None:
        """Note a response whose head was read; `request` is what it answers, when that was seen."""
        self.responses += 1
        status = head.status
        self.statuses[status] += 1
        if head.content_type:
            _count(self.content_types, head.content_type)
        if request is None:
            self.unasked += 1
            return
        # After an upgrade to HTTP/2 the answer itself is still to come, on stream 1.
        if 0 < status < 200 and (status != 101 or request.upgrade.startswith("h2c")):
            return
        request.answered = True
        host = request.host
        host.answered += 1
        # From the request's last byte; some answer before they have all of it, and then its beginning counts.
        duration = start_ns - (request.end_ns if request.complete else request.start_ns)
        self.durations.add(duration)
        host.durations.add(duration)
        if len(self.slowest) < MOST_SLOWEST or duration > self.slowest[0][0]:
            self._slow(duration, request, status)
        if status >= 400:
            self._failed(request, status, frame)
        elif status >= 300 and head.location:
            self._redirected(request, head.location, frame)

    def no_answer(self, request: Request, how: str) -> None:
        """Note that a conversation ended before a request was answered."""
        if request.answered:
            return
        if how == "capture":
            self.open_at_end += 1
            return
        self.unanswered += 1
        request.host.unanswered += 1
        request.client.failed += 1
        _frame(request.host.frames.setdefault("unanswered", []), request.frame)

    def connection_end(self, requests: int) -> None:
        """Note how many requests a connection carried."""
        if requests > 1:
            self.reused += 1
        self.most_requests = max(self.most_requests, requests)

    # --- details ------------------------------------------------------------------------------------------------------

    def _host(self, name: str) -> Host:
        if len(self.hosts) >= MOST_ENTRIES:
            name = OTHERS
        return self.hosts.setdefault(name, Host())

    def _client(self, address: str) -> Client:
        if len(self.clients) >= MOST_ENTRIES:
            address = OTHERS
        return self.clients.setdefault(address, Client())

    def _slow(self, duration: int, request: Request, status: int) -> None:
        entry = (
            duration,
            request.frame,
            status,
            request.method,
            url_of(request.target, request.host_name),
            request.client_address,
        )
        if len(self.slowest) < MOST_SLOWEST:
            heapq.heappush(self.slowest, entry)
        else:
            heapq.heapreplace(self.slowest, entry)

    def _failed(self, request: Request, status: int, frame: int) -> None:
        host, client = request.host, request.client
        client.failed += 1
        if status >= 500:
            host.server_errors += 1
            _frame(host.frames.setdefault("server", []), frame)
            return
        host.client_errors += 1
        _frame(host.frames.setdefault("client", []), frame)
        if status in {401, 403}:
            if request.host_name in client.refused or len(client.refused) < 1000:
                client.refused[request.host_name] += 1
            _frame(client.refused_frames, frame)
        elif status == 404:
            client.missing += 1
            if len(client.missing_paths) < 1000:
                client.missing_paths.add(hash(request.target))
            _frame(host.frames.setdefault("missing", []), frame)

    def _redirected(self, request: Request, location: str, frame: int) -> None:
        key = (
            url_of(request.target, request.host_name),
            url_of(location, "" if "://" in location else request.host_name),
        )
        if key in self.redirects or len(self.redirects) < MOST_ENTRIES:
            self.redirects[key] += 1
            _frame(self.redirect_frames.setdefault(key, []), frame)

    def _credentials(self, head: Head, host: str, frame: int) -> None:
        for value in (head.authorization, head.proxy_authorization):
            if value:
                scheme, user = credential_of(value)
                self._secret("authorization", scheme, host, user, frame)
        if head.key_header:
            self._secret("header", head.key_header, host, "", frame)
        for name in secret_names_of_query(head.target):
            self._secret("query", name, host, "", frame)

    def _secret(self, kind: str, name: str, host: str, user: str, frame: int) -> None:
        key = (kind, name, host)
        secret = self.secrets.get(key)
        if secret is None:
            if len(self.secrets) >= MOST_ENTRIES:
                return
            secret = self.secrets[key] = Secrets()
        secret.count += 1
        _frame(secret.frames, frame)
        if user and len(secret.users) < MOST_FRAMES:
            secret.users.add(user)


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MOST_ENTRIES else OTHERS] += 1


def _frame(frames: list[int], frame: int) -> None:
    if len(frames) < MOST_FRAMES:
        frames.append(frame)
