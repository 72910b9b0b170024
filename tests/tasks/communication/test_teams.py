"""The teams tool against a strict workflow and a strict legacy connector."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.http_endpoints import Reply, TeamsConnector, TeamsWorkflow

from blocks.teams import TeamsWebhook
from tasks.communication.teams import MAX_BYTES, Teams, compose, teams
from tasks.core.errors import Busy, InvalidParameters, NotFound, Rejected, ToolError, Unanswered, Unauthorized

ALERT = {
    "title": "Camera offline",
    "text": "**cam-07** does not answer.",
    "facts": {"Camera": "cam-07", "Last seen": "14:05 UTC"},
    "colour": "attention",
    "actions": [{"title": "Open the run", "url": "https://signalbox.example.com/runs/7"}],
}


@pytest.fixture
def say(perform: Any) -> Any:
    async def run(endpoint: Any, **params: Any) -> Any:
        kind = "connector" if isinstance(endpoint, TeamsConnector) else "auto"
        block = TeamsWebhook(url=endpoint.url, kind=kind)
        return await perform(teams, {"endpoint": "teams/noc", **params}, blocks={"teams/noc": block})

    return run


async def test_a_workflow_gets_an_adaptive_card(say: Any, workflow: TeamsWorkflow) -> None:
    sent = await say(workflow, **ALERT)
    (message,) = workflow.accepted
    card = message["attachments"][0]["content"]
    title, text, facts = card["body"]
    assert (title["style"], title["items"][0]["text"]) == ("attention", "Camera offline")
    assert text["text"] == "**cam-07** does not answer."
    assert facts["facts"] == [{"title": "Camera", "value": "cam-07"}, {"title": "Last seen", "value": "14:05 UTC"}]
    assert card["actions"] == [
        {"type": "Action.OpenUrl", "title": "Open the run", "url": "https://signalbox.example.com/runs/7"}
    ]
    assert (sent.kind, sent.shortened, sent.size_bytes) == ("adaptive_card", False, len(workflow.requests[0].body))


async def test_a_legacy_connector_gets_a_message_card(say: Any, connector: TeamsConnector) -> None:
    sent = await say(connector, **ALERT)
    (card,) = connector.accepted
    assert (card["title"], card["themeColor"]) == ("Camera offline", "C4314B")
    assert card["sections"][0]["facts"][0] == {"name": "Camera", "value": "cam-07"}
    assert card["potentialAction"][0]["targets"] == [{"os": "default", "uri": "https://signalbox.example.com/runs/7"}]
    assert sent.kind == "message_card"


def test_the_host_tells_a_connector_from_a_workflow() -> None:
    assert TeamsWebhook(url="https://example.webhook.office.com/webhookb2/x").is_connector
    assert not TeamsWebhook(url="https://prod-1.westeurope.logic.azure.com/workflows/x").is_connector
    assert not TeamsWebhook(url="https://webhook.office.com.example.com/x").is_connector


@pytest.mark.parametrize("kind", ["workflow", "connector"])
async def test_a_long_text_is_shortened_with_a_link_to_the_whole(
    say: Any, kind: str, workflow: TeamsWorkflow, connector: TeamsConnector
) -> None:
    endpoint = workflow if kind == "workflow" else connector
    sent = await say(
        endpoint, **{**ALERT, "text": "h\u00f6st is new\n" * 5000, "link": "https://signalbox.example.com/7"}
    )
    assert sent.shortened and sent.size_bytes <= MAX_BYTES
    assert sent.size_bytes > MAX_BYTES - 500, "more was cut than had to be"
    told = json.dumps(endpoint.accepted[0])
    assert "shortened by" in told and "(https://signalbox.example.com/7)" in told
    assert "cam-07" in told and "Open the run" in told


def test_facts_give_way_after_the_text() -> None:
    facts = {f"host {n}": "x" * 1000 for n in range(60)}
    body, shortened = compose(Teams(title="t", text="y" * 10_000, facts=facts), connector=False)
    assert shortened and len(body) <= MAX_BYTES
    shown = json.loads(body)["attachments"][0]["content"]["body"][-1]["facts"]
    assert shown[0]["title"] == "host 0" and shown[-1]["value"].endswith("more")
    assert int(shown[-1]["value"].split()[0]) + len(shown) - 1 == 60


def test_what_cannot_be_shortened_enough_is_rejected() -> None:
    with pytest.raises(Rejected, match="first fact"):
        compose(Teams(title="t", facts={"a": "x" * 40_000}), connector=False)


@given(
    text=st.text(min_size=1, max_size=40_000),
    facts=st.dictionaries(st.text(max_size=30), st.text(max_size=600), max_size=60),
    connector=st.booleans(),
)
def test_whatever_is_said_fits(text: str, facts: dict[str, str], connector: bool) -> None:
    body, shortened = compose(Teams(title="t", text=text * 3, facts=facts), connector=connector)
    assert len(body) <= MAX_BYTES
    json.loads(body)
    if not shortened:
        assert json.dumps(text * 3, ensure_ascii=False).encode() in body


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "needs a title, text or facts"),
        ({"title": "t", "actions": [{"title": "a", "url": "javascript:alert(1)"}]}, "actions.0.url"),
        ({"title": "t", "actions": [{"title": "a", "url": "https://e/"}] * 5}, "actions"),
        ({"title": "t", "colour": "pink"}, "colour"),
    ],
)
async def test_a_wrong_parameter_is_named(say: Any, workflow: TeamsWorkflow, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await say(workflow, **params)
    assert workflow.requests == []


def refusal(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": "details"}})


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(401, refusal("DirectApiAuthorizationRequired")), Unauthorized, "lacks its signature"),
        (Reply(400, refusal("TriggerInputSchemaMismatch")), Rejected, "expects another message"),
        (Reply(404, refusal("WorkflowNotFound")), NotFound, "deleted"),
        (Reply(400, refusal("SomethingNew")), Rejected, r"details \(SomethingNew\)"),
        (Reply(500, "oops"), Rejected, "oops"),
        (Reply(504, ""), Unanswered, "gateway"),
        (Reply(hang_up=True), Unanswered, "may have arrived"),
    ],
)
async def test_a_workflows_errors_are_explained(
    say: Any, workflow: TeamsWorkflow, reply: Reply, error: type[ToolError], said: str
) -> None:
    workflow.reply(reply)
    with pytest.raises(error, match=said) as caught:
        await say(workflow, title="t")
    assert not caught.value.retryable


async def test_a_pause_is_passed_on(say: Any, workflow: TeamsWorkflow) -> None:
    workflow.reply(Reply(429, "", {"Retry-After": "7"}))
    with pytest.raises(Busy) as caught:
        await say(workflow, title="t")
    assert caught.value.retry_after == 7


async def test_a_failure_a_connector_hides_in_its_answer_200_is_seen(say: Any, connector: TeamsConnector) -> None:
    connector.overloaded = 1
    with pytest.raises(Busy, match="fewer messages"):
        await say(connector, title="t")


async def test_a_connectors_other_hidden_failure_is_rejected(say: Any, connector: TeamsConnector) -> None:
    connector.reply(
        Reply(200, "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 404")
    )
    with pytest.raises(Rejected, match="HTTP 404 inside"):
        await say(connector, title="t")
