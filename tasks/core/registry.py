"""The card index of tools: what each is, and how a name finds it."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.core.errors import UnknownTool
from tasks.core.models import Example, Safety, Service, ToolParams, ToolResult


@dataclass(frozen=True)
class ToolSpec:
    """The card of one tool, filed by `@tool`.

    Attributes:
        name: Canonical name: the module's, the function's, the Prefect task's.
        service: Where it belongs and may run.
        safety: What it may do to the world.
        timeout: Deadline of one attempt in seconds, waiting for the packet budget not included.
        retries: Further attempts after a failure that names itself retryable.
        aliases: Other names it answers to.
        examples: Worked calls.
        programs: Programs it starts, as the distribution calls the command.
        approval: Whether every call must repeat its subject in `confirm`; else its parameters say (`ToolParams.approval`).
        idempotent: Whether a second identical call changes nothing further (what lets a `change` tool retry).
        params_model: Class of its parameters.
        result_model: Class of its result.
        body: The undecorated function.
        module: Dotted name of its module.
    """

    name: str
    service: Service
    safety: Safety
    timeout: float
    retries: int
    aliases: tuple[str, ...]
    examples: tuple[Example, ...]
    programs: tuple[str, ...]
    approval: bool
    idempotent: bool
    params_model: type[ToolParams]
    result_model: type[ToolResult]
    body: Callable[[Any], Awaitable[ToolResult]] = field(repr=False)
    module: str

    @property
    def task(self) -> Any:
        """The Prefect task: what a flow awaits."""
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def summary(self) -> str:
        """The first line of the tool's documentation."""
        return (self.body.__doc__ or "").strip().splitlines()[0]

    @property
    def documentation(self) -> str:
        """The tool's whole documentation, dedented."""
        import inspect

        return inspect.getdoc(self.body) or ""

    @property
    def group(self) -> str:
        """The folder the tool lives in, such as `network/probe`: the heading it is listed under."""
        return "/".join(self.module.split(".")[1:-1])

    def safety_of(self, params: ToolParams) -> Safety:
        """What a call with these parameters may do: the tool's level, or a higher one that an option asks for."""
        return max(self.safety, params.safety() or self.safety)

    def parameter_schema(self) -> dict[str, Any]:
        """JSON schema of the parameters; properties carry `position`, the order a form shows them in."""
        schema = self.params_model.model_json_schema()
        for definition in (schema, *schema.get("$defs", {}).values()):
            for position, properties in enumerate(definition.get("properties", {}).values()):
                properties["position"] = position
        return schema


TOOLS: dict[str, ToolSpec] = {}
"""Every tool by canonical name; complete after `load_tools()`."""
_NAMES: dict[str, str] = {}  # folded spelling -> canonical name


def fold(name: str) -> str:
    """Fold a spelling of a tool's name: case, hyphen, underscore and space do not matter.

    >>> fold("TCP-Port check")
    'tcpportcheck'
    """
    return re.sub(r"[\s_-]+", "", name).lower()


def file_card(spec: ToolSpec) -> None:
    """Add a tool to the index.

    Raises:
        ValueError: Its name or an alias already means another tool.
    """
    known = TOOLS.get(spec.name)
    if known is not None and known.module != spec.module:
        raise ValueError(f"tool {spec.name} is declared in {known.module} and in {spec.module}")
    for spelling in (spec.name, *spec.aliases):
        owner = _NAMES.setdefault(fold(spelling), spec.name)
        if owner != spec.name:
            raise ValueError(f"{spelling!r} of tool {spec.name} already means tool {owner}")
    TOOLS[spec.name] = spec


@lru_cache(maxsize=1)
def _modules() -> dict[str, str]:
    """Every tool module below `tasks/` (not `core`, nothing that starts with `_`) by its folded last name, which is the tool's."""
    import tasks

    found = {}
    for folder in (Path(entry) for entry in tasks.__path__):
        for module in pkgutil.walk_packages([str(folder)], prefix="tasks."):
            parts = module.name.split(".")
            if parts[1] not in {"core", "alert"} and not module.ispkg and not any(p.startswith("_") for p in parts):
                found[fold(parts[-1])] = module.name
    return found


@lru_cache(maxsize=1)
def load_tools() -> dict[str, ToolSpec]:
    """Import every tool module and return the index, sorted."""
    for module in _modules().values():
        importlib.import_module(module)
    ordered = dict(sorted(TOOLS.items(), key=lambda item: (item[1].group, item[0])))
    TOOLS.clear()
    TOOLS.update(ordered)
    return TOOLS


def find_tool(name: str) -> ToolSpec:
    """Return the tool that `name` means, in any spelling or by alias.

    Of a tool called by its own name only its own module is imported: all of them take two seconds, which each run would pay.

    Raises:
        UnknownTool: No tool is called so; the hint names the nearest.
    """
    spelling = fold(name)
    if spelling not in _NAMES:
        module = _modules().get(spelling)
        if module is not None:
            importlib.import_module(module)
        if spelling not in _NAMES:
            load_tools()
    canonical = _NAMES.get(spelling)
    if canonical is not None:
        return TOOLS[canonical]
    near = difflib.get_close_matches(spelling, _NAMES, n=3, cutoff=0.5)
    nearest = ", ".join(dict.fromkeys(_NAMES[spelling] for spelling in near))
    hint = f"Did you mean: {nearest}?" if nearest else "All tools: signalbox tool list"
    raise UnknownTool(f"There is no tool {name!r}.", hint=hint)
