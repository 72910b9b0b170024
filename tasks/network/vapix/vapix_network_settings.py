"""`vapix_network_settings`: the network settings of cameras, and changes of them that come back when they do not work."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from blocks.axis import AxisCredentials
from tasks.core import gate
from tasks.core.errors import Forbidden, Rejected, ToolError, Unsupported
from tasks.core.models import Example, Safety, Scope, Service
from tasks.core.rate import Pacer
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.network.probe._connection import Paces
from tasks.network.vapix import _netset as netset
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import (
    CameraEntry,
    CameraOutcome,
    CamerasResult,
    each_camera,
    entry,
    fitting,
    only_one,
)
from tasks.network.vapix._netset import NetworkSettings
from tasks.network.vapix._netset_change import (
    INTERRUPTED_SECONDS,
    SET_SECONDS,
    Change,
    Setting,
    Way,
    hostname_setting,
    ipv4_setting,
    read_settings,
    resolver_setting,
)
from tasks.network.vapix._netset_vacant import USUAL_PORTS, check_vacant
from tasks.network.vapix._newest import newest
from tasks.network.vapix._params import REPORTING_SECONDS, CameraParams, fleet_timeout
from tasks.network.vapix._wire import Capabilities, Nonsense

READ_SECONDS = 90.0
CHECK_SECONDS = 120.0
"""What reading, checking the new address and writing may take."""
MOST_VERIFY_SECONDS = 240
_LEGACY_GROUPS = ("Network",)


class NetworkAction(StrEnum):
    """What to do with network settings."""

    READ = "read"
    SET_HOSTNAME = "set_hostname"
    SET_DNS = "set_dns"
    SET_IPV4 = "set_ipv4"


class NetworkState(StrEnum):
    """What became of a change. Where it did not hold there is an error that says so: rolled back, or lost."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"


def _server(text: str) -> str:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise ValueError("must be addresses such as 192.168.1.1") from None
    if address.is_multicast or address.is_unspecified:
        raise ValueError(f"{address} is no name server")
    return str(address)


_ALLOWED: dict[NetworkAction, set[str]] = {
    NetworkAction.READ: set(),
    NetworkAction.SET_HOSTNAME: {"hostname", "from_dhcp"},
    NetworkAction.SET_DNS: {"servers", "search", "domain", "from_dhcp"},
    NetworkAction.SET_IPV4: {"address", "prefix_length", "router", "from_dhcp", "other_subnet"},
}


