"""Reading nmap's XML, choosing rates, cutting slices: recorded bytes and arithmetic, no packet."""

import asyncio
import ipaddress
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import InvalidParameters
from tasks.core.tool import validate
from tasks.network.scan import _privilege
from tasks.network.scan._nmap_plan import Window, chunks, cut, pace, predict, probe_rate
from tasks.network.scan._nmap_xml import read_report
from tasks.network.scan.nmap import Nmap, merge, nmap

DATA = Path(__file__).with_name("data")


def test_a_sweep_has_the_hosts_that_are_up_and_counts_all_it_reported_on() -> None:
    report = read_report(DATA / "nmap-sweep.xml")
    assert report.finished
    assert [host.address for host in report.hosts] == [
        "10.64.1.1",
        "10.64.1.10",
        "10.64.1.250",
        "10.64.2.1",
        "10.64.2.11",
    ]
    web = report.hosts[1]
    assert (web.mac, web.vendor, web.reason) == ("d4:be:d9:00:00:10", "Dell", "arp-response")
    assert web.latency_ms == 0.037
    assert report.hosts[3].mac is None and report.hosts[3].reason == "echo-reply"
    assert report.reported == 511


def test_services_have_product_version_and_all_their_cpes() -> None:
    hosts = [host for name in ("nmap-services.xml", "nmap-banners.xml") for host in read_report(DATA / name).hosts]
    ports = {port.port: port for host in hosts for port in host.ports}
    assert (ports[22].product, ports[22].version, ports[22].probed) == ("OpenSSH", "9.6p1 Ubuntu 3ubuntu13.5", True)
    assert ports[22].cpes == ("cpe:/a:openbsd:openssh:9.6p1", "cpe:/o:linux:linux_kernel")
    assert (ports[25].service, ports[25].hostname) == ("smtp", "mail.example")
    assert (ports[9999].service, ports[9999].probed) == ("abyss", False)


def test_systems_have_their_best_guesses_uptime_and_distance() -> None:
    near, far = read_report(DATA / "nmap-os.xml").hosts
    assert (near.os_guesses[0].name, near.os_guesses[0].accuracy, near.os_guesses[0].family) == (
        "Linux 5.3 - 5.4",
        96,
        "Linux",
    )
    assert len(near.os_guesses) == 3
    assert near.uptime_seconds == 2 and near.booted_at is not None and near.booted_at.tzinfo is not None
    assert (near.distance_hops, far.distance_hops) == (1, 2)
    assert (near.closed_ports, len(near.ports)) == (1, 2)


@pytest.mark.parametrize("name", ["nmap-sweep.xml", "nmap-services.xml", "nmap-os.xml"])
def test_xml_cut_off_anywhere_gives_every_host_that_was_whole(tmp_path: Path, name: str) -> None:
    whole = (DATA / name).read_bytes()
    everything = read_report(DATA / name).hosts
    file = tmp_path / "cut.xml"
    for end in range(0, len(whole), 97):
        file.write_bytes(whole[:end])
        report = read_report(file)
        assert report.finished == (b"</runstats>" in whole[:end]) and report.unreadable == 0
        assert report.hosts == everything[: len(report.hosts)]
        ups = whole[:end].count(b"</host>") - sum(
            b'state="down"' in part for part in whole[:end].split(b"</host>")[:-1]
        )
        assert len(report.hosts) == ups


def test_a_broken_host_costs_itself_only(tmp_path: Path) -> None:
    file = tmp_path / "broken.xml"
    file.write_bytes(
        (DATA / "nmap-sweep.xml").read_bytes().replace(b'addr="10.64.1.10" addrtype', b'addr="10.64.1.10 addrtype')
    )
    report = read_report(file)
    assert report.unreadable == 1
    assert [host.address for host in report.hosts] == ["10.64.1.1", "10.64.1.250", "10.64.2.1", "10.64.2.11"]


