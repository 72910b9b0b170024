"""Secrets of blocks never come out: not in errors, their representations and tracebacks, not in logs, not in results.

Logs are looked at from level INFO on: there httpx's own client writes every URL. At DEBUG httpcore writes what the other side answers, byte
for byte; nobody but a developer with a debugger's intentions turns that on.
"""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from lab.http_endpoints import HttpEndpoint, Reply, closed_port
from lab.mail_server import HANG_UP, SILENCE, ScriptedMailServer
from prefect.blocks.core import Block

from blocks.slack import SlackWebhook
from blocks.teams import TeamsWebhook
from blocks.webhook import WebhookEndpoint
from tasks.communication import sendmail as sendmail_module
from tasks.communication.sendmail import sendmail
from tasks.communication.slack import slack
from tasks.communication.teams import teams
from tasks.communication.webhook import webhook
from tasks.core.errors import InvalidParameters, ToolError

PATH, QUERY, HEADER, SIGNING, PASSWORD = (
    "pathSecret11",
    "querySecret22",
    "headerSecret33",
    "signSecret44",
    "passSecret55",
)
ALL = (PATH, QUERY, HEADER, SIGNING, PASSWORD)
ECHO = f"you called /services/{PATH}?sig={QUERY}"

FAILURES = [
    *(Reply(status, ECHO) for status in (400, 401, 403, 404, 405, 409, 410, 413, 429, 500, 502, 503)),
    Reply(400, json.dumps({"error": {"code": "X", "message": ECHO}})),
    Reply(307, headers={"Location": f"/else/{PATH}?sig={QUERY}"}),
    Reply(429, ECHO, {"Retry-After": "1"}),
    Reply(reset=True),
    Reply(hang_up=True),
    Reply(raw=f"{ECHO}\r\n\r\n".encode()),
]

TOOLS: dict[str, tuple[Any, dict[str, Any], Callable[[str], Block]]] = {
    "slack": (slack, {"endpoint": "slack/x", "text": "t"}, lambda url: SlackWebhook(url=url)),
    "teams": (teams, {"endpoint": "teams/x", "title": "t"}, lambda url: TeamsWebhook(url=url)),
    "webhook": (
        webhook,
        {"endpoint": "webhook/x", "json_body": {}},
        lambda url: WebhookEndpoint(url=url, headers={"Authorization": f"Bearer {HEADER}"}, signing_secret=SIGNING),
    ),
}


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("reply", FAILURES, ids=lambda reply: str(reply.status) if not reply.raw else "raw")
async def test_no_failure_of_an_endpoint_brings_a_secret_out(
    perform: Any, caplog: pytest.LogCaptureFixture, name: str, reply: Reply
) -> None:
    tool, params, make = TOOLS[name]
    with HttpEndpoint() as endpoint, caplog.at_level(logging.INFO):
        endpoint.reply(reply)
        block = make(f"{endpoint.origin}/services/{PATH}?sig={QUERY}")
        with pytest.raises(ToolError) as caught:
            await perform(tool, params, blocks={params["endpoint"]: block})
    assert_nothing_out(caught.value, caplog.text, repr(block), str(block))


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("origin", ["http://127.0.0.1:{closed}", "https://127.0.0.1:{plain}", "http://host.invalid"])
async def test_no_failure_to_connect_brings_a_secret_out(
    perform: Any, caplog: pytest.LogCaptureFixture, name: str, origin: str
) -> None:
    tool, params, make = TOOLS[name]
    with HttpEndpoint() as plain, caplog.at_level(logging.INFO):
        url = origin.format(closed=closed_port(), plain=plain.port)
        block = make(f"{url}/services/{PATH}?sig={QUERY}")
        with pytest.raises(ToolError) as caught:
            await perform(tool, params, blocks={params["endpoint"]: block})
    assert_nothing_out(caught.value, caplog.text, repr(block))


