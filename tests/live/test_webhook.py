"""A real receiver: SIGNALBOX_LIVE_WEBHOOK_URL is an address that takes POST with JSON and answers 200 to 299."""

from __future__ import annotations

from typing import Any

import pytest

from blocks.webhook import WebhookEndpoint
from tasks.communication.webhook import webhook

pytestmark = pytest.mark.live


async def test_the_receiver_takes_a_signed_message(perform: Any, live_url: str) -> None:
    block = WebhookEndpoint(url=live_url, signing_secret="live-test")
    params = {"endpoint": "webhook/live", "json_body": {"event": "signalbox live test"}}
    answer = await perform(webhook, params, blocks={"webhook/live": block})
    assert answer.signed and 200 <= answer.status < 300
