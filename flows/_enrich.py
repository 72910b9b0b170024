"""What live hosts say about themselves beyond their ports: certificates, SSH host keys, front pages, and SNMP where a site has credentials.

Asked after the ports are known, of services that are known to be such, and inside the gate and the budget like everything else. What fails
here costs nothing but what it would have brought: a host that was found stays found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from flows._agents import PRINTER_MODEL, PRINTER_SERIAL
from flows._cameras import AxisDevice, ask_axis, axis_ports
from tasks.asset._identity import parse_address
from tasks.core.errors import ToolError
from tasks.core.log import run_logger
from tasks.core.run import wiring
from tasks.network.probe._snmp_views import View
from tasks.network.probe.service_identity import Identity, ServiceIdentity, ServiceIdentityResult, service_identity
from tasks.network.probe.snmp_query import Agent, SnmpQuery, SnmpQueryResult, everything, snmp_query

if TYPE_CHECKING:
    from tasks.core.models import FileRef

BATCH = 100
"""Services asked about in one call: what it says fits the ledger."""
MOST_SERVICES = 8
"""Services of one host that are read, lowest ports first: one with hundreds is a trap or a test."""
SERVICE_SECONDS = 3.0
"""Longest wait for one connection: these services answered nmap a moment ago, and what is slower is read next time."""
SNMP_VIEWS = [View.SYSTEM, View.INTERFACES, View.ADDRESSES, View.ENTITY]
SNMP_SECONDS = 20.0
_TLS_NAMES = frozenset({"tls", "smtps", "imaps", "pop3s", "ldaps", "ftps", "ircs", "sips", "domain-s"})
_PREFERRED = (443, 80, 8443, 8080)
_STRANGE = {
    "wrong_community": "the community is another there, or version 2c is not for this machine",
    "wrong_password": "the authentication password or protocol is another",
    "wrong_encryption": "the encryption password or protocol is another",
    "unknown_user": "the user is unknown there",
    "wrong_level": "the user has another level of protection there",
    "not_allowed": "the user may not read there",
    "not_in_time_window": "their clocks do not fit",
}


class Service(Protocol):
    """An open port; `SeenService` is one."""

    @property
    def protocol(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Said:
    """What one host said.

    Attributes:
        ssh_host_keys: Fingerprints it proved to have.
        names: Names its certificates are for.
        facts: Metadata of the asset.
        agent: What its SNMP agent said.
        axis: What it said of itself as an Axis device.
    """

    ssh_host_keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    agent: Agent | None = None
    axis: AxisDevice | None = None


NOTHING_SAID = Said()


@dataclass
class Enrichment:
    """What the hosts of a shard said.

    Attributes:
        said: By address.
        notes: What a person should know: credentials that do not fit.
    """

    said: dict[str, Said] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


async def enrich(
    hosts: Mapping[str, Sequence[Service]],
    site: str,
    snmp: str | None,
    vendors: Mapping[str, str | None] | None = None,
    announced: Mapping[str, Mapping[str, str]] | None = None,
) -> Enrichment:
    """Ask live hosts what they say about themselves, one kind of question after the other: no host is asked by two tools at once.

    Args:
        hosts: Addresses with their open ports.
        site: The site.
        snmp: Block with the site's SNMP credentials; None: SNMP is not spoken.
        vendors: Who made each, as its MAC says, by address.
        announced: What they said when everybody was asked, by address.
    """
    result = Enrichment()
    found = await _services(hosts, site)
    agents = await _agents(list(hosts), site, snmp, result) if snmp else {}
    together = {address: _put_together(found.get(address, []), agents.get(address)) for address in hosts}
    facts = {address: {**(announced or {}).get(address, {}), **said.facts} for address, said in together.items()}
    devices = await ask_axis(axis_ports(hosts, vendors or {}, facts), site)
    for address, one in together.items():
        said = replace(one, axis=devices.get(address))
        if said != NOTHING_SAID:
            result.said[address] = said
    return result


def endpoints(hosts: Mapping[str, Sequence[Service]]) -> list[str]:
    """Name the services of hosts that say something about the device."""
    named: list[str] = []
    for address, services in hosts.items():
        telling = [(kind, service.port) for service in services if (kind := _kind(service)) is not None]
        telling.sort(key=lambda one: (one[0] != "ssh", *_rank(one[1])))
        host = f"[{address}]" if ":" in address else address
        named += [f"{kind}://{host}:{port}" for kind, port in telling[:MOST_SERVICES]]
    return named


def _rank(port: int) -> tuple[int, int]:
    """Usual ports first, encrypted before plain: what stands on a device's main page says most."""
    return (_PREFERRED.index(port) if port in _PREFERRED else len(_PREFERRED)), port


