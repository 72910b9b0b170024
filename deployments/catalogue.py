"""What there is, found by looking: block classes for bootstrap and the blocks' standards test, tables for README and docs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.blocks.core import Block


@lru_cache(maxsize=1)
def block_classes() -> Sequence[type[Block]]:
    """Every block class defined below `blocks/`, by type name."""
    from prefect.blocks.core import Block

    import blocks

    found: list[type[Any]] = []
    for module in pkgutil.iter_modules(blocks.__path__, prefix="blocks."):
        if module.name.startswith("blocks._"):
            continue
        members = vars(importlib.import_module(module.name)).values()
        found += [m for m in members if inspect.isclass(m) and issubclass(m, Block) and m.__module__ == module.name]
    return sorted(found, key=lambda kind: kind._block_type_name or kind.__name__)
