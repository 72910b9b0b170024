"""`http_check` against nginx and against servers that fail in every way there is."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core.errors import InvalidParameters, NotFound, Refused
from tasks.core.rate import Pacer
from tasks.core.redact import json_size
from tasks.network.probe import _web_check
from tasks.network.probe import http_check as module
from tasks.network.probe._connection import Pace, Paces, Patience, connect
from tasks.network.probe.http_check import CheckedUrl, HttpCheck, HttpCheckResult, http_check
from tests.lab.http_endpoints import HttpEndpoint, Reply
from tests.lab.network import DELL, Lab, http, needs_lab
from tests.lab.tls_servers import Pki, openssl_server, tcp_server
from tests.lab.web_servers import Web, nginx

QUICK = ProbePolicy(host_packets_per_second=0, packets_per_second=100_000)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture(scope="module")
def web(pki, tmp_path_factory) -> Iterator[Web]:
    with nginx(tmp_path_factory.mktemp("nginx"), pki.server()) as running:
        yield running


@pytest.fixture
def check(perform, pki):
    """Check one URL, with the tests' authority trusted."""

    async def run(url: str, **more: object) -> CheckedUrl:
        result = await perform(http_check, {"urls": [url], "ca": pki.pem, **more}, policy=QUICK)
        (entry,) = result.checks
        assert (entry.state == "ok") == (entry.reason is None)
        return entry

    return run


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# --- what answers ---------------------------------------------------------------------------------------------------------


async def test_a_page_is_read_with_status_title_and_the_time_of_each_step(check, web):
    seen = await check(f"http://localhost:{web.http}/")
    assert (seen.state, seen.status, seen.http_version) == ("ok", 200, "HTTP/1.1")
    assert seen.title == "The shop & more" and seen.server.startswith("nginx/") and seen.content_type == "text/html"
    assert seen.dns_ms > 0 and seen.connect_ms > 0 and seen.first_byte_ms > 0 and seen.tls_ms is None
    parts = seen.dns_ms + seen.connect_ms + seen.first_byte_ms + seen.read_ms
    assert seen.total_ms == pytest.approx(parts, abs=0.01)
    assert seen.verified is None and seen.certificate_days is None and seen.address in {"127.0.0.1", "::1"}


async def test_https_speaks_http_2_when_both_can(check, web):
    seen = await check(f"https://localhost:{web.https}/")
    assert (seen.state, seen.status, seen.http_version) == ("ok", 200, "HTTP/2")
    assert seen.verified and seen.certificate_days == 89 and seen.tls_version == "TLSv1.3" and seen.tls_ms > 0
    parts = seen.dns_ms + seen.connect_ms + seen.tls_ms + seen.first_byte_ms + seen.read_ms
    assert seen.total_ms == pytest.approx(parts, abs=0.01)
    assert (await check(f"https://localhost:{web.https}/", http2=False)).http_version == "HTTP/1.1"


async def test_a_delay_shows_in_the_step_it_happens_in(check):
    with HttpEndpoint() as slow:
        slow.reply(Reply(200, b"late", delay=0.4))
        seen = await check(slow.url)
        assert 390 < seen.first_byte_ms < 5000 and seen.read_ms < seen.first_byte_ms
        slow.reply(Reply(200, b"12345", drip=0.1))
        seen = await check(slow.url)
    assert seen.read_ms > 290 and seen.body_bytes == 5 and seen.dns_ms is None


async def test_head_asks_for_headers_only(check, web):
    (web.root / "head.html").write_text("x" * 500)
    seen = await check(f"https://localhost:{web.https}/head.html", method="HEAD")
    assert seen.state == "ok" and seen.body_bytes == 0 and seen.status == 200


async def test_the_server_sees_the_name_our_agent_and_our_headers(check, web):
    for scheme, port, version in (("http", web.http, "HTTP/1.1"), ("https", web.https, "HTTP/2.0")):
        wanted = f"signalbox|hello|localhost|GET|{version}"
        assert (
            await check(f"{scheme}://localhost:{port}/agent", body=wanted, headers={"X-Probe": "hello"})
        ).state == "ok"


