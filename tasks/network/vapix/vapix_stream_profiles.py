"""`vapix_stream_profiles`: the named stream settings of cameras."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from tasks.core.errors import Conflict, NotFound, Refused, Rejected, Unanswered
from tasks.core.models import Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix import _profiles as profiles
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting, only_one
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._profiles import MARK, Held, StreamProfile
from tasks.network.vapix._profiles_shelf import Shelf, open_shelf
from tasks.network.vapix._wire import Nonsense

CAMERA_SECONDS = 90.0


class ProfileAction(StrEnum):
    """What to do with stream profiles."""

    LIST = "list"
    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"


class VapixStreamProfiles(CameraParams):
    """Parameters of `vapix_stream_profiles`."""

    action: ProfileAction = Field(ProfileAction.LIST, description="list, create, update or remove.")
    name: Annotated[str, AfterValidator(profiles.check_name)] | None = Field(
        None,
        description="The profile: 1 to 64 letters, digits, - and _. Required but for list, which then shows this one.",
    )
    parameters: Annotated[str, AfterValidator(profiles.check_parameters)] | None = Field(
        None,
        description="Its stream arguments, such as videocodec=h264&resolution=640x360&fps=5: for create, and for update where they change.",
    )
    description: str | None = Field(
        None,
        max_length=profiles.MAX_DESCRIPTION - len(MARK) - 1,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description=f"What the profile is for, at most {profiles.MAX_DESCRIPTION - len(MARK) - 1} characters. "
        f"{MARK} is added: it marks our own profiles.",
    )
    foreign: bool = Field(
        False,
        description="Also update or remove a profile that was not made here (its description does not end with "
        f"{MARK}). Others record or watch with it: level destroy, one camera, and confirm.",
    )
    confirm: str | None = Field(
        None,
        max_length=500,
        description="With foreign: the camera and the profile, exactly as given, such as '10.0.0.5 Quality'.",
    )

    @model_validator(mode="after")
    def _fits_the_action(self) -> VapixStreamProfiles:
        if self.action is ProfileAction.LIST:
            if self.parameters is not None or self.description is not None or self.foreign:
                raise ValueError("list takes no parameters, description or foreign; say which action is meant")
            return self
        if self.name is None:
            raise ValueError(f"{self.action} needs name: the profile")
        if self.action is ProfileAction.CREATE and (self.parameters is None or self.foreign):
            raise ValueError(
                "create needs parameters, such as videocodec=h264&resolution=640x360&fps=5, and does not take foreign"
            )
        if self.action is ProfileAction.UPDATE and self.parameters is None and self.description is None:
            raise ValueError("update needs parameters or description: what is to change")
        if self.action is ProfileAction.REMOVE and (self.parameters is not None or self.description is not None):
            raise ValueError("remove takes name alone")
        if self.foreign:
            only_one(self, "foreign")
        return self

    def safety(self) -> Safety | None:
        if self.action is ProfileAction.LIST:
            return None
        return Safety.DESTROY if self.foreign else Safety.CHANGE

    def approval(self) -> bool:
        return self.foreign

    def thing(self) -> str | None:
        return self.name

    def deadline(self) -> float:
        return fleet_timeout(CAMERA_SECONDS, len(self.targets))

    def about(self) -> str:
        what = " ".join([self.action, *([self.name] if self.name else [])])
        return f"{super().about()[:400]}: {what}"[:500]


class CameraProfiles(CameraEntry):
    """The stream profiles of one camera, or what was done with one of them."""

    api: str | None = Field(None, description="The API used: streamprofile.cgi or param.cgi.")
    profiles: list[StreamProfile] = Field(default_factory=list, description="list: its profiles, by name.")
    max_profiles: int | None = Field(None, description="Most profiles the camera holds.")
    before: StreamProfile | None = Field(None, description="The profile before; None when there was none.")
    after: StreamProfile | None = Field(
        None, description="The profile as read back afterwards; None when there is none."
    )


class StreamProfilesResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[CameraProfiles] = Field(description="One entry for each camera.")

    def one_line(self, camera: CameraProfiles) -> str:
        if camera.outcome is not CameraOutcome.DONE or camera.api is None:
            return super().one_line(camera)
        if camera.before is None and camera.after is None:
            names = ", ".join(profile.name for profile in camera.profiles[:10]) or "none"
            return f"{camera.target}: {len(camera.profiles)} of {camera.max_profiles} stream profiles: {names}"
        before, after = camera.before, camera.after
        what = (
            "added" if before is None else "removed" if after is None else "unchanged" if before == after else "changed"
        )
        name = (after or before or StreamProfile(name="")).name
        return f"{camera.target}: stream profile {name} {what}" + (f"; {camera.detail}" if camera.detail else "")


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=fleet_timeout(CAMERA_SECONDS),
    aliases=("axis_vapix_stream_profiles",),
    examples=[
        Example("Which profiles are there?", {"targets": ["10.0.0.5"], "credentials": "axis/yard"}),
        Example(
            "A small stream for the map, on two cameras",
            {
                "targets": ["10.0.0.5", "10.0.0.6"],
                "credentials": "axis/yard",
                "action": "create",
                "name": "map_low",
                "parameters": "videocodec=h264&resolution=640x360&fps=5",
                "description": "for the map",
            },
        ),
        Example(
            "Remove a profile that somebody else made",
            {
                "targets": ["10.0.0.5"],
                "credentials": "axis/yard",
                "action": "remove",
                "name": "Quality",
                "foreign": True,
                "confirm": "10.0.0.5 Quality",
            },
        ),
    ],
)
async def vapix_stream_profiles(params: VapixStreamProfiles) -> StreamProfilesResult:
    """List, create, update and remove the stream profiles of cameras.

    A profile made here carries a mark in its description; one without it belongs to somebody else, whose recordings and views use it, and
    is left alone unless `foreign` says so. Names cannot be changed. A camera holds 26 profiles as a rule. What is written is read back.

    Raises:
        InvalidParameters: There is no such block.
        Unsupported: The one camera asked has no stream profiles.
        Conflict: It has a profile of this name already, or no room for another.
        NotFound: It has no profile of this name.
        Refused: The profile was not made here.
        Rejected: It did not take what was written.
    """

    async def work(camera: Camera) -> _Done:
        return await _on(camera, params)

    seen = await each_camera(params, work, seconds=CAMERA_SECONDS)
    result = StreamProfilesResult(
        cameras=[entry(CameraProfiles, one, **(one.value.fields() if one.value is not None else {})) for one in seen]
    )
    return await fitting(result, ["profiles", "before", "after"])


@dataclass
class _Done:
    """What was found or done on one camera."""

    api: str
    most: int
    profiles: list[StreamProfile] = field(default_factory=list)
    before: StreamProfile | None = None
    after: StreamProfile | None = None

    def fields(self) -> dict[str, Any]:
        return {
            "api": self.api,
            "max_profiles": self.most,
            "profiles": self.profiles,
            "before": self.before,
            "after": self.after,
        }


async def _on(camera: Camera, params: VapixStreamProfiles) -> _Done:
    shelf, held = await open_shelf(camera)
    if params.action is ProfileAction.LIST:
        shown = [one.shown() for one in held if params.name in (None, one.name)]
        return _Done(shelf.api, shelf.most, profiles=shown)
    assert params.name is not None
    before = profiles.find(held, params.name)
    wanted = _wanted(params, held, before, shelf.most)
    if before is not None and wanted is not None and wanted.same_as(before):
        camera.notes.append("The profile was like that already; nothing was written.")
        return _Done(shelf.api, shelf.most, before=before.shown(), after=before.shown())
    lost: Unanswered | Rejected | Nonsense | None = None
    try:
        await _write(shelf, params.action, params.name, wanted)
    except (Unanswered, Rejected, Nonsense) as error:
        lost = error  # it may have arrived, or hold in part: reading back tells
    after = profiles.find(await shelf.read(), params.name)
    _judge(camera, params, before, wanted, after, lost)
    return _Done(
        shelf.api, shelf.most, before=before.shown() if before else None, after=after.shown() if after else None
    )


def _wanted(params: VapixStreamProfiles, held: list[Held], before: Held | None, most: int) -> Held | None:
    """What the profile is to be; None when it is to go.

    Raises:
        Conflict: It is there already, or there is no room.
        NotFound: It is not there.
        Refused: It is somebody else's.
    """
    name = params.name or ""
    if params.action is ProfileAction.CREATE:
        if before is not None:
            whose = "made here" if before.own else "not made here"
            raise Conflict(
                f"The camera has a stream profile {name} already ({whose}); names are unique, and none can be renamed.",
                hint="Use action update, or another name.",
            )
        if len(held) >= most:
            raise Conflict(
                f"The camera holds {len(held)} stream profiles and has no room for another (at most {most}).",
                hint="Remove one that nobody uses.",
            )
        return Held(name, profiles.marked(params.description), params.parameters or "")
    if before is None:
        there = ", ".join(one.shown().name for one in held[:10]) or "none at all"
        raise NotFound(f"The camera has no stream profile {name}.", hint=f"It has {there}.")
    if not before.own and not params.foreign:
        raise Refused(
            f"The stream profile {name} was not made here: others may record or watch with it. Nothing was changed.",
            hint=f"If it must be: foreign true with confirm {f'{params.targets[0]} {name}'!r}, one camera at a time.",
        )
    if params.action is ProfileAction.REMOVE:
        return None
    description = before.description
    if params.description is not None:
        # Somebody else's stays somebody else's.
        description = profiles.marked(params.description) if before.own else params.description
    return Held(name, description, params.parameters or before.parameters)


async def _write(shelf: Shelf, action: ProfileAction, name: str, wanted: Held | None) -> None:
    if wanted is None:
        try:
            await shelf.remove(name)
        except Rejected as error:
            raise Rejected(
                f"The camera does not remove {name}: {error.message}", hint="Profiles it came with cannot be removed."
            ) from None
    elif action is ProfileAction.CREATE:
        await shelf.create(wanted)
    else:
        await shelf.update(wanted)


def _judge(
    camera: Camera,
    params: VapixStreamProfiles,
    before: Held | None,
    wanted: Held | None,
    after: Held | None,
    lost: Unanswered | Rejected | Nonsense | None,
) -> None:
    """Compare what was read back with what was asked for.

    Raises:
        Unanswered: The answer was lost, and so was the request.
        Nonsense: The answer says nothing, and nothing was done.
        Rejected: The camera said yes and did nothing.
    """
    nothing_happened = after == before
    if lost is not None:
        if nothing_happened:
            raise lost
        what = "The answer was lost" if isinstance(lost, Unanswered) else lost.message.rstrip(".")
        camera.notes.append(f"{what}; reading back shows that the camera did something.")
    if nothing_happened or (wanted is None) != (after is None):
        raise Rejected(
            f"The camera said yes to {params.action} {params.name}, but reading back shows no such change.",
            hint="It may not allow this for this profile; look in its own pages.",
        )
    if wanted is not None and after is not None and not wanted.same_as(after):
        camera.notes.append(
            f"The camera made something else of it than was asked for: {wanted.shown().parameters} was asked for."
        )
