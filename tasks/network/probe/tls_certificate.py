"""`tls_certificate`: what certificates hosts show, what a client makes of them, and which versions of TLS they speak."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.core.models import Example, FileRef, Host, ProbeParams, Safety, Scope, Service, ToolResult
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network._sparing import spare
from tasks.network.analyze._report import Finding, Severity
from tasks.network.probe._certificate import Authorities, Certificate
from tasks.network.probe._connection import OPENING_PACKETS, Paces
from tasks.network.probe._starttls import PORTS, StartTls
from tasks.network.probe._tls_findings import judge
from tasks.network.probe._tls_hello import Version
from tasks.network.probe._tls_survey import HANDSHAKE_PACKETS, Answered, Contexts, Question, Survey, survey

TIMEOUT_SECONDS = 1800.0
IN_FLIGHT = 32
"""Hosts looked at at once; each has one connection at a time."""
REPORTING_SECONDS = 3.0
MOST_NAMED = 20
_OWN_ALPN = frozenset({25, 465, 587, 110, 995, 143, 993, 21, 990, 389, 636, 5061, 5432, 3306, 853, 8883})
"""Ports of protocols that are not HTTP: a strict server there hangs up on who offers it (the ALPACA attack)."""


class TlsCertificate(ProbeParams):
    """Parameters of `tls_certificate`."""

    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="TCP port, 1 to 65535. Default: 443, or the usual one of the starttls protocol.",
    )
    starttls: StartTls = Field(
        StartTls.NONE,
        description="Protocol inside which TLS begins: smtp, imap, pop3, ftp, postgres; none for TLS at once.",
    )
    server_name: Host | None = Field(
        None,
        description="Name to ask for and to check, when it is not the target's: for targets given as addresses.",
    )
    ca: Authorities = Field(
        None,
        description="Authorities to trust besides the public ones and the system's: certificates in PEM.",
        json_schema_extra={"secret": True},
    )
    versions: bool = Field(
        True, description="Ask for every version from TLS 1.3 down to SSLv3: five more short connections to each host."
    )
    alpn: list[str] | None = Field(
        None,
        max_length=10,
        description="Protocols to offer by ALPN, such as h2. Default: h2 and http/1.1; none where port or starttls say it is not HTTP.",
    )
    expiring_days: int = Field(
        30, ge=0, le=3650, description="Warn about certificates that expire within so many days, 0 to 3650."
    )
    timeout: float = Field(
        8.0,
        ge=0.5,
        le=60,
        description="Seconds each connection may take, from the first packet to the end of the handshake, 0.5 to 60.",
    )

    @field_validator("alpn")
    @classmethod
    def _protocols(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if not (name.isascii() and name.isprintable() and 1 <= len(name) <= 255):
                raise ValueError(f"{name[:40]!r} is not a protocol; right would be h2 or http/1.1")
        return names

    @property
    def tcp_port(self) -> int:
        """The port that is asked."""
        return self.port or PORTS[self.starttls]

    def scope(self) -> Scope:
        want = min(1000, max(50, 20 * len(self.targets)))
        return Scope(targets=tuple(self.targets), ports=(self.tcp_port,), packets_per_second=want)

    def deadline(self) -> float:
        connections = 2 + (len(Version) if self.versions else 0)
        silent = -(-len(self.targets) // IN_FLIGHT) * connections * self.timeout
        packets = connections * (OPENING_PACKETS + HANDSHAKE_PACKETS)
        paced = len(self.targets) * packets / self.scope().least_packets_per_second
        return min(TIMEOUT_SECONDS, silent + paced + 10 + REPORTING_SECONDS)

    def about(self) -> str:
        return f"{super().about()[:400]} port {self.tcp_port}"[:500]

    def offered(self) -> tuple[str, ...]:
        """What to offer by ALPN."""
        if self.alpn is not None:
            return tuple(self.alpn)
        is_http = self.starttls is StartTls.NONE and self.tcp_port not in _OWN_ALPN
        return ("h2", "http/1.1") if is_http else ()


class TlsHost(BaseModel):
    """What one host shows, in a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    state: Literal["tls", "no_tls", "unreachable", "not_tried"] = Field(
        description="tls; no_tls when it answers otherwise; unreachable; not_tried: no address, or the deadline came first."
    )
    valid: bool | None = Field(
        None,
        description="Whether a client would take its certificate: chain, dates and name. None when that is not known.",
    )
    reason: str | None = Field(None, description="Why not, or why there is no more.")
    days_left: int | None = Field(None, description="Whole days until its certificate expires; negative when it has.")
    subject: str | None = Field(None, description="Whom its certificate names.")
    issuer: str | None = Field(None, description="Who issued it.")
    trusted: bool | None = Field(None, description="Whether the chain and its dates hold, whatever the name.")
    name_matches: bool | None = Field(None, description="Whether the certificate is for the name asked for.")
    protocol: str | None = Field(None, description="Version of TLS a client of today gets.")
    suite: str | None = Field(None, description="Cipher suite it gets.")
    alpn: str | None = Field(None, description="Protocol chosen by ALPN.")
    versions: list[str] = Field(default_factory=list, description="Versions it speaks, the newest first.")
    staple: str | None = Field(
        None, description="Status in the OCSP response sent along with TLS 1.2 and older; its signature is not checked."
    )
    wants_certificate: bool | None = Field(
        None, description="Whether it asks for a client's certificate, up to TLS 1.2."
    )
    address: str | None = Field(None, description="The address that was looked at.")


