"""Send a message to Slack."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from blocks.slack import SlackWebhook
from tasks.communication._channel import Channel, trusted_by
from tasks.core.errors import Rejected
from tasks.core.http import Answer, send
from tasks.core.models import BlockName, Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool

MAX_TEXT = 40_000
MAX_BLOCKS = 50
MAX_ATTACHMENTS = 100
_MAX_SECTION_TEXT, _MAX_HEADER_TEXT = 3000, 150
_MESSAGES_PER_SECOND = 1.0  # https://docs.slack.dev/apis/web-api/rate-limits: one a second for each incoming webhook

# https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
_MEANINGS = {
    "action_prohibited": "an administrator of the workspace forbids this webhook to post there",
    "channel_is_archived": "the channel is archived",
    "channel_not_found": "there is no such channel, or the webhook may not see it",
    "invalid_attachments": "the attachments are malformed",
    "invalid_blocks": "the blocks are malformed; try them in Slack's Block Kit Builder",
    "invalid_payload": "Slack cannot read the message: a field is malformed or has a wrong type",
    "invalid_thread_ts": "thread_ts names no message of the channel",
    "invalid_token": "the webhook was revoked or its address is not complete: make a new one and save it in the block",
    "msg_too_long": "the text is too long",
    "no_active_hooks": "the webhook is switched off",
    "no_service": "the webhook was removed or is switched off: make a new one and save it in the block",
    "no_service_id": "the address of the webhook is not complete: save it in the block again",
    "no_team": "the workspace of this webhook does not exist: save its address in the block again",
    "no_text": "the message has no text",
    "posting_to_general_channel_denied": "the workspace does not let webhooks post to its general channel",
    "rate_limited": "more messages than the channel takes",
    "team_disabled": "the workspace is switched off",
    "too_many_attachments": f"there are more than {MAX_ATTACHMENTS} attachments",
    "user_not_found": "there is no such user",
}


class Slack(SiteParams):
    """A message to a Slack channel."""

    endpoint: BlockName = Field("slack/default", description="Block of the channel's incoming webhook.")
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = Field(
        None,
        description="The message in Slack's mrkdwn, 1 to 40,000 characters. With blocks: what notifications show.",
    )
    blocks: Annotated[list[dict[str, Any]], Field(max_length=MAX_BLOCKS)] = Field(
        default_factory=list, description="Block Kit blocks, at most 50."
    )
    attachments: Annotated[list[dict[str, Any]], Field(max_length=MAX_ATTACHMENTS)] = Field(
        default_factory=list, description="Legacy attachments (coloured bars), at most 100."
    )
    thread_ts: str | None = Field(
        None,
        pattern=r"^\d{10}\.\d{6}$",
        description="Answer in the thread of this message: its timestamp, such as 1700000000.123456.",
    )
    channel: str | None = Field(
        None,
        pattern=r"^([#@][^\s#@,]{1,80}|[CDGU][A-Z0-9]{8,20})$",
        description="Other channel (#name, @user or an ID). Legacy webhooks only: those of Slack apps ignore it.",
    )
    username: str | None = Field(
        None, min_length=1, max_length=80, description="Other sender name. Legacy webhooks only."
    )
    icon_emoji: str | None = Field(
        None, pattern=r"^:[a-z0-9_+'-]+:$", description="Other icon, such as :rotating_light:. Legacy webhooks only."
    )
    icon_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        max_length=2000,
        description="Address of another icon. Legacy webhooks only.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.text and not self.blocks and not self.attachments:
            raise ValueError("a message needs text, blocks or attachments")
        if self.icon_emoji and self.icon_url:
            raise ValueError("give icon_emoji or icon_url, not both")
        for number, block in enumerate(self.blocks, 1):
            _check_block(number, block)
        return self

    def about(self) -> str:
        return f"{self.endpoint} {self.channel}" if self.channel else self.endpoint


class SlackSent(ToolResult):
    """What was handed to Slack."""

    endpoint: str = Field(description="Block of the webhook.")
    channel: str | None = Field(description="Other channel that was asked for.")
    characters: int = Field(description="Characters of text.")
    blocks: int = Field(description="Blocks in the message.")
    duration: float = Field(description="Seconds until Slack had taken it.")

    def headline(self) -> str:
        return f"Slack took the message for {self.channel or self.endpoint} in {self.duration:.1f} s"


@tool(
    service=Service.COMMUNICATION,
    safety=Safety.CHANGE,
    timeout=45,
    retries=3,
    # Slack knows no idempotency key; but every error of this tool that may be retried means that nothing was delivered.
    idempotent=True,
    aliases=("slack_cli",),
    examples=[
        Example("Say something", {"endpoint": "slack/ops", "text": "Backup of *core-sw1* done."}),
        Example(
            "A message with blocks",
            {
                "endpoint": "slack/ops",
                "text": "3 new hosts",
                "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "*3 new hosts* on 10.1.0.0/24"}}],
            },
        ),
        Example("Answer in a thread", {"endpoint": "slack/ops", "text": "Solved.", "thread_ts": "1700000000.123456"}),
    ],
)
async def slack(params: Slack) -> SlackSent:
    """Send a message to a Slack channel through its incoming webhook.

    One message a second goes to each webhook, whoever sends; when Slack asks for a pause (429 with Retry-After) all senders keep it.
    A message whose answer was lost is not sent again: Slack has no way to tell that it is the same.

    Raises:
        Rejected: Slack does not take the message; says what it found wrong.
        NotFound: The webhook or the channel does not exist any more.
        Unauthorized: The webhook was revoked or may not post there.
        Busy: Too many messages; says when to try again.
        Unreachable: No connection; nothing was sent.
        Unanswered: It was sent and no answer came.
    """
    block = await current_run().load_block(params.endpoint, SlackWebhook)
    payload = params.model_dump(exclude={"endpoint", "site"}, exclude_none=True, exclude_defaults=True, mode="json")
    async with Channel(params.endpoint, block.address, per_second=_MESSAGES_PER_SECOND):
        answer = await send(
            "POST",
            block.address,
            json=payload,
            verify=trusted_by(block, params.endpoint),
            proxy=block.proxy_address,
            secret_url=True,
            explain=_explain,
        )
    _check_accepted(answer, block.host)
    return SlackSent(
        endpoint=params.endpoint,
        channel=params.channel,
        characters=len(params.text or ""),
        blocks=len(params.blocks),
        duration=round(answer.duration, 3),
    )


def _check_block(number: int, block: dict[str, Any]) -> None:
    """Check what Slack would answer with a bare `invalid_blocks`."""
    kind = block.get("type")
    if not isinstance(kind, str):
        raise ValueError(f"block {number} has no type; right would be {{'type': 'section', ...}}")
    text = block.get("text")
    length = len(text["text"]) if isinstance(text, dict) and isinstance(text.get("text"), str) else 0
    limit = {"section": _MAX_SECTION_TEXT, "header": _MAX_HEADER_TEXT}.get(kind)
    if limit is not None and length > limit:
        raise ValueError(f"block {number} ({kind}) has {length} characters of text; Slack takes {limit}")


def _explain(answer: Answer) -> str | None:
    code = answer.text.strip()
    meaning = _MEANINGS.get(code)
    return f"{meaning} ({code})." if meaning else None


def _check_accepted(answer: Answer, host: str) -> None:
    """Servers that speak Slack's format (Rocket.Chat, Slack's own workflows) may say no in JSON with status 200."""
    try:
        said = json.loads(answer.body)
    except ValueError:
        return
    if isinstance(said, dict) and (said.get("ok") is False or said.get("success") is False):
        code = said.get("error")
        raise Rejected(f"{host} did not take the message: {_MEANINGS.get(str(code), 'it gives no reason')}.")
