"""The gate: what may be probed, and where a URL given as a parameter may lead. Nothing is sent before it has said yes.

Two doors. `admit` looks at the targets of network and camera tools: it resolves names, checks every address against the
site's policy and hands back pinned addresses, so that a name which resolves differently a moment later changes nothing.
`admit_delivery` looks at URLs that came as parameters: public addresses only, unless the policy names the others.

An address is checked as everything it may reach: `::ffff:10.0.0.5` is 10.0.0.5; a NAT64, 6to4 or Teredo address must
pass itself *and* as the IPv4 address it carries. (A NAT64 prefix out of an organisation's own IPv6 range cannot be told
from other addresses: who allows one excludes in it what must not be reached through it.)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from tasks.core.cidr import AddressSet, PrefixTable, canonical, embedded_ipv4, is_single, may_embed_ipv4, single
from tasks.core.delivery import PinnedUrl, admit_delivery
from tasks.core.errors import InvalidParameters, NotFound, Refused, ToolError
from tasks.core.models import Address, Network, Safety, Scope, format_ports, parse_target
from tasks.core.resolve import Resolve, resolve_all, resolve_host

if TYPE_CHECKING:
    from blocks.policy import ProbePolicy

__all__ = [
    "Grant",
    "Granted",
    "Normalised",
    "PinnedUrl",
    "Unresolved",
    "admit",
    "admit_delivery",
    "check_safety",
    "normalise_targets",
    "readmit",
]

MAX_IPV6_PREFIX = 4096
"""Most addresses of one IPv6 prefix: larger ones cannot be swept in any useful time, whatever the policy's cap."""
WIDEST_IPV4 = 8
"""Widest IPv4 prefix that can be allowed or asked for."""
_NAMED = 4
"""How many prefixes, rules or problems a message names before it counts the rest."""
_PLAIN_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_NO_HOST = PrefixTable(
    (ipaddress.ip_network(prefix), what)
    for prefix, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("224.0.0.0/4", "a multicast address"),
        ("255.255.255.255/32", "the broadcast address"),
        ("::/128", "the unspecified address"),
        ("ff00::/8", "a multicast address"),
    )
)


@dataclass(frozen=True, slots=True)
class Granted:
    """One target that may be probed.

    Attributes:
        asked: The target as asked: a name, an address or a prefix.
        addresses: Pinned addresses of a host, in the resolver's order; empty for a prefix.
        network: The prefix asked for, exclusions not taken off (see `Grant.networks`); None for a host.
    """

    asked: str
    addresses: tuple[str, ...]
    network: str | None = None


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A target of several whose name has no address: nothing was sent to it."""

    asked: str
    error: ToolError = field(compare=False)


@dataclass(frozen=True)
class Grant:
    """The gate's yes: exactly these addresses and ports may be touched.

    Attributes:
        site: The site whose policy said so.
        targets: What may be probed, in the order asked.
        ports: The ports asked for.
        allowed_by: The rules of the policy that allow it.
        excluded: Parts of the prefixes asked for that policy leaves out: for `--exclude` of programs, and for coverage.
        networks: The prefixes asked for, merged, without what is excluded.
        unresolved: Names that do not resolve, when others did; alone they are an error.
        notes: What a person should know: the reasons of the exclusions.
    """

    site: str
    targets: tuple[Granted, ...]
    ports: tuple[int, ...] = ()
    allowed_by: str = ""
    excluded: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Pinned addresses of all hosts, each once, in the order asked."""
        return tuple(dict.fromkeys(address for target in self.targets for address in target.addresses))

    def pinned(self, asked: str) -> Granted:
        """Return what was granted for one target.

        Raises:
            NotFound: Its name does not resolve.
            Unreachable: The resolver did not answer for it.
            Refused: It was never asked for.
        """
        for target in self.targets:
            if target.asked == asked:
                return target
        for missing in self.unresolved:
            if missing.asked == asked:
                raise missing.error
        raise Refused(f"{asked} is not among the targets the gate has seen.")

    def covers(self, address: str) -> bool:
        """Whether packets may go to this address under this grant."""
        wanted = canonical(ipaddress.ip_address(address))
        return str(wanted) in self.addresses or wanted in AddressSet(map(ipaddress.ip_network, self.networks))


class Normalised(NamedTuple):
    """Targets without repetitions, and what was merged."""

    targets: tuple[str, ...]
    notes: tuple[str, ...]


# --- the probe door --------------------------------------------------------------------------------------------------


