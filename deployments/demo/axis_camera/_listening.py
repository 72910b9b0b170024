"""A camera that listens on an address of this machine: its web ports, and RTSP where there is somebody to answer it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._server import http_protocol, rtsp_factories
from deployments.demo.axis_camera._tls import Identity, self_signed

BACKLOG = 128


def rtsp_protocol(device: Device) -> Callable[[], asyncio.BaseProtocol] | None:
    """What makes the protocol of one RTSP connection; None when nothing answers RTSP."""
    if not rtsp_factories:
        return None
    factory = rtsp_factories[0]

    def bound() -> asyncio.BaseProtocol:
        device.bind(asyncio.get_running_loop())
        return factory(device)

    return bound


class Listening:
    """A camera's open ports, for as long as the block lasts.

    Args:
        device: The camera.
        host: Address to listen on.
        port: For HTTP; 0 for any free one, None for none.
        https_port: For HTTPS; 0 for any free one, None for none.
        rtsp_port: For RTSP; 0 for any free one, None for none.
        identity: Certificate; one of its own without.

    Raises:
        OSError: A port is taken, or not ours to open.
    """

    def __init__(
        self,
        device: Device,
        *,
        host: str = "127.0.0.1",
        port: int | None = 0,
        https_port: int | None = 0,
        rtsp_port: int | None = 0,
        identity: Identity | None = None,
    ) -> None:
        self.device, self.host = device, host
        self._wanted = {"http": port, "https": https_port, "rtsp": rtsp_port}
        self._identity = identity
        self._servers: dict[str, asyncio.Server] = {}
        self._factories: dict[str, Callable[[], asyncio.BaseProtocol]] = {}

    @property
    def port(self) -> int:
        """The HTTP port; 0 without one."""
        return self.device.ports["http"] if self._wanted["http"] is not None else 0

    @property
    def https_port(self) -> int:
        """The HTTPS port; 0 without one."""
        return self.device.ports["https"] if self._wanted["https"] is not None else 0

    @property
    def rtsp_port(self) -> int:
        """The RTSP port; 0 without one."""
        wanted = "rtsp" in self._factories and self._wanted["rtsp"] is not None
        return self.device.ports["rtsp"] if wanted else 0

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}" if self.port else f"https://{shown}:{self.https_port}"

    async def __aenter__(self) -> Self:
        device = self.device
        device.bind(asyncio.get_running_loop())
        device.address = self.host
        self._factories["http"] = http_protocol(device)
        if self._wanted["https"] is not None:
            name = f"axis-{device.serial.lower()}"
            device.identity = self._identity or self_signed(name, old=device.has("offers-both"))
            self._factories["https"] = http_protocol(device, tls=True)
        if (rtsp := rtsp_protocol(device)) is not None:
            self._factories["rtsp"] = rtsp
        try:
            for name in self._factories:
                if (wanted := self._wanted[name]) is not None:
                    await self._open(name, wanted)
                    device.ports[name] = self._servers[name].sockets[0].getsockname()[1]  # type: ignore[index]
            if self.rtsp_port and device.params.get("Network.RTSP.Port") is not None:
                device.params.set("Network.RTSP.Port", self.rtsp_port)  # who may read it is told where the stream is
        except BaseException:
            self._shut()
            raise
        device.doors.append(self._door)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._door in self.device.doors:
            self.device.doors.remove(self._door)
        self._shut()
        self.device.stop()
        await asyncio.sleep(0)  # cut connections tell their protocols in the next turn of the loop

    async def _open(self, name: str, port: int) -> None:
        listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, port))
            listener.setblocking(False)
            tls = self.device.identity.context if name == "https" and self.device.identity is not None else None
            self._servers[name] = await asyncio.get_running_loop().create_server(
                self._factories[name], sock=listener, ssl=tls, backlog=BACKLOG
            )
        except BaseException:
            listener.close()
            raise

    def _shut(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _door(self, opened: bool) -> None:
        """Shut the ports, or open the same ones again: what a device does that restarts."""
        if not opened:
            self._shut()
            return

        async def open_again() -> None:
            for name in self._factories:
                if self._wanted[name] is not None and name not in self._servers:
                    await self._open(name, self.device.ports[name])  # type: ignore[index]

        self.device.spawn(open_again)
