"""Writes what tcpdump hears into files of whole packets: readable at any moment, and never larger than agreed.

tcpdump itself could write the files, but then it needs the right to (it gives up its privileges first), its ring stops at the second
file of a folder that only we may enter, its last packet may be half, and nothing bounds a file's size. From its standard output all
of that is ours.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from blocks._pcap import FILE_HEADER, LARGEST_RECORD, RECORD_HEADER, byte_order


class PcapSink:
    """Files of a capture, one after the other.

    Args:
        path: Where the first goes; the others go beside it.
        size_bytes: Most bytes of all files together.
        files: How many there may be. With more than one the oldest gives way to the newest; one that is full is the end.

    Attributes:
        paths: The files there are, oldest first.
        packets: Packets in them.
        overwritten: Packets that were in files which gave way.
        header: The file header tcpdump sent; empty until it listens.
        first, last: Seconds since the epoch of the first and the last packet in the files.
        until: Packets after this time, seconds since the epoch, are left out and end the capture; None: no such time.
        full: Whether the size ended it.
        past: Whether a packet after `until` ended it.
        trouble: Why no more can be written.
    """

    def __init__(self, path: Path, *, size_bytes: int, files: int = 1) -> None:
        self._first_path = path
        self._files = files
        self._room = size_bytes // files
        self._pending = bytearray()
        self._descriptor = -1
        self._written = 0  # bytes in the current file
        self._made = 0  # files so far
        self._counts: list[int] = []  # packets by file
        self._firsts: list[float] = []
        self._unpack = struct.Struct("<III4x").unpack_from
        self.paths: list[Path] = []
        self.overwritten = 0
        self.header = b""
        self.last: float | None = None
        self.until: float | None = None
        self.full = False
        self.past = False
        self.trouble: OSError | None = None

    @property
    def packets(self) -> int:
        return sum(self._counts)

    @property
    def first(self) -> float | None:
        return next((first for first, count in zip(self._firsts, self._counts, strict=True) if count), None)

    @property
    def ended(self) -> bool:
        """Whether nothing more can be taken: full, past its time, the disk full, or no capture at all."""
        return self.full or self.past or self.trouble is not None

    def feed(self, data: bytes) -> None:
        """Take what tcpdump wrote; whole packets of it go to disk at once."""
        if self.ended:
            return
        self._pending += data
        try:
            if not self.header:
                if len(self._pending) < FILE_HEADER:
                    return
                self._begin(bytes(self._pending[:FILE_HEADER]))
                del self._pending[:FILE_HEADER]
            del self._pending[: self._take()]
        except OSError as error:
            self.trouble = error
            self._cut()

    def close(self) -> None:
        """Close the current file; what is not a whole packet is forgotten."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self, header: bytes) -> None:
        order = byte_order(header)
        if order is None:
            raise OSError("what tcpdump wrote is not a capture")
        self._unpack = struct.Struct(f"{order}III4x").unpack_from
        self.header = header
        self._next_file()

    def _next_file(self) -> None:
        self.close()
        if len(self.paths) == self._files:  # first the room, then the file
            self.paths.pop(0).unlink()
            self.overwritten += self._counts.pop(0)
            self._firsts.pop(0)
        self._made += 1
        first = self._first_path
        path = first if self._files == 1 else first.with_name(f"{first.stem}-{self._made:04d}{first.suffix}")
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.paths.append(path)
        self._counts.append(0)
        self._firsts.append(0.0)
        self._written = 0
        self._write(self.header)

    def _take(self) -> int:
        """Write the whole packets among what is pending; returns their length in bytes."""
        pending, unpack = self._pending, self._unpack
        end = len(pending)
        start = at = count = 0
        while at + RECORD_HEADER <= end:
            seconds, micros, length = unpack(pending, at)
            if length > LARGEST_RECORD:
                raise OSError("what tcpdump wrote is not a capture")
            behind = at + RECORD_HEADER + length
            if behind > end:
                break
            time = seconds + micros / 1e6
            if self.until is not None and time > self.until:
                self.past = True
                break
            if self._written + behind - start > self._room:
                self._flush(start, at, count)
                start, count = at, 0
                if self._files == 1 or behind - at > self._room - FILE_HEADER:
                    self.full = True
                    return at
                self._next_file()
            if not self._counts[-1] and not count:
                self._firsts[-1] = time
            self.last = time
            at = behind
            count += 1
        self._flush(start, at, count)
        return at

    def _flush(self, start: int, end: int, count: int) -> None:
        if end > start:
            self._write(self._pending[start:end])
            self._counts[-1] += count

    def _write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:  # a disk that is nearly full takes a part
            view = view[os.write(self._descriptor, view) :]
        self._written += len(data)

    def _cut(self) -> None:
        """After a failed write: back to the last packet that is whole."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self._written)
