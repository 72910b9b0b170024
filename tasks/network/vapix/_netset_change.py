"""Change a network setting with a safety net: the camera must answer at the new setting and be the same one, or the old setting comes back.

Three ends: changed (seen at the new setting), rolled back (seen at the old one again, `Rejected`), lost (seen nowhere, `Lost`). An answer
that does not come, or is an error page, is no end: the camera may have moved before it could answer, or may move yet. Only what it refuses
in its own words was not done. A cancel or a deadline is no end either: the camera is looked after for a while, and brought back if need be.
Everybody is asked who they are before they get credentials.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from blocks.axis import AxisCredentials
from tasks.core.errors import (
    Busy,
    Forbidden,
    InvalidParameters,
    Rejected,
    ToolError,
    ToolTimeout,
    Unanswered,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.log import run_logger
from tasks.network.probe._connection import Pace
from tasks.network.vapix import _netset as netset
from tasks.network.vapix._camera import Camera, open_camera
from tasks.network.vapix._netset import NetworkSettings
from tasks.network.vapix._ptz_moving import surely
from tasks.network.vapix._wire import Declined, Nonsense

PATH = "/axis-cgi/network_settings.cgi"
SET_SECONDS = 30.0
"""How long a camera may take to answer a change; some answer when all is done."""
LOOK_SECONDS = 5.0
"""Longest wait for each answer while looking where the camera is."""
PAUSE_SECONDS = 1.0
_TIMES = 4
"""How often a thing must be seen to be so: settings come up one after the other, and an address changes hands in ARP caches."""
INTERRUPTED_SECONDS = 90.0
"""How long a camera is looked after when the run is cancelled or its time is up."""
INTERRUPTED_VERIFY_SECONDS = 20.0
"""Longest wait for the camera to answer with a setting, in that time."""
_INTERNAL = range(1000, 2000)
"""Error numbers of cameras that failed at it; all others say that they did not begin."""
_REASONS: Mapping[int, str] = {
    1000: "an internal error; it undoes what it had begun",
    2000: "the camera could not read the request",
    2001: "the request is too large for it",
    3000: "the camera could not read the request",
    4000: "the camera cannot do this",
    4001: "the camera cannot do this",
    4002: "it takes an administrator's account",
    4003: "the camera misses a parameter",
    4004: "the camera does not take one of the values",
    5000: "the camera has no such network interface",
    5001: "this does not go with its other settings",
    5003: "this does not go with its other settings",
    5004: "this does not go with its other settings",
}
_KINDS: Mapping[int, type[ToolError]] = {4000: Unsupported, 4001: Unsupported, 4002: Forbidden}


class Lost(Unanswered):
    """The camera was told to change its network settings and answers nowhere since; says what it had, what it was told, where to look."""


@dataclass(frozen=True)
class Setting:
    """A setting a camera is to have, and what it had.

    Attributes:
        method: Method of network_settings.cgi that sets it.
        params: Its parameters.
        undo: The parameters that bring the old setting back.
        fits: Whether the camera has the new setting.
        undone: Whether the camera has the old one.
        new: The new setting, in words.
        old: The old one, in words.
        address: Where the camera answers with the new setting.
        old_address: Where it answers with the old one.
    """

    method: str
    params: dict[str, Any]
    undo: dict[str, Any]
    fits: Callable[[NetworkSettings], bool]
    undone: Callable[[NetworkSettings], bool]
    new: str
    old: str
    address: str
    old_address: str


async def read_settings(camera: Camera) -> NetworkSettings:
    """Read the network settings by network_settings.cgi.

    Raises:
        Nonsense: The answer is something else.
    """
    data = await camera.call(PATH, "getNetworkInfo", meanings={**_REASONS, **_KINDS})
    try:
        return netset.of_json(data)
    except ValueError as error:
        raise Nonsense(f"{camera.asked} does not answer as network-settings does: {error}.") from None


@dataclass(frozen=True)
class Way:
    """How one camera is reached, at whatever address it has.

    Attributes:
        asked: The target as asked: certificates are checked for this name at every address, which proves that it is the same device.
        serial: Its serial number: nobody else gets credentials.
    """

    site: str
    asked: str
    serial: str
    credentials: AxisCredentials
    port: int | None
    pace: Pace

    @asynccontextmanager
    async def at(self, address: str) -> AsyncIterator[Camera]:
        """Talk with the camera at an address.

        Raises:
            Untrusted: Another device answers there.
            ToolError: Nobody does, or not as a camera.
        """
        async with open_camera(
            self.site,
            self.asked,
            address,
            credentials=self.credentials,
            port=self.port,
            timeout=LOOK_SECONDS,
            pace=self.pace,
            serial=self.serial,
        ) as camera:
            await camera.device()
            yield camera


class Sight(Enum):
    """Who answers at an address."""

    SAME = "the camera"
    OTHER = "another device"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Look:
    """What was seen at an address.

    Attributes:
        settings: The camera's settings, where it is there.
        why: What the look ended with, where it is not.
    """

    sight: Sight
    settings: NetworkSettings | None = None
    why: str = ""


async def look(way: Way, address: str) -> Look:
    """See who answers at an address."""
    try:
        async with asyncio.timeout(4 * LOOK_SECONDS), way.at(address) as camera:
            return Look(Sight.SAME, await read_settings(camera))
    except Untrusted as error:
        return Look(Sight.OTHER, why=str(error))
    except (Unreachable, Busy, ToolTimeout, TimeoutError) as error:
        return Look(Sight.NOBODY, why=str(error))
    except ToolError as error:
        return Look(Sight.OTHER, why=str(error))


@dataclass
class Change:
    """One change, from writing it to the end it comes to.

    Args:
        way: How the camera is reached.
        setting: What it is to have.
        seconds: How long it may take to answer with the new setting, and with the old one after that.
    """

    way: Way
    setting: Setting
    seconds: float
    _wrong: str | None = field(default=None, init=False)
    """What went wrong, as a clause, once it is to be undone."""

    async def make(self, camera: Camera) -> NetworkSettings:
        """Change the setting; returns the settings the camera was seen with afterwards.

        Raises:
            Declined: The camera said no at once.
            Rejected: It did not come up with the new setting and has the old one again; or has neither, and answers.
            Lost: It answers nowhere.
        """
        setting = self.setting
        # In the log before it is sent: whoever has to find the camera again needs it, whatever becomes of this run.
        run_logger().warning(
            "Network of %s (serial %s) is about to change. Old: %s at %s. New: %s at %s.",
            self.way.asked, self.way.serial, setting.old, setting.old_address, setting.new, setting.address,
        )  # fmt: skip
        try:
            return await self._make(camera)
        except asyncio.CancelledError as interruption:
            # The run may end, the camera stays: nobody else will bring it back.
            await surely(self._look_after(camera, interruption))
            raise

    async def _make(self, camera: Camera) -> NetworkSettings:
        answer = await self._write(camera, self.setting.params)
        await camera.aclose()
        if isinstance(answer, Declined) and answer.code is not None:
            raise await self._undo(f"the camera says it failed ({answer.message.rstrip('.')})", by_itself=True)
        found, why = await self._settle(self.setting.address, self.setting.fits)
        if found is None:
            raise await self._undo(why if answer is None else f"{why}; what it said: {answer.message.rstrip('.')}")
        return found

    async def _look_after(self, camera: Camera, interruption: asyncio.CancelledError) -> None:
        """Bring an interrupted change to an end in a short time: leave the camera with the new setting, or bring the old one back."""
        setting = self.setting
        self.seconds = min(self.seconds, INTERRUPTED_VERIFY_SECONDS)
        end = (
            f"Nobody looks after it any more: it is at {setting.old_address} with the old setting ({setting.old}), "
            f"or at {setting.address} with the new one ({setting.new})."
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPTED_SECONDS):
                await camera.aclose()
                found, why = None, self._wrong or ""
                if self._wrong is None:
                    found, why = await self._settle(setting.address, setting.fits)
                if found is not None:
                    end = f"It is done: the camera answers at {setting.address} with the new setting ({setting.new})."
                else:
                    end = str(await self._undo(why))
        said = f"The change of {self.way.asked} (serial {self.way.serial}) was interrupted. {end}"
        run_logger().warning("%s", said)
        interruption.add_note(said)

    async def _write(self, camera: Camera, params: dict[str, Any]) -> ToolError | None:
        """Send a setting; returns what came in place of a yes, which leaves open whether it was done.

        Raises:
            ToolError: The camera refused it in its own words, or it was never sent: nothing has changed.
        """
        try:
            # By the meanings of the numbers alone: an error page of the same class must not be taken for a refusal.
            await camera.call(PATH, self.setting.method, params, meanings=_REASONS, write=True, timeout=SET_SECONDS)
        except Declined as error:
            if error.code is None or error.code in _INTERNAL:
                return error
            raise _KINDS[error.code](error.message) if error.code in _KINDS else error from None
        except (InvalidParameters, Untrusted):
            raise
        except ToolError as error:
            return error
        return None

    async def _settle(
        self, address: str, fits: Callable[[NetworkSettings], bool]
    ) -> tuple[NetworkSettings | None, str]:
        """Wait until the camera answers at an address with settings that fit; else say why it does not."""
        until = time.monotonic() + self.seconds
        others = misfits = fitting = 0
        why = f"nobody answers at {address}"
        while True:
            seen = await look(self.way, address)
            if seen.sight is Sight.SAME and seen.settings is not None:
                if fits(seen.settings):
                    fitting += 1
                    if fitting == 2:  # some answer with the new setting, and only then do what cuts them off
                        return seen.settings, ""
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                misfits += 1
                why = f"the camera answers at {address}, but not with that setting"
            elif seen.sight is Sight.OTHER:
                others += 1
                why = f"something else answers at {address} ({seen.why.rstrip('.')})"
            else:
                why = f"nobody answers at {address} within {self.seconds:g} s"
            fitting = 0
            if max(others, misfits) >= _TIMES or time.monotonic() >= until:
                return None, why
            await asyncio.sleep(PAUSE_SECONDS)

    async def _undo(self, why: str, *, by_itself: bool = False) -> Rejected | Lost:
        """Bring the old setting back wherever the camera is, and return the error that says what came of it.

        Args:
            why: What went wrong, as a clause.
            by_itself: The camera says that it has undone the change.
        """
        setting, self._wrong = self.setting, why
        places = list(dict.fromkeys((setting.address, setting.old_address)))
        told = ""
        until = time.monotonic() + self.seconds
        while not told:
            for place in places:
                seen = await look(self.way, place)
                if seen.sight is not Sight.SAME or seen.settings is None:
                    continue
                if by_itself and place == setting.old_address and setting.undone(seen.settings):
                    return self._rolled_back(why)
                # Also where it still has the old setting: what it has not done yet is not to be done later.
                told = f"; at {place} it was told to go back{await self._write_back(place)}"
                found, _ = await self._settle(setting.old_address, setting.undone)
                if found is not None:
                    return self._rolled_back(why)
            if time.monotonic() >= until:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        for place in places:
            if (await look(self.way, place)).sight is Sight.SAME:
                return Rejected(
                    f"Not changed as asked, and not rolled back: {why}{told}. The camera (serial {self.way.serial}) answers at {place}.",
                    hint=f"It had {setting.old}. Set that by hand on its web page at {place}.",
                )
        return Lost(
            f"Lost: {why}{told}, and the camera (serial {self.way.serial}) answers at {' or '.join(places)} no more."
            f" It had {setting.old}; it was told {setting.new}.",
            hint="Next: look for its MAC, which is its serial, in the switch or with signalbox discover over the networks it may be in; "
            "restart it; at last reset its network settings at the camera.",
        )

    async def _write_back(self, place: str) -> str:
        """Write the old setting at an address; returns what became of that where it was not a plain yes, as a clause."""
        try:
            async with self.way.at(place) as camera:
                answer = await self._write(camera, self.setting.undo)
        except ToolError as error:
            return f", which failed ({error.message.rstrip('.')})"
        return f" (what it said: {answer.message.rstrip('.')})" if answer is not None else ""

    def _rolled_back(self, why: str) -> Rejected:
        setting = self.setting
        return Rejected(
            f"Rolled back: {why}. The camera answers at {setting.old_address} with what it had: {setting.old}.",
            hint=f"Wanted was {setting.new}. Find out why that does not work there before trying again.",
        )


# --- the settings that can be changed ----------------------------------------------------------------------------------


def hostname_setting(before: NetworkSettings, address: str, name: str | None) -> Setting:
    """The setting of a host name; None: the one the DHCP server gives."""
    old = before.hostname
    params: dict[str, Any] = {"useDhcpHostname": name is None}
    if name is not None:
        params["staticHostname"] = name
    undo = {"useDhcpHostname": bool(old.from_dhcp), **({"staticHostname": old.static} if old.static else {})}

    def fits(now: NetworkSettings) -> bool:
        if name is None:
            return now.hostname.from_dhcp is True
        return now.hostname.from_dhcp is False and now.hostname.static == name

    def undone(now: NetworkSettings) -> bool:
        return (now.hostname.from_dhcp, now.hostname.static) == (old.from_dhcp, old.static)

    return Setting(
        "setHostnameConfiguration", params, undo, fits, undone,
        "the host name of the DHCP server" if name is None else f"host name {name}",
        "the host name of the DHCP server" if old.from_dhcp else f"host name {old.static}",
        address, address,
    )  # fmt: skip


def resolver_setting(
    before: NetworkSettings, address: str, servers: list[str] | None, search: list[str] | None, domain: str | None
) -> Setting:
    """The setting of the name servers; no servers: what the DHCP server gives. What is None of the others stays.

    Raises:
        InvalidParameters: The camera does not take so many.
    """
    old = before.resolver
    if servers is not None and old.max_servers is not None and len(servers) > old.max_servers:
        raise InvalidParameters(
            f"servers: the camera takes {old.max_servers} name servers at most, not {len(servers)}."
        )
    if search is not None and old.max_search is not None and len(search) > old.max_search:
        raise InvalidParameters(f"search: the camera takes {old.max_search} search domains at most, not {len(search)}.")
    wanted_search = old.static_search if search is None else search
    wanted_domain = (old.static_domain or "") if domain is None else domain
    wanted_servers = old.static_servers if servers is None else servers
    params = _resolver_params(servers is None, wanted_servers, wanted_search, wanted_domain)
    undo = _resolver_params(bool(old.from_dhcp), old.static_servers, old.static_search, old.static_domain or "")

    def fits(now: NetworkSettings) -> bool:
        there = now.resolver
        if there.from_dhcp is not (servers is None):
            return False
        return (there.static_servers, there.static_search, there.static_domain or "") == (
            wanted_servers, wanted_search, wanted_domain,
        )  # fmt: skip

    def undone(now: NetworkSettings) -> bool:
        there = now.resolver
        return (there.from_dhcp, there.static_servers, there.static_search, there.static_domain) == (
            old.from_dhcp, old.static_servers, old.static_search, old.static_domain,
        )  # fmt: skip

    new = "the name servers of the DHCP server" if servers is None else f"name servers {netset.listed(servers)}"
    had = (
        "the name servers of the DHCP server" if old.from_dhcp else f"name servers {netset.listed(old.static_servers)}"
    )
    return Setting("setResolverConfiguration", params, undo, fits, undone, new, had, address, address)


def _resolver_params(from_dhcp: bool, servers: list[str], search: list[str], domain: str) -> dict[str, Any]:
    return {
        "useDhcpResolverInfo": from_dhcp,
        "staticNameServers": servers,
        "staticSearchDomains": search,
        "staticDomainName": domain,
    }


def ipv4_setting(
    before: NetworkSettings,
    old_address: str,
    *,
    address: str,
    prefix_length: int | None,
    router: str | None,
    dhcp: bool,
    other_subnet: bool,
) -> Setting:
    """The setting of an IPv4 address. With DHCP `address` is where the camera is expected, and its present one stays as fallback.

    Raises:
        InvalidParameters: It makes no sense, or would cut the camera off.
    """
    interface = netset.interface_with(before, old_address)
    ipv4 = interface.ipv4 if interface is not None else None
    subnet = netset.subnet_of(interface, old_address) if interface is not None else None
    if interface is None or ipv4 is None or subnet is None:
        held = [one.address for each in before.interfaces if each.ipv4 for one in each.ipv4.addresses]
        raise InvalidParameters(
            f"The camera does not have the address it is reached at ({old_address}): it says {netset.listed(held)}. "
            "Behind address translation nobody could verify a change.",
            hint="Run this on a worker in the camera's own network, with the address it has there.",
        )
    length = prefix_length if prefix_length is not None else subnet.prefixlen
    present = ipv4.router or ipv4.static_router
    if router is None and present is not None and _inside(present, f"{address}/{length}"):
        router = present
    try:
        wanted = netset.check_subnet(address, length, router)
    except ValueError as error:
        raise InvalidParameters(f"address: {error}.") from None
    if netset.is_loopback(address) != netset.is_loopback(old_address):
        raise InvalidParameters(
            f"address: {address} is a loopback address: nobody but the camera could reach it there."
        )
    if wanted != subnet and not other_subnet:
        raise InvalidParameters(
            f"address: {address}/{length} is in another subnet ({wanted}) than the camera is in now ({subnet}).",
            hint="Say other_subnet true if its switch port is in that network too, or will be.",
        )
    if wanted != subnet and router is None and not dhcp:
        raise InvalidParameters(
            f"router: in another subnet the camera needs a router in {wanted}.", hint="Name it: router."
        )
    fallback = [_address(old_address, subnet.prefixlen)]
    params: dict[str, Any] = {"deviceName": interface.name, "enabled": True}
    if ipv4.link_local is not None:
        params["linkLocalMode"] = ipv4.link_local  # said again, so that leaving it out resets nothing
    if dhcp:
        params |= {"configurationMode": "dhcp", "staticAddressConfigurations": fallback, "useStaticDHCPFallback": True}
        params |= {"staticDefaultRouter": present} if present is not None and _inside(present, str(subnet)) else {}
    else:
        params |= {"configurationMode": "static", "staticAddressConfigurations": [_address(address, length)]}
        params |= {"staticDefaultRouter": router} if router is not None else {}
    return Setting(
        "setIPv4AddressConfiguration",
        params,
        _undo_ipv4(interface, ipv4, fallback),
        lambda now: _has_ipv4(
            now, interface.name, "dhcp" if dhcp else "static", address, None if dhcp else length, router
        ),
        lambda now: _has_ipv4(now, interface.name, ipv4.mode, old_address, subnet.prefixlen, ipv4.router),
        f"dhcp, expected at {address}" if dhcp else f"static {address}/{length}" + (f" via {router}" if router else ""),
        netset.describe_ipv4(ipv4),
        address,
        old_address,
    )


def _undo_ipv4(interface: netset.Interface, ipv4: netset.Ipv4, present: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters that bring an interface's old setting back."""
    undo: dict[str, Any] = {
        "deviceName": interface.name,
        "enabled": ipv4.enabled is not False,
        "configurationMode": ipv4.mode or "dhcp",
        "staticAddressConfigurations": [_address(one.address, one.prefix_length) for one in ipv4.static_addresses]
        or present,
    }
    if router := ipv4.static_router or ipv4.router:
        undo["staticDefaultRouter"] = router
    if ipv4.link_local is not None:
        undo["linkLocalMode"] = ipv4.link_local
    if ipv4.static_fallback is not None:
        undo["useStaticDHCPFallback"] = ipv4.static_fallback
    return undo


def _has_ipv4(
    now: NetworkSettings, name: str, mode: str | None, address: str, length: int | None, router: str | None
) -> bool:
    interface = next((one for one in now.interfaces if one.name == name), None)
    ipv4 = interface.ipv4 if interface is not None else None
    if ipv4 is None or ipv4.mode != mode:
        return False
    held = [one for one in ipv4.addresses if one.address == address]
    if not held or (length is not None and all(one.prefix_length != length for one in held)):
        return False
    return mode == "dhcp" or router is None or ipv4.router == router


def _address(address: str, length: int) -> dict[str, Any]:
    return {"address": address, "prefixLength": length, "broadcast": netset.broadcast_of(address, length)}


def _inside(address: str, network: str) -> bool:
    return netset.is_inside(address, network)
