"""`signalbox site`: sites, each with a policy, a packet budget and a store of its own."""

from __future__ import annotations

import asyncio

from cyclopts import App
from pydantic import TypeAdapter, ValidationError

from deployments.cli._output import emit_json, emit_table, say
from tasks.core.errors import Conflict, InvalidParameters
from tasks.core.models import SiteName
from tasks.core.settings import settings

app = App(name="site", help="List and add sites.", help_format="plaintext")


@app.command
def add(name: str, /) -> int:
    """Add a site; its policy allows nothing until you say what.

    Args:
        name: Lower-case letters, digits and dashes, such as berlin-2.
    """
    from blocks.captures import CaptureStore
    from blocks.policy import ProbePolicy
    from tasks.core.rate import ensure_budget
    from tasks.core.run import load_or_none

    try:
        TypeAdapter(SiteName).validate_python(name)
    except ValidationError:
        raise InvalidParameters(
            f"{name!r} cannot name a site.", hint="Lower-case letters, digits and dashes, such as berlin-2."
        ) from None

    async def work() -> None:
        if await load_or_none(ProbePolicy, name) is not None:
            raise Conflict(f"There is a site {name} already.", hint=f"See: signalbox policy show --site {name}")
        policy = ProbePolicy(allow=[])
        await policy.save(name)
        await CaptureStore(folder=settings().evidence_folder / name).save(name)
        await ensure_budget(name, policy.packets_per_second)

    asyncio.run(work())
    say(f"Site {name} added. Allow its networks: signalbox policy allow --site {name} 192.168.1.0/24")
    return 0


@app.command(name="list")
def list_sites(*, json: bool = False) -> int:
    """List the sites and what each allows.

    Args:
        json: Print one JSON document.
    """
    from blocks.policy import ProbePolicy
    from deployments.cli.block import documents

    rows = [
        {
            "site": name,
            "allow": list(data.get("allow", [])),
            "exclude": len(data.get("exclude", [])),
            "packets per second": data.get("packets_per_second"),
        }
        for name, data in asyncio.run(documents(ProbePolicy))
    ]
    if json:
        emit_json(rows)
    else:
        emit_table(rows)
    return 0
