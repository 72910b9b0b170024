"""`signalbox site`: sites, each with a policy, a packet budget and a store of its own."""

from __future__ import annotations

import asyncio
from typing import Literal

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


@app.command
def subnets(*, site: str | None = None, json: bool = False) -> int:
    """List what was said about networks: of which kind they are, and when a host there counts as missing.

    Args:
        site: The site.
        json: Print one JSON document.
    """
    import dataclasses

    from tasks.asset import _operator

    rows = [dataclasses.asdict(entry) for entry in asyncio.run(_operator.subnets(site or settings().site))]
    if json:
        emit_json(rows)
    else:
        emit_table(rows)
        if not rows:
            say(
                "Nothing was said about any network: all are static. For example: signalbox site subnet 10.1.9.0/24 --kind guest"
            )
    return 0


@app.command
def subnet(
    prefix: str,
    /,
    *,
    kind: Literal["static", "dhcp", "guest"] = "static",
    missing_scans: int | None = None,
    missing_hours: float | None = None,
    description: str = "",
    forget: bool = False,
    site: str | None = None,
) -> int:
    """Say of which kind a network is, and when a host there counts as missing.

    Args:
        prefix: Such as 10.1.9.0/24.
        kind: static, dhcp (addresses move) or guest (hosts come and go).
        missing_scans: Scans in a row a host must be absent from; default: by kind.
        missing_hours: Hours it must be absent; default: by kind.
        description: What the network is for.
        forget: Take back what was said.
        site: The site.
    """
    from tasks.asset import _operator

    where = site or settings().site
    if forget:
        asyncio.run(_operator.forget_subnet(where, prefix))
        say(f"Nothing is said about {prefix} any more.")
        return 0
    asyncio.run(
        _operator.declare_subnet(
            where, prefix, kind=kind, missing_scans=missing_scans, missing_hours=missing_hours, description=description
        )
    )
    say(f"{prefix} is a {kind} network of site {where}.")
    return 0
