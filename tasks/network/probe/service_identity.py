"""`service_identity`: what services say about the device they run on: certificates, host keys, front pages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tasks.core.models import (
    MAX_TARGETS,
    Example,
    FileRef,
    Safety,
    Scope,
    Service,
    SiteParams,
    ToolResult,
    parse_target,
)
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network._sparing import spare
from tasks.network.probe._certificate import Parsed
from tasks.network.probe._connection import Connection, Pace, Paces, Patience, connect
from tasks.network.probe._front_page import FrontPage, NoPage, authority, read_front_page, same_server
from tasks.network.probe._page import shown
from tasks.network.probe._ssh_host_key import HostKey, NoHostKey, read_host_key
from tasks.network.probe._tls_survey import Contexts

TIMEOUT_SECONDS = 1200.0
IN_FLIGHT = 64
"""Services read at once; each host has one connection of ours at a time."""
MAX_ENDPOINTS = 512
PACKETS = 24
"""Packets one service costs at most: connections, a TLS handshake or a key exchange, a page and one redirect."""
REPORTING_SECONDS = 3.0
MOST_NAMES = 10
_PORTS = {"http": 80, "https": 443, "tls": 443, "ssh": 22}
_ENDPOINT = re.compile(r"(http|https|tls|ssh)://(?:\[([0-9a-f:.]+)\]|([^\s/:\[\]]+))(?::(\d{1,5}))?/?", re.IGNORECASE)


def parse_endpoint(text: Any) -> str:
    """Return an endpoint in its canonical spelling, always with its port.

    >>> parse_endpoint("HTTPS://Camera-7.example.com")
    'https://camera-7.example.com:443'

    Raises:
        ValueError: It is none; says what would be right.
    """
    match = _ENDPOINT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} names no service; right would be https://10.0.0.7, ssh://10.0.0.7:2222 or tls://10.0.0.7:8883"
        )
    kind = match[1].lower()
    host, port = parse_target(match[2] or match[3]), int(match[4] or _PORTS[kind])
    if "/" in host or not 0 < port < 65536:
        raise ValueError(f"{text!r} needs one host, and a port of 1 to 65535")
    return f"{kind}://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True)
class _Endpoint:
    text: str
    kind: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> _Endpoint:
        match = _ENDPOINT.fullmatch(text)
        assert match is not None
        return cls(text, match[1], match[2] or match[3], int(match[4]))


def _checked(endpoints: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(endpoints))
    hosts = {_Endpoint.of(text).host for text in distinct}
    if len(hosts) > MAX_TARGETS:
        raise ValueError(f"names {len(hosts)} hosts; at most {MAX_TARGETS} at a time")
    return distinct


class ServiceIdentity(SiteParams):
    """Parameters of `service_identity`."""

    endpoints: Annotated[
        list[Annotated[str, BeforeValidator(parse_endpoint)]],
        Field(min_length=1, max_length=MAX_ENDPOINTS),
        AfterValidator(_checked),
    ] = Field(
        description="Services such as https://10.0.0.7, http://10.0.0.7:8080, ssh://10.0.0.7 or tls://10.0.0.7:8883; "
        f"1 to {MAX_ENDPOINTS}, of at most {MAX_TARGETS} hosts."
    )
    timeout: float = Field(5.0, ge=0.5, le=30, description="Seconds each connection may take, 0.5 to 30.")

    def places(self) -> list[_Endpoint]:
        """The endpoints, taken apart."""
        return [_Endpoint.of(text) for text in self.endpoints]

    def scope(self) -> Scope:
        places = self.places()
        return Scope(
            targets=tuple(dict.fromkeys(place.host for place in places)),
            ports=tuple(sorted({place.port for place in places})),
            packets_per_second=min(1000, max(50, 20 * len(places))),
        )

    def deadline(self) -> float:
        places = self.places()
        most = max(Counter(place.host for place in places).values())
        silent = max(-(-len(places) // IN_FLIGHT), most) * 2 * self.timeout
        paced = len(places) * PACKETS / self.scope().least_packets_per_second
        return min(TIMEOUT_SECONDS, silent + paced + 10 + REPORTING_SECONDS)

    def about(self) -> str:
        text = ", ".join(self.endpoints)
        return text if len(text) <= 500 else f"{text[:480]} ... ({len(self.endpoints)})"


class Reading(StrEnum):
    """What came of one service."""

    READ = "read"
    SILENT = "silent"  # nothing came in time
    CLOSED = "closed"  # no connection, or it broke
    OTHER = "other"  # something else speaks there; `detail` says what was seen
    UNRESOLVED = "unresolved"  # the name has no address
    NOT_TRIED = "not_tried"  # the deadline came first


class Identity(BaseModel):
    """What one service says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(description="The service as asked.")
    address: str | None = Field(None, description="The address that was asked.")
    port: int = Field(description="TCP port.")
    outcome: Reading = Field(description="read, silent, closed, other, unresolved or not_tried.")
    detail: str | None = Field(None, description="What went wrong.")
    status: int | None = Field(None, description="Status code of the front page.")
    server: str | None = Field(None, description="What a web server calls itself (Server).")
    title: str | None = Field(None, description="Title of the front page.")
    location: str | None = Field(
        None, description="Where the front page sends a visitor, when that is not this server."
    )
    realm: str | None = Field(None, description="For what the front page wants a password.")
    certificate_names: list[str] = Field(
        default_factory=list, description=f"Names of its certificate, at most {MOST_NAMES}."
    )
    certificate_subject: str | None = Field(None, description="Whom its certificate names.")
    certificate_sha256: str | None = Field(None, description="Fingerprint of its certificate, hexadecimal.")
    certificate_until: datetime | None = Field(None, description="Until when its certificate is valid.")
    self_signed: bool | None = Field(None, description="Whether its certificate is signed with its own key.")
    host_key: str | None = Field(
        None, description="Fingerprint of the SSH host key it proved to have, as ssh-keygen writes it."
    )
    host_key_kind: str | None = Field(None, description="Kind of that key, such as ssh-ed25519.")
    banner: str | None = Field(None, description="SSH version line.")


