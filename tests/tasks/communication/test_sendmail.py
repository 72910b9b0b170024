"""The sendmail tool against a real mail server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab.authority import Authority
from lab.mail_server import HANG_UP, SILENCE, MailServerLab, ScriptedMailServer

from blocks.captures import CaptureStore
from blocks.mail import MailServer
from tasks.communication import sendmail as module
from tasks.communication._addresses import bare_address, parse_address
from tasks.communication.sendmail import MAX_ATTACHMENT_BYTES, Sendmail, compose, sendmail
from tasks.core.errors import (
    Busy,
    Conflict,
    InvalidParameters,
    NotFound,
    Rejected,
    ToolError,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)

MAIL = {"server": "mail/noc", "to": ["ops@example.com"], "subject": "Backup done", "text": "core-sw1 in 12 s"}


@pytest.fixture
def post(perform: Any) -> Any:
    async def run(block: MailServer, store: CaptureStore | None = None, **params: Any) -> Any:
        return await perform(sendmail, {**MAIL, **params}, blocks={"mail/noc": block}, store=store)

    return run


# --- what arrives ----------------------------------------------------------------------------------------------------


async def test_a_mail_arrives_with_its_headers_and_text(post: Any) -> None:
    with MailServerLab() as mail:
        sent = await post(mail.block())
    (message,) = mail.messages
    assert message["From"] == "NOC <noc@example.com>" and message["To"] == "ops@example.com"
    assert message["Subject"] == "Backup done" and message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == sent.message_id and sent.message_id.endswith("@example.com>")
    assert message["Date"].datetime.tzinfo is not None
    assert message.get_content().strip() == "core-sw1 in 12 s"
    assert (sent.delivered, sent.refused, sent.security) == (["ops@example.com"], [], "none")
    assert sent.size_bytes == len(mail.envelopes[0].content)
    assert sent.headline() == f"127.0.0.1:{mail.port} took the mail for 1 recipient"


async def test_copies_go_to_everybody_and_blind_ones_stand_nowhere(post: Any) -> None:
    with MailServerLab() as mail:
        sent = await post(
            mail.block(),
            to=["ops@example.com", "Night Shift <night@example.com>"],
            cc=["Boss <boss@example.com>", "ops@example.com"],
            bcc=["audit@example.com"],
            reply_to="desk@example.com",
        )
    (envelope,), (message,) = mail.envelopes, mail.messages
    everybody = ["ops@example.com", "night@example.com", "boss@example.com", "audit@example.com"]
    assert envelope.rcpt_tos == everybody == sent.delivered
    assert b"audit@example.com" not in envelope.content
    assert message["To"] == "ops@example.com, Night Shift <night@example.com>"
    assert message["Cc"] == "Boss <boss@example.com>, ops@example.com"
    assert message["Reply-To"] == "desk@example.com"


async def test_text_and_html_are_alternatives_in_any_language(post: Any) -> None:
    with MailServerLab() as mail:
        await post(mail.block(), subject="Gerät gefunden – 東京", text="Grüße\n.\n..from", html="<p>Grüße</p>")
        await post(mail.block(), text=None, html="<p>only</p>")
    both, html = mail.messages
    assert both["Subject"] == "Gerät gefunden – 東京"
    assert both.get_body(["plain"]).get_content().replace("\r\n", "\n") == "Grüße\n.\n..from\n"
    assert both.get_body(["html"]).get_content().replace("\r\n", "\n") == "<p>Grüße</p>\n"
    assert both.get_content_type() == "multipart/alternative"
    assert html.get_content_type() == "text/html"
    assert all(byte < 128 for byte in mail.envelopes[0].content)


async def test_files_of_the_store_are_attached(post: Any, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    refs = []
    for name, data in (("nmap/sweep.xml", b"<nmaprun/>"), ("shot.pcap", bytes(range(256)) * 50)):
        stored = store.write(name, data)
        refs.append({"site": "default", "name": name, "size_bytes": stored.size_bytes, "sha256": stored.sha256})
    with MailServerLab() as mail:
        sent = await post(mail.block(), store, attachments=refs)
    parts = list(mail.messages[0].iter_attachments())
    assert [part.get_filename() for part in parts] == ["sweep.xml", "shot.pcap"]
    assert parts[1].get_content() == bytes(range(256)) * 50
    assert sent.attachments == 2


async def test_nobody_named_means_the_default_recipients(post: Any) -> None:
    with MailServerLab() as mail:
        await post(mail.block(default_to=["Desk <desk@example.com>"]), to=[])
        with pytest.raises(InvalidParameters, match="nobody gets this mail"):
            await post(mail.block(default_to=[]), to=[])
    assert mail.envelopes[0].rcpt_tos == ["desk@example.com"]


async def test_one_key_gives_one_message_id_and_other_recipients_another(post: Any) -> None:
    with MailServerLab() as mail:
        first = await post(mail.block(), idempotency_key="run-7")
        again = await post(mail.block(), idempotency_key="run-7")
        other = await post(mail.block(), idempotency_key="run-7", to=["boss@example.com"])
        fresh = await post(mail.block())
    assert first.message_id == again.message_id
    assert len({first.message_id, other.message_id, fresh.message_id}) == 3


# --- security --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_mail_goes_encrypted_and_logged_in(post: Any, authority: Authority, mode: Any) -> None:
    with MailServerLab(tls=authority.server(), mode=mode, users={"noc": "passw0rd!"}) as mail:
        sent = await post(mail.block(ca=authority.pem, username="noc", password="passw0rd!"))
        assert (mail.encrypted, mail.logins, sent.security) == ([True], ["noc"], mode)
        with pytest.raises(Unauthorized, match="refuses user or password") as caught:
            await post(mail.block(ca=authority.pem, username="noc", password="wr0ngSecret"))
        assert not caught.value.retryable and "wr0ngSecret" not in str(caught.value)
        with pytest.raises(Unauthorized, match="wants a login"):
            await post(mail.block(ca=authority.pem))


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_a_certificate_that_does_not_hold_gets_neither_mail_nor_password(
    post: Any, authority: Authority, mode: Any
) -> None:
    with MailServerLab(tls=authority.server("other.example"), mode=mode, users={"noc": "x"}) as mail:
        with pytest.raises(Untrusted, match="authority this machine does not know"):
            await post(mail.block(username="noc", password="x"))
        with pytest.raises(Untrusted, match=r"not for 127\.0\.0\.1"):
            await post(mail.block(ca=authority.pem, username="noc", password="x"))
    with (
        MailServerLab(tls=authority.server(expired=True), mode=mode) as mail,
        pytest.raises(Untrusted, match="expired"),
    ):
        await post(mail.block(ca=authority.pem))
    assert mail.messages == mail.logins == []


async def test_a_server_that_stopped_offering_starttls_gets_neither_mail_nor_password(post: Any) -> None:
    with ScriptedMailServer({}) as mail, pytest.raises(Unsupported, match="no STARTTLS"):
        await post(mail.block(mode="starttls", username="noc", password="s3cret"))
    assert not any(line.upper().startswith(("AUTH", "MAIL")) for line in mail.heard)


async def test_the_authority_may_be_a_file(post: Any, authority: Authority, tmp_path: Path) -> None:
    pem = authority.write_pem(tmp_path / "ca.pem")
    with MailServerLab(tls=authority.server(), mode="tls") as mail:
        assert (await post(mail.block(ca=str(pem)))).security == "tls"
        with pytest.raises(InvalidParameters, match=r"mail/noc.*gone\.pem"):
            await post(mail.block(ca=str(tmp_path / "gone.pem")))


def test_a_block_does_not_send_passwords_in_clear_unless_told_to() -> None:
    lab = ScriptedMailServer({})
    with lab:
        with pytest.raises(ValueError, match="in clear"):
            lab.block(username="noc", password="s3cret")
        assert lab.block(username="noc", password="s3cret", allow_plain_login=True).security == "none"


HEADER_INJECTIONS = ["\r\nBcc: evil@example.com", "\nX: y", "\r", "\x00", "\u2028Bcc: evil@example.com", "\x85", "\x0b"]


@pytest.mark.parametrize("injection", HEADER_INJECTIONS)
@pytest.mark.parametrize("field", ["subject", "to", "cc", "bcc", "reply_to"])
async def test_no_header_can_be_smuggled_in(post: Any, field: str, injection: str) -> None:
    text = f"a@example.com{injection}" if field != "subject" else f"hello{injection}"
    for value in (text, f"x{injection} <a@example.com>"):
        with pytest.raises(InvalidParameters, match=field):
            await post(MailServerLab().block(), **{field: [value] if field in {"to", "cc", "bcc"} else value})


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(subject=st.text(max_size=80), name=st.text(max_size=40), text=st.text(min_size=1, max_size=300))
def test_whatever_is_accepted_adds_no_header_and_no_recipient(subject: str, name: str, text: str) -> None:
    try:
        params = Sendmail(server="mail/noc", to=[f"{name} <a@example.com>"], subject=subject, text=text, attachments=[])
    except ValueError:
        return
    data = compose(params, "noc@example.com", params.to, [], "key").as_bytes()
    head, _, _body = data.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))}
    assert names <= {
        b"from", b"to", b"subject", b"date", b"message-id", b"auto-submitted", b"mime-version", b"content-type",
        b"content-transfer-encoding",
    }  # fmt: skip
    assert b"\n" not in data.replace(b"\r\n", b"") and b"\r" not in data.replace(b"\r\n", b"")
    assert [bare_address(a) for a in params.to] == ["a@example.com"]


@pytest.mark.parametrize(
    "address",
    ["", "a", "@example.com", "a@", "a b@example.com", "a@b@c.d", "a@exa mple.com", "<a@example.com", "a@example.com>",
     "a@-x.com", "a@x..com", ".a@x.com", "a@example.com, b@example.com", "a" * 65 + "@x.com", 7, None],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: Any) -> None:
    with pytest.raises(ValueError, match="not a mail address"):
        parse_address(address)


def test_international_domains_are_written_in_ascii() -> None:
    assert parse_address("Büro <post@bücher.example>") == "Büro <post@xn--bcher-kva.example>"


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_recipients_that_are_refused_are_reported_and_the_others_get_the_mail(post: Any) -> None:
    refuse = {"gone@example.com": "550 5.1.1 no such user", "full@example.com": "452 mailbox full"}
    with MailServerLab(refuse=refuse) as mail:
        sent = await post(mail.block(), to=["gone@example.com", "ops@example.com", "full@example.com"])
    assert sent.delivered == mail.envelopes[0].rcpt_tos == ["ops@example.com"]
    assert [(r.address, r.code, r.temporary) for r in sent.refused] == [
        ("gone@example.com", 550, False), ("full@example.com", 452, True),
    ]  # fmt: skip
    assert "no such user" in sent.refused[0].reason
    assert "refused gone@example.com (550), full@example.com (452)" in sent.headline()


async def test_when_all_are_refused_the_tool_fails_and_retries_only_what_is_temporary(post: Any) -> None:
    refuse = {"ops@example.com": "550 no such user"}
    with (
        MailServerLab(refuse=refuse) as mail,
        pytest.raises(Rejected, match=r"ops@example\.com: no such user \(550\)"),
    ):
        await post(mail.block())
    with (
        MailServerLab(refuse={"ops@example.com": "450 greylisted, try later"}) as mail,
        pytest.raises(Busy, match="greylisted"),
    ):
        await post(mail.block())
    assert mail.messages == []


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ({"greeting": "421 too busy"}, Busy, "too busy"),
        ({"greeting": "554 no service for you"}, Rejected, "no service"),
        ({"greeting": "HTTP/1.1 400 Bad Request"}, Unsupported, "not with SMTP"),
        ({"greeting": SILENCE}, Unreachable, "does not answer.*TLS port"),
        ({"greeting": HANG_UP}, Unreachable, "closed the connection"),
        ({"MAIL": "550 5.7.1 sender not allowed"}, Rejected, r"does not take mail from noc@example\.com"),
        ({"MAIL": "530 5.7.0 authenticate first"}, Unauthorized, "wants a login"),
        ({"MAIL": "451 try later"}, Busy, "try later"),
        ({"RCPT": "421 shutting down"}, Busy, "shutting down"),
        ({"DATA": "554 no"}, Rejected, "does not take this mail"),
        ({"body": "554 5.6.0 looks like spam"}, Rejected, "looks like spam"),
        ({"body": "452 disk full"}, Busy, "disk full"),
        ({"body": SILENCE}, Unreachable, "does not answer"),
        ({"body": HANG_UP}, Unreachable, "closed the connection"),
        ({"QUIT": HANG_UP}, None, ""),
    ],
)
async def test_what_a_server_does_wrong_is_said(
    post: Any, monkeypatch: pytest.MonkeyPatch, script: dict[str, str], error: type[ToolError] | None, said: str
) -> None:
    monkeypatch.setattr(module, "STEP_TIMEOUT", 0.5)
    with ScriptedMailServer(script) as mail:
        if error is None:
            assert (await post(mail.block())).delivered == ["ops@example.com"]
            return
        with pytest.raises(error, match=said) as caught:
            await post(mail.block())
    assert type(caught.value) is error
    assert caught.value.retryable == (error in {Busy, Unreachable})


async def test_a_password_a_server_repeats_is_masked(post: Any) -> None:
    import base64

    sent = base64.b64encode(b"\0noc\0s3cretPass").decode()
    with (
        ScriptedMailServer({"AUTH": f"535 bad login noc s3cretPass {sent}"}) as mail,
        pytest.raises(Unauthorized) as caught,
    ):
        await post(mail.block(username="noc", password="s3cretPass", allow_plain_login=True))
    assert "s3cretPass" not in str(caught.value) and sent not in str(caught.value) and "***" in str(caught.value)


async def test_a_password_login_cannot_carry_is_told_without_it(post: Any) -> None:
    with ScriptedMailServer({}) as mail, pytest.raises(Unsupported, match="beyond ASCII") as caught:
        await post(mail.block(username="noc", password="s3cret€", allow_plain_login=True))
    assert "s3cret" not in repr(caught.value)


async def test_a_mail_larger_than_the_server_takes_is_refused_before_it_is_sent(post: Any) -> None:
    with MailServerLab(size_limit=5000) as mail, pytest.raises(Rejected, match="server takes 5,000"):
        await post(mail.block(), text="x" * 6000)
    assert mail.messages == []


async def test_nothing_listens(post: Any) -> None:
    from lab.http_endpoints import closed_port

    block = ScriptedMailServer({}).block()
    block.server.smtp_port = closed_port()
    with pytest.raises(Unreachable, match="nothing listens"):
        await post(block)
    block.server.smtp_server = "mail.invalid"
    with pytest.raises((NotFound, Unreachable), match=r"The name mail\.invalid"):
        await post(block)


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_mail_is_not_sent_and_its_thread_ends(post: Any) -> None:
    import threading

    with ScriptedMailServer({"MAIL": SILENCE}) as mail:
        task = asyncio.ensure_future(post(mail.block()))
        await asyncio.to_thread(mail.hear, "MAIL")
        before = threading.active_count()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = time.monotonic()
        await asyncio.get_running_loop().shutdown_default_executor()
        assert time.monotonic() - started < 8, "the thread was still waiting for the server"
        assert threading.active_count() <= before
    assert not any(line.upper().startswith(("RCPT", "DATA")) for line in mail.heard)


async def test_attachments_are_25_mb_at_most(post: Any, tmp_path: Path) -> None:
    ref = {"site": "default", "name": "big", "size_bytes": MAX_ATTACHMENT_BYTES + 1, "sha256": "0" * 64}
    with pytest.raises(InvalidParameters, match="26,214,401 bytes"):
        await post(ScriptedMailServer({}).block(), attachments=[ref])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"site": "berlin"}, InvalidParameters, "at site 'berlin'"),
        ({"name": "pruned.xml"}, NotFound, "not in the store"),
        ({"sha256": "0" * 64}, Conflict, "not what it was"),
        ({"size_bytes": 3}, Conflict, "not what it was"),
        ({"name": "a/../../secret"}, InvalidParameters, "attachments"),
    ],
)
async def test_an_attachment_must_be_the_very_file_that_was_referred_to(
    post: Any, tmp_path: Path, change: dict[str, Any], error: type[ToolError], said: str
) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    store.write("sweep.xml", b"<nmaprun/>")
    ref = {
        "site": "default",
        "name": "sweep.xml",
        "size_bytes": 10,
        "sha256": hashlib.sha256(b"<nmaprun/>").hexdigest(),
    }
    with pytest.raises(error, match=said):
        await post(ScriptedMailServer({}).block(), store, attachments=[{**ref, **change}])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"text": None}, "needs text or html"),
        ({"to": [f"a{n}@example.com" for n in range(101)]}, "at most 100 recipients"),
        ({"subject": ""}, "subject"),
        ({"to": ["not an address"]}, "to.0: 'not an address' is not a mail address"),
        ({"server": "slack/ops"}, "slack/ops"),
    ],
)
async def test_a_wrong_parameter_is_named(post: Any, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        await post(ScriptedMailServer({}).block(), **params)


async def test_a_block_with_a_malformed_sender_is_named(post: Any) -> None:
    with pytest.raises(InvalidParameters, match=r"Block mail/noc.*sender"):
        await post(ScriptedMailServer({}).block(sender="not an address"))
