from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.agreement import decode_as, generated, saved, talked
from lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    cut,
    merged,
    needs_tshark,
    recording,
    tcp_talk,
    tshark_fields,
    write_pcap,
)
from lab.network import needs_lab

from blocks.captures import CaptureStore
from tasks.core.errors import InvalidParameters, NotFound
from tasks.core.models import ToolResult
from tasks.core.process import find_program
from tasks.network.analyze._http import STREAMS, dissect, report
from tasks.network.analyze._http_findings import find
from tasks.network.analyze._http_message import credential_of, path_of, read_head, url_of
from tasks.network.analyze._http_stream import HttpStream
from tasks.network.analyze._http_traffic import Traffic
from tasks.network.analyze._selection import ALL
from tasks.network.analyze.http_analyzer import HttpReport, http_analyzer

Perform = Callable[..., Awaitable[ToolResult]]

CLIENT, SERVER = "10.0.0.9", "10.0.0.80"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
GET = b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.5\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"


class Wire:
    """One conversation as the engine gives it."""

    def __init__(self, traffic: Traffic | None = None, *, whole: bool = True, port: int = 80) -> None:
        self.traffic = traffic or Traffic()
        self.stream = HttpStream(self.traffic, CLIENT, 40000, SERVER, port, whole=whole)
        self.now, self.frame = START, 0

    def up(self, data: bytes, after: float = 0.001) -> Wire:
        return self._send(True, data, after)

    def down(self, data: bytes, after: float = 0.001) -> Wire:
        return self._send(False, data, after)

    def _send(self, from_client: bool, data: bytes, after: float) -> Wire:
        self.now += int(after * SECOND)
        self.frame += 1
        self.stream.data(from_client, data, self.now, self.frame)
        return self

    def gap(self, from_client: bool, missing: int) -> Wire:
        self.frame += 1
        self.stream.gap(from_client, missing, self.now, self.frame)
        return self

    def end(self, how: str = "fin") -> Traffic:
        self.stream.end(how, self.now, self.frame)
        return self.traffic


