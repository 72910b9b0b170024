"""A camera's inputs and outputs by both of its APIs, told the same way.

`portmanagement.cgi` counts from 0 and speaks of the circuit (open or closed); `port.cgi` counts from 1 and speaks of active and inactive;
what a port is like is in the parameters `IOPort.I#`. Here a port has its number from 0, the number printed beside its terminals, and both
views of its state: it is active when the circuit is not in its normal state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import Busy, NotFound, Unsupported
from tasks.network.vapix._wire import NUMBERED, Meanings, Nonsense, said

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

Circuit = Literal["open", "closed"]
Direction = Literal["input", "output"]
Word = Literal["active", "inactive", "open", "closed"]
"""What an output may be told to be: by what it means, or by its circuit."""

PORTMANAGEMENT = "/axis-cgi/io/portmanagement.cgi"
PORT_CGI = "/axis-cgi/io/port.cgi"
MEANINGS: Meanings = {
    **NUMBERED,
    2103: "a parameter is missing",
    2104: "a value is not valid for this port",
    2200: Busy,
}
BACKSLASH = "\\"
"""What `port.cgi` calls inactive; active is `/`."""
MOST_PORTS = 128
NAME_LENGTH = 128


class Port(BaseModel):
    """One input or output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(description="Number of the port, from 0: what io_port takes.")
    number: int = Field(description="Number as the device prints it and its web pages show it, from 1.")
    direction: Direction | None = Field(None, description="input or output.")
    name: str = Field("", description="Name somebody gave it.")
    usage: str = Field("", description="What it is used for, where somebody said so.")
    state: Circuit | None = Field(None, description="The circuit now: open or closed.")
    normal_state: Circuit | None = Field(None, description="The circuit at rest: open or closed.")
    active: bool | None = Field(None, description="Whether the circuit is not in its normal state.")
    configurable: bool = Field(False, description="Whether it can be made an input or an output.")
    readonly: bool = Field(False, description="Whether the device lets nobody change it.")


def other(state: Circuit) -> Circuit:
    """The circuit's other state."""
    return "closed" if state == "open" else "open"


def circuit(value: Any) -> Circuit | None:
    """`open` or `closed` as a device writes it; None for anything else."""
    word = value.strip().lower() if isinstance(value, str) else None
    return word if word == "open" or word == "closed" else None  # type: ignore[return-value]


def _text(value: Any) -> str:
    return said(value, NAME_LENGTH) if isinstance(value, str) else ""


def _direction(value: Any) -> Direction | None:
    word = value.strip().lower() if isinstance(value, str) else None
    return word if word == "input" or word == "output" else None  # type: ignore[return-value]


def parse_items(data: Mapping[str, Any]) -> list[Port]:
    """Read the ports of `getPorts`.

    Raises:
        Nonsense: It is not what such an answer looks like.
    """
    # Without ports there is no list, but their number.
    items = data.get("items", [] if "numberOfPorts" in data else None)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Nonsense("The device's list of ports is not one.")
    ports = {}
    for item in items[:MOST_PORTS]:
        # The documentation has the port as text; a number means the same.
        number = str(item.get("port", ""))
        if not re.fullmatch(r"[0-9]{1,4}", number):
            raise Nonsense("The device's list of ports has one without a number.")
        state, normal = circuit(item.get("state")), circuit(item.get("normalState"))
        ports[int(number)] = Port(
            port=int(number),
            number=int(number) + 1,
            direction=_direction(item.get("direction")),
            name=_text(item.get("name")),
            usage=_text(item.get("usage")),
            state=state,
            normal_state=normal,
            active=None if state is None or normal is None else state != normal,
            configurable=item.get("configurable") is True,
            readonly=item.get("readonly") is True,
        )
    return [ports[number] for number in sorted(ports)]


def parse_check(text: str) -> dict[int, str]:
    r"""Read what `port.cgi` answers to a check: `port1=0` a line. Numbers as it has them, from 1; other lines do not count.

    >>> parse_check("port1=active\nport2=inactive\n")
    {1: 'active', 2: 'inactive'}
    """
    found = re.findall(r"^port([0-9]{1,4})\s*=\s*([A-Za-z0-9]{1,16})\s*$", text.replace("\r", ""), re.MULTILINE)
    return {int(number): value.lower() for number, value in found}


