"""What `tasks.core.http` promises, against real servers on loopback."""

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from lab.authority import Authority
from lab.http_endpoints import HttpEndpoint, Reply, closed_port

from blocks._trust import trust
from tasks.core.errors import (
    Busy,
    Conflict,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.gate import PinnedUrl
from tasks.core.http import Answer, retry_after, send
from tasks.core.transport import explain_connection


def pin(url: str, address: str = "127.0.0.1") -> PinnedUrl:
    parsed = httpx.URL(url)
    return PinnedUrl(url, parsed.scheme, parsed.host, parsed.port or 80, address)


@pytest.fixture
def server() -> Iterator[HttpEndpoint]:
    with HttpEndpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_an_answer_carries_status_headers_body_and_duration(server: HttpEndpoint) -> None:
    server.reply(Reply(201, b"made", {"X-Id": "7"}))
    answer = await send("POST", server.url, json={"a": 1})
    assert (answer.status, answer.body, answer.headers["x-id"], answer.truncated) == (201, b"made", "7", False)
    assert 0 < answer.duration < 10
    assert server.requests[0].json == {"a": 1}
    assert server.requests[0].headers["content-type"] == "application/json"


async def test_forms_and_raw_bodies_are_sent_as_such(server: HttpEndpoint) -> None:
    await send("POST", server.url, data={"a": "1 2"})
    await send("PUT", server.url, content=b"\x00raw")
    assert server.requests[0].body == b"a=1+2"
    assert server.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"
    assert server.requests[1].body == b"\x00raw"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected), (401, Unauthorized), (403, Unauthorized), (404, NotFound), (405, Unsupported), (407, Unauthorized),
        (409, Conflict), (410, NotFound), (413, Rejected), (418, Rejected), (429, Busy), (500, Rejected), (501, Unsupported),
        (502, Unanswered), (503, Busy), (504, Unanswered), (408, Busy), (304, Rejected),
    ],
)  # fmt: skip
async def test_each_status_says_what_to_do_next(server: HttpEndpoint, status: int, error: type[ToolError]) -> None:
    server.reply(Reply(status, "" if status == 304 else "because of this"))
    with pytest.raises(error) as caught:
        await send("POST", server.url, json={})
    assert type(caught.value) is error


async def test_a_failure_of_the_server_is_retryable_when_a_second_delivery_does_no_harm(server: HttpEndpoint) -> None:
    server.reply(Reply(500), Reply(502), Reply(500))
    for method, repeatable in (("GET", None), ("GET", None), ("POST", True)):
        with pytest.raises(Busy):
            await send(method, server.url, repeatable=repeatable)


async def test_the_caller_chooses_which_statuses_are_success(server: HttpEndpoint) -> None:
    server.reply(Reply(404), Reply(200))
    assert (await send("GET", server.url, ok={404})).status == 404
    with pytest.raises(Rejected):
        await send("GET", server.url, ok={404})


async def test_retry_after_is_read_as_seconds_and_as_a_date(server: HttpEndpoint) -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.reply(*(Reply(429, headers={"Retry-After": value}) for value in ("17", in_a_minute, "soon", "-3")))
    pauses = []
    for _ in range(4):
        with pytest.raises(Busy) as caught:
            await send("POST", server.url, json={})
        pauses.append(caught.value.retry_after)
    assert pauses[0] == 17
    assert pauses[1] is not None and 57 < pauses[1] <= 60
    assert pauses[2:] == [None, None]


# --- connections -----------------------------------------------------------------------------------------------------


async def test_a_closed_port_is_told_as_such_and_may_be_tried_again() -> None:
    with pytest.raises(Unreachable, match="nothing listens") as caught:
        await send("POST", f"http://127.0.0.1:{closed_port()}/")
    assert caught.value.retryable


async def test_a_name_that_does_not_resolve_is_told_by_its_name() -> None:
    # Where there is no resolver at all, the system cannot know that the name does not exist.
    with pytest.raises(
        (NotFound, Unreachable), match=r"The name host\.invalid (does not resolve|could not be resolved)"
    ):
        await send("GET", "http://host.invalid/")