async def admit(scope: Scope, policy: ProbePolicy, *, resolve: Resolve | None = None) -> Grant:
    """Let a probe through, or say why not. Nothing is sent to any target.

    A host is let through with all its addresses or not at all: when one of a name's addresses is not allowed or is
    excluded, the name is refused. A prefix must lie wholly in what is allowed; excluded parts are left out of it.

    Args:
        scope: Targets and ports.
        policy: The site's policy.
        resolve: Another resolver than the system's.

    Raises:
        InvalidParameters: A target is malformed, or there is none.
        Refused: Policy forbids a target or port, or there are too many addresses; names the rule and the command that
            changes it.
        NotFound: No target resolves. When some do, the others are in `Grant.unresolved`.
        Unreachable: The resolver did not answer for any target.
    """
    ports = _check_ports(scope.ports, policy)
    asked = [(text, parsed) for text, parsed in zip(scope.targets, _parse_all(scope.targets), strict=True)]
    rules = _Rules(policy)
    names = [parsed for _, parsed in asked if isinstance(parsed, str)]
    if names:
        # Addresses and prefixes first: what is refused anyway needs no look-up.
        rules.grant([(text, [parsed]) for text, parsed in asked if not isinstance(parsed, str)])
    found = await resolve_all(names, resolve or resolve_host)
    items: list[tuple[str, list[Network]]] = []
    unresolved: list[Unresolved] = []
    for text, parsed in asked:
        answer = found[parsed] if isinstance(parsed, str) else None
        if isinstance(answer, ToolError):
            unresolved.append(Unresolved(text, answer))
        elif answer is not None:
            items.append((text, list(dict.fromkeys(_pin(text, address) for address in answer))))
        elif not isinstance(parsed, str):
            items.append((text, [parsed]))
    if not items:
        raise _none_resolves(unresolved)
    return replace(rules.grant(items), ports=ports, unresolved=tuple(unresolved))


def readmit(grant: Grant, policy: ProbePolicy) -> Grant:
    """Check a grant again, with the policy of now and the addresses of then: names are not resolved a second time.

    Raises:
        Refused: Policy has changed and forbids what it allowed.
    """
    ports = _check_ports(grant.ports, policy)
    items = [
        (target.asked, [ipaddress.ip_network(text) for text in target.addresses or (target.network or "",)])
        for target in grant.targets
    ]
    return replace(_Rules(policy).grant(items), ports=ports, unresolved=grant.unresolved)


def check_safety(safety: Safety, policy: ProbePolicy, tool: str) -> None:
    """Refuse a tool that may do more than the site's ceiling.

    Raises:
        Refused: `safety` is above `policy.ceiling`.
    """
    ceiling = Safety(policy.ceiling)
    if safety > ceiling:
        raise Refused(
            f"{tool} may {safety} things; the ceiling of site {policy.site} is {ceiling}.",
            hint=f"Raise it with: signalbox policy ceiling {safety}{_at(policy)}",
        )


def normalise_targets(targets: Iterable[str]) -> Normalised:
    """Merge duplicate and overlapping targets, and say what was merged.

    >>> normalise_targets(["10.0.0.0/24", "10.0.0.7", "10.0.0.0/24"]).targets
    ('10.0.0.0/24',)

    Raises:
        InvalidParameters: A target is malformed, or there is none; all wrong ones are named.
    """
    given = tuple(targets)
    kept: dict[str | Network, str] = {}
    notes: list[str] = []
    for text, parsed in zip(given, _parse_all(given), strict=True):
        if parsed in kept:
            notes.append(f"{text} is named more than once")
        else:
            kept[parsed] = text
    networks = [parsed for parsed in kept if not isinstance(parsed, str)]
    wider = PrefixTable((network, network) for network in networks)
    for network in networks:
        if (inside := _strictly_within(network, wider)) is not None:
            notes.append(f"{_show(network)} is inside {inside}")
            del kept[network]
    return Normalised(tuple(parsed if isinstance(parsed, str) else _show(parsed) for parsed in kept), tuple(notes))


# --- how it is decided -----------------------------------------------------------------------------------------------


