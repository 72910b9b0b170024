"""Many cameras at once: one that is dead, hanging or hostile costs its own entry, and delays nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from blocks.axis import AxisCredentials
from tasks.core.errors import (
    Busy,
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    ToolTimeout,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.log import run_logger
from tasks.core.models import FileRef, ToolResult
from tasks.core.rate import Pacer
from tasks.core.redact import json_size
from tasks.core.run import ToolRun, current_run
from tasks.network._sparing import ROOM_BYTES, spare_entries
from tasks.network.probe._connection import Pace, Paces
from tasks.network.vapix._auth import LoginSecrets
from tasks.network.vapix._camera import ANONYMOUS_PORT, Camera, open_camera, secrets_of
from tasks.network.vapix._params import IN_FLIGHT, REPORTING_SECONDS, CameraTargets
from tasks.network.vapix._wire import DeviceId, NeedsSetup, Nonsense, NotReady

T = TypeVar("T")
E = TypeVar("E", bound="CameraEntry")
R = TypeVar("R", bound="CamerasResult")


class CameraOutcome(StrEnum):
    """How it went with one camera."""

    DONE = "done"
    UNREACHABLE = "unreachable"
    UNANSWERED = "unanswered"
    UNTRUSTED = "untrusted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNSUPPORTED = "unsupported"
    REJECTED = "rejected"
    BUSY = "busy"
    NOT_READY = "not_ready"
    NEEDS_SETUP = "needs_setup"
    NONSENSE = "nonsense"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    UNRESOLVED = "unresolved"


OUTCOMES = ", ".join(CameraOutcome)
_NOT_THERE = {
    CameraOutcome.UNREACHABLE,
    CameraOutcome.UNTRUSTED,
    CameraOutcome.TIMED_OUT,
    CameraOutcome.UNRESOLVED,
}
# The more particular class first: the first that fits is the outcome.
_OUTCOME_OF: tuple[tuple[type[ToolError], CameraOutcome], ...] = (
    (NotReady, CameraOutcome.NOT_READY),
    (NeedsSetup, CameraOutcome.NEEDS_SETUP),
    (Nonsense, CameraOutcome.NONSENSE),
    (Untrusted, CameraOutcome.UNTRUSTED),
    (Unanswered, CameraOutcome.UNANSWERED),
    (Unreachable, CameraOutcome.UNREACHABLE),
    (Forbidden, CameraOutcome.FORBIDDEN),
    (Unauthorized, CameraOutcome.UNAUTHORIZED),
    (Unsupported, CameraOutcome.UNSUPPORTED),
    (Rejected, CameraOutcome.REJECTED),
    (NotFound, CameraOutcome.REJECTED),
    (Conflict, CameraOutcome.REJECTED),
    (Refused, CameraOutcome.REJECTED),
    (InvalidParameters, CameraOutcome.REJECTED),
    (Busy, CameraOutcome.BUSY),
    (ToolTimeout, CameraOutcome.TIMED_OUT),
)


def outcome_of(error: ToolError) -> CameraOutcome:
    """The outcome that an error is."""
    return next((outcome for kind, outcome in _OUTCOME_OF if isinstance(error, kind)), CameraOutcome.FAILED)


@dataclass
class Seen(Generic[T]):
    """What became of one camera.

    Attributes:
        target: The target as asked.
        address: Its pinned address; None when its name does not resolve.
        outcome: How it went.
        detail: What that means; with `done` the conversation's notes.
        value: What `work` returned; None when it did not come to that.
        device: Who the camera is, as far as it came.
        secrets: What its entry must not repeat.
    """

    target: str
    address: str | None
    outcome: CameraOutcome
    detail: str | None = None
    value: T | None = None
    device: DeviceId | None = None
    secrets: LoginSecrets | None = field(default=None, repr=False)


async def each_camera(
    params: CameraTargets,
    work: Callable[[Camera], Awaitable[T]],
    *,
    seconds: float,
    credentials: AxisCredentials | None = None,
) -> list[Seen[T]]:
    """Do something with every camera of the targets, 32 at a time, and say what became of each, in the order asked.

    What is not done when the tool's deadline is near is `timed_out`; what was done until then is kept.

    Args:
        params: Which cameras; a `CameraParams` names the block with the account too.
        work: What to do with one. Its `ToolError`s become the camera's outcome.
        seconds: Most seconds for one camera, all in all.
        credentials: The account, where the parameters do not name it.

    Raises:
        ToolError: What became of the camera, when there is one target only.
        Exception: A defect of ours, when no camera came to more.
    """
    run = current_run()
    assert run.grant is not None
    named: str | None = getattr(params, "credentials", None)
    if credentials is None and named is not None:
        credentials = await run.load_block(named, AxisCredentials)
    _check_port(run, credentials.port_of(params.port) if credentials is not None else params.port or ANONYMOUS_PORT)
    secrets = secrets_of(credentials) if credentials is not None else None
    paces = Paces(Pacer(run.packets_per_second), run.policy.host_packets_per_second)
    slots = asyncio.Semaphore(IN_FLIGHT)
    found: dict[str, Seen[T]] = {}
    errors: dict[str, ToolError] = {}
    defects: list[Exception] = []

    async def one(asked: str, address: str) -> None:
        seen = found[asked]
        pace = paces.of(address)
        async with pace.turn, slots:  # names that share an address take turns
            try:
                async with asyncio.timeout(seconds) as limit:
                    await _visit(seen, run, params, credentials, pace, work)
            except ToolError as error:
                _scrub(error, secrets)
                seen.outcome, seen.detail, errors[asked] = outcome_of(error), str(error), error
                if isinstance(error, NeedsSetup):
                    seen.device = seen.device or error.device
            except Exception as defect:  # noqa: BLE001
                if isinstance(defect, TimeoutError) and limit.expired():
                    # What was interrupted may have said how it left the camera.
                    left = " ".join(getattr(defect.__cause__, "__notes__", ()))
                    late = ToolTimeout(
                        f"{asked} was not done within {seconds:g} s.", hint=left or "What it did until then holds."
                    )
                    _scrub(late, secrets)
                    seen.outcome, seen.detail, errors[asked] = CameraOutcome.TIMED_OUT, str(late), late
                    return
                # Ours, or an answer that nobody thought of: it must not cost the other cameras theirs.
                run_logger().exception("%s: a defect of signalbox", asked)
                defects.append(defect)
                seen.outcome = CameraOutcome.FAILED
                seen.detail = f"a defect of signalbox ({type(defect).__name__}); the run's log has it"

    for target in run.grant.targets:
        found[target.asked] = Seen(
            target.asked,
            target.addresses[0],
            CameraOutcome.TIMED_OUT,
            "The tool's deadline came before this camera was done.",
            secrets=secrets,
        )
    for missing in run.grant.unresolved:
        found[missing.asked] = Seen(missing.asked, None, CameraOutcome.UNRESOLVED, missing.error.message)
    tasks = [asyncio.ensure_future(one(target.asked, target.addresses[0])) for target in run.grant.targets]
    most = min(params.deadline() or run.spec.timeout, run.spec.timeout)
    try:
        done, _ = await asyncio.wait(tasks, timeout=max(0.0, most - REPORTING_SECONDS))
    finally:
        await _end(tasks)
    for task in done:
        task.result()
    if defects and len(defects) == len(tasks):
        raise defects[0]
    if len(params.targets) == 1 and params.targets[0] in errors:
        raise errors[params.targets[0]]
    return [found[asked] for asked in params.targets]


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _visit(
    seen: Seen[T],
    run: ToolRun,
    params: CameraTargets,
    credentials: AxisCredentials | None,
    pace: Pace,
    work: Callable[[Camera], Awaitable[T]],
) -> None:
    assert seen.address is not None
    async with open_camera(
        run.site,
        seen.target,
        seen.address,
        credentials=credentials,
        port=params.port,
        timeout=params.timeout,
        pace=pace,
        serial=getattr(params, "serial", None),
    ) as camera:
        try:
            seen.device = await camera.device()
            seen.value = await work(camera)
        except ToolError as error:
            # Also when it went wrong: that no certificate was checked may be why.
            error.hint = " ".join(filter(None, (error.hint, *camera.notes))) or None
            raise
        seen.outcome = CameraOutcome.DONE
        seen.detail = " ".join(camera.notes) or None


def _scrub(error: ToolError, secrets: LoginSecrets | None) -> None:
    """Mask the account where a camera repeated it: one that got the password by Basic has it in clear."""
    if secrets is not None:
        error.message = secrets.mask(error.message)
        error.hint = secrets.mask(error.hint) if error.hint else None
        error.args = (error.message,)


def _check_port(run: ToolRun, port: int) -> None:
    if run.policy.is_never_port(port):
        raise Refused(
            f"Port {port} must never be touched at site {run.site} (never_ports of its policy).",
            hint=f"If you know what listens there: signalbox policy ports --open {port}",
        )


# --- results -----------------------------------------------------------------------------------------------------------


class CameraEntry(BaseModel):
    """What became of one camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="The target as asked.")
    address: str | None = Field(None, description="The address that was asked; None when the name does not resolve.")
    outcome: CameraOutcome = Field(description=f"{OUTCOMES}.")
    detail: str | None = Field(None, description="What it means, and what a person should know.")
    serial: str | None = Field(None, description="Serial number: its MAC address, 12 hexadecimal digits.")
    model: str | None = Field(None, description="Model.")
    firmware: str | None = Field(None, description="Version of AXIS OS.")

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # 256 entries have to fit into what the ledger keeps: what says nothing is not written.
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dump(self).items()
            if value not in (None, [], {}) or fields[name].is_required()
        }


