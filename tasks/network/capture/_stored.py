"""A capture that is there already: held while somebody reads it, and told apart from what is none by its first bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blocks._pcap import is_capture
from tasks.core.errors import InvalidParameters, NotFound, ToolError, Unsupported

if TYPE_CHECKING:
    from blocks.captures import CaptureStore

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"\x04\x22": "LZ4", b"\xfd7": "xz"}
_MODIFIED = {b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34"}
"""Of the pcap files that a patched libpcap wrote about 1999 (Wireshark's PCAP_MODIFIED_MAGIC)."""


@contextlib.contextmanager
def held(store: CaptureStore, name: str) -> Iterator[Path]:
    """Give where a capture of the store is; no prune removes it meanwhile.

    Raises:
        InvalidParameters: The name is no name, or the file is no capture.
        Unsupported: It is one of a kind that is not read; says what to do.
        NotFound: The store has no such file.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(store.reading(name))
        except ValueError as error:
            raise InvalidParameters(f"{error}.", hint="Names: signalbox capture list") from None
        except IsADirectoryError:
            raise InvalidParameters(f"{name} is a folder of the store.", hint="Names: signalbox capture list") from None
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"There is no capture {name} in the store.", hint="See: signalbox capture list") from None
        check_capture(path, name)
        yield path


def check_capture(path: Path, name: str) -> None:
    """Make sure that a file begins as captures do, which are pcap and pcapng files.

    Raises:
        InvalidParameters: It is no capture.
        Unsupported: It is one of a kind that is not read; says what to do.
    """
    if not is_capture(path):
        with path.open("rb") as file:
            raise not_a_capture(file.read(4), name)


def not_a_capture(beginning: bytes, name: str) -> ToolError:
    """The error behind a file that begins so."""
    if not beginning:
        return InvalidParameters(f"{name} is an empty file.", hint="A capture without packets has a header.")
    if method := _COMPRESSED.get(beginning[:2]):
        return Unsupported(f"{name} is compressed with {method}.", hint="Decompress it first.")
    if beginning in _MODIFIED:
        return Unsupported(f"{name} has a modified pcap format.", hint="Convert it: editcap -F pcap IN OUT")
    return InvalidParameters(
        f"{name} is not a capture: it begins with {beginning.hex(' ')}.", hint="Captures are pcap or pcapng files."
    )