class _Rules:
    """A policy made ready for many questions."""

    def __init__(self, policy: ProbePolicy) -> None:
        self.policy = policy
        allowed = [ipaddress.ip_network(text) for text in policy.allow]
        excluded = [(ipaddress.ip_network(entry.target), entry) for entry in policy.exclude]
        self.allowed = AddressSet(allowed)
        self.allow_entries = allowed
        self.allow = PrefixTable((network, network) for network in allowed)
        self.excluded = AddressSet(network for network, _ in excluded)
        self.exclusions = excluded
        self.exclude = PrefixTable(excluded)

    def grant(self, items: Sequence[tuple[str, list[Network]]]) -> Grant:
        """Decide on targets that are already addresses and prefixes.

        Raises:
            Refused: One of them is forbidden, or all of them are too many.
        """
        problems = _Problems(self.policy)
        prefixes: list[Network] = []
        hosts: list[Network] = []
        used: dict[Network, None] = {}
        granted: list[Granted] = []
        for asked, networks in items:
            for network in networks:
                if is_single(network):
                    self._check_host(asked, network, problems, used)
                    hosts.append(network)
                else:
                    if self._check_prefix(network, problems, used):
                        prefixes.append(network)
            if len(networks) == 1 and not is_single(networks[0]):
                granted.append(Granted(asked, (), str(networks[0])))
            else:
                granted.append(Granted(asked, tuple(str(network.network_address) for network in networks)))
        wanted = AddressSet(prefixes)
        left = wanted - self.excluded
        excluded = wanted & self.excluded
        total = (left | AddressSet(hosts)).count()
        if total > self.policy.max_addresses:
            problems.add_too_many(total)
        problems.raise_any()
        return Grant(
            site=self.policy.site,
            targets=tuple(granted),
            allowed_by=f"allow {_listed(str(network) for network in used)}",
            excluded=tuple(str(network) for network in excluded.networks()),
            networks=tuple(str(network) for network in left.networks()),
            notes=self._reasons(excluded),
        )

    def _check_host(self, asked: str, host: Network, problems: _Problems, used: dict[Network, None]) -> None:
        address = host.network_address
        for meaning in (address, *embedded_ipv4(address)):
            what = _NO_HOST.find(meaning)
            if what is not None:
                problems.add(f"{_who(asked, address, meaning)} is {what}, which no host has")
            elif (exclusion := self.exclude.find(meaning)) is not None:
                problems.add_excluded(_who(asked, address, meaning), exclusion.target, exclusion.reason)
            elif (rule := self.allow.find(meaning)) is None:
                problems.add_missing(_who(asked, address, meaning), [host if meaning is address else single(meaning)])
            else:
                used[rule] = None

    def _check_prefix(self, network: Network, problems: _Problems, used: dict[Network, None]) -> bool:
        """Note what is wrong with a prefix; return whether its addresses can be counted at all."""
        if network.version == 6:
            if network.num_addresses > MAX_IPV6_PREFIX:
                problems.add(
                    f"{network} has more than {MAX_IPV6_PREFIX:,} addresses; "
                    "of IPv6, prefixes of /116 and longer and single hosts can be probed"
                )
                return False
            if may_embed_ipv4(network):
                problems.add(f"{network} holds addresses that stand for IPv4 hosts; name those by their IPv4 addresses")
                return False
        elif network.prefixlen < WIDEST_IPV4:
            problems.add(
                f"{network} is wider than /{WIDEST_IPV4}: nobody's network is that large; name the networks you run"
            )
            return False
        what = _NO_HOST.find(network) or _NO_HOST.find(network[-1])
        if what is not None:
            problems.add(f"{network} holds {what}, which no host has")
            return False
        missing = AddressSet([network]) - self.allowed
        if missing:
            problems.add_missing(str(network), missing.networks(), part=missing.count() < network.num_addresses)
            return True
        if self.excluded.covers(network):
            exclusion = self.exclude.find(network)
            if exclusion is None:  # several exclusions cover it together
                exclusion = next(entry for excluded, entry in self.exclusions if _overlap(excluded, network))
            problems.add_excluded(f"all of {network}", exclusion.target, exclusion.reason)
            return True
        rule = self.allow.find(network)
        for entry in (
            [rule] if rule is not None else [entry for entry in self.allow_entries if _overlap(entry, network)]
        ):
            used[entry] = None
        return True

    def _reasons(self, excluded: AddressSet) -> tuple[str, ...]:
        if not excluded:
            return ()
        return tuple(
            f"{entry.target} is left out: {entry.reason}"
            for network, entry in self.exclusions
            if excluded.overlaps(network)
        )


