"""The rows of `tshark`'s results."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from tasks.network.capture._tshark_fields import Kind


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """A column of the rows."""

    name: str = Field(description="The field.")
    title: str = Field(description="What Wireshark calls it.")
    kind: Kind = Field(description="What its values are: integer, number, boolean, time, bytes or text.")


class ProtocolFrames(_Frozen):
    """How much of a protocol there is, what it carries included."""

    path: str = Field(description="The protocol and those that carry it, such as eth:ip:tcp:http.")
    frames: int = Field(description="Frames with it.")
    size_bytes: int = Field(description="Bytes of those frames.")


class ConversationRow(_Frozen):
    """Packets between two endpoints; a sent the first."""

    a: str = Field(description="Address of the one that sent first.")
    a_port: int | None = Field(None, description="Its port.")
    b: str = Field(description="Address of the other.")
    b_port: int | None = Field(None, description="Its port.")
    stream: int | None = Field(None, description="Number of the stream, to follow it.")
    packets_ab: int = Field(description="Packets from a to b.")
    bytes_ab: int = Field(description="Bytes of their frames.")
    packets_ba: int = Field(description="Packets from b to a.")
    bytes_ba: int = Field(description="Bytes of their frames.")
    first_at: datetime = Field(description="Time of the first packet.")
    seconds: float = Field(description="From the first packet to the last.")


class EndpointRow(_Frozen):
    """What one endpoint sent and received."""

    address: str = Field(description="Its address.")
    port: int | None = Field(None, description="Its port, of tcp and udp.")
    packets: int = Field(description="Packets to and from it.")
    size_bytes: int = Field(description="Bytes of their frames.")
    sent_packets: int = Field(description="Packets from it.")
    sent_bytes: int = Field(description="Bytes of their frames.")
    received_packets: int = Field(description="Packets to it.")
    received_bytes: int = Field(description="Bytes of their frames.")


class ExpertRow(_Frozen):
    """Something Wireshark's experts noticed."""

    severity: str = Field(description="error, warning, note, chat or comment.")
    group: str = Field(description="What it is about: sequence, malformed, checksum, ...")
    protocol: str = Field(description="Protocol of the first frame, as the packet list shows it.")
    message: str = Field(description="What was noticed.")
    count: int = Field(description="How often.")
    frames: list[int] = Field(description="Frame numbers, at most 20.")


class Segment(_Frozen):
    """What one side said at once."""

    frame: int = Field(description="Frame number.")
    at: datetime = Field(description="Time of the frame.")
    from_client: bool = Field(description="Whether the side that spoke first in the capture said it.")
    size_bytes: int = Field(description="Bytes of it.")
    text: str = Field(description=r"It, as text; bytes that are none as \xNN, secrets as ***.")


class FollowedStream(_Frozen):
    """Both sides of a stream, in order."""

    client: str = Field(description="Address and port of the side whose packet came first.")
    server: str = Field(description="Address and port of the other side.")
    client_bytes: int = Field(description="Bytes the client said.")
    server_bytes: int = Field(description="Bytes the server said.")
    segments: list[Segment] = Field(description="What they said, in order.")
