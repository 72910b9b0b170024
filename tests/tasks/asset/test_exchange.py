"""Files in and out: all of a file or nothing, every error by its line, and an export that an import takes back."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tasks.asset._exchange import COLUMNS, export_assets, import_assets
from tasks.core.errors import NotFound

CAMERA = "ac:cc:8e:00:00:01"

OURS = b"""hostname,address,mac,type,vendor,serial,tags,metadata
cam-1.example.com,10.0.0.5,AC-CC-8E-00-00-01,camera,Axis,ACCC8E000001,"floor:1 lobby","{""rack"": ""A3""}"
printer-1,10.0.0.6,,printer,HP,,,
,10.0.0.7,,,,,,
"""

NETBOX = b"""Name,Status,Tenant,Site,Location,Rack,Role,Manufacturer,Type,Serial number,IP Address,Platform,ID,Tags,Asset tag,Owner group
Core Switch 1,Active,NOC,hq,Basement,R1,switch,Cisco,C9300-48P,FOC1234X1AB,10.0.0.1/24,IOS-XE,17,"core, floor 0",AT-1,x
cam-2,Planned,,hq,,,camera,Axis,P3245,ACCC8E000002,,,18,,,
,Offline,,hq,,,sensor,Axis,D6210,ACCC8E000003,,,19,,,
"""

NMAP = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE nmaprun>
<nmaprun scanner="nmap" args="nmap -sS -p 22,80,443 -oX out.xml 10.0.0.0/29" start="1772352000" version="7.94" xmloutputversion="1.05">
<scaninfo type="syn" protocol="tcp" numservices="3" services="22,80,443"/>
<host starttime="1772352001" endtime="1772352005"><status state="up" reason="arp-response"/>
<address addr="10.0.0.5" addrtype="ipv4"/><address addr="AC:CC:8E:00:00:01" addrtype="mac" vendor="Axis Communications AB"/>
<hostnames><hostname name="cam-1.example.com" type="PTR"/></hostnames>
<ports><extraports state="closed" count="1"><extrareasons reason="reset" count="1" proto="tcp" ports="22"/></extraports>
<port protocol="tcp" portid="80"><state state="open" reason="syn-ack"/><service name="http" product="Apache httpd"
 version="2.4.58" method="probed" conf="10"/></port>
<port protocol="tcp" portid="443"><state state="open" reason="syn-ack"/><service name="https" method="table" conf="3"/></port></ports>
<os><osmatch name="Linux 5.0 - 5.14" accuracy="98"/></os></host>
<host><status state="up" reason="echo-reply"/><address addr="10.0.0.6" addrtype="ipv4"/><hostnames/></host>
<host><status state="up" reason="user-set"/><address addr="10.0.0.7" addrtype="ipv4"/><hostnames/></host>
<host><status state="down" reason="no-response"/><address addr="10.0.0.4" addrtype="ipv4"/></host>
<runstats><finished time="1772352010" exit="success"/><hosts up="2" down="6" total="8"/></runstats>
</nmaprun>
"""


async def test_a_csv_makes_assets_that_are_the_persons_word(lab: Any) -> None:
    report = await import_assets(OURS, db=lab.db)
    assert (report.format, report.rows, report.created, report.errors) == ("csv", 3, 3, ())
    assert await lab.assets("hostname", "host(primary_ip)", "mac::text", "tags", "metadata") == [
        ("cam-1.example.com", "10.0.0.5", CAMERA, ["floor:1", "lobby"], {"rack": "A3"}),
        ("printer-1", "10.0.0.6", None, [], {}),
        (None, "10.0.0.7", None, [], {}),
    ]
    assert await lab.rows("SELECT DISTINCT rank FROM asset_field_source") == [(100,)]
    changes = await lab.scan(
        lab.host("10.0.0.9", mac=CAMERA, vendor="Other")
    )  # a scan knows it, and does not overrule it
    assert changes.counts == {"ip_changed": 1}
    assert await lab.rows("SELECT vendor FROM asset WHERE hostname = 'cam-1.example.com'") == [("Axis",)]


