"""The slack tool against a strict endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from lab.http_endpoints import Reply, SlackEndpoint

from blocks.slack import SlackWebhook
from tasks.communication.slack import slack
from tasks.core.errors import (
    Busy,
    InvalidParameters,
    NotFound,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
)


@pytest.fixture
def say(perform: Any, slack_endpoint: SlackEndpoint) -> Any:
    async def run(url: str | None = None, **params: Any) -> Any:
        block = SlackWebhook(url=url or slack_endpoint.url)
        return await perform(slack, {"endpoint": "slack/ops", **params}, blocks={"slack/ops": block})

    return run


async def test_a_text_arrives_as_slack_wants_it(say: Any, slack_endpoint: SlackEndpoint) -> None:
    sent = await say(text="Backup of *core-sw1* done \u2705")
    assert slack_endpoint.accepted == [{"text": "Backup of *core-sw1* done \u2705"}]
    assert sent.headline().startswith("Slack took the message for slack/ops")


async def test_everything_a_webhook_takes_is_passed_on(say: Any, slack_endpoint: SlackEndpoint) -> None:
    everything = {
        "text": "t",
        "blocks": [{"type": "divider"}],
        "attachments": [{"color": "#ff0000", "text": "down"}],
        "thread_ts": "1700000000.123456",
        "channel": "#noc",
        "username": "signalbox",
        "icon_emoji": ":rotating_light:",
    }
    await say(**everything)
    assert slack_endpoint.accepted == [everything]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "needs text, blocks or attachments"),
        ({"text": "x" * 40_001}, "text: .*40000"),
        ({"text": ""}, "text:"),
        ({"blocks": [{"type": "divider"}] * 51}, "blocks: .*50"),
        ({"blocks": [{"text": "x"}]}, "block 1 has no type"),
        ({"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}]}, "3001 characters.*3000"),
        ({"text": "x", "thread_ts": "yesterday"}, "thread_ts"),
        ({"text": "x", "channel": "no channel"}, "channel"),
        ({"text": "x", "icon_emoji": ":a:", "icon_url": "https://e/x.png"}, "not both"),
        ({"text": "x", "colour": "red"}, "colour: no such parameter"),
        ({"text": "x", "endpoint": "mail/noc"}, "mail/noc"),
    ],
)
async def test_a_message_slack_would_not_take_is_refused_before_it_is_sent(
    say: Any, slack_endpoint: SlackEndpoint, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await say(**params)
    assert slack_endpoint.requests == []


async def test_40000_characters_and_50_blocks_are_taken(say: Any, slack_endpoint: SlackEndpoint) -> None:
    await say(text="x" * 40_000, blocks=[{"type": "divider"}] * 50)
    assert len(slack_endpoint.accepted) == 1


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(400, "invalid_payload"), Rejected, "cannot read the message"),
        (Reply(400, "invalid_blocks"), Rejected, "Block Kit Builder"),
        (Reply(403, "invalid_token"), Unauthorized, "revoked"),
        (Reply(403, "action_prohibited"), Unauthorized, "administrator"),
        (Reply(404, "no_service"), NotFound, "make a new one"),
        (Reply(404, "channel_not_found"), NotFound, "no such channel"),
        (Reply(410, "channel_is_archived"), NotFound, "archived"),
        (Reply(500, "rollup_error"), Rejected, "rollup_error"),
        (Reply(418, "brand_new_error"), Rejected, "brand_new_error"),
        (Reply(200, '{"ok": false, "error": "invalid_blocks"}'), Rejected, "malformed"),
        (Reply(reset=True), Unanswered, "may have arrived"),
        (Reply(302, headers={"Location": "https://login.example.com/"}), Rejected, "redirects"),
    ],
)
async def test_slacks_errors_are_explained_and_not_retried(
    say: Any, slack_endpoint: SlackEndpoint, reply: Reply, error: type[ToolError], said: str
) -> None:
    slack_endpoint.reply(reply)
    with pytest.raises(error, match=said) as caught:
        await say(text="hello")
    assert not caught.value.retryable
    assert len(slack_endpoint.requests) == 1


async def test_the_endpoint_itself_says_which_channel_and_which_webhook_is_wrong(
    say: Any, slack_endpoint: SlackEndpoint
) -> None:
    with pytest.raises(NotFound, match="channel_not_found"):
        await say(text="x", channel="#elsewhere")
    with pytest.raises(Unauthorized, match="invalid_token"):
        await say(text="x", url=f"{slack_endpoint.origin}/services/T/B/old")


async def test_a_pause_slack_asks_for_is_kept_by_all_senders(say: Any, slack_endpoint: SlackEndpoint) -> None:
    slack_endpoint.reply(Reply(429, "rate_limited", {"Retry-After": "60"}))
    for _ in range(2):
        with pytest.raises(Busy) as caught:
            await say(text="hello")
        assert caught.value.retryable and caught.value.retry_after is not None and 55 < caught.value.retry_after < 62
    assert len(slack_endpoint.requests) == 1


async def test_two_messages_at_once_go_a_second_apart(perform: Any) -> None:
    import asyncio

    with SlackEndpoint(per_second=1.05) as strict:
        block = SlackWebhook(url=strict.url)
        both = [perform(slack, {"endpoint": "slack/ops", "text": t}, blocks={"slack/ops": block}) for t in "ab"]
        await asyncio.gather(*both)
        assert len(strict.accepted) == 2


async def test_nobody_there_is_unreachable_and_retryable(say: Any) -> None:
    from lab.http_endpoints import closed_port

    with pytest.raises(Unreachable) as caught:
        await say(text="x", url=f"http://127.0.0.1:{closed_port()}/services/T/B/x")
    assert caught.value.retryable


def test_the_tool_answers_to_its_old_name() -> None:
    from tasks.core.registry import find_tool

    assert find_tool("slack-cli").name == "slack"