class ServiceIdentityResult(ToolResult):
    """An entry for each service, in the order asked."""

    services: list[Identity] = Field(description="One entry for each service.")
    left_out: list[str] = Field(default_factory=list, description="What did not fit here and is in the report alone.")
    report: FileRef | None = Field(None, description="The whole result as JSON, when not all of it fits here.")

    def headline(self) -> str:
        if len(self.services) == 1:
            return _one_line(self.services[0])
        counts = Counter(found.outcome for found in self.services)
        said = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in Reading if outcome in counts]
        return f"{count(len(self.services), 'service')}: {', '.join(said)}"

    def reached(self) -> bool:
        return any(found.outcome in (Reading.READ, Reading.OTHER) for found in self.services)


def _one_line(found: Identity) -> str:
    if found.outcome is not Reading.READ:
        return f"{found.endpoint}: {found.outcome.replace('_', ' ')}, {found.detail}"
    parts = (found.title, found.server, ", ".join(found.certificate_names[:3]), found.host_key)
    said = "; ".join(part for part in parts if part)
    return f"{found.endpoint}: {said or found.status or 'read'}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    retries=1,
    aliases=("service_id", "ssh_host_key", "ssh_keyscan"),
    examples=[
        Example("A camera's web pages and certificate", {"endpoints": ["http://10.0.0.11", "https://10.0.0.11"]}),
        Example("SSH host keys of two servers", {"endpoints": ["ssh://10.0.0.21", "ssh://10.0.0.22:2222"]}),
        Example("The certificate of an MQTT broker", {"endpoints": ["tls://10.0.0.30:8883"]}),
    ],
)
async def service_identity(params: ServiceIdentity) -> ServiceIdentityResult:
    """Read certificates, SSH host keys and front pages of many services.

    Short and in bulk, for telling devices apart: certificates are read, not judged (`tls_certificate` does that), of a web server the front
    page up to its title, and SSH up to where the server proves its host key. One connection at a time to each host. A service that does
    not answer is a result, not an error.

    Raises:
        NotFound: No host's name resolves (of several, those that do not say so in `detail`).
        Busy: This machine is out of sockets or local ports.
    """
    run = current_run()
    assert run.grant is not None
    places = params.places()
    addresses = {target.asked: target.addresses for target in run.grant.targets}
    missing = {name.asked: name.error.message for name in run.grant.unresolved}
    paces = Paces(Pacer(run.packets_per_second), run.policy.host_packets_per_second)
    contexts = Contexts(None)
    slots = asyncio.Semaphore(IN_FLIGHT)
    found: dict[str, Identity] = {}

    async def one(place: _Endpoint) -> None:
        pace = paces.of(addresses[place.host][0])
        async with pace.turn, slots:
            found[place.text] = await _Look(place, addresses[place.host], pace, contexts, params.timeout).perform()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(params.deadline() - REPORTING_SECONDS):
            try:
                async with asyncio.TaskGroup() as group:
                    for place in places:
                        if place.host in addresses:
                            group.create_task(one(place))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
    services = [
        found.get(place.text)
        or Identity(
            endpoint=place.text,
            port=place.port,
            outcome=Reading.UNRESOLVED if place.host in missing else Reading.NOT_TRIED,
            detail=missing.get(place.host, "the deadline came first"),
        )
        for place in places
    ]
    result = ServiceIdentityResult(services=services)
    update, report = await spare(result, ("services",), "services")
    return result.model_copy(update={**update, "report": report}) if update else result


