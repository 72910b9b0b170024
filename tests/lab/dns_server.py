"""A small DNS server on loopback that answers like good servers and misbehaves like bad ones.

    async with DnsServer(zone={"www.lab.test": ["A 10.0.0.7"]}) as server:
        ...  # UDP and TCP on server.host, server.port; server.asked has every question

Names with a behaviour of their own, whatever the zone: `servfail.*`, `refused.*`, `formerr.*`, `silent.*` (no answer),
`large.*` (truncated over UDP, 60 TXT records over TCP), `spoofed.*` (a wrong answer first: another id), `garbage.*`
(bytes that are no DNS), `noedns.*` (FORMERR to EDNS, an answer without).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

TTL = 300

ALL_TYPES: Mapping[str, Sequence[str]] = {
    "lab.test": [
        "SOA ns1.lab.test. hostmaster.lab.test. 2024050101 7200 900 1209600 300",
        "NS ns1.lab.test.",
        "NS ns2.lab.test.",
        "MX 10 mail.lab.test.",
        "MX 20 backup.lab.test.",
        'TXT "v=spf1 mx " "-all"',
        'CAA 0 issue "ca.example"',
        "A 10.0.0.1",
    ],
    "www.lab.test": ["A 10.0.0.7", "A 10.0.0.8", "AAAA 2001:db8::7"],
    "alias.lab.test": ["CNAME www.lab.test."],
    "dangling.lab.test": ["CNAME elsewhere.example."],
    "_sip._tcp.lab.test": ["SRV 10 60 5060 www.lab.test."],
    "7.0.0.10.in-addr.arpa": ["PTR www.lab.test."],
    "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": ["PTR www.lab.test."],
}
"""A zone with every record type `dns_lookup` knows."""


class DnsServer:
    """Serves a zone over UDP and TCP on one port.

    Args:
        zone: Records by name, each as `TYPE DATA`.
        host: Address to listen on.
        tcp: Whether it also answers over TCP.
    """

    def __init__(
        self, zone: Mapping[str, Sequence[str]] = ALL_TYPES, *, host: str = "127.0.0.1", tcp: bool = True
    ) -> None:
        self.host = host
        self.port = 0
        self.asked: list[tuple[str, str, str]] = []
        self._tcp = tcp
        self._zone: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        for name, records in zone.items():
            for record in records:
                kind, _, data = record.partition(" ")
                one = dns.rrset.from_text(dns.name.from_text(name), TTL, "IN", kind, data)
                self._zone.setdefault((one.name, one.rdtype), one).update(one)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Another process may have the UDP port's number for TCP: try until both are free.
        for _ in range(20):
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=(self.host, 0))
            self.port = self._udp.get_extra_info("sockname")[1]
            if not self._tcp:
                return self
            try:
                self._server = await asyncio.start_server(self._serve, self.host, self.port)
            except OSError:
                self._udp.close()
            else:
                return self
        raise OSError("no port is free for UDP and TCP both")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        if self._tcp:
            self._server.close()

    def answer(self, wire: bytes, transport: str) -> list[bytes]:
        """What goes back for a query: nothing, one message or several."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        behaviour = question.name.labels[0].decode().lower()
        self.asked.append(
            (question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype), transport)
        )
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        match behaviour:
            case "silent":
                return []
            case "garbage":
                return [query.to_wire()[:2] + b"\xff" * 7]
            case "servfail" | "refused" | "formerr":
                response.set_rcode(dns.rcode.from_text(behaviour.upper()))
            case "noedns" if query.edns >= 0:
                response = dns.message.make_response(query)
                response.use_edns(False)
                response.set_rcode(dns.rcode.FORMERR)
            case "large":
                text = [f'"{number:03} {"x" * 60}"' for number in range(60)]
                response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "TXT", *text))
            case "spoofed":
                response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", "10.0.0.7"))
                wrong = dns.message.make_response(query)
                wrong.id = query.id ^ 1
                wrong.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", "6.6.6.6"))
                return [wrong.to_wire(), response.to_wire()]
            case "noedns":
                response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "A", "10.0.0.9"))
            case _:
                self._look_up(question, response)
        if transport == "udp":
            return [_truncated(response, 1232 if query.edns >= 0 else 512)]
        return [response.to_wire(max_size=65535)]

    def _look_up(self, question: dns.rrset.RRset, response: dns.message.Message) -> None:
        name = question.name
        while True:
            found = self._zone.get((name, question.rdtype))
            if found is not None:
                response.answer.append(found)
                return
            alias = self._zone.get((name, dns.rdatatype.CNAME))
            if alias is None:
                break
            response.answer.append(alias)
            name = alias[0].target
        known = any(owner == name or owner.is_subdomain(name) for owner, _ in self._zone)
        if not known and not response.answer:
            response.set_rcode(dns.rcode.NXDOMAIN)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                for message in self.answer(await reader.readexactly(length), "tcp"):
                    writer.write(struct.pack("!H", len(message)) + message)
                await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        for message in self._server.answer(data, "udp"):
            self._transport.sendto(message, sender)  # type: ignore[attr-defined]


def _truncated(response: dns.message.Message, most: int) -> bytes:
    wire = response.to_wire(max_size=65535)
    if len(wire) <= most:
        return wire
    response.answer.clear()
    response.flags |= dns.flags.TC
    return response.to_wire()