async def test_every_url_has_an_entry_in_the_order_asked(perform, web):
    urls = [
        f"http://no-such-host.invalid:{web.http}/",
        f"http://127.0.0.1:{web.http}/missing",
        f"http://127.0.0.1:{web.http}/",
    ]
    result = await perform(http_check, {"urls": urls}, policy=QUICK)
    assert [entry.url for entry in result.checks] == urls
    assert [entry.state for entry in result.checks] == ["not_tried", "failed", "ok"]
    assert "does not resolve" in result.checks[0].reason
    assert (
        result.headline().startswith("3 URLs: 1 ok, 1 failed, 1 not tried; http://no-such-host.invalid")
        and result.reached()
    )


async def test_ipv6_works_too(check):
    with tcp_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), "::1") as server:
        seen = await check(f"http://[::1]:{server.port}/")
    assert seen.state == "ok" and seen.address == "::1" and seen.dns_ms is None


# --- what was expected ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("missing", {}, "Status is 404, not 200-399."),
        ("broken", {}, "Status is 500, not 200-399."),
        ("login", {"status": "401"}, None),
        ("login", {"status": "200,400-403"}, None),
        ("", {"body": "Add to cart"}, None),
        ("", {"body": "Sold out"}, "The text 'Sold out' is not in the page."),
        ("", {"pattern": r"(?i)add\s+TO\s+cart"}, None),
        ("", {"pattern": r"^nothing$"}, "The pattern is not found in the page."),
        (
            "",
            {"body": "cart", "max_bytes": 20},
            "The text 'cart' is not in the page (of which the first 20 bytes were read).",
        ),
        ("headers", {"expect_headers": {"X-Frame-Options": "DENY"}}, None),
        ("headers", {"expect_headers": {"x-frame-options": ""}}, None),
        (
            "headers",
            {"expect_headers": {"X-Frame-Options": "SAMEORIGIN", "Strict-Transport-Security": ""}},
            "Header X-Frame-Options does not contain 'SAMEORIGIN' but 'DENY'; there is no header Strict-Transport-Security.",
        ),
        ("", {"slower_than": 0.000001}, "longer than 1e-06 s"),
        ("", {"slower_than": 50}, None),
        ("", {"certificate_days": 80}, None),
        ("", {"certificate_days": 120}, "The certificate has 89 days left, less than 120."),
    ],
)
async def test_what_is_expected_is_compared_and_every_difference_told(check, web, path, more, said):
    seen = await check(f"https://localhost:{web.https}/{path}", **more)
    if said is None:
        assert seen.state == "ok" and seen.reason is None
    else:
        assert seen.state == "failed" and said in seen.reason and seen.status is not None


async def test_where_there_is_no_certificate_its_days_are_a_fault(check, web):
    seen = await check(f"http://localhost:{web.http}/", certificate_days=14)
    assert seen.state == "failed" and seen.status == 200
    assert seen.reason == "There is no certificate to have 14 days left: the page came over http."
    seen = await check(f"https://localhost:{web.https}/plain", certificate_days=14)
    assert seen.state == "failed" and "the page came over http" in seen.reason and seen.redirects
    assert (await check(f"http://localhost:{web.http}/")).state == "ok"


async def test_a_secret_header_is_compared_but_never_repeated(check, web):
    seen = await check(f"http://localhost:{web.http}/headers", expect_headers={"Set-Cookie": "Secure"})
    assert seen.reason == "Header Set-Cookie does not contain 'Secure'."
    assert "verysecret" not in seen.model_dump_json()


async def test_a_pattern_of_catastrophic_cost_is_stopped_and_not_tried_again(perform, web, monkeypatch):
    monkeypatch.setattr(_web_check, "PATTERN_SECONDS", 1.0)
    (web.root / "evil.html").write_text("a" * 60 + "!")
    urls = [f"http://localhost:{web.http}/evil.html?{number}" for number in range(3)]
    began = time.monotonic()
    result = await perform(http_check, {"urls": urls, "pattern": "(a+)+$"}, policy=QUICK)
    assert time.monotonic() - began < 30
    assert "The pattern takes longer than 1 s on this page" in result.checks[0].reason
    assert all("was not tried" in entry.reason for entry in result.checks[1:])


