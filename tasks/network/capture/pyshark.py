"""`pyshark`: packets of a capture, decoded to the last field, as data."""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasks.core.models import Example, FileRef, Safety, Service, ToolResult
from tasks.core.offload import offload
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network.capture._pyshark_packets import decode
from tasks.network.capture._source import WHOLE_PACKETS, CaptureInput, opened
from tasks.network.capture._tshark_fields import check_protocols
from tasks.network.capture._tshark_modes import capture_notes
from tasks.network.capture._tshark_program import CUT_SHORT, check_arguments, is_cut_short, read_capture

TIMEOUT_SECONDS = 2600.0
READING_SECONDS = 480.0
"""Longest tshark may search a capture for packets that match."""
DECODING_SECONDS = 120.0
MOST_PDML_BYTES = 48 << 20
"""PDML that is decoded; a packet has 10 to 100 KB of it."""
MEMORY_BYTES = 1 << 30

_Layer = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
_DecodeAs = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.]{1,40}==[0-9a-zA-Z:.-]{1,40},[a-z0-9_.-]{1,60}$")]


class Pyshark(CaptureInput):
    """Parameters of `pyshark`."""

    working_seconds: ClassVar[float] = 700.0

    snap_length: int = Field(
        WHOLE_PACKETS, ge=64, le=262_144, description="Bytes kept of each packet of a live capture, 64 to 262,144."
    )
    display_filter: str = Field(
        "",
        max_length=2000,
        description="Display filter (Wireshark's language), such as 'tls.handshake.type == 1'. Empty: every packet.",
    )
    layers: list[_Layer] = Field(
        default_factory=list,
        max_length=20,
        description="Layers of each packet that are wanted, by tshark's names, such as ip and dns; at most 20. Packets with none of them "
        "are left out. Empty: all layers of every packet.",
    )
    most: int = Field(20, ge=1, le=1000, description="Most packets decoded, 1 to 1,000: the first that match.")
    decode_as: list[_DecodeAs] = Field(
        default_factory=list,
        max_length=20,
        description="What to read ports as, such as tcp.port==8443,tls; at most 20.",
    )
    result_bytes: int = Field(
        48 << 10,
        ge=1 << 10,
        le=4 << 20,
        description="Most bytes of packets in the result, 1 KiB to 4 MiB. The ledger keeps results of up to 64 KiB.",
    )
    reveal: bool = Field(
        False, description="Show passwords, cookies and keys instead of masking them; counts as a change."
    )

    def safety(self) -> Safety:
        return Safety.CHANGE if self.reveal else super().safety()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PacketLayer(_Frozen):
    """A layer of a packet."""

    name: str = Field(description="The protocol, by tshark's name.")
    fields: dict[str, str | list[str]] = Field(
        description="Its fields by pyshark's names (dots are underscores), as Wireshark shows them; a list where there are several. "
        "Lines that are no field are under text."
    )


class DecodedPacket(_Frozen):
    """A packet."""

    number: int = Field(description="Frame number, from 1.")
    at: str = Field(description="When it was captured: ISO 8601, UTC.")
    length: int = Field(description="Bytes on the wire.")
    layers: list[PacketLayer] = Field(description="Its layers, outermost first.")


class PysharkResult(ToolResult):
    """The packets that match, decoded."""

    capture: FileRef = Field(description="The capture that was read.")
    packets: list[DecodedPacket] = Field(description="Packets, in the order of the capture.")
    more: bool = Field(description="Whether there are further packets that match.")
    notes: list[str] = Field(default_factory=list, description="What a reader must know.")

    def headline(self) -> str:
        text = f"{count(len(self.packets), 'packet')} decoded"
        return f"{text}; there are more" if self.more else text


@tool(
    service=Service.NETWORK,
    safety=Safety.READ,
    timeout=TIMEOUT_SECONDS,
    programs=("tshark", "tcpdump"),
    examples=[
        Example(
            "The first TLS greetings of a capture, to the last extension",
            {
                "capture": "tcpdump/2024-05-01/office.pcap",
                "display_filter": "tls.handshake.type == 1",
                "layers": ["ip", "tls"],
                "most": 5,
            },
        ),
        Example(
            "Listen for DHCP for a minute",
            {"interface": "eth0", "filter": "udp port 67 or udp port 68", "layers": ["dhcp"]},
        ),
    ],
)
async def pyshark(params: Pyshark) -> PysharkResult:
    """Decode the first packets of a capture that match, layer by layer, with pyshark.

    The capture is one of the store, or recorded first under the rules of `tcpdump`. Filter and layers are checked
    before anything is recorded. Passwords, cookies and keys are masked unless `reveal`.

    Raises:
        InvalidParameters: A wrong display or capture filter, layer, decode_as or interface, with the reason; or no capture.
        NotFound: The store has no such capture.
        MissingProgram: tshark is not installed; for a live capture also: no tcpdump, or no privilege.
        Refused: The policy does not allow the live capture.
        ToolTimeout: The capture takes too long to read.
        CommandFailed: tshark or the decoder failed, or needed more memory than it may use.
    """
    options = [word for entry in params.decode_as for word in ("-d", entry)]
    await check_protocols(params.layers)
    if checked := [*options, *(["-Y", params.display_filter] if params.display_filter else [])]:
        await check_arguments(checked)
    # A packet without any of the layers would be an empty row, in place of one that has them.
    either = " or ".join(params.layers)
    wanted = [f"({part})" for part in (params.display_filter.strip(), either) if part]
    options += ["-Y", " and ".join(wanted)] if wanted else []
    async with opened(params) as capture:
        heap = _Heap(params.most)
        done = await read_capture(
            capture.path,
            [*options, "-T", "pdml"],
            timeout=READING_SECONDS,
            max_output_bytes=0,
            on_stdout=heap.feed,
            enough=heap.enough,
        )
        packets = await offload(
            decode,
            heap.packets(),
            params.layers,
            params.result_bytes,
            params.reveal,
            timeout=DECODING_SECONDS,
            memory_bytes=MEMORY_BYTES,
        )
        notes = capture_notes(capture)
        if is_cut_short(done):
            notes.append(CUT_SHORT)
        left_out = min(heap.count, params.most) - len(packets)
        if left_out > 0:
            notes.append(
                f"{count(left_out, 'packet')} did not fit into {params.result_bytes:,} bytes; name the layers you want."
            )
        return PysharkResult(
            capture=capture.ref,
            packets=[DecodedPacket.model_validate(packet) for packet in packets],
            more=heap.count > params.most or heap.full or left_out > 0,
            notes=notes,
        )


class _Heap:
    """Collects PDML until there are enough packets, and one to know that there are more."""

    END = b"</packet>"

    def __init__(self, most: int) -> None:
        self._most, self._data, self._seen = most, bytearray(), 0
        self.enough = asyncio.Event()
        self.count = 0
        self.full = False

    def feed(self, data: bytes) -> None:
        if self.enough.is_set():
            return
        begin = max(self._seen, len(self._data) - len(self.END))  # what was looked through before
        self._data += data
        while (at := self._data.find(self.END, begin)) >= 0:
            self.count += 1
            self._seen = begin = at + len(self.END)
            if self.count > self._most:
                self.enough.set()
                return
        if len(self._data) > MOST_PDML_BYTES:
            self.full = True
            self.enough.set()

    def packets(self) -> bytes:
        """The packets that are whole, of those wanted."""
        end = self._seen
        if self.count > self._most:
            end = self._data.rfind(self.END, 0, self._seen - 1) + len(self.END)
        return bytes(self._data[:end])
