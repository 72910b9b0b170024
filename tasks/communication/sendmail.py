"""Send mail."""

from __future__ import annotations

import asyncio
import email.policy
import hashlib
import mimetypes
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from blocks.mail import MailServer
from tasks.communication._addresses import MailAddress, bare_address, header_address, parse_address
from tasks.communication._channel import Channel, trusted_by
from tasks.communication._smtp import all_refused, hand_over
from tasks.core.errors import Conflict, InvalidParameters, NotFound
from tasks.core.models import BlockName, Example, FileRef, Safety, Service, SiteParams, ToolResult
from tasks.core.run import ToolRun, current_run
from tasks.core.tool import tool
from tasks.core.words import count

MAX_ATTACHMENT_BYTES = 25 << 20
"""All attachments together, before encoding: what the large providers take."""
MAX_RECIPIENTS = 100  # RFC 5321 section 4.5.3.1.8: servers take at least 100 in one transaction
STEP_TIMEOUT = 10.0
"""Seconds for each answer of the server."""
_CONVERSATION, _SLOWEST_BYTES_PER_SECOND = 20.0, 500_000  # seconds of the whole conversation, and more for large mails
_MAILS_PER_SECOND, _BURST = 2.0, 10

# 7-bit transfer encodings throughout: a relay without 8BITMIME must not spoil the text.
_POLICY = email.policy.SMTP.clone(cte_type="7bit")


class Sendmail(SiteParams):
    """One mail."""

    server: BlockName = Field("mail/default", description="Block of the mail server.")
    to: list[MailAddress] = Field(default_factory=list, description="Recipients. Empty: the block's default_to.")
    cc: list[MailAddress] = Field(default_factory=list, description="Recipients of a copy, shown to all.")
    bcc: list[MailAddress] = Field(default_factory=list, description="Recipients of a copy, shown to nobody.")
    subject: str = Field(min_length=1, max_length=500, description="Subject, on one line.")
    text: str | None = Field(None, min_length=1, max_length=2_000_000, description="The message as plain text.")
    html: str | None = Field(
        None,
        min_length=1,
        max_length=2_000_000,
        description="The message as HTML; with text: both, the reader chooses.",
    )
    attachments: Annotated[list[FileRef], Field(max_length=20)] = Field(
        default_factory=list, description="Files of the site's CaptureStore, at most 20 and 25 MB in all."
    )
    reply_to: MailAddress | None = Field(None, description="Where answers go, if not to the sender.")
    idempotency_key: str | None = Field(
        None,
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="The Message-ID is made from it: a mail sent twice has the same, and servers that look drop the second. "
        "Default: the run's id.",
    )

    @field_validator("subject")
    @classmethod
    def _one_line(cls, subject: str) -> str:
        # Line and paragraph separators are printable to nobody and a line end to some readers.
        if not subject.isprintable():
            raise ValueError("must be one line without control characters")
        return subject

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.text is None and self.html is None:
            raise ValueError("a mail needs text or html")
        if len(self.to) + len(self.cc) + len(self.bcc) > MAX_RECIPIENTS:
            raise ValueError(f"a mail goes to at most {MAX_RECIPIENTS} recipients")
        return self

    def about(self) -> str:
        recipients = ", ".join(bare_address(address) for address in (*self.to, *self.cc, *self.bcc))
        return f"{self.server}: {recipients or 'default recipients'}"[:500]