def request(method: str = "GET", target: str = "/", body: bytes = b"", **headers: str) -> bytes:
    fields = {"Host": "www.example.com", **({"Content-Length": str(len(body))} if body else {}), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body


def response(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Words\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def codes(traffic: Traffic) -> dict[str, dict[str, object]]:
    return {item["code"]: item for item in find(traffic)}


# --- messages and bodies ---------------------------------------------------------------------------------------------


def test_requests_and_answers_are_counted_by_host_method_status_agent_and_type() -> None:
    wire = Wire().up(GET).down(OK, after=0.25).up(request("POST", "/form", b"a=b")).down(response(404))
    traffic = wire.end()
    assert (traffic.requests, traffic.responses, traffic.unanswered, traffic.connections) == (2, 2, 0, 1)
    assert traffic.methods == {"GET": 1, "POST": 1} and traffic.statuses == {200: 1, 404: 1}
    assert traffic.agents == {"curl/8.5": 1} and traffic.content_types == {"text/html": 1}
    host = traffic.hosts["www.example.com"]
    assert (host.requests, host.answered, host.client_errors, host.up, host.down) == (2, 2, 1, 3, 5)
    assert traffic.durations.percentile_ms(99) == 250 and (traffic.reused, traffic.most_requests) == (1, 2)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nHTTP/1\r\n3\r\n\r\n\r\r\n0\r\nTrailer: x\r\n\r\n"
)
CONVERSATION = [
    (True, GET),
    (False, OK),
    (True, request("HEAD", "/head")),
    (False, b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
    (True, b"\r\n" + request("POST", "/up", Transfer_Encoding="chunked") + b"a\r\n0123456789\r\n0\r\n\r\n"),
    (False, b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED),
    (True, request("PUT", "/file", bytes(300), Expect="100-continue")),
    (False, b"HTTP/1.1 204 No Content\r\n\r\n"),
    (True, request("GET", "/cached", If_None_Match='"x"')),
    (False, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"),
    (True, b"GET /bare HTTP/1.0\nHost: bare.example.com\n\n"),
    (False, b"HTTP/1.0 200 OK\r\n\r\nuntil the end\r\n\r\nHTTP/1.1 500 not this\r\n\r\n"),
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.randoms())
def test_what_is_counted_does_not_depend_on_how_the_stream_is_cut(cuts: list[int], chance: random.Random) -> None:
    wire = Wire()
    for from_client, data in CONVERSATION:
        rest = data
        while rest:
            cut = chance.choice(cuts) if cuts else len(rest)
            wire._send(from_client, rest[:cut], 0.001)
            rest = rest[cut:]
    traffic = wire.end()
    assert (traffic.requests, traffic.responses, traffic.unasked, traffic.malformed, traffic.unanswered) == (
        6,
        7,
        0,
        0,
        0,
    )
    assert traffic.statuses == {200: 4, 100: 1, 204: 1, 304: 1}
    assert traffic.bytes_up == 310 and traffic.bytes_down == 5 + 9 + len(
        b"until the end\r\n\r\nHTTP/1.1 500 not this\r\n\r\n"
    )
    assert traffic.hosts["bare.example.com"].answered == 1


def test_time_to_first_byte_counts_from_the_end_of_an_upload() -> None:
    body = bytes(1000)
    upload = request("POST", "/up", body)
    wire = Wire().up(upload[:-500]).up(upload[-500:], after=3.0).down(OK[:10], after=0.5).down(OK[10:], after=2.0)
    assert wire.end().durations.percentile_ms(50) == 500


def test_pipelined_requests_get_their_own_answers() -> None:
    wire = Wire().up(request("GET", "/1") + request("HEAD", "/2") + request("GET", "/3"))
    wire.down(response(200, b"x" * 10) + b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n" + response(500, b"y"))
    traffic = wire.end()
    assert traffic.pipelined == 2 and traffic.statuses == {200: 1, 404: 1, 500: 1} and traffic.bytes_down == 11


def test_requests_without_an_answer_are_failures_and_those_at_the_captures_end_are_not() -> None:
    assert Wire().up(GET).end("rst").unanswered == 1
    cut_off = Wire().up(GET).end("capture")
    assert (cut_off.unanswered, cut_off.open_at_end) == (0, 1)
    assert "http.unanswered" in codes(Wire().up(GET).end("fin"))


# --- gaps and beginnings ---------------------------------------------------------------------------------------------


def test_a_gap_inside_a_body_of_known_length_costs_nothing() -> None:
    wire = Wire().up(GET).down(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
    wire.gap(False, 98_000).down(bytes(1000) + b"").up(GET).down(OK)
    traffic = wire.end()
    assert (traffic.requests, traffic.statuses[200], traffic.answers_lost, traffic.bytes_down) == (2, 2, 0, 100_005)


def test_a_gap_inside_a_chunk_costs_nothing() -> None:
    wire = Wire().up(GET).down(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + bytes(100))
    wire.gap(False, 800).down(bytes(100) + b"\r\n0\r\n\r\n").up(GET).down(OK)
    traffic = wire.end()
    assert (traffic.statuses[200], traffic.answers_lost, traffic.bytes_down) == (2, 0, 1005)


def test_after_a_gap_elsewhere_the_next_message_is_found_and_no_answer_is_given_to_the_wrong_request() -> None:
    wire = Wire().up(request("GET", "/1")).down(b"HTTP/1.1 200 OK\r\nContent-").gap(False, 500)
    wire.down(b"middle of something").up(request("GET", "/2")).down(response(404)).up(request("GET", "/3")).down(OK)
    traffic = wire.end()
    assert (traffic.requests, traffic.answers_lost, traffic.unanswered) == (3, 1, 0)
    assert traffic.hosts["www.example.com"].client_errors == 1 and traffic.statuses == {404: 1, 200: 1}


def test_a_conversation_whose_beginning_is_missing_is_read_from_its_first_whole_message() -> None:
    wire = Wire(whole=False).down(b"tail of a body").up(GET).down(OK)
    traffic = wire.end()
    assert (traffic.requests, traffic.responses, traffic.unasked) == (1, 1, 0)


@pytest.mark.parametrize("whole", [True, False])
def test_client_and_server_are_told_apart_by_what_they_say(whole: bool) -> None:
    wire = Wire(whole=whole, port=80)
    wire.down(GET).up(OK).down(request("POST", "/", b"abc")).up(response(500))
    traffic = wire.end()
    assert (traffic.requests, traffic.responses, traffic.unasked) == (2, 2, 0)
    assert list(traffic.clients) == [SERVER] and list(traffic.servers) == [(CLIENT, 40000)]


def test_tls_on_port_80_is_none_of_ours() -> None:
    hello = bytes.fromhex("160301020001") + bytes(506)
    traffic = Wire().up(hello).down(hello).end()
    assert (traffic.requests, traffic.malformed, traffic.connections) == (0, 0, 0)


def test_a_head_that_never_ends_is_given_up() -> None:
    wire = Wire().up(GET).down(OK).up(b"GET / HTTP/1.1\r\n")
    for _ in range(100):
        wire.up(b"X-Fill: " + b"x" * 990 + b"\r\n")
    assert wire.traffic.malformed == 1 and not wire.stream._client.buffer


# --- what becomes something else -------------------------------------------------------------------------------------


def test_what_follows_an_upgrade_or_a_tunnel_is_not_read_as_http() -> None:
    traffic = Traffic()
    websocket = Wire(traffic).up(request(Connection="Upgrade", Upgrade="websocket"))
    websocket.down(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05GET /"
    )
    websocket.up(GET).down(OK).end()
    tunnel = Wire(traffic).up(b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n")
    tunnel.down(b"HTTP/1.1 200 Connection established\r\n\r\n").up(GET).down(OK).end()
    refused = Wire(traffic).up(b"CONNECT inner.example:25 HTTP/1.1\r\n\r\n").down(response(403, b"no")).up(GET).down(OK)
    refused.end()
    assert traffic.requests == 4 and traffic.upgrades == {"websocket": 1} and traffic.tunnels == {"shop.example:443": 1}
    assert traffic.statuses == {101: 1, 200: 2, 403: 1}


class H2:
    """A client and a server of the library h2, whose bytes go over a `Wire`."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.client = H2Connection(H2Configuration(client_side=True))
        self.server = H2Connection(H2Configuration(client_side=False))

    def exchange(self) -> None:
        for _ in range(3):
            if up := self.client.data_to_send():
                self.wire.up(up)
                self.server.receive_data(up)
            if down := self.server.data_to_send():
                self.wire.down(down)
                self.client.receive_data(down)


def test_http2_is_recognised_and_its_requests_are_read() -> None:
    wire = Wire(port=50051)
    pair = H2(wire)
    pair.client.initiate_connection()
    pair.server.initiate_connection()
    pair.exchange()
    for number, status in enumerate(["200", "404", "500"]):
        stream = pair.client.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "api.example.com"),
            (":path", f"/v1/{number}"),
        ]
        pair.client.send_headers(
            stream, [*fields, ("user-agent", "grpc-python/1.60"), ("authorization", "Bearer s3cret")]
        )
        pair.client.send_data(stream, b"x" * 100, end_stream=True, pad_length=20)
        pair.exchange()
        pair.server.send_headers(stream, [(":status", status), ("content-type", "application/grpc")])
        pair.server.send_data(stream, b"y" * 50)
        pair.server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        pair.exchange()
    assert wire.stream._h2 is not None and not wire.stream._h2._streams, "what is answered is let go"
    traffic = wire.end()
    assert (traffic.http2_connections, traffic.connections, traffic.requests, traffic.responses) == (1, 1, 3, 3)
    assert traffic.statuses == {200: 1, 404: 1, 500: 1} and traffic.versions == {"HTTP/2": 3}
    host = traffic.hosts["api.example.com"]
    assert (host.server_errors, host.client_errors, host.answered) == (1, 1, 3)
    assert traffic.bytes_down == 150 and traffic.agents == {"grpc-python/1.60": 3}
    assert traffic.secrets["authorization", "Bearer", "api.example.com"].count == 3 and traffic.undecoded == 0


def test_http2_after_an_upgrade_keeps_the_first_request() -> None:
    wire = Wire()
    pair = H2(wire)
    token = pair.client.initiate_upgrade_connection()
    assert token is not None
    preface = pair.client.data_to_send()
    pair.server.initiate_upgrade_connection(token)
    wire.up(request(Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings=token.decode()))
    wire.down(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + pair.server.data_to_send()
    )
    wire.up(preface)
    pair.server.receive_data(preface)
    pair.server.send_headers(1, [(":status", "503")], end_stream=True)
    pair.exchange()
    traffic = wire.end()
    assert (traffic.requests, traffic.statuses, traffic.unanswered) == (1, {101: 1, 503: 1}, 0)
    assert traffic.hosts["www.example.com"].server_errors == 1


@pytest.mark.parametrize(("missing", "requests", "lost"), [(5_000, 2, 0), (9_500, 2, 2)])
def test_in_http2_a_gap_inside_a_body_costs_nothing_and_one_beyond_it_the_rest(
    missing: int, requests: int, lost: int
) -> None:
    wire = Wire()
    pair = H2(wire)
    pair.client.initiate_connection()
    pair.server.initiate_connection()
    pair.exchange()
    for stream in (1, 3):
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", f"/{stream}")]
        pair.client.send_headers(stream, fields, end_stream=True)
        pair.exchange()
        pair.server.send_headers(stream, [(":status", "200")])
        pair.server.send_data(stream, bytes(9_000), end_stream=True)
        data = pair.server.data_to_send()
        assert data is not None
        cut_at = len(data) - 8_000 if stream == 1 else len(data)
        wire.down(data[:cut_at])
        if stream == 1:
            wire.gap(False, missing)
            wire.down(data[cut_at + missing :])
        pair.client.receive_data(data)
    assert lost or (wire.stream._h2 is not None and not wire.stream._h2._streams), "a body's end is the answer's"
    traffic = wire.end()
    assert (traffic.requests, traffic.responses, traffic.answers_lost) == (requests, 2 if not lost else 1, lost // 2)
    assert traffic.unanswered == 0 and (lost or traffic.bytes_down == 18_000)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 300))
def test_http2_with_bytes_missing_anywhere_never_fails(at: int, missing: int, cut: int) -> None:
    wire, recorded = Wire(), []
    pair = H2(wire)
    wire._send = lambda side, data, after: recorded.append((side, data)) or wire  # type: ignore[method-assign,func-returns-value]
    pair.client.initiate_connection()
    pair.server.initiate_connection()
    for number in range(3):
        pair.exchange()
        stream = pair.client.get_next_available_stream_id()
        pair.client.send_headers(
            stream, [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", f"/{number}")]
        )
        pair.client.end_stream(stream)
        pair.exchange()
        pair.server.send_headers(stream, [(":status", "200")])
        pair.server.send_data(stream, b"z" * 300, end_stream=True)
    pair.exchange()
    del wire._send
    position = 0
    for side, data in recorded:
        for begin in range(0, len(data), cut):
            piece = data[begin : begin + cut]
            if position <= at < position + len(piece):
                wire.gap(side, missing)
            else:
                wire._send(side, piece, 0.001)
            position += len(piece)
    traffic = wire.end()
    assert traffic.requests <= 3 and traffic.responses <= 3
    if at >= position:
        assert traffic.requests == traffic.responses == 3


# --- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = [
    "hunter2-secret",
    "tok-9f8e7d6c",
    "cookie-value-1",
    "pw-in-form",
    "pw-in-json",
    "bearer-abc.def",
    "key-1234567",
]


def secret_conversation() -> Traffic:
    basic = base64.b64encode(b"joe:hunter2-secret").decode()
    wire = Wire()
    answers = response(302, Location="http://www.example.com/next?code=tok-9f8e7d6c", Set_Cookie="id=cookie-value-1")
    wire.up(request("GET", "/a", Authorization=f"Basic {basic}", Cookie="id=cookie-value-1")).down(answers)
    wire.up(request("GET", "/b?user=joe&access_token=tok-9f8e7d6c", Authorization="Bearer bearer-abc.def")).down(
        answers
    )
    form = b"user=joe&password=pw-in-form"
    wire.up(request("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")).down(response(401))
    body = json.dumps({"name": "joe", "password": "pw-in-json"}).encode()
    wire.up(request("POST", "/api", body, Content_Type="application/json", X_API_Key="key-1234567")).down(response(500))
    return wire.end()


def test_secrets_in_clear_text_are_named_and_never_shown() -> None:
    traffic = secret_conversation()
    told = json.dumps(report(traffic, 50))
    assert not [secret for secret in SECRETS if secret in told]
    assert {(kind, name) for kind, name, _ in traffic.secrets} == {
        ("authorization", "Basic"), ("authorization", "Bearer"), ("query", "access_token"), ("form", "password"), ("header", "X-API-Key"),
    }  # fmt: skip
    assert traffic.secrets["authorization", "Basic", "www.example.com"].users == {"joe"} and traffic.cookies == 1
    found = [item for item in find(traffic) if item["code"] == "http.plain-credentials"]
    assert len(found) == 5 and sum("of joe" in item["what"] for item in found) == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"Basic " + base64.b64encode(b"joe:pw"), ("Basic", "joe")),
        (b"basic " + base64.b64encode("jörg:p:w".encode()), ("Basic", "jörg")),
        (b"Basic " + base64.b64encode(b"onlyapassword"), ("Basic", "")),
        (b"Basic !!!", ("Basic", "")),
        (b'Digest username="joe", realm="x", response="0123456789abcdef"', ("Digest", "joe")),
        (b"NTLM TlRMTVNTUAAB", ("NTLM", "")),
        (b"s3cret-without-a-scheme", ("other", "")),
        (b"S3cretScheme value", ("other", "")),
    ],
)
def test_of_an_authorization_only_scheme_and_user_are_told(value: bytes, told: tuple[str, str]) -> None:
    assert credential_of(value) == told


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "h/"),
        ("/a/b.html", "h/a/b.html"),
        ("/s?q=private+words&page=2#frag", "h/s?q=***&page=***"),
        ("/s?justatoken", "h/s?***"),
        ("http://joe:pw@other.example/x?y=z", "http://other.example/x?y=***"),
        ("/reset/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0", "h/reset/***"),
        ("/p/7b0c5e9a41d24f7c8c3f0b1d2e3f4a5b/x", "h/p/***/x"),
        ("/blog/some-long-title-of-an-article-2024-05-01", "h/blog/some-long-title-of-an-article-2024-05-01"),
        ("/o/123e4567-e89b-12d3-a456-426614174000", "h/o/123e4567-e89b-12d3-a456-426614174000"),
        ("/x;jsessionid=ABC", "h/x"),
    ],
)
def test_addresses_are_shown_without_their_values(target: str, shown: str) -> None:
    assert url_of(target, "h") == shown
    assert path_of(target) == shown.removeprefix("http://other.example").removeprefix("h").split("?")[0]


# --- findings --------------------------------------------------------------------------------------------------------


def test_guessed_passwords_probing_errors_and_loops_are_found() -> None:
    wire = Wire()
    for number in range(40):
        wire.up(request("GET", "/admin")).down(response(401))
        wire.up(request("GET", f"/old/{number}.php")).down(response(404))
        wire.up(request("GET", "/loop")).down(response(301, Location="http://www.example.com/loop"))
    for _ in range(6):
        wire.up(request("GET", "/broken")).down(response(502), after=6)
    found = codes(wire.end())
    assert {"http.login-failures", "http.client-errors", "http.server-errors", "http.redirect-loop"} <= set(found)
    scanner = Wire()
    for number in range(40):
        scanner.up(request("GET", f"/old/{number}.php")).down(response(404))
    assert "http.probing" in codes(scanner.end())


def test_slow_hosts_are_found_and_the_slowest_requests_named() -> None:
    wire = Wire()
    for seconds in (0.1, 0.2, 2.0, 3.0, 7.0):
        wire.up(request("GET", f"/wait/{seconds}")).down(OK, after=seconds)
    traffic = wire.end()
    assert codes(traffic)["http.slow"]["severity"] == "medium"
    assert report(traffic, 1)["slowest"][0]["address"] == "www.example.com/wait/7.0"


def test_large_uploads_public_addresses_and_doubtful_lengths_are_found() -> None:
    wire = Wire()
    wire.up(b"POST /up HTTP/1.1\r\nHost: 8.8.8.8\r\nContent-Length: 20000000\r\n\r\n" + bytes(1000)).gap(
        True, 19_999_000
    )
    wire.down(OK)
    wire.up(request("POST", "/x", b"abc", Transfer_Encoding="identity")).down(OK)
    traffic = wire.end()
    found = codes(traffic)
    assert found["http.large-upload"]["severity"] == "medium" and "20 MB" in str(found["http.large-upload"]["what"])
    assert "8.8.8.8" in str(found["http.address-as-host"]["what"]) and "http.ambiguous-length" in found
    assert traffic.requests == 2


# --- what others send ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.one_of(st.binary(max_size=200), st.sampled_from([d for _, d in CONVERSATION]))),
        max_size=12,
    ),
    st.booleans(),
)
def test_anything_may_be_sent_in_any_order(pieces: list[tuple[bool, bytes]], whole: bool) -> None:  # fmt: skip
    wire = Wire(whole=whole)
    for number, (side, data) in enumerate(pieces):
        wire._send(side, data, 0.001)
        if number % 4 == 3:
            wire.gap(side, len(data) + 1)
    traffic = wire.end(["fin", "rst", "capture"][len(pieces) % 3])
    json.dumps(report(traffic, 20))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, len(CONVERSATION) - 1),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_changed_messages_never_fail(which: int, changes: list[tuple[int, int]]) -> None:
    wire = Wire()
    for number, (side, data) in enumerate(CONVERSATION):
        sent = bytearray(data)
        if number == which:
            for where, value in changes:
                sent[where % len(sent)] = value
        wire._send(side, bytes(sent), 0.001)
    json.dumps(report(wire.end(), 20))


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/2.5\r\n\r\n",
        b"GET /\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"hello there\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_head_is_refused(head: bytes) -> None:
    assert read_head(head) is None


def test_absurd_lengths_are_no_lengths() -> None:
    head = read_head(b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n")
    assert head is not None and head.length == -1


# --- whole captures, and what tshark says about them ------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    return dissect(str(path), ALL, 100_000)


def counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {row["name"]: row["count"] for row in rows if row["count"]}


def agree(path: Path) -> dict[str, Any]:
    """Compare everything both count. UDP has HTTP too for tshark (SSDP); HTTP/2 it counts apart."""
    found = read(path)
    methods: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    agents: Counter[str] = Counter()
    fields = (
        "http.request.method", "http.host", "http.response.code", "http.user_agent", "http2.headers.method", "http2.headers.status",
    )  # fmt: skip
    for row in tshark_fields(path, "(http && tcp) || http2", *fields, decode_as=decode_as(path, "http", STREAMS, [])):
        for counter, value in zip((methods, hosts, statuses, agents, methods, statuses), row, strict=True):
            counter.update(part for part in value.split(",") if part)
    assert found["requests"] == methods.total() and found["responses"] == statuses.total()
    assert counted(found["methods"]) == methods and counted(found["statuses"]) == statuses
    if not found["http2_connections"]:
        assert {row["host"]: row["requests"] for row in found["hosts"] if "." in row["host"]} == hosts
        assert counted(found["agents"]) == agents
    return found


def browsing(seed: int, *, port: int = 80) -> list[Packet]:
    """Browsers at a server: connections used again, bodies of all kinds, failures, uploads, silence, resets."""
    chance = random.Random(seed)
    talks = []
    for number in range(25):
        said: list[tuple[bool, bytes]] = []
        for _ in range(chance.randint(1, 5)):
            method = chance.choice(["GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"])
            body = chance.randbytes(chance.randint(1, 5000)) if method in {"POST", "PUT"} else b""
            host = chance.choice(["www.example.com", "api.example.com:8080", "192.0.2.7"])
            said.append(
                (True, request(method, f"/{chance.randint(0, 99)}", body, Host=host, User_Agent=f"agent/{number % 3}"))
            )
            status = chance.choice([200, 200, 200, 204, 301, 304, 404, 500])
            empty = method == "HEAD" or status in {204, 304}
            content = b"" if empty else chance.randbytes(chance.randint(0, 9000))
            if empty:
                said.append((False, f"HTTP/1.1 {status} Words\r\nServer: x\r\n\r\n".encode()))
            elif chance.random() < 0.4:
                chunks = b"".join(
                    b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:700], content[700:]) if part
                )
                said.append(
                    (False, b"HTTP/1.1 %d Words\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % (status, chunks))
                )
            else:
                said.append((False, response(status, content)))
        if chance.random() < 0.2:
            said.append((True, GET))
        talks.append(
            tcp_talk(
                said,
                client=f"10.0.1.{number % 7 + 1}",
                client_port=40_000 + number,
                server=SERVER,
                server_port=port,
                start_ns=NOON_NS + number * 7_000_123,
                segment_size=chance.choice([300, 1400]),
                farewell=chance.choice(["fin", "rst", "none"]),
            )
        )
    return merged(*talks)


@needs_tshark
@pytest.mark.parametrize(("seed", "port"), [(0, 80), (1, 80), (2, 49_152)])
def test_numbers_agree_with_tsharks_on_generated_captures(seed: int, port: int, tmp_path: Path) -> None:
    path = write_pcap(Capture(browsing(seed, port=port)), tmp_path / "http.pcap")
    found = agree(path)
    assert found["reused_connections"] and found["unanswered"] and not found["malformed"] and not found["unasked"]


@st.composite
def exchanges(draw: st.DrawFn) -> list[tuple[bool, bytes]]:
    said: list[tuple[bool, bytes]] = []
    for _ in range(draw(st.integers(1, 4))):
        method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"]))
        body = draw(st.binary(min_size=1, max_size=3000)) if method in {"POST", "PUT"} else b""
        host = draw(st.sampled_from(["www.example.com", "api.example.com:8080", "192.0.2.7"]))
        path = "/" + draw(st.text("abcxyz019-_.~/", max_size=30))
        said.append((True, request(method, path, body, Host=host, User_Agent=draw(st.sampled_from(["a/1", "b c/2"])))))
        status = draw(st.sampled_from([200, 201, 204, 206, 301, 304, 404, 418, 500, 503]))
        content = b"" if method == "HEAD" or status in {204, 304} else draw(st.binary(max_size=4000))
        if content and draw(st.booleans()):
            head = b"HTTP/1.1 %d Words\r\nTransfer-Encoding: chunked\r\n\r\n" % status
            said.append((False, head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)))
        elif method == "HEAD" or status in {204, 304}:
            said.append((False, b"HTTP/1.1 %d Words\r\nServer: x\r\n\r\n" % status))
        else:
            said.append((False, response(status, content)))
    return said


@needs_tshark
@generated()
@given(talked(exchanges(), [80, 8080, 9753]))
def test_made_up_exchanges_are_counted_as_tshark_counts_them(
    tmp_path_factory: pytest.TempPathFactory, packets: list[Any]
) -> None:
    agree(saved(packets, tmp_path_factory.mktemp("made") / "a.pcap"))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_capture_says_the_same_whatever_its_format_and_link_layer(variant: str, tmp_path: Path) -> None:
    capture = Capture(browsing(3))
    plain, other = (
        read(write_pcap(capture, tmp_path / "plain.pcap")),
        read(VARIANTS[variant](capture, tmp_path / variant)),
    )
    for found in (plain, other):
        found["coverage"] = None
        for row in [found["times"], *found["slowest"], *(host["times"] for host in found["hosts"])]:
            row.update({name: round(value, 1) for name, value in row.items() if isinstance(value, float)})
        found["slowest"].sort(key=lambda row: (row["frame"], row["address"]))
    assert other == plain


@pytest.mark.unlike_tshark("it does not say which heads lost packets made two halves of")
def test_packets_lost_by_the_capture_cost_little(tmp_path: Path) -> None:
    packets = browsing(5)
    whole = read(write_pcap(Capture(packets), tmp_path / "whole.pcap"))
    chance = random.Random(1)
    kept = [packet for packet in packets if chance.random() > 0.02]
    found = read(write_pcap(Capture(kept), tmp_path / "lossy.pcap"))
    assert whole["requests"] * 0.85 <= found["requests"] <= whole["requests"]
    assert found["answers_lost"] <= whole["requests"] * 0.15 and found["coverage"]["notes"]
    short = read(write_pcap(cut(Capture(packets), 200), tmp_path / "short.pcap"))
    # Bodies of known length are stepped over although they are not there; heads have to be.
    assert short["requests"] >= whole["requests"] * 0.9 and short["bytes_up"] == pytest.approx(
        whole["bytes_up"], rel=0.2
    )


# --- real servers, real clients, and the tool ------------------------------------------------------------------------

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr; user root;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; default_type text/plain;
  server {{
    listen 127.80.0.1:80; listen 127.80.0.1:8099; root {folder};
    location = /moved {{ return 301 http://www.lab.test/index.txt?ticket=t0psecret; }}
    location = /broken {{ return 503; }}
    location = /private {{ auth_basic "lab"; auth_basic_user_file {folder}/users; }}
    location = /take {{ client_max_body_size 1m; return 200 "taken"; }}
  }}
  server {{ listen 127.80.0.1:8098 http2; location / {{ return 200 "over http/2"; }} }}
}}
"""


class OldServer(BaseHTTPRequestHandler):
    """Answers as servers do that know no length: chunk by chunk, until the end of the connection, or not at all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/silent":
            self.close_connection = True
            return
        if self.path == "/slow":
            time.sleep(0.3)
        self.send_response(200)
        if self.path == "/to-the-end":
            self.send_header("Connection", "close")
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"HTTP/1.1 500 as a body\r\n\r\n", b"x" * 20_000):
            self.wfile.write(part if self.path == "/to-the-end" else b"%x\r\n%s\r\n" % (len(part), part))
        if self.path != "/to-the-end":
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.mark.lab
@needs_lab
@needs_tshark
async def test_answers_without_a_length_and_requests_without_an_answer_are_read_from_real_traffic(
    tmp_path: Path,
) -> None:
    server = ThreadingHTTPServer(("127.80.0.2", 0), OldServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.80.0.2:{server.server_port}"
    try:
        client = httpx.AsyncClient(base_url=f"http://{address}", trust_env=False)
        async with recording(tmp_path / "old.pcap", "host 127.80.0.2"), client:
            for path in ("/chunked", "/slow", "/chunked", "/to-the-end"):
                assert len((await client.get(path)).content) == 20_026
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/silent")
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
    found = agree(tmp_path / "old.pcap")
    assert (found["requests"], found["responses"], found["unanswered"], found["malformed"]) == (5, 4, 1, 0)
    assert found["bytes_down"] == 4 * 20_026 and found["hosts"][0]["host"] == address
    assert found["slowest"][0]["address"] == f"{address}/slow" and found["times"]["longest_ms"] >= 300


@contextlib.asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[None]:
    """nginx on a loopback address of its own: HTTP/1 on 80 and 8099, clear-text HTTP/2 on 8098."""
    (folder / "index.txt").write_text("hello\n" * 5000)
    (folder / "users").write_text("joe:{PLAIN}hunter2-secret\n")
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    # Its ports are fixed: another worker's tests of this file wait.
    with Path(tempfile.gettempdir(), "signalbox-tests-nginx.lock").open("w") as lock:  # noqa: ASYNC230
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        async with _serving(folder):
            yield


@contextlib.asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[None]:
    arguments = [find_program("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None, "nginx did not start"
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.80.0.1", 8098)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


async def curl(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("curl", "-sS", "-o", "/dev/null", "--max-time", "20", *arguments)
    assert await process.wait() == 0


@pytest.mark.lab
@needs_lab
@needs_tshark
async def test_what_was_really_asked_is_what_the_report_says(tmp_path: Path, perform: Perform) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    async with nginx(folder), recording(tmp_path / "real.pcap", "host 127.80.0.1 and tcp"):
        resolve = ["--connect-to", "::127.80.0.1:80", "-A", "lab/1.0"]
        await curl(*resolve, "http://www.lab.test/index.txt", "-o", "/dev/null", "http://www.lab.test/missing")
        await curl(*resolve, "http://www.lab.test/moved", "-I")
        await curl(*resolve, "-u", "joe:hunter2-secret", "http://www.lab.test/private")
        await curl(*resolve, "-d", "user=joe&password=pw-in-form", "http://www.lab.test/take?token=tok-9f8e7d6c")
        await curl(*resolve, "-H", "Expect: 100-continue", "-T", str(folder / "index.txt"), "http://www.lab.test/take")
        await curl("http://127.80.0.1:8099/broken", "-H", "Cookie: id=cookie-value-1")
        async with httpx.AsyncClient(http1=False, http2=True, trust_env=False) as client:
            for path in "ab":
                assert (await client.get(f"http://127.80.0.1:8098/{path}")).text == "over http/2"
        async with httpx.AsyncClient(base_url="http://127.80.0.1:8099", trust_env=False) as client:
            for _ in range(5):
                assert (await client.get("/index.txt")).status_code == 200
    found = agree(tmp_path / "real.pcap")
    assert found["requests"] == 14 and counted(found["methods"]) == {"GET": 11, "HEAD": 1, "POST": 1, "PUT": 1}
    statuses = counted(found["statuses"])
    assert (statuses["200"], statuses["404"], statuses["301"], statuses["503"]) == (10, 2, 1, 1)
    assert (found["http2_connections"], found["unanswered"], found["open_at_end"]) == (1, 0, 0)
    assert found["most_requests_per_connection"] == 5 and found["reused_connections"] == 3
    assert ("authorization", ["joe"]) in [(row["kind"], row["users"]) for row in found["credentials"]]
    assert found["redirects"][0]["location"] == "http://www.lab.test/index.txt?ticket=***"
    told = json.dumps(found)
    assert not [secret for secret in [*SECRETS, "t0psecret"] if secret in told]

    store = CaptureStore(folder=tmp_path / "store")
    store.write("real.pcap", (tmp_path / "real.pcap").read_bytes())
    result = await perform(http_analyzer, {"capture": "real.pcap"}, store=store)
    assert isinstance(result, HttpReport) and result.requests == 14 and result.worst() == "high"
    assert "in clear text" in result.headline() and len(result.model_dump_json()) < 50_000
    one = await perform(http_analyzer, {"capture": "real.pcap", "port": 8098}, store=store)
    assert isinstance(one, HttpReport) and one.requests == 2 and one.versions[0].name == "HTTP/2"


@pytest.mark.lab
@needs_lab
async def test_a_live_capture_is_recorded_and_analyzed(tmp_path: Path, perform: Perform) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    params = {"interface": "lo", "filter": "host 127.80.0.1", "port": 8099, "duration": 3}
    async with nginx(folder):
        report_ = asyncio.create_task(perform(http_analyzer, params))
        while not report_.done():  # whenever it begins to listen
            await curl("http://127.80.0.1:8099/index.txt")
            await asyncio.sleep(0.2)
        result = await report_
    assert isinstance(result, HttpReport) and result.requests and result.hosts[0].host == "127.80.0.1:8099"


async def test_what_is_no_capture_or_not_there_is_said(tmp_path: Path, perform: Perform) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("words.txt", b"no capture at all, only words" * 10)
    with pytest.raises(InvalidParameters, match="not a capture"):
        await perform(http_analyzer, {"capture": "words.txt"}, store=store)
    with pytest.raises(NotFound, match="no capture"):
        await perform(http_analyzer, {"capture": "missing.pcap"}, store=store)
    with pytest.raises(InvalidParameters, match="no-such"):
        await perform(http_analyzer, {"interface": "no-such-interface", "port": 80}, store=store)
