"""Looks at the files tcpflow wrote, packs them into one archive with an index, and says what each is.

Runs in a child process: imports nothing of Prefect.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from tasks.network.analyze._frames import Counts, address, read_frames
from tasks.network.capture._mask import mask, printable

LOOKED_AT: Final = 8 << 10
"""Bytes of a stream in which secrets are looked for before its beginning is shown."""
BEGINNING: Final = 64
_CHUNK: Final = 1 << 20
_NAME: Final = re.compile(r"([0-9a-f.:]+)\.(\d{5})-([0-9a-f.:]+)\.(\d{5})(?:--(\d+))?(?:c(\d+))?")

_KINDS: Final[tuple[tuple[str, str], ...]] = (
    (r"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|CONNECT|TRACE) \S+ HTTP/1\.[01]\r?\n", "HTTP request"),
    (r"HTTP/1\.[01] \d{3}", "HTTP response"),
    (r"PRI \* HTTP/2\.0\r\n", "HTTP/2"),
    (r"(?:DESCRIBE|SETUP|PLAY|OPTIONS|TEARDOWN|PAUSE|GET_PARAMETER) rtsp://", "RTSP request"),
    (r"RTSP/1\.0 \d{3}", "RTSP response"),
    (r"(?:INVITE|REGISTER|OPTIONS|BYE|ACK) sips?:", "SIP request"),
    (r"SIP/2\.0 \d{3}", "SIP response"),
    (r"SSH-[12]\.\d+-", "SSH"),
    (r"\x16\x03[\x00-\x04]", "TLS"),
    (r"\x14\x03|\x15\x03|\x17\x03[\x00-\x04]", "TLS, from its middle"),
    (r"220[ -][^\r\n]*(?:SMTP|smtp|Postfix|mail)", "SMTP server"),
    (r"(?:EHLO|HELO|ehlo|helo) ", "SMTP client"),
    (r"220[ -]", "FTP server"),
    (r"USER [^\r\n]+\r\n", "FTP or POP3 client"),
    (r"\+OK", "POP3 server"),
    (r"\* (?:OK|PREAUTH) ", "IMAP server"),
    (r"\w{1,10} (?:CAPABILITY|LOGIN|ID|STARTTLS|AUTHENTICATE)", "IMAP client"),
    (r"RFB 00\d\.00\d\n", "VNC"),
    (r"\x03\x00\x00.\x0e\xd0|\x03\x00\x00.[\x02-\xff]\xe0", "RDP"),
    (r"\x10.{1,2}\x00\x04MQTT", "MQTT"),
    (r"\x00\x00..[\xfe\xff]SMB", "SMB"),
    (r"\x00\x00\x00\x08\x04\xd2\x16\x2f|\x00\x00..\x00\x03\x00\x00", "PostgreSQL client"),
    (r"\xff[\xfb-\xfe]", "Telnet"),
    (r"%PDF-", "PDF"),
    (r"\x89PNG\r\n", "PNG image"),
    (r"\xff\xd8\xff", "JPEG image"),
    (r"GIF8[79]a", "GIF image"),
    (r"PK\x03\x04", "ZIP archive"),
    (r"\x1f\x8b", "gzip data"),
    (r"\x7fELF", "ELF program"),
    (r"MZ.{58}", "Windows program"),
    (r"\s*<!(?:doctype|DOCTYPE) html|\s*<html", "HTML"),
    (r"\s*<\?xml", "XML"),
    (r"\s*[\[{]\s*[\"\]}\[{0-9]", "JSON"),
)
_COMPILED: Final = tuple((re.compile(pattern.encode("latin-1"), re.DOTALL), kind) for pattern, kind in _KINDS)


@dataclass
class StreamFile:
    """One direction of a TCP conversation, reassembled."""

    file: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    connection: int
    size_bytes: int
    cut: bool
    started_at: str
    sha256: str
    kind: str
    begins: str


@dataclass
class Packed:
    """What the child gives back."""

    streams: list[StreamFile] = field(default_factory=list)
    found: int = 0
    left_out: int = 0
    left_out_bytes: int = 0
    missing_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def guess(beginning: bytes) -> str:
    r"""Say what a stream seems to carry, by its first bytes.

    >>> guess(b"SSH-2.0-OpenSSH_9.2\r\n"), guess(b"hello"), guess(b"\x00\x01\x02")
    ('SSH', 'text', 'binary')
    """
    for pattern, kind in _COMPILED:
        if pattern.match(beginning):
            return kind
    if not beginning:
        return "nothing"
    odd = sum(byte < 9 or 13 < byte < 32 or byte == 127 for byte in beginning[:512])
    try:
        beginning[:512].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(beginning[:512]) - 3:
            return "binary"
    return "binary" if odd else "text"


def pack(capture: str, folder: str, archive: str, most: int, stream_bytes: int, room: int) -> Packed:
    """Put the streams tcpflow wrote into an archive, the largest first, with `index.json`.

    Args:
        capture: The capture they come from.
        folder: Where tcpflow wrote them.
        archive: The archive to write.
        most: Streams at most.
        stream_bytes: Bytes after which tcpflow cut each.
        room: Bytes the archive may take.
    """
    found = []
    for entry in os.scandir(folder):
        match = _NAME.fullmatch(entry.name)
        if match and entry.is_file(follow_symlinks=False) and (size := entry.stat().st_size):
            found.append((size, entry.name, match))
    found.sort(key=lambda one: (-one[0], one[1]))
    packed = Packed(found=len(found))
    packed.missing_bytes = _missing(capture, found, stream_bytes, packed.notes)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as into:
        for size, name, match in found:
            # What cannot be compressed takes its size and a header (local and central) with its name twice.
            if len(packed.streams) >= most or size + 2 * len(name) + 400 + len(packed.streams) * 600 > room:
                packed.left_out += 1
                packed.left_out_bytes += size
                continue
            packed.streams.append(_add(into, Path(folder, name), match, size, len(packed.streams) + 1, stream_bytes))
            room -= size + 2 * len(name) + 400
        into.writestr("index.json", json.dumps([asdict(stream) for stream in packed.streams], indent=1))
    return packed


def _add(
    into: zipfile.ZipFile, path: Path, match: re.Match[str], size: int, number: int, stream_bytes: int
) -> StreamFile:
    source, destination = _address(match[1]), _address(match[3])
    source_port, destination_port = int(match[2]), int(match[4])
    digest, started = hashlib.sha256(), datetime.fromtimestamp(path.stat().st_mtime, UTC)
    # Colons are no part of a file's name everywhere.
    name = f"{number:04d}-{source}.{source_port}-{destination}.{destination_port}.bin".replace(":", "_")
    info = zipfile.ZipInfo(name, date_time=max(started, datetime(1980, 1, 1, tzinfo=UTC)).timetuple()[:6])
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16
    beginning = b""
    with path.open("rb") as stream, into.open(info, "w") as copy:
        while piece := stream.read(_CHUNK):
            beginning = beginning or piece[:LOOKED_AT]
            digest.update(piece)
            copy.write(piece)
    shown = mask(beginning, (source_port, destination_port))[:BEGINNING]
    return StreamFile(
        file=name,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        connection=int(match[6] or 0) + 1,
        size_bytes=size,
        cut=size >= stream_bytes,
        started_at=started.isoformat(),
        sha256=digest.hexdigest(),
        kind=guess(beginning),
        begins=printable(shown),
    )


def _address(text: str) -> str:
    """An address as people write it; tcpflow pads IPv4 with zeros.

    >>> _address("010.000.000.001")
    '10.0.0.1'
    """
    if ":" in text:
        return str(ipaddress.ip_address(text))
    return ".".join(str(int(part)) for part in text.split("."))


def _missing(capture: str, found: list[tuple[int, str, re.Match[str]]], stream_bytes: int, notes: list[str]) -> int:
    """Bytes at least that streams have and the capture has not: tcpflow writes zeros where packets were lost, or cut by the snap length."""
    sizes: Counter[tuple[str, int, str, int]] = Counter()
    cut = set()
    for size, _, match in found:
        side = (_address(match[1]), int(match[2]), _address(match[3]), int(match[4]))
        sizes[side] += size
        if size >= stream_bytes:
            cut.add(side)
    held, said = _held(capture)
    notes += said
    return sum(max(0, size - held[side]) for side, size in sizes.items() if side not in cut and side in held)


def _held(capture: str) -> tuple[Counter[tuple[str, int, str, int]], list[str]]:
    """Bytes of TCP payload in the capture, by direction."""
    held: Counter[tuple[str, int, str, int]] = Counter()
    counts = Counts()
    for frames in read_frames(capture, counts=counts):
        rows = frames.take(np.flatnonzero(frames.is_tcp & (frames.payload_length > 0)))
        if not len(rows):
            continue
        ports = (rows.source_port << 16 | rows.destination_port).astype(np.uint64)
        columns = [rows.source_high, rows.source_low, rows.destination_high, rows.destination_low, ports]
        keys, inverse = np.unique(
            np.stack([*columns, rows.version.astype(np.uint64)], axis=1), axis=0, return_inverse=True
        )
        sums = np.bincount(inverse.ravel(), weights=rows.payload_length, minlength=len(keys))
        for key, total in zip(keys.tolist(), sums.tolist(), strict=True):
            source = address(key[5], key[0], key[1])
            destination = address(key[5], key[2], key[3])
            held[(source, key[4] >> 16, destination, key[4] & 0xFFFF)] += int(total)
    return held, counts.notes
