"""`ssh_analyzer`: what the SSH in a capture says in the clear, and how logins seem to have come out."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Row


class SshAnalyzer(PayloadAnalyzerParams):
    """Parameters of `ssh_analyzer`."""


class SshProtocol(Row):
    """A version of the protocol."""

    name: str = Field(description="Version, such as 2.0.")
    count: int = Field(ge=0, description="Banners with it, of both sides.")


class SshSoftware(Row):
    """A piece of software, by its banner."""

    role: str = Field(description="client or server.")
    software: str = Field(description="Name and version as its banner says.")
    conversations: int = Field(ge=0, description="Conversations with it.")


class SshAlgorithm(Row):
    """An algorithm."""

    kind: str = Field(description="kex, host_key, cipher, mac or compression, with the direction.")
    name: str = Field(description="Its name.")
    offered: int = Field(ge=0, description="Conversations in which the server offered it.")
    negotiated: int = Field(
        ge=0, description="Conversations that chose it; implicit: the cipher needs no MAC of its own."
    )
    weak: str = Field("", description="What speaks against it.")


class SshFingerprint(Row):
    """A kind of client or server, by what it offers."""

    role: str = Field(description="client (HASSH) or server (HASSHServer).")
    hassh: str = Field(description="The fingerprint.")
    conversations: int = Field(ge=0, description="Conversations with it.")
    software: list[str] = Field(description="What its banners say, 8 at most.")
    hosts: list[str] = Field(description="Hosts with it, 8 at most.")


class SshHostKey(Row):
    """A server's public key."""

    kind: str = Field(description="Kind, such as ssh-ed25519.")
    fingerprint: str = Field(description="SHA-256, as ssh-keygen -l writes it.")
    bits: int = Field(ge=0, description="Size of an RSA or DSA key; 0 for others.")


class SshServer(Row):
    """A server."""

    server: str = Field(description="Address and port.")
    conversations: int = Field(ge=0, description="Conversations with it.")
    accepted: int = Field(ge=0, description="Conversations whose login seems to have been accepted.")
    refused: int = Field(ge=0, description="Conversations that ended with refused logins only.")
    refused_attempts: int = Field(ge=0, description="Refused attempts, about.")
    banners: list[str] = Field(description="What it says first, 8 at most.")
    hassh_server: list[str] = Field(description="Its fingerprints, 8 at most.")
    host_keys: list[SshHostKey] = Field(description="Its public keys that were used.")
    weak_algorithms: list[str] = Field(description="Weak algorithms it offers, 20 at most.")


class SshClient(Row):
    """A client."""

    client: str = Field(description="Address.")
    conversations: int = Field(ge=0, description="Conversations it opened.")
    accepted: int = Field(ge=0, description="Conversations whose login seems to have been accepted.")
    refused: int = Field(ge=0, description="Conversations that ended with refused logins only.")
    refused_attempts: int = Field(ge=0, description="Refused attempts, about.")
    banners: list[str] = Field(description="What it says first, 8 at most.")
    hassh: list[str] = Field(description="Its fingerprints, 8 at most.")
    servers: list[str] = Field(description="Servers it talked to, 8 at most.")


class SshSession(Row):
    """One conversation."""

    frame: int = Field(ge=0, description="Its first frame with payload.")
    client: str = Field(description="Address and port of the client.")
    server: str = Field(description="Address and port of the server.")
    started_at: datetime = Field(description="When it began.")
    seconds: float = Field(ge=0, description="How long it lasted.")
    client_bytes: int = Field(ge=0, description="Bytes the client sent.")
    server_bytes: int = Field(ge=0, description="Bytes the server sent.")
    client_banner: str = Field("", description="The client's banner.")
    server_banner: str = Field("", description="The server's banner.")
    hassh: str = Field("", description="The client's HASSH.")
    hassh_server: str = Field("", description="The server's HASSHServer.")
    kex: str = Field("", description="Key exchange they agreed on.")
    host_key: str = Field("", description="Algorithm of the host key.")
    cipher: str = Field("", description="Cipher; two when the directions differ.")
    mac: str = Field("", description="MAC; implicit where the cipher needs none.")
    compression: str = Field("", description="Compression.")
    strict: bool = Field(description="Whether both sides know strict key exchange (the answer to Terrapin).")
    login: str = Field(description="accepted, refused or unknown, by the sizes of the server's answers.")
    refused_attempts: int = Field(ge=0, description="Refused attempts to log in, about.")
    end: str = Field(description="fin, rst, or capture when that ended first.")


class SshLogins(Row):
    """How logins seem to have come out."""

    accepted: int = Field(ge=0, description="Conversations whose login seems to have been accepted.")
    refused: int = Field(ge=0, description="Conversations that ended with refused logins only.")
    unknown: int = Field(ge=0, description="Conversations of which it cannot be told.")
    refused_attempts: int = Field(ge=0, description="Refused attempts, about.")


class SshReport(AnalyzerResult):
    """What was seen; tables hold the most frequent, `..._seen` counts all."""

    conversations: int = Field(ge=0, description="Conversations with a banner.")
    encrypted: int = Field(ge=0, description="Those whose key exchange was finished.")
    without_banner: int = Field(
        ge=0, description="Conversations on port 22 without one: begun before the capture, or no SSH."
    )
    logins: SshLogins = Field(description="How logins seem to have come out.")
    protocols: list[SshProtocol] = Field(description="Versions of the protocol.")
    software: list[SshSoftware] = Field(description="Software, the most frequent first.")
    algorithms: list[SshAlgorithm] = Field(description="Algorithms of each kind: the negotiated ones first.")
    fingerprints: list[SshFingerprint] = Field(description="HASSH and HASSHServer, the most frequent first.")
    servers_seen: int = Field(ge=0, description="Distinct servers.")
    servers: list[SshServer] = Field(description="Servers: those that refused most first.")
    clients_seen: int = Field(ge=0, description="Distinct clients.")
    clients: list[SshClient] = Field(description="Clients: those that were refused most first.")
    sessions: list[SshSession] = Field(description="Single conversations: refused logins first, then the latest.")

    def headline(self) -> str:
        logins = f"{self.logins.refused} with refused logins"
        return f"{count(self.conversations, 'SSH conversation')}, {count(self.servers_seen, 'server')}, {logins}; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    examples=[
        Example("A capture of the store", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("Listen for a minute", {"interface": "eth0", "port": 22, "duration": 60}),
    ],
)
async def ssh_analyzer(params: SshAnalyzer) -> SshReport:
    """Report SSH: software, algorithms, host keys, refused logins.

    SSH is found on any port by its banner. What is encrypted stays so; whether a login was accepted is judged by the sizes of the
    server's answers.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture, or the filter is wrong.
        ToolTimeout: The capture needs more time than there is.
    """
    from tasks.network.analyze._ssh import dissect  # numpy: only where it runs

    opened, found = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return SshReport.model_validate({"capture": opened.ref, **found})
