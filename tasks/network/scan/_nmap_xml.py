"""Reads nmap's XML with python-nmap, whole or cut off: every host that was finished is kept."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field

CHUNK_BYTES = 1 << 16
LONGEST_HOST_BYTES = 16 << 20
"""A host element larger than this is not nmap's; nothing real comes near (65,535 ports with their services: 12 MB)."""
KEPT_STATES = {"open", "open|filtered"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NmapPort(_Frozen):
    """An open port of a host, and what answers there."""

    port: int = Field(description="Port number.")
    protocol: Literal["tcp", "udp", "sctp"] = Field(description="Transport protocol.")
    state: str = Field(description="open, or open|filtered where silence can mean both (UDP).")
    reason: str | None = Field(None, description="What nmap saw: syn-ack, udp-response, no-response ...")
    service: str | None = Field(None, description="Service name; a guess from the port number unless `probed`.")
    probed: bool = Field(False, description="Whether the service answered a probe and was recognised.")
    confidence: int | None = Field(None, description="nmap's confidence in the service, 0 to 10.")
    product: str | None = Field(None, description="Product that answered, such as OpenSSH.")
    version: str | None = Field(None, description="Its version.")
    extra: str | None = Field(None, description="What else it said of itself.")
    hostname: str | None = Field(None, description="The host name it gave for itself.")
    tunnel: str | None = Field(None, description="ssl where the service speaks inside TLS.")
    cpes: tuple[str, ...] = Field((), description="CPE names of the product and its system.")


class NmapOs(_Frozen):
    """A guess at a host's operating system."""

    name: str = Field(description="Name in nmap's database.")
    accuracy: int = Field(description="How well the fingerprint fits, percent.")
    vendor: str | None = Field(None, description="Vendor of the system.")
    family: str | None = Field(None, description="Family, such as Linux.")
    generation: str | None = Field(None, description="Generation, such as 5.X.")
    kind: str | None = Field(None, description="Kind of device, such as webcam.")
    cpes: tuple[str, ...] = Field((), description="CPE names.")


class NmapHost(_Frozen):
    """A host that answered."""

    address: str = Field(description="Its address.")
    mac: str | None = Field(
        None, description="MAC from its own ARP or neighbour reply; only hosts on our link have one."
    )
    vendor: str | None = Field(None, description="Vendor by the MAC's first bytes, from nmap's table.")
    reason: str | None = Field(
        None, description="What it answered: arp-response, echo-reply, syn-ack, reset ...; user-set: not asked."
    )
    latency_ms: float | None = Field(None, description="Smoothed round-trip time, milliseconds.")
    uptime_seconds: int | None = Field(None, description="Uptime guessed from TCP timestamps, seconds.")
    booted_at: datetime | None = Field(None, description="Last boot, guessed from the uptime.")
    distance_hops: int | None = Field(None, description="Routers on the way plus one.")
    ports: tuple[NmapPort, ...] = Field((), description="Open ports.")
    closed_ports: int = Field(0, description="Ports that answered that nothing listens.")
    filtered_ports: int = Field(0, description="Ports that did not answer, or were answered by a firewall.")
    os_guesses: tuple[NmapOs, ...] = Field((), description="Operating system guesses, best first, at most 3.")
    timed_out: bool = Field(
        False, description="The host took longer than its deadline; its ports are unknown, not closed."
    )


class NmapReport(_Frozen):
    """What one run of nmap reported, as far as it came.

    Attributes:
        hosts: Hosts that are up, in the order reported.
        reported: Addresses reported on, up or down: what was really attempted when the run was cut off.
        finished: Whether nmap ended by itself and with success.
        error: What nmap said when it gave up.
        unreadable: Host elements that could not be read.
    """

    hosts: tuple[NmapHost, ...]
    reported: int
    finished: bool
    error: str | None = None
    unreadable: int = 0


def read_report(path: Path) -> NmapReport:
    """Read an XML file of nmap, complete or not.

    Raises:
        OSError: The file cannot be read.
    """
    hosts: list[NmapHost] = []
    total: int | None = None
    reported = unreadable = 0
    finished, error = False, None
    with path.open("rb") as file:
        for element in _elements(file):
            if element.startswith(b"<runstats"):
                finished, error, total = _read_end(element)
                continue
            try:
                node = ET.fromstring(element)  # noqa: S314  written by the nmap we started, one element at a time
                host = _read_host(node, element)
            except (ET.ParseError, LookupError, ValueError, AttributeError, TypeError):
                unreadable += 1
                continue
            reported += 1
            if host is not None:
                hosts.append(host)
    # Without -v nmap reports on hosts that are up alone; the total of a finished run is the truth.
    return NmapReport(
        hosts=tuple(hosts), reported=max(reported, total or 0), finished=finished, error=error, unreadable=unreadable
    )


def _elements(file: BinaryIO) -> Iterator[bytes]:
    """Yield each whole <host> element, and the <runstats>; what is cut off is not yielded.

    XML writes `<` inside values as `&lt;`, so the closing tag cannot occur earlier. A broken element thus costs itself only, where an XML
    parser over the whole file would lose everything after it.
    """
    opening = re.compile(rb"<(host|runstats)(?=[\s>])")
    buffer = b""
    while chunk := file.read(CHUNK_BYTES):
        buffer += chunk
        while start := opening.search(buffer):
            closing = b"</" + start[1] + b">"
            end = buffer.find(closing, start.start())
            if end < 0:
                buffer = buffer[start.start() :]
                if len(buffer) > LONGEST_HOST_BYTES:
                    buffer = buffer[1:]
                    continue
                break
            yield buffer[start.start() : end + len(closing)]
            buffer = buffer[end + len(closing) :]
        else:
            # Keep what may be the beginning of an opening tag.
            buffer = buffer[-16:]


def _read_end(element: bytes) -> tuple[bool, str | None, int | None]:
    try:
        node = ET.fromstring(element)  # noqa: S314  as above
        done, counts = node.find("finished"), node.find("hosts")
        if done is None:
            return False, None, None
        total = int(counts.get("total", "0")) if counts is not None else None
        return done.get("exit") == "success", done.get("errormsg"), total
    except (ET.ParseError, ValueError):
        return False, None, None


def _read_host(node: ET.Element, element: bytes) -> NmapHost | None:
    """Make a host of an element; None when it is down."""
    address, found = _python_nmap(element)
    if found.get("status", {}).get("state") != "up":
        return None
    counts = {"closed": 0, "filtered": 0}
    for extra in node.findall("ports/extraports"):
        counts[extra.get("state", "")] = counts.get(extra.get("state", ""), 0) + int(extra.get("count", "0"))
    ports = []
    for protocol in ("tcp", "udp", "sctp"):
        for number, seen in sorted(found.get(protocol, {}).items()):
            if seen["state"] in KEPT_STATES:
                ports.append(_read_port(protocol, number, seen, node))
            else:
                counts[seen["state"]] = counts.get(seen["state"], 0) + 1
    mac = found["addresses"].get("mac")
    latency, uptime, distance = node.find("times"), node.find("uptime"), node.find("distance")
    rtt = int(latency.get("srtt", "-1")) if latency is not None else -1
    # Computed from the guess, not read from `lastboot`: that is written in the local time zone and language.
    seconds = int(uptime.get("seconds", "0")) if uptime is not None else 0
    ended = node.get("endtime")
    return NmapHost(
        address=address,
        mac=mac.lower() if mac else None,
        vendor=found["vendor"].get(mac) if mac else None,
        reason=found["status"].get("reason"),
        latency_ms=rtt / 1000 if rtt >= 0 else None,
        uptime_seconds=seconds or None,
        booted_at=datetime.fromtimestamp(int(ended), UTC) - timedelta(seconds=seconds) if seconds and ended else None,
        distance_hops=int(distance.get("value", "0")) if distance is not None else None,
        ports=tuple(ports),
        closed_ports=counts["closed"],
        filtered_ports=counts["filtered"],
        os_guesses=tuple(_read_os(match) for match in found.get("osmatch", [])[:3]),
        timed_out=node.get("timedout") == "true",
    )


def _python_nmap(element: bytes) -> tuple[str, dict[str, Any]]:
    """Let python-nmap read one host: it wants a whole document with an end."""
    import nmap

    # __new__: its constructor starts `nmap -V`, and programs start in core/process.py alone.
    reader = nmap.PortScanner.__new__(nmap.PortScanner)
    end = b'<runstats><finished timestr="" elapsed="0"/><hosts up="1" down="0" total="1"/></runstats>'
    try:
        read = reader.analyse_nmap_xml_scan(b'<nmaprun args="">' + element + end + b"</nmaprun>")
    except nmap.PortScannerError as error:
        raise ValueError(str(error)) from None
    ((address, found),) = read["scan"].items()
    return str(address), dict(found)


def _read_port(
    protocol: Literal["tcp", "udp", "sctp"], number: int, seen: dict[str, Any], host: ET.Element
) -> NmapPort:
    # python-nmap keeps the last CPE only, and neither tunnel nor host name.
    service = host.find(f"ports/port[@protocol='{protocol}'][@portid='{number}']/service")
    more = service.attrib if service is not None else {}
    return NmapPort(
        port=number,
        protocol=protocol,
        state=seen["state"],
        reason=seen["reason"] or None,
        service=seen["name"] or None,
        probed=more.get("method") == "probed",
        confidence=int(seen["conf"]) if seen["conf"] else None,
        product=seen["product"] or None,
        version=seen["version"] or None,
        extra=seen["extrainfo"] or None,
        hostname=(more.get("hostname") or "").strip() or None,
        tunnel=more.get("tunnel"),
        cpes=tuple(cpe.text for cpe in service.findall("cpe") if cpe.text) if service is not None else (),
    )


def _read_os(match: dict[str, Any]) -> NmapOs:
    best: dict[str, Any] = match["osclass"][0] if match["osclass"] else {}
    return NmapOs(
        name=match["name"],
        accuracy=int(match["accuracy"]),
        vendor=best.get("vendor"),
        family=best.get("osfamily"),
        generation=best.get("osgen"),
        kind=best.get("type"),
        cpes=tuple(best.get("cpe", ())),
    )