class SentCertificate(Certificate):
    """A certificate and who sent it."""

    target: str = Field(description="The target as asked.")
    place: int = Field(ge=0, description="Place in the chain as sent: 0 is the server's own.")


class AskedVersion(BaseModel):
    """What a host answered when it was offered one version only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    version: Version = Field(description="The version, as OpenSSL writes it.")
    offered: Answered = Field(description="yes, no, or unknown when there was no answer to tell by.")
    suite: str | None = Field(None, description="The cipher suite it picked from all there are.")
    detail: str | None = Field(None, description="How it said no.")


class TlsFinding(Finding):
    """Something that is wrong, and where."""

    targets: list[str] = Field(description=f"Targets it was seen at, at most {MOST_NAMED}; count has all.")


class TlsCertificateResult(ToolResult):
    """What the hosts show; the chain, the versions and the findings in tables of their own."""

    port: int = Field(description="TCP port that was asked.")
    hosts: list[TlsHost] = Field(description="One entry for each target, in the order asked.")
    findings: list[TlsFinding] = Field(description="What is wrong, the gravest first.")
    certificates: list[SentCertificate] = Field(description="Certificates in the order they were sent.")
    versions: list[AskedVersion] = Field(description="What each host answered to each version.")
    left_out: list[str] = Field(default_factory=list, description="What did not fit here and is in the report alone.")
    report: FileRef | None = Field(None, description="The whole result as JSON, when not all of it fits here.")

    def headline(self) -> str:
        if len(self.hosts) == 1:
            return self._one_line(self.hosts[0])
        counts = Counter(_class_of(host) for host in self.hosts)
        found = ", ".join(f"{counts[name]} {name}" for name in _CLASSES if name in counts)
        days = [host.days_left for host in self.hosts if host.days_left is not None]
        soonest = f"; the first expires in {count(min(days), 'day')}" if days and min(days) >= 0 else ""
        expired = sum(day < 0 for day in days)
        dates = f"; {expired} expired" if expired else soonest
        return f"{count(len(self.hosts), 'host')}: {found}{dates}{self._grave('; ')}"

    def _one_line(self, host: TlsHost) -> str:
        place = f"{host.target}:{self.port}" if ":" not in host.target else f"[{host.target}]:{self.port}"
        if host.state != "tls":
            return f"{place}: {host.reason or host.state.replace('_', ' ')}"
        verdict = {True: "valid", False: "not valid", None: "not verified"}[host.valid]
        why = f" ({host.reason})" if host.reason and not host.valid else ""
        days = "" if host.days_left is None else f", {count(host.days_left, 'day')} left"
        return f"{place}: {host.protocol or 'TLS'}, {verdict}{why}{days}{self._grave(', ')}"

    def _grave(self, before: str) -> str:
        number = sum(finding.severity.rank >= Severity.MEDIUM.rank for finding in self.findings)
        return f"{before}{count(number, 'finding')}" if number else ""

    def reached(self) -> bool:
        return any(host.state in ("tls", "no_tls") for host in self.hosts)


_CLASSES = ("valid", "not valid", "not verified", "without TLS", "unreachable", "not tried")


def _class_of(host: TlsHost) -> str:
    if host.state == "tls":
        return {True: "valid", False: "not valid", None: "not verified"}[host.valid]
    return {"no_tls": "without TLS"}.get(host.state, host.state.replace("_", " "))


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("tls_check", "certificate_check", "ssl_certificate"),
    examples=[
        Example("The certificate of a web server", {"targets": ["www.example.com"]}),
        Example(
            "Do the mail servers' certificates hold for two more weeks?",
            {"targets": ["mx1.example.com", "mx2.example.com"], "starttls": "smtp", "expiring_days": 14},
        ),
        Example(
            "A camera, by its address and its name",
            {"targets": ["10.0.0.11"], "server_name": "camera-11.example.com", "versions": False},
        ),
    ],
)
async def tls_certificate(params: TlsCertificate) -> TlsCertificateResult:
    """Verify the certificates of hosts, and ask which TLS versions they speak.

    The chain is shown as it was sent and verified by OpenSSL against the public authorities, the system's and `ca`; the name is
    judged apart, so that a certificate with several faults shows all of them. Each version from TLS 1.3 down to SSLv3 is asked for
    with a hand-made ClientHello, because this machine's OpenSSL would not offer the old ones; the handshake is not finished then.
    One connection at a time to each host. A host without TLS is a result, not an error.

    Raises:
        NotFound: No target's name resolves (of several, those that do not say so in `reason`).
        Busy: This machine is out of sockets or local ports.
    """
    run = current_run()
    assert run.grant is not None
    contexts = Contexts(params.ca)
    paces = Paces(Pacer(run.packets_per_second), run.policy.host_packets_per_second)
    slots = asyncio.Semaphore(IN_FLIGHT)
    surveys = {target.asked: Survey() for target in run.grant.targets}

    async def one(asked: str, addresses: tuple[str, ...]) -> None:
        question = Question(
            addresses=addresses,
            port=params.tcp_port,
            name=params.server_name or asked,
            starttls=params.starttls,
            alpn=params.offered(),
            timeout=params.timeout,
            versions=params.versions,
        )
        pace = paces.of(addresses[0])
        async with pace.turn, slots:
            await survey(surveys[asked], question, pace, contexts)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            try:
                async with asyncio.TaskGroup() as group:
                    for target in run.grant.targets:
                        group.create_task(one(target.asked, target.addresses))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
    missing = {name.asked: name.error.message for name in run.grant.unresolved}
    found = {asked: surveys.get(asked) or Survey(detail=missing.get(asked)) for asked in params.targets}
    result = _result(params, found)
    update, report = await spare(result, ("versions", "certificates", "findings"), f"port-{params.tcp_port}")
    return result.model_copy(update={**update, "report": report}) if update else result


def _result(params: TlsCertificate, found: dict[str, Survey]) -> TlsCertificateResult:
    return TlsCertificateResult(
        port=params.tcp_port,
        hosts=[_host(asked, one, params.server_name or asked) for asked, one in found.items()],
        findings=_gather(
            (asked, finding)
            for asked, one in found.items()
            for finding in judge(one, params.server_name or asked, params.expiring_days)
        ),
        certificates=[
            SentCertificate(target=asked, place=place, **dict(certificate.summary()))
            for asked, one in found.items()
            for place, certificate in enumerate(one.chain)
            if certificate is not None
        ],
        versions=[
            AskedVersion(target=asked, version=version, offered=offer.offered, suite=offer.suite, detail=offer.detail)
            for asked, one in found.items()
            for version, offer in one.offers.items()
        ],
    )


def _host(asked: str, found: Survey, name: str) -> TlsHost:
    if found.state != "tls":
        reason = found.detail or ("The deadline came first." if not found.complete else None)
        return TlsHost(target=asked, state=found.state, address=found.address, reason=reason)
    leaf = found.leaf
    matches = leaf.is_for(name) if leaf is not None else None
    reasons = [found.detail] if found.detail else []
    if found.trusted is False and found.distrust:
        reasons.append(f"The certificate does not hold: {found.distrust}.")
    if matches is False:
        reasons.append(f"It is not for {name}.")
    if not found.complete:
        reasons.append("The deadline came before every version was asked for.")
    unknown = [str(version) for version, offer in found.offers.items() if offer.offered == "unknown"]
    if unknown:
        reasons.append(f"Not known whether it speaks {', '.join(unknown)}: no answer to tell by.")
    staple = "none" if found.staple is None else found.staple.status
    return TlsHost(
        target=asked,
        state="tls",
        address=found.address,
        protocol=found.protocol,
        suite=found.suite,
        alpn=found.alpn,
        trusted=found.trusted,
        name_matches=matches,
        valid=_valid(found.trusted, matches),
        reason=" ".join(reasons) or None,
        days_left=leaf.days_left() if leaf is not None else None,
        subject=leaf.subject[:200] if leaf is not None else None,
        issuer=leaf.issuer[:200] if leaf is not None else None,
        versions=[str(version) for version in found.speaks],
        staple=staple if found.staple_known else None,
        wants_certificate=found.wants_certificate,
    )


def _valid(trusted: bool | None, matches: bool | None) -> bool | None:
    if trusted is False or matches is False:
        return False
    return None if trusted is None or matches is None else True


def _gather(seen: Iterable[tuple[str, Finding]]) -> list[TlsFinding]:
    """Join the same finding of several hosts into one, the gravest first."""
    joined: dict[tuple[Severity, str, str], list[Any]] = {}
    for asked, finding in seen:
        joined.setdefault((finding.severity, finding.code, finding.what), [finding]).append(asked)
    found = [
        TlsFinding(**{**dict(finding), "count": len(targets)}, targets=targets[:MOST_NAMED])
        for finding, *targets in joined.values()
    ]
    return sorted(found, key=lambda finding: (-finding.severity.rank, -finding.count))