def test_a_name_nobody_knows_is_another_error_than_a_resolver_that_is_silent() -> None:
    unknown = explain_connection(socket.gaierror(socket.EAI_NONAME, ""), "http://a", "a")
    silent = explain_connection(socket.gaierror(socket.EAI_AGAIN, ""), "http://a", "a")
    assert isinstance(unknown, NotFound) and not unknown.retryable
    assert isinstance(silent, Unreachable) and silent.retryable


async def test_a_slow_answer_ends_at_the_deadline_and_is_not_sent_again(server: HttpEndpoint) -> None:
    server.reply(Reply(delay=30), Reply(delay=30))
    started = time.monotonic()
    with pytest.raises(Unanswered, match=r"within 0\.4 s.*may have arrived") as caught:
        await send("POST", server.url, timeout=0.4)
    assert not caught.value.retryable
    with pytest.raises(Unreachable) as repeatable:
        await send("GET", server.url, timeout=0.4)
    assert repeatable.value.retryable
    assert time.monotonic() - started < 3


async def test_a_server_that_accepts_and_says_nothing_in_tls_sent_us_nothing_and_got_nothing() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match="Nothing was sent") as caught,
    ):
        await send("POST", f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.4)
    assert caught.value.retryable


async def test_a_dripping_body_ends_at_the_deadline_with_what_came(server: HttpEndpoint) -> None:
    server.reply(Reply(200, b"x" * 1000, drip=0.1))
    started = time.monotonic()
    answer = await send("POST", server.url, timeout=0.6)
    assert answer.status == 200 and answer.truncated and 0 < len(answer.body) < 100
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("reply", [Reply(reset=True), Reply(hang_up=True)])
async def test_a_broken_connection_after_the_request_left_is_unanswered(server: HttpEndpoint, reply: Reply) -> None:
    server.reply(reply, reply)
    with pytest.raises(Unanswered, match="closed the connection"):
        await send("POST", server.url, json={})
    with pytest.raises(Unreachable) as caught:
        await send("PUT", server.url, json={})
    assert caught.value.retryable


async def test_something_that_is_not_http_is_told_as_such(server: HttpEndpoint) -> None:
    server.reply(Reply(raw=b"220 mail.example.com ESMTP\r\n\r\n"))
    with pytest.raises(Unanswered, match="not with HTTP"):
        await send("POST", server.url)


async def test_the_environment_names_no_proxy_and_a_block_does(
    monkeypatch: pytest.MonkeyPatch, server: HttpEndpoint
) -> None:
    with HttpEndpoint() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        monkeypatch.setenv("ALL_PROXY", proxy.origin)
        await send("GET", server.url)
        assert proxy.requests == []
        await send("GET", f"{server.origin}/x", proxy=proxy.origin)
        assert proxy.requests[0].target == f"{server.origin}/x"
    with pytest.raises(Unreachable, match="proxy"):
        await send("GET", server.url, proxy=f"http://127.0.0.1:{closed_port()}")


# --- size ------------------------------------------------------------------------------------------------------------


async def test_a_body_is_read_up_to_the_cap(server: HttpEndpoint) -> None:
    server.reply(Reply(200, b"x" * 5000), Reply(200, b"x" * 4096))
    answer = await send("GET", server.url, max_bytes=4096)
    assert (len(answer.body), answer.truncated) == (4096, True)
    answer = await send("GET", server.url, max_bytes=4096)
    assert (len(answer.body), answer.truncated) == (4096, False)


async def test_a_compression_bomb_unpacks_to_the_cap_only(server: HttpEndpoint) -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(200 << 20), 9)
    assert len(bomb) < 1 << 18
    server.reply(Reply(200, bomb, {"Content-Encoding": "gzip"}))
    tracemalloc.start()
    answer = await send("GET", server.url, max_bytes=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(answer.body), answer.truncated) == (10_000, True)
    assert peak < 20 << 20


async def test_a_compressed_answer_is_unpacked_and_a_broken_one_does_not_hurt(server: HttpEndpoint) -> None:
    server.reply(
        Reply(200, gzip.compress(b"hello"), {"Content-Encoding": "gzip"}),
        Reply(200, b"hello", {"Content-Encoding": "gzip"}),
    )
    assert (await send("GET", server.url)).body == b"hello"
    assert (await send("GET", server.url)).truncated


