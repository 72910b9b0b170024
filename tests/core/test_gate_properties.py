"""No address outside allow minus exclude ever passes, for any mix of forms: checked against arithmetic done the slow way."""

from __future__ import annotations

import asyncio
import ipaddress
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.policy import ProbePolicy
from tasks.core.cidr import AddressSet, PrefixTable, canonical, embedded_ipv4
from tasks.core.errors import ToolError
from tasks.core.gate import Grant, admit, admit_delivery, normalise_targets, readmit
from tasks.core.models import Scope

# A small world, so that prefixes, hosts and exclusions meet: 10.0.0.0/22 and 2001:db8::/118 hold 1,024 addresses each.
V4, V6 = int(IPv4Address("10.0.0.0")), int(IPv6Address("2001:db8::"))
SIZE = 1024
WORLD = [IPv4Address(V4 + n) for n in range(SIZE)] + [IPv6Address(V6 + n) for n in range(SIZE)]


@st.composite
def networks(draw, shortest: int = 22):
    version = draw(st.sampled_from([4, 6]))
    bits = draw(st.integers(shortest, 32))
    first = (draw(st.integers(0, SIZE - 1)) >> (32 - bits)) << (32 - bits)
    if version == 4:
        return ipaddress.IPv4Network((V4 + first, bits))
    return ipaddress.IPv6Network((V6 + first, bits + 96))


def forms_of(address: IPv4Address | IPv6Address) -> list[str]:
    """Every way to write an address that our parameters take."""
    if address.version == 6:
        return [str(address), address.exploded, str(address).upper(), f"{address}/128"]
    octets = address.packed
    return [
        str(address),
        f"{address}/32",
        f"::ffff:{address}",
        f"::FFFF:{octets[0]:x}{octets[1]:02x}:{octets[2]:02x}{octets[3]:02x}",
        f"::ffff:{address}/128",
        f"64:ff9b::{address}",
        f"2002:{octets[0]:02x}{octets[1]:02x}:{octets[2]:02x}{octets[3]:02x}::1",
    ]


@st.composite
def targets(draw):
    """A target in any form, and the addresses the resolver would say if it is a name."""
    kind = draw(st.sampled_from(["address", "prefix", "mapped prefix", "translated prefix", "name"]))
    if kind == "address":
        return draw(st.sampled_from(forms_of(draw(st.sampled_from(WORLD))))), None
    if kind == "name":
        addresses = draw(st.lists(st.sampled_from(WORLD), min_size=0, max_size=3))
        return f"host-{draw(st.integers(0, 5))}.example", [
            draw(st.sampled_from([form for form in forms_of(a) if "/" not in form])) for a in addresses
        ]
    network = draw(networks())
    if kind == "mapped prefix" and network.version == 4:
        return f"::ffff:{network.network_address}/{network.prefixlen + 96}", None
    if kind == "translated prefix" and network.version == 4:
        return f"64:ff9b::{network.network_address}/{network.prefixlen + 96}", None
    return str(network), None


def policies():
    return st.builds(
        lambda allow, exclude, carriers: ProbePolicy(
            allow=[str(network) for network in allow] + carriers,
            exclude=[{"target": target, "reason": "asked to stay away"} for target in exclude],
            max_addresses=1 << 20,
        ),
        # Often the whole world is allowed: if nearly everything is refused, nothing is learnt about what passes.
        st.one_of(st.just([f"{WORLD[0]}/22", f"{WORLD[-SIZE]}/118"]), st.lists(networks(), max_size=5)),
        st.lists(
            st.one_of(
                networks(24).map(str),
                st.sampled_from(WORLD).flatmap(lambda a: st.sampled_from(forms_of(a))),
            ),
            max_size=6,
        ),
        st.lists(st.sampled_from(["64:ff9b::/96", "2002::/16"]), unique=True),
    )


def permitted(address: IPv4Address | IPv6Address, policy: ProbePolicy) -> bool:
    """The rule, written as plainly as it can be said and without any of the code under test."""

    def meanings(text: IPv4Address | IPv6Address):
        if text.version == 6 and text.ipv4_mapped:
            return [text.ipv4_mapped]
        if text.version == 6 and text in ipaddress.ip_network("64:ff9b::/96"):
            return [text, IPv4Address(text.packed[12:])]
        if text.version == 6 and text in ipaddress.ip_network("2002::/16"):
            return [text, IPv4Address(text.packed[2:6])]
        return [text]

    def within(one, entries) -> bool:
        for entry in entries:
            network = ipaddress.ip_network(entry)
            if network.version == 6 and network.network_address.ipv4_mapped:
                network = ipaddress.ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
            if one.version == network.version and one in network:
                return True
        return False

    excludes = [entry.target for entry in policy.exclude]
    return all(within(one, policy.allow) and not within(one, excludes) for one in meanings(address))


def ask(asked: list[tuple[str, list[str] | None]], policy: ProbePolicy) -> Grant | None:
    names = {target: addresses for target, addresses in asked if addresses is not None}

    async def resolve(name: str) -> list[str]:
        return names[name]

    try:
        return asyncio.run(admit(Scope(targets=tuple(target for target, _ in asked)), policy, resolve=resolve))
    except ToolError:
        return None


