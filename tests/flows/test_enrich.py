"""What hosts say about themselves: which services are asked, what is made of the answers, and what of it identifies a device."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from flows import _enrich
from flows._agents import PRINTER_MODEL, PRINTER_SERIAL, observe_agents, own_addresses
from flows._enrich import NOTHING_SAID, Said, certificate_hostnames, endpoints
from flows._scan import SeenService
from tasks.asset._fold import fold
from tasks.asset._observation import ObservedHost
from tasks.core.errors import Unreachable
from tasks.network.probe._snmp_wire import AgentOutcome
from tasks.network.probe.service_identity import Identity, Reading
from tasks.network.probe.snmp_query import Agent, SnmpQueryResult

TLS_UNTIL = datetime(2027, 1, 2, tzinfo=UTC)


def agent(
    address: str,
    *own: str,
    serial: str | None = None,
    links: Sequence[str] = (),
    engine_id: str = "80001f8880",
    **system: Any,
) -> Agent:
    """An agent at an address, with addresses of its own; those in `links` are on the interface of that name."""
    names = {link.partition("=")[2]: link.partition("=")[0] for link in links}  # "docker0=172.18.0.1"
    addresses = [*(own or (address,)), *names]
    entity = (
        [
            {
                "index": 1,
                "contained_in": 0,
                "kind": "chassis",
                "serial": serial,
                "vendor": "Cisco",
                "model": "C9300",
                "software": "17.3",
            }
        ]
        if serial
        else []
    )
    return Agent.model_validate(
        {
            "target": address,
            "address": address,
            "outcome": "answered",
            "system": {"name": f"host-{address}", "engine_id": engine_id, **system},
            "addresses": [{"address": text, "interface": place} for place, text in enumerate(addresses, start=1)],
            "interfaces": [
                {
                    "index": place,
                    "name": names.get(text, f"eth{place}"),
                    "mac": f"d4:be:d9:00:{len(text):02x}:{place:02x}",
                }
                for place, text in enumerate(addresses, start=1)
            ],
            "entity": entity,
        }
    )


def seen(*agents: Agent, scanned: Sequence[str] = ()) -> list[ObservedHost]:
    """Observations of a scan of the agents' addresses, and of what the agents say."""
    asked = {one.address: one for one in agents if one.address}
    now = datetime.now(UTC)
    hosts = [ObservedHost(address=text, method="tcp", seen_at=now) for text in (*asked, *scanned)]
    return [*hosts, *observe_agents(asked, "default")]


# --- which services are asked --------------------------------------------------------------------------------------------


def test_services_are_asked_in_their_own_way_and_others_not_at_all() -> None:
    services = [
        SeenService("tcp", 22, "ssh"),
        SeenService("tcp", 80, "http"),
        SeenService("tcp", 443, "https"),
        SeenService("tcp", 993, "imaps"),
        SeenService("tcp", 5061, "sip over TLS"),
        SeenService("tcp", 8080, "http-proxy"),
        SeenService("tcp", 25, "smtp"),
        SeenService("tcp", 3306, "mysql"),
        SeenService("udp", 443, "https"),
    ]
    assert set(endpoints({"10.0.0.7": services})) == {
        "ssh://10.0.0.7:22", "http://10.0.0.7:80", "https://10.0.0.7:443", "tls://10.0.0.7:993", "tls://10.0.0.7:5061",
        "http://10.0.0.7:8080",
    }  # fmt: skip
    assert endpoints({"2001:db8::1": services[:1]}) == ["ssh://[2001:db8::1]:22"]


def test_of_a_host_with_hundreds_of_web_servers_a_few_are_asked_the_usual_ports_first() -> None:
    services = [SeenService("tcp", port, "http") for port in range(1000, 1300)] + [SeenService("tcp", 80, "http")]
    asked = endpoints({"10.0.0.7": services})
    assert len(asked) == _enrich.MOST_SERVICES and asked[0] == "http://10.0.0.7:80"


# --- what is made of the answers -----------------------------------------------------------------------------------------


def identity(port: int, **said: Any) -> Identity:
    return Identity(endpoint=f"x://10.0.0.7:{port}", address="10.0.0.7", port=port, outcome=Reading.READ, **said)


