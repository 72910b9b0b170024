"""Send a message to Microsoft Teams."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blocks.teams import TeamsWebhook
from tasks.communication._channel import Channel, trusted_by
from tasks.core.errors import Busy, Rejected
from tasks.core.http import Answer, send
from tasks.core.models import BlockName, Example, Safety, Service, SiteParams, ToolResult
from tasks.core.run import current_run
from tasks.core.tool import tool

MAX_BYTES = 28_000
"""Largest message. Microsoft says "28 KB" of both kinds of webhook; this is the smaller reading."""
_MESSAGES_PER_SECOND, _BURST = 1.0, 4  # connectors: 4 a second, 60 in 30 s; workflows are billed by the call

# Name -> style of an Adaptive Card's container, colour of a MessageCard.
_COLOURS = {
    "default": ("default", "5A6A7A"),
    "good": ("good", "2E8540"),
    "warning": ("warning", "E0A100"),
    "attention": ("attention", "C4314B"),
    "accent": ("accent", "3A6EA5"),
}

_MEANINGS = {
    "DirectApiAuthorizationRequired": "the address lacks its signature: copy it whole into the block",
    "InvalidSignature": "the signature in the address is wrong or was renewed: copy the workflow's address into the block again",
    "TriggerInputSchemaMismatch": "the workflow expects another message: use the template 'Post to a channel when a webhook "
    "request is received'",
    "WorkflowNotFound": "the workflow was deleted",
    "WorkflowTriggerIsNotEnabled": "the workflow is switched off: turn it on in Power Automate",
}


class Action(BaseModel):
    """A button that opens an address."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    title: str = Field(min_length=1, max_length=100, description="What the button says.")
    url: str = Field(pattern=r"^https?://[^\s]+$", max_length=2000, description="Address it opens.")


class Teams(SiteParams):
    """A message to a Teams channel."""

    endpoint: BlockName = Field("teams/default", description="Block of the channel's webhook.")
    title: str | None = Field(None, min_length=1, max_length=500, description="First line, in bold.")
    text: str | None = Field(None, min_length=1, description="The message in Markdown; shortened to fit 28 KB in all.")
    facts: dict[str, str] = Field(
        default_factory=dict, description="Names and values shown as a list, at most 100.", max_length=100
    )
    colour: Literal["default", "good", "warning", "attention", "accent"] = Field(
        "default", description="What the message is: good (green), warning (amber), attention (red) or accent (blue)."
    )
    actions: Annotated[list[Action], Field(max_length=4)] = Field(
        default_factory=list, description="Buttons that open addresses, at most 4."
    )
    link: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        max_length=2000,
        description="Where the whole text can be read; shown when the message had to be shortened.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.title and not self.text and not self.facts:
            raise ValueError("a message needs a title, text or facts")
        return self

    def about(self) -> str:
        return self.endpoint


class TeamsSent(ToolResult):
    """What was handed to Teams."""

    endpoint: str = Field(description="Block of the webhook.")
    kind: Literal["adaptive_card", "message_card"] = Field(description="Format that was sent.")
    size_bytes: int = Field(description="Size of the message in bytes.")
    shortened: bool = Field(description="Whether text or facts were left out to fit 28 KB.")
    duration: float = Field(description="Seconds until Teams had taken it.")

    def headline(self) -> str:
        shortened = ", shortened to fit" if self.shortened else ""
        return f"Teams took the message for {self.endpoint} in {self.duration:.1f} s{shortened}"


@tool(
    service=Service.COMMUNICATION,
    safety=Safety.CHANGE,
    timeout=45,
    retries=3,
    # Teams knows no idempotency key; but every error of this tool that may be retried means that nothing was delivered.
    idempotent=True,
    aliases=("teams_cli",),
    examples=[
        Example("Say something", {"endpoint": "teams/noc", "title": "Backup done", "text": "**core-sw1** in 12 s"}),
        Example(
            "An alert with facts and a button",
            {
                "endpoint": "teams/noc",
                "title": "Camera offline",
                "facts": {"Camera": "cam-07", "Last seen": "14:05 UTC"},
                "colour": "attention",
                "actions": [{"title": "Open the run", "url": "https://signalbox.example.com/runs/7"}],
            },
        ),
    ],
)
async def teams(params: Teams) -> TeamsSent:
    """Send a card to a Microsoft Teams channel through its webhook.

    Workflows webhooks get an Adaptive Card, legacy connectors a MessageCard. What does not fit 28 KB is shortened, facts last, with `link`
    to the whole. A message whose answer was lost is not sent again: Teams has no way to tell that it is the same.

    Raises:
        Rejected: Teams does not take the message; says what it found wrong.
        NotFound: The workflow does not exist any more.
        Unauthorized: The address lacks its signature, or it was renewed.
        Busy: Too many messages; says when to try again.
        Unreachable: No connection; nothing was sent.
        Unanswered: It was sent and no answer came.
    """
    block = await current_run().load_block(params.endpoint, TeamsWebhook)
    body, shortened = compose(params, connector=block.is_connector)
    async with Channel(params.endpoint, block.address, per_second=_MESSAGES_PER_SECOND, burst=_BURST):
        answer = await send(
            "POST",
            block.address,
            content=body,
            headers={"Content-Type": "application/json"},
            verify=trusted_by(block, params.endpoint),
            proxy=block.proxy_address,
            secret_url=True,
            explain=_explain,
        )
        if block.is_connector:
            _check_connector(answer, block.host)
    return TeamsSent(
        endpoint=params.endpoint,
        kind="message_card" if block.is_connector else "adaptive_card",
        size_bytes=len(body),
        shortened=shortened,
        duration=round(answer.duration, 3),
    )