def entry(kind: type[E], seen: Seen[Any], **fields: Any) -> E:
    """Make the result's entry of a camera.

    Args:
        kind: The tool's class of entries.
        seen: What became of the camera.
        fields: What the tool found; `outcome` and `detail` may say it better than `seen`.
    """
    device = seen.device
    detail = seen.secrets.mask(seen.detail) if seen.detail and seen.secrets is not None else seen.detail
    known = {
        "target": seen.target,
        "address": seen.address,
        "outcome": seen.outcome,
        "detail": detail[:500] if detail else None,
        "serial": (device.serial or None) if device is not None else None,
        "model": device.model if device is not None else None,
        "firmware": device.firmware if device is not None else None,
    }
    made = kind(**{**known, **fields})
    if seen.secrets is None or not _holds(made, seen.secrets):
        return made
    kept = {"target": made.target, "address": made.address}  # the asker's own words, by which the entry is found
    masked: E = _without(made, seen.secrets, frozenset())
    return masked.model_copy(update=kept)


def _holds(made: CameraEntry, secrets: LoginSecrets) -> bool:
    """Whether an entry repeats a secret: nearly none does, and looking at all of it at once costs little."""
    together = "\n".join(_strings(made))
    return secrets.mask(together) != together


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def _without(value: Any, secrets: LoginSecrets, words: frozenset[Any]) -> Any:
    """A value without what a camera repeated of its account; words are ours, and stay."""
    if isinstance(value, FileRef):
        return value  # the store named it, and it is found by that
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return value.model_copy(
            update={
                name: _without(inner, secrets, _words(fields[name].annotation))
                for name, inner in value.__dict__.items()
            }
        )
    if isinstance(value, Mapping):
        return {_without(key, secrets, words): _without(inner, secrets, words) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without(inner, secrets, words) for inner in value)
    return secrets.mask(value) if type(value) is str and value not in words else value


