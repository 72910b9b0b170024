"""Audit a fleet of cameras: are they there, are they safe, do they record and see, and what does the inventory not know yet.

targets, a tag, or all cameras of the site -> batches -> what each camera says (one request at a time each) -> findings against the policy
-> the inventory (the serial makes camera and network host one asset) -> tables and a contact sheet on the run page -> one digest. A camera
that is dead or hangs costs its own row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote
from pydantic import BaseModel, ConfigDict, Field

from blocks.axis import AxisCredentials
from blocks.cameras import CameraPolicy
from flows import _audit, _contact_sheet, _notify
from flows._audit import CameraFacts, Report
from flows._audit_asking import BATCH, Part, ask
from flows._cameras import AxisDevice, observe_axis
from flows._digest import event_rows
from flows._flow_run import quietly, run_identity, skipped_late
from flows._report import MOST_ROWS, file_lines
from flows._text import count
from tasks.asset._changes import Changes
from tasks.asset._reconcile import reconcile
from tasks.asset.asset_list import AssetList, asset_list
from tasks.core.errors import InvalidParameters, NotFound, ToolError
from tasks.core.log import run_logger
from tasks.core.models import FileRef, parse_target
from tasks.core.progress import Progress
from tasks.core.run import wiring

BATCHES_AT_ONCE = 3
"""Batches asked at the same time. Each tool talks with 32 cameras at once, and each camera with one at a time."""
MOST_CAMERAS = 1000
PAGE = 500
LONGEST_SECONDS = 2 * 3600.0
_STATUSES = ("active", "stale", "missing")
"""Assets that are audited, the one that is most likely there first."""
MOST_SHEETS = 4
"""Contact sheets on the run's page; all of them are in the store."""

PARTS: tuple[Part, ...] = ("clock", "settings", "storage", "recording", "masks", "stream", "picture")


class CameraAudit(BaseModel):
    """What came of it: what CLI, API and tests read; the tables are artifacts."""

    model_config = ConfigDict(frozen=True)

    site: str
    outcome: str = Field(description="Completed, Partial or Failed.")
    title: str = Field(description="One line.")
    cameras: list[dict[str, str]] = Field(description="A row for each camera.")
    findings: list[dict[str, str]] = Field(description="What is not as it should be, the gravest first.")
    changes: list[dict[str, str]] = Field(default_factory=list, description="What the inventory learned.")
    sheets: list[FileRef] = Field(default_factory=list, description="Contact sheets in the store.")
    failed: dict[str, str] = Field(default_factory=dict, description="What could not be asked, and why.")
    notified: list[str] = Field(default_factory=list, description="Blocks that were told.")
    not_notified: dict[str, str] = Field(default_factory=dict, description="Blocks that could not be told, and why.")
    duration: float = Field(0.0, description="Seconds.")
    run_id: str = ""
    text: str = Field("", description="The digest as plain text.")


class _Camera(BaseModel):
    """A camera to be audited, as the inventory knows it or as it was named."""

    target: str
    asset_id: int | None = None
    names: tuple[str, ...] = ()
    serial: str | None = None


def _flow_run_name() -> str:
    from prefect.runtime import flow_run

    asked = flow_run.parameters
    named = asked.get("targets")
    what = ", ".join(map(str, named[:3])) + (" ..." if len(named) > 3 else "") if named else asked.get("tag")
    return f"{asked.get('site', 'default')}: {what or 'all cameras'}"


