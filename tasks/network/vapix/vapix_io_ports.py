"""`vapix_io_ports`: a camera's inputs and outputs, read and worked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tasks.core.errors import Rejected, Unsupported
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import (
    CameraEntry,
    CameraOutcome,
    CamerasResult,
    Seen,
    each_camera,
    entry,
    fitting,
    only_one,
)
from tasks.network.vapix._imaging_change import Change, Written, judged, summary, verdict
from tasks.network.vapix._io_port_apis import Port, PortCgi, PortManagement, Ports, Word, pick
from tasks.network.vapix._io_virtual import NOT_READ_BACK, VirtualInput, switch_virtual
from tasks.network.vapix._newest import newest
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._wire import Nonsense, said

CAMERA_SECONDS = 90.0
TIMEOUT_SECONDS = fleet_timeout(CAMERA_SECONDS)
LONGEST_PULSE_SECONDS = 60.0
WATCHED_PULSE_SECONDS = 5.0
"""A pulse that is no longer is watched to its end."""
SETTLING_SECONDS = 0.2

_READING = ("list", "read")


class VapixIoPorts(CameraParams):
    """Parameters of `vapix_io_ports`."""

    action: Literal["list", "read", "set", "pulse", "configure", "virtual"] = Field(
        "list",
        description="list: all ports. read: those in only. set: make an output what state says, and leave it so. pulse: make an output "
        "active for some seconds. configure: what a port is. virtual: switch a virtual input. All but list and read need approval.",
    )
    only: Annotated[list[Annotated[int, Field(ge=0, le=127)]], Field(max_length=128)] = Field(
        default_factory=list, description="Action read: the ports, numbers from 0, at most 128."
    )
    io_port: int | None = Field(
        None,
        ge=0,
        le=127,
        description="Actions set, pulse, configure: the port, from 0 (one less than the number printed on it).",
    )
    state: Word | None = Field(
        None,
        description="Action set: active or inactive, or the circuit: open or closed. Action virtual: active or inactive.",
    )
    seconds: float | None = Field(
        None,
        ge=0.05,
        le=LONGEST_PULSE_SECONDS,
        description="Action pulse: how long the output is active, 0.05 to 60 seconds. Action virtual: inactive again after so many "
        "whole seconds.",
    )
    direction: Literal["input", "output"] | None = Field(
        None, description="Action configure: what the port is, where the camera lets one choose."
    )
    normal_state: Literal["open", "closed"] | None = Field(
        None, description="Action configure: the circuit at rest. Changing an output's may switch what hangs on it."
    )
    name: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Action configure: the port's name, at most 64 characters."
    )
    virtual_input: int | None = Field(None, ge=1, le=64, description="Action virtual: the virtual input, from 1.")

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        rules = {
            "list": ((), ()),
            "read": (("only",), ()),
            "set": (("io_port", "state"), ()),
            "pulse": (("io_port", "seconds"), ()),
            "configure": (("io_port",), ("direction", "normal_state", "name")),
            "virtual": (("virtual_input", "state"), ("seconds",)),
        }
        needed, allowed = rules[self.action]
        names = ("only", "io_port", "state", "seconds", "direction", "normal_state", "name", "virtual_input")
        given = [name for name in names if getattr(self, name) not in (None, [])]
        for name in needed:
            if name not in given:
                raise ValueError(f"action {self.action} needs {name}")
        for name in given:
            if name not in (*needed, *allowed):
                raise ValueError(f"{name} is not for action {self.action}")
        if self.action == "configure" and not {"direction", "normal_state", "name"} & set(given):
            raise ValueError("action configure changes something: give direction, normal_state or name")
        if self.action == "virtual":
            if self.state not in ("active", "inactive"):
                raise ValueError("a virtual input has no circuit: state is active or inactive")
            if self.seconds is not None and (self.state != "active" or self.seconds != int(self.seconds)):
                raise ValueError("seconds of a virtual input are whole ones, with state active")
        if self.name is not None and said(self.name) != self.name:
            raise ValueError("name is one line of printable characters, without blanks at its ends or two together")
        if self.approval():
            only_one(self, f"action {self.action}")
        return self

    def safety(self) -> Safety | None:
        return None if self.action in _READING else Safety.CHANGE

    def approval(self) -> bool:
        return self.action not in _READING


class IoPorts(CameraEntry):
    """The ports of one camera, or what was done with one of them."""

    api: str | None = Field(
        None, description="What the camera was asked by: portmanagement.cgi, port.cgi or virtualinput."
    )
    ports: list[Port] = Field(default_factory=list, description="The ports asked for, as they are now.")
    pulsed_seconds: float | None = Field(None, description="Action pulse: how long the output was to be active.")
    virtual: VirtualInput | None = Field(None, description="Action virtual: what became of the virtual input.")
    changes: list[Change] = Field(default_factory=list, description="What was changed: before and after.")
    notes: list[str] = Field(default_factory=list, description="What one should know besides.")


class VapixIoPortsResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[IoPorts] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: Any) -> str:
        if camera.virtual is not None:
            state = "active" if camera.virtual.active else "inactive"
            return f"{camera.target}: virtual input {camera.virtual.virtual_input} was made {state}, which nobody can read back"
        if camera.pulsed_seconds is not None and camera.outcome is CameraOutcome.DONE:
            return f"{camera.target}: port {camera.ports[0].port} pulsed for {camera.pulsed_seconds:g} s"
        if camera.changes:
            port = f"port {camera.ports[0].port}: " if camera.ports else ""
            return f"{camera.target}: {port}{summary(camera.changes)}{'; ' + camera.detail if camera.detail else ''}"
        if camera.ports:
            told = [f"{port.port} {port.direction or 'port'} {_word(port) or 'unknown'}" for port in camera.ports[:16]]
            return f"{camera.target}: {', '.join(told)}"
        return super().one_line(camera)


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    aliases=("axis_vapix_io_ports",),
    examples=[
        Example("Which inputs are active?", {"targets": ["10.0.0.50"], "credentials": "axis/yard"}),
        Example(
            "Open a gate: two seconds on port 1",
            {
                "targets": ["10.0.0.50"],
                "credentials": "axis/yard",
                "action": "pulse",
                "io_port": 1,
                "seconds": 2,
                "confirm": "10.0.0.50",
            },
        ),
        Example(
            "Name an input",
            {
                "targets": ["10.0.0.50"],
                "credentials": "axis/yard",
                "action": "configure",
                "io_port": 0,
                "name": "Door contact",
                "confirm": "10.0.0.50",
            },
        ),
    ],
)
async def vapix_io_ports(params: VapixIoPorts) -> VapixIoPortsResult:
    """Read a camera's inputs and outputs, or work an output.

    Ports are numbered from 0 whichever API the camera has; `number` is what is printed beside the terminal. A port is active when its
    circuit is not in its normal state. Outputs move doors, gates and sirens: each change names one camera and needs approval, and is
    read back. The camera keeps the time of a pulse, so that an output falls back even when the network fails.

    Raises:
        NotFound: The camera has no such port (of several cameras: its outcome says so; this holds for all errors here).
        Rejected: The port is an input, is read-only, or cannot be made what was asked.
        Unsupported: The camera has no ports, or no virtual inputs.
        Busy: A sequence is running on the port.
    """

    async def one(camera: Camera) -> _Outcome:
        return await _ACTIONS[params.action](camera, params)

    seen = await each_camera(params, one, seconds=CAMERA_SECONDS)
    return await fitting(VapixIoPortsResult(cameras=[_entry(one) for one in seen]), ("notes", "ports", "changes"))


@dataclass(frozen=True)
class _Outcome:
    api: str
    ports: list[Port] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    virtual: VirtualInput | None = None
    pulsed: float | None = None
    refused: str | None = None
    notes: list[str] = field(default_factory=list)


async def _ports(camera: Camera) -> tuple[Ports, list[Port]]:
    """The newest API the camera has, which is then used for everything, and its ports."""
    older = PortCgi(camera)
    capabilities = await camera.capabilities()
    if not capabilities.has("io-port-management"):
        return older, await older.every()

    async def by(api: Ports) -> tuple[Ports, list[Port]]:
        return api, await api.every()

    async def by_older() -> tuple[Ports, list[Port]]:
        found = await older.every()
        if not found:
            raise Unsupported(f"{camera.asked} has no ports by {older.api} either.")
        return older, found

    return await newest(camera, lambda: by(PortManagement(camera)), by_older, (PortManagement.api, older.api))


async def _read(camera: Camera, params: VapixIoPorts) -> _Outcome:
    api, every = await _ports(camera)
    if params.action == "list":
        return _Outcome(api.api, every, notes=[] if every else ["The camera has no ports, or shows this account none."])
    return _Outcome(api.api, [pick(every, number) for number in params.only])


def _chosen(every: Sequence[Port], params: VapixIoPorts) -> Port:
    assert params.io_port is not None
    port = pick(every, params.io_port)
    if port.readonly:
        raise Rejected(f"Port {port.port} is read-only: the camera lets nobody change it.", hint="Nothing was changed.")
    return port


def _output(port: Port) -> Port:
    if port.direction != "output":
        raise Rejected(
            f"Port {port.port} is {'an input' if port.direction == 'input' else 'no output'}: only outputs are switched.",
            hint="Nothing was changed.",
        )
    return port


async def _set(camera: Camera, params: VapixIoPorts) -> _Outcome:
    assert params.state is not None
    api, every = await _ports(camera)
    before = _output(_chosen(every, params))
    unclear: Nonsense | None = None
    try:
        await api.switch(before, params.state)
    except Nonsense as error:
        unclear = error
    after = pick(await api.every(), before.port)
    written = judged(_moved(before, after, params.state))
    notes = list(written.notes)
    if unclear is not None:
        if written.refused is not None:
            raise unclear
        notes.append(f"{unclear.message} The port was read all the same.")
    return _Outcome(api.api, [after], written.changes, refused=written.refused, notes=notes)


def _moved(before: Port, after: Port, word: Word) -> list[Change]:
    """The state before and after, in the kind of words that was asked in."""
    if word in ("open", "closed"):
        return [Change(setting="state", before=before.state, asked=word, after=after.state)]
    return [Change(setting="state", before=_word(before), asked=word, after=_word(after))]


def _word(port: Port) -> str | None:
    return None if port.active is None else "active" if port.active else "inactive"


async def _pulse(camera: Camera, params: VapixIoPorts) -> _Outcome:
    assert params.seconds is not None
    api, every = await _ports(camera)
    before = _output(_chosen(every, params))
    clock = asyncio.get_running_loop().time
    began = clock()
    await api.pulse(before, round(params.seconds * 1000))
    during = after = pick(await api.every(), before.port)
    took = clock() - began
    notes, refused = [], None
    if during.active:
        notes.append("The output was seen active.")
    elif during.active is False and took < params.seconds:
        # A look that came later than the pulse was long says nothing.
        refused = f"The camera took the pulse, and port {before.port} did not become active."
    if before.active:
        notes.append("The output was active before, too: the pulse ends that.")
    if params.seconds <= WATCHED_PULSE_SECONDS:
        await asyncio.sleep(max(0.0, params.seconds - took) + SETTLING_SECONDS)
        after = pick(await api.every(), before.port)
        if after.active:
            refused = f"Port {before.port} is still active after the pulse. Set it inactive."
    else:
        notes.append(f"The camera ends the pulse by itself after {params.seconds:g} s; nobody looked whether it did.")
    changes = [Change(setting="state", before=_word(before), after=_word(after))] if before.active else []
    return _Outcome(api.api, [after], changes, pulsed=params.seconds, refused=refused, notes=notes)


async def _configure(camera: Camera, params: VapixIoPorts) -> _Outcome:
    api, every = await _ports(camera)
    before = _chosen(every, params)
    if params.direction is not None and params.direction != before.direction and not before.configurable:
        raise Rejected(
            f"Port {before.port} is an {before.direction or 'unknown kind'} and cannot be made an {params.direction}.",
            hint="Nothing was changed.",
        )
    said: Rejected | None = None
    try:
        await api.configure(before, direction=params.direction, normal=params.normal_state, name=params.name)
    except Rejected as error:
        said = error
    after = pick(await api.every(), before.port)
    if said is not None and after == before:
        raise said
    asked = {"direction": params.direction, "normal_state": params.normal_state, "name": params.name}
    changes = [
        Change(setting=name, before=getattr(before, name), asked=value, after=getattr(after, name))
        for name, value in asked.items()
        if value is not None
    ]
    along = []
    if params.direction in (None, before.direction) and after.active != before.active:
        along.append(Change(setting="active", before=before.active, after=after.active))
    written = judged(changes, along, said.message if said is not None else None)
    return _Outcome(api.api, [after], written.changes, refused=written.refused, notes=written.notes)


async def _virtual(camera: Camera, params: VapixIoPorts) -> _Outcome:
    assert params.virtual_input is not None
    found = await switch_virtual(
        camera, params.virtual_input, active=params.state == "active", seconds=int(params.seconds or 0) or None
    )
    return _Outcome("virtualinput", virtual=found, notes=[NOT_READ_BACK])


_ACTIONS = {"list": _read, "read": _read, "set": _set, "pulse": _pulse, "configure": _configure, "virtual": _virtual}


def _entry(seen: Seen[_Outcome]) -> IoPorts:
    found = seen.value
    if found is None:
        return entry(IoPorts, seen)
    fields: dict[str, Any] = {
        "api": found.api,
        "ports": found.ports,
        "pulsed_seconds": found.pulsed,
        "virtual": found.virtual,
    }
    return entry(IoPorts, seen, **fields, **verdict(Written(found.changes, found.refused, found.notes), seen.detail))