# --- redirects and pins ----------------------------------------------------------------------------------------------


async def test_redirects_are_not_followed_unless_asked(server: HttpEndpoint) -> None:
    server.reply(Reply(302, headers={"Location": "http://169.254.169.254/latest/meta-data"}))
    with pytest.raises(Rejected, match=r"redirects to http://169\.254\.169\.254/latest/meta-data .*not followed"):
        await send("POST", server.url)
    assert len(server.requests) == 1


async def test_each_redirect_goes_through_the_gate(server: HttpEndpoint) -> None:
    asked: list[str] = []

    async def admit(url: str) -> PinnedUrl:
        asked.append(url)
        if "169.254" in url:
            raise Refused("metadata addresses are not public")
        return pin(url)

    server.reply(
        Reply(307, headers={"Location": "/second"}), Reply(302, headers={"Location": "http://169.254.169.254/"})
    )
    with pytest.raises(Refused):
        await send("POST", server.url, content=b"body", follow=3, admit=admit)
    assert asked == [f"{server.origin}/second", "http://169.254.169.254/"]
    assert [(r.method, r.path, r.body) for r in server.requests] == [
        ("POST", "/", b"body"),
        ("POST", "/second", b"body"),
    ]


async def test_a_redirect_to_another_origin_takes_no_headers_along(server: HttpEndpoint) -> None:
    async def admit(url: str) -> PinnedUrl:
        return pin(url)

    server.reply(Reply(303, headers={"Location": f"http://other.example:{server.port}/next"}))
    answer = await send("POST", server.url, json={"a": 1}, headers={"X-Token": "s3cret"}, follow=1, admit=admit)
    second = server.requests[1]
    assert (second.method, second.body, second.headers["host"]) == ("GET", b"", f"other.example:{server.port}")
    assert "x-token" not in second.headers and "content-type" not in second.headers
    assert answer.url == f"http://other.example:{server.port}/next"


async def test_the_redirects_end(server: HttpEndpoint) -> None:
    async def admit(url: str) -> PinnedUrl:
        return pin(url)

    server.reply(*[Reply(307, headers={"Location": "/again"})] * 10)
    with pytest.raises(Rejected, match="not followed"):
        await send("GET", server.url, follow=2, admit=admit)
    assert len(server.requests) == 3


async def test_a_pinned_address_is_called_under_its_name(server: HttpEndpoint) -> None:
    url = f"http://intranet.example:{server.port}/path?q=1"
    await send("GET", url, pinned=pin(url))
    assert server.requests[0].headers["host"] == f"intranet.example:{server.port}"
    assert server.requests[0].target == "/path?q=1"


async def test_a_pinned_ipv6_address_is_called() -> None:
    with HttpEndpoint(host="::1", name="six.example") as server:
        await send("GET", server.url, pinned=pin(server.url, "::1"))
        assert server.requests[0].headers["host"] == f"six.example:{server.port}"


async def test_the_certificate_of_a_pinned_address_must_be_for_the_name(authority: Authority) -> None:
    with HttpEndpoint(tls=authority.server("good.example"), name="good.example") as server:
        good = pin(server.url)
        assert (await send("GET", server.url, pinned=good, verify=trust(authority.pem))).status == 200
        other = server.url.replace("good", "bad")
        with pytest.raises(Untrusted, match=r"not for bad\.example"):
            await send("GET", other, pinned=pin(other), verify=trust(authority.pem))


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_an_unknown_authority_is_told_and_how_to_trust_it(authority: Authority) -> None:
    with HttpEndpoint(tls=authority.server()) as server:
        with pytest.raises(Untrusted, match=r"authority this machine does not know.*field ca") as caught:
            await send("POST", server.url)
        assert not caught.value.retryable
        assert (await send("POST", server.url, verify=trust(authority.pem))).status == 200
        assert len(server.requests) == 1