def test_hosts_larger_than_a_chunk_and_an_empty_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "large.xml"
    ports = b"".join(
        b'<port protocol="tcp" portid="%d"><state state="open" reason="syn-ack"/><service name="x" method="table" conf="3"/></port>\n'
        % port
        for port in range(1, 5001)
    )
    host = (
        b'<host><status state="up" reason="x"/><address addr="10.0.0.1" addrtype="ipv4"/><ports>'
        + ports
        + b"</ports></host>"
    )
    file.write_bytes(
        b"<nmaprun>"
        + host
        + b'<runstats><finished exit="success"/><hosts up="1" down="0" total="1"/></runstats></nmaprun>'
    )
    report = read_report(file)
    assert report.finished and len(report.hosts[0].ports) == 5000
    file.write_bytes(b"")
    assert read_report(file).hosts == ()


def test_a_later_look_adds_and_never_takes_away() -> None:
    (ports,) = [host for host in read_report(DATA / "nmap-services.xml").hosts if host.address == "10.64.1.10"]
    (banners,) = [host for host in read_report(DATA / "nmap-banners.xml").hosts if host.address == "10.64.1.10"]
    both = merge(ports, banners)
    assert {port.port for port in both.ports} == {port.port for port in (*ports.ports, *banners.ports)}
    assert merge(both, banners.model_copy(update={"ports": ()})) == both
    guessed = tuple(port.model_copy(update={"probed": False, "product": None}) for port in ports.ports)
    assert merge(ports, ports.model_copy(update={"ports": guessed})).ports == ports.ports


# --- rates and slices --------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.sampled_from([f"10.0.0.{k}" for k in range(1, 40)]),
        st.sets(st.integers(1, 60), min_size=1, max_size=30),
        max_size=30,
    ),
    st.integers(10, 60),
    st.integers(70, 5000),
    st.integers(70, 500),
)
def test_slices_hold_every_open_port_and_never_more_than_they_may(
    open_ports: dict[str, set[int]], each: int, most: int, per_host: int
) -> None:
    known = {host: frozenset(ports) for host, ports in open_ports.items()}
    slices = cut(open_ports, each, most=most, most_per_host=per_host)
    seen = {(host, port) for part in slices for host in part.hosts for port in part.ports & known[host]}
    assert seen == {(host, port) for host, ports in open_ports.items() for port in ports}
    for part in slices:
        assert part.packets(known, each) <= most and part.packets_of_one(known, each) <= per_host


def test_a_large_share_needs_one_slice_and_a_tiny_one_still_goes_on() -> None:
    hosts = {f"10.0.0.{k}": {22, 80, 443} for k in range(60)}
    assert len(cut(hosts, 32, most=0.45 * 5 * 20_000)) == 1
    assert len(cut(hosts, 32, most=5)) == 180


@given(
    st.lists(
        st.sampled_from(["10.0.0.0/24", "10.0.1.0/30", "10.0.2.7", "10.0.2.8", "10.0.3.0/25", "fd00::/120"]),
        unique=True,
    ),
    st.integers(1, 600),
)
def test_chunks_hold_every_address_once_and_never_more_than_they_may(targets: list[str], most: int) -> None:
    seen = Counter[object]()
    for some, count in chunks(targets, most):
        addresses = [address for text in some for address in ipaddress.ip_network(text)]
        assert len(addresses) == count <= most
        seen.update(addresses)
    assert seen == Counter(address for text in targets for address in ipaddress.ip_network(text))


@given(
    st.integers(1, 4096),
    st.integers(1, 1000),
    st.integers(20, 20_000),
    st.sampled_from([0, 10, 40, 1000]),
    st.booleans(),
)
def test_a_port_scan_cannot_exceed_the_share_whatever_nmap_catches_up(
    hosts: int, ports: int, share: int, host_share: int, raw: bool
) -> None:
    way = pace(hosts, ports, packets_per_second=share, host_packets_per_second=host_share, raw=raw)
    each = ports * 3 + 4
    if way.delay_ms:
        # Each host of the group at most once a delay, wherever the five seconds begin.
        probes = min(5000 / way.delay_ms + 1, ports * 3)
        assert way.group * probes * ((2 if raw else 3) + 1 / ports) <= 5 * share or hosts * each <= 5 * share
        assert not host_share or 5000 / way.delay_ms <= 5 * host_share or each <= 5 * host_share
    else:
        assert hosts * each <= 5 * share and (not host_share or each <= 5 * host_share)
    assert way.packets <= 5 * share


