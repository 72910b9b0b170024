"""The webhook tool against careful receivers."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab.authority import Authority
from lab.http_endpoints import HttpEndpoint, Reply, WebhookSink, closed_port

from blocks.policy import ProbePolicy
from blocks.webhook import WebhookEndpoint
from tasks.communication.webhook import Webhook, webhook
from tasks.core.errors import (
    Busy,
    InvalidParameters,
    Refused,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
)

OPEN = ProbePolicy(egress_allow=["127.0.0.0/8"])


@pytest.fixture
def sink() -> Iterator[WebhookSink]:
    with WebhookSink() as endpoint:
        yield endpoint


@pytest.fixture
def call(perform: Any) -> Any:
    async def run(block: WebhookEndpoint | None = None, policy: ProbePolicy | None = None, **params: Any) -> Any:
        blocks = {"webhook/tickets": block} if block is not None else {}
        if block is not None:
            params = {"endpoint": "webhook/tickets", **params}
        return await perform(webhook, params, policy=policy, blocks=blocks)

    return run


# --- requests --------------------------------------------------------------------------------------------------------


async def test_json_is_posted_and_the_answer_returned(call: Any, sink: WebhookSink) -> None:
    answer = await call(WebhookEndpoint(url=sink.url), json_body={"event": "camera-offline", "name": "cäm-07"})
    assert sink.requests[0].json == {"event": "camera-offline", "name": "cäm-07"}
    assert sink.requests[0].headers["content-type"] == "application/json"
    assert (answer.status, answer.answer, answer.content_type) == (201, '{"received": 1}', "application/json")
    assert answer.headline().startswith("POST webhook/tickets: HTTP 201 in ")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_each_method_is_sent_with_query_and_headers(call: Any, sink: WebhookSink, method: str) -> None:
    block = WebhookEndpoint(url=f"{sink.url}?token=s3cretToken", headers={"Authorization": "Bearer abcdef123"})
    await call(block, method=method, query={"a": "1 &2", "b": ["x", "y"]}, headers={"X-Site": "berlin"})
    (request,) = sink.requests
    assert request.method == method
    assert request.query == {"token": ["s3cretToken"], "a": ["1 &2"], "b": ["x", "y"]}
    assert request.headers["x-site"] == "berlin" and request.headers["authorization"] == "Bearer abcdef123"
    assert ("idempotency-key" in request.headers) == (method != "GET")


async def test_forms_and_raw_bodies_have_their_types(call: Any, sink: WebhookSink) -> None:
    block = WebhookEndpoint(url=sink.url)
    await call(block, form={"to": "noc", "n": ["1", "2"]})
    await call(block, method="PUT", body="<x/>", headers={"content-type": "application/xml"})
    await call(block, body="tëxt")
    form, xml, text = sink.requests
    assert (form.body, form.headers["content-type"]) == (b"to=noc&n=1&n=2", "application/x-www-form-urlencoded")
    assert (xml.body, xml.headers["content-type"]) == (b"<x/>", "application/xml")
    assert (text.body, text.headers["content-type"]) == ("tëxt".encode(), "text/plain; charset=utf-8")


async def test_a_signature_covers_time_and_body(call: Any) -> None:
    with WebhookSink(secret="signingSecret1") as sink:
        signed = await call(WebhookEndpoint(url=sink.url, signing_secret="signingSecret1"), json_body={"ä": 1})
        assert signed.signed
        with pytest.raises(Unauthorized, match="bad signature"):
            await call(WebhookEndpoint(url=sink.url, signing_secret="another"), json_body={})
        with pytest.raises(Unauthorized):
            await call(WebhookEndpoint(url=sink.url), json_body={})
    moment, digest = (part.partition("=")[2] for part in sink.requests[0].headers["x-signalbox-signature"].split(","))
    by_hand = hmac.new(b"signingSecret1", f"{moment}.".encode() + sink.requests[0].body, hashlib.sha256).hexdigest()
    assert digest == by_hand


async def test_the_signature_goes_into_the_header_the_receiver_reads(call: Any) -> None:
    with WebhookSink(secret="k1", header="x-hub") as sink:
        await call(WebhookEndpoint(url=sink.url, signing_secret="k1", signature_header="X-Hub"), body="hi")
    assert len(sink.accepted) == 1


async def test_what_the_block_says_is_not_for_a_parameter_to_change(call: Any, sink: WebhookSink) -> None:
    await call(WebhookEndpoint(url=sink.url, headers={"X-Site": "hq"}), headers={"x-site": "elsewhere"})
    assert sink.requests[0].headers["x-site"] == "hq"


async def test_an_idempotency_key_makes_a_second_delivery_no_second_message(call: Any, sink: WebhookSink) -> None:
    block = WebhookEndpoint(url=sink.url)
    for _ in range(2):
        await call(block, json_body={}, idempotency_key="ticket-7")
    assert list(sink.accepted) == ["ticket-7"] and len(sink.requests) == 2


async def test_a_lost_answer_is_retried_only_with_a_key_or_an_idempotent_method(call: Any, sink: WebhookSink) -> None:
    block = WebhookEndpoint(url=sink.url)
    for params, error in (({}, Unanswered), ({"idempotency_key": "k"}, Unreachable), ({"method": "PUT"}, Unreachable)):
        sink.reply(Reply(reset=True))
        with pytest.raises(error) as caught:
            await call(block, **params)
        assert caught.value.retryable == (error is Unreachable)


async def test_the_statuses_that_count_as_success_can_be_chosen(call: Any, sink: WebhookSink) -> None:
    block = WebhookEndpoint(url=sink.url)
    sink.reply(Reply(404, "gone"), Reply(200))
    assert (await call(block, method="GET", expect=[404, 204])).status == 404
    with pytest.raises(Rejected, match="HTTP 200"):
        await call(block, method="GET", expect=[204])


async def test_the_answer_is_cut_and_made_printable(call: Any, sink: WebhookSink) -> None:
    sink.reply(Reply(200, b"line1\r\nline2\x00\xff" + b"z" * 100_000))
    answer = await call(WebhookEndpoint(url=sink.url))
    assert answer.truncated and len(answer.answer) <= 2048 and answer.answer.startswith("line1 line2")
    assert answer.answer.isprintable()


async def test_a_pause_and_a_deadline_are_kept(call: Any, sink: WebhookSink) -> None:
    sink.reply(Reply(503, headers={"Retry-After": "9"}))
    with pytest.raises(Busy) as caught:
        await call(WebhookEndpoint(url=sink.url))
    assert caught.value.retry_after == 9


async def test_a_slow_endpoint_ends_at_the_timeout(call: Any, sink: WebhookSink) -> None:
    sink.reply(Reply(delay=20))
    with pytest.raises(Unanswered, match=r"within 0\.5 s"):
        await call(WebhookEndpoint(url=sink.url), timeout=0.5)


async def test_a_company_authority_in_the_block_is_trusted(call: Any, authority: Authority) -> None:
    with WebhookSink(tls=authority.server()) as sink:
        assert (await call(WebhookEndpoint(url=sink.url, ca=authority.pem))).status == 201


async def test_the_blocks_proxy_is_used(call: Any, sink: WebhookSink) -> None:
    with HttpEndpoint() as proxy:
        await call(WebhookEndpoint(url=sink.url, proxy=proxy.origin), body="x")
    assert proxy.requests[0].target == sink.url and sink.requests == []


# --- where a url may lead --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "169.254.169.254", "10.0.0.1"],
)
async def test_a_url_does_not_lead_to_private_addresses(call: Any, sink: WebhookSink, host: str) -> None:
    with pytest.raises(Refused, match="egress"):
        await call(url=f"http://{host}:{sink.port}/hooks/x?token=s3cretToken", json_body={})
    assert sink.requests == []


async def test_a_url_policy_allows_is_called_at_the_pinned_address(call: Any, sink: WebhookSink) -> None:
    answer = await call(url=f"http://localhost:{sink.port}/hooks/x?token=abc", policy=OPEN, json_body={})
    assert answer.status == 201 and answer.endpoint == f"http://localhost:{sink.port}/hooks/x"
    assert sink.requests[0].headers["host"] == f"localhost:{sink.port}" and sink.requests[0].query == {"token": ["abc"]}


async def test_redirects_are_off_by_default_and_checked_when_on(call: Any, sink: WebhookSink) -> None:
    url = f"http://127.0.0.1:{sink.port}/"
    with HttpEndpoint(host="127.0.0.2") as private:
        to_private = Reply(307, headers={"Location": private.url})
        only_first = ProbePolicy(egress_allow=["127.0.0.1/32"])
        sink.reply(to_private, to_private, Reply(307, headers={"Location": "/hooks/second"}))
        with pytest.raises(Rejected, match="redirects to"):
            await call(url=url, policy=only_first, body="x")
        with pytest.raises(Refused, match=r"127\.0\.0\.2"):
            await call(url=url, policy=only_first, body="x", follow_redirects=3)
        assert (await call(url=url, policy=only_first, body="x", follow_redirects=3)).status == 201
        assert private.requests == []
    assert [r.path for r in sink.requests] == ["/", "/", "/", "/hooks/second"]


async def test_a_redirect_of_a_block_takes_no_credentials_to_another_origin(call: Any, sink: WebhookSink) -> None:
    with HttpEndpoint() as other:
        sink.reply(Reply(307, headers={"Location": other.url}))
        block = WebhookEndpoint(url=sink.url, headers={"Authorization": "Bearer abcdef123"}, signing_secret="k")
        await call(block, policy=OPEN, body="x", follow_redirects=1)
    assert "authorization" not in other.requests[0].headers and "x-signalbox-signature" not in other.requests[0].headers


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "X-Auth-Token",
        "Api-Key",
        "X-Secret",
        "X-Hub-Signature",
    ],
)
async def test_a_credential_among_the_headers_is_refused_and_not_repeated(
    call: Any, sink: WebhookSink, name: str
) -> None:
    with pytest.raises(InvalidParameters) as caught:
        await call(url=sink.url, headers={name: "Bearer s3cretHeader"}, policy=OPEN)
    assert "s3cretHeader" not in str(caught.value) and name in str(caught.value)
    if name != "Proxy-Authorization":
        assert "Webhook Endpoint block" in str(caught.value)
    assert sink.requests == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "either endpoint or url"),
        ({"endpoint": "webhook/a", "url": "https://example.com"}, "either endpoint or url"),
        ({"endpoint": "slack/a"}, "slack/a"),
        ({"url": "https://example.com", "json_body": 1, "body": "x"}, "only one of json_body, body"),
        ({"url": "https://example.com", "method": "GET", "form": {}}, "a GET has no body"),
        ({"url": "https://example.com", "method": "TRACE"}, "method"),
        ({"url": "https://example.com", "headers": {"X Y": "1"}}, "no header name"),
        ({"url": "https://example.com", "headers": {"X": "a\r\nY: b"}}, "one line"),
        ({"url": "https://example.com", "headers": {"X": "a", "x": "b"}}, "given twice"),
        ({"url": "https://example.com", "headers": {"Host": "b"}}, "by signalbox itself"),
        ({"url": "https://example.com", "headers": {"Idempotency-Key": "b"}}, "idempotency_key"),
        ({"url": "https://user:pass@example.com/"}, "user name or password"),
        ({"url": "ftp://example.com/"}, "http"),
        ({"url": "https://example.com", "body": "x" * (1 << 20) + "x"}, "longer than"),
        ({"url": "https://example.com", "expect": [100]}, "expect"),
        ({"url": "https://example.com", "timeout": 31}, "timeout"),
    ],
)
async def test_a_wrong_parameter_is_named(call: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await call(**params)


async def test_a_mistake_of_the_whole_repeats_no_header(call: Any) -> None:
    with pytest.raises(InvalidParameters, match="either endpoint or url") as caught:
        await call(headers={"X-Trace": "s3cretHeader"})
    assert "s3cretHeader" not in str(caught.value)


def test_the_ledger_sees_no_query() -> None:
    assert Webhook(url="https://example.com/a?token=s3cret").about() == "POST https://example.com/a"


# --- secrets ---------------------------------------------------------------------------------------------------------


async def test_secrets_an_endpoint_echoes_are_masked_in_the_result(call: Any, sink: WebhookSink) -> None:
    block = WebhookEndpoint(
        url=f"{sink.url}?key=querySecret9",
        headers={"Authorization": "Bearer headerSecret9"},
        signing_secret="signSecret9",
    )
    echo = {"path": "/hooks/secretPathSegment42?key=querySecret9", "token": "headerSecret9", "sign": "signSecret9"}
    sink.reply(Reply(200, json.dumps(echo)), Reply(400, json.dumps(echo)))
    answer = await call(block)
    with pytest.raises(ToolError) as caught:
        await call(block)
    for told in (answer.model_dump_json(), repr(answer), str(caught.value)):
        for secret in ("secretPathSegment42", "querySecret9", "headerSecret9", "signSecret9"):
            assert secret not in told
        assert "***" in told


async def test_nobody_there(call: Any) -> None:
    with pytest.raises(Unreachable, match="nothing listens"):
        await call(url=f"http://127.0.0.1:{closed_port()}/", policy=OPEN)