@settings(max_examples=400, deadline=None)
@given(policies(), st.lists(targets(), min_size=1, max_size=4))
def test_no_address_outside_allow_minus_exclude_ever_passes(policy, asked):
    grant = ask(asked, policy)
    if grant is None:
        return
    for address in grant.addresses:
        assert permitted(ipaddress.ip_address(address), policy), address
    for network in map(ipaddress.ip_network, grant.networks):
        assert all(permitted(address, policy) for address in network), network
    assert readmit(grant, policy) == grant


@settings(max_examples=300, deadline=None)
@given(policies(), targets())
def test_what_policy_permits_is_never_refused_and_never_loses_an_address(policy, asked):
    target, resolved = asked
    if resolved is not None:
        wanted = [ipaddress.ip_address(address) for address in resolved]
    else:
        network = ipaddress.ip_network(target)
        wanted = (
            list(network)
            if network.num_addresses <= SIZE
            else [canonical(ipaddress.ip_address(target.partition("/")[0]))]
        )
    grant = ask([asked], policy)
    is_translated_prefix = target.startswith("64:ff9b::") and len(wanted) > 1  # must be named by its IPv4 addresses
    if wanted and not is_translated_prefix and all(permitted(address, policy) for address in wanted):
        assert grant is not None
    if grant is None:
        return
    granted = {ipaddress.ip_address(address) for address in grant.addresses}
    granted |= {address for network in grant.networks for address in ipaddress.ip_network(network)}
    assert granted == {canonical(address) for address in wanted if permitted(address, policy)}


@settings(max_examples=300, deadline=None)
@given(st.lists(networks(), max_size=8), st.lists(networks(), max_size=8))
def test_address_sets_agree_with_sets_of_addresses(ours, theirs):
    one, other = AddressSet(ours), AddressSet(theirs)
    slow_one = {address for network in ours for address in network}
    slow_other = {address for network in theirs for address in network}

    def slowly(made: AddressSet) -> set:
        listed = [address for network in made.networks() for address in network]
        assert len(listed) == len(set(listed)) == made.count()
        return set(listed)

    assert slowly(one - other) == slow_one - slow_other
    assert slowly(one | other) == slow_one | slow_other
    assert slowly(one & other) == slow_one & slow_other
    assert {address for address in WORLD if address in one} == slow_one
    for network in theirs:
        assert one.covers(network) == (set(network) <= slow_one)
        assert one.overlaps(network) == bool(set(network) & slow_one)


@settings(max_examples=300, deadline=None)
@given(st.lists(networks(), max_size=10), networks(26))
def test_a_prefix_table_finds_the_most_specific_entry(entries, wanted):
    found = PrefixTable((network, network) for network in entries).find(wanted)
    holding = [entry for entry in entries if entry.version == wanted.version and wanted.subnet_of(entry)]
    assert found == max(holding, key=lambda entry: entry.prefixlen, default=None)


@settings(max_examples=300, deadline=None)
@given(st.lists(networks(), min_size=1, max_size=10))
def test_merged_targets_are_the_same_addresses_and_hold_no_overlap(asked):
    merged = [ipaddress.ip_network(target) for target in normalise_targets(map(str, asked)).targets]
    assert {a for network in merged for a in network} == {a for network in asked for a in network}
    assert sum(network.num_addresses for network in merged) == len({a for network in asked for a in network})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.text("0123456789abcdef.:/%-x", max_size=20)), max_size=3))
def test_no_text_whatever_breaks_the_probe_door(asked):
    async def resolve(name: str) -> list[str]:
        return ["10.0.0.1"]

    try:
        grant = asyncio.run(admit(Scope(targets=tuple(asked)), ProbePolicy(allow=["10.0.0.0/8"]), resolve=resolve))
    except ToolError:
        return
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network("10.0.0.0/8") for address in grant.addresses)


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["http:", "http://", "https://", "HTTP://a@", "http:///", "https://["]),
            st.text("0127.:[]%@x/?#\\af;- ", max_size=20),
            st.sampled_from(["", "/", "/x", "?@", "#@1.1.1.1", ":80", "]"]),
        ),
    )
)
def test_no_text_whatever_breaks_the_delivery_door_or_leads_inside(url):
    async def resolve(name: str) -> list[str]:
        return ["93.184.216.34"]

    try:
        pinned = asyncio.run(admit_delivery(url, ProbePolicy(), resolve=resolve))
    except ToolError:
        return
    # Python's own opinion, on the forms that every Python version agrees about.
    address = ipaddress.ip_address(pinned.address)
    assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
    assert address != ipaddress.ip_address("0.0.0.0")


@given(st.integers(0, (1 << 128) - 1))
def test_every_ipv6_address_has_a_canonical_form_and_embedded_addresses_without_error(value):
    address = IPv6Address(value)
    assert canonical(canonical(address)) == canonical(address)
    assert all(isinstance(found, IPv4Address) for found in embedded_ipv4(address))