async def test_the_same_file_a_second_time_changes_nothing_and_one_cell_changes_one_field(lab: Any) -> None:
    await import_assets(OURS, db=lab.db)
    again = await import_assets(OURS, db=lab.db)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 3)
    report = await import_assets(
        OURS.replace(b"printer-1,10.0.0.6,,printer", b"printer-1,10.0.0.6,,plotter"), db=lab.db
    )
    assert (report.created, report.updated, report.unchanged) == (0, 1, 2)
    updates = await lab.rows("SELECT field, before, after FROM asset_event WHERE kind = 'updated'")
    assert updates == [("type", "printer", "plotter")]


async def test_a_file_with_errors_writes_nothing_and_names_all_of_them_by_line(lab: Any) -> None:
    await import_assets(b"hostname,mac\nold,00:1b:78:00:00:02\n", db=lab.db)
    bad = b"""hostname,address,mac,tags,metadata,id
good-1,10.0.0.5,,,,
"bad name!",10.0.0.300,,,,
good-2,,not-a-mac,,,
good-3,,,,{broken,
,,,,,
good-1,10.0.0.9,,,,
other,,00:1b:78:00:00:02,,,
good-4,,,,,x7
good-5,,,,,,,,
"two
lines",,,,,
gone,,,,,4711
"""
    report = await import_assets(bad, db=lab.db)
    assert report.created >= 1 and await lab.rows("SELECT count(*) FROM asset") == [(1,)]
    found = [(error.line, error.message) for error in report.errors]
    assert [line for line, _ in found] == [3, 3, 4, 5, 7, 9, 10, 11, 13]
    by_line = dict(found)
    assert "asset" in by_line[7] and "line 2" in by_line[7]
    assert "mac" in by_line[4] and "JSON" in by_line[5] and "number" in by_line[9]
    assert "cells" in by_line[10]
    assert "4711" in by_line[13]


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(lab: Any) -> None:
    for data in (OURS, NETBOX, NMAP):
        report = await import_assets(data, dry_run=True, db=lab.db)
        assert report.dry_run and report.created and not report.errors
    for table in ("asset", "asset_event", "observation", "address"):
        assert await lab.rows(f"SELECT count(*) FROM {table}") == [(0,)]


async def test_netboxs_device_csv_is_understood_and_known_again_by_its_id(lab: Any) -> None:
    report = await import_assets(NETBOX, db=lab.db)
    assert (report.format, report.created, report.errors) == ("netbox", 3, ())
    assert report.notes == ("column owner_group is passed over",)
    columns = (
        "hostname",
        "status",
        "owner",
        "location",
        "type",
        "vendor",
        "model",
        "serial",
        "host(primary_ip)",
        "os",
        "tags",
        "metadata",
    )
    assert (await lab.assets(*columns))[0] == (
        "core-switch-1", "active", "NOC", "Basement, R1", "switch", "Cisco", "C9300-48P", "FOC1234X1AB", "10.0.0.1", "IOS-XE",
        ["core", "floor-0"], {"netbox_name": "Core Switch 1", "netbox_site": "hq", "asset_tag": "AT-1"},
    )  # fmt: skip
    assert [row[0] for row in await lab.assets("status")] == ["active", "planned", "active"]
    renamed = NETBOX.replace(b"cam-2,Planned", b"cam-two,Active")
    report = await import_assets(renamed, db=lab.db)
    assert (report.created, report.updated, report.unchanged) == (0, 1, 2)


async def test_a_discovered_address_gets_its_name_from_the_file(lab: Any) -> None:
    asset = (await lab.settle(lab.host("10.0.0.1", mac="00:00:0c:00:00:fe"))).asset_of["10.0.0.1"]
    report = await import_assets(NETBOX, db=lab.db)
    assert (report.created, report.updated, report.errors) == (2, 1, ())
    assert await lab.rows("SELECT hostname, mac::text FROM asset WHERE id = :a", a=asset) == [
        ("core-switch-1", "00:00:0c:00:00:fe")
    ]


