"""Virtual inputs: switches without a terminal that start a camera's action rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import Unsupported
from tasks.network.vapix._xml import local, raise_for_general_error

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

VIRTUAL = "/axis-cgi/virtualinput/"
NOT_READ_BACK = (
    "Cameras have no request that reads a virtual input: this is what it said it did. "
    "Its state is among the events: vapix_event_streaming, topic tns1:Device/tnsaxis:IO/VirtualInput."
)


class VirtualInput(BaseModel):
    """What became of a virtual input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    virtual_input: int = Field(description="Its number, from 1.")
    active: bool = Field(description="What the camera said it made it; that cannot be read back.")
    changed: bool | None = Field(None, description="Whether it was otherwise before; None when the camera did not say.")
    seconds: int | None = Field(None, description="It becomes inactive again by itself after so many seconds.")


async def switch_virtual(camera: Camera, number: int, *, active: bool, seconds: int | None) -> VirtualInput:
    """Make a virtual input active or inactive.

    Raises:
        Unsupported: The camera has no virtual inputs.
        Rejected: It has none with this number, or refuses.
    """
    if not (await camera.capabilities()).flag("Properties.VirtualInput.VirtualInput"):
        raise Unsupported(f"{camera.asked} has no virtual inputs.", hint="Nothing was changed.")
    query = {"schemaversion": "1", "port": str(number)}
    if seconds is not None:
        query["duration"] = str(seconds)
    answer = await camera.xml(f"{VIRTUAL}{'activate' if active else 'deactivate'}.cgi", query, write=True)
    success = raise_for_general_error(answer, camera.asked)
    changed = next(
        (text for element in success.iter() if local(element) == "StateChanged" and (text := element.text)), ""
    )
    return VirtualInput(
        virtual_input=number,
        active=active,
        changed={"true": True, "false": False}.get(changed.strip().lower()),
        seconds=seconds,
    )
