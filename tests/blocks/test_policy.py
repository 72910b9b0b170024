"""What a policy may say, and what it answers when it says something wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from blocks.policy import Exclusion, ProbePolicy


def test_the_default_policy_allows_loopback_and_nothing_else():
    policy = ProbePolicy()
    assert policy.allow == ["127.0.0.0/8", "::1/128"]
    assert policy.egress_allow == [] and policy.programs == [] and not policy.masscan
    assert policy.ceiling == "change"


def test_entries_become_canonical_and_distinct():
    policy = ProbePolicy(allow=["10.0.0.5", "::ffff:10.1.0.0/112", " 10.0.0.5/32", "2001:DB8::/64"])
    assert policy.allow == ["10.0.0.5/32", "10.1.0.0/16", "2001:db8::/64"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("10.0.0.5/24", "the network is 10.0.0.0/24, the host 10.0.0.5"),
        ("10.0.0/24", "right would be 192.168.1.0/24"),
        ("0.0.0.0/0", "wider than /8"),
        ("::/0", "wider than /16"),
        ("::ffff:0:0/96", "wider than /8"),
        ("224.0.0.0/8", "no host has"),
        ("255.0.0.0/8", "no host has"),
        ("0.0.0.0/32", "no host has"),
        ("ff02::/16", "no host has"),
        ("fe80::%eth0/64", "names an interface"),
        (7, "as text"),
        ("", "as text"),
    ],
)
@pytest.mark.parametrize("field", ["allow", "egress_allow"])
def test_a_wrong_prefix_is_refused_with_what_is_right(field, entry, said):
    with pytest.raises(ValidationError, match=field) as caught:
        ProbePolicy(**{field: [entry]})
    assert said in str(caught.value)


def test_all_wrong_prefixes_are_named_at_once():
    with pytest.raises(ValidationError) as caught:
        ProbePolicy(allow=["10.0.0.1/8", "fine?"])
    assert "10.0.0.1/8" in str(caught.value) and "fine?" in str(caught.value)


def test_private_ipv6_may_be_allowed_as_a_whole():
    assert ProbePolicy(allow=["fd00::/8", "fe80::/10"]).allow == ["fd00::/8", "fe80::/10"]


def test_an_exclusion_needs_a_reason_in_one_line():
    assert Exclusion(target="10.0.0.7", reason=" ask\n the  clinic ").reason == "ask the clinic"
    for reason in ("", "  \n"):
        with pytest.raises(ValidationError, match="reason"):
            Exclusion(target="10.0.0.7", reason=reason)


def test_everything_may_be_excluded():
    assert Exclusion(target="0.0.0.0/0", reason="frozen for the audit").target == "0.0.0.0/0"


def test_printers_and_controllers_are_never_touched_by_default():
    policy = ProbePolicy()
    assert all(policy.is_never_port(port) for port in (9100, 9107, 102, 502, 2404, 20000, 44818))
    assert not any(policy.is_never_port(port) for port in (22, 53, 80, 443, 9099, 9117))


@pytest.mark.parametrize("ports", ["http", "0", "70000", "20-10", "1-2-3"])
def test_a_wrong_port_is_refused(ports):
    with pytest.raises(ValidationError, match="port"):
        ProbePolicy(never_ports=[ports])


@pytest.mark.parametrize("program", ["ls -l", "bin/ls", "../ls", "", "/usr/bin/../ls x", "a;b", "-x"])
def test_a_program_is_a_name_or_an_absolute_path(program):
    with pytest.raises(ValidationError, match="program"):
        ProbePolicy(programs=[program])


def test_one_host_never_gets_more_than_the_whole_site():
    with pytest.raises(ValidationError, match="packets_per_second"):
        ProbePolicy(packets_per_second=10)
    assert ProbePolicy(packets_per_second=20, host_packets_per_second=0).host_packets_per_second == 0


def test_a_single_string_instead_of_a_list_is_an_error_not_a_list_of_letters():
    with pytest.raises(ValidationError, match="list of prefixes"):
        ProbePolicy(allow="10.0.0.0/8")


def test_every_field_is_described():
    for name, field in {**ProbePolicy.model_fields, **Exclusion.model_fields}.items():
        assert field.description, name