def test_facts_come_from_the_usual_ports_first_and_one_certificates_facts_stay_together() -> None:
    said = _enrich._put_together(
        [
            identity(5001, title="Admin", certificate_names=["admin.example.com"], certificate_sha256="bb"),
            identity(443, server="nginx", certificate_sha256="aa", certificate_until=TLS_UNTIL, title="Shop"),
            identity(80, title="Plain", server="Apache"),
            identity(22, host_key="SHA256:one"),
            identity(2222, host_key="SHA256:one"),
        ],
        None,
    )
    assert said.ssh_host_keys == ("SHA256:one",)
    assert dict(said.facts) == {
        "http_title": "Shop", "http_server": "nginx", "tls_sha256": "aa", "tls_until": "2027-01-02",
    }  # fmt: skip
    assert _enrich._put_together([identity(80)], None) == NOTHING_SAID


def test_names_of_certificates_are_candidates_only_where_there_is_no_name_and_never_wildcards() -> None:
    said = {
        "10.0.0.1": Said(names=("*.example.com", "Door.example.com", "10.0.0.1", "localhost")),
        "10.0.0.2": Said(names=("named.example.com",)),
        "10.0.0.3": Said(names=("*.example.com",)),
    }
    assert certificate_hostnames(said, ["10.0.0.2"]) == {"10.0.0.1": ["door.example.com"]}


async def test_a_probe_that_fails_costs_what_it_would_have_brought_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing:
        def with_options(self, **_: Any) -> Any:
            return self

        async def __call__(self, _: Any) -> Any:
            raise Unreachable("The Prefect API does not answer.")

    for tool in (_enrich.service_identity, _enrich.snmp_query):
        monkeypatch.setattr(tool, "spec", type("Spec", (), {"task": Failing()}))
    found = await _enrich.enrich({"10.0.0.7": [SeenService("tcp", 80, "http")]}, "default", "snmp/core")
    assert found.said == {} and found.notes == ["SNMP was not asked: The Prefect API does not answer."]


async def test_credentials_that_do_not_fit_are_noted_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [
        outcome for outcome in AgentOutcome if outcome.startswith(("wrong_", "unknown_", "not_allowed", "not_in_"))
    ]
    addresses = [f"10.0.0.{number}" for number in range(1, len(refusals) + 2)]

    class Refusing:
        def with_options(self, **_: Any) -> Any:
            return self

        async def __call__(self, params: Any) -> SnmpQueryResult:
            outcomes = [*refusals, AgentOutcome.SILENT]
            return SnmpQueryResult(
                agents=[
                    Agent(target=target, outcome=outcome)
                    for target, outcome in zip(params.targets, outcomes, strict=True)
                ]
            )

    monkeypatch.setattr(_enrich.snmp_query, "spec", type("Spec", (), {"task": Refusing()}))
    found = await _enrich.enrich({address: [] for address in addresses}, "default", "snmp/core")
    assert len(found.notes) == len(refusals), "silence is no refusal"
    (community,) = [note for note in found.notes if "community" in note]
    target = addresses[refusals.index(AgentOutcome.WRONG_COMMUNITY)]
    assert community.startswith(f"{target}: snmp/core does not fit, the community is another there")


# --- what identifies -----------------------------------------------------------------------------------------------------


def test_what_an_agent_says_becomes_an_authoritative_observation() -> None:
    switch = agent(
        "10.0.0.1", serial="FOC0001A", vendor="Cisco", location="rack 7", description="IOS\nXE", layers=[2, 3],
        chassis_id="00:1b:54:00:00:01", object_id="1.3.6.1.4.1.9.1.1",
    )  # fmt: skip
    (observed,) = observe_agents({"10.0.0.1": switch}, "default")
    assert observed.authoritative and observed.mac_first_hand
    assert (observed.vendor, observed.serial, observed.model, observed.firmware) == (
        "Cisco",
        "FOC0001A",
        "C9300",
        "17.3",
    )
    assert (observed.hostnames, observed.location, observed.type) == (("host-10.0.0.1",), "rack 7", "switch")
    assert (observed.chassis_id, observed.mac) == ("00:1b:54:00:00:01", "d4:be:d9:00:08:01")
    assert observed.metadata["snmp_description"] == "IOS XE" and observed.metadata["snmp_engine_id"] == "80001f8880"


def test_a_chassis_id_that_is_a_name_identifies_nothing() -> None:
    (observed,) = observe_agents({"10.0.0.1": agent("10.0.0.1", chassis_id="switch")}, "default")
    assert observed.chassis_id is None