async def test_an_expired_certificate_is_told(authority: Authority) -> None:
    with HttpEndpoint(tls=authority.server(expired=True)) as server, pytest.raises(Untrusted, match="has expired"):
        await send("POST", server.url, verify=trust(authority.pem))


async def test_a_port_without_tls_is_told(server: HttpEndpoint) -> None:
    with pytest.raises(Unsupported, match="not with TLS"):
        await send("POST", server.url.replace("http:", "https:"))


async def test_a_client_certificate_that_is_missing_is_told(authority: Authority) -> None:
    for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.server(maximum=newest)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.pem)
        with HttpEndpoint(tls=context) as server, pytest.raises(Unsupported):
            await send("POST", server.url, verify=trust(authority.pem))


# --- secrets ---------------------------------------------------------------------------------------------------------

SECRET_PATH, SECRET_QUERY, SECRET_HEADER = "xoxSecretPath99", "secretQuery77", "Bearer headerSecret55"

FAILURES = [
    *(
        Reply(status, f"you sent /{SECRET_PATH}?sig={SECRET_QUERY} with {SECRET_HEADER}")
        for status in (400, 401, 404, 429, 500, 503)
    ),
    Reply(302, headers={"Location": f"/{SECRET_PATH}/else?sig={SECRET_QUERY}"}),
    Reply(reset=True),
    Reply(hang_up=True),
    Reply(delay=5),
    Reply(raw=f"/{SECRET_PATH}?sig={SECRET_QUERY}\r\n\r\n".encode()),
]


@pytest.mark.parametrize("reply", FAILURES, ids=lambda reply: str(reply.status if reply.status != 200 else "transport"))
async def test_no_failure_repeats_a_secret_url_or_header(
    server: HttpEndpoint, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    server.reply(reply)
    url = f"{server.origin}/{SECRET_PATH}?sig={SECRET_QUERY}"
    # INFO: httpx's own client would write the whole URL there.
    with caplog.at_level(logging.INFO), pytest.raises(ToolError) as caught:
        await send(
            "POST", url, headers={"X-Auth": SECRET_HEADER}, secret_url=True, secrets=[SECRET_HEADER], timeout=0.5
        )
    _assert_free_of_secrets(caught.value, caplog.text)
    assert f"127.0.0.1:{server.port}" in str(caught.value)


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:1", "https://127.0.0.1:1", "http://host.invalid", "ftp://x", "http://[bad", "http://"]
)
async def test_no_failure_to_connect_repeats_a_secret_url(origin: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(ToolError) as caught:
        await send("POST", f"{origin}/{SECRET_PATH}?sig={SECRET_QUERY}", secret_url=True, timeout=2)
    _assert_free_of_secrets(caught.value, caplog.text)


async def test_a_header_http_does_not_allow_is_refused_without_repeating_it(server: HttpEndpoint) -> None:
    for value in (f"{SECRET_HEADER}\r\nX-Evil: 1", f"{SECRET_HEADER}\u20ac"):
        with pytest.raises(InvalidParameters) as caught:
            await send("POST", server.url, headers={"X-Auth": value})
        _assert_free_of_secrets(caught.value, "")
    assert server.requests == []


def _assert_free_of_secrets(error: BaseException, log: str) -> None:
    import traceback

    told = "\n".join([str(error), repr(error), *traceback.format_exception(error), log])
    # The test's own source line shows in the traceback through names, never values.
    for secret in (SECRET_PATH, SECRET_QUERY, "headerSecret55"):
        assert secret not in told
    assert error.__suppress_context__ or error.__context__ is None


def test_the_reply_of_an_answer_that_is_logged_shows_no_body_and_no_address() -> None:
    assert "s3cret" not in repr(Answer(200, httpx.Headers({"x": "s3cret"}), b"s3cret", False, 0.1, "http://a/s3cret"))


@pytest.mark.parametrize("said", ["\xb2", "Mon, 01 Jan 2026 00:00:00 +99999999999999999999"])
async def test_a_retry_after_that_is_no_time_is_none(said: str) -> None:
    headers = httpx.Headers([(b"retry-after", said.encode("latin-1"))])
    assert retry_after(Answer(503, headers, b"", False, 0.1, "http://192.0.2.7/")) is None
