"""A real Teams channel: SIGNALBOX_LIVE_TEAMS_URL is a Workflows webhook (or a legacy connector) of a channel for tests."""

from __future__ import annotations

from typing import Any

import pytest

from blocks.teams import TeamsWebhook
from tasks.communication.teams import teams

pytestmark = pytest.mark.live


@pytest.mark.parametrize("text", ["signalbox **live** test", "a long line\n" * 4000])
async def test_teams_takes_a_card(perform: Any, live_url: str, text: str) -> None:
    params = {
        "endpoint": "teams/live",
        "title": "signalbox live test",
        "text": text,
        "facts": {"Length": f"{len(text):,} characters"},
        "colour": "good",
        "actions": [{"title": "Open", "url": "https://example.com/"}],
        "link": "https://example.com/",
    }
    sent = await perform(teams, params, blocks={"teams/live": TeamsWebhook(url=live_url)})
    assert sent.shortened == (len(text) > 28_000)