class VapixNetworkSettings(CameraParams):
    """Parameters of `vapix_network_settings`."""

    action: NetworkAction = Field(NetworkAction.READ, description="read, set_hostname, set_dns or set_ipv4.")
    from_dhcp: bool = Field(False, description="set_*: take it from the DHCP server, in place of a fixed one.")
    hostname: Annotated[str, AfterValidator(netset.check_hostname)] | None = Field(
        None, description="set_hostname: the name, 1 to 63 letters, digits and -."
    )
    servers: list[Annotated[str, AfterValidator(_server)]] | None = Field(
        None, min_length=1, max_length=8, description="set_dns: the name servers' addresses, most important first."
    )
    search: list[Annotated[str, AfterValidator(netset.check_domain)]] | None = Field(
        None, max_length=16, description="set_dns: the search domains. Default: as they are."
    )
    domain: Annotated[str, AfterValidator(netset.check_domain)] | None = Field(
        None, description="set_dns: the camera's own domain. Default: as it is."
    )
    address: Annotated[str, AfterValidator(netset.check_host_address)] | None = Field(
        None,
        description="set_ipv4: the new address; with from_dhcp the one the DHCP server has reserved for the camera, to look there.",
    )
    prefix_length: int | None = Field(
        None, ge=8, le=30, description="set_ipv4: length of the prefix, 8 to 30 bits. Default: as it is."
    )
    router: Annotated[str, AfterValidator(netset.check_host_address)] | None = Field(
        None, description="set_ipv4: the default router. Default: as it is, where the new subnet has it."
    )
    other_subnet: bool = Field(
        False, description="set_ipv4: the new address may be in another subnet than the present one."
    )
    verify_seconds: int = Field(
        60,
        ge=5,
        le=MOST_VERIFY_SECONDS,
        description=f"set_*: seconds within which the camera must answer with the new setting, 5 to {MOST_VERIFY_SECONDS}; "
        "else the old one is brought back.",
    )

    @model_validator(mode="after")
    def _fits_the_action(self) -> VapixNetworkSettings:
        fields = {name for names in _ALLOWED.values() for name in names}
        given = {name for name in fields if getattr(self, name) not in (None, False)}
        if extra := sorted(given - _ALLOWED[self.action]):
            fitting = ", ".join(sorted(_ALLOWED[self.action])) or "no more parameters"
            raise ValueError(f"{self.action} takes no {' or '.join(extra)}; it takes {fitting}")
        if self.action is NetworkAction.READ:
            return self
        only_one(self, self.action)
        if self.action is NetworkAction.SET_HOSTNAME and (self.hostname is None) != self.from_dhcp:
            raise ValueError("set_hostname needs hostname, or from_dhcp true, and not both")
        if self.action is NetworkAction.SET_DNS and (self.servers is None) != self.from_dhcp:
            raise ValueError("set_dns needs servers, or from_dhcp true, and not both")
        if self.action is NetworkAction.SET_IPV4:
            if self.address is None:
                raise ValueError("set_ipv4 needs address; with from_dhcp the one that is reserved for the camera")
            if self.from_dhcp and (self.prefix_length is not None or self.router is not None):
                raise ValueError("with from_dhcp the DHCP server says prefix_length and router; leave them out")
        return self

    def safety(self) -> Safety | None:
        return None if self.action is NetworkAction.READ else Safety.DESTROY

    def approval(self) -> bool:
        return self.action is not NetworkAction.READ

    def deadline(self) -> float:
        if self.action is NetworkAction.READ:
            return fleet_timeout(READ_SECONDS, len(self.targets))
        return self.change_seconds() + INTERRUPTED_SECONDS + 2 * REPORTING_SECONDS

    def change_seconds(self) -> float:
        """Seconds a change may take: checking, writing, and looking for the camera, if need be again and again."""
        return CHECK_SECONDS + 2 * SET_SECONDS + 5 * (self.verify_seconds + 30)

    def about(self) -> str:
        return f"{super().about()[:300]}: {self.action} {self.thing() or ''}".strip()[:500]

    def thing(self) -> str | None:
        """What is set, in a word or two: approval is given for exactly that."""
        if self.action is NetworkAction.SET_HOSTNAME:
            return "hostname dhcp" if self.from_dhcp else f"hostname {self.hostname}"
        if self.action is NetworkAction.SET_DNS:
            servers = "dhcp" if self.from_dhcp else ",".join(self.servers or [])
            search = f" search {','.join(self.search)}" if self.search else ""
            return f"dns {servers}{search}{f' domain {self.domain}' if self.domain else ''}"
        if self.action is NetworkAction.SET_IPV4:
            length = f"/{self.prefix_length}" if self.prefix_length is not None else ""
            router = f" router {self.router}" if self.router is not None else ""
            return f"ipv4 {'dhcp ' if self.from_dhcp else ''}{self.address}{length}{router}"
        return None


class CameraNetwork(CameraEntry):
    """The network settings of one camera."""

    api: str | None = Field(
        None, description="The API used: network_settings.cgi, with /config for switch ports, or param.cgi."
    )
    settings: NetworkSettings | None = Field(None, description="Its settings; after a change those it was seen with.")
    state: NetworkState | None = Field(None, description="set_*: changed or unchanged.")
    before: NetworkSettings | None = Field(None, description="set_*: its settings before.")
    changed_to: str | None = Field(None, description="set_*: the new setting in words.")
    changed_from: str | None = Field(None, description="set_*: the old setting in words.")


class NetworkSettingsResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraNetwork] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraNetwork) -> str:
        if camera.outcome is not CameraOutcome.DONE or camera.settings is None:
            return super().one_line(camera)
        if camera.state is NetworkState.CHANGED:
            return f"{camera.target}: changed from {camera.changed_from} to {camera.changed_to}, and seen with it"
        if camera.state is NetworkState.UNCHANGED:
            return f"{camera.target}: has {camera.changed_to} already; nothing was written"
        shown = [
            f"{one.name} {netset.describe_ipv4(one.ipv4)}"
            for one in camera.settings.interfaces[:3]
            if one.ipv4 is not None
        ]
        return f"{camera.target}: {camera.settings.hostname.name or 'no host name'}; {'; '.join(shown) or 'no IPv4'}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=1800.0,
    aliases=("axis_vapix_network_settings",),
    examples=[
        Example("Addresses, names and name servers", {"targets": ["10.0.0.5"], "credentials": "axis/yard"}),
        Example(
            "A name",
            {
                "targets": ["10.0.0.5"],
                "credentials": "axis/yard",
                "action": "set_hostname",
                "hostname": "yard-north",
                "confirm": "10.0.0.5 hostname yard-north",
            },
        ),
        Example(
            "A fixed address in the same subnet",
            {
                "targets": ["10.0.0.5"],
                "credentials": "axis/yard",
                "action": "set_ipv4",
                "address": "10.0.0.25",
                "prefix_length": 24,
                "confirm": "10.0.0.5 ipv4 10.0.0.25/24",
            },
        ),
    ],
)
async def vapix_network_settings(params: VapixNetworkSettings) -> NetworkSettingsResult:
    """Read network settings of cameras, and change them with a way back.

    A change must be approved, and is refused where policy does not allow the new address, where somebody has that address, and where it
    makes no sense in its subnet. Afterwards the camera must answer at the new setting and be the same one (by its serial number) within
    `verify_seconds`; else the old setting is brought back, wherever the camera answers. What does not end with the new setting is an
    error, which says "Rolled back" (the camera is where and as it was) or "Lost" (it answers nowhere), and what to do next. A change that
    is cancelled, or whose time is up, is looked after for up to 90 s more: it is left where it came out, else rolled back.

    Raises:
        InvalidParameters: There is no such block; the new address makes no sense.
        Refused: Policy does not allow the new address; or it cannot be reached from here.
        Conflict: Somebody has the new address; or the camera is not the one that was meant.
        Unsupported: The camera's network settings can only be read.
        Forbidden: The account is no administrator.
        Rejected: The camera did not take it, or it was rolled back.
        Unanswered: The camera is lost.
    """
    if params.action is NetworkAction.READ:
        seen = await each_camera(params, _read, seconds=READ_SECONDS)
        result = NetworkSettingsResult(
            cameras=[
                entry(CameraNetwork, one, api=one.value.api, settings=one.value.settings)
                if one.value is not None
                else entry(CameraNetwork, one)
                for one in seen
            ]
        )
        return await fitting(result, ["settings"])
    credentials = await _admit(params)

    async def work(camera: Camera) -> _Changed:
        return await _change(camera, params, credentials)

    [only] = await each_camera(params, work, seconds=params.change_seconds(), credentials=credentials)
    assert only.value is not None
    done = only.value
    changed = entry(
        CameraNetwork,
        only,
        api="network_settings.cgi",
        settings=done.after,
        before=done.before,
        state=done.state,
        changed_to=done.setting.new,
        changed_from=done.setting.old,
    )
    return await fitting(NetworkSettingsResult(cameras=[changed]), ["before", "settings"])


# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    api: str
    settings: NetworkSettings


async def _read(camera: Camera) -> _Seen:
    capabilities = await camera.capabilities()
    if not capabilities.has("network-settings"):
        return await _read_parameters(camera)
    return await newest(
        camera,
        lambda: _read_newest(camera, capabilities),
        lambda: _read_parameters(camera),
        ("network_settings.cgi", "param.cgi"),
    )


async def _read_parameters(camera: Camera) -> _Seen:
    values = await camera.parameters(*_LEGACY_GROUPS)
    try:
        return _Seen("param.cgi", netset.of_parameters(values))
    except ValueError as error:
        raise Unsupported(
            f"{camera.asked} has no network_settings.cgi, and {error}.",
            hint="It takes an account of a higher level.",
        ) from None


