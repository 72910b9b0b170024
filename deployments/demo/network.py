"""The small office `signalbox demo network` builds, and what happens there between two looks at it.

office = Office()
await office.build()
...  # allow office.cidrs, discover them
for line in await office.change():
    print(line)
...  # discover again
await office.remove()
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from deployments.demo.axis_camera import Device, http_protocol, rtsp_protocol, self_signed
from deployments.demo.lab import AXIS, DELL, HEWLETT_PACKARD, SYNOLOGY, HostSpec, Lab
from deployments.demo.servers import Served, dns, http, mute, smtp, ssh

GUEST_MAC = "da:a1:19:4c:0b:7e"
"""Locally administered: what a phone makes up for each network."""


class Office:
    """An office of two networks: desks, and cameras behind a router. The cameras' account is root, its password pass.

    Attributes:
        lab: The lab it is built in; None before `build` and after `remove`.
        cameras: Its simulated cameras by the names of their hosts.
    """

    def __init__(self) -> None:
        self.lab: Lab | None = None
        self.cameras: dict[str, Device] = {}

    async def __aenter__(self) -> Self:
        await self.build()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.remove()

    @property
    def cidrs(self) -> list[str]:
        """The office's networks, to be allowed and discovered.

        Raises:
            RuntimeError: It is not built.
        """
        return [subnet.cidr for subnet in self._built().subnets.values()]

    @property
    def never_touched(self) -> tuple[str, int]:
        """The printer and its raw printing port: a connection there is paper."""
        return self._built().hosts["printer"].address, 9100

    async def build(self) -> None:
        """Make the office. Takes about two seconds.

        Raises:
            MissingProgram: Something a lab needs is not there (root, the program ip).
            Busy: Every address range a lab could use is taken.
        """
        lab = await Lab(("office", "cameras")).__aenter__()
        self.lab = lab
        try:
            await lab.add_all(
                [
                    HostSpec(
                        "files",
                        10,
                        f"{SYNOLOGY}:3a:11:10",
                        services=(ssh(), http(title="Files"), http(5000, title="DiskStation")),
                        ipv6=True,
                    ),
                    HostSpec(
                        "mail",
                        11,
                        f"{DELL}:52:0c:11",
                        services=(ssh(), smtp(name="mail.office.example"), dns(self._names(lab))),
                    ),
                    HostSpec(
                        "printer",
                        20,
                        f"{HEWLETT_PACKARD}:07:aa:20",
                        services=(http(title="HP LaserJet", server="HP HTTP Server"), mute(9100, name="raw")),
                    ),
                    HostSpec("desk-1", 31, f"{DELL}:91:77:31", services=(ssh(),)),
                    HostSpec("desk-2", 32, f"{DELL}:91:77:32"),
                    HostSpec("guest", 143, GUEST_MAC),
                    self._camera(lab, "camera-door", "mid", 11),
                    self._camera(lab, "camera-yard", "ptz", 12),
                ]
            )
        except BaseException:
            await self.remove()
            raise

    def _camera(self, lab: Lab, name: str, profile: str, number: int) -> HostSpec:
        """A host that is a camera: its MAC address is the serial it tells."""
        mac = f"{AXIS}:9f:02:{number}"
        device = Device(profile, serial=mac.replace(":", ""), address=lab.subnet("cameras").address(number))
        device.identity = self_signed(f"axis-{device.serial.lower()}")
        self.cameras[name] = device
        services = [
            Served("http", 80, http_protocol(device)),
            Served("https", 443, http_protocol(device, tls=True), tls=device.identity.context),
        ]
        if (rtsp := rtsp_protocol(device)) is not None:
            services.append(Served("rtsp", 554, rtsp))
        return HostSpec(name, number, mac, "cameras", services=tuple(services))

    @staticmethod
    def _names(lab: Lab) -> dict[str, str]:
        names = {"files": 10, "mail": 11, "printer": 20, "desk-1": 31, "desk-2": 32}
        return {f"{name}.office.example": lab.first.address(number) for name, number in names.items()}

    async def change(self) -> list[str]:
        """Let a day pass: one host gone, one moved, one new, one with a new service, and the guest with another random MAC.

        Returns:
            What happened, a line each, in the order of the addresses.
        """
        lab = self._built()
        files, desk, yard = lab.hosts["files"], lab.hosts["desk-2"], lab.hosts["camera-yard"]
        old = desk.address
        await lab.add_service(files, http(8080, title="Backup", server="Apache/2.4.58"))
        await lab.remove("desk-1")
        await lab.move(desk, 132)
        await lab.change_mac("guest", "66:1f:8e:20:d3:05")
        new = await lab.add("laptop", 60, f"{DELL}:a0:15:60", services=[ssh()])
        await lab.unplug(yard)
        return [
            f"{files.address} (files) offers a new service: http on port 8080",
            f"{lab.first.address(31)} (desk-1) is gone",
            f"{old} (desk-2) has moved to {desk.address}; its MAC is the same",
            f"{new.address} (laptop) is new",
            f"{lab.hosts['guest'].address} (a guest) has made up another MAC",
            f"{yard.address} (camera-yard) lost its cable",
        ]

    async def touches(self) -> int:
        """How many packets the printer's raw printing port has received since `watch`."""
        return await self._built().packets_to("printer", 9100)

    async def watch(self) -> None:
        """Count what reaches the printer's raw printing port from now on (needs the program nft)."""
        await self._built().watch_port("printer", 9100)

    async def remove(self) -> None:
        """Take the office down; nothing of it stays. Does nothing when it is not built."""
        lab, self.lab = self.lab, None
        for camera in self.cameras.values():
            camera.call(camera.stop)
        self.cameras.clear()
        if lab is not None:
            await lab.__aexit__(None, None, None)

    def _built(self) -> Lab:
        if self.lab is None:
            raise RuntimeError("the office is not built")
        return self.lab
