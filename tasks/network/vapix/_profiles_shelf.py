"""Where a camera keeps its stream profiles: behind streamprofile.cgi, on older firmware in its parameters; used alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tasks.core.errors import Conflict, NotFound, ToolError, Unsupported
from tasks.network.vapix import _profiles as profiles
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._newest import newest
from tasks.network.vapix._profiles import Held
from tasks.network.vapix._wire import Nonsense

PATH = "/axis-cgi/streamprofile.cgi"
_MEANINGS: Mapping[int, str | type[ToolError]] = {
    1000: "the camera could not do it: an application error, as for a name that exists already",
    2000: Unsupported,
    2001: "the camera could not read the request",
    2002: Conflict,
    2003: "the camera misses a parameter",
    2004: "the camera takes no such name, description or stream argument",
    2005: Unsupported,
    2006: NotFound,
}


class Shelf(Protocol):
    """The stream profiles of one camera."""

    api: str
    most: int

    async def read(self) -> list[Held]:
        """Read all profiles, by name; sets `most` to what the camera can hold."""
        ...

    async def create(self, profile: Held) -> None:
        """Add a profile."""
        ...

    async def update(self, profile: Held) -> None:
        """Give the profile of this name the description and arguments of `profile`."""
        ...

    async def remove(self, name: str) -> None:
        """Remove the profile of this name."""
        ...


async def open_shelf(camera: Camera) -> tuple[Shelf, list[Held]]:
    """Find where this camera keeps its stream profiles, by the newest API it has, and read them.

    Raises:
        Unsupported: It has none: it is no camera with streams.
    """
    capabilities = await camera.capabilities()
    if not capabilities.has("stream-profiles"):
        return await _open_parameters(camera)
    return await newest(
        camera,
        lambda: _opened(JsonShelf(camera)),
        lambda: _open_parameters(camera),
        (JsonShelf.api, ParameterShelf.api),
    )


async def _opened(shelf: Shelf) -> tuple[Shelf, list[Held]]:
    return shelf, await shelf.read()


async def _open_parameters(camera: Camera) -> tuple[Shelf, list[Held]]:
    values = await camera.parameters("StreamProfile")
    if not values:
        raise Unsupported(
            "This device has no stream profiles: neither streamprofile.cgi nor StreamProfile parameters.",
            hint="Is it a camera, and may this account read its parameters? See vapix_device_info.",
        )
    return await _opened(ParameterShelf(camera))


class JsonShelf:
    """Profiles behind streamprofile.cgi (AXIS OS 10 and later)."""

    api = "streamprofile.cgi"

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.most = profiles.MAX_PROFILES

    async def read(self) -> list[Held]:
        data = await self._call("list", {"streamProfileName": []})
        self.most = profiles.most_of_json(data)
        try:
            return profiles.of_json(data)
        except ValueError as error:
            raise Nonsense(f"{self.camera.asked} does not answer as stream-profiles does: {error}.") from None

    async def create(self, profile: Held) -> None:
        await self._call("create", {"streamProfile": [_entry(profile)]}, write=True)

    async def update(self, profile: Held) -> None:
        await self._call("update", {"streamProfile": [_entry(profile)]}, write=True)

    async def remove(self, name: str) -> None:
        await self._call("remove", {"streamProfileName": [{"name": name}]}, write=True)

    async def _call(self, method: str, params: dict[str, Any], *, write: bool = False) -> dict[str, Any]:
        data: dict[str, Any] = await self.camera.call(
            PATH, method, params, version="1.0", meanings=_MEANINGS, write=write
        )
        return data


def _entry(profile: Held) -> dict[str, str]:
    return {"name": profile.name, "description": profile.description, "parameters": profile.parameters}


class ParameterShelf:
    """Profiles in the parameters StreamProfile.S# (any firmware)."""

    api = "param.cgi"

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.most = profiles.MAX_PROFILES
        self._groups: dict[str, Held] = {}

    async def read(self) -> list[Held]:
        values = await self.camera.parameters("StreamProfile")
        self.most = profiles.most_of_parameters(values)
        self._groups = profiles.of_parameters(values)
        return list(self._groups.values())

    async def create(self, profile: Held) -> None:
        await self.camera.add_parameters("streamprofile", "StreamProfile", _values("StreamProfile.S", profile))

    async def update(self, profile: Held) -> None:
        values = _values(self._group(profile.name), profile)
        await self.camera.set_parameters({key: value for key, value in values.items() if not key.endswith(".Name")})

    async def remove(self, name: str) -> None:
        await self.camera.remove_parameters(self._group(name))

    def _group(self, name: str) -> str:
        """The group of a profile as last read: numbers may move when others add and remove."""
        found = [group for group, profile in self._groups.items() if profile.name == name]
        if len(found) != 1:
            raise Conflict(
                f"The camera has {len(found)} profiles named {name}, so which one is meant is not clear.",
                hint="Settle that in the camera's own pages.",
            )
        return found[0]


def _values(group: str, profile: Held) -> dict[str, str]:
    return {
        f"{group}.Name": profile.name,
        f"{group}.Description": profile.description,
        f"{group}.Parameters": profile.parameters,
    }
