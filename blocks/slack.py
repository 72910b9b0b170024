"""Where Slack messages go: an incoming webhook."""

from __future__ import annotations

from typing import ClassVar

from pydantic import HttpUrl

from blocks._endpoint import Endpoint


class SlackWebhook(Endpoint):
    """An incoming webhook of Slack, or of a server that speaks the same (Mattermost, Rocket.Chat).

    Example:
        ```python
        SlackWebhook(url="https://hooks.slack.com/services/T000/B000/...").save("ops")

        slack = await SlackWebhook.aload("ops")
        await slack.post({"text": "hello"})
        ```
    """

    _block_type_name: ClassVar[str] = "Slack Channel"
    _block_type_slug: ClassVar[str] = "slack"
    _description: ClassVar[str] = "Incoming webhook of a Slack channel; tools name it slack/NAME."
    _documentation_url: ClassVar[HttpUrl] = HttpUrl(
        "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"
    )
    short: ClassVar[str] = "slack"