@dataclass
class _Look:
    """One look at one service."""

    place: _Endpoint
    addresses: tuple[str, ...]
    pace: Pace
    contexts: Contexts
    timeout: float

    async def perform(self) -> Identity:
        said: dict[str, Any] = {}
        try:
            await self._read(said)
            outcome, detail = Reading.READ, None
        except (NoHostKey, NoPage) as problem:
            outcome, detail = Reading.OTHER, str(problem)
            if isinstance(problem, NoHostKey) and problem.banner:
                said["banner"] = shown(problem.banner)
        except TimeoutError:
            outcome, detail = Reading.SILENT, f"nothing came within {self.timeout:g} s"
        except ssl.SSLError as problem:
            outcome, detail = (
                Reading.OTHER,
                f"no TLS: {(problem.reason or 'handshake failed').replace('_', ' ').lower()}",
            )
        except OSError as problem:
            outcome, detail = (
                Reading.CLOSED,
                os.strerror(problem.errno).lower() if problem.errno else "the connection broke",
            )
        if said and outcome in (Reading.SILENT, Reading.CLOSED, Reading.OTHER) and "certificate_sha256" in said:
            outcome = Reading.READ  # the certificate came; that the page did not is in the detail
        address = said.pop("address", self.addresses[0])
        return Identity(
            endpoint=self.place.text, address=address, port=self.place.port, outcome=outcome, detail=detail, **said
        )

    async def _read(self, said: dict[str, Any]) -> None:
        match self.place.kind:
            case "ssh":
                async with self._connected(said) as connection:
                    said |= _host_key(await read_host_key(connection))
            case "tls":
                async with self._connected(said, tls=True):
                    pass
            case scheme:
                page = await self._page(said, scheme, "/")
                onward = page.location and same_server(page.location, scheme, self.place.host, self.place.port)
                if onward and page.title is None:
                    with contextlib.suppress(OSError, NoPage):
                        further = await self._page({}, scheme, onward)
                        page = FrontPage(
                            page.status, page.server or further.server, further.title, further.location, further.realm
                        )
                said |= {
                    "status": page.status,
                    "server": page.server,
                    "title": page.title,
                    "location": page.location,
                    "realm": page.realm,
                }

    async def _page(self, said: dict[str, Any], scheme: str, path: str) -> FrontPage:
        host = authority(scheme, self.place.host, self.place.port)
        async with self._connected(said, tls=scheme == "https") as connection:
            return await read_front_page(connection, host, path)

    @contextlib.asynccontextmanager
    async def _connected(self, said: dict[str, Any], *, tls: bool = False) -> Any:
        connection = await connect(
            self.addresses, self.place.port, pace=self.pace, patience=Patience(self.timeout), deposit=6
        )
        said["address"] = connection.address
        try:
            if tls:
                await self._start_tls(connection, said)
            yield connection
        finally:
            await connection.aclose(rest=True)

    async def _start_tls(self, connection: Connection, said: dict[str, Any]) -> None:
        # The usual port of HTTPS gets ALPN as browsers send it; a server of another protocol may hang up on who offers it.
        offered = ("http/1.1",) if self.place.kind == "https" else ()
        name = None if re.fullmatch(r"[0-9.]+|.*:.*", self.place.host) else self.place.host
        await connection.start_tls(self.contexts.get(False, offered), name)
        der = connection.tls.getpeercert(binary_form=True) if connection.tls is not None else None
        if der:
            with contextlib.suppress(ValueError):  # a certificate nobody can read
                said |= _certificate(Parsed(der))


def _host_key(key: HostKey) -> dict[str, Any]:
    return {"host_key": key.fingerprint, "host_key_kind": key.kind, "banner": shown(key.banner)}


def _certificate(parsed: Parsed) -> dict[str, Any]:
    summary = parsed.summary()
    names = summary.names or ([name] if (name := shown(parsed.common_name)) else [])
    return {
        "certificate_names": names[:MOST_NAMES],
        "certificate_subject": summary.subject[:200],
        "certificate_sha256": summary.sha256,
        "certificate_until": summary.not_after,
        "self_signed": summary.self_signed,
    }
