"""`tshark`: packets as typed rows, statistics and followed streams, by Wireshark's dissectors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.core.models import Example, FileRef, Safety, Service, ToolResult
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._source import WHOLE_PACKETS, CaptureInput, opened
from tasks.network.capture._tshark_fields import look_up
from tasks.network.capture._tshark_modes import Reading, capture_notes
from tasks.network.capture._tshark_output import Cell
from tasks.network.capture._tshark_program import check_arguments
from tasks.network.capture._tshark_rows import (
    Column,
    ConversationRow,
    EndpointRow,
    ExpertRow,
    FollowedStream,
    ProtocolFrames,
)

TIMEOUT_SECONDS = 2600.0

DEFAULT_FIELDS = (
    "frame.number", "frame.time_epoch", "_ws.col.Source", "_ws.col.Destination", "_ws.col.Protocol", "frame.len", "_ws.col.Info",
)  # fmt: skip

_FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
_DecodeAs = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,40}==[0-9a-zA-Z:.-]{1,40},[a-z0-9_.-]{1,60}$")]


class Mode(StrEnum):
    """What is wanted of the capture."""

    PACKETS = "packets"
    HIERARCHY = "hierarchy"
    CONVERSATIONS = "conversations"
    ENDPOINTS = "endpoints"
    EXPERT = "expert"
    FOLLOW = "follow"


class Tshark(CaptureInput):
    """Parameters of `tshark`."""

    working_seconds: ClassVar[float] = 700.0

    snap_length: int = Field(
        WHOLE_PACKETS, ge=64, le=262_144, description="Bytes kept of each packet of a live capture, 64 to 262,144."
    )
    mode: Mode = Field(
        Mode.PACKETS,
        description="packets (rows of fields), hierarchy (of protocols), conversations, endpoints, expert (information) or "
        "follow (a stream).",
    )
    display_filter: str = Field(
        "",
        max_length=2000,
        description="Display filter (Wireshark's language), such as 'http.request && ip.addr == 192.168.1.7'. Empty: every packet.",
    )
    fields: list[_FieldName] = Field(
        default_factory=lambda: list(DEFAULT_FIELDS),
        min_length=1,
        max_length=40,
        description="Fields of each row, 1 to 40, by tshark's names (tshark -G fields); for packets.",
    )
    layer: Literal["eth", "ip", "ipv6", "tcp", "udp"] = Field(
        "ip", description="Between whom conversations are, or what endpoints are: eth, ip, ipv6, tcp or udp."
    )
    protocol: Literal["tcp", "udp", "http", "sip"] = Field(
        "tcp", description="What to follow: tcp, udp, http (decoded bodies) or sip."
    )
    stream: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="Number of the stream to follow (field tcp.stream or udp.stream), from 0.",
    )
    decode_as: list[_DecodeAs] = Field(
        default_factory=list,
        max_length=20,
        description="What to read ports as, such as tcp.port==8443,tls; at most 20.",
    )
    rows: int = Field(
        200, ge=1, le=10_000, description="Most rows of the result, 1 to 10,000; what is left out is counted."
    )
    result_bytes: int = Field(
        48 << 10,
        ge=1 << 10,
        le=4 << 20,
        description="Most bytes of rows or of a stream in the result, 1 KiB to 4 MiB. The ledger keeps results of up to 64 KiB.",
    )
    reveal: bool = Field(
        False, description="Show passwords, cookies and keys instead of masking them; counts as a change."
    )

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Tshark:
        if (self.mode is Mode.FOLLOW) != (self.stream is not None):
            raise ValueError(
                "follow needs stream, the number of the one to follow; the rows of conversations have it (layer tcp or udp)"
                if self.mode is Mode.FOLLOW
                else "stream is for the mode follow"
            )
        if self.mode is Mode.FOLLOW and self.display_filter:
            raise ValueError("follow takes the number of a stream and no display_filter")
        return self

    def safety(self) -> Safety:
        return Safety.CHANGE if self.reveal else super().safety()


class TsharkResult(ToolResult):
    """What was asked for; the list that belongs to the mode is filled."""

    capture: FileRef = Field(description="The capture that was read.")
    mode: Mode = Field(description="What was asked for.")
    total: int = Field(
        description="Rows there are: packets that match, protocols, conversations, endpoints, notes or segments."
    )
    left_out: int = Field(description="Of those, how many are not in the result.")
    columns: list[Column] = Field(default_factory=list, description="What the values of each row are; of packets.")
    rows: list[list[Cell]] = Field(
        default_factory=list, description="A row for each packet; a field that is there several times is a list."
    )
    hierarchy: list[ProtocolFrames] = Field(default_factory=list, description="Protocols, as they carry each other.")
    conversations: list[ConversationRow] = Field(default_factory=list, description="Conversations, most bytes first.")
    endpoints: list[EndpointRow] = Field(default_factory=list, description="Endpoints, most bytes first.")
    expert: list[ExpertRow] = Field(default_factory=list, description="Expert information, the gravest first.")
    stream: FollowedStream | None = Field(None, description="The stream that was followed.")
    notes: list[str] = Field(default_factory=list, description="What a reader must know.")

    def headline(self) -> str:
        if self.stream is not None:
            said = self.stream
            return f"{said.client} said {count(said.client_bytes, 'byte')} to {said.server}, which said {count(said.server_bytes, 'byte')}"
        what = {
            Mode.PACKETS: "packet", Mode.HIERARCHY: "protocol", Mode.CONVERSATIONS: "conversation", Mode.ENDPOINTS: "endpoint",
            Mode.EXPERT: "expert note",
        }.get(self.mode, "row")  # fmt: skip
        text = count(self.total, what)
        return f"{text}, {self.total - self.left_out:,} of them here" if self.left_out else text


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tshark", "tcpdump"),
    examples=[
        Example("What is in a capture", {"capture": "tcpdump/2024-05-01/office.pcap", "mode": "hierarchy"}),
        Example(
            "Names that were asked for",
            {
                "capture": "tcpdump/2024-05-01/office.pcap",
                "display_filter": "dns.flags.response == 0",
                "fields": ["frame.time_epoch", "ip.src", "dns.qry.name"],
            },
        ),
        Example(
            "Listen to a camera for a minute and list its conversations",
            {"interface": "eth0", "filter": "host 192.168.1.90", "mode": "conversations", "layer": "tcp"},
        ),
        Example(
            "Both sides of a conversation", {"capture": "tcpdump/2024-05-01/office.pcap", "mode": "follow", "stream": 0}
        ),
    ],
)
async def tshark(params: Tshark) -> TsharkResult:
    """Read packets, statistics or a stream out of a capture with tshark.

    The capture is one of the store, or recorded first under the rules of `tcpdump`. Filter and fields are checked
    before anything is recorded. Passwords, cookies and keys are masked unless `reveal`.

    Raises:
        InvalidParameters: A wrong display or capture filter, field, decode_as or interface, with the reason; or no capture.
        NotFound: The store has no such capture, or the capture has no such stream.
        MissingProgram: tshark is not installed; for a live capture also: no tcpdump, or no privilege.
        Refused: The policy does not allow the live capture.
        ToolTimeout: The capture takes too long to read.
        CommandFailed: tshark failed, or needed more memory than it may use.
    """
    checked = ["-Y", params.display_filter] if params.display_filter else []
    for entry in params.decode_as:
        checked += ["-d", entry]
    columns = await look_up(params.fields) if params.mode is Mode.PACKETS else []
    if checked:
        await check_arguments(checked)
    async with opened(params) as capture:
        reading = Reading(
            path=capture.path,
            display_filter=params.display_filter,
            decode_as=params.decode_as,
            rows=params.rows,
            result_bytes=params.result_bytes,
            reveal=params.reveal,
        )
        match params.mode:
            case Mode.PACKETS:
                found = await reading.packets(columns)
            case Mode.HIERARCHY:
                found = await reading.hierarchy()
            case Mode.CONVERSATIONS:
                found = await reading.conversations(params.layer)
            case Mode.ENDPOINTS:
                found = await reading.endpoints(params.layer)
            case Mode.EXPERT:
                found = await reading.expert()
            case Mode.FOLLOW:
                found = await reading.follow(params.protocol, params.stream or 0)
        return TsharkResult(
            capture=capture.ref,
            mode=params.mode,
            total=found.total,
            left_out=found.total - found.kept,
            notes=[*capture_notes(capture), *reading.notes],
            **found.parts,
        )