@flow(name="audit-cameras", flow_run_name=_flow_run_name, persist_result=False, timeout_seconds=LONGEST_SECONDS)
async def audit_cameras(
    credentials: str,
    targets: list[str] | None = None,
    tag: str | None = None,
    site: str = "default",
    policy: str | None = None,
    parts: list[Part] | None = None,
    port: Annotated[int, Field(ge=1, le=65535)] | None = None,
    notify: list[str] | None = None,
    notify_when: Literal["findings", "always"] = "findings",
) -> Any:
    """Audit cameras against a policy, bring the inventory up to date, and tell people what is wrong.

    Args:
        credentials: Block with the account on these cameras, such as axis/yard. It reads only.
        targets: Cameras by address or name; none: those with the tag, or all cameras of the site's inventory.
        tag: Only assets of type camera with this tag.
        site: The site.
        policy: Block with what is expected, such as cameras/default; none: clock, certificates, HTTPS, SSH, UPnP, anonymous viewing and
            black pictures by their defaults; firmware is listed.
        parts: What to look at beside identity and firmware; none: all of clock, settings, storage, recording, masks, stream, picture.
        port: TCP port of the cameras, where it is not the block's.
        notify: Blocks that get the digest, such as slack/ops or mail/noc.
        notify_when: Send the digest when there are findings or changes (findings), or after every run (always).

    Raises:
        InvalidParameters: A parameter is wrong; says which and what is right. Nothing was sent.
        NotFound: The inventory has no such camera.
        Refused: Policy forbids it; says the rule.
    """
    if (skipped := skipped_late()) is not None:
        return skipped
    started = time.monotonic()
    channels = list(notify or [])
    await _notify.check_blocks(channels)
    await wiring().block(credentials, AxisCredentials)
    expected = await wiring().block(policy, CameraPolicy) if policy else CameraPolicy()
    chosen = list(dict.fromkeys(parts if parts is not None else PARTS))
    fleet = await _fleet(targets, tag, site)
    run_id, url = run_identity()
    run_logger().info("%s to audit", count(len(fleet), "camera"))

    asked, failed = await _ask_all(fleet, credentials, site, port, chosen)
    changes = await _into_inventory(site, asked, run_id, failed)
    report = Report(
        site=site,
        cameras=asked,
        findings=_audit.findings_of(asked, expected),
        changes=event_rows(changes.loud) if changes is not None else (),
        failed=failed,
        duration=time.monotonic() - started,
        url=url,
    )
    sheets = await _publish(report, run_id)
    deliveries = await _tell(report, channels, notify_when, run_id)
    result = CameraAudit(
        site=site,
        outcome=report.outcome,
        title=_audit.title(report),
        cameras=_audit.camera_rows(report),
        findings=_audit.finding_rows(report),
        changes=[dict(row) for row in report.changes],
        sheets=sheets,
        failed=dict(failed),
        notified=[delivery.block for delivery in deliveries if delivery.sent],
        not_notified={delivery.block: delivery.error for delivery in deliveries if not delivery.sent},
        duration=report.duration,
        run_id=run_id,
        text=_audit.text(report),
    )
    if report.outcome == "Failed":
        return Failed(data=result, message=result.title)
    return Completed(
        name="Partial" if report.outcome == "Partial" else None,
        data=result,
        message=f"{_warning(report)}{result.title}",
    )


def _warning(report: Report) -> str:
    missed = len(report.cameras) - report.reached
    said = [f"{count(missed, 'camera')} could not be audited."] if missed else []
    said += [f"{part}: {why}." for part, why in report.failed.items()]
    return " ".join([*said, ""])


async def _fleet(targets: Sequence[str] | None, tag: str | None, site: str) -> list[_Camera]:
    if targets is not None and tag is not None:
        raise InvalidParameters("Give targets or a tag, not both.")
    if targets is not None:
        if not targets:
            raise InvalidParameters("targets is empty.", hint="Leave it out to audit all cameras of the site.")
        names = list(dict.fromkeys(_host(text) for text in targets))
        fleet = [_Camera(target=name) for name in names]
    else:
        fleet = await _from_inventory(tag, site)
    if len(fleet) > MOST_CAMERAS:
        raise InvalidParameters(
            f"{len(fleet)} cameras are more than one audit takes ({MOST_CAMERAS}).", hint="Audit them by tags."
        )
    return fleet


