"""Messages that a channel did not take wait for the next run, and nothing is lost in between."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from flows import _notify
from flows._notify import Delivery, Message, send_with_outbox
from tasks.core.db.engine import Database, database


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Any:
    """Replaces the sending only: what is kept is kept in a real PostgreSQL."""
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", database_url)
    from tasks.core.settings import settings

    settings.cache_clear()
    database.cache_clear()
    log: list[tuple[str, str]] = []
    down: set[str] = set()

    async def send(message: Message, names: Any) -> list[Delivery]:
        [name] = names
        if name in down:
            return [Delivery(name, sent=False, error="it does not answer")]
        log.append((name, message.title))
        return [Delivery(name, sent=True)]

    monkeypatch.setattr(_notify, "send", send)
    yield log, down
    database().close()
    database.cache_clear()


async def rows(url: str) -> int:
    db = Database(url)
    try:
        return await db.run(lambda connection: connection.scalar(text("SELECT count(*) FROM outbox")) or 0)
    finally:
        db.close()


def message(title: str) -> Message:
    return Message(title=title, text=f"{title}\n\nmore", facts={"a": "b"}, data={"n": [1]})


async def test_a_message_that_fails_goes_out_with_the_next_run_before_the_new_one(sent: Any, database_url: str) -> None:
    log, down = sent
    down.add("mail/noc")
    told = await send_with_outbox(message("first"), ["mail/noc", "slack/ops"], site="default", run_id="1")
    assert {delivery.block: delivery.sent for delivery in told} == {"mail/noc": False, "slack/ops": True}
    assert log == [("slack/ops", "first")] and await rows(database_url) == 1
    down.clear()
    await send_with_outbox(message("second"), ["mail/noc"], site="default", run_id="2")
    assert log[1:] == [("mail/noc", "first"), ("mail/noc", "second")] and await rows(database_url) == 0


async def test_a_run_with_nothing_new_to_say_still_delivers_what_waits(sent: Any, database_url: str) -> None:
    log, down = sent
    down.add("mail/noc")
    await send_with_outbox(message("first"), ["mail/noc"], site="default", run_id="1")
    await send_with_outbox(message("second"), ["mail/noc"], site="default", run_id="2")
    assert await rows(database_url) == 2
    down.clear()
    assert await send_with_outbox(None, ["mail/noc"], site="default", run_id="3") == []
    assert log == [("mail/noc", "first"), ("mail/noc", "second")]


async def test_another_sites_messages_are_not_touched(sent: Any, database_url: str) -> None:
    log, down = sent
    down.add("mail/noc")
    await send_with_outbox(message("berlin"), ["mail/noc"], site="berlin", run_id="1")
    down.clear()
    await send_with_outbox(None, ["mail/noc"], site="default", run_id="2")
    assert log == [] and await rows(database_url) == 1


async def test_without_a_database_the_message_is_sent_all_the_same(sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = sent
    from tasks.core.settings import settings

    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    settings.cache_clear()
    database.cache_clear()
    told = await send_with_outbox(message("first"), ["slack/ops"], site="default", run_id="1")
    assert told == [Delivery("slack/ops", sent=True)] and log == [("slack/ops", "first")]