async def _read_newest(camera: Camera, capabilities: Capabilities) -> _Seen:
    settings = await read_settings(camera)
    if not capabilities.has("device-config"):
        return _Seen("network_settings.cgi", settings)
    try:
        path = netset.rest_path_of(await camera.rest("GET", "/config/discover"))
        ports = netset.switch_ports_of_rest(await camera.rest("GET", path)) if path is not None else []
    except (Rejected, Unsupported, Forbidden, Nonsense, ValueError) as error:
        said = error.message if isinstance(error, ToolError) else str(error)
        camera.notes.append(f"Its switch ports were not read by /config: {said.rstrip('.')}.")
        return _Seen("network_settings.cgi", settings)
    if not ports:
        return _Seen("network_settings.cgi", settings)
    return _Seen("network_settings.cgi, /config", settings.model_copy(update={"switch_ports": ports}))


# --- changing ----------------------------------------------------------------------------------------------------------


@dataclass
class _Changed:
    state: NetworkState
    setting: Setting
    before: NetworkSettings
    after: NetworkSettings


async def _admit(params: VapixNetworkSettings) -> AxisCredentials:
    """Ask the gate about the new address, before anything is sent.

    Raises:
        Refused: Policy does not allow it.
    """
    run = current_run()
    credentials: AxisCredentials = await run.load_block(params.credentials, AxisCredentials)
    if params.address is not None:
        port = credentials.port_of(params.port)
        await gate.admit(Scope(targets=(params.address,), ports=(port,)), run.policy)
    return credentials


async def _change(camera: Camera, params: VapixNetworkSettings, credentials: AxisCredentials) -> _Changed:
    run = current_run()
    serial = await _check_camera(camera, params)
    before = await read_settings(camera)
    setting = _setting(params, before, camera.address)
    if setting.fits(before):
        return _Changed(NetworkState.UNCHANGED, setting, before, before)
    # One after the other with the conversation that ends before these begin: the run's share is not exceeded.
    pace = Paces(Pacer(run.packets_per_second), run.policy.host_packets_per_second).of(setting.address)
    if setting.address != camera.address:
        ports = [credentials.port_of(params.port), *USUAL_PORTS]
        await check_vacant(setting.address, [port for port in ports if not run.policy.is_never_port(port)], pace.pay)
    way = Way(run.site, camera.asked, serial, credentials, params.port, pace)
    after = await Change(way, setting, params.verify_seconds).make(camera)
    return _Changed(NetworkState.CHANGED, setting, before, after)


async def _check_camera(camera: Camera, params: VapixNetworkSettings) -> str:
    """Check that this camera can be changed, by us, and is the one that is meant; returns its serial number."""
    device = await camera.device()
    if not device.serial:
        raise Unsupported(
            f"{camera.asked} does not say its serial number, so nobody could tell it from another device afterwards.",
            hint="Change it on its own web page.",
        )
    level = await camera.level()
    if not level.at_least("admin"):
        raise Forbidden(
            f"The account is {level.name} on {camera.asked}; network settings take an administrator. Nothing was changed.",
            hint="Name a block with an administrator's account.",
        )
    if not (await camera.capabilities()).has("network-settings"):
        raise Unsupported(
            f"{camera.asked} has no network_settings.cgi (AXIS OS before 8.50): its network settings can only be read here.",
            hint="Change them on its own web page.",
        )
    return device.serial


def _setting(params: VapixNetworkSettings, before: NetworkSettings, address: str) -> Setting:
    if params.action is NetworkAction.SET_HOSTNAME:
        return hostname_setting(before, address, params.hostname)
    if params.action is NetworkAction.SET_DNS:
        return resolver_setting(before, address, params.servers, params.search, params.domain)
    assert params.address is not None
    return ipv4_setting(
        before,
        address,
        address=params.address,
        prefix_length=params.prefix_length,
        router=params.router,
        dhcp=params.from_dhcp,
        other_subnet=params.other_subnet,
    )