def _host(text: str) -> str:
    try:
        target = parse_target(text)
    except ValueError as error:
        raise InvalidParameters(f"targets: {error}.") from None
    if "/" in target:
        raise InvalidParameters(
            f"targets: {target!r} is a prefix; an audit takes cameras: names or addresses.",
            hint="Discover it first, then audit all cameras of the site.",
        )
    return target


async def _from_inventory(tag: str | None, site: str) -> list[_Camera]:
    """Cameras of the inventory that have an address; archived ones and those that were never seen on the network are left out."""
    found: dict[str, tuple[int, _Camera]] = {}
    page = 1
    while True:
        listed = await asset_list(
            AssetList(site=site, type="camera", tags=[tag] if tag else None, sort="address", page=page, page_size=PAGE)
        )
        for asset in listed.assets:
            if not asset.address or asset.status not in _STATUSES:
                continue
            camera = _Camera(
                target=asset.address,
                asset_id=asset.id,
                names=(asset.hostname,) if asset.hostname else (),
                serial=asset.serial,
            )
            # A camera that was replaced, and the one in its place, have one address: it is asked once, for the one that is there.
            rank = _STATUSES.index(asset.status)
            if asset.address not in found or rank < found[asset.address][0]:
                found[asset.address] = rank, camera
        if page >= listed.pages or len(found) > MOST_CAMERAS:
            break
        page += 1
    if not found:
        with_tag = f" with the tag {tag!r}" if tag else ""
        raise NotFound(
            f"The inventory of site {site} has no camera{with_tag} that has an address.",
            hint="Name them in targets, or discover their network: signalbox discover CIDR.",
        )
    return [camera for _, camera in found.values()]


async def _ask_all(
    fleet: Sequence[_Camera], credentials: str, site: str, port: int | None, parts: Sequence[Part]
) -> tuple[list[CameraFacts], dict[str, str]]:
    """Ask all cameras, some batches at a time; a part that fails for a batch costs that batch that part."""
    places = asyncio.Semaphore(BATCHES_AT_ONCE)
    failed: dict[str, str] = {}
    progress = Progress("progress", every=0)
    asked = 0

    async def one(batch: Sequence[_Camera]) -> list[CameraFacts]:
        facts = [
            CameraFacts(camera.target, asset_id=camera.asset_id, names=camera.names, expected_serial=camera.serial)
            for camera in batch
        ]
        async with places:
            await ask(facts, credentials, site, port, parts, failed)
        nonlocal asked
        asked += len(batch)
        await progress.tell(100.0 * asked / len(fleet), f"{asked} of {count(len(fleet), 'camera')} asked")
        return facts

    await progress.tell(0.0, f"0 of {count(len(fleet), 'camera')} asked")
    batches = [fleet[start : start + BATCH] for start in range(0, len(fleet), BATCH)]
    try:
        async with asyncio.TaskGroup() as group:  # what is refused for one batch ends the others too
            asking = [group.create_task(one(batch)) for batch in batches]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    return [facts for batch in asking for facts in batch.result()], failed


# --- the inventory -----------------------------------------------------------------------------------------------------


@task(name="reconcile", cache_policy=NO_CACHE, persist_result=False)
async def _reconcile(site: str, hosts: Sequence[Any], run_id: str) -> Changes:
    """Bring the inventory up to date with what cameras said of themselves; nothing goes missing by an audit."""
    return await reconcile(site, hosts, run_id=run_id)


async def _into_inventory(
    site: str, cameras: Sequence[CameraFacts], run_id: str, failed: dict[str, str]
) -> Changes | None:
    devices = [
        (facts.address, AxisDevice(facts.serial, facts.model, facts.firmware, facts.kind))
        for facts in cameras
        if facts.reachable and facts.address and facts.serial
    ]
    hosts = observe_axis(devices, site, datetime.now(UTC))
    if not hosts:
        return None
    quoted: Any = quote(hosts)
    try:
        return await _reconcile(site, quoted, run_id)
    except ToolError as error:
        # What was found is worth telling, also when it could not be written.
        failed["inventory"] = str(error)
        return None


