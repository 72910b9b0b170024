"""A real Slack workspace: SIGNALBOX_LIVE_SLACK_URL is an incoming webhook of a channel for tests."""

from __future__ import annotations

from typing import Any

import pytest

from blocks.slack import SlackWebhook
from tasks.communication.slack import slack
from tasks.core.errors import ToolError

pytestmark = pytest.mark.live


async def test_slack_takes_a_message_with_blocks(perform: Any, live_url: str) -> None:
    block = {
        "type": "section",
        "text": {"type": "mrkdwn", "text": "*signalbox* live test: <https://example.com|a link>"},
    }
    params = {"endpoint": "slack/live", "text": "signalbox live test", "blocks": [block]}
    sent = await perform(slack, params, blocks={"slack/live": SlackWebhook(url=live_url)})
    assert sent.duration < 10


async def test_slack_names_what_is_wrong_with_a_block(perform: Any, live_url: str) -> None:
    params = {"endpoint": "slack/live", "text": "t", "blocks": [{"type": "no-such-type"}]}
    with pytest.raises(ToolError) as caught:
        await perform(slack, params, blocks={"slack/live": SlackWebhook(url=live_url)})
    assert "invalid" in str(caught.value)
