"""`tls_analyzer`: what the TLS and QUIC handshakes in a capture say."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.analyze._params import TIMEOUT_SECONDS, WORKING_SECONDS, PayloadAnalyzerParams, analyze
from tasks.network.analyze._report import AnalyzerResult, Row


class TlsAnalyzer(PayloadAnalyzerParams):
    """Parameters of `tls_analyzer`."""


class Counted(Row):
    """Something, and how often."""

    name: str = Field(description="What was counted.")
    count: int = Field(ge=0, description="How often.")


class TlsVersion(Row):
    """A version of TLS."""

    version: str = Field(description="Name, such as TLS 1.3.")
    offered: int = Field(ge=0, description="Handshakes in which the client offered it.")
    negotiated: int = Field(ge=0, description="Handshakes in which the server chose it.")


class CipherSuite(Row):
    """A cipher suite."""

    code: str = Field(description="Its number in hexadecimal.")
    name: str = Field(description="IANA's name.")
    offered: int = Field(ge=0, description="Handshakes in which the client offered it.")
    negotiated: int = Field(ge=0, description="Handshakes in which the server chose it.")
    weak: list[str] = Field(description="What speaks against it.")


class TlsProtocol(Row):
    """A protocol inside TLS (ALPN)."""

    protocol: str = Field(description="Name, such as h2.")
    offered: int = Field(ge=0, description="Handshakes in which the client offered it.")
    chosen: int = Field(ge=0, description="Handshakes in which the server chose it, in the clear.")


class ServerName(Row):
    """A name that clients asked for (SNI)."""

    name: str = Field(description="The name.")
    hellos: int = Field(ge=0, description="ClientHellos with it; a repeated one after a HelloRetryRequest counts too.")
    quic: int = Field(ge=0, description="Those of them in QUIC.")
    servers: list[str] = Field(description="Addresses and ports that were asked, 8 at most.")


class TlsFingerprint(Row):
    """A kind of client, by what it offers."""

    ja3: str = Field(description="JA3.")
    ja4: str = Field(description="JA4.")
    hellos: int = Field(ge=0, description="ClientHellos with it.")
    clients: list[str] = Field(description="Addresses of clients, 8 at most.")
    names: list[str] = Field(description="Names they asked for, 8 at most.")


class TlsServer(Row):
    """A server."""

    server: str = Field(description="Address and port.")
    names: list[str] = Field(description="Names it was asked for, 8 at most.")
    handshakes: int = Field(ge=0, description="Handshakes begun with it.")
    established: int = Field(ge=0, description="Those that went through.")
    failed: int = Field(ge=0, description="Those that did not.")
    resumed: int = Field(ge=0, description="Those that took up an earlier session.")
    versions: list[str] = Field(description="Versions it chose, 5 at most.")
    cipher_suites: list[str] = Field(description="Cipher suites it chose, 5 at most.")
    ja3s: list[str] = Field(description="Its fingerprints (JA3S), 8 at most.")


class SeenCertificate(Row):
    """A certificate that was sent in the clear: TLS 1.2 and before."""

    sha256: str = Field(description="SHA-256 of the certificate.")
    role: str = Field(description="server, client, or issuer for the others of a chain.")
    subject: str = Field(description="Subject.")
    names: list[str] = Field(description="Subject alternative names, 20 at most.")
    names_left_out: int = Field(0, ge=0, description="Further names.")
    issuer: str = Field(description="Issuer.")
    serial: str = Field(description="Serial number in hexadecimal.")
    not_before: datetime | None = Field(None, description="Start of its validity.")
    not_after: datetime | None = Field(None, description="End of its validity.")
    days_left_at_capture: int | None = Field(None, description="Days from the capture to its end; negative when past.")
    days_left_now: int | None = Field(None, description="Days from now to its end; negative when past.")
    key: str = Field(description="Kind and size of its key.")
    signature: str = Field(description="Algorithm of its signature.")
    self_issued: bool = Field(description="Whether subject and issuer are the same.")
    problem: str = Field("", description="Why it could not be read.")
    servers: list[str] = Field(description="Servers whose handshakes had it, 8 at most.")
    seen: int = Field(ge=0, description="How often it was sent.")
    frames: list[int] = Field(description="Frames with it, 20 at most.")


class SeenAlert(Row):
    """A kind of alert that was sent in the clear."""

    alert: str = Field(description="Name, such as unknown_ca.")
    level: str = Field(description="warning or fatal.")
    sender: str = Field(description="client or server.")
    count: int = Field(ge=0, description="How often.")
    frames: list[int] = Field(description="Frames with it, 20 at most.")


class TlsSession(Row):
    """One handshake."""

    frame: int = Field(ge=0, description="Frame of the ClientHello.")
    client: str = Field(description="Address and port of the client.")
    server: str = Field(description="Address and port of the server.")
    transport: str = Field(description="tcp or quic.")
    upgraded_from: str = Field("", description="Protocol that came before it (STARTTLS and the like).")
    name: str = Field("", description="Name the client asked for.")
    version: str = Field("", description="Version the server chose.")
    cipher_suite: str = Field("", description="Cipher suite the server chose.")
    group: str = Field("", description="Group of the key exchange.")
    protocol: str = Field("", description="Application protocol the server chose in the clear.")
    ja3: str = Field("", description="The client's JA3.")
    ja4: str = Field("", description="The client's JA4.")
    ja3s: str = Field("", description="The server's JA3S.")
    resumed: str = Field("", description="How an earlier session was taken up: session id, ticket or pre-shared key.")
    certificate: str = Field("", description="SHA-256 of the server's certificate, where it is in the clear.")
    outcome: str = Field(
        description="established, refused (an alert), reset, closed, unanswered, cut off (the capture ended) or incomplete "
        "(bytes are missing from the capture)."
    )
    alert: str = Field("", description="The alert that ended it, and who sent it.")
    handshake_ms: float | None = Field(None, description="From the ClientHello to encrypted data, milliseconds.")


class Quic(Row):
    """What was seen of QUIC."""

    datagrams: int = Field(0, ge=0, description="UDP packets with a long header.")
    initials: int = Field(0, ge=0, description="Initial packets.")
    opened: int = Field(0, ge=0, description="Those that could be opened.")
    sealed: int = Field(0, ge=0, description="Those that could not.")
    retries: int = Field(0, ge=0, description="Retry packets.")
    version_negotiations: int = Field(0, ge=0, description="Version negotiation packets.")
    unknown_versions: int = Field(0, ge=0, description="Packets of versions whose keys are not known.")
    versions: list[Counted] = Field(default_factory=list, description="Versions by their packets.")


class TlsReport(AnalyzerResult):
    """What the handshakes say; tables hold the most frequent, `..._seen` counts all."""

    client_hellos: int = Field(ge=0, description="ClientHellos, in TCP and QUIC.")
    server_hellos: int = Field(ge=0, description="ServerHellos, HelloRetryRequests included.")
    handshakes: int = Field(ge=0, description="Handshakes of which the beginning was seen.")
    established: int = Field(ge=0, description="Those that went through to encrypted data.")
    failed: int = Field(ge=0, description="Those that were refused, reset, closed or not answered.")
    outcomes: list[Counted] = Field(description="Handshakes by how they came out.")
    resumed: list[Counted] = Field(description="Handshakes that took up an earlier session, by how.")
    upgraded: list[Counted] = Field(description="Handshakes in the middle of another protocol (STARTTLS), by protocol.")
    hello_retries: int = Field(ge=0, description="HelloRetryRequests: the server wanted another key share.")
    encrypted_alerts: int = Field(ge=0, description="Encrypted alerts where the handshake should have ended.")
    without_handshake: int = Field(ge=0, description="TLS conversations that began before the capture.")
    versions: list[TlsVersion] = Field(description="Versions, the most negotiated first.")
    cipher_suites: list[CipherSuite] = Field(description="Cipher suites, the negotiated ones first.")
    groups: list[Counted] = Field(description="Groups of the key exchange that servers chose.")
    protocols: list[TlsProtocol] = Field(description="Protocols inside TLS (ALPN).")
    names_seen: int = Field(ge=0, description="Distinct names that clients asked for.")
    names: list[ServerName] = Field(description="Names, the most frequent first.")
    fingerprints_seen: int = Field(ge=0, description="Distinct pairs of JA3 and JA4.")
    fingerprints: list[TlsFingerprint] = Field(description="Kinds of clients, the most frequent first.")
    servers_seen: int = Field(ge=0, description="Distinct servers.")
    servers: list[TlsServer] = Field(description="Servers: those with failed handshakes first, then the busiest.")
    certificates_seen: int = Field(ge=0, description="Distinct certificates.")
    certificates: list[SeenCertificate] = Field(description="Certificates: those of servers and clients first.")
    alerts: list[SeenAlert] = Field(description="Alerts in the clear, the most frequent first.")
    sessions: list[TlsSession] = Field(
        description="Single handshakes: the last that failed, then the last that did not."
    )
    quic: Quic = Field(description="What was seen of QUIC.")
    dtls_packets: int = Field(ge=0, description="Packets of DTLS: counted, not analyzed.")

    def headline(self) -> str:
        names = f", {count(self.names_seen, 'name')}" if self.names_seen else ""
        return f"{count(self.handshakes, 'TLS handshake')}{names}, {self.failed} failed; {self.verdict()}"


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tcpdump",),
    examples=[
        Example("A capture of the store", {"capture": "tcpdump/2024-05-01/office.pcap"}),
        Example("Listen for a minute", {"interface": "eth0", "port": 443, "duration": 60}),
        Example(
            "What one camera does, morning only",
            {"capture": "tcpdump/2024-05-01/office.pcap", "host": "10.0.0.11", "end": "2024-05-01T12:00:00Z"},
        ),
    ],
)
async def tls_analyzer(params: TlsAnalyzer) -> TlsReport:
    """Report TLS and QUIC handshakes: versions, ciphers, names, certificates.

    Nothing is decrypted that is not public: hellos, alerts, the certificates of TLS 1.2 and before, and QUIC's Initial packets.
    TLS is found on any port by its first bytes, and after STARTTLS.

    Raises:
        NotFound: There is no such capture.
        InvalidParameters: The file is not a capture, or the filter is wrong.
        ToolTimeout: The capture needs more time than there is.
    """
    from tasks.network.analyze._tls import dissect  # numpy and cryptography: only where it runs

    opened, found = await analyze(params, dissect, timeout=WORKING_SECONDS - 5)
    return TlsReport.model_validate({"capture": opened.ref, **found})