class Refusal(BaseModel):
    """A recipient the server did not take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(description="The recipient.")
    code: int = Field(description="Status of the server's answer (RFC 5321).")
    reason: str = Field(description="What the server said.")
    temporary: bool = Field(description="Whether the server may take it later.")


class MailSent(ToolResult):
    """What the server took over."""

    server: str = Field(description="Host and port of the mail server.")
    security: str = Field(description="How the connection was protected: none, starttls or tls.")
    message_id: str = Field(description="Message-ID of the mail.")
    delivered: list[str] = Field(description="Recipients the server took.")
    refused: list[Refusal] = Field(description="Recipients the server did not take.")
    attachments: int = Field(description="Files attached.")
    size_bytes: int = Field(description="Size of the whole mail in bytes.")

    def headline(self) -> str:
        people = count(len(self.delivered), "recipient")
        if not self.refused:
            return f"{self.server} took the mail for {people}"
        refused = ", ".join(f"{refusal.address} ({refusal.code})" for refusal in self.refused)
        return f"{self.server} took the mail for {people} and refused {refused}"


@tool(
    service=Service.COMMUNICATION,
    safety=Safety.CHANGE,
    timeout=130,
    retries=3,
    # The Message-ID stays the same over retries: receivers that see it twice can drop the second.
    idempotent=True,
    examples=[
        Example(
            "Write to the default recipients",
            {"server": "mail/noc", "subject": "Backup done", "text": "core-sw1 in 12 s"},
        ),
        Example(
            "Text and HTML to several people",
            {
                "server": "mail/noc",
                "to": ["ops@example.com", "Night shift <night@example.com>"],
                "cc": ["boss@example.com"],
                "subject": "3 new hosts",
                "text": "10.1.0.7, 10.1.0.9, 10.1.0.12",
                "html": "<ul><li>10.1.0.7<li>10.1.0.9<li>10.1.0.12</ul>",
            },
        ),
    ],
)
async def sendmail(params: Sendmail) -> MailSent:
    """Send a mail through an SMTP server.

    Text, HTML or both, with files of the site's CaptureStore attached. Recipients the server refuses are in the result;
    the others get the mail. When it refuses all of them the tool fails. A server that must encrypt (STARTTLS, TLS) and
    does not gets neither mail nor password.

    Raises:
        InvalidParameters: No recipient, an attachment of another site, or more than 25 MB.
        NotFound: An attachment is not in the store any more; the server's name does not resolve.
        Unauthorized: The server refuses user or password.
        Untrusted: The server's certificate does not hold.
        Unsupported: The server has no STARTTLS or no login.
        Rejected: The server refuses sender, message, or every recipient for good.
        Busy: The server refuses for now.
        Unreachable: No connection, or it was lost.
    """
    run = current_run()
    block = await run.load_block(params.server, MailServer)
    sender, default_to = _from_block(block, params.server)
    to = params.to or ([] if params.cc or params.bcc else default_to)
    recipients = list(dict.fromkeys(bare_address(address) for address in (*to, *params.cc, *params.bcc)))
    if not recipients:
        raise InvalidParameters(
            "to: nobody gets this mail.", hint=f"Give recipients, or set default_to in block {params.server}."
        )
    trusted_by(block, params.server)  # a CA file that is not there is the block's mistake, and not the server's
    files = await _load_attachments(params.attachments, run)
    message = compose(params, sender, to, files, params.idempotency_key or run.id)
    data = message.as_bytes()
    async with Channel(params.server, f"{block.host}:{block.port}", per_second=_MAILS_PER_SECOND, burst=_BURST):
        refused = await hand_over(
            block,
            bare_address(sender),
            recipients,
            data,
            step=STEP_TIMEOUT,
            total=_CONVERSATION + len(data) / _SLOWEST_BYTES_PER_SECOND,
        )
    if len(refused) == len(recipients):
        raise all_refused(refused, block)
    lost = {refusal.address for refusal in refused}
    return MailSent(
        server=f"{block.host}:{block.port}",
        security=block.security,
        message_id=str(message["Message-ID"]),
        delivered=[address for address in recipients if address not in lost],
        refused=[Refusal(address=r.address, code=r.code, reason=r.reason, temporary=r.temporary) for r in refused],
        attachments=len(files),
        size_bytes=len(data),
    )


def _from_block(block: MailServer, name: str) -> tuple[str, list[str]]:
    """Sender and default recipients, checked: a block knows nothing of our address format."""
    try:
        return parse_address(block.sender), [parse_address(address) for address in block.default_to]
    except ValueError as error:
        raise InvalidParameters(f"Block {name}: {error}.", hint="Correct its fields sender and default_to.") from None


def compose(params: Sendmail, sender: str, to: list[str], files: list[tuple[str, bytes]], key: str) -> EmailMessage:
    """Write the mail.

    Args:
        params: What to say.
        sender: From whom.
        to: Main recipients; blind copies are in no header.
        files: Names and contents of attachments.
        key: What the Message-ID is made from.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = header_address(sender)
    if to:
        message["To"] = [header_address(address) for address in to]
    if params.cc:
        message["Cc"] = [header_address(address) for address in params.cc]
    if params.reply_to:
        message["Reply-To"] = header_address(params.reply_to)
    message["Subject"] = params.subject
    message["Date"] = format_datetime(datetime.now(UTC))
    # From the recipients too: one key used for two mails to different people must not make the second vanish.
    digest = hashlib.sha256("\0".join([key, sender, *to, *params.cc, *params.bcc]).encode()).hexdigest()[:40]
    message["Message-ID"] = f"<{digest}@{bare_address(sender).partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    if params.text is not None:
        message.set_content(params.text)
    if params.html is not None and params.text is not None:
        message.add_alternative(params.html, subtype="html")
    elif params.html is not None:
        message.set_content(params.html, subtype="html")
    for name, data in files:
        maintype, _, subtype = (mimetypes.guess_type(name)[0] or "application/octet-stream").partition("/")
        message.add_attachment(data, maintype=maintype, subtype=subtype, filename=name)
    return message


async def _load_attachments(refs: list[FileRef], run: ToolRun) -> list[tuple[str, bytes]]:
    """Read the files, exactly as they were when the references were made."""
    if not refs:
        return []
    for ref in refs:
        if ref.site != run.site:
            raise InvalidParameters(
                f"attachments: {ref.name} is at site {ref.site!r}, this runs at {run.site!r}.",
                hint=f"Give site={ref.site}.",
            )
    total = sum(ref.size_bytes for ref in refs)
    if total > MAX_ATTACHMENT_BYTES:
        raise InvalidParameters(
            f"attachments: {total:,} bytes in all; a mail takes {MAX_ATTACHMENT_BYTES:,}.",
            hint="Send a link to the files instead.",
        )
    store = await run.store()
    files = []
    for ref in refs:
        try:
            path = store.path(ref.name)
        except ValueError as error:
            raise InvalidParameters(f"attachments: {error}.") from None
        files.append((PurePosixPath(ref.name).name, await asyncio.to_thread(_read_unchanged, path, ref)))
    return files


def _read_unchanged(path: Path, ref: FileRef) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(ref.size_bytes + 1)
    except OSError:
        raise NotFound(
            f"The file {ref.name} is not in the store of site {ref.site!r} any more.", hint="It may have been pruned."
        ) from None
    if len(data) != ref.size_bytes or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise Conflict(f"The file {ref.name} is not what it was when it was referred to.")
    return data
