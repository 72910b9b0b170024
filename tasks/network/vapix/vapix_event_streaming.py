"""`vapix_event_streaming`: what cameras notice, as it happens, for a while."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tasks.core.log import run_logger
from tasks.core.models import Example, FileRef, Safety, Scope, Service
from tasks.core.redact import json_size
from tasks.core.run import current_run
from tasks.core.tool import tool
from tasks.core.words import count
from tasks.network._sparing import ROOM_BYTES
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._events import CameraEvent, Change, parse_items, parse_topic
from tasks.network.vapix._events_kinds import Kind, topics_of
from tasks.network.vapix._events_listening import Ended, Heard, Transport, Wish, listen
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, each_camera, entry, fitting
from tasks.network.vapix._params import REPORTING_SECONDS, CameraParams
from tasks.network.vapix._rtsp_events import RTSP_PORT

MOST_CAMERAS = 32
SETUP_REQUESTS = 8
"""Answers that are waited for at most before listening begins."""
OTHERS_SECONDS = 15.0
TIMEOUT_SECONDS = 1200.0
_SHOWN = (500, 200, 100, 50, 20, 10, 5, 2, 1, 0)
APIS = {Transport.WEBSOCKET: "event-streaming-over-websocket", Transport.RTSP: "rtsp-metadata"}


def _distinct(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


class VapixEventStreaming(CameraParams):
    """Parameters of `vapix_event_streaming`."""

    topics: Annotated[
        list[Annotated[str, BeforeValidator(parse_topic)]],
        Field(max_length=32),
        AfterValidator(_distinct),
    ] = Field(
        default_factory=list,
        description="Topics, at most 32: such as tns1:Device/tnsaxis:IO/Port, with //. behind it for all below, or //. alone for "
        "everything. Ask for what is needed: every topic costs the camera work. The tool vapix_event_services lists what there is.",
    )
    kinds: Annotated[list[Kind], Field(max_length=len(Kind)), AfterValidator(_distinct)] = Field(
        default_factory=list,
        description="What events are about, instead of topics or besides them: port (inputs and outputs), motion, sound, light, ptz.",
    )
    items: Annotated[dict[str, str], Field(max_length=8), AfterValidator(parse_items)] = Field(
        default_factory=dict,
        description='Only events that have all these items, such as {"port": "0", "state": "1"}; at most 8.',
    )
    seconds: float = Field(30.0, ge=1, le=600, description="Seconds to listen, 1 to 600.")
    max_events: int = Field(100, ge=1, le=10_000, description="Events of each camera after which to stop, 1 to 10000.")
    transport: Transport = Field(
        Transport.AUTO,
        description="auto: over WebSocket where the camera can, else over RTSP; websocket or rtsp: only so.",
    )
    rtsp_port: int = Field(RTSP_PORT, ge=1, le=65535, description="TCP port of the cameras' RTSP, 1 to 65535.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.topics and not self.kinds:
            raise ValueError(
                "needs kinds or topics: what to listen for; right would be kinds = motion, or topics = //."
            )
        return self

    @model_validator(mode="after")
    def _few_cameras(self) -> Self:
        if len(self.targets) > MOST_CAMERAS:
            raise ValueError(
                f"listens to at most {MOST_CAMERAS} targets at once, not {len(self.targets)}: split them over several runs"
            )
        return self

    def scope(self) -> Scope:
        found = super().scope()
        ports = found.ports if self.transport is Transport.WEBSOCKET else (*found.ports, self.rtsp_port)
        return Scope(
            targets=found.targets,
            ports=ports,
            # Listening takes little, but for long: what is held here others have to do without.
            packets_per_second=min(500, max(100, 10 * len(self.targets))),
            least_packets_per_second=found.least_packets_per_second,
        )

    def deadline(self) -> float:
        return min(TIMEOUT_SECONDS, self.each_seconds + 2 * REPORTING_SECONDS)

    @property
    def each_seconds(self) -> float:
        """Seconds one camera takes at most."""
        return OTHERS_SECONDS + SETUP_REQUESTS * self.timeout + self.seconds + 5

    def about(self) -> str:
        return f"{super().about()[:300]}: {', '.join([*self.kinds, *self.topics])}"[:500]


class CameraEvents(CameraEntry):
    """What one camera told."""

    api: str | None = Field(
        None, description="How the events came: event-streaming-over-websocket or rtsp-metadata; None when none could."
    )
    events: list[CameraEvent] = Field(default_factory=list, description="The events, as they came.")
    received: int = Field(0, ge=0, description="How many there were, those only in the output file included.")
    ended: Ended | None = Field(
        None,
        description="Why listening ended: time, count (max_events), bytes (it sends too much) or broken (the connection; detail says "
        "more); None when it did not begin.",
    )
    seconds: float | None = Field(None, description="How long it listened, seconds.")
    breaks: list[str] = Field(default_factory=list, description="When the connection broke meanwhile, and why.")
    duplicates: int = Field(0, ge=0, description="Second deliveries of the same event, dropped.")
    others: int = Field(0, ge=0, description="Events that came although they were not asked for, dropped.")
    unread: int = Field(0, ge=0, description="Messages that could not be read.")
    lost: int = Field(0, ge=0, description="Packets that are missing by their numbers (RTSP).")


class VapixEventStreamingResult(CamerasResult):
    """The events of each camera, in the order asked."""

    cameras: Sequence[CameraEvents] = Field(description="One entry for each camera, in the order asked.")
    output: FileRef | None = Field(
        None, description="All events as JSON lines, each with its target, when they are more than fit here."
    )

    def headline(self) -> str:
        if len(self.cameras) == 1:
            return self.one_line(self.cameras[0])
        total = sum(camera.received for camera in self.cameras)
        return f"{super().headline()}; {count(total, 'event')}"

    def one_line(self, camera: Any) -> str:
        assert isinstance(camera, CameraEvents)
        if camera.ended is None:
            return super().one_line(camera)
        initial = sum(event.change is Change.INITIAL for event in camera.events)
        states = f" ({initial} of them how things stood at the start)" if initial else ""
        broken = f"; then {camera.detail}" if camera.ended is Ended.BROKEN else ""
        return f"{camera.target}: {count(camera.received, 'event')} in {camera.seconds:.0f} s{states}{broken}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=TIMEOUT_SECONDS,
    aliases=("axis_vapix_event_streaming",),
    examples=[
        Example(
            "Watch the inputs of a camera for a minute",
            {
                "targets": ["10.0.0.20"],
                "credentials": "axis/yard",
                "topics": ["tns1:Device/tnsaxis:IO/Port"],
                "seconds": 60,
            },
        ),
        Example(
            "Wait until the door opens",
            {
                "targets": ["10.0.0.20"],
                "credentials": "axis/yard",
                "topics": ["tns1:Device/tnsaxis:IO//."],
                "items": {"port": "0", "state": "1"},
                "seconds": 600,
                "max_events": 1,
            },
        ),
        Example(
            "Whether something moves, without knowing the topic",
            {"targets": ["10.0.0.20"], "credentials": "axis/yard", "kinds": ["motion"], "seconds": 120},
        ),
        Example(
            "What two cameras' storage says, over RTSP",
            {
                "targets": ["10.0.0.20", "10.0.0.21"],
                "credentials": "axis/yard",
                "topics": ["tnsaxis:Storage//."],
                "transport": "rtsp",
            },
        ),
    ],
)
async def vapix_event_streaming(params: VapixEventStreaming) -> VapixEventStreamingResult:
    """Listen to the events of cameras for a bounded time.

    Newer cameras send them over a WebSocket, older ones as RTSP metadata. Both tell how things stand first; only RTSP says which events
    those are. Others can talk with the camera meanwhile. When the connection breaks it is made anew while there is time, and the break is
    noted.

    Raises:
        Unsupported: The camera has no event stream, or not this one.
        Unauthorized: It does not take the account.
        Unreachable: It does not answer.
    """
    wish = Wish(
        [*params.topics, *topics_of(params.kinds)],
        params.items,
        params.seconds,
        params.max_events,
        params.transport,
        params.rtsp_port,
        params.timeout,
    )

    async def work(camera: Camera) -> Heard:
        return await listen(camera, wish)

    seen = await each_camera(params, work, seconds=params.each_seconds)
    return await _fitting(VapixEventStreamingResult(cameras=[_entry(one, one.value) for one in seen]))


def _entry(seen: Any, heard: Heard | None) -> CameraEvents:
    if heard is None:
        return entry(CameraEvents, seen)
    fields: dict[str, Any] = {
        "api": APIS.get(heard.transport) if heard.transport is not None else None,
        "events": heard.events,
        "received": len(heard.events),
        "ended": heard.ended,
        "seconds": heard.seconds,
        "breaks": heard.breaks[:20],
        "duplicates": heard.sieve.duplicates,
        "others": heard.sieve.others,
        "unread": heard.unread,
        "lost": heard.lost,
    }
    if heard.ended is Ended.BROKEN:
        fields["outcome"] = CameraOutcome.FAILED
        fields["detail"] = f"the connection broke {heard.breaks[-1]}" if heard.breaks else "the connection broke"
    return entry(CameraEvents, seen, **fields)


async def _fitting(result: VapixEventStreamingResult) -> VapixEventStreamingResult:
    """Return the result as it is, or with fewer events and all of them in a file, when it is more than the ledger keeps."""
    if json_size(result.model_dump(mode="json")) <= ROOM_BYTES:
        return result
    run = current_run()
    update: dict[str, Any] = {"left_out": ["events"]}
    try:
        store = await run.store()
        name = f"{run.spec.name}/events-{run.id}-{run.attempt}.jsonl"
        update["output"] = run.file_ref(await asyncio.to_thread(store.write, name, _lines(result)))
    except OSError as problem:
        run_logger().warning("The events that do not fit are lost: the store cannot take them (%s)", problem.strerror)
    for most in _SHOWN:
        cameras = [camera.model_copy(update={"events": camera.events[:most]}) for camera in result.cameras]
        shown = result.model_copy(update={**update, "cameras": cameras})
        if json_size(shown.model_dump(mode="json")) <= ROOM_BYTES:
            return shown
    return await fitting(shown, ("breaks",))


def _lines(result: VapixEventStreamingResult) -> bytes:
    lines = [
        json.dumps({"target": camera.target, **event.model_dump(mode="json")})
        for camera in result.cameras
        for event in camera.events
    ]
    return ("\n".join(lines) + "\n").encode()
