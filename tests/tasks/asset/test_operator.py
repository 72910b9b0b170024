"""What operators decide: candidates, conflicts, merges, locks, networks, and what they can read of it afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.asset import _operator as operator
from tasks.core.errors import Conflict, InvalidParameters, NotFound, Rejected

CAMERA = "ac:cc:8e:00:00:01"
PRINTER = "00:1b:78:00:00:02"
GATEWAY = "00:00:0c:00:00:fe"


async def test_an_accepted_candidate_is_an_asset_that_the_next_scan_knows(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.5", "icmp"))
    (candidate,) = await operator.candidates(db=lab.db)
    assert (candidate.kind, candidate.ip, candidate.state) == ("icmp_only", "10.0.0.5", "open")
    asset = await operator.accept(candidate.id, by="alice", db=lab.db)
    changes = await lab.scan(lab.host("10.0.0.5", "icmp"))
    assert lab.told(changes) == [] and changes.asset_of["10.0.0.5"] == asset
    assert await operator.candidates(db=lab.db) == []
    (accepted,) = await operator.candidates(state="accepted", db=lab.db)
    assert (accepted.asset_id, accepted.decided_by) == (asset, "alice")
    with pytest.raises(Conflict, match=f"asset {asset} already"):
        await operator.accept(candidate.id, by="bob", db=lab.db)


async def test_an_ignored_candidate_is_not_raised_again_and_more_proof_makes_it_an_asset(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.5", "icmp"))
    await operator.ignore((await operator.candidates(db=lab.db))[0].id, by="alice", db=lab.db)
    assert lab.told(await lab.scan(lab.host("10.0.0.5", "icmp"))) == []
    assert await operator.candidates(db=lab.db) == []
    lab.later(hours=1)
    assert (await lab.scan(lab.host("10.0.0.5", "tcp", services=lab.ports(22)))).counts == {"new": 1}


async def test_a_proxy_cannot_be_accepted_and_what_is_not_there_is_not_found(lab: Any) -> None:
    await lab.settle(*(lab.host(ip, mac=GATEWAY) for ip in lab.addresses("10.0.0.0/24", 20, 40)))
    with pytest.raises(Rejected, match="answers for others"):
        await operator.accept((await operator.candidates(db=lab.db))[0].id, by="alice", db=lab.db)
    for call in (operator.accept, operator.ignore, operator.undo, operator.settle):
        with pytest.raises(NotFound):
            await call(4711, by="alice", db=lab.db)
    with pytest.raises(NotFound, match="4711"):
        await operator.merge(4711, 4712, by="alice", db=lab.db)
    with pytest.raises(NotFound):
        await operator.candidates("nowhere", db=lab.db)


async def test_a_merge_by_hand_keeps_what_was_known_of_both_and_undo_gives_it_back(lab: Any) -> None:
    first = await lab.settle(
        lab.host("10.0.0.5", "nmap", mac=CAMERA, services=lab.ports(80), hostnames=("cam1.example.com",)),
        lab.host("10.0.0.6", "nmap", mac=PRINTER, services=lab.ports(631), os="Linux"),
    )
    one, two = first.asset_of["10.0.0.5"], first.asset_of["10.0.0.6"]
    await lab.do("UPDATE asset SET tags = '[\"x\"]', metadata = '{\"a\": 1}' WHERE id = :a", a=two)
    columns = ("id", "hostname", "host(primary_ip)", "mac::text", "os", "status", "tags", "metadata", "merged_into")
    whole = f"SELECT {', '.join(columns)} FROM asset ORDER BY id"
    before = await lab.rows(whole)
    tables = {
        table: await lab.rows(f"SELECT id, asset_id FROM {table} ORDER BY id")
        for table in ("asset_identifier", "address", "service")
    }

    number = await operator.merge(one, two, by="alice", reason="the same box", db=lab.db)

    kept, merged = await lab.rows(whole)
    assert kept == (one, "cam1.example.com", "10.0.0.5", CAMERA, "Linux", "active", ["x"], {"a": 1}, None)
    assert merged[5] == "merged" and merged[8] == one
    assert set((await lab.held()).values()) == {one}
    with pytest.raises(Conflict, match="merged into"):
        await operator.merge(two, one, by="alice", db=lab.db)
    lab.later(hours=1)
    seen = await lab.scan(lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.6", mac=PRINTER))
    assert lab.told(seen) == [] and set(seen.asset_of.values()) == {one}

    assert await operator.undo(number, by="bob", db=lab.db) == (one, two)
    assert await lab.rows(whole) == before
    assert {table: await lab.rows(f"SELECT id, asset_id FROM {table} ORDER BY id") for table in tables} == tables
    with pytest.raises(Conflict, match="undone already"):
        await operator.undo(number, by="bob", db=lab.db)
    kinds = [(e.kind, e.asset_id, e.source) for e in await operator.events(kinds=("merged", "split"), db=lab.db)]
    assert kinds == [("split", two, "bob"), ("split", one, "bob"), ("merged", one, "alice")]


async def test_merges_are_undone_in_the_order_they_were_built(lab: Any) -> None:
    macs = {ip: f"00:1e:c9:00:00:0{ip[-1]}" for ip in ("10.0.0.5", "10.0.0.6", "10.0.0.7")}
    one, two, three = (await lab.settle(*(lab.host(ip, mac=mac) for ip, mac in macs.items()))).asset_of.values()
    inner = await operator.merge(two, three, by="alice", db=lab.db)
    outer = await operator.merge(one, two, by="alice", db=lab.db)
    with pytest.raises(Conflict, match="Undo that one first"):
        await operator.undo(inner, by="alice", db=lab.db)
    await operator.undo(outer, by="alice", db=lab.db)
    await operator.undo(inner, by="alice", db=lab.db)
    assert await lab.held() == {"10.0.0.5": one, "10.0.0.6": two, "10.0.0.7": three}


async def test_assets_of_two_sites_are_never_merged(lab: Any) -> None:
    branch = type(lab)(lab.db, "branch")
    here = (await lab.settle(lab.host("10.0.0.5", mac=CAMERA))).asset_of["10.0.0.5"]
    there = (await branch.settle(branch.host("10.0.0.5", mac=CAMERA))).asset_of["10.0.0.5"]
    with pytest.raises(Conflict, match="branch"):
        await operator.merge(here, there, by="alice", db=lab.db)
    with pytest.raises(InvalidParameters):
        await operator.merge(here, here, by="alice", db=lab.db)


async def test_a_merge_settles_the_conflict_between_the_two(lab: Any) -> None:
    first = await lab.settle(
        lab.host("10.0.0.5", "vapix", vendor="Axis", serial="ACCC8E000001"),
        lab.host("10.0.0.6", "vapix", vendor="Axis", chassis_id="chassis-2"),
    )
    await lab.scan(lab.host("10.0.0.7", "vapix", vendor="Axis", serial="ACCC8E000001", chassis_id="chassis-2"))
    assert len(await operator.conflicts(db=lab.db)) == 1
    await operator.merge(first.asset_of["10.0.0.5"], first.asset_of["10.0.0.6"], by="alice", db=lab.db)
    assert await operator.conflicts(db=lab.db) == []
    assert [c.decided_by for c in await operator.conflicts(state="resolved", db=lab.db)] == ["alice"]


async def test_an_ignored_conflict_stays_closed_and_a_settled_one_is_raised_again(lab: Any) -> None:
    def two_at_one() -> list[Any]:
        return [lab.host("10.0.0.5", mac=CAMERA), lab.host("10.0.0.5", mac=PRINTER)]

    await lab.settle(*two_at_one())
    await operator.settle((await operator.conflicts(db=lab.db))[0].id, by="alice", db=lab.db)
    assert (await lab.scan(*two_at_one())).counts == {"conflict": 1}
    await operator.settle((await operator.conflicts(db=lab.db))[0].id, by="alice", ignore=True, db=lab.db)
    lab.later(hours=1)
    assert (await lab.scan(*two_at_one())).counts == {}
    assert await operator.conflicts(db=lab.db) == []


async def test_a_record_that_was_never_seen_and_has_the_name_of_a_new_host_is_shown_for_merging(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.1", mac=GATEWAY))
    await lab.do(
        "INSERT INTO asset (site_id, hostname, status, owner) VALUES (:site, 'cam1.example.com', 'planned', 'security')"
    )
    changes = await lab.scan(
        lab.host("10.0.0.1", mac=GATEWAY), lab.host("10.0.0.5", mac=CAMERA, hostnames=("cam1.example.com",))
    )
    assert sorted(changes.counts) == ["conflict", "new"]
    new = changes.asset_of["10.0.0.5"]
    (conflict,) = await operator.conflicts(db=lab.db)
    assert conflict.kind == "same_name"
    await operator.merge(new, conflict.asset_ids[0], by="alice", db=lab.db)
    assert await lab.rows("SELECT hostname, owner FROM asset WHERE id = :a", a=new) == [
        ("cam1.example.com", "security")
    ]
    assert await operator.conflicts(db=lab.db) == []


async def test_locks_are_listed_said_once_and_refused_for_what_is_no_field(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.5", mac=CAMERA))).asset_of["10.0.0.5"]
    assert await operator.lock(asset, "os", by="alice", db=lab.db) == ["os"]
    assert await operator.lock(asset, "vendor", by="alice", db=lab.db) == ["os", "vendor"]
    assert await operator.lock(asset, "vendor", by="alice", db=lab.db) == ["os", "vendor"]
    assert await operator.unlock(asset, "os", by="alice", db=lab.db) == ["vendor"]
    with pytest.raises(InvalidParameters, match="colour"):
        await operator.lock(asset, "colour", by="alice", db=lab.db)
    with pytest.raises(NotFound):
        await operator.lock(4711, "os", by="alice", db=lab.db)
    found = [(e.kind, e.field) for e in await operator.events(kinds=("locked", "unlocked"), db=lab.db)]
    assert found == [("unlocked", "os"), ("locked", "vendor"), ("locked", "os")]


async def test_events_are_filtered_by_time_kind_and_loudness(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.5", mac=CAMERA))
    then = lab.now
    await lab.scan(lab.host("10.0.0.6", mac=CAMERA), lab.host("10.0.0.7", mac=PRINTER))
    assert [e.kind for e in await operator.events(db=lab.db)] == ["ip_changed", "new", "new"]
    assert [e.kind for e in await operator.events(loud=True, db=lab.db)] == ["ip_changed", "new"]
    assert len(await operator.events(since=then, db=lab.db)) == 2
    assert len(await operator.events(limit=1, db=lab.db)) == 1
    with pytest.raises(InvalidParameters, match="no kind of event"):
        await operator.events(kinds=("explosion",), db=lab.db)


async def test_networks_are_declared_changed_and_forgotten(lab: Any) -> None:
    await operator.declare_subnet("default", "10.0.0.0/24", kind="guest", description="visitors", db=lab.db)
    await operator.declare_subnet("default", "10.0.0.0/24", kind="dhcp", missing_hours=2, db=lab.db)
    (entry,) = await operator.subnets(db=lab.db)
    assert (entry.prefix, entry.kind, entry.missing_hours, entry.missing_scans) == ("10.0.0.0/24", "dhcp", 2, None)
    for wrong in ({"prefix": "10.0.0.1/24"}, {"kind": "wifi"}, {"missing_scans": 0}, {"missing_hours": -1}):
        with pytest.raises(InvalidParameters):
            await operator.declare_subnet("default", **({"prefix": "10.0.1.0/24"} | wrong), db=lab.db)
    await operator.forget_subnet("default", "10.0.0.0/24", db=lab.db)
    with pytest.raises(NotFound):
        await operator.forget_subnet("default", "10.0.0.0/24", db=lab.db)
