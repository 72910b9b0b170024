"""`signalbox cameras`: looking after a fleet of cameras from the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from deployments.cli._output import complain, emit_json, emit_table, progress, say
from tasks.core.settings import settings

app = App(name="cameras", help="Look after a fleet of Axis cameras.", help_format="plaintext")

Part = Literal["clock", "settings", "storage", "recording", "masks", "stream", "picture"]


@app.command
def audit(
    *targets: str,
    credentials: str = "axis/cameras",
    tag: str | None = None,
    site: str | None = None,
    policy: str | None = None,
    part: Annotated[list[Part] | None, Parameter(negative=())] = None,
    port: int | None = None,
    notify: Annotated[list[str] | None, Parameter(negative=())] = None,
    always: bool = False,
    sheet: Path | None = None,
    json: bool = False,
) -> int:
    """Audit cameras: are they there, safe and up to date, do they record and see. Nothing on them is changed.

    Args:
        targets: Cameras by address or name; none: those with the tag, or all cameras of the site's inventory.
        credentials: Block with the account on these cameras, such as axis/yard.
        tag: Only assets of type camera with this tag.
        site: The site; default: this machine's.
        policy: Block with what is expected of them, such as cameras/default.
        part: What to look at beside identity and firmware; may be repeated; default: all of it.
        port: TCP port of the cameras, where it is not the block's.
        notify: Block that gets the digest, such as slack/ops or mail/noc; may be repeated.
        always: Send the digest even when all is as it should be.
        sheet: Write what the cameras see, on one picture (JPEG), to this file; further sheets beside it.
        json: Print one JSON document.
    """
    parameters: dict[str, Any] = {
        "credentials": credentials,
        "targets": list(targets) or None,
        "tag": tag,
        "site": site or settings().site,
        "policy": policy,
        "parts": part,
        "port": port,
        "notify": notify or [],
        "notify_when": "always" if always else "findings",
    }
    return asyncio.run(_audit(parameters, sheet, as_json=json))


async def _audit(parameters: dict[str, Any], sheet: Path | None, *, as_json: bool) -> int:
    from prefect import tags

    from deployments.automations import TAG
    from flows.audit_cameras import CameraAudit, audit_cameras

    progress(f"Auditing {', '.join(parameters['targets'] or ['the cameras of the inventory'])} ...")
    # The tag is what automations go by; a deployment has it in prefect.yaml.
    with tags(TAG, "cameras"):
        state = await audit_cameras(**parameters, return_state=True)
    result = getattr(state.data, "result", state.data)
    if not isinstance(result, CameraAudit):
        if isinstance(result, BaseException):
            raise result
        return complain(state.message or state.name or "The audit failed.", status=1)
    if sheet is not None:
        await _save_sheets(result, sheet)
    if as_json:
        emit_json(result.model_dump(mode="json", exclude={"text"}))
    else:
        emit_table(result.cameras)
        say()
        say(result.text.rstrip())
        for block, why in result.not_notified.items():
            say(f"! {block} was not told: {why}")
        if result.notified:
            say(f"Told: {', '.join(result.notified)}")
    return 0 if result.outcome == "Completed" and not result.not_notified else 1


async def _save_sheets(result: Any, sheet: Path) -> None:
    from tasks.core.run import wiring

    if not result.sheets:
        say("No camera gave a picture: there is no contact sheet.")
        return
    store = await wiring().store(result.site)
    for number, ref in enumerate(result.sheets, start=1):
        file = sheet if number == 1 else sheet.with_stem(f"{sheet.stem}-{number}")
        await asyncio.to_thread(file.write_bytes, store.path(ref.name).read_bytes())
        progress(f"Contact sheet: {file}")
