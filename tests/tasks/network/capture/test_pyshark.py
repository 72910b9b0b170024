"""pyshark: packets decoded to the last field, secrets masked, the tshark behind it always gone."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.snmp import SNMP, SNMPget
from scapy.packet import Packet
from scapy.utils import wrpcap

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, NotFound, ToolTimeout
from tasks.core.models import Safety
from tasks.network.capture import pyshark as module
from tasks.network.capture._pyshark_packets import decode
from tasks.network.capture.pyshark import Pyshark, PysharkResult, pyshark
from tests.lab.network import processes_of

Perform = Callable[..., Awaitable[Any]]
START = 1_700_000_000.0
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def segment(port: int, data: bytes) -> Packet:
    return (
        LINK
        / IP(src="10.0.0.5", dst="10.0.0.9")
        / TCP(sport=40000 + port % 100, dport=port, flags="PA", seq=1, ack=1)
        / data
    )


def traffic() -> list[Packet]:
    form = b"user=bob&password=hunter2"
    posted = b"POST /login HTTP/1.1\r\nHost: x\r\nCookie: sid=topsecret\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    posted += b"Authorization: Basic YWRtaW46Z2VoZWlt\r\nContent-Length: %d\r\n\r\n%s" % (len(form), form)
    body = b'{"user": "bob", "password": "hunter2"}'
    api = b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    answer = DNS(
        id=7, qr=1, qd=DNSQR(qname="h.example"), an=[DNSRR(rrname="h.example", rdata=f"1.2.3.{i}") for i in (4, 5)]
    )
    packets = [
        segment(80, posted),
        segment(81, api),
        segment(21, b"PASS hunter2\r\n"),
        LINK / IP(src="10.0.0.53", dst="10.0.0.5") / UDP(sport=53, dport=5000) / answer,
        LINK
        / IP(src="10.0.0.5", dst="10.0.0.7")
        / UDP(sport=5000, dport=161)
        / SNMP(community="hunter2", PDU=SNMPget()),
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / Dot1Q(vlan=5)
        / Dot1Q(vlan=6)
        / IP()
        / IP()
        / UDP(dport=9),
    ]
    for i, packet in enumerate(packets):
        packet.time = START + i
    return packets


@pytest.fixture
def store(tmp_path: Path) -> CaptureStore:
    store = CaptureStore(folder=tmp_path / "evidence")
    path = store.new("office.pcap")
    wrpcap(str(path), traffic())
    store.commit(path)
    whole = store.path("office.pcap").read_bytes()
    store.write("long.pcap", whole[:24] + whole[24:] * 3000)
    return store


Ask = Callable[..., Awaitable[PysharkResult]]


@pytest.fixture
def ask(perform: Perform, store: CaptureStore) -> Ask:
    async def run(**params: Any) -> PysharkResult:
        result: PysharkResult = await perform(pyshark, {"capture": "office.pcap"} | params, store=store)
        return result

    return run


async def test_a_packet_is_decoded_to_its_fields(ask: Ask) -> None:
    result = await ask(display_filter="dns")
    (packet,) = result.packets
    assert (packet.number, packet.at, packet.length) == (4, "2023-11-14T22:13:23.000000000Z", len(traffic()[3]))
    assert [layer.name for layer in packet.layers] == ["eth", "ip", "udp", "dns"]
    ip, udp, dns = (layer.fields for layer in packet.layers[1:])
    assert ip["src"] == "10.0.0.53" and ip["ttl"] == "64" and udp["srcport"] == "53"
    assert dns["a"] == ["1.2.3.4", "1.2.3.5"] and dns["qry_name"] == "h.example"
    assert not result.more and result.headline() == "1 packet decoded"


async def test_only_the_layers_asked_for_are_there_and_repeated_ones_all(ask: Ask) -> None:
    result = await ask(layers=["IP".lower(), "vlan"])
    assert {layer.name for packet in result.packets for layer in packet.layers} == {"ip", "vlan"}
    last = result.packets[-1]
    assert [layer.name for layer in last.layers] == ["vlan", "vlan", "ip", "ip"]
    assert [layer.fields["id"] for layer in last.layers[:2]] == ["5", "6"]


async def test_no_more_than_asked_for_are_decoded_and_it_says_that_there_are_more(ask: Ask) -> None:
    result = await ask(capture="long.pcap", most=7, layers=["ip"])
    assert [packet.number for packet in result.packets] == [1, 2, 3, 4, 5, 6, 7] and result.more
    assert not processes_of("tshark") and not processes_of("/usr/bin/tshark")
    exact = await ask(most=6, layers=["eth"])
    assert len(exact.packets) == 6 and not exact.more
    small = await ask(result_bytes=2000)
    assert len(small.packets) < 6 and small.more and "did not fit" in small.notes[0]
    assert len(json.dumps(small.model_dump(mode="json")["packets"])) < 2000


async def test_packets_without_any_of_the_layers_asked_for_do_not_count(ask: Ask) -> None:
    result = await ask(layers=["ftp", "snmp"], most=1)
    assert [packet.number for packet in result.packets] == [3] and result.more
    result = await ask(layers=["ftp", "snmp"], most=2, display_filter="dns or snmp")
    assert [(packet.number, [layer.name for layer in packet.layers]) for packet in result.packets] == [(5, ["snmp"])]
    assert not result.more
    with pytest.raises(InvalidParameters):
        await ask(layers=["ftp"], display_filter="tcp) or (udp")


async def test_nothing_that_matches_is_an_empty_answer(ask: Ask) -> None:
    result = await ask(display_filter="ssh")
    assert result.packets == [] and not result.more


async def test_no_secret_is_shown_unless_it_is_asked_for(ask: Ask) -> None:
    shown = (await ask(result_bytes=1 << 20)).model_dump_json()
    for secret in ("hunter2", "topsecret", "geheim", "YWRtaW46Z2VoZWlt"):
        assert secret not in shown and secret.encode().hex() not in shown, secret
    assert "bob" in shown and "***" in shown
    assert "hunter2" in (await ask(reveal=True, result_bytes=1 << 20)).model_dump_json()
    assert Pyshark(capture="x", reveal=True).safety() is Safety.CHANGE and Pyshark(capture="x").safety() is Safety.READ
    assert Pyshark(interface="lo", filter="tcp").safety() is Safety.PROBE


async def test_what_redis_and_telnet_are_told_is_not_shown(ask: Ask, store: CaptureStore) -> None:
    path = store.new("spoken.pcap")
    said = [
        (6379, b"*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n"),
        (6380, b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nauth\r\n$3\r\nbob\r\n$7\r\nhunter2\r\n"),
        (6381, b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$11\r\nrequirepass\r\n$7\r\nhunter2\r\n"),
        (6382, b"AUTH hunter2\r\n"),
        (6383, b"*2\r\n$3\r\nGET\r\n$5\r\ncolor\r\n"),
        (23, b"hunter2\r\n"),
        (24, b"hunter2\r\n"),
    ]
    wrpcap(str(path), [segment(port, data) for port, data in said])
    store.commit(path)
    redis = [f"tcp.port=={port},resp" for port in range(6380, 6384)]
    for more in ({"decode_as": redis}, {"decode_as": [*redis, "tcp.port==23,data"]}):
        packets = (await ask(capture="spoken.pcap", result_bytes=1 << 20, **more)).packets
        assert len(packets) == len(said)
        for packet in packets[:-1]:
            shown = packet.model_dump_json()
            assert "hunter2" not in shown and b"hunter2".hex() not in shown and b"hunter2".hex(":") not in shown
        assert "color" in packets[4].model_dump_json() and b"hunter2".hex(":") in packets[6].model_dump_json()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"display_filter": "ip.src =="}, "Unexpected end of filter"),
        ({"layers": ["httq"]}, "no protocol 'httq'. Near: http"),
        ({"layers": ["-x"]}, "layers"),
        ({"most": 0}, "most"),
        ({"decode_as": ["tcp.port==80,nosuch"]}, "Unknown protocol"),
        ({"capture": None, "interface": "lo"}, "needs a filter"),
    ],
)
async def test_what_is_wrong_is_said_with_the_reason(ask: Ask, params: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameters, match=re.escape(said)):
        await ask(**params)


async def test_captures_that_are_cut_off_or_missing_or_noise(ask: Ask, store: CaptureStore) -> None:
    whole = store.path("office.pcap").read_bytes()
    store.write("cut.pcap", whole[: len(whole) - 20])
    result = await ask(capture="cut.pcap", layers=["ip"])
    assert len(result.packets) == 5 and "middle of a packet" in result.notes[0]
    with pytest.raises(NotFound):
        await ask(capture="other.pcap")
    store.write("noise.pcap", os.urandom(300))
    with pytest.raises(InvalidParameters, match="capture"):
        await ask(capture="noise.pcap")


async def test_without_tshark_the_hint_says_how_to_get_it(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nonexistent")
    with pytest.raises(MissingProgram, match="apt-get install tshark"):
        await ask()


async def test_a_deadline_and_a_cancel_leave_no_tshark_behind(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READING_SECONDS", 0.01)
    with pytest.raises(ToolTimeout, match="tshark did not finish"):
        await ask(capture="long.pcap", display_filter="ssh")
    monkeypatch.undo()
    reading = asyncio.ensure_future(ask(capture="long.pcap", display_filter="ssh"))
    await asyncio.sleep(0.5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not processes_of("tshark") and not processes_of("/usr/bin/tshark")


async def test_a_decoder_that_needs_too_much_is_ended(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 25 << 20)
    with pytest.raises(CommandFailed):
        await ask()


def test_malformed_pdml_gives_no_packets_and_no_crash() -> None:
    for pdml in (b"", b"<packet>", b"<packet><proto name='x'></packet", b"\xff\x00" * 50):
        assert decode(pdml, [], 10_000, False) == []