def parse_parameters(values: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Sort `IOPort.I#.*` parameters by port, numbers from 0.

    >>> parse_parameters({"IOPort.I1.Output.Active": "closed", "IOPort.I1.Direction": "output", "Input.NbrOfInputs": "1"})
    {1: {'Output.Active': 'closed', 'Direction': 'output'}}
    """
    ports: dict[int, dict[str, str]] = {}
    for name, value in values.items():
        match = re.fullmatch(r"IOPort\.I([0-9]{1,4})\.([A-Za-z.]{1,64})", name)
        if match:
            ports.setdefault(int(match[1]), {})[match[2]] = value
    return ports


def legacy_ports(values: Mapping[str, str], active: Mapping[int, str]) -> list[Port]:
    """Put the ports of the older API together.

    Args:
        values: The parameters `IOPort.*`.
        active: What `checkactive` said, numbers from 1.
    """
    ports = []
    for number, has in sorted(parse_parameters(values).items())[:MOST_PORTS]:
        direction = _direction(has.get("Direction"))
        side = "Output" if direction == "output" else "Input"
        trigger = circuit(has.get("Output.Active" if direction == "output" else "Input.Trig"))
        now = {"active": True, "inactive": False}.get(active.get(number + 1, ""))
        normal = None if trigger is None else other(trigger)
        ports.append(
            Port(
                port=number,
                number=number + 1,
                direction=direction,
                name=_text(has.get(f"{side}.Name")),
                usage=_text(has.get("Usage")),
                state=None if now is None or normal is None else (other(normal) if now else normal),
                normal_state=normal,
                active=now,
                configurable=has.get("Configurable", "").lower() in {"yes", "true"},
            )
        )
    return ports


class Ports(Protocol):
    """One way to talk with a camera about its ports."""

    api: str

    async def every(self) -> list[Port]:
        """All ports as they are now."""

    async def switch(self, port: Port, word: Word) -> None:
        """Make an output what the word says, and leave it so."""

    async def pulse(self, port: Port, milliseconds: int) -> None:
        """Make an output active, and inactive again after a time that the camera keeps."""

    async def configure(
        self, port: Port, *, direction: Direction | None, normal: Circuit | None, name: str | None
    ) -> None:
        """Change what a port is."""


class PortManagement:
    """`portmanagement.cgi`, from AXIS OS 9.70."""

    api = "portmanagement.cgi"

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    async def every(self) -> list[Port]:
        return parse_items(await self._camera.call(PORTMANAGEMENT, "getPorts", meanings=MEANINGS))

    async def switch(self, port: Port, word: Word) -> None:
        await self._set(port, {"state": electrical(port, word)})

    async def pulse(self, port: Port, milliseconds: int) -> None:
        sequence = [
            {"state": electrical(port, "active"), "time": milliseconds},
            {"state": electrical(port, "inactive"), "time": 0},
        ]
        await self._camera.call(
            PORTMANAGEMENT,
            "setStateSequence",
            {"port": str(port.port), "sequence": sequence},
            meanings=MEANINGS,
            write=True,
        )

    async def configure(
        self, port: Port, *, direction: Direction | None, normal: Circuit | None, name: str | None
    ) -> None:
        asked = {"direction": direction, "normalState": normal, "name": name}
        await self._set(port, {key: value for key, value in asked.items() if value is not None})

    async def _set(self, port: Port, values: Mapping[str, str]) -> None:
        await self._camera.call(
            PORTMANAGEMENT,
            "setPorts",
            {"ports": [{"port": str(port.port), **values}]},
            meanings=MEANINGS,
            write=True,
        )


class PortCgi:
    """`port.cgi` and the parameters `IOPort`: all cameras before AXIS OS 9.70."""

    api = "port.cgi"

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    async def every(self) -> list[Port]:
        values = await self._camera.parameters("IOPort")
        numbers = [number + 1 for number in sorted(parse_parameters(values))[:MOST_PORTS]]
        if not numbers:
            return []
        text = await self._camera.text(PORT_CGI, {"checkactive": ",".join(map(str, numbers))})
        return legacy_ports(values, parse_check(text))

    async def switch(self, port: Port, word: Word) -> None:
        await self._act(f"{port.number}:{'/' if means_active(port, word) else BACKSLASH}")

    async def pulse(self, port: Port, milliseconds: int) -> None:
        await self._act(f"{port.number}:/{milliseconds}{BACKSLASH}")

    async def configure(
        self, port: Port, *, direction: Direction | None, normal: Circuit | None, name: str | None
    ) -> None:
        output = (direction or port.direction) == "output"
        where = f"IOPort.I{port.port}"
        values: dict[str, str] = {}
        if direction is not None:
            values[f"{where}.Direction"] = direction
        if normal is not None:
            values[f"{where}.{'Output.Active' if output else 'Input.Trig'}"] = other(normal)
        if name is not None:
            values[f"{where}.{'Output' if output else 'Input'}.Name"] = name
        await self._camera.set_parameters(values)

    async def _act(self, action: str) -> None:
        await self._camera.text(PORT_CGI, {"action": action}, write=True)


def electrical(port: Port, word: Word) -> Circuit:
    """Which state of the circuit a word means for a port.

    Raises:
        Unsupported: The camera does not say what is normal there.
    """
    if word == "open" or word == "closed":
        return word
    normal = _normal(port)
    return other(normal) if word == "active" else normal


def means_active(port: Port, word: Word) -> bool:
    """Whether a word means active for a port.

    Raises:
        Unsupported: The camera does not say what is normal there.
    """
    if word == "active" or word == "inactive":
        return word == "active"
    return word != _normal(port)


def _normal(port: Port) -> Circuit:
    if port.normal_state is None:
        raise Unsupported(
            f"The camera does not say which state is normal for port {port.port}, so nobody knows what active is there.",
            hint="Nothing was changed.",
        )
    return port.normal_state


def pick(ports: Sequence[Port], number: int) -> Port:
    """Return one port.

    Raises:
        NotFound: There is none with that number; the message says which there are.
    """
    for port in ports:
        if port.port == number:
            return port
    there = ", ".join(f"{port.port} ({port.direction or 'unknown'})" for port in ports) or "none"
    raise NotFound(f"There is no port {number} here; there are: {there}.", hint="Numbers begin with 0.")
