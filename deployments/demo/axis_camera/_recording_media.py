"""Files of recordings as the camera exports them: small, made from the recording's name and times, and valid all the same.

The video is H.264 by its label; the frames hold a counter and filler, for nobody here decodes them. Containers are real: Matroska with an
EBML header, a segment, its information, a track and a cluster for each group of pictures; MP4 with its boxes and sample tables.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

GROUP_SECONDS = 2
"""A key frame every two seconds: exports begin and end there."""
_SPS = bytes.fromhex("6742c01eda0280bfe5c044000003000400000300f23c58ba80")
_PPS = bytes.fromhex("68ce3c80")
_AVC = (
    b"\x01"
    + _SPS[1:4]
    + b"\xff\xe1"
    + struct.pack(">H", len(_SPS))
    + _SPS
    + b"\x01"
    + struct.pack(">H", len(_PPS))
    + _PPS
)


@dataclass(frozen=True)
class Footage:
    """A stretch of video.

    Attributes:
        name: What its content is made from.
        first_group: Number of its first group of pictures, counted from the recording's beginning.
        groups: How many groups it has.
        fps: Frames a second.
        frame_bytes: Size of a frame.
        began_ns: When it was recorded, nanoseconds since 2001-01-01 UTC (how Matroska dates files).
    """

    name: str
    first_group: int
    groups: int
    fps: int = 5
    frame_bytes: int = 120
    began_ns: int = 0

    def frames(self, group: int) -> Iterator[tuple[int, bytes]]:
        """Milliseconds from the group's beginning, and the bytes of each of its frames; the first is the key frame."""
        count = GROUP_SECONDS * self.fps
        for index in range(count):
            seed = hashlib.sha256(f"{self.name} {self.first_group + group} {index}".encode()).digest()
            kind = 0x65 if index == 0 else 0x41
            body = bytes([kind]) + (seed * (self.frame_bytes // len(seed) + 1))[: self.frame_bytes - 5]
            yield index * 1000 // self.fps, struct.pack(">I", len(body)) + body


def matroska(footage: Footage) -> Iterator[bytes]:
    """The footage as a Matroska file, in pieces: what comes before the video, then a cluster each."""
    header = _element(
        "1a45dfa3",
        _element("4286", b"\x01"), _element("42f7", b"\x01"), _element("42f2", b"\x04"), _element("42f3", b"\x08"),
        _element("4282", b"matroska"), _element("4287", b"\x04"), _element("4285", b"\x02"),
    )  # fmt: skip
    duration = struct.pack(">d", footage.groups * GROUP_SECONDS * 1000.0)
    information = _element(
        "1549a966",
        _element("2ad7b1", (1_000_000).to_bytes(3, "big")), _element("4d80", b"AXIS"), _element("5741", b"AXIS"),
        _element("4489", duration), _element("4461", struct.pack(">q", footage.began_ns)),
    )  # fmt: skip
    picture = _element("e0", _element("b0", (1920).to_bytes(2, "big")), _element("ba", (1080).to_bytes(2, "big")))
    track = _element(
        "ae",
        _element("d7", b"\x01"), _element("73c5", b"\x01"), _element("83", b"\x01"),
        _element("86", b"V_MPEG4/ISO/AVC"), _element("63a2", _AVC), picture,
    )  # fmt: skip
    # The segment's size is not known when a camera begins to send: eight bytes of ones say so.
    yield header + bytes.fromhex("18538067") + b"\x01" + b"\xff" * 7 + information + _element("1654ae6b", track)
    for group in range(footage.groups):
        at = group * GROUP_SECONDS * 1000
        blocks = [
            _element("a3", b"\x81" + struct.pack(">h", offset) + (b"\x80" if index == 0 else b"\x00") + frame)
            for index, (offset, frame) in enumerate(footage.frames(group))
        ]
        yield _element("1f43b675", _element("e7", at.to_bytes(4, "big")), *blocks)


def matroska_size(footage: Footage) -> int:
    """Size of the footage's Matroska file: all clusters have the same."""
    head, cluster = matroska(replace(footage, groups=1))
    return len(head) + footage.groups * len(cluster)


def mp4(footage: Footage) -> Iterator[bytes]:
    """The footage as an MP4 file, in pieces."""
    frames = [
        (group, index, frame)
        for group in range(footage.groups)
        for index, (_, frame) in enumerate(footage.frames(group))
    ]
    sizes = [len(frame) for _, _, frame in frames]
    kind = _box("ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    scale, step = 1000, 1000 // footage.fps
    length = len(frames) * step
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    movie = _box(
        "mvhd",
        struct.pack(">IIIIIIH10x", 0, 0, 0, scale, length, 0x10000, 0x100) + matrix + bytes(24) + struct.pack(">I", 2),
    )
    head = _box(
        "tkhd",
        struct.pack(">IIIII4xI8xHHH2x", 3, 0, 0, 1, 0, length, 0, 0, 0)
        + matrix
        + struct.pack(">II", 1920 << 16, 1080 << 16),
    )
    entry = (
        struct.pack(">6xH16xHHIIIH", 1, 1920, 1080, 0x480000, 0x480000, 0, 1) + bytes(32) + struct.pack(">Hh", 24, -1)
    )
    description = _box("stsd", struct.pack(">II", 0, 1) + _box("avc1", entry + _box("avcC", _AVC)))
    keys = [number + 1 for number, (_, index, _) in enumerate(frames) if index == 0]

    def tables(offset: int) -> bytes:
        return _box(
            "stbl",
            description
            + _box("stts", struct.pack(">IIII", 0, 1, len(frames), step))
            + _box("stss", struct.pack(f">II{len(keys)}I", 0, len(keys), *keys))
            + _box("stsc", struct.pack(">IIIII", 0, 1, 1, len(frames), 1))
            + _box("stsz", struct.pack(f">III{len(sizes)}I", 0, 0, len(sizes), *sizes))
            + _box("stco", struct.pack(">III", 0, 1, offset)),
        )

    def moov(offset: int) -> bytes:
        reference = _box("dinf", _box("dref", struct.pack(">II", 0, 1) + _box("url ", struct.pack(">I", 1))))
        information = _box("minf", _box("vmhd", struct.pack(">IHHHH", 1, 0, 0, 0, 0)) + reference + tables(offset))
        media = _box("mdhd", struct.pack(">IIIIIHH", 0, 0, 0, scale, length, 0x55C4, 0))
        handler = _box("hdlr", struct.pack(">II4s12x", 0, 0, b"vide") + b"Video\0")
        return _box("moov", movie + _box("trak", head + _box("mdia", media + handler + information)))

    table = moov(len(kind) + len(moov(0)) + 8)
    yield kind + table + struct.pack(">I4s", 8 + sum(sizes), b"mdat")
    for start in range(0, len(frames), 64):
        yield b"".join(frame for _, _, frame in frames[start : start + 64])


def _element(identifier: str, *content: bytes) -> bytes:
    body = b"".join(content)
    width = next(width for width in range(1, 9) if len(body) < (1 << 7 * width) - 1)
    return bytes.fromhex(identifier) + (len(body) | 1 << 7 * width).to_bytes(width, "big") + body


def _box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content