async def test_a_step_waits_until_the_last_five_seconds_have_room() -> None:
    window = Window(100)
    async with window.room(400):
        pass
    started = time.monotonic()
    async with window.room(90):
        pass
    assert time.monotonic() - started < 3
    async with asyncio.timeout(30), window.room(400):
        assert time.monotonic() - started > 4.5


async def test_a_host_that_has_had_its_part_is_left_alone_while_others_are_not() -> None:
    window = Window(1000, 40)
    async with window.room(150, ["10.0.0.1"], 150):
        pass
    started = time.monotonic()
    async with window.room(150, ["10.0.0.2"], 150):
        assert time.monotonic() - started < 3
    async with window.room(150, ["10.0.0.1"], 150):
        assert time.monotonic() - started > 4


async def test_a_step_larger_than_any_window_goes_alone() -> None:
    async with asyncio.timeout(1), Window(10).room(500):
        pass


def test_probe_rates_leave_room_for_what_the_kernel_sends() -> None:
    assert probe_rate("ports", 1000, raw=True, ports=100) == 497
    assert probe_rate("ports", 1000, raw=False, ports=100) == 332
    assert probe_rate("sweep", 1000, raw=True, ports=1) == 625
    assert probe_rate("ports", 1, raw=True, ports=1) == 1


def test_predictions_grow_with_what_is_asked_and_shrink_with_the_share() -> None:
    sweep = predict("sweep", 256)
    assert sweep.packets == 256 * 13
    assert predict("ports", 256).packets > sweep.packets
    assert predict("services", 256).packets > predict("ports", 256).packets
    assert predict("ports", 256, live=10).packets < predict("ports", 256).packets
    assert (
        predict("sweep", 256, packets_per_second=100).seconds > predict("sweep", 256, packets_per_second=1000).seconds
    )


# --- parameters and privileges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "what"),
    [
        ({"targets": ["10.0.0.1/24"]}, "host bits"),
        ({"targets": []}, "targets"),
        ({"targets": ["10.0.0.1"], "ports": "0"}, "ports are 1 to 65535"),
        ({"targets": ["10.0.0.1"], "profile": "everything"}, "profile"),
        ({"targets": ["10.0.0.1; rm -rf /"]}, "is not an address or prefix"),
        ({"targets": ["-iR"]}, "neither an address nor a host name"),
        ({"targets": ["10.0.0.1"], "script": "vuln"}, "no such parameter"),
    ],
)
def test_wrong_parameters_are_named(given_: dict[str, object], what: str) -> None:
    with pytest.raises(InvalidParameters, match=what):
        validate(nmap.spec, given_)


def test_the_gate_is_asked_for_every_port_that_was_named() -> None:
    scope = Nmap(targets=["10.0.0.1"], profile="services", ports="22,80", udp_ports="161").scope()
    assert scope.ports == (22, 80, 161)
    assert Nmap(targets=["10.0.0.1"]).scope().ports == ()


def test_a_deadline_fits_the_size_of_the_question() -> None:
    small = Nmap(targets=["10.0.0.1"]).deadline()
    large = Nmap(targets=["10.0.0.0/24"], profile="services").deadline()
    assert 100 < small < large <= 3600


@pytest.mark.parametrize(
    ("user", "lines", "raw"),
    [
        (0, {"CapEff": "2000", "CapBnd": "2000", "CapAmb": "0"}, True),
        (0, {"CapEff": "1fffffdfff", "CapBnd": "1fffffdfff", "CapAmb": "0"}, False),
        (0, {"CapEff": "2000", "CapBnd": "0", "CapAmb": "0"}, False),
        # A capability that is not ambient stays with us: the program we start does not get it.
        (1000, {"CapEff": "2000", "CapBnd": "2000", "CapAmb": "0"}, False),
        (1000, {"CapEff": "2000", "CapBnd": "2000", "CapAmb": "2000"}, True),
    ],
)
def test_the_privilege_is_the_capability_the_program_will_have(
    monkeypatch: pytest.MonkeyPatch, user: int, lines: dict[str, str], raw: bool
) -> None:
    text = "".join(f"{name}:\t{value}\n" for name, value in lines.items())
    monkeypatch.setattr(_privilege.Path, "read_text", lambda _self: text)
    monkeypatch.setattr(_privilege.os, "geteuid", lambda: user)
    assert _privilege.may_send_raw("/nonexistent") is raw
