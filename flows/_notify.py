"""Sending one message through any of the message blocks: who is told is a list of block names, what is told is one `Message`.

Each kind of block has its tool; the message is put into that tool's parameters here, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.artifacts import acreate_markdown_artifact

from blocks.mail import MailServer
from blocks.slack import SlackWebhook
from blocks.teams import TeamsWebhook
from blocks.webhook import WebhookEndpoint
from flows._flow_run import quietly
from flows._text import escape
from tasks.core.db import outbox
from tasks.core.db.engine import database
from tasks.core.errors import InvalidParameters, ToolError
from tasks.core.log import run_logger
from tasks.core.registry import find_tool
from tasks.core.run import wiring
from tasks.core.tool import validate

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

SLACK_TEXT = 3000
"""Longest text of one Slack section block."""


@dataclass(frozen=True)
class Message:
    """What people are told, once per channel.

    Attributes:
        title: One line.
        text: The whole, as plain text.
        html: The whole, as HTML, for mail.
        facts: Short names and values, for cards.
        url: Where to read on.
        data: The same for machines, for webhooks; JSON.
        key: What makes it the same message when it is sent again.
    """

    title: str
    text: str
    html: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Delivery:
    """What became of a message at one channel."""

    block: str
    sent: bool
    error: str = ""


def _mail(name: str, message: Message) -> dict[str, Any]:
    return {
        "server": name,
        # A mailbox holds more than ours: who speaks comes first.
        "subject": f"signalbox: {message.title}",
        "text": message.text,
        "html": message.html or None,
        "idempotency_key": _key(name, message),
    }


def _slack(name: str, message: Message) -> dict[str, Any]:
    def escaped(value: str) -> str:  # Slack's mrkdwn knows these three (docs.slack.dev, "Escaping text")
        return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    body = escaped(message.text.partition("\n")[2].strip())
    body = body if len(body) <= SLACK_TEXT - 20 else body[: SLACK_TEXT - 20] + "\n..."
    sections: list[dict[str, Any]] = [{"type": "header", "text": {"type": "plain_text", "text": message.title[:150]}}]
    if body:
        sections.append({"type": "section", "text": {"type": "mrkdwn", "text": body}})
    if message.url:
        sections.append({"type": "section", "text": {"type": "mrkdwn", "text": f"<{message.url}|The whole report>"}})
    return {"endpoint": name, "text": escaped(message.title), "blocks": sections}


def _teams(name: str, message: Message) -> dict[str, Any]:
    params: dict[str, Any] = {
        "endpoint": name,
        "title": message.title,
        "text": message.text.partition("\n")[2].strip() or message.title,
    }
    if message.facts:
        params["facts"] = dict(message.facts)
    if message.url:
        params["actions"] = [{"title": "The whole report", "url": message.url}]
    return params


def _webhook(name: str, message: Message) -> dict[str, Any]:
    body = {"title": message.title, "text": message.text, "url": message.url, **message.data}
    return {"endpoint": name, "method": "POST", "json_body": body, "idempotency_key": _key(name, message)}


def _key(name: str, message: Message) -> str | None:
    return f"{message.key}-{name.replace('/', '-')}" if message.key else None


_KINDS: dict[str, tuple[type[Any], str, Callable[[str, Message], dict[str, Any]]]] = {
    "mail": (MailServer, "sendmail", _mail),
    "slack": (SlackWebhook, "slack", _slack),
    "teams": (TeamsWebhook, "teams", _teams),
    "webhook": (WebhookEndpoint, "webhook", _webhook),
}


async def check_blocks(names: Sequence[str]) -> None:
    """Check that every name is a message block that exists, before anything else is done.

    Raises:
        InvalidParameters: Names all that are wrong.
    """
    wrong: list[str] = []
    for name in names:
        kind = _KINDS.get(name.partition("/")[0])
        if kind is None or "/" not in name:
            wrong.append(
                f"{name!r} is not a message block; right would be {', '.join(f'{short}/NAME' for short in _KINDS)}"
            )
            continue
        try:
            await wiring().block(name, kind[0])
        except InvalidParameters as error:
            wrong.append(str(error))
    if wrong:
        raise InvalidParameters(f"notify: {'; '.join(wrong)}", hint="Blocks: signalbox block list")


async def send(message: Message, names: Sequence[str]) -> list[Delivery]:
    """Send a message through every block, at the same time; a failure is told, never raised, for it undoes nothing."""

    async def one(name: str) -> Delivery:
        try:
            await check_blocks([name])
            _, tool, compose = _KINDS[name.partition("/")[0]]
            spec = find_tool(tool)
            await spec.task(validate(spec, compose(name, message)))
        except ToolError as error:
            return Delivery(name, sent=False, error=str(error))
        return Delivery(name, sent=True)

    return list(await asyncio.gather(*(one(name) for name in dict.fromkeys(names))))


async def send_with_outbox(message: Message | None, names: Sequence[str], *, site: str, run_id: str) -> list[Delivery]:
    """Send what earlier runs could not deliver, then this message; what fails is kept for the next run.

    A message is put into the outbox before it is sent and taken out when it was: a run that dies in between loses nothing.

    Args:
        message: The new message; None when there is nothing new to say.
        names: The channels of this run.
        site: The site.
        run_id: The run; its message is kept once for each channel.

    Returns:
        What became of the new message at each channel.
    """
    channels = list(dict.fromkeys(names))
    for number, channel, kept in await _store(partial(outbox.waiting, site=site, channels=channels)) or []:
        await _send_kept(number, channel, Message(**kept))
    if message is None:
        return []

    async def one(channel: str) -> Delivery:
        kept = await _store(partial(outbox.keep, site=site, channel=channel, run_id=run_id, message=asdict(message)))
        return await _send_kept(kept, channel, message)

    return list(await asyncio.gather(*(one(channel) for channel in channels)))


async def tell(message: Message | None, channels: Sequence[str], *, site: str, run_id: str) -> list[Delivery]:
    """Send a flow's message once through each block, and what earlier runs could not deliver; what fails shows on the run's page.

    Args:
        message: The new message; None when there is nothing new to say.
        channels: Blocks to tell; none: nothing is sent.
        site: The site.
        run_id: The run.

    Returns:
        What became of the new message at each block.
    """
    if not channels:
        return []
    deliveries = await send_with_outbox(message, channels, site=site, run_id=run_id)
    failed = [delivery for delivery in deliveries if not delivery.sent]
    for delivery in failed:
        run_logger().error("%s was not told: %s", delivery.block, delivery.error)
    if failed:
        lines = "\n".join(f"- **{escape(delivery.block)}**: {escape(delivery.error)}" for delivery in failed)
        text = f"## Not told\n\n{lines}\n\nThe message is kept and goes out with the next run."
        await quietly(
            acreate_markdown_artifact(key="not-told", markdown=text, description="Blocks that could not be told")
        )
    return deliveries


async def _send_kept(number: int | None, channel: str, message: Message) -> Delivery:
    [delivery] = await send(message, [channel])
    if number is not None and delivery.sent:
        await _store(partial(outbox.delivered, number=number))
    elif number is not None:
        await _store(partial(outbox.failed, number=number, error=delivery.error))
    return delivery


async def _store(work: Callable[[Connection], T]) -> T | None:
    """Use the outbox; a database that is away costs the keeping, not the sending."""
    try:
        return await database().run(work)
    except ToolError as error:
        run_logger().warning("The outbox cannot be used: %s", error)
        return None


async def server_call(name: str) -> tuple[str, dict[str, str], str] | None:
    """What the Prefect server itself must call to send a text through a block.

    Returns:
        The address, headers, and a JSON payload with one `%s` for the text as a JSON string; None for mail, which the server cannot send.
    """
    short = name.partition("/")[0]
    if short == "mail":
        return None
    block: Any = await wiring().block(name, _KINDS[short][0])
    url = block.url.get_secret_value()
    own = block.headers.get_secret_value() if hasattr(block, "headers") else {}
    headers = {"Content-Type": "application/json", **{key: str(value) for key, value in own.items()}}
    if short == "teams":
        card = (
            '{"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": '
            '{"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "wrap": true, "text": %s}]}}]}'
        )
        return url, headers, '{"text": %s}' if block.is_connector else card
    return url, headers, '{"text": %s}'