async def test_an_nmap_file_is_reconciled_like_a_scan_and_makes_nothing_go_missing(lab: Any) -> None:
    await lab.settle(lab.host("10.0.0.3", mac="00:1b:78:00:00:02"))
    report = await import_assets(NMAP, db=lab.db)
    assert (report.format, report.rows, report.created, report.errors) == ("nmap", 2, 1, ())
    assert report.changes is not None and report.changes.counts == {"new": 1, "candidate": 1}
    asset = report.changes.asset_of["10.0.0.5"]
    assert await lab.rows("SELECT hostname, mac::text, vendor, os, scanned_tcp FROM asset WHERE id = :a", a=asset) == [
        ("cam-1.example.com", CAMERA, "Axis Communications AB", "Linux 5.0 - 5.14", "22,80,443")
    ]
    assert await lab.rows(
        "SELECT port, name, product, version FROM service WHERE asset_id = :a ORDER BY port", a=asset
    ) == [
        (80, "http", "Apache httpd", "2.4.58"),
        (443, "https", "", ""),
    ]


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (NMAP[: NMAP.index(b"<os>")], 12, "breaks off"),
        (NMAP.replace(b'addr="10.0.0.6"', b'addr="10.0.0.666"'), 13, "10.0.0.666"),
        (b"<html></html>", 1, "not nmap's XML"),
        (b"", 1, "no header"),
        (b"hostname,colour\ncam-1,red\n", 2, "colour"),
        (b"hostname,hostname\ncam-1,cam-2\n", 1, "twice"),
        (b"hostname\ncam-\xff\n", 2, "UTF-8"),
        (b'hostname,owner\ncam-1,"open\n', 2, "CSV"),
        (b"hostname,site\ncam-1,branch\n", 2, "branch"),
        (b"owner\nnoc\n", 2, "needs one of"),
    ],
)
async def test_a_file_that_cannot_be_read_says_where_and_why(lab: Any, data: bytes, line: int, says: str) -> None:
    report = await import_assets(data, db=lab.db)
    assert [(error.line, says in error.message) for error in report.errors] == [(line, True)], report.errors
    assert await lab.rows("SELECT count(*) FROM asset") == [(0,)]


async def test_semicolons_a_byte_order_mark_and_windows_line_ends_are_fine(lab: Any) -> None:
    data = "\ufeffName;IP Address;Owner\r\ncam-1;10.0.0.5;Zoë\r\n".encode()
    report = await import_assets(data, format="csv", db=lab.db)
    assert report.errors == () and await lab.assets("hostname", "host(primary_ip)", "owner") == [
        ("cam-1", "10.0.0.5", "Zoë")
    ]


async def test_an_export_is_taken_back_without_a_change_at_this_and_at_another_site(lab: Any) -> None:
    await import_assets(OURS, db=lab.db)
    await lab.do("UPDATE asset SET owner = '=cmd|calc', location = '+1' WHERE hostname = 'printer-1'")
    text = await export_assets(db=lab.db)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 3
    assert {row["owner"] for row in rows} == {"", "'=cmd|calc"}  # nothing a spreadsheet would run
    again = await import_assets(text.encode(), db=lab.db)
    assert (again.errors, again.unchanged, again.updated) == ((), 3, 0)

    elsewhere = "\n".join(line.partition(",")[2] for line in text.replace(",default,", ",branch,").splitlines())
    moved = await import_assets(elsewhere.encode(), site="branch", db=lab.db)
    assert (moved.errors, moved.created) == ((), 3)
    assert len(json.loads(await export_assets(format="json", site="*", db=lab.db))) == 6
    with pytest.raises(NotFound):
        await export_assets(site="nowhere", db=lab.db)
