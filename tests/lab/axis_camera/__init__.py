"""Simulated Axis cameras for tests, each on a loopback address of its own, all with the same ports.

    with cameras("mid", "ptz") as [dome, ptz]:
        dome.address, dome.port, dome.https_port   # 127.100.0.1, ...
        dome.block()                               # AxisCredentials for its account root/pass
        dome.device.faults.add("/axis-cgi/param.cgi", "hang")
        dome.requests, dome.most_in_flight         # what it was asked

Accounts: root, viewer, ptz (a viewer who may move it) and operator, all with the password `pass`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from deployments.demo.axis_camera import Account, Device, Identity, Listening, Logged, self_signed

if TYPE_CHECKING:
    from blocks.axis import AxisCredentials

T = TypeVar("T")

PASSWORD = "pass"
ACCOUNTS = (
    Account("root", PASSWORD, "admin", ptz=True),
    Account("operator", PASSWORD, "operator", ptz=True),
    Account("ptz", PASSWORD, "viewer", ptz=True),
    Account("viewer", PASSWORD, "viewer"),
)
SECONDS = 30.0
_numbers = itertools.count()
_indices = itertools.count(1)


@dataclass
class Camera:
    """One camera that listens."""

    device: Device
    listening: Listening
    _loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.listening.host

    @property
    def port(self) -> int:
        return self.listening.port

    @property
    def https_port(self) -> int:
        return self.listening.https_port

    @property
    def rtsp_port(self) -> int:
        return self.listening.rtsp_port

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def https_url(self) -> str:
        return f"https://{self.address}:{self.https_port}"

    @property
    def requests(self) -> list[Logged]:
        """What it was asked, in order."""
        return self.device.requests

    @property
    def most_in_flight(self) -> int:
        """The most requests it had to answer at once."""
        return self.device.most_in_flight

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate now."""
        assert self.device.identity is not None
        return self.device.identity.fingerprint

    def asked(self, path: str, call: str | None = None) -> list[Logged]:
        """The requests for a path that were let in; with `call` those of one method of a JSON API."""
        return [one for one in self.requests if one.path == path and one.status != 401 and call in {None, one.call}]

    def block(
        self, username: str = "root", password: str = PASSWORD, *, scheme: str = "https", **fields: Any
    ) -> AxisCredentials:
        """Credentials for it: over HTTPS with its certificate pinned, unless said otherwise."""
        from blocks.axis import AxisCredentials

        if scheme == "https" and "verification" not in fields:
            fields |= {"verification": "pinned", "fingerprints": [self.fingerprint]}
        port = self.https_port if scheme == "https" else self.port
        return AxisCredentials(username=username, password=password, scheme=scheme, port=port, **fields)  # type: ignore[arg-type]

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function in the camera's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(SECONDS)

    def change_certificate(self) -> str:
        """Give it another certificate for new connections; returns its fingerprint."""
        assert self.device.identity is not None
        return self.device.identity.renew()


def _free_ports(host: str) -> tuple[int, int, int]:
    """Ports the system gives out, without those the default policy never touches: PROFINET's 34962 may be among them."""
    from blocks.policy import ProbePolicy

    policy = ProbePolicy()
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < 3:
            place = held.enter_context(socket.socket())
            place.bind((host, 0))
            if not policy.is_never_port(port := place.getsockname()[1]):
                found.append(port)
    return found[0], found[1], found[2]


@contextlib.contextmanager
def cameras(*profiles: str | Device, identity: Identity | None = None, **options: Any) -> Iterator[list[Camera]]:
    """Start cameras of these profiles (or these devices) in a thread of their own.

    Args:
        profiles: Names of profiles, or devices made by the test.
        identity: One certificate for all of them; made for the first when there are many.
        options: For each `Device`: `clock_offset`, `sd_card`, `accounts` ...
    """
    devices = [
        one if isinstance(one, Device) else Device(one, index=next(_indices), **{"accounts": ACCOUNTS, **options})
        for one in profiles
    ]
    if identity is None and len(devices) > 20:
        identity = self_signed("axis-fleet")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="cameras", daemon=True)
    thread.start()
    started: list[Camera] = []

    async def start() -> None:
        block = next(_numbers)
        ports: tuple[int, int, int] | None = None
        for number, device in enumerate(devices):
            place = 1 + number
            host = f"127.{100 + os.getpid() % 100}.{(block * 4 + place // 250) % 256}.{place % 250 + 1}"
            ports = ports or _free_ports(host)
            listening = Listening(
                device, host=host, port=ports[0], https_port=ports[1], rtsp_port=ports[2], identity=identity
            )
            await listening.__aenter__()
            started.append(Camera(device, listening, loop))

    async def stop() -> None:
        for camera in started:
            await camera.listening.__aexit__(None, None, None)
        await asyncio.sleep(0.01)

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
        yield started
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()
