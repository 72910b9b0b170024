"""One logger for tools: Prefect's inside a run, the standard one elsewhere."""

from __future__ import annotations

import logging
from typing import Any


def run_logger(name: str = "signalbox") -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the logger of the Prefect run in progress, or the plain logger `name` outside one."""
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(name)
