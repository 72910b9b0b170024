"""`smtp_analyzer`: mails on their way, who sent them to whom, what was refused and why, and what went in clear text."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, CommandCount, ReplyCount, Row, Times


class SmtpAnalyzer(PayloadAnalyzerParams):
    """Parameters of `smtp_analyzer`."""


class SmtpTls(Row):
    """Conversations by their encryption."""

    offered: int = Field(ge=0, description="The server offered STARTTLS.")
    used: int = Field(ge=0, description="They went over to TLS by STARTTLS.")
    refused: int = Field(ge=0, description="The client asked for TLS and was refused.")
    implicit: int = Field(ge=0, description="They began with TLS (port 465).")


class SmtpPipelining(Row):
    """Conversations by whether commands came before the reply to the one before."""

    offered: int = Field(ge=0, description="The server offered it.")
    used: int = Field(ge=0, description="The client did so.")


class SmtpMails(Row):
    """Mails that were seen in clear text."""

    seen: int = Field(ge=0, description="Mails: MAIL commands.")
    accepted: int = Field(ge=0, description="Mails the server took.")
    rejected: int = Field(ge=0, description="Mails it refused for good (5xx), or all recipients of which it refused.")
    deferred: int = Field(ge=0, description="Mails it refused for now (4xx).")
    unknown: int = Field(ge=0, description="Mails given up, or of which the decision is not in the capture.")
    bytes: int = Field(ge=0, description="Bytes of their texts, as they were sent.")
    largest_bytes: int = Field(ge=0, description="Bytes of the largest.")
    chunks: int = Field(ge=0, description="Chunks sent with BDAT.")


class SmtpRejection(Row):
    """A reason for which a server refused something."""

    server: str = Field(description="Address and port of the server.")
    command: str = Field(description="What it refused; unknown for lines that are no command.")
    code: int = Field(description="The reply's code.")
    status: str = Field(description="The enhanced status code, such as 5.7.1; empty without one.")
    count: int = Field(ge=0, description="How often.")
    text: str = Field(description="What the server said the first time.")
    addresses: list[str] = Field(description="Recipients or senders it was about, 8 at most.")


class SmtpMechanism(Row):
    """A mechanism of AUTH, in clear text."""

    mechanism: str = Field(description="Its name.")
    readable: bool = Field(description="Whether who listens can log in with what was sent.")
    attempts: int = Field(ge=0, description="Attempts with it.")
    accepted: int = Field(ge=0, description="Those that were accepted.")
    refused: int = Field(ge=0, description="Those that were refused.")


class SmtpUser(Row):
    """A name at a server, in clear text. What goes with it is not shown."""

    user: str = Field(description="Name that was given.")
    server: str = Field(description="Address and port of the server.")
    accepted: int = Field(ge=0, description="Logins that were accepted.")
    refused: int = Field(ge=0, description="Logins that were refused.")


class SmtpHelloName(Row):
    """What clients call themselves."""

    name: str = Field(description="Name in HELO, EHLO or LHLO.")
    clients: list[str] = Field(description="Addresses that use it, 8 at most.")


class SmtpAddress(Row):
    """A sender or a recipient."""

    address: str = Field(description="The address; <> for the empty sender of reports.")
    count: int = Field(ge=0, description="How often it was given.")
    accepted: int = Field(ge=0, description="Mails of the sender, or the recipient, that were accepted.")
    rejected: int = Field(ge=0, description="Those that were refused.")
    put_off: int = Field(ge=0, description="Those of them that may be tried again later.")


class SmtpServer(Row):
    """A server."""

    server: str = Field(description="Address and port.")
    names: list[str] = Field(description="What it calls itself, 8 at most.")
    conversations: int = Field(ge=0, description="Conversations with it.")
    encrypted: int = Field(ge=0, description="Those that went over to TLS.")
    mails: int = Field(ge=0, description="Mails in clear text.")
    rejected: int = Field(ge=0, description="Those it refused for good.")
    deferred: int = Field(ge=0, description="Those it refused for now.")
    starttls_offered: int = Field(ge=0, description="Greetings in which it offered STARTTLS.")
    banners: list[str] = Field(description="What it says first, 8 at most.")
    extensions: list[str] = Field(description="Extensions it offers in clear text, 30 at most.")
    mechanisms: list[str] = Field(description="Mechanisms of AUTH it offers in clear text, 20 at most.")


class SmtpClient(Row):
    """A client."""

    client: str = Field(description="Address.")
    names: list[str] = Field(description="What it calls itself, 8 at most.")
    conversations: int = Field(ge=0, description="Conversations it opened.")
    encrypted: int = Field(ge=0, description="Those that went over to TLS.")
    mails: int = Field(ge=0, description="Mails in clear text.")
    rejected: int = Field(ge=0, description="Those that were refused, for good or for now.")
    refused_logins: int = Field(ge=0, description="Refused logins.")
    servers: list[str] = Field(description="Servers it talked to, 8 at most.")


class SmtpMail(Row):
    """A mail in clear text. Its text is not looked at."""

    frame: int = Field(ge=0, description="Frame of MAIL.")
    started_at: datetime = Field(description="When that was.")
    client: str = Field(description="Address and port of the client.")
    server: str = Field(description="Address and port of the server.")
    sender: str = Field(description="Address in MAIL; <> for the empty one.")
    recipients: list[str] = Field(description="Addresses in RCPT, 20 at most.")
    recipients_accepted: int = Field(ge=0, description="Recipients that were accepted.")
    recipients_refused: int = Field(ge=0, description="Recipients that were refused.")
    declared_bytes: int | None = Field(description="Size the client announced (SIZE=).")
    bytes: int = Field(ge=0, description="Bytes of the text, as they were sent.")
    chunks: int = Field(ge=0, description="Chunks of BDAT; 0 with DATA.")
    authenticated: bool = Field(description="Whether the client had logged in, in clear text.")
    outcome: str = Field(description="accepted, rejected, deferred or unknown.")
    code: int = Field(description="Code of the reply that decided; 0 without one.")


class SmtpSession(Row):
    """One conversation."""

    frame: int = Field(ge=0, description="Its first frame with payload.")
    client: str = Field(description="Address and port of the client.")
    server: str = Field(description="Address and port of the server.")
    started_at: datetime = Field(description="When it began.")
    seconds: float = Field(ge=0, description="How long it lasted.")
    hello: str = Field(description="What the client calls itself.")
    tls: str = Field(description="no, offered, refused, used, or implicit where TLS came first.")
    login: str = Field(description="accepted, refused, or none, in clear text.")
    user: str = Field(description="The last name that was given in clear text.")
    mails: int = Field(ge=0, description="Mails in clear text.")
    commands: int = Field(ge=0, description="Commands in clear text.")
    end: str = Field(description="fin, rst, or capture when that ended first.")


class SmtpReport(AnalyzerResult):
    """What was seen; tables hold the most frequent, `..._seen` counts all."""

    conversations: int = Field(ge=0, description="Conversations of SMTP, submission and LMTP.")
    lmtp: int = Field(ge=0, description="Those of LMTP.")
    without_greeting: int = Field(
        ge=0, description="Conversations on mail's ports with neither greeting nor command: begun before, or no SMTP."
    )
    tls: SmtpTls = Field(description="Conversations by their encryption.")
    pipelining: SmtpPipelining = Field(description="Conversations by whether commands came in groups.")
    commands_seen: int = Field(ge=0, description="Commands in clear text.")
    commands: list[CommandCount] = Field(description="Commands, the most frequent first.")
    unknown_commands: int = Field(ge=0, description="Lines of clients that are no known command.")
    replies_seen: int = Field(ge=0, description="Replies in clear text.")
    replies: list[ReplyCount] = Field(description="Replies by code, the most frequent first.")
    reply_times: Times = Field(description="From a command, or the end of a mail, to the reply.")
    banner_times: Times = Field(description="From the opening of the connection to the greeting.")
    mails: SmtpMails = Field(description="Mails in clear text.")
    recipients_accepted: int = Field(ge=0, description="Recipients that were accepted.")
    recipients_refused: int = Field(ge=0, description="Recipients that were refused.")
    put_off: int = Field(ge=0, description="Recipients that a server asked to try again later (greylisting).")
    came_back: int = Field(ge=0, description="Those of them that were accepted later.")
    rejections: list[SmtpRejection] = Field(description="What was refused, and why, the most frequent first.")
    mechanisms: list[SmtpMechanism] = Field(description="Mechanisms of AUTH in clear text, the most frequent first.")
    users_seen: int = Field(ge=0, description="Distinct names at distinct servers.")
    users: list[SmtpUser] = Field(description="Names in clear text, the most frequent first.")
    hello_names_seen: int = Field(ge=0, description="Distinct names of clients.")
    hello_names: list[SmtpHelloName] = Field(description="What clients call themselves: those of most addresses first.")
    senders_seen: int = Field(ge=0, description="Distinct senders.")
    senders: list[SmtpAddress] = Field(description="Senders, the most frequent first.")
    recipients_seen: int = Field(ge=0, description="Distinct recipients.")
    recipients: list[SmtpAddress] = Field(description="Recipients, the most frequent first.")
    servers_seen: int = Field(ge=0, description="Distinct servers.")
    servers: list[SmtpServer] = Field(description="Servers, the busiest first.")
    clients_seen: int = Field(ge=0, description="Distinct clients.")
    clients: list[SmtpClient] = Field(description="Clients: those that were refused most first.")
    latest_mails: list[SmtpMail] = Field(description="Single mails: refused ones first, then the largest.")
    sessions: list[SmtpSession] = Field(description="Single conversations: refused logins first, then the latest.")

    def headline(self) -> str:
        mails = f"{count(self.mails.seen, 'readable mail')}, {self.mails.rejected + self.mails.deferred} refused"
        return f"{count(self.conversations, 'SMTP conversation')}, {count(self.servers_seen, 'server')}, {mails}; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    examples=[
        Example("A capture of the store", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("Listen to a mail server for a minute", {"interface": "eth0", "port": 25, "duration": 60}),
    ],
)
async def smtp_analyzer(params: SmtpAnalyzer) -> SmtpReport:
    """Report SMTP: mails, refusals, logins, encryption, relaying.

    SMTP, submission and LMTP are found on any port by what is said first. Texts of mails and passwords are never shown. After STARTTLS
    nothing is readable any more.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture, or the filter is wrong.
        ToolTimeout: The capture needs more time than there is.
    """
    from tasks.network.analyze._smtp import dissect  # numpy: only where it runs

    opened, found = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return SmtpReport.model_validate({"capture": opened.ref, **found})
