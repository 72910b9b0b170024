"""Read an nmap XML file somebody brings along as observations. Whole or not at all: an import is never partial.

Scans of our own are read by `tasks.network.scan`, which keeps what a killed scan finished; services do not import each other.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime

from tasks.asset._identity import parse_address
from tasks.asset._observation import ObservedHost, ObservedService
from tasks.core.models import format_ports, parse_mac, parse_ports

Complain = Callable[[int, str], None]
"""Called with a line and what is wrong there."""


def read_nmap(data: bytes, site: str, complain: Complain) -> list[ObservedHost]:
    """Return the hosts that answered.

    Args:
        data: The file.
        site: The site they were seen from.
        complain: Told of everything that is wrong, by line; what is returned then is of no use.
    """
    # Expat itself refuses entity bombs (2.4.1 and later), and ElementTree resolves nothing outside the file.
    events = ET.iterparse(io.BytesIO(data), events=("start", "end"))  # noqa: S314 - as said above
    hosts: list[tuple[ET.Element, int]] = []
    asked: dict[str, str] = {}
    started = finished = None
    number = 0
    try:
        for event, element in events:
            if event == "start":
                if element.tag == "nmaprun":
                    started = _time(element.get("start"))
                number += element.tag == "host"
                continue
            if element.tag == "scaninfo" and element.get("services"):
                asked[element.get("protocol", "")] = element.get("services", "")
            elif element.tag == "finished":
                finished = _time(element.get("time"))
            elif element.tag == "host":
                hosts.append((element, number))
    except ET.ParseError as error:
        complain(
            error.position[0],
            f"the XML breaks off or is damaged here ({error}); a scan that was killed leaves such a file",
        )
        return []
    if started is None:
        complain(1, "this is not nmap's XML (no <nmaprun> with a start time); make it with: nmap -oX FILE")
        return []
    lines = _lines_of(data, b"<host")
    found = []
    for element, place in hosts:
        line = lines[place - 1] if place <= len(lines) else 1
        try:
            host = _host(element, site, asked, finished or started)
        except ValueError as error:
            complain(line, str(error))
            continue
        if host is not None:
            found.append(host)
    return found


def _host(element: ET.Element, site: str, asked: dict[str, str], default: datetime) -> ObservedHost | None:
    status = element.find("status")
    addresses = {a.get("addrtype", ""): a.get("addr", "") for a in element.findall("address")}
    ip = addresses.get("ipv4") or addresses.get("ipv6")
    if status is None or status.get("state") != "up" or not ip:
        return None
    services, refused = _ports(element)
    if status.get("reason") == "user-set" and not services and not refused:
        return None  # -Pn: nmap was told it is up, nobody answered
    match = element.find("os/osmatch")
    mac = addresses.get("mac")
    vendor = next((a.get("vendor") for a in element.findall("address") if a.get("addrtype") == "mac"), None)
    looked = element.find("ports") is not None
    return ObservedHost(
        address=str(parse_address(ip)),
        method="nmap",
        seen_at=_time(element.get("endtime")) or default,
        site=site,
        mac=parse_mac(mac) if mac else None,
        mac_first_hand=bool(mac),  # nmap shows MACs of hosts on its own link alone
        vendor=vendor,
        hostnames=tuple(name for item in element.findall("hostnames/hostname") if (name := item.get("name"))),
        services=tuple(services),
        scanned_tcp=_port_list(asked.get("tcp")) if looked else None,
        scanned_udp=_port_list(asked.get("udp")) if looked else None,
        refused_tcp=format_ports(refused),
        os=match.get("name") if match is not None else None,
    )


def _ports(element: ET.Element) -> tuple[list[ObservedService], list[int]]:
    services: list[ObservedService] = []
    refused: list[int] = []
    for port in element.findall("ports/port"):
        state, protocol, number = port.find("state"), port.get("protocol", ""), int(port.get("portid", "0"))
        how = state.get("state") if state is not None else None
        if how == "closed" and protocol == "tcp":
            refused.append(number)
        if how != "open" or protocol not in ("tcp", "udp"):
            continue
        said = port.find("service")
        if said is None:
            services.append(ObservedService(protocol, number))
            continue
        # A name from the port number alone is a guess that says nothing new.
        probed = said.get("method") == "probed"
        services.append(
            ObservedService(
                protocol,
                number,
                said.get("name", ""),
                said.get("product", "") if probed else "",
                said.get("version", "") if probed else "",
            )
        )
    for reasons in element.findall("ports/extraports[@state='closed']/extrareasons[@ports]"):
        if reasons.get("proto", "tcp") == "tcp":
            refused += parse_ports(reasons.get("ports", ""))
    return services, refused


def _port_list(text: str | None) -> str | None:
    return format_ports(parse_ports(text)) if text else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text and text.isdigit() else None


def _lines_of(data: bytes, tag: bytes) -> list[int]:
    """Return the lines on which elements of a name begin (ElementTree does not say)."""
    lines: list[int] = []
    at, line, counted = data.find(tag), 1, 0
    while at >= 0:
        if data[at + len(tag) : at + len(tag) + 1] in (b" ", b">", b"\n", b"\t", b"\r"):
            line += data.count(b"\n", counted, at)
            counted = at
            lines.append(line)
        at = data.find(tag, at + 1)
    return lines
