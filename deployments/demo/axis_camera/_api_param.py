"""`param.cgi`: the parameter tree as text."""

from __future__ import annotations

from urllib.parse import parse_qsl

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._messages import LEVELS, NeedsLevel, Request, Response
from deployments.demo.axis_camera._parameters import Update
from deployments.demo.axis_camera._server import api

ARGUMENTS = {
    "list": {"action", "group", "usergroup", "responseformat", "timestamp"},
    "listdefinitions": {"action", "group", "usergroup", "responseformat", "listformat", "timestamp"},
    "remove": {"action", "group", "usergroup", "responseformat"},
}
"""Arguments of an action; others, and repeated ones, are errors."""
RESERVED = {"action", "group", "template", "usergroup", "responseformat", "force", "listformat", "timestamp"}


def _anonymous(device: Device, query: str) -> bool:
    """Somebody who asks to be nobody need not log in: they see what is open to all."""
    asked = dict(parse_qsl(query))
    return asked.get("action") == "list" and asked.get("usergroup") == "anonymous"


@api("/axis-cgi/param.cgi", level="viewer", open=_anonymous)
async def param(device: Device, request: Request) -> Response:
    """List, describe, change, add and remove parameters."""
    asked = request.query
    rank = request.account.rank
    if "usergroup" in asked:  # lowers what one may, never raises it
        rank = min(rank, LEVELS.get(asked["usergroup"], rank))
    action = asked.get("action", "list")
    names = [name for name, _ in request.pairs]
    strange = [name for name in names if name not in ARGUMENTS.get(action, names)]
    if strange or len(set(names)) < len(names):
        wrong = strange[0] if strange else next(name for name in names if names.count(name) > 1)
        return _text(device, f"# Error: Invalid argument '{wrong}'\n")
    match action:
        case "list":
            return _list(device, asked.get("group"), rank)
        case "listdefinitions":
            return _definitions(device, asked, rank)
        case "update":
            return _update(device, request, rank)
        case "add":
            return _add(device, request, rank)
        case "remove":
            return _remove(device, asked, rank)
    return _text(device, f"# Error: Unknown action '{action}'\n")


def _text(device: Device, text: str) -> Response:
    return Response.text(text, charset=device.profile.charset)


def _list(device: Device, group: str | None, rank: int) -> Response:
    """The answer mirrors the request: names begin with `root.` where the group did, or where there was none."""
    if not group:
        return _text(device, "".join(f"root.{name}={value}\n" for name, value in device.params.readable("", rank)))
    lines = []
    for one in group.split(","):
        prefix = "root." if one == "root" or one.startswith("root.") else ""
        found = device.params.readable(one.removeprefix("root."), rank)
        lines += [f"{prefix}{name}={value}\n" for name, value in found]
        if not found:
            lines.append(f"# Error: Error -1 getting param in group '{one}'\n")
    return _text(device, "".join(lines))


def _definitions(device: Device, asked: dict[str, str], rank: int) -> Response:
    if asked.get("listformat") != "xmlschema":
        return _text(device, "# Error: listformat must be xmlschema\n")
    groups = [one.removeprefix("root.") for one in asked.get("group", "").split(",")]
    text = device.params.definitions_xml(groups, rank, model=f"AXIS {device.model}", firmware=device.firmware)
    return Response.xml(text, charset="iso-8859-1")


def _update(device: Device, request: Request, rank: int) -> Response:
    """Each parameter stands or falls alone: those that cannot be set are named, the others are set all the same."""
    wanted = [(name, value) for name, value in request.pairs if name not in RESERVED]
    if not wanted:
        return _text(device, "# Error: No parameter to update\n")
    became = [(name, value, device.params.update(name, value, rank)) for name, value in wanted]
    if all(what is Update.FORBIDDEN for _, _, what in became) and not any(
        device.params.definitions[name.removeprefix("root.")].write_level > LEVELS["admin"] for name, _, _ in became
    ):
        raise NeedsLevel("operator")
    failed = [
        f"# Error: Error setting 'root.{name.removeprefix('root.')}' to '{value}'!"
        for name, value, what in became
        if what not in {Update.DONE, Update.IGNORED}
    ]
    return _text(device, "\n".join(failed) + "\n" if failed else "OK")


def _add(device: Device, request: Request, rank: int) -> Response:
    asked, params = request.query, device.params
    template, group = asked.get("template", ""), asked.get("group", "").removeprefix("root.")
    form = params.templates.get(template)
    if form is None or form.group != group:
        return _text(device, f"# Request failed: Could not add group '{group}' from template '{template}'\n")
    inside = f"{form.group}.{form.letter}."
    values = {
        name.removeprefix("root.").removeprefix(inside): value
        for name, value in request.pairs
        if name.removeprefix("root.").startswith(inside)
    }
    strange = [
        name for name, _ in request.pairs if name not in RESERVED and not name.removeprefix("root.").startswith(inside)
    ]
    try:
        entry, became = params.add_entry(template, values, rank)
    except PermissionError:
        raise NeedsLevel("operator" if form.level <= LEVELS["operator"] else "admin") from None
    except ValueError as error:
        return _text(device, f"# Request failed: {error}\n")
    wrong = [f"{inside}{name}" for name, what in became.items() if what is not Update.DONE] + strange
    lines = [f"# Error: Error setting 'root.{name}' to '{asked.get(name, '')}'!\n" for name in wrong]
    return _text(device, "".join(lines) + f"{entry} OK\n")


def _remove(device: Device, asked: dict[str, str], rank: int) -> Response:
    groups = [one for one in asked.get("group", "").split(",") if one]
    if not groups:
        return _text(device, "# Request failed: No group to remove\n")
    failed = []
    for group in groups:
        try:
            device.params.remove_entry(group, rank)
        except PermissionError:
            raise NeedsLevel("operator") from None
        except ValueError as error:
            failed.append(f"# Request failed: {error}\n")
    return _text(device, "".join(failed) or "OK")
