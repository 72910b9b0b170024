"""What devices announce on our own links: which links are asked, what becomes facts and notes, and which devices are taken for Axis's."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import Any

import pytest
from lab.announcers import announcing_mdns, announcing_ssdp, axis_records
from lab.network import DELL, Lab, http, needs_lab

from blocks.policy import ProbePolicy
from flows import _announcements as module
from flows._announcements import Announced, ask_links, facts_of, silent_ones, with_announced
from flows._cameras import axis_ports
from flows._scan import SeenService, Sighting
from flows._scope import Plan, plan_scope
from tasks.core.errors import Refused
from tasks.core.run import FixedWiring, wired
from tasks.network.capture._scapy_rows import Announcement
from tasks.network.scan._links import Link

HTTP = SeenService("tcp", 80, "http")
CAMERA = {
    "protocol": "mdns", "address": "10.0.0.7", "mac": "b8:a4:4f:00:00:0a", "rtt_ms": 1.0, "heard": 1,
    "names": ["axis-b8a44f00000a"], "kinds": ["_axis-video._tcp"],
    "services": [{"kind": "_axis-video._tcp", "name": "AXIS P3265 - B8A44F00000A", "host": "axis-b8a44f00000a", "port": 80}],
}  # fmt: skip


def sighting(address: str) -> Sighting:
    return Sighting(address, "arp", datetime.now(UTC))


async def plan(*targets: str) -> Plan:
    return await plan_scope(list(targets), ProbePolicy(allow=["10.0.0.0/8"]))


def link(interface: str, network: str, *, arp: bool = True) -> Link:
    parsed = ipaddress.IPv4Network(network)
    return Link(interface, parsed, str(parsed[250]), "02:00:00:00:00:01", arp)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
    """The questions that would be asked of three links; the third has no ARP."""
    questions: list[tuple[str, str, list[str]]] = []
    links = [link("eth0", "10.0.1.0/24"), link("eth1", "10.0.2.0/24"), link("tun0", "10.0.3.0/24", arp=False)]

    async def ours() -> list[Link]:
        return links

    async def refuse(params: Any) -> Any:
        questions.append((str(params.probe), params.interface, params.targets))
        raise Refused(f"{params.targets[0]} holds what policy excludes.", hint="signalbox policy show")

    monkeypatch.setattr(module, "ipv4_links", ours)
    monkeypatch.setattr(module, "scapy", refuse)
    return questions


async def test_only_links_wholly_in_scope_are_asked_and_what_is_refused_costs_a_note(asked: list[Any]) -> None:
    found = await ask_links(await plan("10.0.1.0/24", "10.0.2.0/25", "10.0.3.0/24"), "default")
    assert asked == [("mdns", "eth0", ["10.0.1.0/24"]), ("ssdp", "eth0", ["10.0.1.0/24"])]
    assert found.facts == {} and found.notes == [
        "mDNS was not asked on eth0: 10.0.1.0/24 holds what policy excludes.",
        "SSDP was not asked on eth0: 10.0.1.0/24 holds what policy excludes.",
        "Nobody was asked for announcements on eth1: 10.0.2.0/24 is not wholly in scope.",
    ]


async def test_networks_that_are_on_no_link_of_ours_are_not_asked_and_that_is_said(asked: list[Any]) -> None:
    found = await ask_links(await plan("10.0.3.0/24", "10.9.0.0/24"), "default")
    assert asked == [] and found.notes == [
        "Nobody was asked for announcements: none of this machine's links is in scope."
    ]


def test_names_and_services_become_facts() -> None:
    assert facts_of(Announcement.model_validate(CAMERA)) == {
        "mdns_name": "AXIS P3265 - B8A44F00000A",
        "mdns_host": "axis-b8a44f00000a",
        "mdns_services": "_axis-video._tcp",
    }
    device = Announcement(
        protocol="ssdp", address="10.0.0.8", mac="02:00:00:00:00:08", server="Linux UPnP/1.0", usns=["uuid:1"], rtt_ms=1, heard=1
    )  # fmt: skip
    assert facts_of(device) == {"ssdp_server": "Linux UPnP/1.0", "ssdp_usn": "uuid:1"}


def test_facts_are_kept_beside_what_a_host_says_when_asked() -> None:
    announced = Announced({"10.0.0.7": {"mdns_host": "cam"}})
    told, other = with_announced([sighting("10.0.0.7"), sighting("10.0.0.9")], announced)
    assert told.said.facts == {"mdns_host": "cam"} and other.said.facts == {}


async def test_hosts_that_announce_themselves_but_do_not_answer_are_named_up_to_a_few() -> None:
    facts = {f"10.0.1.{number}": {"mdns_host": f"cam-{number}"} for number in range(1, 13)}
    facts["10.0.2.1"] = {"mdns_host": "elsewhere"}
    notes = silent_ones([sighting("10.0.1.1")], await plan("10.0.1.0/24"), Announced(facts))
    assert notes[0] == "10.0.1.2 did not answer, and announces itself as cam-2."
    assert len(notes) == 9 and notes[-1] == "3 more hosts announce themselves and did not answer."


def test_a_device_that_announces_itself_as_axis_is_asked_although_its_mac_is_another_s() -> None:
    hosts = {f"10.0.0.{number}": [HTTP] for number in range(1, 6)}
    facts = {
        "10.0.0.1": {"mdns_services": "_axis-video._tcp, _http._tcp"},
        "10.0.0.2": {"ssdp_server": "Linux/4.9.206-axis5, UPnP/1.0"},
        "10.0.0.3": {"ssdp_usn": "uuid:Upnp-BasicDevice-1_0-00408C012345::upnp:rootdevice"},
        "10.0.0.4": {"mdns_services": "_http._tcp", "ssdp_server": "Praxis/1.0", "ssdp_usn": "uuid:d4bed9012345"},
    }
    assert axis_ports(hosts, {}, facts) == {80: ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}


@pytest.mark.lab
@needs_lab
async def test_a_link_is_asked_both_ways_and_a_silent_camera_behind_a_wall_is_noticed(prefect_server: str) -> None:
    async with Lab() as lab:
        web = await lab.add("web", 10, f"{DELL}:00:00:10", services=[http()])
        hidden = await lab.add("hidden", 11, f"{DELL}:00:00:11")
        policy = ProbePolicy(allow=[f"10.{lab.slot}.0.0/16"])
        scope = await plan_scope([lab.first.cidr], policy)
        camera = axis_records("AXIS P3265", "B8A44F00000A", hidden.address)
        usn = "uuid:Upnp-BasicDevice-1_0-B8A44F00000B::upnp:rootdevice"
        with (
            wired(FixedWiring(policies={"default": policy})),
            announcing_mdns(hidden.namespace, camera),
            announcing_ssdp(web.namespace, "Linux UPnP/1.0", usn, f"http://{web.address}:49152/a.xml"),
        ):
            found = await ask_links(scope, "default")
    assert found.notes == []
    assert found.facts == {
        hidden.address: facts_of(Announcement.model_validate(CAMERA)),
        web.address: {"ssdp_server": "Linux UPnP/1.0", "ssdp_usn": usn},
    }
    assert silent_ones([sighting(web.address)], scope, found) == [
        f"{hidden.address} did not answer, and announces itself as AXIS P3265 - B8A44F00000A."
    ]
    assert axis_ports({web.address: [HTTP]}, {}, found.facts) == {80: [web.address]}