class _Problems:
    """Everything that is wrong with a request, told in one refusal."""

    def __init__(self, policy: ProbePolicy) -> None:
        self.policy = policy
        self.said: list[str] = []
        self.hints: dict[str, None] = {}
        self.missing: list[Network] = []

    def add(self, problem: str) -> None:
        self.said.append(problem)

    def add_excluded(self, who: str, rule: str, reason: str) -> None:
        self.said.append(f"{who} is excluded by policy ({rule}: {reason})")
        self.hints[f"signalbox policy exclude --remove {rule}{_at(self.policy)}"] = None

    def add_missing(self, who: str, networks: list[Network], *, part: bool = False) -> None:
        if part:
            self.said.append(f"{_listed(map(str, networks))} of {who} is not allowed")
        else:
            self.said.append(f"{who} is not allowed")
        self.missing += networks

    def add_too_many(self, total: int) -> None:
        self.said.append(f"{total:,} addresses are more than the {self.policy.max_addresses:,} one run may probe")
        self.hints[f"signalbox policy max-addresses {total}{_at(self.policy)}"] = None

    def raise_any(self) -> None:
        if not self.said:
            return
        said = "; ".join(self.said[:_NAMED]) + (
            f"; and {len(self.said) - _NAMED} more" if len(self.said) > _NAMED else ""
        )
        allowed = f"allows {_listed(self.policy.allow)}" if self.policy.allow else "allows nothing"
        message = f"targets: {said}." + (f" Site {self.policy.site} {allowed}." if self.missing else "")
        commands = [
            f"signalbox policy allow {network}{_at(self.policy)}" for network in AddressSet(self.missing).networks()
        ]
        commands += self.hints
        hint = None
        if commands:
            more = f" (and {len(commands) - _NAMED} more)" if len(commands) > _NAMED else ""
            hint = f"If it should be probed: {'; '.join(commands[:_NAMED])}{more}"
        raise Refused(message, hint=hint)


def _check_ports(ports: Iterable[int], policy: ProbePolicy) -> tuple[int, ...]:
    asked = tuple(sorted(set(ports)))
    never = [port for port in asked if policy.is_never_port(port)]
    if never:
        raise Refused(
            f"ports: {format_ports(never)} must never be touched at site {policy.site}: "
            "printers print what arrives there, controllers stop (never_ports of its policy).",
            hint=f"If you know what listens there: signalbox policy ports --open {format_ports(never)}{_at(policy)}",
        )
    return asked


def _parse_all(targets: Sequence[str]) -> list[str | Network]:
    if not targets:
        raise InvalidParameters(
            "targets: names nothing to probe.", hint="Right would be 192.168.1.0/24 or printer.example.com."
        )
    parsed: list[str | Network] = []
    wrong: list[str] = []
    for text in targets:
        try:
            parsed.append(_parse(text))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise InvalidParameters(f"targets: {_listed(wrong, '; ')}.")
    return parsed


def _parse(text: str) -> str | Network:
    """Return a name as text, an address or prefix as a network."""
    target = parse_target(text) if not _PLAIN_IPV4.fullmatch(text) else text
    if "/" in target:
        return ipaddress.ip_network(target)
    try:
        return single(canonical(ipaddress.ip_address(target)))
    except ValueError:
        return parse_target(target)


def _pin(name: str, address: str) -> Network:
    """Turn a resolver's answer into a pinned address; a zone (`fe80::1%eth0`) is dropped: policy knows addresses only."""
    try:
        return single(canonical(ipaddress.ip_address(address.partition("%")[0])))
    except ValueError:
        raise NotFound(f"{name} resolves to {address[:60]!r}, which is not an address.") from None


def _none_resolves(unresolved: Sequence[Unresolved]) -> ToolError:
    if len(unresolved) == 1:
        error = unresolved[0].error
        return type(error)(f"targets: {error.message}", hint=error.hint)
    # One name the resolver could not say may resolve on a retry: the more hopeful error speaks for all.
    error = next((missing.error for missing in unresolved if missing.error.retryable), unresolved[0].error)
    return type(error)(f"targets: none resolves: {_listed(missing.asked for missing in unresolved)}.", hint=error.hint)


def _strictly_within(network: Network, table: PrefixTable[Network]) -> Network | None:
    return table.find(network.supernet()) if network.prefixlen else None


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _show(network: Network) -> str:
    return str(network.network_address) if is_single(network) else str(network)


def _who(asked: str, address: Address, meaning: Address) -> str:
    literal = ":" in asked or "/" in asked or _PLAIN_IPV4.fullmatch(asked)
    who = str(address) if literal else f"{asked} is {address}, which"
    return who if meaning is address else f"{address} stands for {meaning}, which"


def _listed(parts: Iterable[str], separator: str = ", ") -> str:
    every = list(parts)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return separator.join(every[:_NAMED]) + more


def _at(policy: ProbePolicy) -> str:
    return "" if policy.site == "default" else f" --site {policy.site}"