def test_a_printer_has_its_serial_and_model_from_the_printer_mib() -> None:
    values = [
        {"oid": PRINTER_SERIAL, "type": "text", "value": "E7000123"},
        {"oid": PRINTER_MODEL, "type": "text", "value": "HL-L2350DW"},
    ]
    printer = Agent.model_validate({**agent("10.0.0.9", vendor="Brother").model_dump(), "values": values})
    (observed,) = observe_agents({"10.0.0.9": printer}, "default")
    assert (observed.type, observed.vendor, observed.serial, observed.model) == (
        "printer",
        "Brother",
        "E7000123",
        "HL-L2350DW",
    )


def test_members_of_a_stack_are_observed_each_with_its_serial() -> None:
    parts = [{"index": 1, "contained_in": 0, "kind": "stack"}]
    parts += [
        {"index": 1000 * n, "contained_in": 1, "kind": "chassis", "serial": f"FOC000{n}", "vendor": "Cisco"}
        for n in (1, 2, 3)
    ]
    parts += [{"index": 9, "contained_in": 1000, "kind": "module", "serial": "MOD1"}]
    stack = Agent.model_validate({**agent("10.0.0.1").model_dump(), "entity": parts})
    observed = observe_agents({"10.0.0.1": stack}, "default")
    assert [(one.address, one.serial) for one in observed] == [
        ("10.0.0.1", "FOC0001"),
        (None, "FOC0002"),
        (None, "FOC0003"),
    ]


def test_addresses_of_one_router_become_one_host() -> None:
    own = ("10.0.1.1", "10.0.2.1", "10.0.3.1")
    folded = fold(seen(agent("10.0.1.1", *own), agent("10.0.2.1", *own), scanned=["10.0.3.1", "10.0.3.9"]))
    assert sorted(sorted(host.addresses) for host in folded.hosts) == [list(own), ["10.0.3.9"]]


def test_two_servers_with_the_same_container_bridge_stay_two() -> None:
    """Case 7 by another name: `docker0` has 172.18.0.1 on both, and a private link the same address too."""
    one = agent("10.0.0.1", "10.0.0.1", "192.168.255.1", links=["br-1f2e=172.18.0.1"])
    other = agent("10.0.0.2", "10.0.0.2", "192.168.255.1", links=["docker0=172.18.0.1"])
    assert own_addresses({"10.0.0.1": one, "10.0.0.2": other}) == {"10.0.0.1": ("10.0.0.1",), "10.0.0.2": ("10.0.0.2",)}
    assert len(fold(seen(one, other)).hosts) == 2


def test_what_a_container_bridge_has_is_nobodys_own() -> None:
    assert own_addresses({"10.0.0.1": agent("10.0.0.1", links=["docker0=172.18.0.1"])}) == {"10.0.0.1": ("10.0.0.1",)}


def test_an_address_two_routers_with_serials_claim_is_virtual_and_joins_nothing() -> None:
    one = agent("10.0.0.2", "10.0.0.2", "10.0.0.1", serial="AAA111")
    other = agent("10.0.0.3", "10.0.0.3", "10.0.0.1", serial="BBB222")
    folded = fold(seen(one, other))
    assert len(folded.hosts) == 2 and set(folded.virtual) == {"10.0.0.1"}


def test_loopback_and_link_local_addresses_are_nobodys() -> None:
    one = agent("10.0.0.1", "10.0.0.1", "127.0.0.1", "fe80::1", "169.254.3.4")
    assert own_addresses({"10.0.0.1": one}) == {"10.0.0.1": ("10.0.0.1",)}


def test_an_agent_that_does_not_list_the_address_it_answers_at_accounts_for_no_others() -> None:
    """Behind an address translation: what is inside is not what was asked."""
    (observed,) = observe_agents({"10.0.0.1": agent("10.0.0.1", "192.168.1.1", "192.168.1.2")}, "default")
    assert observed.addresses == () and observed.mac is None


def test_clones_of_one_image_share_an_engine_id_and_stay_two() -> None:
    assert len(fold(seen(agent("10.0.0.1"), agent("10.0.0.2"))).hosts) == 2


def test_an_agent_that_says_nothing_of_itself_is_no_observation() -> None:
    silent = Agent.model_validate({"target": "10.0.0.1", "address": "10.0.0.1", "outcome": "answered"})
    assert observe_agents({"10.0.0.1": silent}, "default") == []
