"""Reconciling: all or nothing, one at a time, what a preview promises, who may write a field, and when silence is an event."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tasks.asset import _operator as operator
from tasks.asset._changes import Changes, EventKind
from tasks.asset._observation import ObservedHost, ObservedService
from tasks.asset._reconcile import missing_candidates, reconcile
from tasks.core.db.engine import Database
from tasks.core.errors import InvalidParameters

CAMERA = "ac:cc:8e:00:00:01"
PRINTER = "00:1b:78:00:00:02"
GATEWAY = "00:00:0c:00:00:fe"
REPOSITORY = Path(__file__).parents[3]


def fleet(lab: Any, count: int, *, shift: int = 0, method: str = "nmap") -> list[ObservedHost]:
    return [
        lab.host(
            f"10.0.{number >> 8}.{number & 255}",
            method,
            mac=f"ac:cc:8e:00:{number >> 8:02x}:{number & 255:02x}",
            services=lab.ports(80, 443),
            scanned_tcp="22,80,443",
            hostnames=(f"cam-{number}.example.com",),
        )
        for number in range(1 + shift, 1 + shift + count)
    ]


# --- all or nothing --------------------------------------------------------------------------------------------------


async def test_the_same_observations_a_second_time_change_nothing(lab: Any) -> None:
    hosts = fleet(lab, 50)
    await lab.settle(*hosts, networks=("10.0.0.0/16",))
    again = await lab.scan(*fleet(lab, 50), networks=("10.0.0.0/16",))
    assert again.events == () and again.seen == again.unchanged == 50
    assert await lab.rows("SELECT DISTINCT version FROM asset") == [(1,)]  # being seen is no change of a field
    assert await lab.rows("SELECT min(last_seen) FROM asset") == [(lab.now,)]
    assert await lab.rows("SELECT count(*), count(DISTINCT run_id) FROM observation WHERE asset_id IS NOT NULL") == [
        (100, 2)
    ]


async def test_two_reconciles_at_once_neither_deadlock_nor_duplicate(lab: Any, database_url: str) -> None:
    others = [Database(database_url.replace("postgresql://", "postgresql+psycopg2://")) for _ in range(3)]
    ahead, back = fleet(lab, 400), list(reversed(fleet(lab, 400, shift=200)))
    try:
        results = await asyncio.gather(
            *(
                reconcile("default", hosts, lab.coverage(("10.0.0.0/16",)), run_id=f"r{number}", now=lab.now, db=db)
                for number, (hosts, db) in enumerate(
                    [(ahead, lab.db), (back, others[0]), (ahead, others[1]), (back, others[2])]
                )
            )
        )
    finally:
        for db in others:
            db.close()
    assert sum(changes.counts.get("new", 0) for changes in results) == 600
    assert await lab.rows("SELECT count(*), count(DISTINCT mac), count(DISTINCT primary_ip) FROM asset") == [
        (600, 600, 600)
    ]
    assert await lab.rows("SELECT count(*) FROM asset_event WHERE kind = 'new'") == [(600,)]


async def test_reconciles_of_two_sites_do_not_wait_for_each_other(lab: Any, database_url: str) -> None:
    branch = type(lab)(lab.db, "branch")
    await branch.tell()
    with psycopg2.connect(database_url) as holder, holder.cursor() as cursor:
        site = (await lab.rows("SELECT :site"))[0][0]
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (0x53494752, site))
        changes = await asyncio.wait_for(branch.tell(branch.host("10.0.0.5", mac=CAMERA)), 5)
    assert changes.counts == {"new": 1}


_VICTIM = """
import asyncio, sys
from datetime import datetime
from tasks.asset._observation import ObservedHost, ObservedService, ScanCoverage
from tasks.asset._reconcile import reconcile
from tasks.core.db.engine import Database
now = datetime.fromisoformat(sys.argv[2])
hosts = [
    ObservedHost(address=f"10.0.{n >> 8}.{n & 255}", method="nmap", seen_at=now, mac=f"ac:cc:8e:00:{n >> 8:02x}:{n & 255:02x}",
                 mac_first_hand=True, services=(ObservedService("tcp", 22),), scanned_tcp="22,80,443", firmware="2.0")
    for n in range(1, 501)
]
asyncio.run(reconcile("default", hosts, ScanCoverage(), run_id="victim", now=now, db=Database(sys.argv[1])))
print("done")
"""


async def test_a_kill_in_the_middle_leaves_the_old_state_whole(lab: Any, database_url: str) -> None:
    await lab.settle(*fleet(lab, 300), networks=("10.0.0.0/16",))
    tables = (
        "asset",
        "asset_identifier",
        "address",
        "service",
        "asset_field_source",
        "asset_event",
        "observation",
        "candidate",
    )
    whole = "SELECT " + ", ".join(
        f"(SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t)" for table in tables
    )
    before = await lab.rows(whole)
    with psycopg2.connect(database_url) as blocker, blocker.cursor() as cursor:
        # The events are written last: the victim has written assets, addresses and services when it comes to wait here.
        cursor.execute("LOCK TABLE asset_event IN EXCLUSIVE MODE")
        victim = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _VICTIM,
                database_url.replace("postgresql://", "postgresql+psycopg2://"),
                lab.now.isoformat(),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        try:
            deadline = time.monotonic() + 30
            while not await lab.rows("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'asset_event'::regclass"):
                assert time.monotonic() < deadline and victim.poll() is None
                await asyncio.sleep(0.05)
        finally:
            victim.send_signal(signal.SIGKILL)
            victim.wait(10)
    deadline = time.monotonic() + 10
    while await lab.rows(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%asset_event%' AND pid <> pg_backend_pid() AND state = 'active'"
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert await lab.rows(whole) == before
    lab.later(hours=1)
    changes = await lab.tell(*fleet(lab, 300))  # and the next one finds nothing locked and nothing half done
    assert changes.events == ()


async def test_an_observation_of_another_site_is_refused_whole(lab: Any) -> None:
    stray = dataclasses.replace(lab.host("10.0.0.6", mac=PRINTER), site="branch")
    with pytest.raises(InvalidParameters, match="branch"):
        await lab.tell(lab.host("10.0.0.5", mac=CAMERA), stray)
    assert await lab.assets() == []


# --- previews --------------------------------------------------------------------------------------------------------


async def test_a_preview_is_the_change_set_of_the_real_thing_and_writes_nothing(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/16', 1, 0)"
    )
    await lab.settle(*fleet(lab, 30), networks=("10.0.0.0/16",))
    seen = [
        *fleet(lab, 25),  # five are gone
        lab.host("10.0.7.7", mac=PRINTER, services=lab.ports(631)),  # one is new
        lab.host(
            "10.0.7.8", mac="ac:cc:8e:00:00:1e", services=lab.ports(22, 80), scanned_tcp="22,80,443"
        ),  # one moved and changed
        lab.host("10.0.7.9", "icmp"),  # one is a candidate
    ]
    everything = "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} t"
    tables = (
        "asset",
        "address",
        "service",
        "asset_identifier",
        "asset_event",
        "observation",
        "candidate",
        "scan_history",
    )
    before = [await lab.rows(everything.format(table)) for table in tables]

    preview = await lab.scan(*seen, networks=("10.0.0.0/16",), preview=True)

    assert [await lab.rows(everything.format(table)) for table in tables] == before
    real = await lab.scan(*seen, networks=("10.0.0.0/16",))
    assert preview.preview and not real.preview
    assert real.counts == {"new": 1, "ip_changed": 1, "service_added": 1, "candidate": 1, "missing": 4}
    new = {event.asset_id for event in real.of_kind(EventKind.NEW)}
    same: Changes = dataclasses.replace(
        real,
        preview=True,
        run_id=preview.run_id,
        events=tuple(dataclasses.replace(e, asset_id=None) if e.asset_id in new else e for e in real.events),
        asset_of={ip: None if asset in new else asset for ip, asset in real.asset_of.items()},
    )
    assert preview == same


# --- who may write a field -------------------------------------------------------------------------------------------


async def _fields(lab: Any, asset: int, *names: str) -> Any:
    return (await lab.rows(f"SELECT {', '.join(names)} FROM asset WHERE id = :a", a=asset))[0]


async def test_a_poll_that_lost_the_serial_or_the_name_never_blanks_them(lab: Any) -> None:
    camera = lab.host(
        "10.0.0.5",
        "vapix",
        mac=CAMERA,
        vendor="Axis",
        serial="ACCC8E000001",
        firmware="11.1",
        hostnames=("cam1.example.com",),
    )
    asset = (await lab.settle(camera)).asset_of["10.0.0.5"]
    changes = await lab.scan(lab.host("10.0.0.5", mac=CAMERA))
    assert lab.told(changes) == []
    assert await _fields(lab, asset, "serial", "hostname", "firmware") == ("ACCC8E000001", "cam1.example.com", "11.1")


async def test_a_guess_never_replaces_what_the_device_said_and_the_device_replaces_a_guess(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 4.x", model="some camera"))).asset_of[
        "10.0.0.5"
    ]
    changes = await lab.scan(lab.host("10.0.0.5", "vapix", mac=CAMERA, os="AXIS OS 11", model="P3245"))
    assert sorted(lab.told(changes)) == [
        ("model_changed", asset, "some camera", "P3245"),
        ("os_changed", asset, "Linux 4.x", "AXIS OS 11"),
    ]
    lab.later(hours=1)
    assert lab.told(await lab.scan(lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 5.x", model="router"))) == []
    assert await _fields(lab, asset, "os", "model") == ("AXIS OS 11", "P3245")


async def test_of_two_sources_of_one_rank_the_newer_observation_wins(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 5"))).asset_of["10.0.0.5"]
    lab.later(hours=1)
    await lab.scan(lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 6"))
    late = lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 4", seen_at=lab.now.replace(hour=lab.now.hour - 1))
    assert lab.told(await lab.tell(late)) == []
    assert await _fields(lab, asset, "os") == ("Linux 6",)


async def test_what_a_user_wrote_stays_and_what_an_operator_locked_stays(lab: Any) -> None:
    asset = (
        await lab.settle(lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux 5", model="guess", location="rack 1"))
    ).asset_of["10.0.0.5"]
    await lab.do("UPDATE asset SET model = 'P3245' WHERE id = :a", a=asset)
    await lab.do(
        "UPDATE asset_field_source SET source = 'alice', rank = 100 WHERE asset_id = :a AND field = 'model'", a=asset
    )
    await operator.lock(asset, "os", by="alice", db=lab.db)
    await lab.do(
        "UPDATE asset SET owner = 'facilities', type = 'camera' WHERE id = :a", a=asset
    )  # by hand, nobody claims it

    said = lab.host("10.0.0.5", "snmp", mac=CAMERA, os="Linux 6", model="other", type="printer", location="rack 2")
    changes = await lab.scan(said)

    assert lab.told(changes) == [("location_changed", asset, "rack 1", "rack 2")]
    assert await _fields(lab, asset, "os", "model", "type", "owner") == ("Linux 5", "P3245", "camera", "facilities")
    await operator.unlock(asset, "os", by="alice", db=lab.db)
    lab.later(hours=1)
    assert lab.told(await lab.scan(dataclasses.replace(said, seen_at=lab.now))) == [
        ("os_changed", asset, "Linux 5", "Linux 6")
    ]


async def test_a_locked_address_stays_although_the_device_moved(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))).asset_of["10.0.0.5"]
    await operator.lock(asset, "primary_ip", by="alice", db=lab.db)
    changes = await lab.scan(lab.host("10.0.0.9", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))
    assert lab.told(changes) == [
        ("ip_changed", asset, "10.0.0.5", "10.0.0.9")
    ]  # it is said, and the record stays as it was fixed
    assert await _fields(lab, asset, "host(primary_ip)") == ("10.0.0.5",)
    assert (await lab.held())["10.0.0.9"] == asset


async def test_a_field_filled_for_the_first_time_is_learned_quietly(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", mac=CAMERA))).asset_of["10.0.0.5"]
    changes = await lab.scan(
        lab.host("10.0.0.5", "nmap", mac=CAMERA, os="Linux", services=lab.ports(80), scanned_tcp="22,80")
    )
    assert lab.told(changes) == [("learned", asset)] and changes.loud == ()
    assert changes.events[0].after == {"services": ["tcp/80"], "os": "Linux"}


# --- services --------------------------------------------------------------------------------------------------------


async def test_a_port_that_opens_is_news_and_one_looked_at_for_the_first_time_is_not(lab: Any) -> None:
    def scan(asked: str, *numbers: int) -> ObservedHost:
        return lab.host("10.0.0.5", "nmap", mac=CAMERA, services=lab.ports(*numbers), scanned_tcp=asked)

    asset = (await lab.settle(scan("22,80", 80))).asset_of["10.0.0.5"]
    changes = await lab.scan(scan("22,80", 22, 80))
    assert lab.told(changes) == [("service_added", asset)]
    assert (changes.events[0].field, changes.events[0].ip, changes.events[0].loud) == ("tcp/22", "10.0.0.5", True)
    lab.later(hours=1)
    changes = await lab.scan(scan("1-1000", 22, 80, 554))
    assert lab.told(changes) == [("learned", asset)]
    lab.later(hours=1)
    assert lab.told(await lab.scan(scan("22,80", 22, 80))) == []  # 554 was not asked


async def test_a_silent_port_is_gone_after_two_scans_and_a_refusing_one_at_once(lab: Any) -> None:
    def scan(refused: str, *numbers: int) -> ObservedHost:
        return lab.host(
            "10.0.0.5", "nmap", mac=CAMERA, services=lab.ports(*numbers), scanned_tcp="22,80,443", refused_tcp=refused
        )

    asset = (await lab.settle(scan("", 22, 80, 443))).asset_of["10.0.0.5"]
    changes = await lab.scan(scan("22", 443))
    assert [(e.kind, e.asset_id, e.field) for e in changes.events] == [("service_removed", asset, "tcp/22")]
    lab.later(hours=1)
    changes = await lab.scan(scan("", 443))
    assert [(e.kind, e.field) for e in changes.events] == [("service_removed", "tcp/80")]
    lab.later(hours=1)
    changes = await lab.scan(scan("", 80, 443))
    assert [(e.kind, e.field) for e in changes.events] == [("service_added", "tcp/80")]


async def test_what_a_lighter_scan_cannot_tell_of_a_service_is_kept_and_a_new_version_is_news(lab: Any) -> None:
    def scan(*service: str) -> ObservedHost:
        return lab.host(
            "10.0.0.5", "nmap", mac=CAMERA, services=(ObservedService("tcp", 443, *service),), scanned_tcp="443"
        )

    asset = (await lab.settle(scan("https", "nginx", "1.24"))).asset_of["10.0.0.5"]
    assert lab.told(await lab.scan(scan())) == []
    lab.later(hours=1)
    changes = await lab.scan(scan("https", "nginx", "1.26"))
    assert lab.told(changes) == [("service_changed", asset)]
    assert changes.events[0].before["version"] == "1.24" and changes.events[0].after["version"] == "1.26"


async def test_services_move_with_their_asset(lab: Any) -> None:
    gateway = lab.host("10.0.0.1", mac=GATEWAY)
    asset = (
        await lab.settle(gateway, lab.host("10.0.0.5", "nmap", mac=CAMERA, services=lab.ports(80), scanned_tcp="80"))
    ).asset_of["10.0.0.5"]
    changes = await lab.scan(
        lab.host("10.0.0.1", mac=GATEWAY),
        lab.host("10.0.0.9", "nmap", mac=CAMERA, services=lab.ports(80), scanned_tcp="80"),
    )
    assert lab.told(changes) == [("ip_changed", asset, "10.0.0.5", "10.0.0.9")]
    assert await lab.rows("SELECT host(ip), port, active FROM service WHERE asset_id = :a", a=asset) == [
        ("10.0.0.9", 80, True)
    ]


# --- silence ---------------------------------------------------------------------------------------------------------


async def test_silence_climbs_the_ladder_one_rung_at_a_time_and_every_rung_is_reversible(lab: Any) -> None:
    gateway = {"mac": GATEWAY, "services": lab.ports(22)}
    first = await lab.settle(
        lab.host("10.0.0.1", **gateway), lab.host("10.0.0.5", mac=CAMERA, hostnames=("cam1.example.com",))
    )
    camera = first.asset_of["10.0.0.5"]
    seen: list[Any] = []
    for day in range(1, 43):
        lab.later(days=1)
        changes = await lab.scan(lab.host("10.0.0.1", **gateway))
        seen += [(day, event.kind.value) for event in changes.events]
    assert seen == [(3, "missing"), (10, "stale"), (40, "archived")]
    assert await lab.held() == {"10.0.0.1": first.asset_of["10.0.0.1"]}

    lab.later(days=1)
    changes = await lab.scan(lab.host("10.0.0.1", **gateway), lab.host("10.0.0.5", mac=CAMERA))
    assert lab.told(changes) == [("returned", camera, "archived", "active")]
    assert await _fields(lab, camera, "status", "hostname") == ("active", "cam1.example.com")
    assert (await lab.held())["10.0.0.5"] == camera


async def test_nothing_is_missing_until_a_second_method_agrees(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/24', 1, 0)"
    )
    camera = (await lab.settle(lab.host("10.0.0.1", mac=GATEWAY), lab.host("10.0.0.5", mac=CAMERA))).asset_of[
        "10.0.0.5"
    ]
    gateway = lab.host("10.0.0.1", mac=GATEWAY)

    absent = await missing_candidates("default", lab.coverage(), [gateway], now=lab.now, db=lab.db)
    assert [(asset.asset_id, asset.addresses, asset.method) for asset in absent] == [(camera, ("10.0.0.5",), "arp")]
    assert lab.told(await lab.scan(gateway, confirm=False)) == []
    answer = lab.host("10.0.0.5", "tcp", services=lab.ports(80))  # it was only deaf to ARP
    assert (await lab.scan(gateway, answer, confirm=False)).of_kind(EventKind.MISSING) == ()
    changes = await lab.scan(gateway, confirm=False, confirmed_absent=frozenset({"10.0.0.5"}))
    assert lab.told(changes) == [("missing", camera, "active", "missing")]


@pytest.mark.parametrize(
    ("why", "coverage"),
    [
        ("it was not scanned", {"finished": ("10.0.0.128/25",)}),
        ("its shard failed", {"planned": ("10.0.0.0/24",), "finished": ("10.0.0.128/25",)}),
        ("policy kept the scan away", {"excluded": ("10.0.0.5/32",)}),
        ("its host ran into its time limit", {"unknown": ("10.0.0.5",)}),
        ("it is the scanner's own", {"local_addresses": ("10.0.0.5",)}),
    ],
)
async def test_silence_says_nothing_where_the_scan_did_not_look(lab: Any, why: str, coverage: dict[str, Any]) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/24', 1, 0)"
    )
    await lab.settle(lab.host("10.0.0.200", mac=GATEWAY), lab.host("10.0.0.5", mac=CAMERA))
    lab.later(days=9)
    changes = await lab.scan(lab.host("10.0.0.200", mac=GATEWAY), **coverage)
    assert changes.of_kind(EventKind.MISSING) == (), why
    assert await lab.rows("SELECT missed_scans FROM address WHERE host(ip) = '10.0.0.5'") == [(0,)]


async def test_a_network_that_is_silent_as_a_whole_is_suspect_and_the_one_that_answers_is_judged(lab: Any) -> None:
    networks = ("10.0.1.0/24", "10.0.2.0/24")
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/8', 1, 0)"
    )
    first = await lab.settle(
        lab.host("10.0.1.5", mac=CAMERA),
        lab.host("10.0.1.6", mac=GATEWAY),
        lab.host("10.0.2.5", mac=PRINTER),
        networks=networks,
    )
    changes = await lab.scan(lab.host("10.0.1.6", mac=GATEWAY), networks=networks)
    assert lab.told(changes) == [("missing", first.asset_of["10.0.1.5"], "active", "missing"), ("suspect", None)]
    assert changes.silent_networks == ("10.0.2.0/24",) and not changes.suspect


async def test_an_address_of_a_router_that_falls_silent_is_removed_and_the_router_is_not_missing(lab: Any) -> None:
    await lab.do(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours) VALUES (:site, '10.0.0.0/8', 2, 0)"
    )
    both = ("10.0.0.1", "10.0.0.2")
    router = lab.host("10.0.0.1", "snmp", vendor="Cisco", serial="FOC1234X", addresses=both)
    asset = (await lab.settle(router, lab.host("10.0.0.2", "icmp"), lab.host("10.0.0.9", mac=PRINTER))).asset_of[
        "10.0.0.1"
    ]
    assert set((await lab.held()).values()) >= {asset} and (await lab.held())["10.0.0.2"] == asset
    events = []
    for _ in range(2):
        lab.later(hours=1)
        changes = await lab.scan(lab.host("10.0.0.1", "icmp"), lab.host("10.0.0.9", mac=PRINTER))
        events += lab.told(changes)
    assert events == [("address_removed", asset, "10.0.0.2", None)]


async def test_declared_guest_networks_forget_soon_and_a_static_one_does_not(lab: Any) -> None:
    await operator.declare_subnet("default", "10.0.1.0/24", kind="guest", db=lab.db)
    networks = ("10.0.1.0/24", "10.0.2.0/24")
    keep = [lab.host("10.0.1.1", mac=GATEWAY), lab.host("10.0.2.1", mac="00:00:0c:00:00:fd")]
    first = await lab.settle(
        *keep, lab.host("10.0.1.5", mac=CAMERA), lab.host("10.0.2.5", mac=PRINTER), networks=networks
    )
    lab.later(hours=1)
    changes = await lab.scan(*(dataclasses.replace(host, seen_at=lab.now) for host in keep), networks=networks)
    assert lab.told(changes) == [("missing", first.asset_of["10.0.1.5"], "active", "missing")]


# --- proof, conflicts, third parties ---------------------------------------------------------------------------------


async def test_an_answer_without_mac_port_or_name_is_a_candidate_until_it_shows_more(lab: Any) -> None:
    changes = await lab.settle(lab.host("10.0.0.5", "icmp"))
    assert lab.told(changes) == [("candidate", None)] and await lab.assets() == []
    assert lab.told(await lab.scan(lab.host("10.0.0.5", "icmp"))) == []  # said once
    lab.later(hours=1)
    changes = await lab.scan(lab.host("10.0.0.5", "tcp", services=lab.ports(22)))
    asset = changes.asset_of["10.0.0.5"]
    assert lab.told(changes) == [("new", asset)] and changes.loud
    assert await lab.rows("SELECT state, asset_id, sightings FROM candidate") == [("resolved", asset, 2)]


async def test_what_others_say_refreshes_assets_and_raises_candidates_and_makes_none(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", mac=CAMERA))).asset_of["10.0.0.5"]
    changes = await lab.tell(
        lab.host("10.0.0.5", "arp-table", mac=CAMERA, mac_first_hand=False),
        lab.host("10.0.0.6", "arp-table", mac=PRINTER, mac_first_hand=False, hostnames=("printer",)),
    )
    assert lab.told(changes) == [("candidate", None)] and changes.events[0].field == "third_party"
    assert await lab.assets("id", "last_seen") == [(asset, lab.now)]


async def test_an_observation_that_fits_two_assets_is_a_conflict_and_nothing_is_written(lab: Any) -> None:
    first = await lab.settle(
        lab.host("10.0.0.5", "vapix", vendor="Axis", serial="ACCC8E000001"),
        lab.host("10.0.0.6", "vapix", mac=CAMERA, vendor="Axis", serial="ACCC8E000002", chassis_id="chassis-2"),
    )
    one, two = first.asset_of["10.0.0.5"], first.asset_of["10.0.0.6"]
    before = await lab.assets("id", "serial", "host(primary_ip)", "last_seen", "version")

    torn = lab.host("10.0.0.7", "vapix", vendor="Axis", serial="ACCC8E000001", chassis_id="chassis-2")
    changes = await lab.scan(torn)

    assert lab.told(changes) == [("conflict", None)] and changes.conflicts == 1
    assert await lab.assets("id", "serial", "host(primary_ip)", "last_seen", "version") == before
    (conflict,) = await operator.conflicts(db=lab.db)
    assert conflict.kind == "identity" and conflict.asset_ids == [one, two]
    assert [side["side"] for side in conflict.evidence] == ["observed", f"asset {one}", f"asset {two}"]
    lab.later(hours=1)
    assert lab.told(await lab.scan(dataclasses.replace(torn, seen_at=lab.now))) == []  # said once
    assert (await operator.conflicts(db=lab.db))[0].sightings == 2


async def test_two_devices_at_one_address_are_a_conflict(lab: Any) -> None:
    first = await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.1", mac=GATEWAY))
    changes = await lab.scan(
        lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.5", mac=PRINTER), lab.host("10.0.0.1", mac=GATEWAY)
    )
    assert lab.told(changes) == [("conflict", first.asset_of["10.0.0.5"])]
    (conflict,) = await operator.conflicts(db=lab.db)
    assert conflict.kind == "duplicate_address" and {side["side"] for side in conflict.evidence} == {CAMERA, PRINTER}
    assert (await lab.held())["10.0.0.5"] == first.asset_of["10.0.0.5"]


async def test_a_strong_mac_beats_an_address_that_agrees(lab: Any) -> None:
    first = await lab.settle(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.6", mac=PRINTER))
    changes = await lab.scan(lab.host("10.0.0.6", mac=CAMERA), lab.host("10.0.0.5", mac=PRINTER))  # DHCP swapped them
    camera, printer = first.asset_of["10.0.0.5"], first.asset_of["10.0.0.6"]
    assert sorted(lab.told(changes)) == [
        ("ip_changed", camera, "10.0.0.5", "10.0.0.6"),
        ("ip_changed", printer, "10.0.0.6", "10.0.0.5"),
    ]
    assert await lab.held() == {"10.0.0.5": printer, "10.0.0.6": camera}


async def test_a_host_that_changes_a_weak_mac_at_its_address_stays_itself(lab: Any) -> None:
    veth = {"services": lab.ports(22), "scanned_tcp": "22"}
    asset = (await lab.settle(lab.host("10.0.0.5", mac="06:00:00:00:00:01", **veth))).asset_of["10.0.0.5"]
    changes = await lab.scan(lab.host("10.0.0.5", mac="06:00:00:00:00:02", **veth))
    assert lab.told(changes) == [("mac_changed", asset, "06:00:00:00:00:01", "06:00:00:00:00:02")]
    lab.later(hours=1)  # and with that MAC it is known at another address
    changes = await lab.scan(lab.host("10.0.0.8", mac="06:00:00:00:00:02", **veth), lab.host("10.0.0.1", mac=GATEWAY))
    assert lab.told(changes.of_kind(EventKind.IP_CHANGED)) == [("ip_changed", asset, "10.0.0.5", "10.0.0.8")]


async def test_an_address_alone_speaks_for_a_host_only_within_its_lease(lab: Any) -> None:
    await operator.declare_subnet("default", "10.0.0.0/24", kind="dhcp", db=lab.db)
    old = (await lab.settle(lab.host("10.0.0.5", "tcp", services=lab.ports(22)))).asset_of["10.0.0.5"]
    lab.later(hours=20)
    assert (await lab.tell(lab.host("10.0.0.5", "tcp", services=lab.ports(22)))).asset_of["10.0.0.5"] == old
    lab.later(hours=30)
    assert (await lab.tell(lab.host("10.0.0.5", "tcp", services=lab.ports(22)))).asset_of["10.0.0.5"] != old


async def test_cloned_ssh_host_keys_identify_nobody(lab: Any) -> None:
    clones = [
        lab.host(f"10.0.0.{n}", "ssh", mac=f"00:1e:c9:00:00:{n:02x}", ssh_host_keys=("SHA256:image",)) for n in (5, 6)
    ]
    changes = await lab.settle(*clones)
    assert changes.counts == {"new": 2}
    assert await lab.rows("SELECT count(*) FROM asset_identifier WHERE kind = 'ssh_host_key'") == [(0,)]


async def test_the_ipv4_and_ipv6_addresses_of_one_interface_are_one_asset(lab: Any) -> None:
    both = ("10.0.0.0/24", "2001:db8::/120")
    seen = [lab.host(ip, mac=CAMERA) for ip in ("10.0.0.5", "2001:db8::5", "2001:db8::77")]
    first = await lab.settle(*seen, networks=both)
    assert first.counts == {"new": 1} and first.duplicates == 2
    asset = first.asset_of["10.0.0.5"]
    assert await lab.held() == dict.fromkeys(("10.0.0.5", "2001:db8::5", "2001:db8::77"), asset)
    assert await lab.assets("host(primary_ip)") == [("10.0.0.5",)]
    # Scanned apart, too; and a temporary address that is gone for good is let go of, the asset is not.
    assert lab.told(await lab.scan(lab.host("2001:db8::5", mac=CAMERA), networks=("2001:db8::/120",))) == []
    lab.later(days=30)
    events = []
    for _ in range(3):
        changes = await lab.scan(lab.host("10.0.0.5", mac=CAMERA), lab.host("2001:db8::5", mac=CAMERA), networks=both)
        events += lab.told(changes)
    assert events == [("address_removed", asset, "2001:db8::77", None)]


async def test_two_workers_of_a_site_are_two_assets_although_both_are_127_0_0_1(lab: Any) -> None:
    def worker(address: str) -> list[Any]:
        own = {"addresses": (address, "127.0.0.1"), "hostnames": (f"worker-{address[-1]}",)}
        gateway = lab.host("10.0.0.254", mac=GATEWAY)
        return [gateway, *(lab.host(ip, "local", **own) for ip in ("127.0.0.1", address))]

    networks = ("127.0.0.1/32", "10.0.0.0/24")
    one = (await lab.settle(*worker("10.0.0.1"), networks=networks)).asset_of["10.0.0.1"]
    changes = await lab.scan(*worker("10.0.0.2"), networks=networks)
    two = changes.asset_of["10.0.0.2"]
    assert lab.told(changes) == [("new", two)] and one != two
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        lab.later(hours=1)
        assert lab.told(await lab.scan(*worker(address), networks=networks)) == []
    held = await lab.held()
    assert (held["10.0.0.1"], held["10.0.0.2"], held["127.0.0.1"]) == (one, two, one)


async def test_loopback_alone_is_this_machine(lab: Any) -> None:
    first = await lab.settle(
        lab.host("127.0.0.1", "nmap", services=lab.ports(22), scanned_tcp="22"), networks=("127.0.0.1/32",)
    )
    assert first.counts == {"new": 1} and first.baseline
    again = await lab.scan(
        lab.host("127.0.0.1", "nmap", services=lab.ports(22), scanned_tcp="22"), networks=("127.0.0.1/32",)
    )
    assert lab.told(again) == [] and again.unchanged == 1


# --- baselines -------------------------------------------------------------------------------------------------------


async def test_the_first_scan_of_a_network_is_its_baseline_and_the_second_is_news(lab: Any) -> None:
    first = await lab.settle(lab.host("10.0.0.5", mac=CAMERA))
    assert first.baseline and first.loud == () and first.counts == {"new": 1}
    second = await lab.scan(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.6", mac=PRINTER))
    assert not second.baseline and [event.subject for event in second.loud] == ["10.0.0.6"]
    elsewhere = await lab.scan(
        lab.host("10.9.0.5", mac=GATEWAY), networks=("10.9.0.0/24",)
    )  # a network nobody scanned before
    assert not elsewhere.baseline and elsewhere.loud == () and elsewhere.counts == {"new": 1}
    assert await lab.rows("SELECT baseline, count(*) FROM asset_event GROUP BY 1 ORDER BY 1") == [(False, 1), (True, 2)]


async def test_history_cannot_be_rewritten(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.5", mac=CAMERA))
    for table in ("observation", "asset_event"):
        with pytest.raises(Exception, match=r"append-only|may not|role"):
            await lab.do(f"UPDATE {table} SET site_id = :site")


async def test_the_role_app_may_do_all_of_it(postgres: Any, database_name: str, lab: Any) -> None:
    app = Database(postgres.url("app", database_name).replace("postgresql://", "postgresql+psycopg2://"))
    try:
        worker = type(lab)(app)
        changes = await worker.settle(worker.host("10.0.0.5", mac=CAMERA), worker.host("10.0.0.6", "icmp"))
        again = await worker.scan(worker.host("10.0.0.7", mac=CAMERA), worker.host("10.0.0.6", "icmp"))
        assert (changes.counts, again.counts) == ({"new": 1, "candidate": 1}, {"ip_changed": 1})
        accepted = await operator.accept((await operator.candidates(db=app))[0].id, by="alice", db=app)
        await operator.undo(
            await operator.merge(changes.asset_of["10.0.0.5"], accepted, by="alice", db=app), by="alice", db=app
        )
        await worker.do("DELETE FROM asset WHERE id = :a", a=accepted)
    finally:
        app.close()