def _kind(service: Service) -> str | None:
    """Say how to ask a service who it is, by the name nmap found; None for those that do not tell."""
    name = service.name
    if service.protocol != "tcp":
        return None
    if name in ("ssh", "https"):
        return name
    if name in _TLS_NAMES or name.endswith(" over TLS"):
        return "tls"
    return "http" if name == "http" or name.startswith("http-") else None


async def _services(hosts: Mapping[str, Sequence[Service]], site: str) -> dict[str, list[Identity]]:
    wanted = endpoints(hosts)
    batches = [wanted[at : at + BATCH] for at in range(0, len(wanted), BATCH)]
    found: dict[str, list[Identity]] = {}
    for answer in await asyncio.gather(*(_identities(batch, site) for batch in batches)):
        for identity in answer:
            if identity.address is not None:
                found.setdefault(identity.address, []).append(identity)
    return found


async def _identities(batch: list[str], site: str) -> Sequence[Identity]:
    try:
        # Not tried again: what is not read today is read by the next discovery.
        answer: ServiceIdentityResult = await service_identity.spec.task.with_options(retries=0)(
            ServiceIdentity(endpoints=batch, site=site, timeout=SERVICE_SECONDS)
        )
        if answer.report is not None:
            answer = ServiceIdentityResult.model_validate_json(await _file(answer.report))
    except ToolError as problem:
        run_logger().warning("What services say about their devices is not known: %s", problem)
        return []
    return answer.services


async def _file(ref: FileRef) -> bytes:
    store = await wiring().store(ref.site)
    try:
        return await asyncio.to_thread(store.path(ref.name).read_bytes)
    except OSError as problem:
        raise ToolError(f"The file {ref.name} cannot be read: {problem.strerror}.") from None


async def _agents(addresses: list[str], site: str, snmp: str, result: Enrichment) -> dict[str, Agent]:
    params = SnmpQuery(
        targets=addresses,
        credentials=snmp,
        views=SNMP_VIEWS,
        get=[PRINTER_SERIAL, PRINTER_MODEL],
        timeout=1.0,
        max_seconds=SNMP_SECONDS,
        site=site,
    )
    try:
        answer: SnmpQueryResult = await snmp_query.spec.task.with_options(retries=0)(params)
        answer = await everything(answer)
    except ToolError as problem:
        run_logger().warning("SNMP: %s", problem)
        result.notes.append(f"SNMP was not asked: {problem.message}")
        return {}
    for outcome, why in _STRANGE.items():
        refusing = [agent.target for agent in answer.agents if agent.outcome == outcome]
        if refusing:
            more = f" and {len(refusing) - 3} more" if len(refusing) > 3 else ""
            result.notes.append(f"{', '.join(refusing[:3])}{more}: {snmp} does not fit, {why}.")
    return {agent.address: agent for agent in answer.agents if agent.answered and agent.address}


def _put_together(identities: Sequence[Identity], agent: Agent | None) -> Said:
    keys = tuple(dict.fromkeys(found.host_key for found in identities if found.host_key))
    ranked = sorted(identities, key=lambda found: _rank(found.port))
    names = tuple(dict.fromkeys(name for found in ranked for name in found.certificate_names))
    facts: dict[str, str] = {}
    for found in ranked:
        told = {
            "http_title": found.title,
            "http_server": found.server,
            "http_realm": found.realm,
            "tls_names": ", ".join(found.certificate_names),
            "tls_sha256": found.certificate_sha256,
            "tls_until": found.certificate_until.date().isoformat() if found.certificate_until else None,
        }
        if found.certificate_sha256 and "tls_sha256" in facts:  # what belongs together comes from one certificate
            told = {key: value for key, value in told.items() if not key.startswith("tls_")}
        for key, value in told.items():
            if value:
                facts.setdefault(key, value)
    return Said(keys, names, facts, agent)


def certificate_hostnames(said: Mapping[str, Said], named: Iterable[str]) -> dict[str, list[str]]:
    """Names that certificates give to addresses without any, to be asked whether they lead there: a certificate is copied easily."""
    known = set(named)
    found: dict[str, list[str]] = {}
    for address, one in said.items():
        names = [name.lower() for name in one.names if "." in name and "*" not in name and not _is_address(name)]
        if names and address not in known:
            found[address] = names[:3]
    return found


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True
