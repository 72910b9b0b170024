"""What every analyzer takes: a capture, and the part of it that matters; and how its work is done in a child process."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import AwareDatetime, Field, model_validator

from tasks.core.models import Host
from tasks.core.offload import offload
from tasks.core.resolve import resolve_host
from tasks.network.analyze._selection import Selection
from tasks.network.capture._filter import combine
from tasks.network.capture._source import MOST_SECONDS, WHOLE_PACKETS, CaptureInput, Opened, SnapLength, opened

T = TypeVar("T")

WORKING_SECONDS: Final = 600.0
"""What an analyzer may take once it has the capture; its child gets five seconds less."""
TIMEOUT_SECONDS: Final = MOST_SECONDS + WORKING_SECONDS + 60
"""A live capture of half an hour, and the work on it."""
MEMORY_BYTES: Final = 512 << 20
"""Address space of the child that reads a capture, however large that is."""


class AnalyzerParams(CaptureInput):
    """Parameters of an analyzer. Host and port narrow a live capture as well as one of the store."""

    host: Host | None = Field(
        None, description="Only packets from or to this host: an address, or a name that resolves."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="Only TCP and UDP packets from or to this port, 1 to 65535."
    )
    start: AwareDatetime | None = Field(
        None, description="Only packets from this time on, with time zone, such as 2024-05-01T10:00:00Z."
    )
    end: AwareDatetime | None = Field(None, description="Only packets before this time, with time zone.")
    top: int = Field(20, ge=1, le=200, description="Rows of each table, 1 to 200.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError("start must be before end")
        if self.live and (self.start is not None or self.end is not None):
            raise ValueError("start and end choose packets of a stored capture; a live one has a duration")
        return self

    def bpf(self) -> str:
        """The filter to record with: `filter`, and the host and the port."""
        return combine(self.filter, host=self.host, port=self.port)

    def selection(self, addresses: tuple[str, ...] = ()) -> Selection:
        """What the child looks at; a host name's addresses are asked for by `analyze`."""
        if not addresses and self.host is not None:
            addresses = (str(ipaddress.ip_address(self.host)),)
        return Selection(
            addresses=addresses, port=self.port, start_ns=_nanoseconds(self.start), end_ns=_nanoseconds(self.end)
        )


class PayloadAnalyzerParams(AnalyzerParams):
    """Parameters of an analyzer that reads what packets carry: a live capture keeps all of each packet."""

    snap_length: SnapLength = WHOLE_PACKETS


def _nanoseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 1_000_000_000 + moment.microsecond * 1000


async def analyze(
    params: AnalyzerParams, function: Callable[[str, Selection, int], T], *, timeout: float
) -> tuple[Opened, T]:
    """Open the capture (recording it first when it is live) and read it in a child process.

    Args:
        params: The analyzer's parameters.
        function: Called as `function(path, selection, top)` in the child. Keep it in a module that does not import Prefect, and
            import that inside the tool's body: it loads numpy.
        timeout: Seconds the child gets.

    Raises:
        NotFound: There is no such capture, or the host's name does not resolve.
        InvalidParameters: The file is not a capture.
        ToolTimeout: The child needed more than `timeout`.
        CommandFailed: It needed more memory than it may use.
    """
    addresses = await _addresses(params.host)
    async with opened(params) as capture:
        found = await read_apart(function, capture.path, params.selection(addresses), params.top, timeout=timeout)
        return capture, found


async def read_apart(function: Callable[..., T], path: Path, *args: Any, timeout: float) -> T:
    """Call `function(path, *args)` in a child process with the memory that reading a capture may take."""
    return await offload(function, str(path), *args, timeout=timeout, memory_bytes=MEMORY_BYTES)


async def _addresses(host: str | None) -> tuple[str, ...]:
    if host is None:
        return ()
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return await resolve_host(host)