# --- what people see ---------------------------------------------------------------------------------------------------


async def _publish(report: Report, run_id: str) -> list[FileRef]:
    """Put tables and contact sheets on the run's page; the sheets are kept in the store as well."""
    drawn = await _sheets(report)
    refs: list[FileRef] = []
    if drawn:
        try:
            store = await wiring().store(report.site)
            for number, sheet in enumerate(drawn, start=1):
                stored = await asyncio.to_thread(store.write, f"audit_cameras/{run_id}-{number}.jpg", sheet)
                refs.append(
                    FileRef(site=report.site, name=stored.name, size_bytes=stored.size_bytes, sha256=stored.sha256)
                )
        except (ToolError, OSError) as error:
            run_logger().warning("The contact sheets were not kept: %s", error)
    first = _contact_sheet.data_url(drawn[0]) if drawn else None
    text = _audit.markdown(report, first)
    if refs:
        text += "\n\n" + "\n".join(file_lines(refs))
    await quietly(acreate_markdown_artifact(key="cameras", markdown=text, description=_audit.title(report)[:200]))
    for number, sheet in enumerate(drawn[1:MOST_SHEETS], start=2):
        await quietly(
            acreate_markdown_artifact(
                key=f"contact-sheet-{number}",
                markdown=f"![Contact sheet {number}]({_contact_sheet.data_url(sheet)})",
                description=f"Contact sheet {number} of {len(drawn)}",
            )
        )
    for key, rows in (("camera-findings", _audit.finding_rows(report)), ("camera-list", _audit.camera_rows(report))):
        if rows:
            await quietly(
                acreate_table_artifact(
                    key=key, table=[dict(row) for row in rows[:MOST_ROWS]], description=f"{key}: {len(rows)}"
                )
            )
    return refs


async def _sheets(report: Report) -> list[bytes]:
    if not any(facts.picture for facts in report.cameras):
        return []
    gravest: dict[str, _audit.CameraFinding] = {}
    for finding in report.findings:
        gravest.setdefault(finding.camera, finding)

    def draw(store_path: Any) -> list[bytes]:
        frames = []
        for facts in report.cameras:
            picture = None
            if facts.picture is not None:
                try:
                    picture = store_path(facts.picture.name).read_bytes()
                except OSError:
                    picture = None
            finding = gravest.get(facts.target)
            said = finding.code.removeprefix("camera.").replace("-", " ") if finding else facts.model or ""
            frames.append(_contact_sheet.Frame(facts.label, said, finding is not None, picture))
        return list(_contact_sheet.sheets(frames))

    try:
        store = await wiring().store(report.site)
        return await asyncio.to_thread(draw, store.path)
    except (ToolError, OSError) as error:
        run_logger().warning("There is no contact sheet: %s", error)
        return []


async def _tell(report: Report, channels: Sequence[str], notify_when: str, run_id: str) -> list[_notify.Delivery]:
    message = None
    if notify_when == "always" or report.findings or report.changes or report.failed:
        message = _notify.Message(
            title=f"{report.site}: {_audit.title(report)}" if report.site != "default" else _audit.title(report),
            text=_audit.text(report),
            html=_audit.html(report),
            facts={
                "Site": report.site,
                "Cameras": f"{report.reached} of {len(report.cameras)}",
                "Findings": str(len(report.findings)),
            },
            url=report.url,
            data={
                "event": "camera-audit",
                "site": report.site,
                "outcome": report.outcome,
                "findings": _audit.finding_rows(report)[:200],
            },
            key=f"cameras-{run_id}",
        )
    return await _notify.tell(message, channels, site=report.site, run_id=run_id)
