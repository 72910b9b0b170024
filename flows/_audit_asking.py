"""Asking a batch of cameras for what an audit wants to know: the camera tools one after the other, each for the whole batch.

A camera that does not answer the first is asked nothing more. A part a camera cannot show is noted with it; a tool that fails for the whole
batch costs the batch that part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from flows._audit import CameraFacts, Disk
from flows._cameras import told
from tasks.core.errors import Refused, ToolError
from tasks.core.log import run_logger
from tasks.core.registry import find_tool
from tasks.core.run import wiring
from tasks.core.tool import validate
from tasks.network.vapix._fleet import CameraEntry, CameraOutcome, CamerasResult, outcome_of
from tasks.network.vapix._storage import ageing
from tasks.network.vapix.vapix_device_info import DeviceEntry
from tasks.network.vapix.vapix_edge_storage import CameraStorage
from tasks.network.vapix.vapix_privacy_mask import CameraMasks
from tasks.network.vapix.vapix_video_streaming import VideoCamera

Part = Literal["clock", "settings", "storage", "recording", "masks", "stream", "picture"]

BATCH = 48
"""Cameras asked by one tool run: half of them wait while the others answer, and the result fits the ledger."""
PICTURE = "640x360"
"""Resolution of the pictures: enough to see that a camera sees. Cameras that do not offer it send their own."""
ANSWER_SECONDS = 10.0

R = TypeVar("R", bound=CamerasResult)


async def ask(
    cameras: Sequence[CameraFacts],
    credentials: str,
    site: str,
    port: int | None,
    parts: Sequence[Part],
    failed: dict[str, str],
) -> None:
    """Ask a batch of cameras and write what they said into their facts.

    Args:
        cameras: The batch; filled in place.
        credentials: Block with the account.
        site: The site.
        port: TCP port, where it is not the block's.
        parts: What to look at beside identity and firmware.
        failed: Where to note a part that could not be asked at all, and why.

    Raises:
        Refused: Policy forbids it: that holds for all of them.
    """
    common = {"credentials": credentials, "site": site, "port": port, "timeout": ANSWER_SECONDS}

    async def run(tool: str, chosen: Sequence[CameraFacts], *wanted: str, **params: Any) -> Sequence[Any]:
        if not chosen:
            return []
        try:
            return await _entries(tool, {**common, **params, "targets": [facts.target for facts in chosen]})
        except Refused:
            raise
        except ToolError as error:
            if len(chosen) == 1:  # what became of a single camera is raised: it is that camera's matter
                _untold(chosen[0], wanted, outcome_of(error), str(error))
            else:
                failed.update(dict.fromkeys(wanted, str(error)))
            return []

    by_target = {facts.target: facts for facts in cameras}
    views = ["basic", "certificate", *(["time"] if "clock" in parts else [])]
    views += ["settings"] if "settings" in parts else []
    for said in await run("vapix_device_info", cameras, "identity", views=views):
        _identity(by_target[said.target], said)
    there = [facts for facts in cameras if facts.reachable]
    if kept := [part for part in ("storage", "recording") if part in parts]:
        _fill(by_target, await run("vapix_edge_storage", there, *kept, health="storage" in kept), kept, _stored(kept))
    if "masks" in parts:
        _fill(by_target, await run("vapix_privacy_mask", there, "masks", action="list"), ("masks",), _masked)
    if "stream" in parts:
        _fill(by_target, await run("vapix_video_streaming", there, "stream", action="check"), ("stream",), _streamed)
    if "picture" in parts:
        await _pictures(run, by_target, there)


async def _entries(tool: str, params: dict[str, Any]) -> Sequence[CameraEntry]:
    spec = find_tool(tool)
    # The next audit asks again; a second try of a whole batch for one camera would hold up all others.
    result: CamerasResult = await spec.task.with_options(retries=0)(validate(spec, params))
    if result.report is not None:
        store = await wiring().store(result.report.site)
        try:
            document = await asyncio.to_thread(store.path(result.report.name).read_bytes)
        except OSError as problem:
            run_logger().warning("Part of what cameras said is lost: %s", problem.strerror)
        else:
            result = type(result).model_validate_json(document)
    return result.cameras


def _untold(facts: CameraFacts, parts: Sequence[str], outcome: CameraOutcome, why: str) -> None:
    if "identity" in parts:
        facts.problem = why
        return
    facts.untold |= dict.fromkeys(parts, why)
    if outcome is CameraOutcome.UNSUPPORTED:
        facts.excused |= set(parts)
    elif outcome is CameraOutcome.BUSY:
        facts.busy |= set(parts)


def _fill(
    by_target: dict[str, CameraFacts],
    entries: Iterable[Any],
    parts: Sequence[str],
    take: Callable[[CameraFacts, Any], None],
) -> None:
    for said in entries:
        facts = by_target[said.target]
        if said.outcome is CameraOutcome.DONE:
            take(facts, said)
        else:
            _untold(facts, parts, said.outcome, said.detail or str(said.outcome).replace("_", " "))


# --- what each part says -----------------------------------------------------------------------------------------------


def _identity(facts: CameraFacts, said: DeviceEntry) -> None:
    facts.address, facts.serial, facts.model, facts.firmware = said.address, said.serial, said.model, said.firmware
    facts.reachable = said.outcome is CameraOutcome.DONE
    if not facts.reachable:
        facts.problem = said.detail or str(said.outcome).replace("_", " ")
        return
    device = told(said)
    facts.kind = device.kind if device is not None else None
    if said.time is not None:
        facts.clock_offset_s = said.time.offset_seconds
    if said.certificate is not None:
        facts.certificate_days, facts.https = said.certificate.days_left, True
    if said.settings is not None:
        settings = said.settings
        facts.https = settings.https if facts.https is None else facts.https
        facts.ssh, facts.upnp, facts.anonymous = settings.ssh, settings.upnp, settings.anonymous
    facts.untold |= said.missing
    facts.notes = (said.detail,) if said.detail else ()


def _stored(parts: Sequence[str]) -> Callable[[CameraFacts, CameraStorage], None]:
    def take(facts: CameraFacts, said: CameraStorage) -> None:
        if "storage" in parts:
            # A slot without a card is no broken card.
            facts.disks = tuple(
                Disk(
                    disk.disk_id,
                    ok=disk.usable and not disk.full,
                    state="full" if disk.full else disk.status,
                    ageing=tuple(ageing(disk)),
                )
                for disk in said.disks
                if disk.total_bytes or disk.usable or disk.status not in ("disconnected", "")
            )
        if "recording" in parts:
            facts.recording, facts.set_to_record = said.recording_now, bool(said.continuous)
            if said.recording_now is None:
                facts.untold["recording"] = " ".join(said.remarks) or "It does not say."

    return take


def _masked(facts: CameraFacts, said: CameraMasks) -> None:
    facts.masks = sum(mask.enabled is not False for mask in said.masks)
    # The oldest cameras tell the names of their masks, and not whether they are on.
    facts.masks_sure = any(mask.enabled for mask in said.masks)


def _streamed(facts: CameraFacts, said: VideoCamera) -> None:
    facts.stream = said.answers
    if said.answers is False:
        facts.untold["stream"] = said.note or said.detail or "no reason given"


async def _pictures(run: Any, by_target: dict[str, CameraFacts], there: Sequence[CameraFacts]) -> None:
    """Take small pictures; cameras that do not offer the size are asked once more for their own."""
    left = list(there)
    for size in (PICTURE, None):
        entries = await run("vapix_video_streaming", left, "picture", action="snapshot", resolution=size)
        _fill(by_target, entries, ("picture",), _pictured)
        left = [facts for facts in left if facts.picture is None]
        if size is None or not left:
            break
        for facts in left:
            facts.untold.pop("picture", None)
            facts.excused -= {"picture"}
            facts.busy -= {"picture"}


def _pictured(facts: CameraFacts, said: VideoCamera) -> None:
    if said.picture is not None:
        facts.picture, facts.brightness = said.picture.file, said.picture.mean
        facts.contrast, facts.picture_whole = said.picture.deviation, said.picture.whole
