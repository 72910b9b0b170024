"""The gate refuses before anything is sent, says which rule and which command, and pins what it lets through."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time

import pytest

from blocks.policy import ProbePolicy
from tasks.core import resolve as resolver
from tasks.core.errors import InvalidParameters, NotFound, Refused, Unreachable
from tasks.core.gate import admit, admit_delivery, check_safety, normalise_targets, readmit
from tasks.core.models import Safety, Scope

OFFICE = ProbePolicy(
    allow=["10.0.0.0/16", "2001:db8::/64"],
    exclude=[
        {"target": "10.0.5.0/24", "reason": "heart monitors, ask the clinic"},
        {"target": "2001:db8::5", "reason": "the clinic's gateway"},
    ],
)


def scope(*targets: str, ports: tuple[int, ...] = ()) -> Scope:
    return Scope(targets=targets, ports=ports)


def answers(**names: list[str] | Exception):
    """Make a resolver that knows these names (`_` stands for a dot) and nothing else, and counts its calls."""
    table = {name.replace("_", "."): addresses for name, addresses in names.items()}

    async def resolve(name: str) -> list[str]:
        resolve.asked.append(name)
        answer = table.get(name, NotFound(f"{name} does not resolve."))
        if isinstance(answer, Exception):
            raise answer
        return answer

    resolve.asked = []
    return resolve


async def refusal(*targets: str, policy: ProbePolicy = OFFICE, ports: tuple[int, ...] = (), resolve=None) -> str:
    with pytest.raises(Refused) as caught:
        await admit(scope(*targets, ports=ports), policy, resolve=resolve or answers())
    return str(caught.value)


# --- what is let through ---------------------------------------------------------------------------------------------


async def test_an_allowed_host_is_granted_with_its_address_and_the_rule():
    grant = await admit(scope("10.0.0.7", ports=(443, 22)), OFFICE)
    assert [(t.asked, t.addresses, t.network) for t in grant.targets] == [("10.0.0.7", ("10.0.0.7",), None)]
    assert grant.site == "default" and grant.ports == (22, 443) and grant.allowed_by == "allow 10.0.0.0/16"
    assert grant.addresses == ("10.0.0.7",) and grant.networks == () and grant.excluded == ()


async def test_a_name_is_granted_with_the_addresses_it_has_now():
    resolve = answers(cam_example=["10.0.0.8", "2001:db8::8", "10.0.0.8"])
    grant = await admit(scope("cam.example"), OFFICE, resolve=resolve)
    assert grant.pinned("cam.example").addresses == ("10.0.0.8", "2001:db8::8")
    assert grant.allowed_by == "allow 10.0.0.0/16, 2001:db8::/64"


async def test_the_system_resolver_knows_localhost():
    grant = await admit(scope("localhost"), ProbePolicy())
    assert set(grant.addresses) <= {"127.0.0.1", "::1"} and grant.addresses


async def test_excluded_parts_are_carved_out_of_a_prefix_and_reported():
    grant = await admit(scope("10.0.4.0/23"), OFFICE)
    assert grant.networks == ("10.0.4.0/24",)
    assert grant.excluded == ("10.0.5.0/24",)
    assert grant.notes == ("10.0.5.0/24 is left out: heart monitors, ask the clinic",)
    assert grant.targets[0].network == "10.0.4.0/23" and grant.targets[0].addresses == ()
    assert grant.covers("10.0.4.9") and grant.covers("::ffff:10.0.4.9") and not grant.covers("10.0.5.9")


async def test_one_excluded_address_leaves_the_rest_of_its_prefix():
    grant = await admit(scope("2001:db8::/125"), OFFICE)
    assert grant.networks == ("2001:db8::/126", "2001:db8::4/128", "2001:db8::6/127")
    assert grant.excluded == ("2001:db8::5/128",)


async def test_a_prefix_may_be_allowed_by_two_rules_together():
    policy = ProbePolicy(allow=["10.0.0.0/25", "10.0.0.128/25"])
    grant = await admit(scope("10.0.0.0/24"), policy)
    assert grant.networks == ("10.0.0.0/24",) and grant.allowed_by == "allow 10.0.0.0/25, 10.0.0.128/25"


async def test_an_address_written_as_a_prefix_is_a_host():
    grant = await admit(scope("10.0.0.7/32", "::ffff:10.0.0.8/128", "2001:DB8::7"), OFFICE)
    assert grant.addresses == ("10.0.0.7", "10.0.0.8", "2001:db8::7")


async def test_overlapping_targets_are_counted_once():
    policy = ProbePolicy(allow=["10.0.0.0/16"], max_addresses=256)
    grant = await admit(scope("10.0.0.0/24", "10.0.0.7", "10.0.0.128/25"), policy)
    assert grant.networks == ("10.0.0.0/24",)


async def test_a_grant_survives_pickling():
    grant = await admit(scope("10.0.0.7", "gone.example"), OFFICE, resolve=answers())
    assert pickle.loads(pickle.dumps(grant)) == grant


# --- what is refused -------------------------------------------------------------------------------------------------


async def test_the_default_policy_refuses_everything_but_loopback():
    said = await refusal("192.168.1.7", policy=ProbePolicy())
    assert "192.168.1.7 is not allowed" in said
    assert "allows 127.0.0.0/8, ::1/128" in said
    assert "signalbox policy allow 192.168.1.7/32" in said


async def test_everything_at_once_is_refused_without_a_command_that_would_allow_it():
    for target in ("0.0.0.0/0", "::/0", "::ffff:0:0/96"):
        assert "signalbox policy" not in await refusal(target)


async def test_an_empty_policy_refuses_loopback_too():
    said = await refusal("127.0.0.1", policy=ProbePolicy(allow=[]))
    assert "allows nothing" in said


async def test_an_exclusion_wins_and_repeats_its_reason():
    said = await refusal("10.0.5.7")
    assert "excluded by policy (10.0.5.0/24: heart monitors, ask the clinic)" in said
    assert "signalbox policy exclude --remove 10.0.5.0/24" in said


async def test_an_excluded_host_is_refused_through_a_name_that_resolves_there():
    said = await refusal("innocent.example", resolve=answers(innocent_example=["10.0.0.7", "10.0.5.7"]))
    assert "innocent.example is 10.0.5.7, which is excluded by policy" in said


@pytest.mark.parametrize(
    "form", ["::ffff:10.0.5.7", "::FFFF:0a00:0507", "0:0:0:0:0:ffff:10.0.5.7", "::ffff:10.0.5.7/128"]
)
async def test_an_excluded_host_is_refused_in_its_ipv4_mapped_form(form):
    assert "10.0.5.7 is excluded" in (await refusal(form)).replace(", which", "")


async def test_an_excluded_host_is_refused_when_a_name_resolves_to_its_mapped_form():
    assert "heart monitors" in await refusal("x.example", resolve=answers(x_example=["::ffff:10.0.5.7"]))


async def test_a_mapped_prefix_is_the_ipv4_prefix():
    assert "excluded" in await refusal("::ffff:10.0.5.0/121")
    grant = await admit(scope("::ffff:10.0.4.0/119"), OFFICE)
    assert grant.networks == ("10.0.4.0/24",)


@pytest.mark.parametrize(
    "form", ["64:ff9b::10.0.5.7", "2002:a00:507::1", "2001:0:a00:1::f5ff:faf8", "2001:db8::5efe:10.0.5.7", "::10.0.5.7"]
)
async def test_an_excluded_host_is_refused_through_a_translator_or_tunnel(form):
    policy = OFFICE.model_copy(update={"allow": [*OFFICE.allow, "64:ff9b::/96", "2002::/16", "2001::/32", "::/96"]})
    assert "stands for 10.0.5.7, which is excluded" in await refusal(form, policy=policy)


async def test_a_translated_address_passes_only_when_both_its_meanings_are_allowed():
    nat64 = ProbePolicy(allow=["64:ff9b::/96", "10.0.0.0/24"])
    assert (await admit(scope("64:ff9b::10.0.0.7"), nat64)).addresses == ("64:ff9b::a00:7",)
    assert "stands for 10.0.1.7, which is not allowed" in await refusal("64:ff9b::10.0.1.7", policy=nat64)
    assert "64:ff9b::a00:7 is not allowed" in await refusal("64:ff9b::10.0.0.7", policy=OFFICE)
    assert "IPv4 addresses" in await refusal("64:ff9b::10.0.0.0/120", policy=nat64)


async def test_a_second_resolution_that_changed_is_refused_when_it_is_asked_for():
    moving = {"now": ["10.0.0.7"]}

    async def resolve(name: str) -> list[str]:
        return moving["now"]

    first = await admit(scope("moving.example"), OFFICE, resolve=resolve)
    moving["now"] = ["10.0.5.7"]
    assert first.addresses == ("10.0.0.7",), "the grant is pinned"
    assert readmit(first, OFFICE).addresses == ("10.0.0.7",), "checking it again does not resolve again"
    assert "which is excluded" in await refusal("moving.example", resolve=resolve)


async def test_a_grant_is_checked_again_under_the_policy_of_now():
    grant = await admit(scope("10.0.0.7", "10.0.8.0/24", ports=(80,)), OFFICE)
    assert readmit(grant, OFFICE) == grant
    with pytest.raises(Refused, match="frozen"):
        readmit(grant, ProbePolicy(allow=["10.0.0.0/16"], exclude=[{"target": "10.0.0.7", "reason": "frozen"}]))
    with pytest.raises(Refused, match="80"):
        readmit(grant, OFFICE.model_copy(update={"never_ports": ["80"]}))


async def test_the_part_of_a_prefix_that_is_not_allowed_is_named():
    said = await refusal("10.0.255.0/24", "10.0.0.0/23", policy=ProbePolicy(allow=["10.0.0.0/24"]))
    assert "10.0.255.0/24 is not allowed" in said
    assert "10.0.1.0/24 of 10.0.0.0/23 is not allowed" in said
    assert "signalbox policy allow 10.0.1.0/24; signalbox policy allow 10.0.255.0/24" in said


async def test_a_prefix_that_is_excluded_as_a_whole_is_refused():
    assert "all of 10.0.5.128/25 is excluded by policy (10.0.5.0/24: heart" in await refusal("10.0.5.128/25")
    halves = [{"target": "10.0.6.0/25", "reason": "left"}, {"target": "10.0.6.128/25", "reason": "right"}]
    assert "left" in await refusal("10.0.6.0/24", policy=ProbePolicy(allow=["10.0.0.0/16"], exclude=halves))


async def test_ports_that_are_never_touched_are_named():
    said = await refusal("10.0.0.7", ports=(80, 9100, 9101, 502))
    assert "502,9100-9101 must never be touched" in said and "--open 502,9100-9101" in said


async def test_too_many_addresses_are_refused_after_exclusions_are_taken_off():
    policy = OFFICE.model_copy(update={"max_addresses": 256})
    assert (await admit(scope("10.0.4.0/23"), policy)).networks == ("10.0.4.0/24",)
    assert "257 addresses are more than the 256" in await refusal("10.0.4.0/23", "10.0.0.7", policy=policy)
    assert "65,280 addresses" in await refusal("10.0.0.0/16")


async def test_the_addresses_of_names_count_too():
    policy = ProbePolicy(allow=["10.0.0.0/16"], max_addresses=3)
    many = answers(farm_example=[f"10.0.0.{n}" for n in range(1, 5)])
    assert "4 addresses" in await refusal("farm.example", policy=policy, resolve=many)


async def test_an_ipv6_prefix_of_4096_addresses_passes_and_a_larger_one_does_not():
    policy = ProbePolicy(allow=["2001:db8::/64"], max_addresses=1 << 20)
    assert (await admit(scope("2001:db8::/116"), policy)).networks == ("2001:db8::/116",)
    assert "2001:db8::/115 has more than 4,096 addresses" in await refusal("2001:db8::/115", policy=policy)


@pytest.mark.parametrize(
    "target",
    ["0.0.0.0", "255.255.255.255", "224.0.0.251", "239.1.0.0/24", "ff02::1", "::", "::ffff:224.0.0.1", "0.0.0.0/0"],
)
async def test_addresses_no_host_has_are_refused_whatever_policy_says(target):
    policy = ProbePolicy.model_construct(allow=["0.0.0.0/0", "::/0"], exclude=[], never_ports=[], max_addresses=1 << 40)
    assert "no host has" in await refusal(target, policy=policy) or target == "0.0.0.0/0"


async def test_one_bad_target_refuses_all_and_every_problem_is_told_at_once():
    said = await refusal("10.0.0.7", "10.9.0.1", "10.5.0.0/24", "10.0.5.1")
    assert "10.9.0.1 is not allowed" in said and "10.5.0.0/24 is not allowed" in said and "heart monitors" in said


async def test_a_long_list_of_problems_is_cut_and_counted():
    said = await refusal(*(f"10.9.0.{n}" for n in range(1, 201)))
    assert "and 196 more" in said and len(said) < 700


async def test_commands_name_the_site_when_it_is_not_the_default_one():
    policy = ProbePolicy()
    policy._block_document_name = "plant"
    said = await refusal("10.0.0.7", policy=policy)
    assert "signalbox policy allow 10.0.0.7/32 --site plant" in said and "Site plant allows" in said


async def test_what_is_refused_by_its_address_causes_no_look_up():
    resolve = answers()
    await refusal("10.9.9.9", "name.example", resolve=resolve)
    assert resolve.asked == []


# --- bad input and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("10.0.0.5/24", "the network is 10.0.0.0/24, the host 10.0.0.5"),
        ("10.0.0.0/33", "not an address or prefix"),
        ("10.0.0", "not an address or prefix"),
        ("10.0.0.256", "not an address or prefix"),
        ("2130706433", "not an address or prefix"),
        ("fe80::1%eth0", "names an interface"),
        ("a b", "neither an address nor a host name"),
        ("-oG/tmp/x", "not an address or prefix"),
        ("--script=x", "neither an address nor a host name"),
        ("http://x/", "not an address or prefix"),
        ("", "1 to 253 characters"),
    ],
)
async def test_a_malformed_target_is_an_error_that_says_what_is_right(target, said):
    with pytest.raises(InvalidParameters, match=r"^targets:") as caught:
        await admit(scope("10.0.0.7", target), OFFICE, resolve=answers())
    assert said in str(caught.value)


async def test_no_target_is_an_error():
    with pytest.raises(InvalidParameters, match="nothing to probe"):
        await admit(scope(), OFFICE)


async def test_a_name_that_does_not_resolve_is_not_found_by_its_name():
    with pytest.raises(NotFound, match=r"targets: no-such-host\.invalid does not resolve"):
        await admit(scope("no-such-host.invalid"), OFFICE, resolve=answers())


async def test_one_of_several_names_that_does_not_resolve_is_reported_beside_the_others():
    grant = await admit(scope("gone.example", "10.0.0.7"), OFFICE, resolve=answers())
    assert grant.addresses == ("10.0.0.7",)
    assert [missing.asked for missing in grant.unresolved] == ["gone.example"]
    with pytest.raises(NotFound, match=r"gone\.example"):
        grant.pinned("gone.example")
    with pytest.raises(Refused):
        grant.pinned("10.0.0.8")


async def test_a_resolver_that_does_not_answer_is_not_a_name_that_does_not_exist():
    with pytest.raises(Unreachable, match=r"a\.example"):
        await admit(scope("a.example"), OFFICE, resolve=answers(a_example=Unreachable("no answer for a.example")))


@pytest.mark.parametrize("answer", [[], ["not an address"]])
async def test_a_name_without_a_usable_address_is_not_found(answer):
    with pytest.raises(NotFound, match=r"odd\.example"):
        await admit(scope("odd.example"), OFFICE, resolve=answers(odd_example=answer))


async def test_numeric_host_names_are_checked_as_the_address_the_system_takes_them_for():
    assert (await admit(scope("0x7f000001"), ProbePolicy())).addresses == ("127.0.0.1",)
    assert "0x7f000001 is 127.0.0.1, which is not allowed" in await refusal("0x7f000001", resolve=resolver.resolve_host)


async def test_a_resolver_that_hangs_costs_its_deadline_and_no_more(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    monkeypatch.setattr(resolver, "RESOLVE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer"):
        await admit(scope("slow.example"), OFFICE)
    assert time.monotonic() - began < 15
    release.set()


# --- speed -----------------------------------------------------------------------------------------------------------


async def test_the_cost_of_a_decision_grows_with_the_targets_and_not_faster():
    policy = ProbePolicy(
        allow=["10.0.0.0/16", *(f"192.168.{n}.0/24" for n in range(256))],
        exclude=[{"target": f"10.0.{n}.200/30", "reason": "printers"} for n in range(256)],
    )
    few, many = (scope(*(f"10.0.{n // 128}.{n % 128}" for n in range(count))) for count in (256, 4096))
    # Side by side, of the processor: other tests run beside this one. `make bench` has the figures.
    pairs = [(await _timed(few, policy), await _timed(many, policy)) for _ in range(7)]
    assert min(many for _, many in pairs) < 3 * 16 * min(few for few, _ in pairs)


async def _timed(targets: Scope, policy: ProbePolicy) -> float:
    began = time.process_time()
    assert len((await admit(targets, policy)).targets) == len(targets.targets)
    return time.process_time() - began


# --- merging targets -------------------------------------------------------------------------------------------------


def test_duplicate_and_overlapping_targets_are_merged_and_reported():
    merged = normalise_targets(
        [
            "10.0.0.0/16",
            "10.0.1.0/24",
            "10.0.0.7",
            "10.0.0.0/16",
            "A.example.",
            "a.example",
            "::ffff:10.0.0.7",
            "10.1.0.7/32",
        ]
    )
    assert merged.targets == ("10.0.0.0/16", "a.example", "10.1.0.7")
    assert merged.notes == (
        "10.0.0.0/16 is named more than once",
        "a.example is named more than once",
        "::ffff:10.0.0.7 is named more than once",
        "10.0.1.0/24 is inside 10.0.0.0/16",
        "10.0.0.7 is inside 10.0.0.0/16",
    )


def test_all_malformed_targets_are_named():
    with pytest.raises(InvalidParameters) as caught:
        normalise_targets(["10.0.0.1/8", "10.0.0.0/8", "a b"])
    assert "10.0.0.1/8" in str(caught.value) and "a b" in str(caught.value)


# --- safety ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", list(Safety))
@pytest.mark.parametrize("safety", list(Safety))
def test_a_tool_above_the_ceiling_is_refused_and_others_are_not(safety, ceiling):
    policy = ProbePolicy(ceiling=str(ceiling))
    if safety.rank <= ceiling.rank:
        check_safety(safety, policy, "tool")
    else:
        with pytest.raises(Refused, match=f"signalbox policy ceiling {safety}"):
            check_safety(safety, policy, "tool")


# --- the delivery door -----------------------------------------------------------------------------------------------


PUBLIC = answers(hooks_example_com=["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])


async def test_a_public_url_is_pinned_to_the_address_that_was_checked():
    pinned = await admit_delivery("https://Hooks.Example.com/T0/secret?x=1#part", ProbePolicy(), resolve=PUBLIC)
    assert (pinned.scheme, pinned.host, pinned.port) == ("https", "hooks.example.com", 443)
    assert pinned.address == "93.184.216.34"
    assert pinned.connect_url == "https://93.184.216.34/T0/secret?x=1"
    assert pinned.host_header == "hooks.example.com"
    assert "secret" not in repr(pinned)


async def test_an_at_sign_behind_the_host_is_no_user_name():
    pinned = await admit_delivery("https://hooks.example.com?to=noc@example.com", ProbePolicy(), resolve=PUBLIC)
    assert pinned.host == "hooks.example.com"


async def test_a_port_and_an_ipv6_literal_are_kept():
    pinned = await admit_delivery("http://[2606:2800:220:1:248:1893:25c8:1946]:8080/x", ProbePolicy())
    assert pinned.port == 8080 and pinned.host_header == "[2606:2800:220:1:248:1893:25c8:1946]:8080"
    assert pinned.connect_url == "http://[2606:2800:220:1:248:1893:25c8:1946]:8080/x"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "0", "0.0.0.0",
        "10.0.0.5", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1", "198.18.0.1", "192.0.0.192",
        "224.0.0.1", "255.255.255.255", "168.63.129.16", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1]",
        "[fd00:ec2::254]", "[64:ff9b::10.0.0.5]", "[2002:7f00:1::1]", "[2001:0:a00:1::f5ff:faf8]", "[::127.0.0.1]", "[ff02::1]",
        "[2001:db8::1]", "[2606:4700::5efe:10.0.0.5]", "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1",
    ],
)  # fmt: skip
async def test_a_url_to_an_address_that_is_not_public_is_refused(host):
    with pytest.raises((Refused, InvalidParameters, NotFound)) as caught:
        await admit_delivery(f"http://{host}/hidden-path", ProbePolicy(), resolve=answers())
    assert "hidden-path" not in str(caught.value)
    if host.isascii() and host != "0177.0.0.1":  # which the HTTP client's own parser takes for malformed
        assert isinstance(caught.value, Refused)


@pytest.mark.parametrize(
    "addresses", [["10.0.0.5"], ["93.184.216.34", "127.0.0.1"], ["::ffff:169.254.169.254"], ["fe80::1%eth0"]]
)
async def test_every_address_of_a_url_s_host_must_be_public(addresses):
    with pytest.raises(Refused, match=r"sly\.example is .* not a public address"):
        await admit_delivery("https://sly.example/x", ProbePolicy(), resolve=answers(sly_example=addresses))


async def test_a_nat64_address_of_a_public_host_is_public():
    pinned = await admit_delivery(
        "https://a.example/", ProbePolicy(), resolve=answers(a_example=["64:ff9b::93.184.216.34"])
    )
    assert pinned.address == "64:ff9b::5db8:d822"


async def test_egress_allow_opens_exactly_what_it_names():
    policy = ProbePolicy(egress_allow=["10.0.0.0/24"])
    assert (await admit_delivery("http://[::ffff:10.0.0.5]/", policy)).address == "10.0.0.5"
    with pytest.raises(Refused, match=r"signalbox policy allow --egress 10\.0\.1\.5/32"):
        await admit_delivery("http://10.0.1.5/", policy)


async def test_being_allowed_to_probe_an_address_does_not_open_it_for_delivery():
    with pytest.raises(Refused):
        await admit_delivery("http://127.0.0.1:8000/", ProbePolicy(allow=["127.0.0.0/8"]))


async def test_a_url_does_not_print_on_a_printer():
    with pytest.raises(Refused, match="9100"):
        await admit_delivery("http://93.184.216.34:9100/", ProbePolicy())


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com/x", "//hooks.example.com/", "ftp://hooks.example.com/", "file:///etc/passwd", "gopher://x/", "https://",
        "https:///x", "https://user@hooks.example.com/", "https://user:pw@hooks.example.com/", "https://@hooks.example.com/",
        "https://hooks.example.com\\@evil.example/", "https://hooks.example.com /", "https://hooks.example.com/\r\nHost: x",
        "https://hooks.example.com:0/", "https://hooks.example.com:99999/", "https://hooks.example.com:x/", "https://[::1",
        "http:10.0.0.1", "http://1.1.1.1;10.0.0.1/",
        "https://[fe80::1%25eth0]/", "https://[1.2.3.4]/", "https://exa%6dple.com/", "https://" + "a" * 9000,
    ],
)  # fmt: skip
async def test_a_malformed_url_is_an_error_that_does_not_repeat_it(url):
    with pytest.raises(InvalidParameters) as caught:
        await admit_delivery(url, ProbePolicy(), resolve=PUBLIC)
    assert not url or "pw" not in str(caught.value)


async def test_a_delivery_host_that_does_not_resolve_is_not_found():
    with pytest.raises(NotFound):
        await admit_delivery("https://no.example/", ProbePolicy(), resolve=answers())
    with pytest.raises(NotFound):
        await admit_delivery("https://no.example/", ProbePolicy(), resolve=answers(no_example=[]))


async def test_a_deadline_around_the_gate_is_kept(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await admit(scope("slow.example"), OFFICE)
    release.set()