async def test_a_page_is_decoded_by_the_charset_its_server_names(check):
    with HttpEndpoint() as server:
        for charset in ("iso-8859-1", "utf-8"):
            head = {"Content-Type": f"text/html; charset={charset}"}
            server.reply(Reply(200, "<title>Büro</title> größer".encode(charset), head))
            seen = await check(server.url, body="größer")
            assert seen.state == "ok" and seen.title == "Büro"


async def test_a_page_is_decoded_by_the_charset_it_names_itself_where_its_server_names_none(check):
    with HttpEndpoint() as server:
        page = '<meta charset="shift_jis"><title>カメラ</title> 大きい'.encode("shift_jis")
        server.reply(Reply(200, page, {"Content-Type": "text/html"}))
        seen = await check(server.url, body="大きい")
        assert seen.state == "ok" and seen.title == "カメラ"
        server.reply(Reply(200, "<title>Büro</title>".encode("latin-1"), {"Content-Type": "text/html"}))
        assert (await check(server.url)).title == "Büro"


@pytest.mark.parametrize("charset", ["idna", "undefined", "punycode", "unicode_escape", "raw_unicode_escape", "zlib"])
async def test_a_charset_that_no_page_is_written_in_neither_breaks_the_check_nor_delays_it(check, charset):
    body = b"<title>Shop</title>\\x-" + b"b" * 200_000
    with HttpEndpoint() as server:
        server.reply(Reply(200, body, {"Content-Type": f"text/html; charset={charset}"}))
        began = time.process_time()
        seen = await check(server.url, max_bytes=1 << 20)
    assert seen.state == "ok" and seen.title == "Shop" and seen.body_bytes == len(body)
    assert time.process_time() - began < 5  # decoding that much punycode takes 17 s


# --- redirects ----------------------------------------------------------------------------------------------------------------


async def test_redirects_are_followed_and_listed(check, web):
    seen = await check(f"http://localhost:{web.http}/here", body="Add to cart")
    base = f"http://localhost:{web.http}"
    assert seen.state == "ok" and seen.status == 200
    assert [(hop.status, hop.to) for hop in seen.redirects] == [
        (302, f"{base}/there"),
        (307, f"{base}/moved"),
        (301, f"{base}/"),
    ]
    secure = await check(f"http://localhost:{web.http}/secure")
    assert secure.http_version == "HTTP/2" and secure.verified and secure.state == "ok"


async def test_without_following_a_redirect_is_the_answer(check, web):
    seen = await check(f"http://localhost:{web.http}/moved", redirects=0)
    assert seen.state == "ok" and seen.status == 301 and seen.redirects == []
    seen = await check(f"http://localhost:{web.http}/here", redirects=2)
    assert seen.state == "failed" and seen.reason == "It redirects more than 2 times." and seen.status == 301


async def test_a_redirect_in_a_circle_is_told(check, web):
    seen = await check(f"http://localhost:{web.http}/circle", redirects=20)
    assert seen.state == "failed" and "in a circle" in seen.reason and len(seen.redirects) == 2


async def test_a_redirect_to_where_policy_allows_nothing_is_refused_and_nothing_is_sent_there(perform):
    with HttpEndpoint() as inside, HttpEndpoint(host="127.0.0.2") as forbidden:
        policy = ProbePolicy(allow=["127.0.0.1/32"], host_packets_per_second=0)
        inside.reply(Reply(302, headers={"Location": f"{forbidden.url}admin?token=abc"}))
        result = await perform(http_check, {"urls": [inside.url]}, policy=policy)
        (seen,) = result.checks
        assert (
            seen.state == "refused" and "127.0.0.2 is not allowed" in seen.reason and "nothing was sent" in seen.reason
        )
        assert seen.status == 302 and "abc" not in seen.model_dump_json() and result.reached()
        assert forbidden.requests == []
        for target in (
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:9100/",
            "http://[::ffff:127.0.0.2]/",
        ):
            inside.reply(Reply(302, headers={"Location": target}))
            (seen,) = (await perform(http_check, {"urls": [inside.url]}, policy=policy)).checks
            assert seen.state == "refused", seen


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("ftp://127.0.0.1/x", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://user:hunter2@127.0.0.1/", "must hold no user name or password"),
        ("http://no-such-host.invalid/", "does not resolve"),
        ("http://[", "neither a name nor an address"),
        ("http://a b/", "neither a name nor an address"),
    ],
)
async def test_a_redirect_to_nowhere_is_told_and_not_followed(check, location, said):
    import re

    with HttpEndpoint() as server:
        server.reply(Reply(302, headers={"Location": location}))
        seen = await check(server.url)
    assert seen.state == "failed" and re.search(said, seen.reason) and "hunter2" not in seen.model_dump_json()


