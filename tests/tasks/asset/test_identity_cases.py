"""The sixteen cases of identity: what one device, two devices and no device look like, and what must come of it.

Each asserts the events and the rows against a real PostgreSQL. Most were met by users of other discovery systems, who lost
trust in their inventory over them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tasks.asset import _operator as operator
from tasks.asset._changes import EventKind
from tasks.asset._identity import MacKind, classify_mac

CAMERA = "ac:cc:8e:00:00:01"  # Axis: globally administered, registered
PRINTER = "00:1b:78:00:00:02"  # Hewlett Packard
LAPTOP = "00:1c:42:00:00:03"
NODE_A, NODE_B = "00:1e:c9:00:00:0a", "00:1e:c9:00:00:0b"  # Dell
GATEWAY = "00:00:0c:00:00:fe"  # Cisco
VRRP = "00:00:5e:00:01:0a"


def random_mac(number: int) -> str:
    return f"da:a1:19:00:{number >> 8:02x}:{number & 255:02x}"


async def test_case_1_a_strong_mac_at_a_new_address_moves_its_asset(lab: Any) -> None:
    first = await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))
    assert [event.kind for event in first.events] == [EventKind.NEW] * 2
    camera = first.asset_of["10.0.0.5"]

    changes = await lab.scan(lab.host("10.0.0.9", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))

    assert lab.told(changes) == [("ip_changed", camera, "10.0.0.5", "10.0.0.9")]
    assert changes.events[0].loud
    assert await lab.held() == {"10.0.0.1": first.asset_of["10.0.0.1"], "10.0.0.9": camera}
    assert (camera, "10.0.0.9", CAMERA, None, "active") in await lab.assets()
    assert await lab.rows("SELECT state FROM address WHERE host(ip) = '10.0.0.5'") == [("released",)]


async def test_case_2_another_strong_mac_at_the_same_address_is_another_asset(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/24', 2, 2)"
    )
    first = await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))
    camera = first.asset_of["10.0.0.5"]

    changes = await lab.scan(lab.host("10.0.0.5", mac=PRINTER), lab.host("10.0.0.1", mac=GATEWAY))

    printer = changes.asset_of["10.0.0.5"]
    assert lab.told(changes) == [("new", printer)] and printer != camera
    assert (await lab.held())["10.0.0.5"] == printer
    rows = await lab.assets("id", "mac::text", "status")
    assert (camera, CAMERA, "active") in rows and (printer, PRINTER, "active") in rows
    assert await lab.rows("SELECT state, missed_scans FROM address WHERE asset_id = :a", a=camera) == [("lost", 1)]

    lab.later(hours=2)  # and the old one goes on towards missing, although something answers at its address
    changes = await lab.scan(lab.host("10.0.0.5", mac=PRINTER), lab.host("10.0.0.1", mac=GATEWAY))
    assert lab.told(changes) == [("missing", camera, "active", "missing")]

    lab.later(hours=1)  # it keeps its identity: when its MAC is seen again, it is itself
    changes = await lab.scan(
        lab.host("10.0.0.7", mac=CAMERA), lab.host("10.0.0.5", mac=PRINTER), lab.host("10.0.0.1", mac=GATEWAY)
    )
    assert lab.told(changes) == [
        ("returned", camera, "missing", "active"),
        ("ip_changed", camera, "10.0.0.5", "10.0.0.7"),
    ]


async def test_case_3_a_virtual_router_address_belongs_to_no_node_and_never_merges_them(lab: Any) -> None:
    def node_a(*more: str) -> object:
        return lab.host("10.0.0.2", "snmp", mac=NODE_A, vendor="Dell", serial="AAA111", addresses=("10.0.0.2", *more))

    def node_b(*more: str) -> object:
        return lab.host("10.0.0.3", "snmp", mac=NODE_B, vendor="Dell", serial="BBB222", addresses=("10.0.0.3", *more))

    virtual = lab.host("10.0.0.254", mac=VRRP, services=lab.ports(443))
    first = await lab.settle(node_a("10.0.0.254"), node_b(), virtual)
    a, b = first.asset_of["10.0.0.2"], first.asset_of["10.0.0.3"]
    assert a != b and first.asset_of["10.0.0.254"] is None
    assert first.counts == {"new": 2, "virtual_address": 1}
    assert await lab.rows(
        "SELECT asset_id, kind, mac::text, answered_by FROM address WHERE host(ip) = '10.0.0.254'"
    ) == [(None, "virtual", VRRP, a)]

    changes = await lab.scan(node_a(), node_b("10.0.0.254"), lab.host("10.0.0.254", mac=VRRP))

    assert lab.told(changes) == [("virtual_address_moved", None, a, b)]
    assert len(await lab.assets()) == 2
    assert await lab.held() == {"10.0.0.2": a, "10.0.0.3": b, "10.0.0.254": None}
    assert await lab.rows("SELECT count(*) FROM merge_log") == [(0,)]


async def test_case_3_an_address_that_moves_between_nodes_without_a_virtual_mac_does_not_merge_them(lab: Any) -> None:
    def scan(owner: str) -> list[object]:
        return [
            lab.host("10.0.0.2", mac=NODE_A, services=lab.ports(22)),
            lab.host("10.0.0.3", mac=NODE_B, services=lab.ports(22)),
            lab.host("10.0.0.254", mac=owner, services=lab.ports(443)),
        ]

    first = await lab.settle(*scan(NODE_A))
    assert len(await lab.assets()) == 3
    for owner in (NODE_B, NODE_A, NODE_B):
        changes = await lab.scan(*scan(owner))
        assert lab.told(changes) == []
        lab.later(hours=1)
    assert await lab.held() == {ip: first.asset_of[ip] for ip in ("10.0.0.2", "10.0.0.3", "10.0.0.254")}


async def test_case_4_one_payload_that_lists_three_interfaces_merges_three_assets_and_undo_works(lab: Any) -> None:
    networks = ("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24")
    interfaces = ["10.0.1.1", "10.0.2.1", "10.0.3.1"]
    for network, ip in zip(networks, interfaces, strict=True):
        await lab.scan(lab.host(ip, "tcp", services=lab.ports(22), scanned_tcp="22"), networks=[network])
    assert len(await lab.assets()) == 3
    before = await lab.assets("id", "host(primary_ip)", "status")
    one, two, three = (row[0] for row in before)
    lab.later(hours=1)

    switch = lab.host(
        "10.0.1.1",
        "snmp",
        vendor="Cisco",
        serial="FOC1234X",
        hostnames=("core1.example.com",),
        addresses=tuple(interfaces),
    )
    changes = await lab.tell(switch)

    assert changes.counts == {"merged": 2, "learned": 1}
    assert [event.asset_id for event in changes.of_kind(EventKind.MERGED)] == [one, one]
    assert await lab.assets("id", "hostname") == [(one, "core1.example.com")]
    assert await lab.held() == dict.fromkeys(interfaces, one)
    assert await lab.rows("SELECT kept_id, merged_id, by FROM merge_log ORDER BY id") == [
        (one, two, "reconcile"),
        (one, three, "reconcile"),
    ]
    assert await lab.rows("SELECT host(ip), port FROM service WHERE asset_id = :a AND active ORDER BY ip", a=one) == [
        (ip, 22) for ip in interfaces
    ]

    for merge in reversed(changes.merges):
        await operator.undo(merge, by="alice", db=lab.db)
    assert await lab.assets("id", "host(primary_ip)", "status") == before
    assert await lab.held() == {"10.0.1.1": one, "10.0.2.1": two, "10.0.3.1": three}
    kinds = await lab.rows(
        "SELECT kind, count(*) FROM asset_event WHERE kind IN ('merged', 'split') GROUP BY 1 ORDER BY 1"
    )
    assert kinds == [("merged", 2), ("split", 4)]

    lab.later(hours=1)  # what an operator took apart stays apart
    changes = await lab.tell(switch)
    assert not changes.of_kind(EventKind.MERGED) and len(await lab.assets()) == 3


async def test_case_5_random_macs_for_thirty_days_make_no_pile_and_no_noise(lab: Any) -> None:
    printer = PRINTER
    await lab.settle(lab.host("10.0.0.1", mac=printer, services=lab.ports(443)))
    for visit in range(60):  # a phone that changes its MAC, twice a day
        changes = await lab.scan(
            lab.host("10.0.0.1", mac=printer, services=lab.ports(443)),
            lab.host(f"10.0.0.{100 + visit % 50}", mac=random_mac(visit)),
        )
        assert changes.loud == () and changes.counts == {"candidate": 1}
        lab.later(hours=12)
    assert len(await lab.assets()) == 1
    assert await lab.rows("SELECT kind, count(*) FROM candidate GROUP BY 1") == [("random_mac", 3)]


async def test_case_5_a_random_mac_that_stays_is_one_labelled_asset_that_expires_soon(lab: Any) -> None:
    def scan(*more: object) -> list[object]:
        return [lab.host("10.0.0.1", mac=PRINTER, services=lab.ports(443)), *more]

    await lab.settle(*scan())
    events: dict[str, int] = {}
    for visit in range(60):  # a phone that keeps its MAC, at another address each time
        changes = await lab.scan(*scan(lab.host(f"10.0.0.{100 + visit % 50}", mac=random_mac(0))))
        assert changes.loud == ()
        for kind, count in changes.counts.items():
            events[kind] = events.get(kind, 0) + count
        lab.later(hours=12)
    assert events == {"candidate": 1, "new": 1, "ip_changed": 57}
    phone = (await lab.assets("id", "mac::text", "ephemeral"))[-1]
    assert phone[1:] == (random_mac(0), True) and len(await lab.assets()) == 2

    for expected in ("missing", "stale", "archived"):
        changes = await lab.scan(*scan())
        assert lab.told(changes)[0][0] == expected and changes.loud == ()
        lab.later(hours=20)


async def test_case_6_two_hundred_addresses_with_one_mac_are_suspect_and_make_no_assets(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.1", mac=GATEWAY, services=lab.ports(22)), lab.host("10.0.0.9", mac=CAMERA))

    proxied = [lab.host(ip, mac=GATEWAY) for ip in lab.addresses("10.0.0.0/24", 20, 200)]
    changes = await lab.scan(lab.host("10.0.0.1", mac=GATEWAY, services=lab.ports(22)), *proxied)

    assert lab.told(changes) == [("suspect", None)]
    assert (changes.events[0].subject, changes.events[0].field) == (GATEWAY, "proxy_arp")
    assert len(await lab.assets()) == 2
    assert await lab.rows("SELECT kind, mac::text, jsonb_array_length(evidence->'addresses') FROM candidate") == [
        ("proxy_arp", GATEWAY, 200)
    ]
    assert (
        lab.told(await lab.scan(lab.host("10.0.0.1", mac=GATEWAY, services=lab.ports(22)), *proxied)) == []
    )  # said once


async def test_case_7_container_bridges_on_two_hosts_merge_nothing_and_make_no_assets(lab: Any) -> None:
    first = await lab.settle(
        lab.host("10.0.0.11", "ssh", mac=NODE_A, ssh_host_keys=("SHA256:aaa",), addresses=("10.0.0.11", "172.17.0.1")),
        lab.host("10.0.0.12", "ssh", mac=NODE_B, ssh_host_keys=("SHA256:bbb",), addresses=("10.0.0.12", "172.17.0.1")),
        lab.host("172.17.0.2", "tcp", services=lab.ports(80)),
        networks=("10.0.0.0/24", "172.17.0.0/16"),
    )
    assert first.counts == {"new": 2}
    assert await lab.held() == {"10.0.0.11": first.asset_of["10.0.0.11"], "10.0.0.12": first.asset_of["10.0.0.12"]}
    assert await lab.rows("SELECT count(*) FROM candidate") == [(0,)]
    assert await lab.rows("SELECT asset_id FROM observation WHERE host(ip) = '172.17.0.2'") == [
        (None,)
    ]  # seen, and noted


async def test_case_8_an_ipvlan_container_that_shares_its_hosts_mac_is_not_merged_with_it(lab: Any) -> None:
    host = {"mac": NODE_A, "services": lab.ports(22), "scanned_tcp": "22,80"}
    first = await lab.settle(lab.host("10.0.0.10", **host))
    server = first.asset_of["10.0.0.10"]

    changes = await lab.scan(
        lab.host("10.0.0.10", **host), lab.host("10.0.0.11", **(host | {"services": lab.ports(80)}))
    )

    container = changes.asset_of["10.0.0.11"]
    assert lab.told(changes) == [("new", container)] and container != server
    assert await lab.held() == {"10.0.0.10": server, "10.0.0.11": container}
    strengths = "SELECT asset_id, strength FROM asset_identifier WHERE kind = 'mac' AND active ORDER BY asset_id"
    assert await lab.rows(strengths) == [(server, "strong"), (container, "weak")]

    lab.later(hours=1)  # the container alone in sight: its host's MAC does not make it its host
    changes = await lab.scan(lab.host("10.0.0.11", **(host | {"services": lab.ports(80)})), finished=("10.0.0.11/32",))
    assert lab.told(changes) == [] and await lab.held() == {"10.0.0.10": server, "10.0.0.11": container}


async def test_case_9_the_same_address_at_two_sites_is_two_assets(lab: Any) -> None:
    other = type(lab)(lab.db, "branch")
    here = await lab.scan(lab.host("10.0.0.5", mac=CAMERA))
    there = await other.scan(other.host("10.0.0.5", mac=CAMERA))
    assert here.counts == there.counts == {"new": 1}
    assert here.asset_of["10.0.0.5"] != there.asset_of["10.0.0.5"]
    assert len(await lab.assets()) == len(await other.assets()) == 1


async def test_case_10_two_cameras_with_one_default_name_are_two_assets(lab: Any) -> None:
    changes = await lab.scan(
        lab.host("10.0.0.5", mac=CAMERA, hostnames=("axis-camera",)),
        lab.host("10.0.0.6", mac="ac:cc:8e:00:00:99", hostnames=("axis-camera",)),
        lab.host("10.0.0.7", mac=PRINTER, hostnames=("localhost",)),
        lab.host("10.0.0.8", mac=LAPTOP, hostnames=("localhost",)),
    )
    assert changes.counts == {"new": 4}
    assert [row[3] for row in await lab.assets()] == ["axis-camera", None, None, None]
    again = await lab.scan(
        lab.host("10.0.0.5", mac=CAMERA, hostnames=("axis-camera",)),
        lab.host("10.0.0.6", mac="ac:cc:8e:00:00:99", hostnames=("axis-camera",)),
        lab.host("10.0.0.7", mac=PRINTER, hostnames=("localhost",)),
        lab.host("10.0.0.8", mac=LAPTOP, hostnames=("localhost",)),
    )
    assert lab.told(again) == []


async def test_case_11_a_camera_deleted_and_added_again_has_its_history_by_serial_and_nothing_else(lab: Any) -> None:
    def camera(ip: str, serial: str, mac: str) -> object:
        return lab.host(ip, "vapix", mac=mac, vendor="Axis", serial=serial, addresses=(ip,))

    first = await lab.settle(
        camera("10.0.0.5", "ACCC8E000001", CAMERA), camera("10.0.0.6", "ACCC8E000099", "ac:cc:8e:00:00:99")
    )
    old, other = first.asset_of["10.0.0.5"], first.asset_of["10.0.0.6"]
    await lab.do("DELETE FROM asset WHERE id = :a", a=old)

    changes = await lab.scan(
        camera("10.0.0.77", "ACCC8E000001", CAMERA), camera("10.0.0.6", "ACCC8E000099", "ac:cc:8e:00:00:99")
    )

    new = changes.asset_of["10.0.0.77"]
    assert lab.told(changes) == [("new", new)] and new not in (old, other)
    assert changes.events[0].after["formerly"] == old
    history = await operator.history(lab.site, serial="ACCC8E000001", db=lab.db)
    assert [(entry.kind, entry.asset_id) for entry in history] == [("new", old), ("new", new)]
    assert {entry.asset_id for entry in await operator.history(lab.site, asset=other, db=lab.db)} == {other}


async def test_case_12_a_short_name_and_the_full_name_are_one_host(lab: Any) -> None:
    first = await lab.settle(lab.host("10.0.0.5", "icmp", hostnames=("web1",)))
    asset = first.asset_of["10.0.0.5"]
    changes = await lab.scan(lab.host("10.0.0.5", "icmp", hostnames=("web1.example.com",)))
    assert lab.told(changes) == [("learned", asset)] and not changes.loud
    assert await lab.assets("id", "hostname") == [(asset, "web1.example.com")]
    lab.later(hours=1)
    assert lab.told(await lab.scan(lab.host("10.0.0.5", "icmp", hostnames=("web1",)))) == []
    assert await lab.assets("id", "hostname") == [(asset, "web1.example.com")]


async def test_case_13_two_parallel_tasks_that_see_one_new_host_make_one_asset_and_one_event(lab: Any) -> None:
    both = await asyncio.gather(
        *(lab.tell(lab.host("10.0.0.5", mac=CAMERA), coverage=lab.coverage()) for _ in range(2)),
        *(lab.tell(lab.host("10.0.0.5", "icmp", hostnames=("cam.example.com",))) for _ in range(2)),
    )
    assert sum(changes.counts.get("new", 0) for changes in both) == 1
    assert len(await lab.assets()) == 1
    assert await lab.rows("SELECT count(*) FROM asset_event WHERE kind = 'new'") == [(1,)]


async def test_case_14_the_scanner_itself_is_present_and_never_missing(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/24', 1, 0)"
    )
    first = await lab.settle(lab.host("10.0.0.1", mac=GATEWAY), local_addresses=("10.0.0.2",))
    scanner = first.asset_of["10.0.0.2"]
    assert scanner is not None and first.counts == {"new": 2}
    for _ in range(4):
        lab.later(hours=24)
        assert lab.told(await lab.scan(lab.host("10.0.0.1", mac=GATEWAY), local_addresses=("10.0.0.2",))) == []
    assert await lab.rows("SELECT status, last_seen FROM asset WHERE id = :a", a=scanner) == [("active", lab.now)]


async def test_case_15_a_scan_nobody_answered_calls_nothing_missing_and_says_suspect(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/24', 1, 0)"
    )
    await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))
    lab.later(days=60)
    changes = await lab.scan()
    assert changes.suspect and lab.told(changes) == [("suspect", None)]
    assert changes.events[0].subject == "10.0.0.0/24"
    assert [row[4] for row in await lab.assets()] == ["active", "active"]
    assert await lab.rows("SELECT max(missed_scans) FROM address") == [(0,)]
    assert await lab.rows("SELECT count(*) FROM scan_history") == [(1,)]  # and it is no scan a later one may build on


async def test_case_16_renumbered_stack_members_are_kept_apart_by_their_serials(lab: Any) -> None:
    def member(serial: str, position: int, ip: str | None = None) -> object:
        own = {"addresses": (ip,)} if ip else {}
        return lab.host(ip, "snmp", vendor="Cisco", serial=serial, metadata={"member": position}, **own)

    first = await lab.settle(member("FOC0001A", 1, "10.0.0.1"), member("FOC0002B", 2), member("FOC0003C", 3))
    assert first.counts == {"new": 3}
    serials = dict(await lab.assets("serial", "id"))

    changes = await lab.scan(member("FOC0003C", 1, "10.0.0.1"), member("FOC0001A", 2), member("FOC0002B", 3))

    assert len(await lab.assets()) == 3 and dict(await lab.assets("serial", "id")) == serials
    assert sorted(lab.told(changes.of_kind(EventKind.METADATA_CHANGED))) == sorted(
        [
            ("metadata_changed", serials["FOC0001A"], 1, 2),
            ("metadata_changed", serials["FOC0002B"], 2, 3),
            ("metadata_changed", serials["FOC0003C"], 3, 1),
        ]
    )
    assert await lab.held() == {"10.0.0.1": serials["FOC0003C"]}
    assert changes.counts == {"metadata_changed": 3, "address_removed": 1, "learned": 1}


async def test_case_16_members_that_swap_their_addresses_keep_their_identity(lab: Any) -> None:
    def member(serial: str, ip: str) -> object:
        return lab.host(ip, "snmp", vendor="Cisco", serial=serial, addresses=(ip,))

    first = await lab.settle(member("FOC0001A", "10.0.0.1"), member("FOC0002B", "10.0.0.2"))
    a, b = first.asset_of["10.0.0.1"], first.asset_of["10.0.0.2"]
    changes = await lab.scan(member("FOC0001A", "10.0.0.2"), member("FOC0002B", "10.0.0.1"))
    assert sorted(lab.told(changes)) == sorted(
        [("ip_changed", a, "10.0.0.1", "10.0.0.2"), ("ip_changed", b, "10.0.0.2", "10.0.0.1")]
    )
    assert await lab.held() == {"10.0.0.1": b, "10.0.0.2": a}


def test_the_cases_use_macs_of_the_kind_they_need() -> None:
    assert {classify_mac(mac) for mac in (CAMERA, PRINTER, LAPTOP, NODE_A, NODE_B, GATEWAY)} == {MacKind.GLOBAL}
    assert classify_mac(VRRP) is MacKind.VIRTUAL and classify_mac(random_mac(300)) is MacKind.RANDOM