def _words(annotation: Any) -> frozenset[Any]:
    """The words a field can be, where it is one of a few."""
    if get_origin(annotation) is Literal:
        return frozenset(get_args(annotation))
    return frozenset().union(*map(_words, get_args(annotation)))


class CamerasResult(ToolResult):
    """An entry for each camera, in the order asked. Tools declare `cameras` anew, with their own class of entries."""

    cameras: Sequence[CameraEntry] = Field(description="One entry for each camera, in the order asked.")
    left_out: list[str] = Field(default_factory=list, description="What did not fit here and is in the report alone.")
    report: FileRef | None = Field(None, description="The whole result as JSON, when not all of it fits here.")

    def headline(self) -> str:
        if len(self.cameras) == 1:
            return self.one_line(self.cameras[0])
        counts = Counter(camera.outcome for camera in self.cameras)
        said = ", ".join(
            f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in CameraOutcome if outcome in counts
        )
        return f"{len(self.cameras)} cameras: {said}"

    def one_line(self, camera: Any) -> str:
        """Say what became of a single camera. Tools override it."""
        what = str(camera.outcome).replace("_", " ")
        return f"{camera.target}: {what}, {camera.detail}" if camera.detail else f"{camera.target}: {what}"

    def reached(self) -> bool:
        return any(camera.outcome not in _NOT_THERE for camera in self.cameras)


async def fitting(result: R, droppable: Sequence[str]) -> R:
    """Return the result as it is, or, when the ledger would not keep it, with less in each entry and all of it in a file.

    Args:
        result: The whole result.
        droppable: Fields of the entries that may go, the one that is missed least first. They need defaults.
    """
    update = await spare_entries(result, "cameras", droppable)
    fitted = result.model_copy(update=update) if update else result
    for name in ("firmware", "model", "address", "serial"):  # long names of 256 cameras may leave no room for them
        if json_size(fitted.model_dump(mode="json")) <= ROOM_BYTES:
            break
        less = [camera.model_copy(update={name: None}) for camera in fitted.cameras]
        fitted = fitted.model_copy(update={"cameras": less, "left_out": [*fitted.left_out, name]})
    return fitted


def only_one(params: CameraTargets, what: str) -> None:
    """Check that an action which needs approval names one camera.

    Raises:
        ValueError: It names several.
    """
    if len(params.targets) != 1:
        raise ValueError(
            f"{what} takes exactly one target, not {len(params.targets)}: approval is given for one camera"
        )
