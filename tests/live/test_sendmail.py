"""A real mail server: SIGNALBOX_LIVE_SMTP_URL, such as smtp://127.0.0.1:1025?to=ops@example.com&api=http://127.0.0.1:8025.

Scheme smtp (no encryption), smtp+starttls or smtps; user and password before the @; query: `to`, `from`, and `api`: the
address of MailHog's or Mailpit's HTTP API, where the test then looks for the mail.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import pytest
from prefect_email import EmailServerCredentials

from blocks.captures import CaptureStore
from blocks.mail import MailServer
from tasks.communication.sendmail import sendmail
from tasks.core.http import send

pytestmark = pytest.mark.live

_TYPES = {"smtp": "INSECURE", "smtp+starttls": "STARTTLS", "smtps": "SSL"}


async def test_the_server_takes_a_mail_with_everything(perform: Any, live_url: str, tmp_path: Any) -> None:
    parts = urlsplit(live_url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    block = MailServer(
        server=EmailServerCredentials(
            smtp_server=parts.hostname,
            smtp_port=parts.port,
            smtp_type=_TYPES[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password or ""),
        ),
        sender=query.get("from", "signalbox <signalbox@example.com>"),
        default_to=[query.get("to", "ops@example.com")],
        allow_plain_login=parts.hostname in {"127.0.0.1", "::1", "localhost"},
    )
    store = CaptureStore(folder=tmp_path / "store")
    stored = store.write("sweep.xml", b"<nmaprun/>")
    file = {"site": "default", "name": stored.name, "size_bytes": stored.size_bytes, "sha256": stored.sha256}
    subject = f"signalbox live test {uuid4().hex}"
    params = {
        "server": "mail/live",
        "subject": subject,
        "text": "Grüße",
        "html": "<p>Grüße</p>",
        "attachments": [file],
    }
    sent = await perform(sendmail, params, blocks={"mail/live": block}, store=store)
    assert sent.refused == []
    if "api" in query:
        assert await _arrived(query["api"], subject), "the server took the mail, its API does not show it"


async def _arrived(api: str, subject: str) -> bool:
    """Whether MailHog (v2) or Mailpit (v1) lists a mail with this subject."""
    for _ in range(20):
        for path in ("/api/v1/messages", "/api/v2/messages"):
            answer = await send("GET", f"{api.rstrip('/')}{path}", ok=range(200, 600), max_bytes=4 << 20)
            if answer.status == 200 and subject in answer.text:
                return True
        await asyncio.sleep(0.25)
    return False