# --- the message -----------------------------------------------------------------------------------------------------


def compose(params: Teams, *, connector: bool) -> tuple[bytes, bool]:
    """Write the message as it goes over the wire, shortened to `MAX_BYTES`; and whether it was.

    The text gives way first, then the last facts; title, buttons and the first fact always fit.
    """
    card = _message_card if connector else _adaptive_card
    text, facts = params.text or "", list(params.facts.items())

    def write(characters: int, count: int) -> bytes:
        kept = facts[:count]
        if count < len(facts):
            kept = [*kept, ("...", f"{len(facts) - count} more")]
        return json.dumps(card(params, _shorten(text, characters, params.link), kept), ensure_ascii=False).encode()

    whole = write(len(text), len(facts))
    if len(whole) <= MAX_BYTES:
        return whole, False
    count = len(facts)
    while count > 1 and len(write(0, count)) > MAX_BYTES:
        count -= 1
    characters = _largest(len(text), lambda n: len(write(n, count)) <= MAX_BYTES)
    body = write(characters, count)
    if len(body) > MAX_BYTES:
        raise Rejected(f"Title, buttons and first fact alone are {len(body)} bytes; Teams takes {MAX_BYTES}.")
    return body, True


def _largest(limit: int, fits: Any) -> int:
    """The largest n from 0 to `limit` that fits; 0 when none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _shorten(text: str, characters: int, link: str | None) -> str:
    if characters >= len(text):
        return text
    kept = text[:characters]
    # Not in the middle of a word or line, if one ends nearby.
    breaks = [kept.rfind("\n"), kept.rfind(" ")]
    kept = next((kept[:at] for at in breaks if at > characters - 200 and at > 0), kept)
    where = f": [the whole text]({link})" if link else ""
    return f"{kept}\n\n*... shortened by {len(text) - len(kept):,} characters{where}*".lstrip()


def _adaptive_card(params: Teams, text: str, facts: list[tuple[str, str]]) -> dict[str, Any]:
    body: list[dict[str, Any]] = []
    if params.title:
        title = {"type": "TextBlock", "text": params.title, "weight": "Bolder", "size": "Medium", "wrap": True}
        style = _COLOURS[params.colour][0]
        body.append({"type": "Container", "style": style, "bleed": True, "items": [title]})
    if text:
        body.append({"type": "TextBlock", "text": text, "wrap": True})
    if facts:
        body.append({"type": "FactSet", "facts": [{"title": name, "value": value} for name, value in facts]})
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": body,
    }
    if params.actions:
        card["actions"] = [{"type": "Action.OpenUrl", "title": a.title, "url": a.url} for a in params.actions]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _message_card(params: Teams, text: str, facts: list[tuple[str, str]]) -> dict[str, Any]:
    card: dict[str, Any] = {
        "@type": "MessageCard",
        "@context": "https://schema.org/extensions",
        "summary": params.title or text[:100] or "Message",
        "themeColor": _COLOURS[params.colour][1],
    }
    if params.title:
        card["title"] = params.title
    if text:
        card["text"] = text
    if facts:
        card["sections"] = [{"facts": [{"name": name, "value": value} for name, value in facts]}]
    if params.actions:
        card["potentialAction"] = [
            {"@type": "OpenUri", "name": a.title, "targets": [{"os": "default", "uri": a.url}]} for a in params.actions
        ]
    return card


# --- the answer ------------------------------------------------------------------------------------------------------


def _explain(answer: Answer) -> str | None:
    """Read Power Automate's error answer: {"error": {"code": ..., "message": ...}}."""
    try:
        error = json.loads(answer.body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return None
    return f"{_MEANINGS.get(code, message)} ({code})."


def _check_connector(answer: Answer, host: str) -> None:
    """Connectors answer 200 with `1` when they delivered, and 200 with a sentence when they did not."""
    said = answer.text.strip()
    if said in {"1", ""}:
        return
    inner = re.search(r"HTTP error (\d{3})", said)
    if inner and inner[1] == "429":
        raise Busy(f"{host}: Teams wants fewer messages (HTTP 429 inside the connector).", retry_after=30.0)
    raise Rejected(
        f"{host} did not deliver the message" + (f" (HTTP {inner[1]} inside the connector)." if inner else ".")
    )
