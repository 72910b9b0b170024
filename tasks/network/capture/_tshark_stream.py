"""A followed stream made ready to be shown: read, masked and cut. CPU-bound, so without Prefect: a child process does it for long ones."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.network.capture._mask import mask_pieces, printable
from tasks.network.capture._tshark_output import Piece, Stream

AHEAD_BYTES = 64 << 10
"""What is masked behind the last byte that is shown: a secret is recognised by what follows it as well."""
OTHER_FIELDS_BYTES = 120
"""What the other fields of a segment take as JSON."""


@dataclass(frozen=True)
class Told:
    """A piece as it is shown."""

    frame: int
    from_first: bool
    time: float
    size_bytes: int
    text: str


@dataclass(frozen=True)
class Shown:
    """Both sides of a stream: who spoke, how much, and the first pieces."""

    hosts: tuple[str, str]
    ports: tuple[int, int]
    pieces: int
    first_bytes: int
    second_bytes: int
    told: list[Told]


def show(output: bytes, cut: bool, reveal: bool, most: int, room: int) -> Shown:
    """Read what `-z follow,...,yaml` printed.

    Args:
        output: What tshark printed.
        cut: Whether that is not all of it.
        reveal: Whether secrets stay.
        most: Most pieces told.
        room: Most bytes of them, as JSON.
    """
    stream = Stream.read(output.decode(errors="replace"), cut=cut)
    return Shown(
        hosts=(stream.hosts[0], stream.hosts[1]),
        ports=(stream.ports[0], stream.ports[1]),
        pieces=len(stream.pieces),
        first_bytes=sum(len(piece.data) for piece in stream.pieces if piece.from_first),
        second_bytes=sum(len(piece.data) for piece in stream.pieces if not piece.from_first),
        told=_told(stream, reveal, most, room),
    )


def _told(stream: Stream, reveal: bool, most: int, room: int) -> list[Told]:
    pieces = stream.pieces[:most]
    # Masking takes its time, and only a beginning is shown. How long one that is to be masked can be is known when it is: a long secret
    # leaves room for more.
    reach = 2 * room
    while True:
        wanted = _beginning(pieces, reach)
        told = _fitting(pieces[:wanted], _masked(stream, wanted, reveal), room)
        if len(told) < wanted or wanted == len(pieces):
            return told
        reach *= 4


def _beginning(pieces: list[Piece], reach: int) -> int:
    """How many pieces the first bytes are; at least one, where there is any."""
    size = 0
    for number, piece in enumerate(pieces):
        if size > reach:
            return number
        size += len(piece.data)
    return len(pieces)


def _masked(stream: Stream, wanted: int, reveal: bool) -> list[bytes]:
    """What the first pieces may show: one side's secrets may be spread over several, and go on behind them."""
    first = stream.pieces[:wanted]
    if reveal:
        return [piece.data for piece in first]
    sides = {}
    for up in (True, False):
        data = [piece.data for piece in first if piece.from_first == up]
        ahead = 0
        for piece in stream.pieces[wanted:]:
            if ahead >= AHEAD_BYTES:
                break
            if piece.from_first == up:
                data.append(piece.data[: AHEAD_BYTES - ahead])
                ahead += len(piece.data)
        sides[up] = iter(mask_pieces(data, stream.ports if up else stream.ports[::-1]))
    return [next(sides[piece.from_first]) for piece in first]


def _fitting(pieces: list[Piece], shown: list[bytes], room: int) -> list[Told]:
    told = []
    for piece, data in zip(pieces, shown, strict=True):
        text = printable(data)
        room -= len(text.encode("utf-8", "replace")) + OTHER_FIELDS_BYTES
        if room < 0:
            break
        told.append(Told(piece.frame, piece.from_first, piece.time, len(piece.data), text))
    return told
