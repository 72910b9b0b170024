"""`ftp_analyzer`: who logged in by FTP, what was moved over which data channel, and what failed or should not be."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, CommandCount, ReplyCount, Row, Times


class FtpAnalyzer(PayloadAnalyzerParams):
    """Parameters of `ftp_analyzer`. Data channels of a stored capture are found beyond `host` and `port`."""


class FtpLogins(Row):
    """How logins came out."""

    accepted: int = Field(ge=0, description="Logins that were accepted.")
    refused: int = Field(ge=0, description="Logins that were refused.")
    anonymous: int = Field(ge=0, description="Accepted ones without a name of one's own.")
    in_clear: int = Field(ge=0, description="Passwords in clear text, anonymous ones left out; none is shown.")


class FtpFailure(Row):
    """A kind of failure."""

    command: str = Field(description="Command that failed; unknown for lines that are none.")
    code: int = Field(description="The reply's code.")
    count: int = Field(ge=0, description="How often.")
    text: str = Field(description="What the server said the first time; empty where it may repeat a password.")


class FtpUser(Row):
    """A name at a server."""

    user: str = Field(description="Name that was given.")
    server: str = Field(description="Address and port of the server.")
    accepted: int = Field(ge=0, description="Logins that were accepted.")
    refused: int = Field(ge=0, description="Logins that were refused.")
    in_clear: int = Field(ge=0, description="Passwords of it in clear text; none is shown.")
    clients: list[str] = Field(description="Where it came from, 8 at most.")


class FtpServer(Row):
    """A server."""

    server: str = Field(description="Address and port.")
    conversations: int = Field(ge=0, description="Conversations with it.")
    encrypted: int = Field(ge=0, description="Those that went over to TLS.")
    accepted: int = Field(ge=0, description="Conversations with an accepted login.")
    refused: int = Field(ge=0, description="Refused logins.")
    anonymous: int = Field(ge=0, description="Conversations of anonymous users.")
    transfers: int = Field(ge=0, description="Transfers.")
    tls_offered: bool = Field(description="Whether it was seen to know TLS.")
    banners: list[str] = Field(description="What it says first, 8 at most.")


class FtpClient(Row):
    """A client."""

    client: str = Field(description="Address.")
    conversations: int = Field(ge=0, description="Conversations it opened.")
    accepted: int = Field(ge=0, description="Conversations with an accepted login.")
    refused: int = Field(ge=0, description="Refused logins.")
    transfers: int = Field(ge=0, description="Transfers.")
    servers: list[str] = Field(description="Servers it talked to, 8 at most.")


class FtpMode(Row):
    """A way to open data channels."""

    mode: str = Field(description="PORT, EPRT, PASV, EPSV, or default where none was agreed upon.")
    count: int = Field(ge=0, description="Transfers that used it.")


class FtpTransfer(Row):
    """A transfer of a file or a listing."""

    frame: int = Field(ge=0, description="Frame of the command.")
    started_at: datetime = Field(description="When the command was given.")
    client: str = Field(description="Address and port of the client's control channel.")
    server: str = Field(description="Address and port of the server's.")
    user: str = Field(description="Who was logged in.")
    command: str = Field(description="RETR, STOR, STOU, APPE, LIST, NLST or MLSD.")
    path: str = Field(description="Its argument.")
    direction: str = Field(description="down, up, or listing.")
    mode: str = Field(description="How the data channel was agreed upon.")
    data_channel: str = Field(
        description="Address and port where one side listened for it; empty when they were cut off."
    )
    data_frame: int = Field(ge=0, description="Its first frame; 0 when it is not in the capture.")
    bytes: int | None = Field(description="Bytes it carried, by its headers; null when it is not in the capture.")
    seconds: float | None = Field(description="How long the data channel lasted; null when it is not in the capture.")
    offset: int = Field(ge=0, description="Where in the file it began (REST).")
    outcome: str = Field(description="completed, failed or unknown, as the server said.")
    code: int = Field(description="The reply's code; 0 without one.")


class FtpSession(Row):
    """One conversation."""

    frame: int = Field(ge=0, description="Its first frame with payload.")
    client: str = Field(description="Address and port of the client.")
    server: str = Field(description="Address and port of the server.")
    started_at: datetime = Field(description="When it began.")
    seconds: float = Field(ge=0, description="How long it lasted.")
    user: str = Field(description="The last name that was given.")
    login: str = Field(description="accepted, refused or unknown.")
    commands: int = Field(ge=0, description="Commands in clear text.")
    transfers: int = Field(ge=0, description="Transfers.")
    tls: str = Field(description="no, offered, used, or implicit where TLS came first.")
    end: str = Field(description="fin, rst, or capture when that ended first.")


class FtpReport(AnalyzerResult):
    """What was seen; tables hold the most frequent, `..._seen` counts all."""

    conversations: int = Field(ge=0, description="Control channels.")
    encrypted: int = Field(ge=0, description="Those that went over to TLS.")
    implicit_tls: int = Field(ge=0, description="Those of them that began with TLS (port 990).")
    tls_refused: int = Field(ge=0, description="Requests for TLS that a server refused.")
    without_greeting: int = Field(
        ge=0, description="Conversations on FTP's ports with neither greeting nor command: begun before, or no FTP."
    )
    logins: FtpLogins = Field(description="How logins came out.")
    commands_seen: int = Field(ge=0, description="Commands.")
    commands: list[CommandCount] = Field(description="Commands, the most frequent first.")
    unknown_commands: int = Field(ge=0, description="Lines of clients that are no known command.")
    replies_seen: int = Field(ge=0, description="Replies.")
    replies: list[ReplyCount] = Field(description="Replies by code, the most frequent first.")
    failures: list[FtpFailure] = Field(description="What failed, by command and code, the most frequent first.")
    reply_times: Times = Field(description="From a command to the first reply to it.")
    banner_times: Times = Field(description="From the opening of the connection to the greeting.")
    users_seen: int = Field(ge=0, description="Distinct names at distinct servers.")
    users: list[FtpUser] = Field(description="Names, the most frequent first.")
    servers_seen: int = Field(ge=0, description="Distinct servers.")
    servers: list[FtpServer] = Field(description="Servers, the busiest first.")
    clients_seen: int = Field(ge=0, description="Distinct clients.")
    clients: list[FtpClient] = Field(description="Clients: those that were refused most first.")
    transfers_seen: int = Field(ge=0, description="Transfers.")
    transfers_completed: int = Field(ge=0, description="Those that the server called complete.")
    transfers_failed: int = Field(ge=0, description="Those that it refused or broke off.")
    bytes_down: int = Field(
        ge=0, description="Bytes of downloads and listings, as far as their data channels are there."
    )
    bytes_up: int = Field(ge=0, description="Bytes of uploads, as far as their data channels are there.")
    modes: list[FtpMode] = Field(description="How data channels were agreed upon.")
    transfers: list[FtpTransfer] = Field(description="Transfers, the largest first.")
    sessions: list[FtpSession] = Field(description="Single conversations: refused logins first, then the latest.")

    def headline(self) -> str:
        moved = f"{count(self.transfers_seen, 'transfer')}, {count(self.logins.refused, 'refused login')}"
        return f"{count(self.conversations, 'FTP conversation')}, {count(self.servers_seen, 'server')}, {moved}; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    examples=[
        Example("A capture of the store", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("Listen to a server for a minute", {"interface": "eth0", "filter": "host 192.0.2.10", "duration": 60}),
    ],
)
async def ftp_analyzer(params: FtpAnalyzer) -> FtpReport:
    """Report FTP: logins, commands, transfers with their data channels.

    FTP is found on any port by its greeting. Passwords are never shown. After AUTH TLS nothing is readable any more.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture, or the filter is wrong.
        ToolTimeout: The capture needs more time than there is.
    """
    from tasks.network.analyze._ftp import dissect  # numpy: only where it runs

    opened, found = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return FtpReport.model_validate({"capture": opened.ref, **found})
