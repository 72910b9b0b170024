"""Capture filters are compiled before anything is captured."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core import process
from tasks.core.errors import InvalidParameters, MissingProgram
from tasks.network.capture._filter import check_filter, check_filter_of, combine

needs_tcpdump = pytest.mark.skipif(shutil.which("tcpdump", path=process.search_path()) is None, reason="needs tcpdump")
needs_capturing = pytest.mark.skipif(os.geteuid() != 0, reason="looking at an interface needs CAP_NET_RAW")
ETHERNET, WIRELESS, COOKED = 1, 127, 276  # tcpdump.org/linktypes.html


@pytest.fixture
def empty(tmp_path: Path) -> Callable[[int], Path]:
    """A capture of this link type without packets."""

    def empty(link_type: int) -> Path:
        path = tmp_path / f"{link_type}.pcap"
        path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link_type))
        return path

    return empty


Empty = Callable[[int], Path]


@needs_tcpdump
@pytest.mark.parametrize(
    "expression",
    [
        "",
        "icmp",
        "host 192.168.1.7 and tcp port 443",
        "ip6 net 2001:db8::/32",
        "vlan 7 and tcp",
        "tcp[13] & 2 != 0",
        "-3 < len",
    ],
)
async def test_a_right_filter_passes(expression: str, empty: Empty) -> None:
    await check_filter_of(expression, empty(ETHERNET))


@needs_tcpdump
@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("tcp prot 80", "syntax error"),
        ("tcp[", "syntax error"),
        ("port 70000", "illegal port number 70000"),
        ("host 1.2.3.4.5", "1.2.3.4.5"),
        ("-i lo", "syntax error"),
        ("--version", "syntax error"),
        ("vlan 99999", "VLAN tag"),
        ("port nosuchservice", "nosuchservice"),
    ],
)
async def test_a_wrong_filter_is_told_with_the_compilers_reason(expression: str, reason: str, empty: Empty) -> None:
    with pytest.raises(InvalidParameters, match=f"is wrong: .*({reason})") as caught:
        await check_filter_of(expression, empty(ETHERNET))
    assert "reading from file" not in str(caught.value) and "man pcap-filter" in str(caught.value)


@needs_tcpdump
async def test_a_filter_is_compiled_for_the_link_layer_it_will_meet(empty: Empty) -> None:
    await check_filter_of("ether host 00:11:22:33:44:55", empty(ETHERNET))
    with pytest.raises(InvalidParameters):
        await check_filter_of("ether host 00:11:22:33:44:55", empty(COOKED))
    await check_filter_of("wlan type mgt subtype beacon", empty(WIRELESS))
    with pytest.raises(InvalidParameters, match=r"802\.11"):
        await check_filter_of("wlan type mgt subtype beacon", empty(ETHERNET))


@needs_tcpdump
@needs_capturing
async def test_a_filter_for_an_interface_may_say_what_only_interfaces_know(empty: Empty) -> None:
    await check_filter("inbound and port 80", interface="lo")
    await check_filter("outbound", interface="any", link_type="LINUX_SLL")
    with pytest.raises(InvalidParameters, match="inbound"):
        await check_filter_of("inbound and port 80", empty(ETHERNET))
    with pytest.raises(InvalidParameters, match=r"is wrong: 802\.11"):
        await check_filter("wlan type mgt", interface="any", link_type="LINUX_SLL")


@needs_tcpdump
async def test_what_cannot_be_opened_makes_no_filter_wrong(tmp_path: Path) -> None:
    await check_filter("icmp", interface="nosuch0")
    await check_filter("tcp prot 80", interface="nosuch0")
    (tmp_path / "odd.pcap").write_bytes(b"no capture")
    await check_filter_of("tcp prot 80", tmp_path / "odd.pcap")


async def test_a_filter_with_a_nul_is_refused() -> None:
    with pytest.raises((InvalidParameters, MissingProgram), match=r"NUL|tcpdump"):
        await check_filter("icmp\0", interface="lo")


async def test_without_tcpdump_no_filter_is_taken_for_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install tcpdump"):
        await check_filter("icmp", interface="lo")


def test_a_filter_keeps_its_meaning_beside_a_host_and_a_port() -> None:
    assert combine("tcp or udp", host="::1", port=53) == "host ::1 and port 53 and (tcp or udp)"
    assert combine(" icmp ") == "icmp"
    assert combine("", port=80) == "port 80"
    assert combine("") == ""


@pytest.mark.parametrize("expression", ["udp) or (tcp", "(udp", "udp)"])
def test_a_filter_does_not_break_out_of_the_host_it_is_joined_with(expression: str) -> None:
    with pytest.raises(ValueError, match="do not pair"):
        combine(expression, host="10.0.0.7")
    assert combine(expression) == expression  # alone, tcpdump says what is wrong