async def test_no_echo_of_credentials_brings_them_out(perform: Any, caplog: pytest.LogCaptureFixture) -> None:
    tool, params, make = TOOLS["webhook"]
    with HttpEndpoint() as endpoint, caplog.at_level(logging.INFO):
        block = make(endpoint.url)
        for status in (200, 401, 500):
            endpoint.reply(Reply(status, f"Authorization: Bearer {HEADER}; {HEADER}, {SIGNING}"))
            told: list[str] = []
            try:
                told = [repr(await perform(tool, params, blocks={"webhook/x": block}))]
            except ToolError as error:
                told = [repr(error), str(error)]
            assert_nothing_out(None, caplog.text, *told)
            assert "***" in told[0]


@pytest.mark.parametrize("name", TOOLS)
async def test_no_result_brings_a_secret_out(perform: Any, caplog: pytest.LogCaptureFixture, name: str) -> None:
    tool, params, make = TOOLS[name]
    with HttpEndpoint() as endpoint, caplog.at_level(logging.INFO):
        endpoint.reply(Reply(200, ECHO))
        block = make(f"{endpoint.origin}/services/{PATH}?sig={QUERY}")
        result = await perform(tool, params, blocks={params["endpoint"]: block})
    assert_nothing_out(None, caplog.text, result.model_dump_json(), repr(result), result.headline())


@pytest.mark.parametrize("name", TOOLS)
async def test_the_blocks_own_post_brings_no_secret_out(caplog: pytest.LogCaptureFixture, name: str) -> None:
    from blocks._endpoint import NotDelivered

    _, _, make = TOOLS[name]
    with HttpEndpoint() as endpoint, caplog.at_level(logging.INFO):
        block: Any = make(f"{endpoint.origin}/services/{PATH}?sig={QUERY}")
        await block.post({"text": "x"})
        assert endpoint.requests[0].json == {"text": "x"}
        for reply in (Reply(400, ECHO), Reply(reset=True), Reply(delay=5)):
            endpoint.reply(reply)
            with pytest.raises(NotDelivered) as caught:
                await block.post({"text": "x"}, timeout=0.5)
            assert_nothing_out(caught.value, caplog.text)


MAIL_FAILURES = [
    {"greeting": f"554 {PASSWORD}"},
    {"AUTH": f"535 wrong {PASSWORD}"},
    {"AUTH": f"454 later {PASSWORD}"},
    {"MAIL": f"550 {PASSWORD}"},
    {"RCPT": f"550 {PASSWORD}"},
    {"RCPT": f"450 {PASSWORD}"},
    {"body": f"554 {PASSWORD}"},
    {"AUTH": HANG_UP},
    {"AUTH": SILENCE},
]


@pytest.mark.parametrize("script", MAIL_FAILURES, ids="-".join)
async def test_no_failure_of_a_mail_server_brings_the_password_out(
    perform: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, script: dict[str, str]
) -> None:
    monkeypatch.setattr(sendmail_module, "STEP_TIMEOUT", 0.5)
    params = {"server": "mail/x", "to": ["a@example.com"], "subject": "s", "text": "t"}
    with ScriptedMailServer(script) as mail, caplog.at_level(logging.INFO):
        block = mail.block(username="noc", password=PASSWORD, allow_plain_login=True)
        with pytest.raises(ToolError) as caught:
            await perform(sendmail, params, blocks={"mail/x": block})
    assert_nothing_out(caught.value, caplog.text, repr(block), str(block))


def assert_nothing_out(error: BaseException | None, *texts: str) -> None:
    told = list(texts)
    if error is not None:
        assert not isinstance(error, InvalidParameters), "nothing was sent: the test tests nothing"
        # Prefect pickles errors; a log handler formats the traceback.
        told += [
            str(error),
            repr(error),
            *traceback.format_exception(error),
            repr(pickle.dumps(error)),
            repr(vars(error)),
        ]
    for text in told:
        for secret in ALL:
            assert secret not in text