async def test_headers_stay_with_the_server_they_were_meant_for(check):
    with HttpEndpoint() as first, HttpEndpoint(host="127.0.0.2") as second:
        first.reply(Reply(302, headers={"Location": "/again"}), Reply(302, headers={"Location": second.url}))
        seen = await check(first.url, headers={"X-Probe": "hello"})
        assert seen.state == "ok"
        assert [request.headers.get("x-probe") for request in first.requests] == ["hello", "hello"]
        assert "x-probe" not in second.requests[0].headers


async def test_a_redirect_from_https_to_http_is_followed_and_noted(check, web):
    seen = await check(f"https://localhost:{web.https}/plain")
    assert seen.state == "ok" and seen.http_version == "HTTP/1.1" and seen.verified is None
    assert any("redirects from https to http" in note for note in seen.notes)


async def test_a_name_that_resolves_elsewhere_the_second_time_changes_nothing_but_is_noted(perform, monkeypatch):
    asked = []

    def rebinding(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1" if len(asked) == 1 else "127.0.0.2", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    policy = ProbePolicy(allow=["127.0.0.0/8"], host_packets_per_second=0)
    with HttpEndpoint() as first:
        first.reply(Reply(302, headers={"Location": f"http://rebind.example:{first.port}/two"}), Reply(200, b"fine"))
        result = await perform(http_check, {"urls": [f"http://rebind.example:{first.port}/one"]}, policy=policy)
    (seen,) = result.checks
    assert seen.state == "ok" and seen.address == "127.0.0.1" and len(first.requests) == 2
    assert first.requests[0].headers["host"] == f"rebind.example:{first.port}"
    assert any("resolves to 127.0.0.2 now" in note for note in seen.notes)


# --- certificates ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"days": -3}, "it has expired"),
        ({"begun": -5}, "it is not valid yet"),
        ({"by": "self"}, "it is self-signed"),
        ({"names": ("other.example",)}, "it is not for this name"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_told_and_can_be_put_up_with(check, pki, tmp_path, options, said):
    options = dict(options)
    identity = pki.server(*options.pop("names", ()), **options)
    with nginx(tmp_path, identity) as server:
        seen = await check(f"https://localhost:{server.https}/")
        assert seen.state == "untrusted" and said in seen.reason and seen.status is None
        seen = await check(f"https://localhost:{server.https}/", verify=False)
        assert seen.state == "ok" and seen.status == 200 and seen.verified is False
        assert any(said in note and "asked nevertheless" in note for note in seen.notes)
        assert seen.certificate_days == (-4 if options.get("days") else 89)
        seen = await check(f"https://localhost:{server.https}/", verify=False, certificate_days=14)
        assert seen.reason == ("The certificate has expired." if options.get("days") else None)


async def test_an_unknown_authority_is_told(perform, web):
    (seen,) = (await perform(http_check, {"urls": [f"https://localhost:{web.https}/"]}, policy=QUICK)).checks
    assert seen.state == "untrusted" and "its issuer is not known here" in seen.reason


async def test_old_tls_is_refused_and_can_be_put_up_with(check, pki, tmp_path):
    with openssl_server(tmp_path, pki.server(key="rsa-2048"), "-tls1_1", "-cipher", "ALL:@SECLEVEL=0") as server:
        seen = await check(f"https://127.0.0.1:{server.port}/")
        assert seen.state == "failed" and "protocol version" in seen.reason
        seen = await check(f"https://127.0.0.1:{server.port}/", verify=False)
        assert seen.state == "ok" and seen.tls_version == "TLSv1.1" and seen.verified is False


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
async def test_a_server_that_wants_a_client_certificate_says_so(check, pki, tmp_path, flag):
    with openssl_server(tmp_path, pki.server(), flag, "-Verify", "1", "-verify_return_error") as server:
        seen = await check(f"https://127.0.0.1:{server.port}/")
    assert seen.state in {"failed", "unreachable"}
    assert "handshake failure" in seen.reason or "client certificate" in seen.reason


# --- what goes wrong -----------------------------------------------------------------------------------------------------------------


def answering(*pieces: bytes, pause: float = 0.0, forever: bool = False, reset: bool = False):
    def handle(connection: socket.socket) -> None:
        connection.settimeout(10)
        connection.recv(65536)
        while True:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if not forever:
                break
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return handle


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("handle", "state", "said"),
    [
        (answering(), "unreachable", "closes the connection before it answers"),
        (answering(reset=True), "unreachable", "breaks off the connection"),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n"), "failed", "answers, but not with HTTP"),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n", pause=3), "failed", "answers, but not with HTTP"),
        (answering(bytes(range(256))), "failed", "answers, but not with HTTP"),
        (answering(OK + b"Server: x\r\n"), "failed", "breaks off in the middle of its headers"),
        (answering(OK + b"X: " + b"y" * 200_000), "failed", "answers, but not with HTTP"),
        (answering(OK + b"Content-Length: 100\r\n\r\nshort"), "failed", "breaks its answer off after 5 bytes"),
        (
            answering(OK + b"Content-Length: 100\r\n\r\nshort", reset=True),
            "failed",
            "breaks its answer off after 5 bytes",
        ),
        (answering(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "failed", "breaks its answer off after 0 bytes"),
        (answering(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"), "failed", "but it is not"),
        (lambda connection: time.sleep(6), "unreachable", "does not answer in time"),
        (answering(OK, pause=6), "unreachable", "does not answer in time"),
        (
            answering(OK + b"Content-Length: 100\r\n\r\n", *[b"."] * 60, pause=0.1),
            "failed",
            "does not finish its answer in time",
        ),
        (answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"), "ok", None),
        (answering(b"HTTP/1.0 200 OK\r\n\r\nold"), "ok", None),
        (answering(b"HTTP/1.1 204 No Content\r\n\r\n"), "ok", None),
    ],
)
async def test_every_way_not_to_answer_is_told_apart(check, handle, state, said):
    began = time.monotonic()
    with tcp_server(handle) as server:
        seen = await check(f"http://127.0.0.1:{server.port}/", timeout=1)
    assert seen.state == state and (said is None or said in seen.reason), seen
    assert time.monotonic() - began < 5


async def test_nothing_listening_is_unreachable(perform):
    result = await perform(http_check, {"urls": [f"http://127.0.0.1:{closed_port()}/"]}, policy=QUICK)
    assert result.checks[0].state == "unreachable" and "nothing listens" in result.checks[0].reason
    assert not result.reached()


async def test_tls_and_plain_text_taken_for_one_another_are_told(check, web):
    seen = await check(f"https://127.0.0.1:{web.http}/")
    assert seen.state == "failed" and "not with TLS" in seen.reason
    seen = await check(f"http://127.0.0.1:{web.https}/")
    assert seen.state == "failed" and seen.status == 400


async def test_a_huge_page_is_read_up_to_the_cap_and_cut_off(check):
    endless = answering(OK + b"Content-Type: text/html\r\n\r\n" + b"x" * 65536, forever=True)
    with tcp_server(endless) as server:
        began = time.monotonic()
        seen = await check(f"http://127.0.0.1:{server.port}/", max_bytes=100_000)
        none = await check(f"http://127.0.0.1:{server.port}/", max_bytes=0)
    assert seen.state == "ok" and seen.body_bytes == 100_000 and seen.truncated
    assert none.state == "ok" and none.body_bytes == 0 and none.truncated
    assert time.monotonic() - began < 8


async def test_a_compressed_bomb_unpacks_to_the_cap_and_no_further(check):
    bomb = gzip.compress(bytes(50 << 20))
    head = f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    with tcp_server(answering(OK + head + bomb)) as server:
        tracemalloc.start()
        try:
            seen = await check(f"http://127.0.0.1:{server.port}/")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 8 << 20
    assert seen.state == "ok" and seen.body_bytes == 64 << 10 and seen.truncated


async def test_the_next_address_of_a_name_is_tried_when_the_first_refuses(check, web, monkeypatch):
    both = [(10, 1, 6, "", ("::1", 0)), (2, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    seen = await check(f"http://localhost:{web.http}/")
    assert seen.state == "ok" and seen.address == "127.0.0.1"


async def test_nothing_comes_from_the_environment(check, web, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    assert (await check(f"https://localhost:{web.https}/")).state == "ok"


async def test_a_deadline_keeps_what_was_found(perform, web, monkeypatch):
    monkeypatch.setattr(HttpCheck, "deadline", lambda self: module.REPORTING_SECONDS + 1.5)
    with tcp_server(lambda connection: time.sleep(5)) as silent:
        urls = [f"http://127.0.0.1:{web.http}/", f"http://127.0.0.2:{silent.port}/", f"http://127.0.0.1:{silent.port}/"]
        result = await perform(http_check, {"urls": urls, "timeout": 20}, policy=QUICK)
    assert [entry.state for entry in result.checks] == ["ok", "unreachable", "not_tried"]
    assert "deadline" in result.checks[2].reason


# --- what may be asked --------------------------------------------------------------------------------------------------------------------


async def test_what_policy_forbids_is_not_asked(perform):
    with pytest.raises(Refused, match=r"192\.0\.2\.1 is not allowed"):
        await perform(http_check, {"urls": ["http://192.0.2.1/"]})
    with pytest.raises(Refused, match="9100 must never be touched"):
        await perform(http_check, {"urls": ["http://127.0.0.1:9100/"]})
    with pytest.raises(NotFound):
        await perform(http_check, {"urls": ["http://no-such-host.invalid/"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"urls": []}, "urls"),
        ({"urls": ["example.com"]}, "must begin with http"),
        ({"urls": ["ftp://example.com/"]}, "must begin with http"),
        ({"urls": ["http:///path"]}, "names no host"),
        ({"urls": ["http://exa mple.com/"]}, "without spaces"),
        ({"urls": ["http://example.com\\@evil.example/"]}, "backslashes"),
        ({"urls": ["http://10.0.0.0/24"]}, None),
        ({"urls": ["http://2130706433/"]}, "neither a name nor an address"),
        ({"urls": ["http://a/"] * 2 + [f"http://a/{n}" for n in range(256)]}, "256"),
        ({"urls": ["http://a/"], "headers": {"Authorization": "Bearer x"}}, "is for credentials"),
        ({"urls": ["http://a/"], "headers": {"cookie": "a=b"}}, "is for credentials"),
        ({"urls": ["http://a/"], "headers": {"X-Api-Key": "b"}}, "is for credentials"),
        ({"urls": ["http://a/"], "headers": {"Host": "b"}}, "made by the connection"),
        ({"urls": ["http://a/"], "headers": {"X-A": "b\r\nX-C: d"}}, "printable ASCII"),
        ({"urls": ["http://a/"], "headers": {"X A": "b"}}, "not the name of a header"),
        ({"urls": ["http://a/"], "status": "600"}, "not an HTTP status"),
        ({"urls": ["http://a/"], "status": "300-200"}, "not an HTTP status"),
        ({"urls": ["http://a/"], "pattern": "("}, "not a regular expression"),
        ({"urls": ["http://a/"], "method": "HEAD", "body": "x"}, "with HEAD there is no page"),
        ({"urls": ["http://a/"], "method": "DELETE"}, "method"),
    ],
)
def test_a_wrong_parameter_is_named(given, said):
    from tasks.core.tool import validate

    if said is None:
        assert validate(http_check.spec, given).scope().targets == ("10.0.0.0",)
        return
    with pytest.raises(InvalidParameters, match=said):
        validate(http_check.spec, given)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    from tasks.core.tool import validate

    with pytest.raises(InvalidParameters, match="no user name or password") as caught:
        validate(http_check.spec, {"urls": ["https://joe:hunter2@example.com/"]})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidParameters) as caught:
        validate(http_check.spec, {"urls": ["https://example.com/"], "headers": {"Authorization": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_the_gate_is_asked_for_every_host_and_port():
    params = HttpCheck(
        urls=["http://A.example./x", "https://a.example/", "http://[2001:db8::1]:8080/", "https://bücher.example/"]
    )
    scope = params.scope()
    assert scope.targets == ("a.example", "2001:db8::1", "xn--bcher-kva.example") and scope.ports == (80, 443, 8080)
    assert "token" not in HttpCheck(urls=["https://a.example/?token=1"]).about()


async def test_many_urls_keep_an_outcome_each_and_put_the_whole_into_the_store(perform, web, tmp_path):
    urls = [f"http://127.0.0.{host}:{web.http}/here?{'x' * 60}{page}" for host in range(1, 33) for page in range(8)]
    store = CaptureStore(folder=tmp_path / "store")
    result = await perform(http_check, {"urls": urls}, policy=QUICK, store=store)
    assert len(result.checks) == 256 and sum(entry.state == "ok" for entry in result.checks) == 8
    assert result.report is not None and "redirects" in result.left_out
    whole = HttpCheckResult.model_validate_json((store.folder / result.report.name).read_text())
    assert len(whole.checks) == 256 and json_size(result.model_dump(mode="json")) < json_size(
        whole.model_dump(mode="json")
    )


# --- a network --------------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_what_we_send_stays_within_the_budget(perform):
    async with Lab() as lab:
        big = await lab.add("big", 10, f"{DELL}:00:00:10", services=[http(title="Camera")])
        await lab.answer_prefix(big, lab.prefix(24))
        hosts = [str(address) for address in list(ipaddress.ip_network(lab.prefix(24)).hosts())[:40]]
        policy = ProbePolicy(allow=[lab.prefix(24)], packets_per_second=60, host_packets_per_second=0)
        async with lab.counting("tcp") as sent:
            result = await perform(http_check, {"urls": [f"http://{host}/" for host in hosts]}, policy=policy)
    assert all(entry.state == "ok" and entry.title == "Camera" for entry in result.checks)
    assert sent.total > 180 and sent.worst(seconds=2) <= 2 * 60 + 20


async def test_what_arrives_is_paid_for_too(monkeypatch):
    paid: list[int] = []

    async def pay(self: Pace, packets: int) -> None:
        paid.append(packets)

    monkeypatch.setattr(Pace, "pay", pay)
    with tcp_server(answering(b"x" * 300_000)) as server:
        connection = await connect(
            ["127.0.0.1"], server.port, pace=Paces(Pacer(10), 0).of("127.0.0.1"), patience=Patience(10), deposit=3
        )
        await connection.send(b"y" * 5000)
        while await connection.receive():
            pass
        await connection.aclose()
    assert sum(paid) >= 4 + 3 + (300_000 + 5000) / 1448 - 3 - 16


@pytest.mark.lab
@needs_lab
async def test_a_host_that_is_not_there_is_unreachable_and_the_others_are_not_held_up(perform):
    async with Lab() as lab:
        await lab.add("web", 10, f"{DELL}:00:00:10", services=[http(title="Intranet")])
        await lab.add("wall", 11, f"{DELL}:00:00:11")
        await lab.firewall("wall")
        urls = [f"http://{lab.first.address(number)}/" for number in (10, 11, 99)]
        policy = ProbePolicy(allow=["10.0.0.0/8"], host_packets_per_second=0)
        result = await perform(http_check, {"urls": urls, "timeout": 4}, policy=policy)
    web, wall, absent = result.checks
    assert web.state == "ok" and web.title == "Intranet"
    assert wall.state == "unreachable" and "does not take the connection in time" in wall.reason
    assert absent.state == "unreachable" and result.reached()
